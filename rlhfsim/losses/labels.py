"""Labels that follow the policy: the dynamic labels of POWER-DL."""

from __future__ import annotations

from numpy.typing import ArrayLike
from scipy.special import expit

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.losses.rows import as_column, as_labels


def updated_labels(labels: ArrayLike, difference: ArrayLike, rate: float) -> FloatArray:
    """Return `l + rate (sigma(h) - l)`, labels one step closer to the policy's own.

    At the stationary label `l = sigma(h)` the logistic loss of the row has no gradient,
    `sigma(h) - l = 0`, so the policy stops following a row that it does not come to agree with.

    Parameters
    ----------
    labels : (n,) array
        In [0, 1]; 1 at the start.
    difference : (n,) array
        h, from `DirectLoss.difference` of the rows (for tables, of `table_rows`).
    rate : float
        In [0, 1].

    Returns
    -------
    (n,) array

    Raises
    ------
    ValueError
        For labels or a rate outside [0, 1], or columns of different lengths.

    Source: arXiv 2412.09544 for the idea; its own update was not at hand, this is the simplest
    one with the stationary labels that it names.
    """
    h = as_column("difference", difference)
    old = as_labels("labels", labels, h.size)
    step = checks.positive_number("rate", rate, zero=True)
    if step > 1:
        raise ValueError(f"rate is {step!r}; it must be at most 1")
    return old + step * (expit(h) - old)
