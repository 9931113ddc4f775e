"""Every claim: valid under Hypothesis, tight at its witness, and false where it is said to be."""

import dataclasses
import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath_claims import SIDES, exact

from rlhfsim.claims import CLAIMS, DIVERGENCE_CLAIMS, Pairs, sample_pairs
from rlhfsim.claims.base import RESOLUTION, Claim

TRUE = [c for c in DIVERGENCE_CLAIMS if c.kind in {"upper", "tight"}]
FALSE = [c for c in DIVERGENCE_CLAIMS if c.kind == "false"]


def by_name(name):
    return next(c for c in DIVERGENCE_CLAIMS if c.name == name)


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
    assert len({c.name for c in CLAIMS}) == len(CLAIMS)
    assert len(DIVERGENCE_CLAIMS) == 18
    assert all(c.source and c.formula for c in CLAIMS)


@given(x=pairs())
@settings(max_examples=80)
def test_true_claims_hold(x):
    # All on the same pairs: to draw them takes longer than to look at them.
    assert [claim.name for claim in TRUE if not claim.ratio(x)[0] <= 1 + 1e-9] == []


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


@pytest.mark.parametrize("claim", DIVERGENCE_CLAIMS, ids=lambda c: c.name)
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


def sides(left, right, kind="upper", **more):
    """Return the ratio of a claim with these sides."""
    claim = Claim(
        "c", "f", "s", kind, lambda _: np.array([left]), lambda _: np.array([right]),
        lambda: None, **more,
    )  # fmt: skip
    return claim.ratio([None])[0]  # a batch of one


@pytest.mark.parametrize(
    ("left", "right", "ratio"),
    [
        (np.nan, 1.0, np.inf), (1.0, np.nan, np.inf), (0.0, 0.0, 0.0), (np.inf, np.inf, 0.0),
        (3.0, np.inf, 0.0), (-np.inf, -np.inf, 0.0), (np.inf, 1.0, np.inf), (1e-16, 0.0, 0.0),
        (2.0, 1.0, 2.0), (1.0, 0.0, np.inf), (1.0, -1.0, np.inf), (-1.0, 1.0, 0.0),
        (-1.0, -2.0, 2.0), (-4.0, -2.0, 0.5), (0.0, -np.inf, np.inf),
        (1e-16, -1e-17, 1e-17 / (RESOLUTION - 1e-16)),
    ],
)  # fmt: skip
def test_ratio_treats_rounding_signs_and_infinities(left, right, ratio):
    for kind in ("upper", "false"):
        assert sides(left, right, kind) == pytest.approx(ratio, rel=1e-12)
    assert sides(right, left, "lower") == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, -1e8])
def test_identities_hold_up_to_rounding_only(scale):
    assert sides(scale, scale, "identity") == 0
    assert 0 < sides(scale, scale * (1 + 1e-15), "identity") < 1
    assert sides(scale, scale * 1.001, "identity") > 1
    assert sides(scale * 1.001, scale, "identity") > 1
    coarse = {"resolution": lambda _: np.asarray(abs(scale) * 0.01)}
    assert sides(scale, scale * 1.001, "identity", **coarse) == pytest.approx(0.1, rel=1e-6)


def test_identities_of_infinities():
    assert sides(np.inf, np.inf, "identity") == 0
    for left, right in ((np.inf, 1.0), (np.inf, -np.inf), (np.nan, np.nan), (1.0, np.nan)):
        assert sides(left, right, "identity") == np.inf
    exact_rounding = {"resolution": lambda _: np.asarray(0.0)}
    assert sides(0.0, 0.0, "identity", **exact_rounding) == 0
    assert sides(0.0, 1e-300, "identity", **exact_rounding) > 1


def test_sampled_pairs_are_distributions_of_every_kind():
    batch = sample_pairs(3000, 5, np.random.default_rng(0))
    for rows in (batch.policy, batch.reference, batch.other_policy, batch.other_reference):
        assert (rows >= 0).all()
        np.testing.assert_allclose(rows.sum(axis=1), 1.0, rtol=1e-13)
    assert (batch.policy == 0).any(axis=1).mean() > 0.1  # conditioned ones
    assert (np.abs(batch.policy - batch.reference).max(axis=1) < 1e-3).mean() > 0.05  # nearby ones


@pytest.mark.parametrize("n", [1, 2, 3, 3000])
def test_sampled_family_holds_distributions_and_all_sizes(n):
    sizes = set()
    for seed in range(40 if n == 1 else 5):
        batch = Pairs.sample(n, np.random.default_rng(seed))
        assert len(batch) == n
        sizes.add(batch.policy.shape[1])
        for rows in (batch.policy, batch.reference, batch.other_policy, batch.other_reference):
            assert rows.shape == batch.error.shape == (n, batch.policy.shape[1])
            assert (rows >= 0).all()
            np.testing.assert_allclose(rows.sum(axis=1), 1.0, rtol=1e-13)
        assert np.isfinite(batch.error).all()
        assert ((batch.weight >= 0) & (batch.weight <= 1)).all()
    assert sizes <= set(range(2, 9))
    assert n > 1 or sizes == set(range(2, 9))


def test_sampled_family_has_generic_structured_and_adversarial_thirds():
    for seed in range(4):
        batch = Pairs.sample(3000, np.random.default_rng(seed))
        generic, structured, hard = (batch.policy[k::3] for k in range(3))
        references = [batch.reference[k::3] for k in range(3)]
        assert ((generic > 0).all(axis=1) & (generic > 1e-3).all(axis=1)).mean() > 0.05
        # Structured: point masses, ties, exact equality, policies outside the support.
        assert (structured.max(axis=1) == 1).mean() > 0.1
        assert (np.abs(structured - references[1]).max(axis=1) < 1e-15).mean() > 0.05
        assert 0.01 < ((structured > 0) & (references[1] == 0)).any(axis=1).mean() < 0.3
        # Adversarial: rare responses and near equality.
        assert (references[2].min(axis=1) < 1e-9).mean() > 0.1
        assert (np.abs(hard - references[2]).max(axis=1) < 1e-9).mean() > 0.1
        assert (np.abs(batch.error[2::3]).max(axis=1) > 1e3).mean() > 0.2


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_samples_do_not_violate_and_refute_a_smaller_constant(claim):
    assert claim.family is Pairs
    batches = [Pairs.sample(2000, np.random.default_rng(seed)) for seed in range(6)]
    worst = max(claim.ratio(batch).max() for batch in batches)
    assert worst <= 1 + 1e-9
    halved = dataclasses.replace(claim, right=lambda x: 0.5 * claim.right(x))
    assert max(halved.ratio(batch).max() for batch in batches) > 1 + 1e-9


def test_parametrization_names_every_array():
    batch = Pairs.sample(9, np.random.default_rng(0))
    assert list(Pairs.parametrization) == [f.name for f in dataclasses.fields(batch)]
    for name, kind in Pairs.parametrization.items():
        rows = getattr(batch, name)
        assert kind != "simplex" or np.allclose(rows.sum(axis=1), 1)
