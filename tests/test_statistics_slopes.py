"""Slopes on log-log axes: against scipy and numpy, exact powers, curvature, coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from scipy.stats import binom, chi2, linregress, norm, ttest_1samp
from scipy.stats import t as student

from rlhfsim.statistics import bootstrap_slope, fit_slope, fit_slope_of_runs
from rlhfsim.statistics.least_squares import least_squares

SIZES = np.array([10.0, 30.0, 200.0, 1e3, 1e5])


def noisy(seed=0, sizes=SIZES, noise=0.1, slope=-0.7, runs=None):
    rng = np.random.default_rng(seed)
    shape = sizes.shape if runs is None else (runs, *sizes.shape)
    return 3.0 * sizes**slope * np.exp(noise * rng.standard_normal(shape))


# ---- one value for each size ---------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(3, 9), st.floats(0.5, 0.999))
def test_slope_is_that_of_a_regression(seed, count, level):
    sizes = np.geomspace(3.0, 1e6, count)
    values = noisy(seed, sizes)
    found = fit_slope(sizes, values, level=level)
    want = linregress(np.log(sizes), np.log(values))
    half = student.ppf(0.5 + level / 2, count - 2) * want.stderr
    ends = (want.slope, want.slope - half, want.slope + half)
    slope = found.slope
    np.testing.assert_allclose(
        (slope.estimate, slope.low, slope.high), ends, rtol=1e-9, atol=1e-9 * (1 + half)
    )
    assert found.intercept == pytest.approx(want.intercept, abs=1e-9)
    residuals = np.log(values) - want.intercept - want.slope * np.log(sizes)
    assert found.largest_residual == pytest.approx(np.abs(residuals).max(), rel=1e-7)
    assert (found.x_min, found.x_max) == (sizes[0], sizes[-1])
    assert found.misfit_p is None
    assert (found.curvature is None) == (count == 3)


def test_curvature_is_the_quadratic_coefficient():
    sizes, values = SIZES, noisy(1)
    found = fit_slope(sizes, values)
    u = np.log(sizes)
    design = np.stack([np.ones(5), u, u * u], axis=1)
    c, rest, _, _ = np.linalg.lstsq(design, np.log(values))
    error = math.sqrt(rest[0] / 2 * np.linalg.inv(design.T @ design)[2, 2])
    assert found.curvature.estimate == pytest.approx(c[2], rel=1e-7)
    assert found.curvature.half_width == pytest.approx(student.ppf(0.975, 2) * error, rel=1e-6)
    local = [c[1] + 2 * c[2] * e for e in (u[0], u[-1])]
    assert found.drift.estimate == pytest.approx(local[1] - local[0], rel=1e-7)
    assert found.straight


def test_a_bent_curve_is_not_straight():
    sizes = np.geomspace(10.0, 1e6, 12)
    found = fit_slope(sizes, 1.0 / np.sqrt(sizes) + 1e-2)
    assert found.straight is False
    assert found.drift.low > 0.3
    logarithm = fit_slope(sizes, 1.0 / np.log(sizes))
    assert logarithm.straight is False
    straight = fit_slope(sizes, noisy(2, sizes))
    assert straight.straight


def test_exact_power():
    found = fit_slope(SIZES, 3.0 * SIZES**-0.7)
    slope = found.slope
    np.testing.assert_allclose((slope.estimate, slope.low, slope.high), -0.7, rtol=1e-12)
    assert math.exp(found.intercept) == pytest.approx(3.0, rel=1e-12)
    assert found.largest_residual < 1e-13
    assert abs(found.drift.estimate) < 1e-13
    assert str(found).startswith("slope -0.7 [-0.7, -0.7] (95 %, Student's t of a regression) for")


def test_interval_of_a_regression_covers_as_often_as_it_says():
    runs, covered, straight = 1500, 0, 0
    for seed in range(runs):
        found = fit_slope(SIZES, noisy(seed), level=0.8)
        covered += -0.7 in found.slope
        straight += found.straight
    assert (covered, straight) == (1171, 1221)
    for count in (covered, straight):
        assert min(binom.cdf(count, runs, 0.8), binom.sf(count - 1, runs, 0.8)) > 1e-3


# ---- known errors --------------------------------------------------------------------------------


def test_known_errors_weight_the_fit():
    values, errors = noisy(3), np.array([0.05, 0.02, 0.01, 0.004, 1e-4])
    found = fit_slope(SIZES, values, errors, level=0.9)
    relative = errors / values
    want, cov = curve_fit(
        lambda u, a, s: a + s * u, np.log(SIZES), np.log(values), (1.0, -0.7), relative, True
    )
    half = norm.ppf(0.95) * math.sqrt(cov[1, 1])
    assert found.slope.estimate == pytest.approx(want[1], rel=1e-6)
    assert found.slope.half_width == pytest.approx(half, rel=1e-6)
    assert found.slope.method == "normal, known errors"
    rest = (np.log(values) - want[0] - want[1] * np.log(SIZES)) / relative
    assert found.misfit_p == pytest.approx(chi2.sf(rest @ rest, 3), rel=1e-5)
    plain = fit_slope(SIZES, values)
    assert abs(plain.slope.estimate - found.slope.estimate) > 1e-4


def test_with_known_errors_three_sizes_show_a_curvature():
    x = np.array([10.0, 100.0, 1000.0])
    y = np.exp(1.0 - 0.5 * np.log(x) + 0.1 * np.log(x) ** 2)
    fit = fit_slope(x, y, 1e-3 * y)
    assert fit.curvature.estimate == pytest.approx(0.1, rel=1e-9)
    assert fit.straight is False
    assert fit_slope(x, y).curvature is None


def test_misfit_is_uniform_under_the_model_and_small_off_it():
    rng, runs = np.random.default_rng(5), 1000
    values, relative = SIZES**-0.5, np.array([0.01, 0.02, 0.005, 0.03, 0.01])
    small = covered = 0
    for _ in range(runs):
        drawn = values * np.exp(relative * rng.standard_normal(5))
        found = fit_slope(SIZES, drawn, relative * drawn, level=0.9)
        small += found.misfit_p < 0.1
        covered += -0.5 in found.slope
    assert (small, covered) == (109, 890)
    assert min(binom.cdf(small, runs, 0.1), binom.sf(small - 1, runs, 0.1)) > 1e-3
    assert min(binom.cdf(covered, runs, 0.9), binom.sf(covered - 1, runs, 0.9)) > 1e-3
    assert fit_slope(SIZES, values + 0.1, 0.01 * values).misfit_p < 1e-10


# ---- runs ----------------------------------------------------------------------------------------


def test_slope_of_runs_is_students_over_their_slopes():
    runs = noisy(6, runs=7)
    found = fit_slope_of_runs(SIZES, runs, 0.9)
    slopes = [linregress(np.log(SIZES), np.log(r)).slope for r in runs]
    bends = [np.polyfit(np.log(SIZES), np.log(r), 2)[0] for r in runs]
    for interval, values in ((found.slope, slopes), (found.curvature, bends)):
        want = ttest_1samp(values, 0.0).confidence_interval(0.9)
        np.testing.assert_allclose((interval.low, interval.high), want, rtol=1e-8, atol=1e-12)
    line = linregress(np.log(SIZES), np.log(runs).mean(axis=0))
    assert found.intercept == pytest.approx(line.intercept, abs=1e-9)


def test_runs_whose_noise_is_common_along_the_path_are_covered():
    """A random level and tilt of each run: a regression over all values would cover less."""
    rng, total, covered = np.random.default_rng(8), 1000, 0
    u = np.log(SIZES) - np.log(SIZES).mean()
    for _ in range(total):
        level, tilt = rng.standard_normal((2, 5, 1))
        runs = SIZES**-0.5 * np.exp(level + 0.1 * tilt * u + 0.01 * rng.standard_normal((5, 5)))
        covered += -0.5 in fit_slope_of_runs(SIZES, runs, 0.9).slope
    assert covered == 903
    assert min(binom.cdf(covered, total, 0.9), binom.sf(covered - 1, total, 0.9)) > 1e-3


def test_bootstrap_is_about_the_log_of_the_mean():
    """Noise that grows with the size: log E[y] and E[log y] have different slopes."""
    rng = np.random.default_rng(9)
    sizes = np.array([10.0, 100.0, 1000.0, 1e4])
    spread = np.array([0.0, 0.3, 0.6, 0.9])
    runs = sizes**-0.5 * np.exp(spread * rng.standard_normal((4000, 4)))
    u = np.log(sizes)
    of_mean = linregress(u, -0.5 * u + spread**2 / 2).slope
    of_logs = fit_slope_of_runs(sizes, runs)
    found = bootstrap_slope(sizes, runs, np.random.default_rng(0), 0.99, 999)
    assert -0.5 in of_logs.slope
    assert of_mean in found.slope
    assert of_mean not in of_logs.slope
    assert -0.5 not in found.slope
    # To second order in the spread, in closed form.
    assert found.curvature.estimate == pytest.approx(np.polyfit(u, spread**2 / 2, 2)[0], abs=5e-3)
    deviation = np.log(runs.mean(axis=0))
    assert found.slope.estimate == pytest.approx(linregress(u, deviation).slope, rel=1e-10)


def test_bootstrap_width_is_that_of_the_delta_method():
    runs = noisy(10, runs=400, noise=0.2)
    found = bootstrap_slope(SIZES, runs, np.random.default_rng(1), 0.9, 999, "percentile")
    u = np.log(SIZES) - np.log(SIZES).mean()
    weights = u / (u @ u)
    relative = (runs / runs.mean(axis=0)) @ weights
    want = norm.ppf(0.95) * relative.std(ddof=1) / math.sqrt(400)
    assert found.slope.half_width == pytest.approx(want, rel=0.1)
    again = bootstrap_slope(SIZES, runs, np.random.default_rng(1), 0.9, 999, "percentile")
    assert found == again


# ---- least squares -------------------------------------------------------------------------------


def test_dependent_columns_are_seen():
    x = np.arange(6.0)
    assert least_squares(np.stack([x, 2 * x], axis=1), x, None) is None
    assert least_squares(np.stack([x, 0 * x], axis=1), x, None) is None
    assert least_squares(np.stack([x, 1e-100 * x**2], axis=1), x, None) is not None


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y", "errors", "rule"),
    [
        ([1.0, 2.0], [1.0, 2.0], None, "x has 2 values; it must have at least 3"),
        ([1.0, 2.0, 2.0], [1.0, 2.0, 3.0], None, "x has 2 different sizes"),
        ([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], None, r"x\[0\] is 0.0; it must be positive"),
        ([1.0, 2.0, 3.0], [1.0, -2.0, 3.0], None, r"y\[1\] is -2.0; it must be positive"),
        ([1.0, 2.0, 3.0], [1.0, math.nan, 3.0], None, r"y\[1\] is nan"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0], None, "lengths differ: x 3, y 4"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 0.0, 1.0], r"errors\[1\] is 0.0"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0], "lengths differ"),
        ([1.0, 2.0, 3.0], [1e100, 2.0, 3.0], [1e-100, 1.0, 1.0], r"errors/y\[0\] is 1e-200"),
    ],
)
def test_bad_input_is_refused(x, y, errors, rule):
    with pytest.raises(ValueError, match=rule):
        fit_slope(x, y, errors)


@pytest.mark.parametrize(
    ("runs", "rule"),
    [
        ([1.0, 2.0, 3.0], r"runs has shape \(3,\); it must have shape \(R, 3\)"),
        ([[1.0, 2.0, 3.0]], "with R at least 2"),
        ([[1.0, 2.0]] * 2, r"it must have shape \(R, 3\)"),
        ([[1.0, 2.0, 3.0], [1.0, 0.0, 3.0]], r"runs\[1, 1\] is 0.0; it must be positive"),
    ],
)
def test_bad_runs_are_refused(runs, rule):
    with pytest.raises(ValueError, match=rule):
        fit_slope_of_runs([1.0, 2.0, 3.0], runs)
    with pytest.raises(ValueError, match=rule):
        bootstrap_slope([1.0, 2.0, 3.0], runs, np.random.default_rng(0))
