"""What a class of policies is asked to minimise, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts, compared_in, number_of_rows
from rlhfsim.learners.sharing import once
from rlhfsim.losses import KTO, DirectLoss, log_policy_loss


@dataclass(frozen=True, eq=False)
class Task:
    """A loss and its data, checked."""

    loss: DirectLoss | KTO
    data: PreferenceData | PairCounts
    #: (X, Y) distributions, positive on compared responses unless the loss has no reference.
    reference: FloatArray
    #: (X, Y) positive weights of the responses; None for 1.
    weights: FloatArray | None = None
    #: (X, Y) rewards that the loss reads; None if it reads none.
    reward: FloatArray | None = None

    @cached_property
    def counts(self) -> PairCounts:
        """The counts of the data, made when they are first asked for."""
        return once(lambda: as_counts(self.data), "counts", self.data)

    @cached_property
    def compared(self) -> BoolArray:
        """(X, Y) whether the response was compared with a different one."""
        return once(lambda: compared_in(self.data), "compared", self.data)

    @property
    def rows(self) -> float:
        """Number of rows, pairs of equals included."""
        return number_of_rows(self.data)

    @property
    def log_reference(self) -> FloatArray:
        """(X, Y); `-inf` where the reference is 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.reference)

    def objective(self, log_policy: FloatArray) -> float:
        """Return the mean loss of a table of log-probabilities."""
        return log_policy_loss(
            self.loss,
            log_policy,
            self.log_reference,
            self.counts,
            weights=self.weights,
            reward=self.reward,
        )


class Minimum(NamedTuple):
    """The policy of a class that minimises a loss, with its certificate."""

    #: (X, Y).
    policy: FloatArray
    #: Mean loss over all rows.
    objective: float
    #: How far from stationary, in the free parameters of the class; None where it is enumerated.
    residual: float | None
    #: Whether no policy of the class has a smaller loss, but for rounding.
    proven: bool
    #: (X, Y) `beta v phi(w)` less a constant per prompt, or None to have it made from the policy.
    scores: FloatArray | None
    #: More diagnostics.
    notes: dict[str, Any]
    #: What is wrong with the certificate; empty if nothing.
    failure: str = ""


@runtime_checkable
class PolicyClass(Protocol):
    """A set of policies over which direct losses can be minimised."""

    @property
    def label(self) -> str:
        """What to add to the name of a learner; empty for all policies."""
        ...

    def minimize(self, task: Task, rng: np.random.Generator | None) -> Minimum:
        """Return the minimiser over the class.

        Raises
        ------
        ValueError
            Where the class is of another shape than the data, or the loss is not one that it can
            minimise.
        MLEDoesNotExistError
            Where the loss has no minimiser in the class.
        """
        ...
