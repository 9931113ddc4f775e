"""Claims on several steps: they hold and are tight, and their sides by a second route."""

import itertools

import numpy as np
import pytest
from claim_checks import assert_family, assert_holds, assert_refuted, assert_tight
from scipy.stats import binom

from rlhfsim import KL, ChiSquared, ContextualBandit, solve
from rlhfsim.claims import Claim
from rlhfsim.claims.demonstration_rl import (
    DEMONSTRATION_RL_CLAIMS,
    TokenExperts,
    expected_token_kl,
)
from rlhfsim.claims.processes import Processes, Repeated, Tokens
from rlhfsim.claims.steps import STEP_CLAIMS
from rlhfsim.data import DemonstrationData
from rlhfsim.learners.steps import clone_tokens
from rlhfsim.mdp import (
    FiniteHorizonMDP,
    PrefixTree,
    TokenTree,
    sequence_policy,
    solve_steps,
    step_divergence,
    trajectory_kl,
    value,
)

CLAIMS = (*STEP_CLAIMS, *DEMONSTRATION_RL_CLAIMS)

#: How near the witnesses come where the supremum is not attained.
LEAST = {"distance of a clone by token": 0.94, "regret around a clone of trajectories": 0.84}


def by_name(name):
    return next(c for c in CLAIMS if c.name == name)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.name)
def test_claims_hold_and_are_tight(claim):
    if not isinstance(claim, Claim):
        assert claim.check(0, 3).passed
    elif claim.kind == "false":
        assert_refuted(claim)
    else:
        assert_holds(claim)
        assert_tight(claim, LEAST.get(claim.name, 0.999))


def test_families_are_generic_structured_and_adversarial():
    assert_family(Tokens, {"reference", "policy"})


# ---- batches are their processes, one by one -----------------------------------------------------


def test_batches_of_processes_are_the_processes():
    x = Processes.sample(20, np.random.default_rng(0))
    process = x.process()
    values, best = value(process, x.levels(x.policy)), solve_steps(process, ChiSquared(), 0.7)
    spent = step_divergence(process, x.levels(x.policy), ChiSquared())
    for k in range(20):
        mdp = FiniteHorizonMDP(x.initial[k], x.transition[k], x.reward[k], x.reference[k])
        assert float(value(mdp, x.policy[k])) == pytest.approx(values[k], abs=1e-12)
        alone = solve_steps(mdp, ChiSquared(), 0.7)
        assert float(alone.objective) == pytest.approx(best.objective[k], abs=1e-11)
        cost = step_divergence(mdp, x.policy[k], ChiSquared())
        assert float(cost) == pytest.approx(spent[k], rel=1e-12)


def test_batches_of_tokens_are_token_trees():
    x = Tokens.sample(9, np.random.default_rng(1))
    best = solve_steps(x.process(), ChiSquared(), 0.5)
    for k in range(9):
        bandit = ContextualBandit([1.0], x.reference[k : k + 1], x.reward[k : k + 1])
        tree = TokenTree.from_bandit(bandit, x.prefixes())
        alone = solve_steps(tree, ChiSquared(), 0.5)
        assert float(alone.objective) == pytest.approx(best.objective[k], abs=1e-12)
        kl = KL()(x.policy[k], x.reference[k])
        levels = tuple(level[k : k + 1] for level in x.split(x.policy))
        assert float(trajectory_kl(tree, levels)) == pytest.approx(float(kl), abs=1e-12)


def test_equal_steps_written_out():
    x = Repeated(np.array([[0.3, 0.7]]), np.array([[0.6, 0.4]]), np.array([3.0]))
    pi, p = (np.prod(list(itertools.product(row[0], repeat=3)), axis=1)
             for row in (x.policy, x.reference))  # fmt: skip
    claim = by_name("concentrability multiplies over steps")
    assert claim.left(x)[0] == pytest.approx((pi**2 / p).sum(), rel=1e-13)
    claim = by_name("chi-squared of equal steps")
    assert claim.right(x)[0] == pytest.approx(float(ChiSquared()(pi, p)), rel=1e-12)


# ---- the witnesses of what is false --------------------------------------------------------------


def test_chi_squared_has_no_chain_rule():
    """Half of a policy takes a detour that the reference hardly takes, and so hardly counts it."""
    claim = by_name("chi-squared by token below that of responses")
    x = claim.witness()
    first, second = np.array([0.98, 0.02]), 1e-4
    chi = 0.5 * ((0.25 / first).sum() - 1.0)
    detour = 0.5 * (1.0 / second - 1.0)
    assert claim.left(x)[0] == pytest.approx(chi + 0.5 * detour, rel=1e-9)
    # C = sum pi^2/p: the detour counts by pi/p = 0.5/0.98 of it.
    assert claim.right(x)[0] == pytest.approx(chi + 0.25 / 0.98 * detour, rel=1e-9)


def test_the_sharp_bound_fails_where_ratios_multiply():
    claim = by_name("the sharp bound with chi-squared by token")
    x = claim.witness()
    beta, rare = 0.1, 0.05
    # At the second token w = 1 + (1 - rare)/beta, at the first 1 + V (1 - rare)/beta.
    second = 1.0 + (1.0 - rare) / beta
    v = rare * second - beta * 0.5 * rare * (1.0 - rare) / beta**2
    first = 1.0 + v * (1.0 - rare) / beta
    assert claim.left(x)[0] == pytest.approx(rare**2 * (first * second - 1.0), rel=1e-12)
    # Over responses the ratio is 1 + (1 - rare^2)/beta, and the bound holds.
    best = solve(x.reward_hat, x.reference, ChiSquared(), beta).policy
    assert best[0, 0] == pytest.approx(rare**2 * (1.0 + (1.0 - rare**2) / beta), rel=1e-12)
    regret = float(((x.reference - best) * x.reward).sum())
    assert regret <= claim.right(x)[0] * (1.0 + 1e-12)
    assert regret > 0.9 * claim.right(x)[0]


def test_coverage_by_token_is_exponential_and_by_response_linear():
    """Sums of equal rewards along H tokens, beta fixed."""
    claim = by_name("coverage of chi-squared by token is exponential in the length")
    for h in (2, 4, 8):
        ones = np.array([sum(word) for word in itertools.product([1, 0], repeat=h)], dtype=float)
        half = np.full(2**h, 0.5**h)
        by_response = solve(ones, half, ChiSquared(), 2.0).policy
        assert (by_response**2 / half).sum() <= 1.0 + h / 2.0
        bandit = ContextualBandit([1.0], [half], [ones])
        tree = TokenTree.from_bandit(bandit, PrefixTree.full(2, h))
        best = sequence_policy(tree.prefixes, solve_steps(tree, ChiSquared(), 2.0).policy)[0]
        covered = np.log((best**2 / half).sum())
        assert claim.measure(h, None) == pytest.approx(covered, rel=1e-10)


# ---- clones --------------------------------------------------------------------------------------


def test_expected_distances_by_monte_carlo():
    """Many sets of demonstrations; 4.5 standard errors."""
    expert, n, tree = np.array([0.5, 0.2, 0.3, 0.0]), 6, PrefixTree.full(2, 2)
    rng, found = np.random.default_rng(2), []
    for _ in range(800):
        shown = DemonstrationData(np.zeros(n, dtype=int), rng.choice(4, n, p=expert), (1, 4))
        clone = sequence_policy(tree, clone_tokens(shown, tree))[0]
        found.append(float(KL()(expert, clone)))
    exact = expected_token_kl(expert[None], np.array([float(n)]))[0]
    assert abs(np.mean(found) - exact) < 4.5 * np.std(found) / np.sqrt(len(found))


def test_a_clone_of_one_response_in_closed_form():
    for y, n in ((0, 0), (3, 5), (7, 40)):
        x = TokenExperts(np.eye(8)[y : y + 1], np.array([float(n)]))
        by_token, by_response = (
            getattr(by_name("a clone by token of one response is nearer"), side)(x)[0]
            for side in ("left", "right")
        )
        assert by_token == pytest.approx(3 * np.log((n + 2) / (n + 1)), rel=1e-12)
        assert by_response == pytest.approx(np.log((n + 8) / (n + 1)), rel=1e-12)


def test_the_constant_of_the_clone_is_a_mean_over_visits():
    """`E[1/(m + 1)] = (1 - (1 - d)^(N + 1))/((N + 1) d)`, m binomial: the step of the proof."""
    for d, n in ((0.3, 5), (1.0, 4), (0.01, 60)):
        m = np.arange(n + 1)
        mean = (binom.pmf(m, n, d) / (m + 1.0)).sum()
        assert mean == pytest.approx((1.0 - (1.0 - d) ** (n + 1)) / ((n + 1) * d), rel=1e-10)
