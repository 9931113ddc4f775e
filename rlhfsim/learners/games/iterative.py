"""Iterative methods on an estimated game."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.divergences import KL, ChiSquared, Divergence
from rlhfsim.games import (
    GameTrace,
    estimated_preference,
    iterative_chi_po,
    nash_md,
    self_play,
)
from rlhfsim.learners.base import Learned, as_problem


@dataclass(frozen=True)
class SelfPlay:
    """The average policy of self-play in the estimated game (SPO; DNO with exact updates).

    `pi_{t+1} = argmax_pi eta l^(pi, pi_t) - KL(pi || pi_t)` from the reference.

    What is learned: `diagnostics` has the (T + 1, X) `estimated_gap` of the averages, in the
    estimated game, with deviations to all responses, those that the reference lacks among them.

    Parameters
    ----------
    iterations : int
        T, at least 1.
    step : float, optional
        `eta`, positive; `sqrt(6 log Y / T)` by default.
    average : bool
        Whether the average of the T policies is returned, rather than the last iterate.
    smoothing : float
        `kappa` of `estimated_preference`, at least 0.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.

    Source: arXiv 2401.04056; arXiv 2404.03715.
    """

    iterations: int = 100
    step: float | None = None
    average: bool = True
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        """Validate."""
        _validate(self.iterations, self.step, self.smoothing)
        if not isinstance(self.average, bool):
            raise ValueError(f"average is {self.average!r}; it must be a bool")

    @property
    def name(self) -> str:
        """`self-play`, with what is returned."""
        return "self-play" if self.average else "self-play, last iterate"

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the policy; see the class.  It takes nothing from `rng`."""
        problem = as_problem(data, reference, prompt_dist)
        model = estimated_preference(problem.data, smoothing=self.smoothing)
        trace = self_play(model, problem.reference, self.iterations, step=self.step)
        return Learned(
            policy=trace.average if self.average else trace.policy,
            diagnostics={"estimated_gap": trace.average_gap if self.average else trace.gap},
        )


@dataclass(frozen=True)
class NashMD:
    """The last iterate of Nash mirror descent in the estimated game.

    `pi_{t+1} = argmax_pi eta_t l^(pi, m_t) - KL(pi || m_t)`, `m_t` proportional to
    `pi_t^(1 - eta_t beta) p^(eta_t beta)`, from the reference.

    What is learned: `diagnostics` has the (T + 1, X) `estimated_gap` and `regularized_gap` of the
    iterates, in the estimated game: the first with deviations to all responses, the second to
    those of the reference, since leaving it costs infinitely much.

    Parameters
    ----------
    beta : float
        Positive, in units of `l`.
    iterations : int
        T, at least 1.
    step : float, optional
        A constant `eta` of at most `1/beta`; `eta_t = 2 / (beta (t + 2))` by default.
    smoothing : float
        `kappa` of `estimated_preference`, at least 0.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.

    Source: arXiv 2312.00886.
    """

    beta: float
    iterations: int = 100
    step: float | None = None
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        """Validate."""
        _validate(self.iterations, self.step, self.smoothing, self.beta)

    @property
    def name(self) -> str:
        """`Nash-MD`."""
        return "Nash-MD"

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the policy; see the class.  It takes nothing from `rng`."""
        problem = as_problem(data, reference, prompt_dist)
        model = estimated_preference(problem.data, smoothing=self.smoothing)
        trace = nash_md(model, problem.reference, self.beta, self.iterations, step=self.step)
        return _last(trace, self.beta)


@dataclass(frozen=True)
class IterativeChiPO:
    """The last iterate of iterative chiPO: mirror steps that stay where the reference covers.

    `pi_{t+1} = argmax_pi eta_t l^(pi, pi_t) - eta_t beta D(pi || p) - (1 - eta_t beta) B(pi, pi_t)`
    from the reference, D chi-squared plus KL and B its Bregman divergence; for a generator whose
    slope at 0 is finite, dual averaging, as `iterative_chi_po` says.  The source fits `l^` in
    a class of functions and regresses each update on samples; here `l^` is tabular, and the updates
    are exact.

    What is learned: as by `NashMD`.

    Parameters
    ----------
    beta, iterations, step, smoothing
        As `NashMD`.
    divergence : Divergence

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.

    Source: arXiv 2407.13399 (general preferences).
    """

    beta: float
    iterations: int = 100
    step: float | None = None
    smoothing: float = 1.0
    divergence: Divergence = field(default_factory=lambda: ChiSquared() + KL())

    def __post_init__(self) -> None:
        """Validate."""
        _validate(self.iterations, self.step, self.smoothing, self.beta)
        if not isinstance(self.divergence, Divergence):
            raise ValueError(
                f"divergence is {self.divergence!r:.80}; it must be a Divergence such as KL()"
            )

    @property
    def name(self) -> str:
        """`iterative chiPO`."""
        return "iterative chiPO"

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the policy; see the class.  It takes nothing from `rng`."""
        problem = as_problem(data, reference, prompt_dist)
        model = estimated_preference(problem.data, smoothing=self.smoothing)
        trace = iterative_chi_po(
            model,
            problem.reference,
            self.beta,
            self.iterations,
            step=self.step,
            divergence=self.divergence,
        )
        return _last(trace, self.beta)


def _last(trace: GameTrace, beta: float) -> Learned:
    assert trace.regularized_gap is not None
    return Learned(
        policy=trace.policy,
        beta=float(beta),
        diagnostics={"estimated_gap": trace.gap, "regularized_gap": trace.regularized_gap},
    )


def _validate(
    iterations: int, step: float | None, smoothing: float, beta: float | None = None
) -> None:
    checks.whole_number("iterations", iterations, least=1)
    checks.positive_number("smoothing", smoothing, zero=True)
    if beta is not None:
        checks.positive_number("beta", beta)
    if step is None:
        return
    checks.positive_number("step", step)
    if beta is not None and step * beta > 1.0:
        raise ValueError(f"step is {step!r}; it must be at most 1/beta, {1.0 / beta!r}")
