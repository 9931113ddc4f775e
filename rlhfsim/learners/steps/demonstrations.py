"""Demonstration-regularized RLHF token by token: behavior cloning, then planning around it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.data import DemonstrationData, PairCounts, PreferenceData
from rlhfsim.divergences import KL
from rlhfsim.learners.base import Learned, as_problem
from rlhfsim.learners.demonstrations import require_demonstrations
from rlhfsim.learners.explicit import require_model
from rlhfsim.learners.steps.cloning import clone_tokens
from rlhfsim.learners.steps.token import learned_by_planning
from rlhfsim.mdp import PrefixTree, sequence_policy
from rlhfsim.mdp.tree import require_prefixes, require_responses
from rlhfsim.rewards import RewardModel, Tabular


@dataclass(frozen=True, eq=False)
class TokenDemonstrationRegularized:
    """`argmax_pi E_pi[r^] - beta KL(pi || pi_BC)`, `pi_BC` cloned from demonstrations by token.

    As `DemonstrationRegularized`, which it is for responses of one token, to the bit where tokens
    are numbered as the responses; the clone is that of `clone_tokens`.  In N_E,
    `KL(pi_E || pi_BC)` is at most `sum over prefixes of (A - 1)/(N_E + 1)` in expectation, only
    those counting that the expert reaches.

    What is learned: as by `TokenRLHF` around the clone; `diagnostics` has also the (X, Y)
    `behavior_policy` and the (X,) number of `demonstrations`.

    Parameters
    ----------
    prefixes : PrefixTree
        The tokens of the responses.
    demonstrations : DemonstrationData
        Of the shape of the preference data.
    beta : float
        Positive, in reward units.
    smoothing : float
        `kappa` of the behavior cloning, at least 0.
    model : RewardModel

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.  Fitting raises what `clone_tokens`, `fit_reward` and
        `solve_steps` raise, and for demonstrations of another shape than the data.

    Source: arXiv 2310.17303.
    """

    prefixes: PrefixTree
    demonstrations: DemonstrationData
    beta: float
    smoothing: float = 1.0
    model: RewardModel = field(default_factory=Tabular)

    def __post_init__(self) -> None:
        """Validate."""
        require_prefixes(self.prefixes)
        require_demonstrations(self.demonstrations)
        checks.positive_number("beta", self.beta)
        checks.positive_number("smoothing", self.smoothing, zero=True)
        require_model(self.model)

    @property
    def name(self) -> str:
        """`token-level demonstration-regularized RLHF`."""
        return "token-level demonstration-regularized RLHF"

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
        require_demonstrations(self.demonstrations, problem.shape)
        require_responses(self.prefixes, problem.shape[1])
        clone = clone_tokens(
            self.demonstrations,
            self.prefixes,
            smoothing=self.smoothing,
            reference=problem.reference,
        )
        learned = learned_by_planning(
            problem, self.prefixes, clone, self.model, KL(), float(self.beta), rng
        )
        shown = np.bincount(self.demonstrations.prompt, minlength=problem.shape[0])
        notes = {"behavior_policy": sequence_policy(self.prefixes, clone), "demonstrations": shown}
        return replace(learned, diagnostics=dict(learned.diagnostics) | notes)
