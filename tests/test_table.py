"""The importer of scored responses against slow dictionaries, and everything that it refuses."""

from __future__ import annotations

import decimal
import gzip
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from scipy.stats import spearmanr

from rlhfsim.bandit import ContextualBandit
from rlhfsim.table import example_table, read_bandit
from rlhfsim.table import scored as table_module

ARRAYS = ("prompt_dist", "reference", "reward", "proxy_reward", "available")


def random_frame(prompts=7, responses=5, missing=6, seed=0):
    """A table in random order, with `missing` pairs left out and every usable column."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(prompts * responses)[missing:]
    x, y = pairs // responses, pairs % responses
    weight = rng.exponential(size=pairs.size)
    return pd.DataFrame(
        {
            "prompt_id": [f"p{i}" for i in x],
            "text": "never read",
            "response_id": [f"r{i}" for i in y],
            "judge_preference": rng.random(pairs.size),
            "length": rng.integers(1, 2000, pairs.size),
            "score": rng.standard_normal(pairs.size),
            "w": weight,
            "logw": np.log(weight) + rng.standard_normal(prompts)[x],
            "pw": rng.exponential(size=prompts)[x],
        }
    )


def small_frame(**columns):
    """Two prompts, three responses, no response "c" for prompt "q"."""
    frame = pd.DataFrame(
        {
            "prompt_id": ["p", "p", "p", "q", "q"],
            "response_id": ["a", "b", "c", "a", "b"],
            "reward": [0.0, 1.0, 2.0, -3.0, -4.0],
            "length": [5, 6, 7, 9, 8],
        }
    )
    return frame.assign(**columns)


def reconstruct(frame, gold, proxy, weight=None, prompt_weight=None):
    """Build the arrays of a bandit one row at a time; `gold(row)` is the true reward."""
    rows = frame.to_dict("records")
    prompts = list(dict.fromkeys(row["prompt_id"] for row in rows))
    responses = list(dict.fromkeys(row["response_id"] for row in rows))
    by_pair = {(row["prompt_id"], row["response_id"]): row for row in rows}
    shape = (len(prompts), len(responses))
    out = {name: np.zeros(shape) for name in ARRAYS[1:4]}
    out["available"] = np.zeros(shape, dtype=bool)
    dist = []
    for i, p in enumerate(prompts):
        own = [row for row in rows if row["prompt_id"] == p]
        mass = {r["response_id"]: 1.0 if weight is None else r[weight] for r in own}
        dist.append(1.0 if prompt_weight is None else own[0][prompt_weight])
        for j, r in enumerate(responses):
            row = by_pair.get((p, r))
            out["available"][i, j] = row is not None
            out["reference"][i, j] = mass.get(r, 0.0) / sum(mass.values())
            out["reward"][i, j] = gold(row) if row else min(map(gold, own))
            out["proxy_reward"][i, j] = (row or min(own, key=lambda r: r[proxy]))[proxy]
    out["prompt_dist"] = np.array(dist) / sum(dist)
    return out, tuple(prompts), tuple(responses)


def assert_same(first, second, rtol=0.0):
    for name in ARRAYS:
        a, b = getattr(first, name), getattr(second, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=rtol, atol=0, err_msg=name)
    assert first.prompts == second.prompts
    assert first.responses == second.responses


def refused(table, *facts, **columns):
    """Assert that the table is refused with a one-line ValueError that states all `facts`."""
    with pytest.raises(ValueError) as caught:
        read_bandit(table, **columns)
    message = str(caught.value)
    assert "\n" not in message
    for fact in facts:
        assert fact in message, message


# ---- the arrays, against dictionaries -------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_win_probabilities_and_uniform_reference(seed):
    frame = random_frame(seed=seed)
    bandit = read_bandit(frame)

    def gold(row):
        return math.log(row["judge_preference"]) - math.log1p(-row["judge_preference"])

    expected, prompts, responses = reconstruct(frame, gold, "length")
    for name, array in expected.items():
        np.testing.assert_allclose(getattr(bandit, name), array, rtol=1e-12, err_msg=name)
    assert (bandit.prompts, bandit.responses) == (prompts, responses)
    assert not bandit.available.all()


@pytest.mark.parametrize("seed", range(5))
def test_every_column_named(seed):
    frame = random_frame(seed=seed)
    bandit = ContextualBandit.from_table(
        frame, reward="score", proxy="length", weight="w", prompt_weight="pw"
    )
    expected, _, _ = reconstruct(frame, lambda row: row["score"], "length", "w", "pw")
    for name, array in expected.items():
        np.testing.assert_allclose(getattr(bandit, name), array, rtol=1e-13, err_msg=name)


def test_small_table_by_hand():
    bandit = read_bandit(small_frame())
    assert bandit.prompts == ("p", "q")
    assert bandit.responses == ("a", "b", "c")
    np.testing.assert_array_equal(bandit.reward, [[0, 1, 2], [-3, -4, -4]])
    np.testing.assert_array_equal(bandit.proxy_reward, [[5, 6, 7], [9, 8, 8]])
    np.testing.assert_array_equal(bandit.available, [[1, 1, 1], [1, 1, 0]])
    np.testing.assert_allclose(bandit.reference, [[1 / 3] * 3, [0.5, 0.5, 0]], rtol=1e-15)
    np.testing.assert_array_equal(bandit.prompt_dist, [0.5, 0.5])


def test_complete_table_has_no_mask():
    assert read_bandit(small_frame().iloc[:3]).available is None
    assert read_bandit(random_frame(missing=0)).available is None


def test_shuffled_rows_give_the_same_bandit_up_to_labels():
    frame = random_frame()
    first = read_bandit(frame, weight="w", prompt_weight="pw")
    shuffled = frame.sample(frac=1.0, random_state=1)
    second = read_bandit(shuffled, weight="w", prompt_weight="pw")
    assert first.prompts != second.prompts
    x = [second.prompts.index(p) for p in first.prompts]
    y = [second.responses.index(r) for r in first.responses]
    np.testing.assert_allclose(second.prompt_dist[x], first.prompt_dist, rtol=1e-14)
    for name in ARRAYS[1:]:
        array = getattr(second, name)[np.ix_(x, y)]
        np.testing.assert_allclose(array, getattr(first, name), rtol=1e-14, err_msg=name)


def test_dataframe_is_not_written_to():
    frame = small_frame(w=[1, 2, 3, 4, 5], pw=[1, 1, 1, 2, 2])
    before = frame.copy(deep=True)
    bandit = read_bandit(frame, weight="w", prompt_weight="pw")
    pd.testing.assert_frame_equal(frame, before)
    frame.loc[:, "reward"] = 99.0
    assert bandit.reward[0, 0] == 0.0


# ---- missing pairs --------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [{}, {"weight": "w"}, {"log_prob": "logw"}])
def test_missing_responses_cannot_be_used(columns):
    bandit = read_bandit(random_frame(missing=9), **columns)
    gone = ~bandit.available
    assert gone.sum() == 9
    assert (bandit.reference[gone] == 0.0).all()
    assert (bandit.reference[~gone] > 0.0).all()
    assert not (bandit.optimal_policy()[gone] > 0).any()
    x, y = (int(i[0]) for i in np.nonzero(gone))
    policy = bandit.reference.copy()
    policy[x] = np.eye(bandit.shape[1])[y]
    with pytest.raises(ValueError, match="does not have"):
        bandit.value(policy)


def test_missing_response_is_not_optimal_even_when_tied():
    """The only response of a prompt ties with the fill of the others, one of which comes first."""
    frame = small_frame().drop(index=3)
    bandit = read_bandit(frame)
    np.testing.assert_array_equal(bandit.reward[1], [-4, -4, -4])
    np.testing.assert_array_equal(bandit.optimal_policy()[1], [0, 1, 0])


# ---- the columns that are read --------------------------------------------------------------


def test_defaults_prefer_reward_and_proxy_reward():
    frame = small_frame(
        judge_preference=0.5, proxy_reward=[1.0, 2.0, 3.0, 4.0, 5.0], reference_weight=1.0
    )
    bandit = read_bandit(frame)
    np.testing.assert_array_equal(bandit.reward[0], [0, 1, 2])
    np.testing.assert_array_equal(bandit.proxy_reward[0], [1, 2, 3])
    bandit = read_bandit(frame, win_probability="judge_preference", proxy="length")
    np.testing.assert_array_equal(bandit.reward, 0.0)
    np.testing.assert_array_equal(bandit.proxy_reward[0], [5, 6, 7])


def test_proxy_is_optional_and_never_the_true_reward_by_default():
    assert read_bandit(small_frame().drop(columns="length")).proxy_reward is None
    assert read_bandit(small_frame(), reward="length").proxy_reward is None
    assert read_bandit(small_frame(), reward="length", proxy="reward").proxy_reward[0, 2] == 2.0


def test_default_reference_columns():
    weight = [1.0, 2.0, 1.0, 3.0, 1.0]
    expected = [[0.25, 0.5, 0.25], [0.75, 0.25, 0.0]]
    for columns in ({"reference_weight": weight}, {"reference_logprob": np.log(weight)}):
        np.testing.assert_allclose(
            read_bandit(small_frame(**columns)).reference, expected, rtol=1e-15
        )
    both = small_frame(reference_weight=weight, reference_logprob=0.0)
    refused(both, "'reference_weight'", "'reference_logprob'", "name one")
    np.testing.assert_allclose(
        read_bandit(both, weight="reference_weight").reference, expected, rtol=1e-15
    )
    np.testing.assert_allclose(read_bandit(both, log_prob="reference_logprob").reference[1, 0], 0.5)


def test_two_columns_for_one_thing():
    frame = small_frame(judge_preference=0.5, w=1.0, lw=0.0)
    refused(frame, "'reward'", "both", reward="reward", win_probability="judge_preference")
    refused(frame, "weight='w'", "log_prob='lw'", weight="w", log_prob="lw")
    refused(frame, "prompt and response are both 'prompt_id'", response="prompt_id")


def test_a_column_that_is_not_there():
    for argument in (
        *("prompt", "response", "reward", "win_probability"),
        *("proxy", "weight", "log_prob", "prompt_weight"),
    ):
        refused(
            small_frame(),
            f"{argument}='lenght'",
            "did you mean 'length'?",
            "['prompt_id', 'response_id', 'reward', 'length']",
            **{argument: "lenght"},
        )
    refused(small_frame().drop(columns="prompt_id"), "prompt='prompt_id' is not a column")
    refused(small_frame(), "reward=['reward'] is not a column", reward=["reward"])
    with pytest.raises(ValueError) as caught:
        read_bandit(small_frame(), proxy="zzzzzz")
    assert "did you mean" not in str(caught.value)


def test_no_reward_at_all():
    frame = small_frame().drop(columns="reward")
    refused(frame, "reward=", "win_probability=", "'judge_preference'", "'length'")


def test_a_name_that_two_columns_have(tmp_path):
    frame = small_frame()
    twice = pd.concat([frame, frame[["reward"]]], axis=1)
    refused(twice, "reward='reward' names 2 columns")
    path = tmp_path / "twice.csv"
    twice.to_csv(path, index=False)
    refused(path, "reward='reward' names 2 columns")


# ---- entries that are refused ---------------------------------------------------------------

NUMBER_COLUMNS = {
    "reward": {},
    "length": {},
    "q": {"win_probability": "q"},
    "w": {"weight": "w"},
    "lw": {"log_prob": "lw"},
    "pw": {"prompt_weight": "pw"},
}


@pytest.mark.parametrize("column", NUMBER_COLUMNS)
@pytest.mark.parametrize(
    "value", [np.nan, np.inf, None, "abc", "", pd.NaT, 1j, [1], 10**400], ids=repr
)
def test_entries_that_are_not_finite_numbers(column, value):
    frame = small_frame(q=0.5, w=1.0, lw=0.0, pw=1.0)
    cells = frame[column].tolist()
    cells[3] = value
    frame[column] = pd.Series(cells, dtype=None if isinstance(value, float) else object)
    shown = repr(value)[:60]
    rule = "must be a finite number"
    refused(frame, f"{column} in row 3 is {shown}; ", rule, **NUMBER_COLUMNS[column])


def test_complex_columns_are_refused():
    frame = small_frame(reward=np.arange(5) + 0j)
    refused(frame, "reward in row 0 is 0j; it must be a finite number (5 such rows: 0, 1, 2, 3, 4)")


def test_minus_infinity_is_only_a_log_probability():
    frame = small_frame(lw=[0.0, -np.inf, 0.0, -np.inf, 0.0])
    bandit = read_bandit(frame, log_prob="lw")
    np.testing.assert_array_equal(bandit.reference, [[0.5, 0, 0.5], [0, 1, 0]])
    np.testing.assert_array_equal(bandit.available, [[1, 1, 1], [1, 1, 0]])
    refused(frame, "lw in row 1 is -inf", "finite", "(2 such rows: 1, 3)", reward="lw")


def test_all_rows_of_one_kind_are_counted():
    frame = random_frame()
    frame.loc[[4, 9, 10, 11, 20, 21, 22], "judge_preference"] = np.nan
    refused(
        frame,
        "judge_preference in row 4 is nan; it must be a finite number",
        "(7 such rows: 4, 9, 10, 11, 20, ...)",
    )


def test_rows_are_counted_by_position():
    frame = small_frame(reward=[0.0, 1.0, np.nan, 2.0, 3.0])
    frame.index = [10, 20, 30, 40, 50]
    refused(frame, "reward in row 2 is nan")


@pytest.mark.parametrize("value", [-0.25, 1.0000001, -1e-300])
def test_probabilities_outside_the_unit_interval(value):
    frame = small_frame(q=[0.1, 0.2, 0.3, 0.4, value])
    refused(frame, f"q in row 4 is {value!r}", "[0, 1]", win_probability="q")


@pytest.mark.parametrize("column", ["w", "pw"])
def test_negative_weights(column):
    frame = small_frame(w=[1, 2, -1e-300, 1, 1], pw=[-0.5, -0.5, -0.5, 2, 2])
    row, value = (2, -1e-300) if column == "w" else (0, -0.5)
    argument = "weight" if column == "w" else "prompt_weight"
    refused(
        frame, f"{column} in row {row} is {value}; it must not be negative", **{argument: column}
    )


def test_prompts_without_mass():
    frame = small_frame(w=[1, 2, 3, 0, 0], lw=[0, 0, 0, -np.inf, -np.inf], zero=0.0)
    refused(frame, "w is 0 in every row of prompt 'q'", weight="w")
    refused(frame, "lw is -inf in every row of prompt 'q'", log_prob="lw")
    refused(frame, "zero", "prompt 'p'", "(2 such prompts)", weight="zero")
    refused(frame, "zero is 0 in every row", prompt_weight="zero")


def test_prompt_weights_must_agree_within_a_prompt():
    frame = small_frame(pw=[1.0, 1.0, 1.0, 2.0, 2.5])
    facts = ("pw in row 4 is 2.5", "prompt 'q'", "2.0 in row 3")
    refused(frame, *facts, prompt_weight="pw")


@pytest.mark.parametrize("column", ["prompt_id", "response_id"])
@pytest.mark.parametrize("value", [np.nan, None, pd.NA, ""], ids=repr)
def test_missing_ids(column, value):
    frame = small_frame().astype({column: object})
    frame[column] = pd.Series([*frame[column][:-1], value], dtype=object)
    refused(frame, f"{column} in row 4 is {value!r}; an id must not be missing")


@pytest.mark.parametrize("value", [1.5, True, (1, 2), b"a", np.bool_(True)], ids=repr)
def test_ids_of_other_types(value):
    ids = pd.Series(["a", value, "c", "d", "e"], dtype=object)
    refused(small_frame(prompt_id=ids), "prompt_id in row 1 is", "a string or an integer")


def test_duplicate_pairs():
    frame = pd.concat([small_frame(), small_frame().iloc[[1, 3]]], ignore_index=True)
    refused(frame, "row 5 repeats row 1", "prompt 'p', response 'b'", "(2 such rows: 5, 6)")
    refused(frame.iloc[:6], "row 5 repeats row 1")
    with pytest.raises(ValueError) as caught:
        read_bandit(frame.iloc[:6])
    assert "such rows" not in str(caught.value)


def test_a_table_whose_array_would_be_almost_empty(monkeypatch):
    monkeypatch.setattr(table_module, "MAX_SPARSE_CELLS", 100)
    frame = pd.DataFrame({"prompt_id": range(11), "response_id": range(11), "reward": 0.0})
    refused(frame, "11 prompts and 11 responses make 121 pairs", "11 have a row")
    assert read_bandit(frame.iloc[:10]).shape == (10, 10)
    assert read_bandit(random_frame(12, 10, 0), reward="score").shape == (12, 10)


# ---- clipping, weights and log-probabilities ------------------------------------------------


@pytest.mark.parametrize("clip", [1e-6, 0.01, 1e-20, 0.49])
def test_clipped_probabilities(clip):
    q = np.array([0.0, 1.0, 0.5, clip / 2, 1 - clip / 4])
    bandit = read_bandit(small_frame(q=q), win_probability="q", clip=clip)
    bound = math.log1p(-clip) - math.log(clip)
    reward = bandit.reward[bandit.available]
    assert np.isfinite(reward).all()
    np.testing.assert_allclose(reward[[0, 1, 3]], [-bound, bound, -bound], rtol=1e-14)
    assert reward[2] == 0.0
    if clip > 1e-10:
        naive = np.clip(q, clip, 1 - clip)
        np.testing.assert_allclose(reward, np.log(naive / (1 - naive)), rtol=1e-9)


def test_unclipped_probabilities_are_untouched():
    q = np.array([1e-5, 1 - 1e-5, 0.25, 0.75, 2e-6])
    reward = read_bandit(small_frame(q=q), win_probability="q").reward
    np.testing.assert_allclose(reward[0], [math.log(p) - math.log1p(-p) for p in q[:3]], rtol=1e-13)


@pytest.mark.parametrize("clip", [0.0, 0.5, -1e-6, 0.7, np.nan, np.inf, "x", [0.1]])
def test_bad_clip(clip):
    refused(small_frame(), "clip", clip=clip)


def test_weights_and_log_probs_agree():
    frame = random_frame(missing=9)
    by_weight = read_bandit(frame, weight="w")
    by_log = read_bandit(frame, log_prob="logw")
    np.testing.assert_allclose(by_weight.reference, by_log.reference, rtol=1e-13)
    assert (by_weight.reference == 0.0).sum() == 9


def test_extreme_weights_and_log_probs():
    weights = [1e308, 1e308, 0.0, 5e-324, 5e-324]
    expected = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]
    np.testing.assert_array_equal(
        read_bandit(small_frame(w=weights), weight="w").reference, expected
    )
    logs = [-1e5, -1e5, -1.7e308, 1.7e308, 1.7e308]
    np.testing.assert_array_equal(
        read_bandit(small_frame(lw=logs), log_prob="lw").reference, expected
    )
    logs = [1.7e308, -1.7e308, -np.inf, 0.0, 0.0]
    reference = read_bandit(small_frame(lw=logs), log_prob="lw").reference
    np.testing.assert_array_equal(reference[0], [1, 0, 0])


def test_prompt_weights():
    frame = small_frame(pw=[3, 3, 3, 1, 1], big=[1e308] * 5)
    np.testing.assert_array_equal(read_bandit(frame, prompt_weight="pw").prompt_dist, [0.75, 0.25])
    np.testing.assert_array_equal(read_bandit(frame, prompt_weight="big").prompt_dist, [0.5, 0.5])
    frame["pw"] = [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(read_bandit(frame, prompt_weight="pw").prompt_dist, [0, 1])


# ---- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["t.csv", "t.csv.gz", "t.parquet", "T.CSV", "T.Csv.GZ", "T.Parquet"]
)
@pytest.mark.parametrize("kind", [str, Path])
def test_files_and_frames_give_identical_bandits(tmp_path, name, kind):
    frame = random_frame()
    path = tmp_path / name
    write(frame, path)
    columns = {"log_prob": "logw", "prompt_weight": "pw"}
    assert_same(read_bandit(kind(path), **columns), read_bandit(frame, **columns))


def write(frame, path):
    lower = path.name.lower()
    if lower.endswith(".parquet"):
        frame.to_parquet(path)
    elif lower.endswith(".gz"):
        path.write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    else:
        frame.to_csv(path, index=False)


def test_integer_ids(tmp_path):
    frame = small_frame(prompt_id=[12, 12, 12, -7, -7], response_id=[0, 1, 2, 0, 1])
    first = read_bandit(frame)
    assert first.prompts == (12, -7)
    assert [type(i) for i in first.prompts + first.responses] == [int] * 5
    for name in ("t.csv", "t.csv.gz", "t.parquet"):
        write(frame, tmp_path / name)
        assert_same(read_bandit(tmp_path / name), first)


def test_ids_keep_their_spelling_in_csv(tmp_path):
    """Names that a reader may take for numbers, truth values or missing entries."""
    names = ["007", "7", "1e5", "NA", "null", "true", "1.0", " x", "2020-01-01"]
    path = tmp_path / "t.csv"
    lines = [f'"p, ""1""",{name},{i}' for i, name in enumerate(names)]
    path.write_text("prompt_id,response_id,reward\n" + "\n".join(lines) + "\n")
    bandit = read_bandit(path)
    assert bandit.responses == tuple(names)
    assert bandit.prompts == ('p, "1"',)
    np.testing.assert_array_equal(bandit.reward[0], range(9))


def test_ids_of_digits_alone_keep_leading_zeros_in_csv(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("prompt_id,response_id,reward\n007,0,1\n7,10,2\n")
    bandit = read_bandit(path)
    assert bandit.prompts == ("007", "7")
    assert bandit.responses == (0, 10)
    # Too long for a 64-bit integer.
    path.write_text(f"prompt_id,response_id,reward\n{10**20},0,1\n")
    assert read_bandit(path).prompts == (str(10**20),)


def test_values_are_read_to_the_last_bit(tmp_path):
    frame = random_frame(40, 25, 0)
    write(frame, tmp_path / "t.csv")
    bandit = read_bandit(tmp_path / "t.csv", reward="score")
    assert set(bandit.reward.ravel()) == set(frame["score"])


def test_ids_and_numbers_of_other_column_types():
    frame = small_frame()
    expected = read_bandit(frame)
    nullable = frame.convert_dtypes()
    assert nullable["reward"].dtype != frame["reward"].dtype
    assert_same(read_bandit(nullable), expected)
    assert_same(read_bandit(frame.astype({"prompt_id": "category"})), expected)
    assert_same(read_bandit(frame.astype({"reward": str, "length": "float32"})), expected)
    decimals = [decimal.Decimal(value) for value in frame["reward"]]
    assert_same(read_bandit(frame.assign(reward=decimals)), expected)
    mixed = read_bandit(frame.assign(prompt_id=pd.Series([1, 1, 1, "1", "1"], dtype=object)))
    assert mixed.prompts == (1, "1")


def test_columns_in_a_stored_index_are_found(tmp_path):
    frame = small_frame()
    frame.set_index(["prompt_id", "response_id"]).to_parquet(tmp_path / "t.parquet")
    assert_same(read_bandit(tmp_path / "t.parquet"), read_bandit(frame))


def test_quoted_line_breaks_and_byte_order_marks(tmp_path):
    path = tmp_path / "t.csv"
    text = 'prompt_id,note,response_id,reward\n1,"a\nb",x,0.5\n1,"c",y,1.5\n'
    path.write_text(text, encoding="utf-8-sig")
    bandit = read_bandit(path)
    assert (bandit.prompts, bandit.responses) == ((1,), ("x", "y"))
    np.testing.assert_array_equal(bandit.reward, [[0.5, 1.5]])
    # Long enough to be read in several blocks, which must not end inside a quoted text.
    rows = "".join(f'{i},"{"a" * 50_000}\n{"b" * 50_000}",x,{i}\n' for i in range(40))
    path.write_text("prompt_id,note,response_id,reward\n" + rows)
    np.testing.assert_array_equal(read_bandit(path).reward[:, 0], range(40))


def test_bad_cells_of_a_csv_file(tmp_path):
    path = tmp_path / "t.csv"
    head = "prompt_id,response_id,reward\n"
    path.write_text(head + "1,x,0.5\n1,y,abc\n")
    refused(path, "reward in row 1 is 'abc'", "finite number")
    path.write_text(head + "1,x,0.5\n1,y,\n")
    refused(path, "reward in row 1 is nan")
    path.write_text(head + "1,x,\n1,y,\n")
    refused(path, "reward in row 0 is None", "(2 such rows: 0, 1)")
    path.write_text(head + "1,x,0.5\n,y,1\n")
    refused(path, "prompt_id in row 1 is ''", "must not be missing")
    path.write_text(head + "1,x,2020-01-01\n")
    refused(path, "reward in row 0 is", "finite number")
    # A text cell far below the rows from which the type of a column is guessed.
    many = "".join(f"{i},x,{i}\n" for i in range(150_000))
    path.write_text(head + many + "a,x,abc\n")
    refused(path, "reward in row 150000 is 'abc'")


def test_files_that_cannot_be_read(tmp_path):
    refused(tmp_path / "none.csv", str(tmp_path / "none.csv"), "missing")
    refused(str(tmp_path / "none.parquet"), "none.parquet", "missing")
    (tmp_path / "folder.csv").mkdir()
    refused(tmp_path / "folder.csv", "folder.csv is not a file")
    for name in ("t.xlsx", "t.json", "csv", "t.gz", "t"):
        (tmp_path / name).write_text("x")
        refused(tmp_path / name, name, ".csv, .csv.gz, .parquet")
    contents = {
        "empty.csv": b"",
        "ragged.csv": b"prompt_id,response_id,reward\n1,x,0.5,9\n1,y,1\n",
        "latin.csv": b"prompt_id,response_id,reward\n1,\xff,2\n",
        "latin_head.csv": b"prompt_id,response_id,reward\xff\n1,x,2\n",
        "plain.csv.gz": b"prompt_id,response_id,reward\n1,x,2\n",
        "cut.csv.gz": gzip.compress(random_frame().to_csv().encode())[:-40],
        "empty.csv.gz": b"",
        "text.parquet": b"prompt_id,response_id,reward\n1,x,2\n",
        "empty.parquet": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        form = "Parquet" if name.endswith("parquet") else "CSV"
        refused(tmp_path / name, f"{name} is not a readable {form} file: ")


def test_tables_without_rows(tmp_path):
    refused(small_frame().iloc[:0], "table is empty")
    refused(pd.DataFrame(), "table is empty")
    for name in ("t.csv", "t.csv.gz", "t.parquet"):
        write(small_frame().iloc[:0], tmp_path / name)
        refused(tmp_path / name, f"{name} is empty", "at least one row")


@pytest.mark.parametrize(
    "table", [None, 3, {"reward": [1.0]}, [[1, 2]], np.zeros((2, 2))], ids=repr
)
def test_things_that_are_not_tables(table):
    refused(table, f"table is a {type(table).__name__}", "pandas DataFrame")


# ---- whole tables ---------------------------------------------------------------------------


def judged_frame():
    """A table of the size of a public leaderboard: 805 x 58, of which 797 prompts are complete."""
    rng = np.random.default_rng(3)
    grid = pd.MultiIndex.from_product(
        [[f"{i:012x}" for i in range(805)], [f"responder-{j}" for j in range(58)]],
        names=["prompt_id", "response_id"],
    )
    frame = grid.to_frame(index=False)
    frame["judge_preference"] = np.round(rng.beta(0.1, 0.7, len(frame)), 6)
    frame["length"] = rng.integers(0, 30_000, len(frame))
    gaps = [(100 * i + 5) * 58 + 7 for i in range(8)]
    return frame.drop(index=[*gaps, gaps[0] + 1, gaps[0] + 2])


def test_a_table_of_full_size(tmp_path):
    path = os.environ.get("RLHFSIM_JUDGED_TABLE")
    if path is None:
        path = tmp_path / "judged.csv.gz"
        write(judged_frame(), path)
    bandit = ContextualBandit.from_table(path)
    assert bandit.shape == (805, 58)
    assert bandit.available.all(axis=1).sum() == 797
    assert bandit.available.sum() == 46_680
    rows = pd.read_csv(path, dtype={"prompt_id": str})
    limit = math.log1p(-1e-6) - math.log(1e-6)
    assert abs(bandit.reward).max() == pytest.approx(limit, rel=1e-14)
    for row in rows.sample(200, random_state=0).itertuples():
        x = bandit.prompts.index(row.prompt_id)
        y = bandit.responses.index(row.response_id)
        q = min(max(row.judge_preference, 1e-6), 1 - 1e-6)
        assert bandit.available[x, y]
        assert bandit.reward[x, y] == pytest.approx(math.log(q) - math.log1p(-q), rel=1e-9)
        assert bandit.proxy_reward[x, y] == row.length
        assert bandit.reference[x, y] == pytest.approx(1 / bandit.available[x].sum(), rel=1e-14)


def test_example_table_loads():
    path = example_table()
    assert path.name == "judged_example.csv"
    bandit = ContextualBandit.from_table(path)
    assert bandit.shape == (12, 6)
    assert bandit.prompts == tuple(f"prompt-{i:02d}" for i in range(1, 13))
    assert bandit.responses == tuple(f"model-{c}" for c in "abcdef")
    assert (~bandit.available).sum() == 4
    q = pd.read_csv(path)["judge_preference"]
    assert ((q > 0) & (q < 1)).all()


def test_length_can_be_gamed_in_the_example_table():
    bandit = ContextualBandit.from_table(example_table())
    has = bandit.available
    within = [
        spearmanr(bandit.proxy_reward[x][has[x]], bandit.reward[x][has[x]]).statistic
        for x in range(bandit.shape[0])
    ]
    assert np.mean(within) > 0.2
    assert spearmanr(bandit.proxy_reward[has], bandit.reward[has]).statistic > 0.2
    # The longest response is worse than the average one, and far worse than the best.
    longest = np.eye(bandit.shape[1])[np.where(has, bandit.proxy_reward, -np.inf).argmax(axis=1)]
    at_reference, at_longest = bandit.value(bandit.reference), bandit.value(longest)
    assert at_longest < at_reference - 0.3
    assert bandit.regret(longest) > bandit.regret(bandit.reference) > 0
    # Preferring length mildly raises the true reward, before it falls below where it began.
    strengths = np.linspace(0, 0.05, 200)[:, None, None]
    logits = np.where(has, strengths * bandit.proxy_reward, -np.inf)
    values = bandit.value(softmax(logits, axis=-1))
    peak = int(values.argmax())
    assert 0 < peak < 199
    assert values[peak] > at_reference + 0.1
    assert values[-1] < at_reference
