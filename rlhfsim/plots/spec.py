"""What a figure is: the tables it reads, its caption, and the function that draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

Tables = Mapping[str, pd.DataFrame]


def _always(tables: Tables) -> bool:
    return True


@dataclass(frozen=True)
class FigureSpec:
    """A figure drawn from saved tables; `applies` says whether the tables hold what it shows."""

    tables: tuple[str, ...]
    caption: str
    draw: Callable[[Tables], Figure]
    applies: Callable[[Tables], bool] = _always
