"""More of RL with KL penalties as Bayesian inference: the bound, and where the posterior tends.

Source: arXiv 2205.11275.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.base import RESOLUTION
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.regularized import (
    KL_REGULARIZER,
    ProblemClaim,
    baseline,
    highest,
    kl_divergence,
    ratio_rounding,
    reward_rounding,
)

_SOURCE = "arXiv 2205.11275"


def _bound(x: Problems, policy: FloatArray) -> FloatArray:
    """`E_pi[r] - beta KL(pi || p)`, less the same of p."""
    return KL_REGULARIZER.objective(x, policy) - baseline(x, x.reward_hat)


def _evidence(x: Problems) -> FloatArray:
    """`beta log E_p[e^(r/beta)] - E_p[r]`."""
    top = highest(x)[..., None]
    exponent = np.where(x.reference > 0, (x.reward_hat - top) / x.beta[:, None, None], -np.inf)
    near = (x.reference * np.where(x.reference > 0, np.expm1(exponent), 0.0)).sum(axis=-1)
    far = (x.reference * np.exp(exponent)).sum(axis=-1)
    log = np.where(near > -0.5, np.log1p(np.maximum(near, -0.5)), np.log(far))
    return x.mean(top[..., 0] + x.beta[:, None] * log) - baseline(x, x.reward_hat)


def _best(x: Problems) -> BoolArray:
    return (x.reference > 0) & (x.reward_hat == highest(x)[..., None])


def _distance_from_limit(x: Problems) -> FloatArray:
    """`TV(pi_beta, p conditioned on the best responses)`."""
    kept = np.where(_best(x), x.reference, 0.0)
    limit = kept / kept.sum(axis=-1, keepdims=True)
    return x.mean(0.5 * np.abs(KL_REGULARIZER.policy(x) - limit).sum(axis=-1))


def _mass_elsewhere(x: Problems) -> FloatArray:
    return x.mean(np.where(_best(x), 0.0, KL_REGULARIZER.policy(x)).sum(axis=-1))


def _value(x: Problems, policy: FloatArray) -> FloatArray:
    """`E_pi[r]` from the least reward."""
    least = x.reward_hat.min(axis=-1, keepdims=True)
    return x.mean((policy * (x.reward_hat - least)).sum(axis=-1))


def _greedy_value(x: Problems) -> FloatArray:
    first = np.eye(x.reference.shape[-1])[np.where(_best(x), 1.0, 0.0).argmax(axis=-1)]
    return _value(x, first)


def _bound_rounding(x: Problems) -> FloatArray:
    return reward_rounding(x) + RESOLUTION * x.beta * x.mean(kl_divergence(x, x.policy))


def _at_optimum() -> Problems:
    x = single([0.5, 0.3, 0.2], [1.0, 0.25, -0.5], beta=0.7)
    policy = KL_REGULARIZER.policy(x)[0, 0].tolist()
    return single([0.5, 0.3, 0.2], [1.0, 0.25, -0.5], beta=0.7, policy=policy)


def _tied() -> Problems:
    return single([0.3, 0.2, 0.5], [1.0, 1.0, 0.0], beta=0.5)


BAYESIAN_CLAIMS: tuple[ProblemClaim, ...] = (
    ProblemClaim(
        "evidence lower bound",
        "E_pi[r] - beta KL(pi || p) <= beta log E_p[e^(r/beta)] (both less E_p[r])",
        _SOURCE,
        "upper",
        lambda x: _bound(x, x.policy),
        _evidence,
        _at_optimum,
        _bound_rounding,
    ),
    ProblemClaim(
        "limit of the posterior",
        "TV(pi_beta, p conditioned on S) = 1 - pi_beta(S), S = argmax r",
        _SOURCE,
        "identity",
        _distance_from_limit,
        _mass_elsewhere,
        _tied,
        ratio_rounding,
    ),
    ProblemClaim(
        "collapse without regularization",
        "E_pi[r] <= E[r] of one best response (both from min r)",
        f"{_SOURCE} (distribution collapse)",
        "upper",
        lambda x: _value(x, x.policy),
        _greedy_value,
        lambda: single([0.5, 0.5], [1.0, 0.0], policy=[1.0, 0.0]),
        lambda x: RESOLUTION * np.abs(x.reward_hat).max(axis=(1, 2)),
    ),
)
