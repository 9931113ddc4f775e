"""The report as readers see it: in headless Chromium, on a desktop and on a phone."""

import math

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, browser
from small_parts import small_results, tables_of

from rlhfsim.findings import StudyResult, save_results
from rlhfsim.report import build_report
from rlhfsim.repro.job import write_tables

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

NUMBERS = [3.0, -math.inf, 1e-300, 20.0, math.nan, math.inf, 100.0]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    sortable = pd.DataFrame({"name": list("gbfadce"), "number": NUMBERS})
    results = [*small_results(), StudyResult("sorting", "", "", {}, {"sortable": sortable}, ())]
    write_tables(folder / "tables", tables_of(results))
    save_results(folder, results, seed=0, versions={})
    return build_report(folder)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def problems(page):
    """What an open page does wrong."""
    found = [f"console: {message}" for message in page.messages]
    found += [f"fetched: {u[:80]}" for u in page.requests if not u.startswith(("file:", "data:"))]
    found += [f"second file: {u[:80]}" for u in page.requests[1:] if u.startswith("file:")]
    wide, window = page.run("[document.documentElement.scrollWidth, innerWidth]")
    if wide > window:
        found.append(f"{wide} pixels wide in a window of {window}")
    return found


@pytest.mark.parametrize("width", [1280, 390])
def test_page_renders_without_errors(page, report, width):
    page.messages.clear()
    page.requests.clear()
    page.open(report, width)
    assert problems(page) == []
    assert page.run("innerWidth") == width
    seen = page.run(
        "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect())"
        ".filter(r => r.width > 300 && r.height > 100).length"
    )
    assert seen == 5
    # Every claim is seen, formulas included, and no text is left of the window.
    cells = "#checked-claims .math"
    assert page.run(f"document.querySelectorAll('{cells} sub').length") >= 2
    assert page.run(
        f"[...document.querySelectorAll('{cells}')].every(c => c.getBoundingClientRect().width > 20"
        " && c.getBoundingClientRect().left >= 0)"
    )
    # Letters large enough, on a phone too, and dark on white.
    assert page.run("parseFloat(getComputedStyle(document.querySelector('td')).fontSize)") >= 13
    assert page.run("getComputedStyle(document.body).color") == "rgb(27, 27, 27)"
    picture = page.picture()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def test_errors_would_be_seen(page, tmp_path):
    (tmp_path / "bad.html").write_text(
        "<script>console.error('said'); undefinedFunction()</script>"
        "<img src='https://nowhere.invalid/x.png'><div style='width: 3000px'>x</div>"
    )
    page.messages.clear()
    page.requests.clear()
    page.open(tmp_path / "bad.html", 390)
    found = " ".join(problems(page))
    for word in ("said", "undefinedFunction", "fetched: https://nowhere.invalid", "pixels wide"):
        assert word in found
    page.messages.clear()
    page.requests.clear()


TABLE = "[...document.querySelectorAll('table')].at(-1)"


def column(page, k):
    return page.run(f"[...{TABLE}.tBodies[0].rows].map(row => row.cells[{k}].textContent)")


def sorted_by(page):
    return page.run(f"[...{TABLE}.tHead.rows[0].cells].map(c => c.getAttribute('aria-sort'))")


def test_tables_are_sorted_by_click_and_by_keyboard(page, report):
    page.open(report, 1280)
    order = [f"{v:.6g}" for v in sorted(v for v in NUMBERS if not np.isnan(v))]
    assert column(page, 0) == list("gbfadce")
    assert sorted_by(page) == ["none", "none"]
    box = page.run(
        f"(() => {{ const b = {TABLE}.tHead.rows[0].cells[1].querySelector('button');"
        "b.scrollIntoView(); const r = b.getBoundingClientRect();"
        "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.call(
            "Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1
        )
    assert column(page, 1) == [*order, "–"]
    assert sorted_by(page) == ["none", "ascending"]
    page.press("Enter")  # the focus is on the button
    assert column(page, 1) == ["–", *order[::-1]]
    assert sorted_by(page) == ["none", "descending"]
    page.run(f"{TABLE}.tHead.rows[0].cells[0].querySelector('button').focus()")
    page.press("Enter")
    assert column(page, 0) == list("abcdefg")
    assert sorted_by(page) == ["ascending", "none"]
    page.press("Tab")
    page.press("Enter")
    assert column(page, 1) == [*order, "–"]
    # Rows stay whole.
    assert dict(zip(column(page, 0), column(page, 1), strict=True))["a"] == "20"


def test_claims_are_filtered(page, report):
    page.open(report, 390)

    def seen():
        return page.run(
            "[...document.querySelectorAll('#checked-claims tbody tr')]"
            ".filter(row => row.offsetHeight).map(row => row.cells[0].textContent)"
        )

    assert len(seen()) == 3
    page.run("document.querySelector('.filter input').focus()")
    page.call("Input.insertText", text="pinsk TIGHT")
    assert seen() == ["Pinsker"]
    page.run("document.querySelector('.filter input').select()")
    page.call("Input.insertText", text="squared")
    assert seen() == ["KL below chi-squared"]
