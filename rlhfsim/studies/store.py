"""The folder of a study: its settings, finished parts, log, manifest and final table.

    study.json          the settings, as given
    parts/SHA256.parquet finished cells
    results.parquet     one row per cell and metric, when everything is done
    manifest.json       versions, machine, settings, and the SHA-256 of the results
    run.log             what happened when

Whoever is killed leaves whole parts and nothing else; what was being written is removed by the
next run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rlhfsim.files import MANIFEST, TEMPORARY_PREFIX, locked, sha256, write_text
from rlhfsim.studies import parts
from rlhfsim.studies.layout import Layout
from rlhfsim.studies.study import Study, load_study

SETTINGS, RESULTS, LOG, PARTS = "study.json", "results.parquet", "run.log", "parts"

_VERSIONS = ("rlhfsim", "numpy", "scipy", "numba", "pyarrow")


def made_by(study: Study) -> str:
    """Return what results must have in common to be put into one table.

    Besides the version that is the companion, on which cells depend that do not name it.
    """
    made = f"rlhfsim {version('rlhfsim')}"
    if not study.companion:
        return made
    companion = study.learners[study.labels[1].index(study.companion)]
    return f"{made}, apart from {companion.key}"


@dataclass(frozen=True)
class Finished:
    """Which cells are done, and where."""

    #: For each cell the number of its part in `files`, and its row there; -1 if it is not done.
    part: np.ndarray[Any, np.dtype[np.int32]]
    row: np.ndarray[Any, np.dtype[np.int32]]
    files: tuple[Path, ...]
    #: Parts that are damaged, or of another version.
    unreadable: tuple[Path, ...]
    #: How many of the cells that are done have an error and no values, and the error of the first.
    failed: int = 0
    first_error: str = ""

    @property
    def count(self) -> int:
        """The number of cells that are done."""
        return int(np.count_nonzero(self.part >= 0))


class Store:
    """One study's folder."""

    def __init__(self, folder: str | os.PathLike[str], study: Study) -> None:
        self.folder = Path(folder)
        self.study = study
        self.layout = Layout(study)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Store:
        """Return the store of a folder that has a study already."""
        path = Path(folder)
        if not (path / SETTINGS).is_file():
            raise ValueError(f"{path} holds no study: there is no {SETTINGS} in it")
        return cls(path, load_study(path / SETTINGS))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder for one writer; remove what a killed one left half written.

        Raises
        ------
        ValueError
            If another process is writing to it, it is a file, or it holds another study.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is not a folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):
            self._adopt()
            for place in (self.folder, self.folder / PARTS):
                place.mkdir(exist_ok=True)
                for stale in place.glob(f"{TEMPORARY_PREFIX}*"):
                    stale.unlink()
            with self._logging():
                yield

    def _adopt(self) -> None:
        """Write the settings; those of another study are not overwritten."""
        path = self.folder / SETTINGS
        if path.is_file():
            try:
                other = str(json.loads(path.read_text(encoding="utf-8"))["name"])
            except (ValueError, KeyError, TypeError):
                other = ""
            if other != self.study.name:
                raise ValueError(
                    f"{self.folder} holds the study {other!r}, not {self.study.name!r}; "
                    "take another folder"
                )
        elif any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} is not empty, and holds no study; take another folder")
        settings = absolute(self.study).model_dump(mode="json")
        write_text(path, json.dumps(settings, indent=1) + "\n")

    @contextmanager
    def _logging(self) -> Iterator[None]:
        handler = logging.FileHandler(self.folder / LOG, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("rlhfsim.studies")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)
            handler.close()

    # ---- what is done -------------------------------------------------------------------------

    def read(self, path: Path) -> parts.Rows | None:
        """Return the rows of a part; None if it cannot be used."""
        return parts.read(path, self.study.metrics, made_by(self.study))

    def finished(self) -> Finished:
        """Return where every finished cell is; the first of several copies counts."""
        part = np.full(self.study.cells, -1, dtype=np.int32)
        row = np.zeros(self.study.cells, dtype=np.int32)
        files: list[Path] = []
        unreadable: list[Path] = []
        failed, first, first_error = 0, self.study.cells, ""
        for path in parts.paths(self.folder / PARTS):
            rows = self.read(path)
            if rows is None:
                unreadable.append(path)
                continue
            cells = self.layout.cells(rows.instances, rows.methods, rows.columns)
            mine = np.flatnonzero((cells >= 0) & (part[cells] < 0))
            part[cells[mine]] = len(files)
            row[cells[mine]] = mine
            files.append(path)
            wrong = (
                [k for k in mine.tolist() if rows.errors[k] is not None] if any(rows.errors) else []
            )
            failed += len(wrong)
            # The first in the order of the cells: that of the parts is by chance.
            for k in wrong:
                if cells[k] < first:
                    first, first_error = int(cells[k]), str(rows.errors[k])
        return Finished(part, row, tuple(files), tuple(unreadable), failed, first_error)

    # ---- the manifest -------------------------------------------------------------------------

    def write_manifest(self, finished: Finished) -> None:
        """Write versions, machine and settings, with the SHA-256 of the results."""
        results = self.folder / RESULTS
        manifest = {
            "study": self.study.name,
            "cells": self.study.cells,
            "metrics": list(self.study.metrics),
            "settings": hashlib.sha256(self.study.content().encode()).hexdigest(),
            "seeds": self.study.seeds,
            "versions": {name: version(name) for name in _VERSIONS}
            | {"python": platform.python_version()},
            "machine": {
                "system": platform.platform(),
                "processor": _processor(),
                "cores": os.cpu_count(),
            },
            "parts": [path.name for path in finished.files],
            "results": {RESULTS: sha256(results)},
        }
        write_text(self.folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest of a finished run, if there is one."""
        try:
            loaded = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return loaded if isinstance(loaded, dict) else None


def absolute(study: Study) -> Study:
    """Return the study with tables by absolute path, so that it can be resumed from anywhere."""
    settings = study.model_dump()
    for entry in settings["instances"]:
        if "path" in entry:
            entry["path"] = str(Path(entry["path"]).resolve())
    return Study.from_dict(settings)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()
