"""Commands about claims: list, check, break."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from rlhfsim.cli.printing import console, literal, progress_bar

if TYPE_CHECKING:
    from rlhfsim.claims import CheckResult


def claims(
    files: Annotated[
        list[str] | None, typer.Argument(help="Python files with claims of yours; ours else.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only those whose source has this.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the claims: statements of the literature that can be evaluated, or those of a file."""
    from rlhfsim.claims import CLAIMS
    from rlhfsim.claims.loading import find

    columns = ("name", "source", "kind", "formula")
    rows = [[getattr(claim, key) for key in columns] for claim in find(CLAIMS, files or (), source)]
    if as_json:
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1))
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(literal, row))
    console().print(table)


def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Claims, or Python files with claims of yours: FILE.py, FILE.py:name."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only those whose source has this.")] = None,
    instances: Annotated[int, typer.Option(help="Random instances for each claim.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the table: .md, .csv or .tex.")] = None,
    budget: Annotated[
        float | None, typer.Option(help="Seconds; fewer instances where they do not fit.")
    ] = None,
    summary: Annotated[
        bool, typer.Option(help="Print counts and what is false, in Markdown, not every claim.")
    ] = False,
) -> None:
    """Evaluate claims on random instances; exit code 1 if one does not behave as expected."""
    from rlhfsim.claims import CLAIMS, checking
    from rlhfsim.claims.headline import headline
    from rlhfsim.claims.loading import find
    from rlhfsim.files import write_text

    if out is not None and out.suffix not in checking.WRITERS:
        raise ValueError(f"out is {str(out)!r}; it must end in {', '.join(checking.WRITERS)}")
    if out is not None and not out.parent.is_dir():
        raise ValueError(f"out is {str(out)!r}; there is no folder {str(out.parent)!r}")
    chosen = find(CLAIMS, names or (), source)
    with progress_bar() as bar:
        task = bar.add_task("checking", total=len(chosen))

        def step(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name)

        with _blaming_users(names or ()):
            results = checking.check(
                chosen, instances=instances, seed=seed, budget=budget, progress=step
            )
        bar.update(task, description="done")
    if summary:
        print(headline(results), end="")
    else:
        _print_checks(results)
    if out is not None:
        write_text(out, checking.WRITERS[out.suffix](results))
        print(f"written to {out}")
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def _print_checks(results: Sequence[CheckResult]) -> None:
    from rlhfsim.claims import checking

    columns = [k for k, column in enumerate(checking.COLUMNS) if column != "formula"]
    table = Table(*(checking.COLUMNS[k] for k in columns))
    for result in results:
        *first, verdict = (literal(checking.cells(result)[k]) for k in columns)
        table.add_row(*first, f"[{'green' if result.passed else 'bold red'}]{verdict}[/]")
    console().print(table)


def break_(
    name: Annotated[
        str, typer.Argument(help="A claim (see `rlhfsim claims`), or one of yours: FILE.py:name.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    seconds: Annotated[
        float | None, typer.Option(help="Search for so long; a fixed number of instances else.")
    ] = None,
) -> None:
    """Search for an instance that violates a claim; exit code 0 if one is proved to, 1 if not.

    Exit code 2 if no instance has a ratio: a claim that always raises, or is not a number.
    """
    from rlhfsim.claims import CLAIMS, Claim
    from rlhfsim.claims.loading import find
    from rlhfsim.falsify import UNLIMITED, falsify

    claim, *others = find(CLAIMS, [name])
    if others:
        raise ValueError(f"{name} holds {1 + len(others)} claims; say which: {name}:NAME")
    if not isinstance(claim, Claim):
        raise ValueError(f"{name!r} is about rates or probabilities; it has no single instances")
    budget = {} if seconds is None else {"budget": UNLIMITED}
    with _blaming_users([name]):
        found = falsify(claim, seed=seed, seconds=seconds, **budget)
    print(f"{claim.formula}    ({claim.source})")
    largest, count = found.shrunk_from.ratio, found.evaluations
    if found.verdict == "refuted":
        print(f"violated: ratio {found.ratio:.9g} (proved by {found.certificate}) at")
    elif found.verdict == "undecided":
        print(f"undecided: ratio {found.ratio:.9g} in floats, without a proof, at")
    else:
        silent = f" ({found.without_ratio} had none)" if found.without_ratio else ""
        print(f"no violation in {count} instances; largest ratio {largest:.9g}{silent}, near")
    print(found.describe())
    if found.verdict != "not violated":
        print(f"largest ratio found {largest:.9g}, in {count} instances")
    if found.verdict == "undecided":
        stays = "stays" if found.certificate == "stable in floats" else "does not stay"
        print(f"the violation {stays} when numbers move by 1e-12; {found.reason}")
    if not found.violated:
        raise typer.Exit(1)


@contextmanager
def _blaming_users(targets: Sequence[str]) -> Iterator[None]:
    """Turn what a claim of a user's file raises into a `ValueError`, which is bad input."""
    from rlhfsim.claims.loading import is_file

    try:
        yield
    except Exception as error:
        if not any(map(is_file, targets)):
            raise
        where = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
        raise ValueError(f"{where}{type(error).__name__}: {error}") from error
