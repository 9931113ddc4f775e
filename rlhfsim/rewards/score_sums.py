"""Scores grouped once: how many each response got at each prompt, their mean and their spread."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.data import ScoreData
from rlhfsim.data.base import as_index_columns, same_rows
from rlhfsim.frozen import Frozen

#: Largest magnitude of a score: the square of a larger one, summed, may overflow.
LARGEST_SCORE = 1e150


@dataclass(frozen=True, eq=False)
class ScoreSums(Frozen):
    """The scored cells `(x, y)` with the count, mean and squared deviations of their scores.

    Everything that a least squares fit needs of a dataset, or of the law of one row: for the limit
    of many rows, `count` is the probability of the cell and `mean` the true reward.

    Parameters
    ----------
    prompt, response : (U,) arrays of integers
        Distinct cells, sorted by prompt, then by response.
    count : (U,) array
        Positive: whole numbers for data, probabilities for a law.
    mean : (U,) array
        Mean score, in reward units, of magnitude at most 1e150.
    squares : (U,) array
        `sum_i (s_i - mean)^2` over the scores of the cell, for a law `count` times their variance.
    shape : (X, Y)

    Raises
    ------
    ValueError
        For empty columns, columns of different lengths, cells out of range, out of order or
        repeated, and numbers out of range.
    """

    prompt: IntArray
    response: IntArray
    count: FloatArray
    mean: FloatArray
    squares: FloatArray
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        shape, columns = as_index_columns(self.shape, prompt=self.prompt, response=self.response)
        _require_sorted(columns["prompt"], columns["response"])
        numbers = {
            "count": checks.as_positive("count", self.count),
            "mean": _as_scores("mean", self.mean),
            "squares": checks.as_non_negative("squares", self.squares),
        }
        for name, column in numbers.items():
            if column.ndim != 1:
                raise ValueError(f"{name} has shape {column.shape}; it must be one-dimensional")
            same_rows(name, column, columns["prompt"])
        object.__setattr__(self, "shape", shape)
        for name, array in (columns | numbers).items():
            object.__setattr__(self, name, checks.frozen(array))

    @classmethod
    def from_tables(cls, count: ArrayLike, mean: ArrayLike, squares: ArrayLike = 0.0) -> ScoreSums:
        """Return the sums of `(X, Y)` tables; cells of count 0 were not scored.

        Parameters
        ----------
        count : (X, Y) array
            Not negative, and positive somewhere.
        mean : (X, Y) array
        squares : (X, Y) array or number

        Raises
        ------
        ValueError
            For tables of another shape, or as the constructor.
        """
        counts = checks.as_non_negative("count", count)
        means = checks.as_real("mean", mean)
        if counts.ndim != 2 or counts.shape != means.shape:
            raise ValueError(
                f"count has shape {counts.shape} and mean {means.shape}; both must be (X, Y)"
            )
        spread = checks.as_non_negative("squares", squares)
        if spread.shape not in ((), counts.shape):
            raise ValueError(f"squares has shape {spread.shape}; it must be {counts.shape}")
        prompt, response = np.nonzero(counts)
        cells = (prompt, response)
        spread = np.broadcast_to(spread, counts.shape)
        return cls(prompt, response, counts[cells], means[cells], spread[cells], counts.shape)

    @property
    def scored(self) -> BoolArray:
        """(X, Y): whether the response was scored at that prompt."""
        mask = np.zeros(self.shape, dtype=np.bool_)
        mask[self.prompt, self.response] = True
        return mask


def sum_scores(data: ScoreData) -> ScoreSums:
    """Return the sums of `data`, each rounded once, so that the order of rows does not matter.

    Parameters
    ----------
    data : ScoreData

    Raises
    ------
    ValueError
        If `data` is not a ScoreData, or a score's magnitude is above 1e150.
    """
    if not isinstance(data, ScoreData):
        raise ValueError(f"data is a {type(data).__name__}; it must be a ScoreData")
    _as_scores("score", data.score)
    order = np.lexsort((data.response, data.prompt))
    prompt, response = data.prompt[order], data.response[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (prompt[1:] != prompt[:-1]) | (response[1:] != response[:-1])
    starts = np.nonzero(new)[0]
    count = np.diff(starts, append=len(order))
    score = data.score[order]
    mean = _exact_sums(score, starts) / count
    deviation = score - np.repeat(mean, count)
    return ScoreSums(
        prompt=prompt[new],
        response=response[new],
        count=count.astype(np.float64),
        mean=mean,
        squares=_exact_sums(deviation**2, starts),
        shape=(data.n_prompts, data.n_responses),
    )


def as_score_sums(data: ScoreData | ScoreSums) -> ScoreSums:
    """Return the sums of a dataset, or sums as they are.

    Raises
    ------
    ValueError
        If `data` is neither.
    """
    if isinstance(data, ScoreSums):
        return data
    if not isinstance(data, ScoreData):
        raise ValueError(f"data is a {type(data).__name__}; it must be a ScoreData or a ScoreSums")
    return sum_scores(data)


def _exact_sums(values: FloatArray, starts: IntArray) -> FloatArray:
    """Return the correctly rounded sum of each run of values."""
    ends = [*starts[1:].tolist(), len(values)]
    plain = values.tolist()
    return np.array([fsum(plain[a:b]) for a, b in zip(starts.tolist(), ends, strict=True)])


def _as_scores(name: str, value: ArrayLike) -> FloatArray:
    array = checks.as_real(name, value)
    large = np.abs(array) > LARGEST_SCORE
    if large.any():
        index = int(np.nonzero(large)[0][0])
        raise ValueError(
            f"{name}[{index}] is {float(array[index])!r}; "
            f"its magnitude must be at most {LARGEST_SCORE:g}, above which squares overflow"
        )
    return array


def _require_sorted(prompt: IntArray, response: IntArray) -> None:
    later = (prompt[1:] > prompt[:-1]) | (
        (prompt[1:] == prompt[:-1]) & (response[1:] > response[:-1])
    )
    if not later.all():
        row = int(np.nonzero(~later)[0][0]) + 1
        cell = (int(prompt[row]), int(response[row]))
        raise ValueError(
            f"row {row} is the cell {cell}; cells must be distinct and sorted by (prompt, response)"
        )
