"""Newton's method for likelihoods given by their flows between responses.

Minimises `F(r) + (ridge/2) sum_a r_a^2` over `lower <= r <= upper`, for a convex F that ignores a
common shift, given by its flows and the weights of its Laplacian (`ranking_flows`).

Source: see `bounded_newton`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.rewards.bounded_newton import BoundedNewton, Derivatives

Flows = Callable[[FloatArray], tuple[FloatArray, FloatArray]]


def minimize(
    flows: Flows,
    wins: FloatArray,
    start: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    ridge: float,
) -> tuple[FloatArray, float]:
    """Return the minimiser and the length of the last Newton step, an error estimate.

    Parameters
    ----------
    flows : function of (P,) rewards
        Returns the (P, P) flows and weights.
    wins : (P, P) array
        Positive where the row was ranked above the column; weakly connected.
    start, lower, upper : (P,) arrays
        An entry with `lower == upper` is held fixed.  There must be one minimiser in the box.
        With a ridge, `start` has mean 0 and the bounds are infinite.
    ridge : float
        Not negative.

    Returns
    -------
    (P,) array, in the box, and a number in reward units
        The number is infinite if the Hessian was singular to rounding.
    """
    return _Matrix(flows, wins, lower, upper, ridge).minimize(start)


class _Matrix(BoundedNewton):
    """F by the matrix of its flows, from the row to the column."""

    def __init__(
        self, flows: Flows, wins: FloatArray, lower: FloatArray, upper: FloatArray, ridge: float
    ) -> None:
        super().__init__(wins, lower, upper, ridge)
        self.flows = flows
        self.linked = (wins + wins.T) > 0
        self.between = self.labels[:, None] != self.labels

    def derivatives(self, r: FloatArray) -> Derivatives:
        """Return the derivatives of F."""
        flow, weights = self.flows(r)
        return Derivatives(
            net=_net(flow),
            across=_net(np.where(self.between, flow, 0.0)),
            total=flow.sum(axis=0) + flow.sum(axis=1),
            weights=weights,
        )

    def slope(self, r: FloatArray, direction: FloatArray) -> float:
        """Return the derivative of F along a direction."""
        return float(_net(self.flows(r)[0]) @ direction)

    def reach(self, direction: FloatArray) -> float:
        """Return the largest difference between responses compared."""
        return float(np.abs(direction[:, None] - direction)[self.linked].max())

    def laplacian(self, weights: FloatArray) -> FloatArray:
        """Return the (K, K) Laplacian."""
        return np.asarray(np.diag(weights.sum(axis=1)) - weights)


def _net(flow: FloatArray) -> FloatArray:
    return np.asarray(flow.sum(axis=0) - flow.sum(axis=1))
