"""What instances of a study are: a family with its settings, and the scene built from it."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.games import advantage
from rlhfsim.preferences import BradleyTerry, LabelNoise, PreferenceModel, RaterMixture
from rlhfsim.studies.spec import Count, Label, Positive, Spec, key_of


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

    @cached_property
    def game(self) -> FloatArray:
        """The (X, Y, Y) advantages of the law of labels."""
        return advantage(self.labels)

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


class Family(Spec):
    """What all families have: a label, and how many environments to draw."""

    label: Label = ""
    environments: Count = 1

    #: Whether the instance depends on the number of preferences.
    varies_with_n: ClassVar[bool] = False

    @property
    def key(self) -> str:
        """What identifies the instance in saved results: its settings but for the label."""
        return key_of(self.content(leave_out=("label", "environments")))

    @property
    def scene_key(self) -> str:
        """What its environments are drawn by."""
        return self.key

    def scene(self, rng: np.random.Generator, n: int) -> Scene:
        """Return one environment of the family."""
        built = self._build(rng, n)
        seed = tuple(int(word) for word in rng.integers(2**32, size=4))
        return replace(built, labels=self._law_of_labels(built), seed=seed)

    @abstractmethod
    def _build(self, rng: np.random.Generator, n: int) -> Scene: ...

    def _law_of_labels(self, built: Scene) -> PreferenceModel:
        return built.labels


class Labelled(Family):
    """A family whose labels are drawn by the true reward."""

    labels: Labels = Labels()

    @property
    def scene_key(self) -> str:
        """What its environments are drawn by: the settings but for the law of the labels.

        Instances that differ in their labels alone then have the same environments, and can be
        compared in pairs.
        """
        return self.model_copy(update={"labels": Labels()}).key

    def _law_of_labels(self, built: Scene) -> PreferenceModel:
        return self.labels.model(built.bandit)

    def _plain(self, bandit: ContextualBandit, **extras: Any) -> Scene:
        return Scene(bandit, BradleyTerry(bandit.reward), **extras)


class Sized(Labelled):
    """A family with a number of prompts and of responses, at least 2."""

    prompts: Count = 1
    responses: Annotated[int, Field(strict=True, ge=2)]
