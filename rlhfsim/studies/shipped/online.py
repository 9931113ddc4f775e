"""Online and hybrid RLHF with linear rewards: what the second response of a comparison is for.

On one family the best responses stand in a direction of the features that the reference hardly
plays; on the other the reference covers everything.  Explorations differ in where the second
response comes from; offline data are comparisons of the reference with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from rlhfsim.findings import Finding, StudyResult
from rlhfsim.randomness import generator_for
from rlhfsim.statistics import PairedComparison, bootstrap_slope, paired_comparison
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.study import Study

_HERE = "rlhfsim.studies.shipped.online"
_SOURCE = "arXiv 2312.11456"

MISSED, COVERED = "missed direction", "covered"
#: Offline comparisons.
NONE, SOME = 0, 500
BETA, RADIUS, BATCH = 0.1, 5.0, 50
ENHANCER, DPO = "enhancer", "iterated DPO"
FROM_REFERENCE, UNIFORM = "from the reference", "uniform"
THOMPSON, ENSEMBLE = "Thompson", "bootstrap ensemble"
#: What is added to the labels of methods whose anchor moves, and of those with large batches.
MOVING, BATCHES = ", moving", ", batches"
#: Explorations around a fixed reference, one comparison a round.
PLAIN = (ENHANCER, UNIFORM, THOMPSON, ENSEMBLE, FROM_REFERENCE, DPO)

_ROUNDS = (1, 3, 10, 30, 100, 300, 1000)
_FEW = (1, 2, 6, 20)
_CUMULATIVE = "cumulative_regularized_regret"
_MEASURES = ("cumulative_regret", _CUMULATIVE)
#: Comparisons from which slopes are fitted.
_FROM = 30


def _method(label: str, exploration: str, **settings: Any) -> dict[str, Any]:
    return {
        "method": "online-RLHF", "label": label, "exploration": exploration, "beta": BETA,
        "grid": _ROUNDS,
    } | settings  # fmt: skip


_BOTH = ((ENHANCER, "enhancer"), (DPO, "on-policy"))

STUDY = Study.from_dict(
    {
        "name": "online",
        "title": "Choosing what is compared",
        "question": "How much does it matter where the second response of an online comparison "
        "comes from, with and without offline data, around a fixed or a moving reference?",
        "instances": [
            {"family": "missed-direction", "label": MISSED, "prompts": 4, "responses": 20,
             "dimension": 5, "coverage": 3000.0, "rare": 2, "environments": 60},
            {"family": "log-linear", "label": COVERED, "prompts": 4, "responses": 20,
             "dimension": 5, "norm": 3.0, "environments": 60},
        ],
        "learners": [
            _method(ENHANCER, "enhancer", radius=RADIUS),
            _method(UNIFORM, "uniform"),
            _method(THOMPSON, "laplace"),
            _method(ENSEMBLE, "bootstrap", members=10),
            _method(FROM_REFERENCE, "reference"),
            _method(DPO, "on-policy"),
            *(_method(label + MOVING, how, moving=True) for label, how in _BOTH),
            *(
                _method(label + BATCHES + more, how, batch=BATCH, grid=_FEW, moving=bool(more))
                for label, how in _BOTH
                for more in ("", MOVING)
            ),
        ],
        "n": [NONE, SOME],
        "seeds": 1,
        "measures": _MEASURES,
        "testing": {"environments": 3, "grid": 3},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return regrets against comparisons, their slopes, and methods compared in pairs."""
    batch = {spec.label: getattr(spec, "batch", 1) for spec in study.learners}
    good = succeeded(rows)
    made = good["parameter_value"] * good["learner"].map(batch)
    good = good.assign(comparisons=made.astype(float))
    by = ["instance", "n", "learner", "comparisons"]
    curves = means(good, by, "regret")
    for metric in _MEASURES:
        curves = curves.merge(means(good, by, metric), on=[*by, "count"])
    plain = good[(good["n"] == NONE) & good["learner"].isin(PLAIN)]
    last = good[good["comparisons"] == good.groupby("learner")["comparisons"].transform("max")]
    tables = {
        "online_curves": curves,
        "online_slopes": pd.DataFrame(
            [_slope(place, own, study) for place, own in plain.groupby(by[:3], sort=False)]
        ),
        "online_pairs": pd.DataFrame([_pair(last, *asked) for asked in _ASKED]),
    }
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "beta": BETA, "radius": RADIUS, "offline": SOME,
                  "batches of": BATCH},
        tables=tables,
        findings=_findings(tables),
        answer=_answer(tables),
    )  # fmt: skip


def _slope(place: Any, rows: pd.DataFrame, study: Study) -> dict[str, object]:
    """Return the exponent of the cumulative regularized regret in the comparisons."""
    instance, n, learner = place
    late = rows[rows["comparisons"] >= _FROM]
    runs = late.pivot_table(
        index=["environment", "seed"], columns="comparisons", values=_CUMULATIVE
    )
    rng = generator_for(study.name, f"bootstrap {instance} {n} {learner}", 0)
    sizes = np.asarray(runs.columns, dtype=np.float64)
    if sizes.size < 3:
        low = middle = high = np.nan
    else:
        fit = bootstrap_slope(sizes, runs.to_numpy(), rng, resamples=1000, method="percentile")
        low, middle, high = fit.slope.low, fit.slope.estimate, fit.slope.high
    return {
        "instance": instance, "n": n, "learner": learner, "slope": middle, "slope_low": low,
        "slope_high": high, "count": len(runs),
    }  # fmt: skip


# ---- comparisons ---------------------------------------------------------------------------------

#: Instance, measure, and two pairs of (learner, n) of which the first should have less.
_Asked = tuple[str, str, tuple[str, int], tuple[str, int]]

_ASKED: tuple[_Asked, ...] = (
    *(
        (MISSED, "regret", (ENHANCER, n), (other, n))
        for n in (NONE, SOME)
        for other in (DPO, FROM_REFERENCE)
    ),
    *((MISSED, _CUMULATIVE, (ENHANCER, NONE), (other, NONE)) for other in PLAIN[1:4]),
    *((COVERED, _CUMULATIVE, (ENHANCER, NONE), (other, NONE)) for other in PLAIN[1:]),
    *(
        (instance, _CUMULATIVE, (who, SOME), (who, NONE))
        for instance in (MISSED, COVERED)
        for who in (ENHANCER, DPO)
    ),
    *(
        (MISSED, "regret", (who, NONE), (who + MOVING, NONE))
        for who in (ENHANCER, ENHANCER + BATCHES, DPO, DPO + BATCHES)
    ),
)  # fmt: skip

#: Comparisons of which theory says how they end, by their places.
_PREDICTED = {
    (MISSED, "regret", ENHANCER, other, n) for n in (NONE, SOME) for other in (DPO, FROM_REFERENCE)
}


def _pair(
    last: pd.DataFrame, instance: str, metric: str, one: tuple[str, int], other: tuple[str, int]
) -> dict[str, object]:
    here = last[last["instance"] == instance]
    values = [
        here[(here["learner"] == learner) & (here["n"] == n)]
        .sort_values(["environment", "seed"])[metric]
        .to_numpy()
        for learner, n in (one, other)
    ]
    found: PairedComparison = paired_comparison(*values)
    return {
        "instance": instance, "metric": metric, "learner": one[0], "n": one[1],
        "other": other[0], "other_n": other[1], "mean": float(values[0].mean()),
        "other_mean": float(values[1].mean()), "difference": found.difference.estimate,
        "difference_low": found.difference.low, "difference_high": found.difference.high,
        "count": found.pairs,
    }  # fmt: skip


# ---- what it says --------------------------------------------------------------------------------


def _findings(tables: dict[str, pd.DataFrame]) -> tuple[Finding, ...]:
    pairs = [_compared(row) for _, row in tables["online_pairs"].iterrows()]
    slopes = tables["online_slopes"].set_index(["instance", "n", "learner"])
    told = [
        Finding(
            claim=f"{name}, {instance}, no offline data: growth of the cumulative regularized "
            "regret",
            source=_SOURCE, measured=_told_slope(slopes.loc[(instance, NONE, name)]),
            verdict=_growth(slopes.loc[(instance, NONE, name)]), expected=None,
            table="online_slopes", computed_by=f"{_HERE}.analyse",
        )
        for instance in (MISSED, COVERED)
        for name in PLAIN
    ]  # fmt: skip
    return (*pairs, *told)


def _compared(row: pd.Series) -> Finding:
    low, high = row["difference_low"], row["difference_high"]
    place = (row["instance"], row["metric"], row["learner"], row["other"], row["n"])
    what = row["metric"].replace("_", " ")
    same = row["n"] == row["other_n"]
    here = f"{row['instance']}, {row['n']} offline comparisons" if same else row["instance"]
    mine = row["learner"] if same else f"{row['learner']}, {row['n']} offline comparisons,"
    theirs = row["other"] if same else f"{row['other_n']}"
    predicted = place in _PREDICTED
    if predicted:
        verdict = "holds" if high < 0 else "VIOLATED" if low > 0 else "undecided"
    else:
        verdict = "less" if high < 0 else "more" if low > 0 else "no difference seen"
    return Finding(
        claim=f"{here}: {what} of {mine} is below that of {theirs}" if predicted
        else f"{here}: {what} of {mine} against that of {theirs}",
        source=_SOURCE,
        measured=f"{row['mean']:.3g} against {row['other_mean']:.3g}, difference "
        f"{row['difference']:+.3g} [{low:+.3g}, {high:+.3g}]",
        verdict=verdict,
        expected=verdict == "holds" if predicted else None,
        table="online_pairs",
        computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _growth(row: Any) -> str:
    if not np.isfinite(row["slope"]):
        return "not measured"
    if row["slope_low"] > 0.8:
        return "nearly linear"
    return "slower than sqrt(T)" if row["slope_high"] < 0.5 else "between"


def _told_slope(row: Any) -> str:
    if not np.isfinite(row["slope"]):
        return "no slope"
    return f"T^{row['slope']:.2f} [{row['slope_low']:.2f}, {row['slope_high']:.2f}]"


def _answer(tables: dict[str, pd.DataFrame]) -> str:
    curves = tables["online_curves"]

    def told(instance: str, n: int, learners: Sequence[str], metric: str) -> str:
        """Return the metric of each learner after its last comparison, as a sentence lists them."""
        own = curves[(curves["instance"] == instance) & (curves["n"] == n)]
        parts = []
        for name in learners:
            mine = own[own["learner"] == name]
            row = mine.loc[mine["comparisons"].idxmax()]
            parts.append(f"{row[metric]:.3g} ({name})")
        return ", ".join(parts)

    most = curves["comparisons"].max()
    return (
        f"Where the reference misses the best direction, everything: after {most:g} comparisons "
        f"the regret is {told(MISSED, NONE, PLAIN, 'regret')}; {SOME} offline comparisons leave "
        f"{told(MISSED, SOME, (ENHANCER, FROM_REFERENCE, DPO), 'regret')}; an anchor that moves "
        "with every comparison stops learning early, at "
        f"{told(MISSED, NONE, (ENHANCER + MOVING, DPO + MOVING), 'regret')}, in batches of {BATCH} "
        f"at {told(MISSED, NONE, (ENHANCER + BATCHES + MOVING, DPO + BATCHES + MOVING), 'regret')}."
        "  Where it covers, the cumulative regularized regret is "
        f"{told(COVERED, NONE, PLAIN, _CUMULATIVE)}."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("online",))
