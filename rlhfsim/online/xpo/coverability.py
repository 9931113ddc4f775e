"""How many rounds an unknown policy of a class can surprise: coverability."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray


def coverability(policies: ArrayLike, prompt_dist: ArrayLike) -> float:
    """Return the coverability of a finite class of policies.

    `C_cov = min_mu max_{k, x, y} rho(x) pi_k(y|x)/mu(x, y) = E_x sum_y max_k pi_k(y|x)`,

    mu any distribution of prompts and responses; the best one is proportional to
    `rho(x) max_k pi_k(y|x)` (`covering_distribution`).  It is 1 for one policy, and at most K, at
    most Y, and at most `max_k C_inf^{pi_k}`.

    Parameters
    ----------
    policies : (K, X, Y) array of distributions
    prompt_dist : (X,) distribution

    Returns
    -------
    float

    Raises
    ------
    ValueError
        For an array of another shape or with rows that are no distributions.

    Source: arXiv 2405.21046, section 3; arXiv 2210.04157 for the closed form.
    """
    return float(_envelope(policies, prompt_dist).sum())


def covering_distribution(policies: ArrayLike, prompt_dist: ArrayLike) -> FloatArray:
    """Return the (X, Y) distribution that covers a finite class best; see `coverability`.

    Parameters
    ----------
    policies : (K, X, Y) array of distributions
    prompt_dist : (X,) distribution

    Returns
    -------
    (X, Y) array
        Of sum 1.

    Raises
    ------
    ValueError
        As `coverability`.

    Source: arXiv 2210.04157.
    """
    envelope = _envelope(policies, prompt_dist)
    return envelope / envelope.sum()


def _envelope(policies: ArrayLike, prompt_dist: ArrayLike) -> FloatArray:
    """Return (X, Y) `rho(x) max_k pi_k(y|x)`."""
    pi = as_policies("policies", policies)
    rho = checks.as_distributions("prompt_dist", prompt_dist)
    if rho.shape != pi.shape[1:2]:
        raise ValueError(f"prompt_dist has shape {rho.shape}; it must be ({pi.shape[1]},)")
    return np.asarray(rho[:, None] * pi.max(axis=0))


def as_policies(name: str, value: ArrayLike) -> FloatArray:
    """Return a (K, X, Y) array of distributions."""
    array = checks.as_real(name, value)
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; it must be a non-empty (K, X, Y) array")
    return checks.as_distributions(name, array)
