"""Figures of the studies that come with the package, one module for each."""

from importlib import import_module
from pkgutil import iter_modules

from rlhfsim.plots.spec import FigureSpec

#: Name of the study -> its figure.
STUDY_FIGURES: dict[str, FigureSpec] = {
    found.name: import_module(f"{__name__}.{found.name}").FIGURE for found in iter_modules(__path__)
}
