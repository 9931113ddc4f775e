"""Policies from scores, where the normalizer has no closed form and `solve` has no divergence.

A score is `s = beta v(y) phi(w) + c`, c a constant per prompt, and the policy is the one that sums
to 1: `sum_y pi(y; s - c) = 1` falls in c.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

from rlhfsim.checks import FloatArray
from rlhfsim.losses import PracticalLink
from rlhfsim.losses.links import PRACTICAL_RANGE
from rlhfsim.special import wright_omega

_PASSES = 200

#: How far from 1 a policy may sum.
SUM_TOLERANCE = 1e-12


def weighted_policy(
    scores: FloatArray, beta: float, weights: FloatArray, log_base: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return `log pi(y) = log_base(y) + (s(y) - c)/(beta v(y))` and c.

    Parameters
    ----------
    scores : (X, Y) array
    beta : float
    weights : (X, Y) array
        v, positive.
    log_base : (X, Y) array
        `-inf` for responses without mass.

    Returns
    -------
    (X, Y) array, (X,) array
        log pi, to rounding normalized; c in reward units.

    Source: arXiv 2412.09544 (weighted entropy); the equation in c derived here.
    """
    rate = 1.0 / (beta * weights)
    inside = np.isfinite(log_base)
    # At this c the largest term is 1, so the sum is at least 1: left of the root.
    with np.errstate(invalid="ignore"):
        alone = np.where(inside, scores + log_base / rate, -np.inf)
    anchor = alone.max(axis=1)
    shifted = scores - anchor[:, None]
    c = np.zeros(len(scores))
    logs, total, slope = _sums(log_base, rate, shifted)
    for _ in range(_PASSES):
        # The logarithm of a sum of exponentials is convex and falls: Newton stays on the left.
        move = np.maximum(total, 0.0) / slope
        if np.all(move <= 1e-15 * np.abs(c)) or np.all(total <= 1e-16):
            break
        c = c + move
        logs, total, slope = _sums(log_base, rate, shifted - c[:, None])
    return logs - (rate / slope[:, None]) * total[:, None], anchor + c


def _sums(
    log_base: FloatArray, rate: FloatArray, shifted: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return log pi, the logarithm of its sum per prompt, and how fast that falls in c."""
    logs = log_base + rate * shifted
    total = np.asarray(logsumexp(logs, axis=1))
    return logs, total, (np.exp(logs - total[:, None]) * rate).sum(axis=1)


def practical_policy(
    scores: FloatArray, beta: float, link: PracticalLink, reference: FloatArray
) -> FloatArray:
    """Return the policy with `beta phi(w) = s - c`, phi chiPO's practical link.

    Parameters
    ----------
    scores : (X, Y) array
    beta : float
    link : PracticalLink
        With a positive gamma, without which phi takes not every value.
    reference : (X, Y) array of distributions

    Returns
    -------
    (X, Y) array; its rows sum to 1 to rounding, for the caller to require.
    """
    inside = reference > 0
    at_one = beta * float(link.value(np.zeros(1))[0])
    # At the smallest score less phi(1) every ratio is at least 1, at the largest at most 1.
    low = np.where(inside, scores, np.inf).min(axis=1) - at_one
    high = np.where(inside, scores, -np.inf).max(axis=1) - at_one

    def policy(c: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return `pi` and `-d pi/dc`."""
        u = inverse_practical(link, np.where(inside, (scores - c[:, None]) / beta, 0.0))
        with np.errstate(over="ignore", under="ignore"):
            pi = np.where(inside, np.exp(np.log(np.where(inside, reference, 1.0)) + u), 0.0)
            return pi, pi / (beta * link.slope(u))

    c = _falling_root(policy, low, high)
    pi, slope = policy(c)
    excess = (pi.sum(axis=1) - 1.0) / slope.sum(axis=1)
    # The last correction is made in pi, where it is not rounded to the spacing of c.
    return np.maximum(pi - slope * excess[:, None], 0.0)


def inverse_practical(link: PracticalLink, value: FloatArray) -> FloatArray:
    """Return the u with `exp(clip(alpha u)) + gamma u = value`, for `gamma > 0`.

    `z = alpha u` solves `e^z/g + z = value/g`, `g = gamma/alpha`, so that
    `e^z = g omega(value/g - log g)`, omega the Wright omega function.
    """
    g = link.gamma / link.alpha
    low, high = PRACTICAL_RANGE
    with np.errstate(under="ignore", over="ignore"):
        scaled = np.asarray(wright_omega(np.minimum(value / g, 1e300) - np.log(g)))
        # Each of the two forms where it does not cancel.
        large = np.log(g) + np.log(np.maximum(scaled, 1.0))
        z = np.where(scaled > 1.0, large, value / g - scaled)
        below = (value - np.exp(low)) / g
        above = (value - np.exp(high)) / g
    z = np.where(below < low, below, np.where(above > high, above, np.clip(z, low, high)))
    return np.asarray(z / link.alpha)


def _falling_root(
    function: Callable[[FloatArray], tuple[FloatArray, FloatArray]],
    low: FloatArray,
    high: FloatArray,
) -> FloatArray:
    """Return the c at which rows sum to 1, by Newton steps kept inside a bracket."""
    c = 0.5 * (low + high)
    for _ in range(_PASSES):
        pi, slope = function(c)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            excess = pi.sum(axis=1) - 1.0
            low, high = np.where(excess >= 0, c, low), np.where(excess <= 0, c, high)
            # Newton on the logarithm of the sum, which is nearly linear far from the root.
            total = 1.0 + excess
            step = np.where(np.isfinite(total), np.log(total) * total / slope.sum(axis=1), np.nan)
        trial = c + step
        middle = 0.5 * (low + high)
        trial = np.where((trial > low) & (trial < high), trial, middle)
        done = (np.abs(excess) <= 1e-15) | (trial == c) | (high - low <= 0)
        if np.all(done):
            break
        c = np.where(done, c, trial)
    return c
