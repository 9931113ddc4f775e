"""Many learners on one dataset: each answer is, bit for bit, that of the learner alone."""

import copy
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim import get_threads, population_pairs, random_bandit, set_threads, solve
from rlhfsim.data import PairCounts, PreferenceData, count_pairs
from rlhfsim.divergences import (
    KL,
    AlphaDivergence,
    ChiSquared,
    Divergence,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
)
from rlhfsim.learners import (
    DPO,
    FDPO,
    IPO,
    LEARNERS,
    REBEL,
    RLHF,
    BayesianPosterior,
    BestOfN,
    ChiPO,
    ChiPOPractical,
    Direct,
    InferenceTimePessimism,
    Learned,
    LogLinearPolicies,
    PessimisticMLE,
    SimPO,
    TabularPolicies,
    setting_for,
)
from rlhfsim.learners.sharing import once, sharing
from rlhfsim.learners.together import LearnerBatch, Together, fit_together, regularizer_of
from rlhfsim.losses import dpo
from rlhfsim.rewards import (
    FiniteClass,
    MLEDoesNotExistError,
    ReferenceGauge,
    Tabular,
    fit_reward,
    random_of_tied,
)
from rlhfsim.sampling import sample_preferences

BANDIT = random_bandit(3, 5, np.random.default_rng(3), skew=1.0)
DATA = sample_preferences(BANDIT, 400, np.random.default_rng(2))
RIDGE, SCORES = Tabular(ridge=0.1), TabularPolicies(ridge=0.1)
MIXED = ChiSquared() + 0.5 * KL()


def alone(learner, data=DATA, bandit=BANDIT, rng=None):
    return learner.fit(data, bandit.reference, prompt_dist=bandit.prompt_dist, rng=rng)


def together(learners, data=DATA, bandit=BANDIT, rngs=None):
    return fit_together(learners, data, bandit.reference, prompt_dist=bandit.prompt_dist, rngs=rngs)


def assert_same(found, i, learned):
    np.testing.assert_array_equal(found.policies[i], learned.policy)
    if learned.reward is None:
        assert found.rewards[i] is None
    else:
        np.testing.assert_array_equal(found.rewards[i], learned.reward)
    if learned.residual is None:
        assert np.isnan(found.residuals[i])
    else:
        assert found.residuals[i] == learned.residual
    assert found.fitted[i]


def test_the_catalogue_over_a_grid_of_beta():
    learners = []
    for beta in (0.3, 2.0):
        setting = setting_for(BANDIT, np.random.default_rng(1), beta=beta)
        learners += [entry.build(setting) for entry in LEARNERS]
    found = together(learners, rngs=np.random.default_rng(0).spawn(len(learners)))
    assert found.errors == {}
    assert found.fitted.all()
    for i, own in enumerate(np.random.default_rng(0).spawn(len(learners))):
        assert_same(found, i, alone(learners[i], rng=own))


class Parabola(Divergence):
    """chi-squared as a user would write it: it goes the general way, and cannot be hashed."""

    __hash__ = None

    def __repr__(self):
        return "Parabola()"

    @property
    def recession(self):
        return np.inf

    def perspective(self, policy, reference):
        return 0.5 * (np.asarray(policy) - reference) ** 2 / reference

    def link(self, ratio):
        return np.asarray(ratio) - 1.0

    def link_slope(self, ratio):
        return np.ones_like(np.asarray(ratio, dtype=float))


BETAS = (0.01, 0.1, 0.7, 3.0, 50.0)
QUICK = [
    *(RLHF(b, d, RIDGE) for b in BETAS for d in (KL(), ChiSquared(), MIXED, 2 * KL())),
    *(RLHF(b, d, RIDGE) for b in (0.1, 3.0) for d in (AlphaDivergence(0.5), JensenShannon())),
    *(RLHF(b, Parabola(), RIDGE) for b in (0.1, 3.0)),
    *(RLHF(b, KL(), Tabular(r_max=1.5)) for b in BETAS),
    *(RLHF(b, KL(), Tabular(ridge=2.0, gauge=ReferenceGauge(BANDIT.reference))) for b in BETAS),
    *(RLHF(b, KL(), Tabular(ridge=5.0)) for b in (0.1, 3.0)),
    *(RLHF(b, KL(), Tabular(r_max=0.5)) for b in (0.1, 3.0)),
    *(BestOfN(3, model) for model in (Tabular(ridge=5.0), Tabular(r_max=0.5), Tabular())),
    *(DPO(b, SCORES) for b in BETAS),
    *(DPO(b, SCORES, label_smoothing=0.2) for b in (0.1, 3.0)),
    *(ChiPO(b, policies=SCORES) for b in BETAS),
    *(ChiPO(b, r_max=1.0, policies=TabularPolicies(r_max=0.7)) for b in (0.1, 3.0)),
    *(FDPO(d, b, SCORES) for b in (0.1, 3.0) for d in (ForwardKL(), SquaredHellinger() + KL())),
    *(Direct(dpo(b), SCORES) for b in BETAS),
    *(BestOfN(n, RIDGE) for n in (1, 7)),
    *(InferenceTimePessimism(9, b, RIDGE) for b in (0.1, 3.0)),
    *(REBEL(1 / b, RIDGE, SCORES) for b in (0.1, 3.0)),
    SimPO(1.0, policies=SCORES),
    ChiPOPractical(0.5, policies=SCORES),
    BayesianPosterior(0.3, RIDGE),
]
QUICK_ALONE = [alone(learner) for learner in QUICK]


@given(places=st.lists(st.integers(0, len(QUICK) - 1), min_size=1, max_size=25))
def test_the_company_changes_nothing(places):
    """Any learners in any order, also the same one twice."""
    found = together([QUICK[k] for k in places])
    for i, k in enumerate(places):
        assert_same(found, i, QUICK_ALONE[k])


@pytest.mark.parametrize("data", [DATA, count_pairs(DATA), population_pairs(BANDIT)])
def test_every_quick_learner_at_once(data):
    found = together(QUICK, data)
    for i, learner in enumerate(QUICK):
        assert_same(found, i, alone(learner, data))


def test_the_answers_are_those_of_the_formula():
    """A second route, without any learner: the estimate, then the optimum."""
    reward = fit_reward(DATA, RIDGE).reward
    found = together([RLHF(0.4, MIXED, RIDGE), ChiPO(0.4, gamma=0.5, policies=SCORES)])
    optimum = solve(reward, BANDIT.reference, MIXED, 0.4)
    np.testing.assert_array_equal(found.policies[0], optimum.policy)
    np.testing.assert_array_equal(found.policies[1], optimum.policy)
    assert found.residuals[0] == np.abs(optimum.gap).max()
    ratio = found.policies / BANDIT.reference
    rest = reward - 0.4 * (ratio - 1 + 0.5 * np.log(ratio))
    # Stationarity: one multiplier per prompt.
    assert np.ptp(rest, axis=-1).max() < 1e-13


def test_long_rows_and_threads():
    bandit = random_bandit(4, 3000, np.random.default_rng(0), skew=1.0)
    data = sample_preferences(bandit, 500, np.random.default_rng(1))
    model = FiniteClass(bandit.reward[None])
    learners = [
        RLHF(b, d, model) for d in (KL(), ChiSquared(), MIXED) for b in np.geomspace(0.1, 10, 8)
    ]
    found = together(learners, data, bandit)
    for i in (0, 9, 23):
        assert_same(found, i, alone(learners[i], data, bandit))
    before = get_threads()
    try:
        set_threads(1 if before > 1 else 2)
        again = together(learners, data, bandit)
    finally:
        set_threads(before)
    np.testing.assert_array_equal(again.policies, found.policies)


# ---- failures ------------------------------------------------------------------------------------

ONE_SIDED = PreferenceData([0, 1, 1, 2], [0, 1, 2, 3], [1, 2, 1, 4], shape=(3, 5))


def message(learner, data=DATA, bandit=BANDIT, rng=None):
    with pytest.raises(Exception) as caught:
        alone(learner, data, bandit, rng)
    return str(caught.value)


def test_a_learner_that_fails_is_named_and_disturbs_no_other():
    learners = [
        RLHF(0.5),
        RLHF(0.5, KL(), RIDGE),
        DPO(0.5),
        RLHF(2.0),
        ChiPO(0.5),
        DPO(1.0, label_smoothing=0.3),
        FDPO(KL() + ChiSquared(), 0.5, SCORES),
        DPO(0.1, LogLinearPolicies(np.ones((3, 4, 1)))),
        RLHF(0.5, KL(), Tabular(r_max=1.0)),
    ]
    found = together(learners, ONE_SIDED)
    failed = [0, 2, 3, 4, 7]
    assert sorted(found.errors) == failed
    for i in failed:
        assert found.errors[i] == message(learners[i], ONE_SIDED)
        assert np.isnan(found.policies[i]).all()
        assert found.rewards[i] is None
        assert np.isnan(found.residuals[i])
    assert "DPO loss has no minimiser" in found.errors[2]
    assert "chiPO loss has no minimiser" in found.errors[4]
    assert not found.fitted[failed].any()
    for i in set(range(len(learners))) - set(failed):
        assert_same(found, i, alone(learners[i], ONE_SIDED))


def test_data_that_no_direct_learner_takes():
    none = np.zeros(0, dtype=np.int64)
    nothing = PairCounts(none, none, none, np.zeros(0), 0.0, (3, 5))
    narrow = BANDIT.reference.copy()
    narrow[0] = 0.0
    narrow[0, int(DATA.chosen[DATA.prompt == 0][0])] = 1.0
    learners = [DPO(0.5, SCORES), RLHF(0.5, KL(), RIDGE), DPO(0.1, SCORES)]
    for data, reference, words in (
        (nothing, BANDIT.reference, "data hold 0.0 comparisons"),
        (DATA, narrow, "must be positive on compared responses"),
    ):
        found = fit_together(learners, data, reference)
        assert sorted(found.errors) == [0, 2]
        assert words in found.errors[0] == found.errors[2]
        assert_same(found, 1, learners[1].fit(data, reference))


@dataclass(frozen=True)
class Constant:
    """A reward model that has made up its mind, and counts how often it is asked."""

    reward: tuple
    asked: list

    def fit(self, data, rng=None):
        self.asked.append(rng)
        return replace(fit_reward(data, RIDGE), reward=np.array(self.reward))


def test_an_optimum_that_cannot_be_found_is_the_failure_of_one():
    wide = np.zeros(BANDIT.shape)
    wide[0, :2] = 1.5e308, -1.5e308
    flat = Constant(np.zeros(BANDIT.shape).tolist(), [])
    with np.errstate(over="ignore"):
        bad = RLHF(1.0, KL(), Constant(wide.tolist(), []))
        learners = [RLHF(1.0, KL(), flat), bad, RLHF(2.0, KL(), RIDGE), DPO(1.0, SCORES)]
        found = together(learners)
        assert found.errors == {1: message(bad)}
    assert "spans more than the largest float" in found.errors[1]
    np.testing.assert_allclose(found.policies[0], BANDIT.reference, rtol=1e-14)
    for i in (2, 3):
        assert_same(found, i, alone(learners[i]))


def test_errors_that_are_no_failures_of_learning_pass():
    @dataclass(frozen=True)
    class Broken:
        def fit(self, data, rng=None):
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        together([RLHF(1.0, KL(), Broken())])


# ---- what is shared ------------------------------------------------------------------------------


def test_equal_fits_are_made_once():
    model = Constant(BANDIT.reward.tolist(), [])
    learners = [RLHF(b, d, model) for b in BETAS for d in (KL(), ChiSquared(), JensenShannon())]
    learners += [BestOfN(4, model), BayesianPosterior(0.3, model), REBEL(2.0, model, SCORES)]
    found = together(learners)
    assert model.asked == [None]
    for i in (0, 1, 14, 15, 16, 17):
        assert_same(found, i, alone(learners[i]))
    model.asked.clear()
    # A model may use its generator, so each learner with one has a fit of its own.
    rngs = [None, *np.random.default_rng(0).spawn(2), None]
    together(learners[:4], rngs=rngs)
    assert sorted(model.asked, key=id) == sorted([None, rngs[1], rngs[2]], key=id)


def test_a_fit_that_fails_is_tried_once():
    @dataclass(frozen=True)
    class Failing:
        asked: list

        def fit(self, data, rng=None):
            self.asked.append(rng)
            raise MLEDoesNotExistError("no such thing", 0, ())

    model = Failing([])
    found = together([RLHF(b, KL(), model) for b in BETAS])
    assert dict(found.errors) == dict.fromkeys(range(len(BETAS)), "no such thing")
    assert len(model.asked) == 1
    with pytest.raises(MLEDoesNotExistError):
        alone(RLHF(1.0, KL(), model))


def test_nothing_is_remembered_outside_of_a_block():
    made = []

    def make():
        made.append(len(made))
        return made[-1]

    thing, other = [], []
    assert [once(make, "w", thing), once(make, "w", thing)] == [0, 1]
    with sharing():
        assert [once(make, "w", thing), once(make, "w", thing)] == [2, 2]
        # Lists are equal here, but not the same.
        assert once(make, "w", other) == 3
        assert once(make, "v", thing) == 4
        assert once(make, "w", thing, key=(1,)) == 5
        with sharing():
            assert once(make, "w", thing) == 6
        assert once(make, "w", thing) == 2
    assert once(make, "w", thing) == 7


def test_each_learner_has_its_own_generator():
    """Ties of a finite class are broken as they are alone, and not all in the same way."""
    rewards = np.stack([BANDIT.reward, -BANDIT.reward, 2 * BANDIT.reward])
    untouched = PreferenceData([0], [1], [1], shape=BANDIT.shape)
    model = FiniteClass(rewards, tie_break=random_of_tied)
    learners = [RLHF(0.5, KL(), model) for _ in range(12)] + [BestOfN(3, model)] * 6

    def rngs():
        return np.random.default_rng(5).spawn(len(learners))

    found = together(learners, untouched, rngs=rngs())
    for i, rng in enumerate(rngs()):
        assert_same(found, i, alone(learners[i], untouched, rng=rng))
    assert len(np.unique(found.policies[:12, 0, 0])) == 3
    assert len(np.unique(found.policies[12:, 0, 0])) > 1
    kept = [3, 7, 13]
    some = together([learners[i] for i in kept], untouched, rngs=[rngs()[i] for i in kept])
    np.testing.assert_array_equal(some.policies, found.policies[kept])
    # Without a generator this tie-break cannot choose.
    assert together(learners[:1], untouched).errors == {0: message(learners[0], untouched)}


def test_a_failure_after_chance_is_not_repeated():
    """Otherwise its generator would have moved on, and the message be another one."""

    def odd(tied, rng):
        return int(rng.integers(100, 10**6))

    learner = RLHF(0.5, KL(), FiniteClass(BANDIT.reward[None], tie_break=odd))
    found = together([learner], rngs=[np.random.default_rng(1)])
    assert found.errors == {0: message(learner, rng=np.random.default_rng(1))}


def test_a_relative_of_rlhf_runs_alone():
    class Lazy(RLHF):
        def fit(self, data, reference, *, prompt_dist=None, rng=None):
            return Learned(reference)

    found = together([Lazy(0.5, KL(), RIDGE), RLHF(0.5, KL(), RIDGE)])
    np.testing.assert_array_equal(found.policies[0], BANDIT.reference)
    assert_same(found, 1, alone(RLHF(0.5, KL(), RIDGE)))


# ---- batches, regularizers, results --------------------------------------------------------------


def test_a_batch_serves_many_datasets():
    batch = LearnerBatch(QUICK[:12])
    law = population_pairs(BANDIT)
    for data in (DATA, law, DATA):
        found = batch.fit(data, BANDIT.reference)
        np.testing.assert_array_equal(
            found.policies, fit_together(QUICK[:12], data, BANDIT.reference).policies
        )
    assert not np.array_equal(batch.fit(law, BANDIT.reference).policies, found.policies)


def test_regularizers():
    setting = setting_for(BANDIT, np.random.default_rng(1), beta=0.5)
    cases = [
        (RLHF(0.5, MIXED), (MIXED, 0.5)),
        (DPO(0.2, SCORES), (KL(), 0.2)),
        (DPO(0.2, SCORES, label_smoothing=0.1), (KL(), 0.2)),
        (DPO(0.2, LogLinearPolicies(setting.features)), (KL(), 0.2)),
        (ChiPO(0.3, gamma=0.5), (MIXED, 0.3)),
        (ChiPO(0.3, r_max=1.0), (ChiSquared() + KL(), 0.3)),
        (FDPO(ForwardKL(), 0.3), (ForwardKL(), 0.3)),
        (BayesianPosterior(2.0), (KL(), 2.0)),
        (IPO(0.3), None),
        (SimPO(0.3), None),
        (ChiPOPractical(0.3), None),
        (BestOfN(4), None),
    ]
    batch = LearnerBatch([learner for learner, _ in cases])
    assert [regularizer_of(learner) for learner, _ in cases] == [pair for _, pair in cases]
    assert list(batch.regularizers) == [pair for _, pair in cases]
    build = {entry.key: entry.build for entry in LEARNERS}
    assert regularizer_of(build["pessimistic-mle-1"](setting)) == (KL(), 0.5)
    assert isinstance(build["pessimistic-mle-1"](setting), PessimisticMLE)
    assert regularizer_of(build["pessimistic-likelihood"](setting)) == (KL(), 0.5)
    # What IPO, say, is solved for by one batch is still its own policy.
    assert_same(together([learner for learner, _ in cases[8:10]]), 0, alone(IPO(0.3)))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_results_are_read_only_and_stay_so(again):
    found = again(together([RLHF(0.5), BestOfN(2, RIDGE)], ONE_SIDED))
    assert isinstance(found, Together)
    for array in (found.policies, found.residuals, found.rewards[1]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(TypeError):
        found.errors[1] = ""
    assert found.errors.keys() == {0}
    assert found.fitted.tolist() == [False, True]
    assert_same(found, 1, alone(BestOfN(2, RIDGE), ONE_SIDED))


def test_the_callers_arrays_are_not_changed():
    reference, rho = BANDIT.reference.copy(), BANDIT.prompt_dist.copy()
    found = fit_together(QUICK[:6], DATA, reference, prompt_dist=rho)
    reference[:], rho[:] = np.nan, np.nan
    assert_same(found, 0, QUICK_ALONE[0])
    policies = np.zeros((1, 2, 2))
    result = Together(policies, (None,), np.zeros(1))
    policies[:] = 1.0
    assert not result.policies.any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], DATA, BANDIT.reference), "learners is empty"),
        (([RLHF], DATA, BANDIT.reference), r"learners\[0\] is <class"),
        (([RLHF(1.0), "dpo"], DATA, BANDIT.reference), r"learners\[1\] is 'dpo'"),
        (([RLHF(1.0)], [1, 2], BANDIT.reference), "PreferenceData"),
        (([RLHF(1.0)], DATA, BANDIT.reference[:2]), r"reference has shape \(2, 5\)"),
        (([RLHF(1.0)], DATA, BANDIT.reference / 2), r"reference\[0\] sums to 0.5"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        fit_together(*arguments)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt_dist": [0.5, 0.5]}, r"prompt_dist has shape \(2,\)"),
        ({"rngs": np.random.default_rng(0)}, "rngs is a Generator"),
        ({"rngs": [None]}, "rngs is 1 entries; it must be a sequence of 2"),
        ({"rngs": [None, 3]}, r"rngs\[1\] is a int"),
        ({"rngs": [np.random.default_rng(0)] * 2}, r"rngs\[1\] is rngs\[0\]"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        fit_together([RLHF(1.0), DPO(1.0)], DATA, BANDIT.reference, **settings)
