"""Bootstrap ensembles: the reward fitted to resampled datasets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts
from rlhfsim.frozen import Frozen
from rlhfsim.rewards.confidence.base import Minimum, as_level
from rlhfsim.rewards.existence import MLEDoesNotExistError
from rlhfsim.rewards.fit import RewardModel, fit_reward


@dataclass(frozen=True, eq=False)
class Ensemble(Frozen):
    """`M` rewards, one for each resampled dataset, and the reward of the dataset itself.

    Parameters
    ----------
    rewards : (M, X, Y) array
    reward : (X, Y) array
        The fit to all data.

    Raises
    ------
    ValueError
        For empty or ill-shaped arrays, or entries that are not finite.

    Source: Efron 1979; Efron and Tibshirani 1993; arXiv 2312.09244 for ensembles of rewards.
    """

    rewards: FloatArray
    reward: FloatArray

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        rewards = checks.as_real("rewards", self.rewards)
        if rewards.ndim != 3 or rewards.size == 0:
            raise ValueError(
                f"rewards has shape {rewards.shape}; it must be a non-empty (M, X, Y) array"
            )
        reward = checks.as_matrix("reward", self.reward, rewards.shape[1:])
        object.__setattr__(self, "rewards", checks.frozen(rewards))
        object.__setattr__(self, "reward", checks.frozen(reward))

    def __len__(self) -> int:
        """Return `M`."""
        return len(self.rewards)

    @property
    def mean(self) -> FloatArray:
        """(X, Y) mean of the members."""
        return np.asarray(self.rewards.mean(axis=0))

    @property
    def std(self) -> FloatArray:
        """(X, Y) standard deviation of the members, with divisor M - 1; at least 2 members."""
        if len(self) < 2:
            raise ValueError("rewards has 1 member; it must have at least 2")
        return np.asarray(self.rewards.std(axis=0, ddof=1))

    def values(self, weights: ArrayLike) -> FloatArray:
        """Return the (M,) values `sum_xy weights(x, y) r_m(x, y)`.

        Parameters
        ----------
        weights : (X, Y) array
            Rewards of preferences are fixed only up to a constant per prompt; weights that sum to
            0 over each prompt do not depend on the model's convention for it.
        """
        w = checks.as_matrix("weights", weights, self.reward.shape)
        return np.asarray(np.tensordot(self.rewards, w, axes=2))

    def minimize(self, weights: ArrayLike) -> Minimum:
        """Return the smallest `sum_xy weights(x, y) r_m(x, y)` over the members.

        The worst case over the ensemble, for pessimism; it has no level.
        """
        values = self.values(weights)
        first = int(values.argmin())
        return Minimum(float(values[first]), self.rewards[first], 0.0)

    def bounds(self, weights: ArrayLike, delta: float) -> tuple[float, float]:
        """Return the percentile interval of `sum_xy weights(x, y) r*(x, y)`.

        The `delta/2` and `1 - delta/2` quantiles of the members' values (the k-th smallest at
        `k/(M + 1)`, linear in between).  **Asymptotic** coverage `1 - delta`.

        Parameters
        ----------
        weights : (X, Y) array
        delta : float in (0, 1)
            At least `2/(M + 1)`: the quantiles are not extrapolated.

        Raises
        ------
        ValueError
            Bad input, or too few members.

        Source: Efron and Tibshirani 1993, chapter 13.
        """
        level = self._as_level(delta, ends=2)
        ends = (level / 2.0, 1.0 - level / 2.0)
        low, high = np.quantile(self.values(weights), ends, method="weibull")
        return float(low), float(high)

    def basic_bounds(self, weights: ArrayLike, delta: float) -> tuple[float, float]:
        """Return the basic interval, `bounds` reflected at the value of `reward`.

        `[2 v - high, 2 v - low]` with `v = sum_xy weights(x, y) reward(x, y)`.  **Asymptotic**.

        Source: Davison and Hinkley 1997, section 2.4.
        """
        low, high = self.bounds(weights, delta)
        centre = float((np.asarray(weights, dtype=np.float64) * self.reward).sum())
        return 2.0 * centre - high, 2.0 * centre - low

    def contains(self, reward: ArrayLike, delta: float) -> bool:
        """Return whether an `(X, Y)` reward lies in the simultaneous band of level `1 - delta`.

        With `c(r)` the reward less its mean over each prompt's responses, and s the members'
        standard deviation of it, the statistic is `max_xy |c(r) - c(reward of all data)| / s`; the
        band holds up to its `1 - delta` quantile over the members.  Where s is 0, r must agree
        to rounding.  **Asymptotic** coverage `1 - delta`, of all entries at once.

        Parameters
        ----------
        reward : (X, Y) array
        delta : float in (0, 1)
            At least `1/(M + 1)`.

        Source: Montiel Olea and Plagborg-Moller 2019 (J. Appl. Econometrics 34, 1), sup-t bands.
        """
        r = checks.as_matrix("reward", reward, self.reward.shape)
        level = self._as_level(delta, ends=1)
        away = _centred(self.rewards - self.reward)
        spread = away.std(axis=0, ddof=1) if len(self) > 1 else np.zeros(self.reward.shape)
        # A response that no member disagrees on varies by rounding alone.
        floor = 1e-12 * (1.0 + float(np.abs(self.rewards).max()))
        statistic = (np.abs(away) / np.maximum(spread, floor)).max(axis=(1, 2))
        limit = float(np.quantile(statistic, 1.0 - level, method="weibull"))
        found = np.abs(_centred(r - self.reward)) / np.maximum(spread, floor)
        return bool(found.max() <= limit)

    def _as_level(self, delta: float, ends: int) -> float:
        """Return `delta`, of which each of so many ends needs at least `1/(M + 1)`."""
        level, least = as_level(delta), ends / (len(self) + 1)
        if level < least:
            raise ValueError(
                f"delta is {level!r} and there are {len(self)} members; "
                f"it must be at least {ends}/(M + 1) = {least:.6g}"
            )
        return level


def bootstrap(
    data: PreferenceData | PairCounts,
    model: RewardModel,
    members: int,
    rng: np.random.Generator,
) -> Ensemble:
    """Return the rewards that a model fits to datasets resampled from the rows with replacement.

    Resampling n rows gives the distinct triples multinomial counts, with probabilities count/n;
    those counts are drawn, which has the same law and no cost per row.  Each member has its own
    generator, the m-th spawned from `rng`: it does not depend on how many members there are.

    Parameters
    ----------
    data : PreferenceData or PairCounts
        Whole-numbered counts.
    model : RewardModel
        Whose fit exists on every resample: a bounded or regularized one, or a finite class (whose
        ties each member's generator breaks).
    members : int
        M, at least 1.
    rng : numpy.random.Generator

    Raises
    ------
    MLEDoesNotExistError
        For an unconstrained model with no finite estimate on a resample; it names the member.
    ValueError
        Bad input; counts that are not whole numbers.

    Source: Efron 1979 (Ann. Statist. 7, 1).
    """
    counts = as_counts(data)
    number = checks.whole_number("members", members, least=1)
    generators = checks.generator("rng", rng).spawn(number)
    cells = _cells(counts)
    reward = fit_reward(counts, model).reward
    rewards = np.empty((number, *reward.shape))
    for member, own in enumerate(generators):
        drawn = _resample(counts, cells, own)
        try:
            rewards[member] = fit_reward(drawn, model, rng=own).reward
        except MLEDoesNotExistError as error:
            raise MLEDoesNotExistError(
                f"member {member}: {error}", error.prompt, error.responses
            ) from error
    return Ensemble(rewards, reward)


def _cells(counts: PairCounts) -> FloatArray:
    """Return the counts of all cells of the multinomial, the last that of equal pairs."""
    cells = np.append(counts.count, counts.equal_pairs)
    broken = cells != np.floor(cells)
    if broken.any():
        first = int(broken.argmax())
        name = f"count[{first}]" if first < len(counts.count) else "equal_pairs"
        raise ValueError(
            f"data.{name} is {cells[first].item()!r}; counts must be whole numbers to be resampled"
        )
    if cells.sum() == 0:
        raise ValueError("data has no rows; it must have at least one")
    return cells


def _resample(counts: PairCounts, cells: FloatArray, rng: np.random.Generator) -> PairCounts:
    """Return the counts of as many rows drawn with replacement."""
    total = cells.sum()
    drawn = rng.multinomial(int(total), cells / total).astype(np.float64)
    kept = drawn[:-1] > 0
    return replace(
        counts,
        prompt=counts.prompt[kept],
        winner=counts.winner[kept],
        loser=counts.loser[kept],
        count=drawn[:-1][kept],
        equal_pairs=float(drawn[-1]),
    )


def _centred(reward: FloatArray) -> FloatArray:
    return np.asarray(reward - reward.mean(axis=-1, keepdims=True))
