"""Learners that regularize token by token, and clone experts token by token."""

from rlhfsim.learners.steps.cloning import clone_tokens, clone_trajectories, plan_around_clone
from rlhfsim.learners.steps.demonstrations import TokenDemonstrationRegularized
from rlhfsim.learners.steps.token import TokenRLHF

__all__ = [
    "TokenDemonstrationRegularized",
    "TokenRLHF",
    "clone_tokens",
    "clone_trajectories",
    "plan_around_clone",
]
