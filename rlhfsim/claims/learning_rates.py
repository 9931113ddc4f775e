"""How fast what is learned approaches the truth, in the sizes of both samples."""

from __future__ import annotations

from functools import cache

import numpy as np

from rlhfsim.bandit import ContextualBandit
from rlhfsim.bounds import reward_error
from rlhfsim.claims.statistical import RateClaim
from rlhfsim.instances import random_bandit
from rlhfsim.laws import population_pairs
from rlhfsim.learners.demonstrations import DemonstrationRegularized
from rlhfsim.rewards import Tabular, fit_reward
from rlhfsim.sampling import sample_demonstrations, sample_preferences


@cache
def tabular_problem() -> ContextualBandit:
    """Return three prompts with four well covered responses each."""
    return random_bandit(3, 4, np.random.default_rng(3), skew=0.3)


def tabular_error(n: float, rng: np.random.Generator) -> float:
    """Return `eps_c` of the tabular maximum likelihood reward of n preferences."""
    bandit = tabular_problem()
    fit = fit_reward(sample_preferences(bandit, int(n), rng, grouped=True), Tabular())
    return float(reward_error(bandit.reward, fit.reward, bandit.reference, bandit.prompt_dist))


@cache
def expert_problem() -> ContextualBandit:
    """Return two prompts with six responses each."""
    return random_bandit(2, 6, np.random.default_rng(4))


def demonstrated_regret(n_demonstrations: float, rng: np.random.Generator) -> float:
    """Return the regret around a cloned optimal expert, with the exact reward."""
    bandit = expert_problem()
    shown = sample_demonstrations(
        bandit, int(n_demonstrations), rng, expert=bandit.optimal_policy()
    )
    learner = DemonstrationRegularized(shown, beta=0.5, model=Tabular(r_max=4.0))
    return float(bandit.regret(learner.fit(population_pairs(bandit), bandit.reference).policy))


LEARNING_RATE_CLAIMS: tuple[RateClaim, ...] = (
    RateClaim(
        name="tabular maximum likelihood error",
        formula="eps_c ~ n^(-1/2)",
        source="van der Vaart 1998, thm 5.39",
        exponent=-0.5,
        measure=tabular_error,
        sizes=(1e3, 3e3, 1e4, 3e4, 1e5),
        replications=40,
    ),
    RateClaim(
        name="regret around a cloned expert",
        formula="J(pi*) - J(demonstration-regularized RLHF) ~ 1/N_E for an optimal expert",
        source="arXiv 2310.17303",
        exponent=-1.0,
        measure=demonstrated_regret,
        sizes=(1e2, 1e3, 1e4, 1e5),
        variable="N_E",
        replications=6,
    ),
)
