"""Divergences between a policy and a reference, each defined once.

`ALL_DIVERGENCES` is the list that drives the tests and the documentation; `DIVERGENCES` is the
part of it made of chi-squared and KL, for which every solver has a closed form.
"""

from rlhfsim.divergences.alpha import AlphaDivergence
from rlhfsim.divergences.base import Divergence
from rlhfsim.divergences.chi_squared import ChiSquared
from rlhfsim.divergences.combination import Combination
from rlhfsim.divergences.consistency import require_consistent
from rlhfsim.divergences.distances import renyi, squared_hellinger, total_variation
from rlhfsim.divergences.forward_kl import ForwardKL
from rlhfsim.divergences.hellinger import SquaredHellinger
from rlhfsim.divergences.jensen_shannon import JensenShannon
from rlhfsim.divergences.kl import KL
from rlhfsim.divergences.text import parse_divergence

#: Chi-squared, KL, and combinations of them from nearly the one to nearly the other.
DIVERGENCES: tuple[Divergence, ...] = (
    KL(),
    ChiSquared(),
    ChiSquared() + KL(),
    ChiSquared() + 0.01 * KL(),
    0.5 * ChiSquared() + 20.0 * KL(),
)

#: One of every kind: each class, alpha in each range where the formulas or the limits differ, and
#: combinations without a closed inverse, of infinite and of finite recession.
ALL_DIVERGENCES: tuple[Divergence, ...] = (
    *DIVERGENCES,
    ForwardKL(),
    JensenShannon(),
    SquaredHellinger(),
    AlphaDivergence(-1.0),
    AlphaDivergence(0.3),
    AlphaDivergence(0.9),
    AlphaDivergence(1.5),
    AlphaDivergence(3.0),
    ChiSquared() + 0.1 * ForwardKL(),
    ForwardKL() + 2.0 * JensenShannon(),
)

__all__ = [
    "ALL_DIVERGENCES",
    "DIVERGENCES",
    "KL",
    "AlphaDivergence",
    "ChiSquared",
    "Combination",
    "Divergence",
    "ForwardKL",
    "JensenShannon",
    "SquaredHellinger",
    "parse_divergence",
    "renyi",
    "require_consistent",
    "squared_hellinger",
    "total_variation",
]
