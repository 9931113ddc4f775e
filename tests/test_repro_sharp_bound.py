"""The sharp bound study: worst instances recomputed in mpmath, and findings that can fail."""

from dataclasses import replace

import mpmath
import numpy as np
import pytest

from rlhfsim import KL, ChiSquared
from rlhfsim.randomness import generator_for
from rlhfsim.repro.sharp_bound import (
    NAME,
    Settings,
    _findings,
    adversarial_batch,
    aligned_batch,
    equality_batch,
    evaluate,
    random_batch,
    run,
    tuned,
    worst_by_rarity,
)
from rlhfsim.solvers.high_precision import solve_high_precision

SETTINGS = Settings(random_instances=300, equality_instances=60, adversarial_instances=300)
BATCHES = {
    "random": random_batch,
    "aligned": aligned_batch,
    "equality": equality_batch,
    "adversarial": adversarial_batch,
}
DIVERGENCES = {"KL": KL(), "chi2": ChiSquared(), "mixed": ChiSquared() + KL()}


@pytest.fixture(scope="module")
def result():
    return run(SETTINGS, seed=3)


def batch_of(kind):
    maker = BATCHES["random" if kind == "tuned" else kind]
    batch = maker(SETTINGS, generator_for(NAME, maker.__name__, 3))
    return tuned(batch) if kind in ("tuned", "aligned") else batch


def mpf(value):
    return mpmath.mpf(float(value))


def in_mpmath(batch, k, method):
    """Regret and bound of instance k, every sum written out."""
    with mpmath.workdps(40):
        beta, regret, norm, kl = mpf(batch.beta[k]), 0, 0, 0
        for x, rho in enumerate(batch.prompt_dist):
            r, hat, p, star = (
                [mpf(v) for v in a[k, x]]
                for a in (batch.reward, batch.reward_hat, batch.reference, batch.comparator)
            )
            policy = solve_high_precision(
                batch.reward_hat[k, x], batch.reference[k, x], DIVERGENCES[method], batch.beta[k]
            ).policy
            delta = [a - b for a, b in zip(r, hat, strict=True)]
            mean = sum(a * b for a, b in zip(p, delta, strict=True)) / sum(p)
            for y in range(len(r)):
                regret += mpf(rho) * (star[y] - policy[y]) * r[y]
                norm += mpf(rho) * p[y] * (delta[y] - mean + beta * (star[y] / p[y] - 1)) ** 2
                if star[y] > 0:
                    kl += mpf(rho) * star[y] * mpmath.log(star[y] / p[y])
        bound = norm / (4 * beta) + (beta * kl if method == "mixed" else 0)
        return float(regret), float(bound)


CASES = [("random", "chi2"), ("random", "mixed"), ("random", "KL"), ("tuned", "chi2"),
         ("aligned", "chi2"),
         ("equality", "chi2"), ("adversarial", "chi2"), ("adversarial", "mixed"),
         ("adversarial", "KL")]  # fmt: skip


@pytest.mark.parametrize(("kind", "method"), CASES)
def test_worst_and_first_instances_agree_with_mpmath(result, kind, method):
    table = result.tables[NAME]
    rows = table[(table["kind"] == kind) & (table["method"] == method)].reset_index(drop=True)
    batch = batch_of(kind)
    assert len(rows) == len(batch.beta)
    for k in (int(rows["ratio"].idxmax()), 0, 1):
        regret, bound = in_mpmath(batch, k, method)
        if kind in ("tuned", "aligned"):
            coverage = sum(
                float(rho) * (star**2 / p).sum()
                for rho, star, p in zip(
                    batch.prompt_dist, batch.comparator[k], batch.reference[k], strict=True
                )
            )
            assert bound <= np.sqrt(coverage - 1) * rows["epsilon"][k] * (1 + 1e-12)
            bound = np.sqrt(coverage - 1) * rows["epsilon"][k]
        scale = 1e-12 * (1 + np.abs(batch.reward[k]).max())
        assert rows["regret"][k] == pytest.approx(regret, rel=1e-9, abs=scale)
        assert rows["bound"][k] == pytest.approx(bound, rel=1e-9)


def test_bound_holds_is_attained_and_is_broken_by_kl(result):
    table = result.tables[NAME]
    chi = table[table["method"] == "chi2"]
    assert chi["ratio"].max() <= 1 + 1e-9
    assert table[table["method"] == "mixed"]["ratio"].max() <= 1 + 1e-9
    for kind in ("equality", "aligned"):
        assert np.abs(table[table["kind"] == kind]["ratio"] - 1).max() < 1e-9
    assert table[table["method"] == "KL"]["ratio"].max() > 1e5
    assert all(f.expected for f in result.findings)
    assert [f.verdict for f in result.findings] == ["holds"] * 3 + ["attained", "false"]


def test_findings_can_fail(result):
    table = result.tables[NAME].copy()
    table["ratio"] *= 2.0
    table.loc[table["method"] == "KL", "ratio"] = 0.5
    assert [f.expected for f in _findings(table)] == [False] * 5


def test_missing_numbers_are_not_passed_over(result):
    table = result.tables[NAME].copy()
    table.loc[::2, "ratio"] = np.nan
    assert not any(f.expected for f in _findings(table))


def test_one_violation_does_not_refute_every_constant(result):
    """KL is called unbounded only if its ratio grows as the rarest response thins out."""
    table = result.tables[NAME].copy()
    kl = (table["method"] == "KL") & (table["kind"] == "adversarial")
    table.loc[kl, "ratio"] = 1.5
    assert _findings(table)[-1].verdict == "not refuted"
    growth = worst_by_rarity(result.tables[NAME])
    assert len(growth) == 9
    assert growth[-1] > 1e5 * growth[0]


def test_random_instances_spread_over_coverage_and_error(result):
    table = result.tables[NAME]
    random = table[(table["kind"] == "random") & (table["method"] == "chi2")]
    assert random["chi_squared"].quantile(0.9) > 5 * random["chi_squared"].quantile(0.1)
    assert random["epsilon"].quantile(0.9) > 20 * random["epsilon"].quantile(0.1)


def test_same_seed_same_table(result):
    again, other = run(SETTINGS, seed=3), run(SETTINGS, seed=4)
    assert again.tables[NAME].equals(result.tables[NAME])
    assert not other.tables[NAME].equals(result.tables[NAME])


def test_evaluate_reads_its_batch():
    batch = batch_of("equality")
    doubled = evaluate(replace(batch, beta=2 * batch.beta), "chi2", "x")
    assert doubled["ratio"].max() < 1 - 1e-6
