"""The comparisons of single prompts, as the tabular routes take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.learners.direct.task import Task


@dataclass(frozen=True)
class PromptRows:
    """The distinct comparisons of one prompt, over the K responses that it compares."""

    prompt: int
    #: (K,) increasing.
    responses: IntArray
    #: (R,) places of winner and loser in `responses`.
    winner: IntArray
    loser: IntArray
    #: (R,) how often.
    count: FloatArray
    #: (R,) difference of given rewards, subtracted from the difference of scores; else 0.
    gap: FloatArray

    @property
    def size(self) -> int:
        """K."""
        return len(self.responses)

    def difference(self, scores: FloatArray) -> FloatArray:
        """Return (R,) `s(y+) - s(y-)` of (K,) scores, the gap not subtracted."""
        return scores[self.winner] - scores[self.loser]

    def scatter(self, values: FloatArray) -> FloatArray:
        """Return the (K,) sums of (R,) values at the winners less those at the losers."""
        up = np.bincount(self.winner, weights=values, minlength=self.size)
        return np.asarray(up - np.bincount(self.loser, weights=values, minlength=self.size))

    def laplacian(self, values: FloatArray) -> FloatArray:
        """Return the (K, K) matrix `sum_r values_r d_r d_r'`, `d_r` from loser to winner."""
        matrix = np.zeros((self.size, self.size))
        np.add.at(matrix, (self.winner, self.loser), -values)
        matrix = matrix + matrix.T
        matrix[np.diag_indices(self.size)] = -matrix.sum(axis=1)
        return matrix

    def components(self) -> IntArray:
        """Return (K,) labels of the sets of responses linked by comparisons."""
        links = coo_array((np.ones(len(self.count)), (self.winner, self.loser)), (self.size,) * 2)
        return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)

    def wins(self) -> FloatArray:
        """Return (K, K) how often each response beat each other one."""
        wins = np.zeros((self.size, self.size))
        np.add.at(wins, (self.winner, self.loser), self.count)
        return wins

    def among(self, kept: IntArray) -> PromptRows:
        """Return the comparisons among the places `kept`, over those responses alone."""
        place = np.full(self.size, -1, dtype=np.int64)
        place[kept] = np.arange(len(kept))
        rows = (place[self.winner] >= 0) & (place[self.loser] >= 0)
        return PromptRows(
            self.prompt,
            self.responses[kept],
            place[self.winner[rows]],
            place[self.loser[rows]],
            self.count[rows],
            self.gap[rows],
        )


def prompt_rows(task: Task) -> Iterator[PromptRows]:
    """Yield the comparisons of each prompt that has some, in order."""
    counts = task.counts
    starts = np.searchsorted(counts.prompt, np.arange(counts.n_prompts + 1))
    for x in np.nonzero(np.diff(starts))[0]:
        rows = slice(starts[x], starts[x + 1])
        pairs = np.stack((counts.winner[rows], counts.loser[rows]))
        responses, places = np.unique(pairs, return_inverse=True)
        winner, loser = places.reshape(pairs.shape)
        count = counts.count[rows]
        gap = np.zeros(len(count))
        if task.reward is not None:
            gap = task.reward[x, pairs[0]] - task.reward[x, pairs[1]]
        yield PromptRows(int(x), responses, winner, loser, count, gap)
