"""Laws of the best of n, winners of preferences, and sums of exponentials, of `Number`s."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from rlhfsim.certify.arrays import BallArray, balls, whole
from rlhfsim.certify.ball_divergences import ZERO, Numbers, row_of, total
from rlhfsim.certify.numbers import Number


def best_of_n(reference: Any, reward: Any, n: Any) -> BallArray:
    """Return `p/m (F^n - (F-)^n)`, ties shared; n is a whole number."""
    p, r, count = balls(reference), balls(reward), balls(n)
    shape = np.broadcast_shapes(p.shape[:-1], r.shape[:-1], count.shape)
    found = np.empty((*shape, p.shape[-1]), dtype=object)
    draws = np.broadcast_to(count, shape)
    for index in itertools.product(*map(range, shape)):
        law, values = row_of(p, shape, index), row_of(r, shape, index)
        for y, (mass, value) in enumerate(zip(law, values, strict=True)):
            below, level = _levels(law, values, value)
            gain = (below + level) ** draws[index] - below ** draws[index]
            found[(*index, y)] = mass / level * gain if mass > 0 else ZERO
    return balls(found)


def _levels(law: Numbers, values: Numbers, value: Number) -> tuple[Number, Number]:
    """Return the masses of the responses below a value, and of those at it."""
    cells = list(zip(law, values, strict=True))
    return total(p for p, v in cells if v < value), total(p for p, v in cells if v == value)


def worst_of_n(reference: Any, reward: Any, n: Any) -> BallArray:
    """Return the law of the worst of n."""
    return best_of_n(reference, -1 * balls(reward), n)


def calibrated_reward(reward: Any, reference: Any) -> BallArray:
    """Return `P_{z ~ p}(r(z) < r(y)) + 1/2 P_{z ~ p}(r(z) = r(y))`."""
    p, r = balls(reference), balls(reward)
    shape = np.broadcast_shapes(p.shape[:-1], r.shape[:-1])
    found = np.empty((*shape, p.shape[-1]), dtype=object)
    for index in itertools.product(*map(range, shape)):
        law, values = row_of(p, shape, index), row_of(r, shape, index)
        for y, value in enumerate(values):
            below, level = _levels(law, values, value)
            found[(*index, y)] = below + level / 2
    return balls(found)


# ---- preferences ---------------------------------------------------------------------------------


class BallPreference:
    """A table `P(y beats y' | x)`, (X, Y, Y)."""

    def __init__(self, probabilities: Any) -> None:
        table = balls(probabilities)
        self.table: BallArray = balls(table[None] if table.ndim == 2 else table)

    def tensor(self) -> BallArray:
        """Return the table."""
        return self.table


def bradley_terry(reward: Any) -> BallPreference:
    """Return `sigma(r(y) - r(y'))`."""
    r = balls(reward)
    gaps = r[..., :, None] - r[..., None, :]
    return BallPreference(1 / (1 + np.exp(-gaps)))


def label_noise(model: BallPreference, rate: Any) -> BallPreference:
    """Return `(1 - rate) P + rate P^T`."""
    flip = Number.of(rate)
    return BallPreference((1 - flip) * model.table + flip * np.swapaxes(model.table, 1, 2))


def _majority(model: BallPreference) -> Any:
    """Return who beats whom: -1, 0 for a tie, or 1."""
    forth, back = model.table, np.swapaxes(model.table, 1, 2)
    beats = np.zeros(forth.shape, dtype=np.int64)
    for index in itertools.product(*map(range, forth.shape)):
        # A response against itself is a tie, whatever the ball of 1/2 may hold.
        if index[1] != index[2]:
            a, b = forth[index], back[index]
            beats[index] = int(a > b) - int(a < b)
    return beats


def condorcet_winner(model: BallPreference) -> Any:
    """Return the response that beats all others, or -1."""
    beaten = (_majority(model) > 0).sum(axis=2)
    alone = beaten == model.table.shape[-1] - 1
    return whole(np.where(alone.any(axis=1), alone.argmax(axis=1), -1))


def copeland_scores(model: BallPreference) -> BallArray:
    """Return wins plus half of the ties with others."""
    return balls(balls((_majority(model) + 1).sum(axis=2) - 1) / 2)


def copeland_winners(model: BallPreference) -> Any:
    """Return the mask of the largest Copeland scores."""
    scores = copeland_scores(model)
    return scores == scores.max(axis=1, keepdims=True)


def borda_scores(model: BallPreference, policy: Any = None) -> BallArray:
    """Return `E_{y' ~ policy}[P(y beats y')]`, by default against a uniform policy."""
    size = model.table.shape[-1]
    opponents = balls(np.ones(model.table.shape[:-1])) / size if policy is None else balls(policy)
    return balls((model.table * opponents[:, None, :]).sum(axis=2))


def borda_winners(model: BallPreference, policy: Any = None) -> Any:
    """Return the mask of the largest Borda scores."""
    scores = borda_scores(model, policy)
    return scores == scores.max(axis=1, keepdims=True)


# ---- scipy ---------------------------------------------------------------------------------------


def logsumexp(a: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    """Return `log sum e^a`."""
    values = balls(a)
    shift = values.max(axis=axis, keepdims=True)
    total = np.log(np.exp(values - shift).sum(axis=axis, keepdims=True)) + shift
    return total if keepdims else total.sum(axis=axis)


def log_softmax(x: Any, axis: Any = None) -> Any:
    """Return `x - logsumexp(x)`."""
    return balls(x) - logsumexp(x, axis, keepdims=True)


def softmax(x: Any, axis: Any = None) -> Any:
    """Return `e^x` over its sum."""
    return np.exp(log_softmax(x, axis))
