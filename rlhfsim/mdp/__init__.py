"""More than one step: Markov decision processes of H steps, and responses made token by token.

`FiniteHorizonMDP` and `TokenTree` are the processes; `solve_steps` plans in either, with a
divergence at every step.  A contextual bandit is the case of one step.  Regularized over whole
responses, a `TokenTree` is the bandit `tree.as_bandit()`, whose policies `token_policy` and
`sequence_policy` take apart and put together; with chance, see `chi_squared_over_trajectories`.
"""

from rlhfsim.mdp.comparisons import (
    TrajectoryPairs,
    fit_step_reward,
    sample_trajectory_preferences,
    step_features,
)
from rlhfsim.mdp.evaluation import (
    action_values,
    max_trajectory_concentrability,
    occupancies,
    optimal_policy,
    step_divergence,
    trajectory_concentrability,
    trajectory_kl,
    value,
)
from rlhfsim.mdp.instances import random_linear_mdp, random_mdp, random_token_tree
from rlhfsim.mdp.linear import LinearMDP
from rlhfsim.mdp.model import FiniteHorizonMDP
from rlhfsim.mdp.planning import SoftSolution, solve_steps
from rlhfsim.mdp.prefixes import PrefixTree
from rlhfsim.mdp.trajectories import Trajectories, sample_trajectories
from rlhfsim.mdp.trajectory_optimum import TrajectoryOptimum, chi_squared_over_trajectories
from rlhfsim.mdp.tree import TokenTree, sequence_policy, token_policy

__all__ = [
    "FiniteHorizonMDP",
    "LinearMDP",
    "PrefixTree",
    "SoftSolution",
    "TokenTree",
    "Trajectories",
    "TrajectoryOptimum",
    "TrajectoryPairs",
    "action_values",
    "chi_squared_over_trajectories",
    "fit_step_reward",
    "max_trajectory_concentrability",
    "occupancies",
    "optimal_policy",
    "random_linear_mdp",
    "random_mdp",
    "random_token_tree",
    "sample_trajectories",
    "sample_trajectory_preferences",
    "sequence_policy",
    "solve_steps",
    "step_divergence",
    "step_features",
    "token_policy",
    "trajectory_concentrability",
    "trajectory_kl",
    "value",
]
