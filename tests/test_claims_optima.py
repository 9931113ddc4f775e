"""Claims on optima: valid on sampled problems, tight at witnesses, sides brute-forced."""

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
from claim_checks import assert_holds, assert_refuted, assert_tight
from scipy.optimize import minimize

from rlhfsim.claims.beta_path import BETA_PATH_CLAIMS, three_strengths
from rlhfsim.claims.gibbs import GIBBS_CLAIMS
from rlhfsim.claims.optima import OPTIMA_CLAIMS, leaving_points, unclipped
from rlhfsim.claims.problems import RAREST, Problems, single
from rlhfsim.claims.ratio_bounds import RATIO_CLAIMS
from rlhfsim.claims.regularized import (
    CHI_SQUARED_REGULARIZER,
    KL_REGULARIZER,
    MIXED_REGULARIZER,
    REGULARIZERS,
    ratios,
    span,
    tamed,
    tamed_mixed,
)

CLAIMS = GIBBS_CLAIMS + OPTIMA_CLAIMS + RATIO_CLAIMS + BETA_PATH_CLAIMS
TRUE = [c for c in CLAIMS if c.kind != "false"]
BOUNDS = [c for c in TRUE if c.kind != "identity"]


def named(claims):
    return pytest.mark.parametrize("claim", claims, ids=lambda c: c.name)


def by_name(name):
    return next(c for c in CLAIMS if c.name == name)


@named(TRUE)
def test_holds(claim):
    assert_holds(claim)


@named(BOUNDS)
def test_tight(claim):
    assert_tight(claim, 0.99999)


@named([c for c in CLAIMS if c.kind == "false"])
def test_refuted(claim):
    assert_refuted(claim, 1.3)


# ---- the family ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_samples_are_problems_of_every_kind(seed):
    x = Problems.sample(3000, np.random.default_rng(seed))
    assert len(x) == 3000
    assert x.reference.shape[1] in (1, 2, 3)
    assert x.reference.shape[2] in range(2, 7)
    for rows in (x.prompt_dist, x.reference, x.comparator, x.policy):
        assert (rows >= 0).all()
        np.testing.assert_allclose(rows.sum(axis=-1), 1.0, rtol=0, atol=1e-14)
    assert (x.policy[x.reference == 0] == 0).all()
    assert x.reference[x.reference > 0].min() > 0.9 * RAREST
    assert (x.beta > 0).all()
    assert (x.gamma > 0).all()
    assert np.ptp(np.log10(x.beta)) > 9
    assert (x.reference == 0).any()  # holes in the support
    assert (np.abs(x.policy - x.reference).max(axis=(1, 2)) < 1e-3).mean() > 0.05
    assert 0.2 < (x.comparator.max(axis=(1, 2)) == 1.0).mean() < 0.9
    y = x.take(5)
    assert len(y) == 1
    assert all(np.array_equal(getattr(y, f.name)[0], getattr(x, f.name)[5]) for f in fields(y))


def test_parametrization_names_every_array():
    assert set(Problems.parametrization) == {f.name for f in fields(Problems)}


def test_simpler_problems_are_problems_and_differ():
    x = Problems.sample(40, np.random.default_rng(3))
    for k in range(len(x)):
        one = x.take(k)
        for y in one.simpler():
            for name, kind in Problems.parametrization.items():
                array = getattr(y, name)
                assert np.isfinite(array).all()
                if kind == "simplex":
                    assert (array >= 0).all()
                    np.testing.assert_allclose(array.sum(axis=-1), 1.0, rtol=0, atol=1e-12)
                if kind == "positive":
                    assert (array > 0).all()
            assert any(
                getattr(y, f.name).shape != getattr(one, f.name).shape
                or (getattr(y, f.name) != getattr(one, f.name)).any()
                for f in fields(y)
            )


def test_repeated_simplification_ends_small():
    one = Problems.sample(50, np.random.default_rng(2)).take(7)
    while one.reference.shape[1:] != (1, 2):
        one = next(one.simpler())
    assert len(one) == 1


# ---- sides by other routes -----------------------------------------------------------------------


@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=lambda r: r.name)
def test_optimum_beats_scipy(regularizer):
    """A general optimiser over softmax logits finds no better policy, and the same value."""
    x = single([0.5, 0.3, 0.2], [1.0, 0.25, -0.5], beta=0.7, gamma=0.3)

    def policy(logits):
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    def objective(logits):
        return -regularizer.objective(x, policy(logits)[None, None])[0]

    found = minimize(objective, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-7})
    best = regularizer.objective(x, regularizer.policy(x))[0]
    assert -found.fun <= best + 1e-14
    assert -found.fun == pytest.approx(best, abs=1e-8)


def test_mixed_optimum_keeps_instances_apart():
    x = Problems.sample(40, np.random.default_rng(0))
    policy, multiplier = MIXED_REGULARIZER.optimum(x)
    for k in range(len(x)):
        one_policy, one_multiplier = MIXED_REGULARIZER.optimum(x.take(k))
        np.testing.assert_array_equal(one_policy[0], policy[k])
        np.testing.assert_array_equal(one_multiplier[0], multiplier[k])


def test_active_set_by_enumeration():
    """Of all subsets, one alone gives a policy that satisfies the first-order conditions."""
    rng = np.random.default_rng(5)
    for _ in range(30):
        p, r, beta = rng.dirichlet(np.ones(4)), rng.normal(size=4), 10 ** rng.uniform(-1.5, 1)
        x = single(p, r, beta=beta)
        good = []
        for bits in itertools.product([False, True], repeat=4):
            s = np.array(bits)
            if not s.any():
                continue
            mass = p[s].sum()
            multiplier = (p[s] @ r[s] + beta * (mass - 1)) / mass
            w = 1 + (r - multiplier) / beta
            if (w[s] > 0).all() and (w[~s] <= 0).all():
                good.append(s)
        assert len(good) == 1
        np.testing.assert_array_equal(leaving_points(x)[0, 0] < beta, good[0])
        np.testing.assert_array_equal(CHI_SQUARED_REGULARIZER.policy(x)[0, 0] > 0, good[0])


def test_partition_function_by_plain_sums():
    x = single([0.5, 0.3, 0.2], [1.0, 0.25, -0.5], beta=0.7)
    value = 0.7 * np.log(sum(p * np.exp(r / 0.7) for p, r in [(0.5, 1), (0.3, 0.25), (0.2, -0.5)]))
    assert by_name("Gibbs variational principle").right(x)[0] == pytest.approx(value, rel=1e-14)


def test_prompts_are_weighted():
    """Two prompts count with their weights; one of weight 0 not at all."""
    a = single([0.5, 0.5], [1.0, 0.0], policy=[0.9, 0.1])
    b = single([0.2, 0.8], [0.0, 2.0], policy=[0.4, 0.6])
    both = Problems(
        np.array([[0.25, 0.75]]),
        *(
            np.concatenate([getattr(a, n), getattr(b, n)], axis=1)
            if getattr(a, n).ndim == 3
            else getattr(a, n)
            for n in [f.name for f in fields(a)][1:]
        ),
    )
    for claim in CLAIMS:
        if any(part in claim.name for part in ("affine", "without clipping", "proportional")):
            continue  # the beta of these depends on all prompts together
        only = replace(both, prompt_dist=np.array([[1.0, 0.0]]))
        for side in (claim.left, claim.right):
            mean = 0.25 * side(a) + 0.75 * side(b)
            assert side(both)[0] == pytest.approx(mean[0], rel=1e-12, abs=1e-15), claim.name
            assert side(only)[0] == pytest.approx(side(a)[0], rel=1e-12, abs=1e-15)


# ---- where assumptions begin ---------------------------------------------------------------------


def test_chi_squared_value_is_not_affine_across_a_breakpoint():
    x = single([0.5, 0.5], [1.0, 0.0])
    value = [
        (CHI_SQUARED_REGULARIZER.policy(replace(x, beta=np.array([1 / t]))) * x.reward).sum()
        for t in (1.0, 2.0, 3.0)
    ]
    assert value == pytest.approx([0.75, 1.0, 1.0])  # the breakpoint is at 1/beta = 2
    weak, middle, strong = (b[0] for b in three_strengths(replace(x, beta=np.array([0.7]))))
    assert weak > middle > strong > 0.5
    assert 2 / middle == pytest.approx(1 / weak + 1 / strong)


def test_three_strengths_share_an_active_set():
    x = Problems.sample(2000, np.random.default_rng(11))
    inside = x.reference > 0
    sets = [
        (leaving_points(x) < beta[:, None, None]) & inside for beta in (x.beta, *three_strengths(x))
    ]
    same = [(s == sets[0]).all(axis=(1, 2)) for s in sets[1:]]
    assert np.mean(same) > 0.999  # neighbouring breakpoints may round to one
    sizes = sets[0].sum(axis=-1)
    assert (sizes < inside.sum(axis=-1)).any(axis=1).mean() > 0.2  # clipping is common


def test_tamed_and_unclipped_change_only_what_they_must():
    x = Problems.sample(2000, np.random.default_rng(4))
    assert (span(x).max(axis=1) <= 300 * tamed(x).beta * (1 + 1e-12)).all()
    assert 0.5 < (tamed(x).beta == x.beta).mean() < 1
    mixed = tamed_mixed(x)
    assert (span(x).max(axis=1) <= 300 * mixed.beta * mixed.gamma * (1 + 1e-12)).all()
    assert 0.5 < (mixed.gamma == x.gamma).mean() < 1
    assert (mixed.gamma <= np.maximum(600 * span(x).max(axis=1) / x.beta, x.gamma)).all()
    policy = CHI_SQUARED_REGULARIZER.policy(unclipped(x))
    assert ((policy > 0) == (x.reference > 0)).all()
    assert 0.1 < (unclipped(x).beta == x.beta).mean() < 1


def test_chi_squared_has_no_floor_and_kl_no_affine_ceiling():
    x = single([0.5, 0.5], [1.0, 0.0], beta=0.25)
    assert ratios(x, CHI_SQUARED_REGULARIZER.policy(x)).min() == 0.0
    assert ratios(x, KL_REGULARIZER.policy(x)).min() > np.exp(-4.0)
    rare = single([1e-9, 1 - 1e-9], [1.0, 0.0], beta=0.1)
    assert ratios(rare, KL_REGULARIZER.policy(rare)).max() > 1000 * (1 + 1 / 0.1)
    assert ratios(rare, CHI_SQUARED_REGULARIZER.policy(rare)).max() <= 1 + 1 / 0.1
