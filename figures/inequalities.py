"""Draw `inequalities` from the saved tables of a results folder.

Usage: python inequalities.py FOLDER [--out FOLDER]
"""

import sys

from rlhfsim.cli import main

if __name__ == "__main__":
    main(["figure", "inequalities", *sys.argv[1:]])
