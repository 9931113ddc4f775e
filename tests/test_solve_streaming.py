"""Responses that are generated and never stored, against `solve` on the stored array."""

import itertools
import math
import threading
import tracemalloc

import numpy as np
import pytest

from rlhfsim.divergences import (
    DIVERGENCES,
    KL,
    ChiSquared,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)
from rlhfsim.solvers import SolverError, solve
from rlhfsim.solvers.streaming import solve_streaming
from rlhfsim.solvers.sums import combine_sums, policy, solving

EPS = np.finfo(float).eps
MORE = (
    *DIVERGENCES,
    ChiSquared() + 1e-8 * KL(),
    ChiSquared() + 1e8 * KL(),
    3 * KL(),
    0.01 * ChiSquared(),
)
BOUNDED = (ForwardKL(), JensenShannon(), SquaredHellinger(), 0.5 * ForwardKL() + KL())
FIELDS = ("multiplier", "value", "gap", "feasibility", "tolerance")


def stored(reward, reference):
    """A block function that reads from two arrays."""
    return lambda start, stop: (reward[start:stop], reference[start:stop])


def random_problem(rng, size):
    kind = rng.integers(5)
    if kind == 0:
        reward = rng.integers(0, 3, size).astype(float)
    elif kind == 1:
        reward = 1e9 + 1e-3 * rng.integers(-3, 4, size)
    elif kind == 2:
        reward = 1e9 * rng.normal(size=size)
    else:
        reward = rng.normal(size=size) * 10.0 ** rng.uniform(-6, 6)
    reference = rng.dirichlet(np.full(size, rng.choice([0.1, 0.3, 1.0]))) + 1e-290
    if rng.random() < 0.5:
        reference[rng.integers(size)] = 10.0 ** -rng.uniform(0, 300)
    if rng.random() < 0.3 and size > 1:
        reference[rng.integers(size)] = 0.0
    return reward, reference / reference.sum()


def assert_agrees(streamed, policy, reward, reference, divergence, beta):
    """The accuracy that `solve` itself is held to."""
    expected = solve(reward, reference, divergence, beta)
    inside = reference > 0
    spread = float(np.ptp(reward[inside]))
    weights = {base: weight for weight, base in divergence.terms()}
    sensitivity = spread / (beta * min(weights.values()))
    slack = 1e-13 + 8 * EPS * sensitivity
    floor = 8 * EPS * (1 + sensitivity) * reference if set(weights) == {ChiSquared()} else 0.0
    error = np.abs(policy - expected.policy)
    certain = expected.policy > 1e-12
    assert np.all((error <= slack * expected.policy + floor) | ~certain)
    assert np.all(policy[~certain] <= 2e-12 * (1 + slack))
    size = float(np.abs(reward[inside]).max()) + spread
    total = sum(weights.values())
    unit = 8 * EPS * (size + beta * total * (8 * EPS + abs(float(reference.sum()) - 1)))
    assert abs(streamed.value - expected.value) <= unit
    assert abs(streamed.multiplier - expected.multiplier) <= 4 * unit + 64 * EPS * beta * total


# ---- agreement with the stored array -------------------------------------------------------------


@pytest.mark.parametrize("divergence", MORE, ids=repr)
def test_random_problems_agree_with_solve(divergence):
    rng = np.random.default_rng(30)
    for _ in range(60):
        size = int(rng.integers(1, 60))
        reward, reference = random_problem(rng, size)
        beta = 10.0 ** rng.uniform(-6, 6)
        streamed = solve_streaming(
            stored(reward, reference),
            size,
            divergence,
            beta,
            block_size=int(rng.integers(1, size + 2)),
            workers=1,
        )
        policy = streamed.policy(0, size)
        assert_agrees(streamed, policy, reward, reference, divergence, beta)


@pytest.mark.parametrize("sample", [2**16, 64, 0])
@pytest.mark.parametrize("divergence", MORE, ids=repr)
def test_a_poor_sample_costs_passes_only(divergence, sample, monkeypatch):
    monkeypatch.setattr(solving, "_SAMPLE", sample)
    rng = np.random.default_rng(31)
    for _ in range(6):
        size = int(rng.integers(2000, 5000))
        reward, reference = random_problem(rng, size)
        beta = 10.0 ** rng.uniform(-3, 3)
        block = stored(reward, reference)
        streamed = solve_streaming(block, size, divergence, beta, block_size=700, workers=1)
        assert_agrees(streamed, streamed.policy(0, size), reward, reference, divergence, beta)
        assert streamed.passes <= 20


@pytest.mark.parametrize("divergence", BOUNDED, ids=repr)
def test_divergences_with_a_bounded_link_agree_with_solve(divergence):
    rng = np.random.default_rng(32)
    for _ in range(40):
        size = int(rng.integers(1, 60))
        reward, reference = random_problem(rng, size)
        reward[reference == 0] = reward[reference > 0].min()
        beta = 10.0 ** rng.uniform(-6, 6)
        streamed = solve_streaming(
            stored(reward, reference), size, divergence, beta, block_size=7, workers=1
        )
        expected = solve(reward, reference, divergence, beta)
        scale = float(np.abs(reward).max() + np.ptp(reward))
        assert abs(streamed.value - expected.value) <= 8 * EPS * scale + 1e-13 * float(
            np.ptp(reward)
        )
        np.testing.assert_allclose(streamed.policy(0, size), expected.policy, rtol=1e-9, atol=1e-12)


def test_unsupported_responses_that_a_finite_recession_would_use_are_refused():
    reward, reference = np.array([5.0, 0.0, 9.0]), np.array([0.5, 0.5, 0.0])
    with pytest.raises(ValueError, match=r"reward 9\.0 of prompt 0 .* reference mass 0"):
        solve_streaming(stored(reward, reference), 3, ForwardKL(), 0.1)
    reward[2] = 5.0
    solve_streaming(stored(reward, reference), 3, ForwardKL(), 0.1)


EXTREME = list(itertools.product([1e-300, 1e-100, 1.0, 1e100, 1e300], [1e-300, 1.0, 1e300]))


@pytest.mark.parametrize("divergence", MORE, ids=repr)
def test_extreme_scales_are_certified(divergence):
    for beta, scale in EXTREME:
        for reference in ([0.2, 0.3, 0.5], [1e-290, 0.5, 0.5], [0.5, 0.0, 0.5]):
            p = np.array(reference)
            block = stored(np.array([1.0, 0.5, -0.5]) * scale, p)
            policy = solve_streaming(block, 3, divergence, beta, block_size=2).policy(0, 3)
            if beta / scale > 1e99:
                np.testing.assert_allclose(policy, p, rtol=1e-14)
            if scale / beta > 1e299:
                np.testing.assert_allclose(policy, [1, 0, 0], atol=1e-8)


def test_offsets_cost_no_digits():
    rng = np.random.default_rng(33)
    reward = np.round(rng.normal(size=5000) * 2**20) / 2**20
    reference = rng.dirichlet(np.ones(5000))
    for divergence in DIVERGENCES:
        plain = solve_streaming(stored(reward, reference), 5000, divergence, 0.3, block_size=999)
        far = solve_streaming(
            stored(reward + 2.0**30, reference), 5000, divergence, 0.3, block_size=999
        )
        np.testing.assert_allclose(
            far.policy(0, 5000), plain.policy(0, 5000), rtol=1e-12, atol=1e-17
        )
        assert far.value - 2.0**30 == pytest.approx(plain.value, abs=2.0**-22)


# ---- enumerated token sequences ------------------------------------------------------------------

GAINS = np.random.default_rng(34).normal(size=(6, 8))


def sequences(start, stop):
    """8^6 sequences of 6 tokens out of 8, uniform, with a reward for each token."""
    index = np.arange(start, stop)
    reward = np.zeros(stop - start)
    for gains in GAINS:
        reward += gains[index % 8]
        index //= 8
    return reward, np.full(stop - start, 8.0**-6)


def test_sequences_with_additive_rewards_have_the_product_form():
    solution = solve_streaming(sequences, 8**6, KL(), 0.7, block_size=10_000)
    per_token = np.exp(GAINS / 0.7)
    exact = 0.7 * np.log(per_token.mean(axis=1)).sum()
    assert solution.value == pytest.approx(exact, rel=1e-15)
    assert solution.passes == 3
    token = per_token / per_token.sum(axis=1, keepdims=True)
    tokens = np.arange(70_000, 70_100)[:, None] // 8 ** np.arange(6) % 8
    np.testing.assert_allclose(
        solution.policy(70_000, 70_100), token[np.arange(6), tokens].prod(axis=1), rtol=1e-12
    )


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
def test_few_passes_are_enough(divergence):
    solution = solve_streaming(sequences, 8**6, divergence, 0.7, block_size=10_000)
    assert solution.passes <= 6
    expected = solve(*sequences(0, 8**6), divergence, 0.7)
    assert solution.value == pytest.approx(float(expected.value), rel=1e-14)


@pytest.mark.parametrize("divergence", [KL(), ChiSquared(), ChiSquared() + KL()], ids=repr)
def test_the_number_of_workers_changes_no_bit(divergence):
    results = [
        solve_streaming(sequences, 8**6, divergence, 0.4, block_size=9_999, workers=w)
        for w in (1, 2, 5)
    ]
    for other in results[1:]:
        for field in (*FIELDS, "passes"):
            assert getattr(other, field) == getattr(results[0], field), field
        assert np.array_equal(other.policy(0, 8**6), results[0].policy(0, 8**6))
        one, two = (r.expectation(lambda a, b: sequences(a, b)[0]) for r in (results[0], other))
        assert one == two


def test_threads_work_at_once():
    """Two blocks of a pass are under way together: each waits for the other."""
    barrier = threading.Barrier(2, timeout=30)

    def block(start, stop):
        barrier.wait()
        return np.zeros(stop - start), np.full(stop - start, 0.25)

    assert solve_streaming(block, 4, KL(), 1.0, block_size=2, workers=2).value == 0.0


def test_block_size_changes_rounding_only():
    for divergence in (KL(), ChiSquared(), ChiSquared() + KL()):
        coarse = solve_streaming(sequences, 8**6, divergence, 0.4, block_size=2**20)
        fine = solve_streaming(sequences, 8**6, divergence, 0.4, block_size=3333)
        assert fine.value == pytest.approx(coarse.value, rel=1e-15)
        np.testing.assert_allclose(fine.policy(0, 999), coarse.policy(0, 999), rtol=1e-13)


def test_memory_is_that_of_the_blocks():
    peaks = []
    for size in (8**5, 8**6):

        def block(start, stop, size=size):
            reward, _ = sequences(start, stop)
            return reward, np.full(stop - start, 1.0 / size)

        tracemalloc.start()
        solution = solve_streaming(block, size, ChiSquared(), 0.4, block_size=4096, workers=2)
        for _ in solution.blocks():
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    sample = 2 * 8 * 2**16
    assert peaks[1] < peaks[0] + 8 * sample < 8 * 8**6 * 6


# ---- what the solution offers --------------------------------------------------------------------


@pytest.mark.parametrize("divergence", [KL(), ChiSquared(), ChiSquared() + KL()], ids=repr)
def test_blocks_and_expectations_are_those_of_the_policy(divergence):
    solution = solve_streaming(sequences, 8**6, divergence, 0.7, block_size=100_000)
    policy = solution.policy(0, 8**6)
    pieces = list(solution.blocks())
    assert [start for start, _ in pieces] == [0, 100_000, 200_000]
    assert np.array_equal(np.concatenate([piece for _, piece in pieces]), policy)
    reward, reference = sequences(0, 8**6)
    cost = divergence.per_prompt(policy, reference)

    def two(start, stop):
        return np.stack([reward[start:stop], np.ones(stop - start)])

    mean, one = solution.expectation(two)
    assert abs(one - 1) < 1e-14
    assert mean - 0.7 * cost == pytest.approx(solution.value, rel=1e-13)
    assert solution.dual == solution.value + solution.gap
    assert solution.policy(5, 5).shape == (0,)
    with pytest.raises(ValueError, match="stop is 262145; there are 262144 responses"):
        solution.policy(0, 8**6 + 1)
    with pytest.raises(ValueError, match="start is -1; it must be at least 0"):
        solution.policy(-1, 3)
    with pytest.raises(ValueError, match="its last axis must have length 100000"):
        solution.expectation(lambda start, stop: np.ones(3))
    with pytest.raises(ValueError, match=r"g\(0, 100000\)\[7\] is nan"):
        solution.expectation(lambda a, b: np.where(np.arange(a, b) == 7, np.nan, 0.0))


def test_sums_of_many_blocks_are_compensated():
    parts = [{"x": np.array([x])} for x in [1.0, *[1e-16] * 20_000, 1e16, -1e16]]
    exact = math.fsum(float(part["x"][0]) for part in parts)
    assert combine_sums(iter(parts))["x"][0] == exact
    assert sum(float(part["x"][0]) for part in parts) != exact


# ---- errors --------------------------------------------------------------------------------------


def test_a_block_that_is_not_deterministic_is_refused():
    rng = np.random.default_rng(35)

    def block(start, stop):
        return rng.normal(size=stop - start), np.full(stop - start, 1e-3)

    for divergence in (KL(), ChiSquared(), ChiSquared() + KL()):
        with pytest.raises(SolverError, match=r"no certified optimum.*block must return") as caught:
            solve_streaming(block, 1000, divergence, 0.5, block_size=100, workers=1)
        assert caught.value.solution.feasibility > 1e-9


@pytest.mark.parametrize("error", [1e-4, 1e-6])
def test_a_slightly_wrong_policy_fails_its_certificate(error, monkeypatch):
    right = policy.masses

    def wrong(divergence, s, p, bound):
        mass, slope = right(divergence, s, p, bound)
        return (1 - error) * mass + error * p, slope

    monkeypatch.setattr(policy, "masses", wrong)
    reward, reference = np.array([1.0, 0.0, 0.3]), np.array([0.2, 0.5, 0.3])
    for divergence in (KL(), ChiSquared(), ChiSquared() + KL()):
        with pytest.raises(SolverError, match="no certified optimum") as caught:
            solve_streaming(stored(reward, reference), 3, divergence, 0.05)
        assert 0 < caught.value.solution.gap < 20 * error


def bad_block(name, index, value):
    def block(start, stop):
        pair = {"reward": np.arange(start, stop) * 1.0, "reference": np.full(stop - start, 0.1)}
        if start <= index < stop:
            pair[name][index - start] = value
        return pair["reward"], pair["reference"]

    return block


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("reward", np.nan, r"reward\[7\] is nan; entries must be finite"),
        ("reward", np.inf, r"reward\[7\] is inf; entries must be finite"),
        ("reference", np.nan, r"reference\[7\] is nan; entries must be finite"),
        ("reference", -0.5, r"reference\[7\] is -0\.5; probabilities must not be negative"),
        ("reference", 0.3, r"reference sums to 1\.2\d*; rows must sum to 1 within 1e-09"),
    ],
)
@pytest.mark.parametrize("divergence", [KL(), ChiSquared() + KL()], ids=repr)
def test_bad_entries_are_named_by_their_place(name, value, message, divergence):
    with pytest.raises(ValueError, match=message):
        solve_streaming(bad_block(name, 7, value), 10, divergence, 1.0, block_size=3)


def good(start, stop):
    return np.zeros(stop - start), np.full(stop - start, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 2, KL(), 1.0), "block is 3; it must be a function"),
        ((good, 0, KL(), 1.0), "n_responses is 0; it must be at least 1"),
        ((good, 2.0, KL(), 1.0), r"n_responses is 2\.0; it must be an integer"),
        ((good, 2, KL, 1.0), "it must be a Divergence such as"),
        ((good, 2, KL(), 0.0), r"beta is 0\.0; it must be positive"),
        ((good, 2, KL(), [1.0, 2.0]), "beta is .*; it must be one number"),
        ((lambda a, b: np.zeros(b - a), 2, KL(), 1.0), "it must be a pair"),
        ((lambda a, b: (np.zeros(1), good(a, b)[1]), 2, KL(), 1.0), r"reward of block\(0, 2\) has"),
        ((lambda a, b: (good(a, b)[0], [True] * 2), 2, KL(), 1.0), "reference of block.*bool"),
        ((stored(np.array([1.5e308, -1.5e308]), np.full(2, 0.5)), 2, KL(), 1.0), "spans more than"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve_streaming(*arguments)
    for option in ("block_size", "workers"):
        with pytest.raises(ValueError, match=f"{option} is 0; it must be at least 1"):
            solve_streaming(good, 2, KL(), 1.0, **{option: 0})
