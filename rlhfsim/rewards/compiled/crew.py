"""Threads that divide the blocks of one pass after another, without going back to the interpreter.

One thread leads: it opens a pass, takes blocks like the others, waits for those that others have
taken, and decides what comes next.  A thread that comes late, or never, delays nobody: its blocks
are taken by those that are there.  Which thread took a block leaves no trace in what it wrote.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from rlhfsim.checks import IntArray
from rlhfsim.compiling import EXACT, intrinsic

# Builders, contexts and values of llvmlite carry no types.
_Any = Any

# Words of the board on which threads meet, a cache line apart.
_TICKET, _DONE, _CLOSED = 0, 16, 32
BOARD = 48
# A ticket is the number of the pass times this, plus the next block.
_PASS = 1 << 32


def _pointer(context: _Any, builder: _Any, kind: _Any, array: _Any, index: _Any) -> _Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


@intrinsic
def _read(typingctx: _Any, array: _Any, index: _Any) -> _Any:
    """Return `array[index]`, and see all that was written before it was published."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        place = _pointer(context, builder, signature.args[0], *args)
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(array, types.intp), codegen


@intrinsic
def _publish(typingctx: _Any, array: _Any, index: _Any, value: _Any) -> _Any:
    """Write `array[index]` after all that was written before."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        place = _pointer(context, builder, signature.args[0], *args[:2])
        builder.store_atomic(args[2], place, "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), codegen


@intrinsic
def _take(typingctx: _Any, array: _Any, index: _Any) -> _Any:
    """Add 1 to `array[index]` and return what it was; orders memory both ways."""

    def codegen(context: _Any, builder: _Any, signature: _Any, args: _Any) -> _Any:
        place = _pointer(context, builder, signature.args[0], *args)
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "acq_rel")

    return types.int64(array, types.intp), codegen


@EXACT
def open_pass(board: IntArray, number: int) -> None:
    """Open pass number 1, 2, ...: let its blocks be taken."""
    _publish(board, _TICKET, number * _PASS)


@EXACT
def close(board: IntArray) -> None:
    """Send everybody home."""
    _publish(board, _CLOSED, 1)


@EXACT
def take_block(board: IntArray, blocks: int) -> int:
    """Return a block of the open pass that nobody else has; -1 when all are taken."""
    ticket = _read(board, _TICKET)
    if ticket < _PASS or ticket % _PASS >= blocks:
        return -1
    ticket = _take(board, _TICKET)
    block = ticket % _PASS
    return block if block < blocks else -1


@EXACT
def finish_block(board: IntArray) -> None:
    """Say that a block is done."""
    _take(board, _DONE)


@EXACT
def everything_done(board: IntArray, blocks: int) -> bool:
    """Return whether so many blocks are done, over all passes."""
    return _read(board, _DONE) >= blocks


@EXACT
def closed(board: IntArray) -> bool:
    """Return whether it is time to go home."""
    return _read(board, _CLOSED) > 0
