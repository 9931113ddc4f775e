"""Arrays as they are given: refused by name where rows are ragged or numbers are no int64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST = np.iinfo(np.int64).max


def as_array(name: str, value: Any) -> NDArray[Any]:
    """Return `value` as an array of any kind, or refuse rows of different lengths."""
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} is {value!r:.80}; its rows must be equally long") from None


def as_integers(
    name: str, value: Any, *, kind: str = "array", ndim: int | None = None
) -> NDArray[np.int64]:
    """Return an int64 array, of `ndim` axes where these are given.

    Raises
    ------
    ValueError
        For masked arrays, ragged rows, entries that are not integers or beyond int64, which the
        cast would wrap round to negative, and another number of axes.
    """
    array = as_array(name, value)
    masked = isinstance(value, np.ma.MaskedArray)
    if masked or array.dtype.kind not in "iu" or ndim not in (None, array.ndim):
        raise ValueError(f"{name} is {value!r:.80}; it must be a plain {kind} of integers")
    beyond = array > _LARGEST
    if beyond.any():
        index = tuple(int(i[0]) for i in np.nonzero(beyond))
        raise ValueError(f"{name}{list(index)} is {array[index].item()}; it must be an int64")
    return array.astype(np.int64, copy=False)
