"""Cells of the named columns of a table of texts: a DataFrame, CSV, JSON lines or Parquet."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhfsim.data.problems import ProblemList
from rlhfsim.files import read_parquet

if TYPE_CHECKING:
    import pandas as pd

_SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")

#: Bytes of a CSV file that are parsed at once; no cell can be longer.
_CSV_BLOCK = 1 << 26


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of those columns that a table has, and what was wrong so far."""

    problems: ProblemList
    #: Names of all columns of the table.
    names: list[str]
    #: Of each asked-for column that exists; bytes stand for text that is not UTF-8.
    columns: dict[str, list[object]]
    #: Position in the table of each row that could be read.
    rows: list[int]


def read_cells(table: str | PathLike[str] | pd.DataFrame, wanted: list[str]) -> Cells:
    """Return the cells of the columns `wanted`.

    Raises
    ------
    ValueError
        If `table` is neither a DataFrame nor a path of a file of a known kind, or the file cannot
        be read at all; it is named.
    """
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        names = [str(name) for name in table.columns]
        every = range(len(table))
        cells = Cells(ProblemList(""), names, {}, list(every))
        for name in _found_once(cells, wanted):
            cells.columns[name] = table.iloc[:, names.index(name)].tolist()
    elif isinstance(table, (str, PathLike)):
        cells = _read_file(Path(table), wanted)
    else:
        raise ValueError(
            f"table is a {type(table).__name__}; it must be a path or a pandas DataFrame"
        )
    if not cells.rows and not cells.problems:
        cells.problems.add("the table is empty", "it must have at least one row")
    return cells


def _found_once(cells: Cells, wanted: list[str]) -> list[str]:
    """Return those names that one column has; note those that several have."""
    found = []
    for name in wanted:
        count = cells.names.count(name)
        if count > 1:
            cells.problems.add(f"{name!r} names {count} columns", "names must be unique", name)
        if count == 1:
            found.append(name)
    return found


def _read_file(path: Path, wanted: list[str]) -> Cells:
    name = path.name.lower()
    if not name.endswith(_SUFFIXES):
        raise ValueError(f"{path} is not a table; its name must end in {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"{path} is {'not a file' if path.exists() else 'missing'}")
    if name.endswith(".parquet"):
        return _read_parquet(path, wanted)
    if name.endswith((".csv", ".csv.gz")):
        return _read_csv(path, wanted)
    return _read_json_lines(path, wanted)


def _read_parquet(path: Path, wanted: list[str]) -> Cells:
    table = read_parquet(path)
    cells = Cells(ProblemList(str(path)), list(table.column_names), {}, list(range(len(table))))
    for name in _found_once(cells, wanted):
        try:
            cells.columns[name] = table[name].to_pylist()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: column {name!r} is not UTF-8 text: {error}") from error
    return cells


# ---- CSV ------------------------------------------------------------------------------------


def _read_csv(path: Path, wanted: list[str]) -> Cells:
    import pyarrow as pa

    malformed: dict[int, str] = {}
    try:
        names = _scan_csv(path, None, malformed).column_names
        cells = Cells(ProblemList(str(path)), names, {}, [])
        found = _found_once(cells, wanted)
        malformed.clear()
        table = _scan_csv(path, found or names[:1], malformed)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{os.fspath(path)} is not a readable CSV file: {reason}") from error
    every = range(len(table) + len(malformed))
    cells.rows.extend(row for row in every if row not in malformed)
    for name in found:
        cells.columns[name] = [_decoded(cell) for cell in table[name].to_pylist()]
    _note_malformed(cells, "line", "a row must have as many cells as the header", malformed)
    return cells


def _scan_csv(path: Path, columns: list[str] | None, malformed: dict[int, str]) -> Any:
    """Return the named columns as bytes, or only the header without rows.

    Rows with too few or too many cells are left out and put in `malformed`.
    """
    import pyarrow as pa
    from pyarrow import csv

    def skip(row: Any) -> str:
        malformed[row.number - 2] = row.text  # the header is row 1
        return "skip"

    read = csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK)
    parse = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip)
    with pa.input_stream(str(path), compression=_compression(path)) as stream:
        if columns is None:
            with csv.open_csv(stream, read_options=read, parse_options=parse) as reader:
                return reader.schema.empty_table()
        convert = csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.binary()), include_columns=columns
        )
        return csv.read_csv(stream, read_options=read, parse_options=parse, convert_options=convert)


def _compression(path: Path) -> str | None:
    return "gzip" if path.suffix.lower() == ".gz" else None


def _decoded(cell: bytes) -> str | bytes:
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError:
        return cell


# ---- JSON lines -----------------------------------------------------------------------------


def _read_json_lines(path: Path, wanted: list[str]) -> Cells:
    """Return the cells of a file with one JSON object a line; a key that is absent is None."""
    objects: list[dict[str, object]] = []
    malformed: dict[int, str] = {}
    rows = []
    try:
        for row, line in enumerate(_lines(path)):
            value = _parsed(line)
            if isinstance(value, dict):
                objects.append(value)
                rows.append(row)
            else:
                malformed[row] = line.decode("utf-8", "replace")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{os.fspath(path)} is not a readable JSON lines file: {error}") from error
    names = list(dict.fromkeys(name for value in objects for name in value))
    cells = Cells(ProblemList(str(path)), names, {}, rows)
    for name in _found_once(cells, wanted):
        cells.columns[name] = [value.get(name) for value in objects]
    _note_malformed(cells, "line", "a line must hold one JSON object", malformed)
    return cells


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines that are not blank."""
    with gzip.open(path) if _compression(path) else path.open("rb") as file:
        for line in file:
            if line.strip():
                yield line.strip()


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _note_malformed(cells: Cells, column: str, rule: str, malformed: dict[int, str]) -> None:
    texts = np.empty(len(malformed), dtype=object)
    texts[:] = list(malformed.values())
    cells.problems.add_cells(column, rule, list(malformed), texts)
