"""The losses of the papers, row by row, in mpmath.

They are written out one by one, and share nothing with `rlhfsim.losses`.  `u` is the log ratio
`log pi - log p` of a response, `s` holds the settings.  Needs the extra `certify`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import mpmath as mp

#: A number of mpmath, which has no types.
Number = Any


class Row(NamedTuple):
    """One comparison, with beta, the settings and the columns that some methods read."""

    pc: Number
    pr: Number
    rc: Number
    rr: Number
    beta: Number
    s: Mapping[str, Number]

    @property
    def margin(self) -> Number:
        """`u+ - u-`."""
        return (self.pc - self.rc) - (self.pr - self.rr)

    @property
    def ratios(self) -> tuple[Number, Number]:
        """`pi/p` of the chosen and of the rejected response."""
        return mp.exp(self.pc - self.rc), mp.exp(self.pr - self.rr)


def minus_log_sigmoid(t: Number) -> Number:
    """Return `-log sigma(t)`."""
    return mp.log1p(mp.exp(-t)) if t > 0 else -t + mp.log1p(mp.exp(t))


def sigmoid(t: Number) -> Number:
    """Return `1/(1 + e^-t)`."""
    return 1 / (1 + mp.exp(-t))


def dpo(row: Row) -> Number:
    """Return the loss of arXiv 2305.18290, eq. 7."""
    return minus_log_sigmoid(row.beta * row.margin)


def cdpo(row: Row) -> Number:
    """Return the cross entropy against the label `1 - label_smoothing`."""
    h, eps = row.beta * row.margin, row.s["label_smoothing"]
    return (1 - eps) * minus_log_sigmoid(h) + eps * minus_log_sigmoid(-h)


def robust_dpo(row: Row) -> Number:
    """Return the loss of arXiv 2403.00409."""
    h, eps = row.beta * row.margin, row.s["label_smoothing"]
    return ((1 - eps) * minus_log_sigmoid(h) - eps * minus_log_sigmoid(-h)) / (1 - 2 * eps)


def ipo(row: Row) -> Number:
    """Return the loss of arXiv 2310.12036, eq. 17."""
    return (row.margin - 1 / (2 * row.beta)) ** 2


def hinge(row: Row) -> Number:
    """Return the loss of arXiv 2309.06657."""
    return max(mp.mpf(0), row.s["margin"] - row.beta * row.margin)


def slic(row: Row) -> Number:
    """Return the loss of arXiv 2305.10425."""
    return max(mp.mpf(0), row.s["margin"] - row.pc + row.pr) - row.s["sft_weight"] * row.pc


def rpo(row: Row) -> Number:
    """Return the loss of arXiv 2405.16436."""
    return minus_log_sigmoid(row.beta * row.margin) - row.s["eta"] * row.pc


def chipo(row: Row) -> Number:
    """Return the loss of arXiv 2407.13399, algorithm 1, without its clip."""
    up, down = row.ratios
    return minus_log_sigmoid(row.beta * (up - down + row.s["gamma"] * row.margin))


def chipo_clipped(row: Row) -> Number:
    """Return the loss of arXiv 2407.13399, algorithm 1."""
    up, down = row.ratios
    h = row.beta * (up - down + row.s["gamma"] * row.margin)
    limit = 2 * row.s["r_max"]
    return minus_log_sigmoid(min(max(h, -limit), limit))


def chipo_practical(row: Row) -> Number:
    """Return the loss of arXiv 2407.13399, the link of its experiments."""

    def score(u: Number) -> Number:
        exponent = min(max(row.s["alpha"] * u, -88), 20)
        return mp.exp(exponent) + row.s["gamma"] * u

    return minus_log_sigmoid(row.beta * (score(row.pc - row.rc) - score(row.pr - row.rr)))


def fdpo_js(row: Row) -> Number:
    """Return the loss of arXiv 2309.16240, Jensen-Shannon as the sum of two KLs."""
    up, down = row.ratios
    return minus_log_sigmoid(row.beta * (mp.log(2 * up / (1 + up)) - mp.log(2 * down / (1 + down))))


def fdpo_forward_kl(row: Row) -> Number:
    """Return the loss of arXiv 2309.16240, `KL(p || pi)`."""
    up, down = row.ratios
    return minus_log_sigmoid(row.beta * (1 / down - 1 / up))


def fdpo_alpha(row: Row) -> Number:
    """Return the loss of arXiv 2309.16240, `f'(w) = (w^(alpha-1) - 1)/(alpha - 1)`."""
    up, down = row.ratios
    power = row.s["alpha"] - 1
    return minus_log_sigmoid(row.beta * (up**power - down**power) / power)


def simpo(row: Row) -> Number:
    """Return the loss of arXiv 2405.14734, eq. 6."""
    return minus_log_sigmoid(row.beta * (row.pc - row.pr) - row.s["gamma"])


def kto_pair(row: Row) -> Number:
    """Return the loss of arXiv 2402.01306 of a pair; the row holds the baselines."""
    kept = sigmoid(row.beta * (row.s["chosen_baseline"] - (row.pc - row.rc)))
    dropped = sigmoid(row.beta * ((row.pr - row.rr) - row.s["rejected_baseline"]))
    return (kept + dropped) / 2


def rebel(row: Row) -> Number:
    """Return the loss of arXiv 2404.16767, with `beta = 1/eta`."""
    return (row.beta * row.margin - (row.s["chosen_rewards"] - row.s["rejected_rewards"])) ** 2


def power(row: Row) -> Number:
    """Return the loss of arXiv 2412.09544, from the weighted entropy."""
    up, down = row.s["chosen_weights"], row.s["rejected_weights"]
    h = row.beta * (up * (1 + row.pc) - down * (1 + row.pr))
    return minus_log_sigmoid(h) - row.s["eta"] * row.beta * up * row.pc


FORMULAS: Mapping[str, Callable[[Row], Number]] = {
    "dpo": dpo,
    "cdpo": cdpo,
    "robust_dpo": robust_dpo,
    "ipo": ipo,
    "hinge": hinge,
    "slic": slic,
    "rpo": rpo,
    "chipo": chipo,
    "chipo_clipped": chipo_clipped,
    "chipo_practical": chipo_practical,
    "fdpo_js": fdpo_js,
    "fdpo_forward_kl": fdpo_forward_kl,
    "fdpo_alpha": fdpo_alpha,
    "simpo": simpo,
    "kto_pair": kto_pair,
    "rebel": rebel,
    "power": power,
}


def slopes(formula: Callable[[Row], Number], row: Row) -> tuple[Number, Number]:
    """Return the derivatives of a row's loss in `pc` and `pr`, by a central difference.

    The step is `10^(-0.4 D)` at D digits, which leaves about `0.6 D` digits of the derivative.
    """
    step = mp.mpf(10) ** -(2 * mp.mp.dps // 5)

    def slope(name: str) -> Number:
        above = row._replace(**{name: getattr(row, name) + step})
        below = row._replace(**{name: getattr(row, name) - step})
        return (formula(above) - formula(below)) / (2 * step)

    return slope("pc"), slope("pr")
