"""What a fault is, and the ways to write one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlhfsim.doctor.anatomy import Anatomy, anatomy
from rlhfsim.doctor.kto import PairKTO
from rlhfsim.doctor.outcome import Outcome
from rlhfsim.golden import Case


@dataclass(frozen=True)
class Fault:
    """A known way to get a loss wrong.

    Parameters
    ----------
    name : str
    explanation : str
        What is wrong, and what is right.
    outcome : callable
        From a case to what a loss with this fault says about it, by its formula; None for a method
        that cannot have the fault.
    """

    name: str
    explanation: str
    outcome: Callable[[Case], Outcome | None]


@dataclass(frozen=True)
class Finish:
    """A fault in what is done with the losses of the rows, which can come on top of another.

    Parameters
    ----------
    name, explanation : str
    apply : callable
        From an outcome and its case to the outcome with this fault.
    """

    name: str
    explanation: str
    apply: Callable[[Outcome, Case], Outcome]

    @property
    def fault(self) -> Fault:
        """The fault alone."""
        return Fault(self.name, self.explanation, lambda case: self.apply(right(case), case))

    def after(self, fault: Fault) -> Fault:
        """Return both faults as one."""

        def outcome(case: Case) -> Outcome | None:
            before = fault.outcome(case)
            return None if before is None else self.apply(before, case)

        return Fault(
            f"{fault.name}; {self.name}", f"{fault.explanation} {self.explanation}", outcome
        )


def right(case: Case) -> Outcome:
    """Return what the method itself says about a case."""
    pieces = anatomy(case)
    return PairKTO().outcome(case) if pieces is None else pieces.outcome(case)


def changed(
    change: Callable[[Anatomy, Case], Anatomy | None], *methods: str
) -> Callable[[Case], Outcome | None]:
    """Return the outcome of a direct loss with a piece exchanged, for all methods or those named.

    `change` returns None for a loss that it does not concern.
    """

    def outcome(case: Case) -> Outcome | None:
        pieces = anatomy(case)
        if pieces is None or (methods and case.method not in methods):
            return None
        other = change(pieces, case)
        return None if other is None else other.outcome(case)

    return outcome
