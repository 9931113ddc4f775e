r"""KTO over all tabular policies: its fixed point, by one root per prompt.

KTO takes no derivative through its baseline z, so it minimises no function of the policy.  It
stops at a policy that minimises the loss for its own baseline, `z = KL(pi || p)`.  With
`k(y) = lambda_D wins(y) - lambda_U losses(y)`, that loss is at one prompt, but for a constant,

    -sum_y k(y) sigma(beta (log w(y) - z)),     sigma(beta log v) = v^beta/(1 + v^beta)

where `v = w e^{-z}`.  For `beta <= 1` it is convex in w where k > 0, and all mass goes there:

    k(y) beta v^{beta-1}/(1 + v^beta)^2 = mu p(y)

for a number mu.  Since `KL(pi || p) = z + e^z E_p[v log v]`, the baseline is the policy's own when
`E_p[v log v] = 0`: one equation in mu, and z follows from `E_p[v] = e^{-z}`.  It can have several
roots (near `beta = 1`, mass on a single response is one); the smallest mu is taken.

Source: arXiv 2402.01306 for the loss; the fixed point derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from rlhfsim.checks import FloatArray
from rlhfsim.learners.direct.task import Minimum, Task
from rlhfsim.losses import KTO
from rlhfsim.losses.empirical import log_policy_gradient

_PASSES = 200
_ALLOWED = 1e-10
_CELLS = 32


def kto_fixed_point(task: Task) -> Minimum:
    """Return the policy that minimises KTO's loss for its own baseline.

    Prompts whose compared responses all lost too often, `k <= 0`, get the reference restricted to
    the responses that lost nothing, among which the loss does not choose.  `baseline` in the notes
    has z of each prompt.

    Raises
    ------
    ValueError
        For `beta > 1`, where the loss for a fixed baseline is not convex; for a prompt at which
        every response of the reference lost too often.
    """
    loss = task.loss
    assert isinstance(loss, KTO)
    if loss.beta > 1:
        raise ValueError(
            f"beta is {loss.beta!r}; over all tabular policies KTO needs beta <= 1, as otherwise "
            "its loss for a fixed baseline is not convex"
        )
    k = _desirability(task, loss)
    policy, baseline = task.reference.copy(), np.zeros(len(k))
    for x in np.nonzero(task.compared.any(axis=1))[0]:
        policy[x], baseline[x] = _prompt(int(x), k[x], task.reference[x], loss.beta)
    residual = _residual(task, policy)
    with np.errstate(divide="ignore"):
        objective = task.objective(np.log(policy))
    allowed = _ALLOWED * (loss.desirable_weight + loss.undesirable_weight)
    failure = ""
    if not residual <= allowed:
        failure = (
            f"no certified fixed point: the gradient is {residual:.3g} (allowed {allowed:.3g})"
        )
    notes = {"unique": False, "baseline": baseline}
    return Minimum(policy, objective, residual, False, None, notes, failure)


def _desirability(task: Task, loss: KTO) -> FloatArray:
    """Return (X, Y) k."""
    counts = task.counts
    k = np.zeros(counts.shape)
    np.add.at(k, (counts.prompt, counts.winner), loss.desirable_weight * counts.count)
    np.add.at(k, (counts.prompt, counts.loser), -loss.undesirable_weight * counts.count)
    return k


def _prompt(x: int, k: FloatArray, p: FloatArray, beta: float) -> tuple[FloatArray, float]:
    """Return the policy and its baseline at one prompt."""
    wanted = (k > 0) & (p > 0)
    policy = np.zeros(len(p))
    if not wanted.any():
        free = (k == 0) & (p > 0)
        if not free.any():
            raise ValueError(
                f"undesirable_weight is too large for prompt {x}: every response of the reference "
                "lost too often, and the loss prefers a single one of them to any mixture"
            )
        policy[free] = p[free] / p[free].sum()
        return policy, float(-np.log(p[free].sum()))
    log_p, log_k = np.log(p[wanted]), np.log(k[wanted])

    def excess(log_mu: float) -> float:
        """Return E_p[v log v]/E_p[v], which has the sign of KL - z."""
        u = _log_ratio(log_k - log_p - log_mu, beta)
        weight = np.exp(log_p + u - (log_p + u).max())
        return float(weight @ np.where(weight > 0, u, 0.0) / weight.sum())

    # At these every v is at least 1, at most 1.
    at_one = float(np.log(beta) - 2.0 * np.log(2.0))
    low, high = ((log_k - log_p).min() + at_one, (log_k - log_p).max() + at_one)
    root = _first_root(excess, low, high) if high > low else low
    u = _log_ratio(log_k - log_p - root, beta)
    logs = log_p + u
    shift = logs.max()
    total = np.exp(logs - shift).sum()
    policy[wanted] = np.exp(logs - shift) / total
    return policy, float(-(shift + np.log(total)))


def _first_root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the first root, seen on a grid, of a function that is not negative at `low`.

    At `high` it is not positive; it is 0 there, a root too, where only one response is left.
    """
    grid = np.linspace(low, high, _CELLS + 1)
    for left, right in pairwise(grid):
        if function(right) < 0:
            return float(brentq(function, left, right, xtol=1e-15, rtol=8.9e-16, maxiter=500))
    return high


def _log_ratio(value: FloatArray, beta: float) -> FloatArray:
    """Return u with `(1 - beta) u + 2 log(1 + e^{beta u}) - log beta = value`, `u = log v`.

    The left side rises with slope `1 - beta + 2 beta sigma(beta u)`, and is convex; at `beta = 1`
    it is bounded below, and u is `-inf` where the value is not reached.
    """
    target = value + np.log(beta)
    reached = target > 0 if beta == 1 else np.ones(len(value), dtype=np.bool_)
    # To the right of the root, from where Newton's method on a convex function is monotone.
    u = np.where(target > 2.0 * np.log(2.0), target / (1.0 + beta), 0.0)
    for _ in range(_PASSES):
        slope = 1.0 - beta + 2.0 * beta * expit(beta * u)
        step = ((1.0 - beta) * u + 2.0 * np.logaddexp(0.0, beta * u) - target) / slope
        u = np.where(reached, u - step, u)
        if np.all(np.abs(np.where(reached, step, 0.0)) <= 1e-15 * (1.0 + np.abs(u))):
            break
    return np.where(reached, u, -np.inf)


def _residual(task: Task, policy: FloatArray) -> float:
    """Return the largest derivative of the mean loss in a logit, the baseline held fixed."""
    with np.errstate(divide="ignore"):
        table = log_policy_gradient(task.loss, np.log(policy), task.log_reference, task.counts)
    return float(np.abs(table - policy * table.sum(axis=1, keepdims=True)).max())
