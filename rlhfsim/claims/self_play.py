"""Self-play: the gap of the average policy, and why its constant is a third of the usual one.

Advantages of a policy against itself are not arbitrary numbers in [-1, 1]: as the scores of a
tournament (Landau 1953) they are majorised by those of a total order, which are uniform on
[-1, 1].  Every convex function of them therefore has at most the mean that it has under that law:
`E_pi[(l pi)^2] <= 1/3` and `E_pi[e^{eta l pi}] <= sinh(eta)/eta <= e^{eta^2/6}`, where Hoeffding's
lemma gives `e^{eta^2/2}`.

Source: arXiv 2401.04056 and 2404.03715 (self-play with l(., pi_t) as reward); the constants are
ours.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.batches import average
from rlhfsim.claims.contests import Contests, contest, game_of, skew_games
from rlhfsim.claims.statistical import RateClaim
from rlhfsim.games import sampled_self_play, self_play
from rlhfsim.games.iterations import default_step
from rlhfsim.preferences import GeneralPreference

_SOURCE = "arXiv 2404.03715; arXiv 2401.04056"

#: Responses of the total order at which the bounds are nearly attained.
_MANY = 80

#: Sampled runs of which the mean is taken.
_RUNS = 200


def _advantages(x: Contests) -> FloatArray:
    return np.asarray((game_of(x) * x.policy[:, None, :]).sum(axis=-1))


def _log_moment(x: Contests) -> FloatArray:
    """`log E_pi e^{beta l pi}`."""
    scaled = x.beta[:, None] * _advantages(x)
    top = scaled.max(axis=1)
    with np.errstate(under="ignore"):
        return np.asarray(top + np.log(average(x.policy, np.exp(scaled - top[:, None]))))


def _log_sinhc(eta: FloatArray) -> FloatArray:
    """`log(sinh(eta)/eta)`."""
    with np.errstate(under="ignore"):
        return np.asarray(eta + np.log(-np.expm1(-2.0 * eta) / (2.0 * eta)))


def _average_gap(x: Contests) -> FloatArray:
    """`DG` of the average of the policies of T rounds."""
    game, result = game_of(x), np.empty(len(x))
    for rounds in np.unique(x.rounds):
        some = x.rounds == rounds
        trace = self_play(game[some], x.reference[some], int(rounds), step=x.step[some])
        result[some] = trace.average_gap[-2]
    return result


def _gap_bound(x: Contests) -> FloatArray:
    """`2 log(1/min p)/(eta T) + eta/3`."""
    far = -np.log(x.reference.min(axis=1))
    return np.asarray(2.0 * far / (x.step * x.rounds) + x.step / 3.0)


def _order() -> Contests:
    """Return a total order, and strengths of 1."""
    pairs = _MANY * (_MANY - 1) // 2
    return contest([1.0] * pairs, np.full(_MANY, 1.0 / _MANY), beta=1.0)


def _sure() -> Contests:
    """Return two responses, one of which surely wins."""
    return contest([1.0], [0.5, 0.5], step=0.05, rounds=200)


def _sure_gap(rounds: float, _: np.random.Generator) -> float:
    trace = self_play(skew_games(np.ones((1, 1)), 2)[0], [0.5, 0.5], int(rounds))
    return float(trace.average_gap[-2])


def _sampled_gap(rounds: float, rng: np.random.Generator) -> float:
    """Return the mean gap of averages, over runs in which an advantage is one labelled comparison.

    The runs are prompts with the same game.
    """
    game = np.repeat(skew_games(np.array([[0.9, 0.2, 0.75]]), 3), _RUNS, axis=0)
    p = np.full((_RUNS, 3), 1.0 / 3.0)
    trace = sampled_self_play(GeneralPreference(0.5 + 0.5 * game), p, int(rounds), 1, rng)
    return float(trace.average_gap[-2].mean())


def _best_bound(rounds: float) -> float:
    """`sqrt(8 log(2) / (3 T))`, the bound at the default step, for two responses."""
    step = default_step(2, int(rounds))
    return float(2.0 * np.log(2.0) / (step * rounds) + step / 3.0)


SELF_PLAY_CLAIMS: tuple[Claim[Contests] | RateClaim, ...] = (
    Claim[Contests](
        "spread of advantages",
        "E_{y ~ pi}[l(y, pi)^2] <= 1/3",
        "derived; Landau 1953",
        "tight",
        lambda x: average(x.policy, _advantages(x) ** 2),
        lambda x: np.full(len(x), 1.0 / 3.0),
        _order,
    ),
    Claim[Contests](
        "moments of advantages",
        "log E_{y ~ pi}[e^{eta l(y, pi)}] <= log(sinh(eta)/eta) <= eta^2/6",
        "derived; Landau 1953",
        "tight",
        _log_moment,
        lambda x: _log_sinhc(x.beta),
        _order,
        resolution=lambda x: RESOLUTION * (1.0 + x.beta),
    ),
    Claim[Contests](
        "self-play gap",
        "DG(average of T policies) <= 2 log(1/min p)/(eta T) + eta/3",
        f"{_SOURCE}; constant derived",
        "upper",
        _average_gap,
        _gap_bound,
        _sure,
        most_instances=400,
    ),
    RateClaim(
        name="self-play gap falls like 1/sqrt(T)",
        formula="DG(average of T policies) ~ T^(-1/2) at eta = sqrt(6 log(Y)/T), in a game with "
        "a sure winner",
        source=f"{_SOURCE}; measured",
        exponent=-0.5,
        measure=_sure_gap,
        sizes=(100.0, 200.0, 400.0, 800.0, 1600.0),
        variable="T",
        ceiling=_best_bound,
        floor=lambda t: 0.49 * _best_bound(t),
    ),
    RateClaim(
        name="sampled self-play gap falls like 1/sqrt(T)",
        formula="DG(average of T policies) ~ T^(-1/2) when each advantage is one comparison",
        source="arXiv 2404.03715; measured",
        exponent=-0.5,
        measure=_sampled_gap,
        sizes=(50.0, 100.0, 200.0, 400.0, 800.0),
        variable="T",
    ),
)
