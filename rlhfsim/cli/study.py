"""The commands of `rlhfsim study`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from rlhfsim.cli.printing import console

if TYPE_CHECKING:
    from rlhfsim.studies import Study
    from rlhfsim.studies.store import Store

app = typer.Typer(no_args_is_help=True, help="Grids of cells: run, resume, export.")

_Workers = Annotated[int | None, typer.Option(help="Processes; one for each core by default.")]
_Threads = Annotated[int, typer.Option(help="Threads of each process.")]
_Cluster = Annotated[
    str | None, typer.Option(help="Address of a dask cluster, such as tcp://host:8786.")
]
_Slurm = Annotated[
    Path | None, typer.Option(help="Run as SLURM jobs; a shared folder for the job files.")
]


@app.command(name="list")
def list_() -> None:
    """List the studies that come with the package."""
    from rlhfsim.studies.shipped import SHIPPED

    table = Table("name", "cells", "testing", "question")
    for name, shipped in SHIPPED.items():
        study = shipped.study
        sizes = f"{study.cells:,}", f"{study.for_testing().cells:,}"
        table.add_row(name, *sizes, study.question)
    console().print(table)


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A study file (.toml, .json) or a shipped name.")],
    out: Annotated[Path, typer.Option(help="Folder for parts, results and log.")],
    testing: Annotated[bool, typer.Option(help="Only the small subset.")] = False,
    table: Annotated[
        Path | None, typer.Option(help="Scored responses in place of the study's table.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="METRIC=WIDTH: add seeds until no 95% interval of a mean is wider."),
    ] = None,
    most_seeds: Annotated[int, typer.Option(help="Seeds that --until may use.")] = 1000,
    workers: _Workers = None,
    threads: _Threads = 1,
    cluster: _Cluster = None,
    slurm: _Slurm = None,
) -> None:
    """Run what is missing of a study into a folder; exit code 1 if every cell fails."""
    from rlhfsim.studies import load_study
    from rlhfsim.studies.shipped import SHIPPED
    from rlhfsim.studies.tables import with_table

    if study in SHIPPED:
        chosen = SHIPPED[study].study
    elif Path(study).suffix in {".toml", ".json"}:
        chosen = load_study(study)
    else:
        raise ValueError(f"study is {study!r}; it must be a file or one of {', '.join(SHIPPED)}")
    if table is not None:
        chosen = with_table(chosen, table)
    if testing:
        chosen = chosen.for_testing()
    _run(chosen, out, workers, threads, cluster, slurm, until, most_seeds)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="Folder of a study.")],
    workers: _Workers = None,
    threads: _Threads = 1,
    cluster: _Cluster = None,
    slurm: _Slurm = None,
) -> None:
    """Go on with the study of a folder; exit code 1 if every cell fails."""
    from rlhfsim.studies.store import Store

    _run(Store.open(folder).study, folder, workers, threads, cluster, slurm)


@app.command()
def status(folder: Annotated[Path, typer.Argument(help="Folder of a study.")]) -> None:
    """Say how far the study of a folder is; exit code 1 if it is not finished or has no result."""
    from rlhfsim import studies
    from rlhfsim.studies.store import Store

    found = studies.status(folder)
    print(f"{Store.open(folder).study.name}: {found.done:,} of {found.cells:,} cells, "
          f"{found.parts} parts")  # fmt: skip
    if found.unreadable:
        print(
            f"{found.unreadable} parts cannot be used (damaged, of another version, or without a "
            "metric that is asked for); resume runs their cells again"
        )
    _print_failures(found.failed, found.done, found.first_error)
    print("finished" if found.complete else "not finished")
    if not found.complete or found.failed == found.done:
        raise typer.Exit(1)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished study.")],
    to: Annotated[Path, typer.Option(help="File: .parquet, .csv or .json (lines).")],
    wide: Annotated[bool, typer.Option(help="One row for each cell.")] = False,
) -> None:
    """Write the final table to a file."""
    from rlhfsim import studies

    print(f"written to {studies.export(folder, to, as_wide=wide)}")


def _run(
    study: Study, out: Path, workers: int | None, threads: int, cluster: str | None,
    slurm: Path | None, until: str | None = None, most_seeds: int = 0,
) -> None:  # fmt: skip
    from rlhfsim.studies import StudyError, Submitit, dask_cluster, run_study
    from rlhfsim.studies.precision import run_until
    from rlhfsim.studies.store import Store

    if sum(choice is not None for choice in (workers, cluster, slurm)) > 1:
        raise ValueError("only one of workers, cluster and slurm can be given")
    errors = Console(stderr=True)
    with ExitStack() as stack:
        executor = None
        if cluster is not None:
            executor = stack.enter_context(dask_cluster(cluster))
        elif slurm is not None:
            executor = stack.enter_context(Submitit(slurm))
        bar = stack.enter_context(
            Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.speed:,.0f} cells/s", justify="right"), TimeElapsedColumn(),
                TimeRemainingColumn(), console=errors, disable=not errors.is_terminal,
            )
        )  # fmt: skip
        task = bar.add_task(study.name, total=study.cells)

        def step(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        how: dict[str, Any] = {
            "workers": workers, "executor": executor, "threads": threads, "progress": step,
        }  # fmt: skip
        precise = None
        try:
            if until is None:
                run_study(study, out, **how)
            else:
                metric, width = _target(until)
                precise = run_until(
                    study, out, metric=metric, width=width, most_seeds=most_seeds, **how
                )
        except StudyError as error:
            # One line and exit code 2, as for whatever else keeps a command from its end.
            raise OSError(str(error)) from error
    if precise is not None:
        widest = (precise.intervals["high"] - precise.intervals["low"]).max()
        verdict = "reached" if precise.reached else "not reached: more seeds are needed"
        print(f"{precise.seeds} seeds, widest 95% interval {widest:.3g} ({verdict})")
    _conclude(Store.open(out))


def _target(until: str) -> tuple[str, float]:
    metric, _, width = until.partition("=")
    try:
        return metric, float(width)
    except ValueError:
        raise ValueError(f"until is {until!r}; it must be METRIC=WIDTH, as regret=0.01") from None


def _print_failures(failed: int, done: int, first: str) -> None:
    if failed:
        which = "every cell" if failed == done else f"{failed:,} of {done:,} cells"
        print(f"no result for {which}; the first error: {' '.join(first.split())}")


def _conclude(store: Store) -> None:
    """Say where the results are; for a shipped study, write and print its answer."""
    from rlhfsim.studies.shipped import SHIPPED

    print(f"written to {store.folder}: results.parquet, manifest.json")
    finished = store.finished()
    _print_failures(finished.failed, finished.count, finished.first_error)
    if finished.failed == finished.count:
        # Nothing to conclude from.
        raise typer.Exit(1)
    if store.study.name not in SHIPPED:
        return
    from rlhfsim.studies.shipped import conclude

    result = conclude(store.folder)
    for finding in result.findings:
        print(f"{finding.claim}: {finding.measured} [{finding.verdict}]")
