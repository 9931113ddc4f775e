"""A claim on one instance, decided in ball arithmetic: certified, refuted or undecided.

Rounding cannot touch the answer: every number is exact or enclosed in a ball (arXiv 1611.02831).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rlhfsim import checks
from rlhfsim.certify.library import require_flint, working_precision
from rlhfsim.checks import FloatArray
from rlhfsim.claims import Claim

if TYPE_CHECKING:
    from rlhfsim.certify.divergences import Ball
    from rlhfsim.certify.sides import BallSides

Verdict = Literal["certified", "refuted", "undecided"]

_FIRST_BITS = 64

# How far a side in floats may be from its ball: rounding, and rows that sum to 1 within 1e-9.
_RELATIVE, _ABSOLUTE, _ROUNDINGS = 1e-6, 1e-8, 100.0
# Beyond this, floats overflow on the way.
_HUGE = 1e280


@dataclass(frozen=True)
class Sides:
    """Rigorous bounds on both sides of a claim, rounded outwards to floats."""

    left_lower: float
    left_upper: float
    right_lower: float
    right_upper: float


def certify(
    claim: Claim[Any],
    instance: Any,
    *,
    sides: BallSides | None = None,
    precision: int = 4096,
) -> Verdict:
    """Return whether the claim holds on the instance, decided by ball arithmetic.

    Its two sides are enclosed in balls of 64 bits, then of 128 and so on, until the balls no
    longer overlap.  Rational sides (chi-squared, total variation) are compared exactly.  Rows
    count as the distributions `row / sum(row)`.

    Parameters
    ----------
    claim : Claim
        Of any kind; `left <= right` is decided for "upper" and "false", `left >= right` for
        "lower", `left = right` for "identity".
    instance : batch of one
        `Pairs` or `Problems`.
    sides : function from an `ExactPair` or `ExactProblem` to (left, right), optional
        By default that of the claim's name in `BALL_SIDES`, `PROBLEM_SIDES` or `REGRET_SIDES`.
        Its numbers are compared with the claim's own.
    precision : int
        Most bits, at least 64.

    Returns
    -------
    "certified", "refuted", or "undecided"
        Undecided where both sides are equal, but irrational, or closer than the precision tells.

    Raises
    ------
    ValueError
        When there is no ball formula for the claim, or the claim's own sides are other numbers;
        when the batch does not hold one instance, or its rows are not distributions.
    ImportError
        Without python-flint.

    Source: ball arithmetic, arXiv 1611.02831.
    """
    require_flint("certify")
    precision = checks.whole_number("precision", precision, least=_FIRST_BITS)
    from rlhfsim.certify.rounding import RELATIONS

    relation = RELATIONS.get(claim.kind)
    if relation is None:
        raise ValueError(
            f"claim {claim.name!r} is of kind {claim.kind!r}; known: {list(RELATIONS)}"
        )
    evaluate = _evaluator(claim, instance, sides)
    bits = _FIRST_BITS
    while True:
        with working_precision(bits):
            verdict = relation(*evaluate())
        if verdict != "undecided" or bits == precision:
            return verdict
        bits = min(2 * bits, precision)


def enclose_sides(
    claim: Claim[Any],
    instance: Any,
    *,
    sides: BallSides | None = None,
    precision: int = 128,
) -> Sides:
    """Return rigorous bounds on both sides of the claim; parameters as for `certify`."""
    require_flint("enclose_sides")
    precision = checks.whole_number("precision", precision, least=_FIRST_BITS)
    evaluate = _evaluator(claim, instance, sides)
    with working_precision(precision):
        from rlhfsim.certify.rounding import at_least, at_most

        left, right = evaluate()
        return Sides(at_most(left), at_least(left), at_most(right), at_least(right))


def _evaluator(
    claim: Claim[Any], instance: Any, sides: BallSides | None
) -> Callable[[], tuple[Ball, Ball]]:
    """Return the two sides as a function of nothing but the working precision."""
    from rlhfsim.certify.problem_sides import PROBLEM_SIDES
    from rlhfsim.certify.rationals import exact
    from rlhfsim.certify.regret_sides import REGRET_SIDES
    from rlhfsim.certify.sides import BALL_SIDES

    formulas = BALL_SIDES | PROBLEM_SIDES | REGRET_SIDES
    formula = sides or formulas.get(claim.name)
    if formula is None:
        known = ", ".join(repr(name) for name in formulas)
        raise ValueError(f"claim {claim.name!r} has no formula in ball arithmetic; known: {known}")
    numbers = exact(instance)
    with working_precision(_FIRST_BITS):
        balls = formula(numbers)
    for name, side, ball in zip(("left", "right"), (claim.left, claim.right), balls, strict=True):
        _same_number(claim, name, side(instance), ball, claim.resolution(instance))
    return lambda: formula(numbers)


def _same_number(
    claim: Claim[Any], name: str, floats: FloatArray, ball: Ball, resolution: FloatArray
) -> None:
    """Raise when the claim's side is another number: then the balls would judge another claim."""
    from rlhfsim.certify.rounding import as_ball

    got, want = float(np.ravel(floats)[0]), float(as_ball(ball).mid())
    overflowed = not math.isfinite(got) and abs(want) > _HUGE
    if got == want or overflowed or math.isnan(want):
        return
    rounding = _ABSOLUTE + _ROUNDINGS * float(np.ravel(resolution)[0])
    if not abs(got - want) <= _RELATIVE * abs(want) + rounding:
        raise ValueError(
            f"the {name} side of claim {claim.name!r} is {got!r}, its ball formula gives {want!r}; "
            "pass the formula of this claim as `sides`"
        )
