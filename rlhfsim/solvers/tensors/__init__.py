"""`solve` for torch tensors; nothing here is imported unless a tensor is given."""

from rlhfsim.solvers.tensors.solve import solve_tensors

__all__ = ["solve_tensors"]
