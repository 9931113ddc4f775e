"""An independent route to the value: a convex program in the policy, by CVXPY and Clarabel.

Only values are compared: an interior-point method is accurate to 1e-8 in the objective and much
less in the policy.
"""

import numpy as np
import pytest

from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.solvers import solve

cp = pytest.importorskip("cvxpy")

PAIRS = [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (1.0, 0.1), (0.5, 3.0)]


def convex_value(r, p, chi_squared, kl, beta):
    """The objective divided by beta, with the penalties written out."""
    policy = cp.Variable(len(r), nonneg=True)
    penalty = 0.0
    if chi_squared:
        penalty = penalty + chi_squared * 0.5 * cp.sum(cp.square(policy - p) / p)
    if kl:
        penalty = penalty + kl * cp.sum(cp.rel_entr(policy, p))
    objective = (r / beta) @ policy - penalty
    problem = cp.Problem(cp.Maximize(objective), [cp.sum(policy) == 1])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    assert problem.status == cp.OPTIMAL
    return beta * problem.value


@pytest.mark.parametrize(("chi_squared", "kl"), PAIRS)
@pytest.mark.parametrize("seed", range(5))
def test_value_agrees_with_a_convex_program(chi_squared, kl, seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 9))
    r, p = rng.normal(size=size), rng.dirichlet(np.full(size, 2.0))
    beta = [0.1, 0.3, 1.0, 3.0, 10.0][seed]
    terms = [w * d for w, d in ((chi_squared, ChiSquared()), (kl, KL())) if w]
    divergence = terms[0] if len(terms) == 1 else terms[0] + terms[1]
    value = float(solve(r, p, divergence, beta).value)
    assert value == pytest.approx(convex_value(r, p, chi_squared, kl, beta), rel=1e-7, abs=1e-8)
    # The comparison can fail: at twice the regularization the value is another one.
    assert abs(value - float(solve(r, p, divergence, 2 * beta).value)) > 1e-4
