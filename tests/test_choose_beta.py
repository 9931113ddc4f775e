"""Rules that choose beta: each choice against a second route to it, and what it guarantees."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from rlhfsim import (
    KL,
    ChiSquared,
    ContextualBandit,
    FiniteClass,
    Tabular,
    best_beta,
    chi_squared_path,
    concentrability,
    example_table,
    random_bandit,
    sample_preferences,
    solve,
)
from rlhfsim.data import PreferenceData
from rlhfsim.learners import RLHF, InferenceTimePessimism
from rlhfsim.learners.choose_beta import (
    DEFAULT_CANDIDATES,
    FiniteClassTheory,
    Oracle,
    PaperSchedule,
    SharpTheory,
    UndeterminedBetaError,
    choose_beta,
)

BOX = Tabular(r_max=1.0)
MIXED = ChiSquared() + KL()
GRID = tuple(np.geomspace(0.01, 10.0, 13).tolist())


def rlhf(divergence, model=BOX):
    return lambda beta: RLHF(beta, divergence, model)


@dataclass(frozen=True)
class Wrapped:
    """RLHF that a rule cannot recognise."""

    inner: RLHF

    @property
    def name(self):
        return "wrapped"

    @property
    def beta(self):
        return self.inner.beta

    def fit(self, data, reference, *, prompt_dist=None, rng=None):
        return self.inner.fit(data, reference, prompt_dist=prompt_dist, rng=rng)


@pytest.fixture(scope="module")
def bandit():
    return random_bandit(3, 5, np.random.default_rng(5))


@pytest.fixture(scope="module")
def data(bandit):
    return sample_preferences(bandit, 200, np.random.default_rng(6))


@pytest.fixture(scope="module")
def judged():
    bandit = ContextualBandit.from_table(example_table())
    return bandit, sample_preferences(bandit, 400, np.random.default_rng(7))


def with_error(seed, *, size=0.3):
    """Return a bandit whose best beta is inside, a wrong reward, and data that say nothing."""
    rng = np.random.default_rng(seed)
    bandit = random_bandit(int(rng.integers(1, 4)), int(rng.integers(2, 7)), rng)
    reward_hat = bandit.reward + size * rng.normal(size=bandit.shape)
    return bandit, reward_hat, PreferenceData([0], [0], [1], bandit.shape)


# ---- the oracle ----------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", [ChiSquared(), 2.0 * ChiSquared(), MIXED, KL()], ids=repr)
def test_oracle_is_the_best_of_a_dense_grid_and_best_beta(divergence):
    inside = 0
    for seed in range(6):
        bandit, reward_hat, data = with_error(seed, size=1.0)
        model = FiniteClass(reward_hat[None])
        rule = Oracle(bandit, GRID)
        try:
            choice = choose_beta(rule, rlhf(divergence, model), data, bandit.reference)
        except UndeterminedBetaError as error:
            assert np.ptp(error.scores) < 1e-9  # noqa: PT017
            continue
        dense = np.geomspace(GRID[0], GRID[-1], 2000)
        policies = solve(reward_hat, bandit.reference, divergence, dense[:, None]).policy
        values = bandit.value(policies)
        own = solve(reward_hat, bandit.reference, divergence, choice.beta).policy
        value = choice.certificate["value"]
        assert value == pytest.approx(float(bandit.value(own)), abs=1e-13)
        assert choice.certificate["value_upper"] >= values.max() - 1e-13
        assert value >= values.max() - 1e-9
        assert choice.certificate["certified"]
        assert choice.certificate["regret"] == pytest.approx(float(bandit.regret(own)), abs=1e-13)
        np.testing.assert_array_equal(choice.candidates, GRID)
        at_grid = solve(reward_hat, bandit.reference, divergence, np.array(GRID)[:, None]).policy
        np.testing.assert_allclose(choice.scores, bandit.value(at_grid), atol=1e-13)
        best = best_beta(
            bandit.reward, reward_hat, bandit.reference, divergence, bandit.prompt_dist,
            low=GRID[0], high=GRID[-1],
        )  # fmt: skip
        assert choice.beta == best.beta
        if divergence == ChiSquared():
            path = chi_squared_path(reward_hat, bandit.reference)
            curve = path.value(bandit.reward, bandit.prompt_dist)
            assert value == pytest.approx(float(curve(choice.beta)), abs=1e-13)
            assert (value >= curve(curve.betas.clip(GRID[0], GRID[-1])) - 1e-13).all()
        inside += GRID[0] < choice.beta < GRID[-1]
    assert inside >= 2


@pytest.mark.parametrize("divergence", [ChiSquared(), KL()], ids=repr)
def test_the_search_reaches_the_certified_beta(divergence):
    """One peak, so golden section must arrive, whichever way the bandit is handed over."""
    bandit = ContextualBandit([1.0], [[0.3, 0.3, 0.4]], [[1.0, 2.0, 0.0]])
    model = FiniteClass(np.array([[[3.0, 2.0, 0.0]]]))
    data = PreferenceData([0], [0], [1], (1, 3))
    exact = choose_beta(Oracle(bandit), rlhf(divergence, model), data, bandit.reference)

    def wrapped(beta):
        return Wrapped(RLHF(beta, divergence, model))

    found = choose_beta(Oracle(bandit), wrapped, data, bandit.reference)
    assert exact.certificate["certified"]
    assert not found.certificate["certified"]
    assert GRID[0] < exact.beta < GRID[-1]
    assert found.beta == pytest.approx(exact.beta, rel=1e-6)
    assert found.certificate["value"] == pytest.approx(exact.certificate["value"], abs=1e-9)
    assert found.certificate["value"] > found.scores.max()
    low, high = found.certificate["bracket"]
    assert low <= found.beta * (1 + 1e-6)
    assert found.beta <= high * (1 + 1e-6)
    rough = choose_beta(Oracle(bandit, refinements=0), wrapped, data, bandit.reference)
    assert rough.beta == found.candidates[found.scores.argmax()]
    assert rough.certificate["value"] == found.scores.max()


def test_the_search_is_no_worse_than_any_candidate(bandit, data):
    def family(beta):
        return InferenceTimePessimism(4, beta, BOX)

    choice = choose_beta(Oracle(bandit, GRID), family, data, bandit.reference)
    for beta, score in zip(GRID, choice.scores, strict=True):
        value = float(bandit.value(family(beta).fit(data, bandit.reference).policy))
        assert score == value
        assert choice.certificate["value"] >= value
    learned = family(choice.beta).fit(data, bandit.reference)
    assert choice.certificate["value"] == float(bandit.value(learned.policy))
    assert choice.certificate["regret"] == float(bandit.regret(learned.policy))


def test_a_family_with_two_reward_models_is_searched(bandit, data):
    def family(beta):
        return RLHF(beta, KL(), Tabular(ridge=beta))

    choice = choose_beta(Oracle(bandit, GRID, refinements=3), family, data, bandit.reference)
    assert not choice.certificate["certified"]
    assert choice.scores[3] == float(
        bandit.value(family(GRID[3]).fit(data, bandit.reference).policy)
    )


def test_the_end_of_the_interval_is_reported(bandit):
    data = PreferenceData([0], [0], [1], bandit.shape)
    right, wrong = FiniteClass(bandit.reward[None]), FiniteClass(-bandit.reward[None])
    least = choose_beta(Oracle(bandit, (1.0, 2.0)), rlhf(KL(), right), data, bandit.reference)
    most = choose_beta(Oracle(bandit, (1.0, 2.0)), rlhf(KL(), wrong), data, bandit.reference)
    assert (least.beta, most.beta) == (1.0, 2.0)
    assert "smallest allowed" in least.reason
    assert "largest allowed" in most.reason


@pytest.mark.parametrize("wrap", [Wrapped, lambda learner: learner], ids=["search", "certified"])
@pytest.mark.parametrize("divergence", [ChiSquared(), KL()], ids=repr)
@pytest.mark.parametrize("size", [0.0, 1e-18])
def test_the_oracle_says_when_beta_does_not_matter(wrap, divergence, size, bandit):
    data = PreferenceData([0], [0], [1], bandit.shape)
    model = FiniteClass(size * np.arange(15.0).reshape(1, 3, 5))
    with pytest.raises(UndeterminedBetaError, match="none is best") as caught:
        choose_beta(
            Oracle(bandit), lambda b: wrap(RLHF(b, divergence, model)), data, bandit.reference
        )
    np.testing.assert_allclose(caught.value.scores, bandit.value(bandit.reference))
    again = pickle.loads(pickle.dumps(caught.value))
    np.testing.assert_array_equal(again.candidates, DEFAULT_CANDIDATES)


def test_ties_break_alike_for_every_beta():
    rewards = np.array([[[0.0, 1.0, 0.0]], [[0.0, 1.0, 9.0]]])
    bandit = ContextualBandit([1.0], [[0.2, 0.3, 0.5]], rewards[0])
    data = PreferenceData([0], [1], [0], (1, 3))
    directions = set()
    for seed in range(6):
        choice = choose_beta(
            Oracle(bandit, GRID, refinements=0),
            lambda b: Wrapped(RLHF(b, KL(), FiniteClass(rewards))),
            data,
            bandit.reference,
            rng=np.random.default_rng(seed),
        )
        # One reward throughout: the curve is monotone, down for r* and up for the other.
        steps = np.diff(choice.scores)
        assert (steps <= 0).all() or (steps >= 0).all()
        directions.add(bool(steps.sum() > 0))
    assert directions == {False, True}


# ---- theory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kl_weight", [0.0, 0.1, 1.0, 5.0])
def test_theory_minimises_the_bound(kl_weight, data, bandit):
    rng = np.random.default_rng(0)
    for _ in range(10):
        epsilon, star = 10.0 ** rng.uniform(-3, 2), 10.0 ** rng.uniform(-3, 3)
        kl = rng.uniform() * np.log1p(2 * star)

        def bound(log_beta, epsilon=epsilon, star=star, kl=kl):
            beta = np.exp(log_beta)
            square = (epsilon + beta * np.sqrt(2 * star)) ** 2 / (4 * beta)
            return square + beta * kl_weight * kl

        best = minimize_scalar(bound, bracket=(-5.0, 5.0), tol=1e-10)
        family = rlhf(ChiSquared() + kl_weight * KL() if kl_weight else ChiSquared())
        rule = SharpTheory(epsilon, star, kl_weight, kl)
        choice = choose_beta(rule, family, data, bandit.reference)
        assert choice.beta == pytest.approx(np.exp(best.x), rel=1e-6)
        assert choice.certificate["bound"] == pytest.approx(best.fun, rel=1e-12)
        root = np.sqrt(2 * star + 4 * kl_weight * kl)
        closed = epsilon * (np.sqrt(2 * star) + root) / 2
        assert choice.certificate["bound"] == pytest.approx(closed, rel=1e-12)
        np.testing.assert_allclose(choice.scores, bound(np.log(choice.candidates)), rtol=1e-12)
        assert choice.scores.argmin() == choice.candidates.size // 2
        assert choice.candidates[choice.candidates.size // 2] == choice.beta


@pytest.mark.parametrize("divergence", [ChiSquared(), MIXED], ids=repr)
def test_the_regret_at_the_theory_beta_is_below_its_bound(divergence):
    kl_weight = 0.0 if divergence == ChiSquared() else 1.0
    for seed in range(20):
        bandit, reward_hat, data = with_error(seed, size=1.0)
        rule = SharpTheory.known(bandit, reward_hat, kl_weight=kl_weight)
        family = rlhf(divergence, FiniteClass(reward_hat[None]))
        choice = choose_beta(rule, family, data, bandit.reference)
        policy = family(choice.beta).fit(data, bandit.reference).policy
        assert float(bandit.regret(policy)) <= choice.certificate["bound"]
        # The error is centred, and the divergence that of the comparator.
        assert SharpTheory.known(
            bandit, reward_hat + 7.0, bandit.optimal_policy(), kl_weight=kl_weight
        ).epsilon == pytest.approx(rule.epsilon, rel=1e-9)
        star = float(concentrability(bandit.optimal_policy(), bandit.reference, bandit.prompt_dist))
        assert rule.divergence == pytest.approx((star - 1) / 2, rel=1e-9)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_the_bound_of_the_theory_is_attained(ratio):
    """At `r*_c = (delta + beta (w* - 1))/2`, delta along `w* - 1`: nothing smaller would hold."""
    p, star = np.array([[0.25, 0.25, 0.5]]), np.array([[0.35, 0.25, 0.4]])
    direction = star / p - 1.0
    epsilon = 0.3
    size = float(np.sqrt((p * direction**2).sum()))
    delta = epsilon * direction / size
    beta = epsilon / size
    reward = (delta + beta * direction) / 2.0
    bandit = ContextualBandit([1.0], p, reward)
    rule = SharpTheory.known(bandit, reward - delta, star)
    data = PreferenceData([0], [0], [1], (1, 3))
    family = rlhf(ChiSquared(), FiniteClass((reward - delta)[None]))
    choice = choose_beta(rule, family, data, p)
    assert choice.beta == pytest.approx(beta, rel=1e-12)
    policy = family(ratio * choice.beta).fit(data, p).policy
    regret = float(bandit.regret(policy, star))
    if ratio == 1.0:
        assert regret == pytest.approx(choice.certificate["bound"], rel=1e-9)
    else:
        # Elsewhere the bound, not the regret, is worse.
        index = choice.candidates.size // 2 + int(np.log2(ratio))
        assert regret <= choice.scores[index]
        assert choice.scores[index] > choice.certificate["bound"] * 1.1


def test_the_class_error_is_plugged_in(data, bandit):
    rule = FiniteClassTheory(8, 0.1, 1.0, 0.5)
    model = FiniteClass(np.random.default_rng(0).random((8, 3, 5)))
    choice = choose_beta(rule, rlhf(ChiSquared(), model), data, bandit.reference)
    slope = 1.0 / (2.0 + np.e + 1.0 / np.e)
    epsilon = np.sqrt(np.log(8 / 0.1) / len(data)) / slope
    assert choice.certificate["epsilon"] == pytest.approx(epsilon, rel=1e-12)
    assert choice.certificate["n"] == len(data) == 200
    assert choice.beta == pytest.approx(epsilon, rel=1e-12)
    assert "200 comparisons guarantee for 8 rewards with probability 0.9" in choice.reason
    # kl is log(1 + 2 D) where it is not known.
    mixed = choose_beta(FiniteClassTheory(8, 0.1, 1.0, 0.5, 1.0), rlhf(MIXED, model), data,
                        bandit.reference)  # fmt: skip
    assert mixed.beta == pytest.approx(epsilon / np.sqrt(1 + 4 * np.log(2)), rel=1e-12)


def test_the_class_bound_is_for_its_class(data, bandit):
    rewards = np.random.default_rng(0).random((8, 3, 5))

    def choose(model, reference=bandit.reference, **settings):
        rule = FiniteClassTheory(**{"class_size": 8, "delta": 0.1, "reward_gap": 1.0,
                                    "divergence": 0.5} | settings)  # fmt: skip
        return choose_beta(rule, rlhf(ChiSquared(), model), data, reference)

    with pytest.raises(ValueError, match=r"family fits Tabular.*for a FiniteClass"):
        choose(BOX)
    with pytest.raises(ValueError, match="class_size is 7; the family's FiniteClass has 8 rewards"):
        choose(FiniteClass(rewards), class_size=7)
    gap = float(np.ptp(rewards, axis=-1).max())
    assert choose(FiniteClass(rewards), reward_gap=gap).beta > 0
    with pytest.raises(ValueError, match=f"reward_gap is .*differ by {gap:.6g}"):
        choose(FiniteClass(rewards), reward_gap=0.999 * gap)
    # Where the reference has no mass, no pair is ever compared.
    rewards[0, 0, 0] = 9.0
    assert choose(FiniteClass(rewards), np.tile([0.0, 0.25, 0.25, 0.25, 0.25], (3, 1))).beta > 0


def test_the_paper_schedule_minimises_its_terms(bandit):
    rng = np.random.default_rng(1)
    c, v, r, size, delta = 3.0, 2.0, 0.7, 40, 0.05
    for n in (50, 200):
        data = sample_preferences(bandit, n, rng)

        def terms(log_beta, n=n):
            beta, logarithm = np.exp(log_beta), np.log(size / delta)
            first = v * np.exp(2 * r) * np.sqrt(c * logarithm / n)
            return first + beta * c + v**2 * np.exp(4 * r) * logarithm / (n * beta)

        best = minimize_scalar(terms, bracket=(-5.0, 5.0), tol=1e-10)
        rule = PaperSchedule(c, size, delta, r, v)
        choice = choose_beta(rule, rlhf(MIXED), data, bandit.reference)
        assert choice.beta == pytest.approx(np.exp(best.x), rel=1e-6)
        np.testing.assert_allclose(choice.scores, terms(np.log(choice.candidates)), rtol=1e-12)
        tripled = PaperSchedule(c, size, delta, r, v, constant=3.0)
        assert choose_beta(tripled, rlhf(MIXED), data, bandit.reference).beta == pytest.approx(
            3.0 * choice.beta, rel=1e-14
        )
        assert "no guarantee" in choice.reason


def test_kl_alone_has_no_theory(data, bandit):
    for rule in (
        SharpTheory(0.1, 0.5),
        FiniteClassTheory(3, 0.1, 1.0, 0.5),
        PaperSchedule(2.0, 3, 0.1, 1.0, 1.0),
    ):
        with pytest.raises(ValueError, match=r"regularizes with KL\(\).*needs chi-squared"):
            choose_beta(rule, rlhf(KL()), data, bandit.reference)
    with pytest.raises(ValueError, match=r"kl_weight of 0\.0, is for ChiSquared"):
        choose_beta(SharpTheory(0.1, 0.5), rlhf(MIXED), data, bandit.reference)
    with pytest.raises(ValueError, match=r"is for ChiSquared\(\) \+ 0.5 \* KL"):
        choose_beta(SharpTheory(0.1, 0.5, 0.5), rlhf(ChiSquared()), data, bandit.reference)
    choose_beta(PaperSchedule(2.0, 3, 0.1, 1.0, 1.0), rlhf(0.5 * ChiSquared() + KL()), data,
                bandit.reference)  # fmt: skip
