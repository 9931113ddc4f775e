"""Least squares over a finite class of rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import ScoreData
from rlhfsim.frozen import Frozen
from rlhfsim.rewards.finite_class import TieBreak, first_or_random_of_tied
from rlhfsim.rewards.result import RewardFit
from rlhfsim.rewards.score_sums import ScoreSums, as_score_sums

#: Largest number of terms of the loss held in memory at once.
_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class LeastSquaresClass(Frozen):
    """The rewards `r_1, ..., r_K`; the fit has the least `1/2 sum_i (s_i - r_k(x_i, y_i))^2`.

    Losses that differ by no more than rounding count as tied.  The fields of the fit are as for
    `LeastSquares`, with `index` and `tied`; the class is searched, so `gradient_norm` is None, and
    the estimate always exists.

    Parameters
    ----------
    rewards : (K, X, Y) array
        Finite; copied in and read-only.
    tie_break : function `(tied, rng) -> index`
        As for `FiniteClass`: by default the first of the tied rewards without a generator, and with
        one a uniformly drawn one.

    Raises
    ------
    ValueError
        For an array that is empty, not three-dimensional, or has entries that are not finite; for
        a tie-break that is no function.

    Source: Gyorfi, Kohler, Krzyzak and Walk 2002 (A Distribution-Free Theory of Nonparametric
    Regression, chapter 10).
    """

    rewards: FloatArray
    tie_break: TieBreak = first_or_random_of_tied

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        rewards = checks.as_real("rewards", self.rewards)
        if rewards.ndim != 3 or rewards.size == 0:
            raise ValueError(
                f"rewards has shape {rewards.shape}; it must be a non-empty (K, X, Y) array"
            )
        object.__setattr__(self, "rewards", checks.frozen(rewards))
        if not callable(self.tie_break):
            raise ValueError(
                f"tie_break is {self.tie_break!r:.80}; it must be a function of (tied, rng)"
            )

    def fit(self, data: ScoreData | ScoreSums, rng: np.random.Generator | None = None) -> RewardFit:
        """Return the reward of the class with the least squares; see `fit_reward`.

        Raises
        ------
        ValueError
            When rewards and data differ in `(X, Y)`, or the tie-break returns no tied index.
        """
        rng = checks.optional_generator("rng", rng)
        sums = as_score_sums(data)
        if self.rewards.shape[1:] != sums.shape:
            raise ValueError(
                f"rewards has shape {self.rewards.shape}; "
                f"its last two axes must be (X, Y) = {sums.shape}"
            )
        loss, rounding = self._losses(sums)
        best = int(loss.argmin())
        tied = np.nonzero(loss <= loss[best] + (rounding + rounding[best]))[0]
        index = self.tie_break(checks.frozen(tied), rng)
        if index not in tied:
            raise ValueError(
                f"tie_break returned {index!r:.80}; it must be one of the tied {tied.tolist()}"
            )
        return RewardFit(
            reward=self.rewards[index],
            log_likelihood=-float(loss[index] + 0.5 * sums.squares.sum()),
            gradient_norm=None,
            compared=sums.scored,
            exists=np.ones(sums.shape[0], dtype=np.bool_),
            index=int(index),
            tied=tied,
        )

    def _losses(self, sums: ScoreSums) -> tuple[FloatArray, FloatArray]:
        """Return the (K,) losses less what no reward changes, and bounds on their rounding."""
        size = len(sums.count)
        unit = np.finfo(np.float64).eps * (16 + np.log2(size))
        step = max(1, _CHUNK // size)
        losses, bounds = [], []
        for start in range(0, len(self.rewards), step):
            value = self.rewards[start : start + step, sums.prompt, sums.response]
            gap = np.abs(sums.mean - value)
            losses.append(0.5 * (sums.count * gap**2).sum(axis=1))
            # The mean and the reward are rounded, each by up to half a unit of its own size.
            reach = gap * (gap + np.abs(sums.mean) + np.abs(value))
            bounds.append(unit * (sums.count * reach).sum(axis=1))
        return np.concatenate(losses), np.concatenate(bounds)
