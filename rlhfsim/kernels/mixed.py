"""Chi-squared plus gamma KL: `w + gamma log w = 1 + s`, `s = (r - lambda)/beta`, and `sum p w = 1`.

Here beta stands for beta times the weight of chi-squared.  `w = gamma omega(z)`,
`z = (1 + s)/gamma - log gamma`, omega the Wright omega function.

Three passes.  The first takes omega in single precision.  The second starts from `l = log w` in
single precision, `w = e^l`, and adds one step of fourth order: with `t = 1 + s - w - gamma l`,
`Q = gamma + w`, `x = t/Q`, `g = gamma/Q`,

    w  <-  w (1 + x (1 + x/2 (g + x g (g - 2/3)))).

Each moves lambda by the root of the cubic model of `sum p w`, from `dw/dz = w g`,
`d2w/dz2 = w g^3`, `d3w/dz3 = w g^3 (3 g^2 - 2 g)`: a step of fourth order.  The last pass moves w
along with lambda, by the same polynomial with `x = -move/Q`.

The certificate.  For any w > 0 and lambda, with t measured on them,

    (dual - primal)/beta = sum p w t^2 / (2 Q)   up to O(t^3),
    primal = lambda + beta (sum p ((w - 1)^2/2 + (1 + gamma) (w - 1)) + sum p w t).

The second pass measures t on the w that it wrote, whose logarithm is `l + log(1 + u)`, u the last
step, three terms of which series suffice; a row with a larger step is handed back.  A move by a
factor `1 - e` adds `Q e - move + gamma (e^2/2 + e^3/3 + ...)` to t, and the roots of the gaps add
up (Minkowski).  Where all w are near 1 the terms of that primal value cancel; there the last pass
takes logarithms and

    primal = lambda + beta sum (pi s - p (w - 1)^2/2 - gamma p (w log w - w + 1)).

Source: arXiv 2407.13399 (the divergence); derivatives, values and gap derived from the link.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels import single
from rlhfsim.kernels.blocks import (
    BAD,
    BLOCK,
    GENERAL,
    SAMPLE,
    STRIDE,
    WIDTH,
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
from rlhfsim.kernels.elementary import (
    LOG2_E,
    LOG2_E_REST,
    far_power_parts,
    log_near_one,
    power_parts,
)
from rlhfsim.kernels.intrinsics import borrow, fma, larger, smaller
from rlhfsim.kernels.vectors import (
    LANES,
    WIDE,
    first_part,
    folded,
    greatest,
    holds_singles,
    join,
    least,
    load,
    load_singles,
    narrow,
    put,
    second_part,
    spread,
    store,
    store_singles,
    store_wide,
    take,
    take_wide,
    total,
    where_greater,
    widen,
)

# Passes: the first; the same over checked input; a step of fourth order; the last, two ways.
_SCAN, _GUESS, _REFINE, _MOVE, _EXPAND = 1, 2, 3, 4, 5
# Columns of the partial sums.
_RATIO, _SLOPE, _BEND, _THIRD, _ALL, _HIGH, _LOW, _MASS = range(8)
_SIZE, _DRIFT, _MISS, _LARGEST = _ALL, _HIGH, _LOW, _MASS
_WRITTEN, _SQUARE, _MOVED_DRIFT, _MOVED_MISS = range(4)
_GAIN, _ENTROPY, _LENGTH = range(4, 7)
# Entries of the state.
_BETA, _GAMMA, _LOG_GAMMA, _ANCHOR, _REST, _CHANGE, _PASSES, _SHARE = range(8)
_LEAST, _MOST, _LEFT, _RIGHT, _FAR, _FELT, _LOST, _STRAY = range(8, 16)

_MAX_PASSES = 64
_SAMPLE_STEPS = 8
# Relative changes of w.  Up to the first, the step of lambda lands where the second pass may begin;
# up to the second, that step and the polynomial of the last pass are exact to rounding.
_BEGINS, _ENDS = 0.2, 2e-4
# The largest last step u of which `u - u^2/2 + u^3/3` is the logarithm, to rounding.
_TRUSTED = 3e-4
# Relative to the sum and 1, the guessed excess from which on its sign is right.
_SURE = 1e-3
# Relative to 1 + gamma, scores below which every w is between 0.71 and 1.41.
_NEAR = 0.25
# Logarithms of w beyond which `power_parts` does not work; and where w is 0.
_LOW_LOG, _NO_LOG = -690.0, -760.0
_GAMMAS = (1e-12, 1e12)
# Where on the desk loops over one stride leave what the next needs.  The loops are short because
# the processor then has several vectors under way, and one long loop is a chain of dependent
# operations longer than it can look ahead.
_S, _LOG, _W, _T, _Y = 0, STRIDE, 2 * STRIDE, 3 * STRIDE, 4 * STRIDE
_EPS = float(np.finfo(np.float64).eps)


@EXACT
def _kept(o: FloatArray, i: int, n: int, x: Any) -> Any:
    """Write a vector; return it as the array has it."""
    put(o, i, n, x)
    return take(o, i, n, 0.0) if holds_singles(o) else x


@EXACT
def _scores(x: Any, q: Any, anchor: float, inverse: float, rest: float) -> Any:
    """Return the scores, 0 where p is 0."""
    return where_greater(q, 0.0, fma(x - anchor, inverse, -rest), 0.0)


@EXACT
def _guess(
    r: FloatArray, p: FloatArray, o: FloatArray, first: int, end: int, anchor: float,
    inverse: float, rest: float, gamma: float, log_gamma: float, far: bool, scanning: bool,
    desk: FloatArray, sums: FloatArray,
) -> None:  # fmt: skip
    """Sum p times w, dw/dz, d2w/dz2 and d3w/dz3, within 1e-4, and s; look at the input."""
    per_gamma = 1.0 / gamma
    origin = per_gamma - log_gamma
    high, low, rarest = spread(-np.inf), spread(np.inf), spread(np.inf)
    everything, mass = spread(0.0), spread(0.0)
    ratio, slope, bend, third = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
    for begin in range(first, end, STRIDE):
        stop = min(begin + STRIDE, end)
        size = spread(0.0)
        for i in range(begin, stop, WIDE):
            x, q = take_wide(r, i, end, r[first]), take_wide(p, i, end, 0.0)
            if scanning:
                fetch_policy(o, i, WIDE)
                high = larger(high, larger(first_part(x), second_part(x)))
                low = smaller(low, smaller(first_part(x), second_part(x)))
                lowest = take_wide(p, i, end, 1.0)
                rarest = smaller(rarest, smaller(first_part(lowest), second_part(lowest)))
                size = size + folded(q)
            s = _scores(x, q, anchor, inverse, rest)
            everything = everything + folded(q * s)
            store_singles(desk, i - begin, single.log_omega(narrow(fma(s, per_gamma, origin)), far))
        nothing = narrow(join(spread(0.0), spread(0.0)))
        ratios, slopes, bends, thirds = nothing, nothing, nothing, nothing
        for i in range(begin, stop, WIDE):
            omega = single.exp(larger(load_singles(desk, i - begin), -80.0))
            one = 1.0 / (omega + 1.0)
            weight = narrow(take_wide(p, i, end, 0.0)) * omega
            a = weight * one
            square = one * one
            b = a * square
            ratios, slopes, bends = ratios + weight, slopes + a, bends + b
            thirds = fma(b, fma(3.0, square, -(one + one)), thirds)
        mass = mass + size
        ratio, slope = ratio + folded(widen(ratios)), slope + folded(widen(slopes))
        bend, third = bend + folded(widen(bends)), third + folded(widen(thirds))
    sums[_RATIO], sums[_SLOPE] = gamma * total(ratio), gamma * total(slope)
    sums[_BEND], sums[_THIRD] = gamma * total(bend), gamma * total(third)
    sums[_ALL] = total(everything)
    if scanning:
        top, bottom, share = greatest(high), least(low), total(mass)
        # What is not finite leaves a sum that is not.
        if not (least(rarest) > 0.0 and abs(share) < np.inf and abs(sums[_ALL]) < np.inf):
            top, bottom, share, lowest, clean = scan(r[first:end], p[first:end])
            if clean and lowest == 0.0:
                top, bottom = supported(r[first:end], p[first:end])
            share = share if clean else np.nan
        sums[_HIGH], sums[_LOW], sums[_MASS] = top, bottom, share


@EXACT
def _take_scores(
    r: FloatArray, p: FloatArray, begin: int, stop: int, end: int, anchor: float, inverse: float,
    rest: float, gamma: float, log_gamma: float, far: bool, low: bool, desk: FloatArray,
) -> None:  # fmt: skip
    """Put the scores on the desk, and log w within 1e-4."""
    per_gamma = 1.0 / gamma
    origin = per_gamma - log_gamma
    # From where on w is 0: the terms of s that are left out there are multiplied by it.
    floor = gamma * _NO_LOG - 1.0
    for i in range(begin, stop, WIDE):
        q = take_wide(p, i, end, 0.0)
        fetch_next(r, p, i, WIDE)
        s = _scores(take_wide(r, i, end, 0.0), q, anchor, inverse, rest)
        if low:
            s = larger(s, floor)
        log_w = widen(single.log_omega(narrow(fma(s, per_gamma, origin)), far)) + log_gamma
        store_wide(desk, _S + i - begin, s)
        store_wide(desk, _LOG + i - begin, log_w)


@EXACT
def _improve(
    o: FloatArray, begin: int, stop: int, end: int, gamma: float, desk: FloatArray,
    largest: Any,
) -> Any:  # fmt: skip
    """Write w after a step of fourth order; put it, t and 1/Q on the desk; return the largest u."""
    for i in range(begin, stop, LANES):
        j = i - begin
        s, log_w, w = load(desk, _S + j), load(desk, _LOG + j), load(desk, _W + j)
        t = fma(-gamma, log_w, s + (1.0 - w))
        y = 1.0 / (w + gamma)
        x, half = t * y, 0.5 * gamma * y
        u = x * fma(x, fma(x * half, half + (half - 2.0 / 3.0), half), 1.0)
        better = fma(w, u, w)
        largest = larger(largest, larger(u, -u))
        t = fma(-gamma, fma(u, fma(u, fma(u, 1.0 / 3.0, -0.5), 1.0), log_w), s + (1.0 - better))
        stored = _kept(o, i, end, better)
        if holds_singles(o):
            # Rounding to singles is a step of its own, which lambda should not feel.
            lost = where_greater(better, 1e-30, (stored - better) / better, 0.0)
            t = t - fma(lost, better, gamma * lost * fma(lost, -0.5, 1.0))
        # 1/Q of w, brought to the better one: the root of `1/y = Q` by a step of third order.
        off = fma(-y, better + gamma, 1.0)
        store(desk, _W + j, better)
        store(desk, _T + j, t)
        store(desk, _Y + j, fma(y, fma(off, off, off), y))
    return largest


@EXACT
def _refine(
    r: FloatArray, p: FloatArray, o: FloatArray, first: int, end: int, anchor: float,
    inverse: float, rest: float, gamma: float, log_gamma: float, far: bool, low: bool,
    desk: FloatArray, sums: FloatArray,
) -> None:  # fmt: skip
    """Write w; sum p times w and its derivatives as `_guess` does, and the terms of t."""
    ratio, slope, bend, third = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
    size, drift, miss, largest = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
    for begin in range(first, end, STRIDE):
        stop = min(begin + STRIDE, end)
        _take_scores(
            r, p, begin, stop, end, anchor, inverse, rest, gamma, log_gamma, far, low, desk
        )
        if low:
            for j in range(0, stop - begin, LANES):
                store(desk, _W + j, far_power_parts(load(desk, _LOG + j), LOG2_E, LOG2_E_REST)[2])
        else:
            for j in range(0, stop - begin, LANES):
                store(desk, _W + j, power_parts(load(desk, _LOG + j), LOG2_E, LOG2_E_REST)[2])
        largest = _improve(o, begin, stop, end, gamma, desk, largest)
        c = spread(0.0)
        for i in range(begin, stop, LANES):
            j = i - begin
            s, t, y = load(desk, _S + j), load(desk, _T + j), load(desk, _Y + j)
            weight, g = take(p, i, end, 0.0) * load(desk, _W + j), gamma * y
            a = weight * g
            square = g * g
            b = a * square
            c = c + weight
            slope, bend = slope + a, bend + b
            third = fma(b, fma(3.0, square, -(g + g)), third)
            size = fma(weight, larger(s, -s), size)
            part = weight * t
            drift = drift + part
            miss = fma(part, t * y, miss)
        ratio = ratio + c
    sums[_RATIO], sums[_SLOPE], sums[_BEND] = total(ratio), total(slope), total(bend)
    sums[_THIRD] = total(third)
    sums[_SIZE], sums[_DRIFT], sums[_MISS] = total(size), total(drift), total(miss)
    sums[_LARGEST] = greatest(largest)


@EXACT
def _moved(w: Any, gamma: float, change: float) -> tuple[Any, Any, Any]:
    """Return e, Q and 1/Q roughly, so that `w (1 - e)` is w at a lambda larger by beta change."""
    q = w + gamma
    y = widen(1.0 / narrow(q))
    # 1e-14.
    y = y * fma(-q, y, 2.0)
    x, half = change * y, 0.5 * gamma * y
    e = x * fma(-x, fma(-x * half, half + (half - 2.0 / 3.0), half), 1.0)
    return e, q, y


@EXACT
def _move(
    r: FloatArray, p: FloatArray, o: FloatArray, first: int, end: int, gamma: float, change: float,
    sums: FloatArray,
) -> None:  # fmt: skip
    """Move w along with lambda and write the policy; sum it and what the move adds to t."""
    written, square, drift, miss = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
    for begin in range(first, end, STRIDE):
        a = spread(0.0)
        for i in range(begin, min(begin + STRIDE, end), LANES):
            w, q = take(o, i, end, 1.0), take(p, i, end, 0.0)
            e, below, y = _moved(w, gamma, change)
            w = fma(-w, e, w)
            z = _kept(o, i, end, q * w)
            t = fma(e * e, fma(e, gamma / 3.0, 0.5 * gamma), fma(below, e, -change))
            a = a + z
            square = fma(z, w, square)
            part = z * t
            drift = drift + part
            miss = fma(part, t * y, miss)
        written = written + a
    sums[_WRITTEN], sums[_SQUARE] = total(written), total(square)
    sums[_MOVED_DRIFT], sums[_MOVED_MISS] = total(drift), total(miss)


@EXACT
def _expand(
    r: FloatArray, p: FloatArray, o: FloatArray, first: int, end: int, anchor: float,
    inverse: float, rest: float, gamma: float, change: float, sums: FloatArray,
) -> None:  # fmt: skip
    """`_move` where every w is near 1; with a certificate that leaves the second pass's alone."""
    written, square, gain, miss = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
    entropy, size = spread(0.0), spread(0.0)
    for begin in range(first, end, STRIDE):
        a = spread(0.0)
        for i in range(begin, min(begin + STRIDE, end), LANES):
            w, q = take(o, i, end, 1.0), take(p, i, end, 0.0)
            s = _scores(take(r, i, end, r[first]), q, anchor, inverse, rest + change)
            e, _below, y = _moved(w, gamma, change)
            w = fma(-w, e, w)
            z = _kept(o, i, end, q * w)
            w = where_greater(q, 0.0, w - 1.0, 0.0)
            log_w, bent = log_near_one(w)
            t = fma(-gamma, log_w, s - w)
            a = a + z
            square = fma(q * w, w, square)
            # `w log w - w + 1` with the cancelled part of log w taken apart.
            entropy = fma(q, fma(w, log_w, bent), entropy)
            gain = fma(z, s, gain)
            size = fma(z, larger(s, -s), size)
            miss = fma(z * t, t * y, miss)
        written = written + a
    sums[_WRITTEN], sums[_SQUARE], sums[_MOVED_MISS] = total(written), total(square), total(miss)
    sums[_GAIN], sums[_ENTROPY], sums[_LENGTH] = total(gain), total(entropy), total(size)


@EXACT
def start(
    r: FloatArray, p: FloatArray, beta: float, weights: FloatArray, guess: float, state: FloatArray,
    sample: FloatArray,
) -> int:  # fmt: skip
    """Prepare a row: lambda as guessed, or from a sample of the row; return the first pass."""
    beta, gamma = beta * weights[0], weights[1] / weights[0]
    if not _GAMMAS[0] < gamma < _GAMMAS[1]:
        return GENERAL
    log_gamma = math.log(gamma)
    state[_BETA], state[_GAMMA], state[_LOG_GAMMA] = beta, gamma, log_gamma
    state[_CHANGE], state[_REST], state[_PASSES], state[_FAR] = 0.0, 0.0, 0.0, 0.0
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
    x, q = borrow(sample, 0, n), borrow(sample, SAMPLE, n)
    sums, room = borrow(sample, 2 * SAMPLE, WIDTH), borrow(sample, 2 * SAMPLE + WIDTH, STRIDE)
    best = spread(-np.inf)
    for i in range(0, n, LANES):
        best = larger(best, take(x, i, n, -np.inf))
    top = greatest(best)
    for _ in range(_SAMPLE_STEPS):
        far = _is_far(top, anchor, 0.0, state)
        _guess(
            x, q, x, 0, n, anchor, inverse, 0.0, gamma, log_gamma, far, False, room, sums
        )  # fmt: skip
        change = gamma * _root(sums[_RATIO] - mass, sums[_SLOPE], sums[_BEND], sums[_THIRD])
        if not abs(change) < np.inf:
            break
        if sums[_RATIO] > mass:
            left = anchor
        else:
            right = anchor
        anchor = _inside(anchor + beta * change, left, right)
        state[_FAR] = _is_far(top, anchor, 0.0, state)
        if abs(change) < gamma:
            break
    if abs(anchor) < np.inf:
        state[_ANCHOR] = anchor
    return _SCAN


@EXACT
def _is_far(reward: float, anchor: float, rest: float, state: FloatArray) -> bool:
    """Return whether the z of a reward is beyond the first interpolant of omega."""
    s = (reward - anchor) / state[_BETA] - rest
    return (1.0 + s) / state[_GAMMA] - state[_LOG_GAMMA] > single.FAR


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
    first: int, last: int, desk: FloatArray,
) -> None:  # fmt: skip
    """Make one pass over blocks `first` to `last - 1`."""
    inverse, anchor, gamma = 1.0 / state[_BETA], state[_ANCHOR], state[_GAMMA]
    log_gamma, rest, change = state[_LOG_GAMMA], state[_REST], state[_CHANGE]
    far = state[_FAR] > 0.0
    # At the worst reward, log w is at most z + log gamma.  No reward is known in the first pass,
    # which does not ask.
    low = (1.0 + (state[_LEAST] - anchor) * inverse - rest) / gamma < _LOW_LOG
    for k in range(first, last):
        begin, end = k * BLOCK, min(r.size, (k + 1) * BLOCK)
        if work == _MOVE:
            _move(r, p, o, begin, end, gamma, change, sums[k])
        elif work == _EXPAND:
            _expand(r, p, o, begin, end, anchor, inverse, rest, gamma, change, sums[k])
        elif work == _REFINE:
            _refine(
                r, p, o, begin, end, anchor, inverse, rest, gamma, log_gamma, far, low, desk,
                sums[k],
            )  # fmt: skip
        else:
            _guess(
                r, p, o, begin, end, anchor, inverse, rest, gamma, log_gamma, far, work == _SCAN,
                desk, sums[k],
            )  # fmt: skip


@EXACT
def decide(
    work: int, size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float,
    fields: FloatArray,
) -> int:  # fmt: skip
    """Digest the partial sums of a pass; return the next pass, or what became of the row."""
    state[_PASSES] += 1.0
    if state[_PASSES] > _MAX_PASSES:
        return GENERAL
    if work in (_MOVE, _EXPAND):
        return _finish(work, size, state, sums, n_blocks, eps, fields)
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
        if _is_far(high, state[_ANCHOR], state[_REST], state) and state[_FAR] == 0.0:
            state[_FAR] = 1.0
            return _GUESS
    return _next(work, state, sums, n_blocks)


@EXACT
def _next(work: int, state: FloatArray, sums: FloatArray, n_blocks: int) -> int:
    share, gamma = state[_SHARE], state[_GAMMA]
    excess = total_of(sums, _RATIO, n_blocks) - 1.0
    slope, bend = total_of(sums, _SLOPE, n_blocks), total_of(sums, _BEND, n_blocks)
    change = gamma * _root(excess, slope, bend, total_of(sums, _THIRD, n_blocks))
    exact = work == _REFINE
    if not exact:
        # Jensen: at `E_p s = f'(1/sum p)`, which is next to 0, the convex inverse link has
        # `sum p w >= 1`.
        link = 2.0 * (1.0 + gamma) * abs(share - 1.0)
        change = max(change, total_of(sums, _ALL, n_blocks) / share - link)
    if not abs(change) < 1e300:
        return GENERAL
    old, beta = state[_ANCHOR], state[_BETA]
    here = old + beta * state[_REST]
    # A guessed excess may be no more than the error of the guess.
    sure = exact or abs(excess) > _SURE * (2.0 + excess)
    if sure:
        state[_LEFT if excess > 0.0 else _RIGHT] = here
    # Only steps that the floats can tell from none are worth a safeguard.
    if state[_LEFT] > -np.inf and beta * abs(change) > 4.0 * _EPS * abs(here):
        inside = _inside(here + beta * change, state[_LEFT], state[_RIGHT])
        # The difference has fewer digits than the change.
        change = change if inside == here + beta * change else (inside - here) / beta
    # lambda lies between the rewards; an anchor out there would cost their digits.
    whole = state[_REST] + change
    new = min(max(old + beta * whole, state[_LEAST]), state[_MOST])
    within = state[_LEAST] <= old <= state[_MOST]
    if exact and abs(change) <= _ENDS * gamma and within:
        for k in range(n_blocks):
            # Of a larger step t would not be what was measured.
            if not sums[k, _LARGEST] <= _TRUSTED:
                return GENERAL
        state[_CHANGE] = change
        state[_FELT] = total_of(sums, _SIZE, n_blocks)
        state[_LOST] = total_of(sums, _DRIFT, n_blocks)
        state[_STRAY] = total_of(sums, _MISS, n_blocks)
        reach = (state[_MOST] - state[_LEAST]) / beta
        return _EXPAND if reach < _NEAR * (1.0 + gamma) else _MOVE
    # What the floats next to lambda cannot hold stays a shift of the scores.
    taken = (new - old) / beta
    rest = whole - taken if state[_LEAST] < new < state[_MOST] else 0.0
    state[_ANCHOR], state[_REST] = new, rest
    state[_FAR] = _is_far(state[_MOST], new, rest, state)
    return _REFINE if exact or not sure or abs(change) <= _BEGINS * gamma else _GUESS


@EXACT
def _finish(
    work: int, size: int, state: FloatArray, sums: FloatArray, n_blocks: int, eps: float,
    fields: FloatArray,
) -> int:  # fmt: skip
    beta, gamma = state[_BETA], state[_GAMMA]
    written = total_of(sums, _WRITTEN, n_blocks)
    square = total_of(sums, _SQUARE, n_blocks)
    miss = total_of(sums, _MOVED_MISS, n_blocks)
    margin = rounding(size, eps)
    multiplier = state[_ANCHOR] + beta * (state[_REST] + state[_CHANGE])
    if work == _EXPAND:
        cost = 0.5 * square + gamma * total_of(sums, _ENTROPY, n_blocks)
        value = total_of(sums, _GAIN, n_blocks) - cost
        scale = total_of(sums, _LENGTH, n_blocks) + cost + (1.0 + gamma) * margin
    else:
        drift = state[_LOST] + total_of(sums, _MOVED_DRIFT, n_blocks)
        share = state[_SHARE]
        value = 0.5 * (square - share) + gamma * (written - share) + drift
        scale = state[_FELT] + 0.5 * square + (1.0 + gamma)
        miss = (math.sqrt(miss) + math.sqrt(state[_STRAY])) ** 2
    return certify(
        fields, multiplier, multiplier + beta * value, beta * (0.5 * miss), written,
        beta * (margin * scale), margin,
    )  # fmt: skip
