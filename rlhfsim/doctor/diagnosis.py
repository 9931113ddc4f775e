"""Comparing a user's loss with the golden numbers, and naming what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlhfsim import golden
from rlhfsim.doctor import calling
from rlhfsim.doctor.faults import FAULTS, FINISHES, Fault, right
from rlhfsim.doctor.outcome import (
    Outcome,
    Tolerance,
    agrees,
    distance,
    golden_outcome,
    gradient_agrees,
    largest_difference,
    loss_agrees,
)
from rlhfsim.golden import Case

#: By the bytes of a number.  Rounding costs less; no fault of the catalogue is closer.
_TOLERANCES = {8: Tolerance(1e-9, 1e-11), 4: Tolerance(1e-4, 1e-6)}
#: Derivatives by differences in double precision: their step, and the rounding of the loss.
_DIFFERENCES, _ROUNDING = Tolerance(1e-6, 1e-8), 1e-11
#: How close a fault's own formula must be, which other programs compute in other ways.
_MATCH = Tolerance(1e-5, 1e-8)

UNREDUCED = Fault(
    "one loss per comparison",
    "The function returns one loss for each row; it must return their mean.",
    lambda case: right(case),
)
UNSTABLE = Fault(
    "unstable for large log ratios",
    "The loss is right for moderate log ratios and wrong for large ones: exp overflows or the "
    "argument of a logarithm rounds to 0. Use logsigmoid (softplus) of the difference.",
    lambda case: None,
)
CLIPPED = Fault(
    "clipped log ratio",
    "The loss is right for moderate log ratios and finite, but wrong, for large ones: a log ratio, "
    "an exponent, the difference or the argument of the logarithm is cut off or bounded, at none "
    "of the usual values.",
    lambda case: None,
)


class Line(NamedTuple):
    """One case: what the function returned, and what it should have."""

    batch: str
    precision: str
    beta: float
    settings: str
    loss: float
    expected: float
    #: Largest difference of a derivative; None where there is none to compare.
    gradient_error: float | None
    agrees: bool


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Parameters
    ----------
    method : str
    healthy : bool
        Whether the function agrees on every case that was run.
    fault : Fault or None
        The known fault: exactly (`exact`) what the function computes, or the nearest one.
    exact : bool
    alternatives : tuple of str
        Names of other faults that give the same numbers on every case that was run.
    backend : str
        "torch" or "numpy".
    table : tuple of Line
        One line per case and precision.
    notes : tuple of str
        What was not compared, and why.
    """

    method: str
    healthy: bool
    fault: Fault | None
    exact: bool
    alternatives: tuple[str, ...]
    backend: str
    table: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The finding in one sentence or two."""
        if self.healthy:
            return f"agrees with {self.method} on all {len(self.table)} cases"
        if self.fault is None:
            first = next(line for line in self.table if not line.agrees)
            settings = f", {first.settings}" if first.settings else ""
            return (
                f"no known fault; first disagreement on batch {first.batch!r} in "
                f"{first.precision} (beta {first.beta:g}{settings}): loss {first.loss:.9g}, "
                f"expected {first.expected:.9g}; {_gradient_text(first)}"
            )
        kind = "fault" if self.exact else "nearest known fault"
        also = f" (the same numbers: {'; '.join(self.alternatives)})" if self.alternatives else ""
        return f"{kind}: {self.fault.name}. {self.fault.explanation}{also}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values that JSON can hold; numbers not finite as text."""
        fault = self.fault and {"name": self.fault.name, "explanation": self.fault.explanation}
        return {
            "method": self.method,
            "healthy": self.healthy,
            "verdict": self.verdict,
            "fault": fault,
            "exact": self.exact,
            "alternatives": list(self.alternatives),
            "backend": self.backend,
            "notes": list(self.notes),
            "table": [
                {name: _plain(value) for name, value in line._asdict().items()}
                for line in self.table
            ],
        }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class _Trial(NamedTuple):
    case: Case
    answer: calling.Answer
    agrees: bool


def diagnose(function: Callable[..., Any], method: str) -> Diagnosis:
    """Return whether a loss is the named method, or which known fault it has.

    The function is run on every golden case of the method, in double and single precision:
    with torch tensors, whose derivatives come from autograd, or with numpy arrays, whose
    derivatives come from differences in double precision.

    Parameters
    ----------
    function : callable
        `(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)`
        to the mean loss, as trainers have it.  Settings of the method (`golden.method(name)` lists
        them) are passed by keyword if the function takes them; otherwise it must have their
        defaults.
    method : str
        One of `golden.methods()`.

    Returns
    -------
    Diagnosis

    Raises
    ------
    ValueError
        If there is no such method, or the function cannot be run or returns no number.
    """
    described = golden.method(method)
    if not callable(function):
        raise ValueError(f"function is {function!r:.80}; it must be callable")
    given = calling.arguments(function, described)
    cases = [case for case in golden.cases(method) if given.takes(case, described)]
    backend = calling.choose_backend(function, given, cases[0])
    differences = not described.stops_gradient
    double, single = (
        [_trial(function, given, case, backend, precision, differences) for case in cases]
        for precision in (8, 4)
    )
    trials = [*double, *(trial for trial in single if _in_single_range(trial.case))]
    per_row = any(trial.answer.per_row for trial in trials)
    healthy = not per_row and all(trial.agrees for trial in trials)
    found = _Found(None, True, ()) if healthy else _find(double, trials, per_row)
    return Diagnosis(
        method=method,
        healthy=healthy,
        fault=found.fault,
        exact=found.exact,
        alternatives=found.alternatives,
        backend=backend,
        table=tuple(_line(trial) for trial in trials),
        notes=tuple(_notes(described, given, double, backend)),
    )


def _in_single_range(case: Case) -> bool:
    """Return whether a case is meant for single precision: e^u of its log ratios is a float32."""
    return case.batch != "long"


def _trial(
    function: Callable[..., Any],
    given: calling.Arguments,
    case: Case,
    backend: str,
    precision: int,
    differences: bool,
) -> _Trial:
    answer = calling.answer(function, given, case, backend, precision, differences)
    return _Trial(case, answer, _right(answer, case, precision, backend))


def _right(answer: calling.Answer, case: Case, precision: int, backend: str) -> bool:
    truth, tolerance = golden_outcome(case), _TOLERANCES[min(answer.precision, precision)]
    slack = tolerance
    if backend == "numpy":
        slack = _DIFFERENCES._replace(absolute=_DIFFERENCES.absolute + _ROUNDING * abs(truth.loss))
    return loss_agrees(answer.outcome, truth, tolerance) and gradient_agrees(
        answer.outcome, truth, slack
    )


class _Found(NamedTuple):
    fault: Fault | None
    exact: bool
    alternatives: tuple[str, ...]


#: Only what it does not do is known: overflow.
_CLIPPED = _Found(CLIPPED, False, ())


def _find(double: Sequence[_Trial], trials: Sequence[_Trial], per_row: bool) -> _Found:
    """Return the fault of a loss that disagrees somewhere."""
    if all(trial.agrees for trial in trials):
        return _Found(UNREDUCED, True, ())
    found = _Found(None, False, ())
    if not all(trial.agrees for trial in double):
        found = _in_catalogue(double)
    if found.fault is None and _only_extremes(trials):
        found = _Found(UNSTABLE, True, ()) if _unstable(double, trials) else _CLIPPED
    if found.fault is None:
        found = _nearest(double)
    return _and_unreduced(found) if per_row and found.fault is not None else found


def _and_unreduced(found: _Found) -> _Found:
    assert found.fault is not None
    fault = Fault(
        f"{found.fault.name}; {UNREDUCED.name}",
        f"{found.fault.explanation} {UNREDUCED.explanation}",
        found.fault.outcome,
    )
    return found._replace(fault=fault)


def _unstable(double: Sequence[_Trial], trials: Sequence[_Trial]) -> bool:
    """Return whether a number overflows, or only single precision is too short."""
    return all(trial.agrees for trial in double) or not all(
        trial.answer.outcome.finite for trial in trials
    )


def _only_extremes(trials: Sequence[_Trial]) -> bool:
    """Return whether the moderate cases agree, all of them, so that only range is at fault."""
    return all(trial.agrees for trial in trials if trial.case.batch not in calling.EXTREME)


def _in_catalogue(double: Sequence[_Trial]) -> _Found:
    """Return a fault that gives exactly the function's numbers, or two faults that do."""
    matching = [fault for fault in FAULTS if _explains(fault, double)]
    if not matching:
        matching = [fault for fault in _pairs() if _explains(fault, double)][:1]
    if not matching:
        return _Found(None, False, ())
    return _Found(matching[0], True, tuple(fault.name for fault in matching[1:]))


def _pairs() -> Iterator[Fault]:
    names = {finish.name for finish in FINISHES}
    for fault in FAULTS:
        if fault.name not in names:
            yield from (finish.after(fault) for finish in FINISHES)


def _explains(fault: Fault, double: Sequence[_Trial]) -> bool:
    """Return whether a fault gives the function's numbers on every case.

    Cases on which either overflows say nothing; more than half of them must be left.  A fault that
    changes nothing on these cases (a setting is ignored that the function does not take) explains
    nothing.
    """
    compared, changes = 0, False
    for trial in double:
        predicted = fault.outcome(trial.case)
        if predicted is None:
            return False
        if predicted.finite and trial.answer.outcome.finite:
            if not agrees(trial.answer.outcome, predicted, _slack(predicted)):
                return False
            compared += 1
            changes |= _differs(trial.case, predicted)
    return changes and 2 * compared > len(double)


def _differs(case: Case, predicted: Outcome) -> bool:
    """Return whether a fault shows on a case."""
    return not agrees(predicted, golden_outcome(case), _slack(predicted))


def _slack(predicted: Outcome) -> Tolerance:
    return _MATCH._replace(absolute=_MATCH.absolute + _ROUNDING * abs(predicted.loss))


def _nearest(double: Sequence[_Trial]) -> _Found:
    """Return the fault that explains most cases, if it explains half, and more than the truth.

    On some case that it explains it must show.
    """
    least = max(len(double) / 2, sum(trial.agrees for trial in double) + 1)
    candidates = []
    for fault in FAULTS:
        predicted = [fault.outcome(trial.case) for trial in double]
        known = [outcome for outcome in predicted if outcome is not None]
        if len(known) < len(predicted):
            continue
        pairs = list(zip(double, known, strict=True))
        explained = [(t, o) for t, o in pairs if agrees(t.answer.outcome, o, _slack(o))]
        if len(explained) >= least and any(_differs(t.case, o) for t, o in explained):
            far = sum(distance(t.answer.outcome, o) for t, o in pairs)
            candidates.append((len(explained), -far, fault))
    best = max(candidates, key=lambda candidate: candidate[:2], default=None)
    return _Found(best[2] if best else None, False, ())


def _line(trial: _Trial) -> Line:
    case, outcome = trial.case, trial.answer.outcome
    truth = golden_outcome(case)
    return Line(
        batch=case.batch,
        precision="float64" if trial.answer.precision == 8 else "float32",
        beta=case.beta,
        settings=", ".join(f"{name} {value:g}" for name, value in case.settings.items()),
        loss=outcome.loss,
        expected=truth.loss,
        gradient_error=largest_difference(outcome, truth),
        agrees=trial.agrees,
    )


def _gradient_text(line: Line) -> str:
    if line.gradient_error is None:
        return "derivatives not compared"
    return f"derivatives off by up to {line.gradient_error:.3g}"


def _notes(
    method: golden.Method, given: calling.Arguments, double: Sequence[_Trial], backend: str
) -> Iterator[str]:
    """Yield what the comparison leaves out."""
    fixed = [
        f"{name} = {value:g}"
        for name, value in method.settings.items()
        if name not in given.settings
    ]
    if fixed:
        yield f"not an argument of the function, taken as its constant: {', '.join(fixed)}"
    if any(trial.answer.precision < 8 for trial in double):
        yield "the function returns single precision, whatever it is given"
    if backend == "numpy" and method.stops_gradient:
        yield "derivatives are not compared: differences see what autograd would not"
    elif backend == "numpy":
        yield "derivatives are differences of the loss, in double precision only"
