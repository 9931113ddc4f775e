"""The optimum of each row in plain torch, on any device with float64.

The method of `rlhfsim.solvers.general`: a first solve, anchored at the largest reward, finds a
rough multiplier; the second is anchored at the response whose score is nearest to 0, where every
score carries a relative error of a few ulp.  float32 rows are float64 numbers exactly: they are
solved and certified in float64, and the policy is rounded once at the end.

Source: arXiv 2407.13399 (mixed divergence), 2205.11275 (KL); the certificate is derived below.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlhfsim.solvers.solution import rounding
from rlhfsim.solvers.tensors.mixed import conjugate_perspective, link, perspective
from rlhfsim.solvers.tensors.roots import find_root
from rlhfsim.solvers.tensors.rows import Rows

# Rows are solved in groups of about this many entries, which bounds the temporaries.
_GROUP = {"cpu": 2**16, "cuda": 2**25}
# Scores beyond this would overflow in the sums.
_LARGE = 1e307
_LOG_SMALLEST = math.log(5e-324)


def solve_rows(
    reward: Tensor, reference: Tensor, beta: Tensor, chi_squared: float, kl: float
) -> Rows:
    """Return the optimum of each row, its policy in the dtype of `reward`.  Checked input only.

    The policy is within `1e-13` relative of the exact optimum in float64, up to the rounding of
    the scores `(r - lambda)/beta` to eps of their size; in float32 it is the nearest float32 to
    that.
    """
    size = max(reward.shape[-1], 1)
    count = max(_GROUP.get(reward.device.type, 2**22) // size, 1)
    r, p, b = (torch.split(t, count) for t in (reward, reference, beta))
    groups = [_solve_group(*group, chi_squared, kl) for group in zip(r, p, b, strict=True)]
    return groups[0] if len(groups) == 1 else Rows(*map(torch.cat, zip(*groups, strict=True)))


def _solve_group(r: Tensor, p: Tensor, beta: Tensor, a: float, b: float) -> Rows:
    dtype = r.dtype
    r, p = r.double(), p.double()
    inside = p > 0
    top = torch.where(inside, r, -torch.inf).amax(dim=-1)
    floor = _floor(r, top, p, a, b)[:, None]
    scaled = _scaled(r, top, p, beta)
    rough = find_root(scaled.maximum(floor), p, a, b, None)[1]
    scores = torch.where(inside, (scaled - rough[:, None]).abs(), torch.inf)
    anchor = r.gather(-1, scores.argmin(dim=-1, keepdim=True))[:, 0]
    lift = ((top - anchor) / beta).clamp(-_LARGE, _LARGE)
    d = _scaled(r, anchor, p, beta).maximum(floor + lift[:, None])
    policy, multiplier = find_root(d, p, a, b, rough + lift)
    return _certify(policy, multiplier, d, r, p, beta, anchor, a, b, dtype)


def _scaled(r: Tensor, anchor: Tensor, p: Tensor, beta: Tensor) -> Tensor:
    """Return `(r - anchor)/beta` where p > 0, else 0."""
    difference = torch.where(p > 0, r - anchor[:, None], 0.0)
    return (difference / beta[:, None]).clamp(-_LARGE, _LARGE)


def _floor(r: Tensor, top: Tensor, p: Tensor, a: float, b: float) -> Tensor:
    """Return the scaled reward, relative to the best, below which a response gets no mass.

    The best response has `w <= 1/p`, so `lambda >= -f'(1/p)`; a score below f' of the smallest
    float gives ratio 0.  Raising rewards from below twice that to it changes only the overflow.
    """
    best = torch.where((p > 0) & (r == top[:, None]), p, 0.0).amax(dim=-1)
    return 2.0 * ((-a + b * _LOG_SMALLEST) - link(1.0 / best, a, b))


def _certify(
    policy: Tensor,
    multiplier: Tensor,
    d: Tensor,
    r: Tensor,
    p: Tensor,
    beta: Tensor,
    anchor: Tensor,
    a: float,
    b: float,
    dtype: torch.dtype,
) -> Rows:
    """Attach value, gap and feasibility.

    For every lambda the dual function `lambda + sum_y p f*(d - lambda)` bounds the objective of
    every policy from above.  Dual minus primal is, exactly, the sum over y of the Fenchel-Young
    residuals `p f(pi/p) + p f*(s) - pi s >= 0`, `s = d - lambda`, plus `lambda (1 - sum_y pi)`.
    """
    inside = p > 0
    safe = torch.where(inside, p, 1.0)
    penalty = torch.where(inside, perspective(policy, safe, a, b), 0.0)
    score = d - multiplier[:, None]
    dual = torch.where(inside, conjugate_perspective(score, safe, a, b), 0.0)
    tangent = policy * score
    cost, total = penalty.sum(dim=-1), policy.sum(dim=-1)
    gap = (penalty + dual - tangent).sum(dim=-1) + multiplier * (1.0 - total)
    # Rounding of the scores moves each term of the dual by eps pi |s|.  sum p and each ratio are
    # known to eps only, which moves lambda by f''(1) eps and primal and dual by f''(1) eps^2.
    unit = rounding(p.shape[-1])
    scale = (policy * d).abs().sum(dim=-1) + tangent.abs().sum(dim=-1) + dual.abs().sum(dim=-1)
    scale = scale + cost + multiplier.abs() + (a + b) * unit
    gain = (policy * torch.where(inside, r - anchor[:, None], 0.0)).sum(dim=-1)
    rounded = policy.to(dtype)
    return Rows(
        policy=rounded,
        multiplier=anchor + beta * multiplier,
        value=anchor + (gain - beta * cost),
        gap=beta * gap,
        feasibility=(rounded.double().sum(dim=-1) - 1.0).abs(),
        tolerance=beta * (unit * scale) + torch.finfo(torch.float64).tiny,
    )
