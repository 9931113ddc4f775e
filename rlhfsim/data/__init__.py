"""Datasets, frozen and checked, and their sufficient statistics."""

from rlhfsim.data.base import Dataset
from rlhfsim.data.counts import PairCounts, PromptWins, as_counts, count_pairs, log_likelihood
from rlhfsim.data.demonstrations import DemonstrationData
from rlhfsim.data.named import NamedPairs
from rlhfsim.data.pairs import PreferenceData
from rlhfsim.data.problems import DataError, Problem
from rlhfsim.data.rankings import RankingData
from rlhfsim.data.scores import ScoreData
from rlhfsim.data.text import read_pairs

__all__ = [
    "DataError",
    "Dataset",
    "DemonstrationData",
    "NamedPairs",
    "PairCounts",
    "PreferenceData",
    "Problem",
    "PromptWins",
    "RankingData",
    "ScoreData",
    "as_counts",
    "count_pairs",
    "log_likelihood",
    "read_pairs",
]
