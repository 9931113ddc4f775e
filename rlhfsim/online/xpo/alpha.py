"""How strong the optimism of XPO is, round by round."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray

#: Largest reward difference R whose `e^(2R)`, or `1/sigma'(R)^2`, leaves room for other factors
#: among the numbers up to 1.8e308.
LARGEST_MARGIN = 350.0


class Horizon(NamedTuple):
    """What a schedule may depend on."""

    #: T.
    rounds: int
    #: In reward units.
    beta: float
    #: Policies in the class, and `coverability` of it; None for an infinite class.
    size: int | None
    coverability: float | None


class Alpha(ABC):
    """The weight of the optimistic term after each round; not negative."""

    @abstractmethod
    def values(self, run: Horizon) -> FloatArray:
        """Return the (T,) weights after rounds 1 to T."""

    @property
    def label(self) -> str:
        """What to add to the name of a learner."""
        return ""


@dataclass(frozen=True)
class ConstantAlpha(Alpha):
    """The same weight in every round; 0 is iterated DPO.

    Parameters
    ----------
    alpha : float
        Not negative.

    Raises
    ------
    ValueError
        For a weight that is negative or not finite.
    """

    alpha: float

    def __post_init__(self) -> None:
        """Validate."""
        value = checks.positive_number("alpha", self.alpha, zero=True)
        object.__setattr__(self, "alpha", value)

    @property
    def label(self) -> str:
        """The weight."""
        return f"alpha {self.alpha:g}"

    def values(self, run: Horizon) -> FloatArray:
        """Return the weight T times."""
        return np.full(run.rounds, self.alpha)


@dataclass(frozen=True)
class DecreasingAlpha(Alpha):
    """`scale / sqrt(t)` after round t: no horizon has to be known.

    Parameters
    ----------
    scale : float
        Positive.

    Raises
    ------
    ValueError
        For a scale that is not positive and finite.

    Source: ours; at `t = T` it has the size of the theorem's weight for T rounds.
    """

    scale: float

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "scale", checks.positive_number("scale", self.scale))

    @property
    def label(self) -> str:
        """The schedule."""
        return f"alpha {self.scale:g}/sqrt(t)"

    def values(self, run: Horizon) -> FloatArray:
        """Return the weights."""
        return np.asarray(self.scale / np.sqrt(np.arange(1.0, run.rounds + 1.0)))


@dataclass(frozen=True)
class TheoryAlpha(Alpha):
    """`c beta/((V + R) e^(2R)) sqrt(log(K T/delta) log(T)/(T C_cov))` in each of T rounds.

    Parameters
    ----------
    v_max : float
        V: `beta |log pi/p|` is at most this for every policy of the class; positive.
    r_max : float
        R: rewards lie in `[0, R]`; positive, at most 350, as `e^(2R)` overflows soon after.
    delta : float
        In (0, 1): the theorem holds with probability `1 - delta`.
    constant : float
        c, which the theorem leaves open; positive.

    Raises
    ------
    ValueError
        For a setting out of range; of `values`, for a class that is not finite, and for a weight
        that is too small or too large to be represented.

    Source: arXiv 2405.21046, theorem 3.1.
    """

    v_max: float
    r_max: float
    delta: float = 0.1
    constant: float = 1.0

    def __post_init__(self) -> None:
        """Validate."""
        for name in ("v_max", "r_max", "delta", "constant"):
            object.__setattr__(self, name, checks.positive_number(name, getattr(self, name)))
        if self.delta >= 1:
            raise ValueError(f"delta is {self.delta!r}; it must be in (0, 1)")
        representable_margin("r_max", self.r_max)

    @property
    def label(self) -> str:
        """The schedule."""
        return "alpha of theory" + ("" if self.constant == 1 else f" times {self.constant:g}")

    def values(self, run: Horizon) -> FloatArray:
        """Return the weight T times; 0 for a single round, as `log T` is."""
        if run.size is None or run.coverability is None:
            raise ValueError(
                f"alpha is {self!r}; it needs a finite class, take FinitePolicies or another alpha"
            )
        rounds = run.rounds
        spread = (self.v_max + self.r_max) * math.exp(2.0 * self.r_max)
        logs = math.log(run.size * rounds / self.delta) * math.log(rounds)
        value = self.constant * run.beta / spread * math.sqrt(logs / (rounds * run.coverability))
        return np.full(rounds, representable_weight(self, value, zero=rounds == 1))


def representable_margin(name: str, value: float) -> float:
    """Return a difference of rewards of which `e^(2 value)` can be represented.

    Raises
    ------
    ValueError
        For one above `LARGEST_MARGIN`.
    """
    if value > LARGEST_MARGIN:
        raise ValueError(
            f"{name} is {value!r}; it must be at most {LARGEST_MARGIN:g}, as e^(2 {name}) cannot "
            "be represented soon after"
        )
    return value


def representable_weight(alpha: Alpha, value: float, *, zero: bool = False) -> float:
    """Return the weight of a schedule, which is not 0 unless the formula is.

    Raises
    ------
    ValueError
        For a weight that underflows to 0 or overflows.
    """
    if not math.isfinite(value) or (value == 0 and not zero):
        raise ValueError(
            f"alpha is {alpha!r}; its weight must be a positive number, and is {value!r} in double "
            "precision"
        )
    return value


def as_alpha(value: float | Alpha) -> Alpha:
    """Return a schedule; a number is a constant one.

    Raises
    ------
    ValueError
        For a number that is negative or not finite, and for anything else.
    """
    return value if isinstance(value, Alpha) else ConstantAlpha(value)
