"""What a preference model is: one probability, and everything that follows from it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.preferences.indices import Indices, as_comparisons


class PreferenceModel(ABC):
    """The law of a comparison: `P(y beats y' | x)`, with `P(y beats y') + P(y' beats y) = 1`.

    A new model is one subclass with the two members marked abstract.  `_probability` must keep the
    relative precision of small probabilities, give exactly 1/2 for `first == second`, and take the
    indices as they are: every public method has checked them.  The other members with a leading
    underscore are worth writing where a class has a formula that is exact where the default
    cancels or underflows.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """`(X, Y)`: the numbers of prompts and of responses."""

    @abstractmethod
    def _probability(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        """Return `P(first beats second | prompt)`."""

    # ---- worth overriding -------------------------------------------------------------------

    def _log_small(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        """Return `log P` where `P <= 1/2`; elsewhere anything."""
        with np.errstate(divide="ignore"):
            return np.log(self._probability(prompt, first, second))

    def _log_probability(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        """Return `log P`, with the digits of `1 - P` where P is near 1."""
        p = self._probability(prompt, first, second)
        q = self._probability(prompt, second, first)
        log_p = self._log_small(prompt, first, second)
        with np.errstate(divide="ignore"):
            return np.where(p > 0.5, np.log1p(-q), log_p)

    def _log_odds(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        """Return `log P(first beats second) - log P(second beats first)`."""
        forth = self._log_probability(prompt, first, second)
        return forth - self._log_probability(prompt, second, first)

    def _margin(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        """Return `P(first beats second) - P(second beats first)`, exactly antisymmetric."""
        forth = self._probability(prompt, first, second)
        return forth - self._probability(prompt, second, first)

    def _margin_error(self, prompt: IntArray, first: IntArray, second: IntArray) -> FloatArray:
        """Return a bound on the rounding error of `_margin` as far as it could change the sign."""
        return np.zeros(np.broadcast_shapes(prompt.shape, first.shape, second.shape))

    def _majority(self, prompt: IntArray, first: IntArray, second: IntArray) -> NDArray[np.int8]:
        """Return the sign of the margin, 0 where rounding alone could have made it."""
        margin = self._margin(prompt, first, second)
        decided = np.abs(margin) > self._margin_error(prompt, first, second)
        return np.where(decided, np.sign(margin), 0.0).astype(np.int8)

    # ---- derived once, for every model ------------------------------------------------------

    def probability(self, prompt: ArrayLike, first: ArrayLike, second: ArrayLike) -> FloatArray:
        """Return `P(first beats second | prompt)`.

        Parameters
        ----------
        prompt, first, second : arrays of integers that broadcast, not empty

        Returns
        -------
        array of the common shape
            1/2 exactly where `first == second`.

        Raises
        ------
        ValueError
            For indices that are not integers or out of range, and shapes that do not broadcast.
        """
        return np.asarray(self._probability(*self._compared(prompt, first, second)))

    def log_probability(self, prompt: ArrayLike, first: ArrayLike, second: ArrayLike) -> FloatArray:
        """Return `log P(first beats second | prompt)`, in nats; as `probability`.

        It keeps its digits also where P underflows or rounds to 1; `-inf` where P is 0.
        """
        return np.asarray(self._log_probability(*self._compared(prompt, first, second)))

    def log_odds(self, prompt: ArrayLike, first: ArrayLike, second: ArrayLike) -> FloatArray:
        """Return `log P - log(1 - P)`, in nats; as `probability`.  `+-inf` where P is 1 or 0."""
        return np.asarray(self._log_odds(*self._compared(prompt, first, second)))

    def margin(self, prompt: ArrayLike, first: ArrayLike, second: ArrayLike) -> FloatArray:
        """Return the margin `l = P(first beats second) - P(second beats first) = 2 P - 1`.

        As `probability`, with values in [-1, 1]; `l(y, y') = -l(y', y)` exactly, and small margins
        keep the digits that `2 P - 1` loses.
        """
        return np.asarray(self._margin(*self._compared(prompt, first, second)))

    def majority(self, prompt: ArrayLike, first: ArrayLike, second: ArrayLike) -> NDArray[np.int8]:
        """Return 1 where `first` beats `second` with `P > 1/2`, 0 for ties, -1 otherwise.

        As `probability`.  A comparison is a tie when its margin is 0 up to a bound on its own
        rounding error.  The bound is 0 for models that compute the sign without error, which are
        `BradleyTerry`, `TrajectoryPreference`, `GeneralPreference` and label noise on one of them.
        """
        return self._majority(*self._compared(prompt, first, second))

    def tensor(self) -> FloatArray:
        """Return the `(X, Y, Y)` array of `P(y beats y' | x)`."""
        return self._probability(*self._all_pairs())

    def margin_tensor(self) -> FloatArray:
        """Return the `(X, Y, Y)` array of margins `P(y beats y' | x) - P(y' beats y | x)`."""
        return self._margin(*self._all_pairs())

    def first_wins(
        self, prompt: IntArray, first: IntArray, second: IntArray, uniforms: FloatArray
    ) -> BoolArray:
        """Return labels: `first` wins where a uniform number of [0, 1) is below P.

        Parameters
        ----------
        prompt, first, second : (n,) arrays of int64
            In range; they are not checked, because the samplers that call this drew them.
        uniforms : (n,) array
        """
        return np.asarray(uniforms < self._probability(prompt, first, second), dtype=np.bool_)

    def _compared(self, prompt: ArrayLike, first: ArrayLike, second: ArrayLike) -> Indices:
        return as_comparisons(self.shape, prompt, first, second)

    def _all_pairs(self, prompts: slice = slice(None)) -> Indices:
        """Return indices that broadcast to the `(B, Y, Y)` ordered pairs of some prompts."""
        n_prompts, n_responses = self.shape
        responses = np.arange(n_responses)
        return np.arange(n_prompts)[prompts, None, None], responses[:, None], responses


def complementary(forth: FloatArray, back: FloatArray) -> FloatArray:
    """Return `forth`, or `1 - back` where that is larger than 1/2, or 1/2 where the two are equal.

    Two sums that should add up to 1 do so to the last bit, and none exceeds 1.
    """
    return np.where(forth > back, 1.0 - back, np.where(forth < back, forth, 0.5))


def require_model(name: str, value: object) -> PreferenceModel:
    """Return `value` if it is a PreferenceModel."""
    if not isinstance(value, PreferenceModel):
        raise ValueError(f"{name} is a {type(value).__name__}; it must be a PreferenceModel")
    return value
