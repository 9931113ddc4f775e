"""Paths of optima in beta: all of chi-squared's at once, and the best beta of any divergence."""

from rlhfsim.solvers.path.best import BestBeta, EnclosureError, best_beta
from rlhfsim.solvers.path.chi_squared import ChiSquaredPath, chi_squared_path
from rlhfsim.solvers.path.function import PathFunction

__all__ = [
    "BestBeta",
    "ChiSquaredPath",
    "EnclosureError",
    "PathFunction",
    "best_beta",
    "chi_squared_path",
]
