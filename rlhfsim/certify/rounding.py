"""Balls compared with certainty, and rounded outwards to floats."""

from __future__ import annotations

import math
from typing import Literal

from flint import arb, fmpq

from rlhfsim.certify.divergences import Ball

Verdict = Literal["certified", "refuted", "undecided"]


def as_ball(number: Ball) -> arb:
    """Return a ball around the number, in the working precision if it is a fraction."""
    return number if isinstance(number, arb) else arb(number)


def at_most(number: Ball) -> float:
    """Return a float that no number of the ball is below."""
    ball = as_ball(number)
    value = float(ball.lower())
    if math.isnan(value):
        return -math.inf
    while not arb(value) <= ball:
        value = math.nextafter(value, -math.inf)
    return value


def at_least(number: Ball) -> float:
    """Return a float that no number of the ball is above."""
    return 0.0 - at_most(-number)


def upper(left: Ball, right: Ball) -> Verdict:
    """Decide `left <= right`."""
    if isinstance(left, fmpq) and isinstance(right, fmpq):
        return "certified" if left <= right else "refuted"
    a, b = as_ball(left), as_ball(right)
    if a <= b:
        return "certified"
    return "refuted" if a > b else "undecided"


def lower(left: Ball, right: Ball) -> Verdict:
    """Decide `left >= right`."""
    return upper(right, left)


def identity(left: Ball, right: Ball) -> Verdict:
    """Decide `left = right`: certified only between exact numbers."""
    if isinstance(left, fmpq) and isinstance(right, fmpq):
        return "certified" if left == right else "refuted"
    a, b = as_ball(left), as_ball(right)
    if a == b:
        return "certified"
    return "refuted" if a != b else "undecided"


#: What is decided for each kind of claim.
RELATIONS = {"upper": upper, "tight": upper, "false": upper, "lower": lower, "identity": identity}
