"""What claims on `Problems` are made of: regularizers, spans of rewards, and their rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.problems import Problems
from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.solvers import solve

ProblemClaim = Claim[Problems]

#: Largest exponent that `tamed` lets through.
_EXPONENT = 300.0


@dataclass(frozen=True)
class Regularizer:
    """A divergence that may depend on the instance's gamma; `reward_hat` is what it regularizes."""

    name: str
    #: The optimal policy (N, X, Y) and its multiplier (N, X).
    optimum: Callable[[Problems], tuple[FloatArray, FloatArray]]
    #: `D(policy || reference)`, (N, X).
    cost: Callable[[Problems, FloatArray], FloatArray]

    def policy(self, x: Problems) -> FloatArray:
        """Return the optimal policy, (N, X, Y)."""
        return self.optimum(x)[0]

    def objective(self, x: Problems, policy: FloatArray) -> FloatArray:
        """Return `E_pi[r^] - beta D(pi || p)`, averaged over prompts, (N,)."""
        gain = (policy * x.reward_hat).sum(axis=-1)
        return x.mean(gain - x.beta[:, None] * self.cost(x, policy))


def _optimum_of(divergence: KL | ChiSquared) -> Callable[[Problems], tuple[FloatArray, FloatArray]]:
    def optimum(x: Problems) -> tuple[FloatArray, FloatArray]:
        solution = solve(x.reward_hat, x.reference, divergence, x.beta[:, None])
        return solution.policy, solution.multiplier

    return optimum


def _mixed_optimum(x: Problems) -> tuple[FloatArray, FloatArray]:
    policy, multiplier = np.empty_like(x.reference), np.empty_like(x.prompt_dist)
    for gamma in np.unique(x.gamma):
        rows = x.gamma == gamma
        divergence = ChiSquared() + float(gamma) * KL()
        solution = solve(x.reward_hat[rows], x.reference[rows], divergence, x.beta[rows, None])
        policy[rows], multiplier[rows] = solution.policy, solution.multiplier
    return policy, multiplier


def kl_divergence(x: Problems, policy: FloatArray) -> FloatArray:
    """Return `KL(policy || p)` per prompt, (N, X)."""
    return KL().per_prompt(policy, x.reference)


def chi_squared(x: Problems, policy: FloatArray) -> FloatArray:
    """Return `D_chi2(policy || p)` per prompt, (N, X), with the 1/2."""
    return ChiSquared().per_prompt(policy, x.reference)


def _mixed_cost(x: Problems, policy: FloatArray) -> FloatArray:
    return chi_squared(x, policy) + x.gamma[:, None] * kl_divergence(x, policy)


KL_REGULARIZER = Regularizer("KL", _optimum_of(KL()), kl_divergence)
CHI_SQUARED_REGULARIZER = Regularizer("chi2", _optimum_of(ChiSquared()), chi_squared)
MIXED_REGULARIZER = Regularizer("mixed", _mixed_optimum, _mixed_cost)
REGULARIZERS = (KL_REGULARIZER, CHI_SQUARED_REGULARIZER, MIXED_REGULARIZER)


# ---- quantities ----------------------------------------------------------------------------------


def highest(x: Problems) -> FloatArray:
    """Return the largest `r^` on the support of p, (N, X)."""
    return np.asarray(np.where(x.reference > 0, x.reward_hat, -np.inf).max(axis=-1))


def lowest(x: Problems) -> FloatArray:
    """Return the smallest `r^` on the support of p, (N, X)."""
    return np.asarray(np.where(x.reference > 0, x.reward_hat, np.inf).min(axis=-1))


def span(x: Problems) -> FloatArray:
    """Return `max r^ - min r^` on the support of p, (N, X)."""
    return highest(x) - lowest(x)


def ratios(x: Problems, policy: FloatArray, outside: float = 1.0) -> FloatArray:
    """Return `w = policy/p`, (N, X, Y), and `outside` where p is 0."""
    return np.divide(policy, x.reference, out=np.full(policy.shape, outside), where=x.reference > 0)


def baseline(x: Problems, reward: FloatArray) -> FloatArray:
    """Return `E_x E_p[reward]`, (N,)."""
    return x.mean((x.reference * reward).sum(axis=-1))


def squared_distance(x: Problems, policy: FloatArray, other: FloatArray) -> FloatArray:
    """Return `||policy/p - other/p||_p^2`, averaged over prompts; `inf` off the support."""
    step = policy - other
    inside = x.reference > 0
    scaled = np.divide(step, x.reference, out=np.zeros_like(step), where=inside)
    terms = np.where(inside, step * scaled, np.where(step != 0, np.inf, 0.0))
    return x.mean(terms.sum(axis=-1))


def tamed(x: Problems) -> Problems:
    """Return the instances with beta large enough that no `e^(r/beta)` leaves the floats."""
    return replace(x, beta=np.maximum(x.beta, span(x).max(axis=1) / _EXPONENT))


def tamed_mixed(x: Problems) -> Problems:
    """Return the instances with gamma large enough that no `e^(r/(beta gamma))` does."""
    least = span(x).max(axis=1) / (_EXPONENT * x.beta)
    # To a power of 2, because every other gamma is a solve of its own.
    power = np.exp2(np.ceil(np.log2(np.maximum(least, x.gamma.min()))))
    return replace(x, gamma=np.where(x.gamma >= least, x.gamma, power))


# ---- rounding ------------------------------------------------------------------------------------


def size(x: Problems) -> FloatArray:
    """Return the largest `|r^|`, (N,)."""
    return np.asarray(np.abs(x.reward_hat).max(axis=(1, 2)))


def true_size(x: Problems) -> FloatArray:
    """Return the largest `|r*|`, (N,)."""
    return np.asarray(np.abs(x.reward).max(axis=(1, 2)))


def reward_rounding(x: Problems) -> FloatArray:
    """Return the rounding of what is measured in rewards: multipliers, values near the optimum."""
    return RESOLUTION * (size(x) + x.beta)


def mixed_rounding(x: Problems) -> FloatArray:
    """Return the rounding of what is measured in rewards, with costs as large as `beta gamma`."""
    return reward_rounding(x) + RESOLUTION * x.beta * x.gamma


def ratio_rounding(x: Problems) -> FloatArray:
    """Return the rounding of `(r - lambda)/beta`: of the ratios of chi2, relatively of KL's."""
    return RESOLUTION * (1.0 + size(x) / x.beta)


def true_value_rounding(x: Problems) -> FloatArray:
    """Return the rounding of `J(pi_beta)`."""
    return true_size(x) * ratio_rounding(x)
