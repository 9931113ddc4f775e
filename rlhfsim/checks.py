"""Checks of input, written once: each names the argument, the rule, the index and the value.

Every function takes the argument's name first, returns a float64 (or int64) array, and raises
`ValueError` when the rule is broken.  The caller's array is never written to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Largest distance of a row sum from 1 that still counts as a distribution.
ROW_SUM_TOLERANCE = 1e-9

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def _where(name: str, index: tuple[np.intp, ...] | tuple[int, ...]) -> str:
    return name + ("" if len(index) == 0 else f"[{', '.join(str(int(i)) for i in index)}]")


def _refuse_first(name: str, array: NDArray[Any], bad: NDArray[np.bool_], rule: str) -> None:
    """Raise for the first entry where `bad` holds."""
    if not bad.any():
        return
    index = tuple(int(i[0]) for i in np.nonzero(np.atleast_1d(bad))) if bad.ndim else ()
    value = array[index].item()
    count = int(bad.sum())
    more = f" ({count} such entries)" if count > 1 else ""
    raise ValueError(f"{_where(name, index)} is {value!r}; {rule}{more}")


def as_real(name: str, value: ArrayLike) -> FloatArray:
    """Return `value` as a float64 array of finite numbers (no copy when it is one already)."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError
        array = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is not an array of real numbers: {value!r:.80}") from None
    _refuse_first(name, array, ~np.isfinite(array), "entries must be finite")
    return array


def as_matrix(name: str, value: ArrayLike, shape: tuple[int, int] | None = None) -> FloatArray:
    """Return a finite, non-empty `(X, Y)` array, of exactly `shape` when one is given."""
    array = as_real(name, value)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; it must be a non-empty (X, Y) array")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; it must have shape {shape}")
    return array


def as_distributions(name: str, value: ArrayLike) -> FloatArray:
    """Return an array whose last axis holds distributions: non-negative, each row summing to 1."""
    array = as_real(name, value)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; it must hold at least one response")
    _refuse_first(name, array, array < 0, "probabilities must not be negative")
    sums = np.asarray(array.sum(axis=-1))
    off = np.abs(sums - 1.0) > ROW_SUM_TOLERANCE
    if off.any():
        index = tuple(int(i[0]) for i in np.nonzero(off)) if off.ndim else ()
        raise ValueError(
            f"{_where(name, index)} sums to {sums[index].item()!r}; "
            f"rows must sum to 1 within {ROW_SUM_TOLERANCE:g}"
        )
    return array


def as_positive(name: str, value: ArrayLike) -> FloatArray:
    """Return an array of positive finite numbers."""
    array = as_real(name, value)
    _refuse_first(name, array, array <= 0, "it must be positive and finite")
    return array


def positive_number(name: str, value: float, *, zero: bool = False) -> float:
    """Return one finite number that is positive (or, with `zero`, not negative)."""
    array = as_real(name, value)
    if array.ndim != 0 or isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} is {value!r:.80}; it must be one number")
    number = float(array)
    if number < 0 or (number == 0 and not zero):
        rule = "non-negative" if zero else "positive"
        raise ValueError(f"{name} is {number!r}; it must be {rule} and finite")
    return number


def whole_number(name: str, value: int, *, least: int) -> int:
    """Return one integer that is at least `least`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name} is {value!r}; it must be an integer")
    if value < least:
        raise ValueError(f"{name} is {int(value)}; it must be at least {least}")
    return int(value)


def as_indices(name: str, value: ArrayLike, upper: int | None = None) -> IntArray:
    """Return a one-dimensional int64 array with `0 <= entry` and `entry < upper` if given."""
    array = np.asarray(value)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; it must be one-dimensional")
    if array.size == 0:
        raise ValueError(f"{name} is empty; it must hold at least one entry")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} has dtype {array.dtype}; it must hold integers")
    _refuse_first(name, array, array < 0, "indices must not be negative")
    if upper is not None:
        _refuse_first(name, array, array >= upper, f"indices must be below {upper}")
    return array.astype(np.int64, copy=False)


def generator(name: str, value: np.random.Generator) -> np.random.Generator:
    """Return `value` if it is a `numpy.random.Generator`."""
    if not isinstance(value, np.random.Generator):
        raise ValueError(
            f"{name} is a {type(value).__name__}; it must be a numpy.random.Generator "
            "(for example numpy.random.default_rng(0))"
        )
    return value


def broadcast(**arrays: NDArray[Any]) -> tuple[int, ...]:
    """Return the common shape of the named arrays."""
    try:
        return np.broadcast_shapes(*(a.shape for a in arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {a.shape}" for name, a in arrays.items())
        raise ValueError(f"shapes do not broadcast: {shapes}") from None


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only copy that shares no memory with `array`."""
    copy = np.array(array, copy=True)
    copy.setflags(write=False)
    return copy
