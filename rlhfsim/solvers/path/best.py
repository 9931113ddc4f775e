"""The best beta: where the gold value of the regularized optimum of another reward is largest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.coverage import concentrability
from rlhfsim.divergences import KL, ChiSquared, Divergence
from rlhfsim.divergences.base import average_over_prompts
from rlhfsim.solvers.path.chi_squared import LARGEST_RANGE, chi_squared_path
from rlhfsim.solvers.path.enclosure import Problem, search

LARGEST_FLOAT = float(np.finfo(np.float64).max)

Interval = tuple[float, float]


@dataclass(frozen=True)
class BestBeta:
    """The peak of an overoptimization curve, enclosed.

    `value_lower <= max J <= value_upper`, and every beta that attains the maximum lies in one of
    `intervals`; both hold up to rounding, which is allowed for.  A beta of 0 is the limit (p
    conditioned on the best responses), `inf` is p itself.
    """

    #: A beta at which J is `value`.
    beta: float
    #: `J(pi_beta)`, in reward units, as computed.
    value: float
    #: Proven bounds of the largest J, in reward units.
    value_lower: float
    value_upper: float
    #: `J(pi_beta) - J(p)`, free of the offset of the reward, and proven bounds of the largest gain.
    gain: float
    gain_lower: float
    gain_upper: float
    #: Smallest and largest beta of `intervals`.
    beta_low: float
    beta_high: float
    #: Disjoint closed intervals of beta, increasing; several for separate peaks of equal height
    #: (as far as `tolerance` can tell).
    intervals: tuple[Interval, ...]
    #: What is spent at `beta`, averaged over prompts: the divergence given, KL (nats), `C^pi`.
    divergence: float
    kl: float
    concentrability: float
    #: Policies that were solved for; breakpoints compared on the exact path.
    evaluations: int


class EnclosureError(RuntimeError):
    """The enclosure is wider than asked for; it is valid, and in `best`."""

    def __init__(self, message: str, best: BestBeta) -> None:
        super().__init__(message)
        self.best = best

    def __reduce__(self) -> tuple[type[EnclosureError], tuple[str, BestBeta]]:
        """Pickle with the enclosure."""
        return type(self), (str(self), self.best)


def best_beta(
    reward: ArrayLike,
    reward_hat: ArrayLike,
    reference: ArrayLike,
    divergence: Divergence,
    prompt_dist: ArrayLike | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
    tolerance: float = 1e-10,
    max_evaluations: int = 20_000,
) -> BestBeta:
    """Return the beta that maximises `J(beta) = E_{x ~ rho, y ~ pi_beta}[r*]`, with a proof.

    `pi_beta` maximises `E_pi[r^] - beta D(pi || p)`.  For multiples of `ChiSquared()` J is
    piecewise affine in 1/beta and the answer exact (`chi_squared_path`).  For other divergences J
    may have many peaks; branch and bound on 1/beta encloses the highest.

    Parameters
    ----------
    reward, reward_hat, reference : (X, Y) arrays, or (Y,) for a single prompt
        `r*`, `r^` and `p`; rewards are finite, and do not matter where `reference` is 0 (but for
        a finite `recession`, where `r^` must not be largest there).
    divergence : Divergence
    prompt_dist : (X,) array
        May be left out where there is a single prompt.
    low, high : float, optional
        The interval of beta, `0 <= low <= high <= inf`; by default all of it, with the limits.
    tolerance : float
        Largest `value_upper - value_lower`, in units of the mean over prompts of the largest
        `|r* - E_p r*|`; what rounding explains is always allowed.
    max_evaluations : int
        At most about this many policies are solved for.

    Returns
    -------
    BestBeta
        Of several best beta on the exact path, the largest.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    EnclosureError
        `tolerance` was not reached within `max_evaluations`; the valid, wider enclosure is in its
        `best`.  Alpha-divergences of order above 2, and classes of one's own that do not declare
        `convex_inverse_link = True`, have first-order bounds only: try a tolerance of 1e-4.

    Source: derived; the theorems are in `rlhfsim.solvers.path.enclosure`.

    Examples
    --------
    >>> best = best_beta([1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.2, 0.3, 0.5], ChiSquared())
    >>> best.beta, best.value
    (1.2, 1.5)
    """
    g, r, p, rho = _checked(reward, reward_hat, reference, prompt_dist)
    if not isinstance(divergence, Divergence):
        raise ValueError(f"divergence is {divergence!r}; it must be a Divergence such as KL()")
    if math.isfinite(divergence.recession):
        _stays_inside(reward_hat, reference)
    interval = _interval(low, high)
    tolerance = checks.positive_number("tolerance", tolerance, zero=True)
    budget = checks.whole_number("max_evaluations", max_evaluations, least=2)
    weighted = divergence.terms()
    if len(weighted) == 1 and isinstance(weighted[0][1], ChiSquared):
        return _on_the_exact_path(g, r, p, rho, divergence, interval)
    return _by_branch_and_bound(g, r, p, rho, divergence, interval, tolerance, budget)


def _checked(
    reward: ArrayLike, reward_hat: ArrayLike, reference: ArrayLike, prompt_dist: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return `(X, Y)` rewards and reference and the (X,) weights, prompts of weight 0 left out.

    Where the reference is 0 the rewards are replaced by one of the prompt's others.
    """
    g, r = checks.as_real("reward", reward), checks.as_real("reward_hat", reward_hat)
    p = checks.as_distributions("reference", reference)
    shape = checks.same_responses(reward=g, reward_hat=r, reference=p)
    if len(shape) > 2:
        raise ValueError(
            f"reward, reward_hat and reference broadcast to shape {shape}; "
            "it must be (X, Y), or (Y,) for a single prompt"
        )
    g, r, p = (np.atleast_2d(np.broadcast_to(array, shape)) for array in (g, r, p))
    average_over_prompts(np.zeros(len(p)), prompt_dist)  # the check of shapes
    rho = np.ones(1) if prompt_dist is None else np.asarray(prompt_dist, dtype=np.float64)
    g, r, p, rho = (array[rho > 0] for array in (g, r, p, rho))
    some = p.argmax(axis=-1)[:, None]
    g, r = (np.where(p > 0, a, np.take_along_axis(a, some, axis=-1)) for a in (g, r))
    for name, array, most in (("reward", g, LARGEST_RANGE), ("reward_hat", r, LARGEST_FLOAT)):
        with np.errstate(over="ignore"):
            spread = np.ptp(array, axis=-1).max()
        if spread > most:
            raise ValueError(
                f"{name} spans {spread:.3g} within a prompt; at most {most:.3g} can be"
            )
    return g, r, p, rho


def _stays_inside(reward_hat: ArrayLike, reference: ArrayLike) -> None:
    """Raise where an optimum may leave the support, which a finite recession permits.

    It does only for rewards above all those inside: `f'(w) = (r - lambda)/beta < recession` there.
    """
    r, p = np.broadcast_arrays(np.asarray(reward_hat, float), np.asarray(reference, float))
    best = np.where(p > 0, r, -np.inf).max(axis=-1, keepdims=True)
    bad = (p == 0) & (r > best)
    if bad.any():
        index = [int(i[0]) for i in np.nonzero(bad)]
        raise ValueError(
            f"reward_hat{index} is {r[tuple(index)].item()!r}, above all where reference is "
            "positive; under a divergence of finite recession the optimum would leave the support"
        )


def _interval(low: float | None, high: float | None) -> Interval:
    first, last = 0.0 if low is None else low, math.inf if high is None else high
    ends = [
        checks.as_non_negative(name, end, infinite=True)
        for name, end in (("low", first), ("high", last))
    ]
    for name, end in zip(("low", "high"), ends, strict=True):
        if end.ndim:
            raise ValueError(f"{name} has shape {end.shape}; it must be one number")
    if ends[0] > ends[1]:
        raise ValueError(f"low is {float(ends[0])!r}; it must be at most high, {float(ends[1])!r}")
    return float(ends[0]), float(ends[1])


def _spent(
    policy: FloatArray, p: FloatArray, rho: FloatArray, divergence: Divergence
) -> tuple[float, float, float]:
    return (
        float(divergence(policy, p, rho)),
        float(KL()(policy, p, rho)),
        float(concentrability(policy, p, rho)),
    )


# ---- chi-squared ---------------------------------------------------------------------------------


def _on_the_exact_path(
    g: FloatArray,
    r: FloatArray,
    p: FloatArray,
    rho: FloatArray,
    divergence: Divergence,
    interval: Interval,
) -> BestBeta:
    """Compare the breakpoints: between two of them J is affine in 1/beta."""
    weight = divergence.terms()[0][0]
    path = chi_squared_path(r, p)
    low, high = (end * weight for end in interval)
    curve = path.value(g, rho)
    inner = curve.betas[(curve.betas < high) & (curve.betas > low)]
    betas = np.concatenate([[high], inner, [low]])
    gains = np.asarray(curve.gain(betas))
    level = gains >= gains.max() - 2.0 * curve.rounding
    edges = np.flatnonzero(np.diff(np.concatenate([[False], level, [False]]).astype(np.int8)))
    exact = np.concatenate([[interval[1]], inner / weight, [interval[0]]])
    intervals = tuple(
        (float(exact[stop - 1]), float(exact[start]))
        for start, stop in zip(edges[::2], edges[1::2], strict=True)
    )[::-1]
    best, slack, top = int(level.argmax()), curve.rounding, float(gains.max())
    spent = _spent(path.policy(betas[best]), p, rho, divergence)
    bounds = (float(gains[best]), top - slack, top + slack)
    return _result(float(exact[best]), curve.start, bounds, intervals, spent, len(betas))


# ---- any divergence ------------------------------------------------------------------------------


def _by_branch_and_bound(
    g: FloatArray,
    r: FloatArray,
    p: FloatArray,
    rho: FloatArray,
    divergence: Divergence,
    interval: Interval,
    tolerance: float,
    budget: int,
) -> BestBeta:
    total = p.sum(axis=-1)
    # Offsets first: the mean of what is left is then accurate.
    some = np.take_along_axis(g, p.argmax(axis=-1)[:, None], axis=-1)
    mean = (p * (g - some)).sum(axis=-1) / total
    start = float((rho * (some[:, 0] + mean)).sum())
    problem, bits = _scaled_problem(g - some - mean[:, None], r, p, rho, divergence)
    scale = float((rho * problem.spread).sum())
    ends = _inverse(interval[1], bits), _inverse(interval[0], bits)
    found = search(problem, *ends, tolerance * scale, budget)

    def beta_of(tau: float) -> float:
        if tau in ends:
            return interval[1 - ends.index(tau)]
        return min(max(_inverse(tau, bits), interval[0]), interval[1])

    intervals = tuple((beta_of(b), beta_of(a)) for a, b in found.intervals[::-1])
    spent = _spent(problem.policy(found.best.tau), p, rho, divergence)
    lower = max(found.best.total - found.best.error, found.lower)
    gains = (found.best.total, lower, found.upper)
    best = _result(beta_of(found.best.tau), start, gains, intervals, spent, found.evaluations)
    if not found.finished:
        raise EnclosureError(
            f"the largest gain is between {best.gain_lower:.6g} and {best.gain_upper:.6g} after "
            f"{best.evaluations} evaluations; tolerance {tolerance:g} asks for a width of "
            f"{tolerance * scale:.3g}",
            best,
        )
    return best


def _inverse(number: float, bits: int) -> float:
    """Return `2^bits / number`, from 0 to `inf`."""
    if number in (0.0, math.inf):
        return math.inf if number == 0 else 0.0
    mantissa, shift = math.frexp(number)
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(1.0 / mantissa, bits - shift))


def _scaled_problem(
    g: FloatArray, r: FloatArray, p: FloatArray, rho: FloatArray, divergence: Divergence
) -> tuple[Problem, int]:
    """Return the problem with `r^` in units of 2^bits, about its largest range, 0 at the best."""
    below = r - r.max(axis=-1, keepdims=True)
    bits = int(np.frexp(-below.min())[1])
    return Problem(g, np.ldexp(below, -bits), p, rho, divergence), bits


def _result(
    beta: float,
    start: float,
    gains: tuple[float, float, float],
    intervals: tuple[Interval, ...],
    spent: tuple[float, float, float],
    evaluations: int,
) -> BestBeta:
    gain, lower, upper = gains
    return BestBeta(
        beta=beta,
        value=start + gain,
        # The last addition rounds, outwards here.
        value_lower=math.nextafter(start + lower, -math.inf),
        value_upper=math.nextafter(start + upper, math.inf),
        gain=gain,
        gain_lower=lower,
        gain_upper=upper,
        beta_low=min(left for left, _ in intervals),
        beta_high=max(right for _, right in intervals),
        intervals=intervals,
        divergence=spent[0],
        kl=spent[1],
        concentrability=spent[2],
        evaluations=evaluations,
    )
