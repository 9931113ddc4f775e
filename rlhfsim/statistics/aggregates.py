"""Robust averages of runs: the interquartile mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.statistics.inputs import as_values


def interquartile_mean(x: ArrayLike, axis: int | None = -1) -> FloatArray:
    """Return the mean of the middle half of the values.

    `2 int_{1/4}^{3/4} Q(u) du`, Q the quantile function of the empirical law: of n sorted values
    the i-th has the weight with which `[i/n, (i+1)/n]` meets `[1/4, 3/4]`.  Where 4 divides n it
    drops n/4 values at either end; elsewhere the two at the borders count in part.  (Others
    round n/4 down, and then average more than the middle half.)

    Parameters
    ----------
    x : array
        Finite, not empty.
    axis : int or None
        Along which to average; None pools everything, as for a table of runs and tasks.

    Returns
    -------
    array without that axis
        In the unit of `x`.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2108.13264, section 4.3.
    """
    values = as_values("x", x)
    if axis is None:
        values, axis = values.reshape(-1), -1
    if checks.whole_number("axis", axis, least=-values.ndim) >= values.ndim:
        raise ValueError(f"axis is {axis}; it must be below {values.ndim}, the axes of x")
    ordered = np.sort(values, axis=axis)
    return np.asarray(np.moveaxis(ordered, axis, -1) @ middle_weights(values.shape[axis]))


def middle_weights(n: int) -> FloatArray:
    """Return the (n,) weights of sorted values in the interquartile mean; they sum to 1."""
    # In units of 1/(4n) every border is a whole number, so that the weights are exact quotients.
    borders = np.clip(4 * np.arange(n + 1), n, 3 * n)
    return np.asarray(np.diff(borders) / (2.0 * n))
