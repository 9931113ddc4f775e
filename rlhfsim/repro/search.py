"""One-dimensional search over beta, shared by the studies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar

from rlhfsim.checks import FloatArray

#: A function of a grid of betas.
OfBeta = Callable[[FloatArray], FloatArray]


def minimize_over_beta(
    function: OfBeta, grid: FloatArray, values: FloatArray | None = None
) -> tuple[float, float]:
    """Return `(beta, value)` at the smallest value of `function`.

    The best point of the (increasing) grid, refined between its neighbours by Brent's method in
    log beta.  `values` are those of `function` on the grid, where they are known already.
    """
    values = function(grid) if values is None else values
    k = int(np.argmin(values))
    low, high = np.log(grid[max(k - 1, 0)]), np.log(grid[min(k + 1, grid.size - 1)])
    refined = minimize_scalar(
        lambda log_beta: float(function(np.exp(np.array([log_beta])))[0]),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-8},
    )
    if refined.fun < values[k]:
        return float(np.exp(refined.x)), float(refined.fun)
    return float(grid[k]), float(values[k])
