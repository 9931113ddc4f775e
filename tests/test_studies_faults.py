"""Kill, damage and starve runs: nothing finished is lost, and the table comes out the same."""

import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study_examples import slow

from rlhfsim.studies import Store, StudyError, load_study, resume, run_study, status
from rlhfsim.studies.executors import processes

#: Runs the study of a file in parts of a few groups, in so many processes.
RUN = """
import sys
from rlhfsim.studies import load_study, run_study
if __name__ == "__main__":
    run_study(load_study(sys.argv[1]), sys.argv[2], workers=int(sys.argv[3]), task_seconds=0.05)
"""


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults") / "study.json"
    path.write_text(slow().content())
    return path


@pytest.fixture(scope="module")
def undisturbed(study_file):
    folder = study_file.parent / "undisturbed"
    run_study(load_study(study_file), folder, workers=1)
    return digest(folder)


@pytest.fixture(scope="module")
def in_parts(study_file):
    """The folder of a run in several parts; not to be changed."""
    folder = study_file.parent / "in parts"
    run_study(slow(), folder, workers=1, task_seconds=0.2)
    return folder


@pytest.fixture
def finished(in_parts, tmp_path):
    """A copy of the folder of a run in several parts."""
    return Path(shutil.copytree(in_parts, tmp_path / "out"))


def digest(folder):
    return hashlib.sha256((folder / "results.parquet").read_bytes()).hexdigest()


def started(study_file, folder, workers=1, **more):
    script = study_file.parent / "run.py"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(study_file), str(folder), str(workers)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, **more
    )


def wait_for_parts(process, folder, count):
    deadline = time.monotonic() + 120
    while len(list((folder / "parts").glob("[0-9a-f]*.parquet"))) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_again_and_again_ends_with_the_same_bytes(
    study_file, undisturbed, tmp_path, workers
):
    folder = tmp_path / "out"
    rng = random.Random(workers)
    kills = 0
    for already in (1, 4, 8) if workers == 1 else (1, 6):
        process = started(study_file, folder, workers)
        with process:
            wait_for_parts(process, folder, already)
            time.sleep(0.05 * rng.random())
            os.killpg(process.pid, signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
        found = status(folder)
        assert found.unreadable == 0
        assert found.done >= already
    assert kills == (3 if workers == 1 else 2)
    done = status(folder).done
    counted = []
    resume(folder, workers=1, progress=lambda now, total: counted.append(now))
    assert counted[0] == done
    assert digest(folder) == undisturbed
    assert not list(folder.rglob(".rlhfsim-partial-*"))


def test_interrupted_politely(study_file, undisturbed, tmp_path):
    folder = tmp_path / "out"
    process = started(study_file, folder, 2)
    with process:
        wait_for_parts(process, folder, 2)
        # As from a terminal; a shell that runs this in the background would have it ignored.
        os.killpg(process.pid, signal.SIGTERM)
    assert process.returncode != 0
    resume(folder, workers=1)
    assert digest(folder) == undisturbed


def test_a_full_disk(study_file, undisturbed, tmp_path):
    """Files may grow to 300 bytes: the settings do not fit, nor does any part."""
    folder = tmp_path / "out"
    store = Store(folder, load_study(study_file))
    with store.writing():
        pass

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    process = started(study_file, folder, 1, preexec_fn=limit)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert b"File too large" in errors
    found = status(folder)
    assert (found.unreadable, found.complete) == (0, False)
    assert not list(folder.rglob(".rlhfsim-partial-*"))
    resume(folder, workers=1)
    assert digest(folder) == undisturbed


@pytest.mark.parametrize("damage", ["flip a bit", "cut off", "empty", "gone", "renamed"])
def test_damaged_parts_are_found_and_run_again(undisturbed, finished, damage):
    folder = finished
    paths = sorted((folder / "parts").iterdir())
    for path in paths[::3]:
        content = bytearray(path.read_bytes())
        if damage == "gone":
            path.unlink()
        elif damage == "renamed":
            path.rename(path.with_stem("0" * 64))
            break
        else:
            if damage == "flip a bit":
                content[len(content) // 2] ^= 4
            path.write_bytes({"cut off": content[:-9], "empty": b""}.get(damage, content))
    found = status(folder)
    assert found.done < found.cells
    assert (found.unreadable > 0) == (damage != "gone")
    (folder / "results.parquet").unlink()
    resume(folder, workers=1)
    assert status(folder).complete
    assert digest(folder) == undisturbed


def test_a_damaged_table_is_found_and_written_again(undisturbed, finished):
    from rlhfsim.studies import read_results

    folder = finished
    path = folder / "results.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert not status(folder).complete
    with pytest.raises(ValueError, match="is damaged"):
        read_results(folder)
    resume(folder, workers=1)
    assert digest(folder) == undisturbed


def test_parts_of_another_version_are_not_mixed_in(undisturbed, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    monkeypatch.setattr("rlhfsim.studies.running.made_by", lambda study: "rlhfsim 0.0")
    with pytest.raises(StudyError, match="lost"):
        run_study(slow(), folder, workers=1)
    monkeypatch.undo()
    assert status(folder).done == 0
    resume(folder, workers=1)
    assert digest(folder) == undisturbed


def test_two_runs_into_one_folder_are_refused(study_file, tmp_path):
    folder = tmp_path / "out"
    process = started(study_file, folder)
    with process:
        wait_for_parts(process, folder, 1)
        with pytest.raises(ValueError, match="being written to by another process"):
            run_study(slow(), folder, workers=1)
        process.kill()
    resume(folder, workers=1)
    assert status(folder).complete


def test_a_worker_that_is_killed_is_replaced(undisturbed, tmp_path):
    folder = tmp_path / "out"
    killed = []

    def kill_one(done, total):
        import multiprocessing

        children = multiprocessing.active_children()
        if done and len(killed) < 2 and children:
            os.kill(children[0].pid, signal.SIGKILL)
            killed.append(done)

    run_study(slow(), folder, workers=2, task_seconds=0.05, progress=kill_one)
    assert len(killed) == 2
    assert digest(folder) == undisturbed


def test_workers_that_keep_dying_end_the_run(tmp_path):
    class Dies:
        """Settings that no worker survives unpickling."""

        def __init__(self, study):
            pass

        def __reduce__(self):
            return os._exit, (1,)

    from rlhfsim.studies import running

    real = running.made_by
    running.made_by = Dies
    try:
        with pytest.raises(StudyError, match="workers keep dying"):
            run_study(slow(), tmp_path / "out", workers=2)
    finally:
        running.made_by = real


def test_a_killed_dask_worker(undisturbed, tmp_path):
    from distributed import LocalCluster

    from rlhfsim.studies import dask_cluster

    folder = tmp_path / "out"
    killed = []
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:

        def kill_one(done, total):
            if done and not killed:
                worker = next(iter(cluster.workers.values()))
                os.kill(worker.process.pid, signal.SIGKILL)
                killed.append(done)

        with dask_cluster(cluster.scheduler_address) as executor:
            run_study(slow(), folder, executor=executor, task_seconds=0.1, progress=kill_one)
    assert killed
    assert digest(folder) == undisturbed


def test_nothing_answers_at_an_address(monkeypatch):
    from rlhfsim.studies import dask_cluster, executors

    monkeypatch.setattr(executors, "CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(ValueError, match="nothing answers there"),
        dask_cluster("tcp://127.0.0.1:9"),
    ):
        pass


def test_workers_end_when_the_run_is_killed(study_file, tmp_path):
    folder = tmp_path / "out"
    process = started(study_file, folder, 2)
    with process:
        wait_for_parts(process, folder, 1)
        process.kill()  # the one process alone, not its workers
    deadline = time.monotonic() + 60
    while _session(process.pid):
        assert time.monotonic() < deadline, _session(process.pid)
        time.sleep(0.05)


def _session(leader):
    """Return the processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rsplit(")", 1)[1].split()[:4]
        except OSError:
            continue
        if int(session) == leader and state != "Z":
            found.append(path.parent.name)
    return found


def test_processes_are_fresh_ones():
    with processes(2) as executor:
        assert executor.submit(os.getpid).result() != os.getpid()
    with pytest.raises(ValueError, match="workers is 0"):
        processes(0)
