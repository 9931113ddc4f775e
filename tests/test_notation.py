"""Formulas in Unicode."""

import re
import unicodedata

import pytest

from rlhfsim.claims import CLAIMS
from rlhfsim.notation import escape_latex, pretty, to_html, to_latex, to_mathtext


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("KL <= log(1 + 2 D_chi2) = log C", "KL ≤ log(1 + 2 D_χ²) = log C"),
        ("|E_pi[delta]| <= sqrt(1 + 2 D_chi2) eps", "|E_π[δ]| ≤ √(1 + 2 D_χ²) ε"),
        ("regret x sqrt n at beta = 1/sqrt n", "regret × √n at β = 1/√n"),
        ("n = 10^2..10^8", "n = 10²…10⁸"),
        ("||delta + beta (w* - 1)||^2 / (4 beta)", "‖δ + β (w* - 1)‖² / (4 β)"),
        ("eps_c/sqrt(2 D*)", "ε_c/√(2 D*)"),
        ("Omega(1/log n), pi_ref, C_inf", "Ω(1/log n), π_ref, C_∞"),
        ("J(pi_beta) = max_pi J_beta(pi)", "J(π_β) = max_π J_β(π)"),
        ("eps_c^2/(2 beta), beta^-2, x_1^2", "ε_c²/(2 β), β⁻², x_1²"),
        ("beta_points, sharp_bound, a_file_name", "beta_points, sharp_bound, a_file_name"),
        ("1 +- 4 %", "1 ± 4 %"),
        ("typical epics betray a chi2x", "typical epics betray a chi2x"),
    ],
)
def test_pretty(text, expected):
    assert pretty(text) == expected


def test_claims_keep_no_ascii_operators():
    for claim in CLAIMS:
        assert not {"<=", "sqrt", "chi2", "delta"} & set(pretty(claim.formula).split())


def test_subscripts():
    text = "|E_pi[delta]| <= 2 D_chi2 + D_1/2 & C_inf"
    assert to_html(text) == (
        "|E<sub>π</sub>[δ]| ≤ 2 D<sub>χ²</sub> + D<sub>1/2</sub> &amp; C<sub>∞</sub>"
    )
    assert to_mathtext("D_chi2, E_pi, eps_c") == (r"D$_{\chi^2}$, E$_{\pi}$, ε$_{\mathrm{c}}$")
    assert to_html("sharp_bound at pi_ref") == "sharp_bound at π<sub>ref</sub>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("J^(pi_beta) - J^_beta(pi^)", "Ĵ(π<sub>β</sub>) - Ĵ<sub>β</sub>(π̂)"),
        ("r^ and p e^(r^/beta)/Z", "r̂ and p e<sup>r̂/β</sup>/Z"),
        ("E_pi_hat[theta_hat]", "E<sub>π̂</sub>[θ̂]"),
        ("||w^ - w*||_p^2", "‖ŵ - w*‖<sub>p</sub>²"),
        ("E_{y ~ q}[B_q(y)]", "E<sub>y ~ q</sub>[B<sub>q</sub>(y)]"),
        (
            "max_y e^r*, n^(-1/2), F^n",
            "max<sub>y</sub> e<sup>r*</sup>, n<sup>-1/2</sup>, F<sup>n</sup>",
        ),
        ("(1 - 1/n)^(2n)", "(1 - 1/n)<sup>2n</sup>"),
        ("2 Var_p[u] = eps_c^2 < 1", "2 Var<sub>p</sub>[u] = ε<sub>c</sub>² &lt; 1"),
    ],
)
def test_html(text, expected):
    assert unicodedata.normalize("NFC", to_html(text)) == unicodedata.normalize("NFC", expected)


def test_every_claim_is_set_without_leftovers():
    for claim in CLAIMS:
        html = to_html(claim.formula)
        text = re.sub("<.*?>", "", html)
        assert "^" not in text, claim.formula
        # `(...)_+`, a positive part, is the one underscore that stays.
        assert "_" not in text.replace(")_+", ""), claim.formula
        assert not re.search(
            r"(?<![a-zA-Z])(pi|beta|eps|delta|gamma|sigma|theta)(?![a-zA-Z])", text
        )
        for tag in ("sub", "sup"):
            assert html.count(f"<{tag}>") == html.count(f"</{tag}>")


def test_latex_escapes():
    assert escape_latex("a_b & 5 % − ½") == (
        r"a\_b \& 5 \% \ensuremath{-} \ensuremath{\frac{1}{2}}"
    )
    assert to_latex("D_chi2 <= 1") == (
        r"D\textsubscript{\ensuremath{\chi}\ensuremath{^{2}}} \ensuremath{\le} 1"
    )
