"""Rewards from scores: least squares over tables, linear rewards and finite classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.data import ScoreData
from rlhfsim.frozen import Frozen
from rlhfsim.rewards.features import (
    as_features,
    require_shape,
    spans_or_ridge,
    unit_columns,
    weighted_gram,
)
from rlhfsim.rewards.result import RewardFit, RewardFitError
from rlhfsim.rewards.score_sums import ScoreSums, as_score_sums
from rlhfsim.rewards.secular import ball_multiplier, scaled_back

_KKT_PER_SCORE = 1e-10


@dataclass(frozen=True, eq=False)
class LeastSquares(Frozen):
    """`r_hat = argmin_r 1/2 sum_i (s_i - r(x_i, y_i))^2` over a model of r.

    * `LeastSquares()`: all `(X, Y)` tables, so each response gets its mean score.  Responses never
      scored get 0.
    * `LeastSquares(features)`: `r = <theta, phi(x, y)>`.  Unique when the features of the scored
      responses span `R^d`, which is required unless there is a ridge.
    * `LeastSquares(features, norm_bound=B)`: the minimiser within `||theta||_2 <= B`.
    * `ridge=c`, with or without features: adds `c/2 ||theta||_2^2` (`c/2 sum r^2` for tables).

    In the fit, `log_likelihood` is `-1/2 sum_i (s_i - r_hat(x_i, y_i))^2`, that of Gaussian noise
    of variance 1 up to the constant `-n/2 log(2 pi)`; `compared` marks the scored responses;
    `exists` says where the unconstrained estimate exists and is unique; `gradient_norm` is the
    largest violation of the normal equations (with a bound, of the KKT conditions), in scores times
    reward units (times units of the features).  Linear fits also hold `parameter`, `theta_hat`, and
    `information`, `sum_i phi_i phi_i' + ridge I`.

    Parameters
    ----------
    features : (X, Y, d) array, optional
        `phi`, finite; copied in and read-only.
    norm_bound : float, optional
        B, positive; needs features.
    ridge : float, optional
        c, positive, in scores (times squared units of the features).

    Raises
    ------
    ValueError
        For bad features, a bound without features, both a bound and a ridge, or either out of
        range.

    Source: Golub and Van Loan 2013 (Matrix Computations, sections 5.3 and 6.2.1).
    """

    features: FloatArray | None = None
    norm_bound: float | None = None
    ridge: float | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        if self.features is not None:
            object.__setattr__(self, "features", as_features(self.features))
        elif self.norm_bound is not None:
            raise ValueError(f"norm_bound is {self.norm_bound!r}; it needs features")
        if self.norm_bound is not None and self.ridge is not None:
            raise ValueError(
                f"norm_bound is {self.norm_bound!r} and ridge is {self.ridge!r}; "
                "at most one may be given"
            )
        for name in ("norm_bound", "ridge"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checks.positive_number(name, value))

    def fit(self, data: ScoreData | ScoreSums, rng: np.random.Generator | None = None) -> RewardFit:
        """Return the least squares reward; see `fit_reward`.  `rng` is not used.

        Raises
        ------
        RewardFitError
            When the fit fails its own certificate.
        ValueError
            When, without a ridge, the features of the scored responses do not span; when features
            and data differ in `(X, Y)`.
        """
        checks.optional_generator("rng", rng)
        sums = as_score_sums(data)
        return self._fit_table(sums) if self.features is None else self._fit_linear(sums)

    def _fit_table(self, sums: ScoreSums) -> RewardFit:
        shrunk = sums.mean if self.ridge is None else _shrunk(sums, self.ridge)
        reward = np.zeros(sums.shape)
        reward[sums.prompt, sums.response] = shrunk
        gradient = sums.count * (sums.mean - shrunk) - (self.ridge or 0.0) * shrunk
        allowed = _KKT_PER_SCORE * sums.count * np.abs(sums.mean)
        exists = np.asarray(sums.scored.any(axis=1))
        return _certified(sums, reward, np.abs(gradient), allowed, exists)

    def _fit_linear(self, sums: ScoreSums) -> RewardFit:
        assert self.features is not None
        require_shape(self.features, sums.shape)
        rows = self.features[sums.prompt, sums.response]
        spans = spans_or_ridge(rows, self.ridge, "those of the scored responses", "LeastSquares")
        theta = self._solve(rows, sums)
        residual = sums.mean - rows @ theta
        ridge = self.ridge or 0.0
        gradient = (sums.count * residual) @ rows - ridge * theta
        size = (sums.count * (np.abs(sums.mean) + np.abs(rows) @ np.abs(theta))) @ np.abs(rows)
        if self.norm_bound is not None:
            norm = float(np.linalg.norm(theta))
            if norm >= self.norm_bound * (1 - 1e-12):
                gradient -= max(0.0, float(gradient @ theta) / norm**2) * theta
            size = np.full(len(theta), size.max())
        return _certified(
            sums,
            self.features @ theta,
            np.abs(gradient),
            _KKT_PER_SCORE * size,
            np.full(sums.shape[0], spans),
            parameter=theta,
            information=weighted_gram(rows, sums.count) + ridge * np.eye(len(theta)),
        )

    def _solve(self, rows: FloatArray, sums: ScoreSums) -> FloatArray:
        """Return the (d,) minimiser, from a QR factorisation of the weighted rows."""
        root = np.sqrt(sums.count)
        left, right = root[:, None] * rows, root * sums.mean
        if self.ridge is not None:
            size = rows.shape[1]
            left = np.concatenate((left, np.sqrt(self.ridge) * np.eye(size)))
            right = np.concatenate((right, np.zeros(size)))
        theta = _unconstrained(left, right)
        if self.norm_bound is None or np.linalg.norm(theta) <= self.norm_bound:
            return theta
        _, singular, vectors = np.linalg.svd(np.linalg.qr(left, mode="r"))
        slope = vectors @ (left.T @ right)
        multiplier = ball_multiplier(singular**2, slope, self.norm_bound)
        theta = vectors.T @ scaled_back(slope, singular**2 + multiplier)
        # On the sphere but for rounding.
        return np.asarray(theta * (self.norm_bound / np.linalg.norm(theta)))


def _unconstrained(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return the minimiser of `||left theta - right||_2` for a matrix of full column rank."""
    scale = unit_columns(left)
    orthogonal, factor = np.linalg.qr(left / scale)
    theta = solve_triangular(factor, orthogonal.T @ right)
    # One step of refinement: the residual is small, and so then is its rounding.
    residual = right - (left / scale) @ theta
    theta += solve_triangular(factor, orthogonal.T @ residual)
    return np.asarray(theta / scale)


def _shrunk(sums: ScoreSums, ridge: float) -> FloatArray:
    return sums.mean * (sums.count / (sums.count + ridge))


def _certified(
    sums: ScoreSums,
    reward: FloatArray,
    violation: FloatArray,
    allowed: FloatArray,
    exists: BoolArray,
    *,
    parameter: FloatArray | None = None,
    information: FloatArray | None = None,
) -> RewardFit:
    """Return the fit, or raise if the normal equations are violated by more than is allowed."""
    residual = sums.mean - reward[sums.prompt, sums.response]
    fit = RewardFit(
        reward=reward,
        log_likelihood=-0.5 * float(sums.squares.sum() + (sums.count * residual**2).sum()),
        gradient_norm=float(violation.max()),
        compared=sums.scored,
        exists=exists,
        parameter=parameter,
        information=information,
    )
    if not (violation <= allowed).all():
        worst = int((violation - allowed).argmax())
        raise RewardFitError(
            f"no certified minimum: normal equation {worst} is violated by "
            f"{violation[worst]:.3g} (allowed {allowed[worst]:.3g})",
            fit,
        )
    return fit
