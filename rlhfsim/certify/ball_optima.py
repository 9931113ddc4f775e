"""Regularized optima of rows of `Number`s: KL and chi-squared in closed form, mixed by a root.

The ratios `w = pi/p` solve `f'(w) = (r - lambda)/beta` with `E_p[w] = 1`.  For
`D_chi2 + gamma KL` they are `gamma W(e^((s + 1)/gamma)/gamma)`, `s = (r - lambda)/beta`, W being
Lambert's function; lambda is enclosed by the signs of `E_p[w] - 1` on both sides of it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from flint import arb, ctx, fmpq

from rlhfsim.certify.arrays import balls
from rlhfsim.certify.ball_divergences import ZERO, Numbers, row_of, total
from rlhfsim.certify.numbers import Number, UndecidedError
from rlhfsim.divergences import KL, ChiSquared

#: From the reference and the reward on its support, and beta, to the ratios and the multiplier.
Optimum = Callable[[Numbers, Numbers, Number], tuple[Numbers, Number]]

#: Newton steps towards the multiplier, and how often its enclosure is widened.
_STEPS, _WIDENINGS = 2000, 20


def solve(reward: Any, reference: Any, divergence: Any, beta: Any, **_: Any) -> SimpleNamespace:
    """Return the optima of `c_1 D_chi2 + c_2 KL`: policy, multiplier, value and a gap of 0."""
    optimum = optimum_of(divergence)
    r, p, b = balls(reward), balls(reference), balls(beta)
    shape = np.broadcast_shapes(r.shape[:-1], p.shape[:-1], b.shape)
    policy = np.full((*shape, p.shape[-1]), ZERO, dtype=object)
    multiplier, scale = np.empty(shape, dtype=object), np.broadcast_to(b, shape)
    for index in itertools.product(*map(range, shape)):
        row, law = row_of(r, shape, index), row_of(p, shape, index)
        kept = [y for y, mass in enumerate(law) if mass > 0]
        masses, values = [law[y] for y in kept], [row[y] for y in kept]
        ratios, multiplier[index] = optimum(masses, values, scale[index])
        for y, ratio in zip(kept, ratios, strict=True):
            policy[(*index, y)] = law[y] * ratio
    found = balls(policy)
    value = (found * r).sum(axis=-1) - b * divergence.per_prompt(found, p)
    gap = balls(np.zeros(shape))
    return SimpleNamespace(policy=found, multiplier=balls(multiplier), value=value, gap=gap)


def optimum_of(divergence: Any) -> Optimum:
    """Return the optimum under `c_1 D_chi2 + c_2 KL`; a TypeError for other divergences."""
    weights: dict[type, Number] = {}
    for weight, base in divergence.terms():
        weights[type(base)] = weights.get(type(base), ZERO) + weight
    if not weights.keys() <= {KL, ChiSquared}:
        names = " + ".join(cls.__name__ for cls in weights)
        raise TypeError(f"the optimum of {names} has no formula in ball arithmetic")
    kl, chi2 = weights.get(KL, ZERO), weights.get(ChiSquared, ZERO)
    if kl == 0:
        return lambda p, r, beta: _chi2_optimum(p, r, chi2 * beta)
    if chi2 == 0:
        return lambda p, r, beta: _kl_optimum(p, r, kl * beta)
    return lambda p, r, beta: _mixed_optimum(p, r, chi2 * beta, kl / chi2)


def _kl_optimum(reference: Numbers, reward: Numbers, beta: Number) -> tuple[Numbers, Number]:
    """Return `e^((r - lambda)/beta)` and `lambda = beta log E_p[e^(r/beta)]`."""
    highest = _largest(reward)
    weights = [((value - highest) / beta).exp() for value in reward]
    mean = total(p * w for p, w in zip(reference, weights, strict=True))
    return [weight / mean for weight in weights], highest + beta * mean.log()


def _chi2_optimum(reference: Numbers, reward: Numbers, beta: Number) -> tuple[Numbers, Number]:
    """Return `max(0, 1 + (r - lambda)/beta)` and lambda; the active set is a run of the best."""
    cells = sorted(zip(reward, reference, strict=True), key=lambda cell: cell[0], reverse=True)
    mass, gain, found = ZERO, ZERO, ZERO
    for value, probability in cells:
        mass, gain = mass + probability, gain + probability * value
        # 1 + (r - lambda)/beta averages to 1/mass over the responses so far.
        multiplier = gain / mass - beta * (1 - mass) / mass
        if beta + value - multiplier <= 0:
            break
        found = multiplier
    return [(1 + (value - found) / beta).maximum(ZERO) for value in reward], found


def _largest(values: Numbers) -> Number:
    return functools.reduce(Number.maximum, values)


# ---- chi-squared plus gamma KL -------------------------------------------------------------------


def _mixed_optimum(
    reference: Numbers, reward: Numbers, beta: Number, gamma: Number
) -> tuple[Numbers, Number]:
    p, r = [number.ball for number in reference], [number.ball for number in reward]
    b, g = beta.ball, gamma.ball

    def ratios(multiplier: arb) -> list[arb]:
        return [g * ((((v - multiplier) / b + 1) / g).exp() / g).lambertw() for v in r]

    def excess(multiplier: arb) -> arb:
        """Return `E_p[w] - 1`, which falls, and is convex."""
        return sum((q * w for q, w in zip(p, ratios(multiplier), strict=True)), arb(-1))

    multiplier = functools.reduce(arb.min, r).mid()
    for _ in range(_STEPS):
        found = ratios(multiplier)
        slope = sum((q * w / (g + w) for q, w in zip(p, found, strict=True)), arb(0)) / b
        step = (excess(multiplier) / slope).mid()
        multiplier = (multiplier + step).mid()
        if abs(step) < _resolution(multiplier, b):
            break
    enclosed = _enclosed(excess, multiplier, _resolution(multiplier, b))
    return [Number(w) for w in ratios(enclosed)], Number(enclosed)


def _resolution(multiplier: arb, beta: arb) -> arb:
    return ((abs(multiplier) + beta) * arb(fmpq(1, 2 ** (ctx.prec - 12)))).upper()


def _enclosed(falling: Callable[[arb], arb], middle: arb, radius: arb) -> arb:
    """Return a ball that holds the zero of a falling function."""
    for _ in range(_WIDENINGS):
        if falling(middle - radius) > 0 and falling(middle + radius) < 0:
            return (middle - radius).union(middle + radius)
        radius = 8 * radius
    raise UndecidedError(f"the multiplier near {middle} is not enclosed")
