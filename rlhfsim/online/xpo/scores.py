"""XPO and iterated DPO over all policies, or log-linear ones: local minima, with certificates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray, IntArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.data.counts import as_counts
from rlhfsim.divergences import KL
from rlhfsim.frozen import Frozen
from rlhfsim.online.record import OnlineRecord
from rlhfsim.online.xpo.alpha import Horizon
from rlhfsim.online.xpo.objective import Optimistic, Stationary, left_over, lowest, optimist
from rlhfsim.online.xpo.protocol import Protocol, cumulative, drawn
from rlhfsim.rewards import Linear, Tabular, fit_reward
from rlhfsim.rewards.features import as_features
from rlhfsim.solvers import solve

#: Largest residual of a minimum that is accepted.
ALLOWED = 1e-8


class ScoreRun(NamedTuple):
    """What happened in the rounds of a class with a parameter."""

    record: OnlineRecord
    #: (X, Y) scores `beta (log pi - log p)` of what is learned, up to a constant per prompt.
    scores: FloatArray
    #: (T,) largest gradient of the objective of each round, per comparison.
    residuals: FloatArray
    #: (T, B, 3) prompt, first and second response of each comparison, ...
    drawn: IntArray
    #: ... (T, B) and whether the first one won.
    won: BoolArray


@dataclass(frozen=True, eq=False)
class ScoreXPO(Frozen):
    """The rounds of a `Protocol` over policies `p e^{s/beta}/Z`, `s = w` or `s = <w, phi>`.

    Either a ridge `(ridge/2) |w|^2` is added to the sum of the losses, or, over all policies, their
    scores lie within `[0, r_max]`: without both, the optimistic term has no minimum.  With
    `alpha = 0` the minimum of every round is that of DPO over the class, `fit_reward` of
    `Tabular(ridge=...)`, `Tabular(r_max=...)` or `Linear(features, ridge=...)`; with optimism it is
    the lowest that is found by descent from that one, from the parameter of the round before, and
    from the optimists (see `objective`) about each response, and about those that the comparisons
    and the opponent's draws pull down the least; with features, about those that go furthest along
    or against a feature.  It is stationary to `residuals`; that it is global is not proven.

    Parameters
    ----------
    protocol : Protocol
    ridge : float, optional
        Positive, in comparisons per squared unit of the parameter.
    features : (X, Y, d) array, optional
        `phi`, for log-linear policies; all policies without.
    r_max : float, optional
        Positive, in reward units; in place of a ridge, and without features.

    Raises
    ------
    ValueError
        Bad settings, by name, rule and value.

    Source: arXiv 2405.21046, algorithm 1; the ridge is ours.
    """

    protocol: Protocol
    ridge: float | None = None
    features: FloatArray | None = None
    r_max: float | None = None

    def __post_init__(self) -> None:
        """Validate, copy and freeze."""
        if not isinstance(self.protocol, Protocol):
            raise ValueError(f"protocol is a {type(self.protocol).__name__}; it must be a Protocol")
        if (self.ridge is None) == (self.r_max is None):
            raise ValueError(
                f"ridge is {self.ridge!r} and r_max is {self.r_max!r}; exactly one must be given"
            )
        # Their constructors validate.
        if self.ridge is not None:
            object.__setattr__(self, "ridge", Tabular(ridge=self.ridge).ridge)
        else:
            object.__setattr__(self, "r_max", Tabular(r_max=self.r_max).r_max)
        if self.features is not None:
            if self.r_max is not None:
                raise ValueError(f"r_max is {self.r_max!r}; with features it must be None")
            features = as_features(self.features)
            if features.shape[:2] != self.protocol.shape:
                raise ValueError(
                    f"features has shape {features.shape}; "
                    f"its first two axes must be (X, Y) = {self.protocol.shape}"
                )
            object.__setattr__(self, "features", features)

    def run(
        self, rng: np.random.Generator, data: PreferenceData | PairCounts | None = None
    ) -> ScoreRun:
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
        RuntimeError
            Where no stationary point was found.
        """
        own = self.protocol
        _, uniforms = own.uniforms(rng)
        state = _State(self, data)
        prompts = cumulative(own.bandit.prompt_dist)[None]
        fixed = own.fixed_opponent
        opponent = None if fixed is None else cumulative(fixed)
        win = own.law.tensor()
        policies = np.empty((own.rounds, *own.shape))
        residuals = np.empty(own.rounds)
        triples = np.empty((own.rounds, own.batch, 3), dtype=np.int64)
        won = np.empty((own.rounds, own.batch), dtype=np.bool_)
        for t, numbers in enumerate(uniforms):
            policies[t] = state.policy
            function = cumulative(state.policy)
            blocks = numbers[:-1].reshape(4, own.batch)
            x = drawn(np.broadcast_to(prompts, (own.batch, own.shape[0])), blocks[0])
            y = drawn(function[x], blocks[1])
            z = drawn((function if opponent is None else opponent)[x], blocks[2])
            won[t] = blocks[3] < win[x, y, z]
            triples[t] = np.stack((x, y, z), axis=1)
            state.add(x, np.where(won[t], y, z), np.where(won[t], z, y), z)
            residuals[t] = state.minimize(float(self.alphas[t]))
        record = OnlineRecord(
            state.policy,
            own.regret(policies),
            own.regularized_regret(policies),
            own.batch * np.arange(1, own.rounds + 1),
        )
        return ScoreRun(record, state.scores, residuals, triples, won)

    @cached_property
    def alphas(self) -> FloatArray:
        """(T,) the weights of optimism."""
        own = self.protocol
        return own.schedule.values(Horizon(own.rounds, own.beta, None, None))

    @cached_property
    def design(self) -> FloatArray:
        """(X, Y, d) Phi, 0 where the reference is: the features, or the response's own unit."""
        prompts, responses = self.protocol.shape
        unit = np.broadcast_to(np.eye(responses), (prompts, responses, responses))
        table = unit if self.features is None else self.features
        return np.where(self.protocol.reference[..., None] > 0, table, 0.0)

    def model(self) -> Tabular | Linear:
        """Return the reward model whose estimate is DPO's minimum."""
        if self.features is None:
            return Tabular(ridge=self.ridge, r_max=self.r_max)
        return Linear(self.features, ridge=self.ridge)


class _State:
    """The comparisons so far, and the minimum over them."""

    def __init__(self, setting: ScoreXPO, data: PreferenceData | PairCounts | None) -> None:
        prompts, responses = setting.protocol.shape
        self.setting = setting
        self.wins = np.zeros((prompts, responses, responses))
        self.draws = np.zeros((prompts, responses))
        self.policy = setting.protocol.reference
        self.scores = np.zeros((prompts, responses))
        # One parameter for each prompt, or a common one.
        self.blocks = [slice(x, x + 1) for x in range(prompts)]
        if setting.features is not None:
            self.blocks = [slice(0, prompts)]
        self.parameters = [np.zeros(setting.design.shape[-1]) for _ in self.blocks]
        self.changed = np.zeros(prompts, dtype=np.bool_)
        if data is not None:
            self._log(as_counts(data))

    def _log(self, counts: PairCounts) -> None:
        own = self.setting.protocol
        if counts.shape != own.shape:
            raise ValueError(f"data has shape {counts.shape}; it must be (X, Y) = {own.shape}")
        missing = counts.compared & (own.reference == 0)
        if missing.any():
            x, y = (int(axis[0]) for axis in np.nonzero(missing))
            raise ValueError(f"reference[{x}, {y}] is 0; it must be positive on compared responses")
        if counts.count.size:
            self.wins[counts.prompt, counts.winner, counts.loser] = counts.count
            self.changed[counts.prompt] = True
            self.minimize(0.0)

    def add(self, prompt: IntArray, winner: IntArray, loser: IntArray, second: IntArray) -> None:
        """Count the comparisons of a round, and what the opponent drew."""
        apart = winner != loser
        np.add.at(self.wins, (prompt[apart], winner[apart], loser[apart]), 1.0)
        np.add.at(self.draws, (prompt, second), 1.0)
        self.changed[prompt] = True

    def minimize(self, alpha: float) -> float:
        """Move to the minimum over the comparisons so far, and return the largest residual."""
        own = self.setting.protocol
        direct = self._direct()
        worst = 0.0
        for k, block in enumerate(self.blocks):
            start = direct[k]
            problem = Optimistic(
                self.wins[block], self.draws[block], own.reference[block],
                self.setting.design[block], alpha, own.beta, self.setting.ridge or 0.0,
                np.inf if self.setting.r_max is None else self.setting.r_max,
            )  # fmt: skip
            if alpha and (self.changed[block].any() or self._varies):
                found = lowest(problem, self._starts(problem, start, self.parameters[k]))
                self.parameters[k] = found.point
            elif not alpha:
                left = left_over(problem, start, problem.derivatives(start)[0])
                found = Stationary(start, 0.0, float(np.abs(left).max()) / problem.size)
                self.parameters[k] = start
            else:
                continue
            worst = max(worst, found.residual)
            self.scores[block] = problem.scores(self.parameters[k])
        if not worst <= ALLOWED:
            raise RuntimeError(
                f"no stationary point of the objective: residual {worst:.3g} (allowed {ALLOWED:g})"
            )
        self.changed[:] = False
        self.policy = solve(self.scores, own.reference, KL(), own.beta).policy
        return worst

    @property
    def _varies(self) -> bool:
        """Whether the weight of optimism changes from round to round."""
        return bool(np.ptp(self.setting.alphas) > 0)

    def _direct(self) -> list[FloatArray]:
        """Return the parameters of DPO's minimum."""
        fit = fit_reward(self._counts(), self.setting.model())
        if self.setting.features is None:
            return list(fit.reward)
        assert fit.parameter is not None
        return [np.asarray(fit.parameter)]

    def _counts(self) -> PairCounts:
        prompt, winner, loser = np.nonzero(self.wins)
        count = self.wins[prompt, winner, loser]
        return PairCounts(prompt, winner, loser, count, 0.0, self.draws.shape)

    def _starts(
        self, problem: Optimistic, direct: FloatArray, before: FloatArray
    ) -> list[FloatArray]:
        """Return where descents start: DPO, the last round, optimists about single responses."""
        inside = problem.reference > 0
        if self.setting.features is None:
            liked = _liked(problem)
        else:
            # In every prompt, the response that goes furthest in one direction.
            each = np.moveaxis(problem.design, -1, 0)
            scores = np.where(inside, np.concatenate((each, -each)), -np.inf)
            liked = [np.eye(inside.shape[1])[table.argmax(axis=1)] for table in scores]
        return [direct, before, *(optimist(problem, about, direct) for about in liked)]


def _liked(problem: Optimistic) -> list[FloatArray]:
    """Return (1, Y) distributions on each response of a prompt, and on those least pulled down."""
    p = problem.reference[0]
    there = np.flatnonzero(p > 0)
    wins = problem.wins[0]
    pull = problem.alpha / problem.beta * problem.draws[0] + wins.sum(axis=0) - wins.sum(axis=1)
    order = there[np.argsort(pull[there], kind="stable")]
    nested = [np.isin(np.arange(p.size), order[:k]) for k in range(2, there.size)]
    return [np.eye(p.size)[[y]] for y in there] + [
        np.where(kept, p, 0.0)[None] / p[kept].sum() for kept in nested
    ]
