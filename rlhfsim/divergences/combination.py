"""Positive combinations of divergences, `a ChiSquared() + b KL()` among them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import Divergence
from rlhfsim.divergences.chi_squared import ChiSquared
from rlhfsim.divergences.inversion import LARGEST, invert_decreasing, invert_increasing
from rlhfsim.divergences.kl import KL
from rlhfsim.special import wright_omega


def combine(*terms: tuple[float, Divergence]) -> Divergence:
    """Return `sum_k weight_k base_k` with equal bases merged; a lone base of weight 1 is itself."""
    weights: dict[Divergence, float] = {}
    for weight, base in terms:
        weights[base] = weights.get(base, 0.0) + weight
    for base, weight in weights.items():
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"weight of {base} is {weight!r}; it must be positive and finite")
    if list(weights.values()) == [1.0]:
        return next(iter(weights))
    ordered = sorted(weights.items(), key=lambda item: repr(item[0]))
    return Combination(tuple((weight, base) for base, weight in ordered))


@dataclass(frozen=True, repr=False)
class Combination(Divergence):
    """`sum_k c_k D_{f_k}` with `c_k > 0`; built by `+` and `*`, not directly.

    `D_chi2 + gamma KL` is the mixed divergence of chiPO (arXiv 2407.13399; gamma = 1
    there).
    """

    weighted: tuple[tuple[float, Divergence], ...]

    def __repr__(self) -> str:
        return " + ".join(f"{w:g} * {b!r}" if w != 1 else repr(b) for w, b in self.weighted)

    def terms(self) -> tuple[tuple[float, Divergence], ...]:
        """Return `((weight, base), ...)`."""
        return self.weighted

    @property
    def recession(self) -> float:
        """The weighted sum of the terms' recessions."""
        return sum(weight * base.recession for weight, base in self.weighted)

    def perspective(self, policy: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return the weighted sum of the terms' perspectives."""
        return self._weighted_sum([b.perspective(policy, reference) for _, b in self.weighted])

    def link(self, ratio: ArrayLike) -> FloatArray:
        """Return the weighted sum of the terms' links."""
        return self._weighted_sum([base.link(ratio) for _, base in self.weighted])

    def link_slope(self, ratio: ArrayLike) -> FloatArray:
        """Return the weighted sum of the terms' link slopes."""
        return self._weighted_sum([base.link_slope(ratio) for _, base in self.weighted])

    def inverse_link(self, score: ArrayLike) -> FloatArray:
        """Return the ratio at which the combined link is `score`.

        For `a ChiSquared() + b KL()`, with `gamma = b/a`:
        `t = gamma omega((s/a + 1)/gamma - log gamma)`, omega the Wright omega function.
        """
        score = np.asarray(score, dtype=np.float64)
        if len(self.weighted) == 1:
            weight, base = self.weighted[0]
            return base.inverse_link(_divided(score, weight))
        weights = {type(base): weight for weight, base in self.weighted}
        if weights.keys() == {ChiSquared, KL}:
            return self._inverse_mixed(score, weights[ChiSquared], weights[KL])
        return self._inverse_numeric(score)

    def tail(self, ratio: ArrayLike) -> FloatArray:
        """Return the weighted sum of the terms' tails."""
        return self._weighted_sum([base.tail(ratio) for _, base in self.weighted])

    def inverse_tail(self, deficit: ArrayLike) -> FloatArray:
        """Return the ratio at which the combined tail is `deficit`."""
        deficit = np.asarray(deficit, dtype=np.float64)
        if len(self.weighted) == 1:
            weight, base = self.weighted[0]
            return base.inverse_tail(_divided(deficit, weight))
        total = sum(weight for weight, _ in self.weighted)
        ends = np.stack([base.inverse_tail(_divided(deficit, total)) for _, base in self.weighted])
        low, high = _widened(ends.min(axis=0), ends.max(axis=0))
        return invert_decreasing(self.tail, self.link_slope, deficit, low, high)

    def conjugate_perspective(self, score: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p f*(s)`; for a single term, `(c f)*(s) = c f*(s/c)`."""
        if len(self.weighted) == 1:
            weight, base = self.weighted[0]
            scaled = _divided(np.asarray(score, dtype=np.float64), weight)
            return weight * base.conjugate_perspective(scaled, reference)
        return super().conjugate_perspective(score, reference)

    def conjugate_tail(self, deficit: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p f*(recession - u)`; for a single term, `c p f*(recession - u/c)` of it."""
        if len(self.weighted) == 1:
            weight, base = self.weighted[0]
            scaled = _divided(np.asarray(deficit, dtype=np.float64), weight)
            return weight * base.conjugate_tail(scaled, reference)
        return super().conjugate_tail(deficit, reference)

    def _inverse_mixed(self, score: FloatArray, chi_squared: float, kl: float) -> FloatArray:
        gamma = kl / chi_squared
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            ratio = gamma * wright_omega((score + chi_squared) / kl - math.log(gamma))
            # One Newton step in log t: the offset log(gamma) above costs |log gamma| ulp.
            step = (score - chi_squared * (ratio - 1.0) - kl * np.log(ratio)) / (
                chi_squared * ratio + kl
            )
            polished = ratio * (1.0 + step)
        return np.where(np.abs(step) < 1e-3, polished, ratio)

    def _inverse_numeric(self, score: FloatArray) -> FloatArray:
        # Between the smallest and the largest t with f_k'(t) = s / sum(c), all f_k' straddle s.
        total = sum(weight for weight, _ in self.weighted)
        ends = np.stack([base.inverse_link(_divided(score, total)) for _, base in self.weighted])
        low, high = _widened(ends.min(axis=0), ends.max(axis=0))
        return invert_increasing(self.link, self.link_slope, score, low, high)

    def _weighted_sum(self, values: list[FloatArray]) -> FloatArray:
        # A user's class may return plain numbers for numbers.
        total = np.zeros(np.broadcast_shapes(*(np.shape(v) for v in values)))
        for (weight, _), value in zip(self.weighted, values, strict=True):
            total = total + weight * value
        return total


def _widened(low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return a bracket wider than the rounding of its ends."""
    with np.errstate(over="ignore", under="ignore"):
        return low * (1.0 - 1e-6), high * (1.0 + 1e-6)


def _divided(score: FloatArray, weight: float) -> FloatArray:
    """Return `score / weight`, kept among the floats."""
    with np.errstate(over="ignore", under="ignore"):
        return np.clip(score / weight, -LARGEST, LARGEST)
