"""Linear rewards: against scipy, scikit-learn and mpmath, and existence against brute force."""

import itertools
import pickle
import warnings
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from rlhfsim.data import PairCounts, PreferenceData, count_pairs
from rlhfsim.rewards import Tabular, fit_reward
from rlhfsim.rewards.features import compare, design_covariance
from rlhfsim.rewards.linear import Linear
from rlhfsim.rewards.result import RewardFitError
from rlhfsim.rewards.secular import ball_multiplier
from rlhfsim.rewards.separation import SeparationError, separating_direction


def sample(rng, prompts=4, responses=6, d=3, n=300, scale=1.0):
    """Return features, a parameter and data from the linear Bradley-Terry model."""
    features = rng.normal(size=(prompts, responses, d))
    theta = scale * rng.normal(size=d)
    x = rng.integers(prompts, size=n)
    first, second = rng.integers(responses, size=(2, n))
    reward = features @ theta
    won = rng.random(n) < expit(reward[x, first] - reward[x, second])
    data = PreferenceData(
        x, np.where(won, first, second), np.where(won, second, first), (prompts, responses)
    )
    return features, theta, data


def differences(features, data):
    """Return the (n, d) differences, row by row."""
    return features[data.prompt, data.chosen] - features[data.prompt, data.rejected]


def of_differences(rows, counts=None):
    """Return features and data whose comparisons have the given (U, d) differences."""
    rows = np.asarray(rows, dtype=np.float64)
    features = np.stack((rows, np.zeros_like(rows)), axis=1)
    counts = np.ones(len(rows), dtype=np.int64) if counts is None else counts
    prompt = np.repeat(np.arange(len(rows)), counts)
    return features, PreferenceData(prompt, 0 * prompt, 0 * prompt + 1, (len(rows), 2))


def loss(rows, theta, ridge=0.0):
    """Return the negative log-likelihood and its gradient, straight from the definition."""
    margin = rows @ theta
    value = np.logaddexp(0.0, -margin).sum() + ridge / 2 * theta @ theta
    return value, ridge * theta - expit(-margin) @ rows


# ---- the estimate against independent routes ------------------------------------------------


@pytest.mark.parametrize("ridge", [None, 1e-6, 0.5, 200.0])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scipy_on_the_log_likelihood(seed, ridge):
    features, _, data = sample(np.random.default_rng(seed))
    fit = fit_reward(data, Linear(features, ridge=ridge))
    rows = differences(features, data)
    found = minimize(
        lambda t: loss(rows, t, ridge or 0.0), np.zeros(3), jac=True, options={"gtol": 1e-9}
    )
    np.testing.assert_allclose(fit.parameter, found.x, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(fit.reward, features @ fit.parameter)
    expected = -loss(rows, fit.parameter)[0]
    assert fit.log_likelihood == pytest.approx(expected, rel=1e-13)
    assert fit.gradient_norm == pytest.approx(
        np.abs(loss(rows, fit.parameter, ridge or 0.0)[1]).max(), abs=1e-11
    )
    assert fit.exists.tolist() == [True] * 4


@pytest.mark.parametrize("ridge", [None, 2.0])
def test_agrees_with_scikit_learn(ridge):
    features, _, data = sample(np.random.default_rng(7), d=5, n=2000)
    rows = differences(features, data)
    rows = rows[data.chosen != data.rejected]
    # Half of the rows the other way round: scikit-learn wants two classes.
    sign = np.where(np.arange(len(rows)) % 2 == 0, 1.0, -1.0)
    peer = LogisticRegression(
        C=np.inf if ridge is None else 1 / ridge,
        fit_intercept=False,
        solver="newton-cholesky",
        tol=1e-12,
    ).fit(sign[:, None] * rows, sign)
    fit = fit_reward(data, Linear(features, ridge=ridge))
    np.testing.assert_allclose(fit.parameter, peer.coef_[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("bound", [0.05, 0.5, 1.2])
@pytest.mark.parametrize("seed", range(3))
def test_the_bounded_estimate_agrees_with_scipy(seed, bound):
    features, _, data = sample(np.random.default_rng(seed), scale=3.0)
    rows = differences(features, data)
    fit = fit_reward(data, Linear(features, norm_bound=bound))
    found = minimize(
        lambda t: loss(rows, t),
        np.zeros(3),
        jac=True,
        method="SLSQP",
        constraints={
            "type": "ineq",
            "fun": lambda t: bound**2 - t @ t,
            "jac": lambda t: -2 * t,
        },
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    np.testing.assert_allclose(fit.parameter, found.x, rtol=0, atol=3e-7)
    assert np.linalg.norm(fit.parameter) == pytest.approx(bound, rel=1e-14)


def test_one_hot_features_are_the_tabular_fit_up_to_the_gauge():
    rng = np.random.default_rng(3)
    _, _, data = sample(rng, prompts=2, responses=4, n=400)
    features = np.zeros((2, 4, 6))
    for x, y in itertools.product(range(2), range(1, 4)):
        features[x, y, 3 * x + y - 1] = 1.0
    fit, table = fit_reward(data, Linear(features)), fit_reward(data, Tabular())
    centred = fit.reward - fit.reward.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(centred, table.reward, rtol=0, atol=1e-12)
    assert fit.log_likelihood == pytest.approx(table.log_likelihood, rel=1e-14)


def reference(rows, count, start, ridge=0, bound=None):
    """Return the estimate from Newton's method on the Lagrange conditions in 50 digits."""
    d = len(start)
    with mpmath.workdps(50):
        rows = [[mpmath.mpf(float(v)) for v in row] for row in rows]

        def conditions(*z):
            theta, multiplier = z[:d], z[d] if bound is not None else mpmath.mpf(ridge)
            total = [multiplier * t for t in theta]
            for row, times in zip(rows, count, strict=True):
                lost = times / (1 + mpmath.exp(sum(a * t for a, t in zip(row, theta, strict=True))))
                total = [a - lost * b for a, b in zip(total, row, strict=True)]
            return total if bound is None else [*total, sum(t * t for t in theta) - bound**2]

        first = [mpmath.mpf(float(t)) for t in start]
        if bound is not None:
            flat = conditions(*first, mpmath.mpf(0))[:d]
            first.append(-sum(a * t for a, t in zip(flat, first, strict=True)) / bound**2)
        return [float(z) for z in mpmath.findroot(conditions, first, tol=1e-60)]


@pytest.mark.parametrize(
    "options", [{}, {"ridge": 0.25}, {"norm_bound": 0.5}, {"norm_bound": 0.03125}]
)
def test_agrees_with_mpmath(options):
    rows = [[1.0, 0.5], [-0.75, 2.0], [0.3, -1.0], [-1.0, -0.2], [0.6, 0.1]]
    count = [5, 2, 3, 4, 1]
    features, data = of_differences(rows, count)
    theta = fit_reward(data, Linear(features, **options)).parameter
    exact = reference(rows, count, theta, options.get("ridge", 0), options.get("norm_bound"))
    np.testing.assert_allclose(theta, exact[:2], rtol=0, atol=2e-15)
    if "norm_bound" in options:
        assert exact[2] > 0.1, "the bound must be active here"


def test_a_million_rows_are_certified_and_close_to_the_truth():
    rng = np.random.default_rng(0)
    features, theta, data = sample(rng, prompts=20, responses=30, d=10, n=10**6, scale=0.5)
    fit = fit_reward(data, Linear(features))
    assert fit.gradient_norm <= 1e-10 * len(data)
    error = fit.parameter - theta
    # Asymptotically chi-squared with 10 degrees of freedom: above 45 with probability 2e-6.
    assert error @ fit.information @ error < 45


# ---- the norm bound -------------------------------------------------------------------------


def test_the_norm_bound_changes_nothing_until_it_holds_the_estimate():
    features, _, data = sample(np.random.default_rng(1))
    free = fit_reward(data, Linear(features))
    norm = float(np.linalg.norm(free.parameter))
    for bound in (norm * (1 + 1e-12), 2 * norm, 1e12):
        fit = fit_reward(data, Linear(features, norm_bound=bound))
        np.testing.assert_array_equal(fit.parameter, free.parameter)
    just = fit_reward(data, Linear(features, norm_bound=norm * (1 - 1e-9)))
    assert np.linalg.norm(just.parameter) == pytest.approx(norm * (1 - 1e-9), rel=1e-14)
    np.testing.assert_allclose(just.parameter, free.parameter, rtol=0, atol=1e-8)
    assert just.gradient_norm < 1e-10


@given(st.integers(0, 10**6), st.floats(-3, 2), st.integers(1, 4), st.integers(1, 30))
def test_the_kkt_conditions_hold_within_any_ball(seed, exponent, d, n):
    rng = np.random.default_rng(seed)
    features, _, data = sample(rng, d=d, n=n, scale=4.0)
    bound = 10.0**exponent
    rows = differences(features, data)
    if np.linalg.matrix_rank(rows) < d:
        with pytest.raises(ValueError, match="do not span"):
            fit_reward(data, Linear(features, norm_bound=bound))
        return
    model = Linear(features, norm_bound=bound)
    longest = np.linalg.norm(rows, axis=1).max()
    direction = separating_direction(compare(count_pairs(data), features))
    if direction is not None and bound * longest > 700:
        with pytest.raises(ValueError, match="must be at most 700"):
            fit_reward(data, model)
        return
    theta = fit_reward(data, model).parameter
    gradient = loss(rows, theta)[1]
    norm = np.linalg.norm(theta)
    assert norm <= bound * (1 + 1e-14)
    multiplier = -(gradient @ theta) / norm**2
    if norm < bound * (1 - 1e-9):
        multiplier = 0.0
    assert multiplier >= -1e-12 * n
    np.testing.assert_allclose(gradient + multiplier * theta, 0.0, rtol=0, atol=1e-10 * n)


def test_one_comparison_goes_to_the_sphere():
    features, data = of_differences([[-0.5]])
    fit = fit_reward(data, Linear(features, norm_bound=2.0))
    assert fit.parameter[0] == pytest.approx(-2.0, rel=1e-15)
    assert fit.log_likelihood == pytest.approx(-np.log1p(np.exp(-1.0)), rel=1e-15)
    assert not fit.exists.any()


def test_one_comparison_with_a_ridge_solves_its_one_equation():
    features, data = of_differences([[3.0]])
    theta = fit_reward(data, Linear(features, ridge=0.1)).parameter[0]
    root = brentq(lambda t: 0.1 * t - 3.0 * expit(-3.0 * t), 0, 10, xtol=1e-15)
    assert theta == pytest.approx(root, rel=1e-13)


@pytest.mark.parametrize("bound", [4.0, 20.0, 60.0])
def test_separated_data_are_placed_exactly_on_the_sphere(bound):
    # All pull faintly, of order exp(-bound), and where they balance is still exact.
    rows, count = [[1.0, 0.0], [0.25, 0.8], [0.9, 0.3]], [2, 1, 3]
    features, data = of_differences(rows, count)
    theta = fit_reward(data, Linear(features, norm_bound=bound)).parameter
    exact = reference(rows, count, theta, bound=bound)
    np.testing.assert_allclose(theta, exact[:2], rtol=1e-13)
    assert 0 < exact[2] < 1


@given(st.integers(0, 10**6))
def test_the_secular_equation_against_bisection(seed):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 6))
    curvature = rng.random(d) * 10.0 ** rng.uniform(-6, 6, d) * (rng.random(d) < 0.8)
    slope = rng.normal(size=d) * 10.0 ** rng.uniform(-6, 6, d)
    radius = 10.0 ** rng.uniform(-3, 3)

    def length(multiplier):
        return np.linalg.norm(slope / (curvature + multiplier))

    found = ball_multiplier(curvature, slope, radius)
    if curvature.min() > 0 and length(0.0) <= radius:
        assert found == 0.0
        return
    root = brentq(
        lambda log: np.log(length(np.exp(log)) / radius), -200, 200, xtol=1e-13, rtol=1e-14
    )
    # Near 0 the norm says little about the multiplier, and only the norm matters.
    assert length(found) == pytest.approx(radius, rel=1e-12)
    assert found == pytest.approx(np.exp(root), rel=1e-10, abs=1e-9 * curvature.max())


# ---- scales, repetition, counts -------------------------------------------------------------


def test_scaling_a_feature_scales_its_parameter():
    features, _, data = sample(np.random.default_rng(5))
    plain = fit_reward(data, Linear(features))
    scale = np.array([1e-90, 1.0, 1e120])
    fit = fit_reward(data, Linear(features * scale))
    np.testing.assert_allclose(fit.parameter * scale, plain.parameter, rtol=1e-11)
    assert fit.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-14)


def test_a_constant_of_the_prompt_in_the_features_changes_nothing():
    features, _, data = sample(np.random.default_rng(5))
    offset = np.array([[[1024.0]], [[-8.0]], [[0.0]], [[4096.0]]])
    plain = fit_reward(data, Linear(features))
    fit = fit_reward(data, Linear(features + offset))
    np.testing.assert_allclose(fit.parameter, plain.parameter, rtol=0, atol=1e-10)


def test_counts_and_laws_give_the_fit_of_the_data():
    features, _, data = sample(np.random.default_rng(9))
    counts = count_pairs(data)
    law = PairCounts(
        counts.prompt,
        counts.winner,
        counts.loser,
        counts.count / len(data),
        counts.equal_pairs / len(data),
        counts.shape,
    )
    direct = fit_reward(data, Linear(features))
    counted = fit_reward(counts, Linear(features))
    limit = fit_reward(law, Linear(features))
    np.testing.assert_array_equal(counted.parameter, direct.parameter)
    np.testing.assert_allclose(limit.parameter, direct.parameter, rtol=0, atol=1e-13)
    np.testing.assert_allclose(limit.information * len(data), direct.information, rtol=1e-12)
    assert limit.log_likelihood * len(data) == pytest.approx(direct.log_likelihood, rel=1e-13)
    np.testing.assert_array_equal(direct.compared, counts.compared)


def test_the_population_limit_is_the_true_parameter():
    rng = np.random.default_rng(11)
    features, theta, _ = sample(rng, prompts=2, responses=5)
    reward = features @ theta
    x, i, j = (a.ravel() for a in np.indices((2, 5, 5)))
    x, i, j = (a[i != j] for a in (x, i, j))
    law = PairCounts(x, i, j, expit(reward[x, i] - reward[x, j]) / 50, 0.2, (2, 5))
    fit = fit_reward(law, Linear(features))
    np.testing.assert_allclose(fit.parameter, theta, rtol=0, atol=1e-13)


def test_the_order_of_rows_does_not_change_a_bit():
    rng = np.random.default_rng(13)
    features, _, data = sample(rng, n=2000)
    order = rng.permutation(len(data))
    shuffled = PreferenceData(
        data.prompt[order], data.chosen[order], data.rejected[order], data.shape
    )
    for options in ({}, {"norm_bound": 0.4}, {"ridge": 2.0}):
        fit, other = (fit_reward(d, Linear(features, **options)) for d in (data, shuffled))
        np.testing.assert_array_equal(fit.parameter, other.parameter)


def test_the_number_of_blas_threads_does_not_change_a_bit():
    features, _, data = sample(np.random.default_rng(17), prompts=60, responses=60, d=8, n=60_000)
    fits = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            fits.append(fit_reward(data, Linear(features)))
    np.testing.assert_array_equal(fits[0].parameter, fits[1].parameter)


# ---- information and the design -------------------------------------------------------------


@pytest.mark.parametrize("ridge", [None, 3.0])
def test_the_information_is_the_derivative_of_the_gradient(ridge):
    features, _, data = sample(np.random.default_rng(19))
    fit = fit_reward(data, Linear(features, ridge=ridge))
    rows = differences(features, data)
    h = 1e-5
    numeric = np.array(
        [
            (
                loss(rows, fit.parameter + h * e, ridge or 0.0)[1]
                - loss(rows, fit.parameter - h * e, ridge or 0.0)[1]
            )
            / (2 * h)
            for e in np.eye(3)
        ]
    )
    np.testing.assert_allclose(fit.information, numeric, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(fit.information, fit.information.T)


def test_the_design_covariance_is_the_sum_over_rows():
    features, _, data = sample(np.random.default_rng(21))
    rows = differences(features, data)
    expected = 0.5 * np.eye(3) + sum(np.outer(row, row) for row in rows)
    for given_data in (data, count_pairs(data)):
        sigma = design_covariance(given_data, features, 0.5)
        np.testing.assert_allclose(sigma, expected, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(
        design_covariance(data, features), expected - 0.5 * np.eye(3), rtol=1e-12, atol=1e-10
    )


# ---- existence ------------------------------------------------------------------------------


def separable_by_brute_force(rows):
    """Return whether some v != 0 has `<v, row> >= 0` for all integer rows, which span R^d, d <= 3.

    The rays of the cone of such v are normal to d - 1 rows, or -- for a cone with interior -- can
    be moved until they are.
    """
    rows = [tuple(Fraction(int(v)) for v in row) for row in rows]
    d = len(rows[0])
    if d == 1:
        rays = [(Fraction(1),)]
    elif d == 2:
        rays = [(-b, a) for a, b in rows]
    else:
        rays = [
            (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
            for a, b in itertools.combinations(rows, 2)
        ]
    for ray in rays:
        if any(ray):
            margins = [sum(v * r for v, r in zip(ray, row, strict=True)) for row in rows]
            if all(m >= 0 for m in margins) or all(m <= 0 for m in margins):
                return True
    return False


def separated(rows):
    """Return the direction found for rows, each of which won once."""
    features, data = of_differences(rows)
    return separating_direction(compare(count_pairs(data), features))


def assert_separates(direction, rows):
    margins = np.asarray(rows) @ direction
    assert margins.min() >= -1e-9
    assert margins.max() > 1e-8
    assert np.linalg.norm(direction) == pytest.approx(1.0)


def test_existence_agrees_with_signs_in_one_dimension():
    for signs in itertools.product((-2, -1, 0, 1, 3), repeat=3):
        if any(signs):
            rows = [[s] for s in signs]
            found = separated(rows)
            assert (found is None) == (min(signs) < 0 < max(signs))
            assert (found is not None) == separable_by_brute_force(rows)


def test_existence_agrees_with_brute_force_on_all_small_sets_in_the_plane():
    grid = [p for p in itertools.product((-1, 0, 1), repeat=2) if any(p)]
    outcomes = []
    for size in (2, 3, 4, 5):
        for rows in itertools.combinations(grid, size):
            if np.linalg.matrix_rank(np.array(rows)) < 2:
                continue
            expected = separable_by_brute_force(rows)
            direction = separated(rows)
            assert (direction is not None) == expected, rows
            if expected:
                assert_separates(direction, rows)
            outcomes.append(expected)
    assert 10 < sum(outcomes) < len(outcomes) - 10


@pytest.mark.parametrize("seed", range(60))
def test_existence_agrees_with_brute_force_in_space(seed):
    rng = np.random.default_rng(seed)
    while True:
        rows = rng.integers(-2, 3, size=(int(rng.integers(3, 11)), 3))
        if np.linalg.matrix_rank(rows) == 3:
            break
    direction = separated(rows)
    assert (direction is not None) == separable_by_brute_force(rows)
    if direction is not None:
        assert_separates(direction, rows)


def test_pairs_won_by_both_sides_confine_the_direction():
    # Alone, the first row separates along (0, 1); the second pair was won by both sides.
    features, data = of_differences([[1.0, 0.0], [-1.0, 0.0], [0.3, 1.0]])
    assert separating_direction(compare(count_pairs(data), features)) is not None
    both = PreferenceData([0, 0, 1], [0, 1, 0], [1, 0, 1], (2, 2))
    features = np.array([[[1.0, 0.0], [0.0, 0.0]], [[0.3, 1.0], [0.0, 0.0]]])
    direction = separating_direction(compare(count_pairs(both), features))
    np.testing.assert_allclose(direction, [0.0, 1.0], atol=1e-12)


def test_one_contradiction_among_many_rows_is_found():
    rng = np.random.default_rng(23)
    rows = np.abs(rng.normal(size=(4000, 3))) @ rng.normal(size=(3, 3))
    assert_separates(separated(rows), rows)
    ray = rows.mean(axis=0)
    for position in (0, 1777, 3999):
        contradicted = rows.copy()
        contradicted[position] = -ray
        assert separated(contradicted) is None


def test_rounded_features_still_separate():
    # 0.1 + 0.2 is not 0.3, and the rows would contradict each other by 5e-17.
    rows = [[0.1 + 0.2, 1.0], [-0.3, -1.0], [0.0, 1.0]]
    assert_separates(separated(rows), rows)


def test_a_missing_estimate_is_an_error_that_names_the_direction():
    features, data = of_differences([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    with pytest.raises(SeparationError, match="maximum likelihood parameter does not exist") as got:
        fit_reward(data, Linear(features))
    error = got.value
    assert_separates(error.direction, differences(features, data))
    assert "norm_bound" in str(error)
    assert "over 1 at prompt" in str(error)
    assert error.prompt == (features[:, 0] @ error.direction).argmax()
    assert error.responses == (0, 1)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.prompt, copy.responses) == (str(error), error.prompt, (0, 1))
    np.testing.assert_array_equal(copy.direction, error.direction)
    for options in ({"norm_bound": 3.0}, {"ridge": 0.1}):
        assert not fit_reward(data, Linear(features, **options)).exists.any()


def test_separated_data_with_a_faint_ridge_are_certified():
    features, data = of_differences([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    fit = fit_reward(data, Linear(features, ridge=1e-8))
    exact = reference([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [1, 1, 1], fit.parameter, ridge=1e-8)
    np.testing.assert_allclose(fit.parameter, exact, rtol=1e-13)


# ---- what the fit refuses -------------------------------------------------------------------


def test_features_that_do_not_span_are_refused_with_the_free_direction():
    rng = np.random.default_rng(29)
    features, _, data = sample(rng, d=3)
    dependent = np.concatenate((features, features[..., :1] + features[..., 1:2]), axis=2)
    for options in ({}, {"norm_bound": 1.0}):
        with pytest.raises(
            ValueError, match=r"features do not span: .* rank 3 and d is 4, .* e\[0\] .* e\[3\]"
        ):
            fit_reward(data, Linear(dependent, **options))
    of_prompt = np.concatenate((features, np.ones((4, 6, 1))), axis=2)
    with pytest.raises(ValueError, match=r"rank 3 and d is 4, so the parameter is free along 1 e"):
        fit_reward(data, Linear(of_prompt))


def test_a_ridge_makes_features_that_do_not_span_unique():
    features, _, data = sample(np.random.default_rng(31), d=2)
    doubled = np.concatenate((features, features), axis=2)
    fit = fit_reward(data, Linear(doubled, ridge=0.6))
    # theta = (t, t): the penalty is that of 2t with half the ridge.
    single = fit_reward(data, Linear(features, ridge=0.3))
    np.testing.assert_allclose(fit.parameter, np.tile(single.parameter / 2, 2), atol=1e-13)
    assert not fit.exists.any()
    with pytest.raises(ValueError, match=r"ridge is 1e-20; it must be at least .* rank 2"):
        fit_reward(data, Linear(doubled, ridge=1e-20))


def test_pairs_of_equals_alone():
    data = PreferenceData([0, 0], [1, 1], [1, 1], (1, 2))
    features = np.array([[[1.0], [2.0]]])
    with pytest.raises(ValueError, match="rank 0 and d is 1"):
        fit_reward(data, Linear(features))
    fit = fit_reward(data, Linear(features, ridge=1.0))
    assert fit.parameter.tolist() == [0.0]
    assert fit.log_likelihood == pytest.approx(-2 * np.log(2))
    assert not fit.compared.any()


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (np.zeros((2, 3)), {}, r"features has shape \(2, 3\); it must be a non-empty \(X, Y, d\)"),
        (np.zeros((2, 3, 0)), {}, r"features has shape \(2, 3, 0\)"),
        (np.full((1, 1, 1), np.nan), {}, r"features\[0, 0, 0\] is nan; entries must be finite"),
        (np.ones((1, 2, 1)), {"norm_bound": 0.0}, "norm_bound is 0.0; it must be positive"),
        (np.ones((1, 2, 1)), {"norm_bound": -1.0}, "norm_bound is -1.0; it must be positive"),
        (np.ones((1, 2, 1)), {"ridge": np.nan}, "ridge is nan"),
        (np.ones((1, 2, 1)), {"ridge": 0.0}, "ridge is 0.0; it must be positive"),
        (np.ones((1, 2, 1)), {"ridge": 1.0, "norm_bound": 2.0}, "at most one may be given"),
    ],
)
def test_bad_models_are_refused(features, options, message):
    with pytest.raises(ValueError, match=message):
        Linear(features, **options)


def test_bad_data_are_refused():
    features, _, data = sample(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"features has shape \(4, 5, 3\); .* \(4, 6\)"):
        fit_reward(data, Linear(features[:, :5]))
    with pytest.raises(ValueError, match="data is a list"):
        Linear(features).fit([1, 2, 3])
    with pytest.raises(ValueError, match=r"numpy\.random\.Generator"):
        Linear(features).fit(data, rng=3)
    with pytest.raises(ValueError, match=r"ridge is -1.0; it must be non-negative"):
        design_covariance(data, features, -1.0)
    with pytest.raises(ValueError, match=r"first two axes"):
        design_covariance(data, features[:3])


def test_a_bound_beyond_floats_is_refused_only_where_it_holds_the_estimate():
    features, data = of_differences([[2.0], [1.0]])
    with pytest.raises(ValueError, match=r"norm_bound is 351.0 and the longest .* is 2; .* 700"):
        fit_reward(data, Linear(features, norm_bound=351.0))
    fit = fit_reward(data, Linear(features, norm_bound=350.0))
    assert fit.parameter[0] == pytest.approx(350.0, rel=1e-15)


def test_an_uncertified_fit_is_an_error_that_holds_it(monkeypatch):
    features, _, data = sample(np.random.default_rng(0))
    model = Linear(features)
    monkeypatch.setattr("rlhfsim.rewards.logistic._BASE_STEPS", 1)
    with pytest.raises(RewardFitError, match=r"no certified maximum: .* last Newton step") as got:
        fit_reward(data, model)
    rows = differences(features, data)
    residual = np.abs(loss(rows, got.value.fit.parameter)[1]).max()
    assert got.value.fit.gradient_norm == pytest.approx(residual, rel=1e-10)
    assert residual > 1


def test_a_parameter_that_is_off_by_1e_8_of_itself_is_refused(monkeypatch):
    features, data = of_differences([[1.0], [-1.0]], [3, 1])
    right = Linear._solve
    monkeypatch.setattr(Linear, "_solve", lambda *a: (right(*a)[0] * (1 + 1e-8), 0.0))
    with pytest.raises(RewardFitError, match="no certified maximum"):
        fit_reward(data, Linear(features))


def test_on_the_sphere_a_gradient_that_points_inwards_is_no_maximum():
    features, data = of_differences([[1.0], [-1.0]], [3, 1])
    counts = count_pairs(data)
    model = Linear(features, norm_bound=5.0)
    violation, allowed = model._certificate(counts, np.array([5.0]))
    assert violation[0] > 0.5 > allowed[0]
    fitted = fit_reward(data, model).parameter
    assert (model._certificate(counts, fitted)[0] <= 1e-9).all()


def test_models_and_callers_arrays_are_independent_and_frozen():
    features, _, data = sample(np.random.default_rng(0))
    model = Linear(features, ridge=1.0)
    before = fit_reward(data, model).parameter
    features[:] = 0.0
    np.testing.assert_array_equal(fit_reward(data, model).parameter, before)
    with pytest.raises(ValueError, match="read-only"):
        model.features[0, 0, 0] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(fit_reward(data, copy).parameter, before)
