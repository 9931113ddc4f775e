"""Eight numbers at once: lane by lane what numbers alone give, and nothing past an array's end."""

import ctypes
import mmap

import numpy as np
import pytest
from numba import njit

from rlhfsim.kernels import elementary
from rlhfsim.kernels.intrinsics import bits, borrow, fma, from_bits, larger, smaller
from rlhfsim.kernels.vectors import (
    LANES,
    first_part,
    folded,
    greatest,
    holds_singles,
    largest,
    least,
    load,
    load_own,
    load_singles,
    narrow,
    number,
    put,
    second_part,
    smallest,
    spread,
    store,
    store_own,
    store_singles,
    store_wide,
    take,
    take_wide,
    total,
    transposed,
    where_greater,
    widen,
    zero_of,
)

DTYPES = pytest.mark.parametrize("dtype", [np.float64, np.float32])


@njit
def arithmetic(x, y, z, out):
    a, b, c = load(x, 0), load(y, 0), load(z, 0)
    store(out, 0, a + b)
    store(out, 8, a - b)
    store(out, 16, a * b)
    store(out, 24, a / b)
    store(out, 32, fma(a, b, c))
    store(out, 40, larger(a, b))
    store(out, 48, smaller(a, b))
    store(out, 56, where_greater(a, b, c, a))
    store(out, 64, -a)
    store(out, 72, from_bits((bits(a) + (1 << 52)) - 1))
    store(out, 80, from_bits(((bits(a) >> 20) << 20) & bits(a)))


def test_arithmetic_is_that_of_each_lane():
    rng = np.random.default_rng(0)
    x, y, z = rng.normal(size=(3, LANES))
    out = np.empty(88)
    arithmetic(x, y, z, out)
    words = x.view(np.int64)
    exact = [np.float64(np.longdouble(a) * b + c) for a, b, c in zip(x, y, z, strict=True)]
    expected = [
        x + y,
        x - y,
        x * y,
        x / y,
        exact,
        np.maximum(x, y),
        np.minimum(x, y),
        np.where(x > y, z, x),
        -x,
        (words + (1 << 52) - 1).view(np.float64),
        (words >> 20 << 20 & words).view(np.float64),
    ]
    # A product of doubles has 106 bits and extended precision 64: the sum may be rounded twice.
    assert np.allclose(out[32:40], exact, rtol=2.0**-52, atol=0)
    expected[4] = out[32:40]
    assert np.array_equal(out, np.concatenate(expected))


def test_fma_is_rounded_once():
    x = np.full(LANES, 1 + 2.0**-30)
    out = np.empty(88)
    arithmetic(x, x, -(x * x), out)
    assert np.all(out[32:40] == 2.0**-60)


@njit
def arithmetic_of_singles(x, y, z, out):
    a, b, c = narrow(load(x, 0)), narrow(load(y, 0)), narrow(load(z, 0))
    store(out, 0, widen(a + b))
    store(out, 8, widen(a - b))
    store(out, 16, widen(a * 3.0))
    store(out, 24, widen(a / b))
    store(out, 32, widen(larger(a, b)))
    store(out, 40, widen(where_greater(a, b, c, a)))
    store(out, 48, widen(from_bits((bits(a) + (1 << 23)) - 1)))
    store(out, 56, widen(number(bits(a) >> 23)))


def test_singles_are_rounded_as_singles():
    rng = np.random.default_rng(3)
    x, y, z = rng.normal(size=(3, LANES))
    out = np.empty(64)
    arithmetic_of_singles(x, y, z, out)
    a, b, c = (v.astype(np.float32) for v in (x, y, z))
    words = a.view(np.int32)
    expected = [
        a + b,
        a - b,
        a * np.float32(3),
        a / b,
        np.maximum(a, b),
        np.where(a > b, c, a),
        (words + (1 << 23) - 1).view(np.float32),
        (words >> 23).astype(np.float32),
    ]
    assert np.array_equal(out, np.concatenate(expected).astype(float))


@njit
def fma_of_singles(x, out):
    a = narrow(load(x, 0))
    store(out, 0, widen(fma(a, a, -(a * a))))


def test_fma_of_singles_is_rounded_once():
    out = np.empty(LANES)
    fma_of_singles(np.full(LANES, 1 + 2.0**-15), out)
    assert np.all(out == 2.0**-30)


@njit
def of_sixteen(x, n, singles, out):
    a = take_wide(x, 0, n, 0.5)
    store_wide(out, 0, a * 2.0 + a)
    store(out, 16, folded(a))
    store(out, 24, second_part(a) - first_part(a))
    store_singles(singles, 16, narrow(a))
    store_singles(singles, 0, load_singles(singles, 16) + 1.0)
    store_wide(out, 32, widen(load_singles(singles, 0)))


@pytest.mark.parametrize("n", [1, 7, 8, 9, 15, 16])
def test_sixteen_numbers_are_two_vectors(n):
    x, out, singles = np.arange(1.0, 17.0) + 1e-3, np.empty(48), np.full(20, np.nan)
    of_sixteen(x, n, singles, out)
    filled = np.where(np.arange(16) < n, x, 0.5)
    assert np.array_equal(out[:16], filled * 2 + filled)
    assert np.array_equal(out[16:24], filled[:8] + filled[8:])
    assert np.array_equal(out[24:32], filled[8:] - filled[:8])
    kept = filled.astype(np.float32)
    assert np.array_equal(out[32:], (kept + np.float32(1)).astype(float))
    # Sixteen singles take the room of eight doubles.
    assert np.array_equal(singles[8:16].view(np.float32), kept)
    assert np.all(np.isnan(singles[16:]))


@njit
def own_kind(x, out):
    store_own(out, 1, load_own(x, 2) + load_own(x, 0) * 3.0 + zero_of(x))


@DTYPES
def test_vectors_of_an_array_in_its_own_precision(dtype):
    x, out = np.random.default_rng(4).normal(size=24).astype(dtype), np.zeros(24, dtype)
    own_kind(x, out)
    assert np.array_equal(out[8:16], x[16:] + x[:8] * dtype(3))
    assert not out[:8].any()
    assert not out[16:].any()


@njit
def kind_of(x):
    return holds_singles(x)


def test_arrays_of_singles_are_told_apart():
    assert kind_of(np.empty(1, np.float32)) is True
    assert kind_of(np.empty(1)) is False


@njit
def with_floats(x, out):
    a = load(x, 0)
    store(out, 0, 2.0 - a)
    store(out, 8, a * 3.0)
    store(out, 16, 1.0 / a)
    store(out, 24, fma(2.0, a, 1.0))
    store(out, 32, where_greater(a, 0.0, 1.0, a))
    store(out, 40, larger(0.5, a) + spread(1.0))


def test_a_float_stands_for_eight_of_itself():
    x = np.random.default_rng(1).normal(size=LANES)
    out = np.empty(48)
    with_floats(x, out)
    expected = [2 - x, 3 * x, 1 / x, 2 * x + 1, np.where(x > 0, 1, x), np.maximum(x, 0.5) + 1]
    assert np.array_equal(out, np.concatenate(expected))


@njit
def choice(a, b):
    return where_greater(a, b, 1.0, 2.0)


def test_a_choice_between_numbers():
    assert choice(2.0, 1.0) == 1.0
    assert choice(1.0, 1.0) == choice(np.nan, 1.0) == choice(1.0, np.nan) == 2.0


@njit
def giving_way(x, y, out):
    store(out, 0, largest(load(x, 0), load(y, 0)))
    store(out, 8, smallest(load(x, 0), load(y, 0)))


def test_a_nan_gives_way():
    x, y = np.arange(8.0), np.full(8, 3.5)
    x[2], y[5] = np.nan, np.nan
    out = np.empty(16)
    giving_way(x, y, out)
    assert np.array_equal(out, np.concatenate([np.fmax(x, y), np.fmin(x, y)]))


@njit
def copy(x, n, fill, out):
    for i in range(0, n, LANES):
        store(out, i, take(x, i, n, fill))


@njit
def copy_within(x, n, out):
    for i in range(0, n, LANES):
        put(out, i, n, take(x, i, n, 0.0))


@DTYPES
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 16, 17])
def test_the_last_vector_of_an_array_is_filled_up_and_writes_no_further(n, dtype):
    x = np.arange(1, 33, dtype=dtype)
    out = np.full(32, -1, dtype=dtype)
    copy(x, n, 0.5, out)
    whole = -(-n // LANES) * LANES
    assert np.array_equal(out[:n], x[:n])
    assert np.all(out[n:whole] == 0.5)
    out[:] = -1
    copy_within(x, n, out)
    assert np.array_equal(out[:n], x[:n])
    assert np.all(out[n:] == -1)


@pytest.mark.parametrize("n", [1, 5, 8, 13])
def test_memory_past_the_end_of_an_array_is_not_read(n):
    """It lies at the end of a page, and reading the next one would be a segmentation fault."""
    page = mmap.PAGESIZE
    block = mmap.mmap(-1, 2 * page)
    whole = np.frombuffer(block, dtype=np.float64)
    protect = ctypes.CDLL(None).mprotect
    assert protect(ctypes.c_void_p(whole.ctypes.data + page), page, 0) == 0
    x = whole[page // 8 - n : page // 8]
    x[:] = np.arange(1.0, n + 1)
    out = np.empty(16)
    copy(x, n, 0.0, out)
    copy_within(x, n, x)
    assert np.array_equal(out[:n], np.arange(1.0, n + 1))
    assert np.array_equal(x, out[:n])


@njit
def reductions(x):
    v = load(x, 0)
    return total(v), greatest(v), least(v)


def test_reductions():
    x = np.random.default_rng(2).normal(size=LANES)
    halves = x[:4] + x[4:]
    quarters = halves[:2] + halves[2:]
    assert reductions(x) == (quarters[0] + quarters[1], x.max(), x.min())


@njit
def transpose(x, out):
    rows = (
        load(x, 0), load(x, 8), load(x, 16), load(x, 24),
        load(x, 32), load(x, 40), load(x, 48), load(x, 56),
    )  # fmt: skip
    columns = transposed(rows)
    for k in range(LANES):
        store(out, k * LANES, columns[k])


def test_transposition():
    x, out = np.arange(64.0), np.empty(64)
    transpose(x, out)
    assert np.array_equal(out.reshape(8, 8), x.reshape(8, 8).T)


@njit
def exponentials(d, out):
    for i in range(0, d.size, LANES):
        v = load(d, i)
        f, e, u = elementary.power_parts(v, 1.25, 1e-17)
        store(out[0], i, f)
        store(out[1], i, e)
        store(out[2], i, u)
        f, e, u = elementary.far_power_parts(v * 3.0, 1.25, 1e-17)
        store(out[3], i, f)
        store(out[4], i, u)
        store(out[5], i, elementary.exp_minus_one(v * 1e-3))


@njit
def exponentials_by_number(d, out):
    for i in range(d.size):
        out[0, i], out[1, i], out[2, i] = elementary.power_parts(d[i], 1.25, 1e-17)
        out[3, i], _, out[4, i] = elementary.far_power_parts(d[i] * 3.0, 1.25, 1e-17)
        out[5, i] = elementary.exp_minus_one(d[i] * 1e-3)


def test_elementary_functions_give_vectors_the_bits_they_give_numbers():
    d = np.linspace(-340.0, 200.0, 8000)
    vectors, numbers = np.empty((6, d.size)), np.empty((6, d.size))
    exponentials(d, vectors)
    exponentials_by_number(d, numbers)
    assert np.array_equal(vectors, numbers)
    assert vectors[4].min() == 0.0
    assert 0 < vectors[4][vectors[4] > 0].min() < 1e-310


@njit
def changed_in_part(x, begin, size):
    part = borrow(x, begin, size)
    part[0] = -1.0
    return part.size, part.sum()


@DTYPES
def test_a_borrowed_slice_is_the_array_itself(dtype):
    x = np.arange(10, dtype=dtype)
    assert changed_in_part(x, 4, 3) == (3, -1 + 5 + 6)
    assert x[4] == -1
    assert np.array_equal(np.delete(x, 4), np.delete(np.arange(10), 4))
