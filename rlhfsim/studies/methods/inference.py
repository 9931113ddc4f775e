"""Methods at inference time, and those that are trained for one."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rlhfsim.learners import (
    CTRL,
    BestOfN,
    InfAlign,
    InferenceTimePessimism,
    Learner,
    SoftBestOfN,
)
from rlhfsim.learners.infalign import BestOf, ExponentialTransform, WorstOf
from rlhfsim.studies.instances import Scene
from rlhfsim.studies.methods.base import Method
from rlhfsim.studies.rewards import Reward, TabularReward, needs_data
from rlhfsim.studies.spec import Count, Positive


class _Draws(Method):
    """Methods whose parameter is the number of draws."""

    grid: tuple[Count, ...]
    reward: Reward = TabularReward()
    parameter: ClassVar[str] = "draws"

    @property
    def uses_data(self) -> bool:
        """Whether the reward is learned."""
        return needs_data(self.reward)


class BestOfNMethod(_Draws):
    """Best-of-N, exact with ties."""

    method: Literal["best-of-N"] = "best-of-N"

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `BestOfN`."""
        return BestOfN(int(value), scene.built(self.reward))


class SoftBestOfNMethod(_Draws):
    """Soft best-of-N."""

    method: Literal["soft-best-of-N"] = "soft-best-of-N"
    temperature: Positive

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `SoftBestOfN`."""
        return SoftBestOfN(int(value), self.temperature, scene.built(self.reward))


class InferenceTimePessimismMethod(_Draws):
    """Rejection sampling towards the chi-squared optimum (arXiv 2503.21878)."""

    method: Literal["inference-time-pessimism"] = "inference-time-pessimism"
    beta: Positive

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `InferenceTimePessimism`."""
        return InferenceTimePessimism(int(value), self.beta, scene.built(self.reward))


class InfAlignMethod(Method):
    """The optimum for the win rate after best-of-n or worst-of-n."""

    method: Literal["InfAlign"] = "InfAlign"
    procedure: Literal["best-of", "worst-of"] = "best-of"
    draws: Count = 4
    reward: Reward = TabularReward()

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `InfAlign`."""
        procedure = BestOf(self.draws) if self.procedure == "best-of" else WorstOf(self.draws)
        return InfAlign(procedure, value, scene.built(self.reward))


class CTRLMethod(Method):
    """KL-regularized optimum of an exponential of the calibrated reward."""

    method: Literal["CTRL"] = "CTRL"
    rate: Annotated[float, Field(strict=True, allow_inf_nan=False)] = 2.0
    reward: Reward = TabularReward()

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `CTRL`."""
        return CTRL(value, ExponentialTransform(self.rate), scene.built(self.reward))
