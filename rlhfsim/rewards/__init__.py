"""Rewards learned from preferences by Bradley-Terry maximum likelihood."""

from rlhfsim.rewards.existence import MLEDoesNotExistError, mle_exists
from rlhfsim.rewards.finite_class import FiniteClass
from rlhfsim.rewards.fit import RewardModel, fit_reward
from rlhfsim.rewards.result import RewardFit, RewardFitError
from rlhfsim.rewards.tabular import Tabular

__all__ = [
    "FiniteClass",
    "MLEDoesNotExistError",
    "RewardFit",
    "RewardFitError",
    "RewardModel",
    "Tabular",
    "fit_reward",
    "mle_exists",
]
