"""Exact laws of counts and of datasets, against fractions, brute force and sampling."""

import copy
import itertools
import math
import pickle
import tracemalloc
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import chi2, multinomial

from rlhfsim import ContextualBandit, FiniteClass, fit_reward, proposition_a1, random_bandit
from rlhfsim.data import PairCounts, PreferenceData, count_pairs
from rlhfsim.laws import dataset_law, dataset_of, multinomial_counts
from rlhfsim.laws.multinomial import CountLaw
from rlhfsim.laws.poisson import log_poisson, stirling_error
from rlhfsim.laws.summation import CompensatedSum
from rlhfsim.preferences import BradleyTerry, GeneralPreference, LabelNoise
from rlhfsim.repro.proposition_a1 import wrong_reward_law
from rlhfsim.rewards import mle_exists
from rlhfsim.sampling import sample_preferences

# ---- counts ---------------------------------------------------------------------------------


def exact_probability(cells, counts):
    """The multinomial probability of the float64 cells, without rounding."""
    product = Fraction(math.factorial(sum(counts)))
    for cell, count in zip(cells, counts, strict=True):
        product *= Fraction(float(cell)) ** count / math.factorial(count)
    return product


@given(
    st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=5),
    st.integers(1, 12),
)
def test_every_probability_is_exact(weights, n):
    cells = np.array(weights) / np.sum(weights)
    law = multinomial_counts(cells, n)
    listed = list(law)
    assert len(listed) == len(law) == math.comb(n + len(cells) - 1, n)
    for probability, counts in listed:
        want = exact_probability(cells, counts.tolist())
        assert abs(Fraction(probability) / want - 1) < Fraction(1, 10**12)
    vectors = [tuple(counts.tolist()) for _, counts in listed]
    assert vectors == sorted(set(vectors))
    assert all(sum(v) == n and min(v) >= 0 for v in vectors)
    assert math.fsum(p for p, _ in listed) == pytest.approx(1.0, abs=1e-12)
    assert law.left_out == 0.0


def mpmath_probability(cells, counts):
    with mpmath.workdps(60):
        logs = mpmath.loggamma(mpmath.mpf(int(sum(counts))) + 1)
        for cell, count in zip(cells, counts, strict=True):
            logs += int(count) * mpmath.log(mpmath.mpf(float(cell)))
            logs -= mpmath.loggamma(mpmath.mpf(int(count)) + 1)
        return mpmath.exp(logs)


@pytest.mark.parametrize("n", [20, 300, 10_000])
def test_large_counts_to_twelve_digits(n):
    rng = np.random.default_rng(n)
    worst = 0.0
    for _ in range(150):
        m = int(rng.integers(2, 9))
        cells = rng.dirichlet(np.full(m, rng.choice([0.2, 1.0, 10.0])))
        if not (cells > 0).all():
            continue
        # Near the mean, and far in the tail.
        counts = rng.multinomial(n, rng.dirichlet(n * cells * rng.choice([0.01, 1.0]) + 0.1))
        want = mpmath_probability(cells, counts)
        if want < 1e-300:
            continue
        got = CountLaw(cells, n)._probability(counts[None])[0]
        worst = max(worst, abs(float(mpmath.mpf(got) / want - 1)))
    assert 0 < worst < 1e-12


def test_cells_are_used_as_given():
    """Cells that sum to 1 + e give probabilities that sum to (1 + e)^n."""
    cells = np.array([0.25, 0.75 + 5e-10])
    n = 4000
    total = math.fsum(p for p, _ in multinomial_counts(cells, n))
    want = float((Fraction(0.25) + Fraction(float(cells[1]))) ** n)
    assert total == pytest.approx(want, rel=1e-12)
    assert total - 1 > 1e-6


def test_poisson_terms_against_mpmath():
    counts = [0, 1, 2, 7, 14, 15, 16, 17, 40, 1000, 10**6, 10**8, 10**15]
    with mpmath.workdps(60):
        for k in counts[1:]:
            x = mpmath.mpf(k)
            stirling = mpmath.log(mpmath.sqrt(2 * mpmath.pi * x)) + x * mpmath.log(x) - x
            want = mpmath.loggamma(x + 1) - stirling
            assert float(stirling_error(k)) == pytest.approx(float(want), rel=1e-15, abs=1e-17)
        for k, factor in itertools.product(counts, (0.4, 0.999, 1.0, 1.0 + 1e-9, 1.6, 3.0)):
            mean = max(k, 1) * factor
            m = mpmath.mpf(mean)
            want = k * mpmath.log(m) - m - mpmath.loggamma(mpmath.mpf(k) + 1)
            assert float(log_poisson(k, mean)) == pytest.approx(float(want), rel=4e-16, abs=1e-15)
    # A mean below the smallest normal number.
    assert float(log_poisson(1, 1e-310)) == pytest.approx(-310 * math.log(10), rel=1e-12)


@given(
    st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=3),
    st.floats(1e-3, 0.999),
    st.integers(1, 9),
    st.integers(0, 12),
)
def test_rare_cells_are_a_marginal_of_the_full_law(weights, share, n, most):
    cells = share * np.array(weights) / np.sum(weights)
    law = multinomial_counts(cells, n, most=most)
    listed = list(law)
    rest = Fraction(1) - sum(Fraction(float(c)) for c in cells)
    for probability, counts in listed:
        k = [*counts.tolist(), n - int(counts.sum())]
        want = Fraction(math.factorial(n)) * rest ** k[-1] / math.factorial(k[-1])
        for cell, count in zip(cells, k[:-1], strict=True):
            want *= Fraction(float(cell)) ** count / math.factorial(count)
        assert abs(Fraction(probability) / want - 1) < Fraction(1, 10**12)
    vectors = {tuple(counts.tolist()) for _, counts in listed}
    size = range(min(most, n) + 1)
    assert vectors == {
        v for v in itertools.product(size, repeat=len(cells)) if sum(v) <= min(most, n)
    }
    assert len(listed) == len(law) == len(vectors)
    assert math.fsum(p for p, _ in listed) + law.left_out == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("n", [50, 10**4, 10**8])
def test_rare_cells_in_many_draws(n):
    """Probabilities and what is left out against 60 digits; log-gamma alone loses nine of them."""
    cells = np.array([0.7, 0.9, 0.1, 0.5]) / n
    law = multinomial_counts(cells, n, most=12)
    probability, counts = law.table()
    with mpmath.workdps(60):
        exact = [mpmath.mpf(float(c)) for c in cells]
        rest = 1 - mpmath.fsum(exact)
        factorials = [mpmath.factorial(k) for k in range(13)]
        for i in range(0, len(law), 37):
            k = counts[i].tolist()
            # n (n-1) ... (n-s+1), exactly.
            want = mpmath.mpf(math.prod(range(n - sum(k) + 1, n + 1))) * rest ** (n - sum(k))
            for cell, count in zip(exact, k, strict=True):
                want *= cell**count / factorials[count]
            assert float(probability[i] / want) == pytest.approx(1.0, abs=2e-13)
        q = mpmath.fsum(exact)
        below = mpmath.fsum(mpmath.binomial(n, s) * q**s * (1 - q) ** (n - s) for s in range(13))
        assert law.left_out == pytest.approx(float(1 - below), rel=1e-10)
    assert probability.sum() + law.left_out == pytest.approx(1.0, abs=1e-12)


def test_what_is_left_out_at_the_ends():
    assert multinomial_counts([0.25], 3, most=3).left_out == 0.0
    assert multinomial_counts([0.25], 3, most=99).left_out == 0.0
    assert multinomial_counts([0.25], 3, most=0).left_out == pytest.approx(1 - 0.75**3, rel=1e-14)
    # Far below the rounding of 1.
    tail = multinomial_counts([1e-6], 10**4, most=7).left_out
    assert tail == pytest.approx(1e-16 / math.factorial(8) * 0.9910, rel=1e-3)


def test_counts_of_one_cell_and_a_law_survives_copies():
    [(probability, counts)] = multinomial_counts([1.0], 7)
    assert (probability, counts.tolist()) == (pytest.approx(1.0, abs=1e-15), [7])
    law = multinomial_counts([0.25, 0.5], 7, most=2)
    for twin in (copy.deepcopy(law), pickle.loads(pickle.dumps(law))):
        assert not twin.probabilities.flags.writeable
        assert np.array_equal(twin.table()[0], law.table()[0])


@pytest.mark.parametrize(
    ("cells", "n", "options", "message"),
    [
        ([0.5, 0.4], 3, {}, r"probabilities sums to 0\.9"),
        ([1.5, -0.5], 3, {}, r"probabilities\[1\] is -0\.5; it must be positive"),
        ([1.0, 0.0], 3, {}, r"probabilities\[1\] is 0\.0; it must be positive"),
        ([0.5, np.nan], 3, {}, r"probabilities\[1\] is nan"),
        ([], 3, {}, r"probabilities has shape \(0,\)"),
        ([[0.5, 0.5]], 3, {}, r"probabilities has shape \(1, 2\)"),
        ([0.5, 0.5], 0, {}, "n is 0; it must be at least 1"),
        ([0.5, 0.5], 2.0, {}, r"n is 2\.0; it must be an integer"),
        ([0.5, 0.5], 3, {"most": 2}, r"probabilities sums to 1\.0; with most given"),
        ([0.5], 3, {"most": -1}, "most is -1; it must be at least 0"),
        ([0.5, 0.5], 3, {"limit": 0}, "limit is 0"),
        ([0.5, 0.5], 3, {"limit": 3}, "there are 4 count vectors of 2 cells in 3 draws, more "
         "than limit = 3; take a smaller n or fewer cells"),
        ([0.25, 0.5], 9, {"most": 3, "limit": 9}, "there are 10 count vectors .* a smaller most"),
        (np.full(10**5, 1e-5), 10**5, {}, "there are about 1e60203 count vectors"),
    ],
)  # fmt: skip
def test_bad_counts(cells, n, options, message):
    with pytest.raises(ValueError, match=message):
        multinomial_counts(cells, n, **options)


def test_a_limit_is_the_number_that_is_allowed():
    assert len(multinomial_counts([0.5, 0.5], 3, limit=4)) == 4
    assert len(multinomial_counts([0.25, 0.5], 9, most=3, limit=10)) == 10


# ---- datasets -------------------------------------------------------------------------------


def small_bandit(seed=0, prompts=2, responses=2):
    return random_bandit(prompts, responses, np.random.default_rng(seed))


def ordered_datasets(bandit, n, probability=None, policies=None):
    """Every sequence of n draws (x, y1, y2, whether y1 wins): its probability and its data."""
    r = bandit.reward
    probability = probability or (lambda x, a, b: expit(r[x, a] - r[x, b]))
    first, second = policies or (bandit.reference, bandit.reference)
    prompts, responses = bandit.shape
    outcomes = []
    for x, a, b in itertools.product(range(prompts), range(responses), range(responses)):
        met = bandit.prompt_dist[x] * first[x, a] * second[x, b]
        p = probability(x, a, b)
        outcomes += [((x, a, b), met * p), ((x, b, a), met * (1 - p))]
    for rows in itertools.product(outcomes, repeat=n):
        chance = math.prod(p for _, p in rows)
        yield chance, PreferenceData(*np.array([row for row, _ in rows]).T, bandit.shape)


def key_of(counts):
    columns = (counts.prompt, counts.winner, counts.loser, counts.count)
    return (*zip(*(c.tolist() for c in columns), strict=True), ("equal", counts.equal_pairs))


def brute_force_law(*args, **options):
    law = {}
    for chance, data in ordered_datasets(*args, **options):
        key = key_of(count_pairs(data))
        law[key] = law.get(key, 0.0) + chance
    return law


CASES = {
    "Bradley-Terry": lambda b: ({}, {}),
    "noise": lambda b: (
        {"model": LabelNoise(BradleyTerry(b.reward), 0.2)},
        {"probability": lambda x, i, j: 0.2 + 0.6 * expit(b.reward[x, i] - b.reward[x, j])},
    ),
    "two policies": lambda b: (
        {"policies": (b.reference, b.reference[:, ::-1])},
        {"policies": (b.reference, b.reference[:, ::-1])},
    ),
    "disjoint policies": lambda b: (
        {"policies": ([[1.0, 0.0]] * 2, [[0.0, 1.0]] * 2)},
        {"policies": (np.array([[1.0, 0.0]] * 2), np.array([[0.0, 1.0]] * 2))},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n", [1, 3])
def test_law_is_that_of_all_ordered_datasets(case, n):
    bandit = small_bandit()
    options, brute = CASES[case](bandit)
    want = brute_force_law(bandit, n, **brute)
    want = {key: p for key, p in want.items() if p > 0}
    law = dataset_law(bandit, n, **options)
    got = {key_of(counts): p for p, counts in law}
    assert got.keys() == want.keys()
    assert len(law) == len(got) == sum(1 for _ in law)
    for key, p in got.items():
        assert p == pytest.approx(want[key], rel=1e-12)
    assert math.fsum(got.values()) == pytest.approx(1.0, abs=1e-12)


def test_three_responses_and_expectations_by_brute_force():
    bandit = small_bandit(3, 1, 3)

    def statistics(counts):
        wins = np.zeros(3)
        np.add.at(wins, counts.winner, counts.count)
        return np.array([*wins, counts.equal_pairs, wins[0] * wins[1], float(wins.max())])

    want = sum(p * statistics(count_pairs(d)) for p, d in ordered_datasets(bandit, 3))
    got = dataset_law(bandit, 3).expectation(statistics)
    assert got == pytest.approx(want, rel=1e-12)
    # Means are linear in n, whatever the law of the whole dataset.
    one = dataset_law(bandit, 1).expectation(statistics)
    assert got[:4] == pytest.approx(3 * one[:4], rel=1e-13)


def test_counts_of_a_law_are_what_counting_gives():
    law = dataset_law(small_bandit(1), 3)
    for _, counts in law:
        again = count_pairs(dataset_of(counts))
        assert key_of(again) == key_of(counts)
        assert again.shape == counts.shape
        assert counts.count.min(initial=1.0) >= 1.0
        assert counts.count.dtype == np.float64
        assert counts.count.sum() + counts.equal_pairs == 3


def test_order_is_that_of_the_counts_and_repeats():
    law = dataset_law(small_bandit(1), 2)
    once, twice = ([key_of(c) for _, c in law] for _ in range(2))
    assert once == twice
    # The last cell is the pair of equals, so a dataset of nothing else comes first.
    assert once[0] == (("equal", 2.0),)


def test_datasets_are_made_as_they_are_asked_for():
    """Memory is that of a block of counts, however many datasets there are."""
    law = dataset_law(small_bandit(1, 1, 3), 11)
    assert len(law) == math.comb(17, 6)
    first = next(iter(dataset_law(small_bandit(1, 1, 3), 60, limit=10**9)))
    assert first[1].equal_pairs == 60.0
    peaks = []
    for stop in (5_000, len(law)):
        tracemalloc.start()
        for _ in itertools.islice(law, stop):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 2e7


def test_unmerged_pairs_of_equals_give_every_dataset_its_rows():
    bandit = small_bandit(2)
    law = dataset_law(bandit, 2, merge_equal=False)
    want = {}
    for chance, data in ordered_datasets(bandit, 2):
        rows = tuple(sorted(zip(data.prompt, data.chosen, data.rejected, strict=True)))
        want[rows] = want.get(rows, 0.0) + chance
    got = {}
    for p, data in law.datasets():
        assert len(data) == 2
        assert data.shape == bandit.shape
        rows = tuple(sorted(zip(data.prompt, data.chosen, data.rejected, strict=True)))
        assert rows not in got
        got[rows] = p
    assert got.keys() == want.keys()
    assert len(law) == len(got) > len(dataset_law(bandit, 2))
    for rows, p in got.items():
        assert p == pytest.approx(want[rows], rel=1e-12)
    # Merged or not, the fits see the same law.
    merged = {key_of(c): p for p, c in dataset_law(bandit, 2)}
    summed = {}
    for p, counts in law:
        summed[key_of(counts)] = summed.get(key_of(counts), 0.0) + p
    assert summed == pytest.approx(merged, rel=1e-12)


def test_merged_pairs_of_equals_have_no_rows():
    with pytest.raises(ValueError, match="merge_equal=False"):
        next(dataset_law(small_bandit(), 2).datasets())
    disjoint = ([[1.0, 0.0]] * 2, [[0.0, 1.0]] * 2)
    law = dataset_law(small_bandit(), 2, policies=disjoint)
    assert sum(1 for _ in law.datasets()) == len(law) == math.comb(5, 3)


def test_one_response_has_one_dataset():
    bandit = ContextualBandit([0.25, 0.75], [[1.0], [1.0]], [[0.0], [2.0]])
    [(probability, counts)] = dataset_law(bandit, 4)
    assert probability == pytest.approx(1.0, abs=1e-15)
    assert (counts.count.size, counts.equal_pairs, counts.shape) == (0, 4.0, (2, 1))
    assert len(dataset_law(bandit, 4, merge_equal=False)) == 5


def test_outcomes_without_probability_are_no_cells():
    """Prompts and responses that never occur, and comparisons that one side always wins."""
    reference = [[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]
    bandit = ContextualBandit([1.0, 0.0], reference, np.zeros((2, 3)))
    assert len(dataset_law(bandit, 5)) == math.comb(7, 2)
    sure = GeneralPreference(
        np.broadcast_to([[0.5, 1.0, 0.5], [0.0, 0.5, 0.5], [0.5, 0.5, 0.5]], (2, 3, 3))
    )
    law = dataset_law(bandit, 5, model=sure)
    assert len(law) == 6
    assert [(x, w, l) for x, w, l in zip(law.cells.prompt, law.cells.winner, law.cells.loser,
                                         strict=True)] == [(0, 0, 1)]  # fmt: skip


def test_sampled_datasets_follow_the_law():
    """Pearson's statistic over all datasets; false alarm probability 1e-6 at this fixed seed."""
    bandit = small_bandit(5, 1, 2)
    n, draws = 4, 20_000
    law = dataset_law(bandit, n)
    data = sample_preferences(bandit, n * draws, np.random.default_rng(11))
    # Row blocks of n are independent datasets.
    kind = np.where(data.chosen == data.rejected, 2, np.where(data.chosen == 0, 0, 1))
    blocks = kind.reshape(draws, n)
    seen = {}
    for block in blocks:
        key = tuple(np.bincount(block, minlength=3))
        seen[key] = seen.get(key, 0) + 1
    statistic, cells = 0.0, 0
    for probability, counts in law:
        table = {(w, l): c for w, l, c in zip(counts.winner, counts.loser, counts.count,
                                              strict=True)}  # fmt: skip
        key = (table.get((0, 1), 0), table.get((1, 0), 0), counts.equal_pairs)
        expected = draws * probability
        assert expected > 5
        statistic += (seen.get(key, 0) - expected) ** 2 / expected
        cells += 1
    assert cells == math.comb(6, 2)
    assert statistic < chi2.isf(1e-6, cells - 1)
    # The test can fail: another law is refused at the same level.
    other = [p for p, _ in dataset_law(small_bandit(6, 1, 2), n)]
    ours = np.array([p for p, _ in law])
    assert draws * ((ours - other) ** 2 / other).sum() > 2 * chi2.isf(1e-6, cells - 1)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_probability_that_no_maximum_likelihood_estimate_exists(n):
    """Two responses: the estimate exists when each has beaten the other."""
    bandit = small_bandit(7, 1, 2)
    p, r = bandit.reference[0], bandit.reward[0]
    met = 2 * p[0] * p[1]
    a, b = met * expit(r[0] - r[1]), met * expit(r[1] - r[0])
    want = (1 - a) ** n + (1 - b) ** n - (1 - a - b) ** n
    law = dataset_law(bandit, n)
    got = law.probability_of(lambda c: not mle_exists(dataset_of(c))[0])
    assert got == pytest.approx(want, rel=1e-12)
    # Without the first, the second route: brute force over three responses.
    if n == 2:
        three = small_bandit(8, 1, 3)
        missing = sum(p for p, d in ordered_datasets(three, 2) if not mle_exists(d)[0])
        law = dataset_law(three, 2)
        got = law.probability_of(lambda c: not mle_exists(dataset_of(c))[0])
        assert got == pytest.approx(missing, rel=1e-12)


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_proposition_a1_by_fitting_every_dataset(n):
    """The wrong reward's probability: the sum over rare pairs, and a fit to every dataset."""
    instance = proposition_a1(n)
    model = FiniteClass(instance.reward_class)

    def share_of_wrong(counts):
        tied = fit_reward(dataset_of(counts), model).tied
        return float(1 in tied) / len(tied)

    got = dataset_law(instance.bandit, n).expectation(share_of_wrong)
    law = wrong_reward_law(n)
    assert got == pytest.approx(law.probability, abs=1e-13)
    assert law.truncated == law.ambiguous == 0.0


# ---- expectations ---------------------------------------------------------------------------


def test_expectation_refuses_what_has_none():
    law = dataset_law(small_bandit(), 2)
    with pytest.raises(ValueError, match="must not return nan"):
        law.expectation(lambda c: np.nan)
    with pytest.raises(ValueError, match="must return real numbers"):
        law.expectation(lambda c: 1j)
    with pytest.raises(ValueError, match=r"returned shape \(\d+,\) after shape"):
        law.expectation(lambda c: c.count)
    with pytest.raises(ValueError, match="both inf and -inf"):
        law.expectation(lambda c: np.inf if c.equal_pairs else -np.inf)
    with pytest.raises(ZeroDivisionError):
        law.expectation(lambda c: 1 / 0)
    for bad in (1, np.array([True]), None):
        with pytest.raises(ValueError, match="must be True or False"):
            law.probability_of(lambda c, bad=bad: bad)


def test_infinite_values_have_an_infinite_expectation():
    law = dataset_law(small_bandit(), 2)
    got = law.expectation(lambda c: [np.inf if c.equal_pairs == 2 else 1.0, 1.0])
    assert got[0] == np.inf
    assert got[1] == pytest.approx(1.0, abs=1e-14)
    # Also where the probability of it underflows.
    total = CompensatedSum()
    total.add(1.0, 2.0)
    total.add(0.0, -np.inf)
    assert total.value() == -np.inf


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(0, 30))
def test_sums_do_not_lose_small_terms(values, power):
    weights = [10.0 ** -(i % (power + 1)) for i in range(len(values))]
    total = CompensatedSum()
    for weight, value in zip(weights, values, strict=True):
        total.add(weight, value)
    terms = [w * v for w, v in zip(weights, values, strict=True)]
    size = math.fsum(abs(t) for t in terms)
    assert abs(total.value() - math.fsum(terms)) <= 2.3e-16 * abs(math.fsum(terms)) + 1e-29 * size


def test_sums_keep_what_naive_addition_loses():
    total = CompensatedSum()
    for value in (1.0, 1e100, 1.0, -1e100):
        total.add(1.0, value)
    assert total.value() == 2.0
    with pytest.raises(ValueError, match="no terms"):
        CompensatedSum().value()


# ---- bad input ------------------------------------------------------------------------------


def test_refusal_names_the_count_the_limit_and_the_cure():
    bandit = small_bandit(0, 3, 4)
    cells = 3 * 12 + 1
    count = math.comb(12 + cells - 1, cells - 1)
    with pytest.raises(ValueError) as error:
        dataset_law(bandit, 12)
    message = str(error.value)
    assert f"there are {count} datasets of 12 rows with {cells} outcomes each" in message
    assert "limit = 1000000" in message
    assert "smaller n, fewer prompts or responses" in message
    assert "merge_equal" not in message
    with pytest.raises(ValueError, match="merge_equal=True, or raise limit"):
        dataset_law(bandit, 12, merge_equal=False)
    small = dataset_law(bandit, 2, limit=math.comb(cells + 1, 2))
    assert len(small) == math.comb(cells + 1, 2)
    with pytest.raises(ValueError, match=f"there are {len(small)} datasets"):
        dataset_law(bandit, 2, limit=len(small) - 1)


def test_huge_problems_are_refused_before_any_work():
    responses = 30_000
    reference = np.full((1, responses), 1 / responses)
    bandit = ContextualBandit([1.0], reference, np.zeros((1, responses)))
    with pytest.raises(ValueError, match=r"at least 449985000 triples .* limit = 1000000"):
        dataset_law(bandit, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bandit": "x"}, "bandit is a str; it must be a ContextualBandit"),
        ({"n": 0}, "n is 0; it must be at least 1"),
        ({"n": 2.5}, "n is 2.5; it must be an integer"),
        ({"model": "BT"}, "model is a str; it must be a PreferenceModel"),
        ({"model": BradleyTerry(np.zeros((2, 3)))}, r"model has shape \(2, 3\); the bandit has"),
        ({"policies": np.full((2, 2), 0.5)}, "policies is a ndarray; it must be a pair"),
        ({"policies": ([[0.5, 0.5]] * 2,)}, "policies is a tuple of length 1; it must be a pair"),
        ({"policies": ([[0.5, 0.5]] * 2, [[0.5, 0.4]] * 2)}, r"policies\[1\]\[0\] sums to 0\.9"),
        ({"policies": ([[0.5, 0.5]], [[0.5, 0.5]] * 2)}, r"policies\[0\] has shape \(1, 2\)"),
        ({"merge_equal": 1}, "merge_equal is 1; it must be True or False"),
        ({"limit": 0}, "limit is 0; it must be at least 1"),
    ],
)
def test_bad_arguments_of_a_dataset_law(arguments, message):
    given_ = {"bandit": small_bandit(), "n": 2} | arguments
    with pytest.raises(ValueError, match=message):
        dataset_law(given_.pop("bandit"), given_.pop("n"), **given_)


def test_policies_must_not_use_unavailable_responses():
    bandit = ContextualBandit(
        [1.0], [[1.0, 0.0]], [[0.0, 1.0]], available=np.array([[True, False]])
    )
    with pytest.raises(ValueError, match=r"policies\[1\]\[0, 1\] is 0\.25; a response that"):
        dataset_law(bandit, 2, policies=([[1.0, 0.0]], [[0.75, 0.25]]))


def test_rows_of_bad_counts():
    columns = (np.array([0]), np.array([1]), np.array([0]))

    def counts(count, equal):
        return PairCounts(*columns, np.array([count]), equal, (1, 2))

    with pytest.raises(ValueError, match="counts is a list; it must be a PairCounts"):
        dataset_of([1])
    with pytest.raises(ValueError, match=r"counts\.count\[0\] is 1\.5; .* whole number"):
        dataset_of(counts(1.5, 0.0))
    with pytest.raises(ValueError, match=r"counts\.equal_pairs\[0\] is 0\.5"):
        dataset_of(counts(1.0, 0.5))
    with pytest.raises(ValueError, match="counts has no rows"):
        dataset_of(PairCounts(*(np.zeros(0, int),) * 3, np.zeros(0), 0.0, (1, 2)))


def test_a_law_is_frozen_and_survives_copies():
    law = dataset_law(small_bandit(), 2)
    for twin in (law, copy.deepcopy(law), pickle.loads(pickle.dumps(law))):
        assert not twin.cells.probability.flags.writeable
        assert [p for p, _ in twin] == [p for p, _ in law]
    with pytest.raises(AttributeError):
        law.n = 3


def test_counts_agree_with_scipy():
    cells = [0.2, 0.3, 0.5]
    for probability, counts in multinomial_counts(cells, 6):
        assert probability == pytest.approx(multinomial.pmf(counts, 6, cells), rel=1e-10)
