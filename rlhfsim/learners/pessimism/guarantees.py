"""What pessimism guarantees on the event that the confidence set holds the true reward."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.learners.pessimism.settings import relative
from rlhfsim.rewards.confidence import ConfidenceSet, Ellipsoid


def regret_bound(
    confidence: ConfidenceSet,
    comparator: ArrayLike,
    baseline: ArrayLike,
    prompt_dist: ArrayLike | None = None,
) -> float:
    """Return how much `J(pi) - J(nu)` varies over a confidence set of rewards.

    For an ellipsoid it is `2 c ||E_x[phi_pi - phi_nu]||_{Sigma^-1}`.  It bounds the regularized
    regret of the policy that is best against the set's worst reward, when the set holds `r*`; with
    the worst reward at pi as `r*` and a small beta there are instances that attain it.

    Parameters
    ----------
    confidence : ConfidenceSet
        `diagnostics["confidence"]` of what was learned.
    comparator, baseline : (X, Y) arrays of distributions
        pi and nu.
    prompt_dist : (X,) array, optional for a single prompt

    Returns
    -------
    float, in reward units

    Source: arXiv 2312.11456 (ellipsoids, option I); derived in `PessimisticLikelihood`.
    """
    pi, nu, rho = _checked(comparator, baseline, prompt_dist)
    low, high = confidence.bounds(rho[:, None] * (pi - nu))
    return high - low


def pointwise_regret_bound(
    confidence: Ellipsoid,
    comparator: ArrayLike,
    baseline: ArrayLike,
    prompt_dist: ArrayLike | None = None,
) -> float:
    """Return `2 c E_x E_pi ||phi(x, y) - phi_nu(x)||_{Sigma^-1}`, never below `regret_bound`.

    The bound of `PessimisticMLE(pointwise=True)`; arguments as of `regret_bound`.

    Source: arXiv 2312.11456, option II.
    """
    pi, nu, rho = _checked(comparator, baseline, prompt_dist)
    if not isinstance(confidence, Ellipsoid):
        raise ValueError(f"confidence is a {type(confidence).__name__}; it must be an Ellipsoid")
    checks.as_matrix("comparator", pi, confidence.features.shape[:2])
    width = confidence.width(relative(confidence.features, nu))
    return float(2.0 * rho @ (pi * width).sum(axis=1))


def _checked(
    comparator: ArrayLike, baseline: ArrayLike, prompt_dist: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    pi = checks.as_distributions("comparator", checks.as_matrix("comparator", comparator))
    nu = checks.as_matrix("baseline", baseline, (pi.shape[0], pi.shape[1]))
    checks.as_distributions("baseline", nu)
    if prompt_dist is None:
        if len(pi) > 1:
            raise ValueError(f"prompt_dist is missing; with {len(pi)} prompts it must be given")
        return pi, nu, np.ones(1)
    rho = checks.as_distributions("prompt_dist", prompt_dist)
    if rho.shape != (len(pi),):
        raise ValueError(f"prompt_dist has shape {rho.shape}; it must be ({len(pi)},)")
    return pi, nu, rho
