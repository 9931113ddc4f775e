"""Online RLHF with linear rewards: against a loop in numpy and scipy, and in the limits."""

import math
import pickle
import subprocess
import sys

import mpmath
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logsumexp, ndtri

from rlhfsim import KL, ContextualBandit, Linear, PreferenceData, fit_reward, solve, threads
from rlhfsim.data import PairCounts
from rlhfsim.data.counts import as_counts
from rlhfsim.instances import log_linear_bandit
from rlhfsim.online import (
    EXPLORATIONS,
    BootstrapEnsemble,
    Enhancer,
    FixedPolicy,
    FromReference,
    LaplaceEnsemble,
    LinearProblem,
    OnPolicy,
    TheoryRadius,
    Uniform,
    most_uncertain_policy,
    run_linear,
)
from rlhfsim.online.gaps import regularized_gap
from rlhfsim.online.linear.shared import _cumulative
from rlhfsim.preferences import BradleyTerry, LabelNoise
from rlhfsim.rewards.confidence import ellipsoid
from rlhfsim.rewards.features import design_covariance
from rlhfsim.sampling import sample_preferences

NOTHING = PairCounts(*(np.empty(0, np.int64),) * 3, np.empty(0), 0.0, (3, 5))


def instance(seed=0, d=3, prompts=3, responses=5):
    return log_linear_bandit(
        prompts, responses, d, np.random.default_rng(seed), norm=2.0, reference_norm=1.0
    )


def problem(beta=0.2, **settings):
    built = instance()
    bandit = ContextualBandit([0.5, 0.3, 0.2], built.bandit.reference, built.bandit.reward)
    return LinearProblem(
        bandit, built.features, beta, **({"parameter": built.parameter} | settings)
    )


def rngs(*seeds):
    return [np.random.default_rng(seed) for seed in seeds]


SHARED = np.random.default_rng(0)


def same(one, other):
    for name in one.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


# ---- a loop in numpy -----------------------------------------------------------------------------


class Loop:
    """The rounds once more: dense counts, `fit_reward`, `solve`, and scipy for a bootstrap."""

    def __init__(self, given, how, batch, moving, offline):
        self.given, self.how, self.batch, self.moving = given, how, batch, moving
        self.phi, self.rho = given.features, given.bandit.prompt_dist
        self.rows = [] if offline is None else list(
            zip(offline.prompt, offline.chosen, offline.rejected, strict=True)
        )  # fmt: skip
        self.anchor = given.bandit.reference

    def data(self):
        if not self.rows:
            return NOTHING
        x, y, z = np.array(self.rows).T
        return PreferenceData(x, y, z, self.given.bandit.shape)

    def estimate(self):
        fit = fit_reward(self.data(), Linear(self.phi, ridge=self.given.ridge))
        return fit.parameter, fit.information

    def sigma(self):
        return design_covariance(self.data(), self.phi, self.given.weight)

    def gibbs(self, theta):
        return solve(self.phi @ theta, self.anchor, KL(), self.given.beta).policy

    def second(self, main, theta, information, extra):
        how, p = self.how, self.given.bandit.reference
        if isinstance(how, Enhancer):
            found = most_uncertain_policy(
                main, self.phi, self.sigma(), beta=self.given.beta, radius=how.radius,
                prompt_dist=self.rho, steps=0,
            )  # fmt: skip
            return found.policy
        if isinstance(how, LaplaceEnsemble):
            normal = ndtri(extra + 2.0**-54).reshape(how.members, -1)
            factor = np.linalg.cholesky(information)
            drawn = [self.gibbs(theta + how.scale * np.linalg.solve(factor.T, z)) for z in normal]
            return max(drawn, key=lambda q: self.uncertainty(q, main))
        if isinstance(how, BootstrapEnsemble):
            return self.gibbs(self.member(min(int(extra[0] * how.members), how.members - 1)))
        if isinstance(how, FixedPolicy):
            return how.policy
        return {FromReference: p, Uniform: (p > 0) / (p > 0).sum(1, keepdims=True), OnPolicy: main}[
            type(how)
        ]

    def member(self, k):
        ridge, centre, weight = self.given.ridge, self.centres[k], np.array(self.weights)
        if not self.rows:
            return centre
        x, y, z = np.array(self.rows).T
        apart, w = self.phi[x, y] - self.phi[x, z], weight[:, k]

        def loss(theta):
            m = apart @ theta
            value = w @ np.logaddexp(0.0, -m) + 0.5 * ridge * ((theta - centre) ** 2).sum()
            return value, -(w * expit(-m)) @ apart + ridge * (theta - centre)

        return minimize(loss, centre, jac=True, method="BFGS", options={"gtol": 1e-11}).x

    def uncertainty(self, q, main):
        v = np.einsum("x,xy,xyd->d", self.rho, q - main, self.phi)
        return math.sqrt(v @ np.linalg.solve(self.sigma(), v))

    def run(self, rounds, rng):
        given, how, m, d = self.given, self.how, self.batch, self.phi.shape[2]
        extra = 0
        if isinstance(how, LaplaceEnsemble):
            extra = how.members * d
        elif isinstance(how, BootstrapEnsemble):
            extra = 1 + how.members * m
            scale = how.prior_scale / math.sqrt(given.ridge)
            self.centres = scale * rng.standard_normal((how.members, d))
            self.weights = []
        draws, kept = rng.random((rounds, 4 * m + extra)), []
        for row in draws:
            theta, information = self.estimate()
            main = self.gibbs(theta)
            q = self.second(main, theta, information, row[4 * m :])
            kept.append((given.bandit.regret(main), self.lost(main), self.uncertainty(q, main)))
            for i in range(m):
                u = row[4 * i : 4 * i + 4]
                x = np.searchsorted(np.cumsum(self.rho), u[0], side="right")
                y = np.searchsorted(np.cumsum(main[x]), u[1], side="right")
                z = np.searchsorted(np.cumsum(q[x]), u[2], side="right")
                if y != z:
                    up = u[3] < given.law.probability([x], [y], [z])[0]
                    self.rows.append((x, y, z) if up else (x, z, y))
                    if isinstance(how, BootstrapEnsemble):
                        first = 4 * m + 1 + i * how.members
                        self.weights.append(-np.log1p(-row[first : first + how.members]))
            if self.moving:
                self.anchor = main
        theta, _ = self.estimate()
        return np.array(kept).T, theta, self.gibbs(theta)

    def lost(self, policy):
        bandit, beta = self.given.bandit, self.given.beta
        best = solve(bandit.reward, bandit.reference, KL(), beta).policy
        j = [bandit.value(q) - beta * KL()(q, bandit.reference, self.rho) for q in (best, policy)]
        return float(j[0] - j[1])


CASES = [
    (Enhancer(0.5, steps=0), 1, False), (Enhancer(2.0, steps=0), 3, True),
    (FromReference(), 2, False), (Uniform(), 1, True), (OnPolicy(), 2, True),
    (LaplaceEnsemble(3, 0.7), 1, False), (BootstrapEnsemble(2, 0.5), 2, False),
    (FixedPolicy(np.full((3, 5), 0.2)), 1, False),
]  # fmt: skip


@pytest.mark.parametrize(("how", "batch", "moving"), CASES)
@pytest.mark.parametrize("hybrid", [False, True])
def test_rounds_are_those_of_a_loop(how, batch, moving, hybrid):
    given = problem(ridge=0.7)
    offline = None
    if hybrid and not isinstance(how, BootstrapEnsemble):
        offline = sample_preferences(given.bandit, 12, np.random.default_rng(5))
    loop = Loop(given, how, batch, moving, offline)
    kept, theta, policy = loop.run(8, np.random.default_rng(1))
    found = run_linear(
        given, 8, rngs(1), exploration=how, batch=batch, moving=moving, offline=offline
    )
    np.testing.assert_allclose(found.regret[0], kept[0], atol=1e-9)
    np.testing.assert_allclose(found.regularized_regret[0], kept[1], atol=1e-9)
    np.testing.assert_allclose(found.uncertainty[0], kept[2], atol=1e-7)
    np.testing.assert_allclose(found.parameter[0], theta, atol=1e-8)
    np.testing.assert_allclose(found.policy[0], policy, atol=1e-8)
    made = 0 if offline is None else as_counts(offline).count.sum()
    assert found.informative[0, -1] == as_counts(loop.data()).count.sum() - made
    assert found.comparisons.tolist() == [batch * (t + 1) for t in range(8)]
    assert found.slope[0] <= 1e-11


def test_other_labels_are_drawn_by_their_table():
    given = problem()
    noisy = LabelNoise(BradleyTerry(given.bandit.reward, 0.5), 0.1)
    for law in (noisy, BradleyTerry(given.bandit.reward, 0.3)):
        changed = problem(labels=law)
        loop = Loop(changed, Uniform(), 2, False, None)
        kept, theta, _ = loop.run(20, np.random.default_rng(3))
        found = run_linear(changed, 20, rngs(3), exploration=Uniform(), batch=2)
        np.testing.assert_allclose(found.parameter[0], theta, atol=1e-8)
        np.testing.assert_allclose(found.regret[0], kept[0], atol=1e-9)


def test_offline_weights_of_a_bootstrap_are_of_the_right_law():
    given = problem()
    data = sample_preferences(given.bandit, 300, np.random.default_rng(0))
    how = BootstrapEnsemble(1)
    found = run_linear(given, 1, rngs(*range(400)), exploration=how, offline=data).uncertainty
    ours = run_linear(
        given, 1, rngs(*range(400)), exploration=LaplaceEnsemble(), offline=data
    ).uncertainty
    # Both spreads are asymptotically that of the posterior.
    assert found.mean() == pytest.approx(ours.mean(), rel=0.15)


# ---- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", EXPLORATIONS, ids=lambda how: how.name)
def test_a_run_is_its_own(how):
    given = problem()
    alone = run_linear(given, 30, rngs(4), exploration=how)
    before = threads.get_threads()
    try:
        for count in (1, 3):
            threads.set_threads(count)
            many = run_linear(given, 30, rngs(9, 8, 4, 7), exploration=how)
            for name in ("policy", "parameter", "regret", "regularized_regret", "uncertainty"):
                np.testing.assert_array_equal(getattr(many, name)[2], getattr(alone, name)[0])
    finally:
        threads.set_threads(before)
    longer = run_linear(given, 45, rngs(4), exploration=how)
    np.testing.assert_array_equal(longer.regret[:, :30], alone.regret)
    same(run_linear(given, 30, rngs(4), exploration=how), alone)
    same(pickle.loads(pickle.dumps(alone)), alone)
    assert not alone.policy.flags.writeable
    record = alone.record(0)
    np.testing.assert_array_equal(record.regret, alone.regret[0])


def test_rounds_learn():
    given = problem(beta=0.1)
    for how in EXPLORATIONS:
        runs = run_linear(given, 600, rngs(*range(8)), exploration=how)
        first, last = runs.regularized_regret[:, 0].mean(), runs.regularized_regret[:, -1].mean()
        assert last < 0.25 * first, how.name


def test_only_the_enhancer_and_its_like_find_what_the_reference_misses():
    """The reward of a response of mass 1e-5 stands in a feature of its own."""
    features = np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    reference = np.array([[0.5, 0.5 - 1e-5, 1e-5]])
    bandit = ContextualBandit([1.0], reference, features @ np.array([0.5, 2.0]))
    given = LinearProblem(bandit, features, 0.05)
    last = {
        how.name: run_linear(given, 300, rngs(*range(6)), exploration=how).regret[:, -1].mean()
        for how in EXPLORATIONS
    }
    assert max(last["enhancer, c 5"], last["uniform"]) < 0.01
    assert min(last["iterated DPO"], last["from the reference"]) > 1.4


@drawn(
    st.integers(0, 10**6), st.sampled_from(EXPLORATIONS), st.floats(-4, 3), st.floats(-6, 3),
    st.floats(-3, 2), st.booleans(),
)  # fmt: skip
def test_whatever_the_scales_rounds_are_certified(seed, how, log_beta, log_ridge, log_size, moving):
    built = instance(seed % 7)
    beta, size = 10**log_beta, 10**log_size
    bandit = ContextualBandit(
        built.bandit.prompt_dist, built.bandit.reference, size * built.bandit.reward
    )
    given = LinearProblem(bandit, size * built.features, beta, ridge=10**log_ridge)
    runs = run_linear(given, 12, rngs(seed), exploration=how, moving=moving)
    assert runs.slope.max() <= 1e-11
    np.testing.assert_allclose(runs.policy.sum(axis=2), 1.0, atol=1e-12)
    assert runs.regret.min() >= 0.0
    best = solve(bandit.reward, bandit.reference, KL(), beta).policy
    played = run_linear(given, 13, rngs(seed), exploration=how, moving=moving)
    lost = beta * KL()(runs.policy[0], best, bandit.prompt_dist)
    rounding = 1e-12 * (beta + size)
    if np.isfinite(lost):
        assert played.regularized_regret[0, -1] == pytest.approx(lost, rel=1e-6, abs=rounding)
    assert played.regularized_regret.min() >= -rounding


# ---- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", EXPLORATIONS, ids=lambda how: how.name)
def test_without_rounds_it_is_the_offline_estimate(how):
    given = problem(ridge=0.3)
    data = sample_preferences(given.bandit, 40, np.random.default_rng(2))
    runs = run_linear(given, 0, rngs(0), exploration=how, offline=data)
    fit = fit_reward(data, Linear(given.features, ridge=0.3))
    policy = solve(fit.reward, given.bandit.reference, KL(), given.beta).policy
    np.testing.assert_allclose(runs.parameter[0], fit.parameter, rtol=1e-9)
    np.testing.assert_allclose(runs.policy[0], policy, rtol=1e-9)
    assert runs.regret.shape == (1, 0)


def test_at_a_small_beta_the_main_agent_is_greedy():
    given = problem(beta=1e-5)
    runs = run_linear(given, 40, rngs(0, 1))
    for policy, theta in zip(runs.policy, runs.parameter, strict=True):
        best = (given.features @ theta).argmax(axis=1)
        np.testing.assert_allclose(policy, np.eye(5)[best], atol=1e-9)


def test_responses_that_are_not_there():
    features = instance().features
    reference = np.array([[0.5, 0.5, 0, 0, 0]] * 3)
    available = np.array([[True, True, True, False, False]] * 3)
    reward = features @ np.array([1.0, -1.0, 0.5]) + np.array([0, 0, 0, 9.0, 9.0])
    bandit = ContextualBandit([0.2, 0.8, 0.0], reference, reward, available=available)
    given = LinearProblem(bandit, features, 0.3)
    for how in EXPLORATIONS:
        runs = run_linear(given, 25, rngs(0), exploration=how)
        assert (runs.policy[0][:, 2:] == 0).all()
        last = bandit.regret(runs.policy[0])
        again = run_linear(given, 26, rngs(0), exploration=how).regret[0, -1]
        assert again == pytest.approx(float(last), abs=1e-12)
    kept, theta, _ = Loop(given, Uniform(), 1, False, None).run(10, np.random.default_rng(6))
    uniform = run_linear(given, 10, rngs(6), exploration=Uniform())
    np.testing.assert_allclose(uniform.uncertainty[0], kept[2], atol=1e-9)
    np.testing.assert_allclose(uniform.parameter[0], theta, atol=1e-9)


def test_a_reward_in_the_place_of_no_response_counts_for_nothing():
    found = []
    for hidden in (0.0, 2e4):
        available = np.array([[True, True, False]])
        reward = [[0.0, 1.0, hidden]]
        bandit = ContextualBandit([1.0], [[0.5, 0.5, 0.0]], reward, available=available)
        given = LinearProblem(bandit, np.ones((1, 3, 1)), 0.5)
        assert given.shortfall[0, 2] == 0.0
        found.append(given.log_optimum)
    np.testing.assert_array_equal(*found)


def test_rounding_of_a_sum_falls_to_the_last_prompt_that_there_is():
    table = _cumulative(np.array([0.3, 0.7 - 5e-10, 0.0]))
    np.testing.assert_array_equal(table, [0.3, 1.0, 1.0])


def test_theory_radius_is_that_of_the_ellipsoid():
    given = problem(ridge=0.4)
    data = sample_preferences(given.bandit, 30, np.random.default_rng(1))
    radius = TheoryRadius(0.07, 2.5)
    runs = run_linear(given, 1, rngs(0), exploration=Enhancer(radius), offline=data)
    model = Linear(given.features, ridge=0.4)
    known = ellipsoid(data, model, fit_reward(data, model), 0.07, norm_bound=2.5)
    assert runs.radius[0, 0] == pytest.approx(known.radius, rel=1e-12)
    away = known.centre - given.parameter
    error = math.sqrt(away @ known.covariance @ away)
    assert runs.error[0, 0] == pytest.approx(error, rel=1e-9)


def test_nothing_compiled_is_loaded_by_the_import():
    code = "import sys, rlhfsim.online, rlhfsim.learners.online; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.0}, "beta is 0.0; it must be positive"),
        ({"beta": np.nan}, "beta is nan; entries must be finite"),
        ({"beta": 1e-308}, "differences of rewards over it must be finite"),
        ({"ridge": -1.0}, "ridge is -1.0; it must be positive"),
        ({"regularization": 0.0}, "regularization is 0.0; it must be positive"),
        ({"features": np.zeros((3, 5))}, r"features has shape \(3, 5\)"),
        ({"features": np.zeros((3, 4, 2))}, r"features has shape \(3, 4, 2\)"),
        ({"features": np.full((3, 5, 2), np.inf)}, r"features\[0, 0, 0\] is inf"),
        ({"bandit": 3}, "bandit is a int; it must be a ContextualBandit"),
        ({"labels": "BT"}, "labels is a str; it must be a PreferenceModel"),
        ({"labels": BradleyTerry(np.zeros((2, 5)))}, r"labels has shape \(2, 5\)"),
        ({"parameter": [1.0]}, r"parameter has shape \(1,\); it must be \(3,\)"),
    ],
)
def test_bad_problems(change, message):
    given = problem()
    settings = {"bandit": given.bandit, "features": given.features, "beta": 0.2} | change
    with pytest.raises(ValueError, match=message):
        LinearProblem(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": None}, "problem is a NoneType; it must be a LinearProblem"),
        ({"rounds": -1}, "rounds is -1; it must be at least 0"),
        ({"rounds": 1.5}, "rounds is 1.5; it must be an integer"),
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"moving": 1}, "moving is 1; it must be True or False"),
        ({"rngs": []}, r"rngs is \[\]; it must be a list of at least one"),
        ({"rngs": np.random.default_rng(0)}, "it must be a list of at least one"),
        ({"rngs": [0]}, r"rngs\[0\] is a int; it must be a numpy.random.Generator"),
        (
            {"rngs": [SHARED, *rngs(1, 2), SHARED]},
            r"rngs\[3\] is the same generator as rngs\[0\]; each run needs its own",
        ),
        (
            {"rngs": [SHARED, np.random.Generator(SHARED.bit_generator)]},
            r"rngs\[1\] draws from the same bit_generator as rngs\[0\]; each run needs its own",
        ),
        ({"exploration": Enhancer}, "it must be one of Enhancer, FixedPolicy"),
        ({"exploration": FixedPolicy(np.ones((1, 1)))}, r"exploration.policy has shape \(1, 1\)"),
        ({"offline": [(0, 1, 2)]}, "data is a list"),
        ({"offline": PreferenceData([0], [1], [0], (3, 4))}, r"features has shape \(3, 5, 3\)"),
    ],
)
def test_bad_runs(change, message):
    settings = {"problem": problem(), "rounds": 2, "rngs": rngs(0)} | change
    given, rounds, chance = (settings.pop(name) for name in ("problem", "rounds", "rngs"))
    with pytest.raises(ValueError, match=message):
        run_linear(given, rounds, chance, **settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Enhancer(-1.0), "radius is -1.0; it must be non-negative"),
        (lambda: Enhancer(steps=-1), "steps is -1; it must be at least 0"),
        (lambda: TheoryRadius(1.0, 1.0), "delta is 1.0; it must be below 1"),
        (lambda: TheoryRadius(0.1, 0.0), "norm_bound is 0.0; it must be positive"),
        (lambda: LaplaceEnsemble(0), "members is 0; it must be at least 1"),
        (lambda: LaplaceEnsemble(1, 0.0), "scale is 0.0; it must be positive"),
        (lambda: BootstrapEnsemble(0), "members is 0; it must be at least 1"),
        (lambda: BootstrapEnsemble(1, -1.0), "prior_scale is -1.0; it must be non-negative"),
        (lambda: FixedPolicy([[0.5, 0.6]]), r"policy\[0\] sums to 1.1"),
    ],
)
def test_bad_explorations(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_radius_that_overflows_is_said():
    from rlhfsim.online import OnlineError

    how = Enhancer(TheoryRadius(0.1, 1e4))
    data = sample_preferences(problem().bandit, 5, np.random.default_rng(0))
    with pytest.raises(OnlineError, match=r"run 0, round 0: .*margin above 700"):
        run_linear(problem(), 3, rngs(0), exploration=how, offline=data)


# ---- the regularized regret ----------------------------------------------------------------------


def exact_gap(log_policy, log_optimum, beta, rho):
    """Return beta KL of two normalised laws in 60 digits."""
    with mpmath.workdps(60):
        total = mpmath.mpf(0)
        for weight, one, other in zip(rho, log_policy, log_optimum, strict=True):
            ours, best = ([mpmath.mpf(float(v)) for v in row] for row in (one, other))
            z, w = (mpmath.log(mpmath.fsum(map(mpmath.exp, row))) for row in (ours, best))
            total += mpmath.mpf(float(weight)) * mpmath.fsum(
                mpmath.exp(a - z) * ((a - z) - (b - w)) for a, b in zip(ours, best, strict=True)
            )
        return float(beta * total)


@pytest.mark.parametrize("beta", [1e-3, 0.2, 1.0, 1e2, 1e5, 1e8])
def test_regularized_regret_in_sixty_digits(beta):
    """At a large beta policies differ by 1/beta, and the regret is of the same order."""
    given = problem(beta)
    runs = run_linear(given, 4, rngs(5), exploration=Uniform())
    # Of the first round, in which the main agent is the reference.
    logs = np.log(given.bandit.reference)
    exact = exact_gap(logs, logs + given.bandit.reward / beta, beta, given.bandit.prompt_dist)
    assert runs.regularized_regret[0, 0] == pytest.approx(exact, rel=1e-13 * (1e2 + beta))
    assert (runs.regularized_regret > 0).all()
    ours = regularized_gap(logs, given.log_optimum, beta, given.bandit.prompt_dist)
    assert runs.regularized_regret[0, 0] == pytest.approx(ours, rel=1e-12)


@drawn(st.integers(0, 10**6), st.floats(-9.0, 2.0))
def test_gap_is_the_divergence(seed, size):
    rng = np.random.default_rng(seed)
    logs = np.log(rng.dirichlet(np.ones(4), 2))
    other = logs + 10.0**size * rng.standard_normal((2, 4))
    other -= logsumexp(other, axis=1, keepdims=True)
    rho = rng.dirichlet(np.ones(2))
    exact = exact_gap(logs, other, 3.0, rho)
    found = regularized_gap(logs, other, 3.0, rho)
    assert found >= 0.0
    assert found == pytest.approx(exact, rel=1e-5)


def test_gap_at_the_edge_of_the_support():
    none, one = -np.inf, np.ones(1)
    point, other = np.array([[0.0, none]]), np.array([[none, 0.0]])
    assert regularized_gap(point, point, 2.0, one) == 0.0
    assert regularized_gap(point, other, 2.0, one) == np.inf
    # The optimum underflows, its logarithm does not.
    assert regularized_gap(point, np.array([[-1000.0, 0.0]]), 2.0, one) == 2000.0
    # A prompt that is never asked for says nothing.
    both = np.vstack([point, point]), np.vstack([other, point])
    assert regularized_gap(*both, 2.0, np.array([0.0, 1.0])) == 0.0
