"""Checks of input, written once: each names the argument, the rule, the index and the value.

Every function takes the argument's name first, returns a float64 (or int64) array, and raises
`ValueError` when the rule is broken.  The caller's array is never written to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Largest distance of a row sum from 1 that still counts as a distribution.
ROW_SUM_TOLERANCE = 1e-9

_LARGEST_INDEX = np.iinfo(np.int64).max

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


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


def _refuse_masked(name: str, value: object) -> None:
    """Raise for a masked array, whose mask `np.asarray` would drop without a word."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"{name} is a masked array of shape {value.shape}; it must be a plain array, "
            "with the masked entries filled in or left out"
        )


def _as_floats(name: str, value: ArrayLike) -> FloatArray:
    """Return a float64 array of integers or floats, which may be infinite or nan."""
    _refuse_masked(name, value)
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError
        floats = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is not an array of real numbers: {value!r:.80}") from None
    if array.dtype.kind == "b":
        raise ValueError(f"{name} is {value!r:.80}; it must hold real numbers, not booleans")
    return floats


def as_real(name: str, value: ArrayLike) -> FloatArray:
    """Return `value` as a float64 array of finite numbers (no copy when it is one already).

    Raises
    ------
    ValueError
        For booleans, text, complex numbers, masked arrays, and entries that are not finite.
    """
    array = _as_floats(name, value)
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


def row_sum_tolerance(dtype: np.dtype[Any] | type, size: int) -> float:
    """Return how far from 1 the sum of a row of `size` probabilities of this dtype may be.

    `ROW_SUM_TOLERANCE`, and for single precision also what rounding every entry and a sum of it
    can cost.
    """
    if np.dtype(dtype) != np.float32:
        return ROW_SUM_TOLERANCE
    return float(ROW_SUM_TOLERANCE + np.finfo(np.float32).eps * (16 + np.sqrt(size)))


def as_distributions(
    name: str, value: ArrayLike, *, tolerance: float = ROW_SUM_TOLERANCE
) -> FloatArray:
    """Return an array whose last axis holds distributions: non-negative, each row summing to 1.

    Raises
    ------
    ValueError
        As `as_real`; for no responses, a negative entry, or a row sum more than
        `tolerance` from 1; the one left out is a tight one, which rows in single precision cannot
        always meet.
    """
    array = as_real(name, value)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; it must hold at least one response")
    _refuse_first(name, array, array < 0, "probabilities must not be negative")
    sums = np.asarray(array.sum(axis=-1))
    off = np.abs(sums - 1.0) > tolerance
    if off.any():
        index = tuple(int(i[0]) for i in np.nonzero(off)) if off.ndim else ()
        advice = _precision_advice(value) if tolerance == ROW_SUM_TOLERANCE else ""
        raise ValueError(
            f"{_where(name, index)} sums to {sums[index].item()!r}; "
            f"rows must sum to 1 within {tolerance:g}{advice}"
        )
    return array


def _precision_advice(value: ArrayLike) -> str:
    dtype = np.asarray(value).dtype
    if dtype.kind != "f" or dtype.itemsize >= 8:
        return ""
    return f"; {dtype} rows should be cast to float64 and renormalised by the caller"


def as_positive(name: str, value: ArrayLike) -> FloatArray:
    """Return an array of positive finite numbers."""
    array = as_real(name, value)
    _refuse_first(name, array, array <= 0, "it must be positive and finite")
    return array


def as_non_negative(name: str, value: ArrayLike, *, infinite: bool = False) -> FloatArray:
    """Return an array of numbers at least 0, finite ones unless `infinite` lets `inf` in."""
    array = _as_floats(name, value) if infinite else as_real(name, value)
    _refuse_first(name, array, ~(array >= 0), "it must not be negative")
    return array


def as_at_least(name: str, value: ArrayLike, least: float) -> FloatArray:
    """Return an array of finite numbers, each at least `least`."""
    array = as_real(name, value)
    _refuse_first(name, array, array < least, f"it must be at least {least:g}")
    return array


def positive_number(name: str, value: float, *, zero: bool = False) -> float:
    """Return one finite number that is positive (or, with `zero`, not negative)."""
    array = as_real(name, value)
    if array.ndim != 0:
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
    """Return a one-dimensional int64 array with `0 <= entry` and `entry < upper` if given.

    Raises
    ------
    ValueError
        For another shape, no entries, a masked array, entries that are not integers, and entries
        that are negative, not below `upper`, or beyond int64.
    """
    _refuse_masked(name, value)
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
    # uint64 goes further than int64, and the cast below would wrap it round to negative.
    _refuse_first(name, array, array > _LARGEST_INDEX, f"indices must be at most {_LARGEST_INDEX}")
    return array.astype(np.int64, copy=False)


def generator(name: str, value: np.random.Generator) -> np.random.Generator:
    """Return `value` if it is a `numpy.random.Generator`."""
    if not isinstance(value, np.random.Generator):
        raise ValueError(
            f"{name} is a {type(value).__name__}; it must be a numpy.random.Generator "
            "(for example numpy.random.default_rng(0))"
        )
    return value


def optional_generator(name: str, value: np.random.Generator | None) -> np.random.Generator | None:
    """Return `value`, which must be a `numpy.random.Generator` or None."""
    return None if value is None else generator(name, value)


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {a.shape}" for name, a in arrays.items())


def broadcast(**arrays: NDArray[Any]) -> tuple[int, ...]:
    """Return the common shape of the named arrays."""
    try:
        return np.broadcast_shapes(*(a.shape for a in arrays.values()))
    except ValueError:
        raise ValueError(f"shapes do not broadcast: {_shapes(arrays)}") from None


def same_responses(**arrays: NDArray[Any]) -> tuple[int, ...]:
    """Return the common shape of the named arrays, whose last axes must be equally long.

    The axes before the last broadcast; the last does not, not even from length 1, because it
    lists the responses.

    Raises
    ------
    ValueError
        For an array without axes, last axes of different lengths, or other axes that do not
        broadcast.
    """
    sizes = {a.shape[-1] if a.ndim else None for a in arrays.values()}
    if len(sizes) > 1 or None in sizes:
        raise ValueError(f"last axes differ: {_shapes(arrays)}; they must hold the same responses")
    return broadcast(**arrays)


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only copy that shares no memory with `array`."""
    copy = np.array(array, copy=True)
    copy.setflags(write=False)
    return copy
