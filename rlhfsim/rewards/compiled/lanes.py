"""Newton's method for up to 64 responses, eight prompts side by side.

*Step.*  The Newton direction of the network of `network`, whose ground is the ridge.  The step is
shortened to `log(1 + D)/D`, D the range of the direction, for the reasons given in
`rewards.newton`.

*Singles.*  Where all counts are at least 1, the first few directions are computed in single
precision: they only have to be right to some digits, and the gradient, in doubles, says what is
left.  Weights below the smallest single are those of pairs whose rewards are 87 apart, which no
optimum of such counts has without a gradient that the certificate sees.

*Lanes.*  A lane that is done, or lost, waits for the others.

Source: Hunter 2004 (Ann. Statist. 32, 1) for the likelihood; arXiv 1703.04599 for the step; see
`network` for the rest.
"""

from __future__ import annotations

import math

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.intrinsics import fetch_add, fma
from rlhfsim.kernels.vectors import (
    LANES,
    largest,
    load_lane,
    smallest,
    spread,
    store_lane,
    where_greater,
)
from rlhfsim.rewards.compiled.layout import (
    CERTIFIED,
    FARTHEST,
    GRADIENT,
    LENGTH,
    LOSS,
    MOST_STEPS,
    pairs,
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

#: Responses up to which the elimination is cheaper than what else there is.
LARGEST = 64

# Rows of the workspace: per response and lane.
_R, _E, _G, _INVERSE, _P, _GROUND, _REAL = range(7)
_ROWS = 7
# Rows of the numbers kept for each lane.
_STATE, _STEP, _HIGH, _LOW, _SHARE = range(5)
_NUMBERS = 5
# Steps whose direction may be computed in singles.
_SINGLE_STEPS = 4
# Rows of the workspace in singles: per response and lane.
_SINGLE_ROWS = 4
# States of a lane.
_WAITS, _LAST, _GOES_ON = 0.0, 1.0, 2.0


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
def _choose(numbers: FloatArray, final: float, lengths: FloatArray, in_singles: bool) -> int:
    """Write how far each lane may go; return how many will not have arrived then.

    A lane that left the range of singles waits for the first direction in doubles.
    """
    under_way = 0
    for lane in range(LANES):
        reach = numbers[_HIGH * LANES + lane] - numbers[_LOW * LANES + lane]
        state, step = numbers[_STATE * LANES + lane], 0.0
        # Extremes that give way to NaN leave -inf.
        if state == _GOES_ON and 0.0 <= reach < np.inf:
            lengths[lane] = reach
            # Up to 1 a full step descends by at least a quarter of what a parabola would.
            step = math.log1p(reach) / reach if reach > 1.0 else 1.0
            if reach <= final:
                state = _LAST
            else:
                under_way += 1
        elif state == _GOES_ON and in_singles:
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
        store_lane(r, i, where_greater(step, 0.0, fma(step, load_lane(p, i), r_i), r_i))


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
    ridge: float, final: float, single_steps: int, desk: FloatArray, work: FloatArray,
    numbers: FloatArray, lengths: FloatArray, room: SingleArray, singles: SingleArray,
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
    load_prompts(table, starts, sizes, group, widest, won, lost)
    g1, ground1 = singles[0, :width], singles[1, :width]
    inverse1, p1 = singles[2, :width], singles[3, :width]
    log_odds(won, lost, widest, room, p1, g1, ground1, inverse1, e)
    _centre(e, real, widest, numbers)
    r[:] = e
    weight1 = room[:end]
    under_way = group.size
    for steps in range(MOST_STEPS + 1):
        exponentials(r, e)
        in_singles = steps < single_steps
        if in_singles:
            flows(won, lost, e, widest, weight1, g)
        else:
            flows(won, lost, e, widest, weight, g)
        for i in range(width):
            g[i] += ridge * r[i]
            ground[i] = ridge * real[i]
        if under_way == 0 or steps == MOST_STEPS:
            break
        if in_singles:
            for i in range(width):
                g1[i], ground1[i] = np.float32(g[i]), np.float32(ground[i])
            solve_network(weight1, g1, ground1, inverse1, p1, widest)
            for i in range(width):
                p[i] = np.float64(p1[i])
        else:
            solve_network(weight, g, ground, inverse, p, widest)
        _centre(p, real, widest, numbers)
        under_way = _choose(numbers, final, lengths, in_singles)
        _advance(r, p, numbers, widest)
    losses(won, lost, r, e, widest, p)


@EXACT
def fit_lanes(
    table: FloatArray, starts: IntArray, sizes: IntArray, order: IntArray, ridge: float,
    least: float, final: float, tolerance: FloatArray, members: IntArray, first: IntArray,
    reward: FloatArray, fields: FloatArray, counter: IntArray,
) -> None:  # fmt: skip
    """Fit the prompts of `order` until `counter` says that all are taken.

    Parameters
    ----------
    table, starts, sizes : as in `layout`
        Sizes at most 64.
    order : (N,) prompts, sizes increasing
    ridge : added to the Hessian; 0 for none
    least : the smallest count but 0
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
    room = np.empty(2 * pairs(widest) * LANES, dtype=np.float32)
    singles = np.empty((_SINGLE_ROWS, widest * LANES), dtype=np.float32)
    single_steps = _SINGLE_STEPS if least >= 1.0 else 0
    while True:
        begin = fetch_add(counter, LANES)
        if begin >= order.size:
            return
        group = order[begin : min(begin + LANES, order.size)]
        width = sizes[group[group.size - 1]]
        _fit_group(
            table, starts, sizes, group, width, ridge, final, single_steps, desk, work, numbers,
            lengths, room, singles,
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
