"""Bias against overoptimization: which beta each learner needs, and how exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rlhfsim.findings import Finding, StudyResult
from rlhfsim.randomness import generator_for
from rlhfsim.statistics import Interval, mean_interval, paired_comparison, stratified_bootstrap
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import Along, along, cross_fitted, halves, window

_HERE = "rlhfsim.studies.shipped.tradeoff"

#: Keys of `LEARNERS` whose entry has a beta; those of what each is told beyond preferences.
TOLD = {
    "rlhf-kl": "", "rlhf-chi2": "", "rlhf-mixed": "", "rlhf-alpha": "", "dpo": "", "cdpo": "",
    "chipo": "", "chipo-clipped": "range of rewards", "chipo-practical": "", "fdpo-js": "",
    "fdpo-forward-kl": "", "ipo": "", "rpo": "", "rebel": "", "power": "", "simpo": "",
    "inference-time-pessimism": "", "bayesian": "", "matching-exponential": "",
    "demonstrations": "demonstrations", "dpo-log-linear": "features",
    "dpo-finite": "finite class", "chipo-finite": "finite class",
    "pessimistic-mle-1": "features", "pessimistic-mle-2": "features",
    "pessimistic-likelihood": "finite class",
    # These have no beta of the list's; the study gives them one.
    "kto": "", "infalign-best": "", "infalign-worst": "", "ctrl": "",
}  # fmt: skip

#: Pairs that theory says are one learner, over all policies with the same ridge.
SAME = (("rlhf-kl", "dpo"), ("rlhf-mixed", "chipo"), ("rlhf-kl", "matching-exponential"))

_RIDGE = {"model": "tabular", "ridge": 0.1}
_OWN: dict[str, dict[str, Any]] = {
    # Over all policies KTO needs beta <= 1.
    "kto": {"method": "KTO", "grid": [float(v) for v in np.geomspace(1e-2, 1.0, 5)]},
    "infalign-best": {"method": "InfAlign", "procedure": "best-of", "reward": _RIDGE},
    "infalign-worst": {"method": "InfAlign", "procedure": "worst-of", "reward": _RIDGE},
    "ctrl": {"method": "CTRL", "reward": _RIDGE},
}

STUDY = Study.from_dict(
    {
        "name": "tradeoff",
        "title": "The best beta of every learner, and the room around it",
        "question": "Which strength of regularization is best for each learner, and how far may "
        "one be from it?",
        "instances": [
            {
                "family": "zipf", "prompts": 1, "responses": 10, "exponent": 2.0,
                "reward_scale": 2.0, "environments": 150,
            }
        ],
        "learners": [
            {"label": key} | _OWN.get(key, {"method": "listed", "learner_key": key})
            for key in TOLD
        ],
        "n": [100],
        "beta": {"start": 1e-2, "stop": 1e2, "points": 9},
        "seeds": 1,
        "bias": True,
        "testing": {"environments": 4, "grid": 3},
    }
)  # fmt: skip

#: How much worse than the best a beta in the window may be.
FACTOR = 1.1


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return regret along beta, and for each learner the best beta, its window and its regret."""
    good = succeeded(rows)
    curves = means(good, ["learner", "parameter_value"], "regret")
    known = good[good["bias"].notna()]
    split = means(known, ["learner", "parameter_value"], "bias").merge(
        means(known, ["learner", "parameter_value"], "estimation_error"),
        on=["learner", "parameter_value", "count"],
    )
    curves, split = (t.rename(columns={"parameter_value": "beta"}) for t in (curves, split))
    tables_of = {name: along(own, "regret") for name, own in good.groupby("learner", sort=False)}
    failed = rows["error"].notna().groupby(rows["learner"]).sum()
    best = pd.DataFrame(
        [
            {"learner": name, "told": TOLD[name], **_best(name, table, study)}
            | {"failed_cells": int(failed[name])}
            for name, table in tables_of.items()
        ]
    )
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "seeds": study.seeds, "n": list(study.n)},
        tables={"tradeoff_curves": curves, "tradeoff_split": split, "tradeoff_best": best},
        findings=_findings(tables_of, split, best),
        answer=_answer(best),
    )


# ---- the best beta and its window ---------------------------------------------------------------


def _best(name: str, table: Along, study: Study) -> dict[str, object]:
    """Return one row: the best beta, its window, and the regret at a beta chosen elsewhere."""
    each = table.averaged()
    mean = each.measured.mean(axis=0)
    low, high = window(each.grid, mean, FACTOR)
    regret = mean_interval(_tuned(table))
    width, beta = _uncertain(name, each, study)
    return {
        "beta": float(each.grid[mean.argmin()]),
        "beta_low": beta.low,
        "beta_high": beta.high,
        "window_low": float(low),
        "window_high": float(high),
        "open_low": bool(np.isclose(low, each.grid[0])),
        "open_high": bool(np.isclose(high, each.grid[-1])),
        "width": width.estimate,
        "width_low": width.low,
        "width_high": width.high,
        "regret": regret.estimate,
        "regret_low": regret.low,
        "regret_high": regret.high,
        "environments": len(each.measured),
    }


def _tuned(table: Along) -> np.ndarray:
    """Return the regret of each environment at the beta that the other half of them prefers."""
    each = table.averaged().measured
    return cross_fitted(each, halves(len(each)))


def _uncertain(name: str, each: Along, study: Study) -> tuple[Interval, Interval]:
    """Return the width of the window in decades and the best beta, environments resampled."""

    def width(samples: np.ndarray) -> np.ndarray:
        low, high = window(each.grid, samples.mean(axis=1), FACTOR)
        return np.log10(high / low)

    def best(samples: np.ndarray) -> np.ndarray:
        return each.grid[samples.mean(axis=1).argmin(axis=1)]

    found = [
        stratified_bootstrap(
            each.measured, None, of, generator_for(study.name, f"bootstrap {name}", k),
            resamples=500, method="percentile",
        )
        for k, of in enumerate((width, best))
    ]  # fmt: skip
    return found[0], found[1]


# ---- findings -----------------------------------------------------------------------------------


def _findings(
    tables: dict[str, Along], split: pd.DataFrame, best: pd.DataFrame
) -> tuple[Finding, ...]:
    """Return what theory says, and what was measured."""
    return (
        *(_same(tables, a, b) for a, b in SAME),
        _cheaper(tables, "rlhf-chi2", "rlhf-kl"),
        _cheaper(tables, "rlhf-mixed", "rlhf-kl"),
        _biases(split),
        _widest(best),
    )


def _finding(claim: str, measured: str, verdict: str, expected: bool | None, table: str) -> Finding:
    return Finding(
        claim=claim, source="arXiv 2407.13399", measured=measured, verdict=verdict,
        expected=expected, table=table, computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _same(tables: dict[str, Along], first: str, second: str) -> Finding:
    apart = float(np.abs(tables[first].measured - tables[second].measured).max())
    holds = apart <= 1e-6
    return _finding(
        f"{first} and {second} are the same policy at every beta (all policies, same ridge)",
        f"largest difference in regret {apart:.1e}",
        "holds" if holds else "VIOLATED", holds, "tradeoff_curves",
    )  # fmt: skip


def _cheaper(tables: dict[str, Along], first: str, second: str) -> Finding:
    compared = paired_comparison(_tuned(tables[first]), _tuned(tables[second]))
    d = compared.difference
    return _finding(
        f"{first} loses less than {second}, each at its best beta",
        f"difference in regret {d.estimate:+.4f} [{d.low:+.4f}, {d.high:+.4f}] over "
        f"{compared.pairs} environments",
        "lower" if d.high < 0 else "higher" if d.low > 0 else "no difference seen",
        None, "tradeoff_best",
    )  # fmt: skip


def _biases(split: pd.DataFrame) -> Finding:
    """Return whether the regret at the largest beta is bias, and at the smallest less of it."""
    parts = []
    for name in ("rlhf-kl", "rlhf-chi2", "rlhf-mixed"):
        own = split[split["learner"] == name].sort_values("beta")
        share = own["bias"] / (own["bias"] + own["estimation_error"])
        parts.append((name, float(share.iloc[0]), float(share.iloc[-1])))
    holds = all(first < last and last > 0.9 for _, first, last in parts)
    return _finding(
        "with strong regularization the regret is bias, with weak it is mostly error of the data",
        "share of bias at the smallest and largest beta: "
        + ", ".join(f"{name} {first:.2f} and {last:.2f}" for name, first, last in parts),
        "holds" if holds else "VIOLATED", holds, "tradeoff_split",
    )  # fmt: skip


def _widest(best: pd.DataFrame) -> Finding:
    inner = best[~best["open_low"] & ~best["open_high"]]
    return _finding(
        f"beta must be right within a factor for a regret within {100 * (FACTOR - 1):.0f} % of "
        "the best",
        f"{len(inner)} of {len(best)} windows end inside of the grid; their widths in decades: "
        + (f"{inner['width'].min():.2f} to {inner['width'].max():.2f}" if len(inner) else "none"),
        "measured", None, "tradeoff_best",
    )  # fmt: skip


def _answer(best: pd.DataFrame) -> str:
    by_name = best.set_index("learner")
    parts = []
    for name, title in (("rlhf-kl", "KL"), ("rlhf-chi2", "chi2"), ("rlhf-mixed", "chi2 + KL")):
        row = by_name.loc[name]
        parts.append(
            f"{title} has regret {row['regret']:.3f} [{row['regret_low']:.3f}, "
            f"{row['regret_high']:.3f}] at beta near {row['beta']:.2g}, within "
            f"{100 * (FACTOR - 1):.0f} % of its best over {_open(row)}{row['width']:.2f} decades "
            f"of beta [{row['width_low']:.2f}, {row['width_high']:.2f}]"
        )
    return (
        f"Of {len(best)} learners at a beta chosen on other environments: " + "; ".join(parts) + "."
    )


def _open(row: pd.Series) -> str:
    return "at least " if row["open_low"] or row["open_high"] else ""


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("tradeoff", "tradeoff_windows"))
