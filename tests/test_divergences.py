import math
from dataclasses import dataclass

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from rlhfsim.divergences import (
    ALL_DIVERGENCES,
    KL,
    AlphaDivergence,
    ChiSquared,
    Combination,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
    renyi,
    require_consistent,
    squared_hellinger,
    total_variation,
)
from rlhfsim.solvers import solve

EPS = np.finfo(float).eps
EACH = pytest.mark.parametrize("divergence", ALL_DIVERGENCES, ids=repr)
RATIOS = np.concatenate([np.geomspace(1e-12, 1e12, 97), [0.5, 0.999, 1.0, 1.001, 1.5, 2.0]])


def exact_generator(divergence, t):
    """f(t) in mpmath, written out here."""
    formulas = {
        KL(): lambda t: (t * mp.log(t) if t else 0) - t + 1,
        ChiSquared(): lambda t: (t - 1) ** 2 / 2,
        ForwardKL(): lambda t: (-mp.log(t) if t else mp.inf) + t - 1,
        SquaredHellinger(): lambda t: (mp.sqrt(t) - 1) ** 2,
        JensenShannon(): lambda t: (
            ((t * mp.log(2 * t / (t + 1)) if t else 0) + mp.log(2 / (t + 1))) / 2
        ),
    }

    def one(base):
        if not isinstance(base, AlphaDivergence):
            return formulas[base](t)
        a = mp.mpf(base.alpha)
        power = t**a if t or a > 0 else mp.inf
        return (power - 1 - a * (t - 1)) / (a * (a - 1))

    return mp.fsum(mp.mpf(weight) * one(base) for weight, base in divergence.terms())


def exact_divergence(divergence, policy, reference):
    pairs = [(mp.mpf(float(a)), mp.mpf(float(b))) for a, b in zip(policy, reference, strict=True)]
    return mp.fsum(p * exact_generator(divergence, a / p) for a, p in pairs if p > 0)


def relative_error(computed, exact):
    return float(abs(mp.mpf(float(computed)) - exact) / exact)


# ---- the four members ----------------------------------------------------------------------------


@EACH
def test_generator_and_link_vanish_at_one(divergence):
    assert divergence.generator(1.0) == 0
    assert divergence.link(1.0) == 0
    assert divergence.inverse_link(0.0) == pytest.approx(1.0, abs=2 * EPS)


@EACH
def test_generator_and_its_derivatives_agree_with_mpmath(divergence):
    with mp.workdps(60):
        for t in RATIOS:
            x = mp.mpf(float(t))
            exact = exact_generator(divergence, x)
            assert abs(mp.mpf(float(divergence.generator(t))) - exact) <= 8 * EPS * exact
            step = x * mp.mpf(10) ** -20
            slope = mp.diff(lambda v: exact_generator(divergence, v), x, h=step)
            # log t and t - 1 carry the rounding of their larger term when they cancel or add.
            size = mp.fsum(
                w * abs(mp.diff(lambda v, b=base: exact_generator(b, v), x, h=step))
                for w, base in divergence.terms()
            )
            assert abs(mp.mpf(float(divergence.link(t))) - slope) <= 4 * EPS * size + 1e-18
            curvature = mp.diff(lambda v: exact_generator(divergence, v), x, 2, h=step)
            assert relative_error(divergence.link_slope(t), curvature) <= 4 * EPS


@EACH
def test_inverse_link_inverts_the_link(divergence):
    # Where the link rounds to its limit, the ratio cannot be told from it.
    t = RATIOS[divergence.link(RATIOS) < divergence.recession]
    s = divergence.link(t)
    # s is rounded, which moves the ratio by eps s / f''.
    slack = 8 * EPS * (1 + np.abs(s) / (divergence.link_slope(t) * t))
    if divergence == ChiSquared():
        slack = slack + 2 * EPS / t
    if isinstance(divergence, Combination):
        # s loses the digits of the smaller of its terms.
        size = sum(w * np.abs(base.link(t)) for w, base in divergence.terms())
        size = size + sum(w for w, _ in divergence.terms())
        slack = slack + 4 * EPS * size / (divergence.link_slope(t) * t)
    assert np.all(np.abs(divergence.inverse_link(s) / t - 1) <= slack)


def test_inverse_link_clips_only_where_the_link_is_bounded_below():
    scores = np.array([-1.0, -1.5, -1e300, np.nextafter(-1, 0)])
    inverse = ChiSquared().inverse_link(scores)
    assert np.array_equal(inverse[:3], np.zeros(3))
    assert inverse[3] > 0
    assert np.all(KL().inverse_link([-1.0, -700.0]) > 0)
    mixed = (ChiSquared() + KL()).inverse_link([-1.0, -1.5, -700.0])
    assert np.all(mixed > 0)
    assert np.all(np.diff(mixed) < 0)


@pytest.mark.parametrize("gamma", [1e-8, 1e-3, 0.3, 1.0, 7.0, 1e8])
def test_mixed_inverse_link_solves_its_equation(gamma):
    divergence = ChiSquared() + gamma * KL()
    s = np.concatenate([np.linspace(-3, 3, 61), np.geomspace(1e-12, 1e9, 60)])
    s = np.concatenate([s, -s[s > 0]])
    w = divergence.inverse_link(s)
    with mp.workdps(50):
        for score, ratio in zip(s, w, strict=True):
            if ratio < 1e-290:
                assert score < -1
                continue
            x = mp.mpf(float(ratio))
            residual = x - 1 + gamma * mp.log(x) - mp.mpf(float(score))
            # Newton's step from w to the root, relative to w; s + 1 is rounded.
            step = float(residual / (x + gamma))
            assert abs(step) <= 8 * EPS * (1 + (abs(score) + 1) / float(x + gamma)), (score, step)


@EACH
def test_conjugate_is_the_supremum(divergence):
    s = divergence.link(RATIOS[(RATIOS > 1e-6) & (RATIOS < 1e6)])
    s = np.concatenate([s, [-30.0, -2.0, -1.0, -0.5, 0.0, 0.5, 2.0]])
    if np.isfinite(divergence.recession):
        above = divergence.recession * np.array([1 + 1e-15, 1.5, 100.0])
        assert np.all(divergence.conjugate(above) == np.inf)
        s = s[s < divergence.recession * (1 - 1e-12)]
    conjugate = divergence.conjugate(s)
    grid = np.concatenate([[0.0], np.geomspace(1e-8, 1e8, 4001)])
    below = s[:, None] * grid - divergence.generator(grid)
    scale = 1e-14 * (1 + np.abs(conjugate) + np.abs(s) * divergence.inverse_link(s))
    assert np.all(conjugate >= below.max(axis=1) - scale)
    # ... and it is attained, at the inverse link (Fenchel-Young equality).
    t = divergence.inverse_link(s)
    assert np.all(np.abs(conjugate - (s * t - divergence.generator(t))) <= 20 * scale)


@pytest.mark.parametrize(
    ("divergence", "score", "expected"),
    [
        (KL(), 1.0, math.e - 1),
        (KL(), -2.0, math.exp(-2) - 1),
        (ChiSquared(), 2.0, 4.0),
        (ChiSquared(), -1.0, -0.5),
        (ChiSquared(), -7.0, -0.5),
        (3 * ChiSquared(), 2.0, 2 + 4 / 6),
        (2 * KL(), 1.0, 2 * math.expm1(0.5)),
    ],
    ids=str,
)
def test_conjugate_by_hand(divergence, score, expected):
    assert divergence.conjugate(score) == pytest.approx(expected, rel=1e-15)


# ---- values --------------------------------------------------------------------------------------


def random_pair(rng):
    size = int(rng.integers(1, 9))
    p = rng.dirichlet(np.full(size, rng.choice([0.1, 1.0, 10.0])))
    pi = rng.dirichlet(np.full(size, rng.choice([0.1, 1.0, 10.0])))
    p = np.maximum(p, 1e-300)
    if size > 1 and rng.random() < 0.3:
        pi[0] = 0.0
    return pi / pi.sum(), p / p.sum()


@EACH
def test_values_agree_with_mpmath(divergence):
    rng = np.random.default_rng(11)
    with mp.workdps(60):
        for _ in range(150):
            pi, p = random_pair(rng)
            computed = divergence(pi, p)
            exact = exact_divergence(divergence, pi, p)
            if exact > 1e300:
                continue
            assert abs(mp.mpf(float(computed)) - exact) <= 16 * EPS * exact + mp.mpf(1e-300)


@EACH
@pytest.mark.parametrize("distance", [1e-2, 1e-5, 1e-9, 1e-13])
def test_tiny_divergences_keep_their_digits(divergence, distance):
    rng = np.random.default_rng(5)
    p = rng.dirichlet(np.ones(7))
    pi = p + distance * (p * rng.uniform(-1, 1, 7))
    pi = pi + p * (1 - pi.sum())
    with mp.workdps(60):
        exact = exact_divergence(divergence, pi, p)
        assert exact < distance**2 * 30
        assert relative_error(divergence(pi, p), exact) <= 16 * EPS


@pytest.mark.parametrize("tiny", [1e-20, 1e-150, 1e-300])
@EACH
def test_rare_references(divergence, tiny):
    p = np.array([tiny, 1 - tiny])
    for share in (0.5, 1e-3, 1e-8, 1.0):
        pi = np.array([share, 1 - share])
        with mp.workdps(60):
            exact = exact_divergence(divergence, pi, p)
            if exact > 1e300:
                assert divergence(pi, p) > 1e300
                continue
            assert relative_error(divergence(pi, p), exact) <= 16 * EPS


@pytest.mark.parametrize("tiny", [1e-310, 5e-324])
def test_subnormal_references(tiny):
    pi, p = np.array([0.5, 0.5]), np.array([tiny, 1.0])
    with mp.workdps(60):
        assert relative_error(KL()(pi, p), exact_divergence(KL(), pi, p)) <= 16 * EPS
    assert ChiSquared()(pi, p) >= 1e308


POINT_MASS = {
    KL(): math.log(4),
    ChiSquared(): 1.5,
    ForwardKL(): math.inf,
    JensenShannon(): 0.5 * (math.log(8 / 5) + 0.25 * math.log(2 / 5) + 0.75 * math.log(2)),
    SquaredHellinger(): 1.0,
    AlphaDivergence(-1.0): math.inf,
    AlphaDivergence(0.3): (4**-0.7 - 1) / (0.3 * -0.7),
    AlphaDivergence(0.9): (4**-0.1 - 1) / (0.9 * -0.1),
    AlphaDivergence(1.5): (4**0.5 - 1) / 0.75,
    AlphaDivergence(3.0): (4**2 - 1) / 6,
}


@EACH
def test_point_mass_by_hand(divergence):
    expected = sum(weight * POINT_MASS[base] for weight, base in divergence.terms())
    assert divergence([1, 0, 0, 0], [0.25] * 4) == pytest.approx(expected, rel=1e-15)
    assert divergence([0.25] * 4, [0.25] * 4) == 0


@EACH
def test_supports_that_differ(divergence):
    at_zero = float(divergence.generator(0.0))
    half = float(divergence.generator(0.5))
    # Mass outside costs the recession, mass that is missing f(0).
    assert divergence([0.5, 0.5], [1.0, 0.0]) == pytest.approx(
        half + 0.5 * divergence.recession, rel=1e-15
    )
    assert divergence([1e-300, 1.0], [0.0, 1.0]) == pytest.approx(
        1e-300 * divergence.recession, rel=1e-15
    )
    assert divergence([1.0, 0.0], [0.0, 1.0]) == pytest.approx(
        at_zero + divergence.recession, rel=1e-15
    )
    assert divergence([1.0, 0.0], [1.0, 0.0]) == 0
    policy = np.array([[0.5, 0.5], [0.25, 0.75]])
    reference = np.array([[1.0, 0.0], [0.5, 0.5]])
    value = divergence(policy, reference, [0.5, 0.5])
    assert (value == np.inf) == (divergence.recession == np.inf)
    # A prompt of weight 0 does not count, even at infinity.
    assert divergence(policy, reference, [0.0, 1.0]) == divergence(policy[1], reference[1])


@EACH
def test_limits_of_the_generator(divergence):
    """`recession` and `f(0)` are limits, and `f'` runs to the first of them."""
    with mp.workdps(700):
        far = mp.mpf(10) ** 600
        slope = exact_generator(divergence, far) / far
        if divergence.recession == np.inf:
            assert slope > 500
        else:
            # The tail of alpha = 0.9 is still 1e-59 there, and 1/(1 - 0.9) is rounded.
            assert abs(divergence.recession - slope) < mp.mpf(10) ** -15 or (
                divergence == AlphaDivergence(0.9)
                and abs(divergence.recession - slope) < mp.mpf(10) ** -14 + 20 * far ** mp.mpf(-0.1)
            )
            assert divergence.link(1e300) <= divergence.recession
        near = exact_generator(divergence, mp.mpf(10) ** -600)
        if np.isfinite(divergence.generator(0.0)):
            assert relative_error(divergence.generator(0.0), near) <= 4 * EPS
        else:
            assert near > 100


def test_finite_recession_costs_its_share():
    value = ForwardKL()([0.5, 0.5], [1.0, 0.0])
    assert value == pytest.approx(math.log(2), rel=1e-15)
    assert (3 * ForwardKL()).recession == 3
    assert (ForwardKL() + KL()).recession == np.inf


@EACH
def test_average_over_prompts_and_leading_axes(divergence):
    rng = np.random.default_rng(2)
    policy, reference = rng.dirichlet(np.ones(4), (5, 3)), rng.dirichlet(np.ones(4), 3)
    rho = np.array([0.2, 0.3, 0.5])
    per_prompt = divergence.per_prompt(policy, reference)
    assert per_prompt.shape == (5, 3)
    each = [[divergence(policy[i, x], reference[x]) for x in range(3)] for i in range(5)]
    assert np.array_equal(per_prompt, each)
    value = divergence(policy, reference, rho)
    assert value.shape == (5,)
    np.testing.assert_allclose(value, np.array(each) @ rho, rtol=1e-14)
    single = divergence(policy[0, 0], reference[0])
    assert single.shape == ()
    assert divergence(policy[0, 0], reference[0], [1.0]) == single
    assert divergence(policy[0, :1], reference[:1]) == single


@EACH
def test_data_processing_and_joint_convexity(divergence):
    rng = np.random.default_rng(3)
    strict = 0
    for _ in range(50):
        pi, p = rng.dirichlet(np.ones(4), 2)
        value = divergence(pi, p)
        merged = divergence([pi[0] + pi[1], pi[2], pi[3]], [p[0] + p[1], p[2], p[3]])
        assert merged <= value * (1 + 1e-13)
        strict += merged < 0.99 * value
        other, q = rng.dirichlet(np.ones(4), 2)
        middle = divergence((pi + other) / 2, (p + q) / 2)
        assert middle <= (value + divergence(other, q)) / 2 * (1 + 1e-13)
    assert strict > 10
    # Responses of equal ratio lose nothing by merging.
    assert divergence([0.6, 0.2, 0.2], [0.3, 0.1, 0.6]) == pytest.approx(
        divergence([0.8, 0.2], [0.4, 0.6]), rel=1e-14
    )


def test_kl_bound_by_chi_squared_is_tight():
    for hidden in (0.5, 0.1, 1e-3, 1e-9):
        p = np.array([hidden, 1 - hidden])
        pi = np.array([0.0, 1.0])
        kl, chi = float(KL()(pi, p)), float(ChiSquared()(pi, p))
        assert kl == pytest.approx(math.log1p(2 * chi), rel=1e-7)
    assert kl / chi == pytest.approx(2, rel=1e-6)
    assert KL()([1, 0], [0.5, 0.5]) > ChiSquared()([1, 0], [0.5, 0.5])
    rng = np.random.default_rng(4)
    pi, p = rng.dirichlet(np.ones(5), (2, 200))
    assert np.all(KL().per_prompt(pi, p) <= np.log1p(2 * ChiSquared().per_prompt(pi, p)) + 1e-14)


# ---- algebra -------------------------------------------------------------------------------------


def test_sums_and_multiples():
    mixed = ChiSquared() + 0.5 * KL()
    assert mixed == 0.5 * KL() + ChiSquared() == ChiSquared() + KL() * 0.5
    assert hash(mixed) == hash(0.5 * KL() + ChiSquared())
    assert mixed != ChiSquared() + 0.25 * KL()
    assert mixed != ChiSquared()
    assert KL() + KL() == 2 * KL()
    assert 2 * (0.5 * KL()) == KL()
    assert isinstance(2 * (0.5 * KL()), KL)
    assert 3 * mixed == 3 * ChiSquared() + 1.5 * KL()
    assert mixed + KL() == ChiSquared() + 1.5 * KL()
    assert mixed.terms() == ((1.0, ChiSquared()), (0.5, KL()))
    assert KL().terms() == ((1.0, KL()),)
    assert len({mixed, 0.5 * KL() + ChiSquared(), KL(), KL() + KL(), 2 * KL()}) == 3


def test_repr_reads_back():
    for divergence in ALL_DIVERGENCES:
        assert eval(repr(divergence)) == divergence
    assert repr(ChiSquared() + 0.5 * KL()) == "ChiSquared() + 0.5 * KL()"
    assert repr(2 * KL()) == "2 * KL()"


def test_combination_is_the_weighted_sum():
    pi, p = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])
    expected = 0.25 * ChiSquared()(pi, p) + 3 * KL()(pi, p)
    assert (0.25 * ChiSquared() + 3 * KL())(pi, p) == pytest.approx(float(expected), rel=1e-15)


@pytest.mark.parametrize("weight", [0, 0.0, -1.0, math.nan, math.inf, "2", [1.0], None])
def test_bad_weights(weight):
    for divergence in (KL(), ChiSquared() + KL()):
        with pytest.raises(ValueError, match="weight"):
            divergence * weight
        with pytest.raises(ValueError, match="weight"):
            weight * divergence


@pytest.mark.parametrize("array", [np.array([1.0, 2.0]), np.array([[3]]), np.array([])])
def test_arrays_are_no_weights(array):
    for divergence in (KL(), ChiSquared() + KL()):
        with pytest.raises(TypeError, match="unsupported operand"):
            array * divergence
        with pytest.raises(TypeError):
            divergence * array
        with pytest.raises(TypeError):
            array + divergence


@pytest.mark.parametrize("two", [np.float64(2), np.float32(2), np.int64(2), np.array(2.0)])
def test_numpy_numbers_are_weights(two):
    assert two * KL() == KL() * two == 2 * KL()
    assert isinstance(two * KL(), Divergence)


def test_overflowing_weights_and_foreign_terms():
    with pytest.raises(ValueError, match=r"weight of KL\(\) is inf"):
        1e308 * KL() + 1e308 * KL()
    with pytest.raises(TypeError):
        KL() + 1.0
    with pytest.raises(TypeError):
        Divergence()


# ---- the generic routes --------------------------------------------------------------------------

THREE = [
    ForwardKL() + KL(),
    0.1 * ForwardKL() + ChiSquared(),
    ForwardKL() + ChiSquared() + 2 * KL(),
    100 * ForwardKL() + 1e-3 * KL(),
]


@pytest.mark.parametrize("divergence", THREE, ids=repr)
def test_numeric_inverse_link(divergence):
    t = np.concatenate([np.geomspace(1e-9, 1e9, 73), [1.0]])
    size = sum(w * np.abs(base.link(t)) for w, base in divergence.terms())
    inverse = divergence.inverse_link(divergence.link(t))
    slack = 4 * EPS * (1 + (size + 1) / (t * divergence.link_slope(t)))
    assert np.all(np.abs(inverse / t - 1) <= slack)
    assert divergence.inverse_link(0.0) == pytest.approx(1, abs=4 * EPS)


@dataclass(frozen=True)
class Twin(ChiSquared):
    """Chi-squared under another name: a sum with it has a link that is bounded below."""


def test_numeric_inverse_link_clips_to_zero():
    scores = np.array([-5.0, -2.0001, -1.0, 0.0, 4.0])
    expected = np.maximum(0.0, 1 + scores / 2)
    np.testing.assert_allclose((ChiSquared() + Twin()).inverse_link(scores), expected, rtol=4 * EPS)


@pytest.mark.parametrize("divergence", [ForwardKL(), 2 * ForwardKL(), *THREE], ids=repr)
@pytest.mark.parametrize("beta", [0.01, 0.3, 2.0, 1e4])
def test_generic_solver_against_brentq(divergence, beta):
    rng = np.random.default_rng(8)
    p, r = rng.dirichlet(np.ones(6)), rng.normal(size=6)
    solution = solve(r, p, divergence, beta)

    def excess(multiplier):
        return float(p @ divergence.inverse_link((r - multiplier) / beta)) - 1

    low = r.min()
    high = max(r.max(), low + 1e-6)
    if divergence.terms()[0][1] == ForwardKL() and len(divergence.terms()) == 1:
        # The inverse link of forward KL is infinite from the score `recession` on.
        low = max(low, r.max() - beta * divergence.recession * (1 - 1e-13))
    root = brentq(excess, low, high, xtol=1e-15, rtol=4 * EPS)
    assert solution.multiplier == pytest.approx(root, abs=1e-12 * (1 + beta))
    expected = p * divergence.inverse_link((r - root) / beta)
    np.testing.assert_allclose(solution.policy, expected / expected.sum(), rtol=1e-9)
    value = solution.policy @ r - beta * divergence(solution.policy, p)
    assert solution.value == pytest.approx(float(value), rel=1e-12, abs=1e-12)
    for _ in range(20):
        other = rng.dirichlet(np.ones(6))
        assert other @ r - beta * divergence(other, p) < solution.value


def test_numeric_inverse_at_its_ends():
    """Zero, infinity and everything between, where links are bounded and where they are not."""
    bounded = AlphaDivergence(3.0) + AlphaDivergence(5.0)
    lowest = float(bounded.link(0.0))
    assert np.array_equal(bounded.inverse_link([lowest, lowest - 1, -np.inf]), np.zeros(3))
    assert 0 < bounded.inverse_link(np.nextafter(lowest, 0)) < 1e-5
    flat = ForwardKL() + JensenShannon()
    top = flat.recession
    assert np.array_equal(flat.inverse_link([top, top + 1, np.inf]), np.full(3, np.inf))
    assert 1e10 < flat.inverse_link(np.nextafter(top, 0)) < np.inf
    assert flat.inverse_link(-1e300) == pytest.approx(1e-300, rel=1e-12)
    assert flat.inverse_link(np.zeros((0, 3))).shape == (0, 3)
    assert flat.inverse_link(0.1).shape == ()


WIDE = np.concatenate([np.geomspace(1e-150, 1e150, 301), 1 + np.geomspace(1e-12, 0.5, 12)])
FINITE = [d for d in ALL_DIVERGENCES if np.isfinite(d.recession)]


@EACH
def test_default_members_agree_with_the_closed_forms(divergence):
    """What a class inherits if it writes four members only."""
    t = WIDE[np.isfinite(divergence.link(WIDE)) & (divergence.link(WIDE) < divergence.recession)]
    s = np.concatenate([divergence.link(t), [0.0]])
    inverse, default = divergence.inverse_link(s), Divergence.inverse_link(divergence, s)
    t = np.where(inverse > 0, inverse, 1.0)
    cond = 1 + (np.abs(s) + 1) / (t * divergence.link_slope(t))
    clear = (inverse > 0) & np.isfinite(inverse) & (cond < 1e6)
    assert clear.sum() > 30
    assert np.all(np.abs(default / t - 1)[clear] <= (16 * EPS * cond)[clear])
    # (Cancellation in s t - f(t) is all that the default conjugate loses.)
    s = s[(t < 1e4) & clear]
    exact, default = divergence.conjugate(s), Divergence.conjugate_perspective(divergence, s, 1.0)
    size = np.abs(s) * divergence.inverse_link(s) + np.abs(exact)
    assert np.all(np.abs(exact - default) <= 1e-13 * size + 1e-30)


@pytest.mark.parametrize("divergence", FINITE, ids=repr)
def test_tail_is_the_distance_to_the_recession(divergence):
    ratios = np.concatenate([np.geomspace(1e-100, 1e100, 81), [1.0, 1.5]])
    with mp.workdps(800):
        for t in ratios:
            # The slope far out, minus the slope at t.
            x = mp.mpf(float(t))
            far = exact_slope(divergence, mp.mpf(10) ** 20000)
            exact = far - exact_slope(divergence, x)
            assert relative_error(divergence.tail(t), exact) <= 8 * EPS, t
    u = divergence.tail(ratios)
    cond = u / (ratios * divergence.link_slope(ratios))
    slack = 16 * EPS * (1 + cond)
    assert np.all(np.abs(divergence.inverse_tail(u) / ratios - 1) <= slack)
    default = Divergence.inverse_tail(divergence, u)
    assert np.all(np.abs(default / ratios - 1) <= slack)
    # Where the recession does not drown it, the tail and the link are one.
    small = (ratios < 1) & (ratios > 1e-12)
    np.testing.assert_allclose(u[small], divergence.recession - divergence.link(ratios[small]))
    # So are the two conjugates.
    s = divergence.recession - u[small]
    np.testing.assert_allclose(
        divergence.conjugate_tail(u[small], 0.3),
        divergence.conjugate_perspective(s, 0.3),
        rtol=1e-12,
        atol=1e-15,
    )


def exact_slope(divergence, t):
    """f'(t) in mpmath, written out here."""
    formulas = {
        ForwardKL(): lambda t: 1 - 1 / t,
        SquaredHellinger(): lambda t: 1 - 1 / mp.sqrt(t),
        JensenShannon(): lambda t: mp.log(2 * t / (1 + t)) / 2,
    }

    def one(base):
        if isinstance(base, AlphaDivergence):
            a = mp.mpf(base.alpha)
            return (t ** (a - 1) - 1) / (a - 1)
        return formulas[base](t)

    return mp.fsum(mp.mpf(weight) * one(base) for weight, base in divergence.terms())


@EACH
def test_members_are_consistent(divergence):
    require_consistent(divergence)


@pytest.mark.parametrize(
    ("member", "change", "message"),
    [
        ("link", lambda f: lambda t: f(t) * (1 + 1e-8), "link of .* is not the derivative of gen"),
        ("link", lambda f: lambda t: f(t) + 1e-8, r"link\(1\) of .* must be 0"),
        ("link_slope", lambda f: lambda t: f(t) * (1 - 1e-8), "link_slope .* derivative of link"),
        ("link_slope", lambda f: lambda t: -f(t), r"link_slope\(1.\S+\) of .* must be positive"),
        ("generator", lambda f: lambda t: f(t) + 1e-9, r"generator\(1\) of .* must be 0"),
        ("recession", lambda f: 1.1, "recession of .* is 1.1; it must be the limit of link"),
        ("recession", lambda f: 0.99, "recession of .* is 0.99; it must be the limit of link"),
    ],
)
def test_inconsistent_members_are_named(member, change, message):
    wrong = type("Wrong", (SquaredHellinger,), {})()
    right = getattr(SquaredHellinger(), member)
    setattr(type(wrong), member, change(right) if member == "recession" else None)
    if member != "recession":
        changed = change(right)
        setattr(type(wrong), member, lambda self, t: changed(t))
    with pytest.raises(ValueError, match=message):
        require_consistent(wrong)


# ---- relations -----------------------------------------------------------------------------------


def pairs(seed, count=100, size=5):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(size, 0.5), (2, count))


def test_forward_kl_is_kl_with_its_arguments_swapped():
    pi, p = pairs(20)
    np.testing.assert_array_equal(ForwardKL().per_prompt(pi, p), KL().per_prompt(p, pi))
    assert ForwardKL()([1.0, 0.0], [0.5, 0.5]) == KL()([0.5, 0.5], [1.0, 0.0]) == np.inf
    assert ForwardKL()([0.5, 0.5], [1.0, 0.0]) == KL()([1.0, 0.0], [0.5, 0.5])


def test_jensen_shannon_is_the_mean_divergence_to_the_midpoint():
    pi, p = pairs(21)
    middle = (pi + p) / 2
    expected = (KL().per_prompt(pi, middle) + KL().per_prompt(p, middle)) / 2
    value = JensenShannon().per_prompt(pi, p)
    np.testing.assert_allclose(value, expected, rtol=1e-13)
    np.testing.assert_allclose(value, JensenShannon().per_prompt(p, pi), rtol=1e-15)
    assert np.all(value < math.log(2))
    assert JensenShannon()([1, 0, 0], [0, 0.5, 0.5]) == pytest.approx(math.log(2), rel=1e-15)
    # Its square root is a metric; the triangle below is close to flat.
    root = np.sqrt(value[:50])
    between = np.sqrt(JensenShannon().per_prompt(pi[:50], pi[50:])) + np.sqrt(
        JensenShannon().per_prompt(pi[50:], p[:50])
    )
    assert np.all(root <= between)


def test_hellinger_is_bounded_by_two_and_symmetric():
    pi, p = pairs(22)
    value = SquaredHellinger().per_prompt(pi, p)
    np.testing.assert_allclose(value, 2 - 2 * np.sqrt(pi * p).sum(axis=-1), rtol=1e-13)
    np.testing.assert_array_equal(value, SquaredHellinger().per_prompt(p, pi))
    assert np.all(value < 2)
    assert SquaredHellinger()([1, 0, 0], [0, 0.5, 0.5]) == pytest.approx(2, rel=1e-15)
    assert SquaredHellinger()([1, 0, 0], [0, 0.25, 0.75]) <= 2
    assert squared_hellinger(pi[0], p[0]) == SquaredHellinger()(pi[0], p[0])
    np.testing.assert_allclose(AlphaDivergence(0.5).per_prompt(pi, p), 2 * value, rtol=1e-14)


@pytest.mark.parametrize("alpha", [-3.0, -0.2, 1e-9, 0.3, 0.5, 0.8, 1.2, 4.0])
def test_alpha_swaps_its_arguments(alpha):
    """`D_a(pi || p) = D_(1-a)(p || pi)`."""
    pi, p = pairs(23)
    np.testing.assert_allclose(
        AlphaDivergence(alpha).per_prompt(pi, p),
        AlphaDivergence(1 - alpha).per_prompt(p, pi),
        rtol=1e-12,
    )


@pytest.mark.parametrize("order", [0.2, 0.5, 0.9, 1.1, 3.0])
def test_alpha_and_renyi(order):
    """`D_Renyi = log(1 + a (a - 1) D_a)/(a - 1)`."""
    pi, p = pairs(24)
    value = np.log1p(order * (order - 1) * AlphaDivergence(order).per_prompt(pi, p)) / (order - 1)
    np.testing.assert_allclose(renyi(pi, p, order), value, rtol=1e-12)


LIMITS = [(0.0, ForwardKL()), (1.0, KL()), (2.0, ChiSquared()), (0.5, 2 * SquaredHellinger())]


@pytest.mark.parametrize(("alpha", "limit"), LIMITS, ids=str)
def test_alpha_has_its_limits(alpha, limit):
    t = np.concatenate([np.geomspace(1e-6, 1e6, 49), 1 + np.geomspace(1e-12, 1e-2, 11)])
    s = limit.link(t)
    at = AlphaDivergence(alpha)
    assert at.recession == limit.recession
    for member in ("generator", "link", "link_slope"):
        np.testing.assert_allclose(getattr(at, member)(t), getattr(limit, member)(t), rtol=1e-13)
    clear = (s < limit.recession * (1 - 1e-3)) & (s > -0.999)
    for member in ("inverse_link", "conjugate"):
        np.testing.assert_allclose(
            getattr(at, member)(s[clear]), getattr(limit, member)(s[clear]), rtol=1e-12
        )
    # Approached at the rate |a - limit|, down to distances where a - 1 loses all its digits.
    pi, p = pairs(25)
    value = limit.per_prompt(pi, p)
    for step in (1e-3, 1e-6, 1e-9, 1e-12, 1e-15):
        for a in (alpha - step, alpha + step):
            near = AlphaDivergence(a).per_prompt(pi, p)
            assert np.all(np.abs(near / value - 1) <= 1000 * step + 1e-14)


def test_alpha_at_its_limits_is_the_limit_in_sums():
    assert AlphaDivergence(1).terms() == KL().terms()
    assert 2 * AlphaDivergence(0) == 2 * ForwardKL()
    assert AlphaDivergence(2) + KL() == ChiSquared() + KL()
    assert (AlphaDivergence(1) + KL()) == 2 * KL()
    assert AlphaDivergence(np.float64(3)) == AlphaDivergence(3)
    assert repr(AlphaDivergence(3)) == "AlphaDivergence(alpha=3.0)"
    # Alone it keeps its name, and takes the route of the limit.
    problem = [1.0, 0.3, -2.0], [0.2, 0.3, 0.5]
    for alpha, limit in LIMITS[:3]:
        np.testing.assert_allclose(
            solve(*problem, AlphaDivergence(alpha), 0.7).policy,
            solve(*problem, limit, 0.7).policy,
            rtol=1e-14,
        )


@pytest.mark.parametrize("alpha", [math.nan, math.inf, -math.inf, "2", None, True, [2.0], 2j])
def test_bad_alpha(alpha):
    with pytest.raises(ValueError, match=r"alpha (is|\[0\])"):
        AlphaDivergence(alpha)


ALPHAS = [-4.0, -1.0, -1e-7, 1e-7, 0.2, 0.5, 1 - 1e-7, 1 + 1e-7, 1.7, 2 + 1e-9, 6.0]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_alpha_keeps_its_digits(alpha):
    divergence = AlphaDivergence(alpha)
    rng = np.random.default_rng(26)
    with mp.workdps(120):
        for distance in (1e-13, 1e-8, 1e-3, 0.9):
            p = rng.dirichlet(np.ones(6))
            pi = p * (1 + distance * rng.uniform(-1, 1, 6))
            pi = pi / pi.sum()
            exact = exact_divergence(divergence, pi, p)
            assert relative_error(divergence(pi, p), exact) <= 16 * EPS
        for t in (1e-20, 1e-3, 0.9, 1.1, 1e3, 1e20):
            exact = exact_slope(divergence, mp.mpf(t))
            assert relative_error(divergence.link(t), exact) <= 8 * EPS
            s = float(exact)
            if not s < divergence.recession or s <= float(divergence.link(0.0)):
                continue
            base = 1 + (mp.mpf(alpha) - 1) * mp.mpf(s)
            exact = base ** (1 / (mp.mpf(alpha) - 1))
            slack = 8 * EPS * (1 + abs(s / base))
            assert relative_error(divergence.inverse_link(s), exact) <= slack
            exact = (base ** (mp.mpf(alpha) / (mp.mpf(alpha) - 1)) - 1) / mp.mpf(alpha)
            slack = 16 * EPS * (1 + abs(alpha) * abs(s / base)) * (1 + abs(1 / (alpha * exact)))
            slack = slack if abs(alpha) > 1e-3 else 8 * EPS * (1 + abs(s / base))
            assert relative_error(divergence.conjugate(s), exact) <= slack


# ---- distances -----------------------------------------------------------------------------------


def test_total_variation_and_hellinger_by_hand():
    pi, p = [0.5, 0.5, 0.0], [0.125, 0.5, 0.375]
    assert total_variation(pi, p) == 0.375
    exact = (math.sqrt(0.5) - math.sqrt(0.125)) ** 2 + 0.375
    assert squared_hellinger(pi, p) == pytest.approx(exact, rel=1e-15)
    assert total_variation([1, 0], [0, 1]) == 1
    assert squared_hellinger([1, 0], [0, 1]) == 2
    assert total_variation([[1, 0], [0.5, 0.5]], [[0, 1], [0.5, 0.5]], [0.25, 0.75]) == 0.25
    assert squared_hellinger([[1, 0], [0.5, 0.5]], [[0, 1], [0.5, 0.5]], [0.25, 0.75]) == 0.5


def test_hellinger_of_a_close_pair_keeps_its_digits():
    p = np.array([0.3, 0.7])
    pi = p + np.array([1e-11, -1e-11])
    with mp.workdps(60):
        exact = mp.fsum(
            (mp.sqrt(mp.mpf(float(a))) - mp.sqrt(mp.mpf(float(b)))) ** 2
            for a, b in zip(pi, p, strict=True)
        )
        assert relative_error(squared_hellinger(pi, p), exact) <= 8 * EPS


def test_inequalities_between_distances_hold_and_are_tight():
    rng = np.random.default_rng(6)
    pi, p = rng.dirichlet(np.full(4, 0.5), (2, 500))
    tv = np.array([total_variation(a, b) for a, b in zip(pi, p, strict=True)])
    h2 = np.array([squared_hellinger(a, b) for a, b in zip(pi, p, strict=True)])
    kl, chi = KL().per_prompt(pi, p), ChiSquared().per_prompt(pi, p)
    assert np.all(tv <= np.sqrt(kl / 2))
    assert np.all(tv <= np.sqrt(chi / 2))
    assert np.all(tv <= np.sqrt(1 - np.exp(-kl)))
    assert np.all(h2 <= kl)
    assert np.all(h2 / 2 <= tv)
    assert np.all(tv <= np.sqrt(h2 * (1 - h2 / 4)))
    # Witnesses: a symmetric pair for Pinsker and for chi-squared, disjoint ones for the rest.
    near = np.array([0.5 + 1e-5, 0.5 - 1e-5]), np.array([0.5, 0.5])
    assert total_variation(*near) == pytest.approx(math.sqrt(KL()(*near) / 2), rel=1e-9)
    assert total_variation([0.7, 0.3], [0.5, 0.5]) == pytest.approx(
        math.sqrt(ChiSquared()([0.7, 0.3], [0.5, 0.5]) / 2), rel=1e-14
    )
    far = np.array([1.0, 0.0]), np.array([1e-30, 1.0])
    assert total_variation(*far) == pytest.approx(squared_hellinger(*far) / 2, rel=1e-12)


@pytest.mark.parametrize("order", [1e-3, 0.3, 0.5, 0.999, 1, 1.001, 1.5, 2, 3.5, 40])
def test_renyi_agrees_with_mpmath(order):
    rng = np.random.default_rng(7)
    with mp.workdps(80):
        for _ in range(60):
            pi, p = random_pair(rng)
            if order > 1 and p.min() < 1e-290 / 40:
                continue
            pairs = [
                (mp.mpf(float(a)), mp.mpf(float(b))) for a, b in zip(pi, p, strict=True) if a > 0
            ]
            if order == 1:
                exact = mp.fsum(a * mp.log(a / b) for a, b in pairs)
            else:
                a_ = mp.mpf(order)
                exact = mp.log(mp.fsum(a**a_ * b ** (1 - a_) for a, b in pairs)) / (a_ - 1)
            # Rounding of the sums to 1 enters as eps/|order - 1|.
            noise = 60 * EPS * (abs(exact) + 1 / abs(order - 1) if order != 1 else 1 + abs(exact))
            assert abs(mp.mpf(float(renyi(pi, p, order))) - exact) <= noise


def exact_renyi(policy, reference, order):
    """log(1 + E)/(a - 1) in mpmath, E = sum p (w^a - 1 - a (w - 1)); the KL at order 1."""
    a = mp.mpf(order)
    if order == 1:
        return exact_divergence(KL(), policy, reference)
    pairs = [(mp.mpf(float(x)), mp.mpf(float(y))) for x, y in zip(policy, reference, strict=True)]
    excess = mp.fsum((x**a * y ** (1 - a) if x else 0) - (1 - a) * y - a * x for x, y in pairs)
    return mp.log1p(excess) / (a - 1)


ORDERS = [1e-3, 0.2, 0.5, 0.9, 1 - 1e-6, 1 - 1e-9, 1, 1 + 1e-9, 1 + 1e-6, 1.1, 2, 3, 40, 1e4, 1e12]


@pytest.mark.parametrize("order", ORDERS)
def test_renyi_keeps_its_digits(order):
    rng = np.random.default_rng(13)
    with mp.workdps(120):
        for distance in (1e-12, 1e-8, 1e-4, 0.1, 0.9):
            p = rng.dirichlet(np.ones(5))
            pi = p * (1 + distance * rng.uniform(-1, 1, 5))
            pi = pi / pi.sum()
            assert relative_error(renyi(pi, p, order), exact_renyi(pi, p, order)) <= 40 * EPS
        for _ in range(30):
            pi, p = random_pair(rng)
            if len(p) == 1 or p.min() < 1e-100:
                continue
            assert relative_error(renyi(pi, p, order), exact_renyi(pi, p, order)) <= 1e-12


def test_renyi_of_rows_that_sum_to_one_only_within_tolerance():
    pi, p = [0.5, 0.5 + 5e-10], [0.5, 0.5]
    for order in ORDERS[1:-1]:
        with mp.workdps(80):
            assert relative_error(renyi(pi, p, order), exact_renyi(pi, p, order)) <= 1e-12
    assert renyi(pi, p, 1 + 1e-9) == pytest.approx(2.5e-19, rel=1e-6)


def test_renyi_is_continuous_at_one_and_at_one_half():
    rng = np.random.default_rng(14)
    pi, p = rng.dirichlet(np.ones(5), (2, 40))
    for middle in (0.5, 1.0):
        for step in (1e-15, 1e-12, 1e-9):
            for order in (middle - step, middle + step):
                np.testing.assert_allclose(
                    renyi(pi, p, order), renyi(pi, p, middle), rtol=40 * step + 1e-14
                )
    np.testing.assert_array_equal(renyi(pi, pi, 1 + 1e-9), np.zeros(40))
    np.testing.assert_array_equal(renyi(pi, pi, 0.3), np.zeros(40))


def test_renyi_beyond_the_floats():
    pi, p = np.array([0.5, 0.5]), np.array([1e-300, 1.0])
    largest = math.log(0.5e300)
    for order in (3.0, 40.0, 1e6):
        expected = (order * largest - 300 * math.log(10)) / (order - 1)
        assert renyi(pi, p, order) == pytest.approx(expected, rel=1e-14)
    assert renyi(pi, p, 1e300) == pytest.approx(largest, rel=1e-15)
    assert renyi(pi, p, math.inf) == pytest.approx(largest, rel=1e-15)
    # Disjoint supports are infinitely far apart at every order, and half of one is not below 1.
    for order in (1e-3, 0.5, 1 - 1e-9, 1, 1 + 1e-9, 2, 1e300, math.inf):
        assert renyi([1.0, 0.0], [0.0, 1.0], order) == np.inf
        assert (renyi([0.5, 0.5], [1.0, 0.0], order) == np.inf) == (order >= 1)


def test_renyi_swaps_its_arguments_with_the_order():
    """`(1 - a) D_a(pi || p) = a D_(1-a)(p || pi)` for a in (0, 1)."""
    rng = np.random.default_rng(15)
    pi, p = rng.dirichlet(np.ones(4), (2, 30))
    for a in (0.01, 0.3, 0.45):
        np.testing.assert_allclose((1 - a) * renyi(pi, p, a), a * renyi(p, pi, 1 - a), rtol=1e-13)


def test_renyi_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"last axes differ: policy \(1,\), reference \(2,\)"):
        renyi([1.0], [0.5, 0.5], 2)
    assert renyi([[1.0, 0.0]] * 3, [0.5, 0.5], 2).shape == (3,)


def test_renyi_landmarks_and_monotonicity():
    rng = np.random.default_rng(9)
    pi, p = rng.dirichlet(np.ones(5), (2, 40))
    np.testing.assert_allclose(renyi(pi, p, 1), KL().per_prompt(pi, p), rtol=1e-15)
    np.testing.assert_allclose(
        renyi(pi, p, 2), np.log1p(2 * ChiSquared().per_prompt(pi, p)), rtol=1e-12
    )
    np.testing.assert_allclose(renyi(pi, p, np.inf), np.log((pi / p).max(axis=-1)), rtol=1e-13)
    orders = [0.01, 0.1, 0.5, 0.9, 1, 1.1, 2, 5, 50, np.inf]
    curve = np.array([renyi(pi, p, order) for order in orders])
    assert np.all(np.diff(curve, axis=0) > 0)
    # Flat, for a conditioned reference: every order gives -log of the mass.
    for order in orders:
        assert renyi([1.0, 0.0], [0.2, 0.8], order) == pytest.approx(math.log(5), rel=1e-13)
    assert renyi([0.5, 0.5], [1.0, 0.0], 2) == np.inf
    assert renyi([0.5, 0.5], [1.0, 0.0], 1) == np.inf
    assert renyi([0.5, 0.5], [1.0, 0.0], np.inf) == np.inf
    assert renyi([0.5, 0.5], [1.0, 0.0], 0.5) == pytest.approx(math.log(2), rel=1e-14)


@pytest.mark.parametrize(
    "order",
    [0, -1, math.nan, -math.inf, True, np.True_, "2", None, 2j, [2.0], np.array([2.0]),
     np.array(2.0), 10**400],
)  # fmt: skip
def test_renyi_refuses_other_orders(order):
    with pytest.raises(ValueError, match=r"order is .*; it must be a real number in \(0, inf\]"):
        renyi([0.5, 0.5], [0.5, 0.5], order)


@pytest.mark.parametrize("order", [2, 2.0, np.float32(2), np.int64(2)])
def test_renyi_takes_any_real_order(order):
    assert renyi([1.0, 0.0], [0.2, 0.8], order) == pytest.approx(math.log(5), rel=1e-14)


# ---- input ---------------------------------------------------------------------------------------


def every_divergence_call(policy, reference, prompt_dist=None):
    for function in (*ALL_DIVERGENCES, total_variation, squared_hellinger):
        yield lambda f=function: f(policy, reference, prompt_dist)


@pytest.mark.parametrize(
    ("policy", "reference", "prompt_dist", "message"),
    [
        ([0.5, 0.6], [0.5, 0.5], None, r"policy sums to 1\.1; rows must sum to 1 within 1e-09"),
        ([[0.5, 0.5], [0.7, 0.2]], [0.5, 0.5], [1, 0], r"policy\[1\] sums to 0\.8999"),
        ([0.5, 0.5], [1.5, -0.5], None, r"reference\[1\] is -0\.5; probabilities must not be neg"),
        ([0.5, math.nan], [0.5, 0.5], None, r"policy\[1\] is nan; entries must be finite"),
        ([0.5, 0.5], [0.5, math.inf], None, r"reference\[1\] is inf; entries must be finite"),
        (["a", "b"], [0.5, 0.5], None, "policy is not an array of real numbers"),
        ([], [], None, r"policy has shape \(0,\)"),
        ([1.0, 0.0], [[0.5, 0.5]] * 2, [0.5, 0.6], r"prompt_dist sums to 1\.1"),
        ([0.5, 0.5], [[0.5, 0.3, 0.2]], None, r"last axes differ: policy \(2,\), reference \(1, 3"),
        ([1.0], [0.5, 0.5], None, r"last axes differ: policy \(1,\), reference \(2,\); they must"),
        ([[0.2, 0.8]], [[1.0]], [1.0], r"last axes differ: policy \(1, 2\), reference \(1, 1\)"),
        ([[0.5, 0.5]] * 3, [[0.5, 0.5]] * 2, None, r"shapes do not broadcast: policy \(3, 2\), re"),
        ([True, False], [0.5, 0.5], None, "policy is .*; it must hold real numbers, not booleans"),
        ([0.5, 0.5], [0.5, 0.5], [0.5, 0.5], r"prompt_dist has shape \(2,\); it must be \(1,\)"),
        ([[0.5, 0.5]] * 2, [0.5, 0.5], None, "prompt_dist is missing; with 2 prompts"),
        ([[0.5, 0.5]] * 2, [0.5, 0.5], [1.0], r"prompt_dist has shape \(1,\); it must be \(2,\)"),
    ],
)
def test_bad_input(policy, reference, prompt_dist, message):
    for call in every_divergence_call(policy, reference, prompt_dist):
        with pytest.raises(ValueError, match=message):
            call()


def test_arrays_are_not_mutated():
    policy, reference = np.array([[0.2, 0.8], [1.0, 0.0]]), np.array([[0.4, 0.6], [0.5, 0.5]])
    rho = np.array([0.5, 0.5])
    before = policy.copy(), reference.copy(), rho.copy()
    for array in (policy, reference, rho):
        array.setflags(write=False)
    for call in every_divergence_call(policy, reference, rho):
        call()
    renyi(policy, reference, 3)
    score = np.array([-2.0, 0.5])
    for divergence in ALL_DIVERGENCES:
        divergence.conjugate(score)
        divergence.inverse_link(score)
    assert np.array_equal(score, [-2.0, 0.5])
    assert all(map(np.array_equal, before, (policy, reference, rho)))


probabilities = st.lists(st.floats(1e-12, 1.0), min_size=4, max_size=4).map(
    lambda weights: np.array(weights) / np.sum(weights)
)


@EACH
@given(policy=probabilities, reference=probabilities)
def test_divergences_are_nonnegative_and_zero_only_at_equality(divergence, policy, reference):
    value = divergence(policy, reference)
    assert value >= 0
    assert divergence(policy, policy) == 0
    # Pinsker, with its constant, for whatever the terms weigh.
    kl = {base: weight for weight, base in divergence.terms()}.get(KL(), 0.0)
    chi = {base: weight for weight, base in divergence.terms()}.get(ChiSquared(), 0.0)
    assert value * (1 + 1e-12) >= 2 * (kl + chi) * total_variation(policy, reference) ** 2
