"""The golden file: what is in it, that it is what the formulas give, and a second route to it."""

import json
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rlhfsim
from rlhfsim import golden
from rlhfsim.divergences import KL, AlphaDivergence, ChiSquared, ForwardKL, JensenShannon
from rlhfsim.doctor.anatomy import LOSSES
from rlhfsim.golden.__main__ import main
from rlhfsim.golden.generate import nearest
from rlhfsim.losses import empirical_gradient, empirical_loss, kto

FILE = Path(golden.__file__).with_name("golden.json")
CONTENT = json.loads(FILE.read_text(encoding="utf-8"))
POLICIES = CONTENT["policies"]


def policy_id(entry):
    return f"{entry['method']}-{entry['problem']}-{entry['beta']}"


def test_file_is_what_the_formulas_give(tmp_path, capsys):
    main([str(tmp_path / "again.json")])
    assert (tmp_path / "again.json").read_bytes() == FILE.read_bytes()
    assert capsys.readouterr().out.strip().endswith("again.json")


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--no-such-option", 2)])
def test_options_are_no_files(tmp_path, monkeypatch, capsys, argument, code):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main([argument])
    assert caught.value.code == code
    assert "python -m rlhfsim.golden" in "".join(capsys.readouterr())
    assert not list(tmp_path.iterdir())


def test_nearest_double_of_a_number_halfway_is_the_even_one():
    with mpmath.workdps(300):
        half = mpmath.mpf(1) + mpmath.mpf(2) ** -53
        assert nearest(half - mpmath.mpf("1e-200")) == nearest(half + mpmath.mpf("1e-200")) == 1.0
        assert nearest(half + mpmath.mpf("1e-30")) == np.nextafter(1.0, 2.0)
        assert str(nearest(mpmath.mpf("-1e-400"))) == "0.0"


def test_numbers_are_finite_and_inputs_exact_in_single_precision():
    for name, batch in CONTENT["batches"].items():
        for column in batch.values():
            assert np.isfinite(column).all()
            np.testing.assert_array_equal(np.float32(column), column, err_msg=name)
        for name in golden.COLUMNS:
            assert max(batch[name]) < 0
    for case in CONTENT["cases"]:
        assert np.isfinite([case["loss"], *case["gradient_chosen"]]).all()


def test_batches_hold_what_the_doctor_needs():
    def margins(name):
        batch = CONTENT["batches"][name]
        pc, pr, rc, rr = (np.array(batch[column]) for column in golden.COLUMNS)
        return (pc - rc) - (pr - rr), np.concatenate([pc - rc, pr - rr])

    assert margins("one row")[0].shape == (1,)
    assert len(margins("moderate")[0]) >= 5
    assert (margins("moderate")[0] > 0).any()
    assert (margins("moderate")[0] < 0).any()
    assert (margins("winning")[0] > 0).all()
    assert (margins("losing")[0] < 0).all()
    assert (margins("start")[1] == 0).all()
    assert (margins("equal")[0] == 0).sum() == 2
    assert np.abs(margins("large")[1]).max() < 88 < np.abs(margins("wide")[1]).max()
    assert np.abs(margins("long")[1]).max() > 745


@pytest.mark.parametrize("name", golden.methods())
def test_losses_of_the_package_agree(name):
    for case in golden.cases(name):
        loss = kto(case.beta) if name == "kto_pair" else LOSSES[name](case.beta, case.settings)
        columns = dict(case.columns)
        value, gradient = loss(**columns), loss.gradient(**columns)
        # KTO's is the mean over both responses of a pair.
        n = case.size * (2 if name == "kto_pair" else 1)
        assert value.sum() / n == pytest.approx(case.loss, rel=4e-15, abs=1e-300), case.batch
        # Smoothed slopes are differences; the others have no cancellation.
        atol = 1e-16 if "label_smoothing" in case.settings or name in ("rpo", "power") else 1e-300
        for mine, theirs in zip(
            gradient, (case.gradient_chosen, case.gradient_rejected), strict=True
        ):
            np.testing.assert_allclose(mine / n, theirs, rtol=2e-13, atol=atol, err_msg=case.batch)


@pytest.mark.parametrize("name", ["hinge", "slic", "chipo_clipped", "chipo_practical"])
def test_no_case_is_at_a_kink(name):
    """Else the truth would be a matter of convention, and differences would miss it."""
    for case in golden.cases(name):
        loss = LOSSES[name](case.beta, case.settings)
        pc, pr, rc, rr = (np.array(case.columns[column]) for column in golden.COLUMNS)
        up, down = pc - rc, pr - rr
        if name == "chipo_practical":
            exponents = case.settings["alpha"] * np.concatenate([up, down])
            assert np.abs(exponents - 20).min() > 0.1
            assert np.abs(exponents + 88).min() > 0.1
            continue
        if name == "slic":
            h, kink = pc - pr, case.settings["margin"]
        elif name == "hinge":
            h, kink = case.beta * (up - down), case.settings["margin"]
        else:
            score = loss.beta * (loss.link.value(up) - loss.link.value(down))
            h, kink = np.abs(score), 2 * case.settings["r_max"]
        assert np.abs(h - kink).min() > 0.02, (case.batch, case.settings)


def counts_of(problem):
    rows = [
        (w, lo) for w, lo, count in CONTENT["problems"][problem]["counts"] for _ in range(count)
    ]
    winners, losers = zip(*rows, strict=True)
    shape = (1, len(CONTENT["problems"][problem]["reference"]))
    return rlhfsim.PreferenceData([0] * len(rows), winners, losers, shape=shape)


def loss_and_tables(entry):
    loss = LOSSES[entry["method"]](entry["beta"], entry["settings"])
    problem = CONTENT["problems"][entry["problem"]]
    reward = {"reward": [problem["rewards"]]} if entry["method"] == "rebel" else {}
    return loss, [problem["reference"]], counts_of(entry["problem"]), reward


@pytest.mark.parametrize("entry", POLICIES, ids=policy_id)
def test_policies_are_stationary(entry):
    loss, reference, data, reward = loss_and_tables(entry)
    policy = np.array([entry["policy"]])
    value = empirical_loss(loss, policy, reference, data, **reward)
    assert value == pytest.approx(entry["loss"], rel=1e-12, abs=1e-24)
    table = empirical_gradient(loss, policy, reference, data, **reward)
    scale = np.abs(table).max() + 1e-3
    assert np.abs(table - policy * table.sum()).max() <= 1e-11 * scale
    assert policy.sum() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("entry", POLICIES[::3], ids=policy_id)
@settings(max_examples=20)
@given(direction=st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_no_other_policy_has_less_loss(entry, direction):
    loss, reference, data, reward = loss_and_tables(entry)
    other = np.array(entry["policy"]) * np.exp(direction[: len(entry["policy"])])
    value = empirical_loss(loss, [other / other.sum()], reference, data, **reward)
    assert value >= entry["loss"] - 1e-13 * (1 + abs(entry["loss"]))


DIVERGENCES = {
    "dpo": KL(),
    "chipo": ChiSquared() + KL(),
    "fdpo_js": 2.0 * JensenShannon(),
    "fdpo_forward_kl": ForwardKL(),
    "fdpo_alpha": AlphaDivergence(0.25),
}


@pytest.mark.parametrize(
    "entry", [entry for entry in POLICIES if entry["method"] in DIVERGENCES], ids=policy_id
)
def test_policies_are_the_regularized_optima_of_the_fitted_reward(entry):
    """Bradley-Terry MLE, then the closed form: nothing of direct losses in it."""
    reward = rlhfsim.fit_reward(counts_of(entry["problem"])).reward
    reference = [CONTENT["problems"][entry["problem"]]["reference"]]
    divergence = DIVERGENCES[entry["method"]]
    solution = rlhfsim.solve(reward, reference, divergence, entry["beta"])
    np.testing.assert_allclose(solution.policy, [entry["policy"]], rtol=1e-10)


def test_every_method_has_policies_or_says_why_not():
    have = {entry["method"] for entry in POLICIES}
    for name, entry in CONTENT["methods"].items():
        assert (name in have) != bool(entry["no_policy"])


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="method is 'nope'; it must be one of dpo, cdpo"):
        golden.cases("nope")
    with pytest.raises(ValueError, match="method is 'nope'"):
        golden.method("nope")


def test_cases_are_read_only():
    case = golden.cases("dpo")[0]
    with pytest.raises(TypeError):
        case.columns["policy_chosen_logps"] = (0.0,)
    with pytest.raises(TypeError):
        golden.methods()["dpo"] = None
