"""Which losses and optimizers the compiled path knows, as numbers.

A link is `phi = a e^{clip(k u, low, high)} + g u + c`, u the log ratio; an outer loss is one of
three kinds.  Only the classes themselves are known: a subclass may have overridden anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL, AlphaDivergence, ChiSquared
from rlhfsim.dynamics.optimizers import Adam, GradientDescent, Optimizer
from rlhfsim.losses import (
    KTO,
    DirectLoss,
    DivergenceLink,
    EntropyLink,
    Hinge,
    Link,
    Logistic,
    LogLink,
    NegativeSigmoid,
    OuterLoss,
    PracticalLink,
    RobustLogistic,
    SFTTerm,
    Squared,
)
from rlhfsim.losses.links import PRACTICAL_RANGE

LOGISTIC, NEGATIVE_SIGMOID, SQUARED, HINGE = range(4)
DESCENT, ADAM = range(2)

# Entries of the numbers of a form.
FACTOR, RATE, LOW, HIGH, LINEAR, CONSTANT, BETA, CLIP, FIRST, SECOND, THIRD = range(11)

#: Log ratios up to which the compiled exponential and its square stay within the floats.
LARGEST_LOG_RATIO = 340.0
# Nearer to 1, the difference of two powers loses digits that `expm1` keeps.
_SMALLEST_ALPHA = 1.1


@dataclass(frozen=True, eq=False)
class Form:
    """A loss in numbers."""

    #: Kind of the outer loss.
    outer: int
    #: (11,) link, beta, clip and the parameters of the outer loss.
    numbers: FloatArray
    #: Weight of imitation of the chosen response.
    imitation: float
    #: Whether the link sees log pi instead of the log ratio.
    reference_free: bool
    #: Loss of a pair of equals.
    tied: float


def form_of(loss: DirectLoss | KTO, reference: FloatArray) -> Form | None:
    """Return the form of a loss, or None for one that only the generic path knows."""
    if type(loss) is not DirectLoss or any(type(term) is not SFTTerm for term in loss.extra):
        return None
    link, outer = _link(loss.link), _outer(loss.outer)
    if link is None or outer is None:
        return None
    reach = -float(np.log(reference[reference > 0].min()))
    if max(1.0, link[1]) * reach > LARGEST_LOG_RATIO:
        return None
    clip = np.inf if loss.clip is None else loss.clip
    return Form(
        outer[0],
        np.array([*link, loss.beta, clip, *outer[1:]]),
        math.fsum(term.weight for term in loss.extra if isinstance(term, SFTTerm)),
        loss.reference_free,
        loss.tied_value(),
    )


def _link(link: Link) -> tuple[float, ...] | None:
    """Return `(a, k, low, high, g, c)`."""
    free = (-np.inf, np.inf)
    if type(link) is LogLink:
        return 0.0, 0.0, *free, 1.0, 0.0
    if type(link) is EntropyLink:
        return 0.0, 0.0, *free, 1.0, 1.0
    if type(link) is PracticalLink:
        return 1.0, link.alpha, *PRACTICAL_RANGE, link.gamma, 0.0
    if type(link) is not DivergenceLink:
        return None
    linear, powers = 0.0, []
    for weight, base in link.divergence.terms():
        if type(base) is KL:
            linear += weight
        elif type(base) is ChiSquared:
            powers.append((weight, 1.0))
        elif type(base) is AlphaDivergence and base.alpha >= _SMALLEST_ALPHA:
            powers.append((weight / (base.alpha - 1.0), base.alpha - 1.0))
        else:
            return None
    if len(powers) > 1:
        return None
    factor, rate = powers[0] if powers else (0.0, 0.0)
    # f' has f'(1) = 0.
    return factor, rate, *free, linear, -factor


def _outer(outer: OuterLoss) -> tuple[int, float, float, float] | None:
    """Return the kind and three parameters."""
    if type(outer) is Logistic:
        smooth = outer.label_smoothing
        return LOGISTIC, 1.0 - smooth, smooth, outer.margin
    if type(outer) is RobustLogistic:
        keep = 1.0 - 2.0 * outer.flip_rate
        return LOGISTIC, (1.0 - outer.flip_rate) / keep, -outer.flip_rate / keep, 0.0
    if type(outer) is NegativeSigmoid:
        return NEGATIVE_SIGMOID, 0.0, 0.0, 0.0
    if type(outer) is Squared:
        return SQUARED, outer.weight, 0.0, outer.target
    if type(outer) is Hinge:
        return HINGE, 0.0, 0.0, outer.margin
    return None


def optimizer_of(optimizer: Optimizer) -> tuple[int, FloatArray] | None:
    """Return kind and numbers of an optimizer, or None for one that is not known."""
    if type(optimizer) is GradientDescent:
        return DESCENT, np.array([optimizer.momentum, 0.0, 0.0])
    if type(optimizer) is Adam:
        return ADAM, np.array([optimizer.mean_decay, optimizer.square_decay, optimizer.epsilon])
    return None
