"""Commands that make results, and what is drawn and written from saved ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhfsim.cli.printing import print_findings, progress_bar


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
    from rlhfsim.repro.job import STEPS, reproduce

    if not out:
        raise ValueError("out is empty; it must name a folder")
    bandit = None if table is None else ContextualBandit.from_table(table)
    with progress_bar() as bar:
        task = bar.add_task("starting", total=STEPS)

        def step(description: str) -> None:
            if bar.tasks[0].description != "starting":
                bar.advance(task)
            bar.update(task, description=description)

        results = reproduce(Path(out), seed, bandit, step)
        bar.update(task, completed=STEPS, description="done")
    findings = [finding for result in results for finding in result.findings]
    print_findings([(f.claim, f.source, f.measured, f.verdict, f.expected) for f in findings])
    print(f"written to {out}: report.html, tables/, figures/, manifest.json")
    if any(f.expected is False for f in findings):
        raise typer.Exit(1)


def figure(
    name: Annotated[str, typer.Argument(help="Name of a figure, such as proposition_a1.")],
    results: Annotated[Path, typer.Argument(help="Folder written by `rlhfsim repro`.")],
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path(),
    venue: Annotated[
        str | None, typer.Option(help="icml, neurips, iclr, jmlr or tmlr: its width and font.")
    ] = None,
    width: Annotated[str, typer.Option(help="column or full, for a page of two columns.")] = "full",
    formats: Annotated[
        str, typer.Option("--format", help="Some of pdf, png, svg, pgf, with commas between.")
    ] = "pdf,png",
) -> None:
    """Draw one figure again from saved tables, with its numbers and caption beside it."""
    from rlhfsim.plots.redraw import redraw

    for path in redraw(name, results, out, venue=venue, width=width, formats=formats.split(",")):
        print(path)


def report(
    results: Annotated[Path, typer.Argument(help="Folder of saved results.")],
) -> None:
    """Write the HTML report of a folder again, from its saved results and tables."""
    from rlhfsim.report import build_report

    print(build_report(results))


def paper(
    folder: Annotated[Path, typer.Argument(help="Folder with settings.toml and expected.toml.")],
) -> None:
    """Reproduce the numbers of one paper and compare them with the expected ones."""
    from rlhfsim.papers import reproduce_paper

    checks = reproduce_paper(folder)
    print_findings(
        [(c.name, c.source, f"{c.measured:.9g}", c.describe(), c.agrees) for c in checks],
        columns=("number", "source", "measured", "expected"),
    )
    if not all(c.agrees for c in checks):
        raise typer.Exit(1)
