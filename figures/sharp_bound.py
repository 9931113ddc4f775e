"""Draw `sharp_bound` from the saved tables of a results folder.

Usage: python sharp_bound.py FOLDER [--out FOLDER]
"""

import sys

from rlhfsim.cli import main

if __name__ == "__main__":
    main(["figure", "sharp_bound", *sys.argv[1:]])
