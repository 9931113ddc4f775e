"""How fast regret falls with data: fixed beta, beta as 1/sqrt(n), and the best beta for each n."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rlhfsim.checks import FloatArray
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.randomness import generator_for
from rlhfsim.statistics import Interval, mean_interval, stratified_bootstrap
from rlhfsim.studies.shipped.base import Shipped, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import Along, along, halves

_HERE = "rlhfsim.studies.shipped.rate"
#: Sizes grow by 4 and betas by 2, so that `beta = c / sqrt(n)` stays on the grid.
_SIZES = tuple(64 * 4**k for k in range(5))
_BETAS = tuple(2.0**k for k in range(-9, 2))
_LINEAR = {"model": "linear", "norm_bound": 8.0}
_FINITE = {"model": "finite", "size": 16}
#: Instances by label: one law of environments, and one that is harder for every n.
RANDOM, WORST = "random environments", "Proposition A.1"
SCHEDULES = ("fixed", "1/sqrt(n)", "best")

_COLUMNS = [
    "instance", "learner", "schedule", "slope", "slope_low", "slope_high", "drift", "drift_low",
    "drift_high", "straight", "rate", "count",
]  # fmt: skip

#: Units of positive regret that a slope needs at every n: with fewer, a resample may have none.
_POSITIVE = 20

#: Change of the slope over the range of n beyond which regret follows no power of n.
_BENT = 0.75

#: How far from -1/2 or -1 the interval of a slope may end and still hold it: the grid of beta
#: is not finer than that.
_NEAR = 0.02

#: Regret that counts as none: what is left of a policy that is right but for rounding.
_NOTHING = 1e-12

STUDY = Study.from_dict(
    {
        "name": "rate",
        "title": "Rates of regret in the number of preferences",
        "question": "At which rate does regret fall with the number of preferences, at a fixed "
        "beta, at beta as 1/sqrt(n) and at the best beta?",
        "instances": [
            {
                "family": "log-linear", "label": RANDOM, "prompts": 4, "responses": 8,
                "dimension": 3, "norm": 2.0, "environments": 160,
            },
            {"family": "proposition-a1", "label": WORST, "environments": 300},
        ],
        "learners": [
            {"method": "RLHF", "label": "rlhf-kl", "divergence": "kl", "reward": _FINITE},
            {"method": "RLHF", "label": "rlhf-chi2", "divergence": "chi2", "reward": _FINITE},
            {"method": "RLHF", "label": "rlhf-mixed", "divergence": "chi2 + kl",
             "reward": _FINITE},
            {"method": "pessimistic-likelihood", "label": "pessimistic-likelihood",
             "reward": _FINITE},
            {"method": "RLHF", "label": "KL, linear reward", "divergence": "kl",
             "reward": _LINEAR},
            {"method": "RLHF", "label": "chi2, linear reward", "divergence": "chi2",
             "reward": _LINEAR},
            {"method": "RLHF", "label": "chi2 + KL, linear reward", "divergence": "chi2 + kl",
             "reward": _LINEAR},
            {"method": "DPO", "label": "dpo-log-linear", "policies": {"kind": "log-linear"}},
            {"method": "DPO", "label": "dpo-finite",
             "policies": {"kind": "finite"}},
            {"method": "pessimistic-MLE", "label": "pessimistic-mle-2", "pointwise": True,
             "reward": _LINEAR},
        ],
        "n": list(_SIZES),
        "beta": list(_BETAS),
        "seeds": 1,
        "testing": {"environments": 8, "grid": 6, "n": list(_SIZES[:3])},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return regret against n under three schedules of beta, and the slopes."""
    regret: list[dict[str, object]] = []
    slopes: list[dict[str, object]] = []
    left_out: list[dict[str, object]] = []
    for (instance, learner), own in rows.groupby(["instance", "learner"], sort=False):
        usable = _usable(succeeded(own), study)
        told = own["error"].dropna()
        whole = {"instance": instance, "learner": learner, "schedule": "all"}
        if usable is None:
            reason = told.iloc[0] if len(told) else "no beta has all cells"
            left_out.append(whole | {"failed_cells": len(told), "reason": reason})
            continue
        for schedule in SCHEDULES:
            betas, runs = _followed(usable, schedule)
            place = {**whole, "schedule": schedule}
            regret += _rows(place, study.n, betas, runs)
            if ((runs > _NOTHING).sum(axis=0) >= min(_POSITIVE, len(runs))).all():
                slopes.append(place | _slope(place, np.array(study.n), runs, study))
            else:
                reason = f"regret is below {_NOTHING:g} in nearly all units at some n"
                left_out.append(place | {"failed_cells": len(told), "reason": reason})
    tables = {
        "rate_regret": pd.DataFrame(regret),
        "rate_slopes": pd.DataFrame(slopes, columns=_COLUMNS),
        "rate_left_out": pd.DataFrame(
            left_out, columns=["instance", "learner", "schedule", "failed_cells", "reason"]
        ),
    }
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "seeds": study.seeds, "n": list(study.n)},
        tables=tables,
        findings=_findings(tables["rate_slopes"]),
        answer=_answer(tables["rate_slopes"]),
    )


# ---- schedules of beta --------------------------------------------------------------------------


def _usable(rows: pd.DataFrame, study: Study) -> list[Along] | None:
    """Return regret along beta at each n, on the betas without any failure; None if none is."""
    cells = rows.groupby("parameter_value").size()
    whole = cells.index[cells == cells.max()]
    rows = rows[rows["parameter_value"].isin(whole)]
    if rows.empty or rows["n"].nunique() < len(study.n):
        return None
    tables = [along(rows[rows["n"] == n], "regret") for n in study.n]
    return tables if len({len(t.measured) for t in tables}) == 1 else None


def _followed(tables: list[Along], schedule: str) -> tuple[FloatArray, FloatArray]:
    """Return the (S,) betas that the first half of the units makes, and (U, S) regrets.

    Each half of the units takes the beta that the other half prefers: at the least n where the
    schedule goes on from there, at every n for "best".
    """
    fold = halves(len(tables[0].measured))
    runs = np.empty((fold.size, len(tables)))
    betas = np.empty((2, len(tables)))
    for own in (0, 1):
        places = _places([t.measured[fold != own].mean(axis=0) for t in tables], tables, schedule)
        for k, (table, place) in enumerate(zip(tables, places, strict=True)):
            runs[fold == own, k] = table.measured[fold == own, place]
            betas[own, k] = table.grid[place]
    return betas[1], runs


def _places(means: list[FloatArray], tables: list[Along], schedule: str) -> list[int]:
    if schedule == "best":
        return [int(m.argmin()) for m in means]
    grid = tables[0].grid
    if schedule == "fixed":
        return [int(means[0].argmin())] * len(means)
    # Wherever the schedule starts, its last beta must be on the grid.
    steps = np.arange(len(means))
    last = grid[0] * 2.0 ** float(steps[-1])
    allowed = grid >= last * (1.0 - 1e-9)
    start = float(grid[allowed][means[0][allowed].argmin()]) if allowed.any() else float(grid[-1])
    return [int(np.abs(np.log(grid * 2.0**k / start)).argmin()) for k in steps]


def _rows(
    place: dict[str, str], sizes: tuple[int, ...], betas: FloatArray, runs: FloatArray
) -> list[dict[str, object]]:
    found = []
    for k, n in enumerate(sizes):
        interval = mean_interval(runs[:, k])
        found.append(
            {
                **place, "n": n, "beta": float(betas[k]), "regret": interval.estimate,
                "regret_low": interval.low, "regret_high": interval.high, "count": len(runs),
            }
        )  # fmt: skip
    return found


# ---- slopes -------------------------------------------------------------------------------------


def _slope(
    place: dict[str, str], sizes: np.ndarray, runs: FloatArray, study: Study
) -> dict[str, object]:
    """Return the slope of log mean regret against log n, its curvature, and what it is called."""
    x = np.log(sizes)
    line, parabola = (np.linalg.pinv(np.vander(x - x.mean(), k)) for k in (2, 3))

    def coefficient(row: FloatArray, stream: int) -> Interval:
        return stratified_bootstrap(
            runs, None, lambda s: np.log(s.mean(axis=1)) @ row,
            generator_for(study.name, "bootstrap " + " ".join(place.values()), stream),
            resamples=1000, method="percentile",
        )  # fmt: skip

    slope, curvature = coefficient(line[0], 0), coefficient(parabola[0], 1)
    length = 2.0 * float(x[-1] - x[0])
    drift = Interval(
        length * curvature.estimate, length * curvature.low, length * curvature.high,
        curvature.level, curvature.method,
    )  # fmt: skip
    return {
        "slope": slope.estimate, "slope_low": slope.low, "slope_high": slope.high,
        "drift": drift.estimate, "drift_low": drift.low, "drift_high": drift.high,
        "straight": 0.0 in curvature,
        "rate": named(slope, drift), "count": len(runs),
    }  # fmt: skip


def named(slope: Interval, drift: Interval) -> str:
    """Return what a slope is called: by which of -1/2 and -1 its interval holds, about.

    Where it surely changes by much over the range of n, it is no rate at all.
    """
    if drift.low > _BENT or drift.high < -_BENT:
        return "no power of n"
    low, high = slope.low - _NEAR, slope.high + _NEAR
    if high < -1.0:
        return "faster than 1/n"
    if low <= -1.0:
        return "fast, 1/n"
    if high < -0.5:
        return "between 1/sqrt(n) and 1/n"
    if low <= -0.5:
        return "slow, 1/sqrt(n)"
    return "slower than 1/sqrt(n)"


# ---- findings -----------------------------------------------------------------------------------


def _findings(slopes: pd.DataFrame) -> tuple[Finding, ...]:
    found = [_measured(row) for _, row in slopes.iterrows() if row["schedule"] == "best"]
    slow, fast = (_row(slopes, WORST, name) for name in ("rlhf-kl", "rlhf-chi2"))
    return (
        _worst(
            "KL at its best beta is slower than 1/sqrt(n) on Proposition A.1",
            slow, None if slow is None else bool(slow["slope_low"] > -0.5),
        ),
        _worst(
            "chi2 at its best beta falls at least as 1/sqrt(n) on Proposition A.1",
            fast, None if fast is None else bool(fast["slope_low"] <= -0.5),
        ),
        *found,
    )  # fmt: skip


def _row(slopes: pd.DataFrame, instance: str, learner: str, schedule: str = "best") -> Any:
    """Return the row of one slope; None where it was left out."""
    place = {"instance": instance, "learner": learner, "schedule": schedule}
    found = slopes[(slopes[list(place)] == pd.Series(place)).all(axis=1)]
    return found.iloc[0] if len(found) else None


def _worst(claim: str, row: pd.Series | None, holds: bool | None) -> Finding:
    return Finding(
        claim=claim, source="arXiv 2407.13399, proposition A.1", measured=_told(row),
        verdict="not measured" if holds is None else "holds" if holds else "VIOLATED",
        expected=holds, table="rate_slopes", computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _measured(row: pd.Series) -> Finding:
    drift = f"[{row['drift_low']:+.2f}, {row['drift_high']:+.2f}]"
    return Finding(
        claim=f"{row['learner']} at its best beta, {row['instance']}: the rate",
        source="arXiv 2407.13399",
        measured=f"{_told(row)}, change of slope over the range {row['drift']:+.2f} {drift}",
        verdict=str(row["rate"]), expected=None, table="rate_slopes",
        computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _told(row: pd.Series | None) -> str:
    if row is None:
        return "no slope (hardly any regret at some n)"
    return (
        f"slope {row['slope']:.2f} [{row['slope_low']:.2f}, {row['slope_high']:.2f}] "
        f"({row['rate']})"
    )


def _answer(slopes: pd.DataFrame) -> str:
    parts = [
        f"on {instance} KL has {_told(_row(slopes, instance, kl))} and chi2 "
        f"{_told(_row(slopes, instance, chi2))}"
        for instance, kl, chi2 in (
            (RANDOM, "KL, linear reward", "chi2, linear reward"),
            (WORST, "rlhf-kl", "rlhf-chi2"),
        )
    ]
    others = [
        f"{_told(_row(slopes, RANDOM, 'chi2, linear reward', schedule))} {text}"
        for schedule, text in (("fixed", "at a fixed beta"), ("1/sqrt(n)", "at beta as 1/sqrt(n)"))
    ]
    return (
        f"In log regret against log n, at the best beta for each n, {'; '.join(parts)}; chi2 on "
        f"{RANDOM} has {' and '.join(others)}."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("rate",))
