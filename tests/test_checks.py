"""Checks of input: what is let in, what is refused, and how the refusal reads."""

import numpy as np
import pytest

from rlhfsim import checks


@pytest.mark.parametrize("value", [True, np.True_, [True, False], np.array([[True]])])
@pytest.mark.parametrize("check", [checks.as_real, checks.as_positive, checks.as_distributions])
def test_booleans_are_not_numbers(check, value):
    with pytest.raises(
        ValueError, match=r"reward is .*True.*; it must hold real numbers, not bool"
    ):
        check("reward", value)


@pytest.mark.parametrize("value", [True, np.False_])
def test_a_boolean_is_not_one_number(value):
    with pytest.raises(ValueError, match=r"beta is .*; it must hold real numbers, not booleans"):
        checks.positive_number("beta", value, zero=True)


@pytest.mark.parametrize("value", [3, [1, 2], 2.5, np.float32(0.5), np.arange(3, dtype=np.uint8)])
def test_integers_and_floats_are_numbers(value):
    array = checks.as_real("reward", value)
    assert array.dtype == np.float64
    assert np.array_equal(array, value)


@pytest.mark.parametrize("value", ["1", ["a"], None, 1j, [1j], object()])
def test_other_kinds_are_refused(value):
    with pytest.raises(ValueError, match="reward is not an array of real numbers"):
        checks.as_real("reward", value)


def test_masked_arrays_are_refused():
    masked = np.ma.masked_array([0.5, 0.5, 99.0], mask=[False, False, True])
    with pytest.raises(ValueError, match=r"reward is a masked array of shape \(3,\); it must be a"):
        checks.as_real("reward", masked)
    with pytest.raises(ValueError, match=r"reference is a masked array of shape \(3,\)"):
        checks.as_distributions("reference", masked)
    with pytest.raises(ValueError, match=r"prompt is a masked array of shape \(2,\)"):
        checks.as_indices("prompt", np.ma.masked_array([0, 7], mask=[False, True]))


def test_single_precision_rows_are_told_what_to_do():
    row = np.array([0.1, 0.2, 0.7], dtype=np.float32)
    advice = "float32 rows should be cast to float64 and renormalised by the caller"
    with pytest.raises(ValueError, match=rf"policy sums to .*1e-09; {advice}"):
        checks.as_distributions("policy", row)
    exact = row.astype(np.float64) / row.sum(dtype=np.float64)
    assert checks.as_distributions("policy", exact) is exact
    halves = np.array([0.5, 0.5], dtype=np.float32)
    assert np.array_equal(checks.as_distributions("policy", halves), [0.5, 0.5])
    with pytest.raises(ValueError, match=r"rows must sum to 1 within 1e-09$"):
        checks.as_distributions("policy", [0.5, 0.6])


def test_indices_keep_their_value():
    top = 2**63 - 1
    kept = checks.as_indices("prompt", np.array([0, top], dtype=np.uint64))
    assert kept.dtype == np.int64
    assert kept.tolist() == [0, top]
    with pytest.raises(ValueError, match=rf"prompt\[1\] is {2**63}; indices must be at most {top}"):
        checks.as_indices("prompt", np.array([0, 2**63], dtype=np.uint64))
    with pytest.raises(ValueError, match=rf"prompt\[0\] is {2**64 - 1}; indices must be below 5"):
        checks.as_indices("prompt", np.array([2**64 - 1], dtype=np.uint64), 5)


def test_non_negative_and_at_least():
    assert checks.as_non_negative("divergence", [0.0, np.inf], infinite=True).tolist() == [
        0,
        np.inf,
    ]
    for infinite in (False, True):
        with pytest.raises(ValueError, match=r"d\[1\] is -2\.0; it must not be negative"):
            checks.as_non_negative("d", [0.0, -2.0], infinite=infinite)
        with pytest.raises(ValueError, match=r"d\[0\] is nan"):
            checks.as_non_negative("d", [np.nan, 1.0], infinite=infinite)
    with pytest.raises(ValueError, match="d is inf; entries must be finite"):
        checks.as_non_negative("d", np.inf)
    assert checks.as_at_least("n", [1, 5], 1).tolist() == [1, 5]
    with pytest.raises(
        ValueError, match=r"n\[1, 0\] is 0\.5; it must be at least 1 \(2 such entries"
    ):
        checks.as_at_least("n", [[1, 2], [0.5, 0]], 1)


def test_same_responses_broadcasts_all_but_the_last_axis():
    a, b, c = np.zeros((4, 1, 3)), np.zeros((2, 3)), np.zeros(3)
    assert checks.same_responses(a=a, b=b, c=c) == (4, 2, 3)
    assert checks.same_responses(a=np.zeros((5, 1)), b=np.zeros(1)) == (5, 1)
    with pytest.raises(
        ValueError, match=r"last axes differ: a \(4, 1, 3\), one \(2, 1\); they must"
    ):
        checks.same_responses(a=a, one=b[:, :1])
    with pytest.raises(ValueError, match=r"last axes differ: c \(3,\), number \(\); they must"):
        checks.same_responses(c=c, number=np.zeros(()))
    with pytest.raises(ValueError, match=r"shapes do not broadcast: b \(2, 3\), d \(5, 3\)"):
        checks.same_responses(b=b, d=np.zeros((5, 3)))
