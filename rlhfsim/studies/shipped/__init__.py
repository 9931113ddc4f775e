"""The studies that come with the package: `SHIPPED`, and what turns their cells into an answer.

Each module has the grid (`STUDY`), the analysis of its saved table, and a `SHIPPED`; its figure is
the module of the same name in `rlhfsim.plots.studies`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from pkgutil import iter_modules

from rlhfsim.files import atomic_path
from rlhfsim.findings import StudyResult, save_results
from rlhfsim.plots import FIGURES
from rlhfsim.report import build_report
from rlhfsim.studies.results import read_results, wide
from rlhfsim.studies.shipped.base import Shipped, plain
from rlhfsim.studies.store import Store

_MODULES = (
    import_module(f"{__name__}.{found.name}")
    for found in iter_modules(__path__)
    if found.name != "base"
)

#: Name -> shipped study.
SHIPPED: dict[str, Shipped] = {m.SHIPPED.study.name: m.SHIPPED for m in _MODULES}


def conclude(folder: str | PathLike[str]) -> StudyResult:
    """Analyse the finished study of a folder; write its tables, figures and report there.

    Raises
    ------
    ValueError
        If the study is not a shipped one, or not finished.
    """
    place = Path(folder)
    study = Store.open(place).study
    if study.name not in SHIPPED:
        raise ValueError(f"{place} holds {study.name!r}, which is none of {', '.join(SHIPPED)}")
    shipped = SHIPPED[study.name]
    result = shipped.analyse(plain(wide(read_results(place))), study)
    tables, figures = place / "tables", place / "figures"
    for each in (tables, figures):
        each.mkdir(exist_ok=True)
    for name, table in result.tables.items():
        with atomic_path(tables / f"{name}.parquet") as path:
            table.to_parquet(path, index=False)
        with atomic_path(tables / f"{name}.csv") as path:
            table.to_csv(path, index=False, float_format="%.17g")
    packages = ("rlhfsim", "numpy", "scipy", "pandas", "matplotlib")
    save_results(
        place, [result], seed=0, versions={name: version(name) for name in packages},
        title=result.title,
    )  # fmt: skip
    for name in shipped.figures:
        FIGURES[name].draw(result.tables).save(figures / name)
    build_report(place)
    return result


__all__ = ["SHIPPED", "Shipped", "conclude"]
