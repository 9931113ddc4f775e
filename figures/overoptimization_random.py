"""Draw `overoptimization_random` from the saved tables of a results folder.

Usage: python overoptimization_random.py FOLDER [--out FOLDER]
"""

import sys

from rlhfsim.cli import main

if __name__ == "__main__":
    main(["figure", "overoptimization_random", *sys.argv[1:]])
