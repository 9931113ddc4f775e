"""Claims of a user's own: from a file to `claims`, `check` and `break`; kinds and witnesses."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from rlhfsim.claims import CLAIMS, Claim, Pairs, ProbabilityClaim, RateClaim
from rlhfsim.claims.loading import find, is_file, load_claims
from rlhfsim.cli import main

SOURCE = """
import numpy as np
from rlhfsim import KL, ChiSquared
from rlhfsim.claims import CLAIMS as SHIPPED
from rlhfsim.claims import Claim, Pairs, ProbabilityClaim, RateClaim

too_small = Claim(
    name="KL below 1.9 chi2", formula="KL <= 1.9 D_chi2", source="me", kind="upper",
    left=lambda x: KL().per_prompt(x.policy, x.reference),
    right=lambda x: 1.9 * ChiSquared().per_prompt(x.policy, x.reference),
    instances=Pairs, no_witness="not known",
)
total_variation = Claim(
    name="TV below 1", formula="TV <= 1", source="me too", kind="tight",
    left=lambda x: 0.5 * np.abs(x.policy - x.reference).sum(axis=1),
    right=lambda x: np.ones(len(x)),
    witness=lambda: Pairs(
        *([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])] * 2), np.ones(1), np.zeros((1, 2))
    ),
)
CLAIMS = [
    too_small,
    RateClaim("root", "x ~ n^-1/2", "me", -0.5, lambda n, rng: n**-0.5, (10, 100, 1000)),
    ProbabilityClaim("never", "P(0 > 1) <= 1/2", "me", 0.5, exact=lambda: 0.0),
]
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "my_claims.py"
    path.write_text(SOURCE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield path
    for name in [name for name in sys.modules if name.startswith("_rlhfsim_doctor_")]:
        del sys.modules[name]


def run(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    return caught.value.code, *capsys.readouterr()


def named(claims):
    return [claim.name for claim in claims]


# ---- loading -------------------------------------------------------------------------------------


def test_claims_of_a_file_in_its_order_each_once(file):
    found = load_claims(str(file), CLAIMS)
    assert named(found) == ["KL below 1.9 chi2", "TV below 1", "root", "never"]
    assert [type(claim) for claim in found] == [Claim, Claim, RateClaim, ProbabilityClaim]


@pytest.mark.parametrize(
    ("name", "claim"),
    [("too_small", "KL below 1.9 chi2"), ("TV below 1", "TV below 1"), ("CLAIMS[1]", "root")],
)
def test_one_claim_by_its_variable_or_by_its_name(file, name, claim):
    assert named(load_claims(f"{file}:{name}")) == [claim]


def test_files_and_shipped_claims_are_chosen_together(file):
    found = find(CLAIMS, ["Pinsker", str(file), f"{file}:root", "Pinsker"])
    assert named(found)[:3] == ["Pinsker", "KL below 1.9 chi2", "TV below 1"]
    assert named(find(CLAIMS, [str(file)], "ME TOO")) == ["TV below 1"]
    assert find(CLAIMS) == list(CLAIMS)
    assert is_file("a.py")
    assert is_file("a/b.py:c")
    assert not is_file("Pinsker")


def test_a_file_that_imports_our_claims_does_not_claim_them(file):
    file.write_text("from rlhfsim.claims import CLAIMS\nfrom rlhfsim.claims import Claim\n")
    with pytest.raises(ValueError, match=r"my_claims\.py holds no claim; it must define a Claim"):
        load_claims(str(file), CLAIMS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "holds no claim"),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit(3)", "exits when it is imported"),
        ("CLAIMS = [1]", r"CLAIMS\[0\] of .*my_claims\.py is a int; it must be a Claim"),
        (SOURCE + "\ntwin = Claim(**vars(too_small))", "two claims called 'KL below 1.9 chi2'"),
        (SOURCE.replace('"upper"', '"uper"'), "kind is 'uper'; it must be one of identity, upper"),
    ],
)
def test_bad_files_are_one_line_on_stderr_and_exit_code_2(file, capsys, text, message):
    file.write_text(text)
    for command in ("claims", "check", "break"):
        code, out, err = run(capsys, command, "my_claims.py")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("rlhfsim: error:")
    with pytest.raises(ValueError, match=message):
        load_claims(str(file))


def test_files_and_names_that_are_not_there(file, capsys):
    code, _, err = run(capsys, "check", "absent.py")
    assert code == 2
    assert "there is no file absent.py" in err
    code, _, err = run(capsys, "break", "my_claims.py:too_smal")
    assert code == 2
    assert "'too_smal', which is no claim" in err


# ---- the commands --------------------------------------------------------------------------------


def test_claims_lists_those_of_a_file(file, capsys):
    code, out, _ = run(capsys, "claims", "my_claims.py")
    assert code == 0
    assert "KL <= 1.9 D_chi2" in out
    assert "Pinsker" not in out


def test_check_finds_the_false_one(file, capsys):
    code, out, _ = run(capsys, "check", "my_claims.py", "--instances", "3000")
    assert code == 1
    lines = {line.split("│")[1].strip(): line for line in out.splitlines() if "│" in line}
    assert "VIOLATED" in lines["KL below 1.9 chi2"]
    assert "holds, tight" in lines["TV below 1"]
    assert run(capsys, "check", "my_claims.py:total_variation", "--instances", "100")[0] == 0


def test_break_proves_the_violation_of_a_users_claim(file, capsys):
    pytest.importorskip("flint")
    code, out, _ = run(capsys, "break", "my_claims.py:too_small", "--seconds", "3")
    assert code == 0
    assert "(proved by ball arithmetic) at" in out
    assert "policy    = (1, 0)" in out
    code, out, _ = run(capsys, "break", "my_claims.py:total_variation", "--seconds", "0.3")
    assert code == 1
    assert "no violation in" in out


def test_break_asks_which_claim(file, capsys):
    code, _, err = run(capsys, "break", "my_claims.py")
    assert code == 2
    assert "my_claims.py holds 4 claims; say which: my_claims.py:NAME" in err
    code, _, err = run(capsys, "break", "my_claims.py:root")
    assert code == 2
    assert "is about rates or probabilities" in err


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("x.polices", "AttributeError: 'Pairs' object has no attribute 'polices'"),
        ("x.policy", "ValueError: left of claim 'bad' has shape"),
    ],
)
def test_what_a_users_claim_raises_is_bad_input(file, capsys, side, message):
    file.write_text(
        "from rlhfsim.claims import Claim, Pairs\n"
        f"bad = Claim('bad', 'f', 's', 'upper', lambda x: {side}, lambda x: 1.0,\n"
        "            instances=Pairs, no_witness='none')\n"
    )
    code, out, err = run(capsys, "check", "my_claims.py")
    assert (code, out) == (2, "")
    assert err.startswith(f"rlhfsim: error: while checking the claim 'bad': {message}")


def test_break_tells_a_search_without_a_ratio_from_one_without_a_violation(file, capsys):
    file.write_text(
        "import numpy as np\n"
        "from rlhfsim.claims import Claim, Pairs\n"
        "none = Claim('none', 'f', 's', 'upper', lambda x: np.nan, lambda x: 1.0,\n"
        "             instances=Pairs, no_witness='none')\n"
        "some = Claim('some', 'f', 's', 'upper', lambda x: np.where(x.weight > .5, np.nan, .3),\n"
        "             lambda x: 1.0, instances=Pairs, no_witness='none')\n"
    )
    code, out, err = run(capsys, "break", "my_claims.py:none", "--seconds", "0.1")
    assert (code, out) == (2, "")
    assert "claim 'none' has a ratio at none of" in err
    code, out, _ = run(capsys, "break", "my_claims.py:some", "--seconds", "0.1")
    assert code == 1
    assert re.search(r"no violation in \d+ instances; largest ratio 0.3 \(\d+ had none\)", out)


# ---- kinds and witnesses -------------------------------------------------------------------------


def tv(x):
    return 0.5 * np.abs(x.policy - x.reference).sum(axis=1)


def pair(mass):
    pi, p = np.array([[mass, 1 - mass]]), np.array([[1 - mass, mass]])
    return Pairs(pi, p, pi, p, np.ones(1), np.zeros((1, 2)))


BELOW_ONE = Claim("TV", "TV <= 1", "test", "tight", tv, lambda x: np.ones(len(x)),
                  lambda: pair(1.0))  # fmt: skip


def test_a_tight_claim_must_reach_its_bound_at_the_witness():
    result = BELOW_ONE.check(100, 0)
    assert (result.verdict, result.passed) == ("holds, tight", True)
    assert result.witness == pytest.approx(1.0, abs=1e-12)
    far = replace(BELOW_ONE, witness=lambda: pair(0.9)).check(100, 0)
    assert (far.verdict, far.passed) == ("not tight", False)
    # However large the sampled ratios are.
    assert far.sampled > 0.999
    assert replace(BELOW_ONE, kind="upper", witness=lambda: pair(0.9)).check(100, 0).passed
    small = replace(BELOW_ONE, right=lambda x: np.full(len(x), 0.9)).check(100, 0)
    assert (small.verdict, small.passed) == ("VIOLATED", False)


def test_a_claim_without_a_witness_says_why_and_names_its_instances():
    claim = replace(BELOW_ONE, kind="upper", witness=None, no_witness="not sought", instances=Pairs)
    assert claim.family is Pairs
    result = claim.check(1000, 0)
    assert result.passed
    assert result.witness is None
    assert result.worst == result.sampled
    assert result.worst_index is not None
    # The same instances as with a witness.
    assert result.sampled == replace(BELOW_ONE, kind="upper").check(1000, 0).sampled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"witness": None}, "a claim has either a witness or a reason"),
        ({"no_witness": "lost"}, "a claim has either a witness or a reason"),
        ({"witness": None, "no_witness": "?"}, "witness is None; a claim of kind 'tight' must"),
        ({"witness": None, "no_witness": "?", "kind": "false", "instances": Pairs},
         "witness is None; a claim of kind 'false' must"),
        ({"witness": None, "no_witness": "?", "kind": "upper"}, "instances is None; without a wit"),
        ({"instances": 3}, "instances is 3; it must be a class of batches with `sample`"),
        ({"witness": 3}, "witness is 3; it must be a function"),
        ({"left": 3}, "left is 3; it must be a function"),
        ({"kind": "rate"}, "kind is 'rate'; it must be one of identity, upper, tight, lower, fal"),
        ({"name": " "}, "name is ' '; it must be a text that is not empty"),
        ({"source": None}, "source is None; it must be a text"),
        ({"most_instances": 0}, "most_instances is 0"),
    ],
)  # fmt: skip
def test_bad_claims_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(BELOW_ONE, **change)


def test_sides_are_one_number_per_instance():
    x = Pairs.sample(5, np.random.default_rng(0))
    assert replace(BELOW_ONE, right=lambda x: 1.0).ratio(x).shape == (5,)
    wide = replace(BELOW_ONE, right=lambda x: np.ones((5, 2)))
    with pytest.raises(ValueError, match=r"right of claim 'TV' has shape \(5, 2\); .* \(5,\)"):
        wide.ratio(x)
