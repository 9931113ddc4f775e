"""Positive combinations of divergences, `a ChiSquared() + b KL()` among them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import Divergence
from rlhfsim.divergences.chi_squared import ChiSquared
from rlhfsim.divergences.kl import KL
from rlhfsim.special import wright_omega

_BISECTIONS = 200


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
            return base.inverse_link(score / weight)
        weights = {type(base): weight for weight, base in self.weighted}
        if weights.keys() == {ChiSquared, KL}:
            return self._inverse_mixed(score, weights[ChiSquared], weights[KL])
        return self._inverse_numeric(score)

    def conjugate_perspective(self, score: ArrayLike, reference: ArrayLike) -> FloatArray:
        """Return `p f*(s)`; for a single term, `(c f)*(s) = c f*(s/c)`."""
        if len(self.weighted) == 1:
            weight, base = self.weighted[0]
            scaled = np.asarray(score, dtype=np.float64) / weight
            return weight * base.conjugate_perspective(scaled, reference)
        return super().conjugate_perspective(score, reference)

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
        candidates = np.stack([base.inverse_link(score / total) for _, base in self.weighted])
        # Kept inside the positive floats: an inverse link may be 0 or infinite there.
        smallest, largest = 5e-324, np.finfo(np.float64).max
        low = np.maximum(candidates.min(axis=0), smallest)
        high = np.clip(candidates.max(axis=0), smallest, largest)
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            for _ in range(_BISECTIONS):
                # The geometric mean while the ends are far apart: ratios span hundreds of decades.
                middle = np.where(
                    low > 0.25 * high, low + 0.5 * (high - low), np.sqrt(low) * np.sqrt(high)
                )
                if np.all((middle <= low) | (middle >= high)):
                    break
                above = self.link(middle) > score
                low, high = np.where(above, low, middle), np.where(above, middle, high)
            gap_low, gap_high = score - self.link(low), self.link(high) - score
        nearest = np.where(np.abs(gap_low) < np.abs(gap_high), low, high)
        return np.asarray(np.where((low == smallest) & (gap_low < 0), 0.0, nearest))

    def _weighted_sum(self, values: list[FloatArray]) -> FloatArray:
        total = np.zeros(np.broadcast_shapes(*(v.shape for v in values)))
        for (weight, _), value in zip(self.weighted, values, strict=True):
            total = total + weight * value
        return total
