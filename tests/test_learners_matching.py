"""Distribution matching: constraints met, identities of projections, and general optimisers."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize

from rlhfsim import KL, ContextualBandit, Tabular, example_table, fit_reward
from rlhfsim.data import PreferenceData
from rlhfsim.inference import calibrated_reward, win_rate
from rlhfsim.instances import random_bandit
from rlhfsim.learners import RLHF, Learner
from rlhfsim.learners.base import LearnerError
from rlhfsim.learners.matching import (
    AtLeastQuantile,
    DistributionMatching,
    ExponentialReward,
    Moments,
    Pointwise,
    WinRate,
    exponential_tilt,
    match_moments,
    pointwise_target,
)
from rlhfsim.sampling import sample_preferences

BOX = Tabular(r_max=3.0)


def mean_of(policy, features, rho):
    return np.einsum("x,xy,xyi->i", rho, policy, features)


@st.composite
def problems(draw):
    """Reference, features, prompts, and a policy that uses all of the reference's support."""
    seed = draw(st.integers(0, 2**32 - 1))
    prompts, size, count = (draw(st.integers(*range_)) for range_ in ((1, 3), (2, 6), (1, 3)))
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(size), (2, prompts))
    if draw(st.booleans()):
        p[:, 0] = q[:, 0] = 0.0
        p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    features = rng.normal(size=(prompts, size, count)) * draw(st.sampled_from([1e-3, 1.0, 1e3]))
    if draw(st.booleans()):
        features = np.round(features)
    return p, features, rng.dirichlet(np.ones(prompts)), q


# ---- moments -------------------------------------------------------------------------------------


@given(problem=problems())
def test_the_target_is_a_tilt_and_has_the_moments(problem):
    p, features, rho, q = problem
    moments = mean_of(q, features, rho)
    learned = match_moments(p, features, moments, rho)
    scale = np.ptp(features, axis=(0, 1)) + 1e-300
    found = mean_of(learned.policy, features, rho)
    np.testing.assert_allclose(found / scale, moments / scale, atol=1e-9)
    tilt = exponential_tilt(p, features, learned.diagnostics["parameter"])
    np.testing.assert_allclose(tilt, learned.policy, atol=1e-9)
    assert learned.objective == pytest.approx(float(KL()(learned.policy, p, rho)), rel=1e-12)
    # The Pythagorean identity, exact for every policy q with the moments.
    assert float(KL()(q, p, rho)) == pytest.approx(
        float(KL()(q, learned.policy, rho)) + learned.objective, abs=1e-8
    )


def test_a_tilt_by_hand():
    p, features = np.array([[0.25, 0.75]]), np.array([[[1.0], [0.0]]])
    np.testing.assert_allclose(exponential_tilt(p, features, [np.log(3.0)]), [[0.5, 0.5]])
    learned = match_moments(p, features, [0.9])
    np.testing.assert_allclose(learned.policy, [[0.9, 0.1]], rtol=1e-12)
    # Odds 9 from odds 1/3.
    assert learned.diagnostics["parameter"][0] == pytest.approx(np.log(27.0), rel=1e-12)


def test_a_general_optimiser_finds_the_same_target():
    """The primal, over policies, against the dual."""
    rng = np.random.default_rng(3)
    p, rho = rng.dirichlet(np.ones(4), 2), np.array([0.3, 0.7])
    features = rng.normal(size=(2, 4, 2))
    moments = mean_of(rng.dirichlet(np.ones(4), 2), features, rho)
    constraints = [
        {"type": "eq", "fun": lambda v: v.reshape(2, 4).sum(axis=1) - 1},
        {"type": "eq", "fun": lambda v: mean_of(v.reshape(2, 4), features, rho) - moments},
    ]
    found = minimize(
        lambda v: float((rho[:, None] * v.reshape(2, 4) * np.log(v.reshape(2, 4) / p)).sum()),
        p.ravel(),
        bounds=[(1e-9, 1.0)] * 8,
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    learned = match_moments(p, features, moments, rho)
    assert learned.objective == pytest.approx(found.fun, abs=1e-8)
    np.testing.assert_allclose(learned.policy.ravel(), found.x, atol=1e-4)


def test_one_moment_by_bisection():
    rng = np.random.default_rng(4)
    p, phi = rng.dirichlet(np.ones(50), 1), rng.exponential(size=(1, 50, 1))

    def excess(parameter):
        return float(mean_of(exponential_tilt(p, phi, [parameter]), phi, np.ones(1))[0]) - 2.0

    root = brentq(excess, -50, 50, xtol=1e-14)
    assert match_moments(p, phi, [2.0]).diagnostics["parameter"][0] == pytest.approx(root, rel=1e-9)


def test_redundant_features_change_nothing():
    rng = np.random.default_rng(5)
    p, phi = rng.dirichlet(np.ones(6), 2), rng.normal(size=(2, 6, 1))
    rho = np.array([0.5, 0.5])
    one = match_moments(p, phi, [0.3], rho)
    more = np.concatenate([phi, -3 * phi, np.ones_like(phi)], axis=2)
    other = match_moments(p, more, [0.3, -0.9, 1.0], rho)
    np.testing.assert_allclose(other.policy, one.policy, atol=1e-12)
    assert other.diagnostics["parameter"][2] == 0
    constant = match_moments(p, np.ones((2, 6, 1)), [1.0], rho)
    np.testing.assert_allclose(constant.policy, p, rtol=1e-15)
    assert constant.residual <= 1e-15


@pytest.mark.parametrize("share", [1e-300, 1e-30, 1e-6])
def test_rare_responses_can_be_asked_for(share):
    """The dual is flat until the tilt outweighs the rarity."""
    p = np.array([[1.0 - share, share / 2, share / 2]])
    features = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    learned = match_moments(p, features, [0.6, 0.3])
    np.testing.assert_allclose(learned.policy, [[0.1, 0.6, 0.3]], rtol=1e-8)
    expected = np.log(np.array([6.0, 3.0])) + np.log(2 * (1 - share) / share)
    np.testing.assert_allclose(learned.diagnostics["parameter"], expected, rtol=1e-8)


def test_offsets_and_units_cost_no_digits():
    rng = np.random.default_rng(6)
    p, phi = rng.dirichlet(np.ones(6), 1), rng.integers(0, 5, size=(1, 6, 1)).astype(float)
    one = match_moments(p, phi, [2.5])
    other = match_moments(p, 2.0**-20 * phi + 2.0**10, [2.0**-20 * 2.5 + 2.0**10])
    np.testing.assert_allclose(other.policy, one.policy, atol=1e-12)


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (1.0, "only policies that leave out responses"),
        (1.0 - 1e-12, "only policies that leave out responses"),
        (1.01, "no policy in the support"),
        (-3.0, "no policy in the support"),
    ],
)
def test_moments_that_no_tilt_has(moment, words):
    with pytest.raises(ValueError, match=words):
        match_moments([[0.5, 0.5, 0.0]], [[[0.0], [1.0], [2.0]]], [moment])


def test_contradicting_moments():
    phi = np.array([[0.0, 1.0, 0.5]])
    with pytest.raises(ValueError, match="no policy in the support"):
        match_moments([[0.3, 0.3, 0.4]], np.stack([phi, 2 * phi], axis=2), [0.5, 0.5])


def test_a_bad_certificate_raises(monkeypatch):
    """One step is not enough, and the moments themselves are attainable."""
    monkeypatch.setattr("rlhfsim.learners.matching.moments._MOST_STEPS", 1)
    with pytest.raises(LearnerError, match=r"moment 0 is missed by .* of the range") as caught:
        match_moments([[0.9, 0.05, 0.05]], [[[0.0], [1.0], [3.0]]], [2.5])
    assert caught.value.learned.residual > 1e-10


# ---- pointwise -----------------------------------------------------------------------------------


@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_pointwise_targets(problem, seed):
    p, _, rho, q = problem
    rng = np.random.default_rng(seed)
    b = (rng.random(p.shape) < 0.5).astype(float)
    b[:, -1] = 1.0
    target = pointwise_target(p, b)
    mass = (p * b).sum(axis=1)
    np.testing.assert_allclose(target, p * b / mass[:, None], rtol=1e-14)
    assert float(KL()(target, p, rho)) == pytest.approx(-rho @ np.log(mass), abs=1e-13)
    inside = q * b / (q * b).sum(axis=1, keepdims=True)
    assert float(KL()(inside, p, rho)) == pytest.approx(
        float(KL()(inside, target, rho)) + float(KL()(target, p, rho)), abs=1e-12
    )
    np.testing.assert_allclose(pointwise_target(p, 1e-310 * b), target, rtol=1e-15)
    # Bayes' rule in two steps.
    other = rng.random(p.shape)
    np.testing.assert_allclose(
        pointwise_target(target, other), pointwise_target(p, b * other), atol=1e-14
    )


# ---- the learner ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["random", "judged table"])
def bandit(request):
    if request.param == "random":
        return random_bandit(n_prompts=3, n_responses=5, rng=np.random.default_rng(0))
    return ContextualBandit.from_table(example_table())


@pytest.fixture(scope="module")
def data(bandit):
    return sample_preferences(bandit, 500, np.random.default_rng(1))


def test_a_win_rate_can_be_asked_for(bandit, data):
    p, rho = bandit.reference, bandit.prompt_dist
    learner = DistributionMatching(WinRate(0.7), BOX)
    assert isinstance(learner, Learner)
    assert pickle.loads(pickle.dumps(learner)) == learner
    learned = learner.fit(data, p, prompt_dist=rho)
    fit = fit_reward(data, BOX)
    np.testing.assert_array_equal(learned.reward, fit.reward)
    assert learned.diagnostics["log_likelihood"] == fit.log_likelihood
    assert float(win_rate(learned.policy, p, fit.reward, rho)) == pytest.approx(0.7, abs=1e-11)
    assert learned.residual <= 1e-11
    assert learned.objective == pytest.approx(float(KL()(learned.policy, p, rho)), rel=1e-12)
    # It is KL control of the calibrated reward, with the beta that gives this win rate.
    strength = learned.diagnostics["parameter"][0]
    weight = p * np.exp(strength * calibrated_reward(fit.reward, p))
    np.testing.assert_allclose(
        learned.policy, weight / weight.sum(axis=1, keepdims=True), rtol=1e-12
    )
    half = DistributionMatching(WinRate(0.5), BOX).fit(data, p, prompt_dist=rho)
    np.testing.assert_allclose(half.policy, p, atol=1e-12)


def test_kl_control_is_distribution_matching(bandit, data):
    p, rho = bandit.reference, bandit.prompt_dist
    rlhf = RLHF(0.4, KL(), BOX).fit(data, p, prompt_dist=rho)
    learned = DistributionMatching(ExponentialReward(0.4), BOX).fit(data, p, prompt_dist=rho)
    np.testing.assert_array_equal(learned.policy, rlhf.policy)
    assert learned.residual <= 1e-14
    assert learned.beta == 0.4
    assert learned.objective == pytest.approx(float(rho @ rlhf.diagnostics["kl"]), rel=1e-12)
    # The same policy from its mean reward alone: lambda is 1/beta.
    value = float(rho @ (rlhf.policy * rlhf.reward).sum(axis=1))
    by_moment = DistributionMatching(Moments(rlhf.reward[..., None], [value]), BOX).fit(
        data, p, prompt_dist=rho
    )
    np.testing.assert_allclose(by_moment.policy, rlhf.policy, atol=1e-10)
    assert by_moment.diagnostics["parameter"][0] == pytest.approx(2.5, rel=1e-8)
    assert by_moment.reward is None
    assert "log_likelihood" not in by_moment.diagnostics


def test_pointwise_constraints(bandit, data):
    p, rho = bandit.reference, bandit.prompt_dist
    learned = DistributionMatching(AtLeastQuantile(0.6), BOX).fit(data, p, prompt_dist=rho)
    quantile = calibrated_reward(learned.reward, p)
    kept = (quantile >= 0.6) & (p > 0)
    assert ((learned.policy > 0) == kept).all()
    mass = np.where(kept, p, 0.0).sum(axis=1)
    np.testing.assert_allclose(learned.policy, np.where(kept, p, 0.0) / mass[:, None], rtol=1e-14)
    assert learned.objective == pytest.approx(-float(rho @ np.log(mass)), rel=1e-12)
    assert learned.residual == 0
    given_weight = DistributionMatching(Pointwise(kept.astype(float)), BOX).fit(data, p)
    np.testing.assert_array_equal(given_weight.policy, learned.policy)
    assert given_weight.reward is None
    assert given_weight.objective is None


def test_the_quantile_itself_is_kept_and_responses_without_mass_do_not_count():
    reward, reference = np.array([[0.0, 1.0, 2.0]]), np.array([[0.5, 0.5, 0.0]])
    learned = AtLeastQuantile(0.75).match(reward, reference, None)
    np.testing.assert_array_equal(learned.policy, [[0.0, 1.0, 0.0]])
    assert learned.objective == pytest.approx(np.log(2.0), rel=1e-15)
    with pytest.raises(ValueError, match=r"the best of prompt 0 has 0\.75"):
        AtLeastQuantile(0.8).match(reward, reference, None)


def test_targets_are_frozen():
    weight = np.ones((1, 2))
    target = Pointwise(weight)
    weight[:] = 0.0
    np.testing.assert_array_equal(target.weight, [[1.0, 1.0]])
    for again in (target, pickle.loads(pickle.dumps(target))):
        with pytest.raises(ValueError, match="read-only"):
            again.weight[0] = 0
    moments = pickle.loads(pickle.dumps(Moments(np.ones((1, 2, 1)), [1.0])))
    assert not moments.features.flags.writeable
    assert not moments.moments.flags.writeable


DATA = PreferenceData([0], [1], [0], (1, 2))
HALF = [[0.5, 0.5]]
PHI = [[[0.0], [1.0]]]
TWO = [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DistributionMatching("GDC"), "target is 'GDC'; it must be a target"),
        (lambda: DistributionMatching(WinRate(0.8), "x"), "model is 'x'"),
        (lambda: WinRate(1.0), "rate is 1.0; it must be between 0 and 1"),
        (lambda: WinRate(0.0), "rate is 0.0"),
        (lambda: AtLeastQuantile(1.0), "quantile is 1.0; it must be below 1"),
        (lambda: AtLeastQuantile(-0.1), "quantile is -0.1"),
        (lambda: ExponentialReward(0.0), "beta is 0.0"),
        (lambda: Pointwise([[1.0, -1.0]]), r"weight\[0, 1\] is -1.0"),
        (lambda: Moments(PHI, [np.nan]), r"moments\[0\] is nan"),
        (lambda: pointwise_target(HALF, [[0.0, 0.0]]), r"weight\[0\] is 0 on the support"),
        (lambda: pointwise_target([[1.0, 0.0]], [[0.0, 1.0]]), r"weight\[0\] is 0 on the support"),
        (lambda: pointwise_target(HALF, [[1.0]]), r"weight has shape \(1, 1\)"),
        (lambda: match_moments(HALF, [[0.0, 1.0]], [0.5]), r"features has shape \(1, 2\)"),
        (lambda: match_moments(HALF, PHI, 0.5), r"moments has shape \(\)"),
        (lambda: match_moments(TWO, PHI * 2, [0.5]), "prompt_dist is missing"),
        (lambda: match_moments(TWO, PHI * 2, [0.5], [0.5, 0.6]), "prompt_dist sums to 1.1"),
        (lambda: match_moments([[0.5, 0.6]], PHI, [0.5]), r"reference\[0\] sums to 1.1"),
        (lambda: exponential_tilt(HALF, PHI, [1.0, 2.0]), r"parameter has shape \(2,\)"),
        (
            lambda: DistributionMatching(AtLeastQuantile(0.9), BOX).fit(DATA, HALF),
            "quantile is 0.9; .* the best of prompt 0 has 0.75",
        ),
        (
            lambda: DistributionMatching(WinRate(0.9), BOX).fit(DATA, HALF),
            "no policy in the support",
        ),
        (
            lambda: DistributionMatching(Pointwise([[1.0, 1.0, 0.0]]), BOX).fit(DATA, HALF),
            r"weight has shape \(1, 3\)",
        ),
        (
            lambda: DistributionMatching(WinRate(0.6), BOX).fit(DATA, [[1.0]]),
            r"reference has shape \(1, 1\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
