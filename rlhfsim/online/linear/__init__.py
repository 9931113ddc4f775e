"""Online and hybrid RLHF with linear rewards (arXiv 2312.11456)."""

from rlhfsim.online.linear.explorations import (
    EXPLORATIONS,
    BootstrapEnsemble,
    Enhancer,
    Exploration,
    FixedPolicy,
    FromReference,
    LaplaceEnsemble,
    OnPolicy,
    TheoryRadius,
    Uniform,
)
from rlhfsim.online.linear.problem import LinearProblem
from rlhfsim.online.linear.running import run_linear
from rlhfsim.online.linear.runs import LinearRuns, OnlineError
from rlhfsim.online.linear.uncertain import MostUncertain, most_uncertain_policy

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
    "TheoryRadius",
    "Uniform",
    "most_uncertain_policy",
    "run_linear",
]
