"""Win rates by a reward, and the reward calibrated to its own quantiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.inference.levels import level_masses


def calibrated_reward(reward: ArrayLike, reference: ArrayLike) -> FloatArray:
    """Return `c(x, y) = P_{z ~ p}(r(x, z) < r(x, y)) + 1/2 P_{z ~ p}(r(x, z) = r(x, y))`.

    The reward's quantile under the reference: in `[0, 1]`, with mean 1/2 under the reference, and
    unchanged by any increasing transform of the reward.

    Parameters
    ----------
    reward, reference : (..., Y) arrays, broadcast against each other

    Returns
    -------
    (..., Y) array of probabilities

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2412.19792, the calibrated reward of InfAlign.
    """
    p = checks.as_distributions("reference", reference)
    r = checks.as_real("reward", reward)
    shape = checks.same_responses(reward=r, reference=p)
    below, level, _ = level_masses(np.broadcast_to(p, shape), np.broadcast_to(r, shape))
    return below + 0.5 * level


def win_rate(
    policy: ArrayLike,
    opponent: ArrayLike,
    reward: ArrayLike,
    prompt_dist: ArrayLike | None = None,
) -> FloatArray:
    """Return `P(r(x, y) > r(x, z)) + 1/2 P(r(x, y) = r(x, z))`, `y ~ policy`, `z ~ opponent`.

    Parameters
    ----------
    policy, opponent, reward : (..., X, Y) arrays, or (Y,) for one prompt
        Broadcast against each other.
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
    pi = checks.as_distributions("policy", policy)
    quantile = calibrated_reward(reward, checks.as_distributions("opponent", opponent))
    checks.same_responses(policy=pi, opponent=quantile)
    return np.asarray(average_over_prompts((pi * quantile).sum(axis=-1), prompt_dist))[()]
