"""Claims run over balls by their own functions: no formula is written twice, and none is wrong."""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import mpmath
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

pytest.importorskip("flint")

import rlhfsim
from rlhfsim import KL, AlphaDivergence, ChiSquared, ForwardKL, JensenShannon, solve
from rlhfsim.certify import certify, enclose_sides
from rlhfsim.certify.formulas import FORMULAS
from rlhfsim.claims import CLAIMS, Claim, Pairs, Problems
from rlhfsim.claims.batches import Rows
from rlhfsim.claims.problems import single
from rlhfsim.solvers.high_precision import solve_high_precision

NAMED = {claim.name: claim for claim in CLAIMS}
FALSE = [claim for claim in CLAIMS if claim.kind == "false"]

#: Claims whose functions need a solver or a quadrature without a formula in ball arithmetic.
WITHOUT = (
    "gradient of", "pessimism delivers", "pointwise pessimism", "regret of p", "soft best-of-n",
    "InfAlign", "one draw", "homogeneous", "-of-n wins are",
)  # fmt: skip


def claim(left, right=lambda x: np.ones(len(x)), kind="upper", family=Pairs):
    return Claim("mine", "f", "s", kind, left, right, instances=family, no_witness="none")


def pairs(n=5, seed=0):
    batch = Pairs.sample(n, np.random.default_rng(seed))
    return [batch.take(k) for k in range(n)]


# ---- the list ------------------------------------------------------------------------------------


@pytest.mark.parametrize("false", FALSE, ids=lambda c: c.name)
def test_every_false_claim_is_refuted_in_balls_at_its_witness(false):
    assert certify(false, false.witness().take(0), precision=1024) == "refuted"


ALMOST_ALL = [
    c for c in CLAIMS
    if isinstance(c, Claim) and c.kind in ("upper", "tight", "lower", "identity")
    and c.name not in FORMULAS and not any(part in c.name for part in WITHOUT)
]  # fmt: skip


def test_most_claims_have_balls():
    assert len(ALMOST_ALL) > 50


@pytest.mark.parametrize(
    "true",
    [NAMED[name] for name in (
        "largest coverage", "sharp mixed regret", "chi2 regret at the beta of theory",
        "population minimiser of chiPO without a clip", "win rate of best-of-n",
        "tabular DPO raises the chosen response of one pair", "preferences tell gaps apart",
        "the Condorcet winner wins Copeland", "law of best-of-n",
    )],
    ids=lambda c: c.name,
)  # fmt: skip
def test_true_claims_are_certified_by_their_own_functions(true):
    """`certify` compares the balls with the claim's floats: other numbers would be refused."""
    assert true.name not in FORMULAS
    batch = true.family.sample(4, np.random.default_rng(1))
    verdicts = [certify(true, batch.take(k), precision=512) for k in range(4)]
    assert "refuted" not in verdicts
    assert "certified" in verdicts
    mutated = replace(true, name="mutated", right=lambda x: 0.4 * true.right(x))
    if true.kind == "upper":
        assert certify(mutated, true.witness().take(0)) == "refuted"


@pytest.mark.parametrize("name", ["KL below chi-squared", "Pinsker", "Renyi order",
                                  "joint convexity, KL", "data processing, D_chi2",
                                  "centred change of measure"])  # fmt: skip
def test_own_functions_and_formulas_by_hand_agree(name):
    for x in pairs():
        by_hand = enclose_sides(NAMED[name], x)
        own = enclose_sides(replace(NAMED[name], name="unnamed"), x)
        for side in ("left", "right"):
            low, high = (getattr(own, f"{side}_{end}") for end in ("lower", "upper"))
            assert low <= getattr(by_hand, f"{side}_upper")
            assert high >= getattr(by_hand, f"{side}_lower")
            assert low == high or high - low <= 1e-14 * abs(high)


# ---- a user's functions --------------------------------------------------------------------------

OFFSET = 0.25


def helper(values, axis=-1):
    return np.asarray(values, dtype=np.float64).sum(axis=axis) + OFFSET


def closure(divergence):
    return lambda x: divergence.per_prompt(x.policy, x.reference)


SIDES = {
    "helpers, globals and closures": (lambda x: helper(x.policy) + closure(KL())(x)),
    "modules": lambda x: rlhfsim.KL().per_prompt(x.policy, x.reference),
    "sums": lambda x: (0.5 * KL() + 2.0 * ChiSquared()).per_prompt(x.policy, x.reference),
    "partial": partial(lambda scale, x: scale * np.sqrt(x.weight), 3.0),
    "alpha": closure(AlphaDivergence(0.3)),
    "Jensen-Shannon": closure(JensenShannon()),
    "forward KL": closure(ForwardKL()),
    "called": lambda x: np.array([KL()(pi, p) for pi, p in zip(x.policy, x.reference)]),  # noqa: B905
    "softmax": lambda x: softmax(x.error, axis=1)[:, 0] + logsumexp(x.error, axis=1),
    "constants": lambda x: np.log(np.full(len(x), 3.0)) + np.array([0.1])[0],
    "coverage": lambda x: rlhfsim.concentrability(x.policy[:, None], x.reference[:, None], [1.0]),
}


@pytest.mark.parametrize("name", SIDES)
def test_users_functions_run_over_balls(name):
    """`enclose_sides` refuses balls that do not hold the floats, up to rounding."""
    mine = claim(SIDES[name])
    for x in pairs():
        found = enclose_sides(mine, x)
        value = float(np.ravel(SIDES[name](x))[0])
        assert found.left_lower <= value * (1 + 1e-9) + 1e-12
        assert found.left_upper >= value * (1 - 1e-9) - 1e-12
        if np.isfinite(value):
            assert found.left_upper - found.left_lower <= 1e-13 * (1 + abs(value))


def test_the_number_is_right_beyond_floats():
    """Pinsker's sides at 2^-40 differ by a relative 1e-24, which floats cannot see."""
    step = 2.0**-40
    p = np.array([[0.5, 0.5]])
    x = Pairs(np.array([[0.5 + step, 0.5 - step]]), p, p, p, np.ones(1), 0 * p)
    root = claim(lambda x: 0.5 * np.abs(x.policy - x.reference).sum(axis=1),
                 lambda x: np.sqrt(closure(KL())(x) / 2))  # fmt: skip
    assert certify(root, x, precision=64) == "undecided"
    assert certify(root, x) == "certified"
    assert certify(replace(root, kind="lower"), x) == "refuted"
    with mpmath.workdps(60):
        a, b = (mpmath.mpf(0.5) + s * mpmath.mpf(step) for s in (1, -1))
        want = mpmath.sqrt((a * mpmath.log(2 * a) + b * mpmath.log(2 * b)) / 2)
        found = enclose_sides(root, x, precision=256)
        assert found.right_lower <= want <= found.right_upper


@pytest.mark.parametrize("divergence", [KL(), ChiSquared(), ChiSquared() + 0.5 * KL(),
                                        2.0 * ChiSquared() + 0.1 * KL(), 3.0 * KL()],
                         ids=repr)  # fmt: skip
def test_optima_agree_with_the_high_precision_solver(divergence):
    rng = np.random.default_rng(3)

    def side(part, x):
        solution = solve(x.reward_hat, x.reference, divergence, x.beta[:, None])
        return getattr(solution, part)[:, 0, -1] if part == "policy" else solution.multiplier[:, 0]

    for beta in (0.125, 1.0, 8.0):
        # Multiples of 1/64: every float is the number it stands for.
        masses = rng.integers(1, 16, size=3)
        p = np.append(masses, 64 - masses.sum()) / 64
        r = rng.integers(-32, 33, size=4) / 16
        x = single(p.tolist(), r.tolist(), beta=beta)
        with mpmath.workdps(40):
            exact = solve_high_precision(r, p, divergence, beta)
            for part, want in (("policy", exact.policy[-1]), ("multiplier", exact.multiplier)):
                mine = claim(partial(side, part), family=Problems)
                found = enclose_sides(mine, x, precision=256)
                slack = mpmath.mpf(10) ** -25 * (1 + abs(want))
                assert found.left_lower - slack <= want <= found.left_upper + slack
                assert found.left_upper - found.left_lower <= 1e-14


@dataclass(frozen=True, eq=False)
class Tables(Rows):
    parametrization: ClassVar[dict[str, str]] = {"law": "simplex"}
    law: np.ndarray
    table: np.ndarray
    free: np.ndarray
    n: np.ndarray

    @classmethod
    def sample(cls, n, rng):
        law = rng.dirichlet(np.ones(3), size=n)
        return cls(law, law, rng.random((n, 3)), rng.integers(1, 5, n))


def test_rows_that_are_distributions_sum_to_one_exactly():
    x = Tables.sample(50, np.random.default_rng(0))
    off = int(np.argmax(np.abs(x.law.sum(axis=1) - 1.0)))
    one = x.take(off)
    assert one.law.sum() != 1.0
    for name in ("law", "table"):
        total = claim(lambda x, name=name: getattr(x, name).sum(axis=1), kind="identity")
        assert certify(replace(total, instances=Tables), one) == "certified"
    free = claim(lambda x: x.free.sum(axis=1), lambda x: x.free.sum(axis=1), "identity", Tables)
    assert certify(free, one) == "certified"
    thirds = claim(lambda x: x.n / 3 + x.n / 3 + x.n / 3, lambda x: x.n, "identity", Tables)
    assert certify(thirds, one) == "certified"


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (lambda x: np.linalg.svd(x.policy)[1], "TypeError"),
        (lambda x: np.array([float(np.float64(v)) for v in x.weight]), "is no float"),
        (lambda x: np.arccos(x.weight), "arccos has no version in ball arithmetic"),
    ],
)
def test_what_does_not_run_over_balls_is_said(left, message):
    with pytest.raises(ValueError, match=rf"'mine' has no formula in ball arithmetic.*{message}"):
        certify(claim(left), pairs(1)[0])


def test_globals_are_left_alone():
    before = dict(helper.__globals__)
    for x in pairs(2):
        certify(claim(SIDES["helpers, globals and closures"]), x)
    assert helper.__globals__ == before
    assert helper(np.ones(3)) == 3.25
    assert isinstance(solve([0.0, 1.0], [0.5, 0.5], KL(), 1.0).policy, np.ndarray)
