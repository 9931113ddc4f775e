"""Demonstration-regularized RLHF: behavior cloning of an expert, then RLHF around the clone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import DemonstrationData, PairCounts, PreferenceData
from rlhfsim.divergences import KL
from rlhfsim.learners.base import Learned, as_problem
from rlhfsim.learners.explicit import require_model
from rlhfsim.learners.rlhf import RLHF
from rlhfsim.rewards import RewardModel, Tabular


def behavior_cloning(
    demonstrations: DemonstrationData,
    *,
    smoothing: float = 1.0,
    available: ArrayLike | None = None,
) -> FloatArray:
    """Return `(N(x, y) + kappa) / (N(x) + kappa A(x))`, the smoothed shares of demonstrations.

    `A(x)` is the number of responses of the prompt; with kappa = 1 this is the estimate of the
    source, the maximum of the likelihood with `kappa sum_y log pi(y|x)` added.

    Parameters
    ----------
    demonstrations : DemonstrationData
    smoothing : float
        `kappa`, at least 0.
    available : (X, Y) array of bool, optional
        The responses that a prompt has, all by default; demonstrated ones count as available.

    Returns
    -------
    (X, Y) array of distributions

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value; without smoothing, for a prompt without
        demonstrations; for a prompt without responses.

    Source: arXiv 2310.17303 (behavior cloning in finite models).
    """
    require_demonstrations(demonstrations)
    kappa = checks.positive_number("smoothing", smoothing, zero=True)
    shape = demonstrations.n_prompts, demonstrations.n_responses
    cells = demonstrations.prompt * shape[1] + demonstrations.response
    count = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    mask = np.ones(count.shape, dtype=bool) if available is None else np.asarray(available)
    if mask.dtype != np.bool_ or mask.shape != count.shape:
        raise ValueError(
            f"available has dtype {mask.dtype} and shape {mask.shape}; "
            f"it must be a boolean array of shape {count.shape}"
        )
    weight = np.where(mask | (count > 0), count + kappa, 0.0)
    total = weight.sum(axis=1, keepdims=True)
    if not (total > 0).all():
        prompt = int(total[:, 0].argmin())
        reason = "smoothing must be positive" if mask[prompt].any() else "it has no response"
        raise ValueError(f"demonstrations has no row of prompt {prompt}; {reason}")
    return weight / total


@dataclass(frozen=True, eq=False)
class DemonstrationRegularized:
    """`argmax_pi E_pi[r^] - beta KL(pi || pi_BC)`, `pi_BC` cloned from demonstrations.

    `pi_BC` is `behavior_cloning` of the demonstrations, smoothed over the responses that the
    reference gives or the expert showed; the reference enters in no other way, it is the policy
    that the compared responses were drawn from.

    What is learned: as by `RLHF` with `pi_BC` in place of the reference, so that `kl` and
    `chi_squared` of `diagnostics` are relative to `pi_BC`; there, also the (X, Y)
    `behavior_policy` and the (X,) number of `demonstrations`.

    Parameters
    ----------
    demonstrations : DemonstrationData
        Of the shape of the preference data.
    beta : float
        Positive, in reward units.
    smoothing : float
        `kappa` of the behavior cloning, at least 0.
    model : RewardModel

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.  Fitting raises what `behavior_cloning`,
        `fit_reward` and `solve` raise, and for demonstrations of another shape than the data.

    Source: arXiv 2310.17303.
    """

    demonstrations: DemonstrationData
    beta: float
    smoothing: float = 1.0
    model: RewardModel = field(default_factory=Tabular)

    def __post_init__(self) -> None:
        """Validate."""
        require_demonstrations(self.demonstrations)
        checks.positive_number("beta", self.beta)
        checks.positive_number("smoothing", self.smoothing, zero=True)
        require_model(self.model)

    @property
    def name(self) -> str:
        """`demonstration-regularized RLHF`."""
        return "demonstration-regularized RLHF"

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Learned:
        """Return the policy; see the class.  `rng` breaks the ties of a finite reward class."""
        problem = as_problem(data, reference, prompt_dist)
        require_demonstrations(self.demonstrations, problem.shape)
        clone = behavior_cloning(
            self.demonstrations, smoothing=self.smoothing, available=problem.reference > 0
        )
        learned = RLHF(self.beta, KL(), self.model).fit(
            problem.data, clone, prompt_dist=problem.prompt_dist, rng=rng
        )
        shown = np.bincount(self.demonstrations.prompt, minlength=len(clone))
        notes = {"behavior_policy": clone, "demonstrations": shown}
        return replace(learned, diagnostics=dict(learned.diagnostics) | notes)


def require_demonstrations(value: object, shape: tuple[int, int] | None = None) -> None:
    """Raise unless `demonstrations` are such data, and of the shape of the preferences if given."""
    if not isinstance(value, DemonstrationData):
        raise ValueError(
            f"demonstrations is a {type(value).__name__}; it must be a DemonstrationData"
        )
    if shape is not None and value.shape != shape:
        raise ValueError(
            f"demonstrations has shape {value.shape}; it must be that of the data, {shape}"
        )
