"""REBEL and mirror descent: relative rewards by regression, and what a step of KL gains.

Sources: arXiv 2404.16767 (REBEL), 2310.17303 (demonstration-regularized RLHF: KL to a clone of the
expert instead of pessimism).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.dpo import probe
from rlhfsim.claims.labelled import Labelled, gaps, kl, optimum, scores, variance
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.regret import regret
from rlhfsim.claims.regularized import (
    KL_REGULARIZER,
    ProblemClaim,
    kl_divergence,
    size,
    tamed,
    true_size,
)
from rlhfsim.divergences import KL
from rlhfsim.solvers import solve

_SOURCE = "arXiv 2404.16767"
#: Steps of mirror descent.
_STEPS = 3


# ---- regression ----------------------------------------------------------------------------------


def _residuals(x: Labelled) -> FloatArray:
    """`E_{y, z ~ p}[(beta (u_y - u_z) - (r_y - r_z))^2]`."""
    off = gaps(scores(x, kl, x.policy)) - gaps(x.reward)
    return np.asarray(np.einsum("ny,nz,nyz->n", x.reference, x.reference, off**2))


def _twice_variance(x: Labelled) -> FloatArray:
    """`2 Var_p[beta (u - u_r)]`, u_r that of the KL optimum."""
    return 2.0 * variance(x, scores(x, kl, x.policy) - scores(x, kl, optimum(x, kl)))


def _residual_rounding(x: Labelled) -> FloatArray:
    score = np.abs(scores(x, kl, x.policy)) + np.abs(x.reward)
    logs = np.abs(np.log(x.policy)) + np.abs(np.log(x.reference))
    lost = 1.0 + np.abs(x.reward).max(axis=1, keepdims=True) + x.beta[:, None] * logs
    mean = (x.reference * lost * (1.0 + score)).sum(axis=1)
    return 8.0 * RESOLUTION * mean * (1.0 + np.abs(x.reward).max(axis=1))


def _stepwise(x: Labelled) -> FloatArray:
    """Return the policy after `_STEPS` steps, each the KL optimum around the last policy."""
    policy = x.reference
    for _ in range(_STEPS):
        policy = solve(x.reward, policy, KL(), _STEPS * x.beta).policy
    return policy


# ---- three points --------------------------------------------------------------------------------


def _three_points(x: Problems) -> FloatArray:
    """`beta [KL(pi* || p) - KL(pi^ || p) - KL(pi* || pi^)] + E_pi*[delta] - E_pi^[delta]`."""
    x = tamed(x)
    learned = KL_REGULARIZER.policy(x)
    saved = kl_divergence(x, x.comparator) - kl_divergence(x, learned)
    apart = KL().per_prompt(x.comparator, learned)
    # Outside the support both are infinite, and so is the reward at stake for this identity.
    inside = np.isfinite(saved) & np.isfinite(apart)
    cost = np.where(inside, np.where(inside, saved, 0.0) - np.where(inside, apart, 0.0), 0.0)
    error = ((x.comparator - learned) * (x.reward - x.reward_hat)).sum(axis=-1)
    return x.beta * x.mean(cost) + x.mean(error)


def _covered(x: Problems) -> Problems:
    """Return the instances with a comparator on the support of the reference."""
    kept = np.where(x.reference > 0, x.comparator, 0.0)
    mass = kept.sum(axis=-1, keepdims=True)
    inside = np.where(mass > 0, kept / np.where(mass > 0, mass, 1.0), x.reference)
    return tamed(replace(x, comparator=inside))


def _exact_regret(x: Problems) -> FloatArray:
    """Regret where the reward is known."""
    return regret(replace(x, reward=x.reward_hat), KL_REGULARIZER)


def _distance_to_expert(x: Problems) -> FloatArray:
    return x.beta * x.mean(kl_divergence(x, x.comparator))


def _three_rounding(x: Problems) -> FloatArray:
    y = _covered(x)
    learned = KL_REGULARIZER.policy(y)
    spent = kl_divergence(y, y.comparator) + kl_divergence(y, learned) + 1.0
    apart = KL().per_prompt(y.comparator, learned)
    rewards = size(y) + true_size(y)
    relative = true_size(y) * (1.0 + size(y) / y.beta)
    return RESOLUTION * (rewards + relative + y.beta * y.mean(spent + apart))


def _exact_rounding(x: Problems) -> FloatArray:
    return RESOLUTION * size(x) * (1.0 + size(x) / x.beta)


# ---- witnesses -----------------------------------------------------------------------------------


def _plain() -> Labelled:
    p, pi = np.array([[0.2, 0.3, 0.4, 0.1]]), np.array([[0.4, 0.1, 0.2, 0.3]])
    r, phi = np.array([[0.0, 1.0, 0.5, -0.5]]), np.array([[1.0, 0.25, -0.5, 0.75]])
    return Labelled(p, pi, r, phi, np.array([0.5]), np.ones(1), np.array([1]))


def _generic() -> Problems:
    return single(
        [0.5, 0.3, 0.2], [1.0, 0.25, -0.5], reward=[0.3, 1.0, -0.2], beta=0.7,
        comparator=[0.2, 0.7, 0.1],
    )  # fmt: skip


def _rare_expert() -> Problems:
    """Let the expert take a response of mass 1e-300, at a beta that barely misses it."""
    rare = 1e-300
    beta = 1.01 / np.log(1.0 / rare)
    return single([rare, 1.0], [1.0, 0.0], beta=float(beta), comparator=[1.0, 0.0])


REBEL_CLAIMS: tuple[Claim[Labelled] | ProblemClaim, ...] = (
    Claim[Labelled](
        "loss of REBEL",
        "E[(beta (u_y - u_z) - (r_y - r_z))^2] = 2 Var_p[beta (u - u_r)], so 0 at the KL optimum",
        f"{_SOURCE}; the excess derived",
        "identity",
        _residuals,
        _twice_variance,
        _plain,
        _residual_rounding,
    ),
    Claim[Labelled](
        "steps of mirror descent add up",
        "E[g] after 3 KL steps of 3 beta, each around the last policy = E[g] after one of beta",
        f"{_SOURCE} (natural policy gradient as its special case)",
        "identity",
        lambda x: probe(x, _stepwise(x)),
        lambda x: probe(x, optimum(x, kl)),
        _plain,
        lambda x: 4.0 * RESOLUTION * (1.0 + np.abs(x.reward).max(axis=1) / x.beta),
    ),
    ProblemClaim(
        "three points of KL regularization",
        "J(pi*) - J(pi^) = beta [KL(pi* || p) - KL(pi^ || p) - KL(pi* || pi^)] "
        "+ E[r* - r^ | pi*] - E[r* - r^ | pi^]",
        f"{_SOURCE}, 2310.17303; mirror descent",
        "identity",
        lambda x: regret(_covered(x), KL_REGULARIZER),
        lambda x: _three_points(_covered(x)),
        _generic,
        _three_rounding,
        "exp(r/beta) within the floats, pi* on the support of p",
    ),
    ProblemClaim(
        "regret around a clone",
        "J(pi_E) - J(pi^) <= beta KL(pi_E || p), p a clone of the expert, the reward known",
        "arXiv 2310.17303",
        "upper",
        _exact_regret,
        _distance_to_expert,
        # The supremum 1 is approached as the mass falls: 1 - ratio ~ log log(1/p)/log(1/p).
        _rare_expert,
        _exact_rounding,
    ),
)
