"""What learners with an explicit reward share: the fit, and what the policy spends."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.learners.sharing import once
from rlhfsim.rewards import Linear, RewardFit, RewardModel, Tabular, fit_reward

#: Models that do not use a generator.
_WITHOUT_CHANCE = (Tabular, Linear)


def require_model(model: Any) -> None:
    """Raise unless `model` is a reward model."""
    if isinstance(model, type) or not isinstance(model, RewardModel):
        raise ValueError(
            f"model is {model!r:.80}; it must be a reward model, for example Tabular()"
        )


def uses_chance(model: RewardModel, rng: np.random.Generator | None) -> bool:
    """Return whether two fits of `model` to the same data with such a generator may differ."""
    return rng is not None and type(model) not in _WITHOUT_CHANCE


def model_key(model: RewardModel) -> tuple[Hashable, ...]:
    """Return what is equal for models whose fits are equal."""
    if type(model) is Tabular and model.gauge is None:
        return ("tabular", model.r_max, model.ridge)
    return ("other", id(model))


def fit_once(
    data: PreferenceData | PairCounts, model: RewardModel, rng: np.random.Generator | None
) -> RewardFit:
    """Return `fit_reward`, shared between learners (`rlhfsim.learners.sharing`) where it may be."""
    if uses_chance(model, rng):
        return fit_reward(data, model, rng=rng)

    # With the model, so that its `id` is not given to another one.
    return once(
        lambda: (fit_reward(data, model, rng=rng), model), "reward", data, key=model_key(model)
    )[0]


def fitted(
    model: RewardModel, data: PreferenceData | PairCounts, rng: np.random.Generator | None
) -> tuple[RewardFit, dict[str, Any]]:
    """Return the reward fit, and what a learner reports of it.

    `log_likelihood` (nats), `gradient_norm` (comparisons; None for a finite class), `compared`
    (X, Y), and for a finite class `index` and `tied`.
    """
    fit = fit_once(data, model, rng)
    notes: dict[str, Any] = {
        "log_likelihood": fit.log_likelihood,
        "gradient_norm": fit.gradient_norm,
        "compared": fit.compared,
    }
    if fit.index is not None:
        notes |= {"index": fit.index, "tied": fit.tied}
    return fit, notes


def spent(policy: FloatArray, reference: FloatArray) -> dict[str, FloatArray]:
    """Return the (X,) divergences `kl` and `chi_squared` of the policy from the reference."""
    pair = policy[:, None], reference[:, None]
    return {"kl": KL()(*pair), "chi_squared": ChiSquared()(*pair)}
