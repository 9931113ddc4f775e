"""How far a judge's proxy can be optimized before the judged quality falls, on a table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rlhfsim.findings import Finding, StudyResult
from rlhfsim.inference import best_of_n_chi_squared_bound, best_of_n_kl_formula
from rlhfsim.statistics import mean_interval, paired_comparison
from rlhfsim.studies.shipped.base import Shipped, means, succeeded
from rlhfsim.studies.study import Study
from rlhfsim.studies.tuning import along, cross_fitted, halves
from rlhfsim.table import example_table

_HERE = "rlhfsim.studies.shipped.judged"
_BEST_OF_N = "best-of-n"
_DIVERGENCES = {"rlhf-kl": "kl", "rlhf-chi2": "chi2", "rlhf-mixed": "chi2 + kl"}
#: What a learner maximises: the proxy of the table, or a reward learned from preferences.
_SOURCES = {
    "proxy": {"model": "proxy", "standardised": True},
    "learned": {"model": "tabular", "ridge": 0.1},
}
_DRAWS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512, 1024]

#: A gain that ends this share below its peak counts as falling.
_FALL = 0.01
#: Rounding allowed in inequalities, relative to the largest number compared.
_TOLERANCE = 1e-9

STUDY = Study.from_dict(
    {
        "name": "judged",
        "title": "Overoptimization on a table of judged responses",
        "question": "How far can a proxy be optimized before the judged quality falls, and how "
        "much further a reward that is learned from preferences?",
        "instances": [{"family": "table", "label": "table", "path": str(example_table())}],
        "learners": [
            entry
            for source, reward in _SOURCES.items()
            for entry in (
                *(
                    {"method": "RLHF", "label": f"{name}, {source}", "divergence": text,
                     "reward": reward}
                    for name, text in _DIVERGENCES.items()
                ),
                {"method": "best-of-N", "label": f"{_BEST_OF_N}, {source}", "grid": _DRAWS,
                 "reward": reward},
            )
        ],
        "n": [10**k for k in range(2, 7)],
        "beta": {"start": 1e-3, "stop": 1e2, "points": 36},
        "seeds": 8,
        "testing": {"seeds": 2, "n": [100, 10_000], "grid": 9},
    }
)  # fmt: skip


def analyse(rows: pd.DataFrame, study: Study) -> StudyResult:
    """Return gold gain along every path, and where it peaks."""
    good = succeeded(rows)
    parts = good["learner"].str.split(", ", expand=True)
    good = good.assign(learner=parts[0], source=parts[1])
    for source in _SOURCES:
        if not (good["source"] == source).any():
            raise ValueError(f"no cell with the {source} reward succeeded: {rows['error'].iloc[0]}")
    good = _paths(good)
    curves = _curves(good)
    peaks = pd.DataFrame([_peak(*key, own) for key, own in _each(good)])
    return StudyResult(
        name=study.name,
        title=study.title,
        question=study.question,
        settings={"cells": study.cells, "seeds": study.seeds, "n": list(study.n)},
        tables={"judged_curves": curves, "judged_peaks": peaks},
        findings=_findings(good, peaks),
        answer=_answer(peaks),
    )


def _paths(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the cells, those of the proxy once: they use no data, so n is 0."""
    proxy = rows["source"] == "proxy"
    once = proxy & (rows["n"] == rows["n"].min()) & (rows["seed"] == 0)
    kept = rows[once | ~proxy]
    return kept.assign(n=kept["n"].where(kept["source"] != "proxy", 0))


_PATH = ["source", "n", "learner"]


def _each(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, int, str], pd.DataFrame]]:
    for (source, n, learner), own in rows.groupby(_PATH, sort=False):
        yield (source, int(n), learner), own


def _curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Return means along every path, in the order of rising optimization."""
    by = [*_PATH, "parameter_value"]
    found = means(rows, by, "gain")
    for name in ("kl", "concentrability", "fitted_gain"):
        found = found.merge(means(rows, by, name)[[*by, name]], on=by)
    found["sqrt_kl"] = np.sqrt(found["kl"].clip(lower=0.0))
    draws = found["learner"] == _BEST_OF_N
    effort = found["parameter_value"].where(draws, -found["parameter_value"])
    return found.assign(effort=effort).sort_values([*_PATH, "effort"]).drop(columns="effort")


def _peak(source: str, n: int, learner: str, rows: pd.DataFrame) -> dict[str, object]:
    """Return the peak of one path; the gain of learned rewards is at a value others chose."""
    grid, values, _ = along(rows, "gain")
    mean = values.mean(axis=0)
    best = int(mean.argmax())
    at_best = rows[rows["parameter_value"] == grid[best]]
    end = mean[-1] if learner == _BEST_OF_N else mean[0]
    gain, low, high = _interval(_tuned(values))
    return {
        "source": source,
        "n": n,
        "learner": learner,
        "parameter": float(grid[best]),
        "gain": gain,
        "gain_low": low,
        "gain_high": high,
        "kl": float(at_best["kl"].mean()),
        "concentrability": float(at_best["concentrability"].mean()),
        "largest_mean": float(mean[best]),
        "gain_at_end": float(end),
        "lost": float(mean[best] - end),
        "best_gain": float((at_best["gain"] + at_best["regret"]).mean()),
        "count": len(values),
    }


def _tuned(values: np.ndarray) -> np.ndarray:
    """Return the gain of each seed at the value that the other half of the seeds prefers."""
    if len(values) == 1:
        return values.max(axis=1)
    return -cross_fitted(-values, halves(len(values)))


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    if len(values) == 1:
        return (float(values[0]),) * 3
    found = mean_interval(values)
    return found.estimate, found.low, found.high


# ---- findings -----------------------------------------------------------------------------------


def _findings(rows: pd.DataFrame, peaks: pd.DataFrame) -> tuple[Finding, ...]:
    return (
        *(_falls(row) for _, row in peaks[peaks["source"] == "proxy"].iterrows()),
        *(
            _against_kl(rows, n, learner)
            for n in sorted(rows.loc[rows["source"] == "learned", "n"].unique())
            for learner in ("rlhf-chi2", "rlhf-mixed", _BEST_OF_N)
        ),
        _optimal(rows, "rlhf-kl", "kl"),
        _optimal(rows, "rlhf-chi2", "chi_squared"),
        _best_of_n(rows),
    )


def _finding(
    claim: str, source: str, measured: str, verdict: str, expected: bool | None, table: str
) -> Finding:
    return Finding(
        claim=claim, source=source, measured=measured, verdict=verdict, expected=expected,
        table=table, computed_by=f"{_HERE}.analyse",
    )  # fmt: skip


def _falls(row: pd.Series) -> Finding:
    falls = row["lost"] > _FALL * abs(row["gain"])
    return _finding(
        f"{row['learner']}: gold gain falls when the proxy is optimized further",
        "arXiv 2210.10760",
        f"peak {row['gain']:.3f} at KL {row['kl']:.3f}, C {row['concentrability']:.3f}; "
        f"{row['gain_at_end']:.3f} at the end",
        "falls" if falls else "does not fall",
        None,
        "judged_peaks",
    )


def _against_kl(rows: pd.DataFrame, n: int, learner: str) -> Finding:
    mine = rows[(rows["source"] == "learned") & (rows["n"] == n)]
    first, second = (
        _tuned(along(mine[mine["learner"] == name], "gain")[1]) for name in (learner, "rlhf-kl")
    )
    d = paired_comparison(first, second).difference
    return _finding(
        f"{learner} gains more than rlhf-kl on rewards learned from {n:,} preferences",
        "arXiv 2407.13399",
        f"difference at the peaks {d.estimate:+.4f} [{d.low:+.4f}, {d.high:+.4f}]",
        "higher" if d.low > 0 else "lower" if d.high < 0 else "no difference seen",
        None,
        "judged_peaks",
    )


def _optimal(rows: pd.DataFrame, learner: str, divergence: str) -> Finding:
    """Return whether no other policy has more fitted reward less beta times the divergence."""
    worst = -np.inf
    for _, group in rows.groupby(["source", "n", "seed"], sort=False):
        own, others = group[group["learner"] == learner], group[group["learner"] != learner]
        beta = own["parameter_value"].to_numpy()
        best = own["fitted_gain"].to_numpy() - beta * own[divergence].to_numpy()
        reward, cost = (others[name].to_numpy() for name in ("fitted_gain", divergence))
        excess = reward - beta[:, None] * cost - best[:, None]
        scale = np.abs(reward).max() + beta[:, None] * cost.max()
        worst = max(worst, float((excess / scale).max()))
    holds = worst <= _TOLERANCE
    return _finding(
        f"no policy beats {learner} at the fitted reward less beta times its own divergence",
        "arXiv 2407.13399",
        f"largest excess {worst:.1e} of the numbers compared",
        "holds" if holds else "VIOLATED",
        holds,
        "judged_curves",
    )


def _best_of_n(rows: pd.DataFrame) -> Finding:
    own = rows[rows["learner"] == _BEST_OF_N]
    draws = own["parameter_value"].to_numpy()
    kl = (own["kl"] - best_of_n_kl_formula(draws)).max()
    cover = own["concentrability"] / (1.0 + 2.0 * best_of_n_chi_squared_bound(draws))
    holds = bool(kl <= _TOLERANCE and cover.max() <= 1.0 + _TOLERANCE)
    return _finding(
        "best-of-N: KL <= log N - (N-1)/N and C <= N^2/(2N-1)",
        "arXiv 2401.01879",
        f"largest KL less its bound {kl:.1e}, largest C over its bound {cover.max():.6f}",
        "holds" if holds else "VIOLATED",
        holds,
        "judged_curves",
    )


def _answer(peaks: pd.DataFrame) -> str:
    proxy = peaks[peaks["source"] == "proxy"].set_index("learner")
    learned = peaks[peaks["source"] == "learned"]
    told = [
        f"{title} peaks at {row['gain']:.3f} (KL {row['kl']:.3f}, C {row['concentrability']:.2f}) "
        f"and ends at {row['gain_at_end']:.3f}"
        for name, title in (("rlhf-kl", "KL"), ("rlhf-chi2", "chi2"), (_BEST_OF_N, "best-of-N"))
        for row in (proxy.loc[name],)
    ]
    most = learned["n"].max()
    reached = [
        f"{row['gain']:.3f} [{row['gain_low']:.3f}, {row['gain_high']:.3f}] by {title} from {n:,}"
        for n in sorted({learned["n"].min(), most})
        for name, title in (("rlhf-kl", "KL"), ("rlhf-chi2", "chi2"))
        for _, row in learned[(learned["n"] == n) & (learned["learner"] == name)].iterrows()
    ]
    return (
        f"The best policy gains {proxy['best_gain'].iloc[0]:.3f} in judged reward over the "
        f"reference; optimizing the proxy, {'; '.join(told)}; rewards learned from preferences "
        f"gain {', '.join(reached)}."
    )


SHIPPED = Shipped(study=STUDY, analyse=analyse, figures=("judged",))
