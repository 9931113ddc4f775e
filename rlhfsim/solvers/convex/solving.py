"""Two solvers, one policy, and what must agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.divergences import Divergence
from rlhfsim.solvers.convex.bound import attained, policy_of, rewards_of_multiplier, upper_bound
from rlhfsim.solvers.convex.expressions import Constraint, Expression, load_cvxpy
from rlhfsim.solvers.convex.problem import ConvexProblem, checked
from rlhfsim.solvers.convex.program import build, require_optimal, run_solver, scaled_dual
from rlhfsim.solvers.convex.result import ConvexSolution, ConvexSolverError, SolverRun

#: Largest distance of the two solvers' values, in units of `max(beta, max r - min r)`.
AGREEMENT = 1e-5


def solve_convex(
    reward: ArrayLike,
    reference: ArrayLike,
    divergence: Divergence,
    beta: float,
    constraints: Callable[[Expression], list[Constraint]] | None = None,
    *,
    prompt_dist: ArrayLike | None = None,
    ellipsoid: tuple[ArrayLike, float] | None = None,
    baseline: ArrayLike | None = None,
    solver: str = "CLARABEL",
    second_solver: str | None = "SCS",
    options: Mapping[str, Any] | None = None,
    second_options: Mapping[str, Any] | None = None,
    agreement: float = AGREEMENT,
) -> ConvexSolution:
    """Return the maximiser of `E_pi[r] - beta D(pi || p)` under convex constraints on the policy.

    With an ellipsoid `(A, radius)` the reward is the worst of `{r + A u : ||u|| <= radius}`, and
    the objective `E_pi[r] - radius ||A^T (pi - nu)|| - beta D(pi || p)`, nu the baseline whose own
    value under `A u` is subtracted.

    Parameters
    ----------
    reward : (Y,) or (X, Y) array
    reference : (Y,) or (X, Y) array of distributions
        Responses of mass 0 are left out, unless the divergence has a finite recession.
    divergence : Divergence
        One of this package, a combination, or one with a method
        `cvxpy_expression(policy, reference)` that returns `p f(pi/p)` elementwise as a convex
        expression.
    beta : number
        Positive regularization strength.
    constraints : function
        `constraints(policy)` gets the policy as a cvxpy expression of the shape of `reward` and
        returns a list of cvxpy constraints.
    prompt_dist : (X,) array
        Positive weights of the prompts; required for (X, Y) problems with more than one.
    ellipsoid : pair of a (Y, k) or (X, Y, k) array and a number
        Factor `A` of the ellipsoid (a root of its matrix) and its radius, at least 0.
    baseline : array of distributions, shape of `reference`
        The policy nu; 0 when left out.
    solver, second_solver : str
        Names in cvxpy.  "OSQP" serves chi-squared under linear constraints, "CLARABEL" and "SCS"
        everything.  None for the second turns the alarm off, and the exact bound remains; SCS gives
        up on some problems whose rewards span more than about 1e3 beta.
    options, second_options : mapping
        Options of the solvers in place of the default tolerances.
    agreement : number
        How far the values may lie apart, and the bound above them, in units of
        `max(beta, max r - min r)`.

    Returns
    -------
    ConvexSolution

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value; a divergence or a constraint that is not convex.
    ConvexSolverError
        A status other than optimal (infeasible and inaccurate included), a duality gap, or values
        that disagree.
    ImportError
        Without cvxpy, naming the extra that brings it.

    Examples
    --------
    >>> solution = solve_convex(
    ...     [1.0, 0.0], [0.5, 0.5], ChiSquared(), 1.0, lambda policy: [policy <= 0.6]
    ... )
    >>> solution.policy.round(6)
    array([0.6, 0.4])
    """
    cp = load_cvxpy()
    problem = checked(reward, reference, divergence, beta, prompt_dist, ellipsoid, baseline)
    program = build(cp, problem, constraints, ratios=True)
    agreement = checks.positive_number("agreement", agreement)
    first = run_solver(cp, program, problem.scale, problem.offset, solver, options)
    require_optimal((first,))
    policy = policy_of(problem, np.asarray(program.variable.value, dtype=np.float64))
    centred, worst = attained(problem, policy)
    value = problem.offset + centred
    other_rewards = rewards_of_multiplier(problem, program)
    multipliers = tuple(scaled_dual(c, problem.scale) for c in program.constraints)
    violation = max((float(np.max(c.violation())) for c in program.constraints), default=0.0)
    gap = upper_bound(cp, problem, program, policy, worst, multipliers) - centred
    for other in other_rewards if not gap <= agreement * problem.scale else []:
        apart = upper_bound(cp, problem, program, policy, other, multipliers) - centred
        if not gap <= apart:
            gap, worst = apart, other
    runs: tuple[SolverRun, ...] = (first,)
    if second_solver is not None:
        again = build(cp, problem, constraints, ratios=False)
        second = run_solver(cp, again, problem.scale, problem.offset, second_solver, second_options)
        runs = (first, second)
        require_optimal(runs)
    require_agreement(problem, runs, value, gap, agreement)
    shape = problem.shape
    return ConvexSolution(
        policy=policy.reshape(shape),
        value=value,
        gap=gap,
        feasibility=float(np.abs(policy.sum(axis=-1) - 1.0).max()),
        violation=violation,
        constraint_multipliers=multipliers,
        worst_reward=worst.reshape(shape),
        runs=runs,
    )


def require_agreement(
    problem: ConvexProblem, runs: tuple[SolverRun, ...], value: float, gap: float, agreement: float
) -> None:
    """Raise unless the solvers' values, that of the policy and the bound are one number."""
    if abs(gap) > agreement * problem.scale:
        raise ConvexSolverError(
            f"the policy of {runs[0].solver} is not optimal: duality gap {gap:.3g}, more than "
            f"{agreement * problem.scale:.3g}",
            runs,
        )
    values = {f"the value of {run.solver}": run.value for run in runs}
    values["the objective of the policy"] = value
    apart = max(values.values()) - min(values.values())
    allowed = agreement * problem.scale + 8 * np.finfo(np.float64).eps * abs(problem.offset)
    # Written so that NaN fails.
    if not apart <= allowed:
        listed = ", ".join(f"{name} is {number!r}" for name, number in values.items())
        raise ConvexSolverError(
            f"values disagree by {apart:.3g}, more than {allowed:.3g}: {listed}",
            runs,
        )
