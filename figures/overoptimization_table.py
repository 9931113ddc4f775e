"""Draw `overoptimization_table` from the saved tables of a results folder.

Usage: python overoptimization_table.py FOLDER [--out FOLDER]
"""

import sys

from rlhfsim.cli import main

if __name__ == "__main__":
    main(["figure", "overoptimization_table", *sys.argv[1:]])
