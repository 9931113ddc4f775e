"""What is required of a solution in tensors before it is handed out."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhfsim.solvers.solution import Solution, SolverError
from rlhfsim.solvers.tensors.inputs import feasibility_limit


def certified(gap: Tensor, tolerance: Tensor, feasibility: Tensor, policy: Tensor) -> Tensor:
    """Return for each prompt whether gap and feasibility are within rounding."""
    limit = feasibility_limit(policy.dtype, policy.shape[-1])
    # Written so that NaN fails; an infinite gap must not pass against an infinite tolerance.
    return gap.isfinite() & (gap.abs() <= tolerance) & (feasibility <= limit)


def require_certified(solution: Solution[Tensor]) -> Solution[Tensor]:
    """Return `solution`, or raise `SolverError` naming the first prompt with a bad certificate.

    One synchronisation with the device.
    """
    limit = feasibility_limit(solution.policy.dtype, solution.policy.shape[-1])
    gap, tolerance, feasibility = solution.gap, solution.tolerance, solution.feasibility
    good = certified(gap, tolerance, feasibility, solution.policy)
    if bool(good.all()):
        return solution
    index = tuple(int(i) for i in torch.nonzero(~good)[0])
    where = f" at prompt {list(index)}" if index else ""
    raise SolverError(
        f"no certified optimum{where}: duality gap {gap[index].item():.3g} "
        f"(allowed {tolerance[index].item():.3g}), |sum(policy) - 1| = "
        f"{feasibility[index].item():.3g} (allowed {limit:.3g})",
        solution,
    )
