"""RLHF whose divergence is charged token by token."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.divergences import KL, Divergence
from rlhfsim.learners.base import Learned, Problem, as_problem
from rlhfsim.learners.explicit import fitted, require_model, spent
from rlhfsim.mdp import PrefixTree, SoftSolution, TokenTree, sequence_policy, solve_steps
from rlhfsim.mdp.recursions import Levels, along_steps
from rlhfsim.mdp.tree import require_prefixes, require_responses, token_policy
from rlhfsim.rewards import RewardModel, Tabular


@dataclass(frozen=True, eq=False)
class TokenRLHF:
    """`argmax_pi E_pi[r^] - beta E_pi[sum_h D(pi_h(.|prefix) || p_h(.|prefix))]`.

    `r^` is the maximum likelihood reward of whole responses, `p_h` the next-token probabilities of
    the reference.  With KL this is `RLHF`, to rounding, whatever the tokens (the chain rule); with
    chi-squared it is not, and the policy's `C^pi` over responses may grow exponentially in their
    length.  Responses of one token give `RLHF`, to the bit where the tokens are numbered as the
    responses, and else to rounding: sums run over tokens in their own order.

    What is learned: as by `RLHF`; `residual` is the sum over tokens of the largest duality gap of a
    prefix, and `diagnostics` has, per prompt, `kl` and `chi_squared` between whole responses,
    `charged`, the sum over tokens that the objective holds, in nats, and the `multiplier` of the
    probabilities of the first token.

    Parameters
    ----------
    prefixes : PrefixTree
        The tokens of the responses.
    beta : float
        Positive, in reward units.
    divergence : Divergence
    model : RewardModel
        `Tabular()` by default.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.  Fitting raises what `fit_reward` and `solve_steps`
        raise, and for another number of responses than the data have.

    Source: arXiv 2404.12358 (KL).
    """

    prefixes: PrefixTree
    beta: float
    divergence: Divergence = field(default_factory=KL)
    model: RewardModel = field(default_factory=Tabular)

    def __post_init__(self) -> None:
        """Validate."""
        require_prefixes(self.prefixes)
        checks.positive_number("beta", self.beta)
        if not isinstance(self.divergence, Divergence):
            raise ValueError(
                f"divergence is {self.divergence!r:.80}; it must be a Divergence such as KL()"
            )
        require_model(self.model)

    @property
    def name(self) -> str:
        """`token-level RLHF` with the divergence."""
        return f"token-level RLHF, {self.divergence!r}"

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
        require_responses(self.prefixes, problem.shape[1])
        levels = token_policy(self.prefixes, problem.reference)
        return learned_by_planning(
            problem, self.prefixes, levels, self.model, self.divergence, float(self.beta), rng
        )


def learned_by_planning(
    problem: Problem,
    prefixes: PrefixTree,
    reference: Levels,
    model: RewardModel,
    divergence: Divergence,
    beta: float,
    rng: np.random.Generator | None,
) -> Learned:
    """Return what is learned by a reward fit and planning around next-token probabilities."""
    fit, notes = fitted(model, problem.data, rng)
    n = problem.shape[0]
    rho = np.full(n, 1.0 / n) if problem.prompt_dist is None else problem.prompt_dist
    tree = TokenTree(prefixes, rho, prefixes.spread(fit.reward), reference)
    solution = solve_steps(tree, divergence, beta)
    policy = sequence_policy(prefixes, solution.policy)
    known = problem.prompt_dist is not None or n == 1
    return Learned(
        policy=policy,
        reward=fit.reward,
        beta=beta,
        residual=solution.gap,
        objective=float(solution.objective) if known else None,
        diagnostics=notes
        | spent(policy, sequence_policy(prefixes, reference))
        | _charged(tree, solution, divergence)
        | {"multiplier": solution.multiplier[0][:, 0]},
    )


def _charged(
    tree: TokenTree, solution: SoftSolution, divergence: Divergence
) -> dict[str, FloatArray]:
    pairs = zip(solution.policy, tree.reference, strict=True)
    terms = tuple(divergence.per_prompt(policy, base) for policy, base in pairs)
    return {"charged": along_steps(tree.transitions, solution.policy, terms)[:, 0]}
