"""XPO and iterated DPO as learners of the protocol."""

import pickle

import numpy as np
import pytest

from rlhfsim import KL, PreferenceData, log_linear_bandit, random_bandit, sample_preferences, solve
from rlhfsim.learners import (
    DPO,
    FinitePolicies,
    Learner,
    LogLinearPolicies,
    SLiC,
    TabularPolicies,
)
from rlhfsim.learners.online.xpo import XPO, IteratedDPO
from rlhfsim.online.xpo import DecreasingAlpha, FiniteXPO, Protocol, ScoreXPO
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
