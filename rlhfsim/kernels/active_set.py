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
from rlhfsim.compiling import EXACT, SUMS
from rlhfsim.kernels.blocks import (
    BAD,
    BLOCK,
    CHUNK,
    GENERAL,
    SingleArray,
    certify,
    fetch_ahead,
    rounding,
    scan,
    sums_to_one,
    supported,
    take_sample,
    total,
    usable,
)
from rlhfsim.kernels.intrinsics import fma

# Passes.
_SCAN, _STEP, _WRITE = 1, 2, 3
# Columns of the partial sums.
_ACTIVE, _SCORES, _ALL, _HIGH, _LOW, _MASS = range(6)
_WRITTEN, _GAIN, _LINEAR, _SQUARE = range(1, 5)
# Entries of the state.
_BETA, _ANCHOR, _SHIFT, _SET, _PASSES, _SHARE = range(6)

_MAX_PASSES = 64
_SAMPLE_STEPS = 12


@SUMS
def _step(
    r: FloatArray, p: FloatArray, anchor: float, inverse: float
) -> tuple[float, float, float]:
    """Return `P`, `sum_S p s` and `sum p s` at lambda = anchor."""
    active, scores, everything = 0.0, 0.0, 0.0
    for i in range(r.size):
        q = np.float64(p[i])
        s = (np.float64(r[i]) - anchor) * inverse
        inside = q if s > -1.0 else 0.0
        active += inside
        scores += inside * s
        everything += q * s
    return active, scores, everything


@EXACT
def _write(
    r: FloatArray, p: FloatArray, o: FloatArray, anchor: float, inverse: float, shift: float
) -> None:
    """Write the policy."""
    for begin in range(0, r.size, CHUNK):
        fetch_ahead(r, p, begin, CHUNK)
        end = min(begin + CHUNK, r.size)
        rc, pc, oc = r[begin:end], p[begin:end], o[begin:end]
        for i in range(rc.size):
            s = fma(np.float64(rc[i]) - anchor, inverse, -shift)
            oc[i] = np.float64(pc[i]) * (1.0 + s) if s > -1.0 else 0.0


@SUMS
def _measure(
    r: FloatArray, p: FloatArray, o: FloatArray, anchor: float, inverse: float, shift: float
) -> tuple[float, float, float, float, float]:
    """Return `P, sum pi, sum pi s, sum p m, sum p m^2` of what was written."""
    active, written, gain, linear, square = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(r.size):
        q, x = np.float64(p[i]), np.float64(o[i])
        s = fma(np.float64(r[i]) - anchor, inverse, -shift)
        m = s if s > -1.0 else -1.0
        active += q if s > -1.0 else 0.0
        written += x
        gain += x * m
        linear += q * m
        square += q * (m * m)
    return active, written, gain, linear, square


@EXACT
def start(
    r: FloatArray, p: FloatArray, beta: float, weights: FloatArray, guess: float, state: FloatArray,
    sample: FloatArray, desk: FloatArray, singles: SingleArray,
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
    for _ in range(_SAMPLE_STEPS):
        active, scores, _everything = _step(sample[0, :n], sample[1, :n], anchor, inverse)
        # Relative to the sample's mass; from the mean it moves to the right.
        if not (active > 0.0 and active != before):
            break
        anchor += beta * ((active - mass + scores) / active)
        before = active
    state[_ANCHOR] = anchor
    return _SCAN


@EXACT
def run(
    work: int, r: FloatArray, p: FloatArray, o: FloatArray, state: FloatArray, sums: FloatArray,
    first: int, last: int, desk: FloatArray, singles: SingleArray,
) -> None:  # fmt: skip
    """Make one pass over blocks `first` to `last - 1`."""
    inverse, anchor, shift = 1.0 / state[_BETA], state[_ANCHOR], state[_SHIFT]
    for k in range(first, last):
        begin, end = k * BLOCK, min(r.size, (k + 1) * BLOCK)
        rk, pk, ok = r[begin:end], p[begin:end], o[begin:end]
        if work == _WRITE:
            _write(rk, pk, ok, anchor, inverse, shift)
            active, written, gain, linear, square = _measure(rk, pk, ok, anchor, inverse, shift)
            sums[k, _ACTIVE], sums[k, _WRITTEN], sums[k, _GAIN] = active, written, gain
            sums[k, _LINEAR], sums[k, _SQUARE] = linear, square
            continue
        if work == _SCAN:
            high, low, mass, rarest, clean = scan(rk, pk)
            if clean and rarest == 0.0:
                high, low = supported(rk, pk)
            sums[k, _HIGH], sums[k, _LOW] = high, low
            sums[k, _MASS] = mass if clean else np.nan
        active, scores, everything = _step(rk, pk, anchor, inverse)
        sums[k, _ACTIVE], sums[k, _SCORES], sums[k, _ALL] = active, scores, everything


@EXACT
def decide(
    work: int, size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float,
    fields: FloatArray,
) -> int:  # fmt: skip
    """Digest the partial sums of a pass; return the next pass, or what became of the row."""
    state[_PASSES] += 1.0
    if state[_PASSES] > _MAX_PASSES:
        return GENERAL
    active = total(sums, _ACTIVE, n_blocks)
    if work == _WRITE:
        written = total(sums, _WRITTEN, n_blocks)
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
    return _next(size, active, state, sums, n_blocks)


@EXACT
def _same(mass: float, other: float) -> bool:
    """Return whether two masses of active sets agree but for the order of their sums."""
    return abs(mass - other) <= 2e-15 * mass


@EXACT
def _check(size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float) -> int:
    mass = total(sums, _MASS, n_blocks)
    if not sums_to_one(mass, size, eps):
        return BAD
    high, low = -np.inf, np.inf
    for k in range(n_blocks):
        high, low = max(high, sums[k, _HIGH]), min(low, sums[k, _LOW])
    state[_SHARE] = mass
    return 0 if usable(high, low, state[_BETA]) else GENERAL


@EXACT
def _next(size: int, active: float, state: FloatArray, sums: FloatArray, n_blocks: int) -> int:
    """Take the Newton step; write if the active set is not likely to change any more."""
    # Where all are active, and by Jensen a lower bound of lambda anywhere.
    everything = (state[_SHARE] - 1.0 + total(sums, _ALL, n_blocks)) / state[_SHARE]
    shift = everything
    if active > 0.0:
        shift = max(shift, (active - 1.0 + total(sums, _SCORES, n_blocks)) / active)
    if not abs(shift) < 1e300:
        return GENERAL
    # Write once the set repeats, or is likely to: about size times the shift responses change side.
    if active > 0.0 and (_same(active, state[_SET]) or size * abs(shift) < 0.5):
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
    gain, square = total(sums, _GAIN, n_blocks), total(sums, _SQUARE, n_blocks)
    gap = total(sums, _LINEAR, n_blocks) + square - gain
    margin = rounding(size, eps)
    # By Cauchy and Schwarz `sum p |m|` is at most the root.
    tolerance = margin * (math.sqrt(square * state[_SHARE]) + square + margin)
    multiplier = state[_ANCHOR] + beta * state[_SHIFT]
    value = multiplier + beta * (gain - 0.5 * square)
    return certify(fields, multiplier, value, beta * gap, written, beta * tolerance, margin)
