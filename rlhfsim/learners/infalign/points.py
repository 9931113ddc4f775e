"""Stationary points of the win rate minus a KL penalty, from one equation in one unknown.

Stationarity, `pi = p exp(R/beta)/Z` with R the derivative of the win rate, says of neighbouring
levels of the reward that `log w_(k+1) - log w_k = D_k G'(F_k)/beta`, `w = pi/p`.  So the ratio on
the highest level determines those on all others, from the top down, and what is left of the fixed
point is that the masses sum to 1.

For best-of-n `G'` is increasing: every mass increases with the highest ratio, and there is one
root, the optimum of a concave problem.  Worst-of-n, which can have several, is in `worst`.

Source: the stationarity is that of arXiv 2412.19792; its reduction and solution are derived here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.learners.infalign.levels import Levels, power
from rlhfsim.learners.infalign.procedures import InferenceProcedure

#: What rounding may do to a sum of masses, and how far from 1 the reference's may be.
SLACK = 1e-8
_LARGEST_LOG = 1400.0


class Equation(NamedTuple):
    """The masses of all levels must sum to 1."""

    levels: Levels
    procedure: InferenceProcedure
    beta: float

    @property
    def strength(self) -> float:
        """`n/beta`: what a step of the calibrated reward adds to a log ratio at most."""
        return self.procedure.n / self.beta


class Box(NamedTuple):
    """Intervals of the log ratio on the highest level, of the prompts `row`."""

    row: IntArray
    low: FloatArray
    high: FloatArray

    def take(self, which: BoolArray) -> Box:
        """Return the intervals where `which` holds."""
        return Box(self.row[which], self.low[which], self.high[which])


def whole_range(equation: Equation) -> Box:
    """Return, per prompt, an interval that holds all roots, the sum below 1 at its lower end."""
    mass = equation.levels.mass
    rows = np.arange(len(mass))
    top = mass.shape[1] - 1 - np.flip(mass > 0, axis=1).argmax(axis=1)
    # The mean ratio is 1, so the highest is at least 1; its mass is at most 1; and the ratios
    # differ by no more than the steps allow.
    spread = equation.strength * equation.levels.step.sum(axis=1)
    widest = np.minimum(spread, -np.log(mass[rows, top]))
    return Box(rows, np.full(len(rows), -SLACK), np.maximum(widest, 0.0) + SLACK)


def only_root(equation: Equation) -> tuple[IntArray, FloatArray]:
    """Return the prompts and their root, where the sum increases with the highest ratio."""
    return roots_where_monotone(equation, whole_range(equation))


def roots_where_monotone(equation: Equation, box: Box) -> tuple[IntArray, FloatArray]:
    """Return the prompts and roots of intervals on which the sum is monotone."""
    at_low = descend(equation, box.row, box.low)[0] < 1.0
    crossing = at_low != (descend(equation, box.row, box.high)[0] < 1.0)
    (row, low, high), at_low = box.take(crossing), at_low[crossing]
    while True:
        middle = 0.5 * (low + high)
        if ((middle <= low) | (middle >= high)).all():
            return row, middle
        left = (descend(equation, row, middle)[0] < 1.0) == at_low
        low, high = np.where(left, middle, low), np.where(left, high, middle)


def descend(
    equation: Equation, row: IntArray, highest: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the (P,) sums of all masses, and the (P, K) log ratios, from (P,) highest ones.

    A sum past 1 is past it by an arbitrary amount.
    """
    mass, step = equation.levels.mass[row], equation.levels.step[row] * equation.strength
    exponent = equation.procedure.n - 1
    log_ratio = np.empty(mass.shape)
    total, at = np.zeros_like(highest), highest
    for k in range(mass.shape[1] - 1, -1, -1):
        log_ratio[:, k] = at
        # Past 1 it can only increase; cut there, no power of it overflows.
        total = np.minimum(total + scaled(mass[:, k], at), 2.0)
        if k:
            above = np.minimum(total, 1.0)
            slope = (
                power(above, 1.0 - above, exponent)
                if equation.procedure.worst
                else power(1.0 - above, above, exponent)
            )
            # Levels above the reference's highest have no ratio; `highest` is that of its highest.
            at = at - step[:, k - 1] * np.where(total > 0, slope, 0.0)
    return total, log_ratio


def scaled(mass: FloatArray, log_ratio: FloatArray) -> FloatArray:
    """Return `mass exp(log_ratio)`, also where the exponential alone would overflow."""
    with np.errstate(under="ignore", over="ignore"):
        root = np.exp(0.5 * np.minimum(log_ratio, _LARGEST_LOG))
        return mass * root * root
