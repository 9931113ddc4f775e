"""What the minimisations over balls and over simplices share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.learners.pessimism.game import Game, Response

#: Largest duality gap that is accepted, as a share of `Game.size`.
ACCEPTED = 1e-9

#: The gap at which a minimisation stops, as a share of `Game.size`: rounding.
_ROUNDING = 8 * float(np.finfo(np.float64).eps)

#: The gap at which a stage on the way stops, as a share of its beta.
_ON_THE_WAY = 1e-2

#: Near rounding, as a share of `Game.size`, few steps are waited for a smaller gap.
_NEAR, _NEAR_PATIENCE = 1e-12, 5

_FACTOR = 4.0
_OVERSHOOT = 0.1
_TRIALS = 30


@dataclass(frozen=True, eq=False)
class Saddle:
    """Where a minimisation of G ended."""

    #: The response at the point that was found.
    response: Response
    #: `max_{u' in U} <grad G(u), u - u'>`, in reward units; 0 at the optimum.
    gap: float

    @property
    def total(self) -> float:
        """`G(u)` less the worst case of its policy: `gap` and that of `solve`."""
        return abs(self.gap) + self.response.gap


def finished(game: Game, best: Saddle, target: float, waited: int, patience: int) -> bool:
    """Return whether the gap is small enough, or has not halved for too many steps."""
    if best.gap <= max(target, best.response.gap):
        return True
    return waited > (_NEAR_PATIENCE if best.gap <= _NEAR * game.size else patience)


def by_continuation(
    game: Game, start: FloatArray, minimize: Callable[[Game, FloatArray, float], Saddle]
) -> Saddle:
    """Return the saddle point, approached through games of larger beta.

    With a beta that is small against the rewards G is nearly piecewise linear, and Newton's method
    is lost far from the minimum; each stage starts near its own.

    Parameters
    ----------
    game : Game
    start : (k,) array
        A point of U.
    minimize : function
        `minimize(game, start, target)` minimises G until the gap is at most `target`, or until
        rounding stops it.
    """
    stages = (
        max(0, int(np.ceil(np.log(game.size / game.beta) / np.log(_FACTOR)))) if game.size else 0
    )
    point = start
    for stage in range(stages, 0, -1):
        easier = replace(game, beta=game.beta * _FACTOR**stage)
        point = minimize(easier, point, _ON_THE_WAY * easier.beta).response.point
    return minimize(game, point, _ROUNDING * game.size)


def advance(game: Game, response: Response, direction: FloatArray, longest: float) -> Response:
    """Return the response at a step along a descent direction of G, `longest` times it at most.

    The derivative along the way rises.  The longest step is taken unless it overshoots; otherwise
    the root of the derivative is bracketed until half of the slope is gone.
    """
    slope = float(response.gradient @ direction)
    low, high, at_low, at_high = 0.0, longest, slope, np.inf
    trial = longest
    found = response
    for _ in range(_TRIALS):
        found = game.respond(response.point + trial * direction)
        now = float(found.gradient @ direction)
        if now <= -_OVERSHOOT * slope and (trial == longest or now >= 0.5 * slope):
            break
        if now > 0:
            high, at_high = trial, now
        else:
            low, at_low = trial, now
        share = at_low / (at_low - at_high) if np.isfinite(at_high) else 0.5
        trial = low + (high - low) * min(max(share, 0.1), 0.9)
    return found
