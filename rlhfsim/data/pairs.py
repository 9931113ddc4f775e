"""Pairwise preference data: n triples of a prompt, a chosen and a rejected response."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import IntArray
from rlhfsim.frozen import Frozen

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("prompt", "chosen", "rejected")
_SHAPE_KEY = b"rlhfsim.shape"


@dataclass(frozen=True, eq=False)
class PreferenceData(Frozen):
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
    """

    prompt: IntArray
    chosen: IntArray
    rejected: IntArray
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        columns = {name: checks.as_indices(name, getattr(self, name)) for name in _COLUMNS}
        for name, column in columns.items():
            if column.shape != columns["prompt"].shape:
                raise ValueError(
                    f"{name} has {column.size} rows and prompt has {columns['prompt'].size}; "
                    "the columns must have equal length"
                )
        if self.shape is None:
            responses = max(columns["chosen"].max(), columns["rejected"].max())
            shape = (int(columns["prompt"].max()) + 1, int(responses) + 1)
        else:
            shape = _as_shape("shape", self.shape)
            for name, column in columns.items():
                checks.as_indices(name, column, shape[0] if name == "prompt" else shape[1])
        object.__setattr__(self, "shape", shape)
        for name, column in columns.items():
            object.__setattr__(self, name, checks.frozen(column))

    def __len__(self) -> int:
        """Return `n`."""
        return self.prompt.size

    @property
    def n_prompts(self) -> int:
        """`X`."""
        assert self.shape is not None
        return self.shape[0]

    @property
    def n_responses(self) -> int:
        """`Y`."""
        assert self.shape is not None
        return self.shape[1]

    # ---- to and from tables -----------------------------------------------------------------

    def to_dataframe(self) -> pd.DataFrame:
        """Return a DataFrame with the integer columns `prompt`, `chosen`, `rejected`."""
        import pandas as pd

        frame = pd.DataFrame({name: getattr(self, name) for name in _COLUMNS})
        frame.attrs["shape"] = [self.n_prompts, self.n_responses]
        return frame

    @classmethod
    def from_dataframe(
        cls, frame: pd.DataFrame, shape: tuple[int, int] | None = None
    ) -> PreferenceData:
        """Return the data of a DataFrame with the columns `prompt`, `chosen`, `rejected`.

        `shape` defaults to the one that `to_dataframe` noted, if any.
        """
        import pandas as pd

        if not isinstance(frame, pd.DataFrame):
            raise ValueError(f"frame is a {type(frame).__name__}; it must be a pandas DataFrame")
        missing = [name for name in _COLUMNS if name not in frame.columns]
        if missing:
            raise ValueError(
                f"column {missing[0]!r} is missing; the table has {list(frame.columns)}"
            )
        if shape is None and "shape" in frame.attrs:
            shape = _as_shape('frame.attrs["shape"]', frame.attrs["shape"])
        prompt, chosen, rejected = (frame[name].to_numpy() for name in _COLUMNS)
        return cls(prompt, chosen, rejected, shape)

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Write the columns and the shape to a Parquet file, atomically."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from rlhfsim.files import atomic_path

        table = pa.table({name: pa.array(getattr(self, name)) for name in _COLUMNS})
        table = table.replace_schema_metadata({_SHAPE_KEY: json.dumps(self.shape)})
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def from_parquet(cls, path: str | PathLike[str]) -> PreferenceData:
        """Return the data of a Parquet file with the columns `prompt`, `chosen`, `rejected`."""
        from rlhfsim.files import read_parquet

        table = read_parquet(path)
        noted = (table.schema.metadata or {}).get(_SHAPE_KEY)
        shape = None if noted is None else _parse_shape(f"the shape noted in {path}", noted)
        return cls.from_dataframe(table.to_pandas(), shape=shape)


def _as_shape(name: str, value: Any) -> tuple[int, int]:
    """Return `value`, which must be a pair of positive integers."""
    pair = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"{name} is {value!r:.80}; it must be a pair (X, Y)")
    x, y = (checks.whole_number(f"{name}[{i}]", pair[i], least=1) for i in range(2))
    return x, y


def _parse_shape(name: str, noted: bytes) -> tuple[int, int]:
    """Return the shape that `to_parquet` noted as JSON."""
    try:
        value = json.loads(noted)
    except ValueError:
        raise ValueError(f"{name} is {noted!r:.80}; it must be a pair (X, Y)") from None
    return _as_shape(name, value)
