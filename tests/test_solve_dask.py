"""Chunked arrays against `solve` on the same numbers in memory, on two kinds of scheduler."""

import sys

import numpy as np
import pytest

from rlhfsim.divergences import DIVERGENCES, KL, ChiSquared, ForwardKL, JensenShannon
from rlhfsim.solvers import SolverError, dask_arrays, solve
from rlhfsim.solvers.dask_arrays import solve_dask
from rlhfsim.solvers.sums import solving

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

FIELDS = ("multiplier", "value", "gap", "feasibility", "tolerance")
EACH = pytest.mark.parametrize("divergence", [*DIVERGENCES, 3 * KL()], ids=repr)


@pytest.fixture(scope="module")
def cluster():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as workers,
        distributed.Client(workers) as client,
    ):
        yield client


@pytest.fixture(params=["threads", "cluster"])
def scheduler(request):
    if request.param == "cluster":
        client = request.getfixturevalue("cluster")
        with client.as_current():
            yield "cluster"
    else:
        with dask.config.set(scheduler="threads", num_workers=2):
            yield "threads"


def problem(seed=40, size=60):
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(2, 3, size)) * 10.0 ** rng.uniform(-2, 3, (2, 3, 1))
    reward[0, 1] += 1e9
    reference = rng.dirichlet(np.full(size, 0.3), 3)
    reference[0, 5] += reference[0, 7]
    reference[0, 7] = 0.0
    return reward, reference, 10.0 ** rng.uniform(-1, 1, (3, 1, 1))


def assert_agrees(solution, expected, divergence, beta, spread):
    assert isinstance(solution.policy, da.Array)
    unit = 1e-14 * (np.abs(expected.value) + beta + spread)
    assert np.all(np.abs(solution.value - expected.value) <= unit)
    assert np.all(np.abs(solution.multiplier - expected.multiplier) <= 30 * unit)
    sensitivity = np.max(spread / beta) / min(w for w, _ in divergence.terms())
    np.testing.assert_allclose(
        solution.policy.compute(),
        expected.policy,
        rtol=1e-12 + 1e-15 * sensitivity,
        atol=1e-14 + 1e-15 * sensitivity,
    )
    for field in FIELDS:
        assert isinstance(getattr(solution, field), np.ndarray)
        assert getattr(solution, field).shape == expected.value.shape


@EACH
def test_agrees_with_solve(divergence, scheduler):
    reward, reference, beta = problem()
    expected = solve(reward, reference, divergence, beta)
    spread = np.ptp(reward, axis=-1)
    solution = solve_dask(
        da.from_array(reward, chunks=(1, 2, 23)),
        da.from_array(reference, chunks=(3, 17)),
        divergence,
        beta,
    )
    assert_agrees(solution, expected, divergence, beta, spread)


@pytest.mark.parametrize("divergence", [KL(), ChiSquared(), ChiSquared() + KL()], ids=repr)
def test_every_way_to_cut_gives_the_same(divergence):
    reward, reference, beta = problem()
    expected = solve(reward, reference, divergence, beta)
    for chunks in [(2, 3, 60), (2, 3, 11), (1, 2, 60)]:
        solution = solve_dask(da.from_array(reward, chunks=chunks), reference, divergence, beta)
        assert solution.policy.chunks[1:] == da.from_array(reward, chunks=chunks).chunks
        assert_agrees(solution, expected, divergence, beta, np.ptp(reward, axis=-1))


@pytest.mark.parametrize("divergence", [ChiSquared(), ChiSquared() + KL()], ids=repr)
def test_without_a_sample(divergence, monkeypatch):
    monkeypatch.setattr(solving, "_SAMPLE", 0)
    reward, reference, beta = problem()
    expected = solve(reward, reference, divergence, beta)
    solution = solve_dask(da.from_array(reward, chunks=(1, 2, 23)), reference, divergence, beta)
    assert_agrees(solution, expected, divergence, beta, np.ptp(reward, axis=-1))


@pytest.mark.parametrize("divergence", [ForwardKL(), JensenShannon() + KL()], ids=repr)
def test_other_divergences(divergence):
    reward, reference, beta = problem(41)
    reference = np.where(reference > 0, reference, 1e-12)
    reference /= reference.sum(axis=-1, keepdims=True)
    reward[0, 1] -= 1e9
    expected = solve(reward, reference, divergence, beta)
    solution = solve_dask(da.from_array(reward, chunks=(1, 2, 23)), reference, divergence, beta)
    np.testing.assert_allclose(solution.policy.compute(), expected.policy, rtol=1e-9, atol=1e-13)


def test_one_prompt_has_numbers_without_axes():
    one = solve_dask(
        da.from_array(np.array([1.0, 0.0]), chunks=1), np.array([0.5, 0.5]), ChiSquared(), 1
    )
    assert np.array_equal(one.policy.compute(), [0.75, 0.25])
    assert (float(one.value), float(one.multiplier)) == (0.625, 0.5)
    assert all(getattr(one, field).shape == () for field in FIELDS)


def test_schedulers_give_the_same_bits(cluster):
    reward, reference, beta = problem()

    def run():
        return solve_dask(
            da.from_array(reward, chunks=(1, 2, 23)), reference, ChiSquared() + KL(), beta
        )

    with cluster.as_current():
        there = run()
    with dask.config.set(scheduler="synchronous"):
        here = run()
        for field in FIELDS:
            assert np.array_equal(getattr(here, field), getattr(there, field)), field


def test_the_policy_is_lazy_and_only_sums_travel(monkeypatch):
    size, computed = 40_000, []
    rng = np.random.default_rng(42)
    reward, reference = rng.normal(size=size), rng.dirichlet(np.ones(size))
    real = dask_arrays._Chunks.reduce

    def watched(self, *arguments):
        result = real(self, *arguments)
        computed.append(sum(x.size for name, x in result.items() if "sample" not in name))
        return result

    monkeypatch.setattr(dask_arrays._Chunks, "reduce", watched)
    monkeypatch.setattr(solving, "_SAMPLE", 512)
    solution = solve_dask(da.from_array(reward, chunks=5000), reference, ChiSquared() + KL(), 0.5)
    assert len(computed) <= 7
    assert max(computed) <= 12
    assert isinstance(solution.policy, da.Array)
    np.testing.assert_allclose(
        solution.policy[7:9].compute(),
        solve(reward, reference, ChiSquared() + KL(), 0.5).policy[7:9],
        rtol=1e-12,
    )


def test_what_both_arrays_come_from_is_computed_once_a_pass(monkeypatch):
    passes, calls = [], []
    real = dask_arrays._Chunks.reduce
    monkeypatch.setattr(
        dask_arrays._Chunks, "reduce", lambda self, *a: passes.append(1) or real(self, *a)
    )

    def costly(block):
        calls.append(1)
        return block + 1.0

    rng = np.random.default_rng(43)
    logits = da.from_array(rng.normal(size=(2, 30)), chunks=(1, 10))
    shared = logits.map_blocks(costly, dtype=float, meta=np.empty((0, 0)))
    weights = da.exp(shared)
    with dask.config.set(scheduler="synchronous"):
        solve_dask(shared, weights / weights.sum(axis=-1, keepdims=True), KL(), 1.0)
    assert len(passes) == 3
    assert len(calls) == 3 * 6


def test_single_precision():
    rng = np.random.default_rng(44)
    reward = rng.normal(size=(2, 500)).astype(np.float32)
    reference = rng.dirichlet(np.ones(500), 2).astype(np.float32)
    solution = solve_dask(da.from_array(reward, chunks=(1, 100)), reference, KL(), 0.5)
    assert solution.policy.dtype == np.float32
    exact = solve(
        reward.astype(float),
        reference / reference.sum(axis=-1, keepdims=True, dtype=float),
        KL(),
        0.5,
    )
    np.testing.assert_allclose(solution.policy.compute(), exact.policy, rtol=1e-5)


def bad(array, index, value):
    array = np.array(array, dtype=float)
    array[index] = value
    return da.from_array(array, chunks=2)


R, P = np.zeros((2, 3, 4)), np.full((3, 4), 0.25)


@pytest.mark.parametrize(
    ("reward", "reference", "message"),
    [
        (bad(R, (1, 2, 3), np.nan), P, r"reward\[1, 2, 3\] is nan; entries must be finite"),
        (R, bad(P, (2, 3), -0.25), r"reference\[2, 3\] is -0\.25; probabilities must not be neg"),
        (R, bad(P, (1, 0), np.inf), r"reference\[1, 0\] is inf; entries must be finite"),
        (R, bad(P, (2, 0), 0.5), r"reference\[2\] sums to 1\.25; rows must sum to 1 within 1e-09"),
        (R, bad(P[:1], (0, 0), 0.5), r"reference\[0\] sums to 1\.25"),
        (R[0, 0], bad(P[0], 2, 0.5), r"reference sums to 1\.25"),
        (bad(R[0, 0], 2, np.nan), P[0], r"reward\[2\] is nan"),
        (da.zeros((2, 3), chunks=2), P, "their last axes must hold the same responses"),
        (da.zeros((2, 4), chunks=2), P, r"shapes do not broadcast: reward \(2,\), reference \(3"),
        (da.zeros((3, 4), dtype=bool), P, "reward has dtype bool"),
        (da.zeros((3, 0)), P[:, :0], r"reward has shape \(3, 0\); it must hold at least one"),
        (da.zeros(9)[da.zeros(9) > 1], P, "its chunks must be known"),
    ],
)
def test_bad_input(reward, reference, message, scheduler):
    reward = reward if isinstance(reward, da.Array) else da.from_array(reward, chunks=2)
    with pytest.raises(ValueError, match=message):
        solve_dask(reward, reference, KL(), 1.0)


def test_more_bad_input(monkeypatch):
    array = da.from_array(R, chunks=2)
    with pytest.raises(ValueError, match="divergence is 'kl'"):
        solve_dask(array, P, "kl", 1.0)
    with pytest.raises(ValueError, match=r"beta is 0\.0"):
        solve_dask(array, P, KL(), 0.0)
    with pytest.raises(ValueError, match="shapes do not broadcast"):
        solve_dask(array, P, KL(), np.ones(5))
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(ImportError, match=r"rlhfsim\[cluster\]"):
        solve_dask(array, P, KL(), 1.0)


def test_chunks_that_change_are_refused():
    rng = np.random.default_rng(45)

    def noise(block):
        return block + rng.normal(size=block.shape)

    reward = da.zeros(400, chunks=50).map_blocks(noise, dtype=float, meta=np.empty(0))
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(SolverError, match="no certified optimum"),
    ):
        solve_dask(reward, np.full(400, 1 / 400), ChiSquared(), 0.5)


def test_solve_sends_dask_arrays_here():
    reward, reference = np.array([[1.0, 0.0, 0.5]] * 2), np.full((2, 3), 1 / 3)
    lazy = solve(da.from_array(reward, chunks=(1, 2)), reference, KL(), 0.5)
    assert isinstance(lazy.policy, da.Array)
    expected = solve(reward, reference, KL(), 0.5)
    np.testing.assert_allclose(lazy.policy.compute(), expected.policy, rtol=1e-14)
    with pytest.raises(ValueError, match="out is given"):
        solve(da.from_array(reward), reference, KL(), 0.5, out=np.empty((2, 3)))
