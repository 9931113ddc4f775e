"""Distances between policies that are compared with divergences: TV, Hellinger, Renyi."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import average_over_prompts
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
    pi, p = _pair(policy, reference)
    # sqrt(a) - sqrt(b) = (a - b) / (sqrt(a) + sqrt(b)) keeps the digits of a close pair.
    total = np.sqrt(pi) + np.sqrt(p)
    root = np.divide(pi - p, total, where=total > 0, out=np.zeros_like(total))
    return average_over_prompts((root * root).sum(axis=-1), prompt_dist)


def renyi(policy: ArrayLike, reference: ArrayLike, order: float) -> FloatArray:
    """Return the Renyi divergence of each prompt, in nats.

    `D_a = log(sum_y pi^a p^(1-a)) / (a - 1)`; `D_1 = KL`, `D_2 = log C`, `D_inf = log C_inf`.

    Parameters
    ----------
    policy, reference : (..., Y) arrays
    order : a number in (0, inf]

    Source: van Erven & Harremoes, arXiv 1206.2459, eq. 1 and section II.
    """
    pi, p = _pair(policy, reference)
    if not order > 0:
        raise ValueError(f"order is {order!r}; it must be in (0, inf]")
    if order == 1:
        return KL().per_prompt(pi, p)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_ratio = np.where(pi > 0, np.log(pi) - np.log(p), -np.inf)
        top = np.asarray(log_ratio.max(axis=-1))
        if np.isinf(order):
            return top
        # sum pi^a p^(1-a) = sum pi e^s with s = (a-1) log w.  Near 1 its distance from 1 is summed,
        # which keeps the digits of a small divergence; elsewhere its logarithm is taken as usual.
        s = (order - 1.0) * np.where(pi > 0, log_ratio, 0.0)
        log_terms = np.where(pi > 0, np.log(pi) + s, -np.inf)
        terms = np.where(np.abs(s) < 1, pi * np.expm1(s), np.exp(log_terms) - pi)
        excess = np.asarray(terms.sum(axis=-1) + (pi.sum(axis=-1) - 1.0))
        log_sum = np.where(
            np.abs(excess) < 0.5, np.log1p(excess), np.asarray(logsumexp(log_terms, axis=-1))
        )
        value = log_sum / (order - 1.0)
    return np.where((order > 1) & np.isinf(top), np.inf, value)


def _pair(policy: ArrayLike, reference: ArrayLike) -> tuple[FloatArray, FloatArray]:
    pi = checks.as_distributions("policy", policy)
    p = checks.as_distributions("reference", reference)
    shape = checks.broadcast(policy=pi, reference=p)
    return np.broadcast_to(pi, shape), np.broadcast_to(p, shape)
