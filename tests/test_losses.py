"""The parts of direct losses: links, outer losses, kinks, labels, KTO, and what is refused."""

import copy
import pickle

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim.divergences import ALL_DIVERGENCES, KL, AlphaDivergence, ChiSquared, Divergence
from rlhfsim.losses import (
    DIRECT_LOSSES,
    DirectLoss,
    DivergenceLink,
    EntropyLink,
    Hinge,
    Logistic,
    LogLink,
    NegativeSigmoid,
    PracticalLink,
    RobustLogistic,
    SFTTerm,
    Squared,
    batch_baseline,
    cdpo,
    chipo,
    chipo_practical,
    dpo,
    fdpo,
    hinge,
    ipo,
    kto,
    power,
    rebel,
    robust_dpo,
    rpo,
    simpo,
    slic,
    updated_labels,
)

mpmath.mp.dps = 50
OUTERS = [
    Logistic(),
    Logistic(0.2, 0.5),
    RobustLogistic(0.3),
    Squared(0.5, 4.0),
    Hinge(0.7),
    NegativeSigmoid(),
]
LINKS = [
    LogLink(),
    EntropyLink(),
    PracticalLink(0.25, 0.1),
    PracticalLink(1.0, 0.0),
    *map(DivergenceLink, ALL_DIVERGENCES),
    DivergenceLink(AlphaDivergence(1.0)),
    DivergenceLink(AlphaDivergence(1e-3)),
]


class Opaque(Divergence):
    """A divergence without a closed form in the log ratio: KL, as a user might write it."""

    recession = np.inf

    def perspective(self, policy, reference):
        return KL().perspective(policy, reference)

    def link(self, ratio):
        return KL().link(ratio)

    def link_slope(self, ratio):
        return KL().link_slope(ratio)


# ---- outer losses ---------------------------------------------------------------------------


def exact_outer(outer, h):
    """Return the outer loss in 50 digits, from its definition."""
    h = mpmath.mpf(h)

    def nll(t):
        return mpmath.log1p(mpmath.exp(-t))

    if isinstance(outer, Logistic):
        t, eps = h - mpmath.mpf(outer.margin), mpmath.mpf(outer.label_smoothing)
        return (1 - eps) * nll(t) + eps * nll(-t)
    if isinstance(outer, RobustLogistic):
        eps = mpmath.mpf(outer.flip_rate)
        return ((1 - eps) * nll(h) - eps * nll(-h)) / (1 - 2 * eps)
    if isinstance(outer, Squared):
        return outer.weight * (h - outer.target) ** 2
    if isinstance(outer, Hinge):
        return max(mpmath.mpf(outer.margin) - h, mpmath.mpf(0))
    return -1 / (1 + mpmath.exp(-h))


@pytest.mark.parametrize("outer", OUTERS, ids=repr)
@given(h=st.floats(-700, 700))
def test_outer_losses_agree_with_mpmath(outer, h):
    column = np.array([h])
    value, slope, curvature = (f(column)[0] for f in (outer.value, outer.slope, outer.curvature))
    exact = exact_outer(outer, h)
    # The robust loss is a difference, the smoothed slope too; the others have no cancellation.
    size = (abs(h) + 1) if isinstance(outer, RobustLogistic) else abs(float(exact))
    assert abs(value - float(exact)) <= 2e-15 * size + 1e-300
    if isinstance(outer, Hinge):
        assert slope == (-1.0 if h < outer.margin else 0.0)
        assert curvature == 0.0
        return
    first = mpmath.diff(lambda t: exact_outer(outer, t), h)
    second = mpmath.diff(lambda t: exact_outer(outer, t), h, 2)
    loose = 1.0 if isinstance(outer, RobustLogistic) or outer == OUTERS[1] else abs(float(first))
    assert abs(slope - float(first)) <= 4e-15 * loose + 1e-30
    assert abs(curvature - float(second)) <= 1e-14 * (abs(float(second)) + 1e-12)
    assert not outer.convex or curvature >= 0


@pytest.mark.parametrize("outer", OUTERS, ids=repr)
def test_outer_losses_at_infinity(outer):
    ends = np.array([-np.inf, np.inf])
    with np.errstate(all="raise"):
        value, slope = outer.value(ends), outer.slope(ends)
    far = np.array([-1e7, 1e7])
    assert not np.isnan(value).any()
    assert not np.isnan(slope).any()
    for end, near in ((value, outer.value(far)), (slope, outer.slope(far))):
        finite = np.isfinite(end)
        np.testing.assert_allclose(end[finite], near[finite], atol=1e-12)
        assert (np.sign(end[~finite]) == np.sign(near[~finite])).all()
        assert (np.abs(near[~finite]) > 1e6).all()


# ---- links ----------------------------------------------------------------------------------


@pytest.mark.parametrize("link", LINKS, ids=repr)
@given(u=st.floats(-30, 30))
def test_links_are_those_of_their_divergences(link, u):
    """`phi(e^u)` from the divergence itself, and the slope as its derivative."""
    column = np.array([u])
    value, slope = link.value(column)[0], link.slope(column)[0]
    if isinstance(link, DivergenceLink):
        ratio = np.exp(column)
        theirs = link.divergence.link(ratio)[0]
        steep = (ratio * link.divergence.link_slope(ratio))[0]
        # What rounding of e^u costs the other route.
        assert abs(value - theirs) <= 1e-14 * (abs(theirs) + (1 + abs(u)) * steep + 1e-3)
        assert abs(slope - steep) <= 1e-13 * abs(steep)
    kinked = (
        isinstance(link, PracticalLink)
        and min(abs(link.alpha * u - end) for end in (-88, 20)) < 1e-3
    )
    if not kinked:
        step = 1e-5
        ends = link.value(column + step), link.value(column - step)
        central = ((ends[0] - ends[1]) / (2 * step))[0]
        scale = abs(slope) + abs(value)
        assert abs(central - slope) <= 1e-8 * scale + 1e-9


@pytest.mark.parametrize("link", LINKS, ids=repr)
def test_links_increase_over_the_whole_range(link):
    u = np.concatenate([[-np.inf], np.linspace(-1e4, 1e4, 4001), np.linspace(-2, 2, 4001)])
    u.sort()
    with np.errstate(all="raise"):
        value, slope = link.value(u), link.slope(u)
    assert (value[1:] >= value[:-1]).all()
    assert (slope >= 0).all()


@pytest.mark.parametrize(
    ("divergence", "u", "exact"),
    [
        (ChiSquared(), 1e-12, mpmath.expm1(mpmath.mpf(1e-12))),
        (ChiSquared() + 0.5 * KL(), -1e3, mpmath.mpf(-501)),
        (ALL_DIVERGENCES[6], -1e-9, mpmath.log(2 / (1 + mpmath.exp(mpmath.mpf(1e-9)))) / 2),
        (ALL_DIVERGENCES[6], -1e4, (mpmath.mpf(-1e4) + mpmath.log(2)) / 2),
        (ALL_DIVERGENCES[6], -1.5, mpmath.log(2 / (1 + mpmath.exp(mpmath.mpf(1.5)))) / 2),
        (ALL_DIVERGENCES[6], 1e4, mpmath.log(2) / 2),
        (AlphaDivergence(0.9), 1e3, (mpmath.exp(mpmath.mpf(0.9 - 1) * 1000) - 1) / (0.9 - 1)),
        (AlphaDivergence(1.0), -5e3, mpmath.mpf(-5000)),
    ],
)
def test_links_keep_their_digits_where_ratios_do_not(divergence, u, exact):
    assert "JensenShannon" in repr(ALL_DIVERGENCES[6])
    value = DivergenceLink(divergence).value(np.array([u]))[0]
    assert abs(value - float(exact)) <= 4e-16 * abs(float(exact))


def test_a_divergence_without_closed_form():
    u = np.linspace(-700, 700, 301)
    link = DivergenceLink(Opaque())
    np.testing.assert_allclose(link.value(u), u, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(link.slope(u), 1.0, rtol=1e-14)
    sums = DivergenceLink(Opaque() + 2.0 * ChiSquared())
    np.testing.assert_allclose(sums.value(u[100:200]), (u + 2 * np.expm1(u))[100:200], rtol=1e-13)


def test_the_practical_link_is_clipped_where_it_says():
    link = PracticalLink(0.25, 0.1)
    u = np.array([-1e4, -352.0, -351.9, 79.9, 80.0, 80.1, 1e4])
    np.testing.assert_allclose(
        link.value(u), np.exp(np.clip(0.25 * u, -88, 20)) + 0.1 * u, rtol=1e-15
    )
    steep = 0.25 * np.exp(0.25 * u[1:5])
    np.testing.assert_allclose(link.slope(u), np.r_[0, steep, 0, 0] + 0.1, rtol=1e-15)


# ---- limits and kinks -----------------------------------------------------------------------


def test_the_clip_passes_gradients_on_the_closed_interval_only():
    loss = DirectLoss(LogLink(), Logistic(), 1.0, clip=2.0)
    chosen = np.array([-3.0, -2.0, -1.0, -1.5, -4.0 + 1e-9])
    rejected = np.array([-1.0, -4.0, -3.5, -3.0, -2.0])
    h = np.clip(chosen - rejected, -2, 2)
    zero = np.zeros(5)
    np.testing.assert_array_equal(loss(chosen, rejected, zero, zero), np.logaddexp(0, -h))
    inside = np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    slope = -inside / (1 + np.exp(h))
    gradient = loss.gradient(chosen, rejected, zero, zero)
    np.testing.assert_allclose(gradient[0], slope, rtol=1e-15)
    np.testing.assert_allclose(gradient[1], -slope, rtol=1e-15)


def test_chipo_clips_the_difference_and_not_the_scores():
    """Both scores are far outside `[-2 r_max, 2 r_max]`, their difference is inside."""
    u = np.log(np.array([50.0, 50.5]))
    loss = chipo(1.0, r_max=1.0)
    value = loss([u[1] - 9], [u[0] - 9], [-9.0], [-9.0])[0]
    h = 0.5 + np.log(50.5 / 50.0)
    assert abs(value - np.logaddexp(0, -h)) < 1e-13
    assert loss([u[1] - 9], [-10.0], [-9.0], [-9.0])[0] == np.logaddexp(0, -2.0)


def test_ratios_beyond_the_floats():
    loss = chipo(0.1)
    far, flat = [-1.0, -1.0, -900.0, -1.0], [-900.0, -1.0, -1.0, -2.0]
    low = np.full(4, -1000.0)
    value = loss(far, flat, low, low)
    # Infinitely better, equal, infinitely worse, better by e^999 - e^998.
    np.testing.assert_array_equal(value, [0.0, np.log(2.0), np.inf, 0.0])
    chosen, rejected = loss.gradient(far, flat, low, low)
    # The chosen ratio of the third row is e^100.
    np.testing.assert_allclose(chosen, [0.0, -np.inf, -0.1 * np.exp(100.0), 0.0], rtol=1e-14)
    np.testing.assert_array_equal(rejected, [0.0, np.inf, np.inf, 0.0])
    clipped = chipo(0.1, r_max=2.0)
    np.testing.assert_array_equal(
        clipped(far, flat, low, low), np.logaddexp(0, [-4.0, 0.0, 4.0, -4.0])
    )
    chosen, rejected = clipped.gradient(far, flat, low, low)
    np.testing.assert_array_equal(chosen, [0.0, -np.inf, 0.0, 0.0])
    np.testing.assert_array_equal(rejected, [0.0, np.inf, 0.0, 0.0])


@pytest.mark.parametrize("loss", DIRECT_LOSSES, ids=lambda loss: f"{loss.name}-{loss.beta}")
def test_probabilities_of_zero(loss):
    """The loss of `-inf` is the limit of that of very negative logarithms."""
    columns = {"chosen_rewards": [0.3] * 2, "rejected_rewards": [0.1] * 2}
    columns = columns if loss.needs_rewards else {}
    ends = loss([-np.inf, -1.0], [-1.0, -np.inf], [-2.0] * 2, [-2.0] * 2, **columns)
    near = loss([-1e150, -1.0], [-1.0, -1e150], [-2.0] * 2, [-2.0] * 2, **columns)
    for end, value in zip(ends, near, strict=True):
        assert (
            end == pytest.approx(value, rel=1e-12)
            or (end == np.inf and value > 1e147)
            or (end == -np.inf and value < -1e147)
        )
    gradient = loss.gradient([-np.inf, -1.0], [-1.0, -np.inf], [-2.0] * 2, [-2.0] * 2, **columns)
    assert not np.isnan(gradient).any()


def test_hinges_at_their_kink():
    gradient = hinge(0.5).gradient([-1.0, -1.0], [-3.0, -2.9], [0.0] * 2, [0.0] * 2)
    np.testing.assert_array_equal(gradient, [[0.0, -0.5], [0.0, 0.5]])


# ---- labels ---------------------------------------------------------------------------------


@given(
    labels=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    h=st.lists(st.floats(-20, 20), min_size=3, max_size=3),
    rate=st.floats(0, 1),
)
def test_dynamic_labels_move_towards_stationary_ones(labels, h, rate):
    labels, h = np.array(labels), np.array(h)
    stationary = 1 / (1 + np.exp(-h))
    moved = updated_labels(labels, h, rate)
    before, after = np.abs(labels - stationary), np.abs(moved - stationary)
    np.testing.assert_allclose(after, (1 - rate) * before, atol=1e-15)
    assert ((moved >= 0) & (moved <= 1)).all()


def test_rows_with_their_stationary_label_have_no_gradient():
    rng = np.random.default_rng(1)
    chosen, rejected = -rng.exponential(size=(2, 30))
    weights = {"chosen_weights": rng.uniform(0.1, 1, 30), "rejected_weights": np.ones(30)}
    loss = DirectLoss(EntropyLink(), Logistic(), 0.7, reference_free=True, weighted=True)
    h = 0.7 * (weights["chosen_weights"] * (1 + chosen) - (1 + rejected))
    labels = updated_labels(np.ones(30), h, 1.0)
    gradient = loss.gradient(chosen, rejected, **weights, labels=labels)
    assert np.abs(gradient).max() < 1e-15
    assert np.abs(loss.gradient(chosen, rejected, **weights)).min() > 1e-3


def test_label_zero_is_the_loss_of_the_swapped_row():
    rng = np.random.default_rng(2)
    pc, pr, rc, rr = -rng.exponential(size=(4, 20))
    for loss in (dpo(0.4), chipo(0.4, 1.0), ipo(0.4), hinge(0.4)):
        swapped = loss(pr, pc, rr, rc)
        np.testing.assert_allclose(loss(pc, pr, rc, rr, labels=np.zeros(20)), swapped, rtol=1e-14)
        gradient = loss.gradient(pc, pr, rc, rr, labels=np.zeros(20))
        theirs = loss.gradient(pr, pc, rr, rc)
        np.testing.assert_allclose(gradient, theirs[::-1], rtol=1e-14)
    assert dpo(1.0)([-1.0], [-np.inf], [-1.0], [-1.0], labels=[1.0])[0] == 0.0


# ---- KTO ------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1))
def test_kto_agrees_with_mpmath(seed):
    rng = np.random.default_rng(seed)
    loss = kto(0.3, 1.5, 0.5)
    policy, reference = -rng.exponential(10, size=(2, 5))
    desirable, z = rng.random(5) < 0.5, float(rng.exponential())
    value = loss.unpaired_loss(policy, reference, desirable, baseline=z)
    slope = loss.unpaired_gradient(policy, reference, desirable, baseline=z)
    for i in range(5):

        def exact(t, i=i):
            gap = mpmath.mpf(loss.beta) * (t - mpmath.mpf(reference[i]) - mpmath.mpf(z))
            if desirable[i]:
                return mpmath.mpf(1.5) * (1 - 1 / (1 + mpmath.exp(-gap)))
            return mpmath.mpf(0.5) * (1 - 1 / (1 + mpmath.exp(gap)))

        size = 1 + abs(policy[i]) + abs(reference[i])
        assert abs(value[i] - float(exact(policy[i]))) <= 1e-15 * size
        first = float(mpmath.diff(exact, policy[i]))
        assert abs(slope[i] - first) <= 2e-15 * size * (abs(first) + 1e-3)


def test_kto_in_pairs():
    """The trainers' estimate: each half's baseline is the other half's mean, at least 0."""
    rng = np.random.default_rng(5)
    pc, pr, rc, rr = -rng.exponential(size=(4, 40))
    loss = kto(0.4, 2.0, 3.0)
    up, down = pc - rc, pr - rr - 5.0
    pr = pr - 5.0
    z_up, z_down = max(0.0, down.mean()), max(0.0, up.mean())
    assert z_up == 0.0
    np.testing.assert_allclose(
        loss(pc, pr, rc, rr),
        2 * (1 - 1 / (1 + np.exp(-0.4 * (up - z_up))))
        + 3 * (1 - 1 / (1 + np.exp(-0.4 * (z_down - down)))),
        rtol=1e-13,
    )
    z = np.linspace(0, 1, 40)
    columns = loss(pc, pr, rc, rr, baseline=z)
    apart = loss.unpaired_loss(pc, rc, np.ones(40, bool), baseline=z)
    apart = apart + loss.unpaired_loss(pr, rr, np.zeros(40, bool), baseline=z)
    np.testing.assert_allclose(columns, apart, rtol=1e-15)
    chosen, rejected = loss.gradient(pc, pr, rc, rr, baseline=z)
    ones = np.ones(40, bool)
    np.testing.assert_array_equal(chosen, loss.unpaired_gradient(pc, rc, ones, baseline=z))
    np.testing.assert_array_equal(rejected, loss.unpaired_gradient(pr, rr, ~ones, baseline=z))
    assert batch_baseline(up) == z_down == pytest.approx(max(0.0, up.mean()))


# ---- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dpo(0.0), "beta is 0.0"),
        (lambda: dpo(np.nan), "beta is nan"),
        (lambda: ipo(-1.0), "beta is -1.0"),
        (lambda: cdpo(0.1, 0.5), "label_smoothing is 0.5; it must be below 1/2"),
        (lambda: cdpo(0.1, -0.1), "label_smoothing is -0.1"),
        (lambda: robust_dpo(0.1, 0.6), "flip_rate is 0.6"),
        (lambda: chipo(0.1, r_max=0.0), "r_max is 0.0"),
        (lambda: chipo(0.1, gamma=0.0), "gamma is 0.0"),
        (lambda: chipo_practical(0.1, 0.0, 1.0), "alpha is 0.0"),
        (lambda: chipo_practical(0.1, 1.0, -1.0), "gamma is -1.0"),
        (lambda: fdpo(ChiSquared(), 0.1), r"f'\(0\+\) = -1.0; it must be -inf"),
        (lambda: fdpo(AlphaDivergence(1.5), 0.1), r"f'\(0\+\) = -2.0"),
        (lambda: fdpo("kl", 0.1), "divergence is 'kl'"),
        (lambda: rpo(0.1, 0.0), "weight is 0.0"),
        (lambda: slic(-1.0), "margin is -1.0"),
        (lambda: simpo(1.0, np.inf), "margin is inf"),
        (lambda: simpo(1.0, [1.0, 2.0]), "it must be one number"),
        (lambda: rebel(0.0), "eta is 0.0"),
        (lambda: power(0.1, 0.0), "eta is 0.0"),
        (lambda: kto(0.1, 0.0), "desirable_weight is 0.0"),
        (lambda: Squared(0.0, 0.0), "weight is 0.0"),
        (lambda: DirectLoss("log", Logistic(), 0.1), "link is 'log'"),
        (lambda: DirectLoss(LogLink(), "logistic", 0.1), "outer is 'logistic'"),
        (lambda: DirectLoss(LogLink(), Logistic(), 0.1, clip=-1.0), "clip is -1.0"),
        (lambda: DirectLoss(LogLink(), Logistic(), 0.1, extra=("sft",)), r"extra\[0\] is 'sft'"),
        (
            lambda: DirectLoss(DivergenceLink(ChiSquared()), Logistic(), 0.1, weighted=True),
            "weights need a logarithmic link",
        ),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


GOOD = ([-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0], [-1.5, -1.0])


@pytest.mark.parametrize("method", ["loss", "gradient"])
@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (0, [-1.0, np.nan], r"policy_chosen_logps\[1\] is nan"),
        (0, [-1.0, np.inf], r"policy_chosen_logps\[1\] is inf"),
        (0, [0.5, -1.0], r"policy_chosen_logps\[0\] is 0.5; log-probabilities must not be pos"),
        (0, [], "policy_chosen_logps has shape"),
        (0, -1.0, "policy_chosen_logps has shape"),
        (0, [[-1.0, -1.0]], "policy_chosen_logps has shape"),
        (0, ["a", "b"], "not an array of real numbers"),
        (0, np.ma.array([-1.0, -1.0], mask=[0, 1]), "masked"),
        (1, [-1.0], r"policy_rejected_logps has shape \(1,\); it must have shape \(2,\)"),
        (1, [-1.0, True], None),
        (2, [-1.0, -np.inf], r"ref_chosen_logps\[1\] is -inf"),
        (2, None, "ref_chosen_logps is missing; DPO compares"),
        (3, [-1.0, 1.0], r"ref_rejected_logps\[1\] is 1.0"),
        (3, [-1.0] * 3, "ref_rejected_logps has shape"),
    ],
)
def test_bad_columns_are_refused(method, place, value, words):
    given_columns = list(GOOD)
    given_columns[place] = value
    if words is None:
        words, given_columns[place] = "booleans", np.array([True, False])
    with pytest.raises(ValueError, match=words):
        getattr(dpo(0.1), method)(*given_columns)


@pytest.mark.parametrize(
    ("loss", "columns", "words"),
    [
        (dpo(0.1), {"chosen_weights": [1.0, 1.0]}, "weights are given; DPO has none"),
        (dpo(0.1), {"rejected_rewards": [1.0, 1.0]}, "rewards are given; DPO reads none"),
        (rebel(1.0), {}, "rewards are missing; REBEL needs"),
        (rebel(1.0), {"chosen_rewards": [1.0, 1.0]}, "rejected_rewards is missing"),
        (
            rebel(1.0),
            {"chosen_rewards": [1.0, 1.0], "rejected_rewards": [1.0]},
            r"rejected_rewards has shape \(1,\)",
        ),
        (simpo(1.0), {"chosen_weights": [1.0, 0.0]}, r"chosen_weights\[1\] is 0.0"),
        (simpo(1.0), {"rejected_weights": [1.0]}, "rejected_weights has shape"),
        (dpo(0.1), {"labels": [0.5, 1.5]}, r"labels\[1\] is 1.5; labels must be in \[0, 1\]"),
        (dpo(0.1), {"labels": [0.5]}, "labels has shape"),
    ],
)
def test_columns_that_a_loss_does_not_read_are_refused(loss, columns, words):
    for method in (loss, loss.gradient):
        with pytest.raises(ValueError, match=words):
            method(*GOOD, **columns)


def test_two_probabilities_of_zero_are_refused():
    with pytest.raises(ValueError, match=r"policy_chosen_logps\[1\] is -inf, and so is"):
        dpo(0.1)([-1.0, -np.inf], [-1.0, -np.inf], [-1.0] * 2, [-1.0] * 2)


@pytest.mark.parametrize(
    ("desirable", "baseline", "words"),
    [
        ([1, 0], 0.0, "desirable has dtype int64"),
        ([True], 0.0, r"it must be an array of bool of shape \(2,\)"),
        ([True, False], np.nan, "baseline is nan"),
        ([True, False], [0.0] * 3, r"baseline has shape \(3,\)"),
    ],
)
def test_bad_columns_of_kto_are_refused(desirable, baseline, words):
    for method in (kto(0.1).unpaired_loss, kto(0.1).unpaired_gradient):
        with pytest.raises(ValueError, match=words):
            method([-1.0, -2.0], [-1.0, -1.0], desirable, baseline=baseline)


def test_bad_label_updates_are_refused():
    with pytest.raises(ValueError, match=r"rate is 1\.5; it must be at most 1"):
        updated_labels([1.0], [0.0], 1.5)
    with pytest.raises(ValueError, match=r"labels\[0\] is 2"):
        updated_labels([2.0], [0.0], 0.5)
    with pytest.raises(ValueError, match="labels has shape"):
        updated_labels([1.0, 1.0], [0.0], 0.5)
    with pytest.raises(ValueError, match="difference has shape"):
        updated_labels([1.0], 0.0, 0.5)


# ---- objects --------------------------------------------------------------------------------


def test_losses_do_not_change_their_columns():
    columns = [np.array(column) for column in GOOD]
    for column in columns:
        column.setflags(write=False)
    before = [column.copy() for column in columns]
    for loss in DIRECT_LOSSES:
        more = {"chosen_rewards": [0.0] * 2, "rejected_rewards": [1.0] * 2}
        more = more if loss.needs_rewards else {}
        loss(*columns, **more)
        loss.gradient(*columns, **more)
    for column, old in zip(columns, before, strict=True):
        np.testing.assert_array_equal(column, old)


@pytest.mark.parametrize("loss", [*DIRECT_LOSSES, kto(0.1)], ids=lambda loss: loss.name)
def test_losses_are_values(loss):
    assert copy.deepcopy(loss) == loss
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert hash(copy.deepcopy(loss)) == hash(loss)
    assert loss.name
    assert loss.source
    with pytest.raises(AttributeError):
        loss.beta = 1.0


def test_the_sft_term_pulls_at_the_chosen_response_only():
    plain, pulled = dpo(0.2).gradient(*GOOD), rpo(0.2, 0.3).gradient(*GOOD)
    np.testing.assert_allclose(pulled[0] - plain[0], -0.3, rtol=1e-14)
    np.testing.assert_array_equal(pulled[1], plain[1])
    assert rpo(0.2, 0.3).extra == (SFTTerm(0.3),)
