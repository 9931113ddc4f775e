"""Reading tables of texts and chats: indices against dictionaries, and everything refused."""

from __future__ import annotations

import copy
import csv
import dataclasses
import gzip
import itertools
import json
import pickle
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim.data import DataError, NamedPairs, PreferenceData, Problem, read_pairs, sources
from rlhfsim.table import example_table

MISSING = "it must not be missing"
BLANK = "it must not be blank"
MESSAGE = "every message of a chat must have a role and a content, both text"

#: As published: two prompts, of which the first comes twice.
TEXTS = pd.DataFrame(
    {
        "prompt": ["The sky is", "The sun is", "The sky is"],
        "chosen": [" blue.", " in the sky.", " above."],
        "rejected": [" green.", " in the sea.", " blue."],
    }
)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def chats(frame=TEXTS):
    """The same preferences as chats with a column of prompts."""
    return pd.DataFrame(
        {
            "prompt": [[user(text)] for text in frame["prompt"]],
            "chosen": [[assistant(text)] for text in frame["chosen"]],
            "rejected": [[assistant(text)] for text in frame["rejected"]],
        }
    )


def whole_chats(frame=TEXTS):
    """The same preferences as chats without a column of prompts."""
    parts = chats(frame)
    return pd.DataFrame({name: parts["prompt"] + parts[name] for name in ("chosen", "rejected")})


def assert_same(first, second):
    assert first.data.shape == second.data.shape
    for name in ("prompt", "chosen", "rejected"):
        np.testing.assert_array_equal(getattr(first.data, name), getattr(second.data, name))
    for name in ("prompts", "responses", "prompt_chats", "response_chats"):
        assert getattr(first, name) == getattr(second, name)


def problems_of(*arguments, **keywords):
    with pytest.raises(DataError) as caught:
        read_pairs(*arguments, **keywords)
    return caught.value.problems


# ---- texts ----------------------------------------------------------------------------------


def test_texts_by_hand():
    pairs = read_pairs(TEXTS)
    assert pairs.prompts == ("The sky is", "The sun is")
    assert pairs.responses == ((" blue.", " green.", " above."), (" in the sky.", " in the sea."))
    assert pairs.data.shape == (2, 3)
    assert pairs.data.prompt.tolist() == [0, 1, 0]
    assert pairs.data.chosen.tolist() == [0, 0, 2]
    assert pairs.data.rejected.tolist() == [1, 1, 0]
    assert not pairs.prompt_chats
    assert not pairs.response_chats
    pd.testing.assert_frame_equal(pairs.to_dataframe(), TEXTS)


def test_columns_by_name():
    names = {"prompt": "question", "chosen": "better", "rejected": "worse"}
    renamed = TEXTS.rename(columns=names).assign(prompt=7, chosen=None)
    assert_same(read_pairs(TEXTS), read_pairs(renamed, **names))
    with pytest.raises(ValueError, match=r"the columns are \['a', 'b', 'a'\]; they must be diff"):
        read_pairs(TEXTS, prompt="a", chosen="b", rejected="a")


def test_equal_answers_and_equal_answers_of_other_prompts():
    frame = pd.DataFrame({"prompt": ["p", "q"], "chosen": ["a", "b"], "rejected": ["a", "a"]})
    pairs = read_pairs(frame)
    assert pairs.responses == (("a",), ("b", "a"))
    assert pairs.data.chosen.tolist() == [0, 0]
    assert pairs.data.rejected.tolist() == [0, 1]


def test_every_character_counts():
    frame = pd.DataFrame({"prompt": "p", "chosen": ["é", "a", "a\n"], "rejected": "e\u0301"})
    assert read_pairs(frame).responses == (("é", "e\u0301", "a", "a\n"),)


printable = st.text(max_size=8).filter(lambda text: text.strip())
few = st.sampled_from(["a", "b ", "\n\nHuman: a", '"', ",", "[1]", "null", "NA", "1", " \u2028x"])
texts = st.one_of(few, printable.filter(lambda t: t.encode("utf-8", "ignore").decode() == t))
triples = st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=12)
messages = st.builds(
    lambda role, text: {"role": role, "content": text},
    st.sampled_from(["user", "assistant", "system"]),
    texts,
)
chat = st.lists(messages, min_size=1, max_size=3)


@given(triples)
def test_names_stand_for_the_cells(rows):
    pairs = read_pairs(pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"]))
    data = pairs.data
    named = [
        (pairs.prompts[x], pairs.responses[x][y], pairs.responses[x][z])
        for x, y, z in zip(data.prompt, data.chosen, data.rejected, strict=True)
    ]
    assert named == rows
    assert list(pairs.prompts) == list(dict.fromkeys(row[0] for row in rows))
    for prompt, responses in zip(pairs.prompts, pairs.responses, strict=True):
        own = [cell for row in rows if row[0] == prompt for cell in row[1:]]
        assert list(responses) == list(dict.fromkeys(own))
    assert data.shape == (len(pairs.prompts), max(map(len, pairs.responses)))


@given(triples)
def test_round_trips_of_texts(rows):
    frame = pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"])
    pairs = read_pairs(frame)
    pd.testing.assert_frame_equal(pairs.to_dataframe(), frame)
    assert_same(pairs, read_pairs(pairs.to_dataframe()))
    assert_same(pairs, pickle.loads(pickle.dumps(pairs)))
    assert_same(pairs, copy.deepcopy(pairs))


@given(st.lists(st.tuples(chat, chat, chat), min_size=1, max_size=6))
def test_round_trips_of_chats(rows):
    frame = pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"])
    pairs = read_pairs(frame)
    assert pairs.prompt_chats
    assert pairs.response_chats
    pd.testing.assert_frame_equal(pairs.to_dataframe(), frame)
    assert_same(pairs, read_pairs(pairs.to_dataframe()))
    assert_same(pairs, pickle.loads(pickle.dumps(pairs)))


@given(rows=triples)
def test_every_kind_of_file(rows, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    frame = pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"]).assign(extra=1.5)
    pairs = read_pairs(frame)
    plain = frame.to_csv(index=False, quoting=csv.QUOTE_ALL).encode()
    lines = "".join(json.dumps(row) + "\n\n" for row in frame.to_dict("records")).encode()
    for name, content in {
        "t.csv": plain,
        "t.CSV.gz": gzip.compress(plain),
        "bom.csv": b"\xef\xbb\xbf" + plain,
        "t.jsonl": lines,
        "t.jsonl.gz": gzip.compress(lines),
        "crlf.jsonl": lines.strip().replace(b"\n", b"\r\n"),
    }.items():
        (folder / name).write_bytes(content)
        assert_same(pairs, read_pairs(folder / name))
        assert_same(pairs, read_pairs(str(folder / name)))
    frame.to_parquet(folder / "t.parquet")
    assert_same(pairs, read_pairs(folder / "t.parquet"))


def test_judged_table_as_texts():
    """Every pair of responses of the shipped table, the better judged one chosen."""
    judged = pd.read_csv(example_table())
    rows, wins = [], {}
    for prompt, group in judged.groupby("prompt_id", sort=False):
        score = dict(zip(group["response_id"], group["judge_preference"], strict=True))
        for pair in itertools.combinations(score, 2):
            better, worse = sorted(pair, key=score.get, reverse=True)
            rows.append((f"Prompt {prompt}?", f"Answer of {better}.", f"Answer of {worse}."))
            wins[prompt, better] = wins.get((prompt, better), 0) + 1
    pairs = read_pairs(pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"]))
    assert len(pairs.data) == len(rows) > 150
    assert pairs.data.shape == (12, 6)
    counted = {}
    for x, y in zip(pairs.data.prompt, pairs.data.chosen, strict=True):
        key = pairs.prompts[x][7:-1], pairs.responses[x][y][10:-1]
        counted[key] = counted.get(key, 0) + 1
    assert counted == wins


# ---- chats ----------------------------------------------------------------------------------


def test_chats_are_the_same_preferences():
    plain, explicit, implicit = read_pairs(TEXTS), read_pairs(chats()), read_pairs(whole_chats())
    assert_same(explicit, implicit)
    assert_same(
        explicit, read_pairs(chats().drop(columns="prompt").assign(**whole_chats()), prompt=None)
    )
    for name in ("prompt", "chosen", "rejected"):
        assert getattr(explicit.data, name).tolist() == getattr(plain.data, name).tolist()
    assert explicit.prompts[0] == '[{"role": "user", "content": "The sky is"}]'
    assert explicit.responses[1][0] == '[{"role": "assistant", "content": " in the sky."}]'
    pd.testing.assert_frame_equal(implicit.to_dataframe(), chats())


def test_texts_as_prompts_of_chats():
    """The published form with a prompt of text and whole chats as answers."""
    frame = whole_chats().assign(prompt=TEXTS["prompt"])
    pairs = read_pairs(frame)
    assert (pairs.prompt_chats, pairs.response_chats) == (False, True)
    assert pairs.prompts == ("The sky is", "The sun is")
    assert json.loads(pairs.responses[0][1]) == [user("The sky is"), assistant(" green.")]
    pd.testing.assert_frame_equal(pairs.to_dataframe(), frame[["prompt", "chosen", "rejected"]])
    assert_same(pairs, read_pairs(pairs.to_dataframe()))


@pytest.mark.parametrize(
    ("chosen", "rejected", "shared"),
    [
        ("ua", "ub", 1),
        ("sua", "sub", 2),
        ("uaub", "uauc", 3),
        ("uavb", "ubvb", 1),
        ("ua", "ua", 1),
        ("uaub", "uaub", 3),
        ("ua", "uavb", 1),
        ("uavb", "ua", 1),
    ],
)
def test_prompt_that_both_chats_begin_with(chosen, rejected, shared):
    def spell(letters):
        return [(assistant if c in "abc" else user)(c) for c in letters]

    pairs = read_pairs(pd.DataFrame({"chosen": [spell(chosen)], "rejected": [spell(rejected)]}))
    (prompt,) = map(json.loads, pairs.prompts)
    assert prompt == spell(chosen)[:shared]
    row = pairs.to_dataframe().iloc[0]
    assert row["prompt"] + row["chosen"] == spell(chosen)
    assert row["prompt"] + row["rejected"] == spell(rejected)
    assert min(len(row["chosen"]), len(row["rejected"])) >= 1


def test_chats_in_parquet_and_json_lines(tmp_path):
    """Parquet gives every message all keys: those that hold None are not there."""
    frame = chats()
    frame.loc[0, "prompt"][0]["name"] = "Ada"
    frame.loc[2, "prompt"][0]["name"] = "Ada"
    pairs = read_pairs(frame)
    assert json.loads(pairs.prompts[0]) == [
        {"role": "user", "content": "The sky is", "name": "Ada"}
    ]
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    for source in ("t.parquet", "t.jsonl"):
        assert_same(pairs, read_pairs(tmp_path / source))
    assert_same(pairs, read_pairs(pd.read_parquet(tmp_path / "t.parquet")))  # arrays of dicts
    assert_same(pairs, read_pairs(frame.map(tuple)))


def test_all_keys_of_messages_count_and_their_order_does_not():
    first = {"content": "hi", "role": "user", "tools": ["a", {"b": 1}], "name": None}
    again = {
        "tools": np.array(["a", {"b": np.int64(1)}], dtype=object),
        "role": "user",
        "content": "hi",
    }
    other = {"role": "user", "content": "hi"}
    frame = pd.DataFrame(
        {
            "prompt": [[first], [again], [other]],
            "chosen": [[assistant("a")]] * 3,
            "rejected": [[assistant("b")]] * 3,
        }
    )
    pairs = read_pairs(frame)
    assert pairs.data.prompt.tolist() == [0, 0, 1]
    assert json.loads(pairs.prompts[0]) == [
        {"role": "user", "content": "hi", "tools": ["a", {"b": 1}]}
    ]


def test_tables_are_not_written_to():
    frame = whole_chats()
    before = copy.deepcopy(frame.to_dict("list"))
    pairs = read_pairs(frame)
    assert frame.to_dict("list") == before
    pairs.to_dataframe()["chosen"][0][0]["content"] = "changed"
    assert_same(pairs, read_pairs(frame))


# ---- what is refused ------------------------------------------------------------------------


def test_every_problem_at_once():
    frame = pd.DataFrame(
        {
            "prompt": ["p", None, "p", " \n", "p"],
            "chosen": ["a", "b", 3, "", [assistant("a")]],
            "rejected": [np.nan, "b", "a", b"\xff", "a\ud800"],
        },
        dtype=object,
    )
    assert problems_of(frame) == (
        Problem(0, "rejected", MISSING, "nan"),
        Problem(1, "prompt", MISSING, "None"),
        Problem(2, "chosen", "it must be text or a chat", "3"),
        Problem(3, "chosen", BLANK, "''"),
        Problem(3, "rejected", "it must be UTF-8 text", r"b'\xff'"),
        Problem(3, "prompt", BLANK, r"' \n'"),
        Problem(4, "rejected", "it must be valid Unicode, without lone surrogates", r"'a\ud800'"),
        Problem(
            4,
            "chosen",
            "it must be text, as chosen in row 0 is",
            "[{'content': 'a', 'role': 'assistant'}]",
        ),
    )


@pytest.mark.parametrize(
    ("cell", "rule"),
    [
        (None, MISSING),
        (pd.NA, MISSING),
        (np.nan, MISSING),
        ("", BLANK),
        ("\t \n", BLANK),
        (5, "it must be text or a chat"),
        (True, "it must be text or a chat"),
        ({"role": "user", "content": "a"}, "it must be text or a chat"),
        (np.array("a"), "it must be text or a chat"),
        (b"abc", "it must be UTF-8 text"),
        ("\udcff", "it must be valid Unicode, without lone surrogates"),
        ([], "a chat must have at least one message"),
        (["a"], MESSAGE),
        ([{"role": "user"}], MESSAGE),
        ([{"content": "a"}], MESSAGE),
        ([{"role": "user", "content": None}], MESSAGE),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}], MESSAGE),
        ([{"role": 1, "content": "a"}], MESSAGE),
        ([{"role": " ", "content": "a"}], MESSAGE),
        ([{"role": "user", "content": " "}], BLANK),
        ([{"role": "user", "content": "\ud800"}], "it must be valid Unicode, without lone"),
        ([{"role": "user", "content": "a", "x": "\ud800"}], "it must be valid Unicode"),
        ([{"role": "user", "content": "a", "x": object()}], "every message of a chat must be JSON"),
        ([{"role": "user", "content": "a", "x": np.nan}], "every message of a chat must be JSON"),
        ([{"role": "user", "content": "a", 1: 2, "x": 3}], "every message of a chat must be JSON"),
    ],
)
@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_bad_cells(cell, rule, column):
    for frame in (TEXTS, chats()):
        frame = frame.astype(object)
        frame.at[1, column] = cell  # noqa: PD008 (a list as a cell)
        (problem,) = problems_of(frame)
        assert (problem.row, problem.column) == (1, column)
        assert problem.rule.startswith(rule)


def test_blank_messages_beside_others_are_fine():
    frame = chats()
    frame.at[0, "prompt"] = [{"role": "system", "content": ""}, user("The sky is")]  # noqa: PD008
    assert len(read_pairs(frame).prompts) == 3


def test_texts_beside_chats():
    frame = chats().astype(object)
    frame.loc[1] = TEXTS.loc[1]
    assert [(p.row, p.column, p.rule) for p in problems_of(frame)] == [
        (1, "chosen", "it must be a chat, as chosen in row 0 is"),
        (1, "rejected", "it must be a chat, as chosen in row 0 is"),
        (1, "prompt", "it must be a chat, as prompt in row 0 is"),
    ]
    frame = chats().assign(rejected=TEXTS["rejected"])
    frame.loc[0, "chosen"] = None
    assert [(p.row, p.column, p.rule) for p in problems_of(frame)] == [
        (0, "chosen", MISSING),
        *((row, "rejected", "it must be a chat, as chosen in row 1 is") for row in range(3)),
    ]


def test_cells_of_the_wrong_kind_are_not_looked_at_again():
    frame = pd.DataFrame(
        {"chosen": ["a", [user("a"), user("b")]], "rejected": ["b", [user("b"), user("a")]]}
    )
    assert [(p.row, p.column, p.rule) for p in problems_of(frame)] == [
        (None, "prompt", "without prompts, chosen and rejected must be chats"),
        (1, "chosen", "it must be text, as chosen in row 0 is"),
        (1, "rejected", "it must be text, as chosen in row 0 is"),
    ]


def test_missing_columns():
    names = ["prompt", "rejected"]
    assert problems_of(TEXTS[names].assign(rejected=" ")) == (
        Problem(None, "chosen", f"the table has {names}", "column 'chosen' is missing"),
        *(Problem(row, "rejected", BLANK, "' '") for row in range(3)),
    )
    (problem,) = problems_of(TEXTS, prompt="question")
    assert problem.value == "column 'question' is missing"
    repeated = pd.concat([TEXTS, TEXTS["chosen"]], axis=1)
    (problem,) = problems_of(repeated)
    assert str(problem) == "'chosen' names 2 columns; names must be unique"


def test_only_chats_do_without_prompts():
    rule = "without prompts, chosen and rejected must be chats"
    answers = TEXTS.drop(columns="prompt")
    assert problems_of(answers) == (Problem(None, "prompt", rule, "column 'prompt' is missing"),)
    assert problems_of(TEXTS, prompt=None) == (Problem(None, None, rule, "prompt is None"),)


@pytest.mark.parametrize(
    ("chosen", "rejected", "rule"),
    [
        ([user("a"), assistant("x")], [user("b"), assistant("x")], "must begin with the same"),
        ([user("a")], [user("a"), assistant("x")], "must begin with the same message"),
        ([user("a"), assistant(" ")], [user("a"), assistant("x")], "nor the rest may be blank"),
        ([user(" "), assistant("y")], [user(" "), assistant("x")], "nor the rest may be blank"),
    ],
)
def test_chats_without_a_prompt_in_common(chosen, rejected, rule):
    frame = whole_chats()
    frame.at[1, "chosen"] = chosen  # noqa: PD008 (a list as a cell)
    frame.at[1, "rejected"] = rejected  # noqa: PD008
    frame.at[2, "rejected"] = None  # noqa: PD008
    missing, problem = sorted(problems_of(frame), key=lambda p: p.column, reverse=True)
    assert (missing.row, missing.column, missing.rule) == (2, "rejected", MISSING)
    assert (problem.row, problem.column) == (1, "chosen")
    assert rule in problem.rule


def test_tables_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="table is a list; it must be a path or a pandas"):
        read_pairs([TEXTS])
    with pytest.raises(ValueError, match=r"t\.txt is not a table; its name must end in \.csv"):
        read_pairs(tmp_path / "t.txt")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match=r"folder\.csv is not a file"):
        read_pairs(tmp_path / "folder.csv")
    for suffix, kind in (
        ("csv", "CSV"),
        ("csv.gz", "CSV"),
        ("jsonl.gz", "JSON lines"),
        ("parquet", "Parquet"),
    ):
        path = tmp_path / f"t.{suffix}"
        with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is missing"):
            read_pairs(path)
        contents = [b"", b"\x1f\x8b junk"] if suffix == "csv.gz" else [b"\x1f\x8b\x08 junk"]
        for content in [b""] if suffix == "csv" else contents:
            path.write_bytes(content)
            with pytest.raises(ValueError, match=rf"t\.{suffix} is not a readable {kind} file"):
                read_pairs(path)
    lines = gzip.compress(b'{"prompt": "p", "chosen": "a", "rejected": "b"}\n' * 100)
    (tmp_path / "cut.jsonl.gz").write_bytes(lines[:-10])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz is not a readable JSON lines file"):
        read_pairs(tmp_path / "cut.jsonl.gz")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_empty_tables(suffix, tmp_path):
    path = tmp_path / f"t.{suffix}"
    empty = TEXTS.iloc[:0]
    if suffix == "csv":
        empty.to_csv(path, index=False)
    elif suffix == "parquet":
        empty.to_parquet(path)
    else:
        path.write_text("\n")
    for table, source in ((path, f"{path}: "), (empty, "")):
        with pytest.raises(DataError) as caught:
            read_pairs(table)
        assert str(caught.value) == f"{source}the table is empty; it must have at least one row"


def test_rows_of_a_csv_file(tmp_path):
    """Rows are counted without the header and blank lines, also after lines that are skipped."""
    path = tmp_path / "t.csv"
    path.write_bytes(
        b"prompt,chosen,rejected\n"
        b'"two\nlines",a,b\n'  # row 0
        b"\n"
        b"p,a\n"  # row 1
        b"p,\xff,NA\n"  # row 2
        b"p,a,b,c\n"  # row 3
        b'p," ",\n'  # row 4
    )
    width = "a row must have as many cells as the header"
    assert problems_of(path) == (
        Problem(1, "line", width, "'p,a'"),
        Problem(2, "chosen", "it must be UTF-8 text", r"b'\xff'"),
        Problem(3, "line", width, "'p,a,b,c'"),
        Problem(4, "chosen", BLANK, "' '"),
        Problem(4, "rejected", BLANK, "''"),
    )
    path.write_text("prompt,chosen,rejected,chosen\np,a,b,c\np,a\n")
    assert [str(problem) for problem in problems_of(path)] == [
        "'chosen' names 2 columns; names must be unique",
        f"line in row 1 is 'p,a'; {width}",
    ]
    path.write_text("a,a\n1,2\n")
    assert [p.value for p in problems_of(path)] == [
        f"column {name!r} is missing" for name in ("chosen", "rejected", "prompt")
    ]


def test_long_cells_of_a_csv_file(tmp_path):
    frame = TEXTS.assign(chosen=["a" * 3_000_000, "b,\n" * 500_000, "c"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert_same(read_pairs(frame), read_pairs(tmp_path / "t.csv"))


def test_rows_of_a_json_lines_file(tmp_path):
    path = tmp_path / "t.jsonl"
    good = b'{"prompt": "p", "chosen": "a", "rejected": "b"}'
    lines = [
        good,  # row 0
        b"",
        good[:-5],  # row 1
        b'["p", "a", "b"]',  # row 2
        b'{"prompt": "p", "chosen": "a"}',  # row 3
        good.replace(b'"a"', b"1"),  # row 4
        good.replace(b"a", b"\xff"),  # row 5
        b"[" * 100_000,  # row 6
        good.replace(b'"b"', b"null"),  # row 7
        good.replace(b'"a"', rb'"\ud800"'),  # row 8
    ]
    path.write_bytes(b"\n".join(lines))
    assert [(p.row, p.column, p.rule) for p in problems_of(path)] == [
        (1, "line", "a line must hold one JSON object"),
        (2, "line", "a line must hold one JSON object"),
        (3, "rejected", MISSING),
        (4, "chosen", "it must be text or a chat"),
        (5, "line", "a line must hold one JSON object"),
        (6, "line", "a line must hold one JSON object"),
        (7, "rejected", MISSING),
        (8, "chosen", "it must be valid Unicode, without lone surrogates"),
    ]
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_pairs(path)


def test_texts_of_a_parquet_file_that_are_not_text(tmp_path):
    path = tmp_path / "t.parquet"
    raw = pa.array([b"\xff\xfe"], pa.binary()).cast(pa.string(), safe=False)
    columns = {"prompt": ["p"], "chosen": pa.StringArray.from_buffers(1, *raw.buffers()[1:])}
    pq.write_table(pa.table(columns | {"rejected": ["b"]}), path)
    with pytest.raises(ValueError, match=r"t\.parquet: column 'chosen' is not UTF-8 text"):
        read_pairs(path)


def test_csv_columns_that_are_not_read(tmp_path, monkeypatch):
    """A column of numbers that turns into text after the first block is no concern of ours."""
    path = tmp_path / "t.csv"
    monkeypatch.setattr(sources, "_CSV_BLOCK", 1 << 12)
    frame = pd.concat([TEXTS] * 1000, ignore_index=True)
    frame.assign(score=[*range(len(frame) - 1), "three"]).to_csv(path, index=False)
    assert_same(read_pairs(frame), read_pairs(path))


# ---- the container --------------------------------------------------------------------------

DATA = PreferenceData([0, 1], [0, 1], [1, 0], (2, 3))


def test_container_is_frozen():
    pairs = NamedPairs(DATA, ["p", "q"], [["a", "b"], ["a", "b", "c"]])
    assert pairs.prompts == ("p", "q")
    assert pairs.responses == (("a", "b"), ("a", "b", "c"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        pairs.prompts = ()
    with pytest.raises(ValueError, match="read-only"):
        pairs.data.prompt[0] = 1
    assert pairs.to_dataframe().to_dict("list") == {
        "prompt": ["p", "q"],
        "chosen": ["a", "b"],
        "rejected": ["b", "a"],
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": 5}, "data is a int; it must be a PreferenceData"),
        ({"prompts": ["p"]}, "prompts has 1 entries; data has 2 prompts"),
        ({"responses": [["a", "b"]]}, "responses has 1 entries; data has 2 prompts"),
        ({"prompts": ["p", "p"]}, r"prompts\[1\] is 'p'; names must not repeat"),
        ({"prompts": ["p", 5]}, r"prompts\[1\] is 5; it must be a string"),
        ({"prompts": "pq"}, r"prompts is 'pq'; it must be a sequence of strings"),
        ({"responses": [["a", "a"], ["a", "b"]]}, r"responses\[0\]\[1\] is 'a'; names must not"),
        ({"responses": ["ab", ["a", "b"]]}, r"responses\[0\] is 'ab'; it must be a sequence"),
        ({"responses": [["a", "b"], ["a"]]}, r"data\.chosen\[1\] is 1; prompt 1 has names of 1 re"),
        ({"responses": [["a"], ["a", "b"]]}, r"data\.rejected\[0\] is 1; prompt 0 has names of 1"),
        ({"responses": [list("abcd"), list("ab")]}, r"responses\[0\] has 4 entries; data has 3"),
        ({"prompt_chats": True}, r"prompts\[0\] is 'p'; it must be the JSON text of a chat"),
        ({"response_chats": True}, r"responses\[0\]\[0\] is 'a'; it must be the JSON text of a"),
        ({"prompts": ["[]", "q"], "prompt_chats": True}, r"prompts\[0\] is '\[\]'; a chat must"),
        ({"prompts": ["[1]", "q"], "prompt_chats": True}, r"prompts\[0\] is '\[1\]'; every mess"),
        ({"prompt_chats": 1}, "prompt_chats is 1; it must be True or False"),
    ],
)
def test_bad_names(changes, message):
    good = {"data": DATA, "prompts": ["p", "q"], "responses": [["a", "b"], ["a", "b"]]}
    assert NamedPairs(**good).data is DATA
    with pytest.raises(ValueError, match=message):
        NamedPairs(**(good | changes))
