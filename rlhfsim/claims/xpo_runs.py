"""XPO and iterated DPO in rounds: what is found, how long it takes, and the rate of regret.

Source: arXiv 2405.21046.  The instances, and every constant, are ours.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from rlhfsim.bandit import ContextualBandit
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim
from rlhfsim.divergences import KL
from rlhfsim.online.xpo import FiniteXPO, Protocol, TheoryAlpha, hidden_best
from rlhfsim.solvers import solve

_SOURCE = "arXiv 2405.21046"


# ---- a best response that the reference hides ----------------------------------------------------


@cache
def hidden(beta: float, alpha: float, rounds: int, rare: int = 1) -> FiniteXPO:
    """Return the rounds on `hidden_best` with mass `e^(-1/(2 beta))`, over its class.

    With one rare response the class is `{p, pi*}`.
    """
    example = hidden_best(beta, float(np.exp(-0.5 / beta)), rare=rare)
    policies = example.policies[[0, 2]] if rare == 1 else example.policies
    return FiniteXPO(Protocol(example.bandit, beta, rounds, alpha=alpha), policies)


#: beta, rounds and least regret of what iterated DPO loses on a hidden best response.
_STUCK = 0.1, 111, 0.49
#: beta, alpha and rounds after which XPO has found it, with e^{1/(2 beta)} = 22026.
_FOUND = 0.05, 0.01, 20


def stuck_runs(runs: int, rng: np.random.Generator) -> int:
    """Return how many runs of iterated DPO lose at least so much in every round."""
    beta, rounds, least = _STUCK
    engine = hidden(beta, 0.0, rounds)
    return sum(
        bool((engine.run(rng).record.regularized_regret >= least).all()) for _ in range(runs)
    )


def lost_runs(runs: int, rng: np.random.Generator) -> int:
    """Return how many runs of XPO have not learned pi* after all rounds."""
    engine = hidden(*_FOUND)
    return sum(int(engine.run(rng).played[-1] != 1) for _ in range(runs))


#: Rounds in which iterated DPO is waited for, in units of what it takes.
_PATIENCE = 10.0


def wait(scale: float, rng: np.random.Generator) -> float:
    """Return after how many rounds iterated DPO first plays pi*, mean of 12, `beta = 1/(2 ln n)`.

    The class also has the policy for which the rare response is bad; a run ends after 10 n rounds.
    """
    beta, rounds = 0.5 / float(np.log(scale)), int(_PATIENCE * scale)
    example = hidden_best(beta, 1.0 / scale)
    engine = FiniteXPO(Protocol(example.bandit, beta, rounds), example.policies)
    found = [engine.run(rng).played == len(example.policies) - 1 for _ in range(12)]
    return float(np.mean([run.argmax() if run.any() else rounds for run in found]))


def mean_regret_hidden(rounds: float, rng: np.random.Generator) -> float:
    """Return XPO's regularized regret, mean over the rounds of 20 runs, with 8 rare responses."""
    engine = hidden(0.1, 0.01, int(rounds), 8)
    return float(np.mean([engine.run(rng).record.regularized_regret for _ in range(20)]))


#: The constant that the theorem leaves open in the weight of optimism.
_WEIGHT = 0.1


@cache
def at_scale(rounds: int) -> FiniteXPO:
    """Return two responses whose rewards differ by `2/sqrt(T)`, beta as much, and both orders."""
    beta = 2.0 / float(np.sqrt(rounds))
    reward = np.array([[0.0, beta]])
    bandit = ContextualBandit(np.ones(1), np.full((1, 2), 0.5), reward)
    both = np.stack((reward, reward[:, ::-1]))
    policies = solve(both, bandit.reference, KL(), beta).policy
    v_max = beta * float(np.abs(np.log(policies / bandit.reference)).max())
    alpha = TheoryAlpha(v_max, beta, constant=_WEIGHT)
    return FiniteXPO(Protocol(bandit, beta, rounds, alpha=alpha), policies)


def mean_regret_at_scale(rounds: float, rng: np.random.Generator) -> float:
    """Return XPO's mean regularized regret where T rounds hardly tell two policies apart."""
    runs = [at_scale(int(rounds)).run(rng).record for _ in range(40)]
    return float(np.mean([run.regularized_regret.mean() for run in runs]))


XPO_RUN_CLAIMS: tuple[RateClaim | ProbabilityClaim, ...] = (
    ProbabilityClaim(
        name="iterated DPO misses a hidden best response",
        formula=f"P(regret >= {_STUCK[2]} in every one of T rounds) >= 0.22 at beta = {_STUCK[0]}, "
        f"T = {_STUCK[1]} = (3/4) e^(1/(2 beta)), as (1 - 1/n)^(2T)",
        source=f"{_SOURCE}, proposition 2.1; instance and constants ours",
        delta=0.22,
        violations=stuck_runs,
        replications=400,
        bound="at least",
    ),
    ProbabilityClaim(
        name="XPO finds a hidden best response",
        formula=f"P(the last policy is not pi*) <= 0.1 at beta = {_FOUND[0]}, T = {_FOUND[2]}, "
        "where the reference needs e^(1/(2 beta)) = 22026 draws",
        source=f"{_SOURCE}, theorem 3.1; instance and constants ours",
        delta=0.1,
        violations=lost_runs,
        replications=1000,
    ),
    RateClaim(
        name="wait of iterated DPO",
        formula="rounds until iterated DPO plays pi* ~ e^(1/(2 beta)) on a hidden best response",
        source=f"{_SOURCE}, proposition 2.1",
        exponent=1.0,
        measure=wait,
        sizes=(30.0, 100.0, 300.0, 1e3),
        variable="e^(1/(2 beta))",
        replications=20,
    ),
    RateClaim(
        name="regret of XPO on a fixed class",
        formula="(1/T) sum_t J_beta(pi*) - J_beta(pi_t) ~ 1/T on a hidden best response",
        source=f"{_SOURCE}, theorem 3.1 bounds it by T^(-1/2)",
        exponent=-1.0,
        measure=mean_regret_hidden,
        sizes=(300.0, 1e3, 3e3, 1e4),
        variable="T",
        replications=10,
    ),
    RateClaim(
        name="regret of XPO at its worst scale",
        formula="(1/T) sum_t J_beta(pi*) - J_beta(pi_t) ~ T^(-1/2) where rewards differ by "
        f"2 T^(-1/2), beta is as much, and alpha {_WEIGHT} times the theorem's",
        source=f"{_SOURCE}, theorem 3.1; constant measured",
        exponent=-0.5,
        measure=mean_regret_at_scale,
        sizes=(100.0, 400.0, 1600.0, 6400.0),
        variable="T",
        replications=12,
        ceiling=lambda n: 0.5 / np.sqrt(n),
        floor=lambda n: 0.2 / np.sqrt(n),
    ),
)
