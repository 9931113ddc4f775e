"""Regularized optima in closed form: the active set of chi-squared, brackets of the multiplier.

Sources: arXiv 2407.13399 (chiPO), its authors' 2025 post (the blog).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION
from rlhfsim.claims.gibbs import generic_problem
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.regularized import (
    CHI_SQUARED_REGULARIZER,
    MIXED_REGULARIZER,
    REGULARIZERS,
    ProblemClaim,
    Regularizer,
    chi_squared,
    highest,
    lowest,
    mixed_rounding,
    ratio_rounding,
    reward_rounding,
    size,
    span,
    true_value_rounding,
)
from rlhfsim.coverage import all_policy_concentrability

_DERIVED = "derived: stationarity"


# ---- chi-squared: the active set -----------------------------------------------------------------


def leaving_points(x: Problems) -> FloatArray:
    """Return the beta at and below which each response gets no mass, `E_p[(r - r(y))_+]`."""
    higher = np.maximum(x.reward_hat[:, :, None, :] - x.reward_hat[:, :, :, None], 0.0)
    return np.asarray((x.reference[:, :, None, :] * higher).sum(axis=-1))


def _active(x: Problems) -> FloatArray:
    """Masses of the active responses, 0 elsewhere."""
    return np.where(leaving_points(x) < x.beta[:, None, None], x.reference, 0.0)


def _active_moments(x: Problems) -> tuple[FloatArray, FloatArray, FloatArray]:
    """`p` on S, `P_S` and `E_p[r | S] - max r`."""
    active = _active(x)
    mass = active.sum(axis=-1)
    below = x.reward_hat - highest(x)[..., None]
    return active, mass, (active * below).sum(axis=-1) / mass


def _closed_form_coverage(x: Problems) -> FloatArray:
    active, mass, mean = _active_moments(x)
    below = x.reward_hat - (highest(x) + mean)[..., None]
    ratio = 1.0 / mass[..., None] + below / x.beta[:, None, None]
    return x.mean((active * ratio**2).sum(axis=-1))


def _closed_form_multiplier(x: Problems) -> FloatArray:
    _, mass, mean = _active_moments(x)
    return x.mean(highest(x) + mean - x.beta[:, None] * (1.0 - mass) / mass)


def _active_rounding(x: Problems) -> FloatArray:
    return ratio_rounding(x) + RESOLUTION * x.mean(1.0 / _active_moments(x)[1])


def _solved_coverage(x: Problems) -> FloatArray:
    return x.mean(1.0 + 2.0 * chi_squared(x, CHI_SQUARED_REGULARIZER.policy(x)))


def _best_clipped(x: Problems) -> FloatArray:
    """Largest `r - min r` among responses of the support that get no mass; 0 without any."""
    policy = CHI_SQUARED_REGULARIZER.policy(x)
    clipped = (x.reference > 0) & (policy <= 0)
    rise = x.reward_hat - lowest(x)[..., None]
    return x.mean(np.where(clipped, rise, 0.0).max(axis=-1))


def _worst_active(x: Problems) -> FloatArray:
    """Smallest `r - min r` among responses that get mass."""
    rise = x.reward_hat - lowest(x)[..., None]
    policy = CHI_SQUARED_REGULARIZER.policy(x)
    return x.mean(np.where(policy > 0, rise, np.inf).min(axis=-1))


# ---- the blog's approximation --------------------------------------------------------------------


def unclipped(x: Problems) -> Problems:
    """Return the instances with beta large enough that chi-squared clips nothing."""
    fall = (x.reference * (x.reward_hat - lowest(x)[..., None])).sum(axis=-1)
    return replace(x, beta=np.maximum(x.beta, 1.001 * fall.max(axis=1)))


def _gain(x: Problems) -> FloatArray:
    x = unclipped(x)
    gain = (CHI_SQUARED_REGULARIZER.policy(x) - x.reference) * x.reward
    return x.mean(gain.sum(axis=-1))


def _covariance(x: Problems) -> FloatArray:
    x = unclipped(x)
    centred = x.reward_hat - (x.reference * x.reward_hat).sum(axis=-1, keepdims=True)
    centred_truth = x.reward - (x.reference * x.reward).sum(axis=-1, keepdims=True)
    return x.mean((x.reference * centred * centred_truth).sum(axis=-1)) / x.beta


def _distance_from_literal(x: Problems) -> FloatArray:
    """TV between `p r/E_p[r]`, rewards counted from their minimum, and the optimum."""
    x = unclipped(x)
    weight = x.reference * np.where(x.reference > 0, x.reward_hat - lowest(x)[..., None], 0.0)
    total = weight.sum(axis=-1, keepdims=True)
    literal = np.divide(weight, total, out=x.reference.copy(), where=total > 0)
    return x.mean(0.5 * np.abs(literal - CHI_SQUARED_REGULARIZER.policy(x)).sum(axis=-1))


# ---- coverage ------------------------------------------------------------------------------------


def _rarest_coverage(x: Problems) -> FloatArray:
    """`C` of the policy that always gives the rarest response."""
    rarest = np.eye(x.reference.shape[-1])[x.reference.argmin(axis=-1)]
    return x.mean(1.0 + 2.0 * chi_squared(x, rarest))


def _largest_coverage(x: Problems) -> FloatArray:
    return x.mean(all_policy_concentrability(x.reference[..., None, :]))


# ---- the multiplier ------------------------------------------------------------------------------


def _bracket(regularizer: Regularizer) -> tuple[ProblemClaim, ProblemClaim]:
    def multiplier(x: Problems) -> FloatArray:
        return regularizer.optimum(x)[1]

    name, rare = regularizer.name, 1e-9
    resolution = mixed_rounding if regularizer is MIXED_REGULARIZER else reward_rounding
    return (
        ProblemClaim(
            f"multiplier below the maximum, {name}",
            "lambda - min r <= max r - min r",
            _DERIVED,
            "upper",
            lambda x: x.mean(multiplier(x) - lowest(x)),
            lambda x: x.mean(span(x)),
            lambda: single([1.0 - rare, rare], [1.0, 0.0]),
            resolution,
        ),
        ProblemClaim(
            f"multiplier above the minimum, {name}",
            "max r - lambda <= max r - min r",
            _DERIVED,
            "upper",
            lambda x: x.mean(highest(x) - multiplier(x)),
            lambda x: x.mean(span(x)),
            lambda: single([1.0 - rare, rare], [0.0, 1.0], beta=100.0),
            resolution,
        ),
    )


# ---- the list ------------------------------------------------------------------------------------


def _clipping_problem() -> Problems:
    """One response of three gets no mass."""
    return single([0.5, 0.3, 0.2], [1.0, 0.25, -0.5], beta=0.4)


def _nearly_active() -> Problems:
    """Put the second response barely above the point of clipping, the third barely below."""
    return single([0.5, 0.2, 0.2, 0.1], [2.0, 1.0 + 1e-9, 1.0 - 1e-9, 0.0], beta=0.5)


OPTIMA_CLAIMS: tuple[ProblemClaim, ...] = (
    ProblemClaim(
        "chi2 optimum on its active set",
        "C(pi_beta) = E_p[(1/P_S + (r - E_p[r|S])/beta)^2 on S], S = {y: E_p[(r - r(y))_+] < beta}",
        "derived: stationarity",
        "identity",
        _solved_coverage,
        _closed_form_coverage,
        _clipping_problem,
        _active_rounding,
    ),
    ProblemClaim(
        "chi2 multiplier on its active set",
        "lambda = E_p[r|S] - beta (1 - P_S)/P_S",
        "derived: stationarity",
        "identity",
        lambda x: x.mean(CHI_SQUARED_REGULARIZER.optimum(x)[1]),
        _closed_form_multiplier,
        _clipping_problem,
        lambda x: RESOLUTION * (size(x) + x.beta * x.mean(1.0 / _active_moments(x)[1])),
    ),
    ProblemClaim(
        "chi2 clips from below",
        "max r clipped <= min r active (from min r)",
        "derived: stationarity",
        "upper",
        _best_clipped,
        _worst_active,
        _nearly_active,
        reward_rounding,
    ),
    ProblemClaim(
        "chi2 optimum without clipping",
        "J(pi_beta) - J(p) = Cov_p(r*, r)/beta",
        "blog 2025, with its additive shift: pi = p (1 + (r - E_p[r])/beta)",
        "identity",
        _gain,
        _covariance,
        lambda: generic_problem(beta=1.5),
        lambda x: true_value_rounding(unclipped(x)),
        "beta > E_p[r] - min r",
    ),
    ProblemClaim(
        "chi2 optimum proportional to the reward",
        "TV(p r/E_p[r], pi_beta) <= 0",
        "blog 2025 (as printed: pi ~ p r/beta)",
        "false",
        _distance_from_literal,
        lambda x: np.zeros(len(x)),
        lambda: single([0.5, 0.5], [1.0, 0.0]),
        lambda x: ratio_rounding(unclipped(x)),
        "r >= 0",
    ),
    ProblemClaim(
        "largest coverage",
        "C of the rarest response = E_x[1/min p]",
        "arXiv 2407.13399",
        "identity",
        _rarest_coverage,
        _largest_coverage,
        generic_problem,
    ),
    ProblemClaim(
        "coverage of any policy",
        "C(pi) <= E_x[1/min p]",
        "arXiv 2407.13399",
        "upper",
        lambda x: x.mean(1.0 + 2.0 * chi_squared(x, x.policy)),
        _largest_coverage,
        lambda: single([0.7, 0.2, 0.1], [0.0, 0.0, 0.0], policy=[0.0, 0.0, 1.0]),
    ),
    *(claim for regularizer in REGULARIZERS for claim in _bracket(regularizer)),
)
