"""Rounds of preference collection, in which the policy that is learned chooses what is compared.

`OnlineRecord` is what every run returns; `online.linear` has main agent and enhancer over linear
rewards.
"""

from rlhfsim.online.linear import (
    EXPLORATIONS,
    BootstrapEnsemble,
    Enhancer,
    Exploration,
    FixedPolicy,
    FromReference,
    LaplaceEnsemble,
    LinearProblem,
    LinearRuns,
    MostUncertain,
    OnlineError,
    OnPolicy,
    TheoryRadius,
    Uniform,
    most_uncertain_policy,
    run_linear,
)
from rlhfsim.online.record import OnlineRecord

__all__ = [
    "EXPLORATIONS",
    "BootstrapEnsemble",
    "Enhancer",
    "Exploration",
    "FixedPolicy",
    "FromReference",
    "LaplaceEnsemble",
    "LinearProblem",
    "LinearRuns",
    "MostUncertain",
    "OnPolicy",
    "OnlineError",
    "OnlineRecord",
    "TheoryRadius",
    "Uniform",
    "most_uncertain_policy",
    "run_linear",
]
