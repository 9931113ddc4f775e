r"""Newton's method with conjugate gradients, for many responses.

`E = exp(r)`; one division a pair gives the net flow `(W_ji E_i - W_ij E_j)/(E_i + E_j)` into the
gradient and the weight of the pair in the Laplacian L that is the Hessian.

*Step.*  Conjugate gradients, preconditioned by the diagonal, solve `L p = -g` as far as the rewards
are off.  The product is `(L p)_i = sum_j w_ij (p_i - p_j)`, so rounding changes each weight a
little and no more.  Also for a direction that was not solved to the end, `g p = -p L p`; the step
is therefore shortened as in `rewards.newton`.

*End.*  A small step proves nothing here: where groups of responses hang together by faint links, a
direction that was not solved to the end may leave their common shift alone.  The iteration ends
when every entry of the gradient is within rounding of the flows that it sums; the rewards then are
the exact answer to counts that differ from the given ones by rounding.  What does not get there is
left to the general route.

*Threads.*  The pairs i < j are cut into blocks of rows of about equal size; a block writes sums of
its own, which are added in the order of the blocks.

Source: Hunter 2004 (Ann. Statist. 32, 1) for the likelihood; arXiv 1703.04599 for the step;
Dembo, Eisenstat and Steihaug 1982 (SIAM J. Numer. Anal. 19, 2) for stopping conjugate gradients.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.compiling import EXACT, SUMS
from rlhfsim.kernels.elementary import exp, log_one_plus_ratio
from rlhfsim.kernels.intrinsics import fma
from rlhfsim.kernels.vectors import (
    LANES,
    largest,
    load,
    smallest,
    spread,
    store,
    total,
)
from rlhfsim.rewards.compiled import crew
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

SingleArray = NDArray[np.float32]

# Passes over the pairs, and what else may come next.
_TOTALS, _FLOWS, _PRODUCT, _LIKELIHOOD, _END = range(5)
# Rows of the workspace, each with an entry for every response.
R, _E, _P, _REST, _DIRECTION, _SUM, _SECOND, _THIRD, _DIAGONAL = range(9)
ROWS = 9
# Sums that a block keeps for every response.
SUMS_OF_BLOCK = 3
# Numbers kept between passes.
_STEPS, _INNER, _RZ, _GOAL, _LAST, _SLOPE, _TOTAL, _FINE = range(8)
NUMBERS = 8
# Rows that are taken together.
_PANEL = 4

# Entries of the gradient may be off by so many roundings of the flows and rewards.
_ROUNDINGS = 4 * 2.220446049250313e-16
# The most that a direction may be left unsolved, in the norm of the residual.
_LOOSE = 0.1


@EXACT
def blocks_of(size: int) -> int:
    """Return into how many blocks the rows are cut."""
    return min(16, max(1, size // 128))


@EXACT
def _first_row(block: int, blocks: int, size: int) -> int:
    """Return where a block begins, such that all have about as many pairs."""
    row = int(size * (1.0 - math.sqrt(1.0 - block / blocks)))
    return row if block == blocks else row // _PANEL * _PANEL


# ---- pairs ---------------------------------------------------------------------------------------
#
# Four rows at a time meet eight columns at a time; what is left over goes pair by pair.  `at` is
# the place of the pair (or of the first of eight), `sums` three rows of sums by response.


@EXACT
def _flow_pair(
    won: FloatArray, lost: FloatArray, weight: SingleArray, at: int, e: FloatArray, i: int, j: int,
    sums: FloatArray,
) -> None:  # fmt: skip
    inverse = 1.0 / (e[i] + e[j])
    above, below = e[i] * inverse, e[j] * inverse
    up, down = lost[at] * above, won[at] * below
    weight[at] = up * below + down * above
    w = np.float64(weight[at])
    sums[0, i] += up - down
    sums[0, j] -= up - down
    sums[1, i] += up + down
    sums[1, j] += up + down
    sums[2, i] += w
    sums[2, j] += w


@EXACT
def _flow_eight(
    won: FloatArray, lost: FloatArray, weight: SingleArray, at: int, e_i: Any, e_j: Any
) -> tuple[Any, Any, Any]:
    """Return net flow, total flow and weight of eight pairs of a row."""
    inverse = spread(1.0) / (e_i + e_j)
    above, below = e_i * inverse, e_j * inverse
    up, down = load(lost, at) * above, load(won, at) * below
    store(weight, at, fma(up, below, down * above))
    return up - down, up + down, load(weight, at)


@EXACT
def _flow_rows(
    won: FloatArray, lost: FloatArray, weight: SingleArray, e: FloatArray, i: int,
    sums: FloatArray, stop: int,
) -> None:  # fmt: skip
    """Take four rows from i on against the columns from i + 4 up to `stop`."""
    size = e.size
    to = (
        row_start(i, size) - i - 1,
        row_start(i + 1, size) - i - 2,
        row_start(i + 2, size) - i - 3,
        row_start(i + 3, size) - i - 4,
    )
    e_0, e_1, e_2, e_3 = spread(e[i]), spread(e[i + 1]), spread(e[i + 2]), spread(e[i + 3])
    zero = spread(0.0)
    net_0, net_1, net_2, net_3 = zero, zero, zero, zero
    both_0, both_1, both_2, both_3 = zero, zero, zero, zero
    w_0, w_1, w_2, w_3 = zero, zero, zero, zero
    for j in range(i + 4, stop, LANES):
        e_j = load(e, j)
        net, both, w = _flow_eight(won, lost, weight, to[0] + j, e_0, e_j)
        net_0, both_0, w_0 = net_0 + net, both_0 + both, w_0 + w
        nets, boths, ws = net, both, w
        net, both, w = _flow_eight(won, lost, weight, to[1] + j, e_1, e_j)
        net_1, both_1, w_1 = net_1 + net, both_1 + both, w_1 + w
        nets, boths, ws = nets + net, boths + both, ws + w
        net, both, w = _flow_eight(won, lost, weight, to[2] + j, e_2, e_j)
        net_2, both_2, w_2 = net_2 + net, both_2 + both, w_2 + w
        nets, boths, ws = nets + net, boths + both, ws + w
        net, both, w = _flow_eight(won, lost, weight, to[3] + j, e_3, e_j)
        net_3, both_3, w_3 = net_3 + net, both_3 + both, w_3 + w
        store(sums[0], j, load(sums[0], j) - (nets + net))
        store(sums[1], j, load(sums[1], j) + (boths + both))
        store(sums[2], j, load(sums[2], j) + (ws + w))
    _add_four(sums[0], i, net_0, net_1, net_2, net_3)
    _add_four(sums[1], i, both_0, both_1, both_2, both_3)
    _add_four(sums[2], i, w_0, w_1, w_2, w_3)


@EXACT
def _add_four(sums: FloatArray, i: int, a: Any, b: Any, c: Any, d: Any) -> None:
    sums[i] += total(a)
    sums[i + 1] += total(b)
    sums[i + 2] += total(c)
    sums[i + 3] += total(d)


@EXACT
def _product_pair(
    weight: SingleArray, at: int, p: FloatArray, i: int, j: int, sums: FloatArray
) -> None:
    change = np.float64(weight[at]) * (p[i] - p[j])
    sums[0, i] += change
    sums[0, j] -= change


@EXACT
def _product_rows(weight: SingleArray, p: FloatArray, i: int, sums: FloatArray, stop: int) -> None:
    size = p.size
    to = (
        row_start(i, size) - i - 1,
        row_start(i + 1, size) - i - 2,
        row_start(i + 2, size) - i - 3,
        row_start(i + 3, size) - i - 4,
    )
    p_0, p_1, p_2, p_3 = spread(p[i]), spread(p[i + 1]), spread(p[i + 2]), spread(p[i + 3])
    zero = spread(0.0)
    sum_0, sum_1, sum_2, sum_3 = zero, zero, zero, zero
    for j in range(i + 4, stop, LANES):
        p_j = load(p, j)
        change_0 = load(weight, to[0] + j) * (p_0 - p_j)
        change_1 = load(weight, to[1] + j) * (p_1 - p_j)
        change_2 = load(weight, to[2] + j) * (p_2 - p_j)
        change_3 = load(weight, to[3] + j) * (p_3 - p_j)
        sum_0, sum_1 = sum_0 + change_0, sum_1 + change_1
        sum_2, sum_3 = sum_2 + change_2, sum_3 + change_3
        column = (change_0 + change_1) + (change_2 + change_3)
        store(sums[0], j, load(sums[0], j) - column)
    _add_four(sums[0], i, sum_0, sum_1, sum_2, sum_3)


@EXACT
def _total_pair(
    won: FloatArray, lost: FloatArray, at: int, i: int, j: int, sums: FloatArray
) -> None:
    sums[0, i] += won[at]
    sums[1, i] += lost[at]
    sums[0, j] += lost[at]
    sums[1, j] += won[at]


@EXACT
def _total_row(
    won: FloatArray, lost: FloatArray, size: int, i: int, sums: FloatArray, stop: int
) -> None:
    to = row_start(i, size) - i - 1
    up, down = spread(0.0), spread(0.0)
    for j in range(i + 1, stop, LANES):
        a, b = load(won, to + j), load(lost, to + j)
        up, down = up + a, down + b
        store(sums[0], j, load(sums[0], j) + b)
        store(sums[1], j, load(sums[1], j) + a)
    sums[0, i] += total(up)
    sums[1, i] += total(down)


@EXACT
def _loss_pair(
    won: FloatArray, lost: FloatArray, at: int, r: FloatArray, e: FloatArray, i: int, j: int,
    sums: FloatArray,
) -> None:  # fmt: skip
    gap = r[i] - r[j]
    upset = lost[at] * gap if gap > 0.0 else -won[at] * gap
    even = math.log1p(min(e[i], e[j]) / max(e[i], e[j]))
    sums[0, i] += (won[at] + lost[at]) * even + upset


@EXACT
def _loss_row(
    won: FloatArray, lost: FloatArray, r: FloatArray, e: FloatArray, i: int, sums: FloatArray,
    stop: int,
) -> None:  # fmt: skip
    to = row_start(i, e.size) - i - 1
    zero, e_i, r_i = spread(0.0), spread(e[i]), spread(r[i])
    loss = zero
    for j in range(i + 1, stop, LANES):
        e_j, gap = load(e, j), r_i - load(r, j)
        a, b = load(won, to + j), load(lost, to + j)
        even = log_one_plus_ratio(smallest(e_i, e_j), largest(e_i, e_j))
        upset = fma(a, largest(zero - gap, zero), b * largest(gap, zero))
        loss = loss + fma(a + b, even, upset)
    sums[0, i] += total(loss)


# ---- blocks --------------------------------------------------------------------------------------


@EXACT
def _pairs_of_row(
    work: int, i: int, begin: int, end: int, won: FloatArray, lost: FloatArray,
    weight: SingleArray, rows: FloatArray, sums: FloatArray,
) -> None:  # fmt: skip
    """Take the pairs of row i with columns `begin` to `end - 1` one by one."""
    at = row_start(i, rows.shape[1]) - i - 1
    for j in range(begin, end):
        if work == _FLOWS:
            _flow_pair(won, lost, weight, at + j, rows[_E], i, j, sums)
        elif work == _PRODUCT:
            _product_pair(weight, at + j, rows[_P], i, j, sums)
        elif work == _TOTALS:
            _total_pair(won, lost, at + j, i, j, sums)
        else:
            _loss_pair(won, lost, at + j, rows[R], rows[_E], i, j, sums)


@EXACT
def _run(
    work: int, block: int, blocks: int, won: FloatArray, lost: FloatArray, weight: SingleArray,
    rows: FloatArray, sums: FloatArray,
) -> None:  # fmt: skip
    """Make one pass over the rows of a block."""
    size = rows.shape[1]
    begin, end = _first_row(block, blocks, size), _first_row(block + 1, blocks, size)
    sums[:, begin:] = 0.0
    # Rows that are taken together, and the pairs among them, which go one by one.
    panel = _PANEL if work in (_FLOWS, _PRODUCT) else 1
    i = begin
    while i < end:
        height = min(panel, end - i)
        stop = i + height
        if height == panel:
            stop += (size - stop) // LANES * LANES
            if work == _FLOWS:
                _flow_rows(won, lost, weight, rows[_E], i, sums, stop)
            elif work == _PRODUCT:
                _product_rows(weight, rows[_P], i, sums, stop)
            elif work == _TOTALS:
                _total_row(won, lost, size, i, sums, stop)
            else:
                _loss_row(won, lost, rows[R], rows[_E], i, sums, stop)
        for row in range(i, i + height):
            for part in range(2):
                first, last = (row + 1, i + height) if part == 0 else (stop, size)
                _pairs_of_row(work, row, first, last, won, lost, weight, rows, sums)
        i += height


@EXACT
def _collect(sums: FloatArray, which: int, blocks: int, size: int, out: FloatArray) -> None:
    """Add the sums of the blocks, in order; a block has none before its first row."""
    out[:] = 0.0
    for block in range(blocks):
        begin = _first_row(block, blocks, size)
        for j in range(begin, size):
            out[j] += sums[block, which, j]


# ---- between passes ------------------------------------------------------------------------------


@SUMS
def _sum_of(x: FloatArray) -> float:
    total = 0.0
    for k in range(x.size):
        total += x[k]
    return total


@SUMS
def _dot(x: FloatArray, y: FloatArray) -> float:
    total = 0.0
    for k in range(x.size):
        total += x[k] * y[k]
    return total


@EXACT
def _exponentials(r: FloatArray, e: FloatArray) -> None:
    for i in range(r.size):
        e[i] = exp(r[i])


@EXACT
def _shift(r: FloatArray, by: float) -> None:
    for i in range(r.size):
        r[i] -= by


@EXACT
def _step(r: FloatArray, by: float, direction: FloatArray) -> None:
    for i in range(r.size):
        r[i] += by * direction[i]


@EXACT
def _precondition(rest: FloatArray, diagonal: FloatArray, out: FloatArray) -> None:
    for i in range(rest.size):
        out[i] = rest[i] / diagonal[i]


@EXACT
def _turn(p: FloatArray, z: FloatArray, by: float) -> None:
    for i in range(p.size):
        p[i] = z[i] + by * p[i]


@EXACT
def _place(rows: FloatArray) -> bool:
    """Centre the rewards and take their exponentials; return whether they are near enough."""
    r = rows[R]
    _shift(r, _sum_of(r) / r.size)
    near = True
    for i in range(r.size):
        near = near and abs(r[i]) < FARTHEST
    if near:
        _exponentials(r, rows[_E])
    return near


@EXACT
def _start(rows: FloatArray) -> int:
    """Start at the log odds of winning against the average."""
    r, up, down = rows[R], rows[_SUM], rows[_SECOND]
    for i in range(r.size):
        # A hundredth of what was played keeps responses that only win or only lose in sight.
        some = 0.01 * (up[i] + down[i])
        r[i] = math.log((up[i] + some) / (down[i] + some))
    return _FLOWS if _place(rows) else _END


@EXACT
def _after_flows(rows: FloatArray, numbers: FloatArray) -> int:
    """Look whether the gradient is within rounding; if not, start on a new direction."""
    r, g, both, diagonal = rows[R], rows[_SUM], rows[_SECOND], rows[_DIAGONAL]
    reach, worst, off, finest = 0.0, 0.0, 0.0, True
    for i in range(r.size):
        reach = max(reach, abs(r[i]))
    allowed = _ROUNDINGS * (1.0 + reach)
    for i in range(r.size):
        slope = abs(g[i])
        if not (diagonal[i] > 0.0 and slope < np.inf):
            return _END
        finest = finest and slope <= allowed * both[i]
        worst, off = max(worst, slope), max(off, slope / diagonal[i])
    numbers[_SLOPE] = worst
    if finest:
        numbers[_FINE] = 1.0
        return _LIKELIHOOD
    if numbers[_STEPS] >= MOST_STEPS:
        return _END
    numbers[_STEPS] += 1.0
    rest, p, direction = rows[_REST], rows[_P], rows[_DIRECTION]
    for i in range(r.size):
        rest[i], direction[i] = -g[i], 0.0
    _precondition(rest, diagonal, p)
    numbers[_RZ], numbers[_INNER] = _dot(rest, p), 0.0
    # Newton's step itself leaves an error of the order of the square of this one.
    loose = min(_LOOSE, max(off, 0.1 * allowed / off))
    numbers[_GOAL] = numbers[_RZ] * loose * loose
    return _PRODUCT


@EXACT
def _after_product(rows: FloatArray, numbers: FloatArray) -> int:
    """Make one step of conjugate gradients; at their end, move the rewards."""
    rest, p, product, z = rows[_REST], rows[_P], rows[_SUM], rows[_THIRD]
    curvature = _dot(p, product)
    if not (curvature > 0.0 and curvature < np.inf):
        return _END
    by = numbers[_RZ] / curvature
    _step(rows[_DIRECTION], by, p)
    _step(rest, -by, product)
    _precondition(rest, rows[_DIAGONAL], z)
    rz = _dot(rest, z)
    numbers[_INNER] += 1.0
    if rz > numbers[_GOAL]:
        if numbers[_INNER] >= 2.0 * rest.size:
            return _END
        _turn(p, z, rz / numbers[_RZ])
        numbers[_RZ] = rz
        return _PRODUCT
    return _move(rows, numbers)


@EXACT
def _move(rows: FloatArray, numbers: FloatArray) -> int:
    direction = rows[_DIRECTION]
    high, low = direction[0], direction[0]
    for i in range(direction.size):
        high, low = max(high, direction[i]), min(low, direction[i])
    reach = high - low
    numbers[_LAST] = reach
    # Up to 1 a full step descends by at least a quarter of what a parabola would.
    _step(rows[R], math.log1p(reach) / reach if reach > 1.0 else 1.0, direction)
    return _FLOWS if _place(rows) else _END


@EXACT
def _decide(work: int, blocks: int, rows: FloatArray, sums: FloatArray, numbers: FloatArray) -> int:
    """Digest the sums of a pass; return the next pass, or `_END`."""
    size = rows.shape[1]
    _collect(sums, 0, blocks, size, rows[_SUM])
    if work == _PRODUCT:
        return _after_product(rows, numbers)
    if work == _LIKELIHOOD:
        numbers[_TOTAL] = _sum_of(rows[_SUM])
        return _END
    _collect(sums, 1, blocks, size, rows[_SECOND])
    if work == _TOTALS:
        return _start(rows)
    _collect(sums, 2, blocks, size, rows[_DIAGONAL])
    return _after_flows(rows, numbers)


@EXACT
def fit_together(
    table: FloatArray, start: int, leads: bool, board: IntArray, weight: SingleArray,
    rows: FloatArray, sums: FloatArray, numbers: FloatArray, final: float, tolerance: float,
    fields: FloatArray,
) -> None:  # fmt: skip
    """Fit one prompt, together with all threads that call this with the same arrays.

    Parameters
    ----------
    table, start : as in `layout`
    leads : one thread's only
    board : (BOARD + 1,) of zeros; the last entry is the pass
    weight : (pairs,), rows : (ROWS, K), sums : (blocks, SUMS_OF_BLOCK, K)
        Workspace; the rewards are left in `rows[R]`.
    numbers : (NUMBERS,) of zeros
    final : longest Newton step that may be the last
    tolerance : largest gradient that the certificate allows
    fields : (FIELDS,)
        Written to.
    """
    size = rows.shape[1]
    count, blocks = pairs(size), blocks_of(size)
    won, lost = table[start : start + count], table[start + count : start + 2 * count]
    passes = 0
    while True:
        if leads:
            passes += 1
            crew.open_pass(board, passes)
        block = crew.take_block(board, blocks)
        while block >= 0:
            _run(board[crew.BOARD], block, blocks, won, lost, weight, rows, sums[block])
            crew.finish_block(board)
            block = crew.take_block(board, blocks)
        if not leads:
            if crew.closed(board):
                return
            continue
        while not crew.everything_done(board, passes * blocks):
            pass
        work = _decide(board[crew.BOARD], blocks, rows, sums, numbers)
        if work == _END:
            break
        board[crew.BOARD] = work
    crew.close(board)
    fields[GRADIENT], fields[LENGTH], fields[LOSS] = (
        numbers[_SLOPE],
        numbers[_LAST],
        numbers[_TOTAL],
    )
    certified = numbers[_FINE] > 0.0 and numbers[_SLOPE] <= tolerance and numbers[_LAST] <= final
    fields[CERTIFIED] = 1.0 if certified else 0.0
