"""Overoptimization curves: gold and proxy reward along the path of each method.

The path is traced by beta (KL, chi-squared, mixed) or by N (best-of-N); every policy on it is
exact, and so are its gold value, KL and concentrability.  Axes follow arXiv 2210.10760: gold
reward against `sqrt(KL(pi || pi_ref))`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.coverage import concentrability
from rlhfsim.divergences import KL, Divergence
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.inference import best_of_n, best_of_n_chi_squared_bound, best_of_n_kl_formula
from rlhfsim.instances import uniform_reward, zipf_bandit
from rlhfsim.randomness import generator_for
from rlhfsim.repro.methods import METHODS
from rlhfsim.repro.search import minimize_over_beta
from rlhfsim.rewards import Tabular, fit_reward
from rlhfsim.sampling import sample_preferences
from rlhfsim.solvers import solve

NAME = "overoptimization"
_HERE = f"rlhfsim.repro.{NAME}"

BEST_OF_N = "best-of-N"

#: A gold gain that ends this much below its peak, relatively, counts as falling.
_FALL = 0.01

#: Rounding allowed on a monotone path, relative to the range of the proxy.
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Settings:
    """The random instance, its preference data, and the grids."""

    prompts: int = 20
    responses: int = 200
    zipf_exponent: float = 1.5
    reward_range: float = 4.0
    #: The box in which the proxy is fitted, wider than the truth.
    fit_range: float = 12.0
    preferences: int = 2_000
    #: beta in units of the standard deviation of the proxy under the reference.
    beta_min: float = 1e-3
    beta_max: float = 1e3
    beta_points: int = 121
    #: N = 1, 2, 4, ..., 2**most_doublings, with three steps between.
    most_doublings: int = 14


def learned_instance(settings: Settings, seed: int) -> ContextualBandit:
    """Return a Zipf-tailed bandit whose proxy is the reward fitted to preferences sampled from it.

    Maximum likelihood in the box `[0, fit_range]`: rare responses are compared seldom, and one
    lucky win is enough to push one to the top.
    """
    rng = generator_for(NAME, "learned proxy", seed)
    bandit = zipf_bandit(
        settings.prompts, settings.responses, rng, exponent=settings.zipf_exponent,
        reward_law=lambda g, shape: settings.reward_range * uniform_reward(g, shape),
    )  # fmt: skip
    data = sample_preferences(bandit, settings.preferences, rng)
    fit = fit_reward(data, Tabular(r_max=settings.fit_range))
    return replace(bandit, proxy_reward=fit.reward)


def with_proxy(bandit: ContextualBandit, settings: Settings, seed: int) -> ContextualBandit:
    """Return the bandit itself if it has a proxy, else with one fitted to sampled preferences."""
    if bandit.proxy_reward is not None:
        return bandit
    rng = generator_for(NAME, "table proxy", seed)
    data = sample_preferences(bandit, settings.preferences, rng)
    return replace(bandit, proxy_reward=fit_reward(data, Tabular(ridge=1.0)).reward)


def standardised_proxy(bandit: ContextualBandit) -> FloatArray:
    """Return the proxy with mean 0 per prompt and standard deviation 1 overall, under pi_ref."""
    assert bandit.proxy_reward is not None
    p, rho = bandit.reference, bandit.prompt_dist
    centred = bandit.proxy_reward - (p * bandit.proxy_reward).sum(axis=1, keepdims=True)
    deviation = float(np.sqrt((p * centred**2).sum(axis=1) @ rho))
    if deviation == 0:
        raise ValueError("proxy_reward is constant on every prompt; there is nothing to optimize")
    return np.asarray(centred / deviation)


def measure(bandit: ContextualBandit, proxy: FloatArray, policies: FloatArray) -> pd.DataFrame:
    """Return gold, proxy, KL and concentrability of each policy of an (m, X, Y) stack."""
    p, rho = bandit.reference, bandit.prompt_dist
    kl = KL()(policies, p, rho)
    return pd.DataFrame(
        {
            "gold": bandit.value(policies) - bandit.value(p),
            "proxy": (policies * proxy).sum(axis=-1) @ rho,
            "kl": kl,
            "sqrt_kl": np.sqrt(kl),
            "concentrability": concentrability(policies, p, rho),
        }
    )


def curves(bandit: ContextualBandit, settings: Settings) -> pd.DataFrame:
    """Return one row per method and point of its path.

    `gold` is the gain over pi_ref; `penalty` is the method's own divergence (none for best-of-N).
    """
    proxy = standardised_proxy(bandit)
    betas = np.geomspace(settings.beta_max, settings.beta_min, settings.beta_points)
    parts = []
    for method, divergence in METHODS.items():
        policies = solve(proxy, bandit.reference, divergence, betas[:, None]).policy
        penalty = divergence(policies, bandit.reference, bandit.prompt_dist)
        points = measure(bandit, proxy, policies)
        parts.append(points.assign(method=method, parameter=betas, penalty=penalty))
    counts = np.unique(np.round(2.0 ** (np.arange(4 * settings.most_doublings + 1) / 4.0)))
    policies = best_of_n(bandit.reference, proxy, counts[:, None])
    parts.append(
        measure(bandit, proxy, policies).assign(
            method=BEST_OF_N,
            parameter=counts,
            kl_formula=best_of_n_kl_formula(counts),
            concentrability_bound=1.0 + 2.0 * best_of_n_chi_squared_bound(counts),
        )
    )
    return pd.concat(parts, ignore_index=True)


def peaks(bandit: ContextualBandit, settings: Settings, table: pd.DataFrame) -> pd.DataFrame:
    """Return the peak of the gold reward per method, and the KL and concentrability spent there."""
    proxy = standardised_proxy(bandit)
    rows = []
    for method, points in table.groupby("method", sort=False):
        if method == BEST_OF_N:
            best = points.loc[points["gold"].idxmax()]
        else:
            best = _peak_over_beta(bandit, proxy, METHODS[str(method)], points)
        rows.append(
            {
                "method": method,
                "parameter": best["parameter"],
                "gold": best["gold"],
                "proxy": best["proxy"],
                "kl": best["kl"],
                "concentrability": best["concentrability"],
                "gold_at_end": points["gold"].iloc[-1],
            }
        )
    return pd.DataFrame(rows)


def _peak_over_beta(
    bandit: ContextualBandit, proxy: FloatArray, divergence: Divergence, points: pd.DataFrame
) -> pd.Series:
    """Return the measurements at the beta of largest gold reward, refined from the path."""

    def at(beta: FloatArray) -> pd.DataFrame:
        return measure(
            bandit, proxy, solve(proxy, bandit.reference, divergence, beta[:, None]).policy
        )

    rising = points.iloc[::-1]
    beta, _ = minimize_over_beta(
        lambda b: -at(b)["gold"].to_numpy(),
        rising["parameter"].to_numpy(),
        -rising["gold"].to_numpy(),
    )
    return at(np.array([beta])).assign(parameter=beta).iloc[0]


def run(settings: Settings, seed: int, table: ContextualBandit | None = None) -> StudyResult:
    """Return curves and peaks on the random instance, and on `table` when one is given."""
    bandits = {"random": learned_instance(settings, seed)}
    if table is not None:
        bandits["table"] = with_proxy(table, settings, seed)
    all_curves, all_peaks = [], []
    for instance, bandit in bandits.items():
        points = curves(bandit, settings)
        all_curves.append(points.assign(instance=instance))
        all_peaks.append(peaks(bandit, settings, points).assign(instance=instance))
    tables = {
        f"{NAME}_curves": pd.concat(all_curves, ignore_index=True),
        f"{NAME}_peaks": pd.concat(all_peaks, ignore_index=True),
    }
    return StudyResult(
        name=NAME,
        title="Overoptimization curves",
        question="How far can a proxy be optimized before the gold reward falls?",
        settings=asdict(settings),
        tables=tables,
        findings=_findings(tables, tuple(bandits)),
    )


def _smallest_step(rows: pd.DataFrame) -> float:
    """Return the smallest step of proxy and of own divergence along any path; NaN if any is."""
    steps = [
        np.diff(path[column].to_numpy())
        for method, path in rows.groupby("method")
        for column in ("proxy", "penalty")
        if not (method == BEST_OF_N and column == "penalty")
    ]
    return float(np.concatenate(steps).min())


def _findings(
    tables: Mapping[str, pd.DataFrame], instances: tuple[str, ...]
) -> tuple[Finding, ...]:
    points, best = tables[f"{NAME}_curves"], tables[f"{NAME}_peaks"]
    findings = []
    for instance in instances:
        rows, tops = points[points["instance"] == instance], best[best["instance"] == instance]
        falls = tops["gold_at_end"] < (1.0 - _FALL) * tops["gold"]
        spent = "; ".join(
            f"{t.method} {t.gold:.3f} at KL {t.kl:.2f}, C {t.concentrability:.2f}"
            for t in tops.itertuples()
        )
        findings.append(
            Finding(
                f"gold gain falls by more than {_FALL:.0%} after its peak ({instance})",
                "arXiv 2210.10760",
                f"peak gain over pi_ref: {spent}",
                f"falls for {int(falls.sum())} of {len(tops)}",
                None,
                f"{NAME}_peaks",
                f"{_HERE}.peaks",
            )
        )
        smallest = _smallest_step(rows)
        monotone = smallest >= -_TOLERANCE
        findings.append(
            Finding(
                f"proxy reward and own divergence never fall along a path ({instance})",
                "revealed preference",
                f"smallest step {smallest:.1e} over {len(rows)} points",
                "holds" if monotone else "violated",
                monotone,
                f"{NAME}_curves",
                f"{_HERE}.curves",
            )
        )
        bon = rows[rows["method"] == BEST_OF_N]
        excess = float(
            max(
                (bon["kl"] - bon["kl_formula"]).max(),
                (bon["concentrability"] - bon["concentrability_bound"]).max(),
            )
        )
        last = bon.iloc[-1]
        below = excess <= _TOLERANCE
        findings.append(
            Finding(
                f"best-of-N: KL <= log N - (N-1)/N and C <= N^2/(2N-1) ({instance})",
                "arXiv 2009.01325; 2401.01879",
                f"at N = {last['parameter']:.0f} the formula says {last['kl_formula']:.2f}, "
                f"the KL is {last['kl']:.2f}",
                "holds" if below else "violated",
                below,
                f"{NAME}_curves",
                "rlhfsim.inference.best_of_n",
            )
        )
    return tuple(findings)
