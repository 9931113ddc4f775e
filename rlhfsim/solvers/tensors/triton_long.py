"""Kernels for long rows: each row is split into chunks, one per program.

A program writes its partial sums, in float64, to its own place; `torch.sum` adds them in a fixed
order, so results do not depend on scheduling.  Offsets are int64.  A row's state lives on the
device, and programs of a row that is done return at once: no pass needs the host.
"""

# Device code: what it is compiled for is given at launch, and no type says it.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

import triton
import triton.language as tl

from rlhfsim.solvers.tensors.triton_math import (
    FAR,
    LOG2_E,
    LOG_2,
    certificate,
    chi_squared_terms,
    corrected_ratio,
    kl_terms,
    mixed_certificate_terms,
    mixed_ratio,
    mixed_step,
    mixed_terms,
    power_of_two,
    store_certificate,
    threshold_ratio,
    times_power_of_two,
)
from rlhfsim.solvers.tensors.triton_roots import (
    active_terms,
    best_reward,
    gibbs_terms,
    load_tile,
    mixed_bracket,
    normalized,
    offset,
    reward_above,
    rough_multiplier,
    threshold_root,
    threshold_step,
)


@triton.jit
def chunk_of_program(size, steps, programs, BLOCK: tl.constexpr):
    """Return `(row, first column, one past the last)` of this program; `steps` blocks per chunk."""
    index = tl.program_id(0).to(tl.int64)
    row = index // programs
    begin = (index - row * programs) * (steps * BLOCK)
    return row, begin, tl.minimum(begin + steps * BLOCK, size)


@triton.jit
def load_part(reward, reference, row, column, size, reference_stride):
    """Return `(r, p)` of some columns of one row; 0 beyond its end."""
    inside = column < size
    r = tl.load(reward + row * size + column, mask=inside, other=0.0)
    return r, tl.load(reference + row * reference_stride + column, mask=inside, other=0.0)


@triton.jit
def load_sample(reward, reference, size, reference_stride, SAMPLE: tl.constexpr):
    """Return `(row, r, p)`: evenly spaced columns of this program's row, as a tile of one row."""
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    column = (tl.arange(0, SAMPLE).to(tl.int64) * size) // SAMPLE
    r, p = load_tile(reward, reference, row, column, size, reference_stride)
    # In short rows columns repeat; the first of each is kept.
    column_before = ((tl.arange(0, SAMPLE).to(tl.int64) - 1) * size) // SAMPLE
    fresh = (column != column_before) | (tl.arange(0, SAMPLE) == 0)
    return row, r, tl.where(fresh[None, :], p, 0.0)


@triton.jit
def store_sums(partials, width, first, second, third, fourth):
    """Store four sums of this program at the head of its `width` places."""
    at = partials + tl.program_id(0).to(tl.int64) * width
    tl.store(at, tl.sum(first, axis=0))
    tl.store(at + 1, tl.sum(second, axis=0))
    tl.store(at + 2, tl.sum(third, axis=0))
    tl.store(at + 3, tl.sum(fourth, axis=0))


@triton.jit
def certify(
    sums, width, multiplier, anchor, scale, slope, fields, count, rounding, BLOCK: tl.constexpr
):
    """Store the certificates of long rows, from the four sums of each; `slope` is `f''(1)`."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = tl.minimum(row, tl.cast(count, tl.int64) - 1)
    at = sums + row * width
    m, value, gap, feasibility, tolerance = certificate(
        tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3),
        tl.load(multiplier + row), tl.load(anchor + row), tl.load(scale + row),
        tl.load(slope), rounding,
    )  # fmt: skip
    store_certificate(fields, row, count, m, value, gap, feasibility, tolerance)


# ---- KL ------------------------------------------------------------------------------------------


@triton.jit
def kl_anchor(reward, reference, anchor, size, reference_stride, SAMPLE: tl.constexpr):
    """Store the best reward of a sample; any reward would do."""
    row, r, p = load_sample(reward, reference, size, reference_stride, SAMPLE)
    best = best_reward(r, p).to(tl.float64)
    first = tl.load(reward + row * size).to(tl.float64)
    tl.store(anchor + row, tl.where(best > -float("inf"), best, first))


@triton.jit
def kl_partition(
    reward, reference, scale, anchor, going, partials, tops, best,
    groups, steps, programs, reference_stride,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Store, of each chunk, `sum p 2^(t - top)`, `top` and the best reward; t: scores in bits."""
    size = tl.cast(groups, tl.int64) * GROUP
    row, begin, end = chunk_of_program(size, steps, programs, BLOCK)
    if tl.load(going + row) > 0:
        a = tl.load(anchor + row)
        rate = (1.0 / tl.load(scale + row)) * LOG2_E
        top = tl.full((), -2000000000, tl.int32)
        total = tl.zeros((BLOCK,), tl.float64)
        highest = tl.full((BLOCK,), -float("inf"), DTYPE)
        for start in range(begin, end, BLOCK):
            column = start + tl.arange(0, BLOCK)
            r, p = load_part(reward, reference, row, column, size, reference_stride)
            # Beyond FAR, the anchor was a bad one: the best reward is the next.
            t = tl.minimum(offset(r, p, a) * rate, FAR)
            weights, n, part_tops = gibbs_terms(t, p, DTYPE)
            new_top = tl.maximum(top, tl.max(part_tops, axis=0))
            # A power of 2: the rescaling is exact.
            total *= power_of_two(top - new_top, tl.float64)
            total += times_power_of_two(weights, n - new_top, DTYPE).to(tl.float64)
            top = new_top
            highest = tl.maximum(highest, tl.where(p > 0, r, -float("inf")))
        place = tl.program_id(0).to(tl.int64)
        tl.store(partials + place, tl.sum(total, axis=0))
        tl.store(tops + place, top)
        tl.store(best + place, tl.max(highest, axis=0).to(tl.float64))


@triton.jit
def kl_write(
    reward, reference, scale, anchor, total, top, policy, partials,
    groups, steps, programs, reference_stride,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Store the policy and, of each chunk, mass, gain, cost and missed."""
    size = tl.cast(groups, tl.int64) * GROUP
    row, begin, end = chunk_of_program(size, steps, programs, BLOCK)
    a = tl.load(anchor + row)
    z, lift = tl.load(total + row), tl.load(top + row)
    log_z = tl.log(z) + lift.to(tl.float64) * LOG_2
    rate = (1.0 / tl.load(scale + row)) * LOG2_E
    inverse = (1.0 / z).to(DTYPE)
    mass = tl.zeros((BLOCK,), tl.float64)
    gain = tl.zeros((BLOCK,), tl.float64)
    cost = tl.zeros((BLOCK,), tl.float64)
    missed = tl.zeros((BLOCK,), tl.float64)
    for start in range(begin, end, BLOCK):
        column = start + tl.arange(0, BLOCK)
        r, p = load_part(reward, reference, row, column, size, reference_stride)
        d = offset(r, p, a)
        t = d * rate
        weights, n, _ = gibbs_terms(t, p, DTYPE)
        pi = times_power_of_two(weights, n - lift, DTYPE) * inverse
        tl.store(policy + row * size + column, pi, mask=column < size)
        terms = kl_terms(p, pi, t * LOG_2 - log_z, DTYPE)
        mass += pi.to(tl.float64)
        gain += pi.to(tl.float64) * d
        cost += terms[0].to(tl.float64)
        missed += terms[1].to(tl.float64)
    store_sums(partials, 4, mass, gain, cost, missed)


# ---- chi-squared ---------------------------------------------------------------------------------


@triton.jit
def threshold_start(
    reward, reference, scale, anchor, reach, size, reference_stride,
    SAMPLE: tl.constexpr,
):  # fmt: skip
    """Store the anchor and the reach of a sample; an infinite reach where it has no mass."""
    row, r, p = load_sample(reward, reference, size, reference_stride, SAMPLE)
    p = normalized(p)
    best = best_reward(r, p)
    some = best > -float("inf")
    best = tl.where(some, best, tl.load(reward + row * size))
    infinite = tl.full((1,), float("inf"), tl.float64)
    a, h = threshold_root(r, p, tl.load(scale + row), best, infinite, False)
    tl.store(anchor + row, a.to(tl.float64))
    tl.store(reach + row, tl.where(some, h, infinite))


@triton.jit
def threshold_sums(
    reward, reference, anchor, reach, going, partials, lowest,
    groups, steps, programs, reference_stride,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Store, of each chunk, mass, total and number of the active responses, and their lowest."""
    size = tl.cast(groups, tl.int64) * GROUP
    row, begin, end = chunk_of_program(size, steps, programs, BLOCK)
    if tl.load(going + row) > 0:
        a = tl.load(anchor + row).to(DTYPE)
        h = tl.load(reach + row)
        mass = tl.zeros((BLOCK,), tl.float64)
        total = tl.zeros((BLOCK,), tl.float64)
        number = tl.zeros((BLOCK,), tl.int32)
        least = tl.full((BLOCK,), float("inf"), DTYPE)
        for start in range(begin, end, BLOCK):
            column = start + tl.arange(0, BLOCK)
            r, p = load_part(reward, reference, row, column, size, reference_stride)
            active, part, above, candidate = active_terms(r, p, a, h, False)
            mass += part.to(tl.float64)
            total += above.to(tl.float64)
            number += active.to(tl.int32)
            least = tl.minimum(least, candidate)
        at = partials + tl.program_id(0).to(tl.int64) * 3
        tl.store(at, tl.sum(mass, axis=0))
        tl.store(at + 1, tl.sum(total, axis=0))
        tl.store(at + 2, tl.sum(number.to(tl.float64), axis=0))
        tl.store(lowest + tl.program_id(0).to(tl.int64), tl.min(least, axis=0).to(tl.float64))


@triton.jit
def threshold_advance(
    sums, lowest, scale, anchor, reach, active, going, count, BLOCK: tl.constexpr
):
    """Move the threshold of each row by one Newton step."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < count
    at = sums + row * 3
    a, h, n, g = threshold_step(
        tl.load(at, mask=inside, other=0.0),
        tl.load(at + 1, mask=inside, other=0.0),
        tl.load(at + 2, mask=inside, other=0.0),
        tl.load(lowest + row, mask=inside, other=0.0),
        tl.load(scale + row, mask=inside, other=1.0),
        tl.load(anchor + row, mask=inside, other=0.0),
        tl.load(reach + row, mask=inside, other=0.0),
        tl.load(active + row, mask=inside, other=0.0),
        tl.load(going + row, mask=inside, other=0),
    )
    tl.store(anchor + row, a, mask=inside)
    tl.store(reach + row, h, mask=inside)
    tl.store(active + row, n, mask=inside)
    tl.store(going + row, g, mask=inside)


@triton.jit
def threshold_write(
    reward, reference, scale, anchor, reach, policy, partials,
    groups, steps, programs, reference_stride,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Store the policy and, of each chunk, the certificate's sums and those of the active set."""
    size = tl.cast(groups, tl.int64) * GROUP
    row, begin, end = chunk_of_program(size, steps, programs, BLOCK)
    a = tl.load(anchor + row).to(DTYPE)
    h = tl.load(reach + row)
    inverse = (1.0 / tl.load(scale + row)).to(DTYPE)
    mass = tl.zeros((BLOCK,), tl.float64)
    gain = tl.zeros((BLOCK,), tl.float64)
    cost = tl.zeros((BLOCK,), tl.float64)
    missed = tl.zeros((BLOCK,), tl.float64)
    number = tl.zeros((BLOCK,), tl.int32)
    for start in range(begin, end, BLOCK):
        column = start + tl.arange(0, BLOCK)
        r, p = load_part(reward, reference, row, column, size, reference_stride)
        active, w, d = threshold_ratio(r, p, a, h, inverse)
        pi = p * w
        tl.store(policy + row * size + column, pi, mask=column < size)
        terms = chi_squared_terms(p, pi, w)
        mass += pi.to(tl.float64)
        gain += pi.to(tl.float64) * d
        cost += terms[0].to(tl.float64)
        missed += terms[1].to(tl.float64)
        number += active.to(tl.int32)
    store_sums(partials, 5, mass, gain, cost, missed)
    at = partials + tl.program_id(0).to(tl.int64) * 5
    tl.store(at + 4, tl.sum(number.to(tl.float64), axis=0))


# ---- mixed ---------------------------------------------------------------------------------------


@triton.jit
def mixed_start(
    reward, reference, scale, anchor, multiplier, size, reference_stride, curvature,
    SAMPLE: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Store an anchor and a multiplier relative to it, from a sample."""
    row, r, p = load_sample(reward, reference, size, reference_stride, SAMPLE)
    scale = tl.load(scale + row)
    best, at = rough_multiplier(r, p, 1.0 / scale, tl.load(curvature), MOST)
    nearest = reward_above(r, p, best, at * scale)
    lift = (best.to(tl.float64) - nearest.to(tl.float64)) / scale
    some = best > -float("inf")
    first = tl.load(reward + row * size)
    tl.store(anchor + row, tl.where(some, nearest, first).to(tl.float64))
    tl.store(multiplier + row, tl.where(some, at + lift, 0.0))


@triton.jit
def mixed_sums(
    reward, reference, scale, anchor, multiplier, going, partials, highest,
    groups, steps, programs, reference_stride, curvature,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, PRECISE: tl.constexpr,
):  # fmt: skip
    """Store, of each chunk, the sums of `mixed_terms`, of p and of p times score; the best score.

    Ratios are float64 if PRECISE, else float32, whatever the arrays.
    """
    DTYPE: tl.constexpr = tl.float64 if PRECISE else tl.float32
    size = tl.cast(groups, tl.int64) * GROUP
    row, begin, end = chunk_of_program(size, steps, programs, BLOCK)
    curvature = tl.load(curvature)
    if tl.load(going + row) > 0:
        a = tl.load(anchor + row)
        at = tl.load(multiplier + row)
        rate = 1.0 / tl.load(scale + row)
        mass = tl.zeros((BLOCK,), tl.float64)
        first = tl.zeros((BLOCK,), tl.float64)
        second = tl.zeros((BLOCK,), DTYPE)
        total = tl.zeros((BLOCK,), tl.float64)
        moment = tl.zeros((BLOCK,), tl.float64)
        best = tl.full((BLOCK,), -float("inf"), tl.float64)
        for start in range(begin, end, BLOCK):
            column = start + tl.arange(0, BLOCK)
            r, p = load_part(reward, reference, row, column, size, reference_stride)
            score = offset(r, p, a) * rate
            w = mixed_ratio(score - at, curvature, PRECISE)
            terms = mixed_terms(p.to(DTYPE), w, curvature, DTYPE)
            mass += terms[0].to(tl.float64)
            first += terms[1].to(tl.float64)
            second += terms[2]
            total += p.to(tl.float64)
            moment += p.to(tl.float64) * score
            best = tl.maximum(best, tl.where(p > 0, score, -float("inf")))
        store_sums(partials, 5, mass, first, total, moment)
        place = partials + tl.program_id(0).to(tl.int64) * 5
        tl.store(place + 4, tl.sum(second.to(tl.float64), axis=0))
        tl.store(highest + tl.program_id(0).to(tl.int64), tl.max(best, axis=0))


@triton.jit
def mixed_advance(
    sums, highest, multiplier, correction, low, high, going,
    count, curvature, tolerance, BLOCK: tl.constexpr, FINAL: tl.constexpr,
):  # fmt: skip
    """Move the multiplier of each row; unless FINAL, its sums were rough and no row is done."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < count
    active = tl.load(going + row, mask=inside, other=0) > 0
    place = sums + row * 5
    at = tl.load(multiplier + row, mask=inside, other=0.0)
    total = tl.load(place + 2, mask=inside, other=1.0)
    mean = tl.load(place + 3, mask=inside, other=0.0) / total
    top = tl.load(highest + row, mask=inside, other=0.0)
    bottom, ceiling = mixed_bracket(total, mean, top, total * 0.0, tl.load(curvature))
    trial, step, lower, upper, done = mixed_step(
        tl.load(place, mask=inside, other=1.0),
        tl.load(place + 1, mask=inside, other=1.0),
        tl.load(place + 4, mask=inside, other=1.0),
        at,
        tl.maximum(tl.load(low + row, mask=inside, other=0.0), bottom),
        tl.minimum(tl.load(high + row, mask=inside, other=0.0), ceiling),
        tolerance,
    )
    if FINAL:
        tl.store(low + row, lower, mask=active)
        tl.store(high + row, upper, mask=active)
        tl.store(correction + row, step, mask=active)
        tl.store(going + row, tl.where(done, 0, 1), mask=active)
        tl.store(multiplier + row, tl.where(done, at, trial), mask=active)
    else:
        tl.store(multiplier + row, trial, mask=active)


@triton.jit
def mixed_write(
    reward, reference, scale, anchor, multiplier, correction, policy, partials,
    groups, steps, programs, reference_stride, curvature,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Store the policy and, of each chunk, mass, gain, cost and missed."""
    size = tl.cast(groups, tl.int64) * GROUP
    row, begin, end = chunk_of_program(size, steps, programs, BLOCK)
    a = tl.load(anchor + row)
    at = tl.load(multiplier + row)
    step = tl.load(correction + row)
    rate = 1.0 / tl.load(scale + row)
    curvature = tl.load(curvature)
    mass = tl.zeros((BLOCK,), tl.float64)
    gain = tl.zeros((BLOCK,), tl.float64)
    cost = tl.zeros((BLOCK,), tl.float64)
    missed = tl.zeros((BLOCK,), tl.float64)
    for start in range(begin, end, BLOCK):
        column = start + tl.arange(0, BLOCK)
        r, p = load_part(reward, reference, row, column, size, reference_stride)
        d = offset(r, p, a)
        score = d * rate
        w = corrected_ratio(
            mixed_ratio(score - at, curvature, DTYPE.primitive_bitwidth == 64), step, curvature
        )
        pi = p * w
        tl.store(policy + row * size + column, pi, mask=column < size)
        terms = mixed_certificate_terms(p, pi, score - (at + step), curvature, DTYPE)
        mass += pi.to(tl.float64)
        gain += pi.to(tl.float64) * d
        cost += terms[0].to(tl.float64)
        missed += terms[1].to(tl.float64)
    store_sums(partials, 4, mass, gain, cost, missed)
