"""Random splits of counted comparisons."""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data import PairCounts

#: Where numpy's multivariate hypergeometric law stops.
_MOST_ROWS = 1_000_000_000


def split_counts(
    counts: PairCounts, sizes: list[int], rng: np.random.Generator
) -> list[tuple[PairCounts, PairCounts]]:
    """Return `(rest, part)` for disjoint random parts of `sizes` rows.

    Every set of rows is as likely, as if rows had been shuffled; pairs of equals are rows.

    Parameters
    ----------
    counts : PairCounts
        Whole counts, of at least `sum(sizes)` rows.
    sizes : list of int
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        For a billion rows or more.
    """
    every = np.append(counts.count, counts.equal_pairs).astype(np.int64)
    if every.sum() >= _MOST_ROWS:
        raise ValueError(f"data has {every.sum()} rows; fewer than {_MOST_ROWS} can be split")
    left, pieces = every, []
    for size in sizes:
        part: IntArray = rng.multivariate_hypergeometric(left, size, method="marginals")
        left = left - part
        pieces.append((_subset(counts, every - part), _subset(counts, part)))
    return pieces


def _subset(counts: PairCounts, rows: IntArray) -> PairCounts:
    numbers: FloatArray = rows.astype(np.float64)
    some = numbers[:-1] > 0
    return PairCounts(
        counts.prompt[some],
        counts.winner[some],
        counts.loser[some],
        numbers[:-1][some],
        float(numbers[-1]),
        counts.shape,
    )
