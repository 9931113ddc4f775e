"""Preferences as games: the duality gap, and why covering one policy does not bound it.

`l(y, z) = 2 P(y beats z) - 1` is skew-symmetric, and a minimax winner is a policy that no response
beats on average.  Data whose two responses come from a reference that covers a minimax winner (so
that its single-policy concentrability is finite) say nothing about how the winner fares against
responses that the reference lacks; covering those pairs too is *unilateral* coverage.

Source: arXiv 2407.13399, general preferences; the three games are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.batches import Rows, distributions, sorts
from rlhfsim.games.game import deviation_gap

#: Games on responses a, b, c.  In all of them a and b tie, which is all that pairs drawn from the
#: reference (1/2, 1/2, 0) can show, and a minimax winner of concentrability at most 2 lies on a
#: and b: a where c beats b alone, b where c beats a alone, either where both beat c.
GAMES: FloatArray = np.array(
    [
        [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[0, 0, -1], [0, 0, 0], [1, 0, 0]],
        [[0, 0, 1], [0, 0, 1], [-1, -1, 0]],
    ],
    dtype=np.float64,
)


@dataclass(frozen=True, eq=False)
class Mixtures(Rows):
    """N policies over the three responses, and a game of their own for each."""

    parametrization: ClassVar[dict[str, str]] = {"policy": "simplex", "advantage": "real"}

    policy: FloatArray  # (N, 3)
    advantage: FloatArray  # (N, 3): l(a, b), l(b, c) and l(c, a), any numbers

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random policies and games, cyclic ones among them."""
        sort = sorts(n, rng)
        cyclic = rng.random((n, 1)) < 0.5
        advantage = rng.uniform(-1.0, 1.0, size=(n, 3))
        return cls(distributions(sort, (3,), rng), np.where(cyclic, np.abs(advantage), advantage))


def skew(advantage: FloatArray) -> FloatArray:
    """Return the (N, 3, 3) games of the advantages."""
    game = np.zeros((len(advantage), 3, 3))
    for k, (y, z) in enumerate(((0, 1), (1, 2), (2, 0))):
        game[:, y, z], game[:, z, y] = advantage[:, k], -advantage[:, k]
    return game


def _worst_gap(x: Mixtures) -> FloatArray:
    return np.max([deviation_gap(x.policy, game) for game in GAMES], axis=0)


def _uniform() -> Mixtures:
    return Mixtures(np.full((1, 3), 1.0 / 3.0), np.array([[0.5, -0.25, 0.75]]))


GAME_CLAIMS = (
    Claim(
        "duality gap of a symmetric game",
        "max_y l(y, pi) - min_y l(pi, y) = 2 max_y l(y, pi)",
        "derived: l is skew-symmetric (arXiv 2404.03715)",
        "identity",
        lambda x: deviation_gap(x.policy, skew(x.advantage)),
        lambda x: 2.0 * (skew(x.advantage) * x.policy[:, None, :]).sum(axis=-1).max(axis=-1),
        _uniform,
    ),
    Claim(
        "single-policy coverage is not enough in games",
        "max of DG(pi) over 3 games with the same data and C^{pi_MW} <= 2 >= 2/3",
        "arXiv 2407.13399, general preferences",
        "lower",
        _worst_gap,
        lambda x: np.full(len(x), 2.0 / 3.0),
        _uniform,
    ),
)
