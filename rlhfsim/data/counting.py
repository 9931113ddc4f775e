"""Compiled counting of triples `(prompt, winner, loser)` in a dense table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.compiling import EXACT

_CHUNK = 2048


@EXACT
def fill(
    prompt: IntArray, winner: IntArray, loser: IntArray, responses: int, table: NDArray[np.int32]
) -> None:
    """Count each row in `table[(prompt Y + winner) Y + loser]`."""
    places = np.empty(_CHUNK, np.int64)
    for begin in range(0, prompt.size, _CHUNK):
        end = min(begin + _CHUNK, prompt.size)
        x, i, j = prompt[begin:end], winner[begin:end], loser[begin:end]
        # The places first, in vector instructions; the counts then wait for memory only.
        for k in range(x.size):
            places[k] = (x[k] * responses + i[k]) * responses + j[k]
        for k in range(x.size):
            # A signed index would be tested for being negative.
            table[np.uint64(places[k])] += 1


@EXACT
def mark(prompt: IntArray, winner: IntArray, loser: IntArray, mask: BoolArray) -> None:
    """Set `mask[x, y]` for every response that a row compares with a different one."""
    flat, responses = mask.reshape(-1), mask.shape[1]
    for k in range(prompt.size):
        first, apart = prompt[k] * responses, winner[k] != loser[k]
        i, j = np.uint64(first + winner[k]), np.uint64(first + loser[k])
        flat[i] = flat[i] | apart
        flat[j] = flat[j] | apart


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
    """Write the triples that were counted, in order; the columns have one entry to spare.

    Every loser is written, and the next one over it if it was not counted: a branch would be
    taken at random.
    """
    to = 0
    for row in range(table.size // responses):
        counts, start = table[row * responses : (row + 1) * responses], to
        for j in range(responses):
            loser[to], count[to] = j, counts[j]
            to += 1 if counts[j] > 0 else 0
        prompt[start:to], winner[start:to] = row // responses, row % responses


def dense_counts(
    prompt: IntArray, winner: IntArray, loser: IntArray, shape: tuple[int, int]
) -> tuple[tuple[IntArray, IntArray, IntArray], FloatArray, int]:
    """Return the sorted distinct triples with `winner != loser`, their counts, and the rest."""
    prompts, responses = shape
    table: NDArray[Any] = np.zeros(prompts * responses**2, dtype=np.int32)
    fill(prompt, winner, loser, responses, table)
    equal, distinct = drop_equal(table, prompts, responses)
    x, i, j = (np.empty(distinct + 1, np.int64) for _ in range(3))
    count = np.empty(distinct + 1)
    collect(table, responses, x, i, j, count)
    return (x[:-1], i[:-1], j[:-1]), count[:-1], int(equal)
