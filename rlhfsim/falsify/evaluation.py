"""Evaluating claims on many candidates at once, with a count and a deadline."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.claims.base import Claim, Instances

Batch = TypeVar("Batch", bound=Instances)

#: Logarithms of ratios stay within this, so that 0 and infinity can be ranked.
LARGEST_SCORE = 745.0

#: What a claim raises at an instance it cannot be evaluated at, such as one with too few responses.
REFUSALS = (ValueError, ArithmeticError, IndexError)


def arrays_of(batch: object) -> dict[str, Any]:
    """Return the arrays of a batch by name; each has the instances on its leading axis."""
    return {f.name: getattr(batch, f.name) for f in fields(batch) if f.init}  # type: ignore[arg-type]


def rebuilt(batch: Batch, arrays: dict[str, Any]) -> Batch:
    """Return a batch of the same class with these arrays."""
    return type(batch)(**arrays)


def rows(batch: Batch, index: IntArray | BoolArray | slice) -> Batch:
    """Return the instances at `index`, which may repeat some."""
    return rebuilt(batch, {name: array[index] for name, array in arrays_of(batch).items()})


def joined(batches: list[Batch]) -> Batch:
    """Return one batch with the instances of all, whose shapes must be the same."""
    parts = [arrays_of(batch) for batch in batches]
    return rebuilt(
        batches[0], {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    )


def shapes(batch: object) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of one instance's arrays."""
    return tuple(array.shape[1:] for array in arrays_of(batch).values())


class Evaluator:
    """Ratios of one claim, counted.

    Parameters
    ----------
    claim : Claim
    budget : integer
        Instances that may be evaluated before `exhausted` holds.
    seconds : number, optional
        Time after which `exhausted` holds as well; results then depend on the machine.
    """

    def __init__(self, claim: Claim[Any], budget: int, seconds: float | None = None) -> None:
        self.claim = claim
        self.evaluations = 0
        #: How many of them had no ratio, those left out that the family calls invalid.
        self.without_ratio = 0
        #: Why the last instance without a ratio has none, and what was raised there, if anything.
        self.reason = ""
        self.error: Exception | None = None
        self.allow(budget, seconds)

    def allow(self, budget: int, seconds: float | None) -> None:
        """Set what may be used from here on."""
        self.budget = budget
        self._last = self.evaluations + budget
        self._deadline = None if seconds is None else time.monotonic() + seconds

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def exhausted(self) -> bool:
        """Whether the evaluations or the time are used up."""
        return self.evaluations >= self._last or self.late

    def ratios(self, batch: Any) -> FloatArray:
        """Return the ratio of each instance; nan where a side is not a number or cannot be had."""
        self.evaluations += len(batch)
        return self._ratios(batch)

    def scores(self, batch: Any) -> FloatArray:
        """Return the logarithm of each ratio, within `LARGEST_SCORE`; -inf where there is none."""
        return score(self.ratios(batch))

    def _ratios(self, batch: Any) -> FloatArray:
        try:
            # Far out, sides may overflow; what comes of it is judged by its value.
            with np.errstate(all="ignore"):
                ratio = np.array(self.claim.ratio(batch), dtype=np.float64)
        except REFUSALS as error:
            # One instance that a solver or a check refuses must not hide the others.
            if len(batch) == 1:
                self.without_ratio += int(_allowed(batch).sum())
                self.reason, self.error = f"{type(error).__name__}: {error}", error
                return np.array([np.nan])
            half = len(batch) // 2
            parts = rows(batch, slice(0, half)), rows(batch, slice(half, None))
            return np.concatenate([self._ratios(part) for part in parts])
        infinite = np.nonzero(np.isposinf(ratio))[0]
        if len(infinite):
            # `ratio` counts a side that is not a number as a violation; a search must not.
            left, right = sides(self.claim, rows(batch, infinite))
            undefined = {"left": np.isnan(left), "right": np.isnan(right)}
            for side, where in undefined.items():
                if where.any():
                    self.reason, self.error = f"{side} is not a number", None
            ratio[infinite[undefined["left"] | undefined["right"]]] = np.nan
        allowed = _allowed(batch)
        self.without_ratio += int((np.isnan(ratio) & allowed).sum())
        if not allowed.any():
            self.reason, self.error = "`valid` of its family refuses them", None
        return np.where(allowed, ratio, np.nan)


def _allowed(batch: Any) -> BoolArray:
    """Return which instances the family calls valid."""
    valid = getattr(batch, "valid", None)
    return np.asarray(np.ones(len(batch)) if valid is None else valid(), dtype=bool)


def sides(claim: Claim[Any], batch: Any) -> tuple[FloatArray, FloatArray]:
    """Return both sides of the claim, one number per instance each."""
    with np.errstate(all="ignore"):
        left, right = np.broadcast_arrays(claim.left(batch), claim.right(batch))
    return left, right


def score(ratio: FloatArray) -> FloatArray:
    """Return the logarithm of ratios, within `LARGEST_SCORE`; -inf where a ratio is nan."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.clip(np.log(ratio), -LARGEST_SCORE, LARGEST_SCORE)
    return np.where(np.isnan(logarithm), -np.inf, logarithm)
