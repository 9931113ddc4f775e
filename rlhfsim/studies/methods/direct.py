"""Direct methods: a loss over pairs, minimised over a class of policies."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rlhfsim.divergences import parse_divergence
from rlhfsim.learners import (
    DPO,
    FDPO,
    IPO,
    KTO,
    POWER,
    REBEL,
    RPO,
    ChiPO,
    ChiPOPractical,
    Learner,
    SimPO,
    SLiC,
)
from rlhfsim.learners.direct.task import PolicyClass
from rlhfsim.studies.instances import Scene
from rlhfsim.studies.methods.base import Method
from rlhfsim.studies.methods.policies import AllPolicies, FiniteClassOfPolicies, Policies
from rlhfsim.studies.rewards import Bound, Reward, TabularReward, bound_of
from rlhfsim.studies.spec import Count, DivergenceText, NonNegative, Positive, Whole


class _Direct(Method):
    policies: Policies = AllPolicies()

    def _class(self, value: float, scene: Scene) -> PolicyClass:
        """Return the policies at one value of the parameter."""
        spec = self.policies
        if isinstance(spec, FiniteClassOfPolicies) and spec.beta is None:
            if self.parameter != "beta":
                raise ValueError("beta of the class is missing, and this method has none to take")
            spec = spec.model_copy(update={"beta": value})
        built: PolicyClass = scene.built(spec)
        return built


class DPOMethod(_Direct):
    """DPO, with or without label smoothing."""

    method: Literal["DPO"] = "DPO"
    label_smoothing: Annotated[float, Field(strict=True, ge=0, lt=0.5)] = 0.0

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `DPO`."""
        return DPO(value, self._class(value, scene), label_smoothing=self.label_smoothing)


class ChiPOMethod(_Direct):
    """chiPO with link `w + gamma log w`; differences clipped to `2 clip` in size if given."""

    method: Literal["chiPO"] = "chiPO"
    gamma: Positive = 1.0
    clip: Bound | None = None

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `ChiPO`."""
        clip = bound_of(self.clip, scene)
        return ChiPO(value, self.gamma, clip, self._class(value, scene))


class PracticalChiPOMethod(_Direct):
    """chiPO with the link of its experiments."""

    method: Literal["chiPO-practical"] = "chiPO-practical"
    alpha: Positive = 1.0
    gamma: Positive = 1.0

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `ChiPOPractical`."""
        return ChiPOPractical(value, self.alpha, self.gamma, self._class(value, scene))


class FDPOMethod(_Direct):
    """f-DPO."""

    method: Literal["f-DPO"] = "f-DPO"
    divergence: DivergenceText

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `FDPO`."""
        return FDPO(parse_divergence(self.divergence), value, self._class(value, scene))


class IPOMethod(_Direct):
    """IPO."""

    method: Literal["IPO"] = "IPO"

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `IPO`."""
        return IPO(value, self._class(value, scene))


class SLiCMethod(_Direct):
    """SLiC; its parameter is the margin."""

    method: Literal["SLiC"] = "SLiC"
    sft_weight: NonNegative | None = None
    grid: tuple[Positive, ...] = (1.0,)
    parameter: ClassVar[str] = "margin"

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `SLiC`."""
        return SLiC(value, self.sft_weight, self._class(value, scene))


class RPOMethod(_Direct):
    """DPO with an SFT term of weight `eta`."""

    method: Literal["RPO"] = "RPO"
    eta: Positive

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `RPO`."""
        return RPO(value, self.eta, self._class(value, scene))


class REBELMethod(_Direct):
    """REBEL at step size `1 / beta` from the reference, on a fitted reward."""

    method: Literal["REBEL"] = "REBEL"
    reward: Reward = TabularReward()

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `REBEL`."""
        return REBEL(1.0 / value, scene.built(self.reward), self._class(value, scene))


class POWERMethod(_Direct):
    """POWER with an SFT term of weight `eta`."""

    method: Literal["POWER"] = "POWER"
    eta: NonNegative = 0.1

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `POWER`."""
        return POWER(value, eta=self.eta, policies=self._class(value, scene))


class KTOMethod(_Direct):
    """KTO."""

    method: Literal["KTO"] = "KTO"

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `KTO`."""
        return KTO(value, policies=self._class(value, scene))


class SimPOMethod(_Direct):
    """SimPO-like: no reference in the loss."""

    method: Literal["SimPO"] = "SimPO"

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return `SimPO`."""
        return SimPO(value, policies=self._class(value, scene))


class TrainedMethod(Method):
    """Gradient descent on a direct loss; its parameter is the number of steps.

    `batch` rows are drawn for each step, all of them if None.  The policies are tabular softmax
    ones that start at the reference.
    """

    method: Literal["trained"] = "trained"
    loss: Literal["DPO", "chiPO", "IPO", "RPO"]
    beta: Positive
    gamma: Positive = 1.0
    eta: Positive | None = None
    learning_rate: Positive
    batch: Count | None = None
    grid: tuple[Whole, ...]
    parameter: ClassVar[str] = "step"

    @property
    def draws_numbers(self) -> bool:
        """For mini-batches."""
        return self.batch is not None

    @model_validator(mode="after")
    def _eta(self) -> TrainedMethod:
        if (self.eta is not None) != (self.loss == "RPO"):
            raise ValueError("eta must be given for RPO, and only there")
        if list(self.grid) != sorted(self.grid):
            raise ValueError("grid must increase: it counts steps")
        return self

    def learner(self, value: float, scene: Scene) -> Learner:
        """Return the learner that takes so many steps."""
        from rlhfsim.studies.training import Trained

        return Trained(self, int(value))
