"""Alias tables: a draw from Y weights by one random word and one or two reads.

Y buckets have the same mass; bucket j gives j below its threshold and its alias above.  Weights
become integers that sum to `Y U`, `U = 2^(62 - b)` the mass of a bucket and `b` the bits of an
index, so that filling the buckets is exact: the law of a table is its weights divided by their sum,
each rounded to about 2^-50 of itself plus 2^-62, and the largest one to 2^-50.  A weight of 0 has
threshold 0 and is nobody's alias: it is never drawn.  An entry packs a threshold, which goes up to
U, above the b bits of an alias.

A word u gives the bucket `floor(u Y / 2^64)` and, by the rest of that product, the place in it;
this adds at most 2^-64 per bucket that leads to a response.

A short entry of 32 bits (64 where indices are long) holds the alias, the upper bits of the
threshold, and a code of the response for the label (see `labels`): random reads in a smaller array
cost less.  Where the bits that it has do not decide, the long entry does, so that draws are the
same.

Source: Walker 1977; Vose 1991; the order of filling is that of Hübschle-Schneider and Sanders 2022.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numpy.typing import NDArray

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.compiling import EXACT, intrinsic
from rlhfsim.kernels.intrinsics import prefetch
from rlhfsim.sampling.philox import Word, WordArray

_W = np.uint64
_WORD, _DOUBLE_WORD = ir.IntType(64), ir.IntType(128)
_ONE = _W(1)
#: Bits of an index and a threshold together.
TABLE_BITS = 62
# A place in a bucket has two bits more.
_SPARE = _W(64 - TABLE_BITS)

ShortArray = NDArray[Any]


def index_bits(size: int) -> int:
    """Return how many bits an index below `size` needs."""
    return (size - 1).bit_length()


def _product(builder: Any, args: Any) -> Any:
    return builder.mul(*(builder.zext(word, _DOUBLE_WORD) for word in args))


@intrinsic
def product_high(typingctx: Any, a: Any, b: Any) -> Any:
    """Return the upper 64 bits of the product of two words."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        shifted = builder.lshr(_product(builder, args), ir.Constant(_DOUBLE_WORD, 64))
        return builder.trunc(shifted, _WORD)

    return types.uint64(types.uint64, types.uint64), codegen


@intrinsic
def product_low(typingctx: Any, a: Any, b: Any) -> Any:
    """Return the lower 64 bits of the product of two words: one instruction with the upper ones."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.trunc(_product(builder, args), _WORD)

    return types.uint64(types.uint64, types.uint64), codegen


# ---- building ------------------------------------------------------------------------------------


@EXACT
def _masses(weights: FloatArray, whole: int, mass: IntArray) -> None:
    """Fill `mass` with integers that sum to `whole` in the proportions of the weights."""
    scale = float(whole)
    total = 0
    for y in range(weights.size):
        total += int(np.rint(weights[y] * scale))
    scale *= float(whole) / float(total)
    largest = 0
    total = 0
    for y in range(weights.size):
        mass[y] = int(np.rint(weights[y] * scale))
        total += mass[y]
    for y in range(weights.size):
        if mass[y] > mass[largest]:
            largest = y
    mass[largest] += whole - total


@EXACT
def fill_table(
    weights: FloatArray, bits: int, table: WordArray, mass: IntArray, order: IntArray
) -> None:
    """Fill the alias table of Y weights.

    Parameters
    ----------
    weights : (Y,) array
        Non-negative, with a sum within 1e-9 of 1.
    bits : int
        `index_bits(Y)`.
    table : (Y,) array, written
    mass, order : (Y,) arrays of scratch
    """
    size = weights.size
    unit = 1 << (TABLE_BITS - bits)
    shift = _W(bits)
    _masses(weights, size * unit, mass)
    # Buckets with less than their share from the front, those with more from the back.
    light, heavy = 0, size - 1
    for y in range(size):
        more = mass[y] > unit
        order[heavy if more else light] = y
        heavy -= 1 if more else 0
        light += 0 if more else 1
    last, light, heavy = heavy, 0, size - 1
    at = order[heavy]
    left = mass[at]
    while heavy > last:
        if left > unit:
            y = order[light]
            light += 1
            table[y] = (_W(mass[y]) << shift) | _W(at)
            left -= unit - mass[y]
        else:
            # What is left of this response fills less than its bucket; the next one completes it.
            heavy -= 1
            y, at = at, (order[heavy] if heavy > last else at)
            table[y] = (_W(left) << shift) | _W(at)
            if heavy > last:
                left = mass[at] - (unit - left)
    while light <= last:
        y = order[light]
        light += 1
        table[y] = (_W(unit) << shift) | _W(y)


@EXACT
def shorten(entry: Word, bits: int, code: Word, code_bits: int, threshold_bits: int) -> Word:
    """Return the short entry: threshold, code, alias from the top down."""
    threshold = entry >> _W(TABLE_BITS - threshold_bits)
    most = (_ONE << _W(threshold_bits)) - _ONE
    # A full bucket would need one bit more; its last place is left to the long entry.
    threshold = min(threshold, most)
    alias = entry & ((_ONE << _W(bits)) - _ONE)
    return (((threshold << _W(code_bits)) | code) << _W(bits)) | alias


# ---- drawing -------------------------------------------------------------------------------------


@EXACT
def pick(table: WordArray, base: Word, size: Word, bits: Word, word: Word) -> Word:
    """Return the index drawn by a word from the table whose entries begin at `base`."""
    j = product_high(word, size)
    place = product_low(word, size) >> (_SPARE + bits)
    entry = table[base + j]
    return j if place < (entry >> bits) else entry & ((_ONE << bits) - _ONE)


@EXACT
def fetch_all(short: ShortArray, base: WordArray, size: Word, words: WordArray) -> None:
    """Ask for the short entries that `pick_all` will read."""
    for i in range(words.size):
        prefetch(short, np.int64(base[i] + product_high(words[i], size)))


@EXACT
def pick_all(
    short: ShortArray, table: WordArray, base: WordArray, size: Word, bits: Word, code_bits: Word,
    threshold_bits: Word, words: WordArray,
) -> None:  # fmt: skip
    """Replace each word by what `pick` returns for it, from the short entry where that decides."""
    mask = (_ONE << bits) - _ONE
    for i in range(words.size):
        j, place = product_high(words[i], size), product_low(words[i], size)
        entry, high = _W(short[base[i] + j]), place >> (_W(64) - threshold_bits)
        threshold = entry >> (bits + code_bits)
        # Both outcomes, then the rare case, all in the loop: in a function of its own the choice
        # becomes a branch, which is taken at random, and the loop takes twice as long.
        y = j if high < threshold else entry & mask
        if high == threshold:
            entry = table[base[i] + j]
            y = j if (place >> (_SPARE + bits)) < (entry >> bits) else entry & mask
        words[i] = y
