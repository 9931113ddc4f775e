"""Reward fits against independent routes, closed forms and conventions."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from reward_problems import (
    assert_exact,
    boxed_by_scipy,
    declined,
    exists_by_brute_force,
    from_wins,
    negative_log_likelihood,
    random_wins,
)
from scipy.optimize import brentq, minimize
from scipy.special import expit

from rlhfsim.bandit import ContextualBandit
from rlhfsim.data import PreferenceData, count_pairs
from rlhfsim.rewards import (
    FiniteClass,
    MLEDoesNotExistError,
    RewardFitError,
    Tabular,
    bounded_newton,
    fit_reward,
    mle_exists,
    newton,
)
from rlhfsim.sampling import sample_preferences


@pytest.fixture(autouse=True, params=["compiled", "general"])
def route(request, monkeypatch):
    """Run every test by the kernels, which hand back what they cannot do, and without them."""
    if request.param == "general":
        declined(monkeypatch)


# ---- existence --------------------------------------------------------------------------------


def graphs():
    yield from ((3, edges) for k in range(1, 7) for edges in itertools.combinations(range(6), k))
    rng = np.random.default_rng(4)
    yield from ((4, np.nonzero(rng.random(12) < rng.uniform(0.2, 0.8))[0]) for _ in range(150))


def test_existence_agrees_with_brute_force_on_small_win_graphs():
    outcomes = []
    for size, edges in graphs():
        wins = np.zeros((size, size), dtype=np.int64)
        off_diagonal = np.nonzero(~np.eye(size, dtype=bool))
        wins[off_diagonal[0][list(edges)], off_diagonal[1][list(edges)]] = 1
        if not wins.any():
            continue
        data = from_wins(wins)
        expected = exists_by_brute_force(wins)
        outcomes.append(expected)
        assert mle_exists(data).tolist() == [expected]
        if expected:
            assert fit_reward(data).gradient_norm < 1e-12
            continue
        with pytest.raises(MLEDoesNotExistError) as caught:
            fit_reward(data)
        inside = list(caught.value.responses)
        outside = np.setdiff1d(np.nonzero(wins.any(axis=0) | wins.any(axis=1))[0], inside)
        assert inside
        assert outside.size
        assert not (wins[np.ix_(inside, outside)].any() and wins[np.ix_(outside, inside)].any())
    assert 50 < sum(outcomes) < len(outcomes) - 50


def test_error_names_prompt_responses_and_cure():
    mixed = [[0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 3], [0, 0, 1, 0]]
    linked = np.array(mixed)
    linked[0, 2] = 1
    fine = np.ones((4, 4), dtype=int) - np.eye(4, dtype=int)
    with pytest.raises(MLEDoesNotExistError) as caught:
        fit_reward(from_wins(fine, linked, responses=9))
    assert caught.value.prompt == 1
    assert caught.value.responses == (0, 1)
    message = str(caught.value)
    assert "prompt 1" in message
    assert "[0, 1] never lose to" in message
    assert "Tabular(r_max=...)" in message
    assert "Tabular(ridge=...)" in message
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.prompt, again.responses, str(again)) == (1, (0, 1), message)


@pytest.mark.parametrize(
    ("wins", "words"),
    [
        ([[0, 1, 1], [0, 0, 2], [0, 1, 0]], r"\[0\] never lose to"),
        ([[0, 2, 1], [1, 0, 1], [0, 0, 0]], r"\[2\] never beat"),
        ([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], "are never compared with"),
    ],
)
def test_error_says_how_the_responses_are_cut_off(wins, words):
    with pytest.raises(MLEDoesNotExistError, match=words):
        fit_reward(from_wins(wins))


def test_long_lists_of_responses_are_shortened():
    size = 30
    wins = np.zeros((size, size), dtype=int)
    ring = np.arange(size // 2)
    wins[ring, np.roll(ring, 1)] = 1
    wins[ring + size // 2, np.roll(ring, 1) + size // 2] = 1
    wins[0, size - 1] = 1
    with pytest.raises(MLEDoesNotExistError, match="9 and 5 more]") as caught:
        fit_reward(from_wins(wins))
    assert caught.value.responses == tuple(range(15))


def test_prompt_without_informative_comparison_is_refused():
    data = PreferenceData([0, 0, 1], [0, 1, 1], [1, 0, 1], (3, 2))
    assert mle_exists(data).tolist() == [True, False, False]
    with pytest.raises(MLEDoesNotExistError, match="prompt 1 compares no two") as caught:
        fit_reward(data)
    assert (caught.value.prompt, caught.value.responses) == (1, ())


# ---- unconstrained ----------------------------------------------------------------------------


@pytest.mark.parametrize(("won", "lost"), [(3, 1), (1, 1), (1, 7), (100_000, 1)])
def test_two_responses_have_a_closed_form(won, lost):
    fit = fit_reward(from_wins([[0, won], [lost, 0]]))
    half = np.log(won / lost) / 2
    np.testing.assert_allclose(fit.reward, [[half, -half]], rtol=0, atol=1e-13)
    expected = -won * np.log1p(lost / won) - lost * np.log1p(won / lost)
    assert fit.log_likelihood == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("seed", range(4))
def test_unconstrained_fit_is_stationary_for_torch_and_optimal_for_scipy(seed):
    rng = np.random.default_rng(seed)
    tables = [random_wins(rng, 6, mean) for mean in (2.0, 40.0, 3000.0)]
    data = from_wins(*tables)
    fit = fit_reward(data)
    reward = torch.tensor(fit.reward, dtype=torch.float64, requires_grad=True)
    x, up, down = (torch.tensor(c) for c in (data.prompt, data.chosen, data.rejected))
    loss = -torch.nn.functional.logsigmoid(reward[x, up] - reward[x, down]).sum()
    loss.backward()
    assert float(reward.grad.abs().max()) < 1e-12 * len(data)
    assert fit.gradient_norm < 1e-12 * len(data)
    assert fit.log_likelihood == pytest.approx(-float(loss.detach()), rel=1e-13)
    for wins, r in zip(tables, fit.reward, strict=True):
        other = minimize(
            lambda q, wins=wins: negative_log_likelihood(wins, q),
            np.zeros(6),
            jac=True,
            method="L-BFGS-B",
            options={"ftol": 1e-15, "gtol": 1e-9},
        ).x
        np.testing.assert_allclose(r, other - other.mean(), rtol=0, atol=1e-5)


def test_nearly_separable_chain_is_fitted_to_rounding():
    # Everything flows down the chain, and one upset from the bottom closes the cycle.
    wins = np.diag([10**6, 10**5, 10**4], k=1)
    wins[3, 0] = 1
    fit = fit_reward(from_wins(wins))
    # Each link carries the same expected upsets q, and the closing pair 1 - sigma of their sum.
    upsets = wins[[0, 1, 2], [1, 2, 3]] * expit(fit.reward[0, 1:] - fit.reward[0, :-1])
    closing = expit(fit.reward[0, 0] - fit.reward[0, 3])
    np.testing.assert_allclose(upsets, closing, rtol=1e-12)


def test_gauge_centres_the_compared_responses_and_zeroes_the_others():
    data = PreferenceData([0, 0, 0, 1, 1], [1, 1, 3, 0, 2], [3, 3, 1, 2, 0], (2, 4))
    fit = fit_reward(data)
    assert fit.compared.tolist() == [[False, True, False, True], [True, False, True, False]]
    half = np.log(2) / 2
    np.testing.assert_allclose(fit.reward, [[0, half, 0, -half], [0, 0, 0, 0]], atol=1e-14)
    assert fit.index is None
    assert fit.tied is None


def test_equal_pairs_change_only_the_likelihood():
    plain = PreferenceData([0, 0, 0], [0, 0, 1], [1, 1, 0], (1, 3))
    extra = PreferenceData([0] * 5, [0, 2, 0, 1, 1], [1, 2, 1, 0, 1], (1, 3))
    one, other = fit_reward(plain), fit_reward(extra)
    np.testing.assert_array_equal(one.reward, other.reward)
    assert other.compared.tolist() == [[True, True, False]]
    assert other.log_likelihood == pytest.approx(one.log_likelihood - 2 * np.log(2), rel=1e-14)


def test_rows_in_another_order_give_the_same_fit():
    rng = np.random.default_rng(8)
    data = from_wins(random_wins(rng, 5, 4.0), random_wins(rng, 5, 9.0))
    order = rng.permutation(len(data))
    columns = (data.prompt, data.chosen, data.rejected)
    shuffled = PreferenceData(*(c[order] for c in columns), data.shape)
    for model in (Tabular(), Tabular(r_max=0.7), Tabular(ridge=0.3)):
        one, other = fit_reward(data, model), fit_reward(shuffled, model)
        np.testing.assert_array_equal(one.reward, other.reward)
        assert one.log_likelihood == other.log_likelihood


def test_fit_converges_to_the_centred_true_reward():
    reference = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    true = np.array([[1.0, 0.2, -0.5, 0.3], [0.0, 2.0, 1.0, -1.0]])
    bandit = ContextualBandit([0.7, 0.3], reference, true)
    data = sample_preferences(bandit, 400_000, np.random.default_rng(11))
    fit = fit_reward(data)
    for x in range(2):
        rows = (data.prompt == x) & (data.chosen != data.rejected)
        pairs = np.zeros((4, 4))
        np.add.at(pairs, (data.chosen[rows], data.rejected[rows]), 1)
        gap = true[x][:, None] - true[x][None, :]
        weights = (pairs + pairs.T) * expit(gap) * expit(-gap)
        information = np.diag(weights.sum(axis=1)) - weights
        error = np.sqrt(np.diag(np.linalg.pinv(information)))
        assert error.max() < 0.02
        centred = true[x] - true[x].mean()
        assert np.all(np.abs(fit.reward[x] - centred) < 4 * error)


# ---- box --------------------------------------------------------------------------------------


@pytest.mark.parametrize("r_max", [0.3, 1.5, 5.0])
@pytest.mark.parametrize("seed", range(5))
def test_boxed_fit_agrees_with_scipy(seed, r_max):
    rng = np.random.default_rng([seed, 1])
    strength = expit(2 * rng.normal(size=6))
    wins = rng.poisson(6 * np.outer(strength, 1 - strength)) * (1 - np.eye(6, dtype=np.int64))
    wins[0, 1:] += 1
    fit = fit_reward(from_wins(wins), Tabular(r_max=r_max))
    other = boxed_by_scipy(wins, r_max)
    assert np.ptp(fit.reward) <= r_max
    assert fit.reward.min() + fit.reward.max() == pytest.approx(r_max, abs=1e-12)
    assert fit.gradient_norm < 1e-12 * wins.sum()
    assert fit.log_likelihood >= -negative_log_likelihood(wins, other)[0] - 1e-12 * wins.sum()
    other += (r_max - other.min() - other.max()) / 2
    np.testing.assert_allclose(fit.reward[0], other, rtol=0, atol=2e-4)


def test_box_pins_a_response_that_never_loses():
    # The middle response sits where its pull up and down balance.
    for r_max in (4.0, 50.0, 300.0):
        fit = fit_reward(from_wins([[0, 2, 0], [0, 0, 5], [0, 0, 0]]), Tabular(r_max=r_max))
        assert fit.reward[0, [0, 2]].tolist() == [r_max, 0.0]
        middle = brentq(
            lambda m, r_max=r_max: (
                np.log(2) - np.logaddexp(0, r_max - m) - np.log(5) + np.logaddexp(0, m)
            ),
            0,
            r_max,
            xtol=1e-13,
        )
        assert fit.reward[0, 1] == pytest.approx(middle, abs=1e-11)


@pytest.mark.parametrize("r_max", [30.0, 100.0, 400.0])
def test_faint_pulls_between_components_are_not_lost_in_rounding(r_max):
    # 0 beats 1; 1 and 2 split 3000 to 1000; 2 beats 3.  The pulls on the pair {1, 2} are of order
    # exp(-r_max/2), far below the rounding of the 4000 comparisons inside it.
    wins = np.zeros((4, 4), dtype=int)
    wins[0, 1], wins[1, 2], wins[2, 1], wins[2, 3] = 7, 3000, 1000, 2
    r = fit_reward(from_wins(wins), Tabular(r_max=r_max)).reward[0]
    assert r[[0, 3]].tolist() == [r_max, 0.0]
    assert r[1] - r[2] == pytest.approx(np.log(3), abs=1e-7)
    # 7 exp(r1 - R) = 2 exp(-r2) up to relative terms of order exp(-r_max/2).
    assert r[1] + r[2] == pytest.approx(r_max + np.log(2 / 7), abs=1e-5)
    assert_exact(wins, r, r_max=r_max)


@pytest.mark.parametrize("seed", range(12))
def test_boxed_and_ridge_fits_are_exact_on_sparse_data(seed):
    rng = np.random.default_rng([seed, 2])
    wins = random_wins(rng, 5, 0.5) * rng.integers(1, 2000)
    wins[0, 1:] += 1
    r_max = float(10 ** rng.uniform(-0.5, 2.0))
    ridge = float(10 ** rng.uniform(-9, 1))
    data = from_wins(wins)
    assert_exact(wins, fit_reward(data, Tabular(r_max=r_max)).reward[0], r_max=r_max)
    assert_exact(wins, fit_reward(data, Tabular(ridge=ridge)).reward[0], ridge=ridge, atol=1e-9)


@pytest.mark.parametrize(
    ("wins", "r_max", "ridge"),
    [
        # A response leaves its bound while the Newton step of another one points out of the box.
        (
            [
                [0, 2, 3, 2, 2, 1],
                [0, 0, 0, 4, 0, 0],
                [3, 7, 0, 6, 2, 3],
                [2, 1, 3, 0, 1, 2],
                [4, 0, 4, 5, 0, 3],
                [2, 2, 6, 8, 1, 0],
            ],
            1.4727803776167163,
            1.4e-4,
        ),
        # Undamped Newton steps from equal rewards diverge.
        ([[0, 1, 368], [0, 0, 35], [0, 237, 0]], 52.0, 1.4),
        # A component is held on a bound by a pull below the rounding of its own comparisons.
        (
            [
                [0, 1, 1, 1, 2183],
                [0, 0, 4, 0, 6],
                [0, 91, 0, 0, 0],
                [0, 0, 0, 0, 1616],
                [0, 8213, 8, 115, 0],
            ],
            193.3027838861836,
            3.3e-4,
        ),
        # A step that is merely cut at the bounds climbs.
        (
            [
                [0, 1, 109690, 1, 946],
                [0, 0, 13391, 0, 0],
                [0, 0, 0, 7, 0],
                [0, 111727, 0, 0, 191],
                [0, 29108, 0, 0, 0],
            ],
            49.13883598190756,
            3.7e-9,
        ),
        # A step frees the response on the bound for a moment, while a group that only a faint pull
        # moves is on its way.
        ([[0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 5], [0, 1, 2, 0]], 24.75084769944843, 0.1),
    ],
)
@pytest.mark.parametrize("general", [False, True], ids=["any route", "general route"])
def test_hard_cases_found_by_search_are_exact(wins, r_max, ridge, general, monkeypatch):
    data = from_wins(wins)
    if general:
        declined(monkeypatch)
    assert_exact(wins, fit_reward(data, Tabular(r_max=r_max)).reward[0], r_max=r_max)
    assert_exact(wins, fit_reward(data, Tabular(ridge=ridge)).reward[0], ridge=ridge, atol=1e-9)


def test_box_that_does_not_bind_places_the_mid_range_at_the_centre():
    data = from_wins([[0, 3, 2], [1, 0, 4], [2, 1, 0]], [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    fit = fit_reward(data, Tabular(r_max=8.0))
    free = fit_reward(from_wins([[0, 3, 2], [1, 0, 4], [2, 1, 0]])).reward[0]
    assert (fit.reward[0].min() + fit.reward[0].max()) / 2 == pytest.approx(4.0, abs=1e-14)
    np.testing.assert_allclose(fit.reward[0] - fit.reward[0].mean(), free, rtol=0, atol=1e-13)
    # Prompt 1 never compares response 2.
    np.testing.assert_allclose(fit.reward[1], 4.0, rtol=0, atol=1e-14)
    assert fit.compared[1].tolist() == [True, True, False]


def test_each_linked_set_of_responses_has_its_own_convention():
    wins = np.zeros((5, 5), dtype=int)
    wins[0, 1] = 1
    wins[2, 3], wins[3, 2] = 3, 1
    fit = fit_reward(from_wins(wins), Tabular(r_max=2.0))
    half = np.log(3) / 2
    np.testing.assert_allclose(fit.reward, [[2, 0, 1 + half, 1 - half, 1]], rtol=0, atol=1e-13)
    ridge = fit_reward(from_wins(wins), Tabular(ridge=0.1)).reward[0]
    np.testing.assert_allclose([ridge[:2].sum(), ridge[2:4].sum()], 0.0, atol=1e-13)
    assert ridge[4] == 0.0


def test_prompt_without_data_gets_the_convention_of_each_model():
    data = PreferenceData([1], [0], [1], (2, 2))
    fit = fit_reward(data, Tabular(r_max=3.0))
    assert fit.reward.tolist() == [[1.5, 1.5], [3.0, 0.0]]
    assert fit.compared.tolist() == [[False, False], [True, True]]
    assert fit_reward(data, Tabular(ridge=3.0)).reward[0].tolist() == [0.0, 0.0]


def test_fit_scales_to_many_prompts(monkeypatch):
    # At most 30 Newton steps a prompt, though most of its 58 responses end on a bound.
    monkeypatch.setattr(bounded_newton, "BASE_STEPS", 30 - 4 * 58 - 2)
    rng = np.random.default_rng(5)
    prompt = rng.integers(0, 100, 40_000)
    first, second = rng.integers(0, 58, (2, 40_000))
    data = PreferenceData(prompt, first, second, (100, 58))
    fit = fit_reward(data, Tabular(r_max=0.5))
    assert fit.gradient_norm < 1e-11
    assert fit.reward.shape == (100, 58)
    assert np.isin(fit.reward, [0.0, 0.5]).mean() > 0.5


# ---- ridge ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [1e-8, 1e-3, 1.0, 1e6])
def test_ridge_fit_of_separable_data_solves_its_equation(ridge):
    fit = fit_reward(from_wins([[0, 4], [0, 0]]), Tabular(ridge=ridge))
    half = brentq(lambda h: 4 * expit(-2 * h) - ridge * h, 0, 100, xtol=1e-16, rtol=1e-14)
    np.testing.assert_allclose(fit.reward, [[half, -half]], rtol=1e-10)


@pytest.mark.parametrize("ridge", [1e-14, 1e-17, 1e-60])
@pytest.mark.parametrize("won", [1, 1000])
def test_ridge_far_below_rounding_still_decides(won, ridge):
    fit = fit_reward(from_wins([[0, won], [0, 0]]), Tabular(ridge=ridge))
    half = brentq(
        lambda h: np.log(won) - np.logaddexp(0, 2 * h) - np.log(ridge) - np.log(h),
        1e-3,
        400,
        xtol=1e-14,
    )
    np.testing.assert_allclose(fit.reward, [[half, -half]], rtol=1e-13)


@pytest.mark.parametrize("ridge", [1e-17, 1e-50])
@pytest.mark.parametrize("seed", range(5))
def test_faint_ridge_fits_are_exact_on_sparse_data(seed, ridge):
    rng = np.random.default_rng([seed, 4])
    wins = random_wins(rng, 5, 0.4) * rng.integers(1, 2000)
    wins[0, 1:] += 1
    r = fit_reward(from_wins(wins), Tabular(ridge=ridge)).reward[0]
    assert_exact(wins, r, ridge=ridge)
    assert abs(r.mean()) < 1e-13


def test_ridge_fit_is_stationary():
    rng = np.random.default_rng(3)
    wins = random_wins(rng, 7, 1.0)
    r = fit_reward(from_wins(wins), Tabular(ridge=0.4)).reward[0]
    np.testing.assert_allclose(negative_log_likelihood(wins, r)[1], -0.4 * r, rtol=0, atol=1e-13)
    assert np.abs(r).max() > 0.1


def test_small_ridge_tends_to_the_unconstrained_fit_linearly():
    data = from_wins([[0, 3, 2], [1, 0, 4], [2, 1, 0]])
    limit = fit_reward(data).reward
    far, near = (
        np.abs(fit_reward(data, Tabular(ridge=c)).reward - limit).max() for c in (1e-3, 1e-5)
    )
    assert far / near == pytest.approx(100, rel=0.01)


# ---- finite class -----------------------------------------------------------------------------


def test_finite_class_takes_the_likeliest_reward():
    rng = np.random.default_rng(7)
    rewards = rng.normal(size=(40, 3, 4))
    prompt = rng.integers(0, 3, 200)
    first, second = rng.integers(0, 4, (2, 200))
    data = PreferenceData(prompt, first, second, (3, 4))
    by_hand = [
        sum(np.log(expit(r[x, i] - r[x, j])) for x, i, j in zip(prompt, first, second, strict=True))
        for r in rewards
    ]
    fit = fit_reward(data, FiniteClass(rewards))
    assert fit.index == int(np.argmax(by_hand)) != 0
    assert fit.tied.tolist() == [fit.index]
    assert fit.log_likelihood == pytest.approx(max(by_hand), rel=1e-12)
    assert fit.gradient_norm is None
    np.testing.assert_array_equal(fit.reward, rewards[fit.index])


def tied_problem():
    """Return data that two of three rewards fit equally well, with terms in another order."""
    rng = np.random.default_rng(2)
    size = 50
    r = rng.normal(size=size) * 3
    wins = np.zeros((size, size), dtype=int)
    ring = np.arange(size)
    wins[ring, (ring + 1) % size] = 5
    wins[(ring + 1) % size, ring] = 3
    worse = r * 1.001
    return from_wins(wins), np.stack([worse, np.roll(r, 7), r])[:, None, :]


def test_equal_likelihoods_summed_in_another_order_are_tied():
    data, rewards = tied_problem()
    both = [fit_reward(data, FiniteClass(rewards[k : k + 1])).log_likelihood for k in (1, 2)]
    assert both[0] == pytest.approx(both[1], rel=1e-14)
    fit = fit_reward(data, FiniteClass(rewards))
    assert fit.tied.tolist() == [1, 2]
    assert fit.index == 1


def test_rewards_that_differ_by_a_constant_are_tied():
    data = from_wins([[0, 7, 1], [2, 0, 3], [1, 1, 0]])
    r = np.array([[0.3, 0.1, -0.7]])
    fit = fit_reward(data, FiniteClass([r, r + 1000.0, r + 0.1, -r]))
    assert fit.tied.tolist() == [0, 1, 2]


def test_slightly_better_reward_is_not_tied():
    data = from_wins([[0, 2], [1, 0]])
    best = np.array([[np.log(2), 0.0]])
    fit = fit_reward(data, FiniteClass([best + np.array([1e-5, 0.0]), best]))
    assert fit.tied.tolist() == [1]


def test_rng_splits_ties_evenly():
    data, rewards = tied_problem()
    rng = np.random.default_rng(123)
    first = sum(fit_reward(data, FiniteClass(rewards), rng=rng).index == 1 for _ in range(400))
    # Five standard deviations of a fair coin; the seed pins the count.
    assert abs(first - 200) < 50
    rng = np.random.default_rng(123)
    assert first == sum(
        fit_reward(data, FiniteClass(rewards), rng=rng).index == 1 for _ in range(400)
    )


def test_unseen_response_leaves_the_class_tied():
    data = PreferenceData([0, 0, 0], [0, 0, 1], [1, 1, 0], (1, 3))
    rewards = [[[0.5, 0.2, 0.0]], [[0.5, 0.2, 1.0]]]
    fit = fit_reward(data, FiniteClass(rewards))
    assert fit.tied.tolist() == [0, 1]
    assert fit.compared.tolist() == [[True, True, False]]


def test_data_of_equal_pairs_leave_everything_tied():
    fit = fit_reward(PreferenceData([0], [1], [1], (1, 2)), FiniteClass(np.eye(3, 2)[:, None, :]))
    assert fit.tied.tolist() == [0, 1, 2]
    assert fit.log_likelihood == pytest.approx(-np.log(2))


# ---- arguments and results --------------------------------------------------------------------


DATA = PreferenceData([0, 0], [0, 1], [1, 0], (1, 2))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: FiniteClass(np.zeros((0, 1, 2))), r"rewards has shape \(0, 1, 2\)"),
        (lambda: FiniteClass(np.zeros((1, 2))), r"rewards has shape \(1, 2\); .*\(K, X, Y\)"),
        (lambda: FiniteClass([[[0.0, np.nan]]]), r"rewards\[0, 0, 1\] is nan; .*finite"),
        (lambda: Tabular(r_max=1.0, ridge=2.0), "r_max is 1.0 and ridge is 2.0; at most one"),
        (lambda: Tabular(r_max=0.0), "r_max is 0.0; it must be positive"),
        (lambda: Tabular(r_max=-1.0), "r_max is -1.0"),
        (lambda: Tabular(r_max=np.inf), "r_max is inf"),
        (lambda: Tabular(r_max=701.0), "r_max is 701.0; it must be at most 700"),
        (lambda: Tabular(ridge=0.0), "ridge is 0.0; it must be positive"),
        (lambda: Tabular(ridge=np.nan), "ridge is nan"),
        (lambda: Tabular(ridge=1e-61), "ridge is 1e-61; it must be at least 1e-60"),
        (lambda: fit_reward(DATA, "tabular"), "model is 'tabular'; it must be a reward model"),
        (lambda: fit_reward(DATA, Tabular), "it must be a reward model"),
        (lambda: fit_reward([[0, 1]]), "data is a list; it must be a PreferenceData"),
        (lambda: fit_reward(DATA, rng=0), "rng is a int; it must be a numpy.random.Generator"),
        (
            lambda: fit_reward(DATA, FiniteClass(np.zeros((2, 1, 3)))),
            r"rewards has shape \(2, 1, 3\); its last two axes must be \(X, Y\) = \(1, 2\)",
        ),
    ],
)
def test_bad_arguments_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
def test_copies_are_frozen_too(copied):
    model = FiniteClass([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert not copied(model).rewards.flags.writeable
    np.testing.assert_array_equal(copied(model).rewards, model.rewards)
    for fit in (fit_reward(DATA, model), fit_reward(DATA)):
        again = copied(fit)
        for name in ("reward", "log_likelihood", "gradient_norm", "compared", "index", "tied"):
            np.testing.assert_array_equal(getattr(again, name), getattr(fit, name))
        arrays = [a for a in (again.reward, again.compared, again.tied) if a is not None]
        assert not any(a.flags.writeable for a in arrays)


def test_counts_of_shapes_beyond_one_integer_key():
    columns = [3, 3, 0, 4, 3, 2], [7, 7, 2**39, 1, 1, 1], [1, 1, 5, 2**40 - 1, 7, 1]
    counts = count_pairs(PreferenceData(*columns, shape=(5, 2**40)))
    rows = zip(counts.prompt, counts.winner, counts.loser, counts.count, strict=True)
    assert [tuple(map(int, row)) for row in rows] == [
        (0, 2**39, 5, 1),
        (3, 1, 7, 1),
        (3, 7, 1, 2),
        (4, 1, 2**40 - 1, 1),
    ]
    assert counts.equal_pairs == 1
    assert counts.shape == (5, 2**40)
    assert count_pairs(PreferenceData([0], [1], [1], (5, 2**40))).count.size == 0


def test_nothing_of_the_caller_is_changed_or_shared():
    rewards = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    model = FiniteClass(rewards)
    before = [c.copy() for c in (DATA.prompt, DATA.chosen, DATA.rejected)]
    fits = [fit_reward(DATA, m) for m in (model, Tabular(), Tabular(r_max=1.0), Tabular(ridge=1.0))]
    for column, kept in zip((DATA.prompt, DATA.chosen, DATA.rejected), before, strict=True):
        np.testing.assert_array_equal(column, kept)
    rewards[0, 0, 0] = 9.0
    assert model.rewards[0, 0, 0] == 1.0
    for fit in fits:
        for array in (fit.reward, fit.compared):
            assert not array.flags.writeable


def test_fit_without_certificate_is_refused(monkeypatch):
    declined(monkeypatch)
    monkeypatch.setattr(bounded_newton, "BASE_STEPS", -(10**9))
    with pytest.raises(RewardFitError, match="no certified maximum at prompt 0") as caught:
        fit_reward(from_wins([[0, 3], [1, 0]]))
    assert caught.value.fit.gradient_norm == pytest.approx(1.0)
    again = pickle.loads(pickle.dumps(caught.value))
    np.testing.assert_array_equal(again.fit.reward, caught.value.fit.reward)


@pytest.mark.parametrize(
    ("shift", "step", "fails"),
    [(0.0, 0.0, ""), (1e-11, 9e-7, ""), (1e-8, 0.0, "violated by"), (0.0, 2e-6, "step 2e-06")],
)
def test_each_half_of_the_certificate_refuses_on_its_own(shift, step, fails, monkeypatch):
    right = newton.minimize

    def wrong(*arguments):
        values, _ = right(*arguments)
        return values + np.array([shift, -shift]), step

    declined(monkeypatch)
    monkeypatch.setattr(newton, "minimize", wrong)
    data = from_wins([[0, 3], [1, 0]])
    if not fails:
        assert fit_reward(data).gradient_norm < 4e-10
        return
    with pytest.raises(RewardFitError, match=f"no certified maximum at prompt 0: .*{fails}"):
        fit_reward(data)


@pytest.mark.parametrize("failing", [(0,), (1,), (0, 1)], ids=["first", "last", "both"])
def test_the_first_prompt_without_certificate_is_named(failing, monkeypatch):
    """A later prompt that is certified, or is not, does not make up for it."""
    right = newton.minimize
    steps = iter([2e-6 if x in failing else 0.0 for x in range(2)])

    def wrong(*arguments):
        return right(*arguments)[0], next(steps)

    declined(monkeypatch)
    monkeypatch.setattr(newton, "minimize", wrong)
    first = f"no certified maximum at prompt {failing[0]}: .*step 2e-06"
    with pytest.raises(RewardFitError, match=first):
        fit_reward(from_wins([[0, 3], [1, 0]], [[0, 2], [1, 0]]))


def test_bounds_far_beyond_a_step_do_not_warn():
    wins = [[0, 0, 1, 1], [0, 0, 0, 3], [2, 1, 0, 1], [0, 1, 0, 0]]
    data = from_wins(np.array(wins) * 10**4)
    for r_max in (600.0, 690.0, 700.0):
        r = fit_reward(data, Tabular(r_max=r_max)).reward[0]
        assert (r.min(), r.max()) == (0.0, r_max)
