"""Iterations on a known game: which iterates come near a minimax winner, and how fast."""

from __future__ import annotations

import math

import pandas as pd

from rlhfsim.findings import Finding, StudyResult
from rlhfsim.statistics import fit_slope_of_runs
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import along

_HERE = "rlhfsim.studies.shipped.self_play"

RESPONSES = 10
_ITERATIONS = (1, 3, 10, 30, 100, 300, 1000, 3000)
BETAS = (0.3, 0.1, 0.03)
AVERAGE, LAST = "average of self-play", "last of self-play"
_NASH_MD, _CHI_PO = "Nash-MD", "iterative chiPO"
#: Numbers of iterations from which on an exponent is fitted.
_FROM = 30
#: Excess over a limit that is left after the iterations of the study.
_LEFT = 0.01

STUDY = Study.from_dict(
    {
        "name": "self-play",
        "title": "Iterations on a known game",
        "question": "Which iterates of self-play, Nash-MD and iterative chiPO come near a minimax "
        "winner, and how fast?",
        "instances": [
            {"family": "random-game", "responses": RESPONSES, "flat": True, "environments": 30}
        ],
        "learners": [
            {"method": "self-play", "label": AVERAGE, "known": True, "grid": _ITERATIONS},
            {"method": "self-play", "label": LAST, "known": True, "average": False,
             "grid": _ITERATIONS},
            *(
                {"method": method, "label": f"{method} {beta:g}", "beta": beta, "known": True,
                 "grid": _ITERATIONS}
                for method in (_NASH_MD, _CHI_PO.replace(" ", "-"))
                for beta in BETAS
            ),
        ],
        "n": [0],
        "measures": ["duality_gap"],
        "testing": {"environments": 2, "grid": 4},
    }
)  # fmt: skip


def bound(iterations: float) -> float:
    """Return `sqrt(8 log Y / (3 T))`, the bound on the gap of the average of self-play."""
    return math.sqrt(8.0 * math.log(RESPONSES) / (3.0 * iterations))


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return the gap against iterations, the exponents, and what is left at the end."""
    good = succeeded(rows)
    table = means(good, ["learner", "parameter_value"], "duality_gap").rename(
        columns={
            "parameter_value": "iterations", "duality_gap": "gap", "duality_gap_low": "gap_low",
            "duality_gap_high": "gap_high",
        }
    )  # fmt: skip
    told = table["learner"].str.rsplit(" ", n=1, expand=True)
    regularized = table["learner"].str.contains("Nash-MD|chiPO")
    table = table.assign(
        method=told[0].where(regularized, table["learner"]).str.replace("-chiPO", " chiPO"),
        beta=pd.to_numeric(told[1].where(regularized, None)).astype(float),
    )
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "responses": RESPONSES, "betas": list(BETAS)},
        tables={"self_play_gaps": table},
        findings=(_below(good), _rate(good), _cycles(good), *(_bias(good, b) for b in BETAS)),
        answer=_answer(table),
    )


def _of(rows: pd.DataFrame, learner: str) -> pd.DataFrame:
    return rows[rows["learner"] == learner]


def _finding(
    claim: str, source: str, measured: str, verdict: str, expected: bool | None
) -> Finding:
    return Finding(
        claim=claim, source=source, measured=measured, verdict=verdict, expected=expected,
        table="self_play_gaps", computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _below(rows: pd.DataFrame) -> Finding:
    own = _of(rows, AVERAGE)
    used = own["duality_gap"] / own["parameter_value"].map(bound)
    holds = bool((used <= 1.0).all())
    return _finding(
        "the average of T policies of self-play has a gap of at most sqrt(8 log Y / (3 T))",
        "arXiv 2404.03715; constant derived",
        f"at most {used.max():.3f} of it, in every game and at every T",
        "holds" if holds else "VIOLATED",
        holds,
    )


def _rate(rows: pd.DataFrame) -> Finding:
    path = along(_of(rows, AVERAGE), "duality_gap")
    late = path.grid >= min(_FROM, path.grid[-3])
    slope = fit_slope_of_runs(path.grid[late], path.measured[:, late]).slope
    return _finding(
        "the gap of the average of self-play falls with T",
        "arXiv 2404.03715",
        f"slope {slope.estimate:.2f} [{slope.low:.2f}, {slope.high:.2f}] from "
        f"T = {path.grid[late][0]:g} on",
        "like T^(-1/2) or faster" if slope.low <= -0.5 else "slower than T^(-1/2)",
        None,
    )


def _cycles(rows: pd.DataFrame) -> Finding:
    """Return in how many games the last iterate of self-play stays away from the winner."""
    ends = [along(_of(rows, name), "duality_gap").measured[:, -1] for name in (LAST, AVERAGE)]
    away = int((ends[0] > 10.0 * ends[1]).sum())
    return _finding(
        "the last iterate of self-play goes round the winner instead of to it",
        "arXiv 2312.00886",
        f"its gap is over ten times that of the average in {away} of {len(ends[0])} games, on "
        f"average {ends[0].mean():.3f} against {ends[1].mean():.3f}",
        "seen" if away else "not seen",
        None,
    )


def _bias(rows: pd.DataFrame, beta: float) -> Finding:
    gap = along(_of(rows, f"{_NASH_MD} {beta:g}"), "duality_gap").measured[:, -1]
    most = 2.0 * beta * math.log(RESPONSES)
    holds = bool((gap <= most + _LEFT).all())
    return _finding(
        f"Nash-MD at beta = {beta:g} ends with a gap of at most 2 beta log Y",
        "derived; arXiv 2312.00886",
        f"{gap.mean():.3f} on average, {gap.max():.3f} at most, against {most:.3f}",
        "holds" if holds else "VIOLATED",
        holds,
    )


def _answer(table: pd.DataFrame) -> str:
    last = table[table["iterations"] == table["iterations"].max()].set_index("learner")["gap"]
    told = ", ".join(f"{last[f'{_NASH_MD} {beta:g}']:.3f} at beta {beta:g}" for beta in BETAS)
    return (
        f"After {table['iterations'].max():g} iterations the average of self-play has a gap of "
        f"{last[AVERAGE]:.3f} and its last policy one of {last[LAST]:.3f}; the last policy of "
        f"Nash-MD has {told}, where the regularization holds it."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("self_play",))
