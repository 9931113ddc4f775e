"""Concentrability: how well the reference covers a policy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences.base import average_over_prompts


def concentrability(
    policy: ArrayLike, reference: ArrayLike, prompt_dist: ArrayLike | None = None
) -> FloatArray:
    """Return the single-policy concentrability `C^pi = E_{x ~ rho, y ~ pi}[pi/pi_ref]`.

    `C^pi = 1 + 2 D_chi2(pi || pi_ref)`; at least 1, `inf` where support fails on a prompt that
    occurs.

    Parameters
    ----------
    policy, reference : (..., X, Y) arrays of distributions, or (Y,) for one prompt
    prompt_dist : (X,) array
        May be left out where there is a single prompt.

    Returns
    -------
    (...) array or number, dimensionless

    Source: arXiv 2407.13399.
    """
    pi, p, ratio = _ratio(policy, reference)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        # pi/p may overflow, below references of 1e-308, where pi^2/p does not.
        terms = np.where(np.isfinite(ratio), pi * ratio, (pi / np.sqrt(p)) ** 2)
        per_prompt = terms.sum(axis=-1)
    return average_over_prompts(per_prompt, prompt_dist)


def max_concentrability(
    policy: ArrayLike, reference: ArrayLike, prompt_dist: ArrayLike | None = None
) -> FloatArray:
    """Return `C_inf^pi = max_{x, y} pi/pi_ref` over the prompts that occur.

    Shapes as for `concentrability`; `C^pi <= C_inf^pi`.
    """
    _, _, ratio = _ratio(policy, reference)
    per_prompt = np.asarray(ratio.max(axis=-1))
    if prompt_dist is None:
        return average_over_prompts(per_prompt, None)
    rho = checks.as_distributions("prompt_dist", prompt_dist)
    average_over_prompts(per_prompt, rho)  # the same check of shapes
    if per_prompt.ndim == 0:
        return per_prompt[()]
    return np.asarray(np.where(rho > 0, per_prompt, 0.0).max(axis=-1))[()]


def all_policy_concentrability(
    reference: ArrayLike, prompt_dist: ArrayLike | None = None
) -> FloatArray:
    """Return `max_pi C^pi` over all policies, `E_x[1 / min_y pi_ref(y|x)]`; shapes as above."""
    p = checks.as_distributions("reference", reference)
    with np.errstate(divide="ignore", over="ignore"):
        return average_over_prompts(np.asarray(1.0 / p.min(axis=-1)), prompt_dist)


def _ratio(policy: ArrayLike, reference: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return `pi`, `p` and `pi/p`, 0 where pi is."""
    pi = checks.as_distributions("policy", policy)
    p = checks.as_distributions("reference", reference)
    checks.same_responses(policy=pi, reference=p)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return pi, p, np.where(pi > 0, pi / p, 0.0)
