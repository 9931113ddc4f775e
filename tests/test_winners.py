"""Winners and transitivity against their definitions in exact arithmetic."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim.data import PreferenceData
from rlhfsim.preferences import (
    PREFERENCE_MODELS,
    BradleyTerry,
    GeneralPreference,
    LabelNoise,
    RaterMixture,
    TrajectoryPreference,
    TransitivityCheck,
    borda_scores,
    borda_winners,
    condorcet_paradox,
    condorcet_winner,
    copeland_scores,
    copeland_winners,
    cyclic_preference,
    is_bradley_terry,
    moderate_transitivity,
    observed_preference,
    random_preference,
    strong_transitivity,
    weak_transitivity,
)

EPS = 2.0**-52
MODELS = pytest.mark.parametrize(
    "model",
    PREFERENCE_MODELS,
    ids=[f"{k}-{type(m).__name__}" for k, m in enumerate(PREFERENCE_MODELS)],
)
STOCHASTIC = (weak_transitivity, moderate_transitivity, strong_transitivity)
HALF = Fraction(1, 2)


def table(entries, size):
    """Return the skew table whose upper triangle holds `entries`."""
    p = np.full((size, size), 0.5)
    upper = np.triu_indices(size, k=1)
    p[upper] = entries
    p.T[upper] = 1.0 - np.asarray(entries)
    return p


@st.composite
def dyadic_tables(draw, least=1, most=5):
    """Return a table with entries in sixteenths, whose sums are exact and often tie."""
    size = draw(st.integers(least, most))
    pairs = size * (size - 1) // 2
    sixteenths = draw(st.lists(st.integers(0, 16), min_size=pairs, max_size=pairs))
    return table(np.array(sixteenths) / 16, size)


@st.composite
def dyadic_policies(draw, size):
    """Return a distribution of multiples of 1/32."""
    cuts = sorted(draw(st.lists(st.integers(0, 32), min_size=size - 1, max_size=size - 1)))
    return np.diff([0, *cuts, 32]) / 32


def rewards(least=2, most=5):
    """Return rewards in eighths: ties are common, and no probability is near 0 or 1."""
    return st.lists(st.integers(-24, 24), min_size=least, max_size=most).map(
        lambda values: np.array(values)[None] / 8
    )


def best(scores):
    return [score == max(scores) for score in scores]


def worst_triple(p, bound):
    """Return the largest `bound(P(a,b), P(b,c)) - P(a,c)` over chains of preferences, or 0."""
    worst = Fraction(0)
    for a, b, c in itertools.product(range(len(p)), repeat=3):
        ab, bc, ac = (Fraction(p[i, j]) for i, j in ((a, b), (b, c), (a, c)))
        if ab >= HALF and bc >= HALF:
            worst = max(worst, bound(ab, bc) - ac)
    return worst


# ---- definitions -----------------------------------------------------------------------------


@given(dyadic_tables())
def test_condorcet_and_copeland_follow_their_definitions(p):
    model, size = GeneralPreference(p), len(p)
    others = [[b for b in range(size) if b != a] for a in range(size)]
    beats_all = [a for a in range(size) if all(p[a, b] > 0.5 for b in others[a])]
    assert condorcet_winner(model).tolist() == [beats_all[0] if beats_all else -1]
    scores = [sum((p[a, b] > 0.5) + (p[a, b] == 0.5) / 2 for b in others[a]) for a in range(size)]
    assert copeland_scores(model).tolist() == [scores]
    assert copeland_winners(model).tolist() == [best(scores)]


@given(st.data(), dyadic_tables())
def test_borda_follows_its_definition(data, p):
    model, size = GeneralPreference(p), len(p)
    policy = data.draw(dyadic_policies(size))
    scores = [
        sum(Fraction(policy[b]) * Fraction(p[a, b]) for b in range(size)) for a in range(size)
    ]
    assert borda_scores(model, policy[None]).tolist() == [[float(score) for score in scores]]
    assert borda_winners(model, policy[None]).tolist() == [best(scores)]
    uniform = [sum(Fraction(p[a, b]) for b in range(size)) / size for a in range(size)]
    np.testing.assert_allclose(borda_scores(model)[0], [float(u) for u in uniform], rtol=4 * EPS)
    assert borda_winners(model).tolist() == [best(uniform)]


@given(dyadic_tables())
def test_stochastic_transitivity_follows_its_definition(p):
    model = GeneralPreference(p)
    bounds = (lambda ab, bc: HALF, min, max)
    for check, bound in zip(STOCHASTIC, bounds, strict=True):
        result, worst = check(model), worst_triple(p, bound)
        assert bool(result) == (worst == 0)
        assert result.violation.tolist() == [float(worst)]
        if worst:
            a, b, c = result.triple[0]
            assert p[a, b] >= 0.5
            assert p[b, c] >= 0.5
            assert bound(Fraction(p[a, b]), Fraction(p[b, c])) - Fraction(p[a, c]) == worst
        else:
            assert result.triple.tolist() == [[-1, -1, -1]]


@given(st.lists(st.floats(-20, 20), min_size=6, max_size=6))
def test_additivity_of_log_odds_follows_its_definition(entries):
    p = table(1 / (1 + np.exp(-np.array(entries))), 4)
    odds = np.zeros((4, 4))
    for a, b in itertools.permutations(range(4), 2):
        odds[a, b] = np.log(p[a, b]) - np.log(p[b, a])
    worst = max(
        abs(odds[a, b] + odds[b, c] - odds[a, c])
        for a, b, c in itertools.product(range(4), repeat=3)
    )
    result = is_bradley_terry(GeneralPreference(p), tolerance=1e-6)
    if worst > 1e-4:
        assert not result
        assert result.violation[0] == pytest.approx(worst, abs=1e-6)
        a, b, c = result.triple[0]
        assert abs(odds[a, b] + odds[b, c] - odds[a, c]) == pytest.approx(worst, abs=1e-6)


# ---- every model -----------------------------------------------------------------------------


@MODELS
def test_winners_of_one_kind_imply_those_of_another(model):
    condorcet, copeland = condorcet_winner(model), copeland_winners(model)
    scores, n_responses = copeland_scores(model), model.shape[1]
    # Every pair hands out one point.
    assert scores.sum(axis=1).tolist() == [n_responses * (n_responses - 1) / 2] * model.shape[0]
    for x, winner in enumerate(condorcet):
        top = scores[x].max() == n_responses - 1
        assert top == (winner >= 0)
        if winner >= 0:
            assert np.flatnonzero(copeland[x]).tolist() == [winner]
    strong = strong_transitivity(model)
    if strong:
        # Strong transitivity orders the rows of P, so the Borda winners are Copeland's, except
        # where probabilities that round to the same number hide a difference.
        assert (borda_winners(model) | ~copeland).all()
        assert moderate_transitivity(model)
    if moderate_transitivity(model):
        assert weak_transitivity(model)


@MODELS
def test_borda_scores_average_to_one_half_and_mark_the_winners(model):
    rng = np.random.default_rng(8)
    policy = rng.dirichlet(np.ones(model.shape[1]), size=model.shape[0])
    for opponents in (None, policy):
        scores = borda_scores(model, opponents)
        against = np.full(model.shape, 1 / model.shape[1]) if opponents is None else opponents
        expected = np.einsum("xab,xb->xa", model.tensor(), against)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=4 * EPS)
        # Preferences are skew about 1/2, so a policy wins half of the games against itself.
        np.testing.assert_allclose((against * scores).sum(axis=1), 0.5, rtol=0, atol=4 * EPS)
        winners = borda_winners(model, opponents)
        assert winners.any(axis=1).all()
        short = scores.max(axis=1, keepdims=True) - scores
        assert (short[winners] <= 8 * EPS).all()
        assert (short[~winners] >= 0).all()


@MODELS
def test_checks_agree_with_loops_over_the_triples(model):
    margin = model.margin_tensor()
    ties = model.majority(*model._all_pairs()) == 0
    margin = np.where(ties, 0.0, margin)
    for check, bound in zip(STOCHASTIC, (lambda ab, bc: 0.0, min, max), strict=True):
        result = check(model)
        for x in range(model.shape[0]):
            m = margin[x]
            chains = (
                bound(m[a, b], m[b, c]) - m[a, c]
                for a, b, c in itertools.product(range(len(m)), repeat=3)
                if m[a, b] >= 0 and m[b, c] >= 0
            )
            worst = max(0.0, *chains) / 2
            if worst > 100 * EPS:
                assert result.violation[x] == worst
            else:
                assert result.holds[x]


# ---- Bradley-Terry ---------------------------------------------------------------------------


@given(rewards(), st.floats(0.25, 4), st.floats(0, 0.45), st.data())
def test_the_largest_reward_wins_under_bradley_terry_and_noise(reward, temperature, rate, data):
    size = reward.shape[1]
    weights = data.draw(st.lists(st.integers(1, 9), min_size=size, max_size=size))
    policy = np.array(weights)[None] / sum(weights)
    top = reward == reward.max()
    expected = int(top.argmax()) if top.sum() == 1 else -1
    plain = BradleyTerry(reward, temperature)
    for model in (plain, LabelNoise(plain, rate)):
        assert condorcet_winner(model).tolist() == [expected]
        assert copeland_winners(model).tolist() == top.tolist()
        assert borda_winners(model).tolist() == top.tolist()
        assert borda_winners(model, policy).tolist() == top.tolist()
        assert strong_transitivity(model)
    assert is_bradley_terry(plain)


@pytest.mark.parametrize("low", [0.0, 1.0, -1e10, 1e300])
def test_the_smallest_gap_decides_and_no_gap_does_not(low):
    high = np.nextafter(low, np.inf)
    model = BradleyTerry([[low, high, low]])
    assert condorcet_winner(model).tolist() == [1]
    assert copeland_scores(model).tolist() == [[0.5, 2.0, 0.5]]
    if low != 0.0:  # half of the smallest float is no margin
        assert borda_winners(model).tolist() == [[False, True, False]]
    tied = BradleyTerry([[low, high, high]])
    assert condorcet_winner(tied).tolist() == [-1]
    assert copeland_winners(tied).tolist() == [[False, True, True]]


def test_noise_keeps_the_winner_up_to_one_half():
    model = BradleyTerry([[0.0, 0.5, 1.0]])
    almost = LabelNoise(model, np.nextafter(0.5, 0.0))
    assert condorcet_winner(almost).tolist() == [2]
    assert condorcet_winner(LabelNoise(model, 0.5)).tolist() == [-1]
    assert copeland_winners(LabelNoise(model, 0.5)).all()


def test_noise_on_bradley_terry_is_not_bradley_terry():
    reward = np.array([[0.0, 1.0, 3.0]])
    noisy = LabelNoise(BradleyTerry(reward), 0.1)
    result = is_bradley_terry(noisy)
    sigma = 0.8 / (1 + np.exp(-np.array([1.0, 2.0, 3.0]))) + 0.1
    odds = np.log(sigma / (1 - sigma))
    assert not result
    assert sorted(result.triple[0]) == [0, 1, 2]
    assert result.violation[0] == pytest.approx(odds[0] + odds[1] - odds[2], rel=1e-12)
    assert strong_transitivity(noisy)


def test_two_responses_are_always_bradley_terry():
    assert is_bradley_terry(GeneralPreference([[0.5, 1e-9], [1 - 1e-9, 0.5]]))
    assert is_bradley_terry(LabelNoise(BradleyTerry([[0.0, 1.0]]), 0.3))


def test_a_certain_label_is_no_finite_reward():
    sure = is_bradley_terry(GeneralPreference([[0.5, 0.25, 0.5], [0.75, 0.5, 0.0], [0.5, 1, 0.5]]))
    assert not sure
    assert sure.violation.tolist() == [np.inf]
    assert sure.triple.tolist() == [[1, 2, 2]]


@pytest.mark.parametrize("scale", [1.0, 8.0, 600.0])
@pytest.mark.parametrize("shift", [1e-3, 1e-6])
def test_a_tampered_pair_is_found_at_its_size(scale, shift):
    reward = scale * np.array([0.0, 0.1, 0.4, 1.0])
    odds = reward[:, None] - reward
    odds[1, 3] += shift * scale
    odds[3, 1] -= shift * scale
    model = GeneralPreference(1 / (1 + np.exp(-odds)))
    # The pair enters with odds of size 0.9 scale; of its two triples, (0, 1, 3) holds the largest.
    largest = max(1.0, scale)
    found = is_bradley_terry(model, tolerance=0.9 * shift * scale / largest)
    assert not found
    assert found.violation[0] == pytest.approx(shift * scale, rel=1e-5)
    assert {1, 3} < set(found.triple[0].tolist())
    assert is_bradley_terry(model, tolerance=1.2 * shift * scale / largest)


def test_tables_of_bradley_terry_are_recognised_at_large_gaps():
    model = BradleyTerry([[0.0, 650.0, 300.0, -40.0, 0.1]])
    assert is_bradley_terry(model)
    assert is_bradley_terry(GeneralPreference(model.tensor()), tolerance=1e-12)
    tilted = BradleyTerry([[0.0, 650.0, 300.0, -40.0, 0.1]], temperature=1.0 + 1e-6)
    mixed = GeneralPreference(RaterMixture([model, tilted], [0.5, 0.5]).tensor())
    assert is_bradley_terry(mixed, tolerance=1e-6)
    assert not is_bradley_terry(mixed, tolerance=1e-12)


def test_trajectories_are_bradley_terry():
    rng = np.random.default_rng(2)
    model = TrajectoryPreference(rng.normal(size=(3, 6, 5)), temperature=0.3)
    assert is_bradley_terry(model)
    assert condorcet_winner(model).tolist() == model.reward.argmax(axis=1).tolist()


# ---- built instances -------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.01, 0.2, 1.0, 30.0, 1e4])
def test_a_mixture_of_transitive_raters_can_be_cyclic(temperature):
    mixture = condorcet_paradox(temperature)
    for rater, order in zip(mixture.models, ([0, 1, 2], [1, 2, 0], [2, 0, 1]), strict=True):
        assert np.argsort(-rater.reward[0]).tolist() == order
        assert strong_transitivity(rater)
    assert mixture.majority(0, [0, 1, 2], [1, 2, 0]).tolist() == [1, 1, 1]
    assert condorcet_winner(mixture).tolist() == [-1]
    assert copeland_winners(mixture).all()
    weak = weak_transitivity(mixture)
    assert not weak
    h = 0.5 / temperature
    share = (2 * np.tanh(h) - np.tanh(2 * h)) / 3
    assert weak.violation[0] == pytest.approx(share / 2, rel=1e-4)
    a, b, c = weak.triple[0]
    assert (b - a) % 3 == 1
    assert (c - b) % 3 == 1


def test_a_cycle_of_equal_strength_violates_by_that_strength():
    for size in (3, 4, 5, 8):
        model = cyclic_preference(size, 0.125)
        assert condorcet_winner(model).tolist() == [-1]
        assert copeland_winners(model).all()
        assert borda_winners(model).all()
        assert weak_transitivity(model).violation.tolist() == [0.125]
        assert strong_transitivity(model).violation.tolist() == [0.25]


def test_borda_against_the_reference_differs_from_borda_against_uniform():
    model = GeneralPreference([[0.5, 0.4, 1.0], [0.6, 0.5, 0.6], [0.0, 0.4, 0.5]])
    reference = np.array([[0.45, 0.45, 0.1]])
    assert borda_winners(model).tolist() == [[True, False, False]]
    assert borda_winners(model, reference).tolist() == [[False, True, False]]
    np.testing.assert_allclose(borda_scores(model), [[1.9 / 3, 1.7 / 3, 0.9 / 3]])
    np.testing.assert_allclose(borda_scores(model, reference), [[0.505, 0.555, 0.23]])
    # The one that beats both others is not the one with the best average.
    assert condorcet_winner(model).tolist() == [1]
    assert strong_transitivity(model).violation[0] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("check", "least"),
    [(moderate_transitivity, 0.6), (strong_transitivity, 0.7)],
)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_each_degree_of_transitivity_has_its_threshold(check, least, order):
    def chain(ac):
        p = np.array([[0.5, 0.7, ac], [0.3, 0.5, 0.6], [1 - ac, 0.4, 0.5]])
        return GeneralPreference(p[np.ix_(order, order)])

    assert check(chain(least))
    below = check(chain(least - 1e-9))
    assert not below
    assert below.violation[0] == pytest.approx(1e-9, rel=1e-5)
    assert [order[i] for i in below.triple[0]] == [0, 1, 2]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_weak_transitivity_ends_at_a_tie(order):
    def cycle(ac):
        p = np.array([[0.5, 0.7, ac], [0.3, 0.5, 0.6], [1 - ac, 0.4, 0.5]])
        return weak_transitivity(GeneralPreference(p[np.ix_(order, order)]))

    assert cycle(np.nextafter(0.5, 1.0))
    # At the tie, 1 beats 2 and 2 is as good as 0, which yet beats 1.
    tied = cycle(0.5)
    assert tied.violation[0] == pytest.approx(0.2)
    assert [order[i] for i in tied.triple[0]] == [1, 2, 0]
    # Three responses in a cycle just off 1/2 lack no more than that.
    small = np.array([[0.5, 0.5 + 1e-9, 0.5 - 1e-9], [0.5 - 1e-9, 0.5, 0.5 + 1e-9]])
    small = np.vstack([small, 1 - np.append(small[:, 2], 0.5)])
    assert weak_transitivity(GeneralPreference(small)).violation[0] == pytest.approx(1e-9)


def test_a_table_is_judged_exactly():
    slightly = np.nextafter(0.5, 1.0)
    model = GeneralPreference([[0.5, slightly], [1 - slightly, 0.5]])
    assert condorcet_winner(model).tolist() == [0]
    assert borda_winners(model).tolist() == [[True, False]]


def test_borda_scores_a_thousand_roundings_apart_are_told_apart():
    def of(shift):
        # 0 and 1 have the same opponents and scores, up to the shift.
        p = table([0.5, 0.7, 0.6, 0.6 + shift, 0.7, 0.5], 4)
        return borda_winners(GeneralPreference(p)).tolist()

    assert of(0.0) == [[True, True, False, False]]
    assert of(1000 * EPS) == [[False, True, False, False]]


def test_data_of_a_transitive_model_may_be_cyclic():
    cycle = PreferenceData([0, 0, 0], [0, 1, 2], [1, 2, 0])
    assert not weak_transitivity(observed_preference(cycle))
    chain = PreferenceData([0, 0, 0], [0, 1, 0], [1, 2, 2])
    assert weak_transitivity(observed_preference(chain))


# ---- many prompts, many responses ------------------------------------------------------------


def test_many_prompts_are_judged_one_by_one():
    rng = np.random.default_rng(11)
    tensor = random_preference(rng, (15_000, 3)).tensor()
    model = GeneralPreference(tensor)
    some = rng.integers(15_000, size=40)
    part = GeneralPreference(tensor[some])
    for check in (*STOCHASTIC, is_bradley_terry):
        whole, few = check(model), check(part)
        for name in ("holds", "violation", "triple"):
            np.testing.assert_array_equal(getattr(whole, name)[some], getattr(few, name))
    # A random tournament on three responses is one of the two cycles in one case of four.
    share = 1 - weak_transitivity(model).holds.mean()
    assert abs(share - 0.25) < 6 * np.sqrt(0.25 * 0.75 / 15_000)
    assert ((condorcet_winner(model) == -1) == ~weak_transitivity(model).holds).all()


def test_blocks_of_prompts_cover_all_of_them():
    rng = np.random.default_rng(4)
    reward = rng.normal(size=(250, 150))
    model = BradleyTerry(reward)
    best_response = reward.argmax(axis=1)
    assert condorcet_winner(model).tolist() == best_response.tolist()
    ranks = reward.argsort(axis=1).argsort(axis=1)
    np.testing.assert_array_equal(copeland_scores(model), ranks)
    assert (borda_winners(model).argmax(axis=1) == best_response).all()
    assert (borda_winners(model).sum(axis=1) == 1).all()
    assert (borda_scores(model).argsort(axis=1) == reward.argsort(axis=1)).all()


def test_a_needle_among_200_responses_is_found():
    rng = np.random.default_rng(9)
    reward = np.sort(rng.normal(size=(2, 200)), axis=1)[:, ::-1]
    p = BradleyTerry(reward).tensor()
    p[1, 17, 160], p[1, 160, 17] = 0.375, 0.625
    model = GeneralPreference(p)
    weak = weak_transitivity(model)
    assert weak.holds.tolist() == [True, False]
    # 160 beats 17, which beats all that lie between them and beat 160.
    between = np.arange(18, 160)
    lacking = 0.5 - np.concatenate([p[1, 160, between], p[1, between, 17], [0.375]])
    assert weak.violation.tolist() == [0.0, pytest.approx(lacking.max(), rel=1e-14)]
    assert {17, 160} < set(weak.triple[1].tolist())
    bradley_terry = is_bradley_terry(model)
    assert bradley_terry.holds.tolist() == [True, False]
    assert {17, 160} < set(bradley_terry.triple[1].tolist())


# ---- results and bad input -------------------------------------------------------------------


def test_results_are_read_only_and_true_where_they_hold():
    result = weak_transitivity(cyclic_preference(3))
    assert isinstance(result, TransitivityCheck)
    assert not result
    with pytest.raises(ValueError, match="read-only"):
        result.violation[0] = 0.0


@pytest.mark.parametrize(
    "function",
    [
        condorcet_winner,
        copeland_scores,
        copeland_winners,
        borda_scores,
        borda_winners,
        *STOCHASTIC,
        is_bradley_terry,
    ],
)
def test_other_things_than_models_are_refused(function):
    with pytest.raises(ValueError, match="model is a ndarray; it must be a PreferenceModel"):
        function(np.full((1, 2, 2), 0.5))


@pytest.mark.parametrize("function", [borda_scores, borda_winners])
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ([[0.5, 0.5]], r"policy has shape \(1, 2\); it must have shape \(1, 3\)"),
        ([[0.5, 0.4, 0.0]], r"policy\[0\] sums to 0.9"),
        ([[1.5, -0.5, 0.0]], r"policy\[0, 1\] is -0.5"),
        ([[np.nan, 1.0, 0.0]], r"policy\[0, 0\] is nan"),
        ([1.0, 0.0, 0.0], r"policy has shape \(3,\)"),
    ],
)
def test_bad_policies_are_refused(function, policy, message):
    with pytest.raises(ValueError, match=message):
        function(cyclic_preference(3), policy)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, np.nan])
def test_bad_tolerances_are_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance is"):
        is_bradley_terry(cyclic_preference(3), tolerance)
