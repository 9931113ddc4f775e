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
from rlhfsim.claims import Claim, Pairs, Problems

if TYPE_CHECKING:
    from rlhfsim.certify.divergences import Ball
    from rlhfsim.certify.sides import BallSides

Verdict = Literal["certified", "refuted", "undecided"]

#: The two sides, in the working precision.
_Evaluate = Callable[[], "tuple[Ball, Ball]"]

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
        Of any kind; `left <= right` is decided for "upper", "tight" and "false", `left >= right`
        for "lower", `left = right` for "identity".
    instance : batch of one
    sides : function from the instance in exact numbers to (left, right), optional
        By default that of the claim's name in `FORMULAS`; for a claim without one, its own
        functions, run over balls (see `rlhfsim.certify.rerun`).  The numbers are compared with the
        claim's own.
    precision : int
        Most bits, at least 64.

    Returns
    -------
    "certified", "refuted", or "undecided"
        Undecided where both sides are equal, but irrational, or closer than the precision tells.

    Raises
    ------
    ValueError
        When there is no ball formula for the claim and its functions do not run over balls (a
        `NoFormulaError`), or the claim's own sides are other numbers;
        when the batch does not hold one instance, or its rows are not distributions.
    ImportError
        Without python-flint.

    Source: ball arithmetic, arXiv 1611.02831.
    """
    require_flint("certify")
    precision = checks.whole_number("precision", precision, least=_FIRST_BITS)
    from rlhfsim.certify.rounding import RELATIONS

    relation = RELATIONS[claim.kind]
    evaluate = _evaluator(claim, instance, sides)
    bits = _FIRST_BITS
    while True:
        verdict = _at_precision(bits, relation, evaluate)
        if verdict != "undecided" or bits == precision:
            return verdict
        bits = min(2 * bits, precision)


def _at_precision(bits: int, relation: Callable[..., Verdict], evaluate: _Evaluate) -> Verdict:
    from rlhfsim.certify.numbers import UndecidedError

    with working_precision(bits):
        try:
            return relation(*evaluate())
        except UndecidedError:
            return "undecided"


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


def _evaluator(claim: Claim[Any], instance: Any, sides: BallSides | None) -> _Evaluate:
    """Return the two sides as a function of nothing but the working precision."""
    from rlhfsim.certify.formulas import FORMULAS
    from rlhfsim.certify.generic import over_numbers, own_sides
    from rlhfsim.certify.rationals import exact, require_one

    require_one(instance)
    formula = sides or FORMULAS.get(claim.name)
    # Formulas for pairs and problems take plain fractions; whatever else, batches of numbers.
    by_hand = formula is not None and isinstance(instance, Pairs | Problems)
    numbers = exact(instance) if by_hand else over_numbers(instance)
    formula = own_sides(claim) if formula is None else formula
    compared = False

    def evaluate() -> tuple[Ball, Ball]:
        nonlocal compared
        found = formula(numbers)
        if not compared:
            for name, side, ball in zip(
                ("left", "right"), (claim.left, claim.right), found, strict=True
            ):
                _same_number(claim, name, side(instance), ball, claim.resolution(instance))
            compared = True
        return found

    return evaluate


def _same_number(
    claim: Claim[Any], name: str, floats: FloatArray, ball: Ball, resolution: FloatArray
) -> None:
    """Raise when the claim's side is another number: then the balls would judge another claim."""
    from rlhfsim.certify.rounding import as_ball, at_least, at_most

    got, want = float(np.ravel(floats)[0]), float(as_ball(ball).mid())
    low, high = at_most(ball), at_least(ball)
    overflowed = not math.isfinite(got) and abs(want) > _HUGE
    if low <= got <= high or overflowed or math.isnan(want):
        return
    rounding = _ABSOLUTE + _ROUNDINGS * float(np.ravel(resolution)[0])
    if not max(low - got, got - high) <= _RELATIVE * abs(want) + rounding:
        raise ValueError(
            f"the {name} side of claim {claim.name!r} is {got!r}, its ball formula gives {want!r}; "
            "pass the formula of this claim as `sides`"
        )
