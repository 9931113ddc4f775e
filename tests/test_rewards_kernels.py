"""Compiled fits against independent routes, whatever the threads, the layout and the company."""

import itertools
import warnings

import choix
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reward_problems import (
    assert_exact,
    declined,
    exists_by_brute_force,
    from_wins,
    negative_log_likelihood,
    random_wins,
)
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from rlhfsim import threads
from rlhfsim.compiling import EXACT
from rlhfsim.data import PairCounts, PreferenceData, count_pairs
from rlhfsim.kernels.elementary import log_one_plus_ratio
from rlhfsim.kernels.vectors import LANES, load, spread, store, total
from rlhfsim.rewards import Tabular, fit_reward
from rlhfsim.rewards.compiled import conjugate, lanes, launch, tables


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setattr(threads, "_count", threads._count)
    monkeypatch.setattr(threads, "_pool", None)


def counts_of(*matrices, shape=None):
    """Return the counts of (K, K) matrices, which need not be whole numbers."""
    size = max(len(m) for m in matrices)
    wins = np.zeros((len(matrices), size, size))
    for x, matrix in enumerate(matrices):
        wins[x, : len(matrix), : len(matrix)] = matrix
    x, i, j = np.nonzero(wins)
    return PairCounts(x, i, j, wins[x, i, j], 0.0, shape or (len(matrices), size))


def drawn_wins(rng, size, per_pair, spread=1.0):
    """Return wins between all pairs, of normal rewards."""
    reward = spread * rng.normal(size=size)
    wins = rng.poisson(per_pair * expit(reward[:, None] - reward[None, :])).astype(np.float64)
    np.fill_diagonal(wins, 0.0)
    return wins


def kernel_fits(counts, ridge=0.0):
    (chunk,) = tables.tabulate(counts)[0]
    return launch.fit_tables(chunk, chunk.size > 0, ridge)


def chain(rng, size, largest):
    """Return a chain of comparisons in random order and its estimate, which has a closed form."""
    order = rng.permutation(size)
    up, down = rng.integers(1, largest, size - 1), rng.integers(1, 10, size - 1)
    swap = rng.random(size - 1) < 0.5
    up, down = np.where(swap, down, up), np.where(swap, up, down)
    wins = np.zeros((size, size))
    wins[order[:-1], order[1:]], wins[order[1:], order[:-1]] = up, down
    reward = np.empty(size)
    reward[order] = -np.concatenate(([0.0], np.cumsum(np.log(up / down))))
    return wins, reward - reward.mean()


SIZES = [2, 3, 7, 8, 9, 20, 63, 64, 65, 66, 71, 130, 300]

# ---- the estimate ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("per_pair", [0.3, 4.0, 1e4])
def test_kernels_vouch_for_ordinary_fits_and_are_right(size, per_pair):
    rng = np.random.default_rng([size, int(per_pair)])
    wins = drawn_wins(rng, size, max(per_pair, 8.0 / size))
    # A cycle through all makes the estimate exist.
    wins[np.arange(size), np.roll(np.arange(size), 1)] += 1.0
    fits = kernel_fits(counts_of(wins))
    assert fits.certified.tolist() == [True]
    r, n = fits.reward[0], wins.sum()
    loss, gradient = negative_log_likelihood(wins, r)
    flows = (wins * expit(r[None, :] - r[:, None])).sum(axis=0)
    assert np.all(np.abs(gradient) <= 1e-14 * (1 + np.abs(r).max()) * (flows + flows.max()))
    assert fits.gradient[0] <= 1e-13 * n
    assert fits.loss[0] == pytest.approx(loss, rel=1e-13)
    assert abs(r.mean()) < 1e-14 * (1 + np.abs(r).max())


@pytest.mark.parametrize("size", [2, 3, 5, 70])
@pytest.mark.parametrize("seed", range(3))
def test_fits_are_exact_in_high_precision(size, seed):
    rng = np.random.default_rng([seed, size])
    if size == 70:
        wins, expected = chain(rng, size, 50)
        np.testing.assert_allclose(kernel_fits(counts_of(wins)).reward[0], expected, atol=1e-13)
        return
    wins = drawn_wins(rng, size, 10.0) + 1.0 - np.eye(size)
    fits = kernel_fits(counts_of(wins))
    assert fits.certified.all()
    pinned = fits.reward[0] - fits.reward[0][0]
    assert_exact_pinned(wins, pinned)


def assert_exact_pinned(wins, r):
    """Compare with 40 digits of Newton's method, the first reward held at 0."""
    size = len(wins)
    with mpmath.workdps(40):
        exact = [mpmath.mpf(float(v)) for v in r]
        for _ in range(8):
            s = [[1 / (1 + mpmath.exp(b - a)) for b in exact] for a in exact]
            gradient = mpmath.matrix(
                [
                    sum(int(wins[j, i]) * s[i][j] - int(wins[i, j]) * s[j][i] for j in range(size))
                    for i in range(1, size)
                ]
            )
            hessian = mpmath.matrix(size - 1)
            for i in range(1, size):
                for j in range(size):
                    w = int(wins[i, j] + wins[j, i]) * s[i][j] * s[j][i]
                    if j != i:
                        hessian[i - 1, i - 1] += w
                        if j > 0:
                            hessian[i - 1, j - 1] -= w
            step = mpmath.lu_solve(hessian, gradient)
            exact = [exact[0], *(exact[i + 1] - step[i] for i in range(size - 1))]
        assert max(abs(v) for v in step) < mpmath.mpf(10) ** -30
        np.testing.assert_allclose(r, [float(v) for v in exact], rtol=0, atol=2e-15 * size)


@pytest.mark.parametrize(("size", "per_pair"), [(12, 6.0), (90, 1.0)])
def test_fits_agree_with_scipy_scikit_learn_and_choix(size, per_pair):
    rng = np.random.default_rng(size)
    wins = drawn_wins(rng, size, per_pair)
    wins[np.arange(size), np.roll(np.arange(size), 1)] += 1.0
    data = from_wins(wins.astype(np.int64))
    ours = fit_reward(data).reward[0]

    def centred(reward):
        return reward - reward.mean()

    by_scipy = minimize(
        lambda r: negative_log_likelihood(wins, r),
        np.zeros(size),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-16, "gtol": 1e-9, "maxiter": 10_000, "maxfun": 10_000},
    ).x
    np.testing.assert_allclose(ours, centred(by_scipy), rtol=0, atol=2e-5)

    sign = np.where(np.arange(len(data)) % 2 == 0, 1.0, -1.0)
    differences = np.zeros((len(data), size))
    differences[np.arange(len(data)), data.chosen] = sign
    differences[np.arange(len(data)), data.rejected] = -sign
    model = LogisticRegression(C=np.inf, solver="newton-cg", fit_intercept=False, tol=1e-10)
    with warnings.catch_warnings():
        # The line search gives up where function values no longer differ.
        warnings.simplefilter("ignore")
        model.fit(differences, sign > 0)
    np.testing.assert_allclose(ours, centred(model.coef_[0]), rtol=0, atol=1e-5)

    rows = list(zip(data.chosen.tolist(), data.rejected.tolist(), strict=True))
    by_choix = choix.ilsr_pairwise(size, rows, tol=1e-12, max_iter=1000)
    np.testing.assert_allclose(ours, centred(by_choix), rtol=0, atol=1e-9)
    by_newton = choix.opt_pairwise(size, rows, alpha=0.0, method="Newton-CG", tol=1e-10)
    np.testing.assert_allclose(ours, centred(by_newton), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "largest"), [(10, 10), (10, 10**6), (60, 10**6), (65, 10), (300, 10)]
)
def test_chains_have_a_closed_form(size, largest):
    wins, expected = chain(np.random.default_rng([size, largest]), size, largest)
    fits = kernel_fits(counts_of(wins))
    assert fits.certified.all()
    # As many sums of logarithms, each of two rounded numbers, as there are links.
    np.testing.assert_allclose(
        fits.reward[0], expected, rtol=0, atol=1e-15 * (size + np.ptp(expected))
    )


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("size", "faint"), [(8, 1e-9), (60, 1e-7), (80, 1e-5)])
def test_faint_links_between_two_groups_are_not_lost(size, faint, whole):
    """Directions of whole counts begin in singles, which lose such a link."""
    rng = np.random.default_rng(size)
    half = size // 2
    wins = np.zeros((size, size))
    wins[:half, :half], wins[half:, half:] = (
        drawn_wins(rng, half, 50.0),
        drawn_wins(rng, half, 50.0),
    )
    wins[0, half], wins[half, 0] = 3 * faint, faint
    if whole:
        wins = np.round(wins / faint)
    order = rng.permutation(size)
    shuffled = np.empty_like(wins)
    shuffled[np.ix_(order, order)] = wins
    fit = fit_reward(counts_of(shuffled))
    r = fit.reward[0][order]
    # One link alone carries everything between the groups.  Its weight beside the rounding of the
    # flows inside them, some 1e-14, says how far it can be off; conjugate gradients stop at a few.
    few = 1 if size <= lanes.LARGEST else 10
    np.testing.assert_allclose(r[0] - r[half], np.log(3), rtol=0, atol=few * 1e-14 / faint)
    parts = [
        fit_reward(counts_of(part)).reward[0] for part in (wins[:half, :half], wins[half:, half:])
    ]
    for part, found in zip(parts, (r[:half], r[half:]), strict=True):
        np.testing.assert_allclose(found - found.mean(), part - part.mean(), rtol=0, atol=1e-6)


def test_a_link_of_any_faintness_leaves_the_rest_as_it_is():
    rng = np.random.default_rng(0)
    for faint in (1e-6, 1e-10, 1e-13):
        wins = np.zeros((6, 6))
        for i in (0, 2, 3, 4):
            wins[i, i + 1], wins[i + 1, i] = rng.integers(100, 900, 2)
        wins[1, 2], wins[2, 1] = 5 * faint, faint
        fits = kernel_fits(counts_of(wins))
        assert fits.certified.all()
        exact = np.log([wins[i, i + 1] / wins[i + 1, i] for i in range(5)])
        error = np.abs(-np.diff(fits.reward[0]) - exact)
        assert error[[0, 2, 3, 4]].max() < 1e-14
        # The flows beside the faint link are some hundred comparisons, rounded.
        assert error[1] < 1e-15 * 200 / faint


@pytest.mark.parametrize("size", [90, 100])
def test_what_conjugate_gradients_cannot_do_goes_to_the_general_route(size):
    wins, expected = chain(np.random.default_rng(3), size, 10**6)
    assert not kernel_fits(counts_of(wins)).certified.any()
    fit = fit_reward(counts_of(wins))
    np.testing.assert_allclose(fit.reward[0], expected, rtol=0, atol=1e-12)
    assert fit.gradient_norm < 1e-10


def test_rewards_too_far_apart_for_exponentials_are_handed_back():
    wins = np.array([[0.0, 1.0, 0.0], [1e-290, 0.0, 1.0], [0.0, 1e-290, 0.0]])
    assert not kernel_fits(counts_of(wins)).certified.any()


@given(st.integers(0, 2**32), st.integers(2, 6), st.floats(0.1, 0.9), st.sampled_from([1, 6, 1e5]))
def test_any_estimate_that_exists_is_stationary(seed, size, density, largest):
    rng = np.random.default_rng(seed)
    wins = np.ceil(rng.exponential(largest, (size, size))) * (rng.random((size, size)) < density)
    np.fill_diagonal(wins, 0.0)
    if not exists_by_brute_force(wins):
        return
    fit = fit_reward(counts_of(wins))
    played = wins.any(axis=0) | wins.any(axis=1)
    flow = wins * expit(fit.reward[0][None, :] - fit.reward[0][:, None])
    total_flow = flow.sum(axis=0) + flow.sum(axis=1)
    net = flow.sum(axis=0) - flow.sum(axis=1)
    assert np.all(np.abs(net) <= 1e-13 * total_flow)
    assert fit.gradient_norm == pytest.approx(np.abs(net).max(), abs=1e-13 * total_flow.max())
    assert abs(fit.reward[0][played].mean()) < 1e-13
    assert np.all(fit.reward[0][~played] == 0.0)


def test_both_routes_agree(monkeypatch):
    rng = np.random.default_rng(2)
    matrices = [drawn_wins(rng, size, 9.0) + 1.0 - np.eye(size) for size in (2, 5, 13, 64, 80)]
    counts = counts_of(*matrices)
    models = (Tabular(), Tabular(r_max=1.0), Tabular(r_max=9.0), Tabular(ridge=0.7))
    ours = [fit_reward(counts, model) for model in models]
    declined(monkeypatch)
    for model, one in zip(models, ours, strict=True):
        other = fit_reward(counts, model)
        np.testing.assert_allclose(one.reward, other.reward, rtol=0, atol=2e-13)
        assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-13)
        np.testing.assert_array_equal(one.compared, other.compared)


# ---- ridge -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 3.0, 1e4])
@pytest.mark.parametrize("seed", range(3))
def test_ridge_fits_are_exact_also_of_separable_data(seed, ridge):
    rng = np.random.default_rng([seed, 5])
    wins = random_wins(rng, 5, 1.0) * rng.integers(1, 40)
    wins[0, 1:] += 1
    fits = kernel_fits(counts_of(wins), ridge)
    assert fits.certified.all()
    assert_exact(wins, fits.reward[0], ridge=ridge, atol=1e-12)
    gradient = negative_log_likelihood(wins, fits.reward[0])[1] + ridge * fits.reward[0]
    assert np.abs(gradient).max() <= 1e-13 * (wins.sum() + ridge)


def test_a_ridge_too_faint_for_the_kernel_is_handed_back():
    wins = np.array([[0.0, 4.0], [0.0, 0.0]])
    assert kernel_fits(counts_of(wins), 4e-6).certified.all()
    assert not kernel_fits(counts_of(wins), 3.9e-6).certified.any()


# ---- within a box ------------------------------------------------------------------------------


def boxed_fits(counts, r_max):
    (chunk,) = tables.tabulate(counts)[0]
    return launch.fit_boxed_tables(chunk, chunk.size > 0, r_max)


def sparse_wins(rng, size, density):
    """Return wins whose graph may fall apart, in which some responses only win or only lose."""
    wins = rng.poisson(density, (size, size)) * 10.0 ** rng.integers(0, 3)
    wins *= rng.random((size, size)) < rng.uniform(0.1, 1.0)
    np.fill_diagonal(wins, 0.0)
    wins[0, 1] += 1.0
    return wins


@pytest.mark.parametrize("r_max", [0.03, 0.5, 2.0, 7.0])
def test_boxed_lanes_agree_with_the_general_route(r_max, monkeypatch):
    rng = np.random.default_rng(int(100 * r_max))
    sizes = [2, 3, 5, 5, 8, 8, 11, 30, 64]
    counts = counts_of(*(sparse_wins(rng, size, 10 ** rng.uniform(-1, 1)) for size in sizes))
    fits = boxed_fits(counts, r_max)
    assert fits.certified.all()
    ours = fit_reward(counts, Tabular(r_max=r_max))
    declined(monkeypatch)
    other = fit_reward(counts, Tabular(r_max=r_max))
    np.testing.assert_allclose(ours.reward, other.reward, rtol=0, atol=1e-12)
    # Some need no box, and are the free estimate, which other lanes found.
    compared = np.where(ours.compared, ours.reward, 0.0)
    np.testing.assert_allclose(fits.reward, compared, rtol=0, atol=1e-13)
    on_bounds = ours.compared & ((ours.reward == 0.0) | (ours.reward == r_max))
    assert on_bounds.any(axis=1).sum() > 4
    assert ours.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-13)
    assert ours.gradient_norm <= 1e-12 * counts.count.sum()


@given(st.integers(0, 10**6), st.floats(0.05, 8.0), st.integers(2, 6))
def test_boxed_lanes_are_exact(seed, r_max, size):
    # The first response beats all others and never loses, so that some are held on bounds.
    wins = sparse_wins(np.random.default_rng(seed), size, 2.0)
    wins[:, 0] = 0.0
    wins[0, 1:] += 1.0
    fits = boxed_fits(counts_of(wins), r_max)
    assert fits.certified[0]
    assert_exact(wins, fits.reward[0], r_max=r_max, atol=1e-12)


def test_faint_links_are_declined_where_rounding_would_show():
    wins = np.array([[0, 5000, 0, 0], [4000, 0, 1, 0], [0, 0, 0, 5000], [0, 0, 4000, 0]], float)
    certified = [boxed_fits(counts_of(wins), r_max).certified[0] for r_max in (1.0, 40.0)]
    assert certified == [True, False]


def test_a_box_that_binds_nothing_changes_nothing():
    rng = np.random.default_rng(3)
    counts = counts_of(*(drawn_wins(rng, 9, 6.0) + 1.0 - np.eye(9) for _ in range(11)))
    free = kernel_fits(counts)
    fits = boxed_fits(counts, 9.0)
    assert fits.certified.all()
    middle = (fits.reward.max(axis=1) + fits.reward.min(axis=1)) / 2
    np.testing.assert_allclose(middle, 4.5, rtol=0, atol=1e-14)
    centred = fits.reward - fits.reward.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(centred, free.reward, rtol=0, atol=1e-13)
    np.testing.assert_allclose(fits.loss, free.loss, rtol=1e-14)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("options", [{"r_max": 1.3}, {"ridge": 0.3}])
def test_prompts_know_neither_their_company_nor_the_threads(options, workers):
    rng = np.random.default_rng(8)
    matrices = [sparse_wins(rng, int(size), 1.0) for size in rng.integers(2, 20, 41)]
    threads.set_threads(workers)
    whole = fit_reward(counts_of(*matrices), Tabular(**options)).reward
    for x, wins in enumerate(matrices):
        alone = fit_reward(counts_of(wins), Tabular(**options)).reward[0]
        np.testing.assert_array_equal(whole[x, : len(wins)], alone)


# ---- whatever the company ----------------------------------------------------------------------


def mixed_data(rng, prompts=37, responses=12):
    """Return data whose prompts compare different numbers of responses."""
    rows = []
    for x in range(prompts):
        some = rng.permutation(responses)[: rng.integers(2, responses + 1)]
        wins = rng.poisson(2.0, (some.size, some.size)) + 1
        i, j = np.nonzero(~np.eye(some.size, dtype=bool))
        times = wins[i, j]
        rows.append(
            np.stack(
                [np.full(times.sum(), x), np.repeat(some[i], times), np.repeat(some[j], times)]
            )
        )
    columns = np.concatenate(rows, axis=1)
    return PreferenceData(*columns[:, rng.permutation(columns.shape[1])], (prompts, responses))


def test_a_batch_is_a_loop_bit_by_bit():
    rng = np.random.default_rng(1)
    data = mixed_data(rng)
    whole = fit_reward(data)
    assert len({int(n) for n in whole.compared.sum(axis=1)}) > 6
    losses = []
    for x in range(data.n_prompts):
        rows = data.prompt == x
        alone = PreferenceData(
            np.zeros(rows.sum(), int), data.chosen[rows], data.rejected[rows], (1, data.n_responses)
        )
        fit = fit_reward(alone)
        np.testing.assert_array_equal(fit.reward[0], whole.reward[x])
        np.testing.assert_array_equal(fit.compared[0], whole.compared[x])
        losses.append(-fit.log_likelihood)
    assert whole.log_likelihood == -np.array(losses).sum()


def test_layout_and_order_change_no_bit(monkeypatch):
    rng = np.random.default_rng(4)
    data = mixed_data(rng)
    found = [fit_reward(data), fit_reward(count_pairs(data))]
    order = rng.permutation(len(data))
    columns = (data.prompt, data.chosen, data.rejected)
    found.append(fit_reward(PreferenceData(*(c[order] for c in columns), data.shape)))
    wide = (data.n_prompts + 2, 400)
    monkeypatch.setattr(tables, "_HELD", 1)
    found.append(fit_reward(count_pairs(data)))
    monkeypatch.undo()
    ridge = [fit_reward(d, Tabular(ridge=0.5)) for d in (data, PreferenceData(*columns, wide))]
    np.testing.assert_array_equal(
        ridge[0].reward, ridge[1].reward[: data.n_prompts, : data.n_responses]
    )
    for fit in found[1:]:
        for name in ("reward", "compared", "exists"):
            np.testing.assert_array_equal(getattr(fit, name), getattr(found[0], name))
        assert fit.log_likelihood == found[0].log_likelihood
        assert fit.gradient_norm == found[0].gradient_norm


@pytest.mark.parametrize("size", [30, 64, 65, 300, 700])
def test_threads_change_no_bit(size, monkeypatch):
    for name in ("_WORTH_A_THREAD", "_WORTH_A_CREW", "_WORTH_A_SEARCH"):
        monkeypatch.setattr(launch, name, 1)
    monkeypatch.setattr(tables, "_WORTH_A_THREAD", 100)
    rng = np.random.default_rng(size)
    prompts = 19 if size < 65 else 3
    n = prompts * size * 20
    data = PreferenceData(
        rng.integers(0, prompts, n), *rng.integers(0, size, (2, n)), (prompts, size)
    )
    found = []
    for count in (1, 2, 3, 7):
        threads.set_threads(count)
        found.append(fit_reward(data))
        assert found[-1].gradient_norm <= 1e-10 * n
    for fit in found[1:]:
        np.testing.assert_array_equal(fit.reward, found[0].reward)
        assert fit.log_likelihood == found[0].log_likelihood


def test_a_crew_of_one_does_the_work_of_helpers_that_never_come(monkeypatch):
    # The helpers are called after the leader has finished, as where the pool is busy.
    wins = drawn_wins(np.random.default_rng(6), 300, 3.0) + 1.0 - np.eye(300)
    alone = fit_reward(counts_of(wins)).reward

    def one_by_one(task, calls):
        return [task(*call) for call in (calls[-1], *calls[:-1])]

    monkeypatch.setattr(launch, "in_parallel", one_by_one)
    monkeypatch.setattr(launch, "_WORTH_A_CREW", 1)
    threads.set_threads(3)
    np.testing.assert_array_equal(fit_reward(counts_of(wins)).reward, alone)


@pytest.mark.parametrize("size", [4, 40, 90])
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 7.0, 1e9])
def test_counts_may_be_weights_of_any_size(size, scale):
    rng = np.random.default_rng(size)
    wins = drawn_wins(rng, size, 5.0) + 1.0 - np.eye(size)
    one, other = fit_reward(counts_of(wins)), fit_reward(counts_of(wins * scale))
    np.testing.assert_allclose(other.reward, one.reward, rtol=0, atol=1e-14 * size)
    assert other.log_likelihood == pytest.approx(scale * one.log_likelihood, rel=1e-13)
    assert other.gradient_norm <= 1e-13 * scale * wins.sum()
    bounded = [fit_reward(counts_of(w), Tabular(r_max=0.4)) for w in (wins, wins * scale)]
    np.testing.assert_allclose(bounded[1].reward, bounded[0].reward, rtol=0, atol=1e-12)
    shrunk = [
        fit_reward(counts_of(w), Tabular(ridge=c))
        for w, c in ((wins, 0.3), (wins * scale, 0.3 * scale))
    ]
    np.testing.assert_allclose(shrunk[1].reward, shrunk[0].reward, rtol=0, atol=1e-13 * size)


@pytest.mark.parametrize("size", [4, 20, 50])
def test_directions_in_singles_end_where_those_in_doubles_do(size):
    """Halves of counts are not whole, so that all their directions are in doubles."""
    rng = np.random.default_rng(size)
    wins = drawn_wins(rng, size, 4.0) + 1.0 - np.eye(size)
    one, other = kernel_fits(counts_of(wins)), kernel_fits(counts_of(wins * 0.5))
    assert one.certified.all()
    assert other.certified.all()
    # Halving is exact: only the directions differ.
    assert not np.array_equal(one.reward, other.reward)
    np.testing.assert_allclose(other.reward, one.reward, rtol=0, atol=2e-15 * size)
    np.testing.assert_allclose(other.gradient, 0.5 * one.gradient, rtol=0, atol=1e-13 * size)


def test_counts_beyond_singles_are_fitted_in_doubles():
    wins = drawn_wins(np.random.default_rng(9), 12, 4.0) + 1.0 - np.eye(12)
    one, other = kernel_fits(counts_of(wins)), kernel_fits(counts_of(wins * 2.0**130))
    assert other.certified.all()
    np.testing.assert_allclose(other.reward, one.reward, rtol=0, atol=1e-14)


def test_unreached_certificate_is_not_vouched_for(monkeypatch):
    wins = drawn_wins(np.random.default_rng(8), 10, 4.0) + 1.0 - np.eye(10)
    for name, value in (("SLOPE_PER_COMPARISON", 0.0), ("_FINAL_STEP", 0.0)):
        monkeypatch.setattr(launch, name, value)
        assert not kernel_fits(counts_of(wins)).certified.any()
        monkeypatch.undo()
    big = drawn_wins(np.random.default_rng(8), 70, 4.0) + 1.0 - np.eye(70)
    for name, value in (("SLOPE_PER_COMPARISON", 0.0), ("_FINAL_LONG_STEP", 0.0)):
        monkeypatch.setattr(launch, name, value)
        assert not kernel_fits(counts_of(big)).certified.any()
        monkeypatch.undo()


# ---- parts -------------------------------------------------------------------------------------


@EXACT
def _log_one_plus(small, large, out):
    for k in range(0, small.size, LANES):
        store(out, k, log_one_plus_ratio(load(small, k), load(large, k)))


def test_log_one_plus_ratio_is_right_to_two_ulp():
    rng = np.random.default_rng(0)
    large = 10.0 ** rng.uniform(-100, 100, 4096)
    ratio = np.concatenate([rng.random(2048), 10.0 ** rng.uniform(-300, 0, 2040), [0, 1] * 4])
    small, out = ratio * large, np.empty(4096)
    _log_one_plus(small, large, out)
    with mpmath.workdps(40):
        exact = [
            float(mpmath.log1p(mpmath.mpf(a) / mpmath.mpf(b)))
            for a, b in zip(small.tolist(), large.tolist(), strict=True)
        ]
    assert np.all(np.abs(out - exact) <= 2 * np.spacing(exact))


@EXACT
def _sums(values, out):
    out[0] = total(load(values, 0))
    out[1] = total(load(values, 3))
    out[2] = total(spread(out[0]))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_vectors_load_from_anywhere(dtype):
    values, out = np.arange(12).astype(dtype), np.empty(3)
    _sums(values, out)
    assert out.tolist() == [28.0, 52.0, 224.0]


def test_tables_hold_the_wins_of_every_prompt():
    data = mixed_data(np.random.default_rng(9))
    expected = list(count_pairs(data).by_prompt())
    for given_ in (data, count_pairs(data)):
        (chunk,), equal = tables.tabulate(given_)
        assert equal == 0.0
        for x, group in enumerate(expected):
            found = chunk.group(x)
            assert found.prompt == x
            np.testing.assert_array_equal(found.responses, group.responses)
            np.testing.assert_array_equal(found.wins, group.wins)
        np.testing.assert_array_equal(chunk.total, [group.wins.sum() for group in expected])


def test_the_blocks_of_a_crew_cover_every_row_once():
    for size in (65, 128, 300, 1000, 5000):
        blocks = conjugate.blocks_of(size)
        cuts = [conjugate._first_row(b, blocks, size) for b in range(blocks + 1)]
        assert cuts[0] == 0
        assert cuts[-1] == size
        assert all(a < b and a % 4 == 0 for a, b in itertools.pairwise(cuts))
    assert lanes.LARGEST == 64


@pytest.mark.parametrize("size", [2, 3, 8, 9, 20, 33, 62, 63, 64, 65, 70])
def test_connectivity_is_that_of_scipy(size):
    rng = np.random.default_rng(size)
    matrices = []
    for edges in rng.integers(size // 2, 6 * size, 60):
        wins = np.zeros((size, size))
        wins[rng.integers(0, size, edges), rng.integers(0, size, edges)] = 1.0
        # A cycle, of which an edge may be missing.
        order = rng.permutation(size)
        if rng.random() < 0.5:
            wins[order, np.roll(order, 1)] = 1.0
            wins[order[0], order[-1]] = rng.integers(0, 2)
        np.fill_diagonal(wins, 0.0)
        if wins.any():
            matrices.append(wins)
    (chunk,) = tables.tabulate(counts_of(*matrices))[0]
    found = {kind: [] for kind in ("strong", "weak")}
    for x, wins in enumerate(matrices):
        some = chunk.members_of(x)
        for kind, answers in found.items():
            count, _ = connected_components(wins[np.ix_(some, some)], connection=kind)
            answers.append(count == 1)
    assert launch.connected(chunk, strong=True).tolist() == found["strong"]
    assert launch.connected(chunk, strong=False).tolist() == found["weak"]
    assert 5 < sum(found["strong"]) < len(matrices) - 5 or size == 2
