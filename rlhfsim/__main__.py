"""`python -m rlhfsim` is the command line."""

from rlhfsim.cli import main

main()
