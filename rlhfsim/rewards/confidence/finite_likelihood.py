"""The likelihood-ratio set of a finite class of rewards."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.data import PairCounts, PreferenceData, log_likelihood
from rlhfsim.data.counts import as_counts
from rlhfsim.frozen import Frozen
from rlhfsim.rewards.confidence.base import Minimum, as_log_level, extremes
from rlhfsim.rewards.finite_class import FiniteClass


@dataclass(frozen=True, eq=False)
class FiniteLikelihoodSet(Frozen):
    """The rewards of a finite class with `L(r) >= max_R L - radius`.

    Parameters
    ----------
    data : PreferenceData or PairCounts
        Kept as its counts.
    model : FiniteClass
        R.
    radius : float
        In nats, not negative.

    Raises
    ------
    ValueError
        For a class whose shape is not that of the data, or a negative radius.

    Source: arXiv 2305.14816 (likelihood-ratio sets of offline RLHF).
    """

    data: PairCounts
    model: FiniteClass
    radius: float
    #: (K,) log-likelihoods of the class, in nats.
    log_likelihood: FloatArray = field(init=False)
    #: Indices of the rewards in the set, increasing; never empty.
    members: IntArray = field(init=False)

    def __post_init__(self) -> None:
        """Validate, and find the members."""
        if not isinstance(self.model, FiniteClass):
            raise ValueError(f"model is {self.model!r:.80}; it must be a FiniteClass")
        counts = as_counts(self.data)
        rewards = self.model.rewards
        if rewards.shape[1:] != counts.shape:
            raise ValueError(
                f"model has rewards of shape {rewards.shape}; "
                f"its last two axes must be (X, Y) = {counts.shape}"
            )
        radius = checks.positive_number("radius", self.radius, zero=True)
        total = np.array([log_likelihood(counts, reward) for reward in rewards])
        object.__setattr__(self, "data", counts)
        object.__setattr__(self, "radius", radius)
        object.__setattr__(self, "log_likelihood", checks.frozen(total))
        members = np.nonzero(total >= total.max() - radius)[0]
        object.__setattr__(self, "members", checks.frozen(members))

    @property
    def mask(self) -> BoolArray:
        """(K,): whether each reward of the class is in the set."""
        inside = np.zeros(len(self.log_likelihood), dtype=np.bool_)
        inside[self.members] = True
        return inside

    def contains(self, reward: ArrayLike) -> bool:
        """Return whether an `(X, Y)` reward is one of the members, entry for entry."""
        r = checks.as_matrix("reward", reward, self.data.shape)
        return bool((self.model.rewards[self.members] == r).all(axis=(1, 2)).any())

    def minimize(self, weights: ArrayLike) -> Minimum:
        """Return the smallest `sum_xy weights(x, y) r(x, y)` over the members.

        Parameters
        ----------
        weights : (X, Y) array
            Any finite weights; of equally small members the first is returned.
        """
        w = checks.as_matrix("weights", weights, self.data.shape)
        values = np.tensordot(self.model.rewards[self.members], w, axes=2)
        first = int(values.argmin())
        return Minimum(float(values[first]), self.model.rewards[self.members[first]], 0.0)

    def bounds(self, weights: ArrayLike) -> tuple[float, float]:
        """Return the smallest and the largest `sum_xy weights(x, y) r(x, y)` over the members."""
        return extremes(self, checks.as_matrix("weights", weights, self.data.shape))


def finite_likelihood_set(
    data: PreferenceData | PairCounts, model: FiniteClass, delta: float
) -> FiniteLikelihoodSet:
    """Return the set with `radius = log(|R|/delta)`, which misses `r*` with probability <= delta.

    For every R that contains `r*`, every n, and every way of choosing pairs, also from the past.

    Proof.  Fix r in R.  Given the past and the i-th pair, the expectation of
    `P_r(outcome_i)/P_r*(outcome_i)` is `sum_outcome P_r(outcome) = 1`, so that of the product over
    i, `exp(L(r) - L(r*))`, is 1 too.  By Markov's inequality `L(r) - L(r*) > log(|R|/delta)`
    has probability at most `delta/|R|`; by the union bound over R so does, with delta,
    `max_R L - L(r*) > log(|R|/delta)`, which is what missing `r*` means.

    Parameters
    ----------
    data : PreferenceData or PairCounts
    model : FiniteClass
    delta : float in (0, 1)

    Raises
    ------
    ValueError
        Bad input, by name, rule and value.

    Source: derived here; arXiv 2305.14816 for the set.
    """
    level = as_log_level(delta)
    if not isinstance(model, FiniteClass):
        raise ValueError(f"model is {model!r:.80}; it must be a FiniteClass")
    return FiniteLikelihoodSet(as_counts(data), model, float(np.log(len(model.rewards))) + level)
