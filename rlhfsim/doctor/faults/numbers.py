"""Faults with a free number, each at the values that are usual for it: the name says which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from scipy.special import expit

from rlhfsim.checks import FloatArray
from rlhfsim.doctor.anatomy import Anatomy, Curve
from rlhfsim.doctor.faults.base import Fault, changed
from rlhfsim.golden import Case
from rlhfsim.losses import Logistic

_CHIPO = ("chipo", "chipo_clipped")
#: Methods whose outer loss is -log sigma, without margin or smoothing.
_PLAIN = (
    "dpo",
    "rpo",
    *_CHIPO,
    "chipo_practical",
    "fdpo_js",
    "fdpo_forward_kl",
    "fdpo_alpha",
    "power",
)

#: Those whose sigma(h) can be small: a clip keeps sigma(h) far above every epsilon.
_UNBOUNDED = tuple(name for name in _PLAIN if name != "chipo_clipped")

_MARGINS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)
_SMOOTHINGS = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
_EPSILONS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1e-15, 1e-16)
_EXPONENTS = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0)
_RATIOS = (5.0, 10.0, 20.0, 50.0, 88.0, 100.0)
_DIFFERENCES = (5.0, 10.0, 20.0, 50.0, 88.0, 100.0, 500.0)

Change = Callable[[Anatomy, Case], Anatomy | None]


def _shifted(margin: float, scaled: bool) -> Change:
    """Return the change to `outer(h - margin)`, or to `outer(h - beta margin)`."""

    def change(a: Anatomy, case: Case) -> Anatomy:
        shift = margin * (case.beta if scaled else 1.0)
        outer = Curve(lambda h: a.outer.value(h - shift), lambda h: a.outer.slope(h - shift))
        return replace(a, outer=outer)

    return change


def _smoothed(rate: float) -> Change:
    """Return the change to the cross entropy against the label `1 - rate`."""

    def change(a: Anatomy, case: Case) -> Anatomy:
        loss = Logistic(label_smoothing=rate)
        return replace(a, outer=Curve(loss.value, loss.slope))

    return change


def _added(epsilon: float) -> Change:
    """Return the change to `-log(sigma(h) + epsilon)`."""

    def slope(h: FloatArray) -> FloatArray:
        return -expit(h) * expit(-h) / (expit(h) + epsilon)

    outer = Curve(lambda h: -np.log(expit(h) + epsilon), slope)
    return lambda a, case: replace(a, outer=outer)


def _bounded(epsilon: float) -> Change:
    """Return the change to `-log max(sigma(h), epsilon)`."""
    outer = Curve(
        lambda h: -np.log(np.maximum(expit(h), epsilon)),
        lambda h: np.where(expit(h) >= epsilon, -expit(-h), 0.0),
    )
    return lambda a, case: replace(a, outer=outer)


def _inside(limit: float, u: FloatArray) -> FloatArray:
    return np.where(np.abs(u) <= limit, 1.0, 0.0)


def _exponent_clipped(limit: float) -> Change:
    """Return the change to the link `exp(clip(u)) + gamma u`."""

    def change(a: Anatomy, case: Case) -> Anatomy:
        linear = case.settings["gamma"]

        def power(u: FloatArray) -> FloatArray:
            return np.exp(np.clip(u, -limit, limit))

        score = Curve(
            lambda u: power(u) + linear * u, lambda u: _inside(limit, u) * power(u) + linear
        )
        return replace(a, score=score)

    return change


def _ratio_clipped(limit: float) -> Change:
    def change(a: Anatomy, case: Case) -> Anatomy:
        def clip(u: FloatArray) -> FloatArray:
            return np.clip(u, -limit, limit)

        score = Curve(
            lambda u: a.score.value(clip(u)), lambda u: _inside(limit, u) * a.score.slope(clip(u))
        )
        return replace(a, score=score)

    return change


def _difference_clipped(limit: float) -> Change:
    return lambda a, case: replace(a, clip=limit) if a.clip is None and not a.rewards else None


def _margins() -> Iterator[Fault]:
    for scaled, size in ((scaled, size) for scaled in (False, True) for size in _MARGINS):
        shown = f"beta {size:g}" if scaled else f"{size:g}"
        for verb, sign in (("subtracted", 1.0), ("added", -1.0)):
            yield Fault(
                f"margin {shown} {verb} in the sigmoid",
                f"{shown} is {verb} inside the sigmoid; this loss has no margin.",
                changed(_shifted(sign * size, scaled), *_PLAIN),
            )


def _all() -> Iterator[Fault]:
    yield from _margins()
    for rate in _SMOOTHINGS:
        yield Fault(
            f"label smoothing {rate:g} in a loss without it",
            f"The loss is smoothed as in cDPO, with label_smoothing {rate:g}; it must not be.",
            changed(_smoothed(rate), *_PLAIN),
        )
    for epsilon in _EPSILONS:
        yield Fault(
            f"{epsilon:g} added in the logarithm",
            f"The loss is -log(sigma(h) + {epsilon:g}): it levels off where the policy is most "
            "wrong, and its gradient vanishes. Use logsigmoid.",
            changed(_added(epsilon), *_UNBOUNDED),
        )
        yield Fault(
            f"sigmoid bounded by {epsilon:g}",
            f"The loss is -log max(sigma(h), {epsilon:g}): it is flat where the policy is most "
            "wrong. Use logsigmoid.",
            changed(_bounded(epsilon), *_UNBOUNDED),
        )
    for limit in _EXPONENTS:
        yield Fault(
            f"exponent clipped at {limit:g}",
            f"The exponential holds log w clipped to [-{limit:g}, {limit:g}]; it must hold log w.",
            changed(_exponent_clipped(limit), *_CHIPO),
        )
    for limit in _RATIOS:
        yield Fault(
            f"log ratio clipped at {limit:g}",
            f"Every log ratio is clipped to [-{limit:g}, {limit:g}]; this method has no such clip.",
            changed(_ratio_clipped(limit)),
        )
    for limit in _DIFFERENCES:
        yield Fault(
            f"difference clipped at {limit:g}",
            f"The scaled difference is clipped to [-{limit:g}, {limit:g}]; this method has no such "
            "clip.",
            changed(_difference_clipped(limit)),
        )


FAULTS: tuple[Fault, ...] = tuple(_all())
