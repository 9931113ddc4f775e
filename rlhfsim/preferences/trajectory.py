"""Trajectory preferences: a response is a sequence of steps whose rewards add up."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import fsum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.frozen import Frozen
from rlhfsim.preferences.base import PreferenceModel
from rlhfsim.preferences.bradley_terry import BradleyTerry

#: Stands in place of a step after the end of a response.
PADDING = -1


@dataclass(frozen=True, eq=False)
class TrajectoryPreference(Frozen, PreferenceModel):
    """Bradley-Terry on sums over steps: `r(x, y) = sum_h step_reward(x, y, h)`.

    The sums are correctly rounded, so responses with the same steps in another order have the
    same reward and tie.  Every number is that of `bradley_terry`, to the bit.

    Parameters
    ----------
    step_reward : (X, Y, H) array
        Rewards of the H steps of each response, 0 after its end; copied and read-only.
    temperature : number
        Positive, in reward units.

    Raises
    ------
    ValueError
        For a `step_reward` that is not a finite, non-empty `(X, Y, H)` array or whose sums
        overflow, or a temperature that is not positive.

    Source: arXiv 2310.17303; arXiv 2301.11270 (trajectory-based comparison).
    """

    step_reward: FloatArray
    temperature: float = 1.0
    #: The model of the summed rewards.
    bradley_terry: BradleyTerry = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Validate, copy, freeze and add up."""
        steps = checks.as_real("step_reward", self.step_reward)
        if steps.ndim != 3 or steps.size == 0:
            raise ValueError(
                f"step_reward has shape {steps.shape}; it must be a non-empty (X, Y, H) array"
            )
        model = BradleyTerry(_sums(steps), self.temperature)
        object.__setattr__(self, "step_reward", checks.frozen(steps))
        object.__setattr__(self, "temperature", model.temperature)
        object.__setattr__(self, "bradley_terry", model)

    @classmethod
    def from_steps(
        cls, steps: ArrayLike, step_value: ArrayLike, temperature: float = 1.0
    ) -> TrajectoryPreference:
        """Return the model in which a step (a token) has a value that depends on the prompt.

        `r(x, y) = sum_h step_value(x, steps(y, h))` over the steps before the end of y.

        Parameters
        ----------
        steps : (Y, H) array of integers
            Each row holds the steps of a response, then -1 up to the end of the row; a row of -1
            only is the empty response, of reward 0.
        step_value : (X, S) array
            In reward units.
        temperature : number

        Raises
        ------
        ValueError
            For steps that are not integers, not below S, or below -1; for a step after a -1; for
            values that are not a finite, non-empty `(X, S)` array.
        """
        value = checks.as_matrix("step_value", step_value)
        index = as_steps(steps, value.shape[1])
        rewards = np.where(index == PADDING, 0.0, value[:, np.maximum(index, 0)])
        return cls(rewards, temperature)

    @property
    def shape(self) -> tuple[int, int]:
        """`(X, Y)`."""
        return self.bradley_terry.shape

    @property
    def reward(self) -> FloatArray:
        """(X, Y) array of summed rewards, read-only."""
        return self.bradley_terry.reward

    def _probability(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        return self.bradley_terry._probability(prompt, first, second)

    def _log_probability(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        return self.bradley_terry._log_probability(prompt, first, second)

    def _log_odds(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        return self.bradley_terry._log_odds(prompt, first, second)

    def _margin(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        return self.bradley_terry._margin(prompt, first, second)

    def _majority(self, prompt: IntArray, first: IntArray, second: IntArray) -> NDArray[np.int8]:
        return self.bradley_terry._majority(prompt, first, second)


def _sums(steps: FloatArray) -> FloatArray:
    """Return the correctly rounded `(X, Y)` sums over the last axis."""
    total = np.empty(steps.shape[:2])
    for prompt, rows in enumerate(steps):
        for response, row in enumerate(rows.tolist()):
            try:
                total[prompt, response] = fsum(row)
            except OverflowError:
                raise ValueError(
                    f"step_reward[{prompt}, {response}] overflows when summed; "
                    "rewards must be finite"
                ) from None
    return total


def as_steps(steps: ArrayLike, n_values: int) -> IntArray:
    """Return the `(Y, H)` int64 array of steps, each below `n_values` and padded by -1."""
    array = np.asarray(steps)
    if isinstance(steps, np.ma.MaskedArray) or array.dtype.kind not in "iu":
        raise ValueError(f"steps is {steps!r:.80}; it must be a plain array of integers")
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"steps has shape {array.shape}; it must be a non-empty (Y, H) array")
    outside = (array < PADDING) | (array >= n_values)
    _refuse_step(array, outside, f"steps must be at least 0 and below {n_values}, or -1 at the end")
    ended = np.logical_or.accumulate(array == PADDING, axis=1)
    _refuse_step(array, ended & (array != PADDING), "no step may follow a -1")
    return array.astype(np.int64, copy=False)


def _refuse_step(array: IntArray, bad: BoolArray, rule: str) -> None:
    if bad.any():
        y, h = (int(i[0]) for i in np.nonzero(bad))
        raise ValueError(f"steps[{y}, {h}] is {array[y, h].item()}; {rule}")
