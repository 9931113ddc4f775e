"""The multiplier of each row: three root finders on float64 tensors.

Each takes scaled rewards `d = (r - r_k)/beta` relative to an anchor response k, the reference `p`
(both `(N, Y)`), the weights a of chi-squared and b of KL, and a guess of the multiplier or None;
it returns the policy and the multiplier `(N,)`, relative to the anchor and in units of beta.
They use no sort, and each row's root depends on that row alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhfsim.solvers.solution import rounding
from rlhfsim.solvers.tensors.mixed import inverse_link, link, link_slope


def find_root(
    d: Tensor, p: Tensor, a: float, b: float, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return `(policy, multiplier)` by the method that the weights call for."""
    if a == 0:
        return _gibbs(d, p, b)
    if b == 0:
        return _active_set(d, p, a, start)
    return _newton(d, p, a, b, start)


def _gibbs(d: Tensor, p: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """For `weight KL`: `pi = p e^(d/weight) / Z`, `lambda = weight log Z`."""
    inside = p > 0
    s = torch.where(inside, d / weight, 0.0)
    best = torch.where(inside, p.log() + s, -torch.inf).argmax(dim=-1, keepdim=True)
    s_best, p_best = s.gather(-1, best), p.gather(-1, best)
    # Relative to the largest p e^s, and in halves: e^(s - s_best) may overflow, or 1/p_best.
    half, root = (0.5 * (s - s_best)).exp(), p_best.sqrt()
    weights = torch.where(inside, (p / root * half) * (half / root), 0.0)
    total = weights.sum(dim=-1, keepdim=True)
    # log Z = log1p(sum p (e^s - 1) + (sum p - 1)) keeps lambda's digits at large beta.
    grown = (0.5 * s).exp()
    change = torch.where(s.abs() < 1, p * s.clamp(-1.0, 1.0).expm1(), (p * grown) * grown - p)
    excess = torch.where(inside, change, 0.0).sum(dim=-1) + (p.sum(dim=-1) - 1.0)
    log_total = (total.log() + p_best.log() + s_best)[:, 0]
    log_z = torch.where(excess.abs() < 0.5, excess.clamp_min(-0.5).log1p(), log_total)
    return weights / total, weight * log_z


def _active_set(d: Tensor, p: Tensor, c: float, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """For `c D_chi2`: `w = [1 + (d - lambda)/c]_+`, by Newton's method on `sum_y p w = 1`.

    The sum is convex and piecewise linear in lambda, so each step solves it for the active set S
    of the last one, and after the first step S only shrinks; it ends, exactly, when S repeats.
    With K the last of S, `P = sum_S p` and `T = sum_S p (d - d_K)`:
    `w = (1 - T/c)/P + (d - d_K)/c` on S and `lambda = d_K + T/P - c (1 - P)/P`, in which no sum
    has terms of both signs.
    """
    inside = p > 0
    best = inside & (d == torch.where(inside, d, -torch.inf).amax(dim=-1, keepdim=True))
    allowed = inside
    active = inside if start is None else (inside & (d > start[:, None] - c)) | best
    while True:
        mass = torch.where(active, p, 0.0)
        lowest = torch.where(active, d, torch.inf).amin(dim=-1, keepdim=True)
        above = d - lowest
        total = mass.sum(dim=-1, keepdim=True)
        missing = (mass * above).sum(dim=-1, keepdim=True)
        following = (allowed & (above * total > missing - c)) | best
        if torch.equal(following, active):
            break
        active = allowed = following
    # missing < c but for the rounding of the two sums.
    common = (1.0 - missing / c).clamp_min(0.0) / total
    policy = torch.where(active, mass * common + mass * (above / c), 0.0)
    return policy, (lowest + missing / total - c * ((1.0 - total) / total))[:, 0]


_MAX_PASSES = 400


class _Mass:
    """`H(lambda) - 1 = sum_y p inverse_link(d - lambda) - 1` and its slope, for some rows."""

    def __init__(self, d: Tensor, p: Tensor, a: float, b: float) -> None:
        self.d, self.p, self.a, self.b = d, p, a, b

    def ratios(self, d: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return w and dw/ds at scores `d - at`."""
        w = inverse_link(d - at[:, None], self.a, self.b)
        return w, torch.where(w > 0, 1.0 / link_slope(w, self.a, self.b), 0.0)

    def __call__(self, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return `H - 1` and `-dH/dlambda` of the rows with these indices."""
        everything = len(rows) == len(self.d)
        d, p = (self.d, self.p) if everything else (self.d[rows], self.p[rows])
        w, slope = self.ratios(d, at)
        return (p * w).sum(dim=-1) - 1.0, (p * slope).sum(dim=-1)


def _newton(
    d: Tensor, p: Tensor, a: float, b: float, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Safeguarded Newton on `H(lambda) = 1`, kept from the left, where `H >= 1`.

    H falls and is convex in lambda, so the plain Newton step never passes the root; the step on
    log H, longer, is tried first.  Rows that are done drop out.
    """
    mass = _Mass(d, p, a, b)
    rows = torch.arange(len(d), device=d.device)
    low, high, excess, slope = _bracket(mass, rows, start)
    # After the long step fell short, the long one again; after it overshot, the short one.
    bold = torch.ones_like(low, dtype=torch.bool)
    # Newton's step from the right end, where there is one: it lands to the left of the root.
    back = torch.full_like(low, torch.nan)
    for _ in range(_MAX_PASSES):
        trial = _step(low[rows], high[rows], excess[rows], slope[rows], bold[rows], back[rows])
        going = (excess[rows] > rounding(p.shape[-1]) / 8) & (trial > low[rows])
        going &= trial < high[rows]
        rows, trial = rows[going], trial[going]
        if len(rows) == 0:
            break
        trial_excess, trial_slope = mass(rows, trial)
        left = trial_excess >= 0
        back[rows] = torch.where(left, torch.nan, trial + trial_excess / trial_slope)
        bold[rows] = left
        low[rows] = torch.where(left, trial, low[rows])
        high[rows] = torch.where(left, high[rows], trial)
        excess[rows] = torch.where(left, trial_excess, excess[rows])
        slope[rows] = torch.where(left, trial_slope, slope[rows])

    w, slopes = mass.ratios(d, low)
    correction = ((p * w).sum(dim=-1) - 1.0) / (p * slopes).sum(dim=-1)
    # The last correction is made in w, where it is not rounded to the spacing of lambda.
    policy = p * (w - slopes * correction[:, None])
    return torch.where(p > 0, policy, 0.0), low


def _bracket(
    mass: _Mass, rows: Tensor, start: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return `(low, high, excess at low, slope at low)` with `H(low) >= 1 >= H(high)`.

    `[min d, max d] - f'(1/sum p)` brackets the root because all ratios are >= 1/sum p at its left
    end and <= at its right end.  A better left end comes from `start`, or from Jensen: at
    `lambda = E_p d` a convex inverse link has `H >= 1`.
    """
    d, p = mass.d, mass.p
    total = p.sum(dim=-1)
    shift = link(1.0 / total, mass.a, mass.b)
    low = torch.where(p > 0, d, torch.inf).amin(dim=-1) - shift
    high = torch.where(p > 0, d, -torch.inf).amax(dim=-1) - shift
    guess = (p * d).sum(dim=-1) / total - shift.abs() if start is None else start
    at = guess.maximum(low).minimum(high)
    excess, slope = mass(rows, at)
    # From the right of the root a Newton step lands on its left, to rounding.
    leftwards = at + 1.001 * (excess / slope)
    left = excess >= 0
    high = torch.where(left, high, at)
    inner = torch.where(left, at, leftwards)
    inner = torch.where((inner > low) & (inner < high), inner, low)
    for candidate in (inner, low):
        redo = (~left).nonzero()[:, 0]
        if len(redo) == 0:
            break
        at = torch.where(left, at, candidate)
        excess[redo], slope[redo] = mass(redo, at[redo])
        left = (excess >= 0) | (at == low)
    return at, high, excess, slope


def _step(
    low: Tensor, high: Tensor, excess: Tensor, slope: Tensor, bold: Tensor, back: Tensor
) -> Tensor:
    """Return the next point to try: the first of several that lies strictly inside the bracket."""
    plain = low + excess / slope
    stretched = low + excess.log1p() * (1.0 + excess) / slope
    # A plain step from far away passes the root by rounding; a bit less of it does not.
    shortened = low + 0.999 * (excess / slope)
    trial = torch.where(bold & (stretched < high), stretched, plain)
    for other in (back, shortened, low + 0.5 * (high - low)):
        trial = torch.where((trial > low) & (trial < high), trial, other)
    return trial
