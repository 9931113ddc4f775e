"""Methods of a study that draw their own comparisons: XPO and iterated DPO, along the rounds."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from rlhfsim.learners import Learner
from rlhfsim.learners.direct.task import PolicyClass
from rlhfsim.learners.online.xpo import XPO, IteratedDPO
from rlhfsim.online.xpo import Alpha, ConstantAlpha, DecreasingAlpha
from rlhfsim.studies.instances import Scene
from rlhfsim.studies.methods.base import Method
from rlhfsim.studies.methods.policies import FiniteClassOfPolicies, Policies
from rlhfsim.studies.spec import Count, Positive


class _Rounds(Method):
    """The parameter is the number of rounds; along it, a longer run starts with the shorter one.

    With preferences (n > 0), those are logged comparisons that every round also learns from.
    """

    beta: Positive
    grid: tuple[Count, ...]
    batch: Count = 1
    policies: Policies = FiniteClassOfPolicies()
    #: For log-linear policies.
    ridge: Positive | None = None

    parameter: ClassVar[str] = "rounds"

    @property
    def uses_data(self) -> bool:
        """Whether logged preferences are needed: they are not."""
        return False

    @property
    def draws_numbers(self) -> bool:
        """The rounds are drawn."""
        return True

    def _class(self, scene: Scene) -> PolicyClass:
        spec = self.policies
        if isinstance(spec, FiniteClassOfPolicies) and spec.beta is None:
            spec = spec.model_copy(update={"beta": self.beta})
        built: PolicyClass = scene.built(spec)
        return built

    def _settings(self, value: float, scene: Scene) -> dict[str, Any]:
        return {
            "bandit": scene.bandit, "beta": self.beta, "policies": self._class(scene),
            "rounds": int(value), "batch": self.batch, "labels": scene.labels,
            "ridge": self.ridge,
        }  # fmt: skip


class XPOMethod(_Rounds):
    """XPO, with a weight of optimism that is constant or falls like `alpha / sqrt(t)`."""

    method: Literal["XPO"] = "XPO"
    alpha: Positive
    decreasing: Annotated[bool, Field(strict=True)] = False
    opponent: Literal["reference", "policy"] = "reference"

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `XPO`."""
        alpha: Alpha = ConstantAlpha(self.alpha)
        if self.decreasing:
            alpha = DecreasingAlpha(self.alpha)
        return XPO(alpha=alpha, opponent=self.opponent, **self._settings(value, scene))


class IteratedDPOMethod(_Rounds):
    """DPO in rounds, without optimism."""

    method: Literal["iterated-DPO"] = "iterated-DPO"
    opponent: Literal["reference", "policy"] = "policy"

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `IteratedDPO`."""
        return IteratedDPO(opponent=self.opponent, **self._settings(value, scene))
