"""Bandits from tables of scored responses: one row per (prompt, response) pair."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logit

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.table.reading import (
    Mask,
    as_frame,
    as_non_negative,
    as_numbers,
    find_column,
    find_default,
    other_rows,
    refuse_rows,
)

if TYPE_CHECKING:
    import pandas as pd

#: Columns that are read when none is named, each if the table has it.
REWARD_COLUMN = "reward"
WIN_PROBABILITY_COLUMN = "judge_preference"
PROXY_COLUMNS = ("proxy_reward", "length")
WEIGHT_COLUMN = "reference_weight"
LOG_PROB_COLUMN = "reference_logprob"

#: Largest number of (prompt, response) cells of a table in which fewer than a tenth have a row.
MAX_SPARSE_CELLS = 10**8


def example_table() -> Path:
    """Return the path of a small made-up table of judged responses, shipped with the package.

    12 prompts and 6 responders, with the columns `prompt_id`, `response_id`, `judge_preference`
    and `length`; 4 pairs are missing.  Longer responses are judged better up to a point and the
    longest much worse, so that `length` is a proxy reward that can be gamed.
    """
    return Path(str(resources.files("rlhfsim").joinpath("data", "judged_example.csv")))


def read_bandit(
    table: str | PathLike[str] | pd.DataFrame,
    *,
    prompt: str = "prompt_id",
    response: str = "response_id",
    reward: str | None = None,
    win_probability: str | None = None,
    clip: float = 1e-6,
    proxy: str | None = None,
    weight: str | None = None,
    log_prob: str | None = None,
    prompt_weight: str | None = None,
) -> ContextualBandit:
    """Return the bandit of a table with one row per (prompt, response) pair.

    The true reward is a column of rewards, or `r* = logit(q)` of a column of win probabilities q,
    the Bradley-Terry reward relative to a fixed opponent, with q clipped to `[clip, 1 - clip]`.

    Prompts and responses keep the order in which they first appear.  A pair without a row is
    marked in `available`: its reference probability is exactly 0, and its reward and proxy are
    the lowest that its prompt has, which only keeps the arrays finite.

    Parameters
    ----------
    table : path of a .csv, .csv.gz or .parquet file, or DataFrame
        Not written to.  Columns that are not asked for are ignored.
    prompt, response : str
        Columns of ids, strings or integers.  In a CSV file, a column of ids is read as integers
        if each is written as one (no leading zeros, at most 18 digits), otherwise as strings.
    reward : str, optional
        Column of `r*`.  If neither this nor `win_probability` is named, "reward" is used if there
        is one, otherwise "judge_preference" as `win_probability`.
    win_probability : str, optional
        Column of q, in [0, 1].
    clip : float
        Strictly between 0 and 1/2.
    proxy : str, optional
        Column of `proxy_reward`.  By default "proxy_reward" or else "length", if there is one
        that is not the column of the true reward; otherwise the bandit has no proxy.
    weight : str, optional
        Column of non-negative weights; `reference` is proportional to them within each prompt.
        If neither this nor `log_prob` is named, "reference_weight" or "reference_logprob" is used
        if there is one; without either, `reference` is uniform over the prompt's responses.
    log_prob : str, optional
        Column of log-probabilities up to a constant per prompt (nats); `-inf` is probability 0.
    prompt_weight : str, optional
        Column of non-negative weights, constant within each prompt; `prompt_dist` is proportional
        to them.  Uniform by default.

    Returns
    -------
    ContextualBandit
        With `prompts` and `responses` the ids as Python strings or integers, and `available` None
        if no pair is missing.

    Raises
    ------
    ValueError
        For a table that cannot be read or has no rows, a column that is missing, two columns named
        where one is used, a pair that has two rows, an id that is missing or neither a string nor
        an integer, an entry that is not a finite number, a win probability outside [0, 1], weights
        that are negative, all zero or different within a prompt.  Rows are counted from 0.
    """
    _check_clip(clip)
    frame = as_frame(table, (prompt, response))
    grid = _grid(frame, prompt, response)
    gold, true_reward = _true_reward(frame, reward, win_probability, clip)
    proxy = find_default(frame, "proxy", proxy, *(name for name in PROXY_COLUMNS if name != gold))
    return ContextualBandit(
        prompt_dist=_prompt_dist(frame, grid, prompt_weight),
        reference=_reference(frame, grid, weight, log_prob),
        reward=grid.spread_rewards(true_reward),
        proxy_reward=None if proxy is None else grid.spread_rewards(as_numbers(frame, proxy)),
        available=None if grid.available.all() else grid.available,
        prompts=grid.prompts,
        responses=grid.responses,
    )


# ---- prompts and responses ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Grid:
    """Where each of the n rows of a table goes in an (X, Y) array.

    Parameters
    ----------
    prompts, responses : tuples of X and of Y ids
    x, y : (n,) arrays of indices
    """

    prompts: tuple[Hashable, ...]
    responses: tuple[Hashable, ...]
    x: IntArray
    y: IntArray

    @property
    def available(self) -> Mask:
        """The `(X, Y)` mask of the pairs that have a row."""
        return np.asarray(self.spread(np.ones(self.x.size), 0.0) == 1.0)

    def spread(self, values: FloatArray, missing: float) -> FloatArray:
        """Return the `(X, Y)` array of `values`, with `missing` where there is no row."""
        array = np.full((len(self.prompts), len(self.responses)), missing)
        array[self.x, self.y] = values
        return array

    def spread_rewards(self, values: FloatArray) -> FloatArray:
        """Return the `(X, Y)` array of `values`, with the prompt's lowest where there is no row."""
        array = self.spread(values, np.inf)
        return np.where(np.isinf(array), array.min(axis=1, keepdims=True), array)

    def first_rows(self) -> IntArray:
        """Return the `(X,)` array of the row in which each prompt first appears."""
        return np.unique(self.x, return_index=True)[1]


def _grid(frame: pd.DataFrame, prompt: str, response: str) -> _Grid:
    prompts, x = _ids(frame, "prompt", prompt)
    responses, y = _ids(frame, "response", response)
    if prompt == response:
        raise ValueError(f"prompt and response are both {prompt!r}; they must be two columns")
    _refuse_duplicates(prompts, responses, x, y)
    cells = len(prompts) * len(responses)
    if cells > max(MAX_SPARSE_CELLS, 10 * x.size):
        raise ValueError(
            f"{len(prompts)} prompts and {len(responses)} responses make {cells} pairs, of which "
            f"{x.size} have a row; prompts must share response ids, so number the responses "
            "within each prompt"
        )
    return _Grid(prompts, responses, x, y)


def _ids(frame: pd.DataFrame, argument: str, column: str) -> tuple[tuple[Hashable, ...], IntArray]:
    """Return the distinct ids of a column in order of appearance, and each row's index in them."""
    import pandas as pd

    column = find_column(frame, argument, column)
    cells = frame[column].to_numpy(dtype=object)
    blank = np.array("", dtype=object)
    # pandas.NA cannot be compared with a string, so it is replaced first.
    missing = np.where(pd.isna(cells), blank, cells) == blank
    refuse_rows(frame, column, np.asarray(missing), "an id must not be missing")
    good = {kind: _is_id(kind) for kind in set(map(type, cells))}
    if not all(good.values()):
        bad = np.array([not good[type(cell)] for cell in cells])
        refuse_rows(frame, column, bad, "an id must be a string or an integer")
    codes, uniques = pd.factorize(cells)
    ids = tuple(str(cell) if isinstance(cell, str) else int(cell) for cell in uniques)
    return ids, codes.astype(np.int64)


def _is_id(kind: type) -> bool:
    return issubclass(kind, (str, int, np.integer)) and kind is not bool


def _refuse_duplicates(
    prompts: tuple[Hashable, ...], responses: tuple[Hashable, ...], x: IntArray, y: IntArray
) -> None:
    pairs = x * len(responses) + y
    _, first, index = np.unique(pairs, return_index=True, return_inverse=True)
    repeats = first[index] != np.arange(pairs.size)
    if repeats.any():
        row = int(repeats.argmax())
        raise ValueError(
            f"row {row} repeats row {first[index][row]}: prompt {prompts[x[row]]!r}, response "
            f"{responses[y[row]]!r}; each pair must have one row{other_rows(repeats)}"
        )


# ---- rewards and distributions --------------------------------------------------------------


def _check_clip(clip: float) -> None:
    if not checks.positive_number("clip", clip) < 0.5:
        raise ValueError(f"clip is {clip!r}; it must be below 0.5")


def _true_reward(
    frame: pd.DataFrame, reward: str | None, win_probability: str | None, clip: float
) -> tuple[str, FloatArray]:
    """Return the name of the column that gives the true reward, and the (n,) rewards."""
    if reward is not None and win_probability is not None:
        raise ValueError(
            f"reward={reward!r} and win_probability={win_probability!r} are both given; "
            "the true reward comes from one of them"
        )
    if win_probability is None:
        column = find_default(frame, "reward", reward, REWARD_COLUMN)
        if column is not None:
            return column, as_numbers(frame, column)
    column = find_default(frame, "win_probability", win_probability, WIN_PROBABILITY_COLUMN)
    if column is None:
        raise ValueError(
            f"reward is missing; name a column with reward= or win_probability= "
            f"(by default {REWARD_COLUMN!r} or {WIN_PROBABILITY_COLUMN!r}); "
            f"the table has {list(frame.columns)}"
        )
    probabilities = as_numbers(frame, column)
    outside = (probabilities < 0) | (probabilities > 1)
    refuse_rows(frame, column, outside, "a win probability must be in [0, 1]")
    # Clipping the logit and not the probability keeps both ends exact: 1 - clip would round.
    bound = -logit(clip)
    return column, np.clip(logit(probabilities), -bound, bound)


def _reference(
    frame: pd.DataFrame, grid: _Grid, weight: str | None, log_prob: str | None
) -> FloatArray:
    """Return the `(X, Y)` reference policy."""
    if weight is None and log_prob is None:
        weight = find_default(frame, "weight", None, WEIGHT_COLUMN)
        log_prob = find_default(frame, "log_prob", None, LOG_PROB_COLUMN)
    if weight is not None and log_prob is not None:
        raise ValueError(
            f"weight={weight!r} and log_prob={log_prob!r} both give the reference; name one"
        )
    if weight is not None:
        column = find_column(frame, "weight", weight)
        mass = grid.spread(as_non_negative(frame, column), 0.0)
        largest = mass.max(axis=1, keepdims=True)
        _refuse_massless(grid, column, largest == 0, "0")
        # Dividing by the largest first keeps the sum of huge weights finite.
        mass = mass / largest
    elif log_prob is not None:
        column = find_column(frame, "log_prob", log_prob)
        logs = grid.spread(as_numbers(frame, column, minus_infinity=True), -np.inf)
        largest = logs.max(axis=1, keepdims=True)
        _refuse_massless(grid, column, np.isneginf(largest), "-inf")
        with np.errstate(over="ignore"):
            mass = np.exp(logs - largest)
    else:
        mass = grid.available.astype(np.float64)
    return np.asarray(mass / mass.sum(axis=1, keepdims=True))


def _refuse_massless(grid: _Grid, column: str, bad: Mask, value: str) -> None:
    if bad.any():
        more = f" ({bad.sum()} such prompts)" if bad.sum() > 1 else ""
        raise ValueError(
            f"{column} is {value} in every row of prompt {grid.prompts[bad.argmax()]!r}; "
            f"each prompt must have a response with positive reference probability{more}"
        )


def _prompt_dist(frame: pd.DataFrame, grid: _Grid, prompt_weight: str | None) -> FloatArray:
    """Return the `(X,)` distribution of prompts."""
    if prompt_weight is None:
        return np.full(len(grid.prompts), 1.0 / len(grid.prompts))
    column = find_column(frame, "prompt_weight", prompt_weight)
    weights = as_non_negative(frame, column)
    first = grid.first_rows()
    differs = weights != weights[first][grid.x]
    if differs.any():
        row = int(differs.argmax())
        start = first[grid.x[row]]
        rule = (
            f"the weight of prompt {grid.prompts[grid.x[row]]!r} is {weights[start].item()!r} in "
            f"row {start} and must be the same in all its rows"
        )
        refuse_rows(frame, column, differs, rule)
    mass = weights[first]
    if not mass.any():
        raise ValueError(f"{column} is 0 in every row; some prompt must have positive weight")
    mass = mass / mass.max()
    return np.asarray(mass / mass.sum())
