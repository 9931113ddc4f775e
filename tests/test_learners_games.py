"""Learners of general preferences: from comparisons to equilibria of the estimated game."""

import pickle

import numpy as np
import pytest

from rlhfsim import (
    KL,
    BradleyTerry,
    ChiSquared,
    ContextualBandit,
    PreferenceData,
    Tabular,
    borda_scores,
    population_pairs,
    random_preference,
    sample_preferences,
)
from rlhfsim.data import PairCounts
from rlhfsim.games import (
    duality_gap,
    estimated_preference,
    iterative_chi_po,
    minimax_winner,
    nash_md,
    self_play,
    solve_nash,
)
from rlhfsim.learners import RLHF, Learner
from rlhfsim.learners.games import (
    IterativeChiPO,
    MinimaxWinner,
    NashMD,
    OnLaw,
    RegularizedNash,
    SelfPlay,
)

LEARNERS = (
    MinimaxWinner(),
    RegularizedNash(0.3),
    RegularizedNash(0.3, ChiSquared() + KL()),
    SelfPlay(40),
    SelfPlay(40, average=False),
    NashMD(0.3, 40),
    IterativeChiPO(0.3, 40),
)
IDS = [f"{k}-{x.name}" for k, x in enumerate(LEARNERS)]


def problem(seed=0, shape=(3, 5)):
    rng = np.random.default_rng(seed)
    model = random_preference(rng, shape)
    reference = rng.dirichlet(np.full(shape[1], 2.0), shape[0])
    rho = np.full(shape[0], 1 / shape[0])
    return model, ContextualBandit(rho, reference, borda_scores(model, reference))


def fitted(learner, data, bandit):
    return learner.fit(data, bandit.reference, prompt_dist=bandit.prompt_dist)


@pytest.mark.parametrize("learner", LEARNERS, ids=IDS)
def test_the_protocol(learner):
    model, bandit = problem()
    assert isinstance(learner, Learner)
    data = sample_preferences(bandit, 400, np.random.default_rng(1), model=model)
    learned = fitted(learner, data, bandit)
    assert learned.policy.shape == (3, 5)
    np.testing.assert_allclose(learned.policy.sum(axis=1), 1.0, atol=1e-12)
    if learned.residual is not None:
        assert 0 <= learned.residual < 1e-12
    again = fitted(pickle.loads(pickle.dumps(learner)), data, bandit)
    np.testing.assert_array_equal(again.policy, learned.policy)
    rng = np.random.default_rng(2)
    rows, new = rng.permutation(400), rng.permutation(5)
    old = np.argsort(new)
    other = PreferenceData(
        data.prompt[rows], new[data.chosen[rows]], new[data.rejected[rows]], (3, 5)
    )
    renamed = learner.fit(other, bandit.reference[:, old])
    np.testing.assert_allclose(renamed.policy[:, new], learned.policy, atol=1e-9)


@pytest.mark.parametrize("learner", LEARNERS, ids=IDS)
def test_what_the_reference_lacks_gets_nothing(learner):
    model, _ = problem(3)
    reference = np.array([[0.5, 0.5, 0.0, 0.0, 0.0], [0.2] * 5, [0.0, 0.0, 1.0, 0.0, 0.0]])
    bandit = ContextualBandit(np.full(3, 1 / 3), reference, np.zeros((3, 5)))
    data = sample_preferences(bandit, 300, np.random.default_rng(4), model=model)
    policy = fitted(learner, data, bandit).policy
    assert not policy[reference == 0].any()
    np.testing.assert_array_equal(policy[2], [0, 0, 1, 0, 0])


@pytest.mark.parametrize("learner", [SelfPlay(9), SelfPlay(9, average=False), NashMD(0.3, 9),
                                     IterativeChiPO(0.3, 9)])  # fmt: skip
def test_estimated_gaps_are_those_of_all_deviations(learner):
    """The third response won all its comparisons; a reference without it cannot answer."""
    law = PairCounts([0, 0, 0], [0, 2, 2], [1, 0, 1], [20.0, 30.0, 30.0], 0.0, (1, 3))
    learned = learner.fit(law, [[0.5, 0.5, 0.0]])
    game = estimated_preference(law)
    found = learned.diagnostics["estimated_gap"]
    assert (found > 1.8).all()
    if not (isinstance(learner, SelfPlay) and learner.average):
        np.testing.assert_array_equal(found[-1], duality_gap(learned.policy, game))


def test_they_play_the_estimated_game():
    model, bandit = problem(5)
    data = sample_preferences(bandit, 500, np.random.default_rng(6), model=model)
    p, game = bandit.reference, estimated_preference(data, smoothing=2.0)
    mixed = ChiSquared() + KL()
    pairs = [
        (MinimaxWinner(2.0), minimax_winner(game).policy),
        (RegularizedNash(0.2, mixed, 2.0), solve_nash(game, p, mixed, 0.2).policy),
        (SelfPlay(30, 0.3, smoothing=2.0), self_play(game, p, 30, step=0.3).average),
        (SelfPlay(30, 0.3, False, 2.0), self_play(game, p, 30, step=0.3).policy),
        (NashMD(0.2, 30, smoothing=2.0), nash_md(game, p, 0.2, 30).policy),
        (NashMD(0.2, 30, 0.5, 2.0), nash_md(game, p, 0.2, 30, step=0.5).policy),
        (IterativeChiPO(0.2, 30, 0.5, 2.0), iterative_chi_po(game, p, 0.2, 30, step=0.5).policy),
        (
            IterativeChiPO(0.2, 30, None, 2.0, ChiSquared()),
            iterative_chi_po(game, p, 0.2, 30, divergence=ChiSquared()).policy,
        ),
    ]
    for learner, expected in pairs:
        np.testing.assert_array_equal(fitted(learner, data, bandit).policy, expected)
    learned = fitted(NashMD(0.2, 30), data, bandit)
    assert learned.diagnostics["regularized_gap"].shape == (31, 3)
    reward = fitted(RegularizedNash(0.2, mixed, 2.0), data, bandit)
    against = np.einsum("xyz,xz->xy", 2 * game.tensor() - 1, reward.policy)
    np.testing.assert_allclose(reward.reward, against, atol=1e-15)


@pytest.mark.parametrize("average", [True, False])
def test_estimated_gaps_of_self_play_are_those_of_what_it_returns(average):
    model, bandit = problem(5)
    data = sample_preferences(bandit, 500, np.random.default_rng(6), model=model)
    learned = fitted(SelfPlay(9, average=average), data, bandit)
    trace = self_play(estimated_preference(data), bandit.reference, 9)
    assert not np.array_equal(trace.average_gap, trace.gap)
    expected = trace.average_gap if average else trace.gap
    np.testing.assert_array_equal(learned.diagnostics["estimated_gap"], expected)


def test_the_residual_of_the_winner_is_its_largest_gap():
    model, bandit = problem(5)
    data = sample_preferences(bandit, 500, np.random.default_rng(6), model=model)
    gap = minimax_winner(estimated_preference(data)).gap
    assert fitted(MinimaxWinner(), data, bandit).residual == np.abs(gap).max()


def test_a_learner_on_the_law_gets_the_weights_of_prompts():
    model, bandit = problem(5)
    law = population_pairs(bandit, model=model)
    data = sample_preferences(bandit, 50, np.random.default_rng(6), model=model)
    learner = RLHF(0.3, KL(), Tabular(ridge=0.1))
    rho = [0.7, 0.2, 0.1]
    found = OnLaw(learner, law).fit(data, bandit.reference, prompt_dist=rho)
    known = learner.fit(law, bandit.reference, prompt_dist=rho)
    assert found.objective is not None
    assert found.objective == known.objective


def test_infinite_data_give_the_true_equilibria():
    model, bandit = problem(7)
    law = population_pairs(bandit, model=model)
    found = fitted(MinimaxWinner(0.0), law, bandit).policy
    np.testing.assert_allclose(found, minimax_winner(model).policy, atol=1e-12)
    assert (duality_gap(found, model) < 1e-13).all()
    nash = fitted(RegularizedNash(0.4, smoothing=0.0), law, bandit).policy
    np.testing.assert_allclose(nash, solve_nash(model, bandit.reference, KL(), 0.4).policy)


def test_rewards_are_a_special_case():
    """On Bradley-Terry preferences the winner is the best response, of much data as of its law."""
    reward = np.array([[0.0, 1.0, 2.0, 0.5], [1.0, -1.0, 0.3, 0.0]])
    bandit = ContextualBandit([0.5, 0.5], np.full((2, 4), 0.25), reward)
    for data in (
        population_pairs(bandit),
        sample_preferences(bandit, 20_000, np.random.default_rng(8)),
    ):
        policy = fitted(MinimaxWinner(), data, bandit).policy
        np.testing.assert_array_equal(policy, np.eye(4)[[2, 0]])
    model = BradleyTerry(reward)
    small = fitted(RegularizedNash(1e-3, smoothing=0.0), population_pairs(bandit), bandit).policy
    np.testing.assert_allclose(small, minimax_winner(model).policy, atol=1e-12)


def test_what_was_never_compared_ties():
    """Prompt 1 has no data: the most spread winner is uniform, others are the reference."""
    p = np.array([[0.2, 0.3, 0.5]] * 2)
    data = PreferenceData([0, 0, 0], [0, 0, 1], [1, 2, 2], (2, 3))
    np.testing.assert_allclose(MinimaxWinner().fit(data, p).policy[1], 1 / 3)
    for learner in LEARNERS[1:]:
        np.testing.assert_allclose(learner.fit(data, p).policy[1], p[1], atol=1e-15)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MinimaxWinner(-1.0), "smoothing is -1.0"),
        (lambda: RegularizedNash(0.0), "beta is 0.0"),
        (lambda: RegularizedNash(1.0, "kl"), "divergence is 'kl'"),
        (lambda: SelfPlay(0), "iterations is 0"),
        (lambda: SelfPlay(3, step=-1.0), "step is -1.0"),
        (lambda: SelfPlay(3, average=1), "average is 1"),
        (lambda: NashMD(1.0, 3, step=2.0), "step is 2.0; it must be at most 1/beta, 1.0"),
        (lambda: NashMD(np.nan), "beta is nan"),
        (lambda: IterativeChiPO(1.0, divergence=None), "divergence is None"),
        (lambda: IterativeChiPO(1.0, 2.5), "iterations is 2.5"),
        (lambda: MinimaxWinner().fit([1], [[1.0]]), "data is a list"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
