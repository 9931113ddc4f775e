"""What every learner takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts, require_pairs
from rlhfsim.frozen import Frozen


@dataclass(frozen=True, eq=False)
class Learned(Frozen):
    """A policy learned from preferences, with its certificate; everything is read-only."""

    #: (X, Y) the learned policy.
    policy: FloatArray
    #: (X, Y) the reward that was fitted, explicitly or as the policy's implicit one; None if none.
    reward: FloatArray | None = None
    #: Regularization that was used; None if none.
    beta: float | None = None
    #: Optimality residual of the objective that the learner's docstring names, 0 at an optimum;
    #: None where there is no objective.
    residual: float | None = None
    #: Value of the objective.
    objective: float | None = None
    #: Small numbers and arrays that the learner's docstring names.
    diagnostics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        policy = checks.as_distributions("policy", checks.as_matrix("policy", self.policy))
        object.__setattr__(self, "policy", checks.frozen(policy))
        if self.reward is not None:
            reward = checks.as_matrix("reward", self.reward, (policy.shape[0], policy.shape[1]))
            object.__setattr__(self, "reward", checks.frozen(reward))
        notes = {
            name: checks.frozen(value) if isinstance(value, np.ndarray) else value
            for name, value in self.diagnostics.items()
        }
        object.__setattr__(self, "diagnostics", MappingProxyType(notes))

    def __reduce__(self) -> tuple[type[Any], tuple[Any, ...]]:
        """Rebuild from the constructor's arguments; a mapping proxy cannot be pickled."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self), (*(given | {"diagnostics": dict(self.diagnostics)}).values(),)


class LearnerError(RuntimeError):
    """A learner failed its own certificate; what it reached is in `learned`."""

    def __init__(self, message: str, learned: Learned) -> None:
        super().__init__(message)
        self.learned = learned

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with `learned`, so that the error survives the way back from a worker process."""
        return type(self), (str(self), self.learned)


@runtime_checkable
class Learner(Protocol):
    """From preference data and a reference policy to a policy.

    Learners are frozen dataclasses whose fields are their settings.
    """

    @property
    def name(self) -> str:
        """How the method is called, with the settings that tell it from its relatives."""
        ...

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return what is learned from `data`, of the shape `(X, Y)` of `reference`."""
        ...


@dataclass(frozen=True, eq=False)
class Problem:
    """The checked arguments of `Learner.fit`."""

    #: As given: rows are fitted faster than counts, which cost a pass of their own.
    data: PreferenceData | PairCounts
    #: (X, Y) distributions.
    reference: FloatArray
    #: (X,) distribution, or None if it was not given.
    prompt_dist: FloatArray | None

    @property
    def shape(self) -> tuple[int, int]:
        """`(X, Y)`."""
        return self.data.n_prompts, self.data.n_responses

    @cached_property
    def counts(self) -> PairCounts:
        """The counts of the data, made when they are first asked for."""
        return as_counts(self.data)


def as_problem(
    data: PreferenceData | PairCounts, reference: ArrayLike, prompt_dist: ArrayLike | None = None
) -> Problem:
    """Return the checked arguments of a learner.

    Parameters
    ----------
    data : PreferenceData or PairCounts
    reference : (X, Y) array of distributions
        Of the shape of the data.
    prompt_dist : (X,) array, optional

    Raises
    ------
    ValueError
        For data of another kind, a reference of another shape than the data or whose rows are no
        distributions, and a `prompt_dist` that is not one of X prompts.
    """
    data = require_pairs(data)
    shape = data.n_prompts, data.n_responses
    p = checks.as_distributions("reference", checks.as_matrix("reference", reference, shape))
    if prompt_dist is None:
        return Problem(data, p, None)
    rho = checks.as_distributions("prompt_dist", prompt_dist)
    if rho.shape != shape[:1]:
        raise ValueError(f"prompt_dist has shape {rho.shape}; it must be ({shape[0]},)")
    return Problem(data, p, rho)
