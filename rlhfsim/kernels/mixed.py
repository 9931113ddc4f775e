"""Chi-squared plus gamma KL: `w + gamma log w = 1 + s`, `s = (r - lambda)/beta`, and `sum p w = 1`.

Here beta stands for beta times the weight of chi-squared.  `w = gamma omega(z)`,
`z = (1 + s)/gamma - log gamma`, omega the Wright omega function, is found by steps of fourth order
(Fritsch, Shafer & Crowley 1973), one logarithm each, written in w so that `log gamma` costs no
digits: with `t = 1 + s - w - gamma log w`, `Q = gamma + w`, `M = 2 Q (Q + 2t/3)`,

    w  <-  w (1 + t (M - gamma t) / (Q (M - 2 gamma t))).

lambda moves by the root of the quadratic model of `sum p w`, from `dw/ds = w/Q` and
`d2w/ds2 = gamma w/Q^3`: a step of third order.  A pass starts from the w of the pass before it,
moved along with lambda by their Taylor polynomial, and the last one is the Taylor polynomial alone.

The certificate.  With `t` measured again on the last w,

    (dual - primal)/beta = sum p t^2 w / (2 Q)   up to O(t^3),
    value = lambda + beta sum (pi s - p (w - 1)^2/2 - gamma p (w log w - w + 1)),   relative to lambda.

Source: arXiv 2407.13399 (the divergence); derivatives, value and gap derived from the link.
"""

from __future__ import annotations

import math

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.kernels.blocks import (
    BAD,
    BLOCK,
    GENERAL,
    certify,
    rounding,
    scan,
    sums_to_one,
    take_sample,
    total,
    usable,
)
from rlhfsim.kernels.compile import EXACT, INLINE, SUMS
from rlhfsim.kernels.elementary import exp, log, log_parts
from rlhfsim.kernels.intrinsics import fma

# Passes: the first; from scratch; from the last w; the last.
_SCAN, _GUESS, _FOLLOW, _WRITE = 1, 2, 3, 4
# Columns of the partial sums.
_RATIO, _SLOPE, _BEND, _ALL, _HIGH, _LOW, _MASS = range(7)
_WRITTEN, _GAIN, _SIZE, _SQUARE, _ENTROPY, _MISS = range(6)
# Entries of the state.
_BETA, _GAMMA, _LOG_GAMMA, _ANCHOR, _MOVE, _PASSES, _SHARE = range(7)

_MAX_PASSES = 64
_SAMPLE_STEPS = 8
# Relative change of w up to which its second-order Taylor polynomial is within 3e-4, from where
# one step of fourth order ends at rounding; and up to which the third-order one does by itself.
_FOLLOWS, _ENDS = 0.1, 1e-4
# Below this z, omega(z) = e^z to rounding; above it, w is far from underflow.
_TAIL = -40.0
_GAMMAS = (1e-12, 1e12)


@INLINE
def _guess(s: float, gamma: float, log_gamma: float) -> float:
    """Return w within 5 %."""
    z = (1.0 + s) / gamma - log_gamma
    x = exp(z if z < 0.5 else 0.5)
    low = x * (1.0 + x * (4.0 / 3.0)) / (1.0 + x * (7.0 / 3.0 + x * (5.0 / 6.0)))
    y = z if z > 0.5 else 0.5
    high = y - log(y) * (y / (1.0 + y))
    return gamma * (low if z < 0.5 else high)


@INLINE
def _refine(w: float, s: float, gamma: float) -> float:
    """One step of fourth order."""
    t = s + (1.0 - w) - gamma * log(w)
    q = gamma + w
    m = 2.0 * q * fma(2.0 / 3.0, t, q)
    bent = gamma * t
    return fma(w, t * (m - bent) / (q * (m - 2.0 * bent)), w)


@INLINE
def _tail(w: float, s: float, gamma: float, log_gamma: float) -> tuple[float, float]:
    """Return w kept from underflow for the step, and what it is where it is tiny."""
    z = (1.0 + s) / gamma
    tiny = exp(z) if z - log_gamma < _TAIL else -1.0
    return (1.0 if tiny >= 0.0 else w), tiny


@SUMS
def _from_scratch(
    r: FloatArray, p: FloatArray, o: FloatArray, anchor: float, inverse: float, gamma: float,
    log_gamma: float,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Write w; return the sums of `p w`, `p w/Q`, `p gamma w/Q^3` and `p s`."""
    ratio, slope, bend, everything = 0.0, 0.0, 0.0, 0.0
    for i in range(r.size):
        q = np.float64(p[i])
        s = (np.float64(r[i]) - anchor) * inverse if q > 0.0 else 0.0
        w = _guess(s, gamma, log_gamma)
        safe, tiny = _tail(w, s, gamma, log_gamma)
        w = _refine(safe, s if tiny < 0.0 else 0.0, gamma)
        w = tiny if tiny >= 0.0 else w
        o[i] = w
        one = 1.0 / (gamma + w)
        first = q * w * one
        ratio += q * w
        slope += first
        bend += first * (gamma * one * one)
        everything += q * s
    return ratio, slope, bend, everything


@SUMS
def _sharpen(
    r: FloatArray, p: FloatArray, o: FloatArray, anchor: float, inverse: float, gamma: float,
    log_gamma: float, move: float,
) -> tuple[float, float, float, float]:  # fmt: skip
    """`_from_scratch` from the w of a lambda smaller by `move` (in units of beta)."""
    ratio, slope, bend, everything = 0.0, 0.0, 0.0, 0.0
    for i in range(r.size):
        q = np.float64(p[i])
        s = (np.float64(r[i]) - anchor) * inverse if q > 0.0 else 0.0
        w = np.float64(o[i])
        one = 1.0 / (gamma + w)
        x = move * one
        w = w * (1.0 - x * (1.0 - 0.5 * gamma * one * x))
        safe, tiny = _tail(w, s, gamma, log_gamma)
        w = _refine(safe, s if tiny < 0.0 else 0.0, gamma)
        w = tiny if tiny >= 0.0 else w
        o[i] = w
        one = 1.0 / (gamma + w)
        first = q * w * one
        ratio += q * w
        slope += first
        bend += first * (gamma * one * one)
        everything += q * s
    return ratio, slope, bend, everything


@SUMS
def _write(
    r: FloatArray, p: FloatArray, o: FloatArray, anchor: float, inverse: float, gamma: float,
    move: float,
) -> tuple[float, float, float, float, float, float]:  # fmt: skip
    """Move w by Taylor's polynomial, write the policy, return the sums of the certificate."""
    written, gain, size, square, entropy, miss = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(r.size):
        q = np.float64(p[i])
        s = fma(np.float64(r[i]) - anchor, inverse, -move) if q > 0.0 else 0.0
        w = np.float64(o[i])
        one = 1.0 / (gamma + w)
        x = move * one
        g = gamma * one
        third = x * g * (3.0 * g - 2.0) * (1.0 / 3.0)
        w = w * (1.0 - x * (1.0 - 0.5 * x * (g - third)))
        tiny = w < 1e-280
        v = 1.0 if tiny else w
        logarithm, bent = log_parts(v)
        y = v - 1.0
        near = abs(y) < 0.29
        t = 0.0 if tiny else s - y - gamma * logarithm
        o[i] = q * w
        z = np.float64(o[i])
        written += z
        gain += z * s
        size += z * abs(s)
        y = w - 1.0
        square += q * (y * y)
        entropy += q * (1.0 if tiny else (y * logarithm + bent if near else w * logarithm - y))
        miss += z * (t * t) * one
    return written, gain, size, square, entropy, miss


@EXACT
def start(
    r: FloatArray, p: FloatArray, beta: float, weights: FloatArray, state: FloatArray,
    sample: FloatArray,
) -> int:  # fmt: skip
    """Prepare a row: lambda from a sample of it; return the first pass."""
    beta, gamma = beta * weights[0], weights[1] / weights[0]
    if not _GAMMAS[0] < gamma < _GAMMAS[1]:
        return GENERAL
    log_gamma = math.log(gamma)
    state[_BETA], state[_GAMMA], state[_LOG_GAMMA] = beta, gamma, log_gamma
    state[_MOVE], state[_PASSES] = 0.0, 0.0
    n, mass, mean = take_sample(r, p, sample)
    state[_ANCHOR] = mean if mass > 0.0 else r[0]
    if not (mass > 0.0 and _GAMMAS[0] < beta):
        return _SCAN
    inverse, anchor = 1.0 / beta, mean
    for _ in range(_SAMPLE_STEPS):
        ratio, slope, bend, _all = _from_scratch(
            sample[0, :n], sample[1, :n], sample[2, :n], anchor, inverse, gamma, log_gamma
        )
        move = _root(ratio - mass, slope, bend)
        if not abs(move) < np.inf:
            break
        anchor += beta * move
        if abs(move) < 0.003:
            break
    if abs(anchor) < np.inf:
        state[_ANCHOR] = anchor
    return _SCAN


@EXACT
def _root(excess: float, slope: float, bend: float) -> float:
    """The zero of `excess - slope x + bend x^2/2` next to 0."""
    inside = slope * slope - 2.0 * bend * excess
    return 2.0 * excess / (slope + math.sqrt(max(inside, 0.0)))


@EXACT
def run(
    work: int, r: FloatArray, p: FloatArray, o: FloatArray, state: FloatArray, sums: FloatArray,
    first: int, last: int,
) -> None:  # fmt: skip
    """Make one pass over blocks `first` to `last - 1`."""
    inverse, anchor, gamma = 1.0 / state[_BETA], state[_ANCHOR], state[_GAMMA]
    log_gamma, move = state[_LOG_GAMMA], state[_MOVE]
    for k in range(first, last):
        begin, end = k * BLOCK, min(r.size, (k + 1) * BLOCK)
        rk, pk, ok = r[begin:end], p[begin:end], o[begin:end]
        if work == _WRITE:
            written, gain, size, square, entropy, miss = _write(
                rk, pk, ok, anchor, inverse, gamma, move
            )
            sums[k, _WRITTEN], sums[k, _GAIN], sums[k, _SIZE] = written, gain, size
            sums[k, _SQUARE], sums[k, _ENTROPY], sums[k, _MISS] = square, entropy, miss
            continue
        if work == _SCAN:
            high, low, mass, _rarest, clean = scan(rk, pk)
            sums[k, _HIGH], sums[k, _LOW] = high, low
            sums[k, _MASS] = mass if clean else np.nan
        if work == _FOLLOW:
            ratio, slope, bend, everything = _sharpen(
                rk, pk, ok, anchor, inverse, gamma, log_gamma, move
            )
        else:
            ratio, slope, bend, everything = _from_scratch(
                rk, pk, ok, anchor, inverse, gamma, log_gamma
            )
        sums[k, _RATIO], sums[k, _SLOPE], sums[k, _BEND] = ratio, slope, bend
        sums[k, _ALL] = everything


@EXACT
def decide(
    work: int, size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float,
    fields: FloatArray,
) -> int:  # fmt: skip
    """Digest the partial sums of a pass; return the next pass, or what became of the row."""
    state[_PASSES] += 1.0
    if state[_PASSES] > _MAX_PASSES:
        return GENERAL
    if work == _WRITE:
        return _finish(size, state, sums, n_blocks, eps, fields)
    if work == _SCAN:
        mass = total(sums, _MASS, n_blocks)
        if not sums_to_one(mass, eps):
            return BAD
        high, low = -np.inf, np.inf
        for k in range(n_blocks):
            high, low = max(high, sums[k, _HIGH]), min(low, sums[k, _LOW])
        state[_SHARE] = mass
        if not usable(high, low, state[_BETA] * min(1.0, state[_GAMMA])):
            return GENERAL
    return _next(work, state, sums, n_blocks)


@EXACT
def _next(work: int, state: FloatArray, sums: FloatArray, n_blocks: int) -> int:
    share, gamma = state[_SHARE], state[_GAMMA]
    excess = total(sums, _RATIO, n_blocks) - 1.0
    move = _root(excess, total(sums, _SLOPE, n_blocks), total(sums, _BEND, n_blocks))
    # Jensen: at `E_p s = f'(1/sum p)` the convex inverse link has `sum p w >= 1`.
    link = 1.0 / share - 1.0 - gamma * math.log(share)
    move = max(move, total(sums, _ALL, n_blocks) / share - abs(link))
    if not abs(move) < 1e300:
        return GENERAL
    state[_MOVE] = move
    change = abs(move) / gamma
    if work == _FOLLOW and change <= _ENDS:
        return _WRITE
    state[_ANCHOR] += state[_BETA] * move
    return _FOLLOW if change <= _FOLLOWS else _GUESS


@EXACT
def _finish(
    size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float, fields: FloatArray
) -> int:
    beta, gamma = state[_BETA], state[_GAMMA]
    written, gain = total(sums, _WRITTEN, n_blocks), total(sums, _GAIN, n_blocks)
    cost = 0.5 * total(sums, _SQUARE, n_blocks) + gamma * total(sums, _ENTROPY, n_blocks)
    margin = rounding(size, eps)
    scale = total(sums, _SIZE, n_blocks) + cost + (1.0 + gamma) * margin
    multiplier = state[_ANCHOR] + beta * state[_MOVE]
    return certify(
        fields, multiplier, multiplier + beta * (gain - cost),
        beta * (0.5 * total(sums, _MISS, n_blocks)), written, beta * (margin * scale), margin,
    )  # fmt: skip
