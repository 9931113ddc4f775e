"""Direct learners: the clip of chiPO, KTO, finite classes and log-linear policies."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_problems import from_wins
from scipy.optimize import minimize
from scipy.special import expit, log_softmax
from sklearn.linear_model import LogisticRegression

from rlhfsim import ContextualBandit, example_table
from rlhfsim.data import PreferenceData, count_pairs
from rlhfsim.instances import random_bandit
from rlhfsim.learners import Learner, LearnerError
from rlhfsim.learners.direct import (
    DPO,
    IPO,
    KTO,
    POWER,
    RPO,
    ChiPO,
    ChiPOPractical,
    Direct,
    FinitePolicies,
    LogLinearPolicies,
    PolicyClass,
    SimPO,
    SLiC,
    TabularPolicies,
)
from rlhfsim.learners.direct.clipped import as_pairs
from rlhfsim.learners.direct.prompts import prompt_rows
from rlhfsim.learners.direct.task import Task
from rlhfsim.losses import dpo_without_log, empirical_loss, log_policy_loss
from rlhfsim.rewards import MLEDoesNotExistError
from rlhfsim.rewards.finite_class import last_of_tied
from rlhfsim.sampling import sample_preferences


@pytest.fixture(scope="module")
def bandit():
    return random_bandit(n_prompts=3, n_responses=5, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def data(bandit):
    return sample_preferences(bandit, 1500, np.random.default_rng(1))


# ---- the clip ------------------------------------------------------------------------------------


def clipped_loss(wins, clip, s):
    """Return the summed loss of one prompt, from the definition."""
    h = np.clip(s[:, None] - s[None, :], -clip, clip)
    return float((wins * np.logaddexp(0, -h)).sum())


def on_a_grid(wins, clip):
    """Return the best of a grid of scores of three responses and of a polish of it."""
    grid = np.linspace(-4 * clip, 4 * clip, 81)
    best = min(
        ((clipped_loss(wins, clip, np.array([0, a, b])), a, b)
         for a, b in itertools.product(grid, grid)),
    )  # fmt: skip
    polished = minimize(
        lambda t: clipped_loss(wins, clip, np.array([0, *t])),
        best[1:],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12},
    )
    return min(best[0], polished.fun)


@pytest.mark.parametrize("clip", [0.2, 1.0, 4.0])
@pytest.mark.parametrize(
    "wins",
    [
        [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
        [[0, 5, 1], [1, 0, 3], [2, 2, 0]],
        [[0, 4, 0], [0, 0, 6], [0, 1, 0]],
        [[0, 9, 1], [0, 0, 7], [2, 0, 0]],
    ],
    ids=["cycle", "both ways", "chain", "nearly a cycle"],
)
def test_the_clipped_loss_is_solved_globally(wins, clip):
    wins = np.array(wins)
    learned = ChiPO(0.5, r_max=clip / 2).fit(from_wins(wins), np.full((1, 3), 1 / 3))
    best = on_a_grid(wins, clip) / wins.sum()
    assert learned.diagnostics["global"] is True
    assert learned.objective <= best + 1e-8
    assert learned.objective >= best - 1e-4
    assert learned.objective == pytest.approx(
        clipped_loss(wins, clip, learned.reward[0]) / wins.sum(), rel=1e-12
    )


def test_the_unclipped_optimum_need_not_be_that_of_the_clipped_loss():
    # A cycle: unclipped, all scores are equal; at a small clip two wins pay for a capped loss.
    cycle = from_wins([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    p = np.full((1, 3), 1 / 3)
    assert ChiPO(0.5).fit(cycle, p).objective == pytest.approx(np.log(2), rel=1e-14)
    tight = ChiPO(0.5, r_max=0.1).fit(cycle, p)
    least = (2 * np.logaddexp(0, -0.2) + np.logaddexp(0, 0.2)) / 3
    assert tight.objective == pytest.approx(least, abs=1e-9)
    assert tight.objective < np.log(2) - 0.02
    wide = ChiPO(0.5, r_max=1.0).fit(cycle, p)
    assert wide.objective == pytest.approx(np.log(2), rel=1e-14)
    np.testing.assert_allclose(wide.policy, p, rtol=1e-14)


@given(seed=st.integers(0, 10**6), clip=st.sampled_from([0.2, 0.6, 2.0, 4.0]))
@settings(max_examples=25)
def test_clipped_losses_of_random_problems(seed, clip):
    rng = np.random.default_rng(seed)
    wins = rng.poisson(rng.choice([0.7, 3.0]), (3, 3)) * (1 - np.eye(3, dtype=int))
    wins[0, 1] += 1
    learned = ChiPO(0.5, r_max=clip / 2).fit(from_wins(wins), np.full((1, 3), 1 / 3))
    starts = [rng.normal(size=3) * clip * k for k in range(5)]
    found = min(
        minimize(lambda s: clipped_loss(wins, clip, s), start, method="Nelder-Mead").fun
        for start in starts
    )
    # Three pairs have few sets that may be out, so all are tried.
    assert learned.diagnostics["global"] is True
    assert learned.objective <= found / wins.sum() + 1e-8


def test_the_least_loss_of_a_pair_is_that_of_a_scan():
    # The certificate rests on it.
    wins = np.array([[0, 9, 1, 4], [2, 0, 7, 0], [1, 3, 0, 5], [4, 6, 0, 0]])
    data = from_wins(wins)
    task = Task(DPO(0.3).loss, data, np.full((1, 4), 0.25))
    (rows,) = prompt_rows(task)
    for clip in (0.3, 1.0, 5.0):
        pairs = as_pairs(rows, clip)
        h = np.linspace(-clip, clip, 20_001)[:, None]
        scan = pairs.losses(h).min(axis=0)
        np.testing.assert_allclose(pairs.least(), scan, rtol=1e-6)
        assert pairs.won.sum() + pairs.lost.sum() == wins.sum()
        assert (pairs.won >= pairs.lost).all()


def test_too_many_rivals_are_admitted():
    rng = np.random.default_rng(3)
    wins = rng.poisson(1.0, (8, 8)) * (1 - np.eye(8, dtype=int))
    learned = ChiPO(0.5, r_max=0.5).fit(from_wins(wins), np.full((1, 8), 1 / 8))
    assert learned.diagnostics["global"] is False
    for _ in range(100):
        s = learned.reward[0] + 0.01 * rng.normal(size=8)
        assert clipped_loss(wins, 1.0, s) / wins.sum() >= learned.objective - 1e-8


# ---- KTO -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_kto_is_a_fixed_point(beta, bandit, data):
    p = bandit.reference
    learned = KTO(beta, 1.2, 0.9).fit(data, p)
    z = learned.diagnostics["baseline"]
    np.testing.assert_allclose(z, learned.diagnostics["kl"], atol=1e-10)
    assert learned.diagnostics["global"] is False
    value = empirical_loss(KTO(beta, 1.2, 0.9).loss, learned.policy, p, data)
    assert learned.objective == pytest.approx(value, rel=1e-12)
    # For its own baseline no other policy is better: the loss straight from the definition.
    counts = count_pairs(data)

    def loss(policy):
        with np.errstate(divide="ignore"):
            h = beta * (np.log(policy) - np.log(p) - z[:, None])
        up, down = h[counts.prompt, counts.winner], h[counts.prompt, counts.loser]
        return float((counts.count * (1.2 * expit(-up) + 0.9 * expit(down))).sum())

    best, rng = loss(learned.policy), np.random.default_rng(0)
    for _ in range(300):
        other = rng.dirichlet(np.full(5, 0.4), size=3)
        for share in (1e-4, 0.1, 1.0):
            assert loss((1 - share) * learned.policy + share * other) >= best - 1e-9


def test_kto_of_two_responses_by_a_scan():
    # k = (2, -2): everything goes to the winner; with a third that is as good, it is shared.
    data = PreferenceData([0, 0, 0], [0, 0, 2], [1, 1, 1], (1, 4))
    p = np.array([[0.4, 0.3, 0.2, 0.1]])
    learned = KTO(0.7).fit(data, p)
    assert learned.policy[0, 1] == learned.policy[0, 3] == 0
    q = np.linspace(1e-6, 1 - 1e-6, 200_001)
    z = q * np.log(q / 0.4) + (1 - q) * np.log((1 - q) / 0.2)
    slope = 2 * expit(0.7 * (np.log(q / 0.4) - z)) * expit(-0.7 * (np.log(q / 0.4) - z)) / q
    other = np.log((1 - q) / 0.2) - z
    slope -= expit(0.7 * other) * expit(-0.7 * other) / (1 - q)
    at = np.nonzero(np.diff(np.sign(slope)))[0]
    assert len(at) == 1
    assert learned.policy[0, 0] == pytest.approx(q[at[0]], abs=1e-5)


def test_kto_where_nothing_is_desirable():
    data = PreferenceData([0, 0], [0, 1], [1, 0], (1, 3))
    p = np.array([[0.5, 0.3, 0.2]])
    learned = KTO(0.5, undesirable_weight=2.0).fit(data, p)
    np.testing.assert_allclose(learned.policy, [[0, 0, 1]], atol=1e-15)
    with pytest.raises(ValueError, match="undesirable_weight is too large for prompt 0"):
        KTO(0.5, undesirable_weight=2.0).fit(data, [[0.5, 0.5, 0.0]])


# ---- finite classes ------------------------------------------------------------------------------

LOSSES = (
    DPO(0.3).loss,
    ChiPO(0.3, r_max=0.5).loss,
    ChiPOPractical(0.3, 0.25, 0.0).loss,
    IPO(0.3).loss,
    SLiC().loss,
    RPO(0.3, 0.1).loss,
    POWER(0.3, 0.1).loss,
    SimPO(2.0, 0.3).loss,
    KTO(1.5).loss,
    dpo_without_log(0.5),
)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_enumeration(loss, bandit, data):
    policies = np.random.default_rng(2).dirichlet(np.ones(5), size=(20, 3))
    p = bandit.reference
    learner = Direct(loss, FinitePolicies(policies))
    assert isinstance(learner, Learner)
    learned = learner.fit(data, p)
    values = [empirical_loss(loss, policy, p, data) for policy in policies]
    best = int(np.argmin(values))
    np.testing.assert_array_equal(learned.policy, policies[best])
    assert learned.objective == pytest.approx(values[best], rel=1e-14)
    np.testing.assert_allclose(learned.diagnostics["losses"], values, rtol=1e-14)
    assert learned.diagnostics["index"] == best
    np.testing.assert_array_equal(learned.diagnostics["tied"], [best])
    assert learned.residual is None
    assert learned.diagnostics["global"] is True
    again = pickle.loads(pickle.dumps(learner)).fit(data, p)
    np.testing.assert_array_equal(again.policy, learned.policy)
    # The tabular optimum is at least as good as every policy of the class.
    if loss.name in ("DPO", "IPO", "SLiC", "RPO", "POWER", "SimPO"):
        assert Direct(loss).fit(data, p).objective <= learned.objective + 1e-12


def test_ties():
    # The data compare 0 with 1 only, so what a policy gives to 2 and 3 does not matter.
    data = PreferenceData([0, 0], [1, 1], [0, 0], (1, 4))
    policies = np.array(
        [
            [[0.3, 0.2, 0.1, 0.4]],
            [[0.1, 0.2, 0.3, 0.4]],
            [[0.1, 0.2, 0.65, 0.05]],
            [[0.2, 0.4, 0.4, 0.0]],
        ]
    )
    p = np.full((1, 4), 0.25)
    learner = DPO(0.3, FinitePolicies(policies))
    learned = learner.fit(data, p)
    assert learned.diagnostics["index"] == 1
    np.testing.assert_array_equal(learned.diagnostics["tied"], [1, 2, 3])
    assert learned.diagnostics["unique"] is False
    picks = {
        learner.fit(data, p, rng=np.random.default_rng(seed)).diagnostics["index"]
        for seed in range(40)
    }
    assert picks == {1, 2, 3}
    last = DPO(0.3, FinitePolicies(policies, last_of_tied))
    assert last.fit(data, p).diagnostics["index"] == 3
    # A loss only just smaller is no tie.
    close = policies[1:3].copy()
    close[1, 0, 0] -= 1e-12
    close[1, 0, 2] += 1e-12
    learned = DPO(0.3, FinitePolicies(close)).fit(data, p)
    np.testing.assert_array_equal(learned.diagnostics["tied"], [1])


# ---- log-linear policies -------------------------------------------------------------------------

FEATURES = np.random.default_rng(4).normal(size=(3, 5, 3))


def of_theta(learner, bandit, data):
    """Return the mean loss as a function of theta."""
    log_p = np.log(bandit.reference)

    def value(theta):
        logs = log_softmax(log_p + FEATURES @ theta, axis=1)
        return log_policy_loss(learner.loss, logs, log_p, data)

    return value


LOG_LINEAR = LogLinearPolicies(FEATURES, starts=4)


@pytest.mark.parametrize(
    "learner",
    [
        DPO(0.3, LOG_LINEAR),
        DPO(0.3, LOG_LINEAR, 0.1),
        ChiPO(0.3, policies=LOG_LINEAR),
        ChiPO(0.3, r_max=4.0, policies=LOG_LINEAR),
        ChiPOPractical(0.3, 0.25, 0.1, LOG_LINEAR),
        IPO(0.3, LOG_LINEAR),
        SLiC(policies=LOG_LINEAR),
        RPO(0.3, 0.1, LOG_LINEAR),
        SimPO(2.0, 0.3, policies=LOG_LINEAR),
        POWER(0.5, 0.1, policies=LOG_LINEAR),
    ],
    ids=lambda learner: learner.name,
)
def test_log_linear(learner, bandit, data):
    learned = learner.fit(data, bandit.reference, rng=np.random.default_rng(0))
    theta = learned.diagnostics["parameter"]
    logs = log_softmax(np.log(bandit.reference) + FEATURES @ theta, axis=1)
    np.testing.assert_allclose(learned.policy, np.exp(logs), rtol=1e-12)
    value = of_theta(learner, bandit, data)
    assert learned.objective == pytest.approx(value(theta), rel=1e-13)
    assert learned.residual < 1e-8
    for start in np.random.default_rng(1).normal(size=(3, 3)):
        found = minimize(value, start, method="Nelder-Mead", options={"maxiter": 400})
        assert learned.objective <= found.fun + 1e-9
    convex = not learner.name.startswith("chiPO")
    assert learned.diagnostics["global"] is convex
    if not convex:
        values = learned.diagnostics["values"]
        assert values.shape == (4,)
        assert values.min() == pytest.approx(learned.objective, rel=1e-13)
    without = learner.fit(data, bandit.reference)
    assert without.objective == pytest.approx(learned.objective, rel=1e-9)


def test_dpo_is_logistic_regression(bandit, data):
    learned = DPO(0.3, LOG_LINEAR).fit(data, bandit.reference)
    rows = FEATURES[data.prompt, data.chosen] - FEATURES[data.prompt, data.rejected]
    sign = np.where(np.arange(len(rows)) % 2 == 0, 1, -1)
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=5000)
    peer.fit(rows * sign[:, None], sign)
    np.testing.assert_allclose(
        0.3 * learned.diagnostics["parameter"], peer.coef_[0], rtol=1e-4, atol=1e-5
    )
    bounded = DPO(0.3, LogLinearPolicies(FEATURES, norm_bound=0.1)).fit(data, bandit.reference)
    assert np.linalg.norm(bounded.diagnostics["parameter"]) == pytest.approx(0.1, rel=1e-9)
    assert bounded.objective > learned.objective


def test_features_that_span_everything_give_all_policies(bandit, data):
    # Indicators of the compared responses less the first: the class is that of all policies.
    compared = count_pairs(data).compared
    places = [(x, y) for x, y in zip(*np.nonzero(compared), strict=True) if y > 0]
    features = np.zeros((3, 5, len(places)))
    for k, (x, y) in enumerate(places):
        features[x, y, k] = 1.0
    for make in (lambda c: DPO(0.3, c), lambda c: ChiPO(0.3, policies=c), lambda c: IPO(0.3, c)):
        everything = make(TabularPolicies()).fit(data, bandit.reference)
        some = make(LogLinearPolicies(features, starts=1)).fit(data, bandit.reference)
        assert some.objective == pytest.approx(everything.objective, abs=1e-11)


def test_separated_data_have_no_minimiser():
    data = PreferenceData([0, 0], [0, 1], [1, 2], (1, 3))
    features = np.array([[[2.0], [1.0], [0.0]]])
    p = np.full((1, 3), 1 / 3)
    with pytest.raises(MLEDoesNotExistError):
        DPO(0.3, LogLinearPolicies(features)).fit(data, p)
    with pytest.raises(LearnerError, match="may fall for ever") as caught:
        ChiPO(0.3, policies=LogLinearPolicies(features)).fit(data, p)
    assert caught.value.learned.objective < 0.5
    assert caught.value.learned.diagnostics["global"] is False


def test_the_judged_table():
    bandit = ContextualBandit.from_table(example_table(), win_probability="judge_preference")
    data = sample_preferences(bandit, 600, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    features = bandit.reward[..., None] + 0.3 * rng.normal(size=(*bandit.shape, 2))
    gibbs = [bandit.reference * np.exp(t * bandit.reward) for t in (-1.0, 1.0)]
    policies = FinitePolicies([g / g.sum(axis=1, keepdims=True) for g in gibbs])
    assert isinstance(policies, PolicyClass)
    for chosen in (policies, LogLinearPolicies(features, starts=2)):
        for learner in (DPO(0.3, chosen), ChiPO(0.3, policies=chosen), IPO(0.3, chosen)):
            learned = learner.fit(data, bandit.reference, prompt_dist=bandit.prompt_dist)
            assert bandit.value(learned.policy) > bandit.value(bandit.reference)
            assert (learned.policy[bandit.reference == 0] == 0).all()


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FinitePolicies(np.ones((2, 3))), r"policies has shape \(2, 3\)"),
        (lambda: FinitePolicies(np.ones((1, 1, 2))), r"policies\[0, 0\] sums to 2"),
        (lambda: FinitePolicies([[[1.5, -0.5]]]), r"policies\[0, 0, 1\] is -0.5"),
        (lambda: FinitePolicies([[[1.0]]], "first"), "tie_break is 'first'"),
        (lambda: LogLinearPolicies(np.ones((2, 3))), "features has shape"),
        (lambda: LogLinearPolicies(np.full((1, 2, 1), np.nan)), r"features\[0, 0, 0\] is nan"),
        (lambda: LogLinearPolicies(FEATURES, starts=0), "starts is 0"),
        (lambda: LogLinearPolicies(FEATURES, norm_bound=-1.0), "norm_bound is -1.0"),
    ],
)
def test_bad_settings(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        (DPO(0.1, FinitePolicies(np.full((1, 3, 4), 0.25))), r"must be \(X, Y\) = \(3, 5\)"),
        (DPO(0.1, FinitePolicies(np.eye(5)[None, [0, 0, 4]])), r"policies\[0\]: .* are 0"),
        (DPO(0.1, FinitePolicies(np.full((1, 3, 5), 0.2), lambda t, r: 7)), "tie_break returned 7"),
        (DPO(0.1, LogLinearPolicies(FEATURES[:2])), "features has shape"),
        (KTO(0.1, policies=LOG_LINEAR), "KTO takes no derivative"),
        (SLiC(1.0, 0.1, LOG_LINEAR), "has kinks"),
        (IPO(0.1, LogLinearPolicies(FEATURES, norm_bound=1.0)), "norm_bound is 1.0"),
    ],
    ids=lambda value: "" if isinstance(value, str) else value.name,
)
def test_combinations_without_sense(learner, words, bandit, data):
    with pytest.raises(ValueError, match=words):
        learner.fit(data, bandit.reference)
