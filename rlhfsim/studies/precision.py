"""Seeds added to a study until its means are known as precisely as asked.

The study's own seeds are the first stage of Stein's rule: their standard deviations say how many
seeds are needed, before the others are seen, so that looking costs no coverage
(`rlhfsim.statistics.sequential`).  What was saved is kept, and the final folder is that of a run
with so many seeds from the start, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.statistics import next_seeds, stein_interval
from rlhfsim.statistics.inputs import as_level
from rlhfsim.studies.results import read_results
from rlhfsim.studies.running import run_study
from rlhfsim.studies.store import Store
from rlhfsim.studies.study import Study

if TYPE_CHECKING:
    import pandas as pd

#: Columns that may tell combinations apart; a mean is over everything else, seeds above all.
COLUMNS = ("instance", "environment", "n", "learner", "parameter_value")

#: What tells combinations apart by default: environments are averaged.
COMBINATION = ("instance", "n", "learner", "parameter_value")

#: Seeds of the first stage at least: with fewer, Stein's rule asks for many more than it needs.
FIRST = 10


@dataclass(frozen=True, eq=False)
class Precision:
    """What `run_until` did."""

    #: The finished folder.
    store: Store
    #: One row for each combination: its columns, `mean`, `low`, `high`, `seeds` (how many Stein's
    #: rule asks for) and `reached`.
    intervals: pd.DataFrame

    @property
    def seeds(self) -> int:
        """The number of seeds that were run."""
        return self.store.study.replications

    @property
    def reached(self) -> bool:
        """Whether every interval is as narrow as asked; if not, `most_seeds` were too few."""
        return bool(self.intervals["reached"].all())


def run_until(
    study: Study,
    out: str | PathLike[str],
    *,
    metric: str,
    width: float,
    most_seeds: int,
    by: Sequence[str] = COMBINATION,
    only: Mapping[str, Sequence[Any]] | None = None,
    level: float = 0.95,
    **how: Any,
) -> Precision:
    """Run a study with as many seeds as bring the intervals of all means down to `width`.

    `N = max_c max(first, ceil((2 t s_c / width)^2))` seeds, at most `most_seeds`: `first` is
    `study.seeds` (10 if it is less), s_c the standard deviation over the first seeds of
    combination c, and t Student's quantile.  The value of a seed is the mean of its cells in the
    combination; instances and environments are held fixed.

    Parameters
    ----------
    study : Study
    out : folder
        As in `run_study`; cells that it has are kept, and a run that was killed goes on.
    metric : str
        One of `study.metrics`, in whose unit `width` is.
    width : float
        Positive; the length `high - low` that no interval may exceed.
    most_seeds : int
        Budget, at least the size of the first stage.
    by : columns, some of `COLUMNS`
        What tells combinations apart.
    only : mapping from some of `COLUMNS` to lists of their values, optional
        Which cells count; by default all.
    level : float in (0, 1)
        Of each interval; they do not hold all at once at that level.
    how : keywords
        For `run_study`: workers, executor, threads, progress.

    Returns
    -------
    Precision

    Raises
    ------
    ValueError
        Bad arguments, by name; a study of exact expectations; a metric that is not finite in some
        cell that counts.
    StudyError
        As `run_study`.

    Source: Stein 1945 (Ann. Math. Statist. 16, 243).
    """
    _check(study, metric, by, only or {})
    if study.exact:
        raise ValueError("study.seeds is 'exact'; expectations without seeds have no interval")
    level = as_level(level)
    half = 0.5 * checks.positive_number("width", width)
    first = max(FIRST, study.replications)
    most = checks.whole_number("most_seeds", most_seeds, least=first)
    store = run_study(_with_seeds(study, first), out, **how)
    found = _intervals(store, metric, by, only or {}, half, level, first)
    seeds = min(int(found["seeds"].max()), most)
    if seeds > first:
        store = run_study(_with_seeds(study, seeds), out, **how)
        found = _intervals(store, metric, by, only or {}, half, level, first)
    return Precision(store, found)


def _check(study: Study, metric: str, by: Sequence[str], only: Mapping[str, Sequence[Any]]) -> None:
    if not isinstance(study, Study):
        raise ValueError(f"study is a {type(study).__name__}; it must be a Study")
    if metric not in study.metrics:
        raise ValueError(f"metric is {metric!r}; it must be one of {', '.join(study.metrics)}")
    for name, columns in (("by", by), ("only", only)):
        if isinstance(columns, str) or not {*columns} <= {*COLUMNS}:
            raise ValueError(f"{name} is {columns!r}; it must hold columns of {', '.join(COLUMNS)}")
    if not by or len({*by}) != len(by):
        raise ValueError(f"by is {by!r}; it must hold at least one column, each once")


def _with_seeds(study: Study, seeds: int) -> Study:
    return Study.from_dict(study.model_dump() | {"seeds": seeds})


def _intervals(
    store: Store,
    metric: str,
    by: Sequence[str],
    only: Mapping[str, Sequence[Any]],
    half_width: float,
    level: float,
    first: int,
) -> pd.DataFrame:
    import pandas as pd

    rows = read_results(store.folder, (metric,))
    for column, wanted in only.items():
        rows = rows[_chosen(rows, column, wanted)]
    if rows.empty:
        raise ValueError(f"only is {dict(only)!r}; the study has no such cells")
    found = []
    for key, values in _by_seed(rows, metric, list(by)):
        interval = stein_interval(values, level, first=first)
        needed = first + next_seeds(values[:first], half_width, level, first=first)
        ends = interval.estimate, interval.low, interval.high
        found.append((*key, *ends, needed, needed <= values.size))
    return pd.DataFrame(found, columns=[*by, "mean", "low", "high", "seeds", "reached"])


def _chosen(rows: pd.DataFrame, column: str, wanted: Sequence[Any]) -> Any:
    """Return which rows have one of the wanted values, each of which must occur."""
    if isinstance(wanted, str):
        raise ValueError(f"only[{column!r}] is {wanted!r}; it must be a list of values")
    known = list(rows[column].unique())
    for value in wanted:
        if value not in known:
            shown = ", ".join(str(v) for v in known)
            raise ValueError(f"only[{column!r}] has {value!r}; it must be one of {shown}")
    return rows[column].isin(list(wanted))


def _by_seed(
    rows: pd.DataFrame, metric: str, by: list[str]
) -> Iterator[tuple[tuple[Any, ...], FloatArray]]:
    """Yield each combination with its (seeds,) values, in the order of the seeds."""
    bad = ~np.isfinite(rows["value"].to_numpy())
    if bad.any():
        row = rows[bad].iloc[0]
        told = f" ({row['error']})" if isinstance(row["error"], str) else ""
        where = ", ".join(f"{c} {row[c]}" for c in (*COLUMNS, "seed"))
        raise ValueError(
            f"{metric} is {row['value']} at {where}{told}; it must be finite, so leave out such "
            "cells by `only`"
        )
    means = rows.groupby([*by, "seed"], sort=False, observed=True)["value"].mean()
    for key, own in means.groupby(level=by, sort=False, observed=True):
        values = own.sort_index(level="seed").to_numpy()
        yield (key if isinstance(key, tuple) else (key,)), values
