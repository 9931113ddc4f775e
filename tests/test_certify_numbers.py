"""Numbers and arrays in ball arithmetic: against fractions, mpmath and numpy."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import scipy.special as sc
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("flint")

from flint import arb, fmpq

from rlhfsim.certify.arrays import BallArray, WholeArray, balls, has_balls, whole
from rlhfsim.certify.library import working_precision
from rlhfsim.certify.numbers import Number, UndecidedError
from rlhfsim.certify.rounding import at_least, at_most

small = st.fractions(min_value=-50, max_value=50, max_denominator=1000)


def fraction(number):
    assert number.exact
    return Fraction(int(number.value.p), int(number.value.q))


def middles(values):
    numbers = np.asarray(values, dtype=object).ravel().tolist()
    return np.reshape([float(n.ball.mid()) for n in numbers], np.shape(values))


@given(small, small)
def test_fractions_stay_fractions(a, b):
    x, y = Number.of(a), Number.of(b)
    assert fraction(x + y) == a + b
    assert fraction(x - y) == a - b
    assert fraction(x * y) == a * b
    assert fraction(abs(x)) == abs(a)
    assert fraction(x**3) == a**3
    assert fraction(x.maximum(y)) == max(a, b)
    assert fraction(x.minimum(y)) == min(a, b)
    assert fraction(x.floor()) == math.floor(a)
    assert fraction(x.ceil()) == math.ceil(a)
    assert fraction((x * x).sqrt()) == abs(a)
    assert (x < y, x <= y, x == y, x != y) == (a < b, a <= b, a == b, a != b)
    if b:
        assert fraction(x / y) == a / b
        assert fraction(y**-2) == b**-2


FUNCTIONS = [
    ("log", mpmath.log), ("exp", mpmath.exp), ("expm1", mpmath.expm1), ("log1p", mpmath.log1p),
    ("log2", lambda x: mpmath.log(x, 2)), ("log10", mpmath.log10), ("sqrt", mpmath.sqrt),
    ("tanh", mpmath.tanh), ("sin", mpmath.sin), ("cos", mpmath.cos),
    ("expit", lambda x: 1 / (1 + mpmath.exp(-x))),
    ("log_expit", lambda x: -mpmath.log(1 + mpmath.exp(-x))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
@given(value=st.fractions(min_value="1/1000", max_value=40, max_denominator=1000))
def test_functions_are_enclosed(name, function, value):
    with mpmath.workdps(60):
        want = function(mpmath.mpf(value.numerator) / value.denominator)
        found = getattr(Number.of(value), name)().value
        slack = mpmath.mpf(10) ** -50 * (1 + abs(want))
        assert at_most(found) - slack <= want <= at_least(found) + slack
        assert at_least(found) - at_most(found) <= 1e-12 * (1 + abs(float(want)))


def test_values_that_are_exact_or_infinite():
    zero, one, infinity = Number.of(0), Number.of(1.0), Number.of(math.inf)
    assert one.log() == 0
    assert zero.exp() == 1
    assert zero.log() == -math.inf
    assert (infinity.exp(), infinity.log()) == (infinity, infinity)
    assert one / 0 == math.inf
    assert -1 / zero == -math.inf
    assert zero**0 == 1
    assert zero.xlogy(zero) == 0
    assert infinity.isinf()
    assert not infinity.isfinite()
    assert one.isfinite()
    for unknown in (zero / zero, infinity - infinity, zero * infinity):
        with pytest.raises(UndecidedError):
            unknown.isnan()
        with pytest.raises(UndecidedError):
            assert unknown > 0


def test_overlapping_balls_are_not_compared():
    near = Number.of(2).sqrt()
    with pytest.raises(UndecidedError, match="overlap"):
        assert near * near > 2
    assert near < 1.5
    assert near != 1.5
    tiny = Number(arb(fmpq(1, 3)))
    with pytest.raises(UndecidedError):
        assert tiny == Fraction(1, 3)


def test_more_bits_decide_what_few_leave_open():
    def excess():
        return Number.of(2).sqrt() * Number.of(2).sqrt() - Fraction(2**90 - 1, 2**89)

    with working_precision(64), pytest.raises(UndecidedError):
        assert excess() > 0
    with working_precision(256):
        assert excess() > 0


def test_a_number_is_no_float():
    for convert in (float, math.exp, math.log):
        with pytest.raises(TypeError, match="is no float"):
            convert(Number.of(1))
    with pytest.raises(TypeError, match="is no float"):
        np.array([Number.of(1)], dtype=np.float64)
    with pytest.raises(TypeError, match="is no float"):
        np.zeros(3)[:] = balls(np.ones(3))
    with pytest.raises(TypeError, match="is no real number"):
        Number.of("1")
    with pytest.raises(TypeError, match="is no real number"):
        balls(np.array([1j]))


RNG = np.random.default_rng(0)
P, Q = RNG.dirichlet(np.ones(4), size=(2, 3))
EXPRESSIONS = {
    "kl": lambda p, q: (p * np.log(p / q)).sum(axis=1),
    "rel_entr": lambda p, q: sc.rel_entr(p, q).mean(axis=1),
    "where": lambda p, q: np.where(p > q, p, 0.0).sum(),
    "divide where": lambda p, q: np.divide(p, q, out=np.zeros_like(p), where=q > 0.2),
    "max": lambda p, q: np.sqrt(p).max(axis=-1, keepdims=True) + q,
    "einsum": lambda p, q: np.einsum("ij,ij->i", p, q),
    "matmul": lambda p, q: p @ q.T,
    "ptp": lambda p, q: np.ptp(p, axis=1) - np.clip(q, 0.1, 0.2).min(axis=1),
    "prod": lambda p, q: np.maximum(p, q).prod(axis=(0, 1)),
    "std": lambda p, q: np.stack([p, q]).std(axis=0),
    "cumsum": lambda p, q: np.cumsum(p, axis=1) - q,
    "gaps": lambda p, q: p[:, :, None] - q[:, None, :],
    "norm": lambda p, q: np.linalg.norm(p - q, axis=1),
    "sort": lambda p, q: np.sort(p, axis=1) + np.take_along_axis(p, q.argsort(axis=1), axis=1),
    "median": lambda p, q: np.median(p, axis=1) * np.average(p, weights=q, axis=1),
    "sigmoid": lambda p, q: 1 / (1 + np.exp(-p)) - sc.expit(q),
    "counts": lambda p, q: (p > q).sum(axis=1) / 3 + ((p > q) * q).sum(axis=1),
    "reduceat": lambda p, q: np.add.reduceat(p, [0, 2], axis=1) + q[:, 1:3],
    "powers": lambda p, q: p**0.5 + q**-2 + 2**p + np.square(q) + np.remainder(p, 0.1),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_arrays_give_what_numpy_gives(name):
    found = EXPRESSIONS[name](balls(P), balls(Q))
    want = EXPRESSIONS[name](P, Q)
    assert has_balls(found)
    np.testing.assert_allclose(middles(found), want, rtol=1e-13, atol=1e-15)
    for number, value in zip(np.ravel(found).tolist(), np.ravel(want).tolist(), strict=True):
        assert at_most(number.value) - 1e-12 <= value <= at_least(number.value) + 1e-12


def test_what_has_no_version_for_balls_raises():
    for function in (np.arccos, np.spacing, sc.gammaln, lambda a: np.multiply.at(a, 0, 2)):
        with pytest.raises(TypeError):
            function(balls(P))


def test_whole_numbers_stay_indices_until_they_are_divided():
    n = whole(np.array([2, 3]))
    assert isinstance(n + 1, WholeArray)
    assert (np.arange(5)[n] == [2, 3]).all()
    third = 1 / n
    assert isinstance(third, BallArray)
    assert fraction(third[1]) == Fraction(1, 3)
    assert fraction((n / 3)[0]) == Fraction(2, 3)
    mask = balls(P) > 0.2
    assert isinstance(mask, WholeArray)
    assert P[mask].min() > 0.2
    assert fraction((mask / 3).max().item()) == Fraction(1, 3)
