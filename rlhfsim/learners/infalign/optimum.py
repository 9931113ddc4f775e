"""The optimum of the win rate after an inference procedure, minus a KL penalty."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.learners.infalign.levels import as_levels, gradient, level_sums
from rlhfsim.learners.infalign.points import Equation, descend, only_root, scaled
from rlhfsim.learners.infalign.procedures import InferenceProcedure
from rlhfsim.learners.infalign.worst import all_roots


class Optimum(NamedTuple):
    """The optimum per prompt, with its certificate."""

    #: (X, Y) policy.
    policy: FloatArray
    #: (X, Y) derivative of the win rate at the policy.
    gradient: FloatArray
    #: (X,) total variation distance of the policy from `p exp(R/beta)/Z`.
    residual: FloatArray
    #: (X,) win rate after the procedure.
    win_rate: FloatArray
    #: (X,) `KL(pi || p)` in nats.
    kl: FloatArray
    #: (X,) number of stationary points.
    stationary: IntArray


def maximize_win_rate(
    p: FloatArray, r: FloatArray, procedure: InferenceProcedure, beta: float
) -> Optimum:
    """Return the maximiser of the win rate of `T(pi)` over `T(p)` minus `beta KL(pi || p)`."""
    equation = Equation(as_levels(p, r, procedure), procedure, beta)
    several = procedure.worst and procedure.n > 1
    row, highest = all_roots(equation) if several else only_root(equation)
    count = np.bincount(row, minlength=len(p))
    if not count.all():
        raise ArithmeticError(f"no stationary point found at prompt {int(count.argmin())}")
    found = _measure(equation, p, row, highest)
    order = np.lexsort((beta * found.kl - found.win_rate, row))
    best = order[np.searchsorted(row[order], np.arange(len(p)))]
    return Optimum(
        policy=found.policy[best],
        gradient=found.gradient[best],
        residual=found.residual[best],
        win_rate=found.win_rate[best],
        kl=found.kl[best],
        stationary=count,
    )


def _measure(equation: Equation, p: FloatArray, row: IntArray, highest: FloatArray) -> Optimum:
    """Return the policies of the roots, and what they attain."""
    levels = equation.levels.take(row)
    log_ratio = descend(equation, row, highest)[1]
    policy, kl = _tilt(p[row], np.take_along_axis(log_ratio, levels.response, axis=1))
    mass = level_sums(policy, levels.response, levels.mass.shape[1])
    slope = gradient(levels, mass, equation.procedure)
    again, _ = _tilt(p[row], slope / equation.beta)
    residual = 0.5 * np.abs(policy - again).sum(axis=1)
    # W is homogeneous of degree n: Euler's identity.
    rate = (policy * slope).sum(axis=1) / equation.procedure.n
    return Optimum(policy, slope, residual, rate, kl, row)


def _tilt(p: FloatArray, score: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return `p exp(score)/Z` and its KL divergence from p."""
    with np.errstate(divide="ignore"):
        # The largest weight becomes 1, which no small p can make inexact.
        top = (score + np.log(p)).max(axis=1, keepdims=True)
    weight = scaled(p, np.where(p > 0, score - top, 0.0))
    total = weight.sum(axis=1, keepdims=True)
    policy = weight / total
    kl = (policy * np.where(policy > 0, score - top, 0.0)).sum(axis=1) - np.log(total[:, 0])
    return policy, kl
