"""Minimax winners and regularized Nash policies: what they are sure of, and what they cost.

Source: von Neumann 1928; arXiv 2312.00886 (regularized Nash); constants and proofs are ours.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.batches import average
from rlhfsim.claims.comparisons import Comparisons
from rlhfsim.claims.contests import Contests, contest, game_of
from rlhfsim.divergences import KL
from rlhfsim.games import duality_gap, minimax_winner, regularized_gap, solve_nash
from rlhfsim.preferences import BradleyTerry

_SOURCE = "arXiv 2312.00886"

#: Rock beats scissors beats paper: P(0 beats 1), P(0 beats 2), P(1 beats 2).
_CYCLE = [0.9, 0.2, 0.75]


def _nash(x: Contests) -> FloatArray:
    return solve_nash(game_of(x), x.reference, KL(), x.beta).policy


def _winner(x: Contests) -> FloatArray:
    return minimax_winner(game_of(x)).policy


def _wins_against_winner(x: Contests) -> FloatArray:
    """`P(pi beats pi*)`."""
    against = (game_of(x) * _winner(x)[:, None, :]).sum(axis=-1)
    return 0.5 + 0.5 * average(x.policy, against)


def _from_ratios(x: Contests) -> FloatArray:
    """`2 beta (max_y log(pi_beta/p) - KL(pi_beta || p))`."""
    policy = _nash(x)
    with np.errstate(divide="ignore", under="ignore"):
        ratio = np.log((policy / x.reference).max(axis=1))
    return np.asarray(2.0 * x.beta * (ratio - KL().per_prompt(policy, x.reference)))


def _strength(x: Contests) -> FloatArray:
    return RESOLUTION * (1.0 + x.beta)


def _best_reward(x: Comparisons) -> FloatArray:
    """`E_{pi*}[r]` of the minimax winner of Bradley-Terry preferences."""
    return average(minimax_winner(BradleyTerry(x.reward)).policy, x.reward)


def _rewarded() -> Comparisons:
    half = np.full((1, 3, 3), 0.5)
    return Comparisons(
        np.array([[0.3, -1.2, 2.0]]), half, np.full((1, 3), 1.0 / 3.0), np.zeros(1, dtype=np.int64)
    )


def _rare() -> Contests:
    """Return a response that surely wins and that the reference hardly has."""
    return contest([1.0], [1e-12, 1.0 - 1e-12], beta=0.04)


def _cyclic(beta: float) -> Contests:
    return contest(_CYCLE, [0.6, 0.3, 0.1], policy=[0.2, 0.5, 0.3], beta=beta)


def _pair() -> Contests:
    return contest([0.9], [0.3, 0.7], policy=[0.8, 0.2], beta=0.5)


MINIMAX_CLAIMS: tuple[Claim[Contests] | Claim[Comparisons], ...] = (
    Claim[Contests](
        "no policy beats a minimax winner",
        "P(pi beats pi*) <= 1/2 for every pi",
        "von Neumann 1928; arXiv 2312.00886",
        "tight",
        _wins_against_winner,
        lambda x: np.full(len(x), 0.5),
        lambda: _cyclic(1.0),
        most_instances=100,
    ),
    Claim[Comparisons](
        "minimax winner of Bradley-Terry",
        "E_{pi*}[r] = max_y r(y): of preferences by rewards the best response is the winner",
        "derived; arXiv 2312.00886",
        "identity",
        _best_reward,
        lambda x: x.reward.max(axis=1),
        _rewarded,
        most_instances=300,
    ),
    Claim[Contests](
        "winners are farther than regularized Nash",
        "KL(pi_beta || p) <= KL(pi* || p) for every minimax winner and every beta",
        "derived",
        "tight",
        lambda x: KL().per_prompt(_nash(x), x.reference),
        lambda x: KL().per_prompt(_winner(x), x.reference),
        lambda: _cyclic(1e-5),
        resolution=_strength,
        most_instances=100,
    ),
    Claim[Contests](
        "bias of regularized Nash",
        "DG(pi_beta) = 2 beta (max_y log(pi_beta/p) - KL(pi_beta || p))",
        f"derived; {_SOURCE}",
        "identity",
        lambda x: duality_gap(_nash(x), game_of(x)),
        _from_ratios,
        lambda: _cyclic(0.2),
        resolution=_strength,
    ),
    Claim[Contests](
        "bias of regularized Nash, at most",
        "DG(pi_beta) <= 2 beta log(1/min_y p)",
        f"derived; {_SOURCE}",
        "upper",
        lambda x: duality_gap(_nash(x), game_of(x)),
        lambda x: 2.0 * x.beta * np.log(1.0 / x.reference.min(axis=1)),
        _rare,
        resolution=_strength,
    ),
    Claim[Contests](
        "distance from regularized Nash",
        "2 beta KL(pi || pi_beta) <= DG_beta(pi), the gap of the regularized game",
        f"derived; {_SOURCE} (uniqueness)",
        "tight",
        lambda x: 2.0 * x.beta * KL().per_prompt(x.policy, _nash(x)),
        lambda x: regularized_gap(x.policy, game_of(x), x.reference, KL(), x.beta),
        _pair,
        resolution=lambda x: 64.0 * RESOLUTION * (1.0 + x.beta),
    ),
)
