"""Inverses of monotone functions of a ratio, to the last digits and over all 600 decades."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray, IntArray

SMALLEST = 5e-324
LARGEST = float(np.finfo(np.float64).max)

# (t, indices of the targets) -> the Newton step in log t; its sign tells where the root is.
Step = Callable[[FloatArray, IntArray], FloatArray]

_MAX_PASSES = 300
# After a step this small, Newton's next one ends below the rounding of t.
_LAST_STEPS = 1e-6
# Steps below 2 ulp are the rounding of the function.
_ROUNDING = 2.0 * float(np.finfo(np.float64).eps)


def invert_increasing(
    function: Callable[[FloatArray], FloatArray],
    slope: Callable[[FloatArray], FloatArray],
    target: ArrayLike,
    low: ArrayLike = SMALLEST,
    high: ArrayLike = LARGEST,
) -> FloatArray:
    """Return the t with `function(t) = target`: 0 or `inf` where the floats end before.

    Newton's method in log t on `function`, or on its logarithm for targets beyond 1 in size,
    where links are close to powers; bracketed by `low` and `high`, which must enclose the root.
    """
    goal = np.asarray(target, dtype=np.float64)
    flat = goal.ravel()

    def step(t: FloatArray, rows: IntArray) -> FloatArray:
        value, wanted = function(t), flat[rows]
        ratio = wanted / value
        powers = (np.abs(wanted) > 1.0) & (ratio > 0) & np.isfinite(ratio)
        distance = np.where(powers, np.log(np.where(powers, ratio, 1.0)) * value, wanted - value)
        return _towards(distance, distance / (t * slope(t)))

    return _root(step, goal.shape, low, high)


def invert_decreasing(
    function: Callable[[FloatArray], FloatArray],
    slope: Callable[[FloatArray], FloatArray],
    target: ArrayLike,
    low: ArrayLike = SMALLEST,
    high: ArrayLike = LARGEST,
) -> FloatArray:
    """Return the t with `function(t) = target > 0`, for a positive falling function.

    `slope` is minus the derivative; Newton's method in log t on the logarithm of the function.
    """
    goal = np.asarray(target, dtype=np.float64)
    flat = goal.ravel()

    def step(t: FloatArray, rows: IntArray) -> FloatArray:
        value = function(t)
        distance = np.log(value / flat[rows])
        return _towards(distance, distance * (value / (t * slope(t))))

    return _root(step, goal.shape, low, high)


def _towards(distance: FloatArray, move: FloatArray) -> FloatArray:
    """Return `move`, or an infinite step to the side of the root where it is beyond the floats."""
    usable = np.isfinite(move) & (move != 0)
    return np.where(distance == 0, 0.0, np.where(usable, move, np.copysign(np.inf, distance)))


def _root(step: Step, shape: tuple[int, ...], low: ArrayLike, high: ArrayLike) -> FloatArray:
    """Return the zero of `step` in each bracket, by safeguarded Newton steps in log t.

    A step is taken if it stays inside the bracket and is at most half as long as the one before
    last; otherwise the bracket is halved in log t.
    """
    left = np.broadcast_to(np.clip(low, SMALLEST, LARGEST), shape).ravel().copy()
    right = np.broadcast_to(np.clip(high, SMALLEST, LARGEST), shape).ravel().copy()
    root = _between(left, right)
    # 1 where it may be: that is the root of score 0, and the middle of the floats.
    root = np.where((left < 1.0) & (right > 1.0), 1.0, root)
    before, last = np.full(root.shape, np.inf), np.full(root.shape, np.inf)
    rows: IntArray = np.arange(root.size)
    with np.errstate(all="ignore"):
        for _ in range(_MAX_PASSES):
            if rows.size == 0:
                break
            t = root[rows]
            move = step(t, rows)
            left[rows] = np.where(move >= 0, t, left[rows])
            right[rows] = np.where(move <= 0, t, right[rows])
            trial = t * np.exp(move)
            inside = (trial > left[rows]) & (trial < right[rows])
            quick = inside & (2.0 * np.abs(move) <= before[rows])
            middle = _between(left[rows], right[rows])
            ended = (last[rows] < _LAST_STEPS) & (np.abs(move) < _LAST_STEPS) & inside
            ended |= np.abs(move) < _ROUNDING
            polished = t * (1.0 + move)
            stuck = ~quick & ((middle <= left[rows]) | (middle >= right[rows]))
            root[rows] = np.where(ended, polished, np.where(quick, trial, middle))
            root[rows] = np.where(stuck & ~ended, t, root[rows])
            size = np.where(quick, np.abs(move), np.inf)
            before[rows], last[rows] = last[rows], size
            rows = rows[~(ended | stuck)]
        # A function that is flat at an end, to rounding, has its root there.
        ends = np.arange(root.size)
        below = step(np.full_like(root, SMALLEST), ends) <= 0
        beyond = step(np.full_like(root, LARGEST), ends) >= 0
    root = np.where(below, 0.0, np.where(beyond, np.inf, root))
    return root.reshape(shape)


def _between(low: FloatArray, high: FloatArray) -> FloatArray:
    """Return the middle of the bracket, in log t while its ends are far apart."""
    with np.errstate(under="ignore"):
        close = low > 0.25 * high
        return np.where(close, low + 0.5 * (high - low), np.sqrt(low) * np.sqrt(high))
