"""What learners share: their result, their error, the checks of their arguments."""

import copy
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from rlhfsim.data import PreferenceData, count_pairs
from rlhfsim.learners.base import Learned, Learner, LearnerError, as_problem

POLICY = np.array([[0.25, 0.75], [0.5, 0.5]])


@dataclass(frozen=True)
class Stay:
    """The learner that learns nothing."""

    name: str = "stay"

    def fit(self, data, reference, *, prompt_dist=None, rng=None):
        return Learned(as_problem(data, reference, prompt_dist).reference)


def data():
    return PreferenceData([0, 1, 1], [0, 1, 0], [1, 0, 0], shape=(2, 2))


def learned():
    return Learned(
        POLICY, 2 * POLICY, beta=0.5, residual=1e-16, diagnostics={"tied": np.arange(3), "steps": 4}
    )


def test_a_result_is_a_read_only_copy():
    policy, notes = POLICY.copy(), {"tied": np.arange(3)}
    result = Learned(policy, policy, diagnostics=notes)
    policy[:] = 0.5
    notes["tied"][:] = 7
    notes["more"] = 1
    np.testing.assert_array_equal(result.policy, POLICY)
    np.testing.assert_array_equal(result.reward, POLICY)
    np.testing.assert_array_equal(result.diagnostics["tied"], np.arange(3))
    assert set(result.diagnostics) == {"tied"}
    for array in (result.policy, result.reward, result.diagnostics["tied"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(TypeError):
        result.diagnostics["more"] = 1
    with pytest.raises(AttributeError):
        result.policy = POLICY


@pytest.mark.parametrize("again", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_stay_frozen(again):
    result = again(learned())
    np.testing.assert_array_equal(result.policy, POLICY)
    np.testing.assert_array_equal(result.diagnostics["tied"], np.arange(3))
    assert (result.beta, result.residual, result.objective) == (0.5, 1e-16, None)
    assert result.diagnostics["steps"] == 4
    for array in (result.policy, result.reward, result.diagnostics["tied"]):
        assert not array.flags.writeable
    error = again(LearnerError("residual 1", learned()))
    assert str(error) == "residual 1"
    np.testing.assert_array_equal(error.learned.policy, POLICY)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": POLICY[0]}, "policy has shape"),
        ({"policy": 2 * POLICY}, r"policy\[0\] sums to 2"),
        ({"policy": np.array([[1.5, -0.5]])}, r"policy\[0, 1\] is -0.5"),
        ({"policy": POLICY, "reward": POLICY[:1]}, r"reward has shape \(1, 2\)"),
        ({"policy": POLICY, "reward": np.full((2, 2), np.nan)}, r"reward\[0, 0\] is nan"),
    ],
)
def test_results_that_are_no_policies_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Learned(**change)


def test_the_protocol():
    assert isinstance(Stay(), Learner)
    assert not isinstance("stay", Learner)
    np.testing.assert_array_equal(Stay().fit(data(), POLICY).policy, POLICY)


def test_arguments():
    problem = as_problem(data(), POLICY.tolist(), [0.25, 0.75])
    assert problem.counts.shape == (2, 2)
    assert problem.counts.equal_pairs == 1
    np.testing.assert_array_equal(problem.prompt_dist, [0.25, 0.75])
    counts = count_pairs(data())
    assert as_problem(counts, POLICY).counts is counts
    assert as_problem(counts, POLICY).prompt_dist is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros((3, 2)), POLICY), "data is a ndarray"),
        ((data(), POLICY[:1]), r"reference has shape \(1, 2\); it must have shape \(2, 2\)"),
        ((data(), 2 * POLICY), r"reference\[0\] sums to 2"),
        ((data(), -POLICY), r"reference\[0, 0\] is -0.25"),
        ((data(), POLICY, [1.0]), r"prompt_dist has shape \(1,\); it must be \(2,\)"),
        ((data(), POLICY, [0.5, 0.6]), "prompt_dist sums to"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        as_problem(*arguments)
