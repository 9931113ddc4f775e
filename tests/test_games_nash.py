"""Regularized equilibria and iterations towards them."""

from fractions import Fraction

import numpy as np
import pytest
from game_problems import games
from scipy.optimize import root

from rlhfsim import (
    KL,
    AlphaDivergence,
    BradleyTerry,
    ChiSquared,
    ForwardKL,
    JensenShannon,
    SquaredHellinger,
    cyclic_preference,
    random_preference,
    solve,
)
from rlhfsim.games import (
    GameError,
    advantage,
    duality_gap,
    iterations,
    iterative_chi_po,
    minimax_winner,
    nash_md,
    regularized_gap,
    sampled_self_play,
    search,
    self_play,
    solve_nash,
)
from rlhfsim.games.iterations import default_step

DIVERGENCES = (KL(), ChiSquared(), ChiSquared() + KL(), ChiSquared() + 0.1 * KL())
SLOW = (JensenShannon(), ForwardKL(), SquaredHellinger())


def problem(n, size, seed, kind="generic"):
    rng = np.random.default_rng(seed)
    return games(kind, n, size, rng), rng.dirichlet(np.ones(size), n)


# ---- equilibria ----------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", [*DIVERGENCES, *SLOW], ids=repr)
@pytest.mark.parametrize("size", [1, 3, 8])
def test_equilibria_are_certified_and_answer_themselves(divergence, size):
    l, p = problem(6, size, size)
    for beta in (5.0, 0.2) if divergence in SLOW else (50.0, 1.0, 0.1, 1e-3):
        solution = solve_nash(l, p, divergence, beta)
        assert (np.abs(solution.gap) < 1e-14).all()
        np.testing.assert_array_equal(
            solution.gap, regularized_gap(solution.policy, l, p, divergence, beta)
        )
        against = np.einsum("xyz,xz->xy", l, solution.policy)
        answer = solve(against, p, divergence, beta).policy
        np.testing.assert_allclose(solution.policy, answer, atol=1e-12)
        np.testing.assert_array_equal(solution.support, solution.policy > 0)


def test_the_equation_of_kl_is_solved_by_a_general_root_finder_too():
    l, p = problem(4, 5, 1)
    beta = 0.3
    found = solve_nash(l, p, KL(), beta).policy
    for x in range(4):

        def equation(scores, x=x):
            weight = p[x] * np.exp(scores)
            return scores - l[x] @ (weight / weight.sum()) / beta

        scores = root(equation, np.zeros(5), tol=1e-13).x
        weight = p[x] * np.exp(scores)
        np.testing.assert_allclose(found[x], weight / weight.sum(), atol=1e-11)


def test_chi_squared_conditions_hold_with_clipping():
    """`l pi - beta pi/p` is the same where pi has mass, and at most that elsewhere."""
    l, p = problem(20, 6, 2)
    beta = 0.05
    pi = solve_nash(l, p, ChiSquared(), beta).policy
    slope = np.einsum("xyz,xz->xy", l, pi) - beta * pi / p
    level = np.where(pi > 0, slope, -np.inf).max(axis=1, keepdims=True)
    assert (pi == 0).any()
    np.testing.assert_allclose(np.where(pi > 0, slope, level) - level, 0.0, atol=1e-13)
    assert (slope <= level + 1e-13).all()


def test_the_regularized_gap_is_that_of_the_best_of_many_deviations():
    rng = np.random.default_rng(3)
    l, p = problem(1, 3, 3)
    pi = rng.dirichlet(np.ones(3), 1)
    for divergence in (KL(), ChiSquared()):
        beta = 0.7
        gap = regularized_gap(pi, l, p, divergence, beta)[0]
        others = rng.dirichlet(np.ones(3), 200_000)
        cost = beta * divergence.per_prompt(others, p)
        own = beta * divergence.per_prompt(pi, p)[0]
        first = (others @ l[0] @ pi[0] - cost + own).max()
        second = (pi[0] @ l[0] @ others.T + cost - own).min()
        assert gap >= first - second
        assert gap == pytest.approx(first - second, rel=1e-3)
    assert regularized_gap([[1, 0, 0]], l, [[0, 0.5, 0.5]], KL(), 1.0)[0] == np.inf


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
def test_grids_batches_and_starts_change_nothing(divergence):
    l, p = problem(5, 4, 4)
    betas = np.array([2.0, 0.2, 0.02])
    grid = solve_nash(l, p, divergence, betas[:, None])
    assert grid.policy.shape == (3, 5, 4)
    for k, beta in enumerate(betas):
        np.testing.assert_array_equal(solve_nash(l, p, divergence, beta).policy, grid.policy[k])
    alone = solve_nash(l[2], p[2], divergence, 0.2)
    assert alone.policy.shape == (4,)
    np.testing.assert_array_equal(alone.policy, grid.policy[1, 2])
    start = np.einsum("xyz,xz->xy", l, grid.policy[1]) / 0.2
    for guess in (start, 0.5 * start):
        warm = solve_nash(l, p, divergence, 0.2, start=guess)
        np.testing.assert_allclose(warm.policy, grid.policy[1], atol=1e-12)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
def test_starts_far_away_change_nothing(divergence):
    l, p = problem(10, 5, 5)
    cold = solve_nash(l, p, divergence, 0.01)
    far = 1000.0 * np.random.default_rng(6).standard_normal(p.shape)
    warm = solve_nash(l, p, divergence, 0.01, start=far)
    np.testing.assert_allclose(warm.policy, cold.policy, atol=1e-12)


@pytest.mark.parametrize("kind", ["generic", "ties"])
def test_small_beta_gives_the_winner_nearest_to_the_reference(kind):
    l, p = problem(12, 5, 5, kind)
    p = 0.5 * p + 0.1
    for divergence in DIVERGENCES:
        policy = solve_nash(l, p, divergence, 1e-7).policy
        assert (duality_gap(policy, l) < 1e-5).all()
        winner = minimax_winner(l).policy
        nearest = divergence.per_prompt(policy, p)
        assert (nearest <= divergence.per_prompt(winner, p) + 1e-12).all()
        if kind == "generic":
            # The winner is approached linearly; without the linear part, to rounding.
            half = solve_nash(l, p, divergence, 0.5e-7).policy
            np.testing.assert_allclose(policy, winner, atol=1e-4)
            np.testing.assert_allclose(2.0 * half - policy, winner, atol=1e-11)
    uniform = np.full((12, 5), 0.2)
    spread = solve_nash(l, uniform, ChiSquared(), 1e-7).policy
    np.testing.assert_allclose(spread, minimax_winner(l).policy, atol=1e-3)


def test_large_beta_gives_the_reference():
    l, p = problem(5, 5, 6)
    for divergence in DIVERGENCES:
        for beta in (1e3, 1e8):
            policy = solve_nash(l, p, divergence, beta).policy
            first = p * (1 + np.einsum("xyz,xz->xy", l, p) / beta)
            scale = 2.0 if divergence == ChiSquared() + KL() else 1.0
            if divergence in (KL(), ChiSquared()):
                np.testing.assert_allclose(policy, first, atol=5 / beta**2 + 1e-15)
            np.testing.assert_allclose(policy, p, atol=scale / beta)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
def test_equilibria_at_a_huge_beta_are_certified(divergence):
    """Rounding makes eps beta of penalties near 0, and that is no failure."""
    l, p = problem(10, 5, 5)
    solution = solve_nash(l, p, divergence, 1e20)
    np.testing.assert_allclose(solution.policy, p, atol=1e-15)


def test_two_responses_are_a_bandit():
    """With two responses `l(y, pi)` differs by the same number whatever pi is."""
    rng = np.random.default_rng(7)
    reward = rng.standard_normal((6, 2))
    p = rng.dirichlet(np.ones(2), 6)
    gain = np.tanh(0.5 * (reward[:, :1] - reward[:, 1:]))
    fixed = np.concatenate([gain, np.zeros((6, 1))], axis=1)
    for divergence in DIVERGENCES:
        found = solve_nash(BradleyTerry(reward), p, divergence, 0.4).policy
        np.testing.assert_allclose(found, solve(fixed, p, divergence, 0.4).policy, atol=1e-14)


def test_responses_of_no_mass_are_not_played():
    l, _ = problem(4, 5, 8)
    p = np.array([[0.5, 0.0, 0.3, 0.2, 0.0]] * 4)
    kept = [0, 2, 3]
    for divergence in DIVERGENCES:
        policy = solve_nash(l, p, divergence, 0.1).policy
        smaller = solve_nash(l[:, kept][:, :, kept], p[:, kept], divergence, 0.1).policy
        assert not policy[:, [1, 4]].any()
        np.testing.assert_allclose(policy[:, kept], smaller, atol=1e-13)


CYCLE = np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])
LOSES = np.array([[0.0, -1.0], [1.0, 0.0]])
LOSES3 = np.array([[0.0, -1.0, -1.0], [1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])


def test_weights_beyond_the_floats_end_in_equilibria():
    """Where f'' is tiny (`p / f'' = pi^2 / p` of forward KL) p of 1e-300 makes 1e300."""
    beta = 1e-4
    found = solve_nash(LOSES, [1.0, 1e-300], ForwardKL(), beta)
    assert abs(found.gap) <= found.tolerance < 1e-13
    # In `max pi(1) - beta KL(p || pi)` what is left for 0, by hand, is beta.
    np.testing.assert_allclose(found.policy, [beta, 1.0 - beta], rtol=1e-12)
    found = solve_nash(CYCLE, [1e-300, 0.5, 0.5], AlphaDivergence(0.3), beta)
    assert abs(found.gap) <= found.tolerance < 1e-13
    np.testing.assert_allclose(found.policy, 1 / 3, atol=1e-3)


def test_steps_that_are_no_numbers_end_the_search(monkeypatch):
    """A row whose systems are singular fails by name; the others of the batch do not."""
    real = search.Search._step

    def spoilt(search, scores, t, rows):
        step = real(search, scores, t, rows)
        step[rows == 1] = np.nan
        return step

    monkeypatch.setattr(search.Search, "_step", spoilt)
    with pytest.raises(GameError, match=r"prompt \[1\]: duality gap") as caught:
        solve_nash(np.stack([CYCLE, LOSES3, CYCLE]), [0.2, 0.3, 0.5], KL(), 0.1)
    np.testing.assert_array_equal(caught.value.solution.policy[0], caught.value.solution.policy[2])


def test_singular_systems_have_no_solution_and_spoil_no_other():
    systems = np.stack([np.eye(2), np.ones((2, 2)), 2.0 * np.eye(2)])
    found = search._solved(systems, np.ones((3, 2)))
    np.testing.assert_array_equal(found, [[1, 1], [np.nan, np.nan], [0.5, 0.5]])


def test_the_search_through_beta_is_bounded(monkeypatch):
    tried = []
    monkeypatch.setattr(
        search.Search,
        "_improve",
        lambda search, scores, t, rows, steps: (tried.append(1) or scores, np.full(len(t), np.inf)),
    )
    monkeypatch.setattr(search, "_MOST_MOVES", 3)
    with pytest.raises(GameError, match="duality gap"):
        solve_nash(CYCLE, [0.2, 0.3, 0.5], KL(), 0.1)
    assert len(tried) == 2 * 3


def test_a_covariance_with_one_weight_of_nearly_all():
    """`l H` against rational arithmetic."""
    rng = np.random.default_rng(22)
    for weight in ([1e30, 2.0, 3.0], [1.0, 1e-25, 1e-30], [0.0, 0.0, 0.0], [0.2, 0.5, 0.3]):
        l = games("generic", 1, 3, rng)
        w, g = [Fraction(v) for v in weight], [[Fraction(v) for v in row] for row in l[0].tolist()]
        total = sum(w) or 1
        exact = [
            [float(w[j] * (row[j] - sum(a * b for a, b in zip(row, w, strict=True)) / total))
             for j in range(3)] for row in g
        ]  # fmt: skip
        found = search._against_covariance(l, np.array([weight]))[0]
        np.testing.assert_allclose(found, exact, rtol=1e-13)


UNIFORM = np.full(3, 1 / 3)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: solve_nash(g, UNIFORM, KL(), 0.0), "beta is 0.0"),
        (lambda g: solve_nash(g, UNIFORM, KL(), np.inf), "beta is inf"),
        (lambda g: solve_nash(g, UNIFORM, "KL", 1.0), "divergence is 'KL'"),
        (lambda g: solve_nash(g, [0.5, 0.5], KL(), 1.0), "same responses"),
        (lambda g: solve_nash(g, [0.5, 0.4, 0.2], KL(), 1.0), "reference sums to 1.1"),
        (lambda g: solve_nash(g, [0.5, 0.5, 0.0], ForwardKL(), 1.0), r"reference\[2\] is 0"),
        (lambda g: solve_nash(g, UNIFORM, KL(), 1.0, start=np.zeros(4)), "start has shape"),
        (lambda g: solve_nash(g, UNIFORM, KL(), 1.0, start=np.nan), "start is nan"),
        (lambda g: solve_nash(g, UNIFORM, KL(), []), r"beta has shape \(0,\)"),
        (lambda g: solve_nash(g, UNIFORM, KL(), 1e-200), "beta is too small"),
        (lambda g: nash_md(g, UNIFORM, [], 2), r"beta has shape \(0,\)"),
        (lambda g: self_play(g, UNIFORM, 2, step=[]), r"step has shape \(0,\)"),
        (lambda g: self_play(g, [UNIFORM] * 3, 2, step=[1, 1]), r"step \(2,\)"),
        (lambda g: nash_md(g, [UNIFORM] * 3, [1, 1], 2), r"beta \(2,\)"),
        (lambda g: nash_md(g, [UNIFORM] * 3, 1.0, 2, step=[0.1, 0.1]), r"step \(2,\)"),
        (lambda g: sampled_self_play(g, [UNIFORM] * 3, 2, 1, RNG, step=[1, 1]), r"step \(2,\)"),
        (lambda g: nash_md(g, UNIFORM, 1.0, 0), "iterations is 0"),
        (lambda g: nash_md(g, UNIFORM, 1.0, 5, step=1.5), "step is 1.5; it must be at most"),
        (lambda g: nash_md(g, UNIFORM, -1.0, 5), "beta is -1.0"),
        (lambda g: self_play(g, UNIFORM, 5, step=0.0), "step is 0.0"),
        (lambda g: sampled_self_play(g, [UNIFORM], 5, 0, RNG), "comparisons is 0"),
        (lambda g: sampled_self_play(g, [UNIFORM], 5, 1, 7), "rng is a int"),
        (lambda g: sampled_self_play([[0.0]], [[1.0]], 5, 1, RNG), "model is a list"),
        (lambda g: iterative_chi_po(g, UNIFORM, 1.0, 1.5), "iterations is 1.5"),
        (lambda g: iterative_chi_po(g, UNIFORM, 1.0, 2, divergence=1), "divergence is 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(cyclic_preference(3))


# ---- iterations ----------------------------------------------------------------------------------


def test_self_play_is_multiplicative_weights():
    l, p = problem(3, 4, 9)
    trace = self_play(l, p, 30, step=0.4)
    policies, policy = [], p
    for _ in range(31):
        policies.append(policy)
        weight = policy * np.exp(0.4 * np.einsum("xyz,xz->xy", l, policy))
        policy = weight / weight.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(trace.policy, policies[30], atol=1e-13)
    np.testing.assert_allclose(trace.average, np.mean(policies[:30], axis=0), atol=1e-13)
    assert trace.iterations == 30
    assert trace.regularized_gap is None
    for t in (0, 7, 30):
        np.testing.assert_allclose(trace.gap[t], duality_gap(policies[t], l), atol=1e-13)
        average = np.mean(policies[: t + 1], axis=0)
        np.testing.assert_allclose(trace.average_gap[t], duality_gap(average, l), atol=1e-13)
    assert default_step(4, 30) == pytest.approx(np.sqrt(6 * np.log(4) / 30))


def test_sampled_self_play_has_the_right_mean_and_the_exact_gaps():
    """One step from the reference: scores are unbiased, with the variance of K labels."""
    model = random_preference(np.random.default_rng(20), (2, 3))
    p = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    rng = np.random.default_rng(21)
    runs, most = 4000, 5
    scores = np.empty((runs, 2, 3))
    for k in range(runs):
        policy = sampled_self_play(model, p, 1, most, rng, step=0.7).policy
        scores[k] = np.log(policy / p) / 0.7
    scores -= scores[..., :1]
    against = np.einsum("xyz,xz->xy", model.margin_tensor(), p)
    # Means within 5 standard errors: a chance of 1e-5 in all.
    variance = (1.0 - against**2) / most
    error = np.sqrt((variance + variance[:, :1]) / runs)
    assert (
        np.abs(scores.mean(axis=0) - (against - against[:, :1]))[:, 1:] < 5 * error[:, 1:]
    ).all()
    np.testing.assert_allclose(
        scores.var(axis=0)[:, 1:], (variance + variance[:, :1])[:, 1:], rtol=0.15
    )
    trace = sampled_self_play(model, p, 30, 4, rng)
    np.testing.assert_array_equal(trace.gap[-1], duality_gap(trace.policy, model))
    many = sampled_self_play(model, p, 30, 10**7, rng).policy
    np.testing.assert_allclose(many, self_play(model, p, 30).policy, atol=0.02)


def test_nash_md_mixes_geometrically():
    l, p = problem(3, 4, 10)
    beta = 0.5
    for step in (None, 0.3):
        trace = nash_md(l, p, beta, 25, step=step)
        policy = p
        for t in range(25):
            eta = 2 / (beta * (t + 2)) if step is None else step
            mixture = policy ** (1 - eta * beta) * p ** (eta * beta)
            mixture /= mixture.sum(axis=1, keepdims=True)
            policy = mixture * np.exp(eta * np.einsum("xyz,xz->xy", l, mixture))
            policy /= policy.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(trace.policy, policy, atol=1e-12)
        np.testing.assert_allclose(
            trace.regularized_gap[25], regularized_gap(policy, l, p, KL(), beta), atol=1e-12
        )


def test_the_longest_step_of_nash_md_keeps_nothing_of_the_policy():
    """With eta beta = 1 what is left is the answer to the reference."""
    l, p = problem(3, 4, 9)
    trace = nash_md(l, p, 0.5, 1, step=2.0)
    weight = p * np.exp(2.0 * np.einsum("xyz,xz->xy", l, p))
    np.testing.assert_allclose(trace.policy, weight / weight.sum(axis=1, keepdims=True), atol=1e-14)


def test_gaps_that_are_judged_in_parts_are_those_of_all_iterates(monkeypatch):
    l, p = problem(3, 4, 9)
    whole = nash_md(l, p, 0.5, 30)
    monkeypatch.setattr(iterations, "_ENTRIES", 7 * (l.size + p.size))
    parts = nash_md(l, p, 0.5, 30)
    for name in ("gap", "average_gap", "regularized_gap"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_iterative_chi_po_maximises_what_it_says():
    """The update beats random policies at `eta l - alpha D - (1 - alpha) B`, B Bregman's."""
    rng = np.random.default_rng(11)
    l, p = problem(1, 4, 11)
    beta, eta = 0.5, 0.8
    divergence = ChiSquared() + KL()
    before = iterative_chi_po(l, p, beta, 6, step=eta).policy
    after = iterative_chi_po(l, p, beta, 7, step=eta).policy

    def objective(pi):
        bregman = (
            divergence.per_prompt(pi, p) - divergence.per_prompt(before, p)
            - ((pi - before) * divergence.link(before / p)).sum(axis=-1)
        )  # fmt: skip
        kept = eta * beta * divergence.per_prompt(pi, p) + (1 - eta * beta) * bregman
        return eta * np.einsum("ky,yz,z->k", pi, l[0], before[0]) - kept

    best = objective(after)[0]
    near = after + 1e-3 * rng.standard_normal((500, 4)) * after
    near /= near.sum(axis=1, keepdims=True)
    assert (objective(near) < best).all()
    assert (objective(rng.dirichlet(np.ones(4), 500)) < best).all()


def test_last_iterates_tend_to_the_regularized_equilibrium():
    l, p = problem(3, 4, 12)
    for run, divergence in ((nash_md, KL()), (iterative_chi_po, ChiSquared() + KL())):
        trace = run(l, p, 0.5, 2000)
        exact = solve_nash(l, p, divergence, 0.5).policy
        np.testing.assert_allclose(trace.policy, exact, atol=2e-3)
        assert (trace.regularized_gap[2000] < 1e-5).all()
        assert (trace.regularized_gap[-1] < 0.05 * trace.regularized_gap[20]).all()
    unregularized = self_play(l, p, 4000, step=0.02)
    assert (unregularized.average_gap[-2] < 0.05).all()


def test_grids_of_steps_and_betas_are_runs_of_each():
    l, p = problem(3, 4, 14)
    betas, steps = np.array([0.3, 0.7])[:, None], np.array([0.2, 0.4, 0.5])
    for run in (nash_md, iterative_chi_po):
        grid = run(l, p, betas, 6, step=steps)
        assert grid.gap.shape == (7, 2, 3)
        for k in range(2):
            alone = run(l, p, betas[k, 0], 6, step=steps)
            np.testing.assert_array_equal(grid.policy[k], alone.policy)
            np.testing.assert_array_equal(grid.gap[:, k], alone.gap)
    grid = self_play(l[0], p[0], 6, step=steps)
    np.testing.assert_array_equal(grid.average[2], self_play(l[0], p[0], 6, step=0.5).average)
    assert self_play(l[0], p[0], 6).gap.shape == (7,)


def test_references_of_rounded_sums_can_be_sampled():
    p = [[0.5, 0.5 + 5e-10, 0.0]]
    trace = sampled_self_play(cyclic_preference(3), p, 3, 4, np.random.default_rng(23))
    assert trace.policy[0, 2] == 0.0


def test_deviations_are_to_responses_that_the_reference_lacks_too():
    """Single-policy coverage is not enough: what was never seen beats all that was."""
    l = np.array([[0, 0.1, -1], [-0.1, 0, -1], [1, 1, 0.0]])
    p = [0.5, 0.5, 0.0]
    for trace in (self_play(l, p, 5), nash_md(l, p, 1.0, 5), iterative_chi_po(l, p, 1.0, 5)):
        np.testing.assert_allclose(trace.gap, 2.0, rtol=1e-15)
        np.testing.assert_allclose(trace.average_gap, 2.0, rtol=1e-15)
        np.testing.assert_array_equal(trace.gap[-1], duality_gap(trace.policy, l))


def test_clipped_iterative_chi_po_is_dual_averaging():
    """Scores of responses without mass go on being moved: no mirror step from the policy."""
    model = cyclic_preference(3, 0.5)
    l, p = advantage(model)[0], np.array([0.05, 0.05, 0.9])
    beta, eta, scores, off = 0.1, 2.0, np.zeros(3), []
    pi = p
    for t in range(1, 13):
        before, answer = pi, eta * l @ pi
        scores = (1 - eta * beta) * scores + answer
        pi = solve(scores, p, ChiSquared(), 1.0).policy
        found = iterative_chi_po(model, p, beta, t, step=eta, divergence=ChiSquared()).policy[0]
        np.testing.assert_allclose(found, pi, atol=1e-12)
        kept = (1 - eta * beta) * ChiSquared().link(before / p)
        mirror = solve(answer + kept, p, ChiSquared(), 1.0).policy
        off.append(np.abs(mirror - pi).max())
        if (before > 0).all():
            assert off[-1] < 1e-12
    assert max(off) > 1e-3


def test_one_prompt_is_a_batch_of_one_and_masses_of_zero_stay():
    l, p = problem(3, 4, 13)
    p[1] = [0.5, 0.5, 0.0, 0.0]
    l[1, 2:, :2], l[1, :2, 2:] = 1.0, -1.0
    for run in (
        lambda l, p: self_play(l, p, 10),
        lambda l, p: nash_md(l, p, 0.3, 10),
        lambda l, p: iterative_chi_po(l, p, 0.3, 10),
    ):
        trace = run(l, p)
        assert not trace.policy[1, 2:].any()
        assert not trace.policy.flags.writeable
        # Those that the reference lacks are a threat all the same: they beat all others.
        np.testing.assert_allclose(trace.gap[:, 1], 2.0, atol=1e-15)
        np.testing.assert_allclose(trace.average_gap[:, 1], 2.0, atol=1e-15)
        np.testing.assert_array_equal(trace.gap[-1], duality_gap(trace.policy, l))
        for x in range(3):
            alone = run(l[x], p[x])
            np.testing.assert_array_equal(alone.policy, trace.policy[x])
            np.testing.assert_array_equal(alone.gap, trace.gap[:, x])
