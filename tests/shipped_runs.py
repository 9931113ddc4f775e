"""Runs of the testing subsets of shipped studies, and their cells made again by hand."""

import warnings

from rlhfsim.plots.studies import STUDY_FIGURES
from rlhfsim.plots.venues import VENUES, WIDTHS, layout_for
from rlhfsim.randomness import generator_for
from rlhfsim.sampling import sample_preferences
from rlhfsim.studies import read_results, run_study, wide
from rlhfsim.studies.shipped import SHIPPED
from rlhfsim.studies.shipped.base import plain


def run_testing(name, folder):
    """Return the testing subset of a study, its rows, and what its analysis makes of them."""
    study = SHIPPED[name].study.for_testing()
    run_study(study, folder / name, workers=1)
    rows = plain(wide(read_results(folder / name)))
    return study, rows, SHIPPED[name].analyse(rows, study)


def scene_and_data(study, row):
    """Return the scene and the preferences of a cell, from their names and seeds alone."""
    spec = study.instances[study.labels[0].index(row["instance"])]
    place = int(row["environment"]), int(row["n"]), int(row["seed"])
    scene = spec.scene(
        generator_for(study.name, f"instance {spec.scene_key}/0", place[0]), place[1]
    )
    rng = generator_for(study.name, f"data {spec.key}/{place[0]}/{place[1]}", place[2])
    return scene, sample_preferences(scene.bandit, place[1], rng, model=scene.labels)


def extreme_layouts():
    """Return the narrowest and the widest layout of the venues, between which the others lie."""
    every = {layout_for(venue, width) for venue in VENUES for width in WIDTHS}
    return [pick(every, key=lambda layout: (layout.width, layout.base)) for pick in (min, max)]


def draw_everywhere(figure, tables):
    """Draw a study's figure in the extreme layouts of the venues, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for layout in extreme_layouts():
            drawing = STUDY_FIGURES[figure].draw(tables, layout)
            drawing.figure.canvas.draw()
    return drawing


def verdicts(result):
    """Return the verdict of each claim."""
    return {finding.claim: finding.verdict for finding in result.findings}
