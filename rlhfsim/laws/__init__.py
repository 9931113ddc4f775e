"""Exact laws over datasets, and their limit of infinite data."""

from rlhfsim.laws.cells import PairCells
from rlhfsim.laws.datasets import DatasetLaw, dataset_law, dataset_of
from rlhfsim.laws.multinomial import CountLaw, multinomial_counts
from rlhfsim.laws.population import population_pairs, population_rankings, population_scores
from rlhfsim.laws.split import ErrorSplit, error_split

__all__ = [
    "CountLaw",
    "DatasetLaw",
    "ErrorSplit",
    "PairCells",
    "dataset_law",
    "dataset_of",
    "error_split",
    "multinomial_counts",
    "population_pairs",
    "population_rankings",
    "population_scores",
]
