"""Scores of single responses, the data that are no preferences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data.base import Dataset, as_index_columns, same_rows
from rlhfsim.data.tables import TableReader


@dataclass(frozen=True, eq=False)
class ScoreData(Dataset):
    """`n` scored responses `(x, y, s)`, `s = r*(x, y) + noise`, as three columns, read-only.

    Parameters
    ----------
    prompt, response : (n,) arrays of integers
    score : (n,) array
        Finite, in reward units.
    shape : (X, Y), optional
        The numbers of prompts and responses, a tuple once constructed; by default, just large
        enough for the indices.

    Raises
    ------
    ValueError
        For empty columns, columns of different lengths, indices out of range, scores that are not
        finite, or a `shape` that is not a pair of positive integers.
    """

    prompt: IntArray
    response: IntArray
    score: FloatArray
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        shape, columns = as_index_columns(self.shape, prompt=self.prompt, response=self.response)
        score = checks.as_real("score", self.score)
        if score.ndim != 1:
            raise ValueError(f"score has shape {score.shape}; it must be one-dimensional")
        same_rows("score", score, columns["prompt"])
        self._freeze(shape, score=score, **columns)

    @classmethod
    def _owned(
        cls, prompt: IntArray, response: IntArray, score: FloatArray, shape: tuple[int, int]
    ) -> Self:
        """Return the data of valid columns that the caller gives up; see PreferenceData."""
        return cls._adopt(prompt=prompt, response=response, score=score, shape=shape)

    def _columns(self) -> dict[str, NDArray[Any]]:
        return {"prompt": self.prompt, "response": self.response, "score": self.score}

    @classmethod
    def _read(cls, table: TableReader) -> Self:
        prompt, response = table.indices("prompt", 0), table.indices("response", 1)
        score = table.numbers("score")
        return cls._owned(prompt, response, score, table.finish())
