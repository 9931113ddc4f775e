"""What a policy lacks to the regularized optimum, from logarithms of both.

`J_beta(pi*) - J_beta(pi) = beta E_x KL(pi || pi*)`, `pi* = p e^{r/beta}/Z`.  The terms
`pi l` of the divergence, `l = log pi - log pi*`, have both signs and cancel where beta is large;
`pi (e^-l - 1 + l)` has the same sum, as `sum pi e^-l = sum pi* = 1`, and is never negative.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.special import entropy_excess

# Below this `log pi - log pi*` the terms are taken from a series; above they do not cancel.
_NEAR = 0.4


def gap_terms(log_policy: FloatArray, log_optimum: FloatArray) -> FloatArray:
    """Return `pi (e^-l - 1 + l)`, `l = log_policy - log_optimum`, entry by entry.

    Parameters
    ----------
    log_policy, log_optimum : arrays of one shape
        Logarithms of distributions over the last axis; -inf where there is no mass.

    Returns
    -------
    array of the same shape
        Not negative; inf where the policy has mass and the optimum has none at all.
    """
    policy, optimum = np.exp(log_policy), np.exp(log_optimum)
    both = (policy > 0.0) & (log_optimum > -np.inf)
    apart = np.subtract(log_policy, log_optimum, out=np.zeros(policy.shape), where=both)
    near = both & (np.abs(apart) < _NEAR)
    ratio = np.expm1(apart, out=np.zeros(policy.shape), where=near)
    terms = np.where(near, optimum * entropy_excess(ratio), optimum - policy + policy * apart)
    return np.where((policy > 0.0) & ~both, np.inf, terms)


def regularized_gap(
    log_policy: FloatArray, log_optimum: FloatArray, beta: float, prompt_dist: FloatArray
) -> float:
    """Return `J_beta(pi*) - J_beta(pi)`, `beta E_x sum_y pi (e^-l - 1 + l)`.

    Parameters
    ----------
    log_policy, log_optimum : (X, Y) arrays
        `log pi` and `log pi*`, each normalised; -inf allowed.
    beta : float
        Positive, in reward units.
    prompt_dist : (X,) array
        A distribution.

    Returns
    -------
    float
        In reward units, not negative; inf where the policy leaves the optimum's support.
    """
    asked = np.asarray(prompt_dist) > 0.0
    terms = gap_terms(log_policy[asked], log_optimum[asked])
    return beta * float(prompt_dist[asked] @ terms.sum(axis=1))
