"""Whether direct methods overoptimize when they are trained longer: regret against epochs.

One instance, chosen after others on which regret rose little or not at all: what is found says that
it happens, not how often.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rlhfsim.checks import FloatArray
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.statistics import PairedComparison, paired_comparison
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import along, cross_fitted, halves

_HERE = "rlhfsim.studies.shipped.epochs"

#: Loss of a trained method -> its key in figures.
LOSSES = {"DPO": "dpo", "chiPO": "chipo", "IPO": "ipo", "RPO": "rpo"}
BETAS = (0.1, 0.03)
#: Weight of RPO's imitation.
ETA = 0.005
#: Learning rates; IPO's loss is steeper by 1 / beta^2, and steps of 4 would overshoot.
RATES = {"DPO": 4.0, "chiPO": 4.0, "IPO": 0.4, "RPO": 4.0}

#: Regrets of the same environments, after the last epoch and after the best.
Pair = tuple[FloatArray, FloatArray]

_STEPS = (10, 20, 40, 80, 160, 320, 640, 1250, 2500, 5000, 10_000, 20_000)
_METRICS = ("regret", "kl", "chosen_logp", "rejected_logp")

_RANKS = range(15)
_TOTAL = sum((k + 1) ** -2.0 for k in _RANKS)
_REFERENCE = tuple((k + 1) ** -2.0 / _TOTAL for k in _RANKS)


def _rewards(best: int) -> tuple[float, ...]:
    """Return rewards that fall with the rank in the reference, but for one response."""
    return tuple(1.0 if k == best else 0.6 * (1.0 - k / 14.0) for k in _RANKS)


#: A good reference: rare responses are mostly worse.  Its environments are alike, and differ in
#: their datasets.
GOOD_REFERENCE = {
    "family": "explicit", "environments": 240, "reference": (_REFERENCE,) * 4,
    "reward": tuple(_rewards(best) for best in (1, 2, 3, 4)),
}  # fmt: skip

STUDY = Study.from_dict(
    {
        "name": "epochs",
        "title": "Training longer",
        "question": "Does chiPO still overoptimize when it is trained longer, and do DPO, IPO and "
        "RPO?",
        "instances": [
            GOOD_REFERENCE
        ],
        "learners": [
            {
                "method": "trained", "label": f"{key} {beta:g}", "loss": loss, "beta": beta,
                "learning_rate": RATES[loss], "grid": _STEPS,
                **({"eta": ETA} if loss == "RPO" else {}),
            }
            for beta in BETAS
            for loss, key in LOSSES.items()
        ],
        "n": [100],
        "seeds": 1,
        "likelihoods": True,
        "testing": {"environments": 6, "grid": 4},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return regret and likelihoods against epochs, and what training past the best one costs."""
    good = succeeded(rows)
    by = ["learner", "parameter_value"]
    averaged = good.groupby([*by, "environment"], sort=False)[list(_METRICS)].mean().reset_index()
    curves = means(averaged, by, _METRICS[0])
    for metric in _METRICS[1:]:
        curves = curves.merge(means(averaged, by, metric), on=[*by, "count"])
    curves = curves.rename(columns={"parameter_value": "epochs"})
    told = curves["learner"].str.split(" ", expand=True)
    curves = curves.assign(loss=told[0], beta=told[1].astype(float))
    pairs = {str(name): _last_and_best(some) for name, some in good.groupby("learner", sort=False)}
    rises = {name: paired_comparison(*pair) for name, pair in pairs.items()}
    peaks = pd.DataFrame([_peak(name, curves, rise) for name, rise in rises.items()])
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "seeds": study.seeds, "n": list(study.n),
                  "betas": list(BETAS), "eta": ETA, "learning rates": RATES},
        tables={"epochs_curves": curves, "epochs_peaks": peaks},
        findings=(*_findings(peaks), *_against_dpo(pairs)),
        answer=_answer(peaks),
    )  # fmt: skip


def _last_and_best(rows: pd.DataFrame) -> Pair:
    """Return the regret of each environment after the last epoch, and after the best one.

    Which one is best, the other half of the environments says.
    """
    each = along(rows, "regret").averaged()
    table = each.measured
    return table[:, -1], cross_fitted(table, halves(len(table)))


def _peak(name: str, curves: pd.DataFrame, rise: PairedComparison) -> dict[str, object]:
    mine = curves[curves["learner"] == name].sort_values("epochs")
    best, last = mine.loc[mine["regret"].idxmin()], mine.iloc[-1]
    return {
        "learner": name, "loss": best["loss"], "beta": float(best["beta"]),
        "best_epochs": float(best["epochs"]), "best_regret": float(best["regret"]),
        "last_epochs": float(last["epochs"]), "last_regret": float(last["regret"]),
        "rise": rise.difference.estimate, "rise_low": rise.difference.low,
        "rise_high": rise.difference.high,
        "best_kl": float(best["kl"]), "last_kl": float(last["kl"]),
        "last_chosen_logp": float(last["chosen_logp"]),
        "last_chosen_logp_low": float(last["chosen_logp_low"]),
        "last_chosen_logp_high": float(last["chosen_logp_high"]),
        "last_rejected_logp": float(last["rejected_logp"]),
        "count": rise.pairs,
    }  # fmt: skip


# ---- what it says -----------------------------------------------------------------------------


def _findings(peaks: pd.DataFrame) -> tuple[Finding, ...]:
    found = []
    for _, row in peaks.iterrows():
        low, high = row["rise_low"], row["rise_high"]
        verdict = "overoptimizes" if low > 0 else "improves" if high < 0 else "no rise seen"
        found.append(
            _finding(
                f"{row['loss']}, beta {row['beta']:g}: regret after {row['last_epochs']:g} epochs "
                "less that at the best number of epochs",
                "arXiv 2407.13399, section 5",
                f"{row['rise']:+.4f} [{low:+.4f}, {high:+.4f}]; the best is "
                f"{row['best_epochs']:g} epochs",
                verdict,
            )
        )
        chosen = row["last_chosen_logp_high"]
        found.append(
            _finding(
                f"{row['loss']}, beta {row['beta']:g}: in the end the log-probability of chosen "
                "responses is below the reference's",
                "arXiv 2410.08847",
                f"mean change {row['last_chosen_logp']:+.2f} "
                f"[{row['last_chosen_logp_low']:+.2f}, {chosen:+.2f}] nats for chosen, "
                f"{row['last_rejected_logp']:+.2f} for rejected responses",
                "displaced" if chosen < 0 else "not shown",
            )
        )
    return tuple(found)


def _against_dpo(pairs: dict[str, Pair]) -> list[Finding]:
    """Compare the rise of chiPO with that of DPO, environment by environment."""
    found = []
    for beta in BETAS:
        ours, theirs = (np.subtract(*pairs[f"{key} {beta:g}"]) for key in ("chipo", "dpo"))
        less = paired_comparison(ours, theirs).difference
        verdict = "less" if less.high < 0 else "more" if less.low > 0 else "no difference seen"
        found.append(
            _finding(
                f"beta {beta:g}: chiPO's rise of regret less DPO's",
                "arXiv 2407.13399, section 5",
                f"{ours.mean():+.4f} against {theirs.mean():+.4f}, difference "
                f"{less.estimate:+.4f} [{less.low:+.4f}, {less.high:+.4f}]",
                verdict,
            )
        )
    return found


def _finding(claim: str, source: str, measured: str, verdict: str) -> Finding:
    return Finding(claim, source, measured, verdict, None, "epochs_peaks", f"{_HERE}.analyse")


def _answer(peaks: pd.DataFrame) -> str:
    told = peaks.set_index("learner")
    parts = []
    for loss, key in LOSSES.items():
        row = told.loc[f"{key} {BETAS[0]:g}"]
        parts.append(
            f"{loss} from {row['best_regret']:.3f} (best, at {row['best_epochs']:g} epochs) by "
            f"{row['rise']:+.3f} [{row['rise_low']:+.3f}, {row['rise_high']:+.3f}]"
        )
    chipo = told.loc[f"chipo {BETAS[0]:g}"]
    said = "Yes" if chipo["rise_low"] > 0 else "Not visibly"
    weak, dpo = (told.loc[f"{key} {BETAS[1]:g}"] for key in ("chipo", "dpo"))
    return (
        f"{said}: until {chipo['last_epochs']:g} epochs at beta {BETAS[0]:g} the regret moves, for "
        + ", ".join(parts)
        + f"; at beta {BETAS[1]:g} chiPO by {weak['rise']:+.3f} [{weak['rise_low']:+.3f}, "
        f"{weak['rise_high']:+.3f}] and DPO by {dpo['rise']:+.3f} [{dpo['rise_low']:+.3f}, "
        f"{dpo['rise_high']:+.3f}]; at the end, at beta {BETAS[0]:g}, chiPO's chosen responses "
        f"have lost {-chipo['last_chosen_logp']:.1f} nats on average (DPO's "
        f"{-told.loc[f'dpo {BETAS[0]:g}', 'last_chosen_logp']:.1f})."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("epochs",))
