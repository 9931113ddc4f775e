"""Checks of index arrays of any shape, and of a model given as an argument."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import IntArray

Indices = tuple[IntArray, IntArray, IntArray]


def as_comparisons(
    shape: tuple[int, int], prompt: ArrayLike, first: ArrayLike, second: ArrayLike
) -> Indices:
    """Return three int64 arrays that broadcast, with indices within `shape = (X, Y)`.

    Raises
    ------
    ValueError
        For entries that are not integers or are out of range, empty or masked arrays, and shapes
        that do not broadcast.
    """
    arrays = (
        _as_index_array("prompt", prompt, shape[0]),
        _as_index_array("first", first, shape[1]),
        _as_index_array("second", second, shape[1]),
    )
    checks.broadcast(prompt=arrays[0], first=arrays[1], second=arrays[2])
    return arrays


def _as_index_array(name: str, value: ArrayLike, upper: int) -> IntArray:
    """Return an int64 array of any shape with `0 <= entry < upper`."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array of shape {value.shape}; it must be plain")
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} is not an array of integers: {value!r:.80}") from None
    if array.size == 0:
        raise ValueError(f"{name} is empty; it must hold at least one entry")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} has dtype {array.dtype}; it must hold integers")
    bad = (array < 0) | (array >= upper)
    if bad.any():
        place = tuple(int(i[0]) for i in np.nonzero(np.atleast_1d(bad))) if array.ndim else ()
        entry = name + (f"[{', '.join(map(str, place))}]" if place else "")
        raise ValueError(
            f"{entry} is {array[place].item()}; it must be at least 0 and below {upper}"
        )
    return array.astype(np.int64, copy=False)
