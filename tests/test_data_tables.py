"""What is wrong with a table is reported all at once, with the rows."""

from __future__ import annotations

import datetime
import decimal
import pickle
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim.data import (
    DataError,
    DemonstrationData,
    PreferenceData,
    Problem,
    RankingData,
    ScoreData,
)

NEGATIVE = "indices must not be negative"
MISSING = "it must not be missing"
INTEGER = "it must be an integer"


def problems_of(read, *arguments, **keywords):
    with pytest.raises(DataError) as caught:
        read(*arguments, **keywords)
    return caught.value.problems


def problem_columns(**columns):
    """The problems of a table of pairs, in which all other columns are fine."""
    n = len(next(iter(columns.values())))
    frame = pd.DataFrame({name: np.zeros(n, int) for name in ("prompt", "chosen", "rejected")})
    return problems_of(PreferenceData.from_dataframe, frame.assign(**columns), shape=(2, 3))


# ---- all at once ----------------------------------------------------------------------------


def test_every_problem_of_every_column_is_listed_by_row():
    frame = pd.DataFrame(
        {
            "prompt": [0, -1, 2, 0, 1],
            "chosen": pd.array([0, 1, 3, None, 2], dtype="Int64"),
            "rejected": [0, 0.5, np.nan, -1, np.inf],
        }
    )
    assert problems_of(PreferenceData.from_dataframe, frame, shape=(2, 3)) == (
        Problem(None, "rejected", "it must hold integers", "rejected has dtype float64"),
        Problem(1, "prompt", NEGATIVE, "-1"),
        Problem(1, "rejected", INTEGER, "0.5"),
        Problem(2, "prompt", "indices must be below 2", "2"),
        Problem(2, "chosen", "indices must be below 3", "3"),
        Problem(2, "rejected", MISSING, "nan"),
        Problem(3, "chosen", MISSING, "<NA>"),
        Problem(3, "rejected", NEGATIVE, "-1"),
        Problem(4, "rejected", INTEGER, "inf"),
    )


def test_missing_columns_do_not_hide_the_others():
    frame = pd.DataFrame({"prompt": [0, -3], "answer": [0, 0]})
    missing = "the table has ['prompt', 'answer']"
    assert problems_of(PreferenceData.from_dataframe, frame) == (
        Problem(None, "chosen", missing, "column 'chosen' is missing"),
        Problem(None, "rejected", missing, "column 'rejected' is missing"),
        Problem(1, "prompt", NEGATIVE, "-3"),
    )
    twice = pd.DataFrame([[0, 1, 2, 0]], columns=["prompt", "chosen", "chosen", "rejected"])
    assert problems_of(PreferenceData.from_dataframe, twice) == (
        Problem(None, "chosen", "names must be unique", "'chosen' names 2 columns"),
    )


def test_noted_shape_is_one_problem_among_others():
    frame = pd.DataFrame({"prompt": [0, -3], "response": [0, 0]})
    frame.attrs["shape"] = "junk"
    assert problems_of(DemonstrationData.from_dataframe, frame) == (
        Problem(None, None, "it must be a pair (X, Y)", "frame.attrs[\"shape\"] is 'junk'"),
        Problem(1, "prompt", NEGATIVE, "-3"),
    )


def test_rows_are_positions_not_labels():
    frame = pd.DataFrame({"prompt": [0, 0, -1], "response": 0}, index=["a", "b", "c"])
    assert [p.row for p in problems_of(DemonstrationData.from_dataframe, frame)] == [2]
    shuffled = frame.iloc[[2, 0, 1]]
    assert [p.row for p in problems_of(DemonstrationData.from_dataframe, shuffled)] == [0]


CELL_PROBLEMS = {-1: NEGATIVE, 9: "indices must be below 5", None: MISSING, 0.5: INTEGER}
cells = st.one_of(st.integers(0, 4), st.sampled_from(list(CELL_PROBLEMS)))


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=3, max_size=3)
    )
)
def test_against_a_loop_over_cells(columns):
    names = ("prompt", "chosen", "rejected")
    frame = pd.DataFrame(
        {name: np.array(column, dtype=object) for name, column in zip(names, columns, strict=True)}
    )
    expected = [
        (row, name, CELL_PROBLEMS[cell])
        for row, triple in enumerate(zip(*columns, strict=True))
        for name, cell in zip(names, triple, strict=True)
        if cell in CELL_PROBLEMS
    ]
    if not expected:
        data = PreferenceData.from_dataframe(frame, shape=(5, 5))
        assert [getattr(data, name).tolist() for name in names] == columns
        return
    found = problems_of(PreferenceData.from_dataframe, frame, shape=(5, 5))
    assert [(p.row, p.column, p.rule) for p in found] == expected
    values = [columns[names.index(p.column)][p.row] for p in found]
    assert [p.value for p in found] == [repr(value) for value in values]


# ---- cells and columns ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "value", "rule"),
    [
        (None, "None", MISSING),
        (pd.NA, "<NA>", MISSING),
        (float("nan"), "nan", MISSING),
        (True, "True", INTEGER),
        (np.bool_(False), "False", INTEGER),
        (1.0, "1.0", INTEGER),
        ("1", "'1'", INTEGER),
        (decimal.Decimal(1), "Decimal('1')", INTEGER),
        ([1], "[1]", INTEGER),
        (-(2**70), str(-(2**70)), NEGATIVE),
        (2**70, str(2**70), "indices must be below 3"),
        (np.uint64(2**64 - 1), str(2**64 - 1), "indices must be below 3"),
    ],
)
def test_cells_of_object_columns(cell, value, rule):
    column = np.array([0, 1, None], dtype=object)
    column[2] = cell
    assert problem_columns(chosen=column) == (Problem(2, "chosen", rule, value),)


def test_object_columns_of_integers_are_read():
    column = np.array([0, np.int8(1), np.uint64(2)], dtype=object)
    data = PreferenceData.from_dataframe(
        pd.DataFrame({"prompt": 0, "chosen": column, "rejected": 0}, index=range(3))
    )
    assert data.chosen.tolist() == [0, 1, 2]
    assert data.chosen.dtype == np.int64


@pytest.mark.parametrize("dtype", ["Int64", "UInt8", "int64[pyarrow]", "category", np.uint64, "i1"])
def test_integer_columns_of_any_kind_are_read(dtype):
    column = pd.Series([2, 0, 1]).astype(dtype)
    frame = pd.DataFrame({"prompt": column, "chosen": column, "rejected": column})
    assert PreferenceData.from_dataframe(frame).rejected.tolist() == [2, 0, 1]


def test_missing_cells_do_not_round_the_others():
    """Floats would turn 2**60 + 1 into 2**60."""
    large = 2**60 + 1
    for dtype in ("Int64", "int64[pyarrow]"):
        column = pd.array([large, None], dtype=dtype)
        assert problem_columns(chosen=column) == (
            Problem(0, "chosen", "indices must be below 3", str(large)),
            Problem(1, "chosen", MISSING, "<NA>"),
        )


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (pd.Series([True, False]), "bool"),
        (pd.Series(["0", "1"], dtype="string"), "string"),
        (pd.Series([0j, 1j]), "complex128"),
        (pd.to_datetime(pd.Series(["2024-01-01", "2024-01-02"])), "datetime64"),
        (pd.Series([0.0, 1.0]), "float64"),
        (pd.Series([0.0, 1.0], dtype="float32"), "float32"),
    ],
)
def test_columns_of_another_type(column, dtype):
    for name in ("prompt", "chosen"):
        (problem,) = problem_columns(**{name: column})
        assert (problem.row, problem.column) == (None, name)
        assert problem.rule == "it must hold integers"
        assert problem.value.startswith(f"{name} has dtype {dtype}")


def test_largest_index():
    frame = pd.DataFrame({"prompt": [0], "response": [2**63 - 1]})
    assert DemonstrationData.from_dataframe(frame).shape == (1, 2**63)
    frame = pd.DataFrame({"prompt": [0, 0], "response": np.array([0, 2**63], np.uint64)})
    rule = f"indices must be at most {2**63 - 1}"
    for shape in (None, (1, 2**70)):
        assert problems_of(DemonstrationData.from_dataframe, frame, shape=shape) == (
            Problem(1, "response", rule, str(2**63)),
        )


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (None, "None"),
        (np.nan, "nan"),
        (np.inf, "inf"),
        (-np.inf, "-inf"),
        ("0.5", "'0.5'"),
        (True, "True"),
        (1j, "1j"),
        (10**400, None),
        (decimal.Decimal("NaN"), "Decimal('NaN')"),
        (datetime.date(2024, 1, 1), "datetime.date(2024, 1, 1)"),
    ],
)
def test_scores_that_are_no_finite_numbers(cell, value):
    score = np.array([0.5, 3, decimal.Decimal("0.25"), None], dtype=object)
    score[3] = cell
    frame = pd.DataFrame({"prompt": [0, 0, 0, -1], "response": 0, "score": score})
    negative, problem = problems_of(ScoreData.from_dataframe, frame)
    assert negative == Problem(3, "prompt", NEGATIVE, "-1")
    assert (problem.row, problem.column) == (3, "score")
    assert problem.rule == "it must be a finite number"
    assert value is None or problem.value == value
    data = ScoreData.from_dataframe(frame.iloc[:3])
    assert data.score.tolist() == [0.5, 3.0, 0.25]


def test_score_columns():
    frame = pd.DataFrame({"prompt": [0, 0, 1], "response": 0, "score": [0.5, np.nan, -np.inf]})
    assert [(p.row, p.value) for p in problems_of(ScoreData.from_dataframe, frame)] == [
        (1, "nan"),
        (2, "-inf"),
    ]
    for column, dtype in ((["a", "b", "c"], ""), ([True, False, True], "bool")):
        (problem,) = problems_of(ScoreData.from_dataframe, frame.assign(score=column))
        assert problem.value.startswith(f"score has dtype {dtype}")
        assert problem.rule == "it must hold real numbers"
    for dtype in (np.int32, np.float32, "Float64", "double[pyarrow]"):
        column = pd.Series([1, 2, 3]).astype(dtype)
        assert ScoreData.from_dataframe(frame.assign(score=column)).score.tolist() == [1, 2, 3]
    missing = pd.array([1.5, None, 2.5], dtype="Float64")
    (problem,) = problems_of(ScoreData.from_dataframe, frame.assign(score=missing))
    assert (problem.row, problem.value) == (1, "<NA>")


# ---- rankings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ([], ["rank_1", "rank_2"]),
        (["rank_1"], ["rank_2"]),
        (["rank_2"], ["rank_1"]),
        (["rank_1", "rank_3", "rank_6"], ["rank_2", "rank_4", "rank_5"]),
        (["rank_01", "rank_0", "Rank_1", "rank_2"], ["rank_1"]),
        (["rank_1", "rank_999999999"], [f"rank_{k}" for k in range(2, 7)]),
    ],
)
def test_rank_columns_without_gaps(names, missing):
    frame = pd.DataFrame({"prompt": [-1]} | {name: [0] for name in names})
    *gaps, negative = problems_of(RankingData.from_dataframe, frame)
    rule = "ranks must be rank_1 to rank_K without gaps, K at least 2"
    assert gaps == [Problem(None, k, rule, f"column {k!r} is missing") for k in missing]
    assert negative == Problem(0, "prompt", NEGATIVE, "-1")


def test_rank_columns_in_any_order_and_number():
    k = 12
    frame = RankingData([0], [list(range(k))]).to_dataframe()
    assert list(frame.columns) == ["prompt", *(f"rank_{i}" for i in range(1, k + 1))]
    shuffled = frame[sorted(frame.columns)].assign(other=7)  # rank_10 comes before rank_2
    assert RankingData.from_dataframe(shuffled).ranking.tolist() == [list(range(k))]
    bad = frame.assign(rank_2=-1, rank_10=-2)
    assert [(p.column, p.value) for p in problems_of(RankingData.from_dataframe, bad)] == [
        ("rank_2", "-1"),
        ("rank_10", "-2"),
    ]


# ---- Parquet --------------------------------------------------------------------------------


def test_parquet_files_are_named_and_their_nulls_have_rows(tmp_path):
    path = tmp_path / "pairs.parquet"
    table = pa.table(
        {
            "prompt": pa.array([0, None, 2**60 + 1]),
            "chosen": pa.array([0, 1, None], pa.int8()),
            "rejected": pa.array([0.0, 0.5, 2.0]),
        }
    )
    pq.write_table(table, path)
    with pytest.raises(DataError, match=re.escape(f"{path} has 4 problems")) as caught:
        PreferenceData.from_parquet(path)
    assert [(p.row, p.column, p.value) for p in caught.value.problems] == [
        (None, "rejected", "rejected has dtype float64"),
        (1, "prompt", "None"),
        (1, "rejected", "0.5"),
        (2, "chosen", "None"),
    ]
    pq.write_table(table.slice(0, 1).drop_columns(["rejected"]), path)
    with pytest.raises(DataError, match=re.escape(f"{path}: column 'rejected' is missing")):
        PreferenceData.from_parquet(path)


def test_columns_that_pandas_wrote_as_an_index_are_found(tmp_path):
    path = tmp_path / "data.parquet"
    frame = pd.DataFrame({"prompt": [1, 0, 1], "response": [2, 3, 4]})
    frame.set_index("prompt").to_parquet(path)
    assert DemonstrationData.from_parquet(path).prompt.tolist() == [1, 0, 1]


def test_our_shape_goes_before_that_of_pandas(tmp_path):
    path = tmp_path / "data.parquet"
    table = pa.table({"prompt": [0], "response": [0]})
    for metadata, shape in (
        ({b"rlhfsim.shape": b"[3, 4]", b"PANDAS_ATTRS": b'{"shape": [5, 6]}'}, (3, 4)),
        ({b"PANDAS_ATTRS": b'{"shape": [5, 6]}'}, (5, 6)),
        ({b"PANDAS_ATTRS": b'{"other": 1}'}, (1, 1)),
        ({b"PANDAS_ATTRS": b"junk"}, (1, 1)),
        ({}, (1, 1)),
    ):
        pq.write_table(table.replace_schema_metadata(metadata), path)
        assert DemonstrationData.from_parquet(path).shape == shape
    pq.write_table(table.replace_schema_metadata({b"PANDAS_ATTRS": b'{"shape": 5}'}), path)
    with pytest.raises(DataError, match=r"shape noted in .*data\.parquet is 5; it must be a pair"):
        DemonstrationData.from_parquet(path)
    assert DemonstrationData.from_parquet(path, shape=(2, 2)).shape == (2, 2)


# ---- the message ----------------------------------------------------------------------------


def test_message_of_one_problem_is_one_line():
    frame = pd.DataFrame({"prompt": [0, 0, -7], "response": 0})
    with pytest.raises(DataError) as caught:
        DemonstrationData.from_dataframe(frame)
    assert str(caught.value) == "prompt in row 2 is -7; indices must not be negative"
    assert str(caught.value.problems[0]) == str(caught.value)


@pytest.mark.parametrize("bad", [2, 10, 11, 1000])
def test_message_spells_out_ten_and_counts_all(bad):
    frame = pd.DataFrame({"prompt": [-1] * bad + [0], "response": [0] * bad + ["x"]})
    with pytest.raises(DataError) as caught:
        DemonstrationData.from_dataframe(frame)
    assert len(caught.value.problems) == bad + 1
    head, *lines = str(caught.value).splitlines()
    assert head == f"the table has {bad + 1} problems (rows are counted from 0):"
    problems = [f"- prompt in row {row} is -1; {NEGATIVE}" for row in range(bad)]
    problems.append(f"- response in row {bad} is 'x'; {INTEGER}")
    if bad < 10:
        assert lines == problems
        return
    assert lines == [
        *problems[:10],
        f"and {bad - 9} more; by rule:",
        f"- prompt, {NEGATIVE}: {bad} rows",
        f"- response, {INTEGER}: 1 row",
    ]


def test_long_cells_are_cut_short():
    frame = pd.DataFrame({"prompt": [0, "a\n" * 10**6], "response": [0, list(range(10**5))]})
    first, second = problems_of(DemonstrationData.from_dataframe, frame.astype(object))
    assert len(first.value) < 100 > len(second.value)
    assert "\n" not in str(first)


def test_many_whole_columns_are_counted():
    frame = pd.DataFrame({f"rank_{k}": [0.0] for k in range(1, 31)} | {"prompt": [-1]})
    with pytest.raises(DataError) as caught:
        RankingData.from_dataframe(frame)
    assert len(caught.value.problems) == 31
    assert str(caught.value).splitlines()[-3:] == [
        "and 21 more; by rule:",
        "- whole columns: 30",
        f"- prompt, {NEGATIVE}: 1 row",
    ]


class Unpicklable:
    def __reduce__(self):
        raise TypeError


def test_errors_survive_pickling():
    frame = pd.DataFrame({"prompt": [0, -1, 0], "response": [Unpicklable(), 0, None]})
    with pytest.raises(DataError) as caught:
        DemonstrationData.from_dataframe(frame.astype(object))
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, DataError)
    assert str(again) == str(caught.value)
    assert again.problems == caught.value.problems
    assert len(again.problems) == 3


def test_frames_that_are_not():
    for kind in (DemonstrationData, RankingData):
        with pytest.raises(ValueError, match="frame is a list; it must be a pandas DataFrame"):
            kind.from_dataframe([1])
