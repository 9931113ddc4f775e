"""Weighted sums of many arrays, without the rounding of a long sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray


class CompensatedSum:
    """`sum_i weight_i value_i` of numbers or of arrays of one shape, in constant memory.

    The rounding of every addition is kept and added at the end, so that the error does not grow
    with the number of terms.  Infinite values give an infinite sum, whatever their weight; `inf`
    and `-inf` together are refused, as is nan.

    Source: Neumaier 1974.
    """

    def __init__(self) -> None:
        self._sum: FloatArray | None = None
        self._lost = np.zeros(())
        self._infinite = np.zeros(())

    def add(self, weight: float, value: ArrayLike) -> None:
        """Add one term.

        Raises
        ------
        ValueError
            For a value that is not real, is nan, or has another shape than the first.
        """
        term = _as_values(value)
        infinite = np.isinf(term)
        if self._sum is None:
            self._sum = self._lost = self._infinite = np.zeros(term.shape)
        if term.shape != self._sum.shape:
            raise ValueError(
                f"the function returned shape {term.shape} after shape {self._sum.shape}; "
                "it must return one shape for all datasets"
            )
        if infinite.any():
            self._add_infinite(np.where(infinite, term, 0.0))
            term = np.where(infinite, 0.0, term)
        with np.errstate(under="ignore"):
            term = weight * term
        total = self._sum + term
        larger = np.abs(self._sum) >= np.abs(term)
        big, small = np.where(larger, self._sum, term), np.where(larger, term, self._sum)
        self._lost = self._lost + ((big - total) + small)
        self._sum = total

    def value(self) -> FloatArray:
        """Return the sum, a number where the terms were numbers."""
        if self._sum is None:
            raise ValueError("the sum has no terms")
        return (self._sum + self._lost + self._infinite)[()]

    def _add_infinite(self, term: FloatArray) -> None:
        if (np.sign(term) * np.sign(self._infinite) < 0).any():
            raise ValueError("the function returned both inf and -inf; it has no expectation")
        self._infinite = self._infinite + term


def _as_values(value: ArrayLike) -> FloatArray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"the function returned {value!r:.80}; it must return real numbers")
    floats = array.astype(np.float64)
    if np.isnan(floats).any():
        raise ValueError(f"the function returned {value!r:.80}; it must not return nan")
    return floats
