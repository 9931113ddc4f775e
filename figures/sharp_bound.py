"""Draw `sharp_bound` from the saved tables of a results folder.

Usage: python sharp_bound.py FOLDER
"""

import sys
from pathlib import Path

from rlhfsim.plots import FIGURES, style
from rlhfsim.repro import read_tables

NAME = "sharp_bound"

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    spec = FIGURES[NAME]
    style.save(spec.draw(read_tables(Path(sys.argv[1]), spec.tables)), Path(NAME))
