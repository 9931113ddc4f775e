"""KL regularization as statistical physics and as Bayesian inference: identities.

Sources: Donsker & Varadhan 1975, arXiv 2205.11275 (KL as Bayesian inference).
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.regularized import (
    KL_REGULARIZER,
    ProblemClaim,
    highest,
    kl_divergence,
    reward_rounding,
    tamed,
    true_value_rounding,
)
from rlhfsim.divergences import KL


def _log_partition(x: Problems) -> FloatArray:
    """`log E_p[e^((r - max r)/beta)]`, (N, X)."""
    exponent = (x.reward_hat - highest(x)[..., None]) / x.beta[:, None, None]
    exponent = np.where(x.reference > 0, exponent, 0.0)
    near = (x.reference * np.expm1(exponent)).sum(axis=-1)
    far = (x.reference * np.exp(exponent)).sum(axis=-1)
    # Near 1 the logarithm of the sum has no digits, far from 1 expm1 has none.
    return np.where(near > -0.5, np.log1p(np.maximum(near, -0.5)), np.log(far))


def _free_energy(x: Problems) -> FloatArray:
    """`E_x[beta log E_p e^(r/beta)]`."""
    return x.mean(highest(x) + x.beta[:, None] * _log_partition(x))


def _posterior(x: Problems) -> FloatArray:
    """Bayes' rule with prior p and likelihood `e^(r/beta)`."""
    exponent = (x.reward_hat - highest(x)[..., None]) / x.beta[:, None, None]
    exponent = np.where(x.reference > 0, exponent, -np.inf)
    return np.asarray(x.reference * np.exp(exponent - _log_partition(x)[..., None]))


def _best_value(x: Problems) -> FloatArray:
    return KL_REGULARIZER.objective(x, KL_REGULARIZER.policy(x))


def _value_lost(x: Problems) -> FloatArray:
    x = tamed(x)
    return _best_value(x) - KL_REGULARIZER.objective(x, x.policy)


def _divergence_from_optimum(x: Problems) -> FloatArray:
    x = tamed(x)
    return x.beta * x.mean(KL().per_prompt(x.policy, KL_REGULARIZER.policy(x)))


def _evidence_split(x: Problems) -> FloatArray:
    x = tamed(x)
    to_posterior = x.mean(KL().per_prompt(x.policy, _posterior(x)))
    return KL_REGULARIZER.objective(x, x.policy) + x.beta * to_posterior


def _comparison_rounding(x: Problems) -> FloatArray:
    x = tamed(x)
    divergence = x.mean(kl_divergence(x, x.policy) + kl_divergence(x, KL_REGULARIZER.policy(x)))
    return reward_rounding(x) + RESOLUTION * x.beta * divergence


def generic_problem(beta: float = 0.7) -> Problems:
    """Return an instance without ties or symmetries; chi-squared clips below beta = 0.975."""
    return single(
        [0.5, 0.3, 0.2], [1.0, 0.25, -0.5], reward=[0.3, 1.0, -0.2], beta=beta,
        policy=[0.2, 0.2, 0.6],
    )  # fmt: skip


GIBBS_CLAIMS: tuple[ProblemClaim, ...] = (
    ProblemClaim(
        "Gibbs variational principle",
        "max_pi E_pi[r] - beta KL(pi || p) = beta log E_p[exp(r/beta)]",
        "Donsker & Varadhan 1975",
        "identity",
        _best_value,
        _free_energy,
        generic_problem,
        lambda x: (
            reward_rounding(x)
            + RESOLUTION * x.beta * x.mean(kl_divergence(x, KL_REGULARIZER.policy(x)))
        ),
    ),
    ProblemClaim(
        "gap of KL regularization",
        "J_beta(pi_beta) - J_beta(pi) = beta KL(pi || pi_beta)",
        "arXiv 2205.11275",
        "identity",
        _value_lost,
        _divergence_from_optimum,
        generic_problem,
        _comparison_rounding,
    ),
    ProblemClaim(
        "evidence and its lower bound",
        "beta log Z = J_beta(pi) + beta KL(pi || posterior)",
        "arXiv 2205.11275",
        "identity",
        lambda x: _free_energy(tamed(x)),
        _evidence_split,
        generic_problem,
        _comparison_rounding,
    ),
    ProblemClaim(
        "KL optimum is the posterior",
        "J(pi_beta) = E_posterior[r*], posterior = p exp(r/beta)/Z",
        "arXiv 2205.11275",
        "identity",
        lambda x: x.mean((KL_REGULARIZER.policy(x) * x.reward).sum(axis=-1)),
        lambda x: x.mean((_posterior(x) * x.reward).sum(axis=-1)),
        generic_problem,
        true_value_rounding,
    ),
)
