"""Least squares from scores: against exact fractions, scipy, scikit-learn and mpmath."""

import pickle
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import Ridge

from rlhfsim.data import ScoreData
from rlhfsim.rewards import fit_reward, last_of_tied
from rlhfsim.rewards.least_squares import LeastSquares
from rlhfsim.rewards.result import RewardFitError
from rlhfsim.rewards.score_class import LeastSquaresClass
from rlhfsim.rewards.score_sums import ScoreSums, as_score_sums, sum_scores


def sample(rng, prompts=3, responses=5, d=3, n=200, noise=0.5):
    """Return features, a parameter and scores of the linear reward with Gaussian noise."""
    features = rng.normal(size=(prompts, responses, d))
    theta = rng.normal(size=d)
    x, y = rng.integers(prompts, size=n), rng.integers(responses, size=n)
    score = (features @ theta)[x, y] + noise * rng.normal(size=n)
    return features, theta, ScoreData(x, y, score, (prompts, responses))


def residuals(data, reward):
    return data.score - reward[data.prompt, data.response]


# ---- tables ---------------------------------------------------------------------------------

scores = st.floats(-1e6, 1e6) | st.sampled_from([1e16, 1.0, -1e16, 0.1])
rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), scores), min_size=1, max_size=25)


@given(rows)
def test_the_table_is_the_exact_mean_of_each_cell(table):
    x, y, s = zip(*table, strict=True)
    data = ScoreData(x, y, s, (3, 4))
    fit = fit_reward(data, LeastSquares())
    cells = {}
    for row_x, row_y, score in table:
        cells.setdefault((row_x, row_y), []).append(Fraction(score))
    for x in range(3):
        for y in range(4):
            found = cells.get((x, y), [])
            assert fit.compared[x, y] == bool(found)
            mean = sum(found, Fraction(0)) / max(1, len(found))
            # Rounded twice: the sum, and the quotient.
            assert abs(Fraction(fit.reward[x, y]) - mean) <= abs(mean) * Fraction(2) ** -52
    exact = sum((s - Fraction(fit.reward[c])) ** 2 for c, group in cells.items() for s in group)
    assert fit.log_likelihood == pytest.approx(-float(exact) / 2, rel=1e-12, abs=1e-25)
    assert fit.exists.tolist() == [any(c[0] == x for c in cells) for x in range(3)]
    assert fit.gradient_norm == 0.0


def test_a_ridge_shrinks_each_mean():
    data = ScoreData([0, 0, 0, 1], [0, 0, 1, 1], [1.0, 2.0, 5.0, -4.0], (2, 3))
    fit = fit_reward(data, LeastSquares(ridge=0.5))
    expected = [[3.0 / 2.5, 5.0 / 1.5, 0.0], [0.0, -4.0 / 1.5, 0.0]]
    np.testing.assert_allclose(fit.reward, expected, rtol=1e-15)
    assert fit.log_likelihood == pytest.approx(-0.5 * (residuals(data, fit.reward) ** 2).sum())
    assert fit.gradient_norm < 1e-14


def test_the_sums_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    _, _, data = sample(rng, n=1000)
    order = rng.permutation(1000)
    other = ScoreData(data.prompt[order], data.response[order], data.score[order], data.shape)
    one, two = sum_scores(data), sum_scores(other)
    for name in ("prompt", "response", "count", "mean", "squares"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.count.sum() == 1000
    x, y = one.prompt[7], one.response[7]
    cell = data.score[(data.prompt == x) & (data.response == y)]
    assert one.squares[7] == pytest.approx(((cell - cell.mean()) ** 2).sum(), rel=1e-13)


# ---- linear rewards -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_numpy_on_all_rows(seed):
    features, _, data = sample(np.random.default_rng(seed))
    fit = fit_reward(data, LeastSquares(features))
    design = features[data.prompt, data.response]
    expected = np.linalg.lstsq(design, data.score)[0]
    np.testing.assert_allclose(fit.parameter, expected, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(fit.reward, features @ fit.parameter)
    np.testing.assert_allclose(fit.information, design.T @ design, rtol=1e-12, atol=1e-11)
    assert fit.log_likelihood == pytest.approx(-0.5 * (residuals(data, fit.reward) ** 2).sum())
    # The residual is orthogonal to the features.
    gradient = np.abs(residuals(data, fit.reward) @ design).max()
    assert gradient < 1e-11
    assert fit.gradient_norm < 1e-11
    assert fit.exists.all()


@pytest.mark.parametrize("ridge", [1e-9, 0.5, 1000.0])
def test_agrees_with_scikit_learn(ridge):
    features, _, data = sample(np.random.default_rng(5))
    peer = Ridge(alpha=ridge, fit_intercept=False, solver="cholesky").fit(
        features[data.prompt, data.response], data.score
    )
    fit = fit_reward(data, LeastSquares(features, ridge=ridge))
    np.testing.assert_allclose(fit.parameter, peer.coef_, rtol=1e-11)
    expected = ridge * np.eye(3) + fit_reward(data, LeastSquares(features)).information
    np.testing.assert_allclose(fit.information, expected, rtol=1e-14)


@pytest.mark.parametrize("bound", [0.01, 0.5, 0.9])
def test_the_bounded_estimate_agrees_with_scipy(bound):
    features, _, data = sample(np.random.default_rng(6))
    free = np.linalg.norm(fit_reward(data, LeastSquares(features)).parameter)
    bound = bound * free
    design = features[data.prompt, data.response]
    found = minimize(
        lambda t: 0.5 * ((data.score - design @ t) ** 2).sum(),
        np.zeros(3),
        jac=lambda t: (design @ t - data.score) @ design,
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda t: bound**2 - t @ t, "jac": lambda t: -2 * t},
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    fit = fit_reward(data, LeastSquares(features, norm_bound=bound))
    np.testing.assert_allclose(fit.parameter, found.x, rtol=0, atol=1e-7)
    assert np.linalg.norm(fit.parameter) == pytest.approx(bound, rel=1e-14)
    assert fit.gradient_norm < 1e-10


def test_the_norm_bound_changes_nothing_until_it_holds_the_estimate():
    features, _, data = sample(np.random.default_rng(6))
    free = fit_reward(data, LeastSquares(features)).parameter
    norm = float(np.linalg.norm(free))
    for bound in (norm * (1 + 1e-12), 1e300):
        fit = fit_reward(data, LeastSquares(features, norm_bound=bound))
        np.testing.assert_array_equal(fit.parameter, free)
    just = fit_reward(data, LeastSquares(features, norm_bound=norm * (1 - 1e-9))).parameter
    assert np.linalg.norm(just) == pytest.approx(norm * (1 - 1e-9), rel=1e-14)
    np.testing.assert_allclose(just, free, rtol=0, atol=1e-8 * norm)


@given(st.integers(0, 10**6), st.floats(-4, 2))
def test_the_kkt_conditions_hold_within_any_ball(seed, exponent):
    rng = np.random.default_rng(seed)
    features, _, data = sample(rng, d=int(rng.integers(1, 4)), n=int(rng.integers(20, 40)))
    bound = 10.0**exponent
    theta = fit_reward(data, LeastSquares(features, norm_bound=bound)).parameter
    design = features[data.prompt, data.response]
    pull = (data.score - design @ theta) @ design
    norm = np.linalg.norm(theta)
    assert norm <= bound * (1 + 1e-14)
    multiplier = pull @ theta / norm**2 if norm > bound * (1 - 1e-9) else 0.0
    assert multiplier >= -1e-11
    np.testing.assert_allclose(pull, multiplier * theta, rtol=0, atol=1e-10)


def test_agrees_with_mpmath_for_features_that_are_nearly_dependent():
    # A condition number of 1e6: the normal equations in float64 would lose twelve digits of it.
    rng = np.random.default_rng(8)
    base = rng.normal(size=(1, 8, 1))
    features = np.concatenate((base, base + 1e-6 * rng.normal(size=base.shape)), axis=2)
    data = ScoreData(np.zeros(8, dtype=int), np.arange(8), rng.normal(size=8))
    theta = fit_reward(data, LeastSquares(features)).parameter
    with mpmath.workdps(60):
        design = mpmath.matrix(features[0].tolist())
        score = mpmath.matrix(data.score.tolist())
        exact = mpmath.lu_solve(design.T * design, design.T * score)
        expected = [float(v) for v in exact]
    assert abs(expected[0]) > 1e4
    np.testing.assert_allclose(theta, expected, rtol=1e-9)


def test_scaling_a_feature_scales_its_parameter():
    features, _, data = sample(np.random.default_rng(9))
    scale = np.array([1e-80, 1.0, 1e90])
    plain = fit_reward(data, LeastSquares(features)).parameter
    fit = fit_reward(data, LeastSquares(features * scale))
    np.testing.assert_allclose(fit.parameter * scale, plain, rtol=1e-12)


def test_one_score():
    data = ScoreData([0], [1], [3.0], (1, 2))
    features = np.array([[[1.0], [0.5]]])
    assert fit_reward(data, LeastSquares(features)).reward.tolist() == [[6.0, 3.0]]
    fit = fit_reward(data, LeastSquares(features, norm_bound=2.0))
    assert fit.parameter.tolist() == [2.0]
    assert fit.log_likelihood == pytest.approx(-2.0)
    assert fit_reward(data, LeastSquares()).reward.tolist() == [[0.0, 3.0]]


# ---- sums and population limits -------------------------------------------------------------


def test_sums_give_the_fit_of_the_data():
    features, _, data = sample(np.random.default_rng(10))
    sums = sum_scores(data)
    assert as_score_sums(sums) is sums
    law = ScoreSums(
        sums.prompt, sums.response, sums.count / 200, sums.mean, sums.squares / 200, sums.shape
    )
    for model in (LeastSquares(), LeastSquares(features), LeastSquares(features, norm_bound=0.3)):
        direct, counted, limit = (fit_reward(d, model) for d in (data, sums, law))
        np.testing.assert_array_equal(counted.reward, direct.reward)
        np.testing.assert_allclose(limit.reward, direct.reward, rtol=0, atol=1e-12)
        assert 200 * limit.log_likelihood == pytest.approx(direct.log_likelihood, rel=1e-12)


def test_the_population_limit_is_the_true_reward():
    rng = np.random.default_rng(11)
    features, theta, _ = sample(rng)
    reward = features @ theta
    probability = rng.random(reward.shape)
    probability[1, 2] = 0.0
    probability /= probability.sum()
    law = ScoreSums.from_tables(probability, reward, 0.25 * probability)
    fit = fit_reward(law, LeastSquares(features))
    np.testing.assert_allclose(fit.parameter, theta, rtol=0, atol=1e-14)
    assert fit.log_likelihood == pytest.approx(-0.125)
    table = fit_reward(law, LeastSquares())
    np.testing.assert_array_equal(table.compared, probability > 0)
    np.testing.assert_array_equal(table.reward, np.where(probability > 0, reward, 0.0))


# ---- a finite class -------------------------------------------------------------------------


def test_the_class_takes_the_least_squares():
    rng = np.random.default_rng(12)
    _, _, data = sample(rng)
    rewards = rng.normal(size=(50, 3, 5))
    fit = fit_reward(data, LeastSquaresClass(rewards))
    losses = [0.5 * (residuals(data, reward) ** 2).sum() for reward in rewards]
    assert fit.index == np.argmin(losses)
    assert fit.tied.tolist() == [fit.index]
    np.testing.assert_array_equal(fit.reward, rewards[fit.index])
    assert fit.log_likelihood == pytest.approx(-min(losses), rel=1e-13)
    assert fit.gradient_norm is None


def test_ties_of_the_class_are_reported_and_broken():
    data = ScoreData([0, 0], [0, 1], [0.1, 0.3], (1, 3))
    # The first three differ where nothing was scored, or in the sign of their errors.
    rewards = np.array([[[0.0, 0.3, 1.0]], [[0.0, 0.3, -1.0]], [[0.2, 0.3, 0.0]], [[0.0, 0.0, 0]]])
    model = LeastSquaresClass(rewards)
    fit = fit_reward(data, model)
    assert fit.tied.tolist() == [0, 1, 2]
    assert fit.index == 0
    assert fit_reward(data, LeastSquaresClass(rewards, last_of_tied)).index == 2
    rng = np.random.default_rng(0)
    drawn = [fit_reward(data, model, rng=rng).index for _ in range(300)]
    # Each count is within 5 standard deviations of 100 with probability above 0.999998.
    assert set(drawn) == {0, 1, 2}
    assert np.abs(np.bincount(drawn) - 100).max() < 41
    with pytest.raises(ValueError, match="tie_break returned 3; it must be one of the tied"):
        fit_reward(data, LeastSquaresClass(rewards, lambda tied, rng: 3))
    with pytest.raises(ValueError, match="tie_break is 3; it must be a function"):
        LeastSquaresClass(rewards, 3)


# ---- what is refused ------------------------------------------------------------------------


def test_features_that_do_not_span_are_refused_unless_there_is_a_ridge():
    features, _, data = sample(np.random.default_rng(13), d=2)
    doubled = np.concatenate((features, features), axis=2)
    for options in ({}, {"norm_bound": 1.0}):
        with pytest.raises(
            ValueError, match=r"features do not span: those of the scored .* rank 2 and d is 4"
        ):
            fit_reward(data, LeastSquares(doubled, **options))
    fit = fit_reward(data, LeastSquares(doubled, ridge=0.6))
    single = fit_reward(data, LeastSquares(features, ridge=0.3))
    np.testing.assert_allclose(fit.parameter, np.tile(single.parameter / 2, 2), atol=1e-13)
    assert not fit.exists.any()
    with pytest.raises(ValueError, match=r"ridge is 1e-20; it must be at least"):
        fit_reward(data, LeastSquares(doubled, ridge=1e-20))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": np.zeros((2, 3))}, r"features has shape \(2, 3\)"),
        ({"features": np.full((1, 1, 1), np.inf)}, r"features\[0, 0, 0\] is inf"),
        ({"norm_bound": 1.0}, "norm_bound is 1.0; it needs features"),
        ({"ridge": -1.0}, "ridge is -1.0; it must be positive"),
        ({"features": np.ones((1, 1, 1)), "norm_bound": 0.0}, "norm_bound is 0.0"),
        ({"features": np.ones((1, 1, 1)), "norm_bound": 1.0, "ridge": 1.0}, "at most one"),
    ],
)
def test_bad_models_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LeastSquares(**options)


@pytest.mark.parametrize("rewards", [np.zeros((2, 3)), np.zeros((0, 2, 3)), [[[np.nan]]]])
def test_bad_classes_are_refused(rewards):
    with pytest.raises(ValueError, match="rewards"):
        LeastSquaresClass(rewards)


def test_bad_data_are_refused():
    features, _, data = sample(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"features has shape .* \(X, Y\) = \(3, 5\)"):
        fit_reward(data, LeastSquares(features[:2]))
    with pytest.raises(ValueError, match=r"rewards has shape .* \(X, Y\) = \(3, 5\)"):
        fit_reward(data, LeastSquaresClass(np.zeros((1, 3, 4))))
    for model in (LeastSquares(), LeastSquaresClass(np.zeros((1, 3, 5)))):
        with pytest.raises(ValueError, match="data is a list; it must be a ScoreData"):
            model.fit([1])
        with pytest.raises(ValueError, match=r"numpy\.random\.Generator"):
            model.fit(data, rng=1)
    with pytest.raises(ValueError, match="data is a ScoreSums; it must be a ScoreData"):
        sum_scores(sum_scores(data))
    with pytest.raises(ValueError, match=r"score\[1\] is 1e\+200; its magnitude must be at most"):
        fit_reward(ScoreData([0, 0], [0, 0], [1.0, 1e200]), LeastSquares())


GOOD = {
    "prompt": [0, 0, 1],
    "response": [0, 2, 1],
    "count": [1.0, 2.0, 0.5],
    "mean": [0.0, 1.0, 2.0],
    "squares": [0.0, 0.5, 0.0],
    "shape": (2, 3),
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", [1.0, 0.0, 1.0], r"count\[1\] is 0.0; it must be positive"),
        ("count", [1.0, 1.0], "count has 2 rows and prompt has 3"),
        ("count", [[1.0, 1.0, 1.0]], r"count has shape \(1, 3\)"),
        ("mean", [0.0, np.nan, 0.0], r"mean\[1\] is nan"),
        ("mean", [0.0, 1e160, 0.0], r"mean\[1\] is 1e\+160"),
        ("squares", [0.0, 0.0, -1.0], r"squares\[2\] is -1.0; it must not be negative"),
        ("prompt", [1, 0, 0], r"row 1 is the cell \(0, 2\); cells must be distinct and sorted"),
        ("response", [2, 2, 1], r"row 1 is the cell \(0, 2\)"),
        ("response", [0, 3, 1], r"response\[1\] is 3; indices must be below 3"),
        ("prompt", [], "prompt is empty"),
        ("shape", (2, 0), r"shape\[1\] is 0"),
    ],
)
def test_bad_sums_are_refused(name, value, message):
    ScoreSums(**GOOD)
    with pytest.raises(ValueError, match=message):
        ScoreSums(**GOOD | {name: value})


def test_bad_tables_of_sums_are_refused():
    table = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"count has shape \(2, 3\) and mean \(3,\)"):
        ScoreSums.from_tables(table, table[0])
    with pytest.raises(ValueError, match=r"squares has shape \(3,\)"):
        ScoreSums.from_tables(table, table, table[0])
    with pytest.raises(ValueError, match="prompt is empty"):
        ScoreSums.from_tables(0 * table, table)
    with pytest.raises(ValueError, match=r"count\[0, 0\] is -1.0"):
        ScoreSums.from_tables(-table, table)


def test_an_uncertified_fit_is_an_error_that_holds_it(monkeypatch):
    features, _, data = sample(np.random.default_rng(0))
    monkeypatch.setattr(
        "rlhfsim.rewards.least_squares._unconstrained", lambda left, right: np.ones(left.shape[1])
    )
    with pytest.raises(RewardFitError, match="no certified minimum: normal equation") as got:
        fit_reward(data, LeastSquares(features))
    gradient = residuals(data, got.value.fit.reward) @ features[data.prompt, data.response]
    assert got.value.fit.gradient_norm == pytest.approx(np.abs(gradient).max(), rel=1e-10)


def test_a_parameter_that_is_off_by_1e_8_of_itself_is_refused(monkeypatch):
    data = ScoreData([0] * 3, [0, 0, 1], [1.0, 2.0, 0.5], (1, 2))
    right = LeastSquares._solve
    monkeypatch.setattr(LeastSquares, "_solve", lambda *a: right(*a) * (1 + 1e-8))
    with pytest.raises(RewardFitError, match="no certified minimum"):
        fit_reward(data, LeastSquares(np.array([[[1.0], [0.0]]])))


def test_models_and_sums_are_frozen_and_pickle():
    features, _, data = sample(np.random.default_rng(0))
    rewards = np.zeros((1, 3, 5))
    sums = sum_scores(data)
    for model in (LeastSquares(features), LeastSquares(ridge=1.0), LeastSquaresClass(rewards)):
        before = fit_reward(data, model).reward
        copied = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(fit_reward(data, copied).reward, before)
    features[:] = 0.0
    with pytest.raises(ValueError, match="read-only"):
        sums.mean[0] = 1.0
    copied = pickle.loads(pickle.dumps(sums))
    with pytest.raises(ValueError, match="read-only"):
        copied.count[0] = 1.0
    np.testing.assert_array_equal(copied.mean, sums.mean)
