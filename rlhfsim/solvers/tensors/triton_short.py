"""Kernels for short rows: a program holds one row, or several, in registers.

Rewards and reference are read once, the policy is written once, and every pass in between works
on registers.  The five numbers of each row go to `fields`, `(5, rows)`.
`scale` is beta times the weight of the divergence, of KL if there are two; it and `curvature`, the
other weight divided by that of KL, are arrays because Triton would round a number to float32.
"""

# Device code: what it is compiled for is given at launch, and no type says it.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import triton
import triton.language as tl

from rlhfsim.solvers.tensors.triton_math import (
    LOG2_E,
    LOG_2,
    certificate,
    chi_squared_terms,
    corrected_ratio,
    kl_terms,
    mixed_certificate_terms,
    store_certificate,
    threshold_ratio,
    times_power_of_two,
)
from rlhfsim.solvers.tensors.triton_roots import (
    best_reward,
    gibbs_terms,
    load_tile,
    mixed_root,
    offset,
    reward_above,
    rough_multiplier,
    row_sums,
    threshold_root,
    tile_bracket,
)


@triton.jit
def rows_of_program(count, ROWS: tl.constexpr):
    """Return the rows of this program, as int64 (`count` may be the compile-time number 1).

    Beyond the end the last row is repeated: it is then computed twice and stored twice, alike.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return tl.minimum(row, tl.cast(count, tl.int64) - 1)


@triton.jit
def store_policy(policy, pi, row, column, size):
    """Store a tile."""
    at = policy + (row * size)[:, None] + column[None, :]
    tl.store(at, pi, mask=(column < size)[None, :])


@triton.jit
def kl_rows(
    reward, reference, scale, policy, fields,
    count, groups, reference_stride, rounding,
    GROUP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """`pi = p e^(score) / Z`, `multiplier = beta kl log Z`."""
    size = tl.cast(groups, tl.int64) * GROUP
    row = rows_of_program(count, ROWS)
    column = tl.arange(0, BLOCK)
    r, p = load_tile(reward, reference, row, column, size, reference_stride)
    scale = tl.load(scale + row)
    anchor = best_reward(r, p).to(tl.float64)
    d = offset(r, p, anchor[:, None])
    t = d * ((1.0 / scale) * LOG2_E)[:, None]
    weights, n, tops = gibbs_terms(t, p, DTYPE)
    top = tl.max(tops, axis=1)
    weights = times_power_of_two(weights, n - top[:, None], DTYPE)
    total = row_sums(weights, False)
    log_z = tl.log(total) + top.to(tl.float64) * LOG_2
    pi = weights * (1.0 / total).to(DTYPE)[:, None]
    store_policy(policy, pi, row, column, size)
    cost, missed = kl_terms(p, pi, t * LOG_2 - log_z[:, None], DTYPE)
    multiplier, value, gap, feasibility, tolerance = certificate(
        row_sums(pi, False),
        row_sums(pi.to(tl.float64) * d, False),
        row_sums(cost, True), row_sums(missed, True),
        scale * log_z, anchor, scale, 1.0, rounding,
    )  # fmt: skip
    store_certificate(fields, row, count, multiplier, value, gap, feasibility, tolerance)


@triton.jit
def chi_squared_rows(
    reward, reference, scale, policy, fields,
    count, groups, reference_stride, rounding,
    GROUP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """`pi = p (r - threshold)_+ / (beta chi_squared)`."""
    size = tl.cast(groups, tl.int64) * GROUP
    row = rows_of_program(count, ROWS)
    column = tl.arange(0, BLOCK)
    r, p = load_tile(reward, reference, row, column, size, reference_stride)
    scale = tl.load(scale + row)
    anchor = best_reward(r, p)
    reach = tl.full((ROWS,), float("inf"), tl.float64)
    if DTYPE.primitive_bitwidth == 32:
        anchor, reach = threshold_root(r, p, scale, anchor, reach, True)
    anchor, reach = threshold_root(r, p, scale, anchor, reach, False)
    _, w, d = threshold_ratio(
        r, p, anchor[:, None], reach[:, None], (1.0 / scale).to(DTYPE)[:, None]
    )
    pi = p * w
    store_policy(policy, pi, row, column, size)
    cost, missed = chi_squared_terms(p, pi, w)
    multiplier, value, gap, feasibility, tolerance = certificate(
        row_sums(pi, False), row_sums(pi.to(tl.float64) * d, False),
        row_sums(cost, True), row_sums(missed, True),
        scale - reach, anchor.to(tl.float64), scale, 1.0, rounding,
    )  # fmt: skip
    store_certificate(fields, row, count, multiplier, value, gap, feasibility, tolerance)


@triton.jit
def mixed_rows(
    reward, reference, scale, policy, fields,
    count, groups, reference_stride, curvature, rounding,
    GROUP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr,
    SAMPLE: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """`pi = p w`, `log w + curvature (w - 1) = score`, `curvature = chi_squared/kl`."""
    PRECISE: tl.constexpr = DTYPE.primitive_bitwidth == 64
    size = tl.cast(groups, tl.int64) * GROUP
    row = rows_of_program(count, ROWS)
    column = tl.arange(0, BLOCK)
    r, p = load_tile(reward, reference, row, column, size, reference_stride)
    scale = tl.load(scale + row)
    rate = 1.0 / scale
    curvature = tl.load(curvature)
    best = best_reward(r, p)
    d = offset(r, p, best[:, None])
    low, high = tile_bracket(d, p, rate, curvature)
    at = low
    if SAMPLE:
        # A few of the columns, to start close to the root.
        some = tl.arange(0, SAMPLE) * (BLOCK // SAMPLE)
        rs, ps = load_tile(reward, reference, row, some, size, reference_stride)
        start, at = rough_multiplier(rs, ps, rate, curvature, MOST)
        at += (start.to(tl.float64) - best.to(tl.float64)) * rate
        # Where the sample has no mass, this is the low end.
        at = tl.minimum(tl.maximum(at, low), high)
    if PRECISE:
        # In float32 arithmetic first: half the price.
        w, at, correction = mixed_root(d, p, rate, curvature, at, low, high, 0.03, MOST, False)
        at += correction
    # From here on relative to the reward just above the multiplier, which keeps its digits.
    nearest = reward_above(r, p, best, at * scale)
    lift = (best.to(tl.float64) - nearest.to(tl.float64)) * rate
    d = offset(r, p, nearest[:, None])
    tolerance = 1e-5 if PRECISE else 5e-3
    w, at, correction = mixed_root(
        d, p, rate, curvature, at + lift, low + lift, high + lift, tolerance, MOST, PRECISE
    )
    pi = p * corrected_ratio(w, correction[:, None], curvature)
    store_policy(policy, pi, row, column, size)
    at += correction
    score = d * rate[:, None] - at[:, None]
    cost, missed = mixed_certificate_terms(p, pi, score, curvature, DTYPE)
    multiplier, value, gap, feasibility, allowed = certificate(
        row_sums(pi, False), row_sums(pi.to(tl.float64) * d, False),
        row_sums(cost, True), row_sums(missed, True),
        scale * at, nearest.to(tl.float64), scale, 1.0 + curvature, rounding,
    )  # fmt: skip
    store_certificate(fields, row, count, multiplier, value, gap, feasibility, allowed)
