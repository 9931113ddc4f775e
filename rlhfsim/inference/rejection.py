"""Rejection sampling with a budget of n draws, and pessimism by it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import ChiSquared
from rlhfsim.solvers import solve


def rejection_sampling(
    reference: ArrayLike, ratio: ArrayLike, bound: ArrayLike, n: ArrayLike
) -> FloatArray:
    """Return the law of the first accepted of `n` draws, and of one more draw if none is.

    A draw y is accepted with probability `a(y) = min(ratio(y)/bound, 1)`; with `A = E_p[a]`,

        pi(y) = p(y) a(y) (1 - (1 - A)^n)/A + (1 - A)^n p(y).

    As n grows this becomes `p a/A`: the policy `p ratio` if the ratio has mean 1 and stays below
    the bound.

    Parameters
    ----------
    reference, ratio : (..., Y) arrays, broadcast against each other
        The ratio, policy over reference, is not negative.
    bound : number or array
        Positive, broadcast against the prompt axes `(...)`.
    n : number or array
        At least 0, broadcast against the prompt axes; need not be an integer.

    Returns
    -------
    (..., Y) array of distributions

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: von Neumann 1951; with a budget, arXiv 2503.21878 (its rejection sampling routine).
    """
    p = checks.as_distributions("reference", reference)
    w = checks.as_non_negative("ratio", ratio)
    top = checks.as_positive("bound", bound)
    count = checks.as_non_negative("n", n)
    checks.same_responses(ratio=w, reference=p)
    checks.broadcast(reference=p[..., 0], ratio=w[..., 0], bound=top, n=count)
    with np.errstate(over="ignore", under="ignore"):
        accepted = np.minimum(w / top[..., None], 1.0)
        rate = np.minimum((p * accepted).sum(axis=-1), 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_failure = count * np.log1p(-rate)
            # Without a chance of acceptance each accepted draw counts n times its probability, 0.
            weight = np.where(rate > 0, -np.expm1(log_failure) / rate, count)
            failure = np.where(count == 0, 1.0, np.exp(log_failure))
        weight = np.where(count == 0, 0.0, weight)
        return np.asarray(p * (accepted * weight[..., None] + failure[..., None]))


def inference_time_pessimism(
    reference: ArrayLike, reward: ArrayLike, n: ArrayLike, beta: ArrayLike
) -> FloatArray:
    """Return the law of chi-squared pessimism at inference time with `n` draws per prompt.

    Rejection sampling of the density ratio `w = [(r - lambda)/beta]_+`, `E_p[w] = 1`, with the
    bound `max w` over the support.  As n grows it becomes the optimum of
    `E_pi[r] - beta D_chi2(pi || p)`, instead of chasing the largest reward as best-of-n does.

    The source estimates lambda from its draws; here it is the exact one, the limit of many draws,
    so that n is the budget of the rejection sampling alone.  The source's lambda is ours of
    `solve` less beta, because `w = [1 + (r - lambda')/beta]_+` there.

    Parameters
    ----------
    reference, reward : (..., Y) arrays, broadcast against each other
    n : number or array
        At least 0, broadcast against the prompt axes `(...)`.
    beta : number or array
        Positive, in reward units, broadcast against the prompt axes.

    Returns
    -------
    (..., Y) array of distributions

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2503.21878 (InferenceTimePessimism).
    """
    r = checks.as_real("reward", reward)
    p = checks.as_distributions("reference", reference)
    shape = checks.same_responses(reward=r, reference=p)
    r, p = np.broadcast_to(r, shape), np.broadcast_to(p, shape)
    solution = solve(r, p, ChiSquared(), beta)
    scale = np.asarray(checks.as_positive("beta", beta))
    prompts = solution.multiplier.shape
    score = (r - np.asarray(solution.multiplier)[..., None]) / np.broadcast_to(scale, prompts)[
        ..., None
    ]
    ratio = np.where(p > 0, np.maximum(1.0 + score, 0.0), 0.0)
    return rejection_sampling(p, ratio, ratio.max(axis=-1), n)
