"""The least value of a smooth function on an interval, by branch and bound over balls.

A box is kept until its lower bound is above the best value found, or until the derivative has no
zero in it.  The bound of a box `[a, b]` is the better of two enclosures: the function of the whole
ball, and the mean value form `f(m) + f'([a, b]) ([a, b] - m)`, which is sharp to second order.

Source: Moore, Kearfott and Cloud, "Introduction to Interval Analysis", 2009, section 6.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from flint import arb

from rlhfsim.certify.rounding import at_least, at_most

#: The function and its derivative, each on a ball.
Smooth = Callable[[arb], tuple[arb, arb]]


@dataclass(frozen=True)
class Minimum:
    """`lower <= min f <= upper`; every minimiser lies in `[low, high]`."""

    lower: float
    upper: float
    low: float
    high: float
    #: how many boxes were evaluated.
    boxes: int


@dataclass(frozen=True, order=True)
class _Box:
    lower: float
    low: float
    high: float


def enclose_minimum(
    function: Smooth, low: float, high: float, tolerance: float, most_boxes: int
) -> Minimum:
    """Return an enclosure of the least value on `[low, high]`, to a relative tolerance.

    The least value must be positive, and must not be taken at `high`.

    Raises
    ------
    ArithmeticError
        When the tolerance is not reached with `most_boxes` boxes, or the function falls all the
        way to `high`.
    """
    upper = min(at_least(function(arb(end))[0]) for end in (low, high))
    waiting = [_Box(-float("inf"), low, high)]
    boxes = 0
    while waiting and waiting[0].lower < upper * (1.0 - tolerance):
        box = heapq.heappop(waiting)
        middle = (box.low + box.high) / 2.0
        boxes += 2
        if boxes > most_boxes or not box.low < middle < box.high:
            raise ArithmeticError(
                f"after {boxes} boxes the minimum is only known to lie between {box.lower!r} and "
                f"{upper!r}; allow a larger tolerance or a higher precision"
            )
        upper = min(upper, at_least(function(arb(middle))[0]))
        for a, b in ((box.low, middle), (middle, box.high)):
            part = _bounded(function, a, b, first=a == low)
            if part is not None and part.lower <= upper:
                heapq.heappush(waiting, part)
    left = [box for box in waiting if box.lower <= upper]
    if not left:
        raise ArithmeticError(f"no minimiser is left: the least value is at {high!r}")
    return Minimum(
        lower=min(box.lower for box in left),
        upper=upper,
        low=min(box.low for box in left),
        high=max(box.high for box in left),
        boxes=boxes,
    )


def _bounded(function: Smooth, low: float, high: float, *, first: bool) -> _Box | None:
    """Return `[low, high]` with a lower bound, or None when no minimiser of the whole is inside."""
    box, middle = arb(low).union(arb(high)), arb((low + high) / 2.0)
    value, slope = function(box)
    # A minimiser inside the whole interval has slope 0; at its first end the slope may be positive.
    if slope > 0 and first:
        return _Box(at_most(function(arb(low))[0]), low, low)
    if slope < 0 or slope > 0:
        return None
    mean_value = function(middle)[0] + slope * (box - middle)
    return _Box(max(at_most(value), at_most(mean_value)), low, high)
