"""Solvers: `solve` and its relatives, what they return and raise, the reference in mpmath."""

from rlhfsim.solvers.convex import ConvexSolution, ConvexSolverError, solve_convex
from rlhfsim.solvers.exact import solve
from rlhfsim.solvers.high_precision import HighPrecisionSolution, solve_high_precision
from rlhfsim.solvers.path import (
    BestBeta,
    ChiSquaredPath,
    EnclosureError,
    PathFunction,
    best_beta,
    chi_squared_path,
)
from rlhfsim.solvers.solution import Solution, SolverError
from rlhfsim.solvers.streaming import StreamedSolution, solve_streaming

__all__ = [
    "BestBeta",
    "ChiSquaredPath",
    "ConvexSolution",
    "ConvexSolverError",
    "EnclosureError",
    "HighPrecisionSolution",
    "PathFunction",
    "Solution",
    "SolverError",
    "StreamedSolution",
    "best_beta",
    "chi_squared_path",
    "solve",
    "solve_convex",
    "solve_high_precision",
    "solve_streaming",
]
