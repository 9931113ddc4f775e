"""More draws at inference time: what best-of-n gains from coverage, and what pessimism keeps.

`r^` chooses, `r*` judges; `C_inf = max pi*/p`, `D* = D_chi2(pi* || p)`, `eps_c^2 = Var_p[r* - r^]`.
Inference-time pessimism is `rlhfsim.inference.inference_time_pessimism`: rejection sampling of the
chi-squared optimum `pi_beta`, with `M = max pi_beta/p`.

Source: arXiv 2503.21878; constants derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from rlhfsim.bounds import chi_squared_bound
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.claims.base import RESOLUTION, Claim
from rlhfsim.claims.batches import Rows, average, betas, distributions, rewards, sorts
from rlhfsim.divergences import ChiSquared
from rlhfsim.inference import best_of_n, inference_time_pessimism
from rlhfsim.solvers import solve

_SOURCE = "arXiv 2503.21878"
_DERIVED = f"{_SOURCE}; constant derived"


@dataclass(frozen=True, eq=False)
class Judged(Rows):
    """N instances of choosing among n draws by a reward that may be wrong."""

    parametrization: ClassVar[dict[str, str]] = {
        "reference": "simplex", "comparator": "simplex", "reward": "real", "reward_hat": "real",
        "beta": "positive",
    }  # fmt: skip

    reference: FloatArray  # (N, Y), positive
    comparator: FloatArray  # (N, Y): pi*
    reward: FloatArray  # (N, Y): r*
    reward_hat: FloatArray  # (N, Y): r^
    n: FloatArray  # (N,) whole numbers, at least 1
    beta: FloatArray  # (N,)

    def valid(self) -> BoolArray:
        """Return whether the reference has full support."""
        return np.asarray((self.reference > 0).all(axis=1))

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances of 2 to 6 responses and 1 to 1000 draws.

        A third of the rewards are right, a third nearly so.
        """
        sort, size = sorts(n, rng), int(rng.integers(2, 7))
        reward = rewards(sort, (size,), rng)
        step = rng.choice([0.0, 1e-3, 1.0], size=(n, 1))
        best = (reward == reward.max(axis=1, keepdims=True)).astype(np.float64)
        greedy = best / best.sum(axis=1, keepdims=True)
        comparator = np.where(rng.random((n, 1)) < 0.5, greedy, distributions(sort, (size,), rng))
        return cls(
            distributions(sort, (size,), rng), comparator, reward,
            reward + step * rewards(sort, (size,), rng),
            np.floor(10.0 ** rng.uniform(0.0, 3.0, size=n)), betas(sort, rng),
        )  # fmt: skip


JudgedClaim = Claim[Judged]


# ---- sides ---------------------------------------------------------------------------------------


def best(x: Judged, more: int = 0) -> FloatArray:
    """Return the law of the best of n (and more) by `r^`."""
    return best_of_n(x.reference, x.reward_hat, x.n + more)


def pessimistic(x: Judged) -> FloatArray:
    """Return the law of inference-time pessimism."""
    return inference_time_pessimism(x.reference, x.reward_hat, x.n, x.beta)


def optimum(x: Judged) -> FloatArray:
    """Return the chi-squared optimum of `r^`."""
    return solve(x.reward_hat, x.reference, ChiSquared(), x.beta).policy


def _lost(x: Judged, policy: FloatArray, reward: FloatArray) -> FloatArray:
    """`E_pi*[r] - E_pi[r]`."""
    return average(x.comparator - policy, reward - reward.max(axis=1, keepdims=True))


def _width(reward: FloatArray) -> FloatArray:
    return np.asarray(np.ptp(reward, axis=1))


def _miss(ceiling: FloatArray, n: FloatArray) -> FloatArray:
    """`(1 - 1/M)^n`: that rejection sampling accepts none of n draws."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.exp(n * np.log1p(-1.0 / np.maximum(ceiling, 1.0))))


def _unseen(x: Judged) -> FloatArray:
    """`(1 - 1/C_inf)^n` of the comparator."""
    return _miss((x.comparator / x.reference).max(axis=1), x.n)


def _error(x: Judged) -> FloatArray:
    """`eps_c`."""
    delta = x.reward - x.reward_hat
    centred = delta - average(x.reference, delta)[:, None]
    return np.sqrt(average(x.reference, centred**2))


def _excess_coverage(x: Judged, policy: FloatArray) -> FloatArray:
    return 2.0 * ChiSquared().per_prompt(policy, x.reference)


def _best_of_n_bound(x: Judged) -> FloatArray:
    """`range (1 - 1/C_inf)^n + (sqrt(C* - 1) + (n - 1)/sqrt(2n - 1)) eps_c`."""
    spread = np.sqrt(_excess_coverage(x, x.comparator)) + (x.n - 1.0) / np.sqrt(2.0 * x.n - 1.0)
    return _width(x.reward_hat) * _unseen(x) + spread * _error(x)


def _value(x: Judged, policy: FloatArray) -> FloatArray:
    """`J(pi) - min r*`."""
    return average(policy, x.reward - x.reward.min(axis=1, keepdims=True))


def _ceiling(x: Judged) -> FloatArray:
    return np.asarray((optimum(x) / x.reference).max(axis=1))


def _mixture_value(x: Judged) -> FloatArray:
    missed = _miss(_ceiling(x), x.n)
    return (1.0 - missed) * _value(x, optimum(x)) + missed * _value(x, x.reference)


def _pessimism_bound(x: Judged) -> FloatArray:
    """`(eps_c + beta sqrt(2 D*))^2/(4 beta) + range(r*) (1 - 1/M)^n`, `M = 1 + range(r^)/beta`."""
    star = ChiSquared().per_prompt(x.comparator, x.reference)
    sharp = chi_squared_bound(_error(x), star, x.beta)
    return sharp + _width(x.reward) * _miss(1.0 + _width(x.reward_hat) / x.beta, x.n)


def _learned(x: Judged, more: int) -> FloatArray:
    """`E[r^ - min r^]` of inference-time pessimism."""
    law = inference_time_pessimism(x.reference, x.reward_hat, x.n + more, x.beta)
    return average(law, x.reward_hat - x.reward_hat.min(axis=1, keepdims=True))


def _rounding(x: Judged) -> FloatArray:
    largest = np.abs(x.reward).max(axis=1) + np.abs(x.reward_hat).max(axis=1)
    moved = np.sqrt(_excess_coverage(x, x.comparator)) + x.n
    return RESOLUTION * largest * (1.0 + moved)


def _stiff_rounding(x: Judged) -> FloatArray:
    relative = 1.0 + np.abs(x.reward_hat).max(axis=1) / x.beta
    return _rounding(x) * relative


# ---- witnesses -----------------------------------------------------------------------------------


def _judged(
    reference: list[float], reward_hat: list[float], comparator: list[float], n: float,
    *, reward: list[float] | None = None, beta: float = 1.0,
) -> Judged:  # fmt: skip
    p, r_hat, star = (np.array([row]) for row in (reference, reward_hat, comparator))
    r = r_hat if reward is None else np.array([reward])
    return Judged(p, star, r, r_hat, np.array([n]), np.array([beta]))


def _covered() -> Judged:
    """Let the comparator take the best of two responses, which n draws may miss."""
    return _judged([0.2, 0.8], [1.0, 0.0], [1.0, 0.0], 5.0)


def _hacked() -> Judged:
    """Let a response look best and be worst: best-of-n finds it sooner or later."""
    return _judged([0.25, 0.25, 0.5], [1.0, 0.0, 2.0], [1.0, 0.0, 0.0], 4.0, reward=[1.0, 0.5, 0.0])


def _attained() -> Judged:
    """Equality in the sharp bound, and so many draws that none is left unaccepted."""
    p, star = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.2, 0.4])
    aligned = star / p - 1.0
    return _judged(p.tolist(), [0.0, 0.0, 0.0], star.tolist(), 1000.0, reward=aligned.tolist())


def _generic() -> Judged:
    return _judged([0.5, 0.3, 0.2], [1.0, 0.25, 2.0], [0.9, 0.1, 0.0], 3.0, reward=[1.0, 0.5, 0.0])


SCALING_CLAIMS: tuple[JudgedClaim, ...] = (
    JudgedClaim(
        "best-of-n reaches what is covered",
        "E_pi*[r^] - E_best[r^] <= (max r^ - min r^) (1 - 1/C_inf)^n",
        _DERIVED,
        "upper",
        lambda x: _lost(x, best(x), x.reward_hat),
        lambda x: _width(x.reward_hat) * _unseen(x),
        _covered,
        _rounding,
    ),
    JudgedClaim(
        "regret of best-of-n",
        "J(pi*) - J(best) <= range(r^) (1 - 1/C_inf)^n + (sqrt(C* - 1) + (n - 1)/sqrt(2n - 1)) "
        "eps_c",
        _DERIVED,
        "upper",
        lambda x: _lost(x, best(x), x.reward),
        _best_of_n_bound,
        _covered,
        _rounding,
    ),
    JudgedClaim(
        "more draws never hurt",
        "J(best of n) <= J(best of n + 1)",
        f"refuted in {_SOURCE} (reward hacking)",
        "false",
        lambda x: _value(x, best(x)),
        lambda x: _value(x, best(x, 1)),
        _hacked,
        _rounding,
    ),
    JudgedClaim(
        "law of inference-time pessimism",
        "J = (1 - f) J(pi_beta) + f J(p), f = (1 - 1/M)^n",
        _SOURCE,
        "identity",
        lambda x: _value(x, pessimistic(x)),
        _mixture_value,
        _generic,
        _stiff_rounding,
    ),
    JudgedClaim(
        "regret of inference-time pessimism",
        "regret <= (eps_c + beta sqrt(2 D*))^2/(4 beta) + range(r*) (1 - 1/M)^n, "
        "M = 1 + range(r^)/beta",
        _DERIVED,
        "upper",
        lambda x: _lost(x, pessimistic(x), x.reward),
        _pessimism_bound,
        _attained,
        _stiff_rounding,
    ),
    JudgedClaim(
        "inference-time pessimism scales monotonically",
        "E[r^ - min r^] with n draws <= with n + 1",
        _SOURCE,
        "upper",
        lambda x: _learned(x, 0),
        lambda x: _learned(x, 1),
        lambda: _judged([0.5, 0.5], [1.0, 0.0], [1.0, 0.0], 100.0),
        _stiff_rounding,
    ),
)
