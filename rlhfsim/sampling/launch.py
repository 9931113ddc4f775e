"""From arrays to kernels: keys, tables, and which thread draws which rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.sampling import kernels
from rlhfsim.sampling.alias import ShortArray, index_bits
from rlhfsim.sampling.labels import bounds_of, step_for
from rlhfsim.sampling.philox import KEY_WORDS, WordArray
from rlhfsim.threads import get_threads, in_parallel

# Rows and table entries below which waking a thread costs more than it saves.
_WORTH_A_THREAD = 1 << 14
# Rows that a thread takes at a time.
_GRAIN = 1 << 14
_NO_BASE = np.empty(0, dtype=np.int64)
_NO_BASE.setflags(write=False)
# More bits of codes would make the bounds larger than the innermost cache.
_MOST_CODE_BITS = 9
# Indices with more bits leave too few to short entries of 32.
_LONG_INDEX = 16
# numpy asks for huge pages from 4 MiB on; tables just below that are read at random too.
_HUGE_PAGE_BYTES = 1 << 22


def new_key(rng: np.random.Generator) -> WordArray:
    """Return the key of a dataset, 96 bits of `rng`."""
    return rng.integers(0, 1 << 32, size=KEY_WORDS, dtype=np.uint32).astype(np.uint64)


@dataclass(frozen=True, eq=False)
class Tables:
    """The alias tables of the rows of an `(R, Y)` array of weights, end to end."""

    #: (R * Y,) entries.
    entries: WordArray
    #: Y, and the bits of an index below it.
    size: int
    bits: int

    @classmethod
    def of(cls, weights: FloatArray) -> Tables:
        """Build the tables of non-negative weights, whose rows sum to 1 within 1e-9."""
        rows, size = weights.shape
        entries = _array_of_words(rows * size, np.uint64)
        bits = index_bits(size)
        _by_rows(kernels.fill_tables, (_plain(weights), bits, entries), rows, rows * size)
        return cls(entries, size, bits)


@dataclass(frozen=True, eq=False)
class Drawing:
    """What the columns of a dataset are drawn from: its key and the number of its rows."""

    key: WordArray
    n: int

    def prompts(self, tables: Tables) -> IntArray:
        """Return the column of prompts."""
        return self._column(0, _NO_BASE, tables)

    def responses(self, word: int, prompt: IntArray, tables: Tables) -> IntArray:
        """Return the column of responses that takes this word of a row."""
        return self._column(word, prompt, tables)

    def _column(self, word: int, base: IntArray, tables: Tables) -> IntArray:
        out = np.empty(self.n, dtype=np.int64)
        task = (self.key, word, _plain(base), tables.size, tables.entries, tables.bits, out)
        _by_rows(kernels.draw, task, self.n, self.n)
        return out

    def uniforms(self, word: int, rows: slice) -> FloatArray:
        """Return the uniform numbers of some rows."""
        out = np.empty(rows.stop - rows.start)
        kernels.uniforms(self.key, word, rows.start, out)
        return out

    def rankings(self, prompt: IntArray, tables: Tables, reward: FloatArray, size: int) -> IntArray:
        """Return `(n, size)` responses in the order of Plackett-Luce."""
        out = np.empty((self.n, size), dtype=np.int64)
        task = (self.key, _plain(prompt), tables.entries, tables.bits, _plain(reward), out)
        _by_rows(kernels.rankings, task, self.n, self.n * size)
        return out

    # ---- pairs with Bradley-Terry labels ----------------------------------------------------

    def pairs(
        self, prompts: Tables, first: Tables, second: Tables, reward: FloatArray,
        temperature: float, width: float,
    ) -> tuple[IntArray, IntArray, IntArray]:  # fmt: skip
        """Return prompts, chosen and rejected responses, row by row independent.

        `width` is that of the log-odds.
        """
        reward = _plain(reward)
        bits = first.bits
        code_bits, threshold_bits, kind = layout(bits)
        step = step_for(width, code_bits)
        short = [
            _short(table, reward, temperature, step, code_bits, threshold_bits, kind)
            for table in ([first] if second is first else [first, second])
        ]
        columns = tuple(np.empty(self.n, dtype=np.int64) for _ in range(3))
        self._share_rows(
            kernels.pairs,
            self.key, prompts.entries, prompts.bits, short[0], first.entries, short[-1],
            second.entries, bits, code_bits, threshold_bits, reward, temperature,
            bounds_of(step, code_bits).reshape(-1), *columns,
        )  # fmt: skip
        return columns[0], columns[1], columns[2]

    def grouped_pairs(
        self, counts: IntArray, first: Tables, second: Tables, reward: FloatArray,
        temperature: float,
    ) -> tuple[IntArray, IntArray, IntArray]:  # fmt: skip
        """Return the same columns with `counts[x]` rows of prompt x, in the order of prompts."""
        starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
        columns = tuple(np.empty(self.n, dtype=np.int64) for _ in range(3))
        self._share_rows(
            kernels.grouped_pairs, self.key, starts, first.entries, second.entries, first.bits,
            _plain(reward), temperature, *columns,
        )  # fmt: skip
        return columns[0], columns[1], columns[2]

    def _share_rows(self, kernel: Callable[..., None], *arguments: Any) -> None:
        """Run a kernel whose threads take rows from one counter."""
        call = (*arguments, np.zeros(1, np.int64), _GRAIN)
        workers = min(get_threads(), -(-self.n // _GRAIN))
        in_parallel(kernel, [call] * workers)


def layout(bits: int) -> tuple[int, int, type]:
    """Return the bits of codes and thresholds in a short entry, and its type."""
    width, kind = (32, np.uint32) if bits <= _LONG_INDEX else (64, np.uint64)
    code_bits = min((width - bits) // 2, _MOST_CODE_BITS)
    return code_bits, min(width - bits - code_bits, 62 - bits), kind


def _short(
    tables: Tables, reward: FloatArray, temperature: float, step: float, code_bits: int,
    threshold_bits: int, kind: type,
) -> ShortArray:  # fmt: skip
    short = _array_of_words(tables.entries.size, kind)
    task = (
        tables.entries, tables.bits, reward, temperature, step, code_bits, threshold_bits, short,
    )  # fmt: skip
    _by_rows(kernels.shorten_tables, task, reward.shape[0], short.size)
    return short


def width_of(reward: FloatArray, temperature: float) -> float:
    """Return the largest range of log-odds of a prompt; infinite where a difference overflows."""
    arguments = (_plain(reward), temperature)
    return max(_by_rows(kernels.widest, arguments, reward.shape[0], reward.size))


def _by_rows(kernel: Callable[..., Any], arguments: tuple[Any, ...], rows: int, work: int) -> Any:
    """Run a kernel on ranges of rows, one a thread where the work is worth it."""
    workers = min(get_threads(), rows) if work >= _WORTH_A_THREAD else 1
    cuts = [rows * k // workers for k in range(workers + 1)]
    return in_parallel(kernel, [(*arguments, *cuts[k : k + 2]) for k in range(workers)])


def _array_of_words(size: int, kind: type) -> NDArray[Any]:
    """Return an array, of pages as large as they come where it is read at random."""
    length = size * np.dtype(kind).itemsize
    if length > _HUGE_PAGE_BYTES // 2:
        length = max(length, _HUGE_PAGE_BYTES)
    return np.empty(length // np.dtype(kind).itemsize, dtype=kind)[:size]


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous read-only view or copy: one type for the compiler."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
