r"""Profile likelihood: the smallest linear functional over a Bradley-Terry likelihood region.

Minimises `<w, r>` over `{r : D(r) <= c}`, where

    D(r) = L(r_hat) - L(r),   -L(r) = sum_ij W_ij log(1 + exp(r_j - r_i)),

r_hat is the maximiser of L, finite, and w sums to 0 over each linked set of responses.  The profile
`P(v) = min {D(r) : <w, r> = v}` is convex, 0 at `v_hat = <w, r_hat>` and unbounded to its left,
because L has a finite maximiser; the answer is the v below `v_hat` with `P(v) = c`.

*Inner problem.*  Newton's method on the hyperplane `<w, r> = v`.  Along a direction p,
`|d^3 D| <= m d^2 D` with `m = max |p_i - p_j|`, so the derivative along p is still not positive at
the step `log(1 + m)/m`: it descends from everywhere and ends in full steps.  The hyperplane's
multiplier s, `grad D + s w = 0`, is `-P'(v)`.

*Outer problem.*  Newton's method for `sqrt(P) = sqrt(c)`, which is nearly linear in v; where it
leaves the bracket, the step for `P = c`, which by convexity never overshoots from the left.

*Certificate.*  With `lambda = 1/s`, r minimises the Lagrangian `<w, .> + lambda (D(.) - c)`, whose
minimum is a lower bound.  The duality gap is therefore `lambda |c - D(r)|`, and what is left of
stationarity adds `lambda e' H^-1 e`, `e = grad D + s w`, twice the model's value.  Where D has
become linear to rounding, this holds for the s next to the rounded one.

*Rounding.*  Far out D is linear but for curvatures of order `exp(-margin)`, and the rounding of the
gradient, divided by them, is longer than any step.  In the set that pays for the distance, steps
are therefore fixed by the hyperplane first and by the curvature last (`systems.bordered`).

Source: Venzon and Moolgavkar 1988 (Appl. Statist. 37, 1) for profile likelihood bounds; arXiv
1703.04599 for the damped step (nu = 2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.rewards.confidence.linked import LinkedSets
from rlhfsim.rewards.confidence.systems import (
    Group,
    System,
    bordered,
    deficit,
    eliminate,
    group_of_size,
    restrict,
    select,
    system_of,
)

#: Largest duality gap, as a share of the distance from the maximum likelihood value.
RELATIVE_GAP = 1e-9

_OUTER_STEPS = 100
_INNER_STEPS = 100
_FINAL_STEP = 1e-9
_CLOSE = 1e-13
_TOO_FAR = (
    "no bound: the region reaches margins whose curvature, of order exp(-margin), drowns in "
    "rounding; the radius is too large for so few comparisons of some response"
)


class ProfileError(RuntimeError):
    """A bound failed its own certificate."""


class Bound(NamedTuple):
    """The smallest `<w, r>` over the region."""

    value: float
    #: (N,) rewards of the compared cells that attain it.
    reward: FloatArray
    gap: float


class _Newton(NamedTuple):
    """A Newton step on the hyperplane."""

    #: The multiplier s.
    slope: float
    #: (N,) step, and how r moves with v, `<w, tangent> = 1`.
    direction: FloatArray
    tangent: FloatArray
    #: `P''(v)`.
    curvature: float
    #: `e' H^-1 e`, `e = grad D + s w`.
    error: float


class Region:
    """`{r : D(r) <= c}` over all linked sets of a dataset.

    Parameters
    ----------
    linked : LinkedSets
    best : (N,) array
        `r_hat`.
    """

    def __init__(self, linked: LinkedSets, best: FloatArray) -> None:
        self._best = best
        self._linked = linked
        self._groups = [group_of_size(linked, size) for size in np.unique(linked.sizes)]

    def deficit(self, reward: FloatArray) -> float:
        """Return `D(reward)` of `(N,)` rewards, in nats."""
        change = reward - self._best
        return float(sum(deficit(group, self._best, change) for group in self._groups))

    def smallest(self, weights: FloatArray, radius: float) -> Bound:
        """Return the minimum of `<weights, r>` over `D(r) <= radius`.

        Parameters
        ----------
        weights : (N,) array
            Summing to 0 over each linked set.
        radius : float
            Positive.

        Raises
        ------
        ProfileError
            When the duality gap is larger than `RELATIVE_GAP` allows.
        """
        scale = float(np.abs(weights).max())
        if scale == 0.0:
            return Bound(0.0, self._best, 0.0)
        # Sets without weight stay at their maximum, and cost nothing.
        used = np.bincount(self._linked.labels, weights=np.abs(weights)) > 0
        groups = [restrict(group, used[self._linked.labels]) for group in self._groups]
        search = _Search([g for g in groups if len(g.rows)], self._best, weights / scale, radius)
        try:
            with np.errstate(all="ignore"):
                found = search.run()
        except np.linalg.LinAlgError as error:
            raise ProfileError(_TOO_FAR) from error
        if not found.gap <= RELATIVE_GAP * abs(found.value):
            raise ProfileError(
                f"no certified bound: the duality gap is {scale * found.gap:.3g} at a distance of "
                f"{scale * abs(found.value):.3g} from the maximum likelihood value "
                f"(allowed {scale * RELATIVE_GAP * abs(found.value):.3g})"
            )
        value = float(weights @ self._best) + scale * found.value
        return Bound(value, self._best + found.reward, scale * found.gap)


class _Search:
    """One linear functional, with weights of magnitude 1, over changes `u = r - r_hat`.

    Working with u keeps the digits of narrow regions: with n comparisons u is of order
    `n^-1/2`, and the rounding of r itself would cost n units of rounding in D.
    """

    def __init__(
        self, groups: list[Group], best: FloatArray, weights: FloatArray, radius: float
    ) -> None:
        self.groups, self.best, self.weights = groups, best, weights
        self.radius = radius
        #: A cell of the set that is solved together with the constraint.
        self.last = int(np.abs(weights).argmax())

    def run(self) -> Bound:
        """Return the minimum of `<w, u>` with its u and its duality gap."""
        radius = self.radius
        change = np.zeros(len(self.best))
        at = self._solve(change)
        step, low, high, reach = -float(np.sqrt(2.0 * radius / at.curvature)), -np.inf, 0.0, 1.0
        deficit = 0.0
        for _ in range(_OUTER_STEPS):
            length = abs(step) * float(np.ptp(at.tangent))
            if length > reach:
                # The tangent says little so far away; what it promises is believed step by step.
                step, reach = step * reach / length, 2.0 * reach
            change, at = self._profile(change + step * at.tangent)
            value = float(self.weights @ change)
            deficit = self._deficit(change)
            low, high = (value, high) if deficit >= radius else (low, value)
            step = _outer_step(deficit, radius, at.slope)
            if not low <= value + step <= high:
                step = (deficit - radius) / at.slope
            if not low <= value + step <= high:
                step = (low + high) / 2 - value
            if abs(step) <= _CLOSE * abs(value):
                break
        gap = (abs(radius - deficit) + at.error) / at.slope
        return Bound(float(self.weights @ change), change, gap)

    def _profile(self, change: FloatArray) -> tuple[FloatArray, _Newton]:
        """Return the minimiser of D on the hyperplane through `change`.

        Returns
        -------
        (N,) array, _Newton
            The minimiser, and the last step towards it.
        """
        for _ in range(_INNER_STEPS):
            at = self._solve(change)
            length = float(np.ptp(at.direction))
            if not np.isfinite(length):
                raise ProfileError(_TOO_FAR)
            change = change + (np.log1p(length) / length if length > 0 else 1.0) * at.direction
            if length <= _FINAL_STEP or at.error <= _CLOSE * self.radius:
                return change, at
        raise ProfileError(_TOO_FAR)

    def _solve(self, change: FloatArray) -> _Newton:
        """Return the Newton step on the hyperplane, by elimination of all sets but one.

        The last set is solved together with the constraint.  It is the one that moves most with
        v: where D is nearly linear its own curvature is lost in rounding, but not the constraint.
        """
        w = self.weights
        gradient, tangent, newton = (np.zeros(len(w)) for _ in range(3))
        systems = [system_of(group, self.best, change) for group in self.groups]
        for group, system in zip(self.groups, systems, strict=True):
            gradient[group.rows] = system.gradient
        rows, last = self._last_set(systems)
        for group, system in zip(self.groups, systems, strict=True):
            others = (group.rows != self.last).all(axis=1)
            cells, part = group.rows[others], select(system, others)
            tangent[cells], newton[cells] = eliminate(part, w[cells])
        inside, (slope, bend) = bordered(
            last, w[rows], corner=-float(w @ tangent), load=float(w @ newton)
        )
        direction, along = -newton - slope * tangent, -bend * tangent
        direction[rows], along[rows] = inside
        share = np.abs(w * along)
        if share.max() > 2.0 * share[rows].max():
            self.last = int(share.argmax())
        error = abs(float((gradient + slope * w) @ direction))
        return _Newton(float(slope), direction, along, -float(bend), error)

    def _last_set(self, systems: list[System]) -> tuple[IntArray, System]:
        """Return the (1, k) rows of the set of the cell `last`, and its system."""
        holds = [(group.rows == self.last).any(axis=1) for group in self.groups]
        at = next(i for i, mine in enumerate(holds) if mine.any())
        return self.groups[at].rows[holds[at]], select(systems[at], holds[at])

    def _deficit(self, change: FloatArray) -> float:
        return float(sum(deficit(group, self.best, change) for group in self.groups))


def _outer_step(deficit: float, radius: float, slope: float) -> float:
    """Return the Newton step in v for `sqrt(P(v)) = sqrt(radius)`."""
    root = np.sqrt(deficit)
    return float(2.0 * root * (root - np.sqrt(radius)) / slope)
