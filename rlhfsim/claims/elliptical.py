"""Sequences of comparisons: what their steps, measured by the Sigma before each, add up to.

`Sigma_t = lambda I + sum_{s <= t} d_s d_s'`, and `||d_t||` is the norm of `Sigma_{t-1}^-1`.

Source: arXiv 2312.11456, which takes them from Abbasi-Yadkori et al. 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.batches import Rows, rewards, sorts

_SOURCE = "arXiv 2312.11456"


@dataclass(frozen=True, eq=False)
class Sequences(Rows):
    """N sequences of T differences of features, and what Sigma starts from."""

    parametrization: ClassVar[dict[str, str]] = {
        "difference": "real", "regularization": "positive",
    }  # fmt: skip

    difference: FloatArray  # (N, T, d)
    regularization: FloatArray  # (N,)

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` sequences of 1 to 12 differences of 1 to 4 features."""
        sort = sorts(n, rng)
        shape = int(rng.integers(1, 13)), int(rng.integers(1, 5))
        difference = np.clip(rewards(sort, shape, rng), -5.0, 5.0)
        # Adversarial: every one as long as the regularization, along the axes.
        axis = np.eye(shape[1])[rng.integers(0, shape[1], size=(n, shape[0]))]
        weight = 10.0 ** rng.uniform(-1.0, 1.0, size=n)
        along = np.sqrt(weight)[:, None, None] * axis
        return cls(np.where((sort == 2)[:, None, None], along, difference), weight)

    @cached_property
    def steps(self) -> FloatArray:
        """Return the (N, T) squared norms `||d_t||^2` by the Sigma of those before."""
        n, rounds, d = self.difference.shape
        inverse = np.eye(d) / self.regularization[:, None, None]
        norms = np.empty((n, rounds))
        for t in range(rounds):
            v = self.difference[:, t]
            image = np.einsum("nij,nj->ni", inverse, v)
            norms[:, t] = (v * image).sum(axis=1)
            inverse = (
                inverse - image[:, :, None] * image[:, None] / (1.0 + norms[:, t])[:, None, None]
            )
        return norms

    @cached_property
    def log_determinant(self) -> FloatArray:
        """Return the (N,) `log(det Sigma_T / det(lambda I))`."""
        d = self.difference.shape[2]
        sums = np.einsum("nti,ntj->nij", self.difference, self.difference)
        scaled = np.eye(d) + sums / self.regularization[:, None, None]
        return np.asarray(np.linalg.slogdet(scaled)[1])

    @property
    def isotropic(self) -> FloatArray:
        """Return `d log(1 + sum_t ||d_t||^2/(d lambda))`."""
        d = self.difference.shape[2]
        return np.asarray(
            d * np.log1p((self.difference**2).sum(axis=(1, 2)) / (d * self.regularization))
        )


def _one_step() -> Sequences:
    return Sequences(np.array([[[0.6, 0.8], [0.0, 0.0]]]), np.ones(1))


def _every_axis() -> Sequences:
    return Sequences(
        np.array([[[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]]]), np.ones(1) * 2
    )


ELLIPTICAL_CLAIMS: tuple[Claim[Sequences], ...] = (
    Claim[Sequences](
        "potential of the steps",
        "sum_t log(1 + ||d_t||^2) = log(det Sigma_T / det(lambda I)), norms by the Sigma before",
        "Abbasi-Yadkori et al. 2011, lemma 11",
        "identity",
        lambda x: np.log1p(x.steps).sum(axis=1),
        lambda x: x.log_determinant,
        _every_axis,
        lambda x: 1e-12 * (1.0 + x.isotropic),
    ),
    Claim[Sequences](
        "elliptical potential",
        "sum_t min(1, ||d_t||^2) <= log(det Sigma_T / det(lambda I)) / log 2",
        f"{_SOURCE}; Abbasi-Yadkori et al. 2011, lemma 11, with 2 for 1/log 2",
        "tight",
        lambda x: np.minimum(1.0, x.steps).sum(axis=1),
        lambda x: x.log_determinant / np.log(2.0),
        _one_step,
        lambda x: 1e-12 * (1.0 + x.isotropic),
    ),
    Claim[Sequences](
        "growth of the determinant",
        "log(det Sigma_T / det(lambda I)) <= d log(1 + sum_t |d_t|^2/(d lambda))",
        "Abbasi-Yadkori et al. 2011, lemma 10",
        "tight",
        lambda x: x.log_determinant,
        lambda x: x.isotropic,
        _every_axis,
        lambda x: 1e-12 * (1.0 + x.isotropic),
    ),
)
