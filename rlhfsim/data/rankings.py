"""Rankings of K responses to one prompt, and how they are broken into pairs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhfsim import checks
from rlhfsim.checks import IntArray
from rlhfsim.data.base import Dataset, as_index_columns, same_rows
from rlhfsim.data.pairs import PreferenceData
from rlhfsim.data.tables import TableReader

_RANK = re.compile(r"rank_([1-9][0-9]{0,8})", re.ASCII)

#: How many missing columns are named.
_NAMED = 5


@dataclass(frozen=True, eq=False)
class RankingData(Dataset):
    """`n` rankings of `K` responses to a prompt, from best to worst, read-only.

    Under Plackett-Luce, `P(y_1 > ... > y_K | x) = prod_k exp(r(x, y_k)) / sum_{j >= k}
    exp(r(x, y_j))`.  A response may stand in a ranking more than once, as responses are drawn
    independently.  A table has the columns `prompt`, `rank_1` (the best), ..., `rank_K`.

    Parameters
    ----------
    prompt : (n,) array of integers
    ranking : (n, K) array of integers
        Best first; `K >= 2`.
    shape : (X, Y), optional
        The numbers of prompts and responses, a tuple once constructed; by default, just large
        enough for the indices.

    Raises
    ------
    ValueError
        For no rows, fewer than two ranks, different numbers of rows, indices out of range, or a
        `shape` that is not a pair of positive integers.

    Source: Plackett 1975; Luce 1959; arXiv 2301.11270.
    """

    prompt: IntArray
    ranking: IntArray
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        ranking = _as_rankings(self.ranking)
        ranks = {f"ranking[:, {k}]": column for k, column in enumerate(ranking.T)}
        prompt = checks.as_indices("prompt", self.prompt)
        same_rows("ranking", ranking, prompt)
        shape, columns = as_index_columns(self.shape, prompt=prompt, **ranks)
        stacked = np.stack([columns[name] for name in ranks], axis=1)
        self._freeze(shape, prompt=prompt, ranking=stacked)

    @property
    def n_ranked(self) -> int:
        """`K`."""
        return int(self.ranking.shape[1])

    @classmethod
    def _owned(cls, prompt: IntArray, ranking: IntArray, shape: tuple[int, int]) -> Self:
        """Return the data of valid int64 arrays that the caller gives up; see PreferenceData."""
        return cls._adopt(prompt=prompt, ranking=ranking, shape=shape)

    def to_pairs(self, how: Literal["all", "adjacent"] = "all") -> PreferenceData:
        """Return the rankings broken into pairs of a better and a worse response.

        * `"all"`: the `K (K-1) / 2` pairs of each ranking.  Under Plackett-Luce a response is
          ranked above another one with the Bradley-Terry probability, whatever else was ranked,
          so a Bradley-Terry fit is consistent.  It is less efficient than the Plackett-Luce fit,
          and the pairs of a ranking depend on each other: confidence sets that take the rows for
          independent are too small.
        * `"adjacent"`: the `K - 1` pairs of neighbours.  Which responses become neighbours
          depends on their rewards, and a Bradley-Terry fit is **not** consistent for `K >= 3`.

        Parameters
        ----------
        how : "all" or "adjacent"

        Returns
        -------
        PreferenceData
            The pairs of the first ranking first; a response that stands in a ranking twice makes
            a pair of equals.

        Raises
        ------
        ValueError
            For another `how`.

        Source: arXiv 2203.02155 (all pairs, in practice); Azari Soufiani, Chen, Parkes and Xia
        2013, "Generalized method-of-moments for rank aggregation" (which ways of breaking are
        consistent); arXiv 2301.11270, theorem 4.3 (efficiency).
        """
        places = range(self.n_ranked)
        if how == "all":
            pairs = list(combinations(places, 2))
        elif how == "adjacent":
            pairs = [(k, k + 1) for k in places[:-1]]
        else:
            raise ValueError(f"how is {how!r:.80}; it must be 'all' or 'adjacent'")
        better, worse = np.array(pairs, dtype=np.int64).T
        return PreferenceData._owned(
            np.repeat(self.prompt, len(pairs)),
            self.ranking[:, better].ravel(),
            self.ranking[:, worse].ravel(),
            self._shape(),
        )

    def _columns(self) -> dict[str, NDArray[Any]]:
        ranks = {_rank_name(k + 1): self.ranking[:, k] for k in range(self.n_ranked)}
        return {"prompt": self.prompt, **ranks}

    @classmethod
    def _read(cls, table: TableReader) -> Self:
        prompt = table.indices("prompt", 0)
        ranks = [table.indices(name, 1) for name in _rank_columns(table)]
        shape = table.finish()
        return cls._owned(prompt, np.stack(ranks, axis=1), shape)


def _as_rankings(value: ArrayLike) -> NDArray[Any]:
    """Return `value`, which must be an `(n, K)` array with `K >= 2`."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"ranking is a masked array of shape {value.shape}; it must be plain")
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError("ranking has rows of different lengths; all must rank K") from None
    if array.ndim != 2 or array.shape[1] < 2:
        raise ValueError(f"ranking has shape {array.shape}; it must be (n, K) with K at least 2")
    return array


def _rank_name(k: int) -> str:
    return f"rank_{k}"


def _rank_columns(table: TableReader) -> list[str]:
    """Return the names of the rank columns that the table has; gaps among them are noted."""
    names = (str(name) for name in table.frame.columns)
    present = {int(found[1]) for name in names if (found := _RANK.fullmatch(name))}
    last = max(present | {2})
    absent = (k for k in range(1, last + 1) if k not in present)
    for k in islice(absent, _NAMED):
        table.problems.add(
            f"column {_rank_name(k)!r} is missing",
            "ranks must be rank_1 to rank_K without gaps, K at least 2",
            _rank_name(k),
        )
    return [_rank_name(k) for k in sorted(present)]
