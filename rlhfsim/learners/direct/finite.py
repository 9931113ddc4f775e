"""A finite class of policies: a direct loss is minimised by enumeration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.learners.direct.task import Minimum, Task
from rlhfsim.losses import table_rows
from rlhfsim.rewards.finite_class import TieBreak, first_or_random_of_tied


@dataclass(frozen=True, eq=False)
class FinitePolicies(Frozen):
    """The policies `pi_1, ..., pi_K`; the one with the smallest loss is learned.

    Losses that differ by no more than rounding count as tied.  `diagnostics` has `index`, `tied`
    and the `losses` of all policies, in nats; there is no residual.

    Parameters
    ----------
    policies : (K, X, Y) array of distributions
        Copied in and read-only.  Of two compared responses each policy must give one a positive
        probability, unless the loss is finite without.
    tie_break : function `(tied, rng) -> index`
        By default the first without a generator, and with one a uniformly drawn one.

    Raises
    ------
    ValueError
        For an array that is empty, not three-dimensional, or has rows that are no distributions;
        for a tie-break that is no function.  Minimising: for another shape than the data's.

    Source: arXiv 2407.13399 (finite policy classes).
    """

    policies: FloatArray
    tie_break: TieBreak = first_or_random_of_tied

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        policies = checks.as_real("policies", self.policies)
        if policies.ndim != 3 or policies.size == 0:
            raise ValueError(
                f"policies has shape {policies.shape}; it must be a non-empty (K, X, Y) array"
            )
        policies = checks.as_distributions("policies", policies)
        object.__setattr__(self, "policies", checks.frozen(policies))
        if not callable(self.tie_break):
            raise ValueError(
                f"tie_break is {self.tie_break!r:.80}; it must be a function of (tied, rng)"
            )

    @property
    def label(self) -> str:
        """How many policies."""
        return f"{len(self.policies)} policies"

    def minimize(self, task: Task, rng: np.random.Generator | None) -> Minimum:
        """Return the policy with the smallest loss; see the class."""
        if self.policies.shape[1:] != task.counts.shape:
            raise ValueError(
                f"policies has shape {self.policies.shape}; "
                f"its last two axes must be (X, Y) = {task.counts.shape}"
            )
        losses, rounding = self._losses(task)
        best = int(losses.argmin())
        with np.errstate(invalid="ignore"):
            close = losses <= losses[best] + (rounding + rounding[best])
        tied = np.nonzero(close | (losses == losses[best]))[0]
        index = self.tie_break(checks.frozen(tied), rng)
        if index not in tied:
            raise ValueError(
                f"tie_break returned {index!r:.80}; it must be one of the tied {tied.tolist()}"
            )
        notes = {"index": int(index), "tied": tied, "losses": losses, "unique": len(tied) == 1}
        policy, objective = self.policies[index], float(losses[index])
        return Minimum(policy, objective, None, True, None, notes)

    def _losses(self, task: Task) -> tuple[FloatArray, FloatArray]:
        """Return the (K,) mean losses and bounds on their rounding."""
        with np.errstate(divide="ignore"):
            logs = np.log(self.policies)
        pairs = []
        for k, log_policy in enumerate(logs):
            try:
                pairs.append((task.objective(log_policy), _rounding(task, log_policy)))
            except ValueError as error:
                raise ValueError(f"policies[{k}]: {error}") from error
        losses, rounding = np.array(pairs).T
        return losses, rounding


def _rounding(task: Task, log_policy: FloatArray) -> float:
    """Return by how much rounding may move the loss of one policy."""
    counts = task.counts
    rows = table_rows(
        task.loss,
        log_policy,
        task.log_reference,
        counts,
        weights=task.weights,
        reward=task.reward,
    )
    chosen, rejected = task.loss.slopes(rows)
    moves = np.abs(task.loss.values(rows))
    for slope, log, base in (
        (chosen, rows.chosen, rows.ref_chosen),
        (rejected, rows.rejected, rows.ref_rejected),
    ):
        # A rounded probability moves its logarithm by eps, and that is rounded itself.
        with np.errstate(invalid="ignore"):
            reach = np.abs(slope) * (2.0 + np.abs(log) + np.abs(base) + np.abs(rows.baseline))
        moves = moves + np.where(np.isfinite(reach), reach, 0.0)
    total = float((counts.count * np.where(np.isfinite(moves), moves, 0.0)).sum())
    total += counts.equal_pairs
    eps = float(np.finfo(np.float64).eps)
    return eps * (16.0 + float(np.log2(1 + counts.count.size))) * total / counts.total
