"""Demonstration-regularized RLHF: regret against N_E, cloned by response and token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rlhfsim.checks import FloatArray
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.randomness import generator_for
from rlhfsim.statistics import Interval, paired_comparison, stratified_bootstrap
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import along

_HERE = "rlhfsim.studies.shipped.demonstrations"
_SHOWN = tuple(4**k for k in range(7))
_LENGTH = 6
_BETA = 1.0
#: So strong a regularization that the clone is what is learned.
_CLONE = 1e9
_FIT = {"model": "tabular", "r_max": "range"}
#: How the clone is made -> vocabulary.
CLONED = {"by response": 2**_LENGTH, "by token": 2}
#: What is learned -> strength of the regularization.
LEARNED = {"clone": _CLONE, "with preferences": _BETA}
WITHOUT = "no demonstrations"

STUDY = Study.from_dict(
    {
        "name": "demonstrations",
        "title": "Demonstrations and preferences",
        "question": "How fast does regret fall with the number of demonstrations, what do "
        "preferences add, and does it pay to clone token by token?",
        "instances": [
            {
                "family": "token-sequences", "vocabulary": 2, "length": _LENGTH,
                "reward_scale": 2.0, "environments": 100,
            }
        ],
        "learners": [
            *(
                {"method": "token-demonstrations", "label": f"{learned}, {cloned}",
                 "vocabulary": vocabulary, "beta": beta, "reward": _FIT, "grid": _SHOWN}
                for cloned, vocabulary in CLONED.items()
                for learned, beta in LEARNED.items()
            ),
            {"method": "RLHF", "label": WITHOUT, "reward": _FIT, "grid": [_BETA]},
        ],
        "n": [100, 3000],
        "testing": {"environments": 5},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return regret against the number of demonstrations, its slopes, and what tokens save."""
    good = succeeded(rows)
    curves = means(good, ["learner", "n", "parameter_value"], "regret")
    curves = curves.rename(columns={"parameter_value": "shown"})
    slopes = pd.DataFrame(
        [
            {"learner": learner, "n": n} | _slope(own, f"{learner} {n}", study)
            for (learner, n), own in good[good["learner"] != WITHOUT].groupby(
                ["learner", "n"], sort=False
            )
        ]
    )
    saved = pd.DataFrame([_saved(good, learned, n) for learned in LEARNED for n in study.n])
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "seeds": study.seeds, "n": list(study.n), "beta": _BETA},
        tables={
            "demonstrations_curves": curves, "demonstrations_slopes": slopes,
            "demonstrations_saved": saved,
        },
        findings=_findings(slopes, saved),
        answer=_answer(curves, slopes, saved),
    )  # fmt: skip


def _slope(rows: pd.DataFrame, name: str, study: Study) -> dict[str, Any]:
    """Return the slope of log mean regret against log N_E, over the larger half of the N_E."""
    table = along(rows, "regret")
    later = table.grid.size // 2
    x = np.log(table.grid[later:])
    weights = (x - x.mean()) / np.square(x - x.mean()).sum()

    def slope(samples: FloatArray) -> FloatArray:
        return np.asarray(np.log(samples.mean(axis=1)) @ weights)

    found: Interval = stratified_bootstrap(
        table.measured[:, later:], None, slope, generator_for(study.name, f"slope {name}", 0),
        resamples=1000, method="percentile",
    )  # fmt: skip
    return {
        "from": float(table.grid[later]), "to": float(table.grid[-1]), "slope": found.estimate,
        "slope_low": found.low, "slope_high": found.high, "count": len(table.measured),
    }  # fmt: skip


def _saved(rows: pd.DataFrame, learned: str, n: int) -> dict[str, Any]:
    """Compare clones by token with clones by response, at the middle number of demonstrations."""
    here = rows[rows["n"] == n]
    token, response = (
        along(here[here["learner"] == f"{learned}, {cloned}"], "regret")
        for cloned in ("by token", "by response")
    )
    middle = token.grid.size // 2
    ours, theirs = token.measured[:, middle], response.measured[:, middle]
    less = paired_comparison(ours, theirs).difference
    return {
        "learned": learned, "n": n, "shown": float(token.grid[middle]),
        "by_token": float(ours.mean()), "by_response": float(theirs.mean()),
        "difference": less.estimate, "difference_low": less.low, "difference_high": less.high,
        "count": ours.size,
    }  # fmt: skip


# ---- findings -----------------------------------------------------------------------------------


def _findings(slopes: pd.DataFrame, saved: pd.DataFrame) -> tuple[Finding, ...]:
    rates = tuple(
        Finding(
            claim=f"{row['learner']}, n = {row['n']}: regret falls like 1/N_E",
            source="arXiv 2310.17303",
            measured=f"{_told(row)} from N_E = {row['from']:.0f} to {row['to']:.0f}",
            verdict="holds" if row["slope_high"] <= -0.8 else "slower on this range",
            expected=None,
            table="demonstrations_slopes",
            computed_by=f"{_HERE}.analyse",
        )
        for _, row in slopes.iterrows()
    )
    tokens = tuple(
        Finding(
            claim=f"{row['learned']}, n = {row['n']}: a clone by token needs fewer demonstrations "
            "of one response",
            source="claim 'a clone by token of one response is nearer'",
            measured=f"regret {row['by_token']:.3f} against {row['by_response']:.3f} at N_E = "
            f"{row['shown']:.0f}, difference {row['difference']:+.3f} "
            f"[{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]",
            verdict="holds" if row["difference_high"] < 0 else "VIOLATED",
            expected=bool(row["difference_high"] < 0),
            table="demonstrations_saved",
            computed_by=f"{_HERE}.analyse",
        )
        for _, row in saved.iterrows()
    )
    return rates + tokens


def _told(row: pd.Series) -> str:
    return f"slope {row['slope']:.2f} [{row['slope_low']:.2f}, {row['slope_high']:.2f}]"


def _answer(curves: pd.DataFrame, slopes: pd.DataFrame, saved: pd.DataFrame) -> str:
    most = int(slopes["n"].max())
    rate = slopes[slopes["n"] == most].set_index("learner")
    alone, both = (
        saved[(saved["n"] == most) & (saved["learned"] == learned)].iloc[0] for learned in LEARNED
    )
    without = curves[(curves["learner"] == WITHOUT) & (curves["n"] == most)]["regret"].iloc[0]
    return (
        "Log regret has against log N_E "
        + ", ".join(f"{_told(row)} ({name})" for name, row in rate.iterrows())
        + f"; at N_E = {alone['shown']:.0f} and n = {most} it is {alone['by_response']:.3f} for "
        f"clones by response and {alone['by_token']:.3f} by token, with preferences "
        f"{both['by_response']:.3f} and {both['by_token']:.3f}, and {without:.3f} with preferences "
        "alone."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("demonstrations",))
