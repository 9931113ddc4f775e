"""Two methods on the same seeds: differences of pairs under common random numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.statistics.bootstrap import stratified_bootstrap
from rlhfsim.statistics.inputs import LARGEST, as_level, as_sample, same_length
from rlhfsim.statistics.intervals import (
    Interval,
    clopper_pearson,
    mean_interval,
    standard_error,
    student_quantile,
)
from rlhfsim.statistics.signed_ranks import sign_test, signed_rank_test

WINS = "Clopper-Pearson on wins and on wins or ties"


@dataclass(frozen=True)
class PairedComparison(Frozen):
    """What `a` gains over `b` on the same seeds; made by `paired_comparison`."""

    #: Mean of `a - b` with Student's interval, in the unit of the values.
    difference: Interval
    #: The same mean with the BCa interval; None without `rng`.
    bootstrap: Interval | None
    #: `(mean a - mean b)/|mean b|` with Fieller's interval; None where the mean of b is 0
    #: (below 1e-100 of the largest entry).
    relative: Interval | None
    #: `P(a > b) + P(a = b)/2` with an interval that is exact for every law.
    improvement: Interval
    wins: int
    ties: int
    losses: int
    #: Two-sided p-values: mean 0 (normal differences), `P(a > b | a != b) = 1/2`, symmetry.
    t_p: float
    sign_p: float
    signed_rank_p: float
    #: Whether the last one is exact (at most 200 pairs that differ).
    signed_rank_exact: bool
    #: `(var a + var b)/var(a - b)`: how many times the seeds an unpaired comparison needs for
    #: the same standard error.  inf where the difference never varies; 1 where nothing does.
    variance_ratio: float

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return self.wins + self.ties + self.losses


def paired_comparison(
    a: ArrayLike,
    b: ArrayLike,
    level: float = 0.95,
    rng: np.random.Generator | None = None,
    resamples: int = 2000,
) -> PairedComparison:
    """Return how much larger `a` is than `b`, entry by entry.

    Entry i of both comes from the same random numbers (seed, instance), so that `a_i - b_i` are
    independent draws of one law whose variance lacks what the two have in common.

    Parameters
    ----------
    a, b : (n,) arrays, n at least 2
    level : float in (0, 1)
        Of every interval.
    rng : numpy.random.Generator, optional
        For the bootstrap interval.
    resamples : int
        Of the bootstrap.

    Returns
    -------
    PairedComparison

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: Fieller 1954 (J. R. Statist. Soc. B 16, 175); arXiv 2108.13264 for the probability of
    improvement, there over unpaired runs.
    """
    first, second = as_sample("a", a, least=2), as_sample("b", b, least=2)
    same_length(a=first, b=second)
    level = as_level(level)
    differences = first - second
    wins, losses = int((first > second).sum()), int((first < second).sum())
    resampled = None
    if rng is not None:
        resampled = stratified_bootstrap(differences, None, _mean, rng, level, resamples)
    signed_rank_p, exact = signed_rank_test(differences)
    return PairedComparison(
        difference=mean_interval(differences, level),
        bootstrap=resampled,
        relative=_relative(differences, second, level),
        improvement=_improvement(wins, losses, first.size, level),
        wins=wins,
        ties=first.size - wins - losses,
        losses=losses,
        t_p=_t_test(differences),
        sign_p=sign_test(differences),
        signed_rank_p=signed_rank_p,
        signed_rank_exact=exact,
        variance_ratio=_variance_ratio(first, second, differences),
    )


def _mean(samples: FloatArray) -> FloatArray:
    return np.asarray(samples.mean(axis=-1))


def _t_test(differences: FloatArray) -> float:
    error, mean = standard_error(differences), abs(float(differences.mean()))
    if error == 0.0:
        return 0.0 if mean > 0 else 1.0
    return 2.0 * float(student.sf(mean / error, differences.size - 1))


def _relative(differences: FloatArray, base: FloatArray, level: float) -> Interval | None:
    """Return Fieller's set of `E[d]/|E[b]|`: the k that a t-test of `E[d - k |b|] = 0` accepts.

    Where the test accepts `E[b] = 0` the set is not an interval, and the ends are infinite.
    """
    mean = float(base.mean())
    largest = max(float(np.abs(differences).max()), float(np.abs(base).max()))
    if abs(mean) * LARGEST <= largest:
        return None
    sign, method = math.copysign(1.0, mean), "Fieller"
    centre, estimate = abs(mean), float(differences.mean()) / abs(mean)
    t = student_quantile(level, base.size - 1)
    # In units of the mean of b, all terms are of the size of the relative difference.
    spread = np.stack([differences, sign * base]) / centre
    cov = np.cov(spread) / base.size * t * t
    slack = 1.0 - float(cov[1, 1])
    if slack <= 0.0:
        return Interval(estimate, -math.inf, math.inf, level, method)
    middle = estimate - float(cov[0, 1])
    # At k = estimate the quadratic is -t^2 var(d - k |b|)/n: its roots are real.
    inside = float(np.var(spread[0] - estimate * spread[1], ddof=1)) * t * t / base.size
    shift = middle - slack * estimate
    half = math.sqrt(shift * shift + slack * inside)
    return Interval(estimate, (middle - half) / slack, (middle + half) / slack, level, method)


def _improvement(wins: int, losses: int, pairs: int, level: float) -> Interval:
    """Return the mean of two probabilities, each in its Clopper-Pearson interval together."""
    tail = 0.25 * (1.0 - level)
    ends = [clopper_pearson(k, pairs, tail) for k in (wins, pairs - losses)]
    low, high = (0.5 * (one + other) for one, other in zip(*ends, strict=True))
    return Interval((0.5 * (wins + pairs - losses)) / pairs, low, high, level, WINS)


def _variance_ratio(a: FloatArray, b: FloatArray, differences: FloatArray) -> float:
    apart = math.hypot(standard_error(a), standard_error(b))
    together = standard_error(differences)
    if together == 0.0:
        return math.inf if apart > 0.0 else 1.0
    return (apart / together) * (apart / together)
