"""Kullback-Leibler divergence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import Divergence
from rlhfsim.special import entropy_excess


@dataclass(frozen=True)
class KL(Divergence):
    """`KL(policy || reference) = E_policy[log w]`, in nats: `f(t) = t log t - t + 1`.

    `f'(t) = log t`, inverse `e^s`.

    >>> float(KL()([1.0, 0.0], [0.5, 0.5])) == float(np.log(2))
    True
    """

    @property
    def recession(self) -> float:
        """Infinite: KL forbids mass where the reference has none."""
        return np.inf

    def perspective(self, policy: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `pi log(pi/p) - pi + p`."""
        pi = np.asarray(policy, dtype=np.float64)
        p = np.asarray(reference, dtype=np.float64)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            ratio = pi / p
            # pi/p overflows only for references below 1e-308.
            log_ratio = np.where(np.isfinite(ratio), np.log(ratio), np.log(pi) - np.log(p))
            far = np.where(pi > 0, pi * log_ratio, 0.0) - (pi - p)
            excess = (pi - p) / p
            near = np.abs(excess) <= 0.5
            return np.where(near, p * entropy_excess(np.where(near, excess, 0.0)), far)

    def link(self, ratio: ArrayLike) -> FloatArray:
        """Return `log t`."""
        with np.errstate(divide="ignore"):
            return np.log(np.asarray(ratio, dtype=np.float64))

    def link_slope(self, ratio: ArrayLike) -> FloatArray:
        """Return `1/t`."""
        with np.errstate(divide="ignore", over="ignore"):
            return 1.0 / np.asarray(ratio, dtype=np.float64)

    def inverse_link(self, score: ArrayLike) -> FloatArray:
        """Return `e^s`."""
        with np.errstate(over="ignore", under="ignore"):
            return np.exp(np.asarray(score, dtype=np.float64))

    def conjugate_perspective(self, score: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p (e^s - 1)`."""
        s = np.asarray(score, dtype=np.float64)
        p = np.asarray(reference, dtype=np.float64)
        with np.errstate(over="ignore", under="ignore"):
            # In halves: e^s may overflow where p e^s does not.
            half = np.exp(0.5 * s)
            return np.where(np.abs(s) < 1, p * np.expm1(s), (p * half) * half - p)
