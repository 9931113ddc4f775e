"""Claims about preferences and their winners: they hold, are tight and notice what is wrong."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from claim_checks import assert_family, assert_holds, assert_refuted, assert_tight
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from rlhfsim.claims.comparisons import RATES, Comparisons
from rlhfsim.claims.preferences import PREFERENCE_CLAIMS, intransitivity
from rlhfsim.preferences import (
    BradleyTerry,
    GeneralPreference,
    condorcet_winner,
    random_preference,
    strong_transitivity,
)

TRUE = [c for c in PREFERENCE_CLAIMS if c.kind != "false"]
FALSE = [c for c in PREFERENCE_CLAIMS if c.kind == "false"]


def by_name(name):
    return next(c for c in PREFERENCE_CLAIMS if c.name == name)


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_true_claims_hold(claim):
    assert_holds(claim)


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_true_claims_are_tight_at_their_witness(claim):
    assert_tight(claim)


@pytest.mark.parametrize("claim", FALSE, ids=lambda c: c.name)
def test_false_claims_fail_at_their_witness(claim):
    assert_refuted(claim)


def test_family():
    assert_family(Comparisons, {"opponents"})
    x = Comparisons.sample(900, np.random.default_rng(0))
    p = x.probabilities
    np.testing.assert_allclose(p + np.swapaxes(p, 1, 2), 1.0, rtol=1e-12)
    assert set(x.noise.tolist()) == set(range(len(RATES)))
    upper = p[:, *np.triu_indices(p.shape[1], 1)]
    for share in (
        (upper == 0.5).any(axis=1),
        (upper == 1.0).any(axis=1),
        (upper > 0.99).any(axis=1),
    ):
        assert share.mean() > 0.05
    has = condorcet_winner(GeneralPreference(p)) >= 0
    assert 0.2 < has.mean() < 0.9


@st.composite
def comparisons(draw):
    """Small whole rewards, and preferences of ties, certainties and quarters."""
    size = draw(st.integers(3, 4))
    table = np.full((size, size), 0.5)
    for i, j in itertools.combinations(range(size), 2):
        table[i, j] = draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
        table[j, i] = 1.0 - table[i, j]
    reward = draw(st.lists(st.integers(-30, 30), min_size=size, max_size=size))
    weights = np.array(draw(st.lists(st.integers(1, 9), min_size=size, max_size=size)), dtype=float)
    return Comparisons(
        np.array([reward], dtype=float), table[None], weights[None] / weights.sum(),
        np.array([draw(st.integers(0, len(RATES) - 1))]),
    )  # fmt: skip


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
@given(x=comparisons())
@settings(max_examples=25)
def test_true_claims_hold_on_simple_tables(claim, x):
    assert claim.ratio(x)[0] <= 1 + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_intransitivity_against_loops_and_the_library(seed):
    rng = np.random.default_rng(seed)
    for model in (random_preference(rng, (6, 5)), BradleyTerry(rng.normal(size=(6, 5)))):
        table, holds = model.tensor(), strong_transitivity(model).holds
        for k, ratio in enumerate(intransitivity(table)):
            p, worst = table[k], 0.0
            for a, b, c in itertools.permutations(range(5), 3):
                if p[a, b] >= 0.5 and p[b, c] >= 0.5:
                    worst = max(worst, max(p[a, b], p[b, c]) / p[a, c])
            assert ratio == worst
            assert (ratio <= 1) == holds[k]


def probit(reward):
    """Thurstone's model: transitive like Bradley-Terry, but without its product rule."""
    from scipy.special import ndtr

    return ndtr(reward[:, :, None] - reward[:, None, :])


def test_the_product_rule_tells_bradley_terry_from_its_relatives():
    claim = by_name("product rule")
    general = by_name("product rule of any preference")
    reward = claim.witness().reward
    np.testing.assert_allclose(
        expit(reward[:, :, None] - reward[:, None, :]), BradleyTerry(reward).tensor(), rtol=1e-15
    )
    x = replace(general.witness(), probabilities=probit(reward[:, :3]))
    assert abs(np.log(general.left(x) / general.right(x)))[0] > 0.01
    assert intransitivity(x.probabilities)[0] <= 1


def test_winners_are_not_vacuous():
    """Sampled instances have winners, and a winner that is not the argmax would be noticed."""
    best = by_name("Bradley-Terry has the argmax as Condorcet winner")
    x = Comparisons.sample(2000, np.random.default_rng(3))
    winner = condorcet_winner(BradleyTerry(x.reward))
    assert (winner >= 0).mean() > 0.5
    assert (winner < 0).mean() > 0.05
    # Tables of other rewards than the claim's argmax is taken of.
    other = best.left(replace(x, reward=-x.reward))
    assert (other == 1).all()
    rolled = condorcet_winner(BradleyTerry(np.roll(x.reward, 1, axis=1)))
    assert (rolled[winner >= 0] != winner[winner >= 0]).all()
    borda = by_name("the Condorcet winner wins Borda")
    assert 0.01 < (borda.right(x) == 0).mean() < 0.5


def test_noise_above_one_half_would_change_winners():
    """Turning all labels round is what the claim on noise must not survive."""
    claim = by_name("noise keeps the Condorcet winner")
    x = Comparisons.sample(500, np.random.default_rng(4))
    turned = replace(x, probabilities=np.swapaxes(x.probabilities, 1, 2))
    one, other = (condorcet_winner(GeneralPreference(y.probabilities)) for y in (x, turned))
    assert (one[one >= 0] != other[one >= 0]).all()
    assert (claim.left(x) == 1).all()
