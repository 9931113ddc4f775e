"""Preferences that no reward represents: the duality gap against data, coverage and iterations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from rlhfsim.checks import FloatArray
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.statistics import fit_slope_of_runs, mean_interval
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import along, cross_fitted, halves

_HERE = "rlhfsim.studies.shipped.general_preferences"

UNILATERAL, SINGLE = "unilateral coverage", "single-policy coverage"
#: Least average gap in expectation from data of single-policy coverage, of methods that treat
#: prompts alike: of those that keep to the reference, as all below do, and of any.
FLOOR, FLOOR_OF_ANY = 0.6, 0.24
#: Share of the deciding response in the reference that covers unilaterally.
_DECIDER = 0.1
#: Strength of the methods that iterate towards a regularized equilibrium.
BETA = 0.03
_ITERATIONS = (1, 3, 10, 30, 100, 300, 1000)
#: Numbers of preferences from which on an exponent is fitted: with fewer the gap is near its most.
_FROM = 1000
#: Deviation from the exponent -1/2 that terms of lower order may cause on these sizes.
_NEAR = 0.05

#: Label -> whether the gap is that at the best value of its parameter; else, after all iterations.
LEARNERS = {
    "minimax winner": True, "KL Nash": True, "chi2 + KL Nash": True, "self-play": False,
    "Nash-MD": False, "iterative chiPO": False, "RLHF, KL": True,
}  # fmt: skip
_ITERATIVE = ("self-play", "Nash-MD", "iterative chiPO")
#: Those whose gap has no other limit than the minimax winner's.
_CONSISTENT = ("minimax winner", "KL Nash", "chi2 + KL Nash")

STUDY = Study.from_dict(
    {
        "name": "general-preferences",
        "title": "Preferences that no reward represents",
        "question": "How fast does the duality gap fall with data and with iterations, and which "
        "coverage does it take?",
        "instances": [
            {"family": "two-cycles", "label": UNILATERAL, "decider": _DECIDER,
             "environments": 30},
            {"family": "two-cycles", "label": SINGLE, "decider": 0.0, "environments": 30},
        ],
        "learners": [
            {"method": "minimax-winner", "label": "minimax winner"},
            {"method": "regularized-Nash", "label": "KL Nash"},
            {"method": "regularized-Nash", "label": "chi2 + KL Nash", "divergence": "chi2 + kl"},
            {"method": "self-play", "label": "self-play", "grid": _ITERATIONS},
            {"method": "Nash-MD", "label": "Nash-MD", "beta": BETA, "grid": _ITERATIONS},
            {"method": "iterative-chiPO", "label": "iterative chiPO", "beta": BETA,
             "grid": _ITERATIONS},
            {"method": "RLHF", "label": "RLHF, KL", "reward": {"model": "tabular", "ridge": 0.1}},
        ],
        "n": [100, 1000, 10_000, 100_000, 1_000_000],
        "beta": {"start": 1e-3, "stop": 1.0, "points": 7},
        "seeds": 1,
        "measures": ["duality_gap"],
        "testing": {"environments": 2, "n": [1000, 10_000, 100_000], "grid": 3},
    }
)  # fmt: skip


class _Runs(NamedTuple):
    """The gaps of one learner on one instance."""

    sizes: tuple[int, ...]
    #: (U, sizes) one for each environment.
    gaps: FloatArray


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return the gap against n and against iterations, and the exponents."""
    good = succeeded(rows)
    runs = {
        (instance, learner): _runs(good, instance, learner)
        for instance in study.labels[0]
        for learner in LEARNERS
    }
    learning = pd.DataFrame(
        [
            {"instance": instance, "learner": learner, "n": n, **_interval(found.gaps[:, k])}
            for (instance, learner), found in runs.items()
            for k, n in enumerate(found.sizes)
        ]
    )
    slopes = pd.DataFrame([_slope(runs[UNILATERAL, learner], learner) for learner in LEARNERS])
    iterations = _iterations(good, study)
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "n": list(study.n), "beta of iterations": BETA,
                  "decider": _DECIDER},
        tables={"games_learning": learning, "games_slopes": slopes,
                "games_iterations": iterations},
        findings=(
            *(_rate(slopes, learner) for learner in _CONSISTENT),
            *(_floor(runs[SINGLE, learner], learner) for learner in LEARNERS),
            _reward(runs[UNILATERAL, "RLHF, KL"]),
            _reached(iterations),
        ),
        answer=_answer(learning, slopes),
    )  # fmt: skip


def _runs(rows: pd.DataFrame, instance: str, learner: str) -> _Runs:
    """Return the gaps at the best value of the parameter, as the other half of the data says.

    Of methods that iterate, those after all iterations.
    """
    own = rows[(rows["instance"] == instance) & (rows["learner"] == learner)]
    sizes = tuple(int(n) for n in sorted(own["n"].unique()))
    columns = []
    for n in sizes:
        table = along(own[own["n"] == n], "duality_gap").measured
        tuned = LEARNERS[learner] and table.shape[1] > 1
        columns.append(cross_fitted(table, halves(len(table))) if tuned else table[:, -1])
    return _Runs(sizes, np.stack(columns, axis=1))


def _interval(values: FloatArray) -> dict[str, object]:
    found = mean_interval(values)
    return {"gap": found.estimate, "gap_low": found.low, "gap_high": found.high,
            "count": values.size}  # fmt: skip


def _slope(runs: _Runs, learner: str) -> dict[str, object]:
    sizes = np.array(runs.sizes, dtype=np.float64)
    large = sizes >= _FROM
    fit = fit_slope_of_runs(sizes[large], runs.gaps[:, large])
    slope = fit.slope
    return {"learner": learner, "slope": slope.estimate, "slope_low": slope.low,
            "slope_high": slope.high, "count": len(runs.gaps)}  # fmt: skip


def _iterations(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return the gap against iterations at the most data, with unilateral coverage."""
    here = (rows["instance"] == UNILATERAL) & (rows["n"] == max(study.n))
    some = rows[here & rows["learner"].isin(_ITERATIVE)]
    table = means(some, ["learner", "parameter_value"], "duality_gap")
    return table.rename(
        columns={
            "parameter_value": "iterations", "duality_gap": "gap", "duality_gap_low": "gap_low",
            "duality_gap_high": "gap_high",
        }
    )  # fmt: skip


# ---- findings -----------------------------------------------------------------------------------


def _finding(claim: str, measured: str, verdict: str, expected: bool | None, table: str) -> Finding:
    return Finding(
        claim=claim, source="arXiv 2407.13399, general preferences", measured=measured,
        verdict=verdict, expected=expected, table=table, computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _rate(slopes: pd.DataFrame, learner: str) -> Finding:
    row = slopes[slopes["learner"] == learner].iloc[0]
    holds = row["slope_low"] - _NEAR <= -0.5 <= row["slope_high"] + _NEAR
    return _finding(
        f"{learner}: with unilateral coverage the duality gap falls like n^(-1/2)",
        f"slope {row['slope']:.2f} [{row['slope_low']:.2f}, {row['slope_high']:.2f}]",
        "holds" if holds else "another exponent",
        bool(holds),
        "games_slopes",
    )


def _floor(runs: _Runs, learner: str) -> Finding:
    """Return whether the gap of single-policy coverage is compatible with its lower bound."""
    last = mean_interval(runs.gaps[:, -1])
    holds = last.high >= FLOOR
    return _finding(
        f"{learner}: with single-policy coverage, and no response that the reference lacks, the "
        "mean duality gap stays at 0.6 or above",
        f"{last.estimate:.3f} [{last.low:.3f}, {last.high:.3f}] at n = {runs.sizes[-1]}",
        "holds" if holds else "VIOLATED",
        bool(holds),
        "games_learning",
    )


def _reward(runs: _Runs) -> Finding:
    last = mean_interval(runs.gaps[:, -1])
    return _finding(
        "a reward that is fitted to cyclic preferences has a duality gap that does not vanish",
        f"RLHF at its best beta: {last.estimate:.3f} [{last.low:.3f}, {last.high:.3f}] at "
        f"n = {runs.sizes[-1]}, {runs.gaps[:, 0].mean():.3f} at n = {runs.sizes[0]}",
        "seen" if last.low > 0.1 else "not seen",
        None,
        "games_learning",
    )


def _reached(iterations: pd.DataFrame) -> Finding:
    told = []
    for learner, own in iterations.groupby("learner", sort=False):
        path = own.sort_values("iterations")
        first, last = path.iloc[0], path.iloc[-1]
        told.append(
            f"{learner} from {first['gap']:.3f} after {first['iterations']:g} to "
            f"{last['gap']:.3f} after {last['iterations']:g}"
        )
    return _finding(
        "iterations lower the duality gap until the data or the regularization hold it up",
        "; ".join(told),
        "measured",
        None,
        "games_iterations",
    )


def _answer(learning: pd.DataFrame, slopes: pd.DataFrame) -> str:
    last = learning[learning["n"] == learning["n"].max()].set_index(["instance", "learner"])["gap"]
    winner = slopes[slopes["learner"] == "minimax winner"].iloc[0]
    return (
        f"With unilateral coverage the gap of the minimax winner of the estimated preferences "
        f"falls like n^{winner['slope']:.2f} [{winner['slope_low']:.2f}, "
        f"{winner['slope_high']:.2f}], to {last[UNILATERAL, 'minimax winner']:.3f} at the most "
        f"data; with single-policy coverage it is {last[SINGLE, 'minimax winner']:.2f} there, and "
        f"{last[SINGLE, 'chi2 + KL Nash']:.2f} for the chi2 + KL equilibrium, where no method that "
        f"treats prompts alike and keeps to the reference can have less than {FLOOR:g} on average, "
        f"and none that also plays what the reference lacks less than {FLOOR_OF_ANY:g}.  RLHF "
        f"keeps {last[UNILATERAL, 'RLHF, KL']:.2f}: no reward represents a cycle."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("general_preferences",))
