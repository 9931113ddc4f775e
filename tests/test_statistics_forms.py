"""Overoptimization forms: fits against scipy and closed forms, checks of residuals, ranking."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit, minimize_scalar
from scipy.stats import binom, chi2, linregress, norm, ttest_1samp
from scipy.stats import t as student

from rlhfsim import zipf_bandit
from rlhfsim.divergences import KL
from rlhfsim.inference import best_of_n
from rlhfsim.statistics import (
    BEST_OF_N,
    CUBIC,
    FORMS,
    POWER,
    PROPORTIONAL,
    RL,
    SATURATING,
    FormError,
    compare_forms,
    fit_form,
    fit_form_to_runs,
)
from rlhfsim.statistics.residuals import (
    MOST_EXACT,
    count_runs,
    durbin_watson,
    durbin_watson_probability,
    imhof,
    runs_probability,
)

D = np.linspace(0.0, 4.0, 30)
# One set of parameters for each form, and its formula in plain Python.
TRUTH = {
    "best-of-n": ((1.0, 0.2), lambda d, a, b: d * (a - b * d)),
    "RL": ((1.0, 0.6), lambda d, a, b: d * (a - b * math.log(d)) if d > 0 else 0.0),
    "cubic": ((1.0, 0.07), lambda d, a, b: d * (a - b * d**2)),
    "proportional": ((0.4,), lambda d, a: a * d),
    "saturating": ((2.0, 0.7), lambda d, a, b: a * (1.0 - math.exp(-b * d))),
    "power": ((1.5, 0.2, 1.4), lambda d, a, b, c: a * d**c - b * d**2),
}
EVERY = pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)


def truth(form):
    return TRUTH[form.name][0]


def curve(form, noise=0.0, seed=0, d=D):
    return form(d, *truth(form)) + noise * np.random.default_rng(seed).standard_normal(d.size)


# ---- the forms -----------------------------------------------------------------------------------


@EVERY
def test_forms_are_their_formulas(form):
    parameters, formula = TRUTH[form.name]
    assert len(form.parameters) == len(parameters)
    want = [formula(x, *parameters) for x in D.tolist()]
    np.testing.assert_allclose(form(D, *parameters), want, rtol=1e-12, atol=1e-14)
    assert form(0.0, *parameters) == 0.0
    assert form(D.reshape(5, 6), *parameters).shape == (5, 6)


@pytest.mark.parametrize("form", [f for f in FORMS if f.shape], ids=lambda f: f.name)
def test_slopes_of_shapes_are_derivatives(form):
    s, h = truth(form)[-1], 1e-6
    numeric = (form.columns(D[1:], s + h) - form.columns(D[1:], s - h)) / (2 * h)
    np.testing.assert_allclose(form.shape.slope(D[1:], s), numeric, atol=1e-8)


@EVERY
def test_peaks_are_maxima(form):
    parameters = truth(form)
    at = form.peak(*form.split(np.array(parameters)))
    if form in (PROPORTIONAL, SATURATING):
        assert at == math.inf
        return
    found = minimize_scalar(
        lambda x: -float(form(x, *parameters)), bounds=(0, 40), method="bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    assert at == pytest.approx(found.x, rel=1e-6)


@EVERY
@pytest.mark.parametrize("signs", list(itertools.product((-1.0, 0.0, 1.0), repeat=2)))
def test_peaks_for_every_sign(form, signs):
    """Against the largest value on a fine grid: inside, at 0, or still rising at the end."""
    linear = np.array(signs[: len(form.linear)])
    shape = truth(form)[-1] if form.shape is not None else 0.0
    at = form.peak(linear, shape)
    grid = np.concatenate([[0.0], np.geomspace(1e-9, 1e9, 4001)])
    values = form.columns(grid, shape) @ linear
    best = grid[values.argmax()]
    if math.isinf(at):
        # A saturating form has reached its limit in floats long before the end.
        assert values[-1] == values.max() > 0
    else:
        assert at == pytest.approx(best, rel=0.02, abs=1e-8)


def test_a_peak_beyond_reach_counts_as_none():
    assert RL.peak(np.array([1.0, 1e-3]), 0.0) == math.inf
    assert BEST_OF_N.peak(np.array([1.0, 1e-300]), 0.0) == math.inf
    assert POWER.peak(np.array([1e30, 1e-30]), 1.9) == math.inf


@pytest.mark.parametrize(
    ("d", "parameters", "rule"),
    [
        (-1.0, (1.0, 1.0), "it must not be negative"),
        (math.nan, (1.0, 1.0), "must be finite"),
        (1e31, (1.0, 1.0), "it must be at most 1e"),
        (1.0, (1.0,), "parameters has 1 entries; best-of-n takes 2: a, b"),
        (1.0, (1.0, math.inf), r"parameters\[1\] is inf"),
    ],
)
def test_forms_refuse(d, parameters, rule):
    with pytest.raises(ValueError, match=rule):
        BEST_OF_N(d, *parameters)


# ---- fits ----------------------------------------------------------------------------------------


@EVERY
def test_exact_curves_are_recovered(form):
    fit = fit_form(form, D, curve(form))
    np.testing.assert_allclose(fit.estimates, truth(form), rtol=1e-9)
    assert fit.r_squared == pytest.approx(1.0, abs=1e-12)
    checks = fit.residual_checks
    # What is left is rounding, whose pattern is not read.
    assert checks.largest < 1e-13
    assert (checks.runs, checks.runs_p, checks.durbin_watson) == (0, 1.0, 2.0)
    peak = form.peak(*form.split(np.array(truth(form))))
    if math.isfinite(peak):
        assert fit.peak == pytest.approx((peak, float(form(peak, *truth(form)))), rel=1e-8)
    else:
        assert fit.peak is None


@EVERY
@pytest.mark.parametrize("weighted", [False, True])
def test_fits_are_those_of_scipy(form, weighted):
    gain = curve(form, 0.03, seed=3)
    errors = np.linspace(0.01, 0.05, D.size) if weighted else None
    # scipy starts at the truth; ours starts from nothing.
    want, cov = curve_fit(
        lambda d, *p: form(d, *p), D, gain, truth(form), errors, weighted, xtol=1e-14, ftol=1e-14
    )
    fit = fit_form(form, D, gain, errors, 0.9)
    np.testing.assert_allclose(fit.estimates, want, rtol=2e-5)
    n, p = D.size, len(want)
    reach = norm.ppf(0.95) if weighted else student.ppf(0.95, n - p)
    half = [interval.half_width for interval in fit.parameters]
    np.testing.assert_allclose(half, reach * np.sqrt(np.diag(cov)), rtol=1e-3)
    weights = 1.0 / errors if weighted else np.ones(n)
    rest = (gain - form(D, *want)) * weights
    np.testing.assert_allclose(fit.residuals, rest, atol=1e-4 * np.abs(rest).max())
    squares = rest @ rest
    mean = np.average(gain, weights=weights**2)
    assert fit.r_squared == pytest.approx(
        1.0 - squares / ((gain - mean) ** 2 @ weights**2), rel=1e-9
    )
    if weighted:
        assert fit.misfit_p == pytest.approx(chi2.sf(squares, n - p), rel=1e-6)
        assert fit.aicc == pytest.approx(squares + 2 * p + 2 * p * (p + 1) / (n - p - 1), rel=1e-9)
    else:
        k = p + 1
        want_aicc = n * math.log(squares / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
        assert fit.aicc == pytest.approx(want_aicc, rel=1e-9)
        assert fit.misfit_p is None
    largest = np.abs(gain - form(D, *want)).max() / np.ptp(gain)
    assert fit.residual_checks.largest == pytest.approx(largest, rel=1e-4)


@pytest.mark.parametrize("form", [SATURATING, POWER], ids=lambda f: f.name)
@given(seed=st.integers(0, 10**6))
def test_no_shape_on_a_fine_grid_is_better(form, seed):
    """The global minimum: against every shape of a grid of its own, also for wrong data."""
    rng = np.random.default_rng(seed)
    gain = curve(FORMS[seed % 6], 0.2, seed) + 0.3 * rng.standard_normal(D.size)
    unit = 1.0 / D.max() if form.shape.scaled else 1.0
    shapes = np.linspace(form.shape.low * unit, form.shape.high * unit, 200)
    if form.shape.scaled:
        shapes = np.geomspace(form.shape.low * unit, form.shape.high * unit, 200)
    squares = []
    for s in shapes:
        columns = form.columns(D, s)
        rest = gain - columns @ np.linalg.lstsq(columns, gain)[0]
        squares.append(rest @ rest)
    if min(squares[0], squares[-1]) <= min(squares) * (1 + 1e-9):
        with pytest.raises(FormError, match="at an end of the range"):
            fit_form(form, D, gain)
    else:
        found = fit_form(form, D, gain)
        assert found.residuals @ found.residuals <= min(squares) * (1 + 1e-9)


def test_fits_do_not_depend_on_order_or_scale():
    gain, order = curve(POWER, 0.02), np.random.default_rng(1).permutation(D.size)
    kept = gain.copy(), D.copy()
    for form in FORMS:
        try:
            one = fit_form(form, D, gain)
        except FormError:
            with pytest.raises(FormError):
                fit_form(form, D[order], gain[order])
            continue
        other = fit_form(form, D[order], gain[order])
        assert one.estimates == other.estimates
        np.testing.assert_array_equal(one.residuals, other.residuals)
        scaled = fit_form(form, 1e3 * D, 1e-5 * gain)
        assert scaled.r_squared == pytest.approx(one.r_squared, rel=1e-9)
        np.testing.assert_allclose(scaled(1e3 * D), 1e-5 * one(D), rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(gain, kept[0])
    np.testing.assert_array_equal(D, kept[1])


@pytest.mark.parametrize(("form", "counts"), [(BEST_OF_N, (327, 324)), (SATURATING, (322, 318))])
def test_intervals_cover_as_often_as_they_say(form, counts):
    runs, covered = 400, [0, 0]
    for seed in range(runs):
        fit = fit_form(form, D[::3], curve(form, 0.05, seed, D[::3]), level=0.8)
        for i, value in enumerate(truth(form)):
            covered[i] += value in fit.parameters[i]
    assert tuple(covered) == counts
    for count in covered:
        assert min(binom.cdf(count, runs, 0.8), binom.sf(count - 1, runs, 0.8)) > 1e-3


@EVERY
@pytest.mark.parametrize("far", [1e-29, 1e29])
@pytest.mark.parametrize("high", [1e-99, 1e99])
def test_any_scale(form, far, high):
    fit, want = (fit_form(form, a * D, b * curve(form, 0.02)) for a, b in ((far, high), (1.0, 1.0)))
    assert fit.r_squared == pytest.approx(want.r_squared, rel=1e-9)
    np.testing.assert_allclose(fit.residuals, high * want.residuals, atol=1e-8 * high)
    assert fit.residual_checks.runs == want.residual_checks.runs


def test_blocks_change_nothing(monkeypatch):
    gain = curve(SATURATING, 0.1)
    want = fit_form(SATURATING, D, gain)
    monkeypatch.setattr("rlhfsim.statistics.fitting._BLOCK", 7 * D.size)
    assert fit_form(SATURATING, D, gain).estimates == want.estimates


def test_fit_is_one_line_and_can_be_sent():
    fit = fit_form(POWER, D, curve(POWER, 0.01))
    assert str(fit).startswith("a d^c - b d^2: a = 1.5")
    assert str(fit).endswith("d = 0..4")
    for copied in (pickle.loads(pickle.dumps(fit)), copy.deepcopy(fit)):
        assert copied.estimates == fit.estimates
        assert not copied.residuals.flags.writeable
    np.testing.assert_array_equal(fit(D), POWER(D, *fit.estimates))


@pytest.mark.parametrize(
    ("d", "gain", "errors", "rule"),
    [
        (D[:4], D[:4], None, "d has 4 values; it must have at least 5"),
        (D, D[:9], None, "lengths differ: d 30, gain 9"),
        (-D, D, None, r"d\[1\] is -0.13.*; it must not be negative"),
        ([0.0, 0.0, 0.0, 1.0, 2.0], D[:5], None, "d has 2 different positive values"),
        (D, 0 * D + 2.0, None, "gain is 2.0 everywhere; it must vary"),
        (D, D, 0 * D, r"errors\[0\] is 0.0; it must be positive"),
        (D, D, D[:7] + 1, "lengths differ: d 30, errors 7"),
        (D, np.where(D > 1, np.nan, D), None, r"gain\[8\] is nan"),
        (1e30 * D, D, None, "d reaches 4e"),
        (1e-31 * D, D, None, r"d is at most 4e-31; it must reach 1e-30"),
        (D, D, 1e-60 + 0 * D, r"errors/max\|gain\|\[0\] is 2.5e-61; it must be at least 1e-50"),
        (D, D, 1e60 + 0 * D, r"errors/max\|gain\|\[0\] is 2.5e\+59; it must be at most 1e\+50"),
    ],
)
def test_bad_curves_are_refused(d, gain, errors, rule):
    with pytest.raises(ValueError, match=rule):
        fit_form(BEST_OF_N, d, gain, errors)
    with pytest.raises(ValueError, match="level is 1"):
        fit_form(BEST_OF_N, D, D, level=1.0)


# ---- residuals -----------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=1, max_size=9))
def test_runs_are_counted_over_all_orders(signs):
    runs, ups, downs = count_runs(np.array(signs))
    groups = [k for k, _ in itertools.groupby(s for s in signs if s != 0)]
    assert (runs, ups, downs) == (len(groups), signs.count(2.0), signs.count(-1.0))
    law = [
        sum(1 for _ in itertools.groupby(order))
        for order in set(itertools.permutations([1] * ups + [0] * downs))
    ] if ups + downs <= 7 else None  # fmt: skip
    if law is not None:
        assert runs_probability(runs, ups, downs) == pytest.approx(
            np.mean([r <= runs for r in law]), rel=1e-10
        )


def test_durbin_watson_by_hand():
    e = np.array([1.0, -2.0, 0.5])
    assert durbin_watson(e) == pytest.approx((9.0 + 6.25) / (1.0 + 4.0 + 0.25), rel=1e-14)
    assert durbin_watson(1e-200 * e) == pytest.approx(durbin_watson(e), rel=1e-12)
    assert durbin_watson(0 * e) == 2.0


def test_law_of_durbin_watson_is_that_of_simulated_noise():
    rng, size = np.random.default_rng(0), 40_000
    for n, k in ((5, 1), (12, 2), (30, 3)):
        design = rng.standard_normal((n, k)).cumsum(axis=0)
        q, _ = np.linalg.qr(design)
        noise = rng.standard_normal((n, size))
        rest = noise - q @ (q.T @ noise)
        statistics = (np.diff(rest, axis=0) ** 2).sum(axis=0) / (rest**2).sum(axis=0)
        for quantile in (0.02, 0.3, 0.9):
            at = float(np.quantile(statistics, quantile))
            error = 5 * math.sqrt(quantile * (1 - quantile) / size)
            assert durbin_watson_probability(at, design) == pytest.approx(quantile, abs=error)
        assert durbin_watson_probability(0.0, design) == 0.0
        assert durbin_watson_probability(4.0, design) == 1.0


def test_table_of_durbin_and_watson():
    """Their 5 % bounds of 1951 for n = 15 and one regressor: the law lies between them."""
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal(15)
        design = np.stack([np.ones(15), x], axis=1)
        assert durbin_watson_probability(1.08, design) <= 0.0505
        assert durbin_watson_probability(1.36, design) >= 0.0495
    # A slow regressor reaches the upper bound, a design of the fastest vectors the lower one.
    angle = (np.arange(15) + 0.5) * np.pi / 15
    slow = np.stack([np.ones(15), np.cos(angle)], axis=1)
    fast = np.stack([np.ones(15), np.cos(14 * angle)], axis=1)
    assert durbin_watson_probability(1.36, slow) == pytest.approx(0.05, abs=1e-3)
    assert durbin_watson_probability(1.08, fast) == pytest.approx(0.05, abs=1e-3)


def test_imhof_of_two_terms_is_a_ratio():
    """`P(w1 z1^2 <= w2 z2^2) = (2/pi) atan(sqrt(w2/w1))`, also for weights far apart."""
    for ratio in (1e-6, 1e-2, 1.0, 5.0, 1e6):
        want = 2.0 / math.pi * math.atan(math.sqrt(ratio))
        assert imhof(np.array([1.0, -ratio]) / max(1.0, ratio)) == pytest.approx(want, abs=1e-9)


def test_checks_see_a_wrong_form_and_pass_the_right_one():
    gain = curve(RL, 0.01)
    wrong, right = (fit_form(f, D, gain).residual_checks for f in (PROPORTIONAL, RL))
    assert wrong.runs_p < 1e-3 < right.runs_p
    assert wrong.durbin_watson_p < 1e-6 < 1e-3 < right.durbin_watson_p
    assert wrong.largest > 3 * right.largest


def test_probabilities_of_checks_are_uniform_under_the_model():
    runs = 400
    checks = [fit_form(RL, D, curve(RL, 0.05, s)).residual_checks for s in range(runs)]
    small = sum(c.durbin_watson_p < 0.1 for c in checks)
    assert small == 41
    assert min(binom.cdf(small, runs, 0.1), binom.sf(small - 1, runs, 0.1)) > 1e-3
    # Runs are discrete, and residuals of a fit change sign a little more often than noise.
    assert sum(c.runs_p < 0.1 for c in checks) <= small + 10


def test_long_curves_have_no_exact_law():
    d = np.linspace(0.0, 4.0, MOST_EXACT + 1)
    checks = fit_form(RL, d, curve(RL, 0.1, d=d)).residual_checks
    assert checks.durbin_watson_p is None
    assert checks.durbin_watson == pytest.approx(2.0, abs=0.3)


# ---- comparing -----------------------------------------------------------------------------------


@EVERY
def test_the_true_form_wins(form):
    found = compare_forms(D, curve(form, 1e-3, seed=2))
    assert found.best.form.name == form.name
    assert sum(found.weights) == pytest.approx(1.0, rel=1e-12)
    assert list(found.weights) == sorted(found.weights, reverse=True)
    assert len(found.fits) + len(found.failed) == len(FORMS)
    aicc = [fit.aicc for fit in found.fits]
    want = np.exp(-0.5 * (np.array(aicc) - min(aicc)))
    np.testing.assert_allclose(found.weights, want / want.sum(), rtol=1e-12)
    assert found[form.name] is found.best


def test_exact_ties_go_to_fewer_parameters():
    """best-of-n is the power form with c = 1: both leave rounding alone."""
    found = compare_forms(D, curve(BEST_OF_N), forms=(POWER, BEST_OF_N, CUBIC))
    assert [fit.form.name for fit in found.fits] == ["best-of-n", "power", "cubic"]
    assert found.weights[1] > 0.1
    assert found.weights[2] < 1e-100


def test_forms_that_fail_are_named():
    found = compare_forms(D, curve(PROPORTIONAL))
    assert [name for name, _ in found.failed] == ["saturating"]
    with pytest.raises(KeyError, match="at an end of the range of b"):
        found["saturating"]
    with pytest.raises(KeyError, match="no form 'x' was compared"):
        found["x"]
    with pytest.raises(FormError, match="saturating"):
        compare_forms(D, curve(PROPORTIONAL), forms=(SATURATING,))
    for forms in ((), (RL, RL)):
        with pytest.raises(ValueError, match="forms is"):
            compare_forms(D, D, forms=forms)


def test_best_of_n_curve_of_a_bandit_is_not_gaos_form():
    """Noise-free gains of exact best-of-N: 1 % residuals, which the checks call systematic."""
    bandit = zipf_bandit(4, 300, np.random.default_rng(0))
    counts = np.unique(np.round(2.0 ** np.arange(0.0, 9.0, 0.25)))
    policies = best_of_n(bandit.reference, bandit.reward, counts[:, None])
    d = np.sqrt(KL()(policies, bandit.reference, bandit.prompt_dist))
    gain = bandit.value(policies) - bandit.value(bandit.reference)
    fit = fit_form(BEST_OF_N, d, gain)
    assert fit.r_squared > 0.98
    assert fit.residual_checks.durbin_watson_p < 1e-6
    assert fit.residual_checks.runs_p < 1e-3


# ---- many runs -----------------------------------------------------------------------------------


def test_form_of_runs_is_students_over_their_fits():
    rng = np.random.default_rng(4)
    d = D + 0.01 * rng.random((5, D.size))
    gain = np.stack([curve(RL, 0.05, s, x) for s, x in enumerate(d)])
    found = fit_form_to_runs(RL, d, gain, 0.9)
    assert len(found.fits) == 5
    estimates = [fit_form(RL, x, g).estimates for x, g in zip(d, gain, strict=True)]
    for interval, values in zip(found.parameters, np.transpose(estimates), strict=True):
        want = ttest_1samp(values, 0.0).confidence_interval(0.9)
        np.testing.assert_allclose((interval.low, interval.high), want, rtol=1e-9)
    shared = fit_form_to_runs(RL, D, gain)
    # The model is linear: the mean of the fits is the fit of the mean.
    mean = fit_form(RL, D, gain.mean(axis=0)).estimates
    np.testing.assert_allclose([p.estimate for p in shared.parameters], mean, rtol=1e-10)


def test_bad_runs_are_refused():
    gain = np.stack([curve(RL, 0.1, s) for s in range(3)])
    with pytest.raises(ValueError, match=r"d has shape \(2, 30\); it must have shape"):
        fit_form_to_runs(RL, np.stack([D, D]), gain)
    with pytest.raises(ValueError, match=r"gain has shape \(30,\)"):
        fit_form_to_runs(RL, D, gain[0])
    gain[1] = 0.5
    with pytest.raises(ValueError, match=r"run 1: gain is 0\.5 everywhere"):
        fit_form_to_runs(RL, D, gain)
    gain[1] = D
    with pytest.raises(FormError, match="run 1: saturating"):
        fit_form_to_runs(SATURATING, D, np.stack([curve(SATURATING), D]))


def test_linear_forms_are_regressions():
    """`gain/d` of the two forms of Gao et al. is a line in d and in log d."""
    positive = D[1:]
    for form, u in ((BEST_OF_N, positive), (RL, np.log(positive)), (CUBIC, positive**2)):
        gain = curve(form, 0.02, d=positive)
        # Errors proportional to d make the weights of both problems the same.
        fit = fit_form(form, positive, gain, 0.1 * positive)
        line = linregress(u, gain / positive)
        np.testing.assert_allclose(fit.estimates, (line.intercept, -line.slope), rtol=1e-9)
