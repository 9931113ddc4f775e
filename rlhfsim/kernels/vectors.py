"""Eight numbers as one value, for loops that must not depend on how they are vectorised.

`VECTOR` is of float64 and `SINGLES` of float32, whose operations cost half.  Arithmetic on them is
exact in each lane, as on scalars, and a float beside a vector stands for as many of itself.  The
compiler splits the vectors where the processor has shorter registers.  A loop over vectors may both
sum and store, and may ask for memory ahead: its order is written down, where that of a vectorised
scalar loop is the compiler's.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, overload, register_model
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray
from rlhfsim.compiling import EXACT, intrinsic

LANES = 8
WIDE = 2 * LANES

_DOUBLE, _FLOAT = ir.DoubleType(), ir.FloatType()
_WORD, _INDEX = ir.IntType(64), ir.IntType(32)
_VECTOR, _SINGLES = ir.VectorType(_DOUBLE, LANES), ir.VectorType(_FLOAT, LANES)
_WORDS, _INDICES = ir.VectorType(_WORD, LANES), ir.VectorType(_INDEX, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)

# Builders, contexts and values of llvmlite carry no types.
_Any = Any


class _Lanes(types.Type):
    """So many numbers of one kind; types are told apart by the name."""


#: What each kind is to LLVM.
_LAYOUT: dict[_Any, _Any] = {}


def _kind(name: str, element: _Any, lanes: int) -> _Lanes:
    kind = _Lanes(f"{name}{lanes}")
    _LAYOUT[kind] = ir.VectorType(element, lanes)
    return kind


#: Eight doubles and eight singles, and the integers that their bits are.
VECTOR, SINGLES = _kind("Vector", _DOUBLE, LANES), _kind("Singles", _FLOAT, LANES)
WORDS, HALF_WORDS = _kind("Words", _WORD, LANES), _kind("HalfWords", _INDEX, LANES)
#: Sixteen of each: two vectors joined, or the singles that fill the register of eight doubles.
WIDE_VECTOR, WIDE_SINGLES = _kind("Vector", _DOUBLE, WIDE), _kind("Singles", _FLOAT, WIDE)
WIDE_WORDS, WIDE_HALF_WORDS = _kind("Words", _WORD, WIDE), _kind("HalfWords", _INDEX, WIDE)

_BITS_OF = {
    VECTOR: WORDS,
    SINGLES: HALF_WORDS,
    WIDE_VECTOR: WIDE_WORDS,
    WIDE_SINGLES: WIDE_HALF_WORDS,
}
_NUMBER_OF = {words: floats for floats, words in _BITS_OF.items()}
FLOATS, _INTEGERS = tuple(_BITS_OF), tuple(_NUMBER_OF)
_SINGLES_OF = {VECTOR: SINGLES, WIDE_VECTOR: WIDE_SINGLES}
_DOUBLES_OF = {singles: doubles for doubles, singles in _SINGLES_OF.items()}


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: _Any, fe_type: _Any) -> None:
        super().__init__(dmm, fe_type, _LAYOUT[fe_type])  # type: ignore[no-untyped-call]


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
def holds_singles(typingctx: _Any, array: _Any) -> _Any:
    """Return whether an array is of float32, which is known when the loop is compiled."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return ir.Constant(ir.IntType(1), array.dtype == types.float32)

    return types.boolean(array), codegen


def _spread(builder: _Any, value: _Any, kind: _Any) -> _Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _INDEX(0))
    mask = ir.Constant(ir.VectorType(_INDEX, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, one, mask)


@intrinsic
def spread(typingctx: _Any, value: _Any) -> _Any:
    """Return the vector that holds one number in every lane."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _spread(builder, args[0], _VECTOR)

    return VECTOR(types.float64), codegen


def vectors_of(builder: _Any, signature: _Any, args: _Any) -> list[_Any]:
    """Return the arguments as vectors of the kind that the result is; floats go to every lane."""
    kind = signature.return_type
    layout = _LAYOUT[kind]
    vectors = []
    for given, x in zip(signature.args, args, strict=True):
        if given is not kind and layout.element == _FLOAT:
            x = builder.fptrunc(x, _FLOAT)
        vectors.append(x if given is kind else _spread(builder, x, layout))
    return vectors


def bits_of(kind: _Any) -> _Any:
    """Return the kind of integers that the bits of this kind of numbers are, or None."""
    return _BITS_OF.get(kind)


def number_of(kind: _Any) -> _Any:
    """Return the kind of numbers whose bits are integers of this kind, or None."""
    return _NUMBER_OF.get(kind)


def bitcast(builder: _Any, value: _Any, kind: _Any) -> _Any:
    """Return what the bits are as eight of another kind."""
    return builder.bitcast(value, _LAYOUT[kind])


def signature_of(*kinds: _Any) -> _Any:
    """Return that of a function of floats, of which some may be vectors: then so is the result."""
    for vector in FLOATS:
        if vector in kinds:
            return vector(*(vector if kind is vector else types.float64 for kind in kinds))
    return types.float64(*(types.float64,) * len(kinds))


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


def _own(array: _Any) -> _Any:
    return VECTOR if array.dtype == types.float64 else SINGLES


@intrinsic
def load_own(typingctx: _Any, array: _Any, k: _Any) -> _Any:
    """Return vector number k of an array of vectors, singles from an array of singles."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        index = builder.mul(args[1], _WORD(LANES))
        return builder.load(_address(context, builder, array, args[0], index), align=4)

    return _own(array)(array, types.intp), codegen


@intrinsic
def store_own(typingctx: _Any, array: _Any, k: _Any, value: _Any) -> _Any:
    """Write vector number k of an array of vectors, singles to an array of singles."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        index = builder.mul(args[1], _WORD(LANES))
        builder.store(args[2], _address(context, builder, array, args[0], index), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _own(array)), codegen


@intrinsic
def zero_of(typingctx: _Any, array: _Any) -> _Any:
    """Return the vector of zeros, singles for an array of singles."""
    kind = _own(array)

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return ir.Constant(_LAYOUT[kind], None)

    return kind(array), codegen


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
            return build(builder, *vectors_of(builder, signature, args))

        return signature_of(a, b), codegen

    return operation


def call_on_vectors(name: str, builder: _Any, *args: _Any, flags: tuple[str, ...] = ()) -> _Any:
    """Call an intrinsic of LLVM lane by lane."""
    layout = args[0].type
    bits = 64 if layout.element == _DOUBLE else 32
    function = _declare(builder, f"{name}.v{layout.count}f{bits}", layout, [layout] * len(args))
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
        if signature.return_type in FLOATS:
            args = vectors_of(builder, signature, args)
        a, b, c, d = args
        return builder.select(builder.fcmp_ordered(">", a, b), c, d)

    return signature_of(a, b, c, d), codegen


@intrinsic
def positive(typingctx: _Any, a: _Any) -> _Any:
    """Return the integer whose bit k says whether lane k of eight doubles is above 0."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        lanes = builder.fcmp_ordered(">", args[0], ir.Constant(_VECTOR, None))
        return builder.zext(builder.bitcast(lanes, ir.IntType(LANES)), _WORD)

    return types.int64(VECTOR), codegen


@intrinsic
def _negative(typingctx: _Any, a: _Any) -> _Any:
    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return builder.fneg(args[0])

    return a(a), codegen


@overload(operator.neg)
def _of_vector(a: _Any) -> _Any:
    def negative(a: _Any) -> _Any:
        return _negative(a)

    return negative if a in FLOATS else None


@intrinsic
def narrow(typingctx: _Any, a: _Any) -> _Any:
    """Return the doubles rounded to singles."""
    kind = _SINGLES_OF[a]

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return builder.fptrunc(args[0], _LAYOUT[kind])

    return kind(a), codegen


@intrinsic
def widen(typingctx: _Any, a: _Any) -> _Any:
    """Return the singles as doubles."""
    kind = _DOUBLES_OF[a]

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return builder.fpext(args[0], _LAYOUT[kind])

    return kind(a), codegen


@intrinsic
def number(typingctx: _Any, words: _Any) -> _Any:
    """Return the integers, which are the bits of singles, as such."""
    kind = _NUMBER_OF[words]

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return builder.sitofp(args[0], _LAYOUT[kind])

    return kind(words), codegen


@intrinsic
def join(typingctx: _Any, a: _Any, b: _Any) -> _Any:
    """Return two vectors of eight doubles as one of sixteen."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        lanes = ir.Constant(ir.VectorType(_INDEX, WIDE), list(range(WIDE)))
        return builder.shuffle_vector(*args, lanes)

    return WIDE_VECTOR(VECTOR, VECTOR), codegen


def _part(begin: int) -> _Any:
    @intrinsic
    def part(typingctx: _Any, wide: _Any) -> _Any:
        def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
            lanes = ir.Constant(_INDICES, list(range(begin, begin + LANES)))
            return builder.shuffle_vector(args[0], args[0], lanes)

        return VECTOR(WIDE_VECTOR), codegen

    return part


#: The two vectors that were joined.
first_part, second_part = _part(0), _part(LANES)


def _place_of_singles(context: _Any, builder: _Any, kind: _Any, array: _Any, index: _Any) -> _Any:
    data = context.make_array(kind)(context, builder, array).data
    place = builder.gep(builder.bitcast(data, _FLOAT.as_pointer()), [index])
    return builder.bitcast(place, _LAYOUT[WIDE_SINGLES].as_pointer())


@intrinsic
def store_singles(typingctx: _Any, array: _Any, index: _Any, value: _Any) -> _Any:
    """Write sixteen singles to an array of doubles, whose memory is taken for that of singles."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        place = _place_of_singles(context, builder, signature.args[0], *args[:2])
        builder.store(args[2], place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, WIDE_SINGLES), codegen


@intrinsic
def load_singles(typingctx: _Any, array: _Any, index: _Any) -> _Any:
    """Return what `store_singles` wrote."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return builder.load(_place_of_singles(context, builder, signature.args[0], *args), align=4)

    return WIDE_SINGLES(array, types.intp), codegen


def _binary_on_words(build: Callable[[_Any, _Any, _Any], _Any]) -> _Any:
    @intrinsic
    def operation(typingctx: _Any, a: _Any, b: _Any) -> _Any:
        kind = a if a in _INTEGERS else b

        def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
            words = []
            for given, x in zip(signature.args, args, strict=True):
                if given is not kind and _LAYOUT[kind].element == _INDEX:
                    x = builder.trunc(x, _INDEX)
                words.append(x if given is kind else _spread(builder, x, _LAYOUT[kind]))
            return build(builder, *words)

        if kind not in _INTEGERS:
            return None
        return kind(*(kind if given is kind else types.int64 for given in (a, b))), codegen

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
def take_wide(array: FloatArray, index: int, size: int, fill: float) -> Any:
    """Return the numbers from `index` up to `index + WIDE`, those from `size` on being `fill`."""
    return join(take(array, index, size, fill), take(array, index + LANES, size, fill))


@EXACT
def store_wide(array: FloatArray, index: int, value: Any) -> None:
    """Write sixteen numbers from `index` on of a contiguous array of floats."""
    store(array, index, first_part(value))
    store(array, index + LANES, second_part(value))


@EXACT
def folded(wide: Any) -> Any:
    """Return the sum of the two halves."""
    return first_part(wide) + second_part(wide)


@EXACT
def load_lane(array: FloatArray, k: int) -> Any:
    """Return vector number k of an array of vectors."""
    return load(array, k * LANES)


@EXACT
def store_lane(array: NDArray[Any], k: int, value: Any) -> None:
    """Write vector number k of an array of vectors."""
    store(array, k * LANES, value)


def _register(symbol: _Any, operation: _Any, kinds: _Any) -> None:
    @overload(symbol)
    def of_vectors(a: _Any, b: _Any) -> _Any:
        def apply(a: _Any, b: _Any) -> _Any:
            return operation(a, b)

        return apply if a in kinds or b in kinds else None


for _symbol, _operation, _kinds in (
    (operator.add, _add, FLOATS),
    (operator.sub, _sub, FLOATS),
    (operator.mul, _mul, FLOATS),
    (operator.truediv, _div, FLOATS),
    (operator.add, _add_words, _INTEGERS),
    (operator.sub, _sub_words, _INTEGERS),
    (operator.and_, _and_words, _INTEGERS),
    (operator.lshift, _shift_left, _INTEGERS),
    (operator.rshift, _shift_right, _INTEGERS),
):
    _register(_symbol, _operation, _kinds)
