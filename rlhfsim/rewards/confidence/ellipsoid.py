"""Ellipsoids of parameters of linear rewards."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.rewards.confidence.base import Minimum, extremes
from rlhfsim.rewards.features import as_features

#: Largest asymmetry of a covariance, as a share of its largest entry.
SYMMETRY_TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False)
class Ellipsoid(Frozen):
    """`{theta : ||theta - centre||_Sigma <= radius}`, with rewards `r = <theta, phi(x, y)>`.

    `||v||_A = sqrt(v' A v)`.

    Parameters
    ----------
    centre : (d,) array
    covariance : (d, d) array
        Sigma, symmetric and positive definite; despite its usual name it grows with the data.
    radius : float
        c, not negative.
    features : (X, Y, d) array
        phi.

    Raises
    ------
    ValueError
        Bad input, by name, rule and value; a covariance that is not positive definite.

    Source: arXiv 2301.11270; arXiv 2312.11456.
    """

    centre: FloatArray
    covariance: FloatArray
    radius: float
    features: FloatArray
    #: (d,) scale and (d, d) lower triangular factor: `Sigma = diag(scale) L L' diag(scale)`.
    _scale: FloatArray = field(init=False, repr=False)
    _factor: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Validate, copy, freeze and factorise."""
        features = as_features(self.features)
        size = features.shape[2]
        centre = checks.as_real("centre", self.centre)
        if centre.shape != (size,):
            raise ValueError(f"centre has shape {centre.shape}; it must have shape {(size,)}")
        sigma = checks.as_matrix("covariance", self.covariance, (size, size))
        scale, factor = _factorise(sigma)
        values = {"centre": centre, "covariance": sigma, "features": features}
        for name, value in {**values, "_scale": scale, "_factor": factor}.items():
            object.__setattr__(self, name, checks.frozen(value))
        radius = checks.positive_number("radius", self.radius, zero=True)
        object.__setattr__(self, "radius", radius)

    def distance(self, theta: ArrayLike) -> float:
        """Return `||theta - centre||_Sigma`."""
        value = checks.as_real("theta", theta)
        if value.shape != self.centre.shape:
            raise ValueError(
                f"theta has shape {value.shape}; it must have shape {self.centre.shape}"
            )
        return float(np.linalg.norm(self._factor.T @ (self._scale * (value - self.centre))))

    def contains(self, theta: ArrayLike) -> bool:
        """Return whether a `(d,)` parameter is in the ellipsoid."""
        return self.distance(theta) <= self.radius

    def width(self, directions: ArrayLike) -> FloatArray:
        """Return `radius ||v||_{Sigma^-1}`, by how much `<theta, v>` varies to either side.

        Parameters
        ----------
        directions : (..., d) array
            v, for example `phi(x, y) - nu` for the pointwise penalty of pessimism.

        Returns
        -------
        array of the leading shape, in reward units
        """
        v = checks.as_real("directions", directions)
        if v.ndim == 0 or v.shape[-1] != len(self.centre):
            raise ValueError(
                f"directions has shape {v.shape}; its last axis must have length {len(self.centre)}"
            )
        flat = v.reshape(-1, len(self.centre)).T
        return self.radius * np.linalg.norm(self._whiten(flat), axis=0).reshape(v.shape[:-1])

    def minimize(self, weights: ArrayLike) -> Minimum:
        """Return the smallest `sum_xy weights(x, y) r(x, y)` over the ellipsoid.

        `<centre, v> - radius ||v||_{Sigma^-1}` with `v = sum_xy weights(x, y) phi(x, y)`, attained
        at `theta = centre - radius Sigma^-1 v / ||v||_{Sigma^-1}`.

        Parameters
        ----------
        weights : (X, Y) array
            Any finite weights.
        """
        w = checks.as_matrix("weights", weights, self.features.shape[:2])
        direction = np.tensordot(w, self.features, axes=2)
        white = self._whiten(direction)
        length = float(np.linalg.norm(white))
        theta = self.centre
        if length > 0:
            back = solve_triangular(self._factor, white / length, lower=True, trans="T")
            theta = theta - self.radius * back / self._scale
        value = float(self.centre @ direction) - self.radius * length
        return Minimum(value, self.features @ theta, 0.0)

    def bounds(self, weights: ArrayLike) -> tuple[float, float]:
        """Return the smallest and the largest `sum_xy weights(x, y) r(x, y)`; see `minimize`."""
        return extremes(self, checks.as_matrix("weights", weights, self.features.shape[:2]))

    def _whiten(self, columns: FloatArray) -> FloatArray:
        """Return `L^-1 diag(scale)^-1` times a `(d,)` vector or `(d, m)` columns."""
        scaled = (columns.T / self._scale).T
        return np.asarray(solve_triangular(self._factor, scaled, lower=True))


def require_symmetric(sigma: FloatArray) -> None:
    """Raise unless a square covariance is symmetric to rounding."""
    off = np.abs(sigma - sigma.T)
    if off.max() > SYMMETRY_TOLERANCE * np.abs(sigma).max():
        i, j = (int(k) for k in np.unravel_index(int(off.argmax()), off.shape))
        raise ValueError(
            f"covariance[{i}, {j}] is {sigma[i, j].item()!r} and covariance[{j}, {i}] is "
            f"{sigma[j, i].item()!r}; it must be symmetric"
        )


def _factorise(sigma: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the scale and the lower triangular factor of a covariance."""
    require_symmetric(sigma)
    diagonal = sigma.diagonal()
    if (diagonal <= 0).any():
        first = int((diagonal <= 0).argmax())
        raise ValueError(
            f"covariance[{first}, {first}] is {diagonal[first].item()!r}; "
            "it must be positive definite"
        )
    # Features of very different units then lose no accuracy.
    scale = np.sqrt(diagonal)
    try:
        factor = cholesky(sigma / scale[:, None] / scale, lower=True)
    except LinAlgError:
        smallest = float(np.linalg.eigvalsh(sigma)[0])
        raise ValueError(
            f"covariance has smallest eigenvalue {smallest!r}; it must be positive definite"
        ) from None
    return scale, np.asarray(factor)
