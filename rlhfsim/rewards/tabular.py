"""Bradley-Terry maximum likelihood with one free number per prompt and response."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PreferenceData, PromptWins, count_pairs, log_likelihood
from rlhfsim.rewards import newton
from rlhfsim.rewards.existence import require_mle, strongly_connected, weak_components
from rlhfsim.rewards.result import RewardFit, RewardFitError

#: Largest bound whose pull, of order `exp(-r_max)`, a float64 can hold.
LARGEST_R_MAX = 700.0

#: Smallest ridge.  The weights of pairs fall to its size, and from about 1e-120 on the iteration
#: can meet weights that a float64 factorisation does not resolve beside the others.
SMALLEST_RIDGE = 1e-60

_KKT_PER_COMPARISON = 1e-10
_STEP_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Tabular:
    """`r_hat = argmax_r sum_i log sigma(r(x_i, y+_i) - r(x_i, y-_i))` over all `(X, Y)` tables.

    Every prompt is a problem of its own, over the responses that it compared.

    * `Tabular()`, unconstrained: exists where `mle_exists` says so.  The compared responses of a
      prompt are centred to mean 0; the others get 0.
    * `Tabular(r_max=R)`: the maximiser within `0 <= r <= R`.  It always exists.  Responses that
      are linked by comparisons and whose rewards the box does not pin at both ends are placed
      with their mid-range at `R/2`; so are single responses that were never compared.
    * `Tabular(ridge=c)`: adds `-(c/2) sum_xy r(x, y)^2`.  It always exists and is unique; each
      set of responses linked by comparisons has mean 0, and those never compared get 0.

    Parameters
    ----------
    r_max : float, optional
        In reward units; positive and at most 700.
    ridge : float, optional
        In comparisons per squared reward unit; at least 1e-60.

    Raises
    ------
    ValueError
        If both are given, or either is out of range.

    Source: Bradley and Terry 1952; Ford 1957; Hunter 2004; arXiv 2407.13399.
    """

    r_max: float | None = None
    ridge: float | None = None

    def __post_init__(self) -> None:
        """Validate."""
        if self.r_max is not None and self.ridge is not None:
            raise ValueError(
                f"r_max is {self.r_max!r} and ridge is {self.ridge!r}; at most one may be given"
            )
        for name in ("r_max", "ridge"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checks.positive_number(name, value))
        if self.r_max is not None and self.r_max > LARGEST_R_MAX:
            raise ValueError(
                f"r_max is {self.r_max!r}; it must be at most {LARGEST_R_MAX:g}, "
                "above which exp(-r_max) underflows"
            )
        if self.ridge is not None and self.ridge < SMALLEST_RIDGE:
            raise ValueError(f"ridge is {self.ridge!r}; it must be at least {SMALLEST_RIDGE:g}")

    def fit(self, data: PreferenceData, rng: np.random.Generator | None = None) -> RewardFit:
        """Return the maximum likelihood table; see `fit_reward`.  `rng` is not used."""
        checks.optional_generator("rng", rng)
        counts = count_pairs(data)
        reward = np.full(counts.shape, 0.0 if self.r_max is None else self.r_max / 2)
        residual, failure = 0.0, ""
        for group in counts.by_prompt():
            if self.r_max is None and self.ridge is None:
                require_mle(group)
            if group.wins.size == 0:
                continue
            values, step = self._fit_prompt(group.wins)
            reward[group.prompt, group.responses] = values
            violation = newton.kkt_residual(group.wins, values, *self._box(), self.ridge or 0.0)
            residual = max(residual, violation)
            failure = failure or _failure(group, violation, step)
        fit = RewardFit(
            reward=reward,
            log_likelihood=log_likelihood(counts, reward),
            gradient_norm=residual,
            compared=counts.compared,
        )
        if failure:
            raise RewardFitError(failure, fit)
        return fit

    def _box(self) -> tuple[float, float]:
        return (-np.inf, np.inf) if self.r_max is None else (0.0, self.r_max)

    def _fit_prompt(self, wins: FloatArray) -> tuple[FloatArray, float]:
        """Return the (K,) rewards of one prompt and the longest last Newton step."""
        labels = weak_components(wins)
        values, step = np.empty(len(wins)), 0.0
        for label in range(int(labels.max()) + 1):
            members = labels == label
            values[members], length = self._fit_linked(wins[np.ix_(members, members)])
            step = max(step, length)
        return values, step

    def _fit_linked(self, wins: FloatArray) -> tuple[FloatArray, float]:
        """Return the rewards of responses that are linked by comparisons."""
        size = len(wins)
        lower, upper = (np.full(size, end) for end in self._box())
        if self.ridge is not None:
            values, length = newton.minimize(wins, np.zeros(size), lower, upper, self.ridge)
            return values - values.mean(), length
        start = np.zeros(size)
        if strongly_connected(wins):
            free, length = _fit_free(wins)
            if self.r_max is None:
                return free - free.mean(), length
            start = free - (free.min() + free.max()) / 2
            if np.ptp(start) <= self.r_max:
                return np.clip(start + self.r_max / 2, lower, upper), length
        # From here on some response is pinned at each end, so the maximiser is unique.
        return newton.minimize(wins, start + upper / 2, lower, upper, 0.0)


def _fit_free(wins: FloatArray) -> tuple[FloatArray, float]:
    """Return the unconstrained maximiser with its first entry at 0."""
    bound = np.full(len(wins), np.inf)
    bound[0] = 0.0
    return newton.minimize(wins, np.zeros(len(wins)), -bound, bound, 0.0)


def _failure(group: PromptWins, violation: float, step: float) -> str:
    """Return what is wrong with a prompt's certificate; empty if nothing."""
    allowed = _KKT_PER_COMPARISON * group.wins.sum()
    if violation <= allowed and step <= _STEP_TOLERANCE:
        return ""
    return (
        f"no certified maximum at prompt {group.prompt}: stationarity is violated by "
        f"{violation:.3g} comparisons (allowed {allowed:.3g}), last Newton step {step:.3g} "
        f"(allowed {_STEP_TOLERANCE:g})"
    )
