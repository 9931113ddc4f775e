"""Which metric flips which ranking: learners ranked by regret, and by what papers plot instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.statistics import mean_interval, proportion_interval
from rlhfsim.studies.shipped.base import Shipped, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import halves

_HERE = "rlhfsim.studies.shipped.metric_flips"
_RIDGE = 0.1
_FIT = {"model": "tabular", "ridge": _RIDGE}
_COMMON = {"prompts": 5, "reward_scale": 2.0, "environments": 100}
#: Strength of the common penalty of the KL-constrained value, in reward units per nat.
PENALTY = 0.1
#: Differences below it rank nobody.
TIE = 1e-9

#: Metric -> what it is, larger being better.
METRICS = {
    "win_rate": "win rate against the reference",
    "constrained": f"KL-constrained value, gain - {PENALTY:g} KL",
    "gain_per_kl": "gain per nat of KL",
    "fitted_gain": "proxy gain, by the fitted reward",
    "coverage": "coverage C^pi, smaller being better",
}

STUDY = Study.from_dict(
    {
        "name": "metric-flips",
        "title": "Which metric flips which ranking",
        "question": "How often do win rate, KL-constrained value, gain per KL, proxy gain and "
        "coverage rank two learners on one dataset the other way than regret does?",
        "instances": [
            _COMMON | {"family": "random", "responses": 10, "label": "random"},
            _COMMON | {"family": "zipf", "responses": 20, "exponent": 1.5, "label": "Zipf"},
            _COMMON
            | {"family": "rare-best", "responses": 10, "coverage": 32.0, "label": "rare best"},
            _COMMON
            | {
                "family": "decoys", "responses": 10, "decoys": 4, "coverage": 8.0,
                "decoy_coverage": 256.0, "class_size": 1, "label": "decoys",
            },
        ],
        "learners": [
            {"method": "RLHF", "label": "rlhf-kl", "divergence": "kl", "reward": _FIT},
            {"method": "RLHF", "label": "rlhf-chi2", "divergence": "chi2", "reward": _FIT},
            {
                "method": "best-of-N", "label": "best-of-n", "reward": _FIT,
                "grid": [2**k for k in range(13)],
            },
            {"method": "CTRL", "label": "ctrl", "reward": _FIT},
            {
                "method": "IPO", "label": "ipo",
                "policies": {"kind": "tabular", "ridge": _RIDGE},
            },
        ],
        "n": [500],
        "beta": {"start": 1e-2, "stop": 10.0, "points": 13},
        "testing": {"environments": 4, "grid": 5},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return how often each metric ranks each pair of learners the other way than regret."""
    good = _with_shared_fit(succeeded(rows), study)
    chosen = _chosen(good)
    shares, overall = _shares(chosen, METRICS), _overall(chosen)
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={
            "cells": study.cells, "seeds": study.seeds, "n": list(study.n), "penalty": PENALTY,
        },
        tables={
            "metric_flips_shares": shares,
            "metric_flips_overall": overall,
            "metric_flips_chosen": chosen,
        },
        findings=_findings(good, chosen, shares, overall),
        answer=_answer(shares, overall),
    )  # fmt: skip


# ---- one policy for each learner and dataset ----------------------------------------------------


def _with_shared_fit(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return the cells with the fitted gain only of learners that fit the reward all share.

    Direct methods have rewards of their own, in other units: their gains do not compare.
    """
    fits = {
        label: getattr(spec, "reward", None)
        for label, spec in zip(study.labels[1], study.learners, strict=True)
    }
    shared = fits[study.labels[1][0]]
    own = rows["learner"].map({label: fit == shared for label, fit in fits.items()})
    return rows.assign(fitted_gain=rows["fitted_gain"].where(own))


def _chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one cell for each dataset and learner, at the parameter the other half prefers.

    Preferred is what has the least mean regret over the other environments of the family: every
    learner is ranked at its best, and no dataset chooses for itself.
    """
    parts = []
    for _, own in rows.groupby(["instance", "learner"], sort=False):
        table = own.pivot_table(index="environment", columns="parameter_value", values="regret")
        table = table.dropna(axis=1)
        fold = halves(len(table))
        regret = table.to_numpy()
        best = [table.columns[regret[fold != half].mean(axis=0).argmin()] for half in (0, 1)]
        wanted = pd.Series(np.where(fold == 0, best[0], best[1]), index=table.index)
        parts.append(own[own["parameter_value"] == own["environment"].map(wanted)])
    found = pd.concat(parts, ignore_index=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_nat = np.where(found["kl"] > 0, found["gain"] / found["kl"], np.nan)
    return pd.DataFrame(
        {
            **{name: found[name] for name in ("instance", "environment", "learner")},
            "parameter": found["parameter_value"],
            **{name: found[name] for name in ("regret", "value", "win_rate")},
            "constrained": found["gain"] - PENALTY * found["kl"],
            "gain_per_kl": per_nat,
            "fitted_gain": found["fitted_gain"],
            "coverage": -found["concentrability"],
        }
    )


def _pairs(chosen: pd.DataFrame) -> Iterator[tuple[str, str]]:
    return combinations(chosen["learner"].unique(), 2)


def _ranked(chosen: pd.DataFrame, first: str, second: str, metric: str) -> tuple[FloatArray, ...]:
    """Return (E,) signs by regret and by a metric: 1 where the first learner is better.

    0 is a tie, NaN where the metric is not defined for both.
    """
    units = chosen.set_index(["instance", "environment"])
    a, b = (units[units["learner"] == name] for name in (first, second))
    by_regret = (b["regret"] - a["regret"]).to_numpy()
    by_metric = (a[metric] - b[metric]).reindex(b.index).to_numpy()
    return tuple(np.where(np.abs(d) <= TIE, 0.0, np.sign(d)) for d in (by_regret, by_metric))


def _flips(by_regret: FloatArray, by_metric: FloatArray) -> tuple[BoolArray, BoolArray]:
    """Return where both rank, and where they rank differently."""
    product = by_regret * by_metric
    return np.abs(product) == 1.0, product == -1.0


def _shares(chosen: pd.DataFrame, metrics: Mapping[str, str]) -> pd.DataFrame:
    """Return one row for each pair of learners and metric that both of them have."""
    found = []
    for first, second in _pairs(chosen):
        for metric in metrics:
            by_regret, by_metric = _ranked(chosen, first, second, metric)
            decided, flipped = _flips(by_regret, by_metric)
            if np.isnan(by_metric).all() or not decided.any():
                continue
            share = proportion_interval(int(flipped.sum()), int(decided.sum()))
            found.append(
                {
                    "first": first, "second": second, "metric": metric,
                    "flips": int(flipped.sum()), "decided": int(decided.sum()),
                    "ties": int((by_regret * by_metric == 0).sum()),
                    "undefined": int(np.isnan(by_metric).sum()),
                    "share": share.estimate, "share_low": share.low, "share_high": share.high,
                    "for_first": int((flipped & (by_metric > 0)).sum()),
                    "first_by_regret": int((decided & (by_regret > 0)).sum()),
                }
            )  # fmt: skip
    return pd.DataFrame(found)


def _overall(chosen: pd.DataFrame) -> pd.DataFrame:
    """Return, for each metric, the mean over datasets of the share of pairs that it flips."""
    found = []
    for metric, told in METRICS.items():
        decided, flipped = (
            np.sum(parts, axis=0)
            for parts in zip(
                *(_flips(*_ranked(chosen, a, b, metric)) for a, b in _pairs(chosen)), strict=True
            )
        )
        some = decided > 0
        share = mean_interval(flipped[some] / decided[some])
        found.append(
            {
                "metric": metric, "told": told, "share": share.estimate, "share_low": share.low,
                "share_high": share.high, "datasets": int(some.sum()),
            }
        )  # fmt: skip
    return pd.DataFrame(found)


# ---- findings -----------------------------------------------------------------------------------


def _finding(claim: str, measured: str, verdict: str, expected: bool | None, table: str) -> Finding:
    return Finding(
        claim=claim, source="definitions", measured=measured, verdict=verdict, expected=expected,
        table=table, computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _findings(
    rows: pd.DataFrame, chosen: pd.DataFrame, shares: pd.DataFrame, overall: pd.DataFrame
) -> tuple[Finding, ...]:
    return (
        _control(chosen),
        _optimal(rows),
        *(_metric(row, shares) for _, row in overall.iterrows()),
    )


def _control(chosen: pd.DataFrame) -> Finding:
    """Return whether the value, which is regret with another sign, flips nothing."""
    control = _shares(chosen, {"value": ""})
    flips, decided = int(control["flips"].sum()), int(control["decided"].sum())
    return _finding(
        "the value flips no ranking by regret",
        f"{flips} flips in {decided} comparisons",
        "holds" if flips == 0 else "VIOLATED", flips == 0, "metric_flips_chosen",
    )  # fmt: skip


def _optimal(rows: pd.DataFrame) -> Finding:
    """Return whether RLHF with KL has the largest fitted gain less beta KL of all that share a fit.

    It is the maximiser of this over all policies.
    """
    own = rows[rows["learner"] == "rlhf-kl"]
    others = rows[(rows["learner"] != "rlhf-kl") & rows["fitted_gain"].notna()]
    unit = ["instance", "environment", "n", "seed"]
    pairs = own[[*unit, "parameter_value", "fitted_gain", "kl"]].merge(
        others[[*unit, "fitted_gain", "kl"]], on=unit, suffixes=("", "_other")
    )
    beta = pairs["parameter_value"]
    best = pairs["fitted_gain"] - beta * pairs["kl"]
    excess = float((pairs["fitted_gain_other"] - beta * pairs["kl_other"] - best).max())
    holds = excess <= TIE
    return _finding(
        "no learner with the same fit has more fitted gain - beta KL than RLHF with KL at beta",
        f"largest excess {excess:.1e} in {len(pairs)} comparisons",
        "holds" if holds else "VIOLATED", holds, "metric_flips_chosen",
    )  # fmt: skip


def _most(shares: pd.DataFrame, metric: str) -> pd.Series:
    own = shares[shares["metric"] == metric]
    return own.loc[own["share"].idxmax()]


def _metric(row: pd.Series, shares: pd.DataFrame) -> Finding:
    worst = _most(shares, row["metric"])
    return _finding(
        f"{row['told']} ranks learners as regret does",
        f"flips a share {row['share']:.3f} [{row['share_low']:.3f}, {row['share_high']:.3f}] of "
        f"pairs (mean over {row['datasets']} datasets); most often {worst['first']} and "
        f"{worst['second']}: {worst['share']:.2f} [{worst['share_low']:.2f}, "
        f"{worst['share_high']:.2f}] of {worst['decided']}",
        "more often than not" if row["share_high"] < 0.5
        else "less often than not" if row["share_low"] > 0.5 else "like a coin", None,
        "metric_flips_shares",
    )  # fmt: skip


def _answer(shares: pd.DataFrame, overall: pd.DataFrame) -> str:
    parts = ", ".join(
        f"{row['told'].split(',')[0]} {100 * row['share']:.0f} % [{100 * row['share_low']:.0f}, "
        f"{100 * row['share_high']:.0f}]"
        for _, row in overall.sort_values("share").iterrows()
    )
    worst = shares.loc[shares["share"].idxmax()]
    counts = overall["datasets"].min(), overall["datasets"].max()
    datasets = f"{counts[1]}" if counts[0] == counts[1] else f"{counts[0]} to {counts[1]}"
    return (
        f"Of the pairs of tuned learners that both rank, these metrics rank the other way than "
        f"regret: {parts} (means over {datasets} datasets); the pair flipped most "
        f"is {worst['first']} and {worst['second']} by "
        f"{METRICS[worst['metric']].split(',')[0]}, {100 * worst['share']:.0f} % "
        f"[{100 * worst['share_low']:.0f}, {100 * worst['share_high']:.0f}] of "
        f"{worst['decided']} datasets."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("metric_flips",))
