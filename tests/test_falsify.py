"""The falsifier finds, by itself, what is known to be false, tight, or without a constant."""

from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest

from rlhfsim.bounds import chi_squared_bound, reward_error, sharp_chi_squared_bound
from rlhfsim.claims import CLAIMS, Pairs
from rlhfsim.claims.base import Claim
from rlhfsim.claims.batches import Rows
from rlhfsim.divergences import ChiSquared
from rlhfsim.falsify import falsify
from rlhfsim.falsify.axes import freedom_of
from rlhfsim.falsify.certificates import _stands_out
from rlhfsim.falsify.climbing import Found, polish
from rlhfsim.falsify.coordinates import Coordinates, parametrization_of
from rlhfsim.falsify.evaluation import Evaluator, arrays_of, rows
from rlhfsim.falsify.evolution import Evolution
from rlhfsim.falsify.shrinking import cost, written
from rlhfsim.solvers import solve

#: Enough for every search below; the default is larger.
BUDGET = 60_000


def by_name(name):
    return next(c for c in CLAIMS if c.name == name)


def scaled(claim, factor, name="scaled"):
    return replace(claim, name=name, kind="upper", right=lambda x: factor * claim.right(x))


@dataclass(frozen=True, eq=False)
class Regrets:
    """One prompt; generic instances only, so that equality is never sampled."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "interior", "comparator": "simplex", "reward": "real", "reward_hat": "real",
        "beta": "positive",
    }  # fmt: skip
    reference: np.ndarray
    comparator: np.ndarray
    reward: np.ndarray
    reward_hat: np.ndarray
    beta: np.ndarray

    def __len__(self):
        return len(self.beta)

    def take(self, index):
        return Regrets(*(getattr(self, f.name)[index : index + 1] for f in fields(self)))

    @classmethod
    def sample(cls, n, rng):
        size = int(rng.integers(2, 5))
        reference, comparator = rng.dirichlet(np.ones(size), size=(2, n))
        reference = (reference + 0.01) / (reference + 0.01).sum(axis=1, keepdims=True)
        return cls(reference, comparator, *rng.standard_normal((2, n, size)), rng.gamma(1, size=n))


def regret(x):
    learned = solve(x.reward_hat, x.reference, ChiSquared(), x.beta).policy
    return ((x.comparator - learned) * x.reward).sum(axis=1)


def _epsilon(x):
    return reward_error(x.reward[:, None], x.reward_hat[:, None], x.reference[:, None])


def textbook(x):
    """The bound of the literature, sqrt(2 D*) eps + beta D* + eps^2 / (2 beta)."""
    eps, star = _epsilon(x), ChiSquared().per_prompt(x.comparator, x.reference)
    return np.sqrt(2 * star) * eps + x.beta * star + eps**2 / (2 * x.beta)


def regret_claim(right):
    return Claim("regret", "regret <= bound", "test", "upper", regret, right,
                 lambda: Regrets.sample(1, np.random.default_rng(0)))  # fmt: skip


SHARP = regret_claim(
    lambda x: sharp_chi_squared_bound(
        x.reward[:, None],
        x.reward_hat[:, None],
        x.reference[:, None],
        x.beta,
        x.comparator[:, None],
    )
)


# ---- what it finds -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_counterexample_of_kl_below_chi_squared_has_two_responses_and_simple_fractions(seed):
    found = falsify(by_name("KL below chi-squared"), seed=seed, budget=BUDGET)
    assert found.violated
    x = found.instance
    assert sorted(x.policy[0]) == [0, 1]
    assert all(Fraction(v).denominator <= 4 for v in x.reference[0])
    assert found.ratio == found.claim.ratio(x)[0] > 1.2
    assert found.arrays == ("policy", "reference")
    assert "other_policy" not in found.describe()
    # The supremum of KL / D_chi2 is 2, and not reached.
    assert 1.99 <= found.shrunk_from.ratio < 2


def test_ball_arithmetic_proves_the_violation():
    pytest.importorskip("flint")
    found = falsify(by_name("KL below chi-squared"), budget=BUDGET)
    assert found.certificate == "ball arithmetic"


def test_no_constant_saves_the_change_of_measure_with_kl():
    found = falsify(by_name("change of measure with KL"), budget=BUDGET)
    assert found.violated
    assert found.shrunk_from.ratio > 1e6
    assert found.evaluations < BUDGET
    assert all(Fraction(v).denominator <= 64 for v in found.instance.reference[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_textbook_bound_can_be_halved(seed):
    found = falsify(regret_claim(textbook), seed=seed, budget=BUDGET)
    assert not found.violated
    assert 0.49 <= found.shrunk_from.ratio <= 0.5 + 1e-9
    assert found.ratio >= 0.99 * found.shrunk_from.ratio


def test_norm_form_of_the_sharp_bound_is_half_of_the_textbook_bound():
    """So the ratio 1/2 above is the sharp bound being attained."""
    x = Regrets.sample(100, np.random.default_rng(0))
    star = ChiSquared().per_prompt(x.comparator, x.reference)
    np.testing.assert_allclose(
        chi_squared_bound(_epsilon(x), star, x.beta), textbook(x) / 2, rtol=1e-12
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_sharp_bound_is_found_to_be_attained(seed):
    sampled = SHARP.ratio(Regrets.sample(5000, np.random.default_rng(seed))).max()
    found = falsify(SHARP, seed=seed, budget=BUDGET)
    assert not found.violated
    assert 0.999 < found.shrunk_from.ratio <= 1 + 1e-9
    assert sampled < 0.999  # random instances alone would not have shown it
    assert found.instance.reference.shape == (1, 2)


def test_sharp_bound_with_a_constant_one_percent_too_small_is_found_false():
    found = falsify(scaled(SHARP, 0.99), budget=BUDGET)
    assert found.violated
    assert found.certificate == "ball arithmetic"
    assert 1 < found.ratio <= found.shrunk_from.ratio * (1 + 1e-9)
    assert found.shrunk_from.ratio == pytest.approx(1 / 0.99, rel=1e-3)


TRUE = [c for c in CLAIMS if c.kind in {"upper", "tight"} and c.family is Pairs]


@pytest.mark.parametrize("claim", TRUE, ids=lambda c: c.name)
def test_true_claims_are_not_violated_but_are_with_one_percent_less(claim):
    assert not falsify(claim, budget=6_000).violated
    found = falsify(scaled(claim, 0.99), budget=20_000)
    assert found.violated
    assert found.certificate == "ball arithmetic"
    assert found.ratio > 1


def test_lower_claims_and_identities_are_searched_too():
    lower = Claim("lower", "D >= 0.51 KL", "test", "lower", by_name("KL below chi-squared").right,
                  lambda x: 0.51 * by_name("KL below chi-squared").left(x),
                  by_name("KL below chi-squared").witness)  # fmt: skip
    found = falsify(lower, budget=BUDGET)
    assert found.violated
    assert found.certificate == "ball arithmetic"
    identity = replace(
        lower, name="identity", kind="identity", right=lambda x: 1.001 * lower.left(x)
    )
    assert falsify(identity, budget=5_000).violated


def test_an_identity_that_rounding_breaks_is_not_called_false():
    """A resolution far too small: the ratio exceeds 1, but the difference is noise."""
    identity = Claim("noise", "exp(300 log(1 + t)) = (1 + t)^300", "test", "identity",
                     lambda x: np.exp(300 * np.log(1 + x.weight)), lambda x: (1 + x.weight) ** 300,
                     by_name("Pinsker").witness)  # fmt: skip
    found = falsify(identity, budget=5_000)
    assert found.shrunk_from.ratio > 1
    assert not found.violated
    assert found.certificate == "none"


# ---- reproducible, and limits --------------------------------------------------------------------


def test_same_seed_same_result():
    first, second = (falsify(SHARP, seed=3, budget=5_000) for _ in range(2))
    assert first.ratio == second.ratio
    assert first.describe() == second.describe()
    other = falsify(SHARP, seed=4, budget=5_000)
    assert other.shrunk_from.ratio != first.shrunk_from.ratio


def test_budget_is_kept_up_to_the_last_batch_and_shrinking():
    found = falsify(by_name("Pinsker"), budget=1)
    assert found.evaluations < 20_000
    timed = falsify(by_name("Pinsker"), seconds=0.05, budget=10**9)
    assert timed.evaluations < 10**8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0}, "budget is 0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seconds": 0.0}, "seconds is 0.0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        falsify(by_name("Pinsker"), **settings)


def test_what_is_no_claim_is_refused():
    with pytest.raises(ValueError, match="claim is a str"):
        falsify("Pinsker")


# ---- evaluation ----------------------------------------------------------------------------------


def test_sides_that_are_not_numbers_or_are_refused_are_no_violation():
    def left(x):
        if (x.weight > 0.9).any():
            raise ValueError("refused")
        return np.where(x.weight > 0.5, np.nan, x.weight)

    claim = Claim("nan", "t <= 1", "test", "upper", left, lambda x: np.ones(len(x)),
                  by_name("Pinsker").witness)  # fmt: skip
    batch = Pairs.sample(200, np.random.default_rng(0))
    ratios = Evaluator(claim, 1000).ratios(batch)
    good = batch.weight <= 0.5
    np.testing.assert_allclose(ratios[good], batch.weight[good], atol=1e-13)
    assert np.isnan(ratios[~good]).all()
    found = falsify(claim, budget=5_000)
    assert not found.violated
    assert found.shrunk_from.ratio == pytest.approx(0.5, rel=1e-3)
    assert 0 < found.without_ratio < found.evaluations
    assert falsify(replace(claim, left=lambda x: x.weight), budget=1_000).without_ratio == 0


@pytest.mark.parametrize(
    ("left", "reason"),
    [
        (lambda x: 1 / 0, "at the last, ZeroDivisionError: division by zero"),
        (lambda x: np.ones(len(x) + 1), r"left of claim 'no ratio' has shape \(2,\)"),
        (lambda x: np.full(len(x), np.nan), "at the last, left is not a number"),
    ],
)
def test_a_search_without_a_ratio_is_no_evidence(left, reason):
    claim = Claim("no ratio", "f", "test", "upper", left, lambda x: 1.0,
                  instances=Pairs, no_witness="none")  # fmt: skip
    with pytest.raises(ValueError, match=rf"'no ratio' has a ratio at none of \d+ .*{reason}"):
        falsify(claim, budget=100)


def test_a_violation_stands_that_depends_on_a_tie():
    """Moving the numbers breaks the tie and changes the left side by a jump: still violated."""
    claim = Claim("tie", "1 + [pi_1 = pi_2] <= 1/2", "test", "upper",
                  lambda x: 1.0 + (x.policy[:, 0] == x.policy[:, 1]),
                  lambda x: np.full(len(x), 0.5),
                  by_name("Pinsker").witness)  # fmt: skip
    found = falsify(claim, budget=5_000)
    assert found.violated
    assert found.shrunk_from.ratio == pytest.approx(4)


def rolled(x):
    """Half of TV + 1, through a matrix norm that ball arithmetic has no formula for."""
    moved = np.linalg.svd((x.policy - x.reference)[:, None, :], compute_uv=False)[:, 0]
    return 1.0 + moved


def test_a_violation_without_a_proof_is_undecided():
    claim = Claim("norm", "1 + |pi - p| <= 1.1", "test", "upper", rolled,
                  lambda x: np.full(len(x), 1.1), by_name("Pinsker").witness)  # fmt: skip
    found = falsify(claim, budget=5_000)
    assert (found.verdict, found.violated) == ("undecided", False)
    assert found.certificate == "stable in floats"
    assert "has no formula in ball arithmetic" in found.reason
    assert found.ratio > 1.2
    none = falsify(replace(claim, right=lambda x: np.full(len(x), 9.0)), budget=5_000)
    assert (none.verdict, none.reason) == ("not violated", "")


def test_rounding_that_looks_like_a_violation_is_disproved_by_balls():
    """`1 <= (1 + t) - t` fails in floats, and stays so when the numbers move."""
    claim = Claim("lost", "1 <= (1e9 + t)^2 - 2e9 t - t^2 - 1e18 + 1", "test", "upper",
                  lambda x: np.ones(len(x)),
                  lambda x: (1e9 + x.weight) ** 2 - 2e9 * x.weight - x.weight**2 - 1e18 + 1,
                  by_name("Pinsker").witness)  # fmt: skip
    found = falsify(claim, budget=5_000)
    assert found.shrunk_from.ratio > 1
    assert not found.violated


def test_an_infinite_ratio_is_a_violation():
    claim = Claim("zero", "t <= 0", "test", "upper", lambda x: x.weight,
                  lambda x: np.zeros(len(x)), by_name("Pinsker").witness)  # fmt: skip
    found = falsify(claim, budget=5_000)
    assert found.violated
    assert found.ratio == np.inf
    assert found.instance.weight[0] == 1.0


# ---- parts ---------------------------------------------------------------------------------------


def test_coordinates_return_the_instances_they_came_from():
    batch = Pairs.sample(300, np.random.default_rng(1))
    coordinates = Coordinates(batch, parametrization_of(Pairs))
    again = coordinates.decode(coordinates.encode(batch)[0], batch)
    for f in fields(batch):
        old, new = getattr(batch, f.name), getattr(again, f.name)
        usual = old > 1e-30 if f.name != "error" else np.full(old.shape, True)
        np.testing.assert_allclose(new[usual], old[usual], rtol=1e-12)
        assert (new[old == 0] <= 1e-17).all()
    assert (again.policy == 0).sum() == (batch.policy == 0).sum() > 0


def test_any_coordinates_give_valid_instances():
    rng = np.random.default_rng(2)
    batch = Regrets.sample(50, rng)
    coordinates = Coordinates(batch, parametrization_of(Regrets))
    x = coordinates.decode(1e3 * rng.standard_normal((50, coordinates.size)), batch)
    np.testing.assert_allclose(x.reference.sum(axis=1), 1, rtol=1e-14)
    assert (x.reference > 0).all()
    assert (x.beta > 0).all()
    assert np.isfinite(x.beta).all()


def test_instances_that_the_family_calls_invalid_are_dropped():
    @dataclass(frozen=True, eq=False)
    class Half(Pairs):
        @classmethod
        def sample(cls, n, rng):
            return cls(*vars(Pairs.sample(n, rng)).values())

        def valid(self):
            return self.weight <= 0.5

    claim = Claim("t", "t <= 1/4", "test", "upper", lambda x: x.weight,
                  lambda x: np.full(len(x), 0.25),
                  lambda: Half.sample(1, np.random.default_rng(0)))  # fmt: skip
    found = falsify(claim, budget=5_000)
    assert found.violated
    assert found.shrunk_from.ratio == pytest.approx(2, rel=1e-3)
    assert found.instance.weight[0] <= 0.5
    assert found.without_ratio == 0


def test_interior_distributions_keep_their_mass():
    claim = replace(regret_claim(lambda x: np.full(len(x), 0.25)), left=lambda x: x.reference[:, 0])
    found = falsify(claim, budget=5_000)
    assert found.violated
    assert (found.instance.reference > 0).all()
    assert (found.shrunk_from.instance.reference > 0).all()


@dataclass(frozen=True, eq=False)
class Ranked(Rows):
    """A reference, a table of pairs of its responses, and features of another number of columns."""

    parametrization: ClassVar[dict[str, str]] = {"reference": "simplex"}
    reference: np.ndarray  # (N, Y)
    table: np.ndarray  # (N, Y, Y), at most 1
    features: np.ndarray  # (N, Y, d)
    draws: np.ndarray  # (N,)

    @classmethod
    def sample(cls, n, rng):
        y, d = int(rng.integers(2, 7)), int(rng.integers(1, 4))
        return cls(
            rng.dirichlet(np.ones(y), size=n), rng.random((n, y, y)), rng.random((n, y, d)),
            rng.integers(1, 1000, size=n),
        )  # fmt: skip

    def valid(self):
        return (self.table <= 1).all(axis=(1, 2)) & (self.table >= 0).all(axis=(1, 2))


def test_axes_that_share_a_size_shrink_together():
    x = Ranked.sample(1, np.random.default_rng(5))
    freedom = freedom_of(x, np.random.default_rng(0))
    assert [(set(axes.members), axes.least) for axes in freedom.axes] == [
        ({("reference", 1), ("table", 1), ("table", 2), ("features", 1)}, 2),
        ({("features", 2)}, 1),
    ]
    assert freedom.whole.keys() == {"draws"}
    smaller = freedom.axes[0].without(arrays_of(x), 1)
    np.testing.assert_array_equal(
        smaller["table"][0], np.delete(np.delete(x.table[0], 1, axis=0), 1, axis=1)
    )


def test_instances_of_any_family_become_small_and_round():
    claim = Claim("largest", "n max P <= 3/4", "test", "upper",
                  lambda x: x.table.max(axis=(1, 2)) * x.draws, lambda x: np.full(len(x), 0.75),
                  lambda: Ranked.sample(1, np.random.default_rng(0)))  # fmt: skip
    found = falsify(claim, budget=5_000)
    assert found.verdict == "refuted"
    x = found.instance
    assert x.reference.shape == (1, 2)
    assert x.table.shape == (1, 2, 2)
    assert x.features.shape == (1, 2, 1)
    assert x.draws[0] < 100
    assert all(Fraction(v).limit_denominator(100) == pytest.approx(v) for v in x.table.ravel())
    assert found.ratio == claim.ratio(x)[0] > 1


def test_noise_does_not_stand_out():
    rng, one = np.random.default_rng(0), np.ones(65)
    assert _stands_out("upper", 1.01 * one, one)
    assert _stands_out("lower", one, 1.01 * one)
    assert not _stands_out("upper", one, 1.01 * one)
    assert not _stands_out("upper", one + rng.uniform(1e-6, 2e-6, 65), one)
    assert not _stands_out("upper", (1 + 1e-12) * one, one)
    assert _stands_out("upper", np.inf * one, one)
    assert not _stands_out("identity", np.inf * one, one)


def test_unknown_kind_is_named():
    class Wrong:
        parametrization: ClassVar[dict[str, str]] = {"policy": "simples"}

    with pytest.raises(
        ValueError, match=r"'policy'.*Wrong is 'simples'; it must be one of simplex"
    ):
        parametrization_of(Wrong)


def test_evolution_finds_the_top_of_an_ill_conditioned_quadratic():
    rng = np.random.default_rng(0)
    d, runs = 6, 4
    turn, _ = np.linalg.qr(rng.standard_normal((d, d)))
    curvature = 10.0 ** np.linspace(0, 4, d)
    evolution = Evolution(np.full((runs, d), 3.0), np.ones((runs, d)), np.ones(runs))
    for _ in range(500):
        points = evolution.ask(rng)
        evolution.tell(-(((points - 1.0) @ turn) ** 2 @ curvature))
    np.testing.assert_allclose(evolution.means, 1.0, atol=1e-8)


def test_polish_climbs_to_the_top():
    claim = Claim("parabola", "1 - sum (error - 2)^2 <= 1", "test", "upper",
                  lambda x: 1 / (1 + ((x.error - 2) ** 2).sum(axis=1)), lambda x: np.ones(len(x)),
                  by_name("Pinsker").witness)  # fmt: skip
    start = rows(Pairs.sample(5, np.random.default_rng(0)), slice(0, 1))
    evaluator = Evaluator(claim, 10**6)
    found = polish(evaluator, Found(start, float(claim.ratio(start)[0])), {"error": "real"})
    assert found.ratio > 0.999
    assert claim.ratio(start)[0] < 0.9


def test_numbers_are_written_as_fractions_where_they_are_fractions():
    assert written(1 / 3) == "1/3"
    assert written(0.125) == "1/8"
    assert written(-2.0) == "-2"
    assert written(0.1234567890123) == "0.1234567890123"
    assert written(np.inf) == "inf"


def test_simple_instances_cost_less():
    def pair(policy, reference):
        p = np.array([reference])
        return Pairs(np.array([policy]), p, p, p, np.array([0.5]), 0 * p)

    simple = pair([1.0, 0.0], [0.5, 0.5])
    assert cost(simple) < cost(pair([0.75, 0.25], [0.5, 0.5]))
    assert cost(pair([0.75, 0.25], [0.5, 0.5])) < cost(pair([np.pi / 4, 1 - np.pi / 4], [0.5, 0.5]))
    assert cost(simple) < cost(pair([1.0, 0.0, 0.0], [0.5, 0.5, 0.0]))


# ---- the command line ----------------------------------------------------------------------------


def run(*args):
    from rlhfsim.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["break", *args])
    return caught.value.code


def test_command_exits_0_and_prints_the_counterexample(capsys):
    assert run("KL below chi-squared", "--seed", "1") == 0
    printed = capsys.readouterr().out
    assert "(proved by ball arithmetic) at" in printed
    assert "reference = (" in printed


def test_command_exits_1_without_a_violation(capsys):
    assert run("Pinsker", "--seconds", "0.4") == 1
    assert "no violation in" in capsys.readouterr().out


def test_command_names_a_claim_that_is_not_there(capsys):
    assert run("Pinsky") == 2
    assert "'Pinsker'" in capsys.readouterr().err
