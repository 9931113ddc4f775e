"""Optima for any divergence of the package in mpmath: the second route behind `solve`.

Generators are written out once more here, in mpmath numbers; nothing is shared with the classes
of `rlhfsim.divergences`.  For one prompt and `F = beta sum_k c_k f_k`, the ratios are
`w = (F')^(-1)(d - lambda)`, by Newton's method in log w, and lambda is the root of the falling
function `sum_y p w - 1`, by Newton's method inside the bracket
`max_y [d_y - F'(1/p_y)] <= lambda <= max_y [d_y - F'(1/(Y p_y))]`: no mass exceeds 1, and some mass
is at least 1/Y.  With a finite `R = F'(inf)`, lambda is at least `max_{p=0} d - R`, and what the
ratios leave there goes to those responses.

Source: stationarity and duality derived; generators in `rlhfsim.divergences`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlhfsim.divergences import (
    KL,
    AlphaDivergence,
    ChiSquared,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)

# mpmath carries no types: an mpf and the context it is computed in are Any.
Mpf = Any
Context = Any

_MAX_STEPS = 10_000


@dataclass(frozen=True)
class Generator:
    """`f`, `f'` and `f''` for `t > 0`, and their limits, as functions of mpmath numbers."""

    value: Callable[[Mpf], Mpf]
    link: Callable[[Mpf], Mpf]
    slope: Callable[[Mpf], Mpf]
    #: f(0), f'(0+) and f'(inf).
    at_zero: Mpf
    link_at_zero: Mpf
    recession: Mpf


def written_out(mp: Context, base: Divergence) -> Generator | None:
    """Return the generator of one of the package's divergences, or None for any other."""
    inf, one = mp.inf, mp.mpf(1)
    if base == KL():
        return Generator(lambda t: t * mp.log(t) - t + 1, mp.log, lambda t: 1 / t, one, -inf, inf)
    if base == ChiSquared():
        return Generator(
            lambda t: (t - 1) ** 2 / 2, lambda t: t - 1, lambda t: one, one / 2, -one, inf
        )
    if base == ForwardKL():
        return Generator(
            lambda t: t - 1 - mp.log(t), lambda t: 1 - 1 / t, lambda t: t**-2, inf, -inf, one
        )
    if base == SquaredHellinger():
        return Generator(
            lambda t: t - 2 * mp.sqrt(t) + 1,
            lambda t: 1 - 1 / mp.sqrt(t),
            lambda t: 1 / (2 * t * mp.sqrt(t)),
            one,
            -inf,
            one,
        )
    if base == JensenShannon():
        half_log_2 = mp.log(2) / 2
        return Generator(
            lambda t: (t * mp.log(t) - (t + 1) * mp.log((t + 1) / 2)) / 2,
            lambda t: mp.log(2 * t / (1 + t)) / 2,
            lambda t: 1 / (2 * t * (1 + t)),
            half_log_2,
            -inf,
            half_log_2,
        )
    if isinstance(base, AlphaDivergence):
        return _alpha(mp, mp.mpf(base.alpha))
    return None


def _alpha(mp: Context, a: Mpf) -> Generator:
    return Generator(
        lambda t: (t**a - 1 - a * (t - 1)) / (a * (a - 1)),
        lambda t: (t ** (a - 1) - 1) / (a - 1),
        lambda t: t ** (a - 2),
        1 / a if a > 0 else mp.inf,
        1 / (1 - a) if a > 1 else -mp.inf,
        1 / (1 - a) if a < 1 else mp.inf,
    )


def total(terms: list[tuple[Mpf, Generator]]) -> Generator:
    """Return `sum_k c_k f_k`."""
    return Generator(
        lambda t: sum(c * f.value(t) for c, f in terms),
        lambda t: sum(c * f.link(t) for c, f in terms),
        lambda t: sum(c * f.slope(t) for c, f in terms),
        sum(c * f.at_zero for c, f in terms),
        sum(c * f.link_at_zero for c, f in terms),
        sum(c * f.recession for c, f in terms),
    )


def general_optimum(
    mp: Context, r: list[Mpf], p: list[Mpf], f: Generator, digits: int
) -> list[Mpf]:
    """Return multiplier, value and policy for `max_pi E_pi[r] - sum_y p f(pi/p)`."""
    inside = [q > 0 for q in p]
    top = max(x for x, q in zip(r, inside, strict=True) if q)
    d = [x - top for x, q in zip(r, inside, strict=True) if q]
    mass = [q for q in p if q > 0]
    ratios, multiplier, left = None, None, mp.mpf(0)
    outside = [x - top for x, q in zip(r, inside, strict=True) if not q]
    if outside and mp.isfinite(f.recession):
        multiplier = max(outside) - f.recession
        if all(x - multiplier < f.recession for x in d):
            ratios = [_ratio(mp, f, x - multiplier, None) for x in d]
            left = 1 - sum(q * w for q, w in zip(mass, ratios, strict=True))
        if ratios is None or left < 0:
            ratios, left = None, mp.mpf(0)
    if ratios is None:
        ratios, multiplier = _root(mp, d, mass, f, digits)
    winners = sum(x == max(outside) for x in outside) if left else 1
    cost = sum(q * (f.value(w) if w else f.at_zero) for q, w in zip(mass, ratios, strict=True)) + (
        left * f.recession if left else 0
    )
    found = iter(ratios)
    policy = [
        q * next(found) if q > 0 else left / winners if left and x - top == max(outside) else q
        for x, q in zip(r, p, strict=True)
    ]
    gain = sum(x * (y - top) for x, y in zip(policy, r, strict=True))
    return [top + multiplier, top + gain - cost, *policy]


def _root(
    mp: Context, d: list[Mpf], mass: list[Mpf], f: Generator, digits: int
) -> tuple[list[Mpf], Mpf]:
    """Return the ratios and the lambda at which they sum to 1."""
    low = max(x - f.link(1 / q) for x, q in zip(d, mass, strict=True))
    high = max(x - f.link(1 / (len(d) * q)) for x, q in zip(d, mass, strict=True))
    tolerance = mp.mpf(10) ** -(digits + 10)
    multiplier = low
    ratios: list[Mpf | None] = [None] * len(d)
    for _ in range(_MAX_STEPS):
        ratios = [_ratio(mp, f, x - multiplier, w) for x, w in zip(d, ratios, strict=True)]
        excess = sum(q * w for q, w in zip(mass, ratios, strict=True)) - 1
        if abs(excess) <= tolerance:
            return ratios, multiplier
        if excess > 0:
            low = multiplier
        else:
            high = multiplier
        slope = sum(q / f.slope(w) for q, w in zip(mass, ratios, strict=True) if w)
        trial = multiplier + excess / slope
        multiplier = trial if low < trial < high else (low + high) / 2
    raise RuntimeError(f"no multiplier in {_MAX_STEPS} steps")


def _ratio(mp: Context, f: Generator, score: Mpf, guess: Mpf | None) -> Mpf:
    """Return the w with `f'(w) = score`, 0 where there is none, by Newton's method in log w.

    The equation is taken in logarithms where the link is close to a power: near a finite
    recession, and for scores beyond `f''(1)` in size.
    """
    if score <= f.link_at_zero:
        return mp.mpf(0)
    bounded = mp.isfinite(f.recession)
    low, high = mp.mpf("-inf"), mp.mpf("inf")
    x = mp.log(guess) if guess else mp.mpf(0)
    small = mp.sqrt(mp.eps) / 2**20
    unit = f.slope(mp.mpf(1))
    for _ in range(_MAX_STEPS):
        w = mp.exp(x)
        value = f.link(w)
        low, high = (max(low, x), high) if value <= score else (low, min(high, x))
        rise = w * f.slope(w)
        step = (score - value) / rise
        if bounded and score > 0:
            gap = f.recession - value
            step = mp.log(gap / (f.recession - score)) * gap / rise if gap > 0 else step
        elif abs(score) > unit and value * score > 0:
            step = mp.log(score / value) * value / rise
        if abs(step) < small:
            return mp.exp(x + step)
        x = _inside(mp, x + step, low, high)
    raise RuntimeError(f"no ratio in {_MAX_STEPS} steps")


def _inside(mp: Context, x: Mpf, low: Mpf, high: Mpf) -> Mpf:
    """Return x, or a point of the bracket in its stead."""
    if low < x < high and abs(x) < 10**6:
        return x
    if mp.isfinite(low) and mp.isfinite(high):
        return (low + high) / 2
    return (
        2 * low + 1
        if mp.isfinite(low) and low > 0
        else (low + 1 if mp.isfinite(low) else (2 * high - 1 if high < 0 else high - 1))
    )
