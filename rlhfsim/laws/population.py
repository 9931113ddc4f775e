"""The limit of infinite data: exact laws of one observation, in the form that fits accept.

A fit to a law instead of a dataset is what the fit tends to as n grows.  Its error is the bias
that no amount of data removes; what is left of a fit's error is estimation error (`error_split`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data import PairCounts
from rlhfsim.laws.cells import as_bandit, pair_cells
from rlhfsim.laws.multinomial import DEFAULT_LIMIT
from rlhfsim.preferences import PreferenceModel
from rlhfsim.rewards.ranking_counts import RankingCounts
from rlhfsim.rewards.score_sums import ScoreSums
from rlhfsim.sampling.inputs import as_policy

#: Largest number of triples that is listed unless the caller asks for more.
DEFAULT_TRIPLES = 10_000_000


def population_pairs(
    bandit: ContextualBandit,
    *,
    model: PreferenceModel | None = None,
    policies: tuple[ArrayLike, ArrayLike] | None = None,
    limit: int = DEFAULT_TRIPLES,
) -> PairCounts:
    """Return the law of one preference as counts: the probability of every triple.

    `fit_reward` on it maximises `E[log sigma(r(x, y+) - r(x, y-))]`, the limit of the likelihood
    per row; its minimiser of the KL divergence to the law exists where the fit to data exists for
    large n.

    Parameters
    ----------
    bandit : ContextualBandit
        `rho` and, by default, the sampling policy and the reward; used as given.
    model : PreferenceModel, optional
        `BradleyTerry(bandit.reward)` by default.
    policies : pair of (X, Y) policies, optional
        Where the two responses come from; the reference twice by default.
    limit : int
        Largest number of triples.

    Returns
    -------
    PairCounts
        Whose `count` and `equal_pairs` are probabilities and sum to 1 as far as the
        distributions do.

    Raises
    ------
    ValueError
        For arguments of the wrong kind or shape, and more than `limit` triples.

    Source: White 1982 (maximum likelihood of misspecified models).
    """
    cells = pair_cells(bandit, model=model, policies=policies, limit=limit)
    return PairCounts._owned(
        cells.prompt,
        cells.winner,
        cells.loser,
        cells.probability,
        cells.equal_mass,
        cells.shape,
    )


def population_scores(
    bandit: ContextualBandit, *, noise: float = 0.0, policy: ArrayLike | None = None
) -> ScoreSums:
    """Return the law of one score `(x, y, r*(x, y) + noise)` as sums of scores.

    Each cell has the weight `rho(x) policy(y|x)`, the mean `r*(x, y)` and the variance `noise^2`.
    `fit_reward` with a least squares model on it minimises `E[(s - r(x, y))^2]`.

    Parameters
    ----------
    bandit : ContextualBandit
    noise : number
        Standard deviation of a score, in reward units; it moves no fit, only its likelihood.
    policy : (X, Y) array of distributions, optional
        The reference by default.

    Returns
    -------
    ScoreSums

    Raises
    ------
    ValueError
        For arguments of the wrong kind or shape, and a negative `noise`.

    Source: White 1982 (maximum likelihood of misspecified models).
    """
    bandit = as_bandit("bandit", bandit)
    deviation = checks.positive_number("noise", noise, zero=True)
    p = bandit.reference if policy is None else as_policy("policy", policy, bandit)
    with np.errstate(under="ignore"):
        weight = bandit.prompt_dist[:, None] * p
        return ScoreSums.from_tables(weight, bandit.reward, weight * deviation**2)


def population_rankings(
    bandit: ContextualBandit,
    size: int,
    *,
    policy: ArrayLike | None = None,
    limit: int = DEFAULT_LIMIT,
) -> RankingCounts:
    """Return the law of one ranking of `size` responses as counts: the probability of each.

    `x ~ rho`, K = `size` responses iid from the policy, ranked by Plackett-Luce:

        P(x, y_1, ..., y_K) = rho(x) K! prod_k pi(y_k|x) exp(r*(x, y_k)) / sum_{j >= k}
        exp(r*(x, y_j)).

    K! counts the orders in which the responses may have been drawn; it is right for repeated
    responses too, since the K places are ranked.  `fit_reward(..., PlackettLuce())` on it is the
    limit of many rankings.

    Parameters
    ----------
    bandit : ContextualBandit
    size : int
        K, at least 2.
    policy : (X, Y) array of distributions, optional
        The reference by default.
    limit : int
        Largest number of rankings.

    Returns
    -------
    RankingCounts
        Sorted; rankings whose probability is 0 in float64 are left out.

    Raises
    ------
    ValueError
        For arguments of the wrong kind or shape, and more than `limit` rankings.

    Source: Plackett 1975; arXiv 2301.11270.
    """
    bandit = as_bandit("bandit", bandit)
    size = checks.whole_number("size", size, least=2)
    limit = checks.whole_number("limit", limit, least=1)
    p = bandit.reference if policy is None else as_policy("policy", policy, bandit)
    prompts = np.nonzero(bandit.prompt_dist)[0]
    supports = [np.nonzero(p[x])[0] for x in prompts]
    _refuse_too_many(size, [support.size for support in supports], limit)
    rankings = [_words(support, size) for support in supports]
    laws = [
        _ranking_law(p[x], bandit.reward[x], ranking)
        for x, ranking in zip(prompts, rankings, strict=True)
    ]
    prompt = np.repeat(prompts, [len(ranking) for ranking in rankings])
    with np.errstate(under="ignore"):
        probability = bandit.prompt_dist[prompt] * np.concatenate(laws)
    kept = probability > 0
    return RankingCounts(
        prompt[kept], np.concatenate(rankings)[kept], probability[kept], bandit.shape
    )


def _refuse_too_many(size: int, supports: list[int], limit: int) -> None:
    """Refuse more than `limit` rankings; a support of s responses has `s^K`."""
    logs = [size * math.log10(support) for support in supports]
    largest = max(logs)
    if largest < 18:
        total = sum(support**size for support in supports)
        if total <= limit:
            return
        number = str(total)
    elif largest <= math.log10(limit):
        return
    else:
        number = f"about 1e{largest:.0f}"
    raise ValueError(
        f"there are {number} rankings of size = {size}, more than limit = {limit}; take a smaller "
        "size, fewer prompts or responses, a policy of smaller support, or raise limit"
    )


def _words(support: IntArray, size: int) -> IntArray:
    """Return the (S^K, K) sequences of K entries of `support`, sorted."""
    power = support.size ** np.arange(size)[::-1]
    return np.asarray(support[np.arange(support.size**size)[:, None] // power % support.size])


def _ranking_law(p: FloatArray, reward: FloatArray, ranking: IntArray) -> FloatArray:
    """Return `K! prod_k p(y_k) exp(r(y_k)) / sum_{j >= k} exp(r(y_j))` of each (U, K) row."""
    # An offset of the reward costs no digits.
    scores = (reward - reward.max())[ranking]
    remaining = np.logaddexp.accumulate(scores[:, ::-1], axis=1)[:, ::-1]
    # K! goes to the factors, K - k + 1 to the k-th, which keeps each one at most K.
    left = np.arange(ranking.shape[1], 0, -1)
    with np.errstate(under="ignore"):
        return np.asarray((left * p[ranking] * np.exp(scores - remaining)).prod(axis=1))
