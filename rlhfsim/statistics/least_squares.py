"""Linear least squares by QR, plain or weighted by known errors, with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.statistics.intervals import Interval, around, student_quantile

#: A column whose part orthogonal to the others is below this share of it is one of them.
_RANK = 1e-10


@dataclass(frozen=True)
class LinearFit:
    """`y = X theta + noise`: the estimate and what its intervals need."""

    estimate: FloatArray
    #: (k,) standard errors for noise of variance 1 (in units of the errors, when weighted).
    spread: FloatArray
    #: (n,) `y - X theta`, in units of the errors when weighted.
    residuals: FloatArray
    freedom: int
    weighted: bool

    @property
    def sum_of_squares(self) -> float:
        """Of the residuals."""
        return float(self.residuals @ self.residuals)

    @property
    def variance(self) -> float:
        """Of the noise: known (1) when weighted, else estimated from the residuals."""
        return 1.0 if self.weighted else self.sum_of_squares / self.freedom

    def interval(self, parameter: int, level: float) -> Interval:
        """Return one parameter; exact for normal noise of one variance, or of known errors."""
        error = float(self.spread[parameter]) * math.sqrt(self.variance)
        estimate = float(self.estimate[parameter])
        if self.weighted:
            reach = -float(ndtri(0.5 * (1.0 - level)))
            return around(estimate, reach * error, level, "normal, known errors")
        reach = student_quantile(level, self.freedom)
        return around(estimate, reach * error, level, "Student's t of a regression")


def least_squares(matrix: FloatArray, y: FloatArray, errors: FloatArray | None) -> LinearFit | None:
    """Return the fit of an (n, k) matrix to (n,) values; None where its columns are dependent.

    Without errors n must exceed k, for the noise to be seen.
    """
    n, k = matrix.shape
    weights = np.ones(n) if errors is None else 1.0 / errors
    target = y * weights
    unit, norms, independent = _units(matrix * weights[:, None])
    if n < k or not independent:
        return None
    q, r = np.linalg.qr(unit)
    estimate = np.linalg.solve(r, q.T @ target)
    residuals = target - unit @ estimate
    spread = np.sqrt(np.square(np.linalg.inv(r)).sum(axis=1)) / norms
    return LinearFit(estimate / norms, spread, residuals, n - k, errors is not None)


def smallest_squares(matrices: FloatArray, y: FloatArray, errors: FloatArray | None) -> FloatArray:
    """Return the (G,) sums of squares of the fits of (G, n, k) matrices; inf where dependent."""
    weights = np.ones(y.size) if errors is None else 1.0 / errors
    target = y * weights
    unit, _, independent = _units(matrices * weights[:, None])
    q, _ = np.linalg.qr(unit)
    share = (q * target[:, None]).sum(axis=1)
    squares = np.square(target - (q @ share[..., None])[..., 0]).sum(axis=-1)
    return np.where(independent, squares, np.inf)


def _units(matrices: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return columns of length 1, their lengths, and whether they are independent."""
    largest = np.abs(matrices).max(axis=-2, keepdims=True)
    safe = np.where(largest > 0, largest, 1.0)
    lengths = safe * np.sqrt(np.square(matrices / safe).sum(axis=-2, keepdims=True))
    unit = matrices / np.where(largest > 0, lengths, 1.0)
    r = np.linalg.qr(unit, mode="r")
    diagonal = np.abs(np.diagonal(r, axis1=-2, axis2=-1))
    return unit, lengths[..., 0, :], np.asarray(diagonal.min(axis=-1) >= _RANK)
