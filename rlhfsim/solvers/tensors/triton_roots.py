"""Device functions that find the multiplier of rows held in registers.

A tile is `(rows, responses)`; what belongs to a row is `(rows,)`.  Used for short rows, and for
samples of long ones.
"""

# Device code: what it is compiled for is given at launch, and no type says it.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import triton
import triton.language as tl

from rlhfsim.solvers.tensors.triton_math import (
    exponent_of,
    mixed_ratio,
    mixed_step,
    mixed_terms,
    split_exp2,
)


@triton.jit
def load_tile(reward, reference, row, column, size, reference_stride):
    """Return `(r, p)` of the rows and columns; 0 beyond the end of the row."""
    inside = (column < size)[None, :]
    r = tl.load(reward + (row * size)[:, None] + column[None, :], mask=inside, other=0.0)
    at = reference + (row * reference_stride)[:, None] + column[None, :]
    return r, tl.load(at, mask=inside, other=0.0)


@triton.jit
def row_sums(x, ROUGH: tl.constexpr):
    """Return row sums in float64; if ROUGH, added in the dtype of x."""
    if ROUGH:
        return tl.sum(x, axis=1).to(tl.float64)
    else:  # noqa: RET505 - the branch must not be compiled twice
        return tl.sum(x.to(tl.float64), axis=1)


@triton.jit
def best_reward(r, p):
    """Return the largest reward of each row on the support of p, in the dtype of r."""
    return tl.max(tl.where(p > 0, r, -float("inf")), axis=1)


@triton.jit
def offset(r, p, anchor):
    """Return `r - anchor` in float64 where `p > 0`, else 0."""
    return tl.where(p > 0, r.to(tl.float64) - anchor.to(tl.float64), 0.0)


@triton.jit
def gibbs_terms(t, p, DTYPE: tl.constexpr):
    """Return `(p 2^t 2^-n, n, top)` for float64 t: `top` is n plus the exponent of p, if any.

    `p 2^t` itself may be beyond the floats; it is at most `2^(top + 2)`, and near it unless p is
    subnormal.
    """
    m, n = split_exp2(t, DTYPE)
    return p * m, n, tl.where(p > 0, exponent_of(p, DTYPE) + n, -2000000000)


# ---- chi-squared ---------------------------------------------------------------------------------


@triton.jit
def threshold_step(mass, total, new_count, lowest, strength, anchor, reach, count, going):
    """Return `(anchor, reach, count, going)` after one Newton step on each row's threshold.

    `mass = sum p` and `total = sum p (r - anchor)` over the `new_count` active responses, whose
    lowest reward is `lowest`; `count` were active before, -1 at first.  The threshold is `anchor -
    reach`.  A step from anywhere lands at or left of the root, and from there the active set only
    shrinks; when it repeats, the threshold is exact for it.
    """
    step = (strength - total) / tl.where(mass > 0, mass, 1.0)
    repeated = (new_count == count) | (mass == 0)
    # Only the first step may go left: rounding must not bring responses back.
    step = tl.where((count < 0) | repeated, step, tl.minimum(step, reach))
    moved = (going > 0) & (repeated == 0)
    shift = tl.where(moved, lowest.to(tl.float64) - anchor.to(tl.float64), 0.0)
    reach = tl.where(going > 0, step + shift, reach)
    anchor = tl.where(moved, lowest, anchor)
    count = tl.where(going > 0, new_count, count)
    return anchor, reach, count, tl.where(repeated, 0, going)


@triton.jit
def active_terms(r, p, anchor, reach, ROUGH: tl.constexpr):
    """Return `(active, p, p (r - anchor), lowest candidates)`, 0 or inf where not active.

    In float64, or if ROUGH in the dtype of p.
    """
    DTYPE: tl.constexpr = p.dtype if ROUGH else tl.float64
    above = tl.where(p > 0, r.to(DTYPE) - anchor.to(DTYPE), -float("inf"))
    active = above > -reach.to(DTYPE)
    mass = tl.where(active, p.to(DTYPE), 0.0)
    total = mass * tl.where(active, above, 0.0)
    return active, mass, total, tl.where(active, r, float("inf"))


@triton.jit
def threshold_root(r, p, strength, anchor, reach, ROUGH: tl.constexpr):
    """Return `(anchor, reach)` with `sum_y p (r - anchor + reach)_+ = strength`, per row.

    If ROUGH, in the dtype of p, and only until the active set hardly changes.
    The anchor moves to the lowest active reward, so that neither the offset nor the range of the
    rewards costs digits, and the active ratios `(r - anchor + reach)/strength` are sums of
    non-negative terms.
    """
    count = tl.full(anchor.shape, -1, tl.int32)
    going = tl.full(anchor.shape, 1, tl.int32)
    while tl.max(going, axis=0) > 0:
        active, mass, total, lowest = active_terms(r, p, anchor[:, None], reach[:, None], ROUGH)
        before = count
        anchor, reach, count, going = threshold_step(
            row_sums(mass, ROUGH),
            row_sums(total, ROUGH),
            tl.sum(active.to(tl.int32), axis=1),
            tl.min(lowest, axis=1),
            strength, anchor, reach, count, going,
        )  # fmt: skip
        if ROUGH:
            going = tl.where((before - count) * 256 > before, going, tl.where(before < 0, going, 0))
    return anchor, reach


# ---- mixed ---------------------------------------------------------------------------------------


@triton.jit
def mixed_link(ratio, curvature):
    """Return `log w + curvature (w - 1)`."""
    return tl.log(ratio) + curvature * (ratio - 1.0)


@triton.jit
def mixed_bracket(total, mean, highest, alone, curvature):
    """Return `(low, high)` around the multiplier of each row.

    `total = sum p`, `mean` and `highest` of the scores `(r - anchor)/scale`.  Ratios are convex in
    the score, so for any set S of mass P the multiplier is at least `E_S[score] - link(1/P)`: here
    with everything, and with the best response, whose mass is `alone` (0 to leave it out).  At
    `highest - link(1/total)` no ratio exceeds `1/total`.
    """
    shift = mixed_link(1.0 / tl.where(total > 0, total, 1.0), curvature)
    by_best = highest - mixed_link(1.0 / tl.where(alone > 0, alone, 1.0), curvature)
    low = tl.maximum(mean, tl.where(alone > 0, by_best, mean))
    slack = tl.abs(shift) + 1e-14 * (tl.abs(low) + tl.abs(highest) + curvature + 1.0)
    return low - slack, highest + slack


@triton.jit
def tile_bracket(d, p, rate, curvature):
    """Return `mixed_bracket` of tiles, `d` the rewards relative to the best of each row."""
    wide = p.to(tl.float64)
    total = tl.sum(wide, axis=1)
    mean = tl.sum(wide * d, axis=1) / tl.where(total > 0, total, 1.0)
    alone = tl.max(tl.where(d == 0, wide, 0.0), axis=1)
    return mixed_bracket(total, mean * rate, 0.0 * mean, alone, curvature)


@triton.jit
def normalized(p):
    """Return the rows of p divided by their sums; rows of zeros stay."""
    total = tl.sum(p, axis=1)
    return p / tl.where(total > 0, total, 1.0)[:, None]


@triton.jit
def rough_multiplier(r, p, rate, curvature, MOST: tl.constexpr):
    """Return `(best, multiplier)`: a multiplier good to a percent, relative to the best reward."""
    p = normalized(p)
    best = best_reward(r, p)
    d = offset(r, p, best[:, None])
    low, high = tile_bracket(d, p, rate, curvature)
    _, at, correction = mixed_root(d, p, rate, curvature, low, low, high, 0.1, MOST, False)
    return best, at + correction


@triton.jit
def reward_above(r, p, best, multiplier):
    """Return the lowest reward above a multiplier relative to the best, which is the default."""
    above = (p > 0) & (r.to(tl.float64) - best.to(tl.float64)[:, None] >= multiplier[:, None])
    return tl.min(tl.where(above, r, best[:, None]), axis=1)


@triton.jit
def mixed_root(
    d, p, rate, curvature, at, low, high, tolerance, MOST: tl.constexpr, PRECISE: tl.constexpr
):
    """Return `(w, multiplier, correction)`: the ratios at the multiplier, all but a correction.

    The correction, at most `tolerance`, is left for the ratios.
    """
    DTYPE: tl.constexpr = tl.float64 if PRECISE else tl.float32
    going = tl.full(at.shape, 1, tl.int32)
    correction = at * 0.0
    w = tl.zeros(d.shape, DTYPE)
    passes = 0
    while (tl.max(going, axis=0) > 0) & (passes < MOST):
        w = mixed_ratio(d * rate[:, None] - at[:, None], curvature, PRECISE)
        mass, first, second = mixed_terms(p.to(DTYPE), w, curvature, DTYPE)
        trial, step, low, high, done = mixed_step(
            row_sums(mass, False),
            row_sums(first, False),
            row_sums(second, True),
            at, low, high, tolerance,
        )  # fmt: skip
        correction = tl.where(going > 0, step, correction)
        going = tl.where(done, 0, going)
        at = tl.where(going > 0, trial, at)
        passes += 1
    return w, at, correction
