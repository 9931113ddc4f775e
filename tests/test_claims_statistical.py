"""Rates and probabilities: confirmed, refuted when altered, and equal to other computations."""

import itertools
import math
from dataclasses import replace

import mpmath as mp
import numpy as np
import pytest
from scipy.special import expit, log_expit
from scipy.stats import binomtest, linregress
from scipy.stats import t as student

from rlhfsim import (
    KL,
    ContextualBandit,
    FiniteClass,
    dataset_law,
    fit_reward,
    proposition_a1,
    solve,
)
from rlhfsim.bounds import proposition_a1_floor
from rlhfsim.claims import chipo_data, consistency, learning_rates
from rlhfsim.claims import proposition_a1 as a1
from rlhfsim.claims.checking import CheckResult
from rlhfsim.claims.chipo_data import DATA_CLAIMS
from rlhfsim.claims.consistency import CONSISTENCY_CLAIMS, Rivals
from rlhfsim.claims.learning_rates import LEARNING_RATE_CLAIMS
from rlhfsim.claims.proposition_a1 import PROPOSITION_A1_CLAIMS
from rlhfsim.claims.slopes import fit_slope
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim
from rlhfsim.laws import population_pairs
from rlhfsim.losses import dpo, dpo_without_log, log_policy_loss
from rlhfsim.repro.proposition_a1 import wrong_reward_law

CLAIMS = (*PROPOSITION_A1_CLAIMS, *DATA_CLAIMS, *LEARNING_RATE_CLAIMS, *CONSISTENCY_CLAIMS)
RATES = [c for c in CLAIMS if isinstance(c, RateClaim)]
PROBABILITIES = [c for c in CLAIMS if isinstance(c, ProbabilityClaim)]


def named(name):
    return next(c for c in CLAIMS if c.name == name)


def fewer(claim, runs=400):
    return claim if claim.exact is not None else replace(claim, replications=runs)


# ---- every claim ---------------------------------------------------------------------------------


def test_names_are_unique_and_every_claim_has_a_source():
    assert len({c.name for c in CLAIMS}) == len(CLAIMS) == 16
    assert all(c.source and c.formula and c.name == c.name.strip() for c in CLAIMS)
    assert {c.kind for c in RATES} == {"rate"}
    assert {c.kind for c in PROBABILITIES} == {"high_probability"}


@pytest.mark.parametrize("claim", RATES, ids=lambda c: c.name)
def test_rates_hold(claim):
    result = claim.check(1000, 1)
    assert isinstance(result, CheckResult)
    assert result.passed, result.verdict
    assert result.worst <= 1 + 1e-12
    assert result.instances == len(claim.sizes) * claim.replications
    assert f"claimed {claim.exponent:g}: holds" in result.verdict
    assert f"for {claim.variable} = " in result.verdict


@pytest.mark.parametrize("claim", PROBABILITIES, ids=lambda c: c.name)
def test_probabilities_hold(claim):
    claim = fewer(claim)
    result = claim.check(1000, 1)
    assert isinstance(result, CheckResult)
    assert result.passed, result.verdict
    assert result.worst <= 1
    assert result.verdict.endswith(f"claimed {claim.bound} {claim.delta:.4g}: holds")


def test_results_are_a_function_of_the_seed():
    claim = named("tabular maximum likelihood error")
    claim = replace(claim, sizes=(1e3, 2e3, 4e3), replications=3)
    one, again, other = (replace(claim.check(10, seed), seconds=0.0) for seed in (1, 1, 2))
    assert one == again != other
    # A value depends on its size and replication alone, not on what else is measured.
    more = replace(claim, sizes=(1e3, 2e3, 3e3, 4e3), replications=4)
    np.testing.assert_array_equal(more.values(1)[:3, [0, 1, 3]], claim.values(1))
    claim = fewer(named("the wrong reward is learned with constant probability"), 100)
    one, again, other = (replace(claim.check(10, seed), seconds=0.0) for seed in (1, 1, 2))
    assert one == again != other


# ---- altered constants are caught ----------------------------------------------------------------


def test_bounds_of_rates_are_caught_when_altered():
    def scaled(function, factor):
        return lambda n: factor * function(n)

    claim = named("KL regret falls like 1/log n at the best beta")
    wrong = replace(claim, floor=scaled(claim.floor, 1.01)).check()
    assert not wrong.passed
    assert "VIOLATED: a bound fails" in wrong.verdict
    for name, weight, share in (
        ("chi-squared regret falls like 1/sqrt n", 0.0, 0.5),
        # Of the KL term of the sharp bound little is paid here.
        ("mixed regret falls like 1/sqrt n", 1.0, 0.25 / (0.5 + math.log(2))),
    ):
        claim = named(name)
        for altered in (
            {"floor": scaled(claim.floor, 1.06)}, {"ceiling": scaled(claim.ceiling, 0.94)},
        ):  # fmt: skip
            assert "bound fails" in replace(claim, **altered).check().verdict
        last = claim.sizes[-1]
        used = claim.measure(last, None) / a1.wrong_bound(last, weight)
        assert used == pytest.approx(share, rel=1e-4)


def test_half_the_constant_fails_for_close_rewards():
    """The exact claims at delta = 1e-30: on the scale of log(1/delta) the constant is right."""
    for make in (chipo_data.close_rewards_claim, chipo_data.close_regret_claim):
        for constant in (0.5, 0.9):
            wrong = make(constant=constant).check()
            assert not wrong.passed
            assert wrong.verdict.endswith("VIOLATED")
        # A tenth of delta moves log(2/delta) by 3 %, and the factor before the exponential is
        # below 1/100: not tight in delta itself.
        assert replace(make(), delta=1e-31).check().passed
        assert not replace(make(), delta=1e-33).check().passed


def test_the_sampled_bounds_fail_with_a_smaller_constant():
    """At delta = 0.2 the union bound and the exponential bound leave room: not for all of it."""
    exceeds = [chipo_data.error_exceeds(0.2, c).sum() for c in (1.0, 0.24)]
    assert exceeds == [4, 7]
    wrong = fewer(chipo_data.finite_class_claim(constant=0.24), 1000).check(0, 1)
    assert not wrong.passed
    wrong = fewer(chipo_data.finite_class_claim(delta=0.02, constant=0.24), 400).check(0, 1)
    assert wrong.verdict.endswith("VIOLATED")
    # The true probability is about 0.001: a claim of less is not confirmed.
    assert not replace(fewer(chipo_data.finite_class_claim()), delta=0.002).check(0, 1).passed
    wrong = fewer(chipo_data.chi_squared_rlhf_claim(delta=0.02, constant=0.2), 1000).check(0, 1)
    assert not wrong.passed


def test_a_set_of_a_larger_delta_misses_too_often():
    assert chipo_data.tight_coverage_claim().check().worst == pytest.approx(0.5, abs=1e-5)
    for factor in (0.1, 0.49):
        wrong = chipo_data.tight_coverage_claim(0.1 * factor, 0.1).check()
        assert wrong.verdict.endswith("VIOLATED")
    # Markov's inequality is loose where the likelihood ratio takes many values.
    assert chipo_data.coverage_claim(0.02, 0.2).check().passed
    assert not chipo_data.coverage_claim(0.008, 0.2).check().passed


def test_a_tenfold_probability_of_the_wrong_reward_is_refuted():
    claim = fewer(named("the wrong reward is learned with constant probability"))
    wrong = replace(claim, delta=10 * claim.delta).check(0, 1)
    assert wrong.verdict.endswith("VIOLATED")


def test_the_floor_at_every_beta_is_tight_and_not_twice_as_high():
    claim = named("KL regret has a floor at every beta")
    result = claim.check(2000, 3)
    assert result.passed
    assert result.witness > 0.9999
    wrong = replace(claim, right=lambda x: 1.001 * a1.kl_floor(x.log_n))
    assert wrong.ratio(claim.witness())[0] > 1


def test_consistency_claims_hold_and_fail():
    right, wrong = CONSISTENCY_CLAIMS
    result = right.check(2000, 3)
    assert result.passed
    assert 0.999999 < result.witness <= 1
    result = wrong.check(2000, 3)
    assert (result.verdict, result.passed) == ("false", True)
    assert result.witness > 1.9


# ---- the classes ---------------------------------------------------------------------------------


def test_slope_of_one_replication_is_that_of_a_regression():
    rng = np.random.default_rng(0)
    sizes = np.array([10.0, 30.0, 200.0, 1e3, 1e5])
    values = 3.0 * sizes**-0.7 * np.exp(0.1 * rng.standard_normal((1, 5)))
    slope = fit_slope(sizes, values, 0.95)
    want = linregress(np.log(sizes), np.log(values[0]))
    half = student.ppf(0.975, 3) * want.stderr
    np.testing.assert_allclose(slope, (want.slope, want.slope - half, want.slope + half), rtol=1e-9)
    assert slope.half_width == pytest.approx(half, rel=1e-9)
    exact = fit_slope(sizes, 3.0 * sizes[None] ** -0.7, 0.95)
    np.testing.assert_allclose(exact, (-0.7, -0.7, -0.7), rtol=1e-12)


def test_interval_of_replications_covers_the_exponent_as_often_as_it_says():
    rng = np.random.default_rng(1)
    sizes, covered, runs = np.geomspace(10.0, 1e4, 5), 0, 2000
    for _ in range(runs):
        noise = np.exp(rng.standard_normal((6, 5)))
        slope = fit_slope(sizes, sizes**-0.5 * noise, 0.9)
        covered += slope.low <= -0.5 <= slope.high
    interval = binomtest(covered, runs).proportion_ci(0.999, method="exact")
    assert interval.low <= 0.9 <= interval.high


def rate(measure, **more):
    settings = {"exponent": -1.0, "sizes": (10.0, 100.0, 1000.0)} | more
    return RateClaim("r", "f", "s", measure=measure, **settings)


def test_rate_of_a_known_power():
    result = rate(lambda n, _: 2.0 / n).check()
    assert result.verdict == "slope -1.0000 [-1.0000, -1.0000] for n = 10..10^3, claimed -1: holds"
    assert result.details == "value x n^(1) from 2 to 2"
    assert (result.instances, result.passed, result.formula) == (3, True, "f")
    assert result.measured == pytest.approx(-1.0, abs=1e-12)
    # The tolerance is for terms of lower order: 4 % passes, 8 % does not.
    assert rate(lambda n, _: n**-1.04).check().passed
    assert not rate(lambda n, _: n**-1.08).check().passed
    assert rate(lambda n, _: n**-1.08, tolerance=0.1).check().passed
    result = rate(lambda n, _: 2.0 / n, floor=lambda n: 1.5 / n, ceiling=lambda n: 2.5 / n).check()
    assert result.worst == pytest.approx(0.8)
    assert result.details.endswith("at most 0.8 of its bounds")
    for bound in ({"floor": lambda n: 2.1 / n}, {"ceiling": lambda n: 1.9 / n}):
        assert not rate(lambda n, _: 2.0 / n, **bound).check().passed


def test_noise_that_hides_the_exponent_confirms_nothing():
    def measure(n, rng):
        return math.exp(rng.normal(scale=2.0)) / n

    result = rate(measure, replications=4).check(0, 1)
    assert not result.passed
    assert result.verdict.endswith("undecided: the interval is too wide")
    assert rate(measure, replications=2000).check(0, 1).passed


def probability(delta, count, **more):
    return ProbabilityClaim("p", "f", "s", delta, lambda runs, rng: count, **more)


@pytest.mark.parametrize(
    ("count", "bound", "outcome"),
    [(10, "at most", "holds"), (100, "at most", "undecided"), (200, "at most", "VIOLATED"),
     (10, "at least", "VIOLATED"), (100, "at least", "undecided"), (200, "at least", "holds")],
)  # fmt: skip
def test_probability_of_a_known_count(count, bound, outcome):
    result = probability(0.1, count, bound=bound, replications=1000).check()
    interval = binomtest(count, 1000).proportion_ci(0.999, method="exact")
    assert (result.passed, result.measured) == (outcome == "holds", count / 1000)
    assert result.verdict == (
        f"{count} of 1000 = {count / 1000:.4g} [{interval.low:.4g}, {interval.high:.4g}], "
        f"claimed {bound} 0.1: {outcome}"
    )
    worst = interval.high / 0.1 if bound == "at most" else 0.1 / interval.low
    assert result.worst == pytest.approx(worst, rel=1e-12)


def test_exact_probability_is_compared_without_an_interval():
    for value, bound, passed in [
        (0.1, "at most", True), (0.1 + 1e-9, "at most", False), (0.1, "at least", True),
        (0.1 - 1e-9, "at least", False), (0.0, "at most", True), (0.0, "at least", False),
    ]:  # fmt: skip
        claim = ProbabilityClaim("p", "f", "s", 0.1, exact=lambda v=value: v, bound=bound)
        assert claim.check().passed == passed
    assert probability(0.5, 0, bound="at least", replications=5).check().worst == math.inf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rate(None, sizes=(1.0, 2.0)), "3 or more increasing sizes"),
        (lambda: rate(None, sizes=(1.0, 3.0, 2.0)), "3 or more increasing sizes"),
        (lambda: rate(None, sizes=(0.0, 3.0, 4.0)), r"sizes\[0\] is 0\.0; it must be positive"),
        (lambda: rate(None, replications=0), "replications is 0; it must be at least 1"),
        (lambda: rate(None, tolerance=-0.1), "tolerance is -0.1"),
        (lambda: rate(None, confidence=1.0), r"confidence is 1\.0; it must be in \(0, 1\)"),
        (lambda: rate(lambda n, _: 0.0).check(), r"measure\(10\.0\) is 0\.0 for claim 'r'"),
        (lambda: rate(lambda n, _: math.nan).check(), r"measure\(10\.0\) is nan for claim 'r'"),
        (lambda: probability(1.0, 0), r"delta is 1\.0; it must be in \(0, 1\)"),
        (lambda: probability(0.1, 0, exact=lambda: 0.1), "exactly one of them must be given"),
        (lambda: ProbabilityClaim("p", "f", "s", 0.1), "exactly one of them must be given"),
        (lambda: probability(0.1, 0, bound="below"), "bound is 'below'; it must be 'at most'"),
        (lambda: probability(0.1, 6, replications=5).check(), r"violations\(5, rng\) is 6"),
        (lambda: probability(0.1, -1).check(), r"violations\(...\) is -1; it must be at least 0"),
        (
            lambda: ProbabilityClaim("p", "f", "s", 0.1, exact=lambda: 1.5).check(),
            r"exact\(\) is 1\.5 for claim 'p'; it must be a probability",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- Proposition A.1 by other routes -------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 10, 1000, 10**8, 10**15])
def test_kl_regret_as_a_function_of_log_n_is_that_of_the_solver(n):
    instance = proposition_a1(n)
    betas = np.geomspace(1e-2, 1e12, 4001)

    def solved(betas):
        learned = instance.reward_class[1]
        policy = solve(learned, instance.bandit.reference, KL(), betas[:, None]).policy
        return instance.bandit.regret(policy, instance.comparator)

    log_n = np.array([[np.log(n)]])
    regret = solved(betas)
    np.testing.assert_allclose(a1.kl_regret(log_n, log_n - 0.5 / betas)[0], regret, rtol=1e-10)
    least = a1.least_kl_regret(log_n[:, 0])[0]
    best = int(regret.argmin())
    closer = solved(np.linspace(betas[max(best - 1, 0)], betas[min(best + 1, 4000)], 2001))
    assert least == pytest.approx(closer.min(), rel=1e-7)
    assert a1.kl_floor(log_n)[0, 0] == pytest.approx(proposition_a1_floor(n), rel=1e-13)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_rare_response_unseen_by_enumeration(n):
    law = dataset_law(proposition_a1(n).bandit, n, merge_equal=False)
    unseen = math.fsum(
        probability
        for probability, data in law.datasets()
        if not ((data.chosen == 2) | (data.rejected == 2)).any()
    )
    assert a1.unseen_probability(n)[0] == pytest.approx(unseen, rel=1e-12)
    assert unseen == pytest.approx((1 - 1 / n) ** (2 * n), rel=1e-12)


def test_rare_response_unseen_keeps_the_digits_of_the_distance():
    for n in (3, 100, 10**8):
        with mp.workdps(40):
            exact = mp.exp(-2) - (1 - mp.mpf(1) / n) ** (2 * n)
        probability, distance = a1.unseen_probability(float(n))
        assert probability == pytest.approx(float(mp.exp(-2) - exact), rel=1e-13)
        assert distance == pytest.approx(float(exact), rel=1e-6)


def test_wrong_fits_are_as_frequent_as_their_law():
    count = a1.wrong_fits(1000, 1000, np.random.default_rng(5))
    interval = binomtest(count, 1000).proportion_ci(0.999, method="exact")
    assert interval.low <= wrong_reward_law(1000).probability <= interval.high


# ---- data claims by other routes -----------------------------------------------------------------


def test_wrong_of_two_by_enumeration():
    gap, n = 0.9, 12
    bandit = ContextualBandit([1.0], [[0.5, 0.5]], [[gap, 0.0]])
    model = FiniteClass(np.array([[[gap, 0.0]], [[0.0, 0.0]]]))

    def wrong(counts):
        fit = fit_reward(counts, model)
        return fit.index == 1 and len(fit.tied) == 1

    exact = dataset_law(bandit, n).probability_of(wrong)
    assert chipo_data.wrong_of_two(n, gap) == pytest.approx(exact, rel=1e-12)


def test_close_rewards_are_at_their_bound():
    gap = chipo_data.close_gap(1e-30, 1.0)
    slope = expit(gap) * expit(-gap)
    assert gap**2 / 4 == pytest.approx(math.log(2e30) / (1e5 * slope**2), rel=1e-9)


def test_class_problem_is_at_its_bounds():
    problem = chipo_data.class_problem(0.2)
    p = np.array([0.4, 0.3, 0.2, 0.1])
    error = (problem.rewards - problem.rewards[0])[:, 0]
    norms = np.sqrt(((error - (error @ p)[:, None]) ** 2) @ p)
    np.testing.assert_allclose(norms / problem.epsilon, [0, 1, 0.5, 1, 0.5, 1, 0.5, 1], atol=1e-8)
    gap = np.ptp(problem.rewards, axis=-1).max()
    slope = expit(gap) * expit(-gap)
    assert problem.epsilon**2 == pytest.approx(math.log(40) / (1e4 * slope**2), rel=1e-9)
    # The regret of the reward 0 is that of the reference, and the bound is attained there.
    assert chipo_data.regret_exceeds(0.2, 1.0).tolist() == [False, True] + [False] * 6
    truth = problem.rewards[0, 0]
    coverage = (1 / 16 / p).sum()
    assert truth @ (0.25 - p) == pytest.approx(math.sqrt(coverage - 1) * problem.epsilon, rel=1e-8)


def test_missed_sets_by_enumeration_of_sequences():
    """All 7^3 sequences of outcomes, and the definition of the set."""
    p, reward, delta, n = np.array([0.5, 0.3, 0.2]), np.array([2.0, 0.5, 0.0]), 0.9, 3
    rewards = np.stack([reward, 4.0 * reward, -2.0 * reward])
    outcomes = [(w, l) for w in range(3) for l in range(3) if w != l]
    chance = [2 * p[w] * p[l] * expit(reward[w] - reward[l]) for w, l in outcomes]
    logs = [log_expit(rewards[:, w] - rewards[:, l]) for w, l in outcomes]
    chance.append(float(p @ p))
    logs.append(np.zeros(3))
    total = 0.0
    for row in itertools.product(range(7), repeat=n):
        likelihood = sum(logs[k] for k in row)
        if likelihood[0] < likelihood.max() - math.log(3 / delta):
            total += math.prod(chance[k] for k in row)
    bandit = ContextualBandit([1.0], p[None], reward[None])
    model = FiniteClass(rewards[:, None])
    assert total > 0.01
    assert chipo_data.missed(bandit, n, model, delta) == pytest.approx(total, rel=1e-12)


def test_constant_of_the_tabular_rate_is_the_inverse_information():
    """`n E[eps_c^2]` tends to `E_x tr(I^+ Cov_p)`: not the rate alone is right."""
    bandit = learning_rates.tabular_problem()
    trace = 0.0
    for mass, p, reward in zip(bandit.prompt_dist, bandit.reference, bandit.reward, strict=True):
        gap = reward[:, None] - reward
        weight = mass * 2 * np.outer(p, p) * expit(gap) * expit(-gap)
        np.fill_diagonal(weight, 0.0)
        information = np.diag(weight.sum(axis=1)) - weight
        covariance = np.diag(p) - np.outer(p, p)
        trace += mass * np.trace(np.linalg.pinv(information) @ covariance)
    rng, n = np.random.default_rng(6), 10**4
    squares = np.array([learning_rates.tabular_error(n, rng) ** 2 for _ in range(200)]) * n
    assert abs(squares.mean() - trace) < 4 * squares.std() / math.sqrt(200)
    assert squares.std() / math.sqrt(200) < 0.1 * trace


def test_regret_around_a_clone_in_closed_form():
    """Smoothing alone leaves `1/(N(x) + 6)` on each other response, tilted by `e^(r/beta)`."""
    bandit, n = learning_rates.expert_problem(), 10**5
    best = bandit.reward.max(axis=1, keepdims=True)
    weight = np.exp((bandit.reward - best) / 0.5)
    weight[bandit.reward == best] *= n * bandit.prompt_dist + 1
    policy = weight / weight.sum(axis=1, keepdims=True)
    want = float(bandit.regret(policy))
    got = learning_rates.demonstrated_regret(n, np.random.default_rng(0))
    assert got == pytest.approx(want, rel=0.02)


# ---- consistency by another route ----------------------------------------------------------------


def test_population_loss_of_a_batch_is_that_of_each_bandit():
    x = Rivals.sample(30, np.random.default_rng(2))
    for k in range(len(x)):
        one = x.take(k)
        bandit = ContextualBandit([1.0], one.reference, one.reward)
        law = population_pairs(bandit)
        logs = np.log(one.reference)
        for loss, tied in ((dpo(1.0), math.log(2)), (dpo_without_log(1.0), -0.5)):
            want = log_policy_loss(loss, logs + one.rival, logs, law) - law.equal_pairs * tied
            got = consistency.population_loss(x, loss, x.rival)[k]
            assert got == pytest.approx(want, rel=1e-11, abs=1e-13)


def test_the_misranked_share_written_out():
    p, r, s = np.array([0.2, 0.3, 0.5]), np.array([1.0, 0.0, -0.5]), np.array([2.0, 0.5, 0.0])
    want = sum(
        p[i] * p[j] * (expit(r[i] - r[j]) * expit(s[j] - s[i])
                       + expit(r[j] - r[i]) * expit(s[i] - s[j]))
        for i in range(3) for j in range(3) if i != j
    )  # fmt: skip
    x = Rivals(p[None], r[None], s[None])
    assert consistency.misranked(x, x.rival)[0] == pytest.approx(want, rel=1e-13)
