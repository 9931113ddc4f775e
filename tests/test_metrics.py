"""Metrics of policies: each by another route, whatever the batch; and what they mean."""

import copy
import pickle
from dataclasses import fields

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim import (
    KL,
    ChiSquared,
    ContextualBandit,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
    concentrability,
    max_concentrability,
    population_pairs,
    proposition_a1,
    random_bandit,
    solve,
    total_variation,
    win_rate,
)
from rlhfsim import metrics as module
from rlhfsim.learners import DPO, RLHF, BestOfN
from rlhfsim.learners.together import LearnerBatch
from rlhfsim.metrics import METRICS, Metrics, Yardstick
from rlhfsim.sampling import sample_preferences
from rlhfsim.solvers import solve_high_precision

MIXED = ChiSquared() + 0.5 * KL()


def make_bandit(seed, *, prompts=3, responses=6, holes=False):
    """A bandit; with holes: rare, missing and unavailable responses, ties, an absent prompt."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(responses, 0.7), size=prompts)
    reward = rng.normal(size=(prompts, responses))
    rho = rng.dirichlet(np.ones(prompts))
    if not holes:
        return ContextualBandit(rho, p, reward)
    available = np.ones(p.shape, dtype=bool)
    available[0, -1] = False
    reward[0, -1] = 50.0
    p[0, -2:] = p[1, 0] = 0.0
    p /= p.sum(axis=1, keepdims=True)
    reward = np.where(available, np.round(reward), reward)
    if prompts > 2:
        rho[2] = 0.0
        rho /= rho.sum()
    return ContextualBandit(rho, p, reward, available=available)


def make_policies(bandit, seed, number=7):
    """Policies of all kinds: the reference, deterministic ones, sparse and spread ones."""
    rng = np.random.default_rng(seed)
    possible = bandit.reference > 0
    outside = np.ones(bandit.shape, bool) if bandit.available is None else bandit.available
    found = [bandit.reference, bandit.optimal_policy()]
    for k in range(number - 2):
        allowed = outside if k % 3 == 2 else possible
        weight = rng.gamma(0.3 if k % 2 else 2.0, size=bandit.shape) * allowed
        weight[weight < 0.01] = 0.0
        weight[weight.sum(axis=1) == 0] = bandit.reference[weight.sum(axis=1) == 0]
        found.append(weight / weight.sum(axis=1, keepdims=True))
    return np.stack(found)


def assert_equal(one, other):
    for name in METRICS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


# ---- each metric by another route ----------------------------------------------------------------


@pytest.mark.parametrize("holes", [False, True])
@given(seed=st.integers(0, 10**6))
def test_they_are_those_of_the_existing_functions(holes, seed):
    """Bit for bit, policy by policy."""
    bandit = make_bandit(seed, holes=holes)
    policies = make_policies(bandit, seed)
    comparator = make_policies(bandit, seed + 1)[3]
    found = Yardstick(bandit, comparator).measure(policies)
    default = Yardstick(bandit).measure(policies)
    p, r, rho = bandit.reference, bandit.reward, bandit.prompt_dist
    for i, pi in enumerate(policies):
        assert found.regret[i] == bandit.regret(pi, comparator)
        assert default.regret[i] == bandit.regret(pi)
        assert found.value[i] == bandit.value(pi)
        assert found.win_rate[i] == win_rate(pi, p, r, rho)
        assert found.win_rate_comparator[i] == win_rate(pi, comparator, r, rho)
        best = bandit.optimal_policy()
        assert default.win_rate_comparator[i] == win_rate(pi, best, r, rho)
        assert found.kl[i] == KL()(pi, p, rho)
        assert found.chi_squared[i] == ChiSquared()(pi, p, rho)
        assert found.concentrability[i] == concentrability(pi, p, rho)
        assert found.max_concentrability[i] == max_concentrability(pi, p, rho)
        assert found.support[i] == pytest.approx(rho @ (pi > 0).sum(axis=1), rel=1e-15)
    assert default.regret[1] == 0
    for name in ("regularized_gap", "distance", "bias", "estimation_error"):
        assert np.isnan(getattr(found, name)).all()


@pytest.mark.parametrize("holes", [False, True])
def test_they_are_those_of_the_formulas_in_50_digits(holes):
    bandit = make_bandit(11, holes=holes)
    policies = make_policies(bandit, 12)
    with mp.workdps(50):
        compare_with_formulas(bandit, policies)


def compare_with_formulas(bandit, policies):
    best = bandit.optimal_policy()
    found = Yardstick(bandit).measure(policies)
    X, Y = bandit.shape
    rho, p, r = bandit.prompt_dist, bandit.reference, bandit.reward

    def mean(of):
        return mp.fsum(mp.mpf(rho[x]) * of(x) for x in range(X) if rho[x] > 0)

    def close(number, expected):
        if mp.isinf(expected):
            assert number == np.inf
        else:
            assert abs(number - expected) <= 4e-15 * max(1, abs(expected))

    def over(total, x, pi):
        return total if not any(pi[x, y] > 0 and p[x, y] == 0 for y in range(Y)) else mp.inf

    for i, pi in enumerate(policies):
        w = [[mp.mpf(q) / mp.mpf(s) if s > 0 else mp.mpf(0) for q, s in zip(*rows, strict=True)]
             for rows in zip(pi, p, strict=True)]  # fmt: skip

        def wins(x, opponent, pi=pi):
            return mp.fsum(
                mp.mpf(pi[x, y]) * mp.mpf(opponent[x, z])
                * (1 if r[x, y] > r[x, z] else mp.mpf(1) / 2 if r[x, y] == r[x, z] else 0)
                for y in range(Y) for z in range(Y)
            )  # fmt: skip

        def entropy(x, pi=pi):
            return -mp.fsum(mp.mpf(q) * mp.log(q) for q in pi[x] if q > 0)

        def kl(x, pi=pi, w=w):
            total = mp.fsum(mp.mpf(pi[x, y]) * mp.log(w[x][y]) for y in range(Y) if w[x][y] > 0)
            # Of rows that sum to 1 only to rounding, as the divergence has it.
            total += mp.fsum(p[x].tolist()) - mp.fsum(pi[x].tolist())
            return over(total, x, pi)

        def squares(x, pi=pi, w=w):
            return over(mp.fsum(mp.mpf(pi[x, y]) * w[x][y] for y in range(Y)), x, pi)

        def chi(x, pi=pi, w=w):
            total = mp.fsum(mp.mpf(p[x, y]) * (w[x][y] - 1) ** 2 / 2 for y in range(Y))
            return over(total, x, pi)

        def value(x, pi=pi):
            return mp.fsum(mp.mpf(pi[x, y]) * mp.mpf(r[x, y]) for y in range(Y))

        close(found.value[i], mean(value))
        top = mean(lambda x: mp.fsum(mp.mpf(best[x, y]) * mp.mpf(r[x, y]) for y in range(Y)))
        close(found.regret[i], top - mean(value))
        close(found.win_rate[i], mean(lambda x, wins=wins: wins(x, p)))
        close(found.win_rate_comparator[i], mean(lambda x, wins=wins: wins(x, best)))
        close(found.kl[i], mean(kl))
        close(found.chi_squared[i], mean(chi))
        close(found.concentrability[i], mean(squares))
        close(found.max_concentrability[i],
              max(over(max(w[x]), x, pi) for x in range(X) if rho[x] > 0))  # fmt: skip
        close(found.entropy[i], mean(entropy))
        close(found.effective_support[i], mean(lambda x, h=entropy: mp.exp(h(x))))
        close(found.support[i], mean(lambda x, pi=pi: int((pi[x] > 0).sum())))


def test_numbers_that_are_known():
    """Two responses of mass 1/2 and rewards 1 and 0: all by hand."""
    bandit = ContextualBandit([1.0], [[0.5, 0.5]], [[1.0, 0.0]])
    pi = [[[1.0, 0.0]], [[0.5, 0.5]], [[0.0, 1.0]], [[0.75, 0.25]]]
    chi = (ChiSquared(), 1.0)
    found = Yardstick(bandit).measure(pi, regularizers=[chi] * 4)
    log2, rest = np.log(2), 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    expected = {
        "regret": [0, 0.5, 1, 0.25],
        "value": [1, 0.5, 0, 0.75],
        "win_rate": [0.75, 0.5, 0.25, 0.625],
        "win_rate_comparator": [0.5, 0.25, 0, 0.375],
        "kl": [log2, 0, log2, rest],
        "chi_squared": [0.5, 0, 0.5, 0.125],
        "concentrability": [2, 1, 2, 1.25],
        "max_concentrability": [2, 1, 2, 1.5],
        "entropy": [0, log2, 0, log2 - rest],
        "support": [1, 2, 1, 2],
        "effective_support": [1, 2, 1, 2 * np.exp(-rest)],
        # The optimum is (3/4, 1/4), of value 3/4 - 1/8.
        "regularized_gap": [0.125, 0.125, 1.125, 0],
        "distance": [0.25, 0.25, 0.75, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-15, atol=1e-16)
    assert not np.signbit(found.entropy).any()


# ---- regularized ---------------------------------------------------------------------------------


class Parabola(Divergence):
    """chi-squared as a user would write it, which cannot be hashed."""

    __hash__ = None

    def __repr__(self):
        return "Parabola()"

    @property
    def recession(self):
        return np.inf

    def perspective(self, policy, reference):
        return 0.5 * (np.asarray(policy) - reference) ** 2 / reference

    def link(self, ratio):
        return np.asarray(ratio) - 1.0

    def link_slope(self, ratio):
        return np.ones_like(np.asarray(ratio, dtype=float))


DIVERGENCES = [KL(), ChiSquared(), MIXED, 2 * KL(), ForwardKL(), JensenShannon(),
               SquaredHellinger(), Parabola(), ForwardKL() + KL()]  # fmt: skip


@given(seed=st.integers(0, 10**6), beta=st.floats(0.05, 20.0))
def test_the_kl_gap_is_beta_times_the_divergence_from_the_optimum(seed, beta):
    """`J_beta(pi_beta) - J_beta(pi) = beta KL(pi || pi_beta)` exactly."""
    bandit = make_bandit(seed)
    policies = make_policies(bandit, seed)
    found = Yardstick(bandit).measure(policies, regularizers=[(KL(), beta)] * len(policies))
    optimum = solve(bandit.reward, bandit.reference, KL(), beta).policy
    expected = beta * KL()(policies, optimum, bandit.prompt_dist)
    np.testing.assert_allclose(found.regularized_gap, expected, rtol=1e-13, atol=2e-15 * (5 + beta))
    away = total_variation(policies, optimum, bandit.prompt_dist)
    np.testing.assert_allclose(found.distance, away, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
def test_the_gap_is_that_of_the_objective(divergence):
    """By the optimum in 40 digits; no policy has a smaller gap than the optimum, which has 0."""
    bandit = make_bandit(3)
    policies = make_policies(bandit, 4, number=12)
    p, r, rho, beta = bandit.reference, bandit.reward, bandit.prompt_dist, 0.4
    yardstick = Yardstick(bandit)
    optimum = yardstick.regularized_optimum(divergence, beta)
    policies = np.concatenate([policies, [optimum], [0.99 * optimum + 0.01 * p]])
    found = yardstick.measure(policies, regularizers=[(divergence, beta)] * len(policies))
    base = ChiSquared() if isinstance(divergence, Parabola) else divergence
    precise = [
        solve_high_precision(*rows, base, beta, digits=40) for rows in zip(r, p, strict=True)
    ]
    top = sum(weight * float(one.value) for weight, one in zip(rho, precise, strict=True))
    attained = bandit.value(policies) - beta * base(policies, p, rho)
    expected = np.where(np.isinf(attained), np.inf, top - attained)
    np.testing.assert_allclose(found.regularized_gap, expected, atol=2e-14)
    assert found.regularized_gap[-2] == 0
    assert found.distance[-2] == 0
    assert (found.regularized_gap >= 0).all()
    assert 0 < found.regularized_gap[-1] < 0.1
    exact = np.array([[float(q) for q in one.policy] for one in precise])
    np.testing.assert_allclose(
        found.distance, 0.5 * np.abs(policies - exact).sum(axis=-1) @ rho, atol=1e-14
    )


def test_each_policy_has_its_own_regularizer():
    bandit = make_bandit(5)
    policies = make_policies(bandit, 6, number=8)
    pairs = [(KL(), 0.1), None, (MIXED, 0.1), (KL(), 2.0), (Parabola(), 2.0), None,
             (ChiSquared(), 2.0), (ChiSquared() + 0.5 * KL(), 0.1)]  # fmt: skip
    yardstick = Yardstick(bandit)
    found = yardstick.measure(policies, regularizers=pairs)
    for i, pair in enumerate(pairs):
        alone = Yardstick(bandit).measure(policies[i : i + 1], regularizers=[pair])
        assert_equal(alone, Metrics(**{k: v[i : i + 1] for k, v in found.columns().items()}))
    assert np.isnan(found.regularized_gap).tolist() == [pair is None for pair in pairs]
    # What is equal is solved once, what cannot be hashed too.
    one, other = Parabola(), Parabola()
    first = yardstick.regularized_optimum(one, 1.0)
    assert yardstick.regularized_optimum(one, 1.0) is first
    assert yardstick.regularized_optimum(other, 1.0) is not first
    assert yardstick.regularized_optimum(KL(), 0.1) is yardstick.regularized_optimum(KL(), 0.1)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_the_optimum_uses_no_response_that_is_not_available():
    """Even where the divergence allows mass outside the reference and the hole has reward 50."""
    there = [[True, True, True, False]]
    bandit = ContextualBandit([1.0], [[0.5, 0.5, 0, 0]], [[0, 0.1, 1, 50]], available=there)
    yardstick = Yardstick(bandit)
    optimum = yardstick.regularized_optimum(JensenShannon(), 0.1)
    assert optimum[0, 3] == 0
    assert optimum[0, 2] > 0.5
    found = yardstick.measure(
        [optimum, bandit.reference], regularizers=[(JensenShannon(), 0.1)] * 2
    )
    assert found.regularized_gap[0] == 0 < found.regularized_gap[1] < 1


def test_mass_outside_the_reference_costs_infinity():
    bandit = ContextualBandit([0.5, 0.5], [[0.5, 0.5, 0], [0.2, 0.3, 0.5]], np.eye(3)[:2])
    pi = np.array([[0.4, 0.4, 0.2], [0.2, 0.3, 0.5]])
    pairs = [(KL(), 1.0), (ChiSquared(), 1.0), (JensenShannon(), 1.0)]
    found = Yardstick(bandit).measure([pi] * 3, regularizers=pairs)
    for name in ("kl", "chi_squared", "concentrability", "max_concentrability"):
        assert np.isposinf(getattr(found, name)).all(), name
    assert np.isposinf(found.regularized_gap).tolist() == [True, True, False]
    assert np.isfinite(found.distance).all()


# ---- batches -------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), prompts=st.integers(1, 12), responses=st.integers(1, 70))
def test_a_policy_is_measured_the_same_in_any_batch(seed, prompts, responses):
    rng = np.random.default_rng(seed)
    bandit = make_bandit(seed, prompts=prompts, responses=responses)
    policies = make_policies(bandit, seed, number=int(rng.integers(3, 20)))
    pairs = [[None, (KL(), 0.3), (MIXED, 2.0), (JensenShannon(), 1.0)][k]
             for k in rng.integers(0, 4, len(policies))]  # fmt: skip
    yardstick = Yardstick(bandit)
    whole = yardstick.measure(policies, regularizers=pairs).columns()
    order = rng.permutation(len(policies))[: rng.integers(1, len(policies) + 1)]
    some = yardstick.measure(policies[order], regularizers=[pairs[i] for i in order])
    assert_equal(some, Metrics(**{name: column[order] for name, column in whole.items()}))
    # Nor does it depend on how the policies lie in memory.
    turned = np.asfortranarray(policies)
    assert_equal(yardstick.measure(turned, regularizers=pairs), Metrics(**whole))


def test_long_batches_are_cut(monkeypatch):
    bandit = make_bandit(2)
    policies = make_policies(bandit, 3, number=40)
    pairs = [(KL(), 0.3 + (i % 3)) if i % 4 else None for i in range(40)]
    whole = Yardstick(bandit).measure(policies, regularizers=pairs)
    for chunk in (1, 60, 18 * 7):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        assert_equal(Yardstick(bandit).measure(policies, regularizers=pairs), whole)


# ---- bias and estimation -------------------------------------------------------------------------


def test_infinite_data_leave_the_bias_alone():
    """Over all rewards the limit knows the truth: its regularized gap is 0, its regret is bias."""
    bandit = random_bandit(3, 5, np.random.default_rng(1))
    betas = (0.1, 1.0, 5.0)
    batch = LearnerBatch([*(RLHF(b, MIXED) for b in betas), *(DPO(b) for b in betas), BestOfN(4)])
    yardstick = Yardstick(bandit)
    limit = batch.fit(population_pairs(bandit), bandit.reference)
    population = yardstick.measure(limit.policies, regularizers=batch.regularizers)
    data = sample_preferences(bandit, 4000, np.random.default_rng(2))
    found = yardstick.measure(
        batch.fit(data, bandit.reference).policies,
        regularizers=batch.regularizers,
        population=population,
    )
    np.testing.assert_array_equal(found.bias, bandit.regret(limit.policies))
    np.testing.assert_array_equal(found.estimation_error, found.regret - found.bias)
    np.testing.assert_allclose(population.regularized_gap[:6], 0.0, atol=1e-12)
    np.testing.assert_allclose(population.distance[:6], 0.0, atol=1e-7)
    assert (found.regularized_gap[:6] > 1e-5).all()
    assert np.isnan(found.regularized_gap[6])
    # More regularization, more bias; what is left is estimation error, of either sign.
    assert (np.diff(found.bias[:3]) > 0.01).all()
    assert (np.diff(found.bias[3:6]) > 0.01).all()


def test_proposition_a1_shows():
    """Misled by a reward that the data cannot tell from the truth, KL spends its coverage."""
    instance = proposition_a1(1000)
    bandit, beta = instance.bandit, 0.02
    comparator = instance.comparator
    policies = [
        solve(instance.reward_class[1], bandit.reference, d, beta).policy
        for d in (KL(), ChiSquared())
    ]
    found = Yardstick(bandit, comparator).measure(
        [*policies, comparator], regularizers=[(KL(), beta), (ChiSquared(), beta), None]
    )
    kl, chi, best = range(3)
    assert found.concentrability[best] == 2
    assert found.regret[best] == 0
    assert found.regret[kl] > 0.4
    assert found.concentrability[kl] > 900
    assert found.regret[chi] < 0.1
    assert found.concentrability[chi] < 10
    assert found.distance[kl] > 0.9
    assert found.win_rate_comparator[kl] < 0.1


# ---- the list, the object, bad input -------------------------------------------------------------


def test_the_list_is_that_of_the_fields():
    assert list(METRICS) == [f.name for f in fields(Metrics)]
    assert all(metric.description and metric.label for metric in METRICS.values())
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)
    assert {metric.unit for metric in METRICS.values()} == {"reward units", "nats", "responses", ""}
    bandit = make_bandit(0)
    found = Yardstick(bandit).measure(make_policies(bandit, 0))
    assert list(found.columns()) == list(METRICS)
    assert {column.shape for column in found.columns().values()} == {(len(found),)}


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_they_are_read_only_and_stay_so(again):
    bandit = make_bandit(0)
    policies = make_policies(bandit, 0)
    comparator = policies[3].copy()
    yardstick = Yardstick(bandit, comparator)
    found = yardstick.measure(policies, regularizers=[(KL(), 1.0)] * len(policies))
    comparator[:] = np.nan
    assert_equal(again(found), found)
    assert_equal(again(yardstick).measure(policies, regularizers=[(KL(), 1.0)] * 7), found)
    for array in (again(found).regret, again(yardstick).comparator):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    policies.setflags(write=False)
    yardstick.measure(policies)


BANDIT = make_bandit(1)
GOOD = make_policies(BANDIT, 1, number=3)


def changed(value, index=(1, 2, 0)):
    policies = GOOD.copy()
    policies[index] = value
    return policies


@pytest.mark.parametrize(
    ("policies", "settings", "words"),
    [
        (changed(np.nan), {}, r"policies\[1, 2, 0\] is nan"),
        (changed(-0.1), {}, r"policies\[1, 2, 0\] is -0.1; probabilities must not be negative"),
        (2 * GOOD, {}, r"policies\[0, 0\] sums to 2.0"),
        (GOOD[0], {}, r"policies has shape \(3, 6\); it must be an \(m, X, Y\) array"),
        (GOOD[:, :2], {}, r"policies has shape \(3, 2, 6\)"),
        (GOOD[:0], {}, r"policies has shape \(0, 3, 6\)"),
        (GOOD, {"regularizers": [None] * 2}, "regularizers has 2 entries; it must have 3"),
        (GOOD, {"regularizers": [None, KL(), None]}, r"regularizers\[1\] is KL\(\)"),
        (GOOD, {"regularizers": [None, (1.0, KL()), None]}, r"regularizers\[1\] is \(1.0, KL"),
        (GOOD, {"regularizers": [(KL(), 0.0)] * 3}, r"beta of regularizers\[0\] is 0.0"),
        (GOOD, {"regularizers": [(KL(), np.nan)] * 3}, r"beta of regularizers\[0\] is nan"),
        (GOOD, {"regularizers": [(KL(), np.inf)] * 3}, r"beta of regularizers\[0\] is inf"),
        (GOOD, {"population": GOOD}, "population is a ndarray; it must be Metrics"),
        (GOOD, {"population": Yardstick(BANDIT).measure(GOOD[:2])}, "population has 2 entries"),
    ],
)
def test_bad_input_is_named(policies, settings, words):
    with pytest.raises(ValueError, match=words):
        Yardstick(BANDIT).measure(policies, **settings)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([],), "bandit is a list; it must be a ContextualBandit"),
        ((BANDIT, GOOD), r"comparator has shape \(3, 3, 6\)"),
        ((BANDIT, GOOD[0, :2]), r"comparator has shape \(2, 6\)"),
        ((BANDIT, GOOD[0] / 2), r"comparator\[0\] sums to 0.5"),
        (
            (make_bandit(1, holes=True), np.eye(6)[[5, 0, 0]]),
            r"comparator\[0, 5\] is 1.0; a response that the prompt does not have",
        ),
    ],
)
def test_bad_yardsticks_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        Yardstick(*arguments)
    with pytest.raises(ValueError, match="beta of regularizer is -1"):
        Yardstick(BANDIT).regularized_optimum(KL(), -1.0)
