"""The page as a whole: summary, one section for each result, and what made it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from rlhfsim.findings import Finding, SavedResults, StudyResult
from rlhfsim.notation import to_html
from rlhfsim.plots.spec import FigureSpec
from rlhfsim.report.assets import SCRIPT, STYLE
from rlhfsim.report.claims import COLUMNS, claims_section
from rlhfsim.report.tables import code, formula, header, numbers_table, scrolling, verdict_cell

#: Tables with more rows than this are linked to, not printed.
_MOST_ROWS = 40

_INTRODUCTION = """
<p>Regrets, values and divergences are exact on each instance, and expectations over datasets are
exact sums; only what says “sampled” is estimated. A line about N instances reports the worst of N
random and structured ones, and “holds” there means no violation beyond rounding. A verdict is
green when it is the one that theory predicts, a false claim found false included, red when it is
not, and black for a measurement. Divergences are in nats; χ² carries the factor ½. Each section
names, for every line, the function that computes its numbers and the table, in the folder
<code>tables/</code> beside this page, that holds them. A click on a header sorts its table.</p>
"""


def render(saved: SavedResults, specs: Mapping[str, FigureSpec], drawn: Mapping[str, str]) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    saved : SavedResults
    specs : mapping of names to FigureSpec
        The figures there may be.
    drawn : mapping of names to str
        Those that were drawn, as inline SVG.
    """
    sections = "".join(_section(result, specs, drawn) for result in saved.results)
    software = ", ".join(f"{name} {number}" for name, number in saved.versions.items())
    title = f"rlhfsim: {escape(saved.title)}"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title><style>{STYLE}</style></head><body>
<h1>{title}</h1>
{_INTRODUCTION}
{_summary(saved.results)}
{sections}
<p class="note">Seed {saved.seed}; {escape(software)}.</p>
<script>{SCRIPT}</script>
</body></html>
"""


def _section(result: StudyResult, specs: Mapping[str, FigureSpec], drawn: Mapping[str, str]) -> str:
    parts = [
        f'<h2 id="{escape(result.name)}">{escape(result.title)}</h2>',
        f"<p>{to_html(result.question)}</p>",
    ]
    if result.answer:
        parts.append(f'<p class="answer">{to_html(result.answer)}</p>')
    if result.findings:
        parts.append(_findings(result.findings))
    for name, spec in specs.items():
        if name in drawn and set(spec.tables) <= set(result.tables):
            parts.append(_figure(name, spec.caption_of(result.tables), drawn[name]))
    for name, table in result.tables.items():
        if set(COLUMNS) <= set(table.columns) and len(table):
            parts.append(claims_section(table))
        elif len(table) <= _MOST_ROWS:
            parts.append(f"<h3><code>{escape(name)}</code></h3>{numbers_table(table)}")
        else:
            parts.append(
                f'<p class="note"><code>tables/{escape(name)}.parquet</code>, <code>.csv</code>: '
                f"{len(table)} rows.</p>"
            )
    settings = ", ".join(f"{key} = {_setting(value)}" for key, value in result.settings.items())
    parts.append(f'<p class="note">Settings: {escape(settings)}.</p>' if settings else "")
    return "\n".join(parts)


def _setting(value: object) -> str:
    # Tuples come back from JSON as lists; both read the same.
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_setting, value)) + ")"
    return str(value)


def _figure(name: str, caption: str, svg: str) -> str:
    accessible = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(name)}" ', 1)
    return (
        f'<figure><div class="scroll">{_unique_ids(accessible, name)}</div>'
        f"<figcaption>{to_html(caption)} "
        f"<code>figures/{name}.pdf</code>, numbers in <code>figures/{name}.csv</code></figcaption>"
        "</figure>"
    )


def _summary(results: Sequence[StudyResult]) -> str:
    """Return the table of all claims, each linked to the section that has the details."""
    rows = "".join(
        f'<tr><td><a href="#{escape(result.name)}">{formula(f.claim)}</a></td>'
        f"<td>{escape(f.source)}</td><td>{to_html(f.measured)}</td>"
        f"{verdict_cell(f.verdict, f.expected)}</tr>"
        for result in results
        for f in result.findings
    )
    head = header(("claim", "source", "measured", "verdict"))
    return scrolling(head, rows, "claims", "summary", "Findings")


def _findings(findings: Sequence[Finding]) -> str:
    rows = "".join(
        f"<tr><td>{formula(f.claim)}</td>{verdict_cell(f.verdict, f.expected)}"
        f"<td>{code(f.computed_by)}</td><td>{code(f.table)}</td></tr>"
        for f in findings
    )
    return scrolling(header(("claim", "verdict", "computed by", "table")), rows, "claims")


def _unique_ids(svg: str, prefix: str) -> str:
    """Give every id of an inline SVG a prefix: two figures on one page must not share ids."""
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
