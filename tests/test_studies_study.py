import json
from itertools import product

import numpy as np
import pytest
from study_examples import RIDGE, small

from rlhfsim.divergences import ALL_DIVERGENCES, KL, AlphaDivergence, ChiSquared, parse_divergence
from rlhfsim.studies import Geometric, Study, load_study
from rlhfsim.studies.instances import Random, Table
from rlhfsim.studies.layout import Layout
from rlhfsim.studies.methods import RLHFMethod
from rlhfsim.studies.rewards import TabularReward

TOML = """
name = "tradeoff"
question = "Which beta?"
n = [100, 1000]
seeds = 3
bias = true
beta = { start = 1e-2, stop = 10.0, points = 4 }

[[instances]]
family = "zipf"
prompts = 2
responses = 5
environments = 2
sweep = { exponent = [1.0, 2.0] }

[[learners]]
method = "RLHF"
reward = { model = "tabular", ridge = 0.1 }
sweep = { divergence = ["kl", "chi2 + 0.5 kl"] }

[[learners]]
method = "best-of-N"
label = "BoN"
grid = [1, 2, 4]

[testing]
seeds = 1
n = [100]
environments = 1
grid = 2
"""


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(TOML)
    return path


def test_a_file_says_what_the_grid_is(toml):
    study = load_study(toml)
    assert study.labels == (
        ("zipf, exponent 1", "zipf, exponent 2"),
        ("RLHF, divergence kl", "RLHF, divergence chi2 + 0.5 kl", "BoN"),
    )
    assert study.grid(study.learners[0]) == pytest.approx((0.01, 0.1, 1.0, 10.0))
    assert study.grid(study.learners[0])[0] == 0.01
    assert study.groups == 2 * 2 * 2 * 3
    assert study.cells == study.groups * (4 + 4 + 3)
    assert study.metrics[-2:] == ("bias", "estimation_error")


def test_python_and_files_make_the_same_study(toml):
    read = load_study(toml)
    made = Study(
        name="tradeoff",
        question="Which beta?",
        n=(100, 1000),
        seeds=3,
        bias=True,
        beta=Geometric(start=1e-2, stop=10.0, points=4),
        instances=read.instances,
        learners=(
            RLHFMethod(divergence="kl", reward=TabularReward(ridge=0.1)),
            RLHFMethod(divergence="chi2 + 0.5 kl", reward=TabularReward(ridge=0.1)),
            read.learners[2],
        ),
        testing=read.testing,
    )
    assert made == read
    assert made.content() == read.content()
    assert Study.from_dict(json.loads(made.content())) == made


def test_the_small_subset_is_part_of_the_whole(toml):
    whole = load_study(toml)
    part = whole.for_testing()
    assert part.cells == 2 * 1 * 1 * (2 + 2 + 2)
    assert ids(part) < ids(whole)


def ids(study):
    layout = Layout(study)
    return {i for g in range(study.groups) for i in layout.identifiers(layout.group(g))}


def test_ids_are_unique_stable_and_free_of_order():
    study = small()
    every = ids(study)
    assert len(every) == study.cells
    reordered = small(
        instances=list(reversed(study.model_dump()["instances"])),
        learners=list(reversed(study.model_dump()["learners"])),
        n=[40, 5],
        beta=[10.0, 0.1, 1.0],
    )
    assert ids(reordered) == every
    assert not ids(small(name="other")) & every
    labelled = study.model_dump()["learners"]
    labelled[0]["label"] = "mine"
    assert ids(small(learners=labelled)) == every
    # This one must never change: saved results are found by it.
    layout = Layout(study)
    assert layout.identifiers(layout.group(0))[0] == "3bbbc305d52304fb"


def test_layout_numbers_every_group_once():
    study = small()
    layout = Layout(study)
    groups = [layout.group(g) for g in range(study.groups)]
    expected = [
        (i, e, n, s)
        for i, spec in enumerate(study.instances)
        for e, n, s in product(range(spec.environments), study.n, range(3))
    ]
    assert groups == expected


def test_saved_rows_find_their_cells():
    study = small()
    layout = Layout(study)
    rng = np.random.default_rng(0)
    cells = rng.permutation(study.cells)
    group, point = np.divmod(cells, len(layout.points))
    place = np.array([layout.group(g) for g in group])
    points = np.array(layout.points)[point]
    # As another study saves them: other codes for the same keys, and keys that this one lacks.
    instances = ["?" * 16, *reversed([s.key for s in study.instances])]
    methods = [*reversed([m.key for m in study.learners]), "?" * 16]
    columns = {
        "instance": len(study.instances) - place[:, 0],
        "environment": place[:, 1],
        "n": place[:, 2],
        "seed": place[:, 3],
        "learner": len(study.learners) - 1 - points[:, 0].astype(int),
        "parameter_value": points[:, 1],
    }
    np.testing.assert_array_equal(layout.cells(instances, methods, columns), cells)
    wrong = [
        ("instance", 0), ("environment", 99), ("n", 6), ("seed", 3), ("seed", -1),
        ("learner", len(methods) - 1), ("parameter_value", 0.11),
    ]  # fmt: skip
    for name, value in wrong:
        changed = columns | {name: np.full(study.cells, value)}
        assert (layout.cells(instances, methods, changed) == -1).all(), name


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "a b"}, "name: letters, digits"),
        ({"n": []}, "n: empty"),
        ({"n": [-1]}, r"n\[0\]: .*greater than or equal to 0, not -1"),
        ({"n": [2.5]}, r"n\[0\]: .*integer, not 2.5"),
        ({"n": [5, 5]}, "n: values of a grid must differ"),
        ({"n": [0]}, r"n: 0 means no preferences, and learners\[0\] learns"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": "some"}, "seeds"),
        ({"seeds": True}, "seeds"),
        ({"beta": []}, r"learners\[0\].grid: missing"),
        ({"beta": [1.0, float("nan")]}, r"beta.*\[1\]: .*finite"),
        ({"beta": [0.0]}, r"beta.*\[0\]: .*greater than 0, not 0"),
        ({"surprise": 1}, "surprise: extra inputs are not permitted"),
        ({"learners": []}, "learners: empty"),
        ({"instances": [{"family": "zipf", "responses": 1}]}, r"instances\[0\].responses: .*not 1"),
        ({"instances": [{"family": "zork"}]}, r"instances\[0\]: .*'zork'.*'random'"),
        ({"instances": [{"family": "random"}]}, r"instances\[0\].responses: field required"),
        ({"instances": [{"family": "table", "path": "no"}]}, r"instances\[0\]: path is 'no'"),
        (
            {"instances": [{"family": "random", "responses": 3}] * 2},
            r"instances\[1\]: is a copy of instances\[0\]",
        ),
        ({"learners": [{"method": "RLHF", "divergence": "x"}]}, r"learners\[0\].divergence: .*'x'"),
        ({"learners": [{"method": "RLHF", "beta": 1.0}]}, r"learners\[0\].beta: extra"),
        ({"learners": [{"method": "RLHF", "grid": [1.0, 1.0]}]}, r"learners\[0\].grid: values"),
        (
            {"learners": [{"method": "RLHF", "reward": {"model": "tabular", "ridge": -1.0}}]},
            r"learners\[0\].reward.*ridge: .*not -1.0",
        ),
        ({"learners": [{"method": "RLHF", "sweep": {"divergence": "kl"}}]}, r"sweep.divergence"),
        ({"learners": [{"method": "RLHF", "sweep": {}}]}, r"learners\[0\].sweep: must be"),
        (
            {"learners": [{"method": "RLHF", "divergence": "kl", "sweep": {"divergence": ["kl"]}}]},
            r"learners\[0\].divergence: given, and swept",
        ),
        ({"learners": [{"method": "listed", "learner_key": "zork"}]}, "must be one of rlhf-kl"),
        ({"learners": [{"method": "trained", "loss": "RPO", "beta": 1.0, "learning_rate": 1.0,
                        "grid": [1]}]}, "eta must be given for RPO"),
        ({"seeds": 10**9}, "cells; at most"),
        ({"testing": {"n": [6]}}, "testing.n: 6 must be one of n"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes, says):
    with pytest.raises(ValueError, match=says):
        small(**changes)


SWEPT = {"method": "RLHF", "reward": RIDGE, "sweep": {"divergence": ["kl", "chi2"]}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        # The second entry of the file, though the third method.
        (
            {"learners": [SWEPT, {"method": "RLHF", "ridge": 1.0}]},
            "learners[1].ridge: extra inputs are not permitted",
        ),
        (
            {"learners": [SWEPT | {"grid": [1.0]}, {"method": "RLHF"}]},
            "learners[1].grid: missing, and so is beta",
        ),
        # Once for both copies of a sweep, and for each value that is wrong itself.
        (
            {"learners": [SWEPT | {"reward": {"model": "tabular", "ridge": -1.0}}]},
            "learners[0].reward.ridge: input should be greater than 0, not -1.0",
        ),
        (
            {"instances": [{"family": "zipf", "sweep": {"responses": [1, 0]}}]},
            "instances[0].responses: input should be greater than or equal to 2, not 1; "
            "instances[0].responses: input should be greater than or equal to 2, not 0",
        ),
        (
            {"learners": [SWEPT | {"sweep": {"divergence": ["kl", "kl"]}}]},
            "learners[0].sweep: makes two equal entries",
        ),
        # Kinds of a value by what they ask for, not by what pydantic calls them.
        (
            {"seeds": 0},
            "seeds: input should be greater than or equal to 1, or input should be 'exact', not 0",
        ),
        ({"beta": [1.0, 0.0]}, "beta[1]: input should be greater than 0, not 0.0"),
        (
            {"beta": {"start": 0.0, "stop": 1.0, "points": 2}},
            "beta.start: input should be greater than 0, not 0.0",
        ),
        ({"beta": {"start": 1.0, "stop": 2.0}}, "beta.points: field required"),
        (
            {"beta": 3},
            "beta: input should be a valid tuple, or input should be a valid dictionary, not 3",
        ),
    ],
)
def test_keys_are_those_of_the_file(changes, says):
    base = {"name": "x", "instances": [{"family": "random", "responses": 3}], "n": [5]}
    if "learners" not in changes or "grid" not in says:
        base["beta"] = [1.0]
    with pytest.raises(ValueError) as refused:
        Study.from_dict(base | {"learners": [SWEPT]} | changes)
    assert str(refused.value) == says


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"none\.toml cannot be read: No such file"):
        load_study(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("name = ")
    with pytest.raises(ValueError, match=r"bad\.toml is not valid"):
        load_study(bad)
    bad.write_text("name = 'x'\nn = [1]\n")
    with pytest.raises(ValueError, match=r"bad\.toml: instances: field required"):
        load_study(bad)


def test_no_code_is_run_from_a_file(tmp_path):
    path = tmp_path / "evil.toml"
    marker = tmp_path / "marker"
    call = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    path.write_text(
        TOML.replace('"kl"', json.dumps(call)).replace("BoN", "{" + call.replace('"', "'") + "}")
    )
    with pytest.raises(ValueError, match="divergence"):
        load_study(path)
    assert not marker.exists()


def test_tables_are_found_beside_the_file_and_known_by_content(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("prompt_id,response_id,reward\n1,a,0.5\n1,b,1\n")
    text = TOML.split("[[instances]]")[0] + (
        '[[instances]]\nfamily = "table"\npath = "t.csv"\n[[learners]]\nmethod = "RLHF"\n'
    )
    (tmp_path / "study.toml").write_text(text)
    study = load_study(tmp_path / "study.toml")
    key = study.instances[0].key
    moved = tmp_path / "moved.csv"
    moved.write_bytes(table.read_bytes())
    assert Table(path=str(moved)).key == key
    saved = study.content()
    table.write_text("prompt_id,response_id,reward\n1,a,0.5\n1,b,2\n")
    assert Table(path=str(table)).key != key
    with pytest.raises(ValueError, match="has changed: its SHA-256 is"):
        Study.from_dict(json.loads(saved))


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        small().name = "other"
    with pytest.raises(ValueError, match="frozen"):
        Random(responses=3).skew = 2.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kl", KL()),
        (" chi2 + 0.5 kl ", ChiSquared() + 0.5 * KL()),
        ("2*chi2+1e-3 kl", 2.0 * ChiSquared() + 1e-3 * KL()),
        ("alpha(-1.5) + 1e+2 kl", AlphaDivergence(-1.5) + 100.0 * KL()),
    ],
)
def test_divergences_from_text(text, expected):
    p, q = [0.2, 0.3, 0.5], [0.4, 0.4, 0.2]
    assert parse_divergence(text)(p, q) == pytest.approx(expected(p, q), rel=1e-15)


def test_every_plain_divergence_has_a_text():
    texts = ["kl", "chi2", "forward-kl", "jensen-shannon", "hellinger", "alpha(0.3)"]
    kinds = {type(parse_divergence(text)) for text in texts}
    assert kinds == {type(d) for d in ALL_DIVERGENCES if "Combination" not in type(d).__name__}


@pytest.mark.parametrize("text", ["", "k l", "0 kl", "-1 kl", "kl(2)", "alpha", "kl +", "1", "é"])
def test_what_is_no_divergence_is_refused(text):
    with pytest.raises(ValueError, match="divergence is"):
        parse_divergence(text)


def test_ridge_is_shown_in_labels_that_differ_only_in_it():
    study = small(
        learners=[{"method": "RLHF", "reward": RIDGE}, {"method": "RLHF", "label": "plain"}]
    )
    assert study.labels[1] == ("RLHF, reward model tabular ridge 0.1", "plain")
