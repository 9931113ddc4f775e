"""Formulas for people: the ASCII of claims and tables, in Unicode, HTML, mathtext and LaTeX."""

from __future__ import annotations

import re
from html import escape

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")

_WORDS = {
    "pi": "π",
    "pi_ref": "π_ref",
    "beta": "β",
    "gamma": "γ",
    "theta": "θ",
    "phi": "φ",
    "nu": "ν",
    "lambda": "λ",
    "sigma": "σ",
    "delta": "δ",
    "eps": "ε",
    "eps_c": "ε_c",
    "chi2": "χ²",
    "D_chi2": "D_χ²",
    "E_pi": "E_π",
    "C_inf": "C_∞",
    "Omega": "Ω",
}
_WORD = re.compile(r"\b(" + "|".join(sorted(_WORDS, key=len, reverse=True)) + r")\b")


def pretty(text: str) -> str:
    """Return `text` with its formulas in Unicode.

    >>> pretty("KL <= 2 D_chi2, regret x sqrt n at beta = 10^-2")
    'KL ≤ 2 D_χ², regret × √n at β = 10⁻²'
    """
    text = text.replace("<=", "≤").replace(">=", "≥").replace("||", "‖").replace("..", "…")
    text = re.sub(r"\^(-?\d+)", lambda m: m[1].translate(_SUPERSCRIPTS), text)
    text = re.sub(r"\bsqrt(?: (?=\w)|(?=\())", "√", text)
    text = re.sub(r"(?<=\w) x (?=\w|√)", " × ", text)
    return _WORD.sub(lambda m: _WORDS[m[1]], text)


# A subscript is what follows an underscore after one letter: D_χ², E_π, ε_c, D_1/2.
_SUBSCRIPT = re.compile(r"(?:(?<=\b\w)|(?<=\b\w\*))_(χ²|∞|\d/\d|\w+)")


def to_html(text: str) -> str:
    """Return `pretty(text)`, escaped, with subscripts as `<sub>`."""
    return _SUBSCRIPT.sub(r"<sub>\1</sub>", escape(pretty(text)))


def to_mathtext(text: str) -> str:
    """Return `pretty(text)` with subscripts as matplotlib draws them."""
    symbols = {"χ²": r"\chi^2", "∞": r"\infty", "π": r"\pi"}

    def subscript(match: re.Match[str]) -> str:
        inner = symbols.get(match[1], rf"\mathrm{{{match[1]}}}")
        return f"$_{{{inner}}}$"

    return _SUBSCRIPT.sub(subscript, pretty(text))


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{c: rf"\ensuremath{{{c}}}" for c in "<>|"},
    **{c: rf"\ensuremath{{^{{{d}}}}}" for c, d in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True)},
    **{c: rf"\ensuremath{{\{name}}}" for c, name in {
        "≤": "le", "≥": "ge", "‖": "|", "…": "ldots", "√": "surd", "×": "times", "∞": "infty",
        "π": "pi", "β": "beta", "γ": "gamma", "θ": "theta", "φ": "phi", "ν": "nu",
        "λ": "lambda", "σ": "sigma", "δ": "delta", "ε": "varepsilon", "χ": "chi", "Ω": "Omega",
    }.items()},
}  # fmt: skip


def to_latex(text: str) -> str:
    """Return `pretty(text)` as LaTeX text, every special character escaped."""

    def escaped(part: str) -> str:
        return "".join(_LATEX.get(c, c) for c in part)

    pieces = _SUBSCRIPT.split(pretty(text))  # text and subscripts in turn
    return "".join(
        rf"\textsubscript{{{escaped(piece)}}}" if k % 2 else escaped(piece)
        for k, piece in enumerate(pieces)
    )
