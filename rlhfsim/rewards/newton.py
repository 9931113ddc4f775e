r"""Newton's method for the Bradley-Terry likelihood of one prompt.

Minimises, over `lower <= r <= upper`,

    F(r) = sum_ij W_ij log(1 + exp(r_j - r_i)) + (ridge/2) sum_i r_i^2,

`W_ij` the number of times i beat j.  Write `f_ij = W_ij sigma(r_j - r_i)` (the flow from winner
to loser); then `dF/dr_j = sum_i f_ij - sum_i f_ji + ridge r_j`, and the Hessian is the Laplacian
of the weights `(W_ij + W_ji) sigma'(r_i - r_j)` plus `ridge` on the diagonal.

*Step.*  Along a direction p, `|d^3 F| <= D d^2 F` with `D = max |p_i - p_j|` over compared pairs,
so the derivative of F along the Newton direction is still not positive at the step
`log(1 + D)/D`.  Every step therefore descends, no function values are compared (their differences
drown in rounding long before the rewards are accurate), and the steps become full ones as D -> 0.

*Bounds.*  Entries on a bound whose multiplier holds them there are left out of the step.  The step
is cut at the bounds entry by entry, and where that is not certain to descend, at the first bound.

*Coordinates.*  Components of the win graph that only ever beat each other are drawn apart by
flows of order `exp(-r_max)`, which vanish in the rounding of the flows inside a component.  Each
free component therefore has one coordinate for its common shift, whose derivative sums the flows
between components alone; the inner flows cancel in it exactly.

*Common shift.*  The likelihood ignores a common shift of all rewards, and a ridge makes their mean
0.  A faint ridge would vanish beside the weights of the Laplacian, so the shift is no coordinate:
the step is found for `q = r - r_k`, one entry k held, in which the ridge is
`(ridge/2) sum_i (q_i - mean q)^2`.

Source: Hunter 2004 (Ann. Statist. 32, 1), section 3, for the likelihood; arXiv 1703.04599
(damped step, nu = 2) for the step; Bertsekas 1982 (SIAM J. Control Optim. 20, 2) for the bounds.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.special import expit

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.rewards.existence import strong_components

#: Newton steps allowed, besides those that bounds and responses add.
BASE_STEPS = 200

#: The step after which the error, of the order of the step squared, is below rounding.
FINAL_STEP = 1e-9


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
    problem = _Problem(wins, lower, upper, ridge)
    r = np.clip(start, lower, upper)
    width = float(np.max(np.where(np.isfinite(upper - lower), upper - lower, 0.0)))
    if ridge > 0:
        # Responses that only ever win are drawn this far apart, in order of magnitude.
        width += max(0.0, float(np.log(wins.sum()) - np.log(ridge)))
    length = np.inf
    for _ in range(BASE_STEPS + 4 * len(r) + int(4 * width)):
        try:
            direction = problem.direction(r)
        except LinAlgError:
            return r, np.inf
        length = float(np.abs(direction).max())
        r = problem.advance(r, direction)
        if length <= FINAL_STEP:
            break
    return r, length


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


class _Problem:
    """One prompt's F over its pairs i < j, with what does not change along the iteration."""

    def __init__(
        self, wins: FloatArray, lower: FloatArray, upper: FloatArray, ridge: float
    ) -> None:
        self.size, self.lower, self.upper, self.ridge = len(wins), lower, upper, ridge
        self.i, self.j = np.nonzero(np.triu(wins + wins.T))
        self.won, self.lost = wins[self.i, self.j], wins[self.j, self.i]
        self.labels = strong_components(wins)
        self.sizes = np.bincount(self.labels)
        self.between = self.labels[self.i] != self.labels[self.j]

    def direction(self, r: FloatArray) -> FloatArray:
        """Return the Newton direction over the entries that no bound holds."""
        gap = r[self.i] - r[self.j]
        above, below = expit(gap), expit(-gap)
        net = self.lost * above - self.won * below
        gradient = self._divergence(net) + self.ridge * r
        across = self._divergence(np.where(self.between, net, 0.0)) + self.ridge * r
        shift = self._per_component(across)
        total = self._sum(self.lost * above + self.won * below) + self.ridge * np.abs(r)
        noise = 16 * np.finfo(np.float64).eps * (1 + np.abs(r).max()) * total
        low, high = r <= self.lower, r >= self.upper
        ground = self._ground(low | high)
        multiplier = self._multipliers(gradient, shift, ground, noise)
        held = (low & high) | (low & (multiplier >= 0)) | (high & (multiplier <= 0))
        afloat = not held.any()
        if afloat:
            # F ignores a common shift of all entries, or its minimum over one is at mean 0;
            # without a held entry the system is singular, at least to rounding.
            held[0] = True
        weights = (self.won + self.lost) * above * below
        while True:
            p = self._newton(weights, gradient, shift, ground, held)
            outward = ~held & ((low & (p < 0)) | (high & (p > 0)))
            if not outward.any():
                return p
            # With an entry on a bound, the one that was held for want of another must be free:
            # it may belong to a group that only faint flows move.
            held = outward if afloat else held | outward
            afloat = False

    def advance(self, r: FloatArray, direction: FloatArray) -> FloatArray:
        """Return the next iterate: inside the box and not above r in F."""
        reach = float(np.abs(direction[self.i] - direction[self.j]).max())
        step = np.log1p(reach) / reach if reach > 0 else 1.0
        full = r + step * direction
        cut = np.clip(full, self.lower, self.upper)
        if np.array_equal(full, cut):
            return cut
        # F is convex: a derivative that is not positive at the end of the segment proves descent.
        # With many responses this reaches many bounds at a time.
        if self._slope(cut, cut - r) <= 0:
            return cut
        wall = np.where(direction > 0, self.upper, self.lower)
        moving = direction != 0
        room = np.full(self.size, np.inf)
        # A bound that is too many steps away for a float is rightly at an infinite distance.
        with np.errstate(over="ignore"):
            room[moving] = (wall - r)[moving] / direction[moving]
        step = min(step, room.min())
        ahead = np.clip(r + step * direction, self.lower, self.upper)
        return np.where(room <= step, wall, ahead)

    def _slope(self, r: FloatArray, direction: FloatArray) -> float:
        gap = r[self.i] - r[self.j]
        net = self.lost * expit(gap) - self.won * expit(-gap)
        return float(net @ (direction[self.i] - direction[self.j]) + self.ridge * (r @ direction))

    def _sum(self, values: FloatArray) -> FloatArray:
        """Return for each entry the sum of the values of its pairs."""
        first = np.bincount(self.i, weights=values, minlength=self.size)
        return np.asarray(first + np.bincount(self.j, weights=values, minlength=self.size))

    def _divergence(self, values: FloatArray) -> FloatArray:
        """As `_sum`, with the sign changed for the second entry of each pair."""
        first = np.bincount(self.i, weights=values, minlength=self.size)
        return np.asarray(first - np.bincount(self.j, weights=values, minlength=self.size))

    def _per_component(self, values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(self.labels, weights=values), dtype=np.float64)

    def _ground(self, bounded: BoolArray) -> IntArray:
        """Return one entry of each component, on a bound if it has one there."""
        order = np.lexsort((~bounded, self.labels))
        return order[np.searchsorted(self.labels[order], np.arange(len(self.sizes)))]

    def _multipliers(
        self, gradient: FloatArray, shift: FloatArray, ground: IntArray, noise: FloatArray
    ) -> FloatArray:
        """Return the gradient with the rounding of each component moved off its ground entry."""
        clean = np.where(np.abs(gradient) <= noise, 0.0, gradient)
        clean[ground] = 0.0
        clean[ground] = shift - self._per_component(clean)
        return clean

    def _laplacian(self, weights: FloatArray) -> FloatArray:
        matrix = np.diag(self._sum(weights))
        matrix[self.i, self.j] = matrix[self.j, self.i] = -weights
        return matrix

    def _newton(
        self,
        weights: FloatArray,
        gradient: FloatArray,
        shift: FloatArray,
        ground: IntArray,
        held: BoolArray,
    ) -> FloatArray:
        """Return the solution of the Newton system over the entries not held."""
        if held.all():
            return np.zeros(self.size)
        free = ~held
        loose = (self.sizes > 1) & (self._per_component(held.astype(np.float64)) == 0)
        moved = ground[loose]
        basis = np.eye(self.size)
        basis[:, moved] = self.labels[:, None] == self.labels[moved]
        slope = gradient.copy()
        slope[moved] = shift[loose]
        inner = self._laplacian(np.where(self.between, 0.0, weights))
        inner[moved, :] = 0.0
        inner[:, moved] = 0.0
        outer = self._laplacian(np.where(self.between, weights, 0.0))
        outer += self.ridge * (np.eye(self.size) - 1.0 / self.size)
        hessian = (basis.T @ outer @ basis + inner)[np.ix_(free, free)]
        # Weights range over exp(-r_max) ... 1; unit diagonal makes the factorisation blind to it.
        unit = 1.0 / np.sqrt(hessian.diagonal())
        factor = cho_factor(unit[:, None] * hessian * unit, lower=True, check_finite=False)
        solution = unit * cho_solve(factor, -unit * slope[free], check_finite=False)
        step = np.asarray(basis[:, free] @ solution)
        return step - step.mean() if self.ridge else step
