"""Classes that lack features of the truth: what is left when the data are infinite."""

from __future__ import annotations

import pandas as pd

from rlhfsim.checks import FloatArray
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.statistics import Interval, mean_interval, paired_comparison
from rlhfsim.studies.shipped.base import Shipped, succeeded
from rlhfsim.studies.shipped.noise import ETA, LEARNERS, SMOOTHING, best_row, learners, tuned
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import along

_HERE = "rlhfsim.studies.shipped.misspecification"
_DIMENSION, _NORM = 8, 4.0
_KEPT = (8, 6, 4, 2)

#: Share of the gain of the best policy that a realizable class may lose at the smallest beta.
_NOTHING = 0.01

STUDY = Study.from_dict(
    {
        "name": "misspecification",
        "title": "Classes that lack features",
        "question": "What does each learner lose when its class lacks features of the true "
        "reward, and how much of that would more data remove?",
        "instances": [
            {
                "family": "log-linear", "prompts": 4, "responses": 16, "dimension": _DIMENSION,
                "norm": _NORM, "reference_norm": 4.0, "environments": 20,
            }
        ],
        "learners": [
            entry
            for kept in _KEPT
            for entry in learners(
                {"model": "linear", "norm_bound": 2.0 * _NORM, "features": kept},
                {"kind": "log-linear", "features": kept},
                {"kind": "log-linear", "features": kept},
                f", {kept} features",
            )
        ],
        "n": [200],
        "beta": {"start": 1e-3, "stop": 1.0, "points": 10},
        "seeds": 1,
        "bias": True,
        "testing": {"environments": 2, "grid": 2},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return the regret at the best beta against the features kept, and how it splits."""
    good = succeeded(rows)
    best = pd.DataFrame(
        [
            {"features": kept, "learner": learner, **_at_best(good, learner, kept)}
            for kept in _KEPT
            for learner in LEARNERS
        ]
    )
    paths = good.groupby(["learner", "parameter_value"], sort=False)
    curves = paths[["regret", "bias", "estimation_error"]].mean().reset_index()
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={
            "cells": study.cells, "n": list(study.n), "features of the truth": _DIMENSION,
            "label smoothing of cDPO": SMOOTHING, "eta of RPO": ETA,
        },
        tables={
            "misspecification_best": best,
            "misspecification_curves": curves.rename(columns={"parameter_value": "beta"}),
        },
        findings=_findings(good, best),
        answer=_answer(good, best),
    )  # fmt: skip


def _path(
    rows: pd.DataFrame, learner: str, kept: int, metric: str = "regret"
) -> tuple[FloatArray, FloatArray]:
    """Return the grid of beta and the (environments, grid) values of a metric."""
    own = rows[rows["learner"] == f"{learner}, {kept} features"]
    grid, values, _ = along(own, metric)
    return grid, values


def _at_best(rows: pd.DataFrame, learner: str, kept: int) -> dict[str, object]:
    grid, regret = _path(rows, learner, kept)
    _, bias = _path(rows, learner, kept, "bias")
    return best_row(grid, regret, bias) | {"share_of_bias": _share(regret, bias)}


def _share(regret: FloatArray, bias: FloatArray) -> float:
    """Return the bias over the regret at the best beta."""
    best = int(regret.mean(axis=0).argmin())
    return float(bias[:, best].mean() / regret[:, best].mean())


# ---- findings -----------------------------------------------------------------------------------


def _findings(rows: pd.DataFrame, best: pd.DataFrame) -> tuple[Finding, ...]:
    return (
        *(_realizable(rows, learner) for learner in LEARNERS[:3]),
        *(_costs(rows, learner) for learner in LEARNERS),
        *(_against_kl(rows, kept, learner) for kept in (8, 2) for learner in LEARNERS[1:]),
        _shares(best),
    )


def _finding(
    claim: str, source: str, measured: str, verdict: str, expected: bool | None
) -> Finding:
    return Finding(
        claim=claim, source=source, measured=measured, verdict=verdict, expected=expected,
        table="misspecification_best", computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _realizable(rows: pd.DataFrame, learner: str) -> Finding:
    """Return whether the bias of a class that holds the truth vanishes at the smallest beta."""
    own = rows[rows["learner"] == f"{learner}, {_DIMENSION} features"]
    beta = float(own["parameter_value"].min())
    least = own[own["parameter_value"] == beta]
    share = float(least["bias"].mean() / (least["gain"] + least["regret"]).mean())
    holds = -1e-9 <= share <= _NOTHING
    return _finding(
        f"{learner}: with every feature the bias vanishes with beta",
        "arXiv 2301.11270",
        f"{share:.2e} of what the best policy gains, at beta = {beta:g}",
        "holds" if holds else "VIOLATED",
        holds,
    )


def _difference(
    rows: pd.DataFrame, first: tuple[str, int], second: tuple[str, int], metric: str = "regret"
) -> Interval:
    """Return a difference of two learners on the same data, each at its best beta."""
    a, b = (tuned(_path(rows, *which, metric)[1]) for which in (first, second))
    return paired_comparison(a, b).difference


def _costs(rows: pd.DataFrame, learner: str) -> Finding:
    fewest = min(_KEPT)
    d = _difference(rows, (learner, fewest), (learner, _DIMENSION))
    return _finding(
        f"{learner}: regret is larger with {fewest} features than with all {_DIMENSION}",
        "arXiv 2301.11270",
        f"difference, each at its best beta, {d.estimate:+.3f} [{d.low:+.3f}, {d.high:+.3f}]",
        "larger" if d.low > 0 else "smaller" if d.high < 0 else "no difference seen",
        None,
    )


def _against_kl(rows: pd.DataFrame, kept: int, learner: str) -> Finding:
    d = _difference(rows, (learner, kept), ("rlhf-kl", kept))
    return _finding(
        f"{learner} loses less than rlhf-kl with {kept} features",
        "arXiv 2407.13399",
        f"difference in regret, each at its best beta, {d.estimate:+.4f} "
        f"[{d.low:+.4f}, {d.high:+.4f}]",
        "lower" if d.high < 0 else "higher" if d.low > 0 else "no difference seen",
        None,
    )


def _shares(best: pd.DataFrame) -> Finding:
    told = "; ".join(
        f"{kept} features: " + ", ".join(
            f"{row['learner']} {row['share_of_bias']:.2f}" for _, row in own.iterrows()
        )
        for kept, own in best.groupby("features", sort=False)
    )  # fmt: skip
    return _finding(
        "share of the regret at the best beta that more data would not remove",
        "arXiv 2301.11270",
        told,
        "measured",
        None,
    )


def _answer(rows: pd.DataFrame, best: pd.DataFrame) -> str:
    gain = rows.assign(best=rows["gain"] + rows["regret"]).groupby("environment")["best"].first()
    parts = []
    for learner in LEARNERS:
        own = best[best["learner"] == learner].set_index("features")
        few = own.loc[min(_KEPT)]
        parts.append(
            f"{learner} loses {own.loc[_DIMENSION, 'regret']:.3f} with all features and "
            f"{few['regret']:.3f} [{few['regret_low']:.3f}, {few['regret_high']:.3f}] with "
            f"{min(_KEPT)}, of which {few['bias']:.3f} is bias"
        )
    d = _difference(rows, ("rlhf-chi2", min(_KEPT)), ("rlhf-kl", min(_KEPT)))
    return (
        f"Of {mean_interval(gain.to_numpy()).estimate:.3f} that the best policy gains, at the best "
        f"beta {'; '.join(parts)}; chi2 less KL with {min(_KEPT)} features is {d.estimate:+.3f} "
        f"[{d.low:+.3f}, {d.high:+.3f}]."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("misspecification",))
