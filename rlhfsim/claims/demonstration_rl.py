"""Demonstration-regularized reinforcement learning over several steps, with constants.

The clone at each state is `(N(a) + 1)/(N + A)`.  At a state that an expert visits with probability
d, given m visits, `E KL <= log((m + A)/(m + 1)) <= (A - 1)/(m + 1)` (Jensen), and m is binomial,
`E[1/(m + 1)] = (1 - (1 - d)^(N + 1))/((N + 1) d)`.  By the chain rule the clone of trajectories has
`E KL(pi_E || clone) <= sum over states that are visited of (A - 1)/(N + 1)`, a bound in expectation
with every constant where the source has one with high probability.

Source: arXiv 2310.17303; the constants in expectation are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Self

import numpy as np
from scipy.stats import binom

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.batches import Rows, distributions, sorts
from rlhfsim.claims.demonstrations import expected_kl
from rlhfsim.claims.processes import Processes, full_tree
from rlhfsim.claims.statistical import RateClaim
from rlhfsim.data import DemonstrationData
from rlhfsim.divergences import KL
from rlhfsim.instances import random_bandit
from rlhfsim.learners.steps import TokenDemonstrationRegularized, clone_tokens, plan_around_clone
from rlhfsim.mdp import (
    FiniteHorizonMDP,
    PrefixTree,
    optimal_policy,
    random_mdp,
    sample_trajectories,
    sequence_policy,
    solve_steps,
    trajectory_kl,
    value,
)
from rlhfsim.rewards import Tabular
from rlhfsim.sampling import sample_preferences
from rlhfsim.solvers import solve

_SOURCE = "arXiv 2310.17303"
#: Most demonstrations in a sampled instance.
_MOST = 60


@dataclass(frozen=True, eq=False)
class TokenExperts(Rows):
    """N experts that write responses of several tokens, and numbers of demonstrations."""

    parametrization: ClassVar[dict[str, str]] = {"expert": "simplex"}

    expert: FloatArray  # (N, Y), Y as of `full_tree`
    n: FloatArray  # (N,) whole numbers, from 0 to 60

    def valid(self) -> BoolArray:
        """Return whether the numbers of demonstrations are whole."""
        return np.asarray((self.n >= 0) & (self.n == np.floor(self.n)))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random experts of 4, 8 or 9 responses, a third of them deterministic."""
        sort, size = sorts(n, rng), int(rng.choice([4, 8, 9]))
        expert = distributions(sort, (size,), rng)
        sure = rng.random((n, 1)) < 0.3
        expert = np.where(sure, np.eye(size)[expert.argmax(axis=1)], expert)
        return cls(expert, np.floor((_MOST + 1.0) ** rng.random(n)) - 1.0)


def expected_token_kl(expert: FloatArray, n: FloatArray) -> FloatArray:
    """Return `E[KL(expert || clone by token)]`, sums over the binomial laws of the counts.

    With `N(prefix)` and `N(prefix a)` binomial, of the probabilities of the prefixes:
    `sum_h E[log(N + A) - log(N_a + 1)]` over next tokens, less the entropy of the expert.
    """
    prefixes = full_tree(expert.shape[1])
    edges, nodes = prefixes.summed(expert)
    count = np.arange(int(n.max()) + 1)
    on = np.where(expert > 0, expert, 1.0)
    total = np.asarray((expert * np.log(on)).sum(axis=-1))
    for edge, node in zip(edges, nodes, strict=True):
        size = edge.shape[-1]
        for mass, logs, sign in ((edge, np.log(count + 1.0), -1), (node, np.log(count + size), 1)):
            flat = np.minimum(mass.reshape(len(expert), -1), 1.0)
            law = binom.pmf(count, n[:, None, None], flat[:, :, None])
            total = total + sign * (flat * (law @ logs)).sum(axis=-1)
    return total


def _visited(x: TokenExperts) -> FloatArray:
    """`sum over prefixes that the expert reaches of (A - 1)/(N + 1)`."""
    _, nodes = full_tree(x.expert.shape[1]).summed(x.expert)
    shapes = full_tree(x.expert.shape[1]).shapes
    free = sum(
        (node > 0).sum(axis=-1) * (shape[1] - 1.0)
        for node, shape in zip(nodes, shapes, strict=True)
    )
    return np.asarray(free / (x.n + 1.0))


def _sure_experts(x: TokenExperts) -> FloatArray:
    """Return the experts that always write the likeliest response."""
    return np.asarray(np.eye(x.expert.shape[1])[x.expert.argmax(axis=1)])


def _few(x: TokenExperts) -> FloatArray:
    return np.asarray(x.n % 3)


def _by_binomials(x: TokenExperts) -> FloatArray:
    return expected_token_kl(x.expert, _few(x))


def _by_datasets(x: TokenExperts) -> FloatArray:
    """Return `E[KL(expert || clone)]` by cloning every dataset of 0, 1 or 2 demonstrations."""
    size, result = x.expert.shape[1], np.zeros(len(x))
    drawn = {n: _clones(size, n) for n in range(3)}
    for k, (expert, n) in enumerate(zip(x.expert, _few(x).astype(int), strict=True)):
        draws, clones = drawn[int(n)]
        chance = expert[draws].prod(axis=1)
        result[k] = chance @ KL().per_prompt(expert, clones)
    return result


@cache
def _clones(size: int, n: int) -> tuple[IntArray, FloatArray]:
    """Return every sequence of n demonstrations, and the clones that the library makes of them."""
    draws: IntArray = np.array(list(np.ndindex(*(size,) * n)), dtype=np.int64)
    draws = draws.reshape(size**n, n)
    if n == 0:
        return draws, _uniform(full_tree(size))
    made = [
        clone_tokens(DemonstrationData(np.zeros_like(row), row, (1, size)), full_tree(size))
        for row in draws
    ]
    return draws, np.concatenate([sequence_policy(full_tree(size), clone) for clone in made])


def _uniform(prefixes: PrefixTree) -> FloatArray:
    levels = tuple(np.full((1, *shape), 1.0 / shape[1]) for shape in prefixes.shapes)
    return sequence_policy(prefixes, levels)


def _sure() -> TokenExperts:
    return TokenExperts(np.eye(8)[2:3], np.array([7.0]))


def _first_of_many() -> TokenExperts:
    return TokenExperts(np.eye(8)[:1], np.array([0.0]))


def _even() -> TokenExperts:
    return TokenExperts(np.full((1, 8), 0.125), np.array([3.0]))


def _mixed() -> TokenExperts:
    return TokenExperts(np.array([[0.4, 0.3, 0.2, 0.1]]), np.array([5.0]))


# ---- planning around a clone ---------------------------------------------------------------------


def _lost_to_expert(x: Processes) -> FloatArray:
    """`J(pi_E) - J(pi)`, pi planned around the reference with the learned rewards."""
    best = solve_steps(x.process(in_beta=True, learned=True), KL(), 1.0).policy
    return value(x.process(), x.levels(x.policy)) - value(x.process(), best)


def _distance_and_error(x: Processes) -> FloatArray:
    """`beta KL(pi_E || p) + (E_pi_E - E_pi)[r - r^]`."""
    process, learned = x.process(), x.process(learned=True)
    best = solve_steps(x.process(in_beta=True, learned=True), KL(), 1.0).policy
    expert = x.levels(x.policy)
    error = [value(process, pi) - value(learned, pi) for pi in (expert, best)]
    return np.asarray(x.beta * trajectory_kl(process, expert) + error[0] - error[1])


def _rounding(x: Processes) -> FloatArray:
    size = x.sizes() + np.abs(x.reward_hat).max(axis=(2, 3)).sum(axis=1)
    return RESOLUTION * (size + x.beta)


def _rare_expert() -> Processes:
    """Return an expert of one action, rare in the clone, worth a part of what that costs."""
    shape = (1, 3, 1, 2)
    clone = np.broadcast_to([1e-12, 1.0 - 1e-12], shape)
    reward = np.broadcast_to([24.0, 0.0], shape)
    expert = np.broadcast_to([1.0, 0.0], shape)
    return Processes(
        np.ones((1, 1)), np.ones((1, 2, 1, 2, 1)), clone, expert, reward, reward, np.ones(1)
    )


# ---- rates ---------------------------------------------------------------------------------------

_EXPERT = np.array([[0.2, 0.1, 0.15, 0.05, 0.1, 0.2, 0.1, 0.1]])


def _clone_distance(n: float, _: np.random.Generator) -> float:
    return float(expected_token_kl(_EXPERT, np.array([n]))[0])


@cache
def _stochastic() -> FiniteHorizonMDP:
    return random_mdp(4, 3, 3, np.random.default_rng(1))


def _regret_around_clone(n: float, rng: np.random.Generator) -> float:
    """Return the regret of planning with the true rewards around a cloned optimal expert."""
    mdp = _stochastic()
    expert = optimal_policy(mdp)
    shown = sample_trajectories(mdp, int(n), rng, policy=expert)
    policy = plan_around_clone(shown, mdp, 1.0).policy
    return float(value(mdp, expert)) - float(value(mdp, policy))


def _preference_regret(n: float, rng: np.random.Generator) -> float:
    """Return the regularized regret around one clone, of rewards learned from n preferences."""
    bandit = random_bandit(1, 8, np.random.default_rng(2), skew=0.3)
    shown = DemonstrationData(np.zeros(8, dtype=np.int64), np.arange(8), (1, 8))
    data = sample_preferences(bandit, int(n), rng, grouped=True)
    learner = TokenDemonstrationRegularized(full_tree(8), shown, 0.5, model=Tabular())
    learned = learner.fit(data, bandit.reference)
    clone = learned.diagnostics["behavior_policy"]
    best = solve(bandit.reward, clone, KL(), 0.5).policy
    return 0.5 * float(KL()(learned.policy, best))


DEMONSTRATION_RL_CLAIMS: tuple[Claim[TokenExperts] | Claim[Processes] | RateClaim, ...] = (
    Claim[TokenExperts](
        "distance of a clone by token",
        "E[KL(pi_E || clone by token)] <= sum over prefixes that pi_E reaches of (A - 1)/(N + 1)",
        f"{_SOURCE} (behavior cloning); constant ours",
        "upper",
        lambda x: expected_token_kl(x.expert, x.n),
        _visited,
        _sure,
    ),
    Claim[TokenExperts](
        "expected distance of a clone by token",
        "E[KL(pi_E || clone by token)] from binomial counts = that over all datasets",
        _SOURCE,
        "identity",
        _by_binomials,
        _by_datasets,
        _mixed,
        lambda x: RESOLUTION * (1.0 + np.log(x.expert.shape[1]) + 0 * x.n),
    ),
    Claim[TokenExperts](
        "a clone by token of one response is nearer",
        "H log((N + A)/(N + 1)) <= log((N + Y)/(N + 1)): E KL to a deterministic expert of "
        "clones by token and by response",
        "ours (binomial theorem)",
        "tight",
        lambda x: expected_token_kl(_sure_experts(x), x.n),
        lambda x: expected_kl(_sure_experts(x), x.n),
        _first_of_many,
        assumptions="all sequences are responses",
    ),
    Claim[TokenExperts](
        "a clone by token is nearer for every expert",
        "E[KL(pi_E || clone by token)] <= E[KL(pi_E || clone by response)]",
        "ours; smoothing by response suits an expert that is nearly uniform",
        "false",
        lambda x: expected_token_kl(x.expert, x.n),
        lambda x: expected_kl(x.expert, x.n),
        _even,
    ),
    Claim[Processes](
        "regret around a clone of trajectories",
        "J(pi_E) - J(pi) <= beta KL(pi_E || clone) + (E_{pi_E} - E_pi)[r - r^], pi planned with r^",
        _SOURCE,
        "upper",
        _lost_to_expert,
        _distance_and_error,
        _rare_expert,
        _rounding,
    ),
    RateClaim(
        name="distance of a clone by token falls like 1/N",
        formula="E[KL(pi_E || clone by token)] ~ (Y - 1)/(2 N), an expert of full support",
        source=_SOURCE,
        exponent=-1.0,
        measure=_clone_distance,
        sizes=(300.0, 1e3, 3e3, 1e4),
        ceiling=lambda n: 1.05 * 7.0 / (2.0 * n),
        floor=lambda n: 0.9 * 7.0 / (2.0 * n),
    ),
    RateClaim(
        name="regret of demonstration-regularized planning",
        formula="J(pi_E) - J(pi) ~ 1/N_E around the clone of an optimal expert's trajectories",
        source=_SOURCE,
        exponent=-1.0,
        measure=_regret_around_clone,
        sizes=(1e2, 1e3, 1e4),
        variable="N_E",
        replications=8,
    ),
    RateClaim(
        name="regularized regret around a clone in n preferences",
        formula="J_beta(pi_beta) - J_beta(pi^) ~ 1/n, rewards learned from n preferences",
        source=_SOURCE,
        exponent=-1.0,
        measure=_preference_regret,
        sizes=(1e3, 1e4, 1e5),
        replications=40,
    ),
)
