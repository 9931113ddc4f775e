"""The compiled path: softmax, loss, gradient and step, over and over, for one path.

Responses are numbered through, `x Y + y`; comparisons hold the numbers of winner and loser.  Where
the reference is 0, logarithms stand at -1e308: such entries are never compared, and every term
that they enter is then 0 without a branch.
"""

from __future__ import annotations

import math

import numpy as np

from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.compiling import EXACT, SUMS
from rlhfsim.dynamics.forms import (
    ADAM,
    BETA,
    CLIP,
    CONSTANT,
    FACTOR,
    FIRST,
    HIGH,
    HINGE,
    LINEAR,
    LOGISTIC,
    LOW,
    NEGATIVE_SIGMOID,
    RATE,
    SECOND,
    THIRD,
)
from rlhfsim.kernels.elementary import exp, exp_minus_one, log
from rlhfsim.kernels.intrinsics import larger

# Tables of (X Y) numbers of a path.
BASE, LINK_REFERENCE, LOG_REFERENCE, MASS, GOLD, PROXY, CHOSEN, REJECTED, IMITATED = range(9)
TABLES = 9
# Columns of comparisons.
SHARE, CHOSEN_WEIGHT, REJECTED_WEIGHT, GAP = range(4)
COLUMNS = 4

# Above this, e^x - 1 needs no care.
_NEAR = 0.34


# ---- small loops ---------------------------------------------------------------------------------


@SUMS
def _dot(a: FloatArray, b: FloatArray) -> float:
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@SUMS
def _sum(a: FloatArray) -> float:
    total = 0.0
    for i in range(a.size):
        total += a[i]
    return total


@SUMS
def _largest(a: FloatArray) -> float:
    top = -np.inf
    for i in range(a.size):
        top = larger(top, a[i])
    return top


@EXACT
def _finite(a: FloatArray) -> bool:
    size = 0.0
    for i in range(a.size):
        size += abs(a[i])
    # Also false for NaN.
    return size < np.inf


@SUMS
def _spent(u: FloatArray, mass: FloatArray) -> tuple[float, float]:
    """Return `sum mass f(e^u)` of KL and of chi-squared, each term without cancellation."""
    kl, chi_squared = 0.0, 0.0
    for i in range(u.size):
        near = exp_minus_one(u[i] if abs(u[i]) < _NEAR else 0.0)
        d = near if abs(u[i]) < _NEAR else exp(u[i]) - 1.0
        kl += mass[i] * (d * u[i] + (u[i] - d))
        chi_squared += mass[i] * (d * d)
    return kl, 0.5 * chi_squared


# ---- the policy ----------------------------------------------------------------------------------


@EXACT
def _logits(
    parameter: FloatArray, features: FloatArray, base: FloatArray, logits: FloatArray
) -> bool:
    """Write the logits, and return whether what the parameters add to `base` is finite.

    `features` is (d, X Y), without rows for tabular policies.
    """
    if features.shape[0] == 0:
        for i in range(logits.size):
            logits[i] = parameter[i]
    else:
        for i in range(logits.size):
            logits[i] = 0.0
    for k in range(features.shape[0]):
        row, value = features[k], parameter[k]
        for i in range(logits.size):
            logits[i] += value * row[i]
    finite = _finite(logits)
    for i in range(logits.size):
        logits[i] += base[i]
    return finite


@EXACT
def _softmax(
    logits: FloatArray, responses: int, log_policy: FloatArray, policy: FloatArray
) -> None:
    for begin in range(0, logits.size, responses):
        end = begin + responses
        z, pi, log_pi = logits[begin:end], policy[begin:end], log_policy[begin:end]
        top = _largest(z)
        for i in range(responses):
            pi[i] = exp(z[i] - top)
        mass = _sum(pi)
        shift = top + log(mass)
        for i in range(responses):
            log_pi[i] = z[i] - shift
            pi[i] = pi[i] / mass


@EXACT
def _score(
    numbers: FloatArray, log_policy: FloatArray, reference: FloatArray, phi: FloatArray,
    steep: FloatArray,
) -> None:  # fmt: skip
    """Write the link of every response and its derivative in log pi."""
    factor, rate, low, high = numbers[FACTOR], numbers[RATE], numbers[LOW], numbers[HIGH]
    linear, constant = numbers[LINEAR], numbers[CONSTANT]
    if factor == 0.0:
        for i in range(phi.size):
            phi[i] = linear * (log_policy[i] - reference[i]) + constant
            steep[i] = linear
        return
    for i in range(phi.size):
        u = log_policy[i] - reference[i]
        s = rate * u
        inside = low <= s <= high
        power = factor * exp(min(max(s, low), high))
        phi[i] = power + linear * u + constant
        steep[i] = (rate * power if inside else 0.0) + linear


# ---- the comparisons -----------------------------------------------------------------------------


@EXACT
def _logistic(won: float, lost: float, t: float) -> tuple[float, float]:
    """Return `-won log sigma(t) - lost log sigma(-t)` and its derivative."""
    e = exp(-abs(t))
    one = 1.0 + e
    d = 1.0 / one
    # log(1 + e), with what rounding 1 + e lost.
    soft = log(one) + (e - (one - 1.0)) * d
    up, down = (d, e * d) if t >= 0.0 else (e * d, d)
    value = won * (soft + max(-t, 0.0)) + lost * (soft + max(t, 0.0))
    return value, lost * up - won * down


@EXACT
def _outer(
    kind: int, numbers: FloatArray, h: FloatArray, values: FloatArray, slopes: FloatArray
) -> None:
    """Write the outer loss of every h and its derivative."""
    a, b, c = numbers[FIRST], numbers[SECOND], numbers[THIRD]
    if kind == LOGISTIC:
        for i in range(h.size):
            values[i], slopes[i] = _logistic(a, b, h[i] - c)
    elif kind == NEGATIVE_SIGMOID:
        for i in range(h.size):
            e = exp(-abs(h[i]))
            d = 1.0 / (1.0 + e)
            values[i] = -d if h[i] >= 0.0 else -(e * d)
            slopes[i] = -(e * d) * d
    elif kind == HINGE:
        for i in range(h.size):
            values[i] = max(c - h[i], 0.0)
            slopes[i] = -1.0 if h[i] < c else 0.0
    else:
        for i in range(h.size):
            values[i] = a * ((h[i] - c) * (h[i] - c))
            slopes[i] = 2.0 * a * (h[i] - c)


@EXACT
def _compare(
    numbers: FloatArray, winner: IntArray, loser: IntArray, columns: FloatArray, phi: FloatArray,
    inside: FloatArray, h: FloatArray,
) -> None:  # fmt: skip
    """Write h and whether the clip lets it through."""
    beta, clip = numbers[BETA], numbers[CLIP]
    for i in range(h.size):
        up = columns[CHOSEN_WEIGHT, i] * phi[winner[i]]
        gap = beta * (up - columns[REJECTED_WEIGHT, i] * phi[loser[i]])
        inside[i] = beta if abs(gap) <= clip else 0.0
        # A comparison that is not ordered keeps a NaN.
        gap = clip if gap > clip else (-clip if gap < -clip else gap)
        h[i] = gap - columns[GAP, i]


@EXACT
def _pull(
    winner: IntArray, loser: IntArray, columns: FloatArray, inside: FloatArray, slopes: FloatArray,
    table: FloatArray,
) -> None:  # fmt: skip
    """Write `sum_i share_i outer'(h_i) dh_i/dphi` for every response."""
    for i in range(table.size):
        table[i] = 0.0
    for i in range(winner.size):
        slope = columns[SHARE, i] * inside[i] * slopes[i]
        table[winner[i]] += columns[CHOSEN_WEIGHT, i] * slope
        table[loser[i]] -= columns[REJECTED_WEIGHT, i] * slope


@EXACT
def _descend(
    table: FloatArray, steep: FloatArray, imitated: FloatArray, policy: FloatArray, responses: int,
    features: FloatArray, gradient: FloatArray,
) -> None:  # fmt: skip
    """Turn the derivatives in phi into those in the parameters; `table` is used up."""
    for begin in range(0, table.size, responses):
        end = begin + responses
        part, pi = table[begin:end], policy[begin:end]
        slope, wanted = steep[begin:end], imitated[begin:end]
        for i in range(responses):
            part[i] = part[i] * slope[i] - wanted[i]
        total = _sum(part)
        for i in range(responses):
            part[i] -= total * pi[i]
    if features.shape[0] == 0:
        for i in range(table.size):
            gradient[i] = table[i]
    for k in range(features.shape[0]):
        gradient[k] = _dot(features[k], table)


@EXACT
def _take(
    rows: IntArray, winner: IntArray, loser: IntArray, columns: FloatArray, imitation: float,
    some_winner: IntArray, some_loser: IntArray, some: FloatArray, imitated: FloatArray,
) -> int:  # fmt: skip
    """Copy the comparisons of a batch; return their number, pairs of equals left out."""
    for i in range(imitated.size):
        imitated[i] = 0.0
    share, n = 1.0 / rows.size, 0
    for k in range(rows.size):
        u = rows[k]
        if u < winner.size:
            some_winner[n], some_loser[n] = winner[u], loser[u]
            for c in range(COLUMNS):
                some[c, n] = columns[c, u]
            some[SHARE, n] = share
            imitated[winner[u]] += imitation * share * columns[CHOSEN_WEIGHT, u]
            n += 1
    return n


@EXACT
def _move(
    kind: int, settings: FloatArray, parameter: FloatArray, gradient: FloatArray, rate: float,
    number: int, moments: FloatArray,
) -> None:  # fmt: skip
    mean, square = moments[0], moments[1]
    first, second = settings[0], settings[1]
    if kind == ADAM:
        scale, spread = 1.0 - first**number, 1.0 - second**number
        for i in range(parameter.size):
            mean[i] = first * mean[i] + (1.0 - first) * gradient[i]
            square[i] = second * square[i] + (1.0 - second) * (gradient[i] * gradient[i])
            size = math.sqrt(square[i] / spread) + settings[2]
            parameter[i] -= rate * (mean[i] / scale) / size
        return
    for i in range(parameter.size):
        mean[i] = first * mean[i] + gradient[i]
        parameter[i] -= rate * mean[i]


@EXACT
def _record(
    loss: float, gradient: FloatArray, tables: FloatArray, log_policy: FloatArray,
    policy: FloatArray, desk: FloatArray, record: FloatArray,
) -> None:  # fmt: skip
    """Write a record, in the order of `trajectory.RECORDED`; `desk` is used up."""
    for i in range(desk.size):
        desk[i] = log_policy[i] - tables[LOG_REFERENCE, i]
    record[0] = loss
    record[1] = math.sqrt(_dot(gradient, gradient))
    record[2] = _dot(policy, tables[GOLD])
    record[3] = _dot(policy, tables[PROXY])
    record[4], record[5] = _spent(desk, tables[MASS])
    record[6] = _dot(tables[CHOSEN], log_policy)
    record[7] = _dot(tables[REJECTED], log_policy)


# ---- the path ------------------------------------------------------------------------------------


@EXACT
def walk(
    outer: int, numbers: FloatArray, imitation: float, tied: float, responses: int,
    tables: FloatArray, features: FloatArray, winner: IntArray, loser: IntArray,
    columns: FloatArray, optimizer: int, settings: FloatArray, rates: FloatArray, place: IntArray,
    rows: IntArray, starts: IntArray, begin: int, end: int, parameter: FloatArray,
    moments: FloatArray, recorded: FloatArray, log_policy: FloatArray,
) -> int:  # fmt: skip
    """Take steps `begin` to `end - 1`; return how many were taken when parameters left the floats.

    That is -1 if they did not.  `place[k]` is the column of `recorded` for the state after k steps,
    or -1; the state after `end` steps is recorded only at the very end.  Batch `k - begin` of
    `rows` is that of step k; without `starts`, every step takes all comparisons.
    """
    size, pairs = log_policy.size, winner.size
    full = starts.size == 0
    most = 0
    for k in range(starts.size - 1):
        most = max(most, starts[k + 1] - starts[k])
    logits, policy, phi, steep = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    table, shift, some_imitated = np.empty(size), np.empty(size), np.empty(size)
    desk = np.empty((4, max(pairs, most)))
    gradient = np.empty(parameter.size)
    some_winner, some_loser = np.empty(most, np.int64), np.empty(most, np.int64)
    some = np.empty((COLUMNS, most))
    for step in range(begin, end + 1):
        last = step == end
        if last and end < rates.size:
            return -1
        if not _logits(parameter, features, tables[BASE], logits):
            return step
        _softmax(logits, responses, log_policy, policy)
        _score(numbers, log_policy, tables[LINK_REFERENCE], phi, steep)
        # All comparisons for a record and for a full step, then the batch if there is one.
        for turn in range(2):
            whole = turn == 0
            if (whole and not full and place[step] < 0) or (not whole and (full or last)):
                continue
            if whole:
                n, at_winner, at_loser, of, wanted = (
                    pairs, winner, loser, columns, tables[IMITATED],
                )  # fmt: skip
            else:
                drawn = rows[starts[step - begin] : starts[step - begin + 1]]
                n = _take(
                    drawn, winner, loser, columns, imitation, some_winner, some_loser, some,
                    some_imitated,
                )  # fmt: skip
                at_winner, at_loser, of, wanted = some_winner, some_loser, some, some_imitated
            at_winner, at_loser, of = at_winner[:n], at_loser[:n], of[:, :n]
            inside, h, values, slopes = desk[0, :n], desk[1, :n], desk[2, :n], desk[3, :n]
            _compare(numbers, at_winner, at_loser, of, phi, inside, h)
            _outer(outer, numbers, h, values, slopes)
            _pull(at_winner, at_loser, of, inside, slopes, table)
            _descend(table, steep, wanted, policy, responses, features, gradient)
            if whole and place[step] >= 0:
                loss = _dot(values, of[SHARE]) + tied - _dot(tables[IMITATED], log_policy)
                _record(
                    loss, gradient, tables, log_policy, policy, shift, recorded[:, place[step]]
                )  # fmt: skip
        if not last:
            _move(optimizer, settings, parameter, gradient, rates[step], step + 1, moments)
    return -1
