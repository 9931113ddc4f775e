"""Distances between policies that are compared with divergences: TV, Hellinger, Renyi."""

from __future__ import annotations

import contextlib
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.divergences.kl import KL

# The series of (e^x - 1 - x)/x^2 ends within 1e-18 of itself at |x| = 1.
_SERIES_TERMS = 18


def total_variation(
    policy: ArrayLike, reference: ArrayLike, prompt_dist: ArrayLike | None = None
) -> FloatArray:
    """Return `TV = 1/2 E_x sum_y |pi - p|`, in [0, 1]; shapes as for a divergence."""
    pi, p = _pair(policy, reference)
    return average_over_prompts(0.5 * np.abs(pi - p).sum(axis=-1), prompt_dist)


def squared_hellinger(
    policy: ArrayLike, reference: ArrayLike, prompt_dist: ArrayLike | None = None
) -> FloatArray:
    """Return `H^2 = E_x sum_y (sqrt(pi) - sqrt(p))^2`, in [0, 2]; no factor 1/2."""
    pi, p = _pair(policy, reference)
    # sqrt(a) - sqrt(b) = (a - b) / (sqrt(a) + sqrt(b)) keeps the digits of a close pair.
    total = np.sqrt(pi) + np.sqrt(p)
    root = np.divide(pi - p, total, where=total > 0, out=np.zeros_like(total))
    return average_over_prompts((root * root).sum(axis=-1), prompt_dist)


def renyi(policy: ArrayLike, reference: ArrayLike, order: float) -> FloatArray:
    """Return the Renyi divergence of each prompt, in nats.

    `D_a = log(1 + E_a) / (a - 1)` with `E_a = sum_y p (w^a - 1 - a (w - 1))`, which is
    `log(sum_y pi^a p^(1-a)) / (a - 1)` for distributions; `D_1 = KL`, `D_2 = log C`,
    `D_inf = log C_inf`.  The terms of `E_a` have one sign, so that neither a small divergence nor
    an order near 1 costs digits.

    Parameters
    ----------
    policy, reference : (..., Y) arrays
    order : a number in (0, inf]

    Returns
    -------
    (...) array; `inf` where the order is at least 1 and the policy has mass that the reference
    lacks, and where the supports are disjoint.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: van Erven & Harremoes, arXiv 1206.2459, eq. 1 and section II.
    """
    pi, p = _pair(policy, reference)
    a = _as_order(order)
    if a == 1:
        return KL().per_prompt(pi, p)
    if np.isinf(a):
        return np.asarray(_log_ratio(pi, p).max(axis=-1, where=pi > 0, initial=-np.inf))
    if a < 0.5:
        # E_a(pi, p) = E_(1-a)(p, pi), and the order above 1/2 is the one without cancellation.
        return _from_excess(p, pi, -a, a - 1.0)
    return _from_excess(pi, p, a - 1.0, a - 1.0)


def _as_order(order: float) -> float:
    """Return `order` as a float in (0, inf], or raise."""
    if isinstance(order, Real) and not isinstance(order, bool) and order > 0:
        with contextlib.suppress(OverflowError):
            return float(order)
    raise ValueError(f"order is {order!r:.80}; it must be a real number in (0, inf]")


def _from_excess(pi: FloatArray, p: FloatArray, shift: float, divisor: float) -> FloatArray:
    """Return `log(1 + E_a) / divisor` with `a = 1 + shift >= 1/2`."""
    log_ratio = _log_ratio(pi, p)
    with np.errstate(over="ignore", divide="ignore"):
        excess = _excess_terms(pi, p, log_ratio, shift).sum(axis=-1)
        # 1 + E keeps its digits except near 0, and beyond the floats; there the sum is of logs.
        near = (excess > -0.5) & np.isfinite(excess)
        log_sum = np.log1p(np.where(near, excess, 0.0))
        value = np.where(near, log_sum / divisor, _by_logs(pi, log_ratio, shift, divisor))
    return np.asarray(value + 0.0)


def _excess_terms(pi: FloatArray, p: FloatArray, log_ratio: FloatArray, shift: float) -> FloatArray:
    """Return `p (w^a - 1 - a (w - 1))`, with `shift = a - 1`, elementwise.

    It is `pi (e^x - 1) - shift (pi - p)` with `x = shift log w`, and for small x
    `shift (pi log w - pi + p) + pi x^2 (e^x - 1 - x)/x^2`, where nothing cancels.
    """
    x = shift * log_ratio
    small = np.abs(x) < 1
    x_small = np.where(small, x, 0.0)
    kl_terms = KL().perspective(pi, np.where(p > 0, p, 1.0))
    close = shift * kl_terms + pi * x_small * x_small * _second_quotient(x_small)
    far = pi * np.expm1(np.where(small, 0.0, x)) - shift * (pi - p)
    return np.where(pi > 0, np.where(small, close, far), shift * p)


def _by_logs(pi: FloatArray, log_ratio: FloatArray, shift: float, divisor: float) -> FloatArray:
    """Return `log(sum_y pi w^shift) / divisor`; the largest ratio leaves the sum if `shift > 0`."""
    top = log_ratio.max(axis=-1, keepdims=True) if shift > 0 else np.zeros((*pi.shape[:-1], 1))
    offset = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        exponent = np.where(pi > 0, np.log(pi) + shift * (log_ratio - offset), -np.inf)
        rest = np.asarray(logsumexp(exponent, axis=-1)) / divisor
    return np.asarray(offset[..., 0] * (shift / divisor) + rest)


def _log_ratio(pi: FloatArray, p: FloatArray) -> FloatArray:
    """Return `log(pi/p)`: `inf` where only p is 0, and 0 where pi is."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        ratio, excess = pi / p, (pi - p) / p
        normal = np.isfinite(ratio) & (ratio >= np.finfo(np.float64).tiny)
        far = np.where(normal, np.log(ratio), np.log(pi) - np.log(p))
        value = np.where(np.abs(excess) <= 0.5, np.log1p(excess), far)
    return np.where(pi > 0, value, 0.0)


def _second_quotient(x: FloatArray) -> FloatArray:
    """Return `(e^x - 1 - x)/x^2` for `|x| <= 1`, by its series `sum_k x^k / (k + 2)!`."""
    total = np.zeros_like(x)
    for k in range(_SERIES_TERMS, 0, -1):
        total = (total + 1.0) * x / (k + 2)
    return 0.5 * (1.0 + total)


def _pair(policy: ArrayLike, reference: ArrayLike) -> tuple[FloatArray, FloatArray]:
    pi = checks.as_distributions("policy", policy)
    p = checks.as_distributions("reference", reference)
    shape = checks.same_responses(policy=pi, reference=p)
    return np.broadcast_to(pi, shape), np.broadcast_to(p, shape)
