"""Forward Kullback-Leibler divergence: KL with its arguments swapped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import Divergence
from rlhfsim.divergences.kl import KL


@dataclass(frozen=True)
class ForwardKL(Divergence):
    """`KL(reference || policy) = E_p[-log w]`, in nats: `f(t) = -log t + t - 1`.

    `f'(t) = 1 - 1/t`, inverse `1/(1 - s)`.  Infinite where the policy lacks support of the
    reference; a unit of mass where the reference has none costs 1.

    >>> float(ForwardKL()([0.5, 0.5], [1.0, 0.0])) == float(np.log(2))
    True
    """

    @property
    def recession(self) -> float:
        """1: `f(t)/t = 1 - (1 + log t)/t`."""
        return 1.0

    def perspective(self, policy: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p log(p/pi) - p + pi`, the term of KL with the arguments swapped."""
        pi = np.asarray(policy, dtype=np.float64)
        swapped = KL().perspective(reference, np.where(pi > 0, pi, 1.0))
        return np.where(pi > 0, swapped, np.inf)

    def link(self, ratio: ArrayLike) -> FloatArray:
        """Return `1 - 1/t`."""
        t = np.asarray(ratio, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return np.where(t < 2.0, (t - 1.0) / t, 1.0 - 1.0 / t)

    def link_slope(self, ratio: ArrayLike) -> FloatArray:
        """Return `1/t^2`."""
        t = np.asarray(ratio, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore", under="ignore"):
            return (1.0 / t) / t

    def inverse_link(self, score: ArrayLike) -> FloatArray:
        """Return `1/(1 - s)`, `inf` for `s >= 1`."""
        return self.inverse_tail(1.0 - np.asarray(score, dtype=np.float64))

    def tail(self, ratio: ArrayLike) -> FloatArray:
        """Return `1/t`."""
        with np.errstate(divide="ignore", over="ignore"):
            return 1.0 / np.asarray(ratio, dtype=np.float64)

    def inverse_tail(self, deficit: ArrayLike) -> FloatArray:
        """Return `1/u` at `s = 1 - u`."""
        with np.errstate(divide="ignore", over="ignore"):
            return 1.0 / np.maximum(np.asarray(deficit, dtype=np.float64), 0.0)

    def conjugate_perspective(self, score: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `-p log(1 - s)`."""
        s = np.asarray(score, dtype=np.float64)
        with np.errstate(divide="ignore"):
            return np.asarray(reference, dtype=np.float64) * -np.log1p(-np.minimum(s, 1.0))

    def conjugate_tail(self, deficit: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `-p log u` at `s = 1 - u`."""
        u = np.maximum(np.asarray(deficit, dtype=np.float64), 0.0)
        with np.errstate(divide="ignore"):
            return np.asarray(reference, dtype=np.float64) * -np.log(u)
