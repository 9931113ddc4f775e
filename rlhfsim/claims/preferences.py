"""Winners, transitivity and scores of preferences, under Bradley-Terry and without it.

Statements of the kind "X is the winner" have sides that are 1 where true and 0 where not.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.batches import average
from rlhfsim.claims.comparisons import RATES, Comparisons
from rlhfsim.preferences import (
    BradleyTerry,
    GeneralPreference,
    LabelNoise,
    borda_scores,
    borda_winners,
    condorcet_paradox,
    condorcet_winner,
    copeland_scores,
    copeland_winners,
    cyclic_preference,
)

ComparisonsClaim = Claim[Comparisons]


def _comparisons(
    reward: list[float], probabilities: FloatArray | None = None, noise: int = 0
) -> Comparisons:
    r, size = np.array([reward]), len(reward)
    table = BradleyTerry(r).tensor() if probabilities is None else probabilities
    return Comparisons(r, table, np.full((1, size), 1.0 / size), np.array([noise]))


def _cycle() -> Comparisons:
    return _comparisons([0.0, 0.0, 0.0], cyclic_preference(3, 0.25).tensor())


def _raters() -> Comparisons:
    """Three Bradley-Terry raters whose majority is cyclic."""
    return _comparisons([0.0, 0.0, 0.0], condorcet_paradox().tensor())


def _narrow_winner() -> Comparisons:
    """Response 0 beats both others narrowly; 1 beats 2 surely, and has the best average."""
    table = np.array([[[0.5, 0.51, 0.51], [0.49, 0.5, 1.0], [0.49, 0.0, 0.5]]])
    return _comparisons([0.0, 0.0, 0.0], table)


def _ranked() -> Comparisons:
    return _comparisons([1.0, 0.0, 2.0, 0.5], noise=2)


def _tied() -> Comparisons:
    return _comparisons([0.0, 1.0, 1.0])


# ---- sides ---------------------------------------------------------------------------------------


def general(x: Comparisons) -> GeneralPreference:
    """Return the general preferences, the instances as prompts."""
    return GeneralPreference(x.probabilities)


def bradley_terry(x: Comparisons) -> GeneralPreference:
    """Return the table of the Bradley-Terry probabilities: who wins is read off it."""
    return GeneralPreference(BradleyTerry(x.reward).tensor())


def _ones(x: Comparisons) -> FloatArray:
    return np.ones(len(x))


def _indicator(holds: BoolArray) -> FloatArray:
    return np.asarray(holds, dtype=np.float64)


def _best_is_the_winner(x: Comparisons) -> FloatArray:
    """1 where the winner is the unique argmax, or there is neither."""
    top = x.reward == x.reward.max(axis=1, keepdims=True)
    argmax = np.where(top.sum(axis=1) == 1, top.argmax(axis=1), -1)
    return _indicator(condorcet_winner(bradley_terry(x)) == argmax)


def _has_winner(x: Comparisons) -> FloatArray:
    return _indicator(condorcet_winner(general(x)) >= 0)


def _winner_alone(x: Comparisons, winners: BoolArray) -> FloatArray:
    """1 where there is no Condorcet winner, or it is the only one of `winners`."""
    winner = condorcet_winner(general(x))
    alone = np.arange(x.reward.shape[1]) == winner[:, None]
    return _indicator((winner < 0) | (winners == alone).all(axis=1))


def _noisy_winner(x: Comparisons) -> FloatArray:
    """1 where label noise keeps the Condorcet winner, or that there is none."""
    clean, kept = condorcet_winner(general(x)), np.ones(len(x), dtype=np.bool_)
    for number, rate in enumerate(RATES):
        rows = x.noise == number
        if rows.any():
            noisy = LabelNoise(GeneralPreference(x.probabilities[rows]), rate)
            kept[rows] = condorcet_winner(noisy) == clean[rows]
    return _indicator(kept)


def _noisy_tensor(x: Comparisons) -> FloatArray:
    """(N, Y, Y) probabilities of noisy Bradley-Terry labels."""
    rate = np.array(RATES)[x.noise][:, None, None]
    table = BradleyTerry(x.reward).tensor()
    return np.asarray((1.0 - rate) * table + rate * np.swapaxes(table, 1, 2))


def intransitivity(table: FloatArray) -> FloatArray:
    """Return the largest `max(P_ab, P_bc)/P_ac` of distinct a, b, c with `P_ab, P_bc >= 1/2`."""
    size = table.shape[1]
    ab, bc, ac = table[:, :, :, None], table[:, None, :, :], table[:, :, None, :]
    a, b, c = np.ix_(*[np.arange(size)] * 3)
    counts = (ab >= 0.5) & (bc >= 0.5) & (a != b) & (b != c) & (a != c)
    floor = np.maximum(ac, 1e-300)
    ratio = np.where(counts, np.maximum(ab, bc) / floor, 0.0)
    return np.asarray(ratio.max(axis=(1, 2, 3)))


def _round_trip(table: FloatArray, *, back: bool = False) -> FloatArray:
    """`P_01 P_12 P_20`, or the other way round the triple."""
    i, j = ([1, 2, 0], [0, 1, 2]) if back else ([0, 1, 2], [1, 2, 0])
    return np.asarray(table[:, i, j].prod(axis=1))


def _score(x: Comparisons, *, of_argmax: bool) -> FloatArray:
    """Borda score, against the opponents, of the argmax of the reward or of the best."""
    scores = borda_scores(BradleyTerry(x.reward), x.opponents)
    best = np.take_along_axis(scores, x.reward.argmax(axis=1)[:, None], axis=1)[:, 0]
    return best if of_argmax else np.asarray(scores.max(axis=1))


# ---- the list ------------------------------------------------------------------------------------

PREFERENCE_CLAIMS: tuple[ComparisonsClaim, ...] = (
    ComparisonsClaim(
        "Bradley-Terry has the argmax as Condorcet winner",
        "1[Condorcet winner = argmax r, or no winner and a tied argmax] = 1",
        "Bradley & Terry 1952",
        "identity",
        _best_is_the_winner,
        _ones,
        _tied,
    ),
    ComparisonsClaim(
        "every preference has a Condorcet winner",
        "1 <= 1[some response beats all others]",
        "Condorcet 1785 (refuted there)",
        "false",
        _ones,
        _has_winner,
        _cycle,
    ),
    ComparisonsClaim(
        "a majority of Bradley-Terry raters is transitive",
        "P_ab, P_bc >= 1/2 imply P_ac >= max(P_ab, P_bc)",
        "Condorcet 1785 (refuted there)",
        "false",
        lambda x: intransitivity(x.probabilities),
        _ones,
        _raters,
    ),
    ComparisonsClaim(
        "Bradley-Terry is strongly transitive",
        "P_ab, P_bc >= 1/2 imply P_ac >= max(P_ab, P_bc)",
        "Tversky 1969",
        "upper",
        lambda x: intransitivity(BradleyTerry(x.reward).tensor()),
        _ones,
        _tied,
    ),
    ComparisonsClaim(
        "noisy Bradley-Terry is strongly transitive",
        "(1 - rate) P + rate P^T: as without noise",
        "arXiv 2403.00409 (the noise)",
        "upper",
        lambda x: intransitivity(_noisy_tensor(x)),
        _ones,
        _tied,
        # Probabilities near 1/2, the smaller of a pair from the larger.
        lambda x: np.full(len(x), 2 * RESOLUTION),
    ),
    ComparisonsClaim(
        "product rule",
        "P_ab P_bc P_ca = P_ba P_cb P_ac under Bradley-Terry",
        "Luce 1959",
        "identity",
        lambda x: _round_trip(BradleyTerry(x.reward).tensor()),
        lambda x: _round_trip(BradleyTerry(x.reward).tensor(), back=True),
        _ranked,
        # The relative rounding of the exponentials is that of the gaps.
        lambda x: (
            RESOLUTION
            * np.ptp(x.reward, axis=1)
            * _round_trip(BradleyTerry(x.reward).tensor(), back=True)
        ),
    ),
    ComparisonsClaim(
        "product rule of any preference",
        "P_ab P_bc P_ca <= P_ba P_cb P_ac",
        "Luce 1959, without its assumption",
        "false",
        lambda x: _round_trip(x.probabilities),
        lambda x: _round_trip(x.probabilities, back=True),
        _cycle,
    ),
    ComparisonsClaim(
        "the Condorcet winner wins Copeland",
        "1[no Condorcet winner, or it is the only Copeland winner] = 1",
        "Copeland 1951",
        "identity",
        lambda x: _winner_alone(x, copeland_winners(general(x))),
        _ones,
        _narrow_winner,
    ),
    ComparisonsClaim(
        "the Condorcet winner wins Borda",
        "1 <= 1[no Condorcet winner, or it is the only Borda winner]",
        "Borda 1784, read as Condorcet's rule",
        "false",
        _ones,
        lambda x: _winner_alone(x, borda_winners(general(x))),
        _narrow_winner,
    ),
    ComparisonsClaim(
        "Bradley-Terry has the argmax as Borda winner",
        "max_y B(y) = B(argmax r), B the win rate against any policy",
        "arXiv 2312.00886 (Borda against a policy)",
        "identity",
        lambda x: _score(x, of_argmax=False),
        lambda x: _score(x, of_argmax=True),
        _ranked,
    ),
    ComparisonsClaim(
        "noise keeps the Condorcet winner",
        "1[Condorcet winner with labels flipped at a rate below 1/2 = without] = 1",
        "arXiv 2403.00409 (the noise)",
        "identity",
        _noisy_winner,
        _ones,
        _ranked,
    ),
    ComparisonsClaim(
        "a policy against itself",
        "E_{y ~ q}[B_q(y)] = 1/2",
        "arXiv 2312.00886",
        "identity",
        lambda x: average(x.opponents, borda_scores(general(x), x.opponents)),
        lambda x: np.full(len(x), 0.5),
        _narrow_winner,
    ),
    ComparisonsClaim(
        "sum of Copeland scores",
        "sum_y Copeland(y) = Y (Y - 1)/2",
        "Copeland 1951",
        "identity",
        lambda x: np.asarray(copeland_scores(general(x)).sum(axis=1)),
        lambda x: np.full(len(x), x.reward.shape[1] * (x.reward.shape[1] - 1) / 2.0),
        _ranked,
    ),
)
