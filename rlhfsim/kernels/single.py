"""The logarithm of Wright's omega in single precision: a first guess at a third of the price.

All functions are of vectors of eight singles.
"""

from __future__ import annotations

from typing import Any

from rlhfsim.compiling import EXACT
from rlhfsim.kernels.intrinsics import bits, fma, from_bits, larger, smaller
from rlhfsim.kernels.vectors import number, where_greater

# 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
_SHIFTER = 12582912.0
_LOG2_E, _LN_2 = 1.4426950, 0.69314718
_SQRT_HALF_BITS, _MANTISSA, _SHIFT = 0x3F3504F3, 0x007FFFFF, 23
#: Where the interpolant of `log_omega` begins and ends.
NEAR, FAR = -10.0, 18.0


@EXACT
def exp(s: Any) -> Any:
    """`e^s` for s in [-80, 80], within 2e-6."""
    exponent = s * _LOG2_E
    shifted = exponent + _SHIFTER
    f = exponent - (shifted - _SHIFTER)
    e = fma(0.0013390863364671234, f, 0.009676031918322054)
    e = fma(e, f, 0.05550357114219078)
    e = fma(e, f, 0.2402210748530834)
    e = fma(e, f, 0.6931471880262288)
    e = fma(e, f, 1.0000000754548972)
    return from_bits(bits(e) + (bits(shifted) << _SHIFT))


@EXACT
def log(x: Any) -> Any:
    """`log x` for positive normal x, within 2e-7, or that times itself where it is above 1."""
    b = bits(x) - _SQRT_HALF_BITS
    f = from_bits((b & _MANTISSA) + _SQRT_HALF_BITS) - 1.0
    p = fma(0.08533313082996152, f, -0.14269258206218832)
    p = fma(p, f, 0.14977401280127375)
    p = fma(p, f, -0.16577992896798863)
    p = fma(p, f, 0.1995593335838325)
    p = fma(p, f, -0.2500135218549606)
    p = fma(p, f, 0.3333419328613508)
    p = fma(p, f, -0.4999999638212389)
    p = fma(p, f, 0.9999999741310671)
    return fma(p, f, number(b >> _SHIFT) * _LN_2)


@EXACT
def log_omega(z: Any, far: bool) -> Any:
    """`log omega(z)`, within 1e-4; z is taken for FAR where it is above and `far` is not set.

    Between NEAR and FAR a rational interpolant of degrees 7 and 6, made by reweighted least squares
    against scipy's `wrightomega`; below, `log omega(z) = z - omega(z)` is z; above, the series
    `L - L/z - L (L - 2)/(2 z^2) - L (2 L^2 - 9 L + 6)/(6 z^3)`, `L = log z` (Corless et al. 1996).
    """
    x = smaller(z, FAR)
    t = fma(x, 1.0 / 14.0, -4.0 / 14.0)
    # Pairs first: the chain of dependent operations is what such loops wait for.
    t2 = t * t
    t4 = t2 * t2
    p = fma(
        fma(
            fma(1.9405562248183637, t, 3.0035159191271266), t2,
            fma(33.807585801164834, t, 51.56085210193124),
        ), t4,
        fma(
            fma(54.07254469556913, t, 29.879842399528822), t2,
            fma(9.367730194304729, t, 1.0737196540780567),
        ),
    )  # fmt: skip
    q = fma(
        fma(1.6178511580328871, t2, fma(7.504793185759681, t, 17.648330397186733)), t4,
        fma(fma(20.285148748089085, t, 14.293501734310057), t2, fma(5.402693041954613, t, 1.0)),
    )  # fmt: skip
    near = where_greater(x, NEAR, p / q, x)
    if not far:
        return near
    y = larger(z, FAR)
    above = log(y)
    inverse = 1.0 / y
    u = fma(fma(2.0, above, -9.0), above, 6.0) * (inverse * (1.0 / 6.0))
    u = fma(fma(0.5, above, -1.0) + u, inverse, 1.0)
    return where_greater(z, FAR, fma(-(above * inverse), u, above), near)
