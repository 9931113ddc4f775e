"""The general route: any divergence, any scale of rewards and references, in plain numpy.

`pi = p w`, `w = inverse_link((r - lambda)/beta)`, where the one number lambda makes `pi` sum to 1.
Three root finders cover everything: `_gibbs` (KL), `_active_set` (chi-squared) and `_newton` (any
other divergence, through its link).

How digits are kept.  Each finder works on scaled rewards `d = (r - r_k)/beta` relative to an
*anchor* response k, so that offsets in r cost nothing and beta is 1.  A first solve, anchored at
the largest reward, finds a rough lambda; the second is anchored at the response whose score
`s = (r - lambda)/beta` is nearest to 0.  Then lambda itself is small and every score carries a
relative error of a few ulp.

Finite recession.  Where `f'(inf) = recession` is finite, mass on responses of reference mass 0
costs `recession` a unit.  The dual function is then finite only for
`lambda >= max_{p=0} r - beta recession`.  If the ratios at that lambda sum to less than 1, it is
the optimum, and what is missing goes to the unsupported responses of the largest reward, equally;
otherwise lambda is the root as before and they get nothing.  Scores close to `recession` are
handled by `rlhfsim.solvers.leading_mass`.

Source: arXiv 2407.13399 (mixed divergence), 2205.11275 (KL); stationarity, duality and the case
of a finite recession derived in the comments below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.divergences import KL, ChiSquared, Divergence
from rlhfsim.solvers.leading_mass import leading_mass
from rlhfsim.solvers.solution import Solution, rounding

# (d, p, guess of lambda or None) -> (policy, lambda), lambda relative to the anchor and in units
# of beta.  d and p are (N, Y), lambda is (N,).
RootFinder = Callable[[FloatArray, FloatArray, FloatArray | None], tuple[FloatArray, FloatArray]]


def solve_rows(
    r: FloatArray, p: FloatArray, b: FloatArray, divergence: Divergence
) -> Solution[FloatArray]:
    """Return the optimum of each row of `(N, Y)` rewards and references, `b` of shape (N,).

    Checked input only; the certificate is attached, and for the caller to require.
    """
    divergence, b = _unweighted(divergence, b)
    finite = bool(np.isfinite(divergence.recession))
    matters = (p > 0) | finite
    with np.errstate(over="ignore"):
        spread = np.where(matters, r, -np.inf).max(axis=-1)
        spread = spread - np.where(matters, r, np.inf).min(axis=-1)
    if not np.all(np.isfinite(spread)):
        raise ValueError(
            f"reward of prompt {int(np.argmax(~np.isfinite(spread)))} spans more than the largest "
            "float; the range of rewards within a prompt must be finite"
        )
    if not finite:
        return _by_score(r, p, b, divergence)
    outside = _best_is_outside(r, p, b, divergence)
    leading = outside | _best_is_near_recession(r, p, b, divergence)
    parts = []
    for rows, by in ((np.flatnonzero(~leading), _by_score), (np.flatnonzero(leading), _by_mass)):
        if rows.size:
            parts.append((rows, by(r[rows], p[rows], b[rows], divergence)))
    return _joined(parts, r.shape)


def _unweighted(divergence: Divergence, b: FloatArray) -> tuple[Divergence, FloatArray]:
    """Return `c D_f` with beta as `D_f` with `beta c`; KL and chi-squared take c themselves."""
    weighted = divergence.terms()
    weight, base = weighted[0]
    if len(weighted) > 1 or isinstance(base, (KL, ChiSquared)):
        return divergence, b
    with np.errstate(over="ignore", under="ignore"):
        product = b * weight
    fits = np.all(np.isfinite(product) & (product >= np.finfo(np.float64).tiny))
    return (base, product) if fits else (divergence, b)


def _joined(
    parts: list[tuple[IntArray, Solution[FloatArray]]], shape: tuple[int, ...]
) -> Solution[FloatArray]:
    """Return the solutions of some rows each as the solution of all."""
    joined = {
        field.name: np.empty(shape if field.name == "policy" else shape[:1])
        for field in fields(Solution)
    }
    for rows, part in parts:
        for name, whole in joined.items():
            whole[rows] = getattr(part, name)
    return Solution(**joined)


def _by_score(
    r: FloatArray, p: FloatArray, b: FloatArray, divergence: Divergence
) -> Solution[FloatArray]:
    """Solve for lambda; all scores must be well below a finite recession."""
    inside = p > 0
    top = np.where(inside, r, -np.inf).max(axis=-1)
    find_root = _root_finder(divergence)
    scaled = _scaled(r, top, p, b)
    floor = _floor(r, top, p, divergence)[:, None]
    rough = find_root(np.maximum(scaled, floor), p, None)[1]
    scores = np.where(inside, scaled - rough[:, None], np.inf)
    anchor = np.take_along_axis(r, np.abs(scores).argmin(axis=-1)[:, None], axis=-1)[:, 0]
    lift = _scaled(top[:, None], anchor, None, b)
    d = np.maximum(_scaled(r, anchor, p, b), floor + lift)
    policy, multiplier = find_root(d, p, rough + lift[:, 0])
    dual = _dual_at(multiplier, d, r, p, b, anchor, divergence)
    return _certify(policy, multiplier, *dual, d, r, p, b, anchor, divergence)


# ---- finite recession ----------------------------------------------------------------------------

# The share of the recession from which on a score is known by its distance to it.
_NEAR = 0.5


def _best_is_outside(
    r: FloatArray, p: FloatArray, b: FloatArray, divergence: Divergence
) -> NDArray[np.bool_]:
    """Return where `lambda = max_{p=0} r - beta recession` leaves mass to be placed."""
    inside = p > 0
    top = np.where(inside, r, -np.inf).max(axis=-1)
    best = np.where(inside, -np.inf, r).max(axis=-1)
    outside = best > top
    deficits = -_scaled(r, np.where(outside, best, top), p, b)
    with np.errstate(over="ignore"):
        w = divergence.inverse_tail(np.where(inside & outside[:, None], deficits, 1.0))
        return outside & ((p * np.where(inside, w, 0.0)).sum(axis=-1) <= 1.0)


def _best_is_near_recession(
    r: FloatArray, p: FloatArray, b: FloatArray, divergence: Divergence
) -> NDArray[np.bool_]:
    """Return where the largest score of the optimum is above `_NEAR recession`."""
    top = np.where(p > 0, r, -np.inf).max(axis=-1)
    deficits = (1.0 - _NEAR) * divergence.recession - _scaled(r, top, p, b)
    with np.errstate(over="ignore"):
        w = divergence.inverse_tail(deficits)
        return (p * np.where(p > 0, w, 0.0)).sum(axis=-1) < 1.0


def _by_mass(
    r: FloatArray, p: FloatArray, b: FloatArray, divergence: Divergence
) -> Solution[FloatArray]:
    """Solve for the mass of the best response, whose score is near a finite recession."""
    inside = p > 0
    outside = _best_is_outside(r, p, b, divergence)
    anchor = np.where(inside | outside[:, None], r, -np.inf).max(axis=-1)
    leads = (r == anchor[:, None]) & (inside | outside[:, None])
    leads &= inside | ~(leads & inside).any(axis=-1)[:, None]
    d = _scaled(r, anchor, p, b)
    least = float(divergence.inverse_tail((1.0 - _NEAR) * divergence.recession))
    policy, deficit = leading_mass(d, p, leads, least, divergence)
    # Dual feasibility of the responses without reference mass: no score above the recession.
    others = _scaled(np.where(inside, -np.inf, r).max(axis=-1)[:, None], anchor, None, b)[:, 0]
    at = np.maximum(deficit, others)
    terms = divergence.conjugate_tail(np.where(inside, at[:, None] - d, 1.0), p)
    terms = np.where(inside, terms, 0.0)
    multiplier = deficit - divergence.recession
    dual = (at - divergence.recession, terms)
    return _certify(policy, multiplier, *dual, d, r, p, b, anchor, divergence)


# Scores beyond this would overflow in the sums.
_LARGE = 1e307
_SMALLEST = 5e-324


def _scaled(r: FloatArray, anchor: FloatArray, p: FloatArray | None, b: FloatArray) -> FloatArray:
    """Return `(r - anchor)/beta`, but 0 where p is given and 0."""
    with np.errstate(over="ignore", under="ignore"):
        difference = r - anchor[:, None]
        difference = difference if p is None else np.where(p > 0, difference, 0.0)
        return np.clip(difference / b[:, None], -_LARGE, _LARGE)


def _floor(r: FloatArray, top: FloatArray, p: FloatArray, divergence: Divergence) -> FloatArray:
    """Return the scaled reward, relative to the best, below which a response gets no mass.

    The best response has `w <= 1/p`, so `lambda >= -f'(1/p)`; a score below f' of the smallest
    float gives ratio 0.  Raising rewards from below twice that to it changes only the overflow.
    """
    best = np.where((p > 0) & (r == top[:, None]), p, 0.0).max(axis=-1)
    with np.errstate(over="ignore", divide="ignore"):
        return 2.0 * (divergence.link(np.asarray(5e-324)) - divergence.link(1.0 / best))


def _root_finder(divergence: Divergence) -> RootFinder:
    weighted = divergence.terms()
    if len(weighted) == 1:
        weight, base = weighted[0]
        if isinstance(base, KL):
            return lambda d, p, start: _gibbs(d, p, weight)
        if isinstance(base, ChiSquared):
            return lambda d, p, start: _active_set(d, p, weight)
    return lambda d, p, start: _newton(d, p, divergence, start)


# ---- KL ------------------------------------------------------------------------------------------

# The largest p e^s of a row is brought to about this power of 2: far from overflow, and what
# underflows is below 2^-1400 of it.
_TOP_BITS = 400
_LOG_2 = float(np.log(2.0))


def _gibbs(d: FloatArray, p: FloatArray, weight: float) -> tuple[FloatArray, FloatArray]:
    """For `weight KL`: `pi = p e^(d/weight) / Z`, `lambda = weight log Z`."""
    with np.errstate(under="ignore", over="ignore"):
        s = d / weight
        # e^s may overflow where p is tiny; (p e^(s/2)) 2^lift e^(s/2) does not.
        top = np.where(p > 0, np.log2(np.where(p > 0, p, 1.0)) + s / _LOG_2, -np.inf).max(axis=-1)
        lift = _TOP_BITS - np.ceil(top).astype(np.int64)
        half = np.exp(0.5 * np.where(p > 0, s, 0.0))
        weights = np.ldexp(p * half, lift[:, None]) * half
        total = weights.sum(axis=-1)
        policy = weights / total[:, None]
        # log Z = log1p(sum p (e^s - 1) + (sum p - 1)) keeps lambda's digits at large beta.
        unlifted = np.ldexp(weights, -lift[:, None])
        excess = np.where(np.abs(s) < 1, p * np.expm1(s), unlifted - p).sum(axis=-1)
        excess = excess + (p.sum(axis=-1) - 1.0)
        mantissa, exponent = np.frexp(total)
        log_total = np.log(mantissa) + (exponent - lift) * _LOG_2
        log_z = np.where(np.abs(excess) < 0.5, np.log1p(np.maximum(excess, -0.5)), log_total)
        return policy, weight * log_z


# ---- chi-squared ---------------------------------------------------------------------------------


def _active_set(d: FloatArray, p: FloatArray, c: float) -> tuple[FloatArray, FloatArray]:
    """For `c D_chi2`: `w = [1 + (d - lambda)/c]_+`, with `lambda` from the active set S.

    With responses sorted from the best, S is all those whose shortfall
    `T_k = sum_{i < k} p_i (d_i - d_k) = sum_{j < k} P_j (d_j - d_{j+1})`, `P_j = sum_{i <= j} p_i`,
    is below c.  With K the last of S, `w = (1 - T_K/c)/P_K + (d - d_K)/c` on S and
    `lambda = d_K + T_K/P_K - c (1 - P_K)/P_K`.  No sum has terms of both signs.
    """
    inside = p > 0
    with np.errstate(over="ignore", under="ignore"):
        order = np.argsort(np.where(inside, -d, np.inf), axis=-1, kind="stable")
        falling = np.take_along_axis(d, order, axis=-1)
        chances = np.take_along_axis(p, order, axis=-1)
        steps = chances.cumsum(axis=-1)[:, :-1] * (falling[:, :-1] - falling[:, 1:])
        # Beyond the support d is 0 and a step may be negative; those responses come last.
        shortfall = np.where(chances[:, 1:] > 0, steps, np.inf).cumsum(axis=-1)
        last = (shortfall < c).sum(axis=-1)[:, None]
        lowest = np.take_along_axis(falling, last, axis=-1)
        mass = np.where(inside & (d >= lowest), p, 0.0)
        above = np.maximum(d - lowest, 0.0)
        total = mass.sum(axis=-1)[:, None]
        missing = (mass * above).sum(axis=-1)[:, None]
        # missing < c but for the rounding of the two sums.
        policy = mass * np.maximum(1.0 - missing / c, 0.0) / total + mass * (above / c)
        multiplier = lowest + missing / total - c * ((1.0 - total) / total)
    return policy, multiplier[:, 0]


# ---- any divergence ------------------------------------------------------------------------------

_MAX_PASSES = 400


def _newton(
    d: FloatArray, p: FloatArray, divergence: Divergence, start: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Safeguarded Newton on `H(lambda) = sum_y p inverse_link(d - lambda) = 1`, per row.

    H falls in lambda.  It is kept from the left, where `H >= 1`: on convex inverse links the plain
    Newton step never passes the root, and the step on log H, longer, is tried first (it is exact
    for exponential links).  Rows that are done drop out.
    """

    def ratios(rows: IntArray, at: FloatArray) -> tuple[FloatArray, ...]:
        """Ratio w, dw/ds, sum p w - 1, sum p dw/ds of some rows."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            # A response of mass 0 may have any score, and an infinite ratio.
            w = np.where(p[rows] > 0, divergence.inverse_link(d[rows] - at[:, None]), 0.0)
            slope = np.where(w > 0, 1.0 / divergence.link_slope(w), 0.0)
            return w, slope, (p[rows] * w).sum(axis=-1) - 1.0, (p[rows] * slope).sum(axis=-1)

    def measure(rows: IntArray, at: FloatArray) -> tuple[FloatArray, FloatArray]:
        _, _, excess, slope = ratios(rows, at)
        return excess, slope

    everything = np.arange(len(d))
    low, high, excess, slope = _bracket(d, p, divergence, start, measure)
    # After the long step fell short, the long one again; after it overshot, the short one.
    bold = np.ones(low.shape, dtype=bool)
    # Newton's step from the right end, where there is one: it lands to the left of the root.
    back = np.full(low.shape, np.nan)
    rows = everything
    for _ in range(_MAX_PASSES):
        trial = _step(low[rows], high[rows], excess[rows], slope[rows], bold[rows], back[rows])
        going = (excess[rows] > rounding(p.shape[-1]) / 8) & (trial > low[rows])
        going &= trial < high[rows]
        rows, trial = rows[going], trial[going]
        if rows.size == 0:
            break
        trial_excess, trial_slope = measure(rows, trial)
        left = trial_excess >= 0
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            back[rows] = np.where(left, np.nan, trial + trial_excess / trial_slope)
        bold[rows] = left
        right, rows = rows[~left], rows[left]
        high[right] = trial[~left]
        low[rows], excess[rows], slope[rows] = trial[left], trial_excess[left], trial_slope[left]
        rows = np.sort(np.concatenate([rows, right]))

    w, slopes, excess, slope = ratios(everything, low)
    # The last correction is made in w, where it is not rounded to the spacing of lambda.
    with np.errstate(invalid="ignore", under="ignore"):
        # It is as positive as the inverse link is: a ratio just above 0 may be corrected to 0.
        policy = p * np.maximum(w - slopes * (excess / slope)[:, None], 0.0)
    return np.where(p > 0, policy, 0.0), low


def _bracket(
    d: FloatArray,
    p: FloatArray,
    divergence: Divergence,
    start: FloatArray | None,
    measure: Callable[[IntArray, FloatArray], tuple[FloatArray, FloatArray]],
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return `(low, high, excess at low, slope at low)` with `H(low) >= 1 >= H(high)`.

    `[min d, max d] - f'(1/sum p)` brackets the root because all ratios are >= 1/sum p at its left
    end and <= at its right end.  A better left end comes from `start`, or from Jensen: at
    `lambda = E_p d` a convex inverse link has `H >= 1`.
    """
    everything, inside = np.arange(len(d)), p > 0
    shift = divergence.link(1.0 / p.sum(axis=-1))
    low = np.where(inside, d, np.inf).min(axis=-1) - shift
    largest = np.where(inside, d, -np.inf).max(axis=-1)
    high = largest - shift
    # No mass exceeds 1 at the root; and scores are below a finite recession, where H >= 1.
    with np.errstate(divide="ignore", over="ignore"):
        limit = np.where(inside, d - divergence.link(1.0 / np.where(inside, p, 1.0)), -np.inf)
        nearer = limit.max(axis=-1)
        low = np.maximum(low, nearer - 1e-6 * (1.0 + np.abs(nearer)))
    low = np.maximum(low, largest - _NEAR * divergence.recession)
    if start is None:
        start = (p * d).sum(axis=-1) / p.sum(axis=-1) - np.abs(shift)
    start = np.clip(start, low, high)
    excess, slope = measure(everything, start)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        # From the right of the root a Newton step lands on its left, to rounding.
        leftwards = start + 1.001 * (excess / slope)
    left = excess >= 0
    high = np.where(left, high, start)
    inner = np.where(left, start, leftwards)
    inner = np.where((inner > low) & (inner < high), inner, low)
    for candidate in (inner, low):
        redo = np.flatnonzero(~left)
        if redo.size:
            start = np.where(left, start, candidate)
            excess[redo], slope[redo] = measure(redo, start[redo])
            left = (excess >= 0) | (start == low)
    return start, high, excess, slope


def _step(
    low: FloatArray,
    high: FloatArray,
    excess: FloatArray,
    slope: FloatArray,
    bold: NDArray[np.bool_],
    back: FloatArray,
) -> FloatArray:
    """Return the next point to try: the first of several that lies strictly inside the bracket."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        plain = low + excess / slope
        stretched = low + np.log1p(excess) * (1.0 + excess) / slope
        # A plain step from far away passes the root by rounding; a bit less of it does not.
        shortened = low + 0.999 * (excess / slope)
    trial = np.where(bold & (stretched < high), stretched, plain)
    for other in (back, shortened, low + 0.5 * (high - low)):
        trial = np.where((trial > low) & (trial < high), trial, other)
    return trial


# ---- certificate ---------------------------------------------------------------------------------


def _dual_at(
    multiplier: FloatArray,
    d: FloatArray,
    r: FloatArray,
    p: FloatArray,
    b: FloatArray,
    anchor: FloatArray,
    divergence: Divergence,
) -> tuple[FloatArray, FloatArray]:
    """Return the nearest lambda that is dual feasible, and the terms `p f*(d - lambda)` there."""
    inside = p > 0
    at = multiplier
    if np.isfinite(divergence.recession):
        others = np.where(inside, -np.inf, r).max(axis=-1)[:, None]
        at = np.maximum(at, _scaled(others, anchor, None, b)[:, 0] - divergence.recession)
    score = np.where(inside, d - at[:, None], 0.0)
    terms = divergence.conjugate_perspective(score, np.where(inside, p, 1.0))
    return at, np.where(inside, terms, 0.0)


def _certify(
    policy: FloatArray,
    multiplier: FloatArray,
    dual_multiplier: FloatArray,
    dual_terms: FloatArray,
    d: FloatArray,
    r: FloatArray,
    p: FloatArray,
    b: FloatArray,
    anchor: FloatArray,
    divergence: Divergence,
) -> Solution[FloatArray]:
    """Attach primal value, gap and feasibility.

    For every feasible lambda the dual function `lambda + sum_y p f*(d - lambda)` (in units of
    beta) bounds the objective of every policy from above (Fenchel-Young), so the gap proves
    optimality.  It is evaluated relative to the anchor, before the anchor is added and its digits
    are lost.  Mass outside the support costs `recession` a unit, in the primal as in the dual.
    """
    inside = p > 0
    policy = _rounded_up(policy, inside, divergence)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        penalty = divergence.perspective(np.where(inside, policy, 1.0), np.where(inside, p, 1.0))
        excess = np.where(inside, 0.0, policy).sum(axis=-1)
        cost = np.where(inside, penalty, 0.0).sum(axis=-1)
        cost = cost + np.where(
            excess > 0, divergence.recession * np.where(excess > 0, excess, 1), 0
        )
        score = d - multiplier[:, None]
        primal = (policy * d).sum(axis=-1) - cost
        bound = dual_multiplier + dual_terms.sum(axis=-1)
        # Rounding of the scores moves each term of the dual by eps pi |d - lambda|.
        scale = (
            np.abs(policy * d).sum(axis=-1)
            + np.abs(policy * score).sum(axis=-1)
            + cost
            + np.abs(multiplier)
            + np.abs(dual_terms).sum(axis=-1)
        )
        # sum p and each ratio are known to eps only, which moves lambda by f''(1) eps and primal
        # and dual by f''(1) eps^2.
        scale = scale + divergence.link_slope(1.0) * rounding(p.shape[-1])
        relevant = np.where(inside | (policy > 0), r - anchor[:, None], 0.0)
        gain = (policy * relevant).sum(axis=-1)
        return Solution(
            policy=policy,
            multiplier=anchor + b * multiplier,
            value=anchor + (gain - b * cost),
            gap=b * (bound - primal),
            feasibility=np.abs(policy.sum(axis=-1) - 1.0),
            tolerance=b * (rounding(p.shape[-1]) * scale) + np.finfo(np.float64).tiny,
        )


def _rounded_up(
    policy: FloatArray, inside: NDArray[np.bool_], divergence: Divergence
) -> FloatArray:
    """Return the policy with masses that underflow rounded up, where mass 0 costs infinity."""
    if np.isfinite(divergence.generator(0.0)):
        return policy
    return np.where(inside & (policy == 0), _SMALLEST, policy)
