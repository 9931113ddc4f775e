"""The loss doctor: right losses pass, planted faults are named, and the catalogue is sound."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from doctor_losses import PLANTED, RIGHT, chipo, dpo, logistic
from scipy.special import expit
from torch.nn.functional import logsigmoid

from rlhfsim import golden
from rlhfsim.doctor import FAULTS, diagnose, load_function
from rlhfsim.doctor.anatomy import LOSSES
from rlhfsim.doctor.faults import right
from rlhfsim.doctor.outcome import Outcome, Tolerance, agrees, distance, golden_outcome
from rlhfsim.losses import kto

METHODS = tuple(golden.methods())


def test_every_method_has_a_right_loss_here():
    assert [function.__name__ for function in RIGHT] == list(METHODS)


# ---- right losses ---------------------------------------------------------------------------


@pytest.mark.parametrize("function", RIGHT, ids=lambda f: f.__name__)
def test_right_torch_losses_pass_in_both_precisions(function):
    found = diagnose(function, function.__name__)
    assert found.healthy, found.verdict
    assert found.fault is None
    assert found.backend == "torch"
    assert found.notes == ()
    cases = golden.cases(function.__name__)
    # "long" is beyond float32.
    long = sum(case.batch == "long" for case in cases)
    assert len(found.table) == 2 * len(cases) - long
    assert {line.precision for line in found.table} == {"float64", "float32"}


def package_loss(name):
    """A numpy function: the mean of the package's own loss."""
    settings, columns = golden.method(name).settings, golden.method(name).columns

    def loss(pc, pr, rc, rr, beta, **given):
        rows = {key: given[key] for key in columns}
        if name == "kto_pair":
            return kto(beta)(pc, pr, rc, rr).mean() / 2
        values = {key: given[key] for key in settings}
        return LOSSES[name](beta, values)(pc, pr, rc, rr, **rows).mean()

    return loss


@pytest.mark.parametrize("name", METHODS)
def test_losses_of_the_package_pass(name):
    found = diagnose(package_loss(name), name)
    assert found.healthy, found.verdict
    assert found.backend == "numpy"
    compared = [line for line in found.table if line.gradient_error is not None]
    if name == "kto_pair":
        assert not compared
        assert "derivatives are not compared" in found.notes[0]
    else:
        assert {line.precision for line in compared} == {"float64"}
        assert "differences" in found.notes[0]


def test_other_ways_to_write_a_right_loss_pass():
    class Loss(torch.nn.Module):
        def forward(self, pc, pr, rc, rr, beta):
            return torch.nn.functional.softplus(beta * (pr - rr) - beta * (pc - rc)).mean()

    for function in (
        Loss(),
        lambda pc, pr, rc, rr, beta, **unused: dpo(pc, pr, rc, rr, beta),
        lambda pc, pr, rc, rr, beta: dpo(pc, pr, rc, rr, beta).reshape(1),
        lambda *args: np.logaddexp(0, -args[4] * (args[0] - args[1] - args[2] + args[3])).mean(),
    ):
        assert diagnose(function, "dpo").healthy


def test_single_precision_inside_is_held_to_single_precision():
    def loss(pc, pr, rc, rr, beta):
        return dpo(pc.float(), pr.float(), rc.float(), rr.float(), beta)

    found = diagnose(loss, "dpo")
    assert found.healthy
    assert found.notes == ("the function returns single precision, whatever it is given",)
    assert {line.precision for line in found.table} == {"float32"}


def test_missing_settings_are_taken_as_constants():
    found = diagnose(lambda pc, pr, rc, rr, beta: chipo(pc, pr, rc, rr, beta), "chipo")
    assert found.healthy
    assert found.notes == ("not an argument of the function, taken as its constant: gamma = 1",)
    assert {line.settings for line in found.table} == {"gamma 1"}


# ---- planted faults -------------------------------------------------------------------------


def of_margin(outer):
    return lambda pc, pr, rc, rr, beta: outer(beta * ((pc - pr) - (rc - rr)))


def of_link(phi, clip=lambda h: h):
    return lambda pc, pr, rc, rr, beta: logistic(clip(beta * (phi(pc - rc) - phi(pr - rr))))


def smoothed(h, rate):
    return -(1 - rate) * logsigmoid(h).mean() - rate * logsigmoid(-h).mean()


#: Faults beyond those of `doctor_losses`, most with a free number, which the name holds.
FURTHER = [
    ("dpo", "margin 0.5 subtracted in the sigmoid", of_margin(lambda h: logistic(h - 0.5))),
    ("dpo", "margin 1 added in the sigmoid", of_margin(lambda h: logistic(h + 1))),
    ("chipo", "margin beta 0.5 subtracted in the sigmoid",
     lambda pc, pr, rc, rr, beta:
     logistic(beta * ((pc - rc).exp() + pc - rc - (pr - rr).exp() - pr + rr - 0.5))),
    ("dpo", "label smoothing 0.1 in a loss without it", of_margin(lambda h: smoothed(h, 0.1))),
    ("chipo", "label smoothing 0.05 in a loss without it",
     lambda pc, pr, rc, rr, beta: smoothed(
         beta * ((pc - rc).exp() + pc - rc - (pr - rr).exp() - pr + rr), 0.05)),
    ("dpo", "1e-08 added in the logarithm",
     of_margin(lambda h: -torch.log(torch.sigmoid(h) + 1e-8).mean())),
    ("dpo", "sigmoid bounded by 1e-06",
     of_margin(lambda h: -torch.log(torch.sigmoid(h).clamp(min=1e-6)).mean())),
    ("dpo", "division by n - 1", of_margin(lambda h: -logsigmoid(h).sum() / (len(h) - 1))),
    ("dpo", "reference of the chosen response ignored",
     lambda pc, pr, rc, rr, beta: logistic(beta * (pc - pr + rr))),
    ("dpo", "reference of the rejected response ignored",
     lambda pc, pr, rc, rr, beta: logistic(beta * (pc - rc - pr))),
    ("chipo", "chi-squared with 1/2 twice", of_link(lambda u: u.exp() / 2 + u)),
    ("chipo", "detached exponential", of_link(lambda u: u.exp().detach() + u)),
    ("chipo_clipped", "clip from below only",
     of_link(lambda u: u.exp() + u, lambda h: h.clamp(min=-2.0))),
    ("chipo_clipped", "clip from above only",
     of_link(lambda u: u.exp() + u, lambda h: h.clamp(max=2.0))),
    ("chipo", "exponent clipped at 5", of_link(lambda u: u.clamp(-5, 5).exp() + u)),
    ("chipo", "exponent clipped at 2", of_link(lambda u: u.clamp(-2, 2).exp() + u)),
    ("dpo", "log ratio clipped at 10", of_link(lambda u: u.clamp(-10, 10))),
    ("dpo", "difference clipped at 50", of_margin(lambda h: logistic(h.clamp(-50, 50)))),
]  # fmt: skip
PLANTED = [*PLANTED, *FURTHER]


@pytest.mark.parametrize(
    ("method", "name", "function"), PLANTED, ids=[f"{m}-{n}" for m, n, _ in PLANTED]
)
def test_planted_faults_are_named(method, name, function):
    found = diagnose(function, method)
    assert not found.healthy
    assert found.fault is not None, found.verdict
    assert found.exact, found.verdict
    assert found.fault.name == name or name in found.alternatives, found.verdict
    assert found.fault.name == name, found.verdict
    assert found.verdict.startswith(f"fault: {name}. {found.fault.explanation}")


NUMPY = [
    ("dpo", "sum instead of mean", lambda h, beta: np.logaddexp(0, -beta * h).sum()),
    ("dpo", "missing log", lambda h, beta: -expit(beta * h).mean()),
    ("dpo", "sign of the margin", lambda h, beta: np.logaddexp(0, beta * h).mean()),
    ("dpo", "unstable for large log ratios", lambda h, beta: -np.log(expit(beta * h)).mean()),
    ("dpo", "one loss per comparison", lambda h, beta: np.logaddexp(0, -beta * h)),
    ("ipo", "target beta/2", lambda h, beta: ((h - beta / 2) ** 2).mean()),
    ("hinge", "squared hinge", lambda h, beta: (np.maximum(0, 1 - beta * h) ** 2).mean()),
    ("fdpo_alpha", "dpo in place of the method", lambda h, beta: np.logaddexp(0, -beta * h).mean()),
]


@pytest.mark.parametrize(("method", "name", "of_margin"), NUMPY, ids=[row[1] for row in NUMPY])
def test_planted_faults_are_named_in_numpy(method, name, of_margin):
    def loss(pc, pr, rc, rr, beta):
        # As numpy functions do on tensors that need a gradient, it fails on torch.
        return of_margin(np.asarray(pc) - np.asarray(pr) - np.asarray(rc) + np.asarray(rr), beta)

    found = diagnose(loss, method)
    assert found.backend == "numpy"
    assert found.exact
    assert name in (found.fault.name, *found.alternatives), found.verdict


def test_exchanged_bounds_of_the_exponent_are_among_the_names():
    """No case has a difference that shows the lower bound."""
    found = diagnose(
        of_link(lambda u: (0.25 * u).clamp(-20, 88).exp() + 0.1 * u), "chipo_practical"
    )
    assert "bounds of the exponent exchanged" in (found.fault.name, *found.alternatives)


@pytest.mark.parametrize(
    "function",
    [
        of_link(lambda u: u.clamp(-7, 7).exp() + u),
        of_link(lambda u: u.exp() + u, lambda h: h.clamp(-30, 30)),
    ],
    ids=["exponent", "difference"],
)
def test_a_finite_loss_that_is_wrong_for_large_log_ratios_only_is_not_called_unstable(function):
    found = diagnose(function, "chipo")
    assert found.verdict.startswith("nearest known fault: clipped log ratio. ")
    assert not found.exact


def plain(outer, over=lambda n: n):
    """A loss of plain numbers, without numpy or torch."""

    def loss(pc, pr, rc, rr, beta):
        rows = [
            outer(beta * (float(a) - float(b) - float(c) + float(d)))
            for a, b, c, d in zip(pc, pr, rc, rr, strict=True)
        ]
        return sum(rows) / over(len(rows))

    return loss


def test_plain_numbers_are_no_detached_policy():
    """torch is imported here, and takes such a function as well as numpy does."""
    found = diagnose(plain(lambda h: max(0.0, -h) + math.log1p(math.exp(-abs(h)))), "dpo")
    assert found.healthy, found.verdict
    assert found.backend == "numpy"


@pytest.mark.parametrize("rows", [lambda h: h, lambda h: h.tolist()], ids=["tensor", "list"])
def test_torch_on_arrays_is_still_a_detached_policy(rows):
    def loss(*args):
        pc, pr, rc, rr = (torch.tensor(rows(column)) for column in args[:4])
        return dpo(pc, pr, rc, rr, args[4]).item()

    found = diagnose(loss, "dpo")
    assert found.backend == "torch"
    assert found.fault.name == "detached policy", found.verdict


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("unstable for large log ratios", plain(lambda h: math.log1p(math.exp(-h)))),
        ("unstable for large log ratios", plain(lambda h: -math.log(float(expit(h))))),
        ("division by n - 1",
         plain(lambda h: max(0.0, -h) + math.log1p(math.exp(-abs(h))), lambda n: n - 1)),
    ],
    ids=["overflow", "domain", "division"],
)  # fmt: skip
def test_arithmetic_that_fails_on_an_extreme_batch_is_a_finding(name, function):
    found = diagnose(function, "dpo")
    assert found.fault.name == name, found.verdict
    assert found.exact


def test_arithmetic_that_fails_on_a_common_batch_is_an_error():
    with pytest.raises(ValueError, match="batch 'equal' with numpy: ZeroDivisionError"):
        diagnose(plain(lambda h: h**2, over=lambda n: n - 3), "dpo")


def test_other_errors_on_an_extreme_batch_are_errors():
    def fails(pc, pr, rc, rr, beta):
        if pc.min() < -1000:
            raise ValueError("of its own")
        return dpo(pc, pr, rc, rr, beta)

    with pytest.raises(ValueError, match="batch 'long' with torch: ValueError: of its own"):
        diagnose(fails, "dpo")


def test_faults_that_the_cases_cannot_tell_apart_are_all_named():
    found = diagnose(lambda pc, pr, rc, rr, beta: dpo(pr, pc, rr, rc, beta), "dpo")
    assert found.fault.name == "chosen and rejected swapped"
    assert "sign of the margin" in found.alternatives
    assert "the same numbers: sign of the margin" in found.verdict


def test_a_fault_only_in_single_precision_is_found():
    def loss(pc, pr, rc, rr, beta):
        h = beta * ((pc - pr) - (rc - rr))
        if pc.dtype == torch.float32:
            return torch.log1p(torch.exp(-h)).mean()
        return -torch.nn.functional.logsigmoid(h).mean()

    found = diagnose(loss, "dpo")
    assert found.fault.name == "unstable for large log ratios"
    assert {line.precision for line in found.table if not line.agrees} == {"float32"}


def test_the_nearest_fault_is_named_where_none_is_exact():
    def loss(pc, pr, rc, rr, beta):
        total = -dpo(pc, pr, rc, rr, beta)
        return total if len(pc) != 3 else total + 0.1

    found = diagnose(loss, "dpo")
    assert found.fault.name == "wrong sign"
    assert not found.exact
    assert found.verdict.startswith("nearest known fault: wrong sign")


def test_an_unknown_fault_is_called_unknown():
    found = diagnose(lambda pc, pr, rc, rr, beta: (pc**2).mean() + beta * rr.mean() ** 3, "dpo")
    assert not found.healthy
    assert found.fault is None
    assert found.verdict.startswith(
        "no known fault; first disagreement on batch 'moderate' in float64 (beta 0.125): loss "
    )
    assert f"expected {golden.cases('dpo')[0].loss:.9g}" in found.verdict


def test_a_wrong_gradient_under_a_right_loss_is_found():
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, slope):
            return 1.001 * slope

    found = diagnose(lambda *args: Halved.apply(dpo(*args)), "dpo")
    assert not found.healthy
    moderate = found.table[0]
    assert moderate.loss == pytest.approx(moderate.expected, rel=1e-14)
    assert moderate.gradient_error > 0


@pytest.mark.parametrize("error", [-1e-7])
def test_small_errors_are_found_and_called_by_no_wrong_name(error):
    """A setting that the function does not take is not what it ignores."""
    for loss in (dpo, chipo):
        found = diagnose(lambda *args, f=loss: f(*args) * (1 + error), loss.__name__)
        assert not found.healthy
        assert found.fault is None, found.verdict


def test_a_fault_must_show_on_more_than_half_of_the_cases():
    def loss(pc, pr, rc, rr, beta):
        value = -dpo(pc, pr, rc, rr, beta)
        return value if len(pc) == 3 else value * torch.nan

    assert diagnose(loss, "dpo").fault is None


# ---- the catalogue --------------------------------------------------------------------------


def test_catalogue_is_well_formed():
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 80
    for fault in FAULTS:
        assert fault.explanation.endswith(".")
        assert any(fault.outcome(golden.cases(name)[0]) is not None for name in METHODS)


#: Faults whose derivatives are not those of their loss, which is what is wrong with them.
WITHOUT_GRADIENT = ("detached", "reference made from the policy", "kto_pair in place")


@pytest.mark.parametrize("name", METHODS)
def test_derivatives_of_faults_are_those_of_their_losses(name):
    rng = np.random.default_rng(0)
    checked = 0
    for batch in ("moderate", "losing"):
        exact = next(c for c in golden.cases(name) if c.batch == batch and c.beta > 0.2)
        # Away from the kinks that faults may have at round numbers.
        case = moved(exact, [rng.normal(size=exact.size) for _ in range(2)], 0.05)
        moves = [rng.normal(size=case.size) for _ in range(2)]
        for fault in FAULTS:
            outcome = fault.outcome(case)
            held = name == "kto_pair" and "gradient" not in fault.name
            if outcome is None or held or fault.name.startswith(WITHOUT_GRADIENT):
                continue
            above, below = (fault.outcome(moved(case, moves, s * 2.0**-16)).loss for s in (1, -1))
            slope = sum(float(m @ g) for m, g in zip(moves, outcome.gradient, strict=True))
            size = abs(outcome.loss) + sum(np.abs(side).sum() for side in outcome.gradient)
            assert (above - below) * 2.0**15 == pytest.approx(slope, abs=2e-7 * size + 1e-25), (
                fault.name
            )
            checked += 1
    assert checked >= (6 if name == "kto_pair" else 60)


def moved(case, moves, step):
    names = golden.COLUMNS[:2]
    other = {
        name: tuple(np.array(case.columns[name]) + step * move)
        for name, move in zip(names, moves, strict=True)
    }
    return replace(case, columns={**case.columns, **other})


@pytest.mark.parametrize("name", METHODS)
def test_the_right_loss_of_the_catalogue_is_the_golden_one(name):
    for case in golden.cases(name):
        assert agrees(right(case), golden_outcome(case), Tolerance(1e-13, 1e-15)), case.batch


@pytest.mark.parametrize("name", METHODS)
def test_no_fault_is_the_right_loss(name):
    """Each differs from the truth by far more than the tolerance, or not at all."""
    for fault in FAULTS:
        outcomes = [(fault.outcome(case), golden_outcome(case)) for case in golden.cases(name)]
        if any(outcome is None for outcome, _ in outcomes):
            continue
        exact = all(agrees(mine, truth, Tolerance(1e-9, 1e-11)) for mine, truth in outcomes)
        close = all(agrees(mine, truth, Tolerance(1e-3, 1e-5)) for mine, truth in outcomes)
        assert exact == close, fault.name


def test_distance_is_between_0_and_1():
    zero = Outcome(0.0, (np.zeros(2), np.zeros(2)))
    one = Outcome(1.0, (np.ones(2), -np.ones(2)))
    lost = Outcome(np.nan, (np.full(2, np.inf), np.zeros(2)))
    assert distance(zero, zero) == distance(one, one) == 0
    assert distance(one, one.times(-1)) == distance(zero, one) == 1
    assert distance(one, one.times(3)) == 0.5
    assert distance(one, lost) == 1
    assert not agrees(lost, lost, Tolerance(1, 1))


# ---- what cannot be run ---------------------------------------------------------------------


def test_functions_that_cannot_be_run_are_refused():
    def four(pc, pr, rc, rr):
        return dpo(pc, pr, rc, rr, 0.1)

    def more(pc, pr, rc, rr, beta, lengths):
        return dpo(pc, pr, rc, rr, beta)

    def broken(pc, pr, rc, rr, beta):
        raise KeyError("nothing")

    def several(*args):
        return dpo(*args), None

    def matrix(pc, pr, rc, rr, beta):
        return torch.zeros(2, 7)

    def text(*args):
        return "loss"

    def nothing(*args):
        dpo(*args)

    for function, message in (
        (four, r"signature \(pc, pr, rc, rr\); it must take \(policy_chosen_logps, "),
        (more, "missing a required argument: 'lengths'"),
        (broken, "cannot be run; with torch: KeyError: 'nothing'; with numpy: KeyError"),
        (several, "it returns a tuple; it must return the mean loss alone"),
        (matrix, r"array of shape \(2, 7\); the mean loss is a scalar"),
        (text, "it returns a str, which is no number"),
        (lambda *args: "0.5", "it returns a str, which is no number"),
        (lambda *args: b"0.5", "it returns a bytes, which is no number"),
        (lambda *args: np.array(["0.5"]), "it returns a ndarray, which is no number"),
        (lambda *args: np.array([None]), "it returns a ndarray, which is no number"),
        (nothing, r"it returns None, which is no number \(its return may be missing\)"),
        (3, "function is 3; it must be callable"),
    ):
        with pytest.raises(ValueError, match=message):
            diagnose(function, "dpo")
    with pytest.raises(ValueError, match="method is 'sppo'"):
        diagnose(dpo, "sppo")
    with pytest.raises(ValueError, match="takes no chosen_rewards and no rejected_rewards; rebel"):
        diagnose(dpo, "rebel")


def test_a_function_that_fails_later_is_refused_with_the_batch():
    def loss(pc, pr, rc, rr, beta):
        if len(pc) == 1:
            raise RuntimeError("batch of one")
        return dpo(pc, pr, rc, rr, beta)

    with pytest.raises(ValueError, match="batch 'one row' with torch: RuntimeError: batch of one"):
        diagnose(loss, "dpo")


def test_inputs_of_a_function_that_writes_to_them_stay():
    def loss(pc, pr, rc, rr, beta):
        value = dpo(pc, pr, rc, rr, beta)
        rc.zero_()
        return value

    assert diagnose(loss, "dpo").healthy


SOURCE = """
import torch
from neighbour import minus_log_sigmoid

class Losses:
    @staticmethod
    def right(pc, pr, rc, rr, beta):
        return minus_log_sigmoid(beta * ((pc - pr) - (rc - rr))).mean()

def summed(pc, pr, rc, rr, beta):
    return minus_log_sigmoid(beta * ((pc - pr) - (rc - rr))).sum()

number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "doctor_target.py").write_text(SOURCE)
    (tmp_path / "neighbour.py").write_text(
        "import torch\n\ndef minus_log_sigmoid(h):\n    return -torch.nn.functional.logsigmoid(h)\n"
    )
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "bad.py").write_text("import no_such_module\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("doctor_target", "neighbour", "_rlhfsim_doctor_doctor_target"):
        sys.modules.pop(name, None)


def test_targets_are_found(folder):
    for target in (
        f"{folder}/doctor_target.py:Losses.right",
        "doctor_target.py:Losses.right",
        "doctor_target:Losses.right",
    ):
        assert diagnose(load_function(target), "dpo").healthy


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("doctor_target", "must be module:function or path/to/file.py:function"),
        ("doctor_target:", "must be module:function"),
        (":summed", "must be module:function"),
        ("doctor_target:nothing", "doctor_target has no nothing"),
        ("doctor_target.py:number", "number is a int, not callable"),
        ("absent.py:loss", "absent.py cannot be imported: FileNotFoundError"),
        ("absent_module:loss", "absent_module cannot be imported: ModuleNotFoundError"),
        ("bad.py:loss", "bad.py cannot be imported: ModuleNotFoundError: No module named 'no_such"),
        ("leaves.py:loss", "leaves.py exits when it is imported"),
    ],
)
def test_targets_that_cannot_be_found_are_refused(folder, target, message):
    with pytest.raises(ValueError, match=message):
        load_function(target)


# ---- the command line -----------------------------------------------------------------------


def run(*args):
    """Return the exit code of the command in this process."""
    from rlhfsim.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["doctor", *args])
    return caught.value.code


def test_command_exits_0_for_a_right_loss(folder, capsys):
    assert run("doctor_target:Losses.right", "--method", "dpo") == 0
    printed = capsys.readouterr().out
    assert "dpo: agrees with dpo on all 19 cases" in printed
    assert "differs" not in printed


def test_command_exits_1_and_names_the_fault(folder, capsys):
    assert run("doctor_target.py:summed", "--method", "dpo") == 1
    printed = capsys.readouterr().out
    assert "dpo: fault: sum instead of mean. The losses are added up" in printed
    assert "moderate" in printed
    assert printed.count("differs") == 17  # all but the two of a batch of one


def test_command_prints_json(folder, capsys):
    assert run("doctor_target:summed", "--method", "dpo", "--json") == 1
    content = json.loads(capsys.readouterr().out)
    assert content["healthy"] is False
    assert content["fault"]["name"] == "sum instead of mean"
    assert content["table"][0]["loss"] == pytest.approx(6 * content["table"][0]["expected"])


def test_json_has_no_numbers_that_json_lacks():
    found = diagnose(PLANTED[[name for _, name, _ in PLANTED].index(
        "unstable for large log ratios")][2], "dpo")  # fmt: skip
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert '"inf"' in text


def test_command_lists_methods_with_their_settings(capsys):
    assert run("--list") == 0
    printed = capsys.readouterr().out
    for name in METHODS:
        assert name in printed
    assert "label_smoothing=0.1" in printed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "target is missing"),
        (("doctor_target:summed",), "method is missing"),
        (("doctor_target:summed", "--method", "nope"), "method is 'nope'; it must be one of dpo"),
        (("no_such:loss", "--method", "dpo"), "no_such cannot be imported"),
        (("doctor_target:summed", "--method", "rebel"), "takes no chosen_rewards"),
        (("--no-such-option",), "No such option"),
    ],
)
def test_command_exits_2_for_what_it_cannot_run(folder, capsys, args, message):
    assert run(*args) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("rlhfsim: error:")
    assert captured.out == ""


def test_the_real_command_on_a_numpy_loss(tmp_path):
    """A process of its own, which need not import torch for it."""
    (tmp_path / "mine.py").write_text(
        "import sys\n"
        "import numpy as np\n"
        "def loss(pc, pr, rc, rr, beta):\n"
        "    assert 'torch' not in sys.modules\n"
        "    return np.logaddexp(0.0, -beta * np.exp(pc - rc) + beta * np.exp(pr - rr)).mean()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "rlhfsim", "doctor", "mine.py:loss", "--method", "chipo"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "link without the linear term" in done.stdout
    assert done.stderr == ""
