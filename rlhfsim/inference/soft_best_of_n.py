"""Soft best-of-n: one of n draws, chosen by a softmax of its reward; exact by quadrature.

With `e(y) = exp(r(y)/T)`, `1/S = int_0^inf exp(-t S) dt` separates the n draws:

    pi(y) = n p(y) E[e(y)/(e(y) + e(Y_2) + ... + e(Y_n))]
          = n p(y) int_0^inf e(y) exp(-t e(y)) M(t)^(n-1) dt,      M(t) = E_p[exp(-t e)].

*Quadrature.*  With `t = exp(v)` the integrand is analytic in v for `|Im v| < pi/2`, where
`|M(t)| <= M(|t| cos(arg t))`; so on the line `Im v = theta` its integral is at most
`pi(y)/cos(theta)`, and the trapezoidal rule of step h has a *relative* error of at most
`2/cos(theta) / (exp(2 pi theta/h) - 1)`, whatever p, r and n are (Trefethen and Weideman 2014,
theorem 5.1).  At `h = 3/16` and `theta = 1.54` that is below 1e-20: nothing but rounding is left.

*Nodes.*  The integrand of a response rises like `exp(v)` until some level `e(z)` cuts it off, near
`v = -r(z)/T`, and falls double exponentially beyond `-r(y)/T`; nodes outside the windows around
the levels would add less than 1e-19 of the result.

*Digits.*  The step is a binary fraction, so nodes are exact and so are the sums `r/T + v` of nearly
opposite numbers: scores are rounded once, as if the rewards had been.

Source: the formula and its error bound are derived here.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from rlhfsim import checks
from rlhfsim.checks import FloatArray

_STEP = 0.1875
_RIGHT = 7.0
_LEFT = 46.0
#: Scores further apart than this are as good as infinitely far: what the lower one adds underflows.
_FAR = 2000.0
_LARGEST_N = 10**15
_CHUNK = 1 << 20
_MASS_TOLERANCE = 1e-12


def soft_best_of_n(
    reference: ArrayLike, reward: ArrayLike, n: int, temperature: ArrayLike
) -> FloatArray:
    """Return the law of a softmax choice among `n` draws from `reference`, by `reward/temperature`.

    `pi(y) = n p(y) E[e(y)/(e(y) + e(Y_2) + ... + e(Y_n))]`, `e(y) = exp(r(y)/T)`, `Y_i ~ p` iid.
    As T falls to 0 it becomes `best_of_n`; as T grows, or at n = 1, the reference; and as n grows
    the KL-regularized optimum `p e/Z` at `beta = T`.

    Parameters
    ----------
    reference, reward : (..., Y) arrays, broadcast against each other
    n : int
        1 to 1e15.
    temperature : number or array
        In reward units, positive, broadcast against the prompt axes `(...)`.

    Returns
    -------
    (..., Y) array of distributions

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    ArithmeticError
        If a row does not sum to the sum of its reference within 1e-12 (never seen).
    """
    p = checks.as_distributions("reference", reference)
    r = checks.as_real("reward", reward)
    count = checks.whole_number("n", n, least=1)
    if count > _LARGEST_N:
        raise ValueError(f"n is {count}; it must be at most {_LARGEST_N}")
    heat = checks.as_positive("temperature", temperature)
    pair = checks.same_responses(reward=r, reference=p)
    prompts = checks.broadcast(reference=np.broadcast_to(p, pair)[..., 0], temperature=heat)
    shape = (*prompts, pair[-1])
    p, r = np.broadcast_to(p, shape), np.broadcast_to(r, shape)
    heat = np.broadcast_to(heat, prompts)
    policy = np.empty(shape)
    for index in np.ndindex(prompts):
        policy[index] = _law(p[index], r[index], count, float(heat[index]))
    _certify(policy, p)
    return policy


def _law(p: FloatArray, r: FloatArray, n: int, temperature: float) -> FloatArray:
    """Return the law of one prompt."""
    possible = np.flatnonzero(p)
    rewards, level = np.unique(r[possible], return_inverse=True)
    scores = _scores(rewards, temperature)
    mass = np.asarray(np.bincount(level, weights=p[possible]), dtype=np.float64)
    log_ratio = np.full(scores.size, -np.inf)
    left = _LEFT + np.log(n)
    for begin, end in _clusters(scores, left + _RIGHT):
        first = np.floor((-scores[end - 1] - left) / _STEP)
        nodes = np.arange(first, np.ceil((-scores[begin] + _RIGHT) / _STEP) + 1) * _STEP
        for piece in np.array_split(nodes, -(-nodes.size * (end - begin) // _CHUNK)):
            _add(log_ratio, piece, scores, mass, begin, end, n)
    policy = np.zeros(p.size)
    with np.errstate(under="ignore"):
        policy[possible] = p[possible] * np.exp(log_ratio + np.log(_STEP * n))[level]
    return policy


def _clusters(scores: FloatArray, far: float) -> list[tuple[int, int]]:
    """Return the ranges of levels that are chained by gaps of at most `far`."""
    cuts = np.flatnonzero(np.diff(scores) > far) + 1
    edges = [0, *cuts.tolist(), scores.size]
    return list(itertools.pairwise(edges))


def _add(
    log_ratio: FloatArray, v: FloatArray, scores: FloatArray, mass: FloatArray,
    begin: int, end: int, n: int,
) -> None:  # fmt: skip
    """Add to each level the integrand at the nodes v around levels `begin` to `end - 1`.

    There, `exp(-t e)` is 0 for the levels above and 1 for those below.
    """
    total = mass.sum()
    exponent = v[:, None] + scores[begin:end]
    with np.errstate(over="ignore", under="ignore"):
        rate = np.exp(exponent)
        lost = (mass[begin:end] * np.expm1(-rate)).sum(axis=1) - mass[end:].sum()
        kept = mass[:begin].sum() + (mass[begin:end] * np.exp(-rate)).sum(axis=1)
    # log M is log1p of what is lost while that is little, and else the log of what is kept.
    with np.errstate(divide="ignore", invalid="ignore"):
        log_m = np.where(lost > -0.5 * total, np.log1p(lost / total), np.log(kept / total))
    fully = kept == 0.0  # underflow of the sum, but not of its logarithm
    log_mass = np.log(mass[begin:end] / total)
    log_m[fully] = logsumexp(log_mass - rate[fully], axis=1)
    power = (n - 1) * log_m if n > 1 else np.zeros(v.size)
    log_ratio[begin:end] = np.logaddexp(
        log_ratio[begin:end], logsumexp(exponent - rate + power[:, None], axis=0)
    )
    log_ratio[:begin] = np.logaddexp(log_ratio[:begin], scores[:begin] + logsumexp(v + power))


def _scores(rewards: FloatArray, temperature: float) -> FloatArray:
    """Return the rewards, increasing, in units of the temperature, less the largest."""
    with np.errstate(over="ignore"):
        scores = (rewards - rewards[-1]) / temperature
        if scores[0] > -_FAR * rewards.size:
            return np.asarray(scores)
        gaps = np.minimum(np.diff(rewards) / temperature, _FAR)
    return np.append(-np.flip(np.flip(gaps).cumsum()), 0.0)


def _certify(policy: FloatArray, reference: FloatArray) -> None:
    off = np.abs(policy.sum(axis=-1) - reference.sum(axis=-1))
    if off.size and not off.max() <= _MASS_TOLERANCE:
        index = np.unravel_index(int(off.argmax()), off.shape)
        raise ArithmeticError(
            f"the law of prompt {tuple(int(i) for i in index)} misses its mass by {off.max():.3g}"
        )
