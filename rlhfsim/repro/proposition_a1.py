"""Proposition A.1 of arXiv 2407.13399: KL regularization is not enough.

For each n the learner fits the reward by maximum likelihood over `{r*, r~}` on n preference pairs
and then solves the regularized problem.  Everything random is which of the two rewards wins, so
the expected regret is `q(n) regret(r~) + (1 - q(n)) regret(r*)`, and `q(n)` is summed exactly over
the law of the four counts that the likelihood ratio depends on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, log_expit
from scipy.stats import binomtest

from rlhfsim.bounds import proposition_a1_floor, sharp_chi_squared_bound
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import Divergence
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.instances import PropositionA1, proposition_a1
from rlhfsim.laws import multinomial_counts
from rlhfsim.randomness import generator_for
from rlhfsim.repro.methods import METHODS
from rlhfsim.repro.search import OfBeta, minimize_over_beta
from rlhfsim.rewards import FiniteClass, fit_reward
from rlhfsim.sampling import sample_preferences
from rlhfsim.solvers import solve

NAME = "proposition_a1"
_HERE = f"rlhfsim.repro.{NAME}"

#: gamma of each method whose regret the sharp bound covers.
KL_WEIGHTS: dict[str, float | None] = {"KL": None, "chi2": 0.0, "mixed": 1.0}

# Likelihood ratios closer to 0 than this are ties; the probability of those that are not ties by
# symmetry is part of the result.
_TIE = 1e-12


@dataclass(frozen=True)
class Settings:
    """Sample sizes, beta grid, truncation of the counts, and the sampled check."""

    sizes: tuple[int, ...] = tuple(10**k for k in range(2, 9))
    beta_min: float = 1e-6
    beta_max: float = 1e2
    beta_points: int = 321
    #: Datasets with more pairs than this that contain the rare response are left out (and bounded).
    most_informative_pairs: int = 40
    sampled_sizes: tuple[int, ...] = (100, 1_000, 10_000)
    replications: int = 2_000


@dataclass(frozen=True)
class WrongRewardLaw:
    """The exact probability that maximum likelihood picks `r~`, and what was not summed."""

    #: Strictly preferred by the likelihood.
    preferred: float
    #: Tied, where a fair coin decides.
    tied: float
    #: Bound on the probability of all datasets beyond the truncation.
    truncated: float
    #: Probability of near-ties that no symmetry explains (0 unless rounding decides a tie).
    ambiguous: float

    @property
    def probability(self) -> float:
        """`P(r~ wins) = P(preferred) + P(tied)/2`, up to `truncated + ambiguous`."""
        return self.preferred + 0.5 * self.tied


def wrong_reward_law(n: int, most_informative_pairs: int = 40) -> WrongRewardLaw:
    """Return the exact law of the maximum-likelihood choice between `r*` and `r~`.

    The likelihoods differ only on pairs of the rare response with another one.  The counts of
    (a_0 beats a_2, a_2 beats a_0, a_1 beats a_2, a_2 beats a_1) are multinomial, and every vector
    of them that sums to at most `most_informative_pairs` is listed.
    """
    instance = proposition_a1(n)
    p = instance.bandit.reference[0]
    truth, wrong = instance.reward_class[:, 0, :]
    difference, wrong_difference = truth[:2] - truth[2], wrong[:2] - wrong[2]
    meet = 2.0 * p[:2] * p[2]
    cells = np.stack([meet * expit(difference), meet * expit(-difference)], axis=1).ravel()
    # Log-likelihood ratio of r* against r~ for one observation of each cell.
    evidence = np.stack(
        [
            log_expit(difference) - log_expit(wrong_difference),
            log_expit(-difference) - log_expit(-wrong_difference),
        ],
        axis=1,
    ).ravel()
    law = multinomial_counts(cells, n, most=most_informative_pairs)
    pmf, counts = law.table()
    ratio = counts @ evidence
    tied = np.abs(ratio) <= _TIE
    # By symmetry: as many wins as losses of a_0 against a_2, and a_1 never met a_2.
    symmetric = (counts[:, 0] == counts[:, 1]) & (counts[:, 2] == 0) & (counts[:, 3] == 0)
    return WrongRewardLaw(
        preferred=float(pmf[(ratio < 0) & ~symmetric].sum()),
        tied=float(pmf[symmetric].sum()),
        truncated=law.left_out,
        ambiguous=float(pmf[tied & ~symmetric].sum()),
    )


def regrets(instance: PropositionA1, divergence: Divergence, beta: FloatArray) -> FloatArray:
    """Return the (2, n_beta) regrets against `a_0` after learning `r*` and after learning `r~`."""
    policies = solve(
        instance.reward_class[:, None], instance.bandit.reference, divergence, beta[:, None]
    ).policy
    return instance.bandit.regret(policies, instance.comparator)


def expected_regret(
    instance: PropositionA1, divergence: Divergence, probability_wrong: float
) -> OfBeta:
    """Return the function beta -> expected regret over datasets."""

    def function(beta: FloatArray) -> FloatArray:
        right, wrong = regrets(instance, divergence, np.atleast_1d(beta))
        return np.asarray(probability_wrong * wrong + (1.0 - probability_wrong) * right)

    return function


def expected_bound(
    instance: PropositionA1, beta: float, probability_wrong: float, kl_weight: float
) -> float:
    """Return the expectation over datasets of the sharp chi-squared bound on the regret."""
    right, wrong = (
        sharp_chi_squared_bound(
            instance.bandit.reward, learned, instance.bandit.reference, beta,
            instance.comparator, instance.bandit.prompt_dist, kl_weight=kl_weight,
        )
        for learned in instance.reward_class
    )  # fmt: skip
    return float(probability_wrong * wrong + (1.0 - probability_wrong) * right)


def sampled_frequency(n: int, replications: int, rng: np.random.Generator) -> int:
    """Return how often `r~` is fitted in `replications` sampled datasets of n pairs."""
    instance = proposition_a1(n)
    model = FiniteClass(instance.reward_class)
    picks = (
        fit_reward(sample_preferences(instance.bandit, n, rng), model, rng=rng).index
        for _ in range(replications)
    )
    return sum(int(index == 1) for index in picks)


def run(settings: Settings, seed: int) -> StudyResult:
    """Return the curves, the summary per n, the sampled check, and the findings."""
    grid = np.geomspace(settings.beta_min, settings.beta_max, settings.beta_points)
    curves, summary = [], []
    for n in settings.sizes:
        instance = proposition_a1(n)
        law = wrong_reward_law(n, settings.most_informative_pairs)
        for method, divergence in METHODS.items():
            expected = expected_regret(instance, divergence, law.probability)
            right, wrong = regrets(instance, divergence, grid)
            curves.append(
                pd.DataFrame(
                    {
                        "n": n,
                        "method": method,
                        "beta": grid,
                        "regret": expected(grid),
                        "regret_right_reward": right,
                        "regret_wrong_reward": wrong,
                    }
                )
            )
            beta, value = minimize_over_beta(expected, grid)
            _, value_wrong = minimize_over_beta(expected_regret(instance, divergence, 1.0), grid)
            schedule = n**-0.5
            gamma = KL_WEIGHTS[method]
            bound = expected_bound(instance, schedule, law.probability, gamma or 0.0)
            summary.append(
                {
                    "n": n,
                    "method": method,
                    "probability_wrong": law.probability,
                    "probability_floor": 0.5 * (1.0 - 1.0 / n) ** (2 * n),
                    "truncated": law.truncated,
                    "ambiguous": law.ambiguous,
                    "best_beta": beta,
                    "regret": value,
                    "regret_log_n": value * np.log(n),
                    "regret_sqrt_n": value * np.sqrt(n),
                    "regret_at_beta_1_over_sqrt_n": float(expected(np.array([schedule]))[0]),
                    "bound_at_beta_1_over_sqrt_n": np.nan if gamma is None else bound,
                    "regret_wrong_reward": value_wrong,
                    "regret_wrong_reward_log_n": value_wrong * np.log(n),
                    "kl_floor": proposition_a1_floor(n) if method == "KL" else np.nan,
                }
            )
    tables = {
        f"{NAME}_curves": pd.concat(curves, ignore_index=True),
        f"{NAME}_summary": pd.DataFrame(summary),
        f"{NAME}_sampled": _sampled_check(settings, seed),
    }
    return StudyResult(
        name=NAME,
        title="Proposition A.1: KL regularization is not enough",
        question="Does any beta make KL-regularized learning consistent at rate 1/sqrt(n)?",
        settings=asdict(settings),
        tables=tables,
        findings=_findings(tables),
    )


def _sampled_check(settings: Settings, seed: int) -> pd.DataFrame:
    rows = []
    for n in settings.sampled_sizes:
        count = sampled_frequency(n, settings.replications, generator_for(NAME, f"n={n}", seed))
        interval = binomtest(count, settings.replications).proportion_ci(0.999, "exact")
        rows.append(
            {
                "n": n,
                "replications": settings.replications,
                "wrong": count,
                "frequency": count / settings.replications,
                "interval_low": interval.low,
                "interval_high": interval.high,
                "exact": wrong_reward_law(n, settings.most_informative_pairs).probability,
            }
        )
    return pd.DataFrame(rows)


def _findings(tables: dict[str, pd.DataFrame]) -> tuple[Finding, ...]:
    summary, sampled = tables[f"{NAME}_summary"], tables[f"{NAME}_sampled"]
    source = "arXiv 2407.13399, prop. A.1"
    by_method = dict(list(summary.groupby("method")))
    kl = by_method["KL"]
    above = bool((kl["regret_wrong_reward"] >= kl["kl_floor"]).all())
    span = f"n = {_power(kl['n'].min())}..{_power(kl['n'].max())}"
    scaled, given = kl["regret_log_n"], kl["regret_wrong_reward_log_n"]
    floor = (kl["kl_floor"] * np.log(kl["n"])).min()
    findings = [
        Finding(
            "KL: regret is Omega(1/log n) for every beta",
            source,
            f"regret x log n at the best beta: expected {scaled.min():.4f} to {scaled.max():.4f}; "
            f"given the wrong reward {given.min():.4f} to {given.max():.4f}, proved for every beta "
            f">= {floor:.4f}; {span}",
            "holds" if above else "violated",
            above,
            f"{NAME}_summary",
            f"{_HERE}.expected_regret; floor: rlhfsim.bounds.proposition_a1_floor",
        )
    ]
    for method, label in (("chi2", "chi2"), ("mixed", "chi2 + KL")):
        rows = by_method[method]
        root = np.sqrt(rows["n"])
        scheduled = rows["regret_at_beta_1_over_sqrt_n"] * root
        bound = rows["bound_at_beta_1_over_sqrt_n"] * root
        # eps_c^2 < 1/n, 2 D* = 1 and KL* = log 2 keep the bound itself below this.
        ceiling = 1.0 + (KL_WEIGHTS[method] or 0.0) * np.log(2.0)
        ok = bool((scheduled <= bound).all() and (bound <= ceiling).all())
        findings.append(
            Finding(
                f"{label}: regret is O(1/sqrt n) with beta = 1/sqrt n",
                source,
                f"expected regret x sqrt n <= {scheduled.max():.4f} at beta = 1/sqrt n, "
                f"<= {rows['regret_sqrt_n'].max():.4f} at the best beta, {span}; "
                f"the sharp bound gives {bound.max():.4f}, for every n below {ceiling:.4f}",
                "holds" if ok else "violated",
                ok,
                f"{NAME}_summary",
                f"{_HERE}.expected_regret; bound: {_HERE}.expected_bound",
            )
        )
    wrong, lowest = summary["probability_wrong"], summary["probability_floor"]
    left_out = summary["truncated"].max() + summary["ambiguous"].max()
    inside = bool(sampled["exact"].between(sampled["interval_low"], sampled["interval_high"]).all())
    constant = inside and bool((wrong - left_out >= lowest).all())
    findings.append(
        Finding(
            "the wrong reward is learned with constant probability",
            source,
            f"exactly {wrong.min():.4f} to {wrong.max():.4f} (left out {left_out:.0e}), never "
            f"below (1 - 1/n)^(2n)/2 >= {lowest.min():.4f}; {len(sampled)} sampled runs of "
            f"{sampled['replications'].iloc[0]} datasets {'agree' if inside else 'DISAGREE'}",
            "holds" if constant else "violated",
            constant,
            f"{NAME}_sampled",
            f"{_HERE}.wrong_reward_law",
        )
    )
    return tuple(findings)


def _power(n: int) -> str:
    return f"10^{round(np.log10(n))}" if 10 ** round(np.log10(n)) == n else str(n)
