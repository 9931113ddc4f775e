"""Training dynamics: what theory says of the paths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from rlhfsim import KL, ChiSquared, ContextualBandit, fit_reward, solve
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.dynamics import train
from rlhfsim.instances import random_bandit
from rlhfsim.losses import chipo, dpo, ipo
from rlhfsim.rewards import mle_exists
from rlhfsim.sampling import sample_preferences


def one_prompt(*rows, responses):
    """Return the counts of rows `(winner, loser, count)` of one prompt."""
    winner, loser, count = zip(*sorted(rows), strict=True)
    return PairCounts(
        np.zeros(len(rows), int), np.array(winner), np.array(loser), np.array(count, float),
        0.0, (1, responses),
    )  # fmt: skip


# ---- the optimum ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "divergence"),
    [(dpo(0.5), KL()), (chipo(0.5), ChiSquared() + KL())],
    ids=["DPO", "chiPO"],
)
def test_full_steps_lead_to_the_optimum(loss, divergence):
    """The global minimum of the direct loss, non-convex for chiPO, by the convex route.

    That is: maximum likelihood, then the regularized optimum.
    """
    rng = np.random.default_rng(0)
    bandit = ContextualBandit([0.5, 0.5], np.full((2, 4), 0.25), rng.uniform(size=(2, 4)))
    data = sample_preferences(bandit, 300, rng)
    assert mle_exists(data).all()
    fit = fit_reward(data)
    best = solve(fit.reward, bandit.reference, divergence, 0.5).policy
    path = train(
        loss, data, bandit.reference, steps=30000, learning_rate=4.0, record_every=500,
        prompt_dist=bandit.prompt_dist,
    )  # fmt: skip
    np.testing.assert_allclose(path.policy[0], best, rtol=1e-7)
    assert path.gradient_norm[0, 0] > 0.01
    assert path.gradient_norm[0, -1] < 1e-9
    assert path.loss[0, -1] == pytest.approx(-fit.log_likelihood / len(data), rel=1e-12)
    assert (np.diff(path.loss[0]) <= 1e-15).all()


def test_steps_on_dpo_are_steps_on_the_reward():
    """`beta theta` follows the gradient of the Bradley-Terry loss, at the rate times beta^2.

    As the derivatives of a prompt sum to 0, the normalizer drops out; the policy is the Gibbs
    policy of that reward.
    """
    bandit = random_bandit(2, 5, np.random.default_rng(2))
    data = sample_preferences(bandit, 100, np.random.default_rng(3))
    beta, rate = 0.3, 2.0
    reward = np.zeros((2, 5))
    for _ in range(60):
        lost = expit(reward[data.prompt, data.rejected] - reward[data.prompt, data.chosen])
        np.add.at(reward, (data.prompt, data.chosen), rate * beta**2 * lost / len(data))
        # The rows of the batch see the same reward: `lost` was computed before.
        np.add.at(reward, (data.prompt, data.rejected), -rate * beta**2 * lost / len(data))
    path = train(
        dpo(beta), data, bandit.reference, steps=60, learning_rate=rate,
        prompt_dist=bandit.prompt_dist,
    )  # fmt: skip
    gibbs = solve(reward, bandit.reference, KL(), beta).policy
    np.testing.assert_allclose(path.policy[0], gibbs, rtol=1e-12)


# ---- how large a step may be ---------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 3.0), st.floats(0.05, 0.999))
def test_dpo_falls_below_the_largest_step(seed, beta, share):
    """The curvature of the loss is at most `beta^2/4` times `|e_y - e_y'|^2 = 2`.

    So the loss never rises at a rate below `4/beta^2`.
    """
    rng = np.random.default_rng(seed)
    bandit = random_bandit(2, 4, rng)
    data = sample_preferences(bandit, int(rng.integers(1, 30)), rng)
    path = train(
        dpo(beta), data, bandit.reference, steps=40, learning_rate=share * 4 / beta**2,
        prompt_dist=bandit.prompt_dist,
    )  # fmt: skip
    assert (np.diff(path.loss[0]) <= 1e-15).all()


@pytest.mark.parametrize(("share", "falls"), [(0.98, True), (1.02, False)])
def test_the_largest_step_is_tight(share, falls):
    """One win each, nearly at the optimum: the curvature is `beta^2/2`."""
    counts = one_prompt((0, 1, 1), (1, 0, 1), responses=2)
    p = np.array([[0.5, 0.5]])
    path = train(
        dpo(0.5), counts, p, steps=20, learning_rate=share * 4 / 0.25, start=[[0.51, 0.49]]
    )  # fmt: skip
    assert (np.diff(path.loss[0]) < 0).all() == falls
    assert (path.loss[0, -1] < path.loss[0, 0]) == falls


def test_ipo_in_closed_form():
    """The gap of the log ratios nears its target by the factor `1 - 4 rate` in each step."""
    data = PreferenceData([0], [0], [1], (1, 2))
    path = train(ipo(0.25), data, np.array([[0.3, 0.7]]), steps=30, learning_rate=0.05)
    gap = 2.0 * (1 - 0.8 ** np.arange(31))
    np.testing.assert_allclose(path.loss[0], (gap - 2.0) ** 2, rtol=1e-11)
    at = np.log(0.3 / 0.7) + gap
    np.testing.assert_allclose(path.chosen_logp[0], -np.log1p(np.exp(-at)), rtol=1e-13)


# ---- likelihood displacement ---------------------------------------------------------------------


@pytest.mark.parametrize("loss", [dpo(0.1), chipo(0.1)], ids=["DPO", "chiPO"])
def test_likelihood_displacement(loss):
    """Both log-probabilities fall in every step while the loss falls.

    With one feature, 1 for the chosen response, 0 for the rejected one and 2 for a third that
    was never shown, theta rises and `d log pi(y+)/d theta = 1 - E_pi[phi]` is negative from the
    start: the third response takes the mass.  Source: arXiv 2410.08847.
    """
    data = PreferenceData([0], [0], [1], (1, 3))
    p = np.array([[0.2, 0.2, 0.6]])
    feature = np.array([[[1.0], [0.0], [2.0]]])
    path = train(loss, data, p, steps=400, learning_rate=1.0, features=feature)
    for quantity in (path.loss, path.chosen_logp, path.rejected_logp):
        assert (np.diff(quantity[0]) < 0).all()
    margin = path.chosen_logp - path.rejected_logp
    assert (np.diff(margin[0]) > 0).all()
    assert path.policy[0, 0, 2] > 0.9
    theta = path.parameter[0, 0]
    expected = p[0] * np.exp(theta * np.array([1.0, 0.0, 2.0]))
    np.testing.assert_allclose(path.policy[0, 0], expected / expected.sum(), rtol=1e-12)
    # With a third response in the middle, the chosen one gains.
    feature[0, 2] = 0.5
    path = train(loss, data, p, steps=400, learning_rate=1.0, features=feature)
    assert (np.diff(path.chosen_logp[0]) > 0).all()


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_no_displacement_of_a_single_tabular_comparison(seed):
    """In each step, `log pi(y+)` moves by g (1 - pi+ + pi-) and `log pi(y-)` by -g (1 + pi+ - pi-).

    To first order, for DPO, g > 0.  For chiPO the slopes of the links are g+ >= g-, and `log
    pi(y+)` rises all the same.
    """
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(4, 0.5), 1) + 1e-12
    data = PreferenceData([0], [2], [1], (1, 4))
    for loss in (dpo(0.5), chipo(0.2)):
        path = train(loss, data, p / p.sum(), steps=50, learning_rate=0.5)
        assert (np.diff(path.chosen_logp[0]) > -1e-15).all()
        assert path.chosen_logp[0, -1] > path.chosen_logp[0, 0]
        if loss.name == "DPO":
            assert (np.diff(path.rejected_logp[0]) < 0).all()


def test_chipo_may_raise_the_rejected_response():
    """Where most mass is on a third response that loses it to both.

    With slopes g+ > g- the sum of the gradient is not 0, and all logits pay `pi (g+ - g-)`: the
    third one most.  `log pi(y-)` moves by `g+ (|pi|^2 - pi- - pi+) - g- (1 - 2 pi- + |pi|^2)`.
    """
    data = PreferenceData([0], [0], [1], (1, 3))
    p, settings = np.array([[0.002, 0.002, 0.996]]), {"steps": 400, "learning_rate": 0.2}
    path = train(chipo(0.2), data, p, **settings)
    rejected = path.rejected_logp[0]
    low = rejected.argmin()
    assert 10 < low < 30
    assert rejected[-1] > rejected[low] + 0.5
    assert (np.diff(path.loss[0]) < 0).all()
    same = train(dpo(0.2), data, p, **settings)
    assert (np.diff(same.rejected_logp[0]) < 0).all()


# ---- overoptimization ----------------------------------------------------------------------------


def test_overoptimization_over_epochs():
    """A rare and bad response won its only comparison: gold rises first, and then falls.

    DPO ends with all mass on it, at `KL = log(1/0.01)`; chiPO with its clip stays above the
    start, though its loss is as unbounded in the data.
    """
    counts = one_prompt((0, 1, 20), (1, 0, 10), (2, 0, 1), responses=3)
    p, gold = np.array([[0.49, 0.5, 0.01]]), np.array([[1.0, 0.5, 0.0]])
    settings = {"steps": 20000, "learning_rate": 5.0, "gold": gold, "record_every": 10}
    path = train(dpo(0.1), counts, p, **settings)
    peak = path.peak[0]
    assert 50 < path.step[peak] < 300
    assert path.gold[0, 0] == pytest.approx(0.74)
    assert path.gold[0, peak] > 0.99
    assert path.gold[0, -1] < 1e-9
    assert path.kl[0, -1] == pytest.approx(np.log(100), rel=1e-9)
    assert path.concentrability[0, -1] == pytest.approx(100, rel=1e-9)
    assert (np.diff(path.loss[0]) < 0).all()
    careful = train(chipo(0.1, r_max=1.0), counts, p, **settings)
    assert careful.gold[0, careful.peak[0]] > 0.9
    assert careful.gold[0, -1] > 0.74
    assert careful.concentrability[0].max() < 10


def test_a_prompt_without_comparisons_stays():
    bandit = random_bandit(3, 4, np.random.default_rng(0))
    data = PreferenceData([0, 2, 2], [0, 1, 2], [1, 3, 0], (3, 4))
    for loss in (dpo(0.5), chipo(0.5)):
        path = train(
            loss, data, bandit.reference, steps=200, learning_rate=5.0,
            prompt_dist=bandit.prompt_dist,
        )  # fmt: skip
        np.testing.assert_allclose(path.policy[0, 1], bandit.reference[1], rtol=1e-14)
        assert np.abs(path.policy[0, [0, 2]] - bandit.reference[[0, 2]]).max(axis=1).min() > 0.05
