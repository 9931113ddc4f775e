"""Preference models against mpmath, their definitions, and each other."""

import copy
import itertools
import pickle
from fractions import Fraction
from math import fsum

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.preferences import (
    PREFERENCE_MODELS,
    BradleyTerry,
    GeneralPreference,
    LabelNoise,
    PreferenceModel,
    RaterMixture,
    TrajectoryPreference,
    borda_winners,
    condorcet_paradox,
    condorcet_winner,
    cyclic_preference,
    observed_preference,
    random_preference,
)

EPS = 2.0**-52
MODELS = pytest.mark.parametrize(
    "model",
    PREFERENCE_MODELS,
    ids=[f"{k}-{type(m).__name__}" for k, m in enumerate(PREFERENCE_MODELS)],
)
PLAIN = PREFERENCE_MODELS[0]


def exact(model, x, a, b):
    """Return `P(a beats b | x)` in high precision, from the definitions."""
    if isinstance(model, BradleyTerry):
        gap = mpmath.mpf(model.reward[x, a]) - mpmath.mpf(model.reward[x, b])
        return 1 / (1 + mpmath.exp(-gap / mpmath.mpf(model.temperature)))
    if isinstance(model, LabelNoise):
        rate = mpmath.mpf(model.rate)
        return (1 - rate) * exact(model.model, x, a, b) + rate * exact(model.model, x, b, a)
    if isinstance(model, RaterMixture):
        raters = zip(model.models, model.weights, strict=True)
        total = mpmath.fsum(model.weights)
        return sum(mpmath.mpf(w) * exact(m, x, a, b) for m, w in raters) / total
    if isinstance(model, TrajectoryPreference):
        steps = [[mpmath.mpf(v) for v in model.step_reward[x, y]] for y in (a, b)]
        gap = mpmath.fsum(steps[0]) - mpmath.fsum(steps[1])
        return 1 / (1 + mpmath.exp(-gap / mpmath.mpf(model.temperature)))
    assert isinstance(model, GeneralPreference)
    return mpmath.mpf(model.probabilities[x, a, b])


def exact_log(model, x, a, b):
    """Return `log P`, through the smaller of P and 1 - P, which alone has all its digits."""
    p, q = exact(model, x, a, b), exact(model, x, b, a)
    if p == 0:
        return -mpmath.inf
    return mpmath.log(p) if p <= q else mpmath.log1p(-q)


def triples(model):
    n_prompts, n_responses = model.shape
    return itertools.product(range(n_prompts), range(n_responses), range(n_responses))


def close(value, reference, relative, absolute=1e-300):
    """Whether a float agrees with an mpmath number, which may be beyond the range of floats."""
    if mpmath.isinf(reference) or abs(reference) > np.finfo(float).max:
        return value == float(reference)
    return abs(mpmath.mpf(float(value)) - reference) <= relative * abs(reference) + absolute


# ---- every model -----------------------------------------------------------------------------


@MODELS
def test_probabilities_and_logarithms_agree_with_high_precision(model):
    with mpmath.workdps(60):
        for x, a, b in triples(model):
            p, log_p = exact(model, x, a, b), exact_log(model, x, a, b)
            odds = log_p - exact_log(model, x, b, a)
            # Rounding the log-odds moves P, and log P where that is near 0, by eps |odds|.
            moved = EPS * (8 + min(abs(odds), 1000))
            assert close(model.probability(x, a, b), p, moved), (x, a, b)
            moved = moved if log_p > -0.5 else 8 * EPS
            assert close(model.log_probability(x, a, b), log_p, moved), (x, a, b)
            assert close(model.log_odds(x, a, b), odds, 8 * EPS, 8 * EPS), (x, a, b)


@MODELS
def test_margins_agree_with_high_precision(model):
    with mpmath.workdps(60):
        for x, a, b in triples(model):
            margin = exact(model, x, a, b) - exact(model, x, b, a)
            index = [np.array(i) for i in (x, a, b)]
            # The step sums of a trajectory are rounded once, which can hide a gap of one ulp.
            rounding = EPS if isinstance(model, TrajectoryPreference) else 0.0
            absolute = 4 * model._margin_error(*index) + rounding
            assert close(model.margin(*index), margin, 8 * EPS, absolute), (x, a, b)


@MODELS
def test_a_sign_is_decided_only_where_rounding_cannot_have_made_it(model):
    with mpmath.workdps(60):
        for x, a, b in triples(model):
            margin = exact(model, x, a, b) - exact(model, x, b, a)
            decided = int(model.majority(x, a, b))
            if decided != 0:
                assert decided == mpmath.sign(margin)
            elif not isinstance(model, TrajectoryPreference):
                assert abs(margin) <= 2 * model._margin_error(*map(np.array, (x, a, b)))


@MODELS
def test_the_two_directions_of_a_comparison_are_complementary(model):
    p, margin = model.tensor(), model.margin_tensor()
    swapped = np.swapaxes(p, 1, 2)
    given_as_is = isinstance(model, GeneralPreference)
    assert np.abs(p + swapped - 1.0).max() <= (1e-12 if given_as_is else EPS)
    assert ((p >= 0) & (p <= 1)).all()
    y = np.arange(model.shape[1])
    assert (p[:, y, y] == 0.5).all()
    np.testing.assert_array_equal(margin, -np.swapaxes(margin, 1, 2))
    assert np.abs(margin - (p - swapped)).max() <= 4 * EPS


@MODELS
def test_tensors_and_broadcast_calls_are_the_scalar_calls(model):
    n_prompts, n_responses = model.shape
    x, y = np.arange(n_prompts), np.arange(n_responses)
    grid = (x[:, None, None], y[:, None], y)
    for name in ("probability", "log_probability", "log_odds", "margin", "majority"):
        function = getattr(model, name)
        looped = np.array([function(*t) for t in triples(model)]).reshape(
            n_prompts, *[n_responses] * 2
        )
        np.testing.assert_array_equal(function(*grid), looped, err_msg=name)
        assert function(0, 0, 0).shape == ()
    np.testing.assert_array_equal(model.tensor(), model.probability(*grid))
    np.testing.assert_array_equal(model.margin_tensor(), model.margin(*grid))
    assert model.tensor().shape == (n_prompts, n_responses, n_responses)


@MODELS
def test_labels_compare_a_uniform_number_with_the_probability(model):
    x, a, b = (np.array(column) for column in zip(*triples(model), strict=True))
    p = model.probability(x, a, b)
    assert not model.first_wins(x, a, b, p).any()
    some = p > 0
    below = np.nextafter(p, 0.0)
    assert model.first_wins(x[some], a[some], b[some], below[some]).all()
    assert model.first_wins(x, a, b, np.zeros(x.size)).tolist() == some.tolist()


@MODELS
def test_models_are_frozen_and_survive_copies(model):
    for clone in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert type(clone) is type(model)
        np.testing.assert_array_equal(clone.tensor(), model.tensor())
        for value in vars(clone).values():
            if isinstance(value, np.ndarray):
                assert not value.flags.writeable
    field = next(iter(vars(model)))
    with pytest.raises(AttributeError):
        setattr(model, field, None)


@MODELS
@pytest.mark.parametrize(
    ("index", "message"),
    [
        (([0, -1], 0, 0), r"prompt\[1\] is -1; it must be at least 0 and below"),
        ((0, [[0], [99]], 0), r"first\[1, 0\] is 99; it must be at least 0 and below"),
        ((0, 0, 99), r"second is 99; it must be"),
        ((0.0, 0, 0), "prompt has dtype float64; it must hold integers"),
        ((0, True, 0), "first has dtype bool"),
        ((0, 0, "a"), "second has dtype"),
        ((0, 0, []), "second is empty"),
        ((0, [[0], [0, 0]], 0), "first is not an array of integers"),
        ((np.ma.array([0, 0], mask=[0, 1]), 0, 0), "prompt is a masked array"),
        (([0, 0], [0, 0, 0], 0), "shapes do not broadcast"),
        ((0, 0, np.uint64(2**63)), "second is 9223372036854775808"),
    ],
)
def test_bad_indices_are_refused(model, index, message):
    for name in ("probability", "log_probability", "log_odds", "margin", "majority"):
        with pytest.raises(ValueError, match=message):
            getattr(model, name)(*index)


@MODELS
def test_the_first_index_beyond_the_end_is_refused(model):
    n_prompts, n_responses = model.shape
    model.probability(n_prompts - 1, n_responses - 1, n_responses - 1)
    for index in ((n_prompts, 0, 0), (0, n_responses, 0), (0, 0, n_responses)):
        with pytest.raises(ValueError, match=f"is {max(index)}; it must be at least 0 and below"):
            model.probability(*index)


def test_a_new_model_needs_only_its_shape_and_its_probability():
    class Halves(PreferenceModel):
        shape = (1, 2)

        def _probability(self, prompt, first, second):
            return 0.5 + 0.25 * (second - first) + 0.0 * prompt

    model = Halves()
    np.testing.assert_array_equal(model.tensor(), [[[0.5, 0.75], [0.25, 0.5]]])
    assert model.log_odds(0, 0, 1) == pytest.approx(np.log(3.0), rel=1e-15)
    assert model.margin(0, 1, 0) == -0.5
    assert model.majority(0, [0, 0, 1], [1, 0, 0]).tolist() == [1, 0, -1]


def test_every_kind_is_in_the_list():
    kinds = {type(model) for model in PREFERENCE_MODELS}
    assert kinds == set(PreferenceModel.__subclasses__()) - {
        kind
        for kind in PreferenceModel.__subclasses__()
        if not kind.__module__.startswith("rlhfsim")
    }


# ---- Bradley-Terry ---------------------------------------------------------------------------


def test_huge_gaps_give_certain_labels_and_exact_logarithms():
    model = BradleyTerry([[0.0, 800.0, -1e308, 1e308]])
    assert model.probability(0, [1, 0, 3, 2], [0, 1, 2, 3]).tolist() == [1.0, 0.0, 1.0, 0.0]
    assert model.log_probability(0, [0, 2], [1, 0]).tolist() == [-800.0, -1e308]
    assert model.log_probability(0, 1, 0) == 0.0


def test_rewards_whose_difference_overflows_are_divided_first():
    model = BradleyTerry([[1e308, -1e308, 1e308]], temperature=1e308)
    assert model.log_odds(0, 0, 1) == 2.0
    assert model.log_odds(0, 0, 2) == 0.0
    cold = BradleyTerry([[5e307, 4e307, -1e308]], temperature=1e-300)
    assert cold.log_odds(0, [0, 1, 2], [1, 0, 0]).tolist() == [np.inf, -np.inf, -np.inf]
    assert cold.probability(0, [0, 1], [1, 0]).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 5e-324), (1.0, np.nextafter(1.0, 2.0)), (-1e300, -1e300 * (1 - EPS))]
)
def test_neighbouring_rewards_are_told_apart(low, high):
    model = BradleyTerry([[low, high]])
    assert model.majority(0, 1, 0) == 1
    assert model.majority(0, 0, 1) == -1


@given(
    arrays(np.float64, (2, 4), elements=st.floats(-30, 30)),
    st.integers(-40, 40),
    st.floats(0.01, 100),
)
def test_only_the_ratio_of_reward_and_temperature_matters(reward, exponent, temperature):
    scale = 2.0**exponent
    model = BradleyTerry(np.ldexp(np.round(reward, 6), 0), temperature)
    scaled = BradleyTerry(model.reward * scale, temperature * scale)
    np.testing.assert_array_equal(model.tensor(), scaled.tensor())


@given(st.floats(-700, 700), st.floats(0.05, 20))
def test_the_log_odds_are_the_scaled_gap(gap, temperature):
    model = BradleyTerry([[gap, 0.0]], temperature)
    with mpmath.workdps(40):
        odds = mpmath.mpf(gap) / mpmath.mpf(temperature)
        assert close(model.log_odds(0, 0, 1), odds, EPS)
        if abs(odds) < 700:
            p = 1 / (1 + mpmath.exp(-odds))
            # The rounding of the odds alone moves P by eps |odds| / 2.
            assert close(model.probability(0, 0, 1), p, EPS * (4 + abs(odds)))
        assert close(model.margin(0, 0, 1), mpmath.tanh(odds / 2), 8 * EPS)


def test_labels_have_the_frequency_of_the_probability():
    model, rng, n = PLAIN, np.random.default_rng(5), 400_000
    x = np.zeros(n, dtype=np.int64)
    wins = model.first_wins(x, x + 3, x + 1, rng.random(n)).mean()
    p = 1 / (1 + np.exp(0.3 - 2.0))
    # Six standard errors: a false alarm once in 5e8.
    assert abs(wins - p) < 6 * np.sqrt(p * (1 - p) / n)
    assert abs(wins - p) < abs(wins - (1 - p))


# ---- label noise -----------------------------------------------------------------------------


@given(st.floats(0, 0.5), st.floats(0, 0.5))
def test_noise_on_noise_is_noise(first, second):
    twice = LabelNoise(LabelNoise(PLAIN, first), second)
    once = LabelNoise(PLAIN, min(0.5, first + second - 2 * first * second))
    np.testing.assert_allclose(twice.tensor(), once.tensor(), rtol=0, atol=8 * EPS)


@given(st.floats(0, 0.5))
def test_noise_is_a_mixture_with_the_opposite_rater(rate):
    mixture = RaterMixture([PLAIN, BradleyTerry(-PLAIN.reward)], [1 - rate, rate])
    noisy = LabelNoise(PLAIN, rate)
    np.testing.assert_allclose(noisy.tensor(), mixture.tensor(), rtol=8 * EPS)
    np.testing.assert_allclose(noisy.margin_tensor(), mixture.margin_tensor(), rtol=0, atol=8 * EPS)
    falling = noisy.tensor()[0][:, np.argsort(PLAIN.reward[0])]
    assert (np.diff(falling, axis=1) <= EPS).all()


def test_noise_shrinks_the_margin_by_one_minus_twice_its_rate():
    np.testing.assert_allclose(
        LabelNoise(PLAIN, 0.2).margin_tensor(), 0.6 * PLAIN.margin_tensor(), rtol=4 * EPS
    )
    np.testing.assert_array_equal(LabelNoise(PLAIN, 0.5).tensor(), np.full((2, 4, 4), 0.5))
    np.testing.assert_allclose(LabelNoise(PLAIN, 0.0).tensor(), PLAIN.tensor(), rtol=EPS)


def test_noise_keeps_the_digits_of_tiny_probabilities():
    model = LabelNoise(BradleyTerry([[0.0, 1000.0]]), 1e-200)
    assert model.probability(0, 0, 1) == 1e-200
    assert model.log_probability(0, 0, 1) == pytest.approx(-200 * np.log(10), rel=4 * EPS)
    assert LabelNoise(model, 1e-250).log_probability(0, 0, 1) == model.log_probability(0, 0, 1)
    assert LabelNoise(BradleyTerry([[0.0, 1000.0]]), 0).log_probability(0, 0, 1) == -1000.0


# ---- mixtures of raters ----------------------------------------------------------------------


def test_a_mixture_averages_its_raters():
    other = BradleyTerry(np.sqrt(np.arange(8.0)).reshape(2, 4))
    mixture = RaterMixture([PLAIN, other], [0.25, 0.75])
    average = 0.25 * PLAIN.tensor() + 0.75 * other.tensor()
    np.testing.assert_allclose(mixture.tensor(), average, rtol=0, atol=2 * EPS)
    nested = RaterMixture([RaterMixture([PLAIN, other], [0.5, 0.5]), other], [0.5, 0.5])
    np.testing.assert_allclose(nested.tensor(), average, rtol=0, atol=4 * EPS)


def test_a_mixture_of_one_rater_and_raters_without_weight_is_that_rater():
    mixture = RaterMixture((PLAIN, LabelNoise(PLAIN, 0.5)), (1, 0))
    np.testing.assert_allclose(mixture.tensor(), PLAIN.tensor(), rtol=2 * EPS)


def test_certain_raters_stay_certain_when_weights_sum_to_more_than_one():
    weights = np.full(49, 1 / 49) * (1 + 5e-13)
    assert weights.sum() > 1
    mixture = RaterMixture([cyclic_preference(3)] * 49, weights)
    np.testing.assert_array_equal(mixture.tensor(), cyclic_preference(3).tensor())
    assert mixture.log_probability(0, 0, 1) == 0.0
    assert mixture.log_probability(0, 1, 0) == -np.inf


def test_opposite_raters_tie_in_spite_of_rounding():
    gaps = np.array([[0.1, 0.0], [0.2, 0.0], [0.3, 0.0]])
    raters = [BradleyTerry(sign * row[None]) for sign in (1, -1) for row in gaps]
    mixture = RaterMixture(raters, [0.1, 0.3, 0.1, 0.1, 0.3, 0.1])
    assert mixture.margin(0, 0, 1) != 0
    assert mixture.majority(0, 0, 1) == 0
    nested = RaterMixture([mixture, BradleyTerry([[0.0, 0.0]])], [0.5, 0.5])
    assert nested.majority(0, 0, 1) == 0
    assert LabelNoise(nested, 0.25).majority(0, 0, 1) == 0
    # Nor do the winners take rounding for a preference.
    assert condorcet_winner(nested).tolist() == [-1]
    assert borda_winners(nested).all()
    # A tie that is not one by a thousand roundings is seen.
    tilted = [*raters[:-1], BradleyTerry([[-0.3 + 1000 * EPS, 0.0]])]
    assert RaterMixture(tilted, [0.1, 0.3, 0.1, 0.1, 0.3, 0.1]).majority(0, 0, 1) == 1


def test_a_mixture_sees_gaps_that_probabilities_do_not():
    mixture = RaterMixture([BradleyTerry([[0.0, 1e-18]]), BradleyTerry([[0.0, 3e-18]])], [0.5, 0.5])
    assert mixture.probability(0, 1, 0) == 0.5
    assert mixture.majority(0, 1, 0) == 1


# ---- general preferences ---------------------------------------------------------------------


def test_one_matrix_is_one_prompt_and_is_copied():
    given_table = np.array([[0.5, 0.75], [0.25, 0.5]])
    model = GeneralPreference(given_table)
    assert model.shape == (1, 2)
    given_table[0, 1] = 0.0
    assert model.probability(0, 0, 1) == 0.75
    model.tensor()[0, 0, 1] = 0.0
    assert model.probability(0, 0, 1) == 0.75


def test_any_model_survives_its_table():
    for model in PREFERENCE_MODELS:
        table = GeneralPreference(model.tensor())
        np.testing.assert_array_equal(table.tensor(), model.tensor())


def test_certain_and_rare_labels_have_exact_logarithms():
    model = GeneralPreference([[0.5, 1e-18], [1.0, 0.5]])
    assert model.log_probability(0, 0, 1) == pytest.approx(-18 * np.log(10), rel=2 * EPS)
    assert model.log_probability(0, 1, 0) == -1e-18
    sure = GeneralPreference([[0.5, 0.0], [1.0, 0.5]])
    assert sure.log_probability(0, [0, 1], [1, 0]).tolist() == [-np.inf, 0.0]
    assert sure.log_odds(0, [0, 1], [1, 0]).tolist() == [-np.inf, np.inf]


@pytest.mark.parametrize("size", range(3, 9))
def test_cyclic_preferences_are_rock_paper_scissors(size):
    p = cyclic_preference(size, 0.25).tensor()[0]
    for a, b in itertools.product(range(size), repeat=2):
        ahead = (b - a) % size
        # The sign says on which side of the circle b lies, 0 at both ends of a diameter.
        side = 0 if ahead == 0 else np.sign(size - 2 * ahead)
        assert p[a, b] == 0.5 + 0.25 * side
    np.testing.assert_array_equal(p, np.roll(p, (1, 1), axis=(0, 1)))


def test_random_preferences_are_uniform_and_follow_the_generator():
    model = random_preference(np.random.default_rng(3), (400, 12))
    again = random_preference(np.random.default_rng(3), (400, 12))
    np.testing.assert_array_equal(model.tensor(), again.tensor())
    assert model.shape == (400, 12)
    upper = model.tensor()[:, *np.triu_indices(12, k=1)]
    np.testing.assert_array_equal(model.tensor() + np.swapaxes(model.tensor(), 1, 2), 1.0)
    # Kolmogorov-Smirnov at level 1e-9 (Dvoretzky-Kiefer-Wolfowitz).
    values = np.sort(upper.ravel())
    distance = np.abs(values - (np.arange(values.size) + 0.5) / values.size).max()
    assert distance <= np.sqrt(np.log(2 / 1e-9) / (2 * values.size)) + 0.5 / values.size
    assert abs(np.corrcoef(upper.T)[np.triu_indices(66, k=1)]).max() < 0.4


# ---- trajectories ----------------------------------------------------------------------------


@given(arrays(np.float64, (2, 3, 4), elements=st.floats(-50, 50)), st.floats(0.1, 10))
def test_trajectories_are_bradley_terry_on_sums_to_the_bit(steps, temperature):
    model = TrajectoryPreference(steps, temperature)
    reward = np.array([[fsum(response) for response in prompt] for prompt in steps])
    same = BradleyTerry(reward, temperature)
    np.testing.assert_array_equal(model.reward, reward)
    np.testing.assert_array_equal(model.tensor(), same.tensor())
    np.testing.assert_array_equal(model.margin_tensor(), same.margin_tensor())
    grid = (np.arange(2)[:, None, None], np.arange(3)[:, None], np.arange(3))
    np.testing.assert_array_equal(model.log_probability(*grid), same.log_probability(*grid))
    np.testing.assert_array_equal(model.log_odds(*grid), same.log_odds(*grid))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_steps_does_not_matter(steps, random):
    shuffled = random.sample(steps, len(steps))
    model = TrajectoryPreference([[steps, shuffled]])
    assert model.majority(0, 0, 1) == 0
    total = sum(map(Fraction, steps))
    assert model.reward[0, 0] == float(total)


def test_steps_that_cancel_leave_what_remains():
    assert TrajectoryPreference([[[1e16, 1.0, -1e16]]]).reward.item() == 1.0


def test_from_steps_adds_the_values_before_the_end():
    steps = np.array([[0, 1, 1], [2, -1, -1], [-1, -1, -1], [2, 0, -1]])
    value = np.array([[0.1, 0.2, 0.7], [-1.0, 3.0, 0.5]])
    kept_steps, kept_value = steps.copy(), value.copy()
    model = TrajectoryPreference.from_steps(steps, value, temperature=2.0)
    for x in range(2):
        for y, row in enumerate(steps):
            assert model.reward[x, y] == fsum(value[x, s] for s in row if s != -1)
    assert model.temperature == 2.0
    np.testing.assert_array_equal(steps, kept_steps)
    np.testing.assert_array_equal(value, kept_value)


# ---- observed preferences --------------------------------------------------------------------


def test_observed_preferences_are_shares_of_wins():
    data = PreferenceData([0, 0, 0, 0, 0], [0, 0, 1, 2, 1], [1, 1, 0, 2, 2], shape=(2, 3))
    table = observed_preference(data).tensor()
    expected = np.full((2, 3, 3), 0.5)
    expected[0, 0, 1], expected[0, 1, 0] = 2 / 3, 1 / 3
    expected[0, 1, 2], expected[0, 2, 1] = 1.0, 0.0
    np.testing.assert_array_equal(table, expected)


def test_the_law_of_pairs_shows_the_model():
    n_prompts, n_responses = PLAIN.shape
    policy = np.array([0.4, 0.3, 0.2, 0.1])
    grid = np.array([t for t in triples(PLAIN) if t[1] != t[2]]).T
    weight = policy[grid[1]] * policy[grid[2]] * PLAIN.probability(*grid) / n_prompts
    law = PairCounts(*grid, 2 * weight, float((policy**2).sum()), (n_prompts, n_responses))
    np.testing.assert_allclose(observed_preference(law).tensor(), PLAIN.tensor(), rtol=4 * EPS)


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BradleyTerry([0.0, 1.0]), r"reward has shape \(2,\)"),
        (lambda: BradleyTerry([[0.0, np.nan]]), r"reward\[0, 1\] is nan; entries must be finite"),
        (lambda: BradleyTerry(np.zeros((0, 3))), "reward has shape"),
        (lambda: BradleyTerry([[0.0]], temperature=0.0), "temperature is 0.0; it must be positive"),
        (lambda: BradleyTerry([[0.0]], temperature=np.inf), "temperature is inf"),
        (lambda: LabelNoise(PLAIN, 0.51), "rate is 0.51; it must be at most 1/2"),
        (lambda: LabelNoise(PLAIN, -0.1), "rate is -0.1; it must be non-negative"),
        (lambda: LabelNoise(PLAIN, np.nan), "rate is nan"),
        (lambda: LabelNoise([[0.0]], 0.1), "model is a list; it must be a PreferenceModel"),
        (lambda: RaterMixture([], []), "models is "),
        (lambda: RaterMixture(PLAIN, [1.0]), "models is "),
        (lambda: RaterMixture([PLAIN, 3], [0.5, 0.5]), r"models\[1\] is a int"),
        (
            lambda: RaterMixture([PLAIN, cyclic_preference(3)], [0.5, 0.5]),
            r"models\[1\] has shape \(1, 3\) and models\[0\] has \(2, 4\)",
        ),
        (lambda: RaterMixture([PLAIN], [[1.0]]), r"weights has shape \(1, 1\); it must be \(1,\)"),
        (lambda: RaterMixture([PLAIN] * 2, [0.5, 0.4]), "weights sums to 0.9"),
        (lambda: RaterMixture([PLAIN] * 2, [0.5, 0.5 + 2e-12]), "rows must sum to 1 within 1e-12"),
        (lambda: RaterMixture([PLAIN] * 2, [1.5, -0.5]), r"weights\[1\] is -0.5"),
        (lambda: GeneralPreference([0.5]), r"probabilities has shape \(1,\)"),
        (lambda: GeneralPreference(np.full((2, 3), 0.5)), "probabilities has shape"),
        (lambda: GeneralPreference(np.zeros((2, 0, 0))), "probabilities has shape"),
        (
            lambda: GeneralPreference([[0.5, 1.2], [-0.2, 0.5]]),
            r"probabilities\[0, 1\] is 1.2; probabilities must lie in \[0, 1\]",
        ),
        (
            lambda: GeneralPreference([[[0.5, 0.7], [0.3, 0.5]], [[0.5, 0.5], [0.5, 0.4]]]),
            r"probabilities\[1, 1, 1\] is 0.4; a response beats itself with probability 1/2",
        ),
        (
            lambda: GeneralPreference([[[0.5, 0.7], [0.4, 0.5]]]),
            r"probabilities\[0, 0, 1\] is 0.7 and probabilities\[0, 1, 0\] is 0.4; they must sum",
        ),
        (
            lambda: GeneralPreference([[0.5, 0.7], [0.3 + 3e-12, 0.5]]),
            "they must sum to 1 within 1e-12",
        ),
        (lambda: GeneralPreference([[0.5, np.nan], [0.5, 0.5]]), "entries must be finite"),
        (lambda: cyclic_preference(2), "size is 2; it must be at least 3"),
        (lambda: cyclic_preference(3, 0.6), "strength is 0.6; it must be at most 1/2"),
        (lambda: cyclic_preference(3, 0.0), "strength is 0.0; it must be positive"),
        (lambda: condorcet_paradox(-1.0), "temperature is -1.0"),
        (lambda: random_preference(3, (1, 2)), "rng is a int"),
        (lambda: random_preference(np.random.default_rng(0), (1, 0)), r"shape\[1\] is 0"),
        (lambda: random_preference(np.random.default_rng(0), 3), "shape is 3"),
        (lambda: TrajectoryPreference([[0.0]]), r"step_reward has shape \(1, 1\)"),
        (lambda: TrajectoryPreference(np.zeros((1, 2, 0))), "step_reward has shape"),
        (lambda: TrajectoryPreference([[[np.inf]]]), r"step_reward\[0, 0, 0\] is inf"),
        (
            lambda: TrajectoryPreference([[[0.0, 0.0], [1e308, 1e308]]]),
            r"step_reward\[0, 1\] overflows when summed",
        ),
        (lambda: TrajectoryPreference([[[0.0]]], temperature=-1), "temperature is -1.0"),
        (lambda: TrajectoryPreference.from_steps([[0, 3]], [[1.0, 2.0]]), r"steps\[0, 1\] is 3"),
        (lambda: TrajectoryPreference.from_steps([[0, -2]], [[1.0]]), r"steps\[0, 1\] is -2"),
        (
            lambda: TrajectoryPreference.from_steps([[0, 0], [-1, 0]], [[1.0]]),
            r"steps\[1, 1\] is 0; no step may follow a -1",
        ),
        (lambda: TrajectoryPreference.from_steps([[0.5]], [[1.0]]), "steps is "),
        (lambda: TrajectoryPreference.from_steps([0], [[1.0]]), r"steps has shape \(1,\)"),
        (lambda: TrajectoryPreference.from_steps([[0]], [1.0]), r"step_value has shape \(1,\)"),
        (lambda: observed_preference([0]), "data is a list"),
    ],
)
def test_bad_input_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_complement_off_by_less_than_the_tolerance_is_kept_as_given():
    model = GeneralPreference([[0.5, 0.7], [0.3 + 5e-13, 0.5]])
    assert model.probability(0, 1, 0) == 0.3 + 5e-13
