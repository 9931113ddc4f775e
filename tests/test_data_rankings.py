"""Breaking rankings into pairs, against the exact law of all rankings of three responses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from rlhfsim.data import PreferenceData, RankingData, count_pairs

REWARD = np.array([2.0, 0.5, -1.0])
RANKINGS = np.array(list(itertools.permutations(range(3))))


def plackett_luce(reward, rankings):
    """P(ranking) by drawing the best, then the best of the rest, and so on."""
    weight = np.exp(reward[rankings])
    remaining = weight[:, ::-1].cumsum(axis=1)[:, ::-1]
    return (weight / remaining).prod(axis=1)


LAW = plackett_luce(REWARD, RANKINGS)


def rankings_as_data():
    """One row for each ranking."""
    return RankingData(np.zeros(len(RANKINGS), int), RANKINGS, (1, 3))


def pair_law(how):
    """(3, 3) expected number of pairs of a better and a worse response of one ranking."""
    pairs = rankings_as_data().to_pairs(how)
    mass = np.zeros((3, 3))
    np.add.at(mass, (pairs.chosen, pairs.rejected), np.repeat(LAW, len(pairs) // len(LAW)))
    return mass


# ---- which pairs ----------------------------------------------------------------------------


def test_pairs_by_hand():
    data = RankingData([1, 0], [[5, 2, 4], [3, 3, 0]], (2, 7))
    pairs = data.to_pairs()
    assert isinstance(pairs, PreferenceData)
    assert pairs.shape == (2, 7)
    assert pairs.prompt.tolist() == [1, 1, 1, 0, 0, 0]
    assert pairs.chosen.tolist() == [5, 5, 2, 3, 3, 3]
    assert pairs.rejected.tolist() == [2, 4, 4, 3, 0, 0]
    pairs = data.to_pairs("adjacent")
    assert pairs.prompt.tolist() == [1, 1, 0, 0]
    assert pairs.chosen.tolist() == [5, 2, 3, 3]
    assert pairs.rejected.tolist() == [2, 4, 3, 0]
    assert count_pairs(pairs).equal_pairs == 1.0


@given(
    st.integers(2, 6).flatmap(
        lambda k: st.lists(
            st.tuples(st.integers(0, 3), st.lists(st.integers(0, 9), min_size=k, max_size=k)),
            min_size=1,
            max_size=8,
        )
    )
)
def test_pairs_against_loops(rows):
    data = RankingData([x for x, _ in rows], [ranking for _, ranking in rows], (4, 10))
    expected = {
        "all": [(x, *pair) for x, r in rows for pair in itertools.combinations(r, 2)],
        "adjacent": [(x, *pair) for x, r in rows for pair in itertools.pairwise(r)],
    }
    for how, triples in expected.items():
        pairs = data.to_pairs(how)
        columns = (pairs.prompt, pairs.chosen, pairs.rejected)
        assert list(zip(*(c.tolist() for c in columns), strict=True)) == triples
        for column in columns:
            assert column.dtype == np.int64
            assert not column.flags.writeable


def test_other_ways_are_refused():
    for how in ("first", None, 2):
        with pytest.raises(ValueError, match=r"how is .*; it must be 'all' or 'adjacent'"):
            rankings_as_data().to_pairs(how)


def test_many_rows():
    rng = np.random.default_rng(0)
    data = RankingData(rng.integers(0, 50, 100_000), rng.integers(0, 9, (100_000, 4)), (50, 9))
    assert len(data.to_pairs()) == 600_000
    assert len(data.to_pairs("adjacent")) == 300_000
    assert count_pairs(data.to_pairs()).count.sum() < 600_000


# ---- what the docstring says about them -----------------------------------------------------


def test_law_of_rankings():
    assert LAW.sum() == pytest.approx(1.0, abs=1e-15)
    rng = np.random.default_rng(1)
    noisy = REWARD + rng.gumbel(size=(10**6, 3))  # Plackett-Luce as a random utility model
    code = (np.argsort(-noisy, axis=1) * [9, 3, 1]).sum(axis=1)
    frequency = [(code == c).mean() for c in (RANKINGS * [9, 3, 1]).sum(axis=1)]
    # Six standard errors: a false alarm has probability below 2e-9 each.
    np.testing.assert_allclose(frequency, LAW, atol=6 * 0.5 / 10**3)


def test_all_pairs_have_bradley_terry_probabilities():
    mass = pair_law("all")
    for a, b in itertools.permutations(range(3), 2):
        share = mass[a, b] / (mass[a, b] + mass[b, a])
        assert share == pytest.approx(expit(REWARD[a] - REWARD[b]), rel=1e-14)


def test_adjacent_pairs_do_not():
    """The best and the worst response are neighbours only when the middle one is misplaced."""
    mass = pair_law("adjacent")
    share = mass[0, 2] / (mass[0, 2] + mass[2, 0])
    # 1 over 2 and 2 over 0 apart: by hand, the rankings 0 2 1 and 1 0 2 against 1 2 0 and 2 0 1.
    place = {tuple(ranking): p for ranking, p in zip(RANKINGS.tolist(), LAW, strict=True)}
    first = place[0, 2, 1] + place[1, 0, 2]
    second = place[1, 2, 0] + place[2, 0, 1]
    assert share == pytest.approx(first / (first + second), rel=1e-14)
    assert expit(REWARD[0] - REWARD[2]) - share > 0.05
    assert np.abs(score_of_pairs(REWARD, "adjacent") @ LAW).max() > 0.04
    assert np.abs(score_of_pairs(REWARD, "all") @ LAW).max() < 1e-15


def score_of_pairs(reward, how):
    """(3, 6) gradient in `reward` of the Bradley-Terry log-likelihood of each ranking's pairs."""
    pairs = rankings_as_data().to_pairs(how)
    surprise = expit(reward[pairs.rejected] - reward[pairs.chosen])
    row = np.repeat(np.arange(6), len(pairs) // 6)
    score = np.zeros((3, 6))
    np.add.at(score, (pairs.chosen, row), surprise)
    np.add.at(score, (pairs.rejected, row), -surprise)
    return score


def test_all_pairs_are_less_efficient_and_not_independent():
    """Asymptotic covariances of the gaps of the first and the second reward to the third."""
    score = score_of_pairs(REWARD, "all")[:2]
    spread = score * LAW @ score.T
    step = 1e-5
    curvature = np.column_stack(
        [
            (score_of_pairs(REWARD - e, "all") - score_of_pairs(REWARD + e, "all"))[:2] @ LAW
            for e in step * np.eye(3)[:2]
        ]
    ) / (2 * step)
    pairwise = np.linalg.inv(curvature) @ spread @ np.linalg.inv(curvature)
    log_law = [
        np.log(plackett_luce(REWARD + e, RANKINGS) / plackett_luce(REWARD - e, RANKINGS))
        for e in step * np.eye(3)[:2]
    ]
    ranked_score = np.array(log_law) / (2 * step)
    ranked = np.linalg.inv(ranked_score * LAW @ ranked_score.T)
    assert np.linalg.eigvalsh(pairwise - ranked).min() > 0.0
    assert (pairwise.diagonal() > 1.05 * ranked.diagonal()).all()
    assert np.linalg.eigvalsh(pairwise - np.linalg.inv(curvature)).min() > 0.1
