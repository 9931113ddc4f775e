"""The divergence `a D_chi2 + b KL` on float64 tensors: link, inverse link, perspective, conjugate.

The formulas of `rlhfsim.divergences` for torch, `a, b >= 0` and not both 0.  torch has no Wright
omega function; `inverse_link` iterates on the ratio itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LARGEST = torch.finfo(torch.float64).max

# f(1 + u) = u v + 2 (1 + u) (v^3/3 + v^5/5 + ...), v = u/(2 + u): |v| <= 1/31 for |u| <= 1/16,
# where 6 terms reach 1e-18 of the sum; beyond, the written-out form loses less than 40 ulp.
_NEAR = 0.0625
_SERIES_TERMS = 6


def link(ratio: Tensor, a: float, b: float) -> Tensor:
    """Return `f'(t) = a (t - 1) + b log t`."""
    if b == 0:
        return a * (ratio - 1.0)
    return a * (ratio - 1.0) + b * ratio.log() if a else b * ratio.log()


def link_slope(ratio: Tensor, a: float, b: float) -> Tensor:
    """Return `f''(t) = a + b/t`."""
    return a + b / ratio if b else torch.full_like(ratio, a)


def inverse_link(score: Tensor, a: float, b: float) -> Tensor:
    """Return the `t >= 0` with `f'(t) = s`, or 0 where `s < f'(0+)`, to a few ulp.

    For `a, b > 0` it is `gamma omega((s + a)/b - log gamma)`, `gamma = b/a`, omega the Wright
    omega function.
    """
    if b == 0:
        return (1.0 + score / a).clamp_min(0.0)
    if a == 0:
        return (score / b).exp()
    ratio = _start(score, a, b)
    for _ in range(2):
        ratio = _fourth_order(ratio, score, a, b)
    # One Newton step in log t: the error of the previous ones is that of rounding.
    step = (score - link(ratio, a, b)) / (a * ratio + b)
    return torch.where(step.abs() < 1e-3, ratio * (1.0 + step), ratio)


def _start(score: Tensor, a: float, b: float) -> Tensor:
    """Return the inverse link within about 10 %, from three pieces of the omega function."""
    gamma = b / a
    z = ((score + a) / b - math.log(gamma)).clamp(-_LARGEST, _LARGEST)
    # Expansions at -inf, at z = 1 and at +inf.
    low = z.exp()
    low = low / (1.0 + low * (1.0 - 0.5 * low))
    u = z - 1.0
    middle = 1.0 + u * (0.5 + u * (0.0625 - u * (1.0 / 192.0)))
    log_z = z.clamp_min(1.0).log()
    high = z - log_z * (1.0 - 1.0 / z.clamp_min(1.0))
    omega = torch.where(z < -1.0, low, torch.where(z < 4.0, middle, high))
    # (s + a)/b overflows before (s + a)/a does.
    return torch.where(z < 1e300, gamma * omega, (score + a) / a)


def _fourth_order(ratio: Tensor, score: Tensor, a: float, b: float) -> Tensor:
    """Return the next iterate, of fourth order.

    With `omega = t/gamma`, Newton's step in log t is `delta = (s - f'(t))/(a t + b)`, and the
    iteration of the source becomes `t (1 + delta (base - k delta)/(base - 2 k delta))`,
    `base = 2 + 4 delta/3`, `k = b/(a t + b)`.

    Source: Fritsch, Shafer & Crowley (1973), "Solution of the transcendental equation
    w e^w = x", CACM 16, algorithm 443.
    """
    slope = a * ratio + b
    delta = (score - link(ratio, a, b)) / slope
    turn = (b / slope) * delta
    base = 2.0 + (4.0 / 3.0) * delta
    following = ratio * (1.0 + delta * (base - turn) / (base - 2.0 * turn))
    # Where t underflows or overflows, the start is as good as the floats are.
    return torch.where((ratio > 0) & following.isfinite(), following, ratio)


def perspective(policy: Tensor, reference: Tensor, a: float, b: float) -> Tensor:
    """Return `p f(pi/p)` elementwise, for `reference > 0`, without cancellation near `pi = p`."""
    difference = policy - reference
    excess = difference / reference
    total = 0.5 * a * difference * excess if a else torch.zeros_like(excess)
    return total + b * _entropy_perspective(policy, reference, excess) if b else total


def _entropy_perspective(policy: Tensor, reference: Tensor, excess: Tensor) -> Tensor:
    """Return `pi log(pi/p) - pi + p`, `excess = pi/p - 1`."""
    ratio = policy / reference
    # pi/p overflows only for references below 1e-308.
    log_ratio = torch.where(ratio.isfinite(), ratio.log(), policy.log() - reference.log())
    far = torch.where(policy > 0, policy * log_ratio, 0.0) - (policy - reference)
    near = excess.abs() <= _NEAR
    u = torch.where(near, excess, 0.0)
    v = u / (2.0 + u)
    square = v * v
    series = torch.zeros_like(v)
    for k in range(_SERIES_TERMS, 0, -1):
        series = (series + 1.0 / (2 * k + 1)) * square
    return torch.where(near, reference * (u * v + 2.0 * (1.0 + u) * v * series), far)


def conjugate_perspective(score: Tensor, reference: Tensor, a: float, b: float) -> Tensor:
    """Return `p f*(s)` elementwise, for `reference > 0`.

    For `a, b > 0` it is evaluated at `t = inverse_link(s)`, plus twice what t costs to second
    order if it is not quite the maximiser, so that a poor `inverse_link` shows as a duality gap.
    """
    if b == 0:
        s = (score / a).clamp_min(-1.0)
        return a * ((reference * s) * (1.0 + 0.5 * s))
    if a == 0:
        s = score / b
        half = (0.5 * s).exp()
        # In halves: e^s may overflow where p e^s does not.
        large = (reference * half) * half - reference
        return b * torch.where(s.abs() < 1, reference * s.clamp(-1.0, 1.0).expm1(), large)
    ratio = inverse_link(score, a, b)
    mass = reference * ratio
    missed = reference * ((score - link(ratio, a, b)) ** 2 / link_slope(ratio, a, b))
    inside = ratio > 0
    # At t = 0 (underflow) and beyond the floats there is nothing to add.
    missed = torch.where(inside & missed.isfinite(), missed, 0.0)
    return torch.where(inside, score * mass, 0.0) - perspective(mass, reference, a, b) + missed
