"""Proposition A.1 for every beta: the least KL-regularized regret, enclosed rigorously.

On the instance of `rlhfsim.proposition_a1`, with the wrong reward learned and `t = 1/beta`, the
policy is proportional to `(1/2, (1/2 - 1/n) e^(-Delta t), e^(t/2)/n)`, `Delta = 1/(2 ln n)`.  Put
`L = ln n`, `t = 2 L s`, `v = (1 - 2/n) e^(-s)` and `u = e^(L (s - 1))`; then

    regret(s) = (v/2 + L u) / (L (1 + v + 2 u)),
    regret'(s) = (L^2 u (1 + v) - v (1/2 + u)) / (L (1 + v + 2 u)^2).

Beyond `s = 2`, u has grown and v has fallen, so `regret >= u(2) / (1 + v(2) + 2 u(2))`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhfsim import checks
from rlhfsim.certify.library import require_flint, working_precision

if TYPE_CHECKING:
    from flint import arb

_BITS = 128
_END = 2.0
_MOST_BOXES = 200_000


@dataclass(frozen=True)
class Enclosure:
    """`lower <= min over beta > 0 of the regret <= upper`, in reward units."""

    n: int
    lower: float
    upper: float
    #: every beta at which the regret is least lies in `[beta_low, beta_high]`; infinite where the
    #: infimum is the limit of large beta.
    beta_low: float
    beta_high: float
    #: how many boxes the search looked at.
    boxes: int
    #: at most `lower * ln n`: for this n, the c of "every beta has regret at least c / ln n".
    constant: float


def proposition_a1_enclosure(n: int, tolerance: float = 1e-6) -> Enclosure:
    """Return rigorous bounds on the least regret over **all** beta > 0 in Proposition A.1.

    The KL-regularized policy of the wrong reward on `rlhfsim.proposition_a1(n)`, its numbers taken
    as the real numbers they stand for (`Delta = 1/(2 ln n)` is not rounded), by branch and bound
    in ball arithmetic.  `beta -> inf` is included, and beta -> 0 is bounded by hand (see the
    module).

    Parameters
    ----------
    n : int
        Number of preference pairs, at least 3.
    tolerance : number in (0, 1)
        Of `upper - lower`, relative to `upper`.

    Returns
    -------
    Enclosure

    Raises
    ------
    ValueError
        When an argument is out of range.
    ImportError
        Without python-flint.
    ArithmeticError
        When the tolerance is too small for 200,000 boxes of floats.

    Source: arXiv 2407.13399, prop. A.1 (statement); instance and enclosure derived.
    """
    require_flint("proposition_a1_enclosure")
    n = checks.whole_number("n", n, least=3)
    tolerance = checks.positive_number("tolerance", tolerance)
    if tolerance >= 1.0:
        raise ValueError(f"tolerance is {tolerance!r}; it must be less than 1")
    from flint import arb

    from rlhfsim.certify.minimum import enclose_minimum
    from rlhfsim.certify.rounding import at_least, at_most

    with working_precision(_BITS):
        log_n = arb(n).log()

        def weights(s: arb) -> tuple[arb, arb]:
            return (1 - 2 / arb(n)) * (-s).exp(), (log_n * (s - 1)).exp()

        def regret(s: arb) -> tuple[arb, arb]:
            v, u = weights(s)
            whole = 1 + v + 2 * u
            value = (v / 2 + log_n * u) / (log_n * whole)
            slope = (log_n * log_n * u * (1 + v) - v * (u + 0.5)) / (log_n * whole * whole)
            return value, slope

        found = enclose_minimum(regret, 0.0, _END, tolerance, _MOST_BOXES)
        v, u = weights(arb(_END))
        if not u / (1 + v + 2 * u) > arb(found.upper):
            raise ArithmeticError(f"the regret of small beta is not above {found.upper!r}")

        def beta(s: float) -> arb:
            return 1 / (2 * log_n * arb(s)) if s > 0 else arb.pos_inf()

        return Enclosure(
            n=n,
            lower=found.lower,
            upper=found.upper,
            beta_low=at_most(beta(found.high)),
            beta_high=at_least(beta(found.low)),
            boxes=found.boxes,
            constant=at_most(arb(found.lower) * log_n),
        )
