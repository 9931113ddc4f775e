import threading

import numpy as np
import pytest

from rlhfsim import KL, solve, threads


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setattr(threads, "_count", threads._count)
    monkeypatch.setattr(threads, "_pool", None)


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.setattr(threads, "_count", 0)
    monkeypatch.delenv("RLHFSIM_THREADS", raising=False)


# ---- how many ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, np.int64(3)])
def test_set_threads(count):
    threads.set_threads(count)
    assert threads.get_threads() == count
    assert type(threads.get_threads()) is int


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "count is 0; it must be at least 1"),
        (-2, "count is -2; it must be at least 1"),
        (1.0, r"count is 1\.0; it must be an integer"),
        (True, "count is True; it must be an integer"),
        ("2", "count is '2'; it must be an integer"),
        (None, "count is None; it must be an integer"),
    ],
)
def test_set_threads_refuses(count, message):
    threads.set_threads(3)
    with pytest.raises(ValueError, match=message):
        threads.set_threads(count)
    assert threads.get_threads() == 3


@pytest.mark.usefixtures("unset")
def test_the_environment_decides_first(monkeypatch):
    monkeypatch.setenv("RLHFSIM_THREADS", "5")
    assert threads.get_threads() == 5
    # Read once: what a process began with stays.
    monkeypatch.setenv("RLHFSIM_THREADS", "6")
    assert threads.get_threads() == 5
    threads.set_threads(2)
    assert threads.get_threads() == 2


@pytest.mark.usefixtures("unset")
@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", " ", "+2", "1e3"])
def test_a_bad_environment_is_refused(given, monkeypatch):
    monkeypatch.setenv("RLHFSIM_THREADS", given)
    with pytest.raises(ValueError, match=r"RLHFSIM_THREADS is .* it must be a positive integer"):
        threads.get_threads()
    with pytest.raises(ValueError, match="RLHFSIM_THREADS"):
        solve(np.zeros((1 << 9, 1 << 9)), np.full(1 << 9, 2.0**-9), KL(), 1.0)


@pytest.mark.usefixtures("unset")
def test_by_default_all_cores_of_the_process(monkeypatch):
    monkeypatch.setenv("RLHFSIM_THREADS", "")
    if hasattr(threads.os, "sched_getaffinity"):
        assert threads.get_threads() == len(threads.os.sched_getaffinity(0))
    threads._count = 0
    monkeypatch.delattr(threads.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: 11)
    assert threads.get_threads() == 11
    threads._count = 0
    monkeypatch.setattr(threads.os, "cpu_count", lambda: None)
    assert threads.get_threads() == 1


# ---- calls ---------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_calls_and_the_last_runs_here():
    threads.set_threads(4)
    names = threads.in_parallel(
        lambda k: (k, threading.current_thread().name), [(k,) for k in range(9)]
    )
    assert [k for k, _ in names] == list(range(9))
    assert names[-1][1] == threading.current_thread().name
    assert all(name.startswith("rlhfsim") for _, name in names[:-1])


def test_one_call_starts_no_thread():
    threads.set_threads(4)
    assert threads.in_parallel(lambda a, b: a - b, [(5, 3)]) == [2]
    assert threads._pool is None


def test_calls_run_at_the_same_time():
    threads.set_threads(3)
    # Nobody passes before all three are there.
    barrier = threading.Barrier(3, timeout=60)
    assert sorted(threads.in_parallel(lambda: barrier.wait(), [()] * 3)) == [0, 1, 2]


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_errors_propagate_after_everything_has_ended(failing):
    threads.set_threads(4)
    started, done = threading.Event(), []

    def task(k):
        if k == failing:
            started.wait(60)
            raise KeyError(k)
        started.set()
        done.append(k)
        return k

    with pytest.raises(KeyError, match=str(failing)):
        threads.in_parallel(task, [(k,) for k in range(4)])
    assert sorted(done) == [k for k in range(4) if k != failing]
    # The pool is as good as before.
    assert threads.in_parallel(abs, [(-1,), (-2,), (3,)]) == [1, 2, 3]


def test_the_caller_waits_for_the_others_when_its_own_call_fails():
    threads.set_threads(2)
    release, ended = threading.Event(), threading.Event()

    def task(own):
        if own:
            release.set()
            raise OSError("own")
        release.wait(60)
        ended.wait(0.05)
        ended.set()

    with pytest.raises(OSError, match="own"):
        threads.in_parallel(task, [(False,), (True,)])
    assert ended.is_set()


def test_the_number_may_change_while_calls_run():
    threads.set_threads(3)

    def task(k):
        threads.set_threads(1 + k % 4)
        return k

    for _ in range(20):
        assert threads.in_parallel(task, [(k,) for k in range(6)]) == list(range(6))
