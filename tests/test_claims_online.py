"""Claims on online RLHF: their sides by other routes, and that they tell a wrong rate."""

from dataclasses import replace

import numpy as np
import pytest
from claim_checks import assert_holds, assert_tight
from claim_mutations import survivors

from rlhfsim import KL, ContextualBandit, solve
from rlhfsim.claims.base import Claim
from rlhfsim.claims.elliptical import Sequences
from rlhfsim.claims.linear_rounds import LinearRounds
from rlhfsim.claims.online import ONLINE_CLAIMS

SIDED = [claim for claim in ONLINE_CLAIMS if isinstance(claim, Claim)]
MEASURED = [claim for claim in ONLINE_CLAIMS if not isinstance(claim, Claim)]


@pytest.mark.parametrize("claim", SIDED, ids=lambda c: c.name)
def test_claims_hold_and_are_tight(claim):
    assert_holds(claim)
    if claim.kind == "tight":
        assert_tight(claim)


@pytest.mark.parametrize("claim", MEASURED, ids=lambda c: c.name)
def test_what_is_measured(claim):
    result = claim.check(0, 1)
    assert result.passed, result.verdict


def test_regrets_are_those_of_the_bandit():
    x = LinearRounds.sample(40, np.random.default_rng(0))
    for k in range(len(x)):
        one, beta = x.take(k), float(x.beta[k])
        sigma = np.eye(x.root.shape[2]) + x.root[k].T @ x.root[k]
        delta = one.agents.delta[0]
        length = np.sqrt(delta @ sigma @ delta)
        assert length == pytest.approx(x.radius[k] * x.depth[k], rel=1e-9, abs=1e-12)
        reward = x.features[k] @ (x.estimate[k] + delta)
        bandit = ContextualBandit(x.prompt_dist[k], x.reference[k], reward)
        main = solve(x.features[k] @ x.estimate[k], x.reference[k], KL(), beta).policy
        best = solve(reward, x.reference[k], KL(), beta)
        rho = x.prompt_dist[k]
        lost = rho @ best.value - (bandit.value(main) - beta * KL()(main, x.reference[k], rho))
        scale = 1e-12 * (1 + abs(reward).max() + 30 * beta)
        assert one.agents.regret[0] == pytest.approx(lost, abs=scale)
        cost = beta * KL()(best.policy, main, rho)
        assert one.agents.membership[0] == pytest.approx(cost, rel=1e-6, abs=scale)
        move = np.einsum("x,xy,xyd->d", rho, best.policy - main, x.features[k])
        width = np.sqrt(move @ np.linalg.solve(sigma, move))
        assert one.agents.width[0] == pytest.approx(width, rel=1e-7, abs=1e-10)


def test_spread_and_draws_by_loops():
    x = LinearRounds.sample(10, np.random.default_rng(1))
    mean, each = x.drawn
    for k in range(len(x)):
        sigma = np.eye(x.root.shape[2]) + x.root[k].T @ x.root[k]
        spread = drawn = 0.0
        total = np.zeros(len(sigma))
        for i, rho in enumerate(x.prompt_dist[k]):
            phi, p, q = x.features[k, i], x.agents.main[k, i], x.reference[k, i]
            norms = np.array([[(a - b) @ np.linalg.solve(sigma, a - b) for b in phi] for a in phi])
            spread += rho * norms.max()
            drawn += rho * (p @ norms @ q)
            total += rho * (p - q) @ phi
        assert x.spread[k] == pytest.approx(spread, rel=1e-9)
        assert each[k] == pytest.approx(drawn, rel=1e-9)
        assert mean[k] == pytest.approx(total @ np.linalg.solve(sigma, total), rel=1e-9, abs=1e-15)


def test_steps_by_inverting_every_covariance():
    x = Sequences.sample(30, np.random.default_rng(2))
    for k in range(len(x)):
        sigma = x.regularization[k] * np.eye(x.difference.shape[2])
        for t, d in enumerate(x.difference[k]):
            norm = d @ np.linalg.solve(sigma, d)
            assert x.steps[k, t] == pytest.approx(norm, rel=1e-9, abs=1e-13)
            sigma = sigma + np.outer(d, d)


def test_a_better_constant_is_refused():
    """Two of the constants, 1/log 2 and 8, 1 % off."""
    for name in ("elliptical potential", "regret of the main agent is quadratic in the error"):
        (claim,) = (c for c in SIDED if c.name == name)
        better = replace(claim, right=lambda x, claim=claim: 0.99 * claim.right(x))
        assert not better.check(300, 0).passed


def test_an_enhancer_outside_of_its_set_is_refused():
    (claim,) = (c for c in SIDED if c.name == "the enhancer stays in its set")
    assert survivors(claim) == []
