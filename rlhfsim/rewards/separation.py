"""When the maximum likelihood estimate of a linear reward exists.

With differences that span R^d, the logistic likelihood has a maximiser, and only one, exactly when
no direction `v != 0` has `<v, d> >= 0` for every comparison (`d` from the loser to the winner):
neither complete nor quasi-complete separation.  Along such a direction the likelihood rises for
ever.

Pairs that each side won confine v to the null space of their differences.  In it, a linear program
looks for v with `<v, d> >= 0` for the other rows.  A few rows are tried first: without a direction
for them there is none for all.  A direction that fits them is checked on all rows, and those that
contradict it most are added.

Source: Albert and Anderson 1984 (Biometrika 71, 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.rewards.existence import MLEDoesNotExistError
from rlhfsim.rewards.features import (
    Comparisons,
    null_direction,
    triangular_factor,
    unit_columns,
)

#: A comparison contradicts a unit direction when its own unit difference falls below minus this.
#: What is closer to 0 is rounding of the features, for example 0.1 + 0.2 against 0.3.
TOLERANCE = 1e-9


class SeparationError(MLEDoesNotExistError):
    """A direction separates winners from losers, so a linear likelihood has no maximiser.

    Attributes
    ----------
    prompt : int
    responses : tuple of int
        Winner and loser of a comparison that the direction separates most.
    direction : (d,) array
        Of unit length; no comparison contradicts it.
    """

    def __init__(
        self, message: str, prompt: int, responses: tuple[int, ...], direction: FloatArray
    ) -> None:
        super().__init__(message, prompt, responses)
        self.direction = direction

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with every attribute."""
        return type(self), (str(self), self.prompt, self.responses, self.direction)


def separating_direction(pairs: Comparisons) -> FloatArray | None:
    """Return a direction that no comparison contradicts, or None if there is none.

    Parameters
    ----------
    pairs : Comparisons
        Their differences span R^d.

    Returns
    -------
    (d,) array of unit length, or None
        None exactly when the unconstrained maximum likelihood estimate exists.

    Raises
    ------
    RuntimeError
        If the linear program fails.

    Source: Albert and Anderson 1984.
    """
    scale = unit_columns(pairs.difference)
    rows = pairs.difference / scale
    both = (pairs.won > 0) & (pairs.lost > 0)
    basis = _null_space(rows[both])
    if basis.shape[1] == 0:
        return None
    one_way = np.where(pairs.won > 0, 1.0, -1.0)[~both, None] * rows[~both]
    confined = one_way @ basis
    length = np.linalg.norm(confined, axis=1)
    seen = length > TOLERANCE * np.linalg.norm(one_way, axis=1)
    found = _uncontradicted(confined[seen] / length[seen, None])
    if found is None:
        return None
    direction = (basis @ found) * (scale.min() / scale)
    return np.asarray(direction / np.linalg.norm(direction))


def _null_space(rows: FloatArray) -> FloatArray:
    """Return a (d, k) orthonormal basis of the directions on which all rows vanish."""
    size = rows.shape[1]
    length = np.linalg.norm(rows, axis=1)
    rows = rows[length > 0] / length[length > 0, None]
    factor = np.zeros((size, size))
    found = triangular_factor(rows)
    factor[: len(found)] = found
    _, values, right = np.linalg.svd(factor)
    rank = int((values > TOLERANCE * max(1.0, values[0])).sum())
    return np.asarray(right[rank:].T)


def _uncontradicted(rows: FloatArray) -> FloatArray | None:
    """Return v with `rows v >= 0` and not all 0, or None; the (m, k) unit rows span R^k."""
    count, size = rows.shape
    batch = 8 * size + 64
    used = np.unique(np.linspace(0, count - 1, min(batch, count)).astype(np.int64))
    while True:
        direction = _best_direction(rows[used])
        if (rows[used] @ direction).max() <= TOLERANCE:
            rank, direction = null_direction(rows[used], TOLERANCE)
            if rank == size:
                return None
            # The rows in use say nothing about this direction or its opposite; others do.
            margin = -np.abs(rows @ direction)
        else:
            margin = rows @ direction
            if margin.min() >= -TOLERANCE:
                return direction
        used = _with_worst(used, margin, batch)


def _with_worst(used: IntArray, margin: FloatArray, batch: int) -> IntArray:
    """Return the rows in use and those, up to `batch`, of the most negative margin."""
    fresh = np.setdiff1d(np.nonzero(margin < -TOLERANCE)[0], used)
    if fresh.size == 0:
        raise RuntimeError(
            "the linear program that decides existence failed: "
            "its direction contradicts comparisons that it had to respect"
        )
    worst = fresh[np.argsort(margin[fresh], kind="stable")[:batch]]
    return np.union1d(used, worst)


def _best_direction(rows: FloatArray) -> FloatArray:
    """Return the v that maximises `sum(rows v)` subject to `rows v >= 0` and `|v_j| <= 1`."""
    from scipy.optimize import linprog

    result = linprog(
        -rows.sum(axis=0),
        A_ub=-rows,
        b_ub=np.zeros(len(rows)),
        bounds=(-1.0, 1.0),
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if not result.success:
        raise RuntimeError(f"the linear program that decides existence failed: {result.message}")
    return np.asarray(result.x, dtype=np.float64)
