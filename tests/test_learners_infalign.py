"""InfAlign and CTRL against listing all draws, general optimisers and scans of the simplex."""

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax

from rlhfsim import KL, ContextualBandit, Tabular, example_table, fit_reward, solve
from rlhfsim.data import PreferenceData, count_pairs
from rlhfsim.inference import best_of_n, calibrated_reward, worst_of_n
from rlhfsim.instances import random_bandit
from rlhfsim.learners.base import Learner, LearnerError
from rlhfsim.learners.infalign import (
    CTRL,
    BestOf,
    ExponentialTransform,
    IdentityTransform,
    InfAlign,
    LogarithmicTransform,
    PlainSampling,
    WorstOf,
    infalign_optimum,
    inference_win_rate,
    win_rate_gradient,
)
from rlhfsim.sampling import sample_preferences

BOX = Tabular(r_max=3.0)
PROCEDURES = (PlainSampling(), BestOf(1), BestOf(2), BestOf(4), WorstOf(2), WorstOf(4))
procedures = st.sampled_from(PROCEDURES)


@st.composite
def problems(draw):
    """Policy, reference and tied rewards of up to 4 responses; the reference may have zeros."""
    size = draw(st.integers(1, 4))
    weights = st.lists(st.integers(0, 9), min_size=size, max_size=size).filter(any)
    policy, reference = (np.array(draw(weights), dtype=float) for _ in range(2))
    policy[reference == 0] = 0
    if not policy.any():
        policy = reference.copy()
    reward = np.array(draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)), dtype=float)
    return policy[None] / policy.sum(), reference[None] / reference.sum(), reward[None]


def chosen(procedure, rewards):
    """Reward of the response that the procedure chooses."""
    return min(rewards) if isinstance(procedure, WorstOf) else max(rewards)


def listed_win_rate(policy, reference, reward, procedure):
    """The win rate and its derivative, over all draws; a polynomial in the policy."""
    n, size = procedure.n, len(reward)
    against = np.zeros(size)
    for draws in itertools.product(range(size), repeat=n):
        z = chosen(procedure, reward[list(draws)])
        against += np.prod(reference[list(draws)]) * ((reward > z) + 0.5 * (reward == z))
    quantile = dict(zip(reward, against, strict=True))
    rate, slope = 0.0, np.zeros(size)
    for draws in itertools.product(range(size), repeat=n):
        won = quantile[chosen(procedure, reward[list(draws)])]
        rate += won * np.prod(policy[list(draws)])
        for i, y in enumerate(draws):
            slope[y] += won * np.prod(policy[list(draws[:i] + draws[i + 1 :])])
    return rate, slope


def own_objective(policy, reference, reward, procedure, beta):
    rate = inference_win_rate(policy, reference, reward, procedure)
    return float(rate) - beta * float(KL()(policy, reference))


# ---- the win rate and its derivative -------------------------------------------------------------


@given(procedure=procedures, problem=problems())
def test_win_rate_and_gradient_agree_with_listing_all_draws(procedure, problem):
    policy, reference, reward = problem
    rate, slope = listed_win_rate(policy[0], reference[0], reward[0], procedure)
    assert float(inference_win_rate(*problem, procedure)) == pytest.approx(rate, abs=1e-14)
    np.testing.assert_allclose(win_rate_gradient(*problem, procedure)[0], slope, atol=1e-13)


@given(problem=problems())
def test_with_one_draw_the_gradient_is_the_calibrated_reward(problem):
    policy, reference, reward = problem
    for procedure in (PlainSampling(), BestOf(1), WorstOf(1)):
        np.testing.assert_allclose(
            win_rate_gradient(policy, reference, reward, procedure),
            calibrated_reward(reward, reference),
            atol=1e-15,
        )


def test_laws():
    policy, reward = np.array([[0.2, 0.3, 0.5]]), np.array([[1.0, 0.0, 1.0]])
    np.testing.assert_array_equal(BestOf(3).law(policy, reward), best_of_n(policy, reward, 3))
    np.testing.assert_array_equal(WorstOf(3).law(policy, reward), worst_of_n(policy, reward, 3))
    np.testing.assert_array_equal(PlainSampling().law(policy, reward), policy)
    # Two responses of reward 1 against one of reward 0, two draws each side.
    assert float(inference_win_rate(policy, policy, reward, BestOf(2))) == pytest.approx(0.5)
    weak = np.array([[0.0, 1.0, 0.0]])
    assert float(inference_win_rate(weak, policy, reward, BestOf(2))) == pytest.approx(0.045)
    assert float(inference_win_rate(weak, policy, reward, WorstOf(2))) == pytest.approx(0.255)


# ---- the optimum ---------------------------------------------------------------------------------


@given(
    procedure=procedures,
    problem=problems(),
    beta=st.floats(0.01, 3.0),
    draws=st.integers(0, 2**32 - 1),
)
def test_the_optimum_is_a_fixed_point_and_no_policy_is_better(procedure, problem, beta, draws):
    _, reference, reward = problem
    learned = infalign_optimum(reward, reference, procedure, beta)
    slope = win_rate_gradient(learned.policy, reference, reward, procedure)
    np.testing.assert_allclose(learned.diagnostics["transformed_reward"], slope, atol=1e-13)
    # The Gibbs policy of the transformed reward, from the solver.
    again = solve(slope, reference, KL(), beta).policy
    np.testing.assert_allclose(again, learned.policy, atol=1e-11)
    assert learned.residual <= 1e-11
    rate = float(inference_win_rate(learned.policy, reference, reward, procedure))
    assert learned.diagnostics["win_rate"][0] == pytest.approx(rate, abs=1e-13)
    assert learned.objective == pytest.approx(
        own_objective(learned.policy, reference, reward, procedure, beta), abs=1e-12
    )
    rng = np.random.default_rng(draws)
    others = [reference, solve(reward, reference, KL(), beta).policy]
    others += [rng.dirichlet(np.ones(reward.shape[1]), 1) for _ in range(3)]
    for other in others:
        inside = np.where(reference > 0, other, 0.0)
        inside /= inside.sum() or 1.0
        if inside.any():
            value = own_objective(inside, reference, reward, procedure, beta)
            assert value <= learned.objective + 1e-12


@pytest.mark.parametrize("procedure", [BestOf(3), WorstOf(3), BestOf(8), WorstOf(8)])
@pytest.mark.parametrize("beta", [0.5, 0.05])
def test_a_general_optimiser_finds_the_same_optimum(procedure, beta):
    rng = np.random.default_rng(5)
    reference = rng.dirichlet(np.ones(6), 1)
    reward = np.array([[0.3, 0.1, 0.3, 0.9, 0.4, -1.0]])

    def loss(logits):
        log_policy = log_softmax(logits)
        policy = np.exp(log_policy)[None]
        slope = win_rate_gradient(policy, reference, reward, procedure)
        slope = slope - beta * (log_policy - np.log(reference))
        slope = policy * (slope - (policy * slope).sum())
        return -own_objective(policy, reference, reward, procedure, beta), -slope[0]

    starts = [np.log(reference[0]), *rng.normal(scale=3.0, size=(4, 6))]
    found = [minimize(loss, s, jac=True, method="BFGS", options={"gtol": 1e-8}) for s in starts]
    learned = infalign_optimum(reward, reference, procedure, beta)
    best = min(found, key=lambda result: result.fun)
    assert -best.fun - 1e-13 <= learned.objective <= -best.fun + 1e-7
    np.testing.assert_allclose(learned.policy[0], np.exp(log_softmax(best.x)), atol=1e-3)


@pytest.mark.parametrize("beta", [0.001, 0.002, 0.01, 0.1, 0.3, 1.0])
def test_all_stationary_points_of_worst_of_n_are_found(beta):
    """Of two responses, where with `pi(better) = sigmoid(t)` and `C = 1/2` between the rewards

    stationarity is `t - log(p/(1 - p)) = n/2 pi^(n - 1)/beta`: scan t for changes of sign.
    """
    n, p = 6, np.array([[0.75, 0.25]])
    t = np.linspace(-5.0, 3500.0, 700_002)
    mass = 1.0 / (1.0 + np.exp(-np.minimum(t, 700.0)))
    missing = t - np.log(1 / 3) - n / 2 * mass ** (n - 1) / beta
    roots = np.count_nonzero(np.diff(missing > 0))
    learned = infalign_optimum([[0.0, 1.0]], p, WorstOf(n), beta)
    assert learned.diagnostics["stationary_points"][0] == roots
    # The win rate against the reference's worst of six, and the best of the scan.
    base = p[0, 1] ** n
    rate = mass**n * (1 - base / 2) + (1 - mass**n) * (1 - base) / 2
    rest = 1.0 / (1.0 + np.exp(np.minimum(t, 700.0)))
    cost = mass * np.log(mass / 0.25) + rest * np.log(rest / 0.75)
    best = (rate - beta * cost).max()
    assert best - 1e-12 <= learned.objective <= best + 1e-4


def test_worst_of_n_can_have_three_stationary_points():
    counts = [
        infalign_optimum([[0.0, 1.0]], [[0.75, 0.25]], WorstOf(6), beta).diagnostics[
            "stationary_points"
        ][0]
        for beta in (0.001, 0.1, 1.0)
    ]
    assert counts == [1, 3, 1]


def test_the_optimum_jumps_between_local_maxima():
    """From all on the better response to nearly the reference, as beta grows."""
    betas = np.geomspace(0.05, 1.0, 60)
    mass = [
        infalign_optimum([[0.0, 1.0]], [[0.75, 0.25]], WorstOf(6), b).policy[0, 1] for b in betas
    ]
    steps = -np.diff(mass)
    assert (steps > -1e-12).all()
    assert steps.max() > 0.4
    assert np.sort(steps)[-2] < 0.1


def test_it_beats_rlhf_on_its_own_objective():
    """Strictly: RLHF of the reward, and of its calibrated form, are not what best-of-4 needs."""
    bandit = random_bandit(n_prompts=4, n_responses=8, rng=np.random.default_rng(2))
    reward, p, rho = bandit.reward, bandit.reference, bandit.prompt_dist
    for procedure in (BestOf(4), WorstOf(4)):
        learned = infalign_optimum(reward, p, procedure, 0.05, rho)
        for alternative in (reward, calibrated_reward(reward, p)):
            other = solve(alternative, p, KL(), 0.05).policy
            rate = inference_win_rate(other, p, reward, procedure, rho)
            assert learned.objective > float(rate) - 0.05 * float(KL()(other, p, rho)) + 1e-3


@given(problem=problems(), n=st.integers(2, 6))
def test_only_the_order_of_rewards_matters(problem, n):
    _, reference, reward = problem
    for procedure in (BestOf(n), WorstOf(n)):
        one = infalign_optimum(reward, reference, procedure, 0.1)
        other = infalign_optimum(7.0 * np.exp(reward) - 100.0, reference, procedure, 0.1)
        np.testing.assert_array_equal(one.policy, other.policy)
        # Tied responses share a ratio.
        ratio = np.divide(
            one.policy, reference, where=reference > 0, out=np.full(reward.shape, np.nan)
        )
        for level in np.unique(reward):
            tied = ratio[(reward == level) & (reference > 0)]
            np.testing.assert_allclose(tied, tied[:1].repeat(tied.size), rtol=1e-12)


@pytest.mark.parametrize("procedure", [BestOf(50), WorstOf(50)])
def test_rare_responses_are_no_obstacle(procedure):
    rare = np.array([[1.0 - 1e-12, 1e-12, 1e-320, 0.0]])
    reward = np.array([[0.0, 1.0, 2.0, 3.0]])
    learned = infalign_optimum(reward, rare, procedure, 0.01)
    assert learned.policy[0, 3] == 0
    assert learned.objective >= own_objective(rare, rare, reward, procedure, 0.01)
    if isinstance(procedure, WorstOf):
        # The worst of 50 draws of the reference is the common response: 27.6 nats are worth it.
        # Beyond that response nothing is gained, and ratios stay equal.
        assert learned.policy[0, 1] == pytest.approx(1.0, abs=1e-12)
        assert learned.policy[0, 2] / 1e-320 == pytest.approx(1e12, rel=1e-9)


def test_digits_are_kept_where_the_reference_is_denormal():
    """One draw of two responses: the odds are `p/(1 - p) e^(1/(2 beta))`."""
    beta = 0.5 / 736.0
    learned = infalign_optimum([[0.0, 1.0]], [[1.0, 1e-320]], PlainSampling(), beta)
    odds = np.exp(np.log(1e-320) + 736.0)
    found = learned.policy[0, 1] / learned.policy[0, 0]
    assert found == pytest.approx(odds, rel=1e-11)


def test_many_draws_and_levels():
    rng = np.random.default_rng(0)
    reference, reward = rng.dirichlet(np.ones(60), 2), rng.normal(size=(2, 60))
    for procedure in (BestOf(5000), WorstOf(5000)):
        assert infalign_optimum(reward, reference, procedure, 0.5).residual < 1e-10


def test_a_bad_certificate_raises():
    rng = np.random.default_rng(1)
    reference, reward = rng.dirichlet(np.ones(8), 1), rng.normal(size=(1, 8))
    with pytest.raises(LearnerError, match="no certified optimum at prompt 0") as caught:
        infalign_optimum(reward, reference, BestOf(4), 1e-9)
    assert caught.value.learned.residual > 1e-10


# ---- CTRL ----------------------------------------------------------------------------------------


def test_transforms():
    c = np.array([0.25, 0.5, 1.0])
    np.testing.assert_array_equal(IdentityTransform()(c), c)
    np.testing.assert_allclose(ExponentialTransform(2.0)(c), np.exp([0.5, 1.0, 2.0]))
    np.testing.assert_allclose(ExponentialTransform(-2.0)(c), -np.exp([-0.5, -1.0, -2.0]))
    np.testing.assert_allclose(LogarithmicTransform()(c), np.log(c))


def test_the_logarithm_gives_best_of_n():
    """`p c^(n-1)`: the distance from best-of-n falls with the mass of a response."""
    distance = []
    for size in (20, 40, 80):
        reward, p = np.arange(size, dtype=float), np.full(size, 1 / size)
        score = LogarithmicTransform()(calibrated_reward(reward, p))
        policy = solve(score, p, KL(), 1 / 3).policy
        distance.append(0.5 * np.abs(policy - best_of_n(reward=reward, reference=p, n=4)).sum())
    assert distance[0] < 0.01
    # Midpoints of F^4 - (F-)^4: the error is of second order.
    np.testing.assert_allclose(np.divide(distance[:-1], distance[1:]), 4.0, rtol=0.05)


LEARNERS = (
    InfAlign(PlainSampling(), 0.1, BOX),
    InfAlign(BestOf(4), 0.1, BOX),
    InfAlign(WorstOf(4), 0.1, BOX),
    CTRL(0.1, model=BOX),
    CTRL(0.1, ExponentialTransform(5.0), BOX),
    CTRL(0.1, ExponentialTransform(-5.0), BOX),
    CTRL(0.1, LogarithmicTransform(), BOX),
)


@pytest.fixture(scope="module", params=["random", "judged table"])
def bandit(request):
    if request.param == "random":
        return random_bandit(n_prompts=3, n_responses=5, rng=np.random.default_rng(0))
    return ContextualBandit.from_table(example_table())


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_the_protocol(learner, bandit):
    data = sample_preferences(bandit, 400, np.random.default_rng(1))
    p, rho = bandit.reference, bandit.prompt_dist
    assert isinstance(learner, Learner)
    learned = learner.fit(data, p, prompt_dist=rho)
    fit = fit_reward(data, BOX)
    np.testing.assert_array_equal(learned.reward, fit.reward)
    assert learned.diagnostics["log_likelihood"] == fit.log_likelihood
    assert learned.beta == 0.1
    assert learned.residual < 1e-11
    assert (learned.policy[p == 0] == 0).all()
    if isinstance(learner, InfAlign):
        rate = float(inference_win_rate(learned.policy, p, fit.reward, learner.procedure, rho))
    else:
        quantile = calibrated_reward(fit.reward, p)
        score = np.where(p > 0, learner.transform(np.where(p > 0, quantile, 1.0)), 0.0)
        np.testing.assert_array_equal(learned.diagnostics["calibrated_reward"], quantile)
        np.testing.assert_array_equal(learned.diagnostics["transformed_reward"], score)
        weight = p * np.exp(score / 0.1 - (score / 0.1).max(axis=1, keepdims=True))
        expected = weight / weight.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(learned.policy, expected, atol=1e-12)
        rate = float(rho @ (learned.policy * score).sum(axis=1))
    assert learned.objective == pytest.approx(
        rate - 0.1 * float(KL()(learned.policy, p, rho)), rel=1e-11
    )
    # Gauges of the reward, and whether data or counts are given, change nothing.
    again = learner.fit(count_pairs(data), p)
    np.testing.assert_array_equal(again.policy, learned.policy)
    assert again.objective is None
    assert pickle.loads(pickle.dumps(learner)) == learner
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(learned)).policy, learned.policy)


def test_one_draw_is_ctrl_without_a_transform(bandit):
    data = sample_preferences(bandit, 400, np.random.default_rng(1))
    policies = [
        learner.fit(data, bandit.reference).policy
        for learner in (
            CTRL(0.2, model=BOX),
            InfAlign(PlainSampling(), 0.2, BOX),
            InfAlign(BestOf(1), 0.2, BOX),
            InfAlign(WorstOf(1), 0.2, BOX),
        )
    ]
    for policy in policies[1:]:
        np.testing.assert_allclose(policy, policies[0], rtol=1e-12)


DATA = PreferenceData([0], [1], [0], (1, 2))
HALF = [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BestOf(0), "n is 0; it must be at least 1"),
        (lambda: WorstOf(1.5), "n is 1.5; it must be an integer"),
        (lambda: InfAlign("best of 4", 0.1), "procedure is 'best of 4'; it must be an inference"),
        (lambda: InfAlign(BestOf(2), 0.0), "beta is 0.0"),
        (lambda: InfAlign(BestOf(2), 1.0, "Tabular"), "model is 'Tabular'"),
        (lambda: CTRL(-1.0), "beta is -1.0"),
        (lambda: CTRL(1.0, np.exp), "transform is <ufunc 'exp'>"),
        (lambda: ExponentialTransform(0.0), "rate is 0.0"),
        (lambda: ExponentialTransform(1e4), "rate is 10000.0"),
        (lambda: ExponentialTransform(np.nan), "rate is nan"),
        (lambda: InfAlign(BestOf(2), 1.0, BOX).fit(DATA, [[0.5, 0.6]]), r"reference\[0\] sums"),
        (lambda: CTRL(1.0, model=BOX).fit(DATA, [[1.0]]), r"reference has shape \(1, 1\)"),
        (lambda: infalign_optimum([1.0, 0.0], HALF, BestOf(2), 1.0), r"reward has shape \(2,\)"),
        (lambda: infalign_optimum([[1, np.nan]], HALF, BestOf(2), 1.0), r"reward\[0, 1\] is nan"),
        (
            lambda: infalign_optimum([[1.0, 0.0]], HALF, BestOf(2), 1.0, [0.5, 0.5]),
            r"prompt_dist has shape \(2,\)",
        ),
        (lambda: win_rate_gradient([[2.0, -1.0]], HALF, HALF, BestOf(2)), r"policy\[0, 1\] is -1"),
        (lambda: inference_win_rate(HALF, HALF, HALF, 4), "procedure is 4"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
