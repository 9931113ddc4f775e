"""The bootstrap against the law of resampled rows, order statistics and its conventions."""

import copy
import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
from confidence_data import counts_of, data_of, draw_wins
from scipy.stats import binom, chisquare

from rlhfsim.data import PreferenceData
from rlhfsim.data.counts import as_counts
from rlhfsim.rewards import FiniteClass, MLEDoesNotExistError, RewardFit, Tabular, fit_reward
from rlhfsim.rewards.confidence import Ensemble, bootstrap
from rlhfsim.rewards.linear import Linear


class WinCounts:
    """A user's own model: the reward of a response is how often it won."""

    def fit(self, data, rng=None):
        counts = as_counts(data)
        reward = np.zeros(counts.shape)
        np.add.at(reward, (counts.prompt, counts.winner), counts.count)
        return RewardFit(reward, 0.0, 0.0, counts.compared)


def wins_of(seed=0, n=400):
    rng = np.random.default_rng(seed)
    return draw_wins(rng, [[0.0, 0.5, 1.0], [1.0, 0.0, 0.3]], np.full((2, 3), 1 / 3), n, 1)[0]


# ---- resampling -------------------------------------------------------------------------------


def test_members_have_the_law_of_rows_drawn_with_replacement():
    """All 4^4 ways to draw four rows from four, of which two are alike and one is an equal pair."""
    rows = [(0, 0, 1), (0, 0, 1), (0, 1, 2), (0, 2, 2)]
    data = PreferenceData(*np.transpose(rows), (1, 3))
    members = 4000
    ensemble = bootstrap(data, WinCounts(), members, np.random.default_rng(5))
    expected = Counter()
    for drawn in itertools.product(rows, repeat=4):
        wins = [sum(r[1] == y and r[1] != r[2] for r in drawn) for y in range(3)]
        expected[tuple(wins)] += members / 4**4
    found = Counter(tuple(r[0].astype(int)) for r in ensemble.rewards)
    assert set(found) <= set(expected)
    # Law of (draws of the first pair, of the second): 15 outcomes; p-value above 1e-3 expected.
    keys = sorted(expected)
    assert chisquare([found[k] for k in keys], [expected[k] for k in keys]).pvalue > 1e-3


def test_every_member_has_as_many_rows_as_the_data():
    totals = []

    class Size:
        def fit(self, data, rng=None):
            counts = as_counts(data)
            assert (counts.count > 0).all()
            totals.append(counts.count.sum() + counts.equal_pairs)
            return WinCounts().fit(data)

    bootstrap(counts_of(wins_of()), Size(), 20, np.random.default_rng(0))
    assert totals == [400.0] * 21


def test_spread_of_members_is_that_of_the_estimator():
    """One pair: wins are binomial, so the standard deviation of the log odds is known exactly."""
    n, won = 200, 120
    data = data_of([[[0, won], [n - won, 0]]])
    ensemble = bootstrap(data, Tabular(r_max=50.0), 500, np.random.default_rng(1))
    gaps = ensemble.values([[1.0, -1.0]])
    k = np.arange(1, n)
    law = binom.pmf(k, n, won / n)
    odds = np.log(k / (n - k))
    mean = (law * odds).sum()
    std = np.sqrt((law * (odds - mean) ** 2).sum())
    # Five standard errors of a mean and of a standard deviation.
    assert abs(gaps.mean() - mean) < 5 * std / np.sqrt(500)
    assert abs(gaps.std() / std - 1) < 5 / np.sqrt(2 * 500)


def test_members_depend_neither_on_their_number_nor_on_the_order_of_rows():
    data, model = data_of(wins_of()), Tabular(ridge=0.5)
    five = bootstrap(data, model, 5, np.random.default_rng(3))
    three = bootstrap(data, model, 3, np.random.default_rng(3))
    np.testing.assert_array_equal(five.rewards[:3], three.rewards)
    order = np.random.default_rng(0).permutation(len(data))
    columns = (column[order] for column in (data.prompt, data.chosen, data.rejected))
    shuffled = bootstrap(PreferenceData(*columns, data.shape), model, 5, np.random.default_rng(3))
    np.testing.assert_array_equal(shuffled.rewards, five.rewards)
    counted = bootstrap(counts_of(wins_of()), model, 5, np.random.default_rng(3))
    np.testing.assert_array_equal(counted.rewards, five.rewards)
    np.testing.assert_array_equal(five.reward, fit_reward(data, model).reward)
    assert not np.array_equal(five.rewards[0], five.rewards[1])


def test_each_member_has_its_own_generator():
    wins = np.array([[[0.0, 8.0], [5.0, 0.0]]])
    ensemble = bootstrap(counts_of(wins), WinCounts(), 6, np.random.default_rng(3))
    for member, own in enumerate(np.random.default_rng(3).spawn(6)):
        first, second, _ = own.multinomial(13, [8 / 13, 5 / 13, 0.0])
        np.testing.assert_array_equal(ensemble.rewards[member], [[first, second]])


def test_linear_models_and_finite_classes_resample_too():
    wins = wins_of()
    features = np.random.default_rng(2).normal(size=(2, 3, 2))
    linear = bootstrap(data_of(wins), Linear(features, norm_bound=2.0), 8, np.random.default_rng(0))
    assert linear.rewards.shape == (8, 2, 3)
    assert (linear.std > 0).any()
    # Rewards that differ by constants tie on all data; each member breaks the tie on its own.
    model = FiniteClass(np.stack((np.zeros((2, 3)), np.ones((2, 3)))))
    tied = bootstrap(data_of(wins), model, 60, np.random.default_rng(0))
    ones = int(tied.rewards[:, 0, 0].sum())
    assert 10 < ones < 50


def test_a_resample_without_estimate_is_named():
    data = data_of([[[0, 6], [1, 0]]])
    with pytest.raises(MLEDoesNotExistError, match=r"^member \d+: .*prompt 0") as caught:
        bootstrap(data, Tabular(), 50, np.random.default_rng(0))
    named = int(str(caught.value).split(":")[0].split()[1])
    assert caught.value.prompt == 0
    before = bootstrap(data, Tabular(), named, np.random.default_rng(0)) if named else None
    assert before is None or len(before) == named
    with pytest.raises(MLEDoesNotExistError, match=r"^the maximum likelihood"):
        bootstrap(data_of([[[0, 6], [0, 0]]]), Tabular(), 5, np.random.default_rng(0))


def test_bad_bootstraps_are_refused():
    data, rng = data_of(wins_of()), np.random.default_rng(0)
    cases = [
        (("data", Tabular(ridge=1.0), 3, rng), "data is a str"),
        ((data, Tabular, 3, rng), "it must be a reward model"),
        ((data, Tabular(ridge=1.0), 0, rng), "members is 0; it must be at least 1"),
        ((data, Tabular(ridge=1.0), 2.0, rng), "members is 2.0; it must be an integer"),
        ((data, Tabular(ridge=1.0), 3, 0), "rng is a int"),
        (
            (counts_of([[[0, 2], [0.5, 0]]]), Tabular(ridge=1.0), 3, rng),
            r"count\[1\] is 0.5; .*whole",
        ),
        (
            (counts_of([[[0.5, 1], [1, 0]]]), Tabular(ridge=1.0), 3, rng),
            "equal_pairs is 0.5; .*whole",
        ),
        ((counts_of(np.zeros((1, 2, 2))), Tabular(ridge=1.0), 3, rng), "data has no rows"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            bootstrap(*arguments)


# ---- the ensemble -----------------------------------------------------------------------------


def random_ensemble(members=99, seed=0):
    rng = np.random.default_rng(seed)
    return rng, Ensemble(rng.normal(size=(members, 2, 3)), rng.normal(size=(2, 3)))


def test_moments_and_the_worst_member():
    rng, ensemble = random_ensemble()
    weights = rng.normal(size=(2, 3))
    values = [(weights * member).sum() for member in ensemble.rewards]
    np.testing.assert_allclose(ensemble.values(weights), values, rtol=1e-13)
    least = ensemble.minimize(weights)
    assert least.value == pytest.approx(min(values), rel=1e-13)
    np.testing.assert_array_equal(least.reward, ensemble.rewards[int(np.argmin(values))])
    np.testing.assert_allclose(ensemble.mean, np.mean(list(ensemble.rewards), axis=0))
    away = ensemble.rewards - ensemble.mean
    np.testing.assert_allclose(ensemble.std, np.sqrt((away**2).sum(axis=0) / 98))
    assert len(ensemble) == 99


def test_percentiles_are_order_statistics_and_basic_bounds_their_reflection():
    rng, ensemble = random_ensemble()
    weights = rng.normal(size=(2, 3))
    values = np.sort(ensemble.values(weights))
    centre = (weights * ensemble.reward).sum()
    # k/(M + 1): with 99 members and delta = 0.1 the 5th and the 95th.
    for delta, k in ((0.1, 5), (0.02, 1), (0.5, 25)):
        low, high = ensemble.bounds(weights, delta)
        assert (low, high) == pytest.approx((values[k - 1], values[99 - k]), rel=1e-12)
        basic = ensemble.basic_bounds(weights, delta)
        assert basic == pytest.approx((2 * centre - high, 2 * centre - low), rel=1e-12)


def test_the_band_holds_where_its_statistic_does():
    rng, ensemble = random_ensemble()
    centred = ensemble.rewards - ensemble.reward
    centred -= centred.mean(axis=2, keepdims=True)
    spread = centred.std(axis=0, ddof=1)
    statistic = np.sort((np.abs(centred) / spread).max(axis=(1, 2)))
    limit = statistic[89]  # the 90th of 99 at delta = 0.1
    for _ in range(50):
        ray = rng.normal(size=(2, 3))
        ray -= ray.mean(axis=1, keepdims=True)
        out = limit / (np.abs(ray) / spread).max()
        constant = rng.normal(size=(2, 1))
        assert ensemble.contains(ensemble.reward + 0.999999 * out * ray + constant, 0.1)
        assert not ensemble.contains(ensemble.reward + 1.000001 * out * ray + constant, 0.1)


def test_a_band_demands_what_all_members_agree_on():
    _, plain = random_ensemble()
    rewards = plain.rewards.copy()
    rewards[:, 1] = plain.reward[1]
    ensemble = Ensemble(rewards, plain.reward)
    inside = plain.reward + 0.0
    assert ensemble.contains(inside, 0.1)
    inside[1] += 7.0
    assert ensemble.contains(inside, 0.1)
    inside[1, 0] += 1e-6
    assert not ensemble.contains(inside, 0.1)


def test_bad_ensembles_and_levels_are_refused():
    _, ensemble = random_ensemble(members=19)
    weights = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"it must be at least 2/\(M \+ 1\) = 0.1"):
        ensemble.bounds(weights, 0.09)
    with pytest.raises(ValueError, match=r"it must be at least 1/\(M \+ 1\) = 0.05"):
        ensemble.contains(weights, 0.04)
    with pytest.raises(ValueError, match=r"delta is 1.0"):
        ensemble.bounds(weights, 1.0)
    with pytest.raises(ValueError, match=r"weights has shape \(3,\)"):
        ensemble.bounds(np.zeros(3), 0.2)
    with pytest.raises(ValueError, match=r"weights has shape \(2, 1\)"):
        ensemble.basic_bounds(np.zeros((2, 1)), 0.2)
    with pytest.raises(ValueError, match=r"rewards has shape \(2, 3\)"):
        Ensemble(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"reward has shape \(3, 2\)"):
        Ensemble(np.zeros((4, 2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="rewards has 1 member"):
        _ = Ensemble(np.zeros((1, 2, 3)), np.zeros((2, 3))).std


def test_ensembles_are_frozen_and_survive_copies():
    rng, ensemble = random_ensemble()
    weights = rng.normal(size=(2, 3))
    for twin in (copy.deepcopy(ensemble), pickle.loads(pickle.dumps(ensemble))):
        assert twin.bounds(weights, 0.1) == ensemble.bounds(weights, 0.1)
    for array in (ensemble.rewards, ensemble.reward):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
