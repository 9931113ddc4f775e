"""Finished cells on disk: parts named by their own SHA-256, so that damage shows."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhfsim.files import TEMPORARY_PREFIX, atomic_path

#: Columns that say which cell a row is; the metrics follow, and `error`.
PLACE = ("instance", "environment", "n", "seed", "learner", "parameter_value")

#: Metadata: what made the part, and the keys that the codes of instances and learners stand for.
_ABOUT = b"rlhfsim"
_MADE_BY, _INSTANCES, _METHODS = "made by", "instances", "methods"


@dataclass(frozen=True)
class Rows:
    """Cells of one or more groups: one row each, a column for each metric."""

    #: Keys that the codes in the columns `instance` and `learner` stand for.
    instances: tuple[str, ...]
    methods: tuple[str, ...]
    #: `PLACE` and the metrics.
    columns: Mapping[str, np.ndarray[Any, Any]]
    #: What the learner raised, or None.
    errors: Sequence[str | None]


def encode(rows: Rows, metrics: Sequence[str], made_by: str) -> bytes:
    """Return a Parquet file of the rows; `made_by` tells results of other versions apart."""
    arrays = {name: pa.array(rows.columns[name]) for name in (*PLACE, *metrics)}
    arrays["error"] = pa.array(rows.errors, pa.string())
    about = {_MADE_BY: made_by, _INSTANCES: rows.instances, _METHODS: rows.methods}
    table = pa.table(arrays).replace_schema_metadata({_ABOUT: json.dumps(about)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def save(folder: Path, content: bytes) -> Path:
    """Write a part atomically under the name that its content gives it; return its path."""
    path = folder / f"{hashlib.sha256(content).hexdigest()}.parquet"
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def paths(folder: Path) -> Iterator[Path]:
    """Yield the parts of a folder in the order of their names; what is half written is none."""
    for path in sorted(folder.glob("*.parquet")):
        if not path.name.startswith(TEMPORARY_PREFIX):
            yield path


def read(path: Path, metrics: Sequence[str], made_by: str) -> Rows | None:
    """Return the rows of a part, or None if it is damaged, or made by something else.

    A part that lacks one of the metrics is as good as none.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != path.stem:
        return None
    # Without threads, which may outlive a short command and abort it (apache/arrow#33975, #34314).
    table = pq.read_table(pa.BufferReader(content), use_threads=False, pre_buffer=False)
    about = json.loads((table.schema.metadata or {}).get(_ABOUT, b"{}"))
    if about.get(_MADE_BY) != made_by or not {*PLACE, *metrics, "error"} <= {*table.column_names}:
        return None
    columns = {name: table[name].to_numpy() for name in (*PLACE, *metrics)}
    errors = table["error"].to_pylist()
    return Rows(tuple(about[_INSTANCES]), tuple(about[_METHODS]), columns, errors)
