"""The compiled entry point: all rounds of one run.

A round draws `4 m` numbers of [0, 1), those of prompt, first response, second response and label of
each comparison, and what its exploration needs besides.
"""

from __future__ import annotations

import math

from rlhfsim.checks import FloatArray
from rlhfsim.compiling import EXACT
from rlhfsim.kernels.elementary import exp
from rlhfsim.online.linear.layout import (
    BETA,
    BOOTSTRAP,
    DONE,
    ERROR,
    FIXED,
    INFORMATIVE,
    LAPLACE,
    LOG_LEVEL,
    NO_COVARIANCE,
    NO_ENHANCER,
    NO_ESTIMATE,
    NO_RADIUS,
    NO_SECOND,
    NORM_BOUND,
    ON_POLICY,
    RADIUS,
    REGRET,
    REGULARIZATION,
    REGULARIZED,
    RESIDUAL,
    RIDGE,
    SCALE,
    STRENGTH,
    TEMPERATURE,
    UNCERTAINTY,
    C,
)
from rlhfsim.online.linear.likelihood import (
    copy,
    copy_rows,
    factorise,
    largest_margin,
    maximise_likelihood,
    solve_upper,
    theory_radius,
)
from rlhfsim.online.linear.tilting import difference, enhance, gibbs, whitened_norm

# Margins above this have no curvature that a float64 holds.
_LARGEST_MARGIN = 700.0
_LARGEST_STRENGTH = 1e200
# `e^-l - 1 + l` is a series for |l| below this, and no difference of near numbers above.
_NEAR = 0.4
_INVERSE_FACTORIALS = tuple(1.0 / math.factorial(k) for k in range(14, 1, -1))


@EXACT
def _pick(cumulative: FloatArray, u: float) -> int:
    """Return the first index whose cumulative probability exceeds u, of a table that ends in 1."""
    low, high = 0, cumulative.size - 1
    while low < high:
        middle = (low + high) // 2
        if cumulative[middle] > u:
            high = middle
        else:
            low = middle + 1
    return low


@EXACT
def _draw(policy: FloatArray, u: float) -> int:
    """Return a response; rounding of the sum falls to the last one that has mass."""
    reached, last = 0.0, 0
    for y in range(policy.size):
        if policy[y] > 0.0:
            last = y
            reached += policy[y]
            if reached > u:
                return y
    return last


@EXACT
def _first_wins(
    reward: FloatArray, temperature: float, table: FloatArray, x: int, y: int, z: int, u: float
) -> bool:
    if table.shape[0] > 0:
        return u < table[x, y, z]
    gap = (reward[x, y] - reward[x, z]) / temperature
    e = exp(-abs(gap))
    return u < (1.0 if gap >= 0.0 else e) / (1.0 + e)


@EXACT
def _bend(apart: float) -> float:
    """Return `e^-l - 1 + l` for `|l| < _NEAR`."""
    series = 0.0
    for k in range(len(_INVERSE_FACTORIALS)):
        series = _INVERSE_FACTORIALS[k] - series * apart
    return series * apart * apart


@EXACT
def _measure(
    rho: FloatArray, policy: FloatArray, logs: FloatArray, shortfall: FloatArray,
    best_logs: FloatArray, beta: float,
) -> tuple[float, float]:  # fmt: skip
    """Return both regrets; the regularized one is `beta KL` to the optimum, as in `gaps`."""
    regret, divergence = 0.0, 0.0
    for x in range(rho.size):
        lost, apart = 0.0, 0.0
        for y in range(policy.shape[1]):
            lost += policy[x, y] * shortfall[x, y]
            pi, log_ratio = policy[x, y], logs[x, y] - best_logs[x, y]
            # With the same sum as pi log_ratio, but not negative: nothing cancels at large beta.
            if abs(log_ratio) < _NEAR:
                apart += pi * _bend(log_ratio)
            else:
                apart += exp(best_logs[x, y]) - pi + pi * log_ratio
        regret += rho[x] * lost
        divergence += rho[x] * apart
    return regret, beta * divergence


@EXACT
def _enter(rows: FloatArray, i: int, weight: float, sigma: FloatArray) -> float:
    """Add a comparison to the lower triangle of Sigma; return its length."""
    length = 0.0
    for k in range(rows.shape[0]):
        length += rows[k, i] * rows[k, i]
        for j in range(k + 1):
            sigma[k, j] += weight * rows[k, i] * rows[j, i]
    return math.sqrt(length)


@EXACT
def _error(sigma: FloatArray, theta: FloatArray, truth: FloatArray) -> float:
    """Return `||theta - truth||_Sigma`."""
    total = 0.0
    for k in range(theta.size):
        for j in range(k + 1):
            both = (theta[k] - truth[k]) * sigma[k, j] * (theta[j] - truth[j])
            total += both if j == k else 2.0 * both
    return math.sqrt(total)


@EXACT
def _estimate(
    fits: int, member: int, n: int, rows: FloatArray, won: FloatArray, lost: FloatArray,
    member_won: FloatArray, member_lost: FloatArray, ridge: float, zero: FloatArray,
    centres: FloatArray, theta: FloatArray, member_theta: FloatArray, curvature: bool,
    certificate: FloatArray, numbers: FloatArray, vectors: FloatArray, matrices: FloatArray,
) -> bool:  # fmt: skip
    """Move theta and, in a second fit, a member's parameter to the estimate; return if they exist.

    `certificate` rises to the gradient of theta, if that is larger; `curvature` and the workspace
    are those of `maximise_likelihood`.
    """
    # One loop for both: every loop that is inlined twice is compiled twice.
    for fit in range(fits):
        slope = maximise_likelihood(
            rows, won[:n] if fit == 0 else member_won[member][:n],
            lost[:n] if fit == 0 else member_lost[member][:n], ridge,
            zero if fit == 0 else centres[member], theta if fit == 0 else member_theta[member],
            curvature, numbers, vectors, matrices,
        )  # fmt: skip
        if slope < 0.0:
            return False
        if fit == 0:
            certificate[0] = max(certificate[0], slope)
    return True


@EXACT
def _choose_parameter(
    kind: int, place: int, member: int, draws: FloatArray, t: int, skipped: int, scale: float,
    theta: FloatArray, member_theta: FloatArray, factor: FloatArray, out: FloatArray,
) -> None:  # fmt: skip
    """Set `out` to theta at place 0, and else to a Laplace draw or to the parameter of a member.

    Laplace draws are in row t of `draws` after the first `skipped` numbers, d for each place;
    `factor` is that of the curvature at theta.
    """
    d = theta.size
    if place == 0:
        copy(theta, out)
    elif kind != LAPLACE:
        copy(member_theta[member], out)
    else:
        for k in range(d):
            out[k] = scale * draws[t, skipped + (place - 1) * d + k]
        solve_upper(factor, out)
        for k in range(d):
            out[k] += theta[k]


@EXACT
def _ellipsoid_radius(
    rows: FloatArray, theta: FloatArray, factor: FloatArray, longest: float, settings: FloatArray,
    margin: FloatArray,
) -> float:  # fmt: skip
    """Return the radius that is set or, for a bound on the norm, that of theory; inf without one.

    `factor` is that of Sigma and `margin` (n,) workspace.
    """
    if not settings[NORM_BOUND] > 0.0:
        return settings[C]
    largest = largest_margin(rows, theta, margin)
    largest = max(largest, settings[NORM_BOUND] * longest)
    if not largest <= _LARGEST_MARGIN:
        return math.inf
    return theory_radius(
        factor, settings[REGULARIZATION], settings[RIDGE], settings[NORM_BOUND],
        settings[LOG_LEVEL], theta, largest,
    )  # fmt: skip


@EXACT
def _compare(
    batch: int, members: int, n: int, longest: float, draws: FloatArray, cumulative: FloatArray,
    policy: FloatArray, q: FloatArray, features: FloatArray, reward: FloatArray,
    temperature: float, table: FloatArray, rows: FloatArray, won: FloatArray, lost: FloatArray,
    member_won: FloatArray, member_lost: FloatArray, sigma: FloatArray,
) -> tuple[int, float]:  # fmt: skip
    """Draw the comparisons of a round and enter those of two responses that differ.

    `draws` are those of the round, and `members` is 0 without a bootstrap.  Returns how many
    comparisons there now are, and their largest length.
    """
    for i in range(batch):
        x = _pick(cumulative, draws[4 * i])
        y = _draw(policy[x], draws[4 * i + 1])
        z = _draw(q[x], draws[4 * i + 2])
        if y == z:
            continue
        up = _first_wins(reward, temperature, table, x, y, z, draws[4 * i + 3])
        won[n], lost[n] = (1.0, 0.0) if up else (0.0, 1.0)
        for k in range(rows.shape[0]):
            rows[k, n] = features[x, k, y] - features[x, k, z]
        longest = max(longest, _enter(rows, n, 1.0, sigma))
        for k in range(members):
            weight = draws[4 * batch + 1 + i * members + k]
            member_won[k, n], member_lost[k, n] = weight * won[n], weight * lost[n]
        n += 1
    return n, longest


@EXACT
def run(
    kind: int, moving: bool, steps: int, members: int, batch: int, start: int,
    settings: FloatArray, features: FloatArray, base: FloatArray, rho: FloatArray,
    cumulative: FloatArray, reward: FloatArray, table: FloatArray, shortfall: FloatArray,
    best_logs: FloatArray, fixed: FloatArray, truth: FloatArray, draws: FloatArray,
    rows: FloatArray, won: FloatArray, lost: FloatArray, centres: FloatArray,
    member_won: FloatArray, member_lost: FloatArray, member_theta: FloatArray, kept: FloatArray,
    theta: FloatArray, policy: FloatArray, certificate: FloatArray, numbers: FloatArray,
    vectors: FloatArray, matrices: FloatArray, tables: FloatArray,
) -> int:  # fmt: skip
    """Make all rounds; return DONE or what went wrong.

    `rows` is (d, n) with the first `start` columns filled, `won` and `lost` (n,), `member_*` (K, n)
    the weights of a bootstrap, `draws` (T, W), `kept` (ROWS, T); `theta` (d,), `policy` (X, Y) and
    `certificate` (1,), for the worst gradient, are answers.  `numbers` (4, n), `vectors` (8, d),
    `matrices` (4, d, d) and `tables` (5, X, Y) are workspace.  All these start at 0, but for
    `matrices[2]`: there Sigma starts at lambda I.  `tables[1]` ends as the last second policy.
    """
    beta, ridge, rounds = settings[BETA], settings[RIDGE], draws.shape[0]
    logs, q, trial_logs, trial = tables[0], tables[1], tables[2], tables[3]
    sigma, factor = matrices[2], matrices[3]
    past, parameter, direction = vectors[3], vectors[4], vectors[5]
    zero, v, scratch = vectors[6], vectors[7], tables[4][0]
    direction[0] = 1.0
    longest, n = 0.0, start
    for i in range(start):
        longest = max(longest, _enter(rows, i, won[i] + lost[i], sigma))
    for t in range(rounds + 1):
        resampled = kind == BOOTSTRAP and t < rounds
        member = min(int(draws[t, 4 * batch] * members), members - 1) if resampled else 0
        if not _estimate(
            2 if resampled else 1, member, n, rows, won, lost, member_won, member_lost, ridge, zero,
            centres, theta, member_theta, kind == LAPLACE, certificate, numbers, vectors, matrices,
        ):  # fmt: skip
            return NO_ESTIMATE
        if not factorise(sigma, factor):
            return NO_COVARIANCE
        radius, best = settings[C], -1.0
        # The main agent, then those of which the second response may come.
        others = members if kind == LAPLACE else 1
        for place in range(1 + others):
            if place == 0 or kind in (LAPLACE, BOOTSTRAP):
                _choose_parameter(
                    kind, place, member, draws, t, 4 * batch, settings[SCALE], theta, member_theta,
                    matrices[1], parameter,
                )  # fmt: skip
                for k in range(theta.size):
                    v[k] = past[k] + parameter[k] / beta
                gibbs(features, base, v, trial_logs, trial)
            elif kind == FIXED:
                copy_rows(fixed, trial)
            elif kind == ON_POLICY:
                copy_rows(policy, trial)
            else:
                radius = _ellipsoid_radius(rows, theta, factor, longest, settings, numbers[0][:n])
                if not radius / beta <= _LARGEST_STRENGTH:
                    return NO_RADIUS
                reached, kept[STRENGTH, t], kept[RESIDUAL, t] = enhance(
                    features, rho, logs, policy, factor, beta, radius, steps, direction, vectors,
                    trial_logs, scratch, trial,
                )  # fmt: skip
                if not reached >= 0.0:
                    return NO_ENHANCER
            if place == 0:
                copy_rows(trial_logs, logs)
                copy_rows(trial, policy)
                if t == rounds:
                    return DONE
                kept[REGRET, t], kept[REGULARIZED, t] = _measure(
                    rho, policy, logs, shortfall, best_logs, beta
                )
                continue
            difference(features, rho, trial, policy, scratch, v)
            value = whitened_norm(factor, v)
            if value > best:
                best = value
                copy_rows(trial, q)
        if not best >= 0.0:
            return NO_SECOND
        kept[UNCERTAINTY, t], kept[RADIUS, t] = best, radius
        kept[ERROR, t] = _error(sigma, theta, truth)
        n, longest = _compare(
            batch, members if kind == BOOTSTRAP else 0, n, longest, draws[t], cumulative, policy,
            q, features, reward, settings[TEMPERATURE], table, rows, won, lost, member_won,
            member_lost, sigma,
        )  # fmt: skip
        kept[INFORMATIVE, t] = n - start
        if moving:
            for k in range(theta.size):
                past[k] += theta[k] / beta
    return DONE
