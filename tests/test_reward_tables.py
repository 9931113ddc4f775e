"""Counting rows into the tables of the reward fits."""

import itertools

import numpy as np
import pytest

from rlhfsim.data import PreferenceData
from rlhfsim.rewards.compiled import tables
from rlhfsim.threads import get_threads, set_threads


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = get_threads()
    set_threads(request.param)
    yield request.param
    set_threads(before)


def rows(n, prompts=3, responses=4):
    rng = np.random.default_rng(n)
    high = np.array([prompts, responses, responses])
    return PreferenceData(*rng.integers(0, high[:, None], (3, n)), (prompts, responses))


@pytest.mark.parametrize("n", [1, 7, 1023, 1024, 1025, 200_000])
@pytest.mark.parametrize("most", [1 << 31, 1000])
def test_rows_are_counted_as_numpy_counts_them(n, most, threads, monkeypatch):
    """Also where one table of 32-bit numbers is too small, and for any number of threads."""
    monkeypatch.setattr(tables, "_MOST_ROWS", most)
    data = rows(n)
    wins = np.zeros((3, 4, 4))
    np.add.at(wins, (data.prompt, data.chosen, data.rejected), 1.0)
    (found,), equal = tables.tabulate(data)
    assert equal == np.trace(wins, axis1=1, axis2=2).sum()
    for x in range(3):
        group = found.group(x)
        np.fill_diagonal(wins[x], 0.0)
        np.testing.assert_array_equal(group.wins, wins[x][np.ix_(group.responses, group.responses)])
        assert group.wins.sum() == wins[x].sum()


@pytest.mark.parametrize("often", [100, 255, 256, 600, 65_535, 65_536, 140_000])
def test_more_rows_of_one_pair_than_a_small_counter_holds(often, threads, monkeypatch):
    """Counters of 8 and 16 bits wrap around; that is noticed, and the rows are counted again."""
    kinds = []
    counted = tables._counted
    monkeypatch.setattr(
        tables, "_counted", lambda data, kind: kinds.append(kind) or counted(data, kind)
    )
    other = rows(500 if often < 1000 else 5000, responses=8)
    columns = (
        np.concatenate((np.full(often, k), c))
        for k, c in zip((1, 2, 5), (other.prompt, other.chosen, other.rejected), strict=True)
    )
    data = PreferenceData(*columns, (3, 8))
    (found,), equal = tables.tabulate(data)
    wins = np.zeros((3, 8, 8))
    np.add.at(wins, (other.prompt, other.chosen, other.rejected), 1.0)
    wins[1, 2, 5] += often
    assert equal == np.trace(wins, axis1=1, axis2=2).sum()
    wins[:, np.arange(8), np.arange(8)] = 0.0
    for x in range(3):
        np.testing.assert_array_equal(found.group(x).wins, wins[x])
    few = len(data) <= 8 * 3 * 8 * 7
    shares = max(1, min(threads, (len(data)) // tables._WORTH_A_THREAD))
    keys = (data.prompt * 8 + data.chosen) * 8 + data.rejected
    cuts = [len(data) * k // shares for k in range(shares + 1)]
    unlike = data.chosen != data.rejected
    most = max(np.bincount(keys[a:b][unlike[a:b]]).max() for a, b in itertools.pairwise(cuts))
    expected = [np.uint8] * few
    if not few or most > 255:
        expected += [np.uint16] + [np.int32] * int(most > 65_535)
    assert kinds == expected
