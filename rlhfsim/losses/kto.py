"""KTO: responses are judged one by one, against a neutral log ratio instead of each other.

    loss(desirable)   = lambda_D [1 - sigma(beta (log w - z))]
    loss(undesirable) = lambda_U [1 - sigma(beta (z - log w))]

The baseline z stands for `KL(pi || p)`; no derivative is taken through it.  Trainers estimate it
from the batch, `max(0, mean log w)` over responses that are paired with other prompts.

Source: arXiv 2402.01306, section 4 (eq. 7 of its first version).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.losses.rows import (
    Rows,
    as_column,
    as_log_probabilities,
    policy_rows,
    reference_columns,
)


@dataclass(frozen=True)
class KTO:
    """The loss of single responses, and of pairs as the sum over their two responses.

    Parameters
    ----------
    beta : float
        Positive.
    desirable_weight, undesirable_weight : float
        `lambda_D` and `lambda_U`; positive.
    name, source : str

    Source: arXiv 2402.01306, section 4 (eq. 7 of its first version).
    """

    beta: float
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    name: str = "KTO"
    source: str = "arXiv 2402.01306"

    def __post_init__(self) -> None:
        """Validate."""
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            object.__setattr__(self, name, checks.positive_number(name, getattr(self, name)))

    def unpaired_loss(
        self,
        policy_logps: ArrayLike,
        ref_logps: ArrayLike,
        desirable: ArrayLike,
        *,
        baseline: ArrayLike,
    ) -> FloatArray:
        """Return the loss of each response.

        Parameters
        ----------
        policy_logps, ref_logps : (n,) arrays
            `log pi(y|x)`, `-inf` for a probability of 0, and `log p(y|x)`, finite.
        desirable : (n,) array of bool
        baseline : float or (n,) array
            z: for example the exact `KL(pi || p)` of the prompt, or `batch_baseline`.

        Returns
        -------
        (n,) array

        Raises
        ------
        ValueError
            For columns of the wrong shape or out of range.
        """
        log_ratio, wanted, z = _unpaired(policy_logps, ref_logps, desirable, baseline)
        return np.where(wanted, self._wanted(log_ratio, z), self._unwanted(log_ratio, z))

    def unpaired_gradient(
        self,
        policy_logps: ArrayLike,
        ref_logps: ArrayLike,
        desirable: ArrayLike,
        *,
        baseline: ArrayLike,
    ) -> FloatArray:
        """Return the (n,) derivatives in `policy_logps` of the losses, the baseline held fixed.

        Parameters and errors are those of `unpaired_loss`.
        """
        log_ratio, wanted, z = _unpaired(policy_logps, ref_logps, desirable, baseline)
        slope = self._bell(log_ratio, z)
        return np.where(wanted, -self.desirable_weight, self.undesirable_weight) * slope

    def loss(
        self,
        policy_chosen_logps: ArrayLike,
        policy_rejected_logps: ArrayLike,
        ref_chosen_logps: ArrayLike,
        ref_rejected_logps: ArrayLike,
        *,
        baseline: ArrayLike | None = None,
    ) -> FloatArray:
        """Return the loss of each pair: the chosen response desirable, the rejected one not.

        Without a baseline, that of the chosen responses is estimated from the rejected half of
        the batch and the other way round, as the first trainers did; their loss is the mean over
        the 2n responses, half the mean of this.

        Parameters
        ----------
        policy_chosen_logps, policy_rejected_logps : (n,) arrays
        ref_chosen_logps, ref_rejected_logps : (n,) arrays
        baseline : float or (n,) array, optional

        Returns
        -------
        (n,) array

        Raises
        ------
        ValueError
            For columns of the wrong shape or out of range.
        """
        policy = policy_chosen_logps, policy_rejected_logps
        up, down, z_up, z_down = self._paired(
            policy, (ref_chosen_logps, ref_rejected_logps), baseline
        )
        return self._wanted(up, z_up) + self._unwanted(down, z_down)

    __call__ = loss

    def gradient(
        self,
        policy_chosen_logps: ArrayLike,
        policy_rejected_logps: ArrayLike,
        ref_chosen_logps: ArrayLike,
        ref_rejected_logps: ArrayLike,
        *,
        baseline: ArrayLike | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return the derivatives of each pair's loss, the baselines held fixed; see `loss`."""
        policy = policy_chosen_logps, policy_rejected_logps
        up, down, z_up, z_down = self._paired(
            policy, (ref_chosen_logps, ref_rejected_logps), baseline
        )
        chosen = -self.desirable_weight * self._bell(up, z_up)
        return chosen, self.undesirable_weight * self._bell(down, z_down)

    @property
    def compares_zeros(self) -> bool:
        """True: the two responses of a pair are judged apart."""
        return True

    def values(self, rows: Rows) -> FloatArray:
        """Return the (n,) losses of pairs that are not checked, with `rows.baseline`."""
        up, down = rows.log_ratios()
        return self._wanted(up, rows.baseline) + self._unwanted(down, rows.baseline)

    def slopes(self, rows: Rows) -> tuple[FloatArray, FloatArray]:
        """Return the (n,) derivatives in `rows.chosen` and `rows.rejected`, not checked."""
        up, down = rows.log_ratios()
        chosen = -self.desirable_weight * self._bell(up, rows.baseline)
        return chosen, self.undesirable_weight * self._bell(down, rows.baseline)

    def _wanted(self, log_ratio: FloatArray, z: FloatArray | float) -> FloatArray:
        return self.desirable_weight * expit(self.beta * (z - log_ratio))

    def _unwanted(self, log_ratio: FloatArray, z: FloatArray | float) -> FloatArray:
        return self.undesirable_weight * expit(self.beta * (log_ratio - z))

    def _bell(self, log_ratio: FloatArray, z: FloatArray | float) -> FloatArray:
        h = self.beta * (log_ratio - z)
        return self.beta * (expit(h) * expit(-h))

    def _paired(
        self,
        policy: tuple[ArrayLike, ArrayLike],
        reference: tuple[ArrayLike, ArrayLike],
        baseline: ArrayLike | None,
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return the log ratios of the two responses and their baselines."""
        rows = policy_rows(*policy, two_zeros=True)
        n = rows.chosen.size
        ref_chosen, ref_rejected = reference_columns(self.name, reference, n)
        up, down = rows.chosen - ref_chosen, rows.rejected - ref_rejected
        if baseline is None:
            return up, down, np.asarray(batch_baseline(down)), np.asarray(batch_baseline(up))
        z = _baseline(baseline, n)
        return up, down, z, z


def batch_baseline(log_ratios: FloatArray) -> float:
    """Return `max(0, mean log w)`, the trainers' estimate of `KL(pi || p)` from a batch.

    Parameters
    ----------
    log_ratios : (n,) array
        `log w` of the responses of the batch; finite.

    Source: arXiv 2402.01306, section 4.
    """
    return max(0.0, float(as_column("log_ratios", log_ratios).mean()))


def _unpaired(
    policy_logps: ArrayLike, ref_logps: ArrayLike, desirable: ArrayLike, baseline: ArrayLike
) -> tuple[FloatArray, BoolArray, FloatArray]:
    policy = as_log_probabilities("policy_logps", policy_logps, zero=True)
    reference = as_log_probabilities("ref_logps", ref_logps, policy.size)
    wanted = np.asarray(desirable)
    if wanted.dtype.kind != "b" or wanted.shape != policy.shape:
        raise ValueError(
            f"desirable has dtype {wanted.dtype} and shape {wanted.shape}; "
            f"it must be an array of bool of shape {policy.shape}"
        )
    return policy - reference, wanted, _baseline(baseline, policy.size)


def _baseline(value: ArrayLike, size: int) -> FloatArray:
    z = checks.as_real("baseline", value)
    if z.ndim and z.shape != (size,):
        raise ValueError(
            f"baseline has shape {z.shape}; it must be a number or have shape ({size},)"
        )
    return z
