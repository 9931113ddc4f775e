"""Families of bandits that are drawn or written out."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from rlhfsim import instances
from rlhfsim.bandit import ContextualBandit
from rlhfsim.studies.instances.base import Labelled, Scene, Sized
from rlhfsim.studies.spec import Count, NonNegative, Positive, Real

_REWARD_LAWS = {
    "uniform": instances.uniform_reward,
    "gaussian": instances.gaussian_reward,
    "sparse": instances.sparse_reward,
    "heavy-tailed": instances.heavy_tailed_reward,
}


class _WithRewardLaw(Sized):
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


class LogLinear(Sized):
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


class Aligned(Sized):
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


class RareBest(Sized):
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


class Decoys(Sized):
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


class PropositionA1(Labelled):
    """The instance of Proposition A.1 of arXiv 2407.13399, for the cell's n or a given `size`."""

    family: Literal["proposition-a1"] = "proposition-a1"
    size: Annotated[int, Field(strict=True, ge=3)] | None = None
    varies_with_n: ClassVar[bool] = True

    def _build(self, rng: np.random.Generator, n: int) -> Scene:
        built = instances.proposition_a1(n if self.size is None else self.size)
        return self._plain(built.bandit, comparator=built.comparator, rewards=built.reward_class)


class Explicit(Labelled):
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
