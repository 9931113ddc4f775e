r"""Newton's method for convex likelihoods of flows between responses, in a box or with a ridge.

Minimises `F(r) + (ridge/2) sum_i r_i^2` over `lower <= r <= upper`, for a convex F that ignores a
common shift of all rewards: its gradient is the net of flows between responses, its Hessian the
Laplacian of weights.

*Step.*  F sums `log sum exp` terms, whose third derivative along p is a third cumulant of p:
`|d^3 F| <= D d^2 F` with D the largest difference of p between responses compared.  The derivative
along the Newton direction is then still not positive at the step `log(1 + D)/D`: every step
descends, no function values are compared (their differences drown in rounding long before the
rewards are accurate), and the steps become full ones as D -> 0.

*Bounds.*  Entries on a bound whose multiplier holds them there are left out of the step.  The step
is cut at the bounds entry by entry, and where that is not certain to descend, at the first bound.

*Coordinates.*  Components of the win graph that only ever beat each other are drawn apart by
flows of order `exp(-r_max)`, which vanish in the rounding of the flows inside a component.  Each
free component therefore has one coordinate for its common shift, whose derivative sums the flows
between components alone; the inner flows cancel in it exactly.

*Common shift.*  A ridge makes the mean 0.  A faint one would vanish beside the weights, so the
shift is no coordinate: the step is found for `q = r - r_k`, one entry k held, in which the ridge is
`(ridge/2) sum_i (q_i - mean q)^2`.

Source: arXiv 1703.04599 (damped step, nu = 2); Bertsekas 1982 (SIAM J. Control Optim. 20, 2) for
the bounds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.rewards.existence import strong_components

#: Newton steps allowed, besides those that bounds and responses add.
BASE_STEPS = 200

#: The step after which the error, of the order of the step squared, is below rounding.
FINAL_STEP = 1e-9


class Derivatives(NamedTuple):
    """What a step needs of F at one point."""

    #: (K,) gradient.
    net: FloatArray
    #: (K,) what flows between components add to it.
    across: FloatArray
    #: (K,) flows in and out of each response.
    total: FloatArray
    #: Weights of the Laplacian, in the shape that `laplacian` takes.
    weights: FloatArray


class BoundedNewton(ABC):
    """F of one prompt in its box, with what does not change along the iteration.

    Subclasses set `between`, which weights link components, in the shape of the weights.

    Parameters
    ----------
    wins : (K, K) array
        Positive where the row beat the column, or was ranked above it; weakly connected.
    lower, upper : (K,) arrays
        An entry with `lower == upper` is held fixed.  There must be one minimiser in the box.
    ridge : float
        Not negative; where positive, the bounds are infinite.
    """

    between: BoolArray

    def __init__(
        self, wins: FloatArray, lower: FloatArray, upper: FloatArray, ridge: float
    ) -> None:
        self.size, self.lower, self.upper, self.ridge = len(wins), lower, upper, ridge
        self.labels = strong_components(wins)
        self._sizes = np.bincount(self.labels)
        width = float(np.max(np.where(np.isfinite(upper - lower), upper - lower, 0.0)))
        if ridge > 0:
            # Responses that only ever win are drawn this far apart, in order of magnitude.
            width += max(0.0, float(np.log(wins.sum()) - np.log(ridge)))
        self._most_steps = BASE_STEPS + 4 * self.size + int(4 * width)

    @abstractmethod
    def derivatives(self, r: FloatArray) -> Derivatives:
        """Return the derivatives of F."""

    @abstractmethod
    def slope(self, r: FloatArray, direction: FloatArray) -> float:
        """Return the derivative of F along a direction."""

    @abstractmethod
    def reach(self, direction: FloatArray) -> float:
        """Return the largest difference of a direction between responses compared."""

    @abstractmethod
    def laplacian(self, weights: FloatArray) -> FloatArray:
        """Return the (K, K) Laplacian."""

    def minimize(self, start: FloatArray) -> tuple[FloatArray, float]:
        """Return the minimiser and the length of the last step, an error estimate.

        With a ridge, `start` has mean 0.  The length is infinite if the Hessian was singular to
        rounding.
        """
        r, length = np.clip(start, self.lower, self.upper), np.inf
        for _ in range(self._most_steps):
            try:
                direction = self._direction(r)
            except LinAlgError:
                return r, np.inf
            length = float(np.abs(direction).max())
            r = self._advance(r, direction)
            if length <= FINAL_STEP:
                break
        return r, length

    def _direction(self, r: FloatArray) -> FloatArray:
        """Return the Newton direction over the entries that no bound holds."""
        net, across, total, weights = self.derivatives(r)
        gradient = net + self.ridge * r
        shift = self._per_component(across + self.ridge * r)
        total = total + self.ridge * np.abs(r)
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
        while True:
            p = self._newton(weights, gradient, shift, ground, held)
            outward = ~held & ((low & (p < 0)) | (high & (p > 0)))
            if not outward.any():
                return p
            # With an entry on a bound, the one that was held for want of another must be free:
            # it may belong to a group that only faint flows move.
            held = outward if afloat else held | outward
            afloat = False

    def _advance(self, r: FloatArray, direction: FloatArray) -> FloatArray:
        """Return the next iterate: inside the box and not above r in F."""
        reach = self.reach(direction)
        step = float(np.log1p(reach) / reach) if reach > 0 else 1.0
        full = r + step * direction
        cut = np.clip(full, self.lower, self.upper)
        if np.array_equal(full, cut):
            return cut
        # F is convex: a derivative that is not positive at the end of the segment proves descent.
        # With many responses this reaches many bounds at a time.
        if self.slope(cut, cut - r) + self.ridge * (cut @ (cut - r)) <= 0:
            return cut
        wall = np.where(direction > 0, self.upper, self.lower)
        moving = direction != 0
        room = np.full(self.size, np.inf)
        # A bound that is too many steps away for a float is rightly at an infinite distance.
        with np.errstate(over="ignore"):
            room[moving] = (wall - r)[moving] / direction[moving]
        step = min(step, float(room.min()))
        ahead = np.clip(r + step * direction, self.lower, self.upper)
        return np.where(room <= step, wall, ahead)

    def _per_component(self, values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(self.labels, weights=values), dtype=np.float64)

    def _ground(self, bounded: BoolArray) -> IntArray:
        """Return one entry of each component, on a bound if it has one there."""
        order = np.lexsort((~bounded, self.labels))
        return order[np.searchsorted(self.labels[order], np.arange(len(self._sizes)))]

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
            return np.zeros(self.size)
        free = ~held
        loose = (self._sizes > 1) & (self._per_component(held.astype(np.float64)) == 0)
        slope, basis = gradient, None
        if loose.any():
            moved = ground[loose]
            slope = gradient.copy()
            slope[moved] = shift[loose]
            basis = np.eye(self.size)
            basis[:, moved] = self.labels[:, None] == self.labels[moved]
            hessian = self._shifted(weights, basis, moved)
        else:
            hessian = self.laplacian(weights) + self._penalty()
        hessian = hessian[np.ix_(free, free)]
        diagonal = hessian.diagonal()
        if not (diagonal > 0).all():
            raise LinAlgError("a diagonal entry of the Hessian vanished")
        # Weights range over exp(-r_max) ... 1; unit diagonal makes the factorisation blind to it.
        unit = 1.0 / np.sqrt(diagonal)
        factor = cho_factor(unit[:, None] * hessian * unit, lower=True, check_finite=False)
        step = np.zeros(self.size)
        step[free] = unit * cho_solve(factor, -unit * slope[free], check_finite=False)
        if basis is not None:
            step = np.asarray(basis @ step)
        return step - step.mean() if self.ridge else step

    def _shifted(self, weights: FloatArray, basis: FloatArray, moved: IntArray) -> FloatArray:
        """Return the Hessian with shifts of components in the place of the entries moved."""
        inner = self.laplacian(np.where(self.between, 0.0, weights))
        # A shift of a whole component changes nothing inside it.
        inner[moved, :] = 0.0
        inner[:, moved] = 0.0
        outer = self.laplacian(np.where(self.between, weights, 0.0)) + self._penalty()
        return np.asarray(basis.T @ outer @ basis + inner)

    def _penalty(self) -> FloatArray | float:
        """Return the Hessian of `ridge/2 sum_i (r_i - mean r)^2`."""
        return self.ridge * (np.eye(self.size) - 1.0 / self.size) if self.ridge else 0.0
