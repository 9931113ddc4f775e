"""The main job: run every study, save tables, figures, report and manifest."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from rlhfsim.bandit import ContextualBandit
from rlhfsim.files import MANIFEST, atomic_path, sha256, staged_folder, write_text
from rlhfsim.findings import save_results
from rlhfsim.plots import FIGURES
from rlhfsim.report import build_report
from rlhfsim.repro import PARTS, StudyResult
from rlhfsim.repro.overoptimization import standardised_proxy

#: Called with a line of text as each step begins.
Progress = Callable[[str], None]

#: Progress calls of one run: a step per study and one for what is written.
STEPS = len(PARTS) + 1


def reproduce(
    out: Path, seed: int, table: ContextualBandit | None, progress: Progress
) -> list[StudyResult]:
    """Run every study and write the results to the folder `out`; return them.

    `out` receives `tables/` (Parquet and CSV), `figures/` (PDF, PNG, the plotted numbers and the
    captions), `results.json`, `report.html` and `manifest.json`, all at once when everything is
    done.  The same seed gives the same bytes.

    Raises
    ------
    ValueError
        If `out` is a file or is being written to by another process.
    """
    if table is not None and table.proxy_reward is not None:
        standardised_proxy(table)  # a constant proxy is refused now, not minutes later
    with staged_folder(out, _previous_files(out)) as staging:
        results = []
        for name, study in PARTS.items():
            progress(name)
            results.append(study(seed, table))
        progress("tables, figures, report")
        tables = {"findings": pd.concat([r.findings_table() for r in results], ignore_index=True)}
        for result in results:
            tables.update(result.tables)
        write_tables(staging / "tables", tables)
        figures = write_figures(staging / "figures", tables)
        packages = ("rlhfsim", "numpy", "scipy", "pandas", "matplotlib")
        versions = {name: version(name) for name in packages} | {
            "python": platform.python_version()
        }
        manifest = {
            "seed": seed,
            "versions": versions,
            "settings": {r.name: r.settings for r in results},
            "table": table and dict(zip(("prompts", "responses"), table.shape, strict=True)),
        }
        save_results(staging, results, seed=seed, versions=versions)
        build_report(staging, drawn=figures)
        files = sorted(p for p in staging.rglob("*") if p.is_file())
        manifest["files"] = {p.relative_to(staging).as_posix(): sha256(p) for p in files}
        write_text(staging / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return results


def _previous_files(out: Path) -> dict[str, str]:
    """Return the files of the run that `out` holds, with their SHA-256, if it holds one."""
    try:
        files = json.loads((out / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    # Only names inside `out`, whatever the manifest says.
    return {
        str(name): str(digest)
        for name, digest in dict(files).items()
        if (out / name).resolve().is_relative_to(out.resolve())
    }


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write every table as `name.parquet` and `name.csv` (17 significant digits)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with atomic_path(folder / f"{name}.parquet") as path:
            table.to_parquet(path, index=False)
        with atomic_path(folder / f"{name}.csv") as path:
            table.to_csv(path, index=False, float_format="%.17g")


def write_figures(folder: Path, tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Write every figure that the tables allow as PDF and PNG; return them as inline SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, spec in FIGURES.items():
        if spec.possible(tables):
            drawing = spec.draw(tables)
            drawing.save(folder / name)
            drawn[name] = drawing.svg()
    return drawn
