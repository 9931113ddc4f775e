"""What the KL term of mixed regularization is good for: gamma to 0 in `chi2 + gamma KL`."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rlhfsim.findings import Finding, StudyResult
from rlhfsim.statistics import paired_comparison
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.study import Study

_HERE = "rlhfsim.studies.shipped.gamma"
_GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0)
_FIT = {"model": "tabular", "r_max": 4.0}
_POLICIES = {"kind": "tabular", "r_max": 4.0}

STUDY = Study.from_dict(
    {
        "name": "gamma",
        "title": "The KL term of mixed regularization",
        "question": "Does the regret of chi-squared plus gamma KL improve as gamma falls to 0, "
        "and does the direct method survive without KL?",
        "instances": [
            {
                "family": "zipf", "prompts": 5, "responses": 20, "exponent": 1.5,
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
                {"method": "chiPO", "label": f"chiPO, gamma {g:g}", "gamma": g,
                 "policies": _POLICIES}
                for g in _GAMMAS
            ),
        ],
        "n": [300],
        "beta": {"start": 1e-2, "stop": 10.0, "points": 25},
        "seeds": 10,
        "testing": {"environments": 2, "seeds": 2, "grid": 5},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return regret against gamma at the best beta, two-step and direct."""
    good = succeeded(rows)
    curves = means(good, ["learner", "parameter_value"], "regret").rename(
        columns={"parameter_value": "beta"}
    )
    best = curves.loc[curves.groupby("learner", sort=False)["regret"].idxmin()]
    best = best.assign(
        gamma=[_gamma(name) for name in best["learner"]],
        direct=best["learner"].str.startswith("chiPO"),
    ).reset_index(drop=True)
    tables = {"gamma_curves": curves, "gamma_best": best}
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "seeds": study.seeds, "n": list(study.n)},
        tables=tables,
        findings=_findings(good, best),
        answer=_answer(best),
    )


def _gamma(learner: str) -> float:
    if learner == "chi2":
        return 0.0
    return float(learner.split("gamma ")[1]) if "gamma" in learner else float(learner.split()[2])


def _findings(rows: pd.DataFrame, best: pd.DataFrame) -> tuple[Finding, ...]:
    """Return one line on the two-step method and one on the direct one."""
    found = []
    for direct, name in ((False, "RLHF"), (True, "chiPO")):
        some = best[best["direct"] == direct].sort_values("gamma")
        smallest, usual = some.iloc[0], some[some["gamma"] == 1.0].iloc[0]
        compared = paired_comparison(_paired(rows, smallest), _paired(rows, usual))
        difference = compared.difference
        found.append(
            Finding(
                claim=f"{name}: the regret at gamma = {smallest['gamma']:g} is that at gamma = 1",
                source="arXiv 2407.13399",
                measured=f"each at its best beta: {smallest['regret']:.4f} against "
                f"{usual['regret']:.4f}, difference {difference.estimate:+.4f} "
                f"[{difference.low:+.4f}, {difference.high:+.4f}]",
                verdict="lower" if difference.high < 0
                else "higher" if difference.low > 0 else "no difference seen",
                expected=None,
                table="gamma_best",
                computed_by=f"{_HERE}.analyse",
            )
        )  # fmt: skip
    return tuple(found)


def _paired(rows: pd.DataFrame, best: pd.Series) -> np.ndarray:
    """Return the regrets of a learner at its best beta, by environment and seed."""
    mine = rows[(rows["learner"] == best["learner"]) & (rows["parameter_value"] == best["beta"])]
    return mine.sort_values(["environment", "seed"])["regret"].to_numpy()


def _answer(best: pd.DataFrame) -> str:
    steps, direct = (best[best["direct"] == d].sort_values("gamma") for d in (False, True))
    return (
        f"At its best beta the two-step method has regret {steps['regret'].iloc[0]:.3f} at "
        f"gamma = 0 and {steps['regret'].iloc[-1]:.3f} at gamma = {steps['gamma'].iloc[-1]:g}; "
        f"the direct method {direct['regret'].iloc[0]:.3f} at gamma = "
        f"{direct['gamma'].iloc[0]:g} and {direct['regret'].iloc[-1]:.3f} at "
        f"{direct['gamma'].iloc[-1]:g}."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("gamma",))
