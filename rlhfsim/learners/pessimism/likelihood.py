"""Pessimism over a likelihood-ratio set of a finite class: `PessimisticLikelihood`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.divergences import KL, Divergence
from rlhfsim.frozen import Frozen
from rlhfsim.learners.base import Learned, as_problem
from rlhfsim.learners.explicit import fitted, spent
from rlhfsim.learners.pessimism.game import Game
from rlhfsim.learners.pessimism.settings import (
    baseline_of,
    certified,
    check_settings,
    prompts_of,
    relative,
)
from rlhfsim.learners.pessimism.simplex import worst_of_mixtures
from rlhfsim.rewards import FiniteClass
from rlhfsim.rewards.confidence import FiniteLikelihoodSet, finite_likelihood_set
from rlhfsim.rewards.confidence.base import as_level


@dataclass(frozen=True, eq=False)
class PessimisticLikelihood(Frozen):
    """The policy that is best against the worst reward among those that the data do not rule out.

    `max_pi min_{r in S} E_x[E_pi[r] - E_nu[r]] - beta D(pi || p)`,
    `S = {r in R : L(r) >= max_R L - radius}`, L the log-likelihood, nu a baseline policy.

    On the event that S holds `r*`, writing J(pi) for the true value,

        `J(pi_hat) - J(nu) >= lower_bound`    and, for every pi,
        `[J(pi) - beta D(pi || p)] - [J(pi_hat) - beta D(pi_hat || p)] <= regret_bound(pi)`.

    Proof: the objective is below `J(.) - J(nu) - beta D` everywhere, `pi_hat` maximises it, and at
    pi it is below by no more than what `J(pi) - J(nu)` varies over S.

    The policy is the regularized optimum of one mixture of the rewards in S, the worst, which is
    found to rounding whatever the divergence.

    What is learned: `reward` is the maximum likelihood reward; `residual` the duality gap and
    `objective` the value of the program, in reward units.  `diagnostics` has `log_likelihood`,
    `gradient_norm`, `compared`, `index`, `tied` of the fit; `confidence`, the set; `weights` (K,),
    those of the class in the worst mixture; `pessimistic_reward` (X, Y), the mixture relative to
    the baseline; `lower_bound`, the objective without the divergence; per prompt `kl` and
    `chi_squared`.

    Parameters
    ----------
    beta : float
        Positive, in reward units.
    model : FiniteClass
        R.
    delta : float in (0, 1), optional
        Makes the radius `log(|R|/delta)`: the event has probability at least `1 - delta`.
    radius : float, optional
        In nats, not negative; exactly one of `delta` and `radius` is given.
    divergence : Divergence
    baseline : (X, Y) array of distributions, optional
        nu, by default the reference.

    Raises
    ------
    ValueError
        Bad settings; in fitting, bad arguments, and several prompts without `prompt_dist`.
    LearnerError
        When the duality gap exceeds 1e-9 of the largest reward in play, as it may where beta is
        less than about 1e-6 of that.  Fitting also raises what
        `fit_reward` and `solve` raise.

    Source: arXiv 2305.14816 (likelihood-ratio pessimism), with a regularizer as in 2312.11456.
    """

    beta: float
    model: FiniteClass
    delta: float | None = None
    radius: float | None = None
    divergence: Divergence = field(default_factory=KL)
    baseline: FloatArray | None = None

    def __post_init__(self) -> None:
        """Validate and freeze."""
        check_settings(self)
        if not isinstance(self.model, FiniteClass):
            raise ValueError(f"model is {self.model!r:.80}; it must be a FiniteClass")
        if (self.delta is None) == (self.radius is None):
            raise ValueError(
                f"delta is {self.delta!r} and radius is {self.radius!r}; exactly one must be given"
            )
        if self.delta is not None:
            as_level(self.delta)
        if self.radius is not None:
            checks.positive_number("radius", self.radius, zero=True)

    @property
    def name(self) -> str:
        """`pessimistic likelihood` with the divergence."""
        return f"pessimistic likelihood, {self.divergence!r}"

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the policy; see the class.  `rng` breaks ties of `reward`, not of the policy."""
        problem = as_problem(data, reference, prompt_dist)
        nu = baseline_of(self, problem)
        fit, notes = fitted(self.model, problem.data, rng)
        region = self._region(problem.counts)
        rewards = np.moveaxis(self.model.rewards[region.members], 0, -1)
        game = Game(
            base=np.zeros(problem.shape),
            factor=relative(rewards, nu),
            reference=problem.reference,
            divergence=self.divergence,
            beta=float(self.beta),
            prompt_dist=prompts_of(problem),
        )
        saddle = worst_of_mixtures(game)
        found = saddle.response
        lower = float(found.gradient.min())
        cost = float(self.divergence(found.policy, problem.reference, game.prompt_dist))
        weights = np.zeros(len(self.model.rewards))
        weights[region.members] = found.point
        learned = Learned(
            policy=found.policy,
            reward=fit.reward,
            beta=game.beta,
            residual=saddle.total,
            objective=lower - game.beta * cost,
            diagnostics=notes
            | spent(found.policy, problem.reference)
            | {
                "confidence": region,
                "weights": weights,
                "pessimistic_reward": found.reward,
                "lower_bound": lower,
            },
        )
        return certified(learned, saddle.gap, game.size)

    def _region(self, counts: PairCounts) -> FiniteLikelihoodSet:
        if self.delta is not None:
            return finite_likelihood_set(counts, self.model, self.delta)
        assert self.radius is not None
        return FiniteLikelihoodSet(counts, self.model, self.radius)
