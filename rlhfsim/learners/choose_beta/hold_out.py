"""The beta of the largest likelihood of comparisons that were held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts
from rlhfsim.divergences import Divergence
from rlhfsim.learners.base import Learned
from rlhfsim.learners.choose_beta.base import (
    DEFAULT_CANDIDATES,
    BetaChoice,
    BetaProblem,
    BetaRule,
    UndeterminedBetaError,
    as_candidates,
)
from rlhfsim.learners.choose_beta.splits import split_counts
from rlhfsim.losses import DivergenceLink

_FOLDS = 5


@dataclass(frozen=True)
class HoldOut(BetaRule):
    """The beta whose reward, learned from some of the rows, best predicts the others.

    A score is the mean of `log sigma(s(x, y+) - s(x, y-))` over held-out comparisons of different
    responses, in nats; `s` is the learner's own reward, fitted or implicit, or with a `divergence`
    the implicit one `beta f'(pi/p)` of its policy.

    *Where it cannot work.*  A reward that is fitted before beta enters does not depend on beta,
    and over all policies neither does the implicit one: `beta f'(w) = r^` up to a constant.  Then
    all scores are equal and `UndeterminedBetaError` is raised.  Beta can be chosen where it changes
    what can be expressed: with restricted classes of policies, with a ridge that depends on it, or
    where chi-squared gives responses no mass.  And the likelihood under the sampling policy is not
    the regret: nothing bounds the regret of the choice.

    Of scores within `flat` of the best, the largest beta is taken.  `certificate` has
    `held_out`, the number of comparisons in the scores; `spread`, the largest less the smallest
    finite score; and `difference_error` (B,), the standard error of the best score less each, as if
    folds were independent.

    Parameters
    ----------
    candidates : sequence of floats
        At least two, positive, increasing.
    folds : int, optional
        Each row is held out once, in one of this many folds; 5 unless `fraction` is given.
    fraction : float, optional
        In (0, 1): one split instead, with this part of the rows held out.
    divergence : Divergence, optional
    flat : float
        Scores closer than this, in nats per comparison, are the same.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value; no rng; counts that are not whole; too few rows.
        Fits raise what they raise, such as `MLEDoesNotExistError` on the fewer rows of a fold.

    Source: Stone 1974 (cross-validation); likelihood of Bradley and Terry 1952.
    """

    candidates: tuple[float, ...] = DEFAULT_CANDIDATES
    folds: int | None = None
    fraction: float | None = None
    divergence: Divergence | None = None
    flat: float = 1e-7

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "candidates", as_candidates(self.candidates))
        if self.folds is not None and self.fraction is not None:
            raise ValueError(
                f"fraction is {self.fraction!r} and folds {self.folds!r}; give one of them"
            )
        if self.folds is not None:
            checks.whole_number("folds", self.folds, least=2)
        if self.fraction is not None and checks.positive_number("fraction", self.fraction) >= 1:
            raise ValueError(f"fraction is {self.fraction!r}; it must be below 1")
        if self.divergence is not None and not isinstance(self.divergence, Divergence):
            raise ValueError(
                f"divergence is {self.divergence!r:.80}; it must be a Divergence such as KL()"
            )
        checks.positive_number("flat", self.flat, zero=True)

    def choose(self, problem: BetaProblem) -> BetaChoice:
        """Return the choice; see the class."""
        if problem.rng is None:
            raise ValueError("rng is None; HoldOut needs a numpy.random.Generator to split rows")
        splits = split_counts(problem.counts, self._sizes(problem.rows()), problem.rng)
        table = self._held_out(problem, splits)
        betas, scores = np.array(self.candidates), table.scores()
        finite = np.isfinite(scores)
        spread = float(np.ptp(scores[finite])) if finite.any() else 0.0
        if finite.sum() != 1 and spread <= self.flat:
            raise UndeterminedBetaError(_flat_reason(scores, spread, self.flat), betas, scores)
        best = int(np.flatnonzero(scores >= scores.max() - self.flat)[-1])
        error = table.difference_error(best)
        near = scores[best] - scores[finite] <= 2.0 * error[finite]
        return BetaChoice(
            rule=self.name,
            beta=self.candidates[best],
            reason=(
                f"its log-likelihood of {table.total:g} held-out comparisons, {scores[best]:.6g} "
                f"nats each, is the largest of {betas.size} candidates; "
                f"{near.sum() - 1} of the others are within two standard errors, and "
                f"{(~finite).sum()} give some held-out winner no mass"
            ),
            candidates=betas,
            scores=scores,
            score="held-out log-likelihood (nats per comparison, larger is better)",
            certificate={
                "held_out": table.total,
                "spread": spread,
                "difference_error": error,
            },
        )

    def _sizes(self, n: int) -> list[int]:
        """Return the numbers of rows held out in each split."""
        if self.fraction is not None:
            size = round(self.fraction * n)
            if not 1 <= size < n:
                raise ValueError(
                    f"fraction is {self.fraction!r}; of {n} rows it would hold out {size}"
                )
            return [size]
        folds = _FOLDS if self.folds is None else self.folds
        if n < folds:
            raise ValueError(f"data has {n} rows; {folds} folds need at least as many")
        return [n // folds + (fold < n % folds) for fold in range(folds)]

    def _held_out(
        self, problem: BetaProblem, splits: list[tuple[PairCounts, PairCounts]]
    ) -> _HeldOut:
        count = np.concatenate([part.count for _, part in splits])
        if count.size == 0:
            raise ValueError(
                "data held out no comparison of different responses; hold out more rows"
            )
        rows = [
            [
                _log_probabilities(self._scores(problem, problem.fit(beta, rest), beta), part)
                for rest, part in splits
            ]
            for beta in self.candidates
        ]
        return _HeldOut(count, np.stack([np.concatenate(row) for row in rows]))

    def _scores(self, problem: BetaProblem, learned: Learned, beta: float) -> FloatArray:
        """Return (X, Y) what predicts the held-out comparisons."""
        if self.divergence is None:
            if learned.reward is None:
                raise ValueError(
                    f"family({beta!r}) learns no reward; give HoldOut a divergence, whose implicit "
                    "reward is then used"
                )
            return learned.reward
        bad = problem.counts.compared & (problem.reference == 0)
        if bad.any():
            index = [int(i[0]) for i in np.nonzero(bad)]
            raise ValueError(
                f"reference{index} is 0.0; an implicit reward needs it positive on compared "
                "responses"
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            # Below the normal floats a mass has lost its digits, and beta would seem to matter.
            mass = np.where(learned.policy < np.finfo(np.float64).tiny, 0.0, learned.policy)
            log_ratio = np.log(mass) - np.log(problem.reference)
            log_ratio = np.where(problem.reference > 0, log_ratio, 0.0)
        return beta * DivergenceLink(self.divergence).value(log_ratio)


class _HeldOut(NamedTuple):
    """The held-out comparisons, and how likely each is by each candidate."""

    #: (U,) how often each was held out.
    weight: FloatArray
    #: (B, U) log probabilities, in nats; `-inf` where a winner has no mass.
    log_probability: FloatArray

    @property
    def total(self) -> float:
        return float(self.weight.sum())

    def scores(self) -> FloatArray:
        """Return the (B,) means."""
        return np.asarray((self.log_probability * self.weight).sum(axis=1) / self.total)

    def difference_error(self, best: int) -> FloatArray:
        """Return the (B,) standard errors of `score[best] - score`, `inf` where that is."""
        finite = np.isfinite(self.log_probability).all(axis=1)
        error = np.full(finite.size, np.inf)
        difference = self.log_probability[best] - self.log_probability[finite]
        mean = (difference * self.weight).sum(axis=1, keepdims=True) / self.total
        variance = ((difference - mean) ** 2 * self.weight).sum(axis=1) / self.total
        error[finite] = np.sqrt(variance / self.total)
        return error


def _log_probabilities(scores: FloatArray, part: PairCounts) -> FloatArray:
    """Return (U,) `log sigma` of the differences; two scores of `-inf` are equal."""
    first, second = scores[part.prompt, part.winner], scores[part.prompt, part.loser]
    with np.errstate(invalid="ignore"):
        margin = np.where(first == second, 0.0, first - second)
    return np.asarray(-np.logaddexp(0.0, -margin))


def _flat_reason(scores: FloatArray, spread: float, flat: float) -> str:
    if scores.max() == -np.inf:
        return "every candidate gives some held-out winner no mass: its likelihood is 0"
    return (
        f"the held-out log-likelihood is {scores.max():.6g} nats per comparison for all of the "
        f"{np.isfinite(scores).sum()} candidates with a finite one (spread {spread:.2g}, flat up "
        f"to {flat:g}): what is learned predicts the same at every beta, so this rule cannot "
        "choose one"
    )
