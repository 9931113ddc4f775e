"""The exponent of a power law, fitted to values at several sizes."""

from __future__ import annotations

from typing import NamedTuple

from rlhfsim.checks import FloatArray
from rlhfsim.statistics import slopes


class Slope(NamedTuple):
    """A fitted exponent and its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return 0.5 * (self.high - self.low)


def fit_slope(sizes: FloatArray, values: FloatArray, confidence: float) -> Slope:
    """Return the least-squares slope of `log values` against `log sizes`, with its interval.

    With several replications the interval is Student's of their slopes.  With one (an exact
    value at each size) it is that of the regression, whose residuals are then not noise: they
    measure how far the values are from a power.

    Parameters
    ----------
    sizes : (S,) array
        Positive and increasing, at least 3.
    values : (R, S) array
        Positive.
    confidence : float in (0, 1)

    Returns
    -------
    Slope
    """
    if len(values) == 1:
        slope = slopes.fit_slope(sizes, values[0], level=confidence).slope
    else:
        slope = slopes.fit_slope_of_runs(sizes, values, confidence).slope
    return Slope(slope.estimate, slope.low, slope.high)
