"""Optima in which some ratio is so large that its score is close to a finite `f'(inf)`.

There the score of the best response no longer determines its ratio: `f'(w)` rounds to
`recession`.  The unknown is instead the ratio w of the best responses (those of the largest
reward).  It fixes the multiplier through `u = recession - f'(w) = tail(w)`, and every other ratio
is `inverse_tail(u + d_best - d)`, a sum of positive numbers without cancellation.  Where the best
responses have no reference mass, or too little for a float w, u is 0 (to rounding) and they get
what the others leave.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.divergences import Divergence
from rlhfsim.solvers.solution import rounding

_MAX_PASSES = 400
# Within the floats, so that the tail there still has a finite inverse.
_LARGEST = float(np.finfo(np.float64).max) / 4.0


def leading_mass(
    d: FloatArray,
    p: FloatArray,
    leads: NDArray[np.bool_],
    least_ratio: float,
    divergence: Divergence,
) -> tuple[FloatArray, FloatArray]:
    """Return `(policy, u)` of each row, the multiplier being `u - recession` (best reward: 0).

    Parameters
    ----------
    d : (N, Y) rewards relative to the best response, in units of beta, at most 0
    p : (N, Y) reference
    leads : (N, Y) which responses are the best; `p > 0` on all of them or on none
    least_ratio : a ratio that the best responses exceed
    divergence : with a finite recession
    """
    mass = np.where(leads, p, 0.0).sum(axis=-1)
    rest = np.where(leads, 0.0, p)
    ratio = _solve_ratio(d, rest, mass, least_ratio, divergence)
    others, pull, excess, deficit = _others(d, rest, mass, ratio, divergence)
    # The last correction is made in the masses, where it is not rounded to the spacing of w.
    unlimited = (ratio >= _LARGEST) & (excess < 0)
    with np.errstate(all="ignore"):
        change = np.where(unlimited, 0.0, -excess / (mass * ratio + pull.sum(axis=-1)))
        others = others + pull * change[:, None]
        whole = np.where(unlimited, 1.0 - others.sum(axis=-1), mass * ratio * (1.0 + change))
    equal = leads / leads.sum(axis=-1, keepdims=True)
    share = np.where(leads, p, 0.0) / np.where(mass > 0, mass, 1.0)[:, None]
    return np.where(mass[:, None] > 0, share, equal) * whole[:, None] + others, deficit


def _others(
    d: FloatArray, rest: FloatArray, mass: FloatArray, ratio: FloatArray, divergence: Divergence
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return the other responses' masses, their derivatives by log w, `sum - 1`, and u."""
    with np.errstate(all="ignore"):
        deficit = np.where(mass > 0, divergence.tail(ratio), 0.0)
        w = np.where(rest > 0, divergence.inverse_tail(deficit[:, None] - d), 0.0)
        # dw_y/dw = f''(w)/f''(w_y), in elasticities t f''(t), which stay within the floats.
        top = (ratio * divergence.link_slope(ratio))[:, None]
        pull = rest * w * (top / (w * divergence.link_slope(w)))
        pull = np.where((rest > 0) & np.isfinite(pull), pull, 0.0)
        others = rest * w
    return others, pull, mass * ratio + others.sum(axis=-1) - 1.0, deficit


def _solve_ratio(
    d: FloatArray, rest: FloatArray, mass: FloatArray, least: float, divergence: Divergence
) -> FloatArray:
    """Return the w at which all masses sum to 1, or the largest float where they stay below.

    Newton's method from the left: the sum is concave in w where the tails are powers, so that the
    steps do not pass the root; a bracket guards them elsewhere.
    """
    with np.errstate(over="ignore", divide="ignore"):
        high = np.minimum(2.0 / mass, _LARGEST)
    low = np.where(mass > 0, np.minimum(least, high), _LARGEST)
    ratio = low.copy()
    rows: IntArray = np.arange(len(d))
    for _ in range(_MAX_PASSES):
        at = ratio[rows]
        _, pull, excess, _ = _others(d[rows], rest[rows], mass[rows], at, divergence)
        with np.errstate(all="ignore"):
            trial = at - at * (excess / (mass[rows] * at + pull.sum(axis=-1)))
            low[rows] = np.where(excess <= 0, at, low[rows])
            high[rows] = np.where(excess >= 0, at, high[rows])
            middle = np.sqrt(low[rows]) * np.sqrt(high[rows])
        trial = np.where((trial > low[rows]) & (trial < high[rows]), trial, middle)
        # The right end is the root where the sum stays below 1 up to the largest float.
        trial = np.where((at < high[rows]) & (middle >= 0.9 * _LARGEST), high[rows], trial)
        going = (np.abs(excess) > rounding(d.shape[-1]) / 8) & (at < _LARGEST)
        going &= (trial > low[rows]) & (trial <= high[rows])
        rows, trial = rows[going], trial[going]
        if rows.size == 0:
            break
        ratio[rows] = trial
    return ratio
