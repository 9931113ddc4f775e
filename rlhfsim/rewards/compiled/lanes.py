r"""Newton's method for up to 64 responses, eight prompts side by side.

With `W_ij` the number of times i beat j and `E = exp(r)`, one division a pair gives the net flow
`(W_ji E_i - W_ij E_j)/(E_i + E_j)` into the gradient and the weight of the pair in the Hessian,
which is a Laplacian: symmetric, with rows that sum to the ridge.

*Step.*  The Laplacian is eliminated as a network: taking out node k, which leads to the others by
weights `w_kj` and to the ground by `c_k`, adds `w_ki w_kj / d` between any two of them and
`w_ki c_k / d` to the ground, `d = c_k + sum_j w_kj`.  Nothing is ever subtracted, so weights of any
two sizes keep their digits, as faint links between groups of responses need.  Without a ridge the
last response is held.  The step is shortened to `log(1 + D)/D`, D the range of the Newton
direction, for the reasons given in `rewards.newton`.

*Start.*  The log odds of winning against the average, and some steps of Newman's iteration.

*Lanes.*  Each prompt has its own lane of every vector.  A lane that is done, or lost, waits for the
others; responses that a lane lacks have weight 0.  No number passes from lane to lane.

Source: Hunter 2004 (Ann. Statist. 32, 1) for the likelihood; Newman 2023 (J. Mach. Learn. Res. 24,
238) for the iteration at the start; Grassmann, Taksar and Heyman 1985
(Oper. Res. 33, 5) and O'Cinneide 1996 (Numer. Math. 73, 4) for elimination without subtraction;
arXiv 1703.04599 for the step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.elementary import exp, log
from rlhfsim.kernels.intrinsics import fetch_add
from rlhfsim.rewards.compiled.layout import (
    CERTIFIED,
    FARTHEST,
    GRADIENT,
    LENGTH,
    LOSS,
    MOST_STEPS,
    pairs,
    row_start,
)
from rlhfsim.rewards.compiled.vectors import (
    LANES,
    largest,
    load_lane,
    log_one_plus_ratio,
    multiply_add,
    smallest,
    spread,
    store_lane,
    where_positive,
)

#: Responses up to which the elimination is cheaper than what else there is.
LARGEST = 64

# Rows of the workspace: per response and lane.
_R, _E, _G, _INVERSE, _P, _GROUND, _REAL = range(7)
_ROWS = 7
# Rows of the numbers kept for each lane.
_STATE, _STEP, _HIGH, _LOW, _SHARE = range(5)
_NUMBERS = 5
# Steps of Newman's iteration before the first of Newton's.
_IMPROVEMENTS = 5
# States of a lane.
_WAITS, _LAST, _GOES_ON = 0.0, 1.0, 2.0


@EXACT
def _load(
    table: FloatArray, starts: IntArray, sizes: IntArray, group: IntArray, widest: int,
    won: FloatArray, lost: FloatArray,
) -> None:  # fmt: skip
    """Copy each prompt into its lane."""
    for i in range(widest):
        to = row_start(i, widest) * LANES
        for lane in range(group.size):
            size = sizes[group[lane]]
            at = starts[group[lane]] + row_start(i, size)
            second = at + pairs(size)
            for k in range(size - i - 1):
                won[to + k * LANES + lane] = table[at + k]
                lost[to + k * LANES + lane] = table[second + k]


@EXACT
def _odds(
    won: FloatArray, lost: FloatArray, real: FloatArray, size: int, up: FloatArray,
    down: FloatArray,
) -> None:  # fmt: skip
    """Write the odds of winning against the average into `up`."""
    zero, one, some = spread(0.0), spread(1.0), spread(0.01)
    for i in range(size):
        store_lane(up, i, zero)
        store_lane(down, i, zero)
    k = 0
    for i in range(size):
        up_i, down_i = load_lane(up, i), load_lane(down, i)
        for j in range(i + 1, size):
            a, b = load_lane(won, k), load_lane(lost, k)
            up_i, down_i = up_i + a, down_i + b
            store_lane(up, j, load_lane(up, j) + b)
            store_lane(down, j, load_lane(down, j) + a)
            k += 1
        # A hundredth of what was played keeps responses that only win or only lose in sight.
        played = some * (up_i + down_i)
        odds = (up_i + played) / (down_i + played)
        store_lane(up, i, where_positive(load_lane(real, i), odds, one))


@EXACT
def _improve(
    won: FloatArray, lost: FloatArray, real: FloatArray, size: int, e: FloatArray,
    above: FloatArray, up: FloatArray, down: FloatArray,
) -> None:  # fmt: skip
    """Make one step of Newman's iteration on `e = exp(r)`, held back a little.

    `e_i <- sum_j (W_ij e_j + s n_ij e_i)/(e_i + e_j) / sum_j (W_ji + s n_ij)/(e_i + e_j)` with
    `n = W + W'`: it stands still at the maximum, and costs a fraction of Newton's step.
    """
    zero, one, some = spread(0.0), spread(1.0), spread(0.01)
    for i in range(size):
        store_lane(above, i, zero)
        store_lane(up, i, zero)
        store_lane(down, i, zero)
    k = 0
    for i in range(size):
        e_i, above_i = load_lane(e, i), load_lane(above, i)
        up_i, down_i = load_lane(up, i), load_lane(down, i)
        for j in range(i + 1, size):
            e_j = load_lane(e, j)
            inverse = one / (e_i + e_j)
            a, b = load_lane(won, k) * inverse, load_lane(lost, k) * inverse
            above_i = multiply_add(a, e_j, above_i)
            up_i, down_i = up_i + a, down_i + b
            store_lane(above, j, multiply_add(b, e_i, load_lane(above, j)))
            store_lane(up, j, load_lane(up, j) + b)
            store_lane(down, j, load_lane(down, j) + a)
            k += 1
        held = some * (up_i + down_i)
        store_lane(above, i, multiply_add(held, e_i, above_i) / (down_i + held))
    for i in range(size):
        store_lane(e, i, where_positive(load_lane(real, i), load_lane(above, i), one))


@EXACT
def _logarithms(odds: FloatArray, r: FloatArray) -> None:
    for i in range(odds.size):
        r[i] = log(odds[i])


@EXACT
def _flows(
    won: FloatArray, lost: FloatArray, e: FloatArray, size: int, weight: FloatArray, g: FloatArray
) -> None:
    """Write the gradient without the ridge, and the weights of the Laplacian."""
    one = spread(1.0)
    for i in range(size):
        store_lane(g, i, spread(0.0))
    k = 0
    for i in range(size):
        e_i, g_i = load_lane(e, i), load_lane(g, i)
        for j in range(i + 1, size):
            e_j = load_lane(e, j)
            inverse = one / (e_i + e_j)
            above, below = e_i * inverse, e_j * inverse
            up, down = load_lane(lost, k) * above, load_lane(won, k) * below
            net = up - down
            g_i = g_i + net
            store_lane(g, j, load_lane(g, j) - net)
            store_lane(weight, k, multiply_add(up, below, down * above))
            k += 1
        store_lane(g, i, g_i)


# Four sums run side by side: one alone waits for each addition.  Which entry goes into which does
# not depend on the end, so that weights of 0 beyond the responses of a lane change no bit.


@EXACT
def _sum_of_row(weight: FloatArray, row: int, begin: int, end: int) -> Any:
    zero = spread(0.0)
    a, b, c, d = zero, zero, zero, zero
    whole = begin + (end - begin) // 4 * 4
    for j in range(begin, whole, 4):
        a, b = a + load_lane(weight, row + j), b + load_lane(weight, row + j + 1)
        c, d = c + load_lane(weight, row + j + 2), d + load_lane(weight, row + j + 3)
    if whole < end:
        a = a + load_lane(weight, row + whole)
    if whole + 1 < end:
        b = b + load_lane(weight, row + whole + 1)
    if whole + 2 < end:
        c = c + load_lane(weight, row + whole + 2)
    return (a + b) + (c + d)


@EXACT
def _dot_with_row(weight: FloatArray, row: int, p: FloatArray, begin: int, end: int) -> Any:
    zero = spread(0.0)
    a, b, c, d = zero, zero, zero, zero
    whole = begin + (end - begin) // 4 * 4
    for j in range(begin, whole, 4):
        a = multiply_add(load_lane(weight, row + j), load_lane(p, j), a)
        b = multiply_add(load_lane(weight, row + j + 1), load_lane(p, j + 1), b)
        c = multiply_add(load_lane(weight, row + j + 2), load_lane(p, j + 2), c)
        d = multiply_add(load_lane(weight, row + j + 3), load_lane(p, j + 3), d)
    if whole < end:
        a = multiply_add(load_lane(weight, row + whole), load_lane(p, whole), a)
    if whole + 1 < end:
        b = multiply_add(load_lane(weight, row + whole + 1), load_lane(p, whole + 1), b)
    if whole + 2 < end:
        c = multiply_add(load_lane(weight, row + whole + 2), load_lane(p, whole + 2), c)
    return (a + b) + (c + d)


@EXACT
def _pivot(
    weight: FloatArray, g: FloatArray, ground: FloatArray, inverse: FloatArray, k: int, size: int
) -> None:
    """Take out response k as far as gradient and ground go; its row stays what it is."""
    row = row_start(k, size) - k - 1
    c = load_lane(ground, k)
    d = c + _sum_of_row(weight, row, k + 1, size)
    # A response that the lane lacks leads nowhere.
    inv = where_positive(d, spread(1.0) / d, spread(0.0))
    store_lane(inverse, k, inv)
    c, q = c * inv, load_lane(g, k) * inv
    for i in range(k + 1, size):
        w = load_lane(weight, row + i)
        store_lane(ground, i, multiply_add(w, c, load_lane(ground, i)))
        store_lane(g, i, multiply_add(w, q, load_lane(g, i)))


@EXACT
def _solve(
    weight: FloatArray, g: FloatArray, ground: FloatArray, inverse: FloatArray, p: FloatArray,
    size: int,
) -> None:  # fmt: skip
    """Write the Newton direction `p`; overwrite the weights, the gradient and the ground.

    Responses are taken out two at a time, which halves the traffic on the weights.
    """
    zero = spread(0.0)
    for k in range(0, size - 1, 2):
        row = row_start(k, size) - k - 1
        _pivot(weight, g, ground, inverse, k, size)
        if k + 2 >= size:
            break
        next_row = row_start(k + 1, size) - k - 2
        link = load_lane(weight, row + k + 1) * load_lane(inverse, k)
        for j in range(k + 2, size):
            more = multiply_add(link, load_lane(weight, row + j), load_lane(weight, next_row + j))
            store_lane(weight, next_row + j, more)
        _pivot(weight, g, ground, inverse, k + 1, size)
        for i in range(k + 2, size):
            share = load_lane(weight, row + i) * load_lane(inverse, k)
            next_share = load_lane(weight, next_row + i) * load_lane(inverse, k + 1)
            to = row_start(i, size) - i - 1
            for j in range(i + 1, size):
                more = multiply_add(share, load_lane(weight, row + j), load_lane(weight, to + j))
                more = multiply_add(next_share, load_lane(weight, next_row + j), more)
                store_lane(weight, to + j, more)
    c = load_lane(ground, size - 1)
    inv = where_positive(c, spread(1.0) / c, zero)
    store_lane(p, size - 1, (zero - load_lane(g, size - 1)) * inv)
    for back in range(1, size):
        k = size - 1 - back
        row = row_start(k, size) - k - 1
        s = _dot_with_row(weight, row, p, k + 1, size) - load_lane(g, k)
        store_lane(p, k, s * load_lane(inverse, k))


@EXACT
def _centre(p: FloatArray, real: FloatArray, size: int, numbers: FloatArray) -> None:
    """Take the mean over the responses that a lane has from its direction; note the extremes."""
    total = load_lane(p, 0)
    for i in range(1, size):
        total = total + load_lane(p, i)
    mean = total * load_lane(numbers, _SHARE)
    high, low = spread(-np.inf), spread(np.inf)
    for i in range(size):
        p_i = load_lane(p, i) - mean * load_lane(real, i)
        store_lane(p, i, p_i)
        high, low = largest(high, p_i), smallest(low, p_i)
    store_lane(numbers, _HIGH, high)
    store_lane(numbers, _LOW, low)


@EXACT
def _choose(numbers: FloatArray, final: float, lengths: FloatArray) -> int:
    """Write how far each lane may go; return how many will not have arrived then."""
    under_way = 0
    for lane in range(LANES):
        reach = numbers[_HIGH * LANES + lane] - numbers[_LOW * LANES + lane]
        state, step = numbers[_STATE * LANES + lane], 0.0
        if state == _GOES_ON and reach < np.inf:
            lengths[lane] = reach
            # Up to 1 a full step descends by at least a quarter of what a parabola would.
            step = math.log1p(reach) / reach if reach > 1.0 else 1.0
            if reach <= final:
                state = _LAST
            else:
                under_way += 1
        else:
            state = _WAITS
        numbers[_STATE * LANES + lane], numbers[_STEP * LANES + lane] = state, step
    return under_way


@EXACT
def _advance(r: FloatArray, p: FloatArray, numbers: FloatArray, size: int) -> None:
    step = load_lane(numbers, _STEP)
    for i in range(size):
        r_i = load_lane(r, i)
        store_lane(r, i, where_positive(step, multiply_add(step, load_lane(p, i), r_i), r_i))


@EXACT
def _exponentials(r: FloatArray, e: FloatArray) -> None:
    """Write `e = exp(r)`."""
    for i in range(r.size):
        e[i] = exp(r[i])


@EXACT
def _losses(
    won: FloatArray, lost: FloatArray, r: FloatArray, e: FloatArray, size: int, loss: FloatArray
) -> None:
    """Write the negative log-likelihood of each lane."""
    total, zero = spread(0.0), spread(0.0)
    k = 0
    for i in range(size):
        r_i, e_i, part = load_lane(r, i), load_lane(e, i), zero
        for j in range(i + 1, size):
            e_j, gap = load_lane(e, j), r_i - load_lane(r, j)
            a, b = load_lane(won, k), load_lane(lost, k)
            even = log_one_plus_ratio(smallest(e_i, e_j), largest(e_i, e_j))
            upset = multiply_add(a, largest(zero - gap, zero), b * largest(gap, zero))
            part = part + multiply_add(a + b, even, upset)
            k += 1
        total = total + part
    store_lane(loss, 0, total)


@EXACT
def _largest_gradient(r: FloatArray, g: FloatArray, size: int, lane: int) -> tuple[float, bool]:
    """Return the largest entry of the gradient, and whether the rewards are usable."""
    worst, usable = 0.0, True
    for i in range(size):
        at = i * LANES + lane
        slope = abs(g[at])
        # Written so that NaN fails.
        usable = usable and abs(r[at]) < FARTHEST and slope < np.inf
        worst = max(worst, slope)
    return worst, usable


@EXACT
def _fit_group(
    table: FloatArray, starts: IntArray, sizes: IntArray, group: IntArray, widest: int,
    ridge: float, final: float, desk: FloatArray, work: FloatArray, numbers: FloatArray,
    lengths: FloatArray,
) -> None:  # fmt: skip
    """Fit up to eight prompts; leave rewards, gradients and losses in the workspace."""
    end = pairs(widest) * LANES
    won, lost, weight = desk[0, :end], desk[1, :end], desk[2, :end]
    won[:], lost[:] = 0.0, 0.0
    width = widest * LANES
    r, e, g = work[_R, :width], work[_E, :width], work[_G, :width]
    inverse, p, ground = work[_INVERSE, :width], work[_P, :width], work[_GROUND, :width]
    real = work[_REAL, :width]
    r[:], real[:], numbers[:], lengths[:] = 0.0, 0.0, 0.0, np.inf
    for lane in range(group.size):
        x = group[lane]
        for i in range(sizes[x]):
            real[i * LANES + lane] = 1.0
        numbers[_SHARE * LANES + lane] = 1.0 / sizes[x]
        numbers[_STATE * LANES + lane] = _GOES_ON
    _load(table, starts, sizes, group, widest, won, lost)
    _odds(won, lost, real, widest, p, g)
    for _ in range(_IMPROVEMENTS):
        _improve(won, lost, real, widest, p, e, g, inverse)
    _logarithms(p, e)
    _centre(e, real, widest, numbers)
    r[:] = e
    under_way = group.size
    for steps in range(MOST_STEPS + 1):
        _exponentials(r, e)
        _flows(won, lost, e, widest, weight, g)
        for i in range(width):
            g[i] += ridge * r[i]
            ground[i] = ridge * real[i]
        if under_way == 0 or steps == MOST_STEPS:
            break
        _solve(weight, g, ground, inverse, p, widest)
        _centre(p, real, widest, numbers)
        under_way = _choose(numbers, final, lengths)
        _advance(r, p, numbers, widest)
    _losses(won, lost, r, e, widest, p)


@EXACT
def fit_lanes(
    table: FloatArray, starts: IntArray, sizes: IntArray, order: IntArray, ridge: float,
    final: float, tolerance: FloatArray, members: IntArray, first: IntArray, reward: FloatArray,
    fields: FloatArray, counter: IntArray,
) -> None:  # fmt: skip
    """Fit the prompts of `order` until `counter` says that all are taken.

    Parameters
    ----------
    table, starts, sizes : as in `layout`
        Sizes at most 64.
    order : (N,) prompts, sizes increasing
    ridge : added to the Hessian; 0 for none
    final : length of a Newton step after which there is no other
    tolerance : (P,) largest gradient that the certificate allows
    members, first : the responses of prompt x are `members[first[x] : first[x] + sizes[x]]`
    reward : (P, Y), fields : (P, FIELDS)
        Written to.
    counter : (1,) of zeros, shared by the threads
    """
    widest = sizes[order[order.size - 1]]
    desk = np.empty((3, pairs(widest) * LANES))
    work, numbers = np.empty((_ROWS, widest * LANES)), np.empty(_NUMBERS * LANES)
    lengths = np.empty(LANES)
    while True:
        begin = fetch_add(counter, LANES)
        if begin >= order.size:
            return
        group = order[begin : min(begin + LANES, order.size)]
        width = sizes[group[group.size - 1]]
        _fit_group(
            table, starts, sizes, group, width, ridge, final, desk, work, numbers, lengths
        )  # fmt: skip
        for lane in range(group.size):
            x = group[lane]
            worst, usable = _largest_gradient(work[_R], work[_G], sizes[x], lane)
            for i in range(sizes[x]):
                reward[x, members[first[x] + i]] = work[_R, i * LANES + lane]
            fields[x, GRADIENT], fields[x, LENGTH] = worst, lengths[lane]
            fields[x, LOSS] = work[_P, lane]
            certified = usable and worst <= tolerance[x] and lengths[lane] <= final
            fields[x, CERTIFIED] = 1.0 if certified else 0.0
