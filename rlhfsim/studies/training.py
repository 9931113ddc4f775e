"""Gradient descent for a given number of steps, as a learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import losses
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.dynamics import train
from rlhfsim.learners.base import Learned, as_problem
from rlhfsim.losses import DirectLoss

if TYPE_CHECKING:
    from rlhfsim.studies.methods import TrainedMethod


@dataclass(frozen=True)
class Trained:
    """The policy after `steps` gradient steps from the reference; see `dynamics.train`.

    What is learned: `residual` is the norm of the gradient of the mean loss, and `objective` that
    loss; both None before the first step.
    """

    settings: TrainedMethod
    steps: int

    @property
    def name(self) -> str:
        """The loss and the number of steps."""
        return f"{self.settings.loss} trained for {self.steps} steps"

    @property
    def loss(self) -> DirectLoss:
        """The loss that is trained on."""
        s = self.settings
        if s.loss == "DPO":
            return losses.dpo(s.beta)
        if s.loss == "IPO":
            return losses.ipo(s.beta)
        if s.loss == "chiPO":
            return losses.chipo(s.beta, None, s.gamma)
        assert s.eta is not None
        return losses.rpo(s.beta, s.eta)

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the policy; `rng` draws mini-batches."""
        problem = as_problem(data, reference, prompt_dist)
        if self.steps == 0:
            return Learned(policy=problem.reference, beta=self.settings.beta)
        path = train(
            self.loss,
            problem.data,
            problem.reference,
            steps=self.steps,
            learning_rate=self.settings.learning_rate,
            prompt_dist=problem.prompt_dist,
            batch=self.settings.batch,
            rng=rng,
            record_every=self.steps,
        )
        return Learned(
            policy=path.policy[0],
            beta=self.settings.beta,
            residual=float(path.gradient_norm[0, -1]),
            objective=float(path.loss[0, -1]),
        )
