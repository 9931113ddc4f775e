"""General preferences as two-player games, prompt by prompt.

`advantage`, `duality_gap` and `regularized_gap` measure; `minimax_winner` and `solve_nash` solve,
with the exact gap as certificate; `self_play`, `sampled_self_play`, `nash_md` and
`iterative_chi_po` iterate and record the gap of every iterate; `estimated_preference` makes a game
of comparisons, and `unilateral_concentrability` says how well they cover a policy's deviations.
"""

from rlhfsim.games.coverage import pair_law, unilateral_concentrability
from rlhfsim.games.estimation import estimated_preference
from rlhfsim.games.game import advantage, duality_gap
from rlhfsim.games.iterations import (
    GameTrace,
    iterative_chi_po,
    nash_md,
    sampled_self_play,
    self_play,
)
from rlhfsim.games.nash import regularized_gap, solve_nash
from rlhfsim.games.solution import GameError, NashSolution
from rlhfsim.games.winner import minimax_winner

__all__ = [
    "GameError",
    "GameTrace",
    "NashSolution",
    "advantage",
    "duality_gap",
    "estimated_preference",
    "iterative_chi_po",
    "minimax_winner",
    "nash_md",
    "pair_law",
    "regularized_gap",
    "sampled_self_play",
    "self_play",
    "solve_nash",
    "unilateral_concentrability",
]
