"""The final table of a study: one row per cell and metric, always in the order of the cells."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from rlhfsim.files import atomic_path
from rlhfsim.studies import parts
from rlhfsim.studies.store import RESULTS, Finished, Store

if TYPE_CHECKING:
    import pandas as pd

#: Columns of the table.  `seed` is -1 for an exact expectation over datasets.
COLUMNS = (
    "cell", "instance", "environment", "n", "seed", "learner", "parameter", "parameter_value",
    "metric", "value", "error",
)  # fmt: skip

#: Cells of one row group, about; what is in memory at a time.
_BLOCK = 20_000

#: Parts kept decoded: neighbours in the order of the cells are mostly neighbours in a part.
_PARTS_KEPT = 8

_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("cell", pa.string()),
        ("instance", _TEXT),
        ("environment", pa.int32()),
        ("n", pa.int64()),
        ("seed", pa.int32()),
        ("learner", _TEXT),
        ("parameter", _TEXT),
        ("parameter_value", pa.float64()),
        ("metric", _TEXT),
        ("value", pa.float64()),
        ("error", pa.string()),
    ]
)


def write_results(store: Store, finished: Finished) -> Path:
    """Write `results.parquet` from finished parts, atomically and block by block."""
    path = store.folder / RESULTS
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        for block in _blocks(store, finished):
            writer.write_table(block, row_group_size=block.num_rows)
    return path


def _blocks(store: Store, finished: Finished) -> Iterator[pa.Table]:
    layout, study = store.layout, store.study
    per_group = len(layout.points)
    step = max(1, _BLOCK // per_group)
    cache = _Cache(store, finished)
    for first in range(0, study.groups, step):
        last = min(first + step, study.groups)
        numbers = np.arange(first * per_group, last * per_group)
        done = finished.part[numbers] >= 0
        if not done.any():
            continue
        values, errors = cache.gather(numbers)
        yield _table(store, range(first, last), values, errors, done)


def _table(
    store: Store, groups: range, values: Any, errors: list[str | None], done: Any
) -> pa.Table:
    layout, study = store.layout, store.study
    per_group, metrics = len(layout.points), study.metrics
    chosen = [layout.group(g) for g in groups]
    ids = np.array([i for group in chosen for i in layout.identifiers(group)])
    of_group = np.repeat(np.array(chosen, dtype=np.int64), per_group, axis=0)
    method = np.tile(np.array([m for m, _ in layout.points]), len(chosen))
    value = np.tile(np.array([v for _, v in layout.points]), len(chosen))
    seed = np.full(ids.size, -1) if study.exact else of_group[:, 3]
    instances, learners = study.labels
    parameters = [m.parameter for m in study.learners]
    known = sorted(set(parameters))
    code = np.array([known.index(name) for name in parameters])[method]

    def repeated(column: Any) -> Any:
        return np.repeat(column[done], len(metrics))

    count = int(done.sum())
    columns = {
        "cell": pa.array(repeated(ids), pa.string()),
        "instance": _coded(repeated(of_group[:, 0]), instances),
        "environment": pa.array(repeated(of_group[:, 1]), pa.int32()),
        "n": pa.array(repeated(of_group[:, 2]), pa.int64()),
        "seed": pa.array(repeated(seed), pa.int32()),
        "learner": _coded(repeated(method), learners),
        "parameter": _coded(repeated(code), known),
        "parameter_value": pa.array(repeated(value), pa.float64()),
        "metric": _coded(np.tile(np.arange(len(metrics)), count), metrics),
        "value": pa.array(values[done].ravel(), pa.float64()),
        "error": pa.array(
            np.repeat(np.array(errors, dtype=object)[done], len(metrics)), pa.string()
        ),
    }
    return pa.table(columns, schema=SCHEMA)


def _coded(codes: Any, names: Any) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(
        pa.array(codes, pa.int32()), pa.array(list(names), pa.string())
    )


class _Cache:
    """The last few parts, decoded."""

    def __init__(self, store: Store, finished: Finished) -> None:
        self._store, self._finished = store, finished
        self._kept: OrderedDict[int, parts.Rows] = OrderedDict()

    def gather(self, cells: Any) -> tuple[Any, list[str | None]]:
        """Return the (cells, metrics) values and the errors; NaN for cells not done."""
        part, row = self._finished.part[cells], self._finished.row[cells]
        metrics = self._store.study.metrics
        values = np.full((cells.size, len(metrics)), np.nan)
        errors: list[str | None] = [None] * cells.size
        for number in np.unique(part[part >= 0]):
            rows = self._rows(int(number))
            mine = np.flatnonzero(part == number)
            own = row[mine]
            for k, name in enumerate(metrics):
                values[mine, k] = rows.columns[name][own]
            if any(rows.errors):
                for cell, place in zip(mine, own, strict=True):
                    errors[cell] = rows.errors[place]
        return values, errors

    def _rows(self, number: int) -> parts.Rows:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        path = self._finished.files[number]
        rows = self._store.read(path)
        if rows is None:
            raise OSError(f"{path} was damaged while the results were being written; resume")
        self._kept[number] = rows
        if len(self._kept) > _PARTS_KEPT:
            self._kept.popitem(last=False)
        return rows


# ---- reading ----------------------------------------------------------------------------------


def read_results(folder: str | PathLike[str], metrics: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return the final table of a study's folder, or only these metrics of it.

    Raises
    ------
    ValueError
        If the study is not finished, or `results.parquet` is not what the manifest says.
    """
    store = Store.open(folder)
    path = verified(store)
    chosen = [("metric", "in", list(metrics))] if metrics else None
    for name in metrics:
        if name not in store.study.metrics:
            known = ", ".join(store.study.metrics)
            raise ValueError(f"metrics has {name!r}; the study has {known}")
    table = pq.read_table(path, filters=chosen, use_threads=False, pre_buffer=False)
    return table.to_pandas()


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cell with a column for each metric, in the order of the cells."""
    cells = [name for name in COLUMNS if name not in {"metric", "value"}]
    metrics = list(table["metric"].cat.categories)
    present = [m for m in metrics if (table["metric"] == m).any()]
    head = table.loc[table["metric"] == present[0], cells].reset_index(drop=True)
    for name in present:
        head[name] = table.loc[table["metric"] == name, "value"].to_numpy()
    return head


def verified(store: Store) -> Path:
    """Return the path of the final table after comparing it with the manifest."""
    from rlhfsim.files import sha256

    manifest, path = store.manifest(), store.folder / RESULTS
    if manifest is None or not path.is_file():
        raise ValueError(f"{store.folder} is not finished; run `rlhfsim study resume` first")
    if manifest.get("results", {}).get(RESULTS) != sha256(path):
        raise ValueError(f"{path} is damaged or from another run; run `rlhfsim study resume`")
    return path


#: Formats of `export`, by the suffix of the file.
SUFFIXES = (".parquet", ".csv", ".json")


def export(folder: str | PathLike[str], to: str | PathLike[str], *, as_wide: bool = False) -> Path:
    """Write the final table to a Parquet, CSV or JSON-lines file, atomically.

    `as_wide` gives one row per cell.  In CSV, numbers have 17 significant digits.

    Raises
    ------
    ValueError
        For another suffix, a folder that does not exist, or a study that is not finished.
    """
    target = Path(to)
    if target.suffix not in SUFFIXES:
        raise ValueError(f"to is {str(target)!r}; it must end in {', '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise ValueError(f"to is {str(target)!r}; there is no folder {str(target.parent)!r}")
    table = read_results(folder)
    if as_wide:
        table = wide(table)
    with atomic_path(target) as temporary:
        if target.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        elif target.suffix == ".csv":
            table.to_csv(temporary, index=False, float_format="%.17g")
        else:
            table.to_json(temporary, orient="records", lines=True, double_precision=15)
    return target
