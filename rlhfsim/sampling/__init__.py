"""Drawing datasets from a bandit."""

from rlhfsim.sampling.preferences import sample_preferences

__all__ = ["sample_preferences"]
