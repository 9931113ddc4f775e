"""From data to the tables of `layout`, one for each prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.compiling import EXACT, SUMS
from rlhfsim.data.counts import PairCounts, PromptWins, as_counts
from rlhfsim.data.pairs import PreferenceData
from rlhfsim.kernels.intrinsics import borrow
from rlhfsim.rewards.compiled.layout import entry, pairs, row_start
from rlhfsim.threads import get_threads, in_parallel

#: Entries of the tables that are held at once, except where one prompt needs more.
_HELD = 1 << 23
# Entries a row for which tables over all responses are made at once.
_DENSE = 16
_WORTH_A_THREAD = 1 << 16
_CHUNK = 2048
# Rows that one table of 32-bit numbers can count.
_MOST_ROWS = (1 << 31) - 1
# Numbers to count in, and rows an entry, on average, up to which they are tried: the fewer bits,
# the less memory to wait for.
_KINDS = ((np.uint8, 1 << 3), (np.uint16, 1 << 10))

CountArray = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int32]


@dataclass(frozen=True)
class Tables:
    """The tables of the prompts `begin`, `begin + 1`, ..., as in `layout`.

    Prompt `begin + x` compares `size[x]` responses: `members[first[x] : first[x] + size[x]]`,
    increasing.  Its table is at `table[start[x]]`.
    """

    begin: int
    table: FloatArray
    start: IntArray
    size: IntArray
    members: IntArray
    first: IntArray
    #: (P, Y) whether the response is a member.
    compared: BoolArray
    #: (P,) comparisons.
    total: FloatArray
    #: The smallest count but 0, or less.
    least: float

    def members_of(self, x: int) -> IntArray:
        """Return the responses that the x-th prompt compares."""
        return self.members[self.first[x] : self.first[x] + self.size[x]]

    def group(self, x: int) -> PromptWins:
        """Return the wins of the x-th prompt as a matrix."""
        k = int(self.size[x])
        wins, half = np.zeros((k, k)), k * (k - 1) // 2
        above = np.triu_indices(k, 1)
        wins[above] = self.table[self.start[x] : self.start[x] + half]
        wins.T[above] = self.table[self.start[x] + half : self.start[x] + 2 * half]
        return PromptWins(self.begin + x, self.members_of(x), wins)


@SUMS
def _sum_of(x: FloatArray) -> float:
    total = 0.0
    for k in range(x.size):
        total += x[k]
    return total


@EXACT
def _add_up(table: FloatArray, start: IntArray, size: IntArray, totals: FloatArray) -> None:
    for x in range(size.size):
        totals[x] = _sum_of(table[start[x] : start[x] + 2 * pairs(size[x])])


def tabulate(data: PreferenceData | PairCounts) -> tuple[Iterator[Tables], float]:
    """Return the tables of all prompts, in order, and the number of pairs of equals."""
    if isinstance(data, PreferenceData):
        entries = data.n_prompts * data.n_responses * (data.n_responses - 1)
        if entries <= _DENSE * len(data) + _CHUNK:
            tables, equal = _from_rows(data)
            return iter((tables,)), float(equal)
    counts = as_counts(data)
    return _from_counts(counts), counts.equal_pairs


# ---- rows, counted in tables over all responses ------------------------------------------------


@EXACT
def _places(
    prompt: IntArray, winner: IntArray, loser: IntArray, responses: int, spare: int, out: IntArray
) -> int:
    """Write where each row is counted, `spare` if it compares equals; return how many do."""
    half = pairs(responses)
    equal = 0
    for k in range(out.size):
        i, j = min(winner[k], loser[k]), max(winner[k], loser[k])
        place = prompt[k] * (2 * half) + row_start(i, responses) + (j - i - 1)
        place += half if winner[k] > loser[k] else 0
        out[k] = place if i < j else spare
        equal += 1 if i == j else 0
    return equal


@EXACT
def _count(
    prompt: IntArray, winner: IntArray, loser: IntArray, responses: int, table: CountArray
) -> int:
    """Count rows modulo the range of the table; return how many compare equals.

    Those are counted in the last entry, which is worth nothing.
    """
    table[:] = 0
    places = np.empty(_CHUNK, np.int64)
    equal = 0
    for begin in range(0, prompt.size, _CHUNK):
        end = min(begin + _CHUNK, prompt.size)
        # The places first, in a loop without branches; the counts then wait for memory only.
        equal += _places(
            prompt[begin:end], winner[begin:end], loser[begin:end], responses, table.size - 1,
            places[: end - begin],
        )  # fmt: skip
        for k in range(end - begin):
            # A signed index would be tested for being negative.
            table[np.uint64(places[k])] += 1
    return equal


@EXACT
def _add_parts(parts: CountArray, begin: int, table: FloatArray) -> None:
    """Write the sum of the rows of `parts` from column `begin` on.

    Of whole numbers, in which the order of the sum does not show.
    """
    length, size = parts.shape[1], table.size
    some = borrow(parts, begin, size)
    for k in range(size):
        table[k] = some[k]
    for part in range(1, parts.shape[0]):
        some = borrow(parts, part * length + begin, size)
        for k in range(size):
            table[k] += some[k]


@EXACT
def _is_compared(table: FloatArray, start: int, size: int, i: int) -> bool:
    """Return whether response i beats or loses to any other one."""
    half, to = pairs(size), start + row_start(i, size) - i - 1
    for j in range(i + 1, size):
        if entry(table, to + j) > 0.0 or entry(table, to + half + j) > 0.0:
            return True
    for j in range(i):
        at = start + row_start(j, size) + i - j - 1
        if entry(table, at) > 0.0 or entry(table, at + half) > 0.0:
            return True
    return False


@EXACT
def _squeeze(table: FloatArray, compared: BoolArray, start: int, members: IntArray) -> int:
    """List the responses that a prompt compares, and leave the others out of its table.

    Return how many there are; the table begins at `start`.
    """
    responses, size = compared.size, 0
    half = pairs(responses)
    for y in range(responses):
        compared[y] = _is_compared(table, start, responses, y)
        if compared[y]:
            members[size] = y
            size += 1
    if size == responses:
        return size
    # Entries only move towards the front, in order, so none is overwritten before it moved.
    write = start
    for side in range(2):
        for a in range(size):
            read = start + side * half + row_start(members[a], responses) - members[a] - 1
            for b in range(a + 1, size):
                table[write] = table[read + members[b]]
                write += 1
    return size


@EXACT
def _settle(
    parts: CountArray, table: FloatArray, compared: BoolArray, start: IntArray, size: IntArray,
    members: IntArray, first: IntArray, total: FloatArray, begin: int, end: int,
) -> None:  # fmt: skip
    """Add up and squeeze the tables of a range of prompts."""
    responses = compared.shape[1]
    entries = 2 * pairs(responses)
    for x in range(begin, end):
        start[x], first[x] = entries * x, responses * x
        inside = borrow(table, start[x], entries)
        _add_parts(parts, start[x], inside)
        total[x] = _sum_of(inside)
        some = borrow(compared, first[x], responses)
        size[x] = _squeeze(table, some, start[x], borrow(members, first[x], responses))


def _from_rows(data: PreferenceData) -> tuple[Tables, int]:
    entries = data.n_prompts * data.n_responses * (data.n_responses - 1)
    for kind, rows in _KINDS:
        if len(data) <= rows * entries:
            tables, equal = _counted(data, kind)
            # What wrapped around is missing from the sum, a whole number far below 2^53.
            if int(tables.total.sum()) + equal == len(data):
                return tables, equal
    return _counted(data, np.int32)


def _counted(data: PreferenceData, kind: type) -> tuple[Tables, int]:
    x, y = data.n_prompts, data.n_responses
    columns = (data.prompt, data.chosen, data.rejected)
    workers = min(get_threads(), max(1, len(data) // _WORTH_A_THREAD))
    shares = max(workers, -(-len(data) // _MOST_ROWS))
    cuts = [len(data) * k // shares for k in range(shares + 1)]
    parts: CountArray = np.empty((shares, x * y * (y - 1) + 1), dtype=kind)
    calls = [(*(c[cuts[k] : cuts[k + 1]] for c in columns), y, parts[k]) for k in range(shares)]
    equal = sum(in_parallel(_count, calls))
    table = np.empty(x * y * (y - 1) + 1)
    table[-1] = 0.0
    start, size, first = (np.empty(x, dtype=np.int64) for _ in range(3))
    members = np.empty(x * y, dtype=np.int64)
    compared, total = np.empty((x, y), dtype=np.bool_), np.empty(x)
    arrays = (parts, table, compared, start, size, members, first, total)
    workers = min(workers, x)
    ends = [x * k // workers for k in range(workers + 1)]
    in_parallel(_settle, [(*arrays, ends[k], ends[k + 1]) for k in range(workers)])
    return Tables(0, table, start, size, members, first, compared, total, 1.0), equal


# ---- counts, in tables over the responses that a prompt compares -------------------------------


@EXACT
def _mark(prompt: IntArray, winner: IntArray, loser: IntArray, seen: BoolArray) -> None:
    for k in range(prompt.size):
        seen[prompt[k], winner[k]] = True
        seen[prompt[k], loser[k]] = True


@EXACT
def _spread_out(
    counts: tuple[IntArray, IntArray, IntArray, FloatArray], begin: int, start: IntArray,
    size: IntArray, members: IntArray, first: IntArray, place: IntArray, table: FloatArray,
) -> None:  # fmt: skip
    """Copy the counts into the tables; `place` is room for one number a response."""
    prompt, winner, loser, count = counts
    last = -1
    for k in range(prompt.size):
        x = prompt[k] - begin
        if x != last:
            for a in range(size[x]):
                place[members[first[x] + a]] = a
            last = x
        i, j = place[winner[k]], place[loser[k]]
        if i < j:
            table[start[x] + row_start(i, size[x]) + j - i - 1] = count[k]
        else:
            table[start[x] + pairs(size[x]) + row_start(j, size[x]) + i - j - 1] = count[k]


def _from_counts(counts: PairCounts) -> Iterator[Tables]:
    """Yield tables of as many prompts at a time as may be held."""
    prompts, responses = counts.shape
    rows = np.searchsorted(counts.prompt, np.arange(prompts + 1))
    # A prompt's U triples name at most 2 U responses.
    most = np.minimum(2 * np.diff(rows), responses)
    bound = np.cumsum(np.maximum(most * (most - 1), responses))
    begin = 0
    while begin < prompts:
        done = 0 if begin == 0 else int(bound[begin - 1])
        end = max(begin + 1, int(np.searchsorted(bound, done + _HELD, side="right")))
        yield _chunk(counts, begin, end, slice(rows[begin], rows[end]))
        begin = end


def _chunk(counts: PairCounts, begin: int, end: int, rows: slice) -> Tables:
    responses = counts.shape[1]
    columns: tuple[Any, ...] = (
        counts.prompt[rows],
        counts.winner[rows],
        counts.loser[rows],
        counts.count[rows],
    )
    compared = np.zeros((end - begin, responses), dtype=np.bool_)
    _mark(columns[0] - begin, columns[1], columns[2], compared)
    size = compared.sum(axis=1, dtype=np.int64)
    members = np.nonzero(compared)[1]
    first = np.cumsum(size) - size
    entries = size * (size - 1)
    start = np.cumsum(entries) - entries
    table = np.zeros(int(entries.sum()) + 1)
    place = np.empty(responses, dtype=np.int64)
    _spread_out(columns, begin, start, size, members, first, place, table)
    total = np.empty(size.size)
    _add_up(table, start, size, total)
    least = float(columns[3].min(initial=np.inf))
    return Tables(begin, table, start, size, members, first, compared, total, least)
