"""Time the minimax winner and regularized Nash policies of many prompts against what people use.

Prints a Markdown table and writes it to `benchmarks/games.md`.  Times are medians and only their
ratios within one run mean anything.  What is timed of ours is the whole call, the check of the
game and the certificate included.  The peers solve the same linear program per prompt in a loop,
or, for the regularized game, run the iteration of Nash-MD until its exact duality gap is at most
`GAP`, by somebody who knows it: what it would take to know where to stop is not counted.

Before anything is timed every answer is checked: duality gaps at rounding, ours; winners that
agree with those of the peers within their tolerance; the same policies of batches and of single
prompts.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cvxpy as cp
import numpy as np
from measure import alternate, machine
from scipy.optimize import linprog

from rlhfsim import KL, ChiSquared
from rlhfsim.files import write_text
from rlhfsim.games import duality_gap, minimax_winner, regularized_gap, solve_nash
from rlhfsim.threads import get_threads

OUT = Path(__file__).parent / "games.md"
PROMPTS, RESPONSES = 1000, 30
#: Of the peers that take milliseconds a prompt; their times are scaled up.
FEW = 50
BETA = 0.1
#: Regularized duality gap at which the iteration is stopped.
GAP = 1e-6
REPEATS = 7

Array = np.ndarray


def games(kind: str) -> Array:
    """Return games of uniform margins, or of wins, losses and ties alone."""
    rng = np.random.default_rng(0)
    shape = PROMPTS, RESPONSES, RESPONSES
    drawn = rng.uniform(-1, 1, shape) if kind == "uniform" else rng.integers(-1, 2, shape)
    upper = np.triu(drawn, 1).astype(np.float64)
    return upper - np.swapaxes(upper, 1, 2)


# ---- peers ---------------------------------------------------------------------------------------


def by_linprog(game: Array) -> Array:
    """Return the winners of games by HiGHS through scipy, one linear program each."""
    size = game.shape[1]
    found = np.empty(game.shape[:2])
    for k, payoff in enumerate(game):
        solved = linprog(
            np.r_[np.zeros(size), 1.0],
            A_ub=np.c_[payoff, -np.ones(size)],
            b_ub=np.zeros(size),
            A_eq=[np.r_[np.ones(size), 0.0]],
            b_eq=[1.0],
            bounds=[(0, None)] * size + [(None, None)],
            method="highs",
        )
        found[k] = solved.x[:size]
    return found


class ByClarabel:
    """The same program in cvxpy with Clarabel, compiled once, the game a parameter."""

    def __init__(self, size: int) -> None:
        self.game = cp.Parameter((size, size))
        self.policy = cp.Variable(size, nonneg=True)
        against = cp.max(self.game @ self.policy)
        self.problem = cp.Problem(cp.Minimize(against), [cp.sum(self.policy) == 1])

    def __call__(self, game: Array) -> Array:
        """Return the winners of games."""
        found = np.empty(game.shape[:2])
        for k, payoff in enumerate(game):
            self.game.value = payoff
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.problem.solve(solver=cp.CLARABEL)
            found[k] = self.policy.value
        return found


def nash_md(game: Array, reference: Array, updates: int) -> Array:
    """Return the policies of Nash-MD, in plain numpy on all prompts at once."""
    policy = reference
    for t in range(updates):
        alpha = 2.0 / (t + 2.0)
        mixture = policy ** (1.0 - alpha) * reference**alpha
        mixture /= mixture.sum(axis=1, keepdims=True)
        gain = np.einsum("xyz,xz->xy", game, mixture)
        policy = mixture * np.exp(alpha / BETA * gain)
        policy /= policy.sum(axis=1, keepdims=True)
    return policy


def updates_needed(game: Array, reference: Array) -> int:
    """Return a number of updates, a power of 2, that brings every gap to `GAP`."""
    most = 64
    while True:
        policy = nash_md(game, reference, most)
        if regularized_gap(policy, game, reference, KL(), BETA).max() <= GAP:
            return most
        most *= 2


# ---- the table -----------------------------------------------------------------------------------


def check_winners(game: Array) -> None:
    """Assert that our winners are certified, and that peers find the same where it is unique."""
    ours = minimax_winner(game)
    assert np.abs(ours.gap).max() < 1e-13, ours.gap.max()
    np.testing.assert_array_equal(minimax_winner(game[7]).policy, ours.policy[7])
    few = game[:FEW]
    assert duality_gap(_normal(by_linprog(few)), few).max() < 1e-6
    assert duality_gap(_normal(ByClarabel(RESPONSES)(few)), few).max() < 1e-5


def _normal(policy: Array) -> Array:
    """Return what an interior-point method meant: its rows sum to 1 to its tolerance only."""
    positive = np.maximum(policy, 0.0)
    return positive / positive.sum(axis=1, keepdims=True)


def winner_rows() -> list[str]:
    """Return the rows on minimax winners."""
    rows = []
    for kind in ("uniform", "ties"):
        game = games(kind)
        check_winners(game)
        few, clarabel = game[:FEW], ByClarabel(RESPONSES)
        calls: dict[str, Callable[[], object]] = {
            "ours": functools.partial(minimax_winner, game),
            "scipy linprog (HiGHS), a loop": functools.partial(by_linprog, few),
            "cvxpy + Clarabel, a loop": functools.partial(clarabel, few),
        }
        seconds = alternate(calls, REPEATS)
        gaps = {
            "ours": minimax_winner(game).gap,
            "scipy linprog (HiGHS), a loop": duality_gap(_normal(by_linprog(few)), few),
            "cvxpy + Clarabel, a loop": duality_gap(_normal(clarabel(few)), few),
        }
        for name, value in seconds.items():
            whole = value * (1.0 if name == "ours" else PROMPTS / FEW)
            gap = np.abs(gaps[name]).max()
            ratio = whole / seconds["ours"]
            rows.append(f"| winner, {kind} | {name} | {whole:.3g} s | {gap:.0e} | {ratio:.3g}× |")
    return rows


def nash_rows() -> list[str]:
    """Return the rows on regularized equilibria."""
    game = games("uniform")
    reference = np.random.default_rng(1).dirichlet(np.ones(RESPONSES), PROMPTS)
    mixed = ChiSquared() + KL()
    for divergence in (KL(), mixed):
        assert np.abs(solve_nash(game, reference, divergence, BETA).gap).max() < 1e-14
    few, base = game[:FEW], reference[:FEW]
    updates = updates_needed(few, base)
    reached = nash_md(few, base, updates)
    calls: dict[str, Callable[[], object]] = {
        "ours": functools.partial(solve_nash, game, reference, KL(), BETA),
        "ours, chi2 + KL": functools.partial(solve_nash, game, reference, mixed, BETA),
        f"Nash-MD in numpy, {updates} updates": functools.partial(nash_md, few, base, updates),
    }
    seconds = alternate(calls, REPEATS)
    gaps = [
        solve_nash(game, reference, KL(), BETA).gap,
        solve_nash(game, reference, mixed, BETA).gap,
        regularized_gap(reached, few, base, KL(), BETA),
    ]
    rows = []
    for (name, value), gap in zip(seconds.items(), gaps, strict=True):
        whole = value * (1.0 if name.startswith("ours") else PROMPTS / FEW)
        rows.append(
            f"| regularized Nash, beta = {BETA} | {name} | {whole:.3g} s | "
            f"{np.abs(gap).max():.0e} | {whole / seconds['ours']:.3g}× |"
        )
    return rows


def main() -> None:
    """Print the table and write it."""
    lines = [
        "| problem | method | time, all prompts | largest duality gap | time / ours |",
        "|---|---|---|---|---|",
        *winner_rows(),
        *nash_rows(),
    ]
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "cvxpy"))
    note = (
        f"{machine()}; {get_threads()} threads; {packages}, clarabel {version('clarabel')}. "
        f"{PROMPTS} prompts, {RESPONSES} responses, float64. Games of independent margins, uniform "
        "on [-1, 1], or wins, losses and ties alike, where winners are many and ours finds the "
        f"most spread one. The loops of peers are timed on {FEW} prompts and scaled up; the gaps "
        f"of all methods are exact. Nash-MD is stopped at a gap of {GAP:g}. Medians of {REPEATS} "
        "alternating runs (3 of those slower "
        "than half a second)."
    )
    text = "\n".join([*lines, "", note, ""])
    print(text)
    write_text(OUT, text)


if __name__ == "__main__":
    main()
