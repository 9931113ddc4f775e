"""Derivatives of the optimum, by the implicit function theorem.

On the active set (`w = pi/p > 0`) stationarity is `beta f'(w) = r - lambda` and `sum_y pi = 1`.
With `q = p / (beta f''(w))`, `Q = sum_y q`, differentiation gives

    d pi     = w dp + q (dr - d lambda - f'(w) d beta),
    d lambda = sum_y [w dp + q (dr - f'(w) d beta)] / Q,

and the envelope theorem `dJ = sum_y [pi dr + beta f*(f'(w)) dp] - D d beta`.  Off the active set
`d pi = 0`, and the term in `dp` is `-beta f(0)`.  Entries of the reference count as independent:
nothing is projected on the simplex.  Responses of reference mass 0 are not in the model, and
their derivatives in the reference are 0.

Where the recession of f is finite, mass may leave the support, for the best responses of reference
mass 0.  Then `lambda = max_{p=0} r - beta recession` whatever the others do, and what their masses
lose goes to those responses, in equal shares.

At a kink of chi-squared (a response whose ratio is exactly 0 at the
edge of the active set) these are the derivatives from the side on which it is clipped.

Source: derived above.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlhfsim.solvers.tensors.mixed import link, perspective

_LARGEST = torch.finfo(torch.float64).max


class Local(NamedTuple):
    """What the derivatives need of the divergence at the optimum, in float64."""

    #: (..., Y) `w` on the active set, else 0.
    ratio: Tensor
    #: (..., Y) `unit p / f''(w)` on the active set, else 0.
    weight: Tensor
    #: constant scale of `weight`; without it tiny weights would underflow.
    unit: float
    #: (..., Y) `f'(w)` on the active set, else 0.
    link: Tensor
    #: (..., Y) `f*(f'(w)) = w f'(w) - f(w)` where p > 0, `-f(0)` off the active set.
    conjugate: Tensor
    #: (...) divergence of the optimum.
    cost: Tensor
    #: (..., Y) shares, of sum 1, of the responses of reference mass 0 that have mass, in rows that
    #: have any, else 0; `link` is the recession there.  None where the recession is infinite.
    outside: Tensor | None = None


def local(policy: Tensor, reference: Tensor, a: float, b: float) -> Local:
    """Return `Local` for `a D_chi2 + b KL`, itself differentiable in policy and reference."""
    inside = reference > 0
    active = inside & (policy > 0)
    # Both branches of a `where` are differentiated, so each gets a harmless argument.
    p = torch.where(inside, reference, 1.0)
    pi = torch.where(active, policy, p)
    # A ratio beyond this (p subnormal) would turn 0 times its square into nan.
    w = (pi / p).clamp_max(1e150)
    weight = p if b == 0 else pi if a == 0 else pi / (w + b / a)
    conjugate = 0.5 * a * (w - 1.0) * (w + 1.0) + b * (w - 1.0)
    at_zero = 0.5 * a + b
    cost = torch.where(active, perspective(pi, p, a, b), torch.where(inside, at_zero * p, 0.0))
    return Local(
        ratio=torch.where(active, w, 0.0),
        weight=torch.where(active, weight, 0.0),
        unit=a if a else b,
        link=torch.where(active, link(w, a, b), 0.0),
        conjugate=torch.where(active, conjugate, torch.where(inside, -at_zero, 0.0)),
        cost=cost.sum(dim=-1),
    )


def pull_back(
    grad_policy: Tensor,
    grad_multiplier: Tensor,
    grad_value: Tensor,
    policy: Tensor,
    beta: Tensor,
    at: Local,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients in reward and reference `(..., Y)` and in beta `(...)`.

    From the gradients in policy `(..., Y)`, multiplier and value `(...)`; all float64, of the
    broadcast batch shape.
    """
    b, from_value = beta[..., None], grad_value[..., None]
    total = at.weight.sum(dim=-1, keepdim=True)
    slopes, per_mass = at.weight / (b * at.unit), (b * at.unit) / total
    # The multiplier moves by `share dr` and `per_mass w dp`.
    share, moved = at.weight / total, grad_multiplier[..., None]
    pinned = torch.zeros_like(total, dtype=torch.bool)
    if at.outside is not None:
        pinned = at.outside.sum(dim=-1, keepdim=True) > 0
        share, per_mass = torch.where(pinned, at.outside, share), torch.where(pinned, 0.0, per_mass)
    centred = grad_policy - (share * grad_policy).sum(dim=-1, keepdim=True)
    if at.outside is not None:
        # Elsewhere this sum is 0.
        moved = torch.where(pinned, moved - (centred * slopes).sum(dim=-1, keepdim=True), moved)
    of_scores = centred * slopes + moved * share
    grad_reward = of_scores + from_value * policy
    grad_reference = (centred + moved * per_mass) * at.ratio + from_value * (b * at.conjugate)
    grad_beta = -(of_scores * at.link).sum(dim=-1) - grad_value * at.cost
    return grad_reward, grad_reference, grad_beta
