"""The win rate after an inference procedure by levels of tied rewards, and its derivative.

All procedures choose by the reward among n draws, so they act on the distribution function F of
the reward: its values `F_k` at the levels `r_1 < r_2 < ...` become `G(F_k)`, `G(u) = u^n` for the
best of n and `G(u) = 1 - (1 - u)^n` for the worst.  With `c` the reward calibrated to the opponent
and `D_k = c_(k+1) - c_k`, summation by parts gives the win rate and its derivative,

    W(pi) = c_K - sum_k D_k G(F_k),      dW/dpi(y) = c_K G'(1) - sum_(k >= level(y)) D_k G'(F_k),

up to a constant; G convex (best of n) makes W concave in the policy, G concave (worst) convex.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.learners.infalign.procedures import InferenceProcedure, as_procedure


def win_rate_gradient(
    policy: ArrayLike, reference: ArrayLike, reward: ArrayLike, procedure: InferenceProcedure
) -> FloatArray:
    """Return `R(x, y) = dW/dpi(y|x)`, W the win rate of `T(policy)` against `T(reference)`.

    The derivative of the formula of W at each prompt, which is homogeneous of degree n in the
    policy, so `E_pi[R] = n W`; with one draw it is the calibrated reward.  It is the reward whose
    KL-regularized optimum, at the optimum itself, is the optimum of the win rate.

    Parameters
    ----------
    policy, reference, reward : (X, Y) arrays
    procedure : InferenceProcedure
        `T`.

    Returns
    -------
    (X, Y) array, dimensionless

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2412.19792 (its transformed reward); with ties, derived here.
    """
    t = as_procedure(procedure)
    r = checks.as_matrix("reward", reward)
    shape = (r.shape[0], r.shape[1])
    pi = checks.as_distributions("policy", checks.as_matrix("policy", policy, shape))
    p = checks.as_distributions("reference", checks.as_matrix("reference", reference, shape))
    levels = as_levels(p, r, t)
    return gradient(levels, level_sums(pi, levels.response, levels.mass.shape[1]), t)


class Levels(NamedTuple):
    """The problem of a win rate per level of tied rewards; prompts are padded with empty levels."""

    #: (X, Y) level of each response, from the lowest reward up.
    response: IntArray
    #: (X, K) mass of the reference.
    mass: FloatArray
    #: (X,) calibrated reward of the lowest level.
    lowest: FloatArray
    #: (X,) calibrated reward of the highest level.
    highest: FloatArray
    #: (X, K - 1) steps of the calibrated reward from level to level.
    step: FloatArray

    def take(self, rows: IntArray) -> Levels:
        """Return the levels of the prompts `rows`."""
        return Levels(
            self.response[rows],
            self.mass[rows],
            self.lowest[rows],
            self.highest[rows],
            self.step[rows],
        )


def as_levels(p: FloatArray, r: FloatArray, procedure: InferenceProcedure) -> Levels:
    """Return the levels of (X, Y) rewards, calibrated to what the procedure makes of `p`."""
    index = np.stack([np.unique(row, return_inverse=True)[1] for row in r])
    size = int(index.max()) + 1
    mass = level_sums(p, index, size)
    chosen = procedure.law(mass, np.arange(size, dtype=np.float64))
    # As sums of masses, which keep the digits that differences of calibrated rewards lose.
    step = 0.5 * (chosen[:, 1:] + chosen[:, :-1])
    # Empty levels on top leave `highest` as it is, because W ends at F = 1.
    highest = chosen.sum(axis=1) - 0.5 * chosen[:, -1]
    return Levels(index, mass, 0.5 * chosen[:, 0], highest, step)


def level_sums(policy: FloatArray, index: IntArray, size: int) -> FloatArray:
    """Return the (X, K) masses of the levels."""
    rows = len(policy)
    slots = (np.arange(rows)[:, None] * size + index).ravel()
    sums = np.bincount(slots, weights=policy.ravel(), minlength=rows * size)
    return np.asarray(sums, dtype=np.float64).reshape(rows, size)


def gradient(levels: Levels, mass: FloatArray, procedure: InferenceProcedure) -> FloatArray:
    """Return the (X, Y) derivative of the win rate where the levels have the (X, K) `mass`."""
    n = procedure.n
    below, above = mass.cumsum(axis=1)[:, :-1], _from_top(mass)[:, 1:]
    first = np.zeros((len(mass), 1))
    if procedure.worst:
        gain = levels.step * (n * power(above, below, n - 1))
        rise = np.concatenate([first, gain.cumsum(axis=1)], axis=1)
        value = n * levels.lowest[:, None] + rise
    else:
        gain = levels.step * (n * power(below, above, n - 1))
        value = n * levels.highest[:, None] - np.concatenate([_from_top(gain), first], axis=1)
    return np.take_along_axis(value, levels.response, axis=1)


def _from_top(values: FloatArray) -> FloatArray:
    return np.flip(np.flip(values, axis=1).cumsum(axis=1), axis=1)


def power(tail: FloatArray, rest: FloatArray, exponent: int) -> FloatArray:
    """Return `tail^exponent`, `tail + rest = 1`, from whichever of the two is small."""
    if exponent == 0:
        return np.ones_like(tail)
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        log = np.where(tail < 0.5, np.log(tail), np.log1p(-np.minimum(rest, 1.0)))
        return np.exp(exponent * log)
