"""The exact law of a dataset of n preferences, for problems small enough to list them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.frozen import Frozen
from rlhfsim.laws.cells import PairCells, pair_cells
from rlhfsim.laws.multinomial import DEFAULT_LIMIT, CountLaw, refuse_above
from rlhfsim.laws.summation import CompensatedSum
from rlhfsim.preferences import PreferenceModel


@dataclass(frozen=True, eq=False)
class DatasetLaw(Frozen):
    """All datasets of n preferences up to the order of their rows, made by `dataset_law`.

    Iterating gives `(probability, PairCounts)`, in lexicographic order of the counts of `cells`
    (pairs of equals last).  Datasets are made as they are asked for.
    """

    #: The law of one row.
    cells: PairCells
    #: Number of rows.
    n: int
    #: Whether all pairs of equals count as one outcome.
    merge_equal: bool = True

    @property
    def counts(self) -> CountLaw:
        """The law of the counts of the cells: the triples first, then the pairs of equals."""
        equal = self.cells.equal_probability
        if self.merge_equal and equal.size:
            equal = np.array([self.cells.equal_mass])
        return CountLaw(np.concatenate((self.cells.probability, equal)), self.n)

    def __len__(self) -> int:
        """Return the number of datasets, `C(n+m-1, m-1)` for m cells."""
        return len(self.counts)

    def __iter__(self) -> Iterator[tuple[float, PairCounts]]:
        """Yield each dataset's probability and its counts."""
        cells = self.cells
        size = cells.probability.size
        for probability, counts in self.counts:
            present = np.nonzero(counts[:size])[0]
            yield (
                probability,
                PairCounts._owned(
                    cells.prompt[present],
                    cells.winner[present],
                    cells.loser[present],
                    counts[present].astype(np.float64),
                    float(counts[size:].sum()),
                    cells.shape,
                ),
            )

    def datasets(self) -> Iterator[tuple[float, PreferenceData]]:
        """Yield each dataset's probability and its rows, sorted, pairs of equals last.

        For functions of the rows themselves, such as a learner that imitates chosen responses.

        Raises
        ------
        ValueError
            If pairs of equals were merged: their rows are not known.
        """
        cells = self.cells
        if self.merge_equal and cells.equal_probability.size:
            raise ValueError(
                "the law merges all pairs of equal responses, so the rows of a dataset are not "
                "known; make it with merge_equal=False"
            )
        prompt = np.concatenate((cells.prompt, cells.equal_prompt))
        chosen = np.concatenate((cells.winner, cells.equal_response))
        rejected = np.concatenate((cells.loser, cells.equal_response))
        for probability, counts in self.counts:
            rows = np.repeat(np.arange(counts.size), counts)
            yield (
                probability,
                PreferenceData._owned(prompt[rows], chosen[rows], rejected[rows], cells.shape),
            )

    def expectation(self, function: Callable[[PairCounts], ArrayLike]) -> FloatArray:
        """Return `E[f(D)]`, a compensated sum of `probability * function(counts)`.

        Parameters
        ----------
        function : function `PairCounts -> number or array`
            Of one shape for all datasets; `inf` is allowed and `nan` is not.  What it raises is
            passed on: an estimate that some dataset does not have has no expectation.

        Returns
        -------
        array of that shape, or a number

        Raises
        ------
        ValueError
            For values that are not real, are nan, or change their shape.
        """
        total = CompensatedSum()
        for probability, counts in self:
            total.add(probability, function(counts))
        return total.value()

    def probability_of(self, predicate: Callable[[PairCounts], bool]) -> float:
        """Return `P(predicate(D))`.

        Parameters
        ----------
        predicate : function `PairCounts -> bool`

        Raises
        ------
        ValueError
            If `predicate` returns anything but True or False.
        """

        def holds(counts: PairCounts) -> bool:
            answer = predicate(counts)
            if not isinstance(answer, (bool, np.bool_)):
                raise ValueError(f"predicate returned {answer!r:.80}; it must be True or False")
            return bool(answer)

        return math.fsum(probability for probability, counts in self if holds(counts))


def dataset_law(
    bandit: ContextualBandit,
    n: int,
    *,
    model: PreferenceModel | None = None,
    policies: tuple[ArrayLike, ArrayLike] | None = None,
    merge_equal: bool = True,
    limit: int = DEFAULT_LIMIT,
) -> DatasetLaw:
    """Return the exact law of a dataset of `n` preferences.

    The rows are independent, so the counts of the m outcomes of a row are multinomial, and a
    dataset up to the order of its rows is such a vector of counts.  Expectations over data are
    then finite sums:

    >>> import numpy as np
    >>> from rlhfsim import ContextualBandit
    >>> bandit = ContextualBandit([1.0], [[0.5, 0.5]], [[0.0, np.log(3.0)]])
    >>> law = dataset_law(bandit, 2)
    >>> len(law), round(float(law.expectation(lambda counts: counts.equal_pairs)), 12)
    (6, 1.0)

    Parameters
    ----------
    bandit : ContextualBandit
        `rho` and, by default, the sampling policy and the reward; used as given.
    n : int
        At least 1.
    model : PreferenceModel, optional
        `BradleyTerry(bandit.reward)` by default.
    policies : pair of (X, Y) policies, optional
        Where the two responses come from; the reference twice by default.
    merge_equal : bool
        Whether all pairs of a response with itself count as one outcome.  No fit of a reward to
        preferences can tell them apart.
    limit : int
        Largest number of datasets.

    Returns
    -------
    DatasetLaw

    Raises
    ------
    ValueError
        For arguments of the wrong kind or shape, and when there are more than `limit` datasets.

    Source: arXiv 2407.13399 (the sampling of the data).
    """
    n = checks.whole_number("n", n, least=1)
    if not isinstance(merge_equal, (bool, np.bool_)):
        raise ValueError(f"merge_equal is {merge_equal!r:.80}; it must be True or False")
    cells = pair_cells(bandit, model=model, policies=policies, limit=limit)
    law = DatasetLaw(cells, n, bool(merge_equal))
    outcomes = law.counts.probabilities.size
    merge = "" if merge_equal else ", merge_equal=True"
    refuse_above(
        limit,
        n + outcomes - 1,
        outcomes - 1,
        what=f"datasets of {n} rows with {outcomes} outcomes each",
        cure=f"take a smaller n, fewer prompts or responses, policies of smaller support{merge}",
    )
    return law


def dataset_of(counts: PairCounts) -> PreferenceData:
    """Return rows that have these counts, sorted, pairs of equals last.

    Counts do not say which responses met themselves; such a pair is written as prompt 0,
    response 0.  No fit of a reward to preferences can tell, but a learner that imitates chosen
    responses can: give that one `DatasetLaw.datasets()`.

    Parameters
    ----------
    counts : PairCounts
        Of at least one row.

    Raises
    ------
    ValueError
        If `counts` is not a PairCounts, is not made of whole numbers, or has no rows.
    """
    if not isinstance(counts, PairCounts):
        raise ValueError(f"counts is a {type(counts).__name__}; it must be a PairCounts")
    repeats = _whole("counts.count", counts.count)
    equal = int(_whole("counts.equal_pairs", np.array([counts.equal_pairs]))[0])
    if repeats.sum() + equal == 0:
        raise ValueError("counts has no rows; it must have at least one")
    nothing = np.zeros(equal, dtype=np.int64)
    prompt, chosen, rejected = (
        np.concatenate((np.repeat(column, repeats), nothing))
        for column in (counts.prompt, counts.winner, counts.loser)
    )
    return PreferenceData(prompt, chosen, rejected, counts.shape)


def _whole(name: str, values: FloatArray) -> IntArray:
    floats = checks.as_non_negative(name, values)
    broken = np.nonzero(floats != np.floor(floats))[0]
    if broken.size:
        raise ValueError(
            f"{name}[{broken[0]}] is {floats[broken[0]].item()!r}; "
            "the number of rows must be a whole number"
        )
    return floats.astype(np.int64)
