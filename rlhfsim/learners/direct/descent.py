"""A local minimum of a smooth function of a few numbers: BFGS, then Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from rlhfsim.checks import FloatArray

Value = Callable[[FloatArray], float]
Gradient = Callable[[FloatArray], FloatArray]

_NEWTON_STEPS = 8
#: Step of the central differences of the gradient.
_DIFFERENCE = 1e-5
#: Curvature, as a share of the largest, below which a direction counts as flat.
_FLAT = 1e-12


class Descent(NamedTuple):
    """Where the descent ended."""

    point: FloatArray
    value: float
    #: Largest entry of the gradient.
    gradient: float
    #: Largest entry of the next Newton step, without flat directions; `inf` where the Hessian has
    #: a negative eigenvalue.
    step: float


def descend(value: Value, gradient: Gradient, start: FloatArray) -> Descent:
    """Return a local minimum.

    Where the function cannot be evaluated it counts as infinite.
    """

    def guarded(t: FloatArray) -> tuple[float, FloatArray]:
        try:
            return value(t), gradient(t)
        except (OverflowError, ValueError):
            return np.inf, np.zeros_like(t)

    with np.errstate(all="ignore"):
        rough = minimize(guarded, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    t = np.asarray(rough.x)
    slope, step = gradient(t), _newton(gradient, t)
    for _ in range(_NEWTON_STEPS):
        if step is None or np.abs(step).max() == 0:
            break
        trial = t + step
        after = guarded(trial)[1]
        if not (np.isfinite(after).all() and np.abs(after).max() < np.abs(slope).max()):
            break
        t, slope, step = trial, after, _newton(gradient, trial)
    length = np.inf if step is None else float(np.abs(step).max())
    return Descent(t, value(t), float(np.abs(slope).max()), length)


def _newton(gradient: Gradient, t: FloatArray) -> FloatArray | None:
    """Return the Newton step, by central differences; None where it may not lead down."""
    shifts = _DIFFERENCE * np.eye(len(t))
    try:
        rows = [gradient(t + shift) - gradient(t - shift) for shift in shifts]
        here = gradient(t)
    except (OverflowError, ValueError):
        return None
    hessian = np.array(rows) / (2.0 * _DIFFERENCE)
    if not np.isfinite(hessian).all():
        return None
    curvature, axes = np.linalg.eigh((hessian + hessian.T) / 2.0)
    largest = np.abs(curvature).max()
    if largest == 0:
        return np.zeros_like(t)
    noise = max(_FLAT * largest, 1e-10 * np.abs(here).max() / _DIFFERENCE)
    if curvature.min() < -np.sqrt(_FLAT) * largest:
        return None
    firm = curvature > noise
    along = axes.T @ here
    return np.asarray(-axes[:, firm] @ (along[firm] / curvature[firm]))
