"""Inference procedures: what becomes of a policy when it is sampled, and how often that wins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.inference import best_of_n, win_rate, worst_of_n


class InferenceProcedure(ABC):
    """How responses are chosen among draws of a policy at inference time."""

    #: Number of draws.
    n: int
    #: Whether the worst is chosen, not the best.
    worst: bool

    @abstractmethod
    def law(self, policy: ArrayLike, reward: ArrayLike) -> FloatArray:
        """Return the law of the chosen response.

        Parameters
        ----------
        policy, reward : (..., Y) arrays, broadcast against each other

        Returns
        -------
        (..., Y) array of distributions
        """

    @property
    @abstractmethod
    def name(self) -> str:
        """How the procedure is called."""


@dataclass(frozen=True)
class BestOf(InferenceProcedure):
    """The best of `n` draws by the reward, ties shared.

    Parameters
    ----------
    n : int
        At least 1; one draw is plain sampling.

    Source: arXiv 2412.19792.
    """

    n: int
    worst = False

    def __post_init__(self) -> None:
        """Validate."""
        checks.whole_number("n", self.n, least=1)

    @property
    def name(self) -> str:
        """`best of n`."""
        return f"best of {self.n}"

    def law(self, policy: ArrayLike, reward: ArrayLike) -> FloatArray:
        """Return the law of the best of n; see `rlhfsim.inference.best_of_n`."""
        return best_of_n(policy, reward, self.n)


@dataclass(frozen=True)
class WorstOf(InferenceProcedure):
    """The worst of `n` draws by the reward, ties shared: an attack by repeated sampling.

    Parameters
    ----------
    n : int
        At least 1; one draw is plain sampling.

    Source: arXiv 2412.19792 (best-of-N jailbreaking).
    """

    n: int
    worst = True

    def __post_init__(self) -> None:
        """Validate."""
        checks.whole_number("n", self.n, least=1)

    @property
    def name(self) -> str:
        """`worst of n`."""
        return f"worst of {self.n}"

    def law(self, policy: ArrayLike, reward: ArrayLike) -> FloatArray:
        """Return the law of the worst of n; see `rlhfsim.inference.worst_of_n`."""
        return worst_of_n(policy, reward, self.n)


@dataclass(frozen=True)
class PlainSampling(InferenceProcedure):
    """One draw of the policy, as it is."""

    n = 1
    worst = False

    @property
    def name(self) -> str:
        """`plain sampling`."""
        return "plain sampling"

    def law(self, policy: ArrayLike, reward: ArrayLike) -> FloatArray:
        """Return the policy."""
        pi = checks.as_distributions("policy", policy)
        r = checks.as_real("reward", reward)
        return np.array(np.broadcast_to(pi, checks.same_responses(policy=pi, reward=r)))


def inference_win_rate(
    policy: ArrayLike,
    reference: ArrayLike,
    reward: ArrayLike,
    procedure: InferenceProcedure,
    prompt_dist: ArrayLike | None = None,
) -> FloatArray:
    """Return `P(r(y) > r(z)) + 1/2 P(r(y) = r(z))`, `y ~ T(policy)`, `z ~ T(reference)`.

    Parameters
    ----------
    policy, reference, reward : (..., X, Y) arrays, or (Y,) for one prompt
    procedure : InferenceProcedure
        `T`.
    prompt_dist : (X,) array
        Needed where there is more than one prompt.

    Returns
    -------
    (...) array of probabilities

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2412.19792.
    """
    t = as_procedure(procedure)
    return win_rate(t.law(policy, reward), t.law(reference, reward), reward, prompt_dist)


def as_procedure(procedure: InferenceProcedure) -> InferenceProcedure:
    """Return the procedure; raise if it is none."""
    if not isinstance(procedure, InferenceProcedure):
        raise ValueError(
            f"procedure is {procedure!r:.80}; it must be an inference procedure such as BestOf(4)"
        )
    return procedure
