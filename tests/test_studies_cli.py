import json
import subprocess
import sys

import pandas as pd
import pytest
from study_examples import RIDGE, small

from rlhfsim.cli import main
from rlhfsim.studies import status


def run(*arguments):
    try:
        main(["study", *map(str, arguments)])
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(small().content())
    return path


def test_run_status_resume_export(study_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("run", study_file, "--out", out, "--workers", 1) == 0
    assert "results.parquet" in capsys.readouterr().out
    assert run("status", out) == 0
    assert f"small: {small().cells} of {small().cells} cells" in capsys.readouterr().out
    (out / "results.parquet").unlink()
    assert run("status", out) == 1
    assert "not finished" in capsys.readouterr().out
    assert run("resume", out, "--workers", 1) == 0
    assert status(out).complete
    assert run("export", out, "--to", tmp_path / "t.csv", "--wide") == 0
    assert len(pd.read_csv(tmp_path / "t.csv")) == small().cells


def test_cells_that_fail_are_counted(study_file, tmp_path, capsys):
    # Without a ridge the likelihood of five preferences has no maximum.
    bare = {"method": "RLHF", "reward": {"model": "tabular"}, "grid": [1.0]}
    sound = {"method": "RLHF", "reward": RIDGE, "label": "sound", "grid": [1.0]}
    for learners, code, says in (
        ([sound, bare], 0, "no result for 1 of 2 cells; the first error: "),
        ([bare], 1, "no result for every cell; the first error: "),
    ):
        study = small(
            instances=[{"family": "random", "responses": 6}], learners=learners, n=[5], seeds=1
        )
        study_file.write_text(study.content())
        out = tmp_path / f"out{code}"
        commands = ("run", study_file, "--out", out, "--workers", 1), ("status", out), (
            "resume", out, "--workers", 1,
        )  # fmt: skip
        for command in commands:
            assert run(*command) == code
            assert says in (shown := capsys.readouterr().out)
            assert "exist" in shown.split("the first error: ")[1]
        found = status(out)
        assert (found.failed, found.done, found.complete) == (1, len(learners), True)


def test_testing_takes_the_subset(study_file, tmp_path):
    study = small(testing={"seeds": 1, "n": [5], "grid": 2})
    study_file.write_text(study.content())
    assert run("run", study_file, "--testing", "--out", tmp_path / "out", "--workers", 1) == 0
    assert status(tmp_path / "out").cells == study.for_testing().cells < study.cells


def test_seeds_are_added_until_intervals_are_narrow(study_file, tmp_path, capsys):
    out = tmp_path / "out"
    study_file.write_text(small(n=[40], beta=[1.0]).content())
    arguments = "run", study_file, "--out", out, "--workers", 1, "--until"
    assert run(*arguments, "regret=0.2", "--most-seeds", 80) == 0
    assert "(reached)" in capsys.readouterr().out
    seeds = status(out).cells // (3 * 4)
    assert 10 <= seeds < 80
    assert run(*arguments, "regret=0.0001", "--most-seeds", 12) == 0
    assert "12 seeds" in (shown := capsys.readouterr().out)
    assert "not reached" in shown
    assert run(*arguments, "regret") == 2
    assert "it must be METRIC=WIDTH" in capsys.readouterr().err


def test_a_table_of_the_users_replaces_that_of_a_study(tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text("prompt_id,response_id,reward,length\n1,a,0.5,3\n1,b,1,2\n")
    out = tmp_path / "out"
    assert run("run", "judged", "--testing", "--table", table, "--out", out, "--workers", 1) == 0
    settings = json.loads((out / "study.json").read_text())
    assert settings["instances"][0]["path"] == str(table)
    assert (out / "figures").is_dir()
    assert run("run", "gamma", "--table", table, "--out", tmp_path / "no") == 2
    assert "no instance of the family 'table'" in capsys.readouterr().err


def test_list_has_every_shipped_study(capsys):
    from rlhfsim.studies.shipped import SHIPPED

    assert run("list") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in SHIPPED)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "none.toml", "--out", "o"), "none.toml cannot be read"),
        (("run", "zork", "--out", "o"), "study is 'zork'; it must be a file or one of"),
        (("status", "."), "holds no study"),
        (("resume", "none"), "holds no study"),
        (("export", ".", "--to", "x.csv"), "holds no study"),
        (("run", "STUDY", "--out", "o", "--workers", "0"), "workers is 0"),
        (("run", "STUDY", "--out", "o", "--workers", "1", "--cluster", "tcp://x:1"), "only one of"),
    ],
)
def test_bad_input_is_one_line(study_file, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    arguments = [study_file if a == "STUDY" else a for a in arguments]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_quiet_when_not_a_terminal(study_file, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "rlhfsim", "study", "run", str(study_file), "--out", "out"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stderr == ""
    assert ended.stdout == "written to out: results.parquet, manifest.json\n"
    assert "finished" in (tmp_path / "out" / "run.log").read_text()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["study"] == "small"
