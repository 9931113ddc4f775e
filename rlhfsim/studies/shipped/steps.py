"""Token-level against sequence-level regularization: KL does not see the tokens, chi-squared does.

On a Proposition A.1 whose rare response is rare at every token, charging chi-squared token by token
loses what chi-squared is for; on random sequences it costs coverage, and regret need not show it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rlhfsim.checks import FloatArray
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.statistics import fit_slope, mean_interval, paired_comparison
from rlhfsim.studies.instances import RarePath
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import Along, along, halves

_HERE = "rlhfsim.studies.shipped.steps"
#: Sizes of rare paths, of which one response has probability `1/size`.
SIZES = tuple(10**k for k in range(2, 9))
RANDOM = "random sequences"
#: Numbers of preferences on random sequences; nothing on a rare path depends on them.
_PREFERENCES = (100, 1000, 10_000)
#: How responses of 64 sequences are charged -> the vocabulary that cuts them so.
CHARGED = {"by response": 64, "2 tokens": 8, "3 tokens": 4, "6 tokens": 2}
TABLE = " (table)"
#: Total variation that is rounding alone.
_ROUNDING = 1e-12


def _learner(divergence: str, charged: str, *, table: bool) -> dict[str, Any]:
    """Return a method with a learned table, or with the proxy and smaller betas."""
    fit = {"model": "tabular", "r_max": "range"} if table else {"model": "proxy"}
    grid = [2.0**k for k in (range(-5, 3) if table else range(-16, 1))]
    name = {"kl": "KL", "chi2": "chi2"}[divergence]
    common = {
        "label": f"{name}, {charged}{TABLE if table else ''}", "divergence": divergence,
        "reward": fit, "grid": grid,
    }  # fmt: skip
    if charged == "by response":
        return {"method": "RLHF", **common}
    return {"method": "token-RLHF", "vocabulary": CHARGED[charged], **common}


STUDY = Study.from_dict(
    {
        "name": "steps",
        "title": "Regularization token by token",
        "question": "Does it matter whether a divergence is charged for whole responses or token "
        "by token?",
        "instances": [
            *({"family": "rare-path", "length": 6, "size": size} for size in SIZES),
            {
                "family": "token-sequences", "label": RANDOM, "vocabulary": 2, "length": 6,
                "reward_scale": 2.0, "environments": 80,
            },
        ],
        "learners": [
            *(_learner("kl", charged, table=False) for charged in ("by response", "6 tokens")),
            *(_learner("chi2", charged, table=False) for charged in CHARGED),
            *(
                _learner(divergence, charged, table=True)
                for divergence in ("kl", "chi2")
                for charged in ("by response", "6 tokens")
            ),
        ],
        "n": list(_PREFERENCES),
        "companion": "KL, by response" + TABLE,
        "testing": {"environments": 4, "grid": 9, "n": list(_PREFERENCES[:2])},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return best regrets and their slopes on rare paths, and coverage against beta elsewhere."""
    good = succeeded(rows)
    table = good["learner"].str.endswith(TABLE)
    sizes = {
        label: spec.size
        for label, spec in zip(study.labels[0], study.instances, strict=True)
        if isinstance(spec, RarePath)
    }
    # They are the same for every n: without data, one instance a size.
    rare = good[good["instance"].isin(list(sizes)) & ~table & (good["n"] == study.n[0])]
    rare = rare.assign(size=rare["instance"].map(sizes))
    random = good[(good["instance"] == RANDOM) & table]
    random = random.assign(learner=random["learner"].str.removesuffix(TABLE))
    best, slopes = _rates(rare)
    curves = _curves(random)
    equal = _equal(random)
    against = _against(random, study)
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "seeds": study.seeds, "n": list(study.n)},
        tables={
            "steps_regret": best, "steps_slopes": slopes, "steps_curves": curves,
            "steps_equal": equal, "steps_against": against,
        },
        findings=_findings(slopes, equal, against),
        answer=_answer(slopes, equal, against),
    )  # fmt: skip


# ---- rare paths ---------------------------------------------------------------------------------


def _rates(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the least regret of each learner over beta, and its slope in the size; exact."""
    least = rows.loc[rows.groupby(["learner", "size"], sort=False)["regret"].idxmin()]
    best = least[["learner", "size", "regret", "parameter_value", "concentrability"]]
    best = best.rename(columns={"parameter_value": "beta"}).reset_index(drop=True)
    slopes = []
    for learner, own in best.groupby("learner", sort=False):
        fit = fit_slope(own["size"], own["regret"])
        drift = fit.drift
        assert drift is not None
        slopes.append(
            {
                "learner": learner, "slope": fit.slope.estimate, "slope_low": fit.slope.low,
                "slope_high": fit.slope.high, "drift": drift.estimate,
                "first_regret": own["regret"].iloc[0], "last_regret": own["regret"].iloc[-1],
            }
        )  # fmt: skip
    return best, pd.DataFrame(slopes)


def _cross_chosen(table: Along) -> FloatArray:
    """Return each unit's regret at the beta that is best for the other half."""
    fold = halves(len(table.measured))
    chosen = np.empty(len(fold))
    for own in (0, 1):
        place = int(table.measured[fold != own].mean(axis=0).argmin())
        chosen[fold == own] = table.measured[fold == own, place]
    return chosen


# ---- random sequences ---------------------------------------------------------------------------


def _curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean regret and geometric mean coverage, which a few environments would rule."""
    by = ["learner", "n", "parameter_value"]
    regret = means(rows, by, "regret")
    coverage = means(rows.assign(coverage=np.log(rows["concentrability"])), by, "coverage")
    logs = ["coverage", "coverage_low", "coverage_high"]
    coverage[logs] = np.exp(coverage[logs])
    return regret.merge(coverage, on=[*by, "count"]).rename(columns={"parameter_value": "beta"})


def _equal(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how far KL by token is from KL by response, at most."""
    apart = rows[rows["learner"] == "KL, 6 tokens"]
    found = apart.groupby("n", sort=False)["apart"]
    return pd.DataFrame({"largest": found.max(), "count": found.size()}).reset_index()


def _against(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Compare chi-squared by six tokens with that by response: best regret, coverage at one beta.

    The beta is the one in the middle of the grid.
    """
    found = []
    for n in study.n:
        here = rows[rows["n"] == n]
        token, response = (
            here[here["learner"] == f"chi2, {charged}"] for charged in ("6 tokens", "by response")
        )
        ours, theirs = (_cross_chosen(along(own, "regret")) for own in (token, response))
        wide, narrow = (along(own, "concentrability") for own in (token, response))
        middle = wide.grid.size // 2
        logs = (np.log(table.measured[:, middle]) for table in (wide, narrow))
        lost, wider = paired_comparison(ours, theirs).difference, mean_interval(np.subtract(*logs))
        found.append(
            {
                "n": n, "by_token": float(ours.mean()), "by_response": float(theirs.mean()),
                "difference": lost.estimate, "difference_low": lost.low,
                "difference_high": lost.high, "beta": float(wide.grid[middle]),
                "coverage_ratio": np.exp(wider.estimate), "coverage_low": np.exp(wider.low),
                "coverage_high": np.exp(wider.high), "count": ours.size,
            }
        )  # fmt: skip
    return pd.DataFrame(found)


# ---- findings -----------------------------------------------------------------------------------


def _finding(claim: str, source: str, measured: str, holds: bool | None, table: str) -> Finding:
    verdict = "measured" if holds is None else "holds" if holds else "VIOLATED"
    return Finding(claim, source, measured, verdict, holds, table, f"{_HERE}.analyse")


def _findings(
    slopes: pd.DataFrame, equal: pd.DataFrame, against: pd.DataFrame
) -> tuple[Finding, ...]:
    rate = slopes.set_index("learner")
    largest = float(equal["largest"].max())
    response, token = rate.loc["chi2, by response"], rate.loc["chi2, 6 tokens"]
    wider = against["coverage_low"].min()
    return (
        _finding(
            "KL by token and by response learn the same policy",
            "Cover & Thomas 2006, theorem 2.5.3",
            f"largest total variation {largest:.1e} in {int(equal['count'].sum())} pairs",
            largest <= _ROUNDING, "steps_equal",
        ),
        _finding(
            "chi2 by response at its best beta falls at least as 1/sqrt(n) on rare paths of size n",
            "arXiv 2407.13399, proposition A.1",
            _told(response), bool(response["slope_high"] <= -0.5), "steps_slopes",
        ),
        _finding(
            "KL at its best beta is slower than 1/sqrt(n) on rare paths of size n",
            "arXiv 2407.13399, proposition A.1",
            _told(rate.loc["KL, by response"]),
            bool(rate.loc["KL, by response", "slope_low"] > -0.5), "steps_slopes",
        ),
        _finding(
            "chi2 by six tokens at its best beta is slower than 1/sqrt(n) on rare paths of size n",
            "claim 'the sharp bound with chi-squared by token'",
            _told(token), bool(token["slope_low"] > -0.5), "steps_slopes",
        ),
        *(
            _finding(
                f"chi2 by {charged} at its best beta: the rate on rare paths",
                "claim 'the sharp bound with chi-squared by token'",
                _told(rate.loc[f"chi2, {charged}"]), None, "steps_slopes",
            )
            for charged in ("2 tokens", "3 tokens")
        ),
        _finding(
            f"chi2 by six tokens needs more coverage at beta = {against['beta'].iloc[0]:g} on "
            "random sequences",
            "claim 'coverage of chi-squared by token is exponential in the length'",
            "ratio of C " + ", ".join(_ratio(row) for _, row in against.iterrows()),
            bool(wider > 1.0), "steps_against",
        ),
        *(
            _finding(
                f"random sequences, n = {row['n']:.0f}: regret of chi2 by six tokens less that "
                "by response, each at its best beta",
                "",
                f"{row['by_token']:.3f} against {row['by_response']:.3f}, difference "
                f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, "
                f"{row['difference_high']:+.3f}]",
                None, "steps_against",
            )
            for _, row in against.iterrows()
        ),
    )  # fmt: skip


def _ratio(row: pd.Series) -> str:
    low, high = row["coverage_low"], row["coverage_high"]
    return f"{row['coverage_ratio']:.2f} [{low:.2f}, {high:.2f}] at n = {row['n']:.0f}"


def _told(row: pd.Series) -> str:
    return f"slope {row['slope']:.2f} [{row['slope_low']:.2f}, {row['slope_high']:.2f}]"


def _answer(slopes: pd.DataFrame, equal: pd.DataFrame, against: pd.DataFrame) -> str:
    rate = slopes.set_index("learner")
    told = ", ".join(f"{charged} {_told(rate.loc[f'chi2, {charged}'])}" for charged in CHARGED)
    last = against.iloc[-1]
    return (
        f"With KL it does not: the policies differ by {equal['largest'].max():.0e} in total "
        "variation.  With chi2 it does: where what is rare is rare at every token, log regret at "
        f"the best beta has against the log of how rare, charged {told}, while KL has "
        f"{_told(rate.loc['KL, by response'])}; on random sequences, at n = {last['n']:.0f}, six "
        f"tokens need {last['coverage_ratio']:.2f} times the coverage at the same beta and have "
        f"{last['difference']:+.3f} [{last['difference_low']:+.3f}, "
        f"{last['difference_high']:+.3f}] more regret at the best."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("steps",))
