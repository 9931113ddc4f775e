"""Every claim, made false in every way that its structure allows, is caught."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from claim_mutations import depends, elsewhere, mutations, reads, refused, survivors
from threadpoolctl import threadpool_limits

from rlhfsim.claims import CLAIMS, Claim, Pairs, ProbabilityClaim, RateClaim
from rlhfsim.claims.divergences import kl, tv


@pytest.fixture(autouse=True, scope="module")
def _one_thread_for_small_matrices():
    with threadpool_limits(1):
        yield


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.name)
def test_every_mutation_is_caught(claim):
    assert survivors(claim) == []


# ---- weak claims are noticed ---------------------------------------------------------------------


def by_name(name):
    return next(c for c in CLAIMS if c.name == name)


def scaled(claim, factor):
    return replace(claim, right=lambda x: factor * claim.right(x))


PINSKER = replace(by_name("Pinsker"), kind="upper")
GIBBS = by_name("Gibbs variational principle")
FLOOR = by_name("KL regret has a floor at every beta")
REFUTED = by_name("KL below chi-squared")


def test_every_kind_is_mutated_in_every_way():
    ways = {c.name: [what for what, _ in mutations(c)] for c in (PINSKER, GIBBS, FLOOR, REFUTED)}
    assert ways["Pinsker"] == [
        "another sign", "turned round", "a bound twice as good", "another policy on one side",
        "another reference on one side",
    ]  # fmt: skip
    beside_arrays = ["another sign", "0.1 % more", "0.1 % less", "without a factor beta"]
    assert ways[GIBBS.name] == beside_arrays + [
        f"another {name} on one side" for name in ("prompt_dist", "reference", "reward_hat", "beta")
    ]
    assert ways[FLOOR.name][3:] == ["without a factor log_n", "another log_n on one side"]
    assert ways[REFUTED.name] == ["told as true", "true by a constant"]
    tight = [what for what, _ in mutations(replace(PINSKER, kind="tight"))]
    assert tight == ["a bound 1 % better", "a bound 1 % worse", *ways["Pinsker"]]
    wins = by_name("best-of-n wins")  # against a number: no array is on both sides
    assert [what for what, _ in mutations(wins)][-1] == "another array at one read"
    product = by_name("chi2 optimum proportional to the reward")  # against 0
    assert [what for what, _ in mutations(product)] == ["told as true", "true by a term"]


@pytest.mark.parametrize(
    ("claim", "missed"),
    [
        (scaled(PINSKER, 2.1), "a bound twice as good"),
        (scaled(FLOOR, 0.45), "a bound twice as good"),
        (replace(PINSKER, witness=REFUTED.witness, left=lambda x: 0.1 * tv(x)),
         "a bound twice as good"),
        (replace(PINSKER, right=tv), "turned round"),
        (scaled(PINSKER, 0.9), "none: the claim fails as it stands"),
        (scaled(REFUTED, 2.1), "none: the claim fails as it stands"),
        (replace(PINSKER, left=lambda x: 1 - 0.01 * x.weight, right=lambda x: 1 + 0.01 * x.weight),
         "another weight on one side"),
        (replace(PINSKER, left=lambda x: 1 / (1 + kl(x) + x.weight), right=lambda x: 1 + x.weight),
         "another weight on one side"),
    ],
)  # fmt: skip
def test_weak_claims_are_noticed(claim, missed):
    assert missed in survivors(claim)


def test_a_tight_claim_has_to_be_tight_and_one_without_a_witness_is_mutated_too():
    tight = replace(PINSKER, kind="tight")
    assert survivors(tight) == []
    for loose in (scaled(tight, 1.01), scaled(tight, 0.99)):
        assert survivors(loose) == ["none: the claim fails as it stands"]
    sampled = replace(PINSKER, witness=None, no_witness="to be sampled", instances=Pairs)
    assert survivors(sampled) == []
    assert survivors(scaled(sampled, 3.0)) == ["a bound twice as good"]


def test_a_coarse_resolution_lets_everything_through():
    coarse = replace(by_name("gradient of DPO"), resolution=lambda x: np.full(len(x), np.inf))
    left = survivors(coarse)
    assert left == [what for what, _ in mutations(coarse)]
    assert len(left) == 7


def test_weak_rates_are_noticed():
    def rate(exponent=-0.5, **more):
        sizes = (10.0, 1e2, 1e3)
        return RateClaim("r", "f", "s", exponent, lambda n, rng: 2 / n**0.5, sizes, **more)

    assert survivors(rate(floor=lambda n: 1.5 / n**0.5, ceiling=lambda n: 3 / n**0.5)) == []
    assert survivors(rate(floor=lambda n: 0.9 / n**0.5)) == ["a floor twice as good"]
    assert survivors(rate(ceiling=lambda n: 4.1 / n**0.5)) == ["a ceiling twice as good"]
    assert survivors(rate(exponent=-0.4, tolerance=0.2)) == ["exponent -0.25"]
    assert survivors(rate(tolerance=0.3)) == ["none: the claim fails as it stands"]


def test_weak_probabilities_are_noticed():
    def counted(delta, count, **more):
        return ProbabilityClaim("p", "f", "s", delta, lambda runs, rng: count, **more)

    def exact(constant=1.0, *, room=1.0):
        return ProbabilityClaim(
            "p", "f", "s", 0.1, exact=lambda: 0.09 / (constant * room),
            with_constant=lambda factor: exact(factor, room=room),
        )  # fmt: skip

    assert survivors(counted(0.2, 100)) == []
    assert survivors(counted(0.2, 1800, bound="at least")) == ["another delta"]
    assert survivors(counted(0.2, 700, bound="at least")) == []
    assert survivors(counted(0.2, 0)) == ["another delta"]
    assert survivors(counted(0.2, 900)) == ["none: the claim fails as it stands"]
    assert survivors(exact()) == []
    assert survivors(exact(room=2.0)) == ["a bound twice as good"]


def test_a_side_that_is_no_number_is_not_caught():
    assert not refused(scaled(PINSKER, np.nan), 10)
    assert refused(scaled(PINSKER, 0.1), 10)

    def refusing(x):
        raise ValueError("no instance")

    assert not refused(replace(PINSKER, left=refusing), 10)


def test_dependence_and_reads():
    claim = replace(PINSKER, left=lambda x: x.weight + 0 * x.error[:, 0] * x.weight)
    assert reads(claim, "left", "weight") == 2
    assert reads(claim, "left", "policy") == 0
    assert depends(claim, "weight") == {"left"}
    assert depends(claim, "policy") == {"right"}
    assert depends(claim, "error") == set()
    assert depends(PINSKER, "policy") == {"left", "right"}
    assert depends(claim, "weight", ("left",), 1) == {"left"}
    assert depends(claim, "weight", ("left",), 2) == set()


def test_one_read_is_replaced_and_no_other():
    """`pi - pi` is 0 whatever the policy, unless one of the two is another one."""
    claim = replace(PINSKER, left=lambda x: np.abs(x.policy - x.policy).sum(axis=1))
    x = Pairs.sample(50, np.random.default_rng(0))
    whole = [form.left(x) for form in elsewhere(claim, "policy", ("left",))]
    once = [form.left(x) for form in elsewhere(claim, "policy", ("left",), 2)]
    assert np.max(whole) == 0
    assert len(whole) == len(once) > 5
    assert all(values.max() > 0.1 for values in once)


def test_a_claim_of_another_class_has_to_say_how_it_can_be_false():
    @dataclass(frozen=True)
    class Other:
        name: str = "other"

        def check(self, instances, seed):
            return PINSKER.check(instances, seed)

    with pytest.raises(TypeError, match="Other has no mutations"):
        survivors(Other())


def test_kinds_are_known():
    assert {type(c) for c in CLAIMS} == {Claim, RateClaim, ProbabilityClaim}
