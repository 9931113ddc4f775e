"""Matrix adaptation evolution: many independent runs, stepped together as one batch.

Source: Beyer & Sendhoff 2017, "Simplify your covariance matrix adaptation evolution strategy"
(covariance matrix adaptation without decompositions), with the constants of arXiv 1604.00772.
"""

from __future__ import annotations

import math

import numpy as np

from rlhfsim.checks import FloatArray

_SMALLEST_SIZE, _LARGEST_SIZE = 1e-14, 1e3

#: Entries of a transformation stay below this; only its product with the step size matters.
_LARGEST_ENTRY = 1e8


class Evolution:
    """R runs in d dimensions, each with its own mean, step size and linear transformation.

    Parameters
    ----------
    means : (R, d) array
    scales : (R, d) array
        Length of a natural step per coordinate.
    sizes : (R,) array
        Initial step sizes, in units of the scales.
    """

    def __init__(self, means: FloatArray, scales: FloatArray, sizes: FloatArray) -> None:
        runs, d = means.shape
        self.scales = scales
        self.means = means / scales
        self.sizes = sizes.copy()
        self.population = max(8, 4 + int(3 * math.log(d)))
        ranks = np.arange(1, self.population // 2 + 1)
        weights = math.log((self.population + 1) / 2) - np.log(ranks)
        self._weights = weights / weights.sum()
        mass = 1.0 / float((self._weights**2).sum())
        self._mass = mass
        self._rate = (mass + 2) / (d + mass + 5)
        self._one = 2 / ((d + 1.3) ** 2 + mass)
        self._many = min(1 - self._one, 2 * (mass - 2 + 1 / mass) / ((d + 2) ** 2 + mass))
        self._damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (d + 1)) - 1) + self._rate
        #: Mean length of a standard normal vector.
        self._expected = math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d * d))
        self._path = np.zeros((runs, d))
        self._transform = np.broadcast_to(np.eye(d), (runs, d, d)).copy()
        self._normal = np.empty((runs, self.population, d))

    def ask(self, rng: np.random.Generator) -> FloatArray:
        """Return the candidates of all runs, `(R, population, d)`."""
        self._normal = rng.standard_normal(self._normal.shape)
        steps = self._normal @ self._transform.transpose(0, 2, 1)
        points = self.means[:, None] + self.sizes[:, None, None] * steps
        return points * self.scales[:, None]

    def tell(self, scores: FloatArray) -> None:
        """Move every run towards its candidates of largest score, `(R, population)`."""
        best = np.argsort(-scores, axis=1, kind="stable")[:, : len(self._weights)]
        chosen = np.take_along_axis(self._normal, best[:, :, None], axis=1)
        step = (self._weights[:, None] * chosen).sum(axis=1)
        self.means += self.sizes[:, None] * (self._transform @ step[:, :, None])[:, :, 0]
        rate = self._rate
        self._path *= 1 - rate
        self._path += math.sqrt(rate * (2 - rate) * self._mass) * step
        self._adapt(chosen)
        length = np.linalg.norm(self._path, axis=1)
        growth = rate / self._damping * (length / self._expected - 1)
        self.sizes *= np.exp(np.minimum(growth, 1.0))
        np.clip(self.sizes, _SMALLEST_SIZE, _LARGEST_SIZE, out=self.sizes)

    def _adapt(self, chosen: FloatArray) -> None:
        """Multiply the transformation by `I + c1/2 (p p' - I) + cw/2 (sum w z z' - I)`."""
        change = 0.5 * self._one * self._path[:, :, None] * self._path[:, None, :]
        change += (0.5 * self._many * self._weights[:, None] * chosen).transpose(0, 2, 1) @ chosen
        change += (1 - 0.5 * (self._one + self._many)) * np.eye(chosen.shape[2])
        self._transform = self._transform @ change
        largest = np.abs(self._transform).max(axis=(1, 2), keepdims=True)
        self._transform /= np.maximum(largest / _LARGEST_ENTRY, 1.0)
