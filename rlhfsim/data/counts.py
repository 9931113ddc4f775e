"""Preference data grouped once: how often each response beat each other one at each prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.data.pairs import PreferenceData
from rlhfsim.frozen import Frozen

#: Rows below which numpy is done before compiled code is loaded.
_WORTH_COMPILING = 1 << 14


class PromptWins(NamedTuple):
    """The comparisons of one prompt, over the `K` responses that it compared."""

    prompt: int
    #: (K,) indices of the compared responses, increasing; K is 0 or at least 2.
    responses: IntArray
    #: (K, K) `wins[i, j]`: how often `responses[i]` beat `responses[j]`.
    wins: FloatArray


@dataclass(frozen=True, eq=False)
class PairCounts(Frozen):
    """The distinct triples `(prompt, winner, loser)` of a dataset, with their counts; read-only.

    Two datasets that differ in the order of their rows have equal counts.  Memory is that of the
    distinct triples, never `X Y Y`.  Every fit to preferences takes counts in place of data, also
    counts that are the probabilities of a law: the fit to infinite data.

    Parameters
    ----------
    prompt, winner, loser : (U,) arrays of integers
        The distinct triples, sorted, `winner != loser`; possibly none.
    count : (U,) array
        Number of rows of each triple, positive: whole numbers for data, probabilities for a law.
    equal_pairs : float
        Number of rows with `chosen == rejected`, which say nothing about the reward.
    shape : (X, Y)

    Raises
    ------
    ValueError
        For columns of different lengths, indices out of range, triples that are not sorted or not
        distinct, a response compared with itself, counts that are not positive and finite, or a
        negative `equal_pairs`.
    """

    prompt: IntArray
    winner: IntArray
    loser: IntArray
    count: FloatArray
    equal_pairs: float
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        shape = _as_shape(self.shape)
        columns = {
            "prompt": _as_column("prompt", self.prompt, shape[0]),
            "winner": _as_column("winner", self.winner, shape[1]),
            "loser": _as_column("loser", self.loser, shape[1]),
        }
        count = checks.as_positive("count", self.count)
        for name, column in (*columns.items(), ("count", count)):
            if column.shape != columns["prompt"].shape:
                raise ValueError(
                    f"{name} has shape {column.shape} and prompt has "
                    f"{columns['prompt'].shape}; the columns must have equal length"
                )
        _check_triples(columns)
        equal = checks.positive_number("equal_pairs", self.equal_pairs, zero=True)
        self._freeze(shape, equal, count=count, **columns)

    @classmethod
    def _owned(
        cls, prompt: IntArray, winner: IntArray, loser: IntArray, count: FloatArray,
        equal_pairs: float, shape: tuple[int, int],
    ) -> Self:  # fmt: skip
        """Return the counts of valid columns, neither copied nor checked; they become read-only."""
        counts = object.__new__(cls)
        columns = {"prompt": prompt, "winner": winner, "loser": loser, "count": count}
        for name, column in columns.items():
            column.setflags(write=False)
            object.__setattr__(counts, name, column)
        object.__setattr__(counts, "shape", shape)
        object.__setattr__(counts, "equal_pairs", equal_pairs)
        return counts

    def _freeze(self, shape: tuple[int, int], equal: float, **columns: NDArray[Any]) -> None:
        for name, column in columns.items():
            object.__setattr__(self, name, checks.frozen(column))
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "equal_pairs", equal)

    @property
    def n_prompts(self) -> int:
        """`X`."""
        return self.shape[0]

    @property
    def n_responses(self) -> int:
        """`Y`."""
        return self.shape[1]

    @property
    def total(self) -> float:
        """All rows, pairs of equals included; 1 for a law."""
        return float(self.count.sum() + self.equal_pairs)

    @cached_property
    def compared(self) -> BoolArray:
        """(X, Y): whether the response was compared with a different one at that prompt."""
        mask = np.zeros(self.shape, dtype=np.bool_)
        flat, first = mask.reshape(-1), self.prompt * self.shape[1]
        flat[first + self.winner] = True
        flat[first + self.loser] = True
        mask.flags.writeable = False
        return mask

    def by_prompt(self) -> Iterator[PromptWins]:
        """Yield the win counts of every prompt, in order, also of those without comparisons."""
        starts = np.searchsorted(self.prompt, np.arange(self.shape[0] + 1))
        for prompt in range(self.shape[0]):
            rows = slice(starts[prompt], starts[prompt + 1])
            pairs = np.stack((self.winner[rows], self.loser[rows]))
            responses, place = np.unique(pairs, return_inverse=True)
            winner, loser = place.reshape(pairs.shape)
            wins = np.zeros((responses.size, responses.size))
            wins[winner, loser] = self.count[rows]
            yield PromptWins(prompt, responses, wins)


def count_pairs(data: PreferenceData) -> PairCounts:
    """Return the counts of the distinct triples of `data`.

    Parameters
    ----------
    data : PreferenceData

    Raises
    ------
    ValueError
        If `data` is not a PreferenceData.
    """
    if not isinstance(data, PreferenceData):
        raise ValueError(f"data is a {type(data).__name__}; it must be a PreferenceData")
    shape = (data.n_prompts, data.n_responses)
    columns = (data.prompt, data.chosen, data.rejected)
    if _WORTH_COMPILING <= len(data) < 2**31 and shape[0] * shape[1] ** 2 <= 8 * len(data):
        from rlhfsim.data.counting import dense_counts

        triples, count, equal = dense_counts(*columns, shape)
        return PairCounts._owned(*triples, count, float(equal), shape)
    informative = data.chosen != data.rejected
    prompt, winner, loser = (column[informative] for column in columns)
    triples, whole = _distinct(prompt, winner, loser, shape)
    equal = len(data) - prompt.size
    return PairCounts._owned(*triples, whole.astype(np.float64), float(equal), shape)


def as_counts(data: PreferenceData | PairCounts) -> PairCounts:
    """Return the counts of preference data, which may be counts already.

    Parameters
    ----------
    data : PreferenceData or PairCounts

    Raises
    ------
    ValueError
        If `data` is neither.
    """
    data = require_pairs(data)
    return data if isinstance(data, PairCounts) else count_pairs(data)


def require_pairs(data: PreferenceData | PairCounts) -> PreferenceData | PairCounts:
    """Return `data`, or raise a ValueError if it is neither rows nor counts of preferences."""
    if not isinstance(data, (PreferenceData, PairCounts)):
        raise ValueError(
            f"data is a {type(data).__name__}; it must be a PreferenceData or PairCounts"
        )
    return data


def compared_in(data: PreferenceData | PairCounts) -> BoolArray:
    """Return `PairCounts.compared` of rows or counts, without counting the rows."""
    if isinstance(data, PairCounts):
        return data.compared
    mask = np.zeros((data.n_prompts, data.n_responses), dtype=np.bool_)
    if len(data) >= _WORTH_COMPILING:
        from rlhfsim.data.counting import mark

        mark(data.prompt, data.chosen, data.rejected, mask)
    else:
        apart = data.chosen != data.rejected
        for column in (data.chosen, data.rejected):
            mask[data.prompt[apart], column[apart]] = True
    mask.flags.writeable = False
    return mask


def number_of_rows(data: PreferenceData | PairCounts) -> float:
    """Return `PairCounts.total` of rows or counts."""
    return data.total if isinstance(data, PairCounts) else float(len(data))


def _distinct(
    prompt: IntArray, winner: IntArray, loser: IntArray, shape: tuple[int, int]
) -> tuple[tuple[IntArray, IntArray, IntArray], IntArray]:
    """Return the distinct triples of three columns, as sorted columns, and their counts."""
    prompts, responses = shape
    if prompts * responses**2 >= 2**63:
        rows, count = np.unique(np.stack((prompt, winner, loser)), axis=1, return_counts=True)
        return (rows[0], rows[1], rows[2]), count
    # One int64 a triple sorts several times faster than three columns.
    key = (prompt * responses + winner) * responses + loser
    triples, count = np.unique(key, return_counts=True)
    pair, loser = np.divmod(triples, responses)
    prompt, winner = np.divmod(pair, responses)
    return (prompt, winner, loser), count


def _as_shape(shape: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ValueError(f"shape is {shape!r:.80}; it must be a pair (X, Y)")
    x, y = (checks.whole_number(f"shape[{i}]", shape[i], least=1) for i in range(2))
    return x, y


def _as_column(name: str, value: IntArray, upper: int) -> IntArray:
    """Return indices below `upper`, of which there may be none."""
    if isinstance(value, np.ndarray) and value.shape == (0,):
        return np.empty(0, dtype=np.int64)
    return checks.as_indices(name, value, upper)


def _check_triples(columns: dict[str, IntArray]) -> None:
    """Refuse a response compared with itself, and triples out of order."""
    prompt, winner, loser = columns.values()
    itself = winner == loser
    if itself.any():
        row = int(itself.argmax())
        raise ValueError(
            f"loser[{row}] is {loser[row]}, which is winner[{row}]; "
            "pairs of equals are counted in equal_pairs"
        )
    step = np.diff(prompt), np.diff(winner), np.diff(loser)
    rises = (step[0] > 0) | ((step[0] == 0) & ((step[1] > 0) | ((step[1] == 0) & (step[2] > 0))))
    if not rises.all():
        row = int((~rises).argmax()) + 1
        triple = tuple(int(column[row]) for column in (prompt, winner, loser))
        raise ValueError(
            f"row {row} is {triple}, which does not come after row {row - 1}; "
            "the triples (prompt, winner, loser) must be sorted and distinct"
        )


def log_likelihood(counts: PairCounts, reward: FloatArray) -> float:
    """Return `sum_i log sigma(r(x_i, y+_i) - r(x_i, y-_i))`, in nats.

    Every row of the dataset counts; one with `y+ = y-` contributes `log(1/2)`.

    Parameters
    ----------
    counts : PairCounts
    reward : (X, Y) array

    Source: Bradley and Terry 1952; arXiv 2407.13399.
    """
    margin = reward[counts.prompt, counts.winner] - reward[counts.prompt, counts.loser]
    informative = -(counts.count * np.logaddexp(0.0, -margin)).sum()
    return float(informative - counts.equal_pairs * np.log(2.0))
