"""Maximum likelihood over a finite class of rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data import PairCounts, PreferenceData, log_likelihood
from rlhfsim.data.counts import as_counts
from rlhfsim.frozen import Frozen
from rlhfsim.rewards.existence import mle_exists
from rlhfsim.rewards.result import RewardFit

#: Largest number of terms of the likelihood held in memory at once.
_CHUNK = 1 << 22
#: Terms from which compiled code is worth loading.
_WORTH_COMPILING = 1 << 16

#: Which of the tied indices, increasing, is taken; the generator may be None.
TieBreak = Callable[[IntArray, np.random.Generator | None], int]


def first_of_tied(tied: IntArray, rng: np.random.Generator | None) -> int:
    """Return the first of the tied indices."""
    return int(tied[0])


def last_of_tied(tied: IntArray, rng: np.random.Generator | None) -> int:
    """Return the last of the tied indices."""
    return int(tied[-1])


def random_of_tied(tied: IntArray, rng: np.random.Generator | None) -> int:
    """Return a uniformly drawn one of the tied indices; needs a generator."""
    return int(checks.generator("rng", rng).choice(tied))  # type: ignore[arg-type]


def first_or_random_of_tied(tied: IntArray, rng: np.random.Generator | None) -> int:
    """Return a uniformly drawn one of the tied indices, or the first one without a generator."""
    return first_of_tied(tied, rng) if rng is None else random_of_tied(tied, rng)


@dataclass(frozen=True, eq=False)
class FiniteClass(Frozen):
    """The rewards `r_1, ..., r_K`; the fit is the one under which the data are likeliest.

    Likelihoods that differ by no more than rounding count as tied: equal outcomes that happened
    in another place of the table give sums of the same terms in another order.

    Parameters
    ----------
    rewards : (K, X, Y) array
        Finite; copied in and read-only.
    tie_break : function `(tied, rng) -> index`
        Which of the tied rewards is taken: `first_of_tied`, `last_of_tied`, `random_of_tied`, or
        one of your own.  By default the first without a generator, and with one a uniformly drawn
        one.

    Raises
    ------
    ValueError
        For an array that is empty, not three-dimensional, or has entries that are not finite; for
        a tie-break that is no function.

    Source: arXiv 2407.13399.
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

    def fit(
        self, data: PreferenceData | PairCounts, rng: np.random.Generator | None = None
    ) -> RewardFit:
        """Return the maximum likelihood reward of the class; see `fit_reward`."""
        rng = checks.optional_generator("rng", rng)
        counts = as_counts(data)
        if self.rewards.shape[1:] != counts.shape:
            raise ValueError(
                f"rewards has shape {self.rewards.shape}; "
                f"its last two axes must be (X, Y) = {counts.shape}"
            )
        total, rounding = self._log_likelihoods(counts)
        best = int(total.argmax())
        tied = np.nonzero(total >= total[best] - (rounding + rounding[best]))[0]
        index = self.tie_break(checks.frozen(tied), rng)
        if index not in tied:
            raise ValueError(
                f"tie_break returned {index!r:.80}; it must be one of the tied {tied.tolist()}"
            )
        return RewardFit(
            reward=self.rewards[index],
            log_likelihood=log_likelihood(counts, self.rewards[index]),
            gradient_norm=None,
            compared=counts.compared,
            index=int(index),
            tied=tied,
            exists=mle_exists(counts),
        )

    def _log_likelihoods(self, counts: PairCounts) -> tuple[FloatArray, FloatArray]:
        """Return the (K,) log-likelihoods of the informative rows and bounds on their rounding."""
        if counts.count.size * len(self.rewards) >= _WORTH_COMPILING:
            from rlhfsim.rewards.compiled.likelihood import losses

            return losses(counts, self.rewards)
        size = max(1, counts.count.size)
        step = max(1, _CHUNK // size)
        totals, bounds = [], []
        for start in range(0, len(self.rewards), step):
            block = self.rewards[start : start + step]
            winner = block[:, counts.prompt, counts.winner]
            loser = block[:, counts.prompt, counts.loser]
            terms = counts.count * np.logaddexp(0.0, loser - winner)
            # A rounded reward shifts the margin by up to eps (|r+| + |r-|), and a term by at most
            # its own size times that, since |d/dt log sigma(t)| <= -log sigma(t).
            reach = terms * (1.0 + np.abs(winner) + np.abs(loser))
            totals.append(-terms.sum(axis=1))
            bounds.append(reach.sum(axis=1))
        return np.concatenate(totals), _rounding(size) * np.concatenate(bounds)


def _rounding(size: int) -> float:
    """Return how many roundings a sum of so many terms may be off by, relative to their size."""
    return float(np.finfo(np.float64).eps * (16 + np.log2(size)))
