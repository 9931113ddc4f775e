"""Nothing on disk is ever half written."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from rlhfsim.files import TEMPORARY_PREFIX, atomic_path, read_parquet, staged_folder, write_text


def leftovers(folder):
    return [p for p in folder.rglob("*") if p.name.startswith(TEMPORARY_PREFIX)]


def test_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def write_half():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == []
    write_text(target, "new")
    assert target.read_text() == "new"


def test_new_files_have_ordinary_permissions(tmp_path):
    write_text(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_staged_folder_publishes_all_or_nothing(tmp_path):
    out = tmp_path / "out"
    with staged_folder(out) as staging:
        (staging / "sub").mkdir()
        (staging / "sub" / "b").write_text("1")
        assert not (out / "sub").exists()
    assert (out / "sub" / "b").read_text() == "1"
    (out / "mine").write_text("kept")

    def write_half():
        with staged_folder(out) as staging:
            (staging / "sub").mkdir()
            (staging / "sub" / "b").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert (out / "sub" / "b").read_text() == "1"
    assert (out / "mine").read_text() == "kept"
    assert leftovers(out) == []


def test_manifest_moves_last_and_superseded_files_go_before_it(tmp_path, monkeypatch):
    """A kill while files move leaves the old manifest, which the new files contradict."""
    from rlhfsim import files

    (tmp_path / "stale").write_text("old")
    moved = []
    publish = files._publish

    def watched(source, target):
        moved.append(target.name)
        assert not (tmp_path / "stale").exists()
        publish(source, target)

    monkeypatch.setattr(files, "_publish", watched)
    digest = files.sha256(tmp_path / "stale")
    with staged_folder(tmp_path, {"stale": digest, "gone": "x"}) as staging:
        for name in ("a", files.MANIFEST, "z"):
            (staging / name).write_text(name)
    assert moved == ["a", "z", files.MANIFEST]


def test_second_writer_is_refused(tmp_path):
    with (
        staged_folder(tmp_path),
        pytest.raises(ValueError, match="being written to by another process"),
        staged_folder(tmp_path),
    ):
        pass


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    write_text(tmp_path / "f", "x")
    with pytest.raises(ValueError, match="f is not a folder"), staged_folder(tmp_path / "f"):
        pass


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_writer_changes_nothing_and_is_cleaned_up_after(tmp_path, kill):
    out = tmp_path / "out"
    write_folder = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from rlhfsim.files import staged_folder
        with staged_folder(Path(sys.argv[1])) as staging:
            (staging / "a").write_text("half")
            print("ready", flush=True)
            time.sleep(60)
    """)
    with staged_folder(out) as staging:
        (staging / "a").write_text("whole")
    process = subprocess.Popen(
        [sys.executable, "-c", write_folder, str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, kill)
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (out / "a").read_text() == "whole"
    assert bool(leftovers(out)) == (kill == signal.SIGKILL)
    with staged_folder(out) as staging:
        (staging / "a").write_text("again")
    assert (out / "a").read_text() == "again"
    assert leftovers(out) == []


def test_corrupt_parquet_is_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ValueError, match=r"x\.parquet is not a readable Parquet file"):
        read_parquet(tmp_path / "x.parquet")
