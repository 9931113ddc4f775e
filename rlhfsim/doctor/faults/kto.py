"""Faults of KTO."""

from __future__ import annotations

from collections.abc import Callable

from rlhfsim.doctor.faults.base import Fault
from rlhfsim.doctor.kto import PairKTO
from rlhfsim.doctor.outcome import Outcome
from rlhfsim.golden import Case


def _kto(pieces: PairKTO) -> Callable[[Case], Outcome | None]:
    return lambda case: pieces.outcome(case) if case.method == "kto_pair" else None


FAULTS: tuple[Fault, ...] = (
    Fault(
        "gradient through the baseline",
        "Gradients flow through the estimate of KL; it must be detached.",
        _kto(PairKTO(through=True)),
    ),
    Fault(
        "baseline from the same half",
        "The baseline of the chosen responses is estimated from the chosen responses; the other "
        "half of the batch must give it.",
        _kto(PairKTO(other_half=False)),
    ),
    Fault(
        "baseline from the same half, with gradient",
        "The baseline of the chosen responses is estimated from the chosen responses, and "
        "gradients flow through it.",
        _kto(PairKTO(other_half=False, through=True)),
    ),
    Fault(
        "baseline below 0",
        "The estimate of KL is not cut off at 0.",
        _kto(PairKTO(cut=False)),
    ),
    Fault(
        "baseline below 0, with gradient",
        "The estimate of KL is not cut off at 0, and gradients flow through it.",
        _kto(PairKTO(cut=False, through=True)),
    ),
    Fault(
        "baseline missing",
        "The log ratios are compared with 0 instead of the estimate of KL.",
        _kto(PairKTO(baseline=0.0)),
    ),
    Fault(
        "baseline with the wrong sign",
        "The estimate of KL is added to the log ratio; it must be subtracted.",
        _kto(PairKTO(baseline=-1.0)),
    ),
    Fault(
        "logarithm in KTO",
        "The loss of a response is -log sigma; it must be 1 - sigma.",
        _kto(PairKTO(logarithm=True)),
    ),
    Fault(
        "undesirable responses made likely",
        "The rejected responses are treated as desirable ones.",
        _kto(PairKTO(undesirable=1.0)),
    ),
)
