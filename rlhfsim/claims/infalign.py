"""Alignment that knows the inference procedure: `max_pi W(pi) - beta KL(pi || p)`.

`W(pi) = P(r(y) > r(z)) + 1/2 P(r(y) = r(z))`, `y ~ T(pi)`, `z ~ T(p)`, for T the best or the worst
of n draws by the reward, and `R = dW/dpi`, its derivative in the policy.

Source: arXiv 2412.19792; ties derived in `rlhfsim.learners.infalign`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.batches import Rows, average, betas, distributions, rewards, sorts
from rlhfsim.divergences import KL
from rlhfsim.inference import best_of_n, calibrated_reward, worst_of_n
from rlhfsim.learners.infalign import (
    BestOf,
    InferenceProcedure,
    WorstOf,
    infalign_optimum,
    win_rate_gradient,
)
from rlhfsim.solvers import solve

#: Numbers of draws.
SIZES = (1, 2, 3, 4, 8)


class Optimum(NamedTuple):
    """What `infalign_optimum` returns for each instance."""

    #: (N, Y)
    policy: FloatArray
    #: (N,) value of the objective.
    objective: FloatArray


@dataclass(frozen=True, eq=False)
class InferenceProblems(Rows):
    """N instances of one prompt, whose policy is used through the best or the worst of n draws."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "simplex", "policy": "simplex", "reward": "real", "beta": "positive",
        "probe": "real",
    }  # fmt: skip

    reference: FloatArray  # (N, Y)
    policy: FloatArray  # (N, Y), within the support of the reference
    reward: FloatArray  # (N, Y)
    n: IntArray  # (N,) at least 1
    worst: BoolArray  # (N,) whether T is the worst of n
    beta: FloatArray  # (N,)
    probe: FloatArray  # (N, Y) in [1, 2]: policies are compared by its mean

    def valid(self) -> BoolArray:
        """Return whether the policy lies within the support of the reference."""
        return np.asarray(((self.policy <= 0) | (self.reference > 0)).all(axis=1))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances of 2 to 6 responses, with four betas in all."""
        sort, size = sorts(n, rng), int(rng.integers(2, 7))
        reference = distributions(sort, (size,), rng)
        step = np.where(rng.random((n, 1)) < 0.3, 10.0 ** rng.uniform(-6.0, 0.0, (n, 1)), 1.0)
        policy = (1.0 - step) * reference + step * distributions(sort, (size,), rng)
        beta = rng.choice(betas(np.arange(4) % 3, rng, most=10.0), size=n)
        return cls(
            reference, policy, rewards(sort, (size,), rng), rng.choice(SIZES, size=n),
            rng.random(n) < 0.5, beta, 1.0 + rng.random((n, size)),
        )  # fmt: skip

    @cached_property
    def optimum(self) -> Optimum:
        """Return the optimum of every instance; those alike in n, beta and T are solved at once."""
        policy, objective = np.empty_like(self.reference), np.empty(len(self))
        for rows, procedure in _groups(self):
            for beta in np.unique(self.beta[rows]).tolist():
                these = rows & (self.beta == beta)
                learned = infalign_optimum(
                    self.reward[these], self.reference[these], procedure, beta
                )
                policy[these] = learned.policy
                kl = np.asarray(learned.diagnostics["kl"])
                objective[these] = learned.diagnostics["win_rate"] - beta * kl
        return Optimum(policy, objective)


ProblemClaim = Claim[InferenceProblems]


def _groups(x: InferenceProblems) -> Iterator[tuple[BoolArray, InferenceProcedure]]:
    """Yield the instances that share a procedure."""
    for n in np.unique(x.n).tolist():
        for worst in (False, True):
            rows = (x.n == n) & (x.worst == worst)
            if rows.any():
                yield rows, WorstOf(n) if worst else BestOf(n)


# ---- witnesses -----------------------------------------------------------------------------------


def _problem(n: int, *, worst: bool = False, beta: float = 0.1) -> InferenceProblems:
    p, pi = np.array([[0.4, 0.1, 0.2, 0.3]]), np.array([[0.1, 0.2, 0.3, 0.4]])
    return InferenceProblems(
        p, pi, np.array([[0.0, 2.0, 1.0, 1.0]]), np.array([n]), np.array([worst]),
        np.array([beta]), np.array([[1.0, 1.25, 1.5, 1.75]]),
    )  # fmt: skip


def _at_optimum() -> InferenceProblems:
    x = _problem(4)
    return replace(x, policy=x.optimum.policy)


def _at_reference() -> InferenceProblems:
    x = _problem(4)
    return replace(x, policy=x.reference)


# ---- sides ---------------------------------------------------------------------------------------


def law(x: InferenceProblems, policy: FloatArray) -> FloatArray:
    """Return `T(policy)`."""
    worst = worst_of_n(policy, x.reward, x.n)
    return np.where(x.worst[:, None], worst, best_of_n(policy, x.reward, x.n))


def win_rate(x: InferenceProblems, policy: FloatArray) -> FloatArray:
    """Return `W(policy)`, from the laws of both sides."""
    return average(law(x, policy), calibrated_reward(x.reward, law(x, x.reference)))


def objective(x: InferenceProblems, policy: FloatArray) -> FloatArray:
    """Return `W(policy) - beta KL(policy || p)`."""
    return win_rate(x, policy) - x.beta * KL().per_prompt(policy, x.reference)


def gradient(x: InferenceProblems, policy: FloatArray) -> FloatArray:
    """Return R at the policy."""
    result = np.empty_like(policy)
    for rows, procedure in _groups(x):
        result[rows] = win_rate_gradient(policy[rows], x.reference[rows], x.reward[rows], procedure)
    return result


def gibbs(x: InferenceProblems, reward: FloatArray) -> FloatArray:
    """Return `p exp(reward/beta)/Z`."""
    return solve(reward, x.reference, KL(), x.beta).policy


def linearized(x: InferenceProblems) -> FloatArray:
    """Return `W(p) + <R(p), pi - p>`."""
    slope = gradient(x, x.reference)
    return win_rate(x, x.reference) + average(x.policy - x.reference, slope)


def _through(
    worst: bool, side: Callable[[InferenceProblems], FloatArray]
) -> Callable[[InferenceProblems], FloatArray]:
    """Return the side where T is the best of n, or the worst, on every instance."""
    return lambda x: side(replace(x, worst=np.full(len(x), worst)))


def _one_draw(x: InferenceProblems) -> InferenceProblems:
    return replace(x, n=np.ones_like(x.n))


def _stiffness(x: InferenceProblems) -> FloatArray:
    """Return the rounding of a policy whose exponents are of size n/beta."""
    return RESOLUTION * (1.0 + x.n / x.beta)


def _slope_resolution(x: InferenceProblems) -> FloatArray:
    return np.asarray(RESOLUTION * (1.0 + x.n), dtype=np.float64)


def _value_resolution(x: InferenceProblems) -> FloatArray:
    return RESOLUTION * (1.0 + 30.0 * x.beta)


# ---- the list ------------------------------------------------------------------------------------

_MOST = 3000

INFALIGN_CLAIMS: tuple[ProblemClaim, ...] = (
    ProblemClaim(
        "fixed point of InfAlign",
        "E[g] under the optimum pi = E[g] under p e^(R(pi)/beta)/Z",
        "arXiv 2412.19792",
        "identity",
        lambda x: average(x.optimum.policy, x.probe),
        lambda x: average(gibbs(x, gradient(x, x.optimum.policy)), x.probe),
        lambda: _problem(4),
        _stiffness,
        most_instances=_MOST,
    ),
    ProblemClaim(
        "value of InfAlign",
        "reported objective = W(pi) - beta KL(pi || p) from the laws of best or worst of n",
        "arXiv 2412.19792",
        "identity",
        lambda x: x.optimum.objective,
        lambda x: objective(x, x.optimum.policy),
        lambda: _problem(4),
        _stiffness,
        most_instances=_MOST,
    ),
    ProblemClaim(
        "InfAlign beats every policy",
        "W(pi) - beta KL(pi || p) <= that of the InfAlign optimum",
        "arXiv 2412.19792",
        "upper",
        lambda x: objective(x, x.policy),
        lambda x: x.optimum.objective,
        _at_optimum,
        _value_resolution,
        most_instances=_MOST,
    ),
    ProblemClaim(
        "InfAlign beats plain KL regularization",
        "the same of p e^(c/beta)/Z, c the calibrated reward",
        "arXiv 2412.19792",
        "upper",
        lambda x: objective(x, gibbs(x, calibrated_reward(x.reward, x.reference))),
        lambda x: x.optimum.objective,
        lambda: _problem(1),
        _value_resolution,
        most_instances=_MOST,
    ),
    ProblemClaim(
        "plain KL regularization is enough",
        "W - beta KL of the InfAlign optimum <= that of p e^(c/beta)/Z",
        "refuted in arXiv 2412.19792",
        "false",
        lambda x: x.optimum.objective,
        lambda x: objective(x, gibbs(x, calibrated_reward(x.reward, x.reference))),
        lambda: _problem(8, worst=True, beta=0.05),
        _value_resolution,
        most_instances=_MOST,
    ),
    ProblemClaim(
        "one draw",
        "E[R g] = E[c g] at n = 1, c the calibrated reward",
        "arXiv 2412.19792",
        "identity",
        lambda x: average(x.probe, gradient(_one_draw(x), x.policy)),
        lambda x: average(x.probe, calibrated_reward(x.reward, x.reference)),
        lambda: _problem(1),
    ),
    ProblemClaim(
        "win rate is homogeneous",
        "E_pi[R] = n W(pi)",
        "Euler's identity, derived",
        "identity",
        lambda x: average(x.policy, gradient(x, x.policy)),
        lambda x: x.n * win_rate(x, x.policy),
        lambda: _problem(4),
    ),
    ProblemClaim(
        "best-of-n wins are concave",
        "W(pi) <= W(p) + <R(p), pi - p> for the best of n",
        "derived in `rlhfsim.learners.infalign.levels`",
        "upper",
        _through(False, lambda x: win_rate(x, x.policy)),
        _through(False, linearized),
        _at_reference,
        _slope_resolution,
    ),
    ProblemClaim(
        "worst-of-n wins are convex",
        "W(pi) >= W(p) + <R(p), pi - p> for the worst of n",
        "derived in `rlhfsim.learners.infalign.levels`",
        "lower",
        _through(True, lambda x: win_rate(x, x.policy)),
        _through(True, linearized),
        _at_reference,
        _slope_resolution,
    ),
    ProblemClaim(
        "the reference against itself",
        "W(p) = 1/2",
        "definition, ties shared",
        "identity",
        lambda x: win_rate(x, x.reference),
        lambda x: np.full(len(x), 0.5),
        lambda: _problem(4),
    ),
)
