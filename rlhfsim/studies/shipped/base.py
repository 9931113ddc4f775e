"""What a shipped study is, and what the analyses of all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rlhfsim.findings import StudyResult
from rlhfsim.statistics import mean_interval
from rlhfsim.studies.study import Study

#: From one row per cell (`results.wide`) and the study to tables, findings and an answer.  An
#: analysis reads nothing but the saved table, and works on the testing subset as well.
Analysis = Callable[[pd.DataFrame, Study], StudyResult]


@dataclass(frozen=True)
class Shipped:
    """A study that comes with the package, and the analysis that answers its question."""

    study: Study
    analyse: Analysis
    #: Names of its figures in `rlhfsim.plots.FIGURES`.
    figures: tuple[str, ...]


def means(rows: pd.DataFrame, by: Sequence[str], metric: str, level: float = 0.95) -> pd.DataFrame:
    """Return mean, low, high and count of a metric for each combination of the columns `by`.

    The interval is Student's over whatever the rows of a combination are (seeds, environments);
    with one row it is that value alone.  Rows in which the learner failed must have been dropped.
    """
    found = []
    for key, group in rows.groupby(list(by), sort=False, observed=True):
        values = group[metric].to_numpy()
        if np.isnan(values).any():
            raise ValueError(f"{metric} of {key} is NaN; drop cells with errors first")
        if values.size == 1 or np.ptp(values) == 0.0:
            low = high = float(values[0])
        else:
            interval = mean_interval(values, level)
            low, high = interval.low, interval.high
        mean = float(values.mean())
        found.append((*key, mean, low, high, values.size))
    return pd.DataFrame(found, columns=[*by, metric, f"{metric}_low", f"{metric}_high", "count"])


def succeeded(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the cells in which the learner did not fail."""
    return rows[rows["error"].isna()]


def plain(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the table with text in place of categories, which groupings would list in full."""
    changed = {
        name: rows[name].astype(str)
        for name in rows.columns
        if isinstance(rows[name].dtype, pd.CategoricalDtype)
    }
    return rows.assign(**changed)
