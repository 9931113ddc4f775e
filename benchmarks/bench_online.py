"""Time online RLHF with linear rewards against a plain loop in numpy and scipy: accuracy first.

Prints a Markdown table and writes it to `benchmarks/online.md`.  Only the ratios within one run
mean anything.  What is timed of ours is the whole call `run_linear` for all seeds: draws, rounds,
certificates, exact regrets.  The peer is what one would write: one seed after the other, Newton's
method in LAPACK for the estimate, warm-started, and vectorised numpy over prompts and responses
for policies, tilts and regrets.  It keeps neither certificates nor the error of the estimate, and
its time for a few seeds is scaled up.

Both draw the same numbers in the same order; before anything is timed their policies, parameters
and regrets of every round have to agree.  A round in which a rounding error moved a draw would
show at once, as all that comes after would differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from measure import machine
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import expit, logsumexp, ndtri

from rlhfsim.files import write_text
from rlhfsim.instances import log_linear_bandit
from rlhfsim.online import (
    EXPLORATIONS,
    BootstrapEnsemble,
    Enhancer,
    Exploration,
    FromReference,
    LaplaceEnsemble,
    LinearProblem,
    OnPolicy,
    run_linear,
)
from rlhfsim.threads import get_threads

OUT = Path(__file__).parent / "online.md"
PROMPTS, RESPONSES, DIMENSION = 10, 50, 10
ROUNDS, SEEDS, BETA = 1000, 100, 0.2
#: Seeds of the peer, and rounds of the comparison of answers.
FEW, CHECKED = 2, 200
REPEATS = 3
#: As in the kernels: what the enhancer takes as fixed points, the precision of a tilt, how often it
#: is tried, and the rounding of a variance, as a share of the mean square, and of a divergence.
STILL, LOOSE, FINE, SEARCHES = 1e-9, 1e-3, 1e-12, 200
NO_VARIANCE, DIVERGENCE_ROUNDING = 4e-15, 1e-15
Array = np.ndarray


def setting() -> LinearProblem:
    """Return the problem."""
    built = log_linear_bandit(
        PROMPTS, RESPONSES, DIMENSION, np.random.default_rng(0), norm=3.0, reference_norm=2.0
    )
    return LinearProblem(built.bandit, built.features, BETA)


# ---- the peer ------------------------------------------------------------------------------------


class Loop:
    """One run in numpy."""

    def __init__(self, given: LinearProblem, how: Exploration) -> None:
        self.phi, self.beta, self.ridge = given.features, given.beta, given.ridge
        self.given, self.how, self.rho = given, how, given.bandit.prompt_dist
        self.logs = given.log_reference
        self.sigma = given.weight * np.eye(DIMENSION)
        self.direction = np.eye(DIMENSION)[0]

    def estimate(self, rows: Array, weight: Array, start: Array, centre: Array) -> Array:
        """Return the ridge estimate of rows that are winner minus loser."""
        theta = start
        for _ in range(100):
            m = rows @ theta
            slope = -(weight * expit(-m)) @ rows + self.ridge * (theta - centre)
            curvature = (rows * (weight * expit(m) * expit(-m))[:, None]).T @ rows
            curvature[np.diag_indices(DIMENSION)] += self.ridge
            step = cho_solve(cho_factor(curvature), -slope)
            reach = float(np.abs(rows @ step).max(initial=0.0))
            theta = theta + (np.log1p(reach) / reach if reach > 1e-8 else 1.0) * step
            if np.abs(step).max() < 1e-12:
                break
        self.curvature = curvature
        return theta

    def gibbs(self, theta: Array) -> tuple[Array, Array]:
        """Return the logarithms of a policy, and the policy."""
        logs = self.logs + self.phi @ theta / self.beta
        logs = logs - logsumexp(logs, axis=1, keepdims=True)
        return logs, np.exp(logs)

    def whitened(self, q: Array, main: Array) -> Array:
        """Return `L^-1 v(q, main)`."""
        move = np.tensordot(self.rho[:, None] * (q - main), self.phi, axes=2)
        return np.asarray(solve_triangular(self.factor, move, lower=True))

    def tilt(self, scores: Array, logs: Array, s: float) -> tuple[Array, float, float, float]:
        """Return the tilted policy and the first derivatives of its log-mean."""
        tilted = logs + s * scores
        mass = logsumexp(tilted, axis=1, keepdims=True)
        q = np.exp(tilted - mass)
        mean = (q * scores).sum(axis=1)
        square = (q * scores**2).sum(axis=1)
        variance = square - mean**2
        variance[variance <= NO_VARIANCE * square] = 0.0
        return q, float(self.rho @ mass[:, 0]), float(self.rho @ mean), float(self.rho @ variance)

    def scores(self, direction: Array, main: Array) -> Array:
        """Return centred scores of a whitened direction."""
        raw = self.phi @ solve_triangular(self.factor, direction, lower=True, trans="T")
        return np.asarray(raw - (main * raw).sum(axis=1, keepdims=True))

    def enhance(self, c: float, logs: Array, main: Array, steps: int) -> Array:
        """Return the enhancer, by the steps of `rlhfsim.online.linear.tilting`."""
        least, best, start = c / self.beta, -1.0, self.direction
        for way in (*np.eye(DIMENSION), self.direction):
            for sign in (1.0, -1.0):
                q = self.tilt(self.scores(sign * way, main), logs, least)[0]
                value = float(np.linalg.norm(self.whitened(q, main)))
                if value > best:
                    best, start = value, sign * way
        s, moved, root = 2.0 * least, math.inf, 0.0
        for way in (start, -start):
            q, found = self.strength(self.scores(way, main), logs, least, 2.0 * least, LOOSE)
            value = float(np.linalg.norm(self.whitened(q, main)))
            if value > root:
                root, self.direction, s = value, way, found
        for step in range(steps + 1):
            last = step == steps or moved <= STILL
            precision = FINE if last else max(FINE, min(LOOSE, 0.01 * moved))
            q, s = self.strength(self.scores(self.direction, main), logs, least, s, precision)
            white = self.whitened(q, main)
            unit = white / np.linalg.norm(white)
            moved = float(np.abs(unit - self.direction).max())
            if last:
                break
            self.direction = unit
        return q

    def strength(
        self, scores: Array, logs: Array, least: float, s: float, precision: float
    ) -> tuple[Array, float]:
        """Return the most tilted policy that the set allows, and its strength.

        Newton's method between a feasible and an infeasible strength; strengths at most double.
        What is feasible to the precision is accepted, and else the last that was feasible.
        """
        low, high, c = least, math.inf, least * self.beta
        most = (1e4 - 10.0 * float(logs.min())) / float(np.abs(scores).max())
        s = max(least, min(s, 2.0 * most))
        for _ in range(SEARCHES - 1):
            q, log_mean, mean, variance = self.tilt(scores, logs, s)
            excess = self.beta * (s * mean - log_mean) - c * mean
            rounding = DIVERGENCE_ROUNDING * self.beta * (1.0 + s * mean + abs(log_mean))
            low, high = (s, high) if excess <= 0.0 else (low, s)
            slope = (self.beta * s - c) * variance
            new = s - excess / slope if slope > 0.0 else low
            if not low < new < high:
                new = 2.0 * s if math.isinf(high) else 0.5 * (low + high)
            new = min(new, 2.0 * s)
            near = abs(new - s) <= precision * s
            if excess <= precision * c * mean + rounding and (near or s >= most):
                return q, s
            # Near the root from above: just below it.
            s = max(low, s - 2.0 * precision * s) if near else new
        return self.tilt(scores, logs, low)[0], low

    def second(self, theta: Array, logs: Array, main: Array, extra: Array) -> Array:
        """Return the policy of the second response."""
        how, p = self.how, self.given.bandit.reference
        if isinstance(how, Enhancer):
            assert isinstance(how.radius, float)
            return self.enhance(how.radius, logs, main, how.steps)
        if isinstance(how, LaplaceEnsemble):
            factor = np.linalg.cholesky(self.curvature)
            normal = how.scale * ndtri(extra[:DIMENSION] + 2.0**-54)
            return self.gibbs(theta + solve_triangular(factor, normal, lower=True, trans="T"))[1]
        if isinstance(how, OnPolicy):
            return main
        return p if isinstance(how, FromReference) else (p > 0) / (p > 0).sum(1, keepdims=True)

    def run(self, rounds: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """Return regrets (2, T), the parameter and the policy."""
        how, bandit, d = self.how, self.given.bandit, DIMENSION
        members, extra = 0, d if isinstance(how, LaplaceEnsemble) else 0
        if isinstance(how, BootstrapEnsemble):
            members, extra = how.members, 1 + how.members
            scale = how.prior_scale / math.sqrt(self.ridge)
            centres = scale * rng.standard_normal((members, d))
            member_theta = centres.copy()
        draws, kept = rng.random((rounds, 4 + extra)), np.empty((2, rounds))
        rows, weights, n = np.empty((rounds, d)), np.ones((1 + members, rounds)), 0
        cumulative, theta, zero = np.cumsum(self.rho), np.zeros(d), np.zeros(d)
        for t, row in enumerate(draws):
            theta = self.estimate(rows[:n], weights[0, :n], theta, zero)
            logs, main = self.gibbs(theta)
            kept[0, t] = self.rho @ (main * self.given.shortfall).sum(axis=1)
            gap = (main * (logs - self.given.log_optimum)).sum(axis=1)
            kept[1, t] = self.beta * (self.rho @ gap)
            self.factor = np.linalg.cholesky(self.sigma)
            if members:
                k = min(int(row[4] * members), members - 1)
                member_theta[k] = self.estimate(
                    rows[:n], weights[1 + k, :n], member_theta[k], centres[k]
                )
                q = self.gibbs(member_theta[k])[1]
            else:
                q = self.second(theta, logs, main, row[4:])
            x = int(np.searchsorted(cumulative, row[0], side="right"))
            y = int(np.searchsorted(np.cumsum(main[x]), row[1], side="right"))
            z = int(np.searchsorted(np.cumsum(q[x]), row[2], side="right"))
            if y == z:
                continue
            up = row[3] < expit(bandit.reward[x, y] - bandit.reward[x, z])
            rows[n] = (1.0 if up else -1.0) * (self.phi[x, y] - self.phi[x, z])
            weights[1:, n] = -np.log1p(-row[5:]) if members else 1.0
            self.sigma += np.outer(rows[n], rows[n])
            n += 1
        theta = self.estimate(rows[:n], weights[0, :n], theta, zero)
        return kept, theta, self.gibbs(theta)[1]


# ---- accuracy, then time -------------------------------------------------------------------------


def agreement(given: LinearProblem, how: Exploration) -> float:
    """Return the largest difference of anything between both, which has to be small."""
    ours = run_linear(given, CHECKED, generators(FEW), exploration=how)
    worst = 0.0
    for k, rng in enumerate(generators(FEW)):
        kept, theta, policy = Loop(given, how).run(CHECKED, rng)
        for mine, its in (
            (ours.regret[k], kept[0]), (ours.regularized_regret[k], kept[1]),
            (ours.parameter[k], theta), (ours.policy[k], policy),
        ):  # fmt: skip
            worst = max(worst, float(np.abs(mine - its).max()))
    assert worst < 1e-6, f"{how.name}: {worst}"
    return worst


def generators(count: int) -> list[np.random.Generator]:
    """Return one generator for each seed."""
    return [np.random.default_rng([7, k]) for k in range(count)]


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def line(given: LinearProblem, how: Exploration) -> str:
    """Return a row of the table."""
    off = agreement(given, how)
    ours = seconds(lambda: run_linear(given, ROUNDS, generators(SEEDS), exploration=how), REPEATS)
    peer = seconds(lambda: [Loop(given, how).run(ROUNDS, rng) for rng in generators(FEW)], 1)
    peer *= SEEDS / FEW
    slope = run_linear(given, ROUNDS, generators(FEW), exploration=how).slope.max()
    return f"| {how.name} | {ours:.2f} s | {slope:.0e} | {peer / ours:.0f}× | {off:.0e} |"


def main() -> None:
    """Measure and write the table."""
    start, given = time.perf_counter(), setting()
    run_linear(given, 2, generators(1))
    table = [
        f"| exploration | {SEEDS} seeds × {ROUNDS} rounds | gradient | numpy loop's time / ours | "
        "largest difference |",
        "|---|---|---|---|---|",
        *(line(given, how) for how in EXPLORATIONS),
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "numba"))
    text = "\n".join(table) + (
        f"\n\n{machine()}; {get_threads()} threads; {versions}. {PROMPTS} prompts × {RESPONSES} "
        f"responses, d = {DIMENSION}, one comparison a round, beta {BETA:g}. The gradient is the "
        "largest of any round's likelihood, as a share of its terms; differences are of regrets, "
        f"parameters and policies after {CHECKED} rounds. Medians of {REPEATS} runs; the loop ran "
        f"for {FEW} seeds, on one thread but for LAPACK, and is scaled up; "
        f"{time.perf_counter() - start:.0f} s in all.\n"
    )
    print(text)
    write_text(OUT, text)


if __name__ == "__main__":
    main()
