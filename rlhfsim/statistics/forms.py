"""Forms of overoptimization curves: the gain as a function of `d = sqrt(KL(pi || p))`.

A form is linear in its `linear` parameters, and has at most one more, the `shape`, inside its
columns.  So every fit is a search over one number with a closed form inside, and its global
optimum can be found.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray

Columns = Callable[[FloatArray, float], FloatArray]


# Cubes and their squares are floats.
_LARGEST = 1e30
# A peak beyond e^60 counts as none.
_FARTHEST = 60.0


@dataclass(frozen=True)
class Shape:
    """The parameter inside the columns of a form.

    Parameters
    ----------
    name : str
    low, high : float
        Where it is looked for; in units of 1/(largest d) when it is `scaled`, as one that
        multiplies d is.
    slope : function `(d, shape) -> (n, k)`
        Derivative of the columns in the shape.
    scaled : bool
    """

    name: str
    low: float
    high: float
    slope: Columns
    scaled: bool = False


@dataclass(frozen=True)
class Form:
    """`gain(d) = columns(d, shape) @ linear`, 0 at d = 0.

    Parameters
    ----------
    name, formula, source : str
    linear : tuple of str
        Names of the parameters that enter linearly.
    columns : function `(d, shape) -> (n, k)`
        Of (n,) distances; without a shape it is called with 0.
    peak : function `(linear parameters, shape) -> d`
        Where the gain is largest: 0 where it is nowhere positive, inf where it rises for ever.
    shape : Shape, optional
    """

    name: str
    formula: str
    source: str
    linear: tuple[str, ...]
    columns: Columns
    peak: Callable[[FloatArray, float], float]
    shape: Shape | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters: the linear ones, then the shape."""
        return self.linear if self.shape is None else (*self.linear, self.shape.name)

    def __call__(self, d: ArrayLike, *parameters: float) -> FloatArray:
        """Return the gain at distances d, in the unit of the linear parameters.

        Parameters
        ----------
        d : array
            Not negative, at most 1e30, in sqrt(nats).
        *parameters : floats
            In the order of `parameters`.

        Raises
        ------
        ValueError
            For negative d or another number of parameters.
        """
        distance = as_distances(d)
        if len(parameters) != len(self.parameters):
            raise ValueError(
                f"parameters has {len(parameters)} entries; "
                f"{self.name} takes {len(self.parameters)}: {', '.join(self.parameters)}"
            )
        theta = checks.as_real("parameters", parameters)
        linear, shape = self.split(theta)
        return np.asarray(self.columns(distance.reshape(-1), shape) @ linear).reshape(
            distance.shape
        )

    def split(self, theta: FloatArray) -> tuple[FloatArray, float]:
        """Return the linear parameters and the shape (0 without one) of all parameters."""
        count = len(self.linear)
        return theta[:count], float(theta[count]) if self.shape is not None else 0.0


def as_distances(d: ArrayLike) -> FloatArray:
    """Return an array of finite distances, not negative and at most 1e30."""
    array = checks.as_non_negative("d", d)
    if (array > _LARGEST).any():
        raise ValueError(f"d reaches {float(array.max())!r}; it must be at most {_LARGEST:g}")
    return array


def _log(d: FloatArray) -> FloatArray:
    """Return `log d`, and 0 at 0, where it is multiplied by powers of d."""
    return np.asarray(np.log(np.where(d > 0, d, 1.0)))


def _turn(a: float, b: float, log_d: Callable[[], float]) -> float:
    """Return the peak of a gain that starts with the sign of a and ends with that of -b."""
    if b > 0:
        if a <= 0:
            return 0.0
        found = log_d()
        return math.exp(found) if found < _FARTHEST else math.inf
    return math.inf if b < 0 or a > 0 else 0.0


def _best_of_n(d: FloatArray, shape: float) -> FloatArray:
    return np.stack([d, -d * d], axis=1)


def _best_of_n_peak(linear: FloatArray, shape: float) -> float:
    a, b = linear.tolist()
    return _turn(a, b, lambda: math.log(a) - math.log(2.0 * b))


def _rl(d: FloatArray, shape: float) -> FloatArray:
    return np.stack([d, -d * _log(d)], axis=1)


def _rl_peak(linear: FloatArray, shape: float) -> float:
    a, b = linear.tolist()
    # d log d falls before it rises: with b > 0 the gain starts upwards whatever a is.
    return _turn(1.0, b, lambda: a / b - 1.0) if b > 0 else _turn(a, b, lambda: math.inf)


def _cubic(d: FloatArray, shape: float) -> FloatArray:
    return np.stack([d, -(d**3)], axis=1)


def _cubic_peak(linear: FloatArray, shape: float) -> float:
    a, b = linear.tolist()
    return _turn(a, b, lambda: 0.5 * (math.log(a) - math.log(3.0 * b)))


def _proportional(d: FloatArray, shape: float) -> FloatArray:
    return d[:, None]


def _rising(linear: FloatArray, shape: float) -> float:
    return math.inf if linear[0] > 0 else 0.0


def _saturating(d: FloatArray, b: float) -> FloatArray:
    return np.asarray(-np.expm1(-b * d)[:, None])


def _saturating_slope(d: FloatArray, b: float) -> FloatArray:
    return np.asarray((d * np.exp(-b * d))[:, None])


def _power(d: FloatArray, c: float) -> FloatArray:
    return np.stack([d**c, -d * d], axis=1)


def _power_slope(d: FloatArray, c: float) -> FloatArray:
    return np.stack([d**c * _log(d), np.zeros_like(d)], axis=1)


def _power_peak(linear: FloatArray, c: float) -> float:
    a, b = linear.tolist()
    return _turn(a, b, lambda: (math.log(a) + math.log(0.5 * c) - math.log(b)) / (2.0 - c))


BEST_OF_N = Form(
    "best-of-n", "d (a - b d)", "arXiv 2210.10760", ("a", "b"),
    _best_of_n, _best_of_n_peak,
)  # fmt: skip
RL = Form(
    "RL", "d (a - b log d)", "arXiv 2210.10760", ("a", "b"), _rl, _rl_peak
)  # fmt: skip
CUBIC = Form("cubic", "d (a - b d^2)", "rival", ("a", "b"), _cubic, _cubic_peak)
PROPORTIONAL = Form("proportional", "a d", "rival: no fall", ("a",), _proportional, _rising)
SATURATING = Form(
    "saturating", "a (1 - exp(-b d))", "rival: no fall", ("a",), _saturating, _rising,
    Shape("b", 1e-3, 1e3, _saturating_slope, scaled=True),
)  # fmt: skip
POWER = Form(
    "power", "a d^c - b d^2", "rival; c = 1 is best-of-n", ("a", "b"), _power, _power_peak,
    Shape("c", 0.02, 1.95, _power_slope),
)  # fmt: skip

#: Every form, Gao et al.'s two first.
FORMS = (BEST_OF_N, RL, CUBIC, PROPORTIONAL, SATURATING, POWER)
