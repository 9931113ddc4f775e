"""One look for every method: colour, dashes and marker, told apart in colour and in grey.

Colours are those of Okabe and Ito (2008), which readers with any common colour blindness can tell
apart; the yellow, too pale for lines on white, is left out.  No two methods share both dashes and
marker, so that a grey print loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#777777"

#: The colours of methods; `GREY` is for what is only there to compare with.
PALETTE = (VERMILLION, BLUE, GREEN, BLACK, ORANGE, SKY, PURPLE)

#: Lengths of dash and gap, in line widths.
Dashes = str | tuple[float, tuple[float, ...]]

SOLID: Dashes = "-"
DASHED: Dashes = "--"
DASH_DOT: Dashes = "-."
DOTTED: Dashes = ":"
LONG: Dashes = (0.0, (8.0, 2.0))
DASH_DOT_DOT: Dashes = (0.0, (6.0, 1.5, 1.0, 1.5, 1.0, 1.5))
SHORT: Dashes = (0.0, (2.0, 1.0))
LONG_SHORT: Dashes = (0.0, (7.0, 1.5, 2.5, 1.5))
SPARSE: Dashes = (0.0, (1.0, 3.0))


@dataclass(frozen=True)
class Look:
    """How a method is drawn, and what the legend calls it."""

    colour: str
    dashes: Dashes
    marker: str
    label: str

    def line(self) -> dict[str, Any]:
        """Return keywords for a line without markers."""
        return {"color": self.colour, "linestyle": self.dashes, "label": self.label}

    def marked(self) -> dict[str, Any]:
        """Return keywords for a line with its markers."""
        return {**self.line(), "marker": self.marker}


_CHI2 = r"$\chi^2$"

#: Key of `rlhfsim.learners.catalogue.LEARNERS` -> look.
LOOKS: dict[str, Look] = {
    "rlhf-kl": Look(VERMILLION, SOLID, "o", "KL"),
    "rlhf-chi2": Look(BLUE, DASHED, "s", _CHI2),
    "rlhf-mixed": Look(GREEN, DASH_DOT, "^", r"$\chi^2 + \mathrm{KL}$"),
    "rlhf-alpha": Look(PURPLE, LONG, "v", r"$\alpha$-divergence"),
    "best-of-n": Look(BLACK, DOTTED, "x", "best-of-$N$"),
    "soft-best-of-n": Look(BLACK, SPARSE, "+", "soft best-of-$N$"),
    "inference-time-pessimism": Look(BLACK, SHORT, "1", "inference-time pessimism"),
    "dpo": Look(ORANGE, LONG, "D", "DPO"),
    "cdpo": Look(ORANGE, LONG_SHORT, "d", "cDPO"),
    "dpo-log-linear": Look(ORANGE, SHORT, "<", "DPO, log-linear"),
    "dpo-finite": Look(ORANGE, SPARSE, ">", "DPO, finite class"),
    "chipo": Look(SKY, DASH_DOT_DOT, "P", r"$\chi$PO"),
    "chipo-clipped": Look(SKY, LONG, "p", r"$\chi$PO, clipped"),
    "chipo-practical": Look(SKY, SHORT, "h", r"$\chi$PO, practical"),
    "chipo-finite": Look(SKY, SPARSE, "H", r"$\chi$PO, finite class"),
    "fdpo-js": Look(PURPLE, DASHED, "X", "f-DPO, JS"),
    "fdpo-forward-kl": Look(PURPLE, DOTTED, "8", "f-DPO, forward KL"),
    "ipo": Look(PURPLE, SHORT, "*", "IPO"),
    "slic": Look(VERMILLION, SHORT, "2", "SLiC"),
    "rpo": Look(GREEN, LONG_SHORT, "3", "RPO"),
    "rebel": Look(BLUE, LONG_SHORT, "4", "REBEL"),
    "power": Look(GREEN, SPARSE, "d", "POWER"),
    "kto": Look(VERMILLION, LONG_SHORT, "v", "KTO"),
    "simpo": Look(VERMILLION, SPARSE, "p", "SimPO"),
    "pessimistic-mle-1": Look(PURPLE, LONG_SHORT, "s", "pessimistic MLE (I)"),
    "pessimistic-mle-2": Look(PURPLE, SPARSE, "o", "pessimistic MLE (II)"),
    "pessimistic-likelihood": Look(PURPLE, DASH_DOT_DOT, "D", "pessimistic likelihood"),
    "infalign-best": Look(BLUE, DASH_DOT_DOT, "h", "InfAlign, best of $N$"),
    "infalign-worst": Look(BLUE, SPARSE, "8", "InfAlign, worst of $N$"),
    "ctrl": Look(BLUE, SHORT, ">", "CTRL"),
    "bayesian": Look(GREEN, LONG, "*", "Bayesian posterior"),
    "matching-exponential": Look(GREEN, DASH_DOT_DOT, "<", "matching, exponential"),
    "matching-win-rate": Look(GREEN, SHORT, "X", "matching, win rate"),
    "demonstrations": Look(BLACK, DASH_DOT_DOT, "^", "with demonstrations"),
    "token-chi2": Look(BLUE, DASHED, "d", r"$\chi^2$ by token"),
    "token-demonstrations": Look(BLACK, DASH_DOT, "v", "with demonstrations, by token"),
    "minimax-winner": Look(BLUE, SOLID, "s", "minimax winner"),
    "nash": Look(GREEN, LONG, "^", "Nash"),
    "self-play": Look(ORANGE, DASH_DOT, "D", "self-play"),
    "nash-md": Look(SKY, DASHED, "P", "Nash-MD"),
    "iterative-chipo": Look(PURPLE, SOLID, "X", r"iterative $\chi$PO"),
    "online-enhancer": Look(VERMILLION, DASHED, "o", "enhancer"),
    "online-thompson": Look(GREEN, DASHED, "<", "Thompson"),
    "xpo": Look(VERMILLION, DASH_DOT, ">", "XPO"),
    "iterated-dpo": Look(ORANGE, DASHED, "p", "iterated DPO"),
}

#: Other names of the same methods, as tables of the main job have them.
ALIASES = {"KL": "rlhf-kl", "chi2": "rlhf-chi2", "mixed": "rlhf-mixed", "best-of-N": "best-of-n"}

_DASH_CYCLE = (SOLID, DASHED, DASH_DOT, DOTTED, LONG, DASH_DOT_DOT, SHORT, LONG_SHORT, SPARSE)
_MARKER_CYCLE = ("o", "s", "^", "D", "v", "P", "X")


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Return a look for each name: its own, or the next of a cycle.

    A name that is neither in `LOOKS` nor in `ALIASES` takes, in the order of the names, the next
    colour of `PALETTE`, the next dashes and the next marker, leaving out what a known name has
    taken; its label is the name itself.  The first 45 differ in any two of the three, so that
    lines without markers and points without lines are told apart as well.  The same names in the
    same order look the same.

    Raises
    ------
    ValueError
        If there are more unknown names than combinations.
    """
    names = list(dict.fromkeys(names))
    found = {name: LOOKS[key] for name in names if (key := ALIASES.get(name, name)) in LOOKS}
    taken = {(look.dashes, look.marker) for look in found.values()}
    for name in names:
        if name not in found:
            found[name] = _next_look(name, taken)
            taken.add((found[name].dashes, found[name].marker))
    return {name: found[name] for name in names}


def _next_look(name: str, taken: set[tuple[Dashes, str]]) -> Look:
    # Seven colours and markers against nine dashes: 63 combinations before one comes again.
    for k in range(len(_DASH_CYCLE) * len(_MARKER_CYCLE)):
        dashes, marker = _DASH_CYCLE[k % 9], _MARKER_CYCLE[k % 7]
        if (dashes, marker) not in taken:
            # Shifted by three after each round of markers: with plain k % 7, marker and colour
            # would go together, and points without a line be told apart in seven ways only.
            return Look(PALETTE[(k + 3 * (k // 7)) % 7], dashes, marker, name)
    raise ValueError(f"names has {name!r} and too many others for one figure")


def look(name: str) -> Look:
    """Return the look of one method that has its own.

    Raises
    ------
    ValueError
        If the name is neither in `LOOKS` nor in `ALIASES`.
    """
    key = ALIASES.get(name, name)
    if key not in LOOKS:
        raise ValueError(f"name is {name!r}; it must be one of {', '.join((*LOOKS, *ALIASES))}")
    return LOOKS[key]
