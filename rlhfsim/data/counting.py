"""Compiled counting of triples `(prompt, winner, loser)` in a dense table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.intrinsics import prefetch

_CHUNK = 1024


@EXACT
def fill(
    prompt: IntArray, winner: IntArray, loser: IntArray, responses: int, table: NDArray[np.int32]
) -> None:
    """Count each row in `table[(prompt Y + winner) Y + loser]`."""
    places = np.empty(_CHUNK, np.int64)
    for begin in range(0, prompt.size, _CHUNK):
        end = min(begin + _CHUNK, prompt.size)
        x, i, j = prompt[begin:end], winner[begin:end], loser[begin:end]
        # The places first: memory then fetches many of them at a time.
        for k in range(x.size):
            place = (x[k] * responses + i[k]) * responses + j[k]
            places[k] = place
            prefetch(table, place)
        for k in range(x.size):
            table[places[k]] += 1


@EXACT
def drop_equal(table: NDArray[np.int32], prompts: int, responses: int) -> tuple[int, int]:
    """Clear the pairs of equals; return how many rows they had and how many triples are left."""
    equal, distinct = 0, 0
    for x in range(prompts):
        for y in range(responses):
            at = (x * responses + y) * responses + y
            equal += table[at]
            table[at] = 0
    for k in range(table.size):
        distinct += 1 if table[k] > 0 else 0
    return equal, distinct


@EXACT
def collect(
    table: NDArray[np.int32], responses: int, prompt: IntArray, winner: IntArray,
    loser: IntArray, count: FloatArray,
) -> None:  # fmt: skip
    """Write the triples that were counted, in order."""
    to = 0
    for row in range(table.size // responses):
        counts = table[row * responses : (row + 1) * responses]
        x, i = row // responses, row % responses
        for j in range(responses):
            if counts[j] > 0:
                prompt[to], winner[to], loser[to], count[to] = x, i, j, counts[j]
                to += 1


def dense_counts(
    prompt: IntArray, winner: IntArray, loser: IntArray, shape: tuple[int, int]
) -> tuple[tuple[IntArray, IntArray, IntArray], FloatArray, int]:
    """Return the sorted distinct triples with `winner != loser`, their counts, and the rest."""
    prompts, responses = shape
    table: NDArray[Any] = np.zeros(prompts * responses**2, dtype=np.int32)
    fill(prompt, winner, loser, responses, table)
    equal, distinct = drop_equal(table, prompts, responses)
    triples = (
        np.empty(distinct, np.int64),
        np.empty(distinct, np.int64),
        np.empty(distinct, np.int64),
    )
    count = np.empty(distinct)
    collect(table, responses, triples[0], triples[1], triples[2], count)
    return triples, count, int(equal)
