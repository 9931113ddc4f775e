"""Checks of shipped studies: a concluded testing subset, its data by hand, figures everywhere."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rlhfsim import sample_preferences
from rlhfsim.findings import StudyResult
from rlhfsim.plots import FIGURES
from rlhfsim.randomness import generator_for
from rlhfsim.studies import Study, read_results, run_study, wide
from rlhfsim.studies.shipped import SHIPPED, conclude
from rlhfsim.studies.shipped.base import plain
from tests.shipped_runs import extreme_layouts


@dataclass(frozen=True)
class Run:
    """A finished testing subset of a shipped study."""

    folder: Path
    study: Study
    rows: pd.DataFrame
    result: StudyResult


def concluded(name, folder):
    """Run the testing subset of a shipped study and conclude it."""
    study = SHIPPED[name].study.for_testing()
    run_study(study, folder, workers=1)
    result = conclude(folder)
    return Run(folder, study, plain(wide(read_results(folder))), result)


def scene_of(study, instance, environment, n):
    """Return a scene of a study and the preferences of its first seed there."""
    spec = study.instances[instance]
    scene = spec.scene(generator_for(study.name, f"instance {spec.scene_key}/0", environment), 0)
    rng = generator_for(study.name, f"data {spec.key}/{environment}/{n}", 0)
    return scene, sample_preferences(scene.bandit, n, rng, model=scene.labels)


def finding(result, start):
    """Return the one finding whose claim starts so."""
    (found,) = (f for f in result.findings if f.claim.startswith(start))
    return found


def draw_for_venues(run):
    """Draw the figures of a study at the extreme widths of the venues."""
    for name in SHIPPED[run.study.name].figures:
        for layout in extreme_layouts():
            drawing = FIGURES[name].draw(run.result.tables, layout)
            assert "Varied:" in drawing.caption
            drawing.figure.draw_without_rendering()
