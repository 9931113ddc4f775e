"""Nash-MD: how its last iterate tends to the regularized Nash policy.

With `alpha = eta beta` the divergence from the equilibrium obeys
`KL_{t+1} <= (1 - alpha) KL_t + eta^2/6`, because `log E_m e^{eta l m} <= eta^2/6` for every policy
m (claim "moments of advantages").  For the schedule `alpha_t = 2/(t + 2)` of the source this gives
`KL_T <= 2/(3 beta^2 (T + 1))`, where the source, in these units, has 32.  The measured constant is
smaller still, 0.13; the rate 1/T is attained, by beta about `0.4/sqrt(T)`, while for each fixed
beta the divergence falls like `1/T^2`.

Source: arXiv 2312.00886, theorem 1; the constants are ours.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.contests import Contests, contest, game_of, skew_games
from rlhfsim.claims.statistical import RateClaim
from rlhfsim.divergences import KL
from rlhfsim.games import nash_md, solve_nash

_SOURCE = "arXiv 2312.00886, theorem 1"

#: What the source's 8 / (tau^2 (T + 1)) is with payoffs l = 2 P - 1, where beta = 2 tau.
SOURCE_CONSTANT = 32.0
#: That constant as proved here, and as measured over beta.
PROVED_CONSTANT = 2.0 / 3.0
MEASURED_CONSTANT = 0.136

#: Strengths, in units of 1/sqrt(T), among which the slowest is sought.
_SLOW = np.linspace(0.25, 0.55, 7)


def _distance(x: Contests) -> FloatArray:
    """`KL(pi_beta || pi_T)` after T updates of constant step, `alpha = eta beta`."""
    game, result = game_of(x), np.empty(len(x))
    for rounds in np.unique(x.rounds):
        some = x.rounds == rounds
        p, beta = x.reference[some], x.beta[some]
        step = np.minimum(x.step[some], 1.0) / beta
        step = np.where(step * beta > 1.0, np.nextafter(step, 0.0), step)
        last = nash_md(game[some], p, beta, int(rounds), step=step).policy
        result[some] = KL().per_prompt(_equilibrium(game[some], p, beta), last)
    return result


def _equilibrium(game: FloatArray, p: FloatArray, beta: FloatArray) -> FloatArray:
    return solve_nash(game, p, KL(), beta).policy


def _bound(x: Contests) -> FloatArray:
    """`(1 - alpha)^T KL(pi_beta || p) + alpha/(6 beta^2)`."""
    start = KL().per_prompt(_equilibrium(game_of(x), x.reference, x.beta), x.reference)
    return np.asarray((1.0 - x.step) ** x.rounds * start + x.step / (6.0 * x.beta**2))


def _far() -> Contests:
    """Return a sure winner that the reference hardly has, and a short way towards it."""
    return contest([1.0], [1e-9, 1.0 - 1e-9], beta=0.04, step=1e-3)


def _fixed_beta(rounds: float, _: np.random.Generator) -> float:
    return float(_cycle_distances(int(rounds), np.array([1.0]))[0])


def _slowest_beta(rounds: float, _: np.random.Generator) -> float:
    """Return the largest `beta^2 KL(pi_beta || pi_T)` over beta."""
    beta = _SLOW / np.sqrt(rounds)
    return float((beta**2 * _cycle_distances(int(rounds), beta)).max())


def _cycle_distances(rounds: int, beta: FloatArray) -> FloatArray:
    """Return `KL(pi_beta || pi_T)` in rock-paper-scissors from an uneven reference."""
    game = np.repeat(skew_games(np.array([[1.0, 0.0, 1.0]]), 3), len(beta), axis=0)
    p = np.repeat([[0.5, 0.3, 0.2]], len(beta), axis=0)
    last = nash_md(game, p, beta, rounds).policy
    return KL().per_prompt(_equilibrium(game, p, beta), last)


NASH_MD_CLAIMS: tuple[Claim[Contests] | RateClaim, ...] = (
    Claim[Contests](
        "last iterate of Nash-MD, constant step",
        "KL(pi_beta || pi_T) <= (1 - eta beta)^T KL(pi_beta || p) + eta/(6 beta)",
        f"{_SOURCE}; constant derived",
        "upper",
        _distance,
        _bound,
        _far,
        resolution=lambda x: 64.0 * RESOLUTION * (1.0 + 1.0 / x.beta),
        most_instances=400,
    ),
    RateClaim(
        name="last iterate of Nash-MD, slowest beta",
        formula="max_beta beta^2 KL(pi_beta || pi_T) ~ 1/T, at beta ~ 1/sqrt(T); "
        "<= 2/(3 (T + 1)) always",
        source=f"{_SOURCE}; constants measured",
        exponent=-1.0,
        measure=_slowest_beta,
        sizes=(30.0, 100.0, 300.0, 1000.0),
        variable="T",
        ceiling=lambda t: MEASURED_CONSTANT / (t + 1.0),
        floor=lambda t: 0.9 * MEASURED_CONSTANT / (t + 1.0),
    ),
    RateClaim(
        name="last iterate of Nash-MD, one beta",
        formula="KL(pi_beta || pi_T) ~ 1/T^2 at a fixed beta",
        source="measured",
        exponent=-2.0,
        measure=_fixed_beta,
        sizes=(100.0, 200.0, 400.0, 800.0, 1600.0),
        variable="T",
        tolerance=0.1,
    ),
)
