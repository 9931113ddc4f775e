"""What all kinds of data have in common: frozen columns, a shape, and the way to tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhfsim import checks
from rlhfsim.checks import IntArray
from rlhfsim.data.tables import TableReader, as_shape, write_parquet
from rlhfsim.frozen import Frozen

if TYPE_CHECKING:
    import pandas as pd


class Dataset(Frozen, ABC):
    """`n` rows about prompts `0 ... X-1` and responses `0 ... Y-1`, read-only.

    A subclass is a frozen dataclass whose last field is `shape`; it says which columns a table
    of it has, and how they are read back.
    """

    prompt: IntArray
    shape: tuple[int, int] | None

    @abstractmethod
    def _columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns of the table, each `(n,)`."""

    @classmethod
    @abstractmethod
    def _read(cls, table: TableReader) -> Self:
        """Return the data of a table, or raise all its problems."""

    def __len__(self) -> int:
        """Return `n`."""
        return self.prompt.size

    @property
    def n_prompts(self) -> int:
        """`X`."""
        return self._shape()[0]

    @property
    def n_responses(self) -> int:
        """`Y`."""
        return self._shape()[1]

    def _shape(self) -> tuple[int, int]:
        assert self.shape is not None  # only the constructor's argument may be None
        return self.shape

    # ---- to and from tables -----------------------------------------------------------------

    def to_dataframe(self) -> pd.DataFrame:
        """Return a DataFrame of the columns, with the shape in its `attrs`."""
        import pandas as pd

        frame = pd.DataFrame(self._columns())
        frame.attrs["shape"] = list(self._shape())
        return frame

    @classmethod
    def from_dataframe(cls, frame: pd.DataFrame, shape: tuple[int, int] | None = None) -> Self:
        """Return the data of a DataFrame with the columns that `to_dataframe` writes.

        Other columns are ignored; `frame` is not written to.

        Parameters
        ----------
        frame : pandas.DataFrame
        shape : (X, Y), optional
            By default the one that `to_dataframe` noted, if any, otherwise just large enough for
            the indices.

        Raises
        ------
        DataError
            With every problem of the table at once: columns that are missing or of another type,
            cells that are missing, not integers or out of range, no rows.
        ValueError
            If `frame` is not a DataFrame, or `shape` not a pair of positive integers.
        """
        return cls._read(TableReader.of_frame(frame, shape))

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Write the columns and the shape to a Parquet file, atomically."""
        write_parquet(path, self._columns(), self._shape())

    @classmethod
    def from_parquet(cls, path: str | PathLike[str], shape: tuple[int, int] | None = None) -> Self:
        """Return the data of a Parquet file with the columns that `to_parquet` writes.

        As `from_dataframe`; a file that cannot be read is a ValueError that names it.
        """
        return cls._read(TableReader.of_parquet(path, shape))

    # ---- for subclasses ---------------------------------------------------------------------

    @classmethod
    def _adopt(cls, **fields: Any) -> Self:
        """Return data of arrays that become its own: they are made read-only, nothing else."""
        data = object.__new__(cls)
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(data, name, value)
        return data

    def _freeze(self, shape: tuple[int, int], **arrays: NDArray[Any]) -> None:
        """Set the shape and read-only copies of the arrays."""
        object.__setattr__(self, "shape", shape)
        for name, array in arrays.items():
            object.__setattr__(self, name, checks.frozen(array))


def as_index_columns(
    shape: tuple[int, int] | None, **columns: ArrayLike
) -> tuple[tuple[int, int], dict[str, IntArray]]:
    """Return the shape and the checked columns, of which `prompt` is one, the others responses.

    Raises
    ------
    ValueError
        For empty columns, columns of different lengths, indices out of range, or a `shape` that is
        not a pair of positive integers.
    """
    checked = {name: checks.as_indices(name, column) for name, column in columns.items()}
    for name, column in checked.items():
        same_rows(name, column, checked["prompt"])
    if shape is None:
        responses = max(int(checked[name].max()) for name in checked if name != "prompt")
        return (int(checked["prompt"].max()) + 1, responses + 1), checked
    shape = as_shape("shape", shape)
    for name, column in checked.items():
        checks.as_indices(name, column, shape[0] if name == "prompt" else shape[1])
    return shape, checked


def same_rows(name: str, column: NDArray[Any], prompt: IntArray) -> None:
    """Refuse a column that has not as many rows as `prompt`."""
    if len(column) != prompt.size:
        raise ValueError(
            f"{name} has {len(column)} rows and prompt has {prompt.size}; "
            "the columns must have equal length"
        )
