"""Named instances have the structure they promise."""

import numpy as np
import pytest

from rlhfsim import (
    concentrability,
    log_linear_bandit,
    proposition_a1,
    random_bandit,
    zipf_bandit,
)
from rlhfsim.instances import REWARD_LAWS


@pytest.mark.parametrize("law", REWARD_LAWS, ids=lambda f: f.__name__)
def test_random_bandits_are_reproducible_and_valid(law):
    first = random_bandit(5, 7, np.random.default_rng(3), reward_law=law)
    again = random_bandit(5, 7, np.random.default_rng(3), reward_law=law)
    other = random_bandit(5, 7, np.random.default_rng(4), reward_law=law)
    assert first.shape == (5, 7)
    np.testing.assert_array_equal(first.reward, again.reward)
    np.testing.assert_array_equal(first.reference, again.reference)
    assert not np.array_equal(first.reference, other.reference)


def test_sparse_reward_marks_one_response_per_prompt():
    bandit = random_bandit(50, 8, np.random.default_rng(0), reward_law=REWARD_LAWS[2])
    np.testing.assert_array_equal(bandit.reward.sum(axis=1), 1.0)
    assert set(np.unique(bandit.reward)) == {0.0, 1.0}
    assert len(set(bandit.reward.argmax(axis=1))) > 4


def test_skew_makes_coverage_worse():
    def coverage(skew):
        bandit = random_bandit(400, 10, np.random.default_rng(1), skew=skew)
        uniform = np.full(bandit.shape, 0.1)
        return float(concentrability(uniform, bandit.reference, bandit.prompt_dist))

    flat, dirichlet = coverage(0.01), coverage(0.2)
    assert flat < 1.02
    assert dirichlet > 1.1 * flat
    # Var of a Dirichlet(1/skew) entry is (1/Y)(1 - 1/Y)/(Y/skew + 1).
    bandit = random_bandit(4000, 10, np.random.default_rng(2), skew=4.0)
    assert bandit.reference.var() == pytest.approx(0.1 * 0.9 / (10 / 4.0 + 1), rel=0.03)


def test_zipf_tail_has_its_exponent():
    bandit = zipf_bandit(6, 100, np.random.default_rng(0), exponent=1.5)
    ranked = -np.sort(-bandit.reference, axis=1)
    slope = np.diff(np.log(ranked), axis=1) / np.diff(np.log(np.arange(1, 101)))
    np.testing.assert_allclose(slope, -1.5, rtol=1e-9)
    assert len({tuple(np.argsort(row)) for row in bandit.reference}) == 6


def test_log_linear_bandit_is_linear():
    instance = log_linear_bandit(4, 9, 3, np.random.default_rng(0), norm=2.0, reference_norm=0.5)
    bandit = instance.bandit
    assert np.linalg.norm(instance.features, axis=-1).max() <= 1 + 1e-12
    assert np.linalg.norm(instance.parameter) == pytest.approx(2.0)
    np.testing.assert_allclose(bandit.reward, instance.features @ instance.parameter, rtol=1e-13)
    logits = np.log(bandit.reference) - instance.features @ instance.reference_parameter
    assert np.ptp(logits, axis=1).max() < 1e-12
    with pytest.raises(ValueError, match="read-only"):
        instance.features[0, 0, 0] = 1.0


@pytest.mark.parametrize("n", [3, 1000, 10**9])
def test_proposition_instance(n):
    instance = proposition_a1(n)
    delta = 1 / (2 * np.log(n))
    np.testing.assert_allclose(instance.bandit.reference[0], [0.5, 0.5 - 1 / n, 1 / n])
    np.testing.assert_allclose(instance.reward_class[0, 0], [0.5, 0.5 - delta, 0.0])
    np.testing.assert_allclose(instance.reward_class[1, 0], [0.5, 0.5 - delta, 1.0])
    np.testing.assert_array_equal(instance.bandit.reward, instance.reward_class[0])
    np.testing.assert_array_equal(instance.bandit.optimal_policy(), instance.comparator)
    assert concentrability(instance.comparator, instance.bandit.reference) == 2.0


def test_copies_stay_frozen():
    import copy
    import pickle

    instance = log_linear_bandit(2, 3, 2, np.random.default_rng(0))
    for again in (copy.deepcopy(instance), pickle.loads(pickle.dumps(instance))):
        np.testing.assert_array_equal(again.features, instance.features)
        np.testing.assert_array_equal(again.bandit.reference, instance.bandit.reference)
        assert not again.features.flags.writeable
        assert not again.bandit.reward.flags.writeable
    assert not copy.deepcopy(proposition_a1(5)).comparator.flags.writeable


def test_bad_input_is_named():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="n_prompts is 0; it must be at least 1"):
        random_bandit(0, 3, rng)
    with pytest.raises(ValueError, match=r"n_responses is 2\.5; it must be an integer"):
        random_bandit(1, 2.5, rng)
    with pytest.raises(ValueError, match="rng is a int"):
        random_bandit(1, 2, 0)
    with pytest.raises(ValueError, match=r"skew is 0\.0; it must be positive"):
        random_bandit(1, 2, rng, skew=0.0)
    with pytest.raises(ValueError, match=r"exponent is -1\.0; it must be non-negative"):
        zipf_bandit(1, 2, rng, exponent=-1.0)
    with pytest.raises(ValueError, match="n is 2; it must be at least 3"):
        proposition_a1(2)
