"""Many learners on the same data at once: what they have in common is done once.

A *regularized* learner (RLHF, and a direct method over all policies whose loss is a likelihood of
its scores) maximises a reward that is fitted to the data.  All that share a divergence go through
one batched `solve`, whatever their beta and their reward; all that share a reward model, through
one fit.  Other learners that fit a reward share the fit; the rest run alone.

Nothing depends on the company: the answer of each learner is, bit for bit, what its own `fit`
returns, because rows of a batch are solved independently of each other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import BoolArray, FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.divergences import KL, Divergence
from rlhfsim.learners.base import Learner, Problem, as_problem
from rlhfsim.learners.bayesian import BayesianPosterior
from rlhfsim.learners.direct import TabularPolicies
from rlhfsim.learners.direct.bradley_terry import fit_likelihood, is_likelihood
from rlhfsim.learners.direct.learner import DirectLearner, require_support
from rlhfsim.learners.direct.scores import centred, divergence_of, require_bijection
from rlhfsim.learners.direct.task import Task
from rlhfsim.learners.explicit import fit_once, model_key, uses_chance
from rlhfsim.learners.pessimism import PessimisticLikelihood, PessimisticMLE
from rlhfsim.learners.rlhf import RLHF
from rlhfsim.learners.sharing import FAILURES, sharing
from rlhfsim.losses import DirectLoss, Logistic
from rlhfsim.rewards import Tabular
from rlhfsim.solvers import solve


class Regularizer(NamedTuple):
    """`beta D(pi || p)`, what a learner subtracts from the value."""

    divergence: Divergence
    #: In reward units.
    beta: float


@dataclass(frozen=True, eq=False)
class Together:
    """What `fit_together` returns: the answer of each learner, in their order; read-only."""

    #: (m, X, Y) policies; NaN for a learner that failed.
    policies: FloatArray
    #: The (X, Y) reward that each fitted, explicitly or as the policy's implicit one; None if none.
    rewards: tuple[FloatArray | None, ...]
    #: (m,) residuals of `Learned`; NaN where there is none.
    residuals: FloatArray
    #: Message of the exception of each learner that failed, by its place.
    errors: Mapping[int, str] = field(default_factory=dict)
    #: `Learned.diagnostics` of each learner that ran alone, by its place.
    diagnostics: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Freeze; what can be written to is copied first."""
        for name in ("policies", "residuals"):
            object.__setattr__(self, name, _read_only(getattr(self, name)))
        rewards = tuple(None if r is None else _read_only(r) for r in self.rewards)
        object.__setattr__(self, "rewards", rewards)
        object.__setattr__(self, "errors", MappingProxyType(dict(self.errors)))
        notes = {i: MappingProxyType(dict(note)) for i, note in self.diagnostics.items()}
        object.__setattr__(self, "diagnostics", MappingProxyType(notes))

    def __reduce__(self) -> tuple[type[Any], tuple[Any, ...]]:
        """Rebuild from the constructor's arguments; a mapping proxy cannot be pickled."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        given["errors"] = dict(self.errors)
        given["diagnostics"] = {i: dict(note) for i, note in self.diagnostics.items()}
        return type(self), (*given.values(),)

    @property
    def fitted(self) -> BoolArray:
        """(m,) whether the learner gave an answer."""
        return np.array([i not in self.errors for i in range(len(self.policies))], dtype=np.bool_)


class LearnerBatch:
    """A sequence of learners, to be fitted together to one dataset after the other.

    Parameters
    ----------
    learners : sequence of Learner
        Objects with a `name` and a `fit`; at least one.

    Attributes
    ----------
    learners : tuple of Learner
    regularizers : tuple of Regularizer or None
        `regularizer_of` each.

    Raises
    ------
    ValueError
        For no learners, and what is no learner.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners = tuple(learners)
        if not self.learners:
            raise ValueError("learners is empty; it must hold at least one learner")
        for i, learner in enumerate(self.learners):
            if isinstance(learner, type) or not isinstance(learner, Learner):
                raise ValueError(
                    f"learners[{i}] is {learner!r:.80}; it must be a learner such as RLHF(1.0)"
                )
        plans = [_plan(learner) for learner in self.learners]
        self._plans = tuple(plans)
        self.regularizers = tuple(
            regularizer_of(learner) if plan is None else Regularizer(plan.divergence, plan.beta)
            for learner, plan in zip(self.learners, plans, strict=True)
        )
        # Numbers in place of keys, whose hashes are slower than the fits.
        self._fits = _numbered([plan and plan.key for plan in plans])
        self._solves = _numbered([plan and _solved_together(plan.divergence) for plan in plans])

    def fit(
        self,
        data: PreferenceData | PairCounts,
        reference: ArrayLike,
        *,
        prompt_dist: ArrayLike | None = None,
        rngs: Sequence[np.random.Generator | None] | None = None,
    ) -> Together:
        """Return what each learner makes of the same data; see `fit_together`."""
        problem = as_problem(data, reference, prompt_dist)
        run = _Run(self, problem, _as_generators(rngs, len(self.learners)))
        with sharing():
            run.solve_batches()
            run.fit_others()
        for array in (run.policies, run.residuals):
            array.setflags(write=False)
        return Together(
            run.policies, tuple(run.rewards), run.residuals, run.errors, run.diagnostics
        )


def fit_together(
    learners: Sequence[Learner],
    data: PreferenceData | PairCounts,
    reference: ArrayLike,
    *,
    prompt_dist: ArrayLike | None = None,
    rngs: Sequence[np.random.Generator | None] | None = None,
) -> Together:
    """Return what each of many learners makes of the same data, bit for bit as if it were alone.

    Learners that share a reward model share its fit, and those that share a divergence one pass of
    `solve` over all their betas.  For many datasets make one `LearnerBatch` and use its `fit`.

    Parameters
    ----------
    learners : sequence of Learner
    data : PreferenceData or PairCounts
    reference : (X, Y) array of distributions
    prompt_dist : (X,) array, optional
    rngs : sequence of numpy.random.Generator or None, optional
        One per learner, no generator twice: with a common one, the draws of a learner would depend
        on those before it.

    Returns
    -------
    Together
        A learner that raises (where its estimate does not exist, say) has its message in `errors`
        and a policy of NaN; the others are not concerned.

    Raises
    ------
    ValueError
        For arguments that no learner can use: data, a reference or a `prompt_dist` as in
        `Learner.fit`, no learners, what is no learner, and another number of generators.
    """
    batch = LearnerBatch(learners)
    return batch.fit(data, reference, prompt_dist=prompt_dist, rngs=rngs)


def regularizer_of(learner: Learner) -> Regularizer | None:
    """Return the regularizer whose optimum, at the true reward, a learner is after; None if none.

    That of RLHF, of its Bayesian and pessimistic relatives, and of direct losses that are
    likelihoods of scores (DPO, f-DPO, chiPO), over whatever class of policies.
    """
    if isinstance(learner, (RLHF, PessimisticMLE, PessimisticLikelihood)):
        return Regularizer(learner.divergence, float(learner.beta))
    if isinstance(learner, BayesianPosterior):
        return Regularizer(KL(), float(learner.beta))
    if isinstance(learner, DirectLearner):
        loss = learner._loss()
        if isinstance(loss, DirectLoss) and is_likelihood(loss):
            divergence = divergence_of(loss, learner._weights())
            return None if divergence is None else Regularizer(divergence, loss.beta)
    return None


# ---- regularized learners ------------------------------------------------------------------------


class _Scores(NamedTuple):
    """What a regularized learner maximises, and what it reports."""

    #: (X, Y).
    maximized: FloatArray
    reported: FloatArray
    #: None for the duality gap.
    residual: float | None


class _Fit(Protocol):
    """From a problem to scores."""

    def __call__(self, problem: Problem, rng: np.random.Generator | None) -> _Scores: ...


class _Plan(NamedTuple):
    """How a regularized learner is taken apart: a fit, and the optimum for its scores."""

    fit: _Fit
    #: Equal for learners whose fits are equal, but for what a generator does.
    key: tuple[Hashable, ...]
    #: The reward model, which may use a generator.
    model: Any
    divergence: Divergence
    beta: float


def _plan(learner: Learner) -> _Plan | None:
    """Return how a learner is taken apart; None for one that is not regularized."""
    # A subclass may do anything, so it runs alone.
    if type(learner) is RLHF:
        model = learner.model
        fit: _Fit = partial(_explicit, model)
        return _Plan(
            fit, ("explicit", *model_key(model)), model, learner.divergence, float(learner.beta)
        )
    if not isinstance(learner, DirectLearner) or type(learner).fit is not DirectLearner.fit:
        return None
    loss, policies = learner._loss(), learner.policies
    if type(policies) is not TabularPolicies or not isinstance(loss, DirectLoss):
        return None
    divergence = divergence_of(loss, learner._weights())
    if divergence is None or not policies.fits_likelihood(loss):
        return None
    try:
        require_bijection(loss)
    except ValueError:
        return None
    assert isinstance(loss.outer, Logistic)
    key = ("direct", loss.outer.label_smoothing, policies)
    fit = partial(_implicit, loss, policies.model)
    return _Plan(fit, key, policies.model, divergence, loss.beta)


def _explicit(model: Any, problem: Problem, rng: np.random.Generator | None) -> _Scores:
    """Fit a reward, as `RLHF` does."""
    reward = fit_once(problem.data, model, rng).reward
    return _Scores(reward, reward, None)


def _implicit(
    loss: DirectLoss, model: Tabular, problem: Problem, rng: np.random.Generator | None
) -> _Scores:
    """Fit scores, as `TabularPolicies` does."""
    task = Task(loss, problem.data, problem.reference)
    if task.rows <= 0:
        raise ValueError("data hold no comparisons")
    fit = fit_likelihood(task, model)
    # What was compared is found by the fit, so that the data are not read again for it.
    require_support(fit.compared, task.reference)
    assert fit.gradient_norm is not None
    reported = centred(fit.reward, fit.compared)
    reported.setflags(write=False)
    return _Scores(fit.reward, reported, fit.gradient_norm / task.rows)


class _Run:
    """One fit of a batch to one dataset."""

    def __init__(
        self,
        batch: LearnerBatch,
        problem: Problem,
        rngs: Sequence[np.random.Generator | None],
    ) -> None:
        self.batch, self.problem, self.rngs = batch, problem, rngs
        number = len(batch.learners)
        self.policies = np.full((number, *problem.shape), np.nan)
        self.rewards: list[FloatArray | None] = [None] * number
        self.residuals = np.full(number, np.nan)
        self.errors: dict[int, str] = {}
        self.diagnostics: dict[int, Mapping[str, Any]] = {}
        self.left = set(range(number))

    def solve_batches(self) -> None:
        """Do the regularized learners, those of each divergence together."""
        groups: dict[int, list[int]] = {}
        ready: dict[int, _Scores | None] = {}
        scores: dict[int, _Scores] = {}
        for i, plan in enumerate(self.batch._plans):
            if plan is None:
                continue
            chance = uses_chance(plan.model, self.rngs[i])
            fit = -1 - i if chance else self.batch._fits[i]
            if fit not in ready:
                ready[fit] = self._scores(plan, i, chance)
            found = ready[fit]
            if found is not None:
                scores[i] = found
                groups.setdefault(self.batch._solves[i], []).append(i)
        for members in groups.values():
            self._solve(members, scores)

    def _scores(self, plan: _Plan, i: int, chance: bool) -> _Scores | None:
        """Return the scores; None where the fit fails, which is then left to be repeated alone."""
        try:
            return plan.fit(self.problem, self.rngs[i])
        except FAILURES as error:
            if chance:  # Not repeated, as its generator may have moved.
                self._fail(i, error)
            return None

    def _solve(self, members: list[int], scores: Mapping[int, _Scores]) -> None:
        """Find the optima for the scores of learners with the same divergence."""
        plans = [plan for i in members if (plan := self.batch._plans[i]) is not None]
        betas = np.array([plan.beta for plan in plans])
        rewards = [scores[i].maximized for i in members]
        one = all(reward is rewards[0] for reward in rewards)
        reward = rewards[0] if one else np.stack(rewards)
        try:
            solution = solve(reward, self.problem.reference, plans[0].divergence, betas[:, None])
        except FAILURES as error:
            if len(members) == 1:
                self._fail(members[0], error)
            else:
                for i in members:
                    self._solve([i], scores)
            return
        gaps = np.abs(solution.gap).max(axis=1)
        self.policies[members] = solution.policy
        for i, gap in zip(members, gaps, strict=True):
            self.rewards[i] = scores[i].reported
            residual = scores[i].residual
            self.residuals[i] = gap if residual is None else residual
        self.left.difference_update(members)

    def _fail(self, i: int, error: Exception) -> None:
        self.errors[i] = str(error)
        self.left.discard(i)

    def fit_others(self) -> None:
        """Let the learners that are left run alone."""
        data, p, rho = self.problem.data, self.problem.reference, self.problem.prompt_dist
        for i in sorted(self.left):
            try:
                learned = self.batch.learners[i].fit(data, p, prompt_dist=rho, rng=self.rngs[i])
            except FAILURES as error:
                self._fail(i, error)
                continue
            self.policies[i] = learned.policy
            self.rewards[i] = learned.reward
            self.diagnostics[i] = learned.diagnostics
            if learned.residual is not None:
                self.residuals[i] = learned.residual


def _solved_together(divergence: Divergence) -> Hashable:
    """Return the key of what is solved in one pass; None unless a kernel takes row after row."""
    from rlhfsim.kernels.launch import kernel_for

    return None if kernel_for(divergence) is None else divergence


def _numbered(keys: Sequence[Hashable]) -> list[int]:
    """Return the place of the first equal key for each one; None is equal to nothing."""
    first: dict[Hashable, int] = {}
    return [i if key is None else first.setdefault(key, i) for i, key in enumerate(keys)]


def _as_generators(
    rngs: Sequence[np.random.Generator | None] | None, number: int
) -> Sequence[np.random.Generator | None]:
    """Return the checked generators, one per learner."""
    if rngs is None:
        return [None] * number
    if isinstance(rngs, np.random.Generator) or len(rngs) != number:
        given = "a Generator" if isinstance(rngs, np.random.Generator) else f"{len(rngs)} entries"
        raise ValueError(f"rngs is {given}; it must be a sequence of {number}, one per learner")
    seen: dict[int, int] = {}
    for i, rng in enumerate(rngs):
        checks.optional_generator(f"rngs[{i}]", rng)
        if rng is None:
            continue
        first = seen.setdefault(id(rng), i)
        if first != i:
            raise ValueError(f"rngs[{i}] is rngs[{first}]; each learner needs one of its own")
    return rngs


def _read_only(array: FloatArray) -> FloatArray:
    return checks.frozen(array) if array.flags.writeable else array
