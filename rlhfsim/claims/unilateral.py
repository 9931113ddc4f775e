"""Games from data: estimates cost what coverage of one-sided deviations costs.

`l(y, pi) - l^(y, pi)` needs the pairs of `pi` with y, for every y, and no other pairs: unilateral
coverage.  The negative part, that covering `pi` alone is not enough, is in `claims.games`.

Source: arXiv 2407.13399 (general preferences); the constants are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Self

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.batches import Rows, distributions, sorts
from rlhfsim.claims.contests import skew_games
from rlhfsim.claims.statistical import RateClaim
from rlhfsim.data import PairCounts
from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.games import duality_gap, unilateral_concentrability
from rlhfsim.learners.base import Learner
from rlhfsim.learners.games import MinimaxWinner, RegularizedNash

_SOURCE = "arXiv 2407.13399, general preferences"


@dataclass(frozen=True, eq=False)
class Estimates(Rows):
    """N games of one prompt, estimates of them, and laws of the pairs that are compared."""

    parametrization: ClassVar[dict[str, str]] = {
        "policy": "simplex", "law": "simplex", "wins": "unit", "estimate": "unit",
    }  # fmt: skip

    policy: FloatArray  # (N, Y)
    law: FloatArray  # (N, Y (Y - 1) / 2) of the unordered pairs, of full support
    wins: FloatArray  # as law: P(y beats y') for y < y'
    estimate: FloatArray  # as wins

    def valid(self) -> BoolArray:
        """Return whether every pair is compared."""
        return np.asarray((self.law > 0).all(axis=1))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances of 3 to 5 responses."""
        sort, size = sorts(n, rng), int(rng.integers(3, 6))
        pairs = size * (size - 1) // 2
        wins = rng.random((n, pairs))
        error = rng.normal(size=wins.shape) * 10.0 ** -rng.uniform(0.0, 4.0, size=(n, 1))
        return cls(
            distributions(sort, (size,), rng), distributions(sort, (pairs,), rng), wins,
            np.clip(wins + error, 0.0, 1.0),
        )  # fmt: skip


def _size(x: Estimates) -> int:
    return x.policy.shape[1]


def _ordered(x: Estimates) -> FloatArray:
    """Return the (N, Y, Y) laws, each pair in its first order."""
    first, second = np.triu_indices(_size(x), k=1)
    law = np.zeros((len(x), _size(x), _size(x)))
    law[:, first, second] = x.law
    return law


def _lost(x: Estimates) -> FloatArray:
    """`DG(pi) - DG^(pi)`."""
    true = duality_gap(x.policy, skew_games(x.wins, _size(x)))
    return np.asarray(true - duality_gap(x.policy, skew_games(x.estimate, _size(x))))


def _cost(x: Estimates) -> FloatArray:
    """`sqrt(2 C) eps`, with `eps^2 = E_mu[(l - l^)^2]`."""
    error = (x.law * (2.0 * x.wins - 2.0 * x.estimate) ** 2).sum(axis=1)
    return np.asarray(np.sqrt(2.0 * unilateral_concentrability(x.policy, _ordered(x)) * error))


def _one_pair() -> Estimates:
    """Return an estimate that is wrong about the rarest pair of a sure response."""
    return Estimates(
        np.array([[1.0, 0.0, 0.0]]), np.array([[0.2, 0.3, 0.5]]),
        np.array([[0.3, 0.5, 0.5]]), np.array([[0.5, 0.5, 0.5]]),
    )  # fmt: skip


# ---- learning from n comparisons -----------------------------------------------------------------

#: Rock, paper, scissors with unequal stakes, and two responses that lose to all of them.
_STAKES = (0.9, 0.7, 0.6)
_LOSING = 0.3


@cache
def covered_game() -> tuple[FloatArray, FloatArray]:
    """Return the (5, 5) probabilities of a game, and a law of pairs that covers unilaterally.

    The minimax winner mixes the first three responses; the pair of the last two, of which one
    surely beats the other, is never compared.
    """
    wins = np.full((5, 5), 0.5)
    for (y, z), share in zip(((0, 1), (1, 2), (2, 0)), _STAKES, strict=True):
        wins[y, z], wins[z, y] = share, 1.0 - share
    wins[:3, 3:], wins[3:, :3] = 1.0 - _LOSING, _LOSING
    wins[3, 4], wins[4, 3] = 1.0, 0.0
    law = np.triu(np.full((5, 5), 1.0 / 9.0), k=1)
    law[3, 4] = 0.0
    return wins, law


def comparisons(wins: FloatArray, law: FloatArray, n: int, rng: np.random.Generator) -> PairCounts:
    """Return n comparisons of one prompt's responses, of pairs drawn from `law`."""
    size = len(wins)
    drawn = rng.multinomial(n, law.reshape(-1)).reshape(law.shape)
    first = rng.binomial(drawn, wins)
    count = np.where(np.eye(size, dtype=np.bool_), 0, first + (drawn - first).T)
    winner, loser = np.nonzero(count)
    return PairCounts(
        np.zeros_like(winner), winner, loser, count[winner, loser].astype(np.float64), 0.0,
        (1, size),
    )  # fmt: skip


def _learned_gap(learner: Learner, n: float, rng: np.random.Generator) -> float:
    wins, law = covered_game()
    policy = learner.fit(comparisons(wins, law, int(n), rng), np.full((1, 5), 0.2)).policy
    return float(duality_gap(policy, 2.0 * wins[None] - 1.0)[0])


def _winner_gap(n: float, rng: np.random.Generator) -> float:
    return _learned_gap(MinimaxWinner(), n, rng)


def _regularized_gap(n: float, rng: np.random.Generator) -> float:
    learner = RegularizedNash(1.0 / np.sqrt(n), ChiSquared() + KL())
    return _learned_gap(learner, n, rng)


_SIZES = (1e3, 3e3, 1e4, 3e4, 1e5)

UNILATERAL_CLAIMS: tuple[Claim[Estimates] | RateClaim, ...] = (
    Claim[Estimates](
        "unilateral coverage",
        "DG(pi; l) <= DG(pi; l^) + sqrt(2 C) eps, C unilateral, eps^2 = E_mu[(l - l^)^2]",
        f"{_SOURCE}; constant derived",
        "tight",
        _lost,
        _cost,
        _one_pair,
    ),
    RateClaim(
        name="minimax winner from unilateral data",
        formula="DG(minimax winner of l^) ~ n^(-1/2), one pair of losing responses never compared",
        source=f"{_SOURCE}; measured",
        exponent=-0.5,
        measure=_winner_gap,
        sizes=_SIZES,
        replications=25,
    ),
    RateClaim(
        name="iterative chiPO from unilateral data",
        formula="DG(chi-squared + KL Nash of l^, beta = n^(-1/2)) ~ n^(-1/2), the limit of "
        "iterative chiPO",
        source=f"{_SOURCE}; measured",
        exponent=-0.5,
        measure=_regularized_gap,
        sizes=_SIZES,
        replications=25,
    ),
)
