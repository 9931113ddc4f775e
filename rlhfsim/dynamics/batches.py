"""Mini-batches: which rows of a dataset each step looks at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data import PairCounts

# Rows that are drawn at a time.
_AHEAD = 1 << 20


@dataclass(frozen=True)
class Batches:
    """Rows drawn for each step.

    Without replacement, an epoch is a random order of all rows, cut into batches; the last one is
    smaller where `size` does not divide the number of rows, and a step follows the mean gradient
    of its own batch.  With replacement, rows are drawn independently.

    Parameters
    ----------
    size : int
        Rows of a batch.
    replacement : bool
    """

    size: int
    replacement: bool = False

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "size", checks.whole_number("size", self.size, least=1))
        if not isinstance(self.replacement, (bool, np.bool_)):
            raise ValueError(f"replacement is {self.replacement!r:.80}; it must be a bool")

    def require_rows(self, name: str, counts: PairCounts) -> None:
        """Raise where an order of rows is asked for and counts are no numbers of rows."""
        if self.replacement:
            return
        every = np.append(counts.count, counts.equal_pairs)
        broken = every != np.floor(every)
        if broken.any():
            raise ValueError(
                f"{name} has a count of {every[broken.argmax()].item()!r}; an epoch needs whole "
                "rows: draw from a law with Batches(size, replacement=True)"
            )

    def epochs(self, step: IntArray, total: float) -> FloatArray:
        """Return how many times `total` rows have been seen after each number of steps."""
        if self.replacement:
            return np.asarray(step * (self.size / total))
        whole, rest = np.divmod(step, self._steps_of_epoch(int(total)))
        return whole + rest * (self.size / total)

    def _steps_of_epoch(self, total: int) -> int:
        return -(-total // self.size)


class Drawn(NamedTuple):
    """The batches of consecutive steps; row `U` stands for a pair of equals."""

    #: Indices of the distinct comparisons, batch after batch.
    rows: IntArray
    #: (steps + 1,) where each batch starts.
    starts: IntArray


def drawn(
    batches: Batches, counts: PairCounts, steps: int, rng: np.random.Generator
) -> Iterator[Drawn]:
    """Yield the batches of `steps` steps, in order."""
    draw = _independent if batches.replacement else _epochs
    left = steps
    for part in draw(batches, counts, steps, rng):
        starts = part.starts[: left + 1]
        yield Drawn(part.rows[: starts[-1]], starts)
        left -= starts.size - 1
        if left == 0:
            return


def _independent(
    batches: Batches, counts: PairCounts, steps: int, rng: np.random.Generator
) -> Iterator[Drawn]:
    edges = np.cumsum(counts.count)
    at_once = min(steps, max(1, _AHEAD // batches.size))
    starts = np.arange(at_once + 1) * batches.size
    last = counts.count.size if counts.equal_pairs else counts.count.size - 1
    while True:
        places = rng.random(at_once * batches.size) * counts.total
        # A place may be rounded up to the total.
        yield Drawn(np.minimum(np.searchsorted(edges, places, side="right"), last), starts)


def _epochs(
    batches: Batches, counts: PairCounts, steps: int, rng: np.random.Generator
) -> Iterator[Drawn]:
    whole = np.append(counts.count, counts.equal_pairs).astype(np.int64)
    rows = np.repeat(np.arange(whole.size), whole)
    n = rows.size
    cuts = np.append(np.arange(0, n, batches.size)[1:], n)
    at_once = max(1, min(-(-steps // cuts.size), _AHEAD // n))
    ends = (np.arange(at_once)[:, None] * n + cuts).reshape(-1)
    starts = np.concatenate((np.zeros(1, dtype=np.int64), ends))
    while True:
        order = rng.permuted(np.broadcast_to(rows, (at_once, n)), axis=1)
        yield Drawn(order.reshape(-1), starts)
