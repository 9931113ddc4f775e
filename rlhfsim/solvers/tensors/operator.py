"""The torch operator `rlhfsim::solve`: forward, shapes and derivatives.

An operator is opaque to `torch.compile`, so that the solver's loops and checks, which look at
data, run as they are inside a compiled graph.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from rlhfsim.solvers.solution import Solution
from rlhfsim.solvers.tensors import gradient, inputs, pure
from rlhfsim.solvers.tensors.certificate import certified, require_certified
from rlhfsim.solvers.tensors.rows import Rows, RowSolver

Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _row_solver(reward: Tensor) -> RowSolver:
    """Return the backend: Triton kernels on CUDA where Triton is installed, else plain torch."""
    if reward.is_cuda and importlib.util.find_spec("triton") is not None:
        from rlhfsim.solvers.tensors import triton_rows

        return triton_rows.solve_rows
    return pure.solve_rows


def batch_shape(reward: Tensor, reference: Tensor, beta: Tensor) -> torch.Size:
    """Return the common shape of the prompt axes."""
    shapes = reward.shape[:-1], reference.shape[:-1], beta.shape
    return torch.Size(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def as_rows(
    reward: Tensor, reference: Tensor, beta: Tensor
) -> tuple[torch.Size, Tensor, Tensor, Tensor]:
    """Return the batch shape and `(N, Y)`, `(N, Y)`, `(N,)` tensors."""
    batch, size = batch_shape(reward, reference, beta), reward.shape[-1]
    rows = batch.numel()
    r = reward.expand(*batch, size).reshape(rows, size).contiguous()
    if reference.numel() == size:
        p = reference.reshape(1, size).expand(rows, size)
    else:
        p = reference.expand(*batch, size).reshape(rows, size)
    return batch, r, p, beta.expand(batch).reshape(rows).contiguous()


def from_rows(rows: Rows, batch: torch.Size) -> Solution[Tensor]:
    """Return the solution with the batch axes restored."""
    policy, *others = rows
    restored = (field.reshape(batch) for field in others)
    return Solution(policy.reshape(*batch, policy.shape[-1]), *restored)


def fields(solution: Solution[Tensor]) -> Six:
    """Return the fields in order."""
    s = solution
    return s.policy, s.multiplier, s.value, s.gap, s.feasibility, s.tolerance


@torch.library.custom_op("rlhfsim::solve", mutates_args=())
def solve_operator(
    reward: Tensor, reference: Tensor, beta: Tensor, chi_squared: float, kl: float, check: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of `Solution` for `chi_squared D_chi2 + kl KL`; `beta` is float64."""
    if check:
        inputs.data(reward, reference, beta)
    batch, r, p, b = as_rows(reward, reference, beta)
    solver = _row_solver(reward)
    rows = solver(r, p, b, chi_squared, kl)
    if check and solver is not pure.solve_rows:
        rows = _mended(rows, r, p, b, chi_squared, kl)
    solution = from_rows(rows, batch)
    return fields(require_certified(solution) if check else solution)


def _mended(
    rows: Rows, reward: Tensor, reference: Tensor, beta: Tensor, chi_squared: float, kl: float
) -> Rows:
    """Solve again in plain torch what the kernels, far from the ends of the floats, could not."""
    bad = ~certified(rows.gap, rows.tolerance, rows.feasibility, rows.policy)
    if not bool(bad.any()):
        return rows
    again = torch.nonzero(bad)[:, 0]
    redone = pure.solve_rows(reward[again], reference[again], beta[again], chi_squared, kl)
    return Rows(
        *(field.index_put((again,), value) for field, value in zip(rows, redone, strict=True))
    )


@solve_operator.register_fake
def _(
    reward: Tensor, reference: Tensor, beta: Tensor, chi_squared: float, kl: float, check: bool
) -> Six:
    batch = batch_shape(reward, reference, beta)
    policy = reward.new_empty((*batch, reward.shape[-1]))
    others = [beta.new_empty(batch) for _ in range(5)]
    return policy, *others  # type: ignore[return-value]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Six) -> None:
    reward, reference, beta, chi_squared, kl, _ = inputs
    ctx.save_for_backward(reference, beta, output[0])
    ctx.weights = chi_squared, kl
    ctx.reward_shape = reward.shape


def _backward(
    ctx: Any, grad_policy: Tensor, grad_multiplier: Tensor, grad_value: Tensor, *_: Tensor
) -> tuple[Tensor | None, ...]:
    reference, beta, policy = ctx.saved_tensors
    dtype, batch = policy.dtype, policy.shape[:-1]
    policy, p, b = policy.double(), reference.double().expand_as(policy), beta.expand(batch)
    at = gradient.local(policy, p, *ctx.weights)
    grad_reward, grad_reference, grad_beta = gradient.pull_back(
        grad_policy.double(), grad_multiplier, grad_value, policy, b, at
    )
    return (
        grad_reward.sum_to_size(ctx.reward_shape).to(dtype),
        grad_reference.sum_to_size(reference.shape).to(dtype),
        grad_beta.sum_to_size(beta.shape),
        None,
        None,
        None,
    )


solve_operator.register_autograd(_backward, setup_context=_save)
