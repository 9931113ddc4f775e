"""The machine instructions that numba does not offer by name, and that vectorise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

_DOUBLE, _FLOAT = ir.DoubleType(), ir.FloatType()
_WORD, _HALF_WORD = ir.IntType(64), ir.IntType(32)

# Builders, contexts and values of llvmlite carry no types.
_Any = Any


def intrinsic(function: Callable[..., _Any]) -> _Any:
    """Register an intrinsic; calls of what comes back have not the signature of the function."""
    return _intrinsic(function)


def _call(builder: _Any, name: str, args: _Any, *fastmath: str) -> _Any:
    """Call the LLVM intrinsic `name` on doubles."""
    kind = ir.FunctionType(_DOUBLE, [_DOUBLE] * len(args))
    function = builder.module.declare_intrinsic(name, (_DOUBLE,), kind)
    return builder.call(function, args, fastmath=fastmath)


@intrinsic
def fma(typingctx: _Any, a: _Any, b: _Any, c: _Any) -> _Any:
    """Return `a b + c`, rounded once."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _call(builder, "llvm.fma", args)

    return types.float64(types.float64, types.float64, types.float64), codegen


@intrinsic
def larger(typingctx: _Any, a: _Any, b: _Any) -> _Any:
    """Return the larger number; a reduction by it vectorises, one by `if a > b` does not."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _call(builder, "llvm.maxnum", args, "nnan", "nsz")

    return types.float64(types.float64, types.float64), codegen


@intrinsic
def smaller(typingctx: _Any, a: _Any, b: _Any) -> _Any:
    """Return the smaller of two numbers."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _call(builder, "llvm.minnum", args, "nnan", "nsz")

    return types.float64(types.float64, types.float64), codegen


@intrinsic
def bits(typingctx: _Any, x: _Any) -> _Any:
    """Return the 64 bits of a double as an integer."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return builder.bitcast(args[0], _WORD)

    return types.int64(types.float64), codegen


@intrinsic
def from_bits(typingctx: _Any, word: _Any) -> _Any:
    """Return the double with these 64 bits."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return builder.bitcast(args[0], _DOUBLE)

    return types.float64(types.int64), codegen


@intrinsic
def bits32(typingctx: _Any, x: _Any) -> _Any:
    """Return the 32 bits of a single as an integer."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return builder.bitcast(args[0], _HALF_WORD)

    return types.int32(types.float32), codegen


@intrinsic
def from_bits32(typingctx: _Any, word: _Any) -> _Any:
    """Return the single with these 32 bits."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return builder.bitcast(args[0], _FLOAT)

    return types.float32(types.int32), codegen


@intrinsic
def fetch_add(typingctx: _Any, array: _Any, increment: _Any) -> _Any:
    """Add to `array[0]` atomically and return what it was."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, args[1], "monotonic")

    return types.int64(array, types.int64), codegen


@intrinsic
def prefetch(typingctx: _Any, array: _Any, index: _Any) -> _Any:
    """Ask for the cache line of `array[index]`, which may lie beyond the array: nothing is read."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte, word = ir.IntType(8).as_pointer(), _HALF_WORD
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = builder.module.declare_intrinsic("llvm.prefetch", (byte,), kind)
        place = builder.bitcast(builder.gep(data, [args[1]]), byte)
        # Reading, to be kept in the outer caches, data.
        builder.call(function, [place, *(ir.Constant(word, v) for v in (0, 2, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen
