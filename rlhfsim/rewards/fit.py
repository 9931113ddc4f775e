"""The one entry point: a reward from preference data."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from rlhfsim import checks
from rlhfsim.rewards.result import RewardFit
from rlhfsim.rewards.tabular import Tabular


@runtime_checkable
class RewardModel(Protocol):
    """What `fit_reward` asks of a model."""

    def fit(self, data: Any, rng: np.random.Generator | None = None) -> RewardFit:
        """Return the fit of this model to `data`; refuse data of a kind that it does not take."""
        ...


_UNCONSTRAINED = Tabular()


def fit_reward(
    data: Any,
    model: RewardModel = _UNCONSTRAINED,
    *,
    rng: np.random.Generator | None = None,
) -> RewardFit:
    """Return the reward of a model that fits data best.

    From pairwise preferences, the Bradley-Terry maximum likelihood estimate: the maximiser of
    `sum_i log sigma(r(x_i, y+_i) - r(x_i, y-_i))` over the rewards of `model`.  The data determine
    rewards only up to a constant per prompt; each model states its convention.  Other kinds of
    data have models of their own.

    Parameters
    ----------
    data : PreferenceData or PairCounts; RankingData or ScoreData for models of those
        `PairCounts` whose counts are the probabilities of a law give the fit to infinite data.
    model : RewardModel
        `Tabular()`, `Tabular(r_max=...)`, `Tabular(ridge=...)`, `FiniteClass(rewards)` or
        `Linear(features)` for preferences; `PlackettLuce()` for rankings; `LeastSquares()` for
        scores.
    rng : numpy.random.Generator, optional
        Breaks ties of a finite class; without it the first of the tied rewards is taken.

    Returns
    -------
    RewardFit
        With the `(X, Y)` reward and its certificate.

    Raises
    ------
    MLEDoesNotExistError
        For an unconstrained model when the likelihood has no finite maximiser.
    RewardFitError
        When a fit fails its own certificate.
    ValueError
        For arguments of the wrong kind, or a model whose shape is not that of the data.

    Source: Bradley and Terry 1952; Ford 1957; Hunter 2004; arXiv 2407.13399.
    """
    if isinstance(model, type) or not isinstance(model, RewardModel):
        raise ValueError(
            f"model is {model!r:.80}; it must be a reward model, "
            "for example Tabular() or FiniteClass(rewards)"
        )
    return model.fit(data, checks.optional_generator("rng", rng))
