"""Chi-squared plus gamma KL: `w + gamma log w = 1 + s`, `s = (r - lambda)/beta`, and `sum p w = 1`.

Here beta stands for beta times the weight of chi-squared.  `w = gamma omega(z)`,
`z = (1 + s)/gamma - log gamma`, omega the Wright omega function, is found by steps of fourth order
(Fritsch, Shafer & Crowley 1973), one logarithm each, written in w so that `log gamma` costs no
digits: with `t = 1 + s - w - gamma log w`, `Q = gamma + w`, `M = 2 Q (Q + 2t/3)`,

    w  <-  w (1 + t (M - gamma t) / (Q (M - 2 gamma t))).

lambda moves by the root of the cubic model of `sum p w`, from `dw/dz = w g`, `d2w/dz2 = w g^3`,
`d3w/dz3 = w g^3 (3 g^2 - 2 g)`, `g = gamma/Q`: a step of fourth order.  A pass starts from the w of
the pass before it, moved along with lambda by their Taylor polynomial, and the last one takes the
polynomial alone.

The certificate.  With `t` measured again on the last w,

    (dual - primal)/beta = sum p t^2 w / (2 Q)   up to O(t^3),
    value = lambda + beta sum (pi s - p (w - 1)^2/2 - gamma p (w log w - w + 1))

Source: arXiv 2407.13399 (the divergence); derivatives, value and gap derived from the link.
"""

from __future__ import annotations

import math

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.compiling import EXACT, SUMS
from rlhfsim.kernels.blocks import (
    BAD,
    BLOCK,
    DESK,
    GENERAL,
    SAMPLE,
    SingleArray,
    certify,
    fetch_next,
    fetch_policy,
    rounding,
    scan,
    sums_to_one,
    supported,
    take_sample,
    total_of,
    usable,
)
from rlhfsim.kernels.elementary import exp, log, log_parts
from rlhfsim.kernels.intrinsics import borrow, fma, smaller
from rlhfsim.kernels.single import wright_omega

# Passes: the first; from scratch; from the last w; the last.
_SCAN, _GUESS, _FOLLOW, _WRITE = 1, 2, 3, 4
# Columns of the partial sums.
_RATIO, _SLOPE, _BEND, _THIRD, _ALL, _HIGH, _LOW, _MASS = range(8)
_WRITTEN, _GAIN, _SIZE, _SQUARE, _ENTROPY, _MISS = range(6)
# Entries of the state.
_BETA, _GAMMA, _LOG_GAMMA, _ANCHOR, _REST, _MOVE, _PASSES, _SHARE = range(8)
_LEAST, _MOST, _LEFT, _RIGHT = range(8, 12)

_MAX_PASSES = 64
_SAMPLE_STEPS = 8
# Relative changes of w.  Up to the first, its Taylor polynomial of third order is within 3e-5, from
# where one step of fourth order ends far below rounding; up to the second, two steps do.  Up to the
# third, that polynomial and the step of lambda do so by themselves.
_FOLLOWS, _FOLLOWS_FAR, _ENDS = 0.15, 0.5, 3e-5
# Below this z, omega(z) = e^z to rounding; above it, w is far from underflow.
_TAIL = -40.0
_GAMMAS = (1e-12, 1e12)
_TINY = 1e-280
_EPS = float(np.finfo(np.float64).eps)


@SUMS
def _scores(
    r: FloatArray, p: FloatArray, anchor: float, inverse: float, move: float, s: FloatArray
) -> float:
    """Fill s with the scores, 0 where p is 0; return the least."""
    least = np.inf
    for i in range(r.size):
        x = fma(np.float64(r[i]) - anchor, inverse, -move)
        s[i] = x if p[i] > 0.0 else 0.0
        least = smaller(least, s[i])
    return least


@SUMS
def _sum_up(
    p: FloatArray, s: FloatArray, w: FloatArray, one: FloatArray
) -> tuple[float, float, float, float, float]:
    """Return the sums of p times w, dw/dz, d2w/dz2, d3w/dz3 and s, where z = s/gamma.

    With g = gamma/Q, which is in `one`: `w g`, `w g^3`, `w g^3 (3 g^2 - 2 g)`.
    """
    ratio, slope, bend, third, everything = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(p.size):
        q = np.float64(p[i])
        mass = q * w[i]
        first = mass * one[i]
        square = one[i] * one[i]
        second = first * square
        ratio += mass
        slope += first
        bend += second
        third += second * (3.0 * square - 2.0 * one[i])
        everything += q * s[i]
    return ratio, slope, bend, third, everything


@EXACT
def _tail(s: FloatArray, w: FloatArray, gamma: float, log_gamma: float) -> None:
    """Write `w = e^((1 + s)/gamma)` where it is tiny, so that it may underflow gradually."""
    inverse = 1.0 / gamma
    for i in range(s.size):
        z = (1.0 + s[i]) * inverse
        tiny = exp(z if z - log_gamma < _TAIL else -1.0)
        w[i] = tiny if z - log_gamma < _TAIL else w[i]


@EXACT
def _guess(
    s: FloatArray, gamma: float, log_gamma: float, w: FloatArray, one: FloatArray,
    singles: SingleArray,
) -> None:  # fmt: skip
    """Fill `w`, within 2e-5, and `one` with gamma/Q."""
    n, inverse = s.size, 1.0 / gamma
    z, omega, below = borrow(singles, 0, n), borrow(singles, DESK, n), borrow(singles, 2 * DESK, n)
    for i in range(n):
        z[i] = np.float32((1.0 + s[i]) * inverse - log_gamma)
    wright_omega(z, omega, below)
    for i in range(n):
        w[i] = gamma * np.float64(omega[i])
        one[i] = np.float64(below[i])


@EXACT
def _reciprocal(x: float) -> float:
    """`1/x` within 1e-14: single precision and a step of Newton's, cheaper than a division."""
    y = np.float64(np.float32(1.0) / np.float32(x))
    return y * (2.0 - x * y)


@EXACT
def _moved(w: float, one: float, gamma: float, move: float) -> float:
    """Return w at a lambda larger by `move`, by Taylor's polynomial of third order; one = 1/Q."""
    x, g = move * one, gamma * one
    third = x * g * (g - 2.0 / 3.0)
    return w * (1.0 - x * (1.0 - 0.5 * x * (g - third)))


@EXACT
def _follow(o: FloatArray, gamma: float, move: float, w: FloatArray, one: FloatArray) -> None:
    """Fill w with that of the last pass moved along with lambda, and `one` with 1/Q, roughly."""
    for i in range(o.size):
        v = np.float64(o[i])
        one[i] = _reciprocal(gamma + v)
        w[i] = _moved(v, one[i], gamma, move)


@EXACT
def _refine(s: FloatArray, w: FloatArray, gamma: float, logs: FloatArray, one: FloatArray) -> None:
    """Take one step of fourth order; fill `one` with gamma/Q."""
    for i in range(s.size):
        logs[i] = log(w[i])
    for i in range(s.size):
        t = s[i] + (1.0 - w[i]) - gamma * logs[i]
        q = gamma + w[i]
        m = 2.0 * q * fma(2.0 / 3.0, t, q)
        bent = gamma * t
        below = m - 2.0 * bent
        both = 1.0 / (q * below)
        w[i] = fma(w[i], t * (m - bent) * both, w[i])
        # 1/q of the w before the step, brought to the new one by Newton's method.
        y, q = both * below, gamma + w[i]
        y = y * (2.0 - q * y)
        one[i] = gamma * (y * (2.0 - q * y))


@EXACT
def _weigh(
    r: FloatArray, p: FloatArray, o: FloatArray, anchor: float, inverse: float, gamma: float,
    log_gamma: float, rest: float, move: float, steps: int, follow: bool, desk: FloatArray,
    singles: SingleArray,
) -> tuple[float, float, float, float, float]:  # fmt: skip
    """Write w at lambda = anchor + beta rest: from scratch, or from w of one smaller by `move`."""
    ratio, slope, bend, third, everything = 0.0, 0.0, 0.0, 0.0, 0.0
    for begin in range(0, r.size, DESK):
        n = min(DESK, r.size - begin)
        rk, pk, ok = borrow(r, begin, n), borrow(p, begin, n), borrow(o, begin, n)
        s, w, logs, one = (
            borrow(desk, 0, n),
            borrow(desk, DESK, n),
            borrow(desk, 2 * DESK, n),
            borrow(desk, 3 * DESK, n),
        )
        least = _scores(rk, pk, anchor, inverse, rest, s)
        if follow:
            _follow(ok, gamma, move, w, one)
        else:
            _guess(s, gamma, log_gamma, w, one, singles)
        tail = (1.0 + least) / gamma - log_gamma < _TAIL
        for _ in range(steps):
            if tail:
                for i in range(n):
                    w[i] = max(w[i], 1e-200)
            _refine(s, w, gamma, logs, one)
        if tail:
            _tail(s, w, gamma, log_gamma)
        for i in range(n):
            ok[i] = w[i]
        a, b, c, d, e = _sum_up(pk, s, w, one)
        ratio, slope, bend = ratio + a, slope + b, bend + c
        third, everything = third + d, everything + e
    return ratio, slope, bend, third, everything


@EXACT
def _take_logs(w: FloatArray, logs: FloatArray, bent: FloatArray) -> None:
    """Fill in `log w` and `log w - (w - 1)`; of `_TINY` where w is below it."""
    for i in range(w.size):
        logs[i], bent[i] = log_parts(w[i] if w[i] > _TINY else _TINY)


@SUMS
def _measure(
    p: FloatArray, o: FloatArray, s: FloatArray, w: FloatArray, logs: FloatArray,
    bent: FloatArray, one: FloatArray, gamma: float,
) -> tuple[float, float, float, float, float, float]:  # fmt: skip
    """Return the sums of the certificate."""
    written, gain, size, square, entropy, miss = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(p.size):
        q = np.float64(p[i])
        z = np.float64(o[i])
        y = w[i] - 1.0
        t = s[i] - y - gamma * logs[i]
        written += z
        gain += z * s[i]
        size += z * abs(s[i])
        square += q * (y * y)
        # `w log w - y` with the cancelled part of log w taken apart.
        entropy += q * (y * logs[i] + bent[i])
        miss += z * (t * t) * one[i]
    return written, gain, size, square, entropy, miss


@EXACT
def _write(
    r: FloatArray, p: FloatArray, o: FloatArray, anchor: float, inverse: float, gamma: float,
    rest: float, move: float, desk: FloatArray,
) -> tuple[float, float, float, float, float, float]:  # fmt: skip
    """Move w by its Taylor polynomial of third order and write the policy."""
    written, gain, size, square, entropy, miss = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for begin in range(0, r.size, DESK):
        n = min(DESK, r.size - begin)
        rk, pk, ok = borrow(r, begin, n), borrow(p, begin, n), borrow(o, begin, n)
        s, w, logs = borrow(desk, 0, n), borrow(desk, DESK, n), borrow(desk, 2 * DESK, n)
        one, bent = borrow(desk, 3 * DESK, n), borrow(desk, 4 * DESK, n)
        _scores(rk, pk, anchor, inverse, rest + move, s)
        _follow(ok, gamma, move, w, one)
        least = np.inf
        for i in range(n):
            least = smaller(least, w[i])
        _take_logs(w, logs, bent)
        if least < _TINY:
            # Such a w adds to the cost of f(0) = 1/2 + gamma alone, to rounding.
            for i in range(n):
                if w[i] < _TINY:
                    logs[i], bent[i], s[i] = 0.0, 1.0, w[i] - 1.0
        for i in range(n):
            ok[i] = np.float64(pk[i]) * w[i]
        a, b, c, d, e, f = _measure(pk, ok, s, w, logs, bent, one, gamma)
        written, gain, size = written + a, gain + b, size + c
        square, entropy, miss = square + d, entropy + e, miss + f
    return written, gain, size, square, entropy, miss


@EXACT
def start(
    r: FloatArray, p: FloatArray, beta: float, weights: FloatArray, guess: float, state: FloatArray,
    sample: FloatArray, desk: FloatArray, singles: SingleArray,
) -> int:  # fmt: skip
    """Prepare a row: lambda as guessed, or from a sample of the row; return the first pass."""
    beta, gamma = beta * weights[0], weights[1] / weights[0]
    if not _GAMMAS[0] < gamma < _GAMMAS[1]:
        return GENERAL
    log_gamma = math.log(gamma)
    state[_BETA], state[_GAMMA], state[_LOG_GAMMA] = beta, gamma, log_gamma
    state[_MOVE], state[_REST], state[_PASSES] = 0.0, 0.0, 0.0
    state[_LEFT], state[_RIGHT] = -np.inf, np.inf
    if abs(guess) < np.inf:
        state[_ANCHOR] = guess
        return _SCAN
    n, mass, mean = take_sample(r, p, sample)
    state[_ANCHOR] = mean if mass > 0.0 else r[0]
    if not (mass > 0.0 and _GAMMAS[0] < beta):
        return _SCAN
    # By Jensen, `sum p w` is at least the mass at the mean.
    inverse, anchor, left, right = 1.0 / beta, mean, mean, np.inf
    x, q, w = borrow(sample, 0, n), borrow(sample, SAMPLE, n), borrow(sample, 2 * SAMPLE, n)
    for _ in range(_SAMPLE_STEPS):
        ratio, slope, bend, third, _all = _weigh(
            x, q, w, anchor, inverse, gamma, log_gamma, 0.0, 0.0, 0, False, desk, singles
        )  # fmt: skip
        move = gamma * _root(ratio - mass, slope, bend, third)
        if not abs(move) < np.inf:
            break
        if ratio > mass:
            left = anchor
        else:
            right = anchor
        anchor = _inside(anchor + beta * move, left, right)
        if abs(move) < 0.05 * gamma:
            break
    if abs(anchor) < np.inf:
        state[_ANCHOR] = anchor
    return _SCAN


@EXACT
def _inside(trial: float, left: float, right: float) -> float:
    """Return the trial, or the middle of the bracket, or its only end, where it is outside."""
    if left < trial < right:
        return trial
    return 0.5 * (left + right) if right < np.inf else left


@EXACT
def _root(excess: float, slope: float, bend: float, third: float) -> float:
    """Return the zero of `excess - slope x + bend x^2/2 - third x^3/6` next to 0.

    The quadratic's zero, and Newton steps from it as long as the cubic falls there.
    """
    inside = slope * slope - 2.0 * bend * excess
    x = 2.0 * excess / (slope + math.sqrt(max(inside, 0.0)))
    for _ in range(3):
        falls = slope - x * (bend - 0.5 * third * x)
        if not (falls > 0.5 * slope and abs(x) < 1.0):
            break
        x += (excess - x * (slope - x * (0.5 * bend - third * x * (1.0 / 6.0)))) / falls
    return x


@EXACT
def run(
    work: int, r: FloatArray, p: FloatArray, o: FloatArray, state: FloatArray, sums: FloatArray,
    first: int, last: int, desk: FloatArray, singles: SingleArray,
) -> None:  # fmt: skip
    """Make one pass over blocks `first` to `last - 1`."""
    inverse, anchor, gamma = 1.0 / state[_BETA], state[_ANCHOR], state[_GAMMA]
    log_gamma, rest, move = state[_LOG_GAMMA], state[_REST], state[_MOVE]
    for k in range(first, last):
        begin, end = k * BLOCK, min(r.size, (k + 1) * BLOCK)
        size = end - begin
        rk, pk, ok = borrow(r, begin, size), borrow(p, begin, size), borrow(o, begin, size)
        half = size // 2
        if work == _WRITE:
            fetch_next(r, p, begin + half, size - half)
            written, gain, reach, square, entropy, miss = _write(
                rk, pk, ok, anchor, inverse, gamma, rest, move, desk
            )
            sums[k, _WRITTEN], sums[k, _GAIN], sums[k, _SIZE] = written, gain, reach
            sums[k, _SQUARE], sums[k, _ENTROPY], sums[k, _MISS] = square, entropy, miss
            continue
        steps = 2
        if work == _SCAN:
            fetch_policy(o, begin, size)
            high, low, mass, rarest, clean = scan(rk, pk)
            if clean and rarest == 0.0:
                high, low = supported(rk, pk)
            sums[k, _HIGH], sums[k, _LOW] = high, low
            sums[k, _MASS] = mass if clean else np.nan
            steps = 0
        else:
            fetch_next(r, p, begin, half)
            if work == _FOLLOW and abs(move) <= _FOLLOWS * gamma:
                steps = 1
        ratio, slope, bend, third, everything = _weigh(
            rk, pk, ok, anchor, inverse, gamma, log_gamma, rest, move, steps, work == _FOLLOW,
            desk, singles,
        )  # fmt: skip
        sums[k, _RATIO], sums[k, _SLOPE], sums[k, _BEND] = ratio, slope, bend
        sums[k, _THIRD], sums[k, _ALL] = third, everything


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
        mass = total_of(sums, _MASS, n_blocks)
        if not sums_to_one(mass, size, eps):
            return BAD
        high, low = -np.inf, np.inf
        for k in range(n_blocks):
            high, low = max(high, sums[k, _HIGH]), min(low, sums[k, _LOW])
        state[_SHARE], state[_LEAST], state[_MOST] = mass, low, high
        if not usable(high, low, state[_BETA] * min(1.0, state[_GAMMA])):
            return GENERAL
    return _next(work, state, sums, n_blocks)


@EXACT
def _next(work: int, state: FloatArray, sums: FloatArray, n_blocks: int) -> int:
    share, gamma = state[_SHARE], state[_GAMMA]
    excess = total_of(sums, _RATIO, n_blocks) - 1.0
    slope, bend = total_of(sums, _SLOPE, n_blocks), total_of(sums, _BEND, n_blocks)
    move = gamma * _root(excess, slope, bend, total_of(sums, _THIRD, n_blocks))
    # Jensen: at `E_p s = f'(1/sum p)` the convex inverse link has `sum p w >= 1`.
    link = 1.0 / share - 1.0 - gamma * math.log(share)
    move = max(move, total_of(sums, _ALL, n_blocks) / share - abs(link))
    if not abs(move) < 1e300:
        return GENERAL
    old, beta = state[_ANCHOR], state[_BETA]
    here = old + beta * state[_REST]
    # The sign of the first excess is as uncertain as the guess.
    if work != _SCAN:
        state[_LEFT if excess > 0.0 else _RIGHT] = here
    # Only steps that the floats can tell from none are worth a safeguard.
    if state[_LEFT] > -np.inf and beta * abs(move) > 4.0 * _EPS * abs(here):
        inside = _inside(here + beta * move, state[_LEFT], state[_RIGHT])
        # The difference has fewer digits than the move.
        move = move if inside == here + beta * move else (inside - here) / beta
    state[_MOVE] = move
    # lambda lies between the rewards; an anchor out there would cost their digits.
    whole = state[_REST] + move
    new = min(max(old + beta * whole, state[_LEAST]), state[_MOST])
    within = state[_LEAST] <= old <= state[_MOST]
    if work != _SCAN and abs(move) <= _ENDS * gamma and within:
        return _WRITE
    # What the floats next to lambda cannot hold stays a shift of the scores.
    taken = (new - old) / beta
    rest = whole - taken if state[_LEAST] < new < state[_MOST] else 0.0
    state[_ANCHOR], state[_REST], state[_MOVE] = new, rest, taken + rest - state[_REST]
    return _FOLLOW if abs(state[_MOVE]) <= _FOLLOWS_FAR * gamma else _GUESS


@EXACT
def _finish(
    size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float, fields: FloatArray
) -> int:
    beta, gamma = state[_BETA], state[_GAMMA]
    written, gain = total_of(sums, _WRITTEN, n_blocks), total_of(sums, _GAIN, n_blocks)
    cost = 0.5 * total_of(sums, _SQUARE, n_blocks) + gamma * total_of(sums, _ENTROPY, n_blocks)
    margin = rounding(size, eps)
    scale = total_of(sums, _SIZE, n_blocks) + cost + (1.0 + gamma) * margin
    multiplier = state[_ANCHOR] + beta * (state[_REST] + state[_MOVE])
    return certify(
        fields, multiplier, multiplier + beta * (gain - cost),
        beta * (0.5 * total_of(sums, _MISS, n_blocks)), written, beta * (margin * scale), margin,
    )  # fmt: skip
