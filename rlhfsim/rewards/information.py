"""The Hessian of the tabular Bradley-Terry likelihood."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts


def information(
    data: PreferenceData | PairCounts, reward: ArrayLike, prompt: int | None = None
) -> FloatArray:
    """Return the Hessian of the negative log-likelihood in the rewards of each prompt.

    The Laplacian of the weights `w_ij = (W_ij + W_ji) sigma'(r_i - r_j)`, `W_ij` the number of
    times i beat j: `H_ij = -w_ij` and `H_ii = sum_j w_ij`.  Also the observed, and the expected,
    information; its null space holds what the data leave open.

    Parameters
    ----------
    data : PreferenceData or PairCounts
    reward : (X, Y) array
        Where the Hessian is taken.
    prompt : int, optional
        Only this prompt's.

    Returns
    -------
    (X, Y, Y) array, or (Y, Y) for one prompt
        In comparisons per squared reward unit.  An array of all prompts takes `X Y^2` numbers.

    Raises
    ------
    ValueError
        For data of another kind, a reward that has not their shape, or a prompt out of range.

    Source: Hunter 2004 (Ann. Statist. 32, 1).
    """
    counts = as_counts(data)
    r = checks.as_matrix("reward", reward, counts.shape)
    if prompt is None:
        first, last = 0, counts.n_prompts
    else:
        first = checks.whole_number("prompt", prompt, least=0)
        if first >= counts.n_prompts:
            raise ValueError(f"prompt is {first}; it must be below {counts.n_prompts}")
        last = first + 1
    rows = slice(*np.searchsorted(counts.prompt, [first, last]))
    x, i, j = counts.prompt[rows] - first, counts.winner[rows], counts.loser[rows]
    gap = r[counts.prompt[rows], i] - r[counts.prompt[rows], j]
    weight = counts.count[rows] * expit(gap) * expit(-gap)
    hessian = np.zeros((last - first, counts.n_responses, counts.n_responses))
    # Each triple is listed once, and the opposite one at most once.
    hessian[x, i, j] -= weight
    hessian[x, j, i] -= weight
    diagonal = np.arange(counts.n_responses)
    hessian[:, diagonal, diagonal] = -hessian.sum(axis=2)
    return hessian if prompt is None else hessian[0]
