import itertools
import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from rlhfsim.bandit import ContextualBandit
from rlhfsim.instances import random_bandit
from rlhfsim.preferences import (
    BradleyTerry,
    LabelNoise,
    TrajectoryPreference,
    random_preference,
)
from rlhfsim.sampling import (
    sample_demonstrations,
    sample_preferences,
    sample_rankings,
    sample_scores,
)
from rlhfsim.sampling.alias import TABLE_BITS
from rlhfsim.sampling.launch import Tables
from rlhfsim.sampling.philox import philox
from rlhfsim.threads import get_threads, set_threads

RHO = np.array([0.2, 0.5, 0.3])
REFERENCE = np.array([[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.0]])
REWARD = np.array([[0.0, 1.0, -0.5, 9.0], [2.0, 0.0, 0.0, -1.0], [1.0, 2.0, 3.0, 4.0]])


@pytest.fixture
def bandit():
    return ContextualBandit(RHO, REFERENCE, REWARD)


def exact_cells():
    """P(x, y+, y-), by enumerating the two draws and the label."""
    cells = np.zeros((3, 4, 4))
    for x in range(3):
        for a in range(4):
            for b in range(4):
                both = RHO[x] * REFERENCE[x, a] * REFERENCE[x, b]
                win = 1 / (1 + math.exp(REWARD[x, b] - REWARD[x, a]))
                cells[x, a, b] += both * win
                cells[x, b, a] += both * (1 - win)
    return cells


def counts_of(data):
    counts = np.zeros((*data.shape, data.n_responses), dtype=int)
    np.add.at(counts, (data.prompt, data.chosen, data.rejected), 1)
    return counts


# ---- sampling ------------------------------------------------------------------------------------


def test_frequencies_are_bradley_terry(bandit):
    cells, n = exact_cells(), 2_000_000
    assert cells.sum() == pytest.approx(1, abs=1e-15)
    counts = counts_of(sample_preferences(bandit, n, np.random.default_rng(2024)))
    possible = cells > 0
    assert np.all(counts[~possible] == 0)
    # Each cell within its 1e-5 binomial interval, and all of them together by Pearson's statistic.
    low, high = stats.binom.interval(1 - 1e-5, n, cells[possible])
    assert np.all((low <= counts[possible]) & (counts[possible] <= high))
    test = stats.chisquare(counts[possible], n * cells[possible])
    assert 1e-3 < test.pvalue < 0.999
    # The test has power: with rewards halved the same counts are impossible.
    halved = ContextualBandit(RHO, REFERENCE, REWARD / 2)
    other = counts_of(sample_preferences(halved, n, np.random.default_rng(2024)))
    assert stats.chisquare(other[possible], n * cells[possible]).pvalue < 1e-12


def test_the_two_draws_are_independent(bandit):
    data = sample_preferences(bandit, 100_000, np.random.default_rng(3))
    ties = np.mean(data.chosen == data.rejected)
    expected = float(RHO @ (REFERENCE**2).sum(axis=1))
    assert abs(ties - expected) < 5 * math.sqrt(expected / 100_000)


def test_large_reward_gaps_decide():
    bandit = ContextualBandit([1.0], [[0.5, 0.5]], [[1e6, -1e6]])
    data = sample_preferences(bandit, 1000, np.random.default_rng(0))
    differ = data.chosen != data.rejected
    assert differ.any()
    assert np.all(data.chosen[differ] == 0)


def test_masses_of_zero_are_never_drawn():
    reference = [[0.0, 0.1, 0.0, 0.2, 0.7 - 5e-10, 0.0]]
    bandit = ContextualBandit([0.0, 1.0, 0.0], reference * 3, np.zeros((3, 6)))
    data = sample_preferences(bandit, 50_000, np.random.default_rng(5))
    assert set(data.prompt) == {1}
    assert set(data.chosen) | set(data.rejected) == {1, 3, 4}


def table_law(weights):
    """The exact law of an alias table, from its integers."""
    tables = Tables.of(np.asarray(weights, dtype=float)[None])
    unit, law = 1 << (TABLE_BITS - tables.bits), [0] * tables.size
    for j, entry in enumerate(tables.entries.tolist()):
        threshold, alias = entry >> tables.bits, entry & ((1 << tables.bits) - 1)
        law[j] += threshold
        law[alias] += unit - threshold
    assert sum(law) == tables.size * unit
    return [Fraction(mass, tables.size * unit) for mass in law]


@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1.0)), min_size=1, max_size=40).filter(
        lambda w: sum(w) > 0
    )
)
def test_alias_tables_have_the_law_of_their_weights(weights):
    weights = np.array(weights) / math.fsum(weights)
    for mass, weight in zip(table_law(weights), weights, strict=True):
        assert abs(mass - Fraction(weight)) <= Fraction(weight) * 2**-45 + Fraction(1, 2**60)
        assert (mass == 0) == (weight == 0)


@pytest.mark.parametrize("excess", [-9e-10, 9e-10])
def test_draws_are_from_the_weights_divided_by_their_sum(excess):
    law = table_law([0.5, 0.5 + excess])
    assert float(law[0]) == pytest.approx(0.5 / (1 + excess), rel=1e-14)


def test_philox_gives_the_published_words():
    """Known answers of the authors' library for Philox4x32-10."""
    full = 2**32 - 1
    cases = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((full,) * 4, (full,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, expected in cases:
        low, high = philox(*(np.uint64(c) for c in (*counter, *key)))
        words = (low & 0xFFFFFFFF, low >> 32, high & 0xFFFFFFFF, high >> 32)
        assert tuple(int(w) for w in words) == expected


def assert_law(data, cells, z=5.0):
    counts = counts_of(data)
    n = len(data)
    spread = np.sqrt(n * cells * (1 - cells))
    assert np.all(np.abs(counts - n * cells) <= z * spread + 1e-9)


def test_grouped_rows_have_the_same_law_in_the_order_of_prompts(bandit):
    data = sample_preferences(bandit, 200_000, np.random.default_rng(21), grouped=True)
    assert np.all(np.diff(data.prompt) >= 0)
    assert_law(data, exact_cells())


def test_two_policies_write_the_two_responses(bandit):
    """The first response loses as often as the model says, also against other policies."""
    rng = np.random.default_rng(22)
    one, other = rng.dirichlet(np.ones(4), size=3), rng.dirichlet(np.ones(4), size=3)
    win = expit(REWARD[:, :, None] - REWARD[:, None, :])
    both = RHO[:, None, None] * one[:, :, None] * other[:, None, :]
    cells = both * win + (both * (1 - win)).transpose(0, 2, 1)
    for grouped in (False, True):
        data = sample_preferences(bandit, 200_000, rng, policies=(one, other), grouped=grouped)
        assert_law(data, cells)


@pytest.mark.parametrize("grouped", [False, True])
def test_any_preference_model_labels(bandit, grouped):
    rng = np.random.default_rng(23)
    models = (
        BradleyTerry(REWARD, 2.5),
        LabelNoise(BradleyTerry(REWARD), 0.2),
        random_preference(rng, (3, 4)),
        TrajectoryPreference(np.stack([REWARD, -0.4 * REWARD], axis=-1), 0.5),
    )
    both = RHO[:, None, None] * REFERENCE[:, :, None] * REFERENCE[:, None, :]
    for model in models:
        cells = 2 * both * model.tensor()
        data = sample_preferences(bandit, 200_000, rng, model=model, grouped=grouped)
        assert_law(data, cells)


def test_trajectories_are_labelled_by_their_sums(bandit):
    steps = np.stack([REWARD, -0.4 * REWARD], axis=-1)
    model = TrajectoryPreference(steps, 0.5)
    fast, sums = (
        sample_preferences(bandit, 5000, np.random.default_rng(25), model=kind)
        for kind in (model, BradleyTerry(model.reward, 0.5))
    )
    for name in ("prompt", "chosen", "rejected"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(sums, name))


def test_fast_labels_are_those_of_the_general_route(bandit):
    """The same words decide in both: only rounding at a threshold could tell them apart."""

    class Plain(BradleyTerry):
        pass

    for grouped in (False, True):
        fast, slow = (
            sample_preferences(
                bandit, 50_000, np.random.default_rng(24), model=kind(REWARD), grouped=grouped
            )
            for kind in (BradleyTerry, Plain)
        )
        np.testing.assert_array_equal(fast.prompt, slow.prompt)
        assert (fast.chosen != slow.chosen).mean() <= 1e-4


@pytest.mark.parametrize("grouped", [False, True])
def test_threads_change_nothing(bandit, grouped):
    draws, before = [], get_threads()
    try:
        for count in (1, 2, 3):
            set_threads(count)
            rng = np.random.default_rng(25)
            draws.append(sample_preferences(bandit, 70_001, rng, grouped=grouped))
    finally:
        set_threads(before)
    for other in draws[1:]:
        for name in ("prompt", "chosen", "rejected"):
            np.testing.assert_array_equal(getattr(draws[0], name), getattr(other, name))


def test_sampling_needs_no_memory_but_its_result():
    bandit = random_bandit(n_prompts=10, n_responses=20, rng=np.random.default_rng(26))
    sample_preferences(bandit, 10, np.random.default_rng(0))
    n = 500_000
    tracemalloc.start()
    try:
        sample_preferences(bandit, n, np.random.default_rng(27))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 1.1 * 24 * n


def test_rankings_are_plackett_luce(bandit):
    """Pinned by the law of three draws from one prompt, duplicates included."""
    n, size = 100_000, 3
    data = sample_rankings(bandit, n, np.random.default_rng(28), size=size)
    rows = np.column_stack((data.prompt, data.ranking))
    seen, count = np.unique(rows, axis=0, return_counts=True)
    found = {tuple(int(i) for i in row): int(c) for row, c in zip(seen, count, strict=True)}
    total = 0.0
    for x in range(3):
        e, p = np.exp(REWARD[x]), REFERENCE[x]
        for ranking in itertools.product(range(4), repeat=size):
            chance = math.prod(e[y] / e[list(ranking[k:])].sum() for k, y in enumerate(ranking))
            # All orders in which the same responses may have been drawn end in this ranking.
            orders = len(set(itertools.permutations(range(size))))
            probability = RHO[x] * math.prod(p[list(ranking)]) * chance * orders
            total += probability
            mean = n * probability
            spread = math.sqrt(max(mean * (1 - probability), 0.0))
            assert abs(found.get((x, *ranking), 0) - mean) <= 5 * spread + 1e-9
    assert total == pytest.approx(1.0)


def test_scores_and_demonstrations(bandit):
    data = sample_scores(bandit, 200_000, np.random.default_rng(29), noise=0.5)
    residual = data.score - REWARD[data.prompt, data.response]
    assert abs(residual.mean()) < 5 * 0.5 / math.sqrt(200_000)
    assert abs(residual.std() - 0.5) < 5 * 0.5 / math.sqrt(400_000)
    exact = sample_scores(bandit, 1000, np.random.default_rng(30), noise=0.0)
    np.testing.assert_array_equal(exact.score, REWARD[exact.prompt, exact.response])
    expert = np.array([[0, 0.5, 0.5, 0], [1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    shown = sample_demonstrations(bandit, 100_000, np.random.default_rng(31), expert=expert)
    cells = RHO[:, None] * expert
    counts = np.zeros((3, 4))
    np.add.at(counts, (shown.prompt, shown.response), 1)
    assert np.all(np.abs(counts - 1e5 * cells) <= 5 * np.sqrt(1e5 * cells * (1 - cells)) + 1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": 3}, "model is a int; it must be a PreferenceModel"),
        ({"model": BradleyTerry(np.zeros((2, 4)))}, r"model has shape \(2, 4\)"),
        ({"policies": REFERENCE}, r"(?s)policies is .*must be a pair"),
        ({"policies": (REFERENCE, REFERENCE[:2])}, r"policies\[1\]"),
        ({"policies": (REFERENCE * 2, REFERENCE)}, r"policies\[0\]\[0\] sums to 2.0"),
        ({"grouped": 1}, "grouped is 1; it must be True or False"),
    ],
)
def test_bad_settings(bandit, settings, message):
    with pytest.raises(ValueError, match=message):
        sample_preferences(bandit, 5, np.random.default_rng(0), **settings)


def test_bad_settings_of_other_kinds(bandit):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="size is 1; it must be at least 2"):
        sample_rankings(bandit, 5, rng, size=1)
    with pytest.raises(ValueError, match=r"noise is -1\.0"):
        sample_scores(bandit, 5, rng, noise=-1)
    with pytest.raises(ValueError, match=r"expert\[0\] sums to 0.0"):
        sample_demonstrations(bandit, 5, rng, expert=np.zeros((3, 4)))


def test_seeds_determine_the_data(bandit):
    one, two, other = (
        sample_preferences(bandit, 500, np.random.default_rng(seed)) for seed in (7, 7, 8)
    )
    for name in ("prompt", "chosen", "rejected"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))
    rng = np.random.default_rng(7)
    first, second = sample_preferences(bandit, 500, rng), sample_preferences(bandit, 500, rng)
    assert np.array_equal(first.prompt, one.prompt)
    assert not np.array_equal(first.prompt, second.prompt)


def test_bad_bandit():
    with pytest.raises(ValueError, match="bandit is a ndarray; it must be a ContextualBandit"):
        sample_preferences(REFERENCE, 5, np.random.default_rng(0))


def test_sample_shape(bandit):
    data = sample_preferences(bandit, 1, np.random.default_rng(0))
    assert len(data) == 1
    assert data.shape == (data.n_prompts, data.n_responses) == (3, 4)
    assert data.prompt.dtype == data.chosen.dtype == data.rejected.dtype == np.int64


@pytest.mark.parametrize("n", [0, -3, 2.0, "4", None, True])
def test_bad_n(bandit, n):
    with pytest.raises(ValueError, match="n is "):
        sample_preferences(bandit, n, np.random.default_rng(0))


@pytest.mark.parametrize("rng", [None, 0, np.random.RandomState(0), np.random])
def test_bad_rng(bandit, rng):
    with pytest.raises(ValueError, match=r"rng is a .*; it must be a numpy.random.Generator"):
        sample_preferences(bandit, 5, rng)
