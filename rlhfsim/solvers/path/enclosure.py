"""The best beta of any divergence, by branch and bound on `tau = 1/beta`.

Notation.  Per prompt `pi_tau = p F(s)`, `F = (f')^{-1}` clipped at 0, `s_y = tau r_y - mu(tau)`,
mu making it sum to 1.  `v = p F'(s) = p / f''(w)` on `w > 0`, `rho(tau) = sum v r / sum v`;
implicit differentiation gives `mu' = rho` and, for every constant c,

    d/dtau E_pi[g] = sum_y v_y (r_y - rho) (g_y - c).                                        (1)

**Theorem A (any f).**  Let `g = g+ - g-` with g+ and g- non-decreasing functions of the learned
reward r.  Then on `[t1, t2]`, `0 <= t1 < t2 <= inf`, `E_tau[g] - E_t1[g] <= E_t2[g+] - E_t1[g+]`
and `E_tau[g] - E_t2[g] <= E_t2[g-] - E_t1[g-]`.
*Proof.*  The mass of an upper set of r has derivative `sum v (r - rho)` over it, which is >= 0
since v >= 0 and the sum over all is 0.  So `E[g+]` and `E[g-]` do not decrease in tau.  (Responses
of equal r keep their proportions, so g may be replaced by its p-mean on each level of r.)

**Theorem B (f''' <= 0, so F is convex: KL, chi-squared, sums of them).**  On `[t1, t2]`:
`rho(t1) <= rho(tau) <= rho(t2)`; each `s_y(tau)` is concave; hence v is between
`min(v(t1), v(t2))` and `p F'(S)`, where `S = s(t2)` if `r >= rho(t2)`, `s(t1)` if `r <= rho(t1)`,
else the smaller of `s(t1) + (r - rho(t1)) h` and `s(t2) + (rho(t2) - r) h`, `h = t2 - t1`.
*Proof.*  Where F is twice differentiable `rho' = sum p F''(s) (r - rho)^2 / sum v >= 0`, so mu is
convex (and so it is in general, by approximation) and `s_y = tau r_y - mu` concave: it is at least
the smaller of its end values and at most its tangents at the ends, of slopes `r - rho(t1)` and
`r - rho(t2)`.  F' does not decrease.

By B the right side of (1) is enclosed over a box by its smallest and largest value over v and rho
in their ranges; the width of that is O(h), so `J <= min(J(t1) + hi (tau - t1), J(t2) - lo (t2 -
tau))` is O(h^2) above J.  Theorem A covers boxes that are long for some prompt, and `t2 = inf`.
Each prompt uses whichever is tighter.  Rounding is carried as explicit margins.

Source: derived; the search is Piyavskii's (1972) with the slopes proved box by box.
"""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.divergences import (
    KL,
    AlphaDivergence,
    ChiSquared,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)
from rlhfsim.solvers.exact import solve
from rlhfsim.solvers.solution import rounding

# Masses below this may have lost digits to underflow; the true ones are below it, too.
_TINY_MASS = 1e-306


def has_convex_inverse_link(divergence: Divergence) -> bool:
    """Return whether f''' <= 0 is known, of every term and so of the sum.

    It holds for the divergences of the library but for alpha-divergences of order above 2; a class
    of one's own declares it by an attribute `convex_inverse_link = True`.
    """
    return all(_base_has_convex_inverse_link(base) for _, base in divergence.terms())


def _base_has_convex_inverse_link(base: Divergence) -> bool:
    if isinstance(base, AlphaDivergence):
        return base.alpha <= 2
    known = isinstance(base, (KL, ChiSquared, ForwardKL, SquaredHellinger, JensenShannon))
    return known or bool(getattr(base, "convex_inverse_link", False))


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows of prompts with positive weight; `reward_hat` is at most 0 with a range near 1."""

    gold: FloatArray
    reward_hat: FloatArray
    reference: FloatArray
    weights: FloatArray
    divergence: Divergence
    rising: FloatArray = field(init=False)
    falling: FloatArray = field(init=False)
    spread: FloatArray = field(init=False)
    convex: bool = field(init=False)

    def __post_init__(self) -> None:
        """Split the gold reward as in Theorem A."""
        rising, falling = _monotone_parts(self.gold, self.reward_hat, self.reference)
        object.__setattr__(self, "rising", rising)
        object.__setattr__(self, "falling", falling)
        object.__setattr__(self, "spread", np.abs(self.gold).max(axis=-1))
        object.__setattr__(self, "convex", has_convex_inverse_link(self.divergence))

    def policy(self, tau: float) -> FloatArray:
        """Return `pi_tau`, for tau from 0 to infinity."""
        p, r = self.reference, self.reward_hat
        # Below, 1/tau overflows.
        if tau < 1e-300:
            return p / p.sum(axis=-1, keepdims=True)
        if tau == math.inf:
            best = np.where(p > 0, r, -np.inf).max(axis=-1, keepdims=True)
            mass = np.where(r == best, p, 0.0)
            mass = mass / mass.max(axis=-1, keepdims=True)
            return mass / mass.sum(axis=-1, keepdims=True)
        return solve(r, p, self.divergence, 1.0 / tau).policy


def _monotone_parts(
    gold: FloatArray, reward_hat: FloatArray, reference: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return g+ and g-, both 0 at the worst reward_hat, of the p-mean of g on each level."""
    inside = reference > 0
    order = np.argsort(np.where(inside, reward_hat, np.inf), axis=-1, kind="stable")
    ranked, g, p = (np.take_along_axis(a, order, -1) for a in (reward_hat, gold, reference))
    new = np.ones(ranked.shape, dtype=bool)
    new[:, 1:] = (ranked[:, 1:] > ranked[:, :-1]) | (p[:, 1:] == 0)
    starts = np.flatnonzero(new)
    heaviest = np.repeat(np.maximum.reduceat(p.ravel(), starts), np.diff(np.append(starts, p.size)))
    share = np.where(p > 0, p, 1.0).ravel() / np.where(heaviest > 0, heaviest, 1.0)
    level = np.add.reduceat(share * g.ravel(), starts) / np.add.reduceat(share, starts)
    # Responses of mass 0 come last in their row and take no part.
    level = np.where(p.ravel()[starts] > 0, level, 0.0)
    steps = np.zeros(p.size)
    steps[starts[1:]] = level[1:] - level[:-1]
    steps = np.where(p > 0, steps.reshape(p.shape), 0.0)
    steps[:, 0] = 0.0
    parts = []
    for part in (np.maximum(steps, 0.0), np.maximum(-steps, 0.0)):
        unsorted = np.zeros_like(part)
        np.put_along_axis(unsorted, order, part.cumsum(axis=-1), axis=-1)
        parts.append(unsorted)
    return parts[0], parts[1]


# ---- one point of the path -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Node:
    """Everything that bounds need at one tau; per prompt (X,), or per response (X, Y)."""

    tau: float
    #: (X,) `E_pi[g]`, and of g+ and g-.
    value: FloatArray
    rise: FloatArray
    fall: FloatArray
    #: expected value, and what rounding may have done to it.
    total: float
    error: float
    #: (X, Y) score s (an upper bound where pi underflows), `v = p F'(s)` and the rounding of v.
    score: FloatArray
    speed: FloatArray
    speed_error: FloatArray
    #: (X,) rho, its rounding, and the v-mean of g.
    centre: FloatArray
    centre_error: FloatArray
    gold_centre: FloatArray
    #: dJ/dtau
    slope: float


def evaluate(problem: Problem, tau: float) -> Node:
    """Return the node at tau."""
    p, r, g = problem.reference, problem.reward_hat, problem.gold
    inside, unit = p > 0, rounding(p.shape[-1])
    policy = problem.policy(tau)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        divisor = np.where(inside, p, 1.0)
        ratio = np.maximum(policy, np.where(inside, _TINY_MASS, 1.0)) / divisor
        score = problem.divergence.link(ratio)
        largest = np.where(inside, p / problem.divergence.link_slope(ratio), 0.0)
        alive = policy >= _TINY_MASS
        speed = np.where(alive, largest, 0.0)
        # s is known to a few of the 16 eps in `unit`, w moves by (v/pi) ds relatively, and v by
        # about as much: by F''/F' <= F'/F times it for KL and chi-squared, twice for forward KL.
        stretch = np.where(alive, np.abs(score) * speed / np.where(alive, policy, 1.0), 0.0)
        speed_error = np.where(alive, unit * speed * (1.0 + stretch), largest)
        whole = speed.sum(axis=-1)
        centre = (speed * r).sum(axis=-1) / whole
        offset = np.abs(r - centre[:, None])
        centre_error = (speed_error * offset).sum(axis=-1) / whole + unit * np.abs(centre)
        gold_centre = (speed * g).sum(axis=-1) / whole
        drift = (speed * np.abs(np.where(alive, score, 0.0))).sum(axis=-1)
        slopes = (speed * (r - centre[:, None]) * (g - gold_centre[:, None])).sum(axis=-1)
    value = (policy * g).sum(axis=-1)
    errors = unit * problem.spread * (2.0 + drift)
    return Node(
        tau=tau,
        value=value,
        rise=(policy * problem.rising).sum(axis=-1),
        fall=(policy * problem.falling).sum(axis=-1),
        total=float((problem.weights * value).sum()),
        error=float((problem.weights * errors).sum()),
        score=score,
        speed=speed,
        speed_error=speed_error,
        centre=centre,
        centre_error=centre_error,
        gold_centre=gold_centre,
        slope=float((problem.weights * slopes).sum()),
    )


# ---- one box -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Box:
    """`[left.tau, right.tau]` and a proven upper bound of J on it."""

    left: Node
    right: Node
    bound: float


def bounded(problem: Problem, left: Node, right: Node) -> Box:
    """Return the box, shrunk to an end where J is proven to be monotone."""
    margin = max(left.error, right.error)
    rho, width = problem.weights, right.tau - left.tau
    climb = np.maximum(right.rise - left.rise, 0.0)
    drop = np.maximum(right.fall - left.fall, 0.0)
    simple = float((rho * (left.value + climb)).sum()) + margin
    if not (problem.convex and math.isfinite(width)):
        return Box(left, right, max(simple, left.total + margin, right.total + margin))
    low, high = _slope_range(problem, left, right)
    with np.errstate(over="ignore", invalid="ignore"):
        sharp = (high - low) * width / 4.0 <= climb + drop
    low_sum, high_sum = (float((rho[sharp] * x[sharp]).sum()) for x in (low, high))
    # Prompts that are not sharp: at most their left value plus climb, or right value plus drop.
    rest = rho[~sharp]
    climb_rest, drop_rest = (float((rest * x[~sharp]).sum()) for x in (climb, drop))
    falls, rises = high_sum <= 0 and climb_rest == 0, low_sum >= 0 and drop_rest == 0
    if falls and rises:
        # Constant: all of it is as good as its ends.
        return Box(left, right, max(left.total, right.total) + margin)
    if falls:
        return Box(left, left, left.total + left.error)
    if rises:
        return Box(right, right, right.total + right.error)
    from_left, from_right = left.total + climb_rest, right.total + drop_rest
    peak = _roof(from_left, max(high_sum, 0.0), from_right, min(low_sum, 0.0), width)
    return Box(left, right, min(peak, simple - margin) + margin)


def _roof(left: float, high: float, right: float, low: float, width: float) -> float:
    """Return the largest `min(left + high t, right - low (width - t))` over t in [0, width]."""
    if high == 0 or low == 0:
        return left if high == 0 else right
    at = min(max((right - left - low * width) / (high - low), 0.0), width)
    return max(min(left + high * at, right - low * (width - at)), min(left, right))


def _slope_range(problem: Problem, left: Node, right: Node) -> tuple[FloatArray, FloatArray]:
    """Return per prompt the smallest and largest `dE[g]/dtau` that Theorem B allows."""
    first, last = left.centre - left.centre_error, right.centre + right.centre_error
    least, most = _speed_range(problem, left, right)
    middle = 0.5 * (first + last)[:, None]
    usual = 0.5 * (left.gold_centre + right.gold_centre)[:, None]
    g = np.where(problem.reference > 0, problem.gold - usual, 0.0)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # (1) = sum v (r - middle) g - (rho - middle) sum v g.
        low, high = _linear_range((problem.reward_hat - middle) * g, least, most)
        total = np.maximum(*(np.abs(x) for x in _linear_range(g, least, most)))
        reach = 0.5 * (last - first) * total
        low, high = low - reach, high + reach
    # Beyond the floats nothing is known.
    return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)


def _speed_range(problem: Problem, left: Node, right: Node) -> tuple[FloatArray, FloatArray]:
    """Return per response the smallest and largest v that Theorem B allows, (X, Y)."""
    p, r, divergence = problem.reference, problem.reward_hat, problem.divergence
    width, unit = right.tau - left.tau, rounding(p.shape[-1])
    first = (left.centre - left.centre_error)[:, None]
    last = (right.centre + right.centre_error)[:, None]
    error = np.maximum(left.speed_error, right.speed_error)
    most = np.maximum(left.speed, right.speed)
    between = (p > 0) & (r > first) & (r < last)
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        top = np.minimum(
            left.score[between] + ((r - first) * width)[between],
            right.score[between] + ((last - r) * width)[between],
        )
        size = np.abs(left.score[between]) + np.abs(right.score[between])
        ratio = divergence.inverse_link(top)
        speed = np.where(ratio > 0, p[between] / divergence.link_slope(ratio), 0.0)
        most[between] = np.maximum(most[between], speed)
        error[between] = np.maximum(
            error[between], unit * speed * (1.0 + size * speed / (p[between] * ratio))
        )
        return np.maximum(np.minimum(left.speed, right.speed) - error, 0.0), most + error


def _linear_range(
    coefficients: FloatArray, least: FloatArray, most: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the smallest and largest `sum_y c_y v_y` over `least <= v <= most`."""
    up = np.where(coefficients > 0, coefficients, 0.0)
    down = np.where(coefficients < 0, coefficients, 0.0)
    low = np.where(up > 0, up * least, 0.0) + np.where(down < 0, down * most, 0.0)
    high = np.where(up > 0, up * most, 0.0) + np.where(down < 0, down * least, 0.0)
    return low.sum(axis=-1), high.sum(axis=-1)


# ---- the search ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Enclosure:
    """What the search has proved; `intervals` are in tau and hold every global maximiser."""

    best: Node
    lower: float
    upper: float
    intervals: tuple[tuple[float, float], ...]
    evaluations: int
    finished: bool


def search(
    problem: Problem, low: float, high: float, tolerance: float, max_evaluations: int
) -> Enclosure:
    """Enclose the largest J over tau in `[low, high]`, `0 <= low <= high <= inf`."""
    nodes = [evaluate(problem, tau) for tau in ([low] if low == high else [low, high])]
    best = max(nodes, key=lambda node: node.total)
    count, ties = len(nodes), itertools.count()
    heap = [(-box.bound, next(ties), box) for box in [bounded(problem, nodes[0], nodes[-1])]]
    closed: list[Box] = []
    finished = False
    while heap:
        box = heap[0][2]
        finished = box.bound <= best.total + max(tolerance, 2.0 * (best.error + _error(box)))
        if finished or count >= max_evaluations:
            break
        heapq.heappop(heap)
        middle = _split(box.left.tau, box.right.tau)
        if not box.left.tau < middle < box.right.tau:
            closed.append(box)
            continue
        node = evaluate(problem, middle)
        count += 1
        best = max(best, node, key=lambda n: (n.total, -n.tau))
        for ends in ((box.left, node), (node, box.right)):
            child = bounded(problem, *ends)
            if child.bound >= best.total - best.error:
                heapq.heappush(heap, (-child.bound, next(ties), child))
    boxes = [box for _, _, box in heap] + closed
    boxes = [box for box in boxes if box.bound >= best.total - best.error]
    polished, extra = _polish(problem, best, boxes) if finished or not heap else (best, 0)
    spans = [(box.left.tau, box.right.tau) for box in boxes] + [(best.tau, best.tau)]
    return Enclosure(
        best=polished,
        lower=best.total - best.error,
        upper=max([box.bound for box in boxes] + [best.total + best.error]),
        intervals=_merged(spans),
        evaluations=count + extra,
        finished=finished or not heap,
    )


def _error(box: Box) -> float:
    return max(box.left.error, box.right.error)


def _split(left: float, right: float) -> float:
    """Return a point inside: rewards have range 1, so tau of order 1 is where things happen."""
    if right == math.inf:
        return 1.0 if left < 1 else max(4.0 * left, min(left * left, 1e300))
    if left == 0:
        return 0.5 * right if right <= 2 else 1.0
    if right > 4 * left:
        return math.sqrt(left) * math.sqrt(right)
    return left + 0.5 * (right - left)


def _polish(problem: Problem, best: Node, boxes: list[Box]) -> tuple[Node, int]:
    """Return a root of dJ/dtau next to the best node, where a box brackets one, if it is as good.

    J is flat at its top, so comparing values finds the place to half the digits only.
    """
    touching = [box for box in boxes if best.tau in (box.left.tau, box.right.tau)]
    ends = [node for box in touching for node in (box.left, box.right)]
    left = max((n for n in ends if n.slope > 0), key=lambda n: n.tau, default=None)
    right = min((n for n in ends if n.slope < 0), key=lambda n: n.tau, default=None)
    if left is None or right is None or not left.tau < right.tau < math.inf:
        return best, 0
    a, b, count = left, right, 0
    for _ in range(100):
        middle = _regula_falsi(a, b) if count % 3 else a.tau + 0.5 * (b.tau - a.tau)
        if not a.tau < middle < b.tau:
            break
        node = evaluate(problem, middle)
        count += 1
        if node.slope == 0:
            a = node
            break
        a, b = (node, b) if node.slope > 0 else (a, node)
        if b.tau - a.tau <= 4e-16 * b.tau:
            break
    root = min(a, b, key=lambda n: abs(n.slope))
    return (root if root.total >= best.total - best.error else best), count


def _regula_falsi(a: Node, b: Node) -> float:
    return a.tau + (b.tau - a.tau) * (a.slope / (a.slope - b.slope))


def _merged(spans: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Return the union of closed intervals, in increasing order."""
    merged: list[tuple[float, float]] = []
    for left, right in sorted(spans):
        if merged and left <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], right))
        else:
            merged.append((left, right))
    return tuple(merged)
