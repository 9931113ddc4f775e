"""Whether online DPO explores by itself: regret of XPO and of iterated DPO against rounds.

The best response is one of four that the reference plays with the same small mass; comparisons
without it say nothing about it.  Beside them, random environments that the reference covers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rlhfsim.findings import Finding, StudyResult
from rlhfsim.randomness import generator_for
from rlhfsim.statistics import bootstrap_slope, proportion_interval
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.study import Study

_HERE = "rlhfsim.studies.shipped.xpo"
_SOURCE = "arXiv 2405.21046"
MASSES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
#: The mass whose regret is drawn.
SHOWN = 1e-4
RANDOM = "random environments"
_ROUNDS = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
BETA, ALPHA, RARE = 0.05, 0.01, 4
XPO, SLOWLY, SELF = "XPO, constant alpha", "XPO, alpha/sqrt(t)", "XPO, pairs from the policy"
PASSIVE, ON_POLICY = "iterated DPO, one of the reference", "iterated DPO, pairs from the policy"
_REGRET = "cumulative_regularized_regret"
#: Rounds from which slopes are fitted, and with which the best response is to be found.
_FROM = 100
#: Regret below which the best response was found; any other costs at least 1.
_FOUND = 0.5


def label_of(mass: float) -> str:
    """Return how the instance is called on which rare responses have this mass."""
    return f"mass {mass:g}"


_SHARED = {"beta": BETA, "grid": _ROUNDS, "policies": {"kind": "finite", "size": 16}}

STUDY = Study.from_dict(
    {
        "name": "xpo",
        "title": "Exploration has to be deliberate",
        "question": "Does DPO on its own fresh comparisons find a response that the reference "
        "hardly ever plays, and what does the optimism of XPO cost and gain?",
        "instances": [
            *(
                {"family": "hidden-best", "label": label_of(mass), "mass": mass, "rare": RARE,
                 "environments": 100}
                for mass in MASSES
            ),
            {"family": "random", "label": RANDOM, "responses": 8, "environments": 100},
        ],
        "learners": [
            {"method": "XPO", "label": XPO, "alpha": ALPHA, **_SHARED},
            {"method": "XPO", "label": SLOWLY, "alpha": BETA, "decreasing": True, **_SHARED},
            {"method": "XPO", "label": SELF, "alpha": ALPHA, "opponent": "policy", **_SHARED},
            {"method": "iterated-DPO", "label": PASSIVE, "opponent": "reference", **_SHARED},
            {"method": "iterated-DPO", "label": ON_POLICY, **_SHARED},
        ],
        "n": [0],
        "seeds": 1,
        "measures": [_REGRET],
        "testing": {"environments": 6, "grid": 4},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return regret and the share of runs that found the best response, against rounds."""
    good = succeeded(rows).rename(columns={"parameter_value": "rounds"})
    by = ["instance", "learner", "rounds"]
    hidden = good[good["instance"] != RANDOM]
    tables = {
        "xpo_regret": means(good, by, _REGRET),
        "xpo_slopes": pd.DataFrame(
            [_slope(place, own, study) for place, own in good.groupby(by[:2], sort=False)]
        ),
        "xpo_found": pd.DataFrame(
            [_found(place, own) for place, own in hidden.groupby(by, sort=False)]
        ),
    }
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "beta": BETA, "alpha": ALPHA, "rare responses": RARE},
        tables=tables,
        findings=_findings(tables),
        answer=_answer(tables),
    )


def _slope(place: Any, rows: pd.DataFrame, study: Study) -> dict[str, object]:
    """Return the exponent of cumulative regret in the number of rounds, the first ones left out."""
    late = rows[rows["rounds"] >= _FROM]
    runs = late.pivot_table(index=["environment", "seed"], columns="rounds", values=_REGRET)
    rng = generator_for(study.name, "bootstrap " + " ".join(place), 0)
    fit = bootstrap_slope(
        np.asarray(runs.columns, dtype=np.float64), runs.to_numpy(), rng, resamples=1000,
        method="percentile",
    )  # fmt: skip
    instance, learner = place
    return {
        "instance": instance, "learner": learner, "slope": fit.slope.estimate,
        "slope_low": fit.slope.low, "slope_high": fit.slope.high, "count": len(runs),
    }  # fmt: skip


def _found(place: Any, rows: pd.DataFrame) -> dict[str, object]:
    """Return how many runs end with the best response."""
    instance, learner, rounds = place
    share = proportion_interval(int((rows["regret"] < _FOUND).sum()), len(rows))
    return {
        "instance": instance, "mass": float(instance.removeprefix("mass ")), "learner": learner,
        "rounds": rounds, "found": share.estimate, "found_low": share.low,
        "found_high": share.high, "count": len(rows),
    }  # fmt: skip


# ---- what it says -------------------------------------------------------------------------------


def _findings(tables: dict[str, pd.DataFrame]) -> tuple[Finding, ...]:
    slopes = tables["xpo_slopes"].set_index(["instance", "learner"])
    rarest, shown = label_of(min(MASSES)), label_of(SHOWN)
    slow = [
        _about(
            f"cumulative regret of {name} grows slower than sqrt(T), {shown}",
            "xpo_slopes", _told_slope(slopes.loc[(shown, name)]),
            slopes.loc[(shown, name), "slope_high"] < 0.5,
        )
        for name in (XPO, SLOWLY)
    ]  # fmt: skip
    fast = [
        _about(
            f"cumulative regret of {name} grows like T, {rarest}",
            "xpo_slopes", _told_slope(slopes.loc[(rarest, name)]),
            slopes.loc[(rarest, name), "slope_low"] > 0.9,
        )
        for name in (PASSIVE, ON_POLICY)
    ]  # fmt: skip
    last = _last(tables)
    least = last[last["learner"] == XPO].sort_values("found").iloc[0]
    most = last[(last["learner"] != XPO) & (last["instance"] == rarest)].set_index("learner")
    return (
        *slow,
        *fast,
        _about(
            f"XPO finds the best response at every mass within {least['rounds']:g} rounds",
            "xpo_found", f"at least {_told_share(least)}, {least['instance']}",
            least["found_low"] > 0.5,
        ),
        *(
            _about(
                f"{name} does not find it within {most.loc[name, 'rounds']:g} rounds, {rarest}",
                "xpo_found", _told_share(most.loc[name]), most.loc[name, "found_high"] < 0.5,
            )
            for name in (PASSIVE, ON_POLICY)
        ),
        _settles(slopes, shown, SELF),
        *(_settles(slopes, RANDOM, name) for name in (XPO, SLOWLY, PASSIVE, ON_POLICY)),
        _cost(tables, SLOWLY),
    )  # fmt: skip


def _about(claim: str, table: str, measured: str, holds: Any) -> Finding:
    return Finding(
        claim=claim, source=_SOURCE, measured=measured, table=table,
        verdict="holds" if holds else "VIOLATED", expected=bool(holds),
        computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _settles(slopes: pd.DataFrame, instance: str, name: str) -> Finding:
    """Return whether the regret of a round goes to 0, as far as the rounds show."""
    row = slopes.loc[(instance, name)]
    verdict = "settles" if row["slope_high"] < 0.9 else "not clear"
    return Finding(
        claim=f"cumulative regret of {name}, {instance}", source=_SOURCE,
        measured=_told_slope(row), expected=None, table="xpo_slopes",
        verdict="never settles" if row["slope_low"] > 0.9 else verdict,
        computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _cost(tables: dict[str, pd.DataFrame], name: str) -> Finding:
    """Return what optimism costs where the reference covers everything."""
    mine, other = (_at_last(tables, RANDOM, who) for who in (name, PASSIVE))
    return Finding(
        claim=f"cumulative regret of {name} over that of {PASSIVE}, {RANDOM}", source=_SOURCE,
        measured=f"{mine:.3g} against {other:.3g} reward units", expected=None,
        verdict=f"{mine / other:.2g} times", table="xpo_regret", computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _at_last(tables: dict[str, pd.DataFrame], instance: str, learner: str) -> float:
    every = tables["xpo_regret"]
    own = every[(every["instance"] == instance) & (every["learner"] == learner)]
    return float(own.loc[own["rounds"].idxmax(), _REGRET])


def _last(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    found = tables["xpo_found"]
    return found[found["rounds"] == found["rounds"].max()]


def _told_slope(row: Any) -> str:
    # Rounding must not leave "-0.00".
    value, low, high = (round(row[name], 2) + 0.0 for name in ("slope", "slope_low", "slope_high"))
    return f"T^{value:.2f} [{low:.2f}, {high:.2f}]"


def _told_share(row: Any) -> str:
    return f"{row['found']:.2g} [{row['found_low']:.2g}, {row['found_high']:.2g}] of the runs"


def _answer(tables: dict[str, pd.DataFrame]) -> str:
    slopes = tables["xpo_slopes"].set_index(["instance", "learner"])
    last = _last(tables).set_index(["instance", "learner"])
    rarest, shown = label_of(min(MASSES)), label_of(SHOWN)
    learners = (PASSIVE, ON_POLICY, XPO)
    one, both, xpo = (_told_share(last.loc[(rarest, name)]) for name in learners)
    grows = ", ".join(f"{_told_slope(slopes.loc[(shown, name)])} for {name}" for name in learners)
    constant, falling = (_told_slope(slopes.loc[(RANDOM, name)]) for name in (XPO, SLOWLY))
    return (
        f"No: at {rarest}, {tables['xpo_found']['rounds'].max():g} rounds of iterated DPO find the "
        f"best response in {one} (one response of the reference) and {both} (both of the policy), "
        f"XPO in {xpo}; at {shown} cumulative regret grows as {grows}.  On {RANDOM}, which the "
        f"reference covers, optimism has to fall: constant it leaves {constant}, as 1/sqrt(t) "
        f"{falling}."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("xpo",))
