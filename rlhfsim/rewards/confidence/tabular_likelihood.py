"""The likelihood-ratio set of tabular rewards, with its exact linear bounds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammainccinv

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts
from rlhfsim.frozen import Frozen
from rlhfsim.rewards.confidence.base import Minimum, as_level, extremes
from rlhfsim.rewards.confidence.linked import LinkedSets, fit_linked, linked_sets
from rlhfsim.rewards.confidence.profile import Region

#: Largest sum of weights over a linked set, as a share of the sum of their sizes.
BALANCE_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class TabularLikelihoodSet(Frozen):
    """The `(X, Y)` rewards with `L(r) >= max L - radius`, L the Bradley-Terry log-likelihood.

    A convex set, unbounded along what data never determine: one constant for each set of
    responses that comparisons link, and responses never compared.  Along every other direction it
    is bounded, exactly because the maximum likelihood estimate has to exist.

    Parameters
    ----------
    data : PreferenceData or PairCounts
        Kept as its counts.
    radius : float
        In nats, positive; `wilks_radius` for a level.

    Raises
    ------
    MLEDoesNotExistError
        When a set of linked responses has no finite estimate.
    ValueError
        Bad input, or data that compare no two different responses.

    Source: Wilks 1938; Venzon and Moolgavkar 1988 (Appl. Statist. 37, 1); arXiv 2305.14816.
    """

    data: PairCounts
    radius: float
    #: (X, Y) maximum likelihood reward: mean 0 over each linked set, 0 where never compared.
    reward: FloatArray = field(init=False)
    #: Number of compared responses less the number of linked sets.
    degrees: int = field(init=False)
    _linked: LinkedSets = field(init=False, repr=False)
    _region: Region = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Validate, and fit."""
        counts = as_counts(self.data)
        radius = checks.positive_number("radius", self.radius)
        linked = linked_sets(counts)
        best = fit_linked(linked, counts.shape[1])
        values = {
            "data": counts,
            "radius": radius,
            "reward": checks.frozen(_spread(counts.shape, linked, best)),
            "degrees": linked.degrees,
            "_linked": linked,
            "_region": Region(linked, best),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def deficit(self, reward: ArrayLike) -> float:
        """Return `max L - L(reward)`, in nats."""
        r = checks.as_matrix("reward", reward, self.data.shape)
        return self._region.deficit(r.ravel()[self._linked.cells])

    def contains(self, reward: ArrayLike) -> bool:
        """Return whether an `(X, Y)` reward is in the set: `deficit(reward) <= radius`."""
        return self.deficit(reward) <= self.radius

    def minimize(self, weights: ArrayLike) -> Minimum:
        """Return the smallest `sum_xy weights(x, y) r(x, y)` over the set.

        A concave program, solved by profile likelihood to a relative duality gap of 1e-9.

        Parameters
        ----------
        weights : (X, Y) array
            With sum 0 over each linked set, within 1e-9 of the sum of their magnitudes, and 0
            where a response was never compared: along every other direction the set is unbounded.
            For example `rho (pi - nu)` where all responses of each prompt are linked.  The value
            is that of rewards with mean 0 over each linked set.

        Raises
        ------
        ValueError
            For weights along which the set is unbounded; the bounds are `-inf` and `inf`.
        ProfileError
            When the duality gap is too large.
        """
        bound = self._region.smallest(self._balanced(weights), self.radius)
        reward = _spread(self.data.shape, self._linked, bound.reward)
        return Minimum(bound.value, reward, bound.gap)

    def bounds(self, weights: ArrayLike) -> tuple[float, float]:
        """Return the smallest and the largest `sum_xy weights(x, y) r(x, y)`; see `minimize`."""
        return extremes(self, checks.as_matrix("weights", weights, self.data.shape))

    def _balanced(self, weights: ArrayLike) -> FloatArray:
        """Return the (N,) weights of the compared cells, summing to 0 over each linked set."""
        w = checks.as_matrix("weights", weights, self.data.shape)
        _refuse_uncompared(w, self.data)
        linked = self._linked
        mine = w.ravel()[linked.cells]
        total = np.bincount(linked.labels, weights=mine)
        off = np.abs(total) > BALANCE_TOLERANCE * np.bincount(linked.labels, weights=np.abs(mine))
        if off.any():
            first = int(off.argmax())
            prompt, responses = np.divmod(linked.cells[linked.labels == first], w.shape[1])
            raise ValueError(
                f"weights[{prompt[0]}] sums to {total[first].item()!r} over the responses "
                f"{responses.tolist()!s:.60} that comparisons link; it must sum to 0, since "
                "preferences leave their common constant free and the bounds are infinite"
            )
        return np.asarray(mine - (total / linked.sizes)[linked.labels])


def tabular_likelihood_set(data: PreferenceData | PairCounts, delta: float) -> TabularLikelihoodSet:
    """Return the set whose radius is Wilks's: asymptotically it misses `r*` with probability delta.

    `radius = 1/2 chi2_{1 - delta}(d)`, `d` the number of compared responses less the number of
    linked sets.  **Asymptotic**: `2 (max L - L(r*))` tends to chi-squared as the comparisons of
    every compared pair grow; with few of them coverage differs from the level.

    Parameters
    ----------
    data : PreferenceData or PairCounts
    delta : float in (0, 1)

    Raises
    ------
    MLEDoesNotExistError
        When a set of linked responses has no finite estimate.
    ValueError
        Bad input, or data that compare no two different responses.

    Source: Wilks 1938 (Ann. Math. Statist. 9, 1).
    """
    counts = as_counts(data)
    return TabularLikelihoodSet(counts, wilks_radius(linked_sets(counts).degrees, delta))


def wilks_radius(degrees: int, delta: float) -> float:
    """Return half the `1 - delta` quantile of chi-squared, the asymptotic drop of log-likelihood.

    With `degrees = 1`, the bounds of one functional have asymptotic coverage `1 - delta`; with the
    set's own `degrees`, those of all functionals at once.

    Parameters
    ----------
    degrees : int, at least 1
    delta : float in (0, 1)

    Returns
    -------
    float, in nats

    Source: Wilks 1938.
    """
    freedom = checks.whole_number("degrees", degrees, least=1)
    return float(gammainccinv(0.5 * freedom, as_level(delta)))


def _refuse_uncompared(weights: FloatArray, counts: PairCounts) -> None:
    bad = (weights != 0) & ~counts.compared
    if bad.any():
        x, y = (int(i[0]) for i in np.nonzero(bad))
        raise ValueError(
            f"weights[{x}, {y}] is {weights[x, y].item()!r}; it must be 0, since response {y} of "
            f"prompt {x} was never compared and the bounds are infinite"
        )


def _spread(shape: tuple[int, int], linked: LinkedSets, values: FloatArray) -> FloatArray:
    """Return the (X, Y) array with these values at the compared cells and 0 elsewhere."""
    full = np.zeros(shape[0] * shape[1])
    full[linked.cells] = values
    return full.reshape(shape)
