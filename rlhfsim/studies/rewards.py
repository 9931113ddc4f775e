"""Where the reward of a method comes from, as settings of a study."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from rlhfsim.rewards import FiniteClass, Known, Linear, RewardModel, Tabular
from rlhfsim.studies.instances import Scene
from rlhfsim.studies.spec import Count, NonNegative, Positive, Spec

#: A bound on rewards: a number, or "range" for the range of the true reward of the instance.
Bound = Positive | Literal["range"]


def bound_of(bound: Bound | None, scene: Scene) -> float | None:
    """Return the bound in reward units."""
    return scene.reward_range if bound == "range" else bound


class TabularReward(Spec):
    """Maximum likelihood over all tables, in the box `[0, r_max]` or with a ridge."""

    model: Literal["tabular"] = "tabular"
    r_max: Bound | None = None
    ridge: Positive | None = None

    @model_validator(mode="after")
    def _one(self) -> TabularReward:
        if self.r_max is not None and self.ridge is not None:
            raise ValueError("r_max and ridge cannot both be given")
        return self

    def build(self, scene: Scene) -> RewardModel:
        """Return the reward model."""
        return Tabular(r_max=bound_of(self.r_max, scene), ridge=self.ridge)


class LinearReward(Spec):
    """Maximum likelihood over `<theta, phi(x, y)>`, `||theta|| <= norm_bound`.

    `features` keeps the first so many features of the instance: fewer than it has is a
    misspecified class.
    """

    model: Literal["linear"] = "linear"
    norm_bound: Positive
    features: Count | None = None

    def build(self, scene: Scene) -> RewardModel:
        """Return the reward model."""
        features = scene.require_features()
        if self.features is not None and self.features > features.shape[-1]:
            raise ValueError(
                f"features is {self.features}; the instance has {features.shape[-1]} features"
            )
        return Linear(features[..., : self.features], norm_bound=self.norm_bound)


class FiniteReward(Spec):
    """Maximum likelihood over the truth and `size - 1` others: the truth plus Gaussian noise."""

    model: Literal["finite"] = "finite"
    size: Count = 16
    spread: NonNegative = 1.0

    def build(self, scene: Scene) -> RewardModel:
        """Return the reward model."""
        return FiniteClass(scene.reward_class(self.size, self.spread))


class ProxyReward(Spec):
    """The proxy of the instance, such as a length; no data are used.

    `standardised` gives it mean 0 at each prompt and standard deviation 1 over all of them, under
    the reference: one grid of beta then suits proxies in any unit.
    """

    model: Literal["proxy"] = "proxy"
    standardised: Annotated[bool, Field(strict=True)] = False

    def build(self, scene: Scene) -> RewardModel:
        """Return the reward model."""
        bandit = scene.bandit
        if bandit.proxy_reward is None:
            raise ValueError("model is 'proxy', and the instance has no proxy reward")
        if not self.standardised:
            return Known(bandit.proxy_reward)
        p = bandit.reference
        centred = bandit.proxy_reward - (p * bandit.proxy_reward).sum(axis=1, keepdims=True)
        deviation = float(np.sqrt((p * centred**2).sum(axis=1) @ bandit.prompt_dist))
        if deviation == 0.0:
            raise ValueError("model is 'proxy', and the proxy is constant at every prompt")
        return Known(centred / deviation)


class TrueReward(Spec):
    """The true reward; no data are used."""

    model: Literal["truth"] = "truth"

    def build(self, scene: Scene) -> RewardModel:
        """Return the reward model."""
        return Known(scene.bandit.reward)


Reward = Annotated[
    TabularReward | LinearReward | FiniteReward | ProxyReward | TrueReward,
    Field(discriminator="model"),
]


def needs_data(reward: Spec) -> bool:
    """Return whether the reward is learned from preferences."""
    return not isinstance(reward, (ProxyReward, TrueReward))
