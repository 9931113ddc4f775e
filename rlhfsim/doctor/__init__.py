"""The loss doctor: a user's direct loss against the golden numbers.

`diagnose(function, method)` runs a loss with the signature of trainers on the cases of
`rlhfsim.golden`, and says that it agrees or names the nearest known fault; `rlhfsim doctor` does so
from the command line.  `FAULTS` is the catalogue.
"""

from rlhfsim.doctor.diagnosis import Diagnosis, Line, diagnose
from rlhfsim.doctor.faults import FAULTS, Fault
from rlhfsim.doctor.loading import load_function

__all__ = ["FAULTS", "Diagnosis", "Fault", "Line", "diagnose", "load_function"]
