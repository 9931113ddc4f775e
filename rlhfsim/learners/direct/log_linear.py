"""Log-linear policies: a direct loss is minimised over the parameter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.learners.direct.bradley_terry import is_likelihood, likelihood_data
from rlhfsim.learners.direct.descent import Descent, descend
from rlhfsim.learners.direct.linear_hinge import minimize_linear_hinge
from rlhfsim.learners.direct.task import Minimum, Task
from rlhfsim.losses import KTO, DirectLoss, Hinge, log_policy_gradient
from rlhfsim.rewards import Linear, fit_reward
from rlhfsim.rewards.features import as_features, require_shape

#: Share of its size that a gradient may have at a minimum.
_GRADIENT = 1e-8


@dataclass(frozen=True, eq=False)
class LogLinearPolicies(Frozen):
    """`pi_theta(y|x)` proportional to `p(y|x) exp(<theta, phi(x, y)>)`, for theta in `R^d`.

    * Logistic losses with the plain log link and reference (DPO, cDPO): logistic regression on
      differences of features, `Linear(features)`: global, or an error where it does not exist.
    * Hinge (SLiC): a linear program.
    * Others: BFGS and Newton's method from several starts.  With a log link and a convex outer
      loss the problem is convex in theta, so one start is enough and `global` is True; otherwise
      (chiPO, f-DPO) `global` is False.

    `diagnostics` has `parameter`, theta, and where there were several starts `values`, the losses
    that they led to.  The residual is the largest derivative of the mean loss in theta.

    Parameters
    ----------
    features : (X, Y, d) array
        `phi`, finite; copied in and read-only.
    starts : int
        How many starts, for losses that are not convex in theta: 0, and with a generator normal
        ones, without one the two signs of each coordinate in turn.  A start is a unit step, with
        features scaled to unit root mean square.
    norm_bound : float, optional
        `||theta||_2` is at most this; only for DPO and cDPO.

    Raises
    ------
    ValueError
        For bad features, starts below 1, a bound that is not positive.  Minimising: for a loss
        that needs other policies, with the reason.
    MLEDoesNotExistError
        Minimising, for DPO and cDPO, where no theta attains the infimum.

    Source: theory of DPO over log-linear policies, arXiv 2305.18290, 2407.13399.
    """

    features: FloatArray
    starts: int = 8
    norm_bound: float | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        object.__setattr__(self, "features", as_features(self.features))
        object.__setattr__(self, "starts", checks.whole_number("starts", self.starts, least=1))
        if self.norm_bound is not None:
            bound = checks.positive_number("norm_bound", self.norm_bound)
            object.__setattr__(self, "norm_bound", bound)

    @property
    def label(self) -> str:
        """The number of features."""
        bound = "" if self.norm_bound is None else f" within {self.norm_bound:g}"
        return f"log-linear in {self.features.shape[2]} features{bound}"

    def minimize(self, task: Task, rng: np.random.Generator | None) -> Minimum:
        """Return the minimiser, or the best of those found; see the class."""
        loss = task.loss
        if isinstance(loss, KTO):
            raise ValueError(
                "KTO takes no derivative through its baseline, so over log-linear policies it has "
                "nothing to minimise; take TabularPolicies (its fixed point) or FinitePolicies"
            )
        require_shape(self.features, task.counts.shape)
        plain = loss.link.logarithmic and not loss.reference_free and loss.clip is None
        if is_likelihood(loss) and plain:
            return self._likelihood(task, loss)
        if self.norm_bound is not None:
            raise ValueError(
                f"norm_bound is {self.norm_bound!r}; it must be None for {loss.name}, whose "
                "minimum over a ball is not solved"
            )
        if isinstance(loss.outer, Hinge):
            return self._hinge(task, loss)
        return self._descend(task, loss, rng)

    def log_policy(self, task: Task, theta: FloatArray) -> FloatArray:
        """Return (X, Y) log pi_theta."""
        logits = task.log_reference + self.features @ theta
        return np.asarray(logits - logsumexp(logits, axis=1, keepdims=True))

    def gradient(self, task: Task, theta: FloatArray) -> FloatArray:
        """Return the (d,) derivative of the mean loss in theta."""
        logs = self.log_policy(task, theta)
        table = log_policy_gradient(
            task.loss,
            logs,
            task.log_reference,
            task.counts,
            weights=task.weights,
            reward=task.reward,
        )
        free = table - np.exp(logs) * table.sum(axis=1, keepdims=True)
        return np.einsum("xy,xyd->d", free, self.features)

    def _minimum(self, task: Task, theta: FloatArray, residual: float, proven: bool) -> Minimum:
        logs = self.log_policy(task, theta)
        notes = {"parameter": theta}
        return Minimum(np.exp(logs), task.objective(logs), residual, proven, None, notes)

    def _likelihood(self, task: Task, loss: DirectLoss) -> Minimum:
        """Solve by logistic regression for `beta theta`."""
        bound = None if self.norm_bound is None else self.norm_bound * loss.beta
        fit = fit_reward(likelihood_data(task), Linear(self.features, norm_bound=bound))
        assert fit.parameter is not None
        assert fit.gradient_norm is not None
        residual = loss.beta * fit.gradient_norm / task.rows
        return self._minimum(task, fit.parameter / loss.beta, residual, True)

    def _hinge(self, task: Task, loss: DirectLoss) -> Minimum:
        weighted = task.weights is not None or not loss.link.logarithmic
        if loss.extra or weighted or loss.clip is not None:
            raise ValueError(
                f"outer is {loss.outer!r} and has kinks; over log-linear policies it is solved "
                "only with a log link and without weights, clip or extra terms"
            )
        theta, residual, gap = minimize_linear_hinge(task, loss, self.features)
        minimum = self._minimum(task, theta, residual, gap <= 1e-8)
        return minimum._replace(notes=minimum.notes | {"dual_gap": gap})

    def _descend(self, task: Task, loss: DirectLoss, rng: np.random.Generator | None) -> Minimum:
        convex = (
            loss.link.logarithmic
            and loss.outer.convex
            and task.weights is None
            and loss.clip is None
        )
        rms = np.sqrt((self.features**2).mean(axis=(0, 1)))
        scale = np.where(rms > 0, rms, 1.0)
        found = [
            descend(
                lambda t: task.objective(self.log_policy(task, t / scale)),
                lambda t: self.gradient(task, t / scale) / scale,
                start,
            )
            for start in _starts(len(scale), 1 if convex else self.starts, rng)
        ]
        values = np.array([one.value for one in found])
        best = found[int(values.argmin())]
        residual = float(np.abs(self.gradient(task, best.point / scale)).max())
        minimum = self._minimum(task, best.point / scale, residual, convex)
        notes = minimum.notes | ({} if convex else {"values": values})
        failure = _failure(best)
        return minimum._replace(proven=convex and not failure, notes=notes, failure=failure)


def _starts(size: int, number: int, rng: np.random.Generator | None) -> list[FloatArray]:
    """Return the points from which the parameter is sought."""
    starts = [np.zeros(size)]
    for k in range(number - 1):
        if rng is not None:
            starts.append(rng.standard_normal(size))
        else:
            length, place = 1.0 + k // (2 * size), (k // 2) % size
            starts.append(np.where(np.arange(size) == place, (-1.0) ** k * length, 0.0))
    return starts


def _failure(best: Descent) -> str:
    """Return what is wrong with a certificate; empty if nothing."""
    if best.gradient <= _GRADIENT and best.step <= 1e-4 * (1.0 + np.abs(best.point).max()):
        return ""
    return (
        f"no certified minimum: the gradient is {best.gradient:.3g} (allowed {_GRADIENT:g}) and "
        f"Newton's step {best.step:.3g}, in units of the features' root mean square; where the "
        "step is long the loss may fall for ever, as no parameter attains its infimum"
    )
