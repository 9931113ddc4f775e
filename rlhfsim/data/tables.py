"""Reading the columns of a table of indices and numbers, with all their problems."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from numbers import Real
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.data.problems import ProblemList
from rlhfsim.files import atomic_path, read_parquet

if TYPE_CHECKING:
    import pandas as pd

#: Keys of the metadata of a Parquet file: of our shape, and of the `attrs` of a DataFrame.
_SHAPE_KEY = b"rlhfsim.shape"
_ATTRS_KEY = b"PANDAS_ATTRS"

_LARGEST = np.iinfo(np.int64).max
_LARGEST_FLOAT = 2.0**63
_MISSING = "it must not be missing"
_NOT_INTEGER = "it must be an integer"
_NOT_FINITE = "it must be a finite number"


class TableReader:
    """Reads columns one by one and notes what is wrong with each; `finish` raises it all.

    A column with problems comes back with zeros in their place: `finish` is called before any is
    used.

    Parameters
    ----------
    frame : pandas.DataFrame
    shape : (X, Y), optional
        Indices must be below it.  By default the noted one; without either, just large enough for
        the indices.
    noted : pair of a name and a value, optional
        The shape that the table says it has, and where.
    source : str
        The file that the frame came from, or empty.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        shape: tuple[int, int] | None = None,
        noted: tuple[str, object] | None = None,
        source: str = "",
    ) -> None:
        self.frame = frame
        self.problems = ProblemList(source)
        self._shape = None if shape is None else as_shape("shape", shape)
        self._largest = [0, 0]
        if shape is None and noted is not None:
            self._take_noted_shape(*noted)
        if len(frame) == 0:
            self.problems.add("the table is empty", "it must have at least one row")

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, shape: tuple[int, int] | None) -> TableReader:
        """Return the reader of a DataFrame, whose shape may be noted in its `attrs`."""
        import pandas as pd

        if not isinstance(frame, pd.DataFrame):
            raise ValueError(f"frame is a {type(frame).__name__}; it must be a pandas DataFrame")
        noted = frame.attrs.get("shape")
        has_note = "shape" in frame.attrs
        return cls(frame, shape, ('frame.attrs["shape"]', noted) if has_note else None)

    @classmethod
    def of_parquet(cls, path: str | PathLike[str], shape: tuple[int, int] | None) -> TableReader:
        """Return the reader of a Parquet file, whose shape may be noted in its metadata."""
        table = read_parquet(path)
        # Nulls must not turn the other integers into floats, nor an index hide a column.
        frame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
        noted = _noted_in(table.schema.metadata or {})
        name = f"the shape noted in {os.fspath(path)}"
        return cls(frame, shape, None if noted is None else (name, noted[0]), str(path))

    def _take_noted_shape(self, name: str, value: object) -> None:
        try:
            self._shape = as_shape(name, value)
        except ValueError as error:
            found, _, rule = str(error).rpartition("; ")
            self.problems.add(found, rule)

    def indices(self, column: str, axis: int) -> IntArray:
        """Return a column of prompts (`axis` 0) or responses (`axis` 1) as a new int64 array."""
        cells = self._cells(column, "integers")
        if cells is None:
            return np.zeros(len(self.frame), dtype=np.int64)
        if cells.dtype.kind == "O":
            cells = self._integers_of_objects(column, cells)
        elif cells.dtype.kind == "f":
            cells = self._integers_of_floats(column, cells)
        return self._in_range(column, cells, axis)

    def numbers(self, column: str) -> FloatArray:
        """Return a column of finite numbers as a new float64 array."""
        cells = self._cells(column, "real numbers")
        if cells is None:
            return np.zeros(len(self.frame))
        if cells.dtype.kind == "O":
            values = np.array([_number(cell) for cell in cells], dtype=np.float64)
        else:
            values = cells.astype(np.float64)
        self.problems.add_rows(column, _NOT_FINITE, ~np.isfinite(values), cells)
        return values

    def finish(self) -> tuple[int, int]:
        """Return `(X, Y)`, or raise everything that was noted."""
        self.problems.raise_any()
        if self._shape is not None:
            return self._shape
        return self._largest[0] + 1, self._largest[1] + 1

    def _cells(self, column: str, what: str) -> NDArray[Any] | None:
        """Return the cells of a column of numbers or objects; None if there is no such column."""
        names = list(self.frame.columns)
        count = names.count(column)
        if count == 0:
            self.problems.add(f"column {column!r} is missing", f"the table has {names}", column)
            return None
        if count > 1:
            self.problems.add(f"{column!r} names {count} columns", "names must be unique", column)
            return None
        series = self.frame[column]
        cells = _cells_of(series)
        if cells.dtype.kind not in "iufO" or _is_text(series):
            self._wrong_dtype(column, series.dtype, what)
            return None
        return cells

    def _wrong_dtype(self, column: str, dtype: object, what: str) -> None:
        self.problems.add(f"{column} has dtype {dtype}", f"it must hold {what}", column)

    def _integers_of_floats(self, column: str, cells: NDArray[Any]) -> IntArray:
        """Note the dtype, and the rows that the dtype may be there for."""
        self._wrong_dtype(column, cells.dtype, "integers")
        missing = np.isnan(cells)
        whole = np.isfinite(cells) & (cells == np.trunc(cells)) & (abs(cells) < _LARGEST_FLOAT)
        self.problems.add_rows(column, _MISSING, missing, cells)
        self.problems.add_rows(column, _NOT_INTEGER, ~whole & ~missing, cells)
        return np.where(whole, cells, 0.0).astype(np.int64)

    def _integers_of_objects(self, column: str, cells: NDArray[Any]) -> NDArray[Any]:
        """Return Python integers, of any size; missing cells and other objects are noted."""
        import pandas as pd

        missing = np.asarray(pd.isna(cells))
        integer = np.array([_is_integer(cell) for cell in cells], dtype=np.bool_)
        self.problems.add_rows(column, _MISSING, missing, cells)
        self.problems.add_rows(column, _NOT_INTEGER, ~integer & ~missing, cells)
        values = np.zeros(cells.size, dtype=object)
        values[integer] = [int(cell) for cell in cells[integer]]
        return values

    def _in_range(self, column: str, cells: NDArray[Any], axis: int) -> IntArray:
        """Note the integers that are no indices of their axis."""
        upper = None if self._shape is None else self._shape[axis]
        negative = _as_mask(cells < 0)
        large = _as_mask(cells > _LARGEST)
        rule = f"indices must be at most {_LARGEST}"
        if upper is not None and upper <= _LARGEST:
            large = _as_mask(cells >= upper)
            rule = f"indices must be below {upper}"
        self.problems.add_rows(column, "indices must not be negative", negative, cells)
        self.problems.add_rows(column, rule, large, cells)
        if negative.any() or large.any():
            cells = np.where(negative | large, 0, cells)
        values = np.array(cells, dtype=np.int64)
        self._largest[axis] = max(self._largest[axis], int(values.max(initial=0)))
        return values


def as_shape(name: str, value: Any) -> tuple[int, int]:
    """Return `value`, which must be a pair of positive integers."""
    pair = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"{name} is {value!r:.80}; it must be a pair (X, Y)")
    x, y = (checks.whole_number(f"{name}[{i}]", pair[i], least=1) for i in range(2))
    return x, y


def write_parquet(
    path: str | PathLike[str], columns: dict[str, NDArray[Any]], shape: tuple[int, int]
) -> None:
    """Write columns and note their shape, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    table = table.replace_schema_metadata({_SHAPE_KEY: json.dumps(shape)})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def _noted_in(metadata: dict[bytes, bytes]) -> tuple[object] | None:
    """Return what is noted as the shape, by `write_parquet` or by pandas from `frame.attrs`."""
    if _SHAPE_KEY in metadata:
        return (_from_json(metadata[_SHAPE_KEY]),)
    attrs = _from_json(metadata.get(_ATTRS_KEY, b"{}"))
    return (attrs["shape"],) if isinstance(attrs, dict) and "shape" in attrs else None


def _from_json(text: bytes) -> Any:
    """Return the value that `text` writes, or `text` if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _cells_of(series: pd.Series) -> NDArray[Any]:
    """Return the cells of a column; missing ones do not turn integers into floats."""
    import pandas as pd

    if isinstance(series.dtype, pd.api.extensions.ExtensionDtype) and series.hasnans:
        return np.asarray(series.to_numpy(dtype=object))
    return np.asarray(series.to_numpy())


def _is_text(series: pd.Series) -> bool:
    import pandas as pd

    return isinstance(series.dtype, pd.StringDtype)


def _as_mask(condition: Any) -> BoolArray:
    # Comparisons of objects give arrays of objects.
    return np.asarray(condition, dtype=np.bool_)


def _is_integer(cell: object) -> bool:
    return isinstance(cell, (int, np.integer)) and not isinstance(cell, bool)


def _number(cell: object) -> float:
    """Return `cell` as a float, nan if it is no number."""
    if isinstance(cell, bool) or not isinstance(cell, (Real, Decimal)):
        return np.nan
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return np.nan
