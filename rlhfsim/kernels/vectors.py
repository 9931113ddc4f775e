"""Eight float64 numbers as one value, for loops that must not depend on how they are vectorised.

Arithmetic on them is exact in each lane, as on scalars, and a float beside a vector stands for
eight of itself.  The compiler splits the vectors where the processor has shorter registers.  A loop
over vectors may both sum and store, and may ask for memory ahead: its order is written down, where
that of a vectorised scalar loop is the compiler's.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, overload, register_model

from rlhfsim.checks import FloatArray
from rlhfsim.compiling import EXACT, intrinsic

LANES = 8

_DOUBLE, _FLOAT, _WORD = ir.DoubleType(), ir.FloatType(), ir.IntType(64)
_VECTOR, _SINGLES = ir.VectorType(_DOUBLE, LANES), ir.VectorType(_FLOAT, LANES)
_WORDS, _MASK = ir.VectorType(_WORD, LANES), ir.VectorType(ir.IntType(1), LANES)
_INDEX = ir.IntType(32)
_INDICES = ir.VectorType(_INDEX, LANES)

# Builders, contexts and values of llvmlite carry no types.
_Any = Any


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Vector8")


class _WordsType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Words8")


#: Eight doubles, and eight integers of 64 bits.
VECTOR, WORDS = _VectorType(), _WordsType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: _Any, fe_type: _Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)  # type: ignore[no-untyped-call]


@register_model(_WordsType)
class _WordsModel(models.PrimitiveModel):
    def __init__(self, dmm: _Any, fe_type: _Any) -> None:
        super().__init__(dmm, fe_type, _WORDS)  # type: ignore[no-untyped-call]


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


def _spread(builder: _Any, value: _Any, kind: _Any) -> _Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _INDEX(0))
    mask = ir.Constant(_INDICES, [0] * LANES)
    return builder.shuffle_vector(one, one, mask)


@intrinsic
def spread(typingctx: _Any, value: _Any) -> _Any:
    """Return the vector that holds one number in every lane."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _spread(builder, args[0], _VECTOR)

    return VECTOR(types.float64), codegen


def vectors_of(builder: _Any, kinds: _Any, args: _Any) -> list[_Any]:
    """Return the arguments as vectors, floats in every lane."""
    pairs = zip(kinds, args, strict=True)
    return [x if kind is VECTOR else _spread(builder, x, _VECTOR) for kind, x in pairs]


def as_words(builder: _Any, value: _Any) -> _Any:
    """Return the bits of a vector."""
    return builder.bitcast(value, _WORDS)


def as_vector(builder: _Any, words: _Any) -> _Any:
    """Return the vector of these bits."""
    return builder.bitcast(words, _VECTOR)


def signature_of(*kinds: _Any) -> _Any:
    """Return that of a function of floats, of which some may be vectors: then so is the result."""
    if VECTOR not in kinds:
        return types.float64(*(types.float64,) * len(kinds))
    return VECTOR(*(VECTOR if kind is VECTOR else types.float64 for kind in kinds))


def _lanes_below(builder: _Any, count: _Any) -> _Any:
    """Return the mask of the first `count` lanes."""
    lanes = ir.Constant(_WORDS, list(range(LANES)))
    return builder.icmp_signed("<", lanes, _spread(builder, count, _WORDS))


def _declare(builder: _Any, name: str, result: _Any, arguments: _Any) -> _Any:
    module = builder.module
    if name not in module.globals:
        ir.Function(module, ir.FunctionType(result, arguments), name)
    return module.globals[name]


@intrinsic
def load_first(typingctx: _Any, array: _Any, index: _Any, count: _Any, fill: _Any) -> _Any:
    """Return `count` numbers from `index` on of a contiguous array of floats, then `fill`."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        place = _address(context, builder, signature.args[0], *args[:2])
        mask, fill = _lanes_below(builder, args[2]), _spread(builder, args[3], _VECTOR)
        double = array.dtype == types.float64
        kind, short = (_VECTOR, "f64") if double else (_SINGLES, "f32")
        name = f"llvm.masked.load.v{LANES}{short}.p0"
        load = _declare(builder, name, kind, [place.type, _INDEX, _MASK, kind])
        rest = fill if double else builder.fptrunc(fill, _SINGLES)
        value = builder.call(load, [place, _INDEX(4), mask, rest])
        return value if double else builder.fpext(value, _VECTOR)

    return VECTOR(array, types.intp, types.intp, types.float64), codegen


@intrinsic
def store_first(typingctx: _Any, array: _Any, index: _Any, count: _Any, value: _Any) -> _Any:
    """Write the first `count` lanes from `index` on of a contiguous array of floats."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        place = _address(context, builder, signature.args[0], *args[:2])
        mask, double = _lanes_below(builder, args[2]), array.dtype == types.float64
        kind, short = (_VECTOR, "f64") if double else (_SINGLES, "f32")
        name = f"llvm.masked.store.v{LANES}{short}.p0"
        write = _declare(builder, name, ir.VoidType(), [kind, place.type, _INDEX, _MASK])
        value = args[3] if double else builder.fptrunc(args[3], _SINGLES)
        builder.call(write, [value, place, _INDEX(4), mask])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, VECTOR), codegen


def _reduction(combine: Callable[[_Any, _Any, _Any], _Any]) -> _Any:
    """Return a function that combines the lanes, halves first."""

    @intrinsic
    def reduce(typingctx: _Any, vector: _Any) -> _Any:
        def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
            value, width = args[0], LANES
            while width > 1:
                width //= 2
                # Lanes above `width` hold what nobody reads.
                lanes = [*range(width, 2 * width), *([0] * (LANES - width))]
                other = ir.Constant(_INDICES, lanes)
                value = combine(builder, value, builder.shuffle_vector(value, value, other))
            return builder.extract_element(value, _INDEX(0))

        return types.float64(VECTOR), codegen

    return reduce


@intrinsic
def transposed(typingctx: _Any, rows: _Any) -> _Any:
    """Return eight vectors of which number k holds lane k of each of eight given ones, in order."""
    kind = types.UniTuple(VECTOR, LANES)  # type: ignore[no-untyped-call]

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        vectors = [builder.extract_value(args[0], k) for k in range(LANES)]
        # Blocks of `width` lanes change places across the diagonal of every two such blocks.
        for width in (1, 2, 4):
            # Lane j of the first of two vectors keeps what is left of the diagonal.
            left = [j + (LANES - width if j & width else 0) for j in range(LANES)]
            masks = [ir.Constant(_INDICES, m) for m in (left, [j + width for j in left])]
            for k in range(LANES):
                if not k & width:
                    pair = vectors[k], vectors[k + width]
                    vectors[k], vectors[k + width] = (
                        builder.shuffle_vector(*pair, mask) for mask in masks
                    )
        return context.make_tuple(builder, kind, vectors)

    return (kind(rows), codegen) if rows == kind else None


def _binary(build: Callable[[_Any, _Any, _Any], _Any]) -> _Any:
    @intrinsic
    def operation(typingctx: _Any, a: _Any, b: _Any) -> _Any:
        def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
            return build(builder, *vectors_of(builder, signature.args, args))

        return signature_of(a, b), codegen

    return operation


def call_on_vectors(name: str, builder: _Any, *args: _Any, flags: tuple[str, ...] = ()) -> _Any:
    """Call an intrinsic of LLVM lane by lane."""
    function = _declare(builder, f"{name}.v{LANES}f64", _VECTOR, [_VECTOR] * len(args))
    return builder.call(function, args, fastmath=flags)


_add = _binary(lambda builder, a, b: builder.fadd(a, b))
_sub = _binary(lambda builder, a, b: builder.fsub(a, b))
_mul = _binary(lambda builder, a, b: builder.fmul(a, b))
_div = _binary(lambda builder, a, b: builder.fdiv(a, b))
#: The larger and the smaller number of each lane; a NaN gives way to the other number.
largest = _binary(lambda builder, a, b: call_on_vectors("llvm.maxnum", builder, a, b))
smallest = _binary(lambda builder, a, b: call_on_vectors("llvm.minnum", builder, a, b))


#: The sum of the lanes, and the largest and the smallest of them, where none is NaN.
total = _reduction(lambda builder, a, b: builder.fadd(a, b))
_NUMBERS = ("nnan", "nsz")
greatest = _reduction(lambda b, x, y: call_on_vectors("llvm.maxnum", b, x, y, flags=_NUMBERS))
least = _reduction(lambda b, x, y: call_on_vectors("llvm.minnum", b, x, y, flags=_NUMBERS))


@intrinsic
def where_greater(typingctx: _Any, a: _Any, b: _Any, c: _Any, d: _Any) -> _Any:
    """Return `c` in the lanes where `a > b` and `d` in the others; of numbers, `c` or `d`."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        if signature.return_type is VECTOR:
            args = vectors_of(builder, signature.args, args)
        a, b, c, d = args
        return builder.select(builder.fcmp_ordered(">", a, b), c, d)

    return signature_of(a, b, c, d), codegen


@intrinsic
def _negative(typingctx: _Any, a: _Any) -> _Any:
    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return builder.fneg(args[0])

    return VECTOR(VECTOR), codegen


@overload(operator.neg)
def _of_vector(a: _Any) -> _Any:
    def negative(a: _Any) -> _Any:
        return _negative(a)

    return negative if a is VECTOR else None


def _binary_on_words(build: Callable[[_Any, _Any, _Any], _Any]) -> _Any:
    @intrinsic
    def operation(typingctx: _Any, a: _Any, b: _Any) -> _Any:
        def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
            pairs = zip(signature.args, args, strict=True)
            words = (x if kind is WORDS else _spread(builder, x, _WORDS) for kind, x in pairs)
            return build(builder, *words)

        if WORDS not in (a, b):
            return None
        return WORDS(*(WORDS if kind is WORDS else types.int64 for kind in (a, b))), codegen

    return operation


_add_words = _binary_on_words(lambda builder, a, b: builder.add(a, b))
_sub_words = _binary_on_words(lambda builder, a, b: builder.sub(a, b))
_and_words = _binary_on_words(lambda builder, a, b: builder.and_(a, b))
_shift_left = _binary_on_words(lambda builder, a, b: builder.shl(a, b))
_shift_right = _binary_on_words(lambda builder, a, b: builder.ashr(a, b))


@EXACT
def take(array: FloatArray, index: int, size: int, fill: float) -> Any:
    """Return the numbers from `index` up to `index + LANES`, those from `size` on being `fill`."""
    if index + LANES <= size:
        return load(array, index)
    return load_first(array, index, size - index, fill)


@EXACT
def put(array: FloatArray, index: int, size: int, value: Any) -> None:
    """Write the lanes from `index` on, those from `size` on excepted."""
    if index + LANES <= size:
        store(array, index, value)
    else:
        store_first(array, index, size - index, value)


@EXACT
def load_lane(array: FloatArray, k: int) -> Any:
    """Return vector number k of an array of vectors."""
    return load(array, k * LANES)


@EXACT
def store_lane(array: FloatArray, k: int, value: Any) -> None:
    """Write vector number k of an array of vectors."""
    store(array, k * LANES, value)


def _register(symbol: _Any, operation: _Any, kind: _Any) -> None:
    @overload(symbol)
    def of_vectors(a: _Any, b: _Any) -> _Any:
        def apply(a: _Any, b: _Any) -> _Any:
            return operation(a, b)

        return apply if kind in (a, b) else None


for _symbol, _operation, _kind in (
    (operator.add, _add, VECTOR),
    (operator.sub, _sub, VECTOR),
    (operator.mul, _mul, VECTOR),
    (operator.truediv, _div, VECTOR),
    (operator.add, _add_words, WORDS),
    (operator.sub, _sub_words, WORDS),
    (operator.and_, _and_words, WORDS),
    (operator.lshift, _shift_left, WORDS),
    (operator.rshift, _shift_right, WORDS),
):
    _register(_symbol, _operation, _kind)
