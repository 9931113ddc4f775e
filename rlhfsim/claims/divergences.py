"""Divergence inequalities, true and false; one batch type serves them all.

Sources: arXiv 2407.13399 (chiPO), its authors' 2025 post "The Interface Between Reinforcement
Learning Theory and Language Model Post-Training" (the blog), Tsybakov 2009 (section 2.4),
arXiv 1206.2459 (Renyi), and the change of measure of Cauchy-Schwarz.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.pairs import Pairs, sample_pairs
from rlhfsim.divergences import (
    KL,
    ChiSquared,
    Divergence,
    renyi,
    squared_hellinger,
    total_variation,
)

__all__ = ["DIVERGENCE_CLAIMS", "PairClaim", "Pairs", "sample_pairs"]

PairClaim = Claim[Pairs]


# ---- witnesses -----------------------------------------------------------------------------------


def _pair(policy: list[float], reference: list[float], error: list[float] | None = None) -> Pairs:
    pi, p = np.array([policy]), np.array([reference])
    delta = np.zeros_like(p) if error is None else np.array([error])
    return Pairs(pi, p, pi, p, np.array([0.5]), delta)


def _conditioned(dropped: float) -> Pairs:
    """`pi = p` conditioned on a set of mass `1 - dropped`."""
    return _pair([1.0, 0.0], [1.0 - dropped, dropped])


def _symmetric(step: float) -> Pairs:
    """Two responses, uniform reference, policy moved by `step`."""
    return _pair([0.5 + step, 0.5 - step], [0.5, 0.5])


def _disjoint() -> Pairs:
    return _pair([1.0, 0.0], [0.0, 1.0])


def _aligned_error(*, centred: bool) -> Pairs:
    """Return an error proportional to w (or to w - 1): Cauchy-Schwarz with equality."""
    pi, p = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])
    return _pair(pi.tolist(), p.tolist(), (pi / p - (1.0 if centred else 0.0)).tolist())


def _merged_alike() -> Pairs:
    """Give the first two responses the same ratio, so that merging them loses nothing."""
    return _pair([0.2, 0.4, 0.4], [0.1, 0.2, 0.7])


def _same_ratios() -> Pairs:
    """Two different pairs with the same ratios (2, 1/2, 1): mixing them loses nothing."""
    return Pairs(
        np.array([[0.4, 0.2, 0.4]]), np.array([[0.2, 0.4, 0.4]]),
        np.array([[0.6, 0.3, 0.1]]), np.array([[0.3, 0.6, 0.1]]),
        np.array([0.3]), np.zeros((1, 3)),
    )  # fmt: skip


def _rare_response() -> Pairs:
    """Bounded KL, exploding error: a response of mass 1e-12 gets policy mass 1/28."""
    rare, mass = 1e-12, 1.0 / 28.0
    return _pair([1.0 - mass, mass], [1.0 - rare, rare], [0.0, 1.0])


# ---- sides ---------------------------------------------------------------------------------------


def kl(x: Pairs) -> FloatArray:
    """Return `KL(pi || p)`."""
    return KL().per_prompt(x.policy, x.reference)


def chi_squared(x: Pairs) -> FloatArray:
    """Return `D_chi2(pi || p)`, with the 1/2."""
    return ChiSquared().per_prompt(x.policy, x.reference)


def tv(x: Pairs) -> FloatArray:
    """Return `TV(pi, p)`."""
    return _rows(total_variation, x.policy, x.reference)


def hellinger_squared(x: Pairs) -> FloatArray:
    """Return `H^2(pi, p)`."""
    return _rows(squared_hellinger, x.policy, x.reference)


def mean_error(x: Pairs) -> FloatArray:
    """Return `|E_pi[delta]|`."""
    return np.abs((x.policy * x.error).sum(axis=1))


def error_difference(x: Pairs) -> FloatArray:
    """Return `|E_pi[delta] - E_p[delta]|`."""
    return np.abs(((x.policy - x.reference) * x.error).sum(axis=1))


def error_norm(x: Pairs) -> FloatArray:
    """Return `eps = sqrt(E_p[delta^2])`."""
    return np.sqrt((x.reference * x.error**2).sum(axis=1))


def error_deviation(x: Pairs) -> FloatArray:
    """Return `eps_c = sqrt(Var_p[delta])`."""
    mean = (x.reference * x.error).sum(axis=1, keepdims=True)
    return np.sqrt((x.reference * (x.error - mean) ** 2).sum(axis=1))


def _error_resolution(x: Pairs) -> FloatArray:
    return RESOLUTION * np.abs(x.error).max(axis=1)


def _weighted(weight: FloatArray, value: FloatArray) -> FloatArray:
    """`weight value`; a part of weight 0 does not count, even at infinity."""
    return weight * np.where(weight > 0, value, 0.0)


def _factor(square: FloatArray, norm: FloatArray) -> FloatArray:
    """`sqrt(square) norm`; outside the support there is no bound, even for an error of norm 0."""
    finite = np.isfinite(square)
    return np.where(finite, np.sqrt(np.where(finite, square, 0.0)) * norm, np.inf)


def _rows(
    function: Callable[[FloatArray, FloatArray], FloatArray],
    policy: FloatArray,
    reference: FloatArray,
) -> FloatArray:
    """One value per row, from a function that averages over prompts."""
    return np.asarray(function(policy[:, None, :], reference[:, None, :]))


def _merge(x: Pairs) -> Pairs:
    """Merge the first two responses into one."""
    return replace(
        x,
        policy=np.add.reduceat(x.policy, [0, *range(2, x.policy.shape[1])], axis=1),
        reference=np.add.reduceat(x.reference, [0, *range(2, x.policy.shape[1])], axis=1),
    )


def _mixture(x: Pairs) -> Pairs:
    t = x.weight[:, None]
    return replace(
        x,
        policy=t * x.policy + (1 - t) * x.other_policy,
        reference=t * x.reference + (1 - t) * x.other_reference,
    )


def _data_processing(name: str, divergence: Divergence) -> PairClaim:
    return PairClaim(
        name=f"data processing, {name}",
        formula=f"{name}(merged pi || merged p) <= {name}(pi || p)",
        source="Csiszar 1967",
        kind="upper",
        left=lambda x: divergence.per_prompt(_merge(x).policy, _merge(x).reference),
        right=lambda x: divergence.per_prompt(x.policy, x.reference),
        witness=_merged_alike,
    )


def _joint_convexity(name: str, divergence: Divergence) -> PairClaim:
    return PairClaim(
        name=f"joint convexity, {name}",
        formula=f"{name}(mixture || mixture) <= mixture of {name}",
        source="Csiszar 1967",
        kind="upper",
        left=lambda x: divergence.per_prompt(_mixture(x).policy, _mixture(x).reference),
        right=lambda x: (
            _weighted(x.weight, divergence.per_prompt(x.policy, x.reference))
            + _weighted(1 - x.weight, divergence.per_prompt(x.other_policy, x.other_reference))
        ),
        witness=_same_ratios,
    )


# ---- the list ------------------------------------------------------------------------------------

DIVERGENCE_CLAIMS: tuple[PairClaim, ...] = (
    PairClaim(
        "KL below chi-squared",
        "KL <= D_chi2",
        "blog 2025 (text, with the 1/2)",
        "false",
        kl,
        chi_squared,
        lambda: _pair([1.0, 0.0], [0.5, 0.5]),
    ),
    PairClaim(
        "KL below log of coverage",
        "KL <= log(1 + 2 D_chi2) = log C",
        "arXiv 1206.2459, thm 3",
        "tight",
        kl,
        lambda x: np.log1p(2.0 * chi_squared(x)),
        lambda: _conditioned(0.3),
    ),
    PairClaim(
        "KL below twice chi-squared",
        "KL <= 2 D_chi2",
        "arXiv 2407.13399",
        "tight",
        kl,
        lambda x: 2.0 * chi_squared(x),
        lambda: _conditioned(1e-7),
    ),
    PairClaim(
        "Pinsker",
        "TV <= sqrt(KL/2)",
        "Tsybakov 2009, lemma 2.5",
        "tight",
        tv,
        lambda x: np.sqrt(kl(x) / 2.0),
        lambda: _symmetric(1e-4),
    ),
    PairClaim(
        "TV below chi-squared",
        "TV <= sqrt(D_chi2/2)",
        "Cauchy-Schwarz",
        "tight",
        tv,
        lambda x: np.sqrt(chi_squared(x) / 2.0),
        lambda: _symmetric(0.25),
    ),
    PairClaim(
        "Bretagnolle-Huber",
        "TV <= sqrt(1 - exp(-KL))",
        "Bretagnolle & Huber 1979",
        "tight",
        tv,
        lambda x: np.sqrt(-np.expm1(-kl(x))),
        _disjoint,
    ),
    PairClaim(
        "Hellinger below KL",
        "H^2 <= KL",
        "Tsybakov 2009, lemma 2.4",
        "tight",
        hellinger_squared,
        kl,
        lambda: _conditioned(1e-7),
    ),
    PairClaim(
        "Hellinger below TV",
        "H^2/2 <= TV",
        "Tsybakov 2009, lemma 2.3",
        "tight",
        lambda x: hellinger_squared(x) / 2.0,
        tv,
        _disjoint,
    ),
    PairClaim(
        "TV below Hellinger",
        "TV <= H sqrt(1 - H^2/4)",
        "Tsybakov 2009, lemma 2.3",
        "tight",
        tv,
        lambda x: np.sqrt(hellinger_squared(x) * (1.0 - hellinger_squared(x) / 4.0)),
        lambda: _pair([0.8, 0.2], [0.2, 0.8]),
    ),
    PairClaim(
        "coverage below its maximum",
        "log C <= log C_inf",
        "arXiv 1206.2459, thm 3",
        "tight",
        lambda x: renyi(x.policy, x.reference, 2.0),
        lambda x: renyi(x.policy, x.reference, np.inf),
        lambda: _conditioned(0.3),
    ),
    PairClaim(
        "Renyi order",
        "D_1/2 <= D_3",
        "arXiv 1206.2459, thm 3",
        "tight",
        lambda x: renyi(x.policy, x.reference, 0.5),
        lambda x: renyi(x.policy, x.reference, 3.0),
        lambda: _conditioned(0.3),
    ),
    _data_processing("KL", KL()),
    _data_processing("D_chi2", ChiSquared()),
    _joint_convexity("KL", KL()),
    _joint_convexity("D_chi2", ChiSquared()),
    PairClaim(
        "change of measure",
        "|E_pi[delta]| <= sqrt(1 + 2 D_chi2) eps",
        "blog 2025",
        "tight",
        mean_error,
        lambda x: _factor(1.0 + 2.0 * chi_squared(x), error_norm(x)),
        lambda: _aligned_error(centred=False),
        _error_resolution,
    ),
    PairClaim(
        "centred change of measure",
        "|E_pi[delta] - E_p[delta]| <= sqrt(2 D_chi2) eps_c",
        "blog 2025",
        "tight",
        error_difference,
        lambda x: _factor(2.0 * chi_squared(x), error_deviation(x)),
        lambda: _aligned_error(centred=True),
        _error_resolution,
    ),
    PairClaim(
        "change of measure with KL",
        "|E_pi[delta] - E_p[delta]| <= sqrt(2 KL) eps_c",
        "blog 2025 (why KL fails)",
        "false",
        error_difference,
        lambda x: _factor(2.0 * kl(x), error_deviation(x)),
        _rare_response,
        _error_resolution,
    ),
)
