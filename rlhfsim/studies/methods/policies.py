"""Classes of policies that a direct method of a study minimises over."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlhfsim.divergences import parse_divergence
from rlhfsim.learners import FinitePolicies, LogLinearPolicies, TabularPolicies
from rlhfsim.learners.direct.task import PolicyClass
from rlhfsim.solvers import solve
from rlhfsim.studies.instances import Scene
from rlhfsim.studies.rewards import Bound, bound_of
from rlhfsim.studies.spec import Count, DivergenceText, NonNegative, Positive, Spec


class AllPolicies(Spec):
    """All tabular policies, with a box or a ridge on the implicit rewards."""

    kind: Literal["tabular"] = "tabular"
    r_max: Bound | None = None
    ridge: Positive | None = None

    def build(self, scene: Scene) -> PolicyClass:
        """Return the policy class."""
        return TabularPolicies(r_max=bound_of(self.r_max, scene), ridge=self.ridge)


class LogLinearClass(Spec):
    """Policies `p exp(<theta, phi>) / Z` over (the first) features of the instance."""

    kind: Literal["log-linear"] = "log-linear"
    features: Count | None = None

    def build(self, scene: Scene) -> PolicyClass:
        """Return the policy class."""
        return LogLinearPolicies(scene.require_features()[..., : self.features])


class FiniteClassOfPolicies(Spec):
    """The regularized optima of a finite class of rewards, at the strength `beta` of the class.

    Without one it is the beta of the learner, which then is realizable at every beta.
    """

    kind: Literal["finite"] = "finite"
    size: Count = 16
    spread: NonNegative = 1.0
    divergence: DivergenceText = "kl"
    beta: Positive | None = None

    def build(self, scene: Scene) -> PolicyClass:
        """Return the policy class."""
        if self.beta is None:
            raise ValueError("beta of the class is missing, and this method has none to take")
        rewards = scene.reward_class(self.size, self.spread)
        divergence = parse_divergence(self.divergence)
        return FinitePolicies(solve(rewards, scene.bandit.reference, divergence, self.beta).policy)


Policies = Annotated[
    AllPolicies | LogLinearClass | FiniteClassOfPolicies, Field(discriminator="kind")
]
