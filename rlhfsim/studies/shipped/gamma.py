"""What the KL term of mixed regularization is good for: gamma to 0 in `chi2 + gamma KL`.

Over all policies the direct method has the optimum of the two-step method, whatever gamma is; what
gradient descent finds of it in a given number of steps is another matter, and is what is compared.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rlhfsim.checks import FloatArray
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.statistics import mean_interval, paired_comparison
from rlhfsim.studies.methods import RLHFMethod, TrainedMethod
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import along, cross_fitted, halves

_HERE = "rlhfsim.studies.shipped.gamma"
_SOURCE = "arXiv 2407.13399"
_GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0)
_BETAS = tuple(0.01 * 10.0 ** (k / 3) for k in range(10))
_TRAINED_AT = _BETAS[1:9]
_STEPS = (300, 3000)
_FIT = {"model": "tabular", "ridge": 0.1}
#: The optimum, and what gradient descent has of it after so many steps.
EXACT = "optimum"
#: The direct method without KL.
NO_KL = "chiPO, gamma 0"

STUDY = Study.from_dict(
    {
        "name": "gamma",
        "title": "The KL term of mixed regularization",
        "question": "Does the regret of chi-squared plus gamma KL improve as gamma falls to 0, "
        "and does the direct method survive without KL?",
        "instances": [
            {
                "family": "zipf", "prompts": 3, "responses": 10, "exponent": 1.5,
                "reward_scale": 2.0, "environments": 20,
            }
        ],
        "learners": [
            {"method": "RLHF", "label": "chi2", "divergence": "chi2", "reward": _FIT},
            *(
                {
                    "method": "RLHF", "label": f"chi2 + {g:g} KL",
                    "divergence": f"chi2 + {g!r} kl", "reward": _FIT,
                }
                for g in _GAMMAS
            ),
            *(
                {
                    "method": "trained", "label": f"chiPO, gamma {g:g}, beta {b:.3g}",
                    "loss": "chiPO", "gamma": g, "beta": b, "learning_rate": 1.0,
                    "grid": list(_STEPS),
                }
                for g in _GAMMAS
                for b in _TRAINED_AT
            ),
            # Refused, which is the answer for gamma = 0: its link is bounded below.
            {"method": "f-DPO", "label": NO_KL, "divergence": "chi2", "grid": [1.0],
             "policies": {"kind": "tabular", "ridge": 0.1}},
        ],
        "n": [300],
        "beta": list(_BETAS),
        "seeds": 4,
        "testing": {"environments": 2, "seeds": 2, "grid": 4},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return regret against gamma at the best beta: of the optimum, and of trained policies."""
    cells = _by_route(succeeded(rows), study)
    point = ["route", "gamma", "parameter_value"]
    # Datasets of one environment share it: environments are what is independent.
    each = cells.groupby([*point, "environment"], sort=False, as_index=False)["regret"].mean()
    curves = means(each, point, "regret").rename(columns={"parameter_value": "beta"})
    tuned = {key: _tuned(own) for key, own in cells.groupby(["route", "gamma"], sort=False)}
    without = _without_kl(rows)
    best = pd.DataFrame([_summary(route, gamma, t) for (route, gamma), t in tuned.items()])
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "seeds": study.seeds, "n": list(study.n)},
        tables={"gamma_curves": curves, "gamma_best": best},
        findings=(*_findings(tuned), without),
        answer=_answer(best, tuned, without),
    )


def _by_route(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return the cells with their `route` and `gamma`, and beta as the parameter."""
    told = {
        label: (0.0 if label == "chi2" else float(label.split()[2]), np.nan)
        if isinstance(spec, RLHFMethod) else (spec.gamma, spec.beta)
        for label, spec in zip(study.labels[1], study.learners, strict=True)
        if isinstance(spec, (RLHFMethod, TrainedMethod))
    }  # fmt: skip
    gamma, beta = (rows["learner"].map({k: v[i] for k, v in told.items()}) for i in (0, 1))
    trained = beta.notna()
    steps = rows["parameter_value"].astype(int).astype(str) + " steps"
    return rows.assign(
        gamma=gamma,
        route=np.where(trained, steps, EXACT),
        parameter_value=np.where(trained, beta, rows["parameter_value"]),
    )


def _tuned(rows: pd.DataFrame) -> FloatArray:
    """Return the regret of each environment at the beta that the other half of them prefers."""
    each = along(rows, "regret").averaged().measured
    return cross_fitted(each, halves(len(each)))


def _summary(route: str, gamma: float, tuned: FloatArray) -> dict[str, object]:
    interval = mean_interval(tuned)
    return {
        "route": route, "gamma": gamma, "regret": interval.estimate, "regret_low": interval.low,
        "regret_high": interval.high, "count": len(tuned),
    }  # fmt: skip


def _findings(tuned: dict[tuple[str, float], FloatArray]) -> tuple[Finding, ...]:
    """Return one line for each route: its least gamma against the usual one."""
    return tuple(_against_usual(route, tuned) for route in dict.fromkeys(r for r, _ in tuned))


def _against_usual(route: str, tuned: dict[tuple[str, float], FloatArray]) -> Finding:
    least = min(g for r, g in tuned if r == route)
    mine, usual = tuned[route, least], tuned[route, 1.0]
    d = paired_comparison(mine, usual).difference
    name = _title(route)
    return Finding(
        claim=f"{name}: the regret at gamma = {least:g} is that at gamma = 1",
        source=_SOURCE,
        measured=f"each at its best beta: {mine.mean():.4f} against {usual.mean():.4f}, "
        f"difference {d.estimate:+.4f} [{d.low:+.4f}, {d.high:+.4f}]",
        verdict="lower" if d.high < 0 else "higher" if d.low > 0 else "no difference seen",
        expected=None, table="gamma_best", computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _without_kl(rows: pd.DataFrame) -> Finding:
    """Return whether the direct method is refused at gamma = 0."""
    errors = rows.loc[rows["learner"] == NO_KL, "error"]
    refused = errors.str.contains("f'(0+)", regex=False).fillna(False)
    holds = len(errors) > 0 and bool(refused.all())
    return Finding(
        claim="chiPO at gamma = 0 has no normalized optimum over all policies: its link is "
        "bounded below",
        source=_SOURCE,
        measured=f"refused in {int(refused.sum())} of {len(errors)} datasets",
        verdict="holds" if holds else "VIOLATED",
        expected=holds, table="gamma_best", computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _title(route: str) -> str:
    return "the optimum" if route == EXACT else f"chiPO trained for {route}"


def _answer(
    best: pd.DataFrame, tuned: dict[tuple[str, float], FloatArray], without: Finding
) -> str:
    parts = []
    for route, own in best.groupby("route", sort=False):
        regret = own.set_index("gamma")["regret"]
        least = regret.index.min()
        d = paired_comparison(tuned[str(route), least], tuned[str(route), 1.0]).difference
        parts.append(
            f"{_title(str(route))} has regret {regret[least]:.3f} at gamma = {least:g} against "
            f"{regret[1.0]:.3f} at gamma = 1 (difference {d.estimate:+.3f} [{d.low:+.3f}, "
            f"{d.high:+.3f}])"
        )
    parts.append(f"at gamma = 0 the direct method is {without.measured}")
    return f"At its best beta {'; '.join(parts)}."


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("gamma",))
