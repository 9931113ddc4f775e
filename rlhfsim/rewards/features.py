"""Feature maps of linear rewards: their checks, and the differences that comparisons see.

A comparison of `y+` with `y-` at prompt x sees a linear reward only through
`d = phi(x, y+) - phi(x, y-)`.  The parameter is identified exactly when the differences of all
comparisons span R^d.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts

#: Singular values below this share of the largest (of columns scaled to unit length) count as
#: zero: the Hessian squares them, and a float64 does not resolve squares below 1e-16.
RANK_TOLERANCE = 1e-7

_BLOCK = 4096


class Comparisons(NamedTuple):
    """Feature differences of the distinct unordered pairs, and how often each side won."""

    #: (U, d) `phi(x, y1) - phi(x, y2)`.
    difference: FloatArray
    #: (U,) how often `y1` beat `y2`, and how often it lost to it.
    won: FloatArray
    lost: FloatArray


def as_features(features: ArrayLike) -> FloatArray:
    """Return an `(X, Y, d)` array of finite numbers, copied and read-only."""
    array = checks.as_real("features", features)
    if array.ndim != 3 or array.size == 0:
        raise ValueError(
            f"features has shape {array.shape}; it must be a non-empty (X, Y, d) array"
        )
    return checks.frozen(array)


def require_shape(features: FloatArray, shape: tuple[int, int]) -> None:
    """Raise unless the first two axes of the features are the `(X, Y)` of the data."""
    if features.shape[:2] != shape:
        raise ValueError(
            f"features has shape {features.shape}; its first two axes must be (X, Y) = {shape}"
        )


def compare(counts: PairCounts, features: FloatArray) -> Comparisons:
    """Return the distinct unordered pairs of the counts with their feature differences.

    Parameters
    ----------
    counts : PairCounts
    features : (X, Y, d) array
    """
    first = np.minimum(counts.winner, counts.loser)
    second = np.maximum(counts.winner, counts.loser)
    order = np.lexsort((second, first, counts.prompt))
    columns = tuple(column[order] for column in (counts.prompt, first, second))
    new = np.ones(len(order), dtype=np.bool_)
    if len(order):
        new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    pair = np.cumsum(new) - 1
    size = int(new.sum())
    forward = (counts.winner < counts.loser)[order]
    count = counts.count[order]
    prompt, first, second = (column[new] for column in columns)
    return Comparisons(
        features[prompt, first] - features[prompt, second],
        np.asarray(np.bincount(pair, weights=count * forward, minlength=size), dtype=np.float64),
        np.asarray(np.bincount(pair, weights=count * ~forward, minlength=size), dtype=np.float64),
    )


def blocks(rows: int) -> Iterator[slice]:
    """Yield slices of so many rows that temporary arrays stay small."""
    for start in range(0, rows, _BLOCK):
        yield slice(start, start + _BLOCK)


def weighted_gram(rows: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the (d, d) matrix `sum_u weights_u rows_u rows_u'`."""
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for block in blocks(len(rows)):
        root = np.sqrt(weights[block])[:, None] * rows[block]
        total += root.T @ root
    return total


def triangular_factor(rows: FloatArray) -> FloatArray:
    """Return R of a QR factorisation of `(U, d)` rows, taken block by block: `R'R = rows' rows`."""
    factor = np.zeros((0, rows.shape[1]))
    for block in blocks(len(rows)):
        factor = np.asarray(np.linalg.qr(np.concatenate((factor, rows[block])), mode="r"))
    return factor


def unit_columns(rows: FloatArray) -> FloatArray:
    """Return the (d,) largest magnitude of each column, and 1 for a column of zeros."""
    size = np.abs(rows).max(axis=0, initial=0.0)
    return np.where(size > 0, size, 1.0)


def null_direction(rows: FloatArray, tolerance: float) -> tuple[int, FloatArray]:
    """Return the rank of `(U, d)` rows and a unit vector on which they (nearly) vanish.

    Parameters
    ----------
    rows : (U, d) array
    tolerance : float
        Singular values below this share of the largest count as zero.

    Returns
    -------
    int and (d,) array
        The vector is that of the smallest singular value, whatever the rank.
    """
    scale = unit_columns(rows)
    length = np.linalg.norm(rows / scale, axis=0)
    scale *= np.where(length > 0, length, 1.0)
    size = rows.shape[1]
    factor = np.zeros((size, size))
    found = triangular_factor(rows / scale)
    factor[: len(found)] = found
    _, values, right = np.linalg.svd(factor)
    vector = right[-1] * (scale.min() / scale)
    rank = int((values > tolerance * values[0]).sum()) if values[0] > 0 else 0
    return rank, vector / np.linalg.norm(vector)


def spans_or_ridge(rows: FloatArray, ridge: float | None, seen: str, model: str) -> bool:
    """Return whether the rows span R^d, which without a ridge they must.

    Parameters
    ----------
    rows : (U, d) array
    ridge : float or None
    seen, model : str
        What the rows are and the name of the model, for the message.

    Raises
    ------
    ValueError
        Without a ridge, naming the rank and a free direction; with a ridge too faint to be
        resolved beside the rows along the direction that they leave free.
    """
    rank, vector = null_direction(rows, RANK_TOLERANCE)
    if rank == rows.shape[1]:
        return True
    free = (
        f"features do not span: {seen} have rank {rank} and d is {rows.shape[1]}, "
        f"so the parameter is free along {_listed(vector)}"
    )
    if ridge is None:
        raise ValueError(f"{free}; choose other features, or regularize with {model}(ridge=...)")
    least = RANK_TOLERANCE**2 * float((rows**2).sum(axis=0).max(initial=0.0))
    if ridge < least:
        raise ValueError(f"ridge is {ridge!r}; it must be at least {least:.3g}, as {free}")
    return False


def _listed(vector: FloatArray) -> str:
    """Return the entries of largest magnitude of a direction, with their indices."""
    most = np.sort(np.argsort(-np.abs(vector), kind="stable")[:5])
    shown = [f"{vector[j]:.3g} e[{j}]" for j in most if abs(vector[j]) > 1e-6]
    return " + ".join(shown).replace("+ -", "- ")


def design_covariance(
    data: PreferenceData | PairCounts, features: ArrayLike, ridge: float = 0.0
) -> FloatArray:
    """Return `Sigma = ridge I + sum_i d_i d_i'`, `d_i = phi(x_i, y+_i) - phi(x_i, y-_i)`.

    Parameters
    ----------
    data : PreferenceData or PairCounts
        Every row counts; a law gives the expectation over one row.
    features : (X, Y, d) array
    ridge : float
        Not negative.

    Returns
    -------
    (d, d) array
        Symmetric, in squared units of the features.

    Raises
    ------
    ValueError
        For bad features, features of another `(X, Y)` than the data, or a negative ridge.

    Source: arXiv 2312.11456; arXiv 2301.11270, which divides the sum by n.
    """
    array = as_features(features)
    counts = as_counts(data)
    require_shape(array, counts.shape)
    ridge = checks.positive_number("ridge", ridge, zero=True)
    pairs = compare(counts, array)
    gram = weighted_gram(pairs.difference, pairs.won + pairs.lost)
    return gram + ridge * np.eye(array.shape[2])
