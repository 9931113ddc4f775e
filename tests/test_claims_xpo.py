"""The claims about XPO, by other routes."""

import numpy as np
import pytest

from rlhfsim import ContextualBandit, population_pairs
from rlhfsim.claims.xpo import (
    XPO_CLAIMS,
    Classes,
    Sequences,
    _chosen,
    _class_logs,
    _losses,
    _potential,
    _potential_bound,
)
from rlhfsim.claims.xpo_runs import hidden, stuck_runs
from rlhfsim.losses import dpo, empirical_loss

BY_NAME = {claim.name: claim for claim in XPO_CLAIMS}


def test_expected_losses_are_those_of_the_limit_of_infinite_data():
    x = Classes.sample(3, np.random.default_rng(0))
    logs = _class_logs(x)
    losses = _losses(x, logs)
    for i in range(len(x)):
        bandit = ContextualBandit([1.0], x.reference[[i]], x.rewards[i, [0]])
        law = population_pairs(bandit)
        for k, log in enumerate(logs[i]):
            expected = empirical_loss(dpo(x.beta[i]), np.exp(log)[None], bandit.reference, law)
            assert losses[i, k] == pytest.approx(expected, rel=1e-9)


def test_optimism_changes_what_is_chosen():
    x = Classes.sample(300, np.random.default_rng(1))
    taken, truth, loss, true_loss = _chosen(x)
    other = (taken != truth).any(axis=1)
    assert 0.1 < other.mean() < 0.95
    # The truth has the least expected loss, so only optimism can choose another policy.
    assert (loss >= true_loss - 1e-12).all()


def test_the_potential_by_loops_and_its_constant():
    x = Sequences.sample(4, np.random.default_rng(2))
    for i, policies in enumerate(x.policies):
        total = 0.0
        for t, pi in enumerate(policies):
            for y, mass in enumerate(pi):
                most = policies[:, y].max()
                if most > 0:
                    total += mass**2 / (most + policies[:t, y].sum())
        assert _potential(x)[i] == pytest.approx(total, rel=1e-12)
    # With log in place of log_2 one policy alone refutes it.
    one = BY_NAME["coverability bounds what is new"].witness()
    assert _potential(one)[0] > np.log(2.0) * _potential_bound(one)[0] + 0.3


def test_nobody_can_leave_before_the_rare_response_is_drawn():
    mass = float(hidden(0.1, 0.0, 111).protocol.reference[0, 1])
    assert mass == pytest.approx(np.exp(-5.0), rel=1e-12)
    never = (1.0 - mass) ** (2 * 110)
    assert never >= BY_NAME["iterated DPO misses a hidden best response"].delta
    runs = 400
    # Fewer than 5 standard deviations below.
    least = runs * never - 5 * np.sqrt(runs * never * (1 - never))
    assert stuck_runs(runs, np.random.default_rng(0)) >= least
