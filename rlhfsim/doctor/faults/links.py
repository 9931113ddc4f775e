"""Faults in what is compared: link, clip, weights, imitation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rlhfsim.doctor.anatomy import Anatomy, Curve, Function, log_curve
from rlhfsim.doctor.faults.base import Fault, changed
from rlhfsim.golden import Case

_CHIPO = ("chipo", "chipo_clipped")
_LINKS = (*_CHIPO, "chipo_practical")


def _exponential(weight: float, linear: float, rate: float = 1.0) -> Curve:
    """Return `weight e^(rate u) + linear u`."""
    return Curve(
        lambda u: weight * np.exp(rate * u) + linear * u,
        lambda u: weight * rate * np.exp(rate * u) + linear,
    )


def _clipped(curve: Curve, limit: float) -> Curve:
    """Return a curve that is cut off beyond `[-limit, limit]`."""
    return Curve(
        lambda u: np.clip(curve.value(u), -limit, limit),
        lambda u: np.where(np.abs(curve.value(u)) <= limit, curve.slope(u), 0.0),
    )


def _practical(exponent: Function, slope: Function, linear: float, factor: float = 1.0) -> Curve:
    """Return `factor exp(exponent(u)) + linear u`."""
    return Curve(
        lambda u: factor * np.exp(exponent(u)) + linear * u,
        lambda u: factor * slope(u) * np.exp(exponent(u)) + linear,
    )


def _between(low: float, high: float, u: np.ndarray, slope: float) -> np.ndarray:
    return np.where((u >= low) & (u <= high), slope, 0.0)


def _alpha_outside(a: Anatomy, case: Case) -> Anatomy:
    alpha, gamma = case.settings["alpha"], case.settings["gamma"]
    return replace(
        a,
        score=_practical(
            lambda u: np.clip(u, -88.0, 20.0), lambda u: _between(-88.0, 20.0, u, 1.0), gamma, alpha
        ),
    )


def _clip_before_alpha(a: Anatomy, case: Case) -> Anatomy:
    alpha, gamma = case.settings["alpha"], case.settings["gamma"]
    return replace(
        a,
        score=_practical(
            lambda u: alpha * np.clip(u, -88.0, 20.0),
            lambda u: _between(-88.0, 20.0, u, alpha),
            gamma,
        ),
    )


def _clipped_product(alpha: float, low: float, high: float, linear: float) -> Curve:
    """Return the practical link, which clips `alpha u`."""
    return _practical(
        lambda u: np.clip(alpha * u, low, high),
        lambda u: _between(low, high, alpha * u, alpha),
        linear,
    )


def _exchanged(a: Anatomy, case: Case) -> Anatomy:
    alpha, gamma = case.settings["alpha"], case.settings["gamma"]
    return replace(a, score=_clipped_product(gamma, -88.0, 20.0, alpha))


def _exponential_only(a: Anatomy, case: Case) -> Anatomy:
    linear = case.settings["gamma"]
    return replace(
        a,
        score=Curve(lambda u: a.score.value(u) - linear * u, lambda u: a.score.slope(u) - linear),
    )


def _logarithm_only(a: Anatomy, case: Case) -> Anatomy:
    return replace(a, score=_exponential(0.0, case.settings["gamma"]))


def _clip_each(factor: float) -> Callable[[Anatomy, Case], Anatomy]:
    """Return the change to a clip of `beta (w + gamma log w)` of each response."""

    def change(a: Anatomy, case: Case) -> Anatomy:
        link = _exponential(1.0, case.settings["gamma"])
        limit = 2.0 * factor * case.settings["r_max"]
        return replace(a, score=_clipped(link, limit / a.beta), clip=None)

    return change


def _one_bound(lower: bool) -> Callable[[Anatomy, Case], Anatomy | None]:
    """Return the change to a clip of the difference from one side alone."""

    def change(a: Anatomy, case: Case) -> Anatomy | None:
        if a.clip is None:
            return None
        low, high = (-a.clip, np.inf) if lower else (-np.inf, a.clip)
        outer = Curve(
            lambda h: a.outer.value(np.clip(h, low, high)),
            lambda h: np.where((h >= low) & (h <= high), a.outer.slope(h), 0.0),
        )
        return replace(a, clip=None, outer=outer)

    return change


def _bounds_exchanged(a: Anatomy, case: Case) -> Anatomy:
    alpha, gamma = case.settings["alpha"], case.settings["gamma"]
    return replace(a, score=_clipped_product(alpha, -20.0, 88.0, gamma))


def _exponential_detached(a: Anatomy, case: Case) -> Anatomy:
    linear = case.settings["gamma"]
    return replace(a, score=Curve(a.score.value, lambda u: np.full_like(u, linear)))


def _clip_times(factor: Callable[[Anatomy], float]) -> Callable[[Anatomy, Case], Anatomy | None]:
    def change(a: Anatomy, case: Case) -> Anatomy | None:
        return None if a.clip is None else replace(a, clip=a.clip * factor(a))

    return change


def _power(case: Case, sign: float, factor: float) -> Curve:
    """Return `factor w^e`, `e = alpha - 1` or, with sign -1, `e = -alpha`."""
    alpha = case.settings["alpha"]
    rate = alpha - 1.0 if sign > 0 else -alpha
    return _exponential(factor, 0.0, rate)


#: Generators f of the divergences, in `u = log w`, whose derivatives the links are.
_GENERATORS = {
    "fdpo_forward_kl": lambda case: _exponential(0.0, -1.0),
    "fdpo_js": lambda case: Curve(
        lambda u: u * np.exp(u) - (1 + np.exp(u)) * np.log((1 + np.exp(u)) / 2),
        lambda u: np.exp(u) * (u + np.log(2.0) - np.log1p(np.exp(u))),
    ),
    "chipo": lambda case: Curve(
        lambda u: 0.5 * (np.exp(u) - 1) ** 2 + case.settings["gamma"] * u * np.exp(u),
        lambda u: (np.exp(u) - 1) * np.exp(u) + case.settings["gamma"] * (1 + u) * np.exp(u),
    ),
}

FAULTS: tuple[Fault, ...] = (
    Fault(
        "link without the linear term",
        "The link holds the exponential alone; chiPO adds gamma log w to it, without which "
        "responses of small probability are not held back.",
        changed(_exponential_only, *_LINKS),
    ),
    Fault(
        "link without the exponential term",
        "The link is gamma log w alone, which is DPO: the chi-squared term w is missing.",
        changed(_logarithm_only, *_LINKS),
    ),
    Fault(
        "chi-squared without its 1/2",
        "The link is 2 w + gamma log w; D_chi2 has a 1/2, so that its derivative is w - 1.",
        changed(
            lambda a, case: replace(a, score=_exponential(2.0, case.settings["gamma"])), *_CHIPO
        ),
    ),
    Fault(
        "chi-squared with 1/2 twice",
        "The link is w/2 + gamma log w; D_chi2 = E[(w - 1)^2]/2 has the derivative w - 1.",
        changed(
            lambda a, case: replace(a, score=_exponential(0.5, case.settings["gamma"])), *_CHIPO
        ),
    ),
    Fault(
        "detached exponential",
        "The loss is right, but no gradient flows through the exponential of the log ratio: it is "
        "detached, and the gradient is that of the linear term alone.",
        changed(_exponential_detached, *_LINKS),
    ),
    Fault(
        "gamma on the wrong term",
        "gamma multiplies the exponential instead of the logarithm.",
        changed(
            lambda a, case: replace(a, score=_exponential(case.settings["gamma"], 1.0)), *_CHIPO
        ),
    ),
    Fault(
        "missing clip",
        "The scaled difference is not clipped to [-2 r_max, 2 r_max].",
        changed(lambda a, case: None if a.clip is None else replace(a, clip=None)),
    ),
    Fault(
        "clip from below only",
        "The scaled difference is cut off at -2 r_max and not at 2 r_max.",
        changed(_one_bound(lower=True)),
    ),
    Fault(
        "clip from above only",
        "The scaled difference is cut off at 2 r_max and not at -2 r_max.",
        changed(_one_bound(lower=False)),
    ),
    Fault(
        "clip applied to each ratio",
        "beta phi(w) of each response is clipped to [-2 r_max, 2 r_max]; the difference must be.",
        changed(_clip_each(1.0), "chipo_clipped"),
    ),
    Fault(
        "clip applied to each ratio, at r_max",
        "beta phi(w) of each response is clipped to [-r_max, r_max]; the difference must be "
        "clipped, to twice that.",
        changed(_clip_each(0.5), "chipo_clipped"),
    ),
    Fault(
        "clip at r_max",
        "The difference is clipped to [-r_max, r_max]; rewards in an interval of length r_max "
        "differ by up to r_max either way, and the method has 2 r_max.",
        changed(_clip_times(lambda a: 0.5)),
    ),
    Fault(
        "clip before beta",
        "The difference is clipped to [-2 r_max, 2 r_max] before it is multiplied by beta.",
        changed(_clip_times(lambda a: a.beta)),
    ),
    Fault(
        "missing clip of the exponent",
        "alpha log w is not clipped to [-88, 20] before the exponential.",
        changed(
            lambda a, case: replace(
                a, score=_exponential(1.0, case.settings["gamma"], case.settings["alpha"])
            ),
            "chipo_practical",
        ),
    ),
    Fault(
        "bounds of the exponent exchanged",
        "alpha log w is clipped to [-20, 88]; the bounds are -88 and 20.",
        changed(_bounds_exchanged, "chipo_practical"),
    ),
    Fault(
        "exponent clipped before alpha",
        "log w is clipped to [-88, 20] and then multiplied by alpha; alpha log w must be clipped.",
        changed(_clip_before_alpha, "chipo_practical"),
    ),
    Fault(
        "alpha outside of the exponential",
        "The link holds alpha w; it must hold w^alpha.",
        changed(_alpha_outside, "chipo_practical"),
    ),
    Fault(
        "alpha and gamma exchanged",
        "alpha multiplies the logarithm and gamma the exponent.",
        changed(_exchanged, "chipo_practical"),
    ),
    Fault(
        "alpha convention swapped",
        "1 - alpha stands for alpha: the link is (1 - w^-alpha)/alpha, as in the f-DPO paper and "
        "in TRL up to 0.28; here, and in TRL from 0.29 on, it is (w^(alpha - 1) - 1)/(alpha - 1).",
        changed(
            lambda a, case: replace(a, score=_power(case, -1.0, -1.0 / case.settings["alpha"])),
            "fdpo_alpha",
        ),
    ),
    Fault(
        "alpha link without its factor",
        "The link is w^(alpha - 1), without 1/(alpha - 1): for alpha below 1 it falls.",
        changed(lambda a, case: replace(a, score=_power(case, 1.0, 1.0)), "fdpo_alpha"),
    ),
    Fault(
        "alpha link with the factor of the other convention",
        "The link is w^(alpha - 1)/alpha; the factor must be 1/(alpha - 1).",
        changed(
            lambda a, case: replace(a, score=_power(case, 1.0, 1.0 / case.settings["alpha"])),
            "fdpo_alpha",
        ),
    ),
    Fault(
        "Jensen-Shannon as a mean",
        "The link is log(2w/(1 + w))/2: the divergence is the mean of two KLs; trainers have their "
        "sum, so that beta counts half.",
        changed(lambda a, case: replace(a, beta=0.5 * a.beta), "fdpo_js"),
    ),
    Fault(
        "softplus in place of the link",
        "The score is log(1 + w); the Jensen-Shannon link is log w - log(1 + w).",
        changed(
            lambda a, case: replace(
                a,
                score=Curve(lambda u: np.logaddexp(0.0, u), lambda u: 1.0 / (1.0 + np.exp(-u))),
            ),
            "fdpo_js",
        ),
    ),
    Fault(
        "sign of the forward KL link",
        "The score is 1/w, which falls with w; it must be -1/w.",
        changed(lambda a, case: replace(a, score=_exponential(1.0, 0.0, -1.0)), "fdpo_forward_kl"),
    ),
    Fault(
        "generator in place of its derivative",
        "The loss compares f(w) of the divergence; it must compare f'(w).",
        changed(lambda a, case: replace(a, score=_GENERATORS[case.method](case)), *_GENERATORS),
    ),
    Fault(
        "imitation term missing",
        "The term -log pi(y+) is not there.",
        changed(lambda a, case: replace(a, imitation=0.0) if a.imitation else None),
    ),
    Fault(
        "imitation term with the wrong sign",
        "log pi(y+) is added; it must be subtracted, so that the chosen response becomes likelier.",
        changed(lambda a, case: replace(a, imitation=-a.imitation) if a.imitation else None),
    ),
    Fault(
        "imitation of the rejected response",
        "The imitated response is the rejected one.",
        changed(
            lambda a, case: (
                replace(a, imitation=0.0, imitation_rejected=a.imitation)
                if a.imitation and not a.weighted
                else None
            )
        ),
    ),
    Fault(
        "imitation term scaled by beta",
        "The weight of -log pi(y+) is multiplied by beta (the RPO paper's own eta).",
        changed(
            lambda a, case: replace(a, imitation=case.beta * a.imitation) if a.imitation else None
        ),
    ),
    Fault(
        "imitation term with weight 1",
        "The weight of -log pi(y+) is ignored.",
        changed(lambda a, case: replace(a, imitation=1.0) if a.imitation else None),
    ),
    Fault(
        "reference in a loss without one",
        "The reference is subtracted; this loss compares the log-probabilities of the policy.",
        changed(lambda a, case: replace(a, reference=1.0) if a.reference == 0 else None),
    ),
    Fault(
        "constant of the weighted entropy missing",
        "The score is v log pi; it must be v (1 + log pi).",
        changed(lambda a, case: replace(a, score=log_curve()), "power"),
    ),
    Fault(
        "weights ignored",
        "The weights of the responses are not used.",
        changed(lambda a, case: replace(a, weighted=False) if a.weighted else None),
    ),
    Fault(
        "rewards ignored",
        "The difference of the rewards is not subtracted.",
        changed(lambda a, case: replace(a, rewards=0.0) if a.rewards else None),
    ),
    Fault(
        "rewards with the wrong sign",
        "The difference of the rewards is added; it must be subtracted.",
        changed(lambda a, case: replace(a, rewards=-1.0) if a.rewards else None),
    ),
    Fault(
        "rewards scaled by beta",
        "The difference of the rewards is multiplied by beta too.",
        changed(lambda a, case: replace(a, rewards=case.beta) if a.rewards else None),
    ),
)
