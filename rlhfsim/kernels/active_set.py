"""Chi-squared: `w = [1 + s]_+`, `s = (r - lambda)/beta`, by Newton's method on lambda, no sort.

Here beta stands for beta times the weight of chi-squared.  On the active set `S = {s > -1}` of a
trial lambda, with `P = p(S)`, the Newton step is `(P - 1 + sum_S p s)/P` in units of beta; it is
exact as soon as the active set repeats, which ends the method (Michelot 1986).  A sample of the row
gives the first lambda.

Digits.  lambda is a float `a` plus a small shift: `s = (r - a)/beta - shift`; offsets of r cost
nothing, and the rounding of `a` is undone by the shift of the next pass.

The certificate.  With `m = max(s, -1)`: `p f*(s) = p (m + m^2/2)` and `p f(w) = p m^2/2`, so

    (dual - primal)/beta = sum p m + sum p m^2 - sum pi s,
    value = lambda + beta sum (pi s - p m^2/2)

relative to lambda, where `pi` is what was written.

Source: arXiv 2407.13399 (the link); Newton step and certificate derived from `sum_y p w = 1`.
"""

from __future__ import annotations

import math

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.blocks import (
    BAD,
    BLOCK,
    GENERAL,
    SAMPLE,
    STRIDE,
    certify,
    fetch_next,
    fetch_policy,
    rounding,
    sums_to_one,
    supported,
    take_sample,
    total_of,
    usable,
)
from rlhfsim.kernels.intrinsics import borrow, fma, larger, smaller
from rlhfsim.kernels.vectors import (
    LANES,
    greatest,
    least,
    put,
    spread,
    take,
    total,
    where_greater,
)

# Passes.
_SCAN, _STEP, _WRITE = 1, 2, 3
# Columns of the partial sums.
_ACTIVE, _SCORES, _ALL, _HIGH, _LOW, _MASS = range(6)
_WRITTEN, _GAIN, _LINEAR, _SQUARE = range(1, 5)
# Entries of the state.
_BETA, _ANCHOR, _SHIFT, _SET, _PASSES, _SHARE = range(6)

_MAX_PASSES = 64
_SAMPLE_STEPS = 12
# A step from which the next one is small beside what a sample can tell.
_ROUGH = 0.2


@EXACT
def _scan(
    r: FloatArray, p: FloatArray, o: FloatArray, first: int, end: int, anchor: float, inverse: float
) -> tuple[float, float, float, float, float, float, float]:
    """Return max r, min r, sum p, min p, and `P`, `sum_S p s` and `sum p s` at lambda = anchor."""
    high, low, rarest = spread(-np.inf), spread(np.inf), spread(np.inf)
    mass, active, scores, everything = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
    for begin in range(first, end, STRIDE):
        a, b, c, d = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
        for i in range(begin, min(begin + STRIDE, end), LANES):
            fetch_policy(o, i, LANES)
            x, q = take(r, i, end, r[first]), take(p, i, end, 0.0)
            high, low = larger(high, x), smaller(low, x)
            rarest = smaller(rarest, take(p, i, end, 1.0))
            s = (x - anchor) * inverse
            inside = where_greater(s, -1.0, q, 0.0)
            a = a + q
            b = b + inside
            c = fma(inside, s, c)
            d = fma(q, s, d)
        mass, active = mass + a, active + b
        scores, everything = scores + c, everything + d
    return (
        greatest(high), least(low), total(mass), least(rarest),
        total(active), total(scores), total(everything),
    )  # fmt: skip


@EXACT
def _step(
    r: FloatArray, p: FloatArray, first: int, end: int, anchor: float, inverse: float
) -> tuple[float, float]:
    """Return `P` and `sum_S p s` at lambda = anchor."""
    active, scores = spread(0.0), spread(0.0)
    for begin in range(first, end, STRIDE):
        a, b = spread(0.0), spread(0.0)
        for i in range(begin, min(begin + STRIDE, end), LANES):
            s = (take(r, i, end, 0.0) - anchor) * inverse
            inside = where_greater(s, -1.0, take(p, i, end, 0.0), 0.0)
            a = a + inside
            b = fma(inside, s, b)
        active, scores = active + a, scores + b
    return total(active), total(scores)


@EXACT
def _write(
    r: FloatArray, p: FloatArray, o: FloatArray, first: int, end: int, anchor: float,
    inverse: float, shift: float,
) -> tuple[float, float, float, float, float]:  # fmt: skip
    """Write the policy; return `P, sum pi, sum pi s, sum p m, sum p m^2` of what was written."""
    active, written = spread(0.0), spread(0.0)
    gain, linear, square = spread(0.0), spread(0.0), spread(0.0)
    for begin in range(first, end, STRIDE):
        a, b, c, d, e = spread(0.0), spread(0.0), spread(0.0), spread(0.0), spread(0.0)
        for i in range(begin, min(begin + STRIDE, end), LANES):
            fetch_next(r, p, i, LANES)
            q = take(p, i, end, 0.0)
            s = fma(take(r, i, end, 0.0) - anchor, inverse, -shift)
            m = larger(s, -1.0)
            put(o, i, end, q * (m + 1.0))
            x = take(o, i, end, 0.0)
            a = a + where_greater(s, -1.0, q, 0.0)
            b = b + x
            c = fma(x, m, c)
            y = q * m
            d = d + y
            e = fma(y, m, e)
        active, written, gain = active + a, written + b, gain + c
        linear, square = linear + d, square + e
    return total(active), total(written), total(gain), total(linear), total(square)


@EXACT
def start(
    r: FloatArray, p: FloatArray, beta: float, weights: FloatArray, guess: float, state: FloatArray,
    sample: FloatArray,
) -> int:  # fmt: skip
    """Prepare a row: lambda as guessed, or from a sample of the row; return the first pass."""
    beta = beta * weights[0]
    inverse = 1.0 / beta
    state[_BETA], state[_SHIFT], state[_SET], state[_PASSES] = beta, 0.0, -1.0, 0.0
    if abs(guess) < np.inf:
        state[_ANCHOR] = guess
        return _SCAN
    n, mass, mean = take_sample(r, p, sample)
    if not mass > 0.0:
        state[_ANCHOR] = r[0]
        return _SCAN
    anchor, before = mean, -1.0
    x, q = borrow(sample, 0, n), borrow(sample, SAMPLE, n)
    for _ in range(_SAMPLE_STEPS):
        active, scores = _step(x, q, 0, n, anchor, inverse)
        # Relative to the sample's mass; from the mean it moves to the right.
        if not (active > 0.0 and active != before):
            break
        shift = (active - mass + scores) / active
        anchor += beta * shift
        before = active
        if abs(shift) < _ROUGH:
            break
    state[_ANCHOR] = anchor
    return _SCAN


@EXACT
def run(
    work: int, r: FloatArray, p: FloatArray, o: FloatArray, state: FloatArray, sums: FloatArray,
    first: int, last: int, desk: FloatArray,
) -> None:  # fmt: skip
    """Make one pass over blocks `first` to `last - 1`."""
    inverse, anchor, shift = 1.0 / state[_BETA], state[_ANCHOR], state[_SHIFT]
    for k in range(first, last):
        begin, end = k * BLOCK, min(r.size, (k + 1) * BLOCK)
        if work == _WRITE:
            active, written, gain, linear, square = _write(
                r, p, o, begin, end, anchor, inverse, shift
            )
            sums[k, _ACTIVE], sums[k, _WRITTEN], sums[k, _GAIN] = active, written, gain
            sums[k, _LINEAR], sums[k, _SQUARE] = linear, square
            continue
        if work == _SCAN:
            high, low, mass, rarest, active, scores, everything = _scan(
                r, p, o, begin, end, anchor, inverse
            )
            if rarest == 0.0:
                high, low = supported(r[begin:end], p[begin:end])
            sums[k, _HIGH], sums[k, _LOW] = high, low
            # Of what is not finite, a sum is not finite either.
            sums[k, _MASS] = mass if rarest >= 0.0 else np.nan
            sums[k, _ALL] = everything
        else:
            active, scores = _step(r, p, begin, end, anchor, inverse)
        sums[k, _ACTIVE], sums[k, _SCORES] = active, scores


@EXACT
def decide(
    work: int, size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float,
    fields: FloatArray,
) -> int:  # fmt: skip
    """Digest the partial sums of a pass; return the next pass, or what became of the row."""
    state[_PASSES] += 1.0
    if state[_PASSES] > _MAX_PASSES:
        return GENERAL
    active = total_of(sums, _ACTIVE, n_blocks)
    if work == _WRITE:
        written = total_of(sums, _WRITTEN, n_blocks)
        if _same(active, state[_SET]):
            return _finish(size, state, sums, n_blocks, eps, written, fields)
        if not active > 0.0:
            return GENERAL
        state[_SHIFT] += (written - 1.0) / active
        state[_SET] = active
        return _WRITE
    if work == _SCAN:
        verdict = _check(size, state, sums, n_blocks, eps)
        if verdict != 0:
            return verdict
        return _next(size, active, True, state, sums, n_blocks)
    return _next(size, active, False, state, sums, n_blocks)


@EXACT
def _same(mass: float, other: float) -> bool:
    """Return whether two masses of active sets agree but for the order of their sums."""
    return abs(mass - other) <= 2e-15 * mass


@EXACT
def _check(size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float) -> int:
    mass = total_of(sums, _MASS, n_blocks)
    if not sums_to_one(mass, size, eps):
        return BAD
    high, low = -np.inf, np.inf
    for k in range(n_blocks):
        high, low = max(high, sums[k, _HIGH]), min(low, sums[k, _LOW])
    state[_SHARE] = mass
    return 0 if usable(high, low, state[_BETA]) else GENERAL


@EXACT
def _next(
    size: int, active: float, first: bool, state: FloatArray, sums: FloatArray, n_blocks: int
) -> int:
    """Take the Newton step; write if the active set is not likely to change any more."""
    shift = -np.inf
    if active > 0.0:
        shift = (active - 1.0 + total_of(sums, _SCORES, n_blocks)) / active
    if first:
        # Where all are active, and by Jensen a lower bound of lambda anywhere.
        everything = total_of(sums, _ALL, n_blocks)
        shift = max(shift, (state[_SHARE] - 1.0 + everything) / state[_SHARE])
    if not abs(shift) < 1e300:
        return GENERAL
    # Write once the set repeats, or is likely to: about size times the shift responses change side.
    if active > 0.0 and (_same(active, state[_SET]) or size * abs(shift) < 2.0):
        state[_SHIFT], state[_SET] = shift, active
        return _WRITE
    state[_ANCHOR] += state[_BETA] * shift
    state[_SET] = active
    return _STEP


@EXACT
def _finish(
    size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float, written: float,
    fields: FloatArray,
) -> int:  # fmt: skip
    beta = state[_BETA]
    gain, square = total_of(sums, _GAIN, n_blocks), total_of(sums, _SQUARE, n_blocks)
    gap = total_of(sums, _LINEAR, n_blocks) + square - gain
    margin = rounding(size, eps)
    # By Cauchy and Schwarz `sum p |m|` is at most the root.
    tolerance = margin * (math.sqrt(square * state[_SHARE]) + square + margin)
    multiplier = state[_ANCHOR] + beta * state[_SHIFT]
    value = multiplier + beta * (gain - 0.5 * square)
    return certify(fields, multiplier, value, beta * gap, written, beta * tolerance, margin)
