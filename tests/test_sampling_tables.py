"""Random words, alias tables and label bounds: the parts of a draw, against exact arithmetic."""

from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim.sampling import alias, kernels, labels, launch
from rlhfsim.sampling.philox import fill, philox, row_words, uniform

W = np.uint64
MASK = 2**64 - 1


def words_of(*halves):
    return [W(h) for h in halves]


# ---- Philox --------------------------------------------------------------------------------------

# The published known answers for 10 rounds (kat_vectors of Random123): counter, key, result.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (
        [0xFFFFFFFF] * 4,
        [0xFFFFFFFF] * 2,
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def philox_in_python(counter, key):
    """The definition, in Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        low, high = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [
            (high >> 32) ^ c[1] ^ k[0],
            high & 0xFFFFFFFF,
            (low >> 32) ^ c[3] ^ k[1],
            low & 0xFFFFFFFF,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def joined(halves):
    return [halves[0] | halves[1] << 32, halves[2] | halves[3] << 32]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_answers(counter, key, expected):
    assert philox_in_python(counter, key) == expected
    assert [int(w) for w in philox(*words_of(*counter, *key))] == joined(expected)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6))
def test_philox_is_its_definition(halves):
    expected = joined(philox_in_python(halves[:4], halves[4:]))
    assert [int(w) for w in philox(*words_of(*halves))] == expected


@pytest.mark.parametrize("first", [0, 7, 2**32 - 3, 2**45 + 1])
def test_a_row_takes_its_words_from_its_own_counters(first):
    key = np.array([5, 6, 7], dtype=np.uint64)
    even, odd = np.empty(37, np.uint64), np.empty(37, np.uint64)
    for block in (0, 1, 3):
        fill(key, W(first), W(block), even, odd)
        for i in range(37):
            row = first + i
            expected = joined(philox_in_python([row & 0xFFFFFFFF, row >> 32, block, 7], [5, 6]))
            assert [int(even[i]), int(odd[i])] == expected
            assert [int(w) for w in row_words(key, W(row), W(block))] == expected


def test_uniform_numbers_are_midpoints():
    assert uniform(W(0)) == 2.0**-53
    assert uniform(W(MASK)) == 1 - 2.0**-53
    for k in (1, 2**51 - 1, 2**51, 12345):
        for low in (0, 4095):
            assert uniform(W(k << 12 | low)) == (k + 0.5) * 2.0**-52


def test_a_key_is_96_bits_of_the_generator():
    rng = np.random.default_rng(0)
    keys = np.array([launch.new_key(rng) for _ in range(400)])
    assert keys.shape == (400, 3)
    assert keys.dtype == np.uint64
    bits = (keys[..., None] >> np.arange(64, dtype=np.uint64)) & W(1)
    # Each of the 96 low bits is a fair coin (6 standard deviations); the others are 0.
    assert np.all(np.abs(bits[..., :32].mean(axis=0) - 0.5) < 6 * 0.5 / 20)
    assert not bits[..., 32:].any()


# ---- alias tables --------------------------------------------------------------------------------


def table_of(weights, bits=None):
    weights = np.asarray(weights, dtype=np.float64)
    bits = alias.index_bits(weights.size) if bits is None else bits
    table = np.empty(weights.size, np.uint64)
    mass, order = np.empty(weights.size, np.int64), np.empty(weights.size, np.int64)
    alias.fill_table(weights, bits, table, mass, order)
    return table, bits


def entries_of(table, bits):
    unit = 1 << (62 - bits)
    thresholds = [int(e) >> bits for e in table]
    aliases = [int(e) & ((1 << bits) - 1) for e in table]
    assert all(0 <= t <= unit for t in thresholds)
    assert all(0 <= a < table.size for a in aliases)
    return thresholds, aliases, unit


def law_of(table, bits):
    """The exact law of a table: thresholds and what they leave to the aliases."""
    thresholds, aliases, unit = entries_of(table, bits)
    law = list(thresholds)
    for threshold, a in zip(thresholds, aliases, strict=True):
        law[a] += unit - threshold
    assert sum(law) == table.size * unit
    return [Fraction(mass, table.size * unit) for mass in law]


def check_law(weights, bits=None):
    table, bits = table_of(weights, bits)
    law = law_of(table, bits)
    exact = [Fraction(w) for w in map(float, weights)]
    total = sum(exact)
    largest = max(range(len(exact)), key=exact.__getitem__)
    for y, (have, weight) in enumerate(zip(law, exact, strict=True)):
        share = weight / total
        assert (have == 0) == (share == 0) or share < Fraction(1, 2**60)
        assert share > 0 or have == 0
        bound = share / 2**50 + Fraction(1, 2**62)
        assert abs(have - share) <= (Fraction(1, 2**50) if y == largest else bound)
    return table, bits


weights_lists = st.lists(
    st.one_of(
        st.just(0.0),
        st.floats(0, 1),
        st.floats(-50, 0).map(lambda e: 10.0**e),
        st.just(1.0),
    ),
    min_size=1,
    max_size=70,
).filter(lambda w: sum(w) > 1e-3)


@given(weights_lists, st.floats(-9e-10, 9e-10))
def test_the_law_of_a_table_is_its_weights(raw, excess):
    weights = np.array(raw) / np.sum(raw)
    check_law(weights * (1 + excess))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 9, 1000, 1023, 1024, 1025])
def test_the_law_of_tables_of_many_sizes(size):
    rng = np.random.default_rng(size)
    check_law(np.full(size, 1 / size))
    check_law(rng.dirichlet(np.ones(size)))
    check_law(rng.dirichlet(np.full(size, 0.05)))
    one = np.zeros(size)
    one[size // 2] = 1.0
    check_law(one)
    tiny = np.full(size, 1e-15)
    tiny[-1] = 1 - 1e-15 * (size - 1)
    check_law(tiny)


def python_pick(table, bits, word):
    """The same draw in Python's integers."""
    thresholds, aliases, _ = entries_of(table, bits)
    j, place = divmod(int(word) * table.size, 2**64)
    return j if place >> (2 + bits) < thresholds[j] else aliases[j]


def decisive_words(table, bits, rng):
    """Words on both sides of every threshold and of every bucket, and some others."""
    thresholds, _, _ = entries_of(table, bits)
    size, words = table.size, []
    for j, threshold in enumerate(thresholds):
        for place in (0, threshold << (2 + bits), 2**64):
            at = (j * 2**64 + place) // size
            words += [at - 1, at, at + 1, at + 2**20]
    words += [int(w) for w in rng.integers(0, 2**64, 200, dtype=np.uint64)]
    return np.array([min(max(w, 0), MASK) for w in words], dtype=np.uint64)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 60, 257])
def test_a_word_draws_by_bucket_and_threshold(size):
    rng = np.random.default_rng(size)
    weights = rng.dirichlet(np.full(size, 0.3))
    weights[: size // 3] = 0.0
    table, bits = table_of(weights / weights.sum())
    # A table that stands behind another one, to see that `base` counts.
    both = np.concatenate((np.zeros(11, np.uint64), table))
    for word in decisive_words(table, bits, rng):
        drawn = alias.pick(both, W(11), W(size), W(bits), word)
        assert int(drawn) == python_pick(table, bits, word)
        assert weights[drawn] > 0


def test_frequencies_over_evenly_spaced_words():
    """Counts over all words of a lattice are those of the law, up to one a bucket and threshold."""
    weights = np.array([0.0, 0.5, 1e-3, 0.1, 0.2, 0.199, 0.0])
    table, bits = table_of(weights)
    many = 1 << 16
    drawn = np.array(
        [alias.pick(table, W(0), W(7), W(bits), W(k << 48)) for k in range(many)], dtype=np.int64
    )
    counts = np.bincount(drawn, minlength=7)
    assert np.all(np.abs(counts - many * weights) <= 2 * 7)
    assert counts[0] == counts[6] == 0


@pytest.mark.parametrize("bits", [None, 17, 25])
@pytest.mark.parametrize("size", [1, 2, 6, 50, 300])
def test_short_entries_draw_the_same(size, bits):
    """Indices of 17 bits and more have short entries of 64."""
    rng = np.random.default_rng(size)
    weights = rng.dirichlet(np.full(size, 0.3))
    weights[: size // 3] = 0.0
    table, bits = table_of(weights / weights.sum(), bits)
    code_bits, threshold_bits, kind = launch.layout(bits)
    assert kind is (np.uint32 if bits <= 16 else np.uint64)
    reward = rng.normal(size=(1, size))
    step = labels.step_for(np.ptp(reward), code_bits)
    short = np.empty(size, kind)
    kernels.shorten_tables(
        table, bits, reward, 1.0, step, code_bits, threshold_bits, short, 0, 1
    )  # fmt: skip
    words = decisive_words(table, bits, rng)
    drawn = words.copy()
    alias.pick_all(
        short, table, np.zeros(words.size, np.uint64), W(size), W(bits), W(code_bits),
        W(threshold_bits), drawn,
    )  # fmt: skip
    assert [int(y) for y in drawn] == [python_pick(table, bits, w) for w in words]
    codes = (short.astype(np.uint64) >> W(bits)) & W((1 << code_bits) - 1)
    assert np.array_equal(codes, np.floor((reward[0] - reward.min()) / step).astype(np.uint64))


@given(st.integers(0, 40))
def test_the_layout_of_short_entries_fits(bits):
    code_bits, threshold_bits, kind = launch.layout(bits)
    assert bits + code_bits + threshold_bits <= 8 * np.dtype(kind).itemsize
    assert threshold_bits <= 62 - bits
    assert min(code_bits, threshold_bits) >= 8


# ---- labels --------------------------------------------------------------------------------------


def sigma(odds):
    with mp.workdps(40):
        return 1 / (1 + mp.exp(-mp.mpf(odds)))


@pytest.mark.parametrize(
    "odds", [0.0, 1e-300, 1e-9, 0.3, 1.0, 3.7, 20.0, 36.0, 37.5, 300.0, 708.0, 740.0, 1e5, 1e308]
)
def test_a_label_is_below_sigma(odds):
    """At u a few ulp on either side of sigma, down to where sigma is subnormal."""
    for sign in (1.0, -1.0):
        p = sigma(sign * odds)
        for u in (float(p) * (1 - 1e-15), float(p) * (1 + 1e-15)):
            if 0 < u < 1 and abs(u - p) > 8e-16 * p:
                assert labels.first_wins(u, sign * odds) == (u < p)
        assert labels.first_wins(2.0**-53, sign * odds) == (p > 2.0**-53)
        assert labels.first_wins(1 - 2.0**-53, sign * odds) == (p > 1 - mp.mpf(2) ** -53)


rewards_lists = st.lists(
    st.one_of(
        st.floats(-10, 10),
        st.floats(-1e-6, 1e-6),
        st.floats(-1e6, 1e6),
        st.sampled_from([0.0, 1.0, -300.0, 5e-324]),
    ),
    min_size=1,
    max_size=30,
)


@given(rewards_lists, st.sampled_from([1.0, 0.01, 1e-300, 1e5]), st.sampled_from([8, 9]))
def test_codes_bound_the_probability(raw, temperature, code_bits):
    reward = np.array([raw])
    width = labels.widest(reward, temperature, 0, 1)
    if np.isinf(width):
        return
    step = labels.step_for(width, code_bits)
    bounds = labels.bounds_of(step, code_bits)
    lowest = reward.min()
    codes = [int(labels.code_of(r, lowest, temperature, step)) for r in raw]
    assert all(0 <= c < 1 << code_bits for c in codes)
    for first, c in zip(raw, codes, strict=True):
        for second, d in zip(raw, codes, strict=True):
            odds = (mp.mpf(first) - mp.mpf(second)) / mp.mpf(temperature)
            low, high = bounds[(1 << code_bits) + c - d]
            assert low <= sigma(odds) * (1 + mp.mpf(2) ** -50)
            # No float is below 5e-324; a u is at least 2^-53.
            assert high >= sigma(odds) * (1 - mp.mpf(2) ** -50) - mp.mpf(5e-324)


def test_few_labels_are_left_to_the_exponential():
    """The bounds of equal codes are d/2 apart: at twice that, some rows would be twice as slow."""
    step = labels.step_for(6.0, 9)
    assert step == 6.0 / 511
    bounds = labels.bounds_of(step, 9)
    assert bounds.shape == (1024, 2)
    apart = bounds[:, 1] - bounds[:, 0]
    assert apart.argmax() == 512
    assert apart.max() == pytest.approx(step / 2, rel=2e-3)


def test_the_widest_prompt():
    reward = np.array([[0.0, 5.0], [-1.0, 7.0], [1e9, 1e9]])
    assert labels.widest(reward, 2.0, 0, 3) == 4.0
    assert labels.widest(reward, 2.0, 0, 1) == 2.5
    assert launch.width_of(np.array([[1e308, -1e308]]), 1e300) == np.inf
    assert launch.width_of(np.array([[1.0, 0.0]]), 1e-320) == np.inf
