"""Forms fitted to overoptimization curves, with intervals and residual checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import gammaincc

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen
from rlhfsim.statistics.forms import Form, Shape, as_distances
from rlhfsim.statistics.inputs import as_level, as_sample, same_length
from rlhfsim.statistics.intervals import Interval
from rlhfsim.statistics.least_squares import LinearFit, least_squares, smallest_squares
from rlhfsim.statistics.residuals import ResidualChecks, check_residuals

# Points of the grid over the shape, every local minimum of which is refined.
_GRID = 241
# Residuals below so many ulp of the largest gain are rounding.
_ROUNDING = 8.0 * float(np.finfo(np.float64).eps)
# Most of the squared residuals that the derivatives may still explain at a minimum.
_STATIONARY = 1e-9
_MOST_STEPS = 50
# Cubes of smaller distances, and their inverses, leave the floats.
_SMALLEST = 1e-30
# Rows of all matrices that are held at once.
_BLOCK = 1 << 19


class FormError(RuntimeError):
    """The data do not determine the parameters of a form."""


@dataclass(frozen=True, eq=False)
class FormFit(Frozen):
    """One form at its least squares; made by `fit_form`."""

    form: Form
    #: One interval for each of `form.parameters`, in their order.
    parameters: tuple[Interval, ...]
    #: `1 - sum residual^2 / sum (gain - mean)^2`, weighted where errors are known.
    r_squared: float
    #: Corrected Akaike criterion; lower is better, among fits to the same data only.
    aicc: float
    residual_checks: ResidualChecks
    #: (n,) gain less form, in the order of d; in units of the errors when they are known.
    residuals: FloatArray
    d_min: float
    d_max: float
    #: P(chi-squared at least that of the residuals) when the errors are known; None else.
    misfit_p: float | None

    def __post_init__(self) -> None:
        """Freeze."""
        object.__setattr__(self, "residuals", checks.frozen(self.residuals))

    @property
    def estimates(self) -> tuple[float, ...]:
        """The parameters without their intervals."""
        return tuple(p.estimate for p in self.parameters)

    @property
    def peak(self) -> tuple[float, float] | None:
        """The d of the largest gain and that gain; None where the form rises for ever.

        Beyond `d_max` it is an extrapolation.
        """
        d = self.form.peak(*self.form.split(np.array(self.estimates)))
        return (d, float(self(d))) if math.isfinite(d) else None

    def __call__(self, d: ArrayLike) -> FloatArray:
        """Return the fitted gain at distances d."""
        return self.form(d, *self.estimates)

    def __str__(self) -> str:
        """Return the formula with its numbers in one line."""
        names = zip(self.form.parameters, self.parameters, strict=True)
        numbers = ", ".join(f"{n} = {p.estimate:.4g} [{p.low:.4g}, {p.high:.4g}]" for n, p in names)
        return (
            f"{self.form.formula}: {numbers}; R2 {self.r_squared:.4f}, largest residual "
            f"{100 * self.residual_checks.largest:.2g} % of the range, "
            f"d = {self.d_min:g}..{self.d_max:g}"
        )


@dataclass(frozen=True)
class _Curve:
    """The data in the order of d, gains and errors in units of `unit`."""

    d: FloatArray
    gain: FloatArray
    errors: FloatArray | None
    #: A power of two near the largest gain.
    unit: float

    @property
    def weights(self) -> FloatArray:
        return np.ones(self.d.size) if self.errors is None else 1.0 / self.errors


def fit_form(
    form: Form,
    d: ArrayLike,
    gain: ArrayLike,
    errors: ArrayLike | None = None,
    level: float = 0.95,
) -> FormFit:
    """Return the least-squares fit of a form to one curve.

    Linear parameters in closed form; a shape by a search of its whole range, refined by
    Gauss-Newton steps to a stationary point.  Without `errors` the intervals are Student's, for
    independent normal noise of one variance; with standard errors of the gains they are normal,
    and `misfit_p` says whether the form fits within them.  Intervals with a shape hold to first
    order in the noise.  Where `residual_checks` sees a curve in the residuals, the form is wrong
    by more than the noise, and the intervals are about the best form of that kind, not a truth.

    Parameters
    ----------
    form : Form
        One of `FORMS`, or your own.
    d : (n,) array
        `sqrt(KL(pi || p))`, in sqrt(nats); not negative, the largest from 1e-30 to 1e30.
        Any order.
    gain : (n,) array
        `J(pi) - J(p)`, in reward units.
    errors : (n,) array, optional
        Positive standard errors of the gains, from 1e-50 to 1e50 of the largest gain.
    level : float in (0, 1)

    Returns
    -------
    FormFit

    Raises
    ------
    ValueError
        Bad input; fewer values than parameters + 3, or different positive d than parameters + 1;
        a constant gain.
    FormError
        If the data do not determine the parameters: the best shape lies at the end of its range,
        or columns are dependent.

    Source: arXiv 2210.10760.
    """
    curve, level = _as_curve(form, d, gain, errors), as_level(level)
    if form.shape is None:
        design = form.columns(curve.d, 0.0)
        fit = _solved(form, design, curve.gain, curve)
    else:
        design, fit = _with_shape(form, form.shape, curve)
    away = np.abs(fit.residuals / curve.weights)
    # Residuals of an exact curve are rounding, whose pattern says nothing about the form.
    seen = np.where(away > _ROUNDING, fit.residuals, 0.0)
    whitened, largest = design * curve.weights[:, None], float(away.max() / np.ptp(curve.gain))
    misfit = float(gammaincc(0.5 * fit.freedom, 0.5 * fit.sum_of_squares))
    return FormFit(
        form=form,
        parameters=_parameters(form, fit, level, curve.unit),
        r_squared=1.0 - fit.sum_of_squares / _total(curve),
        aicc=_aicc(fit, curve.unit),
        residual_checks=check_residuals(seen, whitened, largest),
        residuals=fit.residuals if fit.weighted else fit.residuals * curve.unit,
        d_min=float(curve.d[0]),
        d_max=float(curve.d[-1]),
        misfit_p=None if errors is None else misfit,
    )


def _as_curve(form: Form, d: ArrayLike, gain: ArrayLike, errors: ArrayLike | None) -> _Curve:
    least = len(form.parameters) + 3
    distance = as_distances(as_sample("d", d, least=least))
    values = as_sample("gain", gain, least=least)
    same_length(d=distance, gain=values)
    different = np.unique(distance[distance > 0]).size
    if different < least - 2:
        raise ValueError(
            f"d has {different} different positive values; {form.name} needs at least {least - 2}"
        )
    if (values == values[0]).all():
        raise ValueError(f"gain is {values[0].item()!r} everywhere; it must vary")
    if distance.max() < _SMALLEST:
        raise ValueError(f"d is at most {float(distance.max())!r}; it must reach {_SMALLEST:g}")
    order, largest = np.argsort(distance, kind="stable"), float(np.abs(values).max())
    unit = 2.0 ** math.floor(math.log2(largest))
    if errors is None:
        return _Curve(distance[order], values[order] / unit, None, unit)
    known = checks.as_positive("errors", as_sample("errors", errors, least=least))
    same_length(d=distance, errors=known)
    with np.errstate(over="ignore"):
        relative = checks.as_at_least("errors/max|gain|", known / largest, 1e-50)
    if relative.max() > 1e50:
        raise ValueError(
            f"errors/max|gain|[{int(relative.argmax())}] is {float(relative.max())!r}; "
            "it must be at most 1e+50"
        )
    return _Curve(distance[order], values[order] / unit, known[order] / unit, unit)


def _parameters(form: Form, fit: LinearFit, level: float, unit: float) -> tuple[Interval, ...]:
    """Return the intervals, the linear ones in the unit of the gain again."""
    found = [fit.interval(i, level) for i in range(len(form.parameters))]
    units = [unit] * len(form.linear) + [1.0] * (len(found) - len(form.linear))
    return tuple(
        replace(one, estimate=u * one.estimate, low=u * one.low, high=u * one.high)
        for one, u in zip(found, units, strict=True)
    )


def _solved(form: Form, design: FloatArray, target: FloatArray, curve: _Curve) -> LinearFit:
    fit = least_squares(design, target, curve.errors)
    if fit is None:
        raise FormError(f"{form.name}: the columns of {form.formula} are dependent on these d")
    return fit


def _with_shape(form: Form, shape: Shape, curve: _Curve) -> tuple[FloatArray, LinearFit]:
    """Return the derivatives in all parameters at the global minimum, and the fit there."""
    start = _best_shape(form, shape, curve)
    linear = _solved(form, form.columns(curve.d, start), curve.gain, curve).estimate
    theta = np.append(linear, start)
    left, squares = _left(form, theta, curve)
    rounding = (_ROUNDING * float(np.abs(curve.gain * curve.weights).max())) ** 2 * left.size
    for _ in range(_MOST_STEPS):
        design = _derivatives(form, shape, curve.d, theta)
        step = _solved(form, design, left, curve)
        if squares - step.sum_of_squares <= _STATIONARY * squares + rounding:
            return design, replace(step, estimate=theta, residuals=left * curve.weights)
        theta = theta + step.estimate
        left, after = _left(form, theta, curve)
        if not (after < squares and theta[-1] > 0):
            break
        squares = after
    raise FormError(f"{form.name}: no stationary point was reached from {shape.name} = {start:.6g}")


def _left(form: Form, theta: FloatArray, curve: _Curve) -> tuple[FloatArray, float]:
    """Return gain less form, and its weighted sum of squares."""
    with np.errstate(over="ignore", invalid="ignore"):
        left = curve.gain - form.columns(curve.d, float(theta[-1])) @ theta[:-1]
        return left, float(np.square(left * curve.weights).sum())


def _derivatives(form: Form, shape: Shape, d: FloatArray, theta: FloatArray) -> FloatArray:
    own = shape.slope(d, float(theta[-1])) @ theta[:-1]
    return np.column_stack([form.columns(d, float(theta[-1])), own])


def _best_shape(form: Form, shape: Shape, curve: _Curve) -> float:
    """Return the shape of least squares: a grid over the range, its minima refined."""
    unit = math.log(curve.d[-1]) if shape.scaled else 0.0
    block = max(1, _BLOCK // curve.d.size)

    def at(s: float) -> float:
        return math.exp(s - unit) if shape.scaled else s

    def losses(points: FloatArray) -> FloatArray:
        parts = []
        for start in range(0, points.size, block):
            some = [form.columns(curve.d, at(s)) for s in points[start : start + block].tolist()]
            parts.append(smallest_squares(np.stack(some), curve.gain, curve.errors))
        return np.concatenate(parts)

    low, high = (math.log(e) if shape.scaled else e for e in (shape.low, shape.high))
    grid = np.linspace(low, high, _GRID)
    best = _refined(losses, grid)
    if best is None:
        raise FormError(
            f"{form.name}: the squares are least at an end of the range of {shape.name}, "
            f"{at(float(grid[0])):.3g} to {at(float(grid[-1])):.3g}; "
            "the data do not determine it"
        )
    return at(best)


def _refined(losses: Callable[[FloatArray], FloatArray], grid: FloatArray) -> float | None:
    """Return the best refined local minimum; None where an end is better."""
    all_losses = losses(grid)
    left, inner, right = all_losses[:-2], all_losses[1:-1], all_losses[2:]
    # Far out the loss is flat: wiggles of rounding are no minima.
    deep = np.maximum(left, right) > inner * (1.0 + 1e-12)
    minima = np.flatnonzero((inner <= left) & (inner <= right) & deep) + 1
    found = []
    for i in minima.tolist():
        # The loss is inf where columns are dependent, and scipy takes differences of it.
        with np.errstate(invalid="ignore"):
            result = minimize_scalar(
                lambda s: float(losses(np.array([s]))[0]),
                bounds=(float(grid[i - 1]), float(grid[i + 1])),
                method="bounded",
                options={"xatol": 1e-10},
            )
        found.append((float(result.fun), float(result.x)))
    best = min(found, default=(math.inf, 0.0))
    return None if min(all_losses[0], all_losses[-1]) <= best[0] else best[1]


def _total(curve: _Curve) -> float:
    w = curve.weights**2
    mean = float((w * curve.gain).sum() / w.sum())
    return float((w * (curve.gain - mean) ** 2).sum())


def _aicc(fit: LinearFit, unit: float) -> float:
    """Return `-2 log likelihood + 2 k n/(n - k - 1)`, without terms that no fit changes.

    k counts the parameters, and the variance where it is not known.
    """
    n = fit.residuals.size
    if fit.weighted:
        k, deviance = fit.estimate.size, fit.sum_of_squares
    else:
        # Squares of rounding tell no form from another.
        mean = max(fit.sum_of_squares / n, _ROUNDING**2)
        k, deviance = fit.estimate.size + 1, n * (math.log(mean) + 2.0 * math.log(unit))
    return deviance + 2.0 * k * n / (n - k - 1)
