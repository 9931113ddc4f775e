"""Methods that fit a reward or a class of rewards first, and any learner of the list."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from rlhfsim.divergences import parse_divergence
from rlhfsim.learners import (
    LEARNERS,
    RLHF,
    Learner,
    PessimisticLikelihood,
    PessimisticMLE,
    setting_for,
)
from rlhfsim.learners.pessimism import Asymptotic, FixedRadius
from rlhfsim.rewards import FiniteClass
from rlhfsim.studies.instances import Scene
from rlhfsim.studies.methods.base import Method
from rlhfsim.studies.rewards import FiniteReward, LinearReward, Reward, TabularReward, needs_data
from rlhfsim.studies.spec import DivergenceText, Positive


class RLHFMethod(Method):
    """A reward fit and the exact optimum of `E[r] - beta D`."""

    method: Literal["RLHF"] = "RLHF"
    divergence: DivergenceText = "kl"
    reward: Reward = TabularReward()

    @property
    def uses_data(self) -> bool:
        """Whether the reward is learned."""
        return needs_data(self.reward)

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `RLHF`."""
        return RLHF(value, parse_divergence(self.divergence), scene.built(self.reward))


class PessimisticMLEMethod(Method):
    """Linear pessimism: worst case over the ellipsoid (I), or a pointwise bonus (II)."""

    method: Literal["pessimistic-MLE"] = "pessimistic-MLE"
    reward: LinearReward
    divergence: DivergenceText = "kl"
    delta: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.1
    #: A fixed radius of the ellipsoid in place of the asymptotic one of level 1 - delta.
    radius: Positive | None = None
    pointwise: bool = False

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `PessimisticMLE`."""
        region = Asymptotic(self.delta) if self.radius is None else FixedRadius(self.radius)
        model = scene.built(self.reward)
        return PessimisticMLE(
            value, model, region, parse_divergence(self.divergence), self.pointwise
        )


class PessimisticLikelihoodMethod(Method):
    """Worst case over the likelihood-ratio set of a finite class."""

    method: Literal["pessimistic-likelihood"] = "pessimistic-likelihood"
    reward: FiniteReward = FiniteReward()
    divergence: DivergenceText = "kl"
    delta: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.1

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `PessimisticLikelihood`."""
        model = scene.built(self.reward)
        assert isinstance(model, FiniteClass)
        divergence = parse_divergence(self.divergence)
        return PessimisticLikelihood(value, model, delta=self.delta, divergence=divergence)


class ListedMethod(Method):
    """Any learner of the list `rlhfsim.learners.LEARNERS`, by its key, with the settings it has."""

    method: Literal["listed"] = "listed"
    learner_key: Annotated[str, Field(strict=True)]
    ridge: Positive = 0.1

    @property
    def draws_numbers(self) -> bool:
        """Some of them do."""
        return True

    @field_validator("learner_key")
    @classmethod
    def _known(cls, key: str) -> str:
        keys = [representative.key for representative in LEARNERS]
        if key not in keys:
            raise ValueError(f"{key!r} must be one of {', '.join(keys)}")
        return key

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return the learner of that key."""
        (chosen,) = (r for r in LEARNERS if r.key == self.learner_key)
        rng = scene.generator("setting")
        return chosen.build(setting_for(scene.bandit, rng, beta=value, ridge=self.ridge))
