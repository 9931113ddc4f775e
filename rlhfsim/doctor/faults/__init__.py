"""The catalogue of faults: each has a name, an explanation and a formula for what it computes.

`FAULTS` goes from the specific to the general: where two faults give the same numbers on every
case, the first one names them.
"""

from rlhfsim.doctor.faults import inputs, kto, links, methods, numbers, outers, reduction
from rlhfsim.doctor.faults.base import Fault, Finish, right

#: Faults that can come on top of any other one.
FINISHES: tuple[Finish, ...] = reduction.FINISHES

FAULTS: tuple[Fault, ...] = (
    *links.FAULTS,
    *outers.FAULTS,
    *kto.FAULTS,
    *(finish.fault for finish in FINISHES),
    *inputs.FAULTS,
    *numbers.FAULTS,
    *methods.settings_ignored(),
    *methods.other_methods(),
)

__all__ = ["FAULTS", "FINISHES", "Fault", "Finish", "right"]
