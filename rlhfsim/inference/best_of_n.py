"""Best-of-N sampling: its exact policy with ties, its exact KL, and the formula usually quoted."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.inference.levels import level_masses


def best_of_n(reference: ArrayLike, reward: ArrayLike, n: ArrayLike) -> FloatArray:
    """Return the law of the best of `n` draws from `reference` by `reward`, ties shared.

    On a level of tied rewards with mass m between F- and F = F- + m,
    `pi_n(y) = p(y)/m (F^n - (F-)^n)`.

    Parameters
    ----------
    reference, reward : (..., Y) arrays, broadcast against each other
    n : number or array
        At least 1, broadcast against the prompt axes `(...)`; need not be an integer.

    Returns
    -------
    (..., Y) array of distributions
    """
    p = checks.as_distributions("reference", reference)
    r = checks.as_real("reward", reward)
    count = checks.as_at_least("n", n, 1)
    pair = checks.same_responses(reward=r, reference=p)
    p, r = np.broadcast_to(p, pair), np.broadcast_to(r, pair)
    below, level, above = level_masses(p, r)
    shape = checks.broadcast(reference=p[..., 0], n=count)
    power = np.broadcast_to(count, shape)[..., None]
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        upto = below + level
        # log F from whichever of F and 1 - F is small, and F^n - (F-)^n as F^n (1 - (F-/F)^n),
        # so that neither a rare level nor a large n costs digits.
        log_cdf = np.where(upto < 0.5, np.log(upto), np.log1p(-above))
        share = -np.expm1(power * np.log1p(-np.minimum(level / upto, 1.0)))
        policy = np.exp(power * log_cdf) * share * (p / level)
    return np.where(p > 0, policy, 0.0)


def worst_of_n(reference: ArrayLike, reward: ArrayLike, n: ArrayLike) -> FloatArray:
    """Return the law of the worst of `n` draws from `reference` by `reward`, ties shared.

    `best_of_n` with the reward's sign changed; a model of an adversary who picks among n answers.

    Parameters
    ----------
    reference, reward : (..., Y) arrays, broadcast against each other
    n : number or array
        At least 1, broadcast against the prompt axes `(...)`; need not be an integer.

    Returns
    -------
    (..., Y) array of distributions

    Source: arXiv 2412.19792 (worst-of-N as a jailbreak).
    """
    return best_of_n(reference, -checks.as_real("reward", reward), n)


def best_of_n_kl_formula(n: ArrayLike) -> FloatArray:
    """Return `log n - (n - 1)/n`, which bounds `KL(best-of-n || reference)` from above.

    It is attained for continuous rewards without ties, and is often plotted as if it were the KL;
    over finitely many responses the KL stays below `log(1/p(best))` however large n is.

    Parameters
    ----------
    n : number or array
        At least 1; need not be an integer.

    Source: the formula of arXiv 2009.01325, appendix G.3; that it is a bound, 2401.01879.
    """
    count = checks.as_at_least("n", n, 1)
    return np.asarray(np.log(count) - (count - 1.0) / count)[()]


def best_of_n_chi_squared_bound(n: ArrayLike) -> FloatArray:
    """Return `(n - 1)^2 / (2 (2n - 1))`, which bounds `D_chi2(best-of-n || reference)` from above.

    Attained for continuous rewards, where the ratio is `n F^(n-1)` and `C = n^2/(2n - 1)`.

    Parameters
    ----------
    n : number or array
        At least 1; need not be an integer.
    """
    count = checks.as_at_least("n", n, 1)
    return np.asarray((count - 1.0) ** 2 / (2.0 * (2.0 * count - 1.0)))[()]
