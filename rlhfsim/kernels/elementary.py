"""exp and log from arithmetic alone, so that loops over them use vector registers.

All but `log` take a number or a vector of eight.

The polynomials are Chebyshev interpolants of the stated functions, computed in 40 digits
(`mpmath.chebyfit`); errors of the interpolants are below 4e-17 relative.
"""

from __future__ import annotations

import math
from typing import Any

from rlhfsim.compiling import EXACT
from rlhfsim.kernels.intrinsics import bits, fma, from_bits
from rlhfsim.kernels.vectors import where_greater

LOG2_E = 1.4426950408889634
# log2(e) minus its float.
LOG2_E_REST = 2.0355273740931033e-17
LN_2 = math.log(2.0)
_LN_2_HIGH = 0.6931471803691238
_LN_2_LOW = 1.9082149292705877e-10
# 1.5 * 2^52: adding it rounds to an integer, which then stands in the low bits.
_SHIFTER = 6755399441055744.0
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
_MANTISSA = 0x000FFFFFFFFFFFFF


@EXACT
def _power(f: float) -> float:
    """`(2^f - 1)/f` for `|f| <= 1/2`."""
    q = fma(4.4549605981865186e-10, f, 7.072585949269223e-09)
    q = fma(q, f, 1.0178062445845774e-07)
    q = fma(q, f, 1.321544258792169e-06)
    q = fma(q, f, 1.525273382983612e-05)
    q = fma(q, f, 0.0001540353044173605)
    q = fma(q, f, 0.0013333558146416936)
    q = fma(q, f, 0.009618129107606888)
    q = fma(q, f, 0.0555041086648216)
    q = fma(q, f, 0.24022650695910097)
    return fma(q, f, 0.6931471805599453)


@EXACT
def power_parts(d: float, scale: float, rest: float) -> tuple[float, float, float]:
    """Return `(f, 2^f, 2^(d (scale + rest)))`, f the part of the exponent in [-1/2, 1/2].

    For exponents in [-1020, 1020]; 1 ulp.  The product is exact up to the rounding of d itself.
    """
    shifted = fma(d, scale, _SHIFTER)
    whole = shifted - _SHIFTER
    f = fma(d, rest, fma(d, scale, -whole))
    e = fma(_power(f), f, 1.0)
    # The low bits of `shifted`, moved into the exponent field.
    return f, e, from_bits(bits(e) + (bits(shifted) << 52))


@EXACT
def far_power_parts(d: float, scale: float, rest: float) -> tuple[float, float, float]:
    """`power_parts` for any exponent up to 1020: gradual underflow, then 0."""
    d = where_greater(d * scale, -2000.0, d, -2000.0 / scale)
    shifted = fma(d, scale, _SHIFTER)
    whole = shifted - _SHIFTER
    f = fma(d, rest, fma(d, scale, -whole))
    e = fma(_power(f), f, 1.0)
    n = bits(shifted) - bits(_SHIFTER)
    half = n >> 1
    # In two factors, as 2^n may be below the smallest float where the product is not.
    power = (e * from_bits((half + 1023) << 52)) * from_bits((n - half + 1023) << 52)
    return f, e, power


@EXACT
def exp(s: float) -> float:
    """`e^s` for s <= 700 to 1 ulp; gradual underflow, then 0."""
    return far_power_parts(s, LOG2_E, LOG2_E_REST)[2]


@EXACT
def exp_minus_one(s: float) -> float:
    """`e^s - 1` for `|s| <= 0.346`, to 1 ulp of itself."""
    f = s * LOG2_E
    # What rounding s log2(e) lost.
    f_rest = fma(s, LOG2_E_REST, fma(s, LOG2_E, -f))
    return fma(_power(f), f, LN_2 * f_rest)


@EXACT
def _log_series(f: float) -> tuple[float, float, float]:
    """Return `(s, h + q, h)` so that `log(1 + f) = f + s (h + q) - h`, for f in [-0.293, 0.415].

    `s = f/(2 + f)`, `h = f^2/2`.
    """
    s = f / (2.0 + f)
    z = s * s
    r = fma(0.14616576421644387, z, 0.15331711346672997)
    r = fma(r, z, 0.18182889433757515)
    r = fma(r, z, 0.22222211130560726)
    r = fma(r, z, 0.28571428626001427)
    r = fma(r, z, 0.3999999999989945)
    h = 0.5 * f * f
    return s, h + fma(r, z, 0.666666666666667) * z, h


@EXACT
def log_near_one(f: Any) -> tuple[Any, Any]:
    """Return `(log(1 + f), log(1 + f) - f)` to 1 and 3 ulp, for f in [-0.293, 0.415]."""
    s, both, h = _log_series(f)
    bend = fma(s, both, -h)
    return f + bend, bend


@EXACT
def log(x: float) -> float:
    """`log x` for positive normal x, to 1 ulp."""
    b = bits(x) - _SQRT_HALF_BITS
    k = float(b >> 52)
    f = from_bits((b & _MANTISSA) + _SQRT_HALF_BITS) - 1.0
    s, both, h = _log_series(f)
    return fma(k, _LN_2_HIGH, f + (fma(s, both, k * _LN_2_LOW) - h))


@EXACT
def log_one_plus_ratio(small: Any, large: Any) -> Any:
    """Return `log(1 + small/large)` for `0 <= small <= large`, to 2 ulp.

    It is `2 artanh(s)`, `s = small/(small + 2 large)` at most 1/3, and `artanh(s)/s - 1` is `s^2`
    times a polynomial in it: a Chebyshev interpolant of degree 9, computed in 40 digits
    (`mpmath.chebyfit`), 5e-18 off.
    """
    s = small / (small + (large + large))
    z = s * s
    p = 0.08082022805972147
    p = fma(p, z, 0.044003692430721365)
    p = fma(p, z, 0.06000536404795401)
    p = fma(p, z, 0.06657072104827463)
    p = fma(p, z, 0.07692785032479312)
    p = fma(p, z, 0.09090894718066429)
    p = fma(p, z, 0.11111111358713932)
    p = fma(p, z, 0.1428571428355438)
    p = fma(p, z, 0.20000000000007292)
    p = fma(p, z, 0.3333333333333333)
    s = s + s
    return fma(s, z * p, s)
