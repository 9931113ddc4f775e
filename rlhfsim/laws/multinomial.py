"""All vectors of counts of n independent draws, with their exact probabilities.

Multinomial counts are independent Poisson counts given their sum,

    P(K = k) = prod_i Poisson(k_i; n q_i) / Poisson(n; n) * exp(n (sum_i q_i - 1)),

an identity for every positive q.  It is used because the Poisson terms are accurate for counts of
any size, where `log n!` alone costs nine digits at n = 1e8.  The cells are used as given: the
probabilities of all counts sum to `(sum_i q_i)^n`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.frozen import Frozen
from rlhfsim.laws.poisson import log_poisson

#: Largest number of outcomes that is enumerated unless the caller asks for more.
DEFAULT_LIMIT = 1_000_000

_BLOCK = 1 << 12
# Above this many digits a count is named by its size: exact it would take long to print.
_DIGITS_IN_FULL = 18


@dataclass(frozen=True, eq=False)
class CountLaw(Frozen):
    """The law of the counts of m cells in n draws, made by `multinomial_counts`.

    Iterating gives `(probability, counts)` in lexicographic order of the counts, made as they are
    asked for; memory is O(n + m).
    """

    #: (m,) probability of each cell in one draw.
    probabilities: FloatArray
    #: Number of draws.
    n: int
    #: None if the cells are all there are and their counts sum to n; otherwise the largest sum of
    #: their counts that is listed, and the other draws fall in a cell that is not listed.
    most: int | None = None

    def __post_init__(self) -> None:
        """Copy and freeze."""
        object.__setattr__(self, "probabilities", checks.frozen(self.probabilities))

    def __len__(self) -> int:
        """Return the number of count vectors, `C(n+m-1, m-1)`, or with `most` `C(most+m, m)`."""
        return math.comb(*_bars(self.probabilities.size, self.n, self.most))

    def __iter__(self) -> Iterator[tuple[float, IntArray]]:
        """Yield the probability and the (m,) counts of every vector."""
        for probability, counts in self.blocks():
            yield from zip(probability.tolist(), counts, strict=True)

    def blocks(self) -> Iterator[tuple[FloatArray, IntArray]]:
        """Yield the same in blocks: (B,) probabilities and (B, m) counts."""
        places, bars = _bars(self.probabilities.size, self.n, self.most)
        cuts = itertools.combinations(range(places), bars)
        while block := list(itertools.islice(cuts, _BLOCK)):
            ends = np.array(block, dtype=np.int64).reshape(len(block), bars)
            counts = np.diff(ends, axis=1, prepend=-1) - 1
            if self.most is None:
                last = self.n - counts.sum(axis=1, keepdims=True)
                counts = np.concatenate([counts, last], axis=1)
            yield self._probability(counts), counts

    def table(self) -> tuple[FloatArray, IntArray]:
        """Return all of it at once: (U,) probabilities and (U, m) counts."""
        probability, counts = zip(*self.blocks(), strict=True)
        return np.concatenate(probability), np.concatenate(counts)

    @property
    def left_out(self) -> float:
        """`P(the counts sum to more than most)`; 0 when every vector is listed."""
        if self.most is None or self.most >= self.n:
            return 0.0
        total = math.fsum(self.probabilities)
        return float(betainc(self.most + 1, self.n - self.most, total))

    def _probability(self, counts: IntArray) -> FloatArray:
        logs = log_poisson(counts, self.n * self.probabilities).sum(axis=1)
        logs -= log_poisson(self.n, float(self.n))
        if self.most is None:
            logs += self.n * math.fsum([*self.probabilities, -1.0])
        else:
            # Its mean may be rounded: the log-probability is stationary at count = mean.
            rest = self.n * math.fsum([1.0, *-self.probabilities])
            logs += log_poisson(self.n - counts.sum(axis=1), rest)
        with np.errstate(under="ignore"):
            return np.exp(logs)


def multinomial_counts(
    probabilities: ArrayLike, n: int, *, most: int | None = None, limit: int = DEFAULT_LIMIT
) -> CountLaw:
    """Return the law of the counts of m cells in `n` independent draws.

    `P(k_1, ..., k_m) = n! / (k_1! ... k_m!) q_1^k_1 ... q_m^k_m`, with relative error below 1e-12
    (where it is at least 1e-300).

    With `most`, for rare cells in many draws: the m cells are some of those there are, the other
    draws, of probability `1 - sum_i q_i`, fall in one more cell that is not listed, and only
    vectors that sum to at most `most` are.  What they miss is `left_out`.

    Parameters
    ----------
    probabilities : (m,) array
        Positive; used as given.  They sum to 1 within 1e-9, or with `most` to less than 1.
    n : int
        At least 1.
    most : int, optional
        At least 0; more than `n` means `n`.
    limit : int
        Largest number of vectors that may be listed.

    Returns
    -------
    CountLaw

    Raises
    ------
    ValueError
        For cells that are not positive or have another sum, `n < 1`, `most < 0`, and when there
        are more than `limit` vectors.

    Source: Loader 2000, "Fast and accurate computation of binomial probabilities".
    """
    cells = checks.as_positive("probabilities", probabilities)
    if cells.ndim != 1 or cells.size == 0:
        raise ValueError(
            f"probabilities has shape {cells.shape}; it must be a non-empty (m,) array"
        )
    n = checks.whole_number("n", n, least=1)
    limit = checks.whole_number("limit", limit, least=1)
    if most is None:
        checks.as_distributions("probabilities", cells)
    else:
        most = min(checks.whole_number("most", most, least=0), n)
        if math.fsum(cells) >= 1.0:
            raise ValueError(
                f"probabilities sums to {math.fsum(cells)!r}; with most given it must be less "
                "than 1, for the draws that fall in none of the cells"
            )
    refuse_above(
        limit,
        *_bars(cells.size, n, most),
        what=f"count vectors of {cells.size} cells in {n} draws",
        cure="take a smaller n, fewer cells, a smaller most" if most is not None
        else "take a smaller n or fewer cells, list only rare cells with most",
    )  # fmt: skip
    return CountLaw(cells, n, most)


def refuse_above(limit: int, places: int, bars: int, *, what: str, cure: str) -> None:
    """Raise if `C(places, bars)`, the number of `what`, is more than `limit`."""
    log = math.lgamma(places + 1) - math.lgamma(bars + 1) - math.lgamma(places - bars + 1)
    digits = log / math.log(10)
    if digits < _DIGITS_IN_FULL:
        count = math.comb(places, bars)
        if count <= limit:
            return
        number = str(count)
    elif digits <= math.log10(limit):
        return
    else:
        number = f"about 1e{digits:.0f}"
    raise ValueError(
        f"there are {number} {what}, more than limit = {limit}; {cure}, or raise limit"
    )


def _bars(cells: int, n: int, most: int | None) -> tuple[int, int]:
    """Return (places, bars): a count vector is a choice of `bars` out of `places` positions."""
    return (n + cells - 1, cells - 1) if most is None else (most + cells, cells)
