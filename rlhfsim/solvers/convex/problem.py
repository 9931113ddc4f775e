"""The checked input of a program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import Divergence


@dataclass(frozen=True, eq=False)
class ConvexProblem:
    """Checked input; everything is (X, Y)."""

    reward: FloatArray
    reference: FloatArray
    divergence: Divergence
    beta: float
    prompt_dist: FloatArray
    #: (X, Y, k) factor times radius, k = 0 without an ellipsoid.
    factor: FloatArray
    baseline: FloatArray
    shape: tuple[int, ...]

    @property
    def allowed(self) -> FloatArray:
        """(X, Y), 1 where the policy may have mass."""
        outside = np.isfinite(self.divergence.recession)
        return np.where((self.reference > 0) | outside, 1.0, 0.0)

    @property
    def best(self) -> FloatArray:
        """(X,) best reward of each prompt."""
        return np.where(self.allowed > 0, self.reward, -np.inf).max(axis=-1)

    @property
    def offset(self) -> float:
        """What is taken off the objective: the average best reward."""
        return float(self.prompt_dist @ self.best)

    @property
    def scale(self) -> float:
        """What the objective is divided by."""
        worst = np.where(self.allowed > 0, self.reward, np.inf).min(axis=-1)
        return float(max(self.beta, (self.best - worst).max()))


def checked(
    reward: ArrayLike,
    reference: ArrayLike,
    divergence: Divergence,
    beta: float,
    prompt_dist: ArrayLike | None,
    ellipsoid: tuple[ArrayLike, float] | None,
    baseline: ArrayLike | None,
) -> ConvexProblem:
    """Return the checked problem; `ValueError` for what breaks a rule."""
    r = checks.as_real("reward", reward)
    p = checks.as_distributions("reference", reference)
    if r.shape != p.shape or r.ndim not in (1, 2):
        raise ValueError(
            f"reward has shape {r.shape} and reference {p.shape}; both must be (Y,) or (X, Y)"
        )
    if not isinstance(divergence, Divergence):
        raise ValueError(f"divergence is {divergence!r}; it must be a Divergence such as KL()")
    rows = np.atleast_2d(r).shape
    if prompt_dist is None and rows[0] > 1:
        raise ValueError(f"prompt_dist is missing; with {rows[0]} prompts it must be given")
    rho = np.ones(1) if prompt_dist is None else checks.as_distributions("prompt_dist", prompt_dist)
    if rho.shape != rows[:1]:
        raise ValueError(f"prompt_dist has shape {rho.shape}; it must be ({rows[0]},)")
    rho = checks.as_positive("prompt_dist", rho)
    factor = np.zeros((*rows, 0))
    if ellipsoid is not None:
        root, radius = ellipsoid
        root = checks.as_real("ellipsoid factor", root)
        if root.shape[:-1] != r.shape:
            raise ValueError(
                f"ellipsoid factor has shape {root.shape}; it must be {r.shape} and one more axis"
            )
        factor = checks.positive_number("ellipsoid radius", radius, zero=True) * root
        factor = factor.reshape(*rows, -1)
    nu = np.zeros(r.shape)
    if baseline is not None:
        nu = checks.as_distributions("baseline", baseline)
        if nu.shape != r.shape:
            raise ValueError(f"baseline has shape {nu.shape}; it must be {r.shape}")
    return ConvexProblem(
        reward=r.reshape(rows),
        reference=p.reshape(rows),
        divergence=divergence,
        beta=checks.positive_number("beta", beta),
        prompt_dist=rho,
        factor=factor,
        baseline=nu.reshape(rows),
        shape=r.shape,
    )
