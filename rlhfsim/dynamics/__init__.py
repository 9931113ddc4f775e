"""Training dynamics: the exact path of a policy under gradient steps on a direct loss."""

from rlhfsim.dynamics.batches import Batches
from rlhfsim.dynamics.optimizers import Adam, GradientDescent, Optimizer
from rlhfsim.dynamics.training import train
from rlhfsim.dynamics.trajectory import RECORDED, TrainingDivergedError, Trajectory

__all__ = [
    "RECORDED",
    "Adam",
    "Batches",
    "GradientDescent",
    "Optimizer",
    "TrainingDivergedError",
    "Trajectory",
    "train",
]
