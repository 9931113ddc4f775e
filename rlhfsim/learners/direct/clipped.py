"""chiPO with its clip: the loss of one prompt, which is not convex, and when it is solved.

With each pair of responses turned so that the first won at least as often, and h its difference of
scores, the loss is `G(s) = sum_e f_e(clip(h_e))`, `f_e(h) = won softplus(-h) + lost softplus(h)`.

The least f_e within the clip is `m_e`.  Where it lies at the upper end C, f_e falls up to there:
`f_e(min(h, C))` is convex, and the clip does no harm.  Elsewhere, a pair beyond an end of the clip
is *out*: it costs the constant `f_e(-C)` or `f_e(C)`, more than m_e by its *excess*.  For a set D
of pairs that are out,

    G_D = (constants of D) + min_s sum_{e not in D} f_e(h_e or min(h_e, C)),  s with D out,

is a convex problem with linear constraints; `G(s) >= G_D` for the D of s, and its own solution has
`G(s) <= G_D`.  So the best solution over all D is a global minimiser.  A D whose excesses add up to
more than `G - sum_e m_e` of some known scores cannot be better than those, which mostly leaves the
empty D and a few more.  If too many are left, the answer is the best of a local search, and not
proven.

The kinks of `min(h, C)` are smoothed, with a width that falls to 1e-8, and so are the constraints,
as exact penalties `n max(0, C - |h_e|)`: n comparisons pull with a force of at most n.

Source: arXiv 2407.13399, algorithm 1, for the loss; the bound derived here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.learners.direct.hinge import softened
from rlhfsim.learners.direct.newton import minimize
from rlhfsim.learners.direct.prompts import PromptRows
from rlhfsim.learners.direct.separate import Answer

#: Most Newton steps for the last width, and for those before.
_STEPS, _STEPS_BEFORE = 30, 10
#: Sets of one pair from which the local search starts, for so few pairs.
_SINGLES, _FEW = 8, 40
#: Most sets D that are solved.
_MOST_SETS = 32
_WIDTHS = 10.0 ** -np.arange(1.0, 9.0)
#: Share of the comparisons that two values of the loss may differ by.
_TOLERANCE = 5e-8
#: Share that their gradient may be off: at a kink, rounding of the scores moves it.
_GRADIENT = 1e-6
#: Curvature, as a share of the comparisons, that flat directions are given.
_RIDGE = 1e-11

#: Pairs that are out: 1 above, -1 below, 0 inside; (E,).
Out = IntArray


@dataclass(frozen=True)
class Pairs:
    """The pairs of one prompt that were compared, the first response the more frequent winner."""

    #: (E,) pairs as comparisons, each counted once.
    rows: PromptRows
    #: (E,) how often the first won and lost.
    won: FloatArray
    lost: FloatArray
    clip: float

    @property
    def kinked(self) -> BoolArray:
        """(E,) where the loss falls up to the clip."""
        return self.won * np.exp(-self.clip) >= self.lost

    def losses(self, h: FloatArray) -> FloatArray:
        """Return (E,) f_e(h), not clipped."""
        return self.won * np.logaddexp(0.0, -h) + self.lost * np.logaddexp(0.0, h)

    def clipped(self, s: FloatArray) -> float:
        """Return G."""
        h = np.clip(self.rows.difference(s), -self.clip, self.clip)
        return float(self.losses(h).sum())

    def least(self) -> FloatArray:
        """Return (E,) m_e."""
        with np.errstate(divide="ignore"):
            best = np.log(self.won) - np.log(self.lost)
        return self.losses(np.minimum(best, self.clip))

    def out(self, s: FloatArray) -> Out:
        """Return which pairs are out."""
        h = self.rows.difference(s)
        above = (h > self.clip) & ~self.kinked
        return above.astype(np.int64) - (h < -self.clip)

    def constants(self, out: Out) -> FloatArray:
        """Return (E,) the losses of the pairs that are out, 0 for others."""
        return np.where(out != 0, self.losses(np.asarray(out * self.clip, dtype=np.float64)), 0.0)


def as_pairs(rows: PromptRows, clip: float) -> Pairs:
    """Return the pairs of the comparisons of one prompt."""
    first, second = np.minimum(rows.winner, rows.loser), np.maximum(rows.winner, rows.loser)
    key, place = np.unique(first * rows.size + second, return_inverse=True)
    forward = rows.winner < rows.loser
    won, lost = np.zeros(key.size), np.zeros(key.size)
    np.add.at(won, place, np.where(forward, rows.count, 0.0))
    np.add.at(lost, place, np.where(forward, 0.0, rows.count))
    first, second = np.divmod(key, rows.size)
    turn = lost > won
    ones = np.ones(key.size)
    turned = PromptRows(
        rows.prompt,
        rows.responses,
        np.where(turn, second, first),
        np.where(turn, first, second),
        ones,
        0.0 * ones,
    )
    return Pairs(turned, np.maximum(won, lost), np.minimum(won, lost), clip)


class _Surrogate(NamedTuple):
    """The convex sum over the pairs that are not out and the penalties of those that are."""

    pairs: Pairs
    out: Out
    kinked: BoolArray
    total: float
    width: float
    ridge: float

    @property
    def size(self) -> int:
        """K."""
        return self.pairs.rows.size

    def value(self, s: FloatArray) -> float:
        """Return the sum and the ridge."""
        h = self.pairs.rows.difference(s)
        terms = np.where(
            self.out == 0,
            self.pairs.losses(self._softened(h)),
            self.total * softened(self.pairs.clip - self.out * h, self.width)[0],
        )
        return float(terms.sum()) + self.ridge / 2 * float(s @ s)

    def derivatives(self, s: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """Return gradient, Hessian, and the size of what is summed in the gradient."""
        h = self.pairs.rows.difference(s)
        t = self._softened(h)
        _, below, bend = softened(self.pairs.clip - h, self.width)
        below, bend = np.where(self.kinked, below, 1.0), np.where(self.kinked, bend, 0.0)
        both = self.pairs.won + self.pairs.lost
        slope = self.pairs.lost * expit(t) - self.pairs.won * expit(-t)
        curvature = both * expit(t) * expit(-t) * below**2 - slope * bend
        _, pushed, stiff = softened(self.pairs.clip - self.out * h, self.width)
        inside = self.out == 0
        pull = np.where(inside, slope * below, -self.out * self.total * pushed)
        curvature = np.where(inside, np.maximum(curvature, 0.0), self.total * stiff)
        hessian = self.pairs.rows.laplacian(curvature) + self.ridge * np.eye(len(s))
        size = float(np.abs(pull).sum() + both.sum() + self.ridge * np.abs(s).sum())
        return self.pairs.rows.scatter(pull) + self.ridge * s, hessian, size

    def _softened(self, h: FloatArray) -> FloatArray:
        clip = self.pairs.clip
        soft = clip - softened(clip - h, self.width)[0]
        return np.where(self.kinked, soft, h)


class _Solved(NamedTuple):
    """The solution of the convex problem of a set D, and `G_D`."""

    scores: FloatArray
    bound: float
    residual: float


def _solve(pairs: Pairs, out: Out, start: FloatArray) -> _Solved:
    inside = (out == 0).astype(np.float64)
    total = float((pairs.won + pairs.lost).sum())
    ridge = _RIDGE * total
    kinked = pairs.kinked
    s, residual = start, np.inf
    widths = _WIDTHS if kinked.any() or out.any() else _WIDTHS[-1:]
    for width in widths:
        surrogate = _Surrogate(pairs, out, kinked, total, float(width), ridge)
        found = minimize(surrogate, s, _STEPS if width == widths[-1] else _STEPS_BEFORE)
        s, residual = found.scores, found.residual
    h = pairs.rows.difference(s)
    sharp = np.where(kinked, np.minimum(h, pairs.clip), h)
    value = float(inside @ pairs.losses(sharp) + pairs.constants(out).sum())
    return _Solved(s, value, residual)


def minimize_clipped(
    rows: PromptRows, clip: float, unclipped: tuple[FloatArray, float] | None = None
) -> Answer:
    """Return the best scores that are found, and whether they are a global minimiser.

    Parameters
    ----------
    rows : PromptRows
    clip : float
    unclipped : (K,) array and float, optional
        The minimiser without a clip, where there is one, and its residual.
    """
    pairs = as_pairs(rows, clip)
    total = float((pairs.won + pairs.lost).sum())
    allowed = _TOLERANCE * total
    best = _Search(pairs)
    if unclipped is not None:
        best.offer(*unclipped)
        inside = np.abs(pairs.rows.difference(unclipped[0])).max() < clip
        if inside and _rivals(pairs, best.value, allowed) == []:
            # The convex problem of the empty set has the same minimiser, and no other set can win.
            best.unique = True
            return _answer(best, total, True)
    best.descend(np.zeros(len(pairs.won), dtype=np.int64))
    for e, side in _cheapest(pairs)[: _SINGLES if len(pairs.won) <= _FEW else 1]:
        out = np.zeros(len(pairs.won), dtype=np.int64)
        out[e] = side
        best.descend(out)
    rivals = _rivals(pairs, best.value, allowed)
    if rivals is None:
        return _answer(best, total, False)
    for out in [np.zeros(len(pairs.won), dtype=np.int64), *rivals]:
        best.descend(out)
    return _answer(best, total, best.value <= best.bound + allowed)


class _Search:
    """The best scores so far, and the smallest bound of a set D that was solved."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.scores = np.zeros(pairs.rows.size)
        self.value = pairs.clipped(self.scores)
        self.residual = np.inf
        self.bound = np.inf
        #: Whether it is known that all other scores are worse.
        self.unique = False
        self._seen: dict[bytes, _Solved] = {}

    def offer(self, s: FloatArray, residual: float) -> bool:
        """Take scores if they are better."""
        value = self.pairs.clipped(s)
        if value < self.value or (value == self.value and residual < self.residual):
            self.scores, self.value, self.residual = s - s.mean(), value, residual
            return True
        return False

    def descend(self, out: Out) -> None:
        """Solve for a set D, then for the set of its solution, as long as that is better."""
        for _ in range(20):
            key = out.tobytes()
            if key not in self._seen:
                self._seen[key] = _solve(self.pairs, out, self.scores)
            solved = self._seen[key]
            self.bound = min(self.bound, solved.bound)
            following = self.pairs.out(solved.scores)
            if not self.offer(solved.scores, solved.residual) or (following == out).all():
                return
            out = following


def _cheapest(pairs: Pairs) -> list[tuple[int, int]]:
    """Return pairs and ends, by the excess of being out there."""
    ends = [(e, side) for e in range(len(pairs.won)) for side in (-1, 1)]
    excess = _excess(pairs)
    ends = [end for end in ends if np.isfinite(excess[end])]
    return sorted(ends, key=lambda end: excess[end])


def _excess(pairs: Pairs) -> dict[tuple[int, int], float]:
    least, ones = pairs.least(), np.ones(len(pairs.won))
    below = pairs.losses(-pairs.clip * ones) - least
    above = np.where(pairs.kinked, np.inf, pairs.losses(pairs.clip * ones) - least)
    return {
        (e, side): float(values[e])
        for side, values in ((-1, below), (1, above))
        for e in range(len(pairs.won))
    }


def _rivals(pairs: Pairs, value: float, allowed: float) -> list[Out] | None:
    """Return the sets D, not empty, that may have a smaller loss; None if they are too many."""
    excess = _excess(pairs)
    budget = value - float(pairs.least().sum()) + allowed
    found: list[Out] = []
    for chosen in _subsets(_cheapest(pairs), excess, budget):
        out = np.zeros(len(pairs.won), dtype=np.int64)
        for e, side in chosen:
            out[e] = side
        found.append(out)
        if len(found) > _MOST_SETS:
            return None
    return found


def _subsets(
    ends: list[tuple[int, int]], excess: dict[tuple[int, int], float], budget: float
) -> Iterator[tuple[tuple[int, int], ...]]:
    """Yield the sets of ends of different pairs whose excesses add up to less than the budget."""
    for k, end in enumerate(ends):
        left = budget - excess[end]
        if left <= 0:
            return
        yield (end,)
        others = [other for other in ends[k + 1 :] if other[0] != end[0]]
        for more in _subsets(others, excess, left):
            yield (end, *more)


def _answer(best: _Search, total: float, proven: bool) -> Answer:
    allowed = _GRADIENT * total
    return Answer(best.scores, best.value, best.residual, allowed, proven, best.unique)
