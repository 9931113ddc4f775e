"""Targets under moment constraints: the reference, exponentially tilted.

Among the policies with `E[phi] = mu` the one closest to p, in `E_x KL(. || p)`, is
`p_lambda = p e^(<lambda, phi>) / Z_x`, lambda the minimiser of the convex dual
`E_x[log Z_x(lambda)] - <lambda, mu>`, whose gradient is the violation of the constraint.

Source: arXiv 2012.11635, theorem 1 (Csiszar); with several prompts and one lambda, derived.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.learners.base import Learned, LearnerError
from rlhfsim.learners.matching.attainable import require_attainable

#: Largest violation of a moment constraint, in units of the range of its feature.
LARGEST_RESIDUAL = 1e-10
#: Singular values of the features below this share of the largest are redundancy.
_INDEPENDENT = 1e-10
_MOST_STEPS = 500
#: Where the parameter is stopped, in units of the ranges: no policy needs a larger one.
_FARTHEST = 1e7
#: Share of the reference that shows by itself that the moments can be attained.
_AMPLE_SHARE = 1e-6


def exponential_tilt(reference: ArrayLike, features: ArrayLike, parameter: ArrayLike) -> FloatArray:
    """Return `p(y|x) e^(<lambda, phi(x, y)>) / Z(x)`.

    Parameters
    ----------
    reference : (X, Y) array of distributions
    features : (X, Y, d) array
        `phi`.
    parameter : (d,) array
        `lambda`.

    Returns
    -------
    (X, Y) array of distributions

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2012.11635, eq. 2.
    """
    p, phi = _reference_and_features(reference, features)
    theta = checks.as_real("parameter", parameter)
    if theta.shape != phi.shape[2:]:
        raise ValueError(f"parameter has shape {theta.shape}; it must be ({phi.shape[2]},)")
    return _tilt(p, phi @ theta)[0]


def match_moments(
    reference: ArrayLike,
    features: ArrayLike,
    moments: ArrayLike,
    prompt_dist: ArrayLike | None = None,
) -> Learned:
    """Return the policy closest to p among those with `E_{x, y ~ pi}[phi(x, y)] = mu`.

    Parameters
    ----------
    reference : (X, Y) array of distributions
    features : (X, Y, d) array
        `phi`; constant ones and copies are allowed.
    moments : (d,) array
        `mu`, averages over the prompts.
    prompt_dist : (X,) array
        Needed where there is more than one prompt.

    Returns
    -------
    Learned
        `residual` is the largest `|E[phi_i] - mu_i|` in units of the range of `phi_i`,
        `objective` the attained `E_x KL(pi || p)` in nats; `diagnostics` has the (d,) `parameter`
        lambda, of the smallest norm where features are redundant.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value; where no policy has these moments, or only
        policies that leave out responses of the reference, which no lambda gives.
    LearnerError
        For a residual above 1e-10.

    Source: arXiv 2012.11635, theorem 1.
    """
    p, phi = _reference_and_features(reference, features)
    mu = checks.as_real("moments", moments)
    if mu.shape != phi.shape[2:]:
        raise ValueError(f"moments has shape {mu.shape}; it must be ({phi.shape[2]},)")
    average_over_prompts(np.zeros(len(p)), prompt_dist)  # the checks of prompt_dist
    rho = np.ones(1) if prompt_dist is None else checks.as_real("prompt_dist", prompt_dist)
    scale = _ranges(p, phi, rho)
    # Relative to mu and in units of the range, so that offsets and units cost no digits.
    centred = np.where((p > 0)[..., None], (phi - mu) / scale, 0.0)
    directions = _independent(p, centred)
    found = _minimize_dual(p, centred @ directions, rho)
    policy = found.policy
    violation = np.einsum("x,xy,xyi->i", rho, policy, centred)
    counted = (p > 0) & (rho > 0)[:, None]
    share = (policy[counted] / p[counted]).min()
    if np.abs(violation).max() > LARGEST_RESIDUAL or share < _AMPLE_SHARE:
        require_attainable(p, centred, rho, mu)
    learned = Learned(
        policy=policy,
        residual=float(np.abs(violation).max()),
        objective=float(average_over_prompts(KL()(policy[:, None], p[:, None]), rho)),
        diagnostics={"parameter": directions @ found.parameter / scale},
    )
    if not np.abs(violation).max() <= LARGEST_RESIDUAL:
        worst = int(np.abs(violation).argmax())
        raise LearnerError(
            f"moment {worst} is missed by {violation[worst]:.3g} of the range of its feature "
            f"(allowed {LARGEST_RESIDUAL:g})",
            learned,
        )
    return learned


class _Point(NamedTuple):
    """The dual and its derivatives at a parameter."""

    parameter: FloatArray
    policy: FloatArray
    dual: float
    violation: FloatArray
    curvature: FloatArray


def _minimize_dual(p: FloatArray, phi: FloatArray, rho: FloatArray) -> _Point:
    """Return the minimiser of the dual by regularized Newton steps, longer ones where they pay.

    `H + |g| I` in place of the curvature H: far from the minimum, where H vanishes with the rare
    responses, steps keep a length of about 1; at the minimum, where g does, they are Newton's.
    """
    at = _evaluate(p, phi, rho, np.zeros(phi.shape[2]))
    for _ in range(_MOST_STEPS):
        size = float(np.linalg.norm(at.violation))
        if size == 0 or np.abs(at.parameter).max() > _FARTHEST:
            return at
        step = -np.linalg.solve(at.curvature + size * np.eye(len(at.parameter)), at.violation)
        trial = _evaluate(p, phi, rho, at.parameter + step)
        # The dual is flat to rounding near the minimum, where only the violation tells.
        flat = trial.dual >= at.dual - 1e-15 * (1.0 + abs(at.dual))
        if flat and np.linalg.norm(trial.violation) > 0.5 * size:
            return at
        while float(trial.violation @ step) < 0 and np.abs(trial.parameter).max() <= _FARTHEST:
            step = 2.0 * step
            longer = _evaluate(p, phi, rho, at.parameter + step)
            if longer.dual >= trial.dual:
                break
            trial = longer
        at = trial
    return at


def _independent(p: FloatArray, phi: FloatArray) -> FloatArray:
    """Return (d, k) orthonormal directions in which features vary on the support of p.

    In the others no tilt changes anything.
    """
    inside = (p > 0)[..., None]
    mean = np.where(inside, phi, 0.0).sum(axis=1) / inside.sum(axis=1)
    varying = np.where(inside, phi - mean[:, None], 0.0).reshape(-1, phi.shape[2])
    _, size, directions = np.linalg.svd(varying, full_matrices=False)
    return np.asarray(directions[size > _INDEPENDENT * max(float(size.max()), 1e-300)].T)


def _evaluate(p: FloatArray, phi: FloatArray, rho: FloatArray, parameter: FloatArray) -> _Point:
    policy, log_normalizer = _tilt(p, phi @ parameter)
    mean = np.einsum("xy,xyi->xi", policy, phi)
    centred = phi - mean[:, None]
    curvature = np.einsum("x,xy,xyi,xyj->ij", rho, policy, centred, centred, optimize=True)
    return _Point(parameter, policy, float(rho @ log_normalizer), rho @ mean, curvature)


def _tilt(p: FloatArray, score: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return `p e^score / Z` and `log Z`."""
    top = np.where(p > 0, score, -np.inf).max(axis=1, keepdims=True)
    with np.errstate(under="ignore"):
        mass = p * np.exp(np.minimum(score - top, 0.0))
    total = mass.sum(axis=1, keepdims=True)
    return mass / total, (top + np.log(total))[:, 0]


def _reference_and_features(
    reference: ArrayLike, features: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    p = checks.as_distributions("reference", checks.as_matrix("reference", reference))
    phi = checks.as_real("features", features)
    if phi.ndim != 3 or phi.shape[:2] != p.shape or phi.shape[2] == 0:
        raise ValueError(
            f"features has shape {phi.shape}; it must be ({p.shape[0]}, {p.shape[1]}, d), d >= 1"
        )
    return p, phi


def _ranges(p: FloatArray, phi: FloatArray, rho: FloatArray) -> FloatArray:
    """Return the (d,) ranges of the features where they count, 1 for constant ones."""
    counted = phi[(p > 0) & (rho > 0)[:, None]]
    spread = counted.max(axis=0) - counted.min(axis=0)
    return np.where(spread > 0, spread, 1.0)
