"""The machine instructions that numba does not offer by name, and that vectorise."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_DOUBLE = ir.DoubleType()
_WORD = ir.IntType(64)

# Builders, contexts and values of llvmlite carry no types.
_Any = Any


def _call(builder: _Any, name: str, args: _Any, *fastmath: str) -> _Any:
    """Call the LLVM intrinsic `name` on doubles."""
    kind = ir.FunctionType(_DOUBLE, [_DOUBLE] * len(args))
    function = builder.module.declare_intrinsic(name, (_DOUBLE,), kind)
    return builder.call(function, args, fastmath=fastmath)


@intrinsic
def fma(typingctx: _Any, a: _Any, b: _Any, c: _Any) -> _Any:
    """`a b + c`, rounded once."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _call(builder, "llvm.fma", args)

    return types.float64(types.float64, types.float64, types.float64), codegen


@intrinsic
def larger(typingctx: _Any, a: _Any, b: _Any) -> _Any:
    """The larger of two numbers; a reduction by it vectorises, one by `if a > b` does not."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _call(builder, "llvm.maxnum", args, "nnan", "nsz")

    return types.float64(types.float64, types.float64), codegen


@intrinsic
def smaller(typingctx: _Any, a: _Any, b: _Any) -> _Any:
    """The smaller of two numbers."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return _call(builder, "llvm.minnum", args, "nnan", "nsz")

    return types.float64(types.float64, types.float64), codegen


@intrinsic
def bits(typingctx: _Any, x: _Any) -> _Any:
    """The 64 bits of a double as an integer."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return builder.bitcast(args[0], _WORD)

    return types.int64(types.float64), codegen


@intrinsic
def from_bits(typingctx: _Any, word: _Any) -> _Any:
    """The double with these 64 bits."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        return builder.bitcast(args[0], _DOUBLE)

    return types.float64(types.int64), codegen


@intrinsic
def fetch_add(typingctx: _Any, array: _Any, increment: _Any) -> _Any:
    """Add to `array[0]` atomically and return what it was."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, args[1], "monotonic")

    return types.int64(array, types.int64), codegen
