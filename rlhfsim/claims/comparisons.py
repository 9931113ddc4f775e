"""Instances of preferences: Bradley-Terry ones by a reward, and general ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.claims.batches import Rows, distributions, rewards, sorts

#: Shares of labels that are turned round.
RATES = (0.0, 0.01, 0.2, 0.45)


@dataclass(frozen=True, eq=False)
class Comparisons(Rows):
    """N preferences of one prompt each: Bradley-Terry ones by a reward, and general ones."""

    parametrization: ClassVar[dict[str, str]] = {"reward": "real", "opponents": "simplex"}

    reward: FloatArray  # (N, Y), Y at least 3
    probabilities: FloatArray  # (N, Y, Y): P(y beats y'), P + P^T = 1
    opponents: FloatArray  # (N, Y) distributions of full support
    noise: IntArray  # (N,) which of RATES

    def valid(self) -> BoolArray:
        """Return whether every opponent is met."""
        return np.asarray((self.opponents > 0).all(axis=1))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances of 3 to 6 responses."""
        sort, size = sorts(n, rng), int(rng.integers(3, 7))
        return cls(
            rewards(sort, (size,), rng), _preferences(sort, size, rng),
            distributions(sort, (size,), rng), rng.integers(0, len(RATES), size=n),
        )  # fmt: skip


def _preferences(sort: IntArray, size: int, rng: np.random.Generator) -> FloatArray:
    """Return (n, Y, Y) tables: uniform ones, quarters, and all but ties or certainties."""
    full = (len(sort), size, size)
    coin = rng.random((len(sort), 1, 1)) < 0.5
    small = 10.0 ** -rng.uniform(1.0, 12.0, size=full)
    side = rng.choice([-1.0, 1.0], size=full)
    extreme = np.where(coin, 0.5 + side * small, np.where(side > 0, 1.0 - small, small))
    quarters = rng.integers(0, 5, size=full) / 4.0
    table = np.choose(sort[:, None, None], [rng.random(full), quarters, extreme])
    upper = np.triu(table, 1)
    lower = np.swapaxes(np.triu(1.0 - table, 1), 1, 2)
    return np.asarray(upper + lower + 0.5 * np.eye(size))
