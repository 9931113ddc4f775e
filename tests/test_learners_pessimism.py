"""Pessimistic learners: the saddle point by other routes, and the guarantees on their event."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from rlhfsim import (
    KL,
    ChiSquared,
    ContextualBandit,
    FiniteClass,
    JensenShannon,
    Linear,
    Tabular,
    example_table,
    fit_reward,
    solve,
)
from rlhfsim.data import PairCounts, PreferenceData, count_pairs
from rlhfsim.divergences import ALL_DIVERGENCES, ForwardKL
from rlhfsim.instances import random_bandit
from rlhfsim.learners import RLHF, Learned, Learner, LearnerError
from rlhfsim.learners.pessimism import (
    Asymptotic,
    FixedRadius,
    HighProbability,
    PessimisticLikelihood,
    PessimisticMLE,
    pointwise_regret_bound,
    regret_bound,
)
from rlhfsim.learners.pessimism.ball import worst_of_ball
from rlhfsim.learners.pessimism.game import Game
from rlhfsim.learners.pessimism.settings import certified, relative
from rlhfsim.learners.pessimism.simplex import worst_of_mixtures
from rlhfsim.rewards.confidence import Ellipsoid, ellipsoid, finite_likelihood_set
from rlhfsim.sampling import sample_preferences

RNG = np.random.default_rng(0)
BANDIT = random_bandit(n_prompts=3, n_responses=5, rng=RNG)
DATA = sample_preferences(BANDIT, 300, RNG)
RHO, P = BANDIT.prompt_dist, BANDIT.reference
PHI = np.concatenate([BANDIT.reward[..., None], RNG.normal(size=(3, 5, 2))], axis=2)
MODEL = Linear(PHI, ridge=1.0)
CLASS = FiniteClass(BANDIT.reward + 0.7 * RNG.normal(size=(12, 3, 5)))
OTHER = RNG.dirichlet(np.ones(5), 3)

MIXED = ChiSquared() + KL()
LEARNERS = (
    PessimisticMLE(0.1, MODEL, FixedRadius(1.0)),
    PessimisticMLE(0.1, MODEL, HighProbability(0.1, norm_bound=2.0), ChiSquared()),
    PessimisticMLE(0.1, MODEL, Asymptotic(0.05), MIXED, baseline=OTHER),
    PessimisticMLE(0.1, MODEL, FixedRadius(1.0), pointwise=True),
    PessimisticMLE(0.1, MODEL, Asymptotic(0.1), JensenShannon(), True, OTHER),
    PessimisticLikelihood(0.1, CLASS, delta=0.1),
    PessimisticLikelihood(0.1, CLASS, radius=30.0, divergence=MIXED, baseline=OTHER),
)


def gains(reward, policy, baseline=P, rho=RHO):
    """Return J(pi) - J(nu)."""
    return float(rho @ ((policy - baseline) * reward).sum(axis=1))


def regularized(reward, policy, learner, baseline=P):
    """Return J(pi) - J(nu) - beta D(pi || p)."""
    return gains(reward, policy, baseline) - learner.beta * float(
        learner.divergence(policy, P, RHO)
    )


def baseline_of(learner):
    return P if learner.baseline is None else learner.baseline


def norm(covariance, vector):
    """Return the norm in the inverse covariance, without any factorisation of the library's."""
    return float(np.sqrt(vector @ np.linalg.inv(covariance) @ vector))


def mean_features(policy, features=PHI, rho=RHO):
    return np.einsum("x,xy,xyd->d", rho, policy, features)


# ---- the protocol --------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_the_protocol(learner):
    assert isinstance(learner, Learner)
    learned = learner.fit(DATA, P, prompt_dist=RHO)
    nu, notes = baseline_of(learner), learned.diagnostics
    fit = fit_reward(DATA, learner.model)
    np.testing.assert_array_equal(learned.reward, fit.reward)
    assert notes["log_likelihood"] == fit.log_likelihood
    assert 0 <= learned.residual < 1e-12
    assert learned.beta == 0.1
    np.testing.assert_allclose(notes["kl"], KL()(learned.policy[:, None], P[:, None]), rtol=1e-14)
    # The policy is the optimum of the reward that is reported, whose own value is the objective.
    best = solve(notes["pessimistic_reward"], P, learner.divergence, 0.1)
    np.testing.assert_array_equal(learned.policy, best.policy)
    assert learned.objective == pytest.approx(float(RHO @ best.value), abs=1e-12)
    np.testing.assert_allclose(
        (nu * notes["pessimistic_reward"]).sum(axis=1)[
            : 3 * (not getattr(learner, "pointwise", False))
        ],
        0,
        atol=1e-13,
    )
    penalty = 0.1 * float(learner.divergence(learned.policy, P, RHO))
    assert notes["lower_bound"] == pytest.approx(learned.objective + penalty, abs=1e-13)
    again = learner.fit(count_pairs(DATA), P, prompt_dist=RHO)
    np.testing.assert_array_equal(again.policy, learned.policy)
    copy = pickle.loads(pickle.dumps((learner, learned)))
    np.testing.assert_array_equal(copy[1].policy, learned.policy)
    np.testing.assert_array_equal(copy[0].fit(DATA, P, prompt_dist=RHO).policy, learned.policy)
    if learner.baseline is not None:
        assert not copy[0].baseline.flags.writeable


def judged():
    bandit = ContextualBandit.from_table(example_table())
    length = np.log1p(bandit.proxy_reward / bandit.proxy_reward.max())
    features = np.stack([length, length**2], axis=2)
    scales = np.array([0.0, 0.5, 1.0, 2.0])[:, None, None]
    rewards = np.concatenate([scales * bandit.reward, 5 * scales[1:] * length])
    return bandit, Linear(features, ridge=0.1), FiniteClass(rewards)


@pytest.mark.parametrize("divergence", [KL(), ChiSquared(), MIXED], ids=repr)
def test_the_judged_table(divergence):
    bandit, linear, finite = judged()
    data = sample_preferences(bandit, 500, np.random.default_rng(2))
    for learner in (
        PessimisticMLE(0.05, linear, HighProbability(0.1, norm_bound=3.0), divergence),
        PessimisticMLE(0.05, linear, Asymptotic(0.1), divergence),
        PessimisticMLE(0.05, linear, Asymptotic(0.1), divergence, pointwise=True),
        PessimisticLikelihood(0.05, finite, delta=0.1, divergence=divergence),
    ):
        learned = learner.fit(data, bandit.reference, prompt_dist=bandit.prompt_dist)
        assert learned.residual < 1e-12
        assert (learned.policy[~bandit.available] == 0).all()
        assert learned.objective >= -1e-12  # the reference itself has objective 0
    # The class holds the truth, and the length that can be gamed is ruled out.
    gain = bandit.value(learned.policy) - bandit.value(bandit.reference)
    assert gain >= learned.diagnostics["lower_bound"] > 0.1
    weights = learned.diagnostics["weights"]
    assert weights[2] == pytest.approx(1, abs=0.5)
    assert weights[4:].sum() < 1e-9


# ---- the worst case of an ellipsoid, by other routes ---------------------------------------------


@pytest.mark.parametrize("divergence", ALL_DIVERGENCES, ids=repr)
def test_the_objective_is_the_worst_case(divergence):
    learner = PessimisticMLE(0.2, MODEL, FixedRadius(0.7, 2.0), divergence, baseline=OTHER)
    learned = learner.fit(DATA, P, prompt_dist=RHO)
    pairs = count_pairs(DATA)
    difference = PHI[pairs.prompt, pairs.winner] - PHI[pairs.prompt, pairs.loser]
    sigma = 2.0 * np.eye(3) + (pairs.count[:, None] * difference).T @ difference

    def objective(policy):
        move = mean_features(policy) - mean_features(OTHER)
        penalty = 0.7 * norm(sigma, move)
        return regularized(learned.reward, policy, learner, OTHER) - penalty

    assert learned.objective == pytest.approx(objective(learned.policy), abs=1e-12)
    # Concave: no neighbour of the optimum may be better.
    rng = np.random.default_rng(3)
    for _ in range(40):
        other = rng.dirichlet(np.ones(5), 3)
        for step in (1e-3, 0.1, 1.0):
            moved = (1 - step) * learned.policy + step * other
            assert objective(moved) <= learned.objective + 1e-12


@pytest.mark.parametrize("divergence", [KL(), ChiSquared(), MIXED], ids=repr)
@pytest.mark.parametrize("radius", [0.0, 0.5, 3.0])
def test_agrees_with_the_conic_program(divergence, radius):
    pytest.importorskip("cvxpy")
    from rlhfsim.solvers import solve_convex

    learner = PessimisticMLE(0.1, MODEL, FixedRadius(radius), divergence, baseline=OTHER)
    learned = learner.fit(DATA, P, prompt_dist=RHO)
    sigma = learned.diagnostics["confidence"].covariance
    root = np.linalg.cholesky(np.linalg.inv(sigma))
    conic = solve_convex(
        learned.reward, P, divergence, 0.1, prompt_dist=RHO,
        ellipsoid=(PHI @ root, radius), baseline=OTHER, second_solver=None,
    )  # fmt: skip
    value = conic.value - float(RHO @ (OTHER * learned.reward).sum(axis=1))
    assert learned.objective == pytest.approx(value, abs=1e-7)
    np.testing.assert_allclose(learned.policy, conic.policy, atol=1e-4)


def one_feature(beta, divergence, radius, centre, baseline=None):
    """One prompt, responses of features 1, 0, -1; `theta_hat = centre` and Sigma = 1."""
    features = np.array([[[1.0], [0.0], [-1.0]]])

    class Given:
        def around(self, data, model, fit):
            return Ellipsoid([centre], [[1.0]], radius, features)

    class Fitted(Linear):
        def fit(self, data, rng=None):
            return replace(
                super().fit(data), parameter=np.array([centre]), reward=centre * features[..., 0]
            )

    data = PreferenceData([0], [0], [2], (1, 3))
    learner = PessimisticMLE(
        beta, Fitted(features, ridge=1.0), Given(), divergence, False, baseline
    )
    return learner, data


@pytest.mark.parametrize("divergence", ALL_DIVERGENCES, ids=repr)
@pytest.mark.parametrize("centre", [0.8, 0.1])
def test_one_feature_is_a_search_over_its_weight(divergence, centre):
    reference = np.array([[0.2, 0.5, 0.3]])
    nu = np.array([[0.5, 0.3, 0.2]])
    learner, data = one_feature(0.3, divergence, 0.5, centre, nu)
    learned = learner.fit(data, reference)
    phi = np.array([1.0, 0.0, -1.0])

    def best(theta):
        return float(solve(theta * (phi - nu[0] @ phi), reference[0], divergence, 0.3).value)

    ends = (centre - 0.5, centre + 0.5)
    inner = minimize_scalar(best, bounds=ends, method="bounded", options={"xatol": 1e-10})
    worst = min(inner.fun, *map(best, ends))
    assert learned.objective == pytest.approx(worst, abs=1e-11)
    assert best(centre) > worst + 1e-4


def test_no_radius_is_rlhf():
    for divergence in (KL(), ChiSquared()):
        plain = RLHF(0.3, divergence, MODEL).fit(DATA, P, prompt_dist=RHO)
        for pointwise in (False, True):
            learner = PessimisticMLE(0.3, MODEL, FixedRadius(0.0), divergence, pointwise)
            learned = learner.fit(DATA, P, prompt_dist=RHO)
            np.testing.assert_allclose(learned.policy, plain.policy, rtol=1e-12)
    one = FiniteClass(CLASS.rewards[:1])
    plain = RLHF(0.3, KL(), one).fit(DATA, P)
    learned = PessimisticLikelihood(0.3, one, delta=0.1).fit(DATA, P, prompt_dist=RHO)
    np.testing.assert_allclose(learned.policy, plain.policy, rtol=1e-12)


def test_a_set_that_holds_indifference_leaves_the_reference():
    # With theta = 0 in the ellipsoid every gain over the reference might be none.
    learned = PessimisticMLE(0.1, MODEL, FixedRadius(1e3)).fit(DATA, P, prompt_dist=RHO)
    np.testing.assert_allclose(learned.policy, P, atol=1e-12)
    assert learned.objective == pytest.approx(0, abs=1e-12)
    assert learned.diagnostics["lower_bound"] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(learned.diagnostics["pessimistic_reward"], 0, atol=1e-10)


@pytest.mark.parametrize(
    ("divergence", "betas"),
    [
        (KL(), (1e-2, 1e-4, 1e-6)),
        (ChiSquared(), (1e-2, 1e-4, 1e-6)),
        (MIXED, (1e-2, 1e-4, 1e-6)),
        (ForwardKL(), (1e-2, 1e-3)),
    ],
    ids=repr,
)
def test_little_regularization(divergence, betas):
    for beta in betas:
        learners = (
            PessimisticMLE(beta, MODEL, FixedRadius(2.0), divergence),
            PessimisticLikelihood(beta, CLASS, delta=0.1, divergence=divergence),
        )
        for learner in learners:
            learned = learner.fit(DATA, P, prompt_dist=RHO)
            assert learned.residual < 1e-9
            assert learned.objective > 0


def test_games_of_many_shapes_and_scales():
    rng = np.random.default_rng(7)
    for _ in range(80):
        x, y, k = (int(rng.integers(low, top)) for low, top in ((1, 6), (2, 12), (1, 9)))
        p, rho = rng.dirichlet(np.ones(y), x), rng.dirichlet(np.ones(x))
        base = relative(rng.normal(size=(x, y)), p)
        factor = relative(rng.normal(size=(x, y, k)), p) * 10 ** rng.uniform(-2, 1)
        beta = float(10 ** rng.uniform(-5, 0))
        game = Game(base, factor, p, (KL(), ChiSquared(), MIXED)[rng.integers(3)], beta, rho)
        for worst in (worst_of_ball, worst_of_mixtures):
            saddle = worst(game)
            assert saddle.gap <= 1e-9 * game.size
            at = saddle.response.point
            inside = np.linalg.norm(at) if worst is worst_of_ball else at.sum()
            assert inside <= 1 + 1e-14
            # No point of the set is lower than G allows, from its value and gradient alone.
            points = rng.normal(size=(20, k))
            points /= np.linalg.norm(points, axis=1, keepdims=True)
            if worst is worst_of_mixtures:
                points = rng.dirichlet(np.full(k, 0.3), 20)
            reached = game.value(saddle.response)
            for point in points:
                assert game.value(game.respond(point)) >= reached - 1e-9 * game.size


@pytest.mark.parametrize(("worst", "seed"), [(worst_of_mixtures, 2), (worst_of_ball, 50)])
def test_little_regularization_is_approached_step_by_step(worst, seed):
    # Newton's method started at this beta ends with gaps of 4 % and 10 % of the rewards.
    rng = np.random.default_rng(seed)
    p, rho = rng.dirichlet(np.ones(11), 2), rng.dirichlet(np.ones(2))
    base = relative(rng.normal(size=(2, 11)), p)
    factor = relative(10 * rng.normal(size=(2, 11, 6)), p)
    game = Game(base, factor, p, KL(), 1e-4, rho)
    assert worst(game).gap <= 1e-10 * game.size


def test_shifted_features_change_nothing():
    shifted = PHI + 10.0 * np.arange(9).reshape(3, 1, 3)
    for pointwise in (False, True):
        first = PessimisticMLE(0.1, MODEL, FixedRadius(1.0), KL(), pointwise)
        second = replace(first, model=Linear(shifted, ridge=1.0))
        one, two = (each.fit(DATA, P, prompt_dist=RHO) for each in (first, second))
        np.testing.assert_allclose(two.policy, one.policy, rtol=1e-9)
        assert two.objective == pytest.approx(one.objective, abs=1e-11)


def test_prompts_that_never_come_are_answered():
    rho = np.array([0.4, 0.0, 0.6])
    for learner in LEARNERS:
        learned = learner.fit(DATA, P, prompt_dist=rho)
        assert learned.residual < 1e-12
        some = learner.divergence(learned.policy, P, rho)
        assert learned.diagnostics["lower_bound"] == pytest.approx(
            learned.objective + 0.1 * float(some), abs=1e-12
        )


def test_responses_without_reference_mass():
    p = np.array([[0.5, 0.5, 0.0, 0.0, 0.0]] * 3)
    for learner in LEARNERS:
        learned = learner.fit(DATA, p, prompt_dist=RHO)
        if np.isinf(learner.divergence.recession):
            assert (learned.policy[:, 2:] == 0).all()
        assert learned.residual < 1e-12
    outside = replace(LEARNERS[0], divergence=ForwardKL()).fit(DATA, p, prompt_dist=RHO)
    assert outside.policy[:, 2:].max() > 0.01


# ---- pointwise -----------------------------------------------------------------------------------


def test_pointwise_is_the_optimum_of_the_penalised_reward():
    learner = PessimisticMLE(0.1, MODEL, FixedRadius(0.9), ChiSquared(), True, OTHER)
    learned = learner.fit(DATA, P)
    sigma = learned.diagnostics["confidence"].covariance
    reward = np.empty((3, 5))
    for x in range(3):
        nu = OTHER[x] @ PHI[x]
        for y in range(5):
            reward[x, y] = learned.reward[x, y] - 0.9 * norm(sigma, PHI[x, y] - nu)
    np.testing.assert_allclose(
        learned.policy, solve(reward, P, ChiSquared(), 0.1).policy, atol=1e-12
    )
    assert learned.objective is None
    assert learned.diagnostics["lower_bound"] is None
    told = learner.fit(DATA, P, prompt_dist=RHO)
    np.testing.assert_array_equal(told.policy, learned.policy)
    bonus = 0.9 * np.array(
        [[norm(sigma, PHI[x, y] - OTHER[x] @ PHI[x]) for y in range(5)] for x in range(3)]
    )
    lower = gains(learned.reward, told.policy, OTHER) - float(
        RHO @ (told.policy * bonus).sum(axis=1)
    )
    assert told.diagnostics["lower_bound"] == pytest.approx(lower, abs=1e-12)


# ---- what is guaranteed when the set holds the truth ---------------------------------------------


@given(
    seed=st.integers(0, 2**32 - 1),
    depth=st.sampled_from([0.0, 0.5, 1.0]),
    radius=st.sampled_from([0.1, 1.0, 4.0]),
    beta=st.sampled_from([0.01, 0.3]),
    pointwise=st.booleans(),
    divergence=st.sampled_from([KL(), ChiSquared(), MIXED]),
    other=st.booleans(),
)
def test_guarantees_of_ellipsoids(seed, depth, radius, beta, pointwise, divergence, other):
    rng = np.random.default_rng(seed)
    nu = OTHER if other else P
    learner = PessimisticMLE(beta, MODEL, FixedRadius(radius), divergence, pointwise, nu)
    learned = learner.fit(DATA, P, prompt_dist=RHO)
    region = learned.diagnostics["confidence"]
    comparator = rng.dirichlet(np.full(5, 0.3), 3)
    way = rng.normal(size=3)
    # Half of the time the truth that is worst for the comparison of the two policies.
    if rng.random() < 0.5:
        way = np.linalg.inv(region.covariance) @ (
            mean_features(comparator) - mean_features(learned.policy)
        )
    length = np.sqrt(way @ region.covariance @ way)
    truth = PHI @ (region.centre + depth * radius * way / max(length, 1e-300))
    lower = learned.diagnostics["lower_bound"]
    assert gains(truth, learned.policy, nu) >= lower - 1e-11
    regret = regularized(truth, comparator, learner, nu) - regularized(
        truth, learned.policy, learner, nu
    )
    bound = pointwise_regret_bound if pointwise else regret_bound
    assert regret <= bound(region, comparator, nu, RHO) + 1e-11


def test_the_lower_bound_is_attained_and_only_inside():
    learner = PessimisticMLE(0.1, MODEL, FixedRadius(1.0))
    learned = learner.fit(DATA, P, prompt_dist=RHO)
    region = learned.diagnostics["confidence"]
    back = np.linalg.inv(region.covariance)
    move = mean_features(learned.policy) - mean_features(P)
    away = back @ move / norm(region.covariance, move)
    lower = learned.diagnostics["lower_bound"]
    for depth, attained in ((1.0, lower), (0.5, None), (2.0, None)):
        gain = gains(PHI @ (region.centre - depth * away), learned.policy)
        if attained is not None:
            assert gain == pytest.approx(lower, abs=1e-12)
        else:
            assert (gain > lower + 0.01) == (depth < 1)


@pytest.mark.parametrize("divergence", [KL(), ChiSquared(), MIXED], ids=repr)
def test_the_regret_bound_is_tight(divergence):
    # The estimate is as far from indifference as the set is wide, so the learner stays at the
    # reference; the truth is at the far end.
    reference = np.array([[0.3, 0.4, 0.3]])
    learner, data = one_feature(1e-4, divergence, 1.0, 1.0)
    learned = learner.fit(data, reference)
    np.testing.assert_allclose(learned.policy, reference, atol=1e-9)
    truth = 2.0 * np.array([1.0, 0.0, -1.0])
    comparator = np.array([[0.9, 0.1, 0.0]])
    cost = 1e-4 * float(divergence(comparator, reference))
    regret = float(((comparator - learned.policy) @ truth).sum()) - cost
    bound = regret_bound(learned.diagnostics["confidence"], comparator, reference)
    assert bound == pytest.approx(1.8, rel=1e-12)
    assert 0.999 * bound < regret <= bound
    # Its two responses lie to one side of the baseline, so the pointwise bound is close to it.
    pointwise = replace(learner, pointwise=True).fit(data, reference)
    np.testing.assert_allclose(pointwise.policy[0, :2].sum(), 0.7, atol=0.3)
    loose = pointwise_regret_bound(learned.diagnostics["confidence"], comparator, reference)
    assert loose == pytest.approx(1.8, rel=1e-12)
    regret = float(((comparator - pointwise.policy) @ truth).sum()) - cost
    assert regret <= loose


def test_pointwise_regret_bound_is_tight():
    # No response but the middle one has a sure gain; ties are broken by the reference.
    reference = np.array([[0.005, 0.99, 0.005]])
    learner, data = one_feature(1e-3, KL(), 1.0, 1.0)
    learned = replace(learner, pointwise=True).fit(data, reference)
    assert learned.policy[0, 1] > 0.98
    comparator = np.array([[0.9, 0.1, 0.0]])
    truth = 2.0 * np.array([1.0, 0.0, -1.0])
    cost = 1e-3 * (float(KL()(comparator, reference)) - float(KL()(learned.policy, reference)))
    regret = float(((comparator - learned.policy) @ truth).sum()) - cost
    bound = pointwise_regret_bound(learned.diagnostics["confidence"], comparator, reference)
    assert bound == pytest.approx(1.8, rel=1e-12)
    assert 0.98 * bound < regret <= bound


def test_with_high_probability_on_data():
    # The truth is linear; the ellipsoid of level 0.1 holds it far more often than 90 % of the time.
    truth = 0.8 * PHI[..., 0] - 0.4 * PHI[..., 1]
    bandit = ContextualBandit(RHO, P, truth)
    learner = PessimisticMLE(0.1, MODEL, HighProbability(0.1, norm_bound=1.0))
    for seed in range(20):
        data = sample_preferences(bandit, 2000, np.random.default_rng(seed))
        learned = learner.fit(data, P, prompt_dist=RHO)
        assert learned.diagnostics["confidence"].contains([0.8, -0.4, 0.0])
        assert gains(truth, learned.policy) >= learned.diagnostics["lower_bound"]


def test_rules_are_the_confidence_sets():
    fit = fit_reward(DATA, MODEL)
    counts = count_pairs(DATA)
    made = HighProbability(0.1, 2.0, 3.0, 1.5).around(counts, MODEL, fit)
    named = ellipsoid(DATA, MODEL, fit, 0.1, norm_bound=2.0, regularization=3.0, reward_gap=1.5)
    assert made.radius == named.radius
    np.testing.assert_array_equal(made.covariance, named.covariance)
    wald = Asymptotic(0.1).around(counts, MODEL, fit)
    np.testing.assert_array_equal(wald.covariance, fit.information)
    assert wald.radius == pytest.approx(np.sqrt(6.251388631170325), rel=1e-12)  # chi2(3), 90 %


# ---- likelihood-ratio sets -----------------------------------------------------------------------


@pytest.mark.parametrize("divergence", [KL(), ChiSquared()], ids=repr)
@pytest.mark.parametrize("size", [2, 12])
def test_the_worst_mixture_is_the_saddle_point(divergence, size):
    cp = pytest.importorskip("cvxpy")
    learner = PessimisticLikelihood(
        0.2, FiniteClass(CLASS.rewards[:size]), radius=1e6, divergence=divergence, baseline=OTHER
    )
    learned = learner.fit(DATA, P, prompt_dist=RHO)
    policy, worst = cp.Variable((3, 5), nonneg=True), cp.Variable()
    constraints = [cp.sum(policy, axis=1) == 1]
    for reward in learner.model.rewards:
        weighted = RHO[:, None] * reward
        constraints.append(worst <= cp.sum(cp.multiply(weighted, policy - OTHER)))
    each = cp.rel_entr(policy, P) if divergence == KL() else 0.5 * cp.square(policy - P) / P
    cost = cp.sum(cp.multiply(RHO[:, None] * np.ones((1, 5)), each))
    problem = cp.Problem(cp.Maximize(worst - 0.2 * cost), constraints)
    value = problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    assert learned.objective == pytest.approx(value, abs=1e-8)
    np.testing.assert_allclose(learned.policy, policy.value, atol=1e-4)
    # Only rewards that are worst for the policy have weight.
    weights = learned.diagnostics["weights"]
    lower = learned.diagnostics["lower_bound"]
    values = np.array([gains(r, learned.policy, OTHER) for r in learner.model.rewards])
    assert values.min() == pytest.approx(lower, abs=1e-13)
    np.testing.assert_allclose(values[weights > 0], lower, atol=1e-12)
    assert weights.sum() == pytest.approx(1, abs=1e-14)
    assert (weights >= 0).all()
    mixture = np.tensordot(weights, learner.model.rewards, axes=1)
    np.testing.assert_allclose(
        learned.policy, solve(mixture, P, divergence, 0.2).policy, atol=1e-12
    )


@pytest.mark.parametrize("divergence", ALL_DIVERGENCES, ids=repr)
def test_two_rewards_are_a_search_over_their_weight(divergence):
    rewards = np.stack([BANDIT.reward, PHI[..., 1] - 2.0 * BANDIT.reward])
    learner = PessimisticLikelihood(
        0.2, FiniteClass(rewards), radius=1e6, divergence=divergence, baseline=OTHER
    )
    learned = learner.fit(DATA, P, prompt_dist=RHO)

    def best(weight):
        mixture = (1 - weight) * rewards[0] + weight * rewards[1]
        value = float(RHO @ solve(mixture, P, divergence, 0.2).value)
        return value - float(RHO @ (OTHER * mixture).sum(axis=1))

    inner = minimize_scalar(best, bounds=(0, 1), method="bounded", options={"xatol": 1e-10})
    assert learned.objective == pytest.approx(min(inner.fun, best(0), best(1)), abs=1e-11)
    # The search is not for an end, so that the answer says where the minimum is.
    assert min(best(0), best(1)) > inner.fun + 1e-5


def test_members_are_those_of_the_confidence_set():
    region = finite_likelihood_set(DATA, CLASS, 0.1)
    assert 1 < len(region.members) < 12
    learned = PessimisticLikelihood(0.1, CLASS, delta=0.1).fit(DATA, P, prompt_dist=RHO)
    np.testing.assert_array_equal(learned.diagnostics["confidence"].members, region.members)
    assert set(np.nonzero(learned.diagnostics["weights"])[0]) <= set(region.members)
    # Doubled members change no policy, and a class of the members alone is the same problem.
    twice = FiniteClass(np.concatenate([CLASS.rewards[region.members]] * 2))
    again = PessimisticLikelihood(0.1, twice, radius=region.radius)
    np.testing.assert_allclose(
        again.fit(DATA, P, prompt_dist=RHO).policy, learned.policy, atol=1e-10
    )


def test_many_rewards():
    rng = np.random.default_rng(5)
    many = FiniteClass(rng.normal(size=(400, 3, 5)))
    learned = PessimisticLikelihood(0.05, many, radius=1e6).fit(DATA, P, prompt_dist=RHO)
    assert learned.residual < 1e-12
    # All signs occur among so many, so nothing is gained for sure.
    np.testing.assert_allclose(learned.policy, P, atol=1e-10)
    shifted = FiniteClass(0.4 * rng.normal(size=(400, 3, 5)) + BANDIT.reward)
    learned = PessimisticLikelihood(0.05, shifted, radius=1e6).fit(DATA, P, prompt_dist=RHO)
    assert learned.residual < 1e-12
    assert learned.objective > 1e-4


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 6),
    truth=st.integers(0, 5),
    beta=st.sampled_from([0.01, 0.3]),
    divergence=st.sampled_from([KL(), ChiSquared(), MIXED]),
)
def test_guarantees_of_likelihood_sets(seed, size, truth, beta, divergence):
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(size, 3, 5))
    learner = PessimisticLikelihood(
        beta, FiniteClass(rewards), radius=1e6, divergence=divergence, baseline=OTHER
    )
    learned = learner.fit(DATA, P, prompt_dist=RHO)
    true = rewards[truth % size]
    comparator = rng.dirichlet(np.full(5, 0.3), 3)
    assert gains(true, learned.policy, OTHER) >= learned.diagnostics["lower_bound"] - 1e-11
    regret = regularized(true, comparator, learner, OTHER) - regularized(
        true, learned.policy, learner, OTHER
    )
    region = learned.diagnostics["confidence"]
    assert regret <= regret_bound(region, comparator, OTHER, RHO) + 1e-11


def test_the_regret_bound_of_a_likelihood_set_is_tight():
    # One reward says that nothing differs, the other that the first response is better by 2.
    rewards = np.array([[[0.0, 0.0]], [[2.0, 0.0]]])
    reference, comparator = np.array([[0.01, 0.99]]), np.array([[1.0, 0.0]])
    data = PreferenceData([0], [0], [1], (1, 2))
    learned = PessimisticLikelihood(1e-3, FiniteClass(rewards), radius=10.0).fit(data, reference)
    np.testing.assert_allclose(learned.policy, reference, atol=1e-9)
    cost = 1e-3 * float(KL()(comparator, reference))
    regret = float((comparator - learned.policy)[0] @ rewards[1, 0]) - cost
    bound = regret_bound(learned.diagnostics["confidence"], comparator, reference)
    assert bound == pytest.approx(2 * 0.99, rel=1e-12)
    assert 0.99 * bound < regret <= bound


# ---- what is refused -----------------------------------------------------------------------------


def test_a_bad_certificate_is_an_error():
    learned = Learned(P)
    assert certified(learned, 1e-6, 1e4) is learned
    assert certified(learned, 0.0, 0.0) is learned
    for gap in (1e-6, np.nan):
        with pytest.raises(LearnerError, match="no certified saddle point: duality gap") as caught:
            certified(learned, gap, 1.0)
        assert caught.value.learned is learned
    # Regularization far below what floats resolve is refused, with what was reached.
    with pytest.raises(LearnerError, match="a beta that is larger") as caught:
        PessimisticMLE(1e-10, MODEL, FixedRadius(2.0)).fit(DATA, P, prompt_dist=RHO)
    assert caught.value.learned.residual > 1e-9


def test_a_single_response():
    data = PairCounts(*np.empty((3, 0), dtype=int), np.empty(0), 2.0, (1, 1))
    for learner in (
        PessimisticMLE(0.1, Linear(np.ones((1, 1, 2)), ridge=1.0), FixedRadius(1.0)),
        PessimisticLikelihood(0.1, FiniteClass(np.arange(3.0).reshape(3, 1, 1)), delta=0.1),
    ):
        learned = learner.fit(data, [[1.0]])
        np.testing.assert_array_equal(learned.policy, [[1.0]])
        assert learned.objective == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PessimisticMLE(0.0, MODEL, FixedRadius(1.0)), "beta is 0.0"),
        (lambda: PessimisticMLE(1.0, Tabular(), FixedRadius(1.0)), "model is .*must be a Linear"),
        (lambda: PessimisticMLE(1.0, MODEL, 1.0), "confidence is 1.0; it must be a rule"),
        (lambda: PessimisticMLE(1.0, MODEL, FixedRadius), "confidence is <class"),
        (lambda: PessimisticMLE(1.0, MODEL, FixedRadius(1.0), "KL"), "divergence is 'KL'"),
        (lambda: PessimisticMLE(1.0, MODEL, FixedRadius(1.0), KL(), 1), "pointwise is 1"),
        (
            lambda: PessimisticMLE(1.0, MODEL, FixedRadius(1.0), baseline=2 * P),
            r"baseline\[0\] sums to 2",
        ),
        (
            lambda: PessimisticMLE(1.0, MODEL, FixedRadius(1.0), baseline=P[:2]).fit(DATA, P),
            r"baseline has shape \(2, 5\); it must have shape \(3, 5\)",
        ),
        (
            lambda: PessimisticMLE(1.0, MODEL, FixedRadius(1.0)).fit(DATA, P),
            "prompt_dist is missing; with 3 prompts",
        ),
        (
            lambda: PessimisticMLE(1.0, MODEL, FixedRadius(1.0)).fit(DATA, 2 * P),
            "reference.0. sums",
        ),
        (lambda: LEARNERS[0].fit([1], P), "data is a list"),
        (
            lambda: PessimisticMLE(1.0, MODEL, HighProbability(0.1)).fit(DATA, P, prompt_dist=RHO),
            "norm_bound is None",
        ),
        (lambda: FixedRadius(-1.0), "radius is -1.0"),
        (lambda: FixedRadius(1.0, 0.0), "regularization is 0.0"),
        (lambda: HighProbability(1.0), "delta is 1.0; it must be below 1"),
        (lambda: Asymptotic(0.0), "delta is 0.0"),
        (lambda: PessimisticLikelihood(1.0, MODEL, delta=0.1), "it must be a FiniteClass"),
        (lambda: PessimisticLikelihood(1.0, CLASS), "exactly one must be given"),
        (lambda: PessimisticLikelihood(1.0, CLASS, 0.1, 1.0), "exactly one must be given"),
        (lambda: PessimisticLikelihood(1.0, CLASS, 1.5), "delta is 1.5"),
        (lambda: PessimisticLikelihood(1.0, CLASS, radius=-1.0), "radius is -1.0"),
        (lambda: PessimisticLikelihood(np.nan, CLASS, 0.1), "beta is nan"),
        (
            lambda: PessimisticLikelihood(1.0, CLASS, 0.1).fit(DATA, P),
            "prompt_dist is missing; with 3 prompts",
        ),
        (lambda: regret_bound(CLASS, P, P), "prompt_dist is missing"),
        (lambda: regret_bound(CLASS, P, P[:2], RHO), r"baseline has shape \(2, 5\)"),
        (lambda: regret_bound(CLASS, 2 * P, P, RHO), r"comparator\[0\] sums to 2"),
        (lambda: regret_bound(CLASS, P, P, [1.0]), r"prompt_dist has shape \(1,\)"),
        (lambda: pointwise_regret_bound(CLASS, P, P, RHO), "confidence is a FiniteClass"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_data_of_another_shape_and_empty_data():
    other = PairCounts([0], [0], [1], [1.0], 0.0, (3, 4))
    with pytest.raises(ValueError, match="features has shape"):
        LEARNERS[0].fit(other, np.full((3, 4), 0.25), prompt_dist=RHO)
    # Nothing was compared: everything stays possible, and the learner at the reference.
    none = PairCounts(*np.empty((3, 0), dtype=int), np.empty(0), 0.0, (3, 5))
    for learner in (
        LEARNERS[0],
        PessimisticLikelihood(
            0.1, FiniteClass(np.stack([BANDIT.reward, -BANDIT.reward])), delta=0.5
        ),
    ):
        learned = learner.fit(none, P, prompt_dist=RHO)
        np.testing.assert_allclose(learned.policy, P, atol=1e-12)


def test_the_callers_arrays_are_kept():
    nu = OTHER.copy()
    learner = PessimisticMLE(0.1, MODEL, FixedRadius(1.0), baseline=nu)
    nu[:] = 0.2
    np.testing.assert_array_equal(learner.baseline, OTHER)
    assert not learner.baseline.flags.writeable
