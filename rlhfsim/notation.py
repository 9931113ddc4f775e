"""Formulas for people: the ASCII of claims and tables, in Unicode, HTML, mathtext and LaTeX."""

from __future__ import annotations

import re
from html import escape

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")

_WORDS = {
    "pi": "π",
    "pi_ref": "π_ref",
    "pi1": "π₁",
    "pi2": "π₂",
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "theta": "θ",
    "phi": "φ",
    "mu": "μ",
    "nu": "ν",
    "lambda": "λ",
    "sigma": "σ",
    "Sigma": "Σ",
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

# A name with subscripts: one letter, a Greek one or an operator, then short parts or Greek ones.
_GREEK = "|".join(sorted((w for w in _WORDS if "_" not in w), key=len, reverse=True))
_NAME = re.compile(
    rf"\b(?:[A-Za-z]|J\^|DG|max|min|sum|Var|Cov|{_GREEK})(?:_(?:{_GREEK}|[A-Za-z0-9]{{1,3}}))+\b"
)


def pretty(text: str) -> str:
    """Return `text` with its formulas in Unicode.

    >>> pretty("KL <= 2 D_chi2, regret x sqrt n at beta = 10^-2")
    'KL ≤ 2 D_χ², regret × √n at β = 10⁻²'
    """
    text = (
        text.replace("<=", "≤")
        .replace(">=", "≥")
        .replace("||", "‖")
        .replace("..", "…")
        .replace("+-", "±")
    )
    text = re.sub(r"\bsqrt(?: (?=\w)|(?=\())", "√", text)
    text = re.sub(r"(?<=\w) x (?=\w|√)", " × ", text)
    text = _WORD.sub(lambda m: _WORDS[m[1]], text)
    text = _NAME.sub(lambda m: "_".join(_WORDS.get(p, p) for p in m[0].split("_")), text)
    # Last: an exponent counts as part of a word.
    return re.sub(r"\^(-?\d+)(?!\.?\d)", lambda m: m[1].translate(_SUPERSCRIPTS), text)


# A subscript is what follows an underscore after one letter: D_χ², E_π, ε_c, D_1/2.
_SUBSCRIPT = re.compile(r"(?:(?<=\b\w)|(?<=\b\w\*))_(χ²|∞|\d/\d|[^\W⁰¹²³⁴⁵⁶⁷⁸⁹]+\u0302?)")


_HAT = "\N{COMBINING CIRCUMFLEX ACCENT}"
# `r^` and `pi^` are estimates where no exponent follows; `J^` always is.
_ESTIMATE = re.compile(r"(?<![\w*])(?:J\^(?=[(_])|[Jlrwπ]\^(?![\w({*+-]))|(?<![^\W_])\w_hat\b")
_AFTER_BAR = re.compile(r"(?<=‖)_(\w)")
_BRACED = re.compile(r"([_^])\{([^{}]*)\}")
_POWER = re.compile(r"\^(?:\(([^()]*(?:\([^()]*\)[^()]*)*)\)|(-?\d+\.\d+|\w\*?|\*))")


def to_html(text: str) -> str:
    """Return `pretty(text)`, escaped, with subscripts, exponents and hats as HTML.

    >>> to_html("J^(pi_beta) = E_{y ~ p}[e^(r/beta)]")
    'J\u0302(π<sub>β</sub>) = E<sub>y ~ p</sub>[e<sup>r/β</sup>]'
    """
    html = escape(pretty(text))
    html = _ESTIMATE.sub(lambda m: m[0][0] + _HAT, html)
    html = re.sub(rf"(?<={_HAT})_(\w+)", r"<sub>\1</sub>", html)
    html = _BRACED.sub(lambda m: _tag("sub" if m[1] == "_" else "sup", m[2]), html)
    html = _AFTER_BAR.sub(r"<sub>\1</sub>", html)
    html = _SUBSCRIPT.sub(r"<sub>\1</sub>", html)
    html = re.sub(r"\b(max|min|sum|Var|Cov|DG)_(\w+)", r"\1<sub>\2</sub>", html)
    return _POWER.sub(lambda m: _tag("sup", m[1] if m[1] is not None else m[2]), html)


def _tag(name: str, inner: str) -> str:
    return f"<{name}>{inner}</{name}>"


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
        "π": "pi", "β": "beta", "γ": "gamma", "θ": "theta", "φ": "phi", "μ": "mu", "ν": "nu",
        "Σ": "Sigma",
        "λ": "lambda", "σ": "sigma", "δ": "delta", "ε": "varepsilon", "χ": "chi", "Ω": "Omega",
        "α": "alpha", "±": "pm",
    }.items()},
    "₁": r"\ensuremath{_1}", "₂": r"\ensuremath{_2}",
    "\N{MINUS SIGN}": r"\ensuremath{-}", "½": r"\ensuremath{\frac{1}{2}}", "–": "--",
    "“": "``", "”": "''",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Return `text` as LaTeX text, every special character escaped, nothing made prettier."""
    return "".join(_LATEX.get(c, c) for c in text)


def to_latex(text: str) -> str:
    """Return `pretty(text)` as LaTeX text, every special character escaped."""
    pieces = _SUBSCRIPT.split(pretty(text))  # text and subscripts in turn
    return "".join(
        rf"\textsubscript{{{escape_latex(piece)}}}" if k % 2 else escape_latex(piece)
        for k, piece in enumerate(pieces)
    )
