r"""Newton's method within a box, for up to 64 responses, eight prompts side by side.

Minimises `sum_ij W_ij log(1 + exp(r_j - r_i))` over `0 <= r <= r_max`, on the network of `network`.

*Bounds.*  A response on a bound whose multiplier holds it there is ground: its links lead the
others to the ground, and it does not move.  Where the direction of a free response on a bound
points out of the box, the response is held too and the direction found anew.  A step is cut at the
box entry by entry, and where the slope at its end is not certain to be a descent, at the first
bound, as in `rewards.newton`.

*Parts.*  Responses that no comparison links are parts of the network without a way to each other.
A part that no bound holds has a whole range of maximisers; its mid-range is put at `r_max/2`.

*Certificate.*  Beside the optimality conditions, the error that rounding of the gradient may cause:
`|dr| <= L^-1 (unit * flow)` entry by entry, because the inverse of the Laplacian L has no negative
entry.  A multiplier within rounding of 0 holds nothing there.  Where faint links between groups of
responses make the error large, the lane is declined.

Source: Bertsekas 1982 (SIAM J. Control Optim. 20, 2) for the bounds; see `network` for the rest.
"""

from __future__ import annotations

import math

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.intrinsics import fetch_add, fma
from rlhfsim.kernels.vectors import LANES, load_lane, spread, store_lane
from rlhfsim.rewards.compiled.layout import (
    CERTIFIED,
    GRADIENT,
    LENGTH,
    LOSS,
    MOST_STEPS,
    pairs,
    row_start,
)
from rlhfsim.rewards.compiled.network import (
    SingleArray,
    exponentials,
    flows,
    load_prompts,
    log_odds,
    losses,
    solve_network,
)

#: Largest error of a reward that the rounding of the gradient may cause.
LARGEST_ERROR = 1e-11
# Rounding of one flow: of two exponentials, a sum, a division and a product.
_UNIT = 8.0 * float(np.finfo(np.float64).eps)

# Rows of the workspace: per response and lane.
_R, _E, _G, _INVERSE, _P, _GROUND, _REAL, _FREE, _SLOPE, _END, _PART = range(11)
_ROWS = 11


@EXACT
def _parts(
    won: FloatArray, lost: FloatArray, size: int, widest: int, lane: int, part: FloatArray
) -> None:
    """Write for each response of a lane the least one that it is linked with."""
    for i in range(size):
        part[i * LANES + lane] = i
    changed = True
    while changed:
        changed = False
        for i in range(size):
            k = row_start(i, widest) * LANES + lane
            for j in range(i + 1, size):
                if won[k] + lost[k] > 0.0:
                    a, b = part[i * LANES + lane], part[j * LANES + lane]
                    if a != b:
                        least = min(a, b)
                        part[i * LANES + lane], part[j * LANES + lane] = least, least
                        changed = True
                k += LANES


@EXACT
def _place(r: FloatArray, part: FloatArray, size: int, lane: int, r_max: float) -> None:
    """Put the mid-range of each part of a lane at `r_max/2`, and cut at the box."""
    for first in range(size):
        if part[first * LANES + lane] != first:
            continue
        high, low = -np.inf, np.inf
        for i in range(first, size):
            if part[i * LANES + lane] == first:
                high, low = max(high, r[i * LANES + lane]), min(low, r[i * LANES + lane])
        shift = 0.5 * r_max - 0.5 * (high + low)
        for i in range(first, size):
            at = i * LANES + lane
            if part[at] == first:
                r[at] = min(max(r[at] + shift, 0.0), r_max)


@EXACT
def _hold(
    r: FloatArray, slope: FloatArray, real: FloatArray, r_max: float, free: FloatArray
) -> None:
    """Mark as not free what its multiplier holds on a bound, and what a lane lacks."""
    for at in range(r.size):
        low = r[at] <= 0.0 and slope[at] >= 0.0
        high = r[at] >= r_max and slope[at] <= 0.0
        free[at] = 0.0 if low or high or real[at] == 0.0 else 1.0


@EXACT
def _earth(
    weight: FloatArray, slope: FloatArray, free: FloatArray, size: int, cut: FloatArray,
    ground: FloatArray, g: FloatArray,
) -> None:  # fmt: skip
    """Write the network in which what is not free is ground."""
    one, zero = spread(1.0), spread(0.0)
    for i in range(size):
        # A ground of its own for what is held, which then stays where it is.
        store_lane(ground, i, one - load_lane(free, i))
        store_lane(g, i, load_lane(slope, i) * load_lane(free, i))
    k = 0
    for i in range(size):
        free_i, ground_i = load_lane(free, i), zero
        for j in range(i + 1, size):
            w, free_j = load_lane(weight, k), load_lane(free, j)
            both = w * free_i * free_j
            store_lane(cut, k, both)
            ground_i = fma(w * free_i, one - free_j, ground_i)
            more = fma(w * free_j, one - free_i, load_lane(ground, j))
            store_lane(ground, j, more)
            k += 1
        store_lane(ground, i, load_lane(ground, i) + ground_i)


@EXACT
def _hold_outward(r: FloatArray, p: FloatArray, r_max: float, free: FloatArray) -> bool:
    """Hold what the direction would lead out of the box; return whether there is any."""
    found = False
    for at in range(r.size):
        out = (r[at] <= 0.0 and p[at] < 0.0) or (r[at] >= r_max and p[at] > 0.0)
        if out and free[at] > 0.0:
            free[at], found = 0.0, True
    return found


@EXACT
def _measure(p: FloatArray, real: FloatArray, size: int, lane: int) -> tuple[float, float]:
    """Return the largest entry of a lane's direction, in size, and the range of its entries."""
    longest, high, low = 0.0, -np.inf, np.inf
    for i in range(size):
        at = i * LANES + lane
        if real[at] > 0.0:
            longest = max(longest, abs(p[at]))
            high, low = max(high, p[at]), min(low, p[at])
    return longest, high - low


@EXACT
def _descends(
    won: FloatArray, lost: FloatArray, r: FloatArray, end: FloatArray, size: int, widest: int,
    lane: int,
) -> bool:  # fmt: skip
    """Return whether the slope at `end` along the way from r is not upward."""
    total = 0.0
    for i in range(size):
        at, k = i * LANES + lane, row_start(i, widest) * LANES + lane
        for j in range(i + 1, size):
            to = j * LANES + lane
            gap = end[at] - end[to]
            down = 1.0 / (1.0 + math.exp(gap))
            net = lost[k] * (1.0 - down) - won[k] * down
            total += net * ((end[at] - r[at]) - (end[to] - r[to]))
            k += LANES
    return total <= 0.0


@EXACT
def _advance(
    won: FloatArray, lost: FloatArray, r: FloatArray, p: FloatArray, end: FloatArray, size: int,
    widest: int, lane: int, reach: float, r_max: float,
) -> None:  # fmt: skip
    """Move a lane along its direction, inside the box."""
    step = math.log1p(reach) / reach if reach > 1.0 else 1.0
    inside, room = True, np.inf
    for i in range(size):
        at = i * LANES + lane
        full = r[at] + step * p[at]
        end[at] = min(max(full, 0.0), r_max)
        inside = inside and end[at] == full
        if p[at] > 0.0:
            room = min(room, (r_max - r[at]) / p[at])
        elif p[at] < 0.0:
            room = min(room, -r[at] / p[at])
    if not inside and not _descends(won, lost, r, end, size, widest, lane):
        for i in range(size):
            at = i * LANES + lane
            wall = (r_max - r[at]) / p[at] if p[at] > 0.0 else -r[at] / p[at]
            if p[at] != 0.0 and wall <= room:
                end[at] = r_max if p[at] > 0.0 else 0.0
            else:
                end[at] = min(max(r[at] + room * p[at], 0.0), r_max)
    for i in range(size):
        r[i * LANES + lane] = end[i * LANES + lane]


@EXACT
def _violation(
    r: FloatArray, slope: FloatArray, size: int, lane: int, r_max: float
) -> tuple[float, bool]:
    """Return the largest violation of the optimality conditions, and whether all are numbers."""
    worst, usable = 0.0, True
    for i in range(size):
        at = i * LANES + lane
        usable = usable and abs(slope[at]) < np.inf and abs(r[at]) < np.inf
        too_high = 0.0 if r[at] <= 0.0 else max(slope[at], 0.0)
        too_low = 0.0 if r[at] >= r_max else max(-slope[at], 0.0)
        worst = max(worst, too_high, too_low)
    return worst, usable


@EXACT
def _noise(won: FloatArray, lost: FloatArray, e: FloatArray, size: int, noise: FloatArray) -> None:
    """Write, with a minus, how far rounding may move each entry of the gradient."""
    one, unit = spread(1.0), spread(-_UNIT)
    for i in range(size):
        store_lane(noise, i, spread(0.0))
    k = 0
    for i in range(size):
        e_i, of_i = load_lane(e, i), load_lane(noise, i)
        for j in range(i + 1, size):
            e_j = load_lane(e, j)
            inverse = one / (e_i + e_j)
            flow = load_lane(lost, k) * e_i * inverse + load_lane(won, k) * e_j * inverse
            flow = flow * unit
            of_i = of_i + flow
            store_lane(noise, j, load_lane(noise, j) + flow)
            k += 1
        store_lane(noise, i, of_i)


@EXACT
def _doubt(slope: FloatArray, noise: FloatArray, real: FloatArray, free: FloatArray) -> None:
    """Free what is held by a multiplier that may be nothing but rounding."""
    for at in range(slope.size):
        if real[at] > 0.0 and abs(slope[at]) <= -noise[at]:
            free[at] = 1.0


@EXACT
def _fit_group(
    table: FloatArray, starts: IntArray, sizes: IntArray, group: IntArray, widest: int,
    r_max: float, final: float, desk: FloatArray, work: FloatArray, lengths: FloatArray,
    under_way: FloatArray, room: SingleArray, singles: SingleArray,
) -> None:  # fmt: skip
    """Fit up to eight prompts; leave rewards, slopes, losses and errors in the workspace."""
    end = pairs(widest) * LANES
    won, lost, weight, cut = desk[0, :end], desk[1, :end], desk[2, :end], desk[3, :end]
    won[:], lost[:] = 0.0, 0.0
    width = widest * LANES
    r, e, g = work[_R, :width], work[_E, :width], work[_G, :width]
    inverse, p, ground = work[_INVERSE, :width], work[_P, :width], work[_GROUND, :width]
    real, free, slope = work[_REAL, :width], work[_FREE, :width], work[_SLOPE, :width]
    ends, part = work[_END, :width], work[_PART, :width]
    r[:], real[:], lengths[:], under_way[:] = 0.0, 0.0, np.inf, 0.0
    for lane in range(group.size):
        under_way[lane] = 1.0
        for i in range(sizes[group[lane]]):
            real[i * LANES + lane] = 1.0
    load_prompts(table, starts, sizes, group, widest, won, lost)
    odds, above = singles[0, :width], singles[1, :width]
    log_odds(won, lost, widest, room, odds, above, singles[2, :width], singles[3, :width], r)
    for lane in range(group.size):
        size = sizes[group[lane]]
        _parts(won, lost, size, widest, lane, part)
        _place(r, part, size, lane, r_max)
    for _ in range(MOST_STEPS):
        exponentials(r, e)
        flows(won, lost, e, widest, weight, slope)
        _hold(r, slope, real, r_max, free)
        searching = True
        while searching:
            _earth(weight, slope, free, widest, cut, ground, g)
            solve_network(cut, g, ground, inverse, p, widest)
            searching = _hold_outward(r, p, r_max, free)
        left = 0
        for lane in range(group.size):
            if under_way[lane] > 0.0:
                size = sizes[group[lane]]
                lengths[lane], reach = _measure(p, real, size, lane)
                if lengths[lane] < np.inf:
                    _advance(won, lost, r, p, ends, size, widest, lane, reach, r_max)
                if not lengths[lane] > final:
                    under_way[lane] = 0.0
                else:
                    left += 1
        if left == 0:
            break
    for lane in range(group.size):
        _place(r, part, sizes[group[lane]], lane, r_max)
    exponentials(r, e)
    flows(won, lost, e, widest, weight, slope)
    _hold(r, slope, real, r_max, free)
    _noise(won, lost, e, widest, ends)
    _doubt(slope, ends, real, free)
    _earth(weight, ends, free, widest, cut, ground, g)
    solve_network(cut, g, ground, inverse, ends, widest)
    losses(won, lost, r, e, widest, p)


@EXACT
def fit_boxed_lanes(
    table: FloatArray, starts: IntArray, sizes: IntArray, order: IntArray, r_max: float,
    least: float, final: float, tolerance: FloatArray, members: IntArray, first: IntArray,
    reward: FloatArray, fields: FloatArray, counter: IntArray,
) -> None:  # fmt: skip
    """Fit the prompts of `order` within `[0, r_max]` until `counter` says that all are taken.

    Parameters as of `lanes.fit_lanes`, with `r_max` in place of the ridge; `least` is not used.
    """
    widest = sizes[order[order.size - 1]]
    desk = np.empty((4, pairs(widest) * LANES))
    work = np.empty((_ROWS, widest * LANES))
    lengths, under_way = np.empty(LANES), np.empty(LANES)
    room = np.empty(2 * pairs(widest) * LANES, dtype=np.float32)
    singles = np.empty((4, widest * LANES), dtype=np.float32)
    while True:
        begin = fetch_add(counter, LANES)
        if begin >= order.size:
            return
        group = order[begin : min(begin + LANES, order.size)]
        width = sizes[group[group.size - 1]]
        _fit_group(
            table, starts, sizes, group, width, r_max, final, desk, work, lengths, under_way, room,
            singles,
        )  # fmt: skip
        for lane in range(group.size):
            x = group[lane]
            worst, usable = _violation(work[_R], work[_SLOPE], sizes[x], lane, r_max)
            error = 0.0
            for i in range(sizes[x]):
                reward[x, members[first[x] + i]] = work[_R, i * LANES + lane]
                error = max(error, abs(work[_END, i * LANES + lane]))
            fields[x, GRADIENT], fields[x, LENGTH] = worst, lengths[lane]
            fields[x, LOSS] = work[_P, lane]
            sure = usable and worst <= tolerance[x] and lengths[lane] <= final
            fields[x, CERTIFIED] = 1.0 if sure and error <= LARGEST_ERROR else 0.0
