"""The rounds of XPO over all policies and log-linear ones: minima against grids and against DPO."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from rlhfsim import KL, PreferenceData, log_linear_bandit, random_bandit, solve
from rlhfsim.learners import DPO, TabularPolicies
from rlhfsim.losses import dpo, empirical_loss
from rlhfsim.online.xpo import DecreasingAlpha, Protocol, ScoreXPO, TheoryAlpha, hidden_best
from rlhfsim.online.xpo import scores as score_rounds
from rlhfsim.online.xpo.objective import Optimistic, descend
from rlhfsim.rewards import Linear, fit_reward

BETA = 0.6


def rows_of(run, shape):
    drawn, won = run.drawn.reshape(-1, 3), run.won.reshape(-1)
    chosen = np.where(won, drawn[:, 1], drawn[:, 2])
    rejected = np.where(won, drawn[:, 2], drawn[:, 1])
    return PreferenceData(drawn[:, 0], chosen, rejected, shape), drawn[:, 0], drawn[:, 2]


def objective(bandit, run, scores, alpha, ridge, parameter=None):
    """Return what a round minimises, by the library's loss and plain sums."""
    data, prompt, second = rows_of(run, bandit.shape)
    policy = solve(scores, bandit.reference, KL(), BETA).policy
    w = scores if parameter is None else parameter
    return (
        len(data) * empirical_loss(dpo(BETA), policy, bandit.reference, data)
        + alpha * np.log(policy[prompt, second]).sum()
        + 0.5 * ridge * (w**2).sum()
    )


# ---- the objective -------------------------------------------------------------------------------


@given(st.integers(0, 2**32))
def test_derivatives_are_those_of_the_value(seed):
    rng = np.random.default_rng(seed)
    problem = Optimistic(
        rng.integers(0, 4, (2, 3, 3)) * (1 - np.eye(3)), rng.integers(0, 5, (2, 3)) * 1.0,
        rng.dirichlet(np.ones(3), 2), rng.standard_normal((2, 3, 4)), 0.3, BETA, 0.1,
    )  # fmt: skip
    w, h = rng.standard_normal(4), 1e-6
    gradient, hessian = problem.derivatives(w)
    for k, step in enumerate(h * np.eye(4)):
        slope = (problem.value(w + step) - problem.value(w - step)) / (2 * h)
        assert slope == pytest.approx(gradient[k], abs=1e-6)
        bend = (problem.derivatives(w + step)[0] - problem.derivatives(w - step)[0]) / (2 * h)
        np.testing.assert_allclose(bend, hessian[k], atol=1e-6)


@given(st.integers(0, 2**32))
def test_a_descent_ends_where_it_is_stationary_and_lower(seed):
    rng = np.random.default_rng(seed)
    problem = Optimistic(
        rng.integers(0, 9, (1, 4, 4)) * (1 - np.eye(4)), rng.integers(0, 30, (1, 4)) * 1.0,
        rng.dirichlet(np.full(4, 0.3), 1), np.eye(4)[None], 0.2, 0.1, 0.05,
    )  # fmt: skip
    start = 3 * rng.standard_normal(4)
    found = descend(problem, start)
    assert found.residual <= 1e-10
    assert found.value <= problem.value(start) + 1e-12
    assert np.abs(problem.derivatives(found.point)[0]).max() <= 1e-10 * problem.size


# ---- minima of rounds ----------------------------------------------------------------------------


def test_without_optimism_it_is_dpo_over_all_policies():
    bandit = random_bandit(2, 4, np.random.default_rng(0))
    run = ScoreXPO(Protocol(bandit, BETA, 6, 8), 0.2).run(np.random.default_rng(1))
    data, _, _ = rows_of(run, bandit.shape)
    learned = DPO(BETA, TabularPolicies(ridge=0.2)).fit(data, bandit.reference)
    np.testing.assert_allclose(run.record.policy, learned.policy, rtol=1e-12)
    assert run.residuals.max() <= 1e-10


def test_without_optimism_it_is_logistic_regression_over_log_linear_policies():
    made = log_linear_bandit(3, 5, 2, np.random.default_rng(2))
    engine = ScoreXPO(Protocol(made.bandit, BETA, 5, 8), 0.3, made.features)
    run = engine.run(np.random.default_rng(3))
    data, _, _ = rows_of(run, made.bandit.shape)
    fit = fit_reward(data, Linear(made.features, ridge=0.3))
    np.testing.assert_allclose(run.scores, fit.reward, atol=1e-12)
    expected = solve(fit.reward, made.bandit.reference, KL(), BETA).policy
    np.testing.assert_allclose(run.record.policy, expected, rtol=1e-12)


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.floats(0.01, 0.3))
def test_on_three_responses_no_point_of_a_grid_is_lower(seed, alpha):
    rng = np.random.default_rng(seed)
    bandit = random_bandit(1, 3, rng, skew=2.0)
    run = ScoreXPO(Protocol(bandit, BETA, 4, 3, alpha), 0.2).run(rng)
    least = objective(bandit, run, run.scores, alpha, 0.2)
    data, _, seconds = rows_of(run, bandit.shape)

    def values(scores):
        logits = np.log(bandit.reference[0]) + scores / BETA
        top = logits.max(axis=1, keepdims=True)
        logs = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
        return (
            np.logaddexp(0.0, scores[:, data.rejected] - scores[:, data.chosen]).sum(axis=1)
            + alpha * logs[:, seconds].sum(axis=1)
            + 0.1 * (scores**2).sum(axis=1)
        )

    assert values(run.scores)[0] == pytest.approx(least, abs=1e-9)
    # A common shift only costs ridge, so scores that sum to 0 are enough; the ridge bounds them.
    axis = np.linspace(-1.0, 1.0, 101) * (10.0 + alpha * 12 / (BETA * 0.2))
    first, second = (grid.ravel() for grid in np.meshgrid(axis, axis))
    scores = np.stack((first, second, -first - second), axis=1)
    best = scores[values(scores).argmin()]
    polished = minimize(lambda s: values(s[None])[0], best, method="BFGS").fun
    assert least <= polished + 1e-9
    assert polished <= least + 1e-5


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.floats(0.01, 0.5), st.floats(0.5, 3.0))
def test_on_three_responses_in_a_box_no_point_of_a_grid_is_lower(seed, alpha, r_max):
    rng = np.random.default_rng(seed)
    bandit = random_bandit(1, 3, rng, skew=2.0)
    run = ScoreXPO(Protocol(bandit, BETA, 4, 3, alpha), r_max=r_max).run(rng)
    assert run.scores.min() >= 0.0
    assert run.scores.max() <= r_max
    least = objective(bandit, run, run.scores, alpha, 0.0)
    # A common shift changes nothing, so one score is 0.
    axis = np.linspace(0.0, r_max, 41)
    two = np.stack([grid.ravel() for grid in np.meshgrid(axis, axis)], axis=1)
    scores = np.concatenate([np.insert(two, place, 0.0, axis=1) for place in range(3)])
    data, _, seconds = rows_of(run, bandit.shape)
    logits = np.log(bandit.reference[0]) + scores / BETA
    logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    values = np.logaddexp(0.0, scores[:, data.rejected] - scores[:, data.chosen]).sum(axis=1)
    values += alpha * logs[:, seconds].sum(axis=1)
    assert least <= values.min() + 1e-9
    assert values.min() <= least + 0.2


def test_without_optimism_it_is_dpo_over_scores_in_a_box():
    bandit = random_bandit(2, 4, np.random.default_rng(0))
    run = ScoreXPO(Protocol(bandit, BETA, 6, 3), r_max=1.5).run(np.random.default_rng(1))
    data, _, _ = rows_of(run, bandit.shape)
    learned = DPO(BETA, TabularPolicies(r_max=1.5)).fit(data, bandit.reference)
    np.testing.assert_allclose(run.record.policy, learned.policy, rtol=1e-12)
    assert run.residuals.max() <= 1e-9


def test_over_all_policies_only_optimism_finds_a_hidden_best_response():
    example = hidden_best(0.05, 1e-6, rare=2)
    found = []
    for alpha in (0.0, 0.005):
        engine = ScoreXPO(Protocol(example.bandit, 0.05, 25, 4, alpha), r_max=2.0)
        runs = [engine.run(np.random.default_rng(seed)).record for seed in range(4)]
        found.append([float(run.policy[0, -1]) for run in runs])
        assert (np.array([run.regularized_regret[0] for run in runs]) > 0.3).all()
    assert max(found[0]) < 1e-5
    assert min(found[1]) > 0.5


def test_on_one_feature_no_point_of_a_grid_is_lower():
    made = log_linear_bandit(3, 4, 1, np.random.default_rng(5))
    alpha, ridge = 0.3, 0.1
    engine = ScoreXPO(Protocol(made.bandit, BETA, 8, 4, alpha), ridge, made.features)
    for seed in range(3):
        run = engine.run(np.random.default_rng(seed))
        theta = np.linalg.lstsq(made.features.reshape(-1, 1), run.scores.ravel(), rcond=None)[0]
        least = objective(made.bandit, run, run.scores, alpha, ridge, theta)
        grid = np.linspace(-90.0, 90.0, 1201)
        values = [
            objective(made.bandit, run, t * made.features[..., 0], alpha, ridge, np.array([t]))
            for t in grid
        ]
        assert least <= min(values) + 1e-9
        assert abs(grid[int(np.argmin(values))] - theta[0]) < 0.2


def test_one_prompt_with_unit_features_is_the_tabular_class():
    bandit = random_bandit(1, 3, np.random.default_rng(7))
    protocol = Protocol(bandit, BETA, 10, 2, DecreasingAlpha(0.2))
    tabular = ScoreXPO(protocol, 0.2).run(np.random.default_rng(0))
    linear = ScoreXPO(protocol, 0.2, np.eye(3)[None]).run(np.random.default_rng(0))
    np.testing.assert_allclose(tabular.record.policy, linear.record.policy, atol=1e-8)
    np.testing.assert_array_equal(tabular.drawn, linear.drawn)


def test_optimism_tries_what_was_never_seen():
    bandit = random_bandit(1, 2, np.random.default_rng(0))
    bandit = type(bandit)([1.0], [[1 - 1e-6, 1e-6]], [[0.0, 1.0]])
    last = []
    for alpha in (0.0, 0.03):
        run = ScoreXPO(Protocol(bandit, 0.05, 60, alpha=alpha), 0.02).run(np.random.default_rng(1))
        last.append(float(run.record.policy[0, 1]))
        assert run.residuals.max() <= 1e-8
    assert last[0] == pytest.approx(1e-6, rel=1e-9)
    assert last[1] > 0.9


def test_a_longer_run_starts_with_the_shorter_one_and_logged_data_count():
    bandit = random_bandit(2, 3, np.random.default_rng(4))
    short, long = (
        ScoreXPO(Protocol(bandit, BETA, rounds, 2, 0.05), 0.2).run(np.random.default_rng(9))
        for rounds in (3, 6)
    )
    np.testing.assert_array_equal(short.drawn, long.drawn[:3])
    np.testing.assert_array_equal(short.record.regret, long.record.regret[:3])
    data, _, _ = rows_of(long, bandit.shape)
    run = ScoreXPO(Protocol(bandit, BETA, 1, 2), 0.2).run(np.random.default_rng(0), data)
    logged = DPO(BETA, TabularPolicies(ridge=0.2)).fit(data, bandit.reference).policy
    assert run.record.regret[0] == pytest.approx(float(bandit.regret(logged)), abs=1e-13)


def test_every_prompt_of_a_batch_is_brought_to_its_minimum():
    bandit = random_bandit(3, 3, np.random.default_rng(11))
    alpha, h = 0.1, 1e-5
    run = ScoreXPO(Protocol(bandit, BETA, 3, 9, alpha), 0.3).run(np.random.default_rng(2))
    assert len(np.unique(run.drawn[-1, :, 0])) == 3
    for place in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[place] = h
        ends = [objective(bandit, run, run.scores + s * step, alpha, 0.3) for s in (1, -1)]
        assert abs(ends[0] - ends[1]) / (2 * h) < 1e-4


def test_a_weight_that_falls_moves_the_minima_of_earlier_prompts_too():
    bandit = random_bandit(4, 3, np.random.default_rng(7))
    setting = ScoreXPO(Protocol(bandit, BETA, 10, alpha=DecreasingAlpha(0.5)), 0.2)
    run = setting.run(np.random.default_rng(0))
    drawn = run.drawn.reshape(-1, 3)
    assert len(set(drawn[:, 0])) > 1
    wins, draws = np.zeros((4, 3, 3)), np.zeros((4, 3))
    for (x, y, z), first in zip(drawn, run.won.ravel(), strict=True):
        draws[x, z] += 1.0
        if y != z:
            wins[x, y if first else z, z if first else y] += 1.0
    for x in range(4):
        row = slice(x, x + 1)
        last = Optimistic(
            wins[row], draws[row], bandit.reference[row], np.eye(3)[None],
            setting.alphas[-1], BETA, 0.2,
        )  # fmt: skip
        assert np.abs(last.derivatives(run.scores[x])[0]).max() <= 1e-8 * last.size


def test_a_round_whose_descent_is_cut_short_is_refused(monkeypatch):
    """From a residual of 1e-8 on."""
    bandit = random_bandit(1, 3, np.random.default_rng(7))
    engine = ScoreXPO(Protocol(bandit, BETA, 3, 4, 0.1), 0.2)
    assert engine.run(np.random.default_rng(0)).residuals.max() < 1e-9
    right = score_rounds.lowest

    def worse(problem, starts):
        return right(problem, starts)._replace(residual=1.1e-8)

    monkeypatch.setattr(score_rounds, "lowest", worse)
    with pytest.raises(RuntimeError, match=r"no stationary point .* residual 1\.1e-08"):
        engine.run(np.random.default_rng(0))


# ---- settings ------------------------------------------------------------------------------------


def test_bad_settings_are_refused():
    bandit = random_bandit(2, 3, np.random.default_rng(4))
    protocol = Protocol(bandit, BETA, 2)
    for arguments, message in (
        ((bandit, 0.1), "protocol is a ContextualBandit"),
        ((protocol, 0.0), "ridge is 0.0; it must be positive"),
        ((protocol,), "ridge is None and r_max is None; exactly one"),
        ((protocol, 0.1, None, 1.0), "exactly one must be given"),
        ((protocol, None, np.ones((2, 3, 1)), 1.0), "r_max is 1.0; with features"),
        ((protocol, None, None, -1.0), "r_max is -1.0"),
        ((protocol, 0.1, np.ones((3, 3, 1))), "features has shape"),
        ((protocol, 0.1, np.full((2, 3, 1), np.nan)), "features"),
    ):
        with pytest.raises(ValueError, match=message):
            ScoreXPO(*arguments)
    engine = ScoreXPO(protocol, 0.1)
    with pytest.raises(ValueError, match="data has shape"):
        engine.run(np.random.default_rng(), PreferenceData([0], [0], [1], (1, 3)))
    partly = type(bandit)([1.0], [[0.5, 0.5, 0.0]], [[0.0, 1.0, 2.0]])
    engine = ScoreXPO(Protocol(partly, BETA, 4, alpha=0.05), 0.1)
    with pytest.raises(ValueError, match=r"reference\[0, 2\] is 0"):
        engine.run(np.random.default_rng(), PreferenceData([0], [0], [2], (1, 3)))
    assert engine.run(np.random.default_rng(0)).record.policy[0, 2] == 0.0
    theory = ScoreXPO(Protocol(bandit, BETA, 2, alpha=TheoryAlpha(1.0, 1.0)), 0.1)
    with pytest.raises(ValueError, match="it needs a finite class"):
        theory.run(np.random.default_rng())
