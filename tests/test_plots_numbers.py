"""The numbers saved beside a figure are those that were plotted; captions say what they must."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from small_parts import MAIN_FIGURES, small_results, tables_of

from rlhfsim.plots import FIGURES, caption, looks
from rlhfsim.plots.numbers import plotted_numbers
from rlhfsim.plots.panels import curves, legend, log_axis, panel_letter, panels, shown
from rlhfsim.plots.venues import Layout

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


def rows(table, series):
    chosen = table[table["series"] == series]
    assert len(chosen), f"no {series} in {set(table['series'])}"
    return chosen


def test_a_figure_of_the_main_job_saves_the_numbers_of_its_table():
    tables = tables_of(small_results())
    numbers = plotted_numbers(FIGURES["proposition_a1"].draw(tables).figure)
    summary = tables["proposition_a1_summary"]
    kl = summary[summary["method"] == "KL"]
    drawn = rows(numbers[numbers["panel"] == r"(b) at the best $\beta$"], "KL")
    np.testing.assert_array_equal(drawn["x"], kl["n"])
    np.testing.assert_array_equal(drawn["y"], kl["regret"])
    scaled = rows(numbers[numbers["panel"] == "(c) times the rate"], "KL")
    np.testing.assert_array_equal(scaled["y"], kl["regret_log_n"])
    everything = len(tables["proposition_a1_curves"]) * 2 // 3 + len(summary) * 2 + len(kl)
    assert len(numbers) == everything


def test_named_ticks_are_kept():
    tables = tables_of(small_results())
    table = tables["inequalities"]
    numbers = plotted_numbers(FIGURES["inequalities"].draw(tables).figure)
    points = numbers[numbers["series"].isin(["true", "false"])].sort_values("y")
    np.testing.assert_array_equal(points["x"], table["shown_ratio"].iloc[::-1])
    assert points["y_name"].iloc[-1] == r"KL ≤ D_{\chi^2}"
    assert points["y_name"].nunique() == len(table)


@given(st.lists(st.tuples(FINITE, FINITE, st.floats(0, 10)), min_size=2, unique_by=lambda t: t[0]))
def test_lines_bands_and_bars(points):
    x, y, half = np.array(sorted(points)).T
    figure = Figure()
    axes = figure.subplots()
    axes.plot(x, y, label="line")
    axes.fill_between(x, y - half, y + half, label="_band")
    axes.errorbar(x, y, yerr=half, label="bars")
    axes.scatter(x, y, label="dots")
    table = plotted_numbers(figure)
    for series in ("line", "bars", "dots"):
        found = rows(table, series)
        np.testing.assert_array_equal(found[["x", "y"]], np.stack([x, y], axis=1))
    for series in ("band", "bars"):
        found = rows(table, series)
        np.testing.assert_array_equal(found["x"], x)
        np.testing.assert_array_equal(found["low"], y - half)
        np.testing.assert_array_equal(found["high"], y + half)


def test_other_kinds_of_artists():
    figure = Figure()
    bars, across, mesh, image = figure.subplots(2, 2).flat
    panel_letter(bars, "a", "bars")
    bars.bar([1.0, 2.0], [3.0, 5.0], label="b")
    across.barh([1.0, 2.0], [3.0, 5.0], label="h")
    across.errorbar([1.0, 2.0], [3.0, 5.0], xerr=[0.5, 0.25], label="e")
    across.hlines([7.0], [1.0], [4.0], label="l")
    across.vlines([7.0], [1.0], [4.0], label="v")
    across.scatter([1.0], [2.0], c=[9.0], label="c")
    mesh.pcolormesh([0.0, 2.0, 4.0], [0.0, 1.0], [[5.0, np.nan]])
    image.imshow([[1.0, 2.0], [3.0, 4.0]], origin="lower")
    table = plotted_numbers(figure)
    assert rows(table, "b")[["panel", "x", "y"]].to_numpy().tolist() == [
        ["(a) bars", 1.0, 3.0], ["(a) bars", 2.0, 5.0],
    ]  # fmt: skip
    assert rows(table, "h")[["x", "y"]].to_numpy().tolist() == [[3.0, 1.0], [5.0, 2.0]]
    assert rows(table, "e")[["x", "low", "high"]].to_numpy().tolist() == [
        [1.0, 0.5, 1.5], [2.0, 1.75, 2.25],
    ]  # fmt: skip
    assert rows(table, "l")[["y", "low", "high"]].to_numpy().tolist() == [[7.0, 1.0, 4.0]]
    assert rows(table, "v")[["x", "low", "high"]].to_numpy().tolist() == [[7.0, 1.0, 4.0]]
    assert rows(table, "c")["value"].tolist() == [9.0]
    assert rows(table[table["panel"] == "3"], "collection 1")[
        ["x", "y", "value"]
    ].to_numpy().tolist() == [
        [1.0, 0.5, 5.0]  # the other cell is NaN and not drawn
    ]
    assert rows(table, "image 1")[["x", "y", "value"]].to_numpy().tolist() == [
        [0, 0, 1], [1, 0, 2], [0, 1, 3], [1, 1, 4],
    ]  # fmt: skip


def test_what_is_not_drawn_is_not_saved_and_what_is_unknown_is_refused():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1.0, 2.0, 3.0], [np.nan, 5.0, np.inf])
    table = plotted_numbers(figure)
    assert table[["x", "y"]].to_numpy().tolist() == [[2.0, 5.0]]
    assert list(table.columns) == ["panel", "series", "x", "y"]
    axes.quiver([0.0], [0.0], [1.0], [1.0])
    with pytest.raises(TypeError, match="no numbers are known of a Quiver"):
        plotted_numbers(figure)


def test_curves_with_bands_in_the_looks_of_methods():
    table = pd.DataFrame(
        {
            "method": ["KL"] * 3 + ["mine"] * 3,
            "n": [1.0, 10.0, 100.0] * 2,
            "regret": [3.0, 2.0, 1.0, 6.0, 5.0, 4.0],
        }
    )
    table["low"], table["high"] = table["regret"] - 0.5, table["regret"] + 0.25
    made = panels(Layout(), 1, per_row=1)
    curves(
        made.axes[0], table, x="n", y="regret", by="method", low="low", high="high",
        looks=looks(["KL", "mine", "absent"]), markers=2,
    )  # fmt: skip
    log_axis(made.axes[0], "x")
    legend(made, Layout())
    numbers = plotted_numbers(made.figure)
    for name in ("KL", "mine"):
        given_rows = table[table["method"] == name]
        assert list(rows(numbers, name)["y"].dropna()) == list(given_rows["regret"])
        assert list(rows(numbers, name)["high"].dropna()) == list(given_rows["high"])
    assert [text.get_text() for text in made.figure.legends[0].get_texts()] == ["KL", "mine"]
    line = made.axes[0].lines[0]
    assert (line.get_color(), line.get_linestyle(), line.get_markevery()) == ("#D55E00", "-", 2)


def test_captions_say_what_varies_how_many_seeds_and_which_interval():
    text = caption(
        "Regret against n", varies="n and the method", seeds=2000, interval="95% bootstrap"
    )
    assert text == (
        "Regret against n. Varied: n and the method. Seeds: 2,000. Interval: 95% bootstrap."
    )
    exact = caption("Regret.", varies="beta.", seeds=None, interval=None)
    assert exact == "Regret. Varied: beta. Exact: no seeds, no interval."
    assert caption("a", varies="b", seeds="one", interval=None).endswith("Seeds: one. No interval.")
    assert shown({"a": 20, "b": 20}) == "20"
    assert shown({"a": 20, "b": 1000}) == "20 to 1,000"
    for keywords, message in (
        ({"varies": " ", "seeds": 1, "interval": None}, "varies is empty"),
        ({"varies": "n", "seeds": None, "interval": "95%"}, "exact numbers have none"),
    ):
        with pytest.raises(ValueError, match=message):
            caption("a", **keywords)


def test_every_caption_of_the_main_job_says_it():
    tables = tables_of(small_results())
    for name in MAIN_FIGURES:
        text = FIGURES[name].caption_of(tables)
        assert "Varied: " in text, name
        assert "Seeds: " in text or "Exact: no seeds" in text, name
        assert "nterval" in text, name
