"""What every confidence set of rewards offers, and the checks that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen


@dataclass(frozen=True, eq=False)
class Minimum(Frozen):
    """The smallest value of a linear functional over a confidence set; arrays are read-only."""

    #: `min_r sum_xy weights(x, y) r(x, y)`, in reward units times units of the weights.
    value: float
    #: (X, Y) reward that attains it, on the boundary of the set to rounding.
    reward: FloatArray
    #: The true minimum is at least `value - gap`; 0 where a closed form gives it to rounding.
    gap: float

    def __post_init__(self) -> None:
        """Copy the array and make it read-only."""
        object.__setattr__(self, "reward", checks.frozen(self.reward))


@runtime_checkable
class ConfidenceSet(Protocol):
    """A set of rewards over which linear functionals have exact bounds."""

    def minimize(self, weights: ArrayLike) -> Minimum:
        """Return the smallest `sum_xy weights(x, y) r(x, y)`, with a reward that attains it."""
        ...

    def bounds(self, weights: ArrayLike) -> tuple[float, float]:
        """Return the smallest and the largest `sum_xy weights(x, y) r(x, y)`."""
        ...


def as_level(value: float) -> float:
    """Return `delta`, the probability that a set may miss the truth: a number in (0, 1)."""
    delta = checks.positive_number("delta", value)
    if delta >= 1:
        raise ValueError(f"delta is {delta!r}; it must be below 1")
    return delta


def as_log_level(value: float) -> float:
    """Return `log(1/delta)` of a `delta` in (0, 1)."""
    return float(-np.log(as_level(value)))


def extremes(confidence_set: ConfidenceSet, weights: FloatArray) -> tuple[float, float]:
    """Return the smallest and the largest value of a linear functional over a set."""
    return confidence_set.minimize(weights).value, -confidence_set.minimize(-weights).value
