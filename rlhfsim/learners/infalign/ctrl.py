"""`CTRL`: calibrate the reward, transform it, maximise it under a KL penalty."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.divergences import KL
from rlhfsim.inference import calibrated_reward
from rlhfsim.learners.base import Learned, Problem, as_problem
from rlhfsim.learners.explicit import fitted, require_model, spent
from rlhfsim.learners.infalign.average import averaged
from rlhfsim.learners.infalign.transforms import CalibratedTransform, IdentityTransform
from rlhfsim.rewards import RewardModel, Tabular
from rlhfsim.solvers import solve


@dataclass(frozen=True)
class CTRL:
    """Calibrate, transform, RL: `argmax_pi E_pi[Phi(c)] - beta KL(pi || p)`.

    `c(x, y) = P_{z ~ p}(r^(z) < r^(y)) + 1/2 P(r^(z) = r^(y))` is the calibrated fitted reward.

    What is learned: `reward` is the fitted one; `residual` the largest duality gap of a prompt and
    `objective` the attained value, averaged over the prompts, both in units of Phi.
    `diagnostics` has `log_likelihood`, `gradient_norm`, `compared` of the reward fit, the (X, Y)
    `calibrated_reward` and `transformed_reward` (0 where the reference is), and per prompt `kl`
    and `chi_squared`.

    Parameters
    ----------
    beta : float
        Positive, in units of Phi.
    transform : CalibratedTransform
        `Phi`.
    model : RewardModel

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.  Fitting raises what `fit_reward` and `solve` raise.

    Source: arXiv 2412.19792 (InfAlign-CTRL).
    """

    beta: float
    transform: CalibratedTransform = field(default_factory=IdentityTransform)
    model: RewardModel = field(default_factory=Tabular)

    def __post_init__(self) -> None:
        """Validate."""
        checks.positive_number("beta", self.beta)
        if not isinstance(self.transform, CalibratedTransform):
            raise ValueError(
                f"transform is {self.transform!r:.80}; it must be a transform of the calibrated "
                "reward such as ExponentialTransform(4.0)"
            )
        require_model(self.model)

    @property
    def name(self) -> str:
        """`CTRL` with the transform."""
        return f"CTRL, {self.transform!r}"

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
        return self._maximize(problem, fit.reward, notes)

    def _maximize(self, problem: Problem, reward: FloatArray, notes: dict[str, Any]) -> Learned:
        p = problem.reference
        calibrated = calibrated_reward(reward, p)
        transformed = np.zeros_like(p)
        transformed[p > 0] = self.transform(calibrated[p > 0])
        solution = solve(transformed, p, KL(), float(self.beta))
        return Learned(
            policy=solution.policy,
            reward=reward,
            beta=float(self.beta),
            residual=float(np.abs(solution.gap).max()),
            objective=averaged(solution.value, problem.prompt_dist),
            diagnostics=notes
            | spent(solution.policy, p)
            | {"calibrated_reward": calibrated, "transformed_reward": transformed},
        )
