"""Losses in pieces that faults can exchange: score, outer loss, clip, imitation.

    h = clip(beta [v+ score(log w+) - v- score(log w-)]) - reward weight [r+ - r-]
    loss = outer(h) - imitation v+ log pi(y+)

with `log w = log pi - m log p`, where m counts the reference: 1, or 0 for a loss without one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhfsim import losses
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import AlphaDivergence, ForwardKL, JensenShannon
from rlhfsim.doctor.outcome import Outcome
from rlhfsim.golden import COLUMNS, Case
from rlhfsim.losses import DirectLoss, SFTTerm

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Curve(NamedTuple):
    """A function of one number, and its derivative."""

    value: Function
    slope: Function


@dataclass(frozen=True)
class Anatomy:
    """The pieces of a direct loss."""

    score: Curve
    outer: Curve
    beta: float
    clip: float | None = None
    #: How often `log p` is subtracted.
    reference: float = 1.0
    #: Weight of `-log pi(y+)`, and of `-log pi(y-)`.
    imitation: float = 0.0
    imitation_rejected: float = 0.0
    #: Whether responses have weights, and how often the rewards are subtracted.
    weighted: bool = False
    rewards: float = 0.0
    #: Whether h is averaged before the outer loss.
    mean_first: bool = False

    def outcome(self, case: Case) -> Outcome:
        """Return mean loss and derivatives."""
        pc, pr, rc, rr = (np.array(case.columns[name]) for name in COLUMNS)
        up, down = pc - self.reference * rc, pr - self.reference * rr
        v_up, v_down = self._pair(case, "weights", 1.0)
        r_up, r_down = self._pair(case, "rewards", 0.0)
        with np.errstate(all="ignore"):
            h = self.beta * (v_up * self.score.value(up) - v_down * self.score.value(down))
            inside = np.ones_like(h)
            if self.clip is not None:
                inside = np.where(np.abs(h) <= self.clip, 1.0, 0.0)
                h = np.clip(h, -self.clip, self.clip)
            h = h - self.rewards * (r_up - r_down)
            if self.mean_first:
                h = np.full_like(h, h.mean())
            outer = self.beta * inside * self.outer.slope(h)
            chosen = _product(outer, v_up * self.score.slope(up)) - self.imitation * v_up
            rejected = -_product(outer, v_down * self.score.slope(down))
            rejected = rejected - self.imitation_rejected
            loss = self.outer.value(h) - self.imitation * v_up * pc - self.imitation_rejected * pr
        return Outcome(float(loss.mean()), (chosen / case.size, rejected / case.size))

    def _pair(self, case: Case, kind: str, default: float) -> tuple[FloatArray, FloatArray]:
        given = case.columns if kind == "rewards" or self.weighted else {}
        first, second = (
            np.array(given.get(f"{side}_{kind}", [default] * case.size))
            for side in ("chosen", "rejected")
        )
        return first, second


def _product(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the product, which is 0 where either factor is."""
    return np.where((first == 0) | (second == 0), 0.0, first * second)


def dissect(loss: DirectLoss) -> Anatomy:
    """Return the pieces of a loss."""
    return Anatomy(
        score=Curve(loss.link.value, loss.link.slope),
        outer=Curve(loss.outer.value, loss.outer.slope),
        beta=loss.beta,
        clip=loss.clip,
        reference=0.0 if loss.reference_free else 1.0,
        imitation=sum(term.weight for term in loss.extra if isinstance(term, SFTTerm)),
        weighted=loss.weighted,
        rewards=1.0 if loss.needs_rewards else 0.0,
    )


Settings = Mapping[str, float]

#: The golden methods that are direct losses, as losses of this package.
LOSSES: Mapping[str, Callable[[float, Settings], DirectLoss]] = {
    "dpo": lambda beta, s: losses.dpo(beta),
    "cdpo": lambda beta, s: losses.cdpo(beta, s["label_smoothing"]),
    "robust_dpo": lambda beta, s: losses.robust_dpo(beta, s["label_smoothing"]),
    "ipo": lambda beta, s: losses.ipo(beta),
    "hinge": lambda beta, s: losses.hinge(beta, s["margin"]),
    "slic": lambda beta, s: losses.slic(s["margin"], s["sft_weight"]),
    "rpo": lambda beta, s: losses.rpo(beta, s["eta"]),
    "chipo": lambda beta, s: losses.chipo(beta, gamma=s["gamma"]),
    "chipo_clipped": lambda beta, s: losses.chipo(beta, s["r_max"], s["gamma"]),
    "chipo_practical": lambda beta, s: losses.chipo_practical(beta, s["alpha"], s["gamma"]),
    "fdpo_js": lambda beta, s: losses.fdpo(2.0 * JensenShannon(), beta),
    "fdpo_forward_kl": lambda beta, s: losses.fdpo(ForwardKL(), beta),
    "fdpo_alpha": lambda beta, s: losses.fdpo(AlphaDivergence(s["alpha"]), beta),
    "simpo": lambda beta, s: losses.simpo(beta, s["gamma"]),
    "rebel": lambda beta, s: losses.rebel(1.0 / beta),
    "power": lambda beta, s: losses.power(beta, s["eta"]),
}


def anatomy(case: Case) -> Anatomy | None:
    """Return the pieces of the method of a case, None for KTO."""
    build = LOSSES.get(case.method)
    return None if build is None else dissect(build(case.beta, case.settings))


def log_curve() -> Curve:
    """Return `u -> u`."""
    return Curve(lambda u: u, np.ones_like)
