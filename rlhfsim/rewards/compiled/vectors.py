"""Eight float64 numbers as one value: one number for each of eight problems solved side by side.

Arithmetic on them is exact in each lane, as on scalars; there are no sums across lanes, so that no
lane's answer depends on what the others hold.  The compiler splits the vectors where the processor
has shorter registers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, overload, register_model

from rlhfsim.checks import FloatArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.intrinsics import intrinsic

LANES = 8

_DOUBLE = ir.DoubleType()
_VECTOR, _SINGLES = ir.VectorType(_DOUBLE, LANES), ir.VectorType(ir.FloatType(), LANES)
_INDEX = ir.IntType(32)

# Builders, contexts and values of llvmlite carry no types.
_Any = Any


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Vector8")


VECTOR = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: _Any, fe_type: _Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)  # type: ignore[no-untyped-call]


def _address(context: _Any, builder: _Any, kind: _Any, array: _Any, index: _Any) -> _Any:
    """Return where the eight numbers from `index` on are; they need not be aligned."""
    data = context.make_array(kind)(context, builder, array).data
    vector = _VECTOR if kind.dtype == types.float64 else _SINGLES
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


@intrinsic
def load(typingctx: _Any, array: _Any, index: _Any) -> _Any:
    """Return the eight numbers from `index` on of a contiguous array of floats."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        place = _address(context, builder, signature.args[0], *args)
        value = builder.load(place, align=4)
        return value if array.dtype == types.float64 else builder.fpext(value, _VECTOR)

    return VECTOR(array, types.intp), codegen


@intrinsic
def store(typingctx: _Any, array: _Any, index: _Any, value: _Any) -> _Any:
    """Write the eight numbers from `index` on of a contiguous array of floats."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        place = _address(context, builder, signature.args[0], *args[:2])
        single = array.dtype != types.float64
        builder.store(builder.fptrunc(args[2], _SINGLES) if single else args[2], place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, VECTOR), codegen


@intrinsic
def spread(typingctx: _Any, value: _Any) -> _Any:
    """Return the vector that holds one number in every lane."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), args[0], _INDEX(0))
        mask = ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES)
        return builder.shuffle_vector(one, one, mask)

    return VECTOR(types.float64), codegen


@intrinsic
def total(typingctx: _Any, vector: _Any) -> _Any:
    """Return the sum of the lanes, halves first."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        value, width = args[0], LANES
        while width > 1:
            width //= 2
            lower = ir.Constant(ir.VectorType(_INDEX, width), list(range(width)))
            upper = ir.Constant(ir.VectorType(_INDEX, width), list(range(width, 2 * width)))
            halves = (builder.shuffle_vector(value, value, half) for half in (lower, upper))
            value = builder.fadd(*halves)
        return builder.extract_element(value, _INDEX(0))

    return types.float64(VECTOR), codegen


def _binary(build: Callable[[_Any, _Any, _Any], _Any]) -> _Any:
    @intrinsic
    def operation(typingctx: _Any, a: _Any, b: _Any) -> _Any:
        def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
            return build(builder, args[0], args[1])

        return VECTOR(VECTOR, VECTOR), codegen

    return operation


def _intrinsic_call(name: str, builder: _Any, *args: _Any) -> _Any:
    name = f"{name}.v{LANES}f64"
    module = builder.module
    if name not in module.globals:
        ir.Function(module, ir.FunctionType(_VECTOR, [_VECTOR] * len(args)), name)
    return builder.call(module.globals[name], args)


_add = _binary(lambda builder, a, b: builder.fadd(a, b))
_sub = _binary(lambda builder, a, b: builder.fsub(a, b))
_mul = _binary(lambda builder, a, b: builder.fmul(a, b))
_div = _binary(lambda builder, a, b: builder.fdiv(a, b))
#: The larger and the smaller number of each lane; neither may be NaN.
largest = _binary(lambda builder, a, b: _intrinsic_call("llvm.maxnum", builder, a, b))
smallest = _binary(lambda builder, a, b: _intrinsic_call("llvm.minnum", builder, a, b))


@intrinsic
def multiply_add(typingctx: _Any, a: _Any, b: _Any, c: _Any) -> _Any:
    """Return `a b + c`, rounded once."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _intrinsic_call("llvm.fma", builder, *args)

    return VECTOR(VECTOR, VECTOR, VECTOR), codegen


@intrinsic
def where_positive(typingctx: _Any, a: _Any, b: _Any, c: _Any) -> _Any:
    """Return `b` in the lanes where `a > 0` and `c` in the others."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        positive = builder.fcmp_ordered(">", args[0], ir.Constant(_VECTOR, [0.0] * LANES))
        return builder.select(positive, args[1], args[2])

    return VECTOR(VECTOR, VECTOR, VECTOR), codegen


@EXACT
def load_lane(array: FloatArray, k: int) -> Any:
    """Return vector number k of an array of vectors."""
    return load(array, k * LANES)


@EXACT
def store_lane(array: FloatArray, k: int, value: Any) -> None:
    """Write vector number k of an array of vectors."""
    store(array, k * LANES, value)


def _register(symbol: _Any, operation: _Any) -> None:
    @overload(symbol)
    def of_vectors(a: _Any, b: _Any) -> _Any:
        def apply(a: _Any, b: _Any) -> _Any:
            return operation(a, b)

        return apply if a is VECTOR and b is VECTOR else None


for _symbol, _operation in (
    (operator.add, _add),
    (operator.sub, _sub),
    (operator.mul, _mul),
    (operator.truediv, _div),
):
    _register(_symbol, _operation)


@EXACT
def log_one_plus_ratio(small: Any, large: Any) -> Any:
    """Return `log(1 + small/large)` for `0 <= small <= large`, to 2 ulp.

    It is `2 artanh(s)`, `s = small/(small + 2 large)` at most 1/3, and `artanh(s)/s - 1` is `s^2`
    times a polynomial in it: a Chebyshev interpolant of degree 9, computed in 40 digits
    (`mpmath.chebyfit`), 5e-18 off.
    """
    s = small / (small + (large + large))
    z = s * s
    p = spread(0.08082022805972147)
    p = multiply_add(p, z, spread(0.044003692430721365))
    p = multiply_add(p, z, spread(0.06000536404795401))
    p = multiply_add(p, z, spread(0.06657072104827463))
    p = multiply_add(p, z, spread(0.07692785032479312))
    p = multiply_add(p, z, spread(0.09090894718066429))
    p = multiply_add(p, z, spread(0.11111111358713932))
    p = multiply_add(p, z, spread(0.1428571428355438))
    p = multiply_add(p, z, spread(0.20000000000007292))
    p = multiply_add(p, z, spread(0.3333333333333333))
    s = s + s
    return multiply_add(s, z * p, s)
