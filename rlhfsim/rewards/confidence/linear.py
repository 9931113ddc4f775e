r"""Confidence ellipsoids of linear rewards, at every sample size and asymptotically.

*Setting.*  `r* = <theta*, phi>`, `||theta*||_2 <= B`.  Pairs may depend on the past;
`d_i = phi(x_i, y_i1) - phi(x_i, y_i2)`, and the first wins, `z_i = 1`, with probability
`sigma(<theta*, d_i>)`.  The estimate minimises

    F(theta) = sum_i [log(1 + exp(<theta, d_i>)) - z_i <theta, d_i>] + (c/2) ||theta||^2

over a convex set that contains `theta*`: the ball of radius B, or all of R^d; the ridge c may be 0.
Write `Delta = theta_hat - theta*`, `S = sum_i (z_i - sigma(<theta*, d_i>)) d_i`,
`Sigma = lambda I + sum_i d_i d_i'`.

*Lemma (deterministic).*  Let `V >= |<theta_hat, d_i>|` and `V >= |<theta*, d_i>|` for all i,
`kappa = sigma'(V) = 1/(2 + e^V + e^-V)`, and `a = ||S||_{Sigma^-1} + c B / sqrt(lambda)`.  Then

    ||Delta||_Sigma <= a/(2 kappa)
                       + sqrt(a^2/(4 kappa^2) + (||theta_hat|| + B)^2 (lambda - c/kappa)_+).

Proof.  `theta*` is feasible, so `<grad F(theta_hat), Delta> <= 0`.  By the mean value theorem
`grad F(theta_hat) - grad F(theta*) = (M + c I) Delta`, `M = sum_i a_i d_i d_i'`, where
`a_i = int_0^1 sigma'(<theta* + t Delta, d_i>) dt >= kappa`: the margins on the segment lie in
[-V, V], where sigma' is at least kappa.  With `grad F(theta*) = -S + c theta*`,

    kappa sum_i <d_i, Delta>^2 + c ||Delta||^2 <= <(M + c I) Delta, Delta>
        <= <S - c theta*, Delta> <= (||S||_{Sigma^-1} + c ||theta*||_{Sigma^-1}) ||Delta||_Sigma,

and `||theta*||_{Sigma^-1} <= B/sqrt(lambda)`.  The left side is
`kappa ||Delta||_Sigma^2 - (kappa lambda - c) ||Delta||^2`, and `||Delta|| <= ||theta_hat|| + B`.
So `u = ||Delta||_Sigma` has `u^2 <= (a/kappa) u + (||theta_hat|| + B)^2 (lambda - c/kappa)_+`, of
which the lemma is the solution.

*Theorem.*  For lambda fixed in advance, with probability at least `1 - delta`, at all n at once,

    ||S||_{Sigma^-1}^2 <= 1/2 log(det(Sigma)^{1/2} det(lambda I)^{-1/2} / delta),

so the ellipsoid around `theta_hat` whose radius is the lemma's with this in place of `||S||`
contains `theta*` with probability at least `1 - delta`.  Proof: given the past and `d_i`, the noise
`z_i - sigma(.)` has mean 0 and lies in an interval of length 1, so by Hoeffding's lemma it is
sub-Gaussian with R = 1/2; theorem 1 of Abbasi-Yadkori et al. has `2 R^2 = 1/2`.  V and
`||theta_hat||` may be those observed, since the lemma holds for every outcome.

Source: derived here, from Abbasi-Yadkori, Pal and Szepesvari 2011 (NeurIPS), theorem 1; arXiv
2301.11270, lemma 3.1, hides the constants.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammainccinv

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts
from rlhfsim.rewards.confidence.base import as_level, as_log_level
from rlhfsim.rewards.confidence.ellipsoid import Ellipsoid, require_symmetric
from rlhfsim.rewards.features import blocks, compare, design_covariance, require_shape
from rlhfsim.rewards.linear import Linear
from rlhfsim.rewards.result import RewardFit

#: Largest margin whose curvature, of order `exp(-margin)`, a float64 can hold.
LARGEST_MARGIN = 700.0

#: A norm this close to the bound, as a share of it, lies on it.
_ON_BOUND = 1e-9

#: Error of an eigenvalue, as a share of the largest.
_EIGENVALUE_ROUNDING = 1e-12


def self_normalized_bound(covariance: FloatArray, regularization: float, delta: float) -> float:
    """Return `sqrt(1/2 log(det(Sigma)^{1/2} det(lambda I)^{-1/2} / delta))`.

    It bounds `||sum_i eta_i d_i||_{Sigma^-1}` at all n at once, with probability at least
    `1 - delta`, for noise eta that given the past has mean 0 and lies in an interval of length 1.

    Parameters
    ----------
    covariance : (d, d) array
        `Sigma = lambda I + sum_i d_i d_i'`.
    regularization : float
        lambda, positive.
    delta : float in (0, 1)

    Raises
    ------
    ValueError
        Bad input, or a covariance with an eigenvalue below lambda.

    Source: Abbasi-Yadkori, Pal and Szepesvari 2011 (NeurIPS), theorem 1, R = 1/2.
    """
    weight = checks.positive_number("regularization", regularization)
    sigma = checks.as_matrix("covariance", covariance)
    if sigma.shape[0] != sigma.shape[1]:
        raise ValueError(f"covariance has shape {sigma.shape}; it must be square")
    require_symmetric(sigma)
    values = np.linalg.eigvalsh(sigma)
    if values[0] < weight - _EIGENVALUE_ROUNDING * values[-1]:
        raise ValueError(
            f"covariance has smallest eigenvalue {values[0].item()!r}; it must be at least "
            f"{weight!r}, the regularization that it contains"
        )
    log_determinant = float(np.linalg.slogdet(sigma / weight)[1])
    # At least 0, since no eigenvalue is below lambda but for rounding.
    return math.sqrt(0.5 * (0.5 * max(log_determinant, 0.0) + as_log_level(delta)))


def estimation_radius(
    noise: float,
    *,
    norm_bound: float,
    estimate_norm: float,
    margin: float,
    ridge: float,
    regularization: float,
) -> float:
    """Return the lemma's bound on `||theta_hat - theta*||_Sigma`.

    `a/(2 kappa) + sqrt(a^2/(4 kappa^2) + (||theta_hat|| + B)^2 (lambda - c/kappa)_+)` with
    `a = noise + c B/sqrt(lambda)` and `kappa = sigma'(V)`; the module's docstring has the proof.

    Parameters
    ----------
    noise : float
        `||S||_{Sigma^-1}`, or a bound on it.
    norm_bound : float
        B, at least `||theta*||`.
    estimate_norm : float
        `||theta_hat||`.
    margin : float
        V, at least every `|<theta_hat, d_i>|` and `|<theta*, d_i>|`; at most 700.
    ridge : float
        c, not negative.
    regularization : float
        lambda, positive.

    Returns
    -------
    float, without unit

    Raises
    ------
    ValueError
        Bad input, by name, rule and value.

    Source: derived here.
    """
    slack = checks.positive_number("noise", noise, zero=True)
    bound = checks.positive_number("norm_bound", norm_bound, zero=True)
    norm = checks.positive_number("estimate_norm", estimate_norm, zero=True)
    v = checks.positive_number("margin", margin, zero=True)
    c = checks.positive_number("ridge", ridge, zero=True)
    weight = checks.positive_number("regularization", regularization)
    if v > LARGEST_MARGIN:
        raise ValueError(
            f"margin is {v!r}; it must be at most {LARGEST_MARGIN:g}, above which the curvature of "
            "the likelihood underflows and no radius is finite"
        )
    kappa = 1.0 / (2.0 + math.exp(v) + math.exp(-v))
    half = (slack + c * bound / math.sqrt(weight)) / (2.0 * kappa)
    return half + math.hypot(half, (norm + bound) * math.sqrt(max(weight - c / kappa, 0.0)))


def ellipsoid(
    data: PreferenceData | PairCounts,
    model: Linear,
    fit: RewardFit,
    delta: float,
    *,
    norm_bound: float | None = None,
    regularization: float | None = None,
    reward_gap: float | None = None,
) -> Ellipsoid:
    """Return an ellipsoid that contains `theta*` with probability at least `1 - delta`, for any n.

    Around `theta_hat`, in the norm of `Sigma = lambda I + sum_i d_i d_i'`, with
    `estimation_radius(self_normalized_bound(...))`: every constant explicit, nothing asymptotic.

    Parameters
    ----------
    data : PreferenceData or PairCounts
        What `fit` was fitted to.
    model : Linear
    fit : RewardFit
        Of `model` on `data`.
    delta : float in (0, 1)
    norm_bound : float, optional
        `B >= ||theta*||`, in reward units per unit of the features; by default the model's own.
    regularization : float, optional
        lambda, chosen without looking at the data; by default `4 ridge` with a ridge (then the
        last term of the radius vanishes), else `1/B^2`.
    reward_gap : float, optional
        At least `|<theta*, d_i>|` for every compared pair, where that is known to be smaller than
        `B ||d_i||`.

    Raises
    ------
    ValueError
        Bad input, by name, rule and value; a `norm_bound` above the model's; a fit of something
        else; margins above 700, for which `reward_gap` may help.

    Source: derived here, from Abbasi-Yadkori, Pal and Szepesvari 2011, theorem 1.
    """
    theta = _parameter(model, fit)
    counts = as_counts(data)
    require_shape(model.features, counts.shape)
    bound = _norm_bound(model, norm_bound)
    ridge = model.ridge or 0.0
    given = (4.0 * ridge if ridge else bound**-2) if regularization is None else regularization
    weight = checks.positive_number("regularization", given)
    known = math.inf
    if reward_gap is not None:
        known = checks.positive_number("reward_gap", reward_gap, zero=True)
    longest, largest = _margins(counts, model.features, theta)
    sigma = design_covariance(counts, model.features, weight)
    radius = estimation_radius(
        self_normalized_bound(sigma, weight, delta),
        norm_bound=bound,
        estimate_norm=float(np.linalg.norm(theta)),
        margin=max(largest, min(bound * longest, known)),
        ridge=ridge,
        regularization=weight,
    )
    return Ellipsoid(theta, sigma, radius, model.features)


def asymptotic_ellipsoid(model: Linear, fit: RewardFit, delta: float) -> Ellipsoid:
    """Return `{theta : ||theta - theta_hat||_I <= sqrt(chi2_{1 - delta}(d))}`, I the information.

    **Asymptotic**: as n grows it contains `theta*` with probability tending to `1 - delta`, for
    an estimate in the interior of its bound, and a ridge that stays fixed.

    Parameters
    ----------
    model : Linear
    fit : RewardFit
        Of `model`; its information is Sigma.
    delta : float in (0, 1)

    Raises
    ------
    ValueError
        Bad input, or an estimate on the norm bound, which is not asymptotically normal.

    Source: Wald 1943 (Trans. Amer. Math. Soc. 54).
    """
    theta = _parameter(model, fit)
    assert fit.information is not None
    norm = float(np.linalg.norm(theta))
    if model.norm_bound is not None and norm >= model.norm_bound * (1 - _ON_BOUND):
        raise ValueError(
            f"fit has a parameter of norm {norm!r} on the norm_bound {model.norm_bound!r}; "
            "it must lie inside, since on the bound it is not asymptotically normal"
        )
    radius = math.sqrt(2.0 * float(gammainccinv(0.5 * len(theta), as_level(delta))))
    return Ellipsoid(theta, fit.information, radius, model.features)


def _parameter(model: Linear, fit: RewardFit) -> FloatArray:
    """Return the (d,) parameter of a fit of a linear model."""
    if not isinstance(model, Linear):
        raise ValueError(f"model is {model!r:.80}; it must be a Linear")
    if not isinstance(fit, RewardFit):
        raise ValueError(f"fit is a {type(fit).__name__}; it must be a RewardFit")
    if fit.parameter is None or fit.information is None:
        raise ValueError("fit has no parameter or information; it must be a fit of a Linear model")
    if fit.parameter.shape != model.features.shape[2:]:
        raise ValueError(
            f"fit has a parameter of shape {fit.parameter.shape}; "
            f"it must have shape {model.features.shape[2:]}, that of model"
        )
    return fit.parameter


def _norm_bound(model: Linear, norm_bound: float | None) -> float:
    """Return B, for which the model's estimate is one over a set that contains `theta*`."""
    if norm_bound is None:
        if model.norm_bound is None:
            raise ValueError("norm_bound is None; it must be given for a model without one")
        return model.norm_bound
    bound = checks.positive_number("norm_bound", norm_bound)
    if model.norm_bound is not None and bound > model.norm_bound:
        raise ValueError(
            f"norm_bound is {bound!r}; it must be at most {model.norm_bound!r}, the model's, "
            "over whose ball the estimate was taken"
        )
    return bound


def _margins(counts: PairCounts, features: FloatArray, theta: FloatArray) -> tuple[float, float]:
    """Return the largest `||d_i||` and the largest `|<theta, d_i>|` of the compared pairs."""
    difference = compare(counts, features).difference
    longest = largest = 0.0
    for block in blocks(len(difference)):
        rows = difference[block]
        longest = max(longest, float(np.linalg.norm(rows, axis=1).max()))
        largest = max(largest, float(np.abs(rows @ theta).max()))
    return longest, largest
