"""Rules that choose beta from data: hold-out likelihood and Lepski; the protocol; bad input."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfsim import (
    KL,
    ChiSquared,
    ContextualBandit,
    FiniteClass,
    Tabular,
    example_table,
    population_pairs,
    random_bandit,
    sample_preferences,
)
from rlhfsim.bounds import reward_error
from rlhfsim.data import PreferenceData, count_pairs
from rlhfsim.learners import RLHF, BestOfN, Learned
from rlhfsim.learners.choose_beta import (
    DEFAULT_CANDIDATES,
    BetaChoice,
    ChiSquaredWidth,
    FiniteClassTheory,
    HoldOut,
    Lepski,
    Oracle,
    PaperSchedule,
    SharpTheory,
    UndeterminedBetaError,
    choose_beta,
    lepski_index,
)
from rlhfsim.learners.choose_beta.families import regularizer
from rlhfsim.learners.choose_beta.splits import split_counts
from rlhfsim.learners.direct import (
    DPO,
    ChiPO,
    ChiPOPractical,
    FinitePolicies,
    SimPO,
    TabularPolicies,
)
from rlhfsim.losses import dpo, empirical_loss

BOX = Tabular(r_max=1.0)
MIXED = ChiSquared() + KL()
GRID = tuple(np.geomspace(0.05, 20.0, 8).tolist())


def rlhf(divergence, model=BOX):
    return lambda beta: RLHF(beta, divergence, model)


@dataclass(frozen=True)
class BestPolicy:
    """DPO over a finite class of policies, with its implicit reward or without."""

    beta: float
    policies: tuple
    rewarded: bool = True
    name: str = "DPO over a list"

    def fit(self, data, reference, *, prompt_dist=None, rng=None):
        losses = [empirical_loss(dpo(self.beta), pi, reference, data) for pi in self.policies]
        policy = np.array(self.policies[int(np.argmin(losses))])
        reward = self.beta * np.log(policy / reference) if self.rewarded else None
        return Learned(policy, reward, self.beta)


@pytest.fixture(scope="module")
def bandit():
    return random_bandit(3, 5, np.random.default_rng(5))


@pytest.fixture(scope="module")
def data(bandit):
    return sample_preferences(bandit, 200, np.random.default_rng(6))


def policies_of(bandit, count=6):
    rng = np.random.default_rng(8)
    return tuple(tuple(map(tuple, rng.dirichlet(np.ones(5), size=3))) for _ in range(count))


# ---- splits --------------------------------------------------------------------------------------


def test_folds_are_a_partition(data):
    counts = count_pairs(data)
    pieces = split_counts(counts, [67, 67, 66], np.random.default_rng(0))
    assert [part.total for _, part in pieces] == [67, 67, 66]
    assert [rest.total for rest, _ in pieces] == [133, 133, 134]

    def table(counts):
        dense = np.zeros((3, 5, 5))
        dense[counts.prompt, counts.winner, counts.loser] = counts.count
        return dense

    np.testing.assert_array_equal(sum(table(part) for _, part in pieces), table(counts))
    assert sum(part.equal_pairs for _, part in pieces) == counts.equal_pairs > 0
    for rest, part in pieces:
        np.testing.assert_array_equal(table(rest) + table(part), table(counts))


def test_every_row_is_as_likely_to_be_held_out():
    """Of 7 rows, 3 of a triple, 3 of another and an equal pair, 2 are drawn."""
    data = PreferenceData([0] * 7, [0, 0, 0, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0], (1, 2))
    rng, draws = np.random.default_rng(0), 3000
    seen = {}
    for _ in range(draws):
        ((_, part),) = split_counts(count_pairs(data), [2], rng)
        first = part.count[part.winner == 0].sum()
        key = (int(first), int(part.equal_pairs))
        seen[key] = seen.get(key, 0) + 1
    # Of the 21 sets of rows.
    law = {(2, 0): 3, (0, 0): 3, (1, 0): 9, (1, 1): 3, (0, 1): 3}
    assert seen.keys() == law.keys()
    for key, sets in law.items():
        mean = draws * sets / 21
        # Five standard deviations of a binomial: 1e-6 each.
        assert abs(seen[key] - mean) < 5 * np.sqrt(mean * (1 - sets / 21))


# ---- hold-out ------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"folds": 4}, {"fraction": 0.3}, {}], ids=str)
def test_scores_are_held_out_likelihoods(settings, data, bandit):
    def family(beta):
        return RLHF(beta, KL(), Tabular(ridge=beta))

    rng = np.random.default_rng(11)
    choice = choose_beta(HoldOut(GRID, **settings), family, data, bandit.reference, rng=rng)
    again = np.random.default_rng(11)
    again.integers(2**63)
    sizes = (
        [60]
        if "fraction" in settings
        else [200 // settings.get("folds", 5)] * settings.get("folds", 5)
    )
    pieces = split_counts(count_pairs(data), sizes, again)
    for beta, score in zip(GRID, choice.scores, strict=True):
        terms = []
        for rest, part in pieces:
            reward = family(beta).fit(rest, bandit.reference).reward
            for x, y, z, count in zip(
                part.prompt, part.winner, part.loser, part.count, strict=True
            ):
                terms += [-np.log1p(np.exp(reward[x, z] - reward[x, y]))] * int(count)
        assert score == pytest.approx(np.mean(terms), rel=1e-12)
        assert choice.certificate["held_out"] == len(terms)
        if beta == GRID[0]:
            first = np.array(terms)
        if beta == GRID[choice.scores.argmax()]:
            best = np.array(terms)
    assert choice.beta == GRID[choice.scores.argmax()]
    assert choice.certificate["spread"] == np.ptp(choice.scores)
    error = np.std(best - first) / np.sqrt(best.size)
    assert choice.certificate["difference_error"][0] == pytest.approx(error, rel=1e-9)
    assert choice.certificate["difference_error"][choice.scores.argmax()] == 0


def test_folds_of_two_sizes_hold_out_every_row_once(bandit):
    data = sample_preferences(bandit, 203, np.random.default_rng(1))
    choice = choose_beta(
        HoldOut(GRID, 4), lambda beta: RLHF(beta, KL(), Tabular(ridge=beta)), data,
        bandit.reference, rng=np.random.default_rng(2),
    )  # fmt: skip
    assert choice.certificate["held_out"] == count_pairs(data).count.sum()


def test_the_reason_counts_what_is_within_two_standard_errors():
    bandit = random_bandit(3, 4, np.random.default_rng(0))
    data = sample_preferences(bandit, 200, np.random.default_rng(1))
    choice = choose_beta(
        HoldOut(GRID), lambda beta: RLHF(beta, KL(), Tabular(ridge=beta)), data,
        bandit.reference, rng=np.random.default_rng(2),
    )  # fmt: skip
    lost = choice.scores.max() - choice.scores
    error = choice.certificate["difference_error"]
    one, two = (lost <= error).sum() - 1, (lost <= 2.0 * error).sum() - 1
    assert one < two
    assert f"{two} of the others are within two standard errors" in choice.reason


@pytest.mark.parametrize("divergence", [KL(), MIXED], ids=repr)
@pytest.mark.parametrize("implicit", [False, True])
def test_flat_likelihoods_are_not_decided(divergence, implicit, data, bandit):
    """The implicit reward of the optimum over all policies is the fitted reward, whatever beta."""
    rule = HoldOut(DEFAULT_CANDIDATES, folds=2, divergence=divergence if implicit else None)
    with pytest.raises(UndeterminedBetaError, match="predicts the same at every beta") as caught:
        choose_beta(rule, rlhf(divergence), data, bandit.reference, rng=np.random.default_rng(0))
    scores = caught.value.scores
    # At the smallest beta the policy underflows, and has lost its implicit reward.
    assert np.isfinite(scores).sum() == (24 if implicit else 25)
    assert np.ptp(scores[np.isfinite(scores)]) < 1e-7
    assert scores.max() < -0.1


def test_the_right_beta_is_found_in_a_restricted_class():
    """With the one policy whose implicit reward at beta = 0.5 is r*: there the likelihood peaks."""
    bandit = random_bandit(3, 5, np.random.default_rng(5))
    right = bandit.reference * np.exp(bandit.reward / 0.5)
    right /= right.sum(axis=1, keepdims=True)
    data = sample_preferences(bandit, 20000, np.random.default_rng(1))

    def family(beta):
        return BestPolicy(beta, (right,))

    grid = (0.03125, 0.125, 0.5, 2.0, 8.0)
    choice = choose_beta(
        HoldOut(grid), family, data, bandit.reference, rng=np.random.default_rng(2)
    )
    assert choice.beta == 0.5
    assert (choice.certificate["spread"] > 10 * choice.certificate["difference_error"]).all()
    assert "0 of the others are within two standard errors, and 0 give" in choice.reason
    implicit = choose_beta(
        HoldOut(grid, divergence=KL()),
        lambda beta: BestPolicy(beta, (right,), rewarded=False),
        data,
        bandit.reference,
        rng=np.random.default_rng(2),
    )
    np.testing.assert_allclose(implicit.scores, choice.scores, rtol=1e-12)
    with pytest.raises(ValueError, match="learns no reward; give HoldOut a divergence"):
        choose_beta(
            HoldOut(grid),
            lambda beta: BestPolicy(beta, (right,), rewarded=False),
            data,
            bandit.reference,
            rng=np.random.default_rng(2),
        )


def test_clipping_makes_beta_visible(data, bandit):
    rule = HoldOut(GRID, divergence=ChiSquared())
    choice = choose_beta(
        rule, rlhf(ChiSquared()), data, bandit.reference, rng=np.random.default_rng(0)
    )
    assert choice.certificate["spread"] > 1e-3
    # Where nothing is clipped the likelihood is that of the fitted reward: flat.
    unclipped = np.array(GRID) > 1.0
    assert np.ptp(choice.scores[unclipped]) < 1e-12
    assert unclipped.sum() >= 3


def test_a_winner_without_mass_has_likelihood_zero():
    reference = np.full((1, 2), 0.5)
    data = PreferenceData([0] * 40, [0] * 40, [1] * 40, (1, 2))
    loser = ((0.0, 1.0),)

    def family(beta):
        good = ((0.9, 0.1),)
        return BestPolicy(beta, (loser if beta < 1 else good,), rewarded=False)

    rule = HoldOut((0.5, 2.0), folds=2, divergence=KL())
    choice = choose_beta(rule, family, data, reference, rng=np.random.default_rng(0))
    assert choice.beta == 2.0
    assert choice.scores[0] == -np.inf
    assert choice.scores[1] == pytest.approx(-np.log1p(9.0**-2.0), rel=1e-12)
    assert choice.certificate["difference_error"][0] == np.inf
    assert "1 give some held-out winner no mass" in choice.reason
    with pytest.raises(UndeterminedBetaError, match="no mass: its likelihood is 0"):
        choose_beta(
            rule,
            lambda beta: BestPolicy(beta, (loser,), rewarded=False),
            data,
            reference,
            rng=np.random.default_rng(0),
        )


def test_underflow_is_no_information():
    """Masses of e^-740 hold two digits, and would seem to prefer a beta."""
    reference, reward = np.full((1, 2), 0.5), np.array([[[1.0, 0.0]]])
    data = PreferenceData([0] * 40, [0] * 30 + [1] * 10, [1] * 30 + [0] * 10, (1, 2))
    family = rlhf(KL(), FiniteClass(reward))
    assert 0 < family(1 / 740).fit(data, reference).policy[0, 1] < 1e-319
    rule = HoldOut((1 / 740, 0.5, 1.0), folds=2, divergence=KL())
    with pytest.raises(UndeterminedBetaError) as caught:
        choose_beta(rule, family, data, reference, rng=np.random.default_rng(0))
    assert caught.value.scores[0] == -np.inf


def test_within_the_flat_tolerance_the_largest_beta_is_taken(data, bandit):
    def family(beta):
        return RLHF(beta, KL(), Tabular(ridge=1.0 if beta > 1.0 else 1000.0))

    choice = choose_beta(
        HoldOut((0.5, 1.0, 2.0, 3.0)), family, data, bandit.reference,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    assert choice.scores[2] == choice.scores[3]
    assert choice.beta == (3.0 if choice.scores[2] > choice.scores[0] else 1.0)


# ---- Lepski --------------------------------------------------------------------------------------


@given(
    increments=st.lists(st.floats(0.0, 3.0), min_size=2, max_size=8),
    decrements=st.lists(st.floats(0.0, 3.0), min_size=8, max_size=8),
    signs=st.lists(st.floats(-1.0, 1.0), min_size=8, max_size=8),
    theta=st.floats(-5.0, 5.0),
)
def test_lepski_on_its_event(increments, decrements, signs, theta):
    """Any bias that rises, any width that falls, any errors within them."""
    size = len(increments)
    bias = np.cumsum(increments) - increments[0]
    width = 0.01 + np.cumsum(decrements[:size])[::-1]
    estimates = theta + np.array(signs[:size]) * (bias + width)
    chosen = lepski_index(estimates, width)
    balanced = int(np.flatnonzero(bias <= width)[-1])
    assert chosen >= balanced
    slack = 1e-12 * (1 + np.abs(estimates).max())
    assert abs(estimates[chosen] - theta) <= 6 * width[balanced] + slack
    q = 1.0 if balanced == size - 1 else width[balanced] / width[balanced + 1]
    assert 6 * width[balanced] <= 6 * q * (bias + width).min() + slack
    # Brute force.
    agree = [
        all(abs(estimates[i] - estimates[j]) <= 2 * (width[i] + width[j]) for i in range(j))
        for j in range(size)
    ]
    assert chosen == max(j for j in range(size) if agree[j])


def test_lepskis_six_is_attained():
    """`b_1 = s_1`, and the next estimate four widths further: not one less would do."""
    width = np.array([1.0, 1.0])
    bias = np.array([1.0, 5.0])
    estimates = bias + width
    assert lepski_index(estimates, width) == 1
    assert estimates[1] == 6.0 * width[0]
    assert lepski_index([2.0, 6.0 + 1e-12], width) == 0


@pytest.mark.parametrize("divergence", [ChiSquared(), MIXED, 2.0 * ChiSquared()], ids=repr)
def test_lepskis_suppositions_hold_under_chi_squared(divergence):
    """Both of them and the bound of the regret, without the choice knowing the comparator."""
    interesting = 0
    for seed in range(15):
        rng = np.random.default_rng(seed)
        bandit = random_bandit(int(rng.integers(1, 4)), int(rng.integers(2, 7)), rng)
        p, rho = bandit.reference, bandit.prompt_dist
        reward_hat = bandit.reward + 10 ** rng.uniform(-2, 0) * rng.normal(size=bandit.shape)
        epsilon = float(reward_error(bandit.reward, reward_hat, p, rho))
        star = bandit.optimal_policy()
        cost = float(divergence(star, p, rho) + ChiSquared()(star, p, rho))
        theta = float(bandit.value(star) - bandit.value(p))
        data = PreferenceData([0], [0], [1], bandit.shape)
        family = rlhf(divergence, FiniteClass(reward_hat[None]))
        rule = Lepski(ChiSquaredWidth(epsilon), divergence=divergence)
        choice = choose_beta(rule, family, data, p, prompt_dist=rho)
        widths, estimates = choice.certificate["widths"], choice.scores
        np.testing.assert_allclose(widths, epsilon**2 / (2 * choice.candidates), rtol=1e-14)
        bias = choice.candidates * cost
        assert (np.abs(estimates - theta) <= bias + widths + 1e-12).all()
        policies = [family(beta).fit(data, p).policy for beta in rule.candidates]
        gains = bandit.value(np.array(policies)) - bandit.value(p)
        np.testing.assert_array_equal(choice.certificate["gain_lower"], estimates - widths)
        assert (gains >= choice.certificate["gain_lower"] - 1e-12).all()
        learned = family(1.0).fit(data, p, prompt_dist=rho)
        offset = float(rho @ (p * reward_hat).sum(axis=1))
        index = int(np.flatnonzero(choice.candidates == 1.0)[0])
        assert estimates[index] == pytest.approx(learned.objective - offset, abs=1e-12)
        if bias[0] > widths[0]:
            continue
        balanced = int(np.flatnonzero(bias <= widths)[-1])
        chosen = int(np.flatnonzero(choice.candidates == choice.beta)[0])
        assert chosen >= balanced
        assert theta - gains[chosen] <= 7 * widths[balanced]
        assert chosen == lepski_index(estimates, widths)
        interesting += 0 < balanced < len(widths) - 1
    assert interesting >= 5


@pytest.mark.parametrize("side", ["lower", "upper"])
def test_lepskis_suppositions_are_attained(side):
    """An optimum along `a = w - 1` and an error along it: half of b or of s would not do."""
    p, policy = np.array([[0.25, 0.25, 0.5]]), np.array([[0.35, 0.25, 0.4]])
    ratio, beta = policy / p - 1.0, 0.4
    cost = float((p * ratio**2).sum() / 2)
    reward_hat = beta * ratio
    reward = 2.0 * reward_hat if side == "lower" else np.zeros_like(p)
    epsilon = float(reward_error(reward, reward_hat, p))
    data = PreferenceData([0], [0], [1], (1, 3))
    family = rlhf(ChiSquared(), FiniteClass(reward_hat[None]))
    choice = choose_beta(Lepski(ChiSquaredWidth(epsilon), (0.2, beta)), family, data, p)
    np.testing.assert_allclose(family(beta).fit(data, p).policy, policy, rtol=1e-12)
    gain = float(((policy - p) * reward).sum())
    width = choice.certificate["widths"][1]
    if side == "lower":
        bias = beta * 2.0 * cost
        assert choice.scores[1] == pytest.approx(gain - bias - width, rel=1e-9)
    else:
        assert choice.scores[1] == pytest.approx(gain + width, rel=1e-9)
        assert choice.certificate["gain_lower"][1] == pytest.approx(gain, abs=1e-12)


def test_lepski_stops_where_the_estimates_part():
    """With an exact reward and no width left the estimates part early; with wide ones never."""
    bandit = ContextualBandit([1.0], [[0.5, 0.5]], [[1.0, 0.0]])
    data = PreferenceData([0], [0], [1], (1, 2))
    family = rlhf(ChiSquared(), FiniteClass(bandit.reward[None]))
    wide = choose_beta(Lepski(lambda beta: 1.0), family, data, bandit.reference)
    assert wide.beta == DEFAULT_CANDIDATES[-1]
    assert "larger ones might too" in wide.reason
    # U(beta) = 1/2 - beta/2 for beta <= 1/2 and 1/(8 beta) beyond, against 4 * 0.05.
    narrow = choose_beta(
        Lepski(lambda beta: 0.05, (0.1, 0.2, 0.4, 0.49, 0.51, 1.0)), family, data, bandit.reference
    )
    np.testing.assert_allclose(narrow.scores, [0.45, 0.4, 0.3, 0.255, 1 / 4.08, 0.125], rtol=1e-12)
    np.testing.assert_array_equal(
        narrow.certificate["accepted"], [True, True, True, True, False, False]
    )
    assert narrow.beta == 0.49
    assert "each of the 2 larger ones disagrees" in narrow.reason


# ---- direct learners -----------------------------------------------------------------------------


def test_direct_losses_are_known_by_their_links(data, bandit):
    p, rho = bandit.reference, bandit.prompt_dist

    def direct(beta):
        return ChiPO(beta, policies=TabularPolicies())

    sharp = SharpTheory(0.2, 0.5, 1.0)
    assert choose_beta(sharp, direct, data, p).beta == choose_beta(sharp, rlhf(MIXED), data, p).beta
    for rule in (sharp, PaperSchedule(2.0, 3, 0.1, 1.0, 1.0)):
        with pytest.raises(ValueError, match=r"regularizes with KL\(\).*needs chi-squared"):
            choose_beta(rule, DPO, data, p)
    lepski = Lepski(ChiSquaredWidth(0.2), GRID)
    with pytest.raises(ValueError, match=r"regularizes with ChiSquared\(\) \+ KL\(\); the rule"):
        choose_beta(lepski, direct, data, p, prompt_dist=rho)
    # Without a reference, or with a link that is none of a divergence, nothing is known.
    assert regularizer(SimPO(1.0, 0.5)) is None
    assert regularizer(ChiPOPractical(1.0, 0.25, 0.1)) is None


def test_direct_and_two_step_twins_get_the_same_beta():
    """Over all policies chiPO is RLHF with the mixed divergence, and the estimate exists here."""
    bandit = random_bandit(1, 3, np.random.default_rng(2))
    law, p = population_pairs(bandit), bandit.reference
    rule = Lepski(ChiSquaredWidth(0.2), GRID, MIXED)
    one = choose_beta(rule, lambda beta: ChiPO(beta), law, p)
    two = choose_beta(rule, rlhf(MIXED, Tabular()), law, p)
    assert one.beta == two.beta
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-7)


def test_hold_out_decides_between_direct_policies_of_a_finite_class(bandit):
    data = sample_preferences(bandit, 4000, np.random.default_rng(1))
    right = bandit.reference * np.exp(bandit.reward / 0.5)
    right /= right.sum(axis=1, keepdims=True)
    grid = (0.03125, 0.125, 0.5, 2.0, 8.0)
    policies = FinitePolicies(np.stack([right, bandit.reference]))
    choice = choose_beta(
        HoldOut(grid, 2),
        lambda beta: DPO(beta, policies=policies),
        data,
        bandit.reference,
        rng=np.random.default_rng(2),
    )
    assert choice.beta == 0.5


# ---- the protocol --------------------------------------------------------------------------------

RULES = {
    "oracle": lambda bandit: Oracle(bandit, GRID),
    "sharp": lambda bandit: SharpTheory(0.2, 0.5),
    "class": lambda bandit: FiniteClassTheory(8, 0.1, 1e-9 + np.ptp(bandit.reward), 0.5),
    "paper": lambda bandit: PaperSchedule(2.0, 8, 0.1, 1.0, 1.0),
    "hold-out": lambda bandit: HoldOut(GRID, folds=2, divergence=ChiSquared()),
    "lepski": lambda bandit: Lepski(ChiSquaredWidth(0.2), GRID),
}


def family_of(rule, bandit):
    return rlhf(ChiSquared(), FiniteClass(bandit.reward[None]) if rule == "class" else BOX)


@pytest.mark.parametrize("judged", [False, True], ids=["random", "judged"])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, judged, bandit, data):
    if judged:
        bandit = ContextualBandit.from_table(example_table())
        data = sample_preferences(bandit, 400, np.random.default_rng(7))
    made = RULES[rule](bandit)

    def chosen(given):
        return choose_beta(
            made,
            family_of(rule, bandit),
            given,
            bandit.reference,
            prompt_dist=bandit.prompt_dist,
            rng=np.random.default_rng(3),
        )

    choice = chosen(data)
    assert choice.rule == made.name
    assert choice.reason
    assert 0 < choice.beta < np.inf
    assert (np.diff(choice.candidates) > 0).all()
    frame = choice.to_dataframe()
    np.testing.assert_array_equal(frame["beta"], choice.candidates)
    np.testing.assert_array_equal(frame["score"], choice.scores)
    # The order of the rows does not matter.
    shuffled = np.random.default_rng(0).permutation(len(data))
    columns = (column[shuffled] for column in (data.prompt, data.chosen, data.rejected))
    again = chosen(PreferenceData(*columns, data.shape))
    assert again.beta == choice.beta
    np.testing.assert_array_equal(again.scores, choice.scores)
    assert chosen(count_pairs(data)).beta == choice.beta
    copy = pickle.loads(pickle.dumps(choice))
    assert (copy.beta, copy.reason) == (choice.beta, choice.reason)
    np.testing.assert_array_equal(copy.scores, choice.scores)
    assert copy.certificate.keys() == choice.certificate.keys()
    for array in (copy.scores, copy.candidates):
        assert not array.flags.writeable
    with pytest.raises(TypeError):
        choice.certificate["n"] = 1
    assert pickle.loads(pickle.dumps(made)).name == made.name
    # What is chosen can be fitted.
    learned = RLHF(choice.beta, ChiSquared(), BOX).fit(data, bandit.reference)
    assert learned.beta == choice.beta


def test_of_equal_values_the_search_of_the_oracle_starts_from_the_largest_beta(data, bandit):
    """As the exact path does."""
    best = 0.5 * (bandit.optimal_policy() + bandit.reference)

    def family(beta):
        return BestPolicy(beta, (best if beta >= GRID[4] else bandit.reference,))

    choice = choose_beta(Oracle(bandit, GRID), family, data, bandit.reference)
    assert not choice.certificate["certified"]
    assert choice.beta == GRID[-1]


def test_rules_that_do_not_count_take_laws(bandit):
    law = population_pairs(bandit)
    for rule in ("oracle", "sharp", "lepski"):
        choice = choose_beta(
            RULES[rule](bandit), rlhf(ChiSquared()), law, bandit.reference,
            prompt_dist=bandit.prompt_dist,
        )  # fmt: skip
        assert choice.beta > 0
    for rule in ("class", "paper", "hold-out"):
        with pytest.raises(ValueError, match=r"data has a count of 0\..*must be whole"):
            choose_beta(
                RULES[rule](bandit), rlhf(ChiSquared()), law, bandit.reference,
                rng=np.random.default_rng(0),
            )  # fmt: skip


# ---- bad input -----------------------------------------------------------------------------------

SHARP = SharpTheory(0.2, 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda b: Oracle(None), "bandit is None; it must be a ContextualBandit"),
        (lambda b: Oracle(b, (1.0,)), r"candidates has shape \(1,\); .*at least two"),
        (lambda b: Oracle(b, ()), r"candidates has shape \(0,\)"),
        (lambda b: Oracle(b, (0.0, 1.0)), r"candidates\[0\] is 0.0; it must be positive"),
        (lambda b: Oracle(b, (1.0, np.nan)), r"candidates\[1\] is nan; entries must be finite"),
        (lambda b: Oracle(b, (1.0, np.inf)), r"candidates\[1\] is inf"),
        (lambda b: Oracle(b, (1.0, 3.0, 3.0)), r"candidates\[2\] is 3.0, after 3.0; .*increase"),
        (lambda b: Oracle(b, GRID, -1.0), "tolerance is -1.0"),
        (lambda b: Oracle(b, GRID, 0.1, -1), "refinements is -1; it must be at least 0"),
        (lambda b: SharpTheory(0.0, 0.5), "epsilon is 0.0; it must be positive"),
        (lambda b: SharpTheory(np.nan, 0.5), "epsilon is nan"),
        (lambda b: SharpTheory(0.1, 0.0), "divergence is 0.0; it must be positive"),
        (lambda b: SharpTheory(0.1, np.inf), "divergence is inf"),
        (lambda b: SharpTheory(0.1, 0.5, -1.0), "kl_weight is -1.0"),
        (lambda b: SharpTheory(0.1, 0.5, 1.0, -1.0), "kl is -1.0"),
        (lambda b: SharpTheory(0.1, 0.5, 1.0, 0.7), r"kl is 0.7; .* at most log\(1 \+ 2 D\)"),
        (lambda b: SharpTheory.known(b, b.reward), "epsilon is 0.0"),
        (lambda b: SharpTheory.known(b, -b.reward, b.reference), "divergence is 0.0"),
        (lambda b: FiniteClassTheory(0, 0.1, 1.0, 0.5), "class_size is 0"),
        (lambda b: FiniteClassTheory(3, 1.0, 1.0, 0.5), "delta is 1.0; it must be below 1"),
        (lambda b: FiniteClassTheory(3, 0.1, -1.0, 0.5), "reward_gap is -1.0"),
        (lambda b: FiniteClassTheory(3, 0.1, 1.0, -0.5), "divergence is -0.5"),
        (lambda b: PaperSchedule(0.5, 3, 0.1, 1.0, 1.0), "concentrability is 0.5; .* at least 1"),
        (lambda b: PaperSchedule(2.0, 2.5, 0.1, 1.0, 1.0), "class_size is 2.5"),
        (lambda b: PaperSchedule(2.0, 3, 1.5, 1.0, 1.0), "delta is 1.5; it must be below 1"),
        (lambda b: PaperSchedule(2.0, 3, 0.1, -1.0, 1.0), "r_max is -1.0"),
        (lambda b: PaperSchedule(2.0, 3, 0.1, 1.0, 0.0), "v_max is 0.0"),
        (lambda b: PaperSchedule(2.0, 3, 0.1, 1.0, 1.0, 0.0), "constant is 0.0"),
        (lambda b: HoldOut(GRID, 2, 0.5), "fraction is 0.5 and folds 2; give one"),
        (lambda b: HoldOut(GRID, 1), "folds is 1; it must be at least 2"),
        (lambda b: HoldOut(GRID, fraction=1.0), "fraction is 1.0; it must be below 1"),
        (lambda b: HoldOut(GRID, fraction=0.0), "fraction is 0.0"),
        (lambda b: HoldOut(GRID, divergence="KL"), "divergence is 'KL'"),
        (lambda b: HoldOut(GRID, flat=-1.0), "flat is -1.0"),
        (lambda b: ChiSquaredWidth(0.0), "epsilon is 0.0"),
        (lambda b: Lepski(0.1), "width is 0.1; it must be a function"),
        (lambda b: Lepski(ChiSquaredWidth), "it must be a function"),
        (lambda b: Lepski(lambda beta: beta, GRID), r"width\[1\] is .*must not increase"),
        (lambda b: Lepski(lambda beta: 0.0, GRID), r"width\[0\] is 0.0; it must be positive"),
        (lambda b: Lepski(ChiSquaredWidth(1.0), GRID, "KL"), "divergence is 'KL'"),
        (lambda b: Lepski(ChiSquaredWidth(1.0), GRID, KL()), "needs at least ChiSquared"),
        (lambda b: Lepski(ChiSquaredWidth(1.0), GRID, 0.5 * ChiSquared()), "needs at least"),
        (lambda b: lepski_index([1.0], [1.0, 1.0]), r"estimates has shape \(1,\)"),
        (lambda b: lepski_index([np.nan], [1.0]), r"estimates\[0\] is nan"),
        (lambda b: lepski_index([], []), r"width has shape \(0,\)"),
        (lambda b: BetaChoice("x", np.inf, "", [1.0], [1.0], ""), "beta is inf"),
    ],
)
def test_bad_settings(make, message, bandit):
    with pytest.raises(ValueError, match=message):
        make(bandit)


CHI = rlhf(ChiSquared())


@pytest.mark.parametrize(
    ("rule", "family", "change", "message"),
    [
        (SharpTheory, CHI, {}, "rule is .*must be a rule such as"),
        ("oracle", CHI, {}, "rule is 'oracle'"),
        (SHARP, RLHF(0.1), {}, "family is RLHF.*must be a function"),
        (SHARP, 0.1, {}, "family is 0.1; it must be a function"),
        (SHARP, lambda b: b, {}, r"family\(0.2\d*\) is 0.2\d*; it must be a learner|family\("),
        (SHARP, lambda b: RLHF, {}, "it must be a learner"),
        (SHARP, lambda b: RLHF(1.5), {}, "has beta 1.5; it must use the beta it is given"),
        (SHARP, CHI, {"reference": np.full((3, 4), 0.25)}, r"reference has shape \(3, 4\)"),
        (SHARP, CHI, {"reference": np.full((3, 5), 0.25)}, r"reference\[0\] sums to 1.25"),
        (SHARP, CHI, {"data": [1, 2]}, "data is a list"),
        (SHARP, CHI, {"prompt_dist": [1.0]}, r"prompt_dist has shape \(1,\)"),
        (SHARP, CHI, {"rng": 0}, "rng is a int"),
        (HoldOut(GRID), CHI, {}, "rng is None; HoldOut needs"),
        (HoldOut(GRID, 300), CHI, {"rng": np.random.default_rng(0)}, "200 rows; 300 folds need"),
        (
            HoldOut(GRID, fraction=0.001),
            CHI,
            {"rng": np.random.default_rng(0)},
            "fraction is 0.001; of 200 rows it would hold out 0",
        ),
        (
            HoldOut(GRID, 2),
            CHI,
            {
                "rng": np.random.default_rng(0),
                "data": PreferenceData([0, 1], [1, 1], [1, 1], (3, 5)),
            },
            "held out no comparison of different responses",
        ),
        (
            HoldOut(GRID, 2, divergence=KL()),
            CHI,
            {
                "rng": np.random.default_rng(0),
                "reference": np.tile([0.0, 0.25, 0.25, 0.25, 0.25], (3, 1)),
            },
            r"reference\[0, 0\] is 0.0; an implicit reward needs it positive",
        ),
        (Lepski(ChiSquaredWidth(0.1), GRID), CHI, {}, "prompt_dist is missing"),
        (Lepski(ChiSquaredWidth(0.1), GRID), rlhf(KL()), {}, r"regularizes with KL\(\); the rule"),
        (
            Lepski(ChiSquaredWidth(0.1), GRID),
            lambda b: BestPolicy(b, (np.full((3, 5), 0.2),), rewarded=False),
            {},
            "learns no reward; Lepski needs one",
        ),
        (PaperSchedule(2.0, 3, 0.1, 500.0, 1.0), CHI, {}, "beta is inf"),
        (FiniteClassTheory(3, 0.1, 2000.0, 1.0), CHI, {}, "epsilon is inf"),
    ],
)
def test_bad_calls(rule, family, change, message, bandit, data):
    given = {"data": data, "reference": bandit.reference} | change
    with pytest.raises(ValueError, match=message):
        choose_beta(rule, family, given.pop("data"), given.pop("reference"), **given)


def test_the_oracle_needs_its_own_shape(data, bandit):
    other = random_bandit(2, 5, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"bandit has shape \(2, 5\).*\(3, 5\)"):
        choose_beta(Oracle(other), CHI, data, bandit.reference)


def test_a_family_that_ignores_beta_is_flat(data, bandit):
    with pytest.raises(UndeterminedBetaError, match="none is best"):
        choose_beta(Oracle(bandit, GRID), lambda b: BestOfN(4, BOX), data, bandit.reference)
