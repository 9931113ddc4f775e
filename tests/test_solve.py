import dataclasses
import itertools
import math
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim.divergences import DIVERGENCES, KL, ChiSquared
from rlhfsim.kernels import launch
from rlhfsim.solvers import SolverError, general, solve
from rlhfsim.solvers.high_precision import solve_high_precision
from rlhfsim.solvers.solution import require_certified, rounding

EPS = np.finfo(float).eps
EACH = pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
MORE = (
    *DIVERGENCES,
    ChiSquared() + 1e-8 * KL(),
    ChiSquared() + 1e8 * KL(),
    3 * KL(),
    0.01 * ChiSquared(),
)
FIELDS = ("policy", "multiplier", "value", "gap", "feasibility", "tolerance")


def weights_of(divergence):
    weights = {base: weight for weight, base in divergence.terms()}
    return weights.get(ChiSquared(), 0.0), weights.get(KL(), 0.0)


def sensitivity(divergence, spread, beta):
    """Relative change of a ratio when rewards of size `spread` are rounded: eps times this."""
    chi_squared, kl = weights_of(divergence)
    smallest = min(w for w in (chi_squared, kl) if w)
    return spread / (beta * smallest)


def assert_agrees(reward, reference, divergence, beta):
    reward, reference = np.asarray(reward, float), np.asarray(reference, float)
    solution = solve(reward, reference, divergence, beta)
    truth = solve_high_precision(reward, reference, divergence, beta, digits=25)
    inside = reference > 0
    spread = float(np.ptp(reward[inside]))
    slack = 1e-13 + 4 * EPS * sensitivity(divergence, spread, beta)
    # Just above the clip of chi-squared, w = 1 + (r - lambda)/(beta c) is a difference of O(1).
    clipped = 4 * EPS * (1 + sensitivity(divergence, spread, beta))
    floors = reference * (clipped if weights_of(divergence)[1] == 0 else 0.0)
    for computed, true, p, floor in zip(
        solution.policy, truth.policy, reference, floors, strict=True
    ):
        if p == 0:
            assert computed == 0
        elif true > 1e-12:
            assert abs(mp.mpf(float(computed)) - true) <= slack * true + floor
        else:
            assert computed <= 2e-12 * (1 + slack)
    size = float(np.abs(reward[inside]).max()) + spread
    total = sum(weights_of(divergence))
    # The policy is rounded to eps, at slope beta f'(w), which is 0 at w = 1 only.
    unit = 4 * EPS * (size + beta * total * (8 * EPS + abs(float(reference.sum()) - 1)))
    assert abs(mp.mpf(float(solution.value)) - truth.value) <= unit
    assert abs(mp.mpf(float(solution.multiplier)) - truth.multiplier) <= 4 * unit + (
        32 * EPS * beta * total
    )
    assert abs(solution.gap) <= solution.tolerance
    assert abs(solution.policy.sum() - 1) <= rounding(len(reward))


# ---- against mpmath ------------------------------------------------------------------------------


def random_reward(rng, size):
    kind = rng.integers(6)
    if kind == 0:
        return rng.integers(0, 3, size).astype(float)
    if kind == 1:
        return 1e9 + 1e-3 * rng.integers(-3, 4, size)
    if kind == 2:
        return 1e9 * rng.normal(size=size)
    return rng.normal(size=size) * 10.0 ** rng.uniform(-6, 6)


def random_reference(rng, size):
    p = rng.dirichlet(np.full(size, rng.choice([0.1, 0.3, 1.0]))) + 1e-290
    if rng.random() < 0.5:
        p[rng.integers(size)] = 10.0 ** -rng.uniform(0, 300)
    if rng.random() < 0.3:
        p[rng.integers(size)] = 0.0
    p = p if p.sum() > 0 else np.ones(size)
    return p / p.sum()


@pytest.mark.parametrize("divergence", MORE, ids=repr)
def test_random_problems_agree_with_mpmath(divergence):
    rng = np.random.default_rng(20)
    for _ in range(60):
        size = int(rng.integers(1, 9))
        reward, reference = random_reward(rng, size), random_reference(rng, size)
        assert_agrees(reward, reference, divergence, 10.0 ** rng.uniform(-6, 6))


CORNERS = {
    "one response": ([3.0], [1.0]),
    "all tied": ([2.0, 2.0, 2.0], [0.2, 0.3, 0.5]),
    "tied at the top": ([2.0, 2.0, 1.0], [0.2, 0.3, 0.5]),
    "best is impossible": ([9.0, 1.0, 0.0], [0.0, 0.5, 0.5]),
    "best is very rare": ([1.0, 0.0, -1.0], [1e-300, 0.5, 0.5]),
    "best is subnormal": ([1.0, 0.0, -1.0], [5e-324, 0.5, 0.5]),
    "worst is very rare": ([1.0, 0.0, -1.0], [0.5, 0.5, 1e-300]),
    "one is possible": ([1.0, 0.0, -1.0], [0.0, 1.0, 0.0]),
    "large offset": ([1e9, 1e9 + 1e-3, 1e9 + 2e-3], [0.2, 0.3, 0.5]),
    "large range": ([1e9, 0.0, -1e9], [0.2, 0.3, 0.5]),
    "row sum above 1": ([1.0, 0.5, 0.0], [0.2, 0.3, 0.5 + 9e-10]),
    "row sum below 1": ([1.0, 0.5, 0.0], [0.2, 0.3, 0.5 - 9e-10]),
    "at a breakpoint": ([1.0, 0.0], [0.5, 0.5]),
    "many decades": ([1e-9, 1e-3, 1e3, 1e9], [0.25, 0.25, 0.25, 0.25]),
}


@pytest.mark.parametrize("beta", [1e-6, 0.01, 0.5, 3.0, 1e6])
@pytest.mark.parametrize("divergence", MORE, ids=repr)
@pytest.mark.parametrize("corner", CORNERS, ids=str)
def test_corners_agree_with_mpmath(corner, divergence, beta):
    assert_agrees(*CORNERS[corner], divergence, beta)


rewards = st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=4, max_size=4)
masses = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-3, 1.0), st.floats(1e-300, 1e-3)), min_size=4, max_size=4
).filter(lambda p: sum(p) > 1e-3)


@EACH
@given(reward=rewards, masses=masses, exponent=st.floats(-6, 6))
def test_hypothesis_problems_agree_with_mpmath(divergence, reward, masses, exponent):
    assert_agrees(reward, np.array(masses) / sum(masses), divergence, 10.0**exponent)


@pytest.mark.parametrize("beta", [1e-300, 1e-100, 1e-8, 1.0, 1e8, 1e100, 1e300])
@pytest.mark.parametrize("divergence", MORE, ids=repr)
@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_extreme_scales_are_certified(divergence, beta, scale):
    for reference in ([0.2, 0.3, 0.5], [1e-290, 0.5, 0.5], [0.5, 0.0, 0.5]):
        solution = solve(np.array([1.0, 0.5, -0.5]) * scale, reference, divergence, beta)
        assert np.isfinite(solution.value)
        if beta / scale > 1e99:
            np.testing.assert_allclose(solution.policy, reference, rtol=1e-14)
        if scale / beta > 1e299:
            np.testing.assert_allclose(solution.policy, [1, 0, 0], atol=1e-8)


def test_rounding_of_the_policy_under_a_heavy_penalty_is_tolerated():
    reward = [6.792971697701426e-09, 2.1758921198165826e-09, 5.736698516120185e-09, -1.76e-08]
    reference = [0.22502896552202376, 0.10901792094733316, 0.1647310379975133, 0.5012220755331299]
    for weight in (1e3, 1e8, 1e12):
        solution = solve(reward, reference, ChiSquared() + weight * KL(), 495043.0178221882)
        np.testing.assert_allclose(solution.policy, reference, rtol=1e-14)


@pytest.mark.parametrize("divergence", MORE, ids=repr)
def test_hundred_thousand_responses(divergence):
    rng = np.random.default_rng(1)
    reward, reference = rng.normal(size=100_000), rng.dirichlet(np.full(100_000, 0.5))
    solution = solve(reward, reference, divergence, 0.4)
    # The unregularized and the reference value enclose the objective.
    assert reference @ reward < solution.value < reward.max()
    np.testing.assert_allclose(
        reference * divergence.inverse_link((reward - solution.multiplier) / 0.4),
        solution.policy,
        atol=1e-12,
    )


def test_high_precision_reproduces_closed_forms():
    with mp.workdps(60):
        truth = solve_high_precision([1.0, 0.0], [0.5, 0.5], KL(), 1.0)
        assert abs(truth.policy[0] - mp.e / (1 + mp.e)) < mp.mpf(10) ** -49
        assert abs(truth.value - mp.log((1 + mp.e) / 2)) < mp.mpf(10) ** -49
        truth = solve_high_precision([1.0, 0.0], [0.5, 0.5], ChiSquared(), 1.0)
        assert (truth.policy, truth.multiplier, truth.value) == ([0.75, 0.25], 0.5, 0.625)
        # w + log w = r - lambda: at w = (2, 1/2, ...) the reward is chosen to fit.
        p, w = [0.25, 0.75], [2.0, 2 / 3]
        truth = solve_high_precision(
            [2 + math.log(2), 2 / 3 + math.log(2 / 3)], p, ChiSquared() + KL(), 1.0
        )
        assert abs(truth.policy[0] - p[0] * w[0]) < 1e-15
        assert abs(truth.multiplier - 1) < 1e-14
    with pytest.raises(ValueError, match="must have shape"):
        solve_high_precision([[1.0]], [[1.0]], KL(), 1.0)
    with pytest.raises(ValueError, match="digits is 5; it must be at least 15"):
        solve_high_precision([1.0], [1.0], KL(), 1.0, digits=5)


@EACH
def test_high_precision_leaves_the_precision_alone_and_solves_its_equations(divergence):
    before = mp.mp.dps
    reward, reference, beta = [1.3, -0.2, 0.9, 0.1], [0.125, 0.5, 0.25, 0.125], 0.75
    truth = solve_high_precision(reward, reference, divergence, beta, digits=60)
    assert mp.mp.dps == before
    chi_squared, kl = weights_of(divergence)
    with mp.workdps(60):
        assert abs(mp.fsum(truth.policy) - 1) < mp.mpf(10) ** -57
        for r, p, pi in zip(reward, reference, truth.policy, strict=True):
            w = pi / p
            log_w = mp.log(w) if w else mp.mpf("-inf") if kl else 0
            slack = beta * (chi_squared * (w - 1) + kl * log_w) - (r - truth.multiplier)
            if w:
                assert abs(slack) < mp.mpf(10) ** -54
            else:
                assert slack >= 0


def test_high_precision_is_independent_of_other_threads():
    problem = [1.3, -0.2, 0.9], [0.25, 0.5, 0.25]
    mixed = ChiSquared() + KL()
    expected = {
        digits: solve_high_precision(*problem, mixed, 0.75, digits=digits) for digits in (20, 200)
    }
    before = mp.mp.prec
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(
            lambda digits: (digits, solve_high_precision(*problem, mixed, 0.75, digits=digits)),
            [20, 200] * 20,
        )
    assert mp.mp.prec == before
    for digits, result in results:
        assert result.policy == expected[digits].policy
        assert (result.multiplier, result.value) == (
            expected[digits].multiplier,
            expected[digits].value,
        )


def test_high_precision_numbers_are_those_of_the_global_context():
    truth = solve_high_precision([1.0, 0.0, 5.0], [0.5, 0.5, 0.0], KL(), 1.0, digits=40)
    for x in (*truth.policy, truth.multiplier, truth.value):
        assert type(x) is mp.mpf
        assert pickle.loads(pickle.dumps(x)) == x
    with mp.workdps(40):
        assert abs(truth.policy[0] + truth.policy[1] - 1) < mp.mpf(10) ** -38
        assert abs(mp.log(truth.policy[0]) - (1 - truth.value) - mp.log(0.5)) < mp.mpf(10) ** -38


# ---- shapes --------------------------------------------------------------------------------------


def assert_identical(left, right, index=()):
    for field in FIELDS:
        assert np.array_equal(getattr(left, field)[index], getattr(right, field)), field


@pytest.mark.parametrize("divergence", MORE, ids=repr)
def test_batch_is_the_loop_bit_for_bit(divergence):
    rng = np.random.default_rng(3)
    for size in (1, 2, 7, 17, 130):
        reward = rng.normal(size=(2, 3, size)) * 10.0 ** rng.uniform(-3, 9, (2, 3, 1))
        reference = rng.dirichlet(np.full(size, 0.5), 3) + 1e-300
        reference /= reference.sum(axis=-1, keepdims=True)
        betas = np.array([1e-6, 0.03, 1.0, 40.0, 1e6])
        batch = solve(reward, reference, divergence, betas[:, None, None])
        assert batch.policy.shape == (5, 2, 3, size)
        assert batch.value.shape == (5, 2, 3)
        for k, beta in enumerate(betas):
            assert_identical(batch, solve(reward, reference, divergence, beta), (k,))
            for i in range(2):
                for x in range(3):
                    one = solve(reward[i, x], reference[x], divergence, beta)
                    assert_identical(batch, one, (k, i, x))


@EACH
def test_memory_layout_and_dtype_do_not_matter(divergence):
    rng = np.random.default_rng(4)
    reward = rng.integers(-5, 6, (4, 6))
    reference = rng.dirichlet(np.ones(6), 4)
    beta = np.array([0.1, 1.0, 2.0, 30.0])
    expected = solve(reward.astype(float), reference, divergence, beta)
    wide = np.zeros((8, 18))
    wide[::2, ::3] = reward
    read_only = reference.copy()
    read_only.setflags(write=False)
    for r, p, b in [
        (reward, reference, beta),
        (reward.astype(np.int8), reference, beta),
        (reward.astype(np.float32), reference, beta),
        (np.asfortranarray(reward), np.asfortranarray(reference), beta),
        (wide[::2, ::3], read_only, np.repeat(beta, 2)[::2]),
        (reward[:, ::-1][:, ::-1], reference[::-1][::-1], beta),
        (reward.tolist(), reference.tolist(), beta.tolist()),
    ]:
        assert_identical(expected, solve(r, p, divergence, b))


@EACH
def test_output_shapes(divergence):
    one = solve([1.0, 0.0], [0.5, 0.5], divergence, 1)
    assert isinstance(one.policy, np.ndarray)
    assert one.policy.shape == (2,)
    assert all(getattr(one, field).shape == () for field in FIELDS[1:])
    two = solve(np.zeros((3, 2)), [0.5, 0.5], divergence, 1.0)
    assert two.policy.shape == (3, 2)
    grid = solve(np.zeros((3, 2)), np.full((3, 2), 0.5), divergence, np.ones(4)[:, None])
    assert grid.policy.shape == (4, 3, 2)
    assert solve([1.0, 0.0], [0.5, 0.5], divergence, np.ones(4)).policy.shape == (4, 2)


@EACH
def test_inputs_are_unchanged(divergence):
    reward, reference, beta = np.array([1.0, 0.0]), np.array([0.25, 0.75]), np.array(0.5)
    solve(reward, reference, divergence, beta)
    assert np.array_equal(reward, [1.0, 0.0])
    assert np.array_equal(reference, [0.25, 0.75])
    assert beta == 0.5


# ---- optimality conditions -----------------------------------------------------------------------


def objective(policy, reward, reference, divergence, beta):
    return (policy * reward).sum(axis=-1) - beta * divergence.per_prompt(policy, reference)


def problems(seed, count, size=6):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield (
            rng,
            rng.normal(size=size),
            rng.dirichlet(np.ones(size)),
            10.0 ** rng.uniform(-1.5, 1.5),
        )


@EACH
def test_value_is_attained_and_nothing_beats_it(divergence):
    for rng, reward, reference, beta in problems(5, 40):
        solution = solve(reward, reference, divergence, beta)
        attained = objective(solution.policy, reward, reference, divergence, beta)
        assert solution.value == pytest.approx(float(attained), rel=1e-13, abs=1e-13)
        others = rng.dirichlet(np.ones(6), 50)
        nearby = solution.policy + 1e-4 * (others - solution.policy)
        for policies in (others, nearby):
            values = objective(policies, reward, reference, divergence, beta)
            assert np.all(values < solution.value)


def test_kl_gap_identity_and_evidence():
    for rng, reward, reference, beta in problems(6, 40):
        solution = solve(reward, reference, KL(), beta)
        log_z = math.log(float(reference @ np.exp(reward / beta)))
        assert solution.value == pytest.approx(beta * log_z, rel=1e-12, abs=1e-12)
        assert solution.multiplier == pytest.approx(beta * log_z, rel=1e-12, abs=1e-12)
        policy = rng.dirichlet(np.ones(6))
        gap = solution.value - objective(policy, reward, reference, KL(), beta)
        expected = beta * KL().per_prompt(policy, solution.policy)
        assert gap == pytest.approx(float(expected), rel=1e-11)


def test_chi_squared_formula_on_the_active_set():
    clipped = 0
    for _, r, p, beta in problems(7, 60):
        policy = solve(r, p, ChiSquared(), beta).policy
        active = policy > 0
        clipped += not active.all()
        mass = p[active].sum()
        mean = (p[active] @ r[active]) / mass
        expected = p[active] * (1 / mass + (r[active] - mean) / beta)
        np.testing.assert_allclose(policy[active], expected, rtol=1e-12)
        # An upper set of r: everything clipped is worse, and has 1 + (r - lambda)/beta <= 0.
        multiplier = mean + beta * (mass - 1) / mass
        assert np.all(r[~active] <= multiplier - beta + 1e-12)
        assert np.all(r[active] > multiplier - beta)
    assert clipped > 10


def test_chi_squared_value_is_affine_in_inverse_beta_between_breakpoints():
    rng = np.random.default_rng(8)
    r, p = np.sort(rng.normal(size=5))[::-1], rng.dirichlet(np.ones(5))
    # The response k leaves at beta_k = sum_{i<k} p_i (r_i - r_k).
    ends = np.array([p[:k] @ (r[:k] - r[k]) for k in range(1, 5)])
    assert np.all(np.diff(ends) > 0)
    inverse = np.concatenate([[0.0], 1 / ends[::-1], [2 / ends[0]]])
    slopes = []
    for left, right in itertools.pairwise(inverse):
        t = left + (right - left) * np.array([0.1, 0.3, 0.6, 0.9])
        policy = solve(r, p, ChiSquared(), 1 / t).policy
        assert len({tuple(row > 0) for row in policy}) == 1
        value = policy @ r
        rises = np.diff(value) / np.diff(t)
        np.testing.assert_allclose(rises, rises[0], rtol=1e-9, atol=1e-12)
        slopes.append(rises[0])
    # Slope sum_S p (r - mean)^2: the variance over everything first, 0 when one response is left.
    assert slopes[0] == pytest.approx(p @ (r - p @ r) ** 2, rel=1e-10)
    assert slopes[-1] == pytest.approx(0, abs=1e-12)
    assert np.all(np.diff(slopes) < 0)


@pytest.mark.parametrize("gamma", [0.05, 1.0, 30.0])
def test_ceilings_and_floors(gamma):
    mixed = ChiSquared() + gamma * KL()
    for _, r, p, beta in problems(9, 60):
        spread = np.ptp(r)
        ratios = {d: solve(r, p, d, beta).policy / p for d in (KL(), ChiSquared(), mixed)}
        assert np.all(ratios[ChiSquared()] <= (1 + spread / beta) * (1 + 1e-13))
        assert np.all(ratios[mixed] <= (1 + spread / beta) * (1 + 1e-13))
        assert np.all(ratios[KL()] <= math.exp(spread / beta) * (1 + 1e-12))
        assert np.all(ratios[KL()] >= math.exp(-spread / beta) * (1 - 1e-12))
        assert np.all(ratios[mixed] >= math.exp(-spread / (beta * gamma)) * (1 - 1e-12))


def test_ceilings_and_floors_are_approached():
    # A rare best response pushes the others' multiplier to its limit, and a rare worst one too.
    spread, beta = 2.0, 0.5
    rare_best = solve([spread, 0.0], [1e-12, 1.0], ChiSquared(), beta).policy[0] / 1e-12
    assert rare_best == pytest.approx(1 + spread / beta, rel=1e-10)
    rare_best = solve([spread, 0.0], [1e-12, 1.0], KL(), beta).policy[0] / 1e-12
    assert rare_best == pytest.approx(math.exp(spread / beta), rel=1e-9)
    rare_worst = solve([spread, 0.0], [1.0, 1e-12], KL(), beta).policy[1] / 1e-12
    assert rare_worst == pytest.approx(math.exp(-spread / beta), rel=1e-9)
    for gamma in (0.1, 1.0):
        mixed = ChiSquared() + gamma * KL()
        floor = math.exp(-spread / (beta * gamma))
        worst = solve([spread, 0.0], [1.0, 1e-12], mixed, beta).policy[1] / 1e-12
        # w + gamma log w = 1 - spread/beta exactly: w = floor e^((1 - w)/gamma).
        assert worst == pytest.approx(floor * math.exp((1 - worst) / gamma), rel=1e-9)


def test_mixed_tends_to_chi_squared_and_to_kl():
    for _, r, p, beta in problems(10, 20):
        chi, kl = solve(r, p, ChiSquared(), beta).policy, solve(r, p, KL(), beta).policy
        to_chi, to_kl = [], []
        for gamma in (1e-2, 1e-4, 1e-6, 1e-8):
            small = solve(r, p, ChiSquared() + gamma * KL(), beta).policy
            large = solve(r, p, ChiSquared() + KL() * (1 / gamma), beta * gamma).policy
            to_chi.append(np.abs(small - chi).max())
            to_kl.append(np.abs(large - kl).max())
        assert to_chi[-1] < 1e-6
        assert to_kl[-1] < 1e-6
        # Both errors are of first order in gamma (up to a logarithm for chi-squared).
        assert to_chi[2] < 0.05 * to_chi[1] or to_chi[1] < 1e-12
        assert to_kl[2] < 0.05 * to_kl[1] or to_kl[1] < 1e-12


def test_offsets_and_scales_do_not_change_the_policy():
    for _, r, p, beta in problems(11, 20):
        r = np.round(r * 2**20) / 2**20
        for divergence in DIVERGENCES:
            solution = solve(r, p, divergence, beta)
            shifted = solve(r + 2.0**30, p, divergence, beta)
            # lambda is rounded to its spacing there, so that scores round in another way.
            slack = 2e-14 + 4 * EPS * sensitivity(divergence, np.ptp(r), beta)
            np.testing.assert_allclose(solution.policy, shifted.policy, rtol=slack, atol=1e-30)
            scaled = solve(4 * r, p, divergence, 4 * beta)
            assert np.array_equal(solution.policy, scaled.policy)
            assert scaled.value == pytest.approx(4 * float(solution.value), rel=1e-15)


def test_small_beta_conditions_on_the_best_responses():
    r, p = [1.0, 1.0, 0.5, 2.0], [0.1, 0.3, 0.6, 0.0]
    for divergence in MORE[:5]:
        policy = solve(r, p, divergence, 1e-6).policy
        np.testing.assert_allclose(policy, [0.25, 0.75, 0, 0], atol=1e-13)


# ---- the certificate -----------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", MORE, ids=repr)
def test_gap_is_tight(divergence):
    for _, reward, reference, beta in problems(12, 40):
        solution = solve(reward, reference, divergence, beta)
        assert abs(solution.gap) <= solution.tolerance
        total = sum(weights_of(divergence))
        assert solution.tolerance < 1e-12 * (np.ptp(reward) + beta * total)


@EACH
def test_corrupted_certificates_are_refused(divergence):
    reward, reference = np.array([[1.0, 0.0]] * 3), np.full((3, 2), 0.5)
    good = solve(reward, reference, divergence, 1.0)
    assert require_certified(good) is good

    def at_one(array, value):
        array = array.copy()
        array[1] = value
        return array

    for field, value in [
        ("gap", 1e-9),
        ("gap", -1e-9),
        ("gap", np.nan),
        ("gap", np.inf),
        ("feasibility", 1e-9),
        ("feasibility", np.nan),
        ("tolerance", np.nan),
    ]:
        bad = dataclasses.replace(good, **{field: at_one(getattr(good, field), value)})
        with pytest.raises(SolverError, match=r"no certified optimum at prompt \[1\]") as caught:
            require_certified(bad)
        assert caught.value.solution is bad
    infinite = dataclasses.replace(
        good, gap=at_one(good.gap, np.inf), tolerance=at_one(good.tolerance, np.inf)
    )
    with pytest.raises(SolverError):
        require_certified(infinite)


def test_certificate_of_a_single_prompt_is_named_without_an_index():
    good = solve([1.0, 0.0], [0.5, 0.5], KL(), 1.0)
    with pytest.raises(SolverError, match=r"no certified optimum: duality gap 1"):
        require_certified(dataclasses.replace(good, gap=np.float64(1.0)))


@EACH
@pytest.mark.parametrize("error", [1e-4, 1e-6])
def test_a_slightly_wrong_root_fails_its_certificate(divergence, error, monkeypatch):
    """The gap is of second order in the error of the policy, and still visible."""
    monkeypatch.setattr(launch, "kernel_for", lambda divergence: None)
    right = general._root_finder(divergence)

    def wrong(d, p, start):
        policy, multiplier = right(d, p, start)
        return (1 - error) * policy + error * p, multiplier

    monkeypatch.setattr(general, "_root_finder", lambda divergence: wrong)
    with pytest.raises(SolverError, match="no certified optimum") as caught:
        solve([1.0, 0.0, 0.3], [0.2, 0.5, 0.3], divergence, 0.05)
    assert 0 < caught.value.solution.gap < 20 * error

    def wrong_multiplier(d, p, start):
        policy, multiplier = right(d, p, start)
        return policy, multiplier + error

    monkeypatch.setattr(general, "_root_finder", lambda divergence: wrong_multiplier)
    with pytest.raises(SolverError, match="no certified optimum"):
        solve([1.0, 0.0, 0.3], [0.2, 0.5, 0.3], divergence, 0.5)


def test_a_wrong_inverse_link_fails_its_certificate():
    """The dual of a combination is evaluated through its inverse link, and still tells."""

    class Sloppy(type(ChiSquared() + KL())):
        def inverse_link(self, score):
            return super().inverse_link(score) * (1 + 1e-6)

    exact_one = ChiSquared() + KL()
    with pytest.raises(SolverError, match="no certified optimum"):
        solve([1.0, 0.0, 0.3], [0.2, 0.5, 0.3], Sloppy(exact_one.terms()), 0.05)


def test_solver_error_survives_pickling():
    good = solve([1.0, 0.0], [0.5, 0.5], KL(), 1.0)
    again = pickle.loads(pickle.dumps(SolverError("why", good)))
    assert str(again) == "why"
    np.testing.assert_array_equal(again.solution.policy, good.policy)


# ---- errors --------------------------------------------------------------------------------------

R, P = [1.0, 0.0], [0.5, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, math.nan], P, KL(), 1), r"reward\[1\] is nan; entries must be finite"),
        (([[1.0, 0.0], [0.0, math.inf]], P, KL(), 1), r"reward\[1, 1\] is inf; entries must be f"),
        (([math.nan, math.nan], P, KL(), 1), r"reward\[0\] is nan.*\(2 such entries\)"),
        ((R, [1.5, -0.5], KL(), 1), r"reference\[1\] is -0\.5; probabilities must not be negative"),
        ((R, [0.5, 0.4], KL(), 1), r"reference sums to 0\.9; rows must sum to 1 within 1e-09"),
        ((R, [[0.5, 0.5], [0.5, 0.6]], KL(), 1), r"reference\[1\] sums to 1\.1; rows must sum to"),
        ((R, [0.5, 0.5 + 2e-9], KL(), 1), r"reference sums to 1\.000000002"),
        ((R, [math.nan, 1.0], KL(), 1), r"reference\[0\] is nan"),
        ((R, P, KL(), 0.0), r"beta is 0\.0; it must be positive and finite"),
        ((R, P, KL(), -1), r"beta is -1\.0; it must be positive and finite"),
        ((R, P, KL(), math.inf), r"beta is inf; entries must be finite"),
        ((R, P, KL(), math.nan), r"beta is nan"),
        ((R, P, KL(), [1.0, 0.0]), r"beta\[1\] is 0\.0"),
        ((R, P, "kl", 1), r"divergence is 'kl'; it must be a Divergence such as KL\(\)"),
        ((R, P, KL, 1), r"divergence is .*; it must be a Divergence"),
        (([], [], KL(), 1), r"reference has shape \(0,\); it must hold at least one response"),
        ((1.0, [1.0], KL(), 1), r"reward has shape \(\) and reference \(1,\)"),
        ((R, [1.0], KL(), 1), r"reward has shape \(2,\) and reference \(1,\); their last axes"),
        (([R] * 3, [P] * 2, KL(), 1), r"shapes do not broadcast: reward \(3,\), reference \(2,\)"),
        (([R] * 3, P, KL(), [1.0, 2.0]), r"shapes do not broadcast: .*beta \(2,\)"),
        ((["a", "b"], P, KL(), 1), "reward is not an array of real numbers"),
        (([[1.0], [1.0, 2.0]], P, KL(), 1), "reward is not an array of real numbers"),
        ((R, P, KL(), "1"), "beta is not an array of real numbers"),
        (([1.5e308, -1.5e308], P, KL(), 1), "reward.* spans more than the largest float"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve(*arguments)


def test_high_precision_names_the_extra_without_mpmath(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpmath", None)
    with pytest.raises(ImportError, match=r"rlhfsim\[certify\]"):
        solve_high_precision([1.0], [1.0], KL(), 1.0)


@pytest.mark.parametrize(
    ("rewards", "rare"), [([0, 1200], 1e-300), ([0, 733], 1e-160), ([0, 900], 1e-200)]
)
@pytest.mark.parametrize("divergence", [KL(), 3 * KL()], ids=repr)
def test_kl_between_a_rare_best_response_and_a_common_one(divergence, rewards, rare):
    """The score nearest 0 is then not that of the response with most mass."""
    weight = divergence.terms()[0][0]
    solution = solve(rewards, [1.0, rare], divergence, 1.0 / weight)
    exact = solve_high_precision(rewards, [1.0, rare], divergence, 1.0 / weight)
    for got, want in zip(solution.policy, exact.policy, strict=True):
        if want > 1e-12:
            assert abs(got - want) <= 1e-13 * want + 4e-16 * max(rewards) * want
