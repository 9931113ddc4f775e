"""XPO and iterated DPO: online direct preference optimization, with and without optimism.

`Protocol` says who is compared with whom; `FiniteXPO` runs it over a finite class of policies, with
the exact minimum in every round, and `ScoreXPO` over all or log-linear ones, with local minima.
"""

from rlhfsim.online.xpo.alpha import Alpha, ConstantAlpha, DecreasingAlpha, TheoryAlpha
from rlhfsim.online.xpo.bound import BoundAlpha, RegretBound
from rlhfsim.online.xpo.coverability import coverability, covering_distribution
from rlhfsim.online.xpo.examples import HiddenBest, hidden_best
from rlhfsim.online.xpo.finite import FiniteRun, FiniteXPO
from rlhfsim.online.xpo.protocol import Protocol
from rlhfsim.online.xpo.scores import ScoreRun, ScoreXPO

__all__ = [
    "Alpha",
    "BoundAlpha",
    "ConstantAlpha",
    "DecreasingAlpha",
    "FiniteRun",
    "FiniteXPO",
    "HiddenBest",
    "Protocol",
    "RegretBound",
    "ScoreRun",
    "ScoreXPO",
    "TheoryAlpha",
    "coverability",
    "covering_distribution",
    "hidden_best",
]
