"""Claims made false, in every way that their structure allows, and which of them go unnoticed.

A mutation is a sentence and the forms that it can take; it is caught if `check` refuses one form.
Each claim gets, by its kind,

- the other sign: the larger side negated, the inequality turned round, a refuted one told as true;
- another constant: a bound twice as good (by a little more, as half is the supremum of one), one
  that is said to be tight 1 % off, an identity 0.1 % off, a refuted inequality times what its worst
  instance needs;
- a missing factor: the right side times or over every positive number that it depends on;
- another array: one that both sides depend on, replaced on one side alone.  An array that one side
  alone depends on is free: replacing it is another instance.  Where all are, one of several reads
  within a side is replaced;
- rates: another exponent, bounds twice as good; probabilities: turned round, a delta that the event
  as it was counted does not keep, the bound inside the event half as large.
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache, partial, singledispatch
from itertools import cycle

import numpy as np
from scipy.stats import binomtest

from rlhfsim.claims.base import Claim
from rlhfsim.claims.statistical import ProbabilityClaim, RateClaim
from rlhfsim.solvers import SolverError

Mutation = tuple[str, Iterator[Claim]]

SIDES = ("left", "right")

#: What a side may say of an instance that is none: it cannot be evaluated.
REFUSALS = (ValueError, IndexError, ArithmeticError, RuntimeWarning, SolverError)

#: Of the samples on which a mutation has to show.
SEEDS = range(6)

#: A bound as much better; one claim is the double of what can be attained.
BETTER = 2.004


# ---- checks --------------------------------------------------------------------------------------


def many(claim, wanted=60):
    """Return how many instances a check may take: fewer than wanted where they are slow."""
    most = getattr(claim, "most_instances", None)
    return wanted if most is None else max(2, min(wanted, most // 100))


def refused(claim, instances, seed=0):
    """Return whether `check` refuses a claim, and not for a side that is no number."""
    try:
        result = claim.check(instances, seed)
    except REFUSALS:
        return False
    if result.passed or not isinstance(claim, Claim):
        return not result.passed
    worst = result.worst_instance
    return not (np.isnan(claim.left(worst)).any() or np.isnan(claim.right(worst)).any())


def caught(forms):
    """Return whether one of some mutated claims is refused, on as few instances as suffice."""
    forms = list(forms)
    # A batch has one size, and to some mutations the number of prompts or responses matters.
    efforts = [(1, 0), *((60, seed) for seed in SEEDS), *((1000, seed) for seed in SEEDS)]
    return any(
        refused(form, many(form, instances), seed)
        for instances, seed in efforts
        for form in forms
        # That a claim is not refuted is no verdict on a single instance.
        if instances > 1 or form.kind != "false"
    )


def survivors(claim):
    """Return the mutations of which no form is caught."""
    claim = settled(claim)
    if refused(claim, many(claim)):
        return ["none: the claim fails as it stands"]
    return [what for what, forms in mutations(claim) if not caught(forms)]


@singledispatch
def settled(claim):
    """Return the claim with what is measured, counted or drawn written down: it is slow."""
    return claim


@settled.register
def _drawn(claim: Claim) -> Claim:
    """Each batch is drawn once, and a side evaluated on it once, for all forms of the claim."""
    witness = claim.witness and cache(lambda: written_down(claim.witness()))
    sides = {name: once(getattr(claim, name)) for name in (*SIDES, "resolution")}
    return replace(claim, witness=witness, instances=drawn_once(claim.family), **sides)


#: Where a batch that is not copied holds what sides are on it.
WRITTEN = "written down"


def written_down(x):
    """Return the batch, which from now on holds what sides are on it; its copies do not."""
    x.__dict__[WRITTEN] = {}
    return x


def once(side):
    """Return a side that is evaluated once on each batch that is written down."""

    def kept(x):
        values = x.__dict__.get(WRITTEN)
        if values is None:
            return side(x)
        if side not in values:
            values[side] = side(x)
        return values[side]

    return kept


@cache
def drawn_once(family):
    """Return a family that draws the same batches, those that it was asked for last once."""
    drawn = {}

    class Drawn(family):
        @classmethod
        def sample(cls, n, rng):
            key = n, str(rng.bit_generator.state)
            if key not in drawn:
                if len(drawn) == 2 * (1 + 2 * len(SEEDS)):
                    drawn.clear()
                drawn[key] = written_down(family.sample(n, rng))
            return drawn[key]

    return Drawn


@singledispatch
def mutations(claim):
    """Yield the mutations of a claim, by its class."""
    raise TypeError(f"{type(claim).__name__} has no mutations: say how such a claim can be false")


# ---- two sides -----------------------------------------------------------------------------------


@mutations.register
def _of_sides(claim: Claim) -> Iterator[Mutation]:
    if claim.kind == "false":
        yield from _of_refuted(claim)
        return
    if claim.kind == "tight":
        yield "a bound 1 % better", iter([scaled(claim, 0.99)])
        yield "a bound 1 % worse", iter([scaled(claim, 1.01)])
        claim = replace(claim, kind="upper")  # what follows has to be violated
    yield "another sign", (negated(claim, side) for side in ("right", "left"))
    if claim.kind == "identity":
        yield "0.1 % more", iter([scaled(claim, 1.001)])
        yield "0.1 % less", iter([scaled(claim, 0.999)])
    else:
        upper = claim.kind == "upper"
        yield "turned round", iter([replace(claim, kind="lower" if upper else "upper")])
        yield "a bound twice as good", iter([scaled(claim, 1.0 / BETTER if upper else BETTER)])
    yield from _of_factors(claim)
    yield from _of_arrays(claim)


def _of_refuted(claim):
    """Yield the false statements that a refuted inequality holds, and that a true one fails."""
    yield "told as true", iter([replace(claim, kind="upper")])
    worst = claim.check(many(claim), 0).worst
    if np.isfinite(worst):
        yield "true by a constant", iter([scaled(claim, worst * (1.0 + 1e-6))])
    else:
        lack = max((claim.left(x) - claim.right(x)).max() for x in shown(claim))
        yield "true by a term", iter([replace(claim, right=lambda x: claim.right(x) + 2 * lack)])


def negated(claim, side):
    """Return the claim with one side negated."""
    function = getattr(claim, side)
    return replace(claim, **{side: lambda x: -np.asarray(function(x))})


def scaled(claim, factor):
    """Return the claim with its right side times a number, or a function of the instances."""
    by = factor if callable(factor) else lambda x: factor
    return replace(claim, right=lambda x: by(x) * np.asarray(claim.right(x)))


# ---- factors and arrays --------------------------------------------------------------------------


@cache
def _sampled(family, n):
    return family.sample(n, np.random.default_rng(0))


def sample(claim):
    """Return some instances of the claim's family."""
    return _sampled(claim.family, many(claim))


def shown(claim):
    """Return the witness, if there is one, and a sample."""
    return [*([claim.witness()] if claim.witness else []), sample(claim)]


def _of_factors(claim):
    for name in names(claim):
        values = [getattr(x, name) for x in shown(claim)]
        positive = all(v.ndim == 1 and v.dtype.kind in "fi" and (v > 0).all() for v in values)
        if positive and depends(claim, name, ("right",)):
            yield (
                f"without a factor {name}",
                (
                    scaled(claim, lambda x, name=name, power=power: getattr(x, name) ** power)
                    for power in (-1.0, 1.0)
                ),
            )


def _of_arrays(claim):
    shared = [name for name in names(claim) if depends(claim, name) == set(SIDES)]
    for name in shared:
        yield f"another {name} on one side", elsewhere(claim, name)
    if not shared:
        places = [
            (side, name, read)
            for side in SIDES
            for name in names(claim)
            if (count := reads(claim, side, name)) > 1
            for read in range(1, count + 1)
            if depends(claim, name, (side,), read)
        ]
        if places:
            yield (
                "another array at one read",
                (
                    form
                    for side, name, read in places
                    for form in elsewhere(claim, name, (side,), read)
                ),
            )


def elsewhere(claim, name, sides=SIDES, read=None):
    """Yield the claim with another array on one side, always or at one read."""
    for side in sides:
        for change in alternatives(claim.family, name, sample(claim)):
            function = partial(_evaluated, getattr(claim, side), name, change, read)
            yield replace(claim, **{side: function})


def _evaluated(side, name, change, read, x):
    return side(_altered(x, name, change, read))


def _altered(x, name, change, read):
    return replace(x, **{name: change(x)}) if read is None else Reads(name, change, read).of(x)


def names(claim):
    """Return the names of the arrays of the claim's instances."""
    return [f.name for f in fields(claim.family)]


def alternatives(family, name, x):
    """Return functions of a batch, each another array in place of the one of that name."""
    kinds = getattr(family, "parametrization", {})
    values, kind = getattr(x, name), kinds.get(name)
    number = (lambda v: 2 * v, (lambda v: 0.5 * v) if values.dtype.kind == "f" else lambda v: v + 1)
    changes = {
        "simplex": tuple(partial(_rows, change) for change in (np.ones_like, np.square, np.sqrt)),
        "real": (np.negative, lambda v: 2.0 * v, np.zeros_like),
        "unit": (lambda v: 1.0 - v,),
    }.get(kind, (np.logical_not,) if values.dtype.kind == "b" else number)
    if values.ndim > 1:
        changes += (partial(np.roll, shift=1, axis=-1),)
    if kind in ("simplex", "real"):
        changes += (_first,)
    peers = [
        other
        for other in kinds
        if other != name and kinds[other] == kind and getattr(x, other).shape == values.shape
    ]
    return [
        *(lambda x, change=change: change(getattr(x, name)) for change in changes),
        *(lambda x, other=other: getattr(x, other) for other in peers),
        lambda x: np.roll(getattr(x, name), 1, axis=0),  # of another instance
    ]


def _rows(change, values):
    weights = change(values)
    return weights / weights.sum(axis=-1, keepdims=True)


def _first(values):
    """Return rows that are 1 at the first response and 0 elsewhere."""
    return np.zeros_like(values) + np.eye(values.shape[-1])[0]


def depends(claim, name, sides=SIDES, read=None):
    """Return the sides that another array of that name changes, on the witness or a sample."""
    changes, found = alternatives(claim.family, name, sample(claim)), set()
    for x in shown(claim):
        values = {side: getattr(claim, side)(x) for side in sides}
        # Of a sample another instance's array is enough.
        for change in changes if len(x) == 1 or not claim.witness else changes[-1:]:
            if np.array_equal(change(x), getattr(x, name)):
                continue
            other = _altered(x, name, change, read)  # one for both sides: they may share a solve
            for side in set(sides) - found:
                try:
                    value = getattr(claim, side)(other)
                except REFUSALS:
                    continue
                if not np.allclose(value, values[side], rtol=1e-9, atol=1e-14, equal_nan=True):
                    found.add(side)
            if found == set(sides):
                return found
    return found


# ---- instances that answer with another array ----------------------------------------------------


class Reads:
    """The reads of one array by a side, of which one (counted from 1) gets another array."""

    def __init__(self, name, change=None, altered=0):
        self.name, self.change, self.altered, self.count = name, change, altered, 0

    def answer(self, x, array):
        """Return what this read gets."""
        self.count += 1
        if self.count == self.altered and self.change is not None:
            # The change reads arrays too, and these as they are.
            change, self.change = self.change, None
            return change(x)
        return array

    def of(self, x):
        """Return a copy of instances that is read so, as is what `replace` makes of it."""

        class Answering(type(x)):
            def __getattribute__(this, name):
                array = super().__getattribute__(name)
                return self.answer(this, array) if name == self.name else array

        return Answering(**{f.name: getattr(x, f.name) for f in fields(x)})


def reads(claim, side, name):
    """Return how often a side reads an array of the witness, or of a sample without one."""
    counted = Reads(name)
    getattr(claim, side)(counted.of(shown(claim)[0]))
    return counted.count


# ---- rates and probabilities ---------------------------------------------------------------------


@settled.register
def _measured(claim: RateClaim) -> RateClaim:
    values = cycle(claim.values(0).ravel().tolist())
    return replace(claim, measure=lambda n, rng: next(values))


@mutations.register
def _of_rate(claim: RateClaim) -> Iterator[Mutation]:
    yield "another sign", iter([replace(claim, exponent=-claim.exponent)])
    for shift in (-0.25, 0.25):
        yield f"exponent {shift:+}", iter([replace(claim, exponent=claim.exponent + shift)])
    for bound, factor in (("floor", BETTER), ("ceiling", 1.0 / BETTER)):
        if (function := getattr(claim, bound)) is not None:
            better = {bound: lambda n, f=function, by=factor: by * f(n)}
            yield f"a {bound} twice as good", iter([replace(claim, **better)])


@settled.register
def _counted(claim: ProbabilityClaim) -> ProbabilityClaim:
    if claim.exact is not None:
        share = claim.exact()
        return replace(claim, exact=lambda: share)
    counts = []

    def violations(replications, rng):
        counts.append(claim.violations(replications, rng))
        return counts[-1]

    replace(claim, violations=violations).check(0, 0)
    return replace(claim, violations=lambda replications, rng: counts[0])


@mutations.register
def _of_probability(claim: ProbabilityClaim) -> Iterator[Mutation]:
    most = claim.bound == "at most"
    low, high = _interval(claim)
    yield "turned round", iter([replace(claim, bound="at least" if most else "at most")])
    delta = 0.5 * low if most else 2.0 * high
    # An event that is never seen refutes nothing.
    yield "another delta", (replace(claim, delta=d) for d in [delta] if 0 < d < 1)
    if claim.with_constant is not None:
        yield "a bound twice as good", iter([claim.with_constant(0.5)])


def _interval(claim):
    if claim.exact is not None:
        return claim.exact(), claim.exact()
    count = claim.violations(claim.replications, None)
    interval = binomtest(count, claim.replications).proportion_ci(claim.confidence, method="exact")
    return interval.low, interval.high
