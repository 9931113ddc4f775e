"""KL: `pi = p e^s / Z`, in one pass over rewards and reference and one over the policy.

Here beta stands for beta times the weight of KL, `s = (r - M)/beta` with M the largest reward of
the support; `lambda = M + beta log Z` and the value is `lambda + beta (1 - sum p)`.  Every block
takes its own M, so that nothing has to be known before the pass.

The certificate.  For any policy and multiplier, with `eps = (r - lambda)/beta - log(pi/p)`,

    dual - primal = (lambda - M)(1 - sum pi) + beta sum pi (e^eps - 1 - eps)

exactly, and the last sum is at most `sum pi eps^2` for `|eps| < 1`.  eps is measured by a second
formula for the exponential: `2^f` comes from a polynomial, and Pade's `e^g ~ (a + b)/(a - b)`,
`g = f log 2`, `a = 1 + g^2/10`, `b = g/2 + g^3/120`, is within 7e-9 of it for `|f| <= 1/2`; a right
exponential therefore leaves 5e-17 in that sum.

Source: arXiv 2205.11275 (the optimum); the identity of the gap is derived, from `f*(s) = e^s - 1`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.blocks import (
    BAD,
    BLOCK,
    GENERAL,
    STRIDE,
    certify,
    fetch_next,
    fetch_policy,
    rounding,
    scan,
    sums_to_one,
    supported,
    total_of,
    usable,
)
from rlhfsim.kernels.elementary import (
    LN_2,
    LOG2_E,
    LOG2_E_REST,
    exp_minus_one,
    far_power_parts,
    power_parts,
)
from rlhfsim.kernels.intrinsics import fma, larger, smaller
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
_WEIGH, _SCALE, _EXPAND = 1, 2, 3
# Columns of the partial sums.
_HIGH, _LOW, _MASS, _WEIGHT, _MISS, _FACTOR, _EXCESS = range(7)
# Entries of the state.
_BETA, _TOP, _SHARE, _REACH, _SHIFT, _GAP, _TOTAL = range(7)

# Pade's approximant in f rather than g.
_TENTH, _HALF, _LAST = LN_2**2 / 10.0, LN_2 / 2.0, LN_2**3 / 120.0
# Exponents of 2 within which `power_parts` works, with room to spare.
_FAR = 700.0
# Where all |s| are below this, e^s - 1 carries the digits.
_NEAR = 0.34
_TINY = 1e-200


@EXACT
def _miss(f: Any, e: Any) -> Any:
    """Return eps of `e = 2^f`, by Pade's approximant."""
    square = f * f
    a = fma(square, _TENTH, 1.0)
    b = f * fma(square, _LAST, _HALF)
    return fma(e, a - b, -a) - b


@EXACT
def _ends(r: FloatArray, o: FloatArray, first: int, end: int) -> tuple[float, float]:
    """Return max r and min r of a block."""
    high, low = spread(-np.inf), spread(np.inf)
    for i in range(first, end, LANES):
        fetch_policy(o, i, LANES)
        x = take(r, i, end, r[first])
        high, low = larger(high, x), smaller(low, x)
    return greatest(high), least(low)


@EXACT
def _weigh(
    r: FloatArray, p: FloatArray, o: FloatArray, first: int, end: int, top: float, scale: float,
    rest: float,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Write `o = p e^s`, `s = (r - top)/beta`; return sum p, min p, sum o, sum o eps^2."""
    rarest = spread(np.inf)
    mass, weight, missed = spread(0.0), spread(0.0), spread(0.0)
    for begin in range(first, end, STRIDE):
        a, b, c = spread(0.0), spread(0.0), spread(0.0)
        for i in range(begin, min(begin + STRIDE, end), LANES):
            fetch_next(r, p, i, LANES)
            x, q = take(r, i, end, r[first]), take(p, i, end, 0.0)
            rarest = smaller(rarest, take(p, i, end, 1.0))
            f, e, u = power_parts(x - top, scale, rest)
            put(o, i, end, q * u)
            y, eps = take(o, i, end, 0.0), _miss(f, e)
            a = a + q
            b = b + y
            c = fma(y, eps * eps, c)
        mass, weight, missed = mass + a, weight + b, missed + c
    return total(mass), least(rarest), total(weight), total(missed)


@EXACT
def _weigh_far(
    r: FloatArray, p: FloatArray, o: FloatArray, first: int, end: int, top: float, scale: float,
    rest: float,
) -> tuple[float, float]:  # fmt: skip
    """`_weigh` where some p are 0, or some e^s underflow; return sum o and sum o eps^2."""
    weight, missed = spread(0.0), spread(0.0)
    for begin in range(first, end, STRIDE):
        b, c = spread(0.0), spread(0.0)
        for i in range(begin, min(begin + STRIDE, end), LANES):
            q = take(p, i, end, 0.0)
            d = where_greater(q, 0.0, take(r, i, end, 0.0) - top, 0.0)
            f, e, u = far_power_parts(d, scale, rest)
            put(o, i, end, q * u)
            y, eps = take(o, i, end, 0.0), _miss(f, e)
            b = b + y
            c = fma(y, eps * eps, c)
        weight, missed = weight + b, missed + c
    return total(weight), total(missed)


@EXACT
def _expand(
    r: FloatArray, p: FloatArray, o: FloatArray, first: int, end: int, top: float, inverse: float
) -> tuple[float, float, float]:
    """`_weigh` for small |s|; return sum p (e^s - 1), sum o and sum o eps^2."""
    excess, weight, missed = spread(0.0), spread(0.0), spread(0.0)
    for begin in range(first, end, STRIDE):
        a, b, c = spread(0.0), spread(0.0), spread(0.0)
        for i in range(begin, min(begin + STRIDE, end), LANES):
            q = take(p, i, end, 0.0)
            s = where_greater(q, 0.0, (take(r, i, end, 0.0) - top) * inverse, 0.0)
            x = exp_minus_one(s)
            square = s * s
            above = fma(square, 0.1, 1.0)
            beside = s * fma(square, 1.0 / 120.0, 0.5)
            put(o, i, end, fma(q, x, q))
            y, eps = take(o, i, end, 0.0), fma(x, above - beside, -(beside + beside))
            a = fma(q, x, a)
            b = b + y
            c = fma(y, eps * eps, c)
        excess, weight, missed = excess + a, weight + b, missed + c
    return total(excess), total(weight), total(missed)


@EXACT
def _scale(o: FloatArray, first: int, end: int, factor: float) -> float:
    """Multiply the policy; return its sum."""
    mass = spread(0.0)
    for begin in range(first, end, STRIDE):
        a = spread(0.0)
        for i in range(begin, min(begin + STRIDE, end), LANES):
            put(o, i, end, take(o, i, end, 0.0) * factor)
            a = a + take(o, i, end, 0.0)
        mass = mass + a
    return total(mass)


@EXACT
def start(
    r: FloatArray, p: FloatArray, beta: float, weights: FloatArray, guess: float, state: FloatArray,
    sample: FloatArray,
) -> int:  # fmt: skip
    """Prepare a row, which needs no first lambda; return the first pass."""
    state[_BETA] = beta * weights[1]
    return _WEIGH


@EXACT
def run(
    work: int, r: FloatArray, p: FloatArray, o: FloatArray, state: FloatArray, sums: FloatArray,
    first: int, last: int, desk: FloatArray,
) -> None:  # fmt: skip
    """Make one pass over blocks `first` to `last - 1`."""
    inverse = 1.0 / state[_BETA]
    scale = LOG2_E * inverse
    # What rounding lost: log2(e) itself, 1/beta, and their product.
    missing = -fma(inverse, state[_BETA], -1.0) / state[_BETA]
    rest = LOG2_E_REST * inverse + fma(LOG2_E, inverse, -scale) + LOG2_E * missing
    for k in range(first, last):
        begin, end = k * BLOCK, min(r.size, (k + 1) * BLOCK)
        if work == _SCALE:
            sums[k, _WEIGHT] = _scale(o, begin, end, sums[k, _FACTOR])
        elif work == _EXPAND:
            excess, weight, missed = _expand(r, p, o, begin, end, state[_TOP], inverse)
            sums[k, _EXCESS], sums[k, _WEIGHT], sums[k, _MISS] = excess, weight, missed
        else:
            high, low = _ends(r, o, begin, end)
            mass, rarest, weight, missed = _weigh(r, p, o, begin, end, high, scale, rest)
            if not (rarest > 0.0 and (high - low) * inverse < _FAR):
                high, low, mass, rarest, clean = scan(r[begin:end], p[begin:end])
                if clean and rarest == 0.0:
                    high, low = supported(r[begin:end], p[begin:end])
                mass = mass if clean else np.nan
                weight, missed = 0.0, 0.0
                if clean and high > -np.inf:
                    weight, missed = _weigh_far(r, p, o, begin, end, high, scale, rest)
                else:
                    o[begin:end] = 0.0
            # What is not finite leaves a sum that is not.
            sums[k, _HIGH], sums[k, _LOW], sums[k, _MASS] = high, low, mass
            sums[k, _WEIGHT], sums[k, _MISS] = weight, missed


@EXACT
def decide(
    work: int, size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float,
    fields: FloatArray,
) -> int:  # fmt: skip
    """Digest the partial sums of a pass; return the next pass, or what became of the row."""
    if work == _WEIGH:
        return _after_weighing(size, state, sums, n_blocks, eps)
    beta, reach = state[_BETA], state[_REACH]
    if work == _EXPAND:
        state[_TOTAL] = weight = total_of(sums, _WEIGHT, n_blocks)
        state[_SHIFT] = math.log1p(total_of(sums, _EXCESS, n_blocks) + (state[_SHARE] - 1.0))
        state[_GAP] = total_of(sums, _MISS, n_blocks)
        sums[:n_blocks, _FACTOR] = 1.0 / weight
        return _SCALE
    shift = state[_SHIFT]
    mass = total_of(sums, _WEIGHT, n_blocks)
    # eps has a part that all responses share: what log Z is off by.
    gap = shift * (1.0 - mass) + state[_GAP] + (state[_TOTAL] * math.exp(-shift) - 1.0) ** 2
    margin = rounding(size, eps)
    tolerance = margin * (abs(shift) + min(reach, 1.0) + margin)
    value = shift + (1.0 - state[_SHARE]) - gap
    top = state[_TOP]
    return certify(
        fields, top + beta * shift, top + beta * value, beta * gap, mass, beta * tolerance, margin
    )


@EXACT
def _after_weighing(
    size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float
) -> int:
    share = total_of(sums, _MASS, n_blocks)
    if not sums_to_one(share, size, eps):
        return BAD
    high, low = -np.inf, np.inf
    for k in range(n_blocks):
        high, low = max(high, sums[k, _HIGH]), min(low, sums[k, _LOW])
    beta = state[_BETA]
    if not usable(high, low, beta):
        return GENERAL
    inverse = 1.0 / beta
    state[_TOP], state[_SHARE], state[_REACH] = high, share, (high - low) * inverse
    if state[_REACH] < _NEAR:
        return _EXPAND
    for k in range(n_blocks):
        log_factor = (sums[k, _HIGH] - high) * inverse
        factor = math.exp(log_factor)
        sums[k, _FACTOR] = factor
        if factor > 1e-300:
            sums[k, _MISS] += sums[k, _WEIGHT] * (log_factor - math.log(factor)) ** 2
        sums[k, _WEIGHT] *= factor
        sums[k, _MISS] *= factor
    z = total_of(sums, _WEIGHT, n_blocks)
    # Where the best responses are very rare, what underflows beside them need not do so in pi.
    lowest, far = (1e-17, 500.0) if eps < 1e-10 else (1e-8, 60.0)
    if not (z > lowest or (z > (_TINY if eps < 1e-10 else 1e-25) and state[_REACH] < far)):
        return GENERAL
    state[_SHIFT], state[_TOTAL] = math.log(z), z
    state[_GAP] = total_of(sums, _MISS, n_blocks) / z
    for k in range(n_blocks):
        sums[k, _FACTOR] /= z
    return _SCALE
