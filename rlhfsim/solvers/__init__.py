"""Solvers: `solve`, what it returns and raises, and the reference solver in mpmath."""

from rlhfsim.solvers.exact import solve
from rlhfsim.solvers.high_precision import HighPrecisionSolution, solve_high_precision
from rlhfsim.solvers.solution import Solution, SolverError

__all__ = ["HighPrecisionSolution", "Solution", "SolverError", "solve", "solve_high_precision"]
