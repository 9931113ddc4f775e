"""The stratified bootstrap: intervals of any statistic, units resampled within their strata."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from rlhfsim import checks
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.statistics.inputs import as_level, as_values
from rlhfsim.statistics.intervals import Interval

#: From samples `(B, n)` or `(B, n, k)` to the `(B,)` values of the statistic.
Statistic = Callable[[FloatArray], Any]
Method = Literal["bca", "percentile", "basic"]
Strata = Sequence[Hashable] | NDArray[Any]

# Entries of a block of resamples: 8 MiB of floats.
_BLOCK = 1 << 20


@dataclass(frozen=True)
class _Units:
    """The units and their strata."""

    values: FloatArray
    #: (n,) stratum of each unit, from 0.
    label: IntArray
    #: Number of units of each stratum.
    sizes: IntArray

    @property
    def per_block(self) -> int:
        """How many samples of all units are held at once."""
        return max(1, _BLOCK // self.values.size)


def stratified_bootstrap(
    values: ArrayLike,
    strata: Strata | None,
    statistic: Statistic,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
    method: Method = "bca",
) -> Interval:
    """Return a statistic of the values with its bootstrap interval.

    Units are drawn with replacement within each stratum, as many as it has; position i of a
    resample holds a unit from the stratum of unit i.  With G the law of the statistic over the
    resamples (quantiles: the k-th smallest at k/(M + 1), linear in between), t the statistic of
    the values and `alpha = (1 - level)/2`:

    - "percentile": `[G^-1(alpha), G^-1(1 - alpha)]`;
    - "basic": `[2 t - G^-1(1 - alpha), 2 t - G^-1(alpha)]`;
    - "bca": the percentile interval at `Phi(z0 + (z0 + z)/(1 - a (z0 + z)))` for `z = -+ z_alpha`,
      with the bias `z0 = Phi^-1(P(G < t) + P(G = t)/2)` and the acceleration a of the
      jackknife within strata, `a = sum_s n_s^-3 sum_i l_i^3 / (6 (sum_s n_s^-2 sum_i l_i^2)^1.5)`.

    **Asymptotic** coverage: with an error of order 1/n for "bca", 1/sqrt(n) at either end for the
    others.

    Parameters
    ----------
    values : (n,) or (n, k) array
        One row for each unit, such as the two values of a pair.
    strata : (n,) labels or None
        None for one stratum.  Each has at least two units.
    statistic : function
        From (B, n) samples (or (B, n, k)) to B numbers; `numpy.mean`, `numpy.median` and
        others that take `axis` are called through a function of one argument.  "bca" also calls
        it with n - 1 units.
    rng : numpy.random.Generator
        The m-th resample is the same for every M.
    level : float in (0, 1)
    resamples : int
        M; large enough that no quantile beyond 1/(M + 1) from either end is asked for.
    method : "bca", "percentile" or "basic"

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        Bad input; a statistic that does not return B finite numbers; too few resamples for the
        level.

    Source: Efron 1987 (J. Amer. Statist. Assoc. 82, 171); Davison and Hinkley 1997, sections 3.2,
    5.3.2.
    """
    level = as_level(level)
    if method not in get_args(Method):
        raise ValueError(f"method is {method!r:.80}; it must be one of {get_args(Method)}")
    units = _as_units(values, strata)
    law = _distribution(units, statistic, rng, resamples)
    # A copy: the statistic may sort it in place.
    estimate = float(_apply(statistic, units.values[None].copy())[0])
    alphas = np.array([0.5 * (1.0 - level), 0.5 * (1.0 + level)])
    if method == "bca":
        influence = _influence(units, statistic) / units.sizes[units.label]
        alphas = _bca_levels(alphas, _bias(law, estimate), _acceleration(influence))
    low, high = _quantiles(law, alphas)
    if method == "basic":
        low, high = 2.0 * estimate - high, 2.0 * estimate - low
    name = "BCa" if method == "bca" else method
    return Interval(estimate, low, high, level, f"{name} bootstrap, {len(law)} resamples")


def bootstrap_distribution(
    values: ArrayLike,
    strata: Strata | None,
    statistic: Statistic,
    rng: np.random.Generator,
    resamples: int = 2000,
) -> FloatArray:
    """Return the (M,) values of the statistic on the resamples of `stratified_bootstrap`.

    Drawn in blocks of bounded memory; the numbers do not depend on the blocks.

    Raises
    ------
    ValueError
        Bad input, as `stratified_bootstrap`.
    """
    return _distribution(_as_units(values, strata), statistic, rng, resamples)


def _distribution(
    units: _Units, statistic: Statistic, rng: np.random.Generator, resamples: int
) -> FloatArray:
    number = checks.whole_number("resamples", resamples, least=1)
    rng = checks.generator("rng", rng)
    law = np.empty(number)
    order = np.argsort(units.label, kind="stable")
    first = (np.cumsum(units.sizes) - units.sizes)[units.label]
    size = units.sizes[units.label]
    for start in range(0, number, units.per_block):
        block = slice(start, min(start + units.per_block, number))
        # One double each, in order: a draw of bounded integers may use more of the stream.
        uniform = rng.random((block.stop - start, len(units.values)))
        drawn = order[first + np.floor(uniform * size).astype(np.int64)]
        law[block] = _apply(statistic, units.values[drawn])
    return law


def _as_units(values: ArrayLike, strata: Strata | None) -> _Units:
    rows = as_values("values", values)
    if rows.ndim > 2:
        raise ValueError(f"values has shape {rows.shape}; it must have shape (n,) or (n, k)")
    label = _codes(strata, len(rows))
    sizes = np.bincount(label)
    if sizes.min() < 2:
        index = int(np.flatnonzero(label == sizes.argmin())[0])
        alone = "values has 1 unit" if strata is None else f"strata[{index}] stands alone"
        raise ValueError(f"{alone}; a stratum must have at least 2 units")
    return _Units(rows, label, sizes)


def _codes(strata: Strata | None, n: int) -> IntArray:
    """Return 0, 1, ... in place of the labels, in the order of their first appearance."""
    if strata is None:
        return np.zeros(n, dtype=np.int64)
    labels = strata.tolist() if isinstance(strata, np.ndarray) else list(strata)
    if len(labels) != n:
        raise ValueError(f"strata has {len(labels)} labels; it must have {n}, one for each unit")
    for i, one in enumerate(labels):
        if not isinstance(one, Hashable) or one is None or one != one:
            raise ValueError(f"strata[{i}] is {one!r:.80}; it must be a label")
    code: dict[Hashable, int] = {}
    return np.array([code.setdefault(one, len(code)) for one in labels], dtype=np.int64)


def _apply(statistic: Statistic, samples: FloatArray) -> FloatArray:
    found = checks.as_real("statistic(samples)", statistic(samples))
    if found.shape != samples.shape[:1]:
        raise ValueError(
            f"statistic(samples) has shape {found.shape} for samples of shape {samples.shape}; "
            f"it must have shape {samples.shape[:1]}"
        )
    return found


def _influence(units: _Units, statistic: Statistic) -> FloatArray:
    """Return `(n_s - 1) (mean over the stratum of t_(-j) - t_(-i))` for every unit i."""
    n = len(units.values)
    without = np.empty(n)
    for start in range(0, n, units.per_block):
        left_out = np.arange(start, min(start + units.per_block, n))[:, None]
        kept = np.arange(n - 1)
        without[left_out[:, 0]] = _apply(statistic, units.values[kept + (kept >= left_out)])
    means = np.bincount(units.label, without) / units.sizes
    return np.asarray((units.sizes[units.label] - 1) * (means[units.label] - without))


def _acceleration(influence: FloatArray) -> float:
    """Return a, from influences over the sizes of their strata."""
    largest = np.abs(influence).max()
    if largest == 0.0:
        return 0.0
    scaled = influence / largest
    return float((scaled**3).sum() / (6.0 * np.square(scaled).sum() ** 1.5))


def _bias(law: FloatArray, estimate: float) -> float:
    share = ((law < estimate).mean() + (law <= estimate).mean()) / 2.0
    if not 0.0 < share < 1.0:
        raise ValueError(
            f"statistic is {estimate!r} on the values and on one side of that on all "
            f"{len(law)} resamples; bca has no interval then, take percentile or basic"
        )
    return float(ndtri(share))


def _bca_levels(alphas: FloatArray, bias: float, acceleration: float) -> FloatArray:
    z = bias + ndtri(alphas)
    slack = 1.0 - acceleration * z
    if (slack <= 0.0).any():
        raise ValueError(
            f"level is {alphas[1] - alphas[0]:.6g}; bca has no interval so far out where the "
            f"acceleration is {acceleration:.4g}, take percentile or basic"
        )
    return np.asarray(ndtr(bias + z / slack))


def _quantiles(law: FloatArray, alphas: FloatArray) -> tuple[float, float]:
    """Return two quantiles, which are not extrapolated."""
    least = float(min(alphas.min(), 1.0 - alphas.max()))
    # 1e-12: a level such as 0.95 with 39 resamples is exactly at the border but for rounding.
    if least * (len(law) + 1) < 1.0 - 1e-12:
        needed = f"at least {np.ceil(1.0 / least) - 1:.0f}" if least > 0 else "more"
        raise ValueError(
            f"resamples is {len(law)}; the ends of this interval are quantiles at "
            f"{alphas[0]:.3g} and {alphas[1]:.3g}, which need {needed}"
        )
    low, high = np.quantile(law, alphas, method="weibull")
    return float(low), float(high)
