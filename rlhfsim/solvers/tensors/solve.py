"""`solve` for torch tensors: on their device, in their dtype, differentiable.

Source: arXiv 2407.13399 (mixed divergence), 2205.11275 (KL).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rlhfsim.divergences import KL, ChiSquared, Divergence
from rlhfsim.divergences.combination import Combination
from rlhfsim.solvers.solution import Solution
from rlhfsim.solvers.tensors import inputs
from rlhfsim.solvers.tensors.certificate import require_certified
from rlhfsim.solvers.tensors.host import solve_on_host
from rlhfsim.solvers.tensors.operator import batch_shape, solve_operator


def solve_tensors(
    reward: Tensor,
    reference: Tensor,
    divergence: Divergence,
    beta: ArrayLike | Tensor,
    *,
    out: Tensor | None = None,
    check: bool = True,
) -> Solution[Tensor]:
    """Return the exact maximiser of `E_pi[r] - beta D(pi || p)` over all policies, per prompt.

    `KL()`, `ChiSquared()`, their positive multiples and sums are solved on the tensors' device,
    by Triton kernels on CUDA where Triton is installed, else in plain torch.  Any other divergence
    is solved by numpy on the host, in float64.

    `policy`, `multiplier` and `value` are differentiable in reward, reference and beta, by
    implicit differentiation (`rlhfsim.solvers.tensors.gradient`); twice, unless solved on the
    host.  Entries of the reference count as independent, and those that are 0 get gradient 0; at a
    kink of chi-squared the derivatives are those of the side on which the response is clipped.
    `torch.compile(fullgraph=True)` takes all that is not solved on the host; make the divergence
    outside the compiled function, and give a beta that changes as a tensor.

    Parameters
    ----------
    reward : (..., Y) tensor, float32 or float64
        Finite rewards; entries where `reference` is 0 do not matter.
    reference : (..., Y) tensor of distributions, of the same dtype and device
        The sampling policy `p`; responses of mass 0 get mass 0, unless the divergence has a
        finite `recession` and their reward is worth it.  Rows must sum to 1 within 1e-9
        in float64, and `1e-9 + 2^-23 (16 + sqrt Y)` in float32.
    divergence : Divergence
        `KL()`, `ChiSquared()`, or a positive combination such as `ChiSquared() + 0.5 * KL()`.
    beta : number, array, or tensor on the same device
        Positive regularization strengths, broadcast against the *prompt* axes `(...)` of the two
        tensors, in float64.
    out : (..., Y) tensor
        Receives the policy, without gradients.
    check : bool
        Whether data are checked and the certificate is required, at the price of two
        synchronisations with the device.  With False, bad data give an undefined policy, and the
        certificate is for the caller to read.

    Returns
    -------
    Solution
        `policy` of the broadcast shape and the inputs' dtype; `multiplier`, `value`, `gap`,
        `feasibility`, `tolerance` per prompt, always float64.  A float32 policy is the optimum of
        its inputs to a few float32 ulp; `feasibility` is that of the rounded policy and the other
        fields are those before rounding.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    SolverError
        The duality gap or the feasibility exceeds what rounding explains.

    Examples
    --------
    >>> r = torch.tensor([1.0, 0.0], requires_grad=True)
    >>> solution = solve_tensors(r, torch.tensor([0.5, 0.5]), ChiSquared(), 1.0)
    >>> solution.policy.detach()
    tensor([0.7500, 0.2500])
    >>> solution.value.backward()
    >>> r.grad
    tensor([0.7500, 0.2500])
    """
    r, p = inputs.floating("reward", reward), inputs.floating("reference", reference)
    inputs.alike(r, p)
    b = inputs.strengths(beta, r.device)
    inputs.shapes(r, p, b)
    weights = _weights(inputs.divergence_kind(divergence))
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in (r, p, b))
    shape = torch.Size((*batch_shape(r, p, b), r.shape[-1]))
    inputs.output(out, r, shape, differentiable=differentiable)
    if weights is None:
        solution = _solve_on_host(r, p, b, divergence, check)
    else:
        solution = _differentiable(*solve_operator(r, p, b, *weights, check))
    if out is None:
        return solution
    return replace(solution, policy=out.copy_(solution.policy))


def _differentiable(
    policy: Tensor,
    multiplier: Tensor,
    value: Tensor,
    gap: Tensor,
    feasibility: Tensor,
    tolerance: Tensor,
) -> Solution[Tensor]:
    """Return the solution; its certificate is a fact, not a function of the inputs."""
    certificate = gap.detach(), feasibility.detach(), tolerance.detach()
    return Solution(policy, multiplier, value, *certificate)


def _solve_on_host(
    r: Tensor, p: Tensor, b: Tensor, divergence: Divergence, check: bool
) -> Solution[Tensor]:
    if check:
        inputs.data(r, p, b)
    solution = _differentiable(*solve_on_host(r, p, b, divergence))
    return require_certified(solution) if check else solution


def _weights(divergence: Divergence) -> tuple[float, float] | None:
    """Return the weights of chi-squared and KL, or None if there is anything else in it."""
    # Exact types: a subclass may have members of its own.
    if type(divergence) not in (KL, ChiSquared, Combination):
        return None
    chi_squared, kl = 0.0, 0.0
    for weight, base in divergence.terms():
        if type(base) is ChiSquared:
            chi_squared += weight
        elif type(base) is KL:
            kl += weight
        else:
            return None
    return chi_squared, kl
