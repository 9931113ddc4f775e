"""What a loss says about one case: its mean over the batch, and the derivatives of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.golden import Case


@dataclass(frozen=True)
class Outcome:
    """A mean loss, with its (n,) derivatives in the two columns of the policy, where known."""

    loss: float
    gradient: tuple[FloatArray, FloatArray] | None

    def times(self, factor: float) -> Outcome:
        """Return the outcome of the loss times a number."""
        if self.gradient is None:
            return Outcome(factor * self.loss, None)
        chosen, rejected = self.gradient
        return Outcome(factor * self.loss, (factor * chosen, factor * rejected))

    @property
    def finite(self) -> bool:
        """Whether every number is finite."""
        gradient = () if self.gradient is None else self.gradient
        return bool(np.isfinite(self.loss)) and all(np.isfinite(side).all() for side in gradient)


class Tolerance(NamedTuple):
    """Two numbers agree within `relative |b| + absolute`."""

    relative: float
    absolute: float


def golden_outcome(case: Case) -> Outcome:
    """Return what the golden file says."""
    gradient = np.array(case.gradient_chosen), np.array(case.gradient_rejected)
    return Outcome(case.loss, gradient)


def loss_agrees(first: Outcome, second: Outcome, tolerance: Tolerance) -> bool:
    """Return whether the losses agree; numbers that are not finite agree with nothing."""
    return _close(np.array(first.loss), np.array(second.loss), tolerance)


def gradient_agrees(first: Outcome, second: Outcome, tolerance: Tolerance) -> bool:
    """Return whether the derivatives agree, as far as both are known."""
    if first.gradient is None or second.gradient is None:
        return True
    pairs = zip(first.gradient, second.gradient, strict=True)
    return all(_close(one, other, tolerance) for one, other in pairs)


def agrees(first: Outcome, second: Outcome, tolerance: Tolerance) -> bool:
    """Return whether losses and derivatives agree."""
    return loss_agrees(first, second, tolerance) and gradient_agrees(first, second, tolerance)


def largest_difference(first: Outcome, second: Outcome) -> float | None:
    """Return the largest difference of the derivatives, None where they are unknown."""
    if first.gradient is None or second.gradient is None:
        return None
    pairs = zip(first.gradient, second.gradient, strict=True)
    with np.errstate(invalid="ignore"):
        return float(max(np.abs(one - other).max() for one, other in pairs))


def distance(first: Outcome, second: Outcome) -> float:
    """Return how far two outcomes are apart, between 0 and 1, whatever their sizes.

    The mean of `|a - b|/(|a| + |b|)` over the loss and, with the same weight, the derivatives.
    """
    loss = _relative(np.array([first.loss]), np.array([second.loss]))
    if first.gradient is None or second.gradient is None:
        return loss
    sides = [np.concatenate(outcome) for outcome in (first.gradient, second.gradient)]
    return 0.5 * (loss + _relative(*sides))


def _close(one: FloatArray, other: FloatArray, tolerance: Tolerance) -> bool:
    with np.errstate(invalid="ignore"):
        bound = tolerance.relative * np.abs(other) + tolerance.absolute
        return bool((np.isfinite(one) & np.isfinite(other) & (np.abs(one - other) <= bound)).all())


def _relative(one: FloatArray, other: FloatArray) -> float:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.abs(one - other) / (np.abs(one) + np.abs(other))
    ratio = np.where(one == other, 0.0, ratio)
    return float(np.where(np.isfinite(ratio), ratio, 1.0).mean())
