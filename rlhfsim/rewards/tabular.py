"""Bradley-Terry maximum likelihood with one free number per prompt and response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.data import PairCounts, PreferenceData, PromptWins
from rlhfsim.rewards import newton
from rlhfsim.rewards.existence import require_mle, strongly_connected, weak_components
from rlhfsim.rewards.gauge import Gauge, as_gauge
from rlhfsim.rewards.result import RewardFit, RewardFitError

if TYPE_CHECKING:
    from rlhfsim.rewards.compiled.tables import Tables

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
    gauge : Gauge, optional
        Shifts the whole row of each prompt, also the responses that it never compared and that
        before the shift are at the mean of those it did: `UniformGauge()` (what is returned
        without a gauge), `ReferenceGauge(reference)` or `FirstResponse()`.

    Raises
    ------
    ValueError
        If both a bound and a ridge are given, or either is out of range; for a gauge of a bounded
        reward, whose box fixes the constants.

    Source: Bradley and Terry 1952; Ford 1957; Hunter 2004; arXiv 2407.13399.
    """

    r_max: float | None = None
    ridge: float | None = None
    gauge: Gauge | None = None

    def __post_init__(self) -> None:
        """Validate."""
        freeze_bound_or_ridge(self)
        if self.gauge is not None:
            as_gauge("gauge", self.gauge)
            if self.r_max is not None:
                raise ValueError(
                    f"gauge is {self.gauge!r:.80} and r_max is {self.r_max!r}; a bounded reward "
                    "takes no gauge, because a shift would move it out of [0, r_max]"
                )

    def fit(
        self, data: PreferenceData | PairCounts, rng: np.random.Generator | None = None
    ) -> RewardFit:
        """Return the maximum likelihood table; see `fit_reward`.  `rng` is not used."""
        from rlhfsim.rewards.compiled.tables import tabulate

        checks.optional_generator("rng", rng)
        chunks, equal_pairs = tabulate(data)
        parts = [self._fit_chunk(chunk) for chunk in chunks]
        reward, compared = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("reward", "compared")
        )
        if self.gauge is not None:
            reward -= self.gauge.offset(reward, compared)[:, None]
        loss = np.concatenate([part.loss for part in parts]).sum()
        fit = RewardFit(
            reward=reward,
            log_likelihood=float(-loss - equal_pairs * np.log(2.0)),
            gradient_norm=max(part.violation for part in parts),
            compared=compared,
            exists=np.concatenate([part.exists for part in parts]),
        )
        for part in parts:
            if part.failure:
                raise RewardFitError(part.failure, fit)
        return fit

    def _fit_chunk(self, tables: Tables) -> _Part:
        """Fit some prompts by the compiled kernels, and what those decline one by one."""
        from rlhfsim.rewards.compiled.launch import connected, fit_tables

        exists = connected(tables, strong=True)
        if self.r_max is None and self.ridge is None and not exists.all():
            require_mle(tables.group(int(exists.argmin())))
        if self.ridge is None:
            fits = fit_tables(tables, exists)
        else:
            # A ridge holds responses that no comparison links, so the graph may fall apart.
            fits = fit_tables(tables, tables.size > 0, self.ridge)
        reward, done = fits.reward, fits.certified
        if self.r_max is not None:
            reward, inside = _into_box(reward, tables.compared, self.r_max)
            done = done & inside
        part = _Part(reward, tables.compared, exists, np.where(done, fits.loss, 0.0))
        part.violation = float(fits.gradient[done].max(initial=0.0))
        if self.r_max is not None:
            done = self._fit_boxed(tables, done, part)
        for x in np.nonzero(~done & (tables.size > 0))[0]:
            self._fit_alone(tables.group(int(x)), int(x), part)
        return part

    def _fit_boxed(self, tables: Tables, done: BoolArray, part: _Part) -> BoolArray:
        """Fit what the box may bind; return which prompts are done now."""
        from rlhfsim.rewards.compiled.launch import fit_boxed_tables

        assert self.r_max is not None
        fits = fit_boxed_tables(tables, ~done & (tables.size > 0), self.r_max)
        new = fits.certified
        placed = np.where(tables.compared, fits.reward, self.r_max / 2)
        part.reward[new], part.loss[new] = placed[new], fits.loss[new]
        part.violation = max(part.violation, float(fits.gradient[new].max(initial=0.0)))
        return done | new

    def _fit_alone(self, group: PromptWins, x: int, part: _Part) -> None:
        """Fit the x-th prompt of a part by the general route."""
        values, step = self._fit_prompt(group.wins)
        violation = newton.kkt_residual(group.wins, values, *self._box(), self.ridge or 0.0)
        part.reward[x, group.responses] = values
        part.loss[x] = (group.wins * np.logaddexp(0.0, values - values[:, None])).sum()
        part.violation = max(part.violation, violation)
        part.failure = part.failure or _failure(group, violation, step)

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


def freeze_bound_or_ridge(model: Any) -> None:
    """Check the `r_max` and the `ridge` of a frozen model, of which at most one may be given.

    Raises
    ------
    ValueError
        If both are given, or either is out of range.
    """
    if model.r_max is not None and model.ridge is not None:
        raise ValueError(
            f"r_max is {model.r_max!r} and ridge is {model.ridge!r}; at most one may be given"
        )
    for name in ("r_max", "ridge"):
        value = getattr(model, name)
        if value is not None:
            object.__setattr__(model, name, checks.positive_number(name, value))
    if model.r_max is not None and model.r_max > LARGEST_R_MAX:
        raise ValueError(
            f"r_max is {model.r_max!r}; it must be at most {LARGEST_R_MAX:g}, "
            "above which exp(-r_max) underflows"
        )
    if model.ridge is not None and model.ridge < SMALLEST_RIDGE:
        raise ValueError(f"ridge is {model.ridge!r}; it must be at least {SMALLEST_RIDGE:g}")


@dataclass
class _Part:
    """The fits of some consecutive prompts."""

    #: (P, Y) rewards before the gauge, (P, Y) responses compared, (P,) whether the MLE exists.
    reward: FloatArray
    compared: BoolArray
    exists: BoolArray
    #: (P,) negative log-likelihood of the comparisons.
    loss: FloatArray
    violation: float = 0.0
    #: What is wrong with the first certificate that fails.
    failure: str = ""


def _into_box(
    reward: FloatArray, compared: BoolArray, r_max: float
) -> tuple[FloatArray, BoolArray]:
    """Return rewards with the mid-range of each prompt at `r_max/2`, and which prompts fit in."""
    high = np.where(compared, reward, -np.inf).max(axis=1)
    low = np.where(compared, reward, np.inf).min(axis=1)
    inside = high - low <= r_max
    # A prompt without comparisons has neither.
    middle = np.add(low, high, out=np.zeros(len(reward)), where=inside & np.isfinite(high)) / 2
    placed = np.clip(reward - middle[:, None] + r_max / 2, 0.0, r_max)
    return np.where(compared, placed, r_max / 2), inside


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
