"""Deterministic regret of regularized policies.

Notation: `delta = r* - r^` centred under p, `eps_c = ||delta||_p`, `D* = D_chi2(pi* || p)`,
`w = pi/p`; `D`s and norms are averaged over prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rlhfsim.bounds import chi_squared_bound, sharp_chi_squared_bound
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.base import RESOLUTION
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.regularized import (
    CHI_SQUARED_REGULARIZER,
    KL_REGULARIZER,
    MIXED_REGULARIZER,
    ProblemClaim,
    Regularizer,
    chi_squared,
    kl_divergence,
    size,
    squared_distance,
    true_size,
)

SHARP = "derived: strong concavity, Cauchy-Schwarz"

#: What a generous constant would be; no constant helps.
_CONSTANT = 1000.0


# ---- sides ---------------------------------------------------------------------------------------


def regret(x: Problems, regularizer: Regularizer) -> FloatArray:
    """Return `J(pi*) - J(pi^)` of the policy that is regularized with `reward_hat`."""
    return x.mean(((x.comparator - regularizer.policy(x)) * x.reward).sum(axis=-1))


def _regret_of(regularizer: Regularizer) -> Callable[[Problems], FloatArray]:
    return lambda x: regret(x, regularizer)


def error_norm(x: Problems) -> FloatArray:
    """Return `eps_c`."""
    delta = x.reward - x.reward_hat
    centred = delta - (x.reference * delta).sum(axis=-1, keepdims=True)
    return np.sqrt(x.mean((x.reference * centred**2).sum(axis=-1)))


def comparator_cost(x: Problems) -> FloatArray:
    """Return `D*`."""
    return x.mean(chi_squared(x, x.comparator))


def _comparator_kl(x: Problems) -> FloatArray:
    return x.mean(kl_divergence(x, x.comparator))


def _sharp(x: Problems) -> FloatArray:
    """`||delta + beta (w* - 1)||_p^2 / (4 beta)`."""
    arrays = (x.reward, x.reward_hat, x.reference, x.comparator)
    r, r_hat, p, star = (array[:, :, None, :] for array in arrays)
    return x.mean(sharp_chi_squared_bound(r, r_hat, p, x.beta[:, None], star))


def _in_norms(x: Problems) -> FloatArray:
    return chi_squared_bound(error_norm(x), comparator_cost(x), x.beta)


def _in_norms_with_kl(x: Problems) -> FloatArray:
    return chi_squared_bound(error_norm(x), _comparator_kl(x), x.beta)


def _textbook(x: Problems) -> FloatArray:
    """`sqrt(2 D*) eps_c + beta D* + eps_c^2/(2 beta)`."""
    star, error = comparator_cost(x), error_norm(x)
    return product(np.sqrt(2.0 * star), error) + x.beta * star + error**2 / (2.0 * x.beta)


def product(coverage: FloatArray, error: FloatArray) -> FloatArray:
    """Return `coverage error`, without a bound where coverage is infinite."""
    finite = np.isfinite(coverage)
    return np.where(finite, np.where(finite, coverage, 0.0) * error, np.inf)


def has_theory_beta(x: Problems) -> BoolArray:
    """Return where `eps_c / sqrt(2 D*)` is positive and finite."""
    star, error = comparator_cost(x), error_norm(x)
    return np.asarray((star > 0) & np.isfinite(star) & (error > 0))


def tuned(x: Problems) -> Problems:
    """Return the instances at `beta = eps_c / sqrt(2 D*)`, where that is positive and finite."""
    star, error = comparator_cost(x), error_norm(x)
    exists = has_theory_beta(x)
    beta = np.divide(error, np.sqrt(2.0 * star), out=x.beta.copy(), where=exists)
    return replace(x, beta=beta)


def _coverage_times_error(x: Problems) -> FloatArray:
    bound = product(np.sqrt(2.0 * comparator_cost(x)), error_norm(x))
    return np.where(has_theory_beta(x), bound, np.inf)


def _objective_lost(x: Problems) -> FloatArray:
    policy = CHI_SQUARED_REGULARIZER.policy(x)
    best = CHI_SQUARED_REGULARIZER.objective(x, policy)
    return best - CHI_SQUARED_REGULARIZER.objective(x, x.comparator)


def _half_distance(x: Problems) -> FloatArray:
    policy = CHI_SQUARED_REGULARIZER.policy(x)
    return 0.5 * x.beta * squared_distance(x, policy, x.comparator)


# ---- rounding ------------------------------------------------------------------------------------


def regret_rounding(x: Problems) -> FloatArray:
    """Return the rounding of the regret, and what the rounding of delta makes of a bound."""
    regularized = x.mean((x.reference * np.abs(x.reward)).sum(axis=-1))
    compared = x.mean((x.comparator * np.abs(x.reward)).sum(axis=-1))
    star = comparator_cost(x)
    spread = np.sqrt(2.0 * np.where(np.isfinite(star), star, 0.0))
    largest = size(x) + true_size(x)
    relative = (1.0 + size(x) / x.beta) * regularized
    return RESOLUTION * (compared + relative + largest * (1.0 + spread))


def _concavity_rounding(x: Problems) -> FloatArray:
    star = comparator_cost(x)
    learned = x.mean(chi_squared(x, CHI_SQUARED_REGULARIZER.policy(x)))
    costs = np.where(np.isfinite(star), star, 0.0) + learned
    return RESOLUTION * (size(x) + x.beta * (1.0 + costs))


# ---- witnesses -----------------------------------------------------------------------------------


def attained(gamma: float = 1.0) -> Problems:
    """Return a problem where `r*_c = (delta + beta (w* - 1))/2`, and nothing is clipped."""
    p, star = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.2, 0.4])
    delta = np.array([0.2, -0.2, -0.2])
    reward = 0.5 * (delta + star / p - 1.0)
    return single(
        p.tolist(), (reward - delta).tolist(), reward=reward.tolist(), gamma=gamma,
        comparator=star.tolist(),
    )  # fmt: skip


def aligned(scale: float = 1.0) -> Problems:
    """Return a problem where `r*_c = delta = beta (w* - 1)`: the learned reward is constant."""
    p, star = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.2, 0.4])
    reward = scale * (star / p - 1.0)
    return single(
        p.tolist(), [0.0, 0.0, 0.0], reward=reward.tolist(), beta=scale, comparator=star.tolist()
    )


def _rare_overestimated() -> Problems:
    """Overestimate a response of mass 1e-12: KL gives it half of all mass."""
    rare = 1e-12
    return single(
        [1.0 - rare, rare], [0.0, 1.0], reward=[0.0, -1.0], beta=1.0 / np.log(1.0 / rare),
        comparator=[1.0, 0.0],
    )  # fmt: skip


def _rare_overestimated_of_three() -> Problems:
    """Do the same next to a comparator of coverage 2."""
    rare = 1e-16
    return single(
        [0.5, 0.5 - rare, rare], [0.0, 0.0, 1.0], reward=[0.0, 0.0, -1.0],
        comparator=[1.0, 0.0, 0.0],
    )  # fmt: skip


def _rare_missed() -> Problems:
    """Let the comparator take a response of mass 1e-20: its KL is about 2, its D* is not."""
    rare, mass = 1e-20, 0.05
    return single(
        [1.0, rare], [0.0, 0.0], reward=[0.0, 1.0], beta=5e-11, comparator=[1.0 - mass, mass]
    )


# ---- the list ------------------------------------------------------------------------------------

REGRET_CLAIMS: tuple[ProblemClaim, ...] = (
    ProblemClaim(
        "strong concavity of chi2",
        "beta/2 ||w^ - w*||_p^2 <= J^_beta(pi^) - J^_beta(pi*)",
        "derived: stationarity",
        "tight",
        _half_distance,
        _objective_lost,
        attained,
        _concavity_rounding,
    ),
    ProblemClaim(
        "sharp chi2 regret",
        "regret <= ||delta + beta (w* - 1)||_p^2/(4 beta)",
        SHARP,
        "tight",
        _regret_of(CHI_SQUARED_REGULARIZER),
        _sharp,
        attained,
        regret_rounding,
    ),
    ProblemClaim(
        "sharp chi2 regret in norms",
        "regret <= (eps_c + beta sqrt(2 D*))^2/(4 beta)",
        SHARP,
        "tight",
        _regret_of(CHI_SQUARED_REGULARIZER),
        _in_norms,
        aligned,
        regret_rounding,
    ),
    ProblemClaim(
        "chi2 regret at the beta of theory",
        "regret <= sqrt(C* - 1) eps_c at beta = eps_c/sqrt(2 D*)",
        "shape of arXiv 2407.13399, thm 3.1; constant derived",
        "tight",
        lambda x: regret(tuned(x), CHI_SQUARED_REGULARIZER),
        _coverage_times_error,
        aligned,
        lambda x: regret_rounding(tuned(x)),
    ),
    ProblemClaim(
        "sharp mixed regret",
        "regret <= ||delta + beta (w* - 1)||_p^2/(4 beta) + beta gamma KL(pi* || p)",
        SHARP,
        "tight",
        _regret_of(MIXED_REGULARIZER),
        lambda x: _sharp(x) + x.beta * x.gamma * _comparator_kl(x),
        lambda: attained(gamma=1e-8),
        regret_rounding,
    ),
    ProblemClaim(
        "textbook chi2 regret",
        "regret <= sqrt(2 D*) eps_c + beta D* + eps_c^2/(2 beta)",
        "textbook: change of measure, then AM-GM",
        "upper",
        _regret_of(CHI_SQUARED_REGULARIZER),
        _textbook,
        aligned,
        regret_rounding,
    ),
    ProblemClaim(
        "textbook bound is twice the sharp one",
        "sqrt(2 D*) eps_c + beta D* + eps_c^2/(2 beta) = 2 (eps_c + beta sqrt(2 D*))^2/(4 beta)",
        "algebra",
        "identity",
        _textbook,
        lambda x: 2.0 * _in_norms(x),
        attained,
    ),
    ProblemClaim(
        "chi2 regret for KL regularization",
        "regret of KL <= 1000 (eps_c + beta sqrt(2 D*))^2/(4 beta)",
        "arXiv 2407.13399, prop. A.1 (why KL fails)",
        "false",
        _regret_of(KL_REGULARIZER),
        lambda x: _CONSTANT * _in_norms(x),
        _rare_overestimated,
        regret_rounding,
    ),
    ProblemClaim(
        "KL regret at the beta of theory",
        "regret of KL <= 1000 sqrt(C* - 1) eps_c at beta = eps_c/sqrt(2 D*)",
        "arXiv 2407.13399, prop. A.1 (why KL fails)",
        "false",
        lambda x: regret(tuned(x), KL_REGULARIZER),
        lambda x: _CONSTANT * _coverage_times_error(x),
        _rare_overestimated_of_three,
        lambda x: regret_rounding(tuned(x)),
    ),
    ProblemClaim(
        "KL coverage in the chi2 regret",
        "regret <= 1000 (eps_c + beta sqrt(2 KL(pi* || p)))^2/(4 beta)",
        "blog 2025 (why KL fails)",
        "false",
        _regret_of(CHI_SQUARED_REGULARIZER),
        lambda x: _CONSTANT * _in_norms_with_kl(x),
        _rare_missed,
        regret_rounding,
    ),
)
