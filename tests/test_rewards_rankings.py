"""Plackett-Luce rewards: against scipy, choix and mpmath, and existence against brute force."""

import itertools
import pickle

import choix
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from rlhfsim.data import PreferenceData, RankingData
from rlhfsim.rewards import MLEDoesNotExistError, Tabular, fit_reward, flow_newton
from rlhfsim.rewards.plackett_luce import PlackettLuce
from rlhfsim.rewards.ranking_counts import RankingCounts, as_ranking_counts, count_rankings
from rlhfsim.rewards.ranking_flows import RankingFlows, log_likelihood, stationarity
from rlhfsim.rewards.result import RewardFitError


def sample(rng, prompts=1, responses=5, n=200, size=3, scale=1.0, distinct=False):
    """Return a reward and rankings: responses with Gumbel noise added, sorted."""
    reward = scale * rng.normal(size=(prompts, responses))
    x = rng.integers(prompts, size=n)
    if distinct:
        y = rng.permuted(np.tile(np.arange(responses), (n, 1)), axis=1)[:, :size]
    else:
        y = rng.integers(responses, size=(n, size))
    noisy = np.take_along_axis(reward[x], y, axis=1) + rng.gumbel(size=y.shape)
    ranking = np.take_along_axis(y, np.argsort(-noisy, axis=1), axis=1)
    return reward, RankingData(x, ranking, (prompts, responses))


def loss(rankings, r, ridge=0.0):
    """Return the negative log-likelihood and its gradient, stage by stage from the definition."""
    total, gradient = ridge / 2 * r @ r, ridge * r
    for ranking in rankings:
        for k in range(len(ranking) - 1):
            rest = ranking[k:]
            share = np.exp(r[rest] - r[rest].max())
            total += np.log(share.sum()) + r[rest].max() - r[rest[0]]
            np.add.at(gradient, rest, share / share.sum())
            gradient[rest[0]] -= 1.0
    return total, gradient


def by_scipy(rankings, size, ridge=0.0, bounds=None):
    found = minimize(
        lambda r: loss(rankings, r, ridge),
        np.full(size, 0.0 if bounds is None else bounds[1] / 2),
        jac=True,
        method="L-BFGS-B",
        bounds=None if bounds is None else [bounds] * size,
        options={"ftol": 1e-16, "gtol": 1e-9, "maxiter": 5000, "maxfun": 10**5},
    )
    return found.x


def pairs_of(data):
    return PreferenceData(data.prompt, data.ranking[:, 0], data.ranking[:, 1], data.shape)


# ---- the estimate against independent routes ------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"ridge": 0.5}, {"r_max": 1.5}])
@pytest.mark.parametrize("size", [3, 5])
def test_agrees_with_scipy_on_the_log_likelihood(size, options):
    _, data = sample(np.random.default_rng(size), size=size, n=150)
    fit = fit_reward(data, PlackettLuce(**options))
    box = (0.0, options["r_max"]) if "r_max" in options else None
    found = by_scipy(data.ranking, 5, options.get("ridge", 0.0), box)
    if box is None:
        found -= found.mean()
    np.testing.assert_allclose(fit.reward[0], found, rtol=0, atol=2e-6)
    value, gradient = loss(data.ranking, fit.reward[0], options.get("ridge", 0.0))
    penalty = options.get("ridge", 0.0) / 2 * (fit.reward**2).sum()
    assert fit.log_likelihood == pytest.approx(penalty - value, rel=1e-13)
    if box is None:
        assert np.abs(gradient).max() < 1e-11
    else:
        held = (fit.reward[0] == 0) | (fit.reward[0] == 1.5)
        assert held.sum() >= 2
        assert np.abs(gradient[~held]).max() < 1e-11
    assert fit.gradient_norm < 1e-11
    assert fit.exists.all()


@pytest.mark.parametrize("size", [2, 3, 4])
def test_agrees_with_choix(size):
    rng = np.random.default_rng(20 + size)
    _, data = sample(rng, responses=6, n=150, size=size, distinct=True)
    rankings = [tuple(row) for row in data.ranking.tolist()]
    # A smaller tolerance asks for steps below rounding, and is as far from the estimate.
    peer = choix.opt_rankings(6, rankings, alpha=0.0, tol=1e-6)
    fit = fit_reward(data, PlackettLuce())
    np.testing.assert_allclose(fit.reward[0], peer - peer.mean(), rtol=0, atol=1e-7)
    spectral = choix.ilsr_rankings(6, rankings, tol=1e-13)
    np.testing.assert_allclose(fit.reward[0], spectral - spectral.mean(), rtol=0, atol=1e-9)


def reference(rankings, count, start, ridge):
    """Return the estimate with its first entry at 0 (or of the ridge) in 50 digits."""
    size = len(start)
    with mpmath.workdps(50):

        def gradient(*values):
            r = list(values) if ridge else [mpmath.mpf(0), *values]
            total = [ridge * v for v in r]
            for ranking, times in zip(rankings, count, strict=True):
                for k in range(len(ranking) - 1):
                    power = [mpmath.exp(r[y]) for y in ranking[k:]]
                    for y, e in zip(ranking[k:], power, strict=True):
                        total[y] += times * e / sum(power)
                    total[ranking[k]] -= times
            return total if ridge else total[1:]

        first = [mpmath.mpf(float(v)) for v in (start if ridge else start[1:] - start[0])]
        exact = list(mpmath.findroot(gradient, first, tol=1e-60))
        exact = exact if ridge else [mpmath.mpf(0), *exact]
        mean = 0 if ridge else sum(exact) / size
        return [float(v - mean) for v in exact]


@pytest.mark.parametrize("ridge", [0, 0.125])
def test_agrees_with_mpmath(ridge):
    rankings = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 0, 1], [1, 3, 1, 0], [0, 3, 3, 3]]
    count = [5, 1, 2, 3, 1]
    data = RankingData(np.zeros(12, dtype=int), np.repeat(rankings, count, axis=0))
    values = fit_reward(data, PlackettLuce(ridge=ridge or None)).reward[0]
    exact = reference(rankings, count, values, ridge)
    np.testing.assert_allclose(values, exact, rtol=0, atol=4e-15)


def test_many_rankings_are_certified_and_close_to_the_truth():
    reward, data = sample(np.random.default_rng(1), prompts=2, responses=8, n=200_000, size=4)
    fit = fit_reward(data, PlackettLuce())
    assert fit.gradient_norm <= 1e-10 * len(data)
    for x in range(2):
        rows = data.ranking[data.prompt == x]
        _, weights = RankingFlows(rows, np.ones(len(rows)), 8).at(fit.reward[x])
        error = fit.reward[x] - reward[x] + reward[x].mean()
        # Asymptotically chi-squared with 7 degrees of freedom: above 45 with probability 2e-7.
        assert error @ (np.diag(weights.sum(axis=1)) - weights) @ error < 45


# ---- two responses, and repeated ones -------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"r_max": 0.7}, {"r_max": 40.0}, {"ridge": 0.01}])
def test_two_responses_are_bradley_terry(options):
    _, data = sample(np.random.default_rng(2), prompts=3, responses=6, n=900, size=2)
    fit = fit_reward(data, PlackettLuce(**options))
    table = fit_reward(pairs_of(data), Tabular(**options))
    np.testing.assert_allclose(fit.reward, table.reward, rtol=0, atol=1e-13)
    assert fit.log_likelihood == pytest.approx(table.log_likelihood, rel=1e-13)
    np.testing.assert_array_equal(fit.compared, table.compared)
    np.testing.assert_array_equal(fit.exists, table.exists)


@given(st.integers(0, 10**6), st.sampled_from([{"r_max": 2.0}, {"r_max": 30.0}, {"ridge": 1e-3}]))
def test_two_responses_are_bradley_terry_for_few_and_separated_data(seed, options):
    rng = np.random.default_rng(seed)
    _, data = sample(rng, responses=6, n=int(rng.integers(1, 12)), size=2, scale=3.0)
    fit = fit_reward(data, PlackettLuce(**options))
    table = fit_reward(pairs_of(data), Tabular(**options))
    np.testing.assert_allclose(fit.reward, table.reward, rtol=0, atol=1e-8)


def test_a_response_that_pulls_faintly_still_reaches_its_bound():
    # Response 0 only ever wins, by then with probability 1 - 1e-10, over one far below it.
    data = RankingData(np.zeros(5, dtype=int), [[0, 3], [5, 2], [4, 3], [3, 4], [3, 4]])
    fit = fit_reward(data, PlackettLuce(r_max=30.0))
    expected = [30.0, 15.0, 0.0, np.log(2.0), 0.0, 30.0]
    np.testing.assert_allclose(fit.reward[0], expected, rtol=0, atol=1e-9)


def test_the_order_of_repeated_responses_does_not_matter():
    ranking = np.array([[0, 0, 1], [1, 2, 1], [2, 0, 2], [1, 1, 0], [0, 2, 2]])
    data = RankingData(np.zeros(5, dtype=int), ranking)
    values = fit_reward(data, PlackettLuce()).reward[0]
    # Stage by stage, a repeated response is picked at its share, whichever of its copies it is.
    total, gradient = loss(ranking, values)
    assert np.abs(gradient).max() < 1e-14
    direct = 0.0
    for row in ranking:
        for k in range(2):
            options = np.exp(values[row[k:]])
            direct += np.log(options.sum() / np.exp(values[row[k]]))
    assert total == pytest.approx(direct, rel=1e-14)


# ---- flows, weights, likelihood -------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(2, 5))
def test_flows_and_weights_are_the_derivatives(seed, size):
    rng = np.random.default_rng(seed)
    _, data = sample(rng, responses=4, n=6, size=size, scale=2.0)
    weight = rng.random(6)
    r = rng.normal(size=4)
    flow, weights = RankingFlows(data.ranking, weight, 4).at(r)
    gradient = sum(w * loss([row], r)[1] for w, row in zip(weight, data.ranking, strict=True))
    np.testing.assert_allclose(flow.sum(axis=0) - flow.sum(axis=1), gradient, rtol=0, atol=1e-13)
    free = stationarity(data.ranking, weight, r, (-np.inf, np.inf), 0.5)
    assert free == pytest.approx(np.abs(gradient + 0.5 * r).max(), rel=1e-12, abs=1e-14)
    hessian = np.diag(weights.sum(axis=1)) - weights
    h = 1e-5
    for j, e in enumerate(np.eye(4)):
        up, down = (
            sum(w * loss([row], at)[1] for w, row in zip(weight, data.ranking, strict=True))
            for at in (r + h * e, r - h * e)
        )
        np.testing.assert_allclose(hessian[j], (up - down) / (2 * h), rtol=0, atol=1e-8)


def test_the_certificate_takes_only_what_points_into_the_box():
    ranking, weight = np.array([[0, 1], [1, 2]]), np.ones(2)
    r = np.array([1.0, 0.5, 0.0])
    gradient = loss(ranking, r)[1]
    assert gradient[0] < 0 < gradient[2]
    outside = stationarity(ranking, weight, r, (-1.0, 2.0), 0.0)
    assert outside == pytest.approx(np.abs(gradient).max(), rel=1e-14)
    held = stationarity(ranking, weight, r, (0.0, 1.0), 0.0)
    assert held == pytest.approx(abs(gradient[1]), rel=1e-13)
    wrong = stationarity(ranking[:, ::-1], weight, r, (0.0, 1.0), 0.0)
    assert wrong == pytest.approx(np.abs(loss(ranking[:, ::-1], r)[1]).max(), rel=1e-14)


def test_the_likelihoods_of_all_rankings_sum_to_one():
    r = np.array([0.3, -1.0, 2.0, 0.0])
    orders = np.array(list(itertools.permutations(range(4))))
    single = [np.exp(log_likelihood(row[None], np.ones(1), r[row][None])) for row in orders]
    assert sum(single) == pytest.approx(1.0, rel=1e-14)
    whole = log_likelihood(orders, np.full(24, 2.0), r[orders])
    assert whole == pytest.approx(2 * np.log(single).sum(), rel=1e-14)


def test_chunks_do_not_change_the_flows(monkeypatch):
    _, data = sample(np.random.default_rng(3), n=1000, size=4)
    whole = RankingFlows(data.ranking, np.ones(1000), 5)
    r = np.linspace(-1, 1, 5)
    monkeypatch.setattr("rlhfsim.rewards.ranking_flows._CHUNK", 64)
    small = RankingFlows(data.ranking, np.ones(1000), 5)
    np.testing.assert_array_equal(small.wins(), whole.wins())
    for one, other in zip(small.at(r), whole.at(r), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


# ---- existence ------------------------------------------------------------------------------


def exists_by_brute_force(rankings):
    """Return whether, however the compared responses are split, each side is ranked above once."""
    above = {
        (int(a), int(b))
        for ranking in rankings
        for a, b in itertools.combinations(ranking, 2)
        if a != b
    }
    compared = {y for pair in above for y in pair}
    splits = (
        set(side) for k in range(1, len(compared)) for side in itertools.combinations(compared, k)
    )
    return bool(compared) and all(any(a in s and b not in s for a, b in above) for s in splits)


def test_existence_agrees_with_brute_force():
    rows = [np.array(row) for row in itertools.product(range(3), repeat=3)]
    outcomes = []
    for chosen in itertools.combinations(rows, 2):
        expected = exists_by_brute_force(chosen)
        data = RankingData([0, 0], np.stack(chosen), (1, 3))
        assert PlackettLuce(ridge=1.0).fit(data).exists.tolist() == [expected]
        outcomes.append(expected)
        if expected:
            assert fit_reward(data, PlackettLuce()).gradient_norm < 1e-12
        else:
            with pytest.raises(MLEDoesNotExistError):
                fit_reward(data, PlackettLuce())
    assert 50 < sum(outcomes) < len(outcomes) - 50


@pytest.mark.parametrize("seed", range(40))
def test_existence_agrees_with_brute_force_on_larger_sets(seed):
    rng = np.random.default_rng(seed)
    _, data = sample(rng, responses=5, n=int(rng.integers(2, 7)), size=3, scale=0.5)
    assert PlackettLuce(r_max=1.0).fit(data).exists[0] == exists_by_brute_force(data.ranking)


def test_a_missing_estimate_names_the_responses():
    data = RankingData([0, 0, 1, 1], [[0, 1], [1, 0], [2, 0], [2, 1]], (2, 3))
    with pytest.raises(
        MLEDoesNotExistError,
        match=r"prompt 1 does not exist: responses \[2\] are never ranked below .*r_max",
    ) as got:
        fit_reward(data, PlackettLuce())
    assert (got.value.prompt, got.value.responses) == (1, (2,))
    data = RankingData([0, 0, 0], [[0, 1, 2], [1, 0, 2], [1, 2, 2]], (1, 3))
    with pytest.raises(MLEDoesNotExistError, match=r"\[2\] are never ranked above"):
        fit_reward(data, PlackettLuce())
    data = RankingData([0] * 4, [[0, 1], [1, 0], [2, 3], [3, 2]], (1, 4))
    with pytest.raises(MLEDoesNotExistError, match=r"\[0, 1\] are never ranked together with"):
        fit_reward(data, PlackettLuce())
    data = RankingData([1, 1], [[0, 1], [1, 0]], (2, 2))
    with pytest.raises(MLEDoesNotExistError, match="prompt 0 ranks no two different responses"):
        fit_reward(data, PlackettLuce())
    wide = RankingData([0], [np.arange(24)], (1, 24))
    with pytest.raises(MLEDoesNotExistError, match=r"\[0\] are never ranked below"):
        fit_reward(wide, PlackettLuce())


# ---- conventions ----------------------------------------------------------------------------


def test_conventions_for_what_was_never_compared():
    ranking = [[1, 3, 1], [3, 1, 3], [4, 4, 4]]
    data = RankingData([0, 0, 0], ranking, (1, 6))
    free = fit_reward(data, PlackettLuce())
    assert free.compared[0].tolist() == [False, True, False, True, False, False]
    assert free.reward[0, [0, 2, 4, 5]].tolist() == [0.0] * 4
    assert free.reward[0, 1] == pytest.approx(-free.reward[0, 3], abs=1e-15)
    boxed = fit_reward(data, PlackettLuce(r_max=8.0)).reward[0]
    assert boxed[[0, 2, 4, 5]].tolist() == [4.0] * 4
    np.testing.assert_allclose(boxed - 4.0, free.reward[0], atol=1e-14)
    # A ranking of one response alone has probability 1/K! whatever the reward.
    rest = RankingData([0, 0], ranking[:2], (1, 6))
    difference = free.log_likelihood - fit_reward(rest, PlackettLuce()).log_likelihood
    assert difference == pytest.approx(-np.log(6.0))


def test_sets_of_responses_that_were_never_ranked_together():
    ranking = [[0, 1, 0], [1, 0, 1], [2, 3, 4]]
    data = RankingData([0, 0, 0], ranking, (1, 5))
    shrunk = fit_reward(data, PlackettLuce(ridge=0.1)).reward[0]
    assert shrunk[:2].sum() == pytest.approx(0.0, abs=1e-15)
    assert shrunk[2:].sum() == pytest.approx(0.0, abs=1e-15)
    assert np.abs(loss(np.array(ranking), shrunk, 0.1)[1]).max() < 1e-14
    boxed = fit_reward(data, PlackettLuce(r_max=3.0)).reward[0]
    assert boxed[0] + boxed[1] == pytest.approx(3.0)
    assert (boxed[2], boxed[4]) == (3.0, 0.0)
    # Response 3 is passed over for 2 and then picked over 4; its shares at both stages sum to 1.
    power = np.exp(boxed[3])
    shares = power / (np.exp(3.0) + power + 1.0) + power / (power + 1.0)
    assert shares == pytest.approx(1.0, abs=1e-12)


@given(st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 5.0, 15.0]), st.integers(3, 5))
def test_the_kkt_conditions_hold_within_any_box(seed, r_max, size):
    rng = np.random.default_rng(seed)
    _, data = sample(rng, responses=5, n=int(rng.integers(1, 15)), size=size, scale=3.0)
    values = fit_reward(data, PlackettLuce(r_max=r_max)).reward[0]
    gradient = loss(data.ranking, values)[1]
    assert values.min() >= 0
    assert values.max() <= r_max
    allowed = 1e-10 * len(data)
    assert (gradient[values > 0] <= allowed).all()
    assert (gradient[values < r_max] >= -allowed).all()


def test_the_gauge_of_prompts_of_a_batch_is_that_of_each_alone():
    _, data = sample(np.random.default_rng(4), prompts=4, n=600)
    whole = fit_reward(data, PlackettLuce())
    np.testing.assert_allclose(whole.reward.mean(axis=1), 0.0, atol=1e-15)
    for x in range(4):
        rows = data.prompt == x
        alone = RankingData(np.zeros(rows.sum(), dtype=int), data.ranking[rows], (1, 5))
        np.testing.assert_array_equal(fit_reward(alone, PlackettLuce()).reward[0], whole.reward[x])


# ---- counts and population limits -----------------------------------------------------------


def test_counts_are_those_of_the_rows():
    _, data = sample(np.random.default_rng(5), prompts=2, responses=3, n=300)
    counts = count_rankings(data)
    assert as_ranking_counts(counts) is counts
    assert counts.count.sum() == 300
    rows = np.column_stack((data.prompt, data.ranking))
    for x, ranking, count in zip(counts.prompt, counts.ranking, counts.count, strict=True):
        assert (rows == [x, *ranking]).all(axis=1).sum() == count
    assert len(np.unique(np.column_stack((counts.prompt, counts.ranking)), axis=0)) == len(
        counts.count
    )


def test_the_order_of_rows_does_not_change_a_bit():
    rng = np.random.default_rng(6)
    _, data = sample(rng, prompts=2, n=500)
    order = rng.permutation(500)
    other = RankingData(data.prompt[order], data.ranking[order], data.shape)
    for options in ({}, {"r_max": 1.0}, {"ridge": 0.1}):
        one, two = (fit_reward(d, PlackettLuce(**options)).reward for d in (data, other))
        np.testing.assert_array_equal(one, two)


def test_counts_and_laws_give_the_fit_of_the_data():
    _, data = sample(np.random.default_rng(7), prompts=2, n=500)
    counts = count_rankings(data)
    law = RankingCounts(counts.prompt, counts.ranking, counts.count / 500, counts.shape)
    direct, counted, limit = (fit_reward(d, PlackettLuce()) for d in (data, counts, law))
    np.testing.assert_array_equal(counted.reward, direct.reward)
    np.testing.assert_allclose(limit.reward, direct.reward, rtol=0, atol=1e-13)
    assert 500 * limit.log_likelihood == pytest.approx(direct.log_likelihood, rel=1e-12)


def test_the_population_limit_is_the_true_reward():
    r = np.array([1.0, -0.5, 2.0, 0.25])
    ranking = np.array(list(itertools.product(range(4), repeat=3)))
    # Three responses drawn uniformly with repetition: each ranking arises from the 6 orders in
    # which its positions may have been drawn, every one with probability 1/64.
    law = np.array(
        [6 / 64 * np.exp(log_likelihood(row[None], np.ones(1), r[row][None])) for row in ranking]
    )
    assert law.sum() == pytest.approx(1.0, rel=1e-13)
    counts = RankingCounts(np.zeros(64, dtype=int), ranking, law, (1, 4))
    fit = fit_reward(counts, PlackettLuce())
    np.testing.assert_allclose(fit.reward[0], r - r.mean(), rtol=0, atol=1e-13)


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r_max": 0.0}, "r_max is 0.0; it must be positive"),
        ({"r_max": 701.0}, "r_max is 701.0; it must be at most 700"),
        ({"ridge": -1.0}, "ridge is -1.0; it must be positive"),
        ({"ridge": 1e-70}, "ridge is 1e-70; it must be at least 1e-60"),
        ({"ridge": np.inf}, "ridge is inf"),
        ({"r_max": 1.0, "ridge": 1.0}, "at most one may be given"),
    ],
)
def test_bad_models_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PlackettLuce(**options)


def test_bad_data_are_refused():
    _, data = sample(np.random.default_rng(0))
    with pytest.raises(ValueError, match="data is a PreferenceData; it must be a RankingData"):
        PlackettLuce().fit(PreferenceData([0], [0], [1]))
    with pytest.raises(ValueError, match="data is a RankingCounts; it must be a RankingData"):
        count_rankings(count_rankings(data))
    with pytest.raises(ValueError, match=r"numpy\.random\.Generator"):
        PlackettLuce().fit(data, rng=0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", [1.0, 0.0], r"count\[1\] is 0.0; it must be positive"),
        ("count", [1.0], r"count has shape \(1,\); it must be \(2,\)"),
        ("prompt", [1, 0], r"prompt\[1\] is 0, after 1; prompts must not decrease"),
        ("prompt", [0, 2], r"prompt\[1\] is 2; indices must be below 2"),
        ("ranking", [[0], [1]], r"ranking has shape \(2, 1\)"),
        ("ranking", [[0, 1], [1, 3]], r"ranking\[:, 1\]\[1\] is 3"),
        ("shape", (2, -1), r"shape\[1\] is -1"),
    ],
)
def test_bad_counts_are_refused(name, value, message):
    good = {"prompt": [0, 1], "ranking": [[0, 1], [1, 0]], "count": [1.0, 2.0], "shape": (2, 2)}
    RankingCounts(**good)
    with pytest.raises(ValueError, match=message):
        RankingCounts(**good | {name: value})


def test_an_uncertified_fit_is_an_error_that_holds_it(monkeypatch):
    _, data = sample(np.random.default_rng(0), n=2000, scale=2.0)
    monkeypatch.setattr("rlhfsim.rewards.bounded_newton.BASE_STEPS", -19)
    with pytest.raises(RewardFitError, match="no certified maximum at prompt 0") as got:
        fit_reward(data, PlackettLuce())
    gradient = loss(data.ranking, got.value.fit.reward[0])[1]
    assert got.value.fit.gradient_norm == pytest.approx(np.abs(gradient).max(), rel=1e-9)
    assert got.value.fit.gradient_norm > 1


@pytest.mark.parametrize("worse", [0, 1])
def test_the_certificate_is_that_of_the_worst_prompt(worse, monkeypatch):
    """Of 4 rankings 4e-10 rankings are allowed."""
    orders = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]]
    data = RankingData([0] * 4 + [1] * 4, orders * 2, (2, 3))

    def planted(size):
        left = iter([size, 0.0] if worse == 0 else [0.0, size])
        monkeypatch.setattr("rlhfsim.rewards.plackett_luce.stationarity", lambda *_: next(left))

    planted(3.9e-10)
    assert fit_reward(data, PlackettLuce()).gradient_norm == 3.9e-10
    planted(4.1e-10)
    with pytest.raises(RewardFitError, match=rf"at prompt {worse}: .* 4\.1e-10 rankings") as got:
        fit_reward(data, PlackettLuce())
    assert got.value.fit.gradient_norm == 4.1e-10


@pytest.mark.parametrize("worse", [0, 1])
def test_of_several_linked_sets_of_a_prompt_the_longest_last_step_counts(worse, monkeypatch):
    data = RankingData([0] * 4, [[0, 1], [1, 0], [2, 3], [3, 2]], (1, 4))
    right, steps = flow_newton.minimize, []

    def minimize(*arguments):
        return right(*arguments)[0], steps.pop(0)

    monkeypatch.setattr(flow_newton, "minimize", minimize)
    steps[:] = [9e-7, 0.0] if worse == 0 else [0.0, 9e-7]
    fit_reward(data, PlackettLuce(ridge=0.1))
    steps[:] = [1.1e-6, 0.0] if worse == 0 else [0.0, 1.1e-6]
    with pytest.raises(RewardFitError, match=r"last Newton step 1\.1e-06"):
        fit_reward(data, PlackettLuce(ridge=0.1))


def test_counts_are_frozen_and_pickle():
    _, data = sample(np.random.default_rng(0))
    counts = count_rankings(data)
    copied = pickle.loads(pickle.dumps(counts))
    for one in (counts, copied):
        with pytest.raises(ValueError, match="read-only"):
            one.ranking[0, 0] = 1
    np.testing.assert_array_equal(
        fit_reward(copied, PlackettLuce()).reward, fit_reward(data, PlackettLuce()).reward
    )
