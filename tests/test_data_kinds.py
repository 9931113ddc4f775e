"""All kinds of data: frozen, checked, and the same after a table, a file, a copy or a pickle."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim.data import DataError, DemonstrationData, PreferenceData, RankingData, ScoreData

KINDS = {
    PreferenceData: ("prompt", "chosen", "rejected"),
    RankingData: ("prompt", "ranking"),
    ScoreData: ("prompt", "response", "score"),
    DemonstrationData: ("prompt", "response"),
}

#: One small dataset of each kind, with a prompt and responses that no row mentions.
EXAMPLES = [
    PreferenceData([0, 1, 1], [2, 0, 1], [0, 1, 1], (4, 5)),
    RankingData([0, 2], [[2, 0, 1], [3, 3, 0]], (4, 5)),
    ScoreData([0, 1, 1], [2, 0, 1], [0.5, -1e300, 5e-324], (4, 5)),
    DemonstrationData([0, 1, 1], [2, 0, 1], (4, 5)),
]
every_example = pytest.mark.parametrize("data", EXAMPLES, ids=lambda d: type(d).__name__)


def assert_same(first, second):
    assert type(first) is type(second)
    assert first.shape == second.shape
    assert type(second.shape) is tuple
    assert {type(x) for x in second.shape} == {int}
    for name in KINDS[type(first)]:
        one, other = getattr(first, name), getattr(second, name)
        assert one.dtype == other.dtype == (np.float64 if name == "score" else np.int64)
        np.testing.assert_array_equal(one, other, strict=True)
        assert not other.flags.writeable


# ---- round trips ----------------------------------------------------------------------------

indices = st.integers(0, 2**62)


@st.composite
def datasets(draw):
    kind = draw(st.sampled_from(list(KINDS)))
    n = draw(st.integers(1, 6))
    upper = draw(st.sampled_from([1, 3, 2**40, 2**63 - 1]))
    column = st.lists(st.integers(0, upper - 1), min_size=n, max_size=n)
    columns = []
    for name in KINDS[kind]:
        if name == "score":
            finite = st.floats(allow_nan=False, allow_infinity=False)
            columns.append(draw(st.lists(finite, min_size=n, max_size=n)))
        elif name == "ranking":
            ranks = draw(st.integers(2, 4))
            columns.append(np.array([draw(column) for _ in range(ranks)], dtype=np.int64).T)
        else:
            columns.append(draw(column))
    shape = draw(st.sampled_from([None, (upper, upper), (upper, 2**63)]))
    return kind(*columns, shape)


@given(data=datasets())
def test_round_trips(data, tmp_path_factory):
    kind = type(data)
    frame = data.to_dataframe()
    assert_same(data, kind.from_dataframe(frame))
    assert_same(data, kind.from_dataframe(frame.sample(frac=1, random_state=0).sort_index()))
    assert_same(data, copy.copy(data))
    assert_same(data, copy.deepcopy(data))
    assert_same(data, pickle.loads(pickle.dumps(data)))
    path = tmp_path_factory.getbasetemp() / "data.parquet"
    data.to_parquet(path)
    assert_same(data, kind.from_parquet(path))
    assert_same(data, kind.from_parquet(str(path)))
    frame.to_parquet(path)  # pandas keeps the attrs, and with them the shape
    assert_same(data, kind.from_parquet(path))
    assert kind.from_parquet(path, shape=(2**63, 2**63)).shape == (2**63, 2**63)


@every_example
def test_tables_have_integer_columns_and_the_shape(data):
    frame = data.to_dataframe()
    names = {
        PreferenceData: ["prompt", "chosen", "rejected"],
        RankingData: ["prompt", "rank_1", "rank_2", "rank_3"],
        ScoreData: ["prompt", "response", "score"],
        DemonstrationData: ["prompt", "response"],
    }[type(data)]
    assert list(frame.columns) == names
    assert {str(frame[name].dtype) for name in names if name != "score"} == {"int64"}
    assert frame.attrs["shape"] == [4, 5]
    assert len(frame) == len(data)
    frame.loc[0, "prompt"] = 3  # the frame is a copy
    assert data.prompt[0] == 0


@every_example
def test_shape_is_the_smallest_that_fits_without_one(data):
    frame = data.to_dataframe()
    frame.attrs.clear()
    largest = max(frame[name].max() for name in frame if name not in ("prompt", "score"))
    assert type(data).from_dataframe(frame).shape == (frame["prompt"].max() + 1, largest + 1)
    columns = [getattr(data, name) for name in KINDS[type(data)]]
    assert_same(type(data)(*columns), type(data).from_dataframe(frame))
    assert type(data).from_dataframe(frame, shape=(7, 9)).shape == (7, 9)


@every_example
def test_files_are_written_whole_or_not_at_all(data, tmp_path):
    path = tmp_path / "data.parquet"
    data.to_parquet(path)
    assert pq.read_schema(path).names == list(data.to_dataframe().columns)
    whole = path.read_bytes()
    for content in (b"", b"not parquet at all", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"data\.parquet is not a readable Parquet file"):
            type(data).from_parquet(path)
    with pytest.raises(FileNotFoundError):
        data.to_parquet(tmp_path / "absent" / "data.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["data.parquet"]


def test_a_damaged_page_is_not_read_as_other_data(tmp_path):
    """Any bit of the pages; what follows them, the footer, carries no checksum."""
    path = tmp_path / "data.parquet"
    data = PreferenceData([0, 1, 1, 0], [0, 1, 2, 2], [1, 0, 0, 1], (2, 3))
    data.to_parquet(path)
    whole = path.read_bytes()
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    assert pages > 200
    refused = 0
    for at in range(4, pages):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            assert_same(data, PreferenceData.from_parquet(path))
        except ValueError:
            refused += 1
    assert refused > pages / 2


# ---- frozen ---------------------------------------------------------------------------------


@every_example
def test_fields_are_read_only_copies(data):
    kind = type(data)
    sources = [np.array(getattr(data, name)) for name in KINDS[kind]]
    before = [source.copy() for source in sources]
    again = kind(*sources, data.shape)
    for source, old, name in zip(sources, before, KINDS[kind], strict=True):
        assert not np.shares_memory(source, getattr(again, name))
        assert source.flags.writeable
        np.testing.assert_array_equal(source, old)
        source[:] = 0
        with pytest.raises(ValueError, match="read-only"):
            getattr(again, name)[0] = 1
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(again, name, source)
    assert_same(data, again)
    with pytest.raises(dataclasses.FrozenInstanceError):
        again.shape = (9, 9)


@every_example
def test_dataframes_are_not_written_to_nor_shared(data):
    frame = data.to_dataframe()
    before = frame.copy(deep=True)
    again = type(data).from_dataframe(frame)
    pd.testing.assert_frame_equal(frame, before)
    frame.iloc[:, :] = 0
    assert_same(data, again)


@every_example
def test_owned_arrays_are_neither_copied_nor_checked(data):
    kind = type(data)
    arrays = [np.array(getattr(data, name)) for name in KINDS[kind]]
    arrays[0][0] = -5  # what no constructor would take
    owned = kind._owned(*arrays, data.shape)
    for name, array in zip(KINDS[kind], arrays, strict=True):
        assert getattr(owned, name) is array
        assert not array.flags.writeable
    assert owned.shape == data.shape
    assert len(owned) == len(data)
    with pytest.raises(dataclasses.FrozenInstanceError):
        owned.shape = (1, 1)
    with pytest.raises(ValueError, match=r"prompt\[0\] is -5"):
        copy.copy(owned)


@every_example
def test_owned_data_survive_copies(data):
    arrays = [np.array(getattr(data, name)) for name in KINDS[type(data)]]
    owned = type(data)._owned(*arrays, data.shape)
    assert_same(data, owned)
    assert_same(data, pickle.loads(pickle.dumps(owned)))
    assert_same(data, copy.deepcopy(owned))


@every_example
def test_sizes(data):
    assert (data.n_prompts, data.n_responses) == data.shape == (4, 5)
    assert len(data) == data.prompt.size
    if isinstance(data, RankingData):
        assert data.n_ranked == 3


# ---- what the constructors refuse -----------------------------------------------------------


@pytest.mark.parametrize("kind", [PreferenceData, ScoreData, DemonstrationData])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], r" is empty; it must hold at least one entry"),
        ([0, 1, 2], r" has 3 rows and prompt has 2; the columns must have equal length"),
        ([0.0, 1.0], r" has dtype float64; it must hold integers"),
        ([True, False], r" has dtype bool; it must hold integers"),
        (["0", "1"], r" has dtype <U1; it must hold integers"),
        ([0, -1], r"\[1\] is -1; indices must not be negative"),
        ([3, 0], r"\[0\] is 3; indices must be below 3"),
        ([[0, 1]], r" has shape \(1, 2\); it must be one-dimensional"),
        (
            np.array([0, 2**64 - 1], np.uint64),
            r"\[1\] is 18446744073709551615; indices must be at most 9223372036854775807",
        ),
        (np.ma.masked_array([0, 1], [True, False]), r" is a masked array"),
    ],
)
def test_bad_index_columns(kind, bad, message):
    names = [name for name in KINDS[kind] if name != "score"]
    good = {name: [0, 1] for name in names} | ({"score": [0.0, 1.0]} if kind is ScoreData else {})
    assert len(kind(**good, shape=(3, 3))) == 2
    for name in names[1:]:
        with pytest.raises(ValueError, match=name + message):
            kind(**(good | {name: bad}), shape=(3, 3))
    if "equal length" not in message:
        with pytest.raises(ValueError, match="prompt" + message):
            kind(**(good | {"prompt": bad}), shape=(3, 3))


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ([0.0, np.nan], r"score\[1\] is nan; entries must be finite"),
        ([-np.inf, 0.0], r"score\[0\] is -inf; entries must be finite"),
        ([0.0], r"score has 1 rows and prompt has 2; the columns must have equal length"),
        ([[0.0], [1.0]], r"score has shape \(2, 1\); it must be one-dimensional"),
        (0.5, r"score has shape \(\); it must be one-dimensional"),
        (["a", "b"], "score is not an array of real numbers"),
        ([True, False], "score is .*; it must hold real numbers, not booleans"),
        ([1j, 2j], "score is not an array of real numbers"),
    ],
)
def test_bad_scores(score, message):
    with pytest.raises(ValueError, match=message):
        ScoreData([0, 1], [0, 1], score)


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        ([[0], [1]], r"ranking has shape \(2, 1\); it must be \(n, K\) with K at least 2"),
        ([0, 1], r"ranking has shape \(2,\); it must be \(n, K\)"),
        ([], r"ranking has shape \(0,\); it must be \(n, K\)"),
        (np.zeros((0, 3), int), "ranking has 0 rows and prompt has 2"),
        ([[0, 1], [2]], "ranking has rows of different lengths"),
        ([[0, 1]], "ranking has 1 rows and prompt has 2; the columns must have equal length"),
        ([[0, 1], [2, -1]], r"ranking\[:, 1\]\[1\] is -1; indices must not be negative"),
        ([[0, 1], [3, 0]], r"ranking\[:, 0\]\[1\] is 3; indices must be below 3"),
        ([[0.0, 1.0], [0.0, 1.0]], r"ranking\[:, 0\] has dtype float64; it must hold integers"),
        (np.ma.masked_array([[0, 1], [1, 0]]), "ranking is a masked array"),
    ],
)
def test_bad_rankings(ranking, message):
    with pytest.raises(ValueError, match=message):
        RankingData([0, 1], ranking, (2, 3))


@every_example
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 3), r"shape\[0\] is 0; it must be at least 1"),
        ((4, 2.0), r"shape\[1\] is 2\.0; it must be an integer"),
        ((4, 5, 6), r"it must be a pair \(X, Y\)"),
        (5, r"shape is 5; it must be a pair \(X, Y\)"),
        ((1, 5), r"prompt\[1\] is .; indices must be below 1"),
    ],
)
def test_bad_shapes(data, shape, message):
    columns = [getattr(data, name) for name in KINDS[type(data)]]
    with pytest.raises(ValueError, match=message):
        type(data)(*columns, shape)
    with pytest.raises(ValueError, match=message.replace(r"prompt\[1\] is", "prompt in row 1 is")):
        type(data).from_dataframe(data.to_dataframe(), shape=shape)


@every_example
def test_empty_tables(data):
    with pytest.raises(DataError, match="the table is empty; it must have at least one row"):
        type(data).from_dataframe(data.to_dataframe().iloc[:0])
