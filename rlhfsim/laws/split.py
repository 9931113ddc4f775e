"""The error of a reward, split at the limit of infinite data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.laws.cells import as_bandit
from rlhfsim.sampling.inputs import as_policy


@dataclass(frozen=True)
class ErrorSplit:
    """`total = bias + estimation + cross`, each in squared reward units.

    With r the truth, `r_pop` the fit to infinite data and `r^` the fit at hand; a variance is over
    responses from p, averaged over prompts, so that no constant per prompt counts.
    """

    #: `E_x Var_p[r - r_pop]`: what no amount of data removes.
    bias: FloatArray
    #: `E_x Var_p[r_pop - r^]`: what more data removes.
    estimation: FloatArray
    #: `2 E_x Cov_p[r - r_pop, r_pop - r^]`, of either sign; its mean over datasets is 0 only for
    #: an estimate that is unbiased around `r_pop`.
    cross: FloatArray
    #: `E_x Var_p[r - r^]`, the squared error `eps_c^2` of bounds; computed on its own.
    total: FloatArray


def error_split(
    bandit: ContextualBandit,
    reward_hat: ArrayLike,
    population_reward: ArrayLike,
    *,
    reference: ArrayLike | None = None,
) -> ErrorSplit:
    """Return the squared error of a fitted reward as bias, estimation error and a cross term.

    `E_x Var_p[r - r^] = E_x Var_p[r - r_pop] + E_x Var_p[r_pop - r^]
    + 2 E_x Cov_p[r - r_pop, r_pop - r^]`.

    Parameters
    ----------
    bandit : ContextualBandit
        Whose reward is r.
    reward_hat : (..., X, Y) array
        `r^`, or a stack of them.
    population_reward : (..., X, Y) array
        `r_pop`: the reward of the same fit to `population_pairs` or its relatives.
    reference : (X, Y) array of distributions, optional
        p; the reference of the bandit by default.

    Returns
    -------
    ErrorSplit
        Of the broadcast leading shape, or of numbers.

    Raises
    ------
    ValueError
        For arguments of the wrong kind or shape.

    Source: derived here.
    """
    bandit = as_bandit("bandit", bandit)
    p = bandit.reference if reference is None else as_policy("reference", reference, bandit)
    fitted = _as_reward("reward_hat", reward_hat, bandit.shape)
    limit = _as_reward("population_reward", population_reward, bandit.shape)
    checks.broadcast(reward_hat=fitted, population_reward=limit)

    def covariance(one: FloatArray, two: FloatArray) -> FloatArray:
        per_prompt = (p * _centred(one, p) * _centred(two, p)).sum(axis=-1)
        return average_over_prompts(np.asarray(per_prompt), bandit.prompt_dist)

    away, spread = bandit.reward - limit, limit - fitted
    return ErrorSplit(
        bias=covariance(away, away),
        estimation=covariance(spread, spread),
        cross=2.0 * covariance(away, spread),
        total=covariance(bandit.reward - fitted, bandit.reward - fitted),
    )


def _as_reward(name: str, value: ArrayLike, shape: tuple[int, int]) -> FloatArray:
    reward = checks.as_real(name, value)
    if reward.shape[-2:] != shape:
        raise ValueError(
            f"{name} has shape {reward.shape}; its last two axes must be (X, Y) = {shape}"
        )
    return reward


def _centred(error: FloatArray, p: FloatArray) -> FloatArray:
    return np.asarray(error - (p * error).sum(axis=-1, keepdims=True))
