"""Where tasks run: in this process, in processes of this machine, on dask, through SLURM."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from rlhfsim import checks

#: Seconds between looks at the jobs of a SLURM cluster.
_POLL = 0.2

#: Seconds to wait for a cluster to answer.
CONNECT_SECONDS = 10.0


class InProcess(Executor):
    """Runs every task at once, in the calling thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return the finished future of `fn(*args, **kwargs)`."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processes(workers: int) -> Executor:
    """Return a pool of `workers` fresh processes; this one if `workers` is 1.

    They are spawned and not forked: a fork copies locks that threads of this process may hold.
    """
    count = checks.whole_number("workers", workers, least=1)
    if count == 1:
        return InProcess()
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended.

    A worker would otherwise wait for tasks for ever: the queue stays open as long as it lives.
    """
    # Ctrl-C reaches every process of a terminal; the one that hands out tasks answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def dask_cluster(address: str) -> Iterator[Executor]:
    """Yield the executor of a running dask cluster, such as `tcp://host:8786`.

    Raises
    ------
    ValueError
        If `distributed` is not installed, or nothing answers at the address.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("a cluster needs dask: pip install 'rlhfsim[cluster]'") from None
    try:
        client: Any = Client(address, timeout=CONNECT_SECONDS)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ValueError(f"cluster is {address!r}; nothing answers there ({error})") from None
    try:
        # Tasks are pure: a worker that dies is replaced and its tasks are run again.
        yield client.get_executor(retries=3)
    finally:
        client.close()


class Submitit(Executor):
    """SLURM jobs through submitit, one for each task.

    Parameters
    ----------
    folder : path
        For the job files; shared with the machines that run them.
    cluster : str, optional
        "local" runs jobs as processes of this machine; by default SLURM where there is one.
    parameters : keywords
        As `submitit.AutoExecutor.update_parameters` takes them: `timeout_min`, `slurm_partition`.
    """

    #: Seconds that a task should take: a job waits in a queue before it begins.
    task_seconds = 120.0

    def __init__(
        self, folder: str | os.PathLike[str], cluster: str | None = None, **parameters: Any
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise ValueError("SLURM needs submitit: pip install 'rlhfsim[slurm]'") from None
        self._executor = submitit.AutoExecutor(folder=os.fspath(folder), cluster=cluster)
        self._executor.update_parameters(**parameters)
        self._pending: dict[Future[Any], Any] = {}
        self._closed = False
        self._watcher: Any = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit one job; the future ends when the job does."""
        if self._closed:
            raise RuntimeError("this executor has been shut down")
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._pending[future] = self._executor.submit(fn, *args, **kwargs)
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return future

    def _watch(self) -> None:
        """Pass on the results of jobs as they end."""
        while self._pending or not self._closed:
            for future, job in list(self._pending.items()):
                if not job.done():
                    continue
                try:
                    future.set_result(job.result())
                except BaseException as error:
                    future.set_exception(error)
                finally:
                    self._pending.pop(future, None)
            time.sleep(_POLL)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs; wait for those that run, or cancel them."""
        self._closed = True
        if cancel_futures:
            for job in list(self._pending.values()):
                job.cancel()
        if wait and self._watcher is not None:
            self._watcher.join()
