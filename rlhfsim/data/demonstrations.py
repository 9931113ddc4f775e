"""Expert demonstrations: n prompts, each with the response that an expert gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from rlhfsim.checks import IntArray
from rlhfsim.data.base import Dataset, as_index_columns
from rlhfsim.data.tables import TableReader


@dataclass(frozen=True, eq=False)
class DemonstrationData(Dataset):
    """`n` demonstrations `(x, y)`, `y ~ pi_E(.|x)`, as two integer columns, read-only.

    Parameters
    ----------
    prompt, response : (n,) arrays of integers
    shape : (X, Y), optional
        The numbers of prompts and responses, a tuple once constructed; by default, just large
        enough for the indices.

    Raises
    ------
    ValueError
        For empty columns, columns of different lengths, indices out of range, or a `shape` that is
        not a pair of positive integers.

    Source: arXiv 2310.17303.
    """

    prompt: IntArray
    response: IntArray
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        shape, columns = as_index_columns(self.shape, prompt=self.prompt, response=self.response)
        self._freeze(shape, **columns)

    @classmethod
    def _owned(cls, prompt: IntArray, response: IntArray, shape: tuple[int, int]) -> Self:
        """Return the data of valid int64 columns that the caller gives up; see PreferenceData."""
        return cls._adopt(prompt=prompt, response=response, shape=shape)

    def _columns(self) -> dict[str, NDArray[Any]]:
        return {"prompt": self.prompt, "response": self.response}

    @classmethod
    def _read(cls, table: TableReader) -> Self:
        prompt, response = table.indices("prompt", 0), table.indices("response", 1)
        return cls._owned(prompt, response, table.finish())
