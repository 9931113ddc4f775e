"""Unilateral coverage: data that compare a policy with every way of leaving it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray


def pair_law(reference: ArrayLike) -> FloatArray:
    """Return the `(..., Y, Y)` law of two independent responses, `p(y) p(y')`."""
    p = checks.as_distributions("reference", reference)
    return np.asarray(p[..., :, None] * p[..., None, :])


def unilateral_concentrability(policy: ArrayLike, pairs: ArrayLike) -> FloatArray:
    """Return `max_pi' E_mu[(pi'(y) pi(y') / mu(y, y'))^2]`, the cost of judging who leaves `pi`.

    `mu` is the law of compared pairs, made symmetric.  The expectation is convex in pi', so that
    the worst deviation is to one response: `max_y sum_y' pi(y')^2 / mu(y, y')`, over the y' other
    than y, since a response compared with itself is known to tie.
    With it, every estimate `l^` with `E_mu[(l - l^)^2] <= eps^2` has
    `|l(y, pi) - l^(y, pi)| <= sqrt(C/2) eps` for all y (claim "unilateral coverage").

    Parameters
    ----------
    policy : (..., Y) array of distributions
    pairs : (..., Y, Y) array
        Probabilities of the ordered pairs, each matrix summing to 1; `pair_law` for two draws of
        a reference.

    Returns
    -------
    (...) array
        Dimensionless, per prompt; `inf` where some pair with one side of `pi` is never compared.

    Raises
    ------
    ValueError
        For rows that are no distributions, and pairs of another shape, negative or not summing
        to 1.

    Source: arXiv 2407.13399 (general preferences), 2201.04181 (unilateral coverage in games).
    """
    pi = checks.as_distributions("policy", policy)
    mu = checks.as_non_negative("pairs", pairs)
    size = pi.shape[-1]
    if mu.ndim < 2 or mu.shape[-2:] != (size, size):
        raise ValueError(f"pairs has shape {mu.shape}; it must be (..., {size}, {size})")
    checks.as_distributions("pairs", mu.reshape(*mu.shape[:-2], size * size))
    checks.broadcast(policy=pi[..., 0], pairs=mu[..., 0, 0])
    both = 0.5 * (mu + np.swapaxes(mu, -1, -2))
    needed = (pi[..., None, :] > 0) & ~np.eye(size, dtype=np.bool_)
    # Divided before it is squared: the square of a small mass underflows, and 0/0 is no number.
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        share = pi[..., None, :] / np.where(needed, np.sqrt(both), 1.0)
        terms = np.where(needed, share**2, 0.0)
    return np.asarray(terms.sum(axis=-1).max(axis=-1))
