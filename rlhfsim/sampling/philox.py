"""Philox4x32-10: random words that are a function of a key and a counter, and of nothing else.

Row i of a dataset takes its words from the counters that hold i, so that a draw depends neither on
the number of threads nor on how the rows are divided among them.  The 128 bits of the counter of a
row are

    32 bits of i (low), 32 bits of i (high), the number of the block, 32 bits of the key's salt,

and its word w of 64 bits is half `w % 2` of block `w // 2`.  The key has 64 bits, its salt 32.

Each 32-bit word is held in 64 bits, of which the upper ones are ignored until the end: the products
of two such words are then one vector instruction.

Source: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlhfsim.compiling import EXACT
from rlhfsim.kernels.intrinsics import from_bits

WordArray = NDArray[np.uint64]
Word = np.uint64

_W = np.uint64
#: Words of a key: two of Philox's key, one that enters the counter.
KEY_WORDS = 3
#: Rows that a kernel draws at a time: their words stay in the innermost cache.
BLOCK = 256

_M0, _M1 = _W(0xD2511F53), _W(0xCD9E8D57)
_BUMP0, _BUMP1 = _W(0x9E3779B9), _W(0xBB67AE85)
_LOW, _HALF = _W(0xFFFFFFFF), _W(32)
_ROUNDS = 10
_ONE_BITS = np.int64(0x3FF0000000000000)
_DROPPED = _W(12)
_ONE_LESS_HALF_A_STEP = 1.0 - 2.0**-53


@EXACT
def philox(c0: Word, c1: Word, c2: Word, c3: Word, k0: Word, k1: Word) -> tuple[Word, Word]:
    """Return the 128 bits of a counter and a key, as two words of 64 bits, low parts first."""
    for _ in range(_ROUNDS):
        p0, p1 = (c0 & _LOW) * _M0, (c2 & _LOW) * _M1
        c0, c2 = (p1 >> _HALF) ^ (c1 & _LOW) ^ k0, (p0 >> _HALF) ^ (c3 & _LOW) ^ k1
        c1, c3 = p1, p0
        k0, k1 = (k0 + _BUMP0) & _LOW, (k1 + _BUMP1) & _LOW
    return (c0 & _LOW) | (c1 << _HALF), (c2 & _LOW) | (c3 << _HALF)


@EXACT
def row_words(key: WordArray, row: Word, block: Word) -> tuple[Word, Word]:
    """Return words `2 block` and `2 block + 1` of a row."""
    return philox(row & _LOW, row >> _HALF, block, key[2], key[0], key[1])


@EXACT
def fill(key: WordArray, first_row: Word, block: Word, even: WordArray, odd: WordArray) -> None:
    """Fill two arrays with words `2 block` and `2 block + 1` of the rows from `first_row` on."""
    k0, k1, salt = key[0], key[1], key[2]
    for i in range(even.size):
        row = first_row + _W(i)
        even[i], odd[i] = philox(row & _LOW, row >> _HALF, block, salt, k0, k1)


@EXACT
def fill_odd(key: WordArray, first_row: Word, block: Word, odd: WordArray) -> None:
    """Fill an array with words `2 block + 1` of the rows from `first_row` on."""
    k0, k1, salt = key[0], key[1], key[2]
    for i in range(odd.size):
        row = first_row + _W(i)
        odd[i] = philox(row & _LOW, row >> _HALF, block, salt, k0, k1)[1]


@EXACT
def uniform(word: Word) -> float:
    """Return `(k + 1/2) 2^-52`, k the upper 52 bits: never 0 or 1, and symmetric about 1/2."""
    return from_bits(np.int64(word >> _DROPPED) | _ONE_BITS) - _ONE_LESS_HALF_A_STEP
