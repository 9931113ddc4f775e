"""How the commands print: tables on a terminal or in a pipe, and the bar of what is done."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


def console() -> Console:
    """Return the console of standard output."""
    # A pipe has no width; a table cut off at 80 columns would be of no use in it.
    return Console() if sys.stdout.isatty() else Console(width=160)


def progress_bar() -> Progress:
    """Return a bar on standard error, silent where that is no terminal."""
    errors = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=errors, disable=not errors.is_terminal,
    )  # fmt: skip


def literal(text: str) -> str:
    """Return text in which rich sees no markup."""
    return text.replace("[", r"\[")


def print_findings(
    rows: list[tuple[str, str, str, str, bool | None]],
    columns: tuple[str, ...] = ("claim", "source", "measured", "verdict"),
) -> None:
    """Print lines of text and whether each is as expected."""
    screen = console()
    table = Table(*columns, show_lines=True)
    for *cells, good in rows:
        *first, verdict = (literal(str(cell)) for cell in cells)
        colour = "default" if good is None else "green" if good else "bold red"
        table.add_row(*first, f"[{colour}]{verdict}[/]")
    screen.print(table)
