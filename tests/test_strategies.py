"""Every draw is what its strategy promises, for every argument; bad arguments are refused."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

import rlhfsim as rs
from rlhfsim import checks
from rlhfsim import strategies as rst
from rlhfsim.divergences import Combination, ForwardKL, JensenShannon, SquaredHellinger

EPS = np.finfo(np.float64).eps
SHAPES = st.one_of(st.integers(1, 6), rst.shapes(), st.just((2, 1, 3)))


def sides_of(shape):
    return (shape,) if isinstance(shape, int) else shape


def assert_rows(rows, *, zeros, min_positive):
    """Rows are distributions to a few ulp, with zeros only where they are allowed."""
    rows = checks.as_distributions("rows", rows)
    for row in rows.reshape(-1, rows.shape[-1]):
        assert abs(math.fsum(row) - 1) <= 2 * row.size * EPS
        # Whole weights are divided by their sum, which may round the smallest one down.
        assert row[row > 0].min() >= min_positive * (1 - 4 * EPS)
        assert zeros or row.all()


# ---- what is drawn --------------------------------------------------------------------------


@given(st.data(), SHAPES, st.booleans(), st.sampled_from([1e-300, 1e-6, 0.01, 0.16]))
def test_policies_and_references_are_distributions(data, shape, zeros, min_positive):
    for strategy in (rst.policies, rst.references):
        drawn = data.draw(strategy(shape, allow_zeros=zeros, min_positive=min_positive))
        assert drawn.shape == sides_of(shape)
        assert_rows(drawn, zeros=zeros, min_positive=min_positive)


@given(st.data(), st.integers(1, 7), st.booleans())
def test_single_distributions(data, size, zeros):
    for strategy in (rst.distributions, rst.prompt_dists):
        for given_size in (size, st.just(size)):
            drawn = data.draw(strategy(given_size, allow_zeros=zeros))
            assert drawn.shape == (size,)
            assert_rows(drawn, zeros=zeros, min_positive=rst.SMALLEST_PROBABILITY)


@given(st.data(), st.sampled_from([1.0, 0.5, 1 / 3, 0.3]))
def test_shapes_left_out_make_room_for_the_smallest_probability(data, least):
    """At 1/3, say, three responses must be uniform, and four are impossible."""
    most = int(1 / least)
    bandit = data.draw(rst.bandits(min_positive=least))
    policy, reference = data.draw(rst.policy_pairs(min_positive=least))
    rows = [bandit.prompt_dist, bandit.reference, policy, reference]
    rows += [data.draw(rst.distributions(min_positive=least))]
    for array in rows:
        assert array.shape[-1] <= most
        assert_rows(array, zeros=True, min_positive=least)


@given(rst.references(3, min_positive=1 / 3))
def test_three_probabilities_of_at_least_a_third(reference):
    assert (reference == 1 / 3).all()


@given(st.data(), SHAPES, st.booleans(), st.booleans(), st.sampled_from([1e-300, 0.02, 0.16]))
def test_policy_pairs(data, shape, policy_zeros, reference_zeros, min_positive):
    continuous = data.draw(st.booleans()) if policy_zeros or not reference_zeros else False
    policy, reference = data.draw(
        rst.policy_pairs(
            shape,
            absolutely_continuous=continuous,
            policy_zeros=policy_zeros,
            reference_zeros=reference_zeros,
            min_positive=min_positive,
        )
    )
    assert policy.shape == reference.shape == sides_of(shape)
    assert not np.shares_memory(policy, reference)
    assert_rows(policy, zeros=policy_zeros, min_positive=min_positive)
    assert_rows(reference, zeros=reference_zeros, min_positive=min_positive)
    if continuous:
        assert (policy[reference == 0] == 0).all()


@given(rst.policy_pairs())
def test_by_default_the_policy_is_absolutely_continuous(pair):
    policy, reference = pair
    assert reference.all()
    assert np.isfinite(rs.KL().per_prompt(policy, reference)).all()


bounds = st.one_of(
    st.just((-10.0, 10.0)), st.just((0.25, 0.75)), st.just((5.0, 8.0)), st.just((2.0, 2.0))
)


@given(st.data(), SHAPES, bounds)
def test_rewards_stay_in_range(data, shape, ends):
    reward = data.draw(rst.rewards(shape, min_value=ends[0], max_value=ends[1]))
    assert reward.shape == sides_of(shape)
    assert (ends[0] <= reward).all()
    assert (reward <= ends[1]).all()


@given(st.data(), rst.shapes(), *[st.booleans()] * 4)
def test_bandits(data, shape, reference_zeros, prompt_zeros, proxy, unavailable):
    bandit = data.draw(
        rst.bandits(
            shape,
            min_reward=0,
            max_reward=1,
            reference_zeros=reference_zeros,
            prompt_zeros=prompt_zeros,
            proxy_reward=proxy,
            allow_unavailable=unavailable,
        )
    )
    assert bandit.shape == shape
    masked = bandit.available is not None
    assert unavailable or not masked
    zeros = reference_zeros or masked
    assert_rows(bandit.reference, zeros=zeros, min_positive=rst.SMALLEST_PROBABILITY)
    assert_rows(bandit.prompt_dist, zeros=prompt_zeros, min_positive=rst.SMALLEST_PROBABILITY)
    assert (bandit.proxy_reward is not None) == proxy
    for reward in [bandit.reward] + [bandit.proxy_reward] * proxy:
        assert (reward >= 0).all()
        assert (reward <= 1).all()
    if masked and not reference_zeros:
        assert (bandit.available == (bandit.reference > 0)).all()


@given(st.data(), rst.shapes(min_responses=2), st.integers(1, 4), st.booleans())
def test_preference_data(data, shape, least, equal):
    most = data.draw(st.one_of(st.none(), st.integers(least, 6)))
    drawn = data.draw(rst.preference_data(shape, min_size=least, max_size=most, allow_equal=equal))
    assert drawn.shape == shape
    assert least <= len(drawn) <= (most or math.inf)
    assert equal or (drawn.chosen != drawn.rejected).all()


@given(rst.preference_data(allow_equal=False))
def test_different_responses_need_two(data):
    assert data.n_responses >= 2
    assert (data.chosen != data.rejected).all()


NAMES = {
    "KL": rs.KL,
    "ChiSquared": rs.ChiSquared,
    "ForwardKL": ForwardKL,
    "SquaredHellinger": SquaredHellinger,
    "JensenShannon": JensenShannon,
    "AlphaDivergence": rs.AlphaDivergence,
}


@given(st.data(), st.booleans(), st.sampled_from([(-1.0, 3.0), (0.6, 0.7), (2.0, 5.0)]))
def test_divergences_are_divergences_and_print_as_themselves(data, combinations, orders):
    drawn = data.draw(
        rst.divergences(min_alpha=orders[0], max_alpha=orders[1], allow_combinations=combinations)
    )
    assert combinations or not isinstance(drawn, Combination)
    assert eval(repr(drawn), NAMES) == drawn
    assert drawn.generator(1.0) == 0
    assert drawn([0.5, 0.5], [0.25, 0.75]) > 0
    for _, base in drawn.terms():
        if isinstance(base, rs.AlphaDivergence):
            assert orders[0] <= base.alpha <= orders[1]


@given(st.data(), st.sampled_from([(1e-3, 1e3), (0.02, 0.07), (3.0, 3.0), (1e-200, 1e200)]))
def test_betas_stay_in_range(data, ends):
    beta = data.draw(rst.betas(min_value=ends[0], max_value=ends[1]))
    assert isinstance(beta, float)
    assert ends[0] <= beta <= ends[1]


@given(st.data(), st.booleans())
def test_every_regularized_problem_is_solved(data, zeros):
    problem = data.draw(rst.regularized_problems(reference_zeros=zeros))
    assert_rows(problem.reference, zeros=zeros, min_positive=rst.SMALLEST_PROBABILITY)
    solution = rs.solve(*problem)
    assert solution.policy.shape == problem.reward.shape
    checks.as_distributions("policy", solution.policy)


@given(
    rst.regularized_problems(
        2, divergences=st.just(rs.KL()), betas=st.just(0.5), min_reward=0, max_reward=1
    )
)
def test_parts_of_a_problem_may_be_given(problem):
    assert problem.divergence == rs.KL()
    assert problem.beta == 0.5
    logits = np.log(problem.reference) + problem.reward / 0.5
    expected = np.exp(logits - np.logaddexp.reduce(logits))
    np.testing.assert_allclose(rs.solve(*problem).policy, expected, rtol=1e-12)


@given(st.data())
def test_shapes_keep_to_their_limits(data):
    assert data.draw(rst.shapes(max_prompts=1, min_responses=2, max_responses=2)) == (1, 2)
    prompts, responses = data.draw(rst.shapes(min_prompts=4, min_responses=3))
    assert 4 <= prompts <= 6
    assert 3 <= responses <= 7


@settings(max_examples=10)
@given(rst.policies((20, 50)))
def test_large_shapes_are_no_trouble(policy):
    assert_rows(policy, zeros=True, min_positive=rst.SMALLEST_PROBABILITY)


# ---- Hypothesis' conventions ----------------------------------------------------------------


REFUSED = {
    "shape=0": lambda: rst.policies(0),
    "shape=(2, 0)": lambda: rst.policies((2, 0)),
    "shape=()": lambda: rst.policies(()),
    "shape=True": lambda: rst.policies(True),
    "shape=(2, 2.0)": lambda: rst.rewards((2, 2.0)),
    "shape=-1": lambda: rst.references(st.just(-1)),
    "shape=(3,) must be a pair": lambda: rst.bandits(3),
    "shape=(1, 1) must have at least 2": lambda: rst.preference_data((1, 1), allow_equal=False),
    "size=0": lambda: rst.distributions(0),
    "n_prompts=1.5": lambda: rst.prompt_dists(1.5),
    "allow_zeros=1 ": lambda: rst.policies(2, allow_zeros=1),
    "min_positive=0 ": lambda: rst.policies(2, min_positive=0),
    "min_positive=nan": lambda: rst.policies(2, min_positive=math.nan),
    "min_positive=0.6 must be at most 1/2": lambda: rst.policies(2, min_positive=0.6),
    "policy_zeros=False contradicts": lambda: rst.policy_pairs(
        policy_zeros=False, reference_zeros=True
    ),
    "reference_zeros='no'": lambda: rst.policy_pairs(reference_zeros="no"),
    "min_value=inf": lambda: rst.rewards(min_value=math.inf),
    "min_value=2 must be at most max_value=1": lambda: rst.rewards(min_value=2, max_value=1),
    "min_reward=2 must be at most max_reward=1": lambda: rst.bandits(min_reward=2, max_reward=1),
    "proxy_reward=None": lambda: rst.bandits(proxy_reward=None),
    "min_size=0": lambda: rst.preference_data(min_size=0),
    "min_size=3 must be at most max_size=2": lambda: rst.preference_data(min_size=3, max_size=2),
    "min_alpha=3 must": lambda: rst.divergences(min_alpha=3, max_alpha=2),
    "min_value=0 must be positive": lambda: rst.betas(min_value=0),
    "betas=1.0 must be a strategy": lambda: rst.regularized_problems(betas=1.0),
    "min_prompts=0": lambda: rst.shapes(min_prompts=0),
    "min_responses=3 must": lambda: rst.shapes(min_responses=3, max_responses=2),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_arguments_are_refused(message):
    strategy = REFUSED[message]()  # as in Hypothesis, what is wrong shows at the first draw
    with pytest.raises(InvalidArgument) as caught:
        find(strategy, lambda _: True, settings=settings(database=None))
    assert message in str(caught.value)


def test_strategies_print_as_they_were_called():
    assert repr(rst.policies((1, 2), allow_zeros=False)) == (
        "policies(shape=(1, 2), allow_zeros=False)"
    )
    assert repr(rst.bandits()) == "bandits()"
    assert repr(rst.betas(max_value=2.0)) == "betas(max_value=2.0)"


def test_every_name_is_a_documented_strategy():
    for name in set(rst.__all__) - {"SMALLEST_PROBABILITY", "RegularizedProblem"}:
        function = getattr(rst, name)
        assert function.__doc__.startswith("Return a strategy for ")
        assert isinstance(function(), st.SearchStrategy)
        assert function.__name__ == name


def test_draws_share_no_memory():
    @settings(max_examples=20, suppress_health_check=list(HealthCheck))
    @given(st.tuples(rst.policies((2, 3)), rst.policies((2, 3))))
    def overwrite(two):
        before = two[1].copy()
        two[0][...] = -1.0
        assert (two[1] == before).all()

    overwrite()


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip(), done.stderr


def test_without_hypothesis_only_the_strategies_are_missing():
    block = "import sys; sys.modules['hypothesis'] = None; "
    printed, error = run(block + "import rlhfsim; print(rlhfsim.KL()); import rlhfsim.strategies")
    assert printed == "KL()"
    assert "rlhfsim.strategies needs hypothesis" in error
    assert "pip install hypothesis" in error
