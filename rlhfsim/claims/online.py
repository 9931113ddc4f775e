"""Online and hybrid RLHF with linear rewards: what holds where the truth lies in the ellipsoid.

`pi1 = p e^{<theta_hat, phi>/beta}/Z` is the main agent, `pi*` the same of `theta*`, with
`||theta_hat - theta*||_Sigma <= c`; `v(q, q') = E_x[phi(x, q) - phi(x, q')]`, norms of it are those
of `Sigma^-1`, and regrets are `J_beta(pi*) - J_beta(pi1)`.

Everything deterministic follows from one line: with `Delta = theta* - theta_hat`,
`beta KL(pi* || pi1) + beta KL(pi1 || pi*) = <Delta, v(pi*, pi1)>`, of which the second term is the
regret.

Source: arXiv 2312.11456.  Its bounds on regret are linear in the error of theta, and so of order
`m^-1/2` in the batch; under KL the regret itself is quadratic in it, of order `1/m` (arXiv
2411.04625 proves such rates).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

import numpy as np

from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.batches import Rows, betas, distributions, rewards, sorts
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim
from rlhfsim.online.linear import (
    Enhancer,
    Exploration,
    FromReference,
    LinearProblem,
    TheoryRadius,
    Uniform,
    most_uncertain_policy,
    run_linear,
)
from rlhfsim.preferences import BradleyTerry
from rlhfsim.rewards.confidence import self_normalized_bound

_SOURCE = "arXiv 2312.11456"
_OURS = f"{_SOURCE}; constant derived"


# ---- one round -----------------------------------------------------------------------------------


class Agents(NamedTuple):
    """What follows from an instance."""

    factor: FloatArray  # (N, d, d) Cholesky factor of Sigma
    delta: FloatArray  # (N, d)
    main: FloatArray  # (N, X, Y)
    regret: FloatArray  # (N,)
    membership: FloatArray  # (N,) beta KL(pi* || pi1)
    width: FloatArray  # (N,) ||v(pi*, pi1)||
    linear: FloatArray  # (N,) <Delta, v(pi*, pi1)>
    from_reference: FloatArray  # (N,) ||v(pi*, p)|| + ||v(pi1, p)||


class Enhanced(NamedTuple):
    """Where the enhancer is, as computed."""

    width: FloatArray  # (N,) ||v(pi2, pi1)||
    membership: FloatArray  # (N,) beta KL(pi2 || pi1)


@dataclass(frozen=True, eq=False)
class LinearRounds(Rows):
    """N rounds of a main agent whose estimate is within c of the truth."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "simplex", "prompt_dist": "simplex", "features": "real", "estimate": "real",
        "root": "real", "direction": "real", "depth": "unit", "beta": "positive",
        "radius": "positive",
    }  # fmt: skip

    reference: FloatArray  # (N, X, Y)
    prompt_dist: FloatArray  # (N, X)
    features: FloatArray  # (N, X, Y, d)
    estimate: FloatArray  # (N, d)
    root: FloatArray  # (N, d, d): Sigma = I + root' root
    direction: FloatArray  # (N, d)
    depth: FloatArray  # (N,) in [0, 1]: 1 is the boundary of the ellipsoid
    beta: FloatArray  # (N,)
    radius: FloatArray  # (N,)

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random rounds of 1 to 3 prompts, 2 to 5 responses and 1 to 3 features."""
        sort, prompts, size = sorts(n, rng), int(rng.integers(1, 4)), int(rng.integers(2, 6))
        shape, d = (prompts, size), int(rng.integers(1, 4))
        return cls(
            distributions(sort, shape, rng), distributions(sort, (prompts,), rng),
            np.clip(rewards(sort, (*shape, d), rng), -3.0, 3.0), rng.standard_normal((n, d)),
            rng.standard_normal((n, d, d)) * 10.0 ** rng.uniform(-1.0, 1.0, size=(n, 1, 1)),
            rng.standard_normal((n, d)),
            rng.choice([0.0, 0.5, 1.0, 1.0], size=n) ** rng.choice([1.0, 4.0], size=n),
            betas(sort, rng), 10.0 ** rng.uniform(-2.0, 1.0, size=n),
        )  # fmt: skip

    @cached_property
    def agents(self) -> Agents:
        """Return both agents and what sets them apart."""
        sigma = np.eye(self.root.shape[2]) + np.einsum("nij,nik->njk", self.root, self.root)
        factor = np.linalg.cholesky(sigma)
        length = np.linalg.norm(self.direction, axis=1, keepdims=True)
        unit = np.divide(
            self.direction, length, out=np.zeros_like(self.direction), where=length > 0
        )
        whitened = (self.radius * self.depth)[:, None] * unit
        delta = np.linalg.solve(np.swapaxes(factor, 1, 2), whitened[..., None])[..., 0]
        truth = self.estimate + delta
        log_main, log_best = self._gibbs(self.estimate), self._gibbs(truth)
        main, best = np.exp(log_main), np.exp(log_best)
        logs = np.log(self.reference)
        reward = np.einsum("nxyd,nd->nxy", self.features, truth)
        regularized = [
            self._mean(q * (reward - self.beta[:, None, None] * (log_q - logs)))
            for q, log_q in ((best, log_best), (main, log_main))
        ]
        move = self._move(best, main)
        return Agents(
            factor, delta, main, regularized[0] - regularized[1],
            self.beta * self._mean(best * (log_best - log_main)),
            _norm(factor, move), (delta * move).sum(axis=1),
            _norm(factor, self._move(best, self.reference))
            + _norm(factor, self._move(main, self.reference)),
        )  # fmt: skip

    @cached_property
    def enhanced(self) -> Enhanced:
        """Return what the enhancer reaches, and at which cost."""
        made, found = self.agents, np.empty((2, len(self)))
        for k in range(len(self)):
            second = most_uncertain_policy(
                made.main[k] / made.main[k].sum(axis=1, keepdims=True), self.features[k],
                made.factor[k] @ made.factor[k].T, beta=float(self.beta[k]),
                radius=float(self.radius[k]), prompt_dist=self.prompt_dist[k], steps=100,
            )  # fmt: skip
            found[:, k] = second.uncertainty, second.divergence
        return Enhanced(found[0], self.beta * found[1])

    @property
    def spread(self) -> FloatArray:
        """Return the (N,) means over prompts of the largest `||phi(x, y) - phi(x, y')||^2`."""
        apart = self.features[:, :, :, None] - self.features[:, :, None]
        inverse = np.linalg.inv(self.agents.factor)
        white = np.einsum("nij,nxyzj->nxyzi", inverse, apart)
        largest = (white**2).sum(axis=-1).max(axis=(2, 3))
        return np.asarray((self.prompt_dist * largest).sum(axis=1))

    @property
    def drawn(self) -> tuple[FloatArray, FloatArray]:
        """Return `||v(pi1, p)||^2` and the mean of `||phi(x, y1) - phi(x, y2)||^2` over draws."""
        made = self.agents
        inverse = np.linalg.inv(made.factor)
        white = np.einsum("nij,nxyj->nxyi", inverse, self.features)
        apart = ((white[:, :, :, None] - white[:, :, None]) ** 2).sum(axis=-1)
        mean = np.einsum("nxy,nxz,nxyz->nx", made.main, self.reference, apart)
        move = _norm(made.factor, self._move(made.main, self.reference))
        return move**2, np.asarray((self.prompt_dist * mean).sum(axis=1))

    def _gibbs(self, parameter: FloatArray) -> FloatArray:
        """Return the logarithms of `p e^{<theta, phi>/beta}/Z`."""
        reward = np.einsum("nxyd,nd->nxy", self.features, parameter)
        logs = np.log(self.reference) + reward / self.beta[:, None, None]
        logs = logs - logs.max(axis=2, keepdims=True)
        return np.asarray(logs - np.log(np.exp(logs).sum(axis=2, keepdims=True)))

    def _mean(self, values: FloatArray) -> FloatArray:
        return np.asarray((self.prompt_dist * values.sum(axis=2)).sum(axis=1))

    def _move(self, one: FloatArray, other: FloatArray) -> FloatArray:
        return np.asarray(
            np.einsum("nx,nxy,nxyd->nd", self.prompt_dist, one - other, self.features)
        )


def _norm(factor: FloatArray, v: FloatArray) -> FloatArray:
    """Return `||v||_{Sigma^-1}`."""
    return np.asarray(np.linalg.norm(np.linalg.solve(factor, v[..., None])[..., 0], axis=1))


def _resolution(x: LinearRounds) -> FloatArray:
    """Return the rounding of differences of values."""
    size = np.abs(x.features).max(axis=(1, 2, 3)) * (1.0 + np.abs(x.estimate).sum(axis=1))
    scale = size + x.radius * np.abs(x.features).max(axis=(1, 2, 3)) + 30.0 * x.beta
    return 1e-13 * (1.0 + scale)


def _one_feature(
    features: list[float], reference: list[float], estimate: float, radius: float, beta: float
) -> LinearRounds:
    """Return a round whose truth is `estimate + radius`; a second prompt has nothing at stake."""
    size = len(reference)
    phi, p = np.zeros((1, 2, size, 1)), np.full((1, 2, size), 1.0 / size)
    phi[0, 0, :, 0], p[0, 0] = features, reference
    return LinearRounds(
        p, np.full((1, 2), 0.5), phi, np.full((1, 1), estimate), np.zeros((1, 1, 1)),
        np.ones((1, 1)), np.ones(1), np.array([beta]), np.array([radius]),
    )  # fmt: skip


def _rare() -> LinearRounds:
    """Let the best response be rare, and the truth bring it up to a hundredth."""
    tilt = np.log(1e12 / 1e2)
    return _one_feature([0.0, 1.0], [1.0 - 1e-12, 1e-12], -0.1, 0.1 * tilt, 0.1)


def _sure() -> LinearRounds:
    """Let the truth be so strong that nothing but the best response counts."""
    return _one_feature([-1.0, 1.0], [0.99, 0.01], -0.001, 100.0, 0.01)


def _opposite() -> LinearRounds:
    """Let the main agent go to the one side of the reference, the truth to the other."""
    return _one_feature([-1.0, 0.0, 1.0], [0.001, 0.998, 0.001], -0.1, 1000.0, 0.01)


def _even() -> LinearRounds:
    """Let the main agent draw two responses equally often, and the truth differ by little."""
    log_odds = 1.2
    odds = np.exp(log_odds)
    p = [float(odds / (1.0 + odds)), float(1.0 / (1.0 + odds))]
    one = _one_feature([0.0, 1.0], p, 0.5 * log_odds, 0.02, 0.5)
    return replace(one, prompt_dist=np.array([[1.0 - 1e-6, 1e-6]]))


def _settled() -> LinearRounds:
    """Let both responses of a comparison be certain."""
    one = _one_feature([0.0, 1.0], [1.0 - 1e-9, 1e-9], 1.0, 0.01, 0.01)
    return replace(one, prompt_dist=np.array([[1.0 - 1e-6, 1e-6]]))


def _plateau() -> LinearRounds:
    """Let the set end where two responses of nearly equal features share the mass."""
    return _one_feature([0.0, 1.0, 1.03], [0.99 - 1e-12, 0.01, 1e-12], 0.0, 15.0, 1.0)


# ---- sequences -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Sequences(Rows):
    """N sequences of T differences of features, and what Sigma starts from."""

    parametrization: ClassVar[dict[str, str]] = {
        "difference": "real", "regularization": "positive",
    }  # fmt: skip

    difference: FloatArray  # (N, T, d)
    regularization: FloatArray  # (N,)

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` sequences of 1 to 12 differences of 1 to 4 features."""
        sort = sorts(n, rng)
        shape = int(rng.integers(1, 13)), int(rng.integers(1, 5))
        difference = np.clip(rewards(sort, shape, rng), -5.0, 5.0)
        # Adversarial: every one as long as the regularization, along the axes.
        axis = np.eye(shape[1])[rng.integers(0, shape[1], size=(n, shape[0]))]
        weight = 10.0 ** rng.uniform(-1.0, 1.0, size=n)
        along = np.sqrt(weight)[:, None, None] * axis
        return cls(np.where((sort == 2)[:, None, None], along, difference), weight)

    @cached_property
    def steps(self) -> FloatArray:
        """Return the (N, T) squared norms `||d_t||^2` by the Sigma of those before."""
        n, rounds, d = self.difference.shape
        inverse = np.eye(d) / self.regularization[:, None, None]
        norms = np.empty((n, rounds))
        for t in range(rounds):
            v = self.difference[:, t]
            image = np.einsum("nij,nj->ni", inverse, v)
            norms[:, t] = (v * image).sum(axis=1)
            inverse = (
                inverse - image[:, :, None] * image[:, None] / (1.0 + norms[:, t])[:, None, None]
            )
        return norms

    @cached_property
    def log_determinant(self) -> FloatArray:
        """Return the (N,) `log(det Sigma_T / det(lambda I))`."""
        d = self.difference.shape[2]
        sums = np.einsum("nti,ntj->nij", self.difference, self.difference)
        scaled = np.eye(d) + sums / self.regularization[:, None, None]
        return np.asarray(np.linalg.slogdet(scaled)[1])

    @property
    def isotropic(self) -> FloatArray:
        """Return `d log(1 + sum_t ||d_t||^2/(d lambda))`."""
        d = self.difference.shape[2]
        return np.asarray(
            d * np.log1p((self.difference**2).sum(axis=(1, 2)) / (d * self.regularization))
        )


def _one_step() -> Sequences:
    return Sequences(np.array([[[0.6, 0.8], [0.0, 0.0]]]), np.ones(1))


def _every_axis() -> Sequences:
    return Sequences(
        np.array([[[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]]]), np.ones(1) * 2
    )


# ---- runs ----------------------------------------------------------------------------------------

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


# ---- the list ------------------------------------------------------------------------------------

_TRUTH_INSIDE = "theta* in the ellipsoid"
_MOST = 200

OnlineClaim = Claim[LinearRounds] | Claim[Sequences] | ProbabilityClaim | RateClaim

ONLINE_CLAIMS: tuple[OnlineClaim, ...] = (
    Claim[LinearRounds](
        "regret and membership share one product",
        "beta KL(pi* || pi1) + beta KL(pi1 || pi*) = <theta* - theta_hat, v(pi*, pi1)>, here with "
        "J_beta(pi*) - J_beta(pi1) for the second term",
        f"{_SOURCE}; derived from the Gibbs gap identity",
        "identity",
        lambda x: x.agents.membership + x.agents.regret,
        lambda x: x.agents.linear,
        _even,
        _resolution,
    ),
    Claim[LinearRounds](
        "the optimum is in the enhancer's set",
        "beta KL(pi* || pi1) <= c ||v(pi*, pi1)||",
        f"{_SOURCE}, its iterative algorithm",
        "upper",
        lambda x: x.agents.membership,
        lambda x: x.radius * x.agents.width,
        _rare,
        _resolution,
        _TRUTH_INSIDE,
    ),
    Claim[LinearRounds](
        "regret of the main agent",
        "J_beta(pi*) - J_beta(pi1) <= c ||v(pi*, pi1)||",
        _OURS,
        "tight",
        lambda x: x.agents.regret,
        lambda x: x.radius * x.agents.width,
        _sure,
        _resolution,
        _TRUTH_INSIDE,
    ),
    Claim[LinearRounds](
        "regret of the main agent is quadratic in the error",
        "J_beta(pi*) - J_beta(pi1) <= c^2/(8 beta) E_x max_yy' ||phi(x, y) - phi(x, y')||^2",
        f"{_SOURCE}; ours, by Hoeffding's lemma",
        "tight",
        lambda x: x.agents.regret,
        lambda x: x.radius**2 / (8.0 * x.beta) * x.spread,
        _even,
        _resolution,
        _TRUTH_INSIDE,
    ),
    Claim[LinearRounds](
        "regret of the main agent by the enhancer",
        "J_beta(pi*) - J_beta(pi1) <= c ||v(pi2, pi1)||, pi2 the enhancer that is computed",
        f"{_SOURCE}, online",
        "upper",
        lambda x: x.agents.regret,
        lambda x: x.radius * x.enhanced.width,
        _sure,
        _resolution,
        _TRUTH_INSIDE,
        _MOST,
    ),
    Claim[LinearRounds](
        "the enhancer stays in its set",
        "beta KL(pi2 || pi1) <= c ||v(pi2, pi1)||, pi2 the enhancer that is computed",
        f"{_SOURCE}, its iterative algorithm",
        "tight",
        lambda x: x.enhanced.membership,
        lambda x: x.radius * x.enhanced.width,
        _plateau,
        _resolution,
        most_instances=_MOST,
    ),
    Claim[LinearRounds](
        "regret of hybrid learning",
        "J_beta(pi*) - J_beta(pi1) <= c (||v(pi*, p)|| + ||v(pi1, p)||)",
        f"{_SOURCE}, hybrid",
        "tight",
        lambda x: x.agents.regret,
        lambda x: x.radius * x.agents.from_reference,
        _opposite,
        _resolution,
        _TRUTH_INSIDE,
    ),
    Claim[LinearRounds](
        "what is drawn is at least as uncertain as its mean",
        "||v(pi1, p)||^2 <= E ||phi(x, y1) - phi(x, y2)||^2, y1 ~ pi1, y2 ~ p",
        _SOURCE,
        "tight",
        lambda x: x.drawn[0],
        lambda x: x.drawn[1],
        _settled,
    ),
    Claim[Sequences](
        "potential of the steps",
        "sum_t log(1 + ||d_t||^2) = log(det Sigma_T / det(lambda I)), norms by the Sigma before",
        "Abbasi-Yadkori et al. 2011, lemma 11",
        "identity",
        lambda x: np.log1p(x.steps).sum(axis=1),
        lambda x: x.log_determinant,
        _every_axis,
        lambda x: 1e-12 * (1.0 + x.isotropic),
    ),
    Claim[Sequences](
        "elliptical potential",
        "sum_t min(1, ||d_t||^2) <= log(det Sigma_T / det(lambda I)) / log 2",
        f"{_SOURCE}; Abbasi-Yadkori et al. 2011, lemma 11, with 2 for 1/log 2",
        "tight",
        lambda x: np.minimum(1.0, x.steps).sum(axis=1),
        lambda x: x.log_determinant / np.log(2.0),
        _one_step,
        lambda x: 1e-12 * (1.0 + x.isotropic),
    ),
    Claim[Sequences](
        "growth of the determinant",
        "log(det Sigma_T / det(lambda I)) <= d log(1 + sum_t |d_t|^2/(d lambda))",
        "Abbasi-Yadkori et al. 2011, lemma 10",
        "tight",
        lambda x: x.log_determinant,
        lambda x: x.isotropic,
        _every_axis,
        lambda x: 1e-12 * (1.0 + x.isotropic),
    ),
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
