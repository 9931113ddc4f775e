"""Whose coverage counts: that of the comparator, or that of all policies."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rlhfsim.bounds import chi_squared_bound, finite_class_error
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.randomness import generator_for
from rlhfsim.statistics import (
    mean_interval,
    paired_comparison,
    proportion_interval,
    stratified_bootstrap,
)
from rlhfsim.studies.instances import Decoys
from rlhfsim.studies.shipped.base import Shipped, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import Along, along, cross_fitted, halves

_HERE = "rlhfsim.studies.shipped.coverage"
_N = 2000
_DELTA = 0.05
#: Coverage of the comparator where that of all policies varies, and the other way round.
_COMPARATOR, _ALL = 2.0, 2.0**14
_FAMILY = {
    "family": "decoys", "responses": 8, "decoys": 2, "gap": 0.2, "class_size": 32,
    "environments": 100,
}  # fmt: skip
_LEARNERS = ("rlhf-kl", "rlhf-chi2", "rlhf-mixed", "pessimistic-likelihood")

STUDY = Study.from_dict(
    {
        "name": "coverage",
        "title": "Coverage of the comparator and of all policies",
        "question": "Does regret grow with the coverage coefficient of the comparator, or with "
        "that of all policies?",
        "instances": [
            _FAMILY | {"coverage": 2.0**k, "decoy_coverage": _ALL} for k in range(1, 10)
        ]
        + [
            _FAMILY | {"coverage": _COMPARATOR, "decoy_coverage": 2.0**k}
            for k in range(6, 23, 2)
            if 2.0**k != _ALL
        ],
        "learners": [
            {"method": "RLHF", "label": "rlhf-kl", "divergence": "kl",
             "reward": {"model": "finite"}},
            {"method": "RLHF", "label": "rlhf-chi2", "divergence": "chi2",
             "reward": {"model": "finite"}},
            {"method": "RLHF", "label": "rlhf-mixed", "divergence": "chi2 + kl",
             "reward": {"model": "finite"}},
            {"method": "pessimistic-likelihood", "label": "pessimistic-likelihood"},
        ],
        "n": [_N],
        "beta": {"start": 1e-3, "stop": 1.0, "points": 10},
        "seeds": 2,
        "testing": {"environments": 4, "seeds": 1, "grid": 5},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return regret against either coverage at the best beta, and the bounds."""
    good = succeeded(rows)
    regret = pd.DataFrame(
        [
            {"varies": sweep, **row}
            for name, spec in _instances(study).items()
            for row in _at_best(good[good["instance"] == name], spec)
            for sweep in _sweeps(spec)
        ]
    )
    slopes = pd.DataFrame(_slopes(good, study))
    violations = _violations(good, study)
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={
            "cells": study.cells, "seeds": study.seeds, "n": list(study.n), "delta": _DELTA,
        },
        tables={
            "coverage_regret": regret,
            "coverage_slopes": slopes,
            "coverage_violations": violations,
        },
        findings=_findings(good, study, slopes, violations),
        answer=_answer(regret, slopes),
    )  # fmt: skip


# ---- coverage and bounds ------------------------------------------------------------------------


def _instances(study: Study) -> dict[str, Decoys]:
    """Return the families by the labels that results have."""
    return {
        label: spec
        for label, spec in zip(study.labels[0], study.instances, strict=True)
        if isinstance(spec, Decoys)
    }


def _sweeps(spec: Decoys) -> list[str]:
    """Return the sweeps that an instance is part of; one is where both cross."""
    held = (
        ("comparator", spec.decoy_coverage == _ALL),
        ("all policies", spec.coverage == _COMPARATOR),
    )
    return [name for name, part in held if part]


def _coverages(spec: Decoys) -> dict[str, float]:
    """Return the coverage of the comparator and that of all policies, `E_x[1/min_y p]`."""
    rest = 1.0 - 1.0 / spec.coverage - spec.decoys / spec.decoy_coverage
    common = (spec.responses - 1 - spec.decoys) / rest
    return {
        "comparator": spec.coverage,
        "all_policies": max(spec.coverage, spec.decoy_coverage, common),
    }


def error_bound(spec: Decoys, n: int) -> float:
    """Return what `eps_c` is at most with probability `1 - delta`: rewards are within `2 scale`."""
    return finite_class_error(n, spec.class_size, _DELTA, 2.0 * spec.reward_scale) ** 0.5


def _bounds(spec: Decoys, n: int) -> dict[str, float]:
    """Return the bounds at their own beta: chi-squared, and of any greedy policy."""
    found = _coverages(spec)
    error = error_bound(spec, n)
    one, every = found["comparator"] - 1.0, found["all_policies"] - 1.0
    return {
        "single_policy_bound": one**0.5 * error,
        "all_policy_bound": (one**0.5 + every**0.5) * error,
    }


# ---- regret at the best beta --------------------------------------------------------------------


def _at_best(rows: pd.DataFrame, spec: Decoys) -> list[dict[str, object]]:
    found = []
    for learner, own in rows.groupby("learner", sort=False):
        table = along(own, "regret")
        interval = mean_interval(_tuned(table))
        mean = table.measured.mean(axis=0)
        found.append(
            {
                "learner": learner,
                **_coverages(spec),
                "beta": float(table.grid[mean.argmin()]),
                "regret": interval.estimate,
                "regret_low": interval.low,
                "regret_high": interval.high,
                "count": len(table.measured),
                "environments": len(table.averaged().measured),
                **_bounds(spec, _N),
            }
        )
    return found


def _tuned(table: Along) -> np.ndarray:
    """Return the regret of each environment at the beta that the other half of them prefers."""
    each = table.averaged().measured
    return cross_fitted(each, halves(len(each)))


def _matrix(rows: pd.DataFrame, study: Study, learner: str, varies: str) -> tuple[np.ndarray, ...]:
    """Return (S,) coverages and (E, S) tuned regrets of a learner."""
    chosen = {name: spec for name, spec in _instances(study).items() if varies in _sweeps(spec)}
    key = "comparator" if varies == "comparator" else "all_policies"
    x = np.array([_coverages(spec)[key] for spec in chosen.values()], dtype=np.float64)
    own = rows[rows["learner"] == learner]
    each = [_tuned(along(own[own["instance"] == name], "regret")) for name in chosen]
    return x, np.stack(each, axis=1)


def _slopes(rows: pd.DataFrame, study: Study) -> list[dict[str, object]]:
    """Return the change of mean regret per doubling of either coverage."""
    return [
        {"varies": varies, "learner": learner, **_per_doubling(rows, study, learner, varies)}
        for varies in ("comparator", "all policies")
        for learner in _LEARNERS
    ]


def _per_doubling(rows: pd.DataFrame, study: Study, learner: str, varies: str) -> dict[str, object]:
    """Return the least-squares slope of mean regret in log2 of coverage, environments resampled."""
    x, runs = _matrix(rows, study, learner, varies)
    centred = np.log2(x) - np.log2(x).mean()
    weights = centred / (centred @ centred)
    slope = stratified_bootstrap(
        runs, None, lambda s: s.mean(axis=1) @ weights,
        generator_for(study.name, f"bootstrap {learner} {varies}", 0),
        resamples=1000, method="percentile",
    )  # fmt: skip
    mean = runs.mean(axis=0)
    return {
        "per_doubling": slope.estimate, "per_doubling_low": slope.low,
        "per_doubling_high": slope.high, "lowest": float(mean.min()),
        "highest": float(mean.max()), "count": len(runs),
    }  # fmt: skip


def _violations(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return how often the regret of chi-squared exceeds its bound, at each beta."""
    own = rows[rows["learner"] == "rlhf-chi2"]
    found = []
    for name, spec in _instances(study).items():
        mine = own[own["instance"] == name]
        star = 0.5 * (spec.coverage - 1.0)
        for beta, cells in mine.groupby("parameter_value", sort=True):
            bound = float(chi_squared_bound(error_bound(spec, _N), star, beta))
            exceeded = int((cells["regret"] > bound).sum())
            share = proportion_interval(exceeded, len(cells))
            found.append(
                {
                    **_coverages(spec), "beta": beta, "bound": bound,
                    "largest_regret": float(cells["regret"].max()),
                    "violations": exceeded, "datasets": len(cells),
                    "share_low": share.low, "share_high": share.high,
                }
            )  # fmt: skip
    return pd.DataFrame(found)


# ---- findings -----------------------------------------------------------------------------------


def _findings(
    rows: pd.DataFrame, study: Study, slopes: pd.DataFrame, violations: pd.DataFrame
) -> tuple[Finding, ...]:
    return (
        _bound(violations),
        *(_slope(row) for _, row in slopes.iterrows()),
        *(_apart(rows, study, learner) for learner in _LEARNERS[1:]),
    )


def _finding(claim: str, measured: str, verdict: str, expected: bool | None, table: str) -> Finding:
    return Finding(
        claim=claim, source="arXiv 2407.13399", measured=measured, verdict=verdict,
        expected=expected, table=table, computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _bound(violations: pd.DataFrame) -> Finding:
    share = violations["violations"] / violations["datasets"]
    holds = bool((violations["share_low"] <= _DELTA).all())
    tightest = (violations["largest_regret"] / violations["bound"]).max()
    return _finding(
        f"chi2: regret above (eps + beta sqrt(C - 1))^2/(4 beta) in at most {_DELTA:g} of datasets",
        f"largest share {share.max():.3f} over {len(violations)} settings; largest ratio "
        f"regret / bound {tightest:.3f}",
        "holds" if holds else "VIOLATED", holds, "coverage_violations",
    )  # fmt: skip


def _slope(row: pd.Series) -> Finding:
    low, high = row["per_doubling_low"], row["per_doubling_high"]
    return _finding(
        f"{row['learner']}: regret rises with the coverage of "
        + ("the comparator" if row["varies"] == "comparator" else "all policies"),
        f"{row['per_doubling']:+.4f} [{low:+.4f}, {high:+.4f}] per doubling",
        "rises" if low > 0 else "falls" if high < 0 else "no change seen",
        None, "coverage_slopes",
    )  # fmt: skip


def _apart(rows: pd.DataFrame, study: Study, learner: str) -> Finding:
    """Return a comparison with KL, averaged over the coverage of all policies."""
    (_, mine), (x, theirs) = (
        _matrix(rows, study, name, "all policies") for name in (learner, "rlhf-kl")
    )
    d = paired_comparison(mine.mean(axis=1), theirs.mean(axis=1)).difference
    return _finding(
        f"{learner} loses less than rlhf-kl where the comparator has coverage {_COMPARATOR:g}",
        f"difference in regret {d.estimate:+.4f} [{d.low:+.4f}, {d.high:+.4f}], averaged over "
        f"all-policy coverage {x.min():.3g} to {x.max():.3g}",
        "lower" if d.high < 0 else "higher" if d.low > 0 else "no difference seen",
        None, "coverage_regret",
    )  # fmt: skip


def _answer(regret: pd.DataFrame, slopes: pd.DataFrame) -> str:
    parts, worst = [], []
    for learner, title in (("rlhf-kl", "KL"), ("rlhf-chi2", "chi2")):
        own = slopes[(slopes["learner"] == learner) & (slopes["varies"] == "comparator")].iloc[0]
        parts.append(
            f"{own['per_doubling']:+.4f} [{own['per_doubling_low']:+.4f}, "
            f"{own['per_doubling_high']:+.4f}] for {title}"
        )
        held = regret[(regret["learner"] == learner) & (regret["varies"] == "all policies")]
        top = held.loc[held["regret"].idxmax()]
        worst.append(
            f"{title} loses at most {top['regret']:.4f} [{top['regret_low']:.4f}, "
            f"{top['regret_high']:.4f}], at an all-policy coverage of {top['all_policies']:,.0f}"
        )
    return (
        "At its best beta regret changes with every doubling of the comparator's coverage by "
        f"{' and '.join(parts)}; where that stays at {_COMPARATOR:g}, {' and '.join(worst)}."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("coverage",))
