"""Exact optima of regularized bandit objectives, certified.

For each prompt, `max_pi E_pi[r] - beta D_f(pi || p)` has the optimum `pi = p w`,
`w = inverse_link((r - lambda) / beta)`, where the one number lambda makes `pi` sum to 1.
Three root finders cover everything: `_gibbs` (KL), `_active_set` (chi-squared) and `_newton` (any
other divergence, through its link).

How digits are kept.  Each finder works on rewards `d = r - r_k` relative to an *anchor* response
k, so that offsets in r cost nothing.  A first solve, anchored at the largest reward, finds a rough
lambda; the second is anchored at the response whose score `s = (r - lambda)/beta` is nearest to 0.
Then lambda itself is small and every score carries a relative error of a few ulp.

Source: arXiv 2407.13399 (mixed divergence), 2205.11275 (KL); stationarity and duality derived in
the comments below.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL, ChiSquared, Divergence
from rlhfsim.solvers.solution import Solution, require_certified, rounding

# (d, p, beta) -> (policy, lambda relative to the anchor).  d and p are (N, Y), beta is (N,).
RootFinder = Callable[[FloatArray, FloatArray, FloatArray], tuple[FloatArray, FloatArray]]


def solve(
    reward: ArrayLike, reference: ArrayLike, divergence: Divergence, beta: ArrayLike
) -> Solution:
    """Return the exact maximiser of `E_pi[r] - beta D(pi || p)` over all policies, per prompt.

    Parameters
    ----------
    reward : (..., Y) array
        Finite rewards; entries where `reference` is 0 do not matter.
    reference : (..., Y) array of distributions
        The sampling policy `p`; responses of mass 0 get mass 0.
    divergence : Divergence
        `KL()`, `ChiSquared()`, or a positive combination such as `ChiSquared() + 0.5 * KL()`.
    beta : number or array
        Positive regularization strengths, broadcast against the *prompt* axes `(...)` of the two
        arrays: a grid for an `(X, Y)` problem is `beta[:, None]` and gives an `(n_beta, X, Y)`
        policy.

    Returns
    -------
    Solution
        `policy` of the broadcast shape; `multiplier`, `value`, `gap`, `feasibility` per prompt.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    SolverError
        The duality gap or the feasibility exceeds what rounding explains.

    Examples
    --------
    >>> solve([1.0, 0.0], [0.5, 0.5], ChiSquared(), 1.0).policy
    array([0.75, 0.25])
    """
    r = checks.as_real("reward", reward)
    p = checks.as_distributions("reference", reference)
    b = checks.as_positive("beta", beta)
    if r.ndim == 0 or r.shape[-1] != p.shape[-1]:
        raise ValueError(
            f"reward has shape {r.shape} and reference {p.shape}; "
            "their last axes must hold the same responses"
        )
    if not isinstance(divergence, Divergence):
        raise ValueError(f"divergence is {divergence!r}; it must be a Divergence such as KL()")
    batch = checks.broadcast(reward=r[..., 0], reference=p[..., 0], beta=b)
    size = r.shape[-1]
    rows = (int(np.prod(batch, dtype=np.int64)), size)
    # C order makes every row sum run the same way whatever the caller's strides are.
    r = np.ascontiguousarray(np.broadcast_to(r, (*batch, size))).reshape(rows)
    p = np.ascontiguousarray(np.broadcast_to(p, (*batch, size))).reshape(rows)
    b = np.ascontiguousarray(np.broadcast_to(b, batch)).reshape(rows[0])
    solution = _solve_rows(r, p, b, divergence)

    def restore(field: FloatArray) -> FloatArray:
        return field.reshape(batch)

    return require_certified(
        Solution(
            policy=solution.policy.reshape(*batch, size),
            multiplier=restore(solution.multiplier),
            value=restore(solution.value),
            gap=restore(solution.gap),
            feasibility=restore(solution.feasibility),
            tolerance=restore(solution.tolerance),
        )
    )


def _solve_rows(r: FloatArray, p: FloatArray, b: FloatArray, divergence: Divergence) -> Solution:
    inside = p > 0
    top = np.where(inside, r, -np.inf).max(axis=-1)
    with np.errstate(over="ignore"):
        spread = top - np.where(inside, r, np.inf).min(axis=-1)
    if not np.all(np.isfinite(spread)):
        raise ValueError(
            f"reward[{int(np.argmax(~np.isfinite(spread)))}] spans more than the largest float; "
            "the range of rewards within a prompt must be finite"
        )
    find_root = _root_finder(divergence)
    rough = find_root(np.where(inside, r - top[:, None], 0.0), p, b)[1]
    scores = np.where(inside, (r - top[:, None]) - rough[:, None], np.inf)
    anchor = np.take_along_axis(r, np.abs(scores).argmin(axis=-1)[:, None], axis=-1)
    d = np.where(inside, r - anchor, 0.0)
    policy, multiplier = find_root(d, p, b)
    return _certify(policy, multiplier, d, p, b, anchor[:, 0], divergence)


def _root_finder(divergence: Divergence) -> RootFinder:
    weighted = divergence.terms()
    if len(weighted) == 1:
        weight, base = weighted[0]
        if isinstance(base, KL):
            return lambda d, p, b: _gibbs(d, p, b * weight)
        if isinstance(base, ChiSquared):
            return lambda d, p, b: _active_set(d, p, b * weight)
    return lambda d, p, b: _newton(d, p, b, divergence)


# ---- KL ------------------------------------------------------------------------------------------

# Lifts subnormal products p e^s into the normal range; p e^(s/2) <= 1 keeps it from overflowing.
_LIFT = 2.0**500


def _gibbs(d: FloatArray, p: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """`pi = p e^(d/beta) / Z`, `lambda = beta log Z`."""
    with np.errstate(under="ignore", over="ignore"):
        s = d / b[:, None]
        half = np.exp(0.5 * np.where(p > 0, s, 0.0))
        # e^s may overflow where p is tiny; p e^(s/2) e^(s/2) does not.
        weights = (p * _LIFT * half) * half
        total = weights.sum(axis=-1)
        policy = weights / total[:, None]
        # log Z = log1p(sum p (e^s - 1) + (sum p - 1)) keeps lambda's digits at large beta.
        excess = np.where(np.abs(s) < 1, p * np.expm1(s), weights / _LIFT - p).sum(axis=-1)
        excess = excess + (p.sum(axis=-1) - 1.0)
        log_total = np.log(total) - np.log(_LIFT)
        log_z = np.where(np.abs(excess) < 0.5, np.log1p(np.maximum(excess, -0.5)), log_total)
        return policy, b * log_z


# ---- chi-squared ---------------------------------------------------------------------------------


def _active_set(d: FloatArray, p: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """`w = [1 + (d - lambda)/beta]_+`, with `lambda` from the active set S.

    On S: `w = 1/P + (d - m)/beta`, `P = p(S)`, `m = E_p[d | S]`, `lambda = m + beta (P - 1)/P`.
    From S = everything, dropping the responses with w <= 0 is Newton's method on a convex
    piecewise linear function: S only shrinks and ends at the optimal one, exactly.
    """
    column = b[:, None]
    active = p > 0
    with np.errstate(over="ignore", under="ignore"):
        while True:
            mass = np.where(active, p, 0.0)
            total = mass.sum(axis=-1)[:, None]
            mean = (mass * d).sum(axis=-1)[:, None] / total
            ratio = 1.0 / total + (d - mean) / column
            smaller = active & (ratio > 0)
            if np.array_equal(smaller, active):
                break
            active = smaller
        policy = np.where(active, mass * ratio, 0.0)
        multiplier = mean - column * ((1.0 - total) / total)
    return policy, multiplier[:, 0]


# ---- any divergence ------------------------------------------------------------------------------

_MAX_PASSES = 400


def _newton(
    d: FloatArray, p: FloatArray, b: FloatArray, divergence: Divergence
) -> tuple[FloatArray, FloatArray]:
    """Safeguarded Newton on `H(lambda) = sum_y p inverse_link((d - lambda)/beta) = 1`.

    H falls in lambda.  It is kept from the left, where `H >= 1`: on convex inverse links the plain
    Newton step never passes the root, and the step on log H, longer, is tried first (it is exact
    for exponential links).  `[min d, max d] - beta f'(1/sum p)` brackets the root because all
    ratios are >= 1/sum p at its left end and <= at its right end.
    """
    inside = p > 0
    shift = b * divergence.link(1.0 / p.sum(axis=-1))
    low = np.where(inside, d, np.inf).min(axis=-1) - shift
    high = np.where(inside, d, -np.inf).max(axis=-1) - shift

    def ratios(multiplier: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Ratio w, dw/ds, sum p w - 1, sum p dw/ds."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            w = divergence.inverse_link((d - multiplier[:, None]) / b[:, None])
            slope = np.where(w > 0, 1.0 / divergence.link_slope(w), 0.0)
            return w, slope, (p * w).sum(axis=-1) - 1.0, (p * slope).sum(axis=-1)

    # Jensen: at lambda = E_p d a convex inverse link has H >= 1, so this is a better left end.
    start = np.clip((p * d).sum(axis=-1) / p.sum(axis=-1) - np.abs(shift), low, high)
    _, _, excess, slope = ratios(start)
    left = excess >= 0
    high = np.where(left, high, start)
    low = np.where(left, start, low)
    _, _, excess, slope = ratios(low)
    bold = np.ones(low.shape, dtype=bool)
    tolerance = rounding(p.shape[-1]) / 8
    for _ in range(_MAX_PASSES):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            plain = low + b * excess / slope
            stretched = low + b * np.log1p(excess) * (1.0 + excess) / slope
        trial = np.where(bold & (stretched < high), stretched, plain)
        middle = low + 0.5 * (high - low)
        trial = np.where((trial > low) & (trial < high), trial, middle)
        done = (excess <= tolerance) | (trial <= low) | (trial >= high)
        if done.all():
            break
        trial = np.where(done, low, trial)
        _, _, trial_excess, trial_slope = ratios(trial)
        advance = ~done & (trial_excess >= 0)
        high = np.where(done | advance, high, trial)
        low = np.where(advance, trial, low)
        excess = np.where(advance, trial_excess, excess)
        slope = np.where(advance, trial_slope, slope)
        # After the long step overshot, the short one; after that fell short, long again.
        bold = advance

    w, slopes, excess, slope = ratios(low)
    # The last correction is made in w, where it is not rounded to the spacing of lambda.
    with np.errstate(invalid="ignore", under="ignore"):
        policy = p * (w - slopes * (excess / slope)[:, None])
    return np.where(inside, policy, 0.0), low


# ---- certificate ---------------------------------------------------------------------------------


def _certify(
    policy: FloatArray,
    multiplier: FloatArray,
    d: FloatArray,
    p: FloatArray,
    b: FloatArray,
    anchor: FloatArray,
    divergence: Divergence,
) -> Solution:
    """Attach primal value, gap and feasibility.

    For every lambda the dual function `lambda + beta sum_y p f*((r - lambda)/beta)` bounds the
    objective of every policy from above (Fenchel-Young), so the gap proves optimality.  It is
    evaluated relative to the anchor, before the anchor is added and its digits are lost.
    """
    inside = p > 0
    column = b[:, None]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        penalty = np.where(inside, divergence.perspective(policy, np.where(inside, p, 1.0)), 0.0)
        cost = b * penalty.sum(axis=-1)
        gain = (policy * d).sum(axis=-1)
        score = (d - multiplier[:, None]) / column
        dual = column * np.where(inside, p * divergence.conjugate(score), 0.0)
        value = gain - cost
        bound = multiplier + dual.sum(axis=-1)
        # Rounding of the scores moves each term of the dual by eps pi |d - lambda|.
        scale = (
            np.abs(policy * d).sum(axis=-1)
            + (policy * np.abs(d - multiplier[:, None])).sum(axis=-1)
            + cost
            + np.abs(multiplier)
            + np.abs(dual).sum(axis=-1)
        )
        # sum p is known to eps only, which moves lambda by eps beta and the dual by eps^2 beta.
        scale = scale + b * rounding(p.shape[-1])
    return Solution(
        policy=policy,
        multiplier=anchor + multiplier,
        value=anchor + value,
        gap=bound - value,
        feasibility=np.abs(policy.sum(axis=-1) - 1.0),
        tolerance=rounding(p.shape[-1]) * scale + np.finfo(np.float64).tiny,
    )
