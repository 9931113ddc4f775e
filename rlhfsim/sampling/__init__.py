"""Drawing datasets from a bandit."""

from rlhfsim.sampling.preferences import sample_preferences
from rlhfsim.sampling.rankings import sample_rankings
from rlhfsim.sampling.responses import sample_demonstrations, sample_scores

__all__ = [
    "sample_demonstrations",
    "sample_preferences",
    "sample_rankings",
    "sample_scores",
]
