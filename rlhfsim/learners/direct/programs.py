"""Linear programs with scipy's HiGHS: the general one, and that of a sum of hinges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array, hstack

from rlhfsim.checks import FloatArray


class Hinges(NamedTuple):
    """A minimiser of a sum of hinges."""

    point: FloatArray
    #: (R,) dual flow, `0 <= flow <= weight`.
    flow: FloatArray
    #: Value less that of the dual flow; at least 0 but for rounding.
    gap: float


def linear_program(
    cost: FloatArray, matrix: Any, upper: FloatArray, bounds: Sequence[Any], where: str
) -> Any:
    """Return scipy's result for `min <cost, z>` with `matrix z <= upper` and bounds.

    Raises
    ------
    RuntimeError
        If it fails.
    """
    result = linprog(cost, matrix, upper, bounds=bounds)
    if result.status != 0:
        raise RuntimeError(f"the linear program at {where} fails: {result.message}")
    return result


def identity(size: int) -> csr_array:
    """Return the sparse identity."""
    return csr_array(coo_array((np.ones(size), (np.arange(size),) * 2)))


def sum_of_hinges(matrix: Any, least: FloatArray, weight: FloatArray, where: str) -> Hinges:
    """Return a vertex of the minimisers of `sum_r weight_r max(0, least_r - (matrix z)_r)`.

    Parameters
    ----------
    matrix : (R, D) array, dense or sparse
    least, weight : (R,) arrays
    where : str
        For the message of a failure.

    Raises
    ------
    RuntimeError
        If the linear program fails.
    """
    number, size = matrix.shape
    bounds = [(None, None)] * size + [(0.0, None)] * number
    both = hstack((csr_array(-matrix), -identity(number)))
    cost = np.concatenate((np.zeros(size), weight))
    result = linear_program(cost, both, -least, bounds, where)
    point = np.asarray(result.x[:size])
    flow = np.clip(-np.asarray(result.ineqlin.marginals), 0.0, weight)
    value = float(weight @ np.maximum(least - matrix @ point, 0.0))
    return Hinges(point, flow, value - float(flow @ least))
