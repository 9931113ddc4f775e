"""The stratified bootstrap: its law by enumeration, its intervals against scipy, its coverage."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom, bootstrap, chisquare, norm

from rlhfsim.statistics import bootstrap_distribution, interquartile_mean, stratified_bootstrap
from rlhfsim.statistics.bootstrap import _BLOCK


def mean(x):
    return x.mean(axis=-1)


def rng(seed=0):
    return np.random.default_rng(seed)


SKEWED = np.random.default_rng(7).exponential(size=25)


# ---- the law of the resamples --------------------------------------------------------------------


def test_resamples_are_drawn_within_strata():
    """All 2^2 3^3 resamples of two strata, with their probabilities."""
    values, strata = np.array([1.0, 10.0, 2.0, 30.0, 100.0]), ["a", "b", "a", "b", "b"]
    first, second = [1.0, 2.0], [10.0, 30.0, 100.0]
    sums = np.array(
        [
            sum(a) + sum(b)
            for a in itertools.product(first, repeat=2)
            for b in itertools.product(second, repeat=3)
        ]
    )
    size = 20_000
    found = bootstrap_distribution(values, strata, lambda x: x.sum(axis=-1), rng(), size)
    outcomes, counts = np.unique(sums, return_counts=True)
    drawn = np.array([(found == o).sum() for o in outcomes])
    assert drawn.sum() == size
    assert chisquare(drawn, counts * size / counts.sum()).pvalue > 1e-3


def test_each_position_keeps_its_stratum():
    values, strata = np.arange(12.0), np.array([0, 1, 2] * 4)

    def check(x):
        assert (x % 3 == strata).all()
        return x[:, 0]

    bootstrap_distribution(values, strata, check, rng(), 50)


def test_rows_are_resampled_whole():
    rows = np.stack([np.arange(6.0), 10.0 + np.arange(6.0)], axis=1)

    def check(x):
        assert x.shape[1:] in ((6, 2), (5, 2))
        np.testing.assert_array_equal(x[..., 1], x[..., 0] + 10.0)
        return x[..., 0].mean(axis=1)

    stratified_bootstrap(rows, None, check, rng(), resamples=300)


def test_numbers_do_not_depend_on_blocks_or_on_how_many(monkeypatch):
    strata = [0] * 10 + [1] * 15
    want = bootstrap_distribution(SKEWED, strata, mean, rng(), 301)
    np.testing.assert_array_equal(
        bootstrap_distribution(SKEWED, strata, mean, rng(), 100), want[:100]
    )
    interval = stratified_bootstrap(SKEWED, strata, mean, rng(), resamples=301)
    sizes = []

    def watched(x):
        sizes.append(len(x))
        return mean(x)

    monkeypatch.setattr("rlhfsim.statistics.bootstrap._BLOCK", 7 * 25)
    np.testing.assert_array_equal(bootstrap_distribution(SKEWED, strata, watched, rng(), 301), want)
    assert sizes == [7] * 43
    assert stratified_bootstrap(SKEWED, strata, mean, rng(), resamples=301) == interval


def test_blocks_bound_the_memory():
    largest = 0

    def watched(x):
        nonlocal largest
        largest = max(largest, x.size)
        return x[:, 0]

    bootstrap_distribution(rng().standard_normal(1000), None, watched, rng(), 3000)
    assert largest <= _BLOCK < 3000 * 1000


# ---- the intervals -------------------------------------------------------------------------------


def by_scipy(samples, statistic, law, level, method):
    """scipy's interval from the same resamples."""
    own = SimpleNamespace(bootstrap_distribution=law, standard_error=0.0)
    return bootstrap(
        samples, statistic, n_resamples=0, bootstrap_result=own, confidence_level=level,
        method=method, vectorized=True, axis=-1,
    ).confidence_interval  # fmt: skip


@pytest.mark.parametrize("method", ["percentile", "basic"])
@pytest.mark.parametrize("statistic", [mean, interquartile_mean])
def test_quantiles_are_those_of_scipy(method, statistic):
    """scipy puts the k-th smallest at (k - 1)/(M - 1), not k/(M + 1): the levels differ."""
    size, level = 499, 0.9
    law = bootstrap_distribution(SKEWED, None, statistic, rng(), size)
    found = stratified_bootstrap(SKEWED, None, statistic, rng(), level, size, method)
    alpha = (0.5 * (1 - level) * (size + 1) - 1) / (size - 1)
    want = by_scipy((SKEWED,), lambda x, axis: statistic(x), law, 1 - 2 * alpha, method)
    np.testing.assert_allclose((found.low, found.high), want, rtol=1e-12)
    assert found.method == f"{method} bootstrap, 499 resamples"


def ranks_apart(law, a, b):
    return abs(np.searchsorted(np.sort(law), a) - np.searchsorted(np.sort(law), b))


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_bca_is_that_of_scipy_to_a_rank(level):
    size = 4000
    law = bootstrap_distribution(SKEWED, None, mean, rng(), size)
    found = stratified_bootstrap(SKEWED, None, mean, rng(), level, size)
    plain = stratified_bootstrap(SKEWED, None, mean, rng(), level, size, "percentile")
    want = by_scipy((SKEWED,), lambda x, axis: mean(x), law, level, "BCa")
    for ours, theirs, other in zip(
        (found.low, found.high), want, (plain.low, plain.high), strict=True
    ):
        assert ranks_apart(law, ours, theirs) <= 2
        assert ranks_apart(law, ours, other) > 10


def test_bca_of_two_strata_is_that_of_scipy_for_two_samples():
    first, second = SKEWED[:9], SKEWED[9:] ** 2
    values, strata = np.concatenate([first, second]), [0] * 9 + [1] * 16
    size = 4000

    def pooled(x, y, axis):
        return np.concatenate([x, y], axis=-1).mean(axis=-1)

    law = bootstrap_distribution(values, strata, mean, rng(), size)
    found = stratified_bootstrap(values, strata, mean, rng(), 0.9, size)
    want = by_scipy((first, second), pooled, law, 0.9, "BCa")
    for ours, theirs in zip((found.low, found.high), want, strict=True):
        assert ranks_apart(law, ours, theirs) <= 2


def test_bca_by_hand():
    """Bias and acceleration of the mean in closed form: influences are the deviations."""
    size, level = 999, 0.9
    law = np.sort(bootstrap_distribution(SKEWED, None, mean, rng(), size))
    away = SKEWED - SKEWED.mean()
    a = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    z0 = norm.ppf((law < SKEWED.mean()).mean() + (law == SKEWED.mean()).mean() / 2)
    found = stratified_bootstrap(SKEWED, None, mean, rng(), level, size)
    for end, alpha in ((found.low, 0.05), (found.high, 0.95)):
        z = z0 + norm.ppf(alpha)
        rank = norm.cdf(z0 + z / (1 - a * z)) * (size + 1) - 1
        k = math.floor(rank)
        assert end == pytest.approx(law[k] + (rank - k) * (law[k + 1] - law[k]), rel=1e-9)


def test_strata_take_out_the_spread_between_them():
    values = np.concatenate([rng(1).standard_normal(20), 50.0 + rng(2).standard_normal(20)])
    strata = ["low"] * 20 + ["high"] * 20
    within = stratified_bootstrap(values, strata, mean, rng()).width
    ignored = stratified_bootstrap(values, None, mean, rng()).width
    expected = 2 * 1.96 * math.hypot(values[:20].std(), values[20:].std()) / 2 / math.sqrt(20)
    assert within == pytest.approx(expected, rel=0.1)
    assert ignored > 10 * within


def test_equal_values_give_a_point():
    for method in ("bca", "percentile", "basic"):
        found = stratified_bootstrap([0.1] * 6, list("aabbcc"), mean, rng(), method=method)
        assert found.low == found.high == found.estimate


def test_callers_arrays_are_not_changed():
    values = SKEWED.copy()

    def sorting(x):
        x.sort(axis=-1)
        return x.mean(axis=-1)

    found = stratified_bootstrap(values, None, sorting, rng())
    np.testing.assert_array_equal(values, SKEWED)
    want = stratified_bootstrap(values, None, mean, rng())
    assert (found.low, found.high) == pytest.approx((want.low, want.high), rel=1e-12)


def test_coverage():
    """Skewed values: BCa misses less unevenly than the percentile interval; counts are pinned."""
    generator, runs, truth = rng(11), 500, 1.0
    missed = {"bca": [0, 0], "percentile": [0, 0], "basic": [0, 0]}
    for _ in range(runs):
        values = generator.exponential(size=30)
        state = int(generator.integers(2**31))
        for method, sides in missed.items():
            found = stratified_bootstrap(values, None, mean, rng(state), 0.9, 399, method)
            sides[0] += truth < found.low
            sides[1] += truth > found.high
    assert missed == {"bca": [31, 35], "percentile": [21, 54], "basic": [18, 61]}
    for sides in missed.values():
        covered = runs - sum(sides)
        # With a true coverage of 0.85 or more: the probability of fewer is below 1e-3.
        assert binom.cdf(covered, runs, 0.85) > 1e-3
        assert covered < 0.94 * runs
    assert max(missed["bca"]) < max(missed["percentile"]) < max(missed["basic"])


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "strata", "more", "rule"),
    [
        ([1.0], None, {}, "values has 1 unit; a stratum must have at least 2 units"),
        ([1.0, 2.0, 3.0], [0, 1, 1], {}, r"strata\[0\] stands alone"),
        ([1.0, 2.0], [0], {}, "strata has 1 labels; it must have 2"),
        ([1.0, 2.0], [0, math.nan], {}, r"strata\[1\] is nan; it must be a label"),
        ([1.0, 2.0], np.zeros((2, 1)), {}, r"strata\[0\] is \[0.0\]; it must be a label"),
        ([1.0, math.nan], None, {}, r"values\[1\] is nan"),
        (np.zeros((2, 2, 2)), None, {}, r"it must have shape \(n,\) or \(n, k\)"),
        ([1.0, 2.0], None, {"method": "normal"}, "method is 'normal'; it must be one of"),
        ([1.0, 2.0], None, {"level": 1.0}, "level is 1.0; it must be below 1"),
        ([1.0, 2.0], None, {"resamples": 0}, "resamples is 0; it must be at least 1"),
        (
            [1.0, 2.0, 4.0], None, {"resamples": 38, "method": "percentile"},
            "resamples is 38; .* 0.025 and 0.975, which need at least 39",
        ),
        ([1.0, 2.0], None, {"rng": 3}, "rng is a int; it must be a numpy.random.Generator"),
        (
            [1.0, 2.0], None, {"statistic": lambda x: x},
            r"statistic\(samples\) has shape .*; it must have shape \(2000,\)",
        ),
        (
            [1.0, 2.0], None, {"statistic": lambda x: np.full(len(x), np.nan)},
            r"statistic\(samples\)\[0\] is nan",
        ),
        (
            [1.0, 2.0, 3.0], None, {"statistic": lambda x: 1.0 * (len(x) == 1) + 0 * x[:, 0]},
            "bca has no interval then",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused(values, strata, more, rule):
    settings = {"statistic": mean, "rng": rng()} | more
    with pytest.raises(ValueError, match=rule):
        stratified_bootstrap(values, strata, **settings)


def test_just_enough_resamples():
    law = bootstrap_distribution(SKEWED, None, mean, rng(), 39)
    found = stratified_bootstrap(SKEWED, None, mean, rng(), 0.95, 39, "percentile")
    assert (found.low, found.high) == pytest.approx((law.min(), law.max()), rel=1e-12)
