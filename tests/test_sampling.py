import math

import numpy as np
import pytest
from scipy import stats

from rlhfsim.bandit import ContextualBandit
from rlhfsim.sampling import sample_preferences
from rlhfsim.sampling.preferences import _inverse_cdf

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


@pytest.mark.parametrize("excess", [-9e-10, 9e-10])
def test_draws_are_from_the_weights_divided_by_their_sum(excess):
    # Between 1/2 and the first weight's share lie about 4e-10; a raw sum decides there otherwise.
    weights = np.array([0.5, 0.5 + excess])
    share = 0.5 / (1 + excess)
    uniforms = np.array([0.0, share - 1e-12, share + 1e-12, 1 - 2**-53])
    assert _inverse_cdf(weights, uniforms).tolist() == [0, 0, 1, 1]


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
