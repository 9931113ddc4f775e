"""The beta of chiPO's theorem, whose constants are hidden."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.learners.choose_beta.base import BetaChoice, BetaProblem, BetaRule, around
from rlhfsim.learners.choose_beta.families import regularizer, require_chi_squared


@dataclass(frozen=True)
class PaperSchedule(BetaRule):
    """`beta = c V_max e^(2 R_max) sqrt(log(|Pi|/delta) / (n C))`, chiPO's choice.

    The theorem bounds the regret, up to constants that it hides, by
    `V_max e^(2 R_max) sqrt(C L/n) + beta C + V_max^2 e^(4 R_max) L / (beta n)` with
    `L = log(|Pi|/delta)`; with all hidden constants 1, `c = 1` minimises it.  Only the shape is the
    paper's, so no number here bounds a regret: c is a setting to be searched over, and its default
    of 1 a convention of this package.  The direct method and its two-step twin are meant, with
    `D_chi2 + KL`; a family without chi-squared (`RLHF` of KL, DPO) is refused.

    The scores are the theorem's three terms with all hidden constants 1, at the chosen beta times
    powers of 2.  `certificate` has `n` (all rows, pairs of equals included), and `constant`.

    Parameters
    ----------
    concentrability : float
        `C = C^{pi*} = 1 + 2 D*`, at least 1.
    class_size : int
        |Pi|, at least 1.
    delta : float
        In (0, 1).
    r_max : float
        Largest reward; not negative.
    v_max : float
        Largest difference of implicit rewards over the class; positive.
    constant : float
        c, positive.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value; counts that are not whole.

    Source: arXiv 2407.13399, theorem 3.1 (the shape only).
    """

    concentrability: float
    class_size: int
    delta: float
    r_max: float
    v_max: float
    constant: float = 1.0

    def __post_init__(self) -> None:
        """Validate."""
        if checks.positive_number("concentrability", self.concentrability) < 1.0:
            raise ValueError(f"concentrability is {self.concentrability!r}; it is at least 1")
        checks.whole_number("class_size", self.class_size, least=1)
        if checks.positive_number("delta", self.delta) >= 1.0:
            raise ValueError(f"delta is {self.delta!r}; it must be below 1")
        checks.positive_number("r_max", self.r_max, zero=True)
        checks.positive_number("v_max", self.v_max)
        checks.positive_number("constant", self.constant)

    def choose(self, problem: BetaProblem) -> BetaChoice:
        """Return the choice; see the class."""
        n = problem.rows()
        unit = self._error(n) / math.sqrt(self.concentrability)
        beta = checks.positive_number("beta", self.constant * unit)
        require_chi_squared(regularizer(problem.learner(beta)))
        betas = around(beta)
        return BetaChoice(
            rule=self.name,
            beta=beta,
            reason=(
                f"it is {self.constant:g} times the order that chiPO's theorem 3.1 names for "
                f"n = {n} and a concentrability of {self.concentrability:.6g}; the theorem hides "
                "its constants, so this is a scale and no guarantee"
            ),
            candidates=betas,
            scores=self._shape(n, betas),
            score="the theorem's terms with hidden constants 1 (smaller is better; not a bound)",
            certificate={"n": n, "constant": float(self.constant)},
        )

    def _error(self, n: int) -> float:
        """Return `V_max e^(2 R_max) sqrt(L/n)`."""
        logarithm = math.log(self.class_size) - math.log(self.delta)
        with np.errstate(over="ignore"):
            return float(self.v_max * np.exp(2.0 * self.r_max) * math.sqrt(logarithm / n))

    def _shape(self, n: int, beta: FloatArray) -> FloatArray:
        error, c = self._error(n), self.concentrability
        with np.errstate(over="ignore"):
            return np.asarray(error * math.sqrt(c) + beta * c + error * (error / beta))
