"""Jensen-Shannon divergence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import Divergence
from rlhfsim.divergences.inversion import LARGEST
from rlhfsim.special import entropy_excess

_LOG_2 = float(np.log(2.0))
# log 2 less the float above.
_LOG_2_REST = 2.3190468138462996e-17


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """`1/2 KL(policy || m) + 1/2 KL(reference || m)`, `m = (policy + reference)/2`, in nats.

    `f(t) = 1/2 [t log t - (t + 1) log((t + 1)/2)]`, `f'(t) = 1/2 log(2t/(1 + t))`, inverse
    `e^(2s)/(2 - e^(2s))`.  Symmetric and in [0, log 2].

    >>> float(JensenShannon()([1.0, 0.0], [0.0, 1.0])) == float(np.log(2))
    True
    """

    @property
    def recession(self) -> float:
        """`(log 2)/2`, the limit of `f'`."""
        return 0.5 * _LOG_2

    def perspective(self, policy: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `1/2 [pi log(pi/m) + p log(p/m)]`, `m = (pi + p)/2`."""
        pi = np.asarray(policy, dtype=np.float64)
        p = np.asarray(reference, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
            total = pi + p
            # pi = m (1 + u) and p = m (1 - u).
            u = (pi - p) / total
            close = np.where(np.abs(u) <= 0.5, u, 0.0)
            near = 0.25 * total * (entropy_excess(close) + entropy_excess(-close))
            first = np.where(pi > 0, pi * np.log(2.0 * (pi / total)), 0.0)
            second = np.where(p > 0, p * np.log(2.0 * (p / total)), 0.0)
            return np.where(np.abs(u) <= 0.5, near, 0.5 * (first + second))

    def link(self, ratio: ArrayLike) -> FloatArray:
        """Return `1/2 log(2t/(1 + t))`."""
        t = np.minimum(np.asarray(ratio, dtype=np.float64), LARGEST)
        with np.errstate(divide="ignore"):
            small = np.log(2.0 * np.minimum(t, 1.0) / (1.0 + t))
            return 0.5 * np.where(t < 0.3, small, np.log1p((t - 1.0) / (1.0 + t)))

    def link_slope(self, ratio: ArrayLike) -> FloatArray:
        """Return `1/(2 t (1 + t))`."""
        t = np.asarray(ratio, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore", under="ignore"):
            return (0.5 / t) / (1.0 + t)

    def inverse_link(self, score: ArrayLike) -> FloatArray:
        """Return `e^(2s)/(2 - e^(2s))`, `inf` for `s >= (log 2)/2`."""
        s = np.asarray(score, dtype=np.float64)
        with np.errstate(over="ignore", under="ignore"):
            e = np.exp(2.0 * np.minimum(s, 0.0))
        return np.where(s < 0, e / (2.0 - e), self.inverse_tail(_deficit(s)))

    def tail(self, ratio: ArrayLike) -> FloatArray:
        """Return `1/2 log(1 + 1/t)`."""
        t = np.asarray(ratio, dtype=np.float64)
        with np.errstate(divide="ignore", over="ignore"):
            inverse = 1.0 / t
            # Beyond the floats 1/t leaves only -log t.
            return 0.5 * np.where(np.isfinite(inverse), np.log1p(inverse), -np.log(t))

    def inverse_tail(self, deficit: ArrayLike) -> FloatArray:
        """Return `1/(e^(2u) - 1)` at `s = (log 2)/2 - u`."""
        u = np.maximum(np.asarray(deficit, dtype=np.float64), 0.0)
        with np.errstate(divide="ignore", over="ignore", under="ignore"):
            # e^(-2u) for large u, as e^(2u) overflows before its inverse is 0.
            return np.where(u < 20.0, 1.0 / np.expm1(2.0 * np.minimum(u, 20.0)), np.exp(-2.0 * u))

    def conjugate_perspective(self, score: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `-p/2 log(2 - e^(2s))`, `inf` for `s >= (log 2)/2`."""
        s = np.asarray(score, dtype=np.float64)
        p = np.asarray(reference, dtype=np.float64)
        with np.errstate(over="ignore", under="ignore"):
            low = -0.5 * np.log1p(-np.expm1(2.0 * np.minimum(s, 0.25)))
        return np.where(s < 0.25, p * low, self.conjugate_tail(_deficit(s), p))

    def conjugate_tail(self, deficit: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `-p/2 log(2 - 2 e^(-2u))` at `s = (log 2)/2 - u`."""
        u = np.maximum(np.asarray(deficit, dtype=np.float64), 0.0)
        with np.errstate(divide="ignore", under="ignore"):
            value = -0.5 * (_LOG_2 + np.log(-np.expm1(-2.0 * u)))
        return np.asarray(reference, dtype=np.float64) * value


def _deficit(score: FloatArray) -> FloatArray:
    """Return `(log 2)/2 - s`, with the digits of log 2 beyond the float."""
    return (0.5 * _LOG_2 - score) + 0.5 * _LOG_2_REST
