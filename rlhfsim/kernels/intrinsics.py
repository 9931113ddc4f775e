"""The machine instructions that numba does not offer by name, on a number or on eight at once."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.np.arrayobj import populate_array

from rlhfsim.compiling import intrinsic
from rlhfsim.kernels.vectors import (
    FLOATS,
    bitcast,
    bits_of,
    call_on_vectors,
    number_of,
    signature_of,
    vectors_of,
)

_DOUBLE = ir.DoubleType()
_WORD, _HALF_WORD = ir.IntType(64), ir.IntType(32)

# Builders, contexts and values of llvmlite carry no types.
_Any = Any


def _call(
    builder: _Any, name: str, signature: _Any, args: _Any, flags: tuple[str, ...] = ()
) -> _Any:
    """Call the LLVM intrinsic `name` on doubles, or on vectors of them."""
    if signature.return_type in FLOATS:
        vectors = vectors_of(builder, signature, args)
        return call_on_vectors(name, builder, *vectors, flags=flags)
    kind = ir.FunctionType(_DOUBLE, [_DOUBLE] * len(args))
    function = builder.module.declare_intrinsic(name, (_DOUBLE,), kind)
    return builder.call(function, args, fastmath=flags)


@intrinsic
def fma(typingctx: _Any, a: _Any, b: _Any, c: _Any) -> _Any:
    """Return `a b + c`, rounded once."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _call(builder, "llvm.fma", signature, args)

    return signature_of(a, b, c), codegen


@intrinsic
def larger(typingctx: _Any, a: _Any, b: _Any) -> _Any:
    """Return the larger number; a reduction by it vectorises, one by `if a > b` does not."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _call(builder, "llvm.maxnum", signature, args, ("nnan", "nsz"))

    return signature_of(a, b), codegen


@intrinsic
def smaller(typingctx: _Any, a: _Any, b: _Any) -> _Any:
    """Return the smaller of two numbers."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _call(builder, "llvm.minnum", signature, args, ("nnan", "nsz"))

    return signature_of(a, b), codegen


@intrinsic
def bits(typingctx: _Any, x: _Any) -> _Any:
    """Return the bits of a double as an integer, or those of each lane of a vector."""
    words = bits_of(x)

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return bitcast(builder, args[0], words) if words else builder.bitcast(args[0], _WORD)

    return (words(x) if words else types.int64(types.float64)), codegen


@intrinsic
def from_bits(typingctx: _Any, word: _Any) -> _Any:
    """Return the double with these 64 bits, or the vector with these in each lane."""
    number = number_of(word)

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return bitcast(builder, args[0], number) if number else builder.bitcast(args[0], _DOUBLE)

    return (number(word) if number else types.float64(types.int64)), codegen


@intrinsic
def borrow(typingctx: _Any, array: _Any, begin: _Any, size: _Any) -> _Any:
    """Return the contiguous slice `array[begin : begin + size]`, which owns nothing.

    Other slices count references, with atomic additions that take as long as a pass over a short
    row.  The array must outlive the slice.
    """
    kind = types.Array(array.dtype, 1, "C", readonly=not array.mutable)

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        whole = context.make_array(array)(context, builder, args[0])
        slice_ = context.make_array(kind)(context, builder)
        data, item = builder.gep(whole.data, [args[1]]), whole.itemsize
        populate_array(  # type: ignore[no-untyped-call]
            slice_, data=data, shape=[args[2]], strides=[item], itemsize=item, meminfo=None
        )
        return slice_._getvalue()

    return kind(array, types.intp, types.intp), codegen


@intrinsic
def fetch_add(typingctx: _Any, array: _Any, increment: _Any) -> _Any:
    """Add to `array[0]` atomically and return what it was."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, args[1], "monotonic")

    return types.int64(array, types.int64), codegen


def _prefetch(context: _Any, builder: _Any, signature: _Any, args: _Any, *how: int) -> _Any:
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    byte, word = ir.IntType(8).as_pointer(), _HALF_WORD
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
    place = builder.bitcast(builder.gep(data, [args[1]]), byte)
    builder.call(function, [place, *(ir.Constant(word, v) for v in how)])
    return context.get_dummy_value()


@intrinsic
def prefetch(typingctx: _Any, array: _Any, index: _Any) -> _Any:
    """Ask for the cache line of `array[index]`, which may lie beyond the array: nothing is read."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        # Reading, to be kept in the outer caches, data.
        return _prefetch(context, builder, signature, args, 0, 2, 1)

    return types.void(array, types.intp), codegen


@intrinsic
def prefetch_to_write(typingctx: _Any, array: _Any, index: _Any) -> _Any:
    """Ask for the cache line of `array[index]`, which will be written; see `prefetch`."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _prefetch(context, builder, signature, args, 1, 3, 1)

    return types.void(array, types.intp), codegen
