"""A divergence written by a user: four members give values, optima and certificates."""

import re
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
from scipy.optimize import brentq

from rlhfsim.divergences import (
    KL,
    AlphaDivergence,
    ChiSquared,
    Divergence,
    SquaredHellinger,
    require_consistent,
)
from rlhfsim.divergences.consistency import _stops_short
from rlhfsim.solvers import SolverError, solve

EPS = np.finfo(float).eps


class LeCam(Divergence):
    """Le Cam's `sum_y (pi - p)^2 / (pi + p)`: `f(t) = (t - 1)^2 / (t + 1)`."""

    recession = 1.0

    def perspective(self, policy, reference):
        return (policy - reference) ** 2 / (policy + reference)

    def link(self, ratio):
        u = (ratio - 1) / (ratio + 1)
        return u * (2 - u)

    def link_slope(self, ratio):
        return 8 / (ratio + 1) ** 3


class ExactLeCam(LeCam):
    """With the distance to the recession written out, for rare responses."""

    def tail(self, ratio):
        return (2 / (ratio + 1)) ** 2


def closed_form(reward, reference, beta):
    """`w = 2/sqrt(1 - s) - 1`, 0 for `s <= -3`; what the ratios miss goes outside the support."""
    inside = reference > 0

    def policy(multiplier):
        s = np.minimum((reward - multiplier) / beta, 1 - 1e-16)
        return np.where(inside, reference * np.maximum(2 / np.sqrt(1 - s) - 1, 0), 0)

    top = reward[inside].max()
    outside = reward[~inside].max(initial=-np.inf)
    low = max(top - beta * (1 - 1e-13), outside - beta)
    if policy(low).sum() < 1:
        pi = policy(low)
        winners = ~inside & (reward == outside)
        return np.where(winners, (1 - pi.sum()) / winners.sum(), pi)
    return policy(brentq(lambda m: policy(m).sum() - 1, low, top + 4 * beta, xtol=1e-15))


@pytest.mark.parametrize("divergence", [LeCam(), ExactLeCam()], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("beta", [0.05, 0.3, 1.0, 8.0, 1e5])
def test_optimum_agrees_with_the_closed_form(divergence, beta):
    rng = np.random.default_rng(0)
    clipped = outside = 0
    for _ in range(30):
        reward, reference = rng.normal(size=5), rng.dirichlet(np.ones(5))
        if rng.random() < 0.4:
            reference[rng.integers(5)] = 0.0
            reference /= reference.sum()
        solution = solve(reward, reference, divergence, beta)
        expected = closed_form(reward, reference, beta)
        np.testing.assert_allclose(solution.policy, expected, rtol=1e-9, atol=1e-11)
        assert abs(solution.gap) <= solution.tolerance <= 1e-12 * (1 + beta)
        clipped += np.any(solution.policy[reference > 0] == 0)
        outside += np.any(solution.policy[reference == 0] > 0)
        others = rng.dirichlet(np.ones(5), 50)
        values = others @ reward - beta * divergence.per_prompt(others, reference)
        assert np.all(values < solution.value)
    if beta <= 0.3:
        assert clipped > 3
        assert outside > 0


def test_value_agrees_with_a_convex_program():
    cp = pytest.importorskip("cvxpy")
    rng = np.random.default_rng(1)
    for beta in (0.2, 1.0, 5.0):
        reward, p = rng.normal(size=4), rng.dirichlet(np.ones(4))
        policy = cp.Variable(4, nonneg=True)
        # (pi - p)^2/(pi + p) = pi - 3 p + 4 p^2/(pi + p).
        penalty = cp.sum(policy) - 3 + 4 * cp.sum(cp.multiply(p**2, cp.inv_pos(policy + p)))
        problem = cp.Problem(cp.Maximize((reward / beta) @ policy - penalty), [cp.sum(policy) == 1])
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10)
        value = float(solve(reward, p, LeCam(), beta).value)
        assert value == pytest.approx(beta * problem.value, rel=1e-7, abs=1e-8)


def test_values_and_bounds():
    """Between half the squared Hellinger distance and all of it, twice over; at most 2."""
    rng = np.random.default_rng(2)
    pi, p = rng.dirichlet(np.full(4, 0.5), (2, 100))
    value = LeCam().per_prompt(pi, p)
    hellinger = ((np.sqrt(pi) - np.sqrt(p)) ** 2).sum(axis=-1)
    assert np.all(hellinger <= value * (1 + 1e-14))
    assert np.all(value <= 2 * hellinger)
    assert LeCam()([1.0, 0.0], [0.0, 1.0]) == 2
    assert LeCam()([0.5, 0.5], [1.0, 0.0]) == pytest.approx(1 / 6 + 1 / 2, rel=1e-15)


def test_inherited_members():
    t = np.concatenate([np.geomspace(1e-3, 1e3, 61), [1.0, 1 + 1e-9]])
    s = LeCam().link(t)
    with mp.workdps(40):
        for score in s:
            # The scores are rounded to eps; at the right end t is 1/sqrt of what they leave of 1.
            exact = 2 / mp.sqrt(1 - mp.mpf(float(score))) - 1
            slack = 8 * EPS * (1 + float(exact + 1) ** 3 / float(exact) / 8)
            assert abs(mp.mpf(float(LeCam().inverse_link(score))) / exact - 1) <= slack
    assert np.array_equal(LeCam().inverse_link([-3.0, -10.0, 1.0, 2.0]), [0, 0, np.inf, np.inf])
    for score in (-2.9, -0.5, 0.0, 0.5, 0.9):
        # f*(s) = s t - f(t) at the t above.
        exact = 4 - 3 * (1 - score) if score <= -3 else 4 - 4 * np.sqrt(1 - score) - (1 - score) + 1
        best = 2 / np.sqrt(1 - score) - 1
        exact = score * best - (best - 1) ** 2 / (best + 1)
        assert LeCam().conjugate(score) == pytest.approx(exact, abs=1e-14)
    assert LeCam().conjugate(1.5) == np.inf


def test_the_tail_keeps_rare_responses_exact():
    """`w = 2/sqrt(u) - 1`, where a score near 1 has lost the digits of u."""
    for rare in (1e-8, 1e-16, 1e-100, 1e-300):
        reward, reference, beta = [1.0, 0.0], [rare, 1 - rare], 0.5
        solution = solve(reward, reference, ExactLeCam(), beta)
        with mp.workdps(700):
            # The ratio of the other response follows from the one unknown u.
            p = [mp.mpf(x) for x in reference]

            def total(log_u, p=p):
                u = mp.exp(log_u)
                ratio = [2 / mp.sqrt(u + gap) - 1 for gap in (0, 2)]
                return p[0] * ratio[0] + p[1] * ratio[1] - 1

            start = 2 * mp.log(2 * p[0] / (2 - mp.sqrt(2)))
            u = mp.exp(mp.findroot(total, start))
            exact = p[1] * (2 / mp.sqrt(u + 2) - 1)
            assert abs(mp.mpf(float(solution.policy[1])) / exact - 1) < 1e-14
            assert abs(mp.mpf(float(solution.policy[0])) / (1 - exact) - 1) < 1e-14
        assert abs(solution.gap) <= solution.tolerance


def test_sums_with_other_divergences():
    rng = np.random.default_rng(3)
    for divergence in (LeCam() + KL(), 0.3 * LeCam(), ChiSquared() + 2 * LeCam()):
        reward, reference = rng.normal(size=5), rng.dirichlet(np.ones(5))
        solution = solve(reward, reference, divergence, 0.4)
        others = rng.dirichlet(np.ones(5), 200)
        nearby = solution.policy + 1e-4 * (others - solution.policy)
        for policies in (others, nearby):
            values = policies @ reward - 0.4 * divergence.per_prompt(policies, reference)
            assert np.all(values < solution.value)


def test_its_members_are_consistent_and_wrong_ones_are_refused():
    require_consistent(LeCam())
    require_consistent(ExactLeCam())

    class WrongLink(LeCam):
        def link(self, ratio):
            return super().link(ratio) * (1 + 1e-6)

    with pytest.raises(ValueError, match=r"link of .* is not the derivative of generator"):
        require_consistent(WrongLink())

    class WrongInverse(LeCam):
        def inverse_link(self, score):
            return super().inverse_link(score) * (1 + 1e-6)

    with pytest.raises(SolverError, match="no certified optimum"):
        solve([1.0, 0.0, 0.4], [0.2, 0.3, 0.5], WrongInverse(), 3.0)


def lecam_inverse(score):
    return 2 / np.sqrt(1 - score) - 1


@pytest.mark.parametrize(
    ("base", "members", "message"),
    [
        (LeCam, {"tail": lambda t: 2 / (t + 1)}, r"tail\(1e-06\) .* must be recession - link"),
        (
            LeCam,
            {"tail": lambda t: np.where(t > 1e9, 1.01, 1) * (2 / (t + 1)) ** 2},
            r"tail of .* does not fall as link rises: between the ratios 1e\+09",
        ),
        (LeCam, {"inverse_link": lambda s: 1 + lecam_inverse(s)}, "inverse_link .* invert link"),
        (
            LeCam,
            {"inverse_link": lambda s: lecam_inverse(s) * (1 + 1e-9)},
            "inverse_link .* does not invert link",
        ),
        (ExactLeCam, {"inverse_tail": lambda u: 2 / np.sqrt(u)}, "inverse_tail .* invert tail"),
        (LeCam, {"inverse_tail": lambda u: 2 / np.sqrt(u)}, "inverse_tail .* invert tail"),
        (LeCam, {"inverse_link": lecam_inverse}, r"inverse_link\(-4\) .* below link\(0\) .* be 0"),
        (
            LeCam,
            {"inverse_link": lambda s: np.maximum(2 / np.sqrt(np.maximum(1 - s, 1e-20)) - 1, 0)},
            r"inverse_link\(2\) .* above the recession it must be inf",
        ),
        (LeCam, {"recession": np.inf}, "recession of .* is inf; .* limit of link, which is 1.0"),
        (LeCam, {"recession": "x"}, "recession of .* is 'x'; it must be a number above 0"),
        (LeCam, {"recession": np.nan}, "recession of .* is nan; it must be a number above 0"),
        (
            ChiSquared,
            {"perspective": lambda pi, p: (pi / p - 1) ** 2 / 2},
            r"perspective\(2.5e-07, 0.25\) .* it must be p f\(pi/p\), which is 0.125",
        ),
        (
            KL,
            {"perspective": lambda pi, p: pi * np.log(pi / p) - pi + p},
            r"generator\(0\) of .* is nan; it must be the limit of generator, which is 1.0",
        ),
    ],
)
def test_wrong_members_that_derivatives_do_not_show_are_named(base, members, message):
    def method(function):
        return (lambda _, *args: function(*args)) if callable(function) else function

    wrong = type("Wrong", (base,), {name: method(value) for name, value in members.items()})()
    with pytest.raises(ValueError, match=message):
        require_consistent(wrong)


def test_limits_are_told_from_slow_growth():
    """`log log t` is 6.5 at 1e300, and without bound."""
    far = np.log([1e75, 1e150, 1e300])
    for unbounded in (far, np.log(far), np.exp(0.001 * far), np.array([1e200, np.inf, np.inf])):
        assert not _stops_short(np.inf, unbounded)
    for bounded in (1 - 1 / far, 1 - 1 / np.sqrt(far), 1 - np.exp(-far), -np.exp(-0.01 * far)):
        assert _stops_short(np.inf, bounded)
    for bounded in (1 - 1 / far, 1 - np.exp(-far), -np.expm1(-0.01 * far)):
        assert not _stops_short(1.0, bounded)
    assert _stops_short(1.1, 1 - np.exp(-far))


class Neyman(Divergence):
    """Half of `sum_y (pi - p)^2 / pi`, in formulas that raise at a plain 0.0."""

    recession = 0.5

    def perspective(self, policy, reference):
        return (policy - reference) ** 2 / (2 * policy)

    def link(self, ratio):
        return (1 - 1 / ratio**2) / 2

    def link_slope(self, ratio):
        return 1 / ratio**3


def test_members_are_called_with_arrays_only():
    require_consistent(Neyman())
    assert Neyman().generator(0.0) == np.inf
    assert Neyman().generator(2) == 0.25
    solution = solve([1.0, 0.3, 0.0], [0.1, 0.4, 0.5], Neyman(), 0.4)
    same = solve([1.0, 0.3, 0.0], [0.1, 0.4, 0.5], AlphaDivergence(-1), 0.4)
    np.testing.assert_allclose(solution.policy, same.policy, rtol=1e-12)


def test_a_tail_without_its_digits_is_no_fault():
    """Written out as the difference, or summed from terms that have no formula for it."""

    class Difference(LeCam):
        def tail(self, ratio):
            return 1.0 - self.link(ratio)

    for divergence in (Difference(), LeCam() + 0.1 * SquaredHellinger(), ExactLeCam() + KL()):
        require_consistent(divergence)


def test_a_missing_member_is_named():
    class Half(Divergence):
        recession = 1.0

    with pytest.raises(TypeError, match="link"):
        Half()


def test_the_documented_class_is_this_one():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    shown = re.search(r"class LeCam.*?\n\n\n", text, re.S).group()
    namespace = {"rs": __import__("rlhfsim")}
    exec(shown.replace("rs.Divergence", "Divergence"), {"Divergence": Divergence}, namespace)
    pi, p = [0.7, 0.2, 0.1], [0.2, 0.3, 0.5]
    assert namespace["LeCam"]()(pi, p) == LeCam()(pi, p)
    problem = [1.0, 0.0, 0.4], [0.2, 0.3, 0.5]
    shown_policy = solve(*problem, namespace["LeCam"](), 0.3).policy
    np.testing.assert_array_equal(shown_policy, solve(*problem, LeCam(), 0.3).policy)
