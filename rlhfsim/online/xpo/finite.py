"""XPO and iterated DPO over a finite class: the minimum of every round is exact."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from rlhfsim import checks, losses
from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts
from rlhfsim.divergences import KL
from rlhfsim.frozen import Frozen
from rlhfsim.losses import log_policy_loss
from rlhfsim.losses.rows import Rows
from rlhfsim.online.record import OnlineRecord
from rlhfsim.online.xpo.alpha import Horizon
from rlhfsim.online.xpo.bound import RegretBound
from rlhfsim.online.xpo.coverability import as_policies, coverability
from rlhfsim.online.xpo.protocol import Protocol, cumulative, require_within


class FiniteRun(NamedTuple):
    """What happened in the rounds of a finite class."""

    record: OnlineRecord
    #: (T + 1,) which policy was played in each round, and which is learned; K stands for the
    #: reference, where it is not in the class.
    played: IntArray
    #: (T, B, 3) prompt, first and second response of each comparison, ...
    drawn: IntArray
    #: ... (T, B) and whether the first one won.
    won: BoolArray


@dataclass(frozen=True, eq=False)
class FiniteXPO(Frozen):
    """The rounds of a `Protocol` over the policies `pi_1, ..., pi_K`.

    The first policy is the reference or, with logged comparisons, the one of the class that
    minimises their loss.  Losses that differ by no more than rounding count as tied; of tied
    policies the one nearest to the current policy is taken, by `KL(pi_t || pi)`, so that what no
    comparison speaks for or against does not move, as in a descent from there.  Of several nearest
    a random one is taken.

    Parameters
    ----------
    protocol : Protocol
    policies : (K, X, Y) array of distributions
        Positive exactly where the reference is; copied in and read-only.  Tables of `K X Y^2`
        losses are made of them.

    Raises
    ------
    ValueError
        Policies of another shape than the bandit's, or that give a response mass that the
        reference gives none, or none where it has some.

    Source: arXiv 2405.21046, algorithm 1.
    """

    protocol: Protocol
    policies: FloatArray

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        if not isinstance(self.protocol, Protocol):
            raise ValueError(f"protocol is a {type(self.protocol).__name__}; it must be a Protocol")
        policies = as_policies("policies", self.policies)
        if policies.shape[1:] != self.protocol.shape:
            raise ValueError(
                f"policies has shape {policies.shape}; "
                f"its last two axes must be (X, Y) = {self.protocol.shape}"
            )
        require_within("policies", policies, self.protocol.reference)
        missing = (policies == 0) & (self.protocol.reference > 0)
        if missing.any():
            index = tuple(int(axis[0]) for axis in np.nonzero(missing))
            raise ValueError(
                f"policies{list(index)} is 0; it must be positive where the reference is, as its "
                "log ratio is infinite otherwise"
            )
        object.__setattr__(self, "policies", checks.frozen(policies))

    def run(
        self, rng: np.random.Generator, data: PreferenceData | PairCounts | None = None
    ) -> FiniteRun:
        """Return what happened in the rounds.

        Parameters
        ----------
        rng : numpy.random.Generator
            Of this run alone: the first rounds of a longer run are a shorter one, unless the
            weight of optimism depends on T (`TheoryAlpha`, `BoundAlpha`).
        data : PreferenceData or PairCounts, optional
            Logged comparisons, whose losses are part of every minimum.

        Raises
        ------
        ValueError
            For data of another shape, or that compare responses without reference mass.
        """
        from rlhfsim.online.xpo.kernel import choose, play

        first, uniforms = self.protocol.uniforms(rng)
        total, rows = self._logged(data)
        start = self._reference_index
        if rows:
            none, near = np.zeros(len(self.policies)), self._distances[start]
            start = int(choose(total, none, 0.0, rows, near, first))
        rounds, batch = self.protocol.rounds, self.protocol.batch
        played = np.empty(rounds + 1, dtype=np.int64)
        drawn = np.empty((rounds, batch, 3), dtype=np.int64)
        won = np.empty((rounds, batch), dtype=np.bool_)
        opponent = self.protocol.fixed_opponent
        play(
            uniforms,
            cumulative(self.protocol.bandit.prompt_dist),
            cumulative(self._with_reference),
            cumulative(self.protocol.reference if opponent is None else opponent),
            opponent is None,
            self._win,
            self._loss_table,
            self._log_table,
            self.alphas,
            total,
            rows,
            self._distances,
            start,
            played,
            drawn,
            won,
        )
        regret, regularized = self._regrets
        record = OnlineRecord(
            self._with_reference[played[-1]],
            regret[played[:-1]],
            regularized[played[:-1]],
            batch * np.arange(1, rounds + 1),
        )
        return FiniteRun(record, played, drawn, won)

    @cached_property
    def coverability(self) -> float:
        """`C_cov` of the class."""
        return coverability(self.policies, self.protocol.bandit.prompt_dist)

    @cached_property
    def alphas(self) -> FloatArray:
        """(T,) the weights of optimism."""
        own = self.protocol
        run = Horizon(own.rounds, own.beta, len(self.policies), self.coverability)
        return own.schedule.values(run)

    def bound(self, delta: float = 0.05) -> RegretBound:
        """Return what bounds the regret of these rounds; see `xpo.bound` for when it applies.

        Parameters
        ----------
        delta : float
            In (0, 1/2).

        Raises
        ------
        ValueError
            For a delta out of range, and rounds to which the bound does not apply: batches, another
            opponent than the reference, other labels than Bradley-Terry's, a class without the
            regularized optimum.
        """
        own = self.protocol
        for name, wanted in (("batch", 1), ("opponent", "reference"), ("labels", None)):
            given = getattr(own, name)
            if not (isinstance(given, str | int | None) and given == wanted):
                raise ValueError(f"{name} is {given!r:.80}; the bound is for {wanted!r}")
        if np.abs(self.policies - own.optimum).max(axis=(1, 2)).min() > checks.ROW_SUM_TOLERANCE:
            raise ValueError("policies lack the regularized optimum, which the bound needs")
        inside = own.reference > 0
        ratio = np.where(inside[..., None], self._log_ratio, 0.0)
        high = np.where(inside[..., None], self._log_ratio, -np.inf).max(axis=1)
        low = np.where(inside[..., None], self._log_ratio, np.inf).min(axis=1)
        return RegretBound(
            len(self.policies), self.coverability, own.beta * float(np.abs(ratio).max()),
            own.beta * float((high - low).max()), delta,
        )  # fmt: skip

    # ---- tables ------------------------------------------------------------------------

    @cached_property
    def _reference_index(self) -> int:
        """Return which policy of the class the reference is; K if none."""
        same = (self.policies == self.protocol.reference).all(axis=(1, 2))
        return int(same.argmax()) if same.any() else len(self.policies)

    @cached_property
    def _with_reference(self) -> FloatArray:
        """Return the (K + 1, X, Y) policies that can be played."""
        return np.concatenate((self.policies, self.protocol.reference[None]))

    @cached_property
    def _distances(self) -> FloatArray:
        """Return the (K + 1, K) `KL(pi || pi_k)` from the policies that can be played."""
        weights = self.protocol.bandit.prompt_dist
        rows = [KL()(pi, self.policies, prompt_dist=weights) for pi in self._with_reference]
        return np.array(rows)

    @cached_property
    def _regrets(self) -> tuple[FloatArray, FloatArray]:
        every = self._with_reference
        return self.protocol.regret(every), self.protocol.regularized_regret(every)

    @cached_property
    def _logs(self) -> tuple[FloatArray, FloatArray]:
        """Return the logarithms of policies and reference, `-inf` where they are 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.policies), np.log(self.protocol.reference)

    @cached_property
    def _win(self) -> FloatArray:
        return np.ascontiguousarray(self.protocol.law.tensor())

    @cached_property
    def _log_table(self) -> FloatArray:
        """Return (X, Y, K) log pi, 0 for responses that are never drawn."""
        log_policy = self._logs[0]
        table = np.where(np.isneginf(log_policy), 0.0, log_policy)
        return np.ascontiguousarray(np.moveaxis(table, 0, -1))

    @cached_property
    def _log_ratio(self) -> FloatArray:
        """Return (X, Y, K) log pi - log p, 0 for responses that are never drawn."""
        log_reference = self._logs[1]
        return self._log_table - np.where(np.isneginf(log_reference), 0.0, log_reference)[..., None]

    @cached_property
    def _loss_table(self) -> FloatArray:
        """Return the (X, Y, Y, K) losses of a comparison, by winner and loser."""
        prompts, responses = self.protocol.shape
        ratio = (
            self._log_table
            - np.where(self.protocol.reference > 0, np.nan_to_num(self._logs[1], neginf=0.0), 0.0)[
                ..., None
            ]
        )
        first, second = ratio[:, :, None, :], ratio[:, None, :, :]
        pair = (a.reshape(-1) for a in np.broadcast_arrays(first, second))
        table = losses.dpo(self.protocol.beta).values(Rows(*pair))
        return table.reshape(prompts, responses, responses, len(self.policies))

    def _logged(self, data: PreferenceData | PairCounts | None) -> tuple[FloatArray, float]:
        """Return the (K,) summed losses of logged data, and how many rows say something."""
        size = len(self.policies)
        if data is None:
            return np.zeros(size), 0.0
        counts = as_counts(data)
        if counts.shape != self.protocol.shape:
            raise ValueError(
                f"data has shape {counts.shape}; it must be (X, Y) = {self.protocol.shape}"
            )
        rows = float(counts.count.sum())
        if rows == 0:
            return np.zeros(size), 0.0
        loss, (log_policy, log_reference) = losses.dpo(self.protocol.beta), self._logs
        means = [log_policy_loss(loss, log, log_reference, counts) for log in log_policy]
        return counts.total * np.array(means), rows
