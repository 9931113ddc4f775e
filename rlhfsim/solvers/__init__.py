"""Solvers: `solve`, what it returns, and what it raises."""

from rlhfsim.solvers.exact import solve
from rlhfsim.solvers.solution import Solution, SolverError

__all__ = ["Solution", "SolverError", "solve"]
