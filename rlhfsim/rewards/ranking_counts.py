"""Rankings grouped once: how often each ranking was given at each prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.data import RankingData
from rlhfsim.frozen import Frozen


class PromptRankings(NamedTuple):
    """The rankings of one prompt, over the `P` responses that it compared with others."""

    prompt: int
    #: (P,) indices of the compared responses, increasing; P is 0 or at least 2.
    responses: IntArray
    #: (U, K) places in `responses`, best first; rankings of one response alone are left out.
    ranking: IntArray
    #: (U,) how often each was given.
    weight: FloatArray


@dataclass(frozen=True, eq=False)
class RankingCounts(Frozen):
    """The distinct rows `(x, y_1, ..., y_K)` of a dataset, with their counts.

    Everything that a fit needs of a dataset, or of the law of one row, whose counts are
    probabilities.

    Parameters
    ----------
    prompt : (U,) array of integers
        Increasing.
    ranking : (U, K) array of integers
        Best first; `K >= 2`.
    count : (U,) array
        Positive.
    shape : (X, Y)

    Raises
    ------
    ValueError
        As `RankingData`, and for prompts that decrease or counts that are not positive.
    """

    prompt: IntArray
    ranking: IntArray
    count: FloatArray
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        rows = RankingData(self.prompt, self.ranking, self.shape)
        count = checks.as_positive("count", self.count)
        if count.shape != rows.prompt.shape:
            raise ValueError(f"count has shape {count.shape}; it must be {rows.prompt.shape}")
        falls = np.nonzero(np.diff(rows.prompt) < 0)[0]
        if falls.size:
            raise ValueError(
                f"prompt[{falls[0] + 1}] is {rows.prompt[falls[0] + 1]}, after "
                f"{rows.prompt[falls[0]]}; prompts must not decrease"
            )
        object.__setattr__(self, "prompt", rows.prompt)
        object.__setattr__(self, "ranking", rows.ranking)
        object.__setattr__(self, "count", checks.frozen(count))
        object.__setattr__(self, "shape", (rows.n_prompts, rows.n_responses))

    @property
    def compared(self) -> BoolArray:
        """(X, Y): whether the response was ranked with a different one at that prompt."""
        mask = np.zeros(self.shape, dtype=np.bool_)
        several = self._several()
        mask[self.prompt[several, None], self.ranking[several]] = True
        return mask

    def by_prompt(self) -> Iterator[PromptRankings]:
        """Yield the rankings of every prompt, in order, also of those without any."""
        several = self._several()
        prompt, ranking, count = self.prompt[several], self.ranking[several], self.count[several]
        starts = np.searchsorted(prompt, np.arange(self.shape[0] + 1))
        for x in range(self.shape[0]):
            rows = slice(starts[x], starts[x + 1])
            responses, place = np.unique(ranking[rows], return_inverse=True)
            yield PromptRankings(x, responses, place.reshape(ranking[rows].shape), count[rows])

    def _several(self) -> BoolArray:
        """Return which rankings hold at least two different responses."""
        return np.asarray((self.ranking != self.ranking[:, :1]).any(axis=1))


def count_rankings(data: RankingData) -> RankingCounts:
    """Return the distinct rankings of `data` with their counts, sorted.

    Parameters
    ----------
    data : RankingData

    Raises
    ------
    ValueError
        If `data` is not a RankingData.
    """
    if not isinstance(data, RankingData):
        raise ValueError(f"data is a {type(data).__name__}; it must be a RankingData")
    order = np.lexsort((*data.ranking.T[::-1], data.prompt))
    prompt, ranking = data.prompt[order], data.ranking[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (prompt[1:] != prompt[:-1]) | (ranking[1:] != ranking[:-1]).any(axis=1)
    count = np.diff(np.nonzero(new)[0], append=len(order)).astype(np.float64)
    return RankingCounts(prompt[new], ranking[new], count, (data.n_prompts, data.n_responses))


def as_ranking_counts(data: RankingData | RankingCounts) -> RankingCounts:
    """Return the counts of a dataset, or counts as they are.

    Raises
    ------
    ValueError
        If `data` is neither.
    """
    if isinstance(data, RankingCounts):
        return data
    if not isinstance(data, RankingData):
        raise ValueError(
            f"data is a {type(data).__name__}; it must be a RankingData or a RankingCounts"
        )
    return count_rankings(data)
