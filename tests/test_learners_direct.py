"""Direct learners over all policies: equivalences, global minima, certificates, refusals."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_problems import from_wins
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from rlhfsim import KL, ChiSquared, ContextualBandit, JensenShannon, Tabular, example_table, solve
from rlhfsim.data import PairCounts, PreferenceData, count_pairs
from rlhfsim.divergences import AlphaDivergence
from rlhfsim.instances import random_bandit
from rlhfsim.learners import RLHF, Learner
from rlhfsim.learners.direct import (
    DPO,
    FDPO,
    IPO,
    KTO,
    POWER,
    REBEL,
    RPO,
    ChiPO,
    ChiPOPractical,
    Direct,
    SimPO,
    SLiC,
    TabularPolicies,
)
from rlhfsim.losses import (
    PracticalLink,
    dpo_without_log,
    log_policy_gradient,
    log_policy_loss,
    robust_dpo,
)
from rlhfsim.rewards import MLEDoesNotExistError
from rlhfsim.sampling import sample_preferences

WEIGHTS = np.random.default_rng(5).uniform(0.3, 1.5, (3, 5))
REWARD = np.random.default_rng(6).normal(size=(3, 5))
SMOOTH = (
    DPO(0.3),
    DPO(0.3, label_smoothing=0.1),
    DPO(0.3, TabularPolicies(r_max=0.4)),
    DPO(0.3, TabularPolicies(ridge=2.0)),
    ChiPO(0.3),
    ChiPO(0.3, gamma=0.2),
    ChiPO(0.3, r_max=3.0),
    ChiPOPractical(0.3, 0.25, 0.1),
    ChiPO.practical(0.3, 1.0, 1.0),
    FDPO(JensenShannon(), 0.3),
    FDPO(AlphaDivergence(0.5), 0.3),
    IPO(0.3),
    RPO(0.3, 0.05),
    REBEL(2.0, REWARD),
    REBEL(2.0),
    SimPO(2.0),
    SimPO(2.0, 0.5),
    SimPO(2.0, 0.5, WEIGHTS),
    POWER(0.5, 0.1),
    POWER(0.5, 0.1, WEIGHTS),
    Direct(robust_dpo(0.3, 0.1)),
)
KINKED = (SLiC(), SLiC(0.7, 0.1))
FREE = ("SimPO", "POWER", "SLiC")


def id_of(learner):
    if isinstance(learner, str):
        return learner.split()[0]
    return f"{learner.name}-{type(getattr(learner, 'weights', None)).__name__}"


@pytest.fixture(scope="module")
def bandit():
    return random_bandit(n_prompts=3, n_responses=5, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def data(bandit):
    return sample_preferences(bandit, 1500, np.random.default_rng(1))


@pytest.fixture(scope="module")
def spread():
    """Data in which every response won and lost."""
    uniform = np.full((3, 5), 0.2)
    bandit = ContextualBandit(np.full(3, 1 / 3), uniform, REWARD / 2)
    return sample_preferences(bandit, 1500, np.random.default_rng(1))


def columns(learner, counts):
    """Return the tables that a loss reads beside the policy."""
    return {"weights": learner._weights(), "reward": learner._reward(counts, None)}


def from_logits(learner, data, reference):
    """Return the loss and gradient of a softmax policy, for scipy."""
    counts, log_p = count_pairs(data), np.log(reference)
    tables = columns(learner, counts)

    def call(flat):
        logs = log_softmax(flat.reshape(reference.shape), axis=1)
        value = log_policy_loss(learner.loss, logs, log_p, counts, **tables)
        table = log_policy_gradient(learner.loss, logs, log_p, counts, **tables)
        return value, (table - np.exp(logs) * table.sum(axis=1, keepdims=True)).ravel()

    return call


def by_descent(learner, data, reference, starts=2):
    """Return the best loss that L-BFGS finds on the logits of the policy."""
    call, rng = from_logits(learner, data, reference), np.random.default_rng(7)
    values = []
    for k in range(starts):
        start = np.log(reference) + k * rng.normal(size=reference.shape)
        found = minimize(
            call,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 200, "maxfun": 250, "ftol": 1e-16, "gtol": 1e-8},
        )
        values.append(found.fun)
    return min(values)


# ---- the objective, its minimum and its certificate ----------------------------------------------


@pytest.mark.parametrize("learner", [*SMOOTH, *KINKED], ids=id_of)
def test_the_protocol(learner, bandit, data):
    assert isinstance(learner, Learner)
    p = bandit.reference
    learned = learner.fit(data, p)
    counts = count_pairs(data)
    with np.errstate(divide="ignore"):
        value = log_policy_loss(
            learner.loss, np.log(learned.policy), np.log(p), counts, **columns(learner, counts)
        )
    assert learned.objective == pytest.approx(value, rel=1e-13, abs=1e-15)
    assert learned.diagnostics["global"] is True
    assert learned.beta == learner.loss.beta
    assert 0 <= learned.residual < 1e-8
    pair = learned.policy[:, None], p[:, None]
    np.testing.assert_allclose(learned.diagnostics["kl"], KL()(*pair), rtol=1e-13)
    np.testing.assert_allclose(learned.diagnostics["chi_squared"], ChiSquared()(*pair), rtol=1e-13)
    np.testing.assert_array_equal(learned.diagnostics["compared"], counts.compared)
    from_counts = learner.fit(counts, p)
    np.testing.assert_array_equal(from_counts.policy, learned.policy)
    for again in (pickle.loads(pickle.dumps(learned)), pickle.loads(pickle.dumps(learner)).fit(
        data, p
    )):  # fmt: skip
        np.testing.assert_array_equal(again.policy, learned.policy)
    if learned.reward is not None:
        compared = counts.compared
        means = np.where(compared, learned.reward, 0).sum(axis=1)
        np.testing.assert_allclose(means, 0, atol=1e-9)


@pytest.mark.parametrize("learner", SMOOTH, ids=id_of)
def test_no_descent_gets_below(learner, bandit, data):
    p = bandit.reference
    learned = learner.fit(data, p)
    if learner.policies == TabularPolicies():
        best = by_descent(learner, data, p)
        assert learned.objective <= best + 1e-10
        # And the value is not too good to be true: the descent comes close.
        assert best <= learned.objective + 1e-4
        # Stationary in the logits, by the chain rule of the losses.
        with np.errstate(divide="ignore"):
            logits = np.log(np.maximum(learned.policy, 1e-300)).ravel()
        slope = from_logits(learner, data, p)(logits)[1]
        assert np.abs(slope).max() < 1e-9


@pytest.mark.parametrize("learner", KINKED, ids=id_of)
def test_kinked_losses(learner, bandit, data):
    learned = learner.fit(data, bandit.reference)
    best = by_descent(learner, data, bandit.reference, starts=1)
    assert learned.objective <= best + 1e-8
    assert best <= learned.objective + 0.02
    # In random directions from the minimiser, the loss does not fall.
    call, rng = from_logits(learner, data, bandit.reference), np.random.default_rng(0)
    at = np.log(np.maximum(learned.policy, 1e-100)).ravel()
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(10):
            assert call(at + size * rng.normal(size=at.size))[0] >= learned.objective - 1e-8


def test_the_hinge_counts_what_it_should():
    # 3 wins against 1: pushed to the margin and no further, one loss of 2 margins.
    data = from_wins([[0, 3], [1, 0]])
    learned = SLiC(1.5).fit(data, [[0.5, 0.5]])
    assert learned.objective == pytest.approx(2 * 1.5 / 4, rel=1e-12)
    np.testing.assert_allclose(learned.reward, [[0.75, -0.75]], rtol=1e-12)
    assert learned.diagnostics["unique"] is True
    # A chain of one-way wins has minimisers without end.
    chain = from_wins([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
    learned = SLiC(1.0).fit(chain, np.full((1, 3), 1 / 3))
    assert learned.objective == pytest.approx(0, abs=1e-12)
    assert learned.diagnostics["unique"] is False


# ---- equivalences --------------------------------------------------------------------------------

PAIRS = [
    (DPO(0.3), RLHF(0.3, KL())),
    (ChiPO(0.3), RLHF(0.3, ChiSquared() + KL())),
    (ChiPO(0.3, gamma=0.2), RLHF(0.3, ChiSquared() + 0.2 * KL())),
    (FDPO(JensenShannon(), 0.3), RLHF(0.3, JensenShannon())),
    (FDPO(KL(), 0.3), RLHF(0.3, KL())),
    (ChiPO(0.3, r_max=9.0), RLHF(0.3, ChiSquared() + KL())),
    (DPO(0.1, TabularPolicies(r_max=0.5)), RLHF(0.1, KL(), Tabular(r_max=0.5))),
    (ChiPO(0.1, 1, 1, TabularPolicies(r_max=2)), RLHF(0.1, ChiSquared() + KL(), Tabular(r_max=2))),
    (DPO(0.1, TabularPolicies(ridge=3)), RLHF(0.1, KL(), Tabular(ridge=3))),
]


@pytest.mark.parametrize(("direct", "two_step"), PAIRS, ids=lambda one: one.name)
def test_direct_is_two_step(direct, two_step, bandit, data):
    one, two = (learner.fit(data, bandit.reference) for learner in (direct, two_step))
    np.testing.assert_allclose(one.policy, two.policy, rtol=0, atol=1e-12)
    gap = one.reward - two.reward
    np.testing.assert_allclose(gap, np.broadcast_to(gap[:, :1], gap.shape), rtol=0, atol=1e-12)


@given(seed=st.integers(0, 10**6), beta=st.floats(0.05, 5.0), gamma=st.floats(0.05, 3.0))
@settings(max_examples=25)
def test_equivalences_of_random_problems(seed, beta, gamma):
    rng = np.random.default_rng(seed)
    bandit = random_bandit(2, int(rng.integers(2, 5)), rng)
    bound = TabularPolicies(r_max=2.0)
    data = sample_preferences(bandit, int(rng.integers(2, 60)), rng)
    for direct, divergence in (
        (DPO(beta, bound), KL()),
        (ChiPO(beta, gamma, None, bound), ChiSquared() + gamma * KL()),
    ):
        one = direct.fit(data, bandit.reference)
        two = RLHF(beta, divergence, Tabular(r_max=2.0)).fit(data, bandit.reference)
        np.testing.assert_allclose(one.policy, two.policy, rtol=0, atol=1e-12)


def test_ipo_is_weighted_least_squares(bandit, data):
    # h = 1/2 for every comparison, weighted by counts: solved with a dense pseudo-inverse.
    counts, learned = count_pairs(data), IPO(0.3).fit(data, bandit.reference)
    for x in range(3):
        at = counts.prompt == x
        rows = np.zeros((at.sum(), 5))
        rows[np.arange(at.sum()), counts.winner[at]] = 1
        rows[np.arange(at.sum()), counts.loser[at]] = -1
        root = np.sqrt(counts.count[at])
        s = np.linalg.lstsq(rows * root[:, None], 0.5 * root, rcond=None)[0]
        np.testing.assert_allclose(learned.reward[x], s, atol=1e-12)
        np.testing.assert_allclose(
            learned.policy[x], softmax(np.log(bandit.reference[x]) + s / 0.3), atol=1e-13
        )


def test_rebel_is_the_regularized_optimum(bandit, spread):
    learned = REBEL(2.0, REWARD).fit(spread, bandit.reference)
    optimum = solve(REWARD, bandit.reference, KL(), 0.5).policy
    np.testing.assert_allclose(learned.policy, optimum, atol=1e-12)
    assert learned.objective == pytest.approx(0.0, abs=1e-24)


def test_rpo_of_one_pair_in_closed_form():
    # 3 wins to 1 of two responses; pi = (q, 1 - q), from the first-order condition in q.
    data, beta, eta = from_wins([[0, 3], [1, 0]], responses=3), 0.7, 0.2
    p = np.array([[0.2, 0.5, 0.3]])
    learned = RPO(beta, eta).fit(data, p)
    assert learned.policy[0, 2] == 0
    assert learned.reward is None
    q = learned.policy[0, 0]
    lost = 1 / (1 + np.exp(beta * (np.log(q / 0.2) - np.log((1 - q) / 0.5))))
    slope = beta / (q * (1 - q)) * (-3 * lost + (1 - lost)) - 3 * eta / q + eta / (1 - q)
    assert slope == pytest.approx(0, abs=1e-12)


def test_responses_that_never_won_get_no_mass():
    data = from_wins([[0, 3, 2], [1, 0, 2], [0, 0, 0]])
    p = np.array([[0.2, 0.3, 0.5]])
    for learner in (RPO(0.5, 0.1), POWER(0.5, 0.1), SLiC(1.0, 0.1)):
        learned = learner.fit(data, p)
        assert learned.policy[0, 2] == 0
        assert (learned.policy[0, :2] > 0).all()
        assert learned.objective <= by_descent(learner, data, p, starts=1) + 1e-8


def test_power_weights_are_those_of_the_weighted_entropy(bandit, spread):
    # With next to no imitation, the scores are the Bradley-Terry estimate.
    learned = POWER(0.5, 1e-9, WEIGHTS).fit(spread, bandit.reference)
    scores = 0.5 * WEIGHTS * (1 + np.log(learned.policy))
    scores -= scores.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, DPO(0.3).fit(spread, bandit.reference).reward, atol=1e-5)


def test_the_practical_link_is_inverted(bandit, data):
    for alpha, gamma in ((0.25, 0.1), (1.0, 0.1), (1.0, 1.0)):
        learned = ChiPOPractical(0.05, alpha, gamma).fit(data, bandit.reference)
        u = np.log(learned.policy) - np.log(bandit.reference)
        scores = 0.05 * PracticalLink(alpha, gamma).value(u)
        scores -= scores.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(learned.reward, scores, atol=1e-12)
        np.testing.assert_allclose(learned.policy.sum(axis=1), 1, atol=1e-12)
    # With alpha = gamma = 1 it is chiPO's own, as long as no exponent is clipped.
    same = ChiPO(0.05).fit(data, bandit.reference)
    np.testing.assert_allclose(learned.policy, same.policy, atol=1e-11)


# ---- existence and uniqueness --------------------------------------------------------------------


@pytest.mark.parametrize(
    "learner",
    [DPO(0.1), ChiPO(0.1), FDPO(JensenShannon(), 0.1), SimPO(2.0), SimPO(2.0, 0.5)],
    ids=id_of,
)
@pytest.mark.parametrize(
    "wins",
    [
        [[0, 2, 1], [1, 0, 3], [0, 0, 0]],
        [[0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 2, 0]],
    ],
    ids=["never wins", "two islands"],
)
def test_no_minimiser(learner, wins):
    p = np.full((1, len(wins)), 1 / len(wins))
    with pytest.raises(MLEDoesNotExistError, match="no minimiser") as caught:
        learner.fit(from_wins(wins), p)
    assert caught.value.prompt == 0
    # Bounded, it exists.
    if not isinstance(learner, SimPO):
        bounded = type(learner)(**{**vars(learner), "policies": TabularPolicies(r_max=1.0)})
        assert np.ptp(bounded.fit(from_wins(wins), p).reward) <= 1 + 1e-12


def test_the_robust_loss_exists_where_no_cut_is_too_one_sided():
    # At a flip rate of 0.2, four wins to one are just too many.
    robust = Direct(robust_dpo(0.5, 0.2))
    p = [[0.5, 0.5]]
    assert robust.fit(from_wins([[0, 39], [10, 0]]), p).diagnostics["global"]
    for wins in (40, 41):
        with pytest.raises(MLEDoesNotExistError, match="does not rise when responses"):
            robust.fit(from_wins([[0, wins], [10, 0]]), p)
    # The rates it estimates are those before the flips.
    learned = robust.fit(from_wins([[0, 3], [2, 0]]), p)
    rate = (0.6 - 0.2) / 0.6
    gap = learned.reward[0, 0] - learned.reward[0, 1]
    assert gap == pytest.approx(np.log(rate / (1 - rate)), rel=1e-10)


def test_least_squares_centres_islands_and_keeps_the_reference():
    data = PreferenceData([0, 0], [0, 2], [1, 3], (2, 5))
    p = np.array([[0.1, 0.2, 0.3, 0.2, 0.2], [0.5, 0.1, 0.1, 0.1, 0.2]])
    learned = IPO(0.5).fit(data, p)
    np.testing.assert_allclose(learned.reward[0], [0.25, -0.25, 0.25, -0.25, 0], atol=1e-14)
    np.testing.assert_allclose(learned.policy[1], p[1], rtol=1e-14)
    assert learned.diagnostics["unique"] is False


@pytest.mark.parametrize(
    "learner",
    [SLiC(), SLiC(1.0, 0.1), RPO(0.3, 0.1), POWER(0.5, 0.1), KTO(0.3), IPO(0.3),
     SimPO(2.0, 0.5, policies=TabularPolicies(ridge=0.1)), ChiPO(0.3, r_max=1.0),
     SimPO(2.0, policies=TabularPolicies(r_max=1.0))],
    ids=id_of,
)  # fmt: skip
def test_prompts_without_comparisons_keep_the_reference(learner):
    data = PreferenceData([0, 0, 0, 1], [0, 1, 0, 2], [1, 0, 1, 2], (2, 3))
    p = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    learned = learner.fit(data, p)
    np.testing.assert_allclose(learned.policy[1], p[1], rtol=1e-14)
    assert np.abs(learned.policy[0] - p[0]).max() > 0.01


# ---- laws, tables --------------------------------------------------------------------------------


def test_a_law_gives_the_optimum_of_the_true_reward(bandit):
    p, r = bandit.reference, bandit.reward
    x, i, j = (a.ravel() for a in np.meshgrid(range(3), range(5), range(5), indexing="ij"))
    keep = i != j
    x, i, j = x[keep], i[keep], j[keep]
    law = PairCounts(x, i, j, 2 * p[x, i] * p[x, j] / (3 * (1 + np.exp(r[x, j] - r[x, i]))),
                     float((p**2).sum() / 3), (3, 5))  # fmt: skip
    for learner, divergence in ((DPO(0.4), KL()), (ChiPO(0.4), ChiSquared() + KL())):
        learned = learner.fit(law, p)
        np.testing.assert_allclose(learned.policy, solve(r, p, divergence, 0.4).policy, atol=1e-9)


@pytest.mark.parametrize(
    "learner",
    [
        DPO(0.3, TabularPolicies(r_max=3.0)),
        ChiPO(0.3, 1.0, 2.0, TabularPolicies(r_max=3.0)),
        ChiPOPractical(0.3, 0.25, 0.1, TabularPolicies(ridge=0.1)),
        FDPO(JensenShannon(), 0.3, TabularPolicies(ridge=0.1)),
        IPO(0.3),
        SLiC(),
        SLiC(1.0, 0.1),
        RPO(0.3, 0.1),
        REBEL(1.0, Tabular(ridge=0.1)),
        SimPO(2.0, policies=TabularPolicies(ridge=0.1)),
        SimPO(2.0, 0.5, policies=TabularPolicies(ridge=0.1)),
        POWER(0.5, 0.1),
        KTO(0.3),
    ],
    ids=id_of,
)
def test_the_judged_table(learner):
    bandit = ContextualBandit.from_table(example_table(), win_probability="judge_preference")
    data = sample_preferences(bandit, 600, np.random.default_rng(0))
    learned = learner.fit(data, bandit.reference, prompt_dist=bandit.prompt_dist)
    np.testing.assert_allclose(learned.policy.sum(axis=1), 1, atol=1e-12)
    # Responses that the table does not have get no mass.
    assert (learned.policy[bandit.reference == 0] == 0).all()
    assert learned.residual < 1e-6
    assert bandit.value(learned.policy) > bandit.value(bandit.reference)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DPO(0.0), "beta is 0.0"),
        (lambda: DPO(np.nan), "beta is nan"),
        (lambda: DPO(0.1, label_smoothing=0.5), "label_smoothing is 0.5"),
        (lambda: DPO(0.1, TabularPolicies), "policies is .*must be a class of policies"),
        (lambda: ChiPO(0.1, gamma=0.0), "gamma is 0.0"),
        (lambda: ChiPO(0.1, r_max=-1.0), "r_max is -1.0"),
        (lambda: ChiPOPractical(0.1, alpha=0.0), "alpha is 0.0"),
        (lambda: FDPO(ChiSquared(), 0.1), r"f'\(0\+\) = -1.0; it must be -inf"),
        (lambda: FDPO("KL", 0.1), "divergence is 'KL'"),
        (lambda: IPO(-1.0), "beta is -1.0"),
        (lambda: SLiC(-1.0), "margin is -1.0"),
        (lambda: RPO(0.1, 0.0), "weight is 0.0|eta is 0.0"),
        (lambda: REBEL(0.0), "eta is 0.0"),
        (lambda: REBEL(1.0, Tabular), "must be a reward model"),
        (lambda: REBEL(1.0, [[np.inf]]), r"reward\[0, 0\] is inf"),
        (lambda: SimPO(1.0, weights=[[0.0]]), r"weights\[0, 0\] is 0.0"),
        (lambda: POWER(0.1, -1.0), "eta is -1.0"),
        (lambda: KTO(0.1, undesirable_weight=0.0), "undesirable_weight is 0.0"),
        (lambda: Direct("dpo"), "loss is 'dpo'"),
        (lambda: Direct(robust_dpo(0.1, 0.2), weights=[[1.0]]), "weights are given"),
        (lambda: TabularPolicies(r_max=0.0), "r_max is 0.0"),
        (lambda: TabularPolicies(r_max=701.0), "at most 700"),
        (lambda: TabularPolicies(ridge=1e-70), "at least 1e-60"),
        (lambda: TabularPolicies(r_max=1.0, ridge=1.0), "at most one"),
    ],
)
def test_bad_settings(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        (Direct(dpo_without_log(0.1)), "must be convex"),
        (ChiPOPractical(0.1, 1.0, 0.0), "gamma must be positive"),
        (IPO(0.1, TabularPolicies(r_max=1.0)), "no likelihood"),
        (SLiC(policies=TabularPolicies(ridge=1.0)), "ridge is 1.0; it must be None"),
        (RPO(0.1, 0.1, TabularPolicies(ridge=1.0)), "imitation bounds"),
        (KTO(0.1, policies=TabularPolicies(r_max=1.0)), "KTO is no loss of comparisons"),
        (ChiPO(0.1, 1.0, 1.0, TabularPolicies(r_max=2.5)), "clipped at 2"),
        (KTO(1.5), "beta <= 1"),
        (SimPO(1.0, weights=np.ones((2, 5))), r"weights has shape \(2, 5\)"),
        (REBEL(1.0, np.ones((2, 5))), r"reward has shape \(2, 5\)"),
    ],
    ids=id_of,
)
def test_combinations_without_sense(learner, words, bandit, data):
    with pytest.raises(ValueError, match=words):
        learner.fit(data, bandit.reference)


def test_bad_arguments(bandit, data):
    with pytest.raises(ValueError, match=r"reference has shape \(3, 4\)"):
        DPO(0.1).fit(data, np.full((3, 4), 0.25))
    with pytest.raises(ValueError, match="prompt_dist sums to"):
        DPO(0.1).fit(data, bandit.reference, prompt_dist=[0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="rng is a int"):
        DPO(0.1).fit(data, bandit.reference, rng=1)
    p = np.array([[0.0, 1.0]])
    with pytest.raises(ValueError, match=r"reference\[0, 0\] is 0; it must be positive"):
        DPO(0.1).fit(from_wins([[0, 1], [1, 0]]), p)
    nothing = np.empty(0, dtype=np.int64)
    empty = PairCounts(nothing, nothing, nothing, np.empty(0), 0.0, (1, 2))
    with pytest.raises(ValueError, match="there must be some"):
        DPO(0.1).fit(empty, [[0.5, 0.5]])
