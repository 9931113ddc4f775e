"""An independent route to the optimum: gradients of the objective by torch's autograd."""

import numpy as np
import pytest

from rlhfsim.divergences import KL, ChiSquared
from rlhfsim.solvers import solve

torch = pytest.importorskip("torch")

PAIRS = [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (1.0, 0.05), (0.5, 10.0)]


def make(chi_squared, kl):
    terms = [w * d for w, d in ((chi_squared, ChiSquared()), (kl, KL())) if w]
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def objective(policy, r, p, chi_squared, kl, beta):
    """`E_pi[r] - beta (chi_squared D_chi2 + kl KL)`, per row, in plain torch."""
    value = (policy * r).sum(-1)
    if chi_squared:
        value = value - beta * chi_squared * 0.5 * (p * (policy / p - 1) ** 2).sum(-1)
    if kl:
        value = value - beta * kl * torch.xlogy(policy, policy / p).sum(-1)
    return value


def problem(seed):
    rng = np.random.default_rng(seed)
    r, p = rng.normal(size=(3, 7)), rng.dirichlet(np.ones(7), 3)
    return rng, r, p, [0.2, 0.4, 2.0, 20.0][seed % 4]


@pytest.mark.parametrize(("chi_squared", "kl"), PAIRS)
@pytest.mark.parametrize("seed", range(8))
def test_gradient_vanishes_at_the_optimum(chi_squared, kl, seed):
    _, r, p, beta = problem(seed)
    policy = solve(r, p, make(chi_squared, kl), beta).policy
    rt, pt = torch.tensor(r), torch.tensor(p)
    active = torch.tensor(policy > 0)
    # Logits over the active responses; the clipped ones of chi-squared stay at 0.
    logits = torch.where(active, torch.tensor(policy).clamp_min(1e-300).log(), -torch.inf)
    logits.requires_grad_(True)
    soft = torch.softmax(logits, dim=-1)
    value = objective(soft, rt, pt, chi_squared, kl, beta).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[active].abs().max() < 1e-12 * max(1, beta)
    # It does not vanish elsewhere.
    other = (0.9 * torch.softmax(logits, dim=-1) + 0.1 * pt).log().detach().requires_grad_(True)
    away = objective(torch.softmax(other, dim=-1), rt, pt, chi_squared, kl, beta).sum()
    (gradient,) = torch.autograd.grad(away, other)
    assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("seed", [0, 1, 4, 5])
def test_clipped_responses_have_nonpositive_reduced_gradient(seed):
    _, r, p, beta = problem(seed)
    solution = solve(r, p, ChiSquared(), beta)
    pi = torch.tensor(solution.policy, requires_grad=True)
    value = objective(pi, torch.tensor(r), torch.tensor(p), 1.0, 0.0, beta).sum()
    (gradient,) = torch.autograd.grad(value, pi)
    reduced = gradient.numpy() - solution.multiplier[:, None]
    active = solution.policy > 0
    assert not active.all()
    assert np.all(np.abs(reduced[active]) < 1e-12)
    assert np.all(reduced[~active] < 0)


@pytest.mark.parametrize(("chi_squared", "kl"), PAIRS)
@pytest.mark.parametrize("seed", range(4))
def test_every_perturbation_lowers_the_objective(chi_squared, kl, seed):
    rng, r, p, beta = problem(seed)
    solution = solve(r, p, make(chi_squared, kl), beta)
    rt, pt = torch.tensor(r), torch.tensor(p)
    best = objective(torch.tensor(solution.policy), rt, pt, chi_squared, kl, beta).numpy()
    np.testing.assert_allclose(best, solution.value, rtol=1e-12, atol=1e-13)
    for size in (1.0, 1e-2, 1e-4):
        other = torch.tensor(rng.dirichlet(np.ones(7), (30, 3)))
        moved = (1 - size) * torch.tensor(solution.policy) + size * other
        values = objective(moved, rt, pt, chi_squared, kl, beta).numpy()
        assert np.all(values < best)


def test_torch_tensors_are_accepted():
    _, r, p, beta = problem(1)
    for divergence in (KL(), ChiSquared(), ChiSquared() + KL()):
        expected = solve(r, p, divergence, beta)
        given = torch.tensor(r), torch.tensor(p)
        solution = solve(*given, divergence, torch.tensor(beta, dtype=torch.float64))
        for field in ("policy", "multiplier", "value", "gap"):
            computed = getattr(solution, field)
            assert isinstance(computed, np.ndarray)
            assert np.array_equal(computed, getattr(expected, field))
        assert np.array_equal(given[0].numpy(), r)
        assert np.array_equal(given[1].numpy(), p)
