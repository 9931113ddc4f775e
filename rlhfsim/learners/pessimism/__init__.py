"""Pessimism: the policy that is best against the worst reward that the data allow.

`PessimisticMLE` takes the worst of an ellipsoid of linear rewards, or subtracts a bonus from each
response's reward; `PessimisticLikelihood` takes the worst of a likelihood-ratio set.
"""

from rlhfsim.learners.pessimism.guarantees import pointwise_regret_bound, regret_bound
from rlhfsim.learners.pessimism.likelihood import PessimisticLikelihood
from rlhfsim.learners.pessimism.linear import PessimisticMLE
from rlhfsim.learners.pessimism.regions import (
    Asymptotic,
    FixedRadius,
    HighProbability,
    Region,
)

__all__ = [
    "Asymptotic",
    "FixedRadius",
    "HighProbability",
    "PessimisticLikelihood",
    "PessimisticMLE",
    "Region",
    "pointwise_regret_bound",
    "regret_bound",
]
