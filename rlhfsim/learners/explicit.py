"""What learners with an explicit reward share: the fit, and what the policy spends."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.rewards import RewardFit, RewardModel, fit_reward


def require_model(model: Any) -> None:
    """Raise unless `model` is a reward model."""
    if isinstance(model, type) or not isinstance(model, RewardModel):
        raise ValueError(
            f"model is {model!r:.80}; it must be a reward model, for example Tabular()"
        )


def fitted(
    model: RewardModel, data: PreferenceData | PairCounts, rng: np.random.Generator | None
) -> tuple[RewardFit, dict[str, Any]]:
    """Return the reward fit, and what a learner reports of it.

    `log_likelihood` (nats), `gradient_norm` (comparisons; None for a finite class), `compared`
    (X, Y), and for a finite class `index` and `tied`.
    """
    fit = fit_reward(data, model, rng=rng)
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
