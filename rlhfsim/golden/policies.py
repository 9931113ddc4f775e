"""Golden optimal policies: the stationary point of a direct loss over tabular policies.

The policy is a softmax of logits.  The gradient of the mean loss in them is taken from the formula
itself, with nothing said about rewards or normalizers, and set to 0 by Newton's method.  The scores
`beta phi(pi/p)` of two responses can differ by anything, so the policies are in bijection with
differences of scores, in which the mean loss is convex: the stationary point is the minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import mpmath as mp

from rlhfsim.golden.formulas import Number, Row

_DIGITS = 80
#: Steps of differences within the gradient, and of those of the gradient.
_INNER, _OUTER = "1e-25", "1e-12"
#: Largest gradient, in nats, at the policy that is returned.
TOLERANCE = "1e-35"
#: Longest step in a logit: formulas hold `exp(w)`, which is beyond any precision elsewhere.
_LONGEST = 2
_ROUNDS = 300


class Problem(NamedTuple):
    """One prompt: a reference over responses, and how often one response beat another."""

    reference: tuple[float, ...]
    #: Rewards of the responses, for the methods that read them.
    rewards: tuple[float, ...]
    #: `(winner, loser, count)`; every response beat and lost, so that the optimum exists.
    counts: tuple[tuple[int, int, int], ...]


PROBLEMS: Mapping[str, Problem] = {
    "three responses": Problem(
        (0.5, 0.375, 0.125),
        (0.25, 1.0, -0.5),
        ((0, 1, 5), (1, 0, 3), (0, 2, 4), (2, 0, 1), (1, 2, 2), (2, 1, 2)),
    ),
    "four responses": Problem(
        (0.0625, 0.5, 0.3125, 0.125),
        (1.5, 0.0, 0.75, -1.0),
        ((0, 1, 7), (1, 0, 4), (1, 2, 6), (2, 1, 3), (2, 3, 5), (3, 2, 4), (3, 0, 2), (0, 3, 3)),
    ),
}


def optimal_policy(
    formula: Callable[[Row], Number],
    problem: Problem,
    beta: float,
    settings: Mapping[str, Number],
) -> tuple[list[Number], Number]:
    """Return the policy of least mean loss, and that loss.

    Raises
    ------
    ArithmeticError
        If Newton's method does not reach a gradient below 1e-35.
    """
    with mp.workdps(_DIGITS):
        target = _Objective(formula, problem, mp.mpf(beta), settings)
        logits = _newton(target, [mp.log(mass) for mass in problem.reference])
        policy = [mp.exp(value) for value in _log_softmax(logits)]
        return policy, target.value(logits)


class _Objective(NamedTuple):
    formula: Callable[[Row], Number]
    problem: Problem
    beta: Number
    settings: Mapping[str, Number]

    def rows(self, logits: Sequence[Number]) -> list[tuple[int, int, Number, Row]]:
        """Return winner, loser, share of the data and row of every triple."""
        log_policy = _log_softmax(logits)
        log_reference = [mp.log(mass) for mass in self.problem.reference]
        total = sum(count for *_, count in self.problem.counts)
        return [
            (i, j, mp.mpf(count) / total, Row(
                log_policy[i], log_policy[j], log_reference[i], log_reference[j],
                self.beta, {**self.settings, **self._rewards(i, j)},
            ))
            for i, j, count in self.problem.counts
        ]  # fmt: skip

    def _rewards(self, winner: int, loser: int) -> dict[str, Number]:
        rewards = self.problem.rewards
        return {
            "chosen_rewards": mp.mpf(rewards[winner]),
            "rejected_rewards": mp.mpf(rewards[loser]),
        }

    def value(self, logits: Sequence[Number]) -> Number:
        """Return the mean loss."""
        return mp.fsum(share * self.formula(row) for _, _, share, row in self.rows(logits))

    def gradient(self, logits: Sequence[Number]) -> list[Number]:
        """Return `G - pi sum G`, G the derivatives of the mean loss in log pi."""
        table = [mp.mpf(0)] * len(logits)
        step = mp.mpf(_INNER)
        for i, j, share, row in self.rows(logits):
            for response, name in ((i, "pc"), (j, "pr")):
                above = self.formula(row._replace(**{name: getattr(row, name) + step}))
                below = self.formula(row._replace(**{name: getattr(row, name) - step}))
                table[response] += share * (above - below) / (2 * step)
        policy = [mp.exp(value) for value in _log_softmax(logits)]
        total = mp.fsum(table)
        return [slope - mass * total for slope, mass in zip(table, policy, strict=True)]


def _log_softmax(logits: Sequence[Number]) -> list[Number]:
    total = mp.log(mp.fsum(mp.exp(value) for value in logits))
    return [value - total for value in logits]


def _newton(target: _Objective, logits: list[Number]) -> list[Number]:
    """Return logits without gradient; the first logit stays, as one of them is free.

    Newton's method, damped (Levenberg-Marquardt) so that every step lowers the loss.
    """
    value, damping = target.value(logits), mp.mpf(1)
    for _ in range(_ROUNDS):
        gradient = target.gradient(logits)[1:]
        if max(abs(slope) for slope in gradient) < mp.mpf(TOLERANCE):
            return logits
        step = _step(_jacobian(target, logits, gradient), gradient, damping)
        moved = None if step is None else _moved(logits, step)
        if moved is None or not (below := target.value(moved)) < value:
            damping *= 4
            continue
        logits, value = moved, below
        damping *= mp.mpf("1e-2")
    raise ArithmeticError("Newton's method has not converged")


def _step(hessian: Number, gradient: Sequence[Number], damping: Number) -> list[Number] | None:
    """Return the damped step, or None where the damped Hessian is not positive definite."""
    size = max(abs(slope) for slope in gradient)
    try:
        step = mp.cholesky_solve(
            hessian + damping * size * mp.eye(len(gradient)), mp.matrix(gradient)
        )
    except ValueError:
        return None
    return [-value for value in step]


def _moved(logits: Sequence[Number], step: Sequence[Number]) -> list[Number] | None:
    """Return the logits after a step, or None for one that is too long."""
    if max(abs(value) for value in step) > _LONGEST:
        return None
    return [logits[0], *(value + move for value, move in zip(logits[1:], step, strict=True))]


def _jacobian(target: _Objective, logits: Sequence[Number], gradient: Sequence[Number]) -> Number:
    h = mp.mpf(_OUTER)
    size = len(gradient)
    matrix = mp.matrix(size, size)
    for column in range(size):
        moved = list(logits)
        moved[column + 1] += h
        for row, slope in enumerate(target.gradient(moved)[1:]):
            matrix[row, column] = (slope - gradient[row]) / h
    return (matrix + matrix.T) / 2
