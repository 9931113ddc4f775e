"""Learners that fit a reward and choose among samples of the reference by it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.inference import best_of_n, inference_time_pessimism, soft_best_of_n
from rlhfsim.learners.base import Learned, Problem, as_problem
from rlhfsim.learners.explicit import fitted, require_model, spent
from rlhfsim.rewards import RewardModel, Tabular


class _AtInferenceTime(ABC):
    """Fit, then the exact law of what is chosen."""

    model: RewardModel

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the law of the chosen response as a policy; see the class.

        `diagnostics` has `log_likelihood`, `gradient_norm`, `compared` of the reward fit, and per
        prompt the exact `kl` and `chi_squared` of the policy.  There is no objective.
        """
        problem = as_problem(data, reference, prompt_dist)
        fit, notes = fitted(self.model, problem.data, rng)
        policy = self._policy(problem, fit.reward)
        return Learned(
            policy=policy,
            reward=fit.reward,
            beta=getattr(self, "beta", None),
            diagnostics=notes | spent(policy, problem.reference),
        )

    @abstractmethod
    def _policy(self, problem: Problem, reward: FloatArray) -> FloatArray:
        """Return the law of what is chosen by `reward`."""


@dataclass(frozen=True)
class BestOfN(_AtInferenceTime):
    """The best of `n` draws from the reference by the fitted reward, ties shared.

    Parameters
    ----------
    n : int
        At least 1.
    model : RewardModel

    Source: arXiv 2009.01325; exact with ties, `rlhfsim.inference.best_of_n`.
    """

    n: int
    model: RewardModel = field(default_factory=Tabular)

    def __post_init__(self) -> None:
        """Validate."""
        checks.whole_number("n", self.n, least=1)
        require_model(self.model)

    @property
    def name(self) -> str:
        """`best of n`."""
        return f"best of {self.n}"

    def _policy(self, problem: Problem, reward: FloatArray) -> FloatArray:
        return best_of_n(problem.reference, reward, self.n)


@dataclass(frozen=True)
class SoftBestOfN(_AtInferenceTime):
    """One of `n` draws, chosen by a softmax of the fitted reward over the temperature.

    Parameters
    ----------
    n : int
        At least 1.
    temperature : float
        Positive, in reward units.
    model : RewardModel

    Source: `rlhfsim.inference.soft_best_of_n`.
    """

    n: int
    temperature: float
    model: RewardModel = field(default_factory=Tabular)

    def __post_init__(self) -> None:
        """Validate."""
        checks.whole_number("n", self.n, least=1)
        checks.positive_number("temperature", self.temperature)
        require_model(self.model)

    @property
    def name(self) -> str:
        """`soft best of n`."""
        return f"soft best of {self.n}"

    def _policy(self, problem: Problem, reward: FloatArray) -> FloatArray:
        return soft_best_of_n(problem.reference, reward, self.n, self.temperature)


@dataclass(frozen=True)
class InferenceTimePessimism(_AtInferenceTime):
    """Rejection sampling of the chi-squared optimum with `n` draws per prompt.

    Parameters
    ----------
    n : int
        At least 1.
    beta : float
        Positive, in reward units.
    model : RewardModel

    Source: arXiv 2503.21878; `rlhfsim.inference.inference_time_pessimism`.
    """

    n: int
    beta: float
    model: RewardModel = field(default_factory=Tabular)

    def __post_init__(self) -> None:
        """Validate."""
        checks.whole_number("n", self.n, least=1)
        checks.positive_number("beta", self.beta)
        require_model(self.model)

    @property
    def name(self) -> str:
        """`inference-time pessimism`."""
        return f"inference-time pessimism, {self.n} draws"

    def _policy(self, problem: Problem, reward: FloatArray) -> FloatArray:
        return inference_time_pessimism(problem.reference, reward, self.n, float(self.beta))
