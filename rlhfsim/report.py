"""One self-contained HTML page from study results and their figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

from rlhfsim.notation import to_html
from rlhfsim.plots import FIGURES
from rlhfsim.studies.record import Finding, StudyResult

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; margin: 0 auto; padding: 1rem;
       max-width: 62rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem;
         border-bottom: 1px solid #ddd; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.number { text-align: right; }
.verdict { font-weight: 600; white-space: nowrap; }
.good { color: #00603f; } .bad { color: #b3261e; }
code { font-size: .8rem; }
a { color: inherit; text-decoration-color: #aaa; } figure { margin: 1rem 0; }
figure svg { width: 100%; min-width: 36rem; height: auto; }
figcaption, .note { font-size: .85rem; color: #444; }
@media (max-width: 40rem) {
  .claims thead { display: none; }
  .claims td { display: block; border: 0; padding: .1rem 0; }
  .claims tr { display: block; border-bottom: 1px solid #ddd; padding: .5rem 0; }
}
"""

#: Tables with more rows than this are linked to, not printed.
_MOST_ROWS = 40


def render(
    results: Sequence[StudyResult],
    figures: Mapping[str, str],
    seed: int,
    versions: Mapping[str, str],
) -> str:
    """Return the report as HTML; `figures` maps figure names to inline SVG."""
    sections = "".join(_section(result, figures) for result in results)
    software = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>rlhfsim: main results</title><style>{_STYLE}</style></head><body>
<h1>rlhfsim: main results</h1>
<p>Regrets, values and divergences are exact on each instance, and expectations over datasets are
exact sums; only what says “sampled” is estimated. A line about N instances reports the worst of N
random and structured ones, and “holds” there means no violation beyond rounding. A verdict is
green when it is the one that theory predicts, a false claim found false included, red when it is
not, and black for a measurement. Divergences are in nats; χ² carries the factor ½. Each section
names, for every line, the function that computes its numbers and the table, in the folder
<code>tables/</code> beside this page, that holds them.</p>
{_summary(results)}
{sections}
<p class="note">Seed {seed}; {escape(software)}.</p>
</body></html>
"""


def _section(result: StudyResult, figures: Mapping[str, str]) -> str:
    parts = [
        f'<h2 id="{result.name}">{escape(result.title)}</h2>',
        f"<p>{to_html(result.question)}</p>",
        _findings(result.findings),
    ]
    for name, spec in FIGURES.items():
        if name in figures and set(spec.tables) <= set(result.tables):
            parts.append(
                f'<figure><div class="scroll">{_unique_ids(figures[name], name)}</div>'
                f"<figcaption>{to_html(spec.caption)} "
                f"<code>figures/{name}.pdf</code></figcaption></figure>"
            )
    for name, table in result.tables.items():
        if len(table) <= _MOST_ROWS:
            parts.append(f"<h3><code>{name}</code></h3>{_table(table)}")
        else:
            parts.append(
                f'<p class="note"><code>tables/{name}.parquet</code>, <code>.csv</code>: '
                f"{len(table)} rows.</p>"
            )
    settings = ", ".join(f"{key} = {value}" for key, value in result.settings.items())
    parts.append(f'<p class="note">Settings: {escape(settings)}.</p>')
    return "\n".join(parts)


def _summary(results: Sequence[StudyResult]) -> str:
    """Return the table of all claims, each linked to the section that has the details."""
    rows = "".join(
        f'<tr><td><a href="#{result.name}">{to_html(f.claim)}</a></td>'
        f"<td>{escape(f.source)}</td><td>{to_html(f.measured)}</td>{_verdict(f)}</tr>"
        for result in results
        for f in result.findings
    )
    return _scrolling(_header("claim", "source", "measured", "verdict"), rows, "claims")


def _findings(findings: Sequence[Finding]) -> str:
    rows = "".join(
        f"<tr><td>{to_html(f.claim)}</td>{_verdict(f)}"
        f"<td>{_code(f.computed_by)}</td><td>{_code(f.table)}</td></tr>"
        for f in findings
    )
    return _scrolling(_header("claim", "verdict", "computed by", "table"), rows, "claims")


def _header(*columns: str) -> str:
    return "".join(f"<th>{column}</th>" for column in columns)


def _verdict(finding: Finding) -> str:
    kind = {True: "good", False: "bad", None: "neutral"}[finding.expected]
    return f'<td class="verdict {kind}">{escape(finding.verdict)}</td>'


def _code(text: str) -> str:
    """Return names that may break after a dot or an underscore, and only there."""
    return "<code>" + re.sub(r"([._])", r"\1<wbr>", escape(text)) + "</code>"


def _table(table: pd.DataFrame) -> str:
    # Whole instances (lists) are for programs; they stay in the saved table.
    lists = table.map(lambda value: isinstance(value, list)).any()
    shown = table.loc[:, ~lists]
    numeric = {c for c in shown.columns if pd.api.types.is_numeric_dtype(shown[c])}

    def tag(column: str, element: str, text: str) -> str:
        kind = ' class="number"' if column in numeric else ""
        return f"<{element}{kind}>{escape(text)}</{element}>"

    head = "".join(tag(str(c), "th", str(c).replace("_", " ")) for c in shown.columns)
    body = "".join(
        "<tr>" + "".join(tag(str(c), "td", _cell(v)) for c, v in row.items()) + "</tr>"
        for _, row in shown.astype(object).iterrows()
    )
    return _scrolling(head, body)


def _scrolling(head: str, body: str, kind: str = "numbers") -> str:
    """Return a table that scrolls sideways on a narrow screen (one of claims is stacked there)."""
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _unique_ids(svg: str, prefix: str) -> str:
    """Give every id of an inline SVG a prefix: two figures on one page must not share ids."""
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
