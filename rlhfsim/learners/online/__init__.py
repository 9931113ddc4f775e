"""Learners that draw their own comparisons, round by round, from an environment that they hold."""

from rlhfsim.learners.online.linear import OnlineRLHF
from rlhfsim.learners.online.xpo import XPO, IteratedDPO

__all__ = ["XPO", "IteratedDPO", "OnlineRLHF"]
