"""Connectivity of the win graphs of many prompts.

Up to 64 responses, sets of them are the bits of a word; beyond, breadth-first search in the tables.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.vectors import LANES, positive, take
from rlhfsim.rewards.compiled.layout import entry, pairs, row_start

#: Responses that fit in a word.
_BITS = 64


@EXACT
def _successors(table: FloatArray, half: int, size: int, words: IntArray, later: IntArray) -> None:
    """Write for each response i the set of all j > i with a positive entry in a half table."""
    end = pairs(size)
    # The half as a string of bits; one word more, because a row is taken from two.
    for k in range(0, end + 2 * _BITS, _BITS):
        words[k // _BITS] = 0
    for k in range(0, end, LANES):
        words[k // _BITS] |= positive(take(table, half + k, half + end, 0.0)) << (k % _BITS)
    at = 0
    for i in range(size - 1):
        row, shift = size - i - 1, at % _BITS
        low = (words[at // _BITS] >> shift) & ((np.int64(1) << (_BITS - 1 - shift) << 1) - 1)
        # In two shifts, as one by 64 is none.
        high = words[at // _BITS + 1] << 1 << (_BITS - 1 - shift)
        later[i] = ((low | high) & ((np.int64(1) << row) - 1)) << (i + 1)
        at += row
    later[size - 1] = 0


@EXACT
def _spans(size: int, up: IntArray, down: IntArray) -> bool:
    """Return whether response 0 reaches all by edges from i to `up[i]` and from `down[i]` to i."""
    everyone = (np.int64(1) << (size - 1) << 1) - 1
    reached, before = np.int64(1), np.int64(0)
    while reached != before:
        before = reached
        for i in range(size):
            here = np.int64(1) << i
            if reached & here != 0 or reached & down[i] != 0:
                reached |= here | up[i]
                if reached == everyone:
                    return True
    return size == 1


@EXACT
def _connected_in_words(
    table: FloatArray, first: int, second: int, size: int, strong: bool, words: IntArray,
    up: IntArray, down: IntArray,
) -> bool:  # fmt: skip
    _successors(table, first, size, words, up)
    _successors(table, second, size, words, down)
    if strong:
        return _spans(size, up, down) and _spans(size, down, up)
    for i in range(size):
        up[i] |= down[i]
    return _spans(size, up, up)


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
    words = np.empty(pairs(_BITS) // _BITS + 3, np.int64)
    up, down = np.empty(_BITS, np.int64), np.empty(_BITS, np.int64)
    for x in range(sizes.size):
        size, first = sizes[x], starts[x]
        second = first + pairs(size)
        if size == 0:
            answer[x] = False
        elif size <= _BITS:
            answer[x] = _connected_in_words(table, first, second, size, strong, words, up, down)
        elif strong:
            answer[x] = _reaches_all(
                table, first, second, False, size, queue, reached
            ) and _reaches_all(table, second, first, False, size, queue, reached)
        else:
            answer[x] = _reaches_all(table, first, second, True, size, queue, reached)
