"""Reading with several processes: in order, with bounded memory; a hanging or crashing parser costs one file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from atomfoundry.harvest.formats import RunFiles
from atomfoundry.harvest.judge import FileOutcome, HarvestOptions, read_run, rejection, repeated

_AHEAD = 4
"""Runs a worker that are read ahead of the slowest."""

_BYTES_A_SECOND = 100_000
"""A big file may take longer than ``timeout``: so many bytes are allowed a further second."""


@dataclass
class _Task:
    run: RunFiles
    outcomes: list[FileOutcome] = field(default_factory=list)
    done: bool = False

    @property
    def rest(self) -> RunFiles:
        """The files that have no outcome yet."""
        return RunFiles(self.run.key, self.run.files[len(self.outcomes) :], self.run.size)


_STARTUP = 300.0
"""Seconds a worker may take to load its libraries."""


class _Worker:
    """A process of its own program, not a fork of ours: it shares no threads, locks or open files with us."""

    def __init__(self, options: HarvestOptions) -> None:
        self.link, theirs = Pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "atomfoundry.harvest.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        self.link.send(options)
        self.task: _Task | None = None
        self.deadline = 0.0
        self._allowed = 0.0
        self._ready = False

    def give(self, task: _Task, timeout: float) -> None:
        self.task = task
        self._allowed = timeout + task.run.size / _BYTES_A_SECOND
        self.deadline = time.monotonic() + self._allowed + (0.0 if self._ready else _STARTUP)
        self.link.send(task.rest)

    def start_clock(self) -> None:
        """Count the time from here: the program has been loaded."""
        self._ready = True
        self.deadline = time.monotonic() + self._allowed

    def stop(self) -> None:
        self.link.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def read_runs(
    runs: Iterable[RunFiles], options: HarvestOptions, *, processes: int = 0, timeout: float = 300.0
) -> Iterator[list[FileOutcome]]:
    """Read runs and yield their outcomes in the order of the runs.

    Parameters
    ----------
    runs
        Taken one by one, a few ahead of what is being read.
    options
        What counts as good.
    processes
        Worker processes; 0 reads in this process, where nothing protects from a parser that hangs.
    timeout
        Seconds a file may take (and more for big files) before its worker is killed.

    Yields
    ------
    list of FileOutcome
        One per file of the run. Reasons here: ``timeout``, ``crashed_reader``.
    """
    if processes < 1:
        for run in runs:
            yield read_run(run, options)
        return
    waiting = iter(runs)
    queue: deque[_Task] = deque()
    again: list[_Task] = []
    workers: list[_Worker] = []
    try:
        exhausted = False
        while True:
            while not exhausted and len(queue) < _AHEAD * processes:
                following = next(waiting, None)
                if following is None:
                    exhausted = True
                    break
                task = _Task(following)
                queue.append(task)
                again.append(task)
            while again and len(workers) < processes and all(worker.task for worker in workers):
                workers.append(_Worker(options))
                workers[-1].give(again.pop(0), timeout)
            for worker in workers:
                if worker.task is None and again:
                    worker.give(again.pop(0), timeout)
            while queue and queue[0].done:
                yield queue.popleft().outcomes
            if exhausted and not queue:
                return
            if queue and queue[0].done:
                continue
            _collect(workers, again, options)
    finally:
        for worker in workers:
            worker.stop()


def _collect(workers: list[_Worker], again: list[_Task], options: HarvestOptions) -> None:
    """Wait for results; replace workers that died or took too long."""
    busy = [worker for worker in workers if worker.task is not None]
    soonest = min((worker.deadline for worker in busy), default=time.monotonic())
    ready = wait([worker.link for worker in busy], timeout=max(0.0, soonest - time.monotonic()))
    for worker in busy:
        if worker.link in ready:
            try:
                outcome = worker.link.recv()
            except (EOFError, OSError):
                code = worker.process.wait()
                _lost(worker, workers, again, options, "crashed_reader", f"the reader died (exit code {code})")
                continue
            _take(worker, outcome)
        elif time.monotonic() >= worker.deadline:
            _lost(worker, workers, again, options, "timeout", "reading took too long; the reader was killed")


def _take(worker: _Worker, outcome: FileOutcome | str | None) -> None:
    task = worker.task
    if task is None:
        return
    if isinstance(outcome, str):
        worker.start_clock()
        return
    if outcome is None:
        task.done, worker.task = True, None
    else:
        task.outcomes.append(outcome)


def _lost(
    worker: _Worker, workers: list[_Worker], again: list[_Task], options: HarvestOptions, reason: str, message: str
) -> None:
    task = worker.task
    worker.stop()
    workers.remove(worker)
    if task is None:
        return
    if task.rest.files:
        name = task.rest.files[0][1]
        task.outcomes.append(FileOutcome(name, rejections=[rejection(name, reason, message)]))
    if task.rest.files:
        again.insert(0, task)
    else:
        task.done = True


def _load_vesin() -> None:
    """Import vesin without torch, which it would load for two seconds and 300 MB that no reader needs."""
    if "torch" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import_module("vesin")
    finally:
        del sys.modules["torch"]


def serve(link: Connection) -> None:
    """Read what comes over the link until it closes: the worker's side."""
    _load_vesin()
    # Their loading must not count as reading.
    import ase.io.trajectory
    import ase.io.vasp_parsers.vasp_outcar_parsers  # noqa: F401

    from atomfoundry.harvest.frames import parse_frames  # noqa: F401
    from atomfoundry.harvest.judge import read_file

    options: HarvestOptions = link.recv()
    link.send("ready")
    while True:
        try:
            run: RunFiles = link.recv()
        except EOFError:
            return
        good: str | None = None
        for path, name, kind in run.files:
            outcome = read_file(path, name, kind, run.key, options) if good is None else repeated(name, good)
            good = good or (name if outcome.frames else None)
            link.send(outcome)
        link.send(None)
