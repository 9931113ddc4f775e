"""One place to choose beta: rules that return it, and why.

==================  ==============================================================================
rule                the beta it takes
==================  ==============================================================================
`Oracle`            the one of the largest true value
`SharpTheory`       the minimiser of the sharp chi-squared bound, `eps_c / sqrt(2 D*)`
`FiniteClassTheory` the same with what n comparisons guarantee in place of `eps_c`
`PaperSchedule`     the one of chiPO's theorem 3.1, up to its hidden constant
`HoldOut`           the one of the largest likelihood of comparisons that were held out
`Lepski`            the largest whose estimate agrees with those of all smaller ones
==================  ==============================================================================
"""

from rlhfsim.learners.choose_beta.base import (
    DEFAULT_CANDIDATES,
    BetaChoice,
    BetaProblem,
    BetaRule,
    LearnerFamily,
    UndeterminedBetaError,
    choose_beta,
)
from rlhfsim.learners.choose_beta.hold_out import HoldOut
from rlhfsim.learners.choose_beta.lepski import ChiSquaredWidth, Lepski, lepski_index
from rlhfsim.learners.choose_beta.oracle import Oracle
from rlhfsim.learners.choose_beta.paper import PaperSchedule
from rlhfsim.learners.choose_beta.theory import FiniteClassTheory, SharpTheory

__all__ = [
    "DEFAULT_CANDIDATES",
    "BetaChoice",
    "BetaProblem",
    "BetaRule",
    "ChiSquaredWidth",
    "FiniteClassTheory",
    "HoldOut",
    "LearnerFamily",
    "Lepski",
    "Oracle",
    "PaperSchedule",
    "SharpTheory",
    "UndeterminedBetaError",
    "choose_beta",
    "lepski_index",
]
