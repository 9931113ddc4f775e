r"""The comparisons of eight prompts as eight electrical networks, one for each lane of a vector.

With `W_ij` the number of times i beat j and `E = exp(r)`, one division a pair gives the net flow
`(W_ji E_i - W_ij E_j)/(E_i + E_j)` into the gradient and the weight of the pair in the Hessian,
which is a Laplacian: symmetric, with rows that sum to what leads to the ground.

*Solving.*  The Laplacian is eliminated as a network: taking out node k, which leads to the others
by weights `w_kj` and to the ground by `c_k`, adds `w_ki w_kj / d` between any two of them and
`w_ki c_k / d` to the ground, `d = c_k + sum_j w_kj`.  Nothing is ever subtracted, so weights of any
two sizes keep their digits, as faint links between groups of responses need.  The last response of
a part that nothing leads to the ground is held.

*Start.*  The log odds of winning against the average, and some steps of Newman's iteration.

*Lanes.*  Each prompt has its own lane of every vector; responses that a lane lacks have weight 0.
No number passes from lane to lane.

Source: Newman 2023 (J. Mach. Learn. Res. 24, 238) for the iteration at the start; Grassmann, Taksar
and Heyman 1985 (Oper. Res. 33, 5) and O'Cinneide 1996 (Numer. Math. 73, 4) for elimination without
subtraction.
"""

from __future__ import annotations

from typing import Any

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.elementary import exp, log, log_one_plus_ratio
from rlhfsim.kernels.intrinsics import fma
from rlhfsim.kernels.vectors import (
    LANES,
    largest,
    load_lane,
    smallest,
    spread,
    store_lane,
    take,
    transposed,
    where_greater,
)
from rlhfsim.rewards.compiled.layout import pairs, row_start

# Steps of Newman's iteration before the first of Newton's.
_IMPROVEMENTS = 5


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
        store_lane(up, i, where_greater(load_lane(real, i), 0.0, odds, one))


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
            above_i = fma(a, e_j, above_i)
            up_i, down_i = up_i + a, down_i + b
            store_lane(above, j, fma(b, e_i, load_lane(above, j)))
            store_lane(up, j, load_lane(up, j) + b)
            store_lane(down, j, load_lane(down, j) + a)
            k += 1
        held = some * (up_i + down_i)
        store_lane(above, i, fma(held, e_i, above_i) / (down_i + held))
    for i in range(size):
        store_lane(e, i, where_greater(load_lane(real, i), 0.0, load_lane(above, i), one))


@EXACT
def _logarithms(odds: FloatArray, r: FloatArray) -> None:
    for i in range(odds.size):
        r[i] = log(odds[i])


@EXACT
def log_odds(
    won: FloatArray, lost: FloatArray, real: FloatArray, size: int, odds: FloatArray,
    above: FloatArray, up: FloatArray, down: FloatArray, r: FloatArray,
) -> None:  # fmt: skip
    """Write rewards to start from into `r`; the four before it are workspace, `r` may be one."""
    _odds(won, lost, real, size, odds, up)
    for _ in range(_IMPROVEMENTS):
        _improve(won, lost, real, size, odds, above, up, down)
    _logarithms(odds, r)


@EXACT
def exponentials(r: FloatArray, e: FloatArray) -> None:
    """Write `e = exp(r)`."""
    for i in range(r.size):
        e[i] = exp(r[i])


@EXACT
def flows(
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
            store_lane(weight, k, fma(up, below, down * above))
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
        a = fma(load_lane(weight, row + j), load_lane(p, j), a)
        b = fma(load_lane(weight, row + j + 1), load_lane(p, j + 1), b)
        c = fma(load_lane(weight, row + j + 2), load_lane(p, j + 2), c)
        d = fma(load_lane(weight, row + j + 3), load_lane(p, j + 3), d)
    if whole < end:
        a = fma(load_lane(weight, row + whole), load_lane(p, whole), a)
    if whole + 1 < end:
        b = fma(load_lane(weight, row + whole + 1), load_lane(p, whole + 1), b)
    if whole + 2 < end:
        c = fma(load_lane(weight, row + whole + 2), load_lane(p, whole + 2), c)
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
    inv = where_greater(d, 0.0, 1.0 / d, 0.0)
    store_lane(inverse, k, inv)
    c, q = c * inv, load_lane(g, k) * inv
    for i in range(k + 1, size):
        w = load_lane(weight, row + i)
        store_lane(ground, i, fma(w, c, load_lane(ground, i)))
        store_lane(g, i, fma(w, q, load_lane(g, i)))


@EXACT
def solve_network(
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
            more = fma(link, load_lane(weight, row + j), load_lane(weight, next_row + j))
            store_lane(weight, next_row + j, more)
        _pivot(weight, g, ground, inverse, k + 1, size)
        for i in range(k + 2, size):
            share = load_lane(weight, row + i) * load_lane(inverse, k)
            next_share = load_lane(weight, next_row + i) * load_lane(inverse, k + 1)
            to = row_start(i, size) - i - 1
            for j in range(i + 1, size):
                more = fma(share, load_lane(weight, row + j), load_lane(weight, to + j))
                more = fma(next_share, load_lane(weight, next_row + j), more)
                store_lane(weight, to + j, more)
    c = load_lane(ground, size - 1)
    inv = where_greater(c, 0.0, 1.0 / c, 0.0)
    store_lane(p, size - 1, (zero - load_lane(g, size - 1)) * inv)
    for back in range(1, size):
        k = size - 1 - back
        row = row_start(k, size) - k - 1
        s = _dot_with_row(weight, row, p, k + 1, size) - load_lane(g, k)
        store_lane(p, k, s * load_lane(inverse, k))


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
