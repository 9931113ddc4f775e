"""Sides of the claims by paper, by a second route: mpmath, scipy, sampling, or brute force."""

import itertools
import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_softmax, softmax
from scipy.stats import multinomial

from rlhfsim import KL, ChiSquared, bounds, chi_squared_path, solve
from rlhfsim.claims import chipo, f_divergences, f_dpg, renyi, sample_complexity
from rlhfsim.claims import proposition_a1 as a1
from rlhfsim.claims.comparisons import Comparisons
from rlhfsim.claims.consistency import Rivals
from rlhfsim.claims.demonstrations import expected_kl
from rlhfsim.claims.direct import DIRECT_CLAIMS
from rlhfsim.claims.displacement import DISPLACEMENT_CLAIMS
from rlhfsim.claims.general_optima import MEMBERS
from rlhfsim.claims.identification import Tournaments, every_side_wins
from rlhfsim.claims.infalign import InferenceProblems
from rlhfsim.claims.kwise import (
    Ranked,
    law,
    orders,
    pair_scores,
    ranking_scores,
    split_variance,
    whole_variance,
)
from rlhfsim.claims.labelled import Labelled
from rlhfsim.claims.overoptimization import OVEROPTIMIZATION_CLAIMS, Curves
from rlhfsim.claims.pairs import Pairs
from rlhfsim.claims.power import entropy_optimum, tempered, weights
from rlhfsim.claims.problems import Problems, single
from rlhfsim.claims.scaling import SCALING_CLAIMS, Judged, best, optimum, pessimistic


def by_name(claims, name):
    return next(claim for claim in claims if claim.name == name)


# ---- divergences ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0.01, 0.3, 0.99, 3.0])
def test_power_sums_agree_with_mpmath(order):
    x = Pairs.sample(60, np.random.default_rng(0))
    ours = renyi.power_sum(x.policy, x.reference, order)
    for k in range(len(x)):
        with mpmath.workdps(40):
            terms = [
                mpmath.mpf(a) ** order * mpmath.mpf(b) ** (1 - mpmath.mpf(order))
                for a, b in zip(x.policy[k], x.reference[k], strict=True)
                if a > 0 and b > 0
            ]
            outside = ((x.policy[k] > 0) & (x.reference[k] == 0)).any()
            total = mpmath.log(mpmath.fsum(terms)) if terms else -mpmath.inf
        expected = np.inf if outside and order > 1 else float(total)
        assert ours[k] == pytest.approx(expected, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("name", list(f_dpg.GENERATORS))
def test_generators_are_those_of_the_library(name):
    known = {"KL": KL(), "D_chi2": ChiSquared(), **f_divergences.OTHERS}
    w = np.array([0.05, 0.5, 1.0, 1.5, 20.0])
    np.testing.assert_allclose(
        f_dpg.GENERATORS[name](w), known[name].generator(w), rtol=1e-12, atol=1e-15
    )
    step = 1e-6
    slope = (known[name].generator(w + step) - known[name].generator(w - step)) / (2 * step)
    np.testing.assert_allclose(known[name].link(w), slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", list(MEMBERS))
def test_links_are_those_of_the_library(name):
    w = np.array([0.05, 0.5, 1.5, 20.0])
    member = MEMBERS[name]
    np.testing.assert_allclose(member.link(w), member.divergence.link(w), rtol=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_divergence_claims_hold_on_single_instances(seed):
    x = Pairs.sample(3, np.random.default_rng(seed))
    for claim in renyi.RENYI_CLAIMS + f_divergences.F_DIVERGENCE_CLAIMS + f_dpg.F_DPG_CLAIMS:
        if claim.kind not in ("false", "rate"):
            assert (claim.ratio(x) <= 1 + 1e-9).all(), claim.name


# ---- chiPO ---------------------------------------------------------------------------------------


def test_breakpoints_are_where_the_policy_loses_a_response():
    x = single([0.4, 0.3, 0.2, 0.1], [3.0, 1.0, 1.0, -1.0])
    betas = np.geomspace(1e-3, 1e3, 4001)
    sizes = [(solve(x.reward_hat[0], x.reference[0], ChiSquared(), b).policy > 0).sum()
             for b in betas.tolist()]  # fmt: skip
    bends = np.count_nonzero(np.diff(sizes))
    assert chipo.breakpoints(x)[0] == bends == 2
    assert len(chi_squared_path(x.reward_hat[0, 0], x.reference[0, 0]).breakpoints) == 2


def test_the_literal_formula_is_right_only_at_its_own_beta():
    """`p r/E_p[r]` is the optimum at beta = E_p[r], and nowhere else."""
    claim = by_name(chipo.CHIPO_CLAIMS, "error of the chi2 optimum as printed")
    x = single([0.5, 0.5], [3.0, 1.0], beta=1.001)
    assert claim.left(x)[0] < 1e-3
    assert claim.left(replace(x, beta=np.array([2.0])))[0] == pytest.approx(0.25, rel=1e-12)


# ---- sample complexity ---------------------------------------------------------------------------


def test_preference_gap_attains_its_bound():
    gap = sample_complexity.preference_gap(1.0)
    error = 0.5 * (expit(gap) - 0.5) ** 2
    assert error == pytest.approx(2 * math.log(2 / 1e-30) / 100_000, rel=1e-12)
    assert not sample_complexity.preference_claim(0.5).check().passed


def test_worst_regret_agrees_with_sampling():
    """At n = 100, by drawing datasets at the gap that is worst."""
    rng, n, runs = np.random.default_rng(0), 100, 200_000
    gaps = sample_complexity._GAPS / math.sqrt(n)
    best_gap = max(gaps, key=lambda v: v * sample_complexity.wrong_of_two(n, v))
    compared = rng.binomial(n, 0.5, size=runs)
    wins = rng.binomial(compared, expit(best_gap))
    up, down = np.log(2 * expit(best_gap)), np.log(2 * expit(-best_gap))
    share = (wins * up + (compared - wins) * down < 0).mean()
    regret = sample_complexity.worst_regret(n)
    # Five standard errors: fails with probability 6e-7.
    assert abs(0.5 * best_gap * share - regret) < 5 * 0.5 * best_gap * 0.5 / math.sqrt(runs)


def test_asymptotic_error_is_the_delta_method():
    """Var of the log odds of wins among n/2 comparisons, halved in size."""
    for v in (0.0, 1.0, 4.0):
        odds = 1.0 / (0.5 * expit(v) * expit(-v))
        assert sample_complexity.asymptotic_error(math.exp(v)) == pytest.approx(
            0.5 * math.sqrt(odds), rel=1e-12
        )


def test_aligned_regret_is_the_bound():
    for excess in (1.0, 100.0):
        assert sample_complexity.aligned_regret(excess) == pytest.approx(
            float(bounds.chi_squared_bound(1.0, excess / 2, 1 / math.sqrt(excess))), rel=1e-9
        )


def test_chipo_errs_as_often_as_the_likelihood():
    """The learner, on sampled data, against the exact probability that the wrong one is likelier.

    Within five standard errors: fails with probability 6e-7.
    """
    gap, runs = sample_complexity.chipo_gap(0.5), 400
    exact = sample_complexity.wrong_of_two(20_000, gap)
    found = sample_complexity.chipo_violations(0.5, runs, np.random.default_rng(1)) / runs
    assert abs(found - exact) < 5 * math.sqrt(exact * (1 - exact) / runs)


def test_kl_floor_is_one_formula():
    assert a1.kl_floor is bounds.proposition_a1_floor_by_log
    for n in (3, 10, 10**6):
        assert bounds.proposition_a1_floor(n) == pytest.approx(
            (1 - 2 / n) / (math.e + 1 - 2 / n) / (2 * math.log(n)), rel=1e-14
        )
    with pytest.raises(ValueError, match=r"log_n\[1\] is 1.0; it must be at least 1.098"):
        bounds.proposition_a1_floor_by_log([2.0, 1.0])


# ---- IPO far out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_ipo_claims_hold_far_out(seed):
    """Masses down to 1e-60, beta up to 1e6: the losses are as large as 1e17."""
    rng = np.random.default_rng(seed)
    n, size = 400, 3 + seed

    def rows():
        weight = 10.0 ** -rng.uniform(0, rng.choice([1.0, 12.0, 60.0]), size=(n, size))
        return weight / weight.sum(axis=1, keepdims=True)

    reward = rng.normal(size=(n, size)) * 10.0 ** rng.uniform(-6, 4, size=(n, 1))
    beta = np.maximum(10.0 ** rng.uniform(-3, 6, size=n), np.ptp(reward, axis=1) / 20)
    x = Labelled(rows(), rows(), reward, reward, beta, beta, np.ones(n, dtype=np.int64))
    assert x.valid().all()
    for name in ("excess loss of IPO", "population minimiser of IPO"):
        assert (by_name(DIRECT_CLAIMS, name).ratio(x) <= 1 + 1e-9).all()


# ---- POWER, displacement -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_entropy_optimum_agrees_with_a_general_optimizer(seed):
    x = tempered(Labelled.sample(9, np.random.default_rng(seed)).take(seed))
    v, beta, r = weights(x)[0], float(x.beta[0]), x.reward[0]

    def cost(logits):
        pi = softmax(logits)
        return -(pi @ r / beta - (v * pi) @ log_softmax(logits))

    found = minimize(cost, np.zeros(r.size), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(entropy_optimum(x, weights(x))[0], softmax(found.x), atol=1e-6)


def test_entropy_optimum_is_a_distribution():
    x = tempered(Labelled.sample(500, np.random.default_rng(0)))
    policy = entropy_optimum(x, weights(x))
    np.testing.assert_allclose(policy.sum(axis=1), 1.0, rtol=0, atol=1e-13)
    # Stationarity: r - beta v (1 + log pi) is the same for all responses.
    level = x.reward - x.beta[:, None] * weights(x) * (1.0 + np.log(policy))
    assert (np.ptp(level, axis=1) <= 1e-12 * (1.0 + x.beta + np.abs(x.reward).max(axis=1))).all()


def test_displacement_agrees_with_differences():
    claim = by_name(DISPLACEMENT_CLAIMS, "speed of the chosen response")
    x = claim.witness()
    p, g, beta = x.policy[0], np.array([0.5, 0.0, 1.0]), 1.0
    pull, step = beta * 0.5 * g[0], 1e-6

    def log_chosen(theta):
        weight = p * np.exp(theta * g)
        return np.log(weight[0] / weight.sum())

    slope = (log_chosen(step * pull) - log_chosen(-step * pull)) / (2 * step)
    assert claim.left(x)[0] == pytest.approx(slope, rel=1e-8)


# ---- rankings ------------------------------------------------------------------------------------


def test_ranking_scores_are_gradients():
    """Against differences of the log-likelihood, written as a recursion."""
    x = Ranked(np.array([[1.0, 0.2, -0.7, 0.4]]), np.array([[1.0, 0.0, 0.0, 0.0]]))

    def whole(reward, order):
        return sum(log_softmax(reward[list(order[i:])])[0] for i in range(len(order) - 1))

    def split(reward, order):
        return sum(
            np.log(expit(reward[a] - reward[b])) for a, b in itertools.combinations(order, 2)
        )

    for likelihood, scores in ((whole, ranking_scores(x)), (split, pair_scores(x))):
        for k, order in enumerate(orders(4)):
            for y in range(4):
                step = 1e-6 * (np.arange(4) == y)
                slope = (likelihood(x.reward[0] + step, order)
                         - likelihood(x.reward[0] - step, order)) / 2e-6  # fmt: skip
                assert scores[0, k, y] == pytest.approx(slope, abs=1e-8)
    logs = [whole(x.reward[0], order) for order in orders(4)]
    np.testing.assert_allclose(law(x)[0], np.exp(logs), rtol=1e-12)


def test_asymptotic_variances_agree_with_many_estimates():
    """Both estimates of 400 samples of 2000 rankings; within five standard errors of a variance."""
    rng, n, runs = np.random.default_rng(2), 2000, 400
    x = Ranked(np.array([[1.5, 1.0, -1.5]]), np.array([[0.0, 0.0, 1.0]]))
    counts = rng.multinomial(n, law(x)[0], size=runs)
    for scores, variance in ((ranking_scores, whole_variance), (pair_scores, split_variance)):
        reward = np.tile(x.reward, (runs, 1))
        for _ in range(12):  # Newton's method, the Hessian by differences of the mean score
            point = Ranked(reward, np.tile(x.direction, (runs, 1)))
            mean = np.einsum("nk,nki->ni", counts / n, scores(point))
            hessian = np.empty((runs, 3, 3))
            for y in range(3):
                moved = Ranked(reward + 1e-5 * (np.arange(3) == y), point.direction)
                hessian[:, :, y] = (
                    np.einsum("nk,nki->ni", counts / n, scores(moved)) - mean
                ) / 1e-5
            reward = reward - np.linalg.solve(hessian - 1 / 3, mean[:, :, None])[:, :, 0]
        estimates = (reward - reward.mean(axis=1, keepdims=True))[:, 2]
        expected = variance(x)[0]
        assert abs(n * estimates.var(ddof=1) / expected - 1) < 5 * math.sqrt(2 / runs)


# ---- comparisons, demonstrations, draws ----------------------------------------------------------


def test_every_side_wins_is_strong_connection():
    x = Tournaments.sample(300, np.random.default_rng(0))
    for wins, holds in zip(x.wins, every_side_wins(x.wins), strict=True):
        used = (wins + wins.T).sum(axis=1) > 0
        parts = connected_components(wins[np.ix_(used, used)], connection="strong")[0]
        assert holds == (parts == 1)
    assert 0.1 < every_side_wins(x.wins).mean() < 0.9


def test_expected_distance_of_a_clone_by_the_multinomial_law():
    expert, n = np.array([0.6, 0.3, 0.1]), 6
    total = 0.0
    for counts in itertools.product(range(n + 1), repeat=3):
        if sum(counts) == n:
            clone = (np.array(counts) + 1) / (n + 3)
            total += multinomial.pmf(counts, n, expert) * (expert @ np.log(expert / clone))
    assert expected_kl(expert[None], np.array([6.0]))[0] == pytest.approx(total, rel=1e-12)


def test_peaks_are_where_an_optimizer_finds_them():
    for claim in OVEROPTIMIZATION_CLAIMS[:2]:
        x = claim.witness()

        def gain(d, claim=claim, x=x):
            return -claim.left(replace(x, distance=np.array([d])))[0]

        found = minimize_scalar(gain, bounds=(1e-3, 100.0), method="bounded")
        assert -found.fun == pytest.approx(claim.right(x)[0], rel=1e-9)


def test_laws_of_draws_agree_with_sampling():
    """Best-of-n and rejection by 400 000 simulated runs; five standard errors."""
    x, runs = by_name(SCALING_CLAIMS, "law of inference-time pessimism").witness(), 400_000
    rng = np.random.default_rng(0)
    p, r, n = x.reference[0], x.reward_hat[0], int(x.n[0])
    draws = rng.choice(3, p=p, size=(runs, n + 1))
    ratio = optimum(x)[0] / p
    accepted = rng.random((runs, n)) < (ratio / ratio.max())[draws[:, :n]]
    first = np.where(accepted.any(axis=1), accepted.argmax(axis=1), n)
    taken = draws[np.arange(runs), first]
    top = draws[np.arange(runs), r[draws[:, :n]].argmax(axis=1)]
    for chosen, expected in ((taken, pessimistic(x)[0]), (top, best(x)[0])):
        shares = np.bincount(chosen, minlength=3) / runs
        assert (np.abs(shares - expected) < 5 * 0.5 / math.sqrt(runs)).all()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_scaling_claims_hold_on_single_instances(seed):
    x = Judged.sample(2, np.random.default_rng(seed))
    for claim in SCALING_CLAIMS:
        if claim.kind != "false":
            assert (claim.ratio(x) <= 1 + 1e-9).all(), claim.name


def test_regret_of_best_of_n_grows_with_the_error():
    """Neither part of the bound can be left out: each alone is violated."""
    claim = by_name(SCALING_CLAIMS, "regret of best-of-n")
    right = by_name(SCALING_CLAIMS, "best-of-n reaches what is covered").right
    hacked = by_name(SCALING_CLAIMS, "more draws never hurt").witness()
    assert replace(claim, right=right).ratio(hacked)[0] > 1.4
    covered = claim.witness()
    assert replace(claim, right=lambda x: claim.right(x) - right(x)).ratio(covered)[0] > 1.5


# ---- what an instance has to satisfy -------------------------------------------------------------


def test_valid_refuses_what_the_family_does_not_allow():
    x = Problems.sample(300, np.random.default_rng(0))
    assert x.valid().all()
    outside = single([1.0, 0.0], [0.0, 1.0], policy=[0.5, 0.5])
    assert not outside.valid()[0]
    y = Labelled.sample(300, np.random.default_rng(0))
    assert y.valid().all()
    assert (
        not replace(y, beta=np.ptp(y.reward, axis=1) / 21)
        .valid()[np.ptp(y.reward, axis=1) > 0]
        .any()
    )
    holed = np.where(np.arange(y.policy.shape[1]) == 0, 0.0, y.policy)
    assert not replace(y, policy=holed).valid().any()
    assert not replace(y, reference=holed).valid().any()
    z = InferenceProblems.sample(50, np.random.default_rng(0))
    assert z.valid().all()
    gone = np.where(np.arange(z.policy.shape[1]) == 0, 0.0, z.reference)
    assert not replace(z, reference=gone).valid().any()
    a = Rivals.sample(50, np.random.default_rng(0))
    assert a.valid().all()
    assert not replace(a, reference=0.0 * a.reference).valid().any()
    b = Comparisons.sample(50, np.random.default_rng(0))
    assert b.valid().all()
    assert not replace(b, opponents=0.0 * b.opponents).valid().any()
    assert a1.LogSizes(np.array([np.log(3.0), 1.0])).valid().tolist() == [True, False]
    curves = Curves(np.ones(2), np.array([1.0, 1e-3]), np.ones(2))
    assert curves.valid().tolist() == [True, False]
    ranked = Ranked(np.array([[3.0, 0.0], [4.0, 0.0], [0.0, 0.0]]),
                    np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]]))  # fmt: skip
    assert ranked.valid().tolist() == [True, False, False]
