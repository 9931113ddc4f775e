"""Best-of-N, soft best-of-N and chi-squared pessimism at inference time, as the draws grow."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.randomness import generator_for
from rlhfsim.statistics import Interval, mean_interval, paired_comparison, stratified_bootstrap
from rlhfsim.studies.instances import Decoys
from rlhfsim.studies.methods import InferenceTimePessimismMethod, SoftBestOfNMethod
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import cross_fitted, halves

_HERE = "rlhfsim.studies.shipped.inference"
_DRAWS = [2**k for k in range(17)]
_FIT = {"model": "tabular", "r_max": "range"}
_STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
_TEMPERATURES = (0.03, 0.1, 0.3)
_PESSIMISM = "inference-time-pessimism"
#: Differences of gains below it are rounding, in reward units.
_ROUNDING = 1e-9

STUDY = Study.from_dict(
    {
        "name": "inference",
        "title": "Choosing among draws at inference time",
        "question": "By a learned reward, at how many draws does best-of-N gain most, how does "
        "that depend on coverage, and does pessimism at inference time keep the gain?",
        "instances": [
            {
                "family": "decoys", "responses": 12, "decoys": 8, "gap": 0.2, "class_size": 1,
                "reward_scale": 2.0, "coverage": float(coverage), "decoy_coverage": 4096.0,
                "environments": 150,
            }
            for coverage in (2, 8, 32, 128, 512)
        ],
        "learners": [
            {"method": "best-of-N", "label": "best-of-n", "reward": _FIT, "grid": _DRAWS},
            *(
                {"method": "soft-best-of-N", "label": f"soft best-of-N, temperature {t:g}",
                 "reward": _FIT, "temperature": t, "grid": _DRAWS}
                for t in _TEMPERATURES
            ),
            *(
                {"method": "inference-time-pessimism", "label": f"pessimism, beta {b:g}",
                 "reward": _FIT, "beta": b, "grid": _DRAWS}
                for b in _STRENGTHS
            ),
            {"method": "RLHF", "label": "rlhf-chi2", "divergence": "chi2", "reward": _FIT,
             "grid": _STRENGTHS},
            {"method": "RLHF", "label": "rlhf-kl", "divergence": "kl", "reward": _FIT,
             "grid": _TEMPERATURES},
        ],
        "n": [1000],
        "testing": {"environments": 6, "grid": 5},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return gain against draws, the peaks, and regrets at parameters chosen elsewhere."""
    good = _described(succeeded(rows), study)
    curves = means(good, ["coverage", "method", "strength", "draws"], "gain")
    peaks = pd.DataFrame(
        [
            {"coverage": coverage, "method": method, "strength": strength}
            | _peak(own, f"{coverage} {method} {strength}", study)
            for (coverage, method, strength), own in good[np.isfinite(good["draws"])].groupby(
                ["coverage", "method", "strength"], sort=False
            )
        ]
    )
    tuned = pd.DataFrame(
        [row for coverage, own in good.groupby("coverage") for row in _tuned(coverage, own)]
    )
    growth = _growth(good, study)
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "seeds": study.seeds, "n": list(study.n)},
        tables={
            "inference_curves": curves, "inference_peaks": peaks, "inference_tuned": tuned,
            "inference_growth": pd.DataFrame(
                [{"slope": growth.estimate, "slope_low": growth.low, "slope_high": growth.high,
                  "method": growth.method}]
            ),
        },
        findings=_findings(good, peaks, tuned, growth),
        answer=_answer(peaks, tuned, growth),
    )  # fmt: skip


def _described(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return the cells with coverage, method, its strength and its draws, inf without a limit."""
    coverage = {
        label: spec.coverage
        for label, spec in zip(study.labels[0], study.instances, strict=True)
        if isinstance(spec, Decoys)
    }
    method, strength = {}, {}
    for label, spec in zip(study.labels[1], study.learners, strict=True):
        if isinstance(spec, SoftBestOfNMethod):
            method[label], strength[label] = "soft-best-of-n", spec.temperature
        elif isinstance(spec, InferenceTimePessimismMethod):
            method[label], strength[label] = _PESSIMISM, spec.beta
        else:
            method[label], strength[label] = label, 0.0
    limited = (rows["parameter"] == "draws").to_numpy()
    value = rows["parameter_value"].to_numpy()
    return rows.assign(
        coverage=rows["instance"].map(coverage),
        method=rows["learner"].map(method),
        strength=np.where(limited, rows["learner"].map(strength), value),
        draws=np.where(limited, value, np.inf),
    )


# ---- where the gain is largest ------------------------------------------------------------------


def _by_environment(rows: pd.DataFrame, columns: list[str], metric: str) -> pd.DataFrame:
    """Return one row per environment and one column per setting; every place is filled."""
    # No two cells share a place: the mean that a pivot table takes is of one.
    return rows.pivot_table(index="environment", columns=columns, values=metric).dropna()


def _peak(rows: pd.DataFrame, name: str, study: Study) -> dict[str, float]:
    """Return the draws of the largest mean gain, and how far the gain falls behind them."""
    table = _by_environment(rows, ["draws"], "gain")
    draws, gain = table.columns.to_numpy(dtype=np.float64), table.to_numpy()
    peak = stratified_bootstrap(
        gain, None, lambda s: draws[_first_best(s.mean(axis=1))],
        generator_for(study.name, f"peak {name}", 0), resamples=1000, method="percentile",
    )  # fmt: skip
    # The largest of several means is too large on average: the other half chooses the draws.
    at_peak = -cross_fitted(-gain, halves(len(gain)))
    best, fall = mean_interval(at_peak), mean_interval(at_peak - gain[:, -1])
    return {
        "peak": peak.estimate,
        "peak_low": peak.low,
        "peak_high": peak.high,
        "gain": best.estimate,
        "gain_low": best.low,
        "gain_high": best.high,
        "last_draws": float(draws[-1]),
        "last_gain": float(gain[:, -1].mean()),
        "fall": fall.estimate,
        "fall_low": fall.low,
        "fall_high": fall.high,
        "count": len(gain),
    }


def _first_best(gain: FloatArray) -> IntArray:
    """Return the first place of each row that has its largest gain, but for rounding."""
    return np.asarray((gain >= gain.max(axis=1, keepdims=True) - _ROUNDING).argmax(axis=1))


def _growth(rows: pd.DataFrame, study: Study) -> Interval:
    """Return by how many doublings the peak of best-of-N moves when coverage doubles."""
    tables = {
        coverage: _by_environment(own, ["draws"], "gain")
        for coverage, own in rows[rows["method"] == "best-of-n"].groupby("coverage")
    }
    doublings = np.log2(next(iter(tables.values())).columns.to_numpy(dtype=np.float64))
    x = np.log2(np.array(list(tables), dtype=np.float64))
    weights = (x - x.mean()) / np.square(x - x.mean()).sum()
    strata = np.repeat(np.arange(x.size), [len(table) for table in tables.values()])

    def slope(samples: FloatArray) -> FloatArray:
        peaks = [
            doublings[_first_best(samples[:, strata == k].mean(axis=1))] for k in range(x.size)
        ]
        return np.asarray(np.stack(peaks, axis=1) @ weights)

    return stratified_bootstrap(
        np.concatenate([table.to_numpy() for table in tables.values()]), strata, slope,
        generator_for(study.name, "growth", 0), resamples=1000, method="percentile",
    )  # fmt: skip


# ---- parameters that other environments chose ---------------------------------------------------


def _tuned(coverage: float, rows: pd.DataFrame) -> list[dict[str, object]]:
    """Return the regret of each method, its parameters chosen by the other half."""
    most = rows.loc[np.isfinite(rows["draws"]), "draws"].max()
    last = rows[rows["draws"].isin([most, np.inf])]
    regrets: dict[tuple[str, str], FloatArray] = {}
    for chosen, cells in (("with the draws", rows), ("most draws", last)):
        for method, own in cells.groupby("method", sort=False):
            table = _by_environment(own, ["strength", "draws"], "regret").to_numpy()
            regrets[str(method), chosen] = cross_fitted(table, halves(len(table)))
    base = regrets["best-of-n", "with the draws"]
    found = []
    for (method, chosen), regret in regrets.items():
        if method.startswith("rlhf") and chosen == "most draws":
            continue
        mean, apart = mean_interval(regret), paired_comparison(regret, base).difference
        found.append(
            {
                "coverage": coverage, "method": method, "chosen": chosen,
                "regret": mean.estimate, "regret_low": mean.low, "regret_high": mean.high,
                "difference": apart.estimate, "difference_low": apart.low,
                "difference_high": apart.high, "count": regret.size,
            }
        )  # fmt: skip
    return found


# ---- findings -----------------------------------------------------------------------------------


def _finding(claim: str, measured: str, verdict: str, expected: bool | None, table: str) -> Finding:
    return Finding(
        claim=claim, source="arXiv 2503.21878", measured=measured, verdict=verdict,
        expected=expected, table=table, computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _findings(
    rows: pd.DataFrame, peaks: pd.DataFrame, tuned: pd.DataFrame, growth: Interval
) -> tuple[Finding, ...]:
    best = peaks[peaks["method"] == "best-of-n"]
    pessimistic = peaks[peaks["method"] == _PESSIMISM]
    falls = int((best["fall_low"] > _ROUNDING).sum())
    fallen = int((pessimistic["fall_low"] > _ROUNDING).sum())
    return (
        _ratios(rows),
        _limit(rows),
        _finding(
            "the gain of best-of-N falls behind its peak",
            f"at {falls} of {len(best)} coverages the 95% interval of the fall to "
            f"N = {best['last_draws'].iloc[0]:.0f} is above 0; falls from "
            f"{best['fall'].min():.3f} to {best['fall'].max():.3f}",
            "at every coverage" if falls == len(best) else f"at {falls} of {len(best)}", None,
            "inference_peaks",
        ),
        _finding(
            "the gain of pessimism at a fixed beta does not fall as the draws grow",
            f"largest mean fall {pessimistic['fall'].max():.4f} over {len(pessimistic)} pairs of "
            f"coverage and beta; {fallen} intervals are above 0",
            "falls seen" if fallen else "no fall seen", None, "inference_peaks",
        ),
        _finding(
            "the peak of best-of-N moves out as the comparator's coverage grows",
            f"doublings of N per doubling of coverage {growth.estimate:.2f} "
            f"[{growth.low:.2f}, {growth.high:.2f}]",
            "moves out" if growth.low > 0 else "no movement seen", None, "inference_growth",
        ),
        _compared(tuned),
    )  # fmt: skip


def _ratios(rows: pd.DataFrame) -> Finding:
    """Return whether density ratios are at most the number of draws."""
    own = rows[np.isfinite(rows["draws"])]
    # Pessimism takes one more draw when it rejected all.
    spent = own["draws"] + (own["method"] == _PESSIMISM)
    largest = float((own["max_concentrability"] / spent).max())
    holds = largest <= 1.0 + 1e-9
    return _finding(
        "no density ratio exceeds the number of draws",
        f"largest ratio over draws {largest:.6f} in {len(own)} cells",
        "holds" if holds else "VIOLATED", holds, "inference_curves",
    )  # fmt: skip


def _limit(rows: pd.DataFrame) -> Finding:
    """Return whether pessimism with all draws is the chi-squared optimum of the same beta."""
    own, target = rows[rows["method"] == _PESSIMISM], rows[rows["method"] == "rlhf-chi2"]
    index = ["coverage", "environment", "strength"]
    last = own[own["draws"] == own["draws"].max()].set_index(index)["gain"]
    apart = float((last - target.set_index(index)["gain"]).abs().max())
    holds = apart <= 1e-6
    return _finding(
        "with many draws pessimism is RLHF with chi-squared at the same beta",
        f"largest difference in gain {apart:.1e} at N = {own['draws'].max():.0f}, over "
        f"{len(last)} fits",
        "holds" if holds else "VIOLATED", holds, "inference_curves",
    )  # fmt: skip


def _pessimistic(tuned: pd.DataFrame) -> pd.DataFrame:
    return tuned[(tuned["method"] == _PESSIMISM) & (tuned["chosen"] == "most draws")]


def _compared(tuned: pd.DataFrame) -> Finding:
    own = _pessimistic(tuned)
    lower = int((own["difference_high"] < -_ROUNDING).sum())
    higher = int((own["difference_low"] > _ROUNDING).sum())
    shown = ", ".join(
        f"{row['coverage']:g}: {row['difference']:+.3f} "
        f"[{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"
        for _, row in own.iterrows()
    )
    return _finding(
        "pessimism with the most draws loses as little as best-of-N at the best N",
        f"difference in regret, both tuned on other environments, by coverage: {shown}",
        f"lower at {lower}, higher at {higher} of {len(own)} coverages", None, "inference_tuned",
    )  # fmt: skip


def _answer(peaks: pd.DataFrame, tuned: pd.DataFrame, growth: Interval) -> str:
    best = peaks[peaks["method"] == "best-of-n"].sort_values("coverage")
    first, last = best.iloc[0], best.iloc[-1]

    def mean(method: str, chosen: str) -> float:
        rows = tuned[(tuned["method"] == method) & (tuned["chosen"] == chosen)]
        return float(rows["regret"].mean())

    lower = int((_pessimistic(tuned)["difference_high"] < -_ROUNDING).sum())
    return (
        f"The gain of best-of-N peaks at N = {first['peak']:.0f} where the best response has "
        f"coverage {first['coverage']:g} and at {last['peak']:.0f} where it has "
        f"{last['coverage']:g} ({growth.estimate:.2f} doublings [{growth.low:.2f}, "
        f"{growth.high:.2f}] per doubling of coverage), and at N = {first['last_draws']:.0f} it "
        f"has fallen by {first['fall']:.2f} [{first['fall_low']:.2f}, {first['fall_high']:.2f}] "
        f"and {last['fall']:.2f} [{last['fall_low']:.2f}, {last['fall_high']:.2f}]; with that many "
        f"draws and tuned beta the mean regret over coverages of pessimism is "
        f"{mean(_PESSIMISM, 'most draws'):.3f}, that of best-of-N "
        f"{mean('best-of-n', 'most draws'):.3f}, and at a tuned N "
        f"{mean('best-of-n', 'with the draws'):.3f} (paired 95% intervals have pessimism below it "
        f"at {lower} of {len(best)} coverages)."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("inference",))
