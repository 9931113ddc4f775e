r"""Compiled Gibbs policies, their exponential tilts, and the enhancer.

Features are stored `(X, d, Y)`, logarithms of policies `(X, Y)` with `LOG_ZERO` where there is no
mass: every product with it is then 0 without a branch.

*The enhancer's problem.*  `maximise ||v(q)||_{Sigma^-1}` over `beta KL(q || pi) <= c ||v(q)||`,
`v(q) = E_x[phi(x, q) - phi(x, pi)]`, `KL` averaged over prompts.  As
`||v|| = max {<u, v> : ||u||_Sigma <= 1}`, it is `max_u M(u)`, where `M(u)` is the convex program
`max {<u, v(q)> : beta KL(q || pi) <= c <u, v(q)>}`.  That one is solved by a tilt
`q = pi e^{s <u, phi>}/Z`: with `L(s) = E_x log E_pi e^{s <u, phi - phi_pi>}` the constraint reads
`h(s) = beta (s L'(s) - L(s)) - c L'(s) <= 0`, which holds at `s = c/beta` and, as
`h' = (beta s - c) L''`, up to its only root beyond; `L'` rises, so the root is the answer (or the
limit `s -> inf`, where the constraint holds for every s).

Over u the problem is not convex.  `u <- Sigma^-1 v(q)/||v(q)||` never lowers M: q stays feasible
for the new u, and gains.  Its fixed points are the stationary points.  The columns of `L'^-1`,
`Sigma = L L'`, and a direction that the caller gives are compared, with both signs, at
`s = c/beta`, which is feasible; both signs of the best are then solved, and the better one is where
the steps start.  The answer is a stationary point, in general a local maximum.  For d = 1 it is the
global one, as the two signs are all there is.

The root is kept between a feasible and an infeasible strength.  Where the tilt is all but a point
mass at every prompt h is flat, and Newton's method would leave for infinity: strengths at most
double.

Source: arXiv 2312.11456 (the set and the enhancer); the algorithm is ours.
"""

from __future__ import annotations

import math

from rlhfsim.checks import FloatArray
from rlhfsim.compiling import EXACT, SUMS
from rlhfsim.kernels.elementary import exp
from rlhfsim.kernels.intrinsics import larger
from rlhfsim.online.linear.layout import LOG_ZERO
from rlhfsim.online.linear.likelihood import (
    combine,
    copy,
    copy_rows,
    dot,
    fill,
    solve_lower,
    solve_upper,
)

#: Relative precision of a tilt's strength and of its constraint, on the way and at the end.
_LOOSE, _FINE = 1e-3, 1e-12
_SEARCHES = 200
#: Rounding of a mean of equal numbers, as a share of them.
_ROUNDING = 2e-15
#: Rounding of a variance, as a share of the mean square, and of a divergence.
_NO_VARIANCE, _DIVERGENCE_ROUNDING = 4e-15, 1e-15
#: What an answer may leave its set by, as a share of beta and of what is reached.
_CERTIFIED = 1e-9
#: A change of the whitened direction that counts as none.
_STILL = 1e-9


@SUMS
def _largest(a: FloatArray) -> float:
    top = a[0]
    for i in range(1, a.size):
        top = larger(top, a[i])
    return top


@SUMS
def total(a: FloatArray) -> float:
    """Return the sum of the entries."""
    result = 0.0
    for i in range(a.size):
        result += a[i]
    return result


@SUMS
def _square_dot(a: FloatArray, b: FloatArray) -> float:
    """Return `sum_i a_i b_i^2`."""
    result = 0.0
    for i in range(a.size):
        result += a[i] * b[i] * b[i]
    return result


@EXACT
def _exponentials(logs: FloatArray, top: float, out: FloatArray) -> None:
    for y in range(out.size):
        out[y] = exp(logs[y] - top)


@EXACT
def _divide(a: FloatArray, by: float) -> None:
    for y in range(a.size):
        a[y] /= by


@EXACT
def _shift(a: FloatArray, by: float) -> None:
    for y in range(a.size):
        a[y] -= by


@EXACT
def _add(a: FloatArray, scale: float, b: FloatArray, out: FloatArray) -> None:
    for y in range(out.size):
        out[y] = a[y] + scale * b[y]


@EXACT
def gibbs(
    features: FloatArray, base: FloatArray, psi: FloatArray, logs: FloatArray, policy: FloatArray
) -> None:
    """Set the policy `base e^{<psi, phi>}/Z` and its logarithm; `base` holds logarithms."""
    for x in range(base.shape[0]):
        combine(features[x], psi, policy[x])
        _add(base[x], 1.0, policy[x], logs[x])
        top = _largest(logs[x])
        _exponentials(logs[x], top, policy[x])
        mass = total(policy[x])
        _divide(policy[x], mass)
        _shift(logs[x], top + math.log(mass))


@EXACT
def difference(
    features: FloatArray, rho: FloatArray, policy: FloatArray, other: FloatArray,
    scratch: FloatArray, out: FloatArray,
) -> None:  # fmt: skip
    """Set `out` to `E_x[phi(x, policy) - phi(x, other)]`."""
    fill(out, 0.0)
    for x in range(rho.size):
        _add(policy[x], -1.0, other[x], scratch)
        for k in range(out.size):
            out[k] += rho[x] * dot(scratch, features[x, k])


@EXACT
def whitened_norm(factor: FloatArray, v: FloatArray) -> float:
    """Replace v by `L^-1 v`, of a Cholesky factor of Sigma; return `||v||_{Sigma^-1}`."""
    solve_lower(factor, v)
    return math.sqrt(dot(v, v))


@EXACT
def _scores(
    features: FloatArray, policy: FloatArray, factor: FloatArray, direction: FloatArray,
    u: FloatArray, scores: FloatArray,
) -> None:  # fmt: skip
    """Set `<u, phi - phi_pi>`, u the whitened direction seen in the space of features."""
    copy(direction, u)
    solve_upper(factor, u)
    for x in range(policy.shape[0]):
        combine(features[x], u, scores[x])
        centre = dot(policy[x], scores[x])
        for y in range(policy.shape[1]):
            score = scores[x, y] - centre
            # Equal scores differ from their mean by its rounding alone.
            scores[x, y] = score if abs(score) > _ROUNDING * abs(centre) else 0.0


@EXACT
def _tilt(
    scores: FloatArray, logs: FloatArray, rho: FloatArray, s: float, scratch: FloatArray,
    q: FloatArray,
) -> tuple[float, float, float]:  # fmt: skip
    """Set the policy of strength s; return `(L, L', L'')`."""
    log_mean, mean, variance = 0.0, 0.0, 0.0
    for x in range(rho.size):
        _add(logs[x], s, scores[x], scratch)
        top = _largest(scratch)
        _exponentials(scratch, top, q[x])
        mass = total(q[x])
        _divide(q[x], mass)
        m = dot(q[x], scores[x])
        log_mean += rho[x] * (top + math.log(mass))
        mean += rho[x] * m
        square = _square_dot(q[x], scores[x])
        variance += rho[x] * (square - m * m if square - m * m > _NO_VARIANCE * square else 0.0)
    return log_mean, mean, variance


@EXACT
def _saturated(scores: FloatArray, logs: FloatArray) -> float:
    """Return a strength from which on tilts are point masses, but for nearly equal scores."""
    reach, deepest = 0.0, 0.0
    for x in range(logs.shape[0]):
        for y in range(logs.shape[1]):
            if logs[x, y] > 0.5 * LOG_ZERO:
                reach, deepest = max(reach, abs(scores[x, y])), min(deepest, logs[x, y])
    return (1e4 - 10.0 * deepest) / reach if reach > 0.0 else 0.0


@EXACT
def _aim(
    turn: int, starts: int, first: int, sign: float, direction: FloatArray,
    best_start: FloatArray, out: FloatArray,
) -> None:  # fmt: skip
    """Set `out` to the whitened direction of a turn: a start, the best one signed, or a step's."""
    for k in range(out.size):
        axis = 1.0 if turn // 2 == k else 0.0
        start = sign * (direction[k] if turn // 2 == direction.size else axis)
        signed = sign * best_start[k]
        out[k] = start if turn < starts else signed if turn < first else direction[k]


@EXACT
def _solve_strength(
    scores: FloatArray, logs: FloatArray, rho: FloatArray, beta: float, c: float, starting: bool,
    s: float, most: float, precision: float, scratch: FloatArray, q: FloatArray,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Set q to the tilt of the largest feasible strength; return it, L', h and what h may be.

    The search begins at strength s.  With `starting` there is none: q is the tilt of `c/beta`, and
    s is returned as it came.
    """
    least = c / beta
    low, high = least, math.inf
    mean, excess, allowed = 0.0, 0.0, 0.0
    for search in range(_SEARCHES):
        at = least if starting else s
        log_mean, mean, variance = _tilt(scores, logs, rho, at, scratch, q)
        excess = beta * (at * mean - log_mean) - c * mean
        allowed = precision * c * mean
        allowed += _DIVERGENCE_ROUNDING * beta * (1.0 + at * mean + abs(log_mean))
        if excess <= 0.0:
            low = at
        else:
            high = at
        slope = (beta * at - c) * variance
        new = at - excess / slope if slope > 0.0 else low
        if not low < new < high:
            new = 2.0 * at if math.isinf(high) else 0.5 * (low + high)
        new = min(new, 2.0 * at)
        near = abs(new - at) <= precision * at
        done = excess <= allowed and (near or at >= most)
        if starting or done or search == _SEARCHES - 1:
            break
        # Just below the root there is a feasible strength; in the end the last one known.
        new = max(low, at - 2.0 * precision * at) if near else new
        s = low if search == _SEARCHES - 2 else new
    return s, mean, excess, allowed


@EXACT
def _turn_towards(v: FloatArray, value: float, keep: bool, direction: FloatArray) -> float:
    """Move the direction to `v/value`, unless it is to be kept; return by how much they differ."""
    moved = 0.0
    for k in range(direction.size):
        moved = max(moved, abs(v[k] / value - direction[k]))
        if not keep:
            direction[k] = v[k] / value
    return moved


@EXACT
def enhance(
    features: FloatArray, rho: FloatArray, logs: FloatArray, policy: FloatArray,
    factor: FloatArray, beta: float, c: float, steps: int, direction: FloatArray,
    vectors: FloatArray, scores: FloatArray, scratch: FloatArray, q: FloatArray,
) -> tuple[float, float, float]:  # fmt: skip
    """Set q to the enhancer; return its uncertainty, its strength, and what moves a fixed point.

    The uncertainty is -1 where q would be outside of its set by more than rounding.

    `direction` is a whitened unit vector, one of the starts, and the answer; `vectors` (3, d),
    `scores` (X, Y) and `scratch` (Y,) are workspace.  Where no policy differs from `policy`, q is
    `policy`.
    """
    u, v, best_start = vectors[0], vectors[1], vectors[2]
    d = direction.size
    starts, least = 2 * d + 2, c / beta
    first = starts + 2
    best, root, side, strength = 0.0, 0.0, 1.0, 2.0 * least
    value, moved, s = 0.0, math.inf, 2.0 * least
    mean, excess, allowed = 0.0, 0.0, 0.0
    copy(direction, best_start)
    # One loop for starts and steps: every loop that is inlined twice is compiled twice.
    for turn in range(first + steps + 1 if least > 0.0 else starts + 1):
        starting, signing = turn < starts, starts <= turn < first
        last = turn == first + steps or moved <= _STILL
        if turn == starts and not (best > 0.0 and least > 0.0):
            copy_rows(policy, q)
            return 0.0, 0.0, 0.0
        if turn == first:
            for k in range(d):
                direction[k] = side * best_start[k]
        sign = 1.0 - 2.0 * (turn % 2)
        _aim(turn, starts, first, sign, direction, best_start, v)
        _scores(features, policy, factor, v, u, scores)
        most = _saturated(scores, logs)
        precision = _FINE if last or d == 1 else max(_FINE, min(_LOOSE, 0.01 * moved))
        s = strength if turn == first else 2.0 * least if signing else s
        s = max(least, min(s, 2.0 * most))
        s, mean, excess, allowed = _solve_strength(
            scores, logs, rho, beta, c, starting, s, most, precision, scratch, q
        )
        copy(v, u)
        difference(features, rho, q, policy, scratch, v)
        value = whitened_norm(factor, v)
        if starting:
            if value > best and most > 0.0:
                best = value
                copy(u, best_start)
            continue
        if signing:
            if value > root:
                root, side, strength = value, sign, s
            continue
        if not value > 0.0:
            # So little moves that its square underflows.
            copy_rows(policy, q)
            return 0.0, 0.0, 0.0
        moved = _turn_towards(v, value, last, direction)
        if last:
            break
    # The least strength is feasible for certain; the logarithms of a far tilt carry rounding.
    inside = s <= least or excess <= allowed + _CERTIFIED * (beta + c * mean)
    return value if inside else -1.0, s, moved
