"""RLHF in two steps: fit a reward, then maximise it under a penalty."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.divergences import KL, Divergence
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.learners.base import Learned, as_problem
from rlhfsim.learners.explicit import fitted, require_model, spent
from rlhfsim.rewards import RewardModel, Tabular
from rlhfsim.solvers import solve


@dataclass(frozen=True)
class RLHF:
    """`argmax_pi E_pi[r^] - beta D(pi || p)` of the maximum likelihood reward `r^`.

    `KL()` is the usual method, `ChiSquared() + KL()` the two-step twin of chiPO.

    What is learned: `reward` is `r^`; `residual` the largest duality gap of a prompt, in reward
    units; `objective` the regularized value averaged over the prompts, or None where there are
    several and no `prompt_dist`.  `diagnostics` has `log_likelihood`, `gradient_norm`, `compared`
    of the reward fit, and per prompt `kl` and `chi_squared` of the policy, and the `multiplier`.

    Parameters
    ----------
    beta : float
        Positive, in reward units.
    divergence : Divergence
    model : RewardModel
        `Tabular()` by default, whose estimate need not exist: bound it (`Tabular(r_max=...)`) or
        regularize it (`Tabular(ridge=...)`) where data are few.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.  Fitting raises what `fit_reward` and `solve` raise.

    Source: arXiv 2305.18290, eq. 3 (KL); 2407.13399 (mixed chi-squared).
    """

    beta: float
    divergence: Divergence = field(default_factory=KL)
    model: RewardModel = field(default_factory=Tabular)

    def __post_init__(self) -> None:
        """Validate."""
        checks.positive_number("beta", self.beta)
        if not isinstance(self.divergence, Divergence):
            raise ValueError(
                f"divergence is {self.divergence!r:.80}; it must be a Divergence such as KL()"
            )
        require_model(self.model)

    @property
    def name(self) -> str:
        """`RLHF` with the divergence."""
        return f"RLHF, {self.divergence!r}"

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the policy; see the class.  `rng` breaks the ties of a finite reward class."""
        problem = as_problem(data, reference, prompt_dist)
        fit, notes = fitted(self.model, problem.data, rng)
        solution = solve(fit.reward, problem.reference, self.divergence, float(self.beta))
        objective = None
        if problem.prompt_dist is not None or len(fit.reward) == 1:
            objective = float(average_over_prompts(solution.value, problem.prompt_dist))
        return Learned(
            policy=solution.policy,
            reward=fit.reward,
            beta=float(self.beta),
            residual=float(np.abs(solution.gap).max()),
            objective=objective,
            diagnostics=notes
            | spent(solution.policy, problem.reference)
            | {"multiplier": solution.multiplier},
        )
