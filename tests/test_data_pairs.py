import copy
import dataclasses
import json
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlhfsim.data import PreferenceData

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
