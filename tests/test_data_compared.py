"""Which responses were compared, from rows and from counts."""

import numpy as np
import pytest

from rlhfsim.data import PreferenceData, count_pairs
from rlhfsim.data.counts import compared_in, number_of_rows


@pytest.mark.parametrize("n", [1, 50, 20_000])  # the last one by compiled code
def test_rows_and_counts_agree(n):
    rng = np.random.default_rng(n)
    prompt, chosen, rejected = rng.integers(0, [[7], [5], [5]], (3, n))
    # One response meets only itself, one is never drawn, one prompt has no rows.
    rejected = np.where(chosen == 4, 4, np.where(rejected == 4, 0, rejected))
    data = PreferenceData(prompt, chosen, rejected, (8, 6))
    expected = np.zeros((8, 6), dtype=bool)
    for x, y, z in zip(prompt, chosen, rejected, strict=True):
        if y != z:
            expected[x, [y, z]] = True
    assert not expected[:, 4:].any()
    for given in (data, count_pairs(data)):
        found = compared_in(given)
        np.testing.assert_array_equal(found, expected)
        assert not found.flags.writeable
        assert number_of_rows(given) == n
