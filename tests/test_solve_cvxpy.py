"""An independent route to the value: a convex program in the policy, by CVXPY and Clarabel.

Only values are compared: an interior-point method is accurate to 1e-8 in the objective and much
less in the policy.  Then `solve_convex`, against computations that use no convex program.
"""

import pickle
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import brentq, minimize, minimize_scalar

from rlhfsim.divergences import (
    DIVERGENCES,
    KL,
    AlphaDivergence,
    ChiSquared,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)
from rlhfsim.solvers import SolverError, solve
from rlhfsim.solvers.convex import ConvexSolverError, solve_convex

cp = pytest.importorskip("cvxpy")

PAIRS = [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (1.0, 0.1), (0.5, 3.0)]


def convex_value(r, p, chi_squared, kl, beta):
    """The objective divided by beta, with the penalties written out."""
    policy = cp.Variable(len(r), nonneg=True)
    penalty = 0.0
    if chi_squared:
        penalty = penalty + chi_squared * 0.5 * cp.sum(cp.square(policy - p) / p)
    if kl:
        penalty = penalty + kl * cp.sum(cp.rel_entr(policy, p))
    objective = (r / beta) @ policy - penalty
    problem = cp.Problem(cp.Maximize(objective), [cp.sum(policy) == 1])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    assert problem.status == cp.OPTIMAL
    return beta * problem.value


@pytest.mark.parametrize(("chi_squared", "kl"), PAIRS)
@pytest.mark.parametrize("seed", range(5))
def test_value_agrees_with_a_convex_program(chi_squared, kl, seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 9))
    r, p = rng.normal(size=size), rng.dirichlet(np.full(size, 2.0))
    beta = [0.1, 0.3, 1.0, 3.0, 10.0][seed]
    terms = [w * d for w, d in ((chi_squared, ChiSquared()), (kl, KL())) if w]
    divergence = terms[0] if len(terms) == 1 else terms[0] + terms[1]
    value = float(solve(r, p, divergence, beta).value)
    assert value == pytest.approx(convex_value(r, p, chi_squared, kl, beta), rel=1e-7, abs=1e-8)
    # The comparison can fail: at twice the regularization the value is another one.
    assert abs(value - float(solve(r, p, divergence, 2 * beta).value)) > 1e-4


# ---- solve_convex: without constraints -----------------------------------------------------------

MORE = (
    *DIVERGENCES,
    ForwardKL(),
    JensenShannon(),
    SquaredHellinger(),
    AlphaDivergence(1.5),
    AlphaDivergence(0.5),
    AlphaDivergence(3.0),
    ChiSquared() + 0.3 * ForwardKL(),
)


def small_problem(rng, size=6, scale=1.0):
    p = rng.dirichlet(np.ones(size))
    p[0] = 1e-6
    return scale * rng.normal(size=size), p / p.sum()


def value_of(reward, reference, divergence, beta):
    """The value of `solve`, certified or not: here it is what is compared with."""
    try:
        return float(solve(reward, reference, divergence, beta).value)
    except SolverError as error:
        return float(error.solution.value)


@pytest.mark.parametrize("divergence", MORE, ids=repr)
def test_values_agree_with_solve_on_every_scale(divergence):
    rng = np.random.default_rng(50)
    for beta in (1e-3, 1.0, 1e3):
        for scale in (1e-3, 1.0, 1e4):
            for offset in (0.0, 1e9):
                r, p = small_problem(rng, scale=scale)
                r = r + offset
                expected = value_of(r, p, divergence, beta)
                found = solve_convex(r, p, divergence, beta, second_solver=None)
                size = max(beta, np.ptp(r))
                assert abs(found.value - expected) <= 1e-7 * size + 4e-16 * offset
                assert abs(found.gap) <= 2e-7 * size
                assert found.feasibility <= 1e-8


@pytest.mark.parametrize("divergence", MORE, ids=repr)
def test_two_solvers_agree(divergence):
    r, p = small_problem(np.random.default_rng(51))
    found = solve_convex(r, p, divergence, 0.5)
    first, second = found.runs
    assert (first.solver, second.solver) == ("CLARABEL", "SCS")
    assert first.status == second.status == "optimal"
    assert first.value == pytest.approx(second.value, abs=1e-5)
    expected = solve(r, p, divergence, 0.5)
    assert found.value == pytest.approx(float(expected.value), abs=1e-8)
    np.testing.assert_allclose(found.policy, expected.policy, atol=1e-4)
    assert found.violation == 0
    assert found.constraint_multipliers == ()
    assert np.array_equal(found.worst_reward, r)


def test_responses_without_reference_mass():
    r, p = np.array([1.0, 0.0, 9.0]), np.array([0.5, 0.5, 0.0])
    found = solve_convex(r, p, KL(), 1.0)
    assert found.policy[2] == 0
    assert found.value == pytest.approx(float(solve(r, p, KL(), 1.0).value), abs=1e-9)
    # A finite recession is a price: here the unsupported response is worth it.
    found = solve_convex(r, p, ForwardKL(), 1.0)
    assert found.policy[2] > 0.1
    assert found.value == pytest.approx(float(solve(r, p, ForwardKL(), 1.0).value), abs=1e-7)


# ---- solve_convex: with constraints --------------------------------------------------------------


def capped(reward, reference, inverse_link, beta, cap):
    """Water-filling: `w = min(inverse_link((r - lambda)/beta), cap)`, lambda by bisection."""

    def policy(multiplier):
        return reference * np.minimum(inverse_link((reward - multiplier) / beta), cap)

    span = np.ptp(reward) + 20 * beta
    root = brentq(
        lambda x: policy(x).sum() - 1, reward.min() - span, reward.max() + span, xtol=1e-14
    )
    return policy(root)


@pytest.mark.parametrize("divergence", [ChiSquared(), KL(), ChiSquared() + KL()], ids=repr)
@pytest.mark.parametrize("cap", [1.05, 1.5, 3.0])
def test_caps_on_ratios_are_water_filling(divergence, cap):
    rng = np.random.default_rng(52)
    for beta in (0.05, 0.5):
        r, p = small_problem(rng, size=8)
        exact = capped(r, p, divergence.inverse_link, beta, cap)
        value = exact @ r - beta * float(divergence.per_prompt(exact, p))
        found = solve_convex(
            r, p, divergence, beta, lambda policy, p=p, cap=cap: [policy <= cap * p]
        )
        assert found.value == pytest.approx(value, abs=1e-8)
        np.testing.assert_allclose(found.policy, exact, atol=1e-5)
        assert found.violation < 1e-8
        assert abs(found.gap) < 1e-7
        # The multiplier of a cap is what is left of the stationarity condition.
        inside = (exact < 0.99 * cap * p) & (exact > 1e-3 * p)
        level = np.mean((r - beta * divergence.link(exact / p))[inside]) if inside.any() else None
        if level is not None:
            slack = r - beta * divergence.link(exact / p) - level
            at_cap = exact >= (1 - 1e-12) * cap * p
            np.testing.assert_allclose(
                found.constraint_multipliers[0][at_cap], slack[at_cap], atol=1e-4
            )


@pytest.mark.parametrize("divergence", [ChiSquared(), KL(), JensenShannon()], ids=repr)
def test_a_budget_is_a_sweep_over_its_price(divergence):
    rng = np.random.default_rng(53)
    r, p = rng.normal(size=7), rng.dirichlet(np.full(7, 5.0))
    cost = rng.uniform(size=7)
    free = solve(r, p, divergence, 0.3).policy @ cost
    budget = 0.5 * (free + cost.min())

    def dual(price):
        return float(solve(r - price * cost, p, divergence, 0.3).value) + price * budget

    sweep = minimize_scalar(dual, bounds=(0, 100), method="bounded", options={"xatol": 1e-9})
    found = solve_convex(r, p, divergence, 0.3, lambda policy: [cost @ policy <= budget])
    assert found.value == pytest.approx(sweep.fun, abs=1e-7)
    assert float(found.constraint_multipliers[0]) == pytest.approx(sweep.x, abs=1e-4)
    assert found.policy @ cost == pytest.approx(budget, abs=1e-7)
    loose = solve_convex(r, p, divergence, 0.3, lambda policy: [cost @ policy <= free + 1])
    assert loose.value == pytest.approx(dual(0.0), abs=1e-7)


def test_prompts_are_coupled_by_one_budget():
    rng = np.random.default_rng(54)
    r, cost = rng.normal(size=(3, 4)), rng.uniform(size=(3, 4))
    p, rho = rng.dirichlet(np.ones(4), 3), np.array([0.2, 0.5, 0.3])
    budget = 0.8 * float(rho @ (solve(r, p, KL(), 0.4).policy * cost).sum(axis=1))

    def dual(price):
        return float(rho @ solve(r - price * cost, p, KL(), 0.4).value) + price * budget

    sweep = minimize_scalar(dual, bounds=(0, 100), method="bounded", options={"xatol": 1e-9})
    weighted = rho[:, None] * cost
    found = solve_convex(
        r,
        p,
        KL(),
        0.4,
        lambda policy: [sum(policy[x] @ weighted[x] for x in range(3)) <= budget],
        prompt_dist=rho,
    )
    assert found.policy.shape == (3, 4)
    assert found.value == pytest.approx(sweep.fun, abs=1e-7)
    exact = solve(r - sweep.x * cost, p, KL(), 0.4).policy
    np.testing.assert_allclose(found.policy, exact, atol=1e-4)
    np.testing.assert_allclose(found.policy.sum(axis=1), 1, atol=1e-8)


def test_equalities_and_cones():
    r, p = np.array([1.0, 0.2, -0.5]), np.array([0.3, 0.3, 0.4])
    equal = solve_convex(r, p, ChiSquared(), 0.5, lambda policy: [policy[0] == policy[1]])
    merged = solve([0.6, -0.5], [0.6, 0.4], ChiSquared(), 0.5)
    assert equal.value == pytest.approx(float(merged.value), abs=1e-8)
    assert abs(equal.gap) < 1e-7
    ball = solve_convex(r, p, ChiSquared(), 0.5, lambda policy: [cp.norm(policy - p) <= 0.1])
    assert np.linalg.norm(ball.policy - p) == pytest.approx(0.1, abs=1e-6)
    assert abs(ball.gap) < 1e-6
    cone = solve_convex(r, p, ChiSquared(), 0.5, lambda policy: [cp.SOC(0.1, policy - p)])
    assert cone.value == pytest.approx(ball.value, abs=1e-7)
    assert np.isnan(cone.gap)


# ---- solve_convex: ellipsoids --------------------------------------------------------------------


@pytest.mark.parametrize("divergence", [ChiSquared(), KL(), SquaredHellinger()], ids=repr)
@pytest.mark.parametrize("with_baseline", [False, True])
def test_worst_case_over_an_ellipsoid_is_the_minimax(divergence, with_baseline):
    rng, radius = np.random.default_rng(55), 0.4
    for k in (1, 2):
        r, p = rng.normal(size=4), rng.dirichlet(np.ones(4))
        factor = rng.normal(size=(4, k))
        nu = rng.dirichlet(np.ones(4)) if with_baseline else np.zeros(4)

        def best_response(u, r=r, p=p, factor=factor, nu=nu):
            return float(solve(r + factor @ u, p, divergence, 0.3).value) - nu @ factor @ u

        inner = minimize(
            best_response,
            np.full(k, -0.1),
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda u: radius**2 - u @ u},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        found = solve_convex(
            r,
            p,
            divergence,
            0.3,
            ellipsoid=(factor, radius),
            baseline=nu if with_baseline else None,
        )
        assert found.value == pytest.approx(inner.fun, abs=1e-6)
        # Its worst reward is in the ellipsoid and worst for its policy.
        shift = np.linalg.lstsq(factor, found.worst_reward - r, rcond=None)[0]
        assert np.linalg.norm(shift) <= radius * (1 + 1e-9)
        loss = (found.policy - nu) @ (found.worst_reward - r)
        for _ in range(200):
            u = rng.normal(size=k)
            u *= radius / np.linalg.norm(u)
            assert (found.policy - nu) @ factor @ u >= loss - 1e-9
    assert solve_convex(r, p, KL(), 0.3, ellipsoid=(factor, 0.0)).value == pytest.approx(
        float(solve(r, p, KL(), 0.3).value), abs=1e-8
    )


@pytest.mark.parametrize("radius", [10.0, 1000.0])
def test_an_ellipsoid_that_rules_nothing_out_leaves_the_baseline(radius):
    """At the baseline all rewards of the ellipsoid are equally bad; one makes it optimal."""
    rng = np.random.default_rng(0)
    p, r = rng.dirichlet(np.ones(5), 2), rng.normal(size=(2, 5))
    factor = rng.normal(size=(2, 5, 8))
    rho = [0.4, 0.6]
    found = solve_convex(r, p, KL(), 0.3, prompt_dist=rho, ellipsoid=(factor, radius), baseline=p)
    np.testing.assert_allclose(found.policy, p, atol=1e-6)
    assert found.value == pytest.approx(rho @ (p * r).sum(axis=1), abs=1e-6)
    again = solve(found.worst_reward, p, KL(), 0.3).policy
    np.testing.assert_allclose(again, p, atol=1e-5)
    # The worst reward lies in the ellipsoid.
    moved = (found.worst_reward - r).reshape(-1)
    direction = np.linalg.lstsq(factor.reshape(10, 8), moved, rcond=None)[0]
    np.testing.assert_allclose(factor.reshape(10, 8) @ direction, moved, atol=1e-6 * radius)
    assert np.linalg.norm(direction) <= radius * (1 + 1e-9)


def test_an_ellipsoid_couples_prompts():
    rng = np.random.default_rng(56)
    r, p, rho = rng.normal(size=(2, 3)), rng.dirichlet(np.ones(3), 2), np.array([0.3, 0.7])
    factor = rng.normal(size=(2, 3, 1))

    def best_response(u):
        return float(rho @ solve(r + factor[..., 0] * u, p, ChiSquared(), 0.4).value)

    inner = minimize_scalar(
        best_response, bounds=(-0.5, 0.5), method="bounded", options={"xatol": 1e-10}
    )
    exact = min(inner.fun, best_response(-0.5), best_response(0.5))
    found = solve_convex(r, p, ChiSquared(), 0.4, prompt_dist=rho, ellipsoid=(factor, 0.5))
    assert found.value == pytest.approx(exact, abs=1e-7)


# ---- solve_convex: what it refuses ---------------------------------------------------------------

R, P = np.array([1.0, 0.0, 0.4]), np.array([0.2, 0.5, 0.3])


def test_infeasible_constraints():
    with pytest.raises(ConvexSolverError, match=r"CLARABEL found no optimum.*infeas") as caught:
        solve_convex(R, P, KL(), 1.0, lambda policy: [policy[0] >= 1.5])
    assert isinstance(caught.value, SolverError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.runs[0].status == caught.value.runs[0].status


def test_a_loose_second_solver_raises_the_alarm():
    loose = {"eps_abs": 0.1, "eps_rel": 0.1}
    with pytest.raises(ConvexSolverError, match="values disagree by") as caught:
        solve_convex(R, P, KL(), 1.0, second_options=loose)
    assert [run.status for run in caught.value.runs] == ["optimal", "optimal"]
    solve_convex(R, P, KL(), 1.0, second_options=loose, agreement=1.0)


def test_a_loose_first_solver_is_found_out_by_the_exact_bound():
    loose = {"tol_gap_abs": 0.3, "tol_gap_rel": 0.3, "tol_feas": 0.1, "tol_ktratio": 0.9}
    with pytest.raises(ConvexSolverError, match="the policy of CLARABEL is not optimal: duality"):
        solve_convex(R, P, KL(), 0.1, options=loose, second_solver=None)
    with pytest.raises(ConvexSolverError, match="not optimal: duality gap"):
        solve_convex(
            R, P, KL(), 0.1, lambda policy: [policy <= 2 * P], options=loose, second_solver=None
        )


def test_a_solver_that_gives_up_is_an_error():
    with pytest.raises(ConvexSolverError, match="SCS found no optimum; its status is"):
        solve_convex(R, P, KL(), 1.0, second_options={"max_iters": 2})
    with pytest.raises(ConvexSolverError, match="NO_SUCH_SOLVER found no optimum"):
        solve_convex(R, P, KL(), 1.0, solver="NO_SUCH_SOLVER")


def test_osqp_serves_quadratic_programs():
    pytest.importorskip("osqp")
    found = solve_convex(R, P, ChiSquared(), 1.0, second_solver="OSQP")
    assert found.runs[1].value == pytest.approx(found.value, abs=1e-6)


@dataclass(frozen=True)
class Own(type(KL())):
    """A divergence of a user: KL under another name."""

    def cvxpy_expression(self, policy, reference):
        return cp.rel_entr(policy, reference) - policy + reference


@dataclass(frozen=True)
class NotConvex(type(KL())):
    def cvxpy_expression(self, policy, reference):
        return cp.sqrt(policy)


@dataclass(frozen=True)
class Bare(type(KL())):
    pass


def test_divergences_of_users():
    own = solve_convex(R, P, 0.5 * Own() + ChiSquared(), 1.0)
    assert own.value == pytest.approx(
        float(solve(R, P, 0.5 * KL() + ChiSquared(), 1.0).value), abs=1e-8
    )
    with pytest.raises(ValueError, match=r"divergence Bare\(\) has no convex expression"):
        solve_convex(R, P, Bare(), 1.0)
    with pytest.raises(ValueError, match=r"the expression of divergence NotConvex\(\) is not conv"):
        solve_convex(R, P, NotConvex(), 1.0)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1.0, np.nan, 0], P, KL(), 1.0), {}, r"reward\[1\] is nan"),
        ((R, [0.5, 0.5, 0.1], KL(), 1.0), {}, "reference sums to"),
        ((R[:2], P, KL(), 1.0), {}, r"both must be \(Y,\) or \(X, Y\)"),
        ((R, P, "kl", 1.0), {}, "divergence is 'kl'"),
        ((R, P, KL(), 0.0), {}, r"beta is 0\.0"),
        (([R, R], [P, P], KL(), 1.0), {}, "prompt_dist is missing; with 2 prompts"),
        (([R, R], [P, P], KL(), 1.0), {"prompt_dist": [1.0, 0.0]}, r"prompt_dist\[1\] is 0\.0"),
        (([R, R], [P, P], KL(), 1.0), {"prompt_dist": [1.0]}, r"prompt_dist has shape \(1,\)"),
        ((R, P, KL(), 1.0), {"ellipsoid": (np.ones((2, 1)), 1.0)}, "ellipsoid factor has shape"),
        ((R, P, KL(), 1.0), {"ellipsoid": (np.ones((3, 1)), -1.0)}, "ellipsoid radius is -1"),
        ((R, P, KL(), 1.0), {"baseline": [0.5, 0.5]}, "baseline has shape"),
        ((R, P, KL(), 1.0), {"agreement": 0.0}, r"agreement is 0\.0"),
        ((R, P, KL(), 1.0, lambda policy: [True]), {}, r"constraints\[0\] is True"),
        ((R, P, KL(), 1.0, lambda policy: [policy**2 >= 0.1]), {}, r"constraints\[0\] is not con"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        solve_convex(*arguments, **options)


def test_without_cvxpy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(ImportError, match=r"rlhfsim\[convex\]"):
        solve_convex(R, P, KL(), 1.0)
