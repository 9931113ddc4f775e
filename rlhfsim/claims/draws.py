"""Instances of choosing among draws by a reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.batches import Rows, betas, distributions, rewards, sorts


@dataclass(frozen=True, eq=False)
class Draws(Rows):
    """N instances of choosing among n draws of a reference by a reward."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "simplex", "reward": "real", "temperature": "positive",
    }  # fmt: skip

    reference: FloatArray  # (N, Y)
    reward: FloatArray  # (N, Y)
    n: FloatArray  # (N,) whole numbers, at least 1
    temperature: FloatArray  # (N,) positive
    probe: FloatArray  # (N, Y) in [1, 2]: policies are compared by its mean

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances of 2 to 6 responses and 1 to 1000 draws."""
        sort, size = sorts(n, rng), int(rng.integers(2, 7))
        draws = np.floor(10.0 ** rng.uniform(0.0, 3.0, size=n))
        few = rng.integers(1, 5, size=n).astype(np.float64)
        return cls(
            distributions(sort, (size,), rng), rewards(sort, (size,), rng),
            np.where(rng.random(n) < 0.5, few, draws), betas(sort, rng),
            1.0 + rng.random((n, size)),
        )  # fmt: skip
