"""chiPO against its rivals on many random environments, each at its own tuned beta.

The family of environments, in which rare responses are mostly worse, was chosen after others on
which most learners were best at the edge of the grid; over finite classes, the truth beside noisier
copies of it may favour losses that prefer small implicit rewards (IPO, RPO).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from rlhfsim.findings import Finding, StudyResult
from rlhfsim.randomness import generator_for
from rlhfsim.statistics import interquartile_mean, paired_comparison, stratified_bootstrap
from rlhfsim.studies.shipped.base import Shipped
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import along, cross_fitted, halves

_HERE = "rlhfsim.studies.shipped.rivals"

#: What a learner may choose from: all policies, or the optima of 16 rewards at its own beta.
CLASSES: dict[str, dict[str, Any]] = {
    "all": {"kind": "tabular"},
    "KL optima": {"kind": "finite", "size": 16, "divergence": "kl"},
    "mixed optima": {"kind": "finite", "size": 16, "divergence": "chi2 + kl"},
}
#: Key in figures -> settings of the direct methods; RPO is DPO with an SFT term.
DIRECT: dict[str, dict[str, Any]] = {
    "chipo": {"method": "chiPO"},
    "dpo": {"method": "DPO"},
    "rpo": {"method": "RPO", "eta": 0.05},
    "ipo": {"method": "IPO"},
}
#: Methods for which the rewards of all policies must be bounded.
_BOUNDED = ("chipo", "dpo")
#: Pessimism over the same 16 rewards, and by chi-squared alone.
_PESSIMISM: dict[str, dict[str, Any]] = {
    "pessimistic-likelihood": {
        "method": "pessimistic-likelihood", "reward": {"model": "finite", "size": 16},
        # Below, no solution can be certified on some environments.
        "grid": (0.03, 0.1, 0.3, 1.0, 3.0),
    },
    "rlhf-chi2": {
        "method": "RLHF", "divergence": "chi2", "reward": {"model": "tabular", "r_max": "range"},
    },
}  # fmt: skip
#: Which class each of these competes in.
_COMPETES = {"pessimistic-likelihood": "mixed optima", "rlhf-chi2": "all"}


def _direct(name: str, key: str) -> dict[str, Any]:
    bound = {"r_max": "range"} if name == "all" and key in _BOUNDED else {}
    return {**DIRECT[key], "label": f"{key} / {name}", "policies": {**CLASSES[name], **bound}}


STUDY = Study.from_dict(
    {
        "name": "rivals",
        "title": "chiPO and its rivals",
        "question": "Is chiPO better than DPO, DPO with an SFT term, IPO and pessimism on the same "
        "instances and data?",
        "instances": [
            {
                "family": "aligned", "prompts": 2, "responses": 10, "exponent": 2.0,
                "trend": 0.6, "reward_scale": 2.0, "environments": 240,
            }
        ],
        "learners": [
            *(_direct(name, key) for name in CLASSES for key in DIRECT),
            *(
                {**settings, "label": f"{key} / {_COMPETES[key]}"}
                for key, settings in _PESSIMISM.items()
            ),
        ],
        "n": [100],
        "beta": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0],
        "seeds": 1,
        "testing": {"environments": 8, "grid": 3},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return interquartile means, and paired comparisons of chiPO with each rival of its class.

    An environment in which any learner failed is left out for all.
    """
    failed = set(rows.loc[rows["error"].notna(), "environment"])
    good = rows[~rows["environment"].isin(failed)]
    tuned, betas = {}, {}
    for label, some in good.groupby("learner", sort=False):
        table = along(some, "regret", ("environment",))
        values = table.measured
        tuned[str(label)] = cross_fitted(values, halves(len(values)))
        betas[str(label)] = float(table.grid[values.mean(axis=0).argmin()])
    scores = pd.DataFrame([_score(label, regret, betas[label]) for label, regret in tuned.items()])
    pairs = [label for label in tuned if not label.startswith("chipo / ")]
    level = 1.0 - 0.05 / len(pairs)
    compared = pd.DataFrame([_compared(label, tuned, level) for label in pairs])
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "environments": len(study.environments),
                  "left out, as a learner failed": len(failed), "n": list(study.n),
                  "level of each comparison": level},
        tables={"rivals_scores": scores, "rivals_pairs": compared},
        findings=tuple(_finding(row) for _, row in compared.iterrows()),
        answer=_answer(scores, compared),
    )  # fmt: skip


def _score(label: str, regret: np.ndarray, beta: float) -> dict[str, object]:
    """Return the interquartile mean of the regret, with its BCa interval over environments."""
    key, name = label.split(" / ")
    found = stratified_bootstrap(
        regret, None, interquartile_mean, generator_for("rivals", f"bootstrap {label}", 0)
    )
    return {
        "learner": key, "policies": name, "beta": beta, "mean": float(regret.mean()),
        "iqm": found.estimate, "iqm_low": found.low, "iqm_high": found.high,
        "count": regret.size,
    }  # fmt: skip


def _compared(label: str, tuned: dict[str, np.ndarray], level: float) -> dict[str, object]:
    """Return what chiPO gains on a rival of the same class, environment by environment."""
    key, name = label.split(" / ")
    found = paired_comparison(tuned[label], tuned[f"chipo / {name}"], level)
    return {
        "rival": key, "policies": name, "gain": found.difference.estimate,
        "gain_low": found.difference.low, "gain_high": found.difference.high,
        "improvement": found.improvement.estimate, "improvement_low": found.improvement.low,
        "improvement_high": found.improvement.high, "wins": found.wins, "ties": found.ties,
        "losses": found.losses, "variance_ratio": found.variance_ratio, "count": found.pairs,
    }  # fmt: skip


# ---- what it says -----------------------------------------------------------------------------


def verdict_of(row: pd.Series) -> str:
    """Return who is better by the mean regret: nobody where the interval holds 0."""
    if row["gain_low"] > 0:
        return "chiPO is better"
    return "the rival is better" if row["gain_high"] < 0 else "no difference seen"


def _finding(row: pd.Series) -> Finding:
    return Finding(
        claim=f"chiPO against {row['rival']} over {_words(row['policies'])}",
        source="arXiv 2407.13399",
        measured=f"regret of the rival less chiPO's {row['gain']:+.4f} [{row['gain_low']:+.4f}, "
        f"{row['gain_high']:+.4f}]; P(chiPO better) + P(tie)/2 = {row['improvement']:.2f} "
        f"[{row['improvement_low']:.2f}, {row['improvement_high']:.2f}]",
        verdict=verdict_of(row),
        expected=None,
        table="rivals_pairs",
        computed_by=f"{_HERE}.analyse",
    )


def _words(policies: str) -> str:
    return "all policies" if policies == "all" else f"the {policies} of 16 rewards"


def _answer(scores: pd.DataFrame, compared: pd.DataFrame) -> str:
    parts = []
    for name, some in compared.groupby("policies", sort=False):
        own = scores[(scores["policies"] == name) & (scores["learner"] == "chipo")].iloc[0]
        rivals = ", ".join(
            f"{row['rival']} {row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]"
            for _, row in some.iterrows()
        )
        parts.append(
            f"over {_words(str(name))} chiPO's interquartile mean is {own['iqm']:.3f} and rivals' "
            f"mean regret exceeds chiPO's by: {rivals}"
        )
    better, worse = (
        int((compared.apply(verdict_of, axis=1) == verdict).sum())
        for verdict in ("chiPO is better", "the rival is better")
    )
    more = int((compared["improvement_low"] > 0.5).sum())
    less = int((compared["improvement_high"] < 0.5).sum())
    return (
        f"chiPO has a lower mean regret in {better} of {len(compared)} comparisons and a higher "
        f"one in {worse} (it is more often the better one in {more} and less often in {less}), "
        f"on {int(compared['count'].iloc[0])} environments at tuned beta, with "
        "intervals that hold together at 95%: " + "; ".join(parts) + "."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("rivals",))
