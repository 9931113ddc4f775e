"""Distribution matching: the target is written down first, and the policy is made to match it.

Source: arXiv 2012.11635 (GDC); 2112.00791 (several prompts); 2206.00761 (against KL control).
"""

from rlhfsim.learners.matching.learner import DistributionMatching
from rlhfsim.learners.matching.moments import exponential_tilt, match_moments
from rlhfsim.learners.matching.pointwise import pointwise_target
from rlhfsim.learners.matching.targets import (
    AtLeastQuantile,
    ExponentialReward,
    Moments,
    Pointwise,
    Target,
    WinRate,
)

__all__ = [
    "AtLeastQuantile",
    "DistributionMatching",
    "ExponentialReward",
    "Moments",
    "Pointwise",
    "Target",
    "WinRate",
    "exponential_tilt",
    "match_moments",
    "pointwise_target",
]
