"""Learners that know what is done with their policy at inference time: `InfAlign`, `CTRL`.

Source: arXiv 2412.19792.
"""

from rlhfsim.learners.infalign.ctrl import CTRL
from rlhfsim.learners.infalign.learner import InfAlign, infalign_optimum
from rlhfsim.learners.infalign.levels import win_rate_gradient
from rlhfsim.learners.infalign.procedures import (
    BestOf,
    InferenceProcedure,
    PlainSampling,
    WorstOf,
    inference_win_rate,
)
from rlhfsim.learners.infalign.transforms import (
    CalibratedTransform,
    ExponentialTransform,
    IdentityTransform,
    LogarithmicTransform,
)

__all__ = [
    "CTRL",
    "BestOf",
    "CalibratedTransform",
    "ExponentialTransform",
    "IdentityTransform",
    "InfAlign",
    "InferenceProcedure",
    "LogarithmicTransform",
    "PlainSampling",
    "WorstOf",
    "infalign_optimum",
    "inference_win_rate",
    "win_rate_gradient",
]
