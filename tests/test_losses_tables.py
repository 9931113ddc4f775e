"""Losses of tabular policies: means over rows, gradients, and which minimisers are right."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim.data import PairCounts, PreferenceData, count_pairs
from rlhfsim.divergences import KL, AlphaDivergence, ChiSquared, JensenShannon
from rlhfsim.losses import (
    DIRECT_LOSSES,
    DirectLoss,
    DivergenceLink,
    EntropyLink,
    Logistic,
    cdpo,
    chipo,
    dpo,
    dpo_without_log,
    empirical_gradient,
    empirical_loss,
    fdpo,
    ipo,
    kto,
    log_policy_gradient,
    log_policy_loss,
    power,
    rebel,
    robust_dpo,
    rpo,
    simpo,
    table_rows,
    updated_labels,
)
from rlhfsim.solvers import solve

X, Y = 3, 5
every_loss = pytest.mark.parametrize(
    "loss", DIRECT_LOSSES, ids=[f"{i}-{loss.name}" for i, loss in enumerate(DIRECT_LOSSES)]
)


def instance(seed, rows=40):
    """Return a policy, a reference, data with equal pairs, weights and rewards."""
    rng = np.random.default_rng(seed)
    policy, reference = rng.dirichlet(np.ones(Y), size=(2, X))
    columns = rng.integers(X, size=rows), *rng.integers(Y, size=(2, rows))
    data = PreferenceData(*columns, shape=(X, Y))
    return policy, reference, data, rng.uniform(0.1, 1, (X, Y)), rng.normal(size=(X, Y))


def tables(loss, weights, reward):
    return ({"weights": weights} if getattr(loss, "weighted", False) else {}) | (
        {"reward": reward} if getattr(loss, "needs_rewards", False) else {}
    )


def law(reward, reference, flip=0.0):
    """Return the population of pairs `y1, y2 ~ reference` under Bradley-Terry, as counts."""
    shape = reference.shape
    x, i, j = (index.ravel() for index in np.indices((*shape, shape[1])))
    wins = 1 / (1 + np.exp(reward[x, j] - reward[x, i]))
    wins = (1 - flip) * wins + flip * (1 - wins)
    mass = 2 * reference[x, i] * reference[x, j] * wins / shape[0]
    differ = i != j
    equal = float((reference**2).sum() / shape[0])
    return PairCounts(x[differ], i[differ], j[differ], mass[differ], equal, shape)


def by_hand(loss, policy, reference, data, weights, reward):
    """Return the mean over rows, one at a time."""
    total = 0.0
    for x, chosen, rejected in zip(data.prompt, data.chosen, data.rejected, strict=True):
        if chosen == rejected:
            total += float(loss.outer.value(np.zeros(1))[0])
            continue
        logs = (np.log([table[x, y]]) for table in (policy, reference) for y in (chosen, rejected))
        columns = {}
        if loss.weighted:
            columns["chosen_weights"] = [weights[x, chosen]]
            columns["rejected_weights"] = [weights[x, rejected]]
        if loss.needs_rewards:
            columns["chosen_rewards"] = [reward[x, chosen]]
            columns["rejected_rewards"] = [reward[x, rejected]]
        total += float(loss(*logs, **columns)[0])
    return total / len(data)


@every_loss
@given(seed=st.integers(0, 2**32 - 1))
def test_the_empirical_loss_is_the_mean_over_rows(loss, seed):
    policy, reference, data, weights, reward = instance(seed, rows=15)
    more = tables(loss, weights, reward)
    value = empirical_loss(loss, policy, reference, data, **more)
    exact = by_hand(loss, policy, reference, data, weights, reward)
    assert value == pytest.approx(exact, rel=1e-12)
    assert value == empirical_loss(loss, policy, reference, count_pairs(data), **more)


@every_loss
@given(seed=st.integers(0, 2**32 - 1))
def test_the_gradient_table_is_that_of_central_differences(loss, seed):
    policy, reference, data, weights, reward = instance(seed, rows=12)
    more = tables(loss, weights, reward)
    gradient = empirical_gradient(loss, policy, reference, data, **more)
    rows = table_rows(loss, np.log(policy), np.log(reference), count_pairs(data), **more)
    h = loss.difference(rows)
    edge = loss.clip if loss.clip is not None else getattr(loss.outer, "margin", np.inf)
    near_kink = np.abs(np.abs(h) - edge).min(initial=1.0) < 1e-3
    if near_kink and (loss.clip is not None or loss.name in ("hinge", "SLiC")):
        return
    direction = np.random.default_rng(seed).normal(size=(X, Y))
    logs, step = np.log(policy), 1e-6
    ends = [
        log_policy_loss(loss, logs + sign * step * direction, np.log(reference), data, **more)
        for sign in (1, -1)
    ]
    slope = float((gradient * direction).sum())
    scale = np.abs(gradient * direction).sum() + np.abs(ends).max() + 1
    assert abs((ends[0] - ends[1]) / (2 * step) - slope) <= 1e-6 * scale


def softmax_loss(loss, theta, reference, counts):
    """Return DPO, chiPO or RPO of a softmax policy, written with torch only."""
    logs = torch.log_softmax(theta, dim=1)
    x, won, lost = (
        torch.as_tensor(np.array(c)) for c in (counts.prompt, counts.winner, counts.loser)
    )
    ratio = logs - torch.log(torch.as_tensor(reference))
    up, down = ratio[x, won], ratio[x, lost]
    phi = (lambda u: torch.exp(u) + u) if loss.name == "chiPO" else (lambda u: u)
    row = -torch.nn.functional.logsigmoid(loss.beta * (phi(up) - phi(down)))
    if loss.name == "RPO":
        row = row - 0.05 * logs[x, won]
    count = torch.as_tensor(np.array(counts.count))
    total = count.sum() + counts.equal_pairs
    return ((count * row).sum() + counts.equal_pairs * np.log(2)) / total


@pytest.mark.parametrize("loss", [dpo(0.3), chipo(0.3), rpo(0.3, 0.05)], ids=lambda loss: loss.name)
def test_the_gradient_of_a_softmax_policy_is_that_of_autograd(loss):
    _, reference, data, _, _ = instance(8, rows=200)
    counts = count_pairs(data)
    assert counts.equal_pairs > 0
    theta = torch.tensor(np.random.default_rng(8).normal(size=(X, Y)), requires_grad=True)
    value = softmax_loss(loss, theta, reference, counts)
    value.backward()
    policy = torch.softmax(theta, dim=1).detach().numpy()
    assert empirical_loss(loss, policy, reference, counts) == pytest.approx(value.item(), rel=1e-14)
    table = empirical_gradient(loss, policy, reference, counts)
    ours = table - policy * table.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theta.grad.numpy(), rtol=1e-12, atol=1e-16)


def test_kto_of_a_table():
    """The exact KL of each prompt is the baseline, and is held fixed in the gradient."""
    policy, reference, data, _, _ = instance(12)
    loss = kto(0.7, 1.2, 0.8)
    counts = count_pairs(data)
    z = (policy * np.log(policy / reference)).sum(axis=1)
    total, table = 0.0, np.zeros((X, Y))
    for x, won, lost in zip(data.prompt, data.chosen, data.rejected, strict=True):
        if won == lost:
            continue
        up, down = (np.log(policy[x, y] / reference[x, y]) - z[x] for y in (won, lost))
        wanted, unwanted = 1 / (1 + np.exp(0.7 * up)), 1 / (1 + np.exp(-0.7 * down))
        total += 1.2 * wanted + 0.8 * unwanted
        table[x, won] -= 0.7 * 1.2 * wanted * (1 - wanted)
        table[x, lost] += 0.7 * 0.8 * unwanted * (1 - unwanted)
    assert empirical_loss(loss, policy, reference, counts) == pytest.approx(total / 40, rel=1e-13)
    gradient = empirical_gradient(loss, policy, reference, counts)
    np.testing.assert_allclose(gradient, table / 40, rtol=1e-12, atol=1e-16)


def test_labels_of_a_table():
    """Smoothing every label is cDPO; stationary labels leave no gradient."""
    policy, reference, data, _, _ = instance(13)
    counts = count_pairs(data)
    informative = PairCounts(
        counts.prompt, counts.winner, counts.loser, counts.count, 0.0, counts.shape
    )
    labels = np.full(len(counts.count), 0.8)
    for function in (empirical_loss, empirical_gradient):
        np.testing.assert_allclose(
            function(dpo(0.3), policy, reference, informative, labels=labels),
            function(cdpo(0.3, 0.2), policy, reference, informative),
            rtol=1e-12,
            atol=1e-16,
        )
    rows = table_rows(dpo(0.3), np.log(policy), np.log(reference), counts)
    stationary = updated_labels(labels, dpo(0.3).difference(rows), 1.0)
    gradient = empirical_gradient(dpo(0.3), policy, reference, counts, labels=stationary)
    assert np.abs(gradient).max() < 1e-16


def test_tiny_probabilities():
    """Log-probabilities far below the floats, where the policy itself would be 0."""
    _, reference, data, _, _ = instance(14)
    logs = np.log(reference).copy()
    logs[:, 0] = -5000.0
    value = log_policy_loss(dpo(0.1), logs, np.log(reference), data)
    counts = count_pairs(data)
    u = logs - np.log(reference)
    h = 0.1 * (u[counts.prompt, counts.winner] - u[counts.prompt, counts.loser])
    by_rows = (counts.count * np.logaddexp(0, -h)).sum() + counts.equal_pairs * np.log(2)
    assert value == pytest.approx(by_rows / len(data), rel=1e-14)
    assert value > 10
    zero = np.exp(logs)
    zero[:, 1] = 1 - zero.sum(axis=1) + zero[:, 1]
    assert (zero[:, 0] == 0).all()
    assert empirical_loss(dpo(0.1), zero, reference, data) == np.inf
    assert np.isfinite(empirical_gradient(dpo(0.1), zero, reference, data)).all()


# ---- which losses find the reward -----------------------------------------------------------


def softmax_gradient(loss, policy, reference, counts, **more):
    table = empirical_gradient(loss, policy, reference, counts, **more)
    return np.abs(table - policy * table.sum(axis=1, keepdims=True)).max()


@pytest.fixture
def bandit():
    rng = np.random.default_rng(21)
    return rng.normal(size=(X, Y)), rng.dirichlet(np.full(Y, 3.0), size=X)


@pytest.mark.parametrize("beta", [0.2, 1.0])
@pytest.mark.parametrize(
    ("make", "divergence"),
    [
        (dpo, KL()),
        (chipo, ChiSquared() + KL()),
        (lambda beta: chipo(beta, gamma=0.1), ChiSquared() + 0.1 * KL()),
        (lambda beta: chipo(beta, r_max=50.0), ChiSquared() + KL()),
        (lambda beta: fdpo(JensenShannon(), beta), JensenShannon()),
        (lambda beta: fdpo(AlphaDivergence(0.5), beta), AlphaDivergence(0.5)),
    ],
)
def test_the_population_minimiser_is_the_regularized_optimum(bandit, make, divergence, beta):
    """Fisher consistency: the exact optimum of `E[r*] - beta D` has no gradient."""
    reward, reference = bandit
    optimum = solve(reward, reference, divergence, beta).policy
    counts = law(reward, reference)
    assert softmax_gradient(make(beta), optimum, reference, counts) < 1e-12
    other = solve(1.1 * reward, reference, divergence, beta).policy
    assert softmax_gradient(make(beta), other, reference, counts) > 1e-5


def test_chi_squared_alone_is_not_consistent_where_a_response_gets_no_mass():
    """Why f-DPO refuses it: at the clipped optimum the scores are not the rewards."""
    reward, reference = np.array([[0.8, 0.6, -3.0]]), np.array([[0.4, 0.3, 0.3]])
    counts = law(reward, reference)
    loss = DirectLoss(DivergenceLink(ChiSquared()), Logistic(), 0.5)
    inside = solve(0.05 * reward, reference, ChiSquared(), 0.5).policy
    assert softmax_gradient(loss, inside, reference, law(0.05 * reward, reference)) < 1e-12
    clipped = solve(reward, reference, ChiSquared(), 0.5).policy
    assert (clipped > 0).tolist() == [[True, True, False]]
    assert softmax_gradient(loss, clipped, reference, counts) > 1e-3


def test_power_fits_the_optimum_of_the_weighted_entropy(bandit):
    """The comparison term: `r(y) = beta v(y) (1 + log pi(y)) + lambda` at the maximiser."""
    reward, reference = bandit
    weights = np.random.default_rng(3).uniform(0.2, 1.0, (X, Y))
    beta = 0.8
    policy = np.empty((X, Y))
    for x in range(X):
        low, high = -50.0, 50.0
        for _ in range(200):
            middle = (low + high) / 2
            total = np.exp((reward[x] - middle) / (beta * weights[x]) - 1).sum()
            low, high = (middle, high) if total > 1 else (low, middle)
        policy[x] = np.exp((reward[x] - low) / (beta * weights[x]) - 1)
    policy /= policy.sum(axis=1, keepdims=True)
    loss = DirectLoss(EntropyLink(), Logistic(), beta, reference_free=True, weighted=True)
    counts = law(reward, reference)
    assert softmax_gradient(loss, policy, reference, counts, weights=weights) < 1e-12
    assert softmax_gradient(loss, policy, reference, counts) > 1e-3
    assert softmax_gradient(power(beta, 0.1), policy, reference, counts, weights=weights) > 1e-3


def test_rebel_regresses_on_the_rewards(bandit):
    reward, reference = bandit
    policy = solve(reward, reference, KL(), 0.25).policy
    counts = law(reward, reference)
    assert empirical_loss(rebel(4.0), policy, reference, counts, reward=reward) < 1e-25
    assert empirical_loss(rebel(5.0), policy, reference, counts, reward=reward) > 1e-3


def test_ipo_fits_the_win_probability(bandit):
    """Two responses: the minimiser of the population has `u+ - u- = (2 P - 1)/(2 tau)`."""
    tau, gap = 0.4, 0.9
    reward, reference = np.array([[gap, 0.0]]), np.array([[0.3, 0.7]])
    win = 1 / (1 + np.exp(-gap))
    tilt = reference * np.exp([[(2 * win - 1) / (2 * tau), 0.0]])
    policy = tilt / tilt.sum()
    counts = law(reward, reference)
    assert softmax_gradient(ipo(tau), policy, reference, counts) < 1e-14


def test_the_printed_loss_without_its_logarithm_is_not_consistent(bandit):
    """The population loss falls without end, past the optimum where DPO's is least."""
    reward, reference = bandit
    reward = reward[:1]
    reference = reference[:1]
    counts = law(reward, reference)
    order = np.argsort(reward[0])
    spread = np.linspace(0.0, 1.0, Y)
    values = {dpo: [], dpo_without_log: []}
    for scale in (1.0, 10.0, 100.0, 1000.0):
        # Right order, any size: the reward's ranks, then the reward itself.
        ranks = np.empty((1, Y))
        ranks[0, order] = scale * spread
        for make, seen in values.items():
            logs = np.log(reference) + ranks
            seen.append(log_policy_loss(make(1.0), logs, np.log(reference), counts))
    assert (np.diff(values[dpo_without_log]) < 0).all()
    assert (np.diff(values[dpo][1:]) > 0).all()
    optimum = solve(reward, reference, KL(), 1.0).policy
    assert softmax_gradient(dpo(1.0), optimum, reference, counts) < 1e-15
    assert softmax_gradient(dpo_without_log(1.0), optimum, reference, counts) > 1e-3
    wrong = values[dpo_without_log][-1]
    assert wrong < empirical_loss(dpo_without_log(1.0), optimum, reference, counts) - 1e-2
    # Its infimum: every pair gets its likelier order, with certainty.
    likelier = np.maximum(
        counts.count, counts.count[np.lexsort((counts.winner, counts.loser, counts.prompt))]
    )
    infimum = -likelier.sum() / 2 - counts.equal_pairs / 2
    assert wrong == pytest.approx(infimum, abs=1e-9)


def test_noise_in_the_labels(bandit):
    """The robust loss undoes flips, DPO and cDPO do not."""
    reward, reference = bandit
    optimum = solve(reward, reference, KL(), 0.5).policy
    noisy = law(reward, reference, flip=0.2)
    assert softmax_gradient(robust_dpo(0.5, 0.2), optimum, reference, noisy) < 1e-15
    assert softmax_gradient(dpo(0.5), optimum, reference, noisy) > 1e-3
    assert softmax_gradient(cdpo(0.5, 0.2), optimum, reference, noisy) > 1e-3
    # cDPO on clean data fits what DPO fits on noisy ones.
    clean = law(reward, reference)
    np.testing.assert_allclose(
        empirical_gradient(cdpo(0.5, 0.2), optimum, reference, clean),
        empirical_gradient(dpo(0.5), optimum, reference, noisy),
        atol=1e-15,
    )


# ---- refusals -------------------------------------------------------------------------------


def test_bad_tables_are_refused():
    policy, reference, data, weights, reward = instance(30)
    hole = reference.copy()
    hole[1] = np.eye(Y)[0]
    nothing = PairCounts(*np.zeros((3, 0), np.int64), np.zeros(0), 0.0, (X, Y))
    bad = [
        ((dpo(0.1), policy[:, :4], reference, data), {}, r"policy\[0\] sums to"),
        ((dpo(0.1), policy[:2], reference, data), {}, r"log_policy has shape \(2, 5\)"),
        ((dpo(0.1), policy, reference[:2], data), {}, r"log_reference has shape \(2, 5\)"),
        ((dpo(0.1), policy, 2 * reference, data), {}, r"reference\[0\] sums to"),
        ((dpo(0.1), hole, reference, data), {}, r"policy\[1, \d\] and policy\[1, \d\] are 0"),
        ((dpo(0.1), policy, hole, data), {}, r"reference\[1, \d\] is 0; it must be positive"),
        ((kto(0.1), policy, hole, data), {}, r"reference\[1, \d\] is 0"),
        ((kto(0.1), policy, reference, data), {"weights": weights}, "KTO reads no weights"),
        ((dpo(0.1), policy, reference, "data"), {}, "data is a str"),
        ((dpo(0.1), policy, reference, nothing), {}, "counts hold 0.0 comparisons"),
        ((dpo(0.1), policy, reference, data), {"weights": weights}, "weights are given"),
        ((dpo(0.1), policy, reference, data), {"reward": reward}, "rewards are given"),
        ((rebel(0.1), policy, reference, data), {}, "rewards are missing"),
        ((rebel(0.1), policy, reference, data), {"reward": reward[:2]}, "reward has shape"),
        ((simpo(0.1), policy, reference, data), {"weights": -weights}, r"weights\[0, 0\] is"),
        ((dpo(0.1), policy, reference, data), {"labels": [0.5]}, "labels has shape"),
    ]
    for arguments, more, words in bad:
        for function in (empirical_loss, empirical_gradient):
            with pytest.raises(ValueError, match=words):
                function(*arguments, **more)


def test_a_baseline_that_is_infinite_is_refused():
    data = PreferenceData([0], [0], [1], shape=(1, 3))
    with pytest.raises(ValueError, match=r"policy\[0, 2\] is .* where the reference is 0"):
        empirical_loss(kto(0.1), [[0.5, 0.3, 0.2]], [[0.5, 0.5, 0.0]], data)


def test_losses_without_a_reference_ignore_it():
    policy, reference, data, _, _ = instance(31)
    hole = np.eye(Y)[np.zeros(X, int)]
    value = empirical_loss(simpo(0.5), policy, hole, data)
    assert value == empirical_loss(simpo(0.5), policy, reference, data)


def test_gradients_beyond_the_floats_are_refused():
    """One entry is pulled up and down by terms that are both infinite."""
    data = PreferenceData([0, 0], [0, 1], [1, 0], shape=(1, 2))
    logs = np.array([[-1.0, -1.0]])
    with pytest.raises(OverflowError, match=r"gradient\[0, 0\] is a difference of terms"):
        log_policy_gradient(chipo(0.1), logs, logs - 800.0, data)
    assert log_policy_loss(chipo(0.1), logs, logs - 800.0, data) == pytest.approx(np.log(2))


def test_tables_are_not_changed():
    policy, reference, data, weights, reward = instance(32)
    kept = [table.copy() for table in (policy, reference, weights, reward)]
    for table in (policy, reference, weights, reward):
        table.setflags(write=False)
    for loss in DIRECT_LOSSES:
        more = tables(loss, weights, reward)
        empirical_loss(loss, policy, reference, data, **more)
        empirical_gradient(loss, policy, reference, data, **more)
    for table, old in zip((policy, reference, weights, reward), kept, strict=True):
        np.testing.assert_array_equal(table, old)
