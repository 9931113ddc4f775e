"""Confidence ellipsoids around linear fits, by rules that are settings of a learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rlhfsim import checks
from rlhfsim.data import PairCounts
from rlhfsim.rewards import Linear, RewardFit
from rlhfsim.rewards.confidence import Ellipsoid, asymptotic_ellipsoid, ellipsoid
from rlhfsim.rewards.confidence.base import as_level
from rlhfsim.rewards.features import design_covariance


@runtime_checkable
class Region(Protocol):
    """What `PessimisticMLE` asks of a rule."""

    def around(self, data: PairCounts, model: Linear, fit: RewardFit) -> Ellipsoid:
        """Return the ellipsoid around a fit of `model` to `data`."""
        ...


@dataclass(frozen=True)
class FixedRadius:
    """`{theta : ||theta - theta_hat||_Sigma <= radius}`, `Sigma = lambda I + sum_i d_i d_i'`.

    Parameters
    ----------
    radius : float
        c, not negative; no level is claimed.
    regularization : float
        lambda, positive, in squared units of the features.

    Source: arXiv 2301.11270; arXiv 2312.11456.
    """

    radius: float
    regularization: float = 1.0

    def __post_init__(self) -> None:
        """Validate."""
        checks.positive_number("radius", self.radius, zero=True)
        checks.positive_number("regularization", self.regularization)

    def around(self, data: PairCounts, model: Linear, fit: RewardFit) -> Ellipsoid:
        """Return the ellipsoid; see the class."""
        assert fit.parameter is not None
        sigma = design_covariance(data, model.features, self.regularization)
        return Ellipsoid(fit.parameter, sigma, self.radius, model.features)


@dataclass(frozen=True)
class HighProbability:
    """The ellipsoid that contains `theta*` with probability at least `1 - delta`, for every n.

    Parameters
    ----------
    delta : float in (0, 1)
    norm_bound, regularization, reward_gap : float, optional
        As for `rlhfsim.rewards.confidence.ellipsoid`, which checks them when data are fitted.

    Source: `rlhfsim.rewards.confidence.linear`, with its proof; arXiv 2301.11270, lemma 3.1.
    """

    delta: float
    norm_bound: float | None = None
    regularization: float | None = None
    reward_gap: float | None = None

    def __post_init__(self) -> None:
        """Validate."""
        as_level(self.delta)

    def around(self, data: PairCounts, model: Linear, fit: RewardFit) -> Ellipsoid:
        """Return the ellipsoid; see the class."""
        return ellipsoid(
            data,
            model,
            fit,
            self.delta,
            norm_bound=self.norm_bound,
            regularization=self.regularization,
            reward_gap=self.reward_gap,
        )


@dataclass(frozen=True)
class Asymptotic:
    """Wald's ellipsoid, which contains `theta*` with probability tending to `1 - delta`.

    Parameters
    ----------
    delta : float in (0, 1)

    Source: `rlhfsim.rewards.confidence.asymptotic_ellipsoid`; Wald 1943.
    """

    delta: float

    def __post_init__(self) -> None:
        """Validate."""
        as_level(self.delta)

    def around(self, data: PairCounts, model: Linear, fit: RewardFit) -> Ellipsoid:
        """Return the ellipsoid; see the class."""
        return asymptotic_ellipsoid(model, fit, self.delta)


def require_region(region: Any) -> None:
    """Raise unless `region` is a rule for ellipsoids."""
    if isinstance(region, type) or not isinstance(region, Region):
        raise ValueError(
            f"confidence is {region!r:.80}; it must be a rule for an ellipsoid, "
            "for example HighProbability(0.05)"
        )
