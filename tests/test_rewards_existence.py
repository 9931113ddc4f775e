"""Existence of the unconstrained estimate: the compiled search against brute force and scipy."""

import itertools

import numpy as np
import pytest
from reward_problems import from_wins
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from rlhfsim import threads
from rlhfsim.data import PairCounts, PreferenceData, count_pairs
from rlhfsim.rewards import FiniteClass, MLEDoesNotExistError, Tabular, fit_reward, mle_exists
from rlhfsim.rewards.compiled import launch, tables


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setattr(threads, "_count", threads._count)
    monkeypatch.setattr(threads, "_pool", None)


def exist_by_splits(edges):
    """Return for (G, K, K) graphs whether every split of the compared nodes is crossed both ways.

    A split with all compared nodes on one side is none.
    """
    size = edges.shape[1]
    played = edges.any(axis=1) | edges.any(axis=2)
    exists = played.any(axis=1)
    for chosen in itertools.product((False, True), repeat=size - 1):
        side = np.array([*chosen, False])
        out = edges[:, side][:, :, ~side].any(axis=(1, 2))
        back = edges[:, ~side][:, :, side].any(axis=(1, 2))
        split = played[:, side].any(axis=1) & played[:, ~side].any(axis=1)
        exists &= ~split | (out & back)
    return exists


def graphs_of(size, numbers):
    """Return the graphs whose edges are the bits of the numbers, as (G, K, K) booleans."""
    places = np.nonzero(~np.eye(size, dtype=bool))
    edges = np.zeros((len(numbers), size, size), dtype=bool)
    edges[:, places[0], places[1]] = (numbers[:, None] >> np.arange(len(places[0]))) & 1
    return edges


def counts_of(edges):
    x, i, j = np.nonzero(edges)
    return PairCounts(x, i, j, np.ones(x.size), 0.0, edges.shape[:2])


@pytest.mark.parametrize(("size", "exist"), [(2, 1), (3, 21), (4, 1684)])
def test_every_graph_up_to_four_responses(size, exist):
    edges = graphs_of(size, np.arange(2 ** (size * (size - 1))))
    expected = exist_by_splits(edges)
    # Strongly connected labelled digraphs number 1, 18, 1606 on 2, 3, 4 nodes (OEIS A003030); the
    # others here leave some responses out: 18 + 3 = 21 and 1606 + 4 * 18 + 6 = 1684.
    np.testing.assert_array_equal(mle_exists(counts_of(edges)), expected)
    assert expected.sum() == exist


def test_every_graph_of_five_responses():
    for begin in range(0, 1 << 20, 1 << 16):
        edges = graphs_of(5, np.arange(begin, begin + (1 << 16)))
        expected = exist_by_splits(edges)
        np.testing.assert_array_equal(mle_exists(counts_of(edges)), expected)
        assert 0 < expected.sum() < expected.size


def random_graph(rng, size, degree):
    wins = rng.random((size, size)) < degree / size
    np.fill_diagonal(wins, False)
    return wins


def by_scipy(wins, connection):
    played = np.nonzero(wins.any(axis=0) | wins.any(axis=1))[0]
    graph = csr_array(wins[np.ix_(played, played)].astype(float))
    return played.size > 0 and connected_components(graph, True, connection)[0] == 1


@pytest.mark.parametrize("size", [6, 17, 64, 65, 150])
def test_random_graphs_agree_with_scipy(size):
    rng = np.random.default_rng(size)
    # Around the degree at which random graphs become (strongly) connected.
    degrees = np.log(size) + rng.uniform(-2.5, 2.5, 120)
    edges = np.stack([random_graph(rng, size, degree) for degree in degrees])
    (chunk,) = tables.tabulate(counts_of(edges))[0]
    for connection in ("strong", "weak"):
        expected = [by_scipy(wins, connection) for wins in edges]
        found = launch.connected(chunk, strong=connection == "strong")
        np.testing.assert_array_equal(found, expected)
        assert connection == "weak" or 10 < sum(expected) < 110


@pytest.mark.parametrize("size", [2, 5, 70, 500])
def test_long_cycles_exist_and_paths_do_not(size):
    rng = np.random.default_rng(size)
    for order in (np.arange(size), np.arange(size)[::-1], rng.permutation(size)):
        wins = np.zeros((2, size, size), dtype=bool)
        wins[:, order, np.roll(order, -1)] = True
        wins[1, order[-1], order[0]] = False
        assert mle_exists(counts_of(wins)).tolist() == [True, False]


def test_two_halves_joined_one_way_only():
    rng = np.random.default_rng(1)
    for size in (30, 200):
        wins = np.ones((3, size, size), dtype=bool) & ~np.eye(size, dtype=bool)
        side = rng.permutation(size) < size // 2
        wins[0][np.ix_(side, ~side)] = False
        wins[1][np.ix_(~side, side)] = False
        assert mle_exists(counts_of(wins)).tolist() == [False, False, True]


def test_data_and_counts_agree_however_they_are_laid_out(monkeypatch):
    rng = np.random.default_rng(7)
    n, shape = 4000, (60, 9)
    data = PreferenceData(
        rng.integers(0, shape[0] - 1, n), *rng.integers(0, shape[1], (2, n)), shape
    )
    thin = PreferenceData(data.prompt[:1800], data.chosen[:1800], data.rejected[:1800], shape)
    for given in (data, thin):
        expected = mle_exists(given)
        np.testing.assert_array_equal(mle_exists(count_pairs(given)), expected)
        monkeypatch.setattr(tables, "_DENSE", -(10**6))
        np.testing.assert_array_equal(mle_exists(given), expected)
        monkeypatch.setattr(tables, "_HELD", 1)
        np.testing.assert_array_equal(mle_exists(given), expected)
        monkeypatch.undo()
    assert 5 < expected.sum() < 55


def test_answer_does_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr(launch, "_WORTH_A_SEARCH", 1)
    rng = np.random.default_rng(11)
    edges = np.stack([random_graph(rng, 12, 2.5) for _ in range(101)])
    found = []
    for count in (1, 2, 3, 200):
        threads.set_threads(count)
        found.append(mle_exists(counts_of(edges)).tolist())
    assert found == [found[0]] * 4
    assert 10 < sum(found[0]) < 91


def test_first_failing_prompt_is_named_across_chunks(monkeypatch):
    monkeypatch.setattr(tables, "_HELD", 1)
    good, bad = [[0, 1], [1, 0]], [[0, 1], [0, 0]]
    counts = count_pairs(from_wins(good, good, bad, good, bad))
    assert mle_exists(counts).tolist() == [True, True, False, True, False]
    with pytest.raises(MLEDoesNotExistError, match=r"prompt 2 .* \[0\] never lose to") as caught:
        fit_reward(counts)
    assert caught.value.prompt == 2


def test_every_fit_says_where_the_estimate_exists():
    data = from_wins([[0, 1], [1, 0]], [[0, 1], [0, 0]], [[0, 0], [0, 0]])
    rewards = np.zeros((2, 3, 2))
    for model in (Tabular(r_max=1.0), Tabular(ridge=0.1), FiniteClass(rewards)):
        fit = fit_reward(data, model)
        assert fit.exists.tolist() == [True, False, False]
        assert not fit.exists.flags.writeable
    only = PreferenceData([0, 0], [0, 1], [1, 0])
    assert fit_reward(only).exists.tolist() == [True]


@pytest.mark.parametrize("wrong", [[[0, 1]], None, np.zeros((2, 3))])
def test_data_of_another_kind_are_refused(wrong):
    with pytest.raises(ValueError, match="it must be a PreferenceData or PairCounts"):
        mle_exists(wrong)
