"""Writing to disk so that nothing is ever lost or half written."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

#: Name prefix of what is still being written; a reader never looks at it.
TEMPORARY_PREFIX = ".rlhfsim-partial-"

#: Bytes from which a Parquet file is read by several threads.
_LARGE = 1 << 24

#: Name of the file that lists a run's files with their SHA-256.
MANIFEST = "manifest.json"


@contextmanager
def atomic_path(path: str | PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success it is synced and takes its place.

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
        # mkstemp makes files private; the target gets the permissions of any new file.
        temporary.chmod(0o666 & ~_umask())
        _publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write `text` to `path` in UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def staged_folder(
    folder: str | PathLike[str], superseded: Mapping[str, str] | None = None
) -> Iterator[Path]:
    """Yield an empty staging folder whose files move into `folder` when the block succeeds.

    Until then `folder` keeps what it had: an interrupted or killed run changes nothing in it.
    Other files in `folder` are left alone, except those of a previous run in `superseded` (name to
    SHA-256): what is not written again is removed, unless it was changed since.  `MANIFEST`, which
    vouches for the others, moves last.  What a killed run left staged is removed first.

    Raises
    ------
    ValueError
        If `folder` is a file, or another process is writing to it.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is not a folder")
    target.mkdir(parents=True, exist_ok=True)
    with locked(target):
        for stale in target.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        staging = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=target))
        try:
            yield staging
            names = sorted(p.relative_to(staging) for p in staging.rglob("*") if p.is_file())
            names.sort(key=lambda name: name == Path(MANIFEST))
            _remove_superseded(target, superseded or {}, {name.as_posix() for name in names})
            for name in names:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                _publish(staging / name, target / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _remove_superseded(
    folder: Path, superseded: Mapping[str, str], written: AbstractSet[str]
) -> None:
    for name, digest in superseded.items():
        old = folder / name
        if name not in written and old.is_file() and sha256(old) == digest:
            old.unlink()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_parquet(path: str | PathLike[str]) -> Any:
    """Return the pyarrow table in `path`, or raise a ValueError that names the file.

    Pages that carry a checksum are compared with it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Threads may outlive a short command and abort it at its end (apache/arrow#34314); they are
        # worth that only where reading takes a while.
        large = Path(path).stat().st_size > _LARGE
        return pq.read_table(
            path, page_checksum_verification=True, use_threads=large, pre_buffer=large
        )
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{os.fspath(path)} is not a readable Parquet file: {reason}") from error


def _publish(temporary: Path, target: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one writer, until the block or the process ends.

    Raises
    ------
    ValueError
        If another process holds it.
    """
    import fcntl  # here, so that reading tables works where there is none

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is being written to by another process") from None
        yield
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
