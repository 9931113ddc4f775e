"""Regularized optima under further convex constraints, by conic solvers that must agree.

`max_pi E_pi[r] - beta D(pi || p)` with whatever convex constraints a user adds, over one prompt or
several coupled by `prompt_dist`, optionally against the worst reward of an ellipsoid.  An
interior-point method solves it, another method solves it again, and the two values must agree.

How digits are kept.  The variables are the ratios `w = pi/p` for the first solver, which suits
interior points, and the masses for the second, which suits splitting methods.  Rewards are
relative to the best of their prompt, and the objective is divided by `max(beta, max r - min r)`.
The value that is reported is not the solver's: it is the objective of its policy, evaluated in
floating point.

The certificate owes nothing to the solver's tolerances either.  For any multipliers `mu >= 0` of
the constraints `c(pi) <= 0`, made linear at the policy `pi0` that was found, and any reward
`r + A u` of the ellipsoid, no policy has a higher objective than
`max_pi E_pi[r + A u - mu dc/dpi] - beta D(pi || p) - mu (c(pi0) - dc/dpi pi0)`, which `solve`
evaluates exactly.

Source: arXiv 2301.11270 and 2312.11456 (ellipsoids); the rest derived.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import (
    KL,
    AlphaDivergence,
    ChiSquared,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)
from rlhfsim.solvers.exact import solve
from rlhfsim.solvers.solution import Solution, SolverError

# cvxpy comes without useful type annotations.
Expression = Any
Constraint = Any

#: Largest distance of the two solvers' values, in units of `max(beta, max r - min r)`.
AGREEMENT = 1e-5


@dataclass(frozen=True)
class SolverRun:
    """What one solver said."""

    #: Name, as cvxpy spells it.
    solver: str
    #: cvxpy's status, or the message of an error.
    status: str
    #: Objective, in reward units; nan unless the status is "optimal".
    value: float
    #: Options that the accepted answer (or the last attempt) was computed with.
    options: Mapping[str, Any]
    #: Iterations, where the solver tells.
    iterations: int | None


@dataclass(frozen=True, eq=False)
class ConvexSolution:
    """The optimum of a regularized objective under convex constraints."""

    #: (Y,) or (X, Y) optimal policy.
    policy: FloatArray
    #: Objective of `policy`, in reward units: its average over prompts, worst case included.
    value: float
    #: Dual bound minus `value`, in reward units; nan where a constraint is a cone by itself.
    gap: float
    #: Largest `|sum_y pi - 1|` of a prompt.
    feasibility: float
    #: Largest violation of a user's constraint; 0 where there are none.
    violation: float
    #: Multipliers of the user's constraints in their order, in reward units per unit of each.
    constraint_multipliers: tuple[Any, ...]
    #: (Y,) or (X, Y) reward of the ellipsoid that is worst for `policy`; `reward` without one.
    worst_reward: FloatArray
    #: The solver that made `policy`, and the one that was asked for a second opinion.
    runs: tuple[SolverRun, ...]


class ConvexSolverError(SolverError):
    """No trustworthy optimum: another status than optimal, a gap, or solvers that disagree."""

    def __init__(self, message: str, runs: tuple[SolverRun, ...]) -> None:
        super().__init__(message, cast("Solution[Any]", None))
        #: What the solvers said.
        self.runs = runs

    def __reduce__(self) -> tuple[type[ConvexSolverError], tuple[str, tuple[SolverRun, ...]]]:  # type: ignore[override]
        """Pickle with the runs."""
        return type(self), (str(self), self.runs)


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
    cp = _cvxpy()
    problem = _checked(reward, reference, divergence, beta, prompt_dist, ellipsoid, baseline)
    program = _build(cp, problem, constraints, ratios=True)
    agreement = checks.positive_number("agreement", agreement)
    first = _run(cp, program, problem.scale, problem.offset, solver, options)
    _require_optimal((first,))
    policy = _policy(problem, np.asarray(program.variable.value, dtype=np.float64))
    centred, worst = _attained(problem, policy)
    value = problem.offset + centred
    other_rewards = _rewards_of_multiplier(problem, program)
    multipliers = tuple(_scaled_dual(c, problem.scale) for c in program.constraints)
    violation = max((float(np.max(c.violation())) for c in program.constraints), default=0.0)
    gap = _upper_bound(cp, problem, program, policy, worst, multipliers) - centred
    for other in other_rewards if not gap <= agreement * problem.scale else []:
        apart = _upper_bound(cp, problem, program, policy, other, multipliers) - centred
        if not gap <= apart:
            gap, worst = apart, other
    runs: tuple[SolverRun, ...] = (first,)
    if second_solver is not None:
        again = _build(cp, problem, constraints, ratios=False)
        second = _run(cp, again, problem.scale, problem.offset, second_solver, second_options)
        runs = (first, second)
        _require_optimal(runs)
    _require_agreement(problem, runs, value, gap, agreement)
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


def _cvxpy() -> Any:
    try:
        return importlib.import_module("cvxpy")
    except ImportError:
        raise ImportError(
            "solve_convex needs cvxpy; install it with: pip install 'rlhfsim[convex]'"
        ) from None


# ---- input ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Problem:
    """Checked input; everything is (X, Y)."""

    reward: FloatArray
    reference: FloatArray
    divergence: Divergence
    beta: float
    prompt_dist: FloatArray
    #: (X, Y, k) factor times radius, k = 0 without an ellipsoid.
    factor: FloatArray
    baseline: FloatArray
    shape: tuple[int, ...]

    @property
    def allowed(self) -> FloatArray:
        """(X, Y), 1 where the policy may have mass."""
        outside = np.isfinite(self.divergence.recession)
        return np.where((self.reference > 0) | outside, 1.0, 0.0)

    @property
    def best(self) -> FloatArray:
        """(X,) best reward of each prompt."""
        return np.where(self.allowed > 0, self.reward, -np.inf).max(axis=-1)

    @property
    def offset(self) -> float:
        """What is taken off the objective: the average best reward."""
        return float(self.prompt_dist @ self.best)

    @property
    def scale(self) -> float:
        """What the objective is divided by."""
        worst = np.where(self.allowed > 0, self.reward, np.inf).min(axis=-1)
        return float(max(self.beta, (self.best - worst).max()))


def _checked(
    reward: ArrayLike,
    reference: ArrayLike,
    divergence: Divergence,
    beta: float,
    prompt_dist: ArrayLike | None,
    ellipsoid: tuple[ArrayLike, float] | None,
    baseline: ArrayLike | None,
) -> _Problem:
    r = checks.as_real("reward", reward)
    p = checks.as_distributions("reference", reference)
    if r.shape != p.shape or r.ndim not in (1, 2):
        raise ValueError(
            f"reward has shape {r.shape} and reference {p.shape}; both must be (Y,) or (X, Y)"
        )
    if not isinstance(divergence, Divergence):
        raise ValueError(f"divergence is {divergence!r}; it must be a Divergence such as KL()")
    rows = np.atleast_2d(r).shape
    if prompt_dist is None and rows[0] > 1:
        raise ValueError(f"prompt_dist is missing; with {rows[0]} prompts it must be given")
    rho = np.ones(1) if prompt_dist is None else checks.as_distributions("prompt_dist", prompt_dist)
    if rho.shape != rows[:1]:
        raise ValueError(f"prompt_dist has shape {rho.shape}; it must be ({rows[0]},)")
    rho = checks.as_positive("prompt_dist", rho)
    factor = np.zeros((*rows, 0))
    if ellipsoid is not None:
        root, radius = ellipsoid
        root = checks.as_real("ellipsoid factor", root)
        if root.shape[:-1] != r.shape:
            raise ValueError(
                f"ellipsoid factor has shape {root.shape}; it must be {r.shape} and one more axis"
            )
        factor = checks.positive_number("ellipsoid radius", radius, zero=True) * root
        factor = factor.reshape(*rows, -1)
    nu = np.zeros(r.shape)
    if baseline is not None:
        nu = checks.as_distributions("baseline", baseline)
        if nu.shape != r.shape:
            raise ValueError(f"baseline has shape {nu.shape}; it must be {r.shape}")
    return _Problem(
        reward=r.reshape(rows),
        reference=p.reshape(rows),
        divergence=divergence,
        beta=checks.positive_number("beta", beta),
        prompt_dist=rho,
        factor=factor,
        baseline=nu.reshape(rows),
        shape=r.shape,
    )


# ---- the program ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Program:
    """The cvxpy problem, its variables (ratios, masses where p = 0) and the user's constraints."""

    problem: Any
    variable: Any
    constraints: list[Any]
    #: The equality whose multiplier is a direction of the ellipsoid; None without one.
    direction: Any


def _build(
    cp: Any,
    problem: _Problem,
    constraints: Callable[[Expression], list[Constraint]] | None,
    *,
    ratios: bool,
) -> _Program:
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
    return _Program(cp.Problem(cp.Maximize(objective), own + users), variable, users, direction)


# ---- divergences as expressions ------------------------------------------------------------------


def _kl(policy: Expression, p: FloatArray, divergence: Divergence) -> Expression:
    return _cvxpy().kl_div(policy, p)


def _chi_squared(policy: Expression, p: FloatArray, divergence: Divergence) -> Expression:
    cp = _cvxpy()
    return 0.5 * cp.square(cp.multiply(1.0 / np.sqrt(p), policy - p))


def _forward_kl(policy: Expression, p: FloatArray, divergence: Divergence) -> Expression:
    return _cvxpy().kl_div(p, policy)


def _jensen_shannon(policy: Expression, p: FloatArray, divergence: Divergence) -> Expression:
    cp = _cvxpy()
    middle = 0.5 * (policy + p)
    return 0.5 * (cp.kl_div(policy, middle) + cp.kl_div(p, middle))


def _squared_hellinger(policy: Expression, p: FloatArray, divergence: Divergence) -> Expression:
    cp = _cvxpy()
    return policy + p - 2.0 * cp.multiply(p, cp.sqrt(cp.multiply(1.0 / p, policy)))


def _alpha(policy: Expression, p: FloatArray, divergence: Divergence) -> Expression:
    cp, alpha = _cvxpy(), cast("AlphaDivergence", divergence).alpha
    ratio = cp.multiply(1.0 / p, policy)
    power = cp.power(ratio, alpha, approx=False)
    return cp.multiply(p, (power - 1.0 - alpha * (ratio - 1.0)) / (alpha * (alpha - 1.0)))


#: `p f(pi/p)` elementwise as a convex expression, by the class of the divergence.
EXPRESSIONS: dict[type[Divergence], Callable[[Expression, FloatArray, Divergence], Expression]] = {
    KL: _kl,
    ChiSquared: _chi_squared,
    ForwardKL: _forward_kl,
    JensenShannon: _jensen_shannon,
    SquaredHellinger: _squared_hellinger,
    AlphaDivergence: _alpha,
}


def expression(divergence: Divergence, policy: Expression, reference: FloatArray) -> Expression:
    """Return `p f(pi/p)` elementwise as a convex cvxpy expression, for `reference > 0`.

    Raises
    ------
    ValueError
        For a divergence that is neither in `EXPRESSIONS` nor has a `cvxpy_expression`, or whose
        expression is not convex.
    """
    total: Expression = 0.0
    for weight, base in divergence.terms():
        own = getattr(base, "cvxpy_expression", None)
        if own is not None:
            term = own(policy, reference)
        elif type(base) in EXPRESSIONS:
            term = EXPRESSIONS[type(base)](policy, reference, base)
        else:
            raise ValueError(
                f"divergence {base!r} has no convex expression; give its class a method "
                "cvxpy_expression(policy, reference) that returns p f(pi/p) elementwise"
            )
        if not term.is_convex():
            raise ValueError(f"the expression of divergence {base!r} is not convex: {term}")
        total = total + weight * term
    return total


# ---- solving -------------------------------------------------------------------------------------

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


def _run(
    cp: Any,
    program: _Program,
    scale: float,
    offset: float,
    solver: str,
    options: Mapping[str, Any] | None,
) -> SolverRun:
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


def _require_optimal(runs: tuple[SolverRun, ...]) -> None:
    last = runs[-1]
    if last.status != "optimal":
        raise ConvexSolverError(
            f"{last.solver} found no optimum; its status is {last.status}", runs
        )


def _scaled_dual(constraint: Constraint, scale: float) -> Any:
    """Return a constraint's multiplier in reward units (several for a cone)."""
    dual = constraint.dual_value
    if isinstance(dual, list):
        return [scale * np.asarray(part) for part in dual]
    return scale * np.asarray(dual)


def _policy(problem: _Problem, weights: FloatArray) -> FloatArray:
    """Return the policy of the variables; what is below 0 by the solver's tolerance is 0."""
    used = np.flatnonzero(problem.allowed)
    p = problem.reference.reshape(-1)[used]
    policy = np.zeros(problem.reference.size)
    policy[used] = np.where(p > 0, p, 1.0) * np.maximum(weights, 0.0)
    return policy.reshape(problem.reference.shape)


def _attained(problem: _Problem, policy: FloatArray) -> tuple[float, FloatArray]:
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


def _rewards_of_multiplier(problem: _Problem, program: _Program) -> list[FloatArray]:
    """Return rewards of the ellipsoid that the solver's multiplier names, of either sign.

    Where the policy stays at the baseline every reward of the ellipsoid is equally bad for it, and
    only the multiplier knows which one makes it optimal.  The bound holds for any of them.
    """
    if program.direction is None or program.direction.dual_value is None:
        return []
    u = np.asarray(program.direction.dual_value, dtype=np.float64).reshape(-1)
    u = u / max(1.0, float(np.linalg.norm(u)))
    return [problem.reward - problem.factor @ (sign * u) for sign in (1.0, -1.0)]


def _upper_bound(
    cp: Any,
    problem: _Problem,
    program: _Program,
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


def _require_agreement(
    problem: _Problem, runs: tuple[SolverRun, ...], value: float, gap: float, agreement: float
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
