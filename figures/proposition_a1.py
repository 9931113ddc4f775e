"""Draw `proposition_a1` from the saved tables of a results folder.

Usage: python proposition_a1.py FOLDER [--out FOLDER]
"""

import sys

from rlhfsim.cli import main

if __name__ == "__main__":
    main(["figure", "proposition_a1", *sys.argv[1:]])
