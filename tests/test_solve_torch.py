"""torch: the objective's gradients as an independent route, and `solve` on tensors."""

import math

import mpmath as mp
import numpy as np
import pytest
from test_solve import (
    CORNERS,
    EACH,
    EPS,
    FIELDS,
    MORE,
    random_reference,
    random_reward,
    sensitivity,
    weights_of,
)

from rlhfsim.divergences import (
    DIVERGENCES,
    KL,
    ChiSquared,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)
from rlhfsim.solvers import SolverError, general, solve
from rlhfsim.solvers.high_precision import solve_high_precision
from rlhfsim.solvers.solution import rounding

torch = pytest.importorskip("torch")

from rlhfsim.solvers.tensors import mixed, operator, pure, solve_tensors  # noqa: E402
from rlhfsim.solvers.tensors.operator import solve_operator  # noqa: E402

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


def tensors(*arrays):
    return tuple(torch.tensor(x) for x in arrays)


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


# ---- torch in, torch out -------------------------------------------------------------------------


def test_torch_tensors_give_torch_tensors():
    _, r, p, beta = problem(1)
    for divergence in (KL(), ChiSquared(), ChiSquared() + KL()):
        expected = solve(r, p, divergence, beta)
        given = torch.tensor(r), torch.tensor(p)
        solution = solve(*given, divergence, torch.tensor(beta, dtype=torch.float64))
        for field in FIELDS:
            computed = getattr(solution, field)
            assert isinstance(computed, torch.Tensor)
            assert computed.shape == getattr(expected, field).shape
        np.testing.assert_allclose(solution.policy.numpy(), expected.policy, rtol=1e-13)
        assert np.array_equal(given[0].numpy(), r)
        assert np.array_equal(given[1].numpy(), p)
    # One tensor is enough to be told that the other must be one.
    with pytest.raises(ValueError, match=r"reference is a ndarray; it must be a torch\.Tensor"):
        solve(torch.tensor(r), p, KL(), beta)


def batch_of_problems(seed, size, count=150):
    rng = np.random.default_rng(seed)
    r = np.array([random_reward(rng, size) for _ in range(count)])
    p = np.array([random_reference(rng, size) for _ in range(count)])
    return r, p, 10.0 ** rng.uniform(-6, 6, count)


def spread_of(r, p):
    return np.where(p > 0, r, -np.inf).max(axis=-1) - np.where(p > 0, r, np.inf).min(axis=-1)


def assert_same_optimum(solution, expected, r, p, beta, divergence):
    """Every field against that of the numpy solver, float64."""
    policy, true = solution.policy.numpy(), expected.policy
    spread = spread_of(r, p)
    slack = (sensitivity(divergence, spread, beta))[:, None]
    # Just above the clip of chi-squared, a ratio is a difference of numbers of O(1).
    floor = 4 * EPS * (1 + slack) * p if weights_of(divergence)[1] == 0 else 0.0
    error = np.abs(policy - true)
    assert np.all(error[true > 1e-12] <= ((1e-13 + 4 * EPS * slack) * true + floor)[true > 1e-12])
    assert np.all(policy[true <= 1e-12] <= (2e-12 * (1 + slack) + 0 * true)[true <= 1e-12])
    assert np.all(policy[p == 0] == 0)
    size = np.where(p > 0, np.abs(r), 0.0).max(axis=-1) + spread
    total = beta * sum(weights_of(divergence))
    unit = 4 * EPS * (size + total * 8 * EPS)
    assert np.all(np.abs(solution.value.numpy() - expected.value) <= unit)
    error = np.abs(solution.multiplier.numpy() - expected.multiplier)
    assert np.all(error <= 4 * unit + 32 * EPS * total)
    assert np.all(np.abs(solution.gap.numpy()) <= solution.tolerance.numpy())
    assert np.all(np.abs(solution.gap.numpy()) <= 2 * expected.tolerance)
    np.testing.assert_allclose(solution.tolerance.numpy(), expected.tolerance, rtol=0.3)
    assert np.all(solution.feasibility.numpy() <= rounding(p.shape[-1]))


@pytest.mark.parametrize("divergence", MORE, ids=repr)
def test_float64_is_the_optimum_of_the_numpy_solver(divergence):
    for size in (1, 2, 3, 8, 33):
        r, p, beta = batch_of_problems(size, size)
        solution = solve_tensors(*tensors(r, p), divergence, torch.tensor(beta))
        expected = general.solve_rows(r, p, beta, divergence)
        assert_same_optimum(solution, expected, r, p, beta, divergence)


@pytest.mark.parametrize("divergence", MORE, ids=repr)
@pytest.mark.parametrize("corner", CORNERS, ids=str)
def test_corners_agree_with_mpmath(corner, divergence):
    r, p = (np.array(x, dtype=float) for x in CORNERS[corner])
    for beta in (1e-6, 0.5, 1e6):
        solution = solve_tensors(*tensors(r, p), divergence, beta)
        truth = solve_high_precision(r, p, divergence, beta, digits=25)
        slack = sensitivity(divergence, spread_of(r, p), beta)
        clipped = 4 * EPS * (1 + slack) if weights_of(divergence)[1] == 0 else 0.0
        for got, true, mass in zip(solution.policy.tolist(), truth.policy, p, strict=True):
            if true > 1e-12:
                assert abs(got - true) <= (1e-13 + 4 * EPS * slack) * true + clipped * mass
            else:
                assert got <= 2e-12 * (1 + slack)
        size = float(np.abs(r[p > 0]).max() + spread_of(r, p))
        penalty = beta * sum(weights_of(divergence)) * (8 * EPS + abs(p.sum() - 1))
        assert abs(solution.value.item() - truth.value) <= 4 * EPS * (size + penalty)


@pytest.mark.parametrize("beta", [1e-300, 1e-8, 1.0, 1e8, 1e300])
@pytest.mark.parametrize("divergence", MORE, ids=repr)
def test_extreme_scales_are_certified(divergence, beta):
    reference = rows_of([0.2, 0.3, 0.5], [1e-290, 0.5, 0.5], [0.5, 0.0, 0.5])
    for scale in (1e-300, 1.0, 1e300):
        reward = torch.tensor([1.0, 0.5, -0.5], dtype=torch.float64) * scale
        solution = solve_tensors(reward, reference, divergence, beta)
        assert solution.value.isfinite().all()
        if beta / scale > 1e99:
            torch.testing.assert_close(solution.policy, reference, rtol=1e-14, atol=0)
        if scale / beta > 1e299:
            best = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(3, 3)
            torch.testing.assert_close(solution.policy, best, rtol=0, atol=1e-8)


@pytest.mark.parametrize("divergence", MORE, ids=repr)
def test_float32_is_the_float64_optimum_rounded_once(divergence):
    """The bound: one half ulp of float32, and 1e-6 of it for the double rounding."""
    for size in (1, 3, 8, 200):
        r, p, beta = batch_of_problems(40 + size, size, 60)
        r, p = r.astype(np.float32), np.where(p < 1e-38, 0, p).astype(np.float32)
        p[:, 0] = np.where(p.sum(-1) > 0, p[:, 0], 1)
        solution = solve_tensors(torch.tensor(r), torch.tensor(p), divergence, torch.tensor(beta))
        exact = general.solve_rows(r.astype(float), p.astype(float), beta, divergence)
        assert solution.policy.dtype == torch.float32
        assert all(getattr(solution, f).dtype == torch.float64 for f in FIELDS[1:])
        spread = spread_of(r.astype(float), p)
        slack = EPS * sensitivity(divergence, spread, beta)[:, None]
        ulp = np.spacing(np.maximum(exact.policy, 1e-12).astype(np.float32)).astype(float)
        allowed = 0.5 * ulp * (1 + 1e-6) + 4 * slack * np.maximum(exact.policy, p)
        assert np.all(np.abs(solution.policy.numpy() - exact.policy) <= allowed)
        size_ = np.abs(r).max(axis=-1).astype(float) + spread
        weights = beta * sum(weights_of(divergence))
        unit = 4 * EPS * (size_ + weights * (8 * EPS + np.abs(p.sum(-1, dtype=float) - 1)))
        assert np.all(np.abs(solution.value.numpy() - exact.value) <= unit)


def test_float32_softmax_rows_count_as_distributions():
    generator = torch.Generator().manual_seed(0)
    for size in (10, 10_000):
        p = torch.softmax(4 * torch.randn(4, size, generator=generator), dim=-1)
        assert (p.sum(-1, dtype=torch.float64) - 1).abs().max() > 1e-9
        solution = solve_tensors(torch.randn(4, size, generator=generator), p, KL(), 0.5)
        # Each mass is rounded by at most 2^-24 of itself.
        assert solution.feasibility.max() <= 2.0**-24 + 1e-13
    with pytest.raises(ValueError, match=r"reference\[1\] sums to 1\.0000.*; rows must sum to 1 w"):
        solve_tensors(torch.zeros(2, 2), torch.tensor([[0.5, 0.5], [0.5, 0.50002]]), KL(), 1)


@EACH
def test_batch_is_the_loop(divergence):
    rng = np.random.default_rng(3)
    reward = rng.normal(size=(2, 3, 17)) * 10.0 ** rng.uniform(-3, 9, (2, 3, 1))
    reference = rng.dirichlet(np.full(17, 0.5), 3)
    betas = np.array([1e-6, 0.03, 1.0, 1e6])
    r, p, b = tensors(reward, reference, betas)
    batch = solve_tensors(r, p, divergence, b[:, None, None])
    assert batch.policy.shape == (4, 2, 3, 17)
    assert batch.value.shape == (4, 2, 3)
    for k, i, x in np.ndindex(4, 2, 3):
        one = solve_tensors(r[i, x], p[x], divergence, betas[k])
        slack = 1e-14 + 4 * EPS * sensitivity(divergence, float(np.ptp(reward[i, x])), betas[k])
        torch.testing.assert_close(batch.policy[k, i, x], one.policy, rtol=slack, atol=slack)
        for field in ("value", "multiplier"):
            left, right = getattr(batch, field)[k, i, x], getattr(one, field)
            torch.testing.assert_close(left, right, rtol=1e-14, atol=1e-14 * betas[k])


@EACH
def test_groups_of_rows_do_not_matter(divergence, monkeypatch):
    r, p, beta = tensors(*batch_of_problems(9, 5))
    whole = solve_tensors(r, p, divergence, beta)
    monkeypatch.setattr(pure, "_GROUP", {"cpu": 37})
    parts = solve_tensors(r, p, divergence, beta)
    for field in FIELDS:
        assert torch.equal(getattr(whole, field), getattr(parts, field))


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_unchanged_in_any_layout(divergence, dtype):
    rng = np.random.default_rng(4)
    wide = torch.tensor(rng.normal(size=(8, 12)), dtype=dtype)
    r = wide[::2, ::3].T.contiguous().T
    p = torch.full((4,), 0.25, dtype=dtype).expand(4, 4)
    copies = r.clone(), p.clone()
    solution = solve_tensors(r, p, divergence, 0.3)
    assert solution.policy.dtype == dtype
    assert solution.policy.device == r.device
    assert torch.equal(r, copies[0])
    assert torch.equal(p, copies[1])
    same = solve_tensors(copies[0].contiguous(), copies[1][0].clone(), divergence, 0.3)
    assert torch.equal(same.policy, solution.policy)


def test_out_receives_the_policy():
    r, p, _ = tensors(*batch_of_problems(9, 5))
    out = torch.empty_like(r)
    solution = solve_tensors(r, p, KL(), 2.0, out=out)
    assert solution.policy is out
    assert torch.equal(out, solve_tensors(r, p, KL(), 2.0).policy)
    for wrong in (out[:3], out.float()):
        with pytest.raises(ValueError, match=r"out has shape .* it must have shape \(150, 5\), dt"):
            solve_tensors(r, p, KL(), 2.0, out=wrong)
    with pytest.raises(ValueError, match="out is given with tensors that require grad"):
        solve_tensors(r.requires_grad_(), p, KL(), 2.0, out=out)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (1, 1e-8), (1, 1e8), (1, 0.05), (3e-3, 7.0)])
def test_inverse_link_solves_its_equation(a, b):
    """Against mpmath's Lambert function, from underflow to overflow."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=80) * 10.0 ** rng.uniform(-12, 6, 80)
    scores = np.concatenate([scores, np.linspace(-700 * b - a, 700 * b + a, 81), [0.0]])
    ratios = mixed.inverse_link(torch.tensor(scores), a, b).tolist()
    with mp.workdps(60):
        for s, t in zip(scores, ratios, strict=True):
            if t > 1e-300:
                residual = mp.mpf(a) * (mp.mpf(t) - 1) + mp.mpf(b) * mp.log(t) - mp.mpf(s)
                error = abs(residual / (a * mp.mpf(t) + b))
                assert error <= 4 * EPS * (1 + abs(min(s, 0)) / b)
            else:
                assert mp.exp((mp.mpf(s) + a) / b) < 1e-299
    far = torch.tensor([1e307, -1e307, 1e300], dtype=torch.float64)
    assert mixed.inverse_link(far, a, b).tolist() == pytest.approx([1e307 / a, 0, 1e300 / a])


# ---- derivatives ---------------------------------------------------------------------------------


class Cubic(Divergence):
    """`f(t) = (t - 1)^2 (t + 2) / 6`, which the tensor solver leaves to numpy."""

    recession = np.inf

    def __repr__(self):
        return "Cubic()"

    def perspective(self, policy, reference):
        u = (np.asarray(policy) - reference) / reference
        return reference * u * u * (u + 3) / 6

    def link(self, ratio):
        return 0.5 * (np.asarray(ratio, dtype=float) - 1) * (np.asarray(ratio) + 1)

    def link_slope(self, ratio):
        return np.asarray(ratio, dtype=float)

    def inverse_link(self, score):
        return np.sqrt(np.maximum(0.0, 1 + 2 * np.asarray(score, dtype=float)))


DIFFERENTIATED = (*DIVERGENCES, 3 * KL(), 0.4 * ChiSquared(), 5 * ChiSquared() + 2 * KL())


def outputs(divergence, check=False):
    """Policy, multiplier, value; unchecked, since a reference that moves freely loses its sum."""

    def function(r, p, b):
        s = solve_tensors(r, p, divergence, b, check=check)
        return s.policy, s.multiplier, s.value

    return function


def leaves(seed, shape=(3, 5), betas=(0.3, 1.0, 4.0)):
    rng = np.random.default_rng(seed)
    arrays = rng.normal(size=shape), rng.dirichlet(np.ones(shape[-1])), np.array(betas)
    return tuple(torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in arrays)


@pytest.mark.parametrize("divergence", DIFFERENTIATED, ids=repr)
def test_gradcheck_first_and_second(divergence):
    inputs = leaves(1)
    clipped = (solve_tensors(*inputs[:2], divergence, inputs[2]).policy == 0).any()
    assert clipped == (weights_of(divergence)[1] == 0)
    assert torch.autograd.gradcheck(outputs(divergence), inputs)
    assert torch.autograd.gradgradcheck(outputs(divergence), inputs)


@pytest.mark.parametrize("divergence", [Cubic(), ForwardKL(), JensenShannon() + KL()], ids=repr)
def test_other_divergences_are_solved_on_the_host_and_differentiable_once(divergence):
    inputs = leaves(2)
    solution = solve_tensors(*inputs[:2], divergence, inputs[2])
    expected = general.solve_rows(
        inputs[0].detach().numpy(),
        inputs[1].detach().expand(3, 5).contiguous().numpy(),
        inputs[2].detach().numpy(),
        divergence,
    )
    for field in FIELDS:
        assert np.array_equal(getattr(solution, field).detach().numpy(), getattr(expected, field))
    assert torch.autograd.gradcheck(outputs(divergence), inputs)
    single = solve_tensors(inputs[0].float(), inputs[1].float(), divergence, inputs[2])
    assert single.policy.dtype == torch.float32
    single.policy[0, 0].backward()
    assert inputs[1].grad.isfinite().all()
    (first,) = torch.autograd.grad(solution.value.sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="is differentiable once"):
        first.sum().backward()


LEAVING = [SquaredHellinger(), JensenShannon(), 0.5 * JensenShannon() + 0.2 * SquaredHellinger()]


@pytest.mark.parametrize("divergence", LEAVING, ids=repr)
def test_gradients_where_mass_leaves_the_support(divergence):
    """A finite recession: in the first two rows the best response, or two, have no reference."""
    r = rows_of([3.0, 0.1, 0.4, -0.2], [3.0, 3.0, 0.1, 0.4], [0.5, 0.1, 0.4, 0.2])
    p = rows_of([0.0, 0.5, 0.2, 0.3], [0.0, 0.0, 0.6, 0.4], [0.0, 0.5, 0.2, 0.3])
    b = rows_of(0.5, 0.4, 1.0)
    solution = solve_tensors(r, p, divergence, b)
    assert (solution.policy[:2, 0] > 0.1).all()
    assert solution.policy[2, 0] == 0

    def function(r, p, b):
        # Tied rewards move together and zero masses stay: the directions that have a derivative.
        tied = torch.stack([r[0], torch.cat([r[1, :1], r[1, :1], r[1, 2:]]), r[2]])
        return outputs(divergence)(tied, torch.where(p > 0, p, 0.0), b)

    positive = torch.where(p > 0, p, -1.0).requires_grad_()
    inputs = r.requires_grad_(), positive, b.requires_grad_()
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("divergence", [*DIFFERENTIATED, Cubic() + ChiSquared()], ids=repr)
def test_gradients_agree_with_differences_of_the_numpy_solver(divergence):
    rng = np.random.default_rng(5)
    inputs = leaves(6)
    r, p, b = (t.detach().numpy() for t in inputs)
    directions = [rng.normal(size=r.shape), p * rng.normal(size=5), b * rng.normal(size=3)]
    weights = [rng.normal(size=(3, 5)), rng.normal(size=3), rng.normal(size=3)]

    def combined(step):
        moved = (x + step * v for x, v in zip((r, p, b), directions, strict=True))
        r_, p_, b_ = moved
        found = general.solve_rows(r_, np.tile(p_, (3, 1)), b_, divergence)
        fields = found.policy, found.multiplier, found.value
        return sum((w * x).sum() for w, x in zip(weights, fields, strict=True))

    # Richardson's extrapolation: the error is of fourth order.
    h = 1e-4
    slopes = [(combined(k * h) - combined(-k * h)) / (2 * k * h) for k in (1, 2)]
    expected = (4 * slopes[0] - slopes[1]) / 3
    fields = outputs(divergence)(*inputs)
    total = sum((torch.tensor(w) * x).sum() for w, x in zip(weights, fields, strict=True))
    total.backward()
    computed = sum((t.grad.numpy() * v).sum() for t, v in zip(inputs, directions, strict=True))
    assert computed == pytest.approx(expected, rel=1e-8, abs=1e-8)


def closed_form(r, p, beta, divergence, policy):
    """The optimum as an explicit function, for autograd to differentiate."""
    beta = beta[..., None]
    if divergence == KL():
        score = p.log() + r / beta
        return torch.softmax(score, -1), beta[..., 0] * torch.logsumexp(score, -1)
    mass = torch.where(policy > 0, p, 0.0)
    total = mass.sum(-1, keepdim=True)
    multiplier = ((mass * r).sum(-1, keepdim=True) - beta * (1 - total)) / total
    return mass * (1 + (r - multiplier) / beta), multiplier[..., 0]


@pytest.mark.parametrize("divergence", [KL(), ChiSquared()], ids=repr)
def test_derivatives_are_those_of_the_closed_form(divergence):
    inputs = leaves(7, shape=(3, 9), betas=(0.05, 0.6, 3.0))
    solution = solve_tensors(*inputs[:2], divergence, inputs[2])
    policy, multiplier = closed_form(*inputs, divergence, solution.policy.detach())
    target = torch.tensor(np.random.default_rng(8).normal(size=(3, 9)))

    def derivatives(policy, multiplier):
        loss = (target * policy).sum() + (multiplier * target[:, 0]).sum()
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        second = torch.autograd.grad(sum((g * g).sum() for g in first), inputs)
        return first, second

    computed = derivatives(solution.policy, solution.multiplier)
    expected = derivatives(policy, multiplier)
    for order in range(2):
        for left, right in zip(computed[order], expected[order], strict=True):
            scale = right.abs().max().item()
            torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12 * scale)


@EACH
def test_value_obeys_the_envelope_theorem(divergence):
    r, p, b = leaves(9)
    solution = solve_tensors(r, p, divergence, b)
    at_reward, at_beta = torch.autograd.grad(solution.value.sum(), (r, b))
    torch.testing.assert_close(at_reward, solution.policy.detach(), rtol=1e-15, atol=0)
    cost = divergence.per_prompt(solution.policy.detach().numpy(), p.detach().numpy())
    np.testing.assert_allclose(at_beta.numpy(), -cost, rtol=1e-13)


@EACH
def test_gradients_are_finite_on_hard_problems(divergence):
    rng = np.random.default_rng(11)
    p = np.array([random_reference(rng, 6) for _ in range(100)])
    r, beta = rng.normal(size=(100, 6)) * 10.0 ** rng.uniform(-6, 6, (100, 1)), 1.0
    inputs = [torch.tensor(x, requires_grad=True) for x in (r, p)]
    solution = solve_tensors(*inputs, divergence, beta)
    (solution.policy[:, 0].sum() + solution.value.sum() + solution.multiplier.sum()).backward()
    assert inputs[0].grad.isfinite().all()
    assert not inputs[1].grad.isnan().any()
    assert torch.equal(inputs[0].grad[inputs[1] == 0], torch.zeros(int((p == 0).sum())).double())
    assert not inputs[1].grad[inputs[1] == 0].any()


def test_float32_gradients_and_certificates_without_gradient():
    double = leaves(12)
    single = tuple(t.detach().float().requires_grad_() for t in double[:2])
    left = solve_tensors(*double[:2], ChiSquared() + KL(), 0.7)
    right = solve_tensors(*single, ChiSquared() + KL(), 0.7)
    for solution in (left, right):
        assert not any(getattr(solution, f).requires_grad for f in FIELDS[3:])
        (solution.policy[:, 1].sum() + solution.value.sum()).backward()
    for d, s in zip(double[:2], single, strict=True):
        assert s.grad.dtype == torch.float32
        torch.testing.assert_close(s.grad.double(), d.grad, rtol=1e-5, atol=1e-5)


@EACH
def test_a_reward_is_learnt_through_the_solver(divergence):
    """Descent on the cross-entropy to the policy of a hidden reward reaches that policy."""
    rng = np.random.default_rng(13)
    hidden = torch.tensor(0.2 * rng.normal(size=(2, 4)))
    p = torch.full((4,), 0.25, dtype=torch.float64)
    target = solve_tensors(hidden, p, divergence, 1.0).policy
    reward = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    # The curvature is of the order of the inverse square of the weights.
    optimiser = torch.optim.SGD([reward], lr=2.0 * sum(weights_of(divergence)) ** 2)
    for _ in range(200):
        optimiser.zero_grad()
        policy = solve_tensors(reward, p, divergence, 1.0, check=False).policy
        (-(target * policy.log()).sum()).backward()
        optimiser.step()
    learnt = solve_tensors(reward.detach(), p, divergence, 1.0).policy
    torch.testing.assert_close(learnt, target, rtol=1e-6, atol=0)
    centred = reward.detach() - hidden
    assert (centred - centred.mean(-1, keepdim=True)).abs().max() < 1e-5


# ---- the operator --------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 0.0), (1.0, 0.5)])
def test_operator_is_registered_soundly(weights):
    torch.library.opcheck(solve_operator, (*leaves(14), *weights, True))


def test_compiled_without_graph_breaks():
    mixed_divergence = ChiSquared() + KL()

    def loss(reward, logits):
        solution = solve_tensors(reward, torch.softmax(logits, -1), mixed_divergence, 0.5)
        return (solution.policy * torch.tanh(reward)).sum() + solution.value.sum()

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    inputs = leaves(15)[:2]
    expected = torch.autograd.grad(loss(*inputs), inputs)
    computed = torch.autograd.grad(compiled(*inputs), inputs)
    for left, right in zip(computed, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-14)
    with pytest.raises(ValueError, match=r"reward\[0, 0\] is nan; entries must be finite"):
        compiled(inputs[0] * torch.nan, inputs[1])


def test_backend_is_picked_by_the_device(monkeypatch):
    picked = []

    def wrong(*arguments):
        picked.append(arguments)
        rows = pure.solve_rows(*arguments)
        return rows._replace(gap=rows.gap + torch.tensor([0.0, 1.0, 0.0]))

    r, p, b = (t.detach() for t in leaves(16))
    assert operator._row_solver(r) is pure.solve_rows
    monkeypatch.setattr(operator, "_row_solver", lambda reward: wrong)
    monkeypatch.setattr(operator, "_mended", lambda rows, *problem: rows)
    with pytest.raises(SolverError, match=r"no certified optimum at prompt \[1\]: dual") as caught:
        solve_tensors(r, p, KL(), b)
    assert caught.value.solution.gap[1] >= 1
    reward, reference, beta, *weights = picked[0]
    assert reward.is_contiguous()
    assert reward.shape == reference.shape == (3, 5)
    # A reference shared by all rows is not copied.
    assert reference.stride() == (0, 1)
    assert (beta.dtype, weights) == (torch.float64, [0.0, 1.0])
    unchecked = solve_tensors(r, p, KL(), b, check=False)
    assert unchecked.gap[1] >= 1


@EACH
@pytest.mark.parametrize("error", [1e-4, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_slightly_wrong_root_fails_its_certificate(divergence, error, dtype, monkeypatch):
    right = pure.find_root

    def wrong(d, p, a, b, start):
        policy, multiplier = right(d, p, a, b, start)
        return (1 - error) * policy + error * p, multiplier

    def wrong_multiplier(d, p, a, b, start):
        policy, multiplier = right(d, p, a, b, start)
        return policy, multiplier + error

    # Dyadic numbers, so that the two dtypes hold the same problem.
    r, p = (torch.tensor(x, dtype=dtype) for x in ([1.0, 0.0, 0.25], [0.25, 0.5, 0.25]))
    for root, beta in ((wrong, 0.05), (wrong_multiplier, 0.5)):
        monkeypatch.setattr(pure, "find_root", root)
        with pytest.raises(SolverError, match="no certified optimum") as caught:
            solve_tensors(r, p, divergence, beta)
        assert 0 < caught.value.solution.gap < 20 * error


# ---- errors --------------------------------------------------------------------------------------

R, P = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.5, 0.5]).double()


def rows_of(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((rows_of(1.0, math.nan), P, KL(), 1), r"reward\[1\] is nan; entries must be finite"),
        ((rows_of([1, 0], [0, math.inf]), P, KL(), 1), r"reward\[1, 1\] is inf; entries must be f"),
        ((R, rows_of(1.5, -0.5), KL(), 1), r"reference\[1\] is -0\.5; probabilities must not be n"),
        ((R, rows_of(0.5, 0.4), KL(), 1), r"reference sums to 0\.9; rows must sum to 1 within 1e-"),
        ((R, rows_of([0.5, 0.5], [0.5, 0.6]), KL(), 1), r"reference\[1\] sums to 1\.1; rows must"),
        ((R, rows_of(math.nan, 1.0), KL(), 1), r"reference\[0\] is nan"),
        ((R, P, KL(), 0.0), r"beta is 0\.0; it must be positive and finite"),
        ((R, P, KL(), -1), r"beta is -1\.0; it must be positive and finite"),
        ((R, P, KL(), math.inf), r"beta is inf; entries must be finite"),
        ((R, P, KL(), [1.0, 0.0]), r"beta\[1\] is 0\.0"),
        ((R, P, KL(), rows_of(1.0, 0.0)), r"beta\[1\] is 0\.0"),
        ((R, P, KL(), True), r"beta is True; it must hold real numbers, not booleans"),
        ((R, P, KL(), R > 0), r"beta has dtype torch\.bool; it must hold real numbers"),
        ((R, P, KL(), "1"), "beta is not an array of real numbers"),
        ((R, P, "kl", 1), r"divergence is 'kl'; it must be a Divergence such as KL\(\)"),
        ((R[:0], P[:0], KL(), 1), r"reference has shape \(0,\); it must hold at least one resp"),
        ((R[0], P[:1], KL(), 1), r"reward has shape \(\) and reference \(1,\)"),
        ((R, P[:1], KL(), 1), r"reward has shape \(2,\) and reference \(1,\); their last axes"),
        ((R.expand(3, 2), P.expand(2, 2), KL(), 1), r"not broadcast: reward \(3,\), reference \(2"),
        ((R.expand(3, 2), P, KL(), [1.0, 2.0]), r"shapes do not broadcast: .*beta \(2,\)"),
        (
            (rows_of(1.5e308, -1.5e308), P, KL(), 1),
            "reward of prompt 0 spans more than the largest",
        ),
        ((R.tolist(), P, KL(), 1), r"reward is a list; it must be a torch\.Tensor"),
        ((R.half(), P, KL(), 1), r"reward has dtype torch\.float16; .*\.float\(\) or \.double\(\)"),
        ((R.long(), P, KL(), 1), r"reward has dtype torch\.int64; it must be torch\.float32 or"),
        ((R.float(), P, KL(), 1), r"reward has dtype torch\.float32 and reference torch\.float64"),
        ((R, P.to("meta"), KL(), 1), "reward has device cpu and reference meta"),
        ((R, P, KL(), R.to("meta")), "beta has device meta and reward cpu"),
        ((R, rows_of(0.5, 0.4), Cubic(), 1), r"reference sums to 0\.9"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve_tensors(*arguments)


def test_rewards_may_span_all_floats_where_the_reference_is_zero():
    reward = rows_of(1.5e308, 0.0, -1.5e308)
    solution = solve_tensors(reward, rows_of(0.0, 0.5, 0.5), ChiSquared(), 1.0)
    assert solution.policy.tolist() == [0.0, 1.0, 0.0]


@EACH
def test_unchecked_bad_data_show_in_the_certificate(divergence):
    reward = rows_of([1.0, math.nan, 0.0], [1.0, 0.5, 0.0])
    solution = solve_tensors(reward, rows_of(0.2, 0.3, 0.5), divergence, 1.0, check=False)
    assert solution.gap[0].isnan()
    alone = solve_tensors(reward[1], rows_of(0.2, 0.3, 0.5), divergence, 1.0)
    torch.testing.assert_close(solution.policy[1], alone.policy, rtol=1e-15, atol=0)


def test_rows_that_a_backend_cannot_certify_are_solved_in_plain_torch(monkeypatch):
    """As on CUDA, where the kernels leave the ends of the floats alone."""
    generator = torch.Generator().manual_seed(5)
    r = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    p = torch.softmax(torch.randn(4, 6, dtype=torch.float64, generator=generator), -1)
    expected = solve(r, p, ChiSquared() + KL(), 0.3)
    calls = []

    def broken(*arguments):
        rows = pure.solve_rows(*arguments)
        calls.append(len(rows.gap))
        spoilt = rows.gap.clone()
        spoilt[1], spoilt[3] = math.nan, 1.0
        return rows._replace(gap=spoilt, policy=rows.policy * torch.tensor([[1.0], [9], [1], [9]]))

    monkeypatch.setattr(operator, "_row_solver", lambda reward: broken)
    mended = solve(r, p, ChiSquared() + KL(), 0.3)
    assert calls == [4]
    torch.testing.assert_close(mended.policy, expected.policy, rtol=1e-14, atol=0)
    assert (mended.gap.abs() <= mended.tolerance).all()
