"""The command line: `rlhfsim repro`, `rlhfsim figure`, `rlhfsim paper`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

#: Exit code after Ctrl-C, 128 + SIGINT, as shells have it.
_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Exact simulator for the theory of offline RLHF.",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print("rlhfsim", version("rlhfsim"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    """Exact simulator for the theory of offline RLHF."""


@app.command()
def repro(
    out: Annotated[str, typer.Option(help="Folder for tables, figures and report.")] = "repro-out",
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    table: Annotated[
        Path | None,
        typer.Option(help="CSV or Parquet of scored responses, for the curves on real data."),
    ] = None,
) -> None:
    """Run the main job: every study, one table of verdicts, figures and an HTML report."""
    from rlhfsim.bandit import ContextualBandit
    from rlhfsim.repro import STEPS, reproduce

    if not out:
        raise ValueError("out is empty; it must name a folder")
    bandit = None if table is None else ContextualBandit.from_table(table)
    errors = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=errors, disable=not errors.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("starting", total=STEPS)

        def step(description: str) -> None:
            if bar.tasks[0].description != "starting":
                bar.advance(task)
            bar.update(task, description=description)

        results = reproduce(Path(out), seed, bandit, step)
        bar.update(task, completed=STEPS, description="done")
    findings = [finding for result in results for finding in result.findings]
    _print_findings([(f.claim, f.source, f.measured, f.verdict, f.expected) for f in findings])
    print(f"written to {out}: report.html, tables/, figures/, manifest.json")
    if any(f.expected is False for f in findings):
        raise typer.Exit(1)


@app.command()
def figure(
    name: Annotated[str, typer.Argument(help="Name of a figure, such as proposition_a1.")],
    results: Annotated[Path, typer.Argument(help="Folder written by `rlhfsim repro`.")],
    out: Annotated[Path, typer.Option(help="Folder for the PDF and PNG.")] = Path(),
) -> None:
    """Draw one figure again from saved tables."""
    from rlhfsim.plots import FIGURES, style
    from rlhfsim.repro import read_tables

    if name not in FIGURES:
        raise ValueError(f"name is {name!r}; it must be one of {', '.join(FIGURES)}")
    spec = FIGURES[name]
    tables = read_tables(results, spec.tables)
    if not spec.applies(tables):
        raise ValueError(f"{results} holds no data for {name}; run repro with --table")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is not a folder")
    out.mkdir(parents=True, exist_ok=True)
    for path in style.save(spec.draw(tables), out / name):
        print(path)


@app.command()
def paper(
    folder: Annotated[Path, typer.Argument(help="Folder with settings.toml and expected.toml.")],
) -> None:
    """Reproduce the numbers of one paper and compare them with the expected ones."""
    from rlhfsim.papers import reproduce_paper

    checks = reproduce_paper(folder)
    _print_findings(
        [(c.name, c.source, f"{c.measured:.9g}", c.describe(), c.agrees) for c in checks],
        columns=("number", "source", "measured", "expected"),
    )
    if not all(c.agrees for c in checks):
        raise typer.Exit(1)


def _print_findings(
    rows: list[tuple[str, str, str, str, bool | None]],
    columns: tuple[str, ...] = ("claim", "source", "measured", "verdict"),
) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=160)
    table = Table(*columns, show_lines=True)
    for *cells, good in rows:
        *first, verdict = (str(cell).replace("[", r"\[") for cell in cells)
        colour = "default" if good is None else "green" if good else "bold red"
        table.add_row(*first, f"[{colour}]{verdict}[/]")
    console.print(table)


def _terminate(signum: int, frame: object) -> NoReturn:
    # As an exception, so that every temporary file is removed on the way out.
    raise SystemExit(128 + signum)


def main(args: list[str] | None = None) -> None:
    """Run the command line; bad input is one line on stderr and exit code 2."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(args, standalone_mode=False)
    except (ValueError, OSError) as error:
        print("rlhfsim: error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except typer.TyperException as error:
        # Empty where the help was printed instead, for a call without arguments.
        if error.format_message().strip():
            print("rlhfsim: error:", " ".join(error.format_message().split()), file=sys.stderr)
        sys.exit(2)
    if code == _INTERRUPTED:
        print("rlhfsim: interrupted", file=sys.stderr)
    sys.exit(code or 0)
