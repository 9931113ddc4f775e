"""Online and hybrid RLHF with linear rewards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.frozen import Frozen
from rlhfsim.learners.base import Learned, as_problem
from rlhfsim.learners.explicit import spent
from rlhfsim.online.linear import Enhancer, Exploration, LinearProblem, run_linear
from rlhfsim.online.linear.explorations import require_exploration
from rlhfsim.preferences import PreferenceModel


@dataclass(frozen=True, eq=False)
class OnlineRLHF(Frozen):
    """Rounds of the main agent and an exploration (`rlhfsim.online.run_linear`), after given data.

    The main agent is `p e^{<theta, phi>/beta}/Z` of the ridge estimate of all comparisons.  The
    data that `fit` takes are the offline part, in likelihood and Sigma (hybrid); without any give
    `PairCounts` with none, or a response compared with itself.  Without rounds it is
    `RLHF(beta, KL(), Linear(features, ridge=ridge))`.  Rounds happen in `bandit`, with the
    reference, and the prompts if they are given, that `fit` takes.

    What is learned: `reward` is `<theta, phi>` of all rounds; `residual` the largest gradient of a
    round's likelihood, as a share of the sizes of its terms.  `diagnostics` has, of each round,
    the (T,) arrays `regret` and `regularized_regret` of the main agent, `uncertainty`, `radius`
    and `comparisons` (`LinearRuns`); the numbers `cumulative_regret` and
    `cumulative_regularized_regret`; `parameter`; and per prompt `kl` and `chi_squared` of the
    policy.

    Parameters
    ----------
    bandit : ContextualBandit
    features : (X, Y, d) array
    beta : float
        Positive, in reward units.
    rounds : int
        At least 0; with rounds, `fit` needs an `rng`.
    batch : int
        Comparisons in a round, at least 1.
    exploration : Exploration
        One of `rlhfsim.online.EXPLORATIONS` with its settings.
    ridge : float
        Positive.
    moving : bool
        Whether the last policy, not the reference, anchors the next.
    regularization : float, optional
        lambda of Sigma; `4 ridge` by default.
    labels : PreferenceModel, optional
        Bradley-Terry of the true reward by default.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.  Fitting raises what `run_linear` raises.

    Source: arXiv 2312.11456.
    """

    bandit: ContextualBandit
    features: FloatArray
    beta: float
    rounds: int = 100
    batch: int = 1
    exploration: Exploration = field(default_factory=Enhancer)
    ridge: float = 1.0
    moving: bool = False
    regularization: float | None = None
    labels: PreferenceModel | None = None
    _problem: LinearProblem = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        problem = LinearProblem(
            self.bandit, self.features, self.beta, self.ridge, self.regularization, self.labels
        )
        object.__setattr__(self, "features", problem.features)
        object.__setattr__(self, "_problem", problem)
        checks.whole_number("rounds", self.rounds, least=0)
        checks.whole_number("batch", self.batch, least=1)
        require_exploration("exploration", self.exploration)
        if not isinstance(self.moving, bool):
            raise ValueError(f"moving is {self.moving!r:.80}; it must be True or False")

    @property
    def name(self) -> str:
        """`online RLHF` with its exploration, rounds and reference."""
        moving = ", moving reference" if self.moving else ""
        return f"online RLHF, {self.exploration.name}, {self.rounds} rounds{moving}"

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the policy after all rounds; see the class.

        Raises
        ------
        ValueError
            Bad input, and rounds without an `rng`.
        """
        rng = checks.optional_generator("rng", rng)
        given = as_problem(data, reference, prompt_dist)
        if rng is None and self.rounds > 0:
            raise ValueError("rng is None; rounds need a numpy.random.Generator")
        chance = np.random.default_rng(0) if rng is None else rng
        problem = self._problem.around(given.reference, given.prompt_dist)
        runs = run_linear(
            problem, self.rounds, [chance], exploration=self.exploration, batch=self.batch,
            moving=self.moving, offline=given.data,
        )  # fmt: skip
        record = runs.record(0)
        notes: dict[str, Any] = {
            "regret": record.regret,
            "regularized_regret": record.regularized_regret,
            "cumulative_regret": float(record.regret.sum()),
            "cumulative_regularized_regret": float(record.regularized_regret.sum()),
            "uncertainty": runs.uncertainty[0],
            "radius": runs.radius[0],
            "comparisons": record.comparisons,
            "parameter": runs.parameter[0],
        }
        return Learned(
            policy=record.policy,
            reward=problem.features @ runs.parameter[0],
            beta=problem.beta,
            residual=float(runs.slope[0]),
            diagnostics=notes | spent(record.policy, given.reference),
        )
