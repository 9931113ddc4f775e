"""Claims about direct methods and pessimism: they hold, are tight."""

from dataclasses import replace

import numpy as np
import pytest
from claim_checks import assert_family, assert_holds, assert_refuted, assert_tight
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhfsim import KL, ChiSquared, ContextualBandit, Linear, fit_reward, solve
from rlhfsim.claims.direct import DIRECT_CLAIMS
from rlhfsim.claims.labelled import (
    GAMMAS,
    RATES,
    Labelled,
    complex_step,
    direct_loss,
    ipo_loss,
    ipo_optimum,
    kl,
    mixed,
    optimum,
    robust,
)
from rlhfsim.claims.pessimism import PESSIMISM_CLAIMS, LinearProblems, counts
from rlhfsim.data import PreferenceData
from rlhfsim.dynamics import train
from rlhfsim.laws import population_pairs
from rlhfsim.learners.direct import DPO, IPO, ChiPO
from rlhfsim.learners.pessimism import (
    FixedRadius,
    PessimisticMLE,
    pointwise_regret_bound,
    regret_bound,
)
from rlhfsim.losses import chipo, dpo, empirical_loss, fdpo, ipo, robust_dpo

CLAIMS = DIRECT_CLAIMS + PESSIMISM_CLAIMS
TRUE = [c for c in CLAIMS if c.kind != "false"]
FALSE = [c for c in CLAIMS if c.kind == "false"]


def by_name(name):
    return next(c for c in CLAIMS if c.name == name)


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_true_claims_hold(claim):
    assert_holds(claim)


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_true_claims_are_tight_at_their_witness(claim):
    assert_tight(claim)


@pytest.mark.parametrize("claim", FALSE, ids=lambda c: c.name)
def test_false_claims_fail_at_their_witness(claim):
    assert_refuted(claim)


def test_families():
    assert_family(Labelled, {"reference", "policy"})
    assert_family(LinearProblems, {"reference", "baseline", "comparator", "prompt_dist"})
    x = Labelled.sample(900, np.random.default_rng(0))
    assert (x.beta > 100).any()
    assert (np.ptp(x.reward, axis=1) <= 20.000001 * x.beta).all()
    y = LinearProblems.sample(900, np.random.default_rng(0))
    assert (y.wins.sum(axis=(1, 2, 3)) > 0).all()
    assert (y.depth == 1).mean() > 0.3
    assert set(y.place.tolist()) == {0, 1, 2}


# ---- direct methods: the library's losses and learners as the other route ------------------------


def bandit(x):
    return ContextualBandit([1.0], x.reference, x.reward)


@pytest.mark.parametrize("seed", range(6))
def test_losses_agree_with_the_library(seed):
    """`L` is the expectation of the library's losses over the law of a pair."""
    sampled = Labelled.sample(6, np.random.default_rng([1, seed])).take(seed)
    x = replace(sampled, beta=np.minimum(sampled.beta, 10.0))
    law, beta, gamma = population_pairs(bandit(x)), float(x.beta[0]), GAMMAS[int(x.setting[0])]
    for value, loss in (
        (direct_loss(x, kl, x.policy), dpo(beta)),
        (direct_loss(x, mixed, x.policy), chipo(beta, gamma=gamma)),
        (ipo_loss(x, x.policy) / beta**2, ipo(beta)),
    ):
        # Equal pairs say nothing; `L` counts them with their loss at h = 0, as the library does.
        assert value[0] == pytest.approx(
            empirical_loss(loss, x.policy, x.reference, law), rel=1e-11
        )
    logs = [np.log(p)[:, k] for p in (x.policy, x.reference) for k in (0, 1)]
    for chipo_link, loss in ((False, dpo(beta)), (True, chipo(beta))):
        slope = loss.gradient(*logs)[0]
        np.testing.assert_allclose(complex_step(x, chipo_link=chipo_link), slope, rtol=1e-10)
    noisy = robust_dpo(beta, RATES[int(x.setting[0])])
    swapped = [logs[1], logs[0], logs[3], logs[2]]
    rate = RATES[int(x.setting[0])]
    mean = (1 - rate) * noisy.loss(*logs) + rate * noisy.loss(*swapped)
    np.testing.assert_allclose(robust(x, flipped=True), mean, rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_learners_reach_the_claimed_minimisers(seed):
    """The direct learners, on the law of a pair, against the policies of the claims."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(4, 2.0), 1)
    x = Labelled(
        p, p, rng.normal(size=(1, 4)), 0 * p, np.array([0.3]), np.ones(1), np.array([1])
    )  # fmt: skip
    law = population_pairs(bandit(x))
    for learner, policy in (
        (DPO(0.3), optimum(x, kl)),
        (ChiPO(0.3, gamma=GAMMAS[1]), optimum(x, mixed)),
        (IPO(0.3), ipo_optimum(x)),
    ):
        np.testing.assert_allclose(learner.fit(law, p).policy, policy, rtol=1e-7)


def test_minimisers_are_strict():
    """A policy of a slightly other beta has a larger loss: the claims are tight at one policy."""
    for name in ("DPO", "chiPO without a clip", "IPO"):
        claim = by_name(f"population minimiser of {name}")
        x = claim.witness()
        law = (
            ipo_optimum
            if name == "IPO"
            else lambda y, n=name: optimum(y, kl if n == "DPO" else mixed)
        )
        other = law(replace(x, beta=1.02 * x.beta))
        assert 1 - 1e-3 < claim.ratio(replace(x, policy=other))[0] < 1 - 1e-8


def test_displacement_agrees_with_training():
    """The step of the claim is the first one of `train`."""
    claim = by_name("DPO raises the chosen response")
    x = claim.witness()
    path = train(
        dpo(float(x.beta[0])), PreferenceData([0], [0], [1], (1, 3)), x.reference, steps=1,
        learning_rate=float(x.step[0]), features=x.feature[:, :, None],
    )  # fmt: skip
    assert np.exp(path.chosen_logp[0, 1]) == pytest.approx(claim.right(x)[0], rel=1e-12)
    assert path.loss[0, 1] < path.loss[0, 0]
    single = by_name("tabular DPO raises the chosen response of one pair")
    y = replace(single.witness(), step=np.array([2.0]))
    path = train(
        dpo(float(y.beta[0])), PreferenceData([0], [0], [1], (1, 3)), y.reference, steps=1,
        learning_rate=2.0,
    )  # fmt: skip
    assert np.exp(path.chosen_logp[0, 1]) == pytest.approx(single.right(y)[0], rel=1e-12)


def test_chi_squared_alone_is_refused_for_the_reason_of_the_claim():
    claim = by_name("f-DPO with chi-squared alone")
    x = claim.witness()
    policy = solve(x.reward, x.reference, ChiSquared(), x.beta).policy
    assert policy[0, 2] == 0
    with pytest.raises(ValueError, match=r"f'\(0\+\) = -1.0; it must be -inf"):
        fdpo(ChiSquared(), 0.2)


# ---- pessimism -----------------------------------------------------------------------------------


def test_bounds_agree_with_the_library():
    x = LinearProblems.sample(12, np.random.default_rng(5))
    for k in range(len(x)):
        one = x.take(k)
        rule, model = FixedRadius(float(x.radius[k])), Linear(x.features[k], ridge=1.0)
        for outcome, pointwise, bound in (
            (one.worst_case, False, regret_bound),
            (one.pointwise, True, pointwise_regret_bound),
        ):
            learned = PessimisticMLE(
                float(x.beta[k]), model, rule, KL(), pointwise, x.baseline[k]
            ).fit(counts(x.wins[k]), x.reference[k], prompt_dist=x.prompt_dist[k])  # fmt: skip
            region = learned.diagnostics["confidence"]
            np.testing.assert_array_equal(
                learned.reward, fit_reward(counts(x.wins[k]), model).reward
            )
            expected = bound(region, x.comparator[k], x.baseline[k], x.prompt_dist[k])
            assert outcome.regret_bound[0] == pytest.approx(expected, rel=1e-9, abs=1e-12)
            lower = learned.diagnostics["lower_bound"]
            assert outcome.lower_bound[0] == pytest.approx(lower, rel=1e-9, abs=1e-11)
            assert outcome.gain[0] >= lower - 1e-11


def test_the_truth_lies_in_the_ellipsoid_and_no_further():
    """At depth 1 and the worst place the lower bound is attained; beyond it, it is violated."""
    claim = by_name("pessimism delivers its lower bound")
    x = claim.witness()
    for depth, ratio in ((0.5, 0.5), (1.0, 1.0), (1.5, 1.5)):
        assert claim.ratio(replace(x, depth=np.array([depth])))[0] == pytest.approx(ratio, rel=1e-8)


def test_pessimism_is_what_keeps_the_bound():
    """On the instance where the greedy policy breaks the bound, the pessimistic ones keep it."""
    x = by_name("regret without pessimism").witness()
    assert x.greedy.regret[0] > 2 * x.greedy.regret_bound[0]
    assert x.worst_case.regret[0] <= x.worst_case.regret_bound[0]
    assert x.pointwise.regret[0] <= x.pointwise.regret_bound[0]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_pessimism_holds_on_single_instances(seed):
    x = LinearProblems.sample(1, np.random.default_rng(seed))
    for claim in PESSIMISM_CLAIMS:
        if claim.kind != "false":
            assert claim.ratio(x)[0] <= 1 + 1e-9
