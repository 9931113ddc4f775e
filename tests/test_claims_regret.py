"""Claims on regret: valid on sampled problems, tight at witnesses, sides by plain loops."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from claim_checks import assert_holds, assert_refuted, assert_tight, batches
from scipy.special import expit

from rlhfsim.claims.preference_errors import PREFERENCE_ERROR_CLAIMS
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.regret import (
    REGRET_CLAIMS,
    comparator_cost,
    error_norm,
    regret,
    tuned,
)
from rlhfsim.claims.regularized import CHI_SQUARED_REGULARIZER, KL_REGULARIZER

CLAIMS = REGRET_CLAIMS + PREFERENCE_ERROR_CLAIMS
TRUE = [c for c in CLAIMS if c.kind != "false"]
FALSE = [c for c in CLAIMS if c.kind == "false"]
BOUNDS = [c for c in TRUE if c.kind != "identity"]
#: The textbook bound can be halved: it is never attained.
SUPREMA = {"textbook chi2 regret": 0.5}


def named(claims):
    return pytest.mark.parametrize("claim", claims, ids=lambda c: c.name)


def by_name(name):
    return next(c for c in CLAIMS if c.name == name)


@named(TRUE)
def test_holds(claim):
    assert_holds(claim)


@named(BOUNDS)
def test_tight(claim):
    assert_tight(claim, 0.99999 * SUPREMA.get(claim.name, 1.0))


@named(FALSE)
def test_refuted(claim):
    assert_refuted(claim, 1.3)


def test_textbook_bound_can_be_halved():
    """No sampled problem comes above one half, the witness is there."""
    claim = by_name("textbook chi2 regret")
    assert max(claim.ratio(x).max() for x in batches(claim)) <= 0.5 * (1 + 1e-9)
    assert claim.ratio(claim.witness())[0] == pytest.approx(0.5, rel=1e-9)


def test_sharp_bound_is_attained_without_clipping():
    """Wherever `r*_c = (delta + beta (w* - 1))/2` and `|delta| < beta`, not only at the witness."""
    rng = np.random.default_rng(0)
    claim = by_name("sharp chi2 regret")
    for _ in range(50):
        p, star = rng.dirichlet(np.ones(4) * 2), rng.dirichlet(np.ones(4))
        beta = 10 ** rng.uniform(-2, 2)
        delta = beta * rng.uniform(-0.5, 0.5, size=4)
        delta -= p @ delta
        reward = 0.5 * (delta + beta * (star / p - 1))
        x = single(p, reward - delta, reward=reward, beta=beta, comparator=star)
        assert claim.left(x)[0] == pytest.approx(claim.right(x)[0], rel=1e-9)


def test_kl_breaks_every_constant():
    """The rarer the overestimated response, the larger regret/bound: no constant saves KL."""
    for name, others in (
        ("chi2 regret for KL regularization", [1.0]),
        ("KL regret at the beta of theory", [0.5, 0.5]),
    ):
        claim, ratios = by_name(name), []
        for rare in (1e-8, 1e-12, 1e-16, 1e-20):
            p = np.array([*others, rare])
            zero = [0.0] * len(others)
            x = single(
                p / p.sum(), [*zero, 1.0], reward=[*zero, -1.0], beta=1 / np.log(1 / rare),
                comparator=[1.0, *zero],
            )  # fmt: skip
            ratios.append(claim.ratio(x)[0])
        assert ratios[-1] > 1e6
        assert all(b > 50 * a for a, b in itertools.pairwise(ratios))


def test_chi_squared_survives_where_kl_fails():
    for claim in FALSE[:2]:
        x = tuned(claim.witness())
        assert regret(x, KL_REGULARIZER)[0] >= 0
        assert by_name("chi2 regret at the beta of theory").ratio(x)[0] <= 1
        assert by_name("sharp chi2 regret").ratio(claim.witness())[0] <= 1
    x = tuned(by_name("KL regret at the beta of theory").witness())
    assert regret(x, KL_REGULARIZER)[0] > 0.9
    assert regret(x, CHI_SQUARED_REGULARIZER)[0] < 1e-7


def test_sides_by_plain_loops():
    """Every ingredient written out prompt by prompt, on problems of moderate size."""
    rng = np.random.default_rng(8)
    x = Problems.sample(600, rng)
    moderate = (
        (x.reference.min(axis=(1, 2)) > 1e-4)
        & (np.abs(x.reward).max(axis=(1, 2)) < 5)
        & (np.abs(x.reward_hat).max(axis=(1, 2)) < 5)
        & (np.abs(x.reward - x.reward_hat).max(axis=(1, 2)) > 1e-2)
        & (comparator_cost(x) > 1e-2)
    )
    chosen = [x.take(int(k)) for k in np.flatnonzero(moderate)[:40]]
    assert len(chosen) == 40
    for one in chosen:
        rho, beta = one.prompt_dist[0], one.beta[0]
        learned = CHI_SQUARED_REGULARIZER.policy(one)[0]
        lost = eps2 = cost = sharp = pairs = told = apart = 0.0
        v = max(np.ptp(rows) for r in (one.reward[0], one.reward_hat[0]) for rows in r)
        for k, weight in enumerate(rho):
            p, r, h = one.reference[0, k], one.reward[0, k], one.reward_hat[0, k]
            star = one.comparator[0, k]
            delta = r - h - p @ (r - h)
            lost += weight * (star @ r - learned[k] @ r)
            eps2 += weight * (p @ delta**2)
            cost += weight * 0.5 * (p @ (star / p - 1) ** 2)
            sharp += weight * (p @ (delta + beta * (star / p - 1)) ** 2) / (4 * beta)
            for i, j in itertools.product(range(len(p)), repeat=2):
                both = weight * p[i] * p[j]
                gap = expit(r[i] - r[j]) - expit(h[i] - h[j])
                pairs += both * ((r[i] - r[j]) - (h[i] - h[j])) ** 2
                apart += both * abs(gap)
                told += both * gap**2
        slope = expit(v) * expit(-v)
        assert regret(one, CHI_SQUARED_REGULARIZER)[0] == pytest.approx(lost, abs=1e-12)
        assert error_norm(one)[0] == pytest.approx(np.sqrt(eps2), rel=1e-12)
        assert comparator_cost(one)[0] == pytest.approx(cost, rel=1e-12)
        for name, side, value in (
            ("sharp chi2 regret", "right", sharp),
            ("sharp chi2 regret in norms", "right",
             (np.sqrt(eps2) + beta * np.sqrt(2 * cost)) ** 2 / (4 * beta)),
            ("error of pairs", "left", pairs),
            ("error of pairs", "right", 2 * eps2),
            ("preferences tell gaps apart", "left", apart),
            ("preference error bounds the reward error", "left", np.sqrt(told)),
            ("preference error bounds the reward error", "right", slope * np.sqrt(2 * eps2)),
            ("chi2 regret at the beta of theory", "right", np.sqrt(2 * cost * eps2)),
            ("chi2 regret from the preference error", "right", np.sqrt(cost * told) / slope),
        ):  # fmt: skip
            got = getattr(by_name(name), side)(one)[0]
            assert got == pytest.approx(value, rel=1e-9), (name, side)
        assert tuned(one).beta[0] == pytest.approx(np.sqrt(eps2 / (2 * cost)), rel=1e-12)


def test_theory_without_a_beta_says_nothing():
    """Where the error or the divergence is 0 or infinite there is no such beta."""
    p = [0.5, 0.5]
    perfect = single(p, [1.0, 0.0], comparator=[1.0, 0.0])
    at_reference = single(p, [1.0, 0.0], reward=[0.0, 1.0])
    uncovered = single([1.0, 0.0], [1.0, 0.0], reward=[0.0, 1.0], comparator=[0.0, 1.0])
    for x in (perfect, at_reference, uncovered):
        assert tuned(x).beta[0] == x.beta[0]
        for claim in CLAIMS:
            if claim in TRUE:
                assert claim.ratio(x)[0] <= 1 + 1e-9
        assert np.isinf(by_name("chi2 regret at the beta of theory").right(x)[0])
    assert np.isinf(by_name("sharp chi2 regret").right(uncovered)[0])


def test_mixed_pays_the_kl_of_the_comparator():
    """Without the extra term the bound fails once gamma is large."""
    x = single([0.5, 0.5], [1.0, 0.0], beta=0.5, gamma=50.0, comparator=[1.0, 0.0])
    claim = by_name("sharp mixed regret")
    assert claim.ratio(x)[0] <= 1
    without = replace(claim, right=by_name("sharp chi2 regret").right)
    assert without.ratio(x)[0] > 1.5
