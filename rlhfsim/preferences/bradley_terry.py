"""Bradley-Terry: the log-odds of a comparison are a difference of rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.frozen import Frozen
from rlhfsim.preferences.base import PreferenceModel


@dataclass(frozen=True, eq=False)
class BradleyTerry(Frozen, PreferenceModel):
    """`P(y beats y' | x) = sigma((r(x, y) - r(x, y')) / temperature)`, `sigma(t) = 1/(1 + e^-t)`.

    `P + P^T = 1` within 1 ulp of 1 (2.2e-16).  Any finite rewards are taken: large gaps give 0
    and 1.  A low temperature is a rater who follows the reward closely.

    Parameters
    ----------
    reward : (X, Y) array
        In reward units; copied and read-only.
    temperature : number
        Positive, in reward units.

    Raises
    ------
    ValueError
        For a reward that is not a finite `(X, Y)` array, or a temperature that is not positive.

    Source: Bradley and Terry 1952; arXiv 2407.13399.
    """

    reward: FloatArray
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        reward = checks.frozen(checks.as_matrix("reward", self.reward))
        temperature = checks.positive_number("temperature", self.temperature)
        object.__setattr__(self, "reward", reward)
        object.__setattr__(self, "temperature", temperature)

    @property
    def shape(self) -> tuple[int, int]:
        """`(X, Y)`."""
        return self.reward.shape[0], self.reward.shape[1]

    def _log_odds(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        """Return the gap of rewards over the temperature."""
        first_reward, second_reward = self.reward[prompt, first], self.reward[prompt, second]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            gap = first_reward - second_reward
            odds = np.asarray(gap / self.temperature)
            overflowed = np.isinf(gap)
            if overflowed.any():
                # Rewards of opposite signs near the largest float, whose difference by a large
                # temperature need not be large.
                scaled = first_reward / self.temperature - second_reward / self.temperature
                odds = np.where(overflowed, scaled, odds)
        return odds

    def _probability(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        return np.asarray(expit(self._log_odds(prompt, first, second)))

    def _log_probability(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        return np.asarray(log_expit(self._log_odds(prompt, first, second)))

    def _margin(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        """Return `2 sigma(t) - 1 = tanh(t/2)`, accurate for gaps of any size."""
        return np.tanh(0.5 * self._log_odds(prompt, first, second))

    def _majority(self, prompt: IntArray, first: IntArray, second: IntArray) -> NDArray[np.int8]:
        """Return the order of the rewards, whatever underflows."""
        higher = self.reward[prompt, first] > self.reward[prompt, second]
        lower = self.reward[prompt, first] < self.reward[prompt, second]
        return np.subtract(higher, lower, dtype=np.int8)
