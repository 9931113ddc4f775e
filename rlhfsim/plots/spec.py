"""What a figure is: the tables it reads, its caption, and the function that draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from rlhfsim.plots.drawing import Drawing
from rlhfsim.plots.venues import SCREEN, Layout, styled

Tables = Mapping[str, pd.DataFrame]


def _always(tables: Tables) -> bool:
    return True


@dataclass(frozen=True)
class FigureSpec:
    """A figure drawn from saved tables.

    Parameters
    ----------
    tables : tuple of str
        Names of the tables it reads.
    caption : str or function of the tables
        See `panels.caption`; a function where counts in it come from the tables.
    plot : function `(tables, layout) -> Figure`
        Draws within the settings of the layout.
    applies : function of the tables
        Whether they hold what is shown.
    """

    tables: tuple[str, ...]
    caption: str | Callable[[Tables], str]
    plot: Callable[[Tables, Layout], Figure]
    applies: Callable[[Tables], bool] = _always

    def possible(self, tables: Tables) -> bool:
        """Return whether these tables are all there and hold what is shown."""
        return set(self.tables) <= set(tables) and self.applies(tables)

    def draw(self, tables: Tables, layout: Layout = SCREEN) -> Drawing:
        """Return the figure for a layout, ready to be saved.

        Raises
        ------
        ValueError
            If a table lacks a column, as one of an earlier version may.
        """
        try:
            with styled(layout):
                figure = self.plot(tables, layout)
            caption = self.caption_of(tables)
        except KeyError as error:
            names = ", ".join(self.tables)
            raise ValueError(
                f"tables {names} have no column {error}; another version made them: run again"
            ) from error
        return Drawing(figure, layout, caption)

    def caption_of(self, tables: Tables) -> str:
        """Return the caption of what these tables hold."""
        return self.caption if isinstance(self.caption, str) else self.caption(tables)
