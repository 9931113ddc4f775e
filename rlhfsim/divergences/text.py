"""Divergences from text, for settings files: `"chi2 + 0.5 kl"`.  No code is run."""

from __future__ import annotations

import re
from collections.abc import Callable

from rlhfsim.divergences.alpha import AlphaDivergence
from rlhfsim.divergences.base import Divergence
from rlhfsim.divergences.chi_squared import ChiSquared
from rlhfsim.divergences.forward_kl import ForwardKL
from rlhfsim.divergences.hellinger import SquaredHellinger
from rlhfsim.divergences.jensen_shannon import JensenShannon
from rlhfsim.divergences.kl import KL

_PLAIN: dict[str, Callable[[], Divergence]] = {
    "kl": KL,
    "chi2": ChiSquared,
    "forward-kl": ForwardKL,
    "jensen-shannon": JensenShannon,
    "hellinger": SquaredHellinger,
}
_NUMBER = r"\d+(?:\.\d*)?(?:e[-+]?\d+)?"
_TERM = re.compile(
    rf"(?:({_NUMBER})\s*\*?\s*)?([a-z][a-z0-9-]*)(?:\(\s*(-?{_NUMBER})\s*\))?", re.ASCII
)


def parse_divergence(text: str) -> Divergence:
    """Return the divergence that a text such as `"chi2 + 0.5 kl"` names.

    A sum of terms, each a name with an optional positive factor: `kl`, `chi2`, `forward-kl`,
    `jensen-shannon`, `hellinger` (squared) and `alpha(a)`.

    Raises
    ------
    ValueError
        For anything else, with the term that is wrong.
    """
    if not isinstance(text, str):
        raise ValueError(f"divergence is {text!r:.60}; it must be text such as 'chi2 + 0.5 kl'")
    total: Divergence | None = None
    # After the exponents lost theirs, every plus sign stands between two terms.
    for term in re.sub(r"(?<=\de)\+(?=\d)", "", text).split("+"):
        part = _term(term.strip(), text)
        total = part if total is None else total + part
    assert total is not None
    return total


def _term(term: str, text: str) -> Divergence:
    match = _TERM.fullmatch(term)
    names = ", ".join((*_PLAIN, "alpha(a)"))
    if match is None:
        raise ValueError(
            f"divergence is {text!r:.60}; {term!r:.40} must be one of {names}, with an optional "
            "factor in front"
        )
    factor, name, setting = match.groups()
    if (name in _PLAIN) != (setting is None) or (name not in _PLAIN and name != "alpha"):
        raise ValueError(f"divergence is {text!r:.60}; {term!r:.40} must be one of {names}")
    part = _PLAIN[name]() if setting is None else AlphaDivergence(float(setting))
    if factor is None:
        return part
    if not float(factor) > 0:
        raise ValueError(f"divergence is {text!r:.60}; the factor in {term!r:.40} must be positive")
    return float(factor) * part
