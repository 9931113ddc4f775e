"""Datasets, frozen and checked, and their sufficient statistics."""

from rlhfsim.data.counts import PairCounts, PromptWins, count_pairs, log_likelihood
from rlhfsim.data.pairs import PreferenceData

__all__ = ["PairCounts", "PreferenceData", "PromptWins", "count_pairs", "log_likelihood"]
