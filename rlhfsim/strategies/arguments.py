"""Checks of the strategies' arguments, in the words of Hypothesis: `InvalidArgument`."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np
from hypothesis.errors import InvalidArgument


def check(condition: bool, message: str) -> None:
    """Raise `InvalidArgument` unless the condition holds."""
    if not condition:
        raise InvalidArgument(message)


def check_flag(name: str, value: object) -> None:
    """Refuse what is not True or False."""
    check(isinstance(value, bool), f"{name}={value!r} must be True or False")


def check_integer(name: str, value: object, least: int) -> None:
    """Refuse what is not an integer of at least `least`."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    check(whole, f"{name}={value!r} must be an integer")
    check(value >= least, f"{name}={value!r} must be at least {least}")  # type: ignore[operator]


def check_number(name: str, value: object) -> None:
    """Refuse what is not a finite real number."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    check(real and math.isfinite(value), f"{name}={value!r} must be a finite number")  # type: ignore[arg-type]


def check_min_positive(value: object) -> None:
    """Refuse what is not a number in (0, 1]."""
    check_number("min_positive", value)
    fits = 0 < value <= 1  # type: ignore[operator]
    check(fits, f"min_positive={value!r} must be positive and at most 1")


def check_interval(
    low_name: str, low: float, high_name: str, high: float, *, positive: bool = False
) -> None:
    """Refuse ends that are not finite, in the wrong order or, with `positive`, not positive."""
    check_number(low_name, low)
    check_number(high_name, high)
    check(not positive or low > 0, f"{low_name}={low!r} must be positive")
    check(low <= high, f"{low_name}={low!r} must be at most {high_name}={high!r}")
