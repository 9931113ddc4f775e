"""Coverability of a class: its closed form against the definition, and its bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from rlhfsim.online.xpo import coverability, covering_distribution


def a_class(seed, size, prompts, responses):
    rng = np.random.default_rng(seed)
    policies = rng.dirichlet(np.full(responses, 0.4), size=(size, prompts))
    return policies, rng.dirichlet(np.ones(prompts))


def by_linear_program(policies, rho):
    """Return `1 / max t` with `t rho pi_k <= mu` for all k and mu a distribution."""
    size, prompts, responses = policies.shape
    mass = (rho[:, None] * policies).reshape(size, -1)
    cells = prompts * responses
    upper = np.concatenate([np.c_[row[:, None], -np.eye(cells)] for row in mass])
    total = np.r_[0.0, np.ones(cells)][None]
    cost = np.r_[-1.0, np.zeros(cells)]
    solved = linprog(cost, upper, np.zeros(len(upper)), total, [1.0])
    return 1.0 / solved.x[0]


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_the_closed_form_is_the_least_cover(seed, size, prompts, responses):
    policies, rho = a_class(seed, size, prompts, responses)
    value = coverability(policies, rho)
    assert value == pytest.approx(by_linear_program(policies, rho), rel=1e-7)
    assert 1.0 - 1e-12 <= value <= min(size, responses) + 1e-12
    cover = covering_distribution(policies, rho)
    assert cover.sum() == pytest.approx(1.0, abs=1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = rho[:, None] * policies / cover
    assert np.nanmax(ratio) == pytest.approx(value, rel=1e-9)


def test_it_is_one_for_one_policy_and_the_number_of_responses_for_all():
    assert coverability([[[0.3, 0.7]]], [1.0]) == pytest.approx(1.0, abs=1e-15)
    assert coverability(np.eye(5)[:, None, :], [1.0]) == 5.0


@pytest.mark.parametrize(
    ("policies", "rho", "message"),
    [
        ([[0.5, 0.5]], [1.0], "non-empty"),
        ([[[0.5, 0.6]]], [1.0], "sums to 1.1"),
        ([[[0.5, 0.5]]], [0.5, 0.5], "prompt_dist has shape"),
        ([[[0.5, 0.5]]], [0.9], "prompt_dist"),
    ],
)
def test_bad_input_is_refused(policies, rho, message):
    with pytest.raises(ValueError, match=message):
        coverability(policies, rho)
