"""Which form overoptimization curves have: Gao et al.'s two and rivals, fitted to exact curves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rlhfsim.checks import FloatArray
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.inference import best_of_n_kl_formula
from rlhfsim.statistics import (
    BEST_OF_N,
    FORMS,
    RL,
    Form,
    FormComparison,
    FormError,
    Interval,
    compare_forms,
    fit_form,
    proportion_interval,
)
from rlhfsim.studies.shipped.base import Shipped, succeeded
from rlhfsim.studies.study import Study

_HERE = "rlhfsim.studies.shipped.forms"
_METHODS = ("best-of-n", "rlhf-kl", "rlhf-chi2", "rlhf-mixed")
_REWARD = {"model": "tabular", "ridge": 0.1}
_COMMON = {"prompts": 20, "reward_scale": 2.0, "environments": 30}
#: Points of a curve are at least this part of its length apart in `sqrt(KL)`.
SPACING = 1.0 / 40.0
#: Of the range of the gain: a form within it is called close.
CLOSE = 0.05
#: Part of the distances to which a form is fitted to predict the rest.
FIRST = 2.0 / 3.0
#: For `gain / d` at the largest beta, which stands for the limit.
_SLOPE_TOLERANCE = 0.01

STUDY = Study.from_dict(
    {
        "name": "forms",
        "title": "Forms of overoptimization curves",
        "question": "How well do d (a - b d) and d (a - b log d), d = sqrt(KL), fit exact curves "
        "of the gold gain, and which rivals fit better?",
        "instances": [
            _COMMON | {"family": "random", "responses": 20, "label": "uniform rewards"},
            _COMMON
            | {
                "family": "random", "responses": 20, "reward_law": "heavy-tailed",
                "label": "heavy-tailed rewards",
            },
            _COMMON | {"family": "zipf", "responses": 50, "exponent": 1.5, "label": "Zipf"},
            _COMMON
            | {"family": "rare-best", "responses": 20, "coverage": 64.0, "label": "rare best"},
        ],
        "learners": [
            {
                "method": "best-of-N", "label": "best-of-n", "reward": _REWARD,
                "grid": sorted({round(2.0 ** (k / 4)) for k in range(61)}),
            },
            {"method": "RLHF", "label": "rlhf-kl", "divergence": "kl", "reward": _REWARD},
            {"method": "RLHF", "label": "rlhf-chi2", "divergence": "chi2", "reward": _REWARD},
            {"method": "RLHF", "label": "rlhf-mixed", "divergence": "chi2 + kl", "reward": _REWARD},
        ],
        "n": [1000],
        "beta": {"start": 1e-3, "stop": 1e3, "points": 121},
        "testing": {"environments": 1, "grid": 31},
    }
)  # fmt: skip


class Curve(NamedTuple):
    """The exact curve of one method on one dataset of one environment."""

    #: `instance`, `environment`, `n` and `learner`.
    key: dict[str, Any]
    #: `sqrt(KL)`, increasing, thinned.
    d: FloatArray
    gain: FloatArray


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return the fits of all forms to all curves, which one wins, and an example."""
    good = succeeded(rows)
    compared = [(curve, compare_forms(curve.d, curve.gain)) for curve in _curves(good)]
    fits = pd.DataFrame([row for curve, found in compared for row in _fits(curve, found)])
    summary = _summary(fits)
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={
            "cells": study.cells, "seeds": study.seeds, "n": list(study.n),
            "curves": len(compared), "spacing": SPACING,
        },
        tables={
            "forms_fits": fits, "forms_summary": summary, "forms_examples": _examples(compared),
        },
        findings=_findings(good, fits, summary),
        answer=_answer(fits, summary),
    )  # fmt: skip


# ---- curves and fits ----------------------------------------------------------------------------


def _curves(rows: pd.DataFrame) -> Iterator[Curve]:
    index = ["instance", "environment", "n", "seed", "learner"]
    for key, own in rows.groupby(index, sort=False):
        d = np.sqrt(own["kl"].to_numpy())
        order = np.argsort(d, kind="stable")
        d, gain = d[order], own["gain"].to_numpy()[order]
        kept = thinned(d, SPACING * float(d[-1]))
        yield Curve(dict(zip(index, key, strict=True)), d[kept], gain[kept])


def thinned(d: FloatArray, spacing: float) -> list[int]:
    """Return the places of the first of the increasing `d`, and of each that is `spacing` further.

    A grid of beta has most of its points near the ends of a curve, where they would decide the fit.
    """
    kept = [0]
    for place in range(1, d.size):
        if d[place] - d[kept[-1]] >= spacing:
            kept.append(place)
    return kept


def _fits(curve: Curve, found: FormComparison) -> Iterator[dict[str, Any]]:
    """Return one row per form; the numbers of one that could not be fitted are NaN."""
    best = int(curve.gain.argmax())
    weights = {f.form.name: w for f, w in zip(found.fits, found.weights, strict=True)}
    fitted = {f.form.name: f for f in found.fits}
    for form in FORMS:
        row: dict[str, Any] = {**curve.key, "form": form.name, "points": curve.d.size}
        fit = fitted.get(form.name)
        row |= {
            "fitted": fit is not None,
            "wins": form.name == found.best.form.name,
            "weight": weights.get(form.name, 0.0),
            "r_squared": np.nan if fit is None else fit.r_squared,
            "largest_residual": np.nan if fit is None else fit.residual_checks.largest,
            "durbin_watson": np.nan if fit is None else fit.residual_checks.durbin_watson,
            "durbin_watson_p": np.nan if fit is None else fit.residual_checks.durbin_watson_p,
            "runs_p": np.nan if fit is None else fit.residual_checks.runs_p,
            "ahead": _ahead(form, curve),
            "d_peak": curve.d[best],
            "falls_by": (curve.gain[best] - curve.gain[-1]) / np.ptp(curve.gain),
        }
        yield row


def _ahead(form: Form, curve: Curve) -> float:
    """Return the error at the last point of a form fitted to the first part, over the range.

    NaN where the first part does not determine the form.
    """
    first = curve.d <= FIRST * curve.d[-1]
    if first.sum() < len(form.parameters) + 3:
        return float("nan")
    try:
        fit = fit_form(form, curve.d[first], curve.gain[first])
    except FormError:
        return float("nan")
    missed = float(fit(curve.d[-1:])[0]) - curve.gain[-1]
    return float(abs(missed) / np.ptp(curve.gain))


def _summary(fits: pd.DataFrame) -> pd.DataFrame:
    """Return, for each method and form, how often it wins and how close it is."""
    found = []
    for (method, form), own in fits.groupby(["learner", "form"], sort=False):
        wins = proportion_interval(int(own["wins"].sum()), len(own))
        near = proportion_interval(int((own["largest_residual"] <= CLOSE).sum()), len(own))
        residual = own["largest_residual"].dropna()
        low, middle, high = residual.quantile([0.1, 0.5, 0.9]) if len(residual) else [np.nan] * 3
        found.append(
            {
                "learner": method, "form": form, "curves": len(own),
                "fitted": int(own["fitted"].sum()),
                "wins": wins.estimate, "wins_low": wins.low, "wins_high": wins.high,
                "close": near.estimate, "close_low": near.low, "close_high": near.high,
                "residual": middle, "residual_10": low, "residual_90": high,
                "residual_largest": residual.max(),
                "patterned": int((own["durbin_watson_p"] < 0.01).sum()),
                "ahead": own["ahead"].median(), "ahead_count": int(own["ahead"].notna().sum()),
            }
        )  # fmt: skip
    return pd.DataFrame(found)


def _examples(compared: list[tuple[Curve, FormComparison]]) -> pd.DataFrame:
    """Return the first curve of each method, and what each form makes of it."""
    tables = []
    for method in _METHODS:
        curve, found = next(pair for pair in compared if pair[0].key["learner"] == method)
        d = np.linspace(0.0, float(curve.d[-1]), 101)
        shown = [("exact", curve.d, curve.gain), *((f.form.name, d, f(d)) for f in found.fits)]
        tables += [
            pd.DataFrame(
                {
                    "learner": method, "instance": curve.key["instance"], "curve": name, "d": x,
                    "gain": y, "wins": name == found.best.form.name,
                }
            )
            for name, x, y in shown
        ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


# ---- findings -----------------------------------------------------------------------------------


def _finding(
    claim: str, measured: str, verdict: str, expected: bool | None, table: str,
    source: str = "arXiv 2210.10760",
) -> Finding:  # fmt: skip
    return Finding(
        claim=claim, source=source, measured=measured, verdict=verdict, expected=expected,
        table=table, computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _findings(rows: pd.DataFrame, fits: pd.DataFrame, summary: pd.DataFrame) -> tuple[Finding, ...]:
    return (
        _kl_bound(rows),
        _slopes(rows),
        *(_close(summary, method, form) for method, form in _own_forms()),
        *(_rivals(fits, method) for method in _METHODS),
        _patterned(fits),
        *(_winner(summary, method) for method in _METHODS),
        _ahead_of(summary),
    )


def _own_forms() -> tuple[tuple[str, Form], ...]:
    """Return Gao et al.'s form for each method: theirs for RL stands for every regularizer."""
    return tuple((m, BEST_OF_N if m == "best-of-n" else RL) for m in _METHODS)


def _kl_bound(rows: pd.DataFrame) -> Finding:
    own = rows[rows["learner"] == "best-of-n"]
    bound = best_of_n_kl_formula(own["parameter_value"].to_numpy())
    over = float((own["kl"].to_numpy() - bound).max())
    holds = over <= 1e-9
    return _finding(
        "the KL of best-of-N is at most log N - (N - 1)/N",
        f"largest excess {over:.1e} nats in {len(own)} cells",
        "holds" if holds else "VIOLATED", holds, "forms_fits", "arXiv 2401.01879",
    )  # fmt: skip


def _slopes(rows: pd.DataFrame) -> Finding:
    """Return whether gain over d has one finite limit as beta grows, for every regularizer.

    All of them are `1 + r / beta` to first order, so that it is `sqrt(2) Cov(r*, r) / Std(r)`;
    `d (a - b log d)` has no finite slope unless b is 0.
    """
    own = rows[rows["learner"] != "best-of-n"]
    weak = own[own["parameter_value"] == own["parameter_value"].max()]
    slope = (weak["gain"] / np.sqrt(weak["kl"])).groupby(
        [weak["instance"], weak["environment"], weak["n"], weak["seed"]]
    )
    apart = float(((slope.max() - slope.min()) / slope.max().abs()).max())
    holds = apart <= _SLOPE_TOLERANCE
    return _finding(
        "KL, chi2 and their sum start with the same finite slope of the gain in d",
        f"slopes at beta = {weak['parameter_value'].iloc[0]:g} differ by at most {100 * apart:.2f} "
        f"% over {slope.ngroups} datasets",
        "holds" if holds else "VIOLATED", holds, "forms_fits", "first order in 1/beta",
    )  # fmt: skip


def _row(summary: pd.DataFrame, method: str, form: str) -> pd.Series:
    return summary[(summary["learner"] == method) & (summary["form"] == form)].iloc[0]


def _close(summary: pd.DataFrame, method: str, form: Form) -> Finding:
    row = _row(summary, method, form.name)
    return _finding(
        f"{form.formula} is within {100 * CLOSE:.0f} % of the range on the whole curve of {method}",
        f"on a share {row['close']:.2f} [{row['close_low']:.2f}, {row['close_high']:.2f}] of "
        f"{row['curves']} curves; largest residual: median {100 * row['residual']:.1f} %, at most "
        f"{100 * row['residual_largest']:.0f} % of the range",
        "mostly" if row["close_low"] > 0.5 else "mostly not" if row["close_high"] < 0.5
        else "undecided", None, "forms_summary",
    )  # fmt: skip


def _better(fits: pd.DataFrame, method: str) -> Interval:
    """Return the share of curves that `d (a - b d)` fits better than `d (a - b log d)`.

    Both have two parameters: the smaller sum of squares is the smaller AICc.
    """
    own = fits[fits["learner"] == method]
    one, other = (
        own.loc[own["form"] == form.name, "r_squared"].to_numpy() for form in (BEST_OF_N, RL)
    )
    return proportion_interval(int((one > other).sum()), one.size)


def _rivals(fits: pd.DataFrame, method: str) -> Finding:
    share = _better(fits, method)
    return _finding(
        f"{BEST_OF_N.formula} fits curves of {method} better than {RL.formula}",
        f"on a share {share.estimate:.2f} [{share.low:.2f}, {share.high:.2f}] of "
        f"{(fits['wins'] & (fits['learner'] == method)).sum()} curves",
        "mostly" if share.low > 0.5 else "mostly not" if share.high < 0.5 else "undecided", None,
        "forms_fits",
    )  # fmt: skip


def _patterned(fits: pd.DataFrame) -> Finding:
    """Return how often the residuals of the winner follow a curve, method by method."""
    own = fits[fits["wins"]]
    shares = {
        method: proportion_interval(int((one["durbin_watson_p"] < 0.01).sum()), len(one))
        for method, one in own.groupby("learner", sort=False)
    }
    lows, highs = [s.low for s in shares.values()], [s.high for s in shares.values()]
    return _finding(
        "even the form that wins leaves a curve in the residuals",
        "Durbin-Watson p < 0.01, where without noise all of the residual is misfit, on a share "
        + ", ".join(
            f"{share.estimate:.2f} [{share.low:.2f}, {share.high:.2f}] of {method}"
            for method, share in shares.items()
        ),
        "mostly" if min(lows) > 0.5 else "mostly not" if max(highs) < 0.5 else "undecided", None,
        "forms_fits",
    )  # fmt: skip


def _winner(summary: pd.DataFrame, method: str) -> Finding:
    own = summary[summary["learner"] == method].sort_values("wins", ascending=False, kind="stable")
    parts = ", ".join(
        f"{r['form']} {r['wins']:.2f} [{r['wins_low']:.2f}, {r['wins_high']:.2f}]"
        for _, r in own.head(3).iterrows()
    )
    return _finding(
        f"which form has the smallest AICc on curves of {method}",
        f"shares of {own['curves'].iloc[0]} curves: {parts}; AICc takes residuals as independent, "
        "which those of exact curves are not",
        str(own["form"].iloc[0]), None, "forms_summary",
    )  # fmt: skip


def _ahead_of(summary: pd.DataFrame) -> Finding:
    rows = [_row(summary, method, form.name) for method, form in _own_forms()]
    parts = ", ".join(
        f"{row['learner']} {100 * row['ahead']:.0f} % ({row['ahead_count']} curves)"
        for row in rows
        if row["ahead_count"]
    )
    return _finding(
        f"a form fitted to the first {FIRST:.2f} of the distances predicts the end of the curve",
        f"median error over the range, by the method's own form: {parts or 'no curve long enough'}",
        "measured", None, "forms_summary",
    )  # fmt: skip


def _answer(fits: pd.DataFrame, summary: pd.DataFrame) -> str:
    parts = []
    for method, form in _own_forms()[:2]:
        row = _row(summary, method, form.name)
        own = summary[summary["learner"] == method]
        best = own.loc[own["wins"].idxmax()]
        parts.append(
            f"on {row['curves']} curves of {method} {form.formula} misses by at most "
            f"{100 * CLOSE:.0f} % of the range on a share {row['close']:.2f} "
            f"[{row['close_low']:.2f}, {row['close_high']:.2f}] (median largest residual "
            f"{100 * row['residual']:.1f} %), and {best['form']} has the smallest AICc most often, "
            f"on {best['wins']:.2f} [{best['wins_low']:.2f}, {best['wins_high']:.2f}]"
        )
    wins = fits[fits["wins"]]["largest_residual"]
    share = _better(fits, "rlhf-kl")
    return (
        f"{parts[0][:1].upper()}{parts[0][1:]}; {parts[1]}, and {BEST_OF_N.formula} fits "
        f"better on {share.estimate:.2f} [{share.low:.2f}, {share.high:.2f}]; over all {len(wins)} "
        f"curves the winner's own largest residual has median {100 * wins.median():.1f} % and is "
        f"at most {100 * wins.max():.0f} % of the range."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("forms",))
