"""Targets of distribution matching, as objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL
from rlhfsim.frozen import Frozen
from rlhfsim.inference import calibrated_reward
from rlhfsim.learners.base import Learned
from rlhfsim.learners.bayesian import evidence_gap, posterior
from rlhfsim.learners.infalign.average import averaged
from rlhfsim.learners.matching.moments import match_moments
from rlhfsim.learners.matching.pointwise import pointwise_target


class Target(ABC):
    """What the policy is to be."""

    #: Whether the target depends on a reward.
    needs_reward: bool

    @abstractmethod
    def match(
        self, reward: FloatArray, reference: FloatArray, prompt_dist: FloatArray | None
    ) -> Learned:
        """Return the target.

        Parameters
        ----------
        reward, reference : (X, Y) arrays
            The reward is not looked at unless `needs_reward`.
        prompt_dist : (X,) array, or None if it was not given

        Returns
        -------
        Learned
            With the policy, the `residual` of the constraint, and as `objective` the
            `E_x KL(pi || p)` in nats, where it is determined.
        """


@dataclass(frozen=True, eq=False)
class Moments(Frozen, Target):
    """`E[phi] = mu`; see `match_moments`.

    Parameters
    ----------
    features : (X, Y, d) array
    moments : (d,) array

    Source: arXiv 2012.11635.
    """

    features: FloatArray
    moments: FloatArray
    needs_reward = False

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        for name in ("features", "moments"):
            array = checks.as_real(name, getattr(self, name))
            object.__setattr__(self, name, checks.frozen(array))

    def match(
        self, reward: FloatArray, reference: FloatArray, prompt_dist: FloatArray | None
    ) -> Learned:
        """Return the closest policy with the moments; the residual is their violation."""
        return match_moments(reference, self.features, self.moments, prompt_dist)


@dataclass(frozen=True)
class WinRate(Target):
    """A win rate against the reference: the moment constraint on the calibrated reward.

    Parameters
    ----------
    rate : float
        Between 0 and 1; 1/2 is the reference.

    Source: arXiv 2012.11635 (moments); 2412.19792 (calibrated reward).
    """

    rate: float
    needs_reward = True

    def __post_init__(self) -> None:
        """Validate."""
        if not 0 < checks.positive_number("rate", self.rate) < 1:
            raise ValueError(f"rate is {self.rate}; it must be between 0 and 1")

    def match(
        self, reward: FloatArray, reference: FloatArray, prompt_dist: FloatArray | None
    ) -> Learned:
        """Return the closest policy with the win rate; the residual is its violation."""
        quantile = calibrated_reward(reward, reference)
        return match_moments(reference, quantile[..., None], [self.rate], prompt_dist)


@dataclass(frozen=True, eq=False)
class Pointwise(Frozen, Target):
    """`p b / Z`; see `pointwise_target`.

    Parameters
    ----------
    weight : (X, Y) array
        `b`, at least 0.

    Source: arXiv 2012.11635.
    """

    weight: FloatArray
    needs_reward = False

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        weight = checks.as_non_negative("weight", checks.as_matrix("weight", self.weight))
        object.__setattr__(self, "weight", checks.frozen(weight))

    def match(
        self, reward: FloatArray, reference: FloatArray, prompt_dist: FloatArray | None
    ) -> Learned:
        """Return the target; the residual is its largest mass where `b = 0`."""
        return _conditioned(reference, self.weight, prompt_dist)


@dataclass(frozen=True)
class AtLeastQuantile(Target):
    """The reference's responses whose calibrated reward is at least `quantile`, and no others.

    Parameters
    ----------
    quantile : float
        In `[0, 1)`.

    Source: arXiv 2012.11635 (pointwise constraint); 2412.19792 (calibrated reward).
    """

    quantile: float
    needs_reward = True

    def __post_init__(self) -> None:
        """Validate."""
        if checks.positive_number("quantile", self.quantile, zero=True) >= 1:
            raise ValueError(f"quantile is {self.quantile}; it must be below 1")

    def match(
        self, reward: FloatArray, reference: FloatArray, prompt_dist: FloatArray | None
    ) -> Learned:
        """Return the target; the residual is its largest mass below the quantile."""
        quantile = np.where(reference > 0, calibrated_reward(reward, reference), -1.0)
        best = quantile.max(axis=1)
        if (best < self.quantile).any():
            prompt = int((best < self.quantile).argmax())
            raise ValueError(
                f"quantile is {self.quantile}; it must be at most that of a response, and the "
                f"best of prompt {prompt} has {best[prompt]:.6g}"
            )
        return _conditioned(reference, (quantile >= self.quantile).astype(float), prompt_dist)


@dataclass(frozen=True)
class ExponentialReward(Target):
    """`p e^(r/beta) / Z`, which RLHF with a KL penalty matches.

    Parameters
    ----------
    beta : float
        Positive, in reward units.

    Source: arXiv 2206.00761 (KL control as distribution matching).
    """

    beta: float
    needs_reward = True

    def __post_init__(self) -> None:
        """Validate."""
        checks.positive_number("beta", self.beta)

    def match(
        self, reward: FloatArray, reference: FloatArray, prompt_dist: FloatArray | None
    ) -> Learned:
        """Return the target; the residual is its largest `evidence_gap`, in reward units."""
        policy = posterior(reward, reference, self.beta)
        return Learned(
            policy=policy,
            beta=float(self.beta),
            residual=float(evidence_gap(policy, reward, reference, self.beta).max()),
            objective=_spent(policy, reference, prompt_dist),
        )


def _conditioned(
    reference: FloatArray, weight: FloatArray, prompt_dist: ArrayLike | None
) -> Learned:
    policy = pointwise_target(reference, weight)
    return Learned(
        policy=policy,
        residual=float(np.where(weight == 0, policy, 0.0).sum(axis=1).max()),
        objective=_spent(policy, reference, prompt_dist),
    )


def _spent(
    policy: FloatArray, reference: FloatArray, prompt_dist: ArrayLike | None
) -> float | None:
    return averaged(KL()(policy[:, None], reference[:, None]), prompt_dist)
