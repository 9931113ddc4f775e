"""Links of divergences as functions of the log ratio, `u -> f'(e^u)`.

A ratio `w = e^u` is a float only for `|u| < 709`, and `log(e^u)` has lost the digits of a small u,
so every divergence with a closed form is written in u itself.  Others go through `e^u`.
"""

from __future__ import annotations

from functools import singledispatch

import numpy as np
from scipy.special import expit

from rlhfsim.checks import FloatArray
from rlhfsim.divergences import (
    KL,
    AlphaDivergence,
    ChiSquared,
    Combination,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)


@singledispatch
def log_link(divergence: Divergence, log_ratio: FloatArray) -> FloatArray:
    """Return `f'(e^u)`, with `f(1) = f'(1) = 0`.

    This default is exact to the rounding of `e^u`, and only for `|u| < 709`; beyond, it is the
    limit of f'.
    """
    with np.errstate(over="ignore", under="ignore"):
        return divergence.link(np.exp(log_ratio))


@singledispatch
def log_link_slope(divergence: Divergence, log_ratio: FloatArray) -> FloatArray:
    """Return `d f'(e^u)/du = e^u f''(e^u)`; this default for `|u| < 709`."""
    with np.errstate(over="ignore", under="ignore"):
        ratio = np.exp(log_ratio)
        return ratio * divergence.link_slope(ratio)


@log_link.register
def _(divergence: KL, log_ratio: FloatArray) -> FloatArray:
    return log_ratio


@log_link_slope.register
def _(divergence: KL, log_ratio: FloatArray) -> FloatArray:
    return np.ones_like(log_ratio)


@log_link.register
def _(divergence: ChiSquared, log_ratio: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return np.expm1(log_ratio)


@log_link_slope.register
def _(divergence: ChiSquared, log_ratio: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(log_ratio)


@log_link.register
def _(divergence: ForwardKL, log_ratio: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return -np.expm1(-log_ratio)


@log_link_slope.register
def _(divergence: ForwardKL, log_ratio: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(-log_ratio)


@log_link.register
def _(divergence: SquaredHellinger, log_ratio: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return -np.expm1(-0.5 * log_ratio)


@log_link_slope.register
def _(divergence: SquaredHellinger, log_ratio: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", under="ignore"):
        return 0.5 * np.exp(-0.5 * log_ratio)


@log_link.register
def _(divergence: JensenShannon, log_ratio: FloatArray) -> FloatArray:
    # 1/2 log(2t/(1 + t)) = -1/2 log((1 + e^-u)/2); below -1 it is u/2 plus a number without
    # cancellation.
    high, low = np.maximum(log_ratio, -1.0), np.minimum(log_ratio, -1.0)
    with np.errstate(under="ignore"):
        above = -0.5 * np.log1p(0.5 * np.expm1(-high))
        below = 0.5 * (low - np.log1p(0.5 * np.expm1(low)))
    return np.where(log_ratio >= -1.0, above, below)


@log_link_slope.register
def _(divergence: JensenShannon, log_ratio: FloatArray) -> FloatArray:
    with np.errstate(under="ignore"):
        return 0.5 * expit(-log_ratio)


@log_link.register
def _(divergence: AlphaDivergence, log_ratio: FloatArray) -> FloatArray:
    shift = divergence.alpha - 1.0
    if shift == 0:
        return log_ratio
    with np.errstate(over="ignore"):
        return np.expm1(shift * log_ratio) / shift


@log_link_slope.register
def _(divergence: AlphaDivergence, log_ratio: FloatArray) -> FloatArray:
    shift = divergence.alpha - 1.0
    if shift == 0:
        return np.ones_like(log_ratio)
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(shift * log_ratio)


@log_link.register
def _(divergence: Combination, log_ratio: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", under="ignore"):
        values = [weight * log_link(base, log_ratio) for weight, base in divergence.terms()]
        return np.sum(values, axis=0)


@log_link_slope.register
def _(divergence: Combination, log_ratio: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", under="ignore"):
        slopes = [weight * log_link_slope(base, log_ratio) for weight, base in divergence.terms()]
        return np.sum(slopes, axis=0)
