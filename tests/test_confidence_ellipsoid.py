"""Ellipsoids against their geometry, the lemma and its tight cases, and recomputation."""

import copy
import pickle

import mpmath
import numpy as np
import pytest
from confidence_data import counts_of, data_of, draw_wins
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import binomtest, chi2

from rlhfsim.rewards import fit_reward
from rlhfsim.rewards.confidence import (
    ConfidenceSet,
    Ellipsoid,
    asymptotic_ellipsoid,
    ellipsoid,
    estimation_radius,
    self_normalized_bound,
)
from rlhfsim.rewards.linear import Linear

SEEDS = st.integers(0, 2**32 - 1)


def random_ellipsoid(seed, prompts=2, responses=3, size=3):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size + 2))
    features = rng.normal(size=(prompts, responses, size))
    return rng, Ellipsoid(rng.normal(size=size), root @ root.T, rng.uniform(0.1, 3), features)


# ---- geometry ---------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 4))
def test_bounds_are_attained_and_never_left(seed, size):
    rng, found = random_ellipsoid(seed, size=size)
    weights = rng.normal(size=(2, 3))
    direction = np.einsum("xy,xyd->d", weights, found.features)
    half = found.radius * np.sqrt(direction @ np.linalg.inv(found.covariance) @ direction)
    middle = found.centre @ direction
    low, high = found.bounds(weights)
    np.testing.assert_allclose((low, high), (middle - half, middle + half), rtol=1e-8, atol=1e-10)
    assert found.width(direction) == pytest.approx(half, rel=1e-8)
    least = found.minimize(weights)
    assert (weights * least.reward).sum() == pytest.approx(low, abs=1e-9 * (1 + half))
    vectors, values = np.linalg.eigh(found.covariance)[::-1]
    for _ in range(30):
        sphere = rng.normal(size=size)
        sphere /= np.linalg.norm(sphere)
        edge = vectors @ (sphere / np.sqrt(values))
        theta = found.centre + found.radius * (1 - 1e-9) * edge
        assert found.contains(theta)
        assert not found.contains(found.centre + found.radius * (1 + 1e-9) * edge)
        value = (weights * (found.features @ theta)).sum()
        assert low - 1e-9 * half <= value <= high + 1e-9 * half


def test_the_minimiser_is_that_of_a_general_solver():
    rng, found = random_ellipsoid(5)
    weights = rng.normal(size=(2, 3))
    direction = np.einsum("xy,xyd->d", weights, found.features)

    def room(theta):
        away = theta - found.centre
        return found.radius**2 - away @ found.covariance @ away

    result = minimize(
        lambda theta: theta @ direction,
        found.centre,
        constraints={"type": "ineq", "fun": room},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.minimize(weights).value == pytest.approx(result.fun, abs=1e-7)
    np.testing.assert_allclose(
        found.minimize(weights).reward, found.features @ result.x, rtol=0, atol=1e-4
    )


def test_features_of_very_different_units_lose_no_accuracy():
    units = np.array([1e-9, 1.0, 1e9])
    rng, plain = random_ellipsoid(6)
    scaled = Ellipsoid(
        plain.centre / units,
        plain.covariance * units[:, None] * units,
        plain.radius,
        plain.features * units,
    )
    # The same set of rewards.
    weights = rng.normal(size=(2, 3))
    np.testing.assert_allclose(scaled.bounds(weights), plain.bounds(weights), rtol=1e-11)


def test_widths_of_many_directions_and_a_point():
    rng, found = random_ellipsoid(7)
    away = found.features - found.features.mean(axis=1, keepdims=True)
    widths = found.width(away)
    assert widths.shape == (2, 3)
    for x in range(2):
        for y in range(3):
            weights = np.zeros((2, 3))
            weights[x] = -1 / 3
            weights[x, y] += 1.0
            low, high = found.bounds(weights)
            assert widths[x, y] == pytest.approx((high - low) / 2, rel=1e-12)
    point = Ellipsoid(found.centre, found.covariance, 0.0, found.features)
    weights = rng.normal(size=(2, 3))
    low, high = point.bounds(weights)
    assert low == high == pytest.approx((weights * (found.features @ found.centre)).sum())
    assert point.contains(found.centre)
    assert found.bounds(np.zeros((2, 3))) == (0.0, 0.0)
    assert isinstance(found, ConfidenceSet)


def test_bad_ellipsoids_are_refused():
    features = np.ones((1, 2, 2))
    good = {"centre": [0.0, 0.0], "covariance": np.eye(2), "radius": 1.0, "features": features}
    cases = [
        ({"centre": [0.0]}, r"centre has shape \(1,\); it must have shape \(2,\)"),
        ({"centre": [0.0, np.nan]}, r"centre\[1\] is nan"),
        ({"covariance": np.eye(3)}, r"covariance has shape \(3, 3\)"),
        ({"covariance": [[1.0, 0.5], [0.2, 1.0]]}, r"covariance\[0, 1\] is 0.5 and .*symmetric"),
        ({"covariance": [[1.0, 2.0], [2.0, 1.0]]}, "smallest eigenvalue -1.0"),
        ({"covariance": [[1.0, 0.0], [0.0, 0.0]]}, r"covariance\[1, 1\] is 0.0"),
        ({"radius": -1.0}, "radius is -1.0; it must be non-negative"),
        ({"features": np.ones((2, 2))}, r"features has shape \(2, 2\)"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            Ellipsoid(**{**good, **change})
    found = Ellipsoid(**good)
    with pytest.raises(ValueError, match=r"theta has shape \(3,\)"):
        found.contains(np.zeros(3))
    with pytest.raises(ValueError, match=r"directions has shape \(3,\)"):
        found.width(np.zeros(3))
    with pytest.raises(ValueError, match=r"weights has shape \(2, 2\)"):
        found.bounds(np.zeros((2, 2)))


def test_ellipsoids_are_frozen_and_survive_copies():
    _, found = random_ellipsoid(8)
    weights = np.arange(6.0).reshape(2, 3)
    for twin in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert twin.bounds(weights) == found.bounds(weights)
    for name in ("centre", "covariance", "features"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(found, name)[...] = 0


# ---- the lemma --------------------------------------------------------------------------------


def rows_of(wins, features):
    """Return the feature differences of all rows, first minus second, and who won."""
    data = data_of(wins)
    first, second = np.minimum(data.chosen, data.rejected), np.maximum(data.chosen, data.rejected)
    difference = features[data.prompt, first] - features[data.prompt, second]
    return difference, (data.chosen == first).astype(float)


def norm(vector, matrix):
    return np.sqrt(vector @ matrix @ vector)


def lemma(wins, features, truth, weight, *, norm_bound, ridge=None):
    """Return both sides of the lemma with the noise that these outcomes have."""
    model = Linear(features, ridge=ridge) if ridge else Linear(features, norm_bound=norm_bound)
    theta = fit_reward(counts_of(wins), model).parameter
    difference, won = rows_of(wins, features)
    sigma = weight * np.eye(len(truth)) + difference.T @ difference
    noise = difference.T @ (won - expit(difference @ truth))
    right = estimation_radius(
        norm(noise, np.linalg.inv(sigma)),
        norm_bound=norm_bound,
        estimate_norm=np.linalg.norm(theta),
        margin=max(np.abs(difference @ theta).max(), np.abs(difference @ truth).max()),
        ridge=ridge or 0.0,
        regularization=weight,
    )
    return norm(theta - truth, sigma), right


@given(SEEDS, st.booleans(), st.floats(-6, 6), st.floats(-2, 1))
def test_the_lemma_holds_for_every_outcome_and_every_truth(seed, ridged, log_weight, log_bound):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 4))
    features = rng.normal(size=(2, 4, size))
    wins = rng.poisson(rng.uniform(0.5, 4), (2, 4, 4)) * ~np.eye(4, dtype=bool)
    wins[:, 0, 1:] += 1  # so that the differences span
    bound = float(np.exp(log_bound))
    truth = rng.normal(size=size)
    truth *= bound * rng.random() ** (1 / size) / np.linalg.norm(truth)
    weight = float(np.exp(log_weight))
    ridge = float(np.exp(rng.uniform(-4, 4))) if ridged else None
    left, right = lemma(wins, features, truth, weight, norm_bound=bound, ridge=ridge)
    assert left <= right * (1 + 1e-9)


def pairs(won, lost):
    return np.array([[[0, won], [lost, 0]]])


ONE = np.array([[[1.0], [0.0]]])


def test_the_noise_term_of_the_lemma_is_tight():
    left, right = lemma(pairs(500_500, 499_500), ONE, np.zeros(1), 1e-9, norm_bound=0.01)
    assert 0.99 * right < left <= right


def test_the_bias_term_of_the_lemma_is_tight():
    truth = np.array([-1e-3])
    ridge = 1e6
    left, right = lemma(pairs(1, 1), ONE, truth, 4 * ridge, norm_bound=1e-3, ridge=ridge)
    assert 0.99 * right < left <= right


def test_the_regularization_term_of_the_lemma_is_tight():
    truth = np.array([-1.0])
    left, right = lemma(pairs(1, 0), ONE, truth, 1e6, norm_bound=1.0)
    assert 0.99 * right < left <= right


# ---- the self-normalized bound ----------------------------------------------------------------


def test_self_normalized_bound_is_its_formula():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(50, 3))
    sigma = 0.7 * np.eye(3) + rows.T @ rows
    volume = np.sqrt(np.linalg.det(sigma) / 0.7**3)
    expected = np.sqrt(0.5 * np.log(volume / 0.05))
    assert self_normalized_bound(sigma, 0.7, 0.05) == pytest.approx(expected, rel=1e-12)
    assert self_normalized_bound(0.7 * np.eye(3), 0.7, 0.05) == pytest.approx(
        np.sqrt(0.5 * np.log(20)), rel=1e-12
    )
    with pytest.raises(ValueError, match="square"):
        self_normalized_bound(np.ones((1, 2)), 0.7, 0.05)
    # A determinant cannot tell these from positive definite ones that contain the regularization.
    for diagonal, least in (((1.0, -1.0), -1.0), ((-1.0, -1.0), -1.0), ((9.0, 0.6), 0.6)):
        with pytest.raises(ValueError, match=rf"eigenvalue {least}; it must be at least 0.7"):
            self_normalized_bound(np.diag(diagonal), 0.7, 0.05)
    with pytest.raises(ValueError, match=r"covariance\[0, 1\] is 1.0 .* it must be symmetric"):
        self_normalized_bound([[2.0, 1.0], [0.0, 2.0]], 0.7, 0.05)
    with pytest.raises(ValueError, match=r"regularization is 0.0"):
        self_normalized_bound(np.eye(2), 0.0, 0.05)


def test_self_normalized_bound_holds_at_all_times_and_is_nearly_reached():
    """Fair coins, d_i = 1: the whole path of 2,000 runs, in which the level is almost spent."""
    rng = np.random.default_rng(17)
    delta, steps, runs, weight = 0.2, 20_000, 2000, 20.0
    checked = np.unique(np.geomspace(1, steps, 400).astype(int))
    squared = np.array([self_normalized_bound([[weight + n]], weight, delta) for n in checked])
    crossed = np.zeros(runs, dtype=bool)
    noise = np.zeros(runs)
    for step, (start, stop) in enumerate(zip(np.r_[0, checked[:-1]], checked, strict=True)):
        noise += rng.binomial(stop - start, 0.5, runs) - (stop - start) / 2
        crossed |= np.abs(noise) / np.sqrt(weight + stop) > squared[step]
    misses = int(crossed.sum())
    interval = binomtest(misses, runs).proportion_ci(0.999, method="exact")
    assert interval.low <= delta
    # A bound half as large is crossed several times too often, one twice as large never.
    assert interval.low > 0.4 * delta


# ---- from data --------------------------------------------------------------------------------


def linear_problem(seed, n=300, size=2):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2, 4, size))
    truth = rng.normal(size=size)
    truth *= 0.8 / np.linalg.norm(truth)
    wins = draw_wins(rng, features @ truth, np.full((2, 4), 0.25), n, 1)[0]
    return features, truth, wins


@pytest.mark.parametrize("kind", ["bound", "ridge", "free"])
@pytest.mark.parametrize("gap", [None, 0.9])
def test_radius_is_recomputed_from_the_rows(kind, gap):
    features, _, wins = linear_problem(1)
    model = {
        "bound": Linear(features, norm_bound=1.0),
        "ridge": Linear(features, ridge=3.0),
        "free": Linear(features),
    }[kind]
    data = data_of(wins)
    fit = fit_reward(data, model)
    found = ellipsoid(data, model, fit, 0.1, norm_bound=1.0, reward_gap=gap)
    difference, _ = rows_of(wins, features)
    ridge = 3.0 if kind == "ridge" else 0.0
    weight = 4 * ridge if ridge else 1.0
    sigma = weight * np.eye(2) + difference.T @ difference
    longest = np.linalg.norm(difference, axis=1).max()
    v = max(np.abs(difference @ fit.parameter).max(), min(longest, gap or np.inf))
    kappa = expit(v) * expit(-v)
    volume = np.prod(np.sqrt(np.linalg.eigvalsh(sigma) / weight))
    a = np.sqrt(0.5 * np.log(volume / 0.1)) + ridge / np.sqrt(weight)
    spare = (np.linalg.norm(fit.parameter) + 1.0) ** 2 * max(weight - ridge / kappa, 0.0)
    u = np.roots([1.0, -a / kappa, -spare]).max()
    assert found.radius == pytest.approx(u, rel=1e-10)
    np.testing.assert_allclose(found.covariance, sigma, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found.centre, fit.parameter)
    again = ellipsoid(counts_of(wins), model, fit, 0.1, norm_bound=1.0, reward_gap=gap)
    assert again.radius == found.radius


def test_the_ridge_default_leaves_no_regularization_term():
    features, _, wins = linear_problem(2)
    model = Linear(features, ridge=2.0)
    data = data_of(wins)
    fit = fit_reward(data, model)
    radius = {
        weight: ellipsoid(data, model, fit, 0.1, norm_bound=1.0, regularization=weight).radius
        for weight in (8.0, 1e8)
    }
    assert ellipsoid(data, model, fit, 0.1, norm_bound=1.0).radius == radius[8.0]
    assert radius[1e8] > 100 * radius[8.0]


def test_the_asymptotic_ellipsoid_is_walds():
    features, _, wins = linear_problem(3)
    model = Linear(features)
    fit = fit_reward(data_of(wins), model)
    found = asymptotic_ellipsoid(model, fit, 0.1)
    assert found.radius == pytest.approx(np.sqrt(chi2.isf(0.1, 2)), rel=1e-12)
    difference, _ = rows_of(wins, features)
    margin = difference @ fit.parameter
    information = (difference * (expit(margin) * expit(-margin))[:, None]).T @ difference
    np.testing.assert_allclose(found.covariance, information, rtol=1e-9)
    np.testing.assert_array_equal(found.centre, fit.parameter)
    bounded = Linear(features, norm_bound=0.1)
    on_bound = fit_reward(data_of(wins), bounded)
    with pytest.raises(ValueError, match=r"on the norm_bound 0.1; it must lie inside"):
        asymptotic_ellipsoid(bounded, on_bound, 0.1)
    loose = Linear(features, norm_bound=100.0)
    assert asymptotic_ellipsoid(
        loose, fit_reward(data_of(wins), loose), 0.1
    ).radius == pytest.approx(found.radius)


def test_bad_input_is_refused():
    features, _, wins = linear_problem(4)
    data = data_of(wins)
    model = Linear(features, norm_bound=1.0)
    fit = fit_reward(data, model)
    cases = [
        ((data, None, fit, 0.1), {}, "model is None; it must be a Linear"),
        ((data, model, None, 0.1), {}, "fit is a NoneType; it must be a RewardFit"),
        ((data, model, fit_reward(data_of(wins + 1)), 0.1), {}, "fit has no parameter"),
        ((data, Linear(np.ones((2, 4, 3))), fit, 0.1), {}, r"it must have shape \(3,\)"),
        ((None, model, fit, 0.1), {}, "data is a NoneType"),
        ((data_of(wins[:1]), model, fit, 0.1), {}, r"features has shape \(2, 4, 2\)"),
        ((data, model, fit, 1.5), {}, "delta is 1.5; it must be below 1"),
        ((data, model, fit, 0.1), {"norm_bound": 2.0}, "norm_bound is 2.0; it must be at most 1.0"),
        ((data, model, fit, 0.1), {"norm_bound": 0.0}, "norm_bound is 0.0"),
        ((data, model, fit, 0.1), {"regularization": -1.0}, "regularization is -1.0"),
        ((data, model, fit, 0.1), {"reward_gap": np.nan}, "reward_gap"),
        ((data, Linear(features), fit, 0.1), {}, "norm_bound is None; it must be given"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            ellipsoid(*arguments, **options)
    with pytest.raises(ValueError, match="delta"):
        asymptotic_ellipsoid(Linear(features), fit, 0.0)
    with pytest.raises(ValueError, match=r"margin is -1.0"):
        estimation_radius(
            1.0, norm_bound=1.0, estimate_norm=1.0, margin=-1.0, ridge=0.0, regularization=1.0
        )
    with pytest.raises(ValueError, match=r"margin is 701.0; it must be at most 700"):
        estimation_radius(
            1.0, norm_bound=1.0, estimate_norm=1.0, margin=701.0, ridge=0.0, regularization=1.0
        )


def test_the_radius_at_the_largest_margin_is_finite():
    found = estimation_radius(
        0.5, norm_bound=2.0, estimate_norm=1.0, margin=700.0, ridge=0.0, regularization=1.0
    )
    with mpmath.workdps(400):
        kappa = 1 / (2 + mpmath.exp(700) + mpmath.exp(-700))
        half = mpmath.mpf(0.5) / (2 * kappa)
        assert found == pytest.approx(float(half + mpmath.sqrt(half**2 + 9)), rel=1e-13)
