"""Both sides of claims about methods whose own functions need a solver, by the name of the claim.

The instances are batches of one with `Number`s in place of floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flint import arb

from rlhfsim.certify.arrays import BallArray, balls
from rlhfsim.certify.divergences import Ball
from rlhfsim.certify.numbers import Number
from rlhfsim.certify.rationals import distribution
from rlhfsim.certify.rerun import over_balls
from rlhfsim.certify.sides import BallSides
from rlhfsim.claims.infalign import gibbs, objective
from rlhfsim.inference import calibrated_reward
from rlhfsim.learners.infalign import BestOf, WorstOf, infalign_optimum


def one(values: Any) -> Ball:
    """Return the only number of an array."""
    return Number.of(np.ravel(np.asarray(values, dtype=object))[0]).value


def middles(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return floats near an array of numbers."""
    array = balls(values)
    numbers: list[Number] = array.ravel().tolist()
    return np.array([float(number.ball.mid()) for number in numbers]).reshape(array.shape)


# ---- Fisher consistency --------------------------------------------------------------------------


def _population(x: Any, reward: BallArray, loss: Callable[[BallArray], BallArray]) -> Ball:
    """Return `sum over y != z of 2 p(y) p(z) sigma(r*(y) - r*(z)) loss(h)`, h by `reward`."""
    p = x.reference[0]
    preferred = _sigma(_gaps(x.reward[0]))
    terms = 2 * p[:, None] * p[None, :] * preferred * loss(_gaps(reward[0]))
    return one(terms[~np.eye(len(p), dtype=np.bool_)].sum())


def _gaps(values: BallArray) -> BallArray:
    return balls(values[:, None] - values[None, :])


def _sigma(h: BallArray) -> BallArray:
    return balls(1 / (1 + np.exp(-1 * h)))


def _of_rivals(loss: Callable[[BallArray], BallArray]) -> BallSides:
    return lambda x: (_population(x, x.reward, loss), _population(x, x.rival, loss))


# ---- InfAlign ------------------------------------------------------------------------------------

_objective, _gibbs = over_balls(objective), over_balls(gibbs)


def _optimum(x: Any) -> arb:
    """Return a ball with `max W(pi) - beta KL(pi || p)`: the solver's policy attains its low end.

    W is at most 1 and KL at least 0.
    """
    p, r, beta = middles(x.reference), middles(x.reward), float(middles(x.beta)[0])
    n = int(np.asarray(x.n)[0])
    procedure = WorstOf(n) if bool(np.asarray(x.worst)[0]) else BestOf(n)
    found = infalign_optimum(r, p, procedure, beta).policy
    policy = balls([[Number(mass) for mass in distribution(np.ravel(found))]])
    low = arb(one(_objective(x, policy)))
    return low.union(arb(1))


def _plain(x: Any) -> Ball:
    """Return the objective of `p e^(c/beta)/Z`, c the calibrated reward."""
    calibrated = over_balls(calibrated_reward)(x.reward, x.reference)
    return one(_objective(x, _gibbs(x, calibrated)))


#: For each claim, the function from an instance of numbers to its left and its right side.
METHOD_SIDES: dict[str, BallSides] = {
    "DPO is Fisher consistent": _of_rivals(lambda h: balls(-1 * np.log(_sigma(h)))),
    "DPO without its logarithm is Fisher consistent": _of_rivals(lambda h: _sigma(balls(-1 * h))),
    "plain KL regularization is enough": lambda x: (_optimum(x), _plain(x)),
}
