"""The rounds of XPO and iterated DPO over a finite class, made again by other means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from rlhfsim import KL, ContextualBandit, PreferenceData, random_bandit, sample_preferences, solve
from rlhfsim.learners import DPO, FinitePolicies
from rlhfsim.losses import dpo, empirical_loss
from rlhfsim.online.xpo import (
    ConstantAlpha,
    DecreasingAlpha,
    FiniteXPO,
    Protocol,
    TheoryAlpha,
    hidden_best,
)
from rlhfsim.online.xpo.protocol import cumulative, drawn
from rlhfsim.preferences import LabelNoise

BETA = 0.7


def problem(seed=0, prompts=2, responses=4, size=6):
    rng = np.random.default_rng(seed)
    bandit = random_bandit(prompts, responses, rng)
    rewards = bandit.reward + rng.standard_normal((size, prompts, responses))
    rewards[0] = bandit.reward
    return bandit, solve(rewards, bandit.reference, KL(), BETA).policy


def rows_of(run, rounds, shape):
    drawn, won = run.drawn[:rounds].reshape(-1, 3), run.won[:rounds].reshape(-1)
    chosen = np.where(won, drawn[:, 1], drawn[:, 2])
    rejected = np.where(won, drawn[:, 2], drawn[:, 1])
    return PreferenceData(drawn[:, 0], chosen, rejected, shape), drawn[:, 0], drawn[:, 2]


def objectives(bandit, policies, run, rounds, alpha):
    """Return the objectives of all policies, by the library's loss and a plain sum."""
    data, prompt, second = rows_of(run, rounds, bandit.shape)
    return np.array(
        [
            len(data) * empirical_loss(dpo(BETA), pi, bandit.reference, data)
            + alpha * np.log(pi[prompt, second]).sum()
            for pi in policies
        ]
    )


@pytest.mark.parametrize("opponent", ["reference", "policy", "fixed"])
@pytest.mark.parametrize("alpha", [0.0, 0.2])
def test_every_round_takes_the_least_objective(opponent, alpha):
    bandit, policies = problem()
    given_opponent = policies[3] if opponent == "fixed" else opponent
    protocol = Protocol(bandit, BETA, 40, 3, alpha, given_opponent)
    run = FiniteXPO(protocol, policies).run(np.random.default_rng(5))
    assert run.played[0] == len(policies)  # the reference, which is not in the class
    for t in range(1, 41):
        values = objectives(bandit, policies, run, t, alpha)
        assert values[run.played[t]] <= values.min() + 1e-9
    assert len(set(run.played.tolist())) > 2


def test_a_changing_weight_is_that_of_the_round():
    bandit, policies = problem(3)
    protocol = Protocol(bandit, BETA, 30, 2, DecreasingAlpha(1.5))
    run = FiniteXPO(protocol, policies).run(np.random.default_rng(1))
    for t in range(1, 31):
        values = objectives(bandit, policies, run, t, 1.5 / np.sqrt(t))
        assert values[run.played[t]] <= values.min() + 1e-9


def test_without_optimism_it_is_dpo_on_all_comparisons_so_far():
    bandit, policies = problem(1)
    run = FiniteXPO(Protocol(bandit, BETA, 25, 2), policies).run(np.random.default_rng(2))
    for t in range(1, 26):
        data, _, _ = rows_of(run, t, bandit.shape)
        learned = DPO(BETA, FinitePolicies(policies)).fit(data, bandit.reference)
        assert run.played[t] in learned.diagnostics["tied"]
    np.testing.assert_array_equal(run.record.policy, policies[run.played[-1]])


def test_logged_comparisons_count_like_drawn_ones():
    bandit, policies = problem(2)
    protocol = Protocol(bandit, BETA, 15, 2)
    whole = FiniteXPO(protocol, policies).run(np.random.default_rng(3))
    logged, _, _ = rows_of(whole, 15, bandit.shape)
    run = FiniteXPO(protocol, policies).run(np.random.default_rng(4), logged)
    assert run.played[0] == whole.played[-1]
    rows, _, _ = rows_of(run, 15, bandit.shape)
    columns = [np.concatenate((getattr(logged, c), getattr(rows, c))) for c in
               ("prompt", "chosen", "rejected")]  # fmt: skip
    learned = DPO(BETA, FinitePolicies(policies)).fit(
        PreferenceData(*columns, bandit.shape), bandit.reference
    )
    assert run.played[-1] in learned.diagnostics["tied"]
    equal = PreferenceData([0, 1], [2, 2], [2, 2], bandit.shape)
    said = FiniteXPO(protocol, policies).run(np.random.default_rng(3), equal)
    np.testing.assert_array_equal(said.played, whole.played)


def test_logged_comparisons_weigh_as_much_as_drawn_ones():
    bandit, policies = problem(8)
    logged = sample_preferences(bandit, 60, np.random.default_rng(0))
    before = len(logged) * np.array(
        [empirical_loss(dpo(BETA), pi, bandit.reference, logged) for pi in policies]
    )
    moved = 0
    for seed in range(6):
        protocol = Protocol(bandit, BETA, 30, 2, 0.1)
        run = FiniteXPO(protocol, policies).run(np.random.default_rng(seed), logged)
        for t in range(1, 31):
            values = before + objectives(bandit, policies, run, t, 0.1)
            assert values[run.played[t]] <= values.min() + 1e-9
        moved += len(set(run.played.tolist())) > 1
    assert moved


def test_the_first_policy_is_that_of_the_logged_comparisons():
    bandit, policies = problem(9)
    first = set()
    for seed in range(8):
        logged = sample_preferences(bandit, 5, np.random.default_rng(seed))
        learned = DPO(BETA, FinitePolicies(policies)).fit(logged, bandit.reference)
        engine = FiniteXPO(Protocol(bandit, BETA, 1), policies)
        run = engine.run(np.random.default_rng(seed), logged)
        assert run.played[0] in learned.diagnostics["tied"]
        first.add(int(run.played[0]))
    assert len(first) > 2


def test_a_rounded_sum_draws_only_what_has_mass():
    functions = cumulative(np.array([[0.5, 0.5 - 5e-10, 0.0], [0.0, 1.0, 0.0]]))
    edge = np.array([np.nextafter(1.0, 0.0), 0.0])
    np.testing.assert_array_equal(drawn(functions, edge), [1, 1])


def test_the_regrets_are_those_of_the_policies_played():
    bandit, policies = problem(4)
    run = FiniteXPO(Protocol(bandit, BETA, 12, 2, 0.1), policies).run(np.random.default_rng(0))
    every = np.concatenate((policies, bandit.reference[None]))[run.played[:-1]]
    best = solve(bandit.reward, bandit.reference, KL(), BETA).policy

    def regularized(pi):
        return bandit.value(pi) - BETA * KL()(pi, bandit.reference, bandit.prompt_dist)

    plain = (bandit.prompt_dist @ bandit.reward.max(axis=1)) - bandit.value(every)
    np.testing.assert_allclose(run.record.regret, plain, atol=1e-14)
    expected = regularized(best) - regularized(every)
    np.testing.assert_allclose(run.record.regularized_regret, expected, atol=1e-13)
    np.testing.assert_array_equal(run.record.comparisons, 2 * np.arange(1, 13))


def test_draws_and_labels_have_their_laws():
    bandit, policies = problem(6, size=1)
    noisy = LabelNoise(Protocol(bandit, BETA, 1).law, 0.1)
    protocol = Protocol(bandit, BETA, 2, 40_000, 0.0, policies[0][::-1].copy(), noisy)
    run = FiniteXPO(protocol, policies).run(np.random.default_rng(8))
    for t, first in ((0, bandit.reference), (1, policies[0])):
        x, y, z = run.drawn[t].T
        for column, law in ((y, first), (z, policies[0][::-1])):
            table = np.zeros(bandit.shape)
            np.add.at(table, (x, column), 1.0)
            expected = 40_000 * bandit.prompt_dist[:, None] * law
            # Fails with probability 1e-6 for another seed.
            assert chisquare(table.ravel(), expected.ravel()).pvalue > 1e-6
        wins = noisy.probability(x, y, z)
        sure = (run.won[t] - wins).sum() / np.sqrt((wins * (1 - wins)).sum())
        assert abs(sure) < 5.0


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 3))
def test_a_longer_run_starts_with_the_shorter_one(seed, rounds, batch):
    bandit, policies = problem(5)
    runs = [
        FiniteXPO(Protocol(bandit, BETA, length, batch, 0.3), policies).run(
            np.random.default_rng(seed)
        )
        for length in (rounds, rounds + 4)
    ]
    np.testing.assert_array_equal(runs[0].played, runs[1].played[: rounds + 1])
    np.testing.assert_array_equal(runs[0].drawn, runs[1].drawn[:rounds])


# ---- ties ----------------------------------------------------------------------------------------


def test_what_no_comparison_speaks_for_does_not_move():
    example = hidden_best(0.02, 1e-12, rare=3)
    for opponent in ("policy", "reference"):
        protocol = Protocol(example.bandit, 0.02, 50, opponent=opponent)
        run = FiniteXPO(protocol, example.policies).run(np.random.default_rng(0))
        assert (run.played == 0).all()  # the reference, which is the first of the class


def test_of_tied_policies_the_nearest_is_taken():
    example = hidden_best(0.02, 1e-12, rare=3)
    # Last in the class, the policy for which no rare response is good: it hardly differs from p.
    engine = FiniteXPO(Protocol(example.bandit, 0.02, 20), example.policies[:0:-1])
    for seed in range(5):
        run = engine.run(np.random.default_rng(seed))
        assert run.played[0] == 4  # the reference, which is not in this class
        assert (run.played[1:] == 3).all()


def test_of_equally_near_policies_a_uniform_one_is_taken():
    example = hidden_best(0.1, 1e-9, rare=4)
    protocol = Protocol(example.bandit, 0.1, 1, alpha=0.01)
    engine = FiniteXPO(protocol, example.policies)
    last = [engine.run(np.random.default_rng(seed)).played[-1] for seed in range(400)]
    counts = np.bincount(last, minlength=6)
    assert counts[:2].sum() == 0  # optimism takes one of those that promise something
    assert chisquare(counts[2:]).pvalue > 1e-6


def test_of_policies_that_logged_comparisons_leave_equally_near_a_uniform_one_is_first():
    example = hidden_best(0.1, 1e-9, rare=4)
    policies = example.policies[2:]
    engine = FiniteXPO(Protocol(example.bandit, 0.1, 1), policies)
    # Every rare response won once and lost once, so the policies that promise one are alike.
    rare = np.flatnonzero(np.ptp(policies[:, 0], axis=0) > 0)
    data = PreferenceData([0] * 4, rare, np.roll(rare, 1), example.bandit.shape)
    first = [engine.run(np.random.default_rng(seed), data).played[0] for seed in range(400)]
    assert chisquare(np.bincount(first, minlength=4)).pvalue > 1e-6


# ---- what the paper says: exploration has to be deliberate ---------------------------------------


def stays(mass, rounds):
    """Return the probability that iterated DPO over {p, pi*} plays p in every round.

    Over the numbers of comparisons that the rare response won and lost, which say something only
    where the other one was drawn beside it.
    """
    flat, won, lost = np.log(2.0), np.logaddexp(0.0, -1.0), np.logaddexp(0.0, 1.0)
    apart, beats = 2.0 * mass * (1.0 - mass), 1.0 / (1.0 + np.exp(-1.0))
    law = {(0, 0): 1.0}
    for _ in range(rounds - 1):
        moved = {}
        for (w, n), share in law.items():
            for place, chance in (
                ((w, n), 1.0 - apart), ((w + 1, n + 1), apart * beats),
                ((w, n + 1), apart * (1.0 - beats)),
            ):  # fmt: skip
                wins, all_of_them = place
                if all_of_them * flat <= wins * won + (all_of_them - wins) * lost:
                    moved[place] = moved.get(place, 0.0) + share * chance
        law = moved
    return sum(law.values())


def test_iterated_dpo_waits_for_the_reference_and_xpo_does_not():
    beta, mass, rounds, runs = 0.1, np.exp(-5.0), 74, 500
    example = hidden_best(beta, mass)
    two = example.policies[[0, 2]]
    stuck = {}
    for alpha in (0.0, 0.02):
        engine = FiniteXPO(Protocol(example.bandit, beta, rounds, alpha=alpha), two)
        regrets = np.array(
            [engine.run(np.random.default_rng(s)).record.regularized_regret for s in range(runs)]
        )
        stuck[alpha] = (regrets > 0.49).all(axis=1).sum()
        last = (regrets[:, -1] > 1e-9).mean()
        assert last < 0.05 if alpha else last > 0.4
    exact = stays(mass, rounds)
    assert exact >= (1.0 - mass) ** (2 * (rounds - 1)) > 0.36
    low, high = binom.ppf([1e-6, 1 - 1e-6], runs, exact)
    assert low <= stuck[0.0] <= high
    assert stuck[0.02] == 0


def test_optimism_against_its_own_draws_never_settles():
    example = hidden_best(0.05, np.exp(-10.0))
    regret = []
    for opponent in ("reference", "policy"):
        protocol = Protocol(example.bandit, 0.05, 2000, alpha=0.01, opponent=opponent)
        engine = FiniteXPO(protocol, example.policies)
        runs = [engine.run(np.random.default_rng(s)).record for s in range(5)]
        regret.append(np.mean([r.regularized_regret[-1000:].mean() for r in runs]))
    assert regret[0] < 1e-3
    assert regret[1] > 0.2


# ---- settings ------------------------------------------------------------------------------------


def test_the_weight_of_theory():
    bandit, policies = problem()
    alpha = TheoryAlpha(v_max=2.0, r_max=1.0, delta=0.05, constant=3.0)
    engine = FiniteXPO(Protocol(bandit, BETA, 100, alpha=alpha), policies)
    covered = np.einsum("x,xy->", bandit.prompt_dist, policies.max(axis=0))
    expected = 3 * BETA / (3.0 * np.exp(2)) * np.sqrt(
        np.log(6 * 100 / 0.05) * np.log(100) / (100 * covered)
    )  # fmt: skip
    np.testing.assert_allclose(engine.alphas, np.full(100, expected), rtol=1e-13)
    np.testing.assert_array_equal(ConstantAlpha(2).values(_run(3)),
                                  [2.0, 2.0, 2.0])  # fmt: skip


def _run(rounds):
    from rlhfsim.online.xpo.alpha import Horizon

    return Horizon(rounds, 1.0, None, None)


def test_bad_settings_are_refused():
    bandit, policies = problem()
    good = {"bandit": bandit, "beta": 1.0, "rounds": 2}
    for change, message in (
        ({"bandit": policies}, "bandit is a ndarray; it must be a ContextualBandit"),
        ({"beta": 0.0}, "beta is 0.0; it must be positive"),
        ({"rounds": 0}, "rounds is 0; it must be at least 1"),
        ({"rounds": 2.0}, "rounds is 2.0; it must be an integer"),
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"alpha": -0.1}, "alpha is -0.1; it must be non-negative"),
        ({"alpha": np.nan}, "alpha"),
        ({"opponent": "uniform"}, "opponent is 'uniform'; it must be 'reference', 'policy'"),
        ({"opponent": np.ones((2, 4))}, r"opponent\[0\] sums to 4.0"),
        ({"opponent": np.full((3, 4), 0.25)}, "opponent has shape"),
        ({"labels": 3}, "labels is a int; it must be a PreferenceModel"),
        ({"labels": Protocol(random_bandit(1, 4, np.random.default_rng()), 1.0, 1).law},
         "labels has shape"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Protocol(**(good | change))
    for make, message in (
        (lambda: TheoryAlpha(0.0, 1.0), "v_max is 0.0"),
        (lambda: TheoryAlpha(1.0, 1.0, delta=1.0), "delta is 1.0; it must be in"),
        (lambda: DecreasingAlpha(0.0), "scale is 0.0"),
        (lambda: TheoryAlpha(1.0, 1.0).values(_run(4)), "it needs a finite class"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_bad_classes_and_data_are_refused():
    bandit, policies = problem()
    protocol = Protocol(bandit, BETA, 2)
    partly = ContextualBandit([1.0], [[0.5, 0.5, 0.0]], [[0.0, 1.0, 2.0]])
    other = Protocol(partly, BETA, 2)
    for own, given_class, message in (
        (3, policies, "protocol is a int"),
        (protocol, policies[0], "must be a non-empty"),
        (protocol, np.empty((0, 2, 4)), "must be a non-empty"),
        (protocol, policies[:, :1], "last two axes"),
        (protocol, 3 * policies, r"policies\[0, 0\] sums to"),
        (other, [[[0.5, 0.25, 0.25]]], r"policies\[0, 0, 2\] is 0.25; it must be 0 where"),
        (other, [[[1.0, 0.0, 0.0]]], r"policies\[0, 0, 1\] is 0; it must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            FiniteXPO(own, given_class)
    engine = FiniteXPO(other, [[[0.5, 0.5, 0.0]]])
    with pytest.raises(ValueError, match="data has shape"):
        engine.run(np.random.default_rng(), PreferenceData([0], [0], [1]))
    with pytest.raises(ValueError, match=r"reference\[0, 2\] is 0|are 0"):
        engine.run(np.random.default_rng(), PreferenceData([0], [0], [2], (1, 3)))
    with pytest.raises(ValueError, match="rng is a int"):
        engine.run(3)
    with pytest.raises(ValueError, match="opponent"):
        Protocol(partly, BETA, 2, opponent=[[0.5, 0.25, 0.25]])
    run = engine.run(np.random.default_rng(1))
    assert (run.drawn[..., 1:] < 2).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": -1.0}, "beta is -1.0"),
        ({"mass": 0.0}, "mass is 0.0"),
        ({"rare": 0}, "rare is 0"),
        ({"gap": -1.0}, "gap is -1.0"),
        ({"mass": 0.5, "rare": 2}, "must leave the common one some"),
    ],
)
def test_bad_examples_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        hidden_best(**({"beta": 0.1, "mass": 0.01, "rare": 2} | change))
