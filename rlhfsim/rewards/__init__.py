"""Rewards learned from preferences, rankings and scores; confidence sets are in `confidence`."""

from rlhfsim.rewards.existence import MLEDoesNotExistError, mle_exists
from rlhfsim.rewards.finite_class import (
    FiniteClass,
    first_of_tied,
    last_of_tied,
    random_of_tied,
)
from rlhfsim.rewards.fit import RewardModel, fit_reward
from rlhfsim.rewards.gauge import FirstResponse, Gauge, ReferenceGauge, UniformGauge, centre
from rlhfsim.rewards.information import information
from rlhfsim.rewards.known import Known
from rlhfsim.rewards.least_squares import LeastSquares
from rlhfsim.rewards.linear import Linear
from rlhfsim.rewards.plackett_luce import PlackettLuce
from rlhfsim.rewards.result import RewardFit, RewardFitError
from rlhfsim.rewards.tabular import Tabular

__all__ = [
    "FiniteClass",
    "FirstResponse",
    "Gauge",
    "Known",
    "LeastSquares",
    "Linear",
    "MLEDoesNotExistError",
    "PlackettLuce",
    "ReferenceGauge",
    "RewardFit",
    "RewardFitError",
    "RewardModel",
    "Tabular",
    "UniformGauge",
    "centre",
    "first_of_tied",
    "fit_reward",
    "information",
    "last_of_tied",
    "mle_exists",
    "random_of_tied",
]
