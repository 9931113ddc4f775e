"""A function of `tau = 1/beta` along a path: a polynomial of degree 2 between breakpoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.frozen import Frozen
from rlhfsim.solvers.path.sums import running_sum


@dataclass(frozen=True, eq=False)
class PathFunction(Frozen):
    """`F(tau) = start + constant_i + slope_i tau + curvature_i tau^2` on segment i.

    Segment i is `[breakpoints[i-1], breakpoints[i]]` in `tau = 1/beta`, from 0 before the first
    breakpoint and to infinity after the last.  F is continuous.  `start = F(0)` is kept apart, so
    that a large offset of F costs no digits of `gain`.
    """

    #: (B,) beta of each breakpoint, decreasing: `1/breakpoints`.
    betas: FloatArray
    #: (B + 1,) per segment, relative to `start`.
    constant: FloatArray
    #: (B + 1,) per segment, in units of F times those of beta.
    slope: FloatArray
    #: (B + 1,) per segment, in units of F times those of beta squared.
    curvature: FloatArray
    #: F at `tau = 0`, where the policy is the reference.
    start: float
    #: Largest rounding error of `gain`; 0 where that is relative (all coefficients positive).
    rounding: float
    #: beta is counted in units of `2^-exponent` in `slope` and `curvature`, out of the way of
    #: overflow and underflow; `derivative` undoes it.
    exponent: int = 0

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        for name in ("betas", "constant", "slope", "curvature"):
            object.__setattr__(self, name, checks.frozen(getattr(self, name)))

    @property
    def breakpoints(self) -> FloatArray:
        """(B,) breakpoints in `tau = 1/beta`, increasing; `inf` beyond the floats."""
        with np.errstate(over="ignore", divide="ignore"):
            return 1.0 / self.betas

    def gain(self, beta: ArrayLike) -> FloatArray:
        """Return `F(1/beta) - F(0)`; beta may be 0 (the limit) and `inf`; any shape.

        Raises
        ------
        ValueError
            For a negative beta or nan.
        """
        b = checks.as_non_negative("beta", beta, infinite=True)
        segment = self._segment(b)
        rise = over_beta(self.slope[segment], b, self.exponent)
        bend = over_beta(self.curvature[segment], b, self.exponent, power=2)
        return np.asarray(self.constant[segment] + (rise + bend))[()]

    def __call__(self, beta: ArrayLike) -> FloatArray:
        """Return `F(1/beta)`; as `gain`."""
        return np.asarray(self.start + self.gain(beta))[()]

    def derivative(self, beta: ArrayLike) -> FloatArray:
        """Return `dF/dtau` at `tau = 1/beta`, from the left at a breakpoint; any shape."""
        b = checks.as_non_negative("beta", beta, infinite=True)
        segment = self._segment(b)
        bend = over_beta(2.0 * self.curvature[segment], b, self.exponent)
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(self.slope[segment], -self.exponent) + np.ldexp(bend, -self.exponent)

    def segment(self, beta: ArrayLike) -> IntArray:
        """Return the index of the segment that holds `1/beta`, the left one at a breakpoint."""
        return self._segment(checks.as_non_negative("beta", beta, infinite=True))

    def _segment(self, beta: FloatArray) -> IntArray:
        return np.asarray(self.betas.size - np.searchsorted(self.betas[::-1], beta, side="right"))


def over_beta(
    coefficient: FloatArray, beta: FloatArray, exponent: int, *, power: int = 1
) -> FloatArray:
    """Return `coefficient / (2^exponent beta)^power` without overflow on the way, 0 for 0."""
    mantissa, shift = np.frexp(beta)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        quotient = np.where(coefficient == 0, 0.0, coefficient / mantissa**power)
        return np.asarray(np.ldexp(quotient, -power * (shift.astype(np.int64) + exponent)))


def split_sums(
    exits: FloatArray, gone: FloatArray, staying: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return `(betas, sum of gone over exits > beta, sum of staying over the others)`.

    `exits > 0`, `gone` and `staying` are (N,) arrays; `betas` holds the (B,) distinct exits from
    the largest down, the sums have one entry for each of the B + 1 segments between them, the
    largest beta first.  `gone` is summed from the large exits and `staying` from the small ones,
    so that either is exact where it is small.
    """
    if exits.size == 0:
        return exits, np.zeros(1), np.zeros(1)
    order = np.argsort(exits, kind="stable")
    rising = exits[order]
    first = np.concatenate([[0], np.flatnonzero(rising[1:] > rising[:-1]) + 1])
    last = np.append(first[1:] - 1, rising.size - 1)
    below = running_sum(staying[order])[last]
    above = running_sum(gone[order][::-1])[::-1][first]
    return rising[last][::-1], np.append(0.0, above[::-1]), np.append(below[::-1], 0.0)
