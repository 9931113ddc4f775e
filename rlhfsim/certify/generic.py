"""The sides of any claim in ball arithmetic: its own functions, run over arrays of `Number`s."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from rlhfsim import checks
from rlhfsim.certify.arrays import balls, whole
from rlhfsim.certify.divergences import Ball
from rlhfsim.certify.numbers import NoFormulaError, Number, UndecidedError
from rlhfsim.certify.rationals import distribution
from rlhfsim.certify.rerun import over_balls
from rlhfsim.certify.sides import BallSides
from rlhfsim.claims.base import Claim

#: Kinds of a `parametrization` whose last axis holds distributions.
_ROWS = ("simplex", "interior")


def own_sides(claim: Claim[Any]) -> BallSides:
    """Return the claim's own sides as a function from an instance of `over_numbers` to balls."""
    functions = over_balls(claim.left), over_balls(claim.right)

    def sides(instance: Any) -> tuple[Ball, Ball]:
        left, right = (_one(claim, function, instance) for function in functions)
        return left, right

    return sides


def _one(claim: Claim[Any], function: Any, instance: Any) -> Ball:
    try:
        with np.errstate(all="ignore"):
            found = np.ravel(np.asarray(function(instance), dtype=object))
    except UndecidedError:
        raise
    except Exception as error:
        raise NoFormulaError(
            f"claim {claim.name!r} has no formula in ball arithmetic, and its own functions do not "
            f"run in it: {type(error).__name__}: {error}"
        ) from error
    return Number.of(found[0]).value


def over_numbers(instance: Any) -> Any:
    """Return a batch of one with numbers in place of floats.

    Rows that the family calls distributions, or that are some where it says nothing of an array,
    are divided by their sum exactly.  Whole numbers and booleans stay what they are.
    """
    kinds = getattr(type(instance), "parametrization", {})
    arrays = {}
    for field in fields(instance):
        if field.init:
            array = np.asarray(getattr(instance, field.name))
            arrays[field.name] = _number_array(field.name, array, kinds.get(field.name))
    return type(instance)(**arrays)


def _number_array(name: str, array: Any, kind: str | None) -> Any:
    if array.dtype.kind != "f":
        return whole(array) if array.dtype.kind in "bi" else array
    if kind in _ROWS:
        checks.as_distributions(name, array)
    elif kind is not None or not _are_distributions(array):
        return balls(array)
    rows = array.reshape(-1, array.shape[-1])
    numbers = [[Number(value) for value in distribution(row)] for row in rows]
    filled = np.empty(rows.shape, dtype=object)
    filled[...] = numbers
    return balls(filled.reshape(array.shape))


def _are_distributions(array: Any) -> bool:
    if array.ndim < 2 or not (array >= 0).all():
        return False
    return bool((np.abs(array.sum(axis=-1) - 1.0) <= checks.ROW_SUM_TOLERANCE).all())
