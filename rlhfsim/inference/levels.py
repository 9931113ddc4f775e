"""Levels of tied rewards: how much of a distribution lies below, at and above each response."""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray


def level_masses(p: FloatArray, r: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the mass of p strictly below, at, and strictly above the reward of each response.

    Parameters
    ----------
    p, r : (..., Y) arrays of the same shape

    Returns
    -------
    three (..., Y) arrays, each summed without differences of running sums
    """
    order = np.argsort(r, axis=-1, kind="stable")
    mass = np.take_along_axis(p, order, axis=-1)
    levels = np.take_along_axis(r, order, axis=-1)
    new = np.ones(levels.shape, dtype=bool)
    new[..., 1:] = levels[..., 1:] > levels[..., :-1]
    position = np.broadcast_to(np.arange(levels.shape[-1]), levels.shape)
    first = np.maximum.accumulate(np.where(new, position, 0), axis=-1)
    last_of_next = np.where(np.roll(new, -1, axis=-1), position, levels.shape[-1] - 1)
    last_of_next[..., -1] = levels.shape[-1] - 1
    last = np.flip(np.minimum.accumulate(np.flip(last_of_next, -1), axis=-1), -1)
    # Sums from either end: a tail is never found by subtraction from 1.
    zero = np.zeros((*mass.shape[:-1], 1))
    from_bottom = np.concatenate([zero, mass.cumsum(axis=-1)], axis=-1)
    from_top = np.flip(np.concatenate([zero, np.flip(mass, -1).cumsum(axis=-1)], axis=-1), -1)
    below = np.take_along_axis(from_bottom, first, axis=-1)
    above = np.take_along_axis(from_top, last + 1, axis=-1)
    level = _run_sums(mass, first)
    result = []
    for sorted_values in (below, level, above):
        values = np.empty_like(sorted_values)
        np.put_along_axis(values, order, sorted_values, axis=-1)
        result.append(values)
    return result[0], result[1], result[2]


def _run_sums(mass: FloatArray, first: np.ndarray) -> FloatArray:
    """Sum of `mass` over each run of equal `first`, without differences of running sums."""
    size = mass.shape[-1]
    rows = mass.reshape(-1, size)
    slots = (np.arange(rows.shape[0])[:, None] * size + first.reshape(-1, size)).ravel()
    sums = np.bincount(slots, weights=rows.ravel(), minlength=rows.size)
    return np.asarray(sums[slots].reshape(mass.shape))
