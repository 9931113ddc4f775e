"""The compiled kernels against the general route, against mpmath, and against themselves."""

import contextlib
import dataclasses
import multiprocessing
import os
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import mpmath as mp
import numpy as np
import pytest

from rlhfsim import KL, ChiSquared, solve, threads
from rlhfsim.kernels import active_set, blocks, gibbs, launch, mixed, rows, single
from rlhfsim.solvers import SolverError, exact
from rlhfsim.solvers.high_precision import solve_high_precision

GENERALLY = exact._generally
EPS = float(np.finfo(float).eps)
FIELDS = ("policy", "multiplier", "value", "gap", "feasibility", "tolerance")
GAMMAS = (1e-8, 1e-4, 0.05, 1.0, 20.0, 1e4, 1e8)
THREE = (KL(), ChiSquared(), ChiSquared() + 0.3 * KL())
ALL = (
    KL(),
    3 * KL(),
    ChiSquared(),
    0.01 * ChiSquared(),
    *(ChiSquared() + g * KL() for g in GAMMAS),
)
MIXED = ChiSquared() + KL()
EACH = pytest.mark.parametrize("divergence", THREE, ids=repr)
EVERY = pytest.mark.parametrize("divergence", ALL, ids=repr)
SIZES = (1, 2, 3, 7, 8, 9, 127, 128, 129, 511, 512, 513, 1023, 1024, 1025, 2049, 5000, 8193)


@pytest.fixture
def only_kernels(monkeypatch):
    """No row may be handed back."""

    def handed_back(*arguments):
        raise AssertionError(f"{len(arguments[-1])} rows were handed back")

    monkeypatch.setattr(exact, "_generally", handed_back)


@contextlib.contextmanager
def general_route():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "kernel_for", lambda divergence: None)
        patch.setattr(exact, "_generally", GENERALLY)
        yield


def by_general_route(*problem):
    with general_route():
        return solve(*problem)


def status_of(reward, reference, divergence, beta):
    reward = np.ascontiguousarray(reward, dtype=float)
    out = np.empty_like(reward)
    kernel = launch.kernel_for(divergence)
    return launch.solve_rows(kernel, reward, reference, np.array(beta), (), out)[0][
        0, blocks.STATUS
    ]


def weights_of(divergence):
    weights = {base: weight for weight, base in divergence.terms()}
    return weights.get(ChiSquared(), 0.0), weights.get(KL(), 0.0)


class Bounds:
    """What rounding explains: rewards rounded to eps move every score by eps spread/beta."""

    def __init__(self, reward, reference, divergence, beta):
        chi_squared, kl = weights_of(divergence)
        inside = reward[reference > 0]
        spread = float(np.ptp(inside))
        moved = 8 * EPS * spread / (beta * min(w for w in (chi_squared, kl) if w))
        self.relative = 1e-13 + moved
        # Just above the clip of chi-squared, w = 1 + (r - lambda)/beta is a difference of O(1).
        self.floor = reference * ((8 * EPS + moved) if kl == 0 else 0.0) + 1e-100
        # Sums of n terms lose a little more than their terms.
        terms = 1 + np.log2(reward.size) / 4
        total = beta * (chi_squared + kl)
        size = float(np.abs(inside).max()) + spread
        slack = 8 * EPS + abs(float(reference.sum()) - 1)
        self.value = 8 * EPS * terms * (size + total * slack)
        self.multiplier = 4 * self.value + 64 * EPS * terms * total


def assert_same(one, other, reward, reference, divergence, beta):
    bounds = Bounds(reward, reference, divergence, beta)
    assert np.all(one.policy[reference == 0] == 0)
    error = np.abs(one.policy - other.policy)
    assert np.all(error <= bounds.relative * other.policy + bounds.floor)
    assert abs(one.value - other.value) <= bounds.value
    assert abs(one.multiplier - other.multiplier) <= bounds.multiplier
    for solution in (one, other):
        assert abs(solution.gap) <= solution.tolerance
        assert solution.feasibility <= blocks.rounding.py_func(reward.size, EPS)
        assert solution.feasibility == pytest.approx(abs(solution.policy.sum() - 1), abs=1e-15)


def assert_true(solution, reward, reference, divergence, beta, digits=25):
    """Every field agrees with mpmath."""
    truth = solve_high_precision(reward, reference, divergence, beta, digits=digits)
    bounds = Bounds(reward, reference, divergence, beta)
    for computed, true, floor in zip(solution.policy, truth.policy, bounds.floor, strict=True):
        assert abs(mp.mpf(float(computed)) - true) <= bounds.relative * true + floor
    assert abs(mp.mpf(float(solution.value)) - truth.value) <= bounds.value
    assert abs(mp.mpf(float(solution.multiplier)) - truth.multiplier) <= bounds.multiplier
    assert abs(solution.gap) <= solution.tolerance


def assert_identical(left, right, index=()):
    for field in FIELDS:
        assert np.array_equal(getattr(left, field)[index], getattr(right, field)), field


# ---- hard problems -------------------------------------------------------------------------------

REWARDS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "few values": lambda rng, n: rng.integers(0, 3, n).astype(float),
    "all equal": lambda rng, n: np.full(n, -3.3),
    "large offset": lambda rng, n: 1e9 + 1e-3 * rng.integers(-3, 4, n),
    "large": lambda rng, n: 1e9 * rng.normal(size=n),
    "rising": lambda rng, n: np.sort(rng.normal(size=n)),
    "falling": lambda rng, n: -np.sort(rng.normal(size=n)),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n),
    "two clusters": lambda rng, n: rng.normal(size=n) + 300.0 * (rng.random(n) < 0.5),
    "a worse half": lambda rng, n: rng.normal(size=n) - 2000.0 * (np.arange(n) < n // 2),
    "any scale": lambda rng, n: rng.normal(size=n) * 10.0 ** rng.uniform(-6, 6),
}


def flat_or_spiky(rng, n, reward):
    return rng.dirichlet(np.full(n, rng.choice([0.05, 0.3, 1.0, 10.0]))) + 1e-290


def some_zeros(rng, n, reward):
    p = rng.dirichlet(np.ones(n)) * (rng.random(n) < 0.7)
    return p if p.any() else np.ones(n)


def a_block_of_zeros(rng, n, reward):
    p, n_blocks = rng.dirichlet(np.ones(n)), -(-n // blocks.BLOCK)
    k = rng.choice([0, n_blocks - 1, rng.integers(n_blocks)])
    if n_blocks > 1:
        p[k * blocks.BLOCK : (k + 1) * blocks.BLOCK] = 0.0
    return p


def a_rare_best(rng, n, reward):
    p = rng.dirichlet(np.ones(n))
    p[np.argmax(reward)] = 10.0 ** -rng.uniform(0, 300)
    return p if n > 1 else np.ones(1)


def subnormal_masses(rng, n, reward):
    p = rng.dirichlet(np.ones(n))
    p[rng.random(n) < 0.2] = 5e-324 * rng.integers(1, 100)
    return p if p.max() > 1e-10 else np.ones(n)


def many_decades(rng, n, reward):
    return np.exp(-700.0 * rng.random(n) * rng.random(n))


REFERENCES = (
    flat_or_spiky, some_zeros, a_block_of_zeros, a_rare_best, subnormal_masses, many_decades,
)  # fmt: skip


def hard_problem(rng, size):
    reward = REWARDS[rng.choice(list(REWARDS))](rng, size)
    reference = REFERENCES[rng.integers(len(REFERENCES))](rng, size, reward)
    reference = reference / reference.sum()
    spread = float(np.ptp(reward[reference > 0]))
    if rng.random() < 0.2:
        reward = np.where(reference > 0, reward, rng.choice([-1.7e308, 1.7e308]))
    if rng.random() < 0.2:
        reference = reference * (1 + rng.choice([-9e-10, 9e-10]))
    beta = 10.0 ** rng.uniform(-6, 6)
    if rng.random() < 0.5 and spread > 0:
        beta = spread * 10.0 ** rng.uniform(-3, 2)
    return reward, reference, beta


@EVERY
def test_hard_problems_agree_with_the_general_route(divergence):
    rng = np.random.default_rng(30)
    by_kernel = 0
    for size in (*SIZES * 2, 20_000):
        reward, reference, beta = hard_problem(rng, size)
        by_kernel += status_of(reward, reference, divergence, beta) == blocks.DONE
        one = solve(reward, reference, divergence, beta)
        other = by_general_route(reward, reference, divergence, beta)
        assert_same(one, other, reward, reference, divergence, beta)
    assert by_kernel >= 24


@EVERY
def test_hard_problems_agree_with_mpmath(divergence):
    rng = np.random.default_rng(31)
    for size in (1, 2, 3, 7, 8, 9, 1, 2, 3, 9, 33, 129):
        reward, reference, beta = hard_problem(rng, size)
        solution = solve(reward, reference, divergence, beta)
        assert_true(solution, reward, reference, divergence, beta)


@EACH
@pytest.mark.parametrize("size", [1025, 2049])
def test_rows_of_several_blocks_agree_with_mpmath(divergence, size):
    rng = np.random.default_rng(32)
    reward, reference = rng.normal(size=size), some_zeros(rng, size, None)
    reference /= reference.sum()
    solution = solve(reward, reference, divergence, 0.1)
    assert_true(solution, reward, reference, divergence, 0.1, digits=16)


# ---- which rows the kernels do -------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("beta", [1e-3, 0.1, 1.0, 1e3])
@pytest.mark.usefixtures("only_kernels")
def test_ordinary_problems_are_never_handed_back(divergence, beta):
    rng = np.random.default_rng(33)
    for n_rows, size in ((40, 1), (40, 4), (20, 50), (4, 300), (2, 3000), (1, 9000)):
        reward = rng.normal(size=(n_rows, size))
        reference = rng.dirichlet(np.ones(size), n_rows)
        rare = reference.copy()
        rare[:, : size // 2] = 0.0
        rare /= rare.sum(axis=-1, keepdims=True)
        for r, p in (
            (reward, reference),
            (reward + 1e6, reference),
            (np.sort(reward)[:, ::-1], reference),
            (np.round(reward), np.full(size, 1 / size)),
            (reward, rare),
        ):
            solution = solve(r, p, divergence, beta)
            assert np.all(np.abs(solution.gap) <= solution.tolerance)


EXTREME = {
    "large range": ([1e307, -1e307], [0.5, 0.5], 1.0),
    "large reward": ([1.7e308, 1.6e308], [0.5, 0.5], 1.0),
    "small beta": ([1.0, 0.0], [0.5, 0.5], 1e-300),
    "large beta": ([1.0, 0.0], [0.5, 0.5], 1e300),
}


@EACH
@pytest.mark.parametrize("name", EXTREME)
def test_the_ends_of_the_floats_are_handed_back_and_solved(divergence, name):
    reward, reference, beta = EXTREME[name]
    reward, reference = np.array(reward), np.array(reference)
    assert status_of(reward, reference, divergence, beta) == blocks.GENERAL
    both = solve(np.stack([reward, [1.0, 0.5]]), reference, divergence, np.array([beta, 1.0]))
    assert_identical(both, by_general_route(reward, reference, divergence, beta), (0,))
    # The other row is the kernel's.
    assert_identical(both, solve([1.0, 0.5], reference, divergence, 1.0), (1,))


@pytest.mark.parametrize("gamma", [1e-13, 1e13])
def test_a_weight_beyond_the_kernels_is_handed_back_checked(gamma):
    divergence = ChiSquared() + gamma * KL()
    reward, reference = np.array([1.0, 0.0]), np.array([0.25, 0.75])
    assert status_of(reward, reference, divergence, 1.0) == blocks.GENERAL
    assert_true(solve(reward, reference, divergence, 1.0), reward, reference, divergence, 1.0)
    for bad_reward, bad_reference, message in [
        ([1.0, np.nan], reference, r"reward\[1\] is nan"),
        (reward, [1.5, -0.5], r"reference\[1\] is -0\.5"),
        (reward, [0.5, 0.4], r"reference sums to 0\.9"),
    ]:
        with pytest.raises(ValueError, match=message):
            solve(np.array(bad_reward), np.array(bad_reference), divergence, 1.0)


def test_rewards_of_impossible_responses_need_not_be_reasonable():
    """KL looks at the support alone; the others may hand such a row back."""
    reward, reference = np.array([1.7e308, 1.0, 0.0, -1.7e308]), np.array([0, 0.5, 0.5, 0])
    assert status_of(reward, reference, KL(), 1.0) == blocks.DONE
    for divergence in THREE:
        one = solve(reward, reference, divergence, 1.0)
        two = solve(reward[1:3], reference[1:3], divergence, 1.0)
        np.testing.assert_allclose(one.policy[1:3], two.policy, rtol=4e-16)
        assert list(one.policy[[0, 3]]) == [0, 0]


# ---- one nextafter either side of every switch ---------------------------------------------------


def around(x):
    return np.nextafter(x, -np.inf), x, np.nextafter(x, np.inf)


@pytest.mark.parametrize("reach", [gibbs._NEAR, 0.346, gibbs._FAR, 1020 / 1.4427, 745.0])
@pytest.mark.parametrize("beta", [1.0, 0.3, 1e-5])
@pytest.mark.usefixtures("only_kernels")
def test_kl_at_its_switches(reach, beta):
    reference = np.array([0.2, 0.5, 0.3])
    for x in around(reach * beta):
        reward = np.array([0.0, -x / 3, -x])
        solution = solve(reward, reference, KL(), beta)
        assert_true(solution, reward, reference, KL(), beta)


@pytest.mark.usefixtures("only_kernels")
def test_kl_takes_the_expansion_on_one_side_of_its_switch_only(monkeypatch):
    """Both formulas are right on both sides, so what is tested above is that they meet."""
    passes = []
    for reach in (np.nextafter(gibbs._NEAR, 0), gibbs._NEAR):
        state, _, _ = by_hand(KL(), [0.0, -reach], [0.5, 0.5], 1.0)
        passes.append(state["passes"])
    assert passes == [[1, 3, 2], [1, 2]]


@pytest.mark.usefixtures("only_kernels")
def test_kl_of_blocks_far_apart():
    """Blocks have tops of their own, and factors that underflow."""
    size = 3 * blocks.BLOCK + 5
    rng = np.random.default_rng(34)
    reward, reference = rng.normal(size=size), rng.dirichlet(np.ones(size))
    for gap in (*around(690.0), *around(745.2), 1e4):
        reward[blocks.BLOCK : 2 * blocks.BLOCK] -= gap
        assert_same(
            solve(reward, reference, KL(), 1.0),
            by_general_route(reward, reference, KL(), 1.0),
            reward, reference, KL(), 1.0,
        )  # fmt: skip
        reward[blocks.BLOCK : 2 * blocks.BLOCK] += gap


@pytest.mark.usefixtures("only_kernels")
def test_chi_squared_where_a_response_enters_or_leaves():
    """At beta = p_0 (r_0 - r_1) the second of two responses is at the threshold exactly."""
    reference = np.array([0.25, 0.5, 0.25])
    reward = np.array([1.0, 0.0, -1.0])
    for beta in (*around(0.25), *around(1.0)):
        solution = solve(reward, reference, ChiSquared(), beta)
        assert_true(solution, reward, reference, ChiSquared(), beta)
    assert list(solve(reward, reference, ChiSquared(), 0.25).policy) == [1, 0, 0]
    assert list(solve(reward, reference, ChiSquared(), 1.0).policy) == [0.5, 0.5, 0]
    assert solve(reward, reference, ChiSquared(), np.nextafter(1.0, 2)).policy[2] >= 0
    for x in around(-0.5):
        pair = np.array([1.0, x]), np.array([0.5, 0.5])
        # w_1 = 1 - (r_0 - r_1)/(2 beta), 0 at beta = 3/4.
        for beta in around(0.75):
            assert_true(solve(*pair, ChiSquared(), beta), *pair, ChiSquared(), beta)


@pytest.mark.parametrize("size", [4095, 4096, 4097])
@pytest.mark.usefixtures("only_kernels")
def test_chi_squared_around_the_size_from_which_it_steps_once_more(size):
    rng = np.random.default_rng(35)
    for reward in (rng.normal(size=size), np.round(rng.normal(size=size)), np.arange(size) / 8):
        reference = rng.dirichlet(np.ones(size))
        for beta in (0.01, 1.0, 500.0):
            one = solve(reward, reference, ChiSquared(), beta)
            other = by_general_route(reward, reference, ChiSquared(), beta)
            assert_same(one, other, reward, reference, ChiSquared(), beta)


@pytest.mark.parametrize("n_responses", [5001, 20_001])
@pytest.mark.usefixtures("only_kernels")
def test_a_sample_that_misses_what_matters(n_responses):
    """The best response, common or rare, where no piece of the sample lies."""
    rng = np.random.default_rng(36)
    for mass in (0.5, 1e-3, 1e-9, 1e-300):
        for best in (1.0, 1e3, 1e9):
            reward, reference = np.zeros(n_responses), np.full(n_responses, 1.0 / n_responses)
            place = n_responses // 2 - n_responses // 32 + 7
            reward[:] = rng.normal(size=n_responses)
            reward[place], reference[place] = best, 0.0
            reference *= (1 - mass) / reference.sum()
            reference[place] = mass
            # KL weighs every response; with all weight on one of 1e-300 it would hand back.
            for divergence in THREE if mass > 1e-100 else THREE[1:]:
                one = solve(reward, reference, divergence, 1.0)
                other = by_general_route(reward, reference, divergence, 1.0)
                assert_same(one, other, reward, reference, divergence, 1.0)


@pytest.mark.parametrize("gamma", [0.02, 1.0, 50.0])
@pytest.mark.usefixtures("only_kernels")
def test_mixed_either_side_of_the_switches_of_omega(gamma):
    """One response has its z next to a switch, the others are chosen to make lambda 0."""
    divergence, reference = ChiSquared() + gamma * KL(), np.array([0.5, 0.25, 0.25])
    low, none = mixed._LOW_LOG - np.log(gamma), mixed._NO_LOG - np.log(gamma)
    switches = (*around(single.NEAR), -80.0, -600.0, *around(low), *around(none))
    # w = gamma omega(18) leaves something to the others only where gamma is small.
    for z in (*switches, *around(single.FAR), 30.0) if gamma < 0.1 else switches:
        # lambda = 0 at s with E_p w = 1: w_0 closes the gap that the others leave.
        score = gamma * (z + np.log(gamma)) - 1
        ratio = solve_ratio(score, gamma)
        other = 0.75
        first = (1 - 0.25 * ratio - 0.25 * other) / 0.5
        reward = np.array([link(first, gamma), link(other, gamma), score])
        solution = solve(reward, reference, divergence, 1.0)
        assert_true(solution, reward, reference, divergence, 1.0)
        assert abs(solution.multiplier) < 1e-12 * (1 + gamma)


def link(w, gamma):
    return w - 1 + gamma * np.log(w)


def solve_ratio(score, gamma):
    with mp.workdps(30):
        return float(gamma * mp.lambertw(mp.exp((1 + mp.mpf(score)) / gamma) / gamma).real)


@pytest.mark.parametrize("exponent", [-279.0, -280.0, -281.0, -306.0, -308.0, -315.0, -330.0])
@pytest.mark.usefixtures("only_kernels")
def test_mixed_with_ratios_about_to_underflow(exponent):
    spread = -exponent * np.log(10) + 1
    reference = np.array([0.5, 0.25, 0.25])
    for x in around(spread):
        reward = np.array([0.0, -0.1, -x])
        solution = solve(reward, reference, ChiSquared() + KL(), 1.0)
        assert_true(solution, reward, reference, ChiSquared() + KL(), 1.0)


@pytest.mark.parametrize("worst", [1e4, 1e38, 1e39, 1e110, 1e200])
@pytest.mark.usefixtures("only_kernels")
def test_mixed_with_scores_far_below_any_ratio(worst):
    """Beyond singles, and where powers of such a score leave the doubles."""
    reward, reference = np.array([0.0, -0.1, -worst]), np.array([0.5, 0.25, 0.25])
    # Of the mean reward the others would be too far above.
    solution = solve(reward, reference, MIXED, 1.0, start=0.0)
    assert_true(solution, reward, reference, MIXED, 1.0)
    assert solution.policy[2] == 0.0


@pytest.mark.parametrize("guess", [1e3, 1e9, -1e3, -1e9])
@pytest.mark.usefixtures("only_kernels")
def test_mixed_finds_back_from_where_every_ratio_is_zero_or_huge(guess):
    """Above, all derivatives underflow, and Jensen's bound alone says where to go."""
    rng = np.random.default_rng(67)
    reward, reference = rng.normal(size=40), rng.dirichlet(np.ones(40))
    warm = solve(reward, reference, MIXED, 0.5, start=guess)
    assert_same(warm, solve(reward, reference, MIXED, 0.5), reward, reference, MIXED, 0.5)


@pytest.mark.parametrize("switch", [mixed._ENDS, mixed._BEGINS], ids=["ends", "begins"])
@pytest.mark.parametrize("gamma", [0.1, 1.0, 10.0])
@pytest.mark.usefixtures("only_kernels")
def test_mixed_for_every_first_move_of_the_multiplier(switch, gamma):
    """The sample of 128 of 1000 responses is off by about `switch`, on either side of it."""
    rng = np.random.default_rng(37)
    divergence = ChiSquared() + gamma * KL()
    for factor in (0.03, 0.3, 0.9, 1.0, 1.1, 3.0, 30.0):
        reward, reference = np.zeros(1000), rng.dirichlet(np.ones(1000))
        reward[500 + np.arange(8)] = switch * factor * gamma / reference[500:508].sum()
        reward += 1e-3 * rng.normal(size=1000)
        one = solve(reward, reference, divergence, 1.0)
        other = by_general_route(reward, reference, divergence, 1.0)
        assert_same(one, other, reward, reference, divergence, 1.0)


@pytest.mark.parametrize("gamma", [0.001, 1.0, 1000.0])
@pytest.mark.usefixtures("only_kernels")
def test_mixed_either_side_of_the_switch_between_certificates(gamma):
    """The last pass is another where the rewards reach no further than `_NEAR (1 + gamma)`."""
    rng = np.random.default_rng(65)
    divergence, taken = ChiSquared() + gamma * KL(), set()
    for reach in (*around(mixed._NEAR * (1 + gamma)), 0.1 * gamma, 3.0 * (1 + gamma)):
        reward, reference = rng.uniform(0, reach, 300), rng.dirichlet(np.ones(300))
        reward[:2] = 0.0, reach
        state, _, _ = by_hand(divergence, reward, reference, 1.0)
        taken.add(state["passes"][-1])
        one = solve(reward, reference, divergence, 1.0)
        other = by_general_route(reward, reference, divergence, 1.0)
        assert_same(one, other, reward, reference, divergence, 1.0)
    assert taken == {mixed._MOVE, mixed._EXPAND}


@pytest.mark.parametrize("gamma", [1e-4, 1e-3, 1e-2])
@pytest.mark.usefixtures("only_kernels")
def test_mixed_does_not_look_in_singles_for_what_they_cannot_resolve(gamma):
    """Where gamma is small, so is a step that counts: the guess passes have to know an end."""
    rng = np.random.default_rng(66)
    divergence = ChiSquared() + gamma * KL()
    for beta in (1e-3, 1e-2, 0.1):
        reward, reference = rng.standard_cauchy(1025), rng.dirichlet(np.ones(1025))
        state, _, _ = by_hand(divergence, reward, reference, beta)
        assert state["status"] == blocks.DONE
        assert len(state["passes"]) < 16
        one = solve(reward, reference, divergence, beta)
        other = by_general_route(reward, reference, divergence, beta)
        assert_same(one, other, reward, reference, divergence, beta)


# ---- the certificate -----------------------------------------------------------------------------


def by_hand(divergence, reward, reference, beta, tamper=None):
    """Run the passes one by one; `tamper(work, state, sums, policy)` comes before each."""
    kind, weights = launch.kernel_for(divergence)
    r, p = np.array(reward, dtype=float), np.array(reference, dtype=float)
    n_blocks = -(-r.size // blocks.BLOCK)
    state, sums = np.zeros(blocks.STATE), np.zeros((n_blocks, blocks.WIDTH))
    policy, fields, sample = np.empty_like(r), np.zeros(blocks.FIELDS), np.empty(3 * blocks.SAMPLE)
    work = rows.start(kind, r, p, beta, weights, np.nan, state, sample)
    passes = []
    while work > 0:
        passes.append(work)
        if tamper is not None:
            tamper(work, state, sums, policy)
        rows.run(kind, work, r, p, policy, state, sums, 0, n_blocks, sample)
        work = rows.decide(kind, work, r.size, state, sums, n_blocks, EPS, fields)
    return {"status": work, "passes": passes, "policy": policy}, sums, fields


@EACH
def test_passes_by_hand_are_what_solve_does(divergence):
    rng = np.random.default_rng(38)
    reward, reference = rng.normal(size=1500), rng.dirichlet(np.ones(1500))
    state, _, fields = by_hand(divergence, reward, reference, 0.2)
    solution = solve(reward, reference, divergence, 0.2)
    assert state["status"] == blocks.DONE
    assert np.array_equal(state["policy"], solution.policy)
    assert list(fields[:5]) == [getattr(solution, f) for f in FIELDS[1:]]


def scaled(factor):
    return lambda array: array.__imul__(factor)


def added(entry, change):
    def spoil(array):
        array[entry] += change

    return spoil


#: Divergence, pass before which to tamper, with what, and how.
TAMPERED = {
    "KL, factors": (KL(), gibbs._SCALE, "sums", scaled(1 + 1e-12)),
    "KL, weights": (KL(), gibbs._SCALE, "policy", scaled(1 + 1e-12)),
    "KL, multiplier": (KL(), gibbs._SCALE, "state", added(gibbs._SHIFT, 1e-6)),
    "KL, exponentials": (KL(), gibbs._SCALE, "state", added(gibbs._GAP, 1e-12)),
    "chi-squared, shift": (
        ChiSquared(), active_set._WRITE, "state", added(active_set._SHIFT, 1e-12)
    ),
    "chi-squared, anchor": (
        ChiSquared(), active_set._WRITE, "state", added(active_set._ANCHOR, 1e-12)
    ),
    "mixed, change": (MIXED, mixed._MOVE, "state", added(mixed._CHANGE, 1e-12)),
    "mixed, change much": (MIXED, mixed._MOVE, "state", added(mixed._CHANGE, 1e-6)),
    "mixed, ratios": (MIXED, mixed._MOVE, "policy", scaled(1 + 1e-12)),
    "mixed, gap so far": (MIXED, mixed._MOVE, "state", added(mixed._STRAY, 1e-12)),
    "mixed, change between near rewards": (
        100.0 * MIXED, mixed._EXPAND, "state", added(mixed._CHANGE, 1e-6)
    ),
    "mixed, near ratios to and fro": (
        100.0 * MIXED, mixed._EXPAND, "policy",
        lambda w: w.__imul__(1 + 1e-6 * (-1.0) ** np.arange(w.size)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("size", [6, 1500])
@pytest.mark.parametrize("name", TAMPERED)
def test_the_certificate_catches_what_goes_wrong_in_the_last_pass(name, size):
    divergence, last, what, spoil = TAMPERED[name]
    rng = np.random.default_rng(39)
    reward, reference = rng.normal(size=size), np.full(size, 1 / size)
    right, _, _ = by_hand(divergence, reward, reference, 1.0)
    assert right["status"] == blocks.DONE

    def tamper(work, state, sums, policy):
        if work == last:
            spoil({"state": state, "sums": sums, "policy": policy}[what])

    state, _, fields = by_hand(divergence, reward, reference, 1.0, tamper)
    assert state["status"] == blocks.GENERAL
    gap = abs(fields[blocks.GAP]) > fields[blocks.TOLERANCE]
    feasibility = fields[blocks.FEASIBILITY] > blocks.rounding.py_func(size, EPS)
    assert gap or feasibility


@pytest.mark.parametrize("size", [6, 1500])
@pytest.mark.parametrize("error", [1e-3, 1e-2, 0.05])
def test_a_first_guess_too_far_off_for_its_certificate_is_handed_back(error, size):
    """The gap alone would not tell: it is the square of what the step left."""
    rng = np.random.default_rng(39)
    reward, reference = rng.normal(size=size), np.full(size, 1 / size)

    def tamper(work, state, sums, policy):
        if work == mixed._REFINE:
            state[mixed._LOG_GAMMA] = error

    state, _, _ = by_hand(MIXED, reward, reference, 1.0, tamper)
    assert state["status"] == blocks.GENERAL


def test_the_gap_of_a_policy_in_singles_is_that_of_its_rounding():
    """Rounding moves every ratio by up to 6e-8, which costs half the square of that."""
    rng = np.random.default_rng(41)
    reward = rng.normal(size=300).astype(np.float32)
    reference = np.full(300, 1 / 300, dtype=np.float32)
    gap = solve(reward, reference, MIXED, 1.0).gap
    exact = solve(reward.astype(float), np.full(300, 1 / 300), MIXED, 1.0)
    w = exact.policy * 300
    rounding = np.spacing(w.astype(np.float32)).astype(float)
    # A rounded number is off by a twelfth of the square of its spacing, on average.
    expected = 0.5 * np.mean((1 + w) / w * rounding**2 / 12)
    assert 0.5 * expected < gap < 2 * expected


@pytest.mark.parametrize("error", [1e-3, 1e-6])
def test_the_gap_by_itself_catches_mass_moved_from_one_response_to_another(error):
    """The policy still sums to 1, and is not optimal."""
    rng = np.random.default_rng(40)
    reward, reference = 0.1 * rng.uniform(size=64), np.full(64, 1 / 64)
    divergence = ChiSquared() + KL()

    def swap(work, state, sums, w):
        if work == mixed._EXPAND:
            w[0] += error
            w[1] -= error

    state, _, fields = by_hand(divergence, reward, reference, 1.0, swap)
    assert state["status"] == blocks.GENERAL
    # The last move was chosen for the others.
    assert fields[blocks.FEASIBILITY] <= 1e-8 * error
    assert fields[blocks.GAP] > fields[blocks.TOLERANCE]


@EACH
@pytest.mark.parametrize("field", ["gap", "feasibility", "tolerance", "value"])
def test_certify_refuses_each_bad_field(divergence, field):
    good = {"value": 1.0, "gap": 1e-16, "mass": 1.0, "tolerance": 1e-15}
    changes = {
        "gap": [("gap", 2e-15), ("gap", -2e-15), ("gap", np.nan), ("gap", np.inf)],
        "feasibility": [("mass", 1 + 1e-14), ("mass", 1 - 1e-14), ("mass", np.nan)],
        "tolerance": [("tolerance", np.nan), ("tolerance", np.inf), ("tolerance", 0.0)],
        "value": [("value", np.nan), ("value", np.inf), ("value", -np.inf)],
    }[field]
    fields = np.zeros(blocks.FIELDS)

    def certify(value, gap, mass, tolerance):
        return blocks.certify(fields, 0.5, value, gap, mass, tolerance, 1e-15)

    assert certify(**good) == blocks.DONE
    assert list(fields[:5]) == [0.5, 1.0, 1e-16, 0.0, 1e-15]
    for name, value in changes:
        assert certify(**{**good, name: value}) == blocks.GENERAL, (name, value)


@EACH
def test_a_kernel_that_cannot_certify_is_not_believed(divergence, monkeypatch):
    """Rows that are handed back are solved anew; if that fails too, an error is raised."""
    rng = np.random.default_rng(41)
    reward, reference = rng.normal(size=(3, 5)), rng.dirichlet(np.ones(5), 3)
    right = solve(reward, reference, divergence, 0.3)
    by_kernel = launch.solve_rows

    def sabotaged(*arguments):
        fields, _ = by_kernel(*arguments)
        arguments[-1][1] = np.nan
        fields[1] = np.nan
        fields[1, blocks.STATUS] = blocks.GENERAL
        return fields, 1

    monkeypatch.setattr(launch, "solve_rows", sabotaged)
    repaired = solve(reward, reference, divergence, 0.3)
    np.testing.assert_allclose(repaired.policy, right.policy, rtol=1e-13)
    monkeypatch.setattr(exact, "_generally", lambda *arguments: None)
    with pytest.raises(SolverError, match=r"at prompt \[1\]"):
        solve(reward, reference, divergence, 0.3)


# ---- bad input -----------------------------------------------------------------------------------

PLACES = (0, 1, 7, 8, 511, 512, 1022, 1023, 1024, 1025, 2047, 2048, 2049, 2050)


@EACH
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bad_entries_are_found_wherever_they_are(divergence, dtype):
    size = 2051
    reward, reference = np.zeros((3, size), dtype), np.full((3, size), 1 / size, dtype)
    for place in PLACES:
        for value in (np.nan, np.inf, -np.inf):
            bad = reward.copy()
            bad[1, place] = value
            with pytest.raises(ValueError, match=rf"reward\[1, {place}\] is {value}; entries"):
                solve(bad, reference, divergence, 1.0)
            bad = reference.copy()
            bad[2, place] = value
            with pytest.raises(ValueError, match=rf"reference\[2, {place}\] is {value}; entries"):
                solve(reward, bad, divergence, 1.0)
        bad = reference.copy()
        bad[0, place] *= -1
        with pytest.raises(ValueError, match=rf"reference\[0, {place}\] is -0.*not be negative"):
            solve(reward, bad, divergence, 1.0)
        # A negative mass so small that the row sum does not show it.
        bad[0, place] = -1e-42 if dtype == np.float32 else -5e-324
        bad[0, place - 1] += reference[0, place]
        with pytest.raises(ValueError, match=rf"reference\[0, {place}\] is -.*not be negative"):
            solve(reward, bad, divergence, 1.0)
        # And one that cancels.
        bad = reference.copy()
        bad[0, place - 1], bad[0, place] = 3 * bad[0, place], -bad[0, place]
        with pytest.raises(ValueError, match=rf"reference\[0, {place}\] is -0.*not be negative"):
            solve(reward, bad, divergence, 1.0)


@EACH
def test_infinities_that_cancel_and_a_nan_at_an_impossible_response_are_found(divergence):
    reward, reference = np.array([1.0, 0.0, 0.5]), np.array([0.5, 0.5, 0.0])
    with pytest.raises(ValueError, match=r"reference\[0\] is inf.*\(2 such entries\)"):
        solve(reward, np.array([np.inf, -np.inf, 1.0]), divergence, 1.0)
    with pytest.raises(ValueError, match=r"reward\[2\] is nan"):
        solve(np.array([1.0, 0.0, np.nan]), reference, divergence, 1.0)
    with pytest.raises(ValueError, match=r"reward\[2\] is -inf"):
        solve(np.array([1.0, 0.0, -np.inf]), reference, divergence, 1.0)


@EACH
def test_row_sums_are_checked_to_their_tolerance(divergence):
    rng = np.random.default_rng(42)
    for size in (3, 1025, 5000):
        reward, reference = rng.normal(size=(2, size)), rng.dirichlet(np.ones(size), 2)
        for error in (9.99e-10, -9.99e-10):
            near = reference * [[1.0], [1.0 + error]]
            solution = solve(reward, near, divergence, 1.0)
            assert abs(solution.policy.sum(axis=-1) - 1).max() < 1e-14
        for error in (1.01e-9, -1.01e-9, -1.0, 1e300):
            with pytest.raises(ValueError, match=r"reference\[1\] sums to "):
                solve(reward, reference * [[1.0], [1.0 + error]], divergence, 1.0)


@EACH
@pytest.mark.usefixtures("only_kernels")
def test_negative_zero_is_a_zero(divergence):
    reward = np.array([[0.0, -0.0, 5.0, 1.0]] * 2)
    reference = np.array([[0.5, 0.25, 0.0, 0.25], [0.5, 0.25, -0.0, 0.25]])
    solution = solve(reward, reference, divergence, 1.0)
    assert np.array_equal(solution.policy[0], solution.policy[1])
    assert solution.policy[1, 2] == 0
    assert solution.policy[0, 0] == 2 * solution.policy[0, 1]


def test_the_first_bad_prompt_is_named_in_a_batch():
    reward, reference = np.zeros((2, 3, 4)), np.full((2, 3, 4), 0.25)
    reference[1, 0, 2], reference[1, 2, 0] = np.nan, -1.0
    with pytest.raises(ValueError, match=r"reference\[1, 0, 2\] is nan"):
        solve(reward, reference, KL(), 1.0)


# ---- batches and threads -------------------------------------------------------------------------


def batch(rng, n_rows, size):
    reward = rng.normal(size=(n_rows, size)) * 10.0 ** rng.uniform(-2, 4, (n_rows, 1))
    reference = rng.dirichlet(np.full(size, 0.5), n_rows) + 1e-300
    reference[::3, 1 :: max(2, size // 3)] = 0.0
    return reward, reference / reference.sum(axis=-1, keepdims=True)


@pytest.fixture
def many_threads(monkeypatch):
    """Call with a number: threads for any problem, however small."""
    monkeypatch.setattr(threads, "_count", 1)
    monkeypatch.setattr(threads, "_pool", None)
    monkeypatch.setattr(launch, "_WORTH_A_THREAD", dict.fromkeys(launch._WORTH_A_THREAD, 0))
    monkeypatch.setattr(launch, "_GRAIN", 1)
    return threads.set_threads


@EVERY
def test_the_batch_is_the_loop_bit_for_bit(divergence):
    rng = np.random.default_rng(43)
    for n_rows, size in ((7, 1), (9, 5), (5, 130), (4, 1100), (3, 5000)):
        reward, reference = batch(rng, n_rows, size)
        beta = 10.0 ** rng.uniform(-3, 3, n_rows)
        together = solve(reward, reference, divergence, beta)
        for n in range(n_rows):
            one = solve(reward[n], reference[n], divergence, float(beta[n]))
            assert_identical(together, one, (n,))


@EACH
def test_the_number_of_threads_does_not_change_a_bit(divergence, many_threads, monkeypatch):
    rng = np.random.default_rng(44)
    for n_rows, size in ((50, 3), (13, 700), (3, 9000)):
        reward, reference = batch(rng, n_rows, size)
        beta = 10.0 ** rng.uniform(-2, 2, n_rows)
        many_threads(1)
        expected = solve(reward, reference, divergence, beta)
        for count in (2, 3, 8):
            many_threads(count)
            for grain in (1, 1 << 11, 1 << 30):
                monkeypatch.setattr(launch, "_GRAIN", grain)
                assert_identical(solve(reward, reference, divergence, beta), expected)


@EACH
@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 4096, 7000])
def test_a_row_divided_among_threads_is_the_same_row(divergence, size, many_threads, monkeypatch):
    rng = np.random.default_rng(45)
    reward, reference = batch(rng, 2, size)
    shared = reward[0]
    expected = solve(reward, reference, divergence, [0.3, 2.0])
    other = solve(shared, reference, divergence, [[0.3], [2.0]])
    divided = []
    long_row = launch._solve_long_row

    def watched(*arguments):
        divided.append(arguments[-1])
        return long_row(*arguments)

    monkeypatch.setattr(launch, "_LONG", 1)
    monkeypatch.setattr(launch, "_solve_long_row", watched)
    for count in (2, 3, 16):
        many_threads(count)
        assert_identical(solve(reward, reference, divergence, [0.3, 2.0]), expected)
        assert_identical(solve(shared, reference, divergence, [[0.3], [2.0]]), other)
    assert divided == [2] * 6 + [3] * 6 + [16] * 6


@EACH
def test_bad_rows_divided_among_threads_are_found(divergence, many_threads, monkeypatch):
    monkeypatch.setattr(launch, "_LONG", 1)
    many_threads(3)
    reward, reference = np.zeros((2, 3000)), np.full((2, 3000), 1 / 3000)
    reward[1, 2999] = np.nan
    with pytest.raises(ValueError, match=r"reward\[1, 2999\] is nan"):
        solve(reward, reference, divergence, 1.0)


def test_calls_from_several_threads_at_once(many_threads):
    many_threads(3)
    rng = np.random.default_rng(46)
    problems = [(*batch(rng, 6, size), d) for size in (4, 300, 2500) for d in THREE]
    expected = [solve(*problem, 0.7) for problem in problems]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda problem: solve(*problem, 0.7), problems * 5))
    for result, right in zip(results, expected * 5, strict=True):
        assert_identical(result, right)


def child_solves(seed):
    rng = np.random.default_rng(seed)
    reward, reference = batch(rng, 8, 600)
    return [solve(reward, reference, divergence, 0.7).policy for divergence in THREE]


def test_after_a_fork(many_threads):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork on this system")
    many_threads(3)
    expected = child_solves(47)  # the parent has its threads now
    assert threads._pool is not None
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        # Newer Pythons warn of forks where there are threads; that they are harmless is the point.
        warnings.simplefilter("ignore", DeprecationWarning)
        with context.Pool(2) as pool:
            results = pool.map_async(child_solves, [47, 47]).get(timeout=120)
    for result in results:
        assert all(np.array_equal(a, b) for a, b in zip(result, expected, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(child_solves(47), expected, strict=True))


def test_in_a_process_pool():
    expected = child_solves(48)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        result = pool.submit(child_solves, 48).result(timeout=120)
    assert all(np.array_equal(a, b) for a, b in zip(result, expected, strict=True))


# ---- layouts -------------------------------------------------------------------------------------


def unaligned(array):
    raw = np.empty(array.nbytes + 1, dtype=np.uint8)[1:]
    copy = raw.view(array.dtype).reshape(array.shape)
    copy[...] = array
    assert not copy.flags.aligned
    return copy


def strided(array):
    wide = np.full((*array.shape[:-1], 3 * array.shape[-1]), np.nan, dtype=array.dtype)
    wide[..., 1::3] = array
    return wide[..., 1::3]


def read_only(array):
    copy = array.copy()
    copy.setflags(write=False)
    return copy


LAYOUTS = {
    "read-only": read_only,
    "strided": strided,
    "Fortran order": np.asfortranarray,
    "reversed": lambda a: a[:, ::-1].copy()[:, ::-1],
    "big-endian": lambda a: a.astype(">f8"),
    "unaligned": unaligned,
    "long double": lambda a: a.astype(np.longdouble),
    "list": lambda a: a.tolist(),
}


@EACH
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(divergence, layout):
    reward, reference = batch(np.random.default_rng(49), 4, 37)
    expected = solve(reward, reference, divergence, 0.4)
    r, p = LAYOUTS[layout](reward), LAYOUTS[layout](reference)
    before = np.array(r), np.array(p)
    assert_identical(solve(r, p, divergence, 0.4), expected)
    assert_identical(solve(reward, p, divergence, 0.4), expected)
    assert_identical(solve(r, reference, divergence, 0.4), expected)
    assert np.array_equal(r, before[0])
    assert np.array_equal(p, before[1])


@EACH
def test_memory_mapped_files(divergence, tmp_path):
    reward, reference = batch(np.random.default_rng(50), 4, 37)
    expected = solve(reward, reference, divergence, 0.4)
    for name, array in (("r", reward), ("p", reference)):
        array.tofile(tmp_path / name)
    r = np.memmap(tmp_path / "r", dtype=float, mode="r", shape=(4, 37))
    p = np.memmap(tmp_path / "p", dtype=float, mode="r", shape=(4, 37))
    solution = solve(r, p, divergence, 0.4)
    assert type(solution.policy) is np.ndarray
    assert_identical(solution, expected)
    out = np.memmap(tmp_path / "out", dtype=float, mode="w+", shape=(4, 37))
    solve(r, p, divergence, 0.4, out=out)
    out.flush()
    assert np.array_equal(np.fromfile(tmp_path / "out").reshape(4, 37), expected.policy)


@EACH
def test_grids_and_shared_rows(divergence):
    rng = np.random.default_rng(51)
    reward, reference = batch(rng, 6, 9)
    betas = np.array([0.01, 1.0, 30.0])
    cases = [
        (reward, reference, betas[:, None]),
        (reward, reference[0], betas[:, None]),
        (reward[0], reference, betas[:, None]),
        (reward[0], reference[0], betas),
        (np.broadcast_to(reward[0], (6, 9)), np.broadcast_to(reference[2], (6, 9)), 0.5),
        (reward[:, None], reference[None], 0.5),
        (reward.reshape(2, 1, 3, 1, 9), reference.reshape(1, 3, 1, 2, 9), betas[:, None, None]),
        (reward.reshape(6, 1, 9), reference[:1], np.array([0.5])),
        (
            reward.reshape(1, 1, 1, 6, 9),
            reference[:2, None],
            np.geomspace(0.1, 10, 5)[:, None, None],
        ),
    ]
    for r, p, b in cases:
        solution = solve(r, p, divergence, b)
        shape = np.broadcast_shapes(r.shape[:-1], p.shape[:-1], np.shape(b))
        assert solution.policy.shape == (*shape, 9)
        assert solution.value.shape == shape
        r, p = np.broadcast_to(r, (*shape, 9)), np.broadcast_to(p, (*shape, 9))
        b = np.broadcast_to(b, shape)
        for index in np.ndindex(shape):
            one = solve(r[index], p[index], divergence, float(b[index]))
            assert_identical(solution, one, index)


# ---- warm starts ---------------------------------------------------------------------------------


def assert_each_same(warm, cold, reward, reference, divergence, beta):
    for n in range(len(reward)):
        pair = (
            dataclasses.replace(s, **{name: getattr(s, name)[n] for name in FIELDS})
            for s in (warm, cold)
        )
        assert_same(*pair, reward[n], reference[n], divergence, beta)


@EVERY
@pytest.mark.parametrize("size", [1, 5, 300, 3000])
def test_any_guess_of_the_multiplier_gives_the_same_answer(divergence, size, only_kernels):
    rng = np.random.default_rng(61)
    reward, reference = batch(rng, 7, size)
    for beta in (0.03, 1.0, 40.0):
        cold = solve(reward, reference, divergence, beta)
        neighbour = solve(reward, reference, divergence, 0.7 * beta).multiplier
        best = cold.multiplier
        for guess in (
            neighbour,
            best,
            best - 3 * beta,
            best + 0.1 * beta,
            0.0,
            reward.max(axis=-1),
        ):
            warm = solve(reward, reference, divergence, beta, start=guess)
            assert_each_same(warm, cold, reward, reference, divergence, beta)


@EACH
@pytest.mark.parametrize("guess", [-1e300, -1e9, 1e9, 1e300, 5e-324])
def test_a_senseless_guess_costs_time_only(divergence, guess):
    rng = np.random.default_rng(62)
    reward, reference = batch(rng, 3, 50)
    warm = solve(reward, reference, divergence, 0.5, start=guess)
    assert_each_same(
        warm, solve(reward, reference, divergence, 0.5), reward, reference, divergence, 0.5
    )


def test_a_guess_replaces_the_sample(monkeypatch):
    """From the solution itself the first pass finds the active set, and the second writes."""
    rng = np.random.default_rng(63)
    reward, reference = (np.ascontiguousarray(a[0]) for a in batch(rng, 1, 3000))
    best = solve(reward, reference, ChiSquared(), 0.2).multiplier
    for guess, first in ((np.nan, None), (float(best), float(best))):
        state = np.empty(blocks.STATE)
        sample = np.full(3 * blocks.SAMPLE, np.nan)
        weights = weights_of(ChiSquared())
        rows.start(rows.CHI_SQUARED, reward, reference, 0.2, weights, guess, state, sample)
        assert np.isnan(sample).all() == (first is not None)
        assert (first is None) or first in state


@EACH
def test_guesses_broadcast_like_beta(divergence):
    rng = np.random.default_rng(64)
    reward, reference = batch(rng, 6, 9)
    betas = np.array([0.1, 1.0])
    guesses = rng.normal(size=6)
    solution = solve(reward, reference, divergence, betas[:, None], start=guesses)
    for k, n in np.ndindex(2, 6):
        one = solve(reward[n], reference[n], divergence, float(betas[k]), start=float(guesses[n]))
        assert_identical(solution, one, (k, n))
    one = solve(reward[0], reference[0], divergence, 1.0, start=guesses)
    assert one.policy.shape == (6, 9)


def test_bad_guesses_are_refused():
    problem = (np.zeros((2, 3)), np.full((2, 3), 1 / 3), KL(), 1.0)
    with pytest.raises(ValueError, match=r"start\[1\] is nan; entries must be finite"):
        solve(*problem, start=[0.0, np.nan])
    with pytest.raises(ValueError, match=r"do not broadcast: .*start \(3,\)"):
        solve(*problem, start=np.zeros(3))
    import torch

    tensors = torch.zeros(2, 3), torch.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match="start is given; it is for numpy arrays"):
        solve(*tensors, KL(), 1.0, start=0.0)
    guesses = np.zeros(6)
    with pytest.raises(ValueError, match="out shares memory with start"):
        solve(*problem, start=guesses[:2], out=guesses.reshape(2, 3))


# ---- shapes without entries ----------------------------------------------------------------------


@EACH
@pytest.mark.parametrize(
    ("reward", "reference", "beta", "shape"),
    [
        ((0, 5), (5,), (), (0,)),
        ((0, 5), (0, 5), (), (0,)),
        ((5,), (0, 5), (), (0,)),
        ((3, 5), (5,), (0, 1), (0, 3)),
        ((2, 0, 3, 5), (3, 5), (3,), (2, 0, 3)),
    ],
)
def test_no_prompts_have_no_solutions(divergence, reward, reference, beta, shape):
    arrays = np.zeros(reward), np.full(reference, 0.2), divergence, np.ones(beta)
    solution = solve(*arrays)
    assert solution.policy.shape == (*shape, 5)
    assert all(getattr(solution, field).shape == shape for field in FIELDS[1:])
    with pytest.raises(ValueError, match="at least one response"):
        solve(np.zeros((*reward[:-1], 0)), np.zeros((*reference[:-1], 0)), divergence, 1.0)


# ---- the place for the policy --------------------------------------------------------------------


@EACH
def test_the_policy_is_written_in_place(divergence):
    rng = np.random.default_rng(52)
    for n_rows, size in ((1, 1), (5, 40), (3, 1100)):
        reward, reference = batch(rng, n_rows, size)
        expected = solve(reward, reference, divergence, 0.5)
        wide = np.full((n_rows + 2, size), 7.0)
        solution = solve(reward, reference, divergence, 0.5, out=wide[1:-1])
        assert np.shares_memory(solution.policy, wide)
        assert solution.policy.__array_interface__["data"] == wide[1:-1].__array_interface__["data"]
        assert_identical(solution, expected)
        assert np.all(wide[[0, -1]] == 7.0)
    # Rows that are handed back are written there too.
    out = np.empty(2)
    solve([1.7e308, 1.6e308], [0.5, 0.5], divergence, 1.0, out=out)
    assert list(out) == [1, 0]


class Subclass(np.ndarray):
    """An array that may do with its entries what it likes."""


def refused_places(reward, reference, beta):
    shape = reward.shape
    aligned = np.empty(shape)
    yield np.empty((shape[0], shape[1] + 1)), "out has shape"
    yield np.empty(shape[1]), "out has shape"
    yield np.empty((1, *shape)), "out has shape"
    yield np.empty(shape, np.float32), "out has shape.*float32"
    yield np.empty(shape, ">f8"), "out has shape"
    yield np.empty(shape, int), "out has shape"
    yield np.asfortranarray(aligned), "C-contiguous, aligned and writeable"
    yield strided(aligned), "C-contiguous, aligned and writeable"
    yield unaligned(np.zeros(shape)), "C-contiguous, aligned and writeable"
    yield read_only(np.zeros(shape)), "C-contiguous, aligned and writeable"
    yield np.zeros(shape).tolist(), "out is a list"
    yield np.ma.zeros(shape), "out is a MaskedArray"
    yield aligned.view(Subclass), "out is a Subclass"
    yield 3.0, "out is a float"
    yield reward, "out shares memory with reward"
    yield reference, "out shares memory with reference"
    yield beta.base.reshape(shape), "out shares memory with beta"


@pytest.mark.parametrize("divergence", [*THREE, KL() + ChiSquared() * 1e13], ids=repr)
def test_bad_places_are_refused(divergence):
    reward, reference = batch(np.random.default_rng(53), 4, 6)
    store = np.ones(24)
    beta = store[:4]
    for out, message in refused_places(reward, reference, beta):
        kept = np.array(reward), np.array(reference)
        with pytest.raises(ValueError, match=message):
            solve(reward, reference, divergence, beta, out=out)
        assert np.array_equal(reward, kept[0])
        assert np.array_equal(reference, kept[1])
        assert np.all(store == 1)


def test_a_place_inside_an_array_that_would_be_copied_is_refused():
    reward, reference = batch(np.random.default_rng(54), 4, 6)
    for view in (reward[:, ::-1], reward[::-1]):
        with pytest.raises(ValueError, match="out shares memory with reward"):
            solve(view, reference, KL(), 1.0, out=reward)


# ---- memory --------------------------------------------------------------------------------------

MEASURE = """
    import numpy as np
    from rlhfsim import KL, ChiSquared, solve

    def status(name):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024

    for shape in ((200, 20_000), (1, 4_000_000)):
        for divergence in (KL(), ChiSquared(), ChiSquared() + 0.3 * KL()):
            # Loading or compiling the kernels, of short and of long rows, takes memory once.
            for small in ((8, 20_000), (1, 400_000)):
                p, place = np.full(small, 1 / small[1]), np.empty(small)
                solve(np.zeros(small), p, divergence, 1.0, out=place)
        reward, reference, out = (np.empty(shape) for _ in range(3))
        out[:] = 0.0
        np.sin(np.arange(shape[1], dtype=np.float32), out=reward[0])
        reward[:] = reward[0]
        reference[:] = 1.0 / shape[1]
        for divergence in (KL(), ChiSquared(), ChiSquared() + 0.3 * KL()):
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            before = status("VmRSS")
            solve(reward, reference, divergence, 0.5, out=out)
            print(shape, divergence, (status("VmHWM") - before) / (2 * reward.nbytes))
        del reward, reference, out
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux")  # noqa: PTH110
def test_the_kernels_need_no_memory_to_speak_of():
    """The high-water mark of a process, as what the kernels allocate themselves is not numpy's."""
    for _ in range(2):
        # Compiling takes memory as well; the second process finds everything compiled.
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(MEASURE)],
            capture_output=True, text=True, check=True, timeout=300,
        )  # fmt: skip
    shares = {line.rsplit(" ", 1)[0]: float(line.split()[-1]) for line in run.stdout.splitlines()}
    assert len(shares) == 6
    assert max(shares.values()) < 0.1, shares


def test_kl_keeps_small_masses_beside_a_rare_best():
    for best, gap in ((1e-190, 1000.0), (1e-100, 745.0), (1e-50, 740.0)):
        reward, reference = np.array([gap, 0.0, -1.0]), np.array([best, 0.5, 0.5])
        solution = solve(reward, reference, KL(), 1.0)
        truth = solve_high_precision(reward, reference, KL(), 1.0)
        for computed, true in zip(solution.policy, truth.policy, strict=True):
            assert abs(mp.mpf(float(computed)) - true) <= 1e-12 * true


def wide_optimum(reward, reference, divergence):
    """The optimum at beta = 1 in extended precision, by Newton's method on lambda."""
    x, p = reward.astype(np.longdouble), reference.astype(np.longdouble)
    at = (p * x).sum(axis=-1, keepdims=True)
    for _ in range(60):
        if divergence == ChiSquared():
            w = np.maximum(1 + x - at, 0)
            slope = (w > 0).astype(np.longdouble)
        else:
            log_w = np.minimum(x - at, 1)
            for _ in range(40):
                w = np.exp(log_w)
                log_w = log_w + (1 + x - at - w - log_w) / (1 + w)
            w = np.exp(log_w)
            slope = w / (1 + w)
        excess = (p * w).sum(axis=-1, keepdims=True) - 1
        at = at + excess / (p * slope).sum(axis=-1, keepdims=True)
        if np.abs(excess).max() < 1e-18:
            break
    return p * w


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="needs 80-bit floats")
@pytest.mark.parametrize(
    ("divergence", "bound"), [(ChiSquared(), 5e-16), (ChiSquared() + KL(), 6e-16)]
)
def test_ordinary_rows_are_exact_to_a_few_roundings(divergence, bound):
    """Total variation, where a neglected term of a series or of a step would show."""
    rng = np.random.default_rng(61)
    for size, prompts in ((400, 60), (1000, 60), (20_000, 2)):
        reward = rng.normal(size=(prompts, size))
        reference = rng.standard_gamma(1.0, size=(prompts, size)) + 1e-12
        reference /= reference.sum(axis=1, keepdims=True)
        solution = solve(reward, reference, divergence, 1.0)
        errors = np.abs(solution.policy - wide_optimum(reward, reference, divergence)).sum(axis=1)
        assert errors.max() < bound
