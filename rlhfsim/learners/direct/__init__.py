"""Direct learners: DPO and its relatives, from preferences to a policy in one step.

A learner is a loss (`rlhfsim.losses`) and a class of policies: all of them, a finite number, or
log-linear ones.  Over all policies the loss is solved to its global minimum through scores.
"""

from rlhfsim.learners.direct.finite import FinitePolicies
from rlhfsim.learners.direct.log_linear import LogLinearPolicies
from rlhfsim.learners.direct.methods import (
    DPO,
    FDPO,
    IPO,
    KTO,
    RPO,
    ChiPO,
    ChiPOPractical,
    SLiC,
)
from rlhfsim.learners.direct.tabular import TabularPolicies
from rlhfsim.learners.direct.task import PolicyClass
from rlhfsim.learners.direct.with_tables import POWER, REBEL, Direct, SimPO

__all__ = [
    "DPO",
    "FDPO",
    "IPO",
    "KTO",
    "POWER",
    "REBEL",
    "RPO",
    "ChiPO",
    "ChiPOPractical",
    "Direct",
    "FinitePolicies",
    "LogLinearPolicies",
    "PolicyClass",
    "SLiC",
    "SimPO",
    "TabularPolicies",
]
