"""Looks of methods and layouts of venues: told apart in colour, without it, and at every width."""

import itertools

import matplotlib.colors
import numpy as np
import pytest

from rlhfsim.learners import LEARNERS
from rlhfsim.plots import LOOKS, VENUES, Layout, layout_for, looks
from rlhfsim.plots.looks import ALIASES, PALETTE, look
from rlhfsim.plots.venues import styled
from rlhfsim.repro.methods import METHODS

# Machado, Oliveira and Fernandes (2009), table 1, severity 1: linear RGB as seen without one cone.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(colour):
    """Linear RGB of a colour."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb, sight="normal"):
    """CIE L*a*b* of a colour in linear RGB, as seen with or without one kind of cone."""
    xyz = TO_XYZ @ np.clip(np.array(SIGHT[sight]) @ rgb, 0, 1) / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_are_told_apart_by_colour_blind_readers(sight):
    # A just noticeable difference is about 2.3.
    distances = [
        np.linalg.norm(lab(linear(a), sight) - lab(linear(b), sight))
        for a, b in itertools.combinations(PALETTE, 2)
    ]
    assert min(distances) > 15


def test_a_pair_on_a_line_of_confusion_would_fail():
    # What the matrix all but annihilates is what such a reader does not see.
    unseen = np.linalg.svd(np.array(SIGHT["protanopia"]))[2][-1]
    a, b = 0.4 + 0.2 * unseen, 0.4 - 0.2 * unseen
    assert np.linalg.norm(lab(a) - lab(b)) > 30
    assert np.linalg.norm(lab(a, "protanopia") - lab(b, "protanopia")) < 15


def test_every_learner_has_its_own_look():
    assert set(LOOKS) == {learner.key for learner in LEARNERS}
    assert set(METHODS) <= set(ALIASES)
    assert len({a_look.label for a_look in LOOKS.values()}) == len(LOOKS)


def test_in_grey_dashes_or_marker_tell_methods_apart():
    for a, b in itertools.combinations(LOOKS.values(), 2):
        assert (a.dashes, a.marker) != (b.dashes, b.marker)
    # Those of the main figures, drawn without markers, by the dashes alone.
    main = [look(name) for name in (*METHODS, "best-of-N", "dpo", "chipo")]
    assert len({a_look.dashes for a_look in main}) == len(main)
    # Lines must be seen on white.
    assert all(lab(linear(a_look.colour))[0] < 75 for a_look in LOOKS.values())


def test_unknown_names_take_the_next_of_the_cycle():
    names = ["KL", "mine", *(f"method {k}" for k in range(20))]
    given = looks(names)
    assert list(given) == names
    assert given["KL"] is LOOKS["rlhf-kl"]
    assert given["mine"].label == "mine"
    pairs = [(a_look.dashes, a_look.marker) for a_look in given.values()]
    assert len(set(pairs)) == len(pairs)
    assert looks(names) == given
    with pytest.raises(ValueError, match="too many others"):
        looks(f"method {k}" for k in range(64))
    with pytest.raises(ValueError, match="name is 'mine'; it must be one of rlhf-kl"):
        look("mine")


def test_unknown_names_differ_in_any_two_of_colour_dashes_and_marker():
    given = looks(f"method {k}" for k in range(45)).values()
    for one, other in itertools.combinations(("colour", "dashes", "marker"), 2):
        assert len({(getattr(g, one), getattr(g, other)) for g in given}) == 45, (one, other)


def test_widths_are_those_of_the_templates():
    # ICML: 3.25 in columns, 0.25 in apart; NeurIPS and ICLR 5.5 in; JMLR 6 in; TMLR 6.5 in.
    widths = {name: (venue.column, venue.full) for name, venue in VENUES.items()}
    assert widths == {
        "icml": (3.25, 6.75),
        "neurips": (5.5, 5.5),
        "iclr": (5.5, 5.5),
        "jmlr": (6.0, 6.0),
        "tmlr": (6.5, 6.5),
    }
    assert layout_for("icml", "column") == Layout(3.25, 8.0, serif=True)
    assert layout_for() == Layout(6.75)
    assert layout_for(width="column").width == 3.25


def test_panels_are_laid_again_where_they_do_not_fit():
    assert layout_for("icml", "column").per_row(3) == 1
    assert layout_for("icml", "full").per_row(3) == 3
    assert layout_for("neurips").per_row(3) == 2
    assert layout_for("neurips").per_row(1) == 1
    assert Layout(width=0.5).per_row(4) == 1


def test_style_leaves_the_settings_of_the_caller_alone():
    before = dict(matplotlib.rcParams)
    with styled(layout_for("jmlr")):
        assert matplotlib.rcParams["font.size"] == 9.95
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: layout_for("aaai"), "venue is 'aaai'; it must be one of icml, neurips"),
        (lambda: layout_for("icml", "half"), "width is 'half'; it must be one of column, full"),
        (lambda: Layout(width=0.0), "width is 0.0; it must be positive"),
        (lambda: Layout(base=float("nan")), "base is nan"),
    ],
)
def test_bad_layouts_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
