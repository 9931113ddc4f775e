"""Named families of bandits.

Random families take a `numpy.random.Generator`; a *reward law* is any function
`(rng, shape) -> array`, and the ones here are in `REWARD_LAWS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rlhfsim import checks
from rlhfsim.bandit import ContextualBandit
from rlhfsim.checks import FloatArray
from rlhfsim.frozen import Frozen

RewardLaw = Callable[[np.random.Generator, tuple[int, int]], FloatArray]


def uniform_reward(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Return rewards uniform on [0, 1]."""
    return rng.random(shape)


def gaussian_reward(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Return standard normal rewards."""
    return rng.standard_normal(shape)


def sparse_reward(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Return rewards that are 1 on one random response per prompt and 0 elsewhere."""
    return (rng.random(shape).argsort(axis=1) == 0).astype(np.float64)


def heavy_tailed_reward(rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Return Student-t rewards with 3 degrees of freedom (infinite fourth moment)."""
    return rng.standard_t(3.0, shape)


REWARD_LAWS: tuple[RewardLaw, ...] = (
    uniform_reward,
    gaussian_reward,
    sparse_reward,
    heavy_tailed_reward,
)


def random_bandit(
    n_prompts: int,
    n_responses: int,
    rng: np.random.Generator,
    *,
    skew: float = 1.0,
    reward_law: RewardLaw = uniform_reward,
) -> ContextualBandit:
    """Return a bandit with `pi_ref(.|x) ~ Dirichlet(1/skew, ..., 1/skew)` and uniform `rho`.

    Parameters
    ----------
    n_prompts, n_responses : int
    rng : numpy.random.Generator
    skew : number
        Positive; 1 is uniform on the simplex, larger is more peaked (worse coverage).
    reward_law : function `(rng, shape) -> array`
    """
    shape = _shape(n_prompts, n_responses)
    rng = checks.generator("rng", rng)
    skew = checks.positive_number("skew", skew)
    reference = rng.dirichlet(np.full(shape[1], 1.0 / skew), size=shape[0])
    return ContextualBandit(_uniform(shape[0]), reference, reward_law(rng, shape))


def zipf_bandit(
    n_prompts: int,
    n_responses: int,
    rng: np.random.Generator,
    *,
    exponent: float = 1.0,
    reward_law: RewardLaw = uniform_reward,
) -> ContextualBandit:
    """Return a bandit with Zipf tails, `pi_ref(y|x)` proportional to `rank(y)^-exponent`.

    Ranks are a fresh permutation of the responses for each prompt, so rank and reward are
    independent.

    Parameters
    ----------
    exponent : number
        Non-negative; 0 is uniform.
    """
    shape = _shape(n_prompts, n_responses)
    rng = checks.generator("rng", rng)
    exponent = checks.positive_number("exponent", exponent, zero=True)
    weights = np.arange(1, shape[1] + 1, dtype=np.float64) ** -exponent
    ranks = rng.permuted(np.tile(np.arange(shape[1]), (shape[0], 1)), axis=1)
    reference = (weights / weights.sum())[ranks]
    return ContextualBandit(_uniform(shape[0]), reference, reward_law(rng, shape))


@dataclass(frozen=True, eq=False)
class LogLinearInstance(Frozen):
    """A bandit with linear rewards and a log-linear reference, and what generated it."""

    bandit: ContextualBandit
    #: (X, Y, d) features, each of norm at most 1.
    features: FloatArray
    #: (d,) true parameter: `r*(x, y) = <parameter, features[x, y]>`.
    parameter: FloatArray
    #: (d,) reference parameter: `pi_ref` proportional to `exp <reference_parameter, features>`.
    reference_parameter: FloatArray

    def __post_init__(self) -> None:
        """Copy and freeze."""
        for name in ("features", "parameter", "reference_parameter"):
            object.__setattr__(self, name, checks.frozen(getattr(self, name)))


def log_linear_bandit(
    n_prompts: int,
    n_responses: int,
    dimension: int,
    rng: np.random.Generator,
    *,
    norm: float = 1.0,
    reference_norm: float = 1.0,
) -> LogLinearInstance:
    """Return a bandit with `r* = <theta*, phi>`, `pi_ref` proportional to `exp <theta_ref, phi>`.

    Features are uniform in the unit ball of R^d; the parameters are uniform on spheres of radius
    `norm` and `reference_norm`.  The linear setting of arXiv 2312.11456.
    """
    shape = _shape(n_prompts, n_responses)
    d = checks.whole_number("dimension", dimension, least=1)
    rng = checks.generator("rng", rng)
    norm = checks.positive_number("norm", norm)
    reference_norm = checks.positive_number("reference_norm", reference_norm, zero=True)

    def directions(*size: int) -> FloatArray:
        normal = rng.standard_normal((*size, d))
        return np.asarray(normal / np.linalg.norm(normal, axis=-1, keepdims=True))

    features = directions(*shape) * rng.random((*shape, 1)) ** (1.0 / d)
    parameter = norm * directions()
    reference_parameter = reference_norm * directions()
    logits = features @ reference_parameter
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    bandit = ContextualBandit(
        _uniform(shape[0]), weights / weights.sum(axis=1, keepdims=True), features @ parameter
    )
    return LogLinearInstance(bandit, features, parameter, reference_parameter)


@dataclass(frozen=True, eq=False)
class PropositionA1(Frozen):
    """The instance on which KL regularization is not enough, for one sample size."""

    n: int
    bandit: ContextualBandit
    #: (2, 1, 3): the truth `r*` and the reward `r~` that differs from it on the rare response.
    reward_class: FloatArray
    #: (1, 3): the policy `a_0`, of concentrability 2.
    comparator: FloatArray

    def __post_init__(self) -> None:
        """Copy and freeze."""
        for name in ("reward_class", "comparator"):
            object.__setattr__(self, name, checks.frozen(getattr(self, name)))


def proposition_a1(n: int) -> PropositionA1:
    """Return the instance of Proposition A.1 of arXiv 2407.13399 for `n` preference pairs.

    One prompt, responses `a_0, a_1, a_2`; `pi_ref = (1/2, 1/2 - 1/n, 1/n)`;
    `Delta = 1/(2 ln n)`; `r* = (1/2, 1/2 - Delta, 0)`; the class is `{r*, r~}` with
    `r~ = (1/2, 1/2 - Delta, 1)`; the comparator is `a_0`.  The construction is ours; the
    statement is the paper's.

    Parameters
    ----------
    n : int
        At least 3, so that every probability is positive.
    """
    n = checks.whole_number("n", n, least=3)
    delta = 1.0 / (2.0 * np.log(n))
    reward = np.array([[0.5, 0.5 - delta, 0.0]])
    wrong = np.array([[0.5, 0.5 - delta, 1.0]])
    reference = np.array([[0.5, 0.5 - 1.0 / n, 1.0 / n]])
    return PropositionA1(
        n=n,
        bandit=ContextualBandit(np.ones(1), reference, reward),
        reward_class=np.stack([reward, wrong]),
        comparator=np.array([[1.0, 0.0, 0.0]]),
    )


def _shape(n_prompts: int, n_responses: int) -> tuple[int, int]:
    return (
        checks.whole_number("n_prompts", n_prompts, least=1),
        checks.whole_number("n_responses", n_responses, least=1),
    )


def _uniform(size: int) -> FloatArray:
    return np.full(size, 1.0 / size)
