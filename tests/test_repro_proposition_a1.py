"""Proposition A.1: every number of its tables by a second route."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom, multinomial

from rlhfsim import KL, ChiSquared, FiniteClass, PreferenceData, fit_reward, proposition_a1
from rlhfsim.repro.proposition_a1 import (
    METHODS,
    Settings,
    expected_regret,
    run,
    sampled_frequency,
    wrong_reward_law,
)
from rlhfsim.solvers.high_precision import solve_high_precision

SETTINGS = Settings(
    sizes=(100, 10_000, 10**8), beta_points=161, sampled_sizes=(100, 1000), replications=400
)


@pytest.fixture(scope="module")
def result():
    return run(SETTINGS, seed=0)


def probability_by_listing_datasets(n):
    """Fit the reward on every dataset of n pairs and add up the probabilities."""
    instance = proposition_a1(n)
    p, r = instance.bandit.reference[0], instance.bandit.reward[0]
    model = FiniteClass(instance.reward_class)
    outcomes = [
        (a, b, p[a] * p[b] * expit(r[a] - r[b]) * (1 if a == b else 2))
        for a, b in itertools.product(range(3), repeat=2)
    ]
    # A pair (a, a) has one outcome (labelled either way); a != b arises from two orders.
    outcomes = [(a, b, q * (2 if a == b else 1)) for a, b, q in outcomes]
    total = 0.0
    for dataset in itertools.combinations_with_replacement(range(len(outcomes)), n):
        counts = np.bincount(dataset, minlength=len(outcomes))
        chance = multinomial.pmf(counts, n, [q for *_, q in outcomes])
        chosen, rejected = np.array([outcomes[i][:2] for i in dataset]).T
        data = PreferenceData(np.zeros(n, int), chosen, rejected, shape=(1, 3))
        fit = fit_reward(data, model)
        tied = len(fit.tied) > 1
        total += chance * (0.5 if tied else float(fit.index == 1))
    return total


@pytest.mark.parametrize("n", [3, 4])
def test_law_agrees_with_fitting_every_dataset(n):
    law = wrong_reward_law(n)
    assert law.probability == pytest.approx(probability_by_listing_datasets(n), rel=1e-12)
    assert law.ambiguous == 0.0


def probability_by_pairs_and_wins(n, most=30):
    """The same sum in another order: pairs met (multinomial), then wins of each (binomial)."""
    instance = proposition_a1(n)
    p, (truth, wrong) = instance.bandit.reference[0], instance.reward_class[:, 0]
    meet = 2 * p[:2] * p[2]
    win, win_wrong = expit(truth[:2] - truth[2]), expit(wrong[:2] - wrong[2])
    gain, loss = np.log(win / win_wrong), np.log((1 - win) / (1 - win_wrong))
    total = 0.0
    for m0, m1 in itertools.product(range(most), repeat=2):
        if m0 + m1 > n:
            continue
        both = multinomial.pmf([m0, m1, n - m0 - m1], n, [*meet, 1 - meet.sum()])
        for k0, k1 in itertools.product(range(m0 + 1), range(m1 + 1)):
            ratio = k0 * gain[0] + (m0 - k0) * loss[0] + k1 * gain[1] + (m1 - k1) * loss[1]
            share = 0.5 if abs(ratio) < 1e-12 else float(ratio < 0)
            total += both * binom.pmf(k0, m0, win[0]) * binom.pmf(k1, m1, win[1]) * share
    return total


def test_law_agrees_with_another_order_of_summation():
    assert wrong_reward_law(100).probability == pytest.approx(
        probability_by_pairs_and_wins(100, 16), abs=1e-9
    )


@pytest.mark.parametrize("n", [10**4, 10**8])
def test_law_of_large_samples_against_forty_digits(n):
    """The product of its factors, without logarithms; few informative pairs suffice."""
    most = 7
    instance = proposition_a1(n)
    p, (truth, wrong) = instance.bandit.reference[0], instance.reward_class[:, 0]
    meet = 2.0 * p[:2] * p[2]
    chances = np.stack([expit(truth[:2] - truth[2]), expit(truth[2] - truth[:2])], axis=1)
    other = np.stack([expit(wrong[:2] - wrong[2]), expit(wrong[2] - wrong[:2])], axis=1)
    evidence = np.log(chances / other).ravel()
    law = wrong_reward_law(n, most)
    with mpmath.workdps(40):
        cells = [mpmath.mpf(float(c)) for c in (meet[:, None] * chances).ravel()]
        rest = 1 - mpmath.fsum(cells)
        total = mpmath.mpf(0)
        for counts in itertools.product(range(most + 1), repeat=4):
            s = sum(counts)
            ratio = float(np.dot(counts, evidence))
            if s > most or ratio > 1e-9:
                continue
            chance = mpmath.mpf(math.prod(range(n - s + 1, n + 1))) * rest ** (n - s)
            for cell, count in zip(cells, counts, strict=True):
                chance *= cell**count / math.factorial(count)
            total += chance / 2 if abs(ratio) < 1e-9 else chance
        assert law.probability == pytest.approx(float(total), rel=2e-14)


def test_truncation_is_bounded_and_accounted_for():
    full, short = wrong_reward_law(1000, 40), wrong_reward_law(1000, 6)
    assert full.truncated < 1e-30
    assert 1e-4 < short.truncated < 0.05
    assert 0 < full.probability - short.probability <= short.truncated + 1e-15
    with np.errstate(all="raise"):
        assert wrong_reward_law(10**8).ambiguous == 0.0


def test_ties_decided_by_rounding_are_reported(monkeypatch):
    """With a tolerance that makes everything a tie, all but the symmetric ties are ambiguous."""
    from rlhfsim.repro import proposition_a1 as module

    monkeypatch.setattr(module, "_TIE", 1e9)
    law = wrong_reward_law(100)
    assert law.ambiguous == pytest.approx(1.0 - law.tied, rel=1e-12)


def test_sampled_frequency_is_within_its_interval(result):
    sampled = result.tables["proposition_a1_sampled"]
    assert list(sampled["n"]) == [100, 1000]
    assert (sampled["interval_high"] - sampled["interval_low"] < 0.2).all()
    assert sampled["exact"].between(sampled["interval_low"], sampled["interval_high"]).all()


def test_sampled_run_is_reproducible_and_calls_the_real_pipeline():
    counts = [sampled_frequency(50, 200, np.random.default_rng(s)) for s in (1, 1, 2)]
    assert counts[0] == counts[1] != counts[2]


def regret_in_mpmath(n, beta, which, divergence):
    """Regret against a_0 for the reward `which`, from the 50-digit solver."""
    instance = proposition_a1(n)
    with mpmath.workdps(50):
        policy = solve_high_precision(
            instance.reward_class[which, 0], instance.bandit.reference[0], divergence, beta
        ).policy
        truth = [mpmath.mpf(float(v)) for v in instance.bandit.reward[0]]
        return truth[0] - mpmath.fsum(p * r for p, r in zip(policy, truth, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_regret_and_best_beta_agree_with_mpmath(result, method):
    summary = result.tables["proposition_a1_summary"]
    for row in summary[summary["method"] == method].itertuples():

        def expected(beta, n=row.n, q=row.probability_wrong):
            wrong = regret_in_mpmath(n, beta, 1, METHODS[method])
            return float(q * wrong + (1 - q) * regret_in_mpmath(n, beta, 0, METHODS[method]))

        assert row.regret == pytest.approx(expected(row.best_beta), rel=1e-9)
        # A minimum: no beta nearby or far away is better.
        for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0, 0.01, 100.0):
            assert expected(row.best_beta * factor) >= row.regret * (1 - 1e-9)
        assert row.regret_at_beta_1_over_sqrt_n == pytest.approx(expected(row.n**-0.5), rel=1e-9)
        assert row.regret_log_n == pytest.approx(row.regret * np.log(row.n), rel=1e-14)
        assert row.regret_sqrt_n == pytest.approx(row.regret * np.sqrt(row.n), rel=1e-14)


def test_kl_regret_closed_form():
    """The explicit function of t = 1/beta of the proposition's proof."""
    n, t = 10**6, 7.3
    delta = 1 / (2 * np.log(n))
    weights = np.array([0.5, (0.5 - 1 / n) * np.exp(-delta * t), np.exp(t / 2) / n])
    weights /= weights.sum()
    closed = delta * weights[1] + 0.5 * weights[2]
    instance = proposition_a1(n)
    got = expected_regret(instance, KL(), 1.0)(np.array([1 / t]))[0]
    assert got == pytest.approx(closed, rel=1e-12)


def test_curves_hold_the_summary(result):
    curves, summary = (result.tables[f"proposition_a1_{k}"] for k in ("curves", "summary"))
    assert len(curves) == 3 * 3 * 161
    for row in summary.itertuples():
        points = curves[(curves["n"] == row.n) & (curves["method"] == row.method)]
        assert row.regret <= points["regret"].min() <= row.regret * 1.5
        assert (points["beta"].diff().dropna() > 0).all()


def test_rates_and_findings(result):
    summary = result.tables["proposition_a1_summary"].set_index(["method", "n"])
    kl, chi = summary.loc["KL"], summary.loc["chi2"]
    # KL times sqrt(n) explodes; chi-squared times log(n) vanishes.
    assert kl["regret_sqrt_n"].iloc[-1] > 100 * kl["regret_sqrt_n"].iloc[0]
    assert kl["regret_log_n"].min() > 0.15
    assert chi["regret_log_n"].iloc[-1] < 1e-4
    assert all(f.expected for f in result.findings)
    assert [f.verdict for f in result.findings] == ["holds"] * 4


def test_findings_can_fail(result):
    from rlhfsim.repro import proposition_a1 as module

    tables = {k: v.copy() for k, v in result.tables.items()}
    summary = tables["proposition_a1_summary"]
    summary.loc[summary["method"] == "KL", "regret_wrong_reward"] *= 0.1
    summary.loc[summary["method"] == "chi2", "regret_at_beta_1_over_sqrt_n"] *= 20
    mixed = summary["method"] == "mixed"
    summary.loc[mixed, "bound_at_beta_1_over_sqrt_n"] *= 2
    summary["probability_wrong"] /= 5
    verdicts = [f.expected for f in module._findings(tables)]
    assert verdicts == [False, False, False, False]


def test_scheduled_regret_obeys_the_sharp_bound():
    from rlhfsim.bounds import sharp_chi_squared_bound

    for n in (100, 10**6):
        instance = proposition_a1(n)
        bound = sharp_chi_squared_bound(
            instance.reward_class[0], instance.reward_class[1], instance.bandit.reference,
            n**-0.5, instance.comparator, [1.0],
        )  # fmt: skip
        wrong = expected_regret(instance, ChiSquared(), 1.0)(np.array([n**-0.5]))[0]
        assert wrong <= bound <= 1 / np.sqrt(n) * 1.0001
