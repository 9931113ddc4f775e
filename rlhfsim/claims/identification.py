"""What comparisons identify: when the Bradley-Terry estimate exists, and what it solves.

Source: Ford 1957; Zermelo 1929 (the likelihood equations).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from scipy.special import expit, log_expit

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.batches import Rows
from rlhfsim.data import PairCounts
from rlhfsim.rewards import Tabular, fit_reward, mle_exists


@dataclass(frozen=True, eq=False)
class Tournaments(Rows):
    """N tables of wins among Y responses of one prompt each."""

    parametrization: ClassVar[dict[str, str]] = {"rival": "real"}

    wins: IntArray  # (N, Y, Y): how often y beat z; not all 0
    rival: FloatArray  # (N, Y): a reward to compare the estimate with

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random tables of 2 to 5 responses: full, sparse, and nearly a ranking."""
        size = int(rng.integers(2, 6))
        kind = rng.integers(0, 3, size=(n, 1, 1))
        full = rng.integers(0, 6, size=(n, size, size))
        sparse = full * (rng.random((n, size, size)) < 0.4)
        upsets = rng.random((n, size, size)) < 0.15
        ranked = np.where(np.triu(np.ones((size, size), dtype=np.bool_), 1) | upsets, full, 0)
        wins = np.choose(kind, [full, sparse, ranked]) * (1 - np.eye(size, dtype=np.int64))
        wins[:, 0, 1] += wins.sum(axis=(1, 2)) == 0
        return cls(wins, 10.0 ** rng.uniform(-2.0, 1.0, (n, 1)) * rng.standard_normal((n, size)))

    @cached_property
    def exists(self) -> BoolArray:
        """Return whether the library says that the estimate exists."""
        return mle_exists(counts(self.wins))

    @cached_property
    def estimate(self) -> FloatArray:
        """Return the (N, Y) maximum likelihood rewards, 0 where there are none."""
        reward = np.zeros(self.wins.shape[:2])
        if self.exists.any():
            reward[self.exists] = fit_reward(counts(self.wins[self.exists]), Tabular()).reward
        return reward


def counts(wins: IntArray) -> PairCounts:
    """Return the counts of an (N, Y, Y) table, an instance a prompt."""
    prompt, winner, loser = np.nonzero(wins)
    count = wins[prompt, winner, loser].astype(np.float64)
    return PairCounts(prompt, winner, loser, count, 0.0, wins.shape[:2])


def every_side_wins(wins: IntArray) -> BoolArray:
    """Return whether, however the compared responses are split in two, each side wins once."""
    compared = (wins + np.swapaxes(wins, 1, 2)).sum(axis=2) > 0
    result, size = compared.any(axis=1), wins.shape[1]
    for chosen in itertools.product((False, True), repeat=size):
        side = np.array(chosen)
        inside, outside = compared & side, compared & ~side
        crossing = (wins * (inside[:, :, None] & outside[:, None, :])).sum(axis=(1, 2)) > 0
        proper = inside.any(axis=1) & outside.any(axis=1)
        result &= crossing | ~proper
    return np.asarray(result)


def _won(x: Tournaments, response: int = 0) -> FloatArray:
    """Return the wins of a response, where the estimate exists, plus 1."""
    return 1.0 + np.where(x.exists, x.wins[:, response].sum(axis=1), 0.0)


def _expected(x: Tournaments, response: int = 0) -> FloatArray:
    """Return the wins that the estimate expects of a response in the same comparisons, plus 1."""
    met = (x.wins + np.swapaxes(x.wins, 1, 2))[:, response]
    chance = expit(x.estimate[:, response, None] - x.estimate)
    return 1.0 + np.where(x.exists, (met * chance).sum(axis=1), 0.0)


def _cost(x: Tournaments, reward: FloatArray) -> FloatArray:
    """Negative log-likelihood, where the estimate exists."""
    gap = reward[:, :, None] - reward[:, None, :]
    return np.where(x.exists, -(x.wins * log_expit(gap)).sum(axis=(1, 2)), 0.0)


def _drifted(x: Tournaments) -> FloatArray:
    """Largest negative log-likelihood after raising a side that never loses by 1 from the rival.

    A side is some, but not all, responses; 0 where every side loses.
    """
    size, worst = x.wins.shape[1], np.zeros(len(x))
    for chosen in itertools.product((0.0, 1.0), repeat=size):
        side = np.array(chosen)
        lost = (x.wins * ((side == 0)[:, None] & (side == 1)[None, :])).sum(axis=(1, 2))
        if 0 < side.sum() < size:
            raised = _plain_cost(x, x.rival + side)
            worst = np.where(lost == 0, np.maximum(worst, raised), worst)
    return worst


def _plain_cost(x: Tournaments, reward: FloatArray) -> FloatArray:
    gap = reward[:, :, None] - reward[:, None, :]
    return -np.asarray((x.wins * log_expit(gap)).sum(axis=(1, 2)))


def _indicator(holds: BoolArray) -> FloatArray:
    return np.asarray(holds, dtype=np.float64)


def _count_rounding(x: Tournaments) -> FloatArray:
    return 8.0 * RESOLUTION * (1.0 + x.wins.sum(axis=(1, 2)))


def _cost_rounding(x: Tournaments) -> FloatArray:
    return RESOLUTION * x.wins.sum(axis=(1, 2)) * (1.0 + np.ptp(x.rival, axis=1))


def _cycle() -> Tournaments:
    wins = np.array([[[0, 3, 1], [1, 0, 2], [2, 1, 0]]])
    x = Tournaments(wins, np.zeros((1, 3)))
    return Tournaments(wins, x.estimate)


def _separated() -> Tournaments:
    """Let response 0 never lose; the rival has raised it so far that 1 more changes little."""
    wins = np.array([[[0, 1, 1], [0, 0, 2], [0, 1, 0]]])
    return Tournaments(wins, np.array([[40.0, 0.0, 0.0]]))


IDENTIFICATION_CLAIMS: tuple[Claim[Tournaments], ...] = (
    Claim[Tournaments](
        "existence of the Bradley-Terry estimate",
        "1[it exists] = 1[every split of the compared responses has wins both ways]",
        "Ford 1957",
        "identity",
        lambda x: _indicator(x.exists),
        lambda x: _indicator(every_side_wins(x.wins)),
        _cycle,
    ),
    Claim[Tournaments](
        "likelihood equations of Bradley-Terry",
        "wins of y = sum_z (comparisons of y and z) sigma(r^(y) - r^(z)), if the estimate exists",
        "Zermelo 1929",
        "identity",
        _won,
        _expected,
        _cycle,
        _count_rounding,
    ),
    Claim[Tournaments](
        "Bradley-Terry estimate is the likeliest",
        "-log L(r^) <= -log L(r), if the estimate exists",
        "Zermelo 1929",
        "upper",
        lambda x: _cost(x, x.estimate),
        lambda x: _cost(x, x.rival),
        _cycle,
        _cost_rounding,
    ),
    Claim[Tournaments](
        "a side that never loses can be raised",
        "-log L(r + 1 on a side that never loses) <= -log L(r)",
        "Ford 1957",
        "upper",
        _drifted,
        lambda x: _plain_cost(x, x.rival),
        _separated,
        _cost_rounding,
    ),
    Claim[Tournaments](
        "every table has a Bradley-Terry estimate",
        "1 <= 1[the estimate exists]",
        "refuted in Ford 1957",
        "false",
        lambda x: np.ones(len(x)),
        lambda x: _indicator(x.exists),
        _separated,
    ),
)
