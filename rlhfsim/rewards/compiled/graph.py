"""Connectivity of the win graphs of many prompts, by breadth-first search in their tables."""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.compiling import EXACT
from rlhfsim.rewards.compiled.layout import entry, pairs, row_start


@EXACT
def _from_reached(
    table: FloatArray, ahead: int, behind: int, both: bool, size: int, u: int, reached: BoolArray
) -> bool:
    """Return whether an edge leads from a reached response to u."""
    to = row_start(u, size) - u - 1
    for j in range(u + 1, size):
        edge = entry(table, behind + to + j) > 0.0 or (both and entry(table, ahead + to + j) > 0.0)
        if edge and reached[j]:
            return True
    for i in range(u):
        if reached[i]:
            at = row_start(i, size) + u - i - 1
            if entry(table, ahead + at) > 0.0 or (both and entry(table, behind + at) > 0.0):
                return True
    return False


@EXACT
def _reaches_all(
    table: FloatArray, ahead: int, behind: int, both: bool, size: int, queue: IntArray,
    reached: BoolArray,
) -> bool:  # fmt: skip
    """Return whether response 0 reaches every other one.

    There is an edge from v to j > v where the half of the table that begins at `ahead` is positive
    for that pair, and to i < v where the half that begins at `behind` is; with `both`, an edge
    wherever either half is positive.
    """
    reached[:size] = False
    reached[0], queue[0] = True, 0
    head, tail, swept = 0, 1, False
    while head < tail and tail < size:
        if not swept and 2 * tail > size:
            # The rest soon finds someone who leads to it, where there are many edges.
            swept = True
            for u in range(size):
                if not reached[u] and _from_reached(table, ahead, behind, both, size, u, reached):
                    reached[u], queue[tail] = True, u
                    tail += 1
            continue
        v = queue[head]
        head += 1
        to = row_start(v, size) - v - 1
        for j in range(v + 1, size):
            edge = entry(table, ahead + to + j) > 0.0 or (
                both and entry(table, behind + to + j) > 0.0
            )
            if edge and not reached[j]:
                reached[j], queue[tail] = True, j
                tail += 1
        for i in range(v):
            at = row_start(i, size) + v - i - 1
            edge = entry(table, behind + at) > 0.0 or (both and entry(table, ahead + at) > 0.0)
            if edge and not reached[i]:
                reached[i], queue[tail] = True, i
                tail += 1
    return tail == size


@EXACT
def connected(
    table: FloatArray, starts: IntArray, sizes: IntArray, strong: bool, answer: BoolArray
) -> None:
    """Write for each prompt whether it compares anything and its graph is (strongly) connected."""
    most = 0
    for x in range(sizes.size):
        most = max(most, sizes[x])
    queue, reached = np.empty(most, np.int64), np.empty(most, np.bool_)
    for x in range(sizes.size):
        size, first = sizes[x], starts[x]
        second = first + pairs(size)
        if size == 0:
            answer[x] = False
        elif strong:
            answer[x] = _reaches_all(
                table, first, second, False, size, queue, reached
            ) and _reaches_all(table, second, first, False, size, queue, reached)
        else:
            answer[x] = _reaches_all(table, first, second, True, size, queue, reached)
