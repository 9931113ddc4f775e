"""Claims about best-of-n and InfAlign: they hold, are tight."""

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from claim_checks import assert_family, assert_holds, assert_refuted, assert_tight
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhfsim.claims.draws import Draws
from rlhfsim.claims.infalign import INFALIGN_CLAIMS, InferenceProblems
from rlhfsim.claims.inference import INFERENCE_CLAIMS, few, listed
from rlhfsim.inference import best_of_n

CLAIMS = INFERENCE_CLAIMS + INFALIGN_CLAIMS
TRUE = [c for c in CLAIMS if c.kind != "false"]
FALSE = [c for c in CLAIMS if c.kind == "false"]


def by_name(name):
    return next(c for c in CLAIMS if c.name == name)


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_true_claims_hold(claim):
    assert_holds(claim, 2000 if claim.family is Draws else 1000)


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_true_claims_are_tight_at_their_witness(claim):
    # Below log n about one nat is missing, and n is at most 1e300.
    assert_tight(claim, 0.996 if claim.name.endswith("below log n") else 0.999)


@pytest.mark.parametrize("claim", FALSE, ids=lambda c: c.name)
def test_false_claims_fail_at_their_witness(claim):
    assert_refuted(claim)


def test_families():
    assert_family(Draws, {"reference"})
    assert_family(InferenceProblems, {"reference", "policy"})
    x = Draws.sample(900, np.random.default_rng(0))
    assert x.n.min() == 1
    assert x.n.max() > 300
    assert (np.ptp(x.reward, axis=1) == 0).any()
    y = InferenceProblems.sample(900, np.random.default_rng(0))
    assert 0.4 < y.worst.mean() < 0.6
    assert np.unique(y.beta).size <= 4


@st.composite
def draws(draw):
    """Instances with zeros in the reference and ties."""
    size = draw(st.integers(2, 5))
    mass = st.one_of(st.integers(0, 3).map(float), st.sampled_from([1e-12, 1e-300]))
    weights = np.array(draw(st.lists(mass, min_size=size, max_size=size)))
    weights[draw(st.integers(0, size - 1))] += 1.0
    reward = draw(st.lists(st.integers(-2, 2), min_size=size, max_size=size))
    probe = draw(st.lists(st.floats(1, 2), min_size=size, max_size=size))
    return Draws(
        weights[None] / weights.sum(), np.array([reward], dtype=float),
        np.array([float(draw(st.integers(1, 10**6)))]),
        np.array([10.0 ** draw(st.floats(-2, 2))]), np.array([probe]),
    )  # fmt: skip


@pytest.mark.parametrize("claim", [c for c in TRUE if c.family is Draws], ids=lambda c: c.name)
@given(x=draws())
@settings(max_examples=25)
def test_true_claims_hold_with_zeros_and_many_draws(claim, x):
    assert claim.ratio(x)[0] <= 1 + 1e-9


def test_the_printed_kl_is_far_off():
    """The value of the design notes: 10 uniform responses, n = 1024."""
    claim = by_name("KL formula of best-of-n as an equality")
    x = claim.witness()
    assert claim.left(x)[0] == pytest.approx(5.93, abs=0.005)
    assert claim.right(x)[0] == pytest.approx(np.log(10), abs=1e-12)


def test_listing_in_rational_numbers():
    """The route that the formula is compared with, against one that shares nothing with it."""
    p, r = [Fraction(k, 10) for k in (1, 2, 3, 4)], [1, 0, 1, 2]
    law = [Fraction(0)] * 4
    for tuple_ in itertools.product(range(4), repeat=3):
        top = [y for y in tuple_ if r[y] == max(r[z] for z in tuple_)]
        for y in top:
            law[y] += p[tuple_[0]] * p[tuple_[1]] * p[tuple_[2]] / len(top)
    x = by_name("law of best-of-n").witness()
    assert few(x) == [3]
    np.testing.assert_allclose(listed(x)[0], [float(f) for f in law], rtol=1e-15)


@pytest.mark.parametrize(
    "law",
    [
        # Ties go to the first response; the mass of ties is not shared by p but evenly.
        lambda x: best_of_n(x.reference, x.reward - 1e-9 * np.arange(4), few(x)),
        lambda x: best_of_n(x.reference, x.reward, few(x) + 1),
        lambda x: np.where(
            x.reward == 1.0, 0.5, 1.0
        ) * best_of_n(np.array([[0.2, 0.2, 0.2, 0.4]]), x.reward, few(x)),
    ],
    ids=["ties to the first", "one draw more", "ties shared evenly"],
)  # fmt: skip
def test_wrong_laws_are_caught(law):
    claim = by_name("law of best-of-n")
    wrong = replace(claim, left=lambda x: (law(x) * x.probe).sum(axis=1))
    assert wrong.ratio(claim.witness())[0] > 1e6


def test_infalign_is_tight_only_at_its_optimum():
    """A policy of a slightly other beta has a lower objective, and is no fixed point."""
    beats, fixed = by_name("InfAlign beats every policy"), by_name("fixed point of InfAlign")
    x = by_name("fixed point of InfAlign").witness()
    other = replace(x, beta=1.01 * x.beta).optimum.policy
    ratio = beats.ratio(replace(x, policy=other))[0]
    assert 1 - 1e-4 < ratio < 1 - 1e-9
    wrong = replace(fixed, left=lambda _: (other * x.probe).sum(axis=1))
    assert wrong.ratio(x)[0] > 1e6


def test_concave_and_convex_are_not_exchanged():
    """The best of n is convex nowhere, the worst concave nowhere, where the policy matters."""
    concave, convex = by_name("best-of-n wins are concave"), by_name("worst-of-n wins are convex")
    x = InferenceProblems.sample(1000, np.random.default_rng(1))
    turned = replace(x, worst=~x.worst)
    for claim, y in ((concave, x), (convex, x), (concave, turned), (convex, turned)):
        opposite = replace(claim, kind="upper" if claim.kind == "lower" else "lower")
        applies = (y.worst == (claim is convex)) & (y.n > 1)
        assert (claim.ratio(y) <= 1 + 1e-9).all()
        assert (opposite.ratio(y)[applies] > 1 + 1e-6).mean() > 0.3
