"""What preferences tell about reward errors, and so about regret.

Notation as in `rlhfsim.claims.regret`; `s` and `t` are gaps `r(y) - r(y')` of the two rewards.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.regret import (
    SHARP,
    aligned,
    attained,
    comparator_cost,
    error_norm,
    has_theory_beta,
    product,
    regret,
    regret_rounding,
    tuned,
)
from rlhfsim.claims.regularized import CHI_SQUARED_REGULARIZER, ProblemClaim, size, true_size


def _gaps(reward: FloatArray) -> FloatArray:
    return reward[..., :, None] - reward[..., None, :]


def _over_pairs(x: Problems, values: FloatArray) -> FloatArray:
    """`E_{x; y, y' ~ p}` of (N, X, Y, Y) numbers."""
    weight = x.reference[..., :, None] * x.reference[..., None, :]
    return x.mean((weight * values).sum(axis=(-2, -1)))


def _mean_gap_error(x: Problems) -> FloatArray:
    return _over_pairs(x, np.abs(_gaps(x.reward - x.reward_hat)))


def _squared_gap_error(x: Problems) -> FloatArray:
    return _over_pairs(x, _gaps(x.reward - x.reward_hat) ** 2)


def _preference_error(x: Problems) -> FloatArray:
    """`|sigma(gap of r*) - sigma(gap of r^)|` for every pair, without cancellation."""
    high = np.maximum(_gaps(x.reward), _gaps(x.reward_hat))
    low = np.minimum(_gaps(x.reward), _gaps(x.reward_hat))
    apart = np.abs(_gaps(x.reward - x.reward_hat))
    with np.errstate(over="ignore"):
        return np.asarray(-np.expm1(-apart) / ((1.0 + np.exp(-high)) * (1.0 + np.exp(low))))


def _smallest_slope(x: Problems) -> FloatArray:
    """`sigma'(V)`, V the largest gap of either reward on the support."""
    inside = x.reference > 0
    both = inside[..., :, None] & inside[..., None, :]
    largest = np.maximum(np.abs(_gaps(x.reward)), np.abs(_gaps(x.reward_hat)))
    v = np.where(both, largest, 0.0).max(axis=(1, 2, 3))
    with np.errstate(over="ignore"):
        return np.asarray(0.25 / np.cosh(0.5 * v) ** 2)


def _root_preference_error(x: Problems) -> FloatArray:
    return np.sqrt(_over_pairs(x, _preference_error(x) ** 2))


def _regret_from_preferences(x: Problems) -> FloatArray:
    """`sqrt(D*) ||sigma - sigma^|| / sigma'(V)`."""
    slope = _smallest_slope(x)
    error = np.divide(
        _root_preference_error(x), slope, out=np.full(len(x), np.inf), where=slope > 0
    )
    bound = product(np.sqrt(comparator_cost(x)), error)
    return np.where(has_theory_beta(x), bound, np.inf)


def _pair_rounding(x: Problems) -> FloatArray:
    return RESOLUTION * (size(x) + true_size(x))


def _nearly_equal_gaps() -> Problems:
    return single([0.5, 0.5], [2.0 - 1e-6, 0.0], reward=[2.0, 0.0])


PREFERENCE_ERROR_CLAIMS: tuple[ProblemClaim, ...] = (
    ProblemClaim(
        "error of pairs",
        "E[(gap of r* - gap of r^)^2] = 2 eps_c^2, y, y' ~ p",
        "derived: variance of a difference",
        "identity",
        _squared_gap_error,
        lambda x: 2.0 * error_norm(x) ** 2,
        attained,
        lambda x: _pair_rounding(x) * (size(x) + true_size(x)),
    ),
    ProblemClaim(
        "preferences tell gaps apart",
        "E|sigma(s) - sigma(t)| >= sigma'(V) E|s - t|, |s|, |t| <= V",
        "derived: mean value theorem",
        "lower",
        lambda x: _over_pairs(x, _preference_error(x)),
        lambda x: _smallest_slope(x) * _mean_gap_error(x),
        _nearly_equal_gaps,
        _pair_rounding,
    ),
    ProblemClaim(
        "preference error bounds the reward error",
        "sqrt(E[(sigma(s) - sigma(t))^2]) >= sqrt(2) sigma'(V) eps_c",
        "derived: mean value theorem",
        "lower",
        _root_preference_error,
        lambda x: np.sqrt(2.0) * _smallest_slope(x) * error_norm(x),
        _nearly_equal_gaps,
        _pair_rounding,
    ),
    ProblemClaim(
        "chi2 regret from the preference error",
        "regret <= sqrt(D*) sqrt(E[(sigma(s) - sigma(t))^2])/sigma'(V) at beta = eps_c/sqrt(2 D*)",
        SHARP,
        "upper",
        lambda x: regret(tuned(x), CHI_SQUARED_REGULARIZER),
        _regret_from_preferences,
        lambda: aligned(scale=1e-4),
        lambda x: regret_rounding(tuned(x)),
    ),
)
