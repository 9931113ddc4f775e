"""Distances between policies that are compared with divergences: TV, Hellinger, Renyi."""

from __future__ import annotations

import contextlib
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences.alpha import log_ratio, tsallis_terms
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.divergences.hellinger import SquaredHellinger
from rlhfsim.divergences.kl import KL


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
    return SquaredHellinger()(policy, reference, prompt_dist)


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
        return np.asarray(log_ratio(pi, p).max(axis=-1, where=pi > 0, initial=-np.inf))
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
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        excess = shift * tsallis_terms(pi, p, shift).sum(axis=-1)
        # 1 + E keeps its digits except near 0, and beyond the floats; there the sum is of logs.
        near = (excess > -0.5) & np.isfinite(excess)
        log_sum = np.log1p(np.where(near, excess, 0.0))
        by_logs = _by_logs(pi, log_ratio(pi, p), shift, divisor)
        value = np.where(near, log_sum / divisor, by_logs)
    return np.asarray(value + 0.0)


def _by_logs(pi: FloatArray, log_w: FloatArray, shift: float, divisor: float) -> FloatArray:
    """Return `log(sum_y pi w^shift) / divisor`; the largest ratio leaves the sum if `shift > 0`."""
    top = log_w.max(axis=-1, keepdims=True) if shift > 0 else np.zeros((*pi.shape[:-1], 1))
    offset = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        exponent = np.where(pi > 0, np.log(pi) + shift * (log_w - offset), -np.inf)
        rest = np.asarray(logsumexp(exponent, axis=-1)) / divisor
    return np.asarray(offset[..., 0] * (shift / divisor) + rest)


def _pair(policy: ArrayLike, reference: ArrayLike) -> tuple[FloatArray, FloatArray]:
    pi = checks.as_distributions("policy", policy)
    p = checks.as_distributions("reference", reference)
    shape = checks.same_responses(policy=pi, reference=p)
    return np.broadcast_to(pi, shape), np.broadcast_to(p, shape)
