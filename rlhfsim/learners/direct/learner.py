"""What all direct learners do: check, minimise over a class of policies, report."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import number_of_rows
from rlhfsim.learners.base import Learned, LearnerError, as_problem
from rlhfsim.learners.direct.scores import scores_of_policy
from rlhfsim.learners.direct.tabular import TabularPolicies
from rlhfsim.learners.direct.task import Minimum, PolicyClass, Task
from rlhfsim.learners.explicit import fit_once, require_model, spent
from rlhfsim.losses import KTO, DirectLoss
from rlhfsim.rewards import RewardModel


class DirectLearner(ABC):
    """Minimises a direct loss over a class of policies.

    What is learned: `reward` is the implicit reward `beta v phi(w)`, with mean 0 over the compared
    responses of each prompt, or None where it is infinite (and for KTO); `objective` the mean loss
    in nats (the loss's own unit where it is no likelihood), without what a ridge adds; `residual`
    how far the policy is from stationary, in the free parameters that the class names, per
    comparison.  `diagnostics` has `global` (whether no policy of the class has a smaller loss),
    `compared`, per prompt `kl` and `chi_squared` of the policy (`inf` where it leaves the
    reference), and what the class adds, such as `unique`.
    """

    policies: PolicyClass

    @abstractmethod
    def _loss(self) -> DirectLoss | KTO:
        """Return the loss that is minimised."""

    @property
    def name(self) -> str:
        """The loss, and the class of policies unless it is that of all."""
        label = self.policies.label
        return f"{self._title}, {label}" if label else self._title

    @property
    def _title(self) -> str:
        return self._loss().name

    def _check(self) -> None:
        """Raise unless the settings make sense."""
        if isinstance(self.policies, type) or not isinstance(self.policies, PolicyClass):
            raise ValueError(
                f"policies is {self.policies!r:.80}; it must be a class of policies, for example "
                "TabularPolicies()"
            )
        # Its constructor validates.
        self._loss()

    def _weights(self) -> FloatArray | None:
        return None

    def _reward(
        self, data: PreferenceData | PairCounts, rng: np.random.Generator | None
    ) -> FloatArray | None:
        return None

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the policy; see the class.

        Parameters
        ----------
        data : PreferenceData or PairCounts
        reference : (X, Y) array of distributions
            Positive on compared responses.
        prompt_dist : (X,) array, optional
            Checked, not used.
        rng : numpy.random.Generator, optional
            For ties of a finite class and starts of a descent.

        Raises
        ------
        ValueError
            For bad arguments, a reference without mass on a compared response, data without rows,
            and what the policy class refuses.
        MLEDoesNotExistError
            Where no policy attains the infimum of the loss.
        LearnerError
            Where the certificate is bad.
        """
        problem = as_problem(data, reference, prompt_dist)
        rng = checks.optional_generator("rng", rng)
        rows = number_of_rows(problem.data)
        if rows <= 0:
            raise ValueError(f"data hold {rows!r} comparisons; there must be some")
        weights = self._weights()
        if weights is not None:
            checks.as_matrix("weights", weights, problem.shape)
        reward = self._reward(problem.data, rng)
        task = Task(self._loss(), problem.data, problem.reference, weights, reward)
        require_support(task.compared, task.reference)
        minimum = self.policies.minimize(task, rng)
        learned = _learned(task, minimum)
        if minimum.failure:
            raise LearnerError(f"{self.name}: {minimum.failure}", learned)
        return learned


class NamedLearner(DirectLearner):
    """A learner whose loss follows from its settings."""

    @property
    @abstractmethod
    def loss(self) -> DirectLoss | KTO:
        """The loss that is minimised."""

    def _loss(self) -> DirectLoss | KTO:
        return self.loss


def _learned(task: Task, minimum: Minimum) -> Learned:
    scores = minimum.scores
    if scores is None:
        with np.errstate(divide="ignore"):
            scores = scores_of_policy(task, np.log(minimum.policy))
    notes = {"global": minimum.proven, "compared": task.compared}
    return Learned(
        policy=minimum.policy,
        reward=scores,
        beta=task.loss.beta,
        residual=minimum.residual,
        objective=minimum.objective,
        diagnostics=notes | spent(minimum.policy, task.reference) | minimum.notes,
    )


def require_support(compared: BoolArray, reference: FloatArray) -> None:
    """Raise unless the (X, Y) reference is positive on compared responses."""
    missing = compared & (reference == 0)
    if missing.any():
        x, y = (int(i[0]) for i in np.nonzero(missing))
        raise ValueError(f"reference[{x}, {y}] is 0; it must be positive on compared responses")


def as_weights(value: ArrayLike | None) -> FloatArray | None:
    """Return a frozen copy of an (X, Y) array of positive weights, or None."""
    if value is None:
        return None
    return checks.frozen(checks.as_positive("weights", checks.as_matrix("weights", value)))


def as_reward(value: RewardModel | ArrayLike) -> RewardModel | FloatArray:
    """Return a reward model, or a frozen copy of an (X, Y) array of rewards."""
    if isinstance(value, (type, RewardModel)):
        require_model(value)
        return value
    return checks.frozen(checks.as_matrix("reward", value))


def reward_of(
    value: RewardModel | FloatArray,
    data: PreferenceData | PairCounts,
    rng: np.random.Generator | None,
) -> FloatArray:
    """Return the (X, Y) reward: the array, or the model's fit to the data."""
    if isinstance(value, np.ndarray):
        return checks.as_matrix("reward", value, (data.n_prompts, data.n_responses))
    return fit_once(data, value, rng).reward


def all_policies() -> PolicyClass:
    """Return `TabularPolicies()`, the default."""
    return TabularPolicies()
