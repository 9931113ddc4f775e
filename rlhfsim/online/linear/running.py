"""All rounds of many runs, each with its own generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.online.linear import layout
from rlhfsim.online.linear.calling import Members, Outcome, call
from rlhfsim.online.linear.explorations import Enhancer, Exploration, require_exploration
from rlhfsim.online.linear.problem import LinearProblem
from rlhfsim.online.linear.runs import LinearRuns, OnlineError
from rlhfsim.online.linear.shared import Shared, shared_arrays
from rlhfsim.threads import get_threads, in_parallel

# The middle of the smallest step that `Generator.random` makes: no number is then 0 or 1.
_HALF_STEP = 2.0**-54

_FAILURES = {
    layout.NO_ESTIMATE: "the likelihood's maximum could not be certified",
    layout.NO_RADIUS: "the radius over beta is above 1e200, or a margin above 700; lower the "
    "radius, norm_bound or the features",
    layout.NO_SECOND: "the policy of the second response is not a number",
    layout.NO_ENHANCER: "no enhancer was found inside of its confidence set",
    layout.NO_COVARIANCE: "Sigma is not positive definite to rounding; raise regularization",
}


@dataclass(frozen=True, eq=False)
class Job:
    """What all runs of a call share."""

    rounds: int
    batch: int
    moving: bool
    shared: Shared


def run_linear(
    problem: LinearProblem,
    rounds: int,
    rngs: Sequence[np.random.Generator],
    *,
    exploration: Exploration = Enhancer(),  # noqa: B008 - frozen
    batch: int = 1,
    moving: bool = False,
    offline: PreferenceData | PairCounts | None = None,
) -> LinearRuns:
    """Return runs of online RLHF with linear rewards, one for each generator.

    In round t the main agent plays the Gibbs policy `pi_t = anchor e^{<theta_t, phi>/beta}/Z` of
    the ridge estimate `theta_t` of all comparisons so far; a batch of prompts is drawn, for each a
    response of `pi_t` and one of the exploration's policy, and they are labelled.

    Parameters
    ----------
    problem : LinearProblem
    rounds : int
        T, at least 0.
    rngs : sequence of S generators
        Each run draws from its own alone, in the order of its rounds: it depends neither on the
        other runs nor on the number of threads, and longer runs begin like shorter ones.  No two
        may share what they draw from.
    exploration : Exploration
        One of `EXPLORATIONS` with its settings.
    batch : int
        m, comparisons in a round, at least 1.
    moving : bool
        Whether the anchor is the last policy played; otherwise, and first, it is the reference.
    offline : PreferenceData or PairCounts, optional
        Comparisons that are there before the first round (hybrid): in likelihood and Sigma.

    Returns
    -------
    LinearRuns

    Raises
    ------
    ValueError
        Bad input, by name, rule and value.
    OnlineError
        Where an estimate has no certificate, or a radius overflows.

    Source: arXiv 2312.11456, its iterative algorithm, online and hybrid.
    """
    if not isinstance(problem, LinearProblem):
        raise ValueError(f"problem is a {type(problem).__name__}; it must be a LinearProblem")
    rounds = checks.whole_number("rounds", rounds, least=0)
    batch = checks.whole_number("batch", batch, least=1)
    if not isinstance(moving, bool):
        raise ValueError(f"moving is {moving!r:.80}; it must be True or False")
    require_exploration("exploration", exploration)
    own = _generators(rngs)
    job = Job(rounds, batch, moving, shared_arrays(problem, exploration, offline))
    workers = min(get_threads(), len(own))
    parts = in_parallel(_some, [(job, own[k::workers]) for k in range(workers)])
    outcomes = [parts[k % workers][k // workers] for k in range(len(own))]
    return _collected(problem, job, outcomes)


def _some(job: Job, rngs: list[np.random.Generator]) -> list[Outcome]:
    return [_one(job, rng) for rng in rngs]


def _one(job: Job, rng: np.random.Generator) -> Outcome:
    shared = job.shared
    # Before the rounds, whose number must not matter to what the members are.
    members = _members(job, rng)
    sigma = shared.settings[layout.REGULARIZATION] * np.eye(shared.features.shape[1])
    draws = _draws(job, rng)
    return call(shared, draws, sigma, members, batch=job.batch, moving=job.moving)


def _members(job: Job, rng: np.random.Generator) -> Members:
    """Return the members of a bootstrap, with their weights of what is there already."""
    shared, d = job.shared, job.shared.features.shape[1]
    if shared.kind != layout.BOOTSTRAP:
        return Members(np.zeros((0, d)), np.zeros((0, 0)), np.zeros((0, 0)))
    size, start = shared.members, len(shared.won)
    scale = shared.settings[layout.SCALE] / math.sqrt(shared.settings[layout.RIDGE])
    centres = scale * rng.standard_normal((size, d))
    weights = np.zeros((2, size, start + job.rounds * job.batch))
    # The weight of a pair that won k times is a sum of k numbers of the law Exp(1).
    weights[0, :, :start] = rng.standard_gamma(np.tile(shared.won, (size, 1)))
    weights[1, :, :start] = rng.standard_gamma(np.tile(shared.lost, (size, 1)))
    return Members(centres, weights[0], weights[1])


def _draws(job: Job, rng: np.random.Generator) -> FloatArray:
    """Return what each round needs: `4 m` uniform numbers, and those of its exploration."""
    shared, first = job.shared, 4 * job.batch
    extra = 0
    if shared.kind == layout.LAPLACE:
        extra = shared.members * shared.features.shape[1]
    elif shared.kind == layout.BOOTSTRAP:
        extra = 1 + shared.members * job.batch
    draws = rng.random((job.rounds, first + extra))
    if shared.kind == layout.LAPLACE:
        draws[:, first:] = ndtri(draws[:, first:] + _HALF_STEP)
    elif shared.kind == layout.BOOTSTRAP:
        draws[:, first + 1 :] = -np.log1p(-draws[:, first + 1 :])
    return draws


def _collected(problem: LinearProblem, job: Job, outcomes: list[Outcome]) -> LinearRuns:
    for k, outcome in enumerate(outcomes):
        if outcome.status != layout.DONE:
            made = int(np.isfinite(outcome.kept[layout.INFORMATIVE]).sum())
            raise OnlineError(f"run {k}, round {made}: {_FAILURES[outcome.status]}")
    kept = np.array([outcome.kept for outcome in outcomes])
    return LinearRuns(
        policy=np.array([outcome.policy for outcome in outcomes]),
        parameter=np.array([outcome.theta for outcome in outcomes]),
        regret=kept[:, layout.REGRET],
        regularized_regret=kept[:, layout.REGULARIZED],
        uncertainty=kept[:, layout.UNCERTAINTY],
        radius=kept[:, layout.RADIUS],
        residual=kept[:, layout.RESIDUAL],
        error=kept[:, layout.ERROR],
        informative=kept[:, layout.INFORMATIVE].astype(np.int64),
        slope=np.array([outcome.slope for outcome in outcomes]),
        comparisons=job.batch * np.arange(1, job.rounds + 1),
    )


def _generators(rngs: Sequence[np.random.Generator]) -> list[np.random.Generator]:
    if isinstance(rngs, np.random.Generator) or not isinstance(rngs, Sequence) or not rngs:
        raise ValueError(
            f"rngs is {rngs!r:.80}; it must be a list of at least one numpy.random.Generator"
        )
    own = [checks.generator(f"rngs[{k}]", rng) for k, rng in enumerate(rngs)]
    # Two runs that share one would draw in the order in which threads come to them.
    seen: dict[int, int] = {}
    for k, rng in enumerate(own):
        first = seen.setdefault(id(rng.bit_generator), k)
        if first < k:
            same = "is" if own[first] is rng else "draws from"
            other = "generator" if own[first] is rng else "bit_generator"
            raise ValueError(
                f"rngs[{k}] {same} the same {other} as rngs[{first}]; each run needs its own"
            )
    return own
