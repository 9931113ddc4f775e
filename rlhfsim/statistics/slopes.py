"""Exponents of power laws: slopes on log-log axes with intervals, their range, their curvature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaincc

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.statistics.bootstrap import Method, stratified_bootstrap
from rlhfsim.statistics.inputs import as_level, as_runs, as_sample, as_values, same_length
from rlhfsim.statistics.intervals import Interval, mean_interval
from rlhfsim.statistics.least_squares import least_squares


@dataclass(frozen=True)
class SlopeFit(Frozen):
    """`y ~ exp(intercept) x^slope` over a range of x, and how far from straight it is there."""

    slope: Interval
    #: `c` in `log y = a + s log x + c (log x)^2`; None where there are too few sizes.
    curvature: Interval | None
    #: The logarithm of the factor in front.
    intercept: float
    x_min: float
    x_max: float
    #: Largest `|log y - fitted|` over the sizes: how far the values are from a power.
    largest_residual: float
    #: P(chi-squared at least that of the residuals) when the errors are known: small where the
    #: power does not fit within them.  None else.
    misfit_p: float | None = None

    @property
    def drift(self) -> Interval | None:
        """Slope at `x_max` less slope at `x_min`, in the quadratic fit."""
        if self.curvature is None:
            return None
        length, c = 2.0 * math.log(self.x_max / self.x_min), self.curvature
        return Interval(length * c.estimate, length * c.low, length * c.high, c.level, c.method)

    @property
    def straight(self) -> bool | None:
        """Whether the interval of the curvature holds 0."""
        return None if self.curvature is None else 0.0 in self.curvature

    def __str__(self) -> str:
        """Return the slope, its range and its drift in one line."""
        drift = "not known" if self.drift is None else str(self.drift)
        return f"slope {self.slope} for x = {self.x_min:g}..{self.x_max:g}, drift {drift}"


def fit_slope(
    x: ArrayLike, y: ArrayLike, errors: ArrayLike | None = None, level: float = 0.95
) -> SlopeFit:
    """Return the least-squares slope of `log y` against `log x`, one y for each x.

    Without `errors` the interval is that of the regression (n - 2 degrees of freedom), right for
    noise of one variance in log y; for exact values it measures how far they are from a power.
    With standard errors of y, log y has the error `error/y` (to first order) and the weight of
    its inverse square; the interval is then normal, and `misfit_p` says whether it can be trusted.

    Parameters
    ----------
    x : (n,) array
        Positive, at least 3 different ones.
    y : (n,) array
        Positive.
    errors : (n,) array, optional
        Positive standard errors of y.
    level : float in (0, 1)

    Returns
    -------
    SlopeFit
        With a curvature from 4 values on (3 with errors).

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    """
    sizes, level = _as_sizes(x), as_level(level)
    log_x = np.log(sizes)
    values = checks.as_positive("y", as_sample("y", y, least=3))
    same_length(x=log_x, y=values)
    relative = None
    if errors is not None:
        known = checks.as_positive("errors", as_sample("errors", errors, least=3))
        same_length(x=log_x, errors=known)
        with np.errstate(over="ignore"):
            relative = as_values("errors/y", known / values)
        relative = checks.as_at_least("errors/y", relative, 1e-100)
    log_y, centre = np.log(values), float(log_x.mean())
    line = least_squares(_powers(log_x - centre, 2), log_y, relative)
    if line is None:
        raise ValueError(f"x spans from {sizes.min()!s} to {sizes.max()!s}; "
                         "it must span more, for a slope to be seen")  # fmt: skip
    curve = None
    if log_x.size >= (4 if relative is None else 3):
        curve = least_squares(_powers(log_x - centre, 3), log_y, relative)
    slope = line.interval(1, level)
    misfit = float(gammaincc(0.5 * line.freedom, 0.5 * line.sum_of_squares))
    return _slope_fit(
        sizes, log_y, slope, None if curve is None else curve.interval(2, level),
        float(line.estimate[0]) - slope.estimate * centre, None if relative is None else misfit,
    )  # fmt: skip


def fit_slope_of_runs(x: ArrayLike, runs: ArrayLike, level: float = 0.95) -> SlopeFit:
    """Return the mean over runs of their log-log slopes, with Student's interval.

    Each run (a seed) is a path of values at the same sizes; its noise may be correlated along the
    path, because only runs are taken to be independent.  The slope is that of the mean of log y;
    `bootstrap_slope` is about the log of the mean.

    Parameters
    ----------
    x : (S,) array
        Positive, at least 3 different ones.
    runs : (R, S) array
        Positive; R at least 2.
    level : float in (0, 1)

    Returns
    -------
    SlopeFit

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.
    """
    sizes, level = _as_sizes(x), as_level(level)
    log_x = np.log(sizes)
    values = checks.as_positive("runs", as_runs("runs", runs, sizes=log_x.size))
    log_y = np.log(values)
    slopes, curvatures = _slopes(log_x, log_y), _curvatures(log_x, log_y)
    slope, mean = mean_interval(slopes, level), log_y.mean(axis=0)
    intercept = float(mean.mean()) - slope.estimate * float(log_x.mean())
    return _slope_fit(sizes, mean, slope, mean_interval(curvatures, level), intercept)


def bootstrap_slope(
    x: ArrayLike,
    runs: ArrayLike,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
    method: Method = "bca",
) -> SlopeFit:
    """Return the slope of the log of the mean over runs, with runs resampled whole.

    The rate of an expectation is the slope of `log mean y`, which the mean of log y only shares
    where the relative noise is the same at all sizes.

    Parameters
    ----------
    x : (S,) array
        Positive, at least 3 different ones.
    runs : (R, S) array
        Positive; R at least 2.
    rng : numpy.random.Generator
    level, resamples, method
        As in `stratified_bootstrap`.

    Returns
    -------
    SlopeFit

    Raises
    ------
    ValueError
        Bad input, and as `stratified_bootstrap`.
    """
    sizes, level = _as_sizes(x), as_level(level)
    log_x = np.log(sizes)
    values = checks.as_positive("runs", as_runs("runs", runs, sizes=log_x.size))

    def interval(of: Callable[[FloatArray, FloatArray], FloatArray], own: int) -> Interval:
        return stratified_bootstrap(
            values, None, lambda s: of(log_x, np.log(s.mean(axis=1))),
            streams[own], level, resamples, method,
        )  # fmt: skip

    streams = checks.generator("rng", rng).spawn(2)
    slope, curvature = interval(_slopes, 0), interval(_curvatures, 1)
    mean = np.log(values.mean(axis=0))
    intercept = float(mean.mean()) - slope.estimate * float(log_x.mean())
    return _slope_fit(sizes, mean, slope, curvature, intercept)


def _as_sizes(x: ArrayLike) -> FloatArray:
    sizes = checks.as_positive("x", as_sample("x", x, least=3))
    if np.unique(sizes).size < 3:
        raise ValueError(f"x has {np.unique(sizes).size} different sizes; it must have at least 3")
    return sizes


def _powers(u: FloatArray, count: int) -> FloatArray:
    return np.stack([u**k for k in range(count)], axis=1)


def _slopes(log_x: FloatArray, log_y: FloatArray) -> FloatArray:
    """Return the (R,) slopes of (R, S) rows."""
    centred = log_x - log_x.mean()
    return np.asarray(log_y @ centred / (centred @ centred))


def _curvatures(log_x: FloatArray, log_y: FloatArray) -> FloatArray:
    """Return the (R,) quadratic coefficients of (R, S) rows."""
    centred = log_x - log_x.mean()
    q, r = np.linalg.qr(_powers(centred / np.abs(centred).max(), 3))
    return np.asarray(log_y @ q[:, 2] / (r[2, 2] * np.abs(centred).max() ** 2))


def _slope_fit(
    sizes: FloatArray,
    log_y: FloatArray,
    slope: Interval,
    curvature: Interval | None,
    intercept: float,
    misfit: float | None = None,
) -> SlopeFit:
    residuals = log_y - intercept - slope.estimate * np.log(sizes)
    return SlopeFit(
        slope=slope,
        curvature=curvature,
        intercept=intercept,
        x_min=float(sizes.min()),
        x_max=float(sizes.max()),
        largest_residual=float(np.abs(residuals).max()),
        misfit_p=misfit,
    )
