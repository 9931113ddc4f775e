"""What a claim is: a name, a source, two sides, and the instance on which it is tight.

A witness may be missing only for a stated reason, and then the claim names its instances.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, Self, TypeVar, get_args

import numpy as np

from rlhfsim.checks import BoolArray, FloatArray, whole_number
from rlhfsim.claims.checking import BATCH, TIGHT, TOLERANCE, CheckResult
from rlhfsim.randomness import generator_for


class Instances(Protocol):
    """A batch of instances: a frozen dataclass of arrays whose leading axis is the instance."""

    def __len__(self) -> int:
        """Return the number of instances."""

    def take(self, index: int) -> Self:
        """Return the batch of one instance."""

    @classmethod
    def sample(cls, n: int, rng: np.random.Generator) -> Self:
        """Return `n` random instances: generic, structured and adversarial ones, a third each."""


Batch = TypeVar("Batch", bound=Instances)

#: `upper`: left <= right always.  `tight`: the same, and the witness attains or approaches it.
#: `lower`: left >= right always.  `identity`: left = right.  `false`: left <= right is printed
#: somewhere, and violated by the witness.
Kind = Literal["identity", "upper", "tight", "lower", "false"]

#: Kinds that must have a witness: what they promise is seen there.
_SHOWN: tuple[Kind, ...] = ("tight", "false")


#: Rounding of a sum of probabilities, or of a logarithm of one.
RESOLUTION = 32 * float(np.finfo(np.float64).eps)


def _unit_resolution(instances: object) -> FloatArray:
    return np.asarray(RESOLUTION)


@dataclass(frozen=True)
class Claim(Generic[Batch]):
    """`left(instance) <= right(instance)`, `>=` or `=`, evaluated on batches of instances.

    Parameters
    ----------
    name : str
        Short and unique.
    formula : str
        The statement, in plain text.
    source : str
        Where it is stated: arXiv id or author and year.
    kind : "identity", "upper", "tight", "lower" or "false"
    left, right : functions from a batch of instances to one number per instance
    witness : function returning a batch, or None
        Where the claim is tight or approaches its supremum (`upper`, `lower`; for `tight` the ratio
        must reach `TIGHT` there), or fails (`false`).
    resolution : function from a batch to one number per instance
        The rounding of the smaller side, or of the difference of the sides of an identity; by
        default that of sums of probabilities.
    assumptions : str
        What an instance has to satisfy, beyond what its family guarantees.
    most_instances : int, optional
        How many instances a check evaluates at most, for sides that are slow.
    no_witness : str
        Why there is no witness; given exactly where `witness` is None.
    instances : class of batches, optional
        What `family` is; by default the class of the witness.

    Raises
    ------
    ValueError
        A setting of another sort, by name, rule and value.
    """

    name: str
    formula: str
    source: str
    kind: Kind
    left: Callable[[Batch], FloatArray]
    right: Callable[[Batch], FloatArray]
    witness: Callable[[], Batch] | None = None
    resolution: Callable[[Batch], FloatArray] = _unit_resolution
    assumptions: str = ""
    most_instances: int | None = None
    no_witness: str = ""
    instances: type[Batch] | None = None

    def __post_init__(self) -> None:
        """Validate."""
        for name in ("name", "formula", "source"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value.strip()):
                raise ValueError(f"{name} is {value!r}; it must be a text that is not empty")
        if self.kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise ValueError(f"kind is {self.kind!r}; it must be one of {known}")
        for name in ("left", "right", "resolution", *(["witness"] if self.witness else [])):
            if not callable(value := getattr(self, name)):
                raise ValueError(f"{name} is {value!r:.80}; it must be a function")
        if self.most_instances is not None:
            whole_number("most_instances", self.most_instances, least=1)
        self._check_witness()

    def _check_witness(self) -> None:
        if self.instances is not None and not callable(getattr(self.instances, "sample", None)):
            raise ValueError(
                f"instances is {self.instances!r:.80}; it must be a class of batches with `sample`"
            )
        if (self.witness is None) != bool(self.no_witness):
            raise ValueError(
                f"witness is {self.witness!r:.80} and no_witness is {self.no_witness!r}; "
                "a claim has either a witness or a reason why there is none"
            )
        if self.witness is None and self.kind in _SHOWN:
            raise ValueError(f"witness is None; a claim of kind {self.kind!r} must have one")
        if self.witness is None and self.instances is None:
            raise ValueError("instances is None; without a witness it must be a class of batches")

    @property
    def family(self) -> type[Batch]:
        """Return the class of the instances; `family.sample(n, rng)` draws some."""
        if self.instances is not None:
            return self.instances
        assert self.witness is not None
        return type(self.witness())

    def ratio(self, instances: Batch) -> FloatArray:
        """Return how much of what is allowed each instance uses; above 1 is a violation.

        That is left/right for `upper`, `tight` and `false`, right/left for `lower`, and for an
        identity |left - right| over the rounding allowed: `resolution`, and as much of the larger
        side as `RESOLUTION` is of 1.  Between two negative sides the quotient is turned round, so
        that it still passes 1 where the claim fails; a side above 0 that should lie below one that
        is not makes it infinite.

        The smaller side enters less `resolution`, what rounding alone can make of it: two policies
        that differ by one ulp otherwise violate anything.  `0 <= 0` and `inf <= inf` say nothing
        and count as ratio 0; a side that is not a number counts as a violation.
        """
        return self._evaluated(instances)[0]

    def _evaluated(self, instances: Batch) -> tuple[FloatArray, dict[str, BoolArray]]:
        """Return the ratios, and where each side is not a number."""
        left, right = self._side("left", instances), self._side("right", instances)
        resolution = self.resolution(instances)
        if self.kind == "identity":
            ratio = _mismatch(left, right, resolution)
        elif self.kind == "lower":
            ratio = _quotient(right, left, resolution)
        else:
            ratio = _quotient(left, right, resolution)
        undefined = {"left": np.isnan(left), "right": np.isnan(right)}
        return np.where(undefined["left"] | undefined["right"], np.inf, ratio), undefined

    def _side(self, name: str, instances: Batch) -> FloatArray:
        side = np.asarray(getattr(self, name)(instances), dtype=np.float64)
        shape = (len(instances),)
        if side.shape not in (shape, ()):
            raise ValueError(
                f"{name} of claim {self.name!r} has shape {side.shape}; "
                f"it must be one number per instance, {shape}"
            )
        return np.broadcast_to(side, shape)

    def check(self, instances: int, seed: int) -> CheckResult:
        """Return the worst ratio over the witness and `instances` sampled instances.

        The sample is drawn in batches, each with a generator of its own: a larger sample begins
        with the smaller one.  Where a side is not a number, the details of the result say so; that
        violates a claim, but does not refute one of kind `false`.
        """
        start = time.perf_counter()
        count = whole_number("instances", instances, least=1)
        if self.most_instances is not None:
            count = min(count, self.most_instances)
        witness = None if self.witness is None else self.witness()
        found = _Undefined()
        shown = np.array([-1.0])
        if witness is not None:
            shown, undefined = self._evaluated(witness)
            found.add(shown, undefined)
        witness_ratio = float(shown.max())
        sampled, index, instance = -1.0, None, None
        for first, batch in _batches(self, count, seed):
            ratios, undefined = self._evaluated(batch)
            found.add(ratios, undefined)
            k = int(ratios.argmax())
            if ratios[k] > sampled:
                sampled, index, instance = float(ratios[k]), first + k, batch.take(k)
        if witness is not None and witness_ratio >= sampled:
            index, instance = None, witness.take(int(shown.argmax()))
        worst = max(sampled, witness_ratio)
        # What is not a number refutes nothing.
        counted = found.largest if self.kind == "false" else worst
        verdict, passed = _verdict(self.kind, counted, witness_ratio)
        return CheckResult(
            claim=self.name, source=self.source, kind=self.kind, formula=self.formula,
            instances=count, worst=worst, verdict=verdict, passed=passed,
            worst_index=index, worst_instance=instance, sampled=sampled,
            witness=None if witness is None else witness_ratio, details=found.describe(),
            seconds=time.perf_counter() - start,
        )  # fmt: skip


class _Undefined:
    """Counts of the instances at which a side is not a number, and the largest ratio elsewhere."""

    def __init__(self) -> None:
        self.counts = {"left": 0, "right": 0}
        self.seen = 0
        self.largest = -1.0

    def add(self, ratios: FloatArray, undefined: dict[str, BoolArray]) -> None:
        """Count a batch."""
        self.seen += len(ratios)
        for side, where in undefined.items():
            self.counts[side] += int(where.sum())
        defined = ~(undefined["left"] | undefined["right"])
        self.largest = max(self.largest, float(ratios.max(initial=-1.0, where=defined)))

    def describe(self) -> str:
        """Return which side is not a number at how many; empty where both always are."""
        return ", ".join(
            f"{side} is not a number at {count} of {self.seen}"
            for side, count in self.counts.items()
            if count
        )


def _batches(claim: Claim[Batch], count: int, seed: int) -> Iterator[tuple[int, Batch]]:
    family = claim.family
    for number, first in enumerate(range(0, count, BATCH)):
        rng = generator_for("check", f"{claim.name}/{number}", seed)
        yield first, family.sample(min(BATCH, count - first), rng)


def _quotient(smaller: FloatArray, larger: FloatArray, resolution: FloatArray) -> FloatArray:
    """Return how much of the larger side the smaller one takes, after its rounding."""
    smaller = smaller - resolution
    vacuous = ((smaller <= 0) & (larger >= 0)) | np.isposinf(larger) | np.isneginf(smaller)
    crossed = (smaller >= 0) & (larger <= 0)
    plain = ~vacuous & ~crossed
    negative = plain & (smaller < 0)
    over = np.where(negative, larger, smaller)
    under = np.where(negative, smaller, larger)
    with np.errstate(over="ignore"):
        ratio = np.divide(over, under, out=np.zeros_like(smaller), where=plain)
    return np.where(crossed & ~vacuous, np.inf, ratio)


def _mismatch(left: FloatArray, right: FloatArray, resolution: FloatArray) -> FloatArray:
    """Return the difference of two sides over the rounding allowed."""
    equal = left == right
    finite = np.isfinite(left) & np.isfinite(right)
    a, b = np.where(finite, left, 0.0), np.where(finite, right, 0.0)
    allowed = resolution + RESOLUTION * np.maximum(np.abs(a), np.abs(b))
    difference = np.abs(a - b)
    ratio = np.divide(
        difference, allowed, out=np.where(difference > 0, np.inf, 0.0), where=allowed > 0
    )
    return np.where(equal, 0.0, np.where(finite, ratio, np.inf))


def _verdict(kind: Kind, worst: float, witness: float) -> tuple[str, bool]:
    violated = not worst <= 1.0 + TOLERANCE
    if kind == "false":
        return ("false", True) if violated else ("not refuted", False)
    if violated:
        return "VIOLATED", False
    if kind == "tight" and witness < TIGHT:
        return "not tight", False
    return ("holds" if kind == "identity" or worst < TIGHT else "holds, tight"), True
