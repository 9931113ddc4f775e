"""Methods of a study: a learner with its settings but for one, the parameter that a grid varies."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from rlhfsim.divergences import parse_divergence
from rlhfsim.learners import (
    CTRL,
    DPO,
    FDPO,
    IPO,
    KTO,
    LEARNERS,
    POWER,
    REBEL,
    RLHF,
    RPO,
    BestOfN,
    ChiPO,
    ChiPOPractical,
    FinitePolicies,
    InfAlign,
    InferenceTimePessimism,
    Learner,
    LogLinearPolicies,
    PessimisticLikelihood,
    PessimisticMLE,
    SimPO,
    SLiC,
    SoftBestOfN,
    TabularPolicies,
    setting_for,
)
from rlhfsim.learners.direct.task import PolicyClass
from rlhfsim.learners.infalign import BestOf, ExponentialTransform, WorstOf
from rlhfsim.learners.pessimism import Asymptotic, FixedRadius
from rlhfsim.rewards import FiniteClass
from rlhfsim.solvers import solve
from rlhfsim.studies.instances import Scene
from rlhfsim.studies.rewards import (
    Bound,
    FiniteReward,
    LinearReward,
    Reward,
    TabularReward,
    bound_of,
    needs_data,
)
from rlhfsim.studies.spec import Count, Label, NonNegative, Positive, Spec, Whole, key_of

#: A divergence by text, such as "chi2 + 0.5 kl".
DivergenceText = Annotated[str, Field(strict=True)]


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


class Method(Spec):
    """A family of learners along one parameter, by default the strength `beta`."""

    label: Label = ""
    #: Values of the parameter; those of the study if it is "beta" and there are none here.
    grid: tuple[Positive, ...] = ()

    #: What the grid varies.
    parameter: ClassVar[str] = "beta"

    @property
    def key(self) -> str:
        """What identifies the method in saved results: its settings but for label and grid."""
        return key_of(self.content(leave_out=("label", "grid")))

    @property
    def uses_data(self) -> bool:
        """Whether preferences are needed."""
        return True

    @property
    def draws_numbers(self) -> bool:
        """Whether fitting draws random numbers: to break ties, to start a search, for batches."""
        reward, policies = getattr(self, "reward", None), getattr(self, "policies", None)
        return isinstance(reward, FiniteReward) or not isinstance(policies, AllPolicies | None)

    @abstractmethod
    def learner(self, value: float, scene: Scene) -> Learner:
        """Return the learner at one value of the parameter."""

    @field_validator("divergence", check_fields=False)
    @classmethod
    def _parses(cls, text: str) -> str:
        parse_divergence(text)
        return text

    @field_validator("grid")
    @classmethod
    def _increasing(cls, grid: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(grid)) != len(grid):
            raise ValueError("values of a grid must differ")
        return grid


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


#: The methods by name; a study file says `method = "DPO"`.
AnyMethod = Annotated[
    RLHFMethod
    | DPOMethod
    | ChiPOMethod
    | PracticalChiPOMethod
    | FDPOMethod
    | IPOMethod
    | SLiCMethod
    | RPOMethod
    | REBELMethod
    | POWERMethod
    | KTOMethod
    | SimPOMethod
    | PessimisticMLEMethod
    | PessimisticLikelihoodMethod
    | BestOfNMethod
    | SoftBestOfNMethod
    | InferenceTimePessimismMethod
    | InfAlignMethod
    | CTRLMethod
    | ListedMethod
    | TrainedMethod,
    Field(discriminator="method"),
]
