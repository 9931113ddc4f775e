"""Divergences between a policy and a reference, each defined once.

`DIVERGENCES` is the list that drives the tests and the documentation.
"""

from rlhfsim.divergences.base import Divergence
from rlhfsim.divergences.chi_squared import ChiSquared
from rlhfsim.divergences.combination import Combination
from rlhfsim.divergences.distances import renyi, squared_hellinger, total_variation
from rlhfsim.divergences.kl import KL

#: One of every kind: the pure ones, and combinations from nearly chi-squared to nearly KL.
DIVERGENCES: tuple[Divergence, ...] = (
    KL(),
    ChiSquared(),
    ChiSquared() + KL(),
    ChiSquared() + 0.01 * KL(),
    0.5 * ChiSquared() + 20.0 * KL(),
)

__all__ = [
    "DIVERGENCES",
    "KL",
    "ChiSquared",
    "Combination",
    "Divergence",
    "renyi",
    "squared_hellinger",
    "total_variation",
]
