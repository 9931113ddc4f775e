"""Right-hand sides of theorems, with their numbers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL
from rlhfsim.divergences.base import average_over_prompts


def centred_error(reward: ArrayLike, reward_hat: ArrayLike, reference: ArrayLike) -> FloatArray:
    """Return `delta_c = (r* - r^) - E_p[r* - r^]`, centred per prompt.

    Rewards are identified by preferences only up to a constant per prompt; the centred error is
    what of them matters.

    Parameters
    ----------
    reward, reward_hat, reference : (..., Y) arrays
        The axes before the last are broadcast against each other.

    Returns
    -------
    (..., Y) array, in reward units
    """
    p = checks.as_distributions("reference", reference)
    r, r_hat = checks.as_real("reward", reward), checks.as_real("reward_hat", reward_hat)
    checks.same_responses(reward=r, reward_hat=r_hat, reference=p)
    delta = r - r_hat
    return np.asarray(delta - (p * delta).sum(axis=-1, keepdims=True))


def reward_error(
    reward: ArrayLike,
    reward_hat: ArrayLike,
    reference: ArrayLike,
    prompt_dist: ArrayLike | None = None,
) -> FloatArray:
    """Return `eps_c = sqrt(E_x Var_p[r* - r^])`, in reward units; shapes as for a divergence."""
    p = checks.as_distributions("reference", reference)
    delta = centred_error(reward, reward_hat, p)
    return np.sqrt(average_over_prompts((p * delta * delta).sum(axis=-1), prompt_dist))


def sharp_chi_squared_bound(
    reward: ArrayLike,
    reward_hat: ArrayLike,
    reference: ArrayLike,
    beta: ArrayLike,
    comparator: ArrayLike,
    prompt_dist: ArrayLike | None = None,
    *,
    kl_weight: float = 0.0,
) -> FloatArray:
    """Return `|| delta + beta (w* - 1) ||_p^2 / (4 beta) + beta gamma KL(pi* || p)`.

    For **every** `r*, r^, p, beta` and `pi*`, the policy
    `argmax J^(pi) - beta (D_chi2 + gamma KL)(pi || p)` has regret `J(pi*) - J(pi)` at most this.
    With gamma = 0 it is attained where no response is clipped and
    `r*_c = (delta + beta (w* - 1)) / 2`.

    Proof (gamma = 0): with `a = w* - 1`, `b = w - 1`, strong concavity gives
    `J^(pi*) - J^(pi) <= beta <b, a - b>_p`; adding `<delta, a - b>_p` and maximising over b gives
    `||delta + beta a||_p^2 / (4 beta)`.

    Parameters
    ----------
    reward, reward_hat, reference, comparator : (..., X, Y) arrays, or (Y,) for one prompt
        The axes before the last are broadcast against each other.
    beta : number or (...) array
        Positive, broadcast against the axes before `(X, Y)`; a grid for a `(Y,)` or `(X, Y)`
        problem is `(n_beta,)` and gives `(n_beta,)` bounds.
    prompt_dist : (X,) array
    kl_weight : number
        gamma, non-negative.

    Returns
    -------
    (...) array, in reward units; `inf` where the comparator has mass that the reference lacks, on
    a prompt that occurs.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: derived here, by the proof above; the deterministic core of chi-squared bounds such as
    arXiv 2407.13399, theorem 3.1.
    """
    b = checks.as_positive("beta", beta)
    gamma = checks.positive_number("kl_weight", kl_weight, zero=True)
    p = checks.as_distributions("reference", reference)
    star = checks.as_distributions("comparator", comparator)
    delta, p, star = _per_response(centred_error(reward, reward_hat, p), p, star)
    checks.broadcast(**{"beta": b, "the axes before (X, Y)": delta[..., 0, 0]})
    scale = b[..., None, None]
    with np.errstate(over="ignore"):
        moment = p * delta + scale * (star - p)
        inside = _quarter_square(moment, np.where(p > 0, p, 1.0), scale)
        terms = np.where(p > 0, inside, np.where(star > 0, np.inf, 0.0))
        bound = average_over_prompts(terms.sum(axis=-1), prompt_dist)
        if gamma > 0:
            bound = bound + b * (gamma * KL()(star, p, prompt_dist))
    return np.asarray(bound)[()]


def _quarter_square(moment: FloatArray, reference: FloatArray, beta: FloatArray) -> FloatArray:
    """Return `moment^2 / (4 beta reference)`, finite wherever that is."""
    product = moment / reference / beta * (0.25 * moment)
    root = moment / (2.0 * np.sqrt(beta)) / np.sqrt(reference)
    # The product is exact for simple numbers; the root does not overflow before its square does.
    return np.where(np.isfinite(product), product, root * root)


def _per_response(
    error: FloatArray, reference: FloatArray, comparator: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the arrays broadcast to one shape (..., X, Y), with X = 1 for one prompt."""
    shape = checks.same_responses(reward=error, reference=reference, comparator=comparator)
    shape = (1,) * (2 - len(shape)) + shape
    return (
        np.broadcast_to(error, shape),
        np.broadcast_to(reference, shape),
        np.broadcast_to(comparator, shape),
    )


def chi_squared_bound(epsilon: ArrayLike, divergence: ArrayLike, beta: ArrayLike) -> FloatArray:
    """Return `(eps_c + beta sqrt(2 D*))^2 / (4 beta)`, the sharp bound in terms of norms alone.

    Parameters
    ----------
    epsilon : number or array
        Centred reward error `eps_c`, non-negative and finite.
    divergence : number or array
        `D* = D_chi2(pi* || p)`, non-negative, `inf` included.
    beta : number or array
        Positive and finite; all three broadcast.

    Returns
    -------
    array of the broadcast shape, in reward units

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    """
    error = checks.as_non_negative("epsilon", epsilon)
    star = checks.as_non_negative("divergence", divergence, infinite=True)
    b = checks.as_positive("beta", beta)
    checks.broadcast(epsilon=error, divergence=star, beta=b)
    with np.errstate(over="ignore"):
        root = error / (2.0 * np.sqrt(b)) + np.sqrt(b) * np.sqrt(0.5 * star)
        return np.asarray(root * root)[()]


def theory_beta(epsilon: ArrayLike, divergence: ArrayLike) -> FloatArray:
    """Return `beta = eps_c / sqrt(2 D*)`, where `chi_squared_bound` is `sqrt(C - 1) eps_c`.

    Parameters
    ----------
    epsilon, divergence : numbers or arrays, broadcast against each other
        Positive and finite: at 0 or `inf` no positive beta minimises the bound.

    Returns
    -------
    array of the broadcast shape, in reward units

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    """
    error = checks.as_positive("epsilon", epsilon)
    star = checks.as_positive("divergence", divergence)
    checks.broadcast(epsilon=error, divergence=star)
    return np.asarray(error / (math.sqrt(2.0) * np.sqrt(star)))[()]


def finite_class_error(n: int, class_size: int, delta: float, reward_gap: float) -> float:
    """Return `log(|R|/delta) / (n sigma'(V)^2)`, which bounds `eps_c^2` with probability 1 - delta.

    For the maximum-likelihood reward of a finite class R that contains `r*`, all of whose reward
    differences are at most V in size; `sigma'(V) = 1/(2 + e^V + e^-V) = 1/(4 cosh^2(V/2))`.

    Parameters
    ----------
    n, class_size : integers, at least 1
    delta : number in (0, 1)
    reward_gap : number
        V, non-negative.

    Returns
    -------
    number, in squared reward units; `inf` where it exceeds the largest float

    Raises
    ------
    ValueError
        Bad input, by name, rule and value.

    Source: derived here, from the Hellinger bound of maximum likelihood and `TV^2 <= H^2`.
    """
    n = checks.whole_number("n", n, least=1)
    size = checks.whole_number("class_size", class_size, least=1)
    delta = checks.positive_number("delta", delta)
    if delta >= 1:
        raise ValueError(f"delta is {delta!r}; it must be below 1")
    v = checks.positive_number("reward_gap", reward_gap, zero=True)
    with np.errstate(over="ignore"):
        # One factor at a time: 1/sigma'(V)^2 may overflow where the quotient by n does not.
        inverse_slope = 4.0 * np.cosh(0.5 * v) ** 2
        return float((math.log(size) - math.log(delta)) / n * inverse_slope * inverse_slope)


def proposition_a1_floor(n: int) -> float:
    """Return a lower bound, over **all** beta > 0, on the KL-regularized regret of Proposition A.1.

    On `proposition_a1(n)`, once the learned reward is the wrong one,
    `regret >= Delta (1 - pi(a_0)) >= (1/(2 ln n)) (1 - 2/n) / (e + 1 - 2/n)`, for n >= 3.

    Proof.  With `t = 1/beta` the policy is proportional to
    `(1/2, (1/2 - 1/n) e^(-Delta t), e^(t/2)/n)`, and every response but a_0 costs at least Delta.
    If `t <= 2 ln n`, then `Delta t <= 1` and the second weight is at least `(1/2 - 1/n)/e`;
    otherwise the third is at least 1 and `1 - pi(a_0) >= 2/3`, which is more.

    Returns
    -------
    number, in reward units; about `0.134 / ln n` for large n
    """
    n = checks.whole_number("n", n, least=3)
    # Python's own logarithm takes integers beyond the floats.
    return float(proposition_a1_floor_by_log(math.log(n)))


def proposition_a1_floor_by_log(log_n: ArrayLike) -> FloatArray:
    """Return `proposition_a1_floor` as a function of `ln n`, for sizes beyond the integers.

    Parameters
    ----------
    log_n : number or array
        At least ln 3.

    Returns
    -------
    array of that shape, in reward units
    """
    # ln 3 as any library may round it.
    size = checks.as_at_least("log_n", log_n, math.log(3.0) * (1.0 - 1e-12))
    rest = 1.0 - 2.0 * np.exp(-size)
    return np.asarray(rest / (math.e + rest) / (2.0 * size))[()]
