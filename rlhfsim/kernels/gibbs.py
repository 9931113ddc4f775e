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
    total,
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
from rlhfsim.kernels.intrinsics import fma

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
def _miss(f: float, e: float) -> float:
    """Return eps of `e = 2^f`, by Pade's approximant."""
    square = f * f
    a = 1.0 + square * _TENTH
    b = f * (_HALF + square * _LAST)
    return e * (a - b) - a - b


@EXACT
def _weigh(
    r: FloatArray, p: FloatArray, o: FloatArray, top: float, scale: float, rest: float,
    miss: FloatArray,
) -> None:  # fmt: skip
    """Write `o = p e^s`, `s = (r - top)/beta`, and eps."""
    for begin in range(0, r.size, CHUNK):
        fetch_ahead(r, p, begin, CHUNK)
        end = min(begin + CHUNK, r.size)
        rc, pc, oc, mc = r[begin:end], p[begin:end], o[begin:end], miss[begin:end]
        for i in range(rc.size):
            f, e, u = power_parts(np.float64(rc[i]) - top, scale, rest)
            oc[i] = np.float64(pc[i]) * u
            mc[i] = _miss(f, e)


@EXACT
def _weigh_far(
    r: FloatArray, p: FloatArray, o: FloatArray, top: float, scale: float, rest: float,
    miss: FloatArray,
) -> None:  # fmt: skip
    """`_weigh` where some p are 0, or some e^s underflow."""
    for i in range(r.size):
        q = np.float64(p[i])
        d = np.float64(r[i]) - top if q > 0.0 else 0.0
        f, e, u = far_power_parts(d, scale, rest)
        o[i] = q * u
        miss[i] = _miss(f, e)


@SUMS
def _sum_up(o: FloatArray, miss: FloatArray) -> tuple[float, float]:
    """Return the sums of `o` and of `o eps^2`."""
    weight, missed = 0.0, 0.0
    for i in range(o.size):
        x, eps = np.float64(o[i]), miss[i]
        weight += x
        missed += x * (eps * eps)
    return weight, missed


@EXACT
def _expand(
    r: FloatArray, p: FloatArray, o: FloatArray, top: float, inverse: float, miss: FloatArray,
    excess: FloatArray,
) -> None:  # fmt: skip
    """`_weigh` for small |s|, and `p (e^s - 1)`."""
    for i in range(r.size):
        q = np.float64(p[i])
        s = (np.float64(r[i]) - top) * inverse if q > 0.0 else 0.0
        x = exp_minus_one(s)
        a = 1.0 + s * s * 0.1
        b = s * (0.5 + s * s * (1.0 / 120.0))
        miss[i] = x * (a - b) - 2.0 * b
        excess[i] = q * x
        o[i] = q + q * x


@SUMS
def _sum_of(x: FloatArray) -> float:
    total = 0.0
    for i in range(x.size):
        total += x[i]
    return total


@SUMS
def _scale(o: FloatArray, factor: float) -> float:
    mass = 0.0
    for i in range(o.size):
        o[i] = np.float64(o[i]) * factor
        mass += np.float64(o[i])
    return mass


@EXACT
def start(
    r: FloatArray, p: FloatArray, beta: float, weights: FloatArray, guess: float, state: FloatArray,
    sample: FloatArray, desk: FloatArray, singles: SingleArray,
) -> int:  # fmt: skip
    """Prepare a row, which needs no first lambda; return the first pass."""
    state[_BETA] = beta * weights[1]
    return _WEIGH


@EXACT
def run(
    work: int, r: FloatArray, p: FloatArray, o: FloatArray, state: FloatArray, sums: FloatArray,
    first: int, last: int, desk: FloatArray, singles: SingleArray,
) -> None:  # fmt: skip
    """Make one pass over blocks `first` to `last - 1`."""
    inverse = 1.0 / state[_BETA]
    scale = LOG2_E * inverse
    # What rounding lost: log2(e) itself, 1/beta, and their product.
    missing = -fma(inverse, state[_BETA], -1.0) / state[_BETA]
    rest = LOG2_E_REST * inverse + fma(LOG2_E, inverse, -scale) + LOG2_E * missing
    for k in range(first, last):
        begin, end = k * BLOCK, min(r.size, (k + 1) * BLOCK)
        rk, pk, ok = r[begin:end], p[begin:end], o[begin:end]
        if work == _SCALE:
            sums[k, _WEIGHT] = _scale(ok, sums[k, _FACTOR])
        elif work == _EXPAND:
            _expand(rk, pk, ok, state[_TOP], inverse, desk[0], desk[1])
            sums[k, _EXCESS] = _sum_of(desk[1, : end - begin])
            sums[k, _WEIGHT], sums[k, _MISS] = _sum_up(ok, desk[0])
        else:
            high, low, mass, rarest, clean = scan(rk, pk)
            if clean and rarest == 0.0:
                high, low = supported(rk, pk)
            sums[k, _HIGH], sums[k, _LOW] = high, low
            sums[k, _MASS] = mass if clean else np.nan
            if not clean or high == -np.inf:
                ok[:] = 0.0
                desk[0, : end - begin] = 0.0
            elif rarest > 0.0 and (high - low) * inverse < _FAR:
                _weigh(rk, pk, ok, high, scale, rest, desk[0])
            else:
                _weigh_far(rk, pk, ok, high, scale, rest, desk[0])
            sums[k, _WEIGHT], sums[k, _MISS] = _sum_up(ok, desk[0])


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
        state[_TOTAL] = weight = total(sums, _WEIGHT, n_blocks)
        state[_SHIFT] = math.log1p(total(sums, _EXCESS, n_blocks) + (state[_SHARE] - 1.0))
        state[_GAP] = total(sums, _MISS, n_blocks)
        sums[:n_blocks, _FACTOR] = 1.0 / weight
        return _SCALE
    shift = state[_SHIFT]
    mass = total(sums, _WEIGHT, n_blocks)
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
    share = total(sums, _MASS, n_blocks)
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
    z = total(sums, _WEIGHT, n_blocks)
    # Where the best responses are very rare, what underflows beside them need not do so in pi.
    least, far = (1e-17, 500.0) if eps < 1e-10 else (1e-8, 60.0)
    if not (z > least or (z > (_TINY if eps < 1e-10 else 1e-25) and state[_REACH] < far)):
        return GENERAL
    state[_SHIFT], state[_TOTAL] = math.log(z), z
    state[_GAP] = total(sums, _MISS, n_blocks) / z
    for k in range(n_blocks):
        sums[k, _FACTOR] /= z
    return _SCALE
