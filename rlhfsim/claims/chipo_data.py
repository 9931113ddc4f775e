"""From n preferences to a bound with every constant explicit; confidence sets.

The chain of chi-squared RLHF over a finite class of rewards: with probability 1 - delta the squared
error of maximum likelihood is at most `log(|R|/delta) / (n sigma'(V)^2)`, and then the regret is at
most `(eps + beta sqrt(2 D*))^2 / (4 beta)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import expit
from scipy.stats import binom

from rlhfsim.bandit import ContextualBandit
from rlhfsim.bounds import chi_squared_bound, finite_class_error, reward_error, theory_beta
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.statistical import ProbabilityClaim
from rlhfsim.divergences import ChiSquared
from rlhfsim.laws import dataset_law
from rlhfsim.rewards import FiniteClass, fit_reward
from rlhfsim.rewards.confidence import finite_likelihood_set
from rlhfsim.sampling import sample_preferences
from rlhfsim.solvers import solve

_CHAIN = "derived here; the core of arXiv 2407.13399, thm 3.1"


# ---- a finite class whose errors are at the bound ------------------------------------------------

#: Preferences in the claims on a finite class, and how many rewards it has.
CLASS_PAIRS, _CLASS = 10_000, 8
_ONE_PROMPT = np.ones(1)
_REFERENCE = np.array([[0.4, 0.3, 0.2, 0.1]])
_COMPARATOR = np.full((1, 4), 0.25)
# Beyond the bound by this much, where rounding cannot hide it.
_BEYOND = 1.0 + 1e-9


@dataclass(frozen=True, eq=False)
class ClassProblem:
    """A bandit, a class of rewards (the first one true), and `eps`, the bound on their errors.

    Three random errors are half of the bound and three are at it; so is the error of the reward 0,
    which is along `w* - 1`, where the bound on the regret is attained.
    """

    bandit: ContextualBandit
    rewards: FloatArray  # (8, 1, 4)
    epsilon: float


@cache
def class_problem(delta: float) -> ClassProblem:
    """Return the problem whose errors are at the bound of `CLASS_PAIRS` preferences."""
    rng = np.random.default_rng(7)
    aligned = _unit(_COMPARATOR / _REFERENCE - 1.0)
    errors = [_unit(rng.standard_normal((1, 4))) for _ in range(_CLASS - 2)]
    gap, rewards, epsilon = 0.0, np.zeros((_CLASS, 1, 4)), 0.0
    # V is that of the class, whose size the bound sets: a contraction, sigma'(V) being flat at 0.
    for _ in range(50):
        epsilon = math.sqrt(finite_class_error(CLASS_PAIRS, _CLASS, delta, gap))
        truth = _BEYOND * epsilon * aligned
        others = [
            truth + (_BEYOND if k % 2 else 0.5) * epsilon * error for k, error in enumerate(errors)
        ]
        rewards = np.stack([truth, np.zeros((1, 4)), *others])
        gap = float(np.ptp(rewards, axis=-1).max())
    return ClassProblem(ContextualBandit(_ONE_PROMPT, _REFERENCE, rewards[0]), rewards, epsilon)


def _unit(error: FloatArray) -> FloatArray:
    """Return the error centred under the reference, of norm 1."""
    centred = error - (_REFERENCE * error).sum()
    return np.asarray(centred / math.sqrt((_REFERENCE * centred**2).sum()))


def error_exceeds(delta: float, constant: float) -> BoolArray:
    """Return for each reward of the class whether `eps_c^2` is above `constant` times its bound."""
    problem = class_problem(delta)
    errors = reward_error(problem.bandit.reward, problem.rewards, _REFERENCE, [1.0])
    return np.asarray(errors**2 > constant * problem.epsilon**2)


def regret_exceeds(delta: float, constant: float) -> BoolArray:
    """Return for each reward whether the chi-squared regret is above `constant` times its bound.

    Against the uniform policy, at the beta that the bound is least at.
    """
    problem = class_problem(delta)
    divergence = float(ChiSquared()(_COMPARATOR, _REFERENCE, [1.0]))
    beta = float(theory_beta(problem.epsilon, divergence))
    policies = solve(problem.rewards, _REFERENCE, ChiSquared(), beta).policy
    bound = constant * float(chi_squared_bound(problem.epsilon, divergence, beta))
    return np.asarray(problem.bandit.regret(policies, _COMPARATOR) > bound)


def _violations(
    delta: float, exceeds: BoolArray, replications: int, rng: np.random.Generator
) -> int:
    problem = class_problem(delta)
    model = FiniteClass(problem.rewards)
    picks = (
        fit_reward(sample_preferences(problem.bandit, CLASS_PAIRS, rng), model, rng=rng).index
        for _ in range(replications)
    )
    return sum(bool(exceeds[index]) for index in picks)


def finite_class_claim(delta: float = 0.2, constant: float = 1.0) -> ProbabilityClaim:
    """Return the claim that the error of the fit exceeds its bound with probability <= delta."""
    return ProbabilityClaim(
        name="error of a finite class",
        formula="P(eps_c^2 > log(|R|/delta) / (n sigma'(V)^2)) <= delta",
        source=_CHAIN,
        delta=delta,
        violations=lambda runs, rng: _violations(delta, error_exceeds(delta, constant), runs, rng),
    )


def chi_squared_rlhf_claim(delta: float = 0.5, constant: float = 1.0) -> ProbabilityClaim:
    """Return the claim that the whole bound of chi-squared RLHF fails with probability <= delta."""
    return ProbabilityClaim(
        name="regret of chi-squared RLHF",
        formula="P(regret > sqrt(2 D*) sqrt(log(|R|/delta) / n) / sigma'(V)) <= delta",
        source=_CHAIN,
        delta=delta,
        violations=lambda runs, rng: _violations(delta, regret_exceeds(delta, constant), runs, rng),
    )


# ---- where the constant of the finite class is right ---------------------------------------------


# With the reference (1/2, 1/2), the truth (V, 0), the reward 0 and the comparator a_0 everything
# is attained at once: D* = 1/2, eps_c = V/2 and the regret of the reward 0 is V/2 at every beta.
_PAIRS = 100_000


def close_gap(delta: float, constant: float) -> float:
    """Return the V at which `eps_c^2 = V^2/4` is `constant` times its bound, for two rewards."""
    gap = 0.0
    for _ in range(50):
        gap = 2.0 * math.sqrt(constant * finite_class_error(_PAIRS, 2, delta, gap))
    return gap


def wrong_of_two(n: int, gap: float) -> float:
    """Return P((0, 0) is likelier than the truth (gap, 0)), for two equally frequent responses.

    Of n pairs `Binomial(n, 1/2)` compare different responses, and a_0 wins `sigma(gap)` of those.
    """
    # log sigma(+-gap) + log 2, without cancellation.
    up, down = math.log1p(math.tanh(gap / 2)), -math.log1p(-math.tanh(gap / 2))
    compared = np.arange(n + 1)
    law = binom.pmf(compared, n, 0.5)
    likely = law > 0
    # Wins w with `w up < (compared - w) down`.
    most = np.ceil(compared[likely] * down / (up + down)) - 1.0
    return float(law[likely] @ binom.cdf(most, compared[likely], expit(gap)))


def close_rewards_claim(delta: float = 1e-30, constant: float = 1.0) -> ProbabilityClaim:
    """Return the exact claim on the error of two close rewards; its constant cannot be halved."""
    return ProbabilityClaim(
        name="error of a finite class, two close rewards",
        formula=f"P(eps_c^2 >= log(2/delta) / (n sigma'(V)^2)) <= delta, n = {_PAIRS}",
        source=_CHAIN,
        delta=delta,
        exact=lambda: wrong_of_two(_PAIRS, close_gap(delta, constant)),
        with_constant=lambda factor: close_rewards_claim(delta, constant * factor),
    )


def close_regret(delta: float, constant: float) -> float:
    """Return P(the regret is at least sqrt(constant) times its bound), at its own beta."""
    gap = close_gap(delta, constant)
    p, star = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    bandit = ContextualBandit(_ONE_PROMPT, p, np.array([[gap, 0.0]]))
    epsilon = math.sqrt(finite_class_error(_PAIRS, 2, delta, gap))
    beta = float(theory_beta(epsilon, 0.5))
    bound = math.sqrt(constant) * float(chi_squared_bound(epsilon, 0.5, beta))
    learned = np.array([[[0.0, 0.0]], [[gap, 0.0]]])
    regret = bandit.regret(solve(learned, p, ChiSquared(), beta).policy, star)
    wrong = wrong_of_two(_PAIRS, gap)
    return float(np.array([wrong, 1.0 - wrong]) @ (regret >= bound * (2.0 - _BEYOND)))


def close_regret_claim(delta: float = 1e-30, constant: float = 1.0) -> ProbabilityClaim:
    """Return the exact claim on the regret; `constant` multiplies the square of its bound."""
    return ProbabilityClaim(
        name="regret of chi-squared RLHF, two close rewards",
        formula=f"P(regret >= sqrt(2 D*) sqrt(log(2/delta)/n) / sigma'(V)) <= delta, n = {_PAIRS}",
        source=_CHAIN,
        delta=delta,
        exact=lambda: close_regret(delta, constant),
        with_constant=lambda factor: close_regret_claim(delta, constant * factor),
    )


# ---- likelihood-ratio sets, over all datasets ----------------------------------------------------


def missed(bandit: ContextualBandit, n: int, model: FiniteClass, delta: float) -> float:
    """Return P(the likelihood-ratio set misses `r*`), summed over all datasets."""
    return dataset_law(bandit, n).probability_of(
        lambda counts: not finite_likelihood_set(counts, model, delta).contains(bandit.reward)
    )


def coverage_claim(delta: float = 0.2, level: float | None = None) -> ProbabilityClaim:
    """Return the exact coverage of three rewards on three responses by the set of `level`."""
    used = delta if level is None else level
    reward = np.array([[1.0, 0.5, 0.0]])
    bandit = ContextualBandit(_ONE_PROMPT, np.array([[0.5, 0.3, 0.2]]), reward)
    model = FiniteClass(np.stack([reward, 4.0 * reward, -2.0 * reward]))
    return ProbabilityClaim(
        name="likelihood-ratio set of a finite class",
        formula="P(r* not in {L >= max L - log(|R|/delta)}) <= delta, all datasets of n = 6",
        source="arXiv 2305.14816; radius derived here",
        delta=delta,
        exact=lambda: missed(bandit, 6, model, used),
    )


def tight_coverage_claim(delta: float = 0.1, level: float | None = None) -> ProbabilityClaim:
    """Return the coverage where Markov's inequality is tight: half of delta is used.

    One pair of different responses, whose likelihood under a wrong reward is `2/delta` times that
    under the truth exactly when the truth is surprised.  The union bound over the two rewards costs
    the other half, `r*` itself being one of them.
    """
    used = delta if level is None else level
    surprise = 0.5 * used * (1.0 - 1e-6)
    reward = np.array([[math.log1p(-surprise) - math.log(surprise), 0.0]])
    model = FiniteClass(np.stack([reward, [[-40.0, 0.0]]]))
    bandit = ContextualBandit(_ONE_PROMPT, np.array([[0.5, 0.5]]), reward)
    law = dataset_law(bandit, 1, policies=([[1.0, 0.0]], [[0.0, 1.0]]))
    return ProbabilityClaim(
        name="likelihood-ratio set of a finite class, one surprise",
        formula="P(r* not in {L >= max L - log(|R|/delta)}) <= delta, and = delta/2 here",
        source="derived here",
        delta=delta,
        exact=lambda: law.probability_of(
            lambda counts: not finite_likelihood_set(counts, model, used).contains(reward)
        ),
    )


DATA_CLAIMS: tuple[ProbabilityClaim, ...] = (
    finite_class_claim(),
    close_rewards_claim(),
    chi_squared_rlhf_claim(),
    close_regret_claim(),
    coverage_claim(),
    tight_coverage_claim(),
)
