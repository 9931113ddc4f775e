"""The search for a counterexample to a claim, or for the largest ratio it allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal

import numpy as np

from rlhfsim import checks
from rlhfsim.checks import IntArray
from rlhfsim.claims.base import Claim
from rlhfsim.claims.checking import TOLERANCE
from rlhfsim.falsify.certificates import Certificate, Shown, certificate_of
from rlhfsim.falsify.climbing import Found, best_of, climb, polish, relevant
from rlhfsim.falsify.coordinates import Kind, parametrization_of
from rlhfsim.falsify.evaluation import Batch, Evaluator, arrays_of, rows, score
from rlhfsim.falsify.shrinking import plain, shrink, written
from rlhfsim.randomness import generator_for

#: A budget that no search uses up: time ends it.
UNLIMITED = 2**62

#: Random instances per round, among which the starts are chosen.
_SAMPLE = 1000

#: ... and how many of them tell which arrays matter.
_COMPARED = 100

#: Rounds, each with instances of another size, that the budget is divided into at least.
_ROUNDS = 6

#: ... and the most evaluations of one round, so that a search by time sees many.
_LARGEST_ROUND = 40_000

#: A ratio beyond which nothing is left to look for.
_ENOUGH = 1e9

#: What is left for shrinking: a share of the time, or instances to evaluate.
_SHRINKING, _SHRINKING_BUDGET = 0.25, 200_000

#: ... and for sides that are slow, this many times the most instances that a check evaluates.
_SHRINKING_SLOW = 40

#: A shrunken instance keeps this share of the ratio, where the claim is not violated.
_KEPT_RATIO = 0.99

#: ... and where it is, this share of the excess over 1, up to an excess of 1.
_KEPT_EXCESS = 0.25


#: The one certificate that is a proof.
_PROOF: Certificate = "ball arithmetic"


@dataclass(frozen=True)
class Falsification(Generic[Batch]):
    """What a search for a violation gave.

    Attributes
    ----------
    claim : Claim
    violated : bool
        Whether the violation is proved: `certificate` is "ball arithmetic".
    ratio : float
        The ratio at `instance`.
    instance : batch of one
        The shrunken instance: few responses, simple fractions.
    certificate : str
        Of a ratio above 1: "ball arithmetic" (a proof), "stable in floats" (the violation stays
        when every number moves by 1e-12 of itself), or "none".
    reason : str
        Why a ratio above 1 is not proved to be a violation.
    evaluations : int
        Instances evaluated.
    shrunk_from : Found
        The instance of the largest ratio found, and that ratio: the estimate of the supremum.
    arrays : tuple of str
        The arrays on which the claim depends.
    without_ratio : int
        Instances among the evaluated ones that say nothing: the claim raised there, or a side was
        not a number.
    """

    claim: Claim[Any]
    violated: bool
    ratio: float
    instance: Batch
    certificate: Certificate
    reason: str
    evaluations: int
    shrunk_from: Found[Batch]
    arrays: tuple[str, ...]
    without_ratio: int = 0

    @property
    def verdict(self) -> Literal["refuted", "undecided", "not violated"]:
        """Return what is known: the claim is refuted, or nothing is, or it was not violated."""
        if self.violated:
            return "refuted"
        return "undecided" if self.ratio > 1.0 + TOLERANCE else "not violated"

    def describe(self) -> str:
        """Return the arrays that matter, one a line, numbers as fractions where they are."""
        free = parametrization_of(type(self.instance))
        arrays = {
            name: array
            for name, array in arrays_of(self.instance).items()
            if name in self.arrays or name not in free
        }
        width = max(map(len, arrays))
        return "\n".join(f"{name:<{width}} = {_written(a[0])}" for name, a in arrays.items())


def falsify(
    claim: Claim[Batch],
    *,
    seed: int = 0,
    budget: int = 200_000,
    restarts: int = 8,
    seconds: float | None = None,
) -> Falsification[Batch]:
    """Search for an instance that violates the claim, and return the simplest one that does.

    Random instances are the starts of evolution runs, all stepped together, that maximise
    `log(ratio)`; a pattern search polishes the best; then responses are left out and numbers
    rounded while the violation stays (or, without one, 99 % of the ratio).

    Parameters
    ----------
    claim : Claim
        Its family says how the arrays may vary (`rlhfsim.falsify.coordinates`); where it does not,
        only random instances are tried.
    seed : int
        Every random draw follows from it and the name of the claim.
    budget : int
        Instances to evaluate, before polishing and shrinking.
    restarts : int
        Evolution runs per round.
    seconds : float, optional
        Time after which the search ends; the result then depends on the machine.

    Returns
    -------
    Falsification

    Raises
    ------
    ValueError
        Bad input, by name, rule and value; an unknown kind in a `parametrization`; a claim that
        has a ratio at no instance, as it raises or a side is not a number.

    Source: evolution as in arXiv 1604.00772.
    """
    budget = checks.whole_number("budget", budget, least=1)
    restarts = checks.whole_number("restarts", restarts, least=1)
    seed = checks.whole_number("seed", seed, least=0)
    if seconds is not None:
        seconds = checks.positive_number("seconds", seconds)
    if not isinstance(claim, Claim):
        raise ValueError(
            f"claim is a {type(claim).__name__}; only a Claim, with two sides per instance, "
            "can be searched for a violation"
        )
    rng = generator_for("falsify", claim.name, seed)
    evaluator = Evaluator(claim, budget, None if seconds is None else (1 - _SHRINKING) * seconds)
    best, used = _search(evaluator, restarts, rng)
    if np.isnan(best.ratio):
        # An empty search is no evidence for the claim.
        raise ValueError(
            f"claim {claim.name!r} has a ratio at none of {evaluator.evaluations} instances; "
            f"at the last, {evaluator.reason or 'it is not a number'}"
        ) from evaluator.error
    slow = evaluator.claim.most_instances
    left = _SHRINKING_BUDGET if slow is None else min(_SHRINKING_BUDGET, _SHRINKING_SLOW * slow)
    evaluator.allow(left, None if seconds is None else _SHRINKING * seconds)
    return _result(evaluator, best, used, rng)


def _search(
    evaluator: Evaluator, restarts: int, rng: np.random.Generator
) -> tuple[Found[Any], Mapping[str, Kind]]:
    """Return the best instance of all rounds, and the arrays on which the claim depends."""
    family = evaluator.claim.family
    kinds = parametrization_of(family)
    best: Found[Any] | None = None
    used: dict[str, Kind] = {}
    while best is None or not (evaluator.exhausted or best.ratio >= _ENOUGH):
        sample = family.sample(min(evaluator.claim.most_instances or _SAMPLE, _SAMPLE), rng)
        ratios = evaluator.ratios(sample)
        used.update(relevant(evaluator, rows(sample, slice(0, _COMPARED)), kinds))
        k = int(np.argmax(score(ratios)))
        found = Found(rows(sample, slice(k, k + 1)), float(ratios[k]))
        if used:
            starts = rows(sample, _starts(score(ratios), restarts, rng))
            climbed = climb(
                evaluator, starts, used, rng, min(evaluator.budget // _ROUNDS, _LARGEST_ROUND)
            )
            found = max(found, polish(evaluator, climbed, used), key=lambda f: f.score)
        best = found if best is None else max(best, found, key=lambda f: f.score)
    return best, {name: kind for name, kind in kinds.items() if name in used}


def _starts(scores: Any, count: int, rng: np.random.Generator) -> IntArray:
    """Return the best instances and as many random ones."""
    order = np.argsort(-scores, kind="stable")
    top = order[: (count + 1) // 2]
    usable = np.nonzero(np.isfinite(scores))[0]
    others = rng.choice(usable if len(usable) else order, size=count - len(top))
    return np.concatenate([top, others]).astype(np.int64)


def _result(
    evaluator: Evaluator,
    best: Found[Batch],
    used: Mapping[str, Kind],
    rng: np.random.Generator,
) -> Falsification[Batch]:
    """Return the best instance shrunken and certified, or as it is if only so it is certified."""
    kinds = parametrization_of(type(best.instance))
    suspect = best.ratio > 1.0 + TOLERANCE
    least = _KEPT_RATIO * best.ratio
    if suspect:
        least = 1.0 + _KEPT_EXCESS * min(best.ratio - 1.0, 1.0)
    found = shrink(evaluator, best, used, lambda ratio: ratio >= least, rng)
    tidy = best_of(evaluator, plain(found.instance, kinds, used))
    small = tidy if tidy.ratio >= least else found
    shown = Shown("none")
    if suspect:
        shown = certificate_of(evaluator, small.instance, used, rng)
        if shown.certificate != _PROOF:
            whole = certificate_of(evaluator, best.instance, used, rng)
            small, shown = (best, whole) if whole.certificate == _PROOF else (small, shown)
    return Falsification(
        claim=evaluator.claim,
        violated=shown.certificate == _PROOF,
        ratio=small.ratio,
        instance=small.instance,
        certificate=shown.certificate,
        reason=shown.reason,
        evaluations=evaluator.evaluations,
        shrunk_from=best,
        arrays=tuple(used),
        without_ratio=evaluator.without_ratio,
    )


def _written(array: Any) -> str:
    if np.ndim(array) == 0:
        return written(float(array))
    return "(" + ", ".join(_written(entry) for entry in array) + ")"
