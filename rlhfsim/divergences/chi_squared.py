"""Chi-squared divergence, with the one half."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import Divergence


@dataclass(frozen=True)
class ChiSquared(Divergence):
    """`D_chi2(policy || reference) = 1/2 E_p[(w - 1)^2]`, **with the 1/2**: `f(t) = (t - 1)^2 / 2`.

    `f'(t) = t - 1`, inverse `max(0, 1 + s)`.  Concentrability is `C = 1 + 2 D_chi2`.
    Convention of chiPO (arXiv 2407.13399); without the 1/2 elsewhere.

    >>> float(ChiSquared()([1.0, 0.0], [0.5, 0.5]))
    0.5
    """

    @property
    def recession(self) -> float:
        """Infinite: chi-squared forbids mass where the reference has none."""
        return np.inf

    def perspective(self, policy: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `(pi - p)^2 / (2 p)`."""
        pi = np.asarray(policy, dtype=np.float64)
        p = np.asarray(reference, dtype=np.float64)
        with np.errstate(over="ignore", under="ignore"):
            return 0.5 * (pi - p) * ((pi - p) / p)

    def link(self, ratio: ArrayLike) -> FloatArray:
        """Return `t - 1`."""
        return np.asarray(ratio, dtype=np.float64) - 1.0

    def link_slope(self, ratio: ArrayLike) -> FloatArray:
        """Return 1."""
        return np.ones_like(np.asarray(ratio, dtype=np.float64))

    def inverse_link(self, score: ArrayLike) -> FloatArray:
        """Return `max(0, 1 + s)`."""
        return np.maximum(0.0, 1.0 + np.asarray(score, dtype=np.float64))

    def conjugate_perspective(self, score: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p (s + s^2/2)` for `s >= -1`, else `-p/2`."""
        s = np.maximum(np.asarray(score, dtype=np.float64), -1.0)
        with np.errstate(over="ignore", under="ignore"):
            return (np.asarray(reference, dtype=np.float64) * s) * (1.0 + 0.5 * s)
