"""Instances of general preferences played as games."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.batches import ADVERSARIAL, STRUCTURED, Rows, betas, distributions, sorts


@dataclass(frozen=True, eq=False)
class Contests(Rows):
    """N games of one prompt each, with a reference, a policy, a strength and a number of rounds."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "simplex", "policy": "simplex", "wins": "unit", "beta": "positive",
        "step": "positive",
    }  # fmt: skip

    reference: FloatArray  # (N, Y) of full support
    policy: FloatArray  # (N, Y) of full support
    wins: FloatArray  # (N, Y (Y - 1) / 2): P(y beats y') for y < y', by rows
    beta: FloatArray  # (N,) positive
    step: FloatArray  # (N,) in (0, 1]: steps in units of 1/beta, or of nats
    rounds: FloatArray  # (N,) whole numbers from 1 to 12

    def valid(self) -> BoolArray:
        """Return whether supports are full, steps at most 1 and rounds whole."""
        full = (self.reference > 0).all(axis=1) & (self.policy > 0).all(axis=1)
        whole = (self.rounds >= 1) & (self.rounds == np.floor(self.rounds))
        return np.asarray(full & whole & (self.step <= 1.0))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random games of 2 to 5 responses, a third of them with sure wins and ties."""
        sort, size = sorts(n, rng), int(rng.integers(2, 6))
        pairs = (n, size * (size - 1) // 2)
        halves = rng.integers(0, 3, size=pairs) / 2.0
        sure = np.where(rng.random(pairs) < 0.5, 1.0, 0.0)
        wins = np.where(sort[:, None] == STRUCTURED, halves, rng.random(pairs))
        wins = np.where(sort[:, None] == ADVERSARIAL, sure, wins)
        return cls(
            distributions(sort, (size,), rng), distributions(sort, (size,), rng), wins,
            betas(sort, rng), rng.uniform(0.02, 1.0, size=n),
            rng.integers(1, 13, size=n).astype(np.float64),
        )  # fmt: skip


def skew_games(wins: FloatArray, size: int) -> FloatArray:
    """Return the (N, Y, Y) advantages `2 P - 1` of games whose pairs are given."""
    first, second = np.triu_indices(size, k=1)
    game = np.zeros((len(wins), size, size))
    game[:, first, second] = 2.0 * wins - 1.0
    game[:, second, first] = 1.0 - 2.0 * wins
    return game


def game_of(x: Contests) -> FloatArray:
    """Return the (N, Y, Y) advantages of the instances."""
    return skew_games(x.wins, x.reference.shape[1])


def contest(
    wins: list[float],
    reference: list[float] | FloatArray,
    *,
    policy: list[float] | FloatArray | None = None,
    beta: float = 1.0,
    step: float = 1.0,
    rounds: int = 1,
) -> Contests:
    """Return the batch of one instance; the policy is uniform unless it is given."""
    p = np.asarray(reference, dtype=np.float64)[None]
    pi = np.full_like(p, 1.0 / p.size) if policy is None else np.asarray(policy)[None]
    one = (np.array([v], dtype=np.float64) for v in (beta, step, rounds))
    return Contests(p, pi, np.array([wins], dtype=np.float64), *one)
