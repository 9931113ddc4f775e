r"""Profile likelihood: the smallest linear functional over a Bradley-Terry likelihood region.

Minimises `<w, r>` over `{r : D(r) <= c}`, where

    D(r) = L(r_hat) - L(r),   -L(r) = sum_ij W_ij log(1 + exp(r_j - r_i)),

r_hat is the maximiser of L, finite, and w sums to 0 over each linked set of responses.  The profile
`P(v) = min {D(r) : <w, r> = v}` is convex, 0 at `v_hat = <w, r_hat>` and unbounded to its left,
because L has a finite maximiser; the answer is the v below `v_hat` with `P(v) = c`.

*Inner problem.*  Newton's method on the hyperplane.  Along a direction p,
`|d^3 D| <= m d^2 D` with `m = max |p_i - p_j|`, so the derivative along p is still not positive at
the step `log(1 + m)/m`: it descends from everywhere and ends in full steps.  The hyperplane's
multiplier s, `grad D + s w = 0`, is `-P'(v)`.

*Outer problem.*  Newton's method for `sqrt(P) = sqrt(c)`, which is nearly linear in v; where it
leaves the bracket, the step for `P = c`, which by convexity never overshoots from the left.

*Certificate.*  With `lambda = 1/s`, r minimises the Lagrangian `<w, .> + lambda (D(.) - c)`, whose
minimum is a lower bound.  The duality gap is therefore `lambda |c - D(r)|`, and what is left of
stationarity adds `lambda e' H^-1 e`, `e = grad D + s w`, twice the model's value.

Source: Venzon and Moolgavkar 1988 (Appl. Statist. 37, 1) for profile likelihood bounds; arXiv
1703.04599 for the damped step (nu = 2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.rewards.confidence.linked import LinkedSets

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


class _Group(NamedTuple):
    """The linked sets of one size."""

    #: (C, k) rows of the cells in `LinkedSets`.
    rows: IntArray
    #: (C, k, k) how often the first beat the second.
    wins: FloatArray


class _System(NamedTuple):
    """Gradient and Hessian of C sets of one size, the best connected cell of each held."""

    #: (C, k) gradient.
    gradient: FloatArray
    #: (C, k - 1, k - 1) Hessian over the free cells, scaled to a unit diagonal by `unit`.
    hessian: FloatArray
    #: (C, k - 1) scales, and which cells are free.
    unit: FloatArray
    free: IntArray


class _Newton(NamedTuple):
    """A Newton step on the hyperplane."""

    #: (N,) gradient of D, and the multiplier s.
    gradient: FloatArray
    slope: float
    #: (N,) step, and how r moves with v, `<w, tangent> = 1`.
    direction: FloatArray
    tangent: FloatArray
    #: `P''(v)`.
    curvature: float


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
        self._groups = [_group(linked, size) for size in np.unique(linked.sizes)]

    def deficit(self, reward: FloatArray) -> float:
        """Return `D(reward)` of `(N,)` rewards, in nats."""
        change = reward - self._best
        return float(sum(_deficit(group, self._best, change) for group in self._groups))

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
        groups = [_restrict(group, used[self._linked.labels]) for group in self._groups]
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
        self, groups: list[_Group], best: FloatArray, weights: FloatArray, radius: float
    ) -> None:
        self.groups, self.best, self.weights = groups, best, weights
        self.radius, self.square = radius, float(weights @ weights)
        #: A cell of the set that is solved together with the constraint.
        self.last = int(np.abs(weights).argmax())

    def run(self) -> Bound:
        """Return the minimum of `<w, u>` with its u and its duality gap."""
        radius = self.radius
        change = np.zeros(len(self.best))
        at = self._solve(change)
        step, low, high, reach = -float(np.sqrt(2.0 * radius / at.curvature)), -np.inf, 0.0, 1.0
        deficit, error = 0.0, 0.0
        for _ in range(_OUTER_STEPS):
            length = abs(step) * float(np.ptp(at.tangent))
            if length > reach:
                # The tangent says little so far away; what it promises is believed step by step.
                step, reach = step * reach / length, 2.0 * reach
            change, at, error = self._profile(change + step * at.tangent)
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
        gap = (abs(radius - deficit) + error) / at.slope
        return Bound(float(self.weights @ change), change, gap)

    def _profile(self, change: FloatArray) -> tuple[FloatArray, _Newton, float]:
        """Return the minimiser of D on the hyperplane through `change`.

        Returns
        -------
        (N,) array, _Newton, float
            The minimiser, the last step towards it, and `e' H^-1 e` before that step.
        """
        for _ in range(_INNER_STEPS):
            at = self._solve(change)
            # Rounding must not move v.
            off = float(self.weights @ at.direction) / self.square
            direction = at.direction - off * self.weights
            length = float(np.ptp(direction))
            if not np.isfinite(length):
                raise ProfileError(_TOO_FAR)
            error = abs(float((at.gradient + at.slope * self.weights) @ direction))
            change = change + (np.log1p(length) / length if length > 0 else 1.0) * direction
            if length <= _FINAL_STEP or error <= _CLOSE * self.radius:
                return change, at, error
        raise ProfileError(_TOO_FAR)

    def _solve(self, change: FloatArray) -> _Newton:
        """Return the Newton step on the hyperplane, by elimination of all sets but one.

        The last set is solved together with the constraint.  It is the one that moves most with
        v: where D is nearly linear its own curvature is lost in rounding, but not the constraint.
        """
        shape = (3, len(change))
        (gradient, tangent, newton), last = np.zeros(shape), self.last
        held: tuple[IntArray, _System] | None = None
        for group in self.groups:
            system = _system(group, self.best, change)
            gradient[group.rows] = system.gradient
            others = (group.rows != last).all(axis=1)
            if not others.all():
                held = (group.rows[~others], _select(system, ~others))
            tangent[group.rows[others]], newton[group.rows[others]] = _eliminate(
                _select(system, others), self.weights[group.rows[others]]
            )
        w = self.weights
        if held is None:
            raise AssertionError("no set holds the cell that is solved for last")
        rows, system = held
        inside, slope = _bordered(system, w[rows], -float(w @ tangent), float(w @ newton))
        direction, along = -newton - slope[0] * tangent, -slope[1] * tangent
        direction[rows], along[rows] = inside
        share = np.abs(w * along)
        if share.max() > 2.0 * share[rows].max():
            self.last = int(share.argmax())
        return _Newton(gradient, float(slope[0]), direction, along, -float(slope[1]))

    def _deficit(self, change: FloatArray) -> float:
        return float(sum(_deficit(group, self.best, change) for group in self.groups))


def _outer_step(deficit: float, radius: float, slope: float) -> float:
    """Return the Newton step in v for `sqrt(P(v)) = sqrt(radius)`."""
    root = np.sqrt(deficit)
    return float(2.0 * root * (root - np.sqrt(radius)) / slope)


def _group(linked: LinkedSets, size: int) -> _Group:
    """Return the linked sets of one size, with dense win matrices."""
    chosen = np.nonzero(linked.sizes == size)[0]
    rows = np.nonzero(linked.sizes[linked.labels] == size)[0].reshape(len(chosen), size)
    counts = linked.counts
    mine = linked.sizes[counts.prompt] == size
    wins = np.zeros((len(chosen), size, size))
    index = np.searchsorted(chosen, counts.prompt[mine])
    wins[index, counts.winner[mine], counts.loser[mine]] = counts.count[mine]
    return _Group(rows, wins)


def _restrict(group: _Group, used: BoolArray) -> _Group:
    """Return the sets of a group whose cells are used."""
    kept = used[group.rows[:, 0]]
    return _Group(group.rows[kept], group.wins[kept])


def _margins(group: _Group, reward: FloatArray) -> FloatArray:
    values = reward[group.rows]
    return np.asarray(values[:, :, None] - values[:, None, :])


def _deficit(group: _Group, best: FloatArray, change: FloatArray) -> float:
    """Return the part of `D(best + change)` that the sets of one group contribute."""
    margin, moved = _margins(group, best), _margins(group, change)
    near = np.abs(moved) < 1.0
    # Near the maximum the two likelihoods agree in most digits; their terms are subtracted exactly.
    close = np.log1p(expit(-margin) * np.expm1(np.where(near, -moved, 0.0)))
    far = np.logaddexp(0.0, -(margin + moved)) - np.logaddexp(0.0, -margin)
    return float((group.wins * np.where(near, close, far)).sum())


def _system(group: _Group, best: FloatArray, change: FloatArray) -> _System:
    """Return the gradient and the Hessian of D over the sets of one group."""
    margin = _margins(group, best) + _margins(group, change)
    flow = group.wins * expit(-margin)
    curvature = flow * expit(margin)
    hessian = -(curvature + curvature.transpose(0, 2, 1))
    diagonal = -hessian.sum(axis=2)
    every = np.arange(hessian.shape[1])
    hessian[:, every, every] = diagonal
    # The best connected cell of each set is held, so that no faint link holds up the others; a unit
    # diagonal hides how far the weights range.
    order = np.argsort(diagonal, axis=1)
    free = order[:, :-1]
    unit = 1.0 / np.sqrt(np.take_along_axis(diagonal, free, axis=1))
    sets = np.arange(len(free))[:, None, None]
    hessian = hessian[sets, free[:, :, None], free[:, None, :]]
    hessian *= unit[:, :, None] * unit[:, None, :]
    return _System(flow.sum(axis=1) - flow.sum(axis=2), hessian, unit, free)


def _select(system: _System, kept: BoolArray) -> _System:
    return _System(
        system.gradient[kept], system.hessian[kept], system.unit[kept], system.free[kept]
    )


def _eliminate(system: _System, weights: FloatArray) -> FloatArray:
    """Return the (2, C, k) solutions `H^-1 w` and `H^-1 g` of each set."""
    right = [np.take_along_axis(side, system.free, axis=1) for side in (weights, system.gradient)]
    scaled = np.stack(right, axis=-1) * system.unit[:, :, None]
    found = np.linalg.solve(system.hessian, scaled)
    return np.stack([_full(system, np.asarray(found[:, :, k], dtype=np.float64)) for k in range(2)])


def _bordered(
    system: _System, weights: FloatArray, corner: float, load: float
) -> tuple[FloatArray, FloatArray]:
    """Return the solutions of `[H w; w' corner] (p, s) = (-g, load)` and `= (0, 1)` of one set.

    Returns
    -------
    (2, 1, k) array and (2,) array
    """
    border = (np.take_along_axis(weights, system.free, axis=1) * system.unit)[0]
    size = len(border)
    # Scaled like the unit diagonal, so that pivoting takes the constraint only when it has to.
    scale = 1.0 / np.abs(border).max()
    matrix = np.zeros((size + 1, size + 1))
    matrix[:size, :size] = system.hessian[0]
    matrix[:size, size] = matrix[size, :size] = scale * border
    matrix[size, size] = scale**2 * corner
    right = np.zeros((size + 1, 2))
    right[:size, 0] = -(np.take_along_axis(system.gradient, system.free, axis=1) * system.unit)[0]
    right[size] = scale * load, scale
    found = np.linalg.solve(matrix, right)
    inside = np.stack(
        [_full(system, np.asarray(found[None, :size, k], dtype=np.float64)) for k in range(2)]
    )
    return inside, scale * found[size]


def _full(system: _System, scaled: FloatArray) -> FloatArray:
    """Return the (C, k) values of mean 0 from those of the free cells, scaled."""
    values = np.zeros_like(system.gradient)
    np.put_along_axis(values, system.free, scaled * system.unit, axis=1)
    return np.asarray(values - values.mean(axis=1, keepdims=True))
