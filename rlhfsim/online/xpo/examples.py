"""A best response that the reference hardly ever plays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL
from rlhfsim.solvers import solve


class HiddenBest(NamedTuple):
    """The bandit, and the class in which the policy is sought."""

    bandit: ContextualBandit
    #: (rare + 2, 1, Y) rewards: all equal, none of the rare responses good, each of them the good
    #: one; the last is the truth.
    rewards: FloatArray
    #: Their KL-regularized optima; the first is the reference.
    policies: FloatArray


def hidden_best(beta: float, mass: float, *, rare: int = 1, gap: float = 1.0) -> HiddenBest:
    """Return a common response and some rare ones, of which the last is the best.

    One prompt.  The common response has reward 0 and the rest of the reference's mass; each of the
    rare ones has `mass`, and reward `-gap`, but for the last, which has `gap`.  Comparisons among
    common responses say nothing, so whoever keeps to the reference waits `1/mass` draws for the
    best response, while the regularized optimum gains about `gap - beta log(1/mass)` by it: at
    `mass = exp(-gap/(2 beta))` that is half the gap, for a wait exponential in `1/beta`.

    Parameters
    ----------
    beta : float
        Positive, in reward units.
    mass : float
        Positive; `rare mass < 1`.
    rare : int
        At least 1.
    gap : float
        Positive, in reward units.

    Raises
    ------
    ValueError
        Settings out of range.

    Source: ours, after proposition 2.1 of arXiv 2405.21046.
    """
    checks.positive_number("beta", beta)
    share = checks.positive_number("mass", mass)
    number = checks.whole_number("rare", rare, least=1)
    good = checks.positive_number("gap", gap)
    if number * share >= 1:
        raise ValueError(
            f"mass is {mass!r}; {number} rare responses must leave the common one some"
        )
    reference = np.full(number + 1, share)
    reference[0] = 1.0 - number * share
    rewards = np.zeros((number + 2, 1, number + 1))
    rewards[1:, :, 1:] = -good
    places = np.arange(number)
    rewards[2 + places, 0, 1 + places] = good
    bandit = ContextualBandit(np.ones(1), reference[None], rewards[-1])
    optima = solve(rewards[1:], bandit.reference, KL(), beta).policy
    return HiddenBest(bandit, rewards, np.concatenate((bandit.reference[None], optima)))
