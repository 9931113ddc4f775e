"""Learners: from preference data and a reference policy to a policy.

`LEARNERS` has one representative of each; `setting_for` builds what they need for a bandit.
"""

from rlhfsim.learners.base import Learned, Learner, LearnerError, Problem, as_problem
from rlhfsim.learners.bayesian import BayesianPosterior
from rlhfsim.learners.catalogue import LEARNERS, Representative, Setting, setting_for
from rlhfsim.learners.choose_beta import (
    BetaChoice,
    ChiSquaredWidth,
    FiniteClassTheory,
    HoldOut,
    Lepski,
    Oracle,
    PaperSchedule,
    SharpTheory,
    UndeterminedBetaError,
    choose_beta,
)
from rlhfsim.learners.demonstrations import DemonstrationRegularized
from rlhfsim.learners.direct import (
    DPO,
    FDPO,
    IPO,
    KTO,
    POWER,
    REBEL,
    RPO,
    ChiPO,
    ChiPOPractical,
    Direct,
    FinitePolicies,
    LogLinearPolicies,
    SimPO,
    SLiC,
    TabularPolicies,
)
from rlhfsim.learners.games import (
    IterativeChiPO,
    MinimaxWinner,
    NashMD,
    RegularizedNash,
    SelfPlay,
)
from rlhfsim.learners.infalign import CTRL, InfAlign
from rlhfsim.learners.inference_time import BestOfN, InferenceTimePessimism, SoftBestOfN
from rlhfsim.learners.matching import DistributionMatching
from rlhfsim.learners.online import XPO, IteratedDPO, OnlineRLHF
from rlhfsim.learners.pessimism import PessimisticLikelihood, PessimisticMLE
from rlhfsim.learners.rlhf import RLHF
from rlhfsim.learners.steps import TokenDemonstrationRegularized, TokenRLHF
from rlhfsim.learners.together import (
    LearnerBatch,
    Regularizer,
    Together,
    fit_together,
    regularizer_of,
)

__all__ = [
    "CTRL",
    "DPO",
    "FDPO",
    "IPO",
    "KTO",
    "LEARNERS",
    "POWER",
    "REBEL",
    "RLHF",
    "RPO",
    "XPO",
    "BayesianPosterior",
    "BestOfN",
    "BetaChoice",
    "ChiPO",
    "ChiPOPractical",
    "ChiSquaredWidth",
    "DemonstrationRegularized",
    "Direct",
    "DistributionMatching",
    "FiniteClassTheory",
    "FinitePolicies",
    "HoldOut",
    "InfAlign",
    "InferenceTimePessimism",
    "IteratedDPO",
    "IterativeChiPO",
    "Learned",
    "Learner",
    "LearnerBatch",
    "LearnerError",
    "Lepski",
    "LogLinearPolicies",
    "MinimaxWinner",
    "NashMD",
    "OnlineRLHF",
    "Oracle",
    "PaperSchedule",
    "PessimisticLikelihood",
    "PessimisticMLE",
    "Problem",
    "RegularizedNash",
    "Regularizer",
    "Representative",
    "SLiC",
    "SelfPlay",
    "Setting",
    "SharpTheory",
    "SimPO",
    "SoftBestOfN",
    "TabularPolicies",
    "Together",
    "TokenDemonstrationRegularized",
    "TokenRLHF",
    "UndeterminedBetaError",
    "as_problem",
    "choose_beta",
    "fit_together",
    "regularizer_of",
    "setting_for",
]
