"""Formulas in Unicode."""

import pytest

from rlhfsim.claims import CLAIMS
from rlhfsim.notation import pretty, to_html, to_mathtext


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
