import itertools

import mpmath as mp
import numpy as np
import pytest
import scipy.special

from rlhfsim.special import entropy_excess, wright_omega

EPS = np.finfo(float).eps


def exact_omega(z):
    """The root of x + log x = z, by Newton from below, where the iteration rises to it."""
    z = mp.mpf(float(z))
    x = z - mp.log(z) if z > 1 else mp.exp(z) / (1 + mp.exp(z))
    for _ in range(60):
        step = (z - x - mp.log(x)) / (1 + x)
        x *= 1 + step
        if abs(step) < mp.mpf(10) ** (-mp.mp.dps // 2):
            return x
    raise AssertionError(f"no convergence at {z}")


def ulps(computed, exact):
    return float(abs(mp.mpf(float(computed)) - exact) / mp.mpf(float(np.spacing(float(exact)))))


def around(*points):
    return [
        x for p in points for x in (np.nextafter(p, -np.inf), float(p), np.nextafter(p, np.inf))
    ]


OMEGA_POINTS = np.concatenate(
    [
        np.linspace(-750, -50, 301),
        np.linspace(-50, 50, 1501),
        np.geomspace(1e-320, 1, 150),
        -np.geomspace(1e-320, 1, 150),
        np.geomspace(50, 1e15, 300),
        # 0: the two formulas meet; 2**53: no correction beyond; -2, 1, 1+pi: scipy's own switches.
        around(0.0, -2.0, 1.0, 1 + np.pi, -50.0, -20.0, -5.0, -1.0, 2.0**53, -(2.0**53)),
        around(-745.0, -745.13321910194122, -744.0, -708.39641853226408, -708.0),
        [1e16, 1e100, 1e308, 1.7e308],
    ]
)


def test_wright_omega_is_within_two_ulp_everywhere():
    computed = wright_omega(OMEGA_POINTS)
    with mp.workdps(50):
        errors = [ulps(w, exact_omega(z)) for z, w in zip(OMEGA_POINTS, computed, strict=True)]
    worst = int(np.argmax(errors))
    assert errors[worst] <= 2, (OMEGA_POINTS[worst], errors[worst])


# Where a formula changes: scipy's regions and series, e^z as it underflows, our two sides, and the
# end of the correction.
OMEGA_SWITCHES = [
    -745.1332191019412, -744.4400719213812, -708.3964185322641, -50.0, -2.0, 0.0, 1.0, 1.0 + np.pi,
    2.0**53, -(2.0**53), 1e20,
]  # fmt: skip


def test_wright_omega_is_within_two_ulp_of_random_points_and_around_every_switch():
    rng = np.random.default_rng(0)
    parts = [rng.uniform(a, b, 300) for a, b in itertools.pairwise([-746, -708, -50, -20, -5, -2])]
    parts += [rng.uniform(a, b, 500) for a, b in itertools.pairwise([-5, -2, -1, 0, 1, 5, 20])]
    parts += [sign * 10.0 ** rng.uniform(-323, 0, 300) for sign in (-1, 1)]
    parts += [10.0 ** rng.uniform(1, 308, 600)]
    steps = np.arange(-20, 21)
    parts += [s + steps * np.spacing(abs(s)) for s in OMEGA_SWITCHES]
    parts += [around(*OMEGA_SWITCHES)]
    z = np.concatenate(parts)
    computed = wright_omega(z)
    with mp.workdps(50):
        errors = [ulps(w, exact_omega(x)) for x, w in zip(z, computed, strict=True)]
    worst = int(np.argmax(errors))
    assert errors[worst] <= 2, (z[worst], errors[worst])
    # Two formulas that met at 0 only to 2 ulp would show as an average far above rounding's.
    assert np.mean(errors) < 0.4


def test_wright_omega_where_scipy_is_wrong_by_many_ulp():
    """What the correction is for: without it the bound above would not hold."""
    z = np.linspace(-50, -20, 301)
    with mp.workdps(50):
        exact = [exact_omega(x) for x in z]
        before = max(ulps(w, e) for w, e in zip(scipy.special.wrightomega(z), exact, strict=True))
        after = max(ulps(w, e) for w, e in zip(wright_omega(z), exact, strict=True))
    assert before > 10
    assert after < 1.5


def test_wright_omega_solves_its_equation():
    """Another way to the same number: lambertw, in mpmath too, at points it can do."""
    z = np.concatenate([np.linspace(-40, 40, 161), [1e-300, 300.0, -300.0]])
    with mp.workdps(40):
        for x, w in zip(z, wright_omega(z), strict=True):
            assert ulps(w, mp.lambertw(mp.exp(mp.mpf(x))).real) <= 2


def test_wright_omega_at_infinity_and_shapes():
    assert np.array_equal(wright_omega([-np.inf, np.inf, -1e300]), [0.0, np.inf, 0.0])
    assert np.isnan(wright_omega(np.nan))
    assert wright_omega(1.0) == 1.0
    assert wright_omega(0.0) == pytest.approx(0.567143290409783873, rel=1e-15)
    assert wright_omega(np.zeros((2, 0, 3))).shape == (2, 0, 3)
    z = np.linspace(-3, 3, 12).reshape(3, 4)
    each = [[float(wright_omega(v)) for v in row] for row in z]
    assert np.array_equal(wright_omega(z), each)


def test_wright_omega_is_increasing_across_the_switch():
    z = np.concatenate([np.linspace(-1e-12, 1e-12, 2001), np.linspace(-60, 60, 5001)])
    z = np.unique(z)
    assert np.all(np.diff(wright_omega(z)) >= 0)


EXCESS_POINTS = np.concatenate(
    [
        np.linspace(-0.5, 0.5, 1001),
        np.geomspace(1e-150, 0.5, 400),
        -np.geomspace(1e-150, 0.5, 400),
        around(-0.5 + 1e-9, -1e-8, 1e-8),
        [np.nextafter(-0.5, 0), np.nextafter(0.5, 0)],
    ]
)


def test_entropy_excess_is_accurate_to_a_few_eps():
    computed = entropy_excess(EXCESS_POINTS)
    with mp.workdps(400):
        for u, value in zip(EXCESS_POINTS, computed, strict=True):
            x = mp.mpf(float(u))
            exact = (1 + x) * mp.log1p(x) - x
            assert abs(mp.mpf(float(value)) - exact) <= 4 * EPS * exact, u


@pytest.mark.parametrize("u", [1e-155, -1e-155, 1e-160, 1e-300, -1e-300, 5e-324, -5e-324, 0.0])
def test_entropy_excess_underflows_to_the_nearest_subnormals(u):
    with mp.workdps(700):
        x = mp.mpf(u)
        exact = x * x / 2
        assert abs(mp.mpf(float(entropy_excess(u))) - exact) <= 4 * EPS * exact + 2 * mp.mpf(5e-324)
