"""More than one step: what adds up over steps, and what multiplies; with those of `token_steps`.

Sources: arXiv 2310.17303 (regularized planning), Kakade & Langford 2002; what is said to be ours is
proved where it is computed.
"""

from __future__ import annotations

import numpy as np

from rlhfsim.checks import FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.processes import Batch, Processes, Repeated, Tokens
from rlhfsim.claims.statistical import RateClaim
from rlhfsim.claims.token_steps import TOKEN_CLAIMS
from rlhfsim.coverage import concentrability
from rlhfsim.divergences import KL, ChiSquared, Divergence
from rlhfsim.mdp import (
    FiniteHorizonMDP,
    action_values,
    chi_squared_over_trajectories,
    occupancies,
    solve_steps,
    step_divergence,
    trajectory_concentrability,
    trajectory_kl,
    value,
)
from rlhfsim.mdp.recursions import expected

_OURS = "ours"

# ---- processes with chance -----------------------------------------------------------------------


def _objective(x: Processes, divergence: Divergence) -> FloatArray:
    """`J_beta(pi)` of the instance's policy."""
    cost = step_divergence(x.process(), x.levels(x.policy), divergence)
    return value(x.process(), x.levels(x.policy)) - x.beta * cost


def _best(x: Processes, divergence: Divergence) -> FloatArray:
    """`J_beta(pi_beta)`, from rewards in units of beta."""
    return x.beta * solve_steps(x.process(in_beta=True), divergence, 1.0).objective


def _kl_lost(x: Processes) -> FloatArray:
    return _best(x, KL()) - _objective(x, KL())


def _kl_from_optimum(x: Processes) -> FloatArray:
    best = solve_steps(x.process(in_beta=True), KL(), 1.0).policy
    return x.beta * trajectory_kl(x.process(), x.levels(x.policy), best)


def _kl_rounding(x: Processes) -> FloatArray:
    spent = trajectory_kl(x.process(), x.levels(x.policy))
    return RESOLUTION * (x.sizes() + x.beta * (1.0 + spent))


def _chi_squared_lost(x: Processes) -> FloatArray:
    return _best(x, ChiSquared()) - _objective(x, ChiSquared())


def _lost_by_step(x: Processes) -> FloatArray:
    """`sum_h E_pi[V_h(s) - (E_pi Q_h(s, .) - beta D(pi || p))]`, soft values of chi-squared."""
    process, policy = x.process(), x.levels(x.policy)
    soft = solve_steps(x.process(in_beta=True), ChiSquared(), 1.0)
    v = [x.beta[:, None] * level for level in soft.values]
    there = occupancies(process, policy)
    lost = np.zeros(len(x))
    for h, level in enumerate(policy):
        q = process.reward[h]
        if h + 1 < len(policy):
            q = q + expected(process.transitions[h], v[h + 1])
        cost = x.beta[:, None] * ChiSquared().per_prompt(level, process.reference[h])
        lost += (there[h] * (v[h] - (level * q).sum(axis=-1) + cost)).sum(axis=-1)
    return lost


def _chi_squared_rounding(x: Processes) -> FloatArray:
    spent = step_divergence(x.process(), x.levels(x.policy), ChiSquared())
    return RESOLUTION * (x.sizes() + x.beta * (1.0 + spent))


def _difference(x: Processes) -> FloatArray:
    process = x.process()
    return value(process, x.levels(x.policy)) - value(process, x.levels(x.reference))


def _advantages(x: Processes) -> FloatArray:
    """`sum_h E_(s ~ pi)[E_(a ~ pi) Q_h - V_h]`, Q and V those of the reference."""
    process, policy = x.process(), x.levels(x.policy)
    q, v = action_values(process, process.reference)
    there = occupancies(process, policy)
    gains = [
        (d * ((pi * q_h).sum(axis=-1) - v_h)).sum(axis=-1)
        for d, pi, q_h, v_h in zip(there, policy, q, v, strict=True)
    ]
    return np.asarray(sum(gains))


def _decided(x: Processes) -> FloatArray:
    """`J(p) + E_p[sum_h A_h^2]/(2 beta)`."""
    return x.beta * chi_squared_over_trajectories(x.process(in_beta=True), 1.0).value


def _at_the_ratio(x: Processes) -> FloatArray:
    """`E_p[W R] - beta/2 E_p[(W - 1)^2]` at `W = 1 + sum_h A_h/beta`, over all trajectories."""
    n, beta = len(x), x.beta
    advantage = chi_squared_over_trajectories(x.process(), 1.0).advantage
    chance = x.initial
    reward = total = np.zeros_like(chance)
    for h in range(x.reward.shape[1]):
        states = x.reward.shape[2]
        # The last axis is the state that a trajectory has come to; others, where it has been.
        shape = (n, *(1,) * (chance.ndim - 2), states, x.reward.shape[3])
        r, a, p = (
            rows.reshape(shape) for rows in (x.reward[:, h], advantage[h], x.reference[:, h])
        )
        chance, reward, total = chance[..., None] * p, reward[..., None] + r, total[..., None] + a
        if h + 1 < x.reward.shape[1]:
            move = x.transition[:, h].reshape(*shape, states)
            chance = chance[..., None] * move
            reward, total = (np.broadcast_to(y[..., None], chance.shape) for y in (reward, total))
    chance, reward, total = (y.reshape(n, -1) for y in (chance, reward, total))
    ratio = total / beta[:, None]
    return np.asarray(
        (chance * reward * (1.0 + ratio)).sum(axis=1) - 0.5 * beta * (chance * ratio**2).sum(axis=1)
    )


def _decided_rounding(x: Processes) -> FloatArray:
    return RESOLUTION * (x.sizes() + x.sizes() ** 2 / x.beta)


def _one_process() -> Processes:
    """Return a process without ties or symmetries."""
    return Processes.sample(1, np.random.default_rng(5))


# ---- equal steps ---------------------------------------------------------------------------------


def _by_steps(x: Repeated) -> FloatArray:
    """Return `C` of trajectories of equal steps, each number of steps at once."""
    found = np.empty(len(x))
    for steps in np.unique(x.steps):
        own = x.steps == steps
        h = int(steps)
        levels = [tuple([rows[own][:, None]] * h) for rows in (x.policy, x.reference)]
        same = np.zeros((1, x.policy.shape[1]), dtype=np.int64)
        start = np.ones((int(own.sum()), 1))
        reward = tuple(np.zeros(level.shape) for level in levels[0])
        process = Batch(start, (same,) * (h - 1), reward, levels[1])
        found[own] = trajectory_concentrability(process, levels[0])
    return found


def _power(x: Repeated) -> FloatArray:
    return concentrability(x.policy[:, None], x.reference[:, None]) ** x.steps


def _repeated() -> Repeated:
    return Repeated(np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]]), np.array([5.0]))


def _repeated_near() -> Repeated:
    return Repeated(np.array([[0.501, 0.499]]), np.array([[0.5, 0.5]]), np.array([3.0]))


def _step_times(x: Repeated) -> FloatArray:
    return x.steps * ChiSquared().per_prompt(x.policy, x.reference)


def _whole_response(x: Repeated) -> FloatArray:
    return 0.5 * np.expm1(np.log(_by_steps(x)))


#: Reward of the better of two tokens, and the regularization, of equal steps.
_GOOD, _BETA = 1.0, 2.0


def _log_coverage(steps: float, _: np.random.Generator) -> float:
    """Return `log C` of the chi-squared optimum by token of H equal steps."""
    h = int(steps)
    level, half = np.array([[_GOOD, 0.0]]), np.array([[0.5, 0.5]])
    same = np.zeros((1, 2), dtype=np.int64)
    mdp = FiniteHorizonMDP(np.ones(1), (same,) * (h - 1), (level,) * h, (half,) * h)
    best = solve_steps(mdp, ChiSquared(), _BETA).policy
    return float(np.log(trajectory_concentrability(mdp, best)))


def _per_step() -> float:
    """`log(1 + Var_p(r) / beta^2)`: the optimum is `w = 1 + (r - E_p r)/beta`."""
    return float(np.log1p((0.5 * _GOOD) ** 2 / _BETA**2))


StepClaim = Claim[Processes] | Claim[Tokens] | Claim[Repeated] | RateClaim

STEP_CLAIMS: tuple[StepClaim, ...] = (
    Claim[Processes](
        "gap of KL regularization over trajectories",
        "J_beta(pi_beta) - J_beta(pi) = beta KL(trajectories of pi || of pi_beta)",
        "arXiv 2310.17303",
        "identity",
        _kl_lost,
        _kl_from_optimum,
        _one_process,
        _kl_rounding,
    ),
    Claim[Processes](
        "gap of chi-squared regularization, step by step",
        "J_beta(pi_beta) - J_beta(pi) = sum_h E_pi[V_h - (E_pi Q_h - beta D(pi || p))]",
        f"{_OURS} (soft performance difference, any divergence)",
        "identity",
        _chi_squared_lost,
        _lost_by_step,
        _one_process,
        _chi_squared_rounding,
    ),
    Claim[Processes](
        "performance difference",
        "J(pi) - J(pi') = sum_h E_{s ~ pi}[E_{a ~ pi} Q_h(s, a) - V_h(s)], Q and V of pi'",
        "Kakade & Langford 2002",
        "identity",
        _difference,
        _advantages,
        _one_process,
        lambda x: RESOLUTION * x.sizes(),
    ),
    Claim[Processes](
        "chi-squared over trajectories",
        "max_W E_p[W R] - beta/2 E_p[(W - 1)^2] = J(p) + E_p[sum_h A_h^2]/(2 beta), "
        "at W = 1 + sum_h A_h/beta: moves of different steps are uncorrelated",
        f"{_OURS} (martingale differences)",
        "identity",
        _at_the_ratio,
        _decided,
        _one_process,
        _decided_rounding,
    ),
    *TOKEN_CLAIMS,
    Claim[Repeated](
        "concentrability multiplies over steps",
        "C of H equal steps = C^H",
        "arXiv 2407.13399",
        "identity",
        _by_steps,
        _power,
        _repeated,
        lambda x: 4 * RESOLUTION * _power(x),
    ),
    Claim[Repeated](
        "chi-squared of equal steps",
        "H D_chi2(pi || p) <= D_chi2(pi^H || p^H)",
        f"{_OURS} (Bernoulli's inequality)",
        "tight",
        _step_times,
        _whole_response,
        _repeated_near,
        lambda x: 4 * RESOLUTION * _power(x),
    ),
    RateClaim(
        name="coverage of chi-squared by token is exponential in the length",
        formula="log C ~ H of the chi-squared optimum by token; by response C <= 1 + range(r)/beta",
        source=f"{_OURS}; arXiv 2407.13399",
        exponent=1.0,
        measure=_log_coverage,
        sizes=(2.0, 4.0, 8.0, 16.0, 32.0),
        variable="H",
        floor=lambda h: 0.999 * h * _per_step(),
        ceiling=lambda h: 1.001 * h * _per_step(),
    ),
)
