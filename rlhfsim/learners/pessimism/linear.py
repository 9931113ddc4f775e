"""Pessimism over an ellipsoid of linear rewards: `PessimisticMLE`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cholesky, solve_triangular

from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.divergences import KL, Divergence
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.frozen import Frozen
from rlhfsim.learners.base import Learned, Problem, as_problem
from rlhfsim.learners.explicit import fitted, spent
from rlhfsim.learners.pessimism.ball import worst_of_ball
from rlhfsim.learners.pessimism.game import Game
from rlhfsim.learners.pessimism.regions import Region, require_region
from rlhfsim.learners.pessimism.settings import (
    baseline_of,
    certified,
    check_settings,
    prompts_of,
    relative,
)
from rlhfsim.rewards import Linear, RewardFit
from rlhfsim.rewards.confidence import Ellipsoid
from rlhfsim.solvers import solve


@dataclass(frozen=True, eq=False)
class PessimisticMLE(Frozen):
    """The policy that is best against the worst linear reward of a confidence ellipsoid.

    With `r_hat = <theta_hat, phi>` the maximum likelihood estimate, the ellipsoid
    `||theta - theta_hat||_Sigma <= c`, a baseline policy nu and
    `phi_pi(x) = E_{y ~ pi}[phi(x, y)]`,

    (I)  `max_pi E_x[<theta_hat, phi_pi - phi_nu>] - c ||E_x[phi_pi - phi_nu]||_{Sigma^-1}
    - beta D(pi || p)`, the worst case, in which prompts hedge each other;

    (II) `pointwise=True`: `r_hat(x, y) - c ||phi(x, y) - phi_nu(x)||_{Sigma^-1}` in place of the
    reward, for each prompt by itself.

    On the event that the ellipsoid holds `theta*`, both have, writing J(pi) for the true value,

        `J(pi_hat) - J(nu) >= lower_bound`    and, for every pi,
        `[J(pi) - beta D(pi || p)] - [J(pi_hat) - beta D(pi_hat || p)] <= regret_bound(pi)`.

    Proof: the objective `L` of either is below `J(.) - J(nu) - beta D` everywhere, `pi_hat`
    maximises it, and at pi it is below by no more than twice the penalty.

    (I) is solved in its dual, the smooth convex problem of the worst theta, to rounding, whatever
    the divergence; `solve_convex(..., ellipsoid=..., baseline=...)` states it as a conic program.

    What is learned: `reward` is `r_hat`; `residual` the duality gap (II: the largest of a prompt)
    and `objective` the value of the program above, both in reward units (II: None for several
    prompts without `prompt_dist`).  `diagnostics` has `log_likelihood`, `gradient_norm`, `compared`
    of the fit; `confidence`, the ellipsoid; `pessimistic_reward` (X, Y), relative to the baseline,
    whose regularized optimum the policy is (I: that of the worst theta; II: that above);
    `lower_bound`, the objective without the divergence; per prompt `kl` and `chi_squared`.

    Parameters
    ----------
    beta : float
        Positive, in reward units.
    model : Linear
    confidence : Region
        `HighProbability(delta)`, `Asymptotic(delta)` or `FixedRadius(c)`.
    divergence : Divergence
    pointwise : bool
    baseline : (X, Y) array of distributions, optional
        nu, by default the reference.  Preferences determine values only relative to another
        policy's.  The source has one vector nu for all prompts; one for each leaves everything as
        it is when the features of a prompt are shifted, which no comparison sees.

    Raises
    ------
    ValueError
        Bad settings; in fitting, bad arguments, and for (I) several prompts without `prompt_dist`.
    LearnerError
        When the duality gap exceeds 1e-9 of the largest reward in play, as it may where beta is
        less than about 1e-6 of that.  Fitting also raises what
        `fit_reward`, the confidence set and `solve` raise.

    Source: arXiv 2312.11456, options I and II; arXiv 2301.11270, algorithm 1 (I at beta = 0).
    """

    beta: float
    model: Linear
    confidence: Region
    divergence: Divergence = field(default_factory=KL)
    pointwise: bool = False
    baseline: FloatArray | None = None

    def __post_init__(self) -> None:
        """Validate and freeze."""
        check_settings(self)
        if not isinstance(self.model, Linear):
            raise ValueError(f"model is {self.model!r:.80}; it must be a Linear")
        require_region(self.confidence)
        if not isinstance(self.pointwise, bool):
            raise ValueError(f"pointwise is {self.pointwise!r:.80}; it must be True or False")

    @property
    def name(self) -> str:
        """`pessimistic MLE` with the version and the divergence."""
        return f"pessimistic MLE ({'II' if self.pointwise else 'I'}), {self.divergence!r}"

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the policy; see the class.  `rng` is not used."""
        problem = as_problem(data, reference, prompt_dist)
        nu = baseline_of(self, problem)
        fit, notes = fitted(self.model, problem.data, rng)
        region = self.confidence.around(problem.counts, self.model, fit)
        notes |= {"confidence": region}
        learn = self._pointwise if self.pointwise else self._worst_case
        return learn(problem, nu, fit, region, notes)

    def _worst_case(
        self,
        problem: Problem,
        nu: FloatArray,
        fit: RewardFit,
        region: Ellipsoid,
        notes: dict[str, Any],
    ) -> Learned:
        game = Game(
            base=relative(fit.reward, nu),
            factor=region.radius * whitened(region, relative(region.features, nu)),
            reference=problem.reference,
            divergence=self.divergence,
            beta=float(self.beta),
            prompt_dist=prompts_of(problem),
        )
        saddle = worst_of_ball(game)
        found = saddle.response
        gain = float(game.prompt_dist @ (found.policy * game.base).sum(axis=1))
        lower = gain - float(np.linalg.norm(found.gradient))
        cost = float(self.divergence(found.policy, problem.reference, game.prompt_dist))
        learned = Learned(
            policy=found.policy,
            reward=fit.reward,
            beta=game.beta,
            residual=saddle.total,
            objective=lower - game.beta * cost,
            diagnostics=notes
            | spent(found.policy, problem.reference)
            | {"pessimistic_reward": found.reward, "lower_bound": lower},
        )
        return certified(learned, saddle.gap, game.size)

    def _pointwise(
        self,
        problem: Problem,
        nu: FloatArray,
        fit: RewardFit,
        region: Ellipsoid,
        notes: dict[str, Any],
    ) -> Learned:
        reward = relative(fit.reward, nu) - region.width(relative(region.features, nu))
        solution = solve(reward, problem.reference, self.divergence, float(self.beta))
        lower = objective = None
        if problem.prompt_dist is not None or len(reward) == 1:
            gain = (solution.policy * reward).sum(axis=1)
            lower = float(average_over_prompts(gain, problem.prompt_dist))
            objective = float(average_over_prompts(solution.value, problem.prompt_dist))
        return Learned(
            policy=solution.policy,
            reward=fit.reward,
            beta=float(self.beta),
            residual=float(np.abs(solution.gap).max()),
            objective=objective,
            diagnostics=notes
            | spent(solution.policy, problem.reference)
            | {"pessimistic_reward": reward, "lower_bound": lower},
        )


def whitened(region: Ellipsoid, directions: FloatArray) -> FloatArray:
    """Return `Sigma^{-1/2}` times (..., d) directions, for the triangular root of Sigma."""
    scale = np.sqrt(region.covariance.diagonal())
    factor = cholesky(region.covariance / scale[:, None] / scale, lower=True)
    flat = (directions / scale).reshape(-1, len(scale)).T
    return np.asarray(solve_triangular(factor, flat, lower=True).T.reshape(directions.shape))
