"""Learners: from preference data and a reference policy to a policy."""

from rlhfsim.learners.base import Learned, Learner, LearnerError, Problem, as_problem
from rlhfsim.learners.inference_time import BestOfN, InferenceTimePessimism, SoftBestOfN
from rlhfsim.learners.rlhf import RLHF

__all__ = [
    "RLHF",
    "BestOfN",
    "InferenceTimePessimism",
    "Learned",
    "Learner",
    "LearnerError",
    "Problem",
    "SoftBestOfN",
    "as_problem",
]
