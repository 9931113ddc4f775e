r"""A bound on the regret of XPO over a finite class, with every constant explicit.

One comparison a round, `y~ ~ p`, Bradley-Terry labels, `pi*_beta` in the class; K policies of
coverability C, scores `|beta log(pi/p)| <= V` and differences of two scores at most D; `kappa` is
the least slope of sigma on them, `sigma'(D)`.  With probability at least `1 - 2 delta`,

    sum_{t <= T} J_beta(pi*) - J_beta(pi_t)
        <= J_beta(pi*) - J_beta(pi_1) + (beta/alpha) (2 log(K/delta) + 4 kappa^2 C D^2) (1 + ln T)
           + alpha T C log_2(1 + T/C)/(4 beta kappa^2) + 4 V sqrt(2 T log(K T/delta)).

Proof.  With `f_pi` the difference of scores of (y, y~), `f*` that of pi*, the regret of a round is
`E_p[beta log pi_t - beta log pi*] + E_{pi_t, p}[f_t - f*]` (claim "regret from implicit rewards").
*Optimism*: by Hoeffding's inequality the first term is at most its mean over the draws of the
`n = t - 1` rounds before, and `4 V sqrt(log(K T/delta)/(2n))`; as pi_t minimises, that mean is at
most `beta/(alpha n)` times `L(pi*) - L(pi_t)`.  *Likelihood*: the products of
`sqrt(P_pi/P*)/E[sqrt(P_pi/P*)]` are martingales, so by Ville's inequality, for all policies and
rounds, `L(pi*) - L(pi) <= 2 log(K/delta) - sum_i H_i^2`, and `H_i^2 >= kappa^2 E_i[(f_pi - f*)^2]`.
*Coverability*: with `m = rho max_k pi_k`, of sum C, and S the sum of the `rho pi_i` before,

    E_{pi_t, p}[f_t - f*] <= sum (rho pi_t)^2/(m + S)/(4c) + c (4 C D^2 + sum_i E_i[(f_t - f*)^2])

for every c, of which `c = beta kappa^2/(alpha n)` lets the sums over i cancel, and the first sums
add up to `C log_2(1 + T/C)` (claim "coverability bounds what is new").

Source: the argument of arXiv 2405.21046, theorem 3.1; constants ours, and `1/sigma'(D)` in place of
its `(V + R) e^{2R}`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.online.xpo.alpha import Alpha, Horizon, representable_margin, representable_weight

#: Largest T, K and C: up to here `1 + T/C` exceeds 1 in double precision.
_LARGEST_COUNT = 2**52


@dataclass(frozen=True)
class RegretBound:
    """What the bound reads of a class; `FiniteXPO.bound` makes it of one.

    Parameters
    ----------
    size : int
        K, at least 1 and at most 2^52.
    coverability : float
        C, at least 1 but for rounding, and at most 2^52.
    v_max, margin : float
        V and D, in reward units; not negative, and D at most 2 V but for rounding, and at most 350,
        as `1/kappa^2` overflows soon after.
    delta : float
        In (0, 1/2).

    Raises
    ------
    ValueError
        For a number out of range.

    Source: the module's.
    """

    size: int
    coverability: float
    v_max: float
    margin: float
    delta: float = 0.05

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "size", _count("size", self.size))
        for name in ("coverability", "delta"):
            object.__setattr__(self, name, checks.positive_number(name, getattr(self, name)))
        for name in ("v_max", "margin"):
            number = checks.positive_number(name, getattr(self, name), zero=True)
            object.__setattr__(self, name, number)
        representable_margin("margin", self.margin)
        if self.coverability < 1.0 - checks.ROW_SUM_TOLERANCE:
            raise ValueError(f"coverability is {self.coverability!r}; it must be at least 1")
        if self.coverability > _LARGEST_COUNT:
            raise ValueError(
                f"coverability is {self.coverability!r}; it must be at most 2^52 = {_LARGEST_COUNT}"
            )
        if self.delta >= 0.5:
            raise ValueError(f"delta is {self.delta!r}; it must be in (0, 1/2)")
        if self.margin > 2.0 * self.v_max * (1.0 + checks.ROW_SUM_TOLERANCE):
            raise ValueError(
                f"margin is {self.margin!r}; it must be at most 2 v_max = {2.0 * self.v_max!r}"
            )

    @property
    def kappa(self) -> float:
        """`sigma'(D) = 1/(2 + e^D + e^-D)`."""
        return 1.0 / (2.0 + math.exp(self.margin) + math.exp(-self.margin))

    def value(self, rounds: int, beta: float, alpha: float, first: float) -> float:
        """Return the bound on the cumulative regularized regret, in reward units.

        Parameters
        ----------
        rounds : int
            T, at most 2^52.
        beta, alpha : float
            Positive.
        first : float
            Regularized regret of the first round; not negative.

        Raises
        ------
        ValueError
            For a number out of range, and where the bound is too large to be represented.
        """
        t = float(_count("rounds", rounds))
        strength = checks.positive_number("beta", beta)
        ratio = checks.positive_number("alpha", alpha) / strength
        start = checks.positive_number("first", first, zero=True)
        learning, covering = self._terms(t)
        drawing = 4.0 * self.v_max * math.sqrt(2.0 * t * math.log(self.size * t / self.delta))
        learned = learning / ratio if ratio else math.inf
        total = start + learned + ratio * covering + drawing
        if not math.isfinite(total):
            raise ValueError(
                f"alpha is {alpha!r} and beta is {beta!r}; the bound for {rounds} rounds must be "
                f"a finite number, and is {total!r} in double precision"
            )
        return total

    def best_ratio(self, rounds: int) -> float:
        """Return the `alpha/beta` at which the bound is least.

        Parameters
        ----------
        rounds : int
            T, at most 2^52.
        """
        learning, covering = self._terms(float(_count("rounds", rounds)))
        return math.sqrt(learning / covering)

    def _terms(self, t: float) -> tuple[float, float]:
        """Return what is over, and what is times `alpha/beta`."""
        covered, slope = self.coverability, self.kappa
        logs = 2.0 * math.log(self.size / self.delta)
        learning = (logs + 4.0 * slope**2 * covered * self.margin**2) * (1.0 + math.log(t))
        return learning, t * covered * math.log2(1.0 + t / covered) / (4.0 * slope**2)


@dataclass(frozen=True)
class BoundAlpha(Alpha):
    """The constant weight at which `RegretBound` is least, for the T rounds of a run.

    Parameters
    ----------
    margin : float
        D: differences of two scores of any policy of the class are at most this; positive, at most
        350.
    delta : float
        In (0, 1/2).

    Raises
    ------
    ValueError
        For a setting out of range; of `values`, for a class that is not finite, and for a weight
        that is too small to be represented.

    Source: ours.
    """

    margin: float
    delta: float = 0.05

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "margin", checks.positive_number("margin", self.margin))
        RegretBound(1, 1.0, self.margin, self.margin, self.delta)

    @property
    def label(self) -> str:
        """The schedule."""
        return "alpha of the explicit bound"

    def values(self, run: Horizon) -> FloatArray:
        """Return the weight T times."""
        if run.size is None or run.coverability is None:
            raise ValueError(
                f"alpha is {self!r}; it needs a finite class, take FinitePolicies or another alpha"
            )
        bound = RegretBound(run.size, run.coverability, self.margin, self.margin, self.delta)
        value = run.beta * bound.best_ratio(run.rounds)
        return np.full(run.rounds, representable_weight(self, value))


def _count(name: str, value: int) -> int:
    """Return a whole number from 1 to 2^52."""
    number = checks.whole_number(name, value, least=1)
    if number > _LARGEST_COUNT:
        raise ValueError(f"{name} is {number}; it must be at most 2^52 = {_LARGEST_COUNT}")
    return number
