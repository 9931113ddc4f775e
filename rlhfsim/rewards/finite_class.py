"""Maximum likelihood over a finite class of rewards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData, count_pairs, log_likelihood
from rlhfsim.frozen import Frozen
from rlhfsim.rewards.result import RewardFit

#: Largest number of terms of the likelihood held in memory at once.
_CHUNK = 1 << 22


@dataclass(frozen=True, eq=False)
class FiniteClass(Frozen):
    """The rewards `r_1, ..., r_K`; the fit is the one under which the data are likeliest.

    Likelihoods that differ by no more than rounding count as tied: equal outcomes that happened
    in another place of the table give sums of the same terms in another order.  Among tied
    rewards the first is taken, or with an `rng` a uniformly drawn one.

    Parameters
    ----------
    rewards : (K, X, Y) array
        Finite; copied in and read-only.

    Raises
    ------
    ValueError
        For an array that is empty, not three-dimensional, or has entries that are not finite.

    Source: arXiv 2407.13399.
    """

    rewards: FloatArray

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        rewards = checks.as_real("rewards", self.rewards)
        if rewards.ndim != 3 or rewards.size == 0:
            raise ValueError(
                f"rewards has shape {rewards.shape}; it must be a non-empty (K, X, Y) array"
            )
        object.__setattr__(self, "rewards", checks.frozen(rewards))

    def fit(self, data: PreferenceData, rng: np.random.Generator | None = None) -> RewardFit:
        """Return the maximum likelihood reward of the class; see `fit_reward`."""
        rng = checks.optional_generator("rng", rng)
        counts = count_pairs(data)
        if self.rewards.shape[1:] != counts.shape:
            raise ValueError(
                f"rewards has shape {self.rewards.shape}; "
                f"its last two axes must be (X, Y) = {counts.shape}"
            )
        total, rounding = self._log_likelihoods(counts)
        best = int(total.argmax())
        tied = np.nonzero(total >= total[best] - (rounding + rounding[best]))[0]
        index = int(tied[0] if rng is None else rng.choice(tied))
        return RewardFit(
            reward=self.rewards[index],
            log_likelihood=log_likelihood(counts, self.rewards[index]),
            gradient_norm=None,
            compared=counts.compared,
            index=index,
            tied=tied,
        )

    def _log_likelihoods(self, counts: PairCounts) -> tuple[FloatArray, FloatArray]:
        """Return the (K,) log-likelihoods of the informative rows and bounds on their rounding."""
        size = max(1, counts.count.size)
        unit = np.finfo(np.float64).eps * (16 + np.log2(size))
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
            bounds.append(unit * reach.sum(axis=1))
        return np.concatenate(totals), np.concatenate(bounds)
