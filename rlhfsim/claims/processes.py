"""Instances of several steps, many at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.batches import Rows, betas, distributions, rewards, sorts
from rlhfsim.mdp import PrefixTree, token_policy
from rlhfsim.mdp.recursions import Levels, Transition

#: Steps of a sampled process.
HORIZON = 3

#: Numbers of responses, each with its vocabulary and length.
_SPLITS = {4: (2, 2), 8: (2, 3), 9: (3, 2), 16: (2, 4)}


@dataclass(frozen=True, eq=False)
class Batch:
    """N processes of the same shape as one (`rlhfsim.mdp.process.Process`), the first axis theirs.

    Its policies are those of the instances, valid as they are.
    """

    initial: FloatArray
    transitions: tuple[Transition, ...]
    reward: Levels
    reference: Levels
    available: tuple[BoolArray, ...] | None = None

    def mean(self, first: FloatArray) -> FloatArray:
        """Return the (N,) means over first states."""
        return np.asarray((self.initial * first).sum(axis=-1))

    def policy(self, name: str, policy: Any) -> Levels:
        """Return the arrays."""
        return tuple(policy)


@dataclass(frozen=True, eq=False)
class Processes(Rows):
    """N stochastic processes of `HORIZON` steps, with S states and A actions at each."""

    parametrization: ClassVar[dict[str, str]] = {
        "initial": "simplex", "transition": "simplex", "reference": "simplex",
        "policy": "simplex", "reward": "real", "reward_hat": "real", "beta": "positive",
    }  # fmt: skip

    initial: FloatArray  # (N, S)
    transition: FloatArray  # (N, H - 1, S, A, S)
    reference: FloatArray  # (N, H, S, A)
    policy: FloatArray  # (N, H, S, A)
    reward: FloatArray  # (N, H, S, A)
    reward_hat: FloatArray  # (N, H, S, A)
    beta: FloatArray  # (N,) positive

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances of 1 to 3 states and 2 to 3 actions."""
        sort, s, a = sorts(n, rng), int(rng.integers(1, 4)), int(rng.integers(2, 4))
        steps = (HORIZON, s, a)
        return cls(
            distributions(sort, (s,), rng),
            distributions(sort, (HORIZON - 1, s, a, s), rng),
            distributions(sort, steps, rng),
            distributions(sort, steps, rng),
            rewards(sort, steps, rng),
            rewards(sort, steps, rng),
            # A policy of mass exp(-range(r)/beta) is to stay within the floats.
            betas(sort, rng, least=0.5),
        )

    def levels(self, rows: FloatArray) -> Levels:
        """Return (N, H, ...) arrays as one array for each step."""
        return tuple(rows[:, h] for h in range(rows.shape[1]))

    def process(self, *, in_beta: bool = False, learned: bool = False) -> Batch:
        """Return the instances as one process, with rewards in units of beta if asked."""
        reward = self.reward_hat if learned else self.reward
        if in_beta:
            reward = reward / self.beta[:, None, None, None]
        moves = self.levels(self.transition)
        return Batch(self.initial, moves, self.levels(reward), self.levels(self.reference))

    def sizes(self) -> FloatArray:
        """Return the (N,) sums over steps of the largest rewards."""
        return np.asarray(np.abs(self.reward).max(axis=(2, 3)).sum(axis=1))


@dataclass(frozen=True, eq=False)
class Tokens(Rows):
    """N bandits of one prompt whose responses are all sequences of a length."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "simplex", "policy": "simplex", "reward": "real", "reward_hat": "real",
        "beta": "positive",
    }  # fmt: skip

    reference: FloatArray  # (N, Y)
    policy: FloatArray  # (N, Y)
    reward: FloatArray  # (N, Y)
    reward_hat: FloatArray  # (N, Y)
    probe: FloatArray  # (N, Y) in [1, 2]: policies are compared by its mean
    beta: FloatArray  # (N,) positive

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances of 4, 8, 9 or 16 responses."""
        sort, size = sorts(n, rng), int(rng.choice(list(_SPLITS)))
        shape = (size,)
        return cls(
            distributions(sort, shape, rng),
            distributions(sort, shape, rng),
            rewards(sort, shape, rng),
            rewards(sort, shape, rng),
            1.0 + rng.random((n, size)),
            betas(sort, rng, least=0.5),
        )

    def prefixes(self) -> PrefixTree:
        """Return the tree of the responses."""
        return full_tree(self.reference.shape[1])

    def split(self, rows: FloatArray) -> Levels:
        """Return laws of responses as next-token probabilities."""
        return token_policy(self.prefixes(), rows)

    def process(self, *, in_beta: bool = False, learned: bool = False) -> Batch:
        """Return the instances as one process, with rewards in units of beta if asked."""
        reward = self.reward_hat if learned else self.reward
        if in_beta:
            reward = reward / self.beta[:, None]
        tree = self.prefixes()
        start = np.ones((len(self), 1))
        moves = tree.children[:-1]
        return Batch(start, moves, tree.spread(reward), self.split(self.reference))


@cache
def full_tree(n_responses: int) -> PrefixTree:
    """Return the full tree with so many responses."""
    return PrefixTree.full(*_SPLITS[n_responses])


@dataclass(frozen=True, eq=False)
class Repeated(Rows):
    """N pairs of next-token distributions, the same at each of some steps."""

    parametrization: ClassVar[dict[str, str]] = {"policy": "simplex", "reference": "simplex"}

    policy: FloatArray  # (N, A)
    reference: FloatArray  # (N, A)
    steps: FloatArray  # (N,) whole numbers, from 1 to 6

    def valid(self) -> BoolArray:
        """Return whether the numbers of steps are whole and positive."""
        return np.asarray((self.steps >= 1) & (self.steps == np.floor(self.steps)))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances of 2 to 4 tokens."""
        sort, size = sorts(n, rng), int(rng.integers(2, 5))
        return cls(
            distributions(sort, (size,), rng),
            distributions(sort, (size,), rng),
            rng.integers(1, 7, size=n).astype(np.float64),
        )
