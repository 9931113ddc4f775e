"""Every claim: valid under Hypothesis, tight at its witness, and false where it is said to be."""

import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath_claims import SIDES, exact

from rlhfsim.claims import CLAIMS, Pairs, sample_pairs
from rlhfsim.claims.base import Claim

TRUE = [c for c in CLAIMS if c.kind == "upper"]
FALSE = [c for c in CLAIMS if c.kind == "false"]


def by_name(name):
    return next(c for c in CLAIMS if c.name == name)


@st.composite
def distributions(draw, size):
    """Distributions with exact zeros, near-zeros and ties."""
    entry = st.one_of(
        st.integers(0, 4).map(float), st.floats(0.0, 1.0), st.sampled_from([1e-12, 1e-6])
    )
    weights = np.array(draw(st.lists(entry, min_size=size, max_size=size)))
    weights[draw(st.integers(0, size - 1))] += 1.0
    return weights / weights.sum()


@st.composite
def pairs(draw):
    size = draw(st.integers(2, 6))
    four = [draw(distributions(size))[None] for _ in range(4)]
    error = draw(st.lists(st.floats(-10, 10), min_size=size, max_size=size))
    return Pairs(*four, np.array([draw(st.floats(0, 1))]), np.array([error]))


def test_names_are_unique_and_every_claim_has_a_source():
    assert len({c.name for c in CLAIMS}) == len(CLAIMS) == 18
    assert all(c.source and c.formula for c in CLAIMS)


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
@given(x=pairs())
@settings(max_examples=150)
def test_true_claims_hold(claim, x):
    assert claim.ratio(x)[0] <= 1 + 1e-9


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_true_claims_are_tight_at_their_witness(claim):
    """So a constant 1 % too small is caught, and one 2x too weak would leave a ratio of 1/2."""
    assert 0.999 < claim.ratio(claim.witness())[0] <= 1 + 1e-9


@pytest.mark.parametrize("claim", FALSE, ids=lambda c: c.name)
def test_false_claims_fail_at_their_witness(claim):
    assert claim.ratio(claim.witness())[0] > 1.3


def test_counterexample_of_the_printed_inequality_is_2_log_2():
    claim = by_name("KL below chi-squared")
    x = claim.witness()
    assert claim.left(x)[0] == np.log(2)
    assert claim.right(x)[0] == 0.5
    assert claim.ratio(x)[0] == pytest.approx(2 * np.log(2), rel=1e-12)


def test_kl_change_of_measure_has_no_constant():
    """Along rarer and rarer responses the KL stays below 1 while left/right grows without bound."""
    claim = by_name("change of measure with KL")
    ratios = []
    for rare in (1e-4, 1e-8, 1e-16, 1e-32):
        mass = 1 / np.log(1 / rare)
        x = Pairs(
            np.array([[1 - mass, mass]]), np.array([[1 - rare, rare]]),
            *[np.array([[0.5, 0.5]])] * 2, np.array([0.5]), np.array([[0.0, 1.0]]),
        )  # fmt: skip
        mirrored = by_name("KL below twice chi-squared").left(x)[0]
        assert mirrored < 1
        ratios.append(claim.ratio(x)[0])
    assert ratios[-1] > 1e12
    assert all(b > 10 * a for a, b in itertools.pairwise(ratios))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.name)
def test_both_sides_agree_with_mpmath(claim):
    rng = np.random.default_rng(1)
    batch = sample_pairs(30, 4, rng)
    with mpmath.workdps(40):
        for k in range(len(batch)):
            x = batch.take(k)
            left, right = SIDES[claim.name](exact(x))
            for got, want in ((claim.left(x)[0], left), (claim.right(x)[0], right)):
                # Rows sum to 1 to rounding only, which moves each side by that much.
                assert abs(got - want) <= 1e-11 * abs(want) + 1e-13


def test_ratio_treats_rounding_and_infinities():
    def claim(left, right):
        return Claim("c", "f", "s", "upper", lambda _: left, lambda _: right, lambda: None)

    values = [(np.nan, 1.0, np.inf), (1.0, np.nan, np.inf), (0.0, -np.inf, 0.0),
              (0.0, 0.0, 0.0), (np.inf, np.inf, 0.0), (3.0, np.inf, 0.0), (1e-16, 0.0, 0.0),
              (2.0, 1.0, 2.0), (1.0, 0.0, np.inf)]  # fmt: skip
    for left, right, ratio in values:
        got = claim(np.array([left]), np.array([right])).ratio(None)[0]
        assert got == pytest.approx(ratio, rel=1e-12)


def test_sampled_pairs_are_distributions_of_every_kind():
    batch = sample_pairs(3000, 5, np.random.default_rng(0))
    for rows in (batch.policy, batch.reference, batch.other_policy, batch.other_reference):
        assert (rows >= 0).all()
        np.testing.assert_allclose(rows.sum(axis=1), 1.0, rtol=1e-13)
    assert (batch.policy == 0).any(axis=1).mean() > 0.1  # conditioned ones
    assert (np.abs(batch.policy - batch.reference).max(axis=1) < 1e-3).mean() > 0.05  # nearby ones
