"""Running a study: plan what is missing, hand it out in tasks, save what comes back."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from itertools import islice
from os import PathLike

import numpy as np

from rlhfsim import checks
from rlhfsim.studies import parts
from rlhfsim.studies.executors import available_cores, processes
from rlhfsim.studies.results import verified, write_results
from rlhfsim.studies.store import PARTS, RESULTS, Finished, Store, made_by
from rlhfsim.studies.study import Study
from rlhfsim.studies.work import Done, Piece, run_task

_log = logging.getLogger("rlhfsim.studies")

#: Seconds that a task should take: enough for its own cost to vanish, not more than one wants to
#: lose to a kill.
TASK_SECONDS = 1.5

#: Tasks by which the time of a group is measured where tasks are long; the first loads code.
_TRIALS = 2

#: How often a broken pool is started again without a task having come back from it.
_RESTARTS = 3

#: Called with (cells done, cells in all).
Progress = Callable[[int, int], None]


class StudyError(RuntimeError):
    """A task failed; what was finished before is saved, and `resume` goes on from there."""


@dataclass(frozen=True)
class Status:
    """How far a study is."""

    cells: int
    done: int
    parts: int
    #: Parts that are damaged or made by another version; their cells count as not done.
    unreadable: int
    #: Whether the final table is there, undamaged, and that of the settings.
    complete: bool
    #: How many of the cells that are done have an error and no values, and the error of the first.
    failed: int = 0
    first_error: str = ""


def run_study(
    study: Study,
    out: str | PathLike[str],
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    threads: int = 1,
    task_seconds: float | None = None,
    progress: Progress | None = None,
) -> Store:
    """Evaluate every cell of a study that the folder lacks, and write the final table.

    Finished cells are saved in parts of about `task_seconds`; a run that is killed loses no more
    than those under way.  The table does not depend on workers, executor or interruptions: the
    same study and version give the same bytes.

    Parameters
    ----------
    study : Study
    out : folder
        New, empty, or with (part of) a study of the same name; cells it has are kept, as long as
        the study still has them.
    workers : int, optional
        Processes on this machine, one for each core by default.  They are spawned, so a script
        needs `if __name__ == "__main__":` around the call; with 1 there are none.
    executor : concurrent.futures.Executor, optional
        Used in place of processes of our own; it is not shut down.
    threads : int
        For each task.
    task_seconds : float, optional
        What a task should take; by default `TASK_SECONDS`, or what the executor says.
    progress : function, optional

    Returns
    -------
    Store

    Raises
    ------
    ValueError
        Bad arguments; a folder that another process is writing to or that holds something else.
    StudyError
        When a task fails for good; everything finished is saved.
    """
    if not isinstance(study, Study):
        raise ValueError(f"study is a {type(study).__name__}; it must be a Study")
    threads = checks.whole_number("threads", threads, least=1)
    if task_seconds is None:
        task_seconds = getattr(executor, "task_seconds", TASK_SECONDS)
    seconds = checks.positive_number("task_seconds", task_seconds)
    if workers is not None and executor is not None:
        raise ValueError("workers and executor cannot both be given")
    count = (
        available_cores() if workers is None else checks.whole_number("workers", workers, least=1)
    )
    store = Store(out, study)
    with store.writing():
        _log.info("%s: %d cells, %s", study.name, study.cells, made_by(study))
        finished = store.finished()
        for path in finished.unreadable:
            _log.warning(
                "%s cannot be used (damaged, of another version, or without a metric that is asked "
                "for); its cells are run again",
                path.name,
            )
        if finished.count < study.cells:
            _Run(store, finished, executor, count, threads, seconds, progress).run()
            finished = store.finished()
            if finished.count < study.cells:
                lost = study.cells - finished.count
                raise StudyError(f"{lost} cells were lost after they were saved; resume runs them")
        elif _is_current(store):
            _log.info("nothing to do")
            return store
        write_results(store, finished)
        store.write_manifest(finished)
        if finished.failed:
            _log.warning("%d cells failed; the first: %s", finished.failed, finished.first_error)
        _log.info("finished: %s", RESULTS)
    return store


def resume(out: str | PathLike[str], **how: object) -> Store:
    """Go on with the study of a folder; as `run_study`."""
    return run_study(Store.open(out).study, out, **how)  # type: ignore[arg-type]


def status(out: str | PathLike[str]) -> Status:
    """Return how far the study of a folder is; every part is compared with its checksum."""
    store = Store.open(out)
    finished = store.finished()
    return Status(
        cells=store.study.cells,
        done=finished.count,
        parts=len(finished.files),
        unreadable=len(finished.unreadable),
        complete=finished.count == store.study.cells and _is_current(store),
        failed=finished.failed,
        first_error=finished.first_error,
    )


def _is_current(store: Store) -> bool:
    """Return whether the final table is whole and that of these settings."""
    manifest = store.manifest()
    own = hashlib.sha256(store.study.content().encode()).hexdigest()
    if manifest is None or manifest.get("settings") != own:
        return False
    try:
        verified(store)
    except ValueError:
        return False
    return True


def missing(store: Store, finished: Finished) -> Iterator[Piece]:
    """Yield what is left to do, group by group in order."""
    size = len(store.layout.points)
    done = (finished.part >= 0).reshape(-1, size)
    for group in np.flatnonzero(~done.all(axis=1)):
        row = done[group]
        left = None if not row.any() else tuple(int(k) for k in np.flatnonzero(~row))
        yield Piece(int(group), left)


class _Run:
    """Keeps a few tasks in flight, and makes them long enough."""

    def __init__(
        self,
        store: Store,
        finished: Finished,
        executor: Executor | None,
        workers: int,
        threads: int,
        seconds: float,
        progress: Progress | None,
    ) -> None:
        self._store, self._threads, self._seconds = store, threads, seconds
        self._given, self._workers = executor, workers
        self._pieces = missing(store, finished)
        self._again: list[list[Piece]] = []
        self._cells, self._total = finished.count, store.study.cells
        self._progress = progress
        #: Groups of the next task; grows until a task takes long enough.
        self._size = 1
        self._failures = 0

    def run(self) -> None:
        """Run everything that is missing."""
        self._report()
        start = time.perf_counter()
        while True:
            executor = self._given or processes(self._workers)
            try:
                if hasattr(executor, "task_seconds"):
                    self._calibrate()
                self._drain(executor)
                break
            except BrokenExecutor as error:
                self._failures += 1
                _log.warning("a worker died (%s)", error)
                if self._given is not None or self._failures > _RESTARTS:
                    raise StudyError(
                        f"workers keep dying ({error}); what is finished is saved, resume goes on"
                    ) from error
            finally:
                if self._given is None:
                    executor.shutdown(wait=True, cancel_futures=True)
        _log.info("%d cells in %.1f s", self._total, time.perf_counter() - start)

    def _drain(self, executor: Executor) -> None:
        limit = self._in_flight(executor)
        flying: dict[Future[Done], list[Piece]] = {}
        try:
            while True:
                while len(flying) < limit and (task := self._next()):
                    flying[self._submit(executor, task)] = task
                if not flying:
                    return
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    task = flying[future]
                    self._save(future.result(), len(task))
                    del flying[future]
        except BrokenExecutor:
            self._again.extend(flying.values())
            raise
        except Exception as error:
            self._rescue(flying)
            if isinstance(error, (OSError, MemoryError)):
                raise
            raise StudyError(f"a task failed: {type(error).__name__}: {error}") from error
        except BaseException:
            for future in flying:
                future.cancel()
            raise

    def _calibrate(self) -> None:
        """Do the first tasks here, until it is known how long a group takes."""
        for _ in range(_TRIALS):
            if not (task := self._next()):
                return
            done = run_task(self._store.study, task, self._threads, made_by(self._store.study))
            self._save(done, len(task), growth=math.inf)

    def _submit(self, executor: Executor, task: list[Piece]) -> Future[Done]:
        try:
            return executor.submit(
                run_task, self._store.study, task, self._threads, made_by(self._store.study)
            )
        except BaseException:
            self._again.append(task)
            raise

    def _in_flight(self, executor: Executor) -> int:
        workers = getattr(executor, "_max_workers", None)
        if self._given is None:
            workers = self._workers
        if workers == 1:
            return 1
        # As many waiting as running, so that no worker waits for the next task.
        return 2 * workers if isinstance(workers, int) else 2 * max(self._workers, 16)

    def _next(self) -> list[Piece]:
        if self._again:
            return self._again.pop()
        return list(islice(self._pieces, self._size))

    def _save(self, done: Done, groups: int, growth: float = 4.0) -> None:
        parts.save(self._store.folder / PARTS, done.content)
        self._failures = 0
        self._cells += done.cells
        wanted = groups * self._seconds / max(done.seconds, 1e-6)
        # The first task of a process also loads compiled code, so growth is gradual.
        most = min(growth * self._size, self._store.study.groups)
        self._size = int(np.clip(wanted, max(1, self._size // 2), most))
        self._report()

    def _rescue(self, flying: dict[Future[Done], list[Piece]]) -> None:
        """Save what is finished among the tasks in flight, before the failure is reported."""
        for future in flying:
            if not future.cancel() and future.done() and future.exception() is None:
                try:
                    parts.save(self._store.folder / PARTS, future.result().content)
                except OSError:
                    return

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._cells, self._total)
