"""Instances of a study: a family with its settings, and the scene that is built from it."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from rlhfsim import instances
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.preferences import BradleyTerry, LabelNoise, PreferenceModel, RaterMixture
from rlhfsim.studies.spec import Count, Label, NonNegative, Positive, Real, Spec, key_of

_REWARD_LAWS = {
    "uniform": instances.uniform_reward,
    "gaussian": instances.gaussian_reward,
    "sparse": instances.sparse_reward,
    "heavy-tailed": instances.heavy_tailed_reward,
}


class Labels(Spec):
    """How preferences are labelled: Bradley-Terry, and departures from it.

    `temperature` divides the true reward; several `raters` (temperatures, equal weights) give one
    fresh rater for each label, a mixture that is no Bradley-Terry law; `noise` flips labels.
    """

    temperature: Positive = 1.0
    raters: tuple[Positive, ...] = ()
    noise: Annotated[float, Field(strict=True, ge=0, le=0.5)] = 0.0

    @model_validator(mode="after")
    def _one(self) -> Labels:
        if self.raters and self.temperature != 1.0:
            raise ValueError("temperature and raters cannot both be given")
        return self

    def model(self, bandit: ContextualBandit) -> PreferenceModel:
        """Return the preference model of a bandit."""
        if self.raters:
            raters = tuple(BradleyTerry(bandit.reward, t) for t in self.raters)
            law: PreferenceModel = RaterMixture(raters, np.full(len(raters), 1 / len(raters)))
        else:
            law = BradleyTerry(bandit.reward, self.temperature)
        return LabelNoise(law, self.noise) if self.noise else law


@dataclass(frozen=True, eq=False)
class Scene:
    """What a group of cells runs on: a bandit, the law of its labels, and extras of the family."""

    bandit: ContextualBandit
    #: The law of labels.
    labels: PreferenceModel
    #: (X, Y) the policy that regret is measured against; the best one if None.
    comparator: FloatArray | None = None
    #: (X, Y, d) features in which the true reward is linear, where the family has some.
    features: FloatArray | None = None
    #: (K, X, Y) the finite class of rewards that belongs to the family, if one does.
    rewards: FloatArray | None = None
    #: Words from which extras are drawn, such as the other rewards of a finite class.
    seed: tuple[int, ...] = (0,)
    _extras: dict[Any, Any] = field(default_factory=dict)

    @property
    def reward_range(self) -> float:
        """Largest difference of two true rewards at one prompt, in reward units."""
        return float(np.ptp(self.bandit.reward, axis=1).max())

    def require_features(self) -> FloatArray:
        """Return the features, or raise a ValueError where there are none."""
        if self.features is None:
            raise ValueError("this family of instances has no features; take 'log-linear'")
        return self.features

    def reward_class(self, size: int, spread: float) -> FloatArray:
        """Return the (K, X, Y) class of the family, or the truth with `size - 1` noisy copies."""
        if self.rewards is not None:
            return self.rewards
        key = "rewards", size, spread
        if key not in self._extras:
            rng = self.generator("rewards")
            noise = rng.standard_normal((size - 1, *self.bandit.shape))
            others = self.bandit.reward + spread * noise
            self._extras[key] = np.concatenate([self.bandit.reward[None], others])
        return np.asarray(self._extras[key])

    def built(self, spec: Any) -> Any:
        """Return `spec.build(self)`, one object for equal settings: equal fits are then shared."""
        if spec not in self._extras:
            self._extras[spec] = spec.build(self)
        return self._extras[spec]

    def generator(self, name: str) -> np.random.Generator:
        """Return the generator of one of the extras."""
        word = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
        return np.random.default_rng([*self.seed, word])


class _Family(Spec):
    """What all families have: a label, how many environments to draw, and the labels' law."""

    label: Label = ""
    environments: Count = 1
    labels: Labels = Labels()

    #: Whether the instance depends on the number of preferences.
    varies_with_n: ClassVar[bool] = False

    @property
    def key(self) -> str:
        """What identifies the instance in saved results: its settings but for the label."""
        return key_of(self.content(leave_out=("label", "environments")))

    @property
    def scene_key(self) -> str:
        """What its environments are drawn by: the settings but for the law of the labels.

        Instances that differ in their labels alone then have the same environments, and can be
        compared in pairs.
        """
        return self.model_copy(update={"labels": Labels()}).key

    def scene(self, rng: np.random.Generator, n: int) -> Scene:
        """Return one environment of the family."""
        built = self._build(rng, n)
        seed = tuple(int(word) for word in rng.integers(2**32, size=4))
        return replace(built, labels=self.labels.model(built.bandit), seed=seed)

    @abstractmethod
    def _build(self, rng: np.random.Generator, n: int) -> Scene: ...

    def _plain(self, bandit: ContextualBandit, **extras: Any) -> Scene:
        return Scene(bandit, BradleyTerry(bandit.reward), **extras)


class _Sized(_Family):
    prompts: Count = 1
    responses: Annotated[int, Field(strict=True, ge=2)]


class _WithRewardLaw(_Sized):
    #: Law of the true reward of one response, before it is multiplied by `reward_scale`.
    reward_law: Literal["uniform", "gaussian", "sparse", "heavy-tailed"] = "uniform"
    reward_scale: Positive = 1.0

    def _law(self) -> instances.RewardLaw:
        law = _REWARD_LAWS[self.reward_law]
        return lambda rng, shape: self.reward_scale * law(rng, shape)


class Random(_WithRewardLaw):
    """References from a Dirichlet law; `skew` 1 is uniform on the simplex, more is more peaked."""

    family: Literal["random"] = "random"
    skew: Positive = 1.0

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        size = self.prompts, self.responses
        return self._plain(
            instances.random_bandit(*size, rng, skew=self.skew, reward_law=self._law())
        )


class Zipf(_WithRewardLaw):
    """References with Zipf tails, ranks independent of rewards."""

    family: Literal["zipf"] = "zipf"
    exponent: NonNegative = 1.0

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        size = self.prompts, self.responses
        return self._plain(
            instances.zipf_bandit(*size, rng, exponent=self.exponent, reward_law=self._law())
        )


class LogLinear(_Sized):
    """Linear rewards and a log-linear reference, with features in the unit ball of R^d."""

    family: Literal["log-linear"] = "log-linear"
    dimension: Count
    norm: Positive = 1.0
    reference_norm: NonNegative = 1.0

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        built = instances.log_linear_bandit(
            self.prompts, self.responses, self.dimension, rng,
            norm=self.norm, reference_norm=self.reference_norm,
        )  # fmt: skip
        return self._plain(built.bandit, features=built.features)


class Aligned(_Sized):
    """Zipf references that are good on average: rewards fall with the rank, up to noise.

    The response of rank k = 0, 1, ..., K - 1 has the reward `reward_scale (trend (1 - k/(K - 1)) +
    (1 - trend) U)`, U uniform on [0, 1].
    """

    family: Literal["aligned"] = "aligned"
    exponent: NonNegative = 1.0
    trend: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.5
    reward_scale: Positive = 1.0

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        rank = np.arange(self.responses)
        weight = (rank + 1.0) ** -self.exponent
        reference = np.tile(weight / weight.sum(), (self.prompts, 1))
        falling = self.trend * (1.0 - rank / (self.responses - 1))
        reward = falling + (1.0 - self.trend) * rng.random((self.prompts, self.responses))
        rho = np.full(self.prompts, 1.0 / self.prompts)
        return self._plain(ContextualBandit(rho, reference, self.reward_scale * reward))


class RareBest(_Sized):
    """The best response has reference probability `1 / coverage`, so that `C^{pi*} = coverage`.

    Its reward is `reward_scale`; the others share the rest of the mass equally and have uniform
    rewards in `[0, (1 - gap) reward_scale]`.
    """

    family: Literal["rare-best"] = "rare-best"
    coverage: Annotated[float, Field(strict=True, gt=1, allow_inf_nan=False)]
    gap: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.2
    reward_scale: Positive = 1.0

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        shape = self.prompts, self.responses
        share = 1.0 / self.coverage
        reference = np.full(shape, (1.0 - share) / (self.responses - 1))
        reference[:, 0] = share
        reward = (1.0 - self.gap) * rng.random(shape)
        reward[:, 0] = 1.0
        rho = np.full(self.prompts, 1.0 / self.prompts)
        return self._plain(ContextualBandit(rho, reference, self.reward_scale * reward))


class Decoys(_Sized):
    """Coverage of the best response and of all policies, each set alone.

    The best response has reference probability `1 / coverage` and reward `reward_scale`; each of
    the last `decoys` responses has `1 / decoy_coverage` and reward 0; the others share the rest of
    the mass and have uniform rewards in `[0, (1 - gap) reward_scale]`.  To it belongs a finite
    class: the truth, and `class_size - 1` rewards that differ from it in one response, drawn
    uniformly, whose reward is uniform in `[0, 2 reward_scale]`.
    """

    family: Literal["decoys"] = "decoys"
    coverage: Annotated[float, Field(strict=True, gt=1, allow_inf_nan=False)]
    decoy_coverage: Annotated[float, Field(strict=True, gt=1, allow_inf_nan=False)]
    decoys: Count = 1
    gap: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.2
    reward_scale: Positive = 1.0
    class_size: Count = 32

    @model_validator(mode="after")
    def _leaves_some(self) -> Decoys:
        if self.decoys > self.responses - 2:
            raise ValueError(f"decoys must be at most responses - 2, which is {self.responses - 2}")
        if 1.0 / self.coverage + self.decoys / self.decoy_coverage >= 1.0:
            raise ValueError("1/coverage + decoys/decoy_coverage must be below 1")
        return self

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        shape = self.prompts, self.responses
        rare = np.arange(self.responses) >= self.responses - self.decoys
        share = 1.0 / self.coverage, 1.0 / self.decoy_coverage
        rest = 1.0 - share[0] - self.decoys * share[1]
        row = np.where(rare, share[1], rest / (self.responses - 1 - self.decoys))
        row[0] = share[0]
        reward = np.where(rare, 0.0, (1.0 - self.gap) * rng.random(shape))
        reward[:, 0] = 1.0
        reward *= self.reward_scale
        rewards = np.repeat(reward[None], self.class_size, axis=0)
        others = np.arange(1, self.class_size)[:, None]
        changed = rng.integers(self.responses, size=(self.class_size - 1, self.prompts))
        drawn = 2.0 * self.reward_scale * rng.random(changed.shape)
        rewards[others, np.arange(self.prompts), changed] = drawn
        rho = np.full(self.prompts, 1.0 / self.prompts)
        bandit = ContextualBandit(rho, np.broadcast_to(row, shape), reward)
        return self._plain(bandit, rewards=rewards)


class PropositionA1(_Family):
    """The instance of Proposition A.1 of arXiv 2407.13399, for the cell's n or a given `size`."""

    family: Literal["proposition-a1"] = "proposition-a1"
    size: Annotated[int, Field(strict=True, ge=3)] | None = None
    varies_with_n: ClassVar[bool] = True

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        built = instances.proposition_a1(n if self.size is None else self.size)
        return self._plain(built.bandit, comparator=built.comparator, rewards=built.reward_class)


class Explicit(_Family):
    """A bandit written out: rows are prompts; `proxy` is optional, prompts are equally likely."""

    family: Literal["explicit"] = "explicit"
    reward: tuple[tuple[Real, ...], ...]
    reference: tuple[tuple[NonNegative, ...], ...]
    proxy: tuple[tuple[Real, ...], ...] | None = None

    @model_validator(mode="after")
    def _valid(self) -> Explicit:
        self._bandit()
        return self

    def _bandit(self) -> ContextualBandit:
        rho = np.full(len(self.reward), 1.0 / max(len(self.reward), 1))
        return ContextualBandit(rho, self.reference, self.reward, self.proxy)  # type: ignore[arg-type]

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        return self._plain(self._bandit())


class Table(_Family):
    """A table of scored responses, CSV or Parquet; relative to the study file that names it.

    `columns` names columns as `ContextualBandit.from_table` takes them; `clip` bounds a judge's
    probabilities away from 0 and 1; `prompts` keeps the first so many.
    """

    family: Literal["table"] = "table"
    path: Annotated[str, Field(strict=True, min_length=1)]
    columns: dict[str, str] = Field(default_factory=dict)
    prompts: Count | None = None
    clip: Annotated[float, Field(strict=True, gt=0, lt=0.5)] = 1e-6
    #: SHA-256 of the file; filled in when the study is made, so that results know their table.
    sha256: str = ""

    @model_validator(mode="after")
    def _digest(self) -> Table:
        file = Path(self.path)
        if not file.is_file():
            raise ValueError(f"path is {self.path!r}; there is no such file")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if self.sha256 not in {"", digest}:
            raise ValueError(f"{self.path} has changed: its SHA-256 is {digest}")
        object.__setattr__(self, "sha256", digest)
        if self.environments != 1:
            raise ValueError("environments must be 1 for a table: there is only one")
        return self

    @property
    def key(self) -> str:
        """As of every family; the content of the file counts, not its place."""
        return key_of(self.content(leave_out=("label", "environments", "path")))

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        bandit = ContextualBandit.from_table(self.path, clip=self.clip, **self.columns)
        if self.prompts is not None:
            bandit = _first_prompts(bandit, self.prompts)
        return self._plain(bandit)


def _first_prompts(bandit: ContextualBandit, count: int) -> ContextualBandit:
    kept = slice(0, count)
    rho = bandit.prompt_dist[kept]
    return ContextualBandit(
        rho / rho.sum(),
        bandit.reference[kept],
        bandit.reward[kept],
        None if bandit.proxy_reward is None else bandit.proxy_reward[kept],
        None if bandit.available is None else bandit.available[kept],
        None if bandit.prompts is None else bandit.prompts[kept],
        bandit.responses,
    )


#: The families by name; a study file says `family = "zipf"`.
Instance = Annotated[
    Random | Zipf | LogLinear | Aligned | RareBest | Decoys | PropositionA1 | Explicit | Table,
    Field(discriminator="family"),
]
