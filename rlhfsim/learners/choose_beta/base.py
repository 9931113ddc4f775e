"""What every rule takes and returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from rlhfsim import checks
from rlhfsim.checks import FloatArray
from rlhfsim.data import PairCounts, PreferenceData
from rlhfsim.frozen import Frozen
from rlhfsim.learners.base import Learned, Learner, as_problem

if TYPE_CHECKING:
    import pandas as pd

#: From a beta to the learner that uses it, for example `lambda beta: RLHF(beta, ChiSquared())`.
LearnerFamily = Callable[[float], Learner]

#: Four to a decade, from 0.001 to 1000.
DEFAULT_CANDIDATES: tuple[float, ...] = tuple(float(b) for b in np.geomspace(1e-3, 1e3, 25))


@dataclass(frozen=True, eq=False)
class BetaChoice(Frozen):
    """A beta and why; everything is read-only."""

    #: The rule that chose.
    rule: str
    #: Positive and finite.
    beta: float
    #: Why, in one sentence.
    reason: str
    #: (B,) the betas that were compared, increasing.
    candidates: FloatArray
    #: (B,) what the rule found for each.
    scores: FloatArray
    #: What the scores are, their unit, and which are good.
    score: str
    #: Numbers and arrays that certify the choice; the rule's docstring names them.
    certificate: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate and freeze."""
        object.__setattr__(self, "beta", checks.positive_number("beta", self.beta))
        for name in ("candidates", "scores"):
            object.__setattr__(self, name, checks.frozen(getattr(self, name)))
        notes = {
            name: checks.frozen(value) if isinstance(value, np.ndarray) else value
            for name, value in self.certificate.items()
        }
        object.__setattr__(self, "certificate", MappingProxyType(notes))

    def __reduce__(self) -> tuple[type[Any], tuple[Any, ...]]:
        """Rebuild from the constructor's arguments; a mapping proxy cannot be pickled."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self), (*(given | {"certificate": dict(self.certificate)}).values(),)

    def to_dataframe(self) -> pd.DataFrame:
        """Return the table of candidates, with the columns `beta` and `score`."""
        import pandas as pd

        return pd.DataFrame({"beta": self.candidates, "score": self.scores})


class UndeterminedBetaError(RuntimeError):
    """The rule cannot tell the candidates apart; what it found is in `candidates`, `scores`."""

    def __init__(self, message: str, candidates: ArrayLike, scores: ArrayLike) -> None:
        super().__init__(message)
        self.candidates = checks.frozen(np.asarray(candidates, dtype=np.float64))
        self.scores = checks.frozen(np.asarray(scores, dtype=np.float64))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the table, so that the error survives the way back from a worker process."""
        return type(self), (str(self), self.candidates, self.scores)


@dataclass(frozen=True, eq=False)
class BetaProblem:
    """The checked arguments of `choose_beta`, as a rule sees them."""

    family: LearnerFamily
    counts: PairCounts
    #: (X, Y) distributions.
    reference: FloatArray
    #: (X,) distribution, or None if it was not given.
    prompt_dist: FloatArray | None
    rng: np.random.Generator | None
    #: Of the generator that every fit gets: the same one, so that two betas break ties alike.
    seed: int | None

    def learner(self, beta: float) -> Learner:
        """Return the family's learner.

        Raises
        ------
        ValueError
            If it is no learner, or has another beta.
        """
        learner = self.family(beta)
        if isinstance(learner, type) or not isinstance(learner, Learner):
            raise ValueError(
                f"family({beta!r}) is {learner!r:.80}; it must be a learner, for example RLHF(beta)"
            )
        own = getattr(learner, "beta", beta)
        if own != beta:
            raise ValueError(f"family({beta!r}) has beta {own!r}; it must use the beta it is given")
        return learner

    def fit(self, beta: float, counts: PairCounts | None = None) -> Learned:
        """Return what the family learns at `beta`, from all data or from the part `counts`."""
        return self.learner(beta).fit(
            self.counts if counts is None else counts,
            self.reference,
            prompt_dist=self.prompt_dist,
            rng=self.generator(),
        )

    def generator(self) -> np.random.Generator | None:
        """Return a new generator, the same for every fit; None if none was given."""
        return None if self.seed is None else np.random.default_rng(self.seed)

    def rows(self) -> int:
        """Return n, the number of comparisons, pairs of equals included.

        Raises
        ------
        ValueError
            For counts that are not whole, such as the probabilities of a law.
        """
        every = np.append(self.counts.count, self.counts.equal_pairs)
        broken = every != np.floor(every)
        if broken.any():
            raise ValueError(
                f"data has a count of {every[broken][0].item()!r}; this rule needs the number of "
                "comparisons, so counts must be whole"
            )
        return int(every.sum())


class BetaRule(ABC):
    """A way to choose beta: a frozen dataclass whose fields are its settings."""

    @property
    def name(self) -> str:
        """The rule's class."""
        return type(self).__name__

    @abstractmethod
    def choose(self, problem: BetaProblem) -> BetaChoice:
        """Return the choice for checked arguments; called by `choose_beta`."""


def choose_beta(
    rule: BetaRule,
    family: LearnerFamily,
    data: PreferenceData | PairCounts,
    reference: ArrayLike,
    *,
    prompt_dist: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
) -> BetaChoice:
    """Return the beta that a rule chooses for a family of learners, and why.

    Parameters
    ----------
    rule : BetaRule
        `Oracle`, `SharpTheory`, `FiniteClassTheory`, `PaperSchedule`, `HoldOut` or `Lepski`.
    family : callable from a float to a Learner
        Such as `lambda beta: RLHF(beta, ChiSquared(), Tabular(r_max=1.0))`.
    data : PreferenceData or PairCounts
    reference : (X, Y) array of distributions
    prompt_dist : (X,) array, optional
        As in `Learner.fit`.
    rng : numpy.random.Generator, optional
        Splits the data for `HoldOut`, which needs it, and breaks ties of finite classes, in the
        same way for every beta.

    Returns
    -------
    BetaChoice

    Raises
    ------
    ValueError
        Bad input, by name, rule, index and value; a family to which the rule does not apply.
    UndeterminedBetaError
        If all candidates are as good, as far as the rule can tell.

    Source: the rules state theirs.

    Examples
    --------
    >>> from rlhfsim import ChiSquared, Tabular, random_bandit, sample_preferences
    >>> from rlhfsim.learners import RLHF
    >>> from rlhfsim.learners.choose_beta import SharpTheory
    >>> rng = np.random.default_rng(0)
    >>> bandit = random_bandit(3, 4, rng)
    >>> data = sample_preferences(bandit, 200, rng)
    >>> def family(beta):
    ...     return RLHF(beta, ChiSquared(), Tabular(r_max=1.0))
    >>> choice = choose_beta(SharpTheory(0.2, 0.5), family, data, bandit.reference)
    >>> round(choice.beta, 6), round(choice.certificate["bound"], 6)
    (0.2, 0.2)
    """
    if isinstance(rule, type) or not isinstance(rule, BetaRule):
        raise ValueError(
            f"rule is {rule!r:.80}; it must be a rule such as SharpTheory(epsilon, divergence)"
        )
    # A class such as `DPO` is a function from beta to a learner; a learner itself is not.
    if not callable(family) or (isinstance(family, Learner) and not isinstance(family, type)):
        raise ValueError(f"family is {family!r:.80}; it must be a function from beta to a learner")
    problem = as_problem(data, reference, prompt_dist)
    counts, p, rho = problem.counts, problem.reference, problem.prompt_dist
    chance = checks.optional_generator("rng", rng)
    seed = None if chance is None else int(chance.integers(2**63))
    return rule.choose(BetaProblem(family, counts, p, rho, chance, seed))


def around(beta: float) -> FloatArray:
    """Return the betas whose bounds are listed with a closed form: its multiples by powers of 2."""
    return np.asarray(beta * np.exp2(np.arange(-4.0, 5.0)), dtype=np.float64)


def as_candidates(value: Sequence[float]) -> tuple[float, ...]:
    """Return at least two positive finite betas, which must increase.

    Raises
    ------
    ValueError
        By name, rule, index and value.
    """
    betas = checks.as_positive("candidates", value)
    if betas.ndim != 1 or betas.size < 2:
        raise ValueError(f"candidates has shape {betas.shape}; it must list at least two betas")
    stuck = np.flatnonzero(np.diff(betas) <= 0)
    if stuck.size:
        i = int(stuck[0]) + 1
        raise ValueError(
            f"candidates[{i}] is {betas[i].item()!r}, after {betas[i - 1].item()!r}; "
            "candidates must increase"
        )
    return tuple(betas.tolist())
