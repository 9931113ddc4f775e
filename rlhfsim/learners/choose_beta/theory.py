"""The beta that minimises the sharp chi-squared bound."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.bounds import chi_squared_bound, finite_class_error, reward_error, theory_beta
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.learners.choose_beta.base import BetaChoice, BetaProblem, BetaRule, around
from rlhfsim.learners.choose_beta.families import regularizer, require_chi_squared
from rlhfsim.learners.rlhf import RLHF
from rlhfsim.rewards import FiniteClass


@dataclass(frozen=True)
class SharpTheory(BetaRule):
    """The minimiser of `(eps_c + beta sqrt(2 D*))^2 / (4 beta) + beta gamma KL*`.

    It is `beta = eps_c / sqrt(2 D* + 4 gamma KL*)`, and the bound there is
    `eps_c (sqrt(2 D*) + sqrt(2 D* + 4 gamma KL*)) / 2`, for gamma = 0 `sqrt(2 D*) eps_c`.  The
    bound holds for the policy that maximises a learned reward of error at most `eps_c` less
    `beta (D_chi2 + gamma KL)`, against every comparator that spends at most `D*` and `KL*`.
    `RLHF` of another divergence is refused, and a direct loss with the link of another; that a
    direct loss reaches the optimum of the objective (over all policies, without a clip) is taken
    on trust, and so are other learners.

    The data are not read.  `certificate` has the `bound` of the regret at the choice, `epsilon`,
    `divergence` and `kl`.  The scores are the bounds at the chosen beta times powers of 2.

    Parameters
    ----------
    epsilon : float
        `eps_c`, the centred error of the learned reward; positive, in reward units.
    divergence : float
        `D* = D_chi2(pi* || p)`, with the 1/2; positive.
    kl_weight : float
        gamma, not negative; 1 for chiPO's divergence.
    kl : float, optional
        `KL* = KL(pi* || p)`; `log(1 + 2 D*)` by default, which it cannot exceed.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.

    Source: derived, `rlhfsim.bounds.sharp_chi_squared_bound`.
    """

    epsilon: float
    divergence: float
    kl_weight: float = 0.0
    kl: float | None = None

    def __post_init__(self) -> None:
        """Validate."""
        checks.positive_number("epsilon", self.epsilon)
        _check_comparator(self.divergence, self.kl_weight, self.kl)

    @classmethod
    def known(
        cls,
        bandit: ContextualBandit,
        reward_hat: ArrayLike,
        comparator: ArrayLike | None = None,
        *,
        kl_weight: float = 0.0,
    ) -> SharpTheory:
        """Return the rule with the true error of a learned reward and the true divergences.

        Parameters
        ----------
        bandit : ContextualBandit
        reward_hat : (X, Y) array
            The learned reward.
        comparator : (X, Y) array of distributions, optional
            `bandit.optimal_policy()` by default.
        kl_weight : float

        Raises
        ------
        ValueError
            Also where the reward is exact, or the comparator is the reference or leaves its
            support: then no positive beta minimises the bound.
        """
        p, rho = bandit.reference, bandit.prompt_dist
        star = bandit.optimal_policy() if comparator is None else comparator
        return cls(
            epsilon=float(reward_error(bandit.reward, reward_hat, p, rho)),
            divergence=float(ChiSquared()(star, p, rho)),
            kl_weight=kl_weight,
            kl=float(KL()(star, p, rho)),
        )

    def choose(self, problem: BetaProblem) -> BetaChoice:
        """Return the choice; see the class."""
        kl = _largest_kl(self.divergence) if self.kl is None else self.kl
        # As D + 2 gamma KL, so that gamma = 0 is exactly `theory_beta`.
        beta = float(theory_beta(self.epsilon, self.divergence + 2.0 * self.kl_weight * kl))
        require_chi_squared(regularizer(problem.learner(beta)), float(self.kl_weight))
        betas = around(beta)
        bounds = self._bound(betas, kl)
        bound = float(self._bound(np.array(beta), kl))
        return BetaChoice(
            rule=self.name,
            beta=beta,
            reason=(
                f"it minimises the sharp chi-squared bound, to a regret of at most {bound:.6g}, "
                f"at a reward error of {self.epsilon:.6g} and a divergence of {self.divergence:.6g}"
            ),
            candidates=betas,
            scores=bounds,
            score="bound of the regret (reward units, smaller is better)",
            certificate={
                "bound": bound,
                "epsilon": float(self.epsilon),
                "divergence": float(self.divergence),
                "kl": float(kl),
            },
        )

    def _bound(self, beta: FloatArray, kl: float) -> FloatArray:
        sharp = chi_squared_bound(self.epsilon, self.divergence, beta)
        return np.asarray(sharp + beta * self.kl_weight * kl)


@dataclass(frozen=True)
class FiniteClassTheory(BetaRule):
    """`SharpTheory` with what n comparisons guarantee of the reward error.

    `eps_c^2 = log(|R|/delta) / (n sigma'(V)^2)` with `sigma'(V) = 1/(2 + e^V + e^-V)`: with
    probability at least `1 - delta` the maximum-likelihood reward of a finite class R that holds
    `r*` errs by no more, and then the regret is at most the bound in `certificate`, which also has
    `n` (all rows, pairs of equals included) and `delta`.  No constant is hidden.

    `RLHF` with a reward model for which that is not so is refused: with another than
    `FiniteClass`, or one of more rewards or of larger differences; other learners are taken at
    their word.

    Parameters
    ----------
    class_size : int
        |R|, at least 1.
    delta : float
        In (0, 1).
    reward_gap : float
        V, no less than `|r(x, y) - r(x, y')|` for every r of the class.
    divergence, kl_weight, kl : float
        As for `SharpTheory`.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value; counts that are not whole.

    Source: derived, `rlhfsim.bounds.finite_class_error`.
    """

    class_size: int
    delta: float
    reward_gap: float
    divergence: float
    kl_weight: float = 0.0
    kl: float | None = None

    def __post_init__(self) -> None:
        """Validate."""
        finite_class_error(1, self.class_size, self.delta, self.reward_gap)
        _check_comparator(self.divergence, self.kl_weight, self.kl)

    def choose(self, problem: BetaProblem) -> BetaChoice:
        """Return the choice; see the class."""
        n = problem.rows()
        error = finite_class_error(n, self.class_size, self.delta, self.reward_gap)
        sharp = SharpTheory(math.sqrt(error), self.divergence, self.kl_weight, self.kl)
        choice = sharp.choose(problem)
        self._require_class(problem, choice.beta)
        return replace(
            choice,
            rule=self.name,
            reason=(
                f"{choice.reason}; the error is what {n} comparisons guarantee for "
                f"{self.class_size} rewards with probability {1.0 - self.delta:.6g}"
            ),
            certificate=dict(choice.certificate) | {"n": n, "delta": float(self.delta)},
        )

    def _require_class(self, problem: BetaProblem, beta: float) -> None:
        """Raise where RLHF fits another class of rewards than the bound is for."""
        learner = problem.learner(beta)
        if not isinstance(learner, RLHF):
            return
        model = learner.model
        if not isinstance(model, FiniteClass):
            raise ValueError(
                f"family fits {model!r:.80}; the rule's bound is for a FiniteClass of rewards"
            )
        if len(model.rewards) > self.class_size:
            raise ValueError(
                f"class_size is {self.class_size}; the family's FiniteClass has "
                f"{len(model.rewards)} rewards"
            )
        seen = np.where(problem.reference > 0, model.rewards, np.nan)
        gap = float((np.nanmax(seen, axis=-1) - np.nanmin(seen, axis=-1)).max())
        if gap > self.reward_gap * (1.0 + 1e-9):
            raise ValueError(
                f"reward_gap is {self.reward_gap!r}; rewards of the family's FiniteClass differ "
                f"by {gap:.6g} within a prompt"
            )


def _check_comparator(divergence: float, kl_weight: float, kl: float | None) -> None:
    star = checks.positive_number("divergence", divergence)
    checks.positive_number("kl_weight", kl_weight, zero=True)
    if kl is None:
        return
    most = _largest_kl(star)
    if checks.positive_number("kl", kl, zero=True) > most * (1.0 + 1e-9):
        raise ValueError(
            f"kl is {kl!r}; with a divergence of {divergence!r} it is at most "
            f"log(1 + 2 D) = {most:.6g}"
        )


def _largest_kl(divergence: float) -> float:
    return math.log1p(2.0 * divergence)
