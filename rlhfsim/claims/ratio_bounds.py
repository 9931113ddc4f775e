"""How far regularized optima move: ceilings and floors of `w = pi/p`, collapse, limits in gamma."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.regularized import (
    CHI_SQUARED_REGULARIZER,
    KL_REGULARIZER,
    MIXED_REGULARIZER,
    ProblemClaim,
    Regularizer,
    chi_squared,
    highest,
    kl_divergence,
    mixed_rounding,
    ratio_rounding,
    ratios,
    reward_rounding,
    span,
    squared_distance,
    tamed,
    tamed_mixed,
)
from rlhfsim.divergences import KL

_DERIVED = "derived: stationarity"
_RARE = 1e-9


def _largest_ratio(regularizer: Regularizer, x: Problems) -> FloatArray:
    return np.asarray(ratios(x, regularizer.policy(x)).max(axis=-1))


def _smallest_ratio(regularizer: Regularizer, x: Problems) -> FloatArray:
    return np.asarray(ratios(x, regularizer.policy(x), outside=np.inf).min(axis=-1))


def _affine_ceiling(x: Problems) -> FloatArray:
    return x.mean(1.0 + span(x) / x.beta[:, None])


def _log_ceiling(x: Problems) -> FloatArray:
    return x.beta * x.mean(np.log(_largest_ratio(KL_REGULARIZER, x)))


def _log_floor(x: Problems) -> FloatArray:
    x = tamed(x)
    return -x.beta * x.mean(np.log(_smallest_ratio(KL_REGULARIZER, x)))


def _mixed_log_floor(x: Problems) -> FloatArray:
    x = tamed_mixed(x)
    return -x.beta * x.gamma * x.mean(np.log(_smallest_ratio(MIXED_REGULARIZER, x)))


def _mean_span(x: Problems) -> FloatArray:
    return x.mean(span(x))


# ---- collapse ------------------------------------------------------------------------------------


def _best(x: Problems) -> BoolArray:
    """Which responses are best on the support of p, (N, X, Y)."""
    return (x.reference > 0) & (x.reward_hat == highest(x)[..., None])


def _mass_off_the_best(x: Problems) -> FloatArray:
    return x.mean(np.where(_best(x), 0.0, KL_REGULARIZER.policy(x)).sum(axis=-1))


def _collapse_bound(x: Problems) -> FloatArray:
    best = _best(x)
    mass = np.where(best, x.reference, 0.0).sum(axis=-1)
    rest = np.where(best, 0.0, x.reference).sum(axis=-1)
    others = np.where(~best & (x.reference > 0), x.reward_hat, -np.inf).max(axis=-1)
    return x.mean(rest / mass * np.exp((others - highest(x)) / x.beta[:, None]))


# ---- limits in gamma -----------------------------------------------------------------------------


def _distance_to_chi_squared(x: Problems) -> FloatArray:
    mixed, sparse = MIXED_REGULARIZER.policy(x), CHI_SQUARED_REGULARIZER.policy(x)
    information = x.mean(KL().per_prompt(sparse, mixed))
    return squared_distance(x, mixed, sparse) + x.gamma * information


def _kl_saved(x: Problems) -> FloatArray:
    mixed, sparse = MIXED_REGULARIZER.policy(x), CHI_SQUARED_REGULARIZER.policy(x)
    return x.gamma * x.mean(kl_divergence(x, sparse) - kl_divergence(x, mixed))


def _near_chi_squared_rounding(x: Problems) -> FloatArray:
    information = x.mean(kl_divergence(x, CHI_SQUARED_REGULARIZER.policy(x)))
    return ratio_rounding(x) * (4.0 + x.gamma * (1.0 + information))


def _gibbs_of_mixed(x: Problems) -> FloatArray:
    """Return the KL optimum at `beta gamma`."""
    return KL_REGULARIZER.policy(replace(x, beta=x.beta * x.gamma))


def _distance_to_gibbs(x: Problems) -> FloatArray:
    x = tamed_mixed(x)
    mixed, gibbs = MIXED_REGULARIZER.policy(x), _gibbs_of_mixed(x)
    both_ways = x.mean(KL().per_prompt(mixed, gibbs) + KL().per_prompt(gibbs, mixed))
    return x.gamma * both_ways + 0.5 * squared_distance(x, gibbs, mixed)


def _chi_squared_saved(x: Problems) -> FloatArray:
    x = tamed_mixed(x)
    mixed, gibbs = MIXED_REGULARIZER.policy(x), _gibbs_of_mixed(x)
    return x.mean(chi_squared(x, gibbs) - chi_squared(x, mixed))


def _near_gibbs_rounding(x: Problems) -> FloatArray:
    x = tamed_mixed(x)
    spread = 1.0 + x.mean(chi_squared(x, _gibbs_of_mixed(x)))
    relative = ratio_rounding(replace(x, beta=x.beta * x.gamma))
    return relative * (spread + _distance_to_gibbs(x))


# ---- the list ------------------------------------------------------------------------------------


def _rare_and_best() -> Problems:
    return single([_RARE, 1.0 - _RARE], [1.0, 0.0], gamma=1e-8)


def _rare_and_worst() -> Problems:
    return single([1.0 - _RARE, _RARE], [1.0, 0.0])


RATIO_CLAIMS: tuple[ProblemClaim, ...] = (
    ProblemClaim(
        "ceiling of chi2",
        "max w <= 1 + (max r - min r)/beta",
        _DERIVED,
        "upper",
        lambda x: x.mean(_largest_ratio(CHI_SQUARED_REGULARIZER, x)),
        _affine_ceiling,
        _rare_and_best,
        ratio_rounding,
    ),
    ProblemClaim(
        "ceiling of mixed",
        "max w <= 1 + (max r - min r)/beta",
        _DERIVED,
        "upper",
        lambda x: x.mean(_largest_ratio(MIXED_REGULARIZER, x)),
        _affine_ceiling,
        _rare_and_best,
        ratio_rounding,
    ),
    ProblemClaim(
        "ceiling of KL",
        "max w <= exp((max r - min r)/beta), in logs",
        _DERIVED,
        "upper",
        _log_ceiling,
        _mean_span,
        _rare_and_best,
        reward_rounding,
    ),
    ProblemClaim(
        "floor of KL",
        "min w >= exp(-(max r - min r)/beta), in logs",
        _DERIVED,
        "upper",
        _log_floor,
        _mean_span,
        _rare_and_worst,
        lambda x: reward_rounding(tamed(x)),
        "exp(r/beta) within the floats",
    ),
    ProblemClaim(
        "floor of mixed",
        "min w >= exp(-(max r - min r)/(beta gamma)), in logs",
        _DERIVED,
        "upper",
        _mixed_log_floor,
        _mean_span,
        lambda: single([1.0 - _RARE, _RARE], [1.0, 0.0], beta=1e-7, gamma=1e7),
        lambda x: mixed_rounding(tamed_mixed(x)),
        "exp(r/(beta gamma)) within the floats",
    ),
    ProblemClaim(
        "only chi2 has a floor",
        "min w of KL <= min w of chi2",
        "summaries of arXiv 2407.13399",
        "false",
        lambda x: x.mean(_smallest_ratio(KL_REGULARIZER, x)),
        lambda x: x.mean(_smallest_ratio(CHI_SQUARED_REGULARIZER, x)),
        lambda: single([0.5, 0.5], [1.0, 0.0], beta=0.5),
        ratio_rounding,
    ),
    ProblemClaim(
        "collapse of KL",
        "1 - pi_beta(S) <= (1 - P)/P exp(-gap/beta), S = argmax r, P = p(S)",
        "arXiv 2205.11275",
        "upper",
        _mass_off_the_best,
        _collapse_bound,
        lambda: single([0.5, 0.5], [15.0, 0.0]),
        ratio_rounding,
    ),
    ProblemClaim(
        "mixed tends to chi2",
        "||w_gamma - w_0||_p^2 + gamma KL(pi_0 || pi_gamma) "
        "<= gamma (KL(pi_0 || p) - KL(pi_gamma || p))",
        "derived: strong concavity, twice",
        "upper",
        _distance_to_chi_squared,
        _kl_saved,
        lambda: single([0.5, 0.5], [1.0, 0.0], gamma=0.1),
        _near_chi_squared_rounding,
    ),
    ProblemClaim(
        "mixed tends to KL",
        "gamma (KL(pi || pi_KL) + KL(pi_KL || pi)) + ||w - w_KL||_p^2/2 "
        "= D_chi2(pi_KL || p) - D_chi2(pi || p), pi_KL at beta gamma",
        "derived: Pythagorean identities",
        "identity",
        _distance_to_gibbs,
        _chi_squared_saved,
        lambda: single([0.5, 0.5], [1.0, 0.0], gamma=3.0),
        _near_gibbs_rounding,
        "exp(r/(beta gamma)) within the floats",
    ),
)
