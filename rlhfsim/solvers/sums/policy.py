"""Scores, masses and the policy of a block at a multiplier."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL, Divergence
from rlhfsim.solvers.sums.passes import Sums

#: Scores beyond this would overflow in the sums.
LARGE = 1e307


def scores(
    r: FloatArray, p: FloatArray, anchor: FloatArray, lowest: FloatArray, beta: FloatArray
) -> FloatArray:
    """Return `(r - anchor)/beta` where p > 0, else 0, in a new array."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        d = r - anchor[:, None]
        d /= beta[:, None]
    np.clip(d, np.maximum(lowest, -LARGE)[:, None], LARGE, out=d)
    d[p == 0] = 0.0
    return d


#: p e^s lifted by this power of 2 keeps all digits of every term that counts: the largest is
#: between 2^-1074 (the smallest float, at s = 0) and 1.
LIFT = 600


def lifted_gibbs(s: FloatArray, p: FloatArray) -> FloatArray:
    """Return `2^600 p e^s`; in halves, because e^s may overflow where p e^s does not."""
    half = np.multiply(s, 0.5)
    np.exp(half, out=half)
    mass = p * 2.0**LIFT
    mass *= half
    mass *= half
    return mass


def kl_weight(divergence: Divergence) -> float | None:
    """Return the weight of a divergence that is KL alone, else None."""
    weighted = divergence.terms()
    return weighted[0][0] if len(weighted) == 1 and isinstance(weighted[0][1], KL) else None


def masses(
    divergence: Divergence, s: FloatArray, p: FloatArray, bound: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return `p w` and `p dw/ds` at `w = inverse_link(bound + s)`."""
    weight = kl_weight(divergence)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        if weight is not None:
            mass = lifted_gibbs(s if weight == 1 else s / weight, p)
            mass *= 2.0**-LIFT
            return mass, mass if weight == 1 else mass / weight
        w = _ratios(divergence, s, bound > 0)
        slope = p / divergence.link_slope(w)
        slope[w <= 0] = 0.0
        return p * w, slope


def _ratios(divergence: Divergence, s: FloatArray, tail: NDArray[np.bool_]) -> FloatArray:
    """Return `inverse_link(s)`, or `inverse_link(R + s)` where `tail` holds; infinite from R on."""
    if not tail.any():
        return divergence.inverse_link(s)
    w = np.full_like(s, np.inf)
    w[~tail] = divergence.inverse_link(s[~tail])
    below = tail[:, None] & (s < 0)
    w[below] = divergence.inverse_tail(-s[below])
    return w


@dataclass(frozen=True)
class Multiplier:
    """`lambda = anchor + beta (offset - bound)` of each prompt, and the correction made in w."""

    anchor: FloatArray
    offset: FloatArray
    #: The recession where the offset counts from it, else 0.
    bound: FloatArray
    #: Newton's last step; `w(offset) - w'(offset) step` replaces `w(offset + step)`.
    step: FloatArray
    #: Scaled reward, relative to the anchor, below which a response gets no mass.
    lowest: FloatArray

    def given(self, beta: FloatArray) -> Sums:
        """Return what `policy_block` needs."""
        return {
            "anchor": self.anchor,
            "offset": self.offset,
            "bound": self.bound,
            "step": self.step,
            "lowest": self.lowest,
            "beta": beta,
        }


def policy_block(
    r: FloatArray, p: FloatArray, given: Sums, divergence: Divergence
) -> tuple[FloatArray, FloatArray]:
    """Return the policy of `(n, y)` responses and their scaled rewards `(r - anchor)/beta`."""
    d = scores(r, p, given["anchor"], given["lowest"], given["beta"])
    mass, slope = masses(divergence, d - given["offset"][:, None], p, given["bound"])
    with np.errstate(invalid="ignore", under="ignore", over="ignore"):
        mass -= slope * given["step"][:, None]
    # As the inverse link: where a ratio falls below 0 on the way, it is 0.
    np.maximum(mass, 0.0, out=mass)
    if not math.isfinite(float(divergence.generator(0.0))):
        # Mass 0 would cost infinity; what underflows is rounded up.
        np.maximum(mass, np.finfo(np.float64).smallest_subnormal, out=mass)
    mass[p == 0] = 0.0
    return mass, d
