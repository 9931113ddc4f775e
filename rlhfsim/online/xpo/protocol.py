"""Who is compared with whom in each round: the protocol of XPO and of iterated DPO."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray, IntArray
from rlhfsim.divergences import KL
from rlhfsim.frozen import Frozen
from rlhfsim.online.gaps import regularized_gap
from rlhfsim.online.xpo.alpha import Alpha, as_alpha
from rlhfsim.preferences import BradleyTerry, PreferenceModel
from rlhfsim.preferences.base import require_model
from rlhfsim.solvers import solve

#: The policy of the second response: the reference, the policy of the round, or a table.
Opponent = ArrayLike | Literal["reference", "policy"]


@dataclass(frozen=True, eq=False)
class Protocol(Frozen):
    """T rounds of B comparisons: `x ~ rho`, `y ~ pi_t(.|x)`, `y~` from the opponent, one label.

    After round t the policy over a class is

        pi_{t+1} = argmin_pi  sum_i -log sigma(beta [u(y+_i) - u(y-_i)])
                              + alpha_t sum_i log pi(y~_i | x_i),   u = log pi - log p,

    over all comparisons so far; the second sum has those of the rounds only, not logged ones.
    `alpha = 0` is DPO, again and again; the optimistic term moves mass away from what the opponent
    plays, which raises the value that the policy's implicit reward promises (claim "optimism").

    Parameters
    ----------
    bandit : ContextualBandit
        The environment; its reference is p, and the first policy.
    beta : float
        Positive, in reward units.
    rounds : int
        T, at least 1.
    batch : int
        B, at least 1.
    alpha : float or Alpha
        The weight of optimism.
    opponent : "reference", "policy" or (X, Y) array of distributions
        Draws `y~`: p, as in the paper, `pi_t`, or a fixed policy, with mass only where p has some.
        Copied in and read-only.
    labels : PreferenceModel, optional
        Bradley-Terry of the bandit's reward by default.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.

    Source: arXiv 2405.21046, algorithm 1.
    """

    bandit: ContextualBandit
    beta: float
    rounds: int
    batch: int = 1
    alpha: float | Alpha = 0.0
    opponent: Opponent = "reference"
    labels: PreferenceModel | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        if not isinstance(self.bandit, ContextualBandit):
            raise ValueError(
                f"bandit is a {type(self.bandit).__name__}; it must be a ContextualBandit"
            )
        object.__setattr__(self, "beta", checks.positive_number("beta", self.beta))
        for name in ("rounds", "batch"):
            whole = checks.whole_number(name, getattr(self, name), least=1)
            object.__setattr__(self, name, whole)
        object.__setattr__(self, "alpha", as_alpha(self.alpha))
        object.__setattr__(self, "opponent", self._as_opponent(self.opponent))
        if self.labels is not None and require_model("labels", self.labels).shape != self.shape:
            raise ValueError(f"labels has shape {self.labels.shape}; it must be {self.shape}")
        scaled, inside = self._scaled_shortfall, self.reference > 0
        if not np.isfinite(scaled).all():
            x, y = np.argwhere(~np.isfinite(scaled))[0]
            raise ValueError(
                f"beta is {self.beta!r}; differences of rewards over it must be finite, and that "
                f"of reward[{x}, {y}] = {self.bandit.reward[x, y].item()!r} from the best, "
                f"{self.bandit.reward[x][inside[x]].max().item()!r}, is not"
            )

    def _as_opponent(self, opponent: Opponent) -> Opponent:
        if isinstance(opponent, str):
            if opponent not in ("reference", "policy"):
                raise ValueError(
                    f"opponent is {opponent!r:.80}; it must be 'reference', 'policy' or a policy"
                )
            return opponent
        table = checks.as_matrix("opponent", opponent, self.shape)
        table = checks.as_distributions("opponent", table)
        require_within("opponent", table, self.bandit.reference)
        return checks.frozen(table)

    @property
    def shape(self) -> tuple[int, int]:
        """`(X, Y)`."""
        return self.bandit.shape

    @property
    def reference(self) -> FloatArray:
        """(X, Y) p."""
        return self.bandit.reference

    @property
    def law(self) -> PreferenceModel:
        """The law of the labels."""
        return BradleyTerry(self.bandit.reward) if self.labels is None else self.labels

    @property
    def schedule(self) -> Alpha:
        """The weight of optimism."""
        return as_alpha(self.alpha)

    @property
    def fixed_opponent(self) -> FloatArray | None:
        """(X, Y) the opponent of every round; None where it is the policy of the round."""
        if isinstance(self.opponent, str):
            return self.reference if self.opponent == "reference" else None
        return np.asarray(self.opponent)

    # ---- exact evaluation --------------------------------------------------------------

    @cached_property
    def optimum(self) -> FloatArray:
        """(X, Y) `pi*_beta`, proportional to `p exp(r*/beta)`."""
        return solve(self.bandit.reward, self.reference, KL(), self.beta).policy

    @cached_property
    def log_optimum(self) -> FloatArray:
        """(X, Y) `log pi*_beta`, -inf where p is 0; finite also where `pi*_beta` underflows."""
        inside = self.reference > 0
        logs = np.full(self.shape, -np.inf)
        np.log(self.reference, out=logs, where=inside)
        logs -= self._scaled_shortfall
        logs -= logs.max(axis=1, keepdims=True)
        return np.asarray(logs - np.log(np.exp(logs).sum(axis=1, keepdims=True)))

    @property
    def _scaled_shortfall(self) -> FloatArray:
        """Return (X, Y) what the reward lacks to the best one over beta, 0 where p is 0."""
        inside, reward = self.reference > 0, self.bandit.reward
        best = np.where(inside, reward, -np.inf).max(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            return np.where(inside, best - reward, 0.0) / self.beta

    def regret(self, policies: FloatArray) -> FloatArray:
        """Return the (...) `J(pi*) - J(pi)` of (..., X, Y) policies, in reward units."""
        return self.bandit.regret(policies)

    def regularized_regret(self, policies: FloatArray) -> FloatArray:
        """Return the (...) `J_beta(pi*_beta) - J_beta(pi) = beta KL(pi || pi*_beta)`.

        In logarithms: the optimum may underflow to 0 where a policy has mass.
        """
        logs = np.full(policies.shape, -np.inf)
        np.log(policies, out=logs, where=policies > 0)
        weights, every = self.bandit.prompt_dist, logs.reshape(-1, *self.shape)
        gaps = [regularized_gap(log, self.log_optimum, self.beta, weights) for log in every]
        return np.array(gaps).reshape(policies.shape[:-2])

    # ---- drawing -----------------------------------------------------------------------

    def uniforms(self, rng: np.random.Generator) -> tuple[float, FloatArray]:
        """Return a number that breaks a first tie, and the (T, 4 B + 1) numbers of the rounds.

        A longer run starts with those of a shorter one.  In a round they are those of the prompts,
        the first and the second responses and the labels, and the last breaks a tie.
        """
        rng = checks.generator("rng", rng)
        width = 4 * self.batch + 1
        numbers = rng.random(1 + self.rounds * width)
        return float(numbers[0]), numbers[1:].reshape(self.rounds, width)


def require_within(name: str, policy: FloatArray, reference: FloatArray) -> None:
    """Raise if a (..., X, Y) policy has mass where the reference has none."""
    outside = (policy > 0) & (reference == 0)
    if outside.any():
        index = tuple(int(axis[0]) for axis in np.nonzero(outside))
        raise ValueError(
            f"{name}{list(index)} is {policy[index].item()!r}; it must be 0 where the reference is"
        )


def cumulative(distributions: FloatArray) -> FloatArray:
    """Return the distribution functions of (..., Y) distributions, `inf` from the last response on.

    The first entry above a uniform number is then a response of positive mass, whatever rounding
    does to the sum.
    """
    sums = np.cumsum(distributions, axis=-1)
    size = distributions.shape[-1]
    last = size - 1 - (distributions[..., ::-1] > 0).argmax(axis=-1)
    return np.where(np.arange(size) >= last[..., None], np.inf, sums)


def drawn(functions: FloatArray, uniforms: FloatArray) -> IntArray:
    """Return the (n,) draws from (n, Y) distribution functions by (n,) uniform numbers."""
    return np.asarray((functions > uniforms[:, None]).argmax(axis=1), dtype=np.int64)
