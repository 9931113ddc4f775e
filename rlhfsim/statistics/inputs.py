"""Checks of samples and levels, shared by every estimate."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray

#: Largest magnitude: cubes of it are still floats.
LARGEST = 1e100


def as_level(level: float) -> float:
    """Return a confidence level, a number in (0, 1)."""
    number = checks.positive_number("level", level)
    if number >= 1:
        raise ValueError(f"level is {number!r}; it must be below 1")
    return number


def as_values(name: str, value: ArrayLike) -> FloatArray:
    """Return a finite, non-empty array with axes and entries of magnitude at most 1e100."""
    array = checks.as_real(name, value)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; it must be a non-empty array")
    big = np.abs(array) > LARGEST
    if big.any():
        index = ", ".join(str(int(i[0])) for i in np.nonzero(big))
        raise ValueError(
            f"{name}[{index}] is {array[big][0].item()!r}; "
            f"entries must be at most {LARGEST:g} in magnitude"
        )
    return array


def as_sample(name: str, value: ArrayLike, *, least: int) -> FloatArray:
    """Return a one-dimensional array of at least `least` finite values, as `as_values`."""
    array = as_values(name, value)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; it must be one-dimensional")
    if array.size < least:
        raise ValueError(f"{name} has {array.size} values; it must have at least {least}")
    return array


def as_runs(name: str, value: ArrayLike, *, sizes: int) -> FloatArray:
    """Return an (R, sizes) array of finite values, R at least 2."""
    array = as_values(name, value)
    if array.ndim != 2 or array.shape[0] < 2 or array.shape[1] != sizes:
        raise ValueError(
            f"{name} has shape {array.shape}; it must have shape (R, {sizes}) with R at least 2"
        )
    return array


def same_length(**arrays: FloatArray) -> None:
    """Refuse one-dimensional arrays of different lengths."""
    if len({a.size for a in arrays.values()}) > 1:
        sizes = ", ".join(f"{name} {a.size}" for name, a in arrays.items())
        raise ValueError(f"lengths differ: {sizes}; they must be equal")
