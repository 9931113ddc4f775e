"""Claims by paper: each holds, is tight at its witness, and notices a wrong constant."""

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest

from rlhfsim.claims.adversarial import ADVERSARIAL_CLAIMS
from rlhfsim.claims.base import Claim
from rlhfsim.claims.bayesian import BAYESIAN_CLAIMS
from rlhfsim.claims.best_strength import BEST_STRENGTH_CLAIMS
from rlhfsim.claims.calibration import CALIBRATION_CLAIMS
from rlhfsim.claims.chipo import CHIPO_CLAIMS
from rlhfsim.claims.demonstrations import DEMONSTRATION_CLAIMS, Experts
from rlhfsim.claims.displacement import DISPLACEMENT_CLAIMS
from rlhfsim.claims.distribution_matching import DISTRIBUTION_CLAIMS
from rlhfsim.claims.dpo import DPO_CLAIMS
from rlhfsim.claims.f_divergences import F_DIVERGENCE_CLAIMS
from rlhfsim.claims.f_dpg import F_DPG_CLAIMS
from rlhfsim.claims.general_optima import GENERAL_OPTIMA_CLAIMS
from rlhfsim.claims.identification import IDENTIFICATION_CLAIMS, Tournaments
from rlhfsim.claims.ipo import IPO_CLAIMS
from rlhfsim.claims.kwise import KWISE_CLAIMS, Ranked
from rlhfsim.claims.overoptimization import OVEROPTIMIZATION_CLAIMS, Curves
from rlhfsim.claims.power import POWER_CLAIMS
from rlhfsim.claims.rebel import REBEL_CLAIMS
from rlhfsim.claims.renyi import RENYI_CLAIMS
from rlhfsim.claims.sample_complexity import SAMPLE_COMPLEXITY_CLAIMS
from rlhfsim.claims.scaling import SCALING_CLAIMS, Judged

PAPERS = (
    RENYI_CLAIMS, F_DIVERGENCE_CLAIMS, F_DPG_CLAIMS, GENERAL_OPTIMA_CLAIMS, CHIPO_CLAIMS,
    DPO_CLAIMS, IPO_CLAIMS,
    DISPLACEMENT_CLAIMS, ADVERSARIAL_CLAIMS, REBEL_CLAIMS, POWER_CLAIMS, KWISE_CLAIMS,
    IDENTIFICATION_CLAIMS, SCALING_CLAIMS, DEMONSTRATION_CLAIMS, OVEROPTIMIZATION_CLAIMS,
    DISTRIBUTION_CLAIMS, SAMPLE_COMPLEXITY_CLAIMS, BEST_STRENGTH_CLAIMS, BAYESIAN_CLAIMS,
    CALIBRATION_CLAIMS,
)  # fmt: skip
EVERY = [claim for paper in PAPERS for claim in paper]
SIDED = [claim for claim in EVERY if isinstance(claim, Claim)]
TRUE = [claim for claim in SIDED if claim.kind != "false"]
FAMILIES = (Ranked, Judged, Experts, Curves, Tournaments)

#: Whose supremum is approached only in a limit, and how near the witness comes.
APPROACHED = {"regret around a clone": 0.985}


def named(claims):
    return pytest.mark.parametrize("claim", claims, ids=lambda c: c.name)


def test_names_are_unique_and_every_claim_has_a_source():
    assert max(Counter(claim.name for claim in EVERY).values()) == 1
    assert all(claim.source and claim.formula for claim in EVERY)


@named(EVERY)
def test_verdict_is_as_expected(claim):
    result = claim.check(1500, 3)
    assert result.passed, (result.verdict, result.worst_instance)


@named([claim for claim in TRUE if claim.kind != "identity"])
def test_tight_at_the_witness(claim):
    ratio = claim.ratio(claim.witness()).max()
    assert APPROACHED.get(claim.name, 0.999) <= ratio <= 1 + 1e-9


@named(TRUE)
def test_a_wrong_constant_is_caught(claim):
    factor = {"upper": 0.5, "lower": 2.0, "identity": 1.0001}[claim.kind]
    wrong = replace(claim, right=lambda x: factor * np.asarray(claim.right(x)))
    assert wrong.ratio(claim.witness()).max() > 1.5


@named([claim for claim in TRUE if claim.kind == "identity"])
def test_identities_are_known_to_within_their_rounding(claim):
    """The resolution stays far below the sides: an identity must not hold by a wide margin."""
    x = claim.witness()
    assert claim.resolution(x).max() < 1e-9 * np.abs(claim.right(x)).max()


@named([claim for claim in SIDED if claim.kind == "false"])
def test_false_claims_fail_at_their_witness(claim):
    assert claim.ratio(claim.witness()).max() > 1.2


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_families_are_reproducible_and_valid(family):
    shapes = set()
    for seed in range(8):
        x, again = (family.sample(200, np.random.default_rng(seed)) for _ in range(2))
        assert len(x) == 200
        assert set(family.parametrization) <= {f.name for f in fields(x)}
        for f in fields(x):
            array = getattr(x, f.name)
            np.testing.assert_array_equal(array, getattr(again, f.name))
            np.testing.assert_array_equal(getattr(x.take(7), f.name)[0], array[7])
            assert np.isfinite(array).all()
            if family.parametrization.get(f.name) == "simplex":
                assert (array >= 0).all()
                np.testing.assert_allclose(array.sum(axis=-1), 1.0, rtol=1e-12)
            if family.parametrization.get(f.name) == "positive":
                assert (array > 0).all()
            shapes.add((f.name, array.shape[1:]))
        if hasattr(x, "valid"):
            assert x.valid().all()
    assert len(shapes) > len(fields(family)) or family is Curves
