"""Exact equilibria of an estimated game."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.divergences import KL, Divergence
from rlhfsim.games import estimated_preference, minimax_winner, solve_nash
from rlhfsim.games.game import expected
from rlhfsim.learners.base import Learned, as_problem


@dataclass(frozen=True)
class MinimaxWinner:
    """The minimax winner of the estimated preferences, the most spread one if there are several.

    It takes the estimate at its word: what was never compared ties.  With the pairs of the true
    winner and every response in the data (unilateral coverage) its duality gap falls like
    `n^(-1/2)` where those responses lose; without them it need not fall at all.

    What is learned: `residual` is the largest duality gap of a prompt in the estimated game, with
    deviations among the responses of the reference, which are those that it plays; `diagnostics`
    has the (X, Y) `support`.

    Parameters
    ----------
    smoothing : float
        `kappa` of `estimated_preference`, at least 0.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.  Fitting raises what `minimax_winner` raises.

    Source: arXiv 2312.00886; arXiv 2407.13399 (general preferences).
    """

    smoothing: float = 1.0

    def __post_init__(self) -> None:
        """Validate."""
        checks.positive_number("smoothing", self.smoothing, zero=True)

    @property
    def name(self) -> str:
        """`minimax winner`."""
        return "minimax winner"

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
        solution = minimax_winner(model, available=problem.reference > 0)
        return Learned(
            policy=solution.policy,
            residual=float(np.abs(solution.gap).max()),
            diagnostics={"support": solution.support},
        )


@dataclass(frozen=True)
class RegularizedNash:
    """The equilibrium of `l^(pi, pi') - beta D(pi || p) + beta D(pi' || p)`, exactly.

    What is learned: `reward` is the advantage `l^(y, pi)` against the policy itself, of which the
    policy is the regularized optimum; `residual` the largest duality gap of a prompt in the
    regularized estimated game.

    Parameters
    ----------
    beta : float
        Positive, in units of `l`.
    divergence : Divergence
    smoothing : float
        `kappa` of `estimated_preference`, at least 0.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.  Fitting raises what `solve_nash` raises.

    Source: arXiv 2312.00886.
    """

    beta: float
    divergence: Divergence = field(default_factory=KL)
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        """Validate."""
        checks.positive_number("beta", self.beta)
        checks.positive_number("smoothing", self.smoothing, zero=True)
        if not isinstance(self.divergence, Divergence):
            raise ValueError(
                f"divergence is {self.divergence!r:.80}; it must be a Divergence such as KL()"
            )

    @property
    def name(self) -> str:
        """`regularized Nash` with the divergence."""
        return f"regularized Nash, {self.divergence!r}"

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
        solution = solve_nash(model, problem.reference, self.divergence, float(self.beta))
        return Learned(
            policy=solution.policy,
            reward=expected(model.margin_tensor(), solution.policy),
            beta=float(self.beta),
            residual=float(np.abs(solution.gap).max()),
        )
