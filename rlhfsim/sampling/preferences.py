"""Drawing preference data from a bandit."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data import PreferenceData


def sample_preferences(
    bandit: ContextualBandit, n: int, rng: np.random.Generator
) -> PreferenceData:
    """Return `n` preferences: `x ~ rho`, `y1, y2 ~ pi_ref(.|x)` iid, labelled by Bradley-Terry.

    `P(y1 beats y2 | x) = sigma(r*(x, y1) - r*(x, y2))`.

    Parameters
    ----------
    bandit : ContextualBandit
    n : int
        At least 1.
    rng : numpy.random.Generator

    Raises
    ------
    ValueError
        For a `bandit` that is not a ContextualBandit, `n < 1`, or an `rng` that is not a Generator.

    Source: arXiv 2407.13399.
    """
    if not isinstance(bandit, ContextualBandit):
        raise ValueError(f"bandit is a {type(bandit).__name__}; it must be a ContextualBandit")
    n = checks.whole_number("n", n, least=1)
    rng = checks.generator("rng", rng)
    x = _inverse_cdf(bandit.prompt_dist, rng.random(n))
    uniforms = rng.random((2, n))
    pairs = np.empty((2, n), dtype=np.int64)
    order = np.argsort(x, kind="stable")
    starts = np.searchsorted(x[order], np.arange(bandit.shape[0] + 1))
    for prompt in range(bandit.shape[0]):
        rows = order[starts[prompt] : starts[prompt + 1]]
        if rows.size:
            pairs[:, rows] = _inverse_cdf(bandit.reference[prompt], uniforms[:, rows])
    first, second = pairs
    wins = rng.random(n) < expit(bandit.reward[x, first] - bandit.reward[x, second])
    return PreferenceData(
        prompt=x,
        chosen=np.where(wins, first, second),
        rejected=np.where(wins, second, first),
        shape=bandit.shape,
    )


def _inverse_cdf(weights: FloatArray, uniforms: FloatArray) -> IntArray:
    """Return draws from `weights`, divided by their sum; an entry of weight 0 is never drawn."""
    cdf = weights.cumsum()
    last = int(np.nonzero(weights)[0][-1])
    draws = np.searchsorted(cdf, uniforms * cdf[-1], side="right")
    # u * cdf[-1] can round up to cdf[-1] itself; that draw belongs to the last entry with weight.
    return np.asarray(np.minimum(draws, last), dtype=np.int64)
