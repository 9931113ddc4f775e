"""The sharp chi-squared regret bound: random instances, equality cases, and KL breaking it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from rlhfsim.bounds import chi_squared_bound, reward_error, sharp_chi_squared_bound, theory_beta
from rlhfsim.checks import FloatArray
from rlhfsim.divergences import ChiSquared
from rlhfsim.findings import Finding, StudyResult
from rlhfsim.randomness import generator_for
from rlhfsim.repro.methods import METHODS
from rlhfsim.solvers import solve

NAME = "sharp_bound"
_HERE = f"rlhfsim.repro.{NAME}"
_SOURCE = "derived: strong concavity, Cauchy-Schwarz"

#: Rounding allowed on a ratio that equals 1.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Settings:
    """How many instances of each kind."""

    random_instances: int = 4_000
    equality_instances: int = 400
    adversarial_instances: int = 4_000
    prompts: int = 3
    responses: int = 6


@dataclass(frozen=True, eq=False)
class Batch:
    """N instances `(r*, r^, p, beta, pi*)` with X prompts each."""

    reward: FloatArray  # (N, X, Y)
    reward_hat: FloatArray  # (N, X, Y)
    reference: FloatArray  # (N, X, Y)
    beta: FloatArray  # (N,)
    comparator: FloatArray  # (N, X, Y)
    prompt_dist: FloatArray  # (X,)


def random_batch(settings: Settings, rng: np.random.Generator) -> Batch:
    """Return instances that spread over the whole range of coverage, error and beta."""
    shape = (settings.random_instances, settings.prompts, settings.responses)
    reference = _dirichlet(rng, shape)
    reward = rng.standard_normal(shape)
    noise = 10.0 ** rng.uniform(-2.0, 1.0, size=(shape[0], 1, 1))
    argmax = reward == reward.max(axis=-1, keepdims=True)
    mixed = rng.random((shape[0], 1, 1)) < 0.5
    return Batch(
        reward=reward,
        reward_hat=reward + noise * rng.standard_normal(shape),
        reference=reference,
        beta=10.0 ** rng.uniform(-2.0, 1.5, size=shape[0]),
        comparator=np.where(mixed, argmax, _dirichlet(rng, shape)),
        prompt_dist=np.full(settings.prompts, 1.0 / settings.prompts),
    )


def equality_batch(settings: Settings, rng: np.random.Generator) -> Batch:
    """Return instances on which the bound is attained.

    `r*_c = (delta + beta (w* - 1))/2` with `|delta| < beta`, which leaves every ratio of the
    learned policy, `(1 + w* - delta/beta)/2`, positive: nothing is clipped.
    """
    shape = (settings.equality_instances, settings.prompts, settings.responses)
    reference = _dirichlet(rng, shape)
    comparator = _dirichlet(rng, shape)
    beta = 10.0 ** rng.uniform(-2.0, 1.5, size=shape[0])
    scale = beta[:, None, None]
    error = scale * rng.uniform(-0.5, 0.5, size=shape)
    error -= (reference * error).sum(axis=-1, keepdims=True)
    reward = 0.5 * (error + scale * (comparator / reference - 1.0))
    rho = np.full(settings.prompts, 1.0 / settings.prompts)
    return Batch(reward, reward - error, reference, beta, comparator, rho)


def aligned_batch(settings: Settings, rng: np.random.Generator) -> Batch:
    """Return instances on which the bound in norms is attained at `beta = eps_c/sqrt(2 D*)`.

    `r*_c = delta = beta (w* - 1)`: the learned reward is constant, and the policy the reference.
    """
    batch = equality_batch(settings, rng)
    reward = batch.beta[:, None, None] * (batch.comparator / batch.reference - 1.0)
    return replace(batch, reward=reward, reward_hat=np.zeros_like(reward))


def adversarial_batch(settings: Settings, rng: np.random.Generator) -> Batch:
    """Return two-response instances: a rare response, overestimated, that KL runs to."""
    n = settings.adversarial_instances
    rare = 10.0 ** rng.uniform(-10.0, -1.0, size=n)
    gap = rng.uniform(0.1, 1.0, size=n)
    over = gap + 10.0 ** rng.uniform(-1.0, 1.0, size=n)
    reference = np.stack([1.0 - rare, rare], axis=-1)[:, None, :]
    zero = np.zeros(n)
    return Batch(
        reward=np.stack([zero, -gap], axis=-1)[:, None, :],
        reward_hat=np.stack([zero, over - gap], axis=-1)[:, None, :],
        reference=reference,
        beta=(over - gap) / np.log(1.0 / rare) * 10.0 ** rng.uniform(-1.0, 1.0, size=n),
        comparator=np.broadcast_to(np.array([[1.0, 0.0]]), reference.shape),
        prompt_dist=np.ones(1),
    )


def evaluate(batch: Batch, method: str, kind: str) -> pd.DataFrame:
    """Return regret and bound of every instance; KL is held against the chi-squared bound."""
    policy = solve(batch.reward_hat, batch.reference, METHODS[method], batch.beta[:, None]).policy
    shortfall = ((batch.comparator - policy) * batch.reward).sum(axis=-1)
    bound = sharp_chi_squared_bound(
        batch.reward, batch.reward_hat, batch.reference, batch.beta, batch.comparator,
        batch.prompt_dist, kl_weight=1.0 if method == "mixed" else 0.0,
    )  # fmt: skip
    regret = shortfall @ batch.prompt_dist
    return pd.DataFrame(
        {
            "kind": kind,
            "method": method,
            "beta": batch.beta,
            "rarest": batch.reference.min(axis=(1, 2)),
            "chi_squared": ChiSquared()(batch.comparator, batch.reference, batch.prompt_dist),
            "epsilon": reward_error(
                batch.reward, batch.reward_hat, batch.reference, batch.prompt_dist
            ),
            "regret": regret,
            "bound": bound,
            "ratio": regret / bound,
        }
    )


def in_norms(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the bound in norms alone, `sqrt(2 D*) eps_c` at the tuned beta."""
    bound = chi_squared_bound(table["epsilon"], table["chi_squared"], table["beta"])
    return table.assign(bound=bound, ratio=table["regret"] / bound)


def tuned(batch: Batch) -> Batch:
    """Return the same instances at `beta = eps_c / sqrt(2 D*)`."""
    epsilon = reward_error(batch.reward, batch.reward_hat, batch.reference, batch.prompt_dist)
    divergence = ChiSquared()(batch.comparator, batch.reference, batch.prompt_dist)
    return Batch(
        batch.reward, batch.reward_hat, batch.reference, theory_beta(epsilon, divergence),
        batch.comparator, batch.prompt_dist,
    )  # fmt: skip


def run(settings: Settings, seed: int) -> StudyResult:
    """Return the scatter of regret against bound and the findings."""
    random, equality, aligned, adversarial = (
        make(settings, generator_for(NAME, make.__name__, seed))
        for make in (random_batch, equality_batch, aligned_batch, adversarial_batch)
    )
    table = pd.concat(
        [
            evaluate(random, "chi2", "random"),
            evaluate(random, "mixed", "random"),
            evaluate(random, "KL", "random"),
            in_norms(evaluate(tuned(random), "chi2", "tuned")),
            in_norms(evaluate(tuned(aligned), "chi2", "aligned")),
            evaluate(equality, "chi2", "equality"),
            evaluate(adversarial, "chi2", "adversarial"),
            evaluate(adversarial, "mixed", "adversarial"),
            evaluate(adversarial, "KL", "adversarial"),
        ],
        ignore_index=True,
    )
    return StudyResult(
        name=NAME,
        title="The sharp chi-squared regret bound",
        question="Is the bound valid, attained, and out of reach for KL?",
        settings=asdict(settings),
        tables={NAME: table},
        findings=_findings(table),
    )


def worst_by_rarity(table: pd.DataFrame) -> FloatArray:
    """Return KL's worst regret/bound in each decade of the rarest response's mass, rarer last."""
    rows = table[(table["method"] == "KL") & (table["kind"] == "adversarial")]
    decade = np.ceil(np.log10(rows["rarest"].to_numpy()))
    return np.array([rows["ratio"].to_numpy()[decade == d].max() for d in np.unique(decade)[::-1]])


def _findings(table: pd.DataFrame) -> tuple[Finding, ...]:
    def worst(method: str, *kinds: str) -> tuple[float, int]:
        rows = table[(table["method"] == method) & table["kind"].isin(kinds)]
        # Unlike pandas, numpy lets a NaN through, and NaN <= 1 is false.
        return float(rows["ratio"].to_numpy().max()), len(rows)

    def upper(claim: str, method: str, *kinds: str) -> Finding:
        ratio, count = worst(method, *kinds)
        holds = ratio <= 1.0 + _TOLERANCE
        return Finding(
            claim, _SOURCE, f"worst regret/bound = {ratio:.6f} over {count} instances",
            "holds" if holds else "violated", holds, NAME,
            f"{_HERE}.evaluate; bound: rlhfsim.bounds.sharp_chi_squared_bound",
        )  # fmt: skip

    equality = table[table["kind"] == "equality"]["ratio"].to_numpy()
    off = float(np.abs(equality - 1.0).max())
    growth = worst_by_rarity(table)
    broken = bool(growth[-1] > 1e4 and np.all(np.diff(growth) > 0))
    attained = off <= _TOLERANCE
    return (
        upper(
            "chi2: regret <= ||delta + beta (w* - 1)||^2 / (4 beta)", "chi2", "random",
            "adversarial",
        ),
        upper(
            "chi2 at beta = eps_c/sqrt(2 D*): regret <= sqrt(C - 1) eps_c", "chi2", "tuned",
            "aligned",
        ),
        upper("chi2 + KL: the same plus beta KL(pi* || p)", "mixed", "random", "adversarial"),
        Finding(
            "equality when nothing is clipped and r*_c = (delta + beta (w* - 1))/2", _SOURCE,
            f"|regret/bound - 1| <= {off:.1e} over {len(equality)} instances",
            "attained" if attained else "not attained", attained, NAME,
            f"{_HERE}.evaluate on {_HERE}.equality_batch",
        ),
        Finding(
            "KL satisfies a bound of this form with some constant", "arXiv 2407.13399, prop. A.1",
            "worst regret/bound as the rarest response thins out, by decades: "
            + ", ".join(f"{ratio:.1e}" for ratio in growth),
            "false" if broken else "not refuted", broken, NAME,
            f"{_HERE}.worst_by_rarity",
        ),
    )  # fmt: skip


def _dirichlet(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Distributions from peaked to flat, bounded away from 0 so that coverage is finite."""
    skew = 10.0 ** rng.uniform(-0.5, 1.0, size=(*shape[:-1], 1))
    weights = rng.standard_gamma(np.broadcast_to(skew, shape)) + 1e-4
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))
