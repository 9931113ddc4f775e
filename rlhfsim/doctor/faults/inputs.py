"""Faults in what the loss is fed with: columns and beta."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from rlhfsim.doctor.anatomy import anatomy
from rlhfsim.doctor.faults.base import Fault, changed, right
from rlhfsim.doctor.outcome import Outcome
from rlhfsim.golden import COLUMNS, Case

_PC, _PR, _RC, _RR = COLUMNS
_SWAP = {
    _PC: _PR,
    _RC: _RR,
    "chosen_rewards": "rejected_rewards",
    "chosen_weights": "rejected_weights",
}


def _with_columns(case: Case, source: Mapping[str, str]) -> Case:
    """Return the case with columns taken from others."""
    columns = {name: case.columns[source.get(name, name)] for name in case.columns}
    return replace(case, columns=MappingProxyType(columns))


def _swapped(case: Case) -> Outcome:
    pairs = _SWAP | {second: first for first, second in _SWAP.items()}
    outcome = right(_with_columns(case, pairs))
    return _turned(outcome, 1.0)


def _turned(outcome: Outcome, sign: float) -> Outcome:
    if outcome.gradient is None:
        return outcome
    chosen, rejected = outcome.gradient
    return Outcome(outcome.loss, (sign * rejected, sign * chosen))


def _exchanged(case: Case) -> Outcome | None:
    """Return `log p - log pi` for every log ratio: the derivatives change their sign."""
    if not _has_reference(case) or _imitates(case):
        return None
    pairs = {_PC: _RC, _RC: _PC, _PR: _RR, _RR: _PR}
    outcome = right(_with_columns(case, pairs))
    if outcome.gradient is None:
        return outcome
    chosen, rejected = outcome.gradient
    return Outcome(outcome.loss, (-chosen, -rejected))


def _own_reference(detached: bool) -> Callable[[Case], Outcome | None]:
    def outcome(case: Case) -> Outcome | None:
        if not _has_reference(case):
            return None
        result = right(_with_columns(case, {_RC: _PC, _RR: _PR}))
        if detached or result.gradient is None:
            return result
        return Outcome(result.loss, (np.zeros(case.size), np.zeros(case.size)))

    return outcome


def _has_reference(case: Case) -> bool:
    pieces = anatomy(case)
    return pieces is None or pieces.reference != 0


def _imitates(case: Case) -> bool:
    pieces = anatomy(case)
    return pieces is not None and pieces.imitation != 0


def _references_swapped(case: Case) -> Outcome | None:
    if not _has_reference(case):
        return None
    return right(_with_columns(case, {_RC: _RR, _RR: _RC}))


def _without_reference(*names: str) -> Callable[[Case], Outcome | None]:
    def outcome(case: Case) -> Outcome | None:
        if not _has_reference(case):
            return None
        columns = dict(case.columns) | dict.fromkeys(names, (0.0,) * case.size)
        return right(replace(case, columns=MappingProxyType(columns)))

    return outcome


def _reference_times(count: float) -> Callable[[Case], Outcome | None]:
    def outcome(case: Case) -> Outcome | None:
        if not _has_reference(case):
            return None
        columns = dict(case.columns)
        for name in (_RC, _RR):
            columns[name] = tuple(count * value for value in case.columns[name])
        return right(replace(case, columns=MappingProxyType(columns)))

    return outcome


def _with_beta(change: Callable[[float], float]) -> Callable[[Case], Outcome | None]:
    return lambda case: right(replace(case, beta=change(case.beta)))


def _beta_outside(case: Case) -> Outcome | None:
    pieces = anatomy(case)
    return right(replace(case, beta=1.0)).times(case.beta) if _logistic(case, pieces) else None


def _logistic(case: Case, pieces: object) -> bool:
    return pieces is not None and case.method not in ("ipo", "hinge", "slic", "rebel")


FAULTS: tuple[Fault, ...] = (
    Fault(
        "chosen and rejected swapped",
        "The chosen response is treated as the rejected one and the other way round.",
        _swapped,
    ),
    Fault(
        "sign of the margin",
        "The difference between chosen and rejected has the wrong sign inside the loss.",
        changed(
            lambda a, case: replace(
                a,
                outer=a.outer._replace(
                    value=lambda h: a.outer.value(-h), slope=lambda h: -a.outer.slope(-h)
                ),
            )
        ),
    ),
    Fault(
        "references swapped",
        "The reference's log-probabilities of chosen and rejected are exchanged.",
        _references_swapped,
    ),
    Fault(
        "reference ignored",
        "log pi stands where log pi - log p should: the reference is not subtracted.",
        _without_reference(_RC, _RR),
    ),
    Fault(
        "reference of the chosen response ignored",
        "The reference is subtracted for the rejected response only.",
        _without_reference(_RC),
    ),
    Fault(
        "reference of the rejected response ignored",
        "The reference is subtracted for the chosen response only.",
        _without_reference(_RR),
    ),
    Fault(
        "policy and reference exchanged",
        "The log ratio is log p - log pi; it must be log pi - log p.",
        _exchanged,
    ),
    Fault(
        "reference counted twice",
        "The reference is subtracted twice.",
        _reference_times(2.0),
    ),
    Fault(
        "reference added",
        "The reference is added to the policy's log-probabilities instead of subtracted.",
        _reference_times(-1.0),
    ),
    Fault(
        "reference made from the policy, detached",
        "The reference is the policy itself: every log ratio is 0, though gradients flow.",
        _own_reference(True),
    ),
    Fault(
        "reference made from the policy",
        "The reference is the policy itself: every log ratio is 0, and so is every gradient.",
        _own_reference(False),
    ),
    Fault(
        "beta missing",
        "beta is not used; the loss is the one at beta = 1.",
        _with_beta(lambda beta: 1.0),
    ),
    Fault(
        "beta outside of the sigmoid",
        "beta multiplies the loss instead of the margin.",
        _beta_outside,
    ),
    Fault("beta applied twice", "beta^2 stands for beta.", _with_beta(lambda beta: beta * beta)),
    Fault("beta inverted", "1/beta stands for beta.", _with_beta(lambda beta: 1.0 / beta)),
    Fault(
        "beta hard-coded",
        "beta is 0.1 whatever is passed: the argument is ignored.",
        _with_beta(lambda beta: 0.1),
    ),
    Fault("beta halved", "beta/2 stands for beta.", _with_beta(lambda beta: 0.5 * beta)),
    Fault("beta doubled", "2 beta stands for beta.", _with_beta(lambda beta: 2.0 * beta)),
)
