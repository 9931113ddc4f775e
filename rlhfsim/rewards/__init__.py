"""Rewards learned from preferences by Bradley-Terry maximum likelihood."""

from rlhfsim.rewards.counts import PairCounts, count_pairs, log_likelihood
from rlhfsim.rewards.existence import MLEDoesNotExistError, mle_exists
from rlhfsim.rewards.finite_class import FiniteClass
from rlhfsim.rewards.fit import RewardModel, fit_reward
from rlhfsim.rewards.result import RewardFit, RewardFitError
from rlhfsim.rewards.tabular import Tabular

__all__ = [
    "FiniteClass",
    "MLEDoesNotExistError",
    "PairCounts",
    "RewardFit",
    "RewardFitError",
    "RewardModel",
    "Tabular",
    "count_pairs",
    "fit_reward",
    "log_likelihood",
    "mle_exists",
]
