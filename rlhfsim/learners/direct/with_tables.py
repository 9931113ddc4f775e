"""Direct learners that read tables beside the policy: rewards, or weights of the responses."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import losses
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.frozen import Frozen
from rlhfsim.learners.direct.learner import (
    DirectLearner,
    NamedLearner,
    all_policies,
    as_reward,
    as_weights,
    reward_of,
)
from rlhfsim.learners.direct.task import PolicyClass
from rlhfsim.losses import DirectLoss
from rlhfsim.rewards import RewardModel, Tabular


@dataclass(frozen=True, eq=False)
class REBEL(Frozen, NamedLearner):
    """`([u+ - u-]/eta - [r(y+) - r(y-)])^2`, `u = log pi - log p`: one step of REBEL from p.

    Over all policies, the KL-regularized optimum of r at `beta = 1/eta`, on compared responses.

    Parameters
    ----------
    eta : float
        Step size; positive.
    reward : RewardModel or (X, Y) array
        A model is fitted to the data first; an array is copied in.
    policies : PolicyClass

    Source: arXiv 2404.16767.
    """

    eta: float
    reward: RewardModel | FloatArray = field(default_factory=Tabular)
    policies: PolicyClass = field(default_factory=all_policies)

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        object.__setattr__(self, "reward", as_reward(self.reward))
        self._check()

    @property
    def loss(self) -> DirectLoss:
        """`rebel(eta)`."""
        return losses.rebel(self.eta)

    def _reward(
        self, data: PreferenceData | PairCounts, rng: np.random.Generator | None
    ) -> FloatArray:
        return reward_of(self.reward, data, rng)


@dataclass(frozen=True, eq=False)
class SimPO(Frozen, NamedLearner):
    """`-log sigma(beta [v+ log pi(y+) - v- log pi(y-)] - margin)`, without a reference.

    The reference says only which responses there are.

    Parameters
    ----------
    beta : float
        Positive.
    margin : float
        The paper's gamma.
    weights : (X, Y) array, optional
        v, inverse lengths; positive, 1 by default.  Copied in and read-only.
    policies : PolicyClass

    Source: arXiv 2405.14734, eq. 6.
    """

    beta: float
    margin: float = 0.0
    weights: ArrayLike | None = None
    policies: PolicyClass = field(default_factory=all_policies)

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        object.__setattr__(self, "weights", as_weights(self.weights))
        self._check()

    @property
    def loss(self) -> DirectLoss:
        """`simpo(beta, margin)`."""
        return losses.simpo(self.beta, self.margin)

    def _weights(self) -> FloatArray | None:
        return as_weights(self.weights)


@dataclass(frozen=True, eq=False)
class POWER(Frozen, NamedLearner):
    """`-log sigma(h) - eta beta v+ log pi(y+)`, `h = beta [v (1 + log pi)]` of y+ less that of y-.

    The reference says only which responses there are.  Over all policies it has exactly one
    minimiser at each prompt with comparisons; responses that were never chosen get mass 0.  The
    labels are those of the data (POWER without dynamic labels).

    Parameters
    ----------
    beta : float
        Positive.
    eta : float
        Weight of the imitation; positive.
    weights : (X, Y) array, optional
        v, inverse lengths; positive, 1 by default.  Copied in and read-only.
    policies : PolicyClass

    Source: arXiv 2412.09544.
    """

    beta: float
    eta: float
    weights: ArrayLike | None = None
    policies: PolicyClass = field(default_factory=all_policies)

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        object.__setattr__(self, "weights", as_weights(self.weights))
        self._check()

    @property
    def loss(self) -> DirectLoss:
        """`power(beta, eta)`."""
        return losses.power(self.beta, self.eta)

    def _weights(self) -> FloatArray | None:
        return as_weights(self.weights)


@dataclass(frozen=True, eq=False)
class Direct(Frozen, DirectLearner):
    """Any direct loss over any class of policies.

    Parameters
    ----------
    loss : DirectLoss or KTO
    policies : PolicyClass
    weights : (X, Y) array, optional
        For a weighted loss; positive.  Copied in and read-only.
    reward : RewardModel or (X, Y) array, optional
        For a loss that needs rewards.
    """

    loss: DirectLoss | losses.KTO
    policies: PolicyClass = field(default_factory=all_policies)
    weights: ArrayLike | None = None
    reward: RewardModel | FloatArray | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        if not isinstance(self.loss, DirectLoss | losses.KTO):
            raise ValueError(f"loss is {self.loss!r:.80}; it must be a DirectLoss or KTO")
        object.__setattr__(self, "weights", as_weights(self.weights))
        if self.reward is not None:
            object.__setattr__(self, "reward", as_reward(self.reward))
        given = {"weights": self.weights is not None, "rewards": self.reward is not None}
        if isinstance(self.loss, DirectLoss):
            self.loss.require_columns(**given)
        elif any(given.values()):
            raise ValueError(f"{self.loss.name} reads no weights or rewards")
        self._check()

    def _loss(self) -> DirectLoss | losses.KTO:
        return self.loss

    def _weights(self) -> FloatArray | None:
        return as_weights(self.weights)

    def _reward(
        self, data: PreferenceData | PairCounts, rng: np.random.Generator | None
    ) -> FloatArray | None:
        return None if self.reward is None else reward_of(self.reward, data, rng)
