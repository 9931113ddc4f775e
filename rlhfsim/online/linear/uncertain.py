"""The enhancer of one policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.online.gaps import regularized_gap
from rlhfsim.online.linear import layout
from rlhfsim.online.linear.calling import Members, call
from rlhfsim.online.linear.problem import log_of
from rlhfsim.online.linear.runs import OnlineError
from rlhfsim.online.linear.shared import Shared
from rlhfsim.rewards.confidence.ellipsoid import require_symmetric
from rlhfsim.rewards.features import as_features, require_shape


@dataclass(frozen=True, eq=False)
class MostUncertain(Frozen):
    """An enhancer and its certificate; arrays are read-only."""

    #: (X, Y) the enhancer `pi2`.
    policy: FloatArray
    #: `||v||_{Sigma^-1}`, `v = E_x[phi(x, pi2) - phi(x, pi1)]`.
    uncertainty: float
    #: s of `pi2 = pi1 e^{s <u, phi>}/Z`, `||u||_Sigma = 1`.
    strength: float
    #: Largest entry of `L^-1 v/||L^-1 v|| - L' u`, `Sigma = L L'`: 0 at a stationary point.
    residual: float
    #: `E_x KL(pi2 || pi1)`; beta times it is at most c times the uncertainty, up to rounding.
    divergence: float

    def __post_init__(self) -> None:
        """Copy the array and make it read-only."""
        object.__setattr__(self, "policy", checks.frozen(self.policy))


def most_uncertain_policy(
    policy: ArrayLike,
    features: ArrayLike,
    covariance: ArrayLike,
    *,
    beta: float,
    radius: float,
    prompt_dist: ArrayLike | None = None,
    steps: int = 1000,
) -> MostUncertain:
    """Return the enhancer of a policy, by fixed-point steps.

    `maximise ||v||_{Sigma^-1}` over `beta E_x KL(pi || policy) <= c ||v||_{Sigma^-1}`,
    `v = E_x[phi(x, pi) - phi(x, policy)]`.  The maximum of a convex function: what comes back is a
    stationary point up to `residual`, reached by steps that never lower the value from the better
    sign of the column of `L'^-1`, `Sigma = L L'`, whose tilt of strength `c/beta` is best.  It is
    the global maximum for one feature.

    Parameters
    ----------
    policy : (X, Y) array of distributions
        The main agent.
    features : (X, Y, d) array
    covariance : (d, d) array
        Sigma, symmetric and positive definite.
    beta : float
        Positive.
    radius : float
        c, not negative.
    prompt_dist : (X,) array, optional
        Uniform by default.
    steps : int
        At most so many.

    Raises
    ------
    ValueError
        Bad input, by name, rule and value; a covariance that is not positive definite.
    OnlineError
        Where nothing was found that is inside of the set up to rounding.

    Source: arXiv 2312.11456; the algorithm is ours, with its proof in `online.linear.tilting`.
    """
    main = checks.as_distributions("policy", checks.as_matrix("policy", policy))
    shape = (main.shape[0], main.shape[1])
    phi = as_features(features)
    require_shape(phi, shape)
    d = phi.shape[2]
    sigma = checks.as_matrix("covariance", covariance, (d, d))
    require_symmetric(sigma)
    rho = np.full(shape[0], 1.0 / shape[0])
    if prompt_dist is not None:
        rho = checks.as_distributions("prompt_dist", prompt_dist).copy()
        if rho.shape != shape[:1]:
            raise ValueError(f"prompt_dist has shape {rho.shape}; it must be {shape[:1]}")
    strength, c = (
        checks.positive_number("beta", beta),
        checks.positive_number("radius", radius, zero=True),
    )
    most = checks.whole_number("steps", steps, least=0)
    if not c / strength <= 1e200:
        raise ValueError(f"radius is {c!r} and beta {strength!r}; their ratio must be below 1e200")
    settings = np.zeros(layout.NUMBERS)
    settings[layout.BETA], settings[layout.C], settings[layout.RIDGE] = strength, c, 1.0
    nothing, none = np.zeros(shape), np.zeros(0)
    shared = Shared(
        layout.ENHANCER, most, 0, settings, np.array(phi.transpose(0, 2, 1), order="C"),
        log_of(main), rho, rho, nothing, np.zeros((0, 0, 0)), nothing, nothing, nothing,
        np.zeros(d), np.zeros((d, 0)), none, none,
    )  # fmt: skip
    members = Members(np.zeros((0, d)), np.zeros((0, 0)), np.zeros((0, 0)))
    # Without comparisons the estimate is 0, and the main agent what is taken for the reference.
    outcome = call(shared, np.zeros((1, 0)), sigma, members, batch=0, moving=False)
    if outcome.status == layout.NO_ENHANCER:
        raise OnlineError("no enhancer was found inside of its confidence set")
    if outcome.status != layout.DONE:
        raise ValueError("covariance is not positive definite to rounding")
    with np.errstate(divide="ignore"):
        divergence = regularized_gap(np.log(outcome.second), np.log(main), 1.0, rho)
    uncertainty, tilt, residual = (
        float(outcome.kept[row, 0])
        for row in (layout.UNCERTAINTY, layout.STRENGTH, layout.RESIDUAL)
    )
    return MostUncertain(outcome.second, uncertainty, tilt, residual, divergence)
