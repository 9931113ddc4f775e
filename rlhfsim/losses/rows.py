"""The columns that a direct loss reads, one entry per comparison, and their checks."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray

#: A log-probability may be this much above 0: as far as a sum of probabilities may be above 1.
LARGEST_LOG_PROBABILITY = checks.ROW_SUM_TOLERANCE


#: A column of each of the two responses, either of which may be missing.
Pair = tuple[ArrayLike | None, ArrayLike | None]


class Columns(TypedDict, total=False):
    """Columns that only some losses read; each an (n,) array."""

    chosen_weights: ArrayLike | None
    rejected_weights: ArrayLike | None
    chosen_rewards: ArrayLike | None
    rejected_rewards: ArrayLike | None
    labels: ArrayLike | None


class Rows(NamedTuple):
    """Columns of n comparisons; nothing is checked here."""

    #: (n,) `log pi(y+|x)` and `log pi(y-|x)`; `-inf` for a probability of 0.
    chosen: FloatArray
    rejected: FloatArray
    #: (n,) `log p(y+|x)` and `log p(y-|x)`, or 0 for a loss without a reference.
    ref_chosen: FloatArray | float = 0.0
    ref_rejected: FloatArray | float = 0.0
    #: (n,) weights of the two responses.
    chosen_weight: FloatArray | float = 1.0
    rejected_weight: FloatArray | float = 1.0
    #: (n,) `r(x, y+) - r(x, y-)`.
    reward_gap: FloatArray | float = 0.0
    #: (n,) probability that the chosen response is the better one; None for certainty.
    label: FloatArray | None = None
    #: (n,) the log ratio that counts as neutral, for KTO.
    baseline: FloatArray | float = 0.0

    def log_ratios(self) -> tuple[FloatArray, FloatArray]:
        """Return `log w(y+)` and `log w(y-)`."""
        return self.chosen - self.ref_chosen, self.rejected - self.ref_rejected


def as_log_probabilities(
    name: str, value: ArrayLike, size: int | None = None, *, zero: bool = False
) -> FloatArray:
    """Return an (n,) array of log-probabilities, of length `size` if given.

    With `zero`, `-inf` is allowed: the logarithm of a probability of 0.

    Raises
    ------
    ValueError
        For another shape, no entries, entries that are not numbers, not finite or positive.
    """
    array = np.asarray(value)
    masked = isinstance(value, np.ma.MaskedArray)
    if zero and array.dtype.kind == "f" and not masked:
        checks.as_real(name, np.where(np.isneginf(array), 0.0, array))
        floats = array.astype(np.float64, copy=False)
    else:
        floats = checks.as_real(name, value)
    _require_length(name, floats, size)
    rule = "log-probabilities must not be positive"
    _refuse(name, floats, floats > LARGEST_LOG_PROBABILITY, rule)
    return floats


def policy_rows(policy_chosen: ArrayLike, policy_rejected: ArrayLike, *, two_zeros: bool) -> Rows:
    """Return rows of checked policy columns; `two_zeros`: a row may have both probabilities 0."""
    chosen = as_log_probabilities("policy_chosen_logps", policy_chosen, zero=True)
    rejected = as_log_probabilities(
        "policy_rejected_logps", policy_rejected, chosen.size, zero=True
    )
    both = np.isneginf(chosen) & np.isneginf(rejected)
    if both.any() and not two_zeros:
        raise ValueError(
            f"policy_chosen_logps[{int(both.argmax())}] is -inf, and so is policy_rejected_logps; "
            "two responses of probability 0 cannot be compared"
        )
    return Rows(chosen, rejected)


def reference_columns(loss: str, columns: Pair, size: int) -> tuple[FloatArray, FloatArray]:
    """Return the two checked reference columns, which `loss` needs."""
    names = "ref_chosen_logps", "ref_rejected_logps"
    for name, column in zip(names, columns, strict=True):
        if column is None:
            raise ValueError(f"{name} is missing; {loss} compares the policy with a reference")
    chosen, rejected = (
        as_log_probabilities(name, column, size)
        for name, column in zip(names, columns, strict=True)
        if column is not None
    )
    return chosen, rejected


def as_gap(first: str, second: str, columns: Pair, size: int) -> FloatArray | float:
    """Return the (n,) difference of two columns of finite numbers, 0 if neither is given."""
    if columns[0] is None and columns[1] is None:
        return 0.0
    for name, column in zip((first, second), columns, strict=True):
        if column is None:
            raise ValueError(f"{name} is missing; both of {first} and {second} are needed")
    minuend, subtrahend = (
        as_column(name, column, size)
        for name, column in zip((first, second), columns, strict=True)
        if column is not None
    )
    return minuend - subtrahend


def as_column(name: str, value: ArrayLike, size: int | None = None) -> FloatArray:
    """Return an (n,) array of finite numbers, of length `size` if given."""
    column = checks.as_real(name, value)
    _require_length(name, column, size)
    return column


def as_weights(name: str, value: ArrayLike | None, size: int) -> FloatArray | float:
    """Return an (n,) array of positive weights, or 1 for None."""
    if value is None:
        return 1.0
    column = checks.as_positive(name, value)
    _require_length(name, column, size)
    return column


def as_labels(name: str, value: ArrayLike, size: int) -> FloatArray:
    """Return an (n,) array of numbers in [0, 1]."""
    column = as_column(name, value, size)
    _refuse(name, column, (column < 0) | (column > 1), "labels must be in [0, 1]")
    return column


def _require_length(name: str, column: FloatArray, size: int | None) -> None:
    if column.ndim != 1 or column.size == 0:
        raise ValueError(f"{name} has shape {column.shape}; it must be a non-empty (n,) array")
    if size is not None and column.size != size:
        raise ValueError(f"{name} has shape {column.shape}; it must have shape ({size},)")


def _refuse(name: str, column: FloatArray, bad: BoolArray, rule: str) -> None:
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(f"{name}[{first}] is {column[first].item()!r}; {rule}")
