"""The objective of a policy, and a bound on that of all policies."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.solvers.convex.problem import ConvexProblem
from rlhfsim.solvers.convex.program import Program
from rlhfsim.solvers.exact import solve


def policy_of(problem: ConvexProblem, weights: FloatArray) -> FloatArray:
    """Return the policy of the variables; what is below 0 by the solver's tolerance is 0."""
    used = np.flatnonzero(problem.allowed)
    p = problem.reference.reshape(-1)[used]
    policy = np.zeros(problem.reference.size)
    policy[used] = np.where(p > 0, p, 1.0) * np.maximum(weights, 0.0)
    return policy.reshape(problem.reference.shape)


def attained(problem: ConvexProblem, policy: FloatArray) -> tuple[float, FloatArray]:
    """Return the objective of a policy less `offset`, and the reward that is worst for it."""
    inside = problem.reference > 0
    p = np.where(inside, problem.reference, 1.0)
    mass = np.where(inside, policy, 1.0)
    cost = np.where(inside, problem.divergence.perspective(mass, p), 0.0).sum(axis=-1)
    spare = np.where(inside, 0.0, policy).sum(axis=-1)
    if spare.any():
        cost = cost + problem.divergence.recession * spare
    gain = np.where(policy > 0, policy * (problem.reward - problem.best[:, None]), 0.0).sum(axis=-1)
    rho = problem.prompt_dist
    move = np.einsum("x,xyk,xy->k", rho, problem.factor, policy - problem.baseline)
    length = float(np.linalg.norm(move))
    worst = problem.reward
    if length > 0:
        worst = worst - problem.factor @ (move / length)
    return float(rho @ (gain - problem.beta * cost)) - length, worst


def rewards_of_multiplier(problem: ConvexProblem, program: Program) -> list[FloatArray]:
    """Return rewards of the ellipsoid that the solver's multiplier names, of either sign.

    Where the policy stays at the baseline every reward of the ellipsoid is equally bad for it, and
    only the multiplier knows which one makes it optimal.  The bound holds for any of them.
    """
    if program.direction is None or program.direction.dual_value is None:
        return []
    u = np.asarray(program.direction.dual_value, dtype=np.float64).reshape(-1)
    u = u / max(1.0, float(np.linalg.norm(u)))
    return [problem.reward - problem.factor @ (sign * u) for sign in (1.0, -1.0)]


def upper_bound(
    cp: Any,
    problem: ConvexProblem,
    program: Program,
    policy: FloatArray,
    worst: FloatArray,
    multipliers: tuple[Any, ...],
) -> float:
    """Return the bound of the module's docstring less `offset`; nan where it does not reach."""
    reward, constant = worst - problem.best[:, None], 0.0
    used = np.flatnonzero(problem.allowed)
    p = problem.reference.reshape(-1)[used]
    unit = np.where(p > 0, p, 1.0)
    for constraint, multiplier in zip(program.constraints, multipliers, strict=True):
        if not isinstance(constraint, (cp.constraints.Equality, cp.constraints.Inequality)):
            return float("nan")
        slope = constraint.expr.grad.get(program.variable)
        if slope is None:
            return float("nan")
        mu = np.asarray(multiplier, dtype=np.float64).reshape(-1, order="F")
        if isinstance(constraint, cp.constraints.Inequality):
            # A solver's multiplier may be below 0 by its tolerance; the bound holds for any >= 0.
            mu = np.maximum(mu, 0.0)
        price = np.zeros(policy.size)
        price[used] = np.asarray(slope @ mu).reshape(-1) / unit
        level = np.asarray(constraint.expr.value, dtype=np.float64).reshape(-1, order="F")
        constant -= float(mu @ level) - float(price @ policy.reshape(-1))
        reward = reward - price.reshape(policy.shape) / problem.prompt_dist[:, None]
    exact = solve(reward, problem.reference, problem.divergence, problem.beta)
    baseline = np.where(problem.baseline > 0, problem.baseline * (worst - problem.reward), 0.0)
    constant -= float(problem.prompt_dist @ baseline.sum(axis=-1))
    return float(problem.prompt_dist @ exact.dual) + constant
