"""Overoptimization curves: every column by a second route on a small instance."""

from dataclasses import replace

import mpmath
import numpy as np
import pandas as pd
import pytest

from rlhfsim import KL, ChiSquared, ContextualBandit, example_table, random_bandit
from rlhfsim.repro.overoptimization import (
    BEST_OF_N,
    METHODS,
    Settings,
    _findings,
    learned_instance,
    run,
    standardised_proxy,
    with_proxy,
)
from rlhfsim.solvers.high_precision import solve_high_precision

SETTINGS = Settings(
    prompts=3, responses=12, preferences=400, beta_points=31, most_doublings=8, beta_min=1e-2
)


@pytest.fixture(scope="module")
def bandit():
    return learned_instance(SETTINGS, seed=0)


@pytest.fixture(scope="module")
def result():
    return run(SETTINGS, seed=0, table=ContextualBandit.from_table(example_table()))


def mpf(value):
    return mpmath.mpf(float(value))


def exact_row(bandit, policy):
    """Gold gain, proxy, KL and C of one policy, every sum written out in mpmath."""
    raw = bandit.proxy_reward
    gold = proxy = kl = c = variance = mpmath.mpf(0)
    for x, rho in enumerate(bandit.prompt_dist):
        p = [mpf(v) for v in bandit.reference[x]]
        mean = sum(q * mpf(v) for q, v in zip(p, raw[x], strict=True))
        for y, q in enumerate(p):
            pi, share = policy[x][y], mpf(rho)
            gold += share * (pi - q) * mpf(bandit.reward[x, y])
            proxy += share * pi * (mpf(raw[x, y]) - mean)
            variance += share * q * (mpf(raw[x, y]) - mean) ** 2
            if pi > 0:
                kl += share * pi * mpmath.log(pi / q)
                c += share * pi * pi / q
    return {
        "gold": float(gold),
        "proxy": float(proxy / mpmath.sqrt(variance)),
        "kl": float(kl),
        "concentrability": float(c),
    }


@pytest.mark.parametrize("method", METHODS)
def test_paths_and_peaks_agree_with_mpmath(bandit, result, method):
    curves, peaks = (result.tables[f"overoptimization_{k}"] for k in ("curves", "peaks"))
    points = curves[(curves["instance"] == "random") & (curves["method"] == method)]
    peak = peaks[(peaks["instance"] == "random") & (peaks["method"] == method)]
    proxy = standardised_proxy(bandit)
    with mpmath.workdps(40):
        for row in [*points.iloc[::10].itertuples(), *peak.itertuples()]:
            policy = [
                solve_high_precision(
                    proxy[x], bandit.reference[x], METHODS[method], row.parameter
                ).policy
                for x in range(3)
            ]
            for column, value in exact_row(bandit, policy).items():
                assert getattr(row, column) == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert peak["gold"].item() >= points["gold"].max()


def test_best_of_n_agrees_with_listing_levels(bandit, result):
    curves = result.tables["overoptimization_curves"]
    points = curves[(curves["instance"] == "random") & (curves["method"] == BEST_OF_N)]
    for row in points.iloc[::7].itertuples():
        policy = []
        for x in range(3):
            p = [mpmath.mpf(float(v)) for v in bandit.reference[x]]
            score = bandit.proxy_reward[x]
            law = []
            for y in range(12):
                below = sum(q for q, s in zip(p, score, strict=True) if s < score[y])
                level = sum(q for q, s in zip(p, score, strict=True) if s == score[y])
                top = (below + level) ** int(row.parameter) - below ** int(row.parameter)
                law.append(p[y] / level * top)
            policy.append(law)
        for column, value in exact_row(bandit, policy).items():
            assert getattr(row, column) == pytest.approx(value, rel=1e-9, abs=1e-12)
        n = row.parameter
        assert row.kl_formula == pytest.approx(np.log(n) - (n - 1) / n)


def test_penalty_is_the_methods_own_divergence(result):
    points = result.tables["overoptimization_curves"]
    own = {
        "KL": points["kl"],
        "chi2": (points["concentrability"] - 1) / 2,
        "mixed": points["kl"] + (points["concentrability"] - 1) / 2,
    }
    for method, values in own.items():
        rows = points["method"] == method
        np.testing.assert_allclose(points["penalty"][rows], values[rows], rtol=1e-6, atol=1e-12)
    assert points["penalty"][points["method"] == BEST_OF_N].isna().all()


def test_findings_hold_and_can_fail(result):
    assert {"random", "table"} == set(result.tables["overoptimization_curves"]["instance"])
    assert [f.expected for f in result.findings] == [None, True, True] * 2
    curves, peaks = (result.tables[f"overoptimization_{k}"] for k in ("curves", "peaks"))
    broken = curves.copy()
    broken["proxy"] = -broken["proxy"]
    broken["kl_formula"] /= 2
    tables = {"overoptimization_curves": broken, "overoptimization_peaks": peaks}
    assert [f.expected for f in _findings(tables, ("random",))] == [None, False, False]


@pytest.mark.parametrize("column", ["proxy", "penalty"])
@pytest.mark.parametrize("step", [-1e-9, np.nan])
def test_a_single_small_or_missing_step_is_noticed(result, column, step):
    tables = {k: v.copy() for k, v in result.tables.items()}
    curves = tables["overoptimization_curves"]
    row = curves.index[(curves["method"] == "chi2") & (curves["instance"] == "random")][5]
    curves.loc[row, column] = curves.loc[row - 1, column] + step
    findings = _findings(tables, ("random",))
    assert [f.expected for f in findings] == [None, False, True]


def test_falls_are_counted_beyond_one_percent(result):
    tables = {k: v.copy() for k, v in result.tables.items()}
    peaks = tables["overoptimization_peaks"]
    for share, count in ((0.999, 0), (0.98, 4)):
        peaks["gold_at_end"] = share * peaks["gold"]
        assert _findings(tables, ("random",))[0].verdict == f"falls for {count} of 4"


def test_default_instance_overoptimizes():
    """On the shipped instance the gold reward of every method peaks well before the end."""
    result = run(Settings(beta_points=25, most_doublings=10), seed=0)
    peaks = result.tables["overoptimization_peaks"]
    assert (peaks["gold_at_end"] < 0.97 * peaks["gold"]).all()
    assert set(peaks["method"]) == {*METHODS, BEST_OF_N}


def test_standardised_proxy(bandit):
    proxy = standardised_proxy(bandit)
    p, rho = bandit.reference, bandit.prompt_dist
    np.testing.assert_allclose((p * proxy).sum(axis=1), 0.0, atol=1e-13)
    assert (p * proxy**2).sum(axis=1) @ rho == pytest.approx(1.0, rel=1e-12)
    constant = replace(bandit, proxy_reward=np.ones(bandit.shape))
    with pytest.raises(ValueError, match="proxy_reward is constant on every prompt"):
        standardised_proxy(constant)


def test_table_without_proxy_gets_a_fitted_one():
    plain = random_bandit(3, 5, np.random.default_rng(0))
    fitted = with_proxy(plain, SETTINGS, 0)
    assert fitted.proxy_reward.shape == (3, 5)
    p = plain.reference
    centred = fitted.proxy_reward - (p * fitted.proxy_reward).sum(axis=1, keepdims=True)
    gold = plain.reward - (p * plain.reward).sum(axis=1, keepdims=True)
    assert (p * centred * gold).sum() > 0  # learned from preferences by the gold reward
    given = replace(plain, proxy_reward=plain.reward)
    assert with_proxy(given, SETTINGS, 0) is given


def test_divergences_of_the_methods():
    assert {"KL": KL(), "chi2": ChiSquared(), "mixed": ChiSquared() + KL()} == METHODS
    assert isinstance(run(SETTINGS, 1).tables["overoptimization_peaks"], pd.DataFrame)
