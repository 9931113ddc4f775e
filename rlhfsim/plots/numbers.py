"""The numbers of a figure, read from what is drawn: a tidy table to be saved beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection, PathCollection, PolyCollection, QuadMesh
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter

#: What `fill_between` makes, in old and new versions of matplotlib.
_BANDS = ("PolyCollection", "FillBetweenPolyCollection")

COLUMNS = ("panel", "series", "x", "y", "low", "high", "value")


def plotted_numbers(figure: Figure) -> pd.DataFrame:
    """Return every number that the figure shows, one row for each point.

    `panel` is the title of the panel (its number where it has none) and `series` the label of what
    is drawn, without leading underscores (its kind and number where it has none).  `low` and
    `high` are the ends of bands and bars, `value` is the colour of a cell.  Where an axis has
    names for ticks, `x_name` and `y_name` hold them.  What is not drawn, NaN and infinite
    points, is left out, and columns that nothing fills.

    Returns
    -------
    DataFrame
    """
    rows: list[dict[str, Any]] = []
    for number, axes in enumerate(figure.axes, start=1):
        title = axes.get_title(loc="left") or axes.get_title() or str(number)
        names = {"x_name": _tick_names(axes.xaxis), "y_name": _tick_names(axes.yaxis)}
        for series, points in _series(axes):
            for point in points:
                if not all(np.isfinite(v) for v in point.values()):
                    continue
                named = {k: known.get(point.get(k[0], np.nan)) for k, known in names.items()}
                rows.append({"panel": title, "series": series, **point, **named})
    table = pd.DataFrame(rows, columns=[*COLUMNS, "x_name", "y_name"])
    kept = [c for c in table if c in COLUMNS[:4] or table[c].notna().any()]
    return table[kept]


def _series(axes: Axes) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Yield every series of a panel in the order of drawing, with its points."""
    inside = {id(artist) for container in axes.containers for artist in _parts(container)}
    for k, container in enumerate(axes.containers):
        yield _name(container, "bars", k), _of_container(container)
    for k, line in enumerate(axes.lines):
        if id(line) not in inside:
            x, y = (np.asarray(v, dtype=float) for v in line.get_data(orig=True))
            yield _name(line, "line", k), [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]
    for k, collection in enumerate(axes.collections):
        if id(collection) not in inside:
            yield _name(collection, "collection", k), list(_of_collection(collection))
    for k, image in enumerate(axes.images):
        yield _name(image, "image", k), list(_of_image(image))


def _parts(container: Any) -> Iterator[Any]:
    for part in container:
        if isinstance(part, tuple | list):
            yield from part
        elif part is not None:
            yield part


def _name(artist: Any, kind: str, number: int) -> str:
    label = str(artist.get_label() or "")
    # matplotlib calls what has no label `_child3`, `_container0` or `_nolegend_`.
    if not label or label.startswith(("_child", "_container", "_nolegend")):
        return f"{kind} {number + 1}"
    return label.lstrip("_")


def _of_container(container: Any) -> list[dict[str, float]]:
    if isinstance(container, BarContainer):
        return [_bar(patch, str(container.orientation)) for patch in container.patches]
    if isinstance(container, ErrorbarContainer):
        return _error_bars(container)
    raise TypeError(f"no numbers are known of a {type(container).__name__}")


def _bar(patch: Any, orientation: str) -> dict[str, float]:
    if orientation == "horizontal":
        return {"x": patch.get_x() + patch.get_width(), "y": patch.get_y() + patch.get_height() / 2}
    return {"x": patch.get_x() + patch.get_width() / 2, "y": patch.get_y() + patch.get_height()}


def _error_bars(container: ErrorbarContainer) -> list[dict[str, float]]:
    line, _, bars = container.lines
    if not isinstance(line, Line2D):
        raise TypeError("no numbers are known of error bars without their points")
    x, y = (np.asarray(v, dtype=float) for v in line.get_data(orig=True))
    points = [{"x": float(a), "y": float(b)} for a, b in zip(x, y, strict=True)]
    across = 1 if container.has_yerr else 0
    for point, segment in zip(points, bars[-1].get_segments(), strict=True):
        ends = np.asarray(segment)[:, across]
        point.update(low=float(ends.min()), high=float(ends.max()))
    return points


def _of_collection(collection: Any) -> Iterator[dict[str, float]]:
    if isinstance(collection, QuadMesh):
        yield from _of_mesh(collection)
    elif isinstance(collection, PathCollection):  # a scatter
        values = collection.get_array()
        for k, (x, y) in enumerate(np.asarray(collection.get_offsets(), dtype=float)):
            value = {} if values is None else {"value": float(values[k])}
            yield {"x": float(x), "y": float(y), **value}
    elif isinstance(collection, LineCollection):
        for segment in collection.get_segments():
            (x, y), (x_end, y_end) = np.asarray(segment)[[0, -1]]
            if x == x_end:
                yield {"x": float(x), "low": float(min(y, y_end)), "high": float(max(y, y_end))}
            else:
                yield {"y": float(y), "low": float(min(x, x_end)), "high": float(max(x, x_end))}
    elif type(collection).__name__ in _BANDS:  # others, such as arrows, derive from them
        yield from _of_band(collection)
    else:
        raise TypeError(f"no numbers are known of a {type(collection).__name__}")


def _of_band(collection: PolyCollection) -> Iterator[dict[str, float]]:
    """Yield the ends of a `fill_between` at each x, from the outline of the band."""
    for path in collection.get_paths():
        ends: dict[float, list[float]] = {}
        for x, y in np.asarray(path.vertices, dtype=float):
            ends.setdefault(float(x), []).append(float(y))
        for x, ys in sorted(ends.items()):
            yield {"x": x, "low": min(ys), "high": max(ys)}


def _of_mesh(mesh: QuadMesh) -> Iterator[dict[str, float]]:
    corners = np.asarray(mesh.get_coordinates(), dtype=float)
    middles = (corners[:-1, :-1] + corners[1:, 1:]) / 2.0
    values: Any = np.ma.filled(np.ma.asarray(mesh.get_array(), dtype=float), np.nan)
    for (x, y), value in zip(middles.reshape(-1, 2), values.ravel(), strict=True):
        yield {"x": float(x), "y": float(y), "value": float(value)}


def _of_image(image: AxesImage) -> Iterator[dict[str, float]]:
    values: Any = np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)
    if values.ndim != 2:
        raise TypeError("no numbers are known of a picture with colours of its own")
    left, right, bottom, top = image.get_extent()
    rows, columns = values.shape
    first, last = (bottom, top) if image.origin == "lower" else (top, bottom)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            yield {
                "x": left + (right - left) * (j + 0.5) / columns,
                "y": first + (last - first) * (i + 0.5) / rows,
                "value": float(value),
            }


def _tick_names(axis: Axis) -> dict[float, str]:
    """Return the names of ticks at fixed places, without mathtext's dollars."""
    formatter: Any = axis.get_major_formatter()
    named = isinstance(formatter, FixedFormatter | FuncFormatter)
    if not (named and isinstance(axis.get_major_locator(), FixedLocator)):
        return {}
    places = axis.get_majorticklocs()
    names = formatter.format_ticks(places)
    return {float(a): name.replace("$", "") for a, name in zip(places, names, strict=True)}
