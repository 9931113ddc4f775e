"""XPO, and iterated DPO as the same rounds without optimism."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.frozen import Frozen
from rlhfsim.learners.base import Learned, Problem, as_problem
from rlhfsim.learners.direct import FinitePolicies, LogLinearPolicies, PolicyClass, TabularPolicies
from rlhfsim.learners.explicit import spent
from rlhfsim.online.record import OnlineRecord
from rlhfsim.online.xpo import Alpha, FiniteXPO, Protocol, ScoreXPO
from rlhfsim.online.xpo.protocol import Opponent
from rlhfsim.preferences import PreferenceModel
from rlhfsim.rewards.finite_class import first_or_random_of_tied


class _Rounds(ABC):
    """What `XPO` and `IteratedDPO` do: the rounds of a protocol, over a class of policies.

    What is learned: `policy` after the last round; `reward` its implicit reward `beta log(pi/p)`;
    `residual` the largest gradient of a round's objective, per comparison, None for a finite class,
    which is enumerated.  `diagnostics` has `regret` and `regularized_regret`, (T,) exact regrets of
    the policies played; their sums `cumulative_regret` and `cumulative_regularized_regret`;
    `comparisons`, (T,) how many were drawn so far; `global`, whether the minima are known to be
    global; per prompt `kl` and `chi_squared` of the policy; and for a finite class `played`,
    (T + 1,) indices, K for a reference outside of the class, and `coverability`.
    """

    bandit: ContextualBandit
    beta: float
    policies: PolicyClass
    rounds: int
    batch: int
    opponent: Opponent
    labels: PreferenceModel | None
    ridge: float | None

    @abstractmethod
    def _alpha(self) -> float | Alpha:
        """Return the weight of optimism."""

    def _check(self) -> None:
        self._engine(self._protocol(self.bandit))

    def _protocol(self, bandit: ContextualBandit) -> Protocol:
        return Protocol(
            bandit, self.beta, self.rounds, self.batch, self._alpha(), self.opponent, self.labels
        )

    def _engine(self, protocol: Protocol) -> FiniteXPO | ScoreXPO:
        policies = self.policies
        if isinstance(policies, LogLinearPolicies):
            if policies.norm_bound is not None:
                raise ValueError(
                    f"norm_bound is {policies.norm_bound!r}; it must be None, with a ridge here"
                )
            return ScoreXPO(protocol, _ridge(self.ridge, "ridge"), policies.features)
        if self.ridge is not None:
            raise ValueError(f"ridge is {self.ridge!r}; it is read with LogLinearPolicies only")
        if isinstance(policies, FinitePolicies):
            if policies.tie_break is not first_or_random_of_tied:
                raise ValueError(
                    f"tie_break is {policies.tie_break!r:.80}; it must be the default: of tied "
                    "policies the one nearest to that of the round is taken"
                )
            return FiniteXPO(protocol, policies.policies)
        if isinstance(policies, TabularPolicies):
            if policies.r_max is not None:
                return ScoreXPO(protocol, r_max=policies.r_max)
            return ScoreXPO(protocol, _ridge(policies.ridge, "ridge of TabularPolicies"))
        raise ValueError(
            f"policies is {policies!r:.80}; it must be FinitePolicies, TabularPolicies or "
            "LogLinearPolicies"
        )

    def _title(self, name: str, alpha: str) -> str:
        settings = [alpha, f"{self.rounds} rounds"]
        if self.batch != 1:
            settings.append(f"batches of {self.batch}")
        if isinstance(self.opponent, str):
            settings.append(f"against the {self.opponent}")
        else:
            settings.append("against a fixed policy")
        settings.append(self.policies.label)
        return f"{name}, " + ", ".join(text for text in settings if text)

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return what the rounds lead to; see the class.

        Parameters
        ----------
        data : PreferenceData or PairCounts
            Logged comparisons, whose losses are part of every minimum; pairs of equals say nothing,
            so data with nothing else are none.
        reference : (X, Y) array of distributions
            p, in place of that of the bandit.
        prompt_dist : (X,) array, optional
            rho, in place of that of the bandit.
        rng : numpy.random.Generator
            Draws the rounds; the first rounds of a longer run are a shorter one, unless alpha
            depends on T (`TheoryAlpha`, `BoundAlpha`).

        Raises
        ------
        ValueError
            For bad arguments, a missing generator, and what the class refuses of that reference.
        RuntimeError
            Where no stationary point was found.
        """
        problem = as_problem(data, reference, prompt_dist)
        if rng is None:
            raise ValueError("rng is None; the rounds are drawn, so there must be a generator")
        if problem.shape != self.bandit.shape:
            raise ValueError(
                f"data has shape {problem.shape}; it must be that of the bandit, "
                f"{self.bandit.shape}"
            )
        engine = self._engine(self._protocol(self._around(problem)))
        if isinstance(engine, FiniteXPO):
            finite = engine.run(rng, problem.data)
            own = {"played": finite.played, "coverability": engine.coverability, "global": True}
            return self._learned(problem.reference, finite.record, None, own)
        run = engine.run(rng, problem.data)
        known = bool((engine.alphas == 0).all())
        return self._learned(
            problem.reference, run.record, float(run.residuals.max()), {"global": known}
        )

    def _around(self, problem: Problem) -> ContextualBandit:
        """Return the bandit with another reference, and other prompts if they are given."""
        bandit, rho = self.bandit, problem.prompt_dist
        if rho is None:
            rho = bandit.prompt_dist
        same = np.array_equal(problem.reference, bandit.reference)
        if same and np.array_equal(rho, bandit.prompt_dist):
            return bandit
        return replace(bandit, reference=problem.reference, prompt_dist=rho)

    def _learned(
        self,
        reference: FloatArray,
        record: OnlineRecord,
        residual: float | None,
        notes: dict[str, Any],
    ) -> Learned:
        inside = (reference > 0) & (record.policy > 0)
        logs = np.log(np.where(inside, record.policy, 1.0) / np.where(inside, reference, 1.0))
        lost = (reference > 0) & (record.policy == 0)
        return Learned(
            policy=record.policy,
            reward=None if lost.any() else self.beta * logs,
            beta=self.beta,
            residual=residual,
            diagnostics={
                "regret": record.regret,
                "regularized_regret": record.regularized_regret,
                "cumulative_regret": float(record.cumulative_regret[-1]),
                "cumulative_regularized_regret": float(record.cumulative_regularized_regret[-1]),
                "comparisons": record.comparisons,
            }
            | spent(record.policy, reference)
            | notes,
        )


@dataclass(frozen=True, eq=False)
class XPO(Frozen, _Rounds):
    """DPO in rounds, with optimism: `+ alpha sum_i log pi(y~_i)`, `y~_i` the opponent's draws.

    Each round draws B comparisons of the current policy with the opponent and takes

        argmin_pi  sum_i -log sigma(beta [u(y+_i) - u(y-_i)]) + alpha sum_i log pi(y~_i | x_i),

    `u = log pi - log p`, over all comparisons so far, logged ones among the first sum.

    Parameters
    ----------
    bandit : ContextualBandit
        The environment; `fit` takes the reference, and the prompts if they are given.
    beta : float
        Positive, in reward units.
    policies : FinitePolicies, TabularPolicies or LogLinearPolicies
        The class, tabular with `ridge` or `r_max`; see `FiniteXPO` and `ScoreXPO`.
    rounds : int
        T.
    alpha : float or Alpha
        The weight of optimism; a number, `TheoryAlpha` or `DecreasingAlpha`.
    batch : int
        B.
    opponent : "reference", "policy" or (X, Y) array of distributions
        What draws `y~`: p, as in the paper, the policy of the round, or a fixed one.
    labels : PreferenceModel, optional
        Bradley-Terry of the bandit's reward by default.
    ridge : float, optional
        For log-linear policies, which need one: adds `(ridge/2) |theta|^2`, of the parameter of
        `beta u`, to the sum of the losses.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.

    Source: arXiv 2405.21046, algorithm 1.
    """

    bandit: ContextualBandit
    beta: float
    policies: PolicyClass
    rounds: int
    alpha: float | Alpha
    batch: int = 1
    opponent: Opponent = "reference"
    labels: PreferenceModel | None = None
    ridge: float | None = None

    def __post_init__(self) -> None:
        """Validate."""
        self._check()

    def _alpha(self) -> float | Alpha:
        return self.alpha

    @property
    def name(self) -> str:
        """The optimism, the rounds, the opponent and the class."""
        return self._title("XPO", self._protocol(self.bandit).schedule.label)


@dataclass(frozen=True, eq=False)
class IteratedDPO(Frozen, _Rounds):
    """DPO on all comparisons so far, which each round adds to with its own policy: no optimism.

    `XPO` with `alpha = 0`, and by default with both responses from the policy of the round.

    Parameters
    ----------
    bandit, beta, policies, rounds, batch, labels, ridge
        As for `XPO`.
    opponent : "policy", "reference" or (X, Y) array of distributions
        What draws the second response.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.

    Source: arXiv 2405.21046, section 2 (online DPO); 2312.11456.
    """

    bandit: ContextualBandit
    beta: float
    policies: PolicyClass
    rounds: int
    batch: int = 1
    opponent: Opponent = "policy"
    labels: PreferenceModel | None = None
    ridge: float | None = None

    def __post_init__(self) -> None:
        """Validate."""
        self._check()

    def _alpha(self) -> float | Alpha:
        return 0.0

    @property
    def name(self) -> str:
        """The rounds, the opponent and the class."""
        return self._title("iterated DPO", "")


def _ridge(value: float | None, name: str) -> float:
    if value is None:
        raise ValueError(f"{name} is None; without one, optimism has no minimum")
    return checks.positive_number(name, value)
