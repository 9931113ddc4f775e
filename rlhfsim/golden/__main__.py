"""`python -m rlhfsim.golden` computes the golden file again; an argument names another place."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rlhfsim.files import write_text


def main(arguments: list[str]) -> None:
    """Write the golden file, next to this module or where the first argument says."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhfsim.golden", description="Compute the golden file again."
    )
    parser.add_argument(
        "target",
        nargs="?",
        type=Path,
        default=Path(__file__).with_name("golden.json"),
        help="where it is written; in place of the one in the package",
    )
    target: Path = parser.parse_args(arguments).target
    # Needs mpmath, which the help does not.
    from rlhfsim.golden.generate import text

    write_text(target, text())
    sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
