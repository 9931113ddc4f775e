"""Gradient, Hessian and Newton systems of the Bradley-Terry likelihood over linked sets.

Sets of one size are stacked, so that each step costs a few numpy calls for each distinct size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.rewards.confidence.linked import LinkedSets


class Group(NamedTuple):
    """The linked sets of one size."""

    #: (C, k) rows of the cells in `LinkedSets`.
    rows: IntArray
    #: (C, k, k) how often the first beat the second.
    wins: FloatArray


class System(NamedTuple):
    """Gradient and Hessian of C sets of one size, the best connected cell of each held."""

    #: (C, k) gradient.
    gradient: FloatArray
    #: (C, k - 1, k - 1) Hessian over the free cells, scaled to a unit diagonal by `unit`.
    hessian: FloatArray
    #: (C, k - 1) scales, and which cells are free.
    unit: FloatArray
    free: IntArray


def group_of_size(linked: LinkedSets, size: int) -> Group:
    """Return the linked sets of one size, with dense win matrices."""
    chosen = np.nonzero(linked.sizes == size)[0]
    rows = np.nonzero(linked.sizes[linked.labels] == size)[0].reshape(len(chosen), size)
    counts = linked.counts
    mine = linked.sizes[counts.prompt] == size
    wins = np.zeros((len(chosen), size, size))
    index = np.searchsorted(chosen, counts.prompt[mine])
    wins[index, counts.winner[mine], counts.loser[mine]] = counts.count[mine]
    return Group(rows, wins)


def restrict(group: Group, used: BoolArray) -> Group:
    """Return the sets of a group whose cells are used."""
    kept = used[group.rows[:, 0]]
    return Group(group.rows[kept], group.wins[kept])


def _margins(group: Group, reward: FloatArray) -> FloatArray:
    values = reward[group.rows]
    return np.asarray(values[:, :, None] - values[:, None, :])


def deficit(group: Group, best: FloatArray, change: FloatArray) -> float:
    """Return the part of `D(best + change)` that the sets of one group contribute."""
    margin, moved = _margins(group, best), _margins(group, change)
    near = np.abs(moved) < 1.0
    # Near the maximum the two likelihoods agree in most digits; their terms are subtracted exactly.
    close = np.log1p(expit(-margin) * np.expm1(np.where(near, -moved, 0.0)))
    far = np.logaddexp(0.0, -(margin + moved)) - np.logaddexp(0.0, -margin)
    return float((group.wins * np.where(near, close, far)).sum())


def system_of(group: Group, best: FloatArray, change: FloatArray) -> System:
    """Return the gradient and the Hessian of D over the sets of one group."""
    margin = _margins(group, best) + _margins(group, change)
    flow = group.wins * expit(-margin)
    curvature = flow * expit(margin)
    hessian = -(curvature + curvature.transpose(0, 2, 1))
    diagonal = -hessian.sum(axis=2)
    every = np.arange(hessian.shape[1])
    hessian[:, every, every] = diagonal
    # The best connected cell of each set is held, so that no faint link holds up the others; a unit
    # diagonal hides how far the weights range.
    order = np.argsort(diagonal, axis=1)
    free = order[:, :-1]
    unit = 1.0 / np.sqrt(np.take_along_axis(diagonal, free, axis=1))
    sets = np.arange(len(free))[:, None, None]
    hessian = hessian[sets, free[:, :, None], free[:, None, :]]
    hessian *= unit[:, :, None] * unit[:, None, :]
    return System(flow.sum(axis=1) - flow.sum(axis=2), hessian, unit, free)


def select(system: System, kept: BoolArray) -> System:
    """Return the system of the sets that are kept."""
    return System(system.gradient[kept], system.hessian[kept], system.unit[kept], system.free[kept])


def eliminate(system: System, weights: FloatArray) -> FloatArray:
    """Return the (2, C, k) solutions `H^-1 w` and `H^-1 g` of each set."""
    right = [np.take_along_axis(side, system.free, axis=1) for side in (weights, system.gradient)]
    scaled = np.stack(right, axis=-1) * system.unit[:, :, None]
    found = np.asarray(np.linalg.solve(system.hessian, scaled), dtype=np.float64)
    return np.stack([_full(system, np.asarray(found[:, :, k], dtype=np.float64)) for k in range(2)])


def bordered(
    system: System, weights: FloatArray, *, corner: float, load: float
) -> tuple[FloatArray, FloatArray]:
    """Return the solutions of `[H w; w' corner] (p, s) = (-g, load)` and `= (0, 1)` of one set.

    Returns
    -------
    (2, 1, k) array and (2,) array
    """
    border = (np.take_along_axis(weights, system.free, axis=1) * system.unit)[0]
    size = len(border)
    # Above the unit diagonal, so that the constraint is the first pivot: a step divided by a faint
    # curvature keeps fewer digits than one that the constraint fixes.
    scale = 2.0 / np.abs(border).max()
    matrix = np.zeros((size + 1, size + 1))
    matrix[:size, :size] = system.hessian[0]
    matrix[:size, size] = matrix[size, :size] = scale * border
    matrix[size, size] = scale**2 * corner
    right = np.zeros((size + 1, 2))
    right[:size, 0] = -(np.take_along_axis(system.gradient, system.free, axis=1) * system.unit)[0]
    right[size] = scale * load, scale
    found = np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)
    inside = np.stack(
        [_full(system, np.asarray(found[None, :size, k], dtype=np.float64)) for k in range(2)]
    )
    return inside, scale * found[size]


def _full(system: System, scaled: FloatArray) -> FloatArray:
    """Return the (C, k) values of mean 0 from those of the free cells, scaled."""
    values = np.zeros_like(system.gradient)
    np.put_along_axis(values, system.free, scaled * system.unit, axis=1)
    return np.asarray(values - values.mean(axis=1, keepdims=True))
