"""Newton's method for likelihoods made of flows between responses, within bounds or with a ridge.

Minimises `F(r) + ridge/2 sum_a r_a^2` over `lower <= r <= upper`, for a convex F that ignores a
common shift, given by its flows and the weights of its Laplacian (`ranking_flows`).

*Step.*  F sums `log sum exp` terms, whose third derivative along p is a third cumulant of p under
the shares: `|d^3 F| <= D d^2 F` with D the largest difference of p between responses ranked
together.  The derivative along the Newton direction is then still not positive at the step
`log(1 + D)/D`: every step descends, and no function values are compared.

*Bounds.*  Entries that a bound holds are left out of the step, which is cut at the bounds entry by
entry, or at the first bound where that is not certain to descend.

*Coordinates.*  Strongly connected components of the win graph are drawn apart by flows that
vanish in the rounding of those inside.  Each free component has one coordinate for its common
shift, whose derivative sums only the flows between components.  With a ridge the mean is 0 and
one entry is held, so that a faint ridge does not vanish beside the weights.

Source: arXiv 1703.04599 (damped step, nu = 2); Bertsekas 1982 (SIAM J. Control Optim. 20, 2).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.rewards.existence import strong_components

#: The step after which the error is below rounding.
FINAL_STEP = 1e-9

_BASE_STEPS = 200

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
    problem = _Problem(flows, wins, lower, upper, ridge)
    r, length = np.clip(start, lower, upper), np.inf
    width = float(np.max(np.where(np.isfinite(upper - lower), upper - lower, 0.0)))
    if ridge > 0:
        # Responses that only ever win are drawn this far apart, in order of magnitude.
        width += max(0.0, float(np.log(wins.sum()) - np.log(ridge)))
    for _ in range(_BASE_STEPS + 4 * len(r) + int(4 * width)):
        try:
            direction = problem.direction(r)
        except LinAlgError:
            return r, np.inf
        length = float(np.abs(direction).max())
        r = problem.advance(r, direction)
        if length <= FINAL_STEP:
            break
    return r, length


class _Problem:
    """What does not change along the iteration, and one step of it."""

    def __init__(
        self, flows: Flows, wins: FloatArray, lower: FloatArray, upper: FloatArray, ridge: float
    ) -> None:
        self.flows, self.lower, self.upper, self.ridge = flows, lower, upper, ridge
        self.linked = (wins + wins.T) > 0
        self.labels = strong_components(wins)
        self.sizes = np.bincount(self.labels)
        self.between = self.labels[:, None] != self.labels

    def direction(self, r: FloatArray) -> FloatArray:
        """Return the Newton direction over the entries that no bound holds."""
        flow, weights = self.flows(r)
        gradient = _net(flow) + self.ridge * r
        shift = self._per_component(_net(np.where(self.between, flow, 0.0)) + self.ridge * r)
        total = flow.sum(axis=0) + flow.sum(axis=1) + self.ridge * np.abs(r)
        noise = 16 * np.finfo(np.float64).eps * (1 + np.abs(r).max()) * total
        low, high = r <= self.lower, r >= self.upper
        ground = self._ground(low | high)
        multiplier = self._multipliers(gradient, shift, ground, noise)
        held = (low & high) | (low & (multiplier >= 0)) | (high & (multiplier <= 0))
        if not held.any():
            # The sum ignores a common shift, or has its minimum over one at mean 0, so one entry
            # may be held: one on a bound, if any, which rounding alone may seem to pull off it.
            held[np.where(low | high, np.abs(multiplier), np.inf).argmin()] = True
        while True:
            p = self._newton(weights, gradient, shift, ground, held)
            outward = ~held & ((low & (p < 0)) | (high & (p > 0)))
            if not outward.any():
                return p
            held |= outward

    def advance(self, r: FloatArray, direction: FloatArray) -> FloatArray:
        """Return the next iterate: inside the box and not above r."""
        reach = float(np.abs(direction[:, None] - direction)[self.linked].max())
        step = float(np.log1p(reach) / reach) if reach > 0 else 1.0
        full = r + step * direction
        cut = np.clip(full, self.lower, self.upper)
        # The sum is convex: a derivative that is not positive at the end of the segment proves
        # descent, and this reaches many bounds at a time.
        if np.array_equal(full, cut) or self._slope(cut, cut - r) <= 0:
            return cut
        wall = np.where(direction > 0, self.upper, self.lower)
        moving = direction != 0
        room = np.full(len(r), np.inf)
        # A bound that is too many steps away for a float is rightly at an infinite distance.
        with np.errstate(over="ignore"):
            room[moving] = (wall - r)[moving] / direction[moving]
        step = min(step, float(room.min()))
        ahead = np.clip(r + step * direction, self.lower, self.upper)
        return np.where(room <= step, wall, ahead)

    def _slope(self, r: FloatArray, direction: FloatArray) -> float:
        return float((_net(self.flows(r)[0]) + self.ridge * r) @ direction)

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
            return np.zeros(len(gradient))
        free = ~held
        loose = (self.sizes > 1) & (self._per_component(held.astype(np.float64)) == 0)
        slope, basis = gradient, None
        if loose.any():
            moved = ground[loose]
            slope = gradient.copy()
            slope[moved] = shift[loose]
            basis = np.eye(len(gradient))
            basis[:, moved] = self.labels[:, None] == self.labels[moved]
            hessian = self._shifted(weights, basis, moved)
        else:
            hessian = _laplacian(weights) + self._penalty()
        hessian = hessian[np.ix_(free, free)]
        diagonal = hessian.diagonal()
        if not (diagonal > 0).all():
            raise LinAlgError("a diagonal entry of the Hessian vanished")
        # With a unit diagonal the factorisation is blind to the range of the weights.
        unit = 1.0 / np.sqrt(diagonal)
        factor = cho_factor(unit[:, None] * hessian * unit, lower=True, check_finite=False)
        solution = unit * cho_solve(factor, -unit * slope[free], check_finite=False)
        step = np.zeros(len(gradient))
        step[free] = solution
        if basis is not None:
            step = np.asarray(basis @ step)
        return step - step.mean() if self.ridge else step

    def _shifted(self, weights: FloatArray, basis: FloatArray, moved: IntArray) -> FloatArray:
        """Return the Hessian with shifts of components in the place of the entries moved."""
        inner = _laplacian(np.where(self.between, 0.0, weights))
        # A shift of a whole component changes nothing inside it.
        inner[moved, :] = 0.0
        inner[:, moved] = 0.0
        outer = _laplacian(np.where(self.between, weights, 0.0)) + self._penalty()
        return np.asarray(basis.T @ outer @ basis + inner)

    def _penalty(self) -> FloatArray | float:
        """Return the Hessian of `ridge/2 sum_a (r_a - mean r)^2`."""
        size = len(self.labels)
        return self.ridge * (np.eye(size) - 1.0 / size) if self.ridge else 0.0


def _net(flow: FloatArray) -> FloatArray:
    return np.asarray(flow.sum(axis=0) - flow.sum(axis=1))


def _laplacian(weights: FloatArray) -> FloatArray:
    return np.asarray(np.diag(weights.sum(axis=1)) - weights)
