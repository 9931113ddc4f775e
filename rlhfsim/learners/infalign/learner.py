"""`InfAlign`: the policy that wins most after an inference procedure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.learners.base import Learned, LearnerError, as_problem
from rlhfsim.learners.explicit import fitted, require_model, spent
from rlhfsim.learners.infalign.average import averaged
from rlhfsim.learners.infalign.optimum import maximize_win_rate
from rlhfsim.learners.infalign.procedures import InferenceProcedure, as_procedure
from rlhfsim.rewards import RewardModel, Tabular

#: Largest total variation distance from the fixed point.
LARGEST_RESIDUAL = 1e-10


def infalign_optimum(
    reward: ArrayLike,
    reference: ArrayLike,
    procedure: InferenceProcedure,
    beta: float,
    prompt_dist: ArrayLike | None = None,
) -> Learned:
    """Return `argmax_pi W(pi) - beta KL(pi || p)`, W the win rate of `T(pi)` against `T(p)`.

    The optimum is `pi = p exp(R/beta)/Z` with `R = dW/dpi` at pi itself.  For best-of-n it is the
    only policy of that form; for worst-of-n, where there may be several, all are found and the
    best is returned.

    Parameters
    ----------
    reward, reference : (X, Y) arrays
        By whose reward the procedure chooses and the win rate counts; `p`.
    procedure : InferenceProcedure
        `T`.
    beta : float
        Positive, in units of win rate.
    prompt_dist : (X,) array, optional

    Returns
    -------
    Learned
        `residual` is the largest total variation distance of a prompt's policy from
        `p exp(R/beta)/Z`; `objective` is averaged over the prompts, or None where there are
        several and no `prompt_dist`.  `diagnostics` has per prompt the `win_rate`, `kl`,
        `chi_squared` and the number of `stationary_points`, and the (X, Y)
        `transformed_reward` R.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    LearnerError
        For a residual above 1e-10, which rounding alone can reach where n/beta is above 1e4.
    ArithmeticError
        Where beta is too small to tell stationary points of worst-of-n apart.

    Source: arXiv 2412.19792; the solution with ties is derived here.
    """
    r = checks.as_matrix("reward", reward)
    p = checks.as_matrix("reference", reference, (r.shape[0], r.shape[1]))
    p = checks.as_distributions("reference", p)
    strength = checks.positive_number("beta", beta)
    best = maximize_win_rate(p, r, as_procedure(procedure), strength)
    learned = Learned(
        policy=best.policy,
        reward=r,
        beta=strength,
        residual=float(best.residual.max()),
        objective=averaged(best.win_rate - strength * best.kl, prompt_dist),
        diagnostics=spent(best.policy, p)
        | {
            "win_rate": best.win_rate,
            "transformed_reward": best.gradient,
            "stationary_points": best.stationary,
        },
    )
    if not best.residual.max() <= LARGEST_RESIDUAL:
        prompt = int(best.residual.argmax())
        raise LearnerError(
            f"no certified optimum at prompt {prompt}: the policy is {best.residual[prompt]:.3g} "
            f"in total variation from its fixed point (allowed {LARGEST_RESIDUAL:g})",
            learned,
        )
    return learned


@dataclass(frozen=True)
class InfAlign:
    """`argmax_pi W(pi) - beta KL(pi || p)`, W the win rate after an inference procedure.

    `W(pi) = P(r^(y) > r^(z)) + 1/2 P(r^(y) = r^(z))`, `y ~ T(pi)`, `z ~ T(p)`, by the fitted
    reward; the exact optimum of `infalign_optimum`.

    What is learned: as there, with the fitted reward; `diagnostics` also has `log_likelihood`,
    `gradient_norm` and `compared` of the reward fit.

    Parameters
    ----------
    procedure : InferenceProcedure
        `T`: `BestOf(n)`, `WorstOf(n)` or `PlainSampling()`.
    beta : float
        Positive, in units of win rate.
    model : RewardModel

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.  Fitting raises what `fit_reward` and
        `infalign_optimum` raise.

    Source: arXiv 2412.19792.
    """

    procedure: InferenceProcedure
    beta: float
    model: RewardModel = field(default_factory=Tabular)

    def __post_init__(self) -> None:
        """Validate."""
        as_procedure(self.procedure)
        checks.positive_number("beta", self.beta)
        require_model(self.model)

    @property
    def name(self) -> str:
        """`InfAlign` with the procedure."""
        return f"InfAlign, {self.procedure.name}"

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the policy; see the class.  `rng` breaks the ties of a finite reward class."""
        problem = as_problem(data, reference, prompt_dist)
        fit, notes = fitted(self.model, problem.data, rng)
        learned = infalign_optimum(
            fit.reward, problem.reference, self.procedure, self.beta, problem.prompt_dist
        )
        return replace(learned, diagnostics=notes | dict(learned.diagnostics))
