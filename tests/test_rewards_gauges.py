"""Gauges, the Hessian of a fit, tie-breaks and likelihoods of a finite class."""

import copy
import pickle

import numpy as np
import pytest
from reward_problems import from_wins, negative_log_likelihood, random_wins
from scipy.special import expit

from rlhfsim import threads
from rlhfsim.data import PairCounts, PreferenceData, ScoreData, count_pairs, log_likelihood
from rlhfsim.rewards import (
    FiniteClass,
    FirstResponse,
    Gauge,
    ReferenceGauge,
    Tabular,
    UniformGauge,
    centre,
    finite_class,
    first_of_tied,
    fit_reward,
    information,
    last_of_tied,
    random_of_tied,
)
from rlhfsim.rewards.fit import RewardModel
from rlhfsim.rewards.linear import Linear

# Prompt 0 never compares response 2; prompt 1 has none of its own to leave out.
DATA = from_wins(
    [[0, 3, 0, 1], [2, 0, 0, 5], [0, 0, 0, 0], [4, 1, 0, 0]],
    [[0, 1, 2, 1], [1, 0, 1, 7], [2, 1, 0, 1], [1, 3, 1, 0]],
)
REFERENCE = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.0, 0.1, 0.2]])
GAUGES = (UniformGauge(), ReferenceGauge(REFERENCE), FirstResponse())
DEFAULT = fit_reward(DATA)


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))


# ---- gauges ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize("ridge", [None, 0.4])
def test_a_gauge_shifts_rows_and_nothing_else(gauge, ridge):
    plain, fit = (
        fit_reward(DATA, Tabular(ridge=ridge)),
        fit_reward(DATA, Tabular(ridge=ridge, gauge=gauge)),
    )
    shift = fit.reward - plain.reward
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1], shift.shape), atol=1e-15)
    assert fit.log_likelihood == plain.log_likelihood
    assert fit.gradient_norm == plain.gradient_norm
    np.testing.assert_allclose(fit.reward, centre(plain.reward, gauge, plain.compared), atol=1e-15)
    # Again changes nothing.
    np.testing.assert_allclose(fit.reward, centre(fit.reward, gauge, plain.compared), atol=1e-15)


def test_each_gauge_does_what_it_says():
    compared = DEFAULT.compared
    assert compared.tolist() == [[True, True, False, True], [True] * 4]
    uniform, reference, first = (fit_reward(DATA, Tabular(gauge=g)).reward for g in GAUGES)
    np.testing.assert_allclose(np.where(compared, uniform, 0).sum(axis=1), 0, atol=1e-15)
    np.testing.assert_allclose((REFERENCE * reference).sum(axis=1), 0, atol=1e-15)
    assert first[:, 0].tolist() == [0.0, 0.0]
    assert np.ptp([r[0, 0] for r in (uniform, reference, first)]) > 0.1
    # The response that was never compared is at the mean of the others in all of them.
    for r in (uniform, reference, first):
        assert r[0, 2] == pytest.approx(r[0, [0, 1, 3]].mean(), abs=1e-15)


def test_without_compared_the_uniform_gauge_takes_all():
    r = np.array([[1.0, 2.0, 6.0]])
    assert centre(r, UniformGauge()).tolist() == [[-2.0, -1.0, 3.0]]
    assert centre(r, UniformGauge(), [[True, True, False]]).tolist() == [[-0.5, 0.5, 4.5]]
    assert centre(r, UniformGauge(), [[False] * 3]).tolist() == r.tolist()
    assert centre(r, FirstResponse()).tolist() == [[0.0, 1.0, 5.0]]
    assert centre(r, ReferenceGauge([[0.5, 0.5, 0.0]])).tolist() == [[-0.5, 0.5, 4.5]]


def test_a_reference_is_copied_frozen_and_divided_by_its_sum():
    given = REFERENCE * (1 + 5e-10)
    gauge = ReferenceGauge(given)
    given[:] = 0.25
    assert not gauge.reference.flags.writeable
    for again in (copy.deepcopy(gauge), through_pickle(gauge)):
        np.testing.assert_array_equal(again.reference, gauge.reference)
        assert not again.reference.flags.writeable
    big = centre(1e9 + np.zeros((2, 4)), gauge)
    assert np.abs(big).max() < 1e-6
    assert all(isinstance(g, Gauge) for g in GAUGES)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Tabular(r_max=1.0, gauge=UniformGauge()), "takes no gauge, because a shift"),
        (lambda: Tabular(gauge="uniform"), "gauge is 'uniform'; it must be a gauge"),
        (lambda: Tabular(gauge=UniformGauge), "it must be a gauge"),
        (lambda: ReferenceGauge([[0.5, 0.4]]), r"reference\[0\] sums to 0.9"),
        (lambda: ReferenceGauge([0.5, 0.5]), r"reference has shape \(2,\)"),
        (
            lambda: fit_reward(DATA, Tabular(gauge=ReferenceGauge(np.full((2, 3), 1 / 3)))),
            r"reference has shape \(2, 3\); .*\(2, 4\)",
        ),
        (lambda: centre([1.0, 2.0], FirstResponse()), r"reward has shape \(2,\)"),
        (lambda: centre([[np.nan]], FirstResponse()), r"reward\[0, 0\] is nan"),
        (lambda: centre([[1.0]], None), "gauge is None; it must be a gauge"),
        (
            lambda: centre([[1.0, 2.0]], UniformGauge(), [True, False]),
            r"compared has shape \(2,\) and dtype bool; .* shape \(1, 2\)",
        ),
        (lambda: centre([[1.0, 2.0]], UniformGauge(), [[1, 0]]), "compared has shape .*int64"),
    ],
)
def test_bad_gauges_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()


# ---- the Hessian -------------------------------------------------------------------------------


def test_information_is_the_derivative_of_the_gradient():
    rng = np.random.default_rng(0)
    tables = [random_wins(rng, 5, 3.0) for _ in range(2)]
    data, r, h = from_wins(*tables), rng.normal(size=(2, 5)), 1e-5
    found = information(data, r)
    assert found.shape == (2, 5, 5)
    for x, wins in enumerate(tables):
        for i, step in enumerate(h * np.eye(5)):
            ahead, behind = (negative_log_likelihood(wins, r[x] + s * step)[1] for s in (1, -1))
            np.testing.assert_allclose(found[x, i], (ahead - behind) / (2 * h), atol=1e-8)
        np.testing.assert_array_equal(information(data, r, prompt=x), found[x])
        np.testing.assert_array_equal(information(count_pairs(data), r, prompt=x), found[x])
        np.testing.assert_allclose(found[x].sum(axis=1), 0.0, atol=1e-13)


def test_a_fit_gives_its_hessian():
    for prompt in (None, 0, 1):
        expected = information(DATA, DEFAULT.reward, prompt)
        np.testing.assert_array_equal(DEFAULT.hessian(DATA, prompt), expected)
    wins = np.array([[3.0, 1.0]])
    fit = fit_reward(from_wins([[0, 3], [1, 0]]))
    weight = wins.sum() * 0.75 * 0.25
    np.testing.assert_allclose(
        fit.hessian(from_wins([[0, 3], [1, 0]]), 0), [[weight, -weight], [-weight, weight]]
    )
    features = np.random.default_rng(0).normal(size=(2, 4, 2))
    linear = fit_reward(DATA, Linear(features))
    np.testing.assert_array_equal(linear.hessian(), linear.information)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: DEFAULT.hessian(), "data is None; it must be the data"),
        (lambda: DEFAULT.hessian([1]), "data is a list; it must be a PreferenceData"),
        (lambda: information(DATA, np.zeros((2, 3))), r"reward has shape \(2, 3\)"),
        (lambda: information(DATA, DEFAULT.reward, 2), "prompt is 2; it must be below 2"),
        (lambda: information(DATA, DEFAULT.reward, -1), "prompt is -1; it must be at least 0"),
    ],
)
def test_bad_arguments_of_the_hessian_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# ---- finite classes ----------------------------------------------------------------------------

PAIR = from_wins([[0, 3, 0], [1, 0, 0], [0, 0, 0]])
TIED = np.array([[[-1.0, 0.0, 0.0]], [[1.0, 0.0, 0.0]], [[1.0, 0.0, 5.0]], [[1.0, 0.0, 9.0]]])


def test_tie_breaks():
    rng = np.random.default_rng
    for rule, expected in ((first_of_tied, 1), (last_of_tied, 3)):
        for generator in (None, rng(0)):
            fit = fit_reward(PAIR, FiniteClass(TIED, rule), rng=generator)
            assert (fit.index, fit.tied.tolist()) == (expected, [1, 2, 3])
            np.testing.assert_array_equal(fit.reward, TIED[expected])
    assert fit_reward(PAIR, FiniteClass(TIED)).index == 1
    drawn = [
        fit_reward(PAIR, FiniteClass(TIED, random_of_tied), rng=rng(k)).index for k in range(60)
    ]
    assert set(drawn) == {1, 2, 3}
    assert drawn == [fit_reward(PAIR, FiniteClass(TIED), rng=rng(k)).index for k in range(60)]
    own = FiniteClass(TIED, lambda tied, generator: tied[1])
    assert fit_reward(PAIR, own).index == 2
    assert type(fit_reward(PAIR, own).index) is int
    assert through_pickle(FiniteClass(TIED, last_of_tied)).tie_break is last_of_tied


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: FiniteClass(TIED, "first"), "tie_break is 'first'; it must be a function"),
        (
            lambda: fit_reward(PAIR, FiniteClass(TIED, random_of_tied)),
            "rng is a NoneType; it must be a numpy.random.Generator",
        ),
        (
            lambda: fit_reward(PAIR, FiniteClass(TIED, lambda tied, rng: 0)),
            r"tie_break returned 0; it must be one of the tied \[1, 2, 3\]",
        ),
    ],
)
def test_bad_tie_breaks_are_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 900.0])
def test_compiled_likelihoods_agree_with_numpy(spread, monkeypatch):
    rng = np.random.default_rng(int(spread))
    n, shape = 6000, (3, 40)
    data = PreferenceData(rng.integers(0, 3, n), *rng.integers(0, 40, (2, n)), shape)
    counts = count_pairs(data)
    model = FiniteClass(spread * rng.normal(size=(7, *shape)))
    found = []
    for least in (1, 1 << 60):
        monkeypatch.setattr(finite_class, "_WORTH_COMPILING", least)
        found.append(model._log_likelihoods(counts))
    informative = [
        log_likelihood(counts, r) + counts.equal_pairs * np.log(2.0) for r in model.rewards
    ]
    for totals, bounds in found:
        np.testing.assert_allclose(totals, informative, rtol=1e-13)
        assert np.all(np.abs(totals - found[0][0]) <= bounds + found[0][1])
        # A bound of rounding, not a licence to call everything tied.
        assert np.all(bounds <= 1e-10 * (1 + spread) * np.abs(totals))


def test_compiled_likelihoods_do_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr(threads, "_count", threads._count)
    monkeypatch.setattr(threads, "_pool", None)
    monkeypatch.setattr(finite_class, "_WORTH_COMPILING", 1)
    rng = np.random.default_rng(1)
    data = PreferenceData(np.zeros(9000, int), *rng.integers(0, 90, (2, 9000)))
    model = FiniteClass(rng.normal(size=(3, 1, 90)))
    found = []
    for count in (1, 2, 5):
        threads.set_threads(count)
        found.append(model._log_likelihoods(count_pairs(data)))
    for totals, bounds in found[1:]:
        np.testing.assert_array_equal(totals, found[0][0])
        np.testing.assert_array_equal(bounds, found[0][1])


def test_terms_in_another_order_are_tied_in_compiled_code_too(monkeypatch):
    monkeypatch.setattr(finite_class, "_WORTH_COMPILING", 1)
    rng = np.random.default_rng(2)
    size = 3000
    r, ring = rng.normal(size=size) * 3, np.arange(size)
    wins = np.concatenate((np.repeat(ring, 5), np.repeat((ring + 1) % size, 3)))
    losses = np.concatenate((np.repeat((ring + 1) % size, 5), np.repeat(ring, 3)))
    data = PreferenceData(np.zeros(wins.size, int), wins, losses)
    rewards = np.stack([r * 1.001, np.roll(r, 7), r])[:, None, :]
    fit = fit_reward(data, FiniteClass(rewards))
    assert fit.tied.tolist() == [1, 2]


# ---- the entry point ---------------------------------------------------------------------------


def test_fits_take_counts_in_place_of_data():
    rewards = np.random.default_rng(0).normal(size=(5, 2, 4))
    models = (Tabular(), Tabular(r_max=1.0), Tabular(ridge=0.2), FiniteClass(rewards))
    for model in models:
        one, other = fit_reward(DATA, model), fit_reward(count_pairs(DATA), model)
        np.testing.assert_array_equal(one.reward, other.reward)
        assert one.log_likelihood == other.log_likelihood
        assert isinstance(model, RewardModel)


def test_infinite_data_give_back_the_reward():
    rng = np.random.default_rng(3)
    reward, policy = rng.normal(size=(3, 6)), rng.dirichlet(np.ones(6), 3)
    x, i, j = np.nonzero(np.broadcast_to(~np.eye(6, dtype=bool), (3, 6, 6)))
    prompts = np.array([0.7, 0.2999, 0.0001])
    law = 2 * prompts[x] * policy[x, i] * policy[x, j] * expit(reward[x, i] - reward[x, j])
    equal = (prompts[:, None] * policy**2).sum()
    assert law.sum() + equal == pytest.approx(1.0, abs=1e-14)
    counts = PairCounts(x, i, j, law, equal, (3, 6))
    fit = fit_reward(counts, Tabular(gauge=ReferenceGauge(policy)))
    centred = reward - (policy * reward).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fit.reward, centred, rtol=0, atol=1e-12)
    finite = FiniteClass([reward + 0.1 * rng.normal(size=(3, 6)), reward, -reward])
    assert fit_reward(counts, finite).index == 1


@pytest.mark.parametrize("model", [Tabular(), Tabular(r_max=1.0), FiniteClass(np.zeros((1, 1, 1)))])
def test_data_of_another_kind_are_refused(model):
    scores = ScoreData([0], [0], [1.0])
    with pytest.raises(ValueError, match="data is a ScoreData; it must be a PreferenceData"):
        fit_reward(scores, model)
