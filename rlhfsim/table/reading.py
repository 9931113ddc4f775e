"""Reading a table: files to DataFrames, and columns checked row by row."""

from __future__ import annotations

import difflib
import re
from decimal import Decimal
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray
from rlhfsim.files import read_parquet

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_ROWS_SHOWN = 5
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")

Mask = NDArray[np.bool_]


def as_frame(table: Any, ids: tuple[str, str]) -> pd.DataFrame:
    """Return the non-empty DataFrame of a path or a DataFrame; `ids` are the columns of ids."""
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        frame, source = table, "table"
    elif isinstance(table, (str, PathLike)):
        frame, source = _read_file(Path(table), ids), str(table)
    else:
        raise ValueError(
            f"table is a {type(table).__name__}; it must be a path or a pandas DataFrame"
        )
    if len(frame) == 0:
        raise ValueError(f"{source} is empty; it must have at least one row")
    return frame


def _read_file(path: Path, ids: tuple[str, str]) -> pd.DataFrame:
    name = path.name.lower()
    if not name.endswith(_SUFFIXES):
        raise ValueError(f"{path} is not a table; its name must end in {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"{path} is {'not a file' if path.exists() else 'missing'}")
    if name.endswith(".parquet"):
        # The pandas metadata could hide columns in an index.
        frame: pd.DataFrame = read_parquet(path).to_pandas(ignore_metadata=True)
        return frame
    return _read_csv(path, ids, "gzip" if name.endswith(".gz") else None)


def _read_csv(path: Path, ids: tuple[str, str], compression: str | None) -> pd.DataFrame:
    import pyarrow as pa
    from pyarrow import csv

    try:
        with pa.input_stream(str(path), compression=compression) as stream:
            table = csv.read_csv(
                stream,
                parse_options=csv.ParseOptions(newlines_in_values=True),
                # Ids must arrive as written: "007" and "1e5" are names.
                convert_options=csv.ConvertOptions(column_types=dict.fromkeys(ids, pa.string())),
            )
        frame: pd.DataFrame = _with_integer_ids(table, ids).to_pandas()
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a readable CSV file: {reason}") from error
    return frame


def _with_integer_ids(table: pa.Table, ids: tuple[str, str]) -> pa.Table:
    """Return `table` with each id column that is written entirely in integers made int64."""
    import pyarrow as pa

    for index, name in enumerate(table.column_names):
        if name in ids and all(map(_INTEGER.fullmatch, table[index].unique().to_pylist())):
            table = table.set_column(index, name, table[index].cast(pa.int64()))
    return table


# ---- columns --------------------------------------------------------------------------------


def find_column(frame: pd.DataFrame, argument: str, name: str) -> str:
    """Return `name` if exactly one column has it."""
    columns = list(frame.columns)
    count = columns.count(name)
    if count > 1:
        raise ValueError(f"{argument}={name!r} names {count} columns; names must be unique")
    if count == 0:
        close = difflib.get_close_matches(str(name), [str(column) for column in columns], n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"{argument}={name!r} is not a column; {hint}the table has {columns}")
    return name


def find_default(
    frame: pd.DataFrame, argument: str, name: str | None, *defaults: str
) -> str | None:
    """Return the column that is named, or the first of `defaults` that exists, or None."""
    if name is not None:
        return find_column(frame, argument, name)
    columns = set(frame.columns)
    for default in defaults:
        if default in columns:
            return find_column(frame, argument, default)
    return None


def as_numbers(frame: pd.DataFrame, column: str, *, minus_infinity: bool = False) -> FloatArray:
    """Return a column of finite numbers, or of numbers and `-inf`, as float64."""
    import pandas as pd

    cells = frame[column]
    if pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_complex_dtype(cells):
        numbers = cells.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        numbers = np.array([_number(cell) for cell in cells.to_numpy(dtype=object)])
    good = np.isfinite(numbers)
    rule = "it must be a finite number"
    if minus_infinity:
        good |= numbers == -np.inf
        rule += " or -inf"
    refuse_rows(frame, column, ~good, rule)
    return numbers


def _number(cell: Any) -> float:
    if not isinstance(cell, (str, Real, Decimal, np.bool_)):
        return np.nan
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return np.nan


def as_non_negative(frame: pd.DataFrame, column: str) -> FloatArray:
    """Return a column of finite numbers that are not negative, as float64."""
    numbers = as_numbers(frame, column)
    refuse_rows(frame, column, numbers < 0, "it must not be negative")
    return numbers


def refuse_rows(frame: pd.DataFrame, column: str, bad: Mask, rule: str) -> None:
    """Raise for the rows where `bad` holds: the first with its value, and which others."""
    if bad.any():
        value = frame[column].iloc[int(bad.argmax())]
        value = value.item() if isinstance(value, np.generic) else value
        raise ValueError(
            f"{column} in row {bad.argmax()} is {value!r:.60}; {rule}{other_rows(bad)}"
        )


def other_rows(bad: Mask) -> str:
    """Return a note that lists the first rows where `bad` holds, if there are several."""
    rows = np.flatnonzero(bad)
    if rows.size == 1:
        return ""
    more = ", ..." if rows.size > _ROWS_SHOWN else ""
    return f" ({rows.size} such rows: {', '.join(map(str, rows[:_ROWS_SHOWN]))}{more})"
