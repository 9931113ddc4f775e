"""`python -m rlhfsim.golden` computes the golden file again; an argument names another place."""

from __future__ import annotations

import sys
from pathlib import Path

from rlhfsim.files import write_text


def main(arguments: list[str]) -> None:
    """Write the golden file, next to this module or where the first argument says."""
    from rlhfsim.golden.generate import text

    target = Path(arguments[0]) if arguments else Path(__file__).with_name("golden.json")
    write_text(target, text())
    sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
