"""The arithmetic under the kernels, one nextafter either side of every switch, against mpmath."""

import math

import mpmath as mp
import numba
import numpy as np
import pytest
from test_special import around, exact_omega, ulps

from rlhfsim.kernels import elementary, single
from rlhfsim.kernels.vectors import LANES, load, narrow, store, widen

COMPILE = numba.njit(error_model="numpy", fastmath={"contract"})
TINY, LEAST = float(np.finfo(float).tiny), 5e-324


@COMPILE
def every_power(d, scale, rest, near, far, parts):
    for i in range(d.size):
        _f, _e, near[i] = elementary.power_parts(d[i], scale, rest)
        parts[0, i], parts[1, i], far[i] = elementary.far_power_parts(d[i], scale, rest)


@COMPILE
def every_exp(s, whole, less_one):
    for i in range(s.size):
        whole[i] = elementary.exp(s[i])
        less_one[i] = elementary.exp_minus_one(s[i])


@COMPILE
def every_log(x, log):
    for i in range(x.size):
        log[i] = elementary.log(x[i])


@COMPILE
def every_log_near_one(f, log, bend):
    for i in range(f.size):
        log[i], bend[i] = elementary.log_near_one(f[i])


def exp_and_expm1(s):
    s = np.asarray(s, dtype=float)
    whole, less_one = np.empty_like(s), np.empty_like(s)
    every_exp(s, whole, less_one)
    return whole, less_one


def log(x):
    x = np.asarray(x, dtype=float)
    out = np.empty_like(x)
    every_log(x, out)
    return out


def log_near_one(f):
    f = np.asarray(f, dtype=float)
    log, bend = np.empty_like(f), np.empty_like(f)
    every_log_near_one(f, log, bend)
    return log, bend


def powers(d, scale, rest):
    d = np.asarray(d, dtype=float)
    near, far, parts = np.empty_like(d), np.empty_like(d), np.empty((2, d.size))
    every_power(d, scale, rest, near, far, parts)
    return near, far, parts


def assert_within(bound, points, computed, exact):
    """At most `bound` ulp from `exact(x)` at each point; tell the worst."""
    with mp.workdps(60):
        errors = [ulps(y, exact(mp.mpf(float(x)))) for x, y in zip(points, computed, strict=True)]
    worst = int(np.nanargmax(np.where(np.isnan(errors), np.inf, errors)))
    assert errors[worst] <= bound, (points[worst], computed[worst], errors[worst])


def half_integers_of_log2(first, last):
    """The numbers where the exponent of 2 goes from one integer to the next, and neighbours."""
    return around(*(math.log(2) * (np.arange(first, last) + 0.5)))


# ---- exp -----------------------------------------------------------------------------------------


def test_exp_is_within_an_ulp_over_the_normal_range():
    rng = np.random.default_rng(0)
    s = np.concatenate(
        [
            rng.uniform(-708, 700, 1500),
            rng.uniform(-2, 2, 500),
            rng.choice([-1, 1], 300) * 10.0 ** rng.uniform(-320, 2.8, 300),
            half_integers_of_log2(-1021, 1009)[::7],
            half_integers_of_log2(-12, 12),
            around(0.0, 1.0, -1.0, -700.0, 700.0, -708.0),
        ]
    )
    s = s[(s > -708.3) & (s <= 700)]
    assert_within(1.0, s, exp_and_expm1(s)[0], mp.exp)


def test_exp_underflows_gradually_to_zero():
    ends = [-708.3964185322641, -745.1332191019411, -745.1332191019412, -744.4400719213812]
    s = np.concatenate(
        [np.linspace(-746, -708, 400), around(*ends), half_integers_of_log2(-1076, -1019)]
    )
    # Rounded twice where it is subnormal: once to 53 bits, once to those left.
    assert_within(1.0, s, exp_and_expm1(s)[0], mp.exp)
    far = [-746.0, -1386.0, *around(-2000 / 1.4426950408889634), -1e4, -1e15, -1e300, -1.7e308]
    assert np.all(exp_and_expm1(far)[0] == 0)
    assert exp_and_expm1([-745.0])[0] == LEAST


def test_exp_falls_by_no_more_than_its_rounding_across_its_switches():
    for middle in (0.0, *(math.log(2) * (k + 0.5) for k in (-1074, -1022, -3, -1, 0, 5))):
        s = middle + np.arange(-300, 301) * np.spacing(max(abs(middle), 0.1))
        whole = exp_and_expm1(s)[0]
        assert np.all(np.diff(whole) >= -np.spacing(whole[1:])), middle


def test_exp_minus_one_is_within_an_ulp_of_itself():
    rng = np.random.default_rng(1)
    s = np.concatenate(
        [
            rng.uniform(-0.346, 0.346, 1500),
            rng.choice([-1, 1], 800) * 10.0 ** rng.uniform(-300, -0.47, 800),
            around(-0.346, 0.346, 0.34, -0.34, 2.0**-26, -(2.0**-53)),
        ]
    )
    s = s[np.abs(s) <= 0.346]
    assert_within(1.5, s, exp_and_expm1(s)[1], mp.expm1)
    subnormal = np.array([LEAST, -LEAST, TINY, -TINY, 7 * LEAST])
    assert_within(1.0, subnormal, exp_and_expm1(subnormal)[1], mp.expm1)
    assert exp_and_expm1([0.0])[1] == 0


@pytest.mark.parametrize("beta", [0.03, 0.37, 1.0, 41.0, 1e-9, 1e9])
def test_powers_of_two_of_a_scaled_number_keep_the_digits_of_the_product(beta):
    """`2^(d (scale + rest))`, scale + rest = log2(e)/beta in twice the digits, is `e^(d/beta)`."""
    rng = np.random.default_rng(2)
    with mp.workdps(60):
        exact = 1 / (mp.log(2) * mp.mpf(beta))
        scale = float(exact)
        rest = float(exact - mp.mpf(scale))
    d = np.concatenate(
        [beta * rng.uniform(-700, 0, 800), beta * np.array(half_integers_of_log2(-9, 9))]
    )
    near, far, parts = powers(d, scale, rest)
    assert_within(1.0, d, near, lambda x: mp.exp(x / mp.mpf(beta)))
    assert np.array_equal(near, far)
    f, e = parts
    assert np.all(np.abs(f) <= 0.5 + 1e-13)
    assert_within(1.0, f, e, lambda x: mp.power(2, x))
    assert np.all(powers(np.array([-1e4, -1e30, -1e290]) * beta, scale, rest)[1] == 0)


# ---- log -----------------------------------------------------------------------------------------


def test_log_is_within_an_ulp():
    rng = np.random.default_rng(3)
    x = np.concatenate(
        [
            10.0 ** rng.uniform(-307, 308, 1500),
            rng.uniform(0.5, 2, 1000),
            1 + rng.choice([-1, 1], 500) * 10.0 ** rng.uniform(-16, -1, 500),
            around(*(math.sqrt(0.5) * 2.0 ** np.arange(-1021, 1024)))[::9],
            around(*(math.sqrt(0.5) * 2.0 ** np.arange(-5, 6)), 0.5, 1.0, 2.0),
            [TINY, np.nextafter(TINY, 1), 1.7976931348623157e308, 1e-280],
        ]
    )
    assert_within(1.0, x, log(x), mp.log)
    assert log([1.0]) == 0


def test_the_log_next_to_one_and_its_bend_have_no_cancellation():
    rng = np.random.default_rng(4)
    low, high = math.sqrt(0.5) - 1, math.sqrt(2.0) - 1
    f = np.concatenate(
        [
            rng.uniform(low, high, 1500),
            rng.choice([-1, 1], 500) * 10.0 ** rng.uniform(-15.6, -1, 500),
            [low, high, -1e-300, 1e-17],
        ]
    )
    computed, bend = log_near_one(f)
    assert_within(1.0, f, computed, mp.log1p)
    # Second order in f: the next to last digit is what a difference of floats would lose first.
    near = np.abs(f) > 1e-150
    assert_within(3.0, f[near], bend[near], lambda v: mp.log1p(v) - v)
    assert log_near_one([0.0]) == (0, 0)


def test_log_falls_by_no_more_than_its_rounding_across_its_switches():
    for middle in math.sqrt(0.5) * 2.0 ** np.array([-1020, -1, 0, 1, 2, 900]):
        x = middle + np.arange(-300, 301) * np.spacing(middle)
        computed = log(x)
        assert np.all(np.diff(computed) >= -np.spacing(np.abs(computed[1:]))), middle


# ---- single precision ----------------------------------------------------------------------------


@COMPILE
def every_log_omega(z, near, far):
    for i in range(0, z.size, LANES):
        x = narrow(load(z, i))
        store(near, i, widen(single.log_omega(x, False)))
        store(far, i, widen(single.log_omega(x, True)))


@COMPILE
def every_single(x, exp, log):
    for i in range(0, x.size, LANES):
        y = narrow(load(x, i))
        store(exp, i, widen(single.exp(y)))
        store(log, i, widen(single.log(y)))


def in_lanes(function, x):
    """Return two results of a function of single vectors, and the singles."""
    x = np.asarray(x, dtype=np.float32).astype(float)
    padded = np.resize(x, -(-x.size // LANES) * LANES)
    first, second = np.empty_like(padded), np.empty_like(padded)
    function(padded, first, second)
    return first[: x.size], second[: x.size], x


def neighbours(*points):
    up, down = np.float32(np.inf), np.float32(-np.inf)
    middle = np.array(points, dtype=np.float32)
    return np.concatenate([np.nextafter(middle, down), middle, np.nextafter(middle, up)])


def exact_log_omega(z):
    """`log omega(z) = z - omega(z)`."""
    omega = exact_omega(float(z))
    return mp.log(omega) if omega > 0 else mp.mpf(z)


def test_single_exp_and_log_keep_their_promises():
    rng = np.random.default_rng(5)
    s = np.concatenate([rng.uniform(-80, 80, 2000), neighbours(-80, -1, -0.5, 0, 0.5, 80)])
    exp, _, s = in_lanes(every_single, s)
    halves = np.sqrt(0.5) * 2.0 ** np.arange(-100, 100, 7)
    x = np.concatenate([10.0 ** rng.uniform(-37, 38, 2000), neighbours(0.5, 1, 2, *halves)])
    _, log, x = in_lanes(every_single, x)
    with mp.workdps(30):
        assert max(abs(a / mp.exp(b) - 1) for a, b in zip(exp, s, strict=True)) < 4e-6
        errors = [abs(a - mp.log(b)) for a, b in zip(log, x, strict=True)]
    assert np.all(np.array(errors, float) < 2e-7 * np.maximum(1, np.abs(log)))


def test_single_log_omega_keeps_its_promise():
    rng = np.random.default_rng(6)
    z = np.concatenate(
        [
            rng.uniform(-80, 80, 2000),
            rng.uniform(single.NEAR, single.FAR, 2000),
            10.0 ** rng.uniform(-30, 37, 1000),
            -(10.0 ** rng.uniform(-30, 2.8, 500)),
            neighbours(single.NEAR, -1.0, 0.0, 1.0, single.FAR, 100.0, 1e9),
        ]
    )
    near, far, z = in_lanes(every_log_omega, z)
    with mp.workdps(30):
        exact = [exact_log_omega(x) for x in z]
        last = exact_log_omega(single.FAR)
        beyond = [min(abs(a - b) for b in (c, last)) for a, c in zip(near, exact, strict=True)]
        errors = [abs(a - b) for a, b in zip(far, exact, strict=True)]
    assert max(errors) < 1e-4, z[int(np.argmax(errors))]
    inside = z <= single.FAR
    assert np.array_equal(near[inside], far[inside])
    assert max(beyond) < 1e-4
