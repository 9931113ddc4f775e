"""The limit of infinite data: exact laws, what fits make of them, and the split of an error."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, log_expit, logit

from rlhfsim import ContextualBandit, FiniteClass, Tabular, fit_reward, random_bandit
from rlhfsim.bounds import reward_error
from rlhfsim.data import PreferenceData
from rlhfsim.laws import (
    dataset_law,
    error_split,
    population_pairs,
    population_rankings,
    population_scores,
)
from rlhfsim.preferences import BradleyTerry, GeneralPreference, LabelNoise, RaterMixture
from rlhfsim.rewards.least_squares import LeastSquares
from rlhfsim.rewards.linear import Linear
from rlhfsim.rewards.plackett_luce import PlackettLuce


def bandit_of(seed, prompts=2, responses=3, scale=1.0):
    bandit = random_bandit(prompts, responses, np.random.default_rng(seed))
    rho = np.random.default_rng(seed + 1).dirichlet(np.ones(prompts))
    return ContextualBandit(rho, bandit.reference, scale * bandit.reward)


def table_of(counts):
    table = np.zeros((*counts.shape, counts.shape[1]))
    table[counts.prompt, counts.winner, counts.loser] = counts.count
    return table


def centred(reward):
    return reward - reward.mean(axis=1, keepdims=True)


# ---- pairs ----------------------------------------------------------------------------------


def table_by_loops(bandit, probability, first, second):
    prompts, responses = bandit.shape
    table = np.zeros((prompts, responses, responses))
    equal = 0.0
    for x, a, b in itertools.product(range(prompts), range(responses), range(responses)):
        met = bandit.prompt_dist[x] * first[x, a] * second[x, b]
        if a == b:
            equal += met
            continue
        table[x, a, b] += met * probability(x, a, b)
        table[x, b, a] += met * probability(x, b, a)
    return table, equal


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 5), st.booleans())
def test_pairs_by_loops(seed, prompts, responses, two):
    bandit = bandit_of(seed, prompts, responses, 5.0)
    r = bandit.reward
    policies = (bandit.reference, np.roll(bandit.reference, 1, axis=1)) if two else None
    want, equal = table_by_loops(
        bandit, lambda x, a, b: expit(r[x, a] - r[x, b]), *(policies or [bandit.reference] * 2)
    )
    got = population_pairs(bandit, policies=policies)
    assert table_of(got) == pytest.approx(want, rel=1e-14)
    assert got.equal_pairs == pytest.approx(equal, rel=1e-14)
    assert got.count.sum() + got.equal_pairs == pytest.approx(1.0, abs=1e-14)
    keys = list(zip(got.prompt, got.winner, got.loser, strict=True))
    assert keys == sorted(set(keys))


def test_other_models_and_outcomes_that_never_happen():
    bandit = bandit_of(3, 2, 3)
    tensor = np.random.default_rng(4).random((2, 3, 3))
    tensor = np.triu(tensor, 1) + np.tril(1 - np.swapaxes(tensor, 1, 2), -1) + np.eye(3) / 2
    tensor[0, 0, 1], tensor[0, 1, 0] = 1.0, 0.0
    got = population_pairs(bandit, model=GeneralPreference(tensor))
    want, _ = table_by_loops(
        bandit, lambda x, a, b: tensor[x, a, b], bandit.reference, bandit.reference
    )
    assert table_of(got) == pytest.approx(want, rel=1e-14)
    assert (0, 1, 0) not in set(zip(got.prompt, got.winner, got.loser, strict=True))
    assert (got.count > 0).all()


@pytest.mark.parametrize("n", [1, 4])
def test_counts_of_a_dataset_have_mean_n_times_the_population(n):
    bandit = bandit_of(5, 1, 3)
    model = LabelNoise(BradleyTerry(bandit.reward), 0.1)
    mean = dataset_law(bandit, n, model=model).expectation(table_of)
    assert mean == pytest.approx(n * table_of(population_pairs(bandit, model=model)), rel=1e-12)


def test_too_many_triples_are_refused():
    bandit = bandit_of(0, 2, 4)
    assert population_pairs(bandit, limit=24).count.size == 24
    with pytest.raises(ValueError, match=r"are 24 triples .* limit = 23; take fewer"):
        population_pairs(bandit, limit=23)
    with pytest.raises(ValueError, match=r"at least 12 triples .* limit = 11; take fewer"):
        population_pairs(bandit, limit=11)
    with pytest.raises(ValueError, match="bandit is a list"):
        population_pairs([bandit])
    with pytest.raises(ValueError, match="model is a ABCMeta; it must be a PreferenceModel"):
        population_pairs(bandit, model=BradleyTerry)


# ---- fits to the population of pairs --------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.1, 6.0))
def test_tabular_fit_recovers_the_reward(seed, responses, scale):
    bandit = bandit_of(seed, 2, responses, scale)
    # Responses of very small probability are fitted from counts of that size.
    assume(bandit.reference.min() * bandit.prompt_dist.min() > 1e-6)
    fit = fit_reward(population_pairs(bandit), Tabular())
    assert fit.reward == pytest.approx(centred(bandit.reward), abs=1e-11)


def test_tabular_fit_recovers_the_reward_to_rounding():
    bandit = bandit_of(9, 3, 4)
    fit = fit_reward(population_pairs(bandit), Tabular())
    assert np.abs(fit.reward - centred(bandit.reward)).max() < 1e-12
    # A chain of policies links all responses though not all pairs meet.
    first, second = [[0.5, 0.5, 0.0, 0.0]] * 3, [[0.0, 0.4, 0.3, 0.3]] * 3
    chain = population_pairs(bandit, policies=(first, second))
    assert chain.count.size < population_pairs(bandit).count.size
    fit = fit_reward(chain, Tabular())
    assert np.abs(fit.reward - centred(bandit.reward)).max() < 1e-12


def test_label_noise_shrinks_a_gap_by_its_closed_form():
    gap, rate = 1.7, 0.15
    bandit = ContextualBandit([1.0], [[0.3, 0.7]], [[gap, 0.0]])
    noisy = population_pairs(bandit, model=LabelNoise(BradleyTerry(bandit.reward), rate))
    fit = fit_reward(noisy, Tabular()).reward[0]
    want = logit((1 - rate) * expit(gap) + rate * expit(-gap))
    assert fit[0] - fit[1] == pytest.approx(want, rel=1e-12)
    split = error_split(bandit, fit[None], fit[None])
    assert split.bias == pytest.approx(0.3 * 0.7 * (gap - want) ** 2, rel=1e-11)
    assert split.estimation == split.cross == 0.0


def test_label_noise_bias_by_a_root_in_one_dimension():
    """Three responses, symmetric: the limit is (b, 0, -b), and b solves one equation."""
    a, q, rate = 1.3, 0.2, 0.2
    p = [q, 1 - 2 * q, q]
    bandit = ContextualBandit([1.0], [p], [[a, 0.0, -a]])
    noisy = population_pairs(bandit, model=LabelNoise(BradleyTerry(bandit.reward), rate))
    fit = fit_reward(noisy, Tabular()).reward[0]

    def slope(b):
        near = (rate + (1 - 2 * rate) * expit(a)) - expit(b)
        far = (rate + (1 - 2 * rate) * expit(2 * a)) - expit(2 * b)
        return 2 * p[0] * p[1] * near + 2 * p[0] * p[2] * far

    b = brentq(slope, 0.0, a, xtol=1e-15, rtol=1e-15)
    assert 0.1 < b < a - 0.1
    assert fit == pytest.approx([b, 0.0, -b], abs=1e-12)
    # It is not what noise on a single pair would do: the bias depends on who meets whom.
    assert abs(b - logit(rate + (1 - 2 * rate) * expit(a))) > 0.01


def test_a_mixture_of_raters_is_fitted_by_its_projection():
    gaps, weights = np.array([2.0, -0.5]), [0.6, 0.4]
    bandit = ContextualBandit([1.0], [[0.5, 0.5]], [[1.0, 0.0]])
    raters = RaterMixture([BradleyTerry(np.array([[g, 0.0]])) for g in gaps], weights)
    fit = fit_reward(population_pairs(bandit, model=raters), Tabular()).reward[0]
    assert fit[0] - fit[1] == pytest.approx(logit(expit(gaps) @ weights), rel=1e-12)


def test_large_samples_tend_to_the_population_and_not_to_the_truth():
    """Two responses: the fitted gap is normal around its limit; 6 standard errors, 2e-9."""
    gap, rate, n = 1.5, 0.2, 400_000
    bandit = ContextualBandit([1.0], [[0.5, 0.5]], [[gap, 0.0]])
    model = LabelNoise(BradleyTerry(bandit.reward), rate)
    limit = fit_reward(population_pairs(bandit, model=model), Tabular()).reward[0]
    rng = np.random.default_rng(21)
    first, second = rng.integers(0, 2, (2, n))
    wins = (rng.random(n) < expit(bandit.reward[0, first] - bandit.reward[0, second])) ^ (
        rng.random(n) < rate
    )
    data = PreferenceData(
        np.zeros(n, int), np.where(wins, first, second), np.where(wins, second, first), (1, 2)
    )
    fit = fit_reward(data, Tabular()).reward[0]
    slope = expit(limit[0] - limit[1]) * expit(limit[1] - limit[0])
    error = 1 / math.sqrt(n / 2 * slope)
    assert abs((fit - limit) @ [1, -1]) < 6 * error
    assert abs(fit @ [1, -1] - gap) > 50 * error


def test_finite_class_takes_the_least_divergence_and_not_the_nearest_reward():
    """Two responses, true gap 2; the gaps 0.9 and 3.2 are 1.1 and 1.2 away."""
    bandit = ContextualBandit([1.0], [[0.5, 0.5]], [[2.0, 0.0]])
    gaps = [0.9, 3.2, 5.0]
    model = FiniteClass(np.array([[[g, 0.0]] for g in gaps]))
    fit = fit_reward(population_pairs(bandit), model)
    with mpmath.workdps(30):

        def divergence(gap):
            p, q = (1 / (1 + mpmath.exp(-mpmath.mpf(g))) for g in (2, gap))
            return p * mpmath.log(p / q) + (1 - p) * mpmath.log((1 - p) / (1 - q))

        values = [divergence(g) for g in gaps]
    best = int(np.argmin([float(v) for v in values]))
    assert fit.index == best
    assert fit.tied.tolist() == [best]
    assert best != int(np.argmin(np.abs(np.array(gaps) - 2.0)))
    # The likelihood is the cross entropy per row; half of the rows are pairs of equals.
    entropy = expit(2.0) * log_expit(2.0) + expit(-2.0) * log_expit(-2.0)
    want = 0.5 * (entropy - float(values[best])) - 0.5 * math.log(2)
    assert fit.log_likelihood == pytest.approx(want, rel=1e-13)


def test_finite_class_ties_at_the_population():
    bandit = ContextualBandit([1.0], [[0.4, 0.6]], [[0.0, 0.0]])
    model = FiniteClass(np.array([[[1.5, 0.0]], [[0.0, 1.5]], [[2.0, 0.0]]]))
    assert fit_reward(population_pairs(bandit), model).tied.tolist() == [0, 1]


def test_a_misspecified_linear_class_by_a_root_in_one_dimension():
    bandit = bandit_of(12, 2, 4, 2.0)
    features = np.random.default_rng(13).standard_normal((2, 4, 1))
    law = population_pairs(bandit)
    fit = fit_reward(law, Linear(features))
    phi, r = features[..., 0], bandit.reward

    def slope(theta):
        total = 0.0
        for x, a, b in itertools.product(range(2), range(4), range(4)):
            d = phi[x, a] - phi[x, b]
            met = bandit.prompt_dist[x] * bandit.reference[x, a] * bandit.reference[x, b]
            total += met * d * (expit(r[x, a] - r[x, b]) - expit(theta * d))
        return total

    theta = brentq(slope, -50, 50, xtol=1e-15, rtol=1e-15)
    assert fit.parameter == pytest.approx([theta], rel=1e-11, abs=1e-13)
    split = error_split(bandit, fit.reward, fit.reward)
    assert split.bias > 1e-3
    # The right class has no bias.
    truth = fit_reward(law, Linear(r[..., None]))
    assert truth.parameter == pytest.approx([1.0], abs=1e-12)


# ---- scores ---------------------------------------------------------------------------------


def test_scores_have_their_weights_and_means():
    bandit = bandit_of(14, 2, 3)
    sums = population_scores(bandit, noise=0.5)
    weight = bandit.prompt_dist[:, None] * bandit.reference
    assert sums.scored.all()
    assert sums.count.reshape(2, 3) == pytest.approx(weight, rel=1e-15)
    assert sums.mean.reshape(2, 3) == pytest.approx(bandit.reward, rel=0, abs=0)
    assert sums.squares.sum() == pytest.approx(0.25, rel=1e-14)
    fit = fit_reward(sums, LeastSquares())
    assert fit.reward == pytest.approx(bandit.reward, rel=1e-15)
    assert fit.log_likelihood == pytest.approx(-0.5 * 0.25, rel=1e-13)
    one = population_scores(bandit, policy=[[1.0, 0.0, 0.0]] * 2)
    assert one.scored.tolist() == [[True, False, False]] * 2
    assert one.squares.tolist() == [0.0, 0.0]


def test_a_misspecified_linear_class_of_scores_is_weighted_least_squares():
    bandit = bandit_of(15, 3, 4)
    features = np.random.default_rng(16).standard_normal((3, 4, 2))
    fit = fit_reward(population_scores(bandit), LeastSquares(features))
    root = np.sqrt(bandit.prompt_dist[:, None] * bandit.reference).ravel()
    want = np.linalg.lstsq(
        root[:, None] * features.reshape(-1, 2), root * bandit.reward.ravel(), rcond=None
    )[0]
    assert fit.parameter == pytest.approx(want, rel=1e-11)


def test_bad_arguments_of_scores():
    bandit = bandit_of(0, 2, 2)
    for options, message in (
        ({"noise": -1.0}, "noise is -1.0"),
        ({"noise": np.inf}, "noise is inf"),
        ({"policy": [[0.5, 0.5]]}, r"policy has shape \(1, 2\)"),
        ({"policy": [[0.5, 0.5], [0.5, 0.6]]}, r"policy\[1\] sums to 1\.1"),
    ):
        with pytest.raises(ValueError, match=message):
            population_scores(bandit, **options)
    with pytest.raises(ValueError, match="bandit is a NoneType"):
        population_scores(None)


# ---- rankings -------------------------------------------------------------------------------


def rankings_by_loops(bandit, size, policy):
    """Every ordered draw and every order of it: the law by its definition."""
    law = {}
    prompts, responses = bandit.shape
    for x in range(prompts):
        for drawn in itertools.product(range(responses), repeat=size):
            met = bandit.prompt_dist[x] * math.prod(policy[x, y] for y in drawn)
            for order in itertools.permutations(drawn):
                weight = [math.exp(bandit.reward[x, y]) for y in order]
                chance = math.prod(weight[k] / sum(weight[k:]) for k in range(size))
                law[x, *order] = law.get((x, *order), 0.0) + met * chance
    return law


@pytest.mark.parametrize(("size", "responses"), [(2, 3), (3, 3), (4, 2)])
def test_rankings_by_loops(size, responses):
    bandit = bandit_of(17, 2, responses, 2.0)
    policy = np.random.default_rng(18).dirichlet(np.ones(responses), 2)
    want = rankings_by_loops(bandit, size, policy)
    got = population_rankings(bandit, size, policy=policy)
    keys = [(x, *ranking) for x, ranking in zip(got.prompt, got.ranking.tolist(), strict=True)]
    assert keys == sorted(want)
    assert got.count == pytest.approx([want[key] for key in keys], rel=1e-13)
    assert got.count.sum() == pytest.approx(1.0, abs=1e-13)


def test_rankings_of_two_are_pairs():
    bandit = bandit_of(19, 2, 3, 3.0)
    rankings, pairs = population_rankings(bandit, 2), population_pairs(bandit)
    table = np.zeros((2, 3, 3))
    table[rankings.prompt, rankings.ranking[:, 0], rankings.ranking[:, 1]] = rankings.count
    same = np.trace(table, axis1=1, axis2=2).sum()
    assert same == pytest.approx(pairs.equal_pairs, rel=1e-14)
    for x in range(2):
        np.fill_diagonal(table[x], 0.0)
    assert table == pytest.approx(table_of(pairs), rel=1e-13)


@pytest.mark.parametrize("size", [2, 3])
def test_plackett_luce_recovers_the_reward(size):
    bandit = bandit_of(20, 2, 4, 2.0)
    fit = fit_reward(population_rankings(bandit, size), PlackettLuce())
    assert np.abs(fit.reward - centred(bandit.reward)).max() < 1e-11


def test_rankings_at_the_extremes():
    # A large offset, a prompt that never occurs, long rankings of one response.
    bandit = ContextualBandit([1.0, 0.0], [[0.5, 0.5]] * 2, [[1e15 + 1.0, 1e15]] * 2)
    got = population_rankings(bandit, 2)
    assert got.prompt.tolist() == [0] * 4
    assert got.count == pytest.approx([0.25, 0.5 * expit(1), 0.5 * expit(-1), 0.25], rel=1e-14)
    [one] = population_rankings(bandit, 200, policy=[[1.0, 0.0]] * 2).count
    assert one == pytest.approx(1.0, rel=1e-12)
    far = ContextualBandit([1.0], [[0.5, 0.5]], [[0.0, 2000.0]])
    assert len(population_rankings(far, 2).count) == 3


def test_bad_arguments_of_rankings():
    bandit = bandit_of(0, 2, 3)
    for size, options, message in (
        (1, {}, "size is 1; it must be at least 2"),
        (2.0, {}, r"size is 2\.0; it must be an integer"),
        (3, {"limit": 53}, "there are 54 rankings of size = 3, more than limit = 53; take"),
        (60, {}, "about 1e29 rankings of size = 60"),
        (2, {"policy": [[0.5, 0.5, 0.1]] * 2}, r"policy\[0\] sums to 1\.1"),
        (2, {"limit": 0}, "limit is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            population_rankings(bandit, size, **options)
    assert len(population_rankings(bandit, 3, limit=54).count) == 54


# ---- the split of an error ------------------------------------------------------------------


def arrays(shape):
    return st.integers(0, 10**6).map(lambda s: np.random.default_rng(s).normal(0, 2, shape))


@given(st.integers(0, 10**6), arrays((2, 3)), arrays((2, 3)), arrays((2, 1)))
def test_the_parts_add_up_and_constants_do_not_count(seed, fitted, limit, shift):
    bandit = bandit_of(seed, 2, 3)
    split = error_split(bandit, fitted, limit)
    assert split.total == pytest.approx(split.bias + split.estimation + split.cross, abs=1e-13)
    p, rho = bandit.reference, bandit.prompt_dist
    assert split.total == pytest.approx(reward_error(bandit.reward, fitted, p, rho) ** 2, rel=1e-12)
    assert split.bias == pytest.approx(reward_error(bandit.reward, limit, p, rho) ** 2, rel=1e-12)
    assert split.estimation == pytest.approx(reward_error(limit, fitted, p, rho) ** 2, rel=1e-12)
    moved = error_split(bandit, fitted + shift, limit - 3 * shift)
    for name in ("bias", "estimation", "cross", "total"):
        assert getattr(moved, name) == pytest.approx(getattr(split, name), abs=1e-12)
    # At most as Cauchy and Schwarz allow, with equality for parallel errors.
    assert abs(split.cross) <= 2 * math.sqrt(split.bias * split.estimation) + 1e-13
    line = error_split(bandit, limit - 0.5 * (bandit.reward - limit), limit)
    assert line.cross == pytest.approx(2 * math.sqrt(line.bias * line.estimation), rel=1e-12)


def test_split_by_hand():
    bandit = ContextualBandit([0.5, 0.5], [[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.0, 0.0]])
    split = error_split(bandit, [[0.25, 0.0], [0.0, 4.0]], [[0.5, 0.0], [0.0, 0.0]])
    # Gaps 1, 0.5, 0.25 at the first prompt and 0, 0, 4 at the second; a variance is gap^2 / 4.
    assert split.bias == pytest.approx(0.5 * 0.25 * 0.25)
    assert split.estimation == pytest.approx(0.5 * (0.25**2 + 16) / 4)
    assert split.cross == pytest.approx(2 * 0.5 * 0.5 * 0.25 / 4)
    assert split.total == pytest.approx(0.5 * (0.75**2 + 16) / 4)
    elsewhere = error_split(
        bandit, np.zeros((2, 2)), np.zeros((2, 2)), reference=[[0.25, 0.75], [1.0, 0.0]]
    )
    assert elsewhere.total == pytest.approx(0.5 * 0.25 * 0.75)


def test_split_of_a_stack_is_that_of_each():
    bandit = bandit_of(22, 2, 3)
    rng = np.random.default_rng(23)
    stack, limit = rng.normal(size=(5, 2, 3)), rng.normal(size=(2, 3))
    together = error_split(bandit, stack, limit)
    for i in range(5):
        one = error_split(bandit, stack[i], limit)
        for name in ("estimation", "cross", "total"):
            assert getattr(together, name)[i] == getattr(one, name)
        assert together.bias == one.bias


def test_mean_error_over_all_datasets_is_bias_and_estimation():
    """The exact law of data and the split together, with fits in a box."""
    bandit = ContextualBandit([1.0], [[0.4, 0.6]], [[0.9, 0.0]])
    model, box = LabelNoise(BradleyTerry(bandit.reward), 0.1), Tabular(r_max=2.0)
    limit = fit_reward(population_pairs(bandit, model=model), box).reward
    law = dataset_law(bandit, 6, model=model)

    def parts(counts):
        split = error_split(bandit, fit_reward(counts, box).reward, limit)
        return split.bias, split.estimation, split.cross, split.total

    bias, estimation, cross, total = law.expectation(parts)
    assert total == pytest.approx(bias + estimation + cross, rel=1e-12)
    gap = logit(0.9 * expit(0.9) + 0.1 * expit(-0.9))
    assert bias == pytest.approx(0.24 * (0.9 - gap) ** 2, rel=1e-10)

    # The second route: the fitted gap is the log odds of wins, cut to the box.
    met = 2 * 0.4 * 0.6
    win = expit(gap)
    square = 0.0
    for m in range(7):
        meets = math.comb(6, m) * met**m * (1 - met) ** (6 - m)
        for k in range(m + 1):
            chance = meets * math.comb(m, k) * win**k * (1 - win) ** (m - k)
            odds = 0.0 if m == 0 else math.inf if k == m else -math.inf if k == 0 else logit(k / m)
            square += chance * 0.24 * (0.9 - min(2.0, max(-2.0, odds))) ** 2
    assert total == pytest.approx(square, rel=1e-10)


def test_bad_arguments_of_the_split():
    bandit = bandit_of(0, 2, 2)
    good = np.zeros((2, 2))
    for arguments, message in (
        ((None, good, good), "bandit is a NoneType"),
        ((bandit, np.zeros((2, 3)), good), r"reward_hat has shape \(2, 3\)"),
        ((bandit, good, np.zeros(2)), r"population_reward has shape \(2,\)"),
        ((bandit, np.full((2, 2), np.nan), good), r"reward_hat\[0, 0\] is nan"),
        ((bandit, np.zeros((3, 2, 2)), np.zeros((2, 2, 2))), "shapes do not broadcast"),
    ):
        with pytest.raises(ValueError, match=message):
            error_split(*arguments)
    with pytest.raises(ValueError, match=r"reference\[0\] sums to 0\.9"):
        error_split(bandit, good, good, reference=[[0.5, 0.4], [0.5, 0.5]])
