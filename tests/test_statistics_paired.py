"""Paired comparisons: tests against enumeration and scipy, Fieller's set, coverage, variance."""

import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, rankdata, ttest_rel, wilcoxon
from scipy.stats import t as student

from rlhfsim.statistics import paired_comparison, stratified_bootstrap
from rlhfsim.statistics.signed_ranks import MOST_EXACT, sign_test, signed_rank_law, signed_rank_test

small = st.lists(st.integers(-4, 4), min_size=1, max_size=9)


def pairs(seed, n, shift=0.3, noise=0.5):
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(n)
    return common + shift + noise * rng.standard_normal(n), common + 1.0


# ---- exact tests ---------------------------------------------------------------------------------


def by_signs(differences, statistic):
    """Two-sided p-value over all signs of the nonzero differences."""
    nonzero = [abs(d) for d in differences if d != 0]
    observed = statistic([d for d in differences if d != 0])
    law = [
        statistic([s * d for s, d in zip(signs, nonzero, strict=True)])
        for signs in itertools.product((-1, 1), repeat=len(nonzero))
    ]
    below, above = (
        np.mean([ok(v, observed) for v in law]) for ok in (np.less_equal, np.greater_equal)
    )
    return min(1.0, 2.0 * min(below, above))


@given(small)
def test_exact_tests_are_sums_over_all_signs(differences):
    d = np.array(differences, dtype=float)
    assert sign_test(d) == pytest.approx(
        by_signs(differences, lambda x: sum(v > 0 for v in x)), rel=1e-12
    )

    def positive_ranks(x):
        return sum(r for r, v in zip(rankdata(np.abs(x)), x, strict=True) if v > 0)

    p, exact = signed_rank_test(d)
    assert exact
    assert p == pytest.approx(by_signs(differences, positive_ranks), rel=1e-12)


@pytest.mark.parametrize("n", [5, 30, 50, MOST_EXACT])
def test_signed_ranks_without_ties_are_those_of_scipy(n):
    d = np.random.default_rng(n).standard_normal(n) + 0.2
    p, exact = signed_rank_test(d)
    assert exact
    # The smaller tail doubled: scipy has the same convention.
    assert p == pytest.approx(wilcoxon(d, method="exact").pvalue, rel=1e-9)
    wins = int((d > 0).sum())
    assert sign_test(d) == pytest.approx(binomtest(wins, n, 0.5).pvalue, rel=1e-12)


def test_many_pairs_take_the_normal_law():
    for seed in (0, 1):
        d = np.round(np.random.default_rng(seed).standard_normal(500) + 0.05, 1)
        p, exact = signed_rank_test(d)
        assert not exact
        want = wilcoxon(d, method="asymptotic", correction=True, zero_method="wilcox").pvalue
        assert p == pytest.approx(want, rel=1e-9)
        # Where both can be computed they agree.
        some = d[:MOST_EXACT]
        assert signed_rank_test(some)[1]
        approximate = wilcoxon(some, method="asymptotic", correction=True).pvalue
        assert signed_rank_test(some)[0] == pytest.approx(approximate, rel=0.05)


def test_law_of_signed_ranks_sums_to_one():
    law = signed_rank_law(np.arange(1, 101))
    assert law.sum() == pytest.approx(1.0, rel=1e-13)
    np.testing.assert_allclose(law, law[::-1], rtol=1e-10)
    np.testing.assert_array_equal(signed_rank_law(np.array([2, 2])), [0.25, 0, 0.5, 0, 0.25])


# ---- the comparison ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 7, 40])
def test_difference_is_that_of_a_paired_t_test(n):
    a, b = pairs(0, n)
    found, want = paired_comparison(a, b, 0.9), ttest_rel(a, b)
    interval = want.confidence_interval(0.9)
    np.testing.assert_allclose((found.difference.low, found.difference.high), interval, rtol=1e-9)
    assert found.t_p == pytest.approx(want.pvalue, rel=1e-9)
    assert found.bootstrap is None
    assert found.pairs == n == found.wins + found.ties + found.losses
    assert pickle.loads(pickle.dumps(found)) == found


def test_variance_ratio_is_the_saving_of_common_random_numbers():
    a, b = pairs(3, 50_000)
    found = paired_comparison(a, b)
    # (1 + 1/4 + 1)/(1/4) = 9, within five standard errors.
    assert found.variance_ratio == pytest.approx(9.0, rel=0.05)
    shuffled = np.random.default_rng(4).permutation(b)
    assert paired_comparison(a, shuffled).variance_ratio == pytest.approx(1.0, rel=0.05)
    want = (a.var() + b.var()) / (a - b).var()
    assert found.variance_ratio == pytest.approx(want, rel=1e-9)
    assert paired_comparison([1.0, 2.0], [0.0, 1.0]).variance_ratio == math.inf
    assert paired_comparison([1.0, 1.0], [1.0, 1.0]).variance_ratio == 1.0


def test_counts_and_probability_of_improvement():
    found = paired_comparison([1.0, 2.0, 3.0, 4.0, 0.0], [0.0, 2.0, 1.0, 5.0, -1.0], 0.9)
    assert (found.wins, found.ties, found.losses) == (3, 1, 1)
    assert found.improvement.estimate == 0.7
    wins, either = (binomtest(k, 5).proportion_ci(0.95, method="exact") for k in (3, 4))
    assert found.improvement.low == pytest.approx(0.5 * (wins.low + either.low), rel=1e-9)
    assert found.improvement.high == pytest.approx(0.5 * (wins.high + either.high), rel=1e-9)


def test_improvement_covers_for_every_law_of_wins_and_ties():
    """Exact sum over trinomial counts."""
    n, level = 9, 0.8
    least = 1.0
    counts = [(w, t) for w in range(n + 1) for t in range(n + 1 - w)]
    zeros = np.zeros(n)
    ends = {}
    for w, t in counts:
        a = zeros.copy()
        a[:w], a[w + t :] = 1.0, -1.0
        ends[w, t] = paired_comparison(a, zeros, level).improvement
    for p in np.linspace(0.0, 1.0, 21):
        for q in np.linspace(0.0, 1.0 - p, 11):
            share = q / (1.0 - p) if p < 1 else 0.0
            mass = sum(
                binom.pmf(w, n, p) * binom.pmf(t, n - w, min(share, 1.0))
                for w, t in counts
                if p + q / 2 in ends[w, t]
            )
            least = min(least, mass)
    assert level - 1e-12 <= least < 0.95


def test_bootstrap_is_that_of_the_differences():
    a, b = pairs(5, 30)
    found = paired_comparison(a, b, 0.9, np.random.default_rng(1), 999).bootstrap
    want = stratified_bootstrap(
        a - b, None, lambda x: x.mean(axis=-1), np.random.default_rng(1), 0.9, 999
    )
    assert found == want


def test_comparison_of_equal_arrays():
    found = paired_comparison([1.0, 3.0, -2.0], [1.0, 3.0, -2.0])
    assert (found.difference.low, found.difference.high) == (0.0, 0.0)
    assert (found.t_p, found.sign_p, found.signed_rank_p) == (1.0, 1.0, 1.0)
    assert found.improvement.estimate == 0.5
    assert paired_comparison([2.0, 4.0, -1.0], [1.0, 3.0, -2.0]).t_p == 0.0


@given(st.integers(3, 12), st.integers(0, 10**6))
def test_swapping_turns_everything_round(n, seed):
    a, b = pairs(seed, n)
    one, other = paired_comparison(a, b), paired_comparison(b, a)
    assert one.difference.low == -other.difference.high
    assert one.improvement.low == pytest.approx(1.0 - other.improvement.high, abs=1e-12)
    assert (one.wins, one.losses) == (other.losses, other.wins)
    for name in ("t_p", "sign_p", "signed_rank_p", "variance_ratio"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9)


# ---- the relative difference ---------------------------------------------------------------------


@given(st.integers(3, 12), st.integers(0, 10**6), st.sampled_from([-1.0, 1.0]))
def test_fieller_ends_are_where_a_t_test_just_rejects(n, seed, sign):
    a, b = pairs(seed, n)
    b = sign * b
    relative = paired_comparison(a, b, 0.9).relative
    assume(math.isfinite(relative.low))
    assert relative.estimate == pytest.approx((a.mean() - b.mean()) / abs(b.mean()), rel=1e-9)
    limit = student.ppf(0.95, n - 1)
    for k in (relative.low, relative.high):
        rest = a - b - k * np.sign(b.mean()) * b
        statistic = rest.mean() / (rest.std(ddof=1) / math.sqrt(n))
        assert abs(statistic) == pytest.approx(limit, rel=1e-6)


def test_fieller_is_unbounded_exactly_where_the_base_may_be_zero():
    a = np.array([1.0, 2.0, 3.0, 4.0])
    rest = np.array([-0.3, 0.1, 0.4, -0.2])
    limit = student.ppf(0.975, 3) * rest.std(ddof=1) / 2.0
    for factor, bounded in ((0.999, False), (1.001, True)):
        relative = paired_comparison(a, rest + factor * limit).relative
        assert math.isfinite(relative.low) == math.isfinite(relative.high) == bounded
    assert paired_comparison(a, [1.0, -1.0, 2.0, -2.0]).relative is None


def test_a_base_whose_mean_is_only_rounding_has_no_relative_difference():
    """That is, a mean below 1e-100 of the largest entry or difference."""
    b = [1e-120, 1e-120, 1.1e-120]
    assert paired_comparison([1.0, 2.0, 3.0], b).relative is None


@pytest.mark.parametrize(("distance", "count"), [(2.0, 858), (10.0, 796)])
def test_fieller_covers_as_often_as_it_says(distance, count):
    """A base `distance` standard errors from 0; so near as 2 the delta method would be off.

    Unbounded sets are reported as the whole line, so that near 0 it covers more often.
    """
    rng, runs, n, covered = np.random.default_rng(6), 1000, 5, 0
    for _ in range(runs):
        b = distance / math.sqrt(n) + rng.standard_normal(n)
        a = 1.5 * distance / math.sqrt(n) + rng.standard_normal(n)
        covered += 0.5 in paired_comparison(a, b, 0.8).relative
    assert covered == count
    assert binom.cdf(covered, runs, 0.8) > 1e-3
    assert distance < 10 or binom.sf(covered - 1, runs, 0.8) > 1e-3


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "rule"),
    [
        ([1.0, 2.0], [1.0, 2.0, 3.0], "lengths differ: a 2, b 3; they must be equal"),
        ([1.0], [1.0], "a has 1 values; it must have at least 2"),
        ([1.0, math.nan], [1.0, 2.0], r"a\[1\] is nan"),
        ([1.0, 2.0], [math.inf, 2.0], r"b\[0\] is inf"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "a has shape"),
    ],
)
def test_bad_input_is_refused(a, b, rule):
    with pytest.raises(ValueError, match=rule):
        paired_comparison(a, b)
    with pytest.raises(ValueError, match="level is 2"):
        paired_comparison([1.0, 2.0], [1.0, 2.0], level=2.0)
