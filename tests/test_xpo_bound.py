"""The explicit bound on XPO's regret: its proof step by step on runs, and its formula."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from rlhfsim import KL, random_bandit, solve
from rlhfsim.online.xpo import (
    BoundAlpha,
    FiniteXPO,
    Protocol,
    RegretBound,
    TheoryAlpha,
    hidden_best,
)
from rlhfsim.online.xpo.alpha import Horizon

BETA = 0.6


def engine(rounds, alpha, seed=0, scale=0.7):
    rng = np.random.default_rng(seed)
    bandit = random_bandit(2, 4, rng)
    rewards = bandit.reward + scale * rng.standard_normal((6, 2, 4))
    rewards[2] = bandit.reward
    policies = solve(rewards, bandit.reference, KL(), BETA).policy
    return FiniteXPO(Protocol(bandit, BETA, rounds, alpha=alpha), policies)


def ledger(setting, run):
    """Return what the proof adds up, exactly: by round, and by policy of the class.

    `lost` is the loss of pi* less that of each policy on the rounds before, `squares` and
    `hellinger` the sums of `E_i[(f_pi - f*)^2]` and `H_i^2`, `shift` the expectation of
    `log pi - log pi*` under the reference less its mean over the draws.
    """
    own, policies = setting.protocol, setting.policies
    rho, p = own.bandit.prompt_dist, own.reference
    ratio = np.log(policies / p)
    truth = int(np.abs(policies - own.optimum).max(axis=(1, 2)).argmin())
    gap = BETA * (ratio[:, :, :, None] - ratio[:, :, None, :])
    wins = 1.0 / (1.0 + np.exp(-gap))
    square = (gap - gap[truth]) ** 2
    both = np.sqrt(wins * wins[truth]) + np.sqrt((1 - wins) * (1 - wins[truth]))
    every = np.concatenate((policies, p[None]))
    against = rho[:, None, None] * p[:, None, :]
    mean_log = np.einsum("x,xy,kxy->k", rho, p, ratio)
    rounds = own.rounds
    lost, shift = np.zeros((rounds, len(policies))), np.zeros((rounds, len(policies)))
    squares, hellinger = lost.copy(), lost.copy()
    told, logs = np.zeros(len(policies)), np.zeros(len(policies))
    for t in range(rounds):
        if t:
            law = every[run.played[t - 1]][:, :, None] * against
            squares[t] = squares[t - 1] + (law * square).sum(axis=(1, 2, 3))
            hellinger[t] = hellinger[t - 1] + (law * (2.0 - 2.0 * both)).sum(axis=(1, 2, 3))
            x, y, z = run.drawn[t - 1, 0]
            side = wins[:, x, y, z] if run.won[t - 1, 0] else wins[:, x, z, y]
            told, logs = told - np.log(side), logs + ratio[:, x, z]
            lost[t] = told[truth] - told
            shift[t] = (mean_log - logs / t) - (mean_log - logs / t)[truth]
    return lost, squares, hellinger, shift


@pytest.mark.parametrize("seed", range(4))
def test_the_steps_that_need_no_chance_hold_on_every_run(seed):
    alpha, rounds = 0.05, 80
    setting = engine(rounds, alpha, seed)
    bound = setting.bound()
    run = setting.run(np.random.default_rng(seed))
    lost, squares, hellinger, shift = ledger(setting, run)
    policies = setting.policies
    every = np.concatenate((policies, setting.protocol.reference[None]))
    mass = setting.protocol.bandit.prompt_dist[:, None] * every[run.played[:-1]]
    most = setting.protocol.bandit.prompt_dist[:, None] * policies.max(axis=0)
    before = np.cumsum(mass, axis=0) - mass
    new = (mass**2 / (most + before)).sum(axis=(1, 2))[1:]
    n, played = np.arange(1.0, rounds), run.played[1:rounds]
    chosen = np.arange(1, rounds), played
    scale = BETA * bound.kappa**2 / (alpha * n)
    each = (
        BETA / (alpha * n) * lost[chosen]
        + BETA * shift[chosen]
        + new / (4.0 * scale)
        + scale * (4.0 * bound.coverability * bound.margin**2 + squares[chosen])
    )
    regret = run.record.regularized_regret[1:]
    assert (regret <= each + 1e-12).all()
    assert (squares * bound.kappa**2 <= hellinger + 1e-12).all()
    assert new.sum() <= bound.coverability * np.log2(1.0 + rounds / bound.coverability)


def test_the_two_events_fail_no_more_often_than_delta():
    delta, rounds, runs = 0.3, 60, 120
    setting = engine(rounds, 0.05, 7)
    size, v_max = len(setting.policies), setting.bound().v_max
    n = np.arange(1, rounds)[:, None]
    failed = np.zeros(2)
    closest = np.full(2, -np.inf)
    for seed in range(runs):
        run = setting.run(np.random.default_rng(seed))
        lost, _, hellinger, shift = ledger(setting, run)
        likelihood = (lost + hellinger)[1:] - 2.0 * np.log(size / delta)
        width = 4.0 * v_max / BETA * np.sqrt(np.log(size * rounds / delta) / (2.0 * n))
        optimism = (shift[1:] - width) / width
        failed += [likelihood.max() > 0, optimism.max() > 0]
        closest = np.maximum(closest, [likelihood.max(), optimism.max()])
    assert (failed <= delta * runs).all()
    # Not for want of an attempt: the likelihood comes within half of its bound.
    assert closest[0] > -np.log(size / delta)


def test_no_run_exceeds_the_bound():
    for beta, mass in ((0.1, np.exp(-5.0)), (1.0, 0.05)):
        example = hidden_best(beta, mass, rare=3)
        plain = FiniteXPO(Protocol(example.bandit, beta, 2), example.policies)
        alpha = BoundAlpha(plain.bound().margin)
        setting = FiniteXPO(Protocol(example.bandit, beta, 3000, alpha=alpha), example.policies)
        bound, weight = setting.bound(), float(setting.alphas[0])
        assert weight == pytest.approx(beta * bound.best_ratio(3000), rel=1e-12)
        for seed in range(20):
            regret = setting.run(np.random.default_rng(seed)).record.regularized_regret
            total = np.cumsum(regret)[-1]
            assert total <= bound.value(3000, beta, weight, float(regret[0]))


def test_the_numbers_of_a_class_by_loops():
    setting = engine(3, 0.1)
    bound, own = setting.bound(0.1), setting.protocol
    scores = BETA * np.log(setting.policies / own.reference)
    assert bound.v_max == pytest.approx(np.abs(scores).max(), rel=1e-12)
    assert bound.margin == pytest.approx(np.ptp(scores, axis=2).max(), rel=1e-12)
    assert (bound.size, bound.coverability, bound.delta) == (6, setting.coverability, 0.1)


def test_the_formula_and_its_least_weight():
    bound = RegretBound(8, 3.0, 1.2, 2.0, 0.02)
    assert bound.kappa == pytest.approx(np.exp(-2.0) / (1.0 + np.exp(-2.0)) ** 2, rel=1e-14)
    t, beta, alpha, k2 = 500, 0.3, 0.02, bound.kappa**2
    expected = (
        0.7
        + beta / alpha * (2 * np.log(8 / 0.02) + 4 * k2 * 3.0 * 4.0) * (1 + np.log(t))
        + alpha * t * 3.0 * np.log2(1 + t / 3.0) / (4 * beta * k2)
        + 4 * 1.2 * np.sqrt(2 * t * np.log(8 * t / 0.02))
    )
    assert bound.value(t, beta, alpha, 0.7) == pytest.approx(expected, rel=1e-13)
    least = minimize_scalar(
        lambda log: bound.value(t, beta, beta * np.exp(log), 0.7), (-6.0, 0.0), tol=1e-12
    )
    assert bound.best_ratio(t) == pytest.approx(np.exp(least.x), rel=1e-5)


def test_bad_settings_are_refused():
    good = {"size": 3, "coverability": 2.0, "v_max": 1.0, "margin": 1.5}
    for change, message in (
        ({"size": 0}, "size is 0"),
        ({"coverability": 0.5}, "coverability is 0.5; it must be at least 1"),
        ({"v_max": -1.0}, "v_max is -1.0"),
        ({"margin": 2.5}, "margin is 2.5; it must be at most 2 v_max"),
        ({"delta": 0.5}, "delta is 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            RegretBound(**(good | change))
    bound = RegretBound(**good)
    for arguments, message in (
        ((0, 1.0, 1.0, 0.0), "rounds is 0"),
        ((1, 0.0, 1.0, 0.0), "beta is 0.0"),
        ((1, 1.0, 0.0, 0.0), "alpha is 0.0"),
        ((1, 1.0, 1.0, -1.0), "first is -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            bound.value(*arguments)
    with pytest.raises(ValueError, match=r"margin is 0\.0"):
        BoundAlpha(0.0)
    with pytest.raises(ValueError, match="it needs a finite class"):
        BoundAlpha(1.0).values(Horizon(3, 1.0, None, None))
    setting = engine(2, 0.1)
    own = setting.protocol
    for protocol, message in (
        (Protocol(own.bandit, BETA, 2, 3), "batch is 3; the bound is for 1"),
        (Protocol(own.bandit, BETA, 2, opponent="policy"), "opponent is 'policy'"),
        (Protocol(own.bandit, BETA, 2, opponent=own.reference), "opponent is array"),
        (Protocol(own.bandit, BETA, 2, labels=own.law), "labels is"),
    ):
        with pytest.raises(ValueError, match=message):
            FiniteXPO(protocol, setting.policies).bound()
    with pytest.raises(ValueError, match="policies lack the regularized optimum"):
        FiniteXPO(own, setting.policies[:2]).bound()


def test_what_double_precision_cannot_hold_is_refused_by_name():
    bound = RegretBound(2, 1.5, 175.0, 350.0)
    many = 10**400
    for make, message in (
        (lambda: TheoryAlpha(1.0, 400.0), r"r_max is 400\.0; it must be at most 350"),
        (lambda: BoundAlpha(400.0), r"margin is 400\.0; it must be at most 350"),
        (lambda: BoundAlpha(800.0), r"margin is 800\.0; it must be at most 350"),
        (lambda: RegretBound(2, 1.5, 400.0, 800.0), r"margin is 800\.0; it must be at most 350"),
        (lambda: RegretBound(2, 1.5, 200.0, 400.0), r"margin is 400\.0; it must be at most 350"),
        (lambda: RegretBound(many, 1.5, 1.0, 1.0), "size is 10+; it must be at most 2"),
        (lambda: RegretBound(2, 1e20, 1.0, 1.0), r"coverability is 1e\+20; it must be at most"),
        (lambda: bound.value(many, 1.0, 1.0, 0.0), "rounds is 10+; it must be at most 2"),
        (lambda: bound.best_ratio(many), "rounds is 10+; it must be at most 2"),
        (lambda: bound.value(10, 1e300, 1e-300, 0.0), "alpha is 1e-300 and beta is 1e.300; the b"),
        (lambda: bound.value(10, 1e-10, 1.0, 0.0), "alpha is 1.0 and beta is 1e-10; the bound"),
        (
            lambda: TheoryAlpha(1.0, 350.0).values(Horizon(9, 1e-30, 2, 1.5)),
            r"alpha is TheoryAlpha\(.*; its weight must be a positive number, and is 0\.0",
        ),
        (
            lambda: BoundAlpha(350.0).values(Horizon(9, 1e-200, 2, 1.5)),
            r"alpha is BoundAlpha\(.*; its weight must be a positive number, and is 0\.0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    # The largest that is taken gives numbers.
    assert 0 < bound.best_ratio(10) < 1e-100
    assert np.isfinite(bound.value(10, 1.0, 1.0, 0.0))
    assert (TheoryAlpha(1.0, 350.0).values(Horizon(9, 1.0, 2, 1.5)) > 0).all()
    assert (BoundAlpha(350.0).values(Horizon(9, 1.0, 2, 1.5)) > 0).all()
    assert RegretBound(2, 2.0**52, 1.0, 1.0).best_ratio(1) > 0
    assert TheoryAlpha(1.0, 1.0).values(Horizon(1, 1.0, 2, 1.5)) == [0.0]
