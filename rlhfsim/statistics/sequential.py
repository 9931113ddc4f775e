"""Seeds added until an interval is narrow enough, with a coverage that looking does not spoil.

Adding seeds until Student's interval happens to be narrow stops too early when the standard
deviation happens to look small, and covers less often than it says.  Stein's rule takes the
standard deviation from the first seeds alone: the number of seeds is then fixed before the others
are seen, and the interval is exact for normal values, however often one looks in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.statistics.inputs import as_level, as_sample
from rlhfsim.statistics.intervals import Interval, around, standard_error, student_quantile

#: From a first seed and a count to the values of seeds `start, ..., start + count - 1`.
Sample = Callable[[int, int], ArrayLike]


@dataclass(frozen=True, eq=False)
class SequentialResult(Frozen):
    """The values that `run_until` drew, and the interval of their mean."""

    #: (N,) values, in the order of the seeds.
    values: FloatArray
    interval: Interval
    #: Whether the interval is as narrow as asked; if not, `most` seeds were too few.
    reached: bool

    def __post_init__(self) -> None:
        """Freeze."""
        object.__setattr__(self, "values", checks.frozen(self.values))


def next_seeds(
    values: ArrayLike, half_width: float, level: float = 0.95, *, first: int = 10
) -> int:
    """Return how many more seeds Stein's rule asks for; 0 when there are enough.

    `N = max(first, ceil((t s / half_width)^2))` in all, s the standard deviation of the first
    `first` values and t Student's quantile with first - 1 degrees of freedom.  Later values do not
    change N, so that it may be asked after every batch.

    Parameters
    ----------
    values : (n,) array
        Of the seeds so far, in the order of the seeds; it may be empty.
    half_width : float
        Positive; half the length that the interval may have.
    level : float in (0, 1)
    first : int
        Size of the first stage, at least 2, fixed before any value is seen.  A small one costs
        seeds: t is larger and N varies more.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: Stein 1945 (Ann. Math. Statist. 16, 243).
    """
    target = checks.positive_number("half_width", half_width)
    first, level = checks.whole_number("first", first, least=2), as_level(level)
    if np.size(values) == 0:
        return first
    sample = as_sample("values", values, least=1)
    if sample.size < first:
        return first - sample.size
    reach = _stage_error(sample, first, level) / target
    if reach > 1e9:
        raise ValueError(
            f"half_width is {target!r}; the first {first} values ask for more than 1e18 seeds"
        )
    return max(0, math.ceil(reach * reach) - sample.size)


def stein_interval(values: ArrayLike, level: float = 0.95, *, first: int = 10) -> Interval:
    """Return the mean of all values with the interval whose spread is that of the first ones.

    `mean +- t s/sqrt(n)`, s and t as in `next_seeds`.  For independent values of one normal law
    the coverage is exactly `level` when n is any function of the first `first` values, such as
    Stein's N or the smaller of it and a budget; for other laws of finite variance it is
    asymptotic.

    Parameters
    ----------
    values : (n,) array, n at least `first`
    level : float in (0, 1)
    first : int
        Size of the first stage, at least 2.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: Stein 1945 (Ann. Math. Statist. 16, 243).
    """
    first, level = checks.whole_number("first", first, least=2), as_level(level)
    sample = as_sample("values", values, least=first)
    half = _stage_error(sample, first, level) / math.sqrt(sample.size)
    return around(float(sample.mean()), half, level, f"Stein's t, first stage of {first}")


def run_until(
    sample: Sample,
    half_width: float,
    level: float = 0.95,
    *,
    first: int = 10,
    batch: int | None = None,
    most: int = 1_000_000,
) -> SequentialResult:
    """Draw seeds until the interval of their mean is at most `+- half_width`, or `most` of them.

    Parameters
    ----------
    sample : function `(start, count) -> (count,) values`
        Of the seeds `start, ..., start + count - 1`, independent and of one law.
    half_width, level, first
        As in `next_seeds`.
    batch : int, optional
        Largest number of seeds in one call; it changes no result.
    most : int
        Budget, at least `first`.

    Returns
    -------
    SequentialResult
        Its interval holds at the level whether or not the width was reached.

    Raises
    ------
    ValueError
        Bad input; a sample of another length or with values that are not finite.

    Source: Stein 1945 (Ann. Math. Statist. 16, 243).
    """
    first = checks.whole_number("first", first, least=2)
    most = checks.whole_number("most", most, least=first)
    largest = most if batch is None else checks.whole_number("batch", batch, least=1)
    parts: list[FloatArray] = [np.empty(0)]
    while True:
        values = np.concatenate(parts)
        wanted = min(next_seeds(values, half_width, level, first=first), most - values.size)
        if wanted == 0:
            break
        parts = [values, _drawn(sample, values.size, min(wanted, largest))]
    left = next_seeds(values, half_width, level, first=first)
    return SequentialResult(values, stein_interval(values, level, first=first), left == 0)


def _drawn(sample: Sample, start: int, count: int) -> FloatArray:
    values = as_sample(f"sample({start}, {count})", sample(start, count), least=1)
    if values.size != count:
        raise ValueError(f"sample({start}, {count}) has {values.size} values; it must have {count}")
    return values


def _stage_error(sample: FloatArray, first: int, level: float) -> float:
    """Return `t s` of the first stage."""
    spread = standard_error(sample[:first]) * math.sqrt(first)
    return student_quantile(level, first - 1) * spread
