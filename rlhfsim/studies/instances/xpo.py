"""Instances on which the reference hardly ever plays the best response."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from rlhfsim.online.xpo import hidden_best
from rlhfsim.studies.instances.base import Labelled, Scene
from rlhfsim.studies.spec import Count, Positive


class HiddenBest(Labelled):
    """A common response and rare ones of the same reference `mass`; see `online.xpo.hidden_best`.

    Its finite class of rewards: all equal, no rare response good, each of them the good one.  A
    finite class of policies has their optima at its own beta.
    """

    family: Literal["hidden-best"] = "hidden-best"
    mass: Annotated[float, Field(strict=True, gt=0, lt=1)]
    rare: Count = 1
    gap: Positive = 1.0

    @model_validator(mode="after")
    def _leaves_some(self) -> HiddenBest:
        if self.rare * self.mass >= 1.0:
            raise ValueError(f"rare mass is {self.rare * self.mass:g}; it must be below 1")
        return self

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        # No policies are read here, so any beta does.
        made = hidden_best(1.0, self.mass, rare=self.rare, gap=self.gap)
        return self._plain(made.bandit, rewards=made.rewards)
