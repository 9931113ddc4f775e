"""Any other divergence: solved by numpy on the host, in float64, and differentiable once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhfsim.divergences import Divergence
from rlhfsim.solvers import general
from rlhfsim.solvers.tensors.gradient import Local, pull_back
from rlhfsim.solvers.tensors.operator import Six, as_rows, fields, from_rows
from rlhfsim.solvers.tensors.rows import Rows


def solve_on_host(reward: Tensor, reference: Tensor, beta: Tensor, divergence: Divergence) -> Six:
    """Return the fields of `Solution`, on the device and in the dtype of the inputs."""
    apply: Any = _HostSolve.apply
    policy, *others = apply(reward.double(), reference.double(), beta, divergence)
    multiplier, value, gap, feasibility, tolerance = others
    if reward.dtype != torch.float64:
        policy = policy.to(reward.dtype)
        feasibility = (policy.detach().double().sum(dim=-1) - 1.0).abs()
    return policy, multiplier, value, gap, feasibility, tolerance


class _Once(torch.autograd.Function):
    """The identity on a gradient, with a second derivative that is refused, not 0."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *depends_on: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        raise RuntimeError(
            "the optimum of a divergence solved on the host is differentiable once; "
            "KL, chi-squared and their sums are differentiable twice"
        )


class _HostSolve(torch.autograd.Function):
    """Forward by `general.solve_rows`, backward by implicit differentiation."""

    @staticmethod
    def forward(
        ctx: Any, reward: Tensor, reference: Tensor, beta: Tensor, divergence: Divergence
    ) -> Six:
        batch, r, p, b = as_rows(reward, reference, beta)
        r, p, b = (t.detach().cpu().contiguous() for t in (r, p, b))
        found = general.solve_rows(r.numpy(), p.numpy(), b.numpy(), divergence)
        names = Rows._fields
        on_device = (torch.from_numpy(getattr(found, f)).to(reward.device) for f in names)
        result = fields(from_rows(Rows(*on_device), batch))
        ctx.save_for_backward(reference, beta, result[0])
        ctx.divergence, ctx.reward_shape = divergence, reward.shape
        ctx.mark_non_differentiable(*result[3:])
        return result

    @staticmethod
    def backward(
        ctx: Any, grad_policy: Tensor, grad_multiplier: Tensor, grad_value: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        saved = reference, beta, policy = ctx.saved_tensors
        above = grad_policy, grad_multiplier, grad_value
        with torch.no_grad():
            at = _local(policy, reference.expand_as(policy), ctx.divergence)
            gradients = pull_back(*above, policy, beta.expand(policy.shape[:-1]), at)
        once: Any = _Once.apply
        shapes = ctx.reward_shape, reference.shape, beta.shape
        summed = (g.sum_to_size(shape) for g, shape in zip(gradients, shapes, strict=True))
        return *(once(g, *saved, *above) for g in summed), None


def _local(policy: Tensor, reference: Tensor, divergence: Divergence) -> Local:
    """Return what the derivatives need, from the divergence's own members."""
    pi, p = policy.detach().cpu().numpy(), reference.detach().cpu().numpy()
    inside = p > 0
    active, leaving = inside & (pi > 0), ~inside & (pi > 0)
    safe = np.where(inside, p, 1.0)
    w = np.where(active, pi / safe, 1.0)
    slope, score = divergence.link_slope(w), divergence.link(w)
    conjugate = w * score - divergence.generator(w)
    at_zero = divergence.generator(0.0)
    cost = np.where(inside, divergence.perspective(np.where(inside, pi, 1.0), safe), 0.0)
    cost = cost + np.where(leaving, divergence.recession * np.where(leaving, pi, 1.0), 0.0)
    score = np.where(leaving, divergence.recession, np.where(active, score, 0.0))
    count = np.maximum(leaving.sum(axis=-1, keepdims=True), 1)

    def back(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.asarray(array, dtype=np.float64)).to(policy.device)

    return Local(
        ratio=back(np.where(active, w, 0.0)),
        weight=back(np.where(active, p / slope, 0.0)),
        unit=1.0,
        link=back(score),
        conjugate=back(np.where(active, conjugate, np.where(inside, -at_zero, 0.0))),
        cost=back(cost.sum(axis=-1)),
        outside=back(leaving / count) if np.isfinite(divergence.recession) else None,
    )
