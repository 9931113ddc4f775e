"""The worst mixture of finitely many rewards: an active-set Newton method for the G of `game`.

Over `alpha >= 0, sum alpha = 1`.  A working set of rewards has weight.  Newton steps within its
face, each as long as the weights stay non-negative, end at a minimum of the face, or drop a reward;
then the reward that is worst for the policy joins.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.learners.pessimism.descent import Saddle, advance, by_continuation, finished
from rlhfsim.learners.pessimism.game import Game, Response

#: Eigenvalues of a face's curvature below this share of the largest count as zero.
_FLAT = 1e-13

#: The face counts as solved when its own gap is this share of the whole one.
_SOLVED = 0.1

#: Weights at most this are 0, and slopes at most this share of `Game.size` are rounding.
_ROUNDING = 1e-15

#: Steps without half the gap after which rounding is what is left, and how many more a reward.
_PATIENCE, _PATIENCE_PER_REWARD = 20, 2


def worst_of_mixtures(game: Game, start: FloatArray | None = None) -> Saddle:
    """Return the saddle point of a game over the mixtures of the k rewards `b + F_k`.

    Parameters
    ----------
    game : Game
    start : (k,) distribution, optional

    Returns
    -------
    Saddle
        Whose point holds the weights of the mixture, and whose gap the caller judges.

    Source: the docstring of `game`; Nocedal and Wright 2006, section 16.5, for active sets.
    """
    if start is None:
        uniform = np.full(game.factor.shape[2], 1.0 / game.factor.shape[2])
        start = np.zeros_like(uniform)
        start[int(game.respond(uniform).gradient.argmin())] = 1.0
    return by_continuation(game, start, _minimize)


def _minimize(game: Game, start: FloatArray, target: float) -> Saddle:
    response = game.respond(start)
    active = response.point > 0
    best = Saddle(response, _gap(response))
    waited, patience = 0, _PATIENCE + _PATIENCE_PER_REWARD * len(start)
    while not finished(game, best, target, waited, patience):
        g = response.gradient
        if float(response.point @ g) - float(g[active].min()) <= _SOLVED * _gap(response):
            active[int(g.argmin())] = True
        response, active = _step(game, response, active)
        gap = _gap(response)
        waited = 0 if gap < 0.5 * best.gap else waited + 1
        if gap < best.gap:
            best = Saddle(response, gap)
    return best


def _gap(response: Response) -> float:
    """Return `max_alpha' <grad G, alpha - alpha'>`."""
    g = response.gradient
    return float(response.point @ g - g.min())


def _step(game: Game, response: Response, active: BoolArray) -> tuple[Response, BoolArray]:
    """Return the response after one step within the face, and the rewards that stay in it."""
    used = np.nonzero(active)[0]
    direction = np.zeros_like(response.point)
    direction[used], bounded = _direction(game, response, used)
    if not response.gradient @ direction < 0:
        return response, active
    room = np.full(len(direction), np.inf)
    falls = direction < 0
    room[falls] = response.point[falls] / -direction[falls]
    blocking = int(room.argmin())
    longest = min(1.0, float(room[blocking])) if bounded else float(room[blocking])
    if longest > 0.0:
        response = advance(game, response, direction, longest)
    if longest < room[blocking] or response.point[blocking] > _ROUNDING:
        return response, active
    active = active.copy()
    active[blocking] = False
    if response.point[blocking] != 0.0:
        point = response.point.copy()
        point[blocking] = 0.0
        response = game.respond(point)
    return response, active


def _direction(game: Game, response: Response, used: IntArray) -> tuple[FloatArray, bool]:
    """Return the way to the minimum of the quadratic model over a face, and whether it has one.

    Without one it is a direction of descent along which the model is linear.
    """
    basis = _zero_sum_basis(len(used))
    curvature = basis.T @ game.curvature(response, used) @ basis
    slope = basis.T @ response.gradient[used]
    values, vectors = np.linalg.eigh(curvature)
    along = vectors.T @ slope
    flat = values <= _FLAT * values.max(initial=0.0)
    if np.linalg.norm(along[flat]) > _ROUNDING * game.size:
        return np.asarray(-basis @ vectors[:, flat] @ along[flat]), False
    step = np.where(flat, 0.0, along / np.where(flat, 1.0, values))
    return np.asarray(-basis @ (vectors @ step)), True


def _zero_sum_basis(size: int) -> FloatArray:
    """Return an orthonormal `(size, size - 1)` basis of the vectors of sum 0 (Helmert's)."""
    raw = np.triu(np.ones((size, size - 1)))
    k = np.arange(1, size)
    raw[k, k - 1] = -k
    return np.asarray(raw / np.sqrt(k * (k + 1.0)))
