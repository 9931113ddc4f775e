"""Faults in the outer loss: what is done with the scaled difference h."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.doctor.anatomy import Anatomy, Curve
from rlhfsim.doctor.faults.base import Fault, changed
from rlhfsim.golden import Case
from rlhfsim.losses import Logistic, NegativeSigmoid

_LOGISTIC = (
    "dpo",
    "cdpo",
    "robust_dpo",
    "rpo",
    "chipo",
    "chipo_clipped",
    "chipo_practical",
    "fdpo_js",
    "fdpo_forward_kl",
    "fdpo_alpha",
    "simpo",
    "power",
)
_SMOOTHED = ("cdpo", "robust_dpo")
_HINGES = ("hinge", "slic")

Change = Callable[[Anatomy, Case], Anatomy]


def _plus(curve: Curve, constant: float) -> Curve:
    return Curve(lambda h: curve.value(h) + constant, curve.slope)


def _of(curve: Curve, shift: float) -> Curve:
    """Return `h -> curve(h - shift)`."""
    return Curve(lambda h: curve.value(h - shift), lambda h: curve.slope(h - shift))


def _cross_entropy(won: float, lost: float) -> Curve:
    """Return `-won log sigma(h) - lost log sigma(-h)`."""
    one = Logistic()
    return Curve(
        lambda h: won * one.value(h) + lost * one.value(-h),
        lambda h: won * one.slope(h) - lost * one.slope(-h),
    )


def _logistic(margin: float = 0.0) -> Curve:
    loss = Logistic(margin=margin)
    return Curve(loss.value, loss.slope)


def _minus_sigmoid(h: FloatArray) -> FloatArray:
    return NegativeSigmoid().value(h)


def _no_logarithm(constant: float) -> Change:
    """Return the change to `constant - sigma(h)`, at the margin of the method."""

    def change(a: Anatomy, case: Case) -> Anatomy:
        margin = case.settings["gamma"] if case.method == "simpo" else 0.0
        curve = _plus(Curve(_minus_sigmoid, NegativeSigmoid().slope), constant)
        return replace(a, outer=_of(curve, margin))

    return change


def _smoothing(won: Callable[[float], float], lost: Callable[[float], float]) -> Change:
    def change(a: Anatomy, case: Case) -> Anatomy:
        eps = case.settings["label_smoothing"]
        return replace(a, outer=_cross_entropy(won(eps), lost(eps)))

    return change


def _squared(scale: float, target: float, weight: float) -> Curve:
    """Return `weight (scale h - target)^2`."""
    return Curve(
        lambda h: weight * (scale * h - target) ** 2,
        lambda h: 2.0 * weight * scale * (scale * h - target),
    )


def _ipo(outer: Callable[[float], Curve]) -> Change:
    """Return the change to an outer loss of the unscaled margin."""
    return lambda a, case: replace(a, beta=1.0, outer=outer(case.beta))


def _hinge(
    value: Callable[[FloatArray], FloatArray], slope: Callable[[FloatArray], FloatArray]
) -> Change:
    """Return the change to a function of `margin - h`."""

    def change(a: Anatomy, case: Case) -> Anatomy:
        margin = case.settings["margin"]
        curve = Curve(lambda h: value(margin - h), lambda h: -slope(margin - h))
        return replace(a, outer=curve)

    return change


def _margin_times(factor: float) -> Change:
    def change(a: Anatomy, case: Case) -> Anatomy:
        return replace(a, outer=_of(a.outer, (factor - 1.0) * case.settings["margin"]))

    return change


def _simpo(margin: Callable[[Case], float]) -> Change:
    return lambda a, case: replace(a, outer=_logistic(margin(case)))


FAULTS: tuple[Fault, ...] = (
    Fault(
        "missing log, 1 - sigma",
        "The loss is 1 - sigma(h) instead of -log sigma(h): it is not consistent, its minimiser "
        "knows only which response is better.",
        changed(_no_logarithm(1.0), *_LOGISTIC),
    ),
    Fault(
        "missing log",
        "The loss is -sigma(h) instead of -log sigma(h): it is not consistent, its minimiser knows "
        "only which response is better.",
        changed(_no_logarithm(0.0), *_LOGISTIC),
    ),
    Fault(
        "label smoothing that does nothing",
        "label_smoothing is read and has no effect: the loss is DPO.",
        changed(_smoothing(lambda eps: 1.0, lambda eps: 0.0), *_SMOOTHED),
    ),
    Fault(
        "label smoothing the wrong way round",
        "The weights label_smoothing and 1 - label_smoothing are exchanged.",
        changed(_smoothing(lambda eps: eps, lambda eps: 1 - eps), "cdpo"),
    ),
    Fault(
        "label smoothing with the sign of robust DPO",
        "The second term is subtracted; it must be added.",
        changed(_smoothing(lambda eps: 1 - eps, lambda eps: -eps), "cdpo"),
    ),
    Fault(
        "label smoothing of one term only",
        "The first term is -log sigma(h) in full; its weight must be 1 - label_smoothing.",
        changed(_smoothing(lambda eps: 1.0, lambda eps: eps), "cdpo"),
    ),
    Fault(
        "missing normalization by 1 - 2 label_smoothing",
        "The difference of the two terms is not divided by 1 - 2 label_smoothing.",
        changed(_smoothing(lambda eps: 1 - eps, lambda eps: -eps), "robust_dpo"),
    ),
    Fault(
        "sign of the second term of robust DPO",
        "The second term is added, as in cDPO; it must be subtracted.",
        changed(
            _smoothing(lambda eps: (1 - eps) / (1 - 2 * eps), lambda eps: eps / (1 - 2 * eps)),
            "robust_dpo",
        ),
    ),
    Fault(
        "target 1/beta",
        "The target of IPO is 1/beta; it must be 1/(2 beta).",
        changed(_ipo(lambda beta: _squared(1.0, 1.0 / beta, 1.0)), "ipo"),
    ),
    Fault(
        "target beta/2",
        "The target of IPO is beta/2; it must be 1/(2 beta).",
        changed(_ipo(lambda beta: _squared(1.0, 0.5 * beta, 1.0)), "ipo"),
    ),
    Fault(
        "target with the wrong sign",
        "1/(2 beta) is added to the margin; it must be subtracted.",
        changed(_ipo(lambda beta: _squared(1.0, -0.5 / beta, 1.0)), "ipo"),
    ),
    Fault(
        "target missing",
        "The margin itself is squared; 1/(2 beta) must be subtracted first.",
        changed(_ipo(lambda beta: _squared(1.0, 0.0, 1.0)), "ipo"),
    ),
    Fault(
        "margin scaled by beta in IPO",
        "The margin is multiplied by beta as well; only the target 1/(2 beta) holds beta.",
        changed(_ipo(lambda beta: _squared(beta, 0.5 / beta, 1.0)), "ipo"),
    ),
    Fault(
        "target 1/2 for beta times the margin",
        "The loss is (beta margin - 1/2)^2, which lacks the factor 1/beta^2.",
        changed(_ipo(lambda beta: _squared(beta, 0.5, 1.0)), "ipo"),
    ),
    Fault(
        "absolute value in place of the square",
        "The distance to the target is not squared.",
        changed(
            _ipo(
                lambda beta: Curve(
                    lambda h: np.abs(h - 0.5 / beta), lambda h: np.sign(h - 0.5 / beta)
                )
            ),
            "ipo",
        ),
    ),
    Fault(
        "squared hinge",
        "The hinge is squared.",
        changed(_hinge(lambda t: np.maximum(0, t) ** 2, lambda t: 2 * np.maximum(0, t)), *_HINGES),
    ),
    Fault(
        "hinge without its kink",
        "margin - h is not cut off at 0.",
        changed(_hinge(lambda t: t, np.ones_like), *_HINGES),
    ),
    Fault(
        "softplus in place of the hinge",
        "The loss is log(1 + e^(margin - h)); it must be max(0, margin - h).",
        changed(
            _hinge(lambda t: np.logaddexp(0.0, t), lambda t: 1.0 / (1.0 + np.exp(-t))), *_HINGES
        ),
    ),
    Fault(
        "margin missing",
        "The loss is max(0, -h), without the margin.",
        changed(_margin_times(0.0), *_HINGES),
    ),
    Fault(
        "margin with the wrong sign",
        "The loss is max(0, -margin - h); it must be max(0, margin - h).",
        changed(_margin_times(-1.0), *_HINGES),
    ),
    Fault(
        "gamma scaled by beta",
        "beta gamma is subtracted; it must be gamma, outside of the product with beta.",
        changed(_simpo(lambda case: case.beta * case.settings["gamma"]), "simpo"),
    ),
    Fault(
        "gamma missing",
        "The margin gamma is not subtracted.",
        changed(_simpo(lambda case: 0.0), "simpo"),
    ),
    Fault(
        "gamma with the wrong sign",
        "gamma is added; it must be subtracted.",
        changed(_simpo(lambda case: -case.settings["gamma"]), "simpo"),
    ),
    Fault(
        "mean before the loss",
        "The margins are averaged over the batch before the loss is taken of their mean.",
        changed(lambda a, case: replace(a, mean_first=True)),
    ),
)
