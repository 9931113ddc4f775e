"""What online learning of linear rewards happens in: the bandit, features, strengths, labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.online.linear.layout import LOG_ZERO
from rlhfsim.preferences import BradleyTerry, PreferenceModel
from rlhfsim.preferences.base import require_model
from rlhfsim.rewards.features import as_features, require_shape


@dataclass(frozen=True, eq=False)
class LinearProblem(Frozen):
    """A bandit whose rewards are learned as `<theta, phi(x, y)>` from comparisons made on the way.

    Parameters
    ----------
    bandit : ContextualBandit
        Prompts, reference and the true reward, which judges; it need not be linear.
    features : (X, Y, d) array
        phi.
    beta : float
        Of `J_beta(pi) = J(pi) - beta E_x KL(pi || reference)`; positive, in reward units.
    ridge : float
        c of `Linear(features, ridge=c)`; positive, in comparisons times squared features.
    regularization : float, optional
        lambda of `Sigma = lambda I + sum_i d_i d_i'`; positive, `4 ridge` by default, as in
        `rewards.confidence.ellipsoid`.
    labels : PreferenceModel, optional
        Who wins; Bradley-Terry of the true reward by default.
    parameter : (d,) array, optional
        `theta*`, from which the error of the estimate is measured.

    Raises
    ------
    ValueError
        For bad input, by name, rule and value, and for parts of different shapes.

    Source: arXiv 2312.11456.
    """

    bandit: ContextualBandit
    features: FloatArray
    beta: float
    ridge: float = 1.0
    regularization: float | None = None
    labels: PreferenceModel | None = None
    parameter: FloatArray | None = None
    #: (X, Y) logarithms of the reference and of the regularized optimum.
    log_reference: FloatArray = field(init=False, repr=False)
    log_optimum: FloatArray = field(init=False, repr=False)
    #: (X, Y) what each response lacks to the best available one.
    shortfall: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        if not isinstance(self.bandit, ContextualBandit):
            raise ValueError(
                f"bandit is a {type(self.bandit).__name__}; it must be a ContextualBandit"
            )
        features = as_features(self.features)
        require_shape(features, self.bandit.shape)
        self._set("features", features)
        for name in ("beta", "ridge"):
            self._set(name, checks.positive_number(name, getattr(self, name)))
        if self.regularization is not None:
            weight = checks.positive_number("regularization", self.regularization)
            self._set("regularization", weight)
        if self.labels is not None:
            model = require_model("labels", self.labels)
            if model.shape != self.bandit.shape:
                raise ValueError(
                    f"labels has shape {model.shape}; it must have shape {self.bandit.shape}"
                )
        if self.parameter is not None:
            parameter = checks.as_real("parameter", self.parameter)
            if parameter.shape != features.shape[2:]:
                raise ValueError(
                    f"parameter has shape {parameter.shape}; it must be {features.shape[2:]}"
                )
            self._set("parameter", checks.frozen(parameter))
        self._derive()

    def _derive(self) -> None:
        bandit = self.bandit
        log_reference = log_of(bandit.reference)
        best = bandit.optimal_policy() > 0
        lost = bandit.reward[best][:, None] - bandit.reward
        if bandit.available is not None:
            lost = np.where(bandit.available, lost, 0.0)
        with np.errstate(over="ignore"):
            logs = log_reference - lost / self.beta
        if not np.isfinite(logs).all():
            raise ValueError(
                f"beta is {self.beta!r}; differences of rewards over it must be finite, and they "
                f"reach {lost.max():.6g}"
            )
        logs -= logs.max(axis=1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
        for name, value in (
            ("log_reference", log_reference), ("log_optimum", logs), ("shortfall", lost),
        ):  # fmt: skip
            self._set(name, checks.frozen(value))

    @property
    def weight(self) -> float:
        """The lambda of Sigma."""
        return 4.0 * self.ridge if self.regularization is None else self.regularization

    @property
    def law(self) -> PreferenceModel:
        """Who wins."""
        return BradleyTerry(self.bandit.reward) if self.labels is None else self.labels

    def around(self, reference: ArrayLike, prompt_dist: ArrayLike | None = None) -> LinearProblem:
        """Return the problem with another reference, and other prompts if they are given."""
        bandit = self.bandit
        p = checks.as_distributions(
            "reference", checks.as_matrix("reference", reference, bandit.shape)
        )
        rho = bandit.prompt_dist if prompt_dist is None else np.asarray(prompt_dist)
        if np.array_equal(p, bandit.reference) and np.array_equal(rho, bandit.prompt_dist):
            return self
        return replace(self, bandit=replace(bandit, reference=p, prompt_dist=rho))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def log_of(policy: FloatArray) -> FloatArray:
    """Return logarithms, with `LOG_ZERO` for that of 0."""
    return np.log(policy, out=np.full(policy.shape, LOG_ZERO), where=policy > 0)
