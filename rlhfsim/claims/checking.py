"""Checks of claims: one result for each, whatever kind of claim it is, and tables of them."""

from __future__ import annotations

import csv
import difflib
import io
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rlhfsim.checks import positive_number, whole_number
from rlhfsim.notation import pretty, to_latex
from rlhfsim.threads import get_threads

#: Instances evaluated together.
BATCH = 1000

#: Rounding allowed on a ratio that equals 1.
TOLERANCE = 1e-9

#: A worst ratio from here on counts as tight.
TIGHT = 0.999


@dataclass(frozen=True)
class CheckResult:
    """What checking one claim gave.

    Attributes
    ----------
    claim, source, kind, formula : str
        The claim: its name, where it is stated, of which kind it is, and what it says.
    instances : int
        How many instances (or replications) were drawn.
    worst : float
        The worst ratio over all of them and the witness; above 1 is a violation.
    verdict : str
        "holds", "holds, tight", "not tight" (of kind `tight`, but the witness does not reach the
        bound), "VIOLATED", "false" (refuted, as it should be), "not refuted", or what a claim on
        rates or probabilities says of itself.
    passed : bool
        Whether that is as expected: true claims hold, false ones are refuted.
    details : str
        A fitted slope or an interval, for claims on rates or probabilities.
    worst_index : int or None
        Which of the sampled instances is the worst; None if the witness is.
    worst_instance : batch of one, or None
        That instance.
    sampled, witness : float or None
        The worst ratio over the sampled instances alone, and over the witness alone, if it has one.
    measured : float or None
        The fitted exponent of a rate, the probability of an event.
    seconds : float
        Time taken; no other field depends on the machine.
    """

    claim: str
    source: str
    kind: str
    formula: str
    instances: int
    worst: float
    verdict: str
    passed: bool
    details: str = ""
    worst_index: int | None = None
    worst_instance: Any = None
    sampled: float | None = None
    witness: float | None = None
    measured: float | None = None
    seconds: float = 0.0


class Checkable(Protocol):
    """What the runner needs of a claim."""

    @property
    def name(self) -> str:
        """Short and unique."""

    @property
    def source(self) -> str:
        """Where it is stated."""

    @property
    def kind(self) -> str:
        """Which kind of statement it is."""

    @property
    def formula(self) -> str:
        """The statement, in plain text."""

    def check(self, instances: int, seed: int) -> CheckResult:
        """Return the verdict over `instances` sampled instances."""


_Claim = TypeVar("_Claim", bound=Checkable)


def select(
    claims: Sequence[_Claim], names: Sequence[str] = (), source: str | None = None
) -> list[_Claim]:
    """Return the claims of these names (all, if none is given) whose source contains `source`.

    Raises
    ------
    ValueError
        If there is no claim of a name, or none is left.
    """
    known = {claim.name: claim for claim in claims}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f"; close are {', '.join(map(repr, close))}" if close else ""
            raise ValueError(f"names has {name!r}, which is no claim{hint}")
    chosen = [known[name] for name in dict.fromkeys(names)] if names else list(claims)
    if source is not None:
        chosen = [claim for claim in chosen if source.casefold() in claim.source.casefold()]
    if not chosen:
        raise ValueError(f"source is {source!r}; none of the claims asked for has that in its own")
    return chosen


#: What `check` calls after each claim: claims done, claims in all, and the name of the last.
Progress = Callable[[int, int, str], None]


def check(
    claims: Sequence[Checkable],
    *,
    instances: int = 10_000,
    seed: int = 0,
    workers: int | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> list[CheckResult]:
    """Return the verdict on every claim, over random instances and its witness.

    Parameters
    ----------
    claims : sequence of claims
        `Claim`s, or anything else with their `check`.
    instances : int
        Random instances for each claim; a claim may set a lower limit of its own.
    seed : int
        Seed of every random draw; at least 0.
    workers : int, optional
        Claims checked at once, in threads; by default `rlhfsim.get_threads()`.  No result depends
        on it.
    budget : float, optional
        Seconds that the whole should take.  Every claim is checked on one batch of `BATCH`
        instances whatever that takes; what is left decides how many more batches, up to
        `instances`, and `CheckResult.instances` tells how many it were.
    progress : function, optional
        Called in the calling thread after each claim of each round.

    Returns
    -------
    list of CheckResult
        In the order of `claims`.

    Raises
    ------
    ValueError
        If `instances`, `seed`, `workers` or `budget` is not such a number.
    """
    instances = whole_number("instances", instances, least=1)
    seed = whole_number("seed", seed, least=0)
    workers = get_threads() if workers is None else whole_number("workers", workers, least=1)
    if budget is None or not claims:
        return _round(claims, instances, seed, workers, progress)
    budget = positive_number("budget", budget)
    start = time.perf_counter()
    results = _round(claims, min(instances, BATCH), seed, workers, progress)
    took = max(time.perf_counter() - start, 1e-6)  # a clock may be coarse
    # The second round draws the first batch again, so that its results are those of any other run.
    batches = min(int((budget - took) / took), math.ceil(instances / BATCH))
    if batches <= 1:
        return results
    return _round(claims, min(instances, batches * BATCH), seed, workers, progress)


def _round(
    claims: Sequence[Checkable],
    instances: int,
    seed: int,
    workers: int,
    progress: Progress | None,
) -> list[CheckResult]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="rlhfsim-check")
    try:
        waiting = [pool.submit(claim.check, instances, seed) for claim in claims]
        names = dict(zip(waiting, (claim.name for claim in claims), strict=True))
        for done, future in enumerate(as_completed(waiting), start=1):
            if (error := future.exception()) is not None:
                error.add_note(f"while checking the claim {names[future]!r}")
                raise error
            if progress is not None:
                progress(done, len(claims), names[future])
        return [future.result() for future in waiting]
    finally:
        pool.shutdown(cancel_futures=True)


# ---- tables --------------------------------------------------------------------------------------

#: Columns of every table of results.
COLUMNS = ("claim", "formula", "source", "kind", "instances", "worst ratio", "verdict")


def cells(result: CheckResult) -> tuple[str, ...]:
    """Return one row of `COLUMNS`, as text; details follow the verdict."""
    verdict = result.verdict + (f" ({result.details})" if result.details else "")
    worst = "" if math.isnan(result.worst) else f"{result.worst:.9g}"
    return (
        result.claim, result.formula, result.source, result.kind, str(result.instances), worst,
        verdict,
    )  # fmt: skip


def markdown(results: Sequence[CheckResult]) -> str:
    """Return the table of `COLUMNS` in Markdown, formulas in Unicode."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|---|---|---:|---:|---|"]
    for result in results:
        # Bars separate cells, and formulas are full of them; stars would be emphasis.
        row = (pretty(cell).replace("|", r"\|").replace("*", r"\*") for cell in cells(result))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def latex(results: Sequence[CheckResult]) -> str:
    """Return the table of `COLUMNS` as a LaTeX `longtable` with the rules of `booktabs`."""
    head = " & ".join(COLUMNS) + r" \\"
    lines = [
        r"% needs \usepackage{booktabs,longtable}",
        r"\begin{longtable}{p{.18\linewidth}p{.27\linewidth}p{.15\linewidth}lrrp{.1\linewidth}}",
        r"\toprule", head, r"\midrule", r"\endhead",
    ]  # fmt: skip
    lines += [" & ".join(map(to_latex, cells(result))) + r" \\" for result in results]
    return "\n".join([*lines, r"\bottomrule", r"\end{longtable}"]) + "\n"


def comma_separated(results: Sequence[CheckResult]) -> str:
    """Return the results as CSV, numbers in full, one column for each printed field."""
    names = (
        "claim", "formula", "source", "kind", "instances", "worst", "worst_index", "sampled",
        "witness", "measured", "verdict", "passed", "details",
    )  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(result, name) for name in names] for result in results)
    return text.getvalue()


#: Suffix of a file -> the function that returns its text.
WRITERS: dict[str, Callable[[Sequence[CheckResult]], str]] = {
    ".md": markdown,
    ".csv": comma_separated,
    ".tex": latex,
}
