"""Whether a violation is one, and not rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.checking import TOLERANCE
from rlhfsim.falsify.coordinates import ROWS, Kind
from rlhfsim.falsify.evaluation import REFUSALS, Evaluator, arrays_of, rebuilt, rows, sides

#: What shows a violation.
Certificate = Literal["ball arithmetic", "stable in floats", "none"]


class Shown(NamedTuple):
    """What shows a violation, and why it is no proof where it is none."""

    certificate: Certificate
    reason: str = ""


#: Copies of an instance, and how far their numbers are moved: well beyond rounding.
_COPIES, _MOVE = 64, 1e-12

#: A violation stands out when it is this many times its spread over the copies, ...
_LEAST_MARGIN = 8.0
#: ... and more than this share of the larger side.
_LEAST_SHARE = 1e-9

#: Most bits of ball arithmetic: an excess of 1e-9 needs few, unless a side cancels.
_BITS = 1024


def certificate_of(
    evaluator: Evaluator, instance: Any, kinds: Mapping[str, Kind], rng: np.random.Generator
) -> Shown:
    """Return what shows that the claim is violated at the instance.

    Ball arithmetic proves it.  Where it has no formula for the claim, or cannot decide, the
    instance and 64 copies, every number of which is moved by about 1e-12 of itself, may all violate
    the claim, by much more than the copies differ: that tells a violation from rounding that moves
    with the numbers, and is no proof.
    """
    verdict, reason = _balls(evaluator.claim, instance)
    if verdict == "refuted":
        return Shown("ball arithmetic")
    if verdict == "certified":
        return Shown("none", "in ball arithmetic the claim holds here")
    stable = _is_stable(evaluator, instance, kinds, rng)
    return Shown("stable in floats" if stable else "none", reason)


def _is_stable(
    evaluator: Evaluator, instance: Any, kinds: Mapping[str, Kind], rng: np.random.Generator
) -> bool:
    copies = _copies(instance, kinds, rng)
    try:
        claim: Claim[Any] = evaluator.claim
        violated = bool((evaluator.ratios(copies) > 1.0 + TOLERANCE).all())
        left, right = sides(claim, copies)
    except REFUSALS:
        return False
    return violated and _stands_out(claim.kind, left, right)


def _copies(instance: Any, kinds: Mapping[str, Kind], rng: np.random.Generator) -> Any:
    """Return the instance, and copies with every number moved a little."""
    copies = rows(instance, np.zeros(_COPIES + 1, dtype=np.int64))
    arrays = arrays_of(copies)
    for name, kind in kinds.items():
        noise = rng.uniform(-_MOVE, _MOVE, size=arrays[name].shape)
        noise[0] = 0.0
        moved = arrays[name] * (1.0 + noise)
        if kind in ROWS:
            moved[1:] /= moved[1:].sum(axis=-1, keepdims=True)
        arrays[name] = np.minimum(moved, 1.0) if kind == "unit" else moved
    moved_copies = rebuilt(copies, arrays)
    valid = getattr(moved_copies, "valid", None)
    return moved_copies if valid is None else rows(moved_copies, valid())


def _stands_out(kind: str, left: FloatArray, right: FloatArray) -> bool:
    """Return whether the excess of one side over the other is more than its spread."""
    if np.isnan(left).any() or np.isnan(right).any():
        return False
    excess = right - left if kind == "lower" else left - right
    if kind == "identity":
        excess = excess * np.sign(excess[0])
    if not np.isfinite(excess).all():
        # Between sides that should be equal, an infinite one is as likely to be an overflow.
        return kind != "identity" and bool(np.isposinf(excess).all())
    size = np.maximum(np.abs(left), np.abs(right))
    clear = bool((excess > _LEAST_SHARE * size).all())
    # Between quartiles: a move that breaks a tie may change one side by a jump, and prove the same.
    low, high = np.quantile(excess, [0.25, 0.75])
    return clear and bool(excess.min() > _LEAST_MARGIN * (high - low))


def _balls(claim: Claim[Any], instance: Any) -> tuple[str, str]:
    """Return the verdict of ball arithmetic, and why it is "undecided" where it is."""
    try:
        from rlhfsim.certify import certify

        verdict = certify(claim, instance, precision=_BITS)
    except (ImportError, ValueError, ArithmeticError) as error:
        return "undecided", str(error)
    undecided = f"{_BITS} bits do not tell which side is larger"
    return verdict, undecided if verdict == "undecided" else ""
