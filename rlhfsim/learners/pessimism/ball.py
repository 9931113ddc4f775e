"""The worst reward of a ball: Newton's method for the convex G of `game` over `||u||_2 <= 1`.

Each step minimises the quadratic model of G over the ball, exactly, through the secular equation of
its multiplier, and goes towards that point.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.learners.pessimism.descent import Saddle, advance, by_continuation, finished
from rlhfsim.learners.pessimism.game import Game, Response
from rlhfsim.rewards.secular import ball_multiplier

#: Directions with less than this share of the largest curvature, and no multiplier to speak of,
#: are those along which G is constant.
_FLAT = 1e-14

_STEPS = 200
#: Steps without a smaller gap after which rounding is what is left.
_PATIENCE = 30


def worst_of_ball(game: Game) -> Saddle:
    """Return the saddle point of a game over the unit ball.

    Parameters
    ----------
    game : Game
        Whose factor has the half-axes of the ellipsoid of rewards.

    Returns
    -------
    Saddle
        Whose gap the caller judges.

    Source: the docstring of `game`; Conn, Gould and Toint 2000 for the steps.
    """
    return by_continuation(game, np.zeros(game.factor.shape[2]), _minimize)


def _minimize(game: Game, start: FloatArray, target: float) -> Saddle:
    response = game.respond(start)
    best = Saddle(response, _gap(response))
    waited = 0
    for _ in range(_STEPS):
        if finished(game, best, target, waited, _PATIENCE):
            break
        direction = _direction(game.curvature(response), response)
        if not response.gradient @ direction < 0:
            break
        moved = advance(game, response, direction, 1.0)
        response = _inside(game, moved)
        gap = _gap(response)
        waited = 0 if gap < 0.5 * best.gap else waited + 1
        if gap < best.gap:
            best = Saddle(response, gap)
    return best


def _gap(response: Response) -> float:
    """Return `max_{||v|| <= 1} <grad G, u - v>`."""
    g = response.gradient
    return float(response.point @ g + np.linalg.norm(g))


def _direction(curvature: FloatArray, response: Response) -> FloatArray:
    """Return the s that minimises `1/2 s' curvature s + gradient' s` over `||u + s|| <= 1`."""
    values, vectors = np.linalg.eigh(curvature)
    # The matrix is a sum of squares; a negative eigenvalue is rounding of 0.
    values = np.maximum(values, 0.0)
    slope = vectors.T @ (response.gradient - curvature @ response.point)
    multiplier = ball_multiplier(values, slope, 1.0)
    # Solved for the step and not for the point, so that rounding vanishes with the step.
    residual = vectors.T @ (response.gradient + multiplier * response.point)
    stiff = values + multiplier > _FLAT * values.max()
    step = np.divide(residual, values + multiplier, out=np.zeros_like(residual), where=stiff)
    return np.asarray(-(vectors @ step))


def _inside(game: Game, response: Response) -> Response:
    """Return the response at the point, moved back by the rounding that put it outside."""
    norm = float(np.linalg.norm(response.point))
    return response if norm <= 1.0 else game.respond(response.point / norm)
