"""Certificates in ball arithmetic: against mpmath, exact fractions, and floats on grids."""

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import flint
import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath_claims import SIDES, exact

from rlhfsim import KL, proposition_a1, solve
from rlhfsim.bounds import proposition_a1_floor
from rlhfsim.certify import certify, enclose_sides, proposition_a1_enclosure
from rlhfsim.certify.minimum import enclose_minimum
from rlhfsim.certify.rounding import at_least, at_most
from rlhfsim.certify.sides import BALL_SIDES
from rlhfsim.claims import DIVERGENCE_CLAIMS, Claim, Pairs, sample_pairs

TRUE = [c for c in DIVERGENCE_CLAIMS if c.kind in {"upper", "tight"}]
FALSE = [c for c in DIVERGENCE_CLAIMS if c.kind == "false"]
SIZES = (10**2, 10**4, 10**6, 10**8)


def by_name(name):
    return next(c for c in DIVERGENCE_CLAIMS if c.name == name)


def pair(policy, reference, error=None):
    pi, p = np.array([policy], dtype=float), np.array([reference], dtype=float)
    delta = np.zeros_like(p) if error is None else np.array([error], dtype=float)
    return Pairs(pi, p, pi, p, np.array([0.5]), delta)


def dyadic_pairs(count, rng):
    """Rows of whole multiples of 1/64, which sum to 1 exactly; policies have zeros."""

    def rows(least):
        free = 64 - 4 * least
        laws = rng.dirichlet(np.full(4, 0.7), size=count)
        return (least + np.stack([rng.multinomial(free, law) for law in laws])) / 64

    error = rng.integers(-64, 65, size=(count, 4)) / 16
    weight = rng.integers(0, 9, size=count) / 8
    return Pairs(rows(0), rows(1), rows(0), rows(1), weight, error)


# ---- certify -------------------------------------------------------------------------------------


def test_every_divergence_claim_has_a_ball_formula():
    assert {c.name for c in DIVERGENCE_CLAIMS} == set(BALL_SIDES)


@pytest.mark.parametrize("claim", DIVERGENCE_CLAIMS, ids=lambda c: c.name)
def test_balls_hold_the_sides_in_mpmath_and_decide_as_they_do(claim):
    batch = dyadic_pairs(40, np.random.default_rng(2))
    seen = set()
    with mpmath.workdps(60):
        for k in range(len(batch)):
            x = batch.take(k)
            left, right = SIDES[claim.name](exact(x))
            found = enclose_sides(claim, x)
            for low, high, value in (
                (found.left_lower, found.left_upper, left),
                (found.right_lower, found.right_upper, right),
            ):
                slack = mpmath.mpf(10) ** -50
                assert mpmath.mpf(low) - slack <= value <= mpmath.mpf(high) + slack
                assert high == low or high - low <= 1e-15 * abs(high) + 1e-30
            verdict = certify(claim, x)
            seen.add(verdict)
            if abs(left - right) > mpmath.mpf(10) ** -40:
                assert verdict == ("certified" if left < right else "refuted")
            else:
                assert verdict != "refuted" or claim.kind == "false"
    assert "certified" in seen


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_true_claims_are_never_refuted(claim):
    batch = sample_pairs(60, 4, np.random.default_rng(3))
    verdicts = [certify(claim, batch.take(k), precision=512) for k in range(60)]
    assert "refuted" not in verdicts
    # Conditioned policies give the equality of two logarithms, which no precision decides.
    assert verdicts.count("certified") >= 40
    assert certify(claim, claim.witness(), precision=512) != "refuted"


@pytest.mark.parametrize("claim", FALSE, ids=lambda c: c.name)
def test_false_claims_are_refuted_at_their_witness(claim):
    assert certify(claim, claim.witness()) == "refuted"


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_constants_half_a_percent_too_small_are_refuted(claim):
    ball_sides = BALL_SIDES[claim.name]
    shrunk = replace(claim, right=lambda x: 0.995 * claim.right(x))

    def sides(x):
        left, right = ball_sides(x)
        return left, right * flint.fmpq(995, 1000)

    assert certify(shrunk, claim.witness(), sides=sides) == "refuted"


def test_a_claim_whose_numbers_are_not_those_of_its_formula_is_refused():
    claim = by_name("KL below chi-squared")
    halved = replace(claim, right=lambda x: 0.5 * claim.right(x))
    with pytest.raises(ValueError, match=r"the right side of claim .* is 0\.25, .* gives 0\.5"):
        certify(halved, claim.witness())
    doubled = replace(claim, left=lambda x: 2.0 * claim.left(x))
    with pytest.raises(ValueError, match="the left side of claim"):
        enclose_sides(doubled, claim.witness())


def test_balls_decide_what_floats_cannot():
    """TV = 2^-40 and sqrt(KL/2) differ by a relative 1e-24."""
    pinsker, step = by_name("Pinsker"), 2.0**-40
    x = pair([0.5 + step, 0.5 - step], [0.5, 0.5])
    assert certify(pinsker, x, precision=64) == "undecided"
    assert certify(pinsker, x) == "certified"
    found = enclose_sides(pinsker, x, precision=256)
    assert found.left_lower == found.left_upper == step

    def barely_too_small(pair):
        left, right = BALL_SIDES["Pinsker"](pair)
        return left, right * (1 - flint.fmpq(1, 2**70))

    assert certify(pinsker, x, sides=barely_too_small) == "refuted"


def test_equal_sides_are_certified_when_rational_and_undecided_when_not():
    half = pair([1.0, 0.0], [0.5, 0.5])
    assert certify(by_name("Hellinger below TV"), pair([1, 0], [0, 1])) == "certified"
    assert certify(by_name("TV below chi-squared"), half) == "certified"
    assert certify(by_name("KL below log of coverage"), half) == "undecided"


def test_infinite_sides():
    outside, inside = pair([0.5, 0.5], [1.0, 0.0]), pair([0.5, 0.5], [0.25, 0.75])
    for name in ("KL below twice chi-squared", "Pinsker", "change of measure", "Renyi order"):
        assert certify(by_name(name), outside) == "certified"
    found = enclose_sides(by_name("KL below chi-squared"), outside)
    assert (found.left_lower, found.right_upper) == (math.inf, math.inf)
    backwards = claim_of("upper", by_name("Pinsker").right, by_name("Pinsker").left)

    def sides(x):
        return BALL_SIDES["Pinsker"](x)[::-1]

    assert certify(backwards, outside, sides=sides) == "refuted"
    # A part of weight 0 does not count.
    x = replace(inside, other_policy=outside.policy, other_reference=outside.reference)
    x = replace(x, weight=np.array([1.0]))
    assert enclose_sides(by_name("joint convexity, D_chi2"), x).right_upper < 1


def claim_of(kind, left, right):
    return Claim("c", "f", "s", kind, left, right, lambda: pair([1, 0], [0.5, 0.5]))


@pytest.mark.parametrize(
    ("kind", "left", "right", "verdict"),
    [
        ("tight", 1, 2, "certified"), ("tight", 2, 1, "refuted"),
        ("upper", 1, 2, "certified"), ("upper", 2, 1, "refuted"), ("upper", 2, 2, "certified"),
        ("false", 1, 2, "certified"), ("false", 2, 1, "refuted"),
        ("lower", 1, 2, "refuted"), ("lower", 2, 1, "certified"), ("lower", 2, 2, "certified"),
        ("identity", 1, 2, "refuted"), ("identity", 2, 2, "certified"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ball", [flint.fmpq, flint.arb])
def test_kinds(kind, left, right, verdict, ball):
    claim = claim_of(kind, lambda _: np.array([float(left)]), lambda _: np.array([float(right)]))
    x = claim.witness()
    assert certify(claim, x, sides=lambda _: (ball(left), ball(right))) == verdict


def test_irrational_identity_is_undecided_until_it_is_refuted():
    three = claim_of("identity", lambda _: np.log([3.0]), lambda _: np.log([3.0]))
    x = three.witness()
    log3 = flint.arb.log

    def near(bits):
        def sides(_):
            return log3(flint.arb(3)), log3(flint.arb(3) + flint.arb(flint.fmpq(1, 2**bits)))

        return sides

    equal = certify(three, x, sides=lambda _: (log3(flint.arb(3)), log3(flint.arb(3))))
    assert equal == "undecided"
    assert certify(three, x, sides=near(100)) == "refuted"
    assert certify(three, x, sides=near(100), precision=64) == "undecided"


def test_bad_input_is_named():
    claim = by_name("Pinsker")
    x = claim.witness()
    with pytest.raises(ValueError, match="holds 2 instances; it must hold one"):
        certify(claim, dyadic_pairs(2, np.random.default_rng(0)))
    with pytest.raises(ValueError, match=r"policy\[0\] sums to 0\.97"):
        certify(claim, replace(x, policy=np.array([[0.5, 0.47]])))
    unsolved = replace(claim, name="mine", left=lambda x: np.linalg.svd(x.policy)[1][:, 0])
    with pytest.raises(ValueError, match="claim 'mine' has no formula in ball arithmetic, and its"):
        certify(unsolved, x)
    with pytest.raises(ValueError, match="precision is 10"):
        certify(claim, x, precision=10)
    with pytest.raises(ValueError, match="precision is 10"):
        enclose_sides(claim, x, precision=10)
    with pytest.raises(
        ValueError, match="kind is 'rate'; it must be one of identity, upper, tight"
    ):
        replace(claim, kind="rate")


def test_working_precision_is_left_as_it_was():
    before = flint.ctx.prec
    claim = by_name("KL below log of coverage")
    certify(claim, claim.witness(), precision=300)
    with pytest.raises(ZeroDivisionError):
        certify(claim, claim.witness(), sides=lambda _: 1 / flint.fmpq(0))
    proposition_a1_enclosure(100)
    assert flint.ctx.prec == before


def test_without_flint_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flint", None)
    for call in (
        lambda: certify(by_name("Pinsker"), by_name("Pinsker").witness()),
        lambda: enclose_sides(by_name("Pinsker"), by_name("Pinsker").witness()),
        lambda: proposition_a1_enclosure(100),
    ):
        with pytest.raises(ImportError, match=r"pip install 'rlhfsim\[certify\]'"):
            call()


def test_importing_the_module_does_not_import_flint():
    code = "import sys, rlhfsim.certify; print('flint' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@given(st.fractions(), st.integers(-400, 400))
def test_outward_rounding(value, exponent):
    value *= Fraction(2) ** exponent
    ball = flint.arb(flint.fmpq(value.numerator, value.denominator))
    low, high = at_most(ball), at_least(ball)
    assert Fraction(low) <= value <= Fraction(high)
    assert high - low <= 4 * np.spacing(abs(low) + abs(high))
    assert at_most(flint.fmpq(1, 2)) == at_least(flint.fmpq(1, 2)) == 0.5


def test_outward_rounding_of_what_floats_cannot_hold():
    huge, nan = flint.arb(2) ** 5000, flint.arb.nan()
    assert (at_most(huge), at_least(huge)) == (sys.float_info.max, math.inf)
    assert (at_most(nan), at_least(nan)) == (-math.inf, math.inf)
    assert at_most(flint.arb.pos_inf()) == math.inf


# ---- branch and bound ----------------------------------------------------------------------------


def test_minimum_among_many():
    def wavy(s):
        return 3 + (5 * s).cos() + s / 10, -5 * (5 * s).sin() + flint.fmpq(1, 10)

    found = enclose_minimum(wavy, 0.0, 4.0, 1e-9, 10_000)
    s = np.linspace(0, 4, 400_001)
    values = 3 + np.cos(5 * s) + s / 10
    assert found.lower <= values.min() <= found.upper * (1 + 1e-9)
    assert found.upper - found.lower <= 1e-9 * found.upper
    assert found.low <= s[values.argmin()] + 1e-5
    assert found.high >= s[values.argmin()] - 1e-5
    assert found.high - found.low < 1e-3


def test_minimum_at_the_first_end():
    found = enclose_minimum(lambda s: (1 + s, flint.arb(1)), 0.0, 4.0, 1e-6, 1000)
    assert found.lower <= 1 <= found.upper
    assert found.low == found.high == 0.0


def test_minimum_at_infinite_beta():
    """With 3 pairs the slope at t = 0 is positive already: `L^2 (1/q + 1) > 1 + n/2`."""
    found = proposition_a1_enclosure(3)
    assert found.beta_low == found.beta_high == math.inf
    reference = (1 / 6 / (2 * math.log(3))) + 1 / 3 / 2
    assert found.lower <= reference <= found.upper
    assert found.upper - found.lower < 1e-16


def test_least_value_at_the_far_end_is_an_error():
    with pytest.raises(ArithmeticError, match=r"no minimiser is left: the least value is at 4\.0"):
        enclose_minimum(lambda s: (9 - s, flint.arb(-1)), 0.0, 4.0, 1e-6, 1000)


def test_too_few_boxes_is_an_error():
    def parabola(s):
        return 1 + (s - 1.1) * (s - 1.1), 2 * (s - 1.1)

    with pytest.raises(ArithmeticError, match="after 12 boxes the minimum is only known to lie"):
        enclose_minimum(parabola, 0.0, 2.0, 1e-12, 10)
    with pytest.raises(ArithmeticError, match="larger tolerance"):
        proposition_a1_enclosure(100, 1e-18)


# ---- Proposition A.1 -----------------------------------------------------------------------------


def stationary(n):
    """The least regret and its beta from the one zero of the derivative, in 40 digits.

    `regret' = 0` where `L^2 (e^s/q + 1) = 1 + n^(1 - s)/2`, `q = 1 - 2/n`, `beta = 1/(2 L s)`: the
    left side rises and the right side falls.
    """
    log_n, q = mpmath.log(n), 1 - mpmath.mpf(2) / n

    def slope(s):
        return log_n**2 * (mpmath.exp(s) / q + 1) - 1 - mpmath.exp(log_n * (1 - s)) / 2

    s = mpmath.findroot(slope, (0, 2), solver="anderson", tol=1e-60)
    weights = [mpmath.mpf(1), q * mpmath.exp(-s), 2 * mpmath.exp(log_n * (s - 1))]
    regret = (weights[1] / (2 * log_n) + weights[2] / 2) / mpmath.fsum(weights)
    return regret, 1 / (2 * log_n * s)


@pytest.mark.parametrize("n", [*SIZES, 10**12])
def test_enclosure_holds_the_stationary_point(n):
    found = proposition_a1_enclosure(n)
    with mpmath.workdps(40):
        regret, beta = stationary(n)
        assert found.lower <= regret <= found.upper
        assert found.beta_low <= beta <= found.beta_high
        assert found.constant <= mpmath.mpf(found.lower) * mpmath.log(n)
        assert found.constant == pytest.approx(found.lower * math.log(n), rel=1e-14)
    assert found.upper - found.lower <= 1e-6 * found.upper
    assert found.beta_high / found.beta_low < 1.05


def test_finer_enclosures_are_inside():
    coarse, fine = (proposition_a1_enclosure(10**6, t) for t in (1e-3, 1e-13))
    assert coarse.lower < fine.lower < fine.upper <= coarse.upper
    assert fine.upper - fine.lower <= 1e-13 * fine.upper
    assert coarse.boxes < fine.boxes < 200
    with mpmath.workdps(40):
        assert fine.lower <= stationary(10**6)[0] <= fine.upper


@pytest.mark.parametrize("n", [3, 10, *SIZES])
def test_no_beta_of_a_grid_beats_the_enclosure(n):
    """The regret from `solve`, from beta = 1e-3 to 1e6, on the instance in floats."""
    instance, found = proposition_a1(n), proposition_a1_enclosure(n)
    centre = min(found.beta_high, 1e6)
    beta = np.concatenate([np.geomspace(1e-3, 1e6, 2001), np.geomspace(centre / 1.1, centre, 2001)])
    reward = np.broadcast_to(instance.reward_class[1], (len(beta), 1, 3))
    policy = solve(reward, instance.bandit.reference, KL(), beta[:, None]).policy
    regret = instance.bandit.regret(policy, instance.comparator)
    assert regret.min() >= found.lower * (1 - 1e-12)
    assert regret.min() <= found.upper * (1 + 1e-5)


@pytest.mark.parametrize("n", SIZES)
def test_enclosure_is_above_the_proved_floor(n):
    """The floor is proved for every n; the enclosure shows that it loses a factor of 2 at most."""
    found = proposition_a1_enclosure(n)
    assert found.lower / 2.1 < proposition_a1_floor(n) < found.lower
    assert found.constant >= 0.18


def test_the_constant_falls_towards_its_limit():
    """`1/(2 (1 + e)) = 0.1345` is the limit of regret times ln n."""
    constants = [proposition_a1_enclosure(10**k).constant for k in (2, 4, 8, 16, 64, 256)]
    assert all(a > b > 0.5 / (1 + math.e) for a, b in itertools.pairwise(constants))
    assert constants[-1] < 0.14


def test_bad_arguments_of_the_enclosure():
    with pytest.raises(ValueError, match="n is 2"):
        proposition_a1_enclosure(2)
    for tolerance in (0.0, -1.0, 1.0):
        with pytest.raises(ValueError, match="tolerance is"):
            proposition_a1_enclosure(100, tolerance)
