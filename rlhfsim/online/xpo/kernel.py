"""The rounds of a finite class, compiled: draw, label, add to every policy's loss, choose."""

from __future__ import annotations

import math

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.compiling import EXACT

#: Relative rounding of one term of a sum, and how it grows with the root of their number.
_EPS = 2.220446049250313e-16
#: By how much distances may differ that count as equal.
_NEAR = 1e-12


@EXACT
def _place(function: FloatArray, uniform: float) -> int:
    """Return the first place at which a distribution function is above a number."""
    j = 0
    while function[j] <= uniform:
        j += 1
    return j


@EXACT
def _tied(total: float, optimism: float, rounding: float, least: float) -> bool:
    """Return whether only rounding tells an objective from the least one."""
    return total + optimism <= least + rounding * (total + abs(optimism))


@EXACT
def choose(
    total: FloatArray,
    optimism: FloatArray,
    alpha: float,
    rows: float,
    distance: FloatArray,
    uniform: float,
) -> int:
    """Return the policy of least `total + alpha optimism`.

    Of those that only rounding tells apart the nearest is taken, by the (K,) distances from the
    current policy, and of several nearest a uniform one.
    """
    size = total.size
    best = 0
    for k in range(1, size):
        if total[k] + alpha * optimism[k] < total[best] + alpha * optimism[best]:
            best = k
    rounding = _EPS * (16.0 + 4.0 * math.sqrt(rows))
    least = total[best] + alpha * optimism[best]
    least += rounding * (total[best] + alpha * abs(optimism[best]))
    nearest = math.inf
    for k in range(size):
        if _tied(total[k], alpha * optimism[k], rounding, least):
            nearest = min(nearest, distance[k])
    nearest += _NEAR * (1.0 + nearest)
    number = 0
    for k in range(size):
        if distance[k] <= nearest and _tied(total[k], alpha * optimism[k], rounding, least):
            number += 1
    wanted = min(int(uniform * number), number - 1)
    for k in range(size):
        if distance[k] <= nearest and _tied(total[k], alpha * optimism[k], rounding, least):
            if wanted == 0:
                return k
            wanted -= 1
    return best


@EXACT
def play(
    uniforms: FloatArray,
    prompts: FloatArray,
    policies: FloatArray,
    opponent: FloatArray,
    on_policy: bool,
    win: FloatArray,
    loss: FloatArray,
    log_policy: FloatArray,
    alpha: FloatArray,
    total: FloatArray,
    logged: float,
    distance: FloatArray,
    start: int,
    played: IntArray,
    drawn: IntArray,
    won: BoolArray,
) -> None:
    """Run the rounds, and write what was played, drawn and who won.

    Parameters
    ----------
    uniforms : (T, 4 B + 1) array
    prompts : (X,) distribution function
    policies : (K + 1, X, Y) distribution functions
        The last one is that of the first round, where it is not in the class.
    opponent : (X, Y) distribution functions
        Not read with `on_policy`.
    win : (X, Y, Y) array
    loss : (X, Y, Y, K) array
        Of the winner and the loser.
    log_policy : (X, Y, K) array
    alpha : (T,) array
    total : (K,) array
        Losses of logged data; those of the rounds are added.
    logged : float
        Rows of logged data.
    distance : (K + 1, K) array
        From the policies that can be played to those of the class.
    start : int
    played : (T + 1,) array
    drawn : (T, B, 3) array
        Prompt, first and second response.
    won : (T, B) array
        Whether the first response won.
    """
    rounds, batch, _ = drawn.shape
    optimism = 0.0 * total
    rows = logged
    current = start
    for t in range(rounds):
        played[t] = current
        for b in range(batch):
            x = _place(prompts, uniforms[t, b])
            y = _place(policies[current, x], uniforms[t, batch + b])
            second = policies[current, x] if on_policy else opponent[x]
            z = _place(second, uniforms[t, 2 * batch + b])
            first_won = uniforms[t, 3 * batch + b] < win[x, y, z]
            drawn[t, b, 0], drawn[t, b, 1], drawn[t, b, 2] = x, y, z
            won[t, b] = first_won
            rows += 1.0
            for k in range(total.size):
                optimism[k] += log_policy[x, z, k]
            if y != z:
                own = loss[x, y, z] if first_won else loss[x, z, y]
                for k in range(total.size):
                    total[k] += own[k]
        near, tie = distance[current], uniforms[t, 4 * batch]
        current = choose(total, optimism, alpha[t], rows, near, tie)
    played[rounds] = current
