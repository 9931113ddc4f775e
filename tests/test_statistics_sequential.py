"""Adding seeds: Stein's rule by hand, its exact coverage, and the rule that it is not."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from scipy.stats import t as student

from rlhfsim.statistics import mean_interval, next_seeds, run_until, stein_interval

RUNS = 1500


def stream(seed, law="standard_normal"):
    """Seeds as positions in one fixed sequence, as a study has them."""
    values = getattr(np.random.default_rng(seed), law)(20_000)
    return lambda start, count: values[start : start + count]


# ---- the rule ------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(0.1, 3.0), st.floats(0.5, 0.99))
def test_number_of_seeds_is_steins(seed, first, half_width, level):
    values = stream(seed)(0, 15)
    t = student.ppf(0.5 + level / 2, first - 1)
    reach = (t * values[:first].std(ddof=1) / half_width) ** 2
    total = max(first, math.ceil(reach))
    if abs(reach - round(reach)) < 1e-6 * reach:
        return
    assert next_seeds(values, half_width, level, first=first) == max(0, total - 15)
    # The same total whatever has been drawn, and the first stage before anything else.
    assert next_seeds(values[:first], half_width, level, first=first) == total - first
    assert next_seeds(values[: first - 1], half_width, level, first=first) == 1
    assert next_seeds([], half_width, level, first=first) == first


def test_interval_is_steins():
    values = stream(1)(0, 50)
    found = stein_interval(values, 0.9, first=8)
    half = student.ppf(0.95, 7) * values[:8].std(ddof=1) / math.sqrt(50)
    ends = (values.mean(), values.mean() - half, values.mean() + half)
    np.testing.assert_allclose((found.estimate, found.low, found.high), ends, rtol=1e-12)
    assert found.method == "Stein's t, first stage of 8"
    # With one stage it is Student's.
    one, plain = stein_interval(values[:8], first=8), mean_interval(values[:8])
    assert (one.low, one.high) == (plain.low, plain.high)


@given(st.integers(0, 10**6), st.integers(1, 40))
def test_batches_change_no_result(seed, batch):
    calls = []

    def sample(start, count):
        calls.append((start, count))
        return stream(seed)(start, count)

    found = run_until(sample, 0.6, first=5, batch=batch)
    assert max(count for _, count in calls) <= batch
    # Each seed once, in order.
    assert [i for start, count in calls for i in range(start, start + count)] == list(
        range(found.values.size)
    )
    whole = run_until(stream(seed), 0.6, first=5)
    np.testing.assert_array_equal(found.values, whole.values)
    assert found.interval == whole.interval
    assert found.reached
    assert found.interval.half_width <= 0.6
    assert not found.values.flags.writeable


def test_a_budget_ends_it():
    found = run_until(stream(3), 0.01, most=100)
    assert not found.reached
    assert found.values.size == 100
    assert found.interval == stein_interval(stream(3)(0, 100))
    enough = run_until(stream(3), 10.0, most=10)
    assert enough.reached
    assert enough.values.size == 10
    constant = run_until(lambda start, count: np.full(count, 0.1), 1e-9)
    assert (constant.values.size, constant.interval.width, constant.reached) == (10, 0.0, True)


# ---- coverage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "half_width", "most", "count"),
    [(3, 0.3, 20_000, 1190), (10, 0.3, 20_000, 1228), (5, 0.3, 30, 1218)],
)
def test_coverage_is_exact_for_normal_values(first, half_width, most, count):
    """Also with a budget that is often too small; counts are pinned."""
    covered = sum(
        0.0 in run_until(stream(s), half_width, 0.8, first=first, most=most).interval
        for s in range(RUNS)
    )
    assert covered == count
    assert min(binom.cdf(covered, RUNS, 0.8), binom.sf(covered - 1, RUNS, 0.8)) > 1e-3


def test_the_asked_width_covers_at_least_as_often():
    """`mean +- half_width` is wider than the interval, and by less than one seed's worth."""
    covered, spent = 0, []
    for s in range(RUNS):
        found = run_until(stream(s), 0.3, 0.8, first=10)
        covered += abs(found.values.mean()) <= 0.3
        spent.append(found.values.size)
    assert covered == 1240
    assert binom.cdf(covered, RUNS, 0.8) > 1e-3
    # On average t^2/half_width^2 seeds, the first stage included: 21.3 and the rounding up.
    t = student.ppf(0.9, 9)
    assert np.mean(spent) == pytest.approx((t / 0.3) ** 2 + 0.5, rel=0.03)


def test_stopping_when_students_interval_looks_narrow_covers_less():
    """The rule that this replaces: one look after each seed from the third on."""
    covered = 0
    for s in range(RUNS):
        values = stream(s)(0, 400)
        n = np.arange(3, 401)
        sums, squares = values.cumsum()[2:], (values**2).cumsum()[2:]
        deviation = np.sqrt((squares - sums**2 / n) / (n - 1))
        half = student.ppf(0.9, n - 1) * deviation / np.sqrt(n)
        stop = int(np.argmax(half <= 0.3))
        assert half[stop] == pytest.approx(mean_interval(values[: n[stop]], 0.8).half_width)
        covered += abs(sums[stop] / n[stop]) <= half[stop]
    assert covered == 1081
    assert binom.cdf(covered, RUNS, 0.8) < 1e-6


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "half_width", "more", "rule"),
    [
        ([1.0, 2.0], 0.0, {}, "half_width is 0.0; it must be positive"),
        ([1.0, 2.0], math.nan, {}, "half_width is nan"),
        ([1.0, 2.0], 1.0, {"first": 1}, "first is 1; it must be at least 2"),
        ([1.0, 2.0], 1.0, {"level": 1.0}, "level is 1.0"),
        ([1.0, math.nan], 1.0, {}, r"values\[1\] is nan"),
        ([[1.0], [2.0]], 1.0, {}, "must be one-dimensional"),
        ([1.0, 2.0], 1e-12, {"first": 2}, "ask for more than 1e18 seeds"),
    ],
)
def test_bad_input_is_refused(values, half_width, more, rule):
    with pytest.raises(ValueError, match=rule):
        next_seeds(values, half_width, **more)


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match=r"sample\(0, 10\) has 9 values; it must have 10"):
        run_until(lambda start, count: np.zeros(count - 1), 1.0)
    with pytest.raises(ValueError, match=r"sample\(0, 10\)\[2\] is nan"):
        run_until(lambda start, count: np.where(np.arange(count) == 2, np.nan, 0.0), 1.0)
    with pytest.raises(ValueError, match="most is 5; it must be at least 10"):
        run_until(stream(0), 1.0, most=5)
    with pytest.raises(ValueError, match="batch is 0"):
        run_until(stream(0), 1.0, batch=0)
    with pytest.raises(ValueError, match="values has 3 values; it must have at least 10"):
        stein_interval([1.0, 2.0, 3.0])
