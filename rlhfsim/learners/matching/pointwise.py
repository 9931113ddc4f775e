"""Targets under a pointwise constraint: the reference where a condition holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray


def pointwise_target(reference: ArrayLike, weight: ArrayLike) -> FloatArray:
    """Return `p(y|x) b(x, y) / Z(x)`.

    With b of zeros and ones it is the policy closest to p, in `KL(. || p)`, among those that only
    give responses with `b = 1`; the divergence is `-log Z`.

    Parameters
    ----------
    reference : (X, Y) array of distributions
    weight : (X, Y) array
        `b`, at least 0.

    Returns
    -------
    (X, Y) array of distributions

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value; for a prompt where b leaves nothing of p.

    Source: arXiv 2012.11635, section 2.
    """
    p = checks.as_distributions("reference", checks.as_matrix("reference", reference))
    b = checks.as_non_negative(
        "weight", checks.as_matrix("weight", weight, (p.shape[0], p.shape[1]))
    )
    inside = np.where(p > 0, b, 0.0)
    largest = inside.max(axis=1, keepdims=True)
    if not (largest > 0).all():
        prompt = int(largest[:, 0].argmin())
        raise ValueError(
            f"weight[{prompt}] is 0 on the support of the reference; it must leave a response"
        )
    with np.errstate(under="ignore"):
        mass = p * (inside / largest)
        total = mass.sum(axis=1, keepdims=True)
        return np.asarray(mass / total)
