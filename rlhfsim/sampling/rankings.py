"""Drawing rankings from a bandit."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.data import RankingData
from rlhfsim.sampling.inputs import as_policy, as_request


def sample_rankings(
    bandit: ContextualBandit,
    n: int,
    rng: np.random.Generator,
    *,
    size: int,
    policy: ArrayLike | None = None,
) -> RankingData:
    """Return `n` rankings: `x ~ rho`, K responses `~ pi(.|x)` iid, ranked by Plackett-Luce.

    `P(y_1 > ... > y_K | x) = prod_k exp(r*(x, y_k)) / sum_{j >= k} exp(r*(x, y_j))`.  A response
    may be drawn, and ranked, more than once.  Rankings of two are Bradley-Terry preferences.

    Parameters
    ----------
    bandit : ContextualBandit
    n : int
        At least 1.
    rng : numpy.random.Generator
    size : int
        K, at least 2.
    policy : (X, Y) array of distributions, optional
        `pi_ref` by default.

    Returns
    -------
    RankingData
        With the shape of the bandit; best first.

    Raises
    ------
    ValueError
        For a `bandit` that is not a ContextualBandit, `n < 1`, an `rng` that is not a Generator,
        `size < 2`, and a `policy` that is not one of the bandit.

    Source: Plackett 1975; Luce 1959; arXiv 2301.11270.
    """
    from rlhfsim.sampling.launch import Drawing, Tables, new_key

    n, rng = as_request(bandit, n, rng)
    size = checks.whole_number("size", size, least=2)
    pi = bandit.reference if policy is None else as_policy("policy", policy, bandit)
    drawing = Drawing(new_key(rng), n)
    prompt = drawing.prompts(Tables.of(bandit.prompt_dist[None]))
    ranking = drawing.rankings(prompt, Tables.of(pi), bandit.reward, size)
    return RankingData._owned(prompt, ranking, bandit.shape)
