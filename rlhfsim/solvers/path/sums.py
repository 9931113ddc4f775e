"""Running sums that do not lose digits with their length."""

from __future__ import annotations

import math

import numpy as np

from rlhfsim.checks import FloatArray

# Below this many columns a plain pass over the columns is used; above, blocks of about the square
# root, so that the number of numpy calls grows like it and the work stays linear.
_SHORT = 48

Pair = tuple[FloatArray, FloatArray]


def running_sum(terms: FloatArray) -> FloatArray:
    """Return the inclusive running sums along the last axis, each as if rounded once.

    Sums are carried as pairs `high + low` of doubles; the error is an ulp of the result plus
    about `n 2^-104` times the sum of magnitudes, where `numpy.cumsum` has `n 2^-53`.

    Parameters
    ----------
    terms : (..., n) array
        Any numbers; from the first infinite running sum on, all are infinite or nan.

    Returns
    -------
    (..., n) array

    Source: Knuth's two-sum; Higham (2002), "Accuracy and Stability of Numerical Algorithms", 4.3.
    """
    high, low = _scan(terms, np.zeros_like(terms))
    return high + low


def _scan(high: FloatArray, low: FloatArray) -> Pair:
    """Return the running sums of pairs along the last axis."""
    size = high.shape[-1]
    if size <= _SHORT:
        return _scan_columns(high, low)
    block = math.isqrt(size)
    blocks = -(-size // block)
    padding = [(0, 0)] * (high.ndim - 1) + [(0, blocks * block - size)]
    shape = (*high.shape[:-1], blocks, block)
    within = _scan_columns(*(np.pad(x, padding).reshape(shape) for x in (high, low)))
    totals = _scan(within[0][..., -1], within[1][..., -1])
    # Blocks after the first start from the sum of those before.
    start = (totals[0][..., :-1, None], totals[1][..., :-1, None])
    later = _add((within[0][..., 1:, :], within[1][..., 1:, :]), start)
    for part, sums in zip(within, later, strict=True):
        part[..., 1:, :] = sums
    flat = (*high.shape[:-1], blocks * block)
    return within[0].reshape(flat)[..., :size], within[1].reshape(flat)[..., :size]


def _scan_columns(high: FloatArray, low: FloatArray) -> Pair:
    sums = np.array(high), np.array(low)
    for j in range(1, high.shape[-1]):
        before = sums[0][..., j - 1], sums[1][..., j - 1]
        sums[0][..., j], sums[1][..., j] = _add((sums[0][..., j], sums[1][..., j]), before)
    return sums


def _add(a: Pair, b: Pair) -> Pair:
    """Return the sum of two pairs."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = a[0] + b[0]
        back = total - a[0]
        error = (a[0] - (total - back)) + (b[0] - back) + (a[1] + b[1])
        high = total + error
        # Beyond the floats there is no error term.
        finite = np.isfinite(total)
        return np.where(finite, high, total), np.where(finite, error - (high - total), 0.0)
