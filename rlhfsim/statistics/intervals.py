"""Confidence intervals that say their level and their method: of a mean, of a proportion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainccinv, betaincinv
from scipy.stats import t as student

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.statistics.inputs import as_level, as_sample


@dataclass(frozen=True)
class Interval(Frozen):
    """An estimate with its confidence interval `[low, high]`, in the unit of the estimate.

    Parameters
    ----------
    estimate : float
    low, high : float
        `low <= high`; infinite where the data give no bound.  Some bootstrap intervals do not
        hold their estimate.
    level : float in (0, 1)
        Of confidence, in two-sided terms.
    method : str
        How the interval was made.

    Raises
    ------
    ValueError
        For NaN, ends in the wrong order, or a level outside (0, 1).
    """

    estimate: float
    low: float
    high: float
    level: float
    method: str

    def __post_init__(self) -> None:
        """Validate."""
        as_level(self.level)
        if math.isnan(self.estimate) or not self.low <= self.high:
            raise ValueError(
                f"estimate, low, high are {self.estimate!r}, {self.low!r}, {self.high!r}; "
                "they must be numbers, with low at most high"
            )

    @property
    def width(self) -> float:
        """`high - low`."""
        return self.high - self.low

    @property
    def half_width(self) -> float:
        """Half of `high - low`."""
        return 0.5 * self.width

    def __contains__(self, value: float) -> bool:
        """Return whether `low <= value <= high`."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        """Return the estimate, the ends, the level and the method in one line."""
        ends = f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"
        return f"{ends} ({100 * self.level:g} %, {self.method})"


def around(estimate: float, half: float, level: float, method: str) -> Interval:
    """Return `estimate +- half`."""
    return Interval(estimate, estimate - half, estimate + half, level, method)


def student_quantile(level: float, freedom: float) -> float:
    """Return t with `P(|T| <= t) = level`, T of Student's law."""
    return float(student.isf(0.5 * (1.0 - level), freedom))


def standard_error(values: FloatArray) -> float:
    """Return the standard deviation (divisor n - 1) of a sample over `sqrt(n)`."""
    away = values - values.mean()
    # Squares of tiny numbers would underflow: a power of two in front costs no rounding.
    largest = float(np.abs(away).max())
    if largest == 0.0 or (values == values[0]).all():
        return 0.0
    scale = 2.0 ** math.floor(math.log2(largest))
    total = float(np.square(away / scale).sum())
    return scale * math.sqrt(total / (values.size - 1) / values.size)


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean of a sample with Student's interval.

    `mean +- t s/sqrt(n)`, s the standard deviation (divisor n - 1), t the quantile of Student's
    law with n - 1 degrees of freedom.  Exact for independent values of one normal law, asymptotic
    for others of finite variance; one look only (see `next_seeds` for repeated looks).

    Parameters
    ----------
    values : (n,) array, n at least 2
    level : float in (0, 1)

    Returns
    -------
    Interval
        In the unit of the values.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: Student 1908 (Biometrika 6, 1).
    """
    sample, level = as_sample("values", values, least=2), as_level(level)
    half = student_quantile(level, sample.size - 1) * standard_error(sample)
    return around(float(sample.mean()), half, level, "Student's t")


def proportion_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Return a probability, estimated by a count, with the Clopper-Pearson interval.

    The low end is the p with `P(Binomial(trials, p) >= successes) = (1 - level)/2`, the high end
    the one with `P(Binomial(trials, p) <= successes) = (1 - level)/2`.  Coverage is at least
    `level` for every p and every number of trials.

    Parameters
    ----------
    successes : int
        From 0 to `trials`.
    trials : int
        At least 1.
    level : float in (0, 1)

    Returns
    -------
    Interval
        In [0, 1].

    Raises
    ------
    ValueError
        Bad input, by name, rule and value.

    Source: Clopper and Pearson 1934 (Biometrika 26, 404).
    """
    n = checks.whole_number("trials", trials, least=1)
    k = checks.whole_number("successes", successes, least=0)
    if k > n:
        raise ValueError(f"successes is {k}; it must be at most trials, which is {n}")
    level = as_level(level)
    tail = 0.5 * (1.0 - level)
    low, high = clopper_pearson(k, n, tail)
    return Interval(k / n, low, high, level, "Clopper-Pearson")


def clopper_pearson(successes: int, trials: int, tail: float) -> tuple[float, float]:
    """Return the two ends, each of which misses the truth with probability at most `tail`."""
    failures = trials - successes
    low = float(betaincinv(successes, failures + 1, tail)) if successes else 0.0
    high = float(betainccinv(successes + 1, failures, tail)) if failures else 1.0
    return low, high
