"""The beta of the largest true value, which needs the true reward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.learners.choose_beta.base import (
    DEFAULT_CANDIDATES,
    BetaChoice,
    BetaProblem,
    BetaRule,
    UndeterminedBetaError,
    as_candidates,
)
from rlhfsim.learners.choose_beta.families import common_rlhf
from rlhfsim.learners.rlhf import RLHF
from rlhfsim.rewards import fit_reward
from rlhfsim.solvers import BestBeta, best_beta, solve

_SCORE = "true value J (reward units, larger is better)"
_SHORTEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True, eq=False)
class Oracle(BetaRule):
    """The beta whose learned policy has the largest true value `J = E_{x ~ rho, y ~ pi}[r*]`.

    For `RLHF` with one divergence and one reward model, J is searched over the whole interval from
    the first candidate to the last: exactly for chi-squared, by a certified branch and bound
    otherwise (`best_beta`).  For any other family every candidate is fitted, and a golden section
    search in log beta goes on from the best, between its two neighbours: then the beta is as good
    as every candidate, but no proof that it is the best of the interval.

    `certificate` has `certified`, the `value` and `regret` of the policy in reward units, and the
    number of `evaluations`.  Where certified also `value_upper`, which no beta of the interval
    exceeds, and the `intervals` that hold every best beta; else `bracket`, where the search ended.

    Parameters
    ----------
    bandit : ContextualBandit
        Of the shape of the data; gives `r*` and `rho`.
    candidates : sequence of floats
        At least two, positive, increasing.
    tolerance : float
        Of `best_beta`.
    refinements : int
        Steps of the golden section search; each shortens the bracket by 0.618.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.  Choosing raises what fits and `best_beta` raise.

    Source: derived, `rlhfsim.solvers.path.enclosure`; Kiefer 1953 (golden section).
    """

    bandit: ContextualBandit
    candidates: tuple[float, ...] = DEFAULT_CANDIDATES
    tolerance: float = 1e-10
    refinements: int = 40

    def __post_init__(self) -> None:
        """Validate."""
        if not isinstance(self.bandit, ContextualBandit):
            raise ValueError(f"bandit is {self.bandit!r:.80}; it must be a ContextualBandit")
        object.__setattr__(self, "candidates", as_candidates(self.candidates))
        checks.positive_number("tolerance", self.tolerance, zero=True)
        checks.whole_number("refinements", self.refinements, least=0)

    def choose(self, problem: BetaProblem) -> BetaChoice:
        """Return the choice; see the class."""
        if problem.counts.shape != self.bandit.shape:
            raise ValueError(
                f"bandit has shape {self.bandit.shape}; it must have the shape of the data, "
                f"{problem.counts.shape}"
            )
        learner = common_rlhf(problem, self.candidates)
        return self._by_search(problem) if learner is None else self._certified(problem, learner)

    def _certified(self, problem: BetaProblem, learner: RLHF) -> BetaChoice:
        betas = np.array(self.candidates)
        reward = fit_reward(problem.counts, learner.model, rng=problem.generator()).reward
        best = best_beta(
            self.bandit.reward,
            reward,
            problem.reference,
            learner.divergence,
            self.bandit.prompt_dist,
            low=self.candidates[0],
            high=self.candidates[-1],
            tolerance=self.tolerance,
        )
        policies = solve(reward, problem.reference, learner.divergence, betas[:, None]).policy
        values = np.asarray(self.bandit.value(policies))
        slack = _rounding(self.bandit.reward) + self.tolerance * np.ptp(self.bandit.reward)
        if best.value - values.min() <= slack:
            raise _flat(betas, values)
        chosen = solve(reward, problem.reference, learner.divergence, best.beta).policy
        return BetaChoice(
            rule=self.name,
            beta=best.beta,
            reason=_certified_reason(best, self.candidates),
            candidates=betas,
            scores=values,
            score=_SCORE,
            certificate={
                "certified": True,
                "value": best.value,
                "regret": float(self.bandit.regret(chosen)),
                "value_upper": best.value_upper,
                "intervals": best.intervals,
                "evaluations": best.evaluations,
            },
        )

    def _by_search(self, problem: BetaProblem) -> BetaChoice:
        def value(beta: float) -> float:
            return float(self.bandit.value(problem.fit(beta).policy))

        betas = np.array(self.candidates)
        values = np.array([value(beta) for beta in self.candidates])
        if np.ptp(values) <= _rounding(self.bandit.reward):
            raise _flat(betas, values)
        # Of equal ones the largest, as on the exact path.
        first = betas.size - 1 - int(values[::-1].argmax())
        ends = self.candidates[max(first - 1, 0)], self.candidates[min(first + 1, betas.size - 1)]
        start = self.candidates[first], float(values[first])
        beta, best, bracket = _golden_section(value, start, ends, self.refinements)
        return BetaChoice(
            rule=self.name,
            beta=beta,
            reason=(
                f"its true value {best:.6g} is the largest found at {betas.size} candidates and "
                f"in a search around the best of them{_at_an_end(beta, self.candidates)}"
            ),
            candidates=betas,
            scores=values,
            score=_SCORE,
            certificate={
                "certified": False,
                "value": best,
                "regret": float(self.bandit.regret(problem.fit(beta).policy)),
                "bracket": bracket,
                "evaluations": betas.size + self.refinements,
            },
        )


def _golden_section(
    value: Callable[[float], float],
    start: tuple[float, float],
    ends: tuple[float, float],
    steps: int,
) -> tuple[float, float, tuple[float, float]]:
    """Return the best beta seen, its value, and the last bracket, which need not hold it."""
    best, top = start
    low, high = math.log(ends[0]), math.log(ends[1])
    points: list[tuple[float, float]] = []
    for _ in range(steps):
        # The second point of a bracket mirrors the first.
        place = low + high - points[0][0] if points else high - _SHORTEN * (high - low)
        beta = min(max(math.exp(place), ends[0]), ends[1])
        points.append((place, value(beta)))
        if points[-1][1] > top:
            best, top = beta, points[-1][1]
        if len(points) == 2:
            points.sort()
            if points[0][1] > points[1][1]:
                high = points.pop()[0]
            else:
                low = points.pop(0)[0]
    return best, top, (math.exp(low), math.exp(high))


def _rounding(reward: FloatArray) -> float:
    """Return how far two computed values of one policy may be apart."""
    return float(64.0 * np.finfo(np.float64).eps * np.abs(reward).max())


def _flat(betas: FloatArray, values: FloatArray) -> UndeterminedBetaError:
    return UndeterminedBetaError(
        f"every beta from {betas[0]:.6g} to {betas[-1]:.6g} gives the same true value, "
        f"{values[0]:.6g}: none is best",
        betas,
        values,
    )


def _certified_reason(best: BestBeta, candidates: tuple[float, ...]) -> str:
    slack = max(best.value_upper - best.value, 0.0)
    return (
        f"its true value {best.value:.6g} is the largest of all beta from {candidates[0]:.6g} to "
        f"{candidates[-1]:.6g}, within {slack:.2g}{_at_an_end(best.beta, candidates)}"
    )


def _at_an_end(beta: float, candidates: tuple[float, ...]) -> str:
    if beta == candidates[0]:
        return "; it is the smallest allowed, less might be better"
    if beta == candidates[-1]:
        return "; it is the largest allowed, more might be better"
    return ""
