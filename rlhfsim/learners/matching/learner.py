"""`DistributionMatching`: a target distribution built from the reference and a fitted reward."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.learners.base import Learned, as_problem
from rlhfsim.learners.explicit import fitted, require_model, spent
from rlhfsim.learners.matching.targets import Target
from rlhfsim.rewards import RewardModel, Tabular


@dataclass(frozen=True)
class DistributionMatching:
    """The policy that minimises `KL(target || pi)`: among all policies, the target itself.

    `WinRate`, `AtLeastQuantile` and `ExponentialReward` build the target from the fitted reward;
    `Moments` and `Pointwise` from the reference alone, of the data they take the shape.

    What is learned: `reward` is the fitted one, or None for a target without; `residual` how far
    the policy is from its constraint, in the units that the target's `match` names; `objective`
    is `E_x KL(pi || p)` in nats, the least that any policy under the constraint can have, or None
    where there are several prompts and no `prompt_dist`.  `diagnostics` has per prompt `kl` and
    `chi_squared`, with moments the (d,) `parameter` of the tilt, and `log_likelihood`,
    `gradient_norm`, `compared` of the reward fit.

    Parameters
    ----------
    target : Target
    model : RewardModel

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.  Fitting raises what `fit_reward` and the target
        raise: moments that cannot be attained, weights that leave nothing.

    Source: arXiv 2012.11635; 2112.00791; 2206.00761.
    """

    target: Target
    model: RewardModel = field(default_factory=Tabular)

    def __post_init__(self) -> None:
        """Validate."""
        if not isinstance(self.target, Target):
            raise ValueError(
                f"target is {self.target!r:.80}; it must be a target such as WinRate(0.8)"
            )
        require_model(self.model)

    @property
    def name(self) -> str:
        """`distribution matching` with the kind of the target."""
        return f"distribution matching, {type(self.target).__name__}"

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the target; see the class.  `rng` breaks the ties of a finite reward class."""
        problem = as_problem(data, reference, prompt_dist)
        notes: dict[str, Any] = {}
        reward: FloatArray | None = None
        if self.target.needs_reward:
            fit, notes = fitted(self.model, problem.data, rng)
            reward = fit.reward
        p = problem.reference
        given = np.zeros_like(p) if reward is None else reward
        learned = self.target.match(given, p, problem.prompt_dist)
        return replace(
            learned,
            reward=reward,
            diagnostics=notes | spent(learned.policy, p) | dict(learned.diagnostics),
        )
