r"""Newton's method for the Bradley-Terry likelihood of one prompt.

Minimises, over `lower <= r <= upper`,

    F(r) = sum_ij W_ij log(1 + exp(r_j - r_i)) + (ridge/2) sum_i r_i^2,

`W_ij` the number of times i beat j.  Write `f_ij = W_ij sigma(r_j - r_i)` (the flow from winner
to loser); then `dF/dr_j = sum_i f_ij - sum_i f_ji + ridge r_j`, and the Hessian is the Laplacian
of the weights `(W_ij + W_ji) sigma'(r_i - r_j)` plus `ridge` on the diagonal.

Source: Hunter 2004 (Ann. Statist. 32, 1), section 3, for the likelihood; see `bounded_newton` for
the method.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from rlhfsim.checks import FloatArray
from rlhfsim.rewards.bounded_newton import BoundedNewton, Derivatives


def minimize(
    wins: FloatArray, start: FloatArray, lower: FloatArray, upper: FloatArray, ridge: float
) -> tuple[FloatArray, float]:
    """Return the minimiser of F and the length of the last Newton step, an error estimate.

    Parameters
    ----------
    wins : (K, K) array
        Linked by comparisons (weakly connected).
    start, lower, upper : (K,) arrays
        An entry with `lower == upper` is held fixed.  F must have one minimiser in the box.
        With a ridge, `start` has mean 0 and the bounds are infinite.
    ridge : float
        Not negative.

    Returns
    -------
    (K,) array, in the box, and a number in reward units
        The number is infinite if the Hessian was singular to rounding.
    """
    return _Pairs(wins, lower, upper, ridge).minimize(start)


def kkt_residual(
    wins: FloatArray, r: FloatArray, lower: float, upper: float, ridge: float
) -> float:
    """Return the largest violation of the stationarity conditions at r, in comparisons.

    `|dF/dr_i|` inside the box; on a bound, only the part that points into the box.
    """
    # Written on the dense matrix, apart from the sums over pairs that the solver uses.
    flow = wins * expit(r[None, :] - r[:, None])
    gradient = flow.sum(axis=0) - flow.sum(axis=1) + ridge * r
    too_high = np.where(r <= lower, 0.0, np.maximum(gradient, 0.0))
    too_low = np.where(r >= upper, 0.0, np.maximum(-gradient, 0.0))
    return float(np.maximum(too_high, too_low).max())


class _Pairs(BoundedNewton):
    """F over the pairs i < j that are compared; flows and weights have one entry a pair."""

    def __init__(
        self, wins: FloatArray, lower: FloatArray, upper: FloatArray, ridge: float
    ) -> None:
        super().__init__(wins, lower, upper, ridge)
        self.i, self.j = np.nonzero(np.triu(wins + wins.T))
        self.won, self.lost = wins[self.i, self.j], wins[self.j, self.i]
        self.between = self.labels[self.i] != self.labels[self.j]

    def derivatives(self, r: FloatArray) -> Derivatives:
        """Return the derivatives of F."""
        gap = r[self.i] - r[self.j]
        above, below = expit(gap), expit(-gap)
        net = self.lost * above - self.won * below
        return Derivatives(
            net=self._divergence(net),
            across=self._divergence(np.where(self.between, net, 0.0)),
            total=self._sum(self.lost * above + self.won * below),
            weights=(self.won + self.lost) * above * below,
        )

    def slope(self, r: FloatArray, direction: FloatArray) -> float:
        """Return the derivative of F along a direction."""
        gap = r[self.i] - r[self.j]
        net = self.lost * expit(gap) - self.won * expit(-gap)
        return float(net @ (direction[self.i] - direction[self.j]))

    def reach(self, direction: FloatArray) -> float:
        """Return the largest difference between responses compared."""
        return float(np.abs(direction[self.i] - direction[self.j]).max())

    def laplacian(self, weights: FloatArray) -> FloatArray:
        """Return the (K, K) Laplacian."""
        matrix = np.diag(self._sum(weights))
        matrix[self.i, self.j] = matrix[self.j, self.i] = -weights
        return matrix

    def _sum(self, values: FloatArray) -> FloatArray:
        """Return for each entry the sum of the values of its pairs."""
        first = np.bincount(self.i, weights=values, minlength=self.size)
        return np.asarray(first + np.bincount(self.j, weights=values, minlength=self.size))

    def _divergence(self, values: FloatArray) -> FloatArray:
        """As `_sum`, with the sign changed for the second entry of each pair."""
        first = np.bincount(self.i, weights=values, minlength=self.size)
        return np.asarray(first - np.bincount(self.j, weights=values, minlength=self.size))
