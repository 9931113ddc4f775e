import copy
import dataclasses
import json
import math
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from rlhfsim.bandit import ContextualBandit
from rlhfsim.preferences import PreferenceData, _inverse_cdf, sample_preferences

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


# ---- the container -------------------------------------------------------------------------------


def assert_same(left, right):
    assert left.shape == right.shape
    for name in ("prompt", "chosen", "rejected"):
        assert np.array_equal(getattr(left, name), getattr(right, name))
        assert getattr(right, name).dtype == np.int64


def test_frozen_copies():
    columns = [np.array([0, 1, 1]), np.array([2, 0, 1]), np.array([0, 1, 1])]
    data = PreferenceData(*columns)
    assert data.shape == (2, 3)
    assert len(data) == 3
    for name, source in zip(("prompt", "chosen", "rejected"), columns, strict=True):
        assert not np.shares_memory(getattr(data, name), source)
        assert source.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            getattr(data, name)[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.shape = (9, 9)
    columns[0][:] = 0
    assert data.prompt.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, copy.copy, lambda data: pickle.loads(pickle.dumps(data))]
)
def test_copies_are_frozen_too(copied):
    data = PreferenceData([0, 1], [2, 0], [1, 0], (3, 4))
    again = copied(data)
    assert_same(data, again)
    for name in ("prompt", "chosen", "rejected"):
        assert not getattr(again, name).flags.writeable


@pytest.mark.parametrize("shape", [(7, 9), [7, 9], np.array([7, 9]), (np.int32(7), np.int64(9))])
def test_shape_is_a_tuple_of_ints(shape):
    data = PreferenceData([0], [1], [2], shape)
    assert data.shape == (data.n_prompts, data.n_responses) == (7, 9)
    assert type(data.shape) is tuple
    assert {type(x) for x in data.shape} == {int}
    assert not hasattr(data, "size")


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32])
def test_integer_dtypes(dtype):
    column = np.array([0, 1], dtype=dtype)
    assert_same(PreferenceData([0, 1], [0, 1], [0, 1]), PreferenceData(column, column, column))


def test_round_trips_keep_the_shape(tmp_path):
    rng = np.random.default_rng(1)
    data = PreferenceData(*rng.integers(0, 3, (3, 50)), shape=(7, 9))
    assert_same(data, PreferenceData.from_dataframe(data.to_dataframe()))
    assert_same(data, PreferenceData.from_dataframe(data.to_dataframe().assign(note="kept out")))
    assert list(data.to_dataframe().columns) == ["prompt", "chosen", "rejected"]
    path = tmp_path / "data.parquet"
    data.to_parquet(path)
    assert_same(data, PreferenceData.from_parquet(path))
    assert_same(data, PreferenceData.from_parquet(str(path)))
    assert [p.name for p in tmp_path.iterdir()] == ["data.parquet"]
    smaller = PreferenceData([0], [1], [0])
    smaller.to_parquet(path)
    assert_same(smaller, PreferenceData.from_parquet(path))


def test_foreign_tables(tmp_path):
    frame = pd.DataFrame({"rejected": [0, 1], "prompt": [0, 1], "chosen": [3, 0]})
    assert PreferenceData.from_dataframe(frame).shape == (2, 4)
    assert PreferenceData.from_dataframe(frame, shape=(5, 6)).shape == (5, 6)
    path = tmp_path / "foreign.parquet"
    frame.to_parquet(path)
    assert_same(PreferenceData.from_dataframe(frame), PreferenceData.from_parquet(path))
    with pytest.raises(ValueError, match=r"column 'chosen' is missing; the table has \["):
        PreferenceData.from_dataframe(frame.drop(columns="chosen"))
    with pytest.raises(ValueError, match="chosen has dtype"):
        PreferenceData.from_dataframe(frame.assign(chosen=[0.5, 1.0]))


@pytest.mark.parametrize(
    ("junk", "rule"),
    [
        ("junk", r"is 'junk'; it must be a pair \(X, Y\)"),
        ([1, 2, 3], r"is \[1, 2, 3\]; it must be a pair"),
        ({"X": 1, "Y": 4}, "it must be a pair"),
        (None, "is None; it must be a pair"),
        ([2, "4"], r"\[1\] is '4'; it must be an integer"),
    ],
)
def test_junk_shapes_of_tables_are_named(junk, rule, tmp_path):
    frame = PreferenceData([0, 1], [0, 1], [3, 0]).to_dataframe()
    frame.attrs["shape"] = junk
    with pytest.raises(ValueError, match=r'frame\.attrs\["shape"\].*' + rule):
        PreferenceData.from_dataframe(frame)
    assert PreferenceData.from_dataframe(frame, shape=(2, 4)).shape == (2, 4)
    table = pa.table({name: [0, 1] for name in ("prompt", "chosen", "rejected")})
    noted = table.replace_schema_metadata({b"rlhfsim.shape": json.dumps(junk)})
    pq.write_table(noted, tmp_path / "data.parquet")
    with pytest.raises(ValueError, match=r"shape noted in .*data\.parquet.*" + rule):
        PreferenceData.from_parquet(tmp_path / "data.parquet")
    pq.write_table(table.replace_schema_metadata({b"rlhfsim.shape": b"{"}), tmp_path / "bad")
    with pytest.raises(ValueError, match=r"shape noted in .*bad is b'{'; it must be a pair"):
        PreferenceData.from_parquet(tmp_path / "bad")


def test_other_tables_are_refused():
    with pytest.raises(ValueError, match="frame is a dict; it must be a pandas DataFrame"):
        PreferenceData.from_dataframe({"prompt": [0], "chosen": [0], "rejected": [0]})


def test_corrupt_parquet_names_the_file(tmp_path):
    data = PreferenceData([0], [1], [0])
    path = tmp_path / "data.parquet"
    data.to_parquet(path)
    whole = path.read_bytes()
    for content in (b"", b"not parquet at all", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"data\.parquet"):
            PreferenceData.from_parquet(path)
    with pytest.raises(ValueError, match=r"absent\.parquet is not a readable Parquet file"):
        PreferenceData.from_parquet(tmp_path / "absent.parquet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "prompt is empty; it must hold at least one entry"),
        (([0, 1], [0], [0, 0]), "chosen has 1 rows and prompt has 2; the columns must have equal"),
        (([0, 1], [0, 0], [0, 0, 0]), "rejected has 3 rows and prompt has 2"),
        (([0.0], [0], [0]), "prompt has dtype float64; it must hold integers"),
        (([0], [-1], [0]), r"chosen\[0\] is -1; indices must not be negative"),
        (([[0]], [0], [0]), r"prompt has shape \(1, 1\); it must be one-dimensional"),
        (([0, 2], [0, 0], [0, 0], (2, 1)), r"prompt\[1\] is 2; indices must be below 2"),
        (([0], [3], [0], (1, 3)), r"chosen\[0\] is 3; indices must be below 3"),
        (([0], [0], [3], (1, 3)), r"rejected\[0\] is 3; indices must be below 3"),
        (([0], [0], [0], (0, 3)), r"shape\[0\] is 0; it must be at least 1"),
        (([0], [0], [0], (1, 2, 3)), r"shape is \(1, 2, 3\); it must be a pair \(X, Y\)"),
        (([0], [0], [0], 5), r"shape is 5; it must be a pair \(X, Y\)"),
        (([0], [0], [0], np.array(5)), r"shape is array\(5\); it must be a pair"),
        (([0], [0], [0], "23"), r"shape is '23'; it must be a pair"),
        (([0], [0], [0], (1, 2.5)), r"shape\[1\] is 2\.5; it must be an integer"),
    ],
)
def test_bad_data(arguments, message):
    with pytest.raises(ValueError, match=message):
        PreferenceData(*arguments)
