r"""The comparisons of eight prompts as eight electrical networks, one for each lane of a vector.

With `W_ij` the number of times i beat j and `E = exp(r)`, one division a pair gives the net flow
`(W_ji E_i - W_ij E_j)/(E_i + E_j)` into the gradient and the weight of the pair in the Hessian,
which is a Laplacian: symmetric, with rows that sum to what leads to the ground.

*Solving.*  The Laplacian is eliminated as a network: taking out node k, which leads to the others
by weights `w_kj` and to the ground by `c_k`, adds `w_ki w_kj / d` between any two of them and
`w_ki c_k / d` to the ground, `d = c_k + sum_j w_kj`.  Nothing is ever subtracted, so weights of any
two sizes keep their digits, as faint links between groups of responses need.  The last response of
a part that nothing leads to the ground is held.

*Start.*  The log odds of winning against the average, and some steps of Newman's iteration, all in
singles.

*Lanes.*  Each prompt has its own lane of every vector; responses that a lane lacks have weight 0.
No number passes from lane to lane.

Source: Newman 2023 (J. Mach. Learn. Res. 24, 238) for the iteration at the start; Grassmann, Taksar
and Heyman 1985 (Oper. Res. 33, 5) and O'Cinneide 1996 (Numer. Math. 73, 4) for elimination without
subtraction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.elementary import exp, log, log_one_plus_ratio
from rlhfsim.kernels.intrinsics import borrow, fma
from rlhfsim.kernels.vectors import (
    LANES,
    largest,
    load_lane,
    load_own,
    narrow,
    smallest,
    spread,
    store_lane,
    store_own,
    take,
    transposed,
    where_greater,
    zero_of,
)
from rlhfsim.rewards.compiled.layout import pairs, row_start

SingleArray = NDArray[np.float32]
#: Doubles or singles.
EitherArray = NDArray[np.float64] | NDArray[np.float32]

# Steps of Newman's iteration before the first of Newton's: as many as leave two of those.
_IMPROVEMENTS = 10


@EXACT
def _interleave(
    table: FloatArray, starts: IntArray, group: IntArray, offset: int, size: int, out: FloatArray
) -> None:
    """Copy `size` numbers of each of eight prompts into its lane, from `offset` on in its table."""
    a, b = starts[group[0]] + offset, starts[group[1]] + offset
    c, d = starts[group[2]] + offset, starts[group[3]] + offset
    e, f = starts[group[4]] + offset, starts[group[5]] + offset
    g, h = starts[group[6]] + offset, starts[group[7]] + offset
    for k in range(0, size, LANES):
        rows = (
            take(table, a + k, a + size, 0.0), take(table, b + k, b + size, 0.0),
            take(table, c + k, c + size, 0.0), take(table, d + k, d + size, 0.0),
            take(table, e + k, e + size, 0.0), take(table, f + k, f + size, 0.0),
            take(table, g + k, g + size, 0.0), take(table, h + k, h + size, 0.0),
        )  # fmt: skip
        columns = transposed(rows)
        for j in range(min(LANES, size - k)):
            store_lane(out, k + j, columns[j])


@EXACT
def load_prompts(
    table: FloatArray, starts: IntArray, sizes: IntArray, group: IntArray, widest: int,
    won: FloatArray, lost: FloatArray,
) -> None:  # fmt: skip
    """Copy each prompt into its lane; the sizes in a group increase up to `widest`."""
    # All are of one size if the first one is.
    if group.size == LANES and sizes[group[0]] == widest:
        half = pairs(widest)
        _interleave(table, starts, group, 0, half, won)
        _interleave(table, starts, group, half, half, lost)
        return
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
    won: FloatArray, lost: FloatArray, size: int, winning: SingleArray, losing: SingleArray,
    up: SingleArray, down: SingleArray,
) -> None:  # fmt: skip
    """Write the odds of winning against the average into `up`, and the counts as singles."""
    zero = zero_of(up)
    for i in range(size):
        store_own(up, i, zero)
        store_own(down, i, zero)
    k = 0
    for i in range(size):
        up_i, down_i = load_own(up, i), load_own(down, i)
        for j in range(i + 1, size):
            a, b = narrow(load_lane(won, k)), narrow(load_lane(lost, k))
            store_own(winning, k, a)
            store_own(losing, k, b)
            up_i, down_i = up_i + a, down_i + b
            store_own(up, j, load_own(up, j) + b)
            store_own(down, j, load_own(down, j) + a)
            k += 1
        # A hundredth of what was played keeps responses that only win or only lose in sight.
        played = 0.01 * (up_i + down_i)
        store_own(up, i, _or_one((up_i + played) / (down_i + played)))


@EXACT
def _or_one(odds: Any) -> Any:
    """Return the odds, or 1 where the lane lacks the response or singles its counts."""
    return where_greater(odds, 0.0, odds, 1.0)


@EXACT
def _improve(
    won: SingleArray, lost: SingleArray, size: int, e: SingleArray, above: SingleArray,
    up: SingleArray, down: SingleArray,
) -> None:  # fmt: skip
    """Make one step of Newman's iteration on `e = exp(r)`, held back a little.

    `e_i <- sum_j (W_ij e_j + s n_ij e_i)/(e_i + e_j) / sum_j (W_ji + s n_ij)/(e_i + e_j)` with
    `n = W + W'`: it stands still at the maximum, and costs a fraction of Newton's step.
    """
    zero = zero_of(e)
    for i in range(size):
        store_own(above, i, zero)
        store_own(up, i, zero)
        store_own(down, i, zero)
    k = 0
    for i in range(size):
        e_i, above_i = load_own(e, i), load_own(above, i)
        up_i, down_i = load_own(up, i), load_own(down, i)
        for j in range(i + 1, size):
            e_j = load_own(e, j)
            inverse = 1.0 / (e_i + e_j)
            a, b = load_own(won, k) * inverse, load_own(lost, k) * inverse
            above_i = fma(a, e_j, above_i)
            up_i, down_i = up_i + a, down_i + b
            store_own(above, j, fma(b, e_i, load_own(above, j)))
            store_own(up, j, load_own(up, j) + b)
            store_own(down, j, load_own(down, j) + a)
            k += 1
        held = 0.01 * (up_i + down_i)
        store_own(above, i, fma(held, e_i, above_i) / (down_i + held))
    for i in range(size):
        store_own(e, i, _or_one(load_own(above, i)))


@EXACT
def log_odds(
    won: FloatArray, lost: FloatArray, size: int, room: SingleArray, odds: SingleArray,
    above: SingleArray, up: SingleArray, down: SingleArray, r: FloatArray,
) -> None:  # fmt: skip
    """Write rewards to start from into `r`; what lies between it and the size is workspace.

    Of those, `room` is for two numbers a pair and lane, the others for one a response and lane.
    """
    half = pairs(size) * LANES
    winning, losing = borrow(room, 0, half), borrow(room, half, half)
    _odds(won, lost, size, winning, losing, odds, up)
    for _ in range(_IMPROVEMENTS):
        _improve(winning, losing, size, odds, above, up, down)
    for i in range(r.size):
        r[i] = log(np.float64(odds[i]))


@EXACT
def exponentials(r: FloatArray, e: FloatArray) -> None:
    """Write `e = exp(r)`."""
    for i in range(r.size):
        e[i] = exp(r[i])


@EXACT
def flows(
    won: FloatArray, lost: FloatArray, e: FloatArray, size: int, weight: EitherArray, g: FloatArray
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
            store_lane(weight, k, fma(up, below, down * above))
            k += 1
        store_lane(g, i, g_i)


# Four sums run side by side: one alone waits for each addition.  Which entry goes into which does
# not depend on the end, so that weights of 0 beyond the responses of a lane change no bit.


@EXACT
def _sum_of_row(weight: EitherArray, row: int, begin: int, end: int) -> Any:
    zero = zero_of(weight)
    a, b, c, d = zero, zero, zero, zero
    whole = begin + (end - begin) // 4 * 4
    for j in range(begin, whole, 4):
        a, b = a + load_own(weight, row + j), b + load_own(weight, row + j + 1)
        c, d = c + load_own(weight, row + j + 2), d + load_own(weight, row + j + 3)
    if whole < end:
        a = a + load_own(weight, row + whole)
    if whole + 1 < end:
        b = b + load_own(weight, row + whole + 1)
    if whole + 2 < end:
        c = c + load_own(weight, row + whole + 2)
    return (a + b) + (c + d)


@EXACT
def _dot_with_row(weight: EitherArray, row: int, p: EitherArray, begin: int, end: int) -> Any:
    zero = zero_of(weight)
    a, b, c, d = zero, zero, zero, zero
    whole = begin + (end - begin) // 4 * 4
    for j in range(begin, whole, 4):
        a = fma(load_own(weight, row + j), load_own(p, j), a)
        b = fma(load_own(weight, row + j + 1), load_own(p, j + 1), b)
        c = fma(load_own(weight, row + j + 2), load_own(p, j + 2), c)
        d = fma(load_own(weight, row + j + 3), load_own(p, j + 3), d)
    if whole < end:
        a = fma(load_own(weight, row + whole), load_own(p, whole), a)
    if whole + 1 < end:
        b = fma(load_own(weight, row + whole + 1), load_own(p, whole + 1), b)
    if whole + 2 < end:
        c = fma(load_own(weight, row + whole + 2), load_own(p, whole + 2), c)
    return (a + b) + (c + d)


@EXACT
def _pivot(
    weight: EitherArray,
    g: EitherArray,
    ground: EitherArray,
    inverse: EitherArray,
    k: int,
    size: int,
) -> None:
    """Take out response k as far as gradient and ground go; its row stays what it is."""
    row = row_start(k, size) - k - 1
    c = load_own(ground, k)
    d = c + _sum_of_row(weight, row, k + 1, size)
    # A response that the lane lacks leads nowhere.
    inv = where_greater(d, 0.0, 1.0 / d, 0.0)
    store_own(inverse, k, inv)
    c, q = c * inv, load_own(g, k) * inv
    for i in range(k + 1, size):
        w = load_own(weight, row + i)
        store_own(ground, i, fma(w, c, load_own(ground, i)))
        store_own(g, i, fma(w, q, load_own(g, i)))


@EXACT
def solve_network(
    weight: EitherArray, g: EitherArray, ground: EitherArray, inverse: EitherArray, p: EitherArray,
    size: int,
) -> None:  # fmt: skip
    """Write the Newton direction `p`; overwrite the weights, the gradient and the ground.

    All arrays are of doubles, or all of singles, which take half the time.  Responses are taken
    out two at a time, which halves the traffic on the weights.
    """
    for k in range(0, size - 1, 2):
        row = row_start(k, size) - k - 1
        _pivot(weight, g, ground, inverse, k, size)
        if k + 2 >= size:
            break
        next_row = row_start(k + 1, size) - k - 2
        link = load_own(weight, row + k + 1) * load_own(inverse, k)
        for j in range(k + 2, size):
            more = fma(link, load_own(weight, row + j), load_own(weight, next_row + j))
            store_own(weight, next_row + j, more)
        _pivot(weight, g, ground, inverse, k + 1, size)
        for i in range(k + 2, size):
            share = load_own(weight, row + i) * load_own(inverse, k)
            next_share = load_own(weight, next_row + i) * load_own(inverse, k + 1)
            to = row_start(i, size) - i - 1
            for j in range(i + 1, size):
                more = fma(share, load_own(weight, row + j), load_own(weight, to + j))
                more = fma(next_share, load_own(weight, next_row + j), more)
                store_own(weight, to + j, more)
    c = load_own(ground, size - 1)
    inv = where_greater(c, 0.0, 1.0 / c, 0.0)
    store_own(p, size - 1, -load_own(g, size - 1) * inv)
    for back in range(1, size):
        k = size - 1 - back
        row = row_start(k, size) - k - 1
        s = _dot_with_row(weight, row, p, k + 1, size) - load_own(g, k)
        store_own(p, k, s * load_own(inverse, k))


@EXACT
def losses(
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
            upset = fma(a, largest(zero - gap, zero), b * largest(gap, zero))
            part = part + fma(a + b, even, upset)
            k += 1
        total = total + part
    store_lane(loss, 0, total)
