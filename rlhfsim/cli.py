"""The command line: one function for each command of `rlhfsim`."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rlhfsim import cli_study

if TYPE_CHECKING:
    from rlhfsim.claims import CheckResult
    from rlhfsim.doctor import Diagnosis
    from rlhfsim.golden import Method

#: Exit code after Ctrl-C, 128 + SIGINT, as shells have it.
_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Exact simulator for the theory of offline RLHF.",
)
app.add_typer(cli_study.app, name="study")


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
    from rlhfsim.repro.job import STEPS, reproduce

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


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="Folder of saved results.")],
) -> None:
    """Write the HTML report of a folder again, from its saved results and tables."""
    from rlhfsim.report import build_report

    print(build_report(results))


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


@app.command()
def learners(
    table: Annotated[
        Path | None, typer.Option(help="CSV or Parquet of scored responses; a random bandit else.")
    ] = None,
    n: Annotated[int, typer.Option(help="Number of preferences.")] = 2000,
    beta: Annotated[float, typer.Option(help="Regularization, in reward units.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Compare all learners on one instance and the same preferences, by exact regret."""
    from rlhfsim.bandit import ContextualBandit
    from rlhfsim.comparison import COLUMNS, comparison, default_bandit, markdown

    bandit = default_bandit() if table is None else ContextualBandit.from_table(table)
    rows = comparison(bandit, n=n, beta=beta, seed=seed)
    if as_markdown:
        print(markdown(rows), end="")
        return
    console = _console()
    shown = Table(*COLUMNS)
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in rows:
        shown.add_row(*(_literal(cell) for cell in row.row()))
    console.print(shown)


@app.command()
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
        table.add_row(*map(_literal, row))
    _console().print(table)


@app.command()
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
    errors = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=errors, disable=not errors.is_terminal,
    ) as bar:  # fmt: skip
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
        *first, verdict = (_literal(checking.cells(result)[k]) for k in columns)
        table.add_row(*first, f"[{'green' if result.passed else 'bold red'}]{verdict}[/]")
    _console().print(table)


@app.command(name="break")
def break_(
    name: Annotated[
        str, typer.Argument(help="A claim (see `rlhfsim claims`), or one of yours: FILE.py:name.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    seconds: Annotated[
        float | None, typer.Option(help="Search for so long; a fixed number of instances else.")
    ] = None,
) -> None:
    """Search for an instance that violates a claim; exit code 0 if one is proved to, 1 if not."""
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
        print(f"no violation in {count} instances; largest ratio {largest:.9g}, near")
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


@app.command()
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
    console = _console()
    table = Table("method", "mean of", "settings", "columns", "source", show_lines=True)
    for name, entry in methods.items():
        settings = ", ".join(f"{key}={value:g}" for key, value in entry.settings.items())
        cells = (name, entry.formula, settings, ", ".join(entry.columns), entry.source)
        table.add_row(*(_literal(cell) for cell in cells))
    console.print(table)
    console.print(
        "u = log pi - log p of a response, + the chosen and - the rejected one. Settings and "
        "columns are passed by keyword; a function without an argument for a setting must have the "
        "value shown."
    )


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    console = _console()
    table = Table(
        "batch", "precision", "beta", "settings", "loss", "expected", "gradient off by", ""
    )
    for line in diagnosis.table:
        off = "" if line.gradient_error is None else f"{line.gradient_error:.2g}"
        mark = "[green]agrees[/]" if line.agrees else "[bold red]differs[/]"
        numbers = f"{line.loss:.9g}", f"{line.expected:.9g}", off
        table.add_row(line.batch, line.precision, f"{line.beta:g}", line.settings, *numbers, mark)
    console.print(table)
    for note in diagnosis.notes:
        console.print(f"note: {_literal(note)}")
    colour = "green" if diagnosis.healthy else "bold red"
    console.print(f"[{colour}]{_literal(diagnosis.method)}[/]: {_literal(diagnosis.verdict)}")


def _console() -> Console:
    # A pipe has no width; a table cut off at 80 columns would be of no use in it.
    return Console() if sys.stdout.isatty() else Console(width=160)


def _literal(text: str) -> str:
    """Return text in which rich sees no markup."""
    return text.replace("[", r"\[")


def _print_findings(
    rows: list[tuple[str, str, str, str, bool | None]],
    columns: tuple[str, ...] = ("claim", "source", "measured", "verdict"),
) -> None:
    console = _console()
    table = Table(*columns, show_lines=True)
    for *cells, good in rows:
        *first, verdict = (_literal(str(cell)) for cell in cells)
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
