"""Whole runs of online RLHF with linear rewards: the truth stays in the ellipsoid; rates of regret.

The notation is that of `claims.online`; m is the number of comparisons of a round.

Source: arXiv 2312.11456.  The instances are ours.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.bandit import ContextualBandit
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim
from rlhfsim.online.linear import (
    Enhancer,
    Exploration,
    FromReference,
    LinearProblem,
    TheoryRadius,
    Uniform,
    run_linear,
)
from rlhfsim.preferences import BradleyTerry
from rlhfsim.rewards.confidence import self_normalized_bound

_SOURCE = "arXiv 2312.11456"

_TRUTH = np.array([1.0, -0.6])
_PHI = np.array(
    [[[0.0, 0.0], [0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [-0.4, 0.3], [0.1, -0.9]]]
)  # fmt: skip
_DELTA = 0.1


def _problem(beta: float) -> LinearProblem:
    reference = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
    bandit = ContextualBandit(np.array([0.5, 0.5]), reference, _PHI @ _TRUTH)
    return LinearProblem(bandit, _PHI, beta, ridge=0.25, parameter=_TRUTH)


def _ellipsoid_claim(factor: float = 1.0) -> ProbabilityClaim:
    """Return the claim on the truth where margins are small, and so curvature costs nothing."""

    def violations(replications: int, rng: np.random.Generator) -> int:
        """Return in how many runs the truth leaves the ellipsoid, its radius times `factor`."""
        features = np.array([[[0.0], [0.1]]])
        truth = np.array([0.4])
        bandit = ContextualBandit(np.ones(1), np.array([[0.5, 0.5]]), features @ truth)
        problem = LinearProblem(bandit, features, 0.5, ridge=0.0025, parameter=truth)
        how = Enhancer(TheoryRadius(_DELTA, 0.5), steps=0)
        runs = run_linear(problem, 250, rng.spawn(replications), exploration=how)
        return int((runs.error > factor * runs.radius).any(axis=1).sum())

    return ProbabilityClaim(
        name="the truth stays in the ellipsoid of a whole run",
        formula="P(||theta_t - theta*||_{Sigma_t} > c_t in some round t) <= delta, enhancer with "
        "the radius of rewards.confidence.ellipsoid",
        source=f"{_SOURCE}; constants derived",
        delta=_DELTA,
        violations=violations,
        replications=1000,
        with_constant=_ellipsoid_claim,
    )


def _noise_claim(factor: float = 1.0) -> ProbabilityClaim:
    """Return the claim on noise, of which nothing is lost to curvature or a margin."""

    def violations(replications: int, rng: np.random.Generator) -> int:
        """Return in how many runs the noise exceeds its bound, times `factor`."""
        turns, weight = 400, 4.0
        probability = float(BradleyTerry(np.array([[0.2, 0.0]])).probability([0], [0], [1])[0])
        won = rng.random((replications, turns)) < probability
        total = np.cumsum(won - probability, axis=1)
        sigma = weight + np.arange(1, turns + 1)
        bound = [self_normalized_bound(np.array([[s]]), weight, _DELTA) for s in sigma]
        off = np.abs(total) / np.sqrt(sigma) > factor * np.array(bound)
        return int(off.any(axis=1).sum())

    return ProbabilityClaim(
        name="noise of a whole run",
        formula="P(||S_t||_{Sigma_t^-1} > sqrt(1/2 log(det(Sigma_t)^{1/2} det(lambda I)^{-1/2}"
        "/delta)) in some round t) <= delta",
        source=f"{_SOURCE}; Abbasi-Yadkori et al. 2011, theorem 1",
        delta=_DELTA,
        violations=violations,
        replications=4000,
        with_constant=_noise_claim,
    )


_SEEDS = 60
_ENHANCER = Enhancer(2.0)


def _after(
    rounds: int, batch: int, rng: np.random.Generator, how: Exploration, beta: float = 0.5
) -> tuple[float, float]:
    """Return the mean regularized regret, and uncertainty, of what is played after some rounds."""
    runs = run_linear(_problem(beta), rounds + 1, rng.spawn(_SEEDS), exploration=how, batch=batch)
    return (
        float(runs.regularized_regret[:, rounds].mean()), float(runs.uncertainty[:, rounds].mean())
    )  # fmt: skip


ONLINE_RUN_CLAIMS: tuple[ProbabilityClaim | RateClaim, ...] = (
    _noise_claim(),
    _ellipsoid_claim(),
    RateClaim(
        name="online regret falls like 1/m in the batch",
        formula="E[J_beta(pi*) - J_beta(pi_T)] ~ 1/m after T = 3 rounds of m comparisons; the "
        "paper's upper bound is of order m^-1/2",
        source=f"{_SOURCE}, online; exponent measured (arXiv 2411.04625)",
        exponent=-1.0,
        measure=lambda m, rng: _after(3, int(m), rng, _ENHANCER)[0],
        sizes=(100.0, 300.0, 1000.0, 3000.0),
        replications=6,
    ),
    RateClaim(
        name="the enhancer's bound on regret falls like 1/m",
        formula="c ||v(pi2, pi1)|| ~ 1/m after T = 3 rounds of m comparisons, c fixed: what the "
        "set holds is near pi1, by m^-1/2, and certain, by m^-1/2",
        source=f"{_SOURCE}, online; exponent measured",
        exponent=-1.0,
        measure=lambda m, rng: 2.0 * _after(3, int(m), rng, _ENHANCER)[1],
        sizes=(100.0, 300.0, 1000.0, 3000.0),
        replications=3,
    ),
    RateClaim(
        name="uncertainty of a policy falls like m^-1/2",
        formula="c ||v(pi, pi1)|| ~ m^-1/2 after T = 3 rounds of m comparisons, pi uniform: the "
        "rate of the paper, whose proof bounds regret so",
        source=f"{_SOURCE}, online",
        exponent=-0.5,
        measure=lambda m, rng: 2.0 * _after(3, int(m), rng, Uniform())[1],
        sizes=(100.0, 300.0, 1000.0, 3000.0),
        replications=3,
    ),
    RateClaim(
        name="online regret falls like 1/t in the rounds",
        formula="E[J_beta(pi*) - J_beta(pi_t)] ~ 1/t, 16 comparisons a round: the sum is of order "
        "log T",
        source=f"{_SOURCE}; exponent measured (arXiv 2411.04625)",
        exponent=-1.0,
        measure=lambda t, rng: _after(int(t), 16, rng, _ENHANCER, 2.0)[0],
        sizes=(8.0, 16.0, 32.0, 64.0),
        replications=10,
    ),
    RateClaim(
        name="hybrid regret falls like 1/n",
        formula="E[J_beta(pi*) - J_beta(pi1)] ~ 1/n after n comparisons of pi1 with pi_ref",
        source=f"{_SOURCE}, hybrid; exponent measured",
        exponent=-1.0,
        measure=lambda n, rng: _after(2, int(n) // 2, rng, FromReference())[0],
        sizes=(300.0, 1000.0, 3000.0, 10000.0),
        replications=6,
    ),
)
