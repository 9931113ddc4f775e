"""XPO and iterated DPO as learners of the protocol."""

import pickle
from dataclasses import replace

import mpmath
import numpy as np
import pytest

from rlhfsim import (
    KL,
    ContextualBandit,
    PreferenceData,
    log_linear_bandit,
    random_bandit,
    sample_preferences,
    solve,
)
from rlhfsim.learners import (
    DPO,
    FinitePolicies,
    Learner,
    LogLinearPolicies,
    SLiC,
    TabularPolicies,
)
from rlhfsim.learners.online.xpo import XPO, IteratedDPO
from rlhfsim.online.xpo import (
    BoundAlpha,
    DecreasingAlpha,
    FiniteXPO,
    Protocol,
    ScoreXPO,
    TheoryAlpha,
)
from rlhfsim.rewards import Linear, fit_reward
from rlhfsim.rewards.finite_class import last_of_tied

BETA = 0.5
MADE = log_linear_bandit(2, 4, 2, np.random.default_rng(0))
BANDIT = MADE.bandit
REWARDS = np.concatenate((BANDIT.reward[None], np.random.default_rng(1).standard_normal((4, 2, 4))))
CLASS = FinitePolicies(solve(REWARDS, BANDIT.reference, KL(), BETA).policy)
NOTHING = PreferenceData([0], [0], [0], BANDIT.shape)
LEARNERS = {
    "finite": XPO(BANDIT, BETA, CLASS, 20, 0.05, batch=2),
    "tabular": XPO(BANDIT, BETA, TabularPolicies(ridge=0.2), 4, DecreasingAlpha(0.1), batch=4),
    "bounded": XPO(BANDIT, BETA, TabularPolicies(r_max=1.5), 3, 0.02, batch=4),
    "log-linear": XPO(BANDIT, BETA, LogLinearPolicies(MADE.features), 4, 0.02, 4, ridge=0.2),
    "iterated": IteratedDPO(BANDIT, BETA, CLASS, 20),
}


@pytest.mark.parametrize("key", LEARNERS)
def test_every_learner_follows_the_protocol(key):
    learner = LEARNERS[key]
    assert isinstance(learner, Learner)
    fits = [learner.fit(NOTHING, BANDIT.reference, rng=np.random.default_rng(3)) for _ in "ab"]
    np.testing.assert_array_equal(fits[0].policy, fits[1].policy)
    notes = fits[0].diagnostics
    assert notes["cumulative_regret"] == pytest.approx(notes["regret"].sum(), rel=1e-12)
    assert notes["cumulative_regularized_regret"] == pytest.approx(
        notes["regularized_regret"].sum(), rel=1e-12
    )
    assert (notes["regret"] >= 0).all()
    assert notes["regret"][0] == pytest.approx(float(BANDIT.regret(BANDIT.reference)), rel=1e-12)
    # The implicit reward of the policy gives it back.
    again = solve(fits[0].reward, BANDIT.reference, KL(), BETA).policy
    np.testing.assert_allclose(again, fits[0].policy, rtol=1e-9)
    assert notes["global"] == (key in ("finite", "iterated"))
    assert (fits[0].residual is None) == (key in ("finite", "iterated"))
    copy = pickle.loads(pickle.dumps(learner))
    same = copy.fit(NOTHING, BANDIT.reference, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(same.policy, fits[0].policy)


def test_the_learner_is_its_engine():
    engine = FiniteXPO(Protocol(BANDIT, BETA, 20, 2, 0.05), CLASS.policies)
    run = engine.run(np.random.default_rng(7))
    learned = LEARNERS["finite"].fit(NOTHING, BANDIT.reference, rng=np.random.default_rng(7))
    np.testing.assert_array_equal(learned.policy, run.record.policy)
    np.testing.assert_array_equal(learned.diagnostics["played"], run.played)
    np.testing.assert_array_equal(learned.diagnostics["regret"], run.record.regret)
    assert learned.diagnostics["coverability"] == engine.coverability
    scored = ScoreXPO(Protocol(BANDIT, BETA, 4, 4, DecreasingAlpha(0.1)), 0.2)
    learned = LEARNERS["tabular"].fit(NOTHING, BANDIT.reference, rng=np.random.default_rng(7))
    np.testing.assert_array_equal(
        learned.policy, scored.run(np.random.default_rng(7)).record.policy
    )


def test_iterated_dpo_is_xpo_without_optimism():
    for policies in (CLASS, TabularPolicies(ridge=0.3)):
        for opponent in ("policy", "reference"):
            fits = [
                learner.fit(NOTHING, BANDIT.reference, rng=np.random.default_rng(5)).policy
                for learner in (
                    IteratedDPO(BANDIT, BETA, policies, 5, 3, opponent),
                    XPO(BANDIT, BETA, policies, 5, 0.0, 3, opponent),
                )
            ]
            np.testing.assert_array_equal(*fits)


def test_the_first_policy_is_learned_from_logged_data():
    data = sample_preferences(BANDIT, 300, np.random.default_rng(2))
    # What is played in the first round is learned from them.
    for policies in (CLASS, TabularPolicies(ridge=0.3)):
        offline = DPO(BETA, policies).fit(data, BANDIT.reference)
        learned = IteratedDPO(BANDIT, BETA, policies, 1).fit(
            data, BANDIT.reference, rng=np.random.default_rng(0)
        )
        assert learned.diagnostics["regret"][0] == pytest.approx(
            float(BANDIT.regret(offline.policy)), abs=1e-12
        )
    fit = fit_reward(data, Linear(MADE.features, ridge=0.2))
    policy = solve(fit.reward, BANDIT.reference, KL(), BETA).policy
    learned = LEARNERS["log-linear"].fit(data, BANDIT.reference, rng=np.random.default_rng(0))
    assert learned.diagnostics["regret"][0] == pytest.approx(float(BANDIT.regret(policy)))


def test_another_reference_takes_the_place_of_the_bandits():
    rng = np.random.default_rng(0)
    other = random_bandit(2, 4, rng).reference
    learner = IteratedDPO(BANDIT, BETA, TabularPolicies(ridge=0.3), 3)
    learned = learner.fit(NOTHING, other, rng=np.random.default_rng(1))
    assert learned.diagnostics["regret"][0] == pytest.approx(float(BANDIT.regret(other)))


@pytest.mark.parametrize("key", LEARNERS)
def test_other_prompts_take_the_place_of_the_bandits(key):
    learner, other = LEARNERS[key], np.array([0.95, 0.05])
    assert abs(other[0] - BANDIT.prompt_dist[0]) > 0.1
    moved = replace(learner, bandit=replace(BANDIT, prompt_dist=other))
    fits = [
        one.fit(NOTHING, BANDIT.reference, prompt_dist=rho, rng=np.random.default_rng(6))
        for one, rho in ((learner, other), (moved, None), (moved, other))
    ]
    for fit in fits:
        np.testing.assert_array_equal(fit.policy, fits[1].policy)
        np.testing.assert_array_equal(fit.diagnostics["regret"], fits[1].diagnostics["regret"])
    short = BANDIT.reward.max(axis=1) - (BANDIT.reference * BANDIT.reward).sum(axis=1)
    assert fits[0].diagnostics["regret"][0] == pytest.approx(float(other @ short), rel=1e-12)


def test_the_start_of_a_longer_run_is_a_shorter_one_unless_alpha_depends_on_its_length():
    rounds = 60
    for alpha, same in (
        (0.05, True), (DecreasingAlpha(0.3), True),
        (TheoryAlpha(2.0, 1.0, constant=50.0), False), (BoundAlpha(1.0), False),
    ):  # fmt: skip
        weights, played = zip(
            *(
                (engine.alphas, engine.run(np.random.default_rng(1)).played)
                for engine in (
                    FiniteXPO(Protocol(BANDIT, BETA, t, alpha=alpha), CLASS.policies)
                    for t in (rounds, 3 * rounds)
                )
            ),
            strict=True,
        )
        assert (weights[0] == weights[1][:rounds]).all() == same
        if same:
            np.testing.assert_array_equal(played[0], played[1][: rounds + 1])


def test_names_tell_settings_apart():
    fixed = XPO(BANDIT, BETA, CLASS, 20, 0.05, opponent=BANDIT.reference)
    assert LEARNERS["finite"].name == (
        "XPO, alpha 0.05, 20 rounds, batches of 2, against the reference, 5 policies"
    )
    assert LEARNERS["iterated"].name == "iterated DPO, 20 rounds, against the policy, 5 policies"
    names = [learner.name for learner in LEARNERS.values()]
    assert len({*names, fixed.name}) == 6


def test_bad_settings_are_refused():
    for make, message in (
        (lambda: XPO(BANDIT, BETA, CLASS, 0, 0.1), "rounds is 0"),
        (lambda: XPO(BANDIT, BETA, CLASS, 2, -0.1), "alpha is -0.1"),
        (lambda: IteratedDPO(BANDIT, 0.0, CLASS, 2), "beta is 0.0"),
        (lambda: IteratedDPO(CLASS, BETA, CLASS, 2), "bandit is a FinitePolicies"),
        (lambda: IteratedDPO(BANDIT, BETA, SLiC(), 2), "policies is SLiC"),
        (lambda: IteratedDPO(BANDIT, BETA, TabularPolicies(), 2), "ridge of TabularPolicies is"),
        (lambda: IteratedDPO(BANDIT, BETA, CLASS, 2, ridge=1.0), "ridge is 1.0; it is read with"),
        (lambda: IteratedDPO(BANDIT, BETA, LogLinearPolicies(MADE.features), 2), "ridge is None"),
        (
            lambda: IteratedDPO(BANDIT, BETA, LogLinearPolicies(MADE.features, norm_bound=1.0), 2),
            "norm_bound is 1.0",
        ),
        (
            lambda: IteratedDPO(BANDIT, BETA, FinitePolicies(CLASS.policies, last_of_tied), 2),
            "tie_break is",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    learner = LEARNERS["finite"]
    with pytest.raises(ValueError, match="rng is None; the rounds are drawn"):
        learner.fit(NOTHING, BANDIT.reference)
    with pytest.raises(ValueError, match="data has shape"):
        learner.fit(PreferenceData([0], [0], [1]), [[0.5, 0.5]], rng=np.random.default_rng())
    with pytest.raises(ValueError, match="prompt_dist has shape"):
        learner.fit(NOTHING, BANDIT.reference, prompt_dist=[1.0], rng=np.random.default_rng())


def test_the_regret_is_exact_where_the_optimum_underflows():
    bandit = ContextualBandit([1.0], [[0.5, 0.3, 0.2]], [[1.0, 0.0, 0.5]])
    beta, nothing = 1e-3, PreferenceData([0], [0], [0], (1, 3))
    assert Protocol(bandit, beta, 1).optimum.min() == 0
    tabular = TabularPolicies(ridge=1.0)
    for learner in (XPO(bandit, beta, tabular, 20, 0.01), IteratedDPO(bandit, beta, tabular, 20)):
        learned = learner.fit(nothing, bandit.reference, rng=np.random.default_rng(0))
        found = learned.diagnostics["regularized_regret"]
        # J_beta(p) = E_p[r]; J_beta(pi*) = beta log E_p[e^(r/beta)], all but its first term below
        # e^-500 of it.
        assert found[0] == pytest.approx(1.0 + beta * np.log(0.5) - 0.6, rel=1e-13)
        assert np.isfinite(found).all()
        assert (found >= 0).all()


@pytest.mark.parametrize("beta", [1e-3, 0.3, 1e8])
def test_regularized_regret_in_many_digits(beta):
    rng = np.random.default_rng(4)
    bandit = random_bandit(2, 4, rng)
    policies = np.concatenate((rng.dirichlet(np.full(4, 0.5), (3, 2)), bandit.reference[None]))
    protocol = Protocol(bandit, beta, 1)
    found = protocol.regularized_regret(policies)
    with mpmath.workdps(40):
        for pi, value in zip(policies, found, strict=True):
            total = mpmath.mpf(0)
            for x, rho in enumerate(bandit.prompt_dist):
                terms = list(zip(bandit.reference[x], bandit.reward[x], pi[x], strict=True))
                z = mpmath.fsum(p * mpmath.exp(mpmath.mpf(r) / beta) for p, r, _ in terms)
                scale = mpmath.fsum(p for p, _, _ in terms)
                mass = mpmath.fsum(q for _, _, q in terms)
                best = beta * mpmath.log(z / scale)
                own = mpmath.fsum(
                    q * (r - beta * mpmath.log(mpmath.mpf(q) * scale / (p * mass)))
                    for p, r, q in terms
                )
                total += rho * (best - own / mass)
            # At 1e8 the reference's regret is 1e-9 of beta times what each policy is rounded by.
            assert value == pytest.approx(float(total), rel=1e-12 if beta < 1 else 1e-6)
    several = protocol.regularized_regret(policies.reshape(2, 2, 2, 4))
    np.testing.assert_array_equal(several.reshape(-1), found)


def test_a_reward_difference_that_overflows_over_beta_is_refused():
    bandit = ContextualBandit([1.0], [[0.5, 0.3, 0.2]], [[1.0, 0.0, 0.5]])
    with pytest.raises(ValueError, match=r"beta is 1e-310; .* of reward\[0, 1\] = 0\.0 from the"):
        Protocol(bandit, 1e-310, 1)
    # What the reference never plays does not matter.
    never = ContextualBandit([1.0], [[0.5, 0.5, 0.0]], [[1.0, 1.0, -1.0]])
    protocol = Protocol(never, 1e-310, 1)
    assert protocol.regularized_regret(never.reference) == pytest.approx(0.0, abs=1e-30)
