"""Preference data grouped once: how often each response beat each other one at each prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.data.pairs import PreferenceData


class PromptWins(NamedTuple):
    """The comparisons of one prompt, over the `K` responses that it compared."""

    prompt: int
    #: (K,) indices of the compared responses, increasing; K is 0 or at least 2.
    responses: IntArray
    #: (K, K) `wins[i, j]`: how often `responses[i]` beat `responses[j]`.
    wins: FloatArray


@dataclass(frozen=True, eq=False)
class PairCounts:
    """The distinct triples `(prompt, winner, loser)` of a dataset, with their counts.

    Rows are sorted, so two datasets that differ in the order of their rows give equal counts.
    Memory is that of the distinct triples, never `X Y Y`.
    """

    #: (U,) columns of the distinct triples with `winner != loser`.
    prompt: IntArray
    winner: IntArray
    loser: IntArray
    #: (U,) number of rows of each triple: whole numbers for data, probabilities for their law.
    count: FloatArray
    #: Number of rows with `chosen == rejected`, which say nothing about the reward.
    equal_pairs: float
    #: `(X, Y)`.
    shape: tuple[int, int]

    @property
    def compared(self) -> BoolArray:
        """(X, Y): whether the response was compared with a different one at that prompt."""
        mask = np.zeros(self.shape, dtype=np.bool_)
        mask[self.prompt, self.winner] = True
        mask[self.prompt, self.loser] = True
        return mask

    def by_prompt(self) -> Iterator[PromptWins]:
        """Yield the win counts of every prompt, in order, also of those without comparisons."""
        starts = np.searchsorted(self.prompt, np.arange(self.shape[0] + 1))
        for prompt in range(self.shape[0]):
            rows = slice(starts[prompt], starts[prompt + 1])
            pairs = np.stack((self.winner[rows], self.loser[rows]))
            responses, place = np.unique(pairs, return_inverse=True)
            winner, loser = place.reshape(pairs.shape)
            wins = np.zeros((responses.size, responses.size))
            wins[winner, loser] = self.count[rows]
            yield PromptWins(prompt, responses, wins)


def count_pairs(data: PreferenceData) -> PairCounts:
    """Return the counts of the distinct triples of `data`.

    Parameters
    ----------
    data : PreferenceData

    Raises
    ------
    ValueError
        If `data` is not a PreferenceData.
    """
    if not isinstance(data, PreferenceData):
        raise ValueError(f"data is a {type(data).__name__}; it must be a PreferenceData")
    informative = data.chosen != data.rejected
    columns = tuple(column[informative] for column in (data.prompt, data.chosen, data.rejected))
    (prompt, winner, loser), count = _distinct(columns, data.n_prompts, data.n_responses)
    return PairCounts(
        prompt=prompt,
        winner=winner,
        loser=loser,
        count=count.astype(np.float64),
        equal_pairs=float(len(data) - int(informative.sum())),
        shape=(data.n_prompts, data.n_responses),
    )


def _distinct(
    columns: tuple[IntArray, ...], prompts: int, responses: int
) -> tuple[tuple[IntArray, ...], IntArray]:
    """Return the distinct triples of three columns, as sorted columns, and their counts."""
    if prompts * responses**2 >= 2**63:
        rows, count = np.unique(np.stack(columns), axis=1, return_counts=True)
        return tuple(rows), count
    # One int64 a triple sorts several times faster than three columns.
    prompt, winner, loser = columns
    key = (prompt * responses + winner) * responses + loser
    triples, count = np.unique(key, return_counts=True)
    pair, loser = np.divmod(triples, responses)
    return (*np.divmod(pair, responses), loser), count


def log_likelihood(counts: PairCounts, reward: FloatArray) -> float:
    """Return `sum_i log sigma(r(x_i, y+_i) - r(x_i, y-_i))`, in nats.

    Every row of the dataset counts; one with `y+ = y-` contributes `log(1/2)`.

    Parameters
    ----------
    counts : PairCounts
    reward : (X, Y) array

    Source: Bradley and Terry 1952; arXiv 2407.13399.
    """
    margin = reward[counts.prompt, counts.winner] - reward[counts.prompt, counts.loser]
    informative = -(counts.count * np.logaddexp(0.0, -margin)).sum()
    return float(informative - counts.equal_pairs * np.log(2.0))
