"""Every stationary point of worst-of-n.

The objective is a convex function minus a strictly convex one and can have several local maxima.
Interval arithmetic encloses the sum of the masses and its derivative on whole intervals of the
ratio on the highest level; intervals are split until they hold no root, or the sum is monotone on
them, so that every stationary point is found.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.learners.infalign.points import (
    SLACK,
    Box,
    Equation,
    roots_where_monotone,
    scaled,
    whole_range,
)

_NARROWEST = 1e-14
_MOST_INTERVALS = 1 << 17
_LARGEST = 1e300

Interval = tuple[FloatArray, FloatArray]


def all_roots(equation: Equation) -> tuple[IntArray, FloatArray]:
    """Return the prompt and the highest log ratio of every stationary point.

    Raises
    ------
    ArithmeticError
        Where beta is too small to tell stationary points apart.
    """
    found: list[tuple[IntArray, FloatArray]] = []
    box = whole_range(equation)
    while box.row.size:
        if box.row.size > _MOST_INTERVALS:
            raise ArithmeticError(
                f"{box.row.size} intervals may hold stationary points of "
                f"{equation.procedure.name} at beta = {equation.beta:g}; beta is too small to tell "
                "them apart"
            )
        total, slope = _enclose(equation, box)
        kept = (total[0] <= 1.0 + SLACK) & (total[1] >= 1.0 - SLACK)
        single = kept & ((slope[0] > 0) | (slope[1] < 0))
        narrow = kept & ~single & (box.high - box.low <= _NARROWEST * (1.0 + box.high))
        found.append(roots_where_monotone(equation, box.take(single)))
        found.append((box.row[narrow], 0.5 * (box.low + box.high)[narrow]))
        box = _halves(box.take(kept & ~single & ~narrow))
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])


def _halves(box: Box) -> Box:
    middle = 0.5 * (box.low + box.high)
    return Box(
        np.concatenate([box.row, box.row]),
        np.concatenate([box.low, middle]),
        np.concatenate([middle, box.high]),
    )


def _enclose(equation: Equation, box: Box) -> tuple[Interval, Interval]:
    """Return bounds of the sum of all masses and of its derivative, on whole intervals.

    They hold for the points whose running sums stay within 1: no other is a root.
    """
    n = equation.procedure.n
    mass = equation.levels.mass[box.row]
    step = equation.levels.step[box.row] * equation.strength
    at: Interval = (box.low, box.high)
    at_slope: Interval = (np.ones_like(box.low), np.ones_like(box.low))
    total: Interval = (np.zeros_like(box.low), np.zeros_like(box.low))
    slope = total
    with np.errstate(under="ignore"):
        for k in range(mass.shape[1] - 1, -1, -1):
            part = (scaled(mass[:, k], at[0]), scaled(mass[:, k], at[1]))
            # A sum past 1 by more than rounding is not one of a root, whose bounds alone matter.
            total = (
                np.minimum(total[0] + part[0], 2.0),
                np.minimum(total[1] + part[1], 1.0 + 2.0 * SLACK),
            )
            slope = _plus(slope, _times(part, at_slope))
            if k:
                pull = step[:, k - 1]
                least, most = np.minimum(total[0], 1.0), np.minimum(total[1], 1.0)
                at = (at[0] - pull * most ** (n - 1), at[1] - pull * least ** (n - 1))
                bend = (pull * (n - 1) * least ** (n - 2), pull * (n - 1) * most ** (n - 2))
                change = _times(bend, slope)
                at_slope = _plus(at_slope, (-change[1], -change[0]))
    return total, slope


def _plus(one: Interval, other: Interval) -> Interval:
    return one[0] + other[0], one[1] + other[1]


def _times(factor: Interval, other: Interval) -> Interval:
    """Return the product of an interval of numbers at least 0 and any interval."""
    with np.errstate(over="ignore", invalid="ignore"):
        low = np.where(other[0] >= 0, factor[0], factor[1]) * other[0]
        high = np.where(other[1] >= 0, factor[1], factor[0]) * other[1]
    # 0 times an overflow says nothing; a lower bound stays below +inf, an upper one above -inf.
    low = np.where(np.isnan(low), -np.inf, np.minimum(low, _LARGEST))
    return low, np.where(np.isnan(high), np.inf, np.maximum(high, -_LARGEST))
