"""The exponent of a power law, fitted to values at several sizes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from rlhfsim.checks import FloatArray


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
    x = np.log(sizes) - np.log(sizes).mean()
    logs = np.log(values)
    slopes = logs @ x / (x @ x)
    slope, count = float(slopes.mean()), len(slopes)
    if count > 1:
        error, freedom = float(slopes.std(ddof=1)) / math.sqrt(count), count - 1
    else:
        residual = logs[0] - logs[0].mean() - slope * x
        freedom = x.size - 2
        error = math.sqrt(float(residual @ residual) / freedom / float(x @ x))
    half = float(student.ppf(0.5 + 0.5 * confidence, freedom)) * error
    return Slope(slope, slope - half, slope + half)
