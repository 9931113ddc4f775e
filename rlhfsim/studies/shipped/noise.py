"""Labels that are not Bradley-Terry: flipped at a rate, or given by raters of several minds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rlhfsim.checks import FloatArray
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.statistics import Interval, mean_interval, paired_comparison
from rlhfsim.studies.shipped.base import Shipped, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import along, cross_fitted, halves

_HERE = "rlhfsim.studies.shipped.noise"

#: Probabilities that a label is flipped, and how far apart two raters' temperatures 1/s and s are.
_RATES = (0.0, 0.1, 0.2, 0.3, 0.4)
_SPREADS = (2.0, 4.0, 8.0)
_FAMILY = {
    "family": "zipf", "prompts": 3, "responses": 10, "exponent": 1.5, "reward_scale": 2.0,
    "environments": 30,
}  # fmt: skip
_CLEAN = "noise 0"
_RIDGE = 0.1
LEARNERS = ("rlhf-kl", "rlhf-chi2", "rlhf-mixed", "ipo", "cdpo", "rpo")
_REGULARIZED = LEARNERS[:3]
#: What cDPO takes the rate of flips to be, and the weight of RPO's imitation.
SMOOTHING, ETA = 0.1, 0.005

#: A regularized path's fitted reward may rise with beta by rounding, relative to its range.
_TOLERANCE = 1e-9


def learners(
    reward: dict[str, object],
    policies: dict[str, object],
    imitating: dict[str, object],
    note: str = "",
) -> list[dict[str, object]]:
    """Return the settings of the six learners; `note` follows their names in the labels.

    `imitating` are the policies of RPO, which takes no ridge.
    """
    divergences = dict(zip(_REGULARIZED, ("kl", "chi2", "chi2 + kl"), strict=True))
    two_steps: list[dict[str, object]] = [
        {"method": "RLHF", "label": name + note, "divergence": text, "reward": reward}
        for name, text in divergences.items()
    ]
    return [
        *two_steps,
        {"method": "IPO", "label": f"ipo{note}", "policies": policies},
        {"method": "DPO", "label": f"cdpo{note}", "policies": policies,
         "label_smoothing": SMOOTHING},
        {"method": "RPO", "label": f"rpo{note}", "policies": imitating, "eta": ETA},
    ]  # fmt: skip


STUDY = Study.from_dict(
    {
        "name": "noise",
        "title": "Labels that are flipped, and raters who differ",
        "question": "How does the regret of each learner grow with the noise of the labels, and "
        "with raters of different temperatures?",
        "instances": [
            *(_FAMILY | {"label": f"noise {v:g}", "labels": {"noise": v}} for v in _RATES),
            *(
                _FAMILY | {"label": f"raters {s:g}", "labels": {"raters": (1.0 / s, s)}}
                for s in _SPREADS
            ),
        ],
        "learners": learners(
            {"model": "tabular", "ridge": _RIDGE},
            {"kind": "tabular", "ridge": _RIDGE},
            {"kind": "tabular"},
        ),
        "n": [1000],
        "beta": {"start": 2e-3, "stop": 2.0, "points": 13},
        "seeds": 1,
        "bias": True,
        "testing": {"environments": 2, "grid": 3},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return regret against noise at the best beta and at that of clean labels, and its split."""
    good = succeeded(rows)
    best = pd.DataFrame(
        [
            {"varies": kind, "level": level, "learner": learner, **found}
            for kind, level, name in _conditions(study)
            for learner in LEARNERS
            for found in (_at_best(good, name, learner),)
        ]
    )
    against = _against_kl(good, study)
    paths = good.groupby(["instance", "learner", "parameter_value"], sort=False)
    curves = paths[["regret", "bias", "estimation_error"]].mean().reset_index()
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={
            "cells": study.cells, "n": list(study.n), "label smoothing of cDPO": SMOOTHING,
            "eta of RPO": ETA, "ridge": _RIDGE,
        },
        tables={
            "noise_best": best,
            "noise_against_kl": against,
            "noise_curves": curves.rename(columns={"parameter_value": "beta"}),
        },
        findings=_findings(good, best, against),
        answer=_answer(best, against),
    )  # fmt: skip


def _conditions(study: Study) -> list[tuple[str, float, str]]:
    """Return (what varies, its level, label of the instance); clean labels are part of both."""
    split = [(label.split()[0], float(label.split()[1]), label) for label in study.labels[0]]
    return [*split, ("raters", 1.0, _CLEAN)]


def _path(
    rows: pd.DataFrame, instance: str, learner: str, metric: str = "regret"
) -> tuple[FloatArray, FloatArray]:
    """Return the grid of beta and the (environments, grid) values of a metric."""
    own = rows[(rows["instance"] == instance) & (rows["learner"] == learner)]
    grid, values, _ = along(own, metric)
    return grid, values


def tuned(values: FloatArray) -> FloatArray:
    """Return the value of each environment at the beta that the other half of them prefers."""
    return cross_fitted(values, halves(len(values)))


def best_row(grid: FloatArray, regret: FloatArray, bias: FloatArray) -> dict[str, object]:
    """Return the best beta with its regret, and how that splits there.

    Parameters
    ----------
    grid : (K,) array
    regret, bias : (environments, K) arrays
    """
    best = int(regret.mean(axis=0).argmin())
    interval, split = mean_interval(tuned(regret)), mean_interval(bias[:, best])
    return {
        "beta": float(grid[best]),
        "regret": interval.estimate,
        "regret_low": interval.low,
        "regret_high": interval.high,
        "bias": split.estimate,
        "bias_low": split.low,
        "bias_high": split.high,
        "estimation_error": float((regret - bias)[:, best].mean()),
        "count": len(regret),
    }


def _at_best(rows: pd.DataFrame, instance: str, learner: str) -> dict[str, object]:
    grid, regret = _path(rows, instance, learner)
    _, bias = _path(rows, instance, learner, "bias")
    kept = mean_interval(_untuned(rows, instance, learner))
    return best_row(grid, regret, bias) | {
        "untuned": kept.estimate,
        "untuned_low": kept.low,
        "untuned_high": kept.high,
    }


def _untuned(rows: pd.DataFrame, instance: str, learner: str) -> FloatArray:
    """Return the regrets at the beta that is best for clean labels, which are other datasets."""
    _, clean = _path(rows, _CLEAN, learner)
    if instance == _CLEAN:
        return tuned(clean)
    _, noisy = _path(rows, instance, learner)
    return noisy[:, clean.mean(axis=0).argmin()]


# ---- findings -----------------------------------------------------------------------------------


def _findings(rows: pd.DataFrame, best: pd.DataFrame, against: pd.DataFrame) -> tuple[Finding, ...]:
    return (
        *(_grows(rows, learner) for learner in LEARNERS),
        *(_compared(against, learner) for learner in LEARNERS[1:]),
        _moves(best),
        _monotone(rows),
    )


def _finding(
    claim: str,
    source: str,
    measured: str,
    verdict: str,
    expected: bool | None,
    table: str = "noise_best",
) -> Finding:
    return Finding(
        claim=claim, source=source, measured=measured, verdict=verdict, expected=expected,
        table=table, computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _grows(rows: pd.DataFrame, learner: str) -> Finding:
    noisy, clean = (tuned(_path(rows, name, learner)[1]) for name in ("noise 0.4", _CLEAN))
    # The same environments under both laws of labels.
    d = paired_comparison(noisy, clean).difference
    return _finding(
        f"{learner}: regret is larger with 40 % of the labels flipped than with none",
        "arXiv 2403.00409",
        f"each at its best beta: {noisy.mean():.3f} against {clean.mean():.3f}, difference "
        f"{d.estimate:+.3f} [{d.low:+.3f}, {d.high:+.3f}]",
        "larger" if d.low > 0 else "smaller" if d.high < 0 else "no difference seen",
        None,
    )


def _difference(rows: pd.DataFrame, instance: str, first: str, second: str) -> Interval:
    """Return the difference in regret of two learners on the same data, each at its best beta."""
    own, other = (tuned(_path(rows, instance, name)[1]) for name in (first, second))
    return paired_comparison(own, other).difference


def _against_kl(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return the difference in regret from KL of every other learner under every law of labels."""
    found = []
    for varies, level, instance in _conditions(study)[:-1]:
        for learner in LEARNERS[1:]:
            d = _difference(rows, instance, learner, "rlhf-kl")
            found.append((varies, level, learner, d.estimate, d.low, d.high, _verdict(d)))
    columns = ["varies", "level", "learner", "difference", "low", "high", "verdict"]
    return pd.DataFrame(found, columns=columns)


def _verdict(difference: Interval) -> str:
    if difference.high < 0:
        return "lower"
    return "higher" if difference.low > 0 else "no difference seen"


def _compared(against: pd.DataFrame, learner: str) -> Finding:
    own = against[against["learner"] == learner]
    told = "; ".join(
        f"{row['varies']} {row['level']:g} {row['difference']:+.4f} "
        f"[{row['low']:+.4f}, {row['high']:+.4f}]"
        for _, row in own.iterrows()
    )
    lower, higher = ((own["verdict"] == word).sum() for word in ("lower", "higher"))
    return _finding(
        f"{learner} against rlhf-kl, under each law of the labels",
        "arXiv 2407.13399",
        f"difference in regret, each at its best beta: {told}",
        f"lower under {lower}, higher under {higher} of {len(own)}",
        None,
        "noise_against_kl",
    )


def _moves(best: pd.DataFrame) -> Finding:
    """Return what a beta that was chosen for clean labels costs when they are noisy."""
    noise = best[best["varies"] == "noise"]
    own = noise[noise["level"] == noise["level"].max()]
    told = ", ".join(
        f"{row['learner']} {row['untuned']:.3f} in place of {row['regret']:.3f}"
        for _, row in own.iterrows()
    )
    return _finding(
        "a beta that is best for clean labels costs regret when they are noisy",
        "arXiv 2407.13399",
        f"regret at that beta in place of the best one, noise {own['level'].iloc[0]:g}: {told}",
        "measured",
        None,
    )


def _monotone(rows: pd.DataFrame) -> Finding:
    """Return whether the fitted reward of regularized optima never rises with beta."""
    worst = -np.inf
    some = rows[rows["learner"].isin(_REGULARIZED)]
    for _, own in some.groupby(["instance", "environment", "seed", "learner"], sort=False):
        path = own.sort_values("parameter_value")["fitted_gain"].to_numpy()
        worst = max(worst, float(np.diff(path).max() / np.abs(path).max()))
    holds = worst <= _TOLERANCE
    return _finding(
        "the fitted reward of a regularized optimum never rises with beta, whatever the labels",
        "revealed preference",
        f"largest relative rise {worst:.1e}",
        "holds" if holds else "VIOLATED",
        holds,
    )


def _answer(best: pd.DataFrame, against: pd.DataFrame) -> str:
    noise = best[best["varies"] == "noise"]
    most = noise["level"].max()
    parts = []
    for learner in LEARNERS:
        own = noise[noise["learner"] == learner].set_index("level")
        parts.append(
            f"{learner} from {own.loc[0.0, 'regret']:.3f} to {own.loc[most, 'regret']:.3f} "
            f"[{own.loc[most, 'regret_low']:.3f}, {own.loc[most, 'regret_high']:.3f}]"
        )
    raters = best[best["varies"] == "raters"]
    spread = raters["level"].max()
    told = raters[raters["level"] == spread].set_index("learner")["regret"]
    chi2 = against[(against["learner"] == "rlhf-chi2") & (against["varies"] == "noise")]
    gaps = ", ".join(
        f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] at {row['level']:g}"
        for _, row in chi2.iterrows()
    )
    return (
        f"With {100 * most:g} % of the labels flipped the regret at the best beta goes "
        f"{', '.join(parts)}; chi2 less KL is {gaps}; with raters of temperatures 1/{spread:g} "
        f"and {spread:g} it is {told['rlhf-kl']:.3f} for KL and {told['rlhf-chi2']:.3f} for chi2."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("noise",))
