"""Preference data taken apart into the sets of responses that comparisons link.

The likelihood determines rewards up to one constant for each linked set: the responses of a prompt
that chains of comparisons connect.  Everything that data say is about differences inside one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data import PairCounts
from rlhfsim.rewards.existence import MLEDoesNotExistError
from rlhfsim.rewards.fit import fit_reward
from rlhfsim.rewards.tabular import Tabular


@dataclass(frozen=True, eq=False)
class LinkedSets:
    """The compared cells `(x, y)` of a dataset, in C linked sets."""

    #: (N,) places `x Y + y` of the compared cells, ordered by set.
    cells: IntArray
    #: (N,) set of each cell, and its place inside that set.
    labels: IntArray
    places: IntArray
    #: (C,) number of cells of each set, at least 2.
    sizes: IntArray
    #: Counts in which every set is a prompt of its own.
    counts: PairCounts

    @property
    def degrees(self) -> int:
        """Number of rewards less the number of constants that the data leave free."""
        return int((self.sizes - 1).sum())


def linked_sets(counts: PairCounts) -> LinkedSets:
    """Return the linked sets of the compared responses.

    Raises
    ------
    ValueError
        For data that compare no two different responses.
    """
    if len(counts.count) == 0:
        raise ValueError("data compares no two different responses, so it bounds no reward")
    responses = counts.shape[1]
    ends = np.concatenate((counts.winner, counts.loser))
    cells, node = np.unique(np.tile(counts.prompt, 2) * responses + ends, return_inverse=True)
    winner, loser = node.reshape(2, -1)
    graph = csr_array((np.ones(len(winner)), (winner, loser)), shape=(len(cells), len(cells)))
    number, found = connected_components(graph, directed=False)
    label = np.asarray(found, dtype=np.int64)
    order = np.argsort(label, kind="stable")
    sizes = np.bincount(label)
    place = np.empty(len(cells), dtype=np.int64)
    place[order] = np.arange(len(cells)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    rows = np.lexsort((place[loser], place[winner], label[winner]))
    return LinkedSets(
        cells=cells[order],
        labels=label[order],
        places=place[order],
        sizes=sizes,
        counts=PairCounts(
            prompt=label[winner][rows],
            winner=place[winner][rows],
            loser=place[loser][rows],
            count=counts.count[rows],
            equal_pairs=0.0,
            shape=(number, int(sizes.max())),
        ),
    )


def fit_linked(linked: LinkedSets, responses: int) -> FloatArray:
    """Return the (N,) maximum likelihood rewards of the compared cells, of mean 0 in each set.

    Raises
    ------
    MLEDoesNotExistError
        When one set has no finite estimate.
    """
    try:
        reward = fit_reward(linked.counts, Tabular()).reward
    except MLEDoesNotExistError as error:
        cells = linked.cells[linked.labels == error.prompt]
        prompt, named = int(cells[0]) // responses, cells[list(error.responses)] % responses
        raise MLEDoesNotExistError(
            f"the maximum likelihood reward of prompt {prompt} does not exist: responses "
            f"{named.tolist()} never lose to, or never beat, the others that comparisons link "
            "them with, so the likelihood-ratio set is unbounded; use a FiniteClass",
            prompt,
            tuple(named.tolist()),
        ) from error
    return reward[linked.labels, linked.places]
