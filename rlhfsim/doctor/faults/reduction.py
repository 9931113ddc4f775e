"""Faults after the losses of the rows: reduction, sign, autograd."""

from __future__ import annotations

import math

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.doctor.faults.base import Finish
from rlhfsim.doctor.outcome import Outcome
from rlhfsim.golden import Case


def _without(outcome: Outcome, chosen: bool, rejected: bool) -> Outcome:
    """Return an outcome whose derivatives are lost."""
    if outcome.gradient is None:
        return outcome

    def side(lost: bool, values: FloatArray) -> FloatArray:
        return np.zeros_like(values) if lost else values

    first, second = outcome.gradient
    return Outcome(outcome.loss, (side(chosen, first), side(rejected, second)))


def _sum(outcome: Outcome, case: Case) -> Outcome:
    return outcome.times(case.size)


def _over_fewer(outcome: Outcome, case: Case) -> Outcome:
    """Return the sum over n - 1, which is nothing for a single row."""
    if case.size == 1:
        lost = np.full(1, np.nan)
        return Outcome(math.nan, None if outcome.gradient is None else (lost, lost))
    return outcome.times(case.size / (case.size - 1))


FINISHES: tuple[Finish, ...] = (
    Finish("sum instead of mean", "The losses are added up; trainers take their mean.", _sum),
    Finish(
        "wrong sign",
        "The loss is negated, so that minimising it makes rejected responses likely.",
        lambda outcome, case: outcome.times(-1.0),
    ),
    Finish(
        "detached policy",
        "The loss has no gradient in the policy: detach(), no_grad(), item() or a new tensor.",
        lambda outcome, case: _without(outcome, True, True),
    ),
    Finish(
        "detached rejected responses",
        "No gradient reaches the rejected responses: their log-probabilities are detached.",
        lambda outcome, case: _without(outcome, False, True),
    ),
    Finish(
        "detached chosen responses",
        "No gradient reaches the chosen responses: their log-probabilities are detached.",
        lambda outcome, case: _without(outcome, True, False),
    ),
    Finish(
        "division by n - 1",
        "The sum of the losses is divided by n - 1, as a variance is; their mean divides by n.",
        _over_fewer,
    ),
    Finish(
        "half the mean",
        "The loss is half of what it should be: the mean over 2n responses instead of n pairs, or "
        "a factor 1/2.",
        lambda outcome, case: outcome.times(0.5),
    ),
    Finish(
        "twice the mean",
        "The loss is twice what it should be: the mean over n pairs of what is a mean over 2n "
        "responses, or a factor 1/2 that is missing.",
        lambda outcome, case: outcome.times(2.0),
    ),
    Finish(
        "logarithm to base 2",
        "The loss is in bits; logarithms are natural.",
        lambda outcome, case: outcome.times(1.0 / math.log(2.0)),
    ),
)
