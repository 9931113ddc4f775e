"""Style sheet and script of the page, in the page itself."""

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; } [hidden] { display: none !important; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff;
       margin: 0 auto; padding: 1rem; max-width: 62rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; } p, li { overflow-wrap: anywhere; }
.answer { font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem;
         border-bottom: 1px solid #ddd; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.number { text-align: right; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; margin: 0;
            text-align: inherit; cursor: pointer; }
th button::after { content: "\\2195"; color: #767676; padding-left: .3em; }
th[aria-sort=ascending] button::after { content: "\\2191"; color: inherit; }
th[aria-sort=descending] button::after { content: "\\2193"; color: inherit; }
button:focus-visible, input:focus-visible, a:focus-visible { outline: 2px solid #0072b2;
            outline-offset: 2px; }
.math { font-family: "STIX Two Text", "Times New Roman", serif; font-size: 1.08em; }
.math sub, .math sup, sub, sup { line-height: 0; font-size: .75em; }
.verdict { font-weight: 600; }
.claims td:not(.number) { overflow-wrap: anywhere; }
.claims .name, .claims .verdict { min-width: 6.5rem; } .claims .source { min-width: 8rem; }
@media (min-width: 56rem) { .statement { min-width: 16rem; } }
.good { color: #00603f; } .bad { color: #b3261e; }
code { font-size: .8rem; overflow-wrap: anywhere; }
a { color: inherit; text-decoration-color: #aaa; } figure { margin: 1rem 0; }
figure svg { width: 100%; min-width: 36rem; height: auto; }
figcaption, .note { font-size: .85rem; color: #444; }
.filter { display: block; margin: .5rem 0; font-size: .85rem; }
.filter input { font: inherit; padding: .25rem .4rem; width: min(100%, 24rem);
                border: 1px solid #767676; border-radius: .25rem; }
@media (max-width: 40rem) {
  .claims, .claims tbody, .claims thead { display: block; }
  .claims thead tr { display: flex; flex-wrap: wrap; gap: 0 1rem; }
  .claims th { border: 0; padding: .1rem 0; }
  .claims td { display: block; border: 0; padding: .1rem 0; overflow-wrap: anywhere;
               text-align: left; white-space: normal; }
  .claims tbody tr { display: block; border-bottom: 1px solid #ddd; padding: .5rem 0; }
  .claims td[data-name]::before { content: attr(data-name) ": "; color: #555; font-weight: 400; }
}
@media print { th button::after, .filter { display: none; } }
"""

SCRIPT = """
"use strict";
(() => {
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v !== undefined ? Number(cell.dataset.v) : cell.textContent.trim();
  };
  const compare = (a, b) => {
    if (typeof a === "string" || typeof b === "string") {
      return String(a).localeCompare(String(b), "en", { numeric: true });
    }
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a < b ? -1 : a > b ? 1 : 0;
  };
  const sort = (header) => {
    const table = header.closest("table");
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const column = header.cellIndex, body = table.tBodies[0], rows = [...body.rows];
    rows.sort((p, q) => (down ? -1 : 1) * compare(key(p, column), key(q, column)));
    body.append(...rows);
  };
  for (const header of document.querySelectorAll("table th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header));
    header.append(button);
    header.setAttribute("aria-sort", "none");
  }
  for (const label of document.querySelectorAll(".filter")) {
    const input = label.querySelector("input");
    const rows = [...document.getElementById(input.dataset.table).tBodies[0].rows];
    label.hidden = false;
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\\s+/);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
  }
})();
"""
