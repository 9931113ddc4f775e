"""RPO: maximising the worst of several rewards is DPO with imitation of a baseline.

Source: arXiv 2405.16436 (RPO; "provably mitigating overoptimization").  `V(r)` is
`max_pi E_pi[r] - beta KL(pi || p) = beta log Z`; the baseline is the policy of the instance.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.regularized import (
    KL_REGULARIZER,
    ProblemClaim,
    kl_divergence,
    reward_rounding,
    span,
    tamed,
)

_SOURCE = "arXiv 2405.16436"


def _true(x: Problems) -> Problems:
    """Return the instances with the true reward in the learned one's place."""
    return replace(x, reward_hat=x.reward)


def _both(x: Problems) -> tuple[Problems, Problems]:
    """Return the instances with either reward, at one beta that no `e^(r/beta)` overflows at."""
    least = np.maximum(tamed(x).beta, tamed(_true(x)).beta)
    return replace(x, beta=least), replace(_true(x), beta=least)


def _best_less_baseline(x: Problems) -> FloatArray:
    """`V(r^) - E_b[r^]`."""
    value = KL_REGULARIZER.objective(x, KL_REGULARIZER.policy(x))
    return value - x.mean((x.policy * x.reward_hat).sum(axis=-1))


def _imitation(x: Problems) -> FloatArray:
    """`-beta E_b[log pi/p]` at the optimum pi of `r^`."""
    optimum, inside = KL_REGULARIZER.policy(x), x.reference > 0
    ratio = np.where(inside, optimum, 1.0) / np.where(inside, x.reference, 1.0)
    return -x.beta * x.mean((x.policy * np.log(ratio)).sum(axis=-1))


def _centred(x: Problems) -> tuple[FloatArray, FloatArray]:
    """`E_pi[r] - E_p[r]` of the comparator, for both rewards."""
    moved = x.comparator - x.reference
    return x.mean((moved * x.reward_hat).sum(axis=-1)), x.mean((moved * x.reward).sum(axis=-1))


def _worst_case(x: Problems) -> FloatArray:
    """`min_r E_pi[r] - E_p[r] - beta KL(pi || p)`, pi the comparator."""
    learned, true = _centred(x)
    beta = _both(x)[0].beta
    return np.minimum(learned, true) - beta * x.mean(kl_divergence(x, x.comparator))


def _least_value(x: Problems) -> FloatArray:
    """`min_r V(r) - E_p[r]`."""
    values = []
    for y in _both(x):
        optimum = KL_REGULARIZER.policy(y)
        gain = y.mean(((optimum - y.reference) * y.reward_hat).sum(axis=-1))
        values.append(gain - y.beta * y.mean(kl_divergence(y, optimum)))
    return np.minimum(*values)


def _value_rounding(x: Problems) -> FloatArray:
    return sum((reward_rounding(y) for y in _both(x)), start=np.zeros(len(x)))


def _imitation_rounding(x: Problems) -> FloatArray:
    y = tamed(x)
    moved = x.mean(kl_divergence(y, KL_REGULARIZER.policy(y)) + 1.0)
    return reward_rounding(y) + RESOLUTION * (y.beta * moved + y.mean(span(y)))


def _generic() -> Problems:
    return single([0.5, 0.3, 0.2], [1.0, 0.25, -0.5], beta=0.7, policy=[0.2, 0.2, 0.6])


def _saddle() -> Problems:
    """Let the comparator be the optimum of `r^`, and `r*` favour it even more."""
    x = single([0.5, 0.5], [1.0, 0.0], reward=[3.0, 0.0])
    return replace(x, comparator=KL_REGULARIZER.policy(x))


ADVERSARIAL_CLAIMS: tuple[ProblemClaim, ...] = (
    ProblemClaim(
        "imitation is an adversary's penalty",
        "max_pi E_pi[r] - E_b[r] - beta KL(pi || p) = -beta E_b[log pi_r/p], any baseline b",
        f"{_SOURCE}, the step from its objective to DPO + SFT",
        "identity",
        lambda x: _best_less_baseline(tamed(x)),
        lambda x: _imitation(tamed(x)),
        _generic,
        _imitation_rounding,
        "exp(r/beta) within the floats",
    ),
    ProblemClaim(
        "worst case of any policy is below the adversary's value",
        "min_r E_pi[r] - E_p[r] - beta KL(pi || p) <= min_r V(r) - E_p[r], two rewards",
        f"{_SOURCE}; weak duality",
        "upper",
        _worst_case,
        _least_value,
        _saddle,
        _value_rounding,
        "exp(r/beta) within the floats",
    ),
)
