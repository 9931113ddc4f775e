"""Checks of tensors, in the wording of `rlhfsim.checks`.

What depends on shapes and dtypes is checked by `shapes`; what depends on data by `data`, at the
price of one synchronisation with the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rlhfsim import checks
from rlhfsim.divergences import Divergence
from rlhfsim.solvers.solution import rounding

_DTYPES = (torch.float32, torch.float64)
# Two numbers below it differ by a finite number.
_HALF_OF_LARGEST = 0.5 * torch.finfo(torch.float64).max


def feasibility_limit(dtype: torch.dtype, size: int) -> float:
    """Return the largest `|sum_y pi - 1|` that rounding to `dtype` explains."""
    return rounding(max(size, 1), float(torch.finfo(dtype).eps))


def floating(name: str, value: object) -> Tensor:
    """Return `value` if it is a float32 or float64 tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name} is a {type(value).__name__}; it must be a torch.Tensor, as reward and "
            "reference are solved on one device in one dtype"
        )
    if value.dtype not in _DTYPES:
        raise ValueError(
            f"{name} has dtype {value.dtype}; it must be torch.float32 or torch.float64 "
            "(cast it with .float() or .double())"
        )
    return value


def alike(reward: Tensor, reference: Tensor) -> None:
    """Refuse two tensors of different dtypes or devices."""
    for what in ("dtype", "device"):
        left, right = getattr(reward, what), getattr(reference, what)
        if left != right:
            raise ValueError(
                f"reward has {what} {left} and reference {right}; they must be the same "
                "(move one with .to)"
            )


def strengths(beta: ArrayLike | Tensor, device: torch.device) -> Tensor:
    """Return beta as a float64 tensor on `device`; a tensor keeps its history."""
    if isinstance(beta, Tensor):
        if beta.dtype == torch.bool or beta.is_complex():
            raise ValueError(f"beta has dtype {beta.dtype}; it must hold real numbers")
        if beta.device != device:
            raise ValueError(
                f"beta has device {beta.device} and reward {device}; they must be the same "
                "(move one with .to)"
            )
        return beta.to(torch.float64)
    if type(beta) is float or type(beta) is int:
        return torch.full((), beta, dtype=torch.float64, device=device)
    return torch.from_numpy(checks.as_positive("beta", beta).copy()).to(device)


def shapes(reward: Tensor, reference: Tensor, beta: Tensor) -> None:
    """Refuse shapes that are not those of one problem."""
    r, p, b = tuple(reward.shape), tuple(reference.shape), tuple(beta.shape)
    if len(p) == 0 or reference.numel() == 0:
        raise ValueError(f"reference has shape {p}; it must hold at least one response")
    if len(r) == 0 or r[-1] != p[-1]:
        raise ValueError(
            f"reward has shape {r} and reference {p}; their last axes must hold the same responses"
        )
    try:
        torch.broadcast_shapes(r[:-1], p[:-1], b)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(
            f"shapes do not broadcast: reward {r[:-1]}, reference {p[:-1]}, beta {b}"
        ) from None


def divergence_kind(divergence: object) -> Divergence:
    """Return `divergence` if it is one."""
    if not isinstance(divergence, Divergence):
        raise ValueError(f"divergence is {divergence!r}; it must be a Divergence such as KL()")
    return divergence


def output(out: Tensor | None, reward: Tensor, shape: torch.Size, *, differentiable: bool) -> None:
    """Refuse an `out` that cannot hold the policy."""
    if out is None:
        return
    floating("out", out)
    if out.shape != shape or out.dtype != reward.dtype or out.device != reward.device:
        raise ValueError(
            f"out has shape {tuple(out.shape)}, dtype {out.dtype}, device {out.device}; it must "
            f"have shape {tuple(shape)}, dtype {reward.dtype}, device {reward.device}"
        )
    if differentiable or out.requires_grad:
        raise ValueError(
            "out is given with tensors that require grad; it must be left out (or use "
            "torch.no_grad())"
        )


def data(reward: Tensor, reference: Tensor, beta: Tensor) -> None:
    """Refuse what is not finite, negative masses, row sums off 1, and beta that is not positive."""
    off = (reference.sum(dim=-1, dtype=torch.float64) - 1.0).abs()
    kind = np.float32 if reference.dtype == torch.float32 else np.float64
    limit = checks.row_sum_tolerance(kind, reference.shape[-1])
    # Written so that NaN fails.
    good = (reward.abs() < _HALF_OF_LARGEST).all() & (reference >= 0).all() & (off <= limit).all()
    good = good & (beta > 0).all() & beta.isfinite().all()
    if not bool(good):
        _refuse(reward, reference, beta, limit)


def _refuse(reward: Tensor, reference: Tensor, beta: Tensor, limit: float) -> None:
    """Raise for the first rule that is broken, on the host."""
    r, p = (t.detach().cpu().numpy() for t in (reward, reference))
    checks.as_real("reward", r)
    checks.as_distributions("reference", p, tolerance=limit)
    checks.as_positive("beta", beta.detach().cpu().numpy())
    _refuse_span(r, p)


def _refuse_span(r: NDArray[Any], p: NDArray[Any]) -> None:
    r, p = (x.reshape(-1, r.shape[-1]) for x in np.broadcast_arrays(r, p))
    with np.errstate(over="ignore"):
        spread = np.where(p > 0, r, -np.inf).max(axis=-1) - np.where(p > 0, r, np.inf).min(axis=-1)
    if not np.all(np.isfinite(spread)):
        raise ValueError(
            f"reward of prompt {int(np.argmax(~np.isfinite(spread)))} spans more than the largest "
            "float; the range of rewards within a prompt must be finite"
        )
