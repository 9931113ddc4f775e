"""Numbers that rounding cannot touch: fractions while they are, balls elsewhere.

`Number` has the operators of Python and the methods that numpy calls on objects.  A comparison
that the balls leave open raises `UndecidedError`, and `float` of a number raises `TypeError`:
whatever is computed with numbers is either enclosed or not computed at all.

Source: ball arithmetic, arXiv 1611.02831.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from flint import arb, fmpq

from rlhfsim.certify.divergences import Ball

#: Fractions are raised to whole powers up to this; others become balls.
_LARGEST_POWER = 64


class UndecidedError(ArithmeticError):
    """Two balls overlap: more bits may tell which number is larger."""


class NoFormulaError(ValueError):
    """A side of a claim uses something that ball arithmetic has no formula for."""


class Number:
    """A fraction or a ball; infinities and nan are balls."""

    __slots__ = ("value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: Ball) -> None:
        self.value = value

    @classmethod
    def of(cls, value: Any) -> Number:
        """Return a number of Python or numpy as it is, a float as the fraction that it is."""
        if isinstance(value, Number):
            return value
        if isinstance(value, fmpq | arb):
            return cls(value)
        if isinstance(value, Fraction):
            return cls(fmpq(value.numerator, value.denominator))
        if isinstance(value, int | np.integer | np.bool_):
            return cls(fmpq(int(value)))
        if not isinstance(value, float | np.floating):
            raise TypeError(f"a {type(value).__name__} is no real number")
        if math.isnan(value):
            return cls(arb.nan())
        if math.isinf(value):
            return cls(arb.pos_inf() if value > 0 else arb.neg_inf())
        return cls(fmpq(*float(value).as_integer_ratio()))

    def __repr__(self) -> str:
        return f"Number({self.value})"

    def __float__(self) -> float:
        raise TypeError("a number in ball arithmetic is no float")

    def __bool__(self) -> bool:
        return self != Number(fmpq(0))

    @property
    def exact(self) -> bool:
        """Whether it is a fraction."""
        return isinstance(self.value, fmpq)

    @property
    def ball(self) -> arb:
        """The ball around it, in the working precision."""
        return arb(self.value) if isinstance(self.value, fmpq) else self.value

    # ---- comparisons ------------------------------------------------------------------------

    def _compare(self, other: Any, holds: Callable[[Any, Any], bool]) -> bool:
        one, two = self.value, Number.of(other).value
        if isinstance(one, fmpq) and isinstance(two, fmpq):
            return holds(one, two)
        a, b = arb(one), arb(two)
        # Only what holds for all numbers of both balls is known.
        below, above = bool(a < b), bool(a > b)
        equal = bool(a == b) and not below and not above
        if below or above or equal:
            return holds(-1 if below else int(above), 0)
        raise UndecidedError(f"{a} and {b} overlap")

    def __lt__(self, other: Any) -> bool:
        return self._compare(other, lambda a, b: bool(a < b))

    def __le__(self, other: Any) -> bool:
        return self._compare(other, lambda a, b: bool(a <= b))

    def __gt__(self, other: Any) -> bool:
        return self._compare(other, lambda a, b: bool(a > b))

    def __ge__(self, other: Any) -> bool:
        return self._compare(other, lambda a, b: bool(a >= b))

    def __eq__(self, other: object) -> bool:
        return self._compare(other, lambda a, b: bool(a == b))

    def __ne__(self, other: object) -> bool:
        return self._compare(other, lambda a, b: bool(a != b))

    # ---- arithmetic -------------------------------------------------------------------------

    def _with(self, other: Any, operation: Callable[[Any, Any], Any]) -> Number:
        if not isinstance(other, _SCALARS):
            # An array, or something else that knows what to do with a number.
            return NotImplemented
        one, two = self.value, Number.of(other).value
        if isinstance(one, fmpq) and isinstance(two, fmpq):
            return Number(operation(one, two))
        return Number(operation(arb(one), arb(two)))

    def __add__(self, other: Any) -> Number:
        return self._with(other, lambda a, b: a + b)

    def __sub__(self, other: Any) -> Number:
        return self._with(other, lambda a, b: a - b)

    def __mul__(self, other: Any) -> Number:
        return self._with(other, lambda a, b: a * b)

    def __truediv__(self, other: Any) -> Number:
        if not isinstance(other, _SCALARS):
            return NotImplemented
        divisor = Number.of(other)
        if not divisor.exact or divisor.value != 0:
            return self._with(divisor, lambda a, b: a / b)
        # As in floats: a sign over 0 is infinite.
        if self._unknown or self == 0:
            return Number(arb.nan())
        return Number(arb.pos_inf() if self > 0 else arb.neg_inf())

    def __radd__(self, other: Any) -> Number:
        return Number.of(other) + self

    def __rsub__(self, other: Any) -> Number:
        return Number.of(other) - self

    def __rmul__(self, other: Any) -> Number:
        return Number.of(other) * self

    def __rtruediv__(self, other: Any) -> Number:
        return Number.of(other) / self

    def __neg__(self) -> Number:
        return Number(-self.value)

    def __pos__(self) -> Number:
        return self

    def __abs__(self) -> Number:
        size: Any = abs(self.value)
        return Number(size)

    def __pow__(self, other: Any) -> Number:
        exponent = Number.of(other)
        power = exponent.value
        if isinstance(power, fmpq) and power.q == 1:
            return self._to_whole(int(power.p))
        if self.exact and self.value == 0:
            return Number.of(0.0 if exponent > 0 else math.inf)
        return Number(self.ball**exponent.ball)

    def _to_whole(self, power: int) -> Number:
        if self.exact and abs(power) > _LARGEST_POWER and self.value != 0:
            return Number(self.ball**power)
        raised: Any = self.value ** abs(power)
        return Number(raised) if power >= 0 else 1 / Number(raised)

    def __rpow__(self, other: Any) -> Number:
        return Number.of(other) ** self

    def maximum(self, other: Any) -> Number:
        """Return the larger of two numbers, whichever that is."""
        return self._with(other, lambda a, b: max(a, b) if isinstance(a, fmpq) else a.max(b))

    def minimum(self, other: Any) -> Number:
        """Return the smaller of two numbers, whichever that is."""
        return self._with(other, lambda a, b: min(a, b) if isinstance(a, fmpq) else a.min(b))

    # ---- functions: numpy calls these on arrays of objects ----------------------------------

    def _of_ball(self, function: Callable[[arb], arb], at_0: float | None = None) -> Number:
        if at_0 is not None and self.exact and self.value == 0:
            return Number.of(at_0)
        return Number(function(self.ball))

    @property
    def _unknown(self) -> bool:
        # The ball of everything: not a number, or one of which nothing is known.
        return isinstance(self.value, arb) and bool(self.value.is_nan())

    def log(self) -> Number:
        """Return the natural logarithm; `-inf` at 0."""
        if self.exact and self.value == 1:
            return Number(fmpq(0))
        if self.value == arb.pos_inf():
            return self
        return self._of_ball(arb.log, -math.inf)

    def exp(self) -> Number:
        """Return `e^x`."""
        if self.value == arb.pos_inf():
            return self
        return self._of_ball(arb.exp, 1.0)

    def expm1(self) -> Number:
        """Return `e^x - 1`."""
        if self.value == arb.pos_inf():
            return self
        return self._of_ball(arb.expm1, 0.0)

    def log1p(self) -> Number:
        """Return `log(1 + x)`."""
        return Number(fmpq(0)) if self.exact and self.value == 0 else (1 + self).log()

    def log2(self) -> Number:
        """Return the logarithm to base 2."""
        return self.log() / Number(arb(2).log())

    def log10(self) -> Number:
        """Return the logarithm to base 10."""
        return self.log() / Number(arb(10).log())

    def sqrt(self) -> Number:
        """Return the square root, a fraction where it is one."""
        if isinstance(self.value, fmpq) and self.value >= 0:
            p, q = math.isqrt(int(self.value.p)), math.isqrt(int(self.value.q))
            if p * p == self.value.p and q * q == self.value.q:
                return Number(fmpq(p, q))
        return self._of_ball(arb.sqrt)

    def tanh(self) -> Number:
        """Return the hyperbolic tangent."""
        return self._of_ball(arb.tanh, 0.0)

    def sin(self) -> Number:
        """Return the sine."""
        return self._of_ball(arb.sin, 0.0)

    def cos(self) -> Number:
        """Return the cosine."""
        return self._of_ball(arb.cos, 1.0)

    def conjugate(self) -> Number:
        """Return the number: it is real."""
        return self

    def square(self) -> Number:
        """Return `x^2`."""
        return self * self if self.exact else Number(self.ball**2)

    def reciprocal(self) -> Number:
        """Return `1/x`."""
        return 1 / self

    def sign(self) -> Number:
        """Return -1, 0 or 1."""
        return Number.of((self > 0) - (self < 0))

    def floor(self) -> Number:
        """Return the largest whole number that is not above."""
        if isinstance(self.value, fmpq):
            return Number(fmpq(self.value.floor()))
        return Number(arb(self.value.floor()))

    def ceil(self) -> Number:
        """Return the smallest whole number that is not below."""
        return -(-self).floor()

    def expit(self) -> Number:
        """Return `1/(1 + e^-x)`."""
        return 1 / (1 + (-self).exp())

    def log_expit(self) -> Number:
        """Return `-log(1 + e^-x)`."""
        return -((1 + (-self).exp()).log())

    def xlogy(self, other: Any) -> Number:
        """Return `x log y`, 0 where x is 0."""
        return self if self.exact and self.value == 0 else self * Number.of(other).log()

    # ---- what is not finite -----------------------------------------------------------------

    def isnan(self) -> bool:
        """Return whether it is not a number."""
        return not self.isinf() and not self.isfinite()

    def isinf(self) -> bool:
        """Return whether it is infinite."""
        return not self.exact and self.value in (arb.pos_inf(), arb.neg_inf())

    def isfinite(self) -> bool:
        """Return whether it is neither infinite nor nan."""
        if self.exact or self.isinf():
            return self.exact
        if not self.ball.is_finite():
            raise UndecidedError(f"{self.ball} may be finite or not")
        return True


#: What a number can be computed with.
_SCALARS = (Number, fmpq, arb, Fraction, int, float, np.integer, np.floating, np.bool_)
