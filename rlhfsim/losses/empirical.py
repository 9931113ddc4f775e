"""Losses of tabular policies: means over the rows of a dataset, and their gradients.

The mean is over all rows.  A row with `y+ = y-` counts with its loss at `h = 0`, which does not
depend on the policy; it has no chosen response, so extra terms (and KTO) are 0 on it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts
from rlhfsim.losses.direct import DirectLoss
from rlhfsim.losses.kto import KTO
from rlhfsim.losses.rows import Rows, as_labels


def empirical_loss(
    loss: DirectLoss | KTO,
    policy: ArrayLike,
    reference: ArrayLike,
    counts: PairCounts | PreferenceData,
    *,
    weights: ArrayLike | None = None,
    reward: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> float:
    """Return the mean loss of a policy over a dataset, or its expectation over a law.

    `(1/n) sum_i loss(log pi(y+_i|x_i), log pi(y-_i|x_i), ...)`.  KTO's baseline is the exact
    `KL(pi(.|x) || p(.|x))`.

    Parameters
    ----------
    loss : DirectLoss or KTO
    policy, reference : (X, Y) arrays of distributions
        The reference positive on compared responses; a loss without a reference ignores it.
    counts : PairCounts or PreferenceData
    weights : (X, Y) array, optional
        Positive weights of responses, for SimPO (inverse lengths) and POWER.
    reward : (X, Y) array
        For REBEL.
    labels : (U,) array, optional
        Probability that the winner of each row of `counts` is the better one.

    Returns
    -------
    float
        `inf` where the policy has no mass on a chosen response and the loss is unbounded.

    Raises
    ------
    ValueError
        For tables of another shape than the data, rows that are no distributions, a policy that
        gives both responses of a comparison probability 0 where the link is infinite there, or
        tables that the loss does not read.
    """
    logs = _log_tables(policy, reference)
    return log_policy_loss(loss, *logs, counts, weights=weights, reward=reward, labels=labels)


def empirical_gradient(
    loss: DirectLoss | KTO,
    policy: ArrayLike,
    reference: ArrayLike,
    counts: PairCounts | PreferenceData,
    *,
    weights: ArrayLike | None = None,
    reward: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> FloatArray:
    """Return the gradient of `empirical_loss` in the table `log pi`, its entries taken as free.

    With softmax logits `theta` the chain rule gives `G - pi sum_y G`, G this gradient.  KTO's
    baseline is held fixed.  Parameters and errors are those of `empirical_loss`.

    Returns
    -------
    (X, Y) array
    """
    logs = _log_tables(policy, reference)
    return log_policy_gradient(loss, *logs, counts, weights=weights, reward=reward, labels=labels)


def log_policy_loss(
    loss: DirectLoss | KTO,
    log_policy: ArrayLike,
    log_reference: ArrayLike,
    counts: PairCounts | PreferenceData,
    *,
    weights: ArrayLike | None = None,
    reward: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> float:
    """Return `empirical_loss` of a table of log-probabilities, which need not be normalized.

    For probabilities below the floats, and for derivatives in free entries.

    Parameters
    ----------
    loss : DirectLoss or KTO
    log_policy, log_reference : (X, Y) arrays
        `-inf` for a probability of 0.
    counts, weights, reward, labels
        As for `empirical_loss`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        As `empirical_loss`, but for sums that are not 1.
    """
    counts = as_counts(counts)
    total = _total(counts)
    rows = table_rows(
        loss, log_policy, log_reference, counts, weights=weights, reward=reward, labels=labels
    )
    tied = loss.tied_value() if isinstance(loss, DirectLoss) else 0.0
    informative = float((counts.count * loss.values(rows)).sum())
    return (informative + (counts.equal_pairs * tied if counts.equal_pairs else 0.0)) / total


def log_policy_gradient(
    loss: DirectLoss | KTO,
    log_policy: ArrayLike,
    log_reference: ArrayLike,
    counts: PairCounts | PreferenceData,
    *,
    weights: ArrayLike | None = None,
    reward: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> FloatArray:
    """Return the gradient of `log_policy_loss` in the entries of `log_policy`.

    Parameters and errors are those of `log_policy_loss`.

    Returns
    -------
    (X, Y) array

    Raises
    ------
    OverflowError
        Where terms that are beyond the floats pull an entry both ways.
    """
    counts = as_counts(counts)
    total = _total(counts)
    rows = table_rows(
        loss, log_policy, log_reference, counts, weights=weights, reward=reward, labels=labels
    )
    chosen, rejected = loss.slopes(rows)
    with np.errstate(invalid="ignore"):
        table = _scattered(counts, counts.winner, counts.count * chosen)
        table = (table + _scattered(counts, counts.loser, counts.count * rejected)) / total
    if np.isnan(table).any():
        x, y = (int(i[0]) for i in np.nonzero(np.isnan(table)))
        raise OverflowError(
            f"gradient[{x}, {y}] is a difference of terms beyond the floats; "
            "clip the loss, or move the policy closer to the reference"
        )
    return table


def _log_tables(policy: ArrayLike, reference: ArrayLike) -> tuple[FloatArray, FloatArray]:
    pi = checks.as_distributions("policy", policy)
    p = checks.as_distributions("reference", reference)
    with np.errstate(divide="ignore"):
        return np.log(pi), np.log(p)


def _total(counts: PairCounts) -> float:
    total = float(counts.count.sum() + counts.equal_pairs)
    if total <= 0:
        raise ValueError(f"counts hold {total!r} comparisons; there must be some")
    return total


def table_rows(
    loss: DirectLoss | KTO,
    log_policy: ArrayLike,
    log_reference: ArrayLike,
    counts: PairCounts,
    *,
    weights: ArrayLike | None = None,
    reward: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> Rows:
    """Return the columns of the U distinct comparisons, which `loss.values` and others take.

    Parameters and errors are those of `log_policy_loss`.
    """
    x, winner, loser = counts.prompt, counts.winner, counts.loser
    logs = _as_logs("policy", log_policy, counts.shape)
    both = np.isneginf(logs[x, winner]) & np.isneginf(logs[x, loser])
    if both.any() and not loss.compares_zeros:
        i = int(both.argmax())
        raise ValueError(
            f"policy[{x[i]}, {winner[i]}] and policy[{x[i]}, {loser[i]}] are 0; "
            "two responses of probability 0 cannot be compared"
        )
    rows = Rows(logs[x, winner], logs[x, loser])
    if isinstance(loss, DirectLoss):
        loss.require_columns(weights=weights is not None, rewards=reward is not None)
        if labels is not None:
            rows = rows._replace(label=as_labels("labels", labels, x.size))
    elif not (weights is None and reward is None and labels is None):
        raise ValueError(f"{loss.name} reads no weights, reward or labels")
    if isinstance(loss, KTO) or not loss.reference_free:
        references = _as_logs("reference", log_reference, counts.shape)
        rows = _with_reference(rows, references, counts)
        if isinstance(loss, KTO):
            rows = rows._replace(baseline=_divergence(logs, references)[x])
    if weights is not None:
        table = checks.as_positive("weights", checks.as_matrix("weights", weights, counts.shape))
        rows = rows._replace(chosen_weight=table[x, winner], rejected_weight=table[x, loser])
    if reward is not None:
        table = checks.as_matrix("reward", reward, counts.shape)
        rows = rows._replace(reward_gap=table[x, winner] - table[x, loser])
    return rows


def _as_logs(name: str, value: ArrayLike, shape: tuple[int, int]) -> FloatArray:
    """Return an (X, Y) table of logarithms below `inf`."""
    array = np.asarray(value)
    if array.dtype.kind == "f" and not isinstance(value, np.ma.MaskedArray):
        checks.as_matrix(f"log_{name}", np.where(np.isneginf(array), 0.0, array), shape)
        return array.astype(np.float64, copy=False)
    return checks.as_matrix(f"log_{name}", value, shape)


def _with_reference(rows: Rows, references: FloatArray, counts: PairCounts) -> Rows:
    x = counts.prompt
    for side in (counts.winner, counts.loser):
        missing = np.isneginf(references[x, side])
        if missing.any():
            i = int(missing.argmax())
            raise ValueError(
                f"reference[{x[i]}, {side[i]}] is 0; it must be positive on compared responses"
            )
    return rows._replace(
        ref_chosen=references[x, counts.winner], ref_rejected=references[x, counts.loser]
    )


def _divergence(logs: FloatArray, references: FloatArray) -> FloatArray:
    """Return (X,) `sum_y pi (log pi - log p)`."""
    pi = np.exp(logs)
    outside = (pi > 0) & np.isneginf(references)
    if outside.any():
        x, y = (int(i[0]) for i in np.nonzero(outside))
        raise ValueError(
            f"policy[{x}, {y}] is {pi[x, y]!r} where the reference is 0: z is infinite"
        )
    log_ratio = np.where(pi > 0, logs, 0.0) - np.where(pi > 0, references, 0.0)
    return np.asarray((pi * log_ratio).sum(axis=1))


def _scattered(counts: PairCounts, side: IntArray, values: FloatArray) -> FloatArray:
    """Return the (X, Y) sums of `values` at `(prompt, side)`."""
    X, Y = counts.shape
    flat = np.bincount(counts.prompt * Y + side, weights=values, minlength=X * Y)
    return np.asarray(flat, dtype=np.float64).reshape(X, Y)
