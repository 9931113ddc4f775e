"""The command line `rlhfsim`: one function for each command, a module for each group of them."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, NoReturn

import typer

from rlhfsim.cli import claims, learners, results, study

#: Exit code after Ctrl-C, 128 + SIGINT, as shells have it.
_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Exact simulator for the theory of offline RLHF.",
)
for _command in (
    results.repro,
    results.figure,
    results.report,
    results.paper,
    learners.learners,
    claims.claims,
    claims.check,
):
    app.command()(_command)
app.command(name="break")(claims.break_)
app.command()(learners.doctor)
app.add_typer(study.app, name="study")


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
