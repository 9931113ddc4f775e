"""Intervals of means and proportions, the interquartile mean: against scipy and mpmath."""

import copy
import itertools
import math
import pickle

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, trim_mean, ttest_1samp

from rlhfsim.statistics import Interval, interquartile_mean, mean_interval, proportion_interval

finite = st.floats(-1e6, 1e6)


# ---- Interval ------------------------------------------------------------------------------------


def test_interval_says_what_it_is():
    one = Interval(1.0, 0.5, 2.0, 0.95, "by hand")
    assert (one.width, one.half_width) == (1.5, 0.75)
    assert 0.5 in one
    assert 2.0 in one
    assert 0.499 not in one
    assert str(one) == "1 [0.5, 2] (95 %, by hand)"
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one
    assert math.inf in Interval(0.0, -math.inf, math.inf, 0.5, "")


@pytest.mark.parametrize(
    ("numbers", "rule"),
    [
        ((math.nan, 0.0, 1.0, 0.9), "they must be numbers"),
        ((0.0, 1.0, 0.0, 0.9), "low at most high"),
        ((0.0, math.nan, 0.0, 0.9), "they must be numbers"),
        ((0.0, 0.0, 0.0, 1.0), "level is 1.0; it must be below 1"),
        ((0.0, 0.0, 0.0, 0.0), "level is 0.0; it must be positive"),
    ],
)
def test_interval_refuses(numbers, rule):
    with pytest.raises(ValueError, match=rule):
        Interval(*numbers, "")


# ---- means ---------------------------------------------------------------------------------------


@given(st.lists(finite, min_size=2, max_size=12), st.floats(0.01, 0.999))
def test_mean_interval_is_that_of_scipy(values, level):
    found = mean_interval(values, level)
    spread = max(values) - min(values)
    if spread < 1e-3:
        # scipy loses the spread of nearly equal values.
        assert found.low <= found.estimate <= found.high
        return
    want = ttest_1samp(values, 0.0).confidence_interval(level)
    np.testing.assert_allclose((found.low, found.high), want, rtol=1e-9, atol=1e-9 * spread)
    assert (found.level, found.method) == (level, "Student's t")


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e99])
def test_mean_interval_is_equivariant_at_any_scale(scale):
    values = np.array([0.1, 0.25, -0.4, 0.7, 0.05])
    plain, scaled = mean_interval(values), mean_interval(scale * values)
    assert scaled.half_width / scale == pytest.approx(plain.half_width, rel=1e-12)
    shifted = mean_interval(values + 1024.0)
    assert shifted.half_width == pytest.approx(plain.half_width, rel=1e-9)


def test_mean_interval_of_equal_values_is_a_point():
    assert mean_interval([0.1] * 7).width == 0.0


def test_mean_interval_covers_as_often_as_it_says():
    rng, runs = np.random.default_rng(0), 2000
    covered = sum(0.3 in mean_interval(0.3 + rng.standard_normal(4), 0.8) for _ in range(runs))
    assert covered == 1588
    assert binom.cdf(covered, runs, 0.8) > 1e-3
    assert binom.sf(covered - 1, runs, 0.8) > 1e-3


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ([1.0], r"values has 1 values; it must have at least 2"),
        ([], r"values has shape \(0,\); it must be a non-empty array"),
        (1.0, r"values has shape \(\)"),
        ([[1.0, 2.0]], "must be one-dimensional"),
        ([1.0, math.nan], r"values\[1\] is nan; entries must be finite"),
        ([1.0, -1e101], r"values\[1\] is -1e\+101; entries must be at most 1e\+100"),
        (["a", "b"], "not an array of real numbers"),
        ([True, False], "not booleans"),
    ],
)
def test_mean_interval_refuses(values, rule):
    with pytest.raises(ValueError, match=rule):
        mean_interval(values)
    with pytest.raises(ValueError, match="level"):
        mean_interval([1.0, 2.0], 1.5)


# ---- proportions ---------------------------------------------------------------------------------


@given(st.integers(1, 200), st.data(), st.floats(0.01, 0.9999))
def test_proportion_interval_is_that_of_scipy(n, data, level):
    k = data.draw(st.integers(0, n))
    found = proportion_interval(k, n, level)
    want = binomtest(k, n).proportion_ci(level, method="exact")
    np.testing.assert_allclose((found.low, found.high), want, rtol=1e-9, atol=1e-14)
    assert found.estimate == k / n


@pytest.mark.parametrize(("k", "n"), [(0, 10**9), (3, 10**6), (10**6 - 1, 10**6), (7, 7), (2, 5)])
def test_ends_leave_exactly_half_the_rest_in_each_tail(k, n):
    """In 50 digits, also for probabilities of 1e-9."""
    found = proportion_interval(k, n, 0.95)
    with mp.workdps(50):
        if k > 0:
            above = mp.betainc(k, n - k + 1, 0, mp.mpf(found.low), regularized=True)
            assert float(above) == pytest.approx(0.025, rel=1e-8)
        if k < n:
            below = mp.betainc(n - k, k + 1, 0, 1 - mp.mpf(found.high), regularized=True)
            assert float(below) == pytest.approx(0.025, rel=1e-8)
    assert (found.low == 0.0) == (k == 0)
    assert (found.high == 1.0) == (k == n)


def test_proportion_interval_covers_at_least_its_level_exactly():
    """Sum over all counts: never below the level, and close to it somewhere."""
    n, shares = 12, np.linspace(0.01, 0.99, 99)
    ends = [proportion_interval(k, n, 0.9) for k in range(n + 1)]
    law = binom.pmf(np.arange(n + 1)[:, None], n, shares)
    inside = np.array([[p in e for p in shares] for e in ends])
    coverage = (law * inside).sum(axis=0)
    assert coverage.min() >= 0.9
    assert coverage.min() < 0.93


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ((3, 2), "successes is 3; it must be at most trials, which is 2"),
        ((-1, 2), "successes is -1; it must be at least 0"),
        ((0, 0), "trials is 0; it must be at least 1"),
        ((0.5, 2), "successes is 0.5; it must be an integer"),
        ((1, 2, 0.0), "level is 0.0"),
    ],
)
def test_proportion_interval_refuses(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        proportion_interval(*arguments)


# ---- the interquartile mean ----------------------------------------------------------------------


def iqm_by_copies(values):
    """Each value four times: the middle half is then a whole number of them."""
    many = sorted(v for v in values for _ in range(4))
    return math.fsum(many[len(values) : 3 * len(values)]) / (2 * len(values))


@given(st.lists(finite, min_size=1, max_size=25))
def test_interquartile_mean_is_that_of_four_copies(values):
    found = interquartile_mean(values)
    scale = max(map(abs, values)) + 1e-300
    assert found == pytest.approx(iqm_by_copies(values), rel=1e-12, abs=1e-13 * scale)
    if len(values) % 4 == 0:
        assert found == pytest.approx(trim_mean(values, 0.25), rel=1e-12, abs=1e-13 * scale)


def test_interquartile_mean_differs_from_whole_trimming_elsewhere():
    values = [0.0, 1.0, 2.0, 3.0, 4.0, 100.0]
    # Of six, one and a half are cut at either end: (1/2 + 2 + 3 + 4/2) / 3.
    assert interquartile_mean(values) == pytest.approx(2.5, rel=1e-15)
    assert interquartile_mean([0.0, 1.0, 5.0]) == pytest.approx((0.25 * 0 + 1 + 0.25 * 5) / 1.5)
    assert interquartile_mean([7.0]) == 7.0
    assert interquartile_mean([1.0, 4.0]) == 2.5


def test_interquartile_mean_along_axes():
    x = np.random.default_rng(1).standard_normal((3, 5, 8))
    kept = x.copy()
    for axis in (-3, -2, -1, 0, 1, 2):
        want = np.apply_along_axis(iqm_by_copies, axis, x)
        np.testing.assert_allclose(interquartile_mean(x, axis), want, rtol=1e-12)
    assert interquartile_mean(x, None) == pytest.approx(iqm_by_copies(x.ravel()), rel=1e-12)
    np.testing.assert_array_equal(x, kept)
    for order in itertools.permutations([3.0, 1.0, 2.0, 9.0]):
        assert interquartile_mean(order) == 2.5


@pytest.mark.parametrize(
    ("x", "axis", "rule"),
    [
        ([], -1, "non-empty"),
        (3.0, None, "non-empty"),
        ([1.0, math.inf], -1, r"x\[1\] is inf"),
        ([1.0], 1, "axis is 1; it must be below 1"),
        ([1.0], -2, "axis is -2; it must be at least -1"),
        ([1.0], 0.0, "axis is 0.0; it must be an integer"),
    ],
)
def test_interquartile_mean_refuses(x, axis, rule):
    with pytest.raises(ValueError, match=rule):
        interquartile_mean(x, axis)
