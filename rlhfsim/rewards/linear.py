"""Bradley-Terry maximum likelihood over rewards that are linear in features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData, log_likelihood
from rlhfsim.data.counts import as_counts
from rlhfsim.frozen import Frozen
from rlhfsim.rewards import logistic
from rlhfsim.rewards.features import (
    Comparisons,
    as_features,
    blocks,
    compare,
    require_shape,
    spans_or_ridge,
    unit_columns,
)
from rlhfsim.rewards.result import RewardFit, RewardFitError
from rlhfsim.rewards.separation import SeparationError, separating_direction

#: Largest margin that a norm bound may allow: a float64 holds its pull, of order `exp(-margin)`.
LARGEST_MARGIN = 700.0

_KKT_PER_COMPARISON = 1e-10


@dataclass(frozen=True, eq=False)
class Linear(Frozen):
    """`r_hat(x, y) = <theta_hat, phi(x, y)>` with `theta_hat` the logistic maximum likelihood.

    `theta_hat = argmax_theta sum_i log sigma(<theta, phi(x_i, y+_i) - phi(x_i, y-_i)>)`

    * `Linear(features)`, unconstrained: exists, and is unique, exactly when the differences of the
      comparisons span `R^d` and no direction separates all winners from all losers (Albert and
      Anderson 1984), which a linear program decides.
    * `Linear(features, norm_bound=B)`: the maximiser within `||theta||_2 <= B`.  It always exists;
      the differences must still span `R^d`, without which it need not be unique.
    * `Linear(features, ridge=c)`: adds `-(c/2) ||theta||_2^2`.  It always exists and is unique,
      whatever the features; directions that no comparison sees get 0.

    In the fit, `parameter` is `theta_hat`; `information` is
    `sum_i sigma'(<theta_hat, d_i>) d_i d_i' + ridge I`; `exists` says for every prompt alike
    whether the unconstrained estimate exists and is unique; `gradient_norm` is in comparisons times
    units of the features.  The reward is given for all responses, compared or not, without
    centring.

    Parameters
    ----------
    features : (X, Y, d) array
        `phi`, finite; copied in and read-only.
    norm_bound : float, optional
        B, positive.
    ridge : float, optional
        c, positive, in comparisons times squared units of the features.

    Raises
    ------
    ValueError
        For bad features, both a bound and a ridge, or either out of range.

    Source: arXiv 2301.11270; arXiv 2312.11456; Albert and Anderson 1984 (Biometrika 71, 1).
    """

    features: FloatArray
    norm_bound: float | None = None
    ridge: float | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        object.__setattr__(self, "features", as_features(self.features))
        if self.norm_bound is not None and self.ridge is not None:
            raise ValueError(
                f"norm_bound is {self.norm_bound!r} and ridge is {self.ridge!r}; "
                "at most one may be given"
            )
        for name in ("norm_bound", "ridge"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checks.positive_number(name, value))

    def fit(
        self, data: PreferenceData | PairCounts, rng: np.random.Generator | None = None
    ) -> RewardFit:
        """Return the maximum likelihood linear reward; see `fit_reward`.  `rng` is not used.

        Raises
        ------
        SeparationError
            Without a bound or ridge, when a direction separates winners from losers.
        RewardFitError
            When the fit fails its own certificate.
        ValueError
            When, without a ridge, the compared features do not span; when features and data differ
            in `(X, Y)`; when a bound that holds the estimate allows margins above 700.
        """
        checks.optional_generator("rng", rng)
        counts = as_counts(data)
        require_shape(self.features, counts.shape)
        pairs = compare(counts, self.features)
        exists = self._exists(counts, pairs)
        theta, step = self._solve(pairs, exists)
        reward = self.features @ theta
        violation, allowed = self._certificate(counts, theta)
        fit = RewardFit(
            reward=reward,
            log_likelihood=log_likelihood(counts, reward),
            gradient_norm=float(violation.max()),
            compared=counts.compared,
            exists=np.full(counts.shape[0], exists),
            parameter=theta,
            information=logistic.hessian(pairs, theta, np.full(len(theta), self.ridge or 0.0)),
        )
        if not ((violation <= allowed).all() and step <= logistic.SMALL_STEP):
            raise RewardFitError(_failure(violation, allowed, step), fit)
        return fit

    def _exists(self, counts: PairCounts, pairs: Comparisons) -> bool:
        """Return whether the unconstrained estimate exists; raise where it has to and does not."""
        seen = "the compared differences phi(x, y+) - phi(x, y-)"
        if not spans_or_ridge(pairs.difference, self.ridge, seen, "Linear"):
            return False
        direction = separating_direction(pairs)
        if direction is not None and self.ridge is None and self.norm_bound is None:
            raise _separated(counts, self.features, direction)
        return direction is None

    def _solve(self, pairs: Comparisons, exists: bool) -> tuple[FloatArray, float]:
        """Return the (d,) estimate and the length of the last Newton step, in margins."""
        scale = unit_columns(pairs.difference)
        scaled = pairs._replace(difference=pairs.difference / scale)
        start = np.zeros(len(scale))
        if len(pairs.won) == 0:
            return start, 0.0
        if self.ridge is not None or exists:
            penalty = (self.ridge or 0.0) / scale**2
            free, step = logistic.minimize(scaled, start, penalty, None)
            theta = free / scale
            norm = float(np.linalg.norm(theta))
            if self.norm_bound is None or norm <= self.norm_bound:
                return theta, step
            start = theta * (self.norm_bound / norm)
        return self._solve_bounded(pairs, start)

    def _solve_bounded(self, pairs: Comparisons, start: FloatArray) -> tuple[FloatArray, float]:
        """Return the estimate when it lies on the sphere `||theta||_2 = norm_bound`."""
        assert self.norm_bound is not None
        # One common scale: the bound ties those of the columns together.
        longest = float(np.linalg.norm(pairs.difference, axis=1).max())
        if self.norm_bound * longest > LARGEST_MARGIN:
            raise ValueError(
                f"norm_bound is {self.norm_bound!r} and the longest compared difference is "
                f"{longest:.6g}; where the bound holds the estimate, their product must be at "
                f"most {LARGEST_MARGIN:g}, above which exp(-margin) underflows"
            )
        scaled = pairs._replace(difference=pairs.difference / longest)
        theta, step = logistic.minimize(
            scaled, start * longest, np.zeros(len(start)), self.norm_bound * longest
        )
        return theta / longest, step

    def _certificate(self, counts: PairCounts, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the (d,) violations of the KKT conditions and what is allowed of each."""
        # Over the rows as counted and the reward's own differences, apart from the solver's pairs.
        gradient = (self.ridge or 0.0) * theta
        size = np.zeros(len(theta))
        for block in blocks(len(counts.count)):
            x, y, z = counts.prompt[block], counts.winner[block], counts.loser[block]
            towards_loser = self.features[x, z] - self.features[x, y]
            lost = counts.count[block] * expit(towards_loser @ theta)
            gradient += lost @ towards_loser
            size += counts.count[block] @ np.abs(towards_loser)
        if self.norm_bound is None:
            return np.abs(gradient), _KKT_PER_COMPARISON * (size + (self.ridge or 0.0) * abs(theta))
        norm = float(np.linalg.norm(theta))
        if norm >= self.norm_bound * (1 - 1e-12):
            gradient += max(0.0, -float(gradient @ theta) / norm**2) * theta
        return np.abs(gradient), np.full(len(theta), _KKT_PER_COMPARISON * size.max())


def _separated(counts: PairCounts, features: FloatArray, direction: FloatArray) -> SeparationError:
    """Return the error that names the direction and a comparison that it separates most."""
    score = features @ direction
    margin = score[counts.prompt, counts.winner] - score[counts.prompt, counts.loser]
    row = int(margin.argmax())
    prompt, winner, loser = (
        int(column[row]) for column in (counts.prompt, counts.winner, counts.loser)
    )
    shown = np.array2string(direction, precision=3, threshold=8, separator=", ")
    return SeparationError(
        f"the maximum likelihood parameter does not exist: along {shown} no comparison is "
        f"contradicted and some are separated, most of all response {winner} over {loser} at "
        f"prompt {prompt}; bound the parameter with Linear(norm_bound=...) or regularize it with "
        "Linear(ridge=...)",
        prompt,
        (winner, loser),
        direction,
    )


def _failure(violation: FloatArray, allowed: FloatArray, step: float) -> str:
    worst = int((violation - allowed).argmax())
    return (
        f"no certified maximum: stationarity in parameter[{worst}] is violated by "
        f"{violation[worst]:.3g} (allowed {allowed[worst]:.3g}), last Newton step {step:.3g} in "
        f"margins (allowed {logistic.SMALL_STEP:g})"
    )
