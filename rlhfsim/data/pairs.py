"""Pairwise preference data: n triples of a prompt, a chosen and a rejected response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from rlhfsim.checks import IntArray
from rlhfsim.data.base import Dataset, as_index_columns
from rlhfsim.data.tables import TableReader


@dataclass(frozen=True, eq=False)
class PreferenceData(Dataset):
    """`n` comparisons `(x, y+, y-)` as three integer columns, read-only.

    Pairs with `chosen == rejected` happen when both responses are sampled independently; they
    are kept and carry no information.

    Parameters
    ----------
    prompt, chosen, rejected : (n,) arrays of integers
    shape : (X, Y), optional
        The numbers of prompts and responses, a tuple once constructed; by default, just large
        enough for the indices.

    Raises
    ------
    ValueError
        For empty columns, columns of different lengths, indices out of range, or a `shape` that is
        not a pair of positive integers.

    Source: arXiv 2407.13399.
    """

    prompt: IntArray
    chosen: IntArray
    rejected: IntArray
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        shape, columns = as_index_columns(
            self.shape, prompt=self.prompt, chosen=self.chosen, rejected=self.rejected
        )
        self._freeze(shape, **columns)

    @classmethod
    def _owned(
        cls, prompt: IntArray, chosen: IntArray, rejected: IntArray, shape: tuple[int, int]
    ) -> Self:
        """Return the data of valid int64 columns, neither copied nor checked.

        The caller gives the arrays up: they become read-only, and no other view of them may be
        written to.
        """
        return cls._adopt(prompt=prompt, chosen=chosen, rejected=rejected, shape=shape)

    def _columns(self) -> dict[str, NDArray[Any]]:
        return {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}

    @classmethod
    def _read(cls, table: TableReader) -> Self:
        prompt = table.indices("prompt", 0)
        chosen, rejected = table.indices("chosen", 1), table.indices("rejected", 1)
        return cls._owned(prompt, chosen, rejected, table.finish())
