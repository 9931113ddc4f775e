"""Writing to disk so that nothing is ever lost or half written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

#: Name prefix of files that are being written; a reader never looks at them.
TEMPORARY_PREFIX = ".rlhfsim-partial-"


@contextmanager
def atomic_path(path: str | PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it is synced and takes the place of `path`.

    If the block raises (an interrupt included) the temporary file is removed and `path` is left
    as it was.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(
        prefix=TEMPORARY_PREFIX, suffix=target.suffix, dir=target.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write `text` to `path` in UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def publish(temporary: Path, target: Path) -> None:
    """Sync `temporary` to disk and rename it to `target`."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_parquet(path: str | PathLike[str]) -> Any:
    """Return the pyarrow table in `path`, or raise a ValueError that names the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{os.fspath(path)} is not a readable Parquet file: {reason}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
