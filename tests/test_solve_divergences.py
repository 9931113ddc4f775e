"""`solve` for divergences other than chi-squared and KL: against mpmath, cvxpy and by hand.

With a finite recession the optimum may put mass where the reference has none; that half is here
too.
"""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim.divergences import (
    ALL_DIVERGENCES,
    DIVERGENCES,
    KL,
    AlphaDivergence,
    ChiSquared,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)
from rlhfsim.solvers import SolverError, general, solve
from rlhfsim.solvers.general_mpmath import general_optimum, total, written_out
from rlhfsim.solvers.high_precision import solve_high_precision
from rlhfsim.solvers.solution import rounding

EPS = np.finfo(float).eps
OTHERS = tuple(d for d in ALL_DIVERGENCES if d not in DIVERGENCES)
MORE = (*OTHERS, AlphaDivergence(7.0), AlphaDivergence(1 - 1e-9), 0.01 * ForwardKL())
FINITE = tuple(d for d in MORE if d.recession < 1e3)
EACH = pytest.mark.parametrize("divergence", MORE, ids=repr)
FIELDS = ("policy", "multiplier", "value", "gap", "feasibility", "tolerance")


def rounding_of_ratios(policy, reference, divergence):
    """How masses move when sum p and the scores are rounded: eps times this."""
    inside = (reference > 0) & (policy > 0)
    with np.errstate(all="ignore"):
        ratio = np.where(inside, policy, 1.0) / np.where(inside, reference, 1.0)
        slopes = np.where(inside, reference / divergence.link_slope(ratio), 0.0)
        slopes = np.where(np.isfinite(slopes), slopes, 0.0)
    share = slopes / slopes.sum() if slopes.sum() > 0 else slopes
    # What is left for responses without reference mass is a difference from 1.
    return np.where(reference > 0, share, 1.0)


def assert_agrees(reward, reference, divergence, beta):
    reward, reference = np.asarray(reward, float), np.asarray(reference, float)
    solution = solve(reward, reference, divergence, beta)
    truth = solve_high_precision(reward, reference, divergence, beta, digits=20)
    matters = (reference > 0) | np.isfinite(divergence.recession)
    spread = float(np.ptp(reward[matters]))
    weight = min(w for w, _ in divergence.terms())
    slack = 1e-13 + 4 * EPS * spread / (beta * weight)
    floors = 8 * EPS * rounding_of_ratios(solution.policy, reference, divergence)
    for computed, true, floor in zip(solution.policy, truth.policy, floors, strict=True):
        assert computed >= 0
        if true > 1e-12:
            assert abs(mp.mpf(float(computed)) - true) <= slack * true + floor
        else:
            assert computed <= 2e-12 * (1 + slack)
    assert np.all(solution.policy[~matters] == 0)
    size = float(np.abs(reward[matters]).max()) + spread
    total_weight = sum(w for w, _ in divergence.terms())
    unit = 4 * EPS * (size + beta * total_weight * (8 * EPS + abs(float(reference.sum()) - 1)))
    assert abs(mp.mpf(float(solution.value)) - truth.value) <= unit
    # f'(inf) may be large; the multiplier is then known relative to it.
    scale = max(total_weight, divergence.recession if divergence.recession < 1e3 else 0.0)
    assert abs(mp.mpf(float(solution.multiplier)) - truth.multiplier) <= 4 * unit + (
        32 * EPS * beta * scale
    )
    assert abs(solution.gap) <= solution.tolerance
    assert abs(solution.policy.sum() - 1) <= rounding(len(reward))


# ---- against mpmath ------------------------------------------------------------------------------


def random_problem(rng):
    size = int(rng.integers(1, 8))
    kind = rng.integers(5)
    reward = rng.normal(size=size) * 10.0 ** rng.uniform(-6, 6)
    if kind == 0:
        reward = rng.integers(0, 3, size).astype(float)
    if kind == 1:
        reward = 1e9 + 1e-3 * rng.integers(-3, 4, size)
    p = rng.dirichlet(np.full(size, rng.choice([0.1, 0.3, 1.0]))) + 1e-290
    if rng.random() < 0.5:
        p[rng.integers(size)] = 10.0 ** -rng.uniform(0, 120)
    if rng.random() < 0.3:
        p[rng.integers(size)] = 0.0
    p = p if p.sum() > 0 else np.ones(size)
    return reward, p / p.sum(), 10.0 ** rng.uniform(-6, 6)


@EACH
def test_random_problems_agree_with_mpmath(divergence):
    rng = np.random.default_rng(20)
    for _ in range(10):
        assert_agrees(*random_problem(rng)[:2], divergence, 10.0 ** rng.uniform(-6, 6))


CORNERS = {
    "one response": ([3.0], [1.0]),
    "all tied": ([2.0, 2.0, 2.0], [0.2, 0.3, 0.5]),
    "best is impossible": ([9.0, 1.0, 0.0], [0.0, 0.5, 0.5]),
    "impossible ones tie": ([2.0, 2.0, 1.0, 0.0], [0.0, 0.0, 0.3, 0.7]),
    "impossible one ties with the best": ([2.0, 2.0, 1.0], [0.0, 0.1, 0.9]),
    "best is very rare": ([1.0, 0.0, -1.0], [1e-300, 0.5, 0.5]),
    "best is subnormal": ([1.0, 0.0, -1.0], [5e-324, 0.5, 0.5]),
    "worst is very rare": ([1.0, 0.0, -1.0], [0.5, 0.5, 1e-300]),
    "one is possible": ([1.0, 0.0, -1.0], [0.0, 1.0, 0.0]),
    "large offset": ([1e9, 1e9 + 1e-3, 1e9 + 2e-3], [0.2, 0.3, 0.5]),
    "large range": ([1e9, 0.0, -1e9], [0.2, 0.3, 0.5]),
    "row sum above 1": ([1.0, 0.5, 0.0], [0.2, 0.3, 0.5 + 9e-10]),
    "row sum below 1": ([1.0, 0.5, 0.0], [0.2, 0.3, 0.5 - 9e-10]),
    "many decades": ([1e-9, 1e-3, 1e3, 1e9], [0.25, 0.25, 0.25, 0.25]),
    "close at the top": ([1.0, 1.0 - 1e-12, 0.0], [1e-30, 1e-10, 1.0 - 1e-10]),
}


@pytest.mark.parametrize("betas", [(1e-6, 0.5), (0.01, 1e6)], ids=str)
@pytest.mark.parametrize("divergence", [d for d in MORE if d != AlphaDivergence(-1.0)], ids=repr)
def test_corners_agree_with_mpmath(divergence, betas):
    for k, (reward, reference) in enumerate(CORNERS.values()):
        # Ratios that grow like those of KL pass the largest float at a subnormal mass.
        if min(reference) != 5e-324 or divergence != AlphaDivergence(1 - 1e-9):
            assert_agrees(reward, reference, divergence, betas[k % 2])


def test_corners_of_negative_alpha():
    """Distances to the recession are squares of the rare masses there, and underflow."""
    for reward, reference in CORNERS.values():
        assert_agrees(reward, reference, AlphaDivergence(-1.0), 0.3)


rewards = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=3, max_size=3)
masses = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-3, 1.0), st.floats(1e-60, 1e-3)), min_size=3, max_size=3
).filter(lambda p: sum(p) > 1e-3)


@given(divergence=st.sampled_from(MORE), reward=rewards, masses=masses, exponent=st.floats(-6, 6))
def test_hypothesis_problems_agree_with_mpmath(divergence, reward, masses, exponent):
    assert_agrees(reward, np.array(masses) / sum(masses), divergence, 10.0**exponent)


@EACH
def test_extreme_scales_are_certified(divergence):
    for beta in (1e-300, 1e-100, 1e-8, 1.0, 1e8, 1e100, 1e300):
        for scale in (1e-300, 1.0, 1e300):
            for reference in ([0.2, 0.3, 0.5], [0.5, 0.5, 1e-290], [0.5, 0.0, 0.5]):
                reward = np.array([1.0, 0.5, -0.5]) * scale
                solution = solve(reward, reference, divergence, beta)
                assert np.isfinite(solution.value)
                if beta / scale > 1e99:
                    np.testing.assert_allclose(solution.policy, reference, rtol=1e-14)
                if scale / beta > 1e299:
                    np.testing.assert_allclose(solution.policy, [1, 0, 0], atol=1e-8)


def test_the_general_route_in_mpmath_agrees_with_the_closed_ones():
    """Two computations in mpmath that share nothing but the numbers."""
    problem = [1.3, -0.2, 0.9, 0.1], [0.125, 0.5, 0.25, 0.125]
    for divergence in DIVERGENCES:
        closed = solve_high_precision(*problem, divergence, 0.75, digits=40)
        with mp.workdps(70):
            terms = [(mp.mpf(0.75) * w, written_out(mp.mp, b)) for w, b in divergence.terms()]
            numbers = [[mp.mpf(x) for x in row] for row in problem]
            multiplier, value, *policy = general_optimum(mp.mp, *numbers, total(terms), 50)
            assert abs(multiplier - closed.multiplier) < mp.mpf(10) ** -38
            assert abs(value - closed.value) < mp.mpf(10) ** -38
            for left, right in zip(policy, closed.policy, strict=True):
                assert abs(left - right) < mp.mpf(10) ** -38


def test_high_precision_refuses_a_foreign_divergence():
    class Foreign(ForwardKL):
        pass

    with pytest.raises(ValueError, match="it must be made of the divergences of rlhfsim"):
        solve_high_precision([1.0, 0.0], [0.5, 0.5], Foreign() + KL(), 1.0)


# ---- properties ----------------------------------------------------------------------------------


def problems(seed, count, size=6):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield (
            rng,
            rng.normal(size=size),
            rng.dirichlet(np.ones(size)),
            10.0 ** rng.uniform(-1.5, 1.5),
        )


def objective(policy, reward, reference, divergence, beta):
    return (policy * reward).sum(axis=-1) - beta * divergence.per_prompt(policy, reference)


@EACH
def test_value_is_attained_and_nothing_beats_it(divergence):
    for rng, reward, reference, beta in problems(5, 20):
        # Half the time without mass on two responses, one of them perhaps the best.
        reference[: 2 * int(rng.integers(2))] = 0.0
        reference = reference / reference.sum()
        solution = solve(reward, reference, divergence, beta)
        attained = objective(solution.policy, reward, reference, divergence, beta)
        scale = beta * max(1, min(divergence.recession, 1e10))
        assert solution.value == pytest.approx(float(attained), rel=1e-13, abs=1e-13 * scale)
        others = rng.dirichlet(np.ones(6), 50)
        nearby = solution.policy + 1e-4 * (others - solution.policy)
        for policies in (others, nearby):
            values = objective(policies, reward, reference, divergence, beta)
            assert np.all(values < solution.value + 1e-14 * scale)


@EACH
def test_stationarity(divergence):
    """`r - beta f'(w)` is lambda wherever there is mass, and below it where there is none."""
    for _, reward, reference, beta in problems(6, 20):
        solution = solve(reward, reference, divergence, beta)
        w = solution.policy / reference
        with np.errstate(all="ignore"):
            price = reward - beta * divergence.link(w)
            noise = EPS * np.nan_to_num(w * divergence.link_slope(w))
        slack = 1e-13 * (1 + beta * (1 + np.abs(divergence.link(np.maximum(w, 1e-300)))))
        slack = slack + 8 * beta * noise
        positive = solution.policy > 0
        assert np.all(np.abs(price - solution.multiplier)[positive] <= slack[positive])
        assert np.all(price[~positive] <= solution.multiplier + slack[~positive])


@EACH
def test_batch_is_the_loop_bit_for_bit(divergence):
    rng = np.random.default_rng(3)
    for size in (1, 2, 17):
        reward = rng.normal(size=(2, 3, size)) * 10.0 ** rng.uniform(-3, 6, (2, 3, 1))
        reference = rng.dirichlet(np.full(size, 0.5), 3) + 1e-300
        reference[2, : size // 2] = 0.0
        reference /= reference.sum(axis=-1, keepdims=True)
        betas = np.array([1e-6, 0.03, 1.0, 1e6])
        batch = solve(reward, reference, divergence, betas[:, None, None])
        for k, beta in enumerate(betas):
            for i in range(2):
                for x in range(3):
                    one = solve(reward[i, x], reference[x], divergence, beta)
                    for field in FIELDS:
                        assert np.array_equal(
                            getattr(batch, field)[k, i, x], getattr(one, field)
                        ), field


@EACH
def test_offsets_and_scales_do_not_change_the_policy(divergence):
    for _, r, p, beta in problems(11, 10):
        r = np.round(r * 2**20) / 2**20
        solution = solve(r, p, divergence, beta)
        assert np.array_equal(solution.policy, solve(r + 2.0**30, p, divergence, beta).policy)
        scaled = solve(4 * r, p, divergence, 4 * beta)
        assert np.array_equal(solution.policy, scaled.policy)
        assert scaled.value == pytest.approx(4 * float(solution.value), rel=1e-15)


def test_a_multiple_is_a_larger_beta():
    for _, r, p, beta in problems(12, 10):
        for base in (ForwardKL(), JensenShannon(), AlphaDivergence(3.0)):
            left, right = solve(r, p, 4 * base, beta), solve(r, p, base, 4 * beta)
            assert np.array_equal(left.policy, right.policy)


# ---- mass outside the support --------------------------------------------------------------------

TWO = {
    # One supported response of reward 0, one unsupported of reward u beta: the mass kept.
    ForwardKL(): lambda u: 1 / u,
    SquaredHellinger(): lambda u: 1 / u**2,
    JensenShannon(): lambda u: math.exp(-2 * u) / -math.expm1(-2 * u),
    AlphaDivergence(-1.0): lambda u: 1 / math.sqrt(2 * u),
    AlphaDivergence(0.3): lambda u: (0.7 * u) ** (-1 / 0.7),
}


@pytest.mark.parametrize("divergence", TWO, ids=repr)
@pytest.mark.parametrize("beta", [1e-3, 1.0, 70.0])
def test_one_supported_response_by_hand(divergence, beta):
    """The reward pays for the recession exactly from `r = beta f'(inf) - beta f'(1)` on."""
    threshold = beta * divergence.recession
    for reward in (threshold * (1 - 1e-9), 0.3 * threshold, 0.0, -5.0):
        policy = solve([0.0, reward], [1.0, 0.0], divergence, beta).policy
        assert np.array_equal(policy, [1.0, 0.0])
    for u in (1.0001, 1.5, 4.0, 30.0, 1e4):
        u = u * divergence.recession
        solution = solve([0.0, u * beta], [1.0, 0.0], divergence, beta)
        kept = TWO[divergence](u)
        assert solution.policy[0] == pytest.approx(kept, rel=1e-13)
        assert solution.policy[1] == pytest.approx(1 - kept, rel=1e-15, abs=1e-15)
        assert solution.multiplier == pytest.approx(beta * (u - divergence.recession), rel=1e-12)
        cost = divergence([kept, 1 - kept], [1.0, 0.0])
        assert solution.value == pytest.approx(
            u * beta * (1 - kept) - beta * float(cost), rel=1e-12
        )


@pytest.mark.parametrize("divergence", FINITE, ids=repr)
def test_unsupported_responses_of_the_largest_reward_share_equally(divergence):
    beta = 0.1 / divergence.recession
    solution = solve([2.0, 0.0, 2.0, 1.0, 1.9], [0.0, 0.5, 0.0, 0.5, 0.0], divergence, beta)
    assert solution.policy[0] == solution.policy[2] > 0
    assert solution.policy[4] == 0
    deficits = np.array([2.0, 1.0]) / beta
    expected = 0.5 * divergence.inverse_tail(deficits)
    np.testing.assert_allclose(solution.policy[[1, 3]], expected, rtol=1e-12)
    assert solution.multiplier == pytest.approx(2 - beta * divergence.recession, rel=1e-14)


def test_a_tie_with_a_supported_best_response_gives_nothing():
    for divergence in FINITE:
        with_tie = solve([1.0, 1.0, 0.0], [0.0, 1e-6, 1 - 1e-6], divergence, 1e-4)
        without = solve([1.0, 0.0], [1e-6, 1 - 1e-6], divergence, 1e-4)
        assert with_tie.policy[0] == 0
        np.testing.assert_array_equal(with_tie.policy[1:], without.policy)


def test_infinite_recession_ignores_rewards_outside_the_support():
    for divergence in (*DIVERGENCES, AlphaDivergence(1.5), ChiSquared() + ForwardKL()):
        assert divergence.recession == np.inf
        reference, beta = np.array([[0.0, 0.5, 0.5]]), np.array([0.3])
        policies = [
            general.solve_rows(np.array([[x, 1.0, 0.0]]), reference, beta, divergence).policy[0]
            for x in (-1e300, 5.0, 1e300)
        ]
        assert policies[0][0] == 0
        assert np.array_equal(policies[0], policies[1])
        assert np.array_equal(policies[0], policies[2])


def test_the_optimum_is_the_limit_of_small_reference_masses():
    """As p -> 0 on the best response, its optimum tends to the one at p = 0."""
    for divergence in (ForwardKL(), SquaredHellinger(), JensenShannon(), AlphaDivergence(0.3)):
        limit = solve([1.0, 0.3, 0.0], [0.0, 0.4, 0.6], divergence, 0.2)
        distances = []
        for tiny in (1e-3, 1e-6, 1e-12, 1e-30, 1e-300):
            near = solve([1.0, 0.3, 0.0], [tiny, 0.4, 0.6 - tiny], divergence, 0.2)
            distances.append(np.abs(near.policy - limit.policy).max())
        assert np.all(np.diff(distances) <= 1e-15)
        assert distances[0] > 1e-8
        assert distances[-1] < 1e-15


def test_values_agree_with_a_convex_program():
    cp = pytest.importorskip("cvxpy")
    rng = np.random.default_rng(1)
    outside = 0
    for k in range(8):
        r, p, beta = rng.normal(size=5), np.zeros(5), [0.3, 1.0][k % 2]
        p[1:4] = rng.dirichlet(np.ones(3) * 2)
        inside, policy = p > 0, cp.Variable(5, nonneg=True)
        pi = policy[np.flatnonzero(inside)]
        free = cp.sum(policy[np.flatnonzero(~inside)])
        q = p[inside]
        # p f(pi/p) summed, and the recession times the mass outside.
        penalties = {
            ForwardKL(): cp.sum(cp.rel_entr(q, pi)) - 1 + cp.sum(pi) + free,
            SquaredHellinger(): cp.sum(pi) + 1 - 2 * np.sqrt(q) @ cp.sqrt(pi) + free,
            JensenShannon(): 0.5
            * (cp.sum(cp.rel_entr(pi, (pi + q) / 2)) + cp.sum(cp.rel_entr(q, (pi + q) / 2)))
            + 0.5 * math.log(2) * free,
        }
        for divergence, penalty in penalties.items():
            problem = cp.Problem(cp.Maximize((r / beta) @ policy - penalty), [cp.sum(policy) == 1])
            problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10)
            solution = solve(r, p, divergence, beta)
            assert float(solution.value) == pytest.approx(beta * problem.value, rel=1e-6, abs=1e-7)
            outside += solution.policy[~inside].sum() > 1e-3
            # The best policy on the support alone is worse whenever mass is placed outside.
            inner = solve(r[inside], q, divergence, beta)
            assert inner.value <= solution.value + 1e-13
    assert 4 < outside < 24


# ---- the certificate -----------------------------------------------------------------------------


@EACH
def test_a_slightly_wrong_root_fails_its_certificate(divergence, monkeypatch):
    problem = [1.0, 0.0, 0.3], [0.2, 0.5, 0.3], divergence, 0.5
    right, leading, error = general._root_finder, general.leading_mass, 1e-5
    target = error * np.array([0.2, 0.5, 0.3])

    def wrong_policy(divergence):
        def find(d, p, start):
            policy, multiplier = right(divergence)(d, p, start)
            return (1 - error) * policy + target, multiplier

        return find

    def wrong_leading(*arguments):
        policy, deficit = leading(*arguments)
        return (1 - error) * policy + target, deficit

    monkeypatch.setattr(general, "_root_finder", wrong_policy)
    monkeypatch.setattr(general, "leading_mass", wrong_leading)
    with pytest.raises(SolverError, match="no certified optimum"):
        solve(*problem)

    def wrong_multiplier(divergence):
        def find(d, p, start):
            policy, multiplier = right(divergence)(d, p, start)
            return policy, multiplier + error

        return find

    def wrong_deficit(*arguments):
        policy, deficit = leading(*arguments)
        return policy, deficit * (1 + error)

    monkeypatch.setattr(general, "_root_finder", wrong_multiplier)
    monkeypatch.setattr(general, "leading_mass", wrong_deficit)
    with pytest.raises(SolverError, match="no certified optimum"):
        solve(*problem)


def test_mass_that_should_leave_the_support_shows_in_the_gap(monkeypatch):
    """A solver that forgot responses without reference mass would not be certified."""
    monkeypatch.setattr(general, "_best_is_outside", lambda r, p, b, f: np.zeros(len(r), bool))
    for divergence in (ForwardKL(), SquaredHellinger(), JensenShannon()):
        for beta in (0.01, 0.9, 2.0):
            with pytest.raises(SolverError, match="no certified optimum"):
                solve([3.0, 0.0, 0.3], [0.0, 0.5, 0.5], divergence, beta)


@pytest.mark.parametrize("divergence", [ForwardKL(), AlphaDivergence(-1.0)], ids=repr)
def test_masses_that_underflow_stay_positive_where_zero_would_cost_infinity(divergence):
    solution = solve([1.0, 0.0, -1.0], [0.5, 0.5, 1e-300], divergence, 1e-40)
    assert solution.policy[2] > 0
    assert np.isfinite(solution.value)
    value = solution.policy @ np.array([1.0, 0.0, -1.0])
    value = value - 1e-40 * divergence(solution.policy, [0.5, 0.5, 1e-300])
    assert solution.value == pytest.approx(float(value), rel=1e-15)


def test_the_range_of_rewards_counts_all_responses_where_they_matter():
    reward, reference = [1.5e308, -1.5e308], [0.0, 1.0]
    assert np.array_equal(solve(reward, reference, KL(), 1.0).policy, [0.0, 1.0])
    with pytest.raises(ValueError, match="reward of prompt 0 spans more than the largest float"):
        solve(reward, reference, ForwardKL(), 1.0)
