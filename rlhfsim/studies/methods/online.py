"""Methods of a study that draw their own comparisons, with linear rewards: along the rounds."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rlhfsim.learners import Learner
from rlhfsim.learners.online.linear import OnlineRLHF
from rlhfsim.online import (
    BootstrapEnsemble,
    Enhancer,
    Exploration,
    FromReference,
    LaplaceEnsemble,
    OnPolicy,
    TheoryRadius,
    Uniform,
)
from rlhfsim.studies.instances import Scene
from rlhfsim.studies.methods.base import Method
from rlhfsim.studies.spec import Count, Positive


class OnlineRLHFMethod(Method):
    """Rounds of the main agent and an exploration; the parameter is their number.

    With preferences (n > 0), those are there before the first round (hybrid).  Along the grid a
    longer run starts with the shorter one.  `radius` is the enhancer's, or with `delta` that of the
    theory for parameters up to `norm_bound`; `members` is the size of an ensemble.
    """

    method: Literal["online-RLHF"] = "online-RLHF"
    exploration: Literal["enhancer", "reference", "uniform", "on-policy", "laplace", "bootstrap"]
    beta: Positive
    grid: tuple[Count, ...]
    batch: Count = 1
    ridge: Positive = 1.0
    moving: Annotated[bool, Field(strict=True)] = False
    radius: Positive = 5.0
    delta: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    norm_bound: Positive | None = None
    members: Count = 1

    parameter: ClassVar[str] = "rounds"

    @model_validator(mode="after")
    def _both(self) -> OnlineRLHFMethod:
        if (self.delta is None) != (self.norm_bound is None):
            raise ValueError("delta and norm_bound must be given together")
        return self

    @property
    def uses_data(self) -> bool:
        """Whether preferences are needed beforehand: they are not."""
        return False

    @property
    def draws_numbers(self) -> bool:
        """The rounds are drawn."""
        return True

    def _explores(self) -> Exploration:
        if self.exploration == "enhancer":
            if self.delta is None or self.norm_bound is None:
                return Enhancer(self.radius)
            return Enhancer(TheoryRadius(self.delta, self.norm_bound))
        if self.exploration == "laplace":
            return LaplaceEnsemble(self.members)
        if self.exploration == "bootstrap":
            return BootstrapEnsemble(self.members)
        if self.exploration == "reference":
            return FromReference()
        return Uniform() if self.exploration == "uniform" else OnPolicy()

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `OnlineRLHF`."""
        return OnlineRLHF(
            scene.bandit, scene.require_features(), self.beta, int(value), self.batch,
            self._explores(), self.ridge, self.moving, labels=scene.labels,
        )  # fmt: skip
