"""Counts of preference data against a plain count, and what they are refused for."""

import copy
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from rlhfsim.data import PairCounts, PreferenceData, count_pairs, log_likelihood
from rlhfsim.data import counts as counting
from rlhfsim.data.counts import as_counts

COLUMNS = ("prompt", "winner", "loser", "count")


def random_data(rng, n, shape):
    draws = (rng.integers(0, size, n) for size in (shape[0], shape[1], shape[1]))
    return PreferenceData(*draws, shape)


def by_hand(data):
    """Return the sorted counts of the informative rows and the number of the others."""
    rows = Counter(
        zip(data.prompt.tolist(), data.chosen.tolist(), data.rejected.tolist(), strict=True)
    )
    equal = sum(n for (_, i, j), n in rows.items() if i == j)
    return sorted((*row, float(n)) for row, n in rows.items() if row[1] != row[2]), equal


def listed(counts):
    return list(zip(*(getattr(counts, name).tolist() for name in COLUMNS), strict=True))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("n", "shape"),
    [(1, (1, 1)), (1, (2, 2)), (500, (3, 4)), (2000, (1, 7)), (2000, (20, 3)), (1025, (2, 2))],
)
def test_counts_are_those_of_a_plain_count(n, shape, compiled, monkeypatch):
    monkeypatch.setattr(counting, "_WORTH_COMPILING", 1 if compiled else 1 << 40)
    data = random_data(np.random.default_rng([n, *shape]), n, shape)
    counts = count_pairs(data)
    triples, equal = by_hand(data)
    assert listed(counts) == triples
    assert counts.equal_pairs == equal
    assert type(counts.equal_pairs) is float
    assert counts.total == n
    assert counts.shape == (counts.n_prompts, counts.n_responses) == shape
    assert [getattr(counts, name).dtype for name in COLUMNS] == [np.int64] * 3 + [np.float64]


@pytest.mark.parametrize("n", [3000, 40_000])
def test_both_ways_of_counting_agree_at_any_size(n, monkeypatch):
    data = random_data(np.random.default_rng(n), n, (4, 30))
    found = []
    for least in (1, 1 << 40):
        monkeypatch.setattr(counting, "_WORTH_COMPILING", least)
        found.append(count_pairs(data))
    for name in COLUMNS:
        np.testing.assert_array_equal(*(getattr(counts, name) for counts in found))
    assert found[0].equal_pairs == found[1].equal_pairs > 0


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
def test_order_of_rows_does_not_matter(seed, n, prompts, responses):
    rng = np.random.default_rng(seed)
    data = random_data(rng, n, (prompts, responses))
    order = rng.permutation(n)
    columns = (data.prompt[order], data.chosen[order], data.rejected[order])
    assert (
        listed(count_pairs(data))
        == listed(count_pairs(PreferenceData(*columns, data.shape)))
        == by_hand(data)[0]
    )


def test_compared_and_groups_say_the_same():
    data = random_data(np.random.default_rng(3), 12, (6, 5))
    counts = count_pairs(data)
    wins = np.zeros((6, 5, 5))
    for x, i, j, n in by_hand(data)[0]:
        wins[x, i, j] = n
    compared = (wins.sum(axis=1) + wins.sum(axis=2)) > 0
    np.testing.assert_array_equal(counts.compared, compared)
    assert not compared.all()
    for group in counts.by_prompt():
        np.testing.assert_array_equal(group.responses, np.nonzero(compared[group.prompt])[0])
        np.testing.assert_array_equal(
            group.wins, wins[group.prompt][np.ix_(group.responses, group.responses)]
        )


def test_log_likelihood_is_the_sum_over_rows():
    rng = np.random.default_rng(5)
    data = random_data(rng, 300, (2, 4))
    reward = rng.normal(size=(2, 4))
    rows = np.log(expit(reward[data.prompt, data.chosen] - reward[data.prompt, data.rejected]))
    assert log_likelihood(count_pairs(data), reward) == pytest.approx(rows.sum(), rel=1e-13)


# ---- objects ----------------------------------------------------------------------------------

GIVEN = {
    "prompt": [0, 0, 1],
    "winner": [0, 1, 1],
    "loser": [1, 0, 0],
    "count": [2.0, 1.0, 0.25],
    "equal_pairs": 0.5,
    "shape": (2, 2),
}


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("copied", [lambda c: c, copy.deepcopy, through_pickle])
def test_counts_are_frozen_copies(copied):
    columns = {name: np.array(GIVEN[name]) for name in COLUMNS}
    counts = copied(PairCounts(**{**GIVEN, **columns}))
    for name in COLUMNS:
        array = getattr(counts, name)
        assert array.tolist() == GIVEN[name]
        assert not array.flags.writeable
        assert not np.shares_memory(array, columns[name])
    assert (counts.equal_pairs, counts.shape, counts.total) == (0.5, (2, 2), 3.75)
    with pytest.raises(AttributeError):
        counts.count = columns["count"]


def test_counts_made_from_data_are_read_only_too(monkeypatch):
    data = random_data(np.random.default_rng(1), 200, (2, 3))
    for least in (1, 1 << 40):
        monkeypatch.setattr(counting, "_WORTH_COMPILING", least)
        counts = count_pairs(data)
        assert not any(getattr(counts, name).flags.writeable for name in COLUMNS)
        assert listed(through_pickle(counts)) == listed(counts)


def test_counts_may_be_empty():
    nothing = np.empty(0, dtype=np.int64)
    counts = PairCounts(nothing, nothing, nothing, np.empty(0), 4.0, (1, 2))
    assert counts.total == 4.0
    assert not counts.compared.any()
    assert listed(through_pickle(counts)) == []


def test_as_counts_takes_data_and_counts():
    data = random_data(np.random.default_rng(2), 50, (2, 3))
    counts = count_pairs(data)
    assert as_counts(counts) is counts
    assert listed(as_counts(data)) == listed(counts)
    for wrong in ([[0, 1]], None, np.zeros(3)):
        with pytest.raises(ValueError, match="it must be a PreferenceData or PairCounts"):
            as_counts(wrong)
    with pytest.raises(ValueError, match="data is a PairCounts; it must be a PreferenceData"):
        count_pairs(counts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": (2,)}, r"shape is \(2,\); it must be a pair"),
        ({"shape": (0, 2)}, r"shape\[0\] is 0; it must be at least 1"),
        ({"shape": (2, 2.0)}, r"shape\[1\] is 2.0; it must be an integer"),
        ({"prompt": [0, 0, 2]}, r"prompt\[2\] is 2; indices must be below 2"),
        ({"winner": [0, 1, -1]}, r"winner\[2\] is -1; indices must not be negative"),
        ({"loser": [1, 0, 9]}, r"loser\[2\] is 9; indices must be below 2"),
        ({"loser": [1.0, 0.0, 0.0]}, "loser has dtype float64; it must hold integers"),
        ({"loser": [1, 0, 1]}, r"loser\[2\] is 1, which is winner\[2\]; .* equal_pairs"),
        ({"winner": [0, 1]}, r"winner has shape \(2,\) and prompt has \(3,\)"),
        ({"count": [1.0, 1.0]}, r"count has shape \(2,\) and prompt has \(3,\)"),
        ({"count": [1.0, 0.0, 1.0]}, r"count\[1\] is 0.0; it must be positive"),
        ({"count": [1.0, 1.0, -2.0]}, r"count\[2\] is -2.0; it must be positive"),
        ({"count": [1.0, np.nan, 1.0]}, r"count\[1\] is nan; entries must be finite"),
        ({"count": [1.0, 1.0, np.inf]}, r"count\[2\] is inf"),
        ({"equal_pairs": -1.0}, "equal_pairs is -1.0; it must be non-negative"),
        ({"equal_pairs": np.nan}, "equal_pairs is nan"),
        (
            {"winner": [1, 0, 1], "loser": [0, 1, 0]},
            r"row 1 is \(0, 0, 1\), which does not come after row 0; .* sorted and distinct",
        ),
        ({"prompt": [0, 0, 0], "loser": [1, 0, 0]}, r"row 2 is \(0, 1, 0\)"),
        ({"prompt": [1, 0, 1]}, r"row 1 is \(0, 1, 0\)"),
    ],
)
def test_bad_counts_are_named(change, words):
    given_ = {**GIVEN, **change}
    columns = {name: np.array(given_[name]) for name in COLUMNS}
    with pytest.raises(ValueError, match=words):
        PairCounts(**{**given_, **columns})
