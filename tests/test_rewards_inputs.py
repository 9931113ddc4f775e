"""Input that says little or nothing about the reward: every model names it, or says what it does.

Indices out of range, empty columns and broken files are refused by the data themselves
(`test_data_kinds`, `test_data_tables`); here is what the fits make of data that pass.
"""

import numpy as np
import pytest
from confidence_data import counts_of, data_of

from rlhfsim.data import PairCounts, PreferenceData, RankingData, ScoreData
from rlhfsim.rewards import (
    FiniteClass,
    LeastSquares,
    Linear,
    MLEDoesNotExistError,
    PlackettLuce,
    Tabular,
    fit_reward,
    mle_exists,
)
from rlhfsim.rewards.confidence import (
    TabularLikelihoodSet,
    asymptotic_ellipsoid,
    bootstrap,
    ellipsoid,
    finite_likelihood_set,
    tabular_likelihood_set,
)
from rlhfsim.rewards.features import design_covariance
from rlhfsim.rewards.ranking_counts import RankingCounts
from rlhfsim.rewards.score_sums import ScoreSums

SHAPE = (2, 3)
FEATURES = np.random.default_rng(0).normal(size=(*SHAPE, 2))
CLASS = np.random.default_rng(1).normal(size=(4, *SHAPE))

#: Every response beats every other one.
WINS = np.array([[[0, 3, 1], [2, 0, 4], [2, 1, 0]], [[0, 1, 5], [2, 0, 2], [1, 3, 0]]])

PREFERENCE_MODELS = [
    Tabular(),
    Tabular(r_max=1.5),
    Tabular(ridge=0.5),
    FiniteClass(CLASS),
    Linear(FEATURES),
    Linear(FEATURES, ridge=0.5),
    Linear(FEATURES, norm_bound=0.3),
]
every_preference_model = pytest.mark.parametrize(
    "model", PREFERENCE_MODELS, ids=lambda m: f"{m!r:.30}"
)


def nothing():
    """Return counts of no rows at all."""
    none = np.empty(0, dtype=np.int64)
    return PairCounts(none, none, none, np.empty(0), 0.0, SHAPE)


def only_equals():
    return PreferenceData([0, 1, 1], [1, 2, 2], [1, 2, 2], SHAPE)


# ---- pairs of equals ----------------------------------------------------------------------------


@every_preference_model
@pytest.mark.parametrize("form", [data_of, counts_of])
def test_pairs_of_equals_are_counted_and_change_no_reward(model, form):
    equals = WINS + np.diag([4, 0, 1])
    plain, mixed = fit_reward(form(WINS), model), fit_reward(form(equals), model)
    np.testing.assert_array_equal(mixed.reward, plain.reward)
    np.testing.assert_array_equal(mixed.compared, plain.compared)
    np.testing.assert_array_equal(mixed.exists, plain.exists)
    extra = mixed.log_likelihood - plain.log_likelihood
    assert extra == pytest.approx(-10 * np.log(2.0), rel=1e-12)


def test_pairs_of_equals_change_no_confidence_set():
    equals = WINS + np.diag([4, 0, 1])
    weights = np.array([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    linear = Linear(FEATURES, ridge=0.5)
    found = []
    for wins in (WINS, equals):
        data = data_of(wins)
        fit = fit_reward(data, linear)
        sets = [
            TabularLikelihoodSet(data, 2.0),
            tabular_likelihood_set(data, 0.1),
            finite_likelihood_set(data, FiniteClass(CLASS), 0.1),
            asymptotic_ellipsoid(linear, fit, 0.1),
            ellipsoid(data, linear, fit, 0.1, norm_bound=1.0),
        ]
        found.append([one.bounds(weights) for one in sets])
    assert found[0] == found[1]


def test_rankings_of_one_response_are_counted_and_change_no_reward():
    ranking = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 2, 1]]
    one = RankingData([0] * 4, ranking, (1, 3))
    two = RankingData([0] * 6, [*ranking, [1, 1, 1], [0, 0, 0]], (1, 3))
    for model in (PlackettLuce(), PlackettLuce(r_max=1.0), PlackettLuce(ridge=0.5)):
        plain, mixed = fit_reward(one, model), fit_reward(two, model)
        np.testing.assert_array_equal(mixed.reward, plain.reward)
        extra = mixed.log_likelihood - plain.log_likelihood
        assert extra == pytest.approx(-2 * np.log(6.0), rel=1e-12)


# ---- no rows, and nothing but pairs of equals ---------------------------------------------------


@pytest.mark.parametrize("data", [nothing(), only_equals()], ids=["nothing", "equals"])
def test_data_without_information_name_what_is_missing(data):
    assert mle_exists(data).tolist() == [False, False]
    with pytest.raises(MLEDoesNotExistError, match="prompt 0 compares no two different") as got:
        fit_reward(data)
    assert (got.value.prompt, got.value.responses) == (0, ())
    for model in (Linear(FEATURES), Linear(FEATURES, norm_bound=0.3)):
        with pytest.raises(ValueError, match=r"features do not span: .* rank 0 and d is 2"):
            fit_reward(data, model)
    for make in (
        lambda: TabularLikelihoodSet(data, 1.0),
        lambda: tabular_likelihood_set(data, 0.1),
    ):
        with pytest.raises(ValueError, match="data compares no two different responses"):
            make()


@pytest.mark.parametrize("data", [nothing(), only_equals()], ids=["nothing", "equals"])
def test_data_without_information_leave_the_conventions(data):
    equal = 0 if isinstance(data, PairCounts) else len(data)
    for model, value in (
        (Tabular(r_max=1.5), 0.75),
        (Tabular(ridge=0.5), 0.0),
        (Linear(FEATURES, ridge=0.5), 0.0),
    ):
        fit = fit_reward(data, model)
        np.testing.assert_array_equal(fit.reward, np.full(SHAPE, value))
        assert not fit.compared.any()
        assert fit.log_likelihood == pytest.approx(-equal * np.log(2.0), abs=1e-15)
    assert fit_reward(data, FiniteClass(CLASS)).tied.tolist() == [0, 1, 2, 3]
    assert finite_likelihood_set(data, FiniteClass(CLASS), 0.1).mask.all()
    np.testing.assert_array_equal(design_covariance(data, FEATURES, 0.7), 0.7 * np.eye(2))


def test_a_bootstrap_of_no_rows_and_of_no_members_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="data has no rows; it must have at least one"):
        bootstrap(nothing(), Tabular(ridge=1.0), 3, rng)
    with pytest.raises(ValueError, match="members is 0; it must be at least 1"):
        bootstrap(only_equals(), Tabular(ridge=1.0), 0, rng)
    # Rows that compare equals can be resampled: they say nothing each time.
    ensemble = bootstrap(only_equals(), Tabular(ridge=1.0), 3, rng)
    np.testing.assert_array_equal(ensemble.rewards, np.zeros((3, *SHAPE)))


def test_counts_of_no_rankings_and_no_scores_are_refused():
    none = np.empty(0, dtype=np.int64)
    with pytest.raises(ValueError, match="prompt is empty; it must hold at least one entry"):
        RankingCounts(none, np.empty((0, 2), dtype=np.int64), np.empty(0), SHAPE)
    with pytest.raises(ValueError, match="prompt is empty; it must hold at least one entry"):
        ScoreSums.from_tables(np.zeros(SHAPE), np.zeros(SHAPE))


# ---- a prompt without comparisons ---------------------------------------------------------------


def without_prompt_1():
    """Return wins of three prompts, of which the second compares no two different responses."""
    return np.stack((WINS[0], np.diag([0, 2, 0]), WINS[1]))


@pytest.mark.parametrize("form", [data_of, counts_of])
def test_a_prompt_without_comparisons_is_named(form):
    data = form(without_prompt_1())
    assert mle_exists(data).tolist() == [True, False, True]
    with pytest.raises(MLEDoesNotExistError, match="prompt 1 compares no two different") as got:
        fit_reward(data)
    assert (got.value.prompt, got.value.responses) == (1, ())


def test_a_prompt_without_comparisons_gets_the_convention_of_other_models():
    data = data_of(without_prompt_1())
    for model, value in ((Tabular(r_max=1.5), 0.75), (Tabular(ridge=0.5), 0.0)):
        fit = fit_reward(data, model)
        assert fit.exists.tolist() == [True, False, True]
        np.testing.assert_array_equal(fit.reward[1], np.full(3, value))
        assert fit.compared.any(axis=1).tolist() == [True, False, True]
        np.testing.assert_array_equal(fit.reward[[0, 2]], fit_reward(data_of(WINS), model).reward)


def test_a_prompt_without_comparisons_has_no_bounds_and_changes_no_others():
    found = TabularLikelihoodSet(data_of(without_prompt_1()), 2.0)
    weights = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.5, -1.0]])
    alone = TabularLikelihoodSet(data_of(WINS), 2.0)
    assert found.bounds(weights) == alone.bounds(weights[[0, 2]])
    weights[1] = [1.0, 0.0, -1.0]
    with pytest.raises(ValueError, match=r"weights\[1, 0\] is 1.0; .*prompt 1 was never compared"):
        found.bounds(weights)


def test_a_prompt_without_rankings_or_scores():
    rankings = RankingData([0, 0, 1], [[0, 1], [1, 0], [1, 1]], (2, 2))
    with pytest.raises(MLEDoesNotExistError, match="prompt 1 ranks no two different") as got:
        fit_reward(rankings, PlackettLuce())
    assert (got.value.prompt, got.value.responses) == (1, ())
    fit = fit_reward(rankings, PlackettLuce(r_max=3.0))
    assert fit.reward[1].tolist() == [1.5, 1.5]
    assert fit.exists.tolist() == [True, False]
    scores = fit_reward(ScoreData([0, 0], [1, 1], [3.0, 4.0], (2, 2)), LeastSquares())
    assert scores.reward.tolist() == [[0.0, 3.5], [0.0, 0.0]]
    assert scores.compared.tolist() == [[False, True], [False, False]]
    assert scores.exists.tolist() == [True, False]


# ---- features that do not span ------------------------------------------------------------------


def test_features_that_do_not_span_name_the_free_direction_whatever_the_data():
    features = np.concatenate((FEATURES, FEATURES[:, :, :1] + 5.0), axis=2)
    words = r"rank 2 and d is 3, so the parameter is free along .*0.707 e\[0\] .*0.707 e\[2\]"
    for data in (data_of(WINS), counts_of(WINS), counts_of(WINS / WINS.sum())):
        with pytest.raises(ValueError, match=words):
            fit_reward(data, Linear(features))
    # Scores see the constant 5 that differences of features cancel.
    x, y = np.divmod(np.arange(6), 3)
    scores = ScoreData(x, y, np.arange(6.0), SHAPE)
    assert fit_reward(scores, LeastSquares(features)).parameter.shape == (3,)
    with pytest.raises(ValueError, match=r"rank 2 and d is 3, so the parameter is free along"):
        fit_reward(scores, LeastSquares(features - np.array([0.0, 0.0, 5.0])))
