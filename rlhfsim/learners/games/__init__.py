"""Learners of general preferences: an estimated game, and an equilibrium of it.

All estimate `P^` by smoothed shares of wins (1/2 for pairs that were never compared), and play the
game of it among the responses of the reference.
"""

from rlhfsim.learners.games.equilibria import MinimaxWinner, RegularizedNash
from rlhfsim.learners.games.iterative import IterativeChiPO, NashMD, SelfPlay
from rlhfsim.learners.games.law import OnLaw

__all__ = ["IterativeChiPO", "MinimaxWinner", "NashMD", "OnLaw", "RegularizedNash", "SelfPlay"]
