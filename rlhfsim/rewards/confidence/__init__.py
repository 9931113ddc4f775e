"""Confidence sets of rewards: likelihood ratio, ellipsoids of linear rewards, the bootstrap."""

from rlhfsim.rewards.confidence.base import ConfidenceSet, Minimum
from rlhfsim.rewards.confidence.bootstrap import Ensemble, bootstrap
from rlhfsim.rewards.confidence.ellipsoid import Ellipsoid
from rlhfsim.rewards.confidence.finite_likelihood import (
    FiniteLikelihoodSet,
    finite_likelihood_set,
)
from rlhfsim.rewards.confidence.likelihood_ratio import likelihood_ratio_set
from rlhfsim.rewards.confidence.linear import (
    asymptotic_ellipsoid,
    ellipsoid,
    estimation_radius,
    self_normalized_bound,
)
from rlhfsim.rewards.confidence.profile import ProfileError
from rlhfsim.rewards.confidence.tabular_likelihood import (
    TabularLikelihoodSet,
    tabular_likelihood_set,
    wilks_radius,
)

__all__ = [
    "ConfidenceSet",
    "Ellipsoid",
    "Ensemble",
    "FiniteLikelihoodSet",
    "Minimum",
    "ProfileError",
    "TabularLikelihoodSet",
    "asymptotic_ellipsoid",
    "bootstrap",
    "ellipsoid",
    "estimation_radius",
    "finite_likelihood_set",
    "likelihood_ratio_set",
    "self_normalized_bound",
    "tabular_likelihood_set",
    "wilks_radius",
]
