"""Checks that the samplers share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray


def as_request(
    bandit: ContextualBandit, n: int, rng: np.random.Generator
) -> tuple[int, np.random.Generator]:
    """Return `n` and `rng`, which must be at least 1 and a Generator; `bandit` must be a bandit."""
    if not isinstance(bandit, ContextualBandit):
        raise ValueError(f"bandit is a {type(bandit).__name__}; it must be a ContextualBandit")
    return checks.whole_number("n", n, least=1), checks.generator("rng", rng)


def as_policy(name: str, value: ArrayLike, bandit: ContextualBandit) -> FloatArray:
    """Return a policy of the bandit: an `(X, Y)` array of distributions.

    Raises
    ------
    ValueError
        For another shape, rows that are not distributions, and mass on a response that the prompt
        does not have.
    """
    policy = checks.as_distributions(name, checks.as_matrix(name, value, bandit.shape))
    if bandit.available is not None:
        bad = (policy > 0) & ~bandit.available
        if bad.any():
            x, y = (int(i[0]) for i in np.nonzero(bad))
            raise ValueError(
                f"{name}[{x}, {y}] is {policy[x, y].item()!r}; "
                "a response that the prompt does not have must have probability 0"
            )
    return policy
