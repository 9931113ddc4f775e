import math
from fractions import Fraction

import numpy as np
import pytest

from rlhfsim.coverage import (
    all_policy_concentrability,
    concentrability,
    max_concentrability,
)
from rlhfsim.divergences import ChiSquared

RHO = np.array([0.25, 0.75])
POLICY = np.array([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
REFERENCE = np.array([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]])


def test_by_hand():
    def ratios(x):
        return [
            (Fraction(a), Fraction(a) / Fraction(b))
            for a, b in zip(POLICY[x], REFERENCE[x], strict=True)
        ]

    each = [sum(a * w for a, w in ratios(x)) for x in range(2)]
    assert each == [2, Fraction(11, 8)]
    assert concentrability(POLICY, REFERENCE, RHO) == float(each[0] / 4 + each[1] * 3 / 4)
    assert max_concentrability(POLICY, REFERENCE, RHO) == 2
    assert all_policy_concentrability(REFERENCE, RHO) == 4
    assert concentrability(POLICY[1], REFERENCE[1]) == 1.375
    assert max_concentrability(POLICY[1], REFERENCE[1]) == 2
    assert all_policy_concentrability([0.1, 0.9]) == pytest.approx(10, rel=1e-15)
    assert concentrability(REFERENCE, REFERENCE, RHO) == 1


def test_is_one_plus_twice_chi_squared_and_below_the_maximum():
    rng = np.random.default_rng(0)
    policy = rng.dirichlet(np.ones(6), (50, 4))
    reference, rho = rng.dirichlet(np.ones(6), 4), rng.dirichlet(np.ones(4))
    c = concentrability(policy, reference, rho)
    assert c.shape == (50,)
    np.testing.assert_allclose(c, 1 + 2 * ChiSquared()(policy, reference, rho), rtol=1e-13)
    c_max = max_concentrability(policy, reference, rho)
    np.testing.assert_array_equal(c_max, (policy / reference).max(axis=(1, 2)))
    assert np.all(c < c_max)
    # The worst policy of all puts everything on the rarest response.
    worst = np.eye(6)[reference.argmin(axis=1)]
    bound = all_policy_concentrability(reference, rho)
    assert concentrability(worst, reference, rho) == pytest.approx(float(bound), rel=1e-14)
    assert np.all(c < bound)


def test_support_and_prompts_of_weight_zero():
    reference = np.array([[1.0, 0.0], [0.5, 0.5]])
    policy = np.array([[0.0, 1.0], [1.0, 0.0]])
    for function in (concentrability, max_concentrability):
        assert function(policy, reference, [0.5, 0.5]) == np.inf
        assert function(policy, reference, [0.0, 1.0]) == 2
        assert function([1.0, 0.0], [1.0, 0.0]) == 1
    assert all_policy_concentrability(reference, [0.5, 0.5]) == np.inf
    assert all_policy_concentrability(reference, [0.0, 1.0]) == 2
    assert math.isinf(concentrability([0.0, 1.0], [1.0, 0.0]))
    assert concentrability([0.5, 0.5], [1e-300, 1.0]) == pytest.approx(2.5e299, rel=1e-15)


def test_references_below_the_normal_floats():
    # pi/p is beyond the floats, pi^2/p is not: 1e-10^2 / 1e-322.
    reference, policy = np.array([1e-322, 1.0]), np.array([1e-10, 1.0 - 1e-10])
    assert policy[0] ** 2 / 1e-30 / (reference[0] * 1e30) == pytest.approx(
        concentrability(policy, reference), rel=1e-12
    )
    assert max_concentrability(policy, reference) == np.inf
    assert concentrability([0.5, 0.5], [5e-324, 1.0]) == np.inf
    assert concentrability([0.0, 1.0], [5e-324, 1.0]) == 1
    assert all_policy_concentrability([5e-324, 1.0]) == np.inf
    tiny = np.array([4e-308, 6e-309, 1.0])
    assert concentrability([1 - 2.0**-30, 0.0, 2.0**-30], tiny) == pytest.approx(2.5e307, rel=1e-8)
    assert concentrability([0.9, 0.1, 0.0], [6e-309, 6e-309, 1.0]) == pytest.approx(
        0.82 / 6e-309, rel=1e-12
    )


@pytest.mark.parametrize("function", [concentrability, max_concentrability])
def test_bad_input(function):
    with pytest.raises(ValueError, match="prompt_dist is missing; with 2 prompts"):
        function(POLICY, REFERENCE)
    with pytest.raises(ValueError, match=r"prompt_dist has shape \(3,\); it must be \(2,\)"):
        function(POLICY, REFERENCE, [0.5, 0.25, 0.25])
    with pytest.raises(ValueError, match=r"policy\[0\] sums to 2\.0"):
        function(2 * POLICY, REFERENCE, RHO)
    with pytest.raises(ValueError, match=r"last axes differ: policy \(2, 2\), reference \(2, 3\)"):
        function(POLICY[:, :2] + [[0, 0], [0, 0.5]], REFERENCE, RHO)
    with pytest.raises(ValueError, match=r"last axes differ: policy \(2, 3\), reference \(1, 1\)"):
        function(POLICY, [[1.0]], RHO)
    with pytest.raises(ValueError, match=r"shapes do not broadcast: policy \(3, 3\), ref"):
        function(np.eye(3), REFERENCE, RHO)


def test_arrays_are_not_mutated():
    arrays = [POLICY.copy(), REFERENCE.copy(), RHO.copy()]
    for array in arrays:
        array.setflags(write=False)
    concentrability(*arrays)
    max_concentrability(*arrays)
    all_policy_concentrability(*arrays[1:])
    for array, original in zip(arrays, (POLICY, REFERENCE, RHO), strict=True):
        np.testing.assert_array_equal(array, original)
