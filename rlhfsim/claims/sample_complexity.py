"""The shape of chiPO's theorem 3.1: how regret depends on n, coverage and the range of rewards.

The theorem's own constants are hidden: its shape is `V e^(2R) sqrt(C* log(|Pi|/delta)/n)`.  On two
responses of equal frequency and two rewards, `(V, 0)` and 0, everything is exact.

Source: arXiv 2407.13399.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy.special import expit

from rlhfsim.bandit import ContextualBandit
from rlhfsim.bounds import finite_class_error
from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.chipo_data import wrong_of_two
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.regularized import ProblemClaim, chi_squared
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim
from rlhfsim.data import PairCounts
from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.laws import population_pairs
from rlhfsim.learners.direct import ChiPO, FinitePolicies
from rlhfsim.rewards.information import information
from rlhfsim.solvers import solve

_SOURCE = "arXiv 2407.13399, thm 3.1"
_DERIVED = f"shape of {_SOURCE}"

# Gaps tried at n pairs, in units of 1/sqrt n: the worst is near 2.1.
_GAPS = np.linspace(1.0, 4.0, 31)
#: Preferences in the exact claim on preference errors.
_PAIRS = 100_000
_DELTA = 1e-30


def worst_regret(n: float) -> float:
    """Return the largest expected regret over gaps V of the likelier of two rewards.

    Where the reward 0 is learned, the policy is uniform and loses V/2 to the better response.
    """
    gaps = _GAPS / math.sqrt(n)
    return max(0.5 * gap * wrong_of_two(int(n), gap) for gap in gaps.tolist())


def aligned_regret(excess: float) -> float:
    """Return the regret against a comparator of coverage `1 + excess`, at an error of norm 1.

    The response of mass `1/(1 + excess)`, missed: the learned reward is 0, the true one is along
    `w* - 1`.
    """
    mass = 1.0 / (1.0 + excess)
    p, star = np.array([[mass, 1.0 - mass]]), np.array([[1.0, 0.0]])
    centred = star / p - 1.0
    reward = centred / math.sqrt(float((p * centred**2).sum()))
    bandit = ContextualBandit(np.ones(1), p, reward)
    policy = solve(np.zeros_like(p), p, ChiSquared(), 1.0 / math.sqrt(excess)).policy
    return float(bandit.regret(policy, star))


def asymptotic_error(growth: float) -> float:
    """Return `sqrt(n) eps_c` of the estimate for two equally frequent responses, `e^V` = growth."""
    bandit = ContextualBandit(
        np.ones(1), np.array([[0.5, 0.5]]), np.array([[math.log(growth), 0.0]])
    )
    laplacian = information(population_pairs(bandit), bandit.reward, prompt=0)
    # The information on the gap; eps_c is half of the error of the gap.
    return 0.5 / math.sqrt(float(laplacian[0, 0]))


def preference_gap(constant: float) -> float:
    """Return the V at which `E[(sigma(gap) - 1/2)^2]` is `constant` times `2 log(2/delta)/n`.

    Half of the pairs compare different responses: the error is `tanh(V/2)^2/8`.
    """
    bound = 2.0 * math.log(2.0 / _DELTA) / _PAIRS
    return 2.0 * math.atanh(math.sqrt(8.0 * constant * bound))


def preference_claim(constant: float = 1.0) -> ProbabilityClaim:
    """Return the exact claim on the preference error of two rewards; it cannot be halved."""
    return ProbabilityClaim(
        name="preference error of a finite class",
        formula=f"P(E[(sigma(gap of r^) - sigma(gap of r*))^2] >= 2 log(2/delta)/n) <= delta, "
        f"n = {_PAIRS}",
        source="derived: Hellinger bound of maximum likelihood",
        delta=_DELTA,
        exact=lambda: wrong_of_two(_PAIRS, preference_gap(constant)),
        with_constant=lambda factor: preference_claim(constant * factor),
    )


# ---- chiPO over a finite class of policies -------------------------------------------------------

#: Preferences that chiPO learns from, and its weight of KL.
_LEARNED, _GAMMA = 20_000, 0.01


def chipo_error(delta: float, gap: float) -> float:
    """Return the bound on `eps_c` for two rewards, which is also the beta of theory here."""
    return math.sqrt(finite_class_error(_LEARNED, 2, delta, gap))


@cache
def chipo_gap(delta: float) -> float:
    """Return the V at which the wrong policy's regret, V/2, is just above the bound.

    `D* = 1/2` and `KL(pi* || p) = log 2`, so that the bound is `eps + eps gamma log 2`.
    """
    gap = 0.0
    for _ in range(200):
        gap = 2.0 * chipo_error(delta, gap) * (1.0 + _GAMMA * math.log(2.0)) * (1.0 + 1e-9)
    return gap


def _pairs(n: int, gap: float, rng: np.random.Generator) -> PairCounts:
    """Return n labelled pairs of the two responses."""
    compared = int(rng.binomial(n, 0.5))
    wins = int(rng.binomial(compared, expit(gap)))
    response = np.arange(2)
    won = np.array([wins, compared - wins], dtype=np.float64)
    kept = won > 0
    return PairCounts(
        np.zeros(2, dtype=np.int64)[kept], response[kept], 1 - response[kept], won[kept],
        float(n - compared), (1, 2),
    )  # fmt: skip


def chipo_violations(delta: float, replications: int, rng: np.random.Generator) -> int:
    """Return how often chiPO learns a policy whose regret is above the bound."""
    gap = chipo_gap(delta)
    beta = chipo_error(delta, gap)
    p, star = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    bandit = ContextualBandit(np.ones(1), p, np.array([[gap, 0.0]]))
    rewards = np.array([[[gap, 0.0]], [[0.0, 0.0]]])
    policies = solve(rewards, p, ChiSquared() + _GAMMA * KL(), beta).policy
    bound = beta + beta * _GAMMA * math.log(2.0)
    exceeds = np.asarray(bandit.regret(policies, star)) > bound
    learner = ChiPO(beta, gamma=_GAMMA, policies=FinitePolicies(policies))
    fits = (
        learner.fit(_pairs(_LEARNED, gap, rng), p, rng=rng).diagnostics["index"]
        for _ in range(replications)
    )
    return sum(bool(exceeds[index]) for index in fits)


def chipo_claim(delta: float = 0.5) -> ProbabilityClaim:
    """Return the claim that the bound on chiPO over two policies fails with probability <= delta.

    Its policies are the mixed optima of the two rewards, so that its loss is their likelihood.
    """
    return ProbabilityClaim(
        name="regret of chiPO over a finite class",
        formula="P(regret > sqrt(2 D*) sqrt(log(|Pi|/delta)/n)/sigma'(V) + beta gamma KL(pi* || p))"
        " <= delta",
        source=f"{_SOURCE}; constants derived",
        delta=delta,
        violations=lambda runs, rng: chipo_violations(delta, runs, rng),
        replications=300,
    )


# ---- the explicit chain inside the shape ---------------------------------------------------------


def _range(x: Problems) -> FloatArray:
    """Return the range R of `r*` on the support, over all prompts."""
    inside = x.reference > 0
    high = np.where(inside, x.reward, -np.inf).max(axis=(1, 2))
    return np.asarray(high - np.where(inside, x.reward, np.inf).min(axis=(1, 2)))


def _explicit(x: Problems) -> FloatArray:
    """`sqrt(C* - 1)/sigma'(R)`."""
    with np.errstate(over="ignore"):
        slope = 4.0 * np.cosh(0.5 * _range(x)) ** 2
        return np.asarray(np.sqrt(2.0 * x.mean(chi_squared(x, x.comparator))) * slope)


def _shape(x: Problems) -> FloatArray:
    """`4 e^(2R) sqrt(C*)`."""
    with np.errstate(over="ignore"):
        growth = np.exp(2.0 * _range(x))
        return np.asarray(4.0 * growth * np.sqrt(1.0 + 2.0 * x.mean(chi_squared(x, x.comparator))))


def _covered_thinly() -> Problems:
    rare = 1e-8
    return single([rare, 1.0 - rare], [1e-6, 0.0], comparator=[1.0, 0.0])


SAMPLE_COMPLEXITY_CLAIMS: tuple[ProbabilityClaim | RateClaim | Claim[Problems], ...] = (
    preference_claim(),
    chipo_claim(),
    RateClaim(
        name="worst regret falls like 1/sqrt n",
        formula="max over gaps V of E[regret] ~ 0.48 n^(-1/2), two rewards, two responses",
        source=_DERIVED,
        exponent=-0.5,
        measure=lambda n, _: worst_regret(n),
        sizes=(100.0, 300.0, 1e3, 3e3, 1e4),
        ceiling=lambda n: 0.5 / math.sqrt(n),
        floor=lambda n: 0.45 / math.sqrt(n),
    ),
    RateClaim(
        name="regret grows like the root of coverage",
        formula="regret = sqrt(C* - 1) eps_c at the beta of theory, along w* - 1",
        source=_DERIVED,
        exponent=0.5,
        measure=lambda excess, _: aligned_regret(excess),
        sizes=tuple(float(10**k) for k in range(7)),
        variable="(C* - 1)",
    ),
    RateClaim(
        name="error of the estimate grows exponentially in the range",
        formula="sqrt(n) eps_c ~ e^(V/2), here e^(V/2)/sqrt 2; bounds say e^V",
        source=_DERIVED,
        exponent=0.5,
        measure=lambda growth, _: asymptotic_error(growth),
        sizes=tuple(float(np.exp(v)) for v in range(6, 26, 2)),
        variable="e^V",
        ceiling=lambda growth: 0.72 * math.sqrt(growth),
        floor=lambda growth: 0.7 * math.sqrt(growth),
    ),
    ProblemClaim(
        "the explicit chain has the shape of theorem 3.1",
        "sqrt(2 D*)/sigma'(R) <= 4 e^(2R) sqrt(C*), R the range of r*",
        _DERIVED,
        "upper",
        _explicit,
        _shape,
        _covered_thinly,
    ),
)
