"""What holds for every f-divergence, and how the members of the family are related.

Notation of `rlhfsim.claims.divergences`.  Sources: Csiszar 1967; arXiv 2407.13399 (the mixed
divergence, coverage), its authors' 2025 post (the blog); arXiv 2309.16240 (f-DPO, its divergences).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
from scipy.special import rel_entr

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.divergences import error_deviation, error_difference, error_norm, mean_error
from rlhfsim.claims.pairs import Pairs
from rlhfsim.claims.statistical import RateClaim
from rlhfsim.coverage import concentrability
from rlhfsim.divergences import (
    KL,
    AlphaDivergence,
    ChiSquared,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)

PairClaim = Claim[Pairs]
Side = Callable[[Pairs], FloatArray]

#: By the name that claims give them; KL and chi-squared have claims of their own elsewhere.
OTHERS: dict[str, Divergence] = {
    "forward KL": ForwardKL(),
    "JS": JensenShannon(),
    "H^2": SquaredHellinger(),
    "D_alpha at 0.3": AlphaDivergence(0.3),
    "D_alpha at 3": AlphaDivergence(3.0),
}


# ---- sides ---------------------------------------------------------------------------------------


def cost(divergence: Divergence) -> Side:
    """Return `D(pi || p)`."""
    return lambda x: divergence.per_prompt(x.policy, x.reference)


def _swapped(divergence: Divergence) -> Side:
    """Return `D(p || pi)`."""
    return lambda x: divergence.per_prompt(x.reference, x.policy)


def _merged(x: Pairs) -> Pairs:
    cuts = [0, *range(2, x.policy.shape[1])]
    return replace(
        x,
        policy=np.add.reduceat(x.policy, cuts, axis=1),
        reference=np.add.reduceat(x.reference, cuts, axis=1),
    )


def _of_mixture(divergence: Divergence) -> Side:
    def side(x: Pairs) -> FloatArray:
        t = x.weight[:, None]
        return divergence.per_prompt(
            t * x.policy + (1 - t) * x.other_policy, t * x.reference + (1 - t) * x.other_reference
        )

    return side


def _counted(weight: FloatArray, value: FloatArray) -> FloatArray:
    return weight * np.where(weight > 0, value, 0.0)


def _mixture_of(divergence: Divergence) -> Side:
    def side(x: Pairs) -> FloatArray:
        first = divergence.per_prompt(x.policy, x.reference)
        second = divergence.per_prompt(x.other_policy, x.other_reference)
        return _counted(x.weight, first) + _counted(1 - x.weight, second)

    return side


def _to_midpoint(x: Pairs) -> FloatArray:
    middle = 0.5 * (x.policy + x.reference)
    both = rel_entr(x.policy, middle) + rel_entr(x.reference, middle)
    return np.asarray(0.5 * both.sum(axis=1))


def _squared_roots(x: Pairs) -> FloatArray:
    return np.asarray(((np.sqrt(x.policy) - np.sqrt(x.reference)) ** 2).sum(axis=1))


def _mixed_sum(x: Pairs) -> FloatArray:
    return cost(ChiSquared())(x) + 0.5 * cost(KL())(x)


def _coverage(x: Pairs) -> FloatArray:
    return concentrability(x.policy[:, None], x.reference[:, None])


def _exponential_of_kl(x: Pairs) -> FloatArray:
    with np.errstate(over="ignore"):
        return np.asarray(1000.0 * np.exp(cost(KL())(x)))


def _times(factor: FloatArray, norm: FloatArray) -> FloatArray:
    finite = np.isfinite(factor)
    return np.where(finite, np.where(finite, factor, 0.0) * norm, np.inf)


def _error_rounding(x: Pairs) -> FloatArray:
    return RESOLUTION * np.abs(x.error).max(axis=1)


# ---- witnesses -----------------------------------------------------------------------------------


def _one(policy: list[float], reference: list[float], error: list[float] | None = None) -> Pairs:
    pi, p = np.array([policy]), np.array([reference])
    delta = np.zeros_like(p) if error is None else np.array([error])
    return Pairs(pi, p, pi, p, np.array([0.5]), delta)


def _generic() -> Pairs:
    return _one([0.7, 0.2, 0.1], [0.2, 0.3, 0.5], [1.0, -0.5, 0.25])


def _alike() -> Pairs:
    return _one([0.2, 0.4, 0.4], [0.1, 0.2, 0.7])


def _same_ratios() -> Pairs:
    return Pairs(
        np.array([[0.4, 0.2, 0.4]]), np.array([[0.2, 0.4, 0.4]]),
        np.array([[0.6, 0.3, 0.1]]), np.array([[0.3, 0.6, 0.1]]),
        np.array([0.3]), np.zeros((1, 3)),
    )  # fmt: skip


def _rare() -> Pairs:
    """Let a response of mass 1e-14, wrongly rated, get mass 1/30."""
    rare, mass = 1e-14, 1.0 / 30.0
    return _one([1.0 - mass, mass], [1.0 - rare, rare], [0.0, 1.0])


# ---- the list ------------------------------------------------------------------------------------


def _processed(name: str, divergence: Divergence) -> PairClaim:
    return PairClaim(
        f"data processing, {name}",
        f"{name} of merged pi and p <= {name} of pi and p",
        "Csiszar 1967",
        "upper",
        lambda x: cost(divergence)(_merged(x)),
        cost(divergence),
        _alike,
    )


def _convex(name: str, divergence: Divergence) -> PairClaim:
    return PairClaim(
        f"joint convexity, {name}",
        f"{name} of mixtures <= mixture of {name}",
        "Csiszar 1967",
        "upper",
        _of_mixture(divergence),
        _mixture_of(divergence),
        _same_ratios,
    )


def _relation(
    name: str, formula: str, source: str, left: Side, right: Side,
    kind: Literal["identity", "false"] = "identity",
) -> PairClaim:  # fmt: skip
    return PairClaim(name, formula, source, kind, left, right, _generic)


def _distance_to(order: float, limit: Divergence) -> Callable[[float, np.random.Generator], float]:
    x = _generic()

    def measure(size: float, _: np.random.Generator) -> float:
        near = AlphaDivergence(order + 1.0 / size)
        return float(np.abs(cost(near)(x) - cost(limit)(x))[0])

    return measure


def _limit(order: float, name: str, limit: Divergence) -> RateClaim:
    return RateClaim(
        name=f"alpha-divergences tend to {name}",
        formula=f"|D_alpha - {name}| ~ |alpha - {order:g}|, here alpha = {order:g} + 1/n",
        source="arXiv 2309.16240 (limits of the family)",
        exponent=-1.0,
        measure=_distance_to(order, limit),
        sizes=tuple(float(10**k) for k in range(2, 7)),
    )


F_DIVERGENCE_CLAIMS: tuple[PairClaim | RateClaim, ...] = (
    *(_processed(name, divergence) for name, divergence in OTHERS.items()),
    *(_convex(name, divergence) for name, divergence in OTHERS.items()),
    _relation(
        "coverage is chi-squared", "C = E_pi[pi/p] = 1 + 2 D_chi2", "arXiv 2407.13399",
        _coverage, lambda x: 1.0 + 2.0 * cost(ChiSquared())(x),
    ),
    _relation(
        "mixed divergence", "D_mix = D_chi2 + gamma KL, gamma = 1/2", "arXiv 2407.13399",
        cost(ChiSquared() + 0.5 * KL()), _mixed_sum,
    ),
    _relation(
        "forward KL is KL turned round", "f(t) = -log t + t - 1 gives KL(p || pi)", "definition",
        cost(ForwardKL()), lambda x: np.asarray(rel_entr(x.reference, x.policy).sum(axis=1)),
    ),
    _relation(
        "JS is the mean KL to the midpoint", "JS = (KL(pi || m) + KL(p || m))/2, m = (pi + p)/2",
        "definition", cost(JensenShannon()), _to_midpoint,
    ),
    _relation(
        "squared Hellinger is a distance of roots", "f(t) = (sqrt t - 1)^2 gives "
        "sum_y (sqrt pi - sqrt p)^2", "definition", cost(SquaredHellinger()), _squared_roots,
    ),
    _relation(
        "alpha = 2 is chi-squared", "D_alpha = D_chi2 at alpha = 2", "definition",
        cost(AlphaDivergence(2.0)), cost(ChiSquared()),
    ),
    _relation(
        "alpha = 1/2 is squared Hellinger", "D_alpha = 2 H^2 at alpha = 1/2", "definition",
        cost(AlphaDivergence(0.5)), lambda x: 2.0 * _squared_roots(x),
    ),
    _relation(
        "alpha-divergences turned round", "D_alpha(pi || p) = D_1-alpha(p || pi), alpha = 3/10",
        "definition", cost(AlphaDivergence(0.3)), _swapped(AlphaDivergence(0.7)),
    ),
    _limit(1.0, "KL", KL()),
    _limit(0.0, "forward KL", ForwardKL()),
    PairClaim(
        "change of measure with any function of KL",
        "|E_pi[delta] - E_p[delta]| <= 1000 e^KL eps_c",
        "blog 2025 (why KL fails)",
        "false",
        error_difference,
        lambda x: _times(_exponential_of_kl(x), error_deviation(x)),
        _rare,
        _error_rounding,
    ),
    PairClaim(
        "uncentred change of measure with any function of KL",
        "|E_pi[delta]| <= 1000 e^KL eps",
        "blog 2025 (why KL fails)",
        "false",
        mean_error,
        lambda x: _times(_exponential_of_kl(x), error_norm(x)),
        _rare,
        _error_rounding,
    ),
)  # fmt: skip
