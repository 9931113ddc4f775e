"""Compiled entry points: tables of all prompts, pairs in two orders, single draws, rankings.

Each takes a range of rows, or takes `grain` rows at a time from a shared counter until none are
left, so that any number of threads may run it at once.  Words of a row: 0 is for the prompt, 1 and
2 for the responses of a pair, 3 for its label; a ranking takes 1 to K for its responses and K + 1
to 2 K for its races.

Loops are kept apart by what they wait for: words are vector instructions; reads of tables overlap,
as no row waits for another.  The winner is exchanged by bits, as the compiler is fond of making two
choices by one label a branch, which is taken at random.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.elementary import log
from rlhfsim.kernels.intrinsics import borrow, fetch_add
from rlhfsim.sampling.alias import ShortArray, fetch_all, fill_table, pick, pick_all, shorten
from rlhfsim.sampling.labels import code_of, first_wins
from rlhfsim.sampling.labels import widest as _widest
from rlhfsim.sampling.philox import BLOCK, WordArray, fill, fill_odd, row_words, uniform

_W = np.uint64
_I = np.int64


# ---- tables --------------------------------------------------------------------------------------


@EXACT
def widest(reward: FloatArray, temperature: float, first: int, last: int) -> float:
    """Return the largest range of log-odds in a range of prompts."""
    return _widest(reward, temperature, first, last)


@EXACT
def fill_tables(weights: FloatArray, bits: int, table: WordArray, first: int, last: int) -> None:
    """Fill the alias tables, end to end, of the prompts from `first` to before `last`."""
    size = weights.shape[1]
    mass, order = np.empty(size, np.int64), np.empty(size, np.int64)
    for x in range(first, last):
        fill_table(weights[x], bits, table[x * size : (x + 1) * size], mass, order)


@EXACT
def shorten_tables(
    table: WordArray, bits: int, reward: FloatArray, temperature: float, step: float,
    code_bits: int, threshold_bits: int, short: ShortArray, first: int, last: int,
) -> None:  # fmt: skip
    """Fill the short entries of a range of prompts, with the codes of their rewards."""
    size = reward.shape[1]
    for x in range(first, last):
        lowest = reward[x, 0]
        for y in range(size):
            lowest = min(lowest, reward[x, y])
        for y in range(size):
            code = code_of(reward[x, y], lowest, temperature, step)
            at = x * size + y
            short[at] = shorten(table[at], bits, code, code_bits, threshold_bits)


# ---- pairs ---------------------------------------------------------------------------------------


@EXACT
def pairs(
    key: WordArray, prompts: WordArray, prompt_bits: int, short1: ShortArray, table1: WordArray,
    short2: ShortArray, table2: WordArray, bits: int, code_bits: int, threshold_bits: int,
    reward: FloatArray, temperature: float, bounds: FloatArray, prompt: IntArray, chosen: IntArray,
    rejected: IntArray, counter: IntArray, grain: int,
) -> None:  # fmt: skip
    """Draw pairs with Bradley-Terry labels; the prompt of a row is drawn as well."""
    n, n_prompts, size = prompt.size, _W(prompts.size), _W(reward.shape[1])
    b, c, t, pb = _W(bits), _W(code_bits), _W(threshold_bits), _W(prompt_bits)
    codes, centre = (_W(1) << c) - _W(1), _W(1) << c
    rewards = reward.reshape(-1)
    word0, word1 = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    word2, word3 = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    while True:
        start = fetch_add(counter, _I(grain))
        if start >= n:
            return
        for s in range(start, min(n, start + grain), BLOCK):
            m = min(BLOCK, min(n, start + grain) - s)
            fill(key, _W(s), _W(0), word0[:m], word1[:m])
            asked = borrow(prompt, s, m)
            better, worse = borrow(chosen, s, m), borrow(rejected, s, m)
            for i in range(m):
                x = pick(prompts, _W(0), n_prompts, pb, word0[i])
                asked[i] = _I(x)
                word0[i] = x * size
            # Memory works on the first entries while the next words are made.
            fetch_all(short1, word0[:m], size, word1[:m])
            fill(key, _W(s), _W(1), word2[:m], word3[:m])
            fetch_all(short2, word0[:m], size, word2[:m])
            pick_all(short1, table1, word0[:m], size, b, c, t, word1[:m])
            pick_all(short2, table2, word0[:m], size, b, c, t, word2[:m])
            for i in range(m):
                y, z, base = word1[i], word2[i], word0[i]
                code1, code2 = _W(short1[base + y]) >> b, _W(short2[base + z]) >> b
                k = _W(2) * (centre + (code1 & codes) - (code2 & codes))
                u = uniform(word3[i])
                wins = u < bounds[k]
                if wins != (u < bounds[k + _W(1)]):
                    wins = first_wins(u, (rewards[base + y] - rewards[base + z]) / temperature)
                swap = (y ^ z) & (_W(wins) - _W(1))
                better[i], worse[i] = _I(y ^ swap), _I(z ^ swap)


@EXACT
def grouped_pairs(
    key: WordArray, starts: IntArray, table1: WordArray, table2: WordArray, bits: int,
    reward: FloatArray, temperature: float, prompt: IntArray, chosen: IntArray, rejected: IntArray,
    counter: IntArray, grain: int,
) -> None:  # fmt: skip
    """Draw pairs with Bradley-Terry labels; prompt x has the rows `starts[x] : starts[x + 1]`."""
    n, size, b = prompt.size, _W(reward.shape[1]), _W(bits)
    rewards = reward.reshape(-1)
    word1, word2 = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    word3 = np.empty(BLOCK, np.uint64)
    gap = np.empty(BLOCK)
    while True:
        s = fetch_add(counter, _I(grain))
        if s >= n:
            return
        stop = min(n, s + grain)
        x = np.searchsorted(starts, s, side="right") - 1
        while s < stop:
            while starts[x + 1] <= s:
                x += 1
            m = min(BLOCK, min(stop, starts[x + 1]) - s)
            base = _W(x) * size
            fill_odd(key, _W(s), _W(0), word1[:m])
            fill(key, _W(s), _W(1), word2[:m], word3[:m])
            for i in range(m):
                word1[i] = pick(table1, base, size, b, word1[i])
                word2[i] = pick(table2, base, size, b, word2[i])
                gap[i] = rewards[base + word1[i]] - rewards[base + word2[i]]
            # Two arrays alone: for more, the compiler would not use vector instructions.
            for i in range(m):
                word3[i] = _W(first_wins(uniform(word3[i]), gap[i] / temperature))
            # Into slices: at `s + i` the compiler would scatter, in case it is negative.
            asked = borrow(prompt, s, m)
            better, worse = borrow(chosen, s, m), borrow(rejected, s, m)
            for i in range(m):
                y, z = word1[i], word2[i]
                swap = (y ^ z) & (word3[i] - _W(1))
                asked[i] = x
                better[i], worse[i] = _I(y ^ swap), _I(z ^ swap)
            s += m


# ---- one column at a time ------------------------------------------------------------------------


@EXACT
def draw(
    key: WordArray, word: int, base: IntArray, size: int, table: WordArray, bits: int,
    out: IntArray, first: int, last: int,
) -> None:  # fmt: skip
    """Draw the rows from `first` to before `last` of one column, from the table of `base[row]`.

    An empty `base` stands for the first table throughout.
    """
    for i in range(first, last):
        even, odd = row_words(key, _W(i), _W(word >> 1))
        at = _W(base[i]) * _W(size) if base.size else _W(0)
        out[i] = _I(pick(table, at, _W(size), _W(bits), odd if word & 1 else even))


@EXACT
def uniforms(key: WordArray, word: int, offset: int, out: FloatArray) -> None:
    """Fill with the uniform numbers of the rows from `offset` on."""
    for i in range(out.size):
        even, odd = row_words(key, _W(offset + i), _W(word >> 1))
        out[i] = uniform(odd if word & 1 else even)


@EXACT
def rankings(
    key: WordArray, prompt: IntArray, table: WordArray, bits: int, reward: FloatArray,
    out: IntArray, first: int, last: int,
) -> None:  # fmt: skip
    """Draw and rank K responses for the rows from `first` to before `last`.

    By races: a response with an exponential time over `e^r` comes before another one with the
    Bradley-Terry probability, and the order of all is Plackett-Luce's.  Two are compared by
    `log E_a - log E_b < r_a - r_b`, which keeps the digits of a small difference of large rewards.
    """
    size, many = _W(reward.shape[1]), out.shape[1]
    times = np.empty(many)
    for i in range(first, last):
        base, r = _W(prompt[i]) * size, reward[prompt[i]]
        for k in range(many):
            word = 1 + k
            even, odd = row_words(key, _W(i), _W(word >> 1))
            y = _I(pick(table, base, size, _W(bits), odd if word & 1 else even))
            word += many
            even, odd = row_words(key, _W(i), _W(word >> 1))
            time = log(-log(uniform(odd if word & 1 else even)))
            at = k
            while at > 0 and time - times[at - 1] < r[y] - r[out[i, at - 1]]:
                times[at], out[i, at] = times[at - 1], out[i, at - 1]
                at -= 1
            times[at], out[i, at] = time, y
