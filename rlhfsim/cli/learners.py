"""Commands about learners and losses: compare all of ours, diagnose one of yours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rlhfsim.cli.printing import console, literal

if TYPE_CHECKING:
    from rlhfsim.doctor import Diagnosis
    from rlhfsim.golden import Method


def learners(
    table: Annotated[
        Path | None, typer.Option(help="CSV or Parquet of scored responses; a random bandit else.")
    ] = None,
    n: Annotated[int, typer.Option(help="Number of preferences.")] = 2000,
    beta: Annotated[float, typer.Option(help="Regularization, in reward units.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Compare all learners on one instance and the same preferences, by exact regret.

    A learner whose estimate so few preferences do not determine has its reason in place of numbers.
    """
    from rlhfsim.bandit import ContextualBandit
    from rlhfsim.comparison import COLUMNS, comparison, default_bandit, markdown

    bandit = default_bandit() if table is None else ContextualBandit.from_table(table)
    rows = comparison(bandit, n=n, beta=beta, seed=seed)
    if as_markdown:
        print(markdown(rows), end="")
        return
    screen = console()
    shown = Table(*COLUMNS)
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in rows:
        shown.add_row(*(literal(cell) for cell in row.row()))
    screen.print(shown)


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(help="The loss: module:function or path/to/file.py:function."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="What it should be; see --list.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List methods and settings.")] = False,
) -> None:
    """Compare a loss of yours with golden numbers, and name the fault where they differ.

    The function takes (policy_chosen_logps, policy_rejected_logps, ref_chosen_logps,
    ref_rejected_logps, beta) as torch tensors or numpy arrays and returns the mean loss. Settings
    of the method are passed by keyword where it takes them.
    """
    from rlhfsim import golden

    if show_list:
        _print_methods(golden.methods())
        return
    if target is None or method is None:
        missing = "target" if target is None else "method"
        raise ValueError(f"{missing} is missing; both a target and --method are needed")
    golden.method(method)
    from rlhfsim.doctor import diagnose, load_function

    diagnosis = diagnose(load_function(target), method)
    if as_json:
        print(json.dumps(diagnosis.to_dict(), indent=1))
    else:
        _print_diagnosis(diagnosis)
    if not diagnosis.healthy:
        raise typer.Exit(1)


def _print_methods(methods: Mapping[str, Method]) -> None:
    screen = console()
    table = Table("method", "mean of", "settings", "columns", "source", show_lines=True)
    for name, entry in methods.items():
        settings = ", ".join(f"{key}={value:g}" for key, value in entry.settings.items())
        cells = (name, entry.formula, settings, ", ".join(entry.columns), entry.source)
        table.add_row(*(literal(cell) for cell in cells))
    screen.print(table)
    screen.print(
        "u = log pi - log p of a response, + the chosen and - the rejected one. Settings and "
        "columns are passed by keyword; a function without an argument for a setting must have the "
        "value shown."
    )


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    screen = console()
    table = Table(
        "batch", "precision", "beta", "settings", "loss", "expected", "gradient off by", ""
    )
    for line in diagnosis.table:
        off = "" if line.gradient_error is None else f"{line.gradient_error:.2g}"
        mark = "[green]agrees[/]" if line.agrees else "[bold red]differs[/]"
        numbers = f"{line.loss:.9g}", f"{line.expected:.9g}", off
        table.add_row(line.batch, line.precision, f"{line.beta:g}", line.settings, *numbers, mark)
    screen.print(table)
    for note in diagnosis.notes:
        screen.print(f"note: {literal(note)}")
    colour = "green" if diagnosis.healthy else "bold red"
    screen.print(f"[{colour}]{literal(diagnosis.method)}[/]: {literal(diagnosis.verdict)}")
