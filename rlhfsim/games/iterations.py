"""Iterations on a known game: self-play, Nash-MD and iterative chiPO, with their exact gaps.

All three move scores u, of which `pi(u) = argmax_pi <u, pi> - D(pi || p)` is the policy (for KL,
`p e^u` normalised), and start at the reference, u = 0:

    u_{t+1} = (1 - alpha_t) u_t + eta_t l(., q_t)

- self-play (multiplicative weights, SPO, exact DNO): KL, `alpha = 0`, `q_t = pi_t`; the update is
  `argmax_pi eta l(pi, pi_t) - KL(pi || pi_t)`;
- Nash-MD: KL, `alpha_t = eta_t beta`, and `q_t` the geometric mixture `pi((1 - alpha_t) u_t)`,
  proportional to `pi_t^(1 - alpha) p^alpha`; the update is
  `argmax_pi eta l(pi, q_t) - KL(pi || q_t)`;
- iterative chiPO: chi-squared plus KL, `alpha_t = eta_t beta`, `q_t = pi_t`; the update is
  `argmax_pi eta l(pi, pi_t) - alpha D(pi || p) - (1 - alpha) B(pi, pi_t)`, B the Bregman
  divergence of `D(. || p)`.  With a generator whose slope at 0 is finite, such as chi-squared
  alone, that holds until a response is clipped to mass 0: its score goes on being moved, so that
  what is computed is dual averaging (the lazy mirror descent), of which the mirror step with B,
  from the clipped policy, is not the update.

Source: arXiv 2312.00886 (Nash-MD); 2401.04056 (SPO); 2404.03715 (DNO); 2407.13399 (iterative
chiPO, of which this is the population update).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import KL, ChiSquared, Divergence
from rlhfsim.frozen import Frozen
from rlhfsim.games.game import Game, deviation_gap, expected
from rlhfsim.games.nash import as_regularized, as_settings, gap_of
from rlhfsim.preferences import PreferenceModel
from rlhfsim.preferences.base import require_model
from rlhfsim.solvers import solve

#: Products of advantages and masses that are held at a time.
_ENTRIES = 1 << 20


@dataclass(frozen=True, eq=False)
class GameTrace(Frozen):
    """What T updates from the reference did, for each prompt; arrays are read-only.

    Index t is after t updates; the average is that of the policies after 0, ..., t updates.
    """

    #: (..., X, Y) the policy after T updates, the last iterate.
    policy: FloatArray
    #: (..., X, Y) the average of the T policies after 0, ..., T - 1 updates.
    average: FloatArray
    #: (T + 1, ..., X) exact `duality_gap` of the iterates: deviations are to all responses, those
    #: that the reference lacks and that no iterate plays among them.
    gap: FloatArray
    #: (T + 1, ..., X) exact `duality_gap` of the averages.
    average_gap: FloatArray
    #: (T + 1, ..., X) that of the iterates in the regularized game; None without regularization.
    regularized_gap: FloatArray | None

    def __post_init__(self) -> None:
        """Copy and freeze."""
        for name in ("policy", "average", "gap", "average_gap", "regularized_gap"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, checks.frozen(value))

    @property
    def iterations(self) -> int:
        """T."""
        return len(self.gap) - 1


#: From t = 0, 1, ... to the shrinkage alpha and the step eta, per prompt.
Schedule = Callable[[int], tuple[FloatArray, FloatArray]]


def self_play(
    game: Game, reference: ArrayLike, iterations: int, *, step: ArrayLike | None = None
) -> GameTrace:
    """Return T updates `pi_{t+1} = argmax_pi eta l(pi, pi_t) - KL(pi || pi_t)`.

    The average of T policies has `DG <= 2 log(1/min p)/(eta T) + eta/3` (claim "self-play gap"), so
    that the default step is `sqrt(6 log Y / T)`.

    Parameters
    ----------
    game : PreferenceModel, or (..., X, Y, Y) array of advantages
    reference : (..., X, Y) array of distributions, or (Y,)
        The start; responses of mass 0 are not played.
    iterations : int
        T, at least 1.
    step : number or array, optional
        `eta`, positive, in nats per unit of `l`, broadcast against the prompt axes.

    Returns
    -------
    GameTrace
        Without a regularized gap.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: Freund and Schapire 1999; arXiv 2401.04056; arXiv 2404.03715.
    """
    pay, p, _ = as_regularized(game, reference, KL(), 1.0)
    count = checks.whole_number("iterations", iterations, least=1)
    eta = _self_play_step(pay, p, count, step)
    return _run(pay, p, KL(), lambda t: (np.zeros(()), eta), count, batch=eta.shape)


def sampled_self_play(
    model: PreferenceModel,
    reference: ArrayLike,
    iterations: int,
    comparisons: int,
    rng: np.random.Generator,
    *,
    step: ArrayLike | None = None,
) -> GameTrace:
    """Return self-play with advantages estimated anew in every iteration, as DNO does.

    As `self_play`, with `l(y, pi_t)` replaced by `2 W/K - 1`, W the wins of y in K labelled
    comparisons with opponents drawn from `pi_t`, for every response y.  The gaps that are recorded
    are exact.

    Parameters
    ----------
    model : PreferenceModel
        It labels the comparisons.
    reference : (X, Y) array of distributions
    iterations : int
        T, at least 1.
    comparisons : int
        K, at least 1.
    rng : numpy.random.Generator
    step : number or array, optional
        As `self_play`.

    Returns
    -------
    GameTrace
        Without a regularized gap.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2404.03715 (batched on-policy updates by regression, here over all responses).
    """
    require_model("model", model)
    pay, p, _ = as_regularized(model, checks.as_matrix("reference", reference), KL(), 1.0)
    count = checks.whole_number("iterations", iterations, least=1)
    most = checks.whole_number("comparisons", comparisons, least=1)
    rng = checks.generator("rng", rng)
    eta = _self_play_step(pay, p, count, step)
    wins = model.tensor()

    def estimated(policy: FloatArray) -> FloatArray:
        """Return each response's mean advantage over `comparisons` draws against the policy."""
        # numpy takes no reference that is off by as much as `checks` allow.
        law = policy / policy.sum(axis=-1, keepdims=True)
        shape = np.broadcast_shapes(law.shape[:-1], wins.shape[:-2]) + wins.shape[-2:]
        met = rng.multinomial(most, np.broadcast_to(law[..., None, :], shape))
        return 2.0 * rng.binomial(met, wins).sum(axis=-1) / most - 1.0

    return _run(
        pay, p, KL(), lambda t: (np.zeros(()), eta), count, batch=eta.shape, answer=estimated
    )


def _self_play_step(
    game: FloatArray, p: FloatArray, iterations: int, step: ArrayLike | None
) -> FloatArray:
    given = default_step(p.shape[-1], iterations) if step is None else step
    eta = as_settings("step", given)
    checks.broadcast(step=eta, game=game[..., 0, 0], reference=p[..., 0])
    return eta


def default_step(responses: int, iterations: int) -> float:
    """Return `sqrt(6 log Y / T)`, the step with the least bound on the gap of self-play."""
    return float(np.sqrt(6.0 * np.log(max(responses, 2)) / iterations))


def nash_md(
    game: Game,
    reference: ArrayLike,
    beta: ArrayLike,
    iterations: int,
    *,
    step: ArrayLike | None = None,
) -> GameTrace:
    """Return T updates of Nash mirror descent, `argmax_pi eta l(pi, m_t) - KL(pi || m_t)`.

    `m_t` is proportional to `pi_t^(1 - eta beta) p^(eta beta)`.  The last iterate tends to the
    KL-regularized Nash policy.

    Parameters
    ----------
    game : PreferenceModel, or (..., X, Y, Y) array of advantages
    reference : (..., X, Y) array of distributions, or (Y,)
    beta : number or array
        Positive, in units of `l`, broadcast against the prompt axes: a grid is `beta[:, None]`;
        twice the tau of the source, whose payoff is P.
    iterations : int
        T, at least 1.
    step : number or array, optional
        A constant `eta`, broadcast like beta, with `eta beta <= 1`; by default
        `eta_t = 2 / (beta (t + 2))`, the schedule of the source.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2312.00886, theorem 1.
    """
    pay, p, b = as_regularized(game, reference, KL(), beta)
    count = checks.whole_number("iterations", iterations, least=1)
    schedule = _schedule(pay, p, b, step)
    batch = schedule(0)[1].shape
    return _run(pay, p, KL(), schedule, count, batch=batch, beta=b, mixture=True)


def iterative_chi_po(
    game: Game,
    reference: ArrayLike,
    beta: ArrayLike,
    iterations: int,
    *,
    step: ArrayLike | None = None,
    divergence: Divergence | None = None,
) -> GameTrace:
    """Return T updates of iterative chiPO on a known game.

    `argmax_pi eta l(pi, pi_t) - eta beta D(pi || p) - (1 - eta beta) B(pi, pi_t)` for a divergence
    whose `f'` tends to -inf at 0, such as every one with a KL part; for others, such as chi-squared
    alone, dual averaging: `u_{t+1} = (1 - eta beta) u_t + eta l(., pi_t)`,
    `pi_t = argmax_pi <u_t, pi> - D(pi || p)`, the same until a response is clipped.  The last
    iterate tends to the regularized Nash policy of `solve_nash`.

    Parameters
    ----------
    game, reference, beta, iterations, step
        As `nash_md`.
    divergence : Divergence, optional
        `ChiSquared() + KL()` by default.

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value.

    Source: arXiv 2407.13399 (general preferences).
    """
    divergence = ChiSquared() + KL() if divergence is None else divergence
    pay, p, b = as_regularized(game, reference, divergence, beta)
    count = checks.whole_number("iterations", iterations, least=1)
    schedule = _schedule(pay, p, b, step)
    return _run(pay, p, divergence, schedule, count, batch=schedule(0)[1].shape, beta=b)


def _schedule(
    game: FloatArray, p: FloatArray, beta: FloatArray, step: ArrayLike | None
) -> Schedule:
    if step is None:
        return lambda t: (np.asarray(2.0 / (t + 2.0)), 2.0 / (beta * (t + 2.0)))
    eta = as_settings("step", step)
    checks.broadcast(step=eta, beta=beta, game=game[..., 0, 0], reference=p[..., 0])
    alpha = eta * beta
    if (alpha > 1.0).any():
        worst = np.unravel_index(int(alpha.argmax()), alpha.shape)
        given = np.broadcast_to(eta, alpha.shape)[worst]
        most = 1.0 / np.broadcast_to(beta, alpha.shape)[worst]
        raise ValueError(f"step is {given.item()!r}; it must be at most 1/beta, {most.item()!r}")
    return lambda t: (alpha, np.broadcast_to(eta, alpha.shape))


def _run(
    game: FloatArray,
    p: FloatArray,
    divergence: Divergence,
    schedule: Schedule,
    iterations: int,
    *,
    batch: tuple[int, ...],
    beta: FloatArray | None = None,
    mixture: bool = False,
    answer: Callable[[FloatArray], FloatArray] | None = None,
) -> GameTrace:
    """Return the trace of a schedule, whose steps have the shape `batch`.

    `answer` is what is taken for `l(., q)`, exact by default.
    """
    answer = partial(expected, game) if answer is None else answer
    batch = np.broadcast_shapes(game.shape[:-2], p.shape[:-1], batch)
    scores = np.zeros((*batch, p.shape[-1]))
    policy = np.broadcast_to(p, scores.shape)
    total = np.zeros(scores.shape)
    gaps = _Gaps(game, p, divergence, beta)
    average = policy
    for t in range(iterations + 1):
        total = total + policy
        mean = total / (t + 1.0)
        gaps.add(policy, mean)
        if t == iterations:
            break
        average = mean
        alpha, eta = schedule(t)
        scores = (1.0 - alpha)[..., None] * scores
        opponent = solve(scores, p, divergence, 1.0).policy if mixture else policy
        scores = scores + eta[..., None] * answer(opponent)
        policy = solve(scores, p, divergence, 1.0).policy
    return GameTrace(policy, average, *gaps.finished())


class _Gaps:
    """Collects policies and judges many at a time."""

    def __init__(
        self, game: FloatArray, p: FloatArray, divergence: Divergence, beta: FloatArray | None
    ) -> None:
        self.game, self.p, self.divergence, self.beta = game, p, divergence, beta
        self._most = max(1, _ENTRIES // (game.size + p.size))
        self._waiting: list[tuple[FloatArray, FloatArray]] = []
        self._found: list[tuple[FloatArray, FloatArray, FloatArray | None]] = []

    def add(self, policy: FloatArray, average: FloatArray) -> None:
        """Take the policy and the average of one iteration."""
        self._waiting.append((policy, average))
        if len(self._waiting) >= self._most:
            self._judge()

    def finished(self) -> tuple[FloatArray, FloatArray, FloatArray | None]:
        """Return the gaps of the policies and the averages, and the regularized ones."""
        self._judge()
        last, averages, regularized = zip(*self._found, strict=True)
        if self.beta is None:
            return np.concatenate(last), np.concatenate(averages), None
        return np.concatenate(last), np.concatenate(averages), np.concatenate(regularized)

    def _judge(self) -> None:
        if not self._waiting:
            return
        policies, averages = (np.stack(column) for column in zip(*self._waiting, strict=True))
        self._waiting = []
        regularized = None
        if self.beta is not None:
            regularized = gap_of(policies, self.game, self.p, self.divergence, self.beta)
        self._found.append(
            (
                deviation_gap(policies, self.game),
                deviation_gap(averages, self.game),
                regularized,
            )
        )
