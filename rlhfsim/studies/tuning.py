"""Choosing a learner's parameter from a study's cells: the best value, and the room around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd

#: What a mean is taken over: one dataset of one environment.
UNITS = ("environment", "seed")


class Along(NamedTuple):
    """A metric of one learner along the grid of its parameter."""

    #: (K,) values of the parameter, increasing.
    grid: FloatArray
    #: (U, K) the metric of each unit.
    measured: FloatArray
    #: (U, number of unit columns) what the rows are, such as environment and seed.
    units: IntArray

    def averaged(self, column: int = 0) -> Along:
        """Return the means over the units that share one column, such as the environment."""
        labels, place = np.unique(self.units[:, column], return_inverse=True)
        total = np.zeros((labels.size, self.grid.size))
        np.add.at(total, place, self.measured)
        return Along(self.grid, total / np.bincount(place)[:, None], labels[:, None])


def along(rows: pd.DataFrame, metric: str, units: Sequence[str] = UNITS) -> Along:
    """Return a metric of one learner as a table of units against values of the parameter.

    Parameters
    ----------
    rows : DataFrame
        Cells of one learner (and one instance and n), one row each; values of the parameter at
        which a unit is missing are left out for all units.
    metric : str
    units : sequence of str
        The columns that tell units apart.

    Raises
    ------
    ValueError
        If two rows are the same unit at the same value, or no value has all units.
    """
    if rows.duplicated([*units, "parameter_value"]).any():
        raise ValueError(f"rows has cells that {', '.join(units)} and parameter do not tell apart")
    table = rows.pivot_table(
        index=list(units), columns="parameter_value", values=metric, aggfunc="first"
    )
    table = table.sort_index().sort_index(axis=1).dropna(axis=1)
    if table.shape[1] == 0:
        raise ValueError(f"rows has no value of the parameter at which {metric} has all units")
    labels = np.array([np.atleast_1d(label) for label in table.index], dtype=np.int64)
    return Along(table.columns.to_numpy(dtype=np.float64), table.to_numpy(), labels)


def cross_fitted(values: ArrayLike, fold: ArrayLike) -> FloatArray:
    """Return the value of each unit at the point whose mean is least over the *other* fold.

    The least of several means is below what its point has on fresh units; this is not, as no unit
    chooses for itself.

    Parameters
    ----------
    values : (U, K) array
    fold : (U,) array of 0 and 1
        Both occur.

    Returns
    -------
    (U,) array

    Raises
    ------
    ValueError
        Bad shapes, or folds other than 0 and 1.
    """
    table = checks.as_real("values", values)
    half = np.asarray(fold)
    if table.ndim != 2 or half.shape != table.shape[:1]:
        raise ValueError(
            f"values has shape {table.shape} and fold {half.shape}; they must be (U, K) and (U,)"
        )
    if set(np.unique(half).tolist()) != {0, 1}:
        raise ValueError("fold must hold 0 and 1, both of them, and nothing else")
    chosen = [int(table[half != own].mean(axis=0).argmin()) for own in (0, 1)]
    return np.where(half == 0, table[:, chosen[0]], table[:, chosen[1]])


def halves(count: int) -> IntArray:
    """Return the folds 0, 1, 0, 1, ... of so many units."""
    return np.arange(count) % 2


def window(grid: ArrayLike, values: ArrayLike, factor: float = 1.1) -> tuple[FloatArray, ...]:
    """Return the ends of the stretch around the minimum where values are at most `factor` times it.

    Values are interpolated linearly in the logarithm of the grid; a stretch that reaches an end of
    the grid ends there.

    Parameters
    ----------
    grid : (K,) array
        Positive and increasing.
    values : (..., K) array
        Not negative.
    factor : number
        At least 1.

    Returns
    -------
    low, high : (...) arrays

    Raises
    ------
    ValueError
        Bad input, by name.
    """
    points = np.log(checks.as_positive("grid", grid))
    table = checks.as_non_negative("values", values)
    ratio = checks.positive_number("factor", factor)
    if points.ndim != 1 or (np.diff(points) <= 0).any() or table.shape[-1:] != points.shape:
        raise ValueError("grid must be one increasing row, as long as the last axis of values")
    if ratio < 1:
        raise ValueError(f"factor is {ratio!r}; it must be at least 1")
    rows = table.reshape(-1, points.size)
    ends = np.array([_stretch(points, row, ratio) for row in rows]).reshape(*table.shape[:-1], 2)
    return np.exp(ends[..., 0]), np.exp(ends[..., 1])


def _stretch(points: FloatArray, row: FloatArray, factor: float) -> tuple[float, float]:
    best = int(row.argmin())
    limit = factor * float(row[best])
    low = _crossing(points[best::-1], row[best::-1], limit)
    return low, _crossing(points[best:], row[best:], limit)


def _crossing(points: FloatArray, row: FloatArray, limit: float) -> float:
    """Return where a row that starts at or below the limit first exceeds it; else its end."""
    above = np.flatnonzero(row > limit)
    if above.size == 0:
        return float(points[-1])
    k = int(above[0])
    share = (limit - row[k - 1]) / (row[k] - row[k - 1])
    return float(points[k - 1] + share * (points[k] - points[k - 1]))
