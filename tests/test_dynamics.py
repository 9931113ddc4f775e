"""Training dynamics: the path itself, by independent routes."""

import dataclasses
import pickle

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp

from rlhfsim import KL, AlphaDivergence, ChiSquared, ContextualBandit, example_table
from rlhfsim.data import PairCounts, PreferenceData, count_pairs
from rlhfsim.dynamics import (
    RECORDED,
    Adam,
    Batches,
    GradientDescent,
    Optimizer,
    TrainingDivergedError,
    Trajectory,
    train,
)
from rlhfsim.dynamics.forms import form_of
from rlhfsim.instances import random_bandit
from rlhfsim.losses import (
    DIRECT_LOSSES,
    DirectLoss,
    LogLink,
    chipo,
    chipo_practical,
    dpo,
    empirical_gradient,
    empirical_loss,
    fdpo,
    hinge,
    ipo,
    kto,
    power,
    rpo,
    simpo,
    slic,
)
from rlhfsim.sampling import sample_preferences
from rlhfsim.threads import get_threads, set_threads

LOSSES = pytest.mark.parametrize("loss", DIRECT_LOSSES, ids=lambda loss: repr(loss)[:60])
SHAPE = (3, 6)


class OtherLink(LogLink):
    """A link of a user: the compiled path does not know it."""


@pytest.fixture(scope="module")
def bandit():
    return random_bandit(*SHAPE, np.random.default_rng(0))


@pytest.fixture(scope="module")
def datasets(bandit):
    rng = np.random.default_rng(1)
    return [sample_preferences(bandit, n, rng) for n in (40, 60, 80)]


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(2).standard_normal((*SHAPE, 4))


def columns_of(loss, shape=SHAPE):
    rng = np.random.default_rng(3)
    columns = {}
    if getattr(loss, "weighted", False):
        columns["weights"] = rng.uniform(0.5, 1.0, shape)
    if getattr(loss, "needs_rewards", False):
        columns["reward"] = rng.standard_normal(shape)
    return columns


def generic(optimizer):
    """Return the same optimizer in a class that only the generic path knows."""
    kind = type("Other", (type(optimizer),), {})
    return kind(**dataclasses.asdict(optimizer))


def assert_same(a, b, tolerance=1e-12):
    for name in (*RECORDED, "log_policy", "policy", "epoch", "parameter"):
        first, second = getattr(a, name), getattr(b, name)
        assert (first is None) == (second is None), name
        if first is not None:
            np.testing.assert_allclose(first, second, rtol=tolerance, atol=tolerance, err_msg=name)


# ---- the compiled and the generic path -----------------------------------------------------------


@LOSSES
@pytest.mark.parametrize("batch", [None, 7, Batches(5, replacement=True)], ids=str)
def test_compiled_and_generic_paths_agree(loss, batch, bandit, datasets, features):
    optimizer = GradientDescent(0.5)
    settings = columns_of(loss) | {
        "prompt_dist": bandit.prompt_dist,
        "gold": bandit.reward,
        "proxy": np.stack([k * bandit.reward**2 for k in (1, 2, 3)]),
        "batch": batch,
        "features": features if batch == 7 else None,
    }

    def go(optimizer):
        rng = np.random.default_rng(4)
        return train(
            loss, datasets, bandit.reference, steps=12, learning_rate=0.05, rng=rng,
            optimizer=optimizer, record_every=5, **settings,
        )  # fmt: skip

    fast = go(optimizer)
    assert_same(fast, go(generic(optimizer)))
    np.testing.assert_array_equal(fast.step, [0, 5, 10, 12])
    # Tables and numbers of rows are those of each path.
    squares = bandit.prompt_dist @ (bandit.reference * bandit.reward**2).sum(axis=1)
    np.testing.assert_allclose(fast.proxy[:, 0], squares * np.array([1, 2, 3]), rtol=1e-13)
    if isinstance(batch, Batches):
        np.testing.assert_allclose(fast.epoch[:, -1], 60 / np.array([40, 60, 80]), rtol=1e-15)
    # The path moved; the start is the reference.
    assert np.abs(fast.policy - bandit.reference).max() > 1e-4
    assert np.abs(fast.kl[:, 0]).max() < 1e-15


def test_which_losses_are_compiled(bandit):
    unknown = [loss for loss in DIRECT_LOSSES if form_of(loss, bandit.reference) is None]
    # Jensen-Shannon, and powers below 1.
    assert {loss.name for loss in unknown} == {"f-DPO"}
    assert len(unknown) == 2
    for alpha, known in ((1.05, False), (1.5, True)):
        loss = fdpo(AlphaDivergence(alpha) + KL(), 0.1)
        assert (form_of(loss, bandit.reference) is not None) == known
    other = DirectLoss(OtherLink(), dpo(0.1).outer, 0.1)
    assert form_of(other, bandit.reference) is None
    assert form_of(dpo(0.1), np.array([[1.0 - 1e-200, 1e-200]])) is None


@LOSSES
def test_the_first_step(loss, bandit, datasets):
    """Against `empirical_gradient` and the chain rule of softmax."""
    p, columns = bandit.reference, columns_of(loss)
    path = train(
        loss, datasets, p, steps=1, learning_rate=0.1, prompt_dist=bandit.prompt_dist, **columns
    )
    for s, data in enumerate(datasets):
        table = empirical_gradient(loss, p, p, data, **columns)
        gradient = table - p * table.sum(axis=1, keepdims=True)
        expected = log_softmax(np.log(p) - 0.1 * gradient, axis=1)
        np.testing.assert_allclose(path.log_policy[s], expected, rtol=2e-15, atol=2e-15)
        assert path.gradient_norm[s, 0] == pytest.approx(np.linalg.norm(gradient), rel=1e-13)
        last = empirical_loss(loss, path.policy[s], p, data, **columns)
        assert path.loss[s, 1] == pytest.approx(last, rel=1e-13)


def test_quantities(bandit, datasets):
    """What is recorded, from the last policy by the definitions."""
    p, rho = bandit.reference, bandit.prompt_dist
    path = train(
        chipo(0.1), datasets, p, steps=50, learning_rate=1.0, prompt_dist=rho,
        gold=bandit.reward, proxy=-bandit.reward, optimizer=Adam(),
    )  # fmt: skip
    np.testing.assert_allclose(path.gold[:, -1], bandit.value(path.policy), rtol=1e-13)
    np.testing.assert_allclose(path.proxy, -path.gold, rtol=1e-12)
    np.testing.assert_allclose(path.kl[:, -1], KL()(path.policy, p, rho), rtol=1e-12)
    np.testing.assert_allclose(path.chi_squared[:, -1], ChiSquared()(path.policy, p, rho))
    coverage = rho @ (path.policy**2 / p).sum(axis=2).T
    np.testing.assert_allclose(path.concentrability[:, -1], coverage, rtol=1e-12)
    np.testing.assert_allclose(np.exp(path.log_policy), path.policy, rtol=1e-15)
    for s, data in enumerate(datasets):
        some = data.chosen != data.rejected
        logs = path.log_policy[s][data.prompt[some]]
        chosen, rejected = (
            np.take_along_axis(logs, side[some][:, None], axis=1).mean()
            for side in (data.chosen, data.rejected)
        )
        assert path.chosen_logp[s, -1] == pytest.approx(chosen, rel=1e-13)
        assert path.rejected_logp[s, -1] == pytest.approx(rejected, rel=1e-13)
    np.testing.assert_array_equal(path.peak, path.gold.argmax(axis=1))


# ---- other implementations -----------------------------------------------------------------------

TORCH_LOSSES = {
    "dpo": (dpo(0.5), lambda t, u, v: -t.nn.functional.logsigmoid(0.5 * (u - v))),
    "chipo": (
        chipo(0.2, r_max=0.1),
        lambda t, u, v: (
            -t.nn.functional.logsigmoid(t.clamp(0.2 * (u + u.exp() - v - v.exp()), -0.2, 0.2))
        ),
    ),
    "practical": (
        chipo_practical(0.2, 0.25, 0.1),
        lambda t, u, v: (
            -t.nn.functional.logsigmoid(
                0.2
                * ((u / 4).clamp(-88, 20).exp() + u / 10 - (v / 4).clamp(-88, 20).exp() - v / 10)
            )
        ),
    ),
    "ipo": (ipo(0.5), lambda t, u, v: (u - v - 1.0) ** 2),
    "hinge": (hinge(0.5), lambda t, u, v: t.relu(1.0 - 0.5 * (u - v))),
}
TORCH_OPTIMIZERS = {
    "descent": (
        GradientDescent(0.9),
        lambda t, theta: t.optim.SGD([theta], lr=0.3, momentum=0.9),
        0.3,
    ),
    "adam": (
        # A small epsilon would magnify the rounding of derivatives that are 0.
        Adam(0.8, 0.99, 1e-3),
        lambda t, theta: t.optim.Adam([theta], lr=0.03, betas=(0.8, 0.99), eps=1e-3),
        0.03,
    ),
}


@pytest.mark.parametrize("kind", TORCH_OPTIMIZERS)
@pytest.mark.parametrize("name", TORCH_LOSSES)
def test_autograd(name, kind, bandit, datasets):
    """20 steps of torch's optimizers on torch's derivatives, over the rows of the data."""
    loss, formula = TORCH_LOSSES[name]
    optimizer, make, rate = TORCH_OPTIMIZERS[kind]
    data = datasets[2]
    log_p = torch.from_numpy(np.log(bandit.reference))
    theta = torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True)
    moves = make(torch, theta)
    x, chosen, rejected = (
        torch.from_numpy(np.array(c)) for c in (data.prompt, data.chosen, data.rejected)
    )
    losses = []
    for _ in range(20):
        moves.zero_grad()
        u = torch.log_softmax(log_p + theta, dim=1) - log_p
        mean = formula(torch, u[x, chosen], u[x, rejected]).mean()
        mean.backward()
        losses.append(mean.item())
        moves.step()
    path = train(
        loss, data, bandit.reference, steps=20, learning_rate=rate, optimizer=optimizer,
        prompt_dist=bandit.prompt_dist,
    )  # fmt: skip
    expected = torch.log_softmax(log_p + theta, dim=1).detach().numpy()
    assert np.abs(expected - np.log(bandit.reference)).max() > 0.05
    np.testing.assert_allclose(path.log_policy[0], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(path.loss[0, :-1], losses, rtol=1e-12)


def test_in_forty_digits():
    """20 steps of chiPO with imitation, one prompt, derivatives by mpmath's `diff`."""
    p = np.array([[0.5, 0.3, 0.2]])
    counts = PairCounts(
        np.zeros(3, int), np.array([0, 1, 2]), np.array([1, 2, 0]), np.array([3.0, 2.0, 1.0]),
        2.0, (1, 3),
    )  # fmt: skip
    loss = dataclasses.replace(chipo(0.5, gamma=0.7), extra=rpo(1.0, 0.1).extra)
    path = train(loss, counts, p, steps=20, learning_rate=0.8)
    with mpmath.workdps(40):
        q = [mpmath.mpf(float(v)) for v in p[0]]
        theta = [mpmath.mpf(0)] * 3

        def policy(t):
            e = [w * mpmath.exp(v) for w, v in zip(q, t, strict=True)]
            return [v / sum(e) for v in e]

        def mean(*t):
            pi = policy(t)
            score = [
                a / b + mpmath.mpf(0.7) * mpmath.log(a / b) for a, b in zip(pi, q, strict=True)
            ]
            total = 2 * mpmath.log(2)
            for i, j, n in ((0, 1, 3), (1, 2, 2), (2, 0, 1)):
                total += n * mpmath.log(1 + mpmath.exp((score[j] - score[i]) / 2))
                total -= n * mpmath.mpf(0.1) * mpmath.log(pi[i])
            return total / 8

        for step in range(20):
            assert path.loss[0, step] == pytest.approx(float(mean(*theta)), rel=3e-15)
            unit = [tuple(int(i == k) for i in range(3)) for k in range(3)]
            slope = [mpmath.diff(mean, tuple(theta), n) for n in unit]
            theta = [v - mpmath.mpf(0.8) * g for v, g in zip(theta, slope, strict=True)]
        np.testing.assert_allclose(path.policy[0, 0], [float(v) for v in policy(theta)], rtol=2e-15)


def test_loop_over_rows_in_epochs(bandit):
    """Mini-batches as a plain loop: an order of all rows in each epoch, a smaller last batch."""
    data = sample_preferences(bandit, 23, np.random.default_rng(6))
    counts = count_pairs(data)
    loss, p = dpo(0.5), bandit.reference
    path = train(
        loss, data, p, steps=14, learning_rate=0.7, batch=5, rng=np.random.default_rng(7),
        prompt_dist=bandit.prompt_dist,
    )  # fmt: skip
    whole = np.append(counts.count, counts.equal_pairs).astype(int)
    rows = np.repeat(np.arange(whole.size), whole)
    rng = np.random.default_rng(7).spawn(1)[0]
    theta = np.zeros(SHAPE)
    for step in range(14):
        if step % 5 == 0:
            order = rng.permuted(rows[None], axis=1)[0]
        batch = order[5 * (step % 5) : 5 * (step % 5) + 5]
        assert batch.size == (3 if step % 5 == 4 else 5)
        log_pi = log_softmax(np.log(p) + theta, axis=1)
        gradient = np.zeros(SHAPE)
        for u in batch:
            if u < counts.count.size:
                x, i, j = counts.prompt[u], counts.winner[u], counts.loser[u]
                h = 0.5 * (log_pi[x, i] - np.log(p[x, i]) - log_pi[x, j] + np.log(p[x, j]))
                pull = 0.5 / (1 + np.exp(h)) / batch.size
                gradient[x, i] -= pull
                gradient[x, j] += pull
        theta -= 0.7 * gradient
    np.testing.assert_allclose(path.log_policy[0], log_softmax(np.log(p) + theta, axis=1))
    np.testing.assert_allclose(
        path.epoch[0, :7], np.array([0, 5, 10, 15, 20, 23, 28]) / 23, rtol=1e-15
    )


# ---- seeds, threads, batches ---------------------------------------------------------------------


def test_paths_are_independent_and_threads_do_not_matter(bandit):
    rng = np.random.default_rng(8)
    data = [sample_preferences(bandit, int(n), rng) for n in rng.integers(1, 200, 40)]

    def go(data, threads=1):
        before = get_threads()
        try:
            set_threads(threads)
            return train(
                chipo(0.1), data, bandit.reference, steps=40, learning_rate=0.5, batch=4,
                rng=np.random.default_rng(9), prompt_dist=bandit.prompt_dist, gold=bandit.reward,
            )  # fmt: skip
        finally:
            set_threads(before)

    one, many = go(data), go(data, 3)
    for name in (*RECORDED, "log_policy"):
        if getattr(one, name) is not None:
            np.testing.assert_array_equal(getattr(one, name), getattr(many, name))
    few = go(data[:2])
    np.testing.assert_array_equal(few.log_policy, one.log_policy[:2])
    # The same data twice: other mini-batches.
    twice = go([data[0], data[0]])
    assert np.abs(twice.log_policy[0] - twice.log_policy[1]).max() > 1e-3


def test_order_of_rows_does_not_matter(bandit, datasets):
    data = datasets[2]
    order = np.random.default_rng(0).permutation(len(data))
    other = PreferenceData(data.prompt[order], data.chosen[order], data.rejected[order], SHAPE)
    path = train(
        dpo(0.1), [data, other, count_pairs(data)], bandit.reference, steps=20,
        learning_rate=1.0, prompt_dist=bandit.prompt_dist,
    )  # fmt: skip
    np.testing.assert_array_equal(path.log_policy[0], path.log_policy[1])
    np.testing.assert_array_equal(path.log_policy[0], path.log_policy[2])


def test_a_batch_of_all_rows_is_a_full_step(bandit, datasets):
    data = datasets[0]
    settings = {"steps": 25, "learning_rate": 1.0, "prompt_dist": bandit.prompt_dist}
    full = train(rpo(0.3, 0.1), data, bandit.reference, **settings)
    rng = np.random.default_rng(0)
    for size in (len(data), len(data) + 3):
        path = train(rpo(0.3, 0.1), data, bandit.reference, batch=size, rng=rng, **settings)
        assert_same(path, full)


def test_the_mean_of_mini_batches_is_the_full_gradient(bandit, datasets):
    """One step from many batches: within 5 standard errors, so wrong with probability < 1e-4."""
    data, p, paths = datasets[0], bandit.reference, 4000
    settings = {"steps": 1, "learning_rate": 1e-3, "prompt_dist": bandit.prompt_dist}
    full = train(dpo(1.0), data, p, **settings).log_policy[0]
    for batch in (Batches(3), Batches(3, replacement=True)):
        rng = np.random.default_rng(0)
        moved = train(dpo(1.0), [data] * paths, p, batch=batch, rng=rng, **settings).log_policy
        error = moved.std(axis=0) / np.sqrt(paths)
        assert error.max() < 0.1 * np.abs(full - np.log(p)).max()
        assert (np.abs(moved.mean(axis=0) - full) <= 5 * error + 1e-9).all()


def test_a_law_with_replacement(bandit):
    """Rows of a law are drawn with its probabilities, pairs of equals among them."""
    law = PairCounts(
        np.zeros(2, int), np.array([0, 1]), np.array([1, 0]), np.array([0.5, 0.2]), 0.3, (1, 2)
    )
    p, paths = np.array([[0.5, 0.5]]), 3000
    one = Batches(1, replacement=True)
    path = train(
        dpo(1.0), [law] * paths, p, steps=1, learning_rate=1.0, batch=one,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    # theta moves by +-1/2 for each response, or not at all.
    gap = path.log_policy[:, 0, 0] - path.log_policy[:, 0, 1]
    share = [np.isclose(gap, v).mean() for v in (1.0, -1.0, 0.0)]
    assert sum(share) == 1
    np.testing.assert_allclose(share, [0.5, 0.2, 0.3], atol=5 * 0.5 / np.sqrt(paths))
    with pytest.raises(ValueError, match=r"data\[0\] has a count of 0.5; an epoch needs whole"):
        train(dpo(1.0), law, p, steps=1, learning_rate=1.0, batch=1, rng=np.random.default_rng(0))


def test_long_runs_go_on_over_several_draws(bandit, datasets, monkeypatch):
    """Batches are drawn ahead in parts, whose size changes nothing."""

    def go(batch):
        return train(
            dpo(0.3), datasets, bandit.reference, steps=33, learning_rate=0.3, batch=batch,
            rng=np.random.default_rng(1), optimizer=Adam(), prompt_dist=bandit.prompt_dist,
        )  # fmt: skip

    for batch in (Batches(7), Batches(7, replacement=True)):
        at_once = go(batch)
        with monkeypatch.context() as patch:
            patch.setattr("rlhfsim.dynamics.batches._AHEAD", 30)
            assert_same(go(batch), at_once, tolerance=0)


# ---- schedules, starts, features -----------------------------------------------------------------


def test_schedule_and_start(bandit, datasets):
    """Ten steps and ten more from where they led are twenty steps."""
    rates = np.linspace(1.0, 0.1, 20)
    p, rho = bandit.reference, bandit.prompt_dist
    whole = train(chipo(0.2), datasets, p, steps=20, learning_rate=rates, prompt_dist=rho)
    first = train(chipo(0.2), datasets, p, steps=10, learning_rate=rates[:10], prompt_dist=rho)
    second = train(
        chipo(0.2), datasets, p, steps=10, learning_rate=rates[10:], prompt_dist=rho,
        start=first.policy,
    )  # fmt: skip
    np.testing.assert_allclose(second.log_policy, whole.log_policy, rtol=1e-13)
    np.testing.assert_allclose(second.kl, whole.kl[:, 10:], rtol=1e-11)


def test_one_feature_for_each_response_is_tabular(bandit, datasets):
    one_hot = np.eye(18).reshape(3, 6, 18)
    p, rho = bandit.reference, bandit.prompt_dist
    for optimizer in (GradientDescent(), generic(GradientDescent())):
        settings = {
            "steps": 20, "learning_rate": 0.5, "prompt_dist": rho, "optimizer": optimizer
        }  # fmt: skip
        tabular = train(simpo(2.0, 0.5), datasets, p, **settings)
        tied = train(simpo(2.0, 0.5), datasets, p, features=one_hot, **settings)
        np.testing.assert_allclose(tied.log_policy, tabular.log_policy, rtol=1e-13)
        moved = np.log(p) + tied.parameter.reshape(3, *SHAPE)
        np.testing.assert_allclose(tied.log_policy, log_softmax(moved, axis=2), rtol=1e-13)
        assert tabular.parameter is None


# ---- other losses, optimizers, tables ------------------------------------------------------------


def test_kto_with_its_exact_baseline(bandit, datasets):
    p, rho = bandit.reference, bandit.prompt_dist
    path = train(kto(0.5), datasets[0], p, steps=15, learning_rate=0.5, prompt_dist=rho)
    theta = np.zeros(SHAPE)
    for step in range(15):
        pi = np.exp(log_softmax(np.log(p) + theta, axis=1))
        assert path.loss[0, step] == pytest.approx(empirical_loss(kto(0.5), pi, p, datasets[0]))
        table = empirical_gradient(kto(0.5), pi, p, datasets[0])
        theta -= 0.5 * (table - pi * table.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(path.log_policy[0], log_softmax(np.log(p) + theta, axis=1))


def test_an_optimizer_of_ones_own(bandit, datasets):
    class Signs(Optimizer):
        def move(self, parameter, gradient, rate, number, moments):
            parameter -= rate / number * np.sign(gradient)

    law = {"steps": 2, "learning_rate": 0.1, "prompt_dist": bandit.prompt_dist}
    path = train(power(0.5, 0.1), datasets[0], bandit.reference, optimizer=Signs(), **law)
    drift = path.log_policy[0] - np.log(bandit.reference)
    drift -= drift[:, :1]
    # Sums and differences of 0.1 and 0.05.
    np.testing.assert_allclose(drift, 0.05 * np.round(drift / 0.05), atol=1e-12)
    assert np.abs(drift).max() > 0.04


@LOSSES
def test_the_judged_table(loss):
    """Of real prompts, some of which have fewer responses than others."""
    bandit = ContextualBandit.from_table(example_table())
    data = sample_preferences(bandit, 300, np.random.default_rng(0))
    columns = columns_of(loss, bandit.shape)
    path = train(
        loss, data, bandit.reference, steps=40, learning_rate=0.02, gold=bandit.reward,
        proxy=bandit.proxy_reward, prompt_dist=bandit.prompt_dist, **columns,
    )  # fmt: skip
    assert (bandit.reference == 0).any()
    np.testing.assert_array_equal(path.policy[0] == 0, bandit.reference == 0)
    assert np.isfinite(np.stack([getattr(path, name) for name in RECORDED])).all()
    assert path.gold[0, -1] == pytest.approx(bandit.value(path.policy[0]), rel=1e-13)
    assert path.kl[0, -1] == pytest.approx(
        KL()(path.policy[0], bandit.reference, bandit.prompt_dist), rel=1e-9
    )
    assert path.loss[0, -1] < path.loss[0, 0]
    assert (np.diff(path.loss[0]) < 0).mean() > 0.9


# ---- what comes back -----------------------------------------------------------------------------


def test_trajectory_is_frozen_and_tabulated(bandit, datasets):
    path = train(
        slic(1.0), datasets, bandit.reference, steps=9, learning_rate=0.1, record_every=4,
        prompt_dist=bandit.prompt_dist, gold=bandit.reward,
    )  # fmt: skip
    with pytest.raises(ValueError, match="read-only"):
        path.loss[0, 0] = 0
    again = pickle.loads(pickle.dumps(path))
    assert_same(again, path, tolerance=0)
    with pytest.raises(ValueError, match="read-only"):
        again.policy[0] = 0
    table = path.to_dataframe()
    assert list(table) == [
        "seed", "step", "epoch", "loss", "gradient_norm", "gold", "kl", "chi_squared",
        "chosen_logp", "rejected_logp", "concentrability",
    ]  # fmt: skip
    assert len(table) == 12
    np.testing.assert_array_equal(table["step"], [0, 4, 8, 9] * 3)
    np.testing.assert_array_equal(table["gold"].to_numpy().reshape(3, 4), path.gold)
    row = table[(table["seed"] == 1) & (table["step"] == 8)]
    assert row["concentrability"].item() == 1 + 2 * path.chi_squared[1, 2]
    given = {f.name: getattr(path, f.name) for f in dataclasses.fields(path)}
    with pytest.raises(ValueError, match=r"kl has shape \(3,\); it must have shape \(3, 4\)"):
        Trajectory(**given | {"kl": np.zeros(3)})


@pytest.mark.parametrize("wrap", [lambda o: o, generic], ids=["compiled", "generic"])
@pytest.mark.parametrize("features", [None, np.eye(2)[None]], ids=["tabular", "log-linear"])
def test_divergence_is_an_error(wrap, features):
    """IPO is quadratic: beyond a step size of 2/curvature it runs away."""
    data = PreferenceData([0], [0], [1], (1, 2))
    fine = PreferenceData([0], [0], [0], (1, 2))
    with pytest.raises(TrainingDivergedError, match="parameters of path 1 are not finite") as info:
        train(
            ipo(0.1), [fine, data, data], np.full((1, 2), 0.5), steps=300, learning_rate=100.0,
            optimizer=wrap(GradientDescent()), features=features,
        )  # fmt: skip
    # The gap obeys d <- d - 400 (d - 5): it grows by a factor 399 in each step.
    assert info.value.seed == 1
    assert info.value.step == pytest.approx(308 / np.log10(399), abs=2)
    again = pickle.loads(pickle.dumps(info.value))
    assert (again.seed, again.step) == (info.value.seed, info.value.step)


def test_only_equal_pairs(bandit):
    """Nothing is learned from them: no gradient, and no chosen response."""
    data = PreferenceData([0, 1], [2, 3], [2, 3], SHAPE)
    for optimizer in (GradientDescent(), generic(GradientDescent())):
        path = train(
            rpo(0.3, 0.1), data, bandit.reference, steps=3, learning_rate=1.0,
            prompt_dist=bandit.prompt_dist, optimizer=optimizer,
        )  # fmt: skip
        np.testing.assert_allclose(path.policy[0], bandit.reference, rtol=1e-15)
        np.testing.assert_allclose(path.loss, np.log(2), rtol=1e-15)
        np.testing.assert_array_equal(path.gradient_norm, 0.0)
        assert np.isnan(path.chosen_logp).all()
        assert np.isnan(path.rejected_logp).all()


def test_far_from_the_reference():
    """Where probabilities are below the floats, their logarithms go on."""
    data = PreferenceData([0], [0], [1], (1, 2))
    p = np.array([[0.5, 0.5]])
    path = train(slic(1e6), data, p, steps=1000, learning_rate=1.0, record_every=1000)
    # A slope of -1 for 1000 steps in each direction.
    np.testing.assert_allclose(path.log_policy[0, 0], [0.0, -2000.0], atol=1e-12)
    assert path.policy[0, 0, 1] == 0.0
    assert path.loss[0, -1] == pytest.approx(1e6 - 2000, rel=1e-15)
    assert path.kl[0, -1] == pytest.approx(np.log(2), rel=1e-14)
    assert path.rejected_logp[0, -1] == pytest.approx(-2000 - logsumexp([0.0, -2000.0]))


def test_small_losses_keep_their_digits():
    data = PreferenceData([0], [0], [1], (1, 2))
    p, start = np.array([[0.5, 0.5]]), np.array([[1.0 - 1e-20, 1e-20]])
    for optimizer in (GradientDescent(), generic(GradientDescent())):
        path = train(
            dpo(1.0), data, p, start=start, steps=1, learning_rate=1.0, optimizer=optimizer
        )  # fmt: skip
        assert path.loss[0, 0] == pytest.approx(1e-20, rel=1e-13, abs=0)
        assert path.gradient_norm[0, 0] == pytest.approx(np.sqrt(2) * 1e-20, rel=1e-13, abs=0)


def test_practical_link_where_its_exponent_is_clipped():
    """From `log w+ = 27`, beyond 20, only the logarithm has a slope."""
    data = PreferenceData([0], [0], [1], (1, 2))
    p, start = np.array([[1e-12, 1.0 - 1e-12]]), np.array([[0.5, 0.5]])
    beta, gamma, rate = 1e-9, 0.25, 1e9
    path = train(
        chipo_practical(beta, 1.0, gamma), data, p, start=start, steps=1, learning_rate=rate
    )  # fmt: skip
    up, down = np.log(0.5) - np.log(p[0])
    h = beta * (np.exp(20.0) + gamma * up - np.exp(down) - gamma * down)
    assert path.loss[0, 0] == pytest.approx(np.log1p(np.exp(-h)), rel=1e-13)
    pull = beta / (1 + np.exp(h)) * np.array([-gamma, np.exp(down) + gamma])
    moved = -rate * (pull - 0.5 * pull.sum())
    np.testing.assert_allclose(path.log_policy[0, 0], log_softmax(moved), rtol=1e-12)
