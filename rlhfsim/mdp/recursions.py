"""Passes over the steps of a finite-horizon process, forward and backward, on plain arrays.

Arrays have the states of a step on their last axis but one and its actions on the last; leading
axes broadcast, so that a batch of processes is one call.  Nothing is checked here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray, IntArray

#: In place of a next state where the episode ends; any negative number does.
END = -1

#: Next states `(..., S, A)`, or their distributions `(..., S, A, S')`.
Transition = IntArray | FloatArray

#: One array for each step.
Levels = tuple[FloatArray, ...]


def expected(transition: Transition, values: FloatArray) -> FloatArray:
    """Return `E[V(s') | s, a]`, (..., S, A), of (..., S') values; 0 where the episode ends."""
    if transition.dtype.kind == "i":
        return _following(transition, values, 0.0)
    # One product of matrices for all states and actions.
    return np.asarray(np.matmul(transition, values[..., None, :, None])[..., 0])


def largest(transition: Transition, values: FloatArray, end: float) -> FloatArray:
    """Return the largest V(s') over the next states that can follow; `end` where there is none."""
    if transition.dtype.kind == "i":
        return _following(transition, values, end)
    return np.asarray(np.where(transition > 0, values[..., None, None, :], -np.inf).max(axis=-1))


def pushed(transition: Transition, mass: FloatArray, n_next: int) -> FloatArray:
    """Return the (..., S') masses of the next states, of (..., S, A) masses of what is done."""
    if transition.dtype.kind != "i":
        flat = mass.reshape(*mass.shape[:-2], 1, -1)
        rows = transition.reshape(*transition.shape[:-3], -1, n_next)
        return np.asarray(np.matmul(flat, rows)[..., 0, :])
    going = transition >= 0
    batch = mass.shape[:-2]
    # Not -1: where every action ends the episode the rows are empty.
    rows = mass[..., going].reshape(math.prod(batch), int(going.sum()))
    found = np.stack([np.bincount(transition[going], row, n_next) for row in rows])
    return np.asarray(found.reshape(*batch, n_next), dtype=np.float64)


def occupancies(initial: FloatArray, transitions: Sequence[Transition], policy: Levels) -> Levels:
    """Return the (..., S_h) probabilities of the states of each step under a policy."""
    batch = np.broadcast_shapes(initial.shape[:-1], *(level.shape[:-2] for level in policy))
    state = np.broadcast_to(initial, (*batch, initial.shape[-1]))
    found = [state]
    for h, move in enumerate(transitions):
        mass = state[..., None] * policy[h]
        state = pushed(move, mass, policy[h + 1].shape[-2])
        found.append(state)
    return tuple(found)


def action_values(
    transitions: Sequence[Transition], reward: Levels, policy: Levels
) -> tuple[Levels, Levels]:
    """Return `Q_h`, (..., S_h, A_h), and `V_h`, (..., S_h), of a policy; V is 0 after the end."""
    q: list[FloatArray] = []
    v: list[FloatArray] = []
    for h in reversed(range(len(reward))):
        later = reward[h] if not v else reward[h] + expected(transitions[h], v[-1])
        q.append(later)
        v.append(np.asarray((policy[h] * later).sum(axis=-1)))
    return tuple(reversed(q)), tuple(reversed(v))


def along_steps(transitions: Sequence[Transition], policy: Levels, terms: Levels) -> FloatArray:
    """Return `E_pi[sum_h terms_h(s_h)]` from each first state, (..., S_1), of (..., S_h) terms.

    Infinite terms of states that are not reached do not count.
    """
    total = terms[-1]
    for h in reversed(range(len(transitions))):
        total = terms[h] + weighted(policy[h], expected_or_infinite(transitions[h], total))
    return np.asarray(total)


def weighted(weight: FloatArray, values: FloatArray) -> FloatArray:
    """Return `sum_a weight values`, where what has no weight does not count, even at `inf`."""
    return np.asarray((weight * np.where(weight > 0, values, 0.0)).sum(axis=-1))


def expected_or_infinite(
    transition: Transition, values: FloatArray, end: float = 0.0
) -> FloatArray:
    """Return `expected` of values that may be `inf` where they have no probability.

    `end` is what they are after the end of the episode.
    """
    if transition.dtype.kind == "i":
        return _following(transition, values, end)
    if np.isfinite(values).all():
        return expected(transition, values)
    return weighted(np.asarray(transition, dtype=np.float64), values[..., None, None, :])


def _following(transition: Transition, values: FloatArray, end: float) -> FloatArray:
    """Return the values of the next states, `end` where there is none."""
    if transition.min() >= 0:
        return values[..., transition]
    return np.where(transition < 0, end, values[..., np.maximum(transition, 0)])


def read_only(levels: Sequence[NDArray[np.float64]]) -> Levels:
    """Return the arrays as a tuple, made read-only in place."""
    for level in levels:
        level.setflags(write=False)
    return tuple(levels)
