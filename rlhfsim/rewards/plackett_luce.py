"""Plackett-Luce maximum likelihood from rankings, one free number per prompt and response."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import RankingData
from rlhfsim.rewards import flow_newton
from rlhfsim.rewards.existence import (
    MLEDoesNotExistError,
    listed,
    separated,
    strong_components,
    strongly_connected,
    weak_components,
)
from rlhfsim.rewards.ranking_counts import PromptRankings, RankingCounts, as_ranking_counts
from rlhfsim.rewards.ranking_flows import RankingFlows, log_likelihood, stationarity
from rlhfsim.rewards.result import RewardFit, RewardFitError
from rlhfsim.rewards.tabular import freeze_bound_or_ridge

_KKT_PER_RANKING = 1e-10
_STEP_TOLERANCE = 1e-6


@dataclass(frozen=True)
class PlackettLuce:
    """`r_hat = argmax_r sum_i sum_k log exp(r(x_i, y_ik)) / sum_{j >= k} exp(r(x_i, y_ij))`.

    `y_i1, ..., y_iK` is the i-th ranking, best first.  Every prompt is a problem of its own, over
    the responses that were ranked with a different one.  A response that stands in a ranking
    several times counts at each of its positions.  With `K = 2` this is `Tabular` on the pairs,
    and the conventions are the same:

    * `PlackettLuce()`, unconstrained: exists, and is unique up to a constant, exactly when the
      graph with an edge from every response to those ranked below it is strongly connected over
      the compared responses (Hunter 2004).  These are centred to mean 0; the others get 0.
    * `PlackettLuce(r_max=R)`: the maximiser within `0 <= r <= R`.  It always exists.  Responses
      linked by rankings and whose rewards the box does not pin at both ends are placed with their
      mid-range at `R/2`; so are single responses that were never compared.
    * `PlackettLuce(ridge=c)`: adds `-(c/2) sum_xy r(x, y)^2`.  It always exists and is unique; each
      set of responses linked by rankings has mean 0, and those never compared get 0.

    In the fit, `exists` says where the unconstrained estimate exists, `gradient_norm` is in
    rankings, and `log_likelihood` sums over all rows, also those that rank one response alone.

    Parameters
    ----------
    r_max : float, optional
        In reward units; positive and at most 700.
    ridge : float, optional
        In rankings per squared reward unit; at least 1e-60.

    Raises
    ------
    ValueError
        If both are given, or either is out of range.

    Source: Plackett 1975; Hunter 2004 (Ann. Statist. 32, 1), section 5; arXiv 2301.11270, section
    4.
    """

    r_max: float | None = None
    ridge: float | None = None

    def __post_init__(self) -> None:
        """Validate."""
        freeze_bound_or_ridge(self)

    def fit(
        self, data: RankingData | RankingCounts, rng: np.random.Generator | None = None
    ) -> RewardFit:
        """Return the maximum likelihood table; see `fit_reward`.  `rng` is not used.

        Raises
        ------
        MLEDoesNotExistError
            Without a bound or ridge, when the estimate of a prompt does not exist.
        RewardFitError
            When the fit fails its own certificate.
        """
        checks.optional_generator("rng", rng)
        counts = as_ranking_counts(data)
        reward = np.full(counts.shape, 0.0 if self.r_max is None else self.r_max / 2)
        exists = np.zeros(counts.shape[0], dtype=np.bool_)
        residual, failure = 0.0, ""
        for group in counts.by_prompt():
            flows = RankingFlows(group.ranking, group.weight, len(group.responses))
            wins = flows.wins()
            exists[group.prompt] = strongly_connected(wins)
            if self.r_max is None and self.ridge is None and not exists[group.prompt]:
                raise _missing(group, wins)
            if group.responses.size == 0:
                continue
            values, step = self._fit_prompt(group, wins)
            reward[group.prompt, group.responses] = values
            violation = stationarity(
                group.ranking, group.weight, values, self._box(), self.ridge or 0.0
            )
            residual = max(residual, violation)
            failure = failure or _failure(group, violation, step)
        ranked = reward[counts.prompt[:, None], counts.ranking]
        fit = RewardFit(
            reward=reward,
            log_likelihood=log_likelihood(counts.ranking, counts.count, ranked),
            gradient_norm=residual,
            compared=counts.compared,
            exists=exists,
        )
        if failure:
            raise RewardFitError(failure, fit)
        return fit

    def _box(self) -> tuple[float, float]:
        return (-np.inf, np.inf) if self.r_max is None else (0.0, self.r_max)

    def _fit_prompt(self, group: PromptRankings, wins: FloatArray) -> tuple[FloatArray, float]:
        """Return the (P,) rewards of one prompt and the longest last Newton step."""
        labels = weak_components(wins)
        values, longest = np.empty(len(wins)), 0.0
        for label in range(int(labels.max()) + 1):
            members = labels == label
            rows = members[group.ranking[:, 0]]
            place = np.cumsum(members) - 1
            flows = RankingFlows(place[group.ranking[rows]], group.weight[rows], int(members.sum()))
            values[members], step = self._fit_linked(flows, wins[np.ix_(members, members)])
            longest = max(longest, step)
        return values, longest

    def _fit_linked(self, flows: RankingFlows, wins: FloatArray) -> tuple[FloatArray, float]:
        """Return the rewards of responses that are linked by rankings."""
        size = len(wins)
        start = np.zeros(size)
        lower, upper = (np.full(size, end) for end in self._box())
        if self.ridge is not None:
            values, step = flow_newton.minimize(flows.at, wins, start, lower, upper, self.ridge)
            return values - values.mean(), step
        if strongly_connected(wins):
            bound = np.where(np.arange(size) == 0, 0.0, np.inf)
            free, step = flow_newton.minimize(flows.at, wins, start, -bound, bound, 0.0)
            if self.r_max is None:
                return free - free.mean(), step
            start = free - (free.min() + free.max()) / 2
            if np.ptp(start) <= self.r_max:
                return np.clip(start + self.r_max / 2, lower, upper), step
        # From here on some response is pinned at each end, so the maximiser is unique.
        return flow_newton.minimize(flows.at, wins, start + upper / 2, lower, upper, 0.0)


def _failure(group: PromptRankings, violation: float, step: float) -> str:
    """Return what is wrong with a prompt's certificate; empty if nothing."""
    allowed = _KKT_PER_RANKING * float(group.weight.sum())
    if violation <= allowed and step <= _STEP_TOLERANCE:
        return ""
    return (
        f"no certified maximum at prompt {group.prompt}: stationarity is violated by "
        f"{violation:.3g} rankings (allowed {allowed:.3g}), last Newton step {step:.3g} "
        f"(allowed {_STEP_TOLERANCE:g})"
    )


def _missing(group: PromptRankings, wins: FloatArray) -> MLEDoesNotExistError:
    """Return the error that names responses which are never ranked below, or above, the others."""
    cure = "bound the reward with PlackettLuce(r_max=...) or regularize it with ridge=..."
    if wins.size == 0:
        return MLEDoesNotExistError(
            f"prompt {group.prompt} ranks no two different responses, "
            f"so its reward is not identified; {cure}",
            group.prompt,
            (),
        )
    members, beats, loses = separated(wins, strong_components(wins))
    relation = "below" if beats else "above" if loses else "together with"
    responses = tuple(int(y) for y in group.responses[members])
    return MLEDoesNotExistError(
        f"the maximum likelihood reward of prompt {group.prompt} does not exist: responses "
        f"{listed(responses)} are never ranked {relation} its other compared responses; {cure}",
        group.prompt,
        responses,
    )
