"""Squared Hellinger distance, without a factor 1/2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import Divergence


@dataclass(frozen=True)
class SquaredHellinger(Divergence):
    """`H^2(policy, reference) = E_x sum_y (sqrt(pi) - sqrt(p))^2`: `f(t) = (sqrt(t) - 1)^2`.

    `f'(t) = 1 - 1/sqrt(t)`, inverse `1/(1 - s)^2`.  In [0, 2]; half of it elsewhere.

    >>> float(SquaredHellinger()([1.0, 0.0], [0.0, 1.0]))
    2.0
    """

    @property
    def recession(self) -> float:
        """1: `f(t)/t = (1 - 1/sqrt(t))^2`."""
        return 1.0

    def perspective(self, policy: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `(sqrt(pi) - sqrt(p))^2`."""
        pi = np.asarray(policy, dtype=np.float64)
        p = np.asarray(reference, dtype=np.float64)
        # sqrt(a) - sqrt(b) = (a - b) / (sqrt(a) + sqrt(b)) keeps the digits of a close pair.
        with np.errstate(under="ignore"):
            root = (pi - p) / (np.sqrt(pi) + np.sqrt(p))
            return root * root

    def link(self, ratio: ArrayLike) -> FloatArray:
        """Return `1 - 1/sqrt(t)`."""
        t = np.asarray(ratio, dtype=np.float64)
        root = np.sqrt(t)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(t < 4.0, (t - 1.0) / (t + root), 1.0 - 1.0 / root)

    def link_slope(self, ratio: ArrayLike) -> FloatArray:
        """Return `1/(2 t^(3/2))`."""
        t = np.asarray(ratio, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore", under="ignore"):
            return (0.5 / t) / np.sqrt(t)

    def inverse_link(self, score: ArrayLike) -> FloatArray:
        """Return `1/(1 - s)^2`, `inf` for `s >= 1`."""
        return self.inverse_tail(1.0 - np.asarray(score, dtype=np.float64))

    def tail(self, ratio: ArrayLike) -> FloatArray:
        """Return `1/sqrt(t)`."""
        with np.errstate(divide="ignore"):
            return 1.0 / np.sqrt(np.asarray(ratio, dtype=np.float64))

    def inverse_tail(self, deficit: ArrayLike) -> FloatArray:
        """Return `1/u^2` at `s = 1 - u`."""
        u = np.maximum(np.asarray(deficit, dtype=np.float64), 0.0)
        with np.errstate(divide="ignore", over="ignore", under="ignore"):
            return (1.0 / u) / u

    def conjugate_perspective(self, score: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p s/(1 - s)`, `inf` for `s >= 1`."""
        s = np.minimum(np.asarray(score, dtype=np.float64), 1.0)
        with np.errstate(divide="ignore", over="ignore"):
            return np.asarray(reference, dtype=np.float64) * (s / (1.0 - s))

    def conjugate_tail(self, deficit: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p (1 - u)/u` at `s = 1 - u`."""
        u = np.maximum(np.asarray(deficit, dtype=np.float64), 0.0)
        with np.errstate(divide="ignore", over="ignore"):
            return np.asarray(reference, dtype=np.float64) * ((1.0 - u) / u)
