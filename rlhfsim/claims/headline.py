"""What a check found, in two short tables: how much was checked, and what is false."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlhfsim.claims.checking import TIGHT, CheckResult
from rlhfsim.notation import pretty

#: Kinds of claims -> what the table calls them.
_KINDS = {
    "identity": "identities",
    "upper": "upper and lower bounds",
    "tight": "upper and lower bounds",
    "lower": "upper and lower bounds",
    "rate": "rates",
    "high_probability": "statements with high probability",
    "false": "false statements",
}


def headline(results: Sequence[CheckResult]) -> str:
    """Return Markdown: the count and the outcome of each kind of claim, then every false one.

    A bound is *attained* where its witness comes within 0.1 % of it.  A false statement is listed
    with the ratio of its sides at the witness, the instance on which it fails.
    """
    groups: dict[str, list[CheckResult]] = {name: [] for name in _KINDS.values()}
    for result in results:
        groups[_KINDS[result.kind]].append(result)
    lines = ["| checked | statements | found |", "|---|---:|---|"]
    for name, members in groups.items():
        if members:
            lines.append(f"| {name} | {len(members)} | {_outcome(name, members)} |")
    false = groups["false statements"]
    if false:
        lines += ["", "| false | that is | where it is stated, or read | left : right |"]
        lines.append("|---|---|---|---:|")
        lines += [f"| {_row(result)} |" for result in false]
    return "\n".join(lines) + "\n"


def _outcome(name: str, members: Sequence[CheckResult]) -> str:
    failed = sum(not result.passed for result in members)
    if failed:
        return f"**{failed} not as expected**"
    if name == "false statements":
        return "each refuted by an instance"
    if name == "upper and lower bounds":
        attained = sum(r.witness is not None and r.witness >= TIGHT for r in members)
        return f"hold; {attained} are attained"
    return {
        "identities": "hold to rounding",
        "rates": "exponents within their intervals",
        "statements with high probability": "violated no more often than stated",
    }[name]


def _row(result: CheckResult) -> str:
    witness = result.witness
    if witness is None or math.isinf(witness):
        ratio = "∞"
    else:
        ratio = f"{witness:.3g}" if witness < 1000 else f"{witness:.0e}"
    cells = (result.claim, pretty(result.formula), result.source, ratio)
    return " | ".join(_escaped(cell) for cell in cells)


def _escaped(text: str) -> str:
    # Bars separate cells, stars would be emphasis, and a bracket begins HTML.
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
