"""Direct losses: link, outer loss and extra terms, composed.

The loss of a comparison (x, y+, y-) is

    h = clip(beta [v(y+) phi(log w+) - v(y-) phi(log w-)]) - [r(y+) - r(y-)]
    loss = outer(h) + extra terms

where `log w = log pi - log p`, or `log pi` for a loss without a reference.  The clip is there only
for losses that have one, the weights v only for SimPO and POWER, the rewards r only for REBEL.

*Limits.*  A score that is beyond the floats is infinite.  Two that are infinite with the same sign
differ by 0 if their log ratios are equal, and infinitely in the direction of the larger ratio if
not.  A derivative is 0 where one of its factors is, whatever the others are.

*Kinks.*  The clip has derivative 1 on the closed interval and 0 outside, as `torch.clamp`; a hinge
has slope 0 at its kink, as `torch.relu`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Unpack

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.losses.extra import ExtraTerm
from rlhfsim.losses.links import Link
from rlhfsim.losses.outer import OuterLoss
from rlhfsim.losses.rows import (
    Columns,
    Pair,
    Rows,
    as_gap,
    as_labels,
    as_weights,
    policy_rows,
    reference_columns,
)


class _Comparison(NamedTuple):
    """What the outer loss sees of each row, and whether the clip lets it through."""

    h: FloatArray
    inside: FloatArray | float


@dataclass(frozen=True)
class DirectLoss:
    """A loss over comparisons that is a function of the policy alone.

    Parameters
    ----------
    link : Link
        `phi`.
    outer : OuterLoss
    beta : float
        Scale of the implicit reward `beta phi(w)`; positive.
    clip : float, optional
        Positive; the scaled difference is clipped to `[-clip, clip]`.
    extra : tuple of ExtraTerm
    name, source : str
        How the loss is called, and where it was published.
    reference_free : bool
        Whether the link sees log pi instead of `log pi - log p`.
    weighted : bool
        Whether responses may have weights v; needs a logarithmic link.
    needs_rewards : bool
        Whether the difference of given rewards is subtracted.

    Raises
    ------
    ValueError
        For a beta or clip that is not positive, members of the wrong kind, or a weighted loss
        whose link is not logarithmic.
    """

    link: Link
    outer: OuterLoss
    beta: float
    clip: float | None = None
    extra: tuple[ExtraTerm, ...] = ()
    name: str = "direct loss"
    source: str = ""
    reference_free: bool = False
    weighted: bool = False
    needs_rewards: bool = False

    def __post_init__(self) -> None:
        """Validate."""
        _require("link", self.link, Link)
        _require("outer", self.outer, OuterLoss)
        object.__setattr__(self, "beta", checks.positive_number("beta", self.beta))
        if self.clip is not None:
            object.__setattr__(self, "clip", checks.positive_number("clip", self.clip))
        object.__setattr__(self, "extra", tuple(self.extra))
        for i, term in enumerate(self.extra):
            _require(f"extra[{i}]", term, ExtraTerm)
        if self.weighted and not self.link.logarithmic:
            raise ValueError(
                f"link is {self.link!r}; weights need a logarithmic link, as others overflow"
            )

    def loss(
        self,
        policy_chosen_logps: ArrayLike,
        policy_rejected_logps: ArrayLike,
        ref_chosen_logps: ArrayLike | None = None,
        ref_rejected_logps: ArrayLike | None = None,
        **columns: Unpack[Columns],
    ) -> FloatArray:
        """Return the loss of each comparison.

        Parameters
        ----------
        policy_chosen_logps, policy_rejected_logps : (n,) arrays
            `log pi(y|x)`; `-inf` for a probability of 0, but for both responses of a row only if
            the link is finite at 0.
        ref_chosen_logps, ref_rejected_logps : (n,) arrays
            `log p(y|x)`, finite.  Not read by a loss without a reference.
        chosen_weights, rejected_weights : (n,) arrays, optional
            Positive weights v of a weighted loss; 1 by default.
        chosen_rewards, rejected_rewards : (n,) arrays
            Rewards r, for a loss that needs them.
        labels : (n,) array, optional
            Probability l that the chosen response is the better one:
            `l outer(h) + (1 - l) outer(-h)`.  Extra terms do not see it.

        Returns
        -------
        (n,) array

        Raises
        ------
        ValueError
            For columns that are missing, not read by this loss, of the wrong shape or out of
            range.
        """
        policy = policy_chosen_logps, policy_rejected_logps
        return self.values(self._rows(policy, (ref_chosen_logps, ref_rejected_logps), columns))

    __call__ = loss

    def gradient(
        self,
        policy_chosen_logps: ArrayLike,
        policy_rejected_logps: ArrayLike,
        ref_chosen_logps: ArrayLike | None = None,
        ref_rejected_logps: ArrayLike | None = None,
        **columns: Unpack[Columns],
    ) -> tuple[FloatArray, FloatArray]:
        """Return the derivative of each row's loss in its two policy log-probabilities.

        Parameters and errors are those of `loss`.

        Returns
        -------
        (n,) array, (n,) array
            In `policy_chosen_logps` and in `policy_rejected_logps`.
        """
        policy = policy_chosen_logps, policy_rejected_logps
        return self.slopes(self._rows(policy, (ref_chosen_logps, ref_rejected_logps), columns))

    def require_columns(self, *, weights: bool, rewards: bool) -> None:
        """Raise unless the columns that are given are the ones that this loss reads."""
        if weights and not self.weighted:
            raise ValueError(f"weights are given; {self.name} has none")
        if rewards and not self.needs_rewards:
            raise ValueError(f"rewards are given; {self.name} reads none")
        if self.needs_rewards and not rewards:
            raise ValueError(f"rewards are missing; {self.name} needs those of both responses")

    @property
    def compares_zeros(self) -> bool:
        """Whether two responses of probability 0 can be compared: the link is finite at 0."""
        return bool(np.isfinite(self.link.value(np.array([-np.inf]))[0]))

    # ---- the composition, over columns that were checked ------------------------------------

    def difference(self, rows: Rows) -> FloatArray:
        """Return (n,) h, the argument of the outer loss."""
        return self._compare(rows).h

    def values(self, rows: Rows) -> FloatArray:
        """Return the (n,) losses of columns that are not checked."""
        h = self._compare(rows).h
        total = self.outer.value(h)
        if rows.label is not None:
            flipped = self.outer.value(-h)
            total = _times(rows.label, total) + _times(1.0 - rows.label, flipped)
        for term in self.extra:
            total = total + term.values(rows)
        return total

    def slopes(self, rows: Rows) -> tuple[FloatArray, FloatArray]:
        """Return the (n,) derivatives in `rows.chosen` and `rows.rejected`, not checked."""
        h, inside = self._compare(rows)
        outer = self.outer.slope(h)
        if rows.label is not None:
            flipped = self.outer.slope(-h)
            outer = _times(rows.label, outer) - _times(1.0 - rows.label, flipped)
        outer = self.beta * _times(np.asarray(inside, dtype=np.float64), outer)
        up, down = rows.log_ratios()
        chosen = _times(outer, rows.chosen_weight * self.link.slope(up))
        rejected = -_times(outer, rows.rejected_weight * self.link.slope(down))
        for term in self.extra:
            more_chosen, more_rejected = term.slopes(rows)
            chosen, rejected = chosen + more_chosen, rejected + more_rejected
        return chosen, rejected

    def tied_value(self) -> float:
        """Return the loss of a row with `y+ = y-`, without the extra terms."""
        return float(self.outer.value(np.zeros(1))[0])

    def _compare(self, rows: Rows) -> _Comparison:
        up, down = rows.log_ratios()
        with np.errstate(over="ignore", invalid="ignore"):
            first = rows.chosen_weight * self.link.value(up)
            second = rows.rejected_weight * self.link.value(down)
            gap = np.where(first == second, _direction(first, up - down), first - second)
            h = self.beta * gap
        if self.clip is None:
            return _Comparison(h - rows.reward_gap, 1.0)
        inside = np.where(np.abs(h) <= self.clip, 1.0, 0.0)
        return _Comparison(np.clip(h, -self.clip, self.clip) - rows.reward_gap, inside)

    def _rows(self, policy: tuple[ArrayLike, ArrayLike], reference: Pair, columns: Columns) -> Rows:
        """Return the columns, checked."""
        weights = columns.get("chosen_weights"), columns.get("rejected_weights")
        rewards = columns.get("chosen_rewards"), columns.get("rejected_rewards")
        self.require_columns(
            weights=any(column is not None for column in weights),
            rewards=any(column is not None for column in rewards),
        )
        rows = policy_rows(*policy, two_zeros=self.compares_zeros)
        n = rows.chosen.size
        labels = columns.get("labels")
        if not self.reference_free:
            ref_chosen, ref_rejected = reference_columns(self.name, reference, n)
            rows = rows._replace(ref_chosen=ref_chosen, ref_rejected=ref_rejected)
        return rows._replace(
            chosen_weight=as_weights("chosen_weights", weights[0], n),
            rejected_weight=as_weights("rejected_weights", weights[1], n),
            reward_gap=as_gap("chosen_rewards", "rejected_rewards", rewards, n),
            label=None if labels is None else as_labels("labels", labels, n),
        )


def _require(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r:.80}; it must be of class {kind.__name__}")


def _direction(score: FloatArray, log_ratios: FloatArray) -> FloatArray:
    """Return the difference of two equal scores: 0, or infinite where both overflowed."""
    return np.where(np.isinf(score) & (log_ratios != 0), np.sign(log_ratios) * np.inf, 0.0)


def _times(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the product, which is 0 where either factor is."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        return np.where((first == 0) | (second == 0), 0.0, first * second)
