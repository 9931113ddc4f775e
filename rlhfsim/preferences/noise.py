"""Label noise: each label is turned round with a fixed probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.frozen import Frozen
from rlhfsim.preferences.base import PreferenceModel, complementary, require_model


@dataclass(frozen=True, eq=False)
class LabelNoise(Frozen, PreferenceModel):
    """`(1 - rate) P(y beats y' | x) + rate P(y' beats y | x)`: labels flipped at random.

    The margin shrinks by `1 - 2 rate`, so a rate below 1/2 keeps who beats whom, and 1/2 leaves
    nothing but ties.

    Parameters
    ----------
    model : PreferenceModel
        The law of the labels before the noise.
    rate : number
        Between 0 and 1/2.

    Raises
    ------
    ValueError
        If `model` is not a PreferenceModel or the rate is out of range.

    Source: arXiv 2403.00409 (random flips of preference labels).
    """

    model: PreferenceModel
    rate: float

    def __post_init__(self) -> None:
        """Validate."""
        require_model("model", self.model)
        rate = checks.positive_number("rate", self.rate, zero=True)
        if rate > 0.5:
            raise ValueError(f"rate is {rate!r}; it must be at most 1/2")
        object.__setattr__(self, "rate", rate)

    @property
    def shape(self) -> tuple[int, int]:
        """`(X, Y)`."""
        return self.model.shape

    def _probability(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        forth, back = (
            self.rate + (1.0 - 2.0 * self.rate) * self.model._probability(prompt, one, other)
            for one, other in ((first, second), (second, first))
        )
        return complementary(forth, back)

    def _log_small(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        kept = np.log1p(-self.rate) + self.model._log_probability(prompt, first, second)
        if self.rate == 0.0:
            return kept
        flipped = np.log(self.rate) + self.model._log_probability(prompt, second, first)
        return np.logaddexp(kept, flipped)

    def _margin(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        return (1.0 - 2.0 * self.rate) * self.model._margin(prompt, first, second)

    def _margin_error(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        return (1.0 - 2.0 * self.rate) * self.model._margin_error(prompt, first, second)

    def _majority(self, prompt: IntArray, first: IntArray, second: IntArray) -> NDArray[np.int8]:
        """Return the majority before the noise, or nothing but ties when the rate is 1/2."""
        majority = self.model._majority(prompt, first, second)
        return majority if self.rate < 0.5 else np.zeros_like(majority)
