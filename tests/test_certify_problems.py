"""Certificates of claims about optima and regret: exact fractions, balls, and the mutations."""

from dataclasses import replace

import flint
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim import KL, ChiSquared
from rlhfsim.certify import certify, enclose_sides
from rlhfsim.certify.problem_sides import PROBLEM_SIDES, chi2_ratios, kl_ratios
from rlhfsim.certify.rationals import exact
from rlhfsim.certify.regret_sides import REGRET_SIDES, chi2_regret, sharp_bound
from rlhfsim.certify.rounding import at_least, at_most
from rlhfsim.claims.preference_errors import PREFERENCE_ERROR_CLAIMS
from rlhfsim.claims.problems import Problems
from rlhfsim.claims.ratio_bounds import RATIO_CLAIMS
from rlhfsim.claims.regret import REGRET_CLAIMS
from rlhfsim.solvers.high_precision import solve_high_precision

FORMULAS = PROBLEM_SIDES | REGRET_SIDES
STATED = (*RATIO_CLAIMS, *REGRET_CLAIMS, *PREFERENCE_ERROR_CLAIMS)
CLAIMS = [c for c in STATED if c.name in FORMULAS]
TRUE = [c for c in CLAIMS if c.kind != "false"]
FALSE = [c for c in CLAIMS if c.kind == "false"]


def by_name(name):
    return next(c for c in CLAIMS if c.name == name)


def problem(reference, reward_hat, reward, comparator, beta=1.0):
    p, h, r, star = (np.array(row, float)[None, None]
                     for row in (reference, reward_hat, reward, comparator))  # fmt: skip
    return Problems(np.ones((1, 1)), p, r, h, np.array([beta]), np.ones(1), star, p)


def dyadic_equality():
    """`r*_c = (delta + beta (w* - 1))/2` in multiples of powers of 2: every float is exact."""
    p, star = np.array([0.5, 0.25, 0.25]), np.array([0.375, 0.125, 0.5])
    delta = np.array([0.25, -0.25, -0.25])
    reward = 0.5 * (delta + star / p - 1.0)
    return problem(p, reward - delta, reward, star)


def test_every_formula_is_that_of_a_claim():
    assert {c.name for c in CLAIMS} == set(FORMULAS)


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_true_claims_are_certified(claim):
    """On random instances the claim's floats agree as well: `certify` would raise."""
    verdicts = []
    for seed in range(3):
        batch = Problems.sample(20, np.random.default_rng(seed))
        verdicts += [certify(claim, batch.take(k), precision=512) for k in range(20)]
    assert "refuted" not in verdicts
    assert verdicts.count("certified") >= 55
    assert certify(claim, claim.witness(), precision=512) != "refuted"


@pytest.mark.parametrize("claim", FALSE, ids=lambda c: c.name)
def test_false_claims_are_refuted_at_their_witness(claim):
    assert certify(claim, claim.witness()) == "refuted"


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_constants_too_small_are_refuted(claim):
    """By half a percent; the textbook bound is twice the sharp one, so by more than half."""
    factor = flint.fmpq(499, 1000) if claim.name.startswith("textbook") else flint.fmpq(995, 1000)
    shrunk = replace(claim, right=lambda x: float(factor.p) / float(factor.q) * claim.right(x))

    def sides(x):
        left, right = FORMULAS[claim.name](x)
        return left, right * factor

    assert certify(shrunk, claim.witness(), sides=sides) == "refuted"


def test_sharp_bound_is_attained_exactly():
    x = dyadic_equality()
    sharp = by_name("sharp chi2 regret")
    numbers = exact(x)
    assert chi2_regret(numbers) == sharp_bound(numbers) == flint.fmpq(9, 128)
    assert certify(sharp, x) == "certified"

    def barely_too_small(x):
        return chi2_regret(x), sharp_bound(x) * (1 - flint.fmpq(1, 10**40))

    assert certify(sharp, x, sides=barely_too_small) == "refuted"


whole = st.integers(-8, 8).map(flint.fmpq)


@given(
    st.lists(st.tuples(st.integers(1, 9), whole), min_size=1, max_size=6),
    st.integers(1, 40).map(lambda k: flint.fmpq(k, 4)),
)
def test_rational_optimum_is_stationary(cells, beta):
    """`w = max(0, 1 + (r - lambda)/beta)` for one lambda, and `E_p[w] = 1`: without rounding."""
    mass = sum(m for m, _ in cells)
    reference = tuple(flint.fmpq(m, mass) for m, _ in cells)
    reward = tuple(r for _, r in cells)
    ratios = chi2_ratios(reference, reward, beta)
    assert sum(p * w for p, w in zip(reference, ratios, strict=True)) == 1
    multiplier = max(reward) - beta * (ratios[reward.index(max(reward))] - 1)
    assert ratios == tuple(max(flint.fmpq(0), 1 + (r - multiplier) / beta) for r in reward)


def test_ratios_agree_with_the_high_precision_solver():
    rng = np.random.default_rng(5)
    for beta in (0.0625, 0.5, 8.0):
        masses = rng.integers(1, 20, size=5)
        reference = np.append(masses, 128 - masses.sum()) / 128
        reward = rng.integers(-32, 33, size=6) / 16
        rows = [tuple(flint.fmpq(*float(v).as_integer_ratio()) for v in row)
                for row in (reference, reward)]  # fmt: skip
        scale = flint.fmpq(*beta.as_integer_ratio())
        for ratios, divergence in ((chi2_ratios, ChiSquared()), (kl_ratios, KL())):
            with mpmath.workdps(40):
                policy = solve_high_precision(reward, reference, divergence, beta).policy
                for p, w, want in zip(rows[0], ratios(*rows, scale), policy, strict=True):
                    slack = mpmath.mpf(10) ** -35
                    assert at_most(p * w) - slack <= want <= at_least(p * w) + slack


def test_comparators_outside_the_support_and_prompts_of_no_weight():
    sharp = by_name("sharp chi2 regret")
    outside = problem([0.5, 0.5, 0.0], [0, 1, 0], [0, 0, 1], [0.25, 0.25, 0.5])
    for name in ("sharp chi2 regret", "sharp chi2 regret in norms", "textbook chi2 regret"):
        found = enclose_sides(by_name(name), outside)
        assert (found.left_lower, found.right_lower) == (0.5, np.inf)
        assert certify(by_name(name), outside) == "certified"
    one = dyadic_equality()
    two = Problems(
        np.array([[1.0, 0.0]]), *(np.concatenate([a, b], axis=1) for a, b in (
            (one.reference, outside.reference), (one.reward, outside.reward),
            (one.reward_hat, outside.reward_hat))),
        one.beta, one.gamma, *(np.concatenate([a, b], axis=1) for a, b in (
            (one.comparator, outside.comparator), (one.policy, outside.policy))),
    )  # fmt: skip
    assert enclose_sides(sharp, two) == enclose_sides(sharp, one)
    halves = replace(two, prompt_dist=np.array([[0.5, 0.5]]))
    assert enclose_sides(sharp, halves).right_upper == np.inf
    assert enclose_sides(sharp, halves).left_lower == 0.5 * (9 / 128 + 0.5)


def test_rewards_outside_the_support_do_not_count():
    x = problem([0.5, 0.5, 0.0], [0, 1, 5], [0, 1, 5], [0.5, 0.5, 0.0])
    for name in ("ceiling of chi2", "ceiling of KL", "collapse of KL", "error of pairs"):
        claim = by_name(name)
        assert certify(claim, x) == "certified"
    assert enclose_sides(by_name("ceiling of chi2"), x).right_upper == 2.0


def test_other_families_and_bad_rows_are_refused():
    sharp, x = by_name("sharp chi2 regret"), dyadic_equality()
    with pytest.raises(ValueError, match="instance is a list; it must be a batch of instances"):
        certify(sharp, [x])
    with pytest.raises(ValueError, match=r"beta\[0\] is 0"):
        certify(sharp, replace(x, beta=np.zeros(1)))
    with pytest.raises(ValueError, match=r"reference\[0, 0\] sums to 0\.5"):
        certify(sharp, replace(x, reference=0.5 * x.reference))
