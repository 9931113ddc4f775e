"""Wright omega in single precision: a good first guess at a third of the price.

Every constant is a `numpy.float32`, because a Python float would lift the arithmetic to double.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.compiling import EXACT
from rlhfsim.kernels.blocks import SingleArray
from rlhfsim.kernels.intrinsics import bits32, from_bits32

# numba widens integers as well, and LLVM narrows them again only where it is told to.
_F, _I = np.float32, np.int32
_HALF, _ONE, _TWO = _F(0.5), _F(1.0), _F(2.0)
_SHIFTER, _LOG2_E, _LN_2 = _F(12582912.0), _F(1.4426950), _F(0.69314718)
_E0, _E1, _E2 = _F(1.0000000754548972), _F(0.6931471880262288), _F(0.2402210748530834)
_E3, _E4, _E5 = _F(0.05550357114219078), _F(0.009676031918322054), _F(0.0013390863364671234)
_L0, _L1, _L2 = _F(0.9999999741310671), _F(-0.4999999638212389), _F(0.3333419328613508)
_L3, _L4, _L5 = _F(-0.2500135218549606), _F(0.1995593335838325), _F(-0.16577992896798863)
_L6, _L7, _L8 = _F(0.14977401280127375), _F(-0.14269258206218832), _F(0.08533313082996152)
_SQRT_HALF_BITS, _MANTISSA = np.int32(0x3F3504F3), np.int32(0x007FFFFF)
_SHIFT = np.int32(23)
_A, _B, _C, _TWO_THIRDS = _F(4.0 / 3.0), _F(7.0 / 3.0), _F(5.0 / 6.0), _F(2.0 / 3.0)
_LOWEST, _HUGE = _F(-80.0), _F(1e9)


@EXACT
def _exp(s: np.float32) -> np.float32:
    """`e^s` for s in [-80, 80], within 2e-6."""
    exponent = s * _LOG2_E
    shifted = exponent + _SHIFTER
    f = exponent - (shifted - _SHIFTER)
    # Pairs first: the chain of dependent operations is what such short loops wait for.
    square = f * f
    e = (_E0 + f * _E1) + square * ((_E2 + f * _E3) + square * (_E4 + f * _E5))
    return from_bits32(_I(bits32(e) + _I(bits32(shifted) << _SHIFT)))


@EXACT
def _log(x: np.float32) -> np.float32:
    """`log x`, within 2e-7 (absolute, near 1)."""
    b = _I(bits32(x) - _SQRT_HALF_BITS)
    f = from_bits32(_I(_I(b & _MANTISSA) + _SQRT_HALF_BITS)) - _ONE
    square = f * f
    fourth = square * square
    low = (_L0 + f * _L1) + square * (_L2 + f * _L3)
    high = (_L4 + f * _L5) + square * (_L6 + f * _L7)
    return f * (low + fourth * (high + fourth * _L8)) + _F(_I(b >> _SHIFT)) * _LN_2


@EXACT
def wright_omega(z: SingleArray, w: SingleArray, one: SingleArray) -> None:
    """Fill w with omega(z), within 2e-5 (relative) for z >= -80, e^-80 below; one = 1/(1 + w).

    Pade's approximant of Lambert's W below 1/2, `z - log z z/(1 + z)` above, both within 5 %; then
    one step of fourth order (Fritsch, Shafer & Crowley 1973).  A loop over singles alone has
    sixteen of them to a register.
    """
    for i in range(z.size):
        x = z[i] if z[i] > _LOWEST else _LOWEST
        e = _exp(x if x < _HALF else _HALF)
        y = x if x > _HALF else _HALF
        numerator = e + e * e * _A if x < _HALF else y * (_ONE + y - _log(y))
        denominator = _ONE + e * (_B + e * _C) if x < _HALF else _ONE + y
        w[i] = numerator / denominator
    for i in range(z.size):
        x = z[i] if z[i] > _LOWEST else _LOWEST
        rho = x - w[i] - _log(w[i])
        q = _ONE + w[i]
        m = _TWO * q * (q + _TWO_THIRDS * rho)
        better = w[i] + w[i] * (rho * (m - rho) / (q * (m - _TWO * rho)))
        # Far up omega(z) = z to 3e-8, and q^3 overflows.
        w[i] = better if x < _HUGE else x
        one[i] = _ONE / (_ONE + w[i])
