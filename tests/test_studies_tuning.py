"""Choosing a parameter from cells: against loops and dense grids."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim import KL, solve
from rlhfsim.studies.instances import Random
from rlhfsim.studies.methods import DPOMethod, FiniteClassOfPolicies, SLiCMethod
from rlhfsim.studies.tuning import along, cross_fitted, halves, window


def cells(values):
    """Return rows as a study has them, for (environments, seeds, K) values."""
    rows = [
        {"environment": e, "seed": s, "parameter_value": 10.0**k, "regret": value}
        for (e, s, k), value in np.ndenumerate(values)
    ]
    return pd.DataFrame(rows).sample(frac=1.0, random_state=0)


def test_rows_become_units_and_environments():
    values = np.random.default_rng(0).random((3, 2, 4))
    found = along(cells(values), "regret")
    assert found.grid.tolist() == [1.0, 10.0, 100.0, 1000.0]
    assert np.array_equal(found.measured, values.reshape(6, 4))
    assert found.units.tolist() == [[e, s] for e in range(3) for s in range(2)]
    each = found.averaged()
    assert each.measured == pytest.approx(values.mean(axis=1))
    assert each.units.tolist() == [[0], [1], [2]]


def test_a_value_that_a_unit_lacks_is_left_out():
    rows = cells(np.random.default_rng(1).random((2, 2, 3)))
    lost = rows[(rows["environment"] != 1) | (rows["parameter_value"] != 10.0)]
    assert along(lost, "regret").grid.tolist() == [1.0, 100.0]
    with pytest.raises(ValueError, match="no value of the parameter"):
        along(rows[rows["environment"] + 1 == np.log10(rows["parameter_value"])], "regret")
    with pytest.raises(ValueError, match="do not tell apart"):
        along(pd.concat([rows, rows]), "regret")


def test_no_unit_chooses_for_itself():
    rng = np.random.default_rng(2)
    values, fold = rng.random((7, 5)), halves(7)
    found = cross_fitted(values, fold)
    for i in range(7):
        others = [values[j] for j in range(7) if fold[j] != fold[i]]
        assert found[i] == values[i, np.mean(others, axis=0).argmin()]
    # Pure noise: the least mean is below 1/2, the cross-fitted one is not (5 standard errors).
    noise = rng.random((4000, 200))
    assert noise.mean(axis=0).min() < 0.5 - 2 * 0.29 / 4000**0.5
    assert abs(cross_fitted(noise, halves(4000)).mean() - 0.5) < 5 * 0.29 / 4000**0.5


@given(st.lists(st.floats(0.1, 10.0), min_size=3, max_size=8), st.floats(1.0, 3.0))
def test_window_on_a_dense_grid(values, factor):
    grid = 10.0 ** np.arange(len(values))
    low, high = window(grid, values, factor)
    dense = np.linspace(0, len(values) - 1, 7001)
    row = np.interp(dense, np.arange(len(values)), values)
    allowed = row <= factor * min(values) * (1 + 1e-9)
    start = int(np.argmin(values))
    k = int(np.abs(dense - start).argmin())
    left = k - np.argmin(allowed[k::-1]) + 1 if not allowed[k::-1].all() else 0
    right = k + np.argmin(allowed[k:]) - 1 if not allowed[k:].all() else len(dense) - 1
    assert np.log10(low) == pytest.approx(dense[left], abs=3e-3)
    assert np.log10(high) == pytest.approx(dense[right], abs=3e-3)


def test_windows_of_many_rows_are_those_of_each():
    grid, rows = np.array([1.0, 2.0, 8.0]), np.random.default_rng(3).random((4, 3)) + 0.1
    low, high = window(grid, rows, 1.5)
    for k, row in enumerate(rows):
        assert (low[k], high[k]) == window(grid, row, 1.5)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="fold must hold 0 and 1"):
        cross_fitted(np.ones((3, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="must be \\(U, K\\)"):
        cross_fitted(np.ones(3), np.zeros(3))
    with pytest.raises(ValueError, match="at least 1"):
        window([1.0, 2.0], [1.0, 2.0], 0.5)
    with pytest.raises(ValueError, match="increasing"):
        window([2.0, 1.0], [1.0, 2.0])


def test_a_finite_class_without_beta_is_that_of_the_learner():
    scene = Random(prompts=2, responses=3).scene(np.random.default_rng(0), 0)
    spec = DPOMethod(policies=FiniteClassOfPolicies(size=4))
    for beta in (0.2, 2.0):
        policies = spec.learner(beta, scene).policies.policies
        expected = solve(scene.reward_class(4, 1.0), scene.bandit.reference, KL(), beta).policy
        assert np.array_equal(policies, expected)
    fixed = DPOMethod(policies=FiniteClassOfPolicies(size=4, beta=0.7)).learner(2.0, scene)
    expected = solve(scene.reward_class(4, 1.0), scene.bandit.reference, KL(), 0.7).policy
    assert np.array_equal(fixed.policies.policies, expected)
    with pytest.raises(ValueError, match="beta of the class is missing"):
        SLiCMethod(policies=FiniteClassOfPolicies()).learner(1.0, scene)
