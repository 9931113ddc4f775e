"""How far the link of chiPO's experiments is from that of its theory, in policy and in regret.

One instance, that of `epochs`, chosen after others on which regret hardly depends on small beta.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rlhfsim.findings import Finding, StudyResult
from rlhfsim.statistics import mean_interval, paired_comparison
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.shipped.epochs import GOOD_REFERENCE
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import Along, along, cross_fitted, halves

_HERE = "rlhfsim.studies.shipped.practical_link"
_POLICIES = {"kind": "tabular", "r_max": "range"}

#: Label -> (alpha, gamma) of the practical links.
LINKS = {
    "alpha 1, gamma 1": (1.0, 1.0),
    "alpha 1, gamma 0.1": (1.0, 0.1),
    "alpha 1/4, gamma 1": (0.25, 1.0),
    "alpha 1/4, gamma 0.1": (0.25, 0.1),
}

STUDY = Study.from_dict(
    {
        "name": "practical-link",
        "title": "The practical link of chiPO",
        "question": "How far is chiPO with the link of its experiments from chiPO, in policy and "
        "in regret?",
        "instances": [
            GOOD_REFERENCE
        ],
        "learners": [
            {"method": "chiPO", "label": "chipo", "policies": _POLICIES},
            {"method": "chiPO", "label": "chipo, gamma 0.1", "gamma": 0.1, "policies": _POLICIES},
            *(
                {"method": "chiPO-practical", "label": label, "alpha": alpha, "gamma": gamma,
                 "policies": _POLICIES}
                for label, (alpha, gamma) in LINKS.items()
            ),
            {"method": "DPO", "label": "dpo", "policies": _POLICIES},
        ],
        "n": [100],
        "beta": {"start": 1e-3, "stop": 10.0, "points": 17},
        "seeds": 1,
        "companion": "chipo",
        "testing": {"environments": 8, "grid": 5},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return distance to chiPO and regret against beta, and regret at a tuned beta."""
    good = succeeded(rows)
    units = ["learner", "parameter_value", "environment"]
    averaged = good.groupby(units, sort=False)[["apart", "regret"]].mean().reset_index()
    by = ["learner", "parameter_value"]
    curves = means(averaged, by, "regret").merge(means(averaged, by, "apart"), on=[*by, "count"])
    curves = curves.rename(columns={"parameter_value": "beta"})
    regrets = {
        str(learner): along(some, "regret").averaged()
        for learner, some in good.groupby("learner", sort=False)
    }
    curves = curves.merge(_gaps(regrets), on=["learner", "beta"])
    best = pd.DataFrame([_best_row(name, curves, regrets) for name in regrets])
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "seeds": study.seeds, "n": list(study.n)},
        tables={"practical_link_curves": curves, "practical_link_best": best},
        findings=_findings(good, best),
        answer=_answer(best, curves),
    )


def _tuned(regret: Along) -> np.ndarray:
    """Return the regret of each environment at the beta that the other half of them prefers."""
    return cross_fitted(regret.measured, halves(len(regret.measured)))


def _gaps(regrets: dict[str, Along]) -> pd.DataFrame:
    """Return the regret less that of chiPO on the same data at the same beta."""
    found = []
    for name, own in regrets.items():
        for k, beta in enumerate(own.grid):
            gap = mean_interval(own.measured[:, k] - regrets["chipo"].measured[:, k])
            found.append((name, float(beta), gap.estimate, gap.low, gap.high))
    return pd.DataFrame(found, columns=["learner", "beta", "gap", "gap_low", "gap_high"])


def _best_row(name: str, curves: pd.DataFrame, regrets: dict[str, Along]) -> dict[str, object]:
    mine = curves[curves["learner"] == name]
    largest = mine.loc[mine["apart"].idxmax()]
    tuned = _tuned(regrets[name])
    compared = paired_comparison(tuned, _tuned(regrets["chipo"]))
    widest = mine.loc[mine["gap"].abs().idxmax()]
    return {
        "learner": name,
        "beta": float(mine.loc[mine["regret"].idxmin(), "beta"]),
        "regret": float(tuned.mean()),
        "difference": compared.difference.estimate,
        "difference_low": compared.difference.low,
        "difference_high": compared.difference.high,
        "gap": float(widest["gap"]),
        "gap_low": float(widest["gap_low"]),
        "gap_high": float(widest["gap_high"]),
        "gap_beta": float(widest["beta"]),
        "largest_apart": float(largest["apart"]),
        "largest_apart_low": float(largest["apart_low"]),
        "largest_apart_high": float(largest["apart_high"]),
        "largest_apart_beta": float(largest["beta"]),
        "count": compared.pairs,
    }


# ---- what it says -----------------------------------------------------------------------------


def _findings(rows: pd.DataFrame, best: pd.DataFrame) -> tuple[Finding, ...]:
    regrets = rows.set_index(["environment", "seed", "parameter_value"])
    names = rows["learner"].to_numpy()
    found = []
    for exact, practical in (("chipo", "alpha 1, gamma 1"),
                             ("chipo, gamma 0.1", "alpha 1, gamma 0.1")):  # fmt: skip
        one, other = (regrets.loc[names == name, "regret"] for name in (exact, practical))
        apart = float((one - other).abs().max())
        found.append(
            _finding(
                f"the practical link with {practical} is the link of {exact} while ratios are "
                "below exp(20)",
                f"regrets differ by at most {apart:.1g}",
                "holds" if apart <= 1e-6 else "fails",
                apart <= 1e-6,
            )
        )
    for _, row in best[best["learner"] != "chipo"].iterrows():
        low, high = row["difference_low"], row["difference_high"]
        verdict = "lower" if high < 0 else "higher" if low > 0 else "no difference seen"
        found.append(
            _finding(
                f"{row['learner']} against chiPO: regret, each at a tuned beta, and policy",
                f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]; TV up to "
                f"{row['largest_apart']:.3f} at beta {row['largest_apart_beta']:.2g}; at equal "
                f"beta regrets differ by up to {row['gap']:+.4f} [{row['gap_low']:+.4f}, "
                f"{row['gap_high']:+.4f}], at {row['gap_beta']:.2g}",
                verdict,
                None,
            )
        )
    return tuple(found)


def _finding(claim: str, measured: str, verdict: str, expected: bool | None) -> Finding:
    return Finding(
        claim, "arXiv 2407.13399, section 5", measured, verdict, expected,
        "practical_link_best", f"{_HERE}.analyse",
    )  # fmt: skip


def _answer(best: pd.DataFrame, curves: pd.DataFrame) -> str:
    told = best.set_index("learner")
    same = float(curves.loc[curves["learner"] == "alpha 1, gamma 1", "apart"].max())
    parts = []
    for name in ("alpha 1/4, gamma 1", "alpha 1/4, gamma 0.1", "alpha 1, gamma 0.1"):
        row = told.loc[name]
        parts.append(
            f"with {name} the total variation reaches {row['largest_apart']:.2f} (at beta "
            f"{row['largest_apart_beta']:.2g}), the regret differs by up to {row['gap']:+.3f} at "
            f"equal beta and at a tuned beta by "
            f"{row['difference']:+.4f} [{row['difference_low']:+.4f}, "
            f"{row['difference_high']:+.4f}]"
        )
    return (
        f"With alpha = gamma = 1 it is chiPO (total variation at most {same:.1g}); "
        + "; ".join(parts)
        + f"; the regret of chiPO is {told.loc['chipo', 'regret']:.3f}, and DPO's differs by "
        f"{told.loc['dpo', 'difference']:+.4f} [{told.loc['dpo', 'difference_low']:+.4f}, "
        f"{told.loc['dpo', 'difference_high']:+.4f}]."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("practical_link",))
