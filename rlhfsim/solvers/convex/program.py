"""The program, and how a solver is run on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from rlhfsim.solvers.convex.expressions import Constraint, Expression, expression
from rlhfsim.solvers.convex.problem import ConvexProblem
from rlhfsim.solvers.convex.result import ConvexSolverError, SolverRun


@dataclass(frozen=True, eq=False)
class Program:
    """The cvxpy problem, its variables (ratios, masses where p = 0) and the user's constraints."""

    problem: Any
    variable: Any
    constraints: list[Any]
    #: The equality whose multiplier is a direction of the ellipsoid; None without one.
    direction: Any


def build(
    cp: Any,
    problem: ConvexProblem,
    constraints: Callable[[Expression], list[Constraint]] | None,
    *,
    ratios: bool,
) -> Program:
    """Return the program in ratios or in masses, with the constraints of the user."""
    p, allowed = problem.reference, problem.allowed > 0
    scale = problem.scale
    n_prompts, n_responses = p.shape
    used = np.flatnonzero(allowed)
    inside = p.reshape(-1)[used] > 0
    unit = np.where(inside & ratios, p.reshape(-1)[used], 1.0)
    variable = cp.Variable(used.size, nonneg=True)
    mass = cp.multiply(unit, variable)
    spread = scipy.sparse.csr_array(
        (np.ones(used.size), (used, np.arange(used.size))), shape=(p.size, used.size)
    )
    flat = spread @ mass
    weight = np.repeat(problem.prompt_dist, n_responses)
    gain = (weight * (problem.reward - problem.best[:, None]).reshape(-1))[used] / scale
    objective = gain @ mass
    where = np.flatnonzero(inside)
    terms = expression(problem.divergence, mass[where], p.reshape(-1)[used][where])
    price = problem.beta / scale
    objective = objective - price * (weight[used][where] @ terms)
    outside = np.flatnonzero(~inside)
    if outside.size:
        cost = price * problem.divergence.recession
        objective = objective - cost * (weight[used][outside] @ mass[outside])
    direction = None
    if problem.factor.shape[-1]:
        weighted = (weight[:, None] * problem.factor.reshape(p.size, -1)).T / scale
        move = cp.Variable(problem.factor.shape[-1])
        direction = move == weighted @ (flat - problem.baseline.reshape(-1))
        objective = objective - cp.norm(move)
    rows = np.repeat(np.eye(n_prompts), n_responses, axis=1)
    own = [rows[:, used] @ mass == 1]
    policy = flat if len(problem.shape) == 1 else cp.reshape(flat, problem.shape, order="C")
    users = [] if constraints is None else list(constraints(policy))
    for k, constraint in enumerate(users):
        if not isinstance(constraint, cp.constraints.constraint.Constraint):
            raise ValueError(f"constraints[{k}] is {constraint!r:.80}; it must be a constraint")
        if not constraint.is_dcp():
            raise ValueError(f"constraints[{k}] is not convex by cvxpy's rules: {constraint}")
    if direction is not None:
        own.append(direction)
    return Program(cp.Problem(cp.Maximize(objective), own + users), variable, users, direction)


# Tolerances to try in turn: the tightest that a solver can certify.
_ATTEMPTS: dict[str, tuple[dict[str, Any], ...]] = {
    "CLARABEL": tuple(
        {"tol_gap_abs": tol, "tol_gap_rel": tol, "tol_feas": tol} for tol in (1e-11, 1e-10, 1e-8)
    ),
    "SCS": tuple(
        {"eps_abs": tol, "eps_rel": tol, "max_iters": most}
        for tol, most in ((1e-8, 20_000), (1e-7, 50_000), (1e-6, 200_000))
    ),
    "OSQP": tuple({"eps_abs": tol, "eps_rel": tol, "max_iter": 100_000} for tol in (1e-9, 1e-7)),
}


def run_solver(
    cp: Any,
    program: Program,
    scale: float,
    offset: float,
    solver: str,
    options: Mapping[str, Any] | None,
) -> SolverRun:
    """Solve with the tightest tolerances that the solver reaches; return what it said."""
    attempts = _ATTEMPTS.get(solver, ({},)) if options is None else (dict(options),)
    status, used, iterations = "not tried", attempts[0], None
    for used in attempts:
        try:
            with warnings.catch_warnings():
                # What they say is in the status.
                warnings.simplefilter("ignore")
                program.problem.solve(solver=solver, **used)
            status = program.problem.status
            stats = program.problem.solver_stats
            iterations = None if stats is None else stats.num_iters
        except cp.error.SolverError as error:
            status = str(error)
        if status == cp.OPTIMAL:
            # The solver's own number: the objective of its point may be infinite by rounding.
            value = offset + scale * float(program.problem.solution.opt_val)
            return SolverRun(solver, status, value, used, iterations)
        if status in (cp.INFEASIBLE, cp.UNBOUNDED):
            break
    return SolverRun(solver, status, float("nan"), used, iterations)


def require_optimal(runs: tuple[SolverRun, ...]) -> None:
    """Raise unless the last run ended at an optimum."""
    last = runs[-1]
    if last.status != "optimal":
        raise ConvexSolverError(
            f"{last.solver} found no optimum; its status is {last.status}", runs
        )


def scaled_dual(constraint: Constraint, scale: float) -> Any:
    """Return a constraint's multiplier in reward units (several for a cone)."""
    dual = constraint.dual_value
    if isinstance(dual, list):
        return [scale * np.asarray(part) for part in dual]
    return scale * np.asarray(dual)
