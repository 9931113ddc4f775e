"""The same optimum in as many digits as asked: the second, independent route to `solve`.

Nothing here shares code with `rlhfsim.solvers.exact` or with the links of the divergences; the
formulas are written out in mpmath, one prompt at a time.  For `D = a D_chi2 + b KL`,
`p = reference`, `d = r - max r`:

- KL (a = 0): `pi = p e^(d/(beta b)) / Z`, `lambda = max r + beta b log Z`.
- chi-squared (b = 0): responses are sorted by reward; the active set is the longest leading run
  whose last ratio `1/P + (d - m)/(beta a)` is positive, `P` and `m` its mass and mean reward.
- both: `w = gamma x`, `x + log x = zeta = ((r - lambda)/(beta a) + 1)/gamma - log gamma`,
  `gamma = b/a`, with x by Newton's method and lambda the root of the decreasing function
  `sum_y p w = 1`.
- every other divergence of the package: `rlhfsim.solvers.general_mpmath`.

Source: stationarity `beta f'(w) = r - lambda` where `w > 0` (arXiv 2407.13399).
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL, AlphaDivergence, ChiSquared, Divergence
from rlhfsim.solvers.general_mpmath import general_optimum, total, written_out

# mpmath carries no types: an mpf and the context it is computed in are Any.
Mpf = Any
Context = Any

# mpmath's cache of constants such as log 2 is shared by all contexts and not safe against threads.
_CONSTANTS = threading.Lock()

# Decimal digits carried beyond the ones asked for, the size of the problem set aside.
_GUARD_DIGITS = 20
_MAX_STEPS = 10_000


@dataclass(frozen=True, eq=False)
class HighPrecisionSolution:
    """The optimum of one prompt as mpmath numbers; fields as in `Solution`."""

    #: Y numbers, the optimal policy.
    policy: list[Mpf]
    #: multiplier of `sum_y pi = 1`, in reward units.
    multiplier: Mpf
    #: attained objective, in reward units.
    value: Mpf


def solve_high_precision(
    reward: ArrayLike,
    reference: ArrayLike,
    divergence: Divergence,
    beta: float,
    *,
    digits: int = 50,
) -> HighPrecisionSolution:
    """Return the maximiser of `E_pi[r] - beta D(pi || p)` for one prompt, to `digits` digits.

    Parameters
    ----------
    reward : (Y,) array
        Finite rewards, taken as the exact values of their floats.
    reference : (Y,) array
        A distribution, used as given: its sum need only be 1 within 1e-9.
    divergence : Divergence
        One of the package's own, or a positive combination of them.
    beta : float
        Positive.
    digits : int
        Significant decimal digits of every number that is returned, at least 15.

    Returns
    -------
    HighPrecisionSolution
        `policy`, `multiplier` and `value` as mpmath numbers; the last two in reward units.

    Raises
    ------
    ImportError
        Without mpmath.
    ValueError
        For bad input, or a divergence that is not made of the package's own.

    Source: the module's formulas, from `beta f'(w) = r - lambda` (arXiv 2407.13399).
    """
    mpmath = _mpmath()
    r, p = _one_prompt(reward, reference)
    b = checks.positive_number("beta", beta)
    digits = checks.whole_number("digits", digits, least=15)
    if not isinstance(divergence, Divergence):
        raise ValueError(f"divergence is {divergence!r}; it must be a Divergence such as KL()")
    extra = _cancelled_digits(r[p > 0], p[p > 0], b, divergence)
    with _CONSTANTS:
        # The precision of mpmath.mp belongs to the caller, and to its other threads.
        mp = mpmath.MPContext()
        mp.dps = digits + _GUARD_DIGITS + 2 * extra
        numbers = _solve(mp, r, p, b, divergence, digits + extra)
        mp.dps = digits
        multiplier, value, *policy = (_of_the_global_context(mpmath, +x) for x in numbers)
    return HighPrecisionSolution(policy, multiplier, value)


def _solve(
    mp: Context, r: FloatArray, p: FloatArray, beta: float, divergence: Divergence, digits: int
) -> list[Mpf]:
    """Return multiplier, value and policy."""
    weights = dict.fromkeys((ChiSquared(), KL()), 0.0)
    if all(base in weights for _, base in divergence.terms()):
        weights.update({base: weight for weight, base in divergence.terms()})
        scales = mp.mpf(beta) * weights[ChiSquared()], mp.mpf(beta) * weights[KL()]
        inside = p > 0
        multiplier, value, *masses = _optimum(mp, r[inside], p[inside], *scales, digits)
        policy = [mp.zero] * p.size
        for i, x in zip(np.flatnonzero(inside), masses, strict=True):
            policy[i] = x
        return [multiplier, value, *policy]
    terms = []
    for weight, base in divergence.terms():
        generator = written_out(mp, base)
        if generator is None:
            raise ValueError(
                f"divergence is {divergence!r}; it must be made of the divergences of rlhfsim"
            )
        terms.append((mp.mpf(beta) * mp.mpf(weight), generator))
    rewards, masses = ([mp.mpf(float(x)) for x in values] for values in (r, p))
    return general_optimum(mp, rewards, masses, total(terms), digits)


def _one_prompt(reward: ArrayLike, reference: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return the (Y,) reward and reference."""
    r = checks.as_real("reward", reward)
    p = checks.as_distributions("reference", reference)
    if r.ndim != 1 or r.shape != p.shape:
        raise ValueError(
            f"reward has shape {r.shape} and reference {p.shape}; both must have shape (Y,)"
        )
    return r, p


def _of_the_global_context(mpmath: ModuleType, x: Mpf) -> Mpf:
    """Return x, exactly, as a number that can be pickled and that mpmath's functions take."""
    return mpmath.mp.make_mpf(x._mpf_)


def _optimum(
    mp: Context, r: FloatArray, p: FloatArray, scale_a: Mpf, scale_b: Mpf, digits: int
) -> list[Mpf]:
    """Return multiplier, value and policy over responses of positive mass.

    The scales are beta times the weights of chi-squared and of KL.
    """
    top = mp.mpf(float(r.max()))
    d = [mp.mpf(float(x)) - top for x in r]
    mass = [mp.mpf(float(q)) for q in p]
    if scale_a == 0:
        ratios, multiplier = _gibbs(mp, d, mass, scale_b)
    elif scale_b == 0:
        ratios, multiplier = _sorted_active_set(d, mass, scale_a)
    else:
        ratios, multiplier = _mixed(mp, d, mass, scale_a, scale_b, digits)
    gain = sum(q * w * x for q, w, x in zip(mass, ratios, d, strict=True))
    cost = sum(
        q * (scale_a * (w - 1) ** 2 / 2 + scale_b * ((w * mp.log(w) if w else 0) - w + 1))
        for q, w in zip(mass, ratios, strict=True)
    )
    policy = [q * w for q, w in zip(mass, ratios, strict=True)]
    return [top + multiplier, top + gain - cost, *policy]


def _mpmath() -> ModuleType:
    try:
        import mpmath
    except ImportError as error:
        raise ImportError(
            "solve_high_precision needs mpmath; install it with: pip install 'rlhfsim[certify]'"
        ) from error
    module: ModuleType = mpmath
    return module


def _cancelled_digits(
    r: np.ndarray[Any, Any], p: np.ndarray[Any, Any], beta: float, divergence: Divergence
) -> int:
    """Return a bound on the digits lost to the size of the scores and of the ratios."""
    with np.errstate(over="ignore"):
        spread = min(float(r.max() / 2 - r.min() / 2), 1e308)
    weights = [weight for weight, _ in divergence.terms()]
    decades = math.log10(max(spread, 5e-324)) - math.log10(beta)
    decades += math.log10(max(1.0, max(weights))) - math.log10(min(1.0, min(weights)))
    # The distance of a score from a finite recession falls like a power of the ratio.
    powers = [
        1.0 - base.alpha for _, base in divergence.terms() if isinstance(base, AlphaDivergence)
    ]
    return math.ceil(max(decades, 0.0) - max(1.0, *powers, 1.0) * math.log10(float(p.min())))


def _gibbs(mp: Context, d: list[Mpf], mass: list[Mpf], scale: Mpf) -> tuple[list[Mpf], Mpf]:
    """Log-sum-exp: `w = e^(d/scale) / Z`, `lambda = scale log Z`."""
    exponentials = [mp.exp(x / scale) for x in d]
    z = sum(q * e for q, e in zip(mass, exponentials, strict=True))
    return [e / z for e in exponentials], scale * mp.log(z)


def _sorted_active_set(d: list[Mpf], mass: list[Mpf], scale: Mpf) -> tuple[list[Mpf], Mpf]:
    """Sort by reward and take responses in as long as the ratio of the last one is positive.

    Taking in a response whose ratio would be positive lowers the other ratios but keeps their
    order, so the last one is the only one to check.
    """
    order = sorted(range(len(d)), key=lambda i: d[i], reverse=True)
    total: Mpf = 0
    weighted: Mpf = 0
    multiplier: Mpf = 0
    for i in order:
        new_total, new_weighted = total + mass[i], weighted + mass[i] * d[i]
        new_mean = new_weighted / new_total
        # w_i = 1/P + (d_i - m)/scale > 0 fails first at the bottom of the active set.
        if scale + new_total * (d[i] - new_mean) <= 0:
            break
        total, weighted = new_total, new_weighted
        multiplier = new_mean + scale * (total - 1) / total
    ratios = [1 + (x - multiplier) / scale for x in d]
    return [w if w > 0 else w * 0 for w in ratios], multiplier


def _mixed(
    mp: Context, d: list[Mpf], mass: list[Mpf], scale_a: Mpf, scale_b: Mpf, digits: int
) -> tuple[list[Mpf], Mpf]:
    """Solve `sum_y p w(lambda) = 1` by Newton's method inside a shrinking bracket."""
    gamma = scale_b / scale_a
    log_gamma = mp.log(gamma)
    total = sum(mass)
    # At the bracket's ends all ratios are >= 1/total, or <= 1/total.
    shift = scale_a * (1 / total - 1) - scale_b * mp.log(total)
    low, high = min(d) - shift, max(d) - shift
    # The mean reward is to the left of the root, by convexity, up to that shift.
    multiplier = max(low, sum(q * x for q, x in zip(mass, d, strict=True)) / total - abs(shift))
    tolerance = mp.mpf(10) ** (-digits - _GUARD_DIGITS // 2)
    xs: list[Mpf] = [None] * len(d)
    for _ in range(_MAX_STEPS):
        zetas = [((x - multiplier) / scale_a + 1) / gamma - log_gamma for x in d]
        xs = [_omega(mp, zeta, x) for zeta, x in zip(zetas, xs, strict=True)]
        mean = gamma * sum(q * x for q, x in zip(mass, xs, strict=True))
        if abs(mean - 1) <= tolerance:
            break
        # -d(mean)/d(multiplier), from dx/dzeta = x/(1 + x).
        slope = sum(q * x / (1 + x) for q, x in zip(mass, xs, strict=True)) / scale_a
        if mean > 1:
            low = multiplier
        else:
            high = multiplier
        # Exact where w is exponential in lambda, and where it is affine; else the middle.
        stretched = multiplier + mp.log(mean) * mean / slope
        plain = multiplier + (mean - 1) / slope
        steps = [x for x in (stretched, plain) if low < x < high]
        multiplier = steps[0] if steps else (low + high) / 2
    else:
        raise RuntimeError(f"no multiplier in {_MAX_STEPS} steps")
    return [gamma * x for x in xs], multiplier


def _omega(mp: Context, zeta: Mpf, guess: Mpf | None) -> Mpf:
    """Return x with `x + log x = zeta` by Newton's method.

    `x + log x` is concave, so from a start below the root the iterates rise to it.
    """
    # A guess is worth it when it is closer than the start below.
    x = guess if guess is not None and abs(zeta - guess - mp.log(guess)) < 0.5 else None
    if x is None:
        if zeta > 1:
            x = zeta - mp.log(zeta)
        else:
            e = mp.exp(zeta)
            x = e / (1 + e)
    # The last step's square is below the precision.
    small = mp.sqrt(mp.eps) / 16
    for _ in range(_MAX_STEPS):
        step = (zeta - x - mp.log(x)) / (1 + x)
        x = x * (1 + step)
        if abs(step) < small:
            return x
    raise RuntimeError(f"no ratio in {_MAX_STEPS} steps")
