"""Bandits from tables of scored responses: `scored` builds them, `reading` checks the columns."""

from rlhfsim.table.scored import example_table, read_bandit

__all__ = ["example_table", "read_bandit"]
